//! When which call is due: a timing wheel of milliseconds.
//!
//! Every entry is in one bucket at most, linked through two tables that grow only when a call is
//! opened. What is due later than the wheel reaches comes to its end and is asked again there.

use std::time::{Duration, Instant};

/// Buckets of one millisecond.
const BUCKETS: usize = 1024;
/// No entry; no bucket.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    before: u32,
    after: u32,
    /// The tick it waits for.
    tick: Option<u64>,
}

/// Entries by number, each with at most one time.
#[derive(Debug)]
pub(super) struct Wheel {
    origin: Instant,
    /// Everything up to this tick has been taken.
    taken: u64,
    /// The tick of the latest [`Wheel::take`].
    reached: u64,
    heads: Box<[u32; BUCKETS]>,
    links: Vec<Link>,
    waiting: usize,
}

impl Wheel {
    pub(super) fn new(origin: Instant) -> Self {
        Self {
            origin,
            taken: 0,
            reached: 0,
            heads: Box::new([NONE; BUCKETS]),
            links: Vec::new(),
            waiting: 0,
        }
    }

    /// Room for the entries below `count`: the only place that allocates.
    pub(super) fn make_room(&mut self, count: usize) {
        let empty = Link { before: NONE, after: NONE, tick: None };
        if self.links.len() < count {
            self.links.resize(count, empty);
        }
    }

    /// Wakes the entry at `at` or up to a millisecond later, unless it is woken earlier anyway.
    /// What lies back is due in the next tick.
    pub(super) fn wake(&mut self, entry: usize, at: Instant) {
        let due = at.saturating_duration_since(self.origin).as_micros().div_ceil(1000) as u64;
        let tick = due.max(self.reached + 1).min(self.taken + BUCKETS as u64 - 1);
        let Some(link) = self.links.get(entry) else {
            return;
        };
        if link.tick.is_some_and(|earlier| earlier <= tick) {
            return;
        }
        self.forget(entry);
        let head = &mut self.heads[tick as usize % BUCKETS];
        let after = std::mem::replace(head, entry as u32);
        self.links[entry] = Link { before: NONE, after, tick: Some(tick) };
        if let Some(next) = self.links.get_mut(after as usize) {
            next.before = entry as u32;
        }
        self.waiting += 1;
    }

    /// The entry waits no more.
    pub(super) fn forget(&mut self, entry: usize) {
        let Some(link) = self.links.get_mut(entry) else {
            return;
        };
        let Some(tick) = link.tick.take() else { return };
        let (before, after) = (link.before, link.after);
        match self.links.get_mut(before as usize) {
            Some(before) => before.after = after,
            None => self.heads[tick as usize % BUCKETS] = after,
        }
        if let Some(next) = self.links.get_mut(after as usize) {
            next.before = before;
        }
        self.waiting -= 1;
    }

    /// Takes out one entry that is due.
    pub(super) fn take(&mut self, now: Instant) -> Option<usize> {
        let reached = now.saturating_duration_since(self.origin).as_millis() as u64;
        self.reached = self.reached.max(reached);
        while self.taken < reached {
            if self.waiting == 0 {
                self.taken = reached;
                break;
            }
            let head = self.heads[(self.taken + 1) as usize % BUCKETS];
            if head != NONE {
                self.forget(head as usize);
                return Some(head as usize);
            }
            self.taken += 1;
        }
        None
    }

    /// When [`Wheel::take`] next has something.
    pub(super) fn next(&self) -> Option<Instant> {
        if self.waiting == 0 {
            return None;
        }
        let mut ticks = self.taken + 1..self.taken + BUCKETS as u64;
        let tick = ticks.find(|tick| self.heads[*tick as usize % BUCKETS] != NONE)?;
        Some(self.origin + Duration::from_millis(tick))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin of the test's clock")]
    fn start() -> Instant {
        Instant::now()
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn who_is_due_is_taken_once_and_never_early() {
        let start = start();
        let mut wheel = Wheel::new(start);
        wheel.make_room(3);
        wheel.wake(0, start + 5 * MS);
        wheel.wake(1, start + 5 * MS);
        wheel.wake(2, start + 7 * MS);
        assert_eq!(wheel.next(), Some(start + 5 * MS));
        assert_eq!(wheel.take(start + 4 * MS), None);
        let mut taken = [wheel.take(start + 5 * MS), wheel.take(start + 5 * MS)];
        taken.sort();
        assert_eq!(taken, [Some(0), Some(1)]);
        assert_eq!(wheel.take(start + 6 * MS), None);
        assert_eq!(wheel.take(start + 70 * MS), Some(2));
        assert_eq!(wheel.next(), None);
    }

    #[test]
    fn an_earlier_time_takes_the_place_of_a_later_one_and_not_the_other_way_round() {
        let start = start();
        let mut wheel = Wheel::new(start);
        wheel.make_room(1);
        wheel.wake(0, start + 50 * MS);
        wheel.wake(0, start + 5 * MS);
        wheel.wake(0, start + 80 * MS);
        assert_eq!(wheel.take(start + 5 * MS), Some(0));
        assert_eq!(wheel.take(start + 100 * MS), None);
    }

    #[test]
    fn beyond_the_wheel_it_is_asked_again() {
        let start = start();
        let mut wheel = Wheel::new(start);
        wheel.make_room(1);
        let due = start + Duration::from_secs(15);
        let mut now = start;
        let mut asked = 0;
        wheel.wake(0, due);
        while now < due {
            now = wheel.next().unwrap();
            assert_eq!(wheel.take(now), Some(0));
            asked += 1;
            if now < due {
                wheel.wake(0, due);
            }
        }
        assert!(asked < 20);
        assert_eq!(now, due);
    }

    proptest! {
        #[test]
        fn every_entry_comes_within_a_millisecond_of_its_earliest_time(
            steps in proptest::collection::vec((0usize..20, 0u64..1500, 0u64..30), 1..300)
        ) {
            let start = start();
            let mut wheel = Wheel::new(start);
            wheel.make_room(20);
            // When it is due, and how far ahead that was at most when it was said.
            let mut due = [None::<(Instant, Duration)>; 20];
            let mut now = start;
            for (entry, ahead, pass) in steps {
                let at = now + Duration::from_micros(ahead * 700);
                wheel.wake(entry, at);
                let (before, ahead) = due[entry].unwrap_or((at, at - now));
                due[entry] = Some((before.min(at), ahead.max(at - now)));
                now += Duration::from_micros(pass * 300);
                while let Some(entry) = wheel.take(now) {
                    // An entry that was due beyond the wheel may come early and asks again.
                    let (at, ahead) = due[entry].take().unwrap();
                    if at > now {
                        prop_assert!(ahead > 1000 * MS || at <= now + MS);
                        wheel.wake(entry, at);
                        due[entry] = Some((at, at - now));
                    }
                }
                for (at, _) in due.iter().flatten() {
                    prop_assert!(*at + MS > now, "forgotten");
                }
                if let Some(next) = wheel.next() {
                    prop_assert!(next + MS > now);
                }
            }
        }
    }
}
