//! What the backend has reported, as it was known last.

use super::call_index::CallIndex;
use crate::model::{
    CallFact, CallId, Capabilities, DeviceFact, DeviceId, DeviceKind, MonitorFact, Number,
};
use std::collections::{BTreeMap, BTreeSet};

/// Devices, calls and monitors of the backend, and whether it can be reached now.
#[derive(Default)]
pub(super) struct BackendFacts {
    state: BackendState,
    pub(super) capabilities: Capabilities,
    pub(super) devices: BTreeMap<DeviceId, DeviceFact>,
    pub(super) calls: CallIndex,
    pub(super) monitors: BTreeMap<DeviceId, MonitorFact>,
    /// The consultation call of a call, by the call that it was made to ask about.
    consultations: BTreeMap<CallId, CallId>,
}

/// How much of the backend is known.
#[derive(Default)]
enum BackendState {
    /// It cannot be reached; what was known last still answers reads.
    #[default]
    Away,
    /// Its snapshot is being read.
    Reading(Unrepeated),
    /// All it knows is known.
    Here,
}

/// What the snapshot that is being read has not repeated yet. What is left at its end is gone.
#[derive(Default)]
pub(super) struct Unrepeated {
    pub(super) devices: BTreeSet<DeviceId>,
    pub(super) calls: BTreeSet<CallId>,
    pub(super) monitors: BTreeSet<DeviceId>,
}

impl BackendFacts {
    /// The backend can be reached and all it knows is known.
    pub(super) fn is_ready(&self) -> bool {
        matches!(self.state, BackendState::Here)
    }

    /// The backend cannot be reached any more.
    pub(super) fn lose(&mut self) {
        self.state = BackendState::Away;
    }

    /// A snapshot begins.
    pub(super) fn begin_snapshot(&mut self) {
        self.state = BackendState::Reading(Unrepeated {
            devices: self.devices.keys().cloned().collect(),
            calls: self.calls.ids().cloned().collect(),
            monitors: self.monitors.keys().cloned().collect(),
        });
    }

    /// A snapshot is complete: what it has not repeated. `None` when a watch resumes, which says
    /// "complete" without having begun.
    pub(super) fn complete_snapshot(&mut self) -> Option<Unrepeated> {
        match std::mem::replace(&mut self.state, BackendState::Here) {
            BackendState::Reading(unrepeated) => Some(unrepeated),
            BackendState::Away | BackendState::Here => None,
        }
    }

    fn unrepeated(&mut self) -> Option<&mut Unrepeated> {
        match &mut self.state {
            BackendState::Reading(unrepeated) => Some(unrepeated),
            BackendState::Away | BackendState::Here => None,
        }
    }

    /// Takes a device as it is now.
    pub(super) fn insert_device(&mut self, device: DeviceFact) {
        if let Some(unrepeated) = self.unrepeated() {
            unrepeated.devices.remove(&device.id);
        }
        self.devices.insert(device.id.clone(), device);
    }

    /// Takes a call as it is now; returns the calls with consultations that may have changed by it.
    pub(super) fn insert_call(&mut self, call: CallFact) -> BTreeSet<CallId> {
        if let Some(unrepeated) = self.unrepeated() {
            unrepeated.calls.remove(&call.id);
        }
        let id = call.id.clone();
        let parent = call.parent.clone().filter(|_| !call.is_over());
        let before = self.calls.insert(call).and_then(|call| call.parent);
        if let Some(parent) = &parent {
            self.consultations.insert(parent.clone(), id.clone());
        }
        if before != parent {
            before.iter().for_each(|parent| self.end_consultation(parent, &id));
        }
        before.into_iter().chain(parent).collect()
    }

    /// Forgets a call that is over; the call that it was made to ask about.
    pub(super) fn remove_call(&mut self, id: &CallId) -> Option<CallId> {
        let parent = self.calls.remove(id).and_then(|call| call.parent);
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
        self.calls.get(self.consultations.get(call)?)
    }

    /// Takes a monitor as it is now; as it was before, and whether a snapshot has told it.
    pub(super) fn insert_monitor(&mut self, monitor: MonitorFact) -> (Option<MonitorFact>, bool) {
        let unrepeated = self.unrepeated();
        let found = unrepeated.is_some();
        if let Some(unrepeated) = unrepeated {
            unrepeated.monitors.remove(&monitor.supervisor);
        }
        (self.monitors.insert(monitor.supervisor.clone(), monitor), found)
    }

    /// Forgets a monitor that is gone; as it was.
    pub(super) fn remove_monitor(&mut self, supervisor: &DeviceId) -> Option<MonitorFact> {
        if let Some(unrepeated) = self.unrepeated() {
            unrepeated.monitors.remove(supervisor);
        }
        self.monitors.remove(supervisor)
    }

    /// The target of a supervisor's monitor.
    pub(super) fn target_of(&self, supervisor: &DeviceId) -> Option<DeviceId> {
        self.monitors.get(supervisor).map(|monitor| monitor.target.clone())
    }

    /// The device is a routing point of the backend.
    pub(super) fn is_routing_point(&self, device: &DeviceId) -> bool {
        self.devices.get(device).is_some_and(|fact| fact.kind == DeviceKind::RoutingPoint)
    }

    /// The routing point with this number.
    pub(super) fn routing_point_by_number(&self, number: &Number) -> Option<&DeviceId> {
        let mut devices = self.devices.values();
        let found = devices
            .find(|device| device.number == *number && device.kind == DeviceKind::RoutingPoint);
        found.map(|device| &device.id)
    }
}
