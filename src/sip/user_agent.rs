//! The SIP user agent of a B2BUA: messages in and out, legs towards the B2BUA. A quiet machine.
//!
//! ```text
//!   datagrams, connections                                                    B2BUA
//!  ───── handle_datagram ────▶ checks ─▶ transactions ─▶ dialogs, legs ─────▶ LegEvent
//!  ◀──── Output::Transmit ───────────────────┴──────────────┴─ handle_command ◀ LegCommand
//! ```
//!
//! After every `handle_*`, drain [`UserAgent::poll_output`], then wait until
//! [`UserAgent::poll_timeout`] at the latest. What anybody may send (a request of nobody we know)
//! is answered statelessly (RFC 3261 8.2.7): it costs no memory, and over a rate it is not answered
//! at all. A transaction is made only for a request that was authenticated, or that belongs to a
//! dialog.
//!
//! The user agent finds the machine that something is for; the machine behaves:
//!
//! | part | what |
//! |---|---|
//! | `leg` | one leg: dialog, offer and answer, session timer, reliable provisionals, REFER |
//! | `admission` | digests, trunks, wrong passwords, how often a source is answered |
//! | `qualify` | whether phones are still there |
//! | `context` | what the machines share |
//! | `local_domain` | what is ours: hosts, domains, accounts and their numbers |
//! | `caller_identity`, `call_reasons` | what a callee is told of its caller, and of why it is called |
//! | `redirects` | 3xx of phones |
//! | `user_data` | call data in header fields |
//! | `leg_table` | the legs, and which of them a message names |
//! | `certificates`, `trunk_connections` | peers by their certificates; TLS to trunks |
//! | `trunk_names`, `trunk_targets`, `trunk_presence` | where trunks are, in which order their targets are tried, which answer |
//! | `trunk_registration` | our registrations with trunks |
//! | `requests`, `responses`, `outgoing`, `flows` | what comes in, and for which machine it is |
//! | `refusals` | what of refusals is written down |
//! | `tokens`, `rate_limiter`, `password_throttle` | tags, branches; allowances |

mod admission;
mod call_reasons;
mod caller_identity;
mod certificates;
mod context;
mod flows;
mod leg;
mod leg_table;
mod local_domain;
mod outgoing;
mod password_throttle;
mod qualify;
mod rate_limiter;
mod redirects;
mod refusal_log;
mod requests;
mod responses;
mod tokens;
mod trunk_connections;
mod trunk_names;
mod trunk_presence;
mod trunk_registration;
mod trunk_targets;
mod user_data;

#[cfg(test)]
mod tests;

use super::config::{Lookup, LookupAnswer, LookupFault, SipConfig, SipDirectory, Trunk};
use super::flow::{Flow, Protocol};
use super::leg::{LegCommand, LegEvent, LegId};
use super::message::{ParseError, SipMessage, parse_datagram};
use super::peer::Peers;
use super::registrar::{KeptBinding, Registrar};
use super::sdp::SdpFault;
use super::timers::Timers;
use super::transaction::{self, Transactions};
use crate::model::{DeviceId, Now};
use admission::Admission;
use certificates::PeerCertificates;
use context::{Context, TrunkLogins};
use leg::Leg;
use leg_table::LegTable;
use local_domain::LocalDomain;
pub use password_throttle::WrongPassword;
use qualify::Qualification;
use refusal_log::RefusalLog;
pub use refusal_log::{RefusedBy, RefusedRequest};
use std::collections::{BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;
use tokens::TokenGenerator;
use trunk_connections::TrunkConnections;
use trunk_names::TrunkNames;
use trunk_presence::TrunkPresence;
pub use trunk_registration::RegistrationState;
use trunk_registration::TrunkRegistrations;
use trunk_targets::TargetStates;

/// What the user agent wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes for a peer.
    Transmit {
        /// The flow to the peer.
        flow: Flow,
        /// A whole message.
        bytes: Vec<u8>,
    },
    /// For the B2BUA.
    Event(LegEvent),
    /// To be written in the log; not more often than a person can read.
    WrongPassword(WrongPassword),
    /// To be written in the log: a request that was refused. Not more often than a person can read.
    Refused(RefusedRequest),
    /// The peer at the other end of this connection is no stranger any more.
    Known(Flow),
    /// A connection is to be made, unless there is one: to a trunk, before anything is said.
    Connect(Flow),
    /// Requests to this address go by the connection of this flow (RFC 5923).
    Alias {
        /// The connection.
        flow: Flow,
        /// The address that it stands for.
        address: SocketAddr,
    },
    /// To be written in the log: a target over TLS can be reached, or no longer.
    TrunkConnected {
        /// The name of its trunk.
        trunk: String,
        /// Its address.
        address: SocketAddr,
        /// It can.
        connected: bool,
    },
    /// To be written in the log: one of a trunk's targets answers OPTIONS, or none does.
    TrunkPresent {
        /// Its name.
        trunk: String,
        /// One answers.
        present: bool,
        /// How many devices are behind it, and present or away with it.
        devices: usize,
    },
    /// To be written in the log: a target of a trunk answers OPTIONS, or does not.
    TargetPresent {
        /// The name of the trunk.
        trunk: String,
        /// Where the target is.
        address: (Protocol, SocketAddr),
        /// It answers.
        present: bool,
    },
    /// A target is none any more: nothing is said of it from now on.
    TargetGone {
        /// The name of the trunk.
        trunk: String,
        /// Where it was.
        address: (Protocol, SocketAddr),
    },
    /// To be written in the log: how our registration with a trunk stands.
    Registration {
        /// The name of the trunk.
        trunk: String,
        /// How it stands.
        state: RegistrationState,
    },
    /// A name is to be looked up; the outcome is for [`UserAgent::handle_lookup`].
    LookUp(Lookup),
    /// To be written in the log: a name of trunks stands for nothing.
    NotFound {
        /// The names of the trunks.
        trunks: Vec<String>,
        /// The name.
        host: String,
        /// Why.
        fault: LookupFault,
        /// What it stood for before holds.
        known: bool,
    },
    /// Trunks are elsewhere than before: [`UserAgent::config`] has them.
    TrunksMoved,
    /// To be written in the log: a phone that has answered OPTIONS leaves them unanswered, or
    /// answers again.
    Qualified {
        /// The device with the phone.
        device: DeviceId,
        /// The phone answers.
        answers: bool,
    },
    /// To be written in the log: an INVITE was refused for its description.
    Unusable {
        /// The sender's address.
        source: IpAddr,
        /// The Call-ID of the INVITE.
        call_id: String,
        /// What is wrong with it.
        fault: SdpFault,
    },
    /// To be kept for [`UserAgent::restore`].
    Bindings {
        /// The device with the phones.
        device: DeviceId,
        /// Where they are, all of them.
        bindings: Vec<KeptBinding>,
    },
}

/// What has been dealt with without anybody hearing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Messages that were read.
    pub messages: u64,
    /// Messages that could not be read.
    pub malformed: u64,
    /// Requests refused statelessly.
    pub refused: u64,
    /// Requests that got no answer because their source asks too often.
    pub silenced: u64,
    /// Requests refused with 503 because too much is going on.
    pub overloaded: u64,
    /// In-dialog requests refused with 481: unknown dialog, wrong tag, wrong source.
    pub strangers: u64,
    /// Digests that were wrong.
    pub wrong_passwords: u64,
    /// Requests refused with 503 because too many wrong digests for this device have come from
    /// there; their digests were not looked at.
    pub throttled: u64,
}

/// The user agent: it finds the leg, or the other machine, that something is for.
///
/// After every `handle_*`, drain [`poll_output`](Self::poll_output), then wait until
/// [`poll_timeout`](Self::poll_timeout) at the latest and call
/// [`handle_timeout`](Self::handle_timeout). Within each step the machines are polled in this
/// order: the transactions: their failures go back to their legs at once; the registrar, for
/// bindings to be kept. When time has passed: the transactions, the registrar, the legs' timers one
/// by one in the order of their times, and last the qualification.
#[derive(Debug)]
pub struct UserAgent {
    ctx: Context,
    peers: Peers,
    legs: LegTable,
    admission: Admission,
    qualification: Qualification,
    trunk_connections: TrunkConnections,
    trunk_names: TrunkNames,
    trunk_presence: TrunkPresence,
    trunk_registrations: TrunkRegistrations,
}

impl UserAgent {
    /// `locals` are the addresses that are listened on; `seed` is fresh entropy: tags, branches and
    /// nonces come from it.
    pub fn new(
        mut config: SipConfig,
        locals: Vec<(Protocol, SocketAddr)>,
        seed: [u8; 32],
        now: Now,
    ) -> Self {
        let mut trunk_names = TrunkNames::default();
        trunk_names.handle_trunks(&mut config.trunks, now);
        let tokens = TokenGenerator::new(seed);
        let (peers, admission) =
            (Peers::new(&config.trunks), Admission::new(&config, &tokens, now));
        let ctx = Context {
            registrar: Registrar::new(
                config.limits.contacts,
                config.limits.min_expires,
                config.limits.max_expires,
            ),
            transactions: Transactions::new(config.timing, config.limits.transactions),
            timers: Timers::default(),
            tokens,
            logins: config.trunks.iter().filter_map(TrunkLogins::of).collect(),
            targets: TargetStates::default(),
            refusals: RefusalLog::default(),
            counters: Counters::default(),
            takes_calls: true,
            outputs: VecDeque::new(),
            certificates: PeerCertificates::default(),
            domain: LocalDomain::new(config, locals),
        };
        let mut agent = Self {
            peers,
            legs: LegTable::default(),
            admission,
            qualification: Qualification::default(),
            trunk_connections: TrunkConnections::new(&ctx.domain.config.trunks, &ctx, now),
            trunk_names,
            trunk_presence: TrunkPresence::default(),
            trunk_registrations: TrunkRegistrations::default(),
            ctx,
        };
        agent.trunk_presence.handle_directory(&mut agent.ctx, now);
        agent.trunk_registrations.handle_directory(&mut agent.ctx, now);
        agent
    }

    /// Takes back where phones were before a restart, so that calls reach them before they register
    /// again.
    pub fn restore(&mut self, device: &DeviceId, bindings: Vec<KeptBinding>, now: Now) {
        // What is kept is of datagrams.
        let ours = self
            .config()
            .account(device)
            .is_some_and(|account| account.transport.allows(Protocol::Udp));
        let bindings = if ours { bindings } else { Vec::new() };
        if self.ctx.registrar.restore(device, bindings, &self.ctx.domain.locals, now) {
            self.ctx.registered(device.clone(), true);
        }
        self.qualification.handle_bindings(device, &mut self.ctx, now);
        self.finish_step(now);
    }

    /// Other accounts and trunks from now on. The phones of an account that is gone, or has another
    /// number or password, are registered no more; legs go on until the B2BUA ends them.
    pub fn handle_directory(&mut self, mut new: SipDirectory, now: Now) {
        self.trunk_names.handle_trunks(&mut new.trunks, now);
        if new.trunks != self.config().trunks {
            self.ctx.logins = new.trunks.iter().filter_map(TrunkLogins::of).collect();
            self.admission.change_trunks(&new.trunks);
        }
        let with_trunks: BTreeSet<&str> =
            self.legs.iter().filter_map(|leg| leg.peer().trunk()).collect();
        let changes = self.ctx.domain.change(new, |name| with_trunks.contains(name));
        self.handle_trunks(now);
        // Whoever has made the directory does not know what names stand for.
        let by_name = |trunk: &&Trunk| trunk.lookups().next().is_some();
        for trunk in self.ctx.domain.config.trunks.iter().filter(by_name) {
            self.ctx.outputs.push_back(located(trunk));
        }
        for device in changes.unregistered {
            if self.ctx.registrar.remove(&device) {
                self.ctx.registered(device.clone(), false);
            }
            self.qualification.forget(&device, &mut self.ctx);
        }
        for device in changes.qualified {
            self.qualification.forget(&device, &mut self.ctx);
            self.qualification.handle_bindings(&device, &mut self.ctx, now);
        }
        self.finish_step(now);
    }

    /// The trunks are others from now on, or elsewhere.
    fn handle_trunks(&mut self, now: Now) {
        self.trunk_presence.handle_directory(&mut self.ctx, now);
        self.trunk_connections.change(&self.ctx.domain.config.trunks, &self.ctx, now);
        let trunks: Vec<Trunk> = self.ctx.domain.all_trunks().cloned().collect();
        self.peers = Peers::new(&trunks);
        self.trunk_registrations.handle_directory(&mut self.ctx, now);
    }

    /// What a name stands for that was to be looked up, or why for nothing.
    pub fn handle_lookup(
        &mut self,
        lookup: &Lookup,
        answer: Result<LookupAnswer, LookupFault>,
        now: Now,
    ) {
        let hosts = self.trunk_names.handle_answer(lookup, answer, &mut self.ctx, now);
        if let Some(hosts) = hosts {
            for trunk in self.ctx.domain.place(lookup, &hosts) {
                self.ctx.outputs.push_back(located(trunk));
            }
            self.ctx.outputs.push_back(Output::TrunksMoved);
            self.handle_trunks(now);
        }
        self.finish_step(now);
    }

    /// Whether new calls may come. While they may not, OPTIONS outside dialogs is answered 503, and
    /// with a call that is refused so goes when to call again.
    pub fn set_takes_calls(&mut self, takes_calls: bool) {
        self.ctx.takes_calls = takes_calls;
    }

    /// Nothing is to be registered with trunks any more; [`Self::is_leaving`] until they have said
    /// so.
    pub fn leave_trunks(&mut self, now: Now) {
        self.trunk_registrations.stop(&mut self.ctx, now);
        self.finish_step(now);
    }

    /// A trunk has not answered yet that we are registered with it no more.
    pub fn is_leaving(&self) -> bool {
        self.trunk_registrations.is_leaving()
    }

    /// A datagram has come.
    pub fn handle_datagram(&mut self, flow: Flow, datagram: &[u8], now: Now) {
        match parse_datagram(datagram) {
            Ok(message) => self.handle_message(flow, message, now),
            Err(error) => self.handle_malformed(flow, &error, now),
        }
    }

    /// A message has come over a stream.
    pub fn handle_message(&mut self, flow: Flow, message: SipMessage, now: Now) {
        self.ctx.counters.messages += 1;
        match message {
            SipMessage::Request(request) => self.handle_request(flow, request, now),
            SipMessage::Response(response) => self.handle_response(flow, &response, now),
        }
        self.finish_step(now);
    }

    /// Something has come that is no message.
    pub fn handle_malformed(&mut self, flow: Flow, error: &ParseError, now: Now) {
        self.ctx.counters.malformed += 1;
        self.ctx.note_malformed(&flow, error, now);
        let Some(response) = &error.response else {
            return;
        };
        if !self.admission.may_answer(&flow, &mut self.ctx, now) {
            return;
        }
        let mut response = (**response).clone();
        let via = response.headers.stamp_source(flow.peer);
        response.headers.tag_to(&self.ctx.tokens.stateless_tag(&response.headers));
        let path = self.ctx.domain.return_path(flow, via.as_ref(), &response.headers);
        self.ctx.transmit(path.reply, response.to_bytes());
    }

    /// The B2BUA wants something.
    pub fn handle_command(&mut self, command: LegCommand, now: Now) {
        match command {
            LegCommand::Invite { .. } => self.invite(command, now),
            command => {
                self.with_leg(command.leg(), |leg, ctx| leg.handle_command(command, ctx, now));
            }
        }
        self.finish_step(now);
    }

    /// A connection over TLS stands. `names`: those that the other end's certificate has (RFC 5922
    /// 7.1); none where it has shown none.
    pub fn handle_secured(&mut self, flow: &Flow, names: Vec<String>, now: Now) {
        self.ctx.certificates.add(flow.connection, names);
        self.trunk_connections.handle_connected(flow, &mut self.ctx, now);
    }

    /// A connection is gone, or could not be made.
    pub fn handle_unreachable(&mut self, flow: &Flow, now: Now) {
        self.trunk_connections.handle_gone(flow, &mut self.ctx, now);
        self.ctx.certificates.forget(flow.connection);
        self.ctx.transactions.handle_unreachable(flow);
        let gone = self.ctx.registrar.handle_flow_gone(flow);
        self.leave_flow(flow, now);
        for device in gone {
            self.ctx.registered(device, false);
        }
        self.finish_step(now);
    }

    /// A datagram has not arrived, as anybody on the way may say: what has gone to a target of a
    /// trunk, and has not been heard of, has failed.
    pub fn handle_undelivered(&mut self, flow: &Flow, now: Now) {
        let is_there = |trunk: &Trunk| trunk.is_at(flow.protocol, flow.peer);
        if self.ctx.domain.config.trunks.iter().any(is_there) {
            self.ctx.transactions.handle_undelivered(flow);
        }
        self.finish_step(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.ctx.transactions.handle_timeout(now.mono);
        self.finish_step(now);
        for device in self.ctx.registrar.handle_timeout(now.mono) {
            self.ctx.registered(device, false);
        }
        while let Some((leg, timer)) = self.ctx.timers.pop(now.mono) {
            self.with_leg(leg, |leg, ctx| leg.handle_timeout(timer, ctx, now));
            self.finish_step(now);
        }
        self.qualification.handle_timeout(&mut self.ctx, now);
        self.trunk_connections.handle_timeout(&mut self.ctx, now);
        for target in self.trunk_presence.handle_timeout(&mut self.ctx, now) {
            self.trunk_registrations.handle_presence(&target, now);
        }
        self.trunk_names.handle_timeout(&mut self.ctx, now);
        self.trunk_registrations.handle_timeout(&mut self.ctx, now);
        self.finish_step(now);
        self.keep_bindings(now);
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let times = [
            self.ctx.transactions.poll_timeout(),
            self.ctx.timers.next(),
            self.ctx.registrar.poll_timeout(),
            self.qualification.poll_timeout(),
            self.trunk_connections.poll_timeout(),
            self.trunk_presence.poll_timeout(),
            self.trunk_names.poll_timeout(),
            self.trunk_registrations.poll_timeout(),
        ];
        times.into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.ctx.outputs.pop_front()
    }

    /// What has been dealt with in silence.
    pub fn counters(&self) -> Counters {
        self.ctx.counters
    }

    /// The Call-ID of a leg.
    pub fn call_id(&self, leg: LegId) -> Option<&[u8]> {
        self.legs.get(leg).map(|leg| leg.peer().dialog().call_id.as_slice())
    }

    /// The configuration, with trunk addresses filled in.
    pub fn config(&self) -> &SipConfig {
        &self.ctx.domain.config
    }

    /// The devices with phones that can be reached, those behind trunks among them.
    pub fn registered_devices(&self) -> impl Iterator<Item = &DeviceId> {
        self.ctx.registrar.registered().chain(self.trunk_presence.present())
    }

    /// How many calls of each trunk were refused because it calls too often, or because too much is
    /// going on.
    pub fn refused_of_trunks(&self) -> impl Iterator<Item = (&str, u64)> {
        self.admission.refused_of_trunks()
    }

    /// How many legs there are.
    pub fn legs(&self) -> usize {
        self.legs.len()
    }

    /// Nothing goes on: no leg, transaction or timer is left; registrations may be.
    pub fn is_idle(&self) -> bool {
        self.legs.is_empty() && self.ctx.timers.is_empty() && self.ctx.transactions.is_empty()
    }

    fn finish_step(&mut self, now: Now) {
        while let Some(output) = self.ctx.transactions.poll_output() {
            match output {
                transaction::Output::Transmit { flow, bytes } => self.ctx.transmit(flow, bytes),
                transaction::Output::TimedOut(client) => self.handle_failure(client, 408, now),
                transaction::Output::Unreachable(client) => self.handle_failure(client, 503, now),
            }
        }
        self.keep_bindings(now);
    }

    fn keep_bindings(&mut self, now: Now) {
        while let Some((device, bindings)) = self.ctx.registrar.poll_changed(now) {
            self.ctx.outputs.push_back(Output::Bindings { device, bindings });
        }
    }

    /// Lends a leg to `act`, and drops it if it is over then.
    fn with_leg<R>(
        &mut self,
        id: LegId,
        act: impl FnOnce(&mut Leg, &mut Context) -> R,
    ) -> Option<R> {
        let leg = self.legs.get_mut(id)?;
        let result = act(leg, &mut self.ctx);
        if leg.is_over() {
            self.legs.remove(id);
        }
        Some(result)
    }
}

impl LegCommand {
    /// The leg that it is for.
    fn leg(&self) -> LegId {
        match self {
            Self::Invite { leg, .. }
            | Self::Provisional { leg, .. }
            | Self::Accept { leg, .. }
            | Self::Reject { leg, .. }
            | Self::Refuse { leg, .. }
            | Self::Offer { leg, .. }
            | Self::AnswerOffer { leg, .. }
            | Self::RejectOffer { leg, .. }
            | Self::RefuseOffer { leg, .. }
            | Self::Identify { leg, .. }
            | Self::AskToAnswer { leg }
            | Self::TellReferrer { leg, .. }
            | Self::Hangup { leg, .. } => *leg,
        }
    }
}

/// Where a trunk is now.
fn located(trunk: &Trunk) -> Output {
    let (trunk, hosts) = (trunk.name.clone(), trunk.hosts());
    Output::Event(LegEvent::TrunkLocated { trunk, hosts })
}
