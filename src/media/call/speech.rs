//! Sound of one leg as samples, for the listeners that mix it.

use super::*;

/// The longest hole that a codec conceals itself: 200 ms at 16 kHz.
const MAX_HOLE: usize = 3200;
/// What one piece of a payload is decoded to at most.
const PIECE: usize = 480;

/// Samples of what a leg says, while it is mixed for any other.
#[derive(Debug, Default)]
pub(super) struct Speech {
    /// For the codec that it speaks.
    pub(super) decoder: Option<(Codec, Decoder)>,
    pub(super) ring: Ring,
}

impl Speech {
    /// A payload of its own into its ring, piece by piece. Returns whether the ring grew.
    pub(super) fn decode(&mut self, received: &ReceivedRtp, payload: &[u8], rate: u32, up: &mut Upsampler, now: Instant) -> bool {
        let Some((codec, decoder)) = &mut self.decoder else { return false };
        let clock = codec.clock();
        // Distances count, and a wrap is a restart at most once a day.
        let mut timestamp = if clock > rate {
            received.timestamp / (clock / rate)
        } else {
            received.timestamp.wrapping_mul(rate / clock)
        };
        if *codec == Codec::Opus {
            // What is not lost but late is decoded out of its order when it comes.
            let mut samples = [0; MAX_HOLE];
            let missing = self.ring.missing(received.ssrc, timestamp).min(MAX_HOLE);
            if missing > 0 && decoder.conceal(&mut samples[..missing]) {
                self.ring.fill(&samples[..missing]);
            }
        }
        let mut is_first = true;
        let mut write = |samples: &[i16]| {
            let grew = match std::mem::take(&mut is_first) {
                true => self.ring.write(received.ssrc, timestamp, samples, now),
                false => self.ring.write_on(received.ssrc, timestamp, samples),
            };
            timestamp = timestamp.wrapping_add(samples.len() as u32);
            grew
        };
        if *codec == Codec::Opus {
            let mut samples = [0; MAX_DECODED];
            let count = decoder.decode(payload, &mut samples);
            return samples[..count].chunks(PIECE).fold(false, |grew, piece| write(piece) | grew);
        }
        let mut grew = false;
        let octets = if *codec == Codec::L16 { 2 * PIECE } else { PIECE / 2 };
        for piece in payload.chunks(octets) {
            let mut samples = [0; PIECE];
            let count = decoder.decode(piece, &mut samples);
            if codec.sample_rate() == rate {
                grew |= write(&samples[..count]);
            } else {
                let mut wide = [0; PIECE];
                up.pass(&samples[..count], &mut wide[..2 * count]);
                grew |= write(&wide[..2 * count]);
            }
        }
        grew
    }
}
