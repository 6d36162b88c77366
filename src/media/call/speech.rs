//! Sound of one leg as samples, for the listeners that mix it.

use super::*;

/// The longest hole that a codec conceals itself: 200 ms at 16 kHz.
const MAX_HOLE: usize = 3200;
/// What one piece of a payload is decoded to at most.
const PIECE: usize = 480;

/// No payload type: those of RTP are below 128.
const NO_TYPE: u8 = 0xff;

/// The codecs that a leg speaks.
#[derive(Clone, Copy, Debug)]
pub(super) struct SpokenCodecs {
    /// The payload type of its sound, [`NO_TYPE`] for none, and the codec that names.
    payload_type: u8,
    codec: Codec,
    /// Those it has spoken since it was described, as bits.
    codecs: u8,
}

impl Default for SpokenCodecs {
    fn default() -> Self {
        Self { payload_type: NO_TYPE, codec: Codec::Pcmu, codecs: 0 }
    }
}

impl SpokenCodecs {
    pub(super) fn codec(self) -> Codec {
        self.codec
    }

    /// What a payload type names, if it is the one of its sound.
    pub(super) fn format_of(self, payload_type: u8) -> Option<Format> {
        (payload_type == self.payload_type).then_some(Format::Audio(self.codec))
    }

    /// What may come from now on. Returns whether the codec that comes has to be another one.
    pub(super) fn expect(&mut self, media: &LegMedia, is_first: bool) -> bool {
        let receives = &media.receives;
        let was = self.codec;
        let codecs = || {
            receives.iter().filter_map(|(_, format)| match format {
                Format::Audio(codec) => Some(codec),
                Format::Events(_) | Format::ComfortNoise => None,
            })
        };
        if is_first || !codecs().any(|codec| codec == was) {
            let same_as_sent = codecs().find(|codec| *codec == media.codec);
            self.codec = same_as_sent.or_else(|| codecs().next()).unwrap_or(media.codec);
        }
        if receives.get(self.payload_type) != Some(Format::Audio(self.codec)) {
            self.payload_type = receives.number_of(self.codec).unwrap_or(NO_TYPE);
        }
        let agreed = codecs().fold(0, |mask, codec| mask | codec_bit(codec));
        self.codecs = self.codecs & agreed | codec_bit(self.codec);
        !is_first && self.codec != was
    }

    /// Goes on in another codec, or under another number. Returns whether the codec has not been
    /// spoken before; `None`: it is the same.
    pub(super) fn turn_to(
        &mut self,
        codec: Codec,
        payload_type: u8,
        agreed: Option<Format>,
    ) -> Option<bool> {
        self.payload_type = match agreed == Some(Format::Audio(codec)) {
            true => payload_type,
            false => NO_TYPE,
        };
        let was = std::mem::replace(&mut self.codec, codec);
        let is_first = self.codecs & codec_bit(codec) == 0;
        self.codecs |= codec_bit(codec);
        (was != codec).then_some(is_first)
    }

    /// The samples a second that hold whatever has been spoken.
    pub(super) fn sample_rate(self) -> u32 {
        let spoken = Codec::ALL.into_iter().filter(|codec| self.has(*codec));
        spoken.map(Codec::sample_rate).max().unwrap_or(CLOCK)
    }

    /// Whether a transcoder to `to` may be needed again.
    pub(super) fn may_need(self, transcoder: &Transcoder, to: Codec) -> bool {
        transcoder.may_be_needed(self.codecs, to)
    }

    fn has(self, codec: Codec) -> bool {
        self.codecs & codec_bit(codec) != 0
    }
}

/// Samples of what a leg says, while it is mixed for any other.
#[derive(Debug, Default)]
pub(super) struct Speech {
    /// For the codec that it speaks.
    pub(super) decoder: Option<(Codec, Decoder)>,
    pub(super) ring: JitterBuffer,
}

impl Speech {
    /// A payload of its own into its ring, piece by piece. Returns whether the ring grew.
    pub(super) fn decode(
        &mut self,
        received: &ReceivedRtp,
        payload: &[u8],
        rate: u32,
        up: &mut Upsampler,
        now: Instant,
    ) -> bool {
        let Some((codec, decoder)) = &mut self.decoder else {
            return false;
        };
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
    /// Has a decoder for what is spoken, if it is mixed at all; `anew`: at another rate than
    /// before.
    pub(super) fn prepare_decoder(
        &mut self,
        spoken: Option<SpokenCodecs>,
        anew: bool,
        spares: &mut Vec<(Codec, Decoder)>,
        up: &mut Upsampler,
    ) {
        if anew || spoken.is_none() {
            self.decoder = None;
            *spares = Vec::new();
        }
        let is_there = |spoken: &SpokenCodecs| {
            self.decoder.as_ref().is_some_and(|(codec, _)| *codec == spoken.codec)
        };
        let Some(spoken) = spoken.filter(|spoken| !is_there(spoken)) else {
            return;
        };
        let spare = spares.iter().position(|(codec, _)| *codec == spoken.codec);
        let next = spare.map(|at| spares.swap_remove(at));
        let next = next.unwrap_or_else(|| (spoken.codec, Decoder::new(spoken.codec)));
        spares.extend(self.decoder.replace(next));
        spares.retain(|(codec, _)| spoken.has(*codec));
        *up = Upsampler::default();
    }
}

fn codec_bit(codec: Codec) -> u8 {
    1 << codec as u8
}
