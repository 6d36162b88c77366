//! G.711, tones and their measure. Independent of `crate::media`: the far side must not share its
//! arithmetic.

use std::f32::consts::TAU;
use std::sync::Arc;

/// Samples per second of G.711.
pub const RATE: u32 = 8000;
/// Samples in a packet of 20 ms.
pub const FRAME: usize = 160;
/// What is reported for no signal at all.
pub const SILENCE_DBFS: f32 = -120.0;

/// G.711 as it stands in an RTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Companding {
    /// PCMU, payload type 0.
    Mu,
    /// PCMA, payload type 8.
    A,
    /// None: frames under the name of G.729, payload type 18, which hold nothing that anybody could
    /// decode.
    Opaque,
}

impl Companding {
    /// Its static RTP payload type (RFC 3551).
    pub fn payload_type(self) -> u8 {
        match self {
            Companding::Mu => 0,
            Companding::A => 8,
            Companding::Opaque => 18,
        }
    }

    /// Its name in SDP.
    pub fn name(self) -> &'static str {
        match self {
            Companding::Mu => "PCMU",
            Companding::A => "PCMA",
            Companding::Opaque => "G729",
        }
    }

    /// The law of a static payload type.
    pub fn of_payload_type(payload_type: u8) -> Option<Companding> {
        match payload_type {
            0 => Some(Companding::Mu),
            8 => Some(Companding::A),
            18 => Some(Companding::Opaque),
            _ => None,
        }
    }

    /// The payload of so many samples: a byte for each, or ten for each 80 where it is opaque.
    pub fn payload(self, samples: &[i16]) -> Arc<[u8]> {
        match self {
            Companding::Mu | Companding::A => {
                samples.iter().map(|sample| self.encode(*sample)).collect()
            }
            Companding::Opaque => {
                samples.iter().step_by(8).map(|sample| self.encode(*sample)).collect()
            }
        }
    }

    /// One linear sample to one byte (ITU-T G.711).
    pub fn encode(self, sample: i16) -> u8 {
        match self {
            Companding::Opaque => sample as u8,
            Companding::Mu => {
                let sign = if sample < 0 { 0x80 } else { 0 };
                let magnitude = u32::from(sample.unsigned_abs()).min(32_635) + 132;
                let exponent = 24 - magnitude.leading_zeros();
                let mantissa = (magnitude >> (exponent + 3)) & 0x0f;
                !(sign | (exponent as u8) << 4 | mantissa as u8)
            }
            Companding::A => {
                let (sign, magnitude) =
                    if sample < 0 { (0, !sample as u32) } else { (0x80, sample as u32) };
                let exponent = (24_u32.saturating_sub(magnitude.leading_zeros())).min(7);
                let mantissa =
                    if exponent == 0 { magnitude >> 4 } else { magnitude >> (exponent + 3) } & 0x0f;
                (sign | (exponent as u8) << 4 | mantissa as u8) ^ 0x55
            }
        }
    }

    /// One byte to one linear sample.
    pub fn decode(self, byte: u8) -> i16 {
        match self {
            Companding::Opaque => 0,
            Companding::Mu => {
                let byte = !byte;
                let magnitude = ((i32::from(byte & 0x0f) << 3) + 132) << ((byte >> 4) & 7);
                let magnitude = magnitude - 132;
                (if byte & 0x80 != 0 { -magnitude } else { magnitude }) as i16
            }
            Companding::A => {
                let byte = byte ^ 0x55;
                let exponent = (byte >> 4) & 7;
                let mantissa = i32::from(byte & 0x0f) << 4;
                let magnitude =
                    if exponent == 0 { mantissa + 8 } else { (mantissa + 264) << (exponent - 1) };
                (if byte & 0x80 != 0 { magnitude } else { -magnitude }) as i16
            }
        }
    }
}

/// A continuous sine with a little noise, so that no two packets carry the same bytes.
#[derive(Clone, Debug)]
pub struct Tone {
    phase: f32,
    noise: u32,
}

impl Tone {
    /// Starts at phase zero.
    pub fn new(seed: u32) -> Tone {
        Tone { phase: 0.0, noise: seed | 1 }
    }

    /// The next 20 ms at `hz` and `dbfs` (0 is a sine of full scale).
    pub fn frame(&mut self, hz: f32, dbfs: f32) -> [i16; FRAME] {
        let amplitude = 32_767.0 * 10_f32.powf(dbfs / 20.0);
        std::array::from_fn(|_| {
            let sample = amplitude * self.phase.sin();
            self.phase = (self.phase + TAU * hz / RATE as f32) % TAU;
            self.noise ^= self.noise << 13;
            self.noise ^= self.noise >> 17;
            self.noise ^= self.noise << 5;
            let noise = (self.noise % 65) as f32 - 32.0;
            (sample + noise).clamp(-32_768.0, 32_767.0) as i16
        })
    }
}

/// Power of one frequency in a block, relative to a sine of full scale (Goertzel under a Hann
/// window).
pub fn tone_power(samples: &[i16], hz: f32) -> f32 {
    let n = samples.len();
    if n < 2 {
        return 0.0;
    }
    let coefficient = 2.0 * f64::from(TAU * hz / RATE as f32).cos();
    let (mut s1, mut s2) = (0.0_f64, 0.0_f64);
    for (i, sample) in samples.iter().enumerate() {
        let window = 0.5 - 0.5 * (std::f64::consts::TAU * i as f64 / n as f64).cos();
        let s0 = f64::from(*sample) / 32_767.0 * window + coefficient * s1 - s2;
        s2 = s1;
        s1 = s0;
    }
    let power = s1 * s1 + s2 * s2 - coefficient * s1 * s2;
    // A full-scale sine gives |X| = n/2 · 1/2 (the window's mean).
    (power / (n as f64 / 4.0).powi(2)) as f32
}

/// Power to dBFS, never below [`SILENCE_DBFS`].
pub fn dbfs(power: f32) -> f32 {
    if power <= 0.0 { SILENCE_DBFS } else { (10.0 * power.log10()).max(SILENCE_DBFS) }
}

/// Mean level of one frequency over blocks of 100 ms: a break in phase costs one block, not the
/// measure.
pub fn level(samples: &[i16], hz: f32) -> f32 {
    let powers: Vec<f32> =
        samples.chunks_exact(5 * FRAME).map(|block| tone_power(block, hz)).collect();
    if powers.is_empty() {
        SILENCE_DBFS
    } else {
        dbfs(powers.iter().sum::<f32>() / powers.len() as f32)
    }
}

/// The loudest block of 100 ms of one frequency, blocks overlapping by half: a leak of one packet
/// shows.
pub fn peak(samples: &[i16], hz: f32) -> f32 {
    let count = (samples.len() / FRAME).saturating_sub(4);
    dbfs(
        (0..count)
            .map(|i| tone_power(&samples[i * FRAME..(i + 5) * FRAME], hz))
            .fold(0.0, f32::max),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_survives_either_law_at_its_level_and_nothing_appears_elsewhere() {
        for law in [Companding::Mu, Companding::A] {
            let mut tone = Tone::new(7);
            let samples: Vec<i16> = (0..50)
                .flat_map(|_| tone.frame(613.0, -16.0))
                .map(|sample| law.decode(law.encode(sample)))
                .collect();
            assert!(
                (level(&samples, 613.0) + 16.0).abs() < 0.3,
                "{law:?} {}",
                level(&samples, 613.0)
            );
            assert!(peak(&samples, 437.0) < -60.0, "{law:?} {}", peak(&samples, 437.0));
            assert!(peak(&samples, 1021.0) < -60.0, "{law:?}");
        }
    }

    #[test]
    fn every_byte_decodes_and_encodes_to_the_same_level() {
        for law in [Companding::Mu, Companding::A] {
            for byte in 0..=255 {
                assert_eq!(
                    law.decode(law.encode(law.decode(byte))),
                    law.decode(byte),
                    "{law:?} {byte}"
                );
            }
        }
        assert_eq!(Companding::Mu.encode(0), 0xff);
        assert_eq!(Companding::A.encode(0), 0xd5);
        assert_eq!(Companding::Mu.decode(0x80), 32_124);
        assert_eq!(Companding::A.decode(0xaa), 32_256);
    }

    #[test]
    fn no_two_frames_are_alike() {
        let mut tone = Tone::new(3);
        let mut frames: Vec<Vec<u8>> = (0..3000)
            .map(|_| {
                tone.frame(437.0, -16.0)
                    .iter()
                    .map(|sample| Companding::Mu.encode(*sample))
                    .collect()
            })
            .collect();
        frames.sort();
        frames.dedup();
        assert_eq!(frames.len(), 3000);
    }

    #[test]
    fn a_single_packet_of_a_leak_shows_in_the_peak() {
        let mut samples = vec![0; 100 * FRAME];
        samples[40 * FRAME..41 * FRAME].copy_from_slice(&Tone::new(1).frame(1021.0, -16.0));
        assert!(peak(&samples, 1021.0) > -33.0, "{}", peak(&samples, 1021.0));
    }
}
