//! Codecs: G.711 by tables, G.722, Opus, L16, and comfort noise; and the way from one sample rate
//! to the other. G.729 is known and not decoded: see [`Handling`].

mod g711;
mod g722;
mod noise;
mod opus;
mod resample;

pub use noise::{ComfortNoise, level as noise_level};
pub use resample::{Downsampler, Upsampler};

use super::rtp::MAX_PAYLOAD;
use super::sum::MAX_FRAME;
use g711::Law;
use serde::Deserialize;

/// The most samples that one packet decodes to: 120 ms of Opus at 16 kHz, and what fits a packet of
/// the others.
pub const MAX_DECODED: usize = 2 * MAX_PAYLOAD;

/// What can be done with the sound of a codec. Whatever decides that asks [`Codec::handling`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handling {
    /// Decoded and coded: mixed, transcoded, made of our own music and tones.
    Mixed,
    /// Passed from one leg to another in the same codec, payload by payload, and nothing else:
    /// there is no decoder and no coder.
    Relayed,
}

/// An audio codec, mono.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Codec {
    /// G.711 µ-law, static payload type 0.
    Pcmu,
    /// G.711 A-law, static payload type 8.
    Pcma,
    /// G.722 at 64 kbit/s, static payload type 9.
    G722,
    /// Opus (RFC 7587). Relayed as it is; heard in sums at 16 kHz.
    Opus,
    /// Sixteen bits, linear, at 16 kHz (RFC 3551 4.5.11).
    L16,
    /// G.729 with its annexes A and B, static payload type 18 (RFC 3551 4.5.6). Relayed only.
    G729,
}

impl Codec {
    /// All of them, as they are offered unless configured otherwise.
    pub const ALL: [Codec; 6] =
        [Codec::Pcmu, Codec::Pcma, Codec::G722, Codec::Opus, Codec::L16, Codec::G729];

    /// What can be done with its sound.
    pub fn handling(self) -> Handling {
        match self {
            Codec::Pcmu | Codec::Pcma | Codec::G722 | Codec::Opus | Codec::L16 => Handling::Mixed,
            Codec::G729 => Handling::Relayed,
        }
    }

    /// Its sound can be decoded and coded.
    pub fn is_mixable(self) -> bool {
        self.handling() == Handling::Mixed
    }

    /// Whether what is said in it can be heard by a leg that has the other, and the other way
    /// round.
    pub fn reaches(self, other: Codec) -> bool {
        self == other || self.is_mixable() && other.is_mixable()
    }

    /// The payload type in our offers: static where RFC 3551 has one.
    pub fn payload_type(self) -> u8 {
        match self {
            Codec::Pcmu => 0,
            Codec::Pcma => 8,
            Codec::G722 => 9,
            Codec::Opus => 111,
            Codec::L16 => 112,
            Codec::G729 => 18,
        }
    }

    /// Its name in SDP.
    pub fn name(self) -> &'static str {
        match self {
            Codec::Pcmu => "PCMU",
            Codec::Pcma => "PCMA",
            Codec::G722 => "G722",
            Codec::Opus => "opus",
            Codec::L16 => "L16",
            Codec::G729 => "G729",
        }
    }

    /// The codec of that name, in any case.
    pub fn named(name: &str) -> Option<Codec> {
        Codec::ALL.into_iter().find(|codec| codec.name().eq_ignore_ascii_case(name))
    }

    /// Ticks a second of its RTP timestamps. G.722's is 8000, by an old mistake that was kept (RFC
    /// 3551 4.5.2).
    pub fn clock(self) -> u32 {
        match self {
            Codec::Pcmu | Codec::Pcma | Codec::G722 | Codec::G729 => 8000,
            Codec::Opus => 48_000,
            Codec::L16 => 16_000,
        }
    }

    /// Samples a second that a [`Decoder`] gives and an [`Encoder`] takes: 8000 or 16000.
    pub fn sample_rate(self) -> u32 {
        match self {
            Codec::Pcmu | Codec::Pcma | Codec::G729 => 8000,
            Codec::G722 | Codec::Opus | Codec::L16 => 16_000,
        }
    }

    /// Channels in SDP: Opus says two and means at most (RFC 7587 7).
    pub fn channels(self) -> u32 {
        match self {
            Codec::Opus => 2,
            Codec::Pcmu | Codec::Pcma | Codec::G722 | Codec::L16 | Codec::G729 => 1,
        }
    }

    /// How long a payload sounds, in ticks of [`Codec::clock`]; `None`: it is not one of this
    /// codec's.
    pub fn ticks(self, payload: &[u8]) -> Option<u32> {
        match self {
            Codec::Pcmu | Codec::Pcma | Codec::G722 => Some(payload.len() as u32),
            Codec::Opus => opus::ticks(payload),
            Codec::L16 => (payload.len().is_multiple_of(2)).then_some(payload.len() as u32 / 2),
            // Frames of 10 ms in ten octets; a last one of two describes silence (RFC 3551 4.5.6).
            Codec::G729 => {
                let frames = payload.len() / 10 + usize::from(payload.len() % 10 == 2);
                (matches!(payload.len() % 10, 0 | 2)).then_some(80 * frames as u32)
            }
        }
    }

    /// The longest frame at or below so many ticks of 1/8000 s that one packet can be made of;
    /// `None`: there is none, or this codec is [`Handling::Relayed`].
    pub fn frame(self, ticks: u32) -> Option<u32> {
        match self {
            Codec::Pcmu | Codec::Pcma | Codec::G722 | Codec::L16 => {
                Some(ticks.min(MAX_FRAME as u32 / 2)).filter(|ticks| *ticks > 0)
            }
            Codec::Opus => [160, 80].into_iter().find(|frame| *frame <= ticks),
            Codec::G729 => None,
        }
    }

    /// Writes so many ticks of 1/8000 s of silence; returns its octets: none where the codec is
    /// [`Handling::Relayed`], of which silence is that nothing is sent.
    pub fn silence(self, ticks: u32, payload: &mut [u8]) -> usize {
        // TOC alone: nothing to decode, for as long as it says (RFC 6716 3.1: SILK, wideband).
        let (octet, len) = match self {
            Codec::Pcmu => (0xff, ticks as usize),
            Codec::Pcma => (0xd5, ticks as usize),
            Codec::G722 => (0xfc, ticks as usize),
            Codec::Opus => (if ticks < 160 { 8 << 3 } else { 9 << 3 }, 1),
            Codec::L16 => (0, ticks as usize * 4),
            Codec::G729 => (0, 0),
        };
        let len = len.min(payload.len());
        payload[..len].fill(octet);
        len
    }

    /// It is G.711, of either law.
    pub fn is_law(self) -> bool {
        self.law().is_some()
    }

    fn law(self) -> Option<Law> {
        match self {
            Codec::Pcmu => Some(Law::Mu),
            Codec::Pcma => Some(Law::A),
            Codec::G722 | Codec::Opus | Codec::L16 | Codec::G729 => None,
        }
    }

    /// From one law of G.711 to the other, octet by octet; false when that is not what is asked.
    pub fn transcode_law(self, to: Codec, payload: &[u8], transcoded: &mut [u8]) -> bool {
        match (self.law(), to.law()) {
            (Some(from), Some(to)) if from != to => {
                from.transcode(payload, transcoded);
                true
            }
            _ => false,
        }
    }
}

/// Payloads of one speaker to samples. What has a state has it on the heap.
#[derive(Debug)]
pub struct Decoder(Decoding);

#[derive(Debug)]
enum Decoding {
    Law(Law),
    G722(Box<g722::G722Decoder>),
    Opus(Option<Box<opus::OpusDecoding>>),
    L16,
    /// There is no decoder.
    None,
}

impl Decoder {
    /// A decoder for a stream that begins.
    pub fn new(codec: Codec) -> Self {
        Self(match codec {
            Codec::Pcmu => Decoding::Law(Law::Mu),
            Codec::Pcma => Decoding::Law(Law::A),
            Codec::G722 => Decoding::G722(Box::new(g722::G722Decoder::new())),
            Codec::Opus => Decoding::Opus(opus::OpusDecoding::new().map(Box::new)),
            Codec::L16 => Decoding::L16,
            Codec::G729 => Decoding::None,
        })
    }

    /// A payload's samples at [`Codec::sample_rate`], as many as `samples` has room for
    /// ([`MAX_DECODED`] is enough). Returns how many; 0 for what cannot be decoded.
    pub fn decode(&mut self, payload: &[u8], samples: &mut [i16]) -> usize {
        match &mut self.0 {
            Decoding::Law(law) => {
                law.decode(payload, samples);
                payload.len().min(samples.len())
            }
            Decoding::G722(decoder) => {
                decoder.decode(payload, samples);
                (2 * payload.len()).min(samples.len() & !1)
            }
            Decoding::Opus(decoder) => {
                decoder.as_mut().map_or(0, |decoder| decoder.decode(payload, samples))
            }
            Decoding::L16 => {
                let octets = payload.chunks_exact(2).filter_map(<[u8]>::first_chunk::<2>);
                let pairs = samples.iter_mut().zip(octets);
                pairs.map(|(sample, octets)| *sample = i16::from_be_bytes(*octets)).count()
            }
            Decoding::None => 0,
        }
    }

    /// Packets that were dropped because the codec's library failed at them.
    pub fn failures(&self) -> u32 {
        match &self.0 {
            Decoding::Opus(Some(decoder)) => decoder.failures(),
            Decoding::Opus(None)
            | Decoding::Law(_)
            | Decoding::G722(_)
            | Decoding::L16
            | Decoding::None => 0,
        }
    }

    /// What stands in for a lost packet, by the codec itself; false if it leaves that to the jitter
    /// buffer.
    pub fn conceal(&mut self, samples: &mut [i16]) -> bool {
        match &mut self.0 {
            Decoding::Opus(Some(decoder)) => {
                decoder.conceal(samples);
                true
            }
            Decoding::Opus(None)
            | Decoding::Law(_)
            | Decoding::G722(_)
            | Decoding::L16
            | Decoding::None => false,
        }
    }
}

/// Samples to one listener's payloads. What has a state has it on the heap.
#[derive(Debug)]
pub struct Encoder(Encoding);

#[derive(Debug)]
enum Encoding {
    Law(Law),
    G722(Box<g722::G722Encoder>),
    Opus(Option<Box<opus::OpusEncoding>>),
    L16,
    /// There is no coder.
    None,
}

impl Encoder {
    /// An encoder for a stream that begins.
    pub fn new(codec: Codec) -> Self {
        Self(match codec {
            Codec::Pcmu => Encoding::Law(Law::Mu),
            Codec::Pcma => Encoding::Law(Law::A),
            Codec::G722 => Encoding::G722(Box::new(g722::G722Encoder::new())),
            Codec::Opus => Encoding::Opus(opus::OpusEncoding::new().map(Box::new)),
            Codec::L16 => Encoding::L16,
            Codec::G729 => Encoding::None,
        })
    }

    /// One frame of samples at [`Codec::sample_rate`], of a length that [`Codec::frame`] allows.
    /// Returns its octets; 0 if it cannot be coded.
    pub fn encode(&mut self, samples: &[i16], payload: &mut [u8]) -> usize {
        match &mut self.0 {
            Encoding::Law(law) => {
                law.encode(samples, payload);
                samples.len().min(payload.len())
            }
            Encoding::G722(encoder) => {
                encoder.encode(samples, payload);
                (samples.len() / 2).min(payload.len())
            }
            Encoding::Opus(encoder) => {
                encoder.as_mut().map_or(0, |encoder| encoder.encode(samples, payload))
            }
            Encoding::L16 => {
                let octets = payload.chunks_exact_mut(2).zip(samples);
                2 * octets
                    .map(|(octets, sample)| octets.copy_from_slice(&sample.to_be_bytes()))
                    .count()
            }
            Encoding::None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mixable() -> impl Iterator<Item = Codec> {
        Codec::ALL.into_iter().filter(|codec| codec.is_mixable())
    }

    #[test]
    fn g729_is_measured_and_never_becomes_samples_nor_samples_it() {
        let ticks = |len| Codec::G729.ticks(&[0; 64][..len]);
        assert_eq!([20, 30, 2, 12, 22].map(ticks), [160, 240, 80, 160, 240].map(Some));
        assert_eq!([1, 9, 11, 13, 15].map(ticks), [None; 5]);
        let mut samples = [7; MAX_DECODED];
        let mut decoder = Decoder::new(Codec::G729);
        assert_eq!(decoder.decode(&[0x55; 20], &mut samples), 0);
        assert!(!decoder.conceal(&mut samples));
        assert_eq!(samples, [7; MAX_DECODED]);
        let mut payload = [7; MAX_PAYLOAD];
        assert_eq!(Encoder::new(Codec::G729).encode(&tone(8000, 160), &mut payload), 0);
        assert_eq!(Codec::G729.silence(160, &mut payload), 0);
        assert!(!Codec::G729.transcode_law(Codec::Pcmu, &[0x55; 20], &mut payload));
        assert!(!Codec::Pcmu.transcode_law(Codec::G729, &[0x55; 20], &mut payload));
        assert_eq!(payload, [7; MAX_PAYLOAD]);
        assert_eq!(Codec::G729.frame(160), None);
    }

    #[test]
    fn what_is_only_relayed_reaches_its_own_kind_alone() {
        for (one, other) in mixable().flat_map(|one| mixable().map(move |other| (one, other))) {
            assert!(one.reaches(other));
        }
        for codec in mixable() {
            assert!(!codec.reaches(Codec::G729) && !Codec::G729.reaches(codec), "{codec:?}");
        }
        assert!(Codec::G729.reaches(Codec::G729));
    }

    fn tone(rate: u32, len: usize) -> Vec<i16> {
        let sample = |n: usize| {
            (8000.0 * (std::f64::consts::TAU * 440.0 * n as f64 / f64::from(rate)).sin()) as i16
        };
        (0..len).map(sample).collect()
    }

    fn power(samples: &[i16]) -> f64 {
        samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / samples.len() as f64
    }

    #[test]
    fn a_tone_comes_through_every_codec_as_loud_as_it_was() {
        for codec in mixable() {
            let rate = codec.sample_rate();
            let (mut encoder, mut decoder) = (Encoder::new(codec), Decoder::new(codec));
            let said = tone(rate, rate as usize);
            let mut heard = Vec::new();
            for frame in said.chunks_exact(rate as usize / 50) {
                let mut payload = [0; MAX_PAYLOAD];
                let len = encoder.encode(frame, &mut payload);
                assert_eq!(codec.ticks(&payload[..len]), Some(codec.clock() / 50), "{codec:?}");
                let mut samples = [0; MAX_DECODED];
                let count = decoder.decode(&payload[..len], &mut samples);
                assert_eq!(count, frame.len(), "{codec:?}");
                heard.extend(&samples[..count]);
            }
            let change = 10.0 * (power(&heard[4000..]) / power(&said[4000..])).log10();
            assert!(change.abs() < 1.0, "{codec:?}: {change} dB");
        }
    }

    #[test]
    fn silence_is_silent_and_as_long_as_it_says() {
        for codec in mixable() {
            let mut decoder = Decoder::new(codec);
            let mut payload = [0; MAX_PAYLOAD];
            for ticks in [80, 160] {
                for _ in 0..5 {
                    let len = codec.silence(ticks, &mut payload);
                    assert_eq!(
                        codec.ticks(&payload[..len]),
                        Some(ticks * (codec.clock() / 8000)),
                        "{codec:?}"
                    );
                    let mut samples = [1; MAX_DECODED];
                    let count = decoder.decode(&payload[..len], &mut samples);
                    assert_eq!(count as u32, ticks * codec.sample_rate() / 8000);
                    assert!(samples[..count].iter().all(|sample| sample.abs() <= 8), "{codec:?}");
                }
            }
        }
    }

    #[test]
    fn opus_packets_say_how_long_they_are() {
        assert_eq!(opus::ticks(&[]), None);
        assert_eq!(opus::ticks(&[9 << 3]), Some(960));
        assert_eq!(opus::ticks(&[31 << 3 | 1, 0]), Some(1920));
        assert_eq!(opus::ticks(&[3 << 3 | 3, 2]), Some(5760));
        assert_eq!(opus::ticks(&[3 << 3 | 3, 3]), None, "over 120 ms");
        assert_eq!(opus::ticks(&[3 << 3 | 3, 0]), None, "no frames");
        assert_eq!(opus::ticks(&[3 << 3 | 3]), None);
    }

    #[test]
    fn a_lost_packet_of_opus_is_concealed_by_opus() {
        let (mut encoder, mut decoder) = (Encoder::new(Codec::Opus), Decoder::new(Codec::Opus));
        let mut samples = [0; MAX_DECODED];
        for frame in tone(16_000, 16_000).chunks_exact(320) {
            let mut packet = [0; MAX_PAYLOAD];
            let len = encoder.encode(frame, &mut packet);
            decoder.decode(&packet[..len], &mut samples);
        }
        let before = power(&samples[..320]);
        assert!(decoder.conceal(&mut samples[..320]));
        assert!(power(&samples[..320]) > before / 20.0);
        assert!(!Decoder::new(Codec::Pcmu).conceal(&mut samples));
    }

    #[test]
    fn a_frame_is_one_that_the_codec_has() {
        assert_eq!(Codec::Pcmu.frame(480), Some(240));
        assert_eq!(Codec::Pcmu.frame(200), Some(200));
        assert_eq!(Codec::Opus.frame(480), Some(160));
        assert_eq!(Codec::Opus.frame(100), Some(80));
        assert_eq!(Codec::Opus.frame(40), None);
    }

    proptest! {
        #[test]
        fn no_payload_panics_and_none_gives_more_than_there_is_room_for(
            payloads in proptest::collection::vec(
                proptest::collection::vec(any::<u8>(), 0..MAX_PAYLOAD),
                1..6
            ),
            room in 0usize..MAX_DECODED
        ) {
            for codec in Codec::ALL {
                let mut decoder = Decoder::new(codec);
                for payload in &payloads {
                    let mut samples = vec![0; room];
                    prop_assert!(decoder.decode(payload, &mut samples) <= room);
                    decoder.conceal(&mut samples);
                }
            }
        }

        #[test]
        fn no_frame_panics(
            samples in proptest::collection::vec(any::<i16>(), 0..1000), room in 0usize..MAX_PAYLOAD
        ) {
            for codec in Codec::ALL {
                let mut payload = vec![0; room];
                prop_assert!(Encoder::new(codec).encode(&samples, &mut payload) <= room);
            }
        }
    }
}
