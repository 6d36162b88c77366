//! The way of a packet takes no memory: in the machine of a call, whatever its codecs and its
//! troubles, and in the thread that runs it.

use crate::support::allocations;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use undertone::clock;
use undertone::media::call::{Call, CallConfig, Leg, PacketVerdict, StreamStart};
use undertone::media::codec::{Codec, Decoder, Encoder, MAX_DECODED};
use undertone::media::srtp::{Keys, MasterKey, Protect, Suite};
use undertone::media::{CallKey, EventClock, Format, Hearing, HearingRole, LegId, LegMedia, Music};
use undertone::model::{Activity, Now, Timestamp};
use undertone::sip::flow::{ConnectionId, Flow, Protocol};
use undertone::sip::peer::{Peer, ReturnPath};
use undertone::sip::transaction::{
    Bounds, ReceivedVia, ServerKey, Timing, TransactionKind, Transactions,
};

const LEGS: [LegId; 3] = [LegId(1), LegId(2), LegId(3)];
const FRAME: Duration = Duration::from_millis(20);

fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, index as u8 + 1], 4000))
}

fn keys(index: usize) -> Option<Keys> {
    let suite = [Suite::AesCm128HmacSha1_80, Suite::AeadAes128Gcm, Suite::AeadAes256Gcm][index];
    let key = MasterKey::new(suite, &[index as u8; 64][..suite.material_len()])?;
    Some(Keys { ours: key.clone(), theirs: key })
}

fn media(index: usize, codec: Codec) -> LegMedia {
    LegMedia {
        remote: Some(address(index)),
        remote_rtcp: None,
        rtcp_mux: true,
        codec,
        payload_type: codec.payload_type(),
        dtmf_pt: Some(101),
        dtmf_clock: 8000,
        comfort_noise: Some(13),
        receives: Codec::ALL
            .into_iter()
            .map(|codec| (codec.payload_type(), Format::Audio(codec)))
            .chain([(101, Format::Events(EventClock::Narrow)), (13, Format::ComfortNoise)])
            .collect(),
        send: true,
        receive: true,
        nat: false,
    }
}

/// 20 ms in a codec.
fn payload(codec: Codec) -> Vec<u8> {
    let samples: Vec<i16> =
        (0..codec.sample_rate() / 50).map(|n| ((n * 331) % 6000) as i16).collect();
    let mut payload = vec![0; 1400];
    let len = match codec {
        // Frames of no meaning: nobody codes it here.
        Codec::G729 => 20,
        _ => Encoder::new(codec).encode(&samples, &mut payload),
    };
    payload.truncate(len);
    payload
}

fn hearing(activity: Option<Activity>) -> Hearing {
    let mut roles = vec![(LEGS[0], HearingRole::Agent), (LEGS[1], HearingRole::Customer)];
    if let Some(activity) = activity {
        let supervisor =
            HearingRole::Supervisor { activity, coached: Some(LEGS[0]), agent_side_only: false };
        roles.push((LEGS[2], supervisor));
    }
    Hearing::of(&roles)
}

/// A call whose three phones talk, and a network that loses, doubles, delays and swaps.
struct Talk {
    call: Call,
    start: Instant,
    codecs: [Codec; 3],
    payloads: [Vec<u8>; 3],
    protects: Option<[Protect; 3]>,
    sent: [u32; 3],
    round: u32,
    out: u64,
    /// The phones change to another codec at every third packet.
    turns: Option<(Codec, Vec<u8>)>,
}

impl Talk {
    fn new(codecs: [Codec; 3], activity: Option<Activity>, is_secure: bool) -> Self {
        let start = clock::instant();
        let config =
            CallConfig { rtcp_interval: Duration::from_millis(200), ..CallConfig::default() };
        let mut call = Call::new(CallKey(1), config);
        for (index, name) in LEGS.into_iter().enumerate() {
            let numbers = StreamStart {
                ssrc: index as u32,
                sequence: 1,
                timestamp: 1,
                reports: index as u128,
            };
            call.put(Leg::new(name, numbers, start), start).expect("a place");
            call.handle_keys(name, keys(index).filter(|_| is_secure).as_ref());
            call.handle_describe(name, media(index, codecs[index]), start);
        }
        call.handle_hear(hearing(activity), start);
        let payloads = codecs.map(payload);
        Self {
            call,
            start,
            codecs,
            payloads,
            protects: is_secure
                .then(|| [0, 1, 2].map(|index| Protect::new(&keys(index).expect("keys").theirs))),
            sent: [0; 3],
            round: 0,
            out: 0,
            turns: None,
        }
    }

    fn turning_to(mut self, codec: Codec) -> Self {
        self.turns = Some((codec, payload(codec)));
        self
    }

    fn say(
        &mut self,
        index: usize,
        number: u32,
        payload_type: u8,
        payload: Option<&[u8]>,
        now: Instant,
    ) {
        let ticks = self.codecs[index].clock() / 50;
        let mut packet = [0; 1500];
        packet[0] = 0x80;
        packet[1] = payload_type;
        packet[2..4].copy_from_slice(&(number as u16).to_be_bytes());
        packet[4..8].copy_from_slice(&number.wrapping_mul(ticks).to_be_bytes());
        packet[8..12].copy_from_slice(&(index as u32 + 7).to_be_bytes());
        let payload = payload.unwrap_or(&self.payloads[index]);
        let len = 12 + payload.len();
        packet[12..len].copy_from_slice(payload);
        let mut protected = [0; 1500];
        let len = match &mut self.protects {
            Some(protects) => match protects[index].protect_rtp(&packet[..len], &mut protected) {
                Some(bytes) => bytes.len(),
                // A packet that was sent already is not protected twice.
                None => return,
            },
            None => {
                protected[..len].copy_from_slice(&packet[..len]);
                len
            }
        };
        let (call, out) = (&mut self.call, &mut self.out);
        let verdict =
            call.handle_rtp(index, address(index), &mut protected[..len], now, &mut |_| *out += 1);
        assert_ne!(verdict, PacketVerdict::Foreign);
    }

    fn rounds(&mut self, count: u32) {
        for _ in 0..count {
            let round = self.round;
            self.round += 1;
            let now = self.start + FRAME * round;
            for index in 0..3 {
                let number = self.sent[index];
                self.sent[index] += 1;
                let payload_type = self.codecs[index].payload_type();
                match (round + index as u32 * 5) % 23 {
                    // Lost; swapped with the one before; doubled; a digit; comfort noise instead.
                    3 => {}
                    7 => {
                        self.say(index, number + 1, payload_type, None, now);
                        self.say(index, number, payload_type, None, now);
                        self.sent[index] += 1;
                    }
                    11 => {
                        self.say(index, number, payload_type, None, now);
                        self.say(index, number, payload_type, None, now);
                    }
                    15 => self.say(index, number, 101, Some(&[5, 0x0a, 0, 160]), now),
                    19 => self.say(index, number, 13, Some(&[60]), now),
                    turn => {
                        let turns = self.turns.take();
                        match &turns {
                            Some((codec, payload)) if turn % 3 == 0 => {
                                self.say(index, number, codec.payload_type(), Some(payload), now);
                            }
                            _ => self.say(index, number, payload_type, None, now),
                        }
                        self.turns = turns;
                    }
                }
                let junk = [0x81, 200, 0, 1, 0, 0];
                self.call.handle_rtcp(index, address(index), &junk, now);
            }
            let mut due = now;
            while let Some(at) = self.call.poll_timeout().filter(|at| *at < now + FRAME) {
                due = due.max(at);
                let wall = Timestamp(1_700_000_000_000);
                let out = &mut self.out;
                self.call.handle_timeout(Now { mono: due, wall }, &mut |_| *out += 1);
            }
            while self.call.poll_event().is_some() {}
        }
    }
}

#[test]
fn the_machine_of_a_call_takes_no_memory_for_a_packet_whatever_the_codecs_and_the_network() {
    use Codec::{G722, L16, Opus, Pcma, Pcmu};
    let activities =
        [None, Some(Activity::ListenIn), Some(Activity::Coach), Some(Activity::BargeIn)];
    for codecs in [
        [Pcmu, Pcmu, Pcmu],
        [Pcmu, Pcma, Pcmu],
        [Opus, Opus, Opus],
        [G722, Pcmu, Opus],
        [Opus, Pcma, G722],
        [L16, L16, Pcmu],
    ] {
        for activity in activities {
            for is_secure in [false, true] {
                let mut talk = Talk::new(codecs, activity, is_secure);
                talk.rounds(60);
                let before = talk.out;
                let allocated = allocations::during(|| talk.rounds(200));
                let sent = talk.out - before;
                assert!(sent > 300, "{codecs:?} {activity:?}: {sent}");
                assert_eq!(
                    allocated, 0,
                    "{codecs:?} {activity:?}: allocations for {sent} packets sent"
                );
            }
        }
    }
}

#[test]
fn what_is_only_relayed_takes_no_memory_for_a_packet() {
    use Codec::{G729, Pcmu};
    for (codecs, activity, least) in [
        ([G729, G729, Pcmu], None, 300),
        // Kept from each other.
        ([G729, G729, Pcmu], Some(Activity::BargeIn), 100),
        ([G729, Pcmu, Pcmu], Some(Activity::Coach), 100),
    ] {
        let mut talk = Talk::new(codecs, activity, true);
        talk.rounds(60);
        let before = talk.out;
        let allocated = allocations::during(|| talk.rounds(200));
        let sent = talk.out - before;
        assert!(sent > least, "{codecs:?} {activity:?}: {sent}");
        assert_eq!(allocated, 0, "{codecs:?} {activity:?}: allocations for {sent} packets sent");
    }
}

#[test]
fn music_for_those_who_are_held_takes_no_memory_for_a_packet() {
    use Codec::{G722, Opus, Pcma, Pcmu};
    let file: Vec<u8> = (0..=255).cycle().take(3000).collect();
    let music = Music::read(&file, false).expect("music");
    for codecs in [[Pcmu, Pcmu, Pcmu], [Pcma, G722, Pcmu], [Opus, Opus, Opus]] {
        let mut talk = Talk::new(codecs, Some(Activity::Coach), true);
        talk.call.handle_music(LEGS[1], Some(music.clone()), talk.start);
        talk.rounds(60);
        let before = talk.out;
        let allocated = allocations::during(|| talk.rounds(200));
        let sent = talk.out - before;
        assert!(sent > 300, "{codecs:?}: {sent}");
        assert_eq!(allocated, 0, "{codecs:?}: allocations for {sent} packets sent");
    }
}

/// What another codec takes is made when it comes first, and kept.
#[test]
fn a_phone_that_goes_from_codec_to_codec_takes_no_memory_for_a_packet() {
    use Codec::{G722, Opus, Pcma, Pcmu};
    for (codecs, other) in [
        ([Pcmu, Pcmu, Pcmu], Pcma),
        ([Pcmu, Pcma, Pcmu], G722),
        ([Opus, Pcmu, Pcmu], Pcmu),
        ([Pcmu, Pcmu, Pcmu], Opus),
    ] {
        for activity in [None, Some(Activity::Coach), Some(Activity::BargeIn)] {
            let mut talk = Talk::new(codecs, activity, false).turning_to(other);
            talk.rounds(60);
            let before = talk.out;
            let allocated = allocations::during(|| talk.rounds(200));
            let sent = talk.out - before;
            assert!(sent > 300, "{codecs:?} and {other:?} {activity:?}: {sent}");
            assert_eq!(
                allocated, 0,
                "{codecs:?} and {other:?} {activity:?}: allocations for {sent} packets sent"
            );
        }
    }
}

#[test]
fn the_counting_allocator_counts() {
    assert_eq!(allocations::during(|| drop(std::hint::black_box(vec![1, 2, 3]))), 1);
}

/// Telephones and browsers send more of Opus than our own encoder makes: every mode and band,
/// stereo, several frames in a packet.
#[test]
fn every_mode_of_opus_is_decoded_without_memory() {
    use opus_rs::{Application, OpusEncoder};
    let mut kinds = BTreeSet::new();
    for (application, rate, bits) in [
        (Application::Voip, 8000, 12_000),
        (Application::Voip, 16_000, 24_000),
        (Application::Voip, 48_000, 32_000),
        (Application::Audio, 48_000, 64_000),
        (Application::RestrictedLowDelay, 48_000, 64_000),
    ] {
        for channels in [1, 2] {
            for part in [100, 50, 25] {
                let Ok(mut encoder) = OpusEncoder::new(rate, channels, application) else {
                    continue;
                };
                encoder.bitrate_bps = bits;
                let frame = rate as usize / part;
                let mut packets = Vec::new();
                for round in 0..20 {
                    let samples: Vec<i16> = (0..frame * channels)
                        .map(|n| (((n + round * 7) * 331) % 6000) as i16)
                        .collect();
                    let mut packet = [0; 1400];
                    if let Ok(len) = encoder.encode_i16(&samples, frame, &mut packet) {
                        packets.push(packet[..len].to_vec());
                    }
                }
                let mut decoder = Decoder::new(Codec::Opus);
                let mut samples = [0; MAX_DECODED];
                let mut decoded = 0;
                let allocated = allocations::during(|| {
                    for packet in &packets {
                        decoded += decoder.decode(packet, &mut samples);
                        decoder.conceal(&mut samples[..320]);
                    }
                });
                kinds.extend(packets.iter().map(|packet| packet[0] >> 2));
                assert!(
                    decoded > 3000,
                    "{application:?} {rate} {channels} {part}: {decoded} samples"
                );
                assert_eq!(allocated, 0, "{application:?} {rate} {channels} {part}");
            }
        }
    }
    assert!(kinds.len() > 12, "configurations and channels: {kinds:?}");
}

/// 300 calls a second, INVITE and BYE of each remembered for 32 seconds.
#[test]
fn what_is_counted_for_a_trunks_ended_transactions_is_what_they_take() {
    const CALLS: usize = 300 * 32;
    let now = clock::now().mono;
    let mut machine = Transactions::<u64, u64>::new(Timing::default(), Bounds::default());
    let answer = vec![b'x'; 450];
    let taken = allocations::kept_by(|| {
        for call in 0..CALLS * 2 {
            let (kind, method) = if call % 2 == 0 {
                (TransactionKind::Invite, "INVITE")
            } else {
                (TransactionKind::Other, "BYE")
            };
            let branch = format!("z9hG4bK{call:032x}");
            let flow = Flow {
                protocol: Protocol::Udp,
                local: address(0),
                peer: address(1),
                connection: ConnectionId::NONE,
            };
            let request = ReceivedVia {
                key: ServerKey::new(
                    Peer::Trunk(0),
                    branch.as_bytes(),
                    b"sbc7.carrier.example:5060",
                    method.as_bytes(),
                ),
                path: ReturnPath::new(flow, None, false),
            };
            let id = machine.open(request, kind, call as u64).expect("there is room");
            machine.respond(id, 200, answer.clone(), now);
            while machine.poll_output().is_some() {}
        }
    });
    let (count, counted) = machine.remembered();
    println!("{count} ended transactions take {taken} bytes, counted as {counted}");
    assert_eq!(count, CALLS * 2);
    let ratio = taken as f64 / counted as f64;
    assert!((0.7..1.1).contains(&ratio), "{taken} bytes, counted as {counted}");
    assert!(taken < 16 << 20, "{taken} bytes");
}
