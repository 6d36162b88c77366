//! Digest authentication (RFC 7616, RFC 3261 22, RFC 8760): both sides of it.
//!
//! A nonce is made of a number and the time it was issued, sealed with a keyed hash over both and
//! the address it was issued to; nothing is kept for a challenge, and for an answer only which
//! counts (nc) of its nonce have been seen.

use crate::hex::hex;
use crate::secret::Secret;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use md5::Md5;
use sha2::{Digest, Sha256, Sha512_256};
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// A digest algorithm (RFC 8760 2.1). The order is that of strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[expect(missing_docs, reason = "the names are the algorithms")]
pub enum Algorithm {
    #[serde(rename = "MD5")]
    Md5,
    #[serde(skip_deserializing)]
    Md5Sess,
    #[serde(rename = "SHA-256")]
    Sha256,
    #[serde(skip_deserializing)]
    Sha256Sess,
    #[serde(rename = "SHA-512-256")]
    Sha512_256,
    #[serde(skip_deserializing)]
    Sha512_256Sess,
}

impl Algorithm {
    /// All, the strongest last.
    pub const ALL: [Algorithm; 6] = [
        Algorithm::Md5,
        Algorithm::Md5Sess,
        Algorithm::Sha256,
        Algorithm::Sha256Sess,
        Algorithm::Sha512_256,
        Algorithm::Sha512_256Sess,
    ];

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Md5 => "MD5",
            Algorithm::Md5Sess => "MD5-sess",
            Algorithm::Sha256 => "SHA-256",
            Algorithm::Sha256Sess => "SHA-256-sess",
            Algorithm::Sha512_256 => "SHA-512-256",
            Algorithm::Sha512_256Sess => "SHA-512-256-sess",
        }
    }

    /// The algorithm of this name, without case.
    pub fn named(name: &[u8]) -> Option<Algorithm> {
        Algorithm::ALL
            .into_iter()
            .find(|algorithm| algorithm.name().as_bytes().eq_ignore_ascii_case(name))
    }

    /// The algorithm without `-sess`: the one an HA1 is stored for.
    pub fn base(self) -> Algorithm {
        match self {
            Algorithm::Md5 | Algorithm::Md5Sess => Algorithm::Md5,
            Algorithm::Sha256 | Algorithm::Sha256Sess => Algorithm::Sha256,
            Algorithm::Sha512_256 | Algorithm::Sha512_256Sess => Algorithm::Sha512_256,
        }
    }

    fn is_sess(self) -> bool {
        self != self.base()
    }

    /// The hash of the parts joined by colons, in small hexadecimal letters.
    fn hash(self, parts: &[&[u8]]) -> String {
        let text = parts.join(b":".as_slice());
        match self.base() {
            Algorithm::Sha256 => hex(&Sha256::digest(text)),
            Algorithm::Sha512_256 => hex(&Sha512_256::digest(text)),
            _ => hex(&Md5::digest(text)),
        }
    }
}

/// H(user:realm:password), in hexadecimal: what is stored instead of a password, one for each base
/// algorithm in use.
pub fn ha1(algorithm: Algorithm, user: &str, realm: &str, password: &str) -> Secret {
    algorithm.base().hash(&[user.as_bytes(), realm.as_bytes(), password.as_bytes()]).into()
}

/// The digests of one password, by base algorithm.
pub type Ha1s = BTreeMap<Algorithm, Secret>;

/// What a response is computed of, besides HA1.
#[derive(Clone, Copy)]
struct RequestedBy<'a> {
    algorithm: Algorithm,
    nonce: &'a [u8],
    /// qop, nc and cnonce; `None` for RFC 2069.
    counted: Option<(&'a [u8], &'a [u8], &'a [u8])>,
    method: &'a [u8],
    uri: &'a [u8],
    body: &'a [u8],
}

impl RequestedBy<'_> {
    fn response(&self, ha1: &str) -> String {
        let cnonce = self.counted.map_or(b"".as_slice(), |(_, _, cnonce)| cnonce);
        let ha1 = match self.algorithm.is_sess() {
            true => self.algorithm.hash(&[ha1.as_bytes(), self.nonce, cnonce]),
            false => ha1.to_owned(),
        };
        let whole = self.counted.is_some_and(|(qop, ..)| qop.eq_ignore_ascii_case(b"auth-int"));
        let ha2 = match whole {
            true => self.algorithm.hash(&[
                self.method,
                self.uri,
                self.algorithm.hash(&[self.body]).as_bytes(),
            ]),
            false => self.algorithm.hash(&[self.method, self.uri]),
        };
        match self.counted {
            Some((qop, nc, cnonce)) => {
                self.algorithm.hash(&[ha1.as_bytes(), self.nonce, nc, cnonce, qop, ha2.as_bytes()])
            }
            None => self.algorithm.hash(&[ha1.as_bytes(), self.nonce, ha2.as_bytes()]),
        }
    }
}

/// `Digest name=value, name="value" …`, read. A name that comes twice spoils it.
struct AuthParams<'a>(Vec<(&'a [u8], Vec<u8>)>);

impl<'a> AuthParams<'a> {
    fn read(value: &'a [u8]) -> Option<AuthParams<'a>> {
        let value = value.trim_ascii();
        let (scheme, mut rest) = value.split_at_checked(7)?;
        if !scheme[..6].eq_ignore_ascii_case(b"Digest") || !scheme[6].is_ascii_whitespace() {
            return None;
        }
        let mut fields: Vec<(&[u8], Vec<u8>)> = Vec::new();
        loop {
            rest = rest.trim_ascii_start();
            if let Some(after) = rest.strip_prefix(b",") {
                rest = after;
                continue;
            }
            if rest.is_empty() {
                return Some(AuthParams(fields));
            }
            let equals = rest.iter().position(|byte| *byte == b'=')?;
            let name = rest[..equals].trim_ascii();
            let (text, after) = AuthParams::read_value(rest[equals + 1..].trim_ascii_start())?;
            if name.is_empty()
                || fields.len() == 32
                || fields.iter().any(|(known, _)| known.eq_ignore_ascii_case(name))
            {
                return None;
            }
            fields.push((name, text));
            rest = after.trim_ascii_start();
            if !rest.is_empty() && rest[0] != b',' {
                return None;
            }
        }
    }

    fn read_value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
        let Some(quoted) = text.strip_prefix(b"\"") else {
            let end = text
                .iter()
                .position(|byte| *byte == b',' || byte.is_ascii_whitespace())
                .unwrap_or(text.len());
            return Some((text[..end].to_vec(), &text[end..]));
        };
        let (mut value, mut at) = (Vec::new(), 0);
        loop {
            match quoted.get(at)? {
                b'"' => return Some((value, &quoted[at + 1..])),
                b'\\' => {
                    value.push(*quoted.get(at + 1)?);
                    at += 2;
                }
                byte => {
                    value.push(*byte);
                    at += 1;
                }
            }
        }
    }

    fn get(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_slice())
    }
}

/// The realm of an Authorization or Proxy-Authorization value (or of a challenge), to pick the one
/// that is meant for us.
pub fn realm(value: &[u8]) -> Option<Vec<u8>> {
    AuthParams::read(value)?.get("realm").map(<[u8]>::to_vec)
}

/// The user name of an Authorization value for this realm.
pub fn username(value: &[u8], realm: &[u8]) -> Option<Vec<u8>> {
    let fields = AuthParams::read(value).filter(|fields| fields.get("realm") == Some(realm))?;
    fields.get("username").map(<[u8]>::to_vec)
}

/// A request, as far as authentication looks at it.
#[derive(Clone, Copy)]
pub struct DigestRequest<'a> {
    /// The method's name.
    pub method: &'a [u8],
    /// The raw Request-URI: what an answer of ours is made over. An answer to us says its own
    /// digest-uri, and is judged over that: on the way to us a proxy may have rewritten the
    /// Request-URI (RFC 3261 22.4).
    pub uri: &'a [u8],
    /// The body, for auth-int.
    pub body: &'a [u8],
}

/// Without the body, which may hold keys.
impl std::fmt::Debug for DigestRequest<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.method.escape_ascii(), self.uri.escape_ascii())
    }
}

/// What an Authorization value is worth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DigestVerdict {
    /// The sender knows the secret of this user.
    Genuine {
        /// The user.
        user: String,
    },
    /// The sender may know the secret, but the nonce is old, from elsewhere, or its count was used:
    /// challenge again with stale=true. The secret has not been looked at.
    Stale,
    /// No such user or wrong secret: the two are not told apart.
    Wrong,
    /// Not a Digest answer that can be read, or one to nothing that we asked.
    Malformed,
}

/// The most nonces with counts that are remembered. When there are more, the oldest become stale.
pub const MAX_NONCES: usize = 65_536;

/// The server's side: makes challenges and judges answers. A quiet machine without output.
#[derive(Debug)]
pub struct Authenticator {
    key: Secret<Zeroizing<[u8; 32]>>,
    realm: String,
    algorithms: Vec<Algorithm>,
    lifetime: Duration,
    started: Instant,
    issued: u64,
    /// Nonces up to this number are stale.
    stale_up_to: u64,
    seen: BTreeMap<u64, NonceCounts>,
}

/// The counts of one nonce that have been used: the highest, and which of the 64 below it.
#[derive(Debug, Default)]
struct NonceCounts {
    highest: u32,
    below: u64,
}

impl NonceCounts {
    fn take(&mut self, count: u32) -> bool {
        if count > self.highest {
            let step = count - self.highest;
            self.below = if step > 64 {
                0
            } else {
                self.below.checked_shl(step).unwrap_or(0) | 1 << (step - 1)
            };
            self.highest = count;
            return true;
        }
        let back = self.highest - count;
        if back == 0 || back > 64 || self.below & (1 << (back - 1)) != 0 {
            return false;
        }
        self.below |= 1 << (back - 1);
        true
    }
}

impl Authenticator {
    /// `key` is secret and random, and new at every start; `algorithms` in the order of preference
    /// (RFC 8760 2.3).
    pub fn new(
        key: [u8; 32],
        realm: &str,
        algorithms: Vec<Algorithm>,
        lifetime: Duration,
        now: Instant,
    ) -> Authenticator {
        Authenticator {
            key: Secret::new(key),
            realm: realm.to_owned(),
            algorithms,
            lifetime,
            started: now,
            issued: 0,
            stale_up_to: 0,
            seen: BTreeMap::new(),
        }
    }

    /// The realm that is asked for.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// The values of WWW-Authenticate (or Proxy-Authenticate) for a peer: one for each algorithm,
    /// the preferred one first.
    pub fn challenge(&mut self, source: IpAddr, stale: bool, now: Instant) -> Vec<String> {
        self.issued += 1;
        let nonce = self.nonce(self.issued, self.seconds(now), source);
        let stale = if stale { ", stale=true" } else { "" };
        let realm =
            String::from_utf8_lossy(&super::message::quote(self.realm.as_bytes())).into_owned();
        let value = |algorithm: &Algorithm| {
            format!(
                "Digest realm={realm}, nonce=\"{nonce}\", algorithm={}, qop=\"auth\"{stale}",
                algorithm.name()
            )
        };
        self.algorithms.iter().map(value).collect()
    }

    /// Judges the value of Authorization (or Proxy-Authorization). `stored` gives the HA1 of a user
    /// for a base algorithm.
    pub fn verify(
        &mut self,
        value: &[u8],
        subject: DigestRequest<'_>,
        source: IpAddr,
        stored: impl FnOnce(&str, Algorithm) -> Option<Secret>,
        now: Instant,
    ) -> DigestVerdict {
        self.judge(value, subject, source, stored, now).unwrap_or(DigestVerdict::Malformed)
    }

    fn judge(
        &mut self,
        value: &[u8],
        subject: DigestRequest<'_>,
        source: IpAddr,
        stored: impl FnOnce(&str, Algorithm) -> Option<Secret>,
        now: Instant,
    ) -> Option<DigestVerdict> {
        let fields = AuthParams::read(value)?;
        let algorithm = fields.get("algorithm").map_or(Some(Algorithm::Md5), Algorithm::named)?;
        if !self.algorithms.contains(&algorithm) || fields.get("realm")? != self.realm.as_bytes() {
            return None;
        }
        let qop = fields.get("qop")?;
        if !qop.eq_ignore_ascii_case(b"auth") {
            return None;
        }
        let user = std::str::from_utf8(fields.get("username")?).ok()?;
        let (nonce, nc, cnonce) = (fields.get("nonce")?, fields.get("nc")?, fields.get("cnonce")?);
        let (uri, response) = (fields.get("uri")?, fields.get("response")?);
        let count = read_count(nc).filter(|count| *count > 0)?;
        let Some(number) = self.open_nonce(nonce, source, now) else {
            return Some(DigestVerdict::Stale);
        };
        let asked = RequestedBy {
            algorithm,
            nonce,
            counted: Some((qop, nc, cnonce)),
            method: subject.method,
            uri,
            body: subject.body,
        };
        let ha1 = stored(user, algorithm.base());
        // An unknown user costs the same hashing as a known one.
        let expected = asked.response(ha1.as_ref().map_or("0", |ha1| ha1.expose()));
        if ha1.is_none() || !same_secret(expected.as_bytes(), &response.to_ascii_lowercase()) {
            return Some(DigestVerdict::Wrong);
        }
        if !self.seen.entry(number).or_default().take(count) {
            return Some(DigestVerdict::Stale);
        }
        while self.seen.len() > MAX_NONCES
            && let Some((oldest, _)) = self.seen.pop_first()
        {
            self.stale_up_to = oldest;
        }
        Some(DigestVerdict::Genuine { user: user.to_owned() })
    }

    /// The number of the challenge that a genuine value of Authorization answers; a newer challenge
    /// has a higher one.
    pub fn challenge_of(&self, value: &[u8]) -> Option<u64> {
        let fields = AuthParams::read(value)?;
        let sealed = BASE64_URL_SAFE_NO_PAD.decode(fields.get("nonce")?).ok()?;
        let number = sealed.first_chunk::<8>()?;
        Some(u64::from_be_bytes(*number))
    }

    fn seconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.started).as_secs()
    }

    fn nonce(&self, number: u64, issued_at: u64, source: IpAddr) -> String {
        let mut sealed = [number.to_be_bytes(), issued_at.to_be_bytes()].concat();
        let seal = self.seal(&sealed, source);
        sealed.extend_from_slice(&seal[..16]);
        BASE64_URL_SAFE_NO_PAD.encode(sealed)
    }

    /// The number of a nonce that we issued to this address, not too long ago.
    fn open_nonce(&mut self, nonce: &[u8], source: IpAddr, now: Instant) -> Option<u64> {
        let sealed =
            BASE64_URL_SAFE_NO_PAD.decode(nonce).ok().filter(|sealed| sealed.len() == 32)?;
        if !same_secret(&self.seal(&sealed[..16], source)[..16], &sealed[16..]) {
            return None;
        }
        let word = |at: usize| {
            sealed[at..at + 8].iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte))
        };
        let (number, issued_at) = (word(0), word(8));
        let age = self.seconds(now).saturating_sub(issued_at);
        if age > self.lifetime.as_secs() {
            self.seen.remove(&number);
            return None;
        }
        (number > self.stale_up_to).then_some(number)
    }

    /// HMAC-SHA-256 (RFC 2104) over what is sealed, the address and the realm.
    fn seal(&self, text: &[u8], source: IpAddr) -> [u8; 32] {
        let pad = |with: u8| -> Vec<u8> {
            (0..64).map(|at| self.key.expose().get(at).unwrap_or(&0) ^ with).collect()
        };
        let bound = format!("{}\n{}", source.to_canonical(), self.realm);
        let inner = Sha256::digest([pad(0x36).as_slice(), text, bound.as_bytes()].concat());
        Sha256::digest([pad(0x5c).as_slice(), inner.as_slice()].concat()).into()
    }
}

fn read_count(nc: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(nc).ok().filter(|digits| {
        digits.len() == 8 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    })?;
    u32::from_str_radix(digits, 16).ok()
}

/// Takes the same time wherever the first difference is.
fn same_secret(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// The client's side: one account at one peer. It answers nobody else's challenges.
#[derive(Clone)]
pub struct Credentials {
    peer: String,
    /// `None`: whichever the peer names.
    realm: Option<String>,
    user: String,
    password: Secret,
    nonce: Vec<u8>,
    count: u32,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("peer", &self.peer)
            .field("realm", &self.realm)
            .finish_non_exhaustive()
    }
}

impl Credentials {
    /// An account: `peer` names the party that may challenge for it, in whatever terms the caller
    /// tells its peers apart; `realm` is what it challenges for, or, `None`, anything.
    pub fn new(peer: &str, realm: Option<&str>, user: &str, password: &str) -> Credentials {
        let ([peer, user], realm) = ([peer, user].map(str::to_owned), realm.map(str::to_owned));
        Credentials { peer, realm, user, password: password.into(), nonce: Vec::new(), count: 0 }
    }

    /// The value of Authorization that answers one of the challenges of a 401 or 407: the topmost
    /// that can be answered (RFC 8760 2.4). `None` when the peer or the realm is another's, or
    /// nothing can be answered. `cnonce` is random and new.
    pub fn answer(
        &mut self,
        challenges: &[&[u8]],
        peer: &str,
        subject: DigestRequest<'_>,
        cnonce: &str,
    ) -> Option<String> {
        if peer != self.peer {
            return None;
        }
        challenges.iter().find_map(|challenge| self.answer_one(challenge, subject, cnonce))
    }

    fn answer_one(
        &mut self,
        challenge: &[u8],
        subject: DigestRequest<'_>,
        cnonce: &str,
    ) -> Option<String> {
        let fields = AuthParams::read(challenge)?;
        let algorithm = fields.get("algorithm").map_or(Some(Algorithm::Md5), Algorithm::named)?;
        let realm = std::str::from_utf8(fields.get("realm")?).ok()?;
        if self.realm.as_ref().is_some_and(|own| own != realm) {
            return None;
        }
        let nonce = fields.get("nonce")?;
        let qop = match fields.get("qop") {
            None => None,
            Some(offered) => {
                let offers = |wanted: &str| {
                    offered
                        .split(|byte| *byte == b',')
                        .any(|qop| qop.trim_ascii().eq_ignore_ascii_case(wanted.as_bytes()))
                };
                Some(["auth", "auth-int"].into_iter().find(|qop| offers(qop))?)
            }
        };
        if self.nonce != nonce {
            self.nonce = nonce.to_vec();
            self.count = 0;
        }
        self.count += 1;
        let nc = format!("{:08x}", self.count);
        let counted = qop.map(|qop| (qop.as_bytes(), nc.as_bytes(), cnonce.as_bytes()));
        let DigestRequest { method, uri, body } = subject;
        let ha1 = ha1(algorithm, &self.user, realm, self.password.expose());
        let response =
            RequestedBy { algorithm, nonce, counted, method, uri, body }.response(ha1.expose());
        let quoted =
            |text: &[u8]| String::from_utf8_lossy(&super::message::quote(text)).into_owned();
        let mut value = format!(
            "Digest username={}, realm={}, nonce={}, uri={}, response=\"{response}\", algorithm={}",
            quoted(self.user.as_bytes()),
            quoted(realm.as_bytes()),
            quoted(nonce),
            quoted(uri),
            algorithm.name()
        );
        if let Some(qop) = qop {
            value.push_str(&format!(", qop={qop}, nc={nc}, cnonce={}", quoted(cnonce.as_bytes())));
        }
        if let Some(opaque) = fields.get("opaque") {
            value.push_str(&format!(", opaque={}", quoted(opaque)));
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REALM: &str = "coach.example.test";
    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const AWAY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));
    const REGISTER: DigestRequest<'_> =
        DigestRequest { method: b"REGISTER", uri: b"sip:coach.example.test", body: b"" };

    fn stored(user: &str, algorithm: Algorithm) -> Option<Secret> {
        (user == "anna").then(|| ha1(algorithm, user, REALM, "secret"))
    }

    struct Pair {
        server: Authenticator,
        client: Credentials,
        now: Instant,
    }

    impl Pair {
        fn new() -> Pair {
            let now = crate::sip::digest::tests::start();
            let server = Authenticator::new(
                [7; 32],
                REALM,
                Algorithm::ALL.into_iter().rev().collect(),
                Duration::from_secs(300),
                now,
            );
            Pair {
                server,
                client: Credentials::new("registrar", Some(REALM), "anna", "secret"),
                now,
            }
        }

        fn answer(&mut self) -> String {
            let challenges = self.server.challenge(HOME, false, self.now);
            self.answer_to(&challenges)
        }

        fn answer_to(&mut self, challenges: &[String]) -> String {
            let challenges: Vec<&[u8]> = challenges.iter().map(|it| it.as_bytes()).collect();
            self.client.answer(&challenges, "registrar", REGISTER, "c0").unwrap()
        }

        fn verify(&mut self, value: &str) -> DigestVerdict {
            self.server.verify(value.as_bytes(), REGISTER, HOME, stored, self.now)
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere in time")]
    fn start() -> Instant {
        Instant::now()
    }

    fn genuine() -> DigestVerdict {
        DigestVerdict::Genuine { user: "anna".to_owned() }
    }

    #[test]
    fn the_published_and_recomputed_vectors_come_out() {
        let table = include_str!("../../tests/data/torture/digest_vectors.tsv");
        let mut count = 0;
        for line in table.lines().skip(1) {
            let cells: Vec<&str> = line.split('\t').collect();
            let [
                _,
                algorithm,
                user,
                realm,
                password,
                method,
                uri,
                nonce,
                qop,
                nc,
                cnonce,
                body,
                response,
                ..,
            ] = cells[..]
            else {
                panic!("{line}")
            };
            let algorithm = Algorithm::named(algorithm.as_bytes()).unwrap();
            let counted =
                (!qop.is_empty()).then_some((qop.as_bytes(), nc.as_bytes(), cnonce.as_bytes()));
            let (nonce, method, uri, body) =
                (nonce.as_bytes(), method.as_bytes(), uri.as_bytes(), body.as_bytes());
            let asked = RequestedBy { algorithm, nonce, counted, method, uri, body };
            assert_eq!(
                asked.response(ha1(algorithm, user, realm, password).expose()),
                response,
                "{line}"
            );
            count += 1;
        }
        assert_eq!(count, 15);
    }

    #[test]
    fn whoever_knows_the_secret_is_let_in_with_every_algorithm() {
        for algorithm in Algorithm::ALL {
            let mut pair = Pair::new();
            pair.server.algorithms = vec![algorithm];
            let value = pair.answer();
            assert!(value.contains(&format!("algorithm={}", algorithm.name())));
            assert_eq!(pair.verify(&value), genuine());
        }
    }

    #[test]
    fn the_strongest_algorithm_is_asked_for_first() {
        let mut pair = Pair::new();
        assert!(pair.answer().contains("algorithm=SHA-512-256-sess"));
    }

    #[test]
    fn a_wrong_secret_an_unknown_user_and_another_method_are_wrong() {
        let mut pair = Pair::new();
        pair.client.password = "guess".into();
        let value = pair.answer();
        assert_eq!(pair.verify(&value), DigestVerdict::Wrong);
        let mut pair = Pair::new();
        pair.client.user = "otto".to_owned();
        let value = pair.answer();
        assert_eq!(pair.verify(&value), DigestVerdict::Wrong);
        let mut pair = Pair::new();
        let value = pair.answer();
        let invite = DigestRequest { method: b"INVITE", ..REGISTER };
        assert_eq!(
            pair.server.verify(value.as_bytes(), invite, HOME, stored, pair.now),
            DigestVerdict::Wrong
        );
    }

    /// RFC 3261 22.4 (6), RFC 7616 3.4.6.
    #[test]
    fn a_digest_uri_that_is_not_the_request_uri_is_judged_over_what_it_says() {
        for uri in [
            b"sip:coach.example.test:5060".as_slice(),
            b"sip:edge.test;transport=udp",
            b"SIP:COACH.example.test",
            b"x",
        ] {
            let mut pair = Pair::new();
            let value = pair.answer();
            let asked = DigestRequest { uri, ..REGISTER };
            assert_eq!(
                pair.server.verify(value.as_bytes(), asked, HOME, stored, pair.now),
                genuine()
            );
            let value =
                pair.answer().replace("uri=\"sip:coach.example.test\"", "uri=\"sip:other.test\"");
            assert_eq!(pair.verify(&value), DigestVerdict::Wrong, "not what was hashed");
        }
    }

    #[test]
    fn a_replay_is_stale_and_a_late_count_is_not() {
        let mut pair = Pair::new();
        let challenges = pair.server.challenge(HOME, false, pair.now);
        let first = pair.answer_to(&challenges);
        let second = pair.answer_to(&challenges);
        let third = pair.answer_to(&challenges);
        assert!(third.contains("nc=00000003"));
        assert_eq!(pair.verify(&first), genuine());
        assert_eq!(pair.verify(&third), genuine());
        assert_eq!(pair.verify(&second), genuine());
        for value in [first, second, third] {
            assert_eq!(pair.verify(&value), DigestVerdict::Stale);
        }
    }

    #[test]
    fn a_nonce_serves_only_the_address_it_was_given_to() {
        let mut pair = Pair::new();
        let value = pair.answer();
        assert_eq!(
            pair.server.verify(value.as_bytes(), REGISTER, AWAY, stored, pair.now),
            DigestVerdict::Stale
        );
        assert_eq!(pair.verify(&value), genuine());
    }

    #[test]
    fn a_nonce_grows_old_and_the_new_challenge_says_so() {
        let mut pair = Pair::new();
        let value = pair.answer();
        pair.now += Duration::from_secs(301);
        assert_eq!(pair.verify(&value), DigestVerdict::Stale);
        let challenges = pair.server.challenge(HOME, true, pair.now);
        assert!(challenges.iter().all(|value| value.ends_with("stale=true")));
        let value = pair.answer_to(&challenges);
        assert_eq!(pair.verify(&value), genuine());
    }

    #[test]
    fn a_nonce_of_ones_own_making_is_stale() {
        let mut pair = Pair::new();
        let value = pair.answer_to(&[
            "Digest realm=\"coach.example.test\", nonce=\"abcd\", qop=\"auth\", algorithm=MD5"
                .to_owned(),
        ]);
        assert_eq!(pair.verify(&value), DigestVerdict::Stale);
    }

    #[test]
    fn an_algorithm_that_was_not_offered_does_not_count() {
        let mut pair = Pair::new();
        let mut challenges = pair.server.challenge(HOME, false, pair.now);
        pair.server.algorithms = vec![Algorithm::Sha256];
        challenges.retain(|value| value.contains("algorithm=MD5,"));
        let value = pair.answer_to(&challenges);
        assert_eq!(pair.verify(&value), DigestVerdict::Malformed);
    }

    #[test]
    fn nonsense_is_malformed() {
        let mut pair = Pair::new();
        let twice = pair.answer().replace("username=", "username=\"otto\", username=");
        for value in [
            "",
            "Digest",
            "Digest ",
            "Basic YTpi",
            "Digest username",
            "Digest a=\"",
            "Digest a=\"\\",
            "NoOneKnowsThisScheme x=y",
            &twice,
        ] {
            assert_eq!(pair.verify(value), DigestVerdict::Malformed, "{value}");
        }
    }

    #[test]
    fn a_foreign_peer_or_realm_gets_no_answer() {
        let mut client = Credentials::new("trunk", Some("provider.test"), "us", "secret");
        let ours = b"Digest realm=\"provider.test\", nonce=\"n\", qop=\"auth\"".as_slice();
        let foreign = b"Digest realm=\"evil.test\", nonce=\"n\", qop=\"auth\"".as_slice();
        assert_eq!(client.answer(&[foreign], "trunk", REGISTER, "c"), None);
        assert_eq!(client.answer(&[ours], "somebody", REGISTER, "c"), None);
        assert!(client.answer(&[foreign, ours], "trunk", REGISTER, "c").is_some());
    }

    #[test]
    fn old_nonces_make_room_and_are_never_good_again() {
        let mut pair = Pair::new();
        let first = pair.answer();
        assert_eq!(pair.verify(&first), genuine());
        for number in 2..=MAX_NONCES as u64 + 1 {
            pair.server.seen.insert(number, NonceCounts::default());
        }
        pair.server.issued = MAX_NONCES as u64 + 1;
        let value = pair.answer();
        assert_eq!(pair.verify(&value), genuine());
        assert_eq!(pair.server.seen.len(), MAX_NONCES);
        assert_eq!(pair.verify(&first), DigestVerdict::Stale);
    }
}
