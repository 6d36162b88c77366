//! Rate limits: a token bucket (the generic cell rate algorithm, ITU-T I.371), the one of the whole
//! crate.

use std::time::{Duration, Instant};

/// A token bucket: holds `most` tokens and gets one back every `each`. An empty default is a full
/// bucket, and needs no clock to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokenBucket {
    /// When every token that was taken will have come back.
    whole_at: Option<Instant>,
}

impl TokenBucket {
    /// How long until the bucket is full; zero: it is.
    pub fn used(&self, now: Instant) -> Duration {
        self.whole_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// How long until there is a token; zero: there is one.
    pub fn wait(&self, most: u32, each: Duration, now: Instant) -> Duration {
        self.used(now).saturating_sub(each * most.saturating_sub(1))
    }

    /// Takes a token, also from an empty bucket.
    pub fn take(&mut self, each: Duration, now: Instant) {
        self.whole_at = Some(now + self.used(now) + each);
    }

    /// Takes a token if there is one.
    ///
    /// # Errors
    ///
    /// How long until there is one.
    pub fn try_take(&mut self, most: u32, each: Duration, now: Instant) -> Result<(), Duration> {
        match self.wait(most, each, now) {
            Duration::ZERO => {
                self.take(each, now);
                Ok(())
            }
            wait => Err(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_at_once_and_its_rate_from_then_on() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do to begin with")]
        let now = Instant::now();
        let (most, each) = (20, Duration::from_millis(500));
        let mut bucket = TokenBucket::default();
        for _ in 0..most {
            assert_eq!(bucket.try_take(most, each, now), Ok(()));
        }
        assert_eq!(bucket.try_take(most, each, now), Err(each));
        let later = now + each;
        assert_eq!(bucket.try_take(most, each, later), Ok(()));
        assert_eq!(bucket.try_take(most, each, later), Err(each));
        assert_eq!(bucket.used(later), each * most);
        assert_eq!(bucket.used(later + each * most), Duration::ZERO);
    }
}
