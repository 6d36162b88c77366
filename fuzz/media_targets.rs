//! What must hold for any bytes on a media port. The fuzz targets and the test that replays their
//! corpora run the same code.

use std::net::SocketAddr;
use std::time::{Duration, Instant};
use undertone::media::call::{Call, CallConfig, Leg, StreamStart, Transmit, TransmitKind};
use undertone::media::codec::{Decoder, MAX_DECODED};
use undertone::media::jitter::{JitterBuffer, PlayoutReader};
use undertone::media::srtp::{MasterKey, Protect, Suite, Unprotect};
use undertone::media::{
    CallKey, Codec, EventClock, Format, Hearing, HearingRole, LegId, LegMedia, PayloadTypes, rtcp,
    rtp,
};
use undertone::model::{Activity, Now, Timestamp};

const ACTIVITIES: [Activity; 3] = [Activity::ListenIn, Activity::Coach, Activity::BargeIn];

fn address(index: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, index as u8], 4000))
}

#[expect(clippy::disallowed_methods, reason = "an arbitrary origin of the clock")]
fn start() -> Instant {
    Instant::now()
}

fn hearing(activity: Activity) -> Hearing {
    let supervisor =
        HearingRole::Supervisor { activity, coached: Some(LegId(0)), agent_side_only: false };
    Hearing::of(&[
        (LegId(0), HearingRole::Agent),
        (LegId(1), HearingRole::Customer),
        (LegId(2), supervisor),
    ])
}

/// A call and what happens to it: each happening is a byte that says what, a byte that says how
/// much, and so many bytes. Whatever it is, only signalled addresses are sent to, what is sent is
/// RTP, and in ListenIn and Coach the customer gets the agent's bytes.
pub fn media_call(mut data: &[u8]) {
    let start = start();
    let mut call = Call::new(CallKey(1), CallConfig::default());
    // The first octet says what the parties speak, and what the supervisor does.
    let codecs = data.split_first().map_or([Codec::Pcmu; 2], |(first, rest)| {
        data = rest;
        [first % 5, first / 5 % 5].map(|which| Codec::ALL[usize::from(which)])
    });
    for index in 0..3 {
        let leg = LegId(index);
        let numbers = StreamStart {
            ssrc: index as u32,
            sequence: 65_530,
            timestamp: u32::MAX,
            reports: u128::MAX,
        };
        assert!(call.put(Leg::new(leg, numbers, start), start).is_ok());
        let media = LegMedia {
            remote: Some(address(index as usize)),
            remote_rtcp: None,
            rtcp_mux: index == 2,
            codec: codecs[index as usize / 2],
            payload_type: 0,
            dtmf_pt: Some(101),
            dtmf_clock: 8000,
            comfort_noise: Some(13),
            receives: PayloadTypes::of(&[
                (0, Format::Audio(codecs[index as usize / 2])),
                (101, Format::Events(EventClock::Narrow)),
                (13, Format::ComfortNoise),
                (8, Format::Audio(Codec::Pcma)),
                (9, Format::Audio(Codec::G722)),
                (111, Format::Audio(Codec::Opus)),
                (100, Format::Events(EventClock::Full)),
            ]),
            send: true,
            receive: true,
            nat: false,
        };
        call.handle_describe(leg, media, start);
    }
    let mut activity = Activity::Coach;
    call.handle_hear(hearing(activity), start);
    let mut now = start;
    while let [what, len, rest @ ..] = data {
        let (bytes, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        data = rest;
        let slot = usize::from(*what) % 3;
        let mut check = |packet: Transmit<'_>| {
            assert_eq!(packet.to.ip(), address(packet.slot).ip());
            if packet.sent != TransmitKind::Rtcp {
                assert!(rtp::parse(packet.bytes).is_ok());
                assert!(
                    packet.slot != 1
                        || activity == Activity::BargeIn
                        || matches!(
                            packet.sent,
                            TransmitKind::Unchanged
                                | TransmitKind::Transcoded
                                | TransmitKind::Silent
                        )
                );
            }
            assert_ne!(packet.sent, TransmitKind::Guarded);
        };
        match what / 3 % 8 {
            0..=3 if call.is_rtcp(slot, bytes) => {
                call.handle_rtcp(slot, address(slot), bytes, now);
            }
            0..=3 => {
                call.handle_rtp(slot, address(slot), &mut bytes.to_vec(), now, &mut check);
            }
            4 => {
                call.handle_rtp(slot, address(9), &mut bytes.to_vec(), now, &mut check);
            }
            5 => {
                call.handle_rtcp(slot, address(slot), bytes, now);
            }
            6 => {
                activity = ACTIVITIES[usize::from(*len) % 3];
                call.handle_hear(hearing(activity), now);
            }
            _ => {
                now += Duration::from_millis(u64::from(*len));
                let wall = Timestamp(u64::from(*len));
                call.handle_timeout(Now { mono: now, wall }, &mut check);
            }
        }
        while call.poll_event().is_some() {}
    }
}

/// Bytes on an RTP port: they are refused, or their payload lies in them.
pub fn media_rtp(data: &[u8]) {
    if let Ok(received) = rtp::parse(data) {
        assert!(
            received.payload.start >= rtp::HEADER
                && received.payload.end <= data.len()
                && !received.payload.is_empty()
        );
        let _ = rtp::telephone_event(&data[received.payload]);
    }
}

/// What a network may do to a speaker: each happening is three octets: how far the timestamp goes,
/// how much is said or heard, what. What is heard is never louder than what was said.
pub fn media_jitter(data: &[u8]) {
    const LOUD: i16 = 4242;
    let mut now = start();
    let mut ring = JitterBuffer::default();
    ring.open(if data.len().is_multiple_of(2) { 8000 } else { 16_000 });
    let mut readers = [PlayoutReader::direct(&ring), PlayoutReader::buffered(&ring)];
    let mut timestamp = 0_u32;
    for happening in data.chunks_exact(3) {
        let [ahead, much, what] = *happening else {
            return;
        };
        let len = usize::from(much) * 2;
        timestamp = match what / 8 % 4 {
            0 => timestamp.wrapping_add(u32::from(ahead)),
            1 => timestamp.wrapping_sub(u32::from(ahead) * 8),
            2 => timestamp.wrapping_add(u32::from(ahead) << 24),
            _ => timestamp,
        };
        let ssrc = u32::from(what / 32 % 2);
        match what % 8 {
            0..=2 => {
                if readers.iter().all(|reader| reader.behind(&ring) == 0) {
                    ring.rewind();
                }
                ring.write(ssrc, timestamp, &vec![LOUD; len], now);
                timestamp = timestamp.wrapping_add(len as u32);
            }
            3 => {
                let missing = ring.missing(ssrc, timestamp);
                ring.fill(&vec![LOUD; missing]);
            }
            4 | 5 => {
                let mut frame = vec![0; len.clamp(1, 480)];
                readers[usize::from(what % 2)].read(&ring, &mut frame);
                assert!(frame.iter().all(|sample| (0..=LOUD).contains(sample)));
            }
            6 => now += Duration::from_millis(u64::from(ahead)),
            _ if ahead < 8 => {
                ring.close();
                ring.open(8000);
                readers = readers.map(|reader| reader.anew(&ring));
            }
            _ => readers[0].drain(&ring),
        }
    }
}

/// Bytes that claim to be SRTP or SRTCP under a key: nothing but what the key has made is taken,
/// and refusing changes nothing.
pub fn media_srtp(data: &[u8]) {
    for suite in Suite::ALL {
        let Some(key) = MasterKey::new(suite, &[9; 64][..suite.material_len()]) else {
            return;
        };
        let mut inbound = Unprotect::new(&key);
        assert!(inbound.unprotect_rtp(&mut data.to_vec()).is_err());
        assert!(inbound.unprotect_rtcp(&mut data.to_vec()).is_err());
        let mut buffer = vec![0; data.len() + 64];
        if let Some(packet) = Protect::new(&key).protect_rtp(data, &mut buffer) {
            let mut packet = packet.to_vec();
            let len = inbound.unprotect_rtp(&mut packet).expect("what the key has made");
            assert_eq!(&packet[..len], data);
        }
    }
}

/// Bytes on an RTCP port.
pub fn media_rtcp(data: &[u8]) {
    let _ = rtcp::read(data, 1);
}

/// Opus packets of one stream (RFC 6716): a byte that says how long, and the packet; none: a lost
/// one. Whatever they are, as much is decoded as the packet says, and the library stumbles over
/// none.
pub fn media_opus(mut data: &[u8]) {
    let mut decoder = Decoder::new(Codec::Opus);
    let mut samples = [0; MAX_DECODED];
    while let [len, rest @ ..] = data {
        let (packet, rest) = rest.split_at(usize::from(*len).min(rest.len()));
        data = rest;
        match Codec::Opus.ticks(packet) {
            _ if packet.is_empty() => assert!(decoder.conceal(&mut samples[..320])),
            Some(ticks) => assert!(decoder.decode(packet, &mut samples) <= ticks as usize / 3),
            None => assert_eq!(decoder.decode(packet, &mut samples), 0),
        }
        assert_eq!(decoder.failures(), 0, "the library panicked");
    }
}
