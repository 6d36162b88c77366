//! The machine of a call, by subject; here its harness: one call under a clock of its own, and
//! three phones.

mod dtmf;
mod encrypted;
mod formats;
mod hearing;
mod joins;
mod mixing;
mod noise;
mod numbers;
mod pacing;
mod properties;
mod relay;
mod relayed;
mod reports;
mod sources;

use super::*;
use crate::media::hearing::{HearingRole, HearingRules};
use crate::media::payload_types::EventClock;
use crate::model::{Activity, Timestamp};

const AGENT: LegId = LegId(1);
const CUSTOMER: LegId = LegId(2);
const SUPERVISOR: LegId = LegId(3);
const LEGS: [LegId; 3] = [AGENT, CUSTOMER, SUPERVISOR];
const MS: Duration = Duration::from_millis(1);
const TELEPHONE_EVENT: u8 = 101;

/// A packet that left.
#[derive(Clone, Debug)]
struct Heard {
    listener: LegId,
    sent: TransmitKind,
    at: Duration,
    rtp: ReceivedRtp,
    payload: Vec<u8>,
}

impl Heard {
    fn samples(&self, codec: Codec) -> Vec<i16> {
        let mut samples = vec![0; MAX_DECODED];
        let count = Decoder::new(codec).decode(&self.payload, &mut samples);
        samples.truncate(count);
        samples
    }
}

/// A call under a clock of its own, and phones that count their packets.
struct Harness {
    call: Call,
    start: Instant,
    now: Duration,
    codecs: [Codec; 3],
    phones: [(u16, u32); 3],
    heard: Vec<Heard>,
    /// RTCP that left, as it went.
    reports: Vec<Report>,
    qualities: Vec<(LegId, Quality)>,
    events: Vec<MediaEvent>,
    activity: Option<Activity>,
    /// The customer does not hear the agent.
    is_muted: bool,
}

/// RTCP that left.
#[derive(Clone, Debug)]
struct Report {
    listener: LegId,
    at: Duration,
    to: SocketAddr,
    muxed: bool,
    bytes: Vec<u8>,
}

#[expect(clippy::disallowed_methods, reason = "an arbitrary origin of the test's clock")]
fn start() -> Instant {
    Instant::now()
}

fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, index as u8 + 1], 4000))
}

fn media(index: usize, codec: Codec) -> LegMedia {
    LegMedia {
        remote: Some(address(index)),
        remote_rtcp: None,
        rtcp_mux: false,
        codec,
        payload_type: codec.payload_type(),
        dtmf_pt: Some(TELEPHONE_EVENT),
        dtmf_clock: 8000,
        comfort_noise: None,
        receives: PayloadTypes::of(&[
            (codec.payload_type(), Format::Audio(codec)),
            (TELEPHONE_EVENT, Format::Events(EventClock::Narrow)),
            (13, Format::ComfortNoise),
        ]),
        send: true,
        receive: true,
        nat: false,
    }
}

fn hearing(activity: Option<Activity>) -> Hearing {
    let mut roles = vec![(AGENT, HearingRole::Agent), (CUSTOMER, HearingRole::Customer)];
    if let Some(activity) = activity {
        let coached = Some(AGENT);
        let agent_side_only = false;
        roles.push((SUPERVISOR, HearingRole::Supervisor { activity, coached, agent_side_only }));
    }
    Hearing::of(&roles)
}

impl Harness {
    fn new(codecs: [Codec; 3], activity: Option<Activity>) -> Self {
        let start = start();
        let mut call = Call::new(CallKey(7), CallConfig::default());
        for (index, name) in LEGS.into_iter().enumerate() {
            let numbers = StreamStart {
                ssrc: 100 + index as u32,
                sequence: 65_500,
                timestamp: u32::MAX - 1000,
                reports: (index as u128) << 96,
            };
            assert_eq!(call.put(Leg::new(name, numbers, start), start).unwrap(), index);
            call.handle_describe(name, media(index, codecs[index]), start);
        }
        call.handle_hear(hearing(activity), start);
        Self {
            call,
            start,
            now: Duration::ZERO,
            codecs,
            phones: [(0, 0); 3],
            heard: Vec::new(),
            reports: Vec::new(),
            qualities: Vec::new(),
            events: Vec::new(),
            activity,
            is_muted: false,
        }
    }

    fn pcmu(activity: Option<Activity>) -> Self {
        Self::new([Codec::Pcmu; 3], activity)
    }

    fn time(&self) -> Instant {
        self.start + self.now
    }

    fn hear(&mut self, activity: Option<Activity>) {
        self.activity = activity;
        let hearing = match self.is_muted {
            true => hearing(activity).cell(CUSTOMER, AGENT, None),
            false => hearing(activity),
        };
        self.call.handle_hear(hearing, self.time());
    }

    /// Mutes the agent toward the customer, as the B2BUA does it: by the allow-list.
    fn mute(&mut self, is_muted: bool) {
        self.is_muted = is_muted;
        self.hear(self.activity);
    }

    /// Lets time pass, with everything that becomes due.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(due) =
            self.call.poll_timeout().map(|at| at.saturating_duration_since(self.start))
        {
            if due > until {
                break;
            }
            self.now = self.now.max(due);
            let now = Now { mono: self.time(), wall: Timestamp(self.now.as_millis() as u64) };
            let (at, heard, reports) = (self.now, &mut self.heard, &mut self.reports);
            self.call.handle_timeout(now, &mut |packet| match packet.sent {
                TransmitKind::Rtcp => reports.push(Report {
                    listener: LEGS[packet.slot],
                    at,
                    to: packet.to,
                    muxed: packet.muxed,
                    bytes: packet.bytes.to_vec(),
                }),
                _ => note(heard, at, packet),
            });
            self.drain();
        }
        self.now = until;
    }

    fn drain(&mut self) {
        while let Some(event) = self.call.poll_event() {
            match event {
                MediaEvent::Quality { leg, quality } => self.qualities.push((leg, quality)),
                event => self.events.push(event),
            }
        }
    }

    fn datagram(&mut self, index: usize, from: SocketAddr, mut bytes: Vec<u8>) -> PacketVerdict {
        let (now, at, heard) = (self.time(), self.now, &mut self.heard);
        let verdict = self
            .call
            .handle_rtp(index, from, &mut bytes, now, &mut |packet| note(heard, at, packet));
        self.drain();
        verdict
    }

    fn payload(&mut self, index: usize, payload_type: u8, payload: &[u8]) -> PacketVerdict {
        let (sequence, timestamp) = self.phones[index];
        self.phones[index] =
            (sequence.wrapping_add(1), timestamp.wrapping_add(payload.len() as u32));
        self.datagram(
            index,
            address(index),
            packet(index, payload_type, sequence, timestamp, payload),
        )
    }

    /// The phone says a payload of its codec.
    fn speak(&mut self, index: usize, payload: &[u8]) -> PacketVerdict {
        let (sequence, timestamp) = self.phones[index];
        let codec = self.codecs[index];
        let ticks = codec.ticks(payload).unwrap();
        self.phones[index] = (sequence.wrapping_add(1), timestamp.wrapping_add(ticks));
        self.datagram(
            index,
            address(index),
            packet(index, codec.payload_type(), sequence, timestamp, payload),
        )
    }

    /// The phone says 20 ms of one level.
    fn say(&mut self, index: usize, level: i16) -> PacketVerdict {
        let codec = self.codecs[index];
        let mut payload = [0; 160];
        Encoder::new(codec).encode(&[level; 160], &mut payload);
        self.payload(index, codec.payload_type(), &payload)
    }

    /// The phone loses its packet on the way.
    fn lose(&mut self, index: usize) {
        let (sequence, timestamp) = self.phones[index];
        self.phones[index] = (sequence.wrapping_add(1), timestamp.wrapping_add(160));
    }

    fn to(&self, listener: LegId) -> impl Iterator<Item = &Heard> {
        self.heard.iter().filter(move |heard| heard.listener == listener)
    }

    fn last(&self, listener: LegId) -> &Heard {
        self.to(listener).last().unwrap()
    }

    fn stats(&self, leg: LegId) -> LegStats {
        self.call.leg(leg).unwrap().stats()
    }
}

fn note(heard: &mut Vec<Heard>, at: Duration, packet: Transmit<'_>) {
    assert_eq!(packet.to.ip(), address(packet.slot).ip(), "sent to a stranger");
    if packet.sent != TransmitKind::Rtcp {
        let rtp = rtp::parse(packet.bytes).unwrap();
        heard.push(Heard {
            listener: LEGS[packet.slot],
            sent: packet.sent,
            at,
            payload: packet.bytes[rtp.payload.clone()].to_vec(),
            rtp,
        });
    }
}

fn packet(
    index: usize,
    payload_type: u8,
    sequence: u16,
    timestamp: u32,
    payload: &[u8],
) -> Vec<u8> {
    let header =
        RtpHeader { marker: false, payload_type, sequence, timestamp, ssrc: 7000 + index as u32 };
    [&header.to_bytes(), payload].concat()
}

/// Levels that no sum of others can be taken for.
const AGENT_LEVEL: i16 = 1000;
const CUSTOMER_LEVEL: i16 = 4000;
const SUPERVISOR_LEVEL: i16 = 12_000;
const LEVELS: [i16; 3] = [AGENT_LEVEL, CUSTOMER_LEVEL, SUPERVISOR_LEVEL];

fn is_about(sample: i16, level: i32) -> bool {
    (i32::from(sample) - level).abs() <= 64 + level.abs() / 16
}

/// A stream of a phone: a tone of its own, coded once and said packet by packet.
struct Voice {
    encoder: Encoder,
    codec: Codec,
    hertz: f64,
    said: usize,
}

impl Voice {
    fn new(codec: Codec, hertz: f64) -> Self {
        Self { encoder: Encoder::new(codec), codec, hertz, said: 0 }
    }

    /// The next 20 ms.
    fn next(&mut self) -> Vec<u8> {
        let rate = self.codec.sample_rate() as usize;
        let sample = |n: usize| {
            (6000.0 * (std::f64::consts::TAU * self.hertz * n as f64 / rate as f64).sin()) as i16
        };
        let samples: Vec<i16> = (self.said..self.said + rate / 50).map(sample).collect();
        self.said += rate / 50;
        let mut payload = [0; MAX_PAYLOAD];
        let len = self.encoder.encode(&samples, &mut payload);
        payload[..len].to_vec()
    }
}

const TONES: [f64; 3] = [400.0, 700.0, 1100.0];

/// The level of a tone in what a phone heard, in dB below what was said; the first half second is
/// left out.
fn level_of(harness: &Harness, listener: usize, hertz: f64) -> f64 {
    let codec = harness.codecs[listener];
    let rate = f64::from(codec.sample_rate());
    let mut decoder = Decoder::new(codec);
    let mut heard = Vec::new();
    for packet in harness.to(LEGS[listener]) {
        let mut samples = [0; MAX_DECODED];
        let count = decoder.decode(&packet.payload, &mut samples);
        heard.extend_from_slice(&samples[..count]);
    }
    let heard = &heard[heard.len() / 4..];
    let (mut re, mut im) = (0.0, 0.0);
    for (n, sample) in heard.iter().enumerate() {
        let phase = std::f64::consts::TAU * hertz * n as f64 / rate;
        re += f64::from(*sample) * phase.cos();
        im += f64::from(*sample) * phase.sin();
    }
    20.0 * (2.0 * re.hypot(im) / heard.len() as f64 / 6000.0).log10()
}

fn converse(codecs: [Codec; 3], activity: Option<Activity>) -> Harness {
    converse_over(codecs, activity, |_| false)
}

/// The same when the network loses some of the supervisor's packets.
fn converse_over(
    codecs: [Codec; 3],
    activity: Option<Activity>,
    loses: impl Fn(u32) -> bool,
) -> Harness {
    let mut harness = Harness::new(codecs, activity);
    let mut voices: [Voice; 3] =
        std::array::from_fn(|index| Voice::new(codecs[index], TONES[index]));
    for round in 0..150 {
        for (index, voice) in voices.iter_mut().enumerate() {
            let payload = voice.next();
            if index == 2 && loses(round) {
                let ticks = codecs[index].clock() / 50;
                let (sequence, timestamp) = harness.phones[index];
                harness.phones[index] = (sequence.wrapping_add(1), timestamp.wrapping_add(ticks));
                continue;
            }
            assert_eq!(harness.speak(index, &payload), PacketVerdict::Accepted);
        }
        harness.pass(20 * MS);
    }
    harness
}

/// PCMU, PCMA and Opus under two numbers each, events of two clocks, and comfort noise.
const SEVERAL: [(u8, Format); 10] = [
    (0, Format::Audio(Codec::Pcmu)),
    (8, Format::Audio(Codec::Pcma)),
    (9, Format::Audio(Codec::G722)),
    (97, Format::Audio(Codec::Opus)),
    (111, Format::Audio(Codec::Opus)),
    (96, Format::Events(EventClock::Narrow)),
    (TELEPHONE_EVENT, Format::Events(EventClock::Narrow)),
    (100, Format::Events(EventClock::Full)),
    (13, Format::ComfortNoise),
    (98, Format::ComfortNoise),
];

fn several(index: usize, sent: Codec) -> LegMedia {
    LegMedia { receives: PayloadTypes::of(&SEVERAL), ..media(index, sent) }
}

impl Harness {
    /// The phone says 20 ms of one level in a codec, under a number; `encoder` is the codec's.
    fn say_in(
        &mut self,
        index: usize,
        number: u8,
        encoder: &mut (Codec, Encoder),
        level: i16,
    ) -> PacketVerdict {
        let (codec, encoder) = encoder;
        let samples = vec![level; codec.sample_rate() as usize / 50];
        let mut payload = [0; MAX_PAYLOAD];
        let len = encoder.encode(&samples, &mut payload);
        let (sequence, timestamp) = self.phones[index];
        self.phones[index] = (sequence.wrapping_add(1), timestamp.wrapping_add(codec.clock() / 50));
        self.datagram(
            index,
            address(index),
            packet(index, number, sequence, timestamp, &payload[..len]),
        )
    }
}

fn encoder(codec: Codec) -> (Codec, Encoder) {
    (codec, Encoder::new(codec))
}
