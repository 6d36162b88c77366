//! Keys of SRTP in descriptions (RFC 4568).

use super::Audio;
use crate::media::srtp::{Keys, MAX_MATERIAL, MasterKey, Suite};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha512;
use std::net::SocketAddr;
use zeroize::Zeroizing;

/// The most `a=crypto` lines of a stream that are looked at.
pub(super) const MAX_CRYPTO: usize = 16;

/// Base64 as keys come in: with its padding, or as some phones have it, without.
pub(super) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An `a=crypto` line (RFC 4568 9.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crypto {
    /// Its tag, by which an answer names what it takes.
    pub tag: u32,
    /// What its sender protects its packets with.
    pub key: MasterKey,
}

/// Reads the value of an `a=crypto` line (RFC 4568 9.1): `1 AES_CM_128_HMAC_SHA1_80 inline:…|2^31
/// WSH=64`. `None`: an unknown suite, or something in it that we would have to honour and do not:
/// an MKI, several keys, a part left in clear or unauthenticated, a key derivation rate, an order
/// of FEC. A lifetime binds the sender under the key: the peer.
pub(super) fn read_crypto(value: &str) -> Option<Crypto> {
    let mut words = value.split_ascii_whitespace();
    let tag = words.next().filter(|tag| is_number(tag, 9))?.parse().ok()?;
    let suite = Suite::named(words.next()?)?;
    let parameters = words.next()?;
    let (method, key) = parameters.split_once(':')?;
    let (key, lifetime) = key.split_once('|').map_or((key, None), |(key, rest)| (key, Some(rest)));
    let is_lifetime = |text: &str| is_number(text.strip_prefix("2^").unwrap_or(text), 15);
    if !method.eq_ignore_ascii_case("inline") || !lifetime.is_none_or(is_lifetime) {
        return None;
    }
    // A window of ours may be larger than he asks for; what has a minus need not be understood.
    if !words.all(|parameter| {
        parameter.starts_with('-') || parameter.to_ascii_uppercase().starts_with("WSH=")
    }) {
        return None;
    }
    let mut material = Zeroizing::new([0; MAX_MATERIAL + 4]);
    let len = BASE64.decode_slice(key, &mut *material).ok()?;
    let key = MasterKey::new(suite, material.get(..len)?)?;
    Some(Crypto { tag, key })
}

fn is_number(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Our keys of one leg, all made of one secret. A key is never taken up again once packets went out
/// under it and another, or none, came in its place: their indices begin anew, and a pair of
/// packets under one index gives both away.
#[derive(Clone)]
pub(super) struct OurKeys {
    pub(super) secret: Zeroizing<[u8; 32]>,
    pub(super) generation: u32,
    /// Keys of this generation are in use, or were.
    pub(super) used: bool,
    /// What SRTP has come to: the suite, over RTP/SAVP or not, and the peer's key and address.
    pub(super) agreed: Option<(Suite, bool, MasterKey, Option<SocketAddr>)>,
}

impl std::fmt::Debug for OurKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OurKeys({:?})", self.agreed.as_ref().map(|(suite, ..)| suite))
    }
}

impl OurKeys {
    pub(super) fn suite(&self) -> Option<Suite> {
        self.agreed.as_ref().map(|(suite, ..)| *suite)
    }

    /// The keys that were used are done with.
    pub(super) fn renew(&mut self) {
        if std::mem::take(&mut self.used) {
            self.generation = self.generation.wrapping_add(1);
        }
    }

    pub(super) fn key(&self, suite: Suite) -> Option<MasterKey> {
        let mut mac = Hmac::<Sha512>::new_from_slice(&*self.secret).ok()?;
        mac.update(&self.generation.to_be_bytes());
        mac.update(suite.name().as_bytes());
        let derived = Zeroizing::new(<[u8; 64]>::from(mac.finalize().into_bytes()));
        MasterKey::new(suite, derived.get(..suite.material_len())?)
    }

    pub(super) fn agree(&mut self, audio: &Audio, theirs: &MasterKey) -> Option<Box<Keys>> {
        let ours = self.key(theirs.suite())?;
        self.used = true;
        self.agreed = Some((theirs.suite(), audio.secure, theirs.clone(), audio.rtp));
        Some(Box::new(Keys { ours, theirs: theirs.clone() }))
    }
}

/// The tag of a suite in our offers.
pub(super) fn tag_of(suite: Suite) -> u32 {
    Suite::ALL.iter().zip(1..).find(|(known, _)| **known == suite).map_or(0, |(_, tag)| tag)
}
