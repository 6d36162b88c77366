//! Which pair of ports is next: RTP on the even one, RTCP on the odd one after it (RFC 3550 11).

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

/// The pairs of a range that are free, the one that has rested longest first.
#[derive(Debug)]
pub(super) struct PortPool {
    rest: Duration,
    /// The even port, and since when it may be taken; `None`: always.
    free: VecDeque<(u16, Option<Instant>)>,
}

impl PortPool {
    /// `rest`: how long a pair that was given back is not taken.
    pub(super) fn of(range: &RangeInclusive<u16>, rest: Duration) -> Self {
        let first = range.start().next_multiple_of(2).max(2);
        let pairs = (first..*range.end()).step_by(2);
        Self { rest, free: pairs.map(|port| (port, None)).collect() }
    }

    /// A pair that has rested.
    pub(super) fn take(&mut self, now: Instant) -> Option<u16> {
        let (port, since) = *self.free.front()?;
        if since.is_some_and(|since| since > now) {
            return None;
        }
        self.free.pop_front();
        Some(port)
    }

    /// The pair is free again, after its rest.
    pub(super) fn give_back(&mut self, port: u16, now: Instant) {
        self.free.push_back((port, Some(now + self.rest)));
    }

    /// Pairs that can be taken now, by their even port.
    pub(super) fn ready(&self, now: Instant) -> impl Iterator<Item = u16> {
        let rested =
            move |(_, since): &&(u16, Option<Instant>)| since.is_none_or(|since| since <= now);
        self.free.iter().filter(rested).map(|(port, _)| *port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_secs(5);

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin of the test's clock")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn a_pair_is_taken_again_only_after_five_seconds() {
        let now = start();
        let mut ports = PortPool::of(&(20_001..=20_005), REST);
        assert_eq!(
            (ports.take(now), ports.take(now), ports.take(now)),
            (Some(20_002), Some(20_004), None)
        );
        ports.give_back(20_004, now);
        assert_eq!(ports.take(now + REST - Duration::from_millis(1)), None);
        assert_eq!(ports.ready(now).count(), 0);
        assert_eq!(ports.take(now + REST), Some(20_004));
    }

    #[test]
    fn the_port_that_has_rested_longest_is_next() {
        let now = start();
        let mut ports = PortPool::of(&(20_000..=20_007), REST);
        let first = ports.take(now).unwrap();
        ports.give_back(first, now);
        let later = now + Duration::from_secs(60);
        let order: Vec<_> = std::iter::from_fn(|| ports.take(later)).collect();
        assert_eq!(order, [20_002, 20_004, 20_006, 20_000]);
    }

    #[test]
    fn a_range_ends_with_a_whole_pair() {
        let now = start();
        for (range, pairs) in [
            (20_000..=20_000, 0),
            (20_000..=20_001, 1),
            (20_001..=20_002, 0),
            (65_534..=65_535, 1),
            (0..=3, 1),
        ] {
            assert_eq!(PortPool::of(&range, REST).ready(now).count(), pairs, "{range:?}");
        }
    }
}
