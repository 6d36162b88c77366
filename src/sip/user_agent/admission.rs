//! Which requests are admitted: targets, digests, trunks.

use super::Output;
use super::call_reasons::asserted_parties;
use super::context::Context;
use super::local_domain::LocalDomain;
use super::password_throttle::{Attempt, PasswordThrottle, WrongPassword};
use super::rate_limiter::{RateLimiter, TrunkCalls};
use super::tokens::TokenGenerator;
use crate::model::{DeviceId, Now};
use crate::sip::config::{AssertedIdentity, SipAccount, SipConfig, Trunk};
use crate::sip::digest::{self, Algorithm, Authenticator, DigestRequest, DigestVerdict};
use crate::sip::flow::Flow;
use crate::sip::leg::LegSource;
use crate::sip::message::{
    Abilities, DESCRIBED, Headers, Method, NameAddr, Refuse, RefuseReason, Scheme, SipRequest, Via,
    printable,
};
use crate::sip::peer::Peer;
use crate::sip::transaction::ServerKey;
use std::net::SocketAddr;

/// What we do, for Allow, Supported and Accept.
pub(super) const ABILITIES: Abilities<'static> = Abilities {
    methods: &[
        Method::Invite,
        Method::Ack,
        Method::Cancel,
        Method::Bye,
        Method::Options,
        Method::Prack,
        Method::Update,
        Method::Info,
        Method::Refer,
        Method::Register,
    ],
    extensions: &["timer", "replaces", "100rel"],
    bodies: &DESCRIBED,
};

/// A user name longer than this is nobody's, in characters.
const LONGEST_USER: usize = 128;

/// The account that a request says it is of.
#[derive(Clone, Copy)]
pub(super) enum Claim<'a> {
    /// An account of ours.
    Account(&'a SipAccount),
    /// A name that nobody here has.
    Nobody(&'a str),
}

impl<'a> Claim<'a> {
    fn account(self) -> Option<&'a SipAccount> {
        match self {
            Claim::Account(account) => Some(account),
            Claim::Nobody(_) => None,
        }
    }

    fn name(self) -> Attempt<'a> {
        match self {
            Claim::Account(account) => Attempt::Device(account.device.as_str()),
            Claim::Nobody(name) => Attempt::Nobody(name),
        }
    }
}

/// Admits requests, challenges them or refuses them: digests, wrong passwords, and how often a
/// source is answered.
#[derive(Debug)]
pub(super) struct Admission {
    authenticator: Authenticator,
    throttle: PasswordThrottle,
    sources: RateLimiter,
    trunk_calls: TrunkCalls,
}

impl Admission {
    pub(super) fn new(config: &SipConfig, tokens: &TokenGenerator, now: Now) -> Self {
        Self {
            authenticator: Authenticator::new(
                tokens.derive("nonce"),
                &config.realm,
                config.algorithms.clone(),
                config.nonce_lifetime,
                now.mono,
            ),
            throttle: PasswordThrottle::default(),
            sources: RateLimiter::new(config.limits.refusals_per_second, config.limits.sources),
            trunk_calls: TrunkCalls::new(&config.trunks),
        }
    }

    /// Other trunks from now on.
    pub(super) fn change_trunks(&mut self, trunks: &[Trunk]) {
        self.trunk_calls.change(trunks);
    }

    /// The account or the trunk that sends this INVITE, or how it is refused.
    ///
    /// An account is known by what it says of itself in From, by the flow that it has registered
    /// by, or by the user name of its credentials: a phone may withhold its number from those that
    /// it calls, not from us (RFC 3323 4.1, RFC 3261 22.1). Everybody else is challenged as if
    /// there were such an account: nobody learns which there are.
    pub(super) fn admit(
        &mut self,
        flow: &Flow,
        invite: &SipRequest,
        ctx: &mut Context,
        now: Now,
    ) -> Result<LegSource, Refuse> {
        let from = invite.headers.from().map_err(|_| Refuse::new(400))?;
        let trunk = ctx.trunk_at(flow);
        let trunk = trunk.map(|trunk| trunk.name.clone());
        let user = answering_user(&invite.headers, &ctx.domain.config);
        let number = ctx.domain.number_of(&from.uri);
        let claimed =
            number.as_ref().and_then(|number| ctx.domain.account_of_number(number.as_str()));
        let claimed_here = claimed.filter(|_| ctx.domain.is_ours(&from.uri));
        let by_credentials = user.as_ref().and_then(|user| ctx.domain.account_of_user(user));
        let at = |account: &&SipAccount| ctx.registrar.is_at(&account.device, flow, now.mono);
        let account = match &trunk {
            // What comes from a trunk is the trunk's, unless an account shows that it is one.
            Some(_) => by_credentials
                .filter(|_| claimed_here.is_none())
                .or(claimed_here.filter(|account| user.is_some() || at(account))),
            None => claimed_here
                .or(by_credentials)
                .or(claimed.filter(at))
                .or_else(|| account_at(flow, &invite.headers, ctx, now)),
        };
        match (account.cloned(), trunk) {
            (Some(account), _) => self.admit_account(flow, invite, &account, ctx, now),
            (None, Some(trunk)) => Ok(match asserted(&trunk, invite, &ctx.domain) {
                Some(device) => LegSource::Account(device),
                None => LegSource::Trunk(trunk),
            }),
            (None, None) => {
                let name =
                    user.or(number.map(|number| number.as_str().to_owned())).unwrap_or_default();
                self.authenticate(flow, invite, Claim::Nobody(&name), ctx, now)?;
                Err(Refuse::new(403))
            }
        }
    }

    fn admit_account(
        &mut self,
        flow: &Flow,
        invite: &SipRequest,
        account: &SipAccount,
        ctx: &mut Context,
        now: Now,
    ) -> Result<LegSource, Refuse> {
        let known = !ctx.domain.config.challenge_invites
            && ctx.registrar.is_at(&account.device, flow, now.mono);
        if !known {
            self.authenticate(flow, invite, Claim::Account(account), ctx, now)?;
        }
        check_transport(account, flow)?;
        Ok(LegSource::Account(account.device.clone()))
    }

    /// The request carries a right digest of the account that it claims to come from; else 401 with
    /// a challenge, 403, or 503 when too many wrong ones have come from there. A claim to an
    /// account that there is not gets the same answers.
    ///
    /// What comes by the flow of a live registration of the account is always looked at: others
    /// that send from its address do not keep the phone out.
    pub(super) fn authenticate(
        &mut self,
        flow: &Flow,
        request: &SipRequest,
        claim: Claim<'_>,
        ctx: &mut Context,
        now: Now,
    ) -> Result<(), Refuse> {
        let realm = ctx.domain.config.realm.as_bytes();
        let mut answers = request.headers.fields_of("Authorization");
        let Some(answer) = answers.find(|value| digest::realm(value).as_deref() == Some(realm))
        else {
            return Err(self.challenge(flow, false, now).because(match claim {
                Claim::Nobody(_) => RefuseReason::UnknownSender,
                Claim::Account(_) => RefuseReason::Challenge,
            }));
        };
        let is_home = claim
            .account()
            .is_some_and(|account| ctx.registrar.is_at(&account.device, flow, now.mono));
        let wait = self.throttle.wait(claim.name(), flow.peer, now.mono).filter(|_| !is_home);
        if let Some(wait) = wait {
            ctx.counters.throttled += 1;
            self.report_guess(claim, flow.peer, false, ctx, now);
            let mut refuse = Refuse::new(503).because(RefuseReason::Throttled);
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            refuse.headers.push(("Retry-After", seconds.to_string().into_bytes()));
            return Err(refuse);
        }
        let subject = DigestRequest {
            method: request.method.as_bytes(),
            uri: request.uri.as_bytes(),
            body: &request.body,
        };
        let stored = |user: &str, algorithm: Algorithm| {
            let account = claim.account().filter(|account| user == account.username)?;
            account.ha1s.get(&algorithm).cloned()
        };
        match self.authenticator.verify(answer, subject, flow.peer.ip(), stored, now.mono) {
            DigestVerdict::Genuine { .. } => Ok(()),
            DigestVerdict::Stale => Err(self.challenge(flow, true, now)),
            DigestVerdict::Malformed => Err(self.challenge(flow, false, now)),
            DigestVerdict::Wrong => {
                ctx.counters.wrong_passwords += 1;
                self.report_guess(claim, flow.peer, true, ctx, now);
                Err(Refuse::new(403).because(RefuseReason::WrongCredentials))
            }
        }
    }

    fn report_guess(
        &mut self,
        claim: Claim<'_>,
        source: SocketAddr,
        looked_at: bool,
        ctx: &mut Context,
        now: Now,
    ) {
        let report = self.throttle.count(claim.name(), source, looked_at, now.mono);
        if let (Some((times, throttled)), Some(account)) = (report, claim.account()) {
            ctx.outputs.push_back(Output::WrongPassword(WrongPassword {
                device: account.device.clone(),
                source: source.ip(),
                times,
                throttled,
            }));
        }
    }

    fn challenge(&mut self, flow: &Flow, stale: bool, now: Now) -> Refuse {
        let mut refuse = Refuse::new(401).because(RefuseReason::Challenge);
        for challenge in self.authenticator.challenge(flow.peer.ip(), stale, now.mono) {
            refuse.headers.push(("WWW-Authenticate", challenge.into_bytes()));
        }
        refuse
    }

    /// Whether a source that has shown no right to anything is still worth an answer. Trunks and
    /// phones that are registered have an allowance of their own, which nobody else uses up.
    pub(super) fn may_answer(&mut self, flow: &Flow, ctx: &mut Context, now: Now) -> bool {
        let known = ctx.is_known(flow, now);
        let may = self.sources.take(flow.peer, known, now.mono);
        if !may {
            ctx.counters.silenced += 1;
        }
        may
    }

    /// A trunk, or a device behind it, may begin another call now, by the trunk's
    /// `max_calls_per_second`.
    pub(super) fn may_call(&mut self, trunk: Option<&str>, now: Now) -> bool {
        trunk.is_none_or(|name| self.trunk_calls.take(name, now.mono))
    }

    /// How many calls of each trunk were refused because it calls too often, or because too much is
    /// going on.
    pub(super) fn refused_of_trunks(&self) -> impl Iterator<Item = (&str, u64)> {
        self.trunk_calls.refused()
    }

    /// The number of the challenge that a request has answered with a right digest.
    pub(super) fn answered_challenge(&self, headers: &Headers, config: &SipConfig) -> u64 {
        let realm = config.realm.as_bytes();
        let mut answers = headers.fields_of("Authorization");
        let answer = answers.find(|value| digest::realm(value).as_deref() == Some(realm));
        answer.and_then(|answer| self.authenticator.challenge_of(answer)).unwrap_or_default()
    }

    /// Refuses a request statelessly (RFC 3261 8.2.7).
    pub(super) fn refuse(
        &mut self,
        flow: Flow,
        request: &SipRequest,
        refuse: &Refuse,
        ctx: &mut Context,
        now: Now,
    ) {
        let Some(response) = refuse.response(request) else {
            return;
        };
        ctx.counters.refused += 1;
        if refuse.status == 481 {
            ctx.counters.strangers += 1;
        }
        ctx.note_refused(&flow, request, refuse, now);
        if self.may_answer(&flow, ctx, now) {
            ctx.stateless(flow, response);
        }
    }

    /// Refuses an INVITE, which has come by this trunk, statelessly: too much is going on.
    pub(super) fn refuse_overloaded(
        &mut self,
        flow: Flow,
        (invite, trunk): (&SipRequest, Option<String>),
        ctx: &mut Context,
        now: Now,
    ) {
        if let Some(name) = trunk {
            self.trunk_calls.count_refused(&name);
        }
        ctx.counters.overloaded += 1;
        let mut refuse = Refuse::new(503).because(RefuseReason::Overload);
        refuse.headers.push(("Retry-After", b"10".to_vec()));
        self.refuse(flow, invite, &refuse, ctx, now);
    }
}

/// The account with the phone that has registered by this flow. Of several lines of one phone the
/// one that it names in P-Preferred-Identity (RFC 3325 9.2), or by the Contact that it has
/// registered.
fn account_at<'a>(
    flow: &Flow,
    headers: &Headers,
    ctx: &'a Context,
    now: Now,
) -> Option<&'a SipAccount> {
    let here: Vec<&DeviceId> = ctx.registrar.devices_at(flow, now.mono).collect();
    if let [only] = here.as_slice() {
        return ctx.domain.config.account(only);
    }
    let preferred = headers.get_all("P-Preferred-Identity");
    let preferred = preferred
        .iter()
        .filter_map(|value| ctx.domain.number_of(&NameAddr::parse(value).ok()?.uri));
    let mut named = preferred.filter_map(|number| ctx.domain.account_of_number(number.as_str()));
    let named = named.find(|account| here.contains(&&account.device));
    let contacts = headers.contacts().unwrap_or_default();
    let by_contact = || {
        let has = |device: &&&DeviceId| {
            let mut bound = ctx.registrar.of(device, now.mono);
            bound.any(|binding| {
                binding.flow == *flow
                    && contacts.iter().any(|contact| contact.uri.same(&binding.contact))
            })
        };
        let mut fitting = here.iter().filter(has);
        let first = fitting.next().filter(|_| fitting.next().is_none())?;
        ctx.domain.config.account(first)
    };
    named.or_else(by_contact)
}

/// The device behind a trunk whose phone a switch says it is that calls.
fn asserted(trunk: &str, invite: &SipRequest, domain: &LocalDomain) -> Option<DeviceId> {
    let headers = &invite.headers;
    let identity = domain.trunk(trunk)?.identity;
    let named = match asserted_parties(identity, headers) {
        Some(parties) => parties,
        // Anybody outside may write in From what they like, and switches hand it on.
        None if identity == AssertedIdentity::From => headers.from().into_iter().collect(),
        None => return None,
    };
    let mut devices = named.iter().map(|name| {
        let number = domain.number_of(&name.uri)?;
        domain.account_behind(trunk, &number).map(|account| account.device.clone())
    });
    // Of two names (RFC 3325 9.1: a sip and a tel URI) both are the device's, or it is nobody's.
    let first = devices.next()??;
    devices.all(|other| other.as_ref() == Some(&first)).then_some(first)
}

/// The user name of credentials for our realm.
fn answering_user(headers: &Headers, config: &SipConfig) -> Option<String> {
    let name = headers
        .fields_of("Authorization")
        .find_map(|value| digest::username(value, config.realm.as_bytes()))?;
    Some(printable(&name, LONGEST_USER))
}

/// The INVITE of an INVITE or ACK, the request itself of any other. `via` is the topmost.
pub(super) fn server_key(request: &SipRequest, via: &Via, peer: Peer) -> Option<ServerKey> {
    let headers = &request.headers;
    let method = match request.method {
        Method::Ack => Method::Invite.as_bytes(),
        ref method => method.as_bytes(),
    };
    let branch = via.branch().unwrap_or_default();
    // A cookie with nothing behind it names nothing (RFC 4475 3.2.1).
    if branch.len() > 7 && branch[..7].eq_ignore_ascii_case(b"z9hG4bK") {
        return Some(ServerKey::new(peer, branch, via.sent_by().as_bytes(), method));
    }
    let from = headers.from().ok()?;
    let (cseq, _) = headers.cseq().ok()?;
    let mut as_sent = via.clone();
    // Those are ours, and say where it came from.
    as_sent.params.remove("received");
    as_sent.params.remove("rport");
    let fields: [&[u8]; 5] = [
        request.uri.as_bytes(),
        from.tag().unwrap_or_default(),
        headers.call_id().ok()?,
        &cseq.to_be_bytes(),
        &as_sent.to_bytes(),
    ];
    Some(ServerKey::old(peer, &fields, method))
}

/// Phones of this device may speak by this flow.
pub(super) fn check_transport(account: &SipAccount, flow: &Flow) -> Result<(), Refuse> {
    match account.transport.allows(flow.protocol) {
        true => Ok(()),
        false => Err(Refuse::new(403).because(RefuseReason::NeedsTls)),
    }
}

/// A tel URI names somebody to be called, nothing else. A sips URI asks for TLS on every hop (RFC
/// 5630 3.1): what has come in clear has broken that already.
pub(super) fn check_scheme(request: &SipRequest, flow: &Flow) -> Result<(), Refuse> {
    match request.uri.scheme() {
        Scheme::Tel if request.method == Method::Register => Err(Refuse::new(416)),
        Scheme::Sips if !flow.protocol.is_secure() => {
            Err(Refuse::new(416).because(RefuseReason::NeedsTls))
        }
        Scheme::Sip | Scheme::Sips | Scheme::Tel => Ok(()),
        Scheme::Other => Err(Refuse::new(416)),
    }
}
