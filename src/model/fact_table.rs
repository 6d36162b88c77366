use super::{CallFact, CallId, DeviceFact, DeviceId, Fact, MonitorFact};
use std::collections::{BTreeMap, BTreeSet};

/// What a backend has reported: the latest whole entity of every device, call and monitor.
///
/// Of a fact log and of a gateway alike. Between [`FactTable::begin_snapshot`] and
/// [`FactTable::complete_snapshot`] it notes what is repeated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FactTable {
    devices: BTreeMap<DeviceId, DeviceFact>,
    calls: BTreeMap<CallId, CallFact>,
    monitors: BTreeMap<DeviceId, MonitorFact>,
    /// `None` when no snapshot is being read.
    unrepeated: Option<Unrepeated>,
}

/// What a snapshot has not repeated: at its end, it is gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unrepeated {
    /// Devices.
    pub devices: BTreeSet<DeviceId>,
    /// Calls.
    pub calls: BTreeSet<CallId>,
    /// The supervisors of monitors.
    pub monitors: BTreeSet<DeviceId>,
}

impl Unrepeated {
    /// Everything was repeated.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty() && self.calls.is_empty() && self.monitors.is_empty()
    }
}

impl FactTable {
    /// A device as it is now.
    pub fn device(&self, id: &DeviceId) -> Option<&DeviceFact> {
        self.devices.get(id)
    }

    /// Every device, by id.
    pub fn devices(&self) -> impl Iterator<Item = &DeviceFact> {
        self.devices.values()
    }

    /// A call as it is now.
    pub fn call(&self, id: &CallId) -> Option<&CallFact> {
        self.calls.get(id)
    }

    /// Every call, by id.
    pub fn calls(&self) -> impl Iterator<Item = &CallFact> {
        self.calls.values()
    }

    /// The monitor of a supervisor's device as it is now.
    pub fn monitor(&self, supervisor: &DeviceId) -> Option<&MonitorFact> {
        self.monitors.get(supervisor)
    }

    /// Every monitor, by the supervisor's device.
    pub fn monitors(&self) -> impl Iterator<Item = &MonitorFact> {
        self.monitors.values()
    }

    /// All of it, as a backend reports it.
    pub fn facts(&self) -> impl Iterator<Item = Fact> {
        let devices = self.devices.values().cloned().map(Fact::Device);
        let calls = self.calls.values().cloned().map(Fact::Call);
        let monitors = self.monitors.values().cloned().map(Fact::Monitor);
        devices.chain(calls).chain(monitors)
    }

    /// Takes a device as it is now.
    pub fn insert_device(&mut self, device: DeviceFact) {
        if let Some(unrepeated) = &mut self.unrepeated {
            unrepeated.devices.remove(&device.id);
        }
        self.devices.insert(device.id.clone(), device);
    }

    /// Forgets a device.
    pub fn remove_device(&mut self, id: &DeviceId) {
        self.devices.remove(id);
    }

    /// Takes a call as it is now, over or not; as it was before.
    pub fn insert_call(&mut self, call: CallFact) -> Option<CallFact> {
        if let Some(unrepeated) = &mut self.unrepeated {
            unrepeated.calls.remove(&call.id);
        }
        self.calls.insert(call.id.clone(), call)
    }

    /// Forgets a call; as it was.
    pub fn remove_call(&mut self, id: &CallId) -> Option<CallFact> {
        self.calls.remove(id)
    }

    /// Takes a monitor as it is now; as it was before.
    pub fn insert_monitor(&mut self, monitor: MonitorFact) -> Option<MonitorFact> {
        if let Some(unrepeated) = &mut self.unrepeated {
            unrepeated.monitors.remove(&monitor.supervisor);
        }
        self.monitors.insert(monitor.supervisor.clone(), monitor)
    }

    /// Forgets a monitor; as it was.
    pub fn remove_monitor(&mut self, supervisor: &DeviceId) -> Option<MonitorFact> {
        if let Some(unrepeated) = &mut self.unrepeated {
            unrepeated.monitors.remove(supervisor);
        }
        self.monitors.remove(supervisor)
    }

    /// A snapshot begins: nothing of the table has been repeated yet.
    pub fn begin_snapshot(&mut self) {
        self.unrepeated = Some(Unrepeated {
            devices: self.devices.keys().cloned().collect(),
            calls: self.calls.keys().cloned().collect(),
            monitors: self.monitors.keys().cloned().collect(),
        });
    }

    /// A snapshot is being read.
    pub fn is_in_snapshot(&self) -> bool {
        self.unrepeated.is_some()
    }

    /// A snapshot has broken off: nothing is gone by it.
    pub fn abandon_snapshot(&mut self) {
        self.unrepeated = None;
    }

    /// A snapshot is complete: what it has not repeated, which is still in the table. `None` when a
    /// watch resumes, which says "complete" without having begun.
    pub fn complete_snapshot(&mut self) -> Option<Unrepeated> {
        self.unrepeated.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DeviceKind;

    fn device(id: &str) -> DeviceFact {
        DeviceFact {
            id: id.into(),
            number: "5001".into(),
            kind: DeviceKind::Phone,
            registered: true,
            do_not_disturb: false,
            forward_to: None,
        }
    }

    #[test]
    fn a_snapshot_tells_what_it_has_not_repeated() {
        let mut table = FactTable::default();
        table.insert_device(device("a"));
        table.insert_device(device("b"));
        assert_eq!(table.complete_snapshot(), None);
        table.begin_snapshot();
        table.insert_device(device("b"));
        table.insert_device(device("c"));
        let gone = table.complete_snapshot().expect("a snapshot had begun");
        assert_eq!(gone.devices.into_iter().collect::<Vec<_>>(), ["a".into()]);
        assert_eq!(table.devices().count(), 3);
    }

    #[test]
    fn a_snapshot_that_breaks_off_tells_nothing() {
        let mut table = FactTable::default();
        table.insert_device(device("a"));
        table.begin_snapshot();
        table.abandon_snapshot();
        assert_eq!((table.complete_snapshot(), table.devices().count()), (None, 1));
    }
}
