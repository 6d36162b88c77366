//! Comfort noise (RFC 3389): a level instead of silence.

/// The level a payload asks for, in dB below overload, 0 to 127 (RFC 3389 3.1); its spectrum is
/// taken as flat. `None`: no payload.
pub fn level(payload: &[u8]) -> Option<u8> {
    payload.first().map(|octet| octet & 0x7f)
}

/// White noise that goes on where it was.
#[derive(Clone, Copy, Debug)]
pub struct ComfortNoise {
    state: u32,
    peak: i32,
}

impl ComfortNoise {
    /// Of a level in dB below overload; 0 is a square wave at full scale (RFC 3389 3.1).
    pub fn new(level: u8) -> Self {
        let rms = 32_767.0 * 10_f32.powf(-f32::from(level.min(127)) / 20.0);
        Self {
            state: 0x2545_f491,
            // Evenly spread samples: their square is a third of the peak's. Louder than a whisper
            // it is no background.
            peak: (rms * 3_f32.sqrt()).min(3000.0) as i32,
        }
    }

    /// Fills a frame.
    pub fn fill(&mut self, samples: &mut [i16]) {
        for sample in samples {
            self.state ^= self.state << 13;
            self.state ^= self.state >> 17;
            self.state ^= self.state << 5;
            let unit = i64::from(self.state as i32);
            *sample = ((unit * i64::from(self.peak)) >> 31) as i16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_has_the_level_that_was_asked_for() {
        for below in [40, 50, 60, 70] {
            let mut samples = [0; 16_000];
            ComfortNoise::new(below).fill(&mut samples);
            let power: f64 =
                samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / 16_000.0;
            let measured = 20.0 * (power.sqrt() / 32_767.0).log10();
            assert!((measured + f64::from(below)).abs() < 1.5, "{below}: {measured} dB");
        }
    }

    #[test]
    fn a_peer_cannot_make_it_loud() {
        let mut samples = [0; 1000];
        ComfortNoise::new(level(&[0x80]).unwrap()).fill(&mut samples);
        assert!(samples.iter().all(|sample| sample.abs() <= 3000));
        assert_eq!(level(&[]), None);
    }
}
