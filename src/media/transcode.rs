//! One speaker's stream in another codec, fed by that speaker alone: what a listener gets of it is
//! the same whatever other legs are on the call.

use super::codec::{Codec, Decoder, Downsampler, Encoder, MAX_DECODED, Upsampler};
use super::sum::MAX_FRAME;

/// Samples that wait for a frame to be full: what one packet can bring, and a frame.
const MAX_WAITING: usize = 2 * MAX_DECODED + MAX_FRAME;

/// A decoder, an encoder, and the way from the one's rate to the other's.
#[derive(Debug)]
pub struct Transcoder {
    from: Codec,
    to: Codec,
    decoder: Decoder,
    encoder: Encoder,
    up: Upsampler,
    down: Downsampler,
    waiting: Box<[i16; MAX_WAITING]>,
    len: usize,
    /// The source's last timestamp, and what we have made of it.
    timestamps: Option<(u32, u32)>,
}

impl Transcoder {
    /// For a stream that begins.
    pub fn new(from: Codec, to: Codec) -> Self {
        Self {
            from,
            to,
            decoder: Decoder::new(from),
            encoder: Encoder::new(to),
            up: Upsampler::default(),
            down: Downsampler::default(),
            waiting: Box::new([0; MAX_WAITING]),
            len: 0,
            timestamps: None,
        }
    }

    /// Whether it is from the one codec to the other.
    pub fn is(&self, from: Codec, to: Codec) -> bool {
        (self.from, self.to) == (from, to)
    }

    /// Whether it is to that codec, and from one of these (as bits by their places in
    /// [`Codec::ALL`]).
    pub fn may_be_needed(&self, spoken: u8, to: Codec) -> bool {
        self.to == to && spoken & 1 << self.from as u8 != 0
    }

    /// For a stream that begins again: what still waited is of before.
    pub fn restart(&mut self) {
        self.len = 0;
        self.timestamps = None;
    }

    /// A timestamp of the source in the clock of the other codec; its distances are right across a
    /// wrap.
    pub fn timestamp(&mut self, theirs: u32) -> u32 {
        let (before, ours) = self.timestamps.unwrap_or((theirs, theirs));
        let ahead = i64::from(theirs.wrapping_sub(before) as i32) * i64::from(self.to.clock())
            / i64::from(self.from.clock());
        let ours = ours.wrapping_add(ahead as u32);
        self.timestamps = Some((theirs, ours));
        ours
    }

    /// Takes a payload. Returns whether nothing of an earlier one waited.
    pub fn take(&mut self, payload: &[u8]) -> bool {
        let was_empty = self.len == 0;
        let mut samples = [0; MAX_DECODED];
        let count = self.decoder.decode(payload, &mut samples);
        let samples = &samples[..count & !1];
        let room = &mut self.waiting[self.len..];
        let came = match (self.from.sample_rate(), self.to.sample_rate()) {
            (8000, 16_000) => {
                let came = (2 * samples.len()).min(room.len() & !1);
                self.up.pass(&samples[..came / 2], &mut room[..came]);
                came
            }
            (16_000, 8000) => {
                let came = (samples.len() / 2).min(room.len());
                self.down.pass(&samples[..2 * came], &mut room[..came]);
                came
            }
            _ => {
                let came = samples.len().min(room.len());
                room[..came].copy_from_slice(&samples[..came]);
                came
            }
        };
        self.len += came;
        was_empty
    }

    /// How long the next packet will be, in ticks of 1/8000 s; `None`: more has to come first. And
    /// whether it is all that waits.
    pub fn ready(&self) -> Option<(u32, bool)> {
        let ticks = self.len as u32 / (self.to.sample_rate() / 8000);
        let frame = self.to.frame(ticks)?;
        Some((frame, frame == ticks))
    }

    /// Writes the payload of the next packet; returns its octets.
    pub fn give(&mut self, payload: &mut [u8]) -> usize {
        let Some((frame, _)) = self.ready() else {
            return 0;
        };
        let samples = (frame * (self.to.sample_rate() / 8000)) as usize;
        let octets = self.encoder.encode(&self.waiting[..samples], payload);
        self.waiting.copy_within(samples..self.len, 0);
        self.len -= samples;
        octets
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::rtp::MAX_PAYLOAD;

    #[test]
    fn as_much_comes_out_as_goes_in_from_every_codec_to_every_other() {
        let mixable = || Codec::ALL.into_iter().filter(|codec| codec.is_mixable());
        for from in mixable() {
            for to in mixable().filter(|to| *to != from) {
                let mut transcoder = Transcoder::new(from, to);
                let mut encoder = Encoder::new(from);
                let mut ticks = 0;
                for round in 0..50 {
                    let samples: Vec<i16> = (0..from.sample_rate() / 50)
                        .map(|n| ((n * 97 + round * 31) % 4000) as i16)
                        .collect();
                    let mut payload = [0; MAX_PAYLOAD];
                    let len = encoder.encode(&samples, &mut payload);
                    assert!(transcoder.take(&payload[..len]));
                    while transcoder.ready().is_some() {
                        let mut payload = [0; MAX_PAYLOAD];
                        let len = transcoder.give(&mut payload);
                        ticks += to.ticks(&payload[..len]).unwrap();
                    }
                }
                assert_eq!(ticks, to.clock(), "{from:?} to {to:?}");
            }
        }
    }

    #[test]
    fn packets_of_thirty_milliseconds_become_frames_that_opus_has() {
        let mut transcoder = Transcoder::new(Codec::Pcmu, Codec::Opus);
        transcoder.take(&[0xff; 240]);
        assert_eq!(transcoder.ready(), Some((160, false)));
        transcoder.give(&mut [0; MAX_PAYLOAD]);
        assert_eq!(transcoder.ready(), Some((80, true)));
        transcoder.give(&mut [0; MAX_PAYLOAD]);
        assert_eq!(transcoder.ready(), None);
        assert!(transcoder.take(&[0xff; 40]));
        assert_eq!(transcoder.ready(), None);
        assert!(!transcoder.take(&[0xff; 40]));
        assert_eq!(transcoder.ready(), Some((80, true)));
    }

    #[test]
    fn timestamps_keep_their_distances_in_the_other_clock_and_across_its_wrap() {
        let mut transcoder = Transcoder::new(Codec::Pcmu, Codec::Opus);
        let first = transcoder.timestamp(u32::MAX - 79);
        assert_eq!(transcoder.timestamp(80).wrapping_sub(first), 960);
        assert_eq!(transcoder.timestamp(400).wrapping_sub(first), 960 + 1920);
        assert_eq!(transcoder.timestamp(240).wrapping_sub(first), 960 + 960);
    }
}
