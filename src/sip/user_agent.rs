//! The SIP user agent of a B2BUA: messages in and out, legs towards the switchboard. A quiet machine.
//!
//! ```text
//!   datagrams, connections                                                    switchboard
//!  ───── handle_datagram ────▶ checks ─▶ transactions ─▶ dialogs, legs ─────▶ LegEvent
//!  ◀──── Output::Transmit ───────────────────┴──────────────┴─ handle_command ◀ LegCommand
//! ```
//!
//! After every `handle_*`, drain [`UserAgent::poll_output`], then wait until [`UserAgent::poll_timeout`] at the latest. What anybody may
//! send (a request of nobody we know) is answered statelessly (RFC 3261 8.2.7): it costs no memory, and over a rate it is not
//! answered at all. A transaction is made only for a request that was authenticated, or that belongs to a dialog.
//!
//! | part | what |
//! |---|---|
//! | `admission` | who may ask what: targets, digests, trunks, loops |
//! | `guesses` | wrong passwords |
//! | `uas` | requests in |
//! | `uac` | commands and the responses to what we sent |
//! | `refer` | RFC 3515 |
//! | `reliable` | RFC 3262 |
//! | `session` | RFC 4028 |
//! | `leg` | what a leg is |

mod admission;
mod guesses;
mod leg;
mod refer;
mod reliable;
mod session;
mod uac;
mod uas;

#[cfg(test)]
mod tests;

use super::config::{Config, Trunk};
use super::digest::{Authenticator, Credentials};
use super::flow::{ConnectionId, Flow, Protocol};
use super::leg::{LegCommand, LegEvent, LegKey, LegSource};
use super::message::{Message, ParseError, Request, Response, parse_datagram};
use super::registrar::{KeptBinding, Registrar};
use super::timers::Timers;
use super::transaction::{self, Transactions};
use crate::words::{DeviceId, Now};
use admission::{Chance, Sources};
use guesses::Guesses;
pub use guesses::WrongPassword;
use leg::{ClientUse, Leg, LegTimer, ServerUse, State, Way};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;

/// What the user agent wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes for a peer.
    Transmit {
        /// The way.
        flow: Flow,
        /// A whole message.
        bytes: Vec<u8>,
    },
    /// For the switchboard.
    Event(LegEvent),
    /// To be written in the log; not more often than a person can read.
    WrongPassword(WrongPassword),
    /// To be kept for [`UserAgent::restore`].
    Bindings {
        /// Whose phones.
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
    /// Requests refused with 503 because too many wrong digests for this device have come from there; their digests were not looked at.
    pub throttled: u64,
}

/// The user agent.
#[derive(Debug)]
pub struct UserAgent {
    config: Config,
    locals: Vec<(Protocol, SocketAddr)>,
    transactions: Transactions<ServerUse, ClientUse>,
    registrar: Registrar,
    legs: BTreeMap<LegKey, Leg>,
    by_call: BTreeMap<Vec<u8>, BTreeSet<LegKey>>,
    timers: Timers<(LegKey, LegTimer)>,
    sources: Sources,
    guesses: Guesses,
    chance: Chance,
    authenticator: Authenticator,
    logins: BTreeMap<String, Credentials>,
    next_leg: u64,
    counters: Counters,
    outputs: VecDeque<Output>,
}

impl UserAgent {
    /// `locals` are the addresses that are listened on; `seed` is fresh entropy: tags, branches and nonces come from it.
    pub fn new(mut config: Config, locals: Vec<(Protocol, SocketAddr)>, seed: [u8; 32], now: Now) -> Self {
        for trunk in &mut config.trunks {
            trunk.address = trunk.address.or_else(|| trunk.target.parse().ok());
        }
        let chance = Chance::new(seed);
        let authenticator = Authenticator::new(
            chance.derive("nonce"),
            &config.realm,
            config.algorithms.clone(),
            config.nonce_lifetime,
            now.mono,
        );
        let login = |trunk: &Trunk| {
            let login = trunk.login.as_ref()?;
            let credentials = Credentials::new(&trunk.name, &login.realm, &login.username, &login.password);
            Some((trunk.name.clone(), credentials))
        };
        let logins = config.trunks.iter().filter_map(login).collect();
        Self {
            transactions: Transactions::new(config.timing, config.limits.transactions),
            registrar: Registrar::new(config.limits.contacts, config.limits.min_expires, config.limits.max_expires),
            legs: BTreeMap::new(),
            by_call: BTreeMap::new(),
            timers: Timers::default(),
            sources: Sources::new(config.limits.refusals_per_second, config.limits.sources),
            guesses: Guesses::default(),
            authenticator,
            logins,
            chance,
            next_leg: 2,
            counters: Counters::default(),
            outputs: VecDeque::new(),
            locals,
            config,
        }
    }

    /// Takes back where phones were before a restart, so that calls reach them before they register again.
    pub fn restore(&mut self, device: &DeviceId, bindings: Vec<KeptBinding>, now: Now) {
        let ours = self.config.account(device).is_some();
        let bindings = if ours { bindings } else { Vec::new() };
        if self.registrar.restore(device, bindings, &self.locals, now) {
            self.registered(device.clone(), true);
        }
        self.settle(now);
    }

    /// A datagram has come.
    pub fn handle_datagram(&mut self, flow: Flow, datagram: &[u8], now: Now) {
        match parse_datagram(datagram) {
            Ok(message) => self.handle_message(flow, message, now),
            Err(error) => self.handle_malformed(flow, &error, now),
        }
    }

    /// A message has come over a stream.
    pub fn handle_message(&mut self, flow: Flow, message: Message, now: Now) {
        self.counters.messages += 1;
        match message {
            Message::Request(request) => self.handle_request(flow, request, now),
            Message::Response(response) => self.handle_response(flow, &response, now),
        }
        self.settle(now);
    }

    /// Something has come that is no message.
    pub fn handle_malformed(&mut self, flow: Flow, error: &ParseError, now: Now) {
        self.counters.malformed += 1;
        let Some(response) = &error.response else { return };
        if !self.may_refuse(&flow, now) {
            return;
        }
        let mut response = (**response).clone();
        response.headers.stamp_source(flow.peer);
        response.headers.tag_to(&self.chance.stateless_tag(&response.headers));
        self.transmit(flow, response.to_bytes());
    }

    /// The switchboard wants something.
    pub fn handle_command(&mut self, command: LegCommand, now: Now) {
        self.command(command, now);
        self.settle(now);
    }

    /// A connection is gone, or could not be made.
    pub fn handle_unreachable(&mut self, flow: &Flow, now: Now) {
        self.transactions.handle_unreachable(flow);
        let gone = self.registrar.handle_flow_gone(flow);
        self.leave_flow(flow, now);
        for device in gone {
            self.registered(device, false);
        }
        self.settle(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.transactions.handle_timeout(now.mono);
        self.settle(now);
        for device in self.registrar.handle_timeout(now.mono) {
            self.registered(device, false);
        }
        while let Some((leg, timer)) = self.timers.pop(now.mono) {
            self.handle_leg_timer(leg, timer, now);
            self.settle(now);
        }
        self.keep_bindings(now);
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let times = [self.transactions.poll_timeout(), self.timers.next(), self.registrar.poll_timeout()];
        times.into_iter().flatten().min()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What has been dealt with in silence.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// The Call-ID of a leg.
    pub fn call_id(&self, leg: LegKey) -> Option<&[u8]> {
        self.legs.get(&leg).map(|leg| leg.dialog.call_id.as_slice())
    }

    /// The configuration, with trunk addresses filled in.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The devices whose phones can be reached.
    pub fn registered_devices(&self) -> impl Iterator<Item = &DeviceId> {
        self.registrar.registered()
    }

    /// How many legs there are.
    pub fn legs(&self) -> usize {
        self.legs.len()
    }

    /// Nothing goes on: no leg, transaction or timer is left; registrations may be.
    pub fn is_idle(&self) -> bool {
        self.legs.is_empty() && self.by_call.is_empty() && self.timers.is_empty() && self.transactions.is_empty()
    }

    /// A connection carries a registration or a call, or is a trunk's: it is not closed for being idle.
    pub fn needs(&self, flow: &Flow) -> bool {
        let named = Flow {
            connection: ConnectionId::NONE,
            ..*flow
        };
        let carries = |used: &Flow| *used == *flow || *used == named;
        self.config.trunks.iter().any(|trunk| trunk.owns(flow.protocol, flow.peer))
            || self.registrar.flows().any(carries)
            || self.legs.values().any(|leg| carries(&leg.dialog.flow))
    }

    /// Trunks can be reached by another connection; phones by another registration, or when they come back.
    fn leave_flow(&mut self, gone: &Flow, now: Now) {
        let leaving = self.legs.iter().filter(|(_, leg)| leg.dialog.flow == *gone);
        for key in leaving.map(|(key, _)| *key).collect::<Vec<_>>() {
            let Some(leg) = self.legs.get_mut(&key) else { continue };
            match &leg.peer {
                LegSource::Trunk(name) => {
                    let trunk = self.config.trunks.iter().find(|trunk| trunk.name == *name);
                    let trunk = trunk.filter(|trunk| trunk.protocol == gone.protocol);
                    if let Some(peer) = trunk.and_then(|trunk| trunk.address) {
                        leg.dialog.flow = Flow {
                            peer,
                            connection: ConnectionId::NONE,
                            ..*gone
                        };
                    }
                }
                LegSource::Account(device) => match self.registrar.lookup(device, now.mono).map(|binding| binding.flow) {
                    Some(flow) => self.follow(key, flow, now),
                    None => leg.way = Way::Lost,
                },
            }
        }
    }

    /// A phone has registered by `flow`: its legs leave the ways that it has left.
    fn follow_phone(&mut self, device: &DeviceId, flow: Flow, call_id: &[u8], now: Now) {
        let has_left = |leg: &Leg| match leg.way {
            Way::Lost => true,
            Way::Own => false,
            // A phone registers under one Call-ID as long as it runs (RFC 3261 10.2): its other ways are older ones.
            Way::Registered => {
                let mut others = self.registrar.of(device, now.mono).filter(|binding| !binding.is_of(call_id));
                leg.dialog.flow != flow && !others.any(|binding| binding.flow == leg.dialog.flow)
            }
        };
        let of_phone = |leg: &Leg| matches!(&leg.peer, LegSource::Account(peer) if peer == device);
        let moving = self.legs.iter().filter(|(_, leg)| of_phone(leg) && has_left(leg));
        for key in moving.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.follow(key, flow, now);
        }
    }

    /// A leg's phone is reached by another way from now on: what has waited for it is said.
    fn follow(&mut self, key: LegKey, flow: Flow, now: Now) {
        let Some(leg) = self.legs.get_mut(&key) else { return };
        leg.dialog.flow = flow;
        leg.way = Way::Registered;
        let waits_for_ack = leg.unacknowledged.as_mut().map(|waiting| waiting.flow = flow).is_some();
        let parting = match leg.state {
            State::Parting(reason) if !waits_for_ack => Some(reason),
            _ => None,
        };
        let located = leg.located.is_some();
        self.timers.clear(&(key, LegTimer::Lost));
        if located {
            self.locate(key);
        }
        match parting {
            Some(reason) => self.send_bye(key, reason, now),
            None => self.send_queued(key, now),
        }
    }

    /// Something is to be said to a phone that can not be reached: for so long as any request waits for its answer, it may come back.
    fn wait_for_phone(&mut self, key: LegKey, now: Now) {
        if !self.timers.is_set(&(key, LegTimer::Lost)) {
            self.timers.set((key, LegTimer::Lost), now.mono + self.config.timing.give_up());
        }
    }

    fn settle(&mut self, now: Now) {
        while let Some(output) = self.transactions.poll_output() {
            match output {
                transaction::Output::Transmit { flow, bytes } => self.transmit(flow, bytes),
                transaction::Output::TimedOut(client) => self.handle_failure(client, 408, now),
                transaction::Output::Unreachable(client) => self.handle_failure(client, 503, now),
            }
        }
        self.keep_bindings(now);
    }

    fn keep_bindings(&mut self, now: Now) {
        while let Some((device, bindings)) = self.registrar.poll_changed(now) {
            self.outputs.push_back(Output::Bindings { device, bindings });
        }
    }

    fn transmit(&mut self, flow: Flow, bytes: Vec<u8>) {
        self.outputs.push_back(Output::Transmit { flow, bytes });
    }

    fn event(&mut self, event: LegEvent) {
        match event {
            LegEvent::Incoming { leg, .. }
            | LegEvent::Progress { leg, .. }
            | LegEvent::Answered { leg, .. }
            | LegEvent::Confirmed { leg, .. }
            | LegEvent::Offered { leg, .. }
            | LegEvent::OfferAnswered { leg, .. } => self.locate(leg),
            _ => {}
        }
        self.outputs.push_back(Output::Event(event));
    }

    /// Says where a leg is, if that is news.
    fn locate(&mut self, key: LegKey) {
        let Some(leg) = self.legs.get_mut(&key) else { return };
        let (host, is_translated) = leg.whereabouts();
        if leg.located != Some((host, is_translated)) {
            leg.located = Some((host, is_translated));
            self.outputs.push_back(Output::Event(LegEvent::Located {
                leg: key,
                host,
                is_translated,
            }));
        }
    }

    fn registered(&mut self, device: DeviceId, registered: bool) {
        self.event(LegEvent::Registered { device, registered });
    }

    fn add_leg(&mut self, key: LegKey, leg: Leg) {
        self.by_call.entry(leg.dialog.call_id.clone()).or_default().insert(key);
        self.legs.insert(key, leg);
    }

    fn remove_leg(&mut self, key: LegKey) {
        let Some(leg) = self.legs.remove(&key) else { return };
        if let Some(legs) = self.by_call.get_mut(&leg.dialog.call_id) {
            legs.remove(&key);
            if legs.is_empty() {
                self.by_call.remove(&leg.dialog.call_id);
            }
        }
        self.stop_timers(key);
    }

    fn stop_timers(&mut self, key: LegKey) {
        for timer in LegTimer::ALL {
            self.timers.clear(&(key, timer));
        }
    }

    fn legs_of(&self, call_id: &[u8]) -> impl Iterator<Item = (LegKey, &Leg)> {
        let keys = self.by_call.get(call_id).into_iter().flatten();
        keys.filter_map(|key| self.legs.get(key).map(|leg| (*key, leg)))
    }

    fn via_host(&self, flow: &Flow) -> String {
        match &self.config.advertised {
            Some(host) => host.clone(),
            None if flow.local.ip().is_ipv6() => format!("[{}]", flow.local.ip()),
            None => flow.local.ip().to_string(),
        }
    }

    fn contact(&self, flow: &Flow) -> Vec<u8> {
        let transport = match flow.protocol {
            Protocol::Udp => "",
            Protocol::Tcp => ";transport=tcp",
        };
        format!("<sip:{}:{}{transport}>", self.via_host(flow), flow.local.port()).into_bytes()
    }

    /// Puts our Via on a request; the branch tells us later that it was ours.
    fn stamp(&mut self, request: &mut Request, flow: &Flow) -> Vec<u8> {
        let branch = self.chance.branch();
        self.stamp_with(request, flow, &branch);
        branch
    }

    fn stamp_with(&self, request: &mut Request, flow: &Flow, branch: &[u8]) {
        request.headers.remove("Via");
        let host = self.via_host(flow);
        let via = [
            format!("SIP/2.0/{} {host}:{};branch=", flow.protocol, flow.local.port()).as_bytes(),
            branch,
            b";rport",
        ]
        .concat();
        request.headers.push_front("Via", via);
    }

    fn stateless(&mut self, flow: Flow, response: Response) {
        let tag = self.chance.stateless_tag(&response.headers);
        self.transmit(flow, response.with_to_tag(&tag).to_bytes());
    }
}
