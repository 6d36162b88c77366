//! RTCP (RFC 3550 6): what we report to a leg, what it reports to us.
//!
//! Reports inform counters and nothing else. A BYE ends nothing: signalling does. What comes need
//! be no compound (RFC 5506); what goes is one, always: SR or RR, SDES, and at the end BYE.

use super::rtp::{ReceivedRtp, Stream};
use crate::model::{Now, Timestamp};
use rtcp_types::prelude::*;
use rtcp_types::{ReceiverReport, ReportBlock, SenderReport};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// The longest RTCP packet we take.
pub const MAX_PACKET: usize = 1500;
/// Room for the longest packet that [`Reporter`] writes, and for what may be put around it.
pub const MAX_REPORT: usize = 256;
/// Sub-packets of a compound looked at.
const MAX_SUBPACKETS: usize = 32;

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SDES: u8 = 202;
const BYE: u8 = 203;
/// RFC 3550 6.5.1.
const CNAME: u8 = 1;

/// A second octet that tells RTCP from RTP on a port they share (RFC 5761 4).
const PACKET_TYPES: RangeInclusive<u8> = 192..=223;
/// Payload types that look like it with the marker bit (RFC 5761 4): with them RTP and RTCP can not
/// share a port.
pub const AMBIGUOUS_PAYLOAD_TYPES: RangeInclusive<u8> = 64..=95;

/// A round trip beyond it is no round trip.
const MAX_ROUND_TRIP: Duration = Duration::from_secs(10);
/// Sender reports of ours that a peer may still refer to.
const REMEMBERED: usize = 4;

/// A packet on a port that RTP and RTCP share is RTCP (RFC 5761 4).
pub fn is_rtcp(packet: &[u8]) -> bool {
    packet.get(1).is_some_and(|second| PACKET_TYPES.contains(second))
}

/// How a source is received: RFC 3550 A.1, A.3 and A.8.
#[derive(Clone, Debug, Default)]
pub struct Reception {
    source: Option<u32>,
    /// The first sequence number, and the highest, extended by cycles of 2¹⁶; the first cycle is
    /// the second here, so that none is negative.
    base: u64,
    highest: u64,
    received: u64,
    /// After a jump: the number that makes it a restart (RFC 3550 A.1).
    restart: Option<u16>,
    /// Nothing was to be received: what comes next follows the highest, whatever its number.
    paused: bool,
    lost_before: u64,
    expected_prior: u64,
    received_prior: u64,
    /// Timestamp units, times 16 (RFC 3550 A.8).
    jitter: u32,
    /// Timestamp units a second of what the jitter is measured in; 0 before the first packet.
    clock: u32,
    transit: Option<u32>,
    origin: Option<Instant>,
    sender_report: Option<(u32, Instant)>,
}

/// What a reception came to since its last report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interval {
    /// Packets that were due by sequence number.
    pub expected: u64,
    /// Of them, those that did not come.
    pub lost: u64,
}

/// A report block (RFC 3550 6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Block {
    /// Of the packets since the report before, in 1/256.
    pub fraction_lost: u8,
    /// Since the source began; negative when more came than were due.
    pub lost: i32,
    /// Cycles in the upper half.
    pub highest: u32,
    /// In timestamp units.
    pub jitter: u32,
    /// The middle 32 bits of the NTP timestamp of the last sender report; 0: none came.
    pub last_sender_report: u32,
    /// Since that came, in 1/65536 s.
    pub delay: u32,
}

/// MAX_DROPOUT and MAX_MISORDER of RFC 3550 A.1: a jump of 20 s is a restart rather than loss.
const MAX_DROPOUT: i16 = 1000;
const MAX_MISORDER: i16 = 100;
/// What 24 bits hold, signed.
const LOST: RangeInclusive<i64> = -0x80_0000..=0x7f_ffff;

impl Reception {
    /// Notes a valid packet; `clock` is the timestamp units a second of its payload type. `None`:
    /// its timestamp tells nothing of when it was sent, as that of an event (RFC 4733 2.2), which
    /// all its packets share.
    pub fn note(&mut self, packet: &ReceivedRtp, clock: Option<u32>, now: Instant) {
        if self.source != Some(packet.ssrc) {
            self.begin(packet);
        } else if self.paused {
            self.go_on(packet);
        } else {
            let ahead = packet.sequence.wrapping_sub(self.highest as u16) as i16;
            if (-MAX_MISORDER..MAX_DROPOUT).contains(&ahead) {
                self.highest += u64::try_from(ahead).unwrap_or(0);
                self.restart = None;
            } else if self.restart == Some(packet.sequence) {
                self.begin(packet);
            } else {
                self.restart = Some(packet.sequence.wrapping_add(1));
                return;
            }
        }
        self.received += 1;
        if let Some(clock) = clock {
            self.note_transit(packet.timestamp, clock, now);
        }
    }

    fn begin(&mut self, packet: &ReceivedRtp) {
        let first = 0x1_0000 + u64::from(packet.sequence);
        *self = Self {
            source: Some(packet.ssrc),
            base: first,
            highest: first,
            lost_before: self.lost(),
            sender_report: self.sender_report.filter(|_| self.source == Some(packet.ssrc)),
            origin: self.origin,
            ..Self::default()
        };
    }

    /// The first packet after a pause: those between were not due.
    fn go_on(&mut self, packet: &ReceivedRtp) {
        let ahead = packet.sequence.wrapping_sub(self.highest as u16);
        if ahead == 0 || ahead > i16::MAX as u16 {
            return self.begin(packet);
        }
        self.paused = false;
        self.highest += u64::from(ahead);
        self.base += u64::from(ahead) - 1;
    }

    fn note_transit(&mut self, timestamp: u32, clock: u32, now: Instant) {
        if self.clock != clock {
            self.clock = clock;
            self.jitter = 0;
            self.transit = None;
        }
        let origin = *self.origin.get_or_insert(now);
        let arrival = (now.saturating_duration_since(origin).as_micros() * u128::from(clock)
            / 1_000_000) as u32;
        let transit = arrival.wrapping_sub(timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let distance = (transit.wrapping_sub(before) as i32).unsigned_abs().min(clock);
            self.jitter = self.jitter + distance - ((self.jitter + 8) >> 4);
        }
    }

    /// Nothing is to be received for a while: what is not received meanwhile is not lost.
    pub fn pause(&mut self) {
        self.paused = true;
        self.restart = None;
        self.transit = None;
    }

    /// Notes a sender report: the middle 32 bits of its NTP timestamp.
    pub fn note_sender_report(&mut self, ssrc: u32, middle: u32, now: Instant) {
        if self.source == Some(ssrc) {
            self.sender_report = Some((middle, now));
        }
    }

    fn expected(&self) -> u64 {
        if self.source.is_some() { self.highest + 1 - self.base } else { 0 }
    }

    /// Packets lost since the leg began, over all its sources; fewer when one comes late.
    pub fn lost(&self) -> u64 {
        self.lost_before + self.expected().saturating_sub(self.received)
    }

    /// Interarrival jitter in timestamp units (RFC 3550 A.8).
    pub fn jitter(&self) -> u32 {
        self.jitter >> 4
    }

    /// Interarrival jitter as time.
    pub fn jitter_time(&self) -> Duration {
        time_of(self.jitter(), self.clock)
    }

    /// Ends an interval: what is to be reported of it. `None` when nothing came (RFC 3550 6.4).
    fn close_interval(&mut self, now: Instant) -> (Interval, Option<Block>) {
        let expected = self.expected();
        let expected_now = expected.saturating_sub(self.expected_prior);
        let received_now = self.received - self.received_prior;
        self.expected_prior = expected;
        self.received_prior = self.received;
        let interval =
            Interval { expected: expected_now, lost: expected_now.saturating_sub(received_now) };
        if received_now == 0 {
            return (interval, None);
        }
        let lost = expected as i64 - self.received as i64;
        let (last_sender_report, delay) = match self.sender_report {
            Some((middle, at)) => (middle, in_65536ths(now.saturating_duration_since(at))),
            None => (0, 0),
        };
        let block = Block {
            fraction_lost: (interval.lost * 256).checked_div(expected_now).unwrap_or(0).min(255)
                as u8,
            lost: lost.clamp(*LOST.start(), *LOST.end()) as i32,
            highest: (self.highest - 0x1_0000) as u32,
            jitter: self.jitter(),
            last_sender_report,
            delay,
        };
        (interval, Some(block))
    }
}

/// A number of timestamp units as time; nothing when the clock is not known.
pub fn time_of(units: u32, clock: u32) -> Duration {
    Duration::from_micros((u64::from(units) * 1_000_000).checked_div(u64::from(clock)).unwrap_or(0))
}

fn in_65536ths(time: Duration) -> u32 {
    u32::try_from(time.as_micros() * 65_536 / 1_000_000).unwrap_or(u32::MAX)
}

fn of_65536ths(delay: u32) -> Duration {
    Duration::from_micros(u64::from(delay) * 1_000_000 / 65_536)
}

/// Our reports to one leg.
#[derive(Clone, Debug)]
pub struct Reporter {
    /// A short-term persistent CNAME: 96 random bits as base64 (RFC 7022 4.2). It tells nothing of
    /// anybody.
    cname: [u8; 16],
    /// Turned at every report; spreads them over time.
    seed: u32,
    /// Packets of ours at the last report and at the one before: with any sent since that one, we
    /// are a sender (RFC 3550 6.4).
    sent: [u32; 2],
    /// When sender reports went, by the middle of their NTP timestamps.
    ours: [Option<(u32, Instant)>; REMEMBERED],
    next: usize,
}

impl Reporter {
    /// From random bits: 96 for the name, the others to spread the reports.
    pub fn new(random: u128) -> Self {
        const BASE64: &[u8; 64] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        Self {
            cname: std::array::from_fn(|at| BASE64[(random >> (6 * at)) as usize & 63]),
            seed: (random >> 96) as u32,
            sent: [0; 2],
            ours: [None; REMEMBERED],
            next: 0,
        }
    }

    /// How long until the next report: half to one and a half of the interval, evenly (RFC 3550
    /// 6.2).
    pub fn next_interval(&mut self, interval: Duration) -> Duration {
        // A full-period sequence modulo 2³²; its upper half is even enough.
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        interval / 2 + interval * (self.seed >> 16) / 65_536
    }

    /// Writes our report to a leg: SR or RR, SDES, and BYE if it is the last one. Returns its bytes
    /// and what the interval came to.
    pub fn report<'a>(
        &mut self,
        stream: &Stream,
        reception: &mut Reception,
        is_last: bool,
        now: Now,
        buffer: &'a mut [u8; MAX_REPORT],
    ) -> (&'a [u8], Interval) {
        let source = reception.source.unwrap_or(0);
        let (interval, block) = reception.close_interval(now.mono);
        let is_sender = stream.packets() != self.sent[1];
        self.sent = [stream.packets(), self.sent[0]];
        let ssrc = stream.ssrc();
        let mut packet = RtcpWriter { buffer, len: 0 };
        packet.sub(
            if is_sender { SENDER_REPORT } else { RECEIVER_REPORT },
            u8::from(block.is_some()),
            |packet| {
                packet.word(ssrc);
                if is_sender {
                    let ntp = ntp(now.wall);
                    let [high, low] = [(ntp >> 32) as u32, ntp as u32];
                    [high, low, stream.timestamp_at(now.mono), stream.packets(), stream.octets()]
                        .into_iter()
                        .for_each(|word| packet.word(word));
                    self.ours[self.next] = Some(((ntp >> 16) as u32, now.mono));
                    self.next = (self.next + 1) % REMEMBERED;
                }
                if let Some(block) = block {
                    packet.word(source);
                    packet
                        .word(u32::from(block.fraction_lost) << 24 | block.lost as u32 & 0xff_ffff);
                    [block.highest, block.jitter, block.last_sender_report, block.delay]
                        .into_iter()
                        .for_each(|word| packet.word(word));
                }
            },
        );
        packet.sub(SDES, 1, |packet| {
            packet.word(ssrc);
            packet.put(&[CNAME, self.cname.len() as u8]);
            packet.put(&self.cname);
            // The end of the items, and up to the next word (RFC 3550 6.5).
            packet.put(&[0; 2]);
        });
        if is_last {
            packet.sub(BYE, 1, |packet| packet.word(ssrc));
        }
        let RtcpWriter { buffer, len } = packet;
        (&buffer[..len], interval)
    }

    /// The round trip that a block about us tells (RFC 3550 6.4.1): since that sender report went,
    /// less what the peer kept it.
    ///
    /// It is measured by our clock that no one sets. `None` for a report that we did not send, and
    /// for what can not be.
    pub fn round_trip(&self, block: &Block, now: Instant) -> Option<Duration> {
        let known = self.ours.iter().flatten();
        let (_, went) = known
            .filter(|_| block.last_sender_report != 0)
            .find(|(middle, _)| *middle == block.last_sender_report)?;
        let round_trip =
            now.checked_duration_since(*went)?.checked_sub(of_65536ths(block.delay))?;
        (round_trip <= MAX_ROUND_TRIP).then_some(round_trip)
    }
}

/// Writes packets one after another. What is written is shorter than the buffer by far; what would
/// not fit is left out.
struct RtcpWriter<'a> {
    buffer: &'a mut [u8; MAX_REPORT],
    len: usize,
}

impl RtcpWriter<'_> {
    fn put(&mut self, bytes: &[u8]) {
        if let Some(room) = self.buffer.get_mut(self.len..self.len + bytes.len()) {
            room.copy_from_slice(bytes);
            self.len += bytes.len();
        }
    }

    fn word(&mut self, word: u32) {
        self.put(&word.to_be_bytes());
    }

    /// A packet of whole words; its length is filled in after it.
    fn sub(&mut self, packet_type: u8, count: u8, body: impl FnOnce(&mut Self)) {
        let start = self.len;
        self.put(&[0x80 | count, packet_type, 0, 0]);
        body(self);
        let words = ((self.len - start) / 4).saturating_sub(1) as u16;
        if let Some(length) = self.buffer.get_mut(start + 2..start + 4) {
            length.copy_from_slice(&words.to_be_bytes());
        }
    }
}

/// What a leg reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RtcpReport {
    /// Its SSRC and the middle 32 bits of its NTP timestamp, when it sends.
    pub sender: Option<(u32, u32)>,
    /// How it receives us.
    pub about_us: Option<Block>,
}

/// The bytes are not RTCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not RTCP")]
pub struct NotRtcp;

/// Reads a packet, compound or not (RFC 5506); `ours` is the SSRC we send to that leg. What is
/// neither SR nor RR is passed over.
pub fn read(packet: &[u8], ours: u32) -> Result<RtcpReport, NotRtcp> {
    if packet.is_empty() || packet.len() > MAX_PACKET {
        return Err(NotRtcp);
    }
    let mut report = RtcpReport::default();
    let mut rest = packet;
    for _ in 0..MAX_SUBPACKETS {
        let Some(&[first, packet_type, high, low]) = rest.first_chunk() else {
            break;
        };
        let len = 4 * (usize::from(u16::from_be_bytes([high, low])) + 1);
        let (sub, after) = rest.split_at_checked(len).ok_or(NotRtcp)?;
        if first >> 6 != 2 || !PACKET_TYPES.contains(&packet_type) {
            return Err(NotRtcp);
        }
        match packet_type {
            SENDER_REPORT => {
                let sr = SenderReport::parse(sub).map_err(|_| NotRtcp)?;
                report.sender = Some((sr.ssrc(), (sr.ntp_timestamp() >> 16) as u32));
                report.note_blocks(sr.report_blocks(), ours);
            }
            RECEIVER_REPORT => {
                let rr = ReceiverReport::parse(sub).map_err(|_| NotRtcp)?;
                report.note_blocks(rr.report_blocks(), ours);
            }
            _ => {}
        }
        rest = after;
    }
    if rest.len() == packet.len() || (1..4).contains(&rest.len()) {
        return Err(NotRtcp);
    }
    Ok(report)
}

impl RtcpReport {
    fn note_blocks<'a>(&mut self, mut blocks: impl Iterator<Item = ReportBlock<'a>>, ours: u32) {
        if let Some(block) = blocks.find(|block| block.ssrc() == ours) {
            self.about_us = Some(Block {
                fraction_lost: block.fraction_lost(),
                // From 24 bits to 32 with their sign.
                lost: (block.cumulative_lost() << 8) as i32 >> 8,
                highest: block.extended_sequence_number(),
                jitter: block.interarrival_jitter(),
                last_sender_report: block.last_sender_report_timestamp(),
                delay: block.delay_since_last_sender_report_timestamp(),
            });
        }
    }
}

/// Seconds since 1900 and their 2³² parts.
fn ntp(wall: Timestamp) -> u64 {
    const FROM_1900_TO_1970: u64 = 2_208_988_800;
    let seconds = wall.0 / 1000 + FROM_1900_TO_1970;
    let fraction = ((wall.0 % 1000) << 32) / 1000;
    seconds << 32 | fraction
}

#[cfg(test)]
mod tests;
