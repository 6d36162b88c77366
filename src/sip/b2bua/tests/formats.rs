//! What may come over a leg after any run of offers and answers: RFC 3264 5.1, 6.1, 7 and 8.3.2.
//!
//! A naive model reads nothing but the texts of offer and answer. Whatever a conforming peer may
//! send by them arrives at the other party, and no other payload type does.

use super::super::codec_selection::media_of;
use super::super::media_address::MediaDestination;
use crate::media::call::{Call, CallConfig, Leg, PacketVerdict, StreamStart, TransmitKind};
use crate::media::codec::Encoder;
use crate::media::rtp::{self, MAX_PAYLOAD, RtpHeader};
use crate::media::{
    CallKey, Codec, EventClock, Format, Hearing, HearingRole, LegId, LegMedia, PayloadTypes,
    SourceRule,
};
use crate::sip::sdp::{Direction, Local, SdpSession};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const PEER: LegId = LegId(0);
const OTHER: LegId = LegId(1);

/// Payload types and what they name, as a description says: `opus/48000/2`.
type Table = BTreeMap<u8, String>;

/// What a description lists, read with nothing but string functions.
fn table(body: &[u8]) -> Table {
    let text = String::from_utf8(body.to_vec()).unwrap().to_lowercase();
    let media = text.lines().find_map(|line| line.strip_prefix("m=audio ")).unwrap();
    let listed = media.split(' ').skip(2).map(|number| number.parse::<u8>().unwrap());
    let name = |number: u8| {
        let map = format!("a=rtpmap:{number} ");
        text.lines().find_map(|line| line.strip_prefix(&map)).unwrap().to_owned()
    };
    listed.map(|number| (number, name(number))).collect()
}

fn format_of(name: &str) -> Option<Format> {
    Some(match name {
        "pcmu/8000" => Format::Audio(Codec::Pcmu),
        "pcma/8000" => Format::Audio(Codec::Pcma),
        "g722/8000" => Format::Audio(Codec::G722),
        "opus/48000/2" => Format::Audio(Codec::Opus),
        "l16/16000" => Format::Audio(Codec::L16),
        "g729/8000" => Format::Audio(Codec::G729),
        "telephone-event/8000" => Format::Events(EventClock::Narrow),
        "telephone-event/16000" => Format::Events(EventClock::Wide),
        "telephone-event/48000" => Format::Events(EventClock::Full),
        "cn/8000" => Format::ComfortNoise,
        _ => return None,
    })
}

const NAMES: [&str; 11] = [
    "PCMU/8000",
    "PCMA/8000",
    "G722/8000",
    "opus/48000/2",
    "L16/16000",
    "telephone-event/8000",
    "telephone-event/48000",
    "telephone-event/16000",
    "CN/8000",
    "G729/8000",
    "G728/8000",
];

/// A description of the peer's: formats in an order, each under a number.
#[derive(Clone, Debug)]
struct Description {
    formats: Vec<(usize, u8)>,
}

impl Description {
    fn body(&self, keep: impl Fn(&str) -> bool) -> Option<Vec<u8>> {
        let kept: Vec<(u8, &str)> = self
            .formats
            .iter()
            .map(|(name, number)| (*number, NAMES[*name]))
            .filter(|(_, name)| keep(name))
            .collect();
        let is_codec =
            |name: &str| matches!(format_of(&name.to_lowercase()), Some(Format::Audio(_)));
        kept.iter().any(|(_, name)| is_codec(name)).then(|| {
            let numbers: String = kept.iter().map(|(number, _)| format!(" {number}")).collect();
            let maps: String =
                kept.iter().map(|(number, name)| format!("a=rtpmap:{number} {name}\r\n")).collect();
            format!(
                "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
                 m=audio 4000 RTP/AVP{numbers}\r\n{maps}"
            )
            .into_bytes()
        })
    }
}

fn description() -> impl Strategy<Value = Description> {
    let order = Just((0..NAMES.len()).collect::<Vec<_>>()).prop_shuffle();
    let numbers = Just((94..124).collect::<Vec<u8>>()).prop_shuffle();
    // Numbers of ours are taken often, so that they come to name two things.
    let ours = Just(vec![111, 112, 101, 100, 99, 96, 97]).prop_shuffle();
    (order, numbers, ours, 1..=NAMES.len(), any::<[u8; NAMES.len()]>()).prop_map(
        |(order, numbers, ours, len, how)| {
            let mut taken = BTreeSet::new();
            let mut free = numbers.into_iter();
            let mut formats = Vec::new();
            for name in order.into_iter().take(len) {
                let own = match NAMES[name] {
                    "PCMU/8000" => Some(0),
                    "PCMA/8000" => Some(8),
                    "G722/8000" => Some(9),
                    "CN/8000" => Some(13),
                    "G729/8000" => Some(18),
                    _ => None,
                };
                let wish = match how[name] % 4 {
                    0 | 1 => own.or_else(|| ours.get(usize::from(how[name] >> 4)).copied()),
                    2 => ours.get(usize::from(how[name] >> 5)).copied(),
                    _ => None,
                };
                let number = wish
                    .filter(|number| !taken.contains(number))
                    .or_else(|| free.find(|number| !taken.contains(number)));
                let Some(number) = number else { continue };
                taken.insert(number);
                formats.push((name, number));
            }
            Description { formats }
        },
    )
}

/// One exchange in the life of a leg.
#[derive(Clone, Debug)]
enum Step {
    /// The peer offers this.
    Theirs(Description),
    /// We offer these codecs, and the peer's answer is this, as far as it may be.
    Ours(Vec<Codec>, Description, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let codecs =
        (Just(Codec::ALL.to_vec()).prop_shuffle(), 1usize..=6).prop_map(|(mut codecs, len)| {
            codecs.truncate(len);
            codecs
        });
    prop_oneof![
        description().prop_map(Step::Theirs),
        (codecs, description(), any::<bool>())
            .prop_map(|(codecs, answer, more)| Step::Ours(codecs, answer, more)),
    ]
}

#[expect(clippy::disallowed_methods, reason = "an arbitrary origin of the test's clock")]
fn start() -> Instant {
    Instant::now()
}

/// A call of the peer with a party that speaks PCMU.
struct Line {
    call: Call,
    now: Instant,
    sequence: u16,
}

impl Line {
    fn new() -> Line {
        let now = start();
        let mut call = Call::new(CallKey(1), CallConfig::default());
        for leg in [PEER, OTHER] {
            let numbers = StreamStart { ssrc: leg.0 as u32, sequence: 1, timestamp: 1, reports: 1 };
            assert!(call.put(Leg::new(leg, numbers, now), now).is_ok());
        }
        let other = LegMedia {
            remote: Some("192.0.2.2:5000".parse().unwrap()),
            remote_rtcp: None,
            rtcp_mux: false,
            codec: Codec::Pcmu,
            payload_type: 0,
            dtmf_pt: Some(110),
            dtmf_clock: 8000,
            comfort_noise: None,
            receives: PayloadTypes::of(&[(0, Format::Audio(Codec::Pcmu))]),
            send: true,
            receive: true,
            nat: false,
        };
        call.handle_describe(OTHER, other, now);
        call.handle_hear(
            Hearing::of(&[(PEER, HearingRole::Agent), (OTHER, HearingRole::Customer)]),
            now,
        );
        Line { call, now, sequence: 0 }
    }

    /// A packet of the peer's under this number, which names that; what becomes of it, and what the
    /// other party gets.
    fn say(
        &mut self,
        number: u8,
        format: Option<Format>,
    ) -> (PacketVerdict, Vec<(TransmitKind, u8)>) {
        self.now += Duration::from_millis(20);
        self.sequence = self.sequence.wrapping_add(1);
        let mut payload = [0; MAX_PAYLOAD];
        let len = match format {
            Some(Format::Audio(Codec::G729)) => 20,
            Some(Format::Audio(codec)) => Encoder::new(codec)
                .encode(&vec![900; codec.sample_rate() as usize / 50], &mut payload),
            Some(Format::ComfortNoise) => {
                payload[0] = 60;
                1
            }
            Some(Format::Events(_)) | None => {
                payload[..4].copy_from_slice(&[5, 10, 0, 160]);
                4
            }
        };
        let header = RtpHeader {
            marker: false,
            payload_type: number,
            sequence: self.sequence,
            timestamp: u32::from(self.sequence) * 160,
            ssrc: 7,
        };
        let mut packet = [&header.to_bytes(), &payload[..len]].concat();
        let mut sent = Vec::new();
        let from = "192.0.2.1:4000".parse().unwrap();
        let verdict = self.call.handle_rtp(0, from, &mut packet, self.now, &mut |packet| {
            assert_eq!(packet.slot, 1);
            sent.push((packet.sent, rtp::parse(packet.bytes).unwrap().payload_type));
        });
        (verdict, sent)
    }

    /// Every number there is: what may come arrives, and nothing else does.
    fn hold_against(&mut self, may_come: &BTreeMap<u8, Format>) {
        // What was agreed before is over.
        self.now += Duration::from_secs(3);
        for number in (0..128).chain((0..128).rev()) {
            let format = may_come.get(&number).copied();
            let (verdict, sent) = self.say(number, format);
            let (expected, arrives) = match format {
                Some(Format::Audio(Codec::Pcmu)) => {
                    (PacketVerdict::Accepted, vec![(TransmitKind::Unchanged, 0)])
                }
                // In place of what is not decoded: silence.
                Some(Format::Audio(Codec::G729)) => {
                    (PacketVerdict::Accepted, vec![(TransmitKind::Guarded, 0)])
                }
                Some(Format::Audio(_)) => {
                    (PacketVerdict::Accepted, vec![(TransmitKind::Transcoded, 0)])
                }
                Some(Format::Events(_)) => {
                    (PacketVerdict::Accepted, vec![(TransmitKind::Unchanged, 110)])
                }
                Some(Format::ComfortNoise) => (PacketVerdict::Accepted, Vec::new()),
                None => (PacketVerdict::Malformed, Vec::new()),
            };
            assert_eq!((verdict, sent), (expected, arrives), "{number} of {may_come:?}");
        }
    }
}

fn formats(table: &Table) -> impl Iterator<Item = (u8, Format)> + '_ {
    table.iter().filter_map(|(number, name)| Some((*number, format_of(name)?)))
}

/// RFC 3264 7: who has offered sends what the answer lists, by its numbers.
fn after_answer(answer: &Table) -> BTreeMap<u8, Format> {
    formats(answer).collect()
}

/// RFC 3264 6.1: who has answered sends what both list, by the numbers of the offer; many do by
/// those of the answer.
fn after_offer(offer: &Table, answer: &Table) -> BTreeMap<u8, Format> {
    let in_both = |format: Format| {
        formats(offer).any(|(_, other)| other == format)
            && formats(answer).any(|(_, other)| other == format)
    };
    let theirs = formats(answer).filter(|(_, format)| in_both(*format));
    let ours = formats(offer).filter(|(_, format)| in_both(*format));
    theirs.chain(ours).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_conforming_peer_may_send_is_heard_and_nothing_else_is(
        steps in proptest::collection::vec(step(), 1..4)
    ) {
        let mut line = Line::new();
        let mut local = Local::new(1, "192.0.2.9:20000".parse().unwrap());
        for step in steps {
            let (agreed, may_come) = match step {
                Step::Theirs(offer) => {
                    let Some(body) = offer.body(|_| true) else { continue };
                    let offer = SdpSession::parse(&body).unwrap();
                    let (answer, agreed) = local.answer(&offer, Direction::SendRecv);
                    (agreed, after_answer(&table(&answer)))
                }
                Step::Ours(codecs, answer, more) => {
                    let offer = table(&local.offer_codecs(Direction::SendRecv, &codecs));
                    let offered = |name: &str| {
                        offer.values().any(|offered| *offered == name.to_lowercase())
                    };
                    // An answer may list what was not offered besides (RFC 3264 6.1); nobody may
                    // send that.
                    let Some(body) =
                        answer.body(|name| offered(name) || more && !name.starts_with("CN"))
                    else {
                        continue;
                    };
                    let answer = SdpSession::parse(&body).unwrap();
                    let Ok(agreed) = local.accept(&answer) else {
                        let has_codec = formats(&table(&body)).any(|(_, format)| matches!(
                            format,
                            Format::Audio(codec) if codecs.contains(&codec)
                        ));
                        prop_assert!(!has_codec);
                        continue;
                    };
                    (agreed, after_offer(&offer, &table(&body)))
                }
            };
            let aim = MediaDestination {
                remote: agreed.remote,
                remote_rtcp: agreed.remote_rtcp,
                nat: false,
                rule: SourceRule::default(),
            };
            let media = media_of(&agreed, &aim);
            prop_assert_eq!(media.receives.number_of(agreed.codec).is_some(), true);
            line.call.handle_describe(PEER, media, line.now);
            line.hold_against(&may_come);
        }
    }
}
