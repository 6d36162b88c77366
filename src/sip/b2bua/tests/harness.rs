//! A B2BUA with a clock of its own and the naive [model](super::model) beside it.

use super::invariants::has_codec;
use crate::media::{CallKey, Codec, Expected, Hearing, MediaCommand, MediaEvent};
use crate::model::{
    Activity, CallFact, CallId, Command, DeviceId, Fact, Failure, FeatureCodeDialled,
    FeatureCodeId, JoinSound, LegState, Mode, MonitorFact, Now, Number, Refusal, Scope, Timestamp,
    TransferStep, UserData,
};
use crate::sip::b2bua::{
    AccountKind, B2bua, B2buaConfig, CommandId, Environment, Extension, Numbering, NumberingChange,
    Output, Persist, RestoredCalls, TrunkRoute,
};
use crate::sip::config::{HandedOn, Nat};
use crate::sip::leg::{
    Destination, EndReason, Identity, LegCommand, LegEvent, LegId, LegSource, PassedHeader,
};
use crate::sip::sdp::SrtpPolicy;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

pub(super) const AGENT: &str = "agent";
pub(super) const OTHER: &str = "other";
pub(super) const SUPERVISOR: &str = "supervisor";
pub(super) const SUPERVISOR2: &str = "supervisor2";
pub(super) const CUSTOMER: &str = "customer";

pub(super) const DEVICES: [(&str, &str); 5] = [
    (AGENT, "5001"),
    (OTHER, "5002"),
    (SUPERVISOR, "5005"),
    (SUPERVISOR2, "5006"),
    (CUSTOMER, "7001"),
];

pub(super) struct Ports {
    random: u128,
    pub(super) free: usize,
    opened: Vec<(CallKey, LegId)>,
    pub(super) expected: Vec<Expected>,
}

impl Environment for Ports {
    fn open_port(&mut self, call: CallKey, leg: LegId, expected: Expected) -> Option<SocketAddr> {
        self.free = self.free.checked_sub(1)?;
        self.opened.push((call, leg));
        self.expected.push(expected);
        Some(SocketAddr::from(([127, 0, 0, 1], 20000 + 2 * (leg.0 as u16 % 20000))))
    }

    fn random(&mut self) -> u128 {
        self.random =
            self.random.wrapping_mul(0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645).wrapping_add(1);
        self.random
    }
}

/// What the model knows of a leg.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) leg: LegId,
    pub(super) call: Option<CallKey>,
    /// The device, or the number behind a trunk.
    pub(super) party: Result<DeviceId, Number>,
    pub(super) outgoing: bool,
    pub(super) answered: bool,
    pub(super) ended: bool,
    pub(super) closed: bool,
    /// A re-INVITE of ours waits.
    pub(super) offered: bool,
    /// Our 2xx carried the offer.
    pub(super) answer_due: bool,
    pub(super) auto_answer: bool,
    pub(super) last_sdp: Vec<u8>,
    /// Whose phone or switch it is with: the party that it began with.
    pub(super) peer: Result<DeviceId, Number>,
    /// What its peer has called its party last.
    pub(super) known_as: Option<String>,
    /// What its peer has called the devices that were at its end, by the model's reading of the
    /// rules.
    pub(super) learned: Vec<(Number, DeviceId)>,
}

pub(super) struct Harness {
    pub(super) b2bua: B2bua<Ports>,
    pub(super) now: Now,
    pub(super) lines: BTreeMap<LegId, Line>,
    pub(super) calls: BTreeMap<CallId, CallFact>,
    pub(super) monitors: BTreeMap<DeviceId, MonitorFact>,
    pub(super) kept: BTreeMap<DeviceId, MonitorFact>,
    pub(super) failures: Vec<Failure>,
    pub(super) sounds: Vec<JoinSound>,
    pub(super) dialled: Vec<FeatureCodeDialled>,
    pub(super) asked: Vec<(DeviceId, CallId)>,
    pub(super) hearing: BTreeMap<CallKey, Hearing>,
    pub(super) held: BTreeSet<(DeviceId, CallId)>,
    /// Outputs since the last look, in order.
    pub(super) log: Vec<Output>,
    /// Ports of legs that have not been invited yet, and may never be.
    pub(super) waiting: BTreeMap<LegId, CallKey>,
    next_leg: u64,
    next_command: u64,
    /// The trunks that it has begun with.
    pub(super) trunks: Vec<TrunkRoute>,
    /// Where the next INVITE comes from.
    located: Option<(IpAddr, bool)>,
    /// What the next INVITE says of its call.
    pub(super) said: UserData,
    /// Callers want to be known to the house alone.
    pub(super) is_private: bool,
    /// The next caller calls a sips URI.
    pub(super) calls_sips: bool,
    /// The devices behind a trunk.
    pub(super) behind: BTreeMap<DeviceId, String>,
}

impl Harness {
    pub(super) fn new() -> Self {
        Self::with(B2buaConfig::default(), RestoredCalls::default())
    }

    pub(super) fn with(config: B2buaConfig, kept: RestoredCalls) -> Self {
        Self::with_peers(config, kept, |_, _| {})
    }

    /// The devices and trunks have more or less to them: whether they are behind a NAT, and have
    /// ports of their own.
    pub(super) fn with_peers(
        config: B2buaConfig,
        kept: RestoredCalls,
        change: impl Fn(&mut Nat, &mut bool),
    ) -> Self {
        let mut extensions = DEVICES.map(|(device, number)| Extension {
            device: device.into(),
            number: number.into(),
            aliases: if device == OTHER { vec!["1002".into()] } else { Vec::new() },
            via: None,
            kind: if device == CUSTOMER { AccountKind::Customer } else { AccountKind::Internal },
            nat: Nat::Auto,
            own_ports: false,
            srtp: SrtpPolicy::Off,
        });
        let trunk = |name: &str, prefix: &str, codecs| TrunkRoute {
            name: name.into(),
            prefixes: vec![prefix.into()],
            codecs,
            max_calls: (name == "a-law").then_some(2),
            nat: Nat::Auto,
            hosts: Vec::new(),
            media_sources: Vec::new(),
            own_ports: false,
            srtp: match name {
                "secret" => SrtpPolicy::Required,
                "either" => SrtpPolicy::Optional,
                _ => SrtpPolicy::Off,
            },
            handed_on: if name == "mute" { HandedOn::Refuse } else { HandedOn::Told },
            signals_hold: name == "either",
            follows_referrals: name == "a-law",
        };
        let mut trunks = vec![
            trunk("city", "0", Vec::new()),
            trunk("a-law", "08", vec![Codec::Pcma]),
            trunk("secret", "0991", Vec::new()),
            trunk("either", "0992", Vec::new()),
            trunk("mute", "0993", Vec::new()),
        ];
        extensions
            .iter_mut()
            .for_each(|extension| change(&mut extension.nat, &mut extension.own_ports));
        trunks.iter_mut().for_each(|trunk| change(&mut trunk.nat, &mut trunk.own_ports));
        let ports = Ports { random: 7, free: 1_000_000, opened: Vec::new(), expected: Vec::new() };
        let mut harness = Self {
            b2bua: B2bua::new(config, Numbering::new(extensions, trunks.clone()), kept, ports),
            trunks,
            now: Now { mono: start(), wall: Timestamp(1_000_000) },
            lines: BTreeMap::new(),
            calls: BTreeMap::new(),
            monitors: BTreeMap::new(),
            kept: BTreeMap::new(),
            failures: Vec::new(),
            sounds: Vec::new(),
            dialled: Vec::new(),
            asked: Vec::new(),
            hearing: BTreeMap::new(),
            held: BTreeSet::new(),
            log: Vec::new(),
            waiting: BTreeMap::new(),
            next_leg: 2,
            next_command: 0,
            located: None,
            said: UserData::default(),
            is_private: false,
            calls_sips: false,
            behind: BTreeMap::new(),
        };
        harness.drain();
        for (device, _) in DEVICES {
            harness.leg(LegEvent::Registered { device: device.into(), registered: true });
        }
        harness.log.clear();
        harness
    }

    /// The agents, and the first of their supervisors, are behind the trunk "city".
    pub(super) fn behind(config: B2buaConfig, kept: RestoredCalls) -> Self {
        let mut harness = Self::with(config, kept);
        for device in [AGENT, OTHER, SUPERVISOR] {
            harness.move_behind(device, "city");
        }
        harness
    }

    /// The device is behind this trunk from now on.
    pub(super) fn move_behind(&mut self, device: &str, trunk: &str) {
        let before = self.b2bua.plan.device(&device.into()).expect("known").extension.clone();
        let extension = Extension { via: Some(trunk.into()), aliases: Vec::new(), ..before };
        let change = NumberingChange {
            put: vec![extension],
            trunks: self.trunks.clone(),
            ..NumberingChange::default()
        };
        self.b2bua.handle_directory(change, self.now);
        self.behind.insert(device.into(), trunk.to_owned());
        self.drain();
        self.log.clear();
    }

    // What happens.

    pub(super) fn leg(&mut self, event: LegEvent) {
        match &event {
            LegEvent::Refused { leg, .. }
            | LegEvent::Failed { leg, .. }
            | LegEvent::Redirected { leg, .. }
            | LegEvent::Ended { leg, .. } => self.line(*leg).ended = true,
            LegEvent::Answered { leg, .. } => self.line(*leg).answered = true,
            LegEvent::OfferAnswered { leg, .. } | LegEvent::OfferRefused { leg, .. } => {
                self.line(*leg).offered = false
            }
            LegEvent::Confirmed { leg, .. } => self.line(*leg).answer_due = false,
            _ => {}
        }
        self.b2bua.handle_leg(event, self.now);
        self.drain();
    }

    pub(super) fn command(&mut self, command: Command) -> Result<(), Refusal> {
        self.answer_code(None, command)
    }

    /// A command that is the answer to a feature code, if one is named.
    pub(super) fn answer_code(
        &mut self,
        code: Option<&FeatureCodeId>,
        command: Command,
    ) -> Result<(), Refusal> {
        self.next_command += 1;
        let id = CommandId(self.next_command);
        match code {
            Some(code) => self.b2bua.handle_answer(id, code, command.clone(), self.now),
            None => self.b2bua.handle_command(id, command.clone(), self.now),
        }
        if let Some(Output::Persist { id, change }) =
            self.b2bua.out.outputs.pop_back_if(|output| matches!(output, Output::Persist { .. }))
        {
            if let Persist::Monitor(monitor) = change {
                self.kept.insert(monitor.supervisor.clone(), monitor);
            }
            self.b2bua.handle_persisted(id, true, self.now);
        }
        let Some(Output::Reply { result: done, .. }) = self.b2bua.out.outputs.pop_back() else {
            panic!("a command without an answer: {command:?}");
        };
        if done.is_ok() {
            match &command {
                Command::Hold { device, call } => {
                    self.held.insert((device.clone(), call.clone()));
                }
                Command::Retrieve { device, call } => {
                    self.held.remove(&(device.clone(), call.clone()));
                }
                Command::SwapCalls { device, call, other } => {
                    // As it was told before: what is done with a call that is joined with another
                    // is forgotten here for all calls of the device.
                    let was_held = |call: &CallId| {
                        let told = self.calls.get(call).and_then(|call| call.party_of(device));
                        told.is_some_and(|party| party.state == LegState::Held)
                    };
                    let (from, to) = match was_held(call) {
                        true => (call, other),
                        false => (other, call),
                    };
                    assert!(was_held(from), "neither was held");
                    self.held.remove(&(device.clone(), from.clone()));
                    self.held.insert((device.clone(), to.clone()));
                }
                // A conference takes everybody back; what a phone holds by itself is silent by its
                // own direction.
                Command::Conference { device, step: TransferStep::Complete, .. } => {
                    self.held.retain(|(held, _)| held != device)
                }
                Command::Transfer { device, call, step }
                | Command::Conference { device, call, step }
                    if matches!(step, TransferStep::Initiate { .. }) =>
                {
                    let talked = self.calls.get(call).and_then(|call| call.party_of(device));
                    if talked.is_some_and(|party| party.state == LegState::Established) {
                        self.held.insert((device.clone(), call.clone()));
                    }
                }
                _ => {}
            }
        }
        self.drain();
        done
    }

    pub(super) fn media(&mut self, event: MediaEvent) {
        self.b2bua.handle_media(event, self.now);
        self.drain();
    }

    pub(super) fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        self.b2bua.handle_timeout(self.now);
        self.drain();
    }

    /// The next INVITE comes from this host.
    pub(super) fn locate_next(&mut self, host: IpAddr, is_translated: bool) {
        self.located = Some((host, is_translated));
    }

    pub(super) fn incoming(
        &mut self,
        source: LegSource,
        to: &str,
        offer: Option<Vec<u8>>,
    ) -> LegId {
        self.incoming_passing(source, to, offer, Vec::new(), None)
    }

    /// An INVITE with Replaces.
    pub(super) fn replaces(
        &mut self,
        source: LegSource,
        replaced: LegId,
        offer: Option<Vec<u8>>,
    ) -> LegId {
        if let LegSource::Account(device) = &source {
            self.held.retain(|(held, _)| held != device);
        }
        self.incoming_passing(source, "5001", offer, Vec::new(), Some(replaced))
    }

    pub(super) fn incoming_with(
        &mut self,
        source: LegSource,
        to: &str,
        passed: Vec<PassedHeader>,
    ) -> LegId {
        self.incoming_passing(source, to, Some(sdp(4000, "0 8 101", "sendrecv")), passed, None)
    }

    fn incoming_passing(
        &mut self,
        source: LegSource,
        to: &str,
        offer: Option<Vec<u8>>,
        passed: Vec<PassedHeader>,
        replaces: Option<LegId>,
    ) -> LegId {
        self.incoming_from(source, to, offer, passed, replaces, None, None)
    }

    /// An INVITE of a call of ours that has come back, and that says it comes from this number.
    pub(super) fn comes_back(
        &mut self,
        source: LegSource,
        number: &str,
        to: &str,
        returns: Option<LegId>,
    ) -> LegId {
        let offer = Some(sdp(4000, "0 8 101", "sendrecv"));
        self.incoming_from(source, to, offer, Vec::new(), None, Some(number.into()), returns)
    }

    #[expect(clippy::too_many_arguments, reason = "the event's fields")]
    fn incoming_from(
        &mut self,
        source: LegSource,
        to: &str,
        offer: Option<Vec<u8>>,
        passed: Vec<PassedHeader>,
        replaces: Option<LegId>,
        claimed: Option<Number>,
        returns: Option<LegId>,
    ) -> LegId {
        let leg = LegId(self.next_leg);
        self.next_leg += 2;
        let (party, number) = match &source {
            LegSource::Account(device) => {
                let number = DEVICES
                    .iter()
                    .find(|(name, _)| *name == device.as_str())
                    .map_or("?", |(_, number)| number);
                (Ok(device.clone()), Number::from(number))
            }
            LegSource::Trunk(_) => {
                let number =
                    claimed.clone().unwrap_or_else(|| Number::from(format!("0170{}", leg.0)));
                (Err(number.clone()), number)
            }
        };
        self.lines.insert(
            leg,
            Line {
                leg,
                call: None,
                peer: party.clone(),
                known_as: None,
                party,
                outgoing: false,
                answered: false,
                ended: false,
                closed: true,
                offered: false,
                answer_due: false,
                auto_answer: false,
                last_sdp: Vec::new(),
                learned: Vec::new(),
            },
        );
        let number = claimed.unwrap_or(number);
        let user_data = std::mem::take(&mut self.said);
        let is_secure = std::mem::take(&mut self.calls_sips);
        if let Some((host, is_translated)) = self.located.take() {
            self.leg(LegEvent::Located { leg, host, is_translated });
        }
        self.leg(LegEvent::Incoming {
            leg,
            call_id: format!("call-{}", leg.0),
            source,
            claimed: number.clone(),
            from: Identity { number, display: String::new(), is_private: self.is_private },
            to: to.into(),
            offer,
            max_forwards: 69,
            passed,
            user_data,
            replaces,
            returns,
            is_secure,
        });
        leg
    }

    pub(super) fn customer_calls(&mut self, to: &str) -> LegId {
        self.incoming(
            LegSource::Account(CUSTOMER.into()),
            to,
            Some(sdp(4000, "0 8 101", "sendrecv")),
        )
    }

    /// The phone answers in G.729 where that is what it is offered first.
    pub(super) fn answer(&mut self, leg: LegId) {
        let types = match codecs_of(&self.line(leg).last_sdp).first() {
            Some(Codec::G729) => "18 101",
            _ => "0 101",
        };
        self.leg(LegEvent::Answered { leg, media: sdp(5000, types, "sendrecv") });
    }

    /// The answer of a phone that has been let go of in the same step.
    pub(super) fn answer_late(&mut self, leg: LegId) {
        self.b2bua.handle_leg(
            LegEvent::Answered { leg, media: sdp(5000, "0 101", "sendrecv") },
            self.now,
        );
        self.drain();
    }

    pub(super) fn hangs_up(&mut self, leg: LegId) {
        self.leg(LegEvent::Ended { leg, reason: EndReason::Bye });
    }

    /// The customer calls the agent, who answers: their legs.
    pub(super) fn talk(&mut self) -> (LegId, LegId) {
        let customer = self.customer_calls("5001");
        let agent = self.ringing(AGENT);
        self.answer(agent);
        (customer, agent)
    }

    pub(super) fn monitor(
        &mut self,
        activity: Activity,
        mode: Mode,
        scope: Scope,
    ) -> Result<(), Refusal> {
        self.command(Command::StartMonitoring {
            supervisor: SUPERVISOR.into(),
            target: AGENT.into(),
            activity,
            mode,
            scope,
            confirm_joins: false,
            agent_side_only: false,
        })
    }

    pub(super) fn stop(&mut self) -> Result<(), Refusal> {
        self.command(Command::StopMonitoring { supervisor: SUPERVISOR.into() })
    }

    /// Coached: customer, agent, supervisor.
    pub(super) fn coached(&mut self, activity: Activity) -> (LegId, LegId, LegId) {
        self.coached_with(activity, Scope::Call)
    }

    pub(super) fn coached_with(
        &mut self,
        activity: Activity,
        scope: Scope,
    ) -> (LegId, LegId, LegId) {
        let (customer, agent) = self.talk();
        self.monitor(activity, Mode::AllCalls, scope).expect("accepted");
        let supervisor = self.ringing(SUPERVISOR);
        self.answer(supervisor);
        (customer, agent, supervisor)
    }

    // What there is to see.

    pub(super) fn only_call(&self) -> &CallFact {
        assert_eq!(self.calls.len(), 1, "{:?}", self.calls);
        self.calls.values().next().expect("one call")
    }

    pub(super) fn call_id(&self) -> CallId {
        self.only_call().id.clone()
    }

    /// The unanswered outgoing leg of a device.
    pub(super) fn ringing(&self, device: &str) -> LegId {
        self.find_ringing(device)
            .unwrap_or_else(|| panic!("{device} does not ring: {:#?}", self.log))
    }

    pub(super) fn find_ringing(&self, device: &str) -> Option<LegId> {
        self.lines
            .values()
            .find(|line| {
                line.outgoing && !line.answered && !line.ended && line.party == Ok(device.into())
            })
            .map(|line| line.leg)
    }

    pub(super) fn hears(&self, listener: LegId, speaker: LegId) -> bool {
        let Some(call) = self.lines[&listener].call else {
            return false;
        };
        self.hearing.get(&call).is_some_and(|hearing| hearing.gain(listener, speaker).is_some())
    }

    /// The hearing table, as letters: `"ca ac"`: c hears a, a hears c.
    pub(super) fn table(&self, legs: &[(&str, LegId)]) -> String {
        let mut cells = Vec::new();
        for (listener, listening) in legs {
            for (speaker, speaking) in legs {
                if self.hears(*listening, *speaking) {
                    cells.push(format!("{listener}{speaker}"));
                }
            }
        }
        cells.join(" ")
    }

    pub(super) fn state_of(&self, device: &str) -> LegState {
        let call = self.only_call();
        call.parties
            .iter()
            .rfind(|party| party.device == Some(device.into()))
            .unwrap_or_else(|| panic!("{device} is not on the call"))
            .state
    }

    /// The statuses that the party of this leg was told of its REFER.
    pub(super) fn told_referrer(&mut self, leg: LegId) -> Vec<u16> {
        let commands = self.leg_commands().into_iter();
        let told = commands.filter_map(|command| match command {
            LegCommand::TellReferrer { leg: to, status } if to == leg => Some(status),
            _ => None,
        });
        told.collect()
    }

    pub(super) fn leg_commands(&mut self) -> Vec<LegCommand> {
        let log = std::mem::take(&mut self.log);
        log.into_iter()
            .filter_map(|output| match output {
                Output::Leg(command) => Some(command),
                _ => None,
            })
            .collect()
    }

    /// Nothing is left: no call, leg, port or timer.
    pub(super) fn assert_empty(&mut self) {
        assert!(self.b2bua.is_idle());
        assert!(self.calls.is_empty(), "{:?}", self.calls);
        for line in self.lines.values() {
            assert!(line.ended, "leg not ended: {line:?}");
            assert!(line.closed, "port not closed: {line:?}");
        }
        assert!(self.b2bua.calls.has_no_index());
        assert!(
            self.b2bua.out.releases.is_empty()
                && self.b2bua.out.invitations.is_empty()
                && self.b2bua.out.changed.is_empty()
        );
        assert_eq!(self.b2bua.poll_timeout(), None);
    }

    // The model.

    pub(super) fn line(&mut self, leg: LegId) -> &mut Line {
        self.lines.get_mut(&leg).unwrap_or_else(|| panic!("{leg:?} is unknown"))
    }

    fn live_line(&mut self, leg: LegId) -> &mut Line {
        let line = self.line(leg);
        assert!(!line.ended, "a command to a leg that has ended: {line:?}");
        line
    }

    pub(super) fn drain(&mut self) {
        let mut invited = BTreeSet::new();
        let mut told = BTreeSet::new();
        while let Some(output) = self.b2bua.poll_output() {
            if let Output::Fact(Fact::Call(call)) = &output {
                assert!(told.insert(call.id.clone()), "told twice in one step: {call:#?}");
            }
            self.watch(&output);
            match &output {
                Output::Leg(LegCommand::Invite { leg, .. }) => {
                    invited.insert(self.lines[leg].party.clone());
                }
                Output::Leg(LegCommand::Hangup { leg, .. }) => {
                    let line = &self.lines[leg];
                    assert!(
                        !invited.contains(&line.party),
                        "invited to one call before he is let go of another: {line:?}"
                    );
                }
                _ => {}
            }
            self.log.push(output);
        }
        self.note_opened();
        assert!(self.waiting.is_empty(), "neither invited nor closed: {:?}", self.waiting);
        for line in self.lines.values() {
            assert!(!line.ended || line.closed, "a port outlives its leg: {line:?}");
        }
        self.hold_supervisors_against_monitors();
        self.count_legs_of_trunks();
        self.compare_codecs();
    }

    fn note_opened(&mut self) {
        for (call, leg) in self.b2bua.environment.opened.drain(..) {
            assert!(self.waiting.insert(leg, call).is_none(), "opened twice");
        }
        let lines = &mut self.lines;
        self.waiting.retain(|leg, call| {
            let Some(line) = lines.get_mut(leg) else {
                return true;
            };
            assert!(line.call.is_none(), "opened twice");
            line.call = Some(*call);
            line.closed = false;
            false
        });
    }

    fn watch(&mut self, output: &Output) {
        match output {
            Output::Leg(command) => self.watch_leg(command),
            Output::Media(command) => {
                self.note_opened();
                self.watch_media(command);
            }
            Output::Fact(fact) => self.watch_fact(fact),
            Output::Keep(Persist::Monitor(monitor)) => {
                self.kept.insert(monitor.supervisor.clone(), monitor.clone());
            }
            Output::Keep(Persist::NoMonitor { supervisor }) => {
                self.kept.remove(supervisor).expect("was kept");
            }
            Output::Persist { .. } | Output::Reply { .. } => {
                panic!("outside a command: {output:?}")
            }
            Output::Keep(Persist::Device(_))
            | Output::Unusable { .. }
            | Output::Denied { .. }
            | Output::CodeRefused { .. }
            | Output::Relayed { .. }
            | Output::Remark(_) => {}
        }
    }

    fn watch_leg(&mut self, command: &LegCommand) {
        has_codec(command);
        match command {
            LegCommand::Invite { leg, to, offer, auto_answer, .. } => {
                assert_eq!(leg.0 % 2, 1);
                let party = match to {
                    Destination::Device(device) => Ok(device.clone()),
                    Destination::Trunk { number, .. } => Err(number.clone()),
                };
                let line = Line {
                    leg: *leg,
                    call: None,
                    peer: party.clone(),
                    known_as: None,
                    party,
                    outgoing: true,
                    answered: false,
                    ended: false,
                    closed: true,
                    offered: false,
                    answer_due: false,
                    auto_answer: *auto_answer,
                    last_sdp: offer.clone(),
                    learned: Vec::new(),
                };
                assert!(self.lines.insert(*leg, line).is_none(), "a leg twice");
                self.note_opened();
            }
            LegCommand::Provisional { leg, media, .. } => {
                let line = self.live_line(*leg);
                assert!(!line.outgoing && !line.answered);
                if let Some(media) = media {
                    line.last_sdp = media.clone();
                }
            }
            LegCommand::Accept { leg, media } => {
                let line = self.live_line(*leg);
                assert!(!line.outgoing && !line.answered);
                line.answered = true;
                line.last_sdp = media.clone();
            }
            LegCommand::Reject { leg, .. } | LegCommand::Refuse { leg, .. } => {
                let line = self.live_line(*leg);
                assert!(!line.outgoing && !line.answered);
                line.ended = true;
            }
            LegCommand::Offer { leg, media } => {
                let line = self.live_line(*leg);
                assert!(line.answered && !line.offered);
                line.offered = true;
                line.last_sdp = media.clone();
            }
            LegCommand::AnswerOffer { leg, media } => {
                let line = self.live_line(*leg);
                assert!(line.answered);
                line.last_sdp = media.clone();
            }
            LegCommand::RejectOffer { leg, .. } => {
                self.live_line(*leg);
            }
            LegCommand::RefuseOffer { leg, .. } => {
                let line = self.live_line(*leg);
                line.ended |= !line.answered;
            }
            LegCommand::Identify { leg, party } => {
                assert!(!party.is_withheld() && !party.number.as_str().is_empty());
                self.live_line(*leg);
            }
            LegCommand::AskToAnswer { leg } => {
                let line = self.live_line(*leg);
                assert!(line.outgoing && !line.answered);
            }
            LegCommand::TellReferrer { leg, .. } => {
                assert!(self.live_line(*leg).answered);
            }
            LegCommand::Hangup { leg, .. } => {
                self.live_line(*leg).ended = true;
            }
        }
    }

    fn watch_media(&mut self, command: &MediaCommand) {
        match command {
            MediaCommand::Describe { leg, .. } | MediaCommand::Sources { leg, .. } => {
                assert!(!self.line(*leg).closed)
            }
            MediaCommand::Hear { call, hearing } => {
                self.hold_against_table(*call, hearing);
                self.hearing.insert(*call, hearing.clone());
            }
            MediaCommand::Close { leg } if self.waiting.remove(leg).is_some() => {}
            MediaCommand::Close { leg } => {
                let line = self.line(*leg);
                assert!(!line.closed, "closed twice: {line:?}");
                line.closed = true;
            }
            MediaCommand::Move { leg, call } if self.waiting.contains_key(leg) => {
                self.waiting.insert(*leg, *call);
            }
            MediaCommand::Move { leg, call } => {
                let line = self.line(*leg);
                assert!(!line.closed && !line.ended && line.call != Some(*call), "{line:?}");
                line.call = Some(*call);
                for hearing in self.hearing.values_mut() {
                    *hearing = without(hearing, *leg);
                }
            }
            MediaCommand::SendDigits { leg, .. } => {
                let line = self.line(*leg).clone();
                assert!(!line.closed && line.answered);
            }
            MediaCommand::Music { leg, .. } => {
                assert!(!self.line(*leg).closed);
            }
            MediaCommand::Beep { leg } => {
                let line = self.line(*leg).clone();
                assert!(!line.closed && line.party.is_ok());
            }
        }
    }

    fn watch_fact(&mut self, fact: &Fact) {
        match fact {
            Fact::Call(call) => {
                assert_eq!(call.conn_id.len(), 16);
                let holds = |device: &DeviceId| {
                    call.party_of(device).is_some_and(|party| party.state == LegState::Held)
                };
                self.held.retain(|(device, held)| *held != call.id || holds(device));
                if call.is_over() {
                    self.calls.remove(&call.id);
                    self.held.retain(|(_, held)| *held != call.id);
                } else {
                    self.calls.insert(call.id.clone(), call.clone());
                }
            }
            Fact::Monitor(monitor) => {
                self.monitors.insert(monitor.supervisor.clone(), monitor.clone());
                if let Some(kept) = self.kept.get(&monitor.supervisor) {
                    assert_eq!((&kept.target, kept.mode), (&monitor.target, monitor.mode));
                }
            }
            Fact::MonitorGone { supervisor } => {
                self.monitors.remove(supervisor).expect("was there");
            }
            Fact::AdmissionAsked(asked) => {
                self.asked.push((asked.supervisor.clone(), asked.call.clone()))
            }
            Fact::Failed(failure) => self.failures.push(failure.clone()),
            Fact::JoinSound(sound) => self.sounds.push(sound.clone()),
            Fact::FeatureCodeDialled(dialled) => self.dialled.push(dialled.clone()),
            Fact::Device(_) | Fact::DeviceGone { .. } => {}
            Fact::SnapshotBegin | Fact::SnapshotComplete | Fact::CallLost { .. } | Fact::Lost => {
                panic!("not ours: {fact:?}")
            }
        }
    }
}

/// The same hearing with a leg gone.
fn without(hearing: &Hearing, gone: LegId) -> Hearing {
    let mut rest = hearing.clone();
    for leg in hearing.legs() {
        rest = rest.cell(leg, gone, None).cell(gone, leg, None);
    }
    rest
}

pub(super) fn sdp(port: u16, types: &str, direction: &str) -> Vec<u8> {
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP {types}\r\na=rtpmap:101 telephone-event/8000\r\na={direction}\r\n"
    )
    .into_bytes()
}

pub(super) fn codecs_of(sdp: &[u8]) -> Vec<Codec> {
    let text = String::from_utf8_lossy(sdp);
    let line = text.lines().find(|line| line.starts_with("m=audio ")).expect("an audio line");
    line.split(' ')
        .skip(3)
        .filter_map(|payload| match payload {
            "0" => Some(Codec::Pcmu),
            "8" => Some(Codec::Pcma),
            "18" => Some(Codec::G729),
            _ => None,
        })
        .collect()
}

#[expect(
    clippy::disallowed_methods,
    reason = "a test has to begin somewhere; time then passes by hand"
)]
fn start() -> Instant {
    Instant::now()
}
