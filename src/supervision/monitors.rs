//! The monitors of a switch: which of them an event concerns is found here, what it comes to is
//! decided by each [`Monitor`].

use super::index::Index;
use super::monitor::{Ctx, KnownCalls, Monitor, monitors_nobody};
use super::{LegOutcome, ReleaseReason, SupervisionConfig, SupervisionOutput};
use crate::model::{
    CallFact, CallId, Command, DeviceId, LegState, MonitorFact, MonitorState, Now, Reason, Refusal,
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
        // One monitor per supervisor: of two that were kept, the later one.
        let kept: BTreeMap<_, _> =
            kept.into_iter().map(|fact| (fact.supervisor.clone(), fact)).collect();
        for fact in kept.into_values() {
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
            Command::StopMonitoring { supervisor } => self
                .with(supervisor, |monitor, ctx| monitor.handle_stop(ctx))
                .unwrap_or_else(|| Err(monitors_nobody(supervisor))),
            Command::SwitchMonitoring { supervisor, call, activity } => self
                .with(supervisor, |monitor, ctx| monitor.handle_switch(call, *activity, now, ctx))
                .unwrap_or_else(|| Err(self.calls.refuse_switch(supervisor, call))),
            Command::AdmitMonitoring { supervisor, call, admitted } => self
                .with(supervisor, |monitor, ctx| {
                    monitor.handle_admission(call, *admitted, now, ctx)
                })
                .unwrap_or_else(|| Err(self.calls.refuse_admission(supervisor, call))),
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
            | Command::RemoveParticipant { .. }
            | Command::ClearCall { .. }
            | Command::Reject { .. }
            | Command::Redirect { .. }
            | Command::SwapCalls { .. }
            | Command::ChangeUserData { .. }
            | Command::RefuseFeatureCode { .. } => {
                Err(Refusal::new(Reason::Forbidden, "This is not a monitoring command."))
            }
        }
    }

    /// The whole call at every change, supervisors' legs included. Over is when every party is
    /// `Released`.
    pub fn handle_call(&mut self, call: &CallFact, now: Now) {
        self.know(call);
        let concerned = self.concerned_by(call);
        self.each(concerned, |monitor, ctx| monitor.handle_call(&call.id, now, ctx));
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
        let concerned = match self.calls.by_id.get(call) {
            Some(fact) if !in_doubt => self.concerned_by(fact),
            Some(_) | None => self.busy_with(call),
        };
        self.each(concerned, |monitor, ctx| monitor.handle_doubt(call, in_doubt, now, ctx));
    }

    /// The call has become a part of another, and every party of it is on that one now: its
    /// supervisors too. To be told before either call is handed in as it is then.
    pub fn handle_merged(&mut self, from: &CallId, into: &CallId) {
        self.each(self.busy_with(from), |monitor, ctx| monitor.handle_merged(into, ctx));
    }

    fn know(&mut self, call: &CallFact) {
        if call.is_over() {
            self.calls.doubtful.remove(&call.id);
            self.index.passed.forget_call(&call.id);
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

    /// The supervisors that are busy with a call, then those with a target on it, which look for a
    /// call.
    fn concerned_by(&self, call: &CallFact) -> Vec<DeviceId> {
        let busy = self.busy_with(&call.id);
        let of_targets = here(call).flat_map(|device| self.index.of_target.of(device));
        let of_targets: BTreeSet<_> = of_targets.filter(|one| !busy.contains(one)).collect();
        busy.iter().chain(of_targets).cloned().collect()
    }

    /// The supervisors that are invited to a call, wait for leave to join it, or have joined it.
    fn busy_with(&self, call: &CallId) -> Vec<DeviceId> {
        self.index.of_call.of(call).cloned().collect()
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
        let monitored_by = self.index.of_target.of(device);
        let concerned: Vec<_> = monitored_by.chain([device]).cloned().collect();
        self.each(concerned, |monitor, ctx| monitor.end(ReleaseReason::DeviceGone, ctx));
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        let due = self.index.deadlines.iter().take_while(|(deadline, _)| *deadline <= now.mono);
        let due: Vec<_> = due.map(|(_, supervisor)| supervisor.clone()).collect();
        self.each(due, |monitor, ctx| monitor.handle_timeout(now, ctx));
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

    /// The monitor of a supervisor's device.
    pub fn monitor(&self, supervisor: &DeviceId) -> Option<MonitorFact> {
        let monitor = self.monitors.get(supervisor).filter(|monitor| !monitor.lingering);
        monitor.map(Monitor::fact)
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
        let own = self.index.of_target.contains(target, supervisor);
        if self.index.of_target.count(target) - usize::from(own)
            >= self.config.max_supervisors_per_device
        {
            let pattern = "Device '{}' is already monitored by another supervisor.";
            return Err(Refusal::device(Reason::InUse, target, pattern));
        }
        Ok(())
    }

    fn start(&mut self, asked: MonitorFact, now: Now) -> Result<(), Refusal> {
        self.may_start(&asked.supervisor, &asked.target)?;
        let goes_on =
            self.with(&asked.supervisor, |monitor, ctx| monitor.handle_start(&asked, now, ctx));
        if goes_on != Some(true) {
            let mut monitor = Monitor::armed(asked);
            monitor.begin_to_seek(now, &mut self.ctx());
            self.put(monitor);
        }
        Ok(())
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
            monitor.forget(&mut self.index);
            self.monitors.remove(supervisor);
        }
        Some(done)
    }

    /// Hands something in to each of these monitors that is still there at its turn.
    fn each(
        &mut self,
        supervisors: Vec<DeviceId>,
        mut step: impl FnMut(&mut Monitor, &mut Ctx<'_>),
    ) {
        for supervisor in &supervisors {
            self.with(supervisor, &mut step);
        }
    }

    fn put(&mut self, monitor: Monitor) {
        let (supervisor, target) = (monitor.supervisor.clone(), monitor.target.clone());
        self.monitors.insert(supervisor.clone(), monitor);
        self.index.of_target.insert(&target, &supervisor);
    }

    fn ctx(&mut self) -> Ctx<'_> {
        Ctx {
            config: &self.config,
            calls: &self.calls,
            index: &mut self.index,
            out: &mut self.outputs,
        }
    }
}

/// The devices that are on a call.
fn here(call: &CallFact) -> impl Iterator<Item = &DeviceId> {
    let parties = call.parties.iter().filter(|party| party.state != LegState::Released);
    parties.filter_map(|party| party.device.as_ref())
}
