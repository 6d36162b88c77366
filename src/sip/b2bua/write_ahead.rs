//! What is written before it comes true: the commands that wait for the disk, and what it holds of
//! the monitors.

use super::routing::DialPlan;
use super::step::Step;
use super::{CommandId, Output, Persist, RestoredDevice};
use crate::model::{Command, DeviceId, MonitorFact};
use std::collections::BTreeMap;

/// The commands that wait until their change is stored, and the monitors as they are stored.
pub(super) struct WriteAhead {
    monitors: BTreeMap<DeviceId, MonitorFact>,
    pending: BTreeMap<CommandId, PendingCommand>,
}

/// A command that waits until its change is stored.
pub(super) struct PendingCommand {
    pub(super) command: Command,
    pub(super) change: Persist,
    /// It starts monitoring that was stopped meanwhile.
    pub(super) is_cancelled: bool,
}

impl PendingCommand {
    fn starts_for(&self, device: &DeviceId) -> bool {
        matches!(&self.command, Command::StartMonitoring { supervisor, .. } if supervisor == device)
    }
}

impl WriteAhead {
    pub(super) fn new(monitors: impl Iterator<Item = MonitorFact>) -> Self {
        let monitors = monitors.map(|monitor| (monitor.supervisor.clone(), monitor)).collect();
        Self { monitors, pending: BTreeMap::new() }
    }

    /// The monitors that are stored.
    pub(super) fn monitors(&self) -> impl Iterator<Item = &MonitorFact> {
        self.monitors.values()
    }

    /// The supervisor hears agents only; so it is for one that has no monitor.
    pub(super) fn is_agent_side_only(&self, supervisor: &DeviceId) -> bool {
        self.monitors.get(supervisor).is_none_or(|monitor| monitor.agent_side_only)
    }

    /// A command waits for its change.
    pub(super) fn begin(
        &mut self,
        id: CommandId,
        command: Command,
        change: Persist,
        out: &mut Step,
    ) {
        out.push(Output::Persist { id, change: change.clone() });
        self.pending.insert(id, PendingCommand { command, change, is_cancelled: false });
    }

    /// A command waits no more.
    pub(super) fn finish(&mut self, id: CommandId) -> Option<PendingCommand> {
        self.pending.remove(&id)
    }

    /// The supervisor stops monitoring: what waits for the disk to begin it never comes true.
    /// False: nothing does.
    pub(super) fn cancel_start(&mut self, supervisor: &DeviceId, out: &mut Step) -> bool {
        let mut starting =
            self.pending.values_mut().filter(|pending| pending.starts_for(supervisor)).peekable();
        let is_one_waiting = starting.peek().is_some();
        starting.for_each(|pending| pending.is_cancelled = true);
        if is_one_waiting {
            // Behind what is being written of it.
            out.push(Output::Keep(Persist::NoMonitor { supervisor: supervisor.clone() }));
        }
        is_one_waiting
    }

    /// A change has not come true, and whether something of it has reached a failing disk is not
    /// known: what holds is written instead.
    pub(super) fn take_back(&self, change: &Persist, plan: &DialPlan, out: &mut Step) {
        let holds = match change {
            Persist::Monitor(MonitorFact { supervisor, .. })
            | Persist::NoMonitor { supervisor } => Some(match self.monitors.get(supervisor) {
                Some(monitor) => Persist::Monitor(monitor.clone()),
                None => Persist::NoMonitor { supervisor: supervisor.clone() },
            }),
            Persist::Device(RestoredDevice { device, .. }) => {
                plan.device(device).map(|device| Persist::Device(device.kept()))
            }
        };
        out.extend(holds.map(Output::Keep));
    }

    /// A monitor is there, or has changed: it is written if more than its state has.
    pub(super) fn keep_monitor(&mut self, monitor: &MonitorFact, out: &mut Step) {
        let kept = self.monitors.insert(monitor.supervisor.clone(), monitor.clone());
        let same = kept
            .is_some_and(|kept| MonitorFact { state: monitor.state.clone(), ..kept } == *monitor);
        if !same {
            out.push(Output::Keep(Persist::Monitor(monitor.clone())));
        }
    }

    pub(super) fn forget_monitor(&mut self, supervisor: &DeviceId, out: &mut Step) {
        self.monitors.remove(supervisor);
        out.push(Output::Keep(Persist::NoMonitor { supervisor: supervisor.clone() }));
    }
}
