//! Finds monitors by what concerns them.

use crate::model::{CallId, DeviceId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// Which monitors and calls an event concerns, so that nothing looks through all monitors.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// The supervisors of a target.
    pub(super) of_target: Pairs<DeviceId, DeviceId>,
    /// The supervisors that are invited to a call, wait for leave to join it, or have joined it.
    pub(super) of_call: Pairs<CallId, DeviceId>,
    /// The supervisors that do not join a call (again).
    pub(super) passed: PassedCalls,
    /// The live calls of a device.
    pub(super) calls: Pairs<DeviceId, CallId>,
    /// When a supervisor's waiting is over.
    pub(super) deadlines: BTreeSet<(Instant, DeviceId)>,
}

/// What belongs to a key, in order.
#[derive(Debug)]
pub(super) struct Pairs<K, V>(BTreeMap<K, BTreeSet<V>>);

impl<K, V> Default for Pairs<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V: Ord + Clone> Pairs<K, V> {
    pub(super) fn insert(&mut self, key: &K, value: &V) {
        self.0.entry(key.clone()).or_default().insert(value.clone());
    }

    pub(super) fn remove(&mut self, key: &K, value: &V) {
        if let Some(values) = self.0.get_mut(key) {
            values.remove(value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }

    pub(super) fn of(&self, key: &K) -> impl Iterator<Item = &V> {
        self.0.get(key).into_iter().flatten()
    }

    pub(super) fn contains(&self, key: &K, value: &V) -> bool {
        self.0.get(key).is_some_and(|values| values.contains(value))
    }

    /// Forgets a key, and returns what belonged to it.
    fn take(&mut self, key: &K) -> BTreeSet<V> {
        self.0.remove(key).unwrap_or_default()
    }

    pub(super) fn count(&self, key: &K) -> usize {
        self.0.get(key).map_or(0, BTreeSet::len)
    }
}

/// Which supervisor is not brought into which call (again): it has left the call, could not be
/// brought in, or may not intrude.
#[derive(Debug, Default)]
pub(super) struct PassedCalls {
    supervisors: Pairs<CallId, DeviceId>,
    calls: Pairs<DeviceId, CallId>,
}

impl PassedCalls {
    pub(super) fn insert(&mut self, call: &CallId, supervisor: &DeviceId) {
        self.supervisors.insert(call, supervisor);
        self.calls.insert(supervisor, call);
    }

    pub(super) fn remove(&mut self, call: &CallId, supervisor: &DeviceId) {
        self.supervisors.remove(call, supervisor);
        self.calls.remove(supervisor, call);
    }

    pub(super) fn contains(&self, call: &CallId, supervisor: &DeviceId) -> bool {
        self.supervisors.contains(call, supervisor)
    }

    /// The call is over.
    pub(super) fn forget_call(&mut self, call: &CallId) {
        for supervisor in self.supervisors.take(call) {
            self.calls.remove(&supervisor, call);
        }
    }

    /// The supervisor may be brought into every call.
    pub(super) fn forget_supervisor(&mut self, supervisor: &DeviceId) {
        for call in self.calls.take(supervisor) {
            self.supervisors.remove(&call, supervisor);
        }
    }
}
