//! A short tone of our own for one listener.

use super::*;

/// The length of a beep, in ticks of [`CLOCK`]: 200 ms.
const BEEP: u32 = 1600;

/// A soft 440 Hz tone that one leg hears over all else, or what is left of it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Beep {
    /// Ticks still to be heard.
    left: u32,
}

impl Beep {
    pub(super) fn start() -> Self {
        Self { left: BEEP }
    }

    pub(super) fn sounds(self) -> bool {
        self.left > 0
    }

    /// So many ticks of it have been heard. Returns whether it is over with them.
    pub(super) fn pass(&mut self, ticks: u32) -> bool {
        let sounded = self.sounds();
        self.left = self.left.saturating_sub(ticks);
        sounded && !self.sounds()
    }

    /// Its next samples, so many a tick; silence when it is over. It swells and fades for 10 ms,
    /// without a click.
    pub(super) fn fill(self, samples_per_tick: u32, samples: &mut [i16]) {
        const FADE: f32 = 80.0;
        let begun = BEEP - self.left;
        let left = (self.left * samples_per_tick) as usize;
        for (n, sample) in samples.iter_mut().take(left).enumerate() {
            let at = begun as f32 + n as f32 / samples_per_tick as f32;
            let to_go = (left - n) as f32 / samples_per_tick as f32;
            let swell = (at / FADE).min(to_go / FADE).min(1.0);
            *sample =
                (2000.0 * swell * (at * 440.0 / CLOCK as f32 * std::f32::consts::TAU).sin()) as i16;
        }
        if let Some(rest) = samples.get_mut(left..) {
            rest.fill(0);
        }
    }
}
