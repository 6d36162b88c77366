//! Our registrations with trunks (RFC 3261 10.2): as a phone registers with a switch, so that its
//! calls come here.
//!
//! ```text
//! Waiting ──its time──▶ Asking ──200──▶ Registered, for as long as was granted less a while
//!    ▲                    │ 401, 407, 423: once more; 408, 503, no way there: the next target
//!    └─ 5 s, 10 s, … 300 s ◀┘ (or Retry-After)
//! ```

use super::Output;
use super::context::Context;
use super::leg::{ClientUse, SentRequest};
use super::trunk_presence::{TargetOf, target_uri};
use super::trunk_targets::{NextHop, TargetAddress};
use crate::model::Now;
use crate::rate_limit::back_off;
use crate::sip::config::{Registration, TrunkTarget};
use crate::sip::digest::Credentials;
use crate::sip::flow::Flow;
use crate::sip::message::{Headers, Method, NameAddr, SipRequest, SipResponse, Uri};
use crate::sip::timers::Timers;
use crate::sip::transaction::{ClientTransactionId, TransactionKind};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long until the first new attempt; twice that until the next, and so on.
const FIRST: Duration = Duration::from_secs(5);
/// How long at most (RFC 5626 4.5 has 30 minutes: nobody could call meanwhile).
const LONGEST: Duration = Duration::from_secs(300);
/// A Retry-After is obeyed for no longer than this.
const LONGEST_REST: Duration = Duration::from_secs(3600);
/// No registration is refreshed sooner, whatever the registrar grants.
const SHORTEST: Duration = Duration::from_secs(10);
/// So long before its end a registration is refreshed, or at three quarters of it.
const MARGIN: Duration = Duration::from_secs(60);
/// No registrar asks for more than this (423, RFC 3261 10.2.8).
const LONGEST_EXPIRES: Duration = Duration::from_secs(86_400);
/// Challenges and 423 together: no honest registrar answers more often.
const MOST_ATTEMPTS: u8 = 4;

/// How a registration stands, for log and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegistrationState {
    /// It is granted for so long.
    Registered {
        /// How long it is granted.
        expires: Duration,
    },
    /// It is not, and is tried again.
    Failed {
        /// The status of the refusal; 408: nobody has answered, 503: nobody could be reached.
        status: u16,
        /// When it is tried again.
        wait: Duration,
    },
    /// It is taken back: we stop, or it is configured no more.
    Removed,
}

/// Our registrations.
#[derive(Debug, Default)]
pub(super) struct TrunkRegistrations {
    trunks: BTreeMap<String, TrunkRegistration>,
    /// Those of no trunk any more, until the registrar has taken them back.
    former: Vec<(String, TrunkRegistration)>,
    timers: Timers<String>,
    /// Nothing is registered any more.
    is_stopping: bool,
}

/// Our registration with one trunk.
#[derive(Debug)]
struct TrunkRegistration {
    registration: Registration,
    /// The same for all requests to one registrar (RFC 3261 10.2).
    call_id: String,
    tag: String,
    cseq: u32,
    /// What is asked for: as configured, or what the registrar wants at least.
    expires: Duration,
    /// Rounds in a row without success.
    failures: u32,
    /// Targets that have failed in this round.
    tried: Vec<TargetAddress>,
    /// The request that waits for its answer.
    waiting: Option<ClientTransactionId>,
    /// Where we are registered.
    at: Option<RegisteredAt>,
    /// Its trunk has another registration, or none: what it answers challenges with.
    former_login: Option<Credentials>,
    /// What was told last.
    is_registered: Option<bool>,
}

/// Where a registration has been granted.
#[derive(Debug)]
struct RegisteredAt {
    target: TrunkTarget,
    flow: Flow,
}

impl RegisteredAt {
    fn address(&self) -> TargetAddress {
        (self.flow.protocol, self.flow.peer)
    }
}

impl TrunkRegistrations {
    /// When to call [`Self::handle_timeout`].
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Requests that wait for an answer, of registrations that are taken back.
    pub(super) fn is_leaving(&self) -> bool {
        !self.former.is_empty() || self.trunks.values().any(|one| one.waiting.is_some())
    }

    /// The trunks, or what their names stand for, are others from now on.
    pub(super) fn handle_directory(&mut self, ctx: &mut Context, now: Now) {
        let trunks = ctx.domain.config.trunks.clone();
        let of = |name: &str| {
            let trunk = trunks.iter().find(|trunk| trunk.name == name);
            trunk.and_then(|trunk| trunk.registration.as_ref())
        };
        let gone: Vec<String> = self
            .trunks
            .iter()
            .filter(|(name, one)| of(name) != Some(&one.registration))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            self.timers.clear(&name);
            if let Some(mut one) = self.trunks.remove(&name) {
                // Nobody waits for its answer any more.
                one.waiting.take().into_iter().for_each(|id| ctx.transactions.abandon(id));
                one.leave(&name, ctx, now);
                one.tell(&name, RegistrationState::Removed, ctx);
                if one.waiting.is_some() {
                    one.former_login = Some(login_of(&name, &one.registration));
                    self.former.push((name, one));
                }
            }
        }
        for trunk in &trunks {
            let Some(registration) = &trunk.registration else { continue };
            let is_new = !self.trunks.contains_key(&trunk.name);
            let one = self
                .trunks
                .entry(trunk.name.clone())
                .or_insert_with(|| TrunkRegistration::new(registration, ctx));
            let is_moved =
                one.at.as_ref().is_some_and(|at| !trunk.is_at(at.flow.protocol, at.flow.peer));
            // It waits for its name, or has lost its place.
            let is_lost = one.at.is_none() && one.failures == 0;
            if (is_new || is_moved || is_lost) && one.waiting.is_none() && !self.is_stopping {
                self.timers.set(trunk.name.clone(), now.mono);
            }
        }
    }

    /// Asks for what is due.
    pub(super) fn handle_timeout(&mut self, ctx: &mut Context, now: Now) {
        while let Some(name) = self.timers.pop(now.mono) {
            // RFC 3261 10.2: what takes a binding back might come after what makes it anew.
            let is_taken_back = self.former.iter().any(|(former, _)| *former == name);
            if let Some(one) = self.trunks.get_mut(&name)
                && one.waiting.is_none()
                && !is_taken_back
            {
                one.tried.clear();
                let wait = one.ask(&name, ctx, now);
                wait.into_iter().for_each(|wait| self.timers.set(name.clone(), now.mono + wait));
            }
        }
    }

    /// A target has begun to answer, or answers no more: what was registered there is asked for
    /// anew.
    pub(super) fn handle_presence(&mut self, target: &TargetOf, now: Now) {
        let Some(one) = self.trunks.get(&target.trunk).filter(|_| !self.is_stopping) else {
            return;
        };
        let is_there = one.at.as_ref().is_none_or(|at| at.address() == target.address);
        if is_there && one.waiting.is_none() {
            self.timers.set(target.trunk.clone(), now.mono);
        }
    }

    /// A REGISTER was answered.
    pub(super) fn handle_response(
        &mut self,
        name: &str,
        sent: &SentRequest,
        response: &SipResponse,
        ctx: &mut Context,
        now: Now,
    ) {
        if response.status < 200 {
            return;
        }
        if let Some(place) = self.former_of(sent) {
            let (name, one) = &mut self.former[place];
            if !one.improve(name, sent, response, ctx, now) {
                self.forget_former(place, now);
            }
            return;
        }
        let Some(one) = self.trunks.get_mut(name) else { return };
        one.waiting = None;
        if one.improve(name, sent, response, ctx, now) {
            return;
        }
        if self.is_stopping {
            return one.tell(name, RegistrationState::Removed, ctx);
        }
        let wait = match response.status {
            200..300 => one.handle_granted(name, sent, response, ctx),
            status => {
                let after = retry_after(&response.headers);
                one.handle_refused(name, sent.flow, (status, after), ctx, now)
            }
        };
        wait.into_iter().for_each(|wait| self.timers.set(name.to_owned(), now.mono + wait));
    }

    /// The registration of no trunk any more that a request takes back.
    fn former_of(&self, sent: &SentRequest) -> Option<usize> {
        let call_id = sent.request.headers.get("Call-ID");
        self.former.iter().position(|(_, one)| call_id == Some(one.call_id.as_bytes()))
    }

    /// A registration of no trunk any more is taken back, or can not be: another one that its trunk
    /// may have is asked for now.
    fn forget_former(&mut self, place: usize, now: Now) {
        let (name, _) = self.former.remove(place);
        if !self.is_stopping && self.trunks.contains_key(&name) {
            self.timers.set(name, now.mono);
        }
    }

    /// A REGISTER found nobody: 408 or 503.
    pub(super) fn handle_failure(
        &mut self,
        name: &str,
        sent: &SentRequest,
        status: u16,
        ctx: &mut Context,
        now: Now,
    ) {
        if let Some(place) = self.former_of(sent) {
            return self.forget_former(place, now);
        }
        let Some(one) = self.trunks.get_mut(name) else { return };
        one.waiting = None;
        if self.is_stopping {
            return one.tell(name, RegistrationState::Removed, ctx);
        }
        let wait = one.handle_refused(name, sent.flow, (status, None), ctx, now);
        wait.into_iter().for_each(|wait| self.timers.set(name.to_owned(), now.mono + wait));
    }

    /// Every registration is taken back (RFC 3261 10.2.2).
    pub(super) fn stop(&mut self, ctx: &mut Context, now: Now) {
        self.is_stopping = true;
        self.timers = Timers::default();
        for (name, one) in &mut self.trunks {
            one.waiting.take().into_iter().for_each(|id| ctx.transactions.abandon(id));
            one.leave(name, ctx, now);
        }
    }
}

impl TrunkRegistration {
    fn new(registration: &Registration, ctx: &mut Context) -> Self {
        Self {
            registration: registration.clone(),
            call_id: ctx.tokens.word(),
            tag: ctx.tokens.word(),
            cseq: 0,
            expires: registration.expires,
            failures: 0,
            tried: Vec::new(),
            waiting: None,
            at: None,
            former_login: None,
            is_registered: None,
        }
    }

    /// Asks the best target that has not failed in this round; how long to wait when there is none.
    fn ask(&mut self, name: &str, ctx: &mut Context, now: Now) -> Option<Duration> {
        let trunk = ctx.domain.config.trunk(name)?.clone();
        // A name is still looked up: what is found begins anew.
        trunk.addresses().next()?;
        let order = ctx.targets.order(&trunk, &ctx.domain.locals, &mut ctx.tokens, now);
        let is_left =
            |hop: &&NextHop<'_>| !self.tried.contains(&(hop.flow.protocol, hop.flow.peer));
        let Some(hop) = order.iter().find(is_left).copied() else {
            // All are known to be gone.
            return Some(self.fail(name, (503, None), ctx));
        };
        self.send(name, &hop, self.expires, ctx, now);
        None
    }

    fn send(
        &mut self,
        name: &str,
        hop: &NextHop<'_>,
        expires: Duration,
        ctx: &mut Context,
        now: Now,
    ) {
        let user = self.registration.user.as_bytes();
        let (host, port) = (hop.target.uri_host(), hop.target.port);
        let (Ok(uri), Ok(record)) = (target_uri(hop, None), Uri::sip(Some(user), &host, port))
        else {
            return;
        };
        self.cseq += 1;
        let flow = hop.flow;
        let register = SipRequest::new(Method::Register, uri)
            .with("Max-Forwards", "70")
            .with("From", NameAddr::new(record.clone()).with_tag(&self.tag).to_bytes())
            .with("To", NameAddr::new(record).to_bytes())
            .with("Call-ID", &self.call_id)
            .with("CSeq", format!("{} REGISTER", self.cseq))
            .with("Contact", self.contact(&flow, expires, ctx))
            .with("Expires", expires.as_secs().to_string())
            .with("User-Agent", &ctx.domain.config.product);
        let name = name.to_owned();
        let id = ctx.request(register, flow, |sent| ClientUse::Register(name, sent), now);
        self.waiting = Some(id);
    }

    /// Our Contact, for so long.
    fn contact(&self, flow: &Flow, expires: Duration, ctx: &Context) -> Vec<u8> {
        let contact = ctx.domain.contact(flow, false, &self.registration.contact_user);
        let seconds = expires.as_secs().to_string();
        [contact.as_slice(), b";expires=", seconds.as_bytes()].concat()
    }

    /// A refused REGISTER once more: with an answer to the challenge, or for a longer time.
    fn improve(
        &mut self,
        name: &str,
        sent: &SentRequest,
        response: &SipResponse,
        ctx: &mut Context,
        now: Now,
    ) -> bool {
        if sent.attempts >= MOST_ATTEMPTS {
            return false;
        }
        let mut request = sent.request.clone();
        match response.status {
            401 | 407 => {
                let answer = match &mut self.former_login {
                    Some(login) => ctx.answer_challenge_by(login, name, sent, response),
                    None => ctx.answer_challenge(name, sent, response),
                };
                let Some((header, answer)) = answer else { return false };
                request.headers.set(header, answer);
            }
            // What takes a registration back is not asked for a longer time.
            423 if request.headers.get("Expires") == Some(b"0") => return false,
            423 => {
                let least = response.headers.get("Min-Expires").and_then(number);
                let Some(least) = least.map(Duration::from_secs) else { return false };
                if least <= self.expires || least > LONGEST_EXPIRES {
                    return false;
                }
                self.expires = least;
                request.headers.set("Contact", self.contact(&sent.flow, least, ctx));
                request.headers.set("Expires", least.as_secs().to_string());
            }
            _ => return false,
        }
        self.cseq += 1;
        request.headers.set("CSeq", format!("{} REGISTER", self.cseq));
        let again = ctx.sent(request, sent.flow, sent.attempts + 1);
        let client = ClientUse::Register(name.to_owned(), again.clone());
        self.waiting = Some(ctx.send(TransactionKind::Other, client, &again, now));
        true
    }

    /// How long until it is refreshed.
    fn handle_granted(
        &mut self,
        name: &str,
        sent: &SentRequest,
        response: &SipResponse,
        ctx: &mut Context,
    ) -> Option<Duration> {
        // RFC 3261 10.3: a registrar may shorten it, and nobody needs it shorter than this.
        let asked = self.expires;
        let granted = granted(sent, response).unwrap_or(asked).min(asked);
        if granted.is_zero() {
            return Some(self.fail(name, (response.status, None), ctx));
        }
        self.failures = 0;
        let (protocol, peer) = (sent.flow.protocol, sent.flow.peer);
        let trunk = ctx.domain.trunk(name);
        let target = trunk.and_then(|trunk| trunk.target_at(protocol, peer)).cloned();
        self.at = target.map(|target| RegisteredAt { target, flow: sent.flow });
        self.tell(name, RegistrationState::Registered { expires: granted }, ctx);
        Some((granted - (granted / 4).min(MARGIN)).max(SHORTEST))
    }

    /// The next target, or how long until a new round.
    fn handle_refused(
        &mut self,
        name: &str,
        flow: Flow,
        (status, after): (u16, Option<Duration>),
        ctx: &mut Context,
        now: Now,
    ) -> Option<Duration> {
        let target = (flow.protocol, flow.peer);
        if !matches!(status, 408 | 500..=599) {
            return Some(self.fail(name, (status, after), ctx));
        }
        if let Some(after) = after {
            ctx.targets.rest(target, after, now);
        }
        self.tried.push(target);
        let trunk = ctx.domain.config.trunk(name)?.clone();
        let is_left = trunk.addresses().any(|at| !self.tried.contains(&at));
        match is_left {
            true => self.ask(name, ctx, now),
            false => Some(self.fail(name, (status, after), ctx)),
        }
    }

    /// How long until a new round.
    fn fail(
        &mut self,
        name: &str,
        (status, after): (u16, Option<Duration>),
        ctx: &mut Context,
    ) -> Duration {
        let own = ctx.tokens.scattered(back_off(FIRST, self.failures, LONGEST));
        self.failures += 1;
        self.at = None;
        let wait = after.map_or(own, |after| own.max(after.min(LONGEST_REST)));
        self.tell(name, RegistrationState::Failed { status, wait }, ctx);
        wait
    }

    /// Takes the registration back.
    fn leave(&mut self, name: &str, ctx: &mut Context, now: Now) {
        if let Some(RegisteredAt { target, flow }) = self.at.take() {
            self.send(name, &NextHop { target: &target, flow }, Duration::ZERO, ctx, now);
        }
    }

    /// Once for each change.
    fn tell(&mut self, name: &str, state: RegistrationState, ctx: &mut Context) {
        let is = matches!(state, RegistrationState::Registered { .. });
        if self.is_registered.replace(is) != Some(is) || state == RegistrationState::Removed {
            let trunk = name.to_owned();
            ctx.outputs.push_back(Output::Registration { trunk, state });
        }
    }
}

/// What the registrar's challenges are answered with.
pub(super) fn login_of(trunk: &str, registration: &Registration) -> Credentials {
    let Registration { user, password, realm, .. } = registration;
    Credentials::new(trunk, realm.as_deref(), user, password.expose())
}

/// How long our Contact is registered, by a 200: as its Contact says, else its Expires.
fn granted(sent: &SentRequest, response: &SipResponse) -> Option<Duration> {
    let ours = sent.request.headers.contacts().unwrap_or_default();
    let ours = &ours.first()?.uri;
    let contacts = response.headers.contacts().unwrap_or_default();
    let own = contacts.iter().find(|contact| contact.uri.same(ours));
    let by_contact = own.and_then(|contact| number(contact.params.get("expires")?));
    let by_header = || response.headers.expires().ok().map(u64::from);
    by_contact.or_else(by_header).map(Duration::from_secs)
}

/// What a Retry-After says (RFC 3261 20.33).
pub(super) fn retry_after(headers: &Headers) -> Option<Duration> {
    let value = headers.get("Retry-After")?;
    let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
    number(&value[..digits]).map(Duration::from_secs)
}

fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text.trim_ascii()).ok()?;
    text.parse::<u32>().ok().map(u64::from)
}
