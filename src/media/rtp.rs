//! RTP packets (RFC 3550 5.1): read and judged, and sent on under a header of our own.
//!
//! A [`Stream`] is what one listener receives from us, whichever legs are behind it: one SSRC,
//! sequence numbers and timestamps unbroken from the first packet to the last.

use rtp_types::RtpPacket;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Bytes of the header we write: no CSRC, no extension, no padding.
pub const HEADER: usize = 12;

/// The longest payload we take: what fits an Ethernet frame of 1500 octets.
pub const MAX_PAYLOAD: usize = 1488;

/// The ticks a second in which frames and paces are measured, whatever the clock of a codec.
pub const CLOCK: u32 = 8000;

/// What a received packet says, and where its payload lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedRtp {
    /// First of a talkspurt, or of an event.
    pub marker: bool,
    /// The payload type.
    pub payload_type: u8,
    /// The sequence number.
    pub sequence: u16,
    /// The timestamp of its first sample.
    pub timestamp: u32,
    /// The SSRC of the source.
    pub ssrc: u32,
    /// The payload without padding; starts at or after [`HEADER`].
    pub payload: Range<usize>,
}

/// Why a packet is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RtpError {
    /// Not RTP: too short, another version, or lengths that do not fit.
    #[error("not RTP")]
    NotRtp,
    /// It has no payload.
    #[error("no payload")]
    Empty,
    /// A payload over [`MAX_PAYLOAD`].
    #[error("payload too long")]
    TooLong,
}

/// Reads a packet.
pub fn parse(packet: &[u8]) -> Result<ReceivedRtp, RtpError> {
    let rtp = RtpPacket::parse(packet).map_err(|_| RtpError::NotRtp)?;
    let start = rtp.payload_offset();
    let len = rtp.payload_len();
    if len == 0 {
        return Err(RtpError::Empty);
    }
    if len > MAX_PAYLOAD {
        return Err(RtpError::TooLong);
    }
    if start < HEADER || start + len > packet.len() {
        return Err(RtpError::NotRtp);
    }
    Ok(ReceivedRtp {
        marker: rtp.marker_bit(),
        payload_type: rtp.payload_type(),
        sequence: rtp.sequence_number(),
        timestamp: rtp.timestamp(),
        ssrc: rtp.ssrc(),
        payload: start..start + len,
    })
}

/// A header of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpHeader {
    /// First of a talkspurt, or of an event.
    pub marker: bool,
    /// The payload type.
    pub payload_type: u8,
    /// The sequence number.
    pub sequence: u16,
    /// The timestamp of its first sample.
    pub timestamp: u32,
    /// Our SSRC toward this listener.
    pub ssrc: u32,
}

impl RtpHeader {
    /// The header on the wire.
    pub fn to_bytes(self) -> [u8; HEADER] {
        let [s0, s1] = self.sequence.to_be_bytes();
        let [t0, t1, t2, t3] = self.timestamp.to_be_bytes();
        let [c0, c1, c2, c3] = self.ssrc.to_be_bytes();
        let second = u8::from(self.marker) << 7 | self.payload_type & 0x7f;
        [0x80, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3]
    }

    /// Puts it right before a payload that stays where it is; returns the packet. CSRCs and
    /// extensions are gone with the old header.
    ///
    /// `payload` is what [`parse`] said of these bytes.
    pub fn put_before<'a>(self, packet: &'a mut [u8], payload: &Range<usize>) -> &'a [u8] {
        let start = payload.start.saturating_sub(HEADER);
        packet[start..start + HEADER].copy_from_slice(&self.to_bytes());
        &packet[start..payload.end]
    }
}

/// What makes the sound of a packet that is sent; legs are named by their slot in the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SoundSource {
    /// What a leg says.
    Leg(usize),
    /// Digits that we send in the name of a leg.
    Digits(usize),
}

impl SoundSource {
    /// The slot of the leg that is heard.
    pub fn slot(self) -> usize {
        match self {
            SoundSource::Leg(slot) | SoundSource::Digits(slot) => slot,
        }
    }
}

/// Where a relayed packet comes from; a change begins a new mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamOrigin {
    /// What makes its sound.
    pub source: SoundSource,
    /// The SSRC of the source.
    pub ssrc: u32,
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    origin: StreamOrigin,
    sequence: u16,
    timestamp: u32,
    /// The first of our sequence numbers under this mapping; nothing before it may be sent any
    /// more.
    first: u16,
}

/// What one listener receives from us.
#[derive(Clone, Debug)]
pub struct Stream {
    ssrc: u32,
    /// Ticks a second of its timestamps.
    clock: u32,
    next_sequence: u16,
    next_timestamp: u32,
    mapping: Option<Mapping>,
    /// The event going on in a mixed stream: its source, the timestamp there, ours.
    event: Option<(SoundSource, u32, u32)>,
    last: Option<(Instant, u32)>,
    /// When the newest packet of sound went, and its timestamp.
    anchor: Option<(Instant, u32)>,
    packets: u32,
    octets: u32,
}

/// A jump in the source's numbers beyond these is a restart, not loss: about the "MAX_DROPOUT" and
/// "MAX_MISORDER" of RFC 3550 A.1.
const MAX_DROPOUT: i16 = 1000;
const MAX_MISORDER: i16 = 100;
/// A timestamp so far from the time that passed is a restart, in seconds.
const MAX_LEAP: i64 = 2;

impl Stream {
    /// A stream that begins there. All three should be random (RFC 3550 5.1).
    pub fn new(ssrc: u32, sequence: u16, timestamp: u32) -> Self {
        Self {
            ssrc,
            clock: CLOCK,
            next_sequence: sequence,
            next_timestamp: timestamp,
            mapping: None,
            event: None,
            last: None,
            anchor: None,
            packets: 0,
            octets: 0,
        }
    }

    /// Its clock from now on, in ticks a second; until then 8000. The timestamps go on.
    pub fn set_clock(&mut self, clock: u32) {
        if self.clock != clock {
            self.clock = clock;
            self.anchor = None;
            self.cut();
        }
    }

    /// Ticks a second of its timestamps.
    pub fn clock(&self) -> u32 {
        self.clock
    }

    /// The SSRC of all its packets.
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Packets so far, wrapping, for sender reports.
    pub fn packets(&self) -> u32 {
        self.packets
    }

    /// Payload octets so far, wrapping, for sender reports.
    pub fn octets(&self) -> u32 {
        self.octets
    }

    /// The timestamp that belongs to `now`, for sender reports.
    pub fn timestamp_at(&self, now: Instant) -> u32 {
        match self.anchor {
            Some((at, timestamp)) => {
                timestamp.wrapping_add(ticks_in(now.saturating_duration_since(at), self.clock))
            }
            None => self.next_timestamp,
        }
    }

    /// The header for a packet forwarded from `origin`, of so many ticks of its clock. Loss and
    /// reordering of the source stay visible. `None`: it is older than the mapping and must not be
    /// sent. `samples` is 0 for events.
    pub fn relay(
        &mut self,
        origin: StreamOrigin,
        received: &ReceivedRtp,
        samples: u32,
        now: Instant,
    ) -> Option<RtpHeader> {
        let kept = self.mapping.filter(|mapping| mapping.origin == origin).and_then(|mapping| {
            let sequence = received.sequence.wrapping_add(mapping.sequence);
            let timestamp = received.timestamp.wrapping_add(mapping.timestamp);
            let ahead = sequence.wrapping_sub(self.next_sequence) as i16;
            let leap = i64::from(timestamp.wrapping_sub(self.next_timestamp) as i32);
            let elapsed = self.last.map_or(0, |(at, _)| {
                i64::from(ticks_in(now.saturating_duration_since(at), self.clock))
            });
            let most = MAX_LEAP * i64::from(self.clock);
            let restarted = !(-MAX_MISORDER..=MAX_DROPOUT).contains(&ahead)
                || leap > elapsed + most
                || leap < -most;
            (!restarted).then_some((mapping, sequence, timestamp, ahead))
        });
        // What an event takes is time that its packets, which share one timestamp, do not tell.
        let mut tells_time = samples > 0;
        let (sequence, timestamp, marker) = match kept {
            Some((mapping, sequence, timestamp, ahead)) => {
                if (sequence.wrapping_sub(mapping.first) as i16) < 0 {
                    return None;
                }
                if ahead >= 0 {
                    self.next_sequence = sequence.wrapping_add(1);
                    let end = timestamp.wrapping_add(samples);
                    if end.wrapping_sub(self.next_timestamp) as i32 > 0 {
                        tells_time = true;
                        self.next_timestamp = end;
                        self.anchor = (samples > 0).then_some((now, timestamp)).or(self.anchor);
                    }
                }
                (sequence, timestamp, received.marker)
            }
            None => {
                tells_time = true;
                let sequence = self.next_sequence;
                let timestamp = self.next_timestamp.wrapping_add(self.gap(now));
                self.mapping = Some(Mapping {
                    origin,
                    sequence: sequence.wrapping_sub(received.sequence),
                    timestamp: timestamp.wrapping_sub(received.timestamp),
                    first: sequence,
                });
                self.next_sequence = sequence.wrapping_add(1);
                self.next_timestamp = timestamp.wrapping_add(samples);
                self.anchor = (samples > 0).then_some((now, timestamp)).or(self.anchor);
                (sequence, timestamp, true)
            }
        };
        self.event = None;
        self.count(received.payload.len());
        if tells_time {
            self.last = Some((now, samples));
        }
        Some(self.header(sequence, timestamp, marker))
    }

    /// Forgets the source that was relayed; the numbers go on.
    pub fn cut(&mut self) {
        self.mapping = None;
        self.event = None;
    }

    /// The header for a packet of our own making, of so many ticks of its clock and so many octets.
    pub fn own(&mut self, samples: u32, octets: usize, now: Instant) -> RtpHeader {
        let begins = self.mapping.take().is_some() || self.last.is_none();
        let sequence = self.next_sequence;
        let timestamp = self.next_timestamp.wrapping_add(self.gap(now));
        self.next_sequence = sequence.wrapping_add(1);
        self.next_timestamp = timestamp.wrapping_add(samples);
        self.anchor = Some((now, timestamp));
        self.count(octets);
        self.last = Some((now, samples));
        self.header(sequence, timestamp, begins)
    }

    /// The header for an event among packets of our own: one timestamp for the whole event (RFC
    /// 4733 2.2).
    pub fn event(
        &mut self,
        origin: StreamOrigin,
        received: &ReceivedRtp,
        now: Instant,
    ) -> RtpHeader {
        let timestamp = match self.event {
            Some((source, theirs, ours))
                if source == origin.source && theirs == received.timestamp =>
            {
                ours
            }
            _ => self.next_timestamp,
        };
        self.event = Some((origin.source, received.timestamp, timestamp));
        self.mapping = None;
        let sequence = self.next_sequence;
        self.next_sequence = sequence.wrapping_add(1);
        self.count(received.payload.len());
        self.last.get_or_insert((now, 0));
        self.header(sequence, timestamp, received.marker)
    }

    /// How far the timestamp moves when nothing was sent for a while; small lateness is jitter and
    /// moves nothing.
    fn gap(&self, now: Instant) -> u32 {
        let Some((at, samples)) = self.last else {
            return 0;
        };
        let late = ticks_in(now.saturating_duration_since(at), self.clock).saturating_sub(samples);
        if late > self.clock / 16 { late } else { 0 }
    }

    fn count(&mut self, octets: usize) {
        self.packets = self.packets.wrapping_add(1);
        self.octets = self.octets.wrapping_add(octets as u32);
    }

    fn header(&self, sequence: u16, timestamp: u32, marker: bool) -> RtpHeader {
        RtpHeader { marker, payload_type: 0, sequence, timestamp, ssrc: self.ssrc }
    }
}

/// Ticks of a clock in a duration, at most those of an hour.
pub fn ticks_in(duration: Duration, clock: u32) -> u32 {
    (duration.as_micros().min(3_600_000_000) as u64 * u64::from(clock) / 1_000_000) as u32
}

/// The duration of some ticks of [`CLOCK`].
pub fn duration_of(samples: u32) -> Duration {
    Duration::from_micros(u64::from(samples) * 1_000_000 / u64::from(CLOCK))
}

/// A telephone-event payload (RFC 4733 2.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TelephoneEvent {
    /// `0`–`9`, `*`, `#`, `A`–`D`.
    pub digit: char,
    /// The E bit.
    pub end: bool,
}

/// The digits, each at its event number (RFC 4733 3.2).
const DIGITS: &[u8; 16] = b"0123456789*#ABCD";

/// The event number of a digit.
pub fn event_of(digit: char) -> Option<u8> {
    DIGITS.iter().position(|known| char::from(*known) == digit).map(|event| event as u8)
}

/// Reads a telephone-event payload; `None` for events that are no DTMF digits, and for what is too
/// short or too long to be one.
pub fn telephone_event(payload: &[u8]) -> Option<TelephoneEvent> {
    let [event, flags, _, _] = *payload.first_chunk::<4>()?;
    if payload.len() > 4 {
        return None;
    }
    let digit = *DIGITS.get(usize::from(event))?;
    Some(TelephoneEvent { digit: char::from(digit), end: flags & 0x80 != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u16, timestamp: u32) -> ReceivedRtp {
        ReceivedRtp {
            marker: false,
            payload_type: 0,
            sequence,
            timestamp,
            ssrc: 7,
            payload: 12..172,
        }
    }

    const ALICE: StreamOrigin = StreamOrigin { source: SoundSource::Leg(0), ssrc: 7 };
    const BOB: StreamOrigin = StreamOrigin { source: SoundSource::Leg(1), ssrc: 9 };

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin of the test's clock")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_packet_keeps_its_payload_and_loses_extension_and_padding() {
        let mut bytes = vec![
            0xb1, 0x80, 0, 5, 0, 0, 0, 160, 1, 2, 3, 4, 9, 9, 9, 9, 0xbe, 0xde, 0, 1, 1, 2, 3, 4,
            50, 51, 52, 0, 2,
        ];
        let received = parse(&bytes).unwrap();
        assert_eq!(&bytes[received.payload.clone()], [50, 51, 52]);
        let header = RtpHeader {
            marker: true,
            payload_type: 8,
            sequence: 0x0102,
            timestamp: 0x03040506,
            ssrc: 0x0708090a,
        };
        let sent = header.put_before(&mut bytes, &received.payload);
        assert_eq!(sent, [0x80, 0x88, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 50, 51, 52]);
    }

    #[test]
    fn what_is_not_rtp_is_refused() {
        assert_eq!(parse(&[0x80; 11]), Err(RtpError::NotRtp));
        assert_eq!(parse(&[0x40; 172]), Err(RtpError::NotRtp));
        assert_eq!(parse(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]), Err(RtpError::Empty));
        let mut long = vec![0x80; HEADER + MAX_PAYLOAD + 1];
        assert_eq!(parse(&long), Err(RtpError::TooLong));
        long.pop();
        assert!(parse(&long).is_ok());
    }

    #[test]
    fn an_event_whose_source_counts_its_time_apart_takes_its_time() {
        let now = start();
        let frame = Duration::from_millis(20);
        let mut stream = Stream::new(1, 10, 1000);
        stream.relay(ALICE, &packet(10, 1000), 160, now).unwrap();
        // The event is in the source's other clock, far from its sound.
        for step in 1..=8 {
            let event = packet(10 + step, 900_000);
            let header = stream.relay(ALICE, &event, 0, now + frame * u32::from(step)).unwrap();
            assert_eq!(header.timestamp, 1160);
        }
        let after = stream.relay(ALICE, &packet(19, 1000 + 9 * 160), 160, now + frame * 9).unwrap();
        assert_eq!((after.sequence, after.timestamp), (19, 1000 + 9 * 160));
    }

    #[test]
    fn numbers_go_on_unbroken_when_the_source_changes_back_and_forth() {
        let now = start();
        let frame = Duration::from_millis(20);
        let mut stream = Stream::new(1, 65_534, u32::MAX - 200);
        let mut sent = Vec::new();
        sent.push(stream.relay(ALICE, &packet(10, 1000), 160, now).unwrap());
        sent.push(stream.relay(ALICE, &packet(11, 1160), 160, now + frame).unwrap());
        sent.push(stream.own(160, 160, now + 2 * frame));
        sent.push(stream.relay(BOB, &packet(40_000, 5), 160, now + 3 * frame).unwrap());
        sent.push(stream.own(160, 160, now + 4 * frame));
        sent.push(stream.relay(ALICE, &packet(15, 1800), 160, now + 5 * frame).unwrap());
        for (i, header) in sent.iter().enumerate() {
            assert_eq!(header.sequence, 65_534_u16.wrapping_add(i as u16));
            assert_eq!(header.timestamp, (u32::MAX - 200).wrapping_add(160 * i as u32));
            assert_eq!(header.ssrc, 1);
        }
    }

    #[test]
    fn loss_and_reordering_stay_visible_but_nothing_older_than_the_mapping_is_sent() {
        let now = start();
        let mut stream = Stream::new(1, 100, 0);
        assert_eq!(stream.relay(ALICE, &packet(10, 1600), 160, now).unwrap().sequence, 100);
        assert_eq!(stream.relay(ALICE, &packet(13, 2080), 160, now).unwrap().sequence, 103);
        let late = stream.relay(ALICE, &packet(12, 1920), 160, now).unwrap();
        assert_eq!((late.sequence, late.timestamp), (102, 320));
        assert_eq!(stream.relay(ALICE, &packet(9, 1440), 160, now), None);
        assert_eq!(stream.own(160, 160, now).sequence, 104);
        assert_eq!(stream.relay(ALICE, &packet(14, 2240), 160, now).unwrap().sequence, 105);
    }

    #[test]
    fn a_source_that_restarts_is_mapped_anew() {
        let now = start();
        let mut stream = Stream::new(1, 100, 0);
        stream.relay(ALICE, &packet(10, 1600), 160, now).unwrap();
        let after = stream
            .relay(ALICE, &packet(30_000, 0xdead_beef), 160, now + Duration::from_millis(20))
            .unwrap();
        assert_eq!((after.sequence, after.timestamp, after.marker), (101, 160, true));
    }

    #[test]
    fn a_pause_moves_the_timestamp_by_the_time_that_passed() {
        let now = start();
        let mut stream = Stream::new(1, 0, 0);
        stream.own(160, 160, now);
        assert_eq!(stream.own(160, 160, now + Duration::from_secs(1)).timestamp, 8000);
    }

    #[test]
    fn an_event_keeps_one_timestamp_among_mixed_packets() {
        let now = start();
        let mut stream = Stream::new(1, 0, 0);
        stream.own(160, 160, now);
        let first = stream.event(ALICE, &packet(1, 777), now);
        stream.own(160, 160, now);
        let second = stream.event(ALICE, &packet(2, 777), now);
        assert_eq!((first.sequence, first.timestamp), (1, 160));
        assert_eq!((second.sequence, second.timestamp), (3, 160));
    }

    #[test]
    fn only_dtmf_digits_are_events() {
        assert_eq!(
            telephone_event(&[11, 0x8a, 3, 32]),
            Some(TelephoneEvent { digit: '#', end: true })
        );
        assert_eq!(telephone_event(&[16, 0, 0, 0]), None);
        assert_eq!(telephone_event(&[255, 0x8a, 0xff, 0xff]), None);
        assert_eq!(telephone_event(&[1, 0, 0]), None);
    }
}
