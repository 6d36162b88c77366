//! The SIP user agent of a B2BUA: messages in and out, legs towards the B2BUA. A quiet machine.
//!
//! ```text
//!   datagrams, connections                                                    B2BUA
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
//! | `caller` | what a callee is told of its caller |
//! | `redirects` | 3xx of phones |
//! | `allowance` | how often strangers are answered |
//! | `refusals` | what of refusals is written down |
//! | `uas` | requests in |
//! | `uac` | commands and the responses to what we sent |
//! | `refer` | RFC 3515 |
//! | `reliable` | RFC 3262 |
//! | `session` | RFC 4028 |
//! | `qualify` | whether phones are still there |
//! | `connected` | who is at the far end now (RFC 4916, RFC 3325) |
//! | `leg` | what a leg is |
//! | `ways` | where peers are, and by which way each leg is reached |

mod admission;
mod caller;
mod connected;
mod leg;
mod password_throttle;
mod qualify;
mod rate_limiter;
mod redirects;
mod refer;
mod refusals;
mod reliable;
mod session_timer;
mod uac;
mod uas;
mod ways;

#[cfg(test)]
mod tests;

use super::config::{SipAccount, SipConfig, Trunk};
use super::digest::{Authenticator, Credentials};
use super::flow::{Flow, Protocol};
use super::leg::{ANONYMOUS, LegCommand, LegEvent, LegId};
use super::message::{ParseError, SipMessage, SipRequest, SipResponse, escape, parse_datagram};
use super::peer::Peers;
use super::registrar::{KeptBinding, Registrar};
use super::sdp::SdpFault;
use super::timers::Timers;
use super::transaction::{self, Transactions};
use crate::model::{DeviceId, Now, Number};
use admission::TokenGenerator;
use leg::{ClientUse, Leg, LegTimer, ServerUse};
use password_throttle::PasswordThrottle;
pub use password_throttle::WrongPassword;
use qualify::Qualification;
use rate_limiter::{RateLimiter, TrunkCalls};
use refusals::Refusals;
pub use refusals::{RefusedBy, RefusedRequest};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
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
    /// For the B2BUA.
    Event(LegEvent),
    /// To be written in the log; not more often than a person can read.
    WrongPassword(WrongPassword),
    /// The same.
    Refused(RefusedRequest),
    /// Whoever is at the other end of this connection is no stranger any more.
    Known(Flow),
    /// To be written in the log: a phone that has answered OPTIONS leaves them unanswered, or answers again.
    Qualified {
        /// Whose phone.
        device: DeviceId,
        /// It answers.
        answers: bool,
    },
    /// To be written in the log: an INVITE was refused for its description.
    Unusable {
        /// The sender's address.
        source: IpAddr,
        /// The Call-ID.
        call_id: String,
        /// What is wrong with it.
        fault: SdpFault,
    },
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
    config: SipConfig,
    peers: Peers,
    locals: Vec<(Protocol, SocketAddr)>,
    transactions: Transactions<ServerUse, ClientUse>,
    registrar: Registrar,
    /// Where in the configuration the account of a number is, and that of a user name.
    numbers: BTreeMap<Number, usize>,
    users: BTreeMap<String, usize>,
    legs: BTreeMap<LegId, Leg>,
    by_call: BTreeMap<Vec<u8>, BTreeSet<LegId>>,
    timers: Timers<(LegId, LegTimer)>,
    sources: RateLimiter,
    trunk_calls: TrunkCalls,
    guesses: PasswordThrottle,
    qualification: Qualification,
    refusals: Refusals,
    chance: TokenGenerator,
    authenticator: Authenticator,
    logins: BTreeMap<String, Credentials>,
    next_leg: u64,
    counters: Counters,
    outputs: VecDeque<Output>,
}

impl UserAgent {
    /// `locals` are the addresses that are listened on; `seed` is fresh entropy: tags, branches and nonces come from it.
    pub fn new(mut config: SipConfig, locals: Vec<(Protocol, SocketAddr)>, seed: [u8; 32], now: Now) -> Self {
        for trunk in &mut config.trunks {
            trunk.address = trunk.address.or_else(|| trunk.target.parse().ok());
        }
        let chance = TokenGenerator::new(seed);
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
            numbers: index(&config, |account| account.number.clone()),
            users: index(&config, |account| account.username.clone()),
            legs: BTreeMap::new(),
            by_call: BTreeMap::new(),
            timers: Timers::default(),
            sources: RateLimiter::new(config.limits.refusals_per_second, config.limits.sources),
            guesses: PasswordThrottle::default(),
            qualification: Qualification::default(),
            refusals: Refusals::default(),
            authenticator,
            logins,
            chance,
            next_leg: 2,
            counters: Counters::default(),
            outputs: VecDeque::new(),
            trunk_calls: TrunkCalls::new(&config.trunks),
            peers: Peers::new(&config.trunks),
            locals,
            config,
        }
    }

    /// The account that answers to a number.
    fn account_of_number(&self, number: &str) -> Option<&SipAccount> {
        self.config.accounts.get(*self.numbers.get(number)?)
    }

    /// The account that answers challenges under this user name.
    fn account_of_user(&self, user: &str) -> Option<&SipAccount> {
        self.config.accounts.get(*self.users.get(user)?)
    }

    /// Takes back where phones were before a restart, so that calls reach them before they register again.
    pub fn restore(&mut self, device: &DeviceId, bindings: Vec<KeptBinding>, now: Now) {
        let ours = self.config.account(device).is_some();
        let bindings = if ours { bindings } else { Vec::new() };
        if self.registrar.restore(device, bindings, &self.locals, now) {
            self.registered(device.clone(), true);
        }
        self.qualify(device, now);
        self.finish_step(now);
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
        self.counters.messages += 1;
        match message {
            SipMessage::Request(request) => self.handle_request(flow, request, now),
            SipMessage::Response(response) => self.handle_response(flow, &response, now),
        }
        self.finish_step(now);
    }

    /// Something has come that is no message.
    pub fn handle_malformed(&mut self, flow: Flow, error: &ParseError, now: Now) {
        self.counters.malformed += 1;
        self.note_malformed(&flow, error, now);
        let Some(response) = &error.response else { return };
        if !self.may_refuse(&flow, now) {
            return;
        }
        let mut response = (**response).clone();
        let via = response.headers.stamp_source(flow.peer);
        response.headers.tag_to(&self.chance.stateless_tag(&response.headers));
        let path = self.return_path(flow, via.as_ref(), &response.headers);
        self.transmit(path.reply, response.to_bytes());
    }

    /// The B2BUA wants something.
    pub fn handle_command(&mut self, command: LegCommand, now: Now) {
        self.command(command, now);
        self.finish_step(now);
    }

    /// A connection is gone, or could not be made.
    pub fn handle_unreachable(&mut self, flow: &Flow, now: Now) {
        self.transactions.handle_unreachable(flow);
        let gone = self.registrar.handle_flow_gone(flow);
        self.leave_flow(flow, now);
        for device in gone {
            self.registered(device, false);
        }
        self.finish_step(now);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        self.transactions.handle_timeout(now.mono);
        self.finish_step(now);
        for device in self.registrar.handle_timeout(now.mono) {
            self.registered(device, false);
        }
        while let Some((leg, timer)) = self.timers.pop(now.mono) {
            self.handle_leg_timer(leg, timer, now);
            self.finish_step(now);
        }
        self.ask_phones(now);
        self.finish_step(now);
        self.keep_bindings(now);
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let times = [
            self.transactions.poll_timeout(),
            self.timers.next(),
            self.registrar.poll_timeout(),
            self.qualification.poll_timeout(),
        ];
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
    pub fn call_id(&self, leg: LegId) -> Option<&[u8]> {
        self.legs.get(&leg).map(|leg| leg.dialog.call_id.as_slice())
    }

    /// The configuration, with trunk addresses filled in.
    pub fn config(&self) -> &SipConfig {
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

    fn finish_step(&mut self, now: Now) {
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
    fn locate(&mut self, key: LegId) {
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

    fn add_leg(&mut self, key: LegId, leg: Leg) {
        self.by_call.entry(leg.dialog.call_id.clone()).or_default().insert(key);
        self.legs.insert(key, leg);
    }

    fn remove_leg(&mut self, key: LegId) {
        let Some(leg) = self.legs.remove(&key) else { return };
        if let Some(legs) = self.by_call.get_mut(&leg.dialog.call_id) {
            legs.remove(&key);
            if legs.is_empty() {
                self.by_call.remove(&leg.dialog.call_id);
            }
        }
        self.stop_timers(key);
    }

    fn stop_timers(&mut self, key: LegId) {
        for timer in LegTimer::ALL {
            self.timers.clear(&(key, timer));
        }
    }

    fn legs_of(&self, call_id: &[u8]) -> impl Iterator<Item = (LegId, &Leg)> {
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

    /// Our Contact on a leg: its user part is the number that we go by there, so that a phone that refers to it, or calls it
    /// later, names somebody (RFC 5589 7).
    fn contact(&self, flow: &Flow, number: &Number) -> Vec<u8> {
        let number = if number.as_str().is_empty() { ANONYMOUS } else { number.as_str() };
        let user = String::from_utf8_lossy(&escape(number.as_bytes())).into_owned();
        let transport = match flow.protocol {
            Protocol::Udp => "",
            Protocol::Tcp => ";transport=tcp",
        };
        format!("<sip:{user}@{}:{}{transport}>", self.via_host(flow), flow.local.port()).into_bytes()
    }

    /// Puts our Via on a request; the branch tells us later that it was ours.
    fn stamp(&mut self, request: &mut SipRequest, flow: &Flow) -> Vec<u8> {
        let branch = self.chance.branch();
        self.stamp_with(request, flow, &branch);
        branch
    }

    fn stamp_with(&self, request: &mut SipRequest, flow: &Flow, branch: &[u8]) {
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

    fn stateless(&mut self, flow: Flow, response: SipResponse) {
        let tag = self.chance.stateless_tag(&response.headers);
        let via = response.headers.via_top().ok();
        let path = self.return_path(flow, via.as_ref(), &response.headers);
        self.transmit(path.reply, response.with_to_tag(&tag).to_bytes());
    }
}

/// Of two accounts of one name the first counts.
fn index<K: Ord>(config: &SipConfig, name: impl Fn(&SipAccount) -> K) -> BTreeMap<K, usize> {
    let numbered = config.accounts.iter().enumerate().rev();
    numbered.map(|(at, account)| (name(account), at)).collect()
}
