//! Session descriptions (RFC 8866) and offer/answer (RFC 3264) for one audio stream with telephone events.
//!
//! ```text
//!  incoming leg: Session::parse(offer) ─▶ Local::answer ─▶ body + Agreed
//!  outgoing leg: Local::offer ─▶ body … Session::parse(answer) ─▶ Local::accept ─▶ Agreed
//! ```
//!
//! Other media lines are refused with port 0. A stream that is only offered encrypted is never answered in clear.

use crate::media::codec::Codec;
use crate::media::rtcp;
use sdp_types::{Attribute, Connection, Media, Origin, Time};
use std::net::{IpAddr, SocketAddr};

/// The payload type of telephone events in our offers, unless the peer has chosen another before; and the clock they are for: that of the codec
/// beside them (RFC 4733 2.1).
const TELEPHONE_EVENTS: [(u8, u32); 3] = [(101, 8000), (100, 48_000), (99, 16_000)];

/// The most media lines of a description.
pub const MAX_LINES: usize = 16;

/// Why a description is refused, always with 488 (`SdpError::STATUS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// It cannot be read: grammar, a port above 65535, too many media lines.
    #[error("unreadable session description")]
    Unreadable,
    /// It has no audio stream, or all are refused or switched off (port 0).
    #[error("no audio stream")]
    NoAudio,
    /// Audio is offered only over SRTP or DTLS, or over something that is no RTP.
    #[error("no audio stream over plain RTP")]
    Transport,
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
    /// Reads a description. What is not UTF-8 in its texts is no fault.
    pub fn parse(body: &[u8]) -> Result<Session, SdpError> {
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
            match read_audio(&read, media) {
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

fn read_audio(session: &sdp_types::Session, media: &Media) -> Result<Audio, SdpError> {
    if !matches!(media.proto.to_ascii_uppercase().as_str(), "RTP/AVP" | "RTP/AVPF") {
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
        }
    }
}

/// Our end of one leg's session: writes offers and answers, and counts the version up whenever what it says changes (RFC 3264 8).
#[derive(Clone, Debug)]
pub struct Local {
    id: u64,
    version: u64,
    address: SocketAddr,
    said: Option<sdp_types::Session>,
    lines: Vec<Line>,
    taken: usize,
    direction: Direction,
    /// What we say next has `a=rtcp-mux`: every offer, and the answer to whoever offers it.
    rtcp_mux: bool,
    telephone_events: [(u8, u32); 3],
    /// The codecs of our last offer: an answer may take none but these (RFC 3264 6.1).
    offered: Vec<Codec>,
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
            offered: Vec::new(),
        }
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
            codecs: codecs.iter().map(|codec| (codec.payload_type(), *codec)).collect(),
            ..Formats::default()
        };
        let has_clock = |clock: u32| codecs.iter().any(|codec| codec.clock() == clock);
        let events = self
            .telephone_events
            .into_iter()
            .filter(|(_, clock)| *clock == 8000 || has_clock(*clock));
        formats.events = events.collect();
        self.write("RTP/AVP", &formats, direction)
    }

    /// The answer to an offer: its first codec that we speak, its payload types, no more than it and `direction` allow.
    pub fn answer(&mut self, offer: &Session, direction: Direction) -> (Vec<u8>, Agreed) {
        self.lines = offer.lines.clone();
        self.taken = offer.taken;
        self.direction = direction;
        self.learn(&offer.audio);
        let agreed = Agreed::of(&offer.audio, direction);
        self.rtcp_mux = agreed.rtcp_mux;
        let formats = Formats {
            codecs: vec![(agreed.payload_type, agreed.codec)],
            events: agreed.telephone_event.into_iter().collect(),
            comfort_noise: agreed.comfort_noise,
        };
        let proto = offer.lines.get(offer.taken).map_or("RTP/AVP", |line| line.proto.as_str());
        let body = self.write(proto, &formats, Direction::of(agreed.send, agreed.receive));
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
        self.lines = answer.lines.clone();
        self.learn(&answer.audio);
        Ok(Agreed::of(&audio, self.direction))
    }

    /// The payload types of telephone events that the peer has chosen are ours from now on.
    fn learn(&mut self, audio: &Audio) {
        for (ours, clock) in &mut self.telephone_events {
            if let Some((theirs, _)) = audio.telephone_events.iter().find(|(_, known)| known == clock) {
                *ours = *theirs;
            }
        }
    }

    fn write(&mut self, proto: &str, formats: &Formats, direction: Direction) -> Vec<u8> {
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
        if self.said.as_ref().is_none_or(|said| *said != session) {
            self.version += 1;
            session.origin.sess_version = self.version;
            self.said = Some(session.clone());
        }
        let mut body = Vec::new();
        // Writing into memory does not fail.
        let _ = session.write(&mut body);
        body
    }
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

    #[test]
    fn texts_that_are_no_utf_8_do_no_harm() {
        let mut raw = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=K\xfcche\r\n".to_vec();
        raw.extend_from_slice(b"c=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 5000 RTP/AVP 0\r\n");
        assert!(Session::parse(&raw).is_ok());
    }
}
