//! Session descriptions (RFC 8866) and offer/answer (RFC 3264) for one audio stream with telephone events.
//!
//! ```text
//!  incoming leg: Session::parse(offer) ─▶ Local::answer ─▶ body + Agreed
//!  outgoing leg: Local::offer ─▶ body … Session::parse(answer) ─▶ Local::accept ─▶ Agreed
//! ```
//!
//! Other media lines are refused with port 0. A stream that is only offered encrypted is never answered in clear.
//!
//! Encrypted means SRTP with keys in the descriptions (SDES, RFC 4568); [`Srtp`] says who has it.

use crate::media::codec::Codec;
use crate::media::rtcp;
use crate::media::srtp::{Key, Keys, MAX_MATERIAL, Suite};
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hmac::{Hmac, KeyInit, Mac};
use sdp_types::{Attribute, Connection, Media, Origin, Time};
use sha2::{Digest, Sha512};
use std::net::{IpAddr, SocketAddr};
use zeroize::Zeroizing;

/// The payload type of telephone events in our offers, unless the peer has chosen another before; and the clock they are for: that of the codec
/// beside them (RFC 4733 2.1).
const TELEPHONE_EVENTS: [(u8, u32); 3] = [(101, 8000), (100, 48_000), (99, 16_000)];

/// The most media lines of a description.
pub const MAX_LINES: usize = 16;

/// The most `a=crypto` lines of a stream that are looked at.
const MAX_CRYPTO: usize = 16;

/// Base64 as keys come in: with its padding, or as some phones have it, without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Whether a leg's media is encrypted: SRTP with keys in the descriptions (RFC 4568).
///
/// | | offers we take | our offer | answers we take |
/// |---|---|---|---|
/// | off | RTP/AVP; its keys are passed over | RTP/AVP | RTP/AVP |
/// | optional | RTP/SAVP; RTP/AVP with keys, encrypted; RTP/AVP in clear | RTP/AVP with keys | encrypted or clear |
/// | required | RTP/SAVP; RTP/AVP with keys | RTP/SAVP | RTP/SAVP |
///
/// A peer that does no SRTP refuses RTP/SAVP with 488, and there is no second INVITE to try it in clear. So an optional offer is RTP/AVP
/// with `a=crypto` lines, as telephones make it that call this "best effort": who does not know the lines leaves them out of his answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Srtp {
    /// Never.
    #[default]
    Off,
    /// When the peer does it.
    Optional,
    /// Always: what cannot be encrypted is refused.
    Required,
}

/// Why a description is refused, always with 488 (`SdpError::STATUS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// It cannot be read: grammar, a port above 65535, too many media lines.
    #[error("unreadable session description")]
    Unreadable,
    /// It has no audio stream, or all are refused or switched off (port 0).
    #[error("no audio stream")]
    NoAudio,
    /// Audio is offered only over what this leg does not have: SRTP, or RTP in clear, or DTLS, or something that is no RTP.
    #[error("no audio stream over a transport that is wanted here")]
    Transport,
    /// An answer without a key where there must be one, or with another than was asked for.
    #[error("no usable key")]
    Crypto,
    /// No codec that we speak.
    #[error("no common codec")]
    Codec,
    /// Where to send to is missing, a name, a broadcast or no address.
    #[error("no usable address")]
    Address,
    /// Where to send to is a multicast group.
    #[error("multicast address")]
    Multicast,
    /// An answer that does not fit the offer: another number of media lines, or audio elsewhere.
    #[error("answer does not fit the offer")]
    Mismatch,
}

impl SdpError {
    /// 488 Not Acceptable Here.
    pub const STATUS: u16 = 488;
}

/// Who sends, seen from whoever says it (RFC 3264 5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the attributes")]
pub enum Direction {
    #[default]
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    fn of(send: bool, receive: bool) -> Direction {
        match (send, receive) {
            (true, true) => Direction::SendRecv,
            (true, false) => Direction::SendOnly,
            (false, true) => Direction::RecvOnly,
            (false, false) => Direction::Inactive,
        }
    }

    /// He sends.
    pub fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }

    /// He receives.
    pub fn receives(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::RecvOnly)
    }

    /// Seen from the other side.
    pub fn reversed(self) -> Direction {
        Direction::of(self.receives(), self.sends())
    }

    /// Both at once.
    pub fn and(self, other: Direction) -> Direction {
        Direction::of(self.sends() && other.sends(), self.receives() && other.receives())
    }

    /// The name of the attribute.
    pub fn name(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    fn named(name: &str) -> Option<Direction> {
        [Direction::SendRecv, Direction::SendOnly, Direction::RecvOnly, Direction::Inactive]
            .into_iter()
            .find(|it| it.name() == name)
    }
}

/// The peer's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// `o=`: session id.
    pub id: String,
    /// `o=`: session version; the same one as before means nothing has changed.
    pub version: u64,
    /// The audio stream we take.
    pub audio: Audio,
    lines: Vec<Line>,
    taken: usize,
}

/// A usable audio stream of the peer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audio {
    /// Where he wants RTP; `None` for 0.0.0.0 or `::`, the old way to hold.
    pub rtp: Option<SocketAddr>,
    /// Where he wants RTCP (RFC 3605); `None` when RTP goes nowhere or there is no next port. Another host than that of RTP is
    /// not believed.
    pub rtcp: Option<SocketAddr>,
    /// He can have RTCP on the ports of RTP (RFC 5761).
    pub rtcp_mux: bool,
    /// What he does; 0.0.0.0 counts as not receiving.
    pub direction: Direction,
    /// The codecs we speak in his order of preference, with their payload types.
    pub codecs: Vec<(u8, Codec)>,
    /// The payload types of telephone events (RFC 4733), each with its clock.
    pub telephone_events: Vec<(u8, u32)>,
    /// The payload type of comfort noise (RFC 3389).
    pub comfort_noise: Option<u8>,
    /// Milliseconds a packet, when he says.
    pub ptime: Option<u32>,
    /// It is RTP/SAVP or RTP/SAVPF.
    pub secure: bool,
    /// His keys that we can use, in his order of preference.
    pub crypto: Vec<Crypto>,
    /// He has `a=crypto` lines, and there is none among them that we can use.
    pub unusable_crypto: bool,
}

/// An `a=crypto` line (RFC 4568 9.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crypto {
    /// Its tag, by which an answer names what it takes.
    pub tag: u32,
    /// What its sender protects his packets with.
    pub key: Key,
}

impl Audio {
    /// The telephone events that go with a codec: those of its clock; else those of 8000 Hz, which some phones have alone.
    fn events_for(&self, codec: Codec) -> Option<(u8, u32)> {
        let of = |clock| self.telephone_events.iter().find(|(_, known)| *known == clock);
        of(codec.clock()).or_else(|| of(8000)).copied()
    }

    /// He has put us on hold: he does not want to hear us (RFC 3264 8.4), with or without music of his own.
    pub fn is_hold(&self) -> bool {
        !self.direction.receives()
    }
}

/// What must be said again of a media line when it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Line {
    media: String,
    proto: String,
    fmt: String,
}

impl Session {
    /// Reads a description, whether it is encrypted or not. What is not UTF-8 in its texts is no fault.
    pub fn parse(body: &[u8]) -> Result<Session, SdpError> {
        Session::parse_for(body, Srtp::Optional)
    }

    /// Reads a description of a leg for which this is the rule: a stream that it rules out is passed over.
    pub fn parse_for(body: &[u8], srtp: Srtp) -> Result<Session, SdpError> {
        let text = String::from_utf8_lossy(body);
        let read = sdp_types::Session::parse(text.as_bytes()).map_err(|_| SdpError::Unreadable)?;
        if read.medias.len() > MAX_LINES {
            return Err(SdpError::Unreadable);
        }
        let mut refusal = SdpError::NoAudio;
        for (taken, media) in read.medias.iter().enumerate() {
            if !media.media.eq_ignore_ascii_case("audio") || media.port == 0 {
                continue;
            }
            match read_audio(&read, media, srtp) {
                Ok(audio) => {
                    let line = |media: &Media| Line {
                        media: media.media.clone(),
                        proto: media.proto.clone(),
                        fmt: media.fmt.clone(),
                    };
                    let lines = read.medias.iter().map(line).collect();
                    return Ok(Session {
                        id: read.origin.sess_id,
                        version: read.origin.sess_version,
                        audio,
                        lines,
                        taken,
                    });
                }
                Err(error) if refusal == SdpError::NoAudio => refusal = error,
                Err(_) => {}
            }
        }
        Err(refusal)
    }
}

fn read_audio(session: &sdp_types::Session, media: &Media, srtp: Srtp) -> Result<Audio, SdpError> {
    let secure = match media.proto.to_ascii_uppercase().as_str() {
        "RTP/AVP" | "RTP/AVPF" => false,
        "RTP/SAVP" | "RTP/SAVPF" => true,
        _ => return Err(SdpError::Transport),
    };
    let lines = media.attributes.iter().filter(|attribute| attribute.attribute == "crypto");
    let has_crypto = lines.clone().next().is_some();
    let crypto: Vec<Crypto> = match srtp {
        Srtp::Off => Vec::new(),
        Srtp::Optional | Srtp::Required => lines
            .take(MAX_CRYPTO)
            .filter_map(|attribute| read_crypto(attribute.value.as_deref()?))
            .collect(),
    };
    if crypto.is_empty() && (secure || srtp == Srtp::Required) {
        return Err(SdpError::Transport);
    }
    let connection = media.connections.first().or(session.connection.as_ref()).ok_or(SdpError::Address)?;
    let ip = read_address(connection)?;
    let rtp = (!ip.is_unspecified()).then(|| SocketAddr::new(ip, media.port));
    let formats = read_formats(media);
    if formats.codecs.is_empty() {
        return Err(SdpError::Codec);
    }
    let direction = direction_in(&media.attributes)
        .or_else(|| direction_in(&session.attributes))
        .unwrap_or_default();
    Ok(Audio {
        rtp,
        rtcp: rtp.and_then(|rtp| read_rtcp(media, rtp)),
        rtcp_mux: media.attributes.iter().any(|attribute| attribute.attribute == "rtcp-mux"),
        direction: Direction::of(direction.sends(), direction.receives() && rtp.is_some()),
        codecs: formats.codecs,
        telephone_events: formats.events,
        comfort_noise: formats.comfort_noise,
        ptime: value_of(media, "ptime")
            .and_then(|value| value.trim().parse().ok())
            .filter(|ptime| (1..=1000).contains(ptime)),
        secure,
        unusable_crypto: has_crypto && crypto.is_empty(),
        crypto,
    })
}

/// Reads the value of an `a=crypto` line (RFC 4568 9.1): `1 AES_CM_128_HMAC_SHA1_80 inline:…|2^31 WSH=64`. `None`: an unknown suite, or
/// something in it that we would have to honour and do not: an MKI, several keys, a part left in clear or unauthenticated, a key
/// derivation rate, an order of FEC. A lifetime binds whoever sends under the key: him.
fn read_crypto(value: &str) -> Option<Crypto> {
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
    if !words.all(|parameter| parameter.starts_with('-') || parameter.to_ascii_uppercase().starts_with("WSH=")) {
        return None;
    }
    let mut material = Zeroizing::new([0; MAX_MATERIAL + 4]);
    let len = BASE64.decode_slice(key, &mut *material).ok()?;
    let key = Key::new(suite, material.get(..len)?)?;
    Some(Crypto { tag, key })
}

fn is_number(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn read_address(connection: &Connection) -> Result<IpAddr, SdpError> {
    let address = connection.try_address().map_err(|_| SdpError::Address)?.ip.to_canonical();
    match address {
        _ if address.is_multicast() => Err(SdpError::Multicast),
        IpAddr::V4(address) if address.is_broadcast() => Err(SdpError::Address),
        address => Ok(address),
    }
}

fn read_rtcp(media: &Media, rtp: SocketAddr) -> Option<SocketAddr> {
    let next = || rtp.port().checked_add(1).map(|port| SocketAddr::new(rtp.ip(), port));
    let Some(value) = value_of(media, "rtcp") else { return next() };
    let words: Vec<&str> = value.split_ascii_whitespace().collect();
    let port = words.first().and_then(|port| port.parse().ok()).filter(|port| *port != 0);
    let same_host = words.get(3).is_none_or(|host| host.parse() == Ok(rtp.ip()));
    match port {
        Some(port) if same_host => Some(SocketAddr::new(rtp.ip(), port)),
        _ => next(),
    }
}

#[derive(Default)]
struct Formats {
    codecs: Vec<(u8, Codec)>,
    events: Vec<(u8, u32)>,
    comfort_noise: Option<u8>,
}

fn read_formats(media: &Media) -> Formats {
    let mut formats = Formats::default();
    let types = media
        .fmt
        .split_ascii_whitespace()
        .filter_map(|format| format.parse::<u8>().ok())
        .filter(|number| *number < 128);
    for payload_type in types {
        let Some(encoding) = encoding_of(media, payload_type) else {
            continue;
        };
        let mut words = encoding.split('/');
        let name = words.next().unwrap_or_default();
        let clock: Option<u32> = words.next().and_then(|clock| clock.parse().ok());
        let channels: Option<u32> = words.next().map_or(Some(1), |channels| channels.parse().ok());
        match (name, clock, channels) {
            ("TELEPHONE-EVENT", Some(clock @ (8000 | 16_000 | 48_000)), Some(1)) => formats.events.push((payload_type, clock)),
            ("CN", Some(8000), Some(1)) => formats.comfort_noise = formats.comfort_noise.or(Some(payload_type)),
            _ => {
                let fits = |codec: &Codec| clock == Some(codec.clock()) && channels == Some(codec.channels());
                formats
                    .codecs
                    .extend(Codec::named(name).filter(fits).map(|codec| (payload_type, codec)));
            }
        }
    }
    formats
}

fn encoding_of(media: &Media, payload_type: u8) -> Option<String> {
    let maps = media.attributes.iter().filter(|attribute| attribute.attribute == "rtpmap");
    let mapped = maps
        .filter_map(|attribute| attribute.value.as_deref()?.split_once(' '))
        .find_map(|(number, encoding)| {
            let fits = number.parse() == Ok(payload_type);
            fits.then(|| encoding.trim().to_ascii_uppercase())
        });
    mapped.or_else(|| match payload_type {
        0 => Some("PCMU/8000".to_owned()),
        8 => Some("PCMA/8000".to_owned()),
        9 => Some("G722/8000".to_owned()),
        13 => Some("CN/8000".to_owned()),
        _ => None,
    })
}

fn direction_in(attributes: &[Attribute]) -> Option<Direction> {
    attributes.iter().find_map(|attribute| Direction::named(&attribute.attribute))
}

fn value_of<'a>(media: &'a Media, name: &str) -> Option<&'a str> {
    media
        .attributes
        .iter()
        .find(|attribute| attribute.attribute == name)?
        .value
        .as_deref()
}

/// What offer and answer have come to, seen from us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Where we send RTP; `None` when he wants none.
    pub remote: Option<SocketAddr>,
    /// Where we send RTCP.
    pub remote_rtcp: Option<SocketAddr>,
    /// RTCP shares the ports of RTP.
    pub rtcp_mux: bool,
    /// The codec, both ways.
    pub codec: Codec,
    /// Its payload type as he maps it.
    pub payload_type: u8,
    /// The payload type of telephone events and their clock, when both know them.
    pub telephone_event: Option<(u8, u32)>,
    /// The payload type of comfort noise, when both know it.
    pub comfort_noise: Option<u8>,
    /// We send.
    pub send: bool,
    /// We receive.
    pub receive: bool,
    /// He has put us on hold.
    pub held: bool,
    /// Milliseconds a packet, when he says.
    pub ptime: Option<u32>,
    /// The keys of SRTP; `None`: RTP in clear.
    pub srtp: Option<Box<Keys>>,
}

impl Agreed {
    fn of(audio: &Audio, ours: Direction) -> Agreed {
        let direction = ours.and(audio.direction.reversed());
        let (payload_type, codec) = audio.codecs.first().copied().unwrap_or((0, Codec::Pcmu));
        let telephone_event = audio.events_for(codec);
        // Its clock is 8000 Hz, and so must be that of the stream it stands in for (RFC 3389 4).
        let comfort_noise = audio.comfort_noise.filter(|_| codec.clock() == 8000);
        let events = telephone_event.map(|(payload_type, _)| payload_type);
        let mut payload_types = [Some(payload_type), events, comfort_noise].into_iter().flatten();
        let rtcp_mux = audio.rtcp_mux && !payload_types.any(|it| rtcp::AMBIGUOUS_PAYLOAD_TYPES.contains(&it));
        Agreed {
            remote: audio.rtp,
            remote_rtcp: if rtcp_mux { audio.rtp } else { audio.rtcp },
            rtcp_mux,
            codec,
            payload_type,
            telephone_event,
            comfort_noise,
            send: direction.sends(),
            receive: direction.receives(),
            held: audio.is_hold(),
            ptime: audio.ptime,
            srtp: None,
        }
    }
}

/// Our keys of one leg, all made of one secret. A key is never taken up again once packets went out under it and another, or none, came
/// in its place: their indices begin anew, and a pair of packets under one index gives both away.
#[derive(Clone)]
struct OurKeys {
    secret: Zeroizing<[u8; 32]>,
    generation: u32,
    /// Keys of this generation are in use, or were.
    used: bool,
    /// What SRTP has come to: the suite, over RTP/SAVP or not, and the peer's key and address.
    agreed: Option<(Suite, bool, Key, Option<SocketAddr>)>,
}

impl std::fmt::Debug for OurKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OurKeys({:?})", self.agreed.as_ref().map(|(suite, ..)| suite))
    }
}

impl OurKeys {
    fn suite(&self) -> Option<Suite> {
        self.agreed.as_ref().map(|(suite, ..)| *suite)
    }

    /// The keys that were used are done with.
    fn renew(&mut self) {
        if std::mem::take(&mut self.used) {
            self.generation = self.generation.wrapping_add(1);
        }
    }

    fn key(&self, suite: Suite) -> Option<Key> {
        let mut mac = Hmac::<Sha512>::new_from_slice(&*self.secret).ok()?;
        mac.update(&self.generation.to_be_bytes());
        mac.update(suite.name().as_bytes());
        let derived = Zeroizing::new(<[u8; 64]>::from(mac.finalize().into_bytes()));
        Key::new(suite, derived.get(..suite.material_len())?)
    }

    fn agree(&mut self, audio: &Audio, theirs: &Key) -> Option<Box<Keys>> {
        let ours = self.key(theirs.suite())?;
        self.used = true;
        self.agreed = Some((theirs.suite(), audio.secure, theirs.clone(), audio.rtp));
        Some(Box::new(Keys {
            ours,
            theirs: theirs.clone(),
        }))
    }
}

/// The tag of a suite in our offers.
fn tag_of(suite: Suite) -> u32 {
    Suite::ALL
        .iter()
        .zip(1..)
        .find(|(known, _)| **known == suite)
        .map_or(0, |(_, tag)| tag)
}

/// Our end of one leg's session: writes offers and answers, and counts the version up whenever what it says changes (RFC 3264 8).
#[derive(Clone, Debug)]
pub struct Local {
    id: u64,
    version: u64,
    address: SocketAddr,
    /// A digest of what was said last, its version aside: the keys in it are kept nowhere else.
    said: Option<[u8; 64]>,
    lines: Vec<Line>,
    taken: usize,
    direction: Direction,
    /// What we say next has `a=rtcp-mux`: every offer, and the answer to whoever offers it.
    rtcp_mux: bool,
    telephone_events: [(u8, u32); 3],
    /// The codecs that the peer has mapped, and how (RFC 3264 8.3.2).
    mapped: Vec<(u8, Codec)>,
    /// The codecs of our last offer: an answer may take none but these (RFC 3264 6.1).
    offered: Vec<Codec>,
    srtp: Srtp,
    keys: OurKeys,
    /// The suites of our last offer, and whether it was RTP/SAVP.
    offered_suites: Vec<Suite>,
    offered_secure: bool,
}

impl Local {
    /// `id` is the session id, random; `address` is where we receive RTP, RTCP on the next port.
    pub fn new(id: u64, address: SocketAddr) -> Local {
        // A session id beyond 63 bits upsets some readers.
        let id = id >> 1;
        Local {
            id,
            version: 0,
            address,
            said: None,
            lines: Vec::new(),
            taken: 0,
            direction: Direction::SendRecv,
            rtcp_mux: true,
            telephone_events: TELEPHONE_EVENTS,
            mapped: Vec::new(),
            offered: Vec::new(),
            srtp: Srtp::Off,
            keys: OurKeys {
                secret: Zeroizing::new([0; 32]),
                generation: 0,
                used: false,
                agreed: None,
            },
            offered_suites: Vec::new(),
            offered_secure: false,
        }
    }

    /// With SRTP by this rule. `secret` is random: our keys are made of it.
    pub fn with_srtp(mut self, srtp: Srtp, secret: [u8; 32]) -> Local {
        self.srtp = srtp;
        self.keys.secret = Zeroizing::new(secret);
        self
    }

    /// Where we receive RTP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An offer of both laws and telephone events. Media lines that the session has had before stay, refused (RFC 3264 8).
    pub fn offer(&mut self, direction: Direction) -> Vec<u8> {
        self.offer_codecs(direction, &[Codec::Pcmu, Codec::Pcma])
    }

    /// An offer of these codecs, the preferred one first, and telephone events.
    pub fn offer_codecs(&mut self, direction: Direction, codecs: &[Codec]) -> Vec<u8> {
        self.direction = direction;
        self.rtcp_mux = true;
        self.offered = codecs.to_vec();
        let mut formats = Formats {
            codecs: codecs.iter().map(|codec| (self.payload_type(*codec), *codec)).collect(),
            ..Formats::default()
        };
        let has_clock = |clock: u32| codecs.iter().any(|codec| codec.clock() == clock);
        let events = self
            .telephone_events
            .into_iter()
            .filter(|(_, clock)| *clock == 8000 || has_clock(*clock));
        formats.events = events.collect();
        let agreed = self.keys.suite();
        if agreed.is_none() {
            self.keys.renew();
        }
        // What is agreed stays as it is: the key, the suite and the profile.
        self.offered_suites = match (self.srtp, agreed) {
            (Srtp::Off, _) => Vec::new(),
            (_, Some(suite)) => vec![suite],
            (_, None) => Suite::ALL.to_vec(),
        };
        self.offered_secure = match &self.keys.agreed {
            Some((_, secure, ..)) => *secure,
            None => self.srtp == Srtp::Required,
        };
        let crypto = self.offered_suites.iter().map(|suite| (tag_of(*suite), *suite)).collect::<Vec<_>>();
        let proto = if self.offered_secure { "RTP/SAVP" } else { "RTP/AVP" };
        self.write(proto, &formats, direction, &crypto)
    }

    /// The answer to an offer: its first codec that we speak, its payload types, no more than it and `direction` allow; the first of its
    /// keys that we can use. An offer that this leg's [`Srtp`] rules out ([`Session::parse_for`] has not been asked) comes to nothing sent
    /// and nothing received.
    pub fn answer(&mut self, offer: &Session, direction: Direction) -> (Vec<u8>, Agreed) {
        self.lines = offer.lines.clone();
        self.taken = offer.taken;
        self.direction = direction;
        self.learn(&offer.audio);
        let mut agreed = Agreed::of(&offer.audio, direction);
        let crypto = offer.audio.crypto.first().filter(|_| self.srtp != Srtp::Off);
        match crypto {
            Some(crypto) => {
                let other = self.keys.agreed.as_ref().is_none_or(|(suite, _, theirs, at)| {
                    // Another key and another place is another telephone: it does not know how far we are under ours.
                    *suite != crypto.key.suite() || *theirs != crypto.key && *at != offer.audio.rtp
                });
                if other {
                    self.keys.renew();
                }
                agreed.srtp = self.keys.agree(&offer.audio, &crypto.key);
            }
            None => self.keys.agreed = None,
        }
        if agreed.srtp.is_none() && (offer.audio.secure || self.srtp == Srtp::Required) {
            (agreed.remote, agreed.remote_rtcp, agreed.send, agreed.receive) = (None, None, false, false);
        }
        self.rtcp_mux = agreed.rtcp_mux;
        let formats = Formats {
            codecs: vec![(agreed.payload_type, agreed.codec)],
            events: agreed.telephone_event.into_iter().collect(),
            comfort_noise: agreed.comfort_noise,
        };
        let proto = offer.lines.get(offer.taken).map_or("RTP/AVP", |line| line.proto.as_str());
        let direction = Direction::of(agreed.send, agreed.receive);
        let crypto: Vec<(u32, Suite)> = crypto.iter().map(|crypto| (crypto.tag, crypto.key.suite())).collect();
        let body = self.write(proto, &formats, direction, &crypto);
        (body, agreed)
    }

    /// What the answer to our last offer comes to. Of its codecs the first counts that we offered.
    pub fn accept(&mut self, answer: &Session) -> Result<Agreed, SdpError> {
        if answer.lines.len() != self.lines.len().max(1) || answer.taken != self.taken {
            return Err(SdpError::Mismatch);
        }
        let mut audio = answer.audio.clone();
        audio.codecs.retain(|(_, codec)| self.offered.contains(codec));
        if audio.codecs.is_empty() {
            return Err(SdpError::Codec);
        }
        let crypto = self.taken_crypto(&audio)?;
        let mut agreed = Agreed::of(&audio, self.direction);
        match crypto {
            Some(crypto) => agreed.srtp = Some(self.keys.agree(&audio, &crypto.key).ok_or(SdpError::Crypto)?),
            None => self.keys.agreed = None,
        }
        self.lines = answer.lines.clone();
        self.learn(&answer.audio);
        Ok(agreed)
    }

    /// The key of an answer: of a suite that we offered, under its tag (RFC 4568 5.1.3). None at all is right where RTP in clear is.
    fn taken_crypto<'a>(&self, answer: &'a Audio) -> Result<Option<&'a Crypto>, SdpError> {
        let fits = |crypto: &&Crypto| {
            let offered = self.offered_suites.contains(&crypto.key.suite());
            offered && crypto.tag == tag_of(crypto.key.suite())
        };
        let taken = answer.crypto.iter().find(fits);
        match taken {
            _ if self.srtp == Srtp::Off && answer.secure => Err(SdpError::Transport),
            _ if self.srtp == Srtp::Off => Ok(None),
            _ if self.offered_secure && !answer.secure => Err(SdpError::Transport),
            Some(_) => Ok(taken),
            None if answer.secure || self.srtp == Srtp::Required => Err(SdpError::Crypto),
            None if answer.unusable_crypto || !answer.crypto.is_empty() => Err(SdpError::Crypto),
            None => Ok(None),
        }
    }

    /// The payload type of a codec in our offers: as the peer has mapped it; else ours, or where he has that for something else, a free one.
    fn payload_type(&self, codec: Codec) -> u8 {
        if let Some((payload_type, _)) = self.mapped.iter().find(|(_, known)| *known == codec) {
            return *payload_type;
        }
        let ours = codec.payload_type();
        let is_taken = |it: u8| {
            let by_codec = self.mapped.iter().any(|(payload_type, _)| *payload_type == it);
            by_codec || self.telephone_events.iter().any(|(payload_type, _)| *payload_type == it)
        };
        let is_theirs = |it: u8| Codec::ALL.iter().any(|other| *other != codec && other.payload_type() == it);
        if ours < 96 || !is_taken(ours) {
            return ours;
        }
        (96..128).find(|it| !is_taken(*it) && !is_theirs(*it)).unwrap_or(ours)
    }

    /// The payload types that the peer has chosen are ours from now on.
    fn learn(&mut self, audio: &Audio) {
        // The first of two that he has for one codec counts; and what he maps now, over what he mapped before.
        for (theirs, codec) in audio.codecs.iter().rev() {
            self.mapped.retain(|(payload_type, known)| known != codec && payload_type != theirs);
            self.mapped.push((*theirs, *codec));
        }
        for (ours, clock) in &mut self.telephone_events {
            if let Some((theirs, _)) = audio.telephone_events.iter().find(|(_, known)| known == clock) {
                *ours = *theirs;
            }
        }
    }

    fn write(&mut self, proto: &str, formats: &Formats, direction: Direction, crypto: &[(u32, Suite)]) -> Vec<u8> {
        let mut taken: Vec<u8> = formats.codecs.iter().map(|(payload_type, _)| *payload_type).collect();
        // A dynamic type of the peer's must not be the one of a codec of ours.
        let mut free = |payload_type: u8| {
            let is_free = !taken.contains(&payload_type);
            taken.push(payload_type);
            is_free
        };
        let comfort_noise = formats.comfort_noise.filter(|it| free(*it));
        let events: Vec<(u8, u32)> = formats.events.iter().filter(|(it, _)| free(*it)).copied().collect();
        let types = formats
            .codecs
            .iter()
            .map(|(it, _)| *it)
            .chain(comfort_noise)
            .chain(events.iter().map(|(it, _)| *it));
        let types: Vec<String> = types.map(|it| it.to_string()).collect();
        let mut audio = line("audio", self.address.port(), proto, &types.join(" "));
        for (payload_type, codec) in &formats.codecs {
            let channels = if codec.channels() > 1 {
                format!("/{}", codec.channels())
            } else {
                String::new()
            };
            audio.add_attribute_with_value("rtpmap", format!("{payload_type} {}/{}{channels}", codec.name(), codec.clock()));
            if *codec == Codec::Opus {
                audio.add_attribute_with_value("fmtp", format!("{payload_type} useinbandfec=1"));
            }
        }
        if let Some(payload_type) = comfort_noise {
            audio.add_attribute_with_value("rtpmap", format!("{payload_type} CN/8000"));
        }
        for (payload_type, clock) in events {
            audio.add_attribute_with_value("rtpmap", format!("{payload_type} telephone-event/{clock}"));
            audio.add_attribute_with_value("fmtp", format!("{payload_type} 0-15"));
        }
        if self.rtcp_mux {
            audio.add_attribute(Attribute::new("rtcp-mux"));
        }
        for (tag, suite) in crypto {
            if let Some(key) = self.keys.key(*suite) {
                let inline = Zeroizing::new(BASE64.encode(key.material()));
                audio.add_attribute_with_value("crypto", format!("{tag} {} inline:{}", suite.name(), *inline));
            }
        }
        audio.add_attribute_with_value("ptime", 20);
        audio.add_attribute(Attribute::new(direction.name()));
        let mut session = sdp_types::Session::new(Origin::with_ip_addr(self.id, self.version, self.address.ip()), "-");
        session.connection = Some(Connection::from_ip_addr(self.address.ip()));
        session.times = vec![Time::new(0, 0)];
        session.medias = self.lines.iter().map(|it| line(&it.media, 0, &it.proto, &it.fmt)).collect();
        match session.medias.get_mut(self.taken) {
            Some(place) => *place = audio,
            None => session.medias.push(audio),
        }
        session.origin.sess_version = 0;
        let says = <[u8; 64]>::from(Sha512::digest(&*Zeroizing::new(bytes_of(&session))));
        if self.said.replace(says) != Some(says) {
            self.version += 1;
        }
        session.origin.sess_version = self.version;
        bytes_of(&session)
    }
}

fn bytes_of(session: &sdp_types::Session) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing into memory does not fail.
    let _ = session.write(&mut bytes);
    bytes
}

fn line(media: &str, port: u16, proto: &str, fmt: &str) -> Media {
    let mut line = Media::new(sdp_types::MediaType::Audio, port, sdp_types::TransportProto::RtpAvp, fmt);
    line.media = media.to_owned();
    line.proto = proto.to_owned();
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Local {
        Local::new(8, "192.0.2.9:20000".parse().unwrap())
    }

    fn body(connection: &str, rest: &str) -> Vec<u8> {
        format!(
            "v=0\r\no=peer 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN {connection}\r\nt=0 0\r\n{}",
            rest.replace('\n', "\r\n")
        )
        .into_bytes()
    }

    fn parse(connection: &str, rest: &str) -> Result<Session, SdpError> {
        Session::parse(&body(connection, rest))
    }

    fn text(body: Vec<u8>) -> String {
        String::from_utf8(body).unwrap().replace("\r\n", "\n")
    }

    #[test]
    fn an_offer_says_what_we_can() {
        assert_eq!(
            text(ours().offer(Direction::SendRecv)),
            "v=0\no=- 4 1 IN IP4 192.0.2.9\ns=-\nc=IN IP4 192.0.2.9\nt=0 0\nm=audio 20000 RTP/AVP 0 8 101\na=rtpmap:0 PCMU/8000\n\
             a=rtpmap:8 PCMA/8000\na=rtpmap:101 telephone-event/8000\na=fmtp:101 0-15\na=rtcp-mux\na=ptime:20\na=sendrecv\n"
        );
    }

    #[test]
    fn the_answer_takes_the_first_common_codec_and_refuses_other_media() {
        let offer = parse(
            "IP4 192.0.2.1",
            "m=video 4000 RTP/AVP 96\na=rtpmap:96 VP8/90000\nm=audio 5000 RTP/AVP 18 8 0 97\na=rtpmap:97 telephone-event/8000\na=rtcp:5009\na=ptime:30\n",
        );
        let offer = offer.unwrap();
        let (body, agreed) = ours().answer(&offer, Direction::SendRecv);
        let expected = Agreed {
            remote: Some("192.0.2.1:5000".parse().unwrap()),
            remote_rtcp: Some("192.0.2.1:5009".parse().unwrap()),
            rtcp_mux: false,
            codec: Codec::Pcma,
            payload_type: 8,
            telephone_event: Some((97, 8000)),
            comfort_noise: None,
            send: true,
            receive: true,
            held: false,
            ptime: Some(30),
            srtp: None,
        };
        assert_eq!(agreed, expected);
        assert!(text(body).ends_with(
            "t=0 0\nm=video 0 RTP/AVP 96\nm=audio 20000 RTP/AVP 8 97\na=rtpmap:8 PCMA/8000\na=rtpmap:97 telephone-event/8000\n\
             a=fmtp:97 0-15\na=ptime:20\na=sendrecv\n"
        ));
    }

    #[test]
    fn static_types_need_no_map_and_maps_beat_static_types() {
        let codecs = |rest| parse("IP4 192.0.2.1", rest).map(|session| session.audio.codecs);
        assert_eq!(codecs("m=audio 5000 RTP/AVP 0\n"), Ok(vec![(0, Codec::Pcmu)]));
        assert_eq!(
            codecs("m=audio 5000 RTP/AVP 96 8\na=rtpmap:96 pcmu/8000\n"),
            Ok(vec![(96, Codec::Pcmu), (8, Codec::Pcma)])
        );
        assert_eq!(codecs("m=audio 5000 RTP/AVP 0\na=rtpmap:0 G729/8000\n"), Err(SdpError::Codec));
    }

    #[test]
    fn a_payload_type_that_the_peer_has_mapped_stays_in_our_offers() {
        let offer = parse(
            "IP4 192.0.2.1",
            "m=audio 5000 RTP/AVP 107 111 0\na=rtpmap:107 opus/48000/2\na=rtpmap:111 telephone-event/48000\n",
        )
        .unwrap();
        let mut local = ours();
        local.answer(&offer, Direction::SendRecv);
        let again = text(local.offer_codecs(Direction::SendOnly, &[Codec::Opus, Codec::Pcmu]));
        assert!(again.contains("a=rtpmap:107 opus/48000/2\n"), "{again}");
        assert!(again.contains("a=rtpmap:111 telephone-event/48000\n"), "{again}");
        // A number that he has for something else is not ours to take.
        let offer = parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0 111\na=rtpmap:111 telephone-event/8000\n");
        let mut local = ours();
        local.answer(&offer.unwrap(), Direction::SendRecv);
        let again = text(local.offer_codecs(Direction::SendRecv, &[Codec::Pcmu, Codec::Opus]));
        assert!(again.contains("a=rtpmap:96 opus/48000/2\n"), "{again}");
        assert!(again.contains("a=rtpmap:111 telephone-event/8000\n"), "{again}");
    }

    #[test]
    fn wideband_codecs_are_read_with_their_clocks_and_answered_as_the_peer_maps_them() {
        let offer = parse(
            "IP4 192.0.2.1",
            "m=audio 5000 RTP/AVP 107 9 0 13 98 110 101\na=rtpmap:107 opus/48000/2\na=fmtp:107 useinbandfec=1\na=rtpmap:98 L16/16000\n\
             a=rtpmap:110 telephone-event/48000\na=rtpmap:101 telephone-event/8000\n",
        )
        .unwrap();
        let expected = [(107, Codec::Opus), (9, Codec::G722), (0, Codec::Pcmu), (98, Codec::L16)];
        assert_eq!(offer.audio.codecs, expected);
        let (body, agreed) = ours().answer(&offer, Direction::SendRecv);
        assert_eq!((agreed.codec, agreed.payload_type), (Codec::Opus, 107));
        assert_eq!((agreed.telephone_event, agreed.comfort_noise), (Some((110, 48_000)), None));
        assert!(text(body).contains(
            "RTP/AVP 107 110\na=rtpmap:107 opus/48000/2\na=fmtp:107 useinbandfec=1\na=rtpmap:110 telephone-event/48000\na=fmtp:110 0-15\n"
        ));
        let mut narrow = offer.clone();
        narrow.audio.codecs.retain(|(_, codec)| *codec == Codec::G722);
        let (body, agreed) = ours().answer(&narrow, Direction::SendRecv);
        assert_eq!((agreed.telephone_event, agreed.comfort_noise), (Some((101, 8000)), Some(13)));
        assert!(text(body).contains("RTP/AVP 9 13 101\na=rtpmap:9 G722/8000\na=rtpmap:13 CN/8000\na=rtpmap:101 telephone-event/8000\n"));
    }

    #[test]
    fn what_has_another_clock_or_more_channels_is_another_codec() {
        for map in ["opus/48000", "opus/8000/2", "L16/44100", "L16/16000/2", "G722/16000", "PCMU/16000"] {
            let offer = format!("m=audio 5000 RTP/AVP 96\na=rtpmap:96 {map}\n");
            assert_eq!(parse("IP4 192.0.2.1", &offer).unwrap_err(), SdpError::Codec, "{map}");
        }
    }

    #[test]
    fn an_offer_of_opus_has_telephone_events_for_its_clock_too() {
        let offer = text(ours().offer_codecs(Direction::SendRecv, &[Codec::Opus, Codec::Pcmu]));
        assert!(offer.contains("RTP/AVP 111 0 101 100\na=rtpmap:111 opus/48000/2\n"), "{offer}");
        assert!(offer.contains("a=rtpmap:100 telephone-event/48000\n"));
    }

    #[test]
    fn hold_comes_as_a_direction_or_as_no_address() {
        let agreed = |connection, rest| ours().answer(&parse(connection, rest).unwrap(), Direction::SendRecv).1;
        let flows = |agreed: Agreed| (agreed.send, agreed.receive, agreed.held);
        assert_eq!(
            flows(agreed("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0\na=sendonly\n")),
            (false, true, true)
        );
        assert_eq!(
            flows(agreed("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0\na=inactive\n")),
            (false, false, true)
        );
        assert_eq!(
            flows(agreed("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0\na=recvonly\n")),
            (true, false, false)
        );
        assert_eq!(
            flows(agreed("IP4 192.0.2.1", "a=inactive\nm=audio 5000 RTP/AVP 0\n")),
            (false, false, true)
        );
        assert_eq!(
            flows(agreed("IP4 192.0.2.1", "a=inactive\nm=audio 5000 RTP/AVP 0\na=sendrecv\n")),
            (true, true, false)
        );
        let zero = agreed("IP4 0.0.0.0", "m=audio 5000 RTP/AVP 0\na=sendrecv\n");
        assert_eq!((zero.remote, zero.remote_rtcp, flows(zero)), (None, None, (false, true, true)));
    }

    #[test]
    fn the_answer_never_allows_more_than_the_offer() {
        let offer = parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0\na=sendonly\n").unwrap();
        assert!(text(ours().answer(&offer, Direction::SendRecv).0).ends_with("a=recvonly\n"));
        assert!(text(ours().answer(&offer, Direction::SendOnly).0).ends_with("a=inactive\n"));
    }

    #[test]
    fn what_cannot_be_answered_is_refused() {
        let audio = "m=audio 5000 RTP/AVP 0\n";
        assert_eq!(parse("IP4 224.1.2.3/127", audio).unwrap_err(), SdpError::Multicast);
        assert_eq!(parse("IP6 ff02::1", audio).unwrap_err(), SdpError::Multicast);
        assert_eq!(parse("IP4 255.255.255.255", audio).unwrap_err(), SdpError::Address);
        assert_eq!(parse("IP4 phone.example.test", audio).unwrap_err(), SdpError::Address);
        assert_eq!(
            parse("IP4 192.0.2.1", "m=audio 65536 RTP/AVP 0\n").unwrap_err(),
            SdpError::Unreadable
        );
        assert_eq!(parse("IP4 192.0.2.1", "").unwrap_err(), SdpError::NoAudio);
        assert_eq!(parse("IP4 192.0.2.1", "m=audio 0 RTP/AVP 0\n").unwrap_err(), SdpError::NoAudio);
        assert_eq!(parse("IP4 192.0.2.1", "m=video 5000 RTP/AVP 0\n").unwrap_err(), SdpError::NoAudio);
        assert_eq!(parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 3 18\n").unwrap_err(), SdpError::Codec);
        assert_eq!(
            parse("IP4 192.0.2.1", "m=audio 5000 RTP/SAVP 0\n").unwrap_err(),
            SdpError::Transport
        );
        assert_eq!(
            parse("IP4 192.0.2.1", "m=audio 5000 UDP/TLS/RTP/SAVPF 0\n").unwrap_err(),
            SdpError::Transport
        );
        assert_eq!(parse("IP4 192.0.2.1", &audio.repeat(17)).unwrap_err(), SdpError::Unreadable);
        assert_eq!(Session::parse(b"\xff\xfe\0").unwrap_err(), SdpError::Unreadable);
    }

    #[test]
    fn a_clear_stream_beside_an_encrypted_one_is_taken() {
        let offer = parse("IP4 192.0.2.1", "m=audio 5000 RTP/SAVP 0\nm=audio 5002 RTP/AVP 0\n").unwrap();
        let (body, agreed) = ours().answer(&offer, Direction::SendRecv);
        assert_eq!(agreed.remote, Some("192.0.2.1:5002".parse().unwrap()));
        assert!(text(body).contains("m=audio 0 RTP/SAVP 0\nm=audio 20000 RTP/AVP 0\n"));
    }

    #[test]
    fn rtcp_goes_nowhere_but_to_the_host_of_rtp() {
        let rtcp = |rest| parse("IP4 192.0.2.1", rest).unwrap().audio.rtcp.map(|address| address.to_string());
        assert_eq!(rtcp("m=audio 5000 RTP/AVP 0\n").as_deref(), Some("192.0.2.1:5001"));
        assert_eq!(
            rtcp("m=audio 5000 RTP/AVP 0\na=rtcp:53020 IN IP4 192.0.2.1\n").as_deref(),
            Some("192.0.2.1:53020")
        );
        assert_eq!(
            rtcp("m=audio 5000 RTP/AVP 0\na=rtcp:53020 IN IP4 198.51.100.1\n").as_deref(),
            Some("192.0.2.1:5001")
        );
        assert_eq!(rtcp("m=audio 65535 RTP/AVP 0\n"), None);
    }

    #[test]
    fn rtcp_shares_the_ports_of_rtp_when_both_want_it_and_payload_types_allow_it() {
        let answered = |rest| {
            let (body, agreed) = ours().answer(&parse("IP4 192.0.2.1", rest).unwrap(), Direction::SendRecv);
            let says_so = text(body).contains("a=rtcp-mux\n");
            assert_eq!(says_so, agreed.rtcp_mux);
            (says_so, agreed.remote_rtcp.unwrap().port())
        };
        assert_eq!(answered("m=audio 5000 RTP/AVP 0\na=rtcp-mux\n"), (true, 5000));
        assert_eq!(answered("m=audio 5000 RTP/AVP 0\na=rtcp-mux\na=rtcp:5009\n"), (true, 5000));
        assert_eq!(answered("m=audio 5000 RTP/AVP 0\n"), (false, 5001));
        let ambiguous = "m=audio 5000 RTP/AVP 0 72\na=rtpmap:72 telephone-event/8000\na=rtcp-mux\n";
        assert_eq!(answered(ambiguous), (false, 5001));

        let accepted = |rest| {
            let mut local = ours();
            assert!(text(local.offer(Direction::SendRecv)).contains("a=rtcp-mux\n"));
            local.accept(&parse("IP4 192.0.2.1", rest).unwrap()).unwrap()
        };
        let shared = accepted("m=audio 5000 RTP/AVP 0\na=rtcp-mux\n");
        assert_eq!((shared.rtcp_mux, shared.remote_rtcp), (true, shared.remote));
        assert!(!accepted("m=audio 5000 RTP/AVP 0\na=rtcp:5009\n").rtcp_mux);
    }

    #[test]
    fn a_connection_of_the_stream_beats_that_of_the_session() {
        let session = parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0\nc=IN IP6 2001:db8::1\n").unwrap();
        assert_eq!(session.audio.rtp, Some("[2001:db8::1]:5000".parse().unwrap()));
    }

    #[test]
    fn the_version_counts_changes_and_nothing_else() {
        let mut local = ours();
        let version = |body: Vec<u8>| text(body).lines().nth(1).unwrap().to_owned();
        assert_eq!(version(local.offer(Direction::SendRecv)), "o=- 4 1 IN IP4 192.0.2.9");
        assert_eq!(version(local.offer(Direction::SendRecv)), "o=- 4 1 IN IP4 192.0.2.9");
        assert_eq!(version(local.offer(Direction::SendOnly)), "o=- 4 2 IN IP4 192.0.2.9");
        assert_eq!(version(local.offer(Direction::SendRecv)), "o=- 4 3 IN IP4 192.0.2.9");
        assert_eq!(version(local.offer(Direction::SendRecv)), "o=- 4 3 IN IP4 192.0.2.9");
    }

    #[test]
    fn a_later_offer_keeps_the_lines_and_types_of_the_session() {
        let mut local = ours();
        let offer = parse(
            "IP4 192.0.2.1",
            "m=audio 5000 RTP/AVP 0 96\na=rtpmap:96 telephone-event/8000\nm=video 4000 RTP/AVP 97\n",
        )
        .unwrap();
        local.answer(&offer, Direction::SendRecv);
        let body = text(local.offer(Direction::SendRecv));
        assert!(body.contains("m=audio 20000 RTP/AVP 0 8 96\n"), "{body}");
        assert!(body.ends_with("m=video 0 RTP/AVP 97\n"), "{body}");
    }

    #[test]
    fn an_answer_must_fit_the_offer() {
        let mut local = ours();
        local.offer(Direction::SendRecv);
        let fitting = parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 8 101\na=rtpmap:101 telephone-event/8000\n").unwrap();
        let agreed = local.accept(&fitting).unwrap();
        assert_eq!(
            (agreed.codec, agreed.telephone_event, agreed.send),
            (Codec::Pcma, Some((101, 8000)), true)
        );
        let two = parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 8\nm=audio 5002 RTP/AVP 8\n").unwrap();
        assert_eq!(local.accept(&two), Err(SdpError::Mismatch));
    }

    #[test]
    fn an_answer_takes_only_codecs_that_were_offered() {
        let mut local = ours();
        local.offer_codecs(Direction::SendRecv, &[Codec::Pcma]);
        let other = parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0\n").unwrap();
        assert_eq!(local.accept(&other), Err(SdpError::Codec));
        let both = parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0 8\n").unwrap();
        let agreed = local.accept(&both).unwrap();
        assert_eq!((agreed.codec, agreed.payload_type), (Codec::Pcma, 8));
    }

    const KEY_80: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd";

    fn secure(srtp: Srtp) -> Local {
        ours().with_srtp(srtp, [7; 32])
    }

    fn with_crypto(proto: &str, lines: &[&str]) -> Vec<u8> {
        let lines: String = lines.iter().map(|line| format!("a=crypto:{line}\n")).collect();
        body("IP4 192.0.2.1", &format!("m=audio 5000 {proto} 0\n{lines}"))
    }

    fn line_80(tag: u32) -> String {
        format!("{tag} AES_CM_128_HMAC_SHA1_80 inline:{KEY_80}")
    }

    fn crypto_lines(body: &[u8]) -> Vec<String> {
        let text = String::from_utf8(body.to_vec()).unwrap();
        text.lines()
            .filter_map(|line| line.strip_prefix("a=crypto:"))
            .map(str::to_owned)
            .collect()
    }

    #[test]
    fn crypto_lines_are_read_by_rfc_4568() {
        let read = |value: &str| read_crypto(value).map(|crypto| (crypto.tag, crypto.key.suite()));
        let cm = Some((1, Suite::AesCm128HmacSha1_80));
        assert_eq!(read(&line_80(1)), cm);
        assert_eq!(read(&format!("{}|2^31", line_80(1))), cm);
        assert_eq!(read(&format!("{}|1048576 WSH=128 -NEW", line_80(1))), cm);
        assert_eq!(read(&line_80(1).replace("inline", "INLINE")), cm);
        let short = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGw";
        for key in [short.to_owned(), format!("{short}==")] {
            let gcm = Some((9, Suite::AeadAes128Gcm));
            assert_eq!(read(&format!("9 AEAD_AES_128_GCM inline:{key}")), gcm, "{key}");
        }
        let long = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKis=";
        assert_eq!(
            read(&format!("999999999 AEAD_AES_256_GCM inline:{long}")),
            Some((999_999_999, Suite::AeadAes256Gcm))
        );
    }

    #[test]
    fn crypto_lines_that_cannot_be_honoured_are_passed_over() {
        let good = line_80(1);
        let wrong = [
            format!("{good}|1:4"),
            format!("{good}|2^20|1:4"),
            format!("{good};inline:{KEY_80}|2:4"),
            format!("{good}|2^x"),
            format!("{good} UNENCRYPTED_SRTP"),
            format!("{good} UNAUTHENTICATED_SRTP"),
            format!("{good} UNENCRYPTED_SRTCP"),
            format!("{good} KDR=1"),
            format!("{good} FEC_ORDER=FEC_SRTP"),
            format!("{good} NEW=1"),
            good.replace("inline:", "uri:"),
            good.replace(" inline:", ""),
            good.replace("AES_CM_128", "F8_128"),
            format!("{good}AAAA"),
            good.trim_end_matches("xwd").to_owned(),
            format!("-{good}"),
            format!("1234567890{good}"),
            format!("x{good}"),
            "1".to_owned(),
            String::new(),
            format!("1 AEAD_AES_128_GCM inline:{KEY_80}"),
            format!("1 AES_CM_128_HMAC_SHA1_80 inline:{}", "A".repeat(10_000)),
        ];
        for line in wrong {
            assert_eq!(read_crypto(&line), None, "{line}");
            let offer = with_crypto("RTP/SAVP", &[&line]);
            assert_eq!(Session::parse_for(&offer, Srtp::Required).unwrap_err(), SdpError::Transport);
        }
    }

    #[test]
    fn a_description_is_taken_or_refused_by_the_rule_of_its_leg() {
        let line = line_80(1);
        let takes = |proto, lines: &[&str]| {
            [Srtp::Off, Srtp::Optional, Srtp::Required].map(|srtp| Session::parse_for(&with_crypto(proto, lines), srtp).is_ok())
        };
        assert_eq!(takes("RTP/AVP", &[]), [true, true, false]);
        assert_eq!(takes("RTP/AVP", &[&line]), [true, true, true]);
        assert_eq!(takes("RTP/SAVP", &[&line]), [false, true, true]);
        assert_eq!(takes("RTP/SAVPF", &[&line]), [false, true, true]);
        assert_eq!(takes("RTP/SAVP", &[]), [false, false, false]);
        assert_eq!(takes("UDP/TLS/RTP/SAVPF", &[&line]), [false, false, false]);
    }

    #[test]
    fn an_answer_takes_the_first_key_it_can_use_with_its_tag_and_profile() {
        for proto in ["RTP/AVP", "RTP/SAVP", "RTP/SAVPF"] {
            let bad = "4 F8_128_HMAC_SHA1_80 inline:AAAA";
            let offer = Session::parse(&with_crypto(proto, &[bad, &line_80(12), &line_80(13)])).unwrap();
            for srtp in [Srtp::Optional, Srtp::Required] {
                let (body, agreed) = secure(srtp).answer(&offer, Direction::SendRecv);
                let lines = crypto_lines(&body);
                assert_eq!(lines.len(), 1);
                let (tag, ours) = (&lines[0][..2], read_crypto(&lines[0]).unwrap().key);
                let keys = agreed.srtp.unwrap();
                assert_eq!((tag, &ours), ("12", &keys.ours));
                assert_eq!(BASE64.encode(keys.theirs.material()), KEY_80);
                assert!(text(body).contains(&format!("m=audio 20000 {proto} 0")));
            }
        }
    }

    #[test]
    fn what_the_rule_forbids_is_never_answered_with_sound() {
        let quiet = |srtp, body: Vec<u8>| {
            let (_, agreed) = secure(srtp).answer(&Session::parse(&body).unwrap(), Direction::SendRecv);
            (agreed.remote, agreed.remote_rtcp, agreed.send, agreed.receive, agreed.srtp) == (None, None, false, false, None)
        };
        assert!(quiet(Srtp::Required, with_crypto("RTP/AVP", &[])));
        assert!(quiet(Srtp::Off, with_crypto("RTP/SAVP", &[&line_80(1)])));
        assert!(!quiet(Srtp::Off, with_crypto("RTP/AVP", &[&line_80(1)])));
    }

    #[test]
    fn an_offer_has_a_key_for_every_suite_each_another() {
        let body = secure(Srtp::Required).offer(Direction::SendRecv);
        let offered: Vec<Crypto> = crypto_lines(&body).iter().map(|line| read_crypto(line).unwrap()).collect();
        assert_eq!(offered.iter().map(|crypto| crypto.key.suite()).collect::<Vec<_>>(), Suite::ALL);
        assert_eq!(offered.iter().map(|crypto| crypto.tag).collect::<Vec<_>>(), [1, 2, 3, 4]);
        let starts: std::collections::BTreeSet<&[u8]> = offered.iter().map(|crypto| &crypto.key.material()[..16]).collect();
        assert_eq!(starts.len(), 4);
        assert!(text(body).contains("m=audio 20000 RTP/SAVP 0 8 101\n"));
        let body = secure(Srtp::Optional).offer(Direction::SendRecv);
        assert_eq!(crypto_lines(&body).len(), 4);
        assert!(text(body).contains("m=audio 20000 RTP/AVP 0 8 101\n"));
        assert_eq!(crypto_lines(&ours().offer(Direction::SendRecv)), [""; 0]);
    }

    #[test]
    fn an_answer_names_a_tag_and_a_suite_that_were_offered() {
        let accept = |srtp, proto: &str, lines: &[&str]| {
            let mut local = secure(srtp);
            local.offer(Direction::SendRecv);
            let answer = Session::parse(&with_crypto(proto, lines))?;
            local.accept(&answer).map(|agreed| agreed.srtp.is_some())
        };
        let (right, wrong) = (line_80(3), line_80(1));
        let unusable = format!("{right}|1:4");
        for srtp in [Srtp::Optional, Srtp::Required] {
            assert_eq!(accept(srtp, "RTP/SAVP", &[&right]), Ok(true));
            assert_eq!(accept(srtp, "RTP/SAVP", &[&wrong]), Err(SdpError::Crypto));
        }
        assert_eq!(accept(Srtp::Required, "RTP/AVP", &[&right]), Err(SdpError::Transport));
        assert_eq!(accept(Srtp::Required, "RTP/AVP", &[]), Err(SdpError::Transport));
        assert_eq!(accept(Srtp::Optional, "RTP/AVP", &[&right]), Ok(true));
        assert_eq!(accept(Srtp::Optional, "RTP/AVP", &[]), Ok(false));
        assert_eq!(accept(Srtp::Optional, "RTP/AVP", &[&wrong]), Err(SdpError::Crypto));
        assert_eq!(accept(Srtp::Optional, "RTP/AVP", &[&unusable]), Err(SdpError::Crypto));
        assert_eq!(accept(Srtp::Off, "RTP/SAVP", &[&right]), Err(SdpError::Transport));
        assert_eq!(accept(Srtp::Off, "RTP/AVP", &[&right]), Ok(false));
    }

    #[test]
    fn our_key_stays_until_something_else_is_agreed_and_never_comes_back() {
        let mut local = secure(Srtp::Optional);
        let secret = |key: &str, suite: &str| {
            let line = format!("1 {suite} inline:{key}");
            Session::parse(&with_crypto("RTP/SAVP", &[&line])).unwrap()
        };
        let other = KEY_80.replace("AAEC", "BBEC");
        let (cm, shorter) = ("AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32");
        let answer = |local: &mut Local, offer: &Session| local.answer(offer, Direction::SendRecv).1.srtp.map(|keys| keys.ours);
        let first = answer(&mut local, &secret(KEY_80, cm)).unwrap();
        assert_eq!(answer(&mut local, &secret(KEY_80, cm)), Some(first.clone()));
        assert_eq!(answer(&mut local, &secret(&other, cm)), Some(first.clone()));
        let again = local.offer(Direction::SendRecv);
        let lines = crypto_lines(&again);
        assert_eq!((lines.len(), read_crypto(&lines[0]).unwrap().key), (1, first.clone()));
        assert_eq!(local.offer(Direction::SendRecv), again);
        assert!(text(again).contains("RTP/SAVP"));

        let mut seen = vec![first];
        let mut elsewhere = secret(KEY_80, cm);
        elsewhere.audio.rtp = Some("192.0.2.77:5000".parse().unwrap());
        let clear = Session::parse(&with_crypto("RTP/AVP", &[])).unwrap();
        for offer in [
            &elsewhere,
            &secret(KEY_80, shorter),
            &secret(KEY_80, cm),
            &clear,
            &secret(KEY_80, cm),
        ] {
            let Some(key) = answer(&mut local, offer) else { continue };
            assert!(!seen.iter().any(|seen| seen.material()[..16] == key.material()[..16]));
            seen.push(key);
        }
        assert_eq!(seen.len(), 5);
    }

    #[test]
    fn keys_are_shown_by_no_debug() {
        let mut local = secure(Srtp::Required);
        let offer = Session::parse(&with_crypto("RTP/SAVP", &[&line_80(1)])).unwrap();
        let (_, agreed) = local.answer(&offer, Direction::SendRecv);
        let shown = format!("{offer:?} {agreed:?} {local:?}");
        assert!(
            !shown.contains(KEY_80) && !shown.contains("material") && !shown.contains("inline"),
            "{shown}"
        );
    }

    #[test]
    fn texts_that_are_no_utf_8_do_no_harm() {
        let mut raw = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=K\xfcche\r\n".to_vec();
        raw.extend_from_slice(b"c=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 5000 RTP/AVP 0\r\n");
        assert!(Session::parse(&raw).is_ok());
    }
}
