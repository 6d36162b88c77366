//! RTCP (RFC 3550 6): what we report to a leg, what it reports to us.
//!
//! Reports inform counters and nothing else. A BYE ends nothing: signalling does.

use super::rtp::{CLOCK, Received, Stream};
use crate::words::{Now, Timestamp};
use rtcp_types::prelude::*;
use rtcp_types::{Compound, Packet, ReceiverReport, ReportBlock, Sdes, SdesChunk, SdesItem, SenderReport};
use std::time::Instant;

/// The longest RTCP packet we take.
pub const MAX_PACKET: usize = 1500;
/// Sub-packets of a compound looked at.
const MAX_SUBPACKETS: usize = 32;

/// How a source is received: RFC 3550 A.1, A.3 and A.8.
#[derive(Clone, Debug, Default)]
pub struct Reception {
    source: Option<u32>,
    base: u64,
    highest: u64,
    received: u64,
    lost_before: u64,
    expected_prior: u64,
    received_prior: u64,
    jitter: u32,
    transit: Option<u32>,
    origin: Option<Instant>,
    sender_report: Option<(u32, Instant)>,
}

impl Reception {
    /// Notes a valid packet.
    pub fn note(&mut self, packet: &Received, now: Instant) {
        let origin = *self.origin.get_or_insert(now);
        let ahead = packet.sequence.wrapping_sub(self.highest as u16) as i16;
        if self.source != Some(packet.ssrc) || !(-100..1000).contains(&ahead) {
            *self = Self {
                source: Some(packet.ssrc),
                base: 0x1_0000 + u64::from(packet.sequence),
                highest: 0x1_0000 + u64::from(packet.sequence),
                lost_before: self.lost(),
                sender_report: self.sender_report.filter(|_| self.source == Some(packet.ssrc)),
                origin: Some(origin),
                ..Self::default()
            };
        } else if ahead > 0 {
            self.highest += ahead as u64;
        }
        self.received += 1;
        let arrival = (now.saturating_duration_since(origin).as_micros() as u64 * u64::from(CLOCK) / 1_000_000) as u32;
        let transit = arrival.wrapping_sub(packet.timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let distance = (transit.wrapping_sub(before) as i32).unsigned_abs().min(CLOCK);
            self.jitter = self.jitter + distance - ((self.jitter + 8) >> 4);
        }
    }

    /// Nothing is to be received for a while: what comes after it begins anew, and what was not received meanwhile is not lost.
    pub fn pause(&mut self) {
        *self = Self {
            lost_before: self.lost(),
            origin: self.origin,
            ..Self::default()
        };
    }

    /// Notes a sender report: the middle 32 bits of its NTP timestamp.
    pub fn note_sender_report(&mut self, ssrc: u32, middle: u32, now: Instant) {
        if self.source == Some(ssrc) {
            self.sender_report = Some((middle, now));
        }
    }

    /// Packets lost since the leg began.
    pub fn lost(&self) -> u64 {
        let expected = if self.source.is_some() { self.highest + 1 - self.base } else { 0 };
        self.lost_before + expected.saturating_sub(self.received)
    }

    /// Interarrival jitter in timestamp units.
    pub fn jitter(&self) -> u32 {
        self.jitter >> 4
    }

    fn block(&mut self, now: Instant) -> Option<rtcp_types::ReportBlockBuilder> {
        let source = self.source?;
        let expected = self.highest + 1 - self.base;
        let expected_now = expected - self.expected_prior;
        let received_now = self.received - self.received_prior;
        self.expected_prior = expected;
        self.received_prior = self.received;
        let lost_now = expected_now.saturating_sub(received_now);
        let fraction = (lost_now * 256).checked_div(expected_now).unwrap_or(0).min(255) as u8;
        let mut block = ReportBlock::builder(source)
            .fraction_lost(fraction)
            .cumulative_lost(expected.saturating_sub(self.received).min(0x7f_ffff) as u32)
            .extended_sequence_number((self.highest - 0x1_0000) as u32)
            .interarrival_jitter(self.jitter());
        if let Some((middle, at)) = self.sender_report {
            let delay = now.saturating_duration_since(at).as_micros().min(60_000_000) as u64 * 65_536 / 1_000_000;
            block = block
                .last_sender_report_timestamp(middle)
                .delay_since_last_sender_report_timestamp(delay as u32);
        }
        Some(block)
    }
}

/// Writes our report to a leg: SR or RR, and SDES with a CNAME that tells nothing. Returns its bytes.
pub fn report<'a>(stream: &Stream, reception: &mut Reception, now: Now, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let block = reception.block(now.mono);
    let name = format!("{:08x}", stream.ssrc());
    let chunk = SdesChunk::builder(stream.ssrc()).add_item(SdesItem::builder(SdesItem::CNAME, &name));
    let sdes = Sdes::builder().add_chunk(chunk);
    let written = if stream.packets() > 0 {
        let mut sender = SenderReport::builder(stream.ssrc())
            .ntp_timestamp(ntp(now.wall))
            .rtp_timestamp(stream.timestamp_at(now.mono))
            .packet_count(stream.packets())
            .octet_count(stream.octets());
        if let Some(block) = block {
            sender = sender.add_report_block(block);
        }
        Compound::builder().add_packet(sender).add_packet(sdes).write_into(buffer)
    } else {
        let mut receiver = ReceiverReport::builder(stream.ssrc());
        if let Some(block) = block {
            receiver = receiver.add_report_block(block);
        }
        Compound::builder().add_packet(receiver).add_packet(sdes).write_into(buffer)
    };
    buffer.get(..written.ok()?)
}

/// What a leg reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Its SSRC and the middle 32 bits of its NTP timestamp, when it sends.
    pub sender: Option<(u32, u32)>,
    /// What it lost of ours since its last report, in 1/256.
    pub fraction_lost: Option<u8>,
}

/// The bytes are not RTCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not RTCP")]
pub struct NotRtcp;

/// Reads a compound packet; `ours` is the SSRC we send to that leg.
pub fn read(packet: &[u8], ours: u32) -> Result<Report, NotRtcp> {
    if packet.len() > MAX_PACKET {
        return Err(NotRtcp);
    }
    let mut report = Report::default();
    for sub in Compound::parse(packet).map_err(|_| NotRtcp)?.take(MAX_SUBPACKETS) {
        match sub.map_err(|_| NotRtcp)? {
            Packet::Sr(sr) => {
                report.sender = Some((sr.ssrc(), (sr.ntp_timestamp() >> 16) as u32));
                report.note_blocks(sr.report_blocks(), ours);
            }
            Packet::Rr(rr) => report.note_blocks(rr.report_blocks(), ours),
            _ => {}
        }
    }
    Ok(report)
}

impl Report {
    fn note_blocks<'a>(&mut self, mut blocks: impl Iterator<Item = ReportBlock<'a>>, ours: u32) {
        if let Some(block) = blocks.find(|block| block.ssrc() == ours) {
            self.fraction_lost = Some(block.fraction_lost());
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
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin of the test's clock")]
    fn start() -> Now {
        Now {
            mono: Instant::now(),
            wall: Timestamp(1_700_000_000_500),
        }
    }

    fn packet(sequence: u16) -> Received {
        Received {
            marker: false,
            payload_type: 0,
            sequence,
            timestamp: u32::from(sequence).wrapping_mul(160),
            ssrc: 7,
            payload: 12..172,
        }
    }

    #[test]
    fn a_report_of_ours_is_read_by_the_other_side() {
        let now = start();
        let mut stream = Stream::new(0xabcd, 0, 0);
        stream.own(160, 160, now.mono);
        let mut reception = Reception::default();
        for sequence in [65_530, 65_531, 65_535, 0, 1] {
            reception.note(&packet(sequence), now.mono);
        }
        assert_eq!(reception.lost(), 3);
        let mut buffer = [0; 256];
        let bytes = report(&stream, &mut reception, now, &mut buffer).unwrap();
        let seen = read(bytes, 7).unwrap();
        assert_eq!(seen.fraction_lost, Some(96));
        assert_eq!(seen.sender.unwrap().0, 0xabcd);
        let again = report(&stream, &mut reception, now, &mut buffer).unwrap();
        assert_eq!(read(again, 7).unwrap().fraction_lost, Some(0));
    }

    #[test]
    fn who_only_listens_gets_a_receiver_report() {
        let mut buffer = [0; 256];
        let bytes = report(&Stream::new(1, 0, 0), &mut Reception::default(), start(), &mut buffer).unwrap();
        assert_eq!(bytes[1], 201);
        assert_eq!(read(bytes, 7).unwrap(), Report::default());
    }

    #[test]
    fn steady_packets_have_no_jitter() {
        let now = start();
        let mut reception = Reception::default();
        for i in 0..100 {
            reception.note(&packet(i), now.mono + Duration::from_millis(20) * u32::from(i));
        }
        assert_eq!(reception.jitter(), 0);
        assert_eq!(reception.lost(), 0);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), ours: u32) {
            let _ = read(&bytes, ours);
        }

        #[test]
        fn no_sequence_panics(sequences in proptest::collection::vec((any::<u16>(), 0u32..3, any::<u32>()), 0..100)) {
            let now = start();
            let mut reception = Reception::default();
            let mut buffer = [0; 256];
            for (sequence, ssrc, timestamp) in sequences {
                reception.note(&Received { ssrc, timestamp, ..packet(sequence) }, now.mono);
                prop_assert!(report(&Stream::new(1, 0, 0), &mut reception, now, &mut buffer).is_some());
            }
        }
    }
}
