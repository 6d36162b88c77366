//! What the backend has reported, as it was known last.

use super::call_index::CallIndex;
use crate::model::{
    CallFact, CallId, Capabilities, DeviceFact, DeviceId, DeviceKind, FactTable, MonitorFact,
    Number, Unrepeated,
};
use std::collections::{BTreeMap, BTreeSet};

/// Devices, calls and monitors of the backend, and whether it can be reached now.
///
/// The fact log by which the gateway serves them again holds the same table a second time: its
/// readers are other tasks, at their own pace, and a machine shares nothing with a task.
#[derive(Default)]
pub(super) struct BackendFacts {
    /// All it knows is known, and it can be reached.
    is_here: bool,
    pub(super) capabilities: Capabilities,
    /// Changed only by the methods here; what was known last still answers reads while the backend
    /// is away.
    facts: FactTable,
    calls_of: CallIndex,
    /// The consultation call of a call, by the call that it was made to ask about.
    consultations: BTreeMap<CallId, CallId>,
}

impl BackendFacts {
    /// The latest of everything.
    pub(super) fn facts(&self) -> &FactTable {
        &self.facts
    }

    /// The backend can be reached and all it knows is known.
    pub(super) fn is_ready(&self) -> bool {
        self.is_here
    }

    /// The backend cannot be reached any more.
    pub(super) fn lose(&mut self) {
        self.is_here = false;
        self.facts.abandon_snapshot();
    }

    /// A snapshot begins.
    pub(super) fn begin_snapshot(&mut self) {
        self.is_here = false;
        self.facts.begin_snapshot();
    }

    /// A snapshot is complete: what it has not repeated. `None` when a watch resumes.
    pub(super) fn complete_snapshot(&mut self) -> Option<Unrepeated> {
        self.is_here = true;
        self.facts.complete_snapshot()
    }

    /// Takes a device as it is now.
    pub(super) fn insert_device(&mut self, device: DeviceFact) {
        self.facts.insert_device(device);
    }

    /// Forgets a device that is gone.
    pub(super) fn remove_device(&mut self, device: &DeviceId) {
        self.facts.remove_device(device);
    }

    /// Takes a call as it is now; returns the other calls of which it may have changed what can be
    /// asked: those with consultations, and those of a device that may swap them.
    pub(super) fn insert_call(&mut self, call: CallFact) -> BTreeSet<CallId> {
        let id = call.id.clone();
        let parent = call.parent.clone().filter(|_| !call.is_over());
        let before = self.facts.insert_call(call);
        let beside = self.beside(before.as_ref(), self.facts.call(&id));
        before.iter().for_each(|before| self.calls_of.remove(before));
        self.facts.call(&id).iter().for_each(|call| self.calls_of.insert(call));
        let before = before.and_then(|call| call.parent);
        if let Some(parent) = &parent {
            self.consultations.insert(parent.clone(), id.clone());
        }
        if before != parent {
            before.iter().for_each(|parent| self.end_consultation(parent, &id));
        }
        let about_this = self.consultations.get(&id).cloned();
        before.into_iter().chain(parent).chain(about_this).chain(beside).collect()
    }

    /// The other calls of the devices whose leg of this call has another state than before, or is
    /// held at the phone by now or no more.
    fn beside(&self, before: Option<&CallFact>, now: Option<&CallFact>) -> BTreeSet<CallId> {
        let state = |call: Option<&CallFact>, device| {
            let leg = call?.party_of(device)?;
            Some((leg.state, leg.held_at_phone))
        };
        let parties = before.into_iter().chain(now).flat_map(|call| &call.parties);
        let devices = parties.filter_map(|party| party.device.as_ref());
        let mut beside = BTreeSet::new();
        for device in devices.filter(|device| state(before, device) != state(now, device)) {
            let calls = self.calls_of(std::slice::from_ref(device));
            let others = calls.filter(|call| call.party_of(device).is_some());
            beside.extend(others.map(|call| call.id.clone()));
        }
        now.into_iter().for_each(|call| {
            beside.remove(&call.id);
        });
        beside
    }

    /// Forgets a call that is over; the call that it was made to ask about.
    pub(super) fn remove_call(&mut self, id: &CallId) -> Option<CallId> {
        let call = self.facts.remove_call(id)?;
        self.calls_of.remove(&call);
        let parent = call.parent;
        parent.iter().for_each(|parent| self.end_consultation(parent, id));
        parent
    }

    fn end_consultation(&mut self, parent: &CallId, consultation: &CallId) {
        if self.consultations.get(parent) == Some(consultation) {
            self.consultations.remove(parent);
        }
    }

    /// The call that was made to ask about this one.
    pub(super) fn consultation_about(&self, call: &CallId) -> Option<&CallFact> {
        self.facts.call(self.consultations.get(call)?)
    }

    /// The calls that one of these devices is or was on, each once, in the order of their ids.
    pub(super) fn calls_of(&self, devices: &[DeviceId]) -> impl Iterator<Item = &CallFact> {
        self.calls_of.of(devices).into_iter().filter_map(|id| self.facts.call(id))
    }

    /// Takes a monitor as it is now; as it was before, and whether a snapshot has told it.
    pub(super) fn insert_monitor(&mut self, monitor: MonitorFact) -> (Option<MonitorFact>, bool) {
        let found = self.facts.is_in_snapshot();
        (self.facts.insert_monitor(monitor), found)
    }

    /// Forgets a monitor that is gone; as it was.
    pub(super) fn remove_monitor(&mut self, supervisor: &DeviceId) -> Option<MonitorFact> {
        self.facts.remove_monitor(supervisor)
    }

    /// The target of a supervisor's monitor.
    pub(super) fn target_of(&self, supervisor: &DeviceId) -> Option<DeviceId> {
        self.facts.monitor(supervisor).map(|monitor| monitor.target.clone())
    }

    /// The device is a routing point of the backend.
    pub(super) fn is_routing_point(&self, device: &DeviceId) -> bool {
        self.facts.device(device).is_some_and(|fact| fact.kind == DeviceKind::RoutingPoint)
    }

    /// The routing point with this number.
    pub(super) fn routing_point_by_number(&self, number: &Number) -> Option<&DeviceId> {
        let mut devices = self.facts.devices();
        let found = devices
            .find(|device| device.number == *number && device.kind == DeviceKind::RoutingPoint);
        found.map(|device| &device.id)
    }
}
