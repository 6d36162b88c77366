//! What has to be unpredictable: tags, branches, Call-IDs, tokens that name a leg.

use crate::hex::hex;
use crate::sip::leg::LegId;
use crate::sip::message::Headers;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// Makes tags, branches and Call-IDs that nobody can guess, all from one seed.
pub(super) struct TokenGenerator {
    seed: [u8; 32],
    counter: u64,
}

impl std::fmt::Debug for TokenGenerator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TokenGenerator")
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

    /// Some time between half of this and all of it: not everything of a site at one moment (RFC 5626
    /// 4.5).
    pub(super) fn scattered(&mut self, most: Duration) -> Duration {
        let half = most / 2;
        half + Duration::from_millis(self.below(half.as_millis() as u64 + 1))
    }

    pub(super) fn branch(&mut self) -> Vec<u8> {
        let word = self.word();
        [COOKIE, word.as_bytes(), self.proof(word.as_bytes()).as_bytes()].concat()
    }

    pub(super) fn is_ours(&self, branch: &[u8]) -> bool {
        let Some(rest) = branch.strip_prefix(COOKIE) else {
            return false;
        };
        rest.len() == BRANCH + PROOF && self.proof(&rest[..BRANCH]).as_bytes() == &rest[BRANCH..]
    }

    /// A token that names a leg of ours: nobody else can make one, or learn from it how many calls
    /// there were.
    pub(super) fn token(&self, leg: LegId) -> String {
        let seal = self.seal(leg);
        hex(&[self.masked(leg.0, seal), seal].map(u64::to_be_bytes).concat())
    }

    pub(super) fn open_token(&self, token: &[u8]) -> Option<LegId> {
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
