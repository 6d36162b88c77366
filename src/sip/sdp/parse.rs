//! Session descriptions as they come.

use super::crypto::{Crypto, MAX_CRYPTO, read_crypto};
use super::lines::SdpWriter;
use super::{Direction, FaultLine, SdpError, SdpFault, SrtpPolicy};
use crate::media::codec::Codec;
use sdp_types::{Attribute, Connection, Media};
use std::net::{IpAddr, SocketAddr};

/// The most media lines of a description.
pub const MAX_LINES: usize = 16;

/// The peer's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdpSession {
    /// `o=`: session id.
    pub id: String,
    /// `o=`: session version; 0 where it is no number of 64 bits.
    pub version: u64,
    /// The audio stream we take.
    pub audio: Audio,
    pub(super) lines: Vec<SdpLine>,
    pub(super) taken: usize,
    /// The line of the audio stream, and that of its connection.
    media_line: Option<FaultLine>,
    connection_line: Option<FaultLine>,
}

/// A usable audio stream of the peer's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audio {
    /// Where the peer wants RTP; `None` for 0.0.0.0 or `::`, the old way to hold.
    pub rtp: Option<SocketAddr>,
    /// Where the peer wants RTCP (RFC 3605); `None` when RTP goes nowhere or there is no next port.
    /// Another host than that of RTP is not believed.
    pub rtcp: Option<SocketAddr>,
    /// The peer can have RTCP on the ports of RTP (RFC 5761).
    pub rtcp_mux: bool,
    /// Which way the peer sends and receives; 0.0.0.0 counts as not receiving.
    pub direction: Direction,
    /// The codecs we know in the peer's order of preference, with their payload types.
    pub codecs: Vec<(u8, Codec)>,
    /// What it says of G.729 holds for annex B too, silence suppression: false where it says
    /// `annexb=no` (RFC 4856 2.1.9, RFC 7261).
    pub annex_b: bool,
    /// The payload types of telephone events (RFC 4733), each with its clock.
    pub telephone_events: Vec<(u8, u32)>,
    /// The payload type of comfort noise (RFC 3389).
    pub comfort_noise: Option<u8>,
    /// Milliseconds a packet, when the peer says.
    pub ptime: Option<u32>,
    /// It is RTP/SAVP or RTP/SAVPF.
    pub secure: bool,
    /// The peer's keys that we can use, in its order of preference.
    pub crypto: Vec<Crypto>,
    /// The peer has `a=crypto` lines, and there is none among them that we can use.
    pub unusable_crypto: bool,
}

impl Audio {
    /// The telephone events that go with a codec: those of its clock; else those of 8000 Hz, which
    /// some phones have alone.
    pub(super) fn events_for(&self, codec: Codec) -> Option<(u8, u32)> {
        let of = |clock| self.telephone_events.iter().find(|(_, known)| *known == clock);
        of(codec.clock()).or_else(|| of(8000)).copied()
    }

    /// The peer has put us on hold: it does not want to hear us (RFC 3264 8.4), with or without
    /// music of its own.
    pub fn is_hold(&self) -> bool {
        !self.direction.receives()
    }
}

/// What must be said again of a media line when it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SdpLine {
    pub(super) media: String,
    pub(super) proto: String,
    pub(super) fmt: String,
}

impl SdpSession {
    /// Reads a description, whether it is encrypted or not. What is not UTF-8 in its texts is no
    /// fault.
    pub fn parse(body: &[u8]) -> Result<SdpSession, SdpFault> {
        SdpSession::parse_for(body, SrtpPolicy::Optional)
    }

    /// Reads a description of a leg for which this is the rule: a stream that it rules out is
    /// passed over.
    pub fn parse_for(body: &[u8], srtp: SrtpPolicy) -> Result<SdpSession, SdpFault> {
        let text = String::from_utf8_lossy(body);
        let lines = SdpWriter::of(&text)?;
        let read = sdp_types::Session::parse(lines.text.as_bytes())
            .map_err(|error| lines.unreadable(&error))?;
        if read.medias.len() > MAX_LINES {
            return Err(lines.of_last(SdpError::Unreadable));
        }
        let mut refusal = lines.of_last(SdpError::NoAudio);
        for (taken, media) in read.medias.iter().enumerate() {
            if !media.media.eq_ignore_ascii_case("audio") || media.port == 0 {
                continue;
            }
            match read_audio(&read, media, srtp) {
                Ok(audio) => {
                    let line = |media: &Media| SdpLine {
                        media: media.media.clone(),
                        proto: media.proto.clone(),
                        fmt: media.fmt.clone(),
                    };
                    let said = read.medias.iter().map(line).collect();
                    return Ok(SdpSession {
                        id: read.origin.sess_id,
                        version: read.origin.sess_version,
                        audio,
                        lines: said,
                        taken,
                        media_line: lines.of_media(SdpError::Codec, taken).line,
                        connection_line: lines.of_media(SdpError::Address, taken).line,
                    });
                }
                Err(error) if refusal.error == SdpError::NoAudio => {
                    refusal = lines.of_media(error, taken)
                }
                Err(_) => {}
            }
        }
        Err(refusal)
    }

    /// Why it is refused after all, and the line at fault.
    pub fn fault(&self, error: SdpError) -> SdpFault {
        let line = match error {
            SdpError::Address | SdpError::Multicast => &self.connection_line,
            SdpError::Unreadable
            | SdpError::NoAudio
            | SdpError::Transport
            | SdpError::Crypto
            | SdpError::Codec
            | SdpError::Mismatch => &self.media_line,
        };
        SdpFault { error, line: line.clone() }
    }
}

fn read_audio(
    session: &sdp_types::Session,
    media: &Media,
    srtp: SrtpPolicy,
) -> Result<Audio, SdpError> {
    let secure = match media.proto.to_ascii_uppercase().as_str() {
        "RTP/AVP" | "RTP/AVPF" => false,
        "RTP/SAVP" | "RTP/SAVPF" => true,
        _ => return Err(SdpError::Transport),
    };
    let lines = media.attributes.iter().filter(|attribute| attribute.attribute == "crypto");
    let has_crypto = lines.clone().next().is_some();
    let crypto: Vec<Crypto> = match srtp {
        SrtpPolicy::Off => Vec::new(),
        SrtpPolicy::Optional | SrtpPolicy::Required => lines
            .take(MAX_CRYPTO)
            .filter_map(|attribute| read_crypto(attribute.value.as_deref()?))
            .collect(),
    };
    if crypto.is_empty() && (secure || srtp == SrtpPolicy::Required) {
        return Err(SdpError::Transport);
    }
    let connection =
        media.connections.first().or(session.connection.as_ref()).ok_or(SdpError::Address)?;
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
        annex_b: has_annex_b(media, &formats.codecs),
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
    let Some(value) = value_of(media, "rtcp") else {
        return next();
    };
    let words: Vec<&str> = value.split_ascii_whitespace().collect();
    let port = words.first().and_then(|port| port.parse().ok()).filter(|port| *port != 0);
    let same_host = words.get(3).is_none_or(|host| host.parse() == Ok(rtp.ip()));
    match port {
        Some(port) if same_host => Some(SocketAddr::new(rtp.ip(), port)),
        _ => next(),
    }
}

/// The formats of a media line.
#[derive(Clone, Debug, Default)]
pub(super) struct OfferedFormats {
    pub(super) codecs: Vec<(u8, Codec)>,
    pub(super) events: Vec<(u8, u32)>,
    pub(super) comfort_noise: Option<u8>,
}

fn read_formats(media: &Media) -> OfferedFormats {
    let mut formats = OfferedFormats::default();
    let mut seen = Vec::new();
    let types = media
        .fmt
        .split_ascii_whitespace()
        .filter_map(|format| format.parse::<u8>().ok())
        .filter(|number| *number < 128);
    for payload_type in types {
        // A number that is listed twice still names one format.
        if seen.contains(&payload_type) {
            continue;
        }
        seen.push(payload_type);
        let Some(encoding) = encoding_of(media, payload_type) else {
            continue;
        };
        let mut words = encoding.split('/');
        let name = words.next().unwrap_or_default();
        let clock: Option<u32> = words.next().and_then(|clock| clock.parse().ok());
        let channels: Option<u32> = words.next().map_or(Some(1), |channels| channels.parse().ok());
        match (name, clock, channels) {
            ("TELEPHONE-EVENT", Some(clock @ (8000 | 16_000 | 48_000)), Some(1)) => {
                formats.events.push((payload_type, clock))
            }
            ("CN", Some(8000), Some(1)) => {
                formats.comfort_noise = formats.comfort_noise.or(Some(payload_type))
            }
            _ => {
                let fits = |codec: &Codec| {
                    clock == Some(codec.clock()) && channels == Some(codec.channels())
                };
                formats
                    .codecs
                    .extend(codec_named(name).filter(fits).map(|codec| (payload_type, codec)));
            }
        }
    }
    formats
}

/// The codec of that name. Some phones write the annexes into that of G.729, which name the same
/// payloads.
fn codec_named(name: &str) -> Option<Codec> {
    match name {
        "G729A" | "G729B" | "G729AB" => Some(Codec::G729),
        _ => Codec::named(name),
    }
}

/// Without a word it has (RFC 7261 3.1).
fn has_annex_b(media: &Media, codecs: &[(u8, Codec)]) -> bool {
    let is_g729 = |number: &str| {
        codecs.iter().any(|(known, codec)| *codec == Codec::G729 && number.parse() == Ok(*known))
    };
    let says_no = |parameter: &str| {
        let parameter = parameter.split_once('=');
        parameter.is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("annexb") && value.trim().eq_ignore_ascii_case("no")
        })
    };
    let parameters = media.attributes.iter().filter(|attribute| attribute.attribute == "fmtp");
    let mut of_g729 = parameters
        .filter_map(|attribute| attribute.value.as_deref()?.trim().split_once([' ', '\t']))
        .filter(|(number, _)| is_g729(number));
    !of_g729.any(|(_, said)| said.split(';').any(says_no))
}

fn encoding_of(media: &Media, payload_type: u8) -> Option<String> {
    let maps = media.attributes.iter().filter(|attribute| attribute.attribute == "rtpmap");
    let mapped = maps
        .filter_map(|attribute| attribute.value.as_deref()?.trim().split_once([' ', '\t']))
        .find_map(|(number, encoding)| {
            let fits = number.parse() == Ok(payload_type);
            fits.then(|| encoding.trim().to_ascii_uppercase())
        });
    mapped.or_else(|| match payload_type {
        0 => Some("PCMU/8000".to_owned()),
        8 => Some("PCMA/8000".to_owned()),
        9 => Some("G722/8000".to_owned()),
        13 => Some("CN/8000".to_owned()),
        18 => Some("G729/8000".to_owned()),
        _ => None,
    })
}

fn direction_in(attributes: &[Attribute]) -> Option<Direction> {
    attributes.iter().find_map(|attribute| Direction::named(&attribute.attribute))
}

fn value_of<'a>(media: &'a Media, name: &str) -> Option<&'a str> {
    media.attributes.iter().find(|attribute| attribute.attribute == name)?.value.as_deref()
}
