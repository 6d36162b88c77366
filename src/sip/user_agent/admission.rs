//! Who may ask what, and what chance is needed for.

use super::{Output, UserAgent};
use crate::sip::config::{Account, Trunk};
use crate::sip::digest::{self, Algorithm, Subject, Verdict};
use crate::sip::flow::Flow;
use crate::sip::leg::LegSource;
use crate::sip::message::{Abilities, DESCRIBED, Headers, Host, Method, Refuse, Request, Response, Scheme, Uri, Via};
use crate::sip::peer::Peer;
use crate::sip::transaction::ServerKey;
use crate::words::Now;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

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

/// A user part longer than this is nobody's.
const LONGEST_USER: usize = 128;

impl UserAgent {
    /// The Request-URI names us or a domain of ours. What stands at another port of our host is another's; a domain's port is not ours to
    /// know: something before us may have another.
    pub(super) fn is_ours(&self, uri: &Uri) -> bool {
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

    /// The user part, if it can be a number of ours or of a trunk.
    pub(super) fn user_of(uri: &Uri) -> Option<String> {
        let user = uri.user()?;
        let text = std::str::from_utf8(&user).ok()?;
        let fits = !text.is_empty() && text.len() <= LONGEST_USER && !text.chars().any(char::is_control);
        fits.then(|| text.to_owned())
    }

    /// Who sends this INVITE, or how he is refused.
    pub(super) fn admit(&mut self, flow: &Flow, invite: &Request, now: Now) -> Result<LegSource, Refuse> {
        let from = invite.headers.from().map_err(|_| Refuse::new(400))?;
        let claimed = Self::user_of(&from.uri).filter(|_| self.is_ours(&from.uri));
        let account = claimed.and_then(|user| self.config.account_of_number(&user).cloned());
        let trunk = self.config.trunks.iter().find(|trunk| trunk.owns(flow.protocol, flow.peer));
        match (account, trunk) {
            (Some(account), None) => self.admit_account(flow, invite, &account, now),
            (Some(account), Some(_)) if invite.headers.has("Authorization") || self.registrar.is_at(&account.device, flow, now.mono) => {
                self.admit_account(flow, invite, &account, now)
            }
            (_, Some(trunk)) => Ok(LegSource::Trunk(trunk.name.clone())),
            (None, None) => Err(Refuse::new(403)),
        }
    }

    fn admit_account(&mut self, flow: &Flow, invite: &Request, account: &Account, now: Now) -> Result<LegSource, Refuse> {
        let known = !self.config.challenge_invites && self.registrar.is_at(&account.device, flow, now.mono);
        if !known {
            self.authenticate(flow, invite, account, now)?;
        }
        Ok(LegSource::Account(account.device.clone()))
    }

    /// The request carries a right digest of this account; else 401 with a challenge, 403, or 503 when too many wrong ones have come from there.
    pub(super) fn authenticate(&mut self, flow: &Flow, request: &Request, account: &Account, now: Now) -> Result<(), Refuse> {
        let realm = self.config.realm.as_bytes();
        let mut answers = request.headers.fields_of("Authorization");
        let Some(answer) = answers.find(|value| digest::realm(value).as_deref() == Some(realm)) else {
            return Err(self.challenge(flow, false, now));
        };
        let source = flow.peer.ip();
        if let Some(wait) = self.guesses.wait(&account.device, source, now.mono) {
            self.counters.throttled += 1;
            self.report_guess(account, source, false, now);
            let mut refuse = Refuse::new(503);
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            refuse.headers.push(("Retry-After", seconds.to_string().into_bytes()));
            return Err(refuse);
        }
        let subject = Subject {
            method: request.method.as_bytes(),
            uri: request.uri.as_bytes(),
            body: &request.body,
        };
        let stored = |user: &str, algorithm: Algorithm| {
            let ha1 = account.ha1s.get(&algorithm).filter(|_| user == account.username);
            ha1.cloned()
        };
        match self.authenticator.verify(answer, subject, source, stored, now.mono) {
            Verdict::Genuine { .. } => Ok(()),
            Verdict::Stale => Err(self.challenge(flow, true, now)),
            Verdict::Malformed => Err(self.challenge(flow, false, now)),
            Verdict::Wrong => {
                self.counters.wrong_passwords += 1;
                self.report_guess(account, source, true, now);
                Err(Refuse::new(403))
            }
        }
    }

    fn report_guess(&mut self, account: &Account, source: IpAddr, looked_at: bool, now: Now) {
        let report = self.guesses.count(&account.device, source, looked_at, now.mono);
        self.outputs.extend(report.map(Output::WrongPassword));
    }

    pub(super) fn challenge(&mut self, flow: &Flow, stale: bool, now: Now) -> Refuse {
        let mut refuse = Refuse::new(401);
        for challenge in self.authenticator.challenge(flow.peer.ip(), stale, now.mono) {
            refuse.headers.push(("WWW-Authenticate", challenge.into_bytes()));
        }
        refuse
    }

    /// A Via of ours is on it: it went out from here and has come back (RFC 3261 16.3).
    pub(super) fn is_loop(&self, headers: &Headers) -> bool {
        let vias = headers.vias().unwrap_or_default();
        vias.iter()
            .any(|via| via.branch().is_some_and(|branch| self.chance.is_ours(branch)))
    }

    /// Whether a source that has shown no right to anything is still worth an answer.
    pub(super) fn may_refuse(&mut self, flow: &Flow, now: Now) -> bool {
        let may = self.sources.take(flow.peer.ip(), now.mono);
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

    /// Refuses statelessly.
    pub(super) fn refuse(&mut self, flow: Flow, request: &Request, refuse: &Refuse, now: Now) {
        let Some(response) = refuse.response(request) else { return };
        self.counters.refused += 1;
        if refuse.status == 481 {
            self.counters.strangers += 1;
        }
        if self.may_refuse(&flow, now) {
            self.stateless(flow, response);
        }
    }

    /// Refuses statelessly: too much is going on.
    pub(super) fn refuse_overloaded(&mut self, flow: Flow, request: &Request, now: Now) {
        self.counters.overloaded += 1;
        let mut refuse = Refuse::new(503);
        refuse.headers.push(("Retry-After", b"10".to_vec()));
        self.refuse(flow, request, &refuse, now);
    }
}

/// A 200 to OPTIONS.
pub(super) fn capabilities(request: &Request) -> Response {
    Response::to(request, 200)
        .with("Allow", ALLOW)
        .with("Accept", ACCEPT)
        .with("Accept-Encoding", "identity")
        .with("Accept-Language", "en")
        .with("Supported", "timer, replaces, 100rel")
}

/// The INVITE of an INVITE or ACK, the request itself of any other. `via` is the topmost.
pub(super) fn server_key(request: &Request, via: &Via, peer: Peer) -> Option<ServerKey> {
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

/// Only sip: nothing here can keep sips' promise.
pub(super) fn check_scheme(uri: &Uri) -> Result<(), Refuse> {
    match uri.scheme() {
        Scheme::Sip => Ok(()),
        _ => Err(Refuse::new(416)),
    }
}

/// How often sources that are nobody's are answered: a bucket each.
#[derive(Debug)]
pub(super) struct Sources {
    per_second: u32,
    most: usize,
    buckets: BTreeMap<IpAddr, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Sources {
    pub(super) fn new(per_second: u32, most: usize) -> Self {
        Self {
            per_second,
            most,
            buckets: BTreeMap::new(),
        }
    }

    fn take(&mut self, source: IpAddr, now: Instant) -> bool {
        let rate = f64::from(self.per_second);
        let burst = rate * 2.0;
        if self.buckets.len() >= self.most && !self.buckets.contains_key(&source) {
            self.buckets.retain(|_, bucket| bucket.filled(rate, burst, now) < burst);
            if self.buckets.len() >= self.most {
                return false;
            }
        }
        let bucket = self.buckets.entry(source).or_insert(Bucket { tokens: burst, at: now });
        bucket.take(rate, burst, now)
    }
}

impl Bucket {
    fn take(&mut self, rate: f64, burst: f64, now: Instant) -> bool {
        self.tokens = self.filled(rate, burst, now);
        self.at = now;
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        may
    }

    fn filled(&self, rate: f64, burst: f64, now: Instant) -> f64 {
        (self.tokens + now.saturating_duration_since(self.at).as_secs_f64() * rate).min(burst)
    }
}

/// How often each trunk may begin a call.
#[derive(Debug)]
pub(super) struct TrunkCalls {
    trunks: BTreeMap<String, TrunkRate>,
}

#[derive(Debug)]
struct TrunkRate {
    per_second: Option<u32>,
    bucket: Option<Bucket>,
    refused: u64,
}

impl TrunkCalls {
    pub(super) fn new(trunks: &[Trunk]) -> Self {
        let rate = |trunk: &Trunk| TrunkRate {
            per_second: trunk.max_calls_per_second,
            bucket: None,
            refused: 0,
        };
        Self {
            trunks: trunks.iter().map(|trunk| (trunk.name.clone(), rate(trunk))).collect(),
        }
    }

    fn take(&mut self, name: &str, now: Instant) -> bool {
        let Some(trunk) = self.trunks.get_mut(name) else { return true };
        let Some(per_second) = trunk.per_second.map(f64::from) else {
            return true;
        };
        // A second's calls may come at once.
        let bucket = trunk.bucket.get_or_insert(Bucket {
            tokens: per_second,
            at: now,
        });
        bucket.take(per_second, per_second, now)
    }

    fn count_refused(&mut self, name: &str) {
        if let Some(trunk) = self.trunks.get_mut(name) {
            trunk.refused += 1;
        }
    }

    fn refused(&self) -> impl Iterator<Item = (&str, u64)> {
        self.trunks.iter().map(|(name, trunk)| (name.as_str(), trunk.refused))
    }
}

/// Tags, branches and Call-IDs that nobody can guess, from one seed.
pub(super) struct Chance {
    seed: [u8; 32],
    counter: u64,
}

impl std::fmt::Debug for Chance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Chance")
    }
}

const COOKIE: &[u8] = b"z9hG4bK";
const BRANCH: usize = 16;
const PROOF: usize = 8;

impl Chance {
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
        let hash = self.hash(&[b"number", &self.counter.to_be_bytes()]);
        u64::from_be_bytes([hash[0], hash[1], hash[2], hash[3], hash[4], hash[5], hash[6], hash[7]]) % bound
    }

    pub(super) fn branch(&mut self) -> Vec<u8> {
        let word = self.word();
        [COOKIE, word.as_bytes(), self.proof(word.as_bytes()).as_bytes()].concat()
    }

    fn is_ours(&self, branch: &[u8]) -> bool {
        let Some(rest) = branch.strip_prefix(COOKIE) else { return false };
        rest.len() == BRANCH + PROOF && self.proof(&rest[..BRANCH]).as_bytes() == &rest[BRANCH..]
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

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
