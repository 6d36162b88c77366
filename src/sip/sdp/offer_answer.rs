//! Offer and answer (RFC 3264), as our end of a leg makes and reads them.

use super::crypto::{BASE64, Crypto, OurKeys, tag_of};
use super::lines::NO_FORMAT;
use super::parse::{Audio, OfferedFormats, SdpLine, SdpSession};
use super::{Direction, SdpError, SrtpPolicy};
use crate::media::codec::Codec;
use crate::media::srtp::{Keys, Suite};
use crate::media::{self, EventClock, Format, rtcp};
use base64::Engine as _;
use sdp_types::{Attribute, Connection, Media, Origin, Time};
use sha2::{Digest, Sha512};
use std::net::SocketAddr;
use zeroize::Zeroizing;

/// The payload type of telephone events in our offers, unless the peer has chosen another before;
/// and the clock they are for: that of the codec beside them (RFC 4733 2.1).
const TELEPHONE_EVENTS: [(u8, u32); 3] = [(101, 8000), (100, 48_000), (99, 16_000)];

/// What offer and answer have come to, seen from us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// Where we send RTP; `None` when the peer wants none.
    pub remote: Option<SocketAddr>,
    /// Where we send RTCP.
    pub remote_rtcp: Option<SocketAddr>,
    /// RTCP shares the ports of RTP.
    pub rtcp_mux: bool,
    /// The codec that we send.
    pub codec: Codec,
    /// Its payload type as the peer maps it.
    pub payload_type: u8,
    /// The payload type of the telephone events that we send and their clock, when both know them.
    pub telephone_event: Option<(u8, u32)>,
    /// The payload type of the comfort noise that we send, when both know it.
    pub comfort_noise: Option<u8>,
    /// What the peer may send: every format that both have named.
    ///
    /// A peer uses, when we have answered its offer, the numbers of our answer, which are its own.
    /// One that has answered ours has to use the numbers of our offer (RFC 3264 6.1), and many use
    /// those of their answer: both are taken, and where a number names one format in the offer and
    /// another in the answer, that of the offer.
    pub receives: media::PayloadTypes,
    /// We send.
    pub send: bool,
    /// We receive.
    pub receive: bool,
    /// The peer has put us on hold.
    pub held: bool,
    /// Milliseconds a packet, when the peer says.
    pub ptime: Option<u32>,
    /// The keys of SRTP; `None`: RTP in clear.
    pub srtp: Option<Box<Keys>>,
}

impl Agreed {
    fn of(audio: &Audio, receives: media::PayloadTypes, ours: Direction) -> Agreed {
        let direction = ours.and(audio.direction.reversed());
        let (payload_type, codec) = audio.codecs.first().copied().unwrap_or((0, Codec::Pcmu));
        let telephone_event = audio.events_for(codec);
        // Its clock is 8000 Hz, and so must be that of the stream it stands in for (RFC 3389 4).
        let comfort_noise = audio.comfort_noise.filter(|_| codec.clock() == 8000);
        let events = telephone_event.map(|(payload_type, _)| payload_type);
        let sent = [Some(payload_type), events, comfort_noise].into_iter().flatten();
        let mut payload_types = sent.chain(receives.iter().map(|(number, _)| number));
        let rtcp_mux =
            audio.rtcp_mux && !payload_types.any(|it| rtcp::AMBIGUOUS_PAYLOAD_TYPES.contains(&it));
        Agreed {
            remote: audio.rtp,
            remote_rtcp: if rtcp_mux { audio.rtp } else { audio.rtcp },
            rtcp_mux,
            codec,
            payload_type,
            telephone_event,
            comfort_noise,
            receives,
            send: direction.sends(),
            receive: direction.receives(),
            held: audio.is_hold(),
            ptime: audio.ptime,
            srtp: None,
        }
    }
}

/// Our end of one leg's session: writes offers and answers, and counts the version up whenever what
/// it says changes (RFC 3264 8).
#[derive(Clone, Debug)]
pub struct Local {
    id: u64,
    version: u64,
    address: SocketAddr,
    /// A digest of what was said last, its version aside: the keys in it are kept nowhere else.
    said: Option<[u8; 64]>,
    lines: Vec<SdpLine>,
    taken: usize,
    direction: Direction,
    /// What we say next has `a=rtcp-mux`: every offer, and the answer to a peer that offers it.
    rtcp_mux: bool,
    telephone_events: [(u8, u32); 3],
    /// The codecs that the peer has mapped, and how (RFC 3264 8.3.2).
    mapped: Vec<(u8, Codec)>,
    /// What we say of G.729 holds for annex B too: until either side of it has said no.
    annex_b: bool,
    /// The payload type of comfort noise that the peer has chosen, if it knows any.
    comfort_noise: Option<u8>,
    /// The formats of our last offer: an answer may take none but these codecs (RFC 3264 6.1).
    offered: OfferedFormats,
    srtp: SrtpPolicy,
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
            annex_b: true,
            comfort_noise: None,
            offered: OfferedFormats::default(),
            srtp: SrtpPolicy::Off,
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
    pub fn with_srtp(mut self, srtp: SrtpPolicy, secret: [u8; 32]) -> Local {
        self.srtp = srtp;
        self.keys.secret = Zeroizing::new(secret);
        self
    }

    /// Whether neither the peer nor [`Local::limit_annex_b`] has ruled out annex B of G.729.
    pub fn annex_b(&self) -> bool {
        self.annex_b
    }

    /// False: annex B of G.729, silence suppression, is ruled out by the side that its packets go to
    /// or come from, and that is said from now on.
    pub fn limit_annex_b(&mut self, annex_b: bool) {
        self.annex_b &= annex_b;
    }

    /// Where we receive RTP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// An offer of both laws and telephone events. Media lines that the session has had before
    /// stay, refused (RFC 3264 8).
    pub fn offer(&mut self, direction: Direction) -> Vec<u8> {
        self.offer_codecs(direction, &[Codec::Pcmu, Codec::Pcma])
    }

    /// An offer of these codecs, the preferred one first, and telephone events.
    pub fn offer_codecs(&mut self, direction: Direction, codecs: &[Codec]) -> Vec<u8> {
        self.direction = direction;
        self.rtcp_mux = true;
        let formats = self.formats(codecs);
        self.offered = formats.clone();
        let agreed = self.keys.suite();
        if agreed.is_none() {
            self.keys.renew();
        }
        // What is agreed stays as it is: the key, the suite and the profile.
        self.offered_suites = match (self.srtp, agreed) {
            (SrtpPolicy::Off, _) => Vec::new(),
            (_, Some(suite)) => vec![suite],
            (_, None) => Suite::ALL.to_vec(),
        };
        self.offered_secure = match &self.keys.agreed {
            Some((_, secure, ..)) => *secure,
            None => self.srtp == SrtpPolicy::Required,
        };
        let crypto =
            self.offered_suites.iter().map(|suite| (tag_of(*suite), *suite)).collect::<Vec<_>>();
        let proto = if self.offered_secure { "RTP/SAVP" } else { "RTP/AVP" };
        self.write(proto, &formats, direction, &crypto)
    }

    /// What may come while our last offer waits for its answer: what was agreed, and what is
    /// offered (RFC 3264 5.1, 8.3.2).
    pub fn expected(&self, agreed: media::PayloadTypes) -> media::PayloadTypes {
        agreed.iter().chain(self.offered.all()).collect()
    }

    /// The answer to an offer: its first codec that we speak, its payload types, no more than it
    /// and `direction` allow; the first of its keys that we can use. An offer that this leg's
    /// [`SrtpPolicy`] rules out ([`SdpSession::parse_for`] has not been asked) comes to nothing
    /// sent and nothing received.
    pub fn answer(&mut self, offer: &SdpSession, direction: Direction) -> (Vec<u8>, Agreed) {
        self.lines = offer.lines.clone();
        self.taken = offer.taken;
        self.direction = direction;
        self.learn(&offer.audio);
        let formats = offer.audio.answered();
        let mut agreed = Agreed::of(&offer.audio, formats.table(), direction);
        let crypto = offer.audio.crypto.first().filter(|_| self.srtp != SrtpPolicy::Off);
        match crypto {
            Some(crypto) => {
                let other = self.keys.agreed.as_ref().is_none_or(|(suite, _, theirs, at)| {
                    // Another key and another place is another telephone: it does not know how
                    // far we are under ours.
                    *suite != crypto.key.suite() || *theirs != crypto.key && *at != offer.audio.rtp
                });
                if other {
                    self.keys.renew();
                }
                agreed.srtp = self.keys.agree(&offer.audio, &crypto.key);
            }
            None => self.keys.agreed = None,
        }
        if agreed.srtp.is_none() && (offer.audio.secure || self.srtp == SrtpPolicy::Required) {
            (agreed.remote, agreed.remote_rtcp, agreed.send, agreed.receive) =
                (None, None, false, false);
        }
        self.rtcp_mux = agreed.rtcp_mux;
        let proto = offer.lines.get(offer.taken).map_or("RTP/AVP", |line| line.proto.as_str());
        let direction = Direction::of(agreed.send, agreed.receive);
        let crypto: Vec<(u32, Suite)> =
            crypto.iter().map(|crypto| (crypto.tag, crypto.key.suite())).collect();
        let body = self.write(proto, &formats, direction, &crypto);
        (body, agreed)
    }

    /// What the answer to our last offer comes to. Of its codecs the first counts that we offered.
    pub fn accept(&mut self, answer: &SdpSession) -> Result<Agreed, SdpError> {
        if answer.lines.len() != self.lines.len().max(1) || answer.taken != self.taken {
            return Err(SdpError::Mismatch);
        }
        let mut audio = answer.audio.clone();
        audio
            .codecs
            .retain(|(_, codec)| self.offered.codecs.iter().any(|(_, offered)| offered == codec));
        if audio.codecs.is_empty() {
            return Err(SdpError::Codec);
        }
        let crypto = self.taken_crypto(&audio)?;
        let mut agreed = Agreed::of(&audio, self.offered.answered_by(&audio), self.direction);
        match crypto {
            Some(crypto) => {
                agreed.srtp = Some(self.keys.agree(&audio, &crypto.key).ok_or(SdpError::Crypto)?)
            }
            None => self.keys.agreed = None,
        }
        self.lines = answer.lines.clone();
        self.learn(&answer.audio);
        Ok(agreed)
    }

    /// The key of an answer: of a suite that we offered, under its tag (RFC 4568 5.1.3). None at
    /// all is right where RTP in clear is.
    fn taken_crypto<'a>(&self, answer: &'a Audio) -> Result<Option<&'a Crypto>, SdpError> {
        let fits = |crypto: &&Crypto| {
            let offered = self.offered_suites.contains(&crypto.key.suite());
            offered && crypto.tag == tag_of(crypto.key.suite())
        };
        let taken = answer.crypto.iter().find(fits);
        match taken {
            _ if self.srtp == SrtpPolicy::Off && answer.secure => Err(SdpError::Transport),
            _ if self.srtp == SrtpPolicy::Off => Ok(None),
            _ if self.offered_secure && !answer.secure => Err(SdpError::Transport),
            Some(_) => Ok(taken),
            None if answer.secure || self.srtp == SrtpPolicy::Required => Err(SdpError::Crypto),
            None if answer.unusable_crypto || !answer.crypto.is_empty() => Err(SdpError::Crypto),
            None => Ok(None),
        }
    }

    /// What we offer: these codecs, the events that go with their clocks, and comfort noise if the
    /// session has had any.
    fn formats(&self, codecs: &[Codec]) -> OfferedFormats {
        let mut formats = OfferedFormats::default();
        // As the peer has mapped them first: what has no number of its own takes one that is free.
        for codec in codecs {
            let mapped = self.mapped.iter().find(|(_, known)| known == codec);
            formats.codecs.extend(mapped);
        }
        for codec in codecs {
            if formats.codecs.iter().all(|(_, known)| known != codec) {
                let ours = Some(codec.payload_type())
                    .filter(|ours| self.telephone_events.iter().all(|(known, _)| known != ours));
                let number = self.number(ours, &formats);
                formats.codecs.extend(number.map(|number| (number, *codec)));
            }
        }
        let place = |codec: &Codec| codecs.iter().position(|wanted| wanted == codec);
        formats.codecs.sort_by_key(|(_, codec)| place(codec));
        let has_clock = |clock: u32| codecs.iter().any(|codec| codec.clock() == clock);
        let noise = self.comfort_noise.filter(|_| has_clock(8000));
        formats.comfort_noise =
            noise.filter(|number| formats.numbers().all(|taken| taken != *number));
        for (number, clock) in self.telephone_events {
            if clock == 8000 || has_clock(clock) {
                let number = self.number(Some(number), &formats);
                formats.events.extend(number.map(|number| (number, clock)));
            }
        }
        formats
    }

    /// This number, or where it names something else in the offer or to the peer, one that names
    /// nothing (RFC 3264 8.3.2).
    fn number(&self, wish: Option<u8>, offer: &OfferedFormats) -> Option<u8> {
        let is_taken = |number: u8| {
            let is_mapped = self.mapped.iter().any(|(known, _)| *known == number);
            is_mapped
                || self.comfort_noise == Some(number)
                || offer.numbers().any(|known| known == number)
        };
        let is_wished = |number: u8| {
            let by_events = self.telephone_events.iter().any(|(known, _)| *known == number);
            by_events || Codec::ALL.iter().any(|codec| codec.payload_type() == number)
        };
        let is_free = |number: &u8| !is_taken(*number) && !is_wished(*number);
        wish.filter(|number| !is_taken(*number)).or_else(|| (96..128).find(is_free))
    }

    /// The payload types that the peer has chosen are ours from now on.
    fn learn(&mut self, audio: &Audio) {
        // The first of two that he has for one codec counts; and what he maps now, over what he
        // mapped before.
        for (theirs, codec) in audio.codecs.iter().rev() {
            self.mapped.retain(|(payload_type, known)| known != codec && payload_type != theirs);
            self.mapped.push((*theirs, *codec));
        }
        for (ours, clock) in &mut self.telephone_events {
            if let Some((theirs, _)) =
                audio.telephone_events.iter().find(|(_, known)| known == clock)
            {
                *ours = *theirs;
            }
        }
        self.comfort_noise = audio.comfort_noise.or(self.comfort_noise);
        self.annex_b &= audio.annex_b;
    }

    fn write(
        &mut self,
        proto: &str,
        formats: &OfferedFormats,
        direction: Direction,
        crypto: &[(u32, Suite)],
    ) -> Vec<u8> {
        let types = formats.numbers();
        let types: Vec<String> = types.map(|it| it.to_string()).collect();
        let mut audio = line("audio", self.address.port(), proto, &types.join(" "));
        for (payload_type, codec) in &formats.codecs {
            let channels =
                if codec.channels() > 1 { format!("/{}", codec.channels()) } else { String::new() };
            audio.add_attribute_with_value(
                "rtpmap",
                format!("{payload_type} {}/{}{channels}", codec.name(), codec.clock()),
            );
            let parameters = match codec {
                Codec::Opus => Some("useinbandfec=1"),
                Codec::G729 if self.annex_b => Some("annexb=yes"),
                Codec::G729 => Some("annexb=no"),
                Codec::Pcmu | Codec::Pcma | Codec::G722 | Codec::L16 => None,
            };
            if let Some(parameters) = parameters {
                audio.add_attribute_with_value("fmtp", format!("{payload_type} {parameters}"));
            }
        }
        if let Some(payload_type) = formats.comfort_noise {
            audio.add_attribute_with_value("rtpmap", format!("{payload_type} CN/8000"));
        }
        for (payload_type, clock) in &formats.events {
            audio.add_attribute_with_value(
                "rtpmap",
                format!("{payload_type} telephone-event/{clock}"),
            );
            audio.add_attribute_with_value("fmtp", format!("{payload_type} 0-15"));
        }
        if self.rtcp_mux {
            audio.add_attribute(Attribute::new("rtcp-mux"));
        }
        for (tag, suite) in crypto {
            if let Some(key) = self.keys.key(*suite) {
                let inline = Zeroizing::new(BASE64.encode(key.material()));
                audio.add_attribute_with_value(
                    "crypto",
                    format!("{tag} {} inline:{}", suite.name(), *inline),
                );
            }
        }
        audio.add_attribute_with_value("ptime", 20);
        audio.add_attribute(Attribute::new(direction.name()));
        let mut session = sdp_types::Session::new(
            Origin::with_ip_addr(self.id, self.version, self.address.ip()),
            "-",
        );
        session.connection = Some(Connection::from_ip_addr(self.address.ip()));
        session.times = vec![Time::new(0, 0)];
        session.medias =
            self.lines.iter().map(|it| line(&it.media, 0, &it.proto, it.formats())).collect();
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

impl OfferedFormats {
    /// The payload types in the order of our descriptions.
    fn numbers(&self) -> impl Iterator<Item = u8> {
        let codecs = self.codecs.iter().map(|(number, _)| *number);
        let events = self.events.iter().map(|(number, _)| *number);
        codecs.chain(self.comfort_noise).chain(events)
    }

    /// Each payload type with its format.
    fn all(&self) -> impl Iterator<Item = (u8, Format)> {
        let codecs = self.codecs.iter().map(|(number, codec)| (*number, Format::Audio(*codec)));
        let noise = self.comfort_noise.map(|number| (number, Format::ComfortNoise));
        let events = self.events.iter().filter_map(|(number, clock)| {
            let clock = EventClock::of(*clock)?;
            Some((*number, Format::Events(clock)))
        });
        codecs.chain(noise).chain(events)
    }

    fn table(&self) -> media::PayloadTypes {
        self.all().collect()
    }

    /// What a peer may send that has answered this offer.
    fn answered_by(&self, answer: &Audio) -> media::PayloadTypes {
        let answered = OfferedFormats {
            codecs: answer.codecs.clone(),
            events: answer.telephone_events.clone(),
            // Whoever names it sends it, offered or not, and it names nothing else.
            comfort_noise: answer.comfort_noise,
        };
        let in_both =
            self.all().filter(|(_, format)| answered.all().any(|(_, other)| other == *format));
        let was_offered = |format: Format| {
            format == Format::ComfortNoise || self.all().any(|(_, other)| other == format)
        };
        let theirs = answered.all().filter(|(_, format)| was_offered(*format));
        in_both.chain(theirs).collect()
    }
}

impl Audio {
    /// What our answer to this offer lists: its first codec, and what goes with it.
    fn answered(&self) -> OfferedFormats {
        let codec = self.codecs.first().copied();
        OfferedFormats {
            codecs: codec.into_iter().collect(),
            events: codec.and_then(|(_, codec)| self.events_for(codec)).into_iter().collect(),
            comfort_noise: self
                .comfort_noise
                .filter(|_| codec.is_some_and(|(_, codec)| codec.clock() == 8000)),
        }
    }
}

impl SdpLine {
    /// Its formats, as they may be said again: a media line has one at least.
    fn formats(&self) -> &str {
        if self.fmt == NO_FORMAT { "0" } else { &self.fmt }
    }
}

fn bytes_of(session: &sdp_types::Session) -> Vec<u8> {
    let mut bytes = Vec::new();
    // Writing into memory does not fail.
    let _ = session.write(&mut bytes);
    bytes
}

fn line(media: &str, port: u16, proto: &str, fmt: &str) -> Media {
    let mut line =
        Media::new(sdp_types::MediaType::Audio, port, sdp_types::TransportProto::RtpAvp, fmt);
    line.media = media.to_owned();
    line.proto = proto.to_owned();
    line
}
