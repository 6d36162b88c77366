//! The calls that there are, by id and by device.

use crate::model::{CallFact, CallId, DeviceId};
use std::collections::{BTreeMap, BTreeSet};

/// Calls by id, found by device as fast however many there are.
#[derive(Debug, Default)]
pub(super) struct CallIndex {
    by_id: BTreeMap<CallId, CallFact>,
    of_device: BTreeMap<DeviceId, BTreeSet<CallId>>,
}

impl CallIndex {
    /// Takes a call as it is now; how it was.
    pub(super) fn insert(&mut self, call: CallFact) -> Option<CallFact> {
        let before = self.remove(&call.id);
        for device in devices(&call) {
            self.of_device.entry(device.clone()).or_default().insert(call.id.clone());
        }
        self.by_id.insert(call.id.clone(), call);
        before
    }

    pub(super) fn remove(&mut self, id: &CallId) -> Option<CallFact> {
        let call = self.by_id.remove(id)?;
        for device in devices(&call) {
            if let Some(calls) = self.of_device.get_mut(device) {
                calls.remove(id);
                if calls.is_empty() {
                    self.of_device.remove(device);
                }
            }
        }
        Some(call)
    }

    pub(super) fn get(&self, id: &CallId) -> Option<&CallFact> {
        self.by_id.get(id)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &CallId> {
        self.by_id.keys()
    }

    /// The calls that one of these devices is or was on, each once, in the order of their ids.
    pub(super) fn of<'a>(&'a self, devices: &[DeviceId]) -> impl Iterator<Item = &'a CallFact> {
        let ids: BTreeSet<_> =
            devices.iter().filter_map(|device| self.of_device.get(device)).flatten().collect();
        ids.into_iter().filter_map(|id| self.by_id.get(id))
    }
}

fn devices(call: &CallFact) -> impl Iterator<Item = &DeviceId> {
    call.parties.iter().filter_map(|party| party.device.as_ref())
}
