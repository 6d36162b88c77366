//! Calls: who is on them, what their phones are told, and who hears whom.
//!
//! ```text
//!             LegEvent              Command
//! user agent ─────────▶ B2BUA ◀─────── contract
//!            ◀───────── │ ▲  │   │ ───────▶  Facts, what to keep
//!             LegCommand│ │  │   └─ MediaCommand ▶ media engine
//!                       ▼ │  ▼
//!                    supervision: told of every change of a call, obeyed at once
//! ```
//!
//! A call is a set of parties with roles, not a pair. What its parties hear is worked out anew from the parties themselves after every step, and
//! the media engine is told once per step, in one piece: no step adds or removes a single cell.

mod call;
mod commands;
mod connected;
mod consultation;
mod legs;
mod monitoring;
mod numbering;
mod routing;
mod session;
#[cfg(test)]
mod tests;
mod transfer;
mod whereabouts;

pub use numbering::{AccountKind, Extension, Numbering, TrunkRoute};
pub use whereabouts::Remark;

use crate::media::{CallKey, Codec, Expected, Gain, MediaCommand, MediaEvent, Targets};
use crate::model::{
    Activity, CallId, Capabilities, DeviceFact, DeviceId, DeviceKind, Fact, Failure, Mode, MonitorFact, Now, Number, PartyRole, Quality,
    Reason, Refusal, Scope,
};
use crate::sip::config::Nat;
use crate::sip::leg::{Identity, LegCommand, LegId, LegSource};
use crate::sip::sdp::{Local, SdpFault, SrtpPolicy};
use crate::supervision::{self, Supervision};
use call::{Call, LegStage, Party, Rules};
use commands::PendingCommand;
pub use routing::Unroutable;
use routing::{CalledParty, CallingParty};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use whereabouts::{Aim, Reachability, Whereabouts};

/// How the B2BUA behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct B2buaConfig {
    /// The codecs we take part in, best first. A caller's own order counts for more.
    pub codecs: Vec<Codec>,
    /// Phones are told an IPv6 address for their sound, and one that has only the other family for its own is refused with 488.
    pub media_over_ipv6: bool,
    /// How long a phone may ring: 60 s, below the three minutes after which a proxy gives up (RFC 3261 16.6, timer C).
    pub ring_timeout: Duration,
    /// A device that is on a call rings for the next one; if false its caller gets 486.
    pub call_waiting: bool,
    /// More calls at once are refused with 503.
    pub max_calls: usize,
    /// A device that is on so many is called no more (486) and makes no more (503): 10, more than anybody can have in hand, and too few for
    /// one account to take the ports of a house.
    pub max_calls_per_device: usize,
    /// Whom a hold is told to: false, only the holder's phone knows, and a supervisor goes on hearing the held party.
    pub signal_hold: bool,
    /// A supervisor hears the customer while the agent has put him on hold.
    pub monitor_party_on_hold: bool,
    /// Several supervisors of one call hear each other.
    pub supervisors_hear_each_other: bool,
    /// Supervisors hear agents only, where listening to customers is unlawful.
    pub agent_side_only: bool,
    /// How loud a supervisor is for those he speaks to.
    pub whisper: Gain,
    /// How loud the customer is for an agent while a supervisor speaks to him.
    pub duck: Gain,
    /// An agent hears a short tone when somebody begins to monitor him.
    pub beep: bool,
    /// How long live calls may go on after a request to stop.
    pub grace: Duration,
    /// How a call's sound fares is told at most so often, when nothing else is to be told of the call: 10 s.
    pub quality_interval: Duration,
    /// What is ours, of which nobody may make a target.
    pub targets: Arc<Targets>,
    /// Who joins whom when.
    pub supervision: supervision::SupervisionConfig,
}

impl Default for B2buaConfig {
    fn default() -> Self {
        Self {
            codecs: vec![Codec::Pcmu, Codec::Pcma, Codec::G722, Codec::Opus],
            media_over_ipv6: false,
            ring_timeout: Duration::from_secs(60),
            call_waiting: true,
            max_calls: 2000,
            max_calls_per_device: 10,
            signal_hold: false,
            monitor_party_on_hold: true,
            supervisors_hear_each_other: false,
            agent_side_only: false,
            whisper: Gain::UNITY,
            duck: Gain::UNITY,
            beep: false,
            grace: Duration::from_secs(5),
            quality_interval: Duration::from_secs(10),
            targets: Arc::default(),
            supervision: supervision::SupervisionConfig::default(),
        }
    }
}

/// What the B2BUA needs from environment in the middle of a step.
pub trait Environment {
    /// Opens the ports of a leg: heard by nobody, hearing nobody. `None` when there is none left.
    fn open_port(&mut self, call: CallKey, leg: LegId, expected: Expected) -> Option<SocketAddr>;

    /// Random bits, for ids that cannot be guessed.
    fn random(&mut self) -> u128;
}

/// What has to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To the user agent.
    Leg(LegCommand),
    /// To the media engine.
    Media(MediaCommand),
    /// To whoever watches.
    Fact(Fact),
    /// To the store, ahead of the command that asks for it: its outcome comes back through [`B2bua::handle_persisted`].
    Persist {
        /// The command that waits.
        id: CommandId,
        /// The change.
        change: Persist,
    },
    /// To the store: it has happened already, and is written as soon as it can be.
    Keep(Persist),
    /// The answer to a command, after everything that it changed.
    Reply {
        /// The command.
        id: CommandId,
        /// Accepted or refused.
        result: Result<(), Refusal>,
    },
    /// To the log: a description of a leg's peer that cannot be used.
    Unusable {
        /// The leg.
        leg: LegId,
        /// What is wrong with it.
        fault: SdpFault,
    },
    /// Why the caller of this leg is refused, ahead of the `Reject` that does it: for the log.
    Denied {
        /// The leg.
        leg: LegId,
        /// Why.
        why: Unroutable,
    },
    /// To the log.
    Remark(Remark),
}

/// One command, by the number that its sender has given it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CommandId(pub u64);

/// What must survive a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Persist {
    /// This monitor. Its state need not be kept.
    Monitor(MonitorFact),
    /// No monitor of this supervisor's device.
    NoMonitor {
        /// The supervisor's device.
        supervisor: DeviceId,
    },
    /// What is set on a device.
    Device(RestoredDevice),
}

/// What is set on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredDevice {
    /// The device.
    pub device: DeviceId,
    /// Do-not-disturb is on.
    pub do_not_disturb: bool,
    /// Its calls go to.
    pub forward_to: Option<Number>,
}

/// What a restart finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RestoredCalls {
    /// Monitors; all come back armed.
    pub monitors: Vec<MonitorFact>,
    /// Devices with something set.
    pub devices: Vec<RestoredDevice>,
}

/// All calls of a house.
///
/// After each `handle_*`, drain [`B2BUA::poll_output`]; call [`B2BUA::handle_timeout`] when [`B2BUA::poll_timeout`] says.
pub struct B2bua<O> {
    config: B2buaConfig,
    numbering: Numbering,
    environment: O,
    devices: BTreeMap<DeviceId, DeviceState>,
    calls: BTreeMap<CallKey, Call>,
    by_leg: BTreeMap<LegId, CallKey>,
    by_id: BTreeMap<CallId, CallKey>,
    /// Every leg of a peer, those that have left included until their call forgets them.
    by_peer: BTreeMap<LegSource, BTreeSet<LegId>>,
    supervision: Supervision,
    kept: BTreeMap<DeviceId, MonitorFact>,
    /// Commands that wait until their change is stored.
    pending: BTreeMap<CommandId, PendingCommand>,
    /// Calls that this step has changed.
    changed: BTreeSet<CallKey>,
    outputs: VecDeque<Output>,
    /// Ends of legs, which come after the step's hearing: nobody hears what follows an end.
    releases: Vec<Output>,
    /// Whoever is to be invited, which comes last: who is on another call with his one phone is let go there first.
    invitations: Vec<(LegId, LegCommand)>,
    /// Where the leg is whose INVITE comes next.
    arriving: Option<(LegId, Whereabouts)>,
    /// Devices and trunks whose address was seen to be translated.
    behind_nat: BTreeSet<LegSource>,
    next_call: u64,
    next_leg: u64,
    closing: Option<Instant>,
}

struct DeviceState {
    extension: Extension,
    registered: bool,
    do_not_disturb: bool,
    forward_to: Option<Number>,
}

/// What holds for the media of a leg.
#[derive(Clone)]
struct MediaPolicy {
    reach: Reachability,
    targets: Arc<Targets>,
    own_ports: bool,
    /// The codecs it may use, never empty.
    codecs: Vec<Codec>,
    srtp: SrtpPolicy,
    /// Of the address that we tell.
    ipv6: bool,
}

impl<O: Environment> B2bua<O> {
    /// A B2BUA without calls. Its first outputs are the facts of its devices and of the monitors that were kept.
    pub fn new(config: B2buaConfig, numbering: Numbering, kept: RestoredCalls, environment: O) -> Self {
        let mut devices: BTreeMap<DeviceId, DeviceState> = numbering
            .extensions()
            .map(|extension| (extension.device.clone(), DeviceState::new(extension.clone())))
            .collect();
        for set in kept.devices {
            if let Some(device) = devices.get_mut(&set.device) {
                device.do_not_disturb = set.do_not_disturb;
                device.forward_to = set.forward_to;
            }
        }
        let monitors = kept
            .monitors
            .into_iter()
            .filter(|monitor| devices.contains_key(&monitor.supervisor) && devices.contains_key(&monitor.target))
            .collect();
        let supervision = Supervision::new(config.supervision.clone(), monitors);
        let kept: BTreeMap<DeviceId, MonitorFact> = supervision
            .monitors()
            .map(|monitor| (monitor.supervisor.clone(), monitor))
            .collect();
        let facts = devices.values().map(|device| Fact::Device(device.fact()));
        let outputs = facts.chain(kept.values().cloned().map(Fact::Monitor)).map(Output::Fact).collect();
        Self {
            config,
            numbering,
            environment,
            devices,
            calls: BTreeMap::new(),
            by_leg: BTreeMap::new(),
            by_id: BTreeMap::new(),
            by_peer: BTreeMap::new(),
            supervision,
            kept,
            pending: BTreeMap::new(),
            changed: BTreeSet::new(),
            outputs,
            releases: Vec::new(),
            invitations: Vec::new(),
            arriving: None,
            behind_nat: BTreeSet::new(),
            next_call: 1,
            next_leg: 1,
            closing: None,
        }
    }

    /// What this backend can do.
    pub fn capabilities(&self) -> Capabilities {
        Capabilities {
            backend: concat!("undertone-sip ", env!("CARGO_PKG_VERSION")).to_owned(),
            activities: Activity::ALL.to_vec(),
            modes: Mode::ALL.to_vec(),
            scopes: Scope::ALL.to_vec(),
            live_switching: true,
            mute_monitored: true,
            transfers: true,
            consultations: true,
            conferences: true,
            agent_side_only: true,
            dtmf: true,
            codecs: self.config.codecs.iter().map(|codec| codec.name().to_owned()).collect(),
            ..Capabilities::default()
        }
    }

    /// What the media engine saw.
    pub fn handle_media(&mut self, event: MediaEvent, now: Now) {
        match event {
            MediaEvent::Inactive { leg } => self.probe(leg),
            MediaEvent::LeakGuard { call, leg: _ } => self.distrust(call),
            MediaEvent::Quality { leg, quality } => return self.note_quality(leg, quality, now),
            MediaEvent::Active { leg } => self.alive(leg),
            MediaEvent::Withheld { leg } => self.withheld(leg),
            MediaEvent::Failed { leg } => self.media_failed(leg),
            MediaEvent::Digits { .. } | MediaEvent::Closed { .. } => {}
        }
        self.finish_step(now);
    }

    /// A leg's quality is no change of its call: supervision is never told. It goes along with the next change, or by itself when it is a
    /// leg's first, or when the last time is long enough ago.
    fn note_quality(&mut self, leg: LegId, quality: Quality, now: Now) {
        let interval = self.config.quality_interval;
        let Some(call) = self.call_of(leg) else { return };
        let Some(party) = call.party_mut(leg).filter(|party| !party.is_over()) else {
            return;
        };
        let before = party.quality.replace(quality);
        if before == Some(quality) {
            return;
        }
        let is_due = before.is_none() || call.quality_told.is_none_or(|told| told + interval <= now.mono);
        if is_due && let Some(reported) = &call.reported {
            let fact = call.measured(reported.clone());
            call.quality_told = Some(now.mono);
            self.outputs.push_back(Output::Fact(Fact::Call(fact)));
        }
    }

    /// Supervisors are heard by nobody on this call any more, and told so: who watches writes it down.
    fn distrust(&mut self, key: CallKey) {
        let Some(call) = self.calls.get_mut(&key).filter(|call| !call.distrusted) else {
            return;
        };
        call.distrusted = true;
        self.changed.insert(key);
        let failures = call.supervisors().map(|device| {
            Output::Fact(Fact::Failed(Failure {
                device: device.clone(),
                call: Some(call.id.clone()),
                request_id: None,
                refusal: Refusal::new(
                    Reason::Internal,
                    "Sound was about to reach a party it was not meant for. It was silenced, and you are heard by nobody on this call any more.",
                ),
            }))
        });
        self.outputs.extend(failures);
    }

    /// Takes no more calls, and ends those that live when `grace` is over.
    pub fn close(&mut self, grace: Duration, now: Now) {
        self.closing.get_or_insert(now.mono + grace);
        self.handle_timeout(now);
    }

    /// No call is left.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty()
    }

    /// How many calls there are.
    pub fn live_calls(&self) -> usize {
        self.calls.len()
    }

    /// Whose a leg is, for the log.
    pub fn party_of(&self, leg: LegId) -> Option<(&CallId, PartyRole)> {
        let call = self.calls.get(self.by_leg.get(&leg)?)?;
        let party = call.parties.iter().find(|party| party.leg == leg)?;
        Some((&call.id, party.role))
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let closing = self.closing.filter(|_| !self.is_idle());
        [self.supervision.poll_timeout(), closing].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.supervision.handle_timeout(now);
        if self.closing.is_some_and(|deadline| deadline <= now.mono) {
            for call in self.calls.values_mut() {
                call.refusal = Some(503);
                call.end_everybody(Some((503, "Service Unavailable")), &mut self.releases);
                self.changed.insert(call.key);
            }
        }
        self.finish_step(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Brings a step to its end: facts, supervision's wishes, calls that cannot go on, and then, once, who hears whom.
    ///
    /// What a call was between two facts of one step is told to supervision only; environment it is told once how it is now, and before what
    /// comes of it.
    fn finish_step(&mut self, now: Now) {
        let first = self.outputs.len();
        let mut touched = BTreeSet::new();
        let mut turns = 0_u32;
        loop {
            turns += 1;
            debug_assert!(turns < 100_000, "the step does not come to an end");
            if let Some(key) = self.changed.pop_first() {
                touched.insert(key);
                self.tell_supervision(key, now);
            } else if let Some(wish) = self.supervision.poll_output() {
                self.apply(wish, now);
            } else {
                for &key in &touched {
                    self.transfer_is_moot(key);
                    self.end_if_alone(key);
                    self.nothing_is_asked_about(key);
                }
                if self.changed.is_empty() {
                    break;
                }
            }
        }
        for &key in &touched {
            self.tell_engine(key);
            self.tell_hold(key);
        }
        for &key in touched.iter().rev() {
            self.report(key, first);
        }
        self.part_and_invite();
        for &key in &touched {
            self.forget_if_over(key);
        }
    }

    /// Who was to be invited and has to leave in the same step is neither.
    fn part_and_invite(&mut self) {
        let mut releases = std::mem::take(&mut self.releases);
        let mut invitations = std::mem::take(&mut self.invitations);
        invitations.retain(|(invited, _)| {
            let call = self.by_leg.get(invited).and_then(|key| self.calls.get(key));
            let stays = call.and_then(|call| call.party(*invited)).is_some_and(|party| !party.is_over());
            if !stays {
                releases.retain(|release| !matches!(release, Output::Leg(LegCommand::Hangup { leg, .. }) if leg == invited));
            }
            stays
        });
        self.outputs.extend(releases);
        self.outputs.extend(invitations.into_iter().map(|(_, invite)| Output::Leg(invite)));
    }

    fn tell_supervision(&mut self, key: CallKey, now: Now) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        call.lift_mutes();
        let fact = call.fact();
        self.supervision.handle_doubt(&call.id, call.is_probed(), now);
        if call.supervised.as_ref() != Some(&fact) {
            self.supervision.handle_call(&fact, now);
            call.supervised = Some(fact);
        }
    }

    /// Publishes a call, if that is news, among the outputs from this one on.
    fn report(&mut self, key: CallKey, first: usize) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let fact = call.fact();
        if call.reported.as_ref() != Some(&fact) {
            call.reported = Some(fact.clone());
            let fact = call.measured(fact);
            self.outputs.insert(first, Output::Fact(Fact::Call(fact)));
        }
    }

    fn end_if_alone(&mut self, key: CallKey) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        if call.is_over() || call.goes_on() || call.is_accompanied() && self.supervision.keeps_alive(&call.fact()) {
            return;
        }
        if let (Some(device), Some(status)) = (call.dialler.take(), call.refusal) {
            let missing = if call.dials.is_some() { &call.ani } else { &call.dnis };
            self.outputs.push_back(Output::Fact(Fact::Failed(Failure {
                device,
                call: Some(call.id.clone()),
                request_id: None,
                refusal: unreached(status, missing),
            })));
        }
        call.end_everybody(None, &mut self.releases);
        self.changed.insert(key);
    }

    fn tell_engine(&mut self, key: CallKey) {
        let rules = Rules {
            monitor_party_on_hold: self.config.monitor_party_on_hold,
            supervisors_hear_each_other: self.config.supervisors_hear_each_other,
            agent_side_only: self.config.agent_side_only,
            whisper: self.config.whisper,
            duck: self.config.duck,
        };
        let Some(call) = self.calls.get_mut(&key).filter(|call| !call.is_over()) else {
            return;
        };
        let hearing = call.hearing(rules);
        if call.told != hearing {
            call.told = hearing.clone();
            self.outputs.push_back(Output::Media(MediaCommand::Hear { call: key, hearing }));
        }
    }

    fn forget_if_over(&mut self, key: CallKey) {
        if self.calls.get(&key).is_some_and(Call::is_over)
            && let Some(call) = self.calls.remove(&key)
        {
            self.by_id.remove(&call.id);
            for party in &call.parties {
                self.forget_leg(party.leg, &party.peer);
            }
        }
    }

    fn forget_leg(&mut self, leg: LegId, peer: &LegSource) {
        self.by_leg.remove(&leg);
        if let Some(legs) = self.by_peer.get_mut(peer) {
            legs.remove(&leg);
            if legs.is_empty() {
                self.by_peer.remove(peer);
            }
        }
    }

    /// The legs of a peer that have not left, with their calls.
    fn live_legs(&self, peer: &LegSource) -> impl Iterator<Item = (&Call, &Party)> {
        let legs = self.by_peer.get(peer).into_iter().flatten();
        legs.filter_map(|leg| {
            let call = self.calls.get(self.by_leg.get(leg)?)?;
            let party = call.party(*leg).filter(|party| !party.is_over())?;
            Some((call, party))
        })
    }

    fn call_of(&mut self, leg: LegId) -> Option<&mut Call> {
        let key = self.by_leg.get(&leg)?;
        self.calls.get_mut(key)
    }

    fn policy_of_extension(&self, extension: &Extension) -> MediaPolicy {
        MediaPolicy {
            reach: Reachability::Device(extension.nat),
            targets: Arc::clone(&self.config.targets),
            own_ports: extension.own_ports,
            srtp: extension.srtp,
            ipv6: self.config.media_over_ipv6,
            codecs: self.config.codecs.clone(),
        }
    }

    fn policy_of_trunk(&self, trunk: &TrunkRoute) -> MediaPolicy {
        let common: Vec<Codec> = trunk
            .codecs
            .iter()
            .copied()
            .filter(|codec| self.config.codecs.contains(codec))
            .collect();
        MediaPolicy {
            reach: Reachability::Trunk {
                nat: trunk.nat,
                hosts: trunk.hosts.clone(),
                media_sources: trunk.media_sources.clone(),
            },
            targets: Arc::clone(&self.config.targets),
            own_ports: trunk.own_ports,
            srtp: trunk.srtp,
            ipv6: self.config.media_over_ipv6,
            codecs: if common.is_empty() { self.config.codecs.clone() } else { common },
        }
    }

    fn caller(&self, source: &LegSource) -> Option<CallingParty> {
        match source {
            LegSource::Account(id) => self.devices.get(id).map(|device| CallingParty {
                device: Some(id.clone()),
                role: role_of(device.extension.kind),
                policy: self.policy_of_extension(&device.extension),
            }),
            LegSource::Trunk(name) => Some(CallingParty {
                device: None,
                role: PartyRole::Customer,
                policy: self.numbering.trunk(name).map(|trunk| self.policy_of_trunk(trunk))?,
            }),
        }
    }

    fn new_leg(&mut self) -> LegId {
        let leg = LegId(self.next_leg);
        self.next_leg += 2;
        leg
    }

    /// A party with its ports open, or nothing at all.
    fn new_party(
        &mut self,
        call: CallKey,
        leg: LegId,
        peer: LegSource,
        named: (Number, PartyRole),
        policy: MediaPolicy,
        stage: LegStage,
    ) -> Option<Party> {
        let offered = match &stage {
            LegStage::Calling { offer: Some(offer), .. } => offer.audio.rtp,
            _ => None,
        };
        let place = self.arriving.take_if(|(arriving, _)| *arriving == leg).map(|(_, place)| place);
        let is_natted = || self.behind_nat.contains(&peer) || Aim::at(&policy.reach, place, offered, None).nat;
        let expected = match (&peer, offered) {
            _ if policy.own_ports || policy.reach.nat() == Nat::Always || is_natted() => Expected::Nothing,
            (LegSource::Account(device), _) => Expected::Phone(device.to_string()),
            (LegSource::Trunk(_), Some(source)) => Expected::Offered(source),
            (LegSource::Trunk(_), None) => Expected::Nothing,
        };
        let address = self.environment.open_port(call, leg, expected)?;
        let local = Local::new(session_id(self.environment.random()), address);
        let local = match policy.srtp {
            SrtpPolicy::Off => local,
            SrtpPolicy::Optional | SrtpPolicy::Required => local.with_srtp(policy.srtp, self.secret()),
        };
        self.by_leg.insert(leg, call);
        self.by_peer.entry(peer.clone()).or_default().insert(leg);
        Some(Party {
            place,
            ..Party::new(leg, peer, named, policy, stage, local)
        })
    }

    /// Random octets, of which the keys of a leg are made.
    fn secret(&mut self) -> [u8; 32] {
        let mut secret = [0; 32];
        for half in secret.chunks_exact_mut(16) {
            half.copy_from_slice(&self.environment.random().to_be_bytes());
        }
        secret
    }

    fn new_ids(&mut self) -> (CallKey, CallId, String) {
        let key = CallKey(self.next_call);
        self.next_call += 1;
        let id = format!("{:032X}", self.environment.random());
        let conn_id = format!("{:016x}", self.environment.random() as u64);
        (key, CallId::from(id), conn_id)
    }

    fn shown(&self, device: &DeviceId) -> Number {
        self.devices
            .get(device)
            .map_or_else(|| Number::from(""), |device| device.extension.number.clone())
    }

    fn known(&self, device: &DeviceId) -> Result<&DeviceState, Refusal> {
        self.devices.get(device).ok_or_else(|| Refusal::no_device(device))
    }
}

impl DeviceState {
    fn new(extension: Extension) -> Self {
        Self {
            extension,
            registered: false,
            do_not_disturb: false,
            forward_to: None,
        }
    }

    fn fact(&self) -> DeviceFact {
        DeviceFact {
            id: self.extension.device.clone(),
            number: self.extension.number.clone(),
            kind: DeviceKind::Phone,
            registered: self.registered,
            do_not_disturb: self.do_not_disturb,
            forward_to: self.forward_to.clone(),
        }
    }

    fn kept(&self) -> RestoredDevice {
        RestoredDevice {
            device: self.extension.device.clone(),
            do_not_disturb: self.do_not_disturb,
            forward_to: self.forward_to.clone(),
        }
    }
}

fn role_of(kind: AccountKind) -> PartyRole {
    match kind {
        AccountKind::Internal => PartyRole::Agent,
        AccountKind::Customer => PartyRole::Customer,
    }
}

fn identity(number: &Number, display: impl Into<String>) -> Identity {
    Identity {
        number: number.clone(),
        display: display.into(),
    }
}

/// What a device that dialled is told about a number that could not be had.
fn unreached(status: u16, number: &Number) -> Refusal {
    match status {
        404 => Refusal::no_number(number),
        403 => Refusal::new(Reason::NotPermitted, format!("Number '{number}' may not be called from here.")),
        408 | 480 => Refusal::new(Reason::InvalidState, format!("Number '{number}' does not answer.")),
        486 | 600 => Refusal::new(Reason::InvalidState, format!("Number '{number}' is busy.")),
        603 => Refusal::new(Reason::InvalidState, format!("Number '{number}' rejects the call.")),
        503 => Refusal::new(Reason::Unavailable, format!("Number '{number}' can not be called now.")),
        _ => Refusal::new(Reason::Internal, format!("Number '{number}' could not be called ({status}).")),
    }
}

/// RFC 8866 5.2 sets no bound; 31 bits every peer can read.
fn session_id(random: u128) -> u64 {
    random as u64 & 0x7fff_ffff
}
