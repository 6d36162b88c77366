//! The phone's SRTP: keys in its descriptions (SDES, RFC 4568), and what protects its packets.

use super::sdp::Described;
use crate::media::srtp::{Keys, MAX_GROWTH, MAX_MATERIAL, MasterKey, Protection, Suite};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Instant;

/// Packets that are kept until it is known which key they are protected with: a second of sound.
const MAX_EARLY: usize = 50;
/// Octets of an RTP header without CSRCs.
const HEADER: usize = 12;
/// Octets that do not stay the same by chance when they are encrypted.
const TELLING: usize = 8;

/// How a phone encrypts its sound: always, or there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhoneSrtp {
    /// The suites it offers and takes, best first.
    pub suites: Vec<Suite>,
    /// Each of its descriptions has another key; without, a call has one for as long as its suite
    /// stays.
    pub rekeys: bool,
}

impl Default for PhoneSrtp {
    fn default() -> Self {
        Self { suites: Suite::ALL.to_vec(), rekeys: false }
    }
}

/// Datagrams that came to the RTP port of a phone with SRTP, of all its calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SrtpCounts {
    /// Encrypted, and authentic: what the phone hears.
    pub encrypted: u64,
    /// In clear, altered or repeated: what it does not hear.
    pub rejected: u64,
}

/// An `a=crypto` line (RFC 4568 9.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CryptoLine {
    tag: u32,
    key: MasterKey,
}

impl CryptoLine {
    fn new(tag: u32, suite: Suite) -> Option<Self> {
        let material: [u8; MAX_MATERIAL] = std::array::from_fn(|_| rand::random());
        let key = MasterKey::new(suite, material.get(..suite.material_len())?)?;
        Some(Self { tag, key })
    }

    pub(super) fn suite(&self) -> Suite {
        self.key.suite()
    }

    /// Reads the value of a line; `None`: an unknown suite, or more than one key with nothing else.
    pub(super) fn read(value: &str) -> Option<Self> {
        let mut words = value.split_ascii_whitespace();
        let (tag, suite, key) = (words.next()?, words.next()?, words.next()?);
        let suite = Suite::named(suite)?;
        let material = STANDARD.decode(key.strip_prefix("inline:")?).ok()?;
        let key = MasterKey::new(suite, &material)?;
        words.next().is_none().then_some(Self { tag: tag.parse().ok()?, key })
    }

    /// The value of the line.
    pub(super) fn write(&self) -> String {
        let Self { tag, key } = self;
        format!("{tag} {} inline:{}", key.suite().name(), STANDARD.encode(key.material()))
    }
}

/// The keys of one call.
#[derive(Debug, Default)]
pub(super) struct CallKeys {
    /// Of our offer, until it is answered.
    offered: Vec<CryptoLine>,
    agreed: Option<Keys>,
}

impl CallKeys {
    /// What protects the sound now.
    pub(super) fn agreed(&self) -> Option<&Keys> {
        self.agreed.as_ref()
    }

    /// The lines of an offer of ours.
    pub(super) fn offer(&mut self, srtp: &PhoneSrtp) -> Vec<CryptoLine> {
        self.offered = match &self.agreed {
            Some(keys) if !srtp.rekeys => vec![CryptoLine { tag: 1, key: keys.ours.clone() }],
            Some(_) | None => {
                let lines = srtp.suites.iter().zip(1..);
                lines.filter_map(|(suite, tag)| CryptoLine::new(tag, *suite)).collect()
            }
        };
        self.offered.clone()
    }

    /// Our line in the answer to an offer (RFC 4568 5.1.2): the first of its lines that we take.
    pub(super) fn answer(&mut self, srtp: &PhoneSrtp, offer: &Described) -> Option<CryptoLine> {
        self.offered.clear();
        let theirs = offer.crypto.first()?;
        let kept = self.agreed.as_ref().map(|keys| &keys.ours);
        let kept = kept.filter(|ours| !srtp.rekeys && ours.suite() == theirs.suite());
        let ours = match kept {
            Some(key) => CryptoLine { tag: theirs.tag, key: key.clone() },
            None => CryptoLine::new(theirs.tag, theirs.suite())?,
        };
        self.agreed = Some(Keys { ours: ours.key.clone(), theirs: theirs.key.clone() });
        Some(ours)
    }

    /// The answer to our offer (RFC 4568 5.1.3): it has the tag and the suite of one of our lines.
    pub(super) fn accept(&mut self, answer: &Described) {
        let offered = std::mem::take(&mut self.offered);
        let Some(theirs) = answer.crypto.first() else { return };
        let is_taken =
            |line: &&CryptoLine| line.tag == theirs.tag && line.suite() == theirs.suite();
        if let Some(ours) = offered.iter().find(is_taken) {
            self.agreed = Some(Keys { ours: ours.key.clone(), theirs: theirs.key.clone() });
        }
    }
}

/// What protects the packets of a phone with SRTP.
#[derive(Debug, Default)]
pub(super) struct PacketProtection {
    protection: Option<Protection>,
    early: VecDeque<Received>,
    pub(super) counts: SrtpCounts,
}

/// A datagram as it came.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) bytes: Vec<u8>,
    pub(super) peer: SocketAddr,
    pub(super) at: Instant,
}

impl PacketProtection {
    /// Another call: its keys are not known yet.
    pub(super) fn reset(&mut self) {
        self.protection = None;
        self.early.clear();
    }

    /// Keys were agreed, anew or for the first time. What has come before and is good under them.
    pub(super) fn rekey(&mut self, keys: &Keys) -> Vec<Received> {
        match &mut self.protection {
            Some(protection) => protection.rekey(keys),
            None => self.protection = Some(Protection::new(keys)),
        }
        let early = std::mem::take(&mut self.early);
        early.into_iter().filter_map(|received| self.unprotect(received)).collect()
    }

    /// A packet in clear, if it came encrypted and is authentic. It is kept while its key is not
    /// known.
    pub(super) fn unprotect(&mut self, received: Received) -> Option<Received> {
        let Some(protection) = &mut self.protection else {
            if self.early.len() == MAX_EARLY {
                self.early.pop_front();
            }
            self.early.push_back(received);
            return None;
        };
        let Received { mut bytes, peer, at } = received;
        let on_the_wire = bytes.clone();
        let opened = protection.unprotect_rtp(&mut bytes).ok();
        // It is looked at, not believed: what has a tag and no cipher would be authentic too.
        let is_encrypted = |len: &usize| {
            *len < HEADER + TELLING || on_the_wire.get(HEADER..*len) != bytes.get(HEADER..*len)
        };
        let Some(len) = opened.filter(is_encrypted) else {
            self.counts.rejected += 1;
            return None;
        };
        self.counts.encrypted += 1;
        bytes.truncate(len);
        Some(Received { bytes, peer, at })
    }

    /// A packet as it goes out; `None` while there is no key.
    pub(super) fn protect(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = vec![0; packet.len() + MAX_GROWTH];
        let len = self.protection.as_mut()?.protect_rtp(packet, &mut buffer)?.len();
        buffer.truncate(len);
        Some(buffer)
    }
}

#[cfg(test)]
mod tests {
    //! RFC 4568 5.1: offer and answer of keys.

    use super::*;
    use crate::demo::phone::sdp::{self, SdpDirection};

    fn described(crypto: Vec<CryptoLine>) -> Described {
        let address = ([127, 0, 0, 1], 4000).into();
        let laws = vec![crate::demo::phone::audio::Companding::Mu];
        let direction = SdpDirection::SendRecv;
        let ours = Described { address, laws, direction, is_secure: true, crypto };
        let written = sdp::write(&ours, 1, 1);
        let read = sdp::read(&written, &Suite::ALL).expect("it can be used");
        assert_eq!(read, ours);
        read
    }

    #[test]
    fn an_answer_takes_one_line_of_the_offer_and_both_sides_have_the_same_keys() {
        let srtp = PhoneSrtp::default();
        let (mut caller, mut called) = (CallKeys::default(), CallKeys::default());
        let offer = described(caller.offer(&srtp)[1..].to_vec());
        let line = called.answer(&srtp, &offer).expect("there is one");
        assert_eq!((line.tag, line.suite()), (2, Suite::AeadAes128Gcm));
        caller.accept(&described(vec![line]));
        let (here, there) = (caller.agreed().expect("agreed"), called.agreed().expect("agreed"));
        assert_eq!((&here.ours, &here.theirs), (&there.theirs, &there.ours));
    }

    #[test]
    fn an_answer_that_takes_no_line_of_the_offer_agrees_nothing() {
        let srtp = PhoneSrtp::default();
        for wrong in [CryptoLine::new(1, Suite::AeadAes128Gcm), CryptoLine::new(9, Suite::ALL[0])] {
            let mut caller = CallKeys::default();
            caller.offer(&srtp);
            caller.accept(&described(wrong.into_iter().collect()));
            assert_eq!(caller.agreed(), None);
        }
    }

    #[test]
    fn sound_is_encrypted_or_not_as_the_phone_wants_it() {
        let line = CryptoLine::new(1, Suite::AeadAes256Gcm).expect("a key");
        let secure = sdp::write(&described(vec![line]), 1, 1);
        assert_eq!(sdp::read(&secure, &[]), None);
        assert_eq!(sdp::read(&secure, &[Suite::AeadAes128Gcm]), None);
        let text = String::from_utf8(secure).expect("text");
        let clear = text.replace("RTP/SAVP", "RTP/AVP").replace("a=crypto", "a=x-crypto");
        assert_eq!(sdp::read(clear.as_bytes(), &Suite::ALL), None);
        assert!(sdp::read(clear.as_bytes(), &[]).is_some_and(|described| !described.is_secure));
    }
}
