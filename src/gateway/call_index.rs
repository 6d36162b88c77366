//! The calls that there are, by device.

use crate::model::{CallFact, CallId, DeviceId};
use std::collections::{BTreeMap, BTreeSet};

/// The calls that a device is or was on, found as fast however many there are.
#[derive(Debug, Default)]
pub(super) struct CallIndex(BTreeMap<DeviceId, BTreeSet<CallId>>);

impl CallIndex {
    pub(super) fn insert(&mut self, call: &CallFact) {
        for device in devices(call) {
            self.0.entry(device.clone()).or_default().insert(call.id.clone());
        }
    }

    pub(super) fn remove(&mut self, call: &CallFact) {
        for device in devices(call) {
            if let Some(calls) = self.0.get_mut(device) {
                calls.remove(&call.id);
                if calls.is_empty() {
                    self.0.remove(device);
                }
            }
        }
    }

    /// The calls of these devices, each once, in the order of their ids.
    pub(super) fn of(&self, devices: &[DeviceId]) -> BTreeSet<&CallId> {
        devices.iter().filter_map(|device| self.0.get(device)).flatten().collect()
    }
}

fn devices(call: &CallFact) -> impl Iterator<Item = &DeviceId> {
    call.parties.iter().filter_map(|party| party.device.as_ref())
}
