//! Rate limits: a token bucket (the generic cell rate algorithm, ITU-T I.371), the one of the whole
//! crate, and many of them by key; and how long to wait before what has failed is tried again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long to wait after so many failures before the next attempt: `first`, and twice as long after
/// each further failure, `longest` at most.
pub fn back_off(first: Duration, failures: u32, longest: Duration) -> Duration {
    first.saturating_mul(1 << failures.min(16)).min(longest)
}

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

    /// Empties the bucket: it is full again after this long, and not before.
    pub fn drain(&mut self, until_full: Duration, now: Instant) {
        self.whole_at = Some(now + until_full);
    }
}

/// A token bucket for each key. Full ones are forgotten once enough keys have come together.
#[derive(Debug)]
pub struct KeyedLimiter<K> {
    buckets: BTreeMap<K, TokenBucket>,
    /// Keys that must come together before it is worth looking for full buckets.
    sweep: usize,
    /// Keys that were left after the last sweep.
    swept: usize,
}

impl<K: Ord> KeyedLimiter<K> {
    /// Without keys; looks for full buckets when there are `sweep` keys more than twice what the
    /// last look has left.
    pub fn new(sweep: usize) -> Self {
        Self { buckets: BTreeMap::new(), sweep, swept: 0 }
    }

    /// The bucket of a key; a full one where there was none.
    pub fn bucket(&mut self, key: K, now: Instant) -> &mut TokenBucket {
        if self.buckets.len() > 2 * self.swept + self.sweep {
            self.buckets.retain(|_, bucket| !bucket.used(now).is_zero());
            self.swept = self.buckets.len();
        }
        self.buckets.entry(key).or_default()
    }

    /// The key's bucket is full.
    pub fn is_full(&self, key: &K, now: Instant) -> bool {
        self.buckets.get(key).is_none_or(|bucket| bucket.used(now).is_zero())
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
    #[test]
    fn keys_whose_buckets_are_full_are_forgotten_in_the_end() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do to begin with")]
        let now = Instant::now();
        let each = Duration::from_millis(100);
        let mut limiter = KeyedLimiter::new(1_000);
        for number in 0..5_000u64 {
            let at = now + Duration::from_secs(number);
            assert_eq!(limiter.bucket(number, at).try_take(1, each, at), Ok(()));
            assert!(!limiter.is_full(&number, at) && limiter.is_full(&number, at + each));
        }
        assert!(limiter.buckets.len() <= 1_100, "{}", limiter.buckets.len());
    }
}
