//! Feature codes: a supervisor dials what a client would ask for.
//!
//! ```text
//!          FeatureCodeDialled       the answer of a gateway          Invite of supervision
//!  dialled ──────────────────▶ asked ───────────────▶ accepted ─────────────────────▶ a party
//!                                │ refused, late          │ armed, stopped, switched
//!                                ▼                        ▼
//!                            a refusal              200, a tone, BYE
//! ```
//!
//! Nothing is decided here: a gateway asks for it on behalf of the device's user, as it would for a
//! client. Until supervision wants the supervisor in, the leg has ports and no call; then it moves
//! into the call and is answered.

mod dial_plan;

pub use dial_plan::FeatureCodeConfig;

use super::codec_selection::codecs_of;
use super::inbound::IncomingCall;
use super::party::{LegStage, MonitorLink, Party, PartyStart, Release};
use super::rejection::Rejection;
use super::routing::{CallingParty, Unroutable};
use super::step::Ctx;
use super::{B2bua, CommandId, Environment, Output};
use crate::media::call::MAX_LEGS;
use crate::media::{Codec, MediaCommand};
use crate::model::{
    Activity, CallId, Command, DeviceId, Fact, FeatureCode, FeatureCodeDialled, FeatureCodeId,
    MonitorState, Now, Number, PartyRole, Reason, Refusal,
};
use crate::rate_limit::KeyedLimiter;
use crate::sip::leg::{LegCommand, LegId};
use crate::sip::sdp::SdpError;
use crate::supervision::LegOutcome;
use dial_plan::DialledCode;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a phone waits for what comes of its code: longer than a gateway waits for its audit and
/// its backend.
const DECISION: Duration = Duration::from_secs(10);

/// How long a call lasts that only says that it is done: the tone, and a little more.
const CONFIRMATION: Duration = Duration::from_secs(1);

/// So many codes at once, and then one each, may be dialled at a device.
const AT_ONCE: u32 = 10;
const EACH: Duration = Duration::from_secs(1);

/// Devices that come together before those without any are looked for.
const SWEEP: usize = 1_000;

/// The feature codes that are being answered: one call and one key of each device.
pub(super) struct FeatureCodes {
    calls: BTreeMap<DeviceId, CodeCall>,
    keys: BTreeMap<DeviceId, PressedKey>,
    /// Each call to a code has ports, which rest after it.
    pace: KeyedLimiter<DeviceId>,
    /// What the log is told of refused keys, by device.
    told: KeyedLimiter<DeviceId>,
}

impl Default for FeatureCodes {
    fn default() -> Self {
        let (pace, told) = (KeyedLimiter::new(SWEEP), KeyedLimiter::new(SWEEP));
        Self { calls: BTreeMap::new(), keys: BTreeMap::new(), pace, told }
    }
}

/// A call to a feature code.
struct CodeCall {
    id: FeatureCodeId,
    /// What was dialled, without the number.
    code: String,
    is_stop: bool,
    party: Party,
    stage: CodeStage,
    deadline: Instant,
}

/// How far a call to a feature code is.
enum CodeStage {
    /// No gateway has answered.
    Asked,
    /// A gateway has asked for it, and that is not done yet.
    Answering,
    /// It is done, and the supervisor may be wanted in. `failure`: why that has come to nothing.
    Accepted { failure: Option<Refusal> },
    /// It is answered, and ends soon.
    Confirmed,
}

/// A key that no gateway has answered yet.
struct PressedKey {
    id: FeatureCodeId,
    activity: Activity,
    /// What was pressed since.
    next: Option<Activity>,
    deadline: Instant,
}

impl FeatureCodes {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let calls = self.calls.values().map(|call| call.deadline);
        calls.chain(self.keys.values().map(|key| key.deadline)).min()
    }

    #[cfg(test)]
    pub(super) fn parties(&self) -> impl Iterator<Item = &Party> {
        self.calls.values().map(|call| &call.party)
    }

    /// No phone waits.
    pub(super) fn is_idle(&self) -> bool {
        self.calls.is_empty()
    }

    /// A gateway answers a code by this command.
    fn begin_answer(&mut self, code: &FeatureCodeId, command: &Command) -> Result<(), Refusal> {
        let (device, is_stop) = match command {
            Command::StartMonitoring { supervisor, .. } => (supervisor, false),
            Command::StopMonitoring { supervisor } => (supervisor, true),
            Command::SwitchMonitoring { supervisor, .. } => {
                let waits = self.keys.get(supervisor).is_some_and(|key| key.id == *code);
                return waits.then_some(()).ok_or_else(no_longer);
            }
            _ => return Err(no_longer()),
        };
        let call = self.calls.get_mut(device);
        let call = call.filter(|call| call.id == *code && call.is_stop == is_stop);
        let call = call.ok_or_else(no_longer)?;
        match call.stage {
            CodeStage::Asked | CodeStage::Answering => call.stage = CodeStage::Answering,
            CodeStage::Accepted { .. } | CodeStage::Confirmed => return Err(no_longer()),
        }
        Ok(())
    }

    /// What the device has asked for, if a gateway has answered it, is done.
    pub(super) fn accept(&mut self, device: &DeviceId, is_stop: bool) {
        if let Some(call) = self.calls.get_mut(device).filter(|call| call.is_stop == is_stop)
            && matches!(call.stage, CodeStage::Answering)
        {
            call.stage = CodeStage::Accepted { failure: None };
        }
    }

    /// What was accepted has come to nothing.
    pub(super) fn note_failure(&mut self, device: &DeviceId, refusal: &Refusal) {
        if let Some(call) = self.calls.get_mut(device)
            && let CodeStage::Accepted { failure } = &mut call.stage
        {
            *failure = Some(refusal.clone());
        }
    }

    /// The call by which a supervisor waits to be brought in.
    fn take_accepted(&mut self, device: &DeviceId) -> Option<CodeCall> {
        let waits =
            |call: &&CodeCall| !call.is_stop && matches!(call.stage, CodeStage::Accepted { .. });
        self.calls.get(device).filter(waits)?;
        self.calls.remove(device)
    }

    fn device_of(&self, leg: LegId) -> Option<DeviceId> {
        let found = self.calls.iter().find(|(_, call)| call.party.leg == leg);
        found.map(|(device, _)| device.clone())
    }
}

impl<E: Environment> B2bua<E> {
    /// Takes the command by which a gateway answers a feature code; replied to as by
    /// [`B2bua::handle_command`].
    pub fn handle_answer(
        &mut self,
        id: CommandId,
        code: &FeatureCodeId,
        command: Command,
        now: Now,
    ) {
        if let Err(refusal) = self.codes.begin_answer(code, &command) {
            return self.out.push(Output::Reply { id, result: Err(refusal) });
        }
        match &command {
            Command::SwitchMonitoring { supervisor, .. } => {
                let supervisor = supervisor.clone();
                let result = self.execute(&command, now);
                if let Err(refusal) = &result {
                    self.note_key_refused(&supervisor, refusal, now);
                }
                self.end_key(&supervisor, now);
                self.finish_step(now);
                self.out.push(Output::Reply { id, result });
            }
            _ => self.handle_command(id, command, now),
        }
    }

    /// No gateway is there to hear of a code.
    pub fn handle_unheard(&mut self, code: &FeatureCodeId, now: Now) {
        self.drop_keys(|key| key.id == *code, now);
        let found = self.codes.calls.iter().find(|(_, call)| call.id == *code);
        if let Some(device) = found.map(|(device, _)| device.clone()) {
            self.refuse_code_of(&device, &nobody_decides());
            self.finish_step(now);
        }
    }

    /// An INVITE for a feature code: a gateway is told.
    pub(super) fn dial_code(
        &mut self,
        incoming: IncomingCall,
        caller: CallingParty,
        device: DeviceId,
        now: Now,
    ) -> Result<(), Rejection> {
        let asked = self.config.feature_codes.read(incoming.to.as_str());
        let (mode, scope) = (self.config.feature_codes.mode, self.config.feature_codes.scope);
        let code = match asked.ok_or(Unroutable::NoSuchNumber)? {
            DialledCode::Start(activity, number) => {
                FeatureCode::Start { number, activity, mode, scope }
            }
            DialledCode::Stop => FeatureCode::Stop,
            DialledCode::Incomplete => {
                let refusal = Refusal::missing("number");
                let code = incoming.to.as_str().to_owned();
                self.out.push(Output::CodeRefused { device, code, refusal });
                return Err(Rejection::Incomplete);
            }
        };
        match self.codes.calls.get(&device).map(|call| &call.stage) {
            Some(CodeStage::Confirmed) => self.end_code_of(&device, Release::Hangup(None)),
            Some(_) => return Err(Unroutable::Busy.into()),
            None => {}
        }
        let pace = self.codes.pace.bucket(device.clone(), now.mono);
        if pace.try_take(AT_ONCE, EACH, now.mono).is_err() {
            return Err(Unroutable::Busy.into());
        }
        let key = self.legs.next_call();
        let offer = self.read_arriving(&incoming, &caller.policy, key)?;
        // What it is to hear is made here.
        let may_hear = |codecs: &[Codec]| codecs.iter().any(|codec| codec.is_mixable());
        match &offer {
            Some(offer) if !may_hear(&codecs_of(offer)) => {
                return Err(offer.fault(SdpError::Codec).into());
            }
            None if !may_hear(&caller.policy.codecs) => return Err(Rejection::NoCommonCodec),
            Some(_) | None => {}
        }
        let start = PartyStart {
            leg: incoming.leg,
            peer: incoming.source,
            number: self.plan.shown(&device),
            role: PartyRole::Supervisor,
            policy: caller.policy,
            stage: LegStage::Calling { offer: offer.map(Box::new), early: None },
        };
        let mut ctx = self.ctx(now);
        // The ports of a leg are those of a call: it has one of its own until it is brought in.
        let (key, ..) = ctx.legs.new_call(ctx.environment);
        let party = ctx.open(key, start).ok_or(Rejection::NoPort)?;
        let from = party.place.map(|place| place.host);
        let call = CodeCall {
            id: self.new_code(),
            code: self.config.feature_codes.dialled_for(&code),
            is_stop: code == FeatureCode::Stop,
            party,
            stage: CodeStage::Asked,
            deadline: now.mono + DECISION,
        };
        let id = call.id.clone();
        self.out.fact(Fact::FeatureCodeDialled(FeatureCodeDialled {
            id,
            device: device.clone(),
            code,
            from,
        }));
        self.codes.calls.insert(device, call);
        Ok(())
    }

    fn new_code(&mut self) -> FeatureCodeId {
        FeatureCodeId::from(format!("code-{:032x}", self.environment.random()))
    }

    /// Supervision wants a supervisor in that has dialled a code, and waits: the leg is a party of
    /// the call from now on, and answered. It hears the call from its ACK on: an INVITE can come in
    /// the name of a switch from anywhere, and what we answer reaches the switch alone. False: it could not be brought in. The link comes back
    /// where no phone of this device waits: it is to be called.
    pub(super) fn bring_in(
        &mut self,
        supervisor: &DeviceId,
        link: MonitorLink,
        id: &CallId,
        now: Now,
    ) -> Result<bool, MonitorLink> {
        let Some(waiting) = self.codes.take_accepted(supervisor) else {
            return Err(link);
        };
        let found = self.find_named(id, now).ok();
        let Some((call, mut ctx)) = found.filter(|(call, _)| call.parties.live() < MAX_LEGS) else {
            let refusal = Refusal::new(Reason::Unavailable, "The call takes no further party.");
            self.refuse_call(supervisor, waiting, &refusal);
            return Ok(false);
        };
        let mut party = waiting.party;
        ctx.out.media(MediaCommand::Move { leg: party.leg, call: call.key });
        ctx.index.move_to(party.leg, call.key);
        party.link = Some(link);
        party.accept_call(call.parties.codec(), ctx.now, ctx.out);
        call.add(party, &mut ctx);
        Ok(true)
    }

    /// What has become of the codes that were accepted. True: something was done about one.
    pub(super) fn settle_codes(&mut self, now: Now) -> bool {
        let mut settled = Vec::new();
        for (device, call) in &self.codes.calls {
            let CodeStage::Accepted { failure } = &call.stage else { continue };
            let state = self.supervision.monitor(device).map(|monitor| monitor.state);
            let outcome = match (call.is_stop, state) {
                (true, _) | (false, Some(MonitorState::Joined { .. })) => Ok(()),
                (false, Some(MonitorState::Admitting { .. } | MonitorState::Inviting { .. })) => {
                    continue;
                }
                (false, Some(MonitorState::Armed)) => failure.clone().map_or(Ok(()), Err),
                (false, None) => Err(failure.clone().unwrap_or_else(|| {
                    Refusal::new(Reason::InvalidState, "The monitor has ended.")
                })),
            };
            settled.push((device.clone(), outcome));
        }
        for (device, outcome) in &settled {
            match outcome {
                Ok(()) => self.confirm(device, now),
                Err(refusal) => {
                    self.refuse_code_of(device, refusal);
                    self.stop_unless_joined(device, now);
                }
            }
        }
        !settled.is_empty()
    }

    /// It is done: the phone is answered, hears a tone and is released.
    fn confirm(&mut self, device: &DeviceId, now: Now) {
        if let Some(call) = self.codes.calls.get_mut(device) {
            call.party.accept_call(None, now, &mut self.out);
            self.out.media(MediaCommand::Beep { leg: call.party.leg });
            call.stage = CodeStage::Confirmed;
            call.deadline = now.mono + CONFIRMATION;
        }
    }

    /// The peer of the leg of a code has named the party that dials it: a device is asked for what
    /// its own party dials.
    pub(super) fn code_connected(&mut self, leg: LegId, names: &[Number], now: Now) {
        let Some(device) = self.codes.device_of(leg) else { return };
        let Some(call) = self.codes.calls.get_mut(&device) else { return };
        if call.party.handle_connected(names, &self.plan).is_none() {
            return;
        }
        if matches!(call.stage, CodeStage::Confirmed) {
            return self.end_code_of(&device, Release::Hangup(None));
        }
        let text = "Another party dials at device '{}'.";
        self.refuse_code_of(&device, &Refusal::device(Reason::NotPermitted, &device, text));
        self.stop_unless_joined(&device, now);
    }

    /// A gateway refuses what a phone has asked for.
    pub(super) fn refuse_code(
        &mut self,
        device: &DeviceId,
        code: &FeatureCodeId,
        refusal: &Refusal,
        now: Now,
    ) -> Result<(), Refusal> {
        if self.codes.keys.get(device).is_some_and(|key| key.id == *code) {
            self.note_key_refused(device, refusal, now);
            self.end_key(device, now);
            return Ok(());
        }
        let call = self.codes.calls.get(device).filter(|call| call.id == *code);
        match call.ok_or_else(no_longer)?.stage {
            CodeStage::Asked | CodeStage::Answering => {
                self.refuse_code_of(device, refusal);
                Ok(())
            }
            CodeStage::Accepted { .. } | CodeStage::Confirmed => Err(no_longer()),
        }
    }

    fn refuse_code_of(&mut self, device: &DeviceId, refusal: &Refusal) {
        if let Some(call) = self.codes.calls.remove(device) {
            self.refuse_call(device, call, refusal);
        }
    }

    fn refuse_call(&mut self, device: &DeviceId, call: CodeCall, refusal: &Refusal) {
        let CodeCall { code, mut party, .. } = call;
        self.out.push(Output::CodeRefused {
            device: device.clone(),
            code,
            refusal: refusal.clone(),
        });
        let (leg, status, text) = (party.leg, status_of(refusal.reason), refusal.to_string());
        self.out.leg(LegCommand::Refuse { leg, status, text });
        party.end(Release::Gone, &mut self.out);
        self.calls.legs.forget(leg, &party.peer);
    }

    fn end_code_of(&mut self, device: &DeviceId, release: Release) {
        if let Some(CodeCall { mut party, .. }) = self.codes.calls.remove(device) {
            party.end(release, &mut self.out);
            self.calls.legs.forget(party.leg, &party.peer);
        }
    }

    /// The phone of a code has hung up. False: the leg is no code's.
    pub(super) fn code_hung_up(&mut self, leg: LegId, now: Now) -> bool {
        let Some(device) = self.codes.device_of(leg) else {
            return false;
        };
        let is_under_way = self.codes.calls.get(&device).is_some_and(|call| {
            matches!(call.stage, CodeStage::Answering | CodeStage::Accepted { .. })
        });
        self.end_code_of(&device, Release::Gone);
        if is_under_way {
            self.stop_unless_joined(&device, now);
        }
        true
    }

    /// What a code has begun does not go on without its phone. A supervisor that is on a call
    /// already, or called to one, stays there.
    fn stop_unless_joined(&mut self, device: &DeviceId, now: Now) {
        self.ahead.cancel_start(device, &mut self.out);
        match self.supervision.monitor(device).map(|monitor| monitor.state) {
            Some(MonitorState::Armed | MonitorState::Admitting { .. }) => {
                let command = Command::StopMonitoring { supervisor: device.clone() };
                // It was there a moment ago.
                let _ = self.supervision.handle_command(&command, now);
            }
            Some(MonitorState::Inviting { .. } | MonitorState::Joined { .. }) | None => {}
        }
    }

    /// Time has passed.
    pub(super) fn handle_codes_timeout(&mut self, now: Now) {
        let is_late = |call: &&CodeCall| call.deadline <= now.mono;
        let late = self.codes.calls.iter().filter(|(_, call)| is_late(call));
        let late: Vec<_> = late
            .map(|(device, call)| (device.clone(), matches!(call.stage, CodeStage::Confirmed)))
            .collect();
        for (device, is_done) in late {
            if is_done {
                self.end_code_of(&device, Release::Hangup(None));
            } else {
                self.refuse_code_of(&device, &nobody_decides());
                self.stop_unless_joined(&device, now);
            }
        }
        self.drop_keys(|key| key.deadline <= now.mono, now);
    }

    /// No code is answered any more.
    pub(super) fn end_codes(&mut self, rejection: &Rejection, of: impl Fn(&DeviceId) -> bool) {
        let devices: Vec<_> =
            self.codes.calls.keys().filter(|device| of(device)).cloned().collect();
        for device in devices {
            let is_done = self
                .codes
                .calls
                .get(&device)
                .is_some_and(|call| matches!(call.stage, CodeStage::Confirmed));
            let release = match is_done {
                true => Release::Hangup(None),
                false => Release::Reject(rejection.clone()),
            };
            self.end_code_of(&device, release);
        }
    }

    /// A supervisor has pressed a key: on a call, it may ask for another activity. A key that comes
    /// before the one before it is answered waits for that; of several, the last counts.
    pub(super) fn handle_key(&mut self, leg: LegId, digit: char, now: Now) {
        let Some(activity) = self.config.feature_codes.key(digit) else { return };
        let Some((call, party)) = self.calls.live(leg) else { return };
        let Some(device) = party.device.clone() else { return };
        let Some(link) = party.link.as_ref().filter(|link| link.joined) else { return };
        if let Some(pressed) = self.codes.keys.get_mut(&device) {
            pressed.next = Some(activity);
            return;
        }
        if link.activity == activity {
            return;
        }
        let from = party.place.map(|place| place.host);
        let code = FeatureCode::Switch { call: call.id.clone(), activity };
        let id = self.new_code();
        let deadline = now.mono + DECISION;
        let key = PressedKey { id: id.clone(), activity, next: None, deadline };
        self.codes.keys.insert(device.clone(), key);
        self.out.fact(Fact::FeatureCodeDialled(FeatureCodeDialled { id, device, code, from }));
    }

    /// The key that a device has pressed comes to nothing. Whoever goes on pressing it is told of
    /// as often as it might dial.
    fn note_key_refused(&mut self, device: &DeviceId, refusal: &Refusal, now: Now) {
        let Some(key) = self.codes.keys.get(device) else { return };
        let told = self.codes.told.bucket(device.clone(), now.mono);
        if told.try_take(AT_ONCE, EACH, now.mono).is_err() {
            return;
        }
        let code = self.config.feature_codes.key_for(key.activity);
        self.out.push(Output::CodeRefused {
            device: device.clone(),
            code: code.map(String::from).unwrap_or_default(),
            refusal: refusal.clone(),
        });
    }

    /// Nobody answers these keys.
    fn drop_keys(&mut self, is_dropped: impl Fn(&PressedKey) -> bool, now: Now) {
        let keys = self.codes.keys.iter().filter(|(_, key)| is_dropped(key));
        let devices: Vec<DeviceId> = keys.map(|(device, _)| device.clone()).collect();
        for device in devices {
            self.note_key_refused(&device, &nobody_decides(), now);
            self.codes.keys.remove(&device);
        }
    }

    /// A key is answered: the next one's turn.
    fn end_key(&mut self, device: &DeviceId, now: Now) {
        let Some(key) = self.codes.keys.remove(device) else { return };
        let Some(next) = key.next.filter(|next| *next != key.activity) else { return };
        let digit = self.config.feature_codes.key_for(next);
        let call = self.supervision.monitor(device).and_then(|monitor| match monitor.state {
            MonitorState::Joined { call, .. } => Some(call),
            MonitorState::Armed
            | MonitorState::Admitting { .. }
            | MonitorState::Inviting { .. } => None,
        });
        let leg = call.and_then(|call| {
            let call = self.calls.named(&call).ok()?;
            let mut live = call.parties.iter().filter(|party| !party.is_over());
            live.find(|party| party.device.as_ref() == Some(device)).map(|party| party.leg)
        });
        if let (Some(leg), Some(digit)) = (leg, digit) {
            self.handle_key(leg, digit, now);
        }
    }
}

impl Party {
    /// The phone has what we answered: a supervisor that waits for that is there.
    pub(super) fn confirm_monitoring(&self, call: &CallId, ctx: &mut Ctx<'_>) {
        let waits = self.is_talking() && self.link.as_ref().is_some_and(|link| !link.joined);
        if let Some(device) = self.device.as_ref().filter(|_| waits) {
            ctx.supervision.handle_leg(device, call, LegOutcome::Answered, ctx.now);
        }
    }
}

fn no_longer() -> Refusal {
    Refusal::new(Reason::InvalidState, "The feature code does not wait for an answer any more.")
}

fn nobody_decides() -> Refusal {
    Refusal::new(Reason::Unavailable, "No gateway answers.")
}

/// The status that a phone is told.
fn status_of(reason: Reason) -> u16 {
    match reason {
        Reason::MissingParameter => 484,
        Reason::InvalidInput | Reason::TooLarge | Reason::UnsupportedMediaType => 400,
        Reason::Forbidden | Reason::NotPermitted | Reason::NotAuthenticated => 403,
        Reason::NotFound => 404,
        Reason::InvalidState => 480,
        Reason::InUse => 486,
        Reason::Internal => 500,
        Reason::Unavailable | Reason::TooManyRequests => 503,
    }
}
