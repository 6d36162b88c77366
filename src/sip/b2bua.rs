//! Calls: their parties, what their phones are told, and the hearing.
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
//! A call is a set of parties with roles, not a pair. What its parties hear is worked out anew from
//! the parties themselves after every step, and the media engine is told once per step, in one
//! piece: no step adds or removes a single cell.
//!
//! The [`B2bua`] reads descriptions, finds the `Call` of an event once and hands the event in; the
//! call and its `Party` records decide what it comes to, with a `Ctx` that has the dial plan, the
//! ports, the index of legs and the outputs. The B2BUA itself does what depends on other calls: to
//! route a number, to join two calls, to begin one.

mod call;
mod call_table;
mod codec_selection;
mod commands;
mod conference;
mod connected_identity;
mod consultation;
mod directory;
mod feature_codes;
mod hearing_policy;
mod hold;
mod inbound;
mod leg_factory;
mod leg_index;
mod media_address;
mod monitoring;
mod numbering;
mod outbound;
mod parties;
mod party;
mod rejection;
mod reports;
mod ringing;
mod routing;
mod step;
#[cfg(test)]
mod tests;
mod transfer;
mod user_data;
mod write_ahead;

pub use directory::NumberingChange;
pub use feature_codes::FeatureCodeConfig;
pub use media_address::Remark;
pub use numbering::{AccountKind, Extension, Numbering, TrunkRoute};

pub use routing::Unroutable;

use crate::media::{CallKey, Codec, Expected, Gain, LeakReason, MediaCommand, MediaEvent, Targets};
use crate::model::{
    Activity, CallId, Capabilities, DeviceFact, DeviceId, DeviceKind, Fact, JoinSound, Mode,
    MonitorFact, NodeLoad, Now, Number, PartyRole, Reason, Refusal, Scope, config_value,
};
use crate::sip::config::HandedOn;
use crate::sip::leg::{HangupCause, Identity, LegCommand, LegId, LegSource};
use crate::sip::sdp::{SdpFault, SrtpPolicy};
use crate::supervision::{self, Supervision};
use call::Call;
use call_table::CallTable;
use feature_codes::FeatureCodes;
use leg_factory::LegFactory;
use media_address::Reachability;
use party::{Party, PartyEvent};
use rejection::Rejection;
use routing::DialPlan;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use step::{Ctx, Step};
use write_ahead::WriteAhead;

/// How the B2BUA behaves.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct B2buaConfig {
    /// The codecs we take part in, best first. A caller's own order counts for more.
    pub codecs: Vec<Codec>,
    /// Phones are told an IPv6 address for their sound, and one that has only the other family for
    /// its own is refused with 488.
    #[serde(skip)]
    pub media_over_ipv6: bool,
    /// How long a phone may ring: 60 s, below the three minutes after which a proxy gives up (RFC
    /// 3261 16.6, timer C).
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub ring_timeout: Duration,
    /// A device that is on a call rings for the next one; if false its caller gets 486.
    pub call_waiting: bool,
    /// More calls at once are refused with 503.
    #[serde(deserialize_with = "config_value::positive")]
    pub max_calls: usize,
    /// A device that is on so many is called no more (486) and makes no more (503): 10, more than
    /// anybody can have in hand, and too few for one account to take all media ports.
    #[serde(deserialize_with = "config_value::positive")]
    pub max_calls_per_device: usize,
    /// A hold is told to the phones of the other parties: if false, only the holder's phone knows,
    /// and a supervisor goes on hearing the held party. Each trunk has a rule of its own.
    pub signal_hold: bool,
    /// There is music for those who are held.
    #[serde(skip)]
    pub has_music: bool,
    /// A supervisor hears the customer while the agent has the customer on hold.
    pub monitor_party_on_hold: bool,
    /// Several supervisors of one call hear each other.
    pub supervisors_hear_each_other: bool,
    /// Supervisors hear agents only, where listening to customers is unlawful.
    pub agent_side_only: bool,
    /// How loud a supervisor is for the parties that hear it.
    #[serde(rename = "whisper_gain_db", deserialize_with = "Gain::from_db_between::<_, -20, 20>")]
    pub whisper: Gain,
    /// How loud the customer is for an agent while a supervisor speaks to that agent.
    #[serde(rename = "duck_db", deserialize_with = "Gain::from_db_between::<_, -40, 0>")]
    pub duck: Gain,
    /// An agent hears a short tone when a supervisor begins to monitor that agent.
    #[serde(skip)]
    pub beep: bool,
    /// How long live calls may go on after a request to stop.
    #[serde(deserialize_with = "config_value::seconds")]
    pub grace: Duration,
    /// How a call's sound fares is told at most so often, when nothing else is to be told of the
    /// call: 10 s.
    #[serde(skip)]
    pub quality_interval: Duration,
    /// What is ours, of which nobody may make a target.
    #[serde(skip)]
    pub targets: Arc<Targets>,
    /// Which supervisor joins which call when.
    #[serde(skip)]
    pub supervision: supervision::SupervisionConfig,
    /// What supervisors may dial.
    #[serde(skip)]
    pub feature_codes: FeatureCodeConfig,
}

impl Default for B2buaConfig {
    fn default() -> Self {
        Self {
            codecs: vec![Codec::Pcmu, Codec::Pcma, Codec::G722, Codec::Opus, Codec::G729],
            media_over_ipv6: false,
            ring_timeout: Duration::from_secs(60),
            call_waiting: true,
            max_calls: 2000,
            max_calls_per_device: 10,
            signal_hold: false,
            has_music: false,
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
            feature_codes: FeatureCodeConfig::default(),
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
    /// To the clients of the contract.
    Fact(Fact),
    /// To the store, ahead of the command that asks for it: its outcome comes back through
    /// [`B2bua::handle_persisted`].
    Persist {
        /// The command that waits.
        id: CommandId,
        /// The change that the command asks for.
        change: Persist,
    },
    /// To the store: it has happened already, and is written as soon as it can be.
    Keep(Persist),
    /// The answer to a command, after everything that it changed.
    Reply {
        /// The command that is answered.
        id: CommandId,
        /// Accepted or refused.
        result: Result<(), Refusal>,
    },
    /// To the log: a description of a leg's peer that cannot be used.
    Unusable {
        /// The leg of that peer.
        leg: LegId,
        /// What is wrong with it.
        fault: SdpFault,
    },
    /// Why the caller of this leg is refused, ahead of the `Reject` that does it: for the log.
    Denied {
        /// The leg of the caller.
        leg: LegId,
        /// Why the number leads nowhere.
        why: Unroutable,
    },
    /// To the log: what a phone has asked for by a feature code, or a key, is not done.
    CodeRefused {
        /// The device that has dialled or pressed it.
        device: DeviceId,
        /// The code without its number, or the key.
        code: String,
        /// Why.
        refusal: Refusal,
    },
    /// To the log: a supervisor cannot join a call of which the sound is only relayed.
    Relayed {
        /// The supervisor's device.
        supervisor: DeviceId,
        /// The call.
        call: CallId,
        /// Its codec.
        codec: Codec,
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
    /// The device that it is set on.
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

/// All calls of a telephone system.
///
/// After each `handle_*`, drain [`B2bua::poll_output`]; call [`B2bua::handle_timeout`] when
/// [`B2bua::poll_timeout`] says.
pub struct B2bua<E> {
    config: Arc<B2buaConfig>,
    environment: E,
    legs: LegFactory,
    plan: DialPlan,
    calls: CallTable,
    supervision: Supervision,
    ahead: WriteAhead,
    codes: FeatureCodes,
    out: Step,
    /// The supervisors that are on calls, by leg, until their sound has ended.
    joins: BTreeMap<LegId, JoinSound>,
    closing: Option<Instant>,
    /// No new calls, until further notice; those that live go on as ever.
    is_draining: bool,
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
    /// Whether the peer says that it has handed the leg on: else no whisper goes there, or comes
    /// from there.
    handed_on: HandedOn,
    /// Its peer is told of a hold.
    signals_hold: bool,
}

impl<E: Environment> B2bua<E> {
    /// A B2BUA without calls. Its first outputs are the facts of its devices and of the monitors
    /// that were kept.
    pub fn new(
        config: B2buaConfig,
        numbering: Numbering,
        kept: RestoredCalls,
        environment: E,
    ) -> Self {
        let config = Arc::new(config);
        let plan = DialPlan::new(Arc::clone(&config), numbering, kept.devices);
        let is_known = |monitor: &MonitorFact| {
            plan.is_known(&monitor.supervisor) && plan.is_known(&monitor.target)
        };
        let monitors = kept.monitors.into_iter().filter(is_known).collect();
        let supervision = Supervision::new(config.supervision.clone(), monitors);
        let ahead = WriteAhead::new(supervision.monitors());
        let facts = plan.devices.values().map(|device| Fact::Device(device.fact()));
        let outputs =
            facts.chain(ahead.monitors().cloned().map(Fact::Monitor)).map(Output::Fact).collect();
        Self {
            config,
            environment,
            legs: LegFactory::new(),
            plan,
            calls: CallTable::default(),
            supervision,
            ahead,
            codes: FeatureCodes::default(),
            out: Step { outputs, ..Step::default() },
            joins: BTreeMap::new(),
            closing: None,
            is_draining: false,
        }
    }

    /// What this backend can do.
    pub fn capabilities(&self) -> Capabilities {
        self.config.capabilities()
    }

    /// What the media engine saw.
    pub fn handle_media(&mut self, event: MediaEvent, now: Now) {
        match event {
            MediaEvent::Inactive { leg } => self.handle_party(leg, PartyEvent::Inactive, now),
            MediaEvent::Active { leg } => self.handle_party(leg, PartyEvent::Active, now),
            MediaEvent::Withheld { leg } => self.handle_party(leg, PartyEvent::Withheld, now),
            MediaEvent::Quality { leg, quality } => {
                return self.handle_party(leg, PartyEvent::Quality(quality), now);
            }
            MediaEvent::LeakGuard { call, leg: _, reason: LeakReason::NotPermitted } => {
                if let Some((call, mut ctx)) = self.find_key(call, now) {
                    call.handle_leak(&mut ctx);
                }
            }
            MediaEvent::Failed { leg } => {
                if let Some((call, mut ctx)) = self.find(leg, now) {
                    call.handle_media_failed(&mut ctx);
                }
            }
            MediaEvent::JoinEnded { supervisor, legs } => {
                if let Some(join) = self.joins.get(&supervisor).cloned() {
                    self.out.fact(Fact::JoinSound(JoinSound { legs, ..join }));
                }
            }
            MediaEvent::Closed { leg, .. } => drop(self.joins.remove(&leg)),
            MediaEvent::Key { leg, digit } => self.handle_key(leg, digit, now),
            MediaEvent::LeakGuard { reason: LeakReason::CodecMismatch, .. } => {}
        }
        self.finish_step(now);
    }

    /// Takes no more calls, and ends those that live when `grace` is over.
    pub fn close(&mut self, grace: Duration, now: Now) {
        self.closing.get_or_insert(now.mono + grace);
        self.end_codes(&Rejection::Stopping, |_| true);
        self.handle_timeout(now);
    }

    /// Takes no new calls from now on, or takes them again. What belongs to a call that lives is
    /// done as ever: a consultation about it, a transfer, a supervisor that joins it.
    pub fn set_draining(&mut self, is_draining: bool) {
        self.is_draining = is_draining;
    }

    /// How busy it is.
    pub fn load(&self) -> NodeLoad {
        let count = |calls: usize| u32::try_from(calls).unwrap_or(u32::MAX);
        NodeLoad {
            calls: count(self.calls.len()),
            max_calls: Some(count(self.config.max_calls)),
            is_draining: self.is_draining || self.closing.is_some(),
        }
    }

    /// What is still to be told of the sound of calls that are over comes with media events.
    pub fn has_sound(&self) -> bool {
        !self.joins.is_empty()
    }

    /// No call is left.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.codes.is_idle()
    }

    /// How many calls there are.
    pub fn live_calls(&self) -> usize {
        self.calls.len()
    }

    /// The call of a leg and the role of its party, for the log.
    pub fn party_of(&self, leg: LegId) -> Option<(&CallId, PartyRole)> {
        let (call, party) = self.calls.party(leg)?;
        Some((&call.id, party.role))
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let closing = self.closing.filter(|_| !self.is_idle());
        let codes = self.codes.poll_timeout();
        [self.supervision.poll_timeout(), codes, closing].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.supervision.handle_timeout(now);
        self.handle_codes_timeout(now);
        if self.closing.is_some_and(|deadline| deadline <= now.mono) {
            for call in self.calls.iter_mut() {
                call.refuse(Rejection::Stopping, &mut self.out);
                call.end_everybody(Some(HangupCause::Stopping), &mut self.out);
            }
        }
        self.finish_step(now);
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.out.outputs.pop_front()
    }

    /// Brings a step to its end: facts, the outputs of supervision, calls that cannot go on, and
    /// then, once, the hearing.
    ///
    /// What a call was between two facts of one step is told to supervision only; outside it is
    /// told once how it is now, and before what comes of it.
    fn finish_step(&mut self, now: Now) {
        let first = self.out.outputs.len();
        let mut touched = BTreeSet::new();
        let mut turns = 0_u32;
        loop {
            turns += 1;
            debug_assert!(turns < 100_000, "the step does not come to an end");
            if let Some(key) = self.out.changed.pop_first() {
                touched.insert(key);
                if let Some((call, mut ctx)) = self.find_key(key, now) {
                    call.inform_supervision(&mut ctx);
                }
            } else if let Some(output) = self.supervision.poll_output() {
                self.apply(output, now);
            } else {
                for &key in &touched {
                    if let Some((call, mut ctx)) = self.find_key(key, now) {
                        call.settle(&mut ctx);
                    }
                    self.calls.end_consultations_about(key, &mut self.out);
                }
                if self.out.changed.is_empty() && !self.settle_codes(now) {
                    break;
                }
            }
        }
        self.find_second_calls(&mut touched);
        for &key in &touched {
            if let Some((call, mut ctx)) = self.find_key(key, now) {
                call.update_hearing(&mut ctx);
                call.play_music(&mut ctx);
                call.signal_hold(&mut ctx);
            }
        }
        for &key in touched.iter().rev() {
            if let Some((call, ctx)) = self.find_key(key, now) {
                call.publish(first, ctx.out);
            }
        }
        self.joins.extend(self.out.joined.drain(..));
        self.out.release_and_invite(&self.calls);
        for &key in &touched {
            self.calls.forget_if_over(key);
        }
    }

    /// A switch may join two calls of a device behind it with each other before it says so: while
    /// such a device is on two, nobody whispers to it or from it. `touched`: the calls of this step,
    /// and those for which that changes.
    fn find_second_calls(&mut self, touched: &mut BTreeSet<CallKey>) {
        let calls = touched.iter().filter_map(|key| self.calls.get(*key));
        let is_behind = |peer: &&LegSource| {
            matches!(peer, LegSource::Account(_)) && self.plan.trunk_of(peer).is_some()
        };
        let peers = calls.flat_map(|call| call.parties.iter()).map(|party| &party.peer);
        let peers: BTreeSet<LegSource> = peers.filter(is_behind).cloned().collect();
        for peer in peers {
            let LegSource::Account(device) = &peer else { continue };
            let legs: Vec<LegId> = self.calls.legs.legs_of(&peer).collect();
            // A leg that it has left to another party is none of its calls.
            let is_its_own =
                |party: &Party| party.is_talking() && party.device.as_ref() == Some(device);
            let its_own = legs.iter().filter_map(|leg| self.calls.party(*leg));
            let is_on_two = its_own.filter(|(_, party)| is_its_own(party)).count() > 1;
            for leg in legs {
                let key = self.calls.legs.call_of(leg);
                let found = key.and_then(|key| self.calls.get_mut(key));
                if let Some((call, _)) = found
                    && let Some(party) = call.parties.get_mut(leg)
                    && party.is_on_two != (is_on_two && is_its_own(party))
                {
                    party.is_on_two = !party.is_on_two;
                    touched.insert(call.key);
                }
            }
        }
    }

    /// What a call that begins may use in this step.
    fn ctx(&mut self, now: Now) -> Ctx<'_> {
        Ctx {
            config: &self.config,
            plan: &self.plan,
            environment: &mut self.environment,
            legs: &mut self.legs,
            index: &mut self.calls.legs,
            supervision: &mut self.supervision,
            out: &mut self.out,
            now,
        }
    }

    /// A call, with what it may use in this step.
    fn find_key(&mut self, key: CallKey, now: Now) -> Option<(&mut Call, Ctx<'_>)> {
        let (call, index) = self.calls.get_mut(key)?;
        let ctx = Ctx {
            config: &self.config,
            plan: &self.plan,
            environment: &mut self.environment,
            legs: &mut self.legs,
            index,
            supervision: &mut self.supervision,
            out: &mut self.out,
            now,
        };
        Some((call, ctx))
    }

    /// The call of a leg, likewise.
    fn find(&mut self, leg: LegId, now: Now) -> Option<(&mut Call, Ctx<'_>)> {
        self.find_key(self.calls.legs.call_of(leg)?, now)
    }

    /// The call of this id, likewise.
    fn find_named(&mut self, id: &CallId, now: Now) -> Result<(&mut Call, Ctx<'_>), Refusal> {
        let key = self.calls.key_of(id)?;
        self.find_key(key, now).ok_or_else(|| Refusal::no_call(id))
    }
}

impl B2buaConfig {
    fn capabilities(&self) -> Capabilities {
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
            hold: true,
            mute: true,
            answer: true,
            dial: true,
            do_not_disturb: true,
            forwarding: true,
            swap_calls: true,
            clear_call: true,
            reject: true,
            redirect: true,
            user_data: true,
            feature_codes: self.feature_codes.enabled,
            codecs: self.codecs.iter().map(|codec| codec.name().to_owned()).collect(),
            ..Capabilities::default()
        }
    }
}

impl DeviceState {
    fn new(extension: Extension) -> Self {
        Self { extension, registered: false, do_not_disturb: false, forward_to: None }
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
    Identity::new(number.clone(), display.into())
}

fn stopping() -> Refusal {
    Refusal::new(Reason::Unavailable, "The backend is stopping.")
}

fn draining() -> Refusal {
    Refusal::new(Reason::Unavailable, "The backend takes no new calls.")
}

/// RFC 8866 5.2 sets no bound; 31 bits every peer can read.
fn session_id(random: u128) -> u64 {
    random as u64 & 0x7fff_ffff
}
