//! Opus (RFC 6716) as telephones use it (RFC 7587): heard and spoken here at 16 kHz in mono,
//! whatever the other side's band; one frame a packet.

use opus_rs::{Application, OpusDecoder, OpusEncoder};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The longest packet: 120 ms.
pub(super) const LONGEST: usize = 1920;
const RATE: i32 = 16_000;
const BITS_PER_SECOND: i32 = 24_000;
/// Of 0 to 10: what a coach on a telephone can tell from more does not pay for its processor time.
const COMPLEXITY: i32 = 0;

/// How long a packet sounds, in ticks of its 48 kHz clock (RFC 6716 3.1, 3.2); `None`: it is none.
pub(super) fn ticks(packet: &[u8]) -> Option<u32> {
    let toc = *packet.first()?;
    let frame = match toc >> 3 {
        config @ 0..=11 => [480, 960, 1920, 2880][usize::from(config & 3)],
        config @ 12..=15 => [480, 960][usize::from(config & 1)],
        config => [120, 240, 480, 960][usize::from(config & 3)],
    };
    let frames = match toc & 3 {
        0 => 1,
        1 | 2 => 2,
        _ => u32::from(packet.get(1)? & 63),
    };
    let ticks = frame * frames;
    (1..=5760).contains(&ticks).then_some(ticks)
}

/// Packets to samples at 16 kHz.
pub(super) struct OpusDecoding {
    inner: OpusDecoder,
    floats: [f32; LONGEST],
    failures: u32,
}

impl OpusDecoding {
    /// `None` only if the library refuses what it documents to take.
    pub(super) fn new() -> Option<Self> {
        Some(Self { inner: OpusDecoder::new(RATE, 1).ok()?, floats: [0.0; LONGEST], failures: 0 })
    }

    /// The samples of a packet, as many as `samples` has room for; 0 for what is none.
    pub(super) fn decode(&mut self, packet: &[u8], samples: &mut [i16]) -> usize {
        let Some(ticks) = ticks(packet) else { return 0 };
        self.run(packet, ticks as usize / 3, samples)
    }

    /// What a lost packet is replaced by.
    pub(super) fn conceal(&mut self, samples: &mut [i16]) {
        // The library conceals in steps of 2.5 ms.
        let len = samples.len().min(LONGEST) / 40 * 40;
        let done = if len > 0 { self.run(&[], len, samples) } else { 0 };
        samples[done..].fill(0);
    }

    /// Packets on which the library has panicked.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    /// What the library left half done is not gone on with.
    fn fail(&mut self) -> usize {
        self.failures = self.failures.saturating_add(1);
        if let Ok(inner) = OpusDecoder::new(RATE, 1) {
            self.inner = inner;
        }
        0
    }

    fn run(&mut self, packet: &[u8], len: usize, samples: &mut [i16]) -> usize {
        let Some(floats) = self.floats.get_mut(..len) else {
            return 0;
        };
        let inner = &mut self.inner;
        // Anybody may send a packet, and the library is not ours: what it stumbles over is a packet
        // lost, not a call.
        let decoded = match catch_unwind(AssertUnwindSafe(|| inner.decode(packet, len, floats))) {
            Ok(Ok(decoded)) => decoded,
            Ok(Err(_)) => return 0,
            Err(_) => return self.fail(),
        };
        let decoded = decoded.min(len).min(samples.len());
        for (sample, float) in samples.iter_mut().zip(&floats[..decoded]) {
            *sample = (float * 32_768.0).round().clamp(-32_768.0, 32_767.0) as i16;
        }
        decoded
    }
}

impl std::fmt::Debug for OpusDecoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Decoder").finish_non_exhaustive()
    }
}

/// Samples at 16 kHz to packets.
pub(super) struct OpusEncoding(OpusEncoder);

impl OpusEncoding {
    /// `None` only if the library refuses what it documents to take.
    pub(super) fn new() -> Option<Self> {
        let mut inner = OpusEncoder::new(RATE, 1, Application::Voip).ok()?;
        inner.bitrate_bps = BITS_PER_SECOND;
        inner.complexity = COMPLEXITY;
        Some(Self(inner))
    }

    /// One frame of 10, 20, 40 or 60 ms; 0 when it is of another length or has no room.
    pub(super) fn encode(&mut self, samples: &[i16], packet: &mut [u8]) -> usize {
        self.0.encode_i16(samples, samples.len(), packet).unwrap_or(0)
    }
}

impl std::fmt::Debug for OpusEncoding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    //! RFC 6716 3.4: what a decoder makes of a packet that is none.

    use super::*;

    /// Reproducible chance.
    fn next(state: &mut u64) -> u64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    #[test]
    fn whatever_comes_is_decoded_or_dropped_and_what_follows_is_heard() {
        let mut encoder = OpusEncoding::new().unwrap();
        let mut decoder = OpusDecoding::new().unwrap();
        let mut packet = [0; 1500];
        let voice: Vec<i16> = (0..320).map(|n| if n % 40 < 20 { 9000 } else { -9000 }).collect();
        let len = encoder.encode(&voice, &mut packet);
        assert!(len > 0);
        let mut state = 0x9E37_79B9_7F4A_7C15;
        let mut samples = [0; LONGEST];
        for round in 0..4000 {
            let mut bad = packet[..len].to_vec();
            match round % 4 {
                // The right beginning, and chance.
                0 => bad.iter_mut().skip(1).for_each(|byte| *byte = next(&mut state) as u8),
                1 => {
                    let at = next(&mut state) as usize % bad.len();
                    bad[at] ^= 1 << (next(&mut state) % 8);
                }
                2 => bad.truncate(next(&mut state) as usize % len),
                _ => bad = (0..next(&mut state) % 200).map(|_| next(&mut state) as u8).collect(),
            }
            let count = decoder.decode(&bad, &mut samples);
            assert!(count <= LONGEST);
        }
        let heard: usize = (0..10).map(|_| decoder.decode(&packet[..len], &mut samples)).sum();
        assert_eq!(heard, 3200);
        assert_eq!(decoder.failures(), 0, "the library panicked");
    }
}
