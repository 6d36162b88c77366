//! When the keys of an issuer are fetched, and for how long they are believed.

use super::IdentityConfig;
use std::time::{Duration, Instant};

/// How long after a fetch that failed the next one is made.
const RETRY: Duration = Duration::from_secs(10);
/// How long after a fetch for a key that was not known the next one is made for another.
const FORCED: Duration = Duration::from_secs(60);

/// What has been fetched when.
pub(super) struct KeySchedule {
    refresh: Duration,
    stale: Duration,
    /// The last fetch that brought keys.
    fetched: Option<Instant>,
    /// The last fetch, if it brought none.
    failed: Option<Instant>,
    /// The last one for a key that was not known.
    forced: Option<Instant>,
}

impl KeySchedule {
    pub(super) fn new(config: &IdentityConfig) -> Self {
        let (refresh, stale) = (config.keys_refresh, config.keys_stale);
        Self { refresh, stale, fetched: None, failed: None, forced: None }
    }

    /// The keys may be believed.
    pub(super) fn is_usable(&self, now: Instant) -> bool {
        self.fetched.is_some_and(|fetched| now < fetched + self.stale)
    }

    /// They are to be fetched again, whoever asks.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        let is_old = self.fetched.is_none_or(|fetched| now >= fetched + self.refresh);
        is_old && self.may_retry(now)
    }

    /// Nobody has asked for so long that they are not to be believed before they are fetched again,
    /// unless that fails.
    pub(super) fn is_neglected(&self, now: Instant) -> bool {
        let is_old = self.fetched.is_none_or(|fetched| now >= fetched + 2 * self.refresh);
        is_old && self.failed.is_none()
    }

    /// The last fetch has brought keys, or was long enough ago for another.
    fn may_retry(&self, now: Instant) -> bool {
        self.failed.is_none_or(|failed| now >= failed + RETRY)
    }

    /// They are to be fetched again for a key that is not among them.
    pub(super) fn may_force(&mut self, now: Instant) -> bool {
        let may = self.forced.is_none_or(|forced| now >= forced + FORCED);
        if may {
            self.forced = Some(now);
        }
        may
    }

    /// A fetch that began then has brought keys.
    pub(super) fn handle_fetched(&mut self, begun: Instant) {
        (self.fetched, self.failed) = (Some(begun), None);
    }

    /// A fetch has brought none.
    pub(super) fn handle_failed(&mut self, now: Instant) {
        self.failed = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn keys_are_fetched_when_they_are_old_and_believed_until_they_are_too_old() {
        let begin = clock::instant();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut schedule = KeySchedule::new(&IdentityConfig::default());
        assert!(schedule.is_due(at(0)) && !schedule.is_usable(at(0)));
        schedule.handle_failed(at(0));
        assert!(!schedule.is_due(at(9)) && schedule.is_due(at(10)));
        schedule.handle_fetched(at(10));
        assert!(!schedule.is_due(at(309)) && schedule.is_due(at(310)));
        schedule.handle_failed(at(310));
        assert!(!schedule.is_due(at(319)), "it has just been tried");
        assert!(schedule.is_usable(at(3609)) && !schedule.is_usable(at(3610)));
    }

    #[test]
    fn keys_that_nobody_has_asked_for_are_fetched_before_they_are_believed_again() {
        let begin = clock::instant();
        let at = |seconds| begin + Duration::from_secs(seconds);
        let mut schedule = KeySchedule::new(&IdentityConfig::default());
        schedule.handle_fetched(at(0));
        assert!(!schedule.is_neglected(at(599)) && schedule.is_neglected(at(600)));
        schedule.handle_failed(at(600));
        assert!(!schedule.is_neglected(at(1000)), "the issuer cannot be reached");
    }

    #[test]
    fn unknown_keys_are_looked_for_once_a_minute() {
        let begin = clock::instant();
        let mut schedule = KeySchedule::new(&IdentityConfig::default());
        let forced = (0..120_000_u64)
            .filter(|millis| schedule.may_force(begin + Duration::from_millis(*millis)));
        assert_eq!(forced.count(), 2);
    }
}
