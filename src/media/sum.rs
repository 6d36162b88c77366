//! Sums of the samples of several speakers.

/// The longest frame mixed at once: 30 ms at 16 kHz.
pub const MAX_FRAME: usize = 480;

/// A sum of speakers, kept wide until the end: nothing is clipped before everything is in, and
/// nothing is ever subtracted.
#[derive(Clone, Debug)]
pub struct Sum([i32; MAX_FRAME]);

impl Default for Sum {
    fn default() -> Self {
        Self([0; MAX_FRAME])
    }
}

impl Sum {
    /// Adds a speaker's samples at a gain in 1/256.
    pub fn add(&mut self, samples: &[i16], gain: u16) {
        match gain {
            256 => {
                for (sum, sample) in self.0.iter_mut().zip(samples) {
                    *sum += i32::from(*sample);
                }
            }
            _ => {
                for (sum, sample) in self.0.iter_mut().zip(samples) {
                    *sum += i32::from(*sample) * i32::from(gain) / 256;
                }
            }
        }
    }

    /// Adds a speaker's samples at a gain that goes evenly from one to another, in 1/256: no step,
    /// no click.
    pub fn add_between(&mut self, samples: &[i16], from: u16, to: u16) {
        let (from, step) = (i32::from(from), i32::from(to) - i32::from(from));
        let len = samples.len().max(1) as i32;
        for (n, (sum, sample)) in self.0.iter_mut().zip(samples).enumerate() {
            let gain = from + step * (n as i32 + 1) / len;
            *sum += i32::from(*sample) * gain / 256;
        }
    }

    /// The sum as samples, clipped only here.
    pub fn saturate(&self, samples: &mut [i16]) {
        for (sample, sum) in samples.iter_mut().zip(&self.0) {
            *sample = (*sum).clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_is_clipped_once_at_the_end() {
        let mut sum = Sum::default();
        sum.add(&[30_000, -30_000, 100], 256);
        sum.add(&[30_000, -30_000, 100], 256);
        sum.add(&[-30_000, 30_000, 100], 256);
        let mut samples = [0; 3];
        sum.saturate(&mut samples);
        assert_eq!(samples, [30_000, -30_000, 300]);
        sum.add(&[30_000, -30_000, 0], 256);
        sum.saturate(&mut samples);
        assert_eq!(samples, [32_767, -32_768, 300]);
    }

    #[test]
    fn gains_scale() {
        let mut sum = Sum::default();
        sum.add(&[1000, -1000], 128);
        let mut samples = [0; 2];
        sum.saturate(&mut samples);
        assert_eq!(samples, [500, -500]);
    }
}
