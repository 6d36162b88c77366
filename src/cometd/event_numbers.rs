//! Each user's events have numbers, and the last of them are kept: which ones, decided here; where,
//! in the event log.
//!
//! A number is never used twice, although the event log may be a moment behind when the process
//! dies: every start of the process begins a new epoch, and a number is `epoch × 1,000,000,000 +
//! count`. They fit into what JavaScript can say exactly for nine million starts.

use crate::model::UserId;
use std::collections::{BTreeMap, VecDeque};

/// Numbers in an epoch.
pub const EPOCH: u64 = 1_000_000_000;

/// What is known of one user's events.
#[derive(Debug, Default)]
struct NumberRange {
    last: u64,
    /// The highest number that is not kept any more.
    dropped: u64,
    /// Number and size of each event that is kept, oldest first.
    kept: VecDeque<(u64, usize)>,
    bytes: usize,
}

/// Numbers of all users.
#[derive(Debug)]
pub(super) struct EventNumbers {
    epoch: u64,
    events: usize,
    bytes: usize,
    /// Of everybody: what is not kept any more.
    dropped: u64,
    accounts: BTreeMap<UserId, NumberRange>,
}

impl EventNumbers {
    /// Keeps at most so many events and bytes of each user.
    pub(super) fn new(epoch: u64, events: usize, bytes: usize) -> Self {
        Self { epoch, events, bytes, dropped: 0, accounts: BTreeMap::new() }
    }

    /// Nothing that happened in earlier lives of the process is sure to be kept.
    pub(super) fn restore_nothing(&mut self) {
        self.dropped = self.epoch();
    }

    /// An event that an earlier life of the process has kept; oldest first. What must go to stay
    /// within bounds.
    pub(super) fn restore(&mut self, user: &UserId, number: u64, bytes: usize) -> Vec<u64> {
        let account = self.accounts.entry(user.clone()).or_default();
        account.last = account.last.max(number);
        Self::keep(account, number, bytes, self.events, self.bytes)
    }

    /// An earlier life has not kept the user's events up to this number.
    pub(super) fn restore_dropped(&mut self, user: &UserId, number: u64) {
        let account = self.accounts.entry(user.clone()).or_default();
        account.dropped = account.dropped.max(number);
        account.last = account.last.max(number);
    }

    /// The number of the user's last event; before the first, one that none will have.
    pub(super) fn last(&self, user: &UserId) -> u64 {
        let start = self.epoch * EPOCH;
        self.accounts.get(user).map_or(start, |account| account.last.max(start))
    }

    /// The next event's number.
    pub(super) fn next(&mut self, user: &UserId) -> u64 {
        let number = self.last(user) + 1;
        self.accounts.entry(user.clone()).or_default().last = number;
        number
    }

    /// All numbers of this life are above this one.
    pub(super) fn epoch(&self) -> u64 {
        self.epoch * EPOCH
    }

    /// Whether events are kept at all.
    pub(super) fn keeps(&self) -> bool {
        self.events > 0
    }

    /// The event with this number, which has so many bytes, is to be kept. The numbers that must go
    /// for it.
    pub(super) fn kept(&mut self, user: &UserId, number: u64, bytes: usize) -> Vec<u64> {
        let account = self.accounts.entry(user.clone()).or_default();
        Self::keep(account, number, bytes, self.events, self.bytes)
    }

    fn keep(
        account: &mut NumberRange,
        number: u64,
        bytes: usize,
        most: usize,
        most_bytes: usize,
    ) -> Vec<u64> {
        account.kept.push_back((number, bytes));
        account.bytes += bytes;
        let mut gone = Vec::new();
        while account.kept.len() > most || account.bytes > most_bytes {
            let Some((number, bytes)) = account.kept.pop_front() else {
                break;
            };
            account.bytes -= bytes;
            account.dropped = number;
            gone.push(number);
        }
        gone
    }

    /// This event could not be kept, and so nothing before it is worth keeping. What must go.
    pub(super) fn lost(&mut self, user: &UserId, number: u64) -> Vec<u64> {
        let account = self.accounts.entry(user.clone()).or_default();
        account.dropped = account.dropped.max(number);
        let mut gone = Vec::new();
        while let Some((kept, bytes)) = account.kept.front().copied()
            && kept <= number
        {
            account.kept.pop_front();
            account.bytes -= bytes;
            gone.push(kept);
        }
        if gone.last() != Some(&number) {
            gone.push(number);
        }
        gone
    }

    /// Every event of the user after this number is still there.
    pub(super) fn reaches_back_to(&self, user: &UserId, after: u64) -> bool {
        let dropped =
            self.accounts.get(user).map_or(0, |account| account.dropped).max(self.dropped);
        (self.keeps() || after == self.last(user)) && after >= dropped && after <= self.last(user)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_on_and_begin_far_above_in_the_next_life() {
        let anna = UserId::from("anna");
        let mut ledger = EventNumbers::new(3, 2, 1_000);
        assert_eq!(ledger.last(&anna), 3 * EPOCH);
        assert_eq!([ledger.next(&anna), ledger.next(&anna)], [3 * EPOCH + 1, 3 * EPOCH + 2]);
        let mut after = EventNumbers::new(4, 2, 1_000);
        assert_eq!(after.restore(&anna, 3 * EPOCH + 2, 10), [] as [u64; 0]);
        assert_eq!(after.next(&anna), 4 * EPOCH + 1);
        assert!(after.reaches_back_to(&anna, 3 * EPOCH + 1));
        assert!(after.reaches_back_to(&anna, 0), "nothing was ever dropped");
        after.restore_dropped(&anna, 3 * EPOCH + 1);
        assert!(after.reaches_back_to(&anna, 3 * EPOCH + 1));
        assert!(!after.reaches_back_to(&anna, 3 * EPOCH));
    }

    #[test]
    fn after_a_life_that_could_not_write_nothing_reaches_back_to_it() {
        let anna = UserId::from("anna");
        let mut ledger = EventNumbers::new(4, 2, 1_000);
        ledger.restore(&anna, 3 * EPOCH + 2, 10);
        ledger.restore_nothing();
        assert!(!ledger.reaches_back_to(&anna, 3 * EPOCH + 2));
        assert!(!ledger.reaches_back_to(&UserId::from("bert"), 3 * EPOCH + 9));
        assert!(ledger.reaches_back_to(&anna, 4 * EPOCH), "of this life it has all");
    }

    #[test]
    fn what_is_kept_stays_within_count_and_bytes() {
        let anna = UserId::from("anna");
        let mut ledger = EventNumbers::new(0, 2, 100);
        let mut keep = |bytes| {
            let number = ledger.next(&anna);
            ledger.kept(&anna, number, bytes)
        };
        assert_eq!(keep(10), [] as [u64; 0]);
        assert_eq!(keep(10), [] as [u64; 0]);
        assert_eq!(keep(10), [1]);
        assert_eq!(keep(95), [2, 3]);
        assert_eq!(keep(101), [4, 5], "too large to be kept at all");
        assert!(ledger.reaches_back_to(&anna, 5));
        assert!(!ledger.reaches_back_to(&anna, 4));
        assert!(!ledger.reaches_back_to(&anna, 6), "that has not happened yet");
        assert!(ledger.reaches_back_to(&UserId::from("bert"), 0));
    }

    #[test]
    fn what_could_not_be_kept_takes_what_was_before_with_it() {
        let anna = UserId::from("anna");
        let mut ledger = EventNumbers::new(0, 10, 100);
        for bytes in [10, 10, 10] {
            let number = ledger.next(&anna);
            ledger.kept(&anna, number, bytes);
        }
        assert_eq!(ledger.lost(&anna, 2), [1, 2]);
        assert!(ledger.reaches_back_to(&anna, 2));
        assert!(!ledger.reaches_back_to(&anna, 1));
    }

    #[test]
    fn where_nothing_is_kept_only_the_present_reaches_back() {
        let anna = UserId::from("anna");
        let mut ledger = EventNumbers::new(0, 0, 0);
        let number = ledger.next(&anna);
        assert!(!ledger.keeps());
        assert!(ledger.reaches_back_to(&anna, number));
        assert!(!ledger.reaches_back_to(&anna, 0));
    }
}
