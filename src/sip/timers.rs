//! A set of named deadlines: at most one per name, the earliest first.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Deadlines by name.
#[derive(Clone, Debug)]
pub struct Timers<K> {
    by_name: BTreeMap<K, Instant>,
    by_time: BTreeSet<(Instant, K)>,
}

impl<K: Ord + Clone> Default for Timers<K> {
    fn default() -> Self {
        Self { by_name: BTreeMap::new(), by_time: BTreeSet::new() }
    }
}

impl<K: Ord + Clone> Timers<K> {
    /// Starts or restarts a timer.
    pub fn set(&mut self, name: K, at: Instant) {
        self.clear(&name);
        self.by_name.insert(name.clone(), at);
        self.by_time.insert((at, name));
    }

    /// Stops a timer, if it runs.
    pub fn clear(&mut self, name: &K) {
        if let Some(at) = self.by_name.remove(name) {
            self.by_time.remove(&(at, name.clone()));
        }
    }

    /// It runs.
    pub fn is_set(&self, name: &K) -> bool {
        self.by_name.contains_key(name)
    }

    /// The earliest deadline.
    pub fn next(&self) -> Option<Instant> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// Takes one timer that is due.
    pub fn pop(&mut self, now: Instant) -> Option<K> {
        let (at, name) = self.by_time.first()?.clone();
        if at > now {
            return None;
        }
        self.clear(&name);
        Some(name)
    }

    /// None runs.
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}
