//! SRTP and SRTCP (RFC 3711, RFC 7714) with keys from session descriptions (RFC 4568).
//!
//! ```text
//!  received packet ─▶ Inbound:  index guess ─▶ replay window ─▶ authenticate ─▶ decrypt ─▶ note
//!  packet to send  ─▶ Outbound: index ─▶ never twice ─▶ encrypt and authenticate in place
//! ```
//!
//! The ciphers are those of RustCrypto, the framing is ours: no packet costs an allocation, and
//! nothing is changed by a packet before it is authenticated. There is no MKI, no key derivation
//! rate, and no part of a packet in clear or unauthenticated.

use aes::{Aes128, Aes256};
use aes_gcm::aead::{AeadInOut, inout::InOutBuf};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use ctr::Ctr128BE;
use ctr::cipher::{
    BlockCipherEncrypt, InnerIvInit, KeyInit, StreamCipher, StreamCipherCoreWrapper,
};
use hmac::{Hmac, Mac};
use sha1::Sha1;
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// Octets by which SRTP makes an RTP packet longer at most.
pub const MAX_GROWTH: usize = 16;
/// Octets by which SRTCP makes an RTCP packet longer at most.
pub const MAX_RTCP_GROWTH: usize = 20;
/// The longest master key and salt: AEAD_AES_256_GCM.
pub const MAX_MATERIAL: usize = 44;

/// Octets of an RTP header without CSRCs, and of what SRTCP leaves in clear.
const RTP_HEADER: usize = 12;
const RTCP_HEADER: usize = 8;
/// AES-CM's tag over RTCP, which is the long one in both suites (RFC 4568 6.2.2).
const RTCP_TAG: usize = 10;
const GCM_TAG: usize = 16;
/// The E bit and the index.
const RTCP_INDEX: usize = 4;
const ENCRYPTED: u32 = 1 << 31;
/// SSRCs of one peer that are remembered; the one not heard for longest makes room.
const MAX_SOURCES: usize = 4;

/// A crypto suite (RFC 4568 6.2, RFC 7714 14.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// The suite `AEAD_AES_256_GCM`.
    AeadAes256Gcm,
    /// The suite `AEAD_AES_128_GCM`.
    AeadAes128Gcm,
    /// The suite `AES_CM_128_HMAC_SHA1_80`.
    AesCm128HmacSha1_80,
    /// `AES_CM_128_HMAC_SHA1_32`: 4 octets of tag on RTP, 10 on RTCP.
    AesCm128HmacSha1_32,
}

impl Suite {
    /// All, the strongest first.
    pub const ALL: [Suite; 4] = [
        Suite::AeadAes256Gcm,
        Suite::AeadAes128Gcm,
        Suite::AesCm128HmacSha1_80,
        Suite::AesCm128HmacSha1_32,
    ];

    /// Its name in `a=crypto`.
    pub fn name(self) -> &'static str {
        match self {
            Suite::AeadAes256Gcm => "AEAD_AES_256_GCM",
            Suite::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Suite::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
            Suite::AesCm128HmacSha1_32 => "AES_CM_128_HMAC_SHA1_32",
        }
    }

    /// The suite of a name, in any case.
    pub fn named(name: &str) -> Option<Suite> {
        Suite::ALL.into_iter().find(|suite| suite.name().eq_ignore_ascii_case(name))
    }

    /// Octets of the master key.
    pub fn key_len(self) -> usize {
        match self {
            Suite::AeadAes256Gcm => 32,
            Suite::AeadAes128Gcm | Suite::AesCm128HmacSha1_80 | Suite::AesCm128HmacSha1_32 => 16,
        }
    }

    /// Octets of the master salt.
    pub fn salt_len(self) -> usize {
        match self {
            Suite::AeadAes256Gcm | Suite::AeadAes128Gcm => 12,
            Suite::AesCm128HmacSha1_80 | Suite::AesCm128HmacSha1_32 => 14,
        }
    }

    /// Octets of master key and salt together: what `inline:` carries.
    pub fn material_len(self) -> usize {
        self.key_len() + self.salt_len()
    }
}

/// A suite with its master key and salt. Wiped when dropped; `Debug` shows the suite alone.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey {
    suite: Suite,
    material: [u8; MAX_MATERIAL],
}

impl MasterKey {
    /// Of master key and salt, one after the other. `None`: not [`Suite::material_len`] octets.
    pub fn new(suite: Suite, material: &[u8]) -> Option<MasterKey> {
        let mut key = MasterKey { suite, material: [0; MAX_MATERIAL] };
        if material.len() != suite.material_len() {
            return None;
        }
        key.material.get_mut(..material.len())?.copy_from_slice(material);
        Some(key)
    }

    /// The suite that it is for.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Master key and salt, for `inline:`.
    pub fn material(&self) -> &[u8] {
        &self.material[..self.suite.material_len()]
    }
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        self.material.zeroize();
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.suite.name())
    }
}

/// The keys of a leg, one a direction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// What we send is protected by this one.
    pub ours: MasterKey,
    /// What the peer sends is protected by this one.
    pub theirs: MasterKey,
}

/// Why a received packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SrtpError {
    /// Too short, or lengths in it that do not fit, or its tag is wrong, or not encrypted.
    #[error("not authentic")]
    Unauthenticated,
    /// It was there before, or is too old to tell.
    #[error("a replay")]
    Replayed,
}

/// What was received or sent last, and which of the 128 before it (RFC 3711 3.3.2).
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// The highest index; nothing yet while `seen` is 0.
    highest: u64,
    /// Bit n: the index n below the highest.
    seen: u128,
}

impl Window {
    /// Whether this index has not been yet, as far as can be told.
    fn is_new(&self, index: u64) -> bool {
        match self.highest.checked_sub(index) {
            _ if self.seen == 0 => true,
            None => true,
            Some(age) => age < 128 && self.seen >> age & 1 == 0,
        }
    }

    fn note(&mut self, index: u64) {
        match index.checked_sub(self.highest) {
            _ if self.seen == 0 => *self = Window { highest: index, seen: 1 },
            Some(ahead) => {
                let ahead = u32::try_from(ahead).unwrap_or(u32::MAX);
                self.seen = self.seen.checked_shl(ahead).unwrap_or(0) | 1;
                self.highest = index;
            }
            None => {
                self.seen |= u32::try_from(self.highest - index)
                    .ok()
                    .and_then(|age| 1_u128.checked_shl(age))
                    .unwrap_or(0)
            }
        }
    }

    /// The index that a sequence number stands for: the nearest to the highest (RFC 3711 3.3.1).
    /// `None`: before the first.
    fn guess(&self, sequence: u16) -> Option<u64> {
        if self.seen == 0 {
            return Some(u64::from(sequence));
        }
        let distance = sequence.wrapping_sub(self.highest as u16) as i16;
        self.highest.checked_add_signed(i64::from(distance)).filter(|index| *index < 1 << 48)
    }
}

/// One SSRC of the peer's.
#[derive(Clone, Copy, Debug)]
struct SrtpSource {
    ssrc: u32,
    rtp: Window,
    rtcp: Window,
    /// Where its index was under the key before, until a packet under this one says how the peer
    /// goes on.
    before: Option<u64>,
    heard: u64,
}

/// Removes the protection of what a peer sends.
pub struct Unprotect {
    session: SrtpSession,
    sources: [Option<SrtpSource>; MAX_SOURCES],
    clock: u64,
}

impl fmt::Debug for Unprotect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inbound({})", self.session.suite.name())
    }
}

impl Unprotect {
    /// With the peer's key, nothing received yet.
    pub fn new(key: &MasterKey) -> Unprotect {
        Unprotect { session: SrtpSession::new(key), sources: [None; MAX_SOURCES], clock: 0 }
    }

    /// With another key in the place of this one. Rollover counters go on (RFC 3711 3.3.1); a peer
    /// that begins anew at 0, as those do that make a new context of a new description, is
    /// understood as well.
    pub fn rekeyed(&self, key: &MasterKey) -> Unprotect {
        let before = |source: &SrtpSource| SrtpSource {
            ssrc: source.ssrc,
            rtp: Window::default(),
            rtcp: Window::default(),
            before: (source.rtp.seen != 0).then_some(source.rtp.highest).or(source.before),
            heard: source.heard,
        };
        Unprotect {
            session: SrtpSession::new(key),
            sources: self.sources.map(|source| source.as_ref().map(before)),
            clock: self.clock,
        }
    }

    /// Makes RTP of an SRTP packet where it lies; returns its length. On an error its bytes are as
    /// they were.
    pub fn unprotect_rtp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let header = rtp_header(packet).ok_or(SrtpError::Unauthenticated)?;
        let (sequence, ssrc) = rtp_numbers(packet).ok_or(SrtpError::Unauthenticated)?;
        let (place, mut source) = self.source(ssrc);
        // RFC 3711 3.3.1: the counter goes on under a new key. A peer that starts it anew is tried
        // second.
        let kept = Window { highest: source.before.unwrap_or_default(), seen: 1 };
        let guesses = match source.before {
            Some(_) => [kept.guess(sequence), source.rtp.guess(sequence)],
            None => [source.rtp.guess(sequence), None],
        };
        let mut error = SrtpError::Replayed;
        for index in guesses.into_iter().flatten() {
            if !source.rtp.is_new(index) {
                continue;
            }
            error = SrtpError::Unauthenticated;
            if let Some(len) = self.session.open_rtp(packet, header, ssrc, index) {
                source.rtp.note(index);
                source.before = None;
                self.keep(place, source);
                return Ok(len);
            }
        }
        Err(error)
    }

    /// Makes RTCP of an SRTCP packet where it lies; returns its length. On an error its bytes are
    /// as they were.
    pub fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let word = self.session.rtcp_index(packet).ok_or(SrtpError::Unauthenticated)?;
        let ssrc = number(packet, 4).ok_or(SrtpError::Unauthenticated)?;
        // Nobody was allowed to send it in clear.
        if word & ENCRYPTED == 0 {
            return Err(SrtpError::Unauthenticated);
        }
        let index = u64::from(word & !ENCRYPTED);
        let (place, mut source) = self.source(ssrc);
        if !source.rtcp.is_new(index) {
            return Err(SrtpError::Replayed);
        }
        let len = self.session.open_rtcp(packet, ssrc, word).ok_or(SrtpError::Unauthenticated)?;
        source.rtcp.note(index);
        self.keep(place, source);
        Ok(len)
    }

    /// What is known of an SSRC, and where it is kept or would be.
    fn source(&self, ssrc: u32) -> (usize, SrtpSource) {
        let known =
            self.sources.iter().position(|source| source.is_some_and(|source| source.ssrc == ssrc));
        let oldest = || {
            let heard = |place: &usize| {
                self.sources.get(*place).copied().flatten().map(|source| source.heard)
            };
            (0..MAX_SOURCES).min_by_key(heard).unwrap_or_default()
        };
        let place = known.unwrap_or_else(oldest);
        let new = SrtpSource {
            ssrc,
            rtp: Window::default(),
            rtcp: Window::default(),
            before: None,
            heard: 0,
        };
        let source =
            known.and_then(|place| self.sources.get(place).copied().flatten()).unwrap_or(new);
        (place, source)
    }

    fn keep(&mut self, place: usize, mut source: SrtpSource) {
        self.clock += 1;
        source.heard = self.clock;
        if let Some(kept) = self.sources.get_mut(place) {
            *kept = Some(source);
        }
    }
}

/// Protects what we send to one peer: one SSRC.
pub struct Protect {
    session: SrtpSession,
    key: MasterKey,
    sent: Window,
    rtcp_index: u32,
}

impl fmt::Debug for Protect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outbound({})", self.session.suite.name())
    }
}

impl Protect {
    /// With our key, nothing sent yet. A key must not be used anew after other packets of the SSRC
    /// went out under it.
    pub fn new(key: &MasterKey) -> Protect {
        Protect {
            session: SrtpSession::new(key),
            key: key.clone(),
            sent: Window::default(),
            rtcp_index: 0,
        }
    }

    /// The key that it protects with.
    pub fn key(&self) -> &MasterKey {
        &self.key
    }

    /// Makes SRTP of an RTP packet; returns its bytes in `buffer`, which has room for
    /// [`MAX_GROWTH`] more than the packet.
    ///
    /// `None`: no RTP, no room, or a sequence number that was sent already or is 128 behind. It
    /// must not be sent: under one key and one index two packets give each other away, and with GCM
    /// the key of the tags too (RFC 7714 8.1).
    pub fn protect_rtp<'a>(&mut self, packet: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let header = rtp_header(packet)?;
        let (sequence, ssrc) = rtp_numbers(packet)?;
        let index = self.sent.guess(sequence).filter(|index| self.sent.is_new(*index))?;
        let len = self.session.seal_rtp(packet, header, ssrc, index, buffer)?;
        self.sent.note(index);
        buffer.get(..len)
    }

    /// Makes SRTCP of an RTCP packet; returns its bytes in `buffer`, which has room for
    /// [`MAX_RTCP_GROWTH`] more than the packet. `None`: no RTCP, no room, or 2³¹ packets are
    /// through.
    pub fn protect_rtcp<'a>(&mut self, packet: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let ssrc = number(packet, 4)?;
        let index = self.rtcp_index.checked_add(1).filter(|index| index & ENCRYPTED == 0)?;
        let len = self.session.seal_rtcp(packet, ssrc, index | ENCRYPTED, buffer)?;
        self.rtcp_index = index;
        buffer.get(..len)
    }
}

/// Both directions of one leg.
#[derive(Debug)]
pub struct Protection {
    inbound: Unprotect,
    /// What the peer has sent under its last key but one may still be on its way.
    before: Option<Unprotect>,
    outbound: Protect,
    theirs: MasterKey,
}

impl Protection {
    /// With these keys, nothing sent or received yet.
    pub fn new(keys: &Keys) -> Protection {
        Protection {
            inbound: Unprotect::new(&keys.theirs),
            before: None,
            outbound: Protect::new(&keys.ours),
            theirs: keys.theirs.clone(),
        }
    }

    /// Other keys, or the same. A key that stays goes on where it is. A new one of the peer's
    /// counts at once, and the one before until the first packet under the new: no sound is lost.
    pub fn rekey(&mut self, keys: &Keys) {
        if self.theirs != keys.theirs {
            let next = self.inbound.rekeyed(&keys.theirs);
            self.before = Some(std::mem::replace(&mut self.inbound, next));
            self.theirs = keys.theirs.clone();
        }
        if *self.outbound.key() != keys.ours {
            self.outbound = Protect::new(&keys.ours);
        }
    }

    /// As [`Unprotect::unprotect_rtp`], under the key of before too.
    pub fn unprotect_rtp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        self.unprotect(packet, Unprotect::unprotect_rtp)
    }

    /// As [`Unprotect::unprotect_rtcp`], under the key of before too.
    pub fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        self.unprotect(packet, Unprotect::unprotect_rtcp)
    }

    fn unprotect(
        &mut self,
        packet: &mut [u8],
        by: fn(&mut Unprotect, &mut [u8]) -> Result<usize, SrtpError>,
    ) -> Result<usize, SrtpError> {
        let Some(before) = &mut self.before else {
            return by(&mut self.inbound, packet);
        };
        let len = by(&mut self.inbound, packet);
        if len.is_ok() {
            self.before = None;
            return len;
        }
        by(before, packet)
    }

    /// As [`Protect::protect_rtp`], under the key of now.
    pub fn protect_rtp<'a>(&mut self, packet: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        self.outbound.protect_rtp(packet, buffer)
    }

    /// As [`Protect::protect_rtcp`], under the key of now.
    pub fn protect_rtcp<'a>(&mut self, packet: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        self.outbound.protect_rtcp(packet, buffer)
    }
}

/// What one master key comes to: session keys for RTP and for RTCP.
struct SrtpSession {
    suite: Suite,
    rtp: Cipher,
    rtcp: Cipher,
}

/// The session key of one protocol with its salt.
enum Cipher {
    Cm(Box<CounterMode>),
    Gcm128(Box<Aes128Gcm>, Salt<12>),
    Gcm256(Box<Aes256Gcm>, Salt<12>),
}

struct CounterMode {
    aes: Aes128,
    mac: Hmac<Sha1>,
    salt: Salt<14>,
}

type Salt<const N: usize> = Zeroizing<[u8; N]>;

/// The labels of RFC 3711 4.3.2: of the cipher's key, the tag's, the salt.
const RTP_LABELS: [u8; 3] = [0, 1, 2];
const RTCP_LABELS: [u8; 3] = [3, 4, 5];

impl SrtpSession {
    fn new(key: &MasterKey) -> SrtpSession {
        SrtpSession {
            suite: key.suite,
            rtp: Cipher::new(key, RTP_LABELS),
            rtcp: Cipher::new(key, RTCP_LABELS),
        }
    }

    fn open_rtp(&self, packet: &mut [u8], header: usize, ssrc: u32, index: u64) -> Option<usize> {
        let len = packet.len().checked_sub(self.rtp_tag())?;
        let (packet, tag) = packet.split_at_mut_checked(len)?;
        match &self.rtp {
            Cipher::Cm(cipher) => {
                cipher.mac(packet, Some(index)).verify_truncated_left(tag).ok()?;
                cipher.apply(ssrc, index, packet.get_mut(header..)?);
            }
            cipher => {
                let (header, payload) = packet.split_at_mut_checked(header)?;
                cipher.gcm_open(ssrc, index, header, payload, tag)?;
            }
        }
        Some(len)
    }

    fn seal_rtp(
        &self,
        packet: &[u8],
        header: usize,
        ssrc: u32,
        index: u64,
        buffer: &mut [u8],
    ) -> Option<usize> {
        let len = packet.len() + self.rtp_tag();
        let (room, tag) = buffer.get_mut(..len)?.split_at_mut_checked(packet.len())?;
        room.copy_from_slice(packet);
        match &self.rtp {
            Cipher::Cm(cipher) => {
                cipher.apply(ssrc, index, room.get_mut(header..)?);
                put_tag(cipher.mac(room, Some(index)), tag)?;
            }
            cipher => {
                let (header, payload) = room.split_at_mut_checked(header)?;
                cipher.gcm_seal(ssrc, index, header, payload, tag)?;
            }
        }
        Some(len)
    }

    fn open_rtcp(&self, packet: &mut [u8], ssrc: u32, word: u32) -> Option<usize> {
        let index = u64::from(word & !ENCRYPTED);
        match &self.rtcp {
            Cipher::Cm(cipher) => {
                let len = packet.len().checked_sub(RTCP_INDEX + RTCP_TAG)?;
                let (signed, tag) = packet.split_at_mut_checked(len + RTCP_INDEX)?;
                cipher.mac(signed, None).verify_truncated_left(tag).ok()?;
                cipher.apply(ssrc, index, signed.get_mut(RTCP_HEADER..len)?);
                Some(len)
            }
            cipher => {
                let len = packet.len().checked_sub(RTCP_INDEX + GCM_TAG)?;
                let (header, rest) = packet.split_at_mut_checked(RTCP_HEADER)?;
                let (payload, rest) = rest.split_at_mut_checked(len.checked_sub(RTCP_HEADER)?)?;
                let (tag, _) = rest.split_at_mut_checked(GCM_TAG)?;
                cipher.gcm_open(ssrc, index, &rtcp_aad(header, word)?, payload, tag)?;
                Some(len)
            }
        }
    }

    fn seal_rtcp(&self, packet: &[u8], ssrc: u32, word: u32, buffer: &mut [u8]) -> Option<usize> {
        let index = u64::from(word & !ENCRYPTED);
        let room = buffer.get_mut(..packet.len() + self.rtcp_growth())?;
        let len = room.len();
        room.get_mut(..packet.len())?.copy_from_slice(packet);
        match &self.rtcp {
            Cipher::Cm(cipher) => {
                cipher.apply(ssrc, index, room.get_mut(RTCP_HEADER..packet.len())?);
                let (signed, tag) = room.split_at_mut_checked(packet.len() + RTCP_INDEX)?;
                signed.get_mut(packet.len()..)?.copy_from_slice(&word.to_be_bytes());
                put_tag(cipher.mac(signed, None), tag)?;
            }
            cipher => {
                let (header, rest) = room.split_at_mut_checked(RTCP_HEADER)?;
                let (payload, rest) =
                    rest.split_at_mut_checked(packet.len().checked_sub(RTCP_HEADER)?)?;
                let (tag, last) = rest.split_at_mut_checked(GCM_TAG)?;
                last.copy_from_slice(&word.to_be_bytes());
                cipher.gcm_seal(ssrc, index, &rtcp_aad(header, word)?, payload, tag)?;
            }
        }
        Some(len)
    }

    /// The E bit and the index of an SRTCP packet.
    fn rtcp_index(&self, packet: &[u8]) -> Option<u32> {
        let after = match self.rtcp {
            Cipher::Cm(_) => RTCP_INDEX + RTCP_TAG,
            Cipher::Gcm128(..) | Cipher::Gcm256(..) => RTCP_INDEX,
        };
        number(packet, packet.len().checked_sub(after)?)
    }

    fn rtp_tag(&self) -> usize {
        match self.suite {
            Suite::AeadAes256Gcm | Suite::AeadAes128Gcm => GCM_TAG,
            Suite::AesCm128HmacSha1_80 => 10,
            Suite::AesCm128HmacSha1_32 => 4,
        }
    }

    fn rtcp_growth(&self) -> usize {
        match self.rtcp {
            Cipher::Cm(_) => RTCP_INDEX + RTCP_TAG,
            Cipher::Gcm128(..) | Cipher::Gcm256(..) => RTCP_INDEX + GCM_TAG,
        }
    }
}

impl Cipher {
    fn new(key: &MasterKey, [of_key, of_tag, of_salt]: [u8; 3]) -> Cipher {
        match key.suite {
            Suite::AeadAes256Gcm => Cipher::Gcm256(
                Box::new(Aes256Gcm::new(&(*derive::<32>(key, of_key)).into())),
                derive(key, of_salt),
            ),
            Suite::AeadAes128Gcm => Cipher::Gcm128(
                Box::new(Aes128Gcm::new(&(*derive::<16>(key, of_key)).into())),
                derive(key, of_salt),
            ),
            Suite::AesCm128HmacSha1_80 | Suite::AesCm128HmacSha1_32 => {
                // A tag's key of 20 octets is one block of SHA-1 when filled up with zeros, as HMAC
                // has it (RFC 2104 2).
                let mut block = Zeroizing::new([0; 64]);
                let tag_key = derive::<20>(key, of_tag);
                block.iter_mut().zip(tag_key.iter()).for_each(|(to, from)| *to = *from);
                Cipher::Cm(Box::new(CounterMode {
                    aes: Aes128::new(&(*derive::<16>(key, of_key)).into()),
                    mac: Hmac::new(&(*block).into()),
                    salt: derive(key, of_salt),
                }))
            }
        }
    }

    fn gcm_open(
        &self,
        ssrc: u32,
        index: u64,
        aad: &[u8],
        payload: &mut [u8],
        tag: &[u8],
    ) -> Option<()> {
        let tag = <[u8; GCM_TAG]>::try_from(tag).ok()?.into();
        let payload = InOutBuf::from(payload);
        match self {
            Cipher::Cm(_) => None,
            Cipher::Gcm128(gcm, salt) => gcm
                .decrypt_inout_detached(&nonce(salt, ssrc, index).into(), aad, payload, &tag)
                .ok(),
            Cipher::Gcm256(gcm, salt) => gcm
                .decrypt_inout_detached(&nonce(salt, ssrc, index).into(), aad, payload, &tag)
                .ok(),
        }
    }

    fn gcm_seal(
        &self,
        ssrc: u32,
        index: u64,
        aad: &[u8],
        payload: &mut [u8],
        tag: &mut [u8],
    ) -> Option<()> {
        let payload = InOutBuf::from(payload);
        let made = match self {
            Cipher::Cm(_) => return None,
            Cipher::Gcm128(gcm, salt) => {
                gcm.encrypt_inout_detached(&nonce(salt, ssrc, index).into(), aad, payload)
            }
            Cipher::Gcm256(gcm, salt) => {
                gcm.encrypt_inout_detached(&nonce(salt, ssrc, index).into(), aad, payload)
            }
        };
        tag.copy_from_slice(&made.ok()?);
        Some(())
    }
}

impl CounterMode {
    /// The tag over a packet, and over its rollover counter when it is RTP (RFC 3711 4.2).
    fn mac(&self, packet: &[u8], index: Option<u64>) -> Hmac<Sha1> {
        let mut mac = self.mac.clone();
        mac.update(packet);
        if let Some(index) = index {
            mac.update(&((index >> 16) as u32).to_be_bytes());
        }
        mac
    }

    /// Encrypts or decrypts (RFC 3711 4.1.1).
    fn apply(&self, ssrc: u32, index: u64, payload: &mut [u8]) {
        let mut iv = [0; 16];
        let numbers = u128::from(ssrc) << 64 | u128::from(index) << 16;
        iv.iter_mut().zip(self.salt.iter()).for_each(|(to, salt)| *to = *salt);
        key_stream(&self.aes, u128::from_be_bytes(iv) ^ numbers, payload);
    }
}

/// XORs AES in counter mode over some bytes.
fn key_stream<C: BlockCipherEncrypt<BlockSize = aes::cipher::consts::U16>>(
    aes: &C,
    iv: u128,
    bytes: &mut [u8],
) {
    let core = ctr::CtrCore::inner_iv_init(aes, &iv.to_be_bytes().into());
    let mut stream: Ctr128BE<&C> = StreamCipherCoreWrapper::from_core(core);
    // 2^16 blocks are far more than a packet.
    let _ = stream.try_apply_keystream(bytes);
}

/// RFC 3711 4.3, RFC 7714 11: a session key, or a salt, of a master key. The key derivation rate is
/// 0.
fn derive<const N: usize>(key: &MasterKey, label: u8) -> Zeroizing<[u8; N]> {
    let (master, salt) = key.material().split_at(key.suite.key_len());
    // A salt of 12 octets counts as one of 14 that ends in zeros.
    let mut iv = Zeroizing::new([0; 16]);
    iv.iter_mut().zip(salt).for_each(|(to, salt)| *to = *salt);
    let iv = u128::from_be_bytes(*iv) ^ u128::from(label) << 64;
    let mut derived = Zeroizing::new([0; N]);
    if let Ok(aes) = Aes128::new_from_slice(master) {
        key_stream(&aes, iv, &mut *derived);
    } else if let Ok(aes) = Aes256::new_from_slice(master) {
        key_stream(&aes, iv, &mut *derived);
    }
    derived
}

/// RFC 7714 8.1, 9.1: two zeros, the SSRC, the index in 48 bits, with the salt.
fn nonce(salt: &Salt<12>, ssrc: u32, index: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    let numbers = (u128::from(ssrc) << 48 | u128::from(index)).to_be_bytes();
    for ((to, salt), number) in nonce.iter_mut().zip(salt.iter()).zip(&numbers[4..]) {
        *to = salt ^ number;
    }
    nonce
}

/// RFC 7714 9.2: what of an SRTCP packet is authenticated and not encrypted.
fn rtcp_aad(header: &[u8], word: u32) -> Option<[u8; RTCP_HEADER + RTCP_INDEX]> {
    let mut aad = [0; RTCP_HEADER + RTCP_INDEX];
    aad.get_mut(..RTCP_HEADER)?.copy_from_slice(header);
    aad.get_mut(RTCP_HEADER..)?.copy_from_slice(&word.to_be_bytes());
    Some(aad)
}

fn put_tag(mac: Hmac<Sha1>, room: &mut [u8]) -> Option<()> {
    let tag = mac.finalize().into_bytes();
    room.copy_from_slice(tag.get(..room.len())?);
    Some(())
}

/// Octets of an RTP packet's header with its CSRCs and its extension.
fn rtp_header(packet: &[u8]) -> Option<usize> {
    let first = *packet.first()?;
    if first >> 6 != 2 {
        return None;
    }
    let fixed = RTP_HEADER + 4 * usize::from(first & 0x0f);
    let header = match first & 0x10 {
        0 => fixed,
        _ => {
            let words = packet.get(fixed + 2..fixed + 4)?.first_chunk::<2>()?;
            fixed + 4 + 4 * usize::from(u16::from_be_bytes(*words))
        }
    };
    (header <= packet.len()).then_some(header)
}

/// The sequence number and the SSRC of an RTP packet.
fn rtp_numbers(packet: &[u8]) -> Option<(u16, u32)> {
    let sequence = packet.get(2..4)?.first_chunk::<2>()?;
    Some((u16::from_be_bytes(*sequence), number(packet, 8)?))
}

/// The 32 bits at an offset.
fn number(packet: &[u8], at: usize) -> Option<u32> {
    packet.get(at..)?.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes))
}

#[cfg(test)]
mod tests;
