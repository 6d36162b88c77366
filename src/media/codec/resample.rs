//! 8 kHz to 16 kHz and back: a half-band FIR of 47 taps (Kaiser window, β = 5), split in its two
//! phases.
//!
//! Flat within 0.1 dB up to 3.4 kHz, 54 dB down from 4.6 kHz on, 1.44 ms late (23 samples at 16
//! kHz).

/// Every other tap in 1/32768, symmetric; those between are 0 but the middle one, a half.
const TAPS: [i32; 24] = {
    const HALF: [i32; 12] = [-17, 43, -85, 149, -241, 371, -553, 813, -1206, 1875, -3347, 10_390];
    let mut taps = [0; 24];
    let mut n = 0;
    while n < 12 {
        taps[n] = HALF[n];
        taps[23 - n] = HALF[n];
        n += 1;
    }
    taps
};

const NARROW_PAST: usize = 23;
const WIDE_PAST: usize = 46;
/// Samples at 8 kHz in one go: 30 ms.
const PIECE: usize = 240;

fn saturate(sample: i32) -> i16 {
    sample.clamp(i32::from(i16::MIN), i32::from(i16::MAX)) as i16
}

/// 8 kHz in, 16 kHz out.
#[derive(Clone, Debug)]
pub struct Upsampler {
    past: [i16; NARROW_PAST],
}

impl Default for Upsampler {
    fn default() -> Self {
        Self { past: [0; NARROW_PAST] }
    }
}

impl Upsampler {
    /// Fills `wide` with two samples for each of `narrow`; what has no room is left out.
    pub fn pass(&mut self, narrow: &[i16], wide: &mut [i16]) {
        for (narrow, wide) in narrow.chunks(PIECE).zip(wide.chunks_mut(2 * PIECE)) {
            let mut all = [0; NARROW_PAST + PIECE];
            let all = &mut all[..NARROW_PAST + narrow.len()];
            all[..NARROW_PAST].copy_from_slice(&self.past);
            all[NARROW_PAST..].copy_from_slice(narrow);
            for (window, pair) in all.windows(NARROW_PAST + 1).zip(wide.chunks_exact_mut(2)) {
                let sum: i32 =
                    window.iter().zip(&TAPS).map(|(sample, tap)| i32::from(*sample) * tap).sum();
                pair[0] = saturate((sum + (1 << 13)) >> 14);
                pair[1] = window[12];
            }
            self.past.copy_from_slice(&all[narrow.len()..]);
        }
    }
}

/// 16 kHz in, 8 kHz out.
#[derive(Clone, Debug)]
pub struct Downsampler {
    past: [i16; WIDE_PAST],
}

impl Default for Downsampler {
    fn default() -> Self {
        Self { past: [0; WIDE_PAST] }
    }
}

impl Downsampler {
    /// Fills `narrow` with a sample for each two of `wide`, of which there must be an even number.
    pub fn pass(&mut self, wide: &[i16], narrow: &mut [i16]) {
        for (wide, narrow) in wide.chunks(2 * PIECE).zip(narrow.chunks_mut(PIECE)) {
            let mut all = [0; WIDE_PAST + 2 * PIECE];
            let all = &mut all[..WIDE_PAST + wide.len()];
            all[..WIDE_PAST].copy_from_slice(&self.past);
            all[WIDE_PAST..].copy_from_slice(wide);
            for (window, sample) in all.windows(WIDE_PAST + 1).step_by(2).zip(narrow.iter_mut()) {
                let odd: i32 = window
                    .iter()
                    .step_by(2)
                    .zip(&TAPS)
                    .map(|(sample, tap)| i32::from(*sample) * tap)
                    .sum();
                *sample = saturate((odd + i32::from(window[23]) * (1 << 14) + (1 << 14)) >> 15);
            }
            self.past.copy_from_slice(&all[wide.len()..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sine(hertz: f64, rate: f64, len: usize) -> Vec<i16> {
        let sample = |n: usize| {
            (10_000.0 * (std::f64::consts::TAU * hertz * n as f64 / rate).sin()).round() as i16
        };
        (0..len).map(sample).collect()
    }

    /// The level of one frequency in decibels against full strength of the sines here.
    fn level(samples: &[i16], hertz: f64, rate: f64) -> f64 {
        let (mut re, mut im) = (0.0, 0.0);
        for (n, sample) in samples.iter().enumerate() {
            let phase = std::f64::consts::TAU * hertz * n as f64 / rate;
            re += f64::from(*sample) * phase.cos();
            im += f64::from(*sample) * phase.sin();
        }
        20.0 * (2.0 * re.hypot(im) / samples.len() as f64 / 10_000.0).log10()
    }

    fn up(narrow: &[i16], frame: usize) -> Vec<i16> {
        let mut upsampler = Upsampler::default();
        let mut wide = vec![0; 2 * narrow.len()];
        for (narrow, wide) in narrow.chunks(frame).zip(wide.chunks_mut(2 * frame)) {
            upsampler.pass(narrow, wide);
        }
        wide
    }

    fn down(wide: &[i16], frame: usize) -> Vec<i16> {
        let mut downsampler = Downsampler::default();
        let mut narrow = vec![0; wide.len() / 2];
        for (wide, narrow) in wide.chunks(2 * frame).zip(narrow.chunks_mut(frame)) {
            downsampler.pass(wide, narrow);
        }
        narrow
    }

    #[test]
    fn speech_passes_within_half_a_decibel_and_its_mirror_image_is_fifty_decibels_down() {
        for hertz in [200.0, 1000.0, 2000.0, 3000.0, 3400.0] {
            let wide = up(&sine(hertz, 8000.0, 8000), 160);
            let passed = level(&wide[1600..], hertz, 16_000.0);
            assert!(passed.abs() < 0.5, "{hertz} Hz: {passed} dB");
            let mirror = level(&wide[1600..], 8000.0 - hertz, 16_000.0);
            assert!(mirror < -50.0, "{hertz} Hz: mirrored at {mirror} dB");
            let narrow = down(&sine(hertz, 16_000.0, 16_000), 160);
            let passed = level(&narrow[800..], hertz, 8000.0);
            assert!(passed.abs() < 0.5, "{hertz} Hz: {passed} dB");
        }
        for hertz in [4700.0, 5500.0, 7000.0, 7900.0] {
            let narrow = down(&sine(hertz, 16_000.0, 16_000), 160);
            let folded = level(&narrow[800..], 8000.0 - hertz, 8000.0);
            assert!(folded < -50.0, "{hertz} Hz: folded at {folded} dB");
        }
    }

    #[test]
    fn up_and_down_again_is_the_same_three_milliseconds_later() {
        let narrow = sine(700.0, 8000.0, 4000);
        let again = down(&up(&narrow, 160), 160);
        for (before, after) in narrow[500..3900].iter().zip(&again[523..]) {
            assert!((before - after).abs() < 60, "{before} {after}");
        }
    }

    #[test]
    fn the_length_of_frames_makes_no_difference() {
        let narrow = sine(1234.0, 8000.0, 2400);
        assert_eq!(up(&narrow, 160), up(&narrow, 80));
        assert_eq!(up(&narrow, 160), up(&narrow, 480));
        let wide = sine(1234.0, 16_000.0, 4800);
        assert_eq!(down(&wide, 160), down(&wide, 480));
    }
}
