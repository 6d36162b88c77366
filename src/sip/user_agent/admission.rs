//! Who may ask what, and what chance is needed for.

use super::leg::SentInvite;
use super::password_throttle::{Attempt, WrongPassword};
use super::refusals::{RefusedBy, RefusedRequest};
use super::{Output, UserAgent};
use crate::model::{DeviceId, Now, Number};
use crate::sip::config::{SipAccount, Trunk};
use crate::sip::digest::{self, Algorithm, DigestRequest, DigestVerdict};
use crate::sip::flow::Flow;
use crate::sip::leg::{LegId, LegSource};
use crate::sip::message::{
    Abilities, DESCRIBED, Fault, Headers, Host, Method, NameAddr, ParseError, Refuse, Scheme, SipRequest, SipResponse, Uri, Via, printable,
};
use crate::sip::peer::Peer;
use crate::sip::transaction::ServerKey;
use sha2::{Digest, Sha256};
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

/// The Allow header.
pub(super) const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, PRACK, UPDATE, INFO, REFER, REGISTER";

/// The Accept header: [`DESCRIBED`].
pub(super) const ACCEPT: &str = "application/sdp, multipart/mixed, multipart/alternative";

/// A user name longer than this is nobody's, in characters.
const LONGEST_USER: usize = 128;

/// So much of a header value stands in the log, in characters.
const SHOWN: usize = 200;

/// The header field by which a call of ours is known when it comes back through a B2BUA. It says nothing to anybody else.
pub(super) const TRAIL: &str = "X-Undertone-Call";

/// A request from nobody that we know, which is asked for credentials: a trunk whose source is not configured is one.
const NOBODY: &str = "no account and no trunk: asked for credentials";

/// Whose a request says it is.
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

impl UserAgent {
    /// The Request-URI names us or a domain of ours. What stands at another port of our host is another's; a domain's port is not ours to
    /// know: something before us may have another. A tel URI names no host: whoever is asked resolves it.
    pub(super) fn is_ours(&self, uri: &Uri) -> bool {
        if uri.scheme() == Scheme::Tel {
            return true;
        }
        let host = uri.host_text();
        let named = |name: &String| name.eq_ignore_ascii_case(host);
        if self.config.domains.iter().any(named) {
            return true;
        }
        let advertised = self.config.advertised.as_ref().is_some_and(named);
        let at_host = |local: &SocketAddr| match uri.host() {
            Host::Address(address) => advertised || local.ip() == address.to_canonical(),
            Host::Name(_) => advertised,
        };
        let at_port = |local: &SocketAddr| uri.port().is_none_or(|port| port == local.port());
        self.locals.iter().any(|(_, local)| at_host(local) && at_port(local))
    }

    /// The number that a URI means here: an account's own spelling of it first, else without visual separators.
    pub(super) fn number_of(&self, uri: &Uri) -> Option<Number> {
        let written = uri.subscriber()?;
        if self.account_of_number(&written).is_some() {
            return Some(Number::from(written));
        }
        uri.number().map(Number::from)
    }

    /// Who sends this INVITE, or how it is refused.
    ///
    /// An account is known by what it says of itself in From, by the flow that it has registered by, or by the user name
    /// of its credentials: a phone may withhold its number from those whom it calls, not from us (RFC 3323 4.1, RFC 3261
    /// 22.1). Everybody else is challenged as if there were such an account: nobody learns which there are.
    pub(super) fn admit(&mut self, flow: &Flow, invite: &SipRequest, now: Now) -> Result<LegSource, Refuse> {
        let from = invite.headers.from().map_err(|_| Refuse::new(400))?;
        let trunk = self.config.trunks.iter().find(|trunk| trunk.owns(flow.protocol, flow.peer));
        let trunk = trunk.map(|trunk| trunk.name.clone());
        let user = self.answering_user(&invite.headers);
        let number = self.number_of(&from.uri);
        let claimed = number.as_ref().and_then(|number| self.account_of_number(number.as_str()));
        let claimed_here = claimed.filter(|_| self.is_ours(&from.uri));
        let by_credentials = user.as_ref().and_then(|user| self.account_of_user(user));
        let at = |account: &&SipAccount| self.registrar.is_at(&account.device, flow, now.mono);
        let account = match &trunk {
            // What comes from a trunk is the trunk's, unless an account shows that it is one.
            Some(_) => by_credentials
                .filter(|_| claimed_here.is_none())
                .or(claimed_here.filter(|account| user.is_some() || at(account))),
            None => claimed_here
                .or(by_credentials)
                .or(claimed.filter(at))
                .or_else(|| self.account_at(flow, &invite.headers, now)),
        };
        match (account.cloned(), trunk) {
            (Some(account), _) => self.admit_account(flow, invite, &account, now),
            (None, Some(trunk)) => Ok(LegSource::Trunk(trunk)),
            (None, None) => {
                let name = user.or(number.map(|number| number.as_str().to_owned())).unwrap_or_default();
                self.authenticate(flow, invite, Claim::Nobody(&name), now)?;
                Err(Refuse::new(403))
            }
        }
    }

    /// The account whose phone has registered by this flow. Of several lines of one phone the one that it names in
    /// P-Preferred-Identity (RFC 3325 9.2), or by the Contact that it has registered.
    fn account_at(&self, flow: &Flow, headers: &Headers, now: Now) -> Option<&SipAccount> {
        let here: Vec<&DeviceId> = self.registrar.devices_at(flow, now.mono).collect();
        if let [only] = here.as_slice() {
            return self.config.account(only);
        }
        let preferred = headers.get_all("P-Preferred-Identity");
        let preferred = preferred
            .iter()
            .filter_map(|value| self.number_of(&NameAddr::parse(value).ok()?.uri));
        let mut named = preferred.filter_map(|number| self.account_of_number(number.as_str()));
        let named = named.find(|account| here.contains(&&account.device));
        let contacts = headers.contacts().unwrap_or_default();
        let by_contact = || {
            let has = |device: &&&DeviceId| {
                let mut bound = self.registrar.of(device, now.mono);
                bound.any(|binding| binding.flow == *flow && contacts.iter().any(|contact| contact.uri.same(&binding.contact)))
            };
            let mut fitting = here.iter().filter(has);
            let first = fitting.next().filter(|_| fitting.next().is_none())?;
            self.config.account(first)
        };
        named.or_else(by_contact)
    }

    /// The user name of credentials for our realm.
    fn answering_user(&self, headers: &Headers) -> Option<String> {
        let name = headers
            .fields_of("Authorization")
            .find_map(|value| digest::username(value, self.config.realm.as_bytes()))?;
        Some(printable(&name, LONGEST_USER))
    }

    fn admit_account(&mut self, flow: &Flow, invite: &SipRequest, account: &SipAccount, now: Now) -> Result<LegSource, Refuse> {
        let known = !self.config.challenge_invites && self.registrar.is_at(&account.device, flow, now.mono);
        if !known {
            self.authenticate(flow, invite, Claim::Account(account), now)?;
        }
        Ok(LegSource::Account(account.device.clone()))
    }

    /// The request carries a right digest of the account that it claims to come from; else 401 with a challenge, 403, or 503
    /// when too many wrong ones have come from there. A claim to an account that there is not gets the same answers.
    ///
    /// What comes by the flow of a live registration of the account is always looked at: others who send from its address
    /// do not keep the phone out.
    pub(super) fn authenticate(&mut self, flow: &Flow, request: &SipRequest, claim: Claim<'_>, now: Now) -> Result<(), Refuse> {
        let realm = self.config.realm.as_bytes();
        let mut answers = request.headers.fields_of("Authorization");
        let Some(answer) = answers.find(|value| digest::realm(value).as_deref() == Some(realm)) else {
            let unknown = matches!(claim, Claim::Nobody(_));
            return Err(self.challenge(flow, false, now).because(if unknown { NOBODY } else { "" }));
        };
        let is_home = claim
            .account()
            .is_some_and(|account| self.registrar.is_at(&account.device, flow, now.mono));
        let wait = self.guesses.wait(claim.name(), flow.peer, now.mono).filter(|_| !is_home);
        if let Some(wait) = wait {
            self.counters.throttled += 1;
            self.report_guess(claim, flow.peer, false, now);
            let mut refuse = Refuse::new(503).because("too many wrong passwords from there");
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
                self.counters.wrong_passwords += 1;
                self.report_guess(claim, flow.peer, true, now);
                Err(Refuse::new(403).because("wrong user name or password"))
            }
        }
    }

    fn report_guess(&mut self, claim: Claim<'_>, source: SocketAddr, looked_at: bool, now: Now) {
        let report = self.guesses.count(claim.name(), source, looked_at, now.mono);
        if let (Some((times, throttled)), Some(account)) = (report, claim.account()) {
            self.outputs.push_back(Output::WrongPassword(WrongPassword {
                device: account.device.clone(),
                source: source.ip(),
                times,
                throttled,
            }));
        }
    }

    pub(super) fn challenge(&mut self, flow: &Flow, stale: bool, now: Now) -> Refuse {
        let mut refuse = Refuse::new(401).because("");
        for challenge in self.authenticator.challenge(flow.peer.ip(), stale, now.mono) {
            refuse.headers.push(("WWW-Authenticate", challenge.into_bytes()));
        }
        refuse
    }

    /// The leg of ours whose INVITE comes back with this one: through a proxy, which keeps our Via beneath its own, the
    /// Call-ID and the tag (RFC 3261 16.6), or through a B2BUA that hands on header fields it does not know.
    pub(super) fn returning(&self, headers: &Headers) -> Option<LegId> {
        if let Some(leg) = headers.get(TRAIL).and_then(|token| self.chance.open_token(token)) {
            return self.legs.contains_key(&leg).then_some(leg);
        }
        let vias = headers.vias().unwrap_or_default();
        let is_ours = |branch: &[u8]| self.chance.is_ours(branch);
        if !vias.iter().filter_map(Via::branch).any(is_ours) {
            return None;
        }
        let from = headers.from().ok()?;
        let (tag, call_id) = (from.tag()?, headers.call_id().ok()?);
        let found = self.legs_of(call_id).find(|(_, leg)| leg.dialog.local_tag.as_bytes() == tag);
        found.map(|(key, _)| key)
    }

    /// Whether a source that has shown no right to anything is still worth an answer. Trunks and phones that are registered
    /// have an allowance of their own, which nobody else uses up.
    pub(super) fn may_refuse(&mut self, flow: &Flow, now: Now) -> bool {
        let known = self.is_known(flow, now);
        let may = self.sources.take(flow.peer, known, now.mono);
        if !may {
            self.counters.silenced += 1;
        }
        may
    }

    /// A trunk may begin another call now, by its own `max_calls_per_second`.
    pub(super) fn may_call(&mut self, source: &LegSource, now: Now) -> bool {
        match source {
            LegSource::Trunk(name) => self.trunk_calls.take(name, now.mono),
            LegSource::Account(_) => true,
        }
    }

    /// A call of a trunk finds no room.
    pub(super) fn count_refused(&mut self, source: &LegSource) {
        if let LegSource::Trunk(name) = source {
            self.trunk_calls.count_refused(name);
        }
    }

    /// How many calls of each trunk were refused because it calls too often, or because too much is going on.
    pub fn refused_of_trunks(&self) -> impl Iterator<Item = (&str, u64)> {
        self.trunk_calls.refused()
    }

    /// The number of the challenge that a request has answered, whose digest was right.
    pub(super) fn answered_challenge(&self, headers: &Headers) -> u64 {
        let realm = self.config.realm.as_bytes();
        let mut answers = headers.fields_of("Authorization");
        let answer = answers.find(|value| digest::realm(value).as_deref() == Some(realm));
        answer
            .and_then(|answer| self.authenticator.challenge_of(answer))
            .unwrap_or_default()
    }

    /// It is a trunk's, or a phone has registered by it.
    fn is_known(&self, flow: &Flow, now: Now) -> bool {
        let of_trunk = |trunk: &Trunk| trunk.owns(flow.protocol, flow.peer);
        self.config.trunks.iter().any(of_trunk) || self.registrar.devices_at(flow, now.mono).next().is_some()
    }

    /// Writes a refusal of a request of theirs down.
    pub(super) fn note_refused(&mut self, flow: &Flow, request: &SipRequest, refuse: &Refuse, now: Now) {
        if refuse.reason.is_empty() {
            return;
        }
        let known = self.is_known(flow, now);
        let shown = |name: &str| shown(request.headers.get(name));
        let note = || RefusedRequest {
            by: RefusedBy::Us,
            method: request.method.to_string(),
            call_id: shown("Call-ID"),
            from: shown("From"),
            to: printable(request.uri.as_bytes(), SHOWN),
            peer: flow.peer,
            status: refuse.status,
            reason: refuse.reason.to_owned(),
            realms: String::new(),
            left_out: 0,
        };
        let note = self.refusals.take(known, now.mono, note);
        self.outputs.extend(note.map(Output::Refused));
    }

    /// Writes down that something came which is no message: what it should have answered waits in vain.
    pub(super) fn note_malformed(&mut self, flow: &Flow, error: &ParseError, now: Now) {
        if error.fault == Fault::KeepAlive {
            return;
        }
        let known = self.is_known(flow, now);
        let of = |name: &str| shown(error.response.as_ref().and_then(|response| response.headers.get(name)));
        let note = || RefusedRequest {
            by: RefusedBy::Us,
            method: String::new(),
            call_id: of("Call-ID"),
            from: of("From"),
            to: of("To"),
            peer: flow.peer,
            status: error.response.as_ref().map_or(0, |response| response.status),
            reason: error.fault.to_string(),
            realms: String::new(),
            left_out: 0,
        };
        let note = self.refusals.take(known, now.mono, note);
        self.outputs.extend(note.map(Output::Refused));
    }

    /// Writes down that a request of ours was refused, or found nobody.
    pub(super) fn note_refusal_of(&mut self, sent: &SentInvite, status: u16, reason: &[u8], headers: Option<&Headers>, now: Now) {
        let asked = ["WWW-Authenticate", "Proxy-Authenticate"].map(|name| headers.map(|headers| headers.fields_of(name)));
        let realms: Vec<String> = asked
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(digest::realm)
            .map(|realm| printable(&realm, SHOWN))
            .collect();
        let request = &sent.request;
        let note = || RefusedRequest {
            by: RefusedBy::Peer,
            method: request.method.to_string(),
            call_id: shown(request.headers.get("Call-ID")),
            from: shown(request.headers.get("From")),
            to: printable(request.uri.as_bytes(), SHOWN),
            peer: sent.flow.peer,
            status,
            reason: printable(reason, SHOWN),
            realms: realms.join(", "),
            left_out: 0,
        };
        let note = self.refusals.take(true, now.mono, note);
        self.outputs.extend(note.map(Output::Refused));
    }

    /// Refuses statelessly.
    pub(super) fn refuse(&mut self, flow: Flow, request: &SipRequest, refuse: &Refuse, now: Now) {
        let Some(response) = refuse.response(request) else { return };
        self.counters.refused += 1;
        if refuse.status == 481 {
            self.counters.strangers += 1;
        }
        self.note_refused(&flow, request, refuse, now);
        if self.may_refuse(&flow, now) {
            self.stateless(flow, response);
        }
    }

    /// Refuses statelessly: too much is going on.
    pub(super) fn refuse_overloaded(&mut self, flow: Flow, request: &SipRequest, now: Now) {
        self.counters.overloaded += 1;
        let mut refuse = Refuse::new(503).because("too much is going on");
        refuse.headers.push(("Retry-After", b"10".to_vec()));
        self.refuse(flow, request, &refuse, now);
    }
}

/// A 200 to OPTIONS.
pub(super) fn capabilities(request: &SipRequest) -> SipResponse {
    SipResponse::to(request, 200)
        .with("Allow", ALLOW)
        .with("Accept", ACCEPT)
        .with("Accept-Encoding", "identity")
        .with("Accept-Language", "en")
        .with("Supported", "timer, replaces, 100rel")
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

/// A tel URI names somebody to be called, nothing else. A sips URI is taken as it comes: whether it came over TLS was for
/// its sender to see to, and within the domain that it names the domain's policy holds (RFC 3261 26.2.2).
pub(super) fn check_scheme(request: &SipRequest) -> Result<(), Refuse> {
    match request.uri.scheme() {
        Scheme::Tel if request.method == Method::Register => Err(Refuse::new(416)),
        Scheme::Sip | Scheme::Sips | Scheme::Tel => Ok(()),
        Scheme::Other => Err(Refuse::new(416)),
    }
}

fn shown(value: Option<&[u8]>) -> String {
    printable(value.unwrap_or_default(), SHOWN)
}

/// Tags, branches and Call-IDs that nobody can guess, from one seed.
pub(super) struct TokenGenerator {
    seed: [u8; 32],
    counter: u64,
}

impl std::fmt::Debug for TokenGenerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chance")
    }
}

const COOKIE: &[u8] = b"z9hG4bK";
const BRANCH: usize = 16;
const PROOF: usize = 8;

impl TokenGenerator {
    pub(super) fn new(seed: [u8; 32]) -> Self {
        Self { seed, counter: 0 }
    }

    /// A secret for one purpose.
    pub(super) fn derive(&self, purpose: &str) -> [u8; 32] {
        self.hash(&[purpose.as_bytes()])
    }

    /// 16 hexadecimal digits.
    pub(super) fn word(&mut self) -> String {
        self.counter += 1;
        hex(&self.hash(&[b"word", &self.counter.to_be_bytes()])[..8])
    }

    /// Below `bound`, which is not zero.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.counter += 1;
        first_word(&self.hash(&[b"number", &self.counter.to_be_bytes()])) % bound
    }

    pub(super) fn branch(&mut self) -> Vec<u8> {
        let word = self.word();
        [COOKIE, word.as_bytes(), self.proof(word.as_bytes()).as_bytes()].concat()
    }

    fn is_ours(&self, branch: &[u8]) -> bool {
        let Some(rest) = branch.strip_prefix(COOKIE) else { return false };
        rest.len() == BRANCH + PROOF && self.proof(&rest[..BRANCH]).as_bytes() == &rest[BRANCH..]
    }

    /// A token that names a leg of ours: nobody else can make one, or learn from it how many calls there were.
    pub(super) fn token(&self, leg: LegId) -> String {
        let seal = self.seal(leg);
        hex(&[self.masked(leg.0, seal), seal].map(u64::to_be_bytes).concat())
    }

    fn open_token(&self, token: &[u8]) -> Option<LegId> {
        let text = std::str::from_utf8(token).ok().filter(|text| text.len() == 32)?;
        let (word, seal) = text.split_at_checked(16)?;
        let seal = u64::from_str_radix(seal, 16).ok()?;
        let leg = LegId(self.masked(u64::from_str_radix(word, 16).ok()?, seal));
        (self.seal(leg) == seal).then_some(leg)
    }

    fn seal(&self, leg: LegId) -> u64 {
        first_word(&self.hash(&[b"leg", &leg.0.to_be_bytes()]))
    }

    /// Its own inverse.
    fn masked(&self, word: u64, seal: u64) -> u64 {
        word ^ first_word(&self.hash(&[b"mask", &seal.to_be_bytes()]))
    }

    fn proof(&self, word: &[u8]) -> String {
        hex(&self.hash(&[b"branch", word])[..PROOF / 2])
    }

    /// The same for every repetition of a request (RFC 3261 8.2.7).
    pub(super) fn stateless_tag(&self, headers: &Headers) -> String {
        let of = |name| headers.get(name).unwrap_or_default();
        hex(&self.hash(&[b"tag", of("Call-ID"), of("From"), of("CSeq"), of("Via")])[..8])
    }

    fn hash(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.seed);
        for part in parts {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }
}

fn first_word(hash: &[u8; 32]) -> u64 {
    hash.iter().take(8).fold(0, |word, byte| word << 8 | u64::from(*byte))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
