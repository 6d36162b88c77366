//! The monitors of a switch: which of them an event concerns is found here, what it comes to is
//! decided by each [`Monitor`].

use super::index::Index;
use super::monitor::{Ctx, KnownCalls, Monitor};
use super::{LegOutcome, ReleaseReason, SupervisionConfig, SupervisionOutput};
use crate::model::{
    Activity, CallFact, CallId, Command, DeviceId, LegState, MonitorFact, MonitorState, Now,
    Reason, Refusal,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

/// Every monitor of a telephone system.
///
/// After each `handle_*`, drain [`Supervision::poll_output`]; call [`Supervision::handle_timeout`]
/// when [`Supervision::poll_timeout`] says.
#[derive(Debug)]
pub struct Supervision {
    config: SupervisionConfig,
    monitors: BTreeMap<DeviceId, Monitor>,
    calls: KnownCalls,
    index: Index,
    outputs: VecDeque<SupervisionOutput>,
}

impl Supervision {
    /// The monitors that were kept come back armed, whatever state they were in: a supervisor that
    /// was joined is invited again once the call is handed in.
    pub fn new(config: SupervisionConfig, kept: Vec<MonitorFact>) -> Self {
        let mut machine = Self {
            config,
            monitors: BTreeMap::new(),
            calls: KnownCalls::default(),
            index: Index::default(),
            outputs: VecDeque::new(),
        };
        for fact in kept {
            machine.put(Monitor::armed(fact));
        }
        machine
    }

    /// The five monitoring commands. A refusal has changed nothing; commands that are not about
    /// monitoring are `Forbidden`.
    pub fn handle_command(&mut self, command: &Command, now: Now) -> Result<(), Refusal> {
        match command {
            Command::StartMonitoring {
                supervisor,
                target,
                activity,
                mode,
                scope,
                confirm_joins,
                agent_side_only,
            } => self.start(
                MonitorFact {
                    supervisor: supervisor.clone(),
                    target: target.clone(),
                    activity: *activity,
                    mode: *mode,
                    scope: *scope,
                    confirm_joins: *confirm_joins,
                    agent_side_only: *agent_side_only,
                    state: MonitorState::Armed,
                },
                now,
            ),
            Command::StopMonitoring { supervisor } => self.stop(supervisor),
            Command::SwitchMonitoring { supervisor, call, activity } => {
                self.switch(supervisor, call, *activity, now)
            }
            Command::AdmitMonitoring { supervisor, call, admitted } => {
                self.admit(supervisor, call, *admitted, now)
            }
            Command::MuteMonitoredParty { .. } => {
                Err(Refusal::new(Reason::Forbidden, "MuteMonitoredUser is not supported."))
            }
            Command::SetDoNotDisturb { .. }
            | Command::SetForwarding { .. }
            | Command::Dial { .. }
            | Command::Answer { .. }
            | Command::Hangup { .. }
            | Command::Hold { .. }
            | Command::Retrieve { .. }
            | Command::Mute { .. }
            | Command::SendDtmf { .. }
            | Command::Transfer { .. }
            | Command::Conference { .. }
            | Command::RemoveParticipant { .. } => {
                Err(Refusal::new(Reason::Forbidden, "This is not a monitoring command."))
            }
        }
    }

    /// The whole call at every change, supervisors' legs included. Over is when every party is
    /// `Released`.
    pub fn handle_call(&mut self, call: &CallFact, now: Now) {
        self.know(call);
        for supervisor in self.busy_with(&call.id) {
            self.with(&supervisor, |monitor, ctx| monitor.follow(now, ctx));
        }
        if call.is_over() {
            for supervisor in self.index.passed.take(&call.id) {
                if let Some(monitor) = self.monitors.get_mut(&supervisor) {
                    monitor.passed.remove(&call.id);
                }
            }
        }
        self.seek(call, now);
    }

    /// Whether it is in doubt that anybody is still on a call: its phones are silent and are being
    /// asked. Nobody joins it until that is known; a supervisor that has joined stays.
    pub fn handle_doubt(&mut self, call: &CallId, in_doubt: bool, now: Now) {
        if in_doubt == self.calls.doubtful.contains(call) {
            return;
        }
        match in_doubt {
            true => drop(self.calls.doubtful.insert(call.clone())),
            false => drop(self.calls.doubtful.remove(call)),
        }
        for supervisor in self.busy_with(call) {
            self.with(&supervisor, |monitor, ctx| monitor.handle_doubt(in_doubt, now, ctx));
        }
        if let Some(call) = self.calls.by_id.get(call).filter(|_| !in_doubt).cloned() {
            self.seek(&call, now);
        }
    }

    /// The call has become a part of another, and every party of it is on that one now: its
    /// supervisors too. To be told before either call is handed in as it is then.
    pub fn handle_merged(&mut self, from: &CallId, into: &CallId) {
        for supervisor in self.busy_with(from) {
            self.with(&supervisor, |monitor, ctx| monitor.handle_merged(into, ctx));
        }
    }

    fn know(&mut self, call: &CallFact) {
        if call.is_over() {
            self.calls.doubtful.remove(&call.id);
        }
        let known = match call.is_over() {
            true => self.calls.by_id.remove(&call.id),
            false => self.calls.by_id.insert(call.id.clone(), call.clone()),
        };
        for device in known.iter().flat_map(here) {
            self.index.calls.remove(device, &call.id);
        }
        if !call.is_over() {
            for device in here(call) {
                self.index.calls.insert(device, &call.id);
            }
        }
    }

    /// The monitors of the devices on a call look for one.
    fn seek(&mut self, call: &CallFact, now: Now) {
        let concerned = here(call).flat_map(|device| self.index.of_target.of(device));
        for supervisor in concerned.cloned().collect::<BTreeSet<_>>() {
            self.with(&supervisor, |monitor, ctx| monitor.seek(now, ctx));
        }
    }

    /// What became of a supervisor's leg that `Invite` asked for. Outcomes of legs released
    /// meanwhile are ignored.
    pub fn handle_leg(
        &mut self,
        supervisor: &DeviceId,
        call: &CallId,
        outcome: LegOutcome,
        now: Now,
    ) {
        self.with(supervisor, |monitor, ctx| monitor.handle_leg(call, outcome, now, ctx));
    }

    /// The device is known no more. (One that merely unregisters keeps its monitors.)
    pub fn handle_device_gone(&mut self, device: &DeviceId, _now: Now) {
        for supervisor in self.index.of_target.of(device).cloned().collect::<Vec<_>>() {
            self.end(&supervisor, ReleaseReason::DeviceGone);
        }
        self.end(device, ReleaseReason::DeviceGone);
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        let due = self.index.deadlines.iter().take_while(|(deadline, _)| *deadline <= now.mono);
        for supervisor in due.map(|(_, supervisor)| supervisor.clone()).collect::<Vec<_>>() {
            self.with(&supervisor, |monitor, ctx| monitor.handle_timeout(now, ctx));
        }
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.index.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<SupervisionOutput> {
        self.outputs.pop_front()
    }

    /// Every monitor, by the supervisor's device.
    pub fn monitors(&self) -> impl Iterator<Item = MonitorFact> {
        let standing = self.monitors.values().filter(|monitor| !monitor.lingering);
        standing.map(Monitor::fact)
    }

    /// Does a supervisor keep this call alive? Asked by the switch when only one party besides
    /// supervisors is left, with the call as it then is; false means: release the rest. Always
    /// false unless `debrief` or `takeover` is configured.
    pub fn keeps_alive(&self, call: &CallFact) -> bool {
        let monitors =
            self.index.of_call.of(&call.id).filter_map(|supervisor| self.monitors.get(supervisor));
        monitors.into_iter().any(|monitor| monitor.keeps_alive(&self.config, call))
    }

    /// Would `StartMonitoring` be accepted now?
    pub fn may_start(&self, supervisor: &DeviceId, target: &DeviceId) -> Result<(), Refusal> {
        if supervisor == target {
            return Err(Refusal::new(Reason::NotPermitted, "Nobody monitors himself."));
        }
        let own = self.monitors.get(supervisor).is_some_and(|monitor| monitor.target == *target);
        if self.index.of_target.count(target) - usize::from(own)
            >= self.config.max_supervisors_per_device
        {
            let pattern = "Device '{}' is already monitored by another supervisor.";
            return Err(Refusal::device(Reason::InUse, target, pattern));
        }
        Ok(())
    }

    /// Would `StopMonitoring` be accepted now?
    pub fn may_stop(&self, supervisor: &DeviceId) -> Result<(), Refusal> {
        self.standing(supervisor).map(|_| ())
    }

    fn start(&mut self, asked: MonitorFact, now: Now) -> Result<(), Refusal> {
        let supervisor = asked.supervisor.clone();
        self.may_start(&supervisor, &asked.target)?;
        match self.monitors.get(&supervisor) {
            Some(monitor) if monitor.target == asked.target => {
                self.with(&supervisor, |monitor, ctx| monitor.handle_start(asked, now, ctx));
            }
            Some(_) => {
                self.end(&supervisor, ReleaseReason::Replaced);
                self.arm(asked, now);
            }
            None => self.arm(asked, now),
        }
        Ok(())
    }

    fn arm(&mut self, asked: MonitorFact, now: Now) {
        let supervisor = asked.supervisor.clone();
        self.put(Monitor::armed(asked));
        self.with(&supervisor, |monitor, ctx| {
            monitor.forgive(ctx);
            monitor.changed(ctx);
            monitor.seek(now, ctx);
        });
    }

    fn stop(&mut self, supervisor: &DeviceId) -> Result<(), Refusal> {
        let monitor = self.standing(supervisor)?;
        if monitor.is_joined() && !self.config.cancel_releases_call {
            self.with(supervisor, Monitor::linger);
        } else {
            self.end(supervisor, ReleaseReason::Cancelled);
        }
        Ok(())
    }

    fn switch(
        &mut self,
        supervisor: &DeviceId,
        call: &CallId,
        to: Activity,
        now: Now,
    ) -> Result<(), Refusal> {
        let switched =
            self.with(supervisor, |monitor, ctx| monitor.handle_switch(call, to, now, ctx));
        if let Some(switched) = switched.flatten() {
            return switched;
        }
        self.known(call)?;
        let pattern = format!("Device '{{}}' does not monitor call '{call}'.");
        Err(Refusal::device(Reason::InvalidState, supervisor, pattern))
    }

    fn admit(
        &mut self,
        supervisor: &DeviceId,
        call: &CallId,
        admitted: bool,
        now: Now,
    ) -> Result<(), Refusal> {
        let decided = self
            .with(supervisor, |monitor, ctx| monitor.handle_admission(call, admitted, now, ctx));
        if decided != Some(true) {
            self.known(call)?;
            let pattern = format!("Device '{{}}' does not wait for leave to join call '{call}'.");
            return Err(Refusal::device(Reason::InvalidState, supervisor, pattern));
        }
        Ok(())
    }

    /// The supervisors that are invited to a call, wait for leave to join it, or have joined it.
    fn busy_with(&self, call: &CallId) -> Vec<DeviceId> {
        self.index.of_call.of(call).cloned().collect()
    }

    /// Hands something in to a monitor, and forgets the monitor if it is spent by it.
    fn with<T>(
        &mut self,
        supervisor: &DeviceId,
        step: impl FnOnce(&mut Monitor, &mut Ctx<'_>) -> T,
    ) -> Option<T> {
        let monitor = self.monitors.get_mut(supervisor)?;
        let mut ctx = Ctx {
            config: &self.config,
            calls: &self.calls,
            index: &mut self.index,
            out: &mut self.outputs,
        };
        let done = step(monitor, &mut ctx);
        if monitor.is_spent {
            self.remove(supervisor);
        }
        Some(done)
    }

    fn put(&mut self, monitor: Monitor) {
        self.remove(&monitor.supervisor);
        self.index.of_target.insert(&monitor.target, &monitor.supervisor);
        self.monitors.insert(monitor.supervisor.clone(), monitor);
    }

    fn remove(&mut self, supervisor: &DeviceId) -> Option<Monitor> {
        let mut monitor = self.monitors.remove(supervisor)?;
        monitor.forget(&mut self.index);
        Some(monitor)
    }

    fn end(&mut self, supervisor: &DeviceId, reason: ReleaseReason) {
        if let Some(monitor) = self.remove(supervisor) {
            monitor.end(reason, &mut self.outputs);
        }
    }

    fn known(&self, call: &CallId) -> Result<(), Refusal> {
        let known = self.calls.by_id.contains_key(call);
        known.then_some(()).ok_or_else(|| Refusal::no_call(call))
    }

    fn standing(&self, supervisor: &DeviceId) -> Result<&Monitor, Refusal> {
        let monitor = self.monitors.get(supervisor).filter(|monitor| !monitor.lingering);
        monitor.ok_or_else(|| {
            Refusal::device(Reason::InvalidState, supervisor, "Device '{}' monitors nobody.")
        })
    }
}

/// The devices that are on a call.
fn here(call: &CallFact) -> impl Iterator<Item = &DeviceId> {
    let parties = call.parties.iter().filter(|party| party.state != LegState::Released);
    parties.filter_map(|party| party.device.as_ref())
}
