use super::rules::{MonitorPlace, may_join, place};
use super::{Intrusion, LegOutcome, ReleaseReason, SupervisionConfig, SupervisionOutput};
use crate::model::{
    Activity, AdmissionAsked, CallFact, CallId, Command, DeviceId, Failure, LegState, Mode, MonitorFact, MonitorState, Now, Reason,
    Refusal, Scope, Timestamp,
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// How long an answered supervisor waits for a call in doubt: longer than a phone may take to answer (RFC 3261 17.1.1.2, timer B: 32 s).
const DOUBT: Duration = Duration::from_secs(60);

/// Every monitor of a house.
///
/// After each `handle_*`, drain [`Supervision::poll_output`]; call [`Supervision::handle_timeout`] when [`Supervision::poll_timeout`] says.
#[derive(Debug)]
pub struct Supervision {
    config: SupervisionConfig,
    monitors: BTreeMap<DeviceId, Monitor>,
    calls: BTreeMap<CallId, CallFact>,
    /// Calls of which it is not known whether anybody is still there.
    doubtful: BTreeSet<CallId>,
    index: Index,
    outputs: VecDeque<SupervisionOutput>,
}

/// Who is concerned by what, so that nothing looks through all monitors.
#[derive(Debug, Default)]
struct Index {
    /// The supervisors of a target.
    of_target: Pairs<DeviceId, DeviceId>,
    /// The supervisors whose monitors are busy with a call.
    of_call: Pairs<CallId, DeviceId>,
    /// The supervisors who do not join a call (again).
    passed: Pairs<CallId, DeviceId>,
    /// The live calls of a device.
    calls: Pairs<DeviceId, CallId>,
    /// When a supervisor's waiting is over.
    deadlines: BTreeSet<(Instant, DeviceId)>,
}

/// What belongs to a key, in order.
#[derive(Debug)]
struct Pairs<K, V>(BTreeMap<K, BTreeSet<V>>);

impl<K, V> Default for Pairs<K, V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<K: Ord + Clone, V: Ord + Clone> Pairs<K, V> {
    fn insert(&mut self, key: &K, value: &V) {
        self.0.entry(key.clone()).or_default().insert(value.clone());
    }

    fn remove(&mut self, key: &K, value: &V) {
        if let Some(values) = self.0.get_mut(key) {
            values.remove(value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }

    fn of(&self, key: &K) -> impl Iterator<Item = &V> {
        self.0.get(key).into_iter().flatten()
    }

    fn count(&self, key: &K) -> usize {
        self.0.get(key).map_or(0, BTreeSet::len)
    }
}

#[derive(Debug)]
struct Monitor {
    target: DeviceId,
    activity: Activity,
    mode: Mode,
    scope: Scope,
    confirm_joins: bool,
    agent_side_only: bool,
    /// Calls he is not brought into (again): he has left them, could not be brought in, or may not intrude.
    passed: BTreeSet<CallId>,
    /// Cancelled, but he stays until the call ends (`cancel_releases_call = false`).
    lingering: bool,
    state: MonitorPhase,
}

#[derive(Clone, Debug)]
enum MonitorPhase {
    Armed,
    Admitting {
        call: CallId,
        deadline: Instant,
    },
    Inviting {
        call: CallId,
        deadline: Instant,
        /// The phone has answered, and the call is in doubt: nothing is heard until it is known to live.
        answered: bool,
    },
    Joined {
        call: CallId,
        activity: Activity,
        place: MonitorPlace,
        since: Timestamp,
    },
}

impl Supervision {
    /// The monitors that were kept come back armed, whatever state they were in: whoever was joined is invited again once the call is
    /// handed in.
    pub fn new(config: SupervisionConfig, kept: Vec<MonitorFact>) -> Self {
        let mut machine = Self {
            config,
            monitors: BTreeMap::new(),
            calls: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            index: Index::default(),
            outputs: VecDeque::new(),
        };
        for fact in kept {
            machine.put(fact.supervisor.clone(), Monitor::armed(fact));
        }
        machine
    }

    /// The five monitoring commands. A refusal has changed nothing; commands that are not about monitoring are `Forbidden`.
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
            Command::SwitchMonitoring {
                supervisor,
                call,
                activity,
            } => self.switch(supervisor, call, *activity, now),
            Command::AdmitMonitoring {
                supervisor,
                call,
                admitted,
            } => self.admit(supervisor, call, *admitted, now),
            Command::MuteMonitoredParty { .. } => Err(Refusal::new(Reason::Forbidden, "MuteMonitoredUser is not supported.")),
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
            | Command::RemoveParticipant { .. } => Err(Refusal::new(Reason::Forbidden, "This is not a monitoring command.")),
        }
    }

    /// The whole call at every change, supervisors' legs included. Over is when every party is `Released`.
    pub fn handle_call(&mut self, call: &CallFact, now: Now) {
        self.know(call);
        for supervisor in self.index.of_call.of(&call.id).cloned().collect::<Vec<_>>() {
            self.follow(&supervisor, now);
        }
        if call.is_over() {
            for supervisor in self.index.passed.0.remove(&call.id).into_iter().flatten() {
                if let Some(monitor) = self.monitors.get_mut(&supervisor) {
                    monitor.passed.remove(&call.id);
                }
            }
        }
        let mut concerned = BTreeSet::new();
        for device in here(call) {
            concerned.extend(self.index.of_target.of(device).cloned());
        }
        for supervisor in concerned {
            self.seek(&supervisor, now);
        }
    }

    /// Whether it is in doubt that anybody is still on a call: its phones are silent and are being asked. Nobody joins it until that is known;
    /// a supervisor who has joined stays.
    pub fn handle_doubt(&mut self, call: &CallId, in_doubt: bool, now: Now) {
        if in_doubt == self.doubtful.contains(call) {
            return;
        }
        match in_doubt {
            true => drop(self.doubtful.insert(call.clone())),
            false => drop(self.doubtful.remove(call)),
        }
        for supervisor in self.index.of_call.of(call).cloned().collect::<Vec<_>>() {
            let state = self.monitors.get(&supervisor).map(|monitor| &monitor.state);
            match state {
                Some(MonitorPhase::Inviting { answered: true, .. }) if !in_doubt => self.join(&supervisor, now),
                _ => self.follow(&supervisor, now),
            }
        }
        let known = self.calls.get(call).filter(|_| !in_doubt);
        let concerned = known.into_iter().flat_map(here).flat_map(|device| self.index.of_target.of(device));
        for supervisor in concerned.cloned().collect::<BTreeSet<_>>() {
            self.seek(&supervisor, now);
        }
    }

    /// The call has become a part of another, and whoever was on it is on that one now: its supervisors too. To be told before either
    /// call is handed in as it is then.
    pub fn handle_merged(&mut self, from: &CallId, into: &CallId) {
        for supervisor in self.index.of_call.of(from).cloned().collect::<Vec<_>>() {
            let Some(monitor) = self.monitors.get(&supervisor) else { continue };
            let mut state = monitor.state.clone();
            match &mut state {
                MonitorPhase::Armed => continue,
                MonitorPhase::Admitting { call, .. } | MonitorPhase::Inviting { call, .. } | MonitorPhase::Joined { call, .. } => {
                    *call = into.clone()
                }
            }
            let standing = !monitor.lingering;
            self.set_state(&supervisor, state);
            self.unpass(&supervisor, into);
            if standing {
                self.changed(&supervisor);
            }
            self.ask_admission(&supervisor);
        }
    }

    fn know(&mut self, call: &CallFact) {
        if call.is_over() {
            self.doubtful.remove(&call.id);
        }
        let known = match call.is_over() {
            true => self.calls.remove(&call.id),
            false => self.calls.insert(call.id.clone(), call.clone()),
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

    /// What became of a supervisor's leg that `Invite` asked for. Outcomes of legs released meanwhile are ignored.
    pub fn handle_leg(&mut self, supervisor: &DeviceId, call: &CallId, outcome: LegOutcome, now: Now) {
        let Some(monitor) = self.monitors.get(supervisor).filter(|monitor| monitor.state.call() == Some(call)) else {
            return;
        };
        match (&monitor.state, outcome) {
            (MonitorPhase::Armed | MonitorPhase::Admitting { .. }, _) | (MonitorPhase::Joined { .. }, LegOutcome::Answered) => {}
            (MonitorPhase::Inviting { .. }, LegOutcome::Answered) if self.doubtful.contains(call) => {
                let (call, deadline) = (call.clone(), now.mono + DOUBT);
                let answered = true;
                self.set_state(supervisor, MonitorPhase::Inviting { call, deadline, answered });
            }
            (MonitorPhase::Inviting { .. }, LegOutcome::Answered) => self.join(supervisor, now),
            (
                MonitorPhase::Inviting { .. },
                LegOutcome::Busy | LegOutcome::Rejected | LegOutcome::NoAnswer | LegOutcome::Unreachable | LegOutcome::HungUp,
            ) => self.fall_back(supervisor, Some(why_not(supervisor, outcome)), now),
            (
                MonitorPhase::Joined { .. },
                LegOutcome::HungUp | LegOutcome::Busy | LegOutcome::Rejected | LegOutcome::NoAnswer | LegOutcome::Unreachable,
            ) => {
                self.pass(supervisor);
                self.leave(supervisor, now);
            }
        }
    }

    /// The device is no longer one of the house. (One that merely unregisters keeps its monitors.)
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
            let Some(monitor) = self.monitors.get(&supervisor) else { continue };
            let refusal = match &monitor.state {
                MonitorPhase::Armed | MonitorPhase::Joined { .. } => continue,
                MonitorPhase::Admitting { .. } => Refusal::new(Reason::Unavailable, "Nobody has confirmed in time that he may join."),
                MonitorPhase::Inviting { call, .. } => {
                    self.outputs.push_back(SupervisionOutput::Release {
                        supervisor: supervisor.clone(),
                        call: call.clone(),
                        reason: ReleaseReason::NoAnswer,
                    });
                    why_not(&supervisor, LegOutcome::NoAnswer)
                }
            };
            self.fall_back(&supervisor, Some(refusal), now);
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
        let standing = self.monitors.iter().filter(|(_, monitor)| !monitor.lingering);
        standing.map(|(supervisor, monitor)| monitor.fact(supervisor))
    }

    /// Does a supervisor keep this call alive? Asked by the switch when only one party besides supervisors is left, with the call as it
    /// then is; false means: release the rest. Always false unless `debrief` or `takeover` is configured.
    pub fn keeps_alive(&self, call: &CallFact) -> bool {
        let monitors = self
            .index
            .of_call
            .of(&call.id)
            .filter_map(|supervisor| self.monitors.get(supervisor));
        monitors.into_iter().any(|monitor| match &monitor.state {
            MonitorPhase::Joined {
                call: his,
                activity,
                place,
                ..
            } if *his == call.id => monitor
                .place(&self.config, call, *activity, place.coached.as_ref())
                .is_ok_and(|place| place.takeover || place.coached.is_some() && self.config.debrief),
            MonitorPhase::Armed | MonitorPhase::Admitting { .. } | MonitorPhase::Inviting { .. } | MonitorPhase::Joined { .. } => false,
        })
    }

    /// Would `StartMonitoring` be accepted now?
    pub fn may_start(&self, supervisor: &DeviceId, target: &DeviceId) -> Result<(), Refusal> {
        if supervisor == target {
            return Err(Refusal::new(Reason::NotPermitted, "Nobody monitors himself."));
        }
        let his_own = self.monitors.get(supervisor).is_some_and(|monitor| monitor.target == *target);
        if self.index.of_target.count(target) - usize::from(his_own) >= self.config.max_supervisors_per_device {
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
            Some(monitor) if monitor.target == asked.target => self.change(asked, now),
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
        let monitor = Monitor::armed(asked);
        let passed = self.not_to_intrude(&monitor);
        self.put(supervisor.clone(), monitor);
        self.set_passed(&supervisor, passed);
        self.changed(&supervisor);
        self.seek(&supervisor, now);
    }

    /// Asking again: activity, mode and scope change, live if joined.
    fn change(&mut self, asked: MonitorFact, now: Now) {
        let supervisor = asked.supervisor.clone();
        let Some(monitor) = self.monitors.get_mut(&supervisor) else {
            return;
        };
        let before = monitor.fact(&supervisor);
        let revived = std::mem::take(&mut monitor.lingering);
        monitor.activity = asked.activity;
        monitor.mode = asked.mode;
        monitor.scope = asked.scope;
        monitor.confirm_joins = asked.confirm_joins;
        monitor.agent_side_only = asked.agent_side_only;
        let activity_before = match &mut monitor.state {
            MonitorPhase::Joined { activity, .. } => Some(std::mem::replace(activity, asked.activity)),
            MonitorPhase::Armed | MonitorPhase::Admitting { .. } | MonitorPhase::Inviting { .. } => None,
        };
        let differs = revived || monitor.fact(&supervisor) != before;
        match monitor.state {
            MonitorPhase::Armed => {
                if differs {
                    self.changed(&supervisor);
                }
                self.forgive(&supervisor);
                self.seek(&supervisor, now);
            }
            // What was asked for is not what he would do now.
            MonitorPhase::Admitting { .. } if differs => self.begin_again(&supervisor, now),
            MonitorPhase::Admitting { .. } => {}
            MonitorPhase::Inviting { .. } | MonitorPhase::Joined { .. } => {
                self.hear(&supervisor, activity_before);
                if differs {
                    self.changed(&supervisor);
                }
                self.follow(&supervisor, now);
            }
        }
    }

    fn stop(&mut self, supervisor: &DeviceId) -> Result<(), Refusal> {
        let monitor = self.standing(supervisor)?;
        if matches!(monitor.state, MonitorPhase::Joined { .. }) && !self.config.cancel_releases_call {
            if let Some(monitor) = self.monitors.get_mut(supervisor) {
                monitor.lingering = true;
            }
            self.outputs.push_back(SupervisionOutput::Gone {
                supervisor: supervisor.clone(),
            });
        } else {
            self.end(supervisor, ReleaseReason::Cancelled);
        }
        Ok(())
    }

    fn switch(&mut self, supervisor: &DeviceId, call: &CallId, to: Activity, now: Now) -> Result<(), Refusal> {
        let joined = self.monitors.get_mut(supervisor).and_then(|monitor| match &mut monitor.state {
            MonitorPhase::Joined { call: his, activity, .. } if his == call => Some((activity, monitor.lingering)),
            MonitorPhase::Armed | MonitorPhase::Admitting { .. } | MonitorPhase::Inviting { .. } | MonitorPhase::Joined { .. } => None,
        });
        let Some((activity, lingering)) = joined else {
            self.known(call)?;
            let pattern = format!("Device '{{}}' does not monitor call '{call}'.");
            return Err(Refusal::device(Reason::InvalidState, supervisor, pattern));
        };
        if *activity == to {
            return Err(Refusal::new(Reason::InvalidState, format!("The supervisor is in {to} already.")));
        }
        let before = std::mem::replace(activity, to);
        self.hear(supervisor, Some(before));
        if !lingering {
            self.changed(supervisor);
        }
        self.follow(supervisor, now);
        Ok(())
    }

    fn admit(&mut self, supervisor: &DeviceId, call: &CallId, admitted: bool, now: Now) -> Result<(), Refusal> {
        let asked = self.monitors.get(supervisor).is_some_and(|monitor| match &monitor.state {
            MonitorPhase::Admitting { call: asked, .. } => asked == call,
            MonitorPhase::Armed | MonitorPhase::Inviting { .. } | MonitorPhase::Joined { .. } => false,
        });
        if !asked {
            self.known(call)?;
            let pattern = format!("Device '{{}}' does not wait for leave to join call '{call}'.");
            return Err(Refusal::device(Reason::InvalidState, supervisor, pattern));
        }
        if admitted {
            self.invite(supervisor, call.clone(), now);
        } else {
            let pattern = format!("Device '{{}}' may not join call '{call}'.");
            let refusal = Refusal::device(Reason::NotPermitted, supervisor, pattern);
            self.fall_back(supervisor, Some(refusal), now);
        }
        Ok(())
    }

    /// Looks for a call of the target for a monitor that has none.
    fn seek(&mut self, supervisor: &DeviceId, now: Now) {
        let Some(monitor) = self
            .monitors
            .get(supervisor)
            .filter(|monitor| matches!(monitor.state, MonitorPhase::Armed))
        else {
            return;
        };
        let may_join = |call: &&CallFact| {
            !monitor.passed.contains(&call.id) && !self.doubtful.contains(&call.id) && monitor.may_join(&self.config, call, supervisor)
        };
        // The call he talks on rather than the one he holds, then the older.
        let order = |call: &&CallFact| {
            let leg = call.party_of(&monitor.target);
            (
                leg.map(|leg| leg.state == LegState::Held),
                leg.and_then(|leg| leg.established_at),
                call.id.clone(),
            )
        };
        let his = self.index.calls.of(&monitor.target).filter_map(|call| self.calls.get(call));
        if let Some(call) = his.filter(may_join).min_by_key(order) {
            self.begin(supervisor, call.id.clone(), now);
        }
    }

    fn begin(&mut self, supervisor: &DeviceId, call: CallId, now: Now) {
        let Some(monitor) = self.monitors.get(supervisor) else { return };
        if !monitor.confirm_joins {
            return self.invite(supervisor, call, now);
        }
        let deadline = now.mono + self.config.admission_timeout;
        self.set_state(supervisor, MonitorPhase::Admitting { call, deadline });
        self.changed(supervisor);
        self.ask_admission(supervisor);
    }

    /// Asks whether he may join the call that he waits for leave to join, if he does.
    fn ask_admission(&mut self, supervisor: &DeviceId) {
        let Some(monitor) = self.monitors.get(supervisor) else { return };
        if let MonitorPhase::Admitting { call, .. } = &monitor.state {
            self.outputs.push_back(SupervisionOutput::AskAdmission(AdmissionAsked {
                supervisor: supervisor.clone(),
                target: monitor.target.clone(),
                call: call.clone(),
                activity: monitor.activity,
            }));
        }
    }

    fn begin_again(&mut self, supervisor: &DeviceId, now: Now) {
        let call = self.monitors.get(supervisor).and_then(|monitor| monitor.state.call().cloned());
        if let Some(call) = call {
            self.begin(supervisor, call, now);
        }
    }

    fn invite(&mut self, supervisor: &DeviceId, call: CallId, now: Now) {
        let Some(monitor) = self.monitors.get(supervisor) else { return };
        self.outputs.push_back(SupervisionOutput::Invite {
            supervisor: supervisor.clone(),
            target: monitor.target.clone(),
            call: call.clone(),
            activity: monitor.activity,
        });
        let deadline = now.mono + self.config.invite_timeout;
        let answered = false;
        self.set_state(supervisor, MonitorPhase::Inviting { call, deadline, answered });
        self.changed(supervisor);
    }

    fn join(&mut self, supervisor: &DeviceId, now: Now) {
        let Some(monitor) = self.monitors.get(supervisor) else { return };
        let Some(call) = monitor.state.call().cloned() else { return };
        let activity = monitor.activity;
        // `follow` runs at each change of the call, so it has not gone meanwhile; if in doubt, he is heard by nobody.
        let place = self.calls.get(&call).map(|call| monitor.place(&self.config, call, activity, None));
        let joined = MonitorPhase::Joined {
            call,
            activity,
            place: place.and_then(Result::ok).unwrap_or_default(),
            since: now.wall,
        };
        self.set_state(supervisor, joined);
        self.hear(supervisor, None);
        self.changed(supervisor);
        self.follow(supervisor, now);
    }

    /// Holds a monitor against its call as it is now.
    fn follow(&mut self, supervisor: &DeviceId, now: Now) {
        let Some(monitor) = self.monitors.get_mut(supervisor) else { return };
        let fact = monitor.state.call().and_then(|call| self.calls.get(call));
        match &mut monitor.state {
            MonitorPhase::Armed => {}
            MonitorPhase::Admitting { .. } => {
                let lives = |call: &&CallFact| !self.doubtful.contains(&call.id);
                if !fact
                    .filter(lives)
                    .is_some_and(|call| monitor.may_join(&self.config, call, supervisor))
                {
                    self.disarm(supervisor, now);
                }
            }
            MonitorPhase::Inviting { call, .. } => {
                let activity = monitor.activity;
                let call = call.clone();
                let place = fact.map_or(Err(ReleaseReason::CallEnded), |fact| {
                    monitor.place(&self.config, fact, activity, None)
                });
                if let Err(reason) = place {
                    self.release(supervisor, call, reason);
                    self.disarm(supervisor, now);
                }
            }
            MonitorPhase::Joined { call, activity, place, .. } => {
                let (call, activity, before) = (call.clone(), *activity, place.clone());
                let after = fact.map_or(Err(ReleaseReason::CallEnded), |fact| {
                    monitor.place(&self.config, fact, activity, before.coached.as_ref())
                });
                match after {
                    Err(reason) => {
                        self.release(supervisor, call, reason);
                        self.leave(supervisor, now);
                    }
                    Ok(after) if after == before => {}
                    Ok(after) => {
                        if let MonitorPhase::Joined { place, .. } = &mut monitor.state {
                            *place = after;
                        }
                        self.hear(supervisor, None);
                    }
                }
            }
        }
    }

    /// Says how he is heard now, if he is joined and does not do what he did `before`.
    fn hear(&mut self, supervisor: &DeviceId, before: Option<Activity>) {
        let Some(monitor) = self.monitors.get_mut(supervisor) else { return };
        let MonitorPhase::Joined { call, activity, place, .. } = &mut monitor.state else {
            return;
        };
        if before == Some(*activity) {
            return;
        }
        // Whoever leaves BargeIn no longer stands in for the agent.
        place.takeover &= *activity == Activity::BargeIn;
        self.outputs.push_back(SupervisionOutput::Hear {
            supervisor: supervisor.clone(),
            call: call.clone(),
            activity: *activity,
            coached: place.coached.clone(),
            takeover: place.takeover,
        });
    }

    /// He is no longer joined: the monitor is spent, or waits for the next call with the activity first asked for.
    fn leave(&mut self, supervisor: &DeviceId, now: Now) {
        let Some(monitor) = self.monitors.get(supervisor) else { return };
        if monitor.lingering {
            self.remove(supervisor);
            return;
        }
        match monitor.mode {
            Mode::AllCalls => self.disarm(supervisor, now),
            Mode::NextCall => {
                self.remove(supervisor);
                self.outputs.push_back(SupervisionOutput::Gone {
                    supervisor: supervisor.clone(),
                });
            }
        }
    }

    /// He could not be brought in: the monitor waits for the next call.
    fn fall_back(&mut self, supervisor: &DeviceId, refusal: Option<Refusal>, now: Now) {
        let call = self.monitors.get(supervisor).and_then(|monitor| monitor.state.call().cloned());
        self.pass(supervisor);
        if let Some(refusal) = refusal {
            self.outputs.push_back(SupervisionOutput::Failed(Failure {
                device: supervisor.clone(),
                call,
                request_id: None,
                refusal,
            }));
        }
        self.disarm(supervisor, now);
    }

    fn pass(&mut self, supervisor: &DeviceId) {
        let Some(monitor) = self.monitors.get_mut(supervisor) else { return };
        if let Some(call) = monitor.state.call().filter(|call| self.calls.contains_key(*call)).cloned() {
            monitor.passed.insert(call.clone());
            self.index.passed.insert(&call, supervisor);
        }
    }

    fn unpass(&mut self, supervisor: &DeviceId, call: &CallId) {
        if let Some(monitor) = self.monitors.get_mut(supervisor) {
            monitor.passed.remove(call);
            self.index.passed.remove(call, supervisor);
        }
    }

    fn set_passed(&mut self, supervisor: &DeviceId, passed: BTreeSet<CallId>) {
        let Some(monitor) = self.monitors.get_mut(supervisor) else { return };
        for call in &monitor.passed {
            self.index.passed.remove(call, supervisor);
        }
        for call in &passed {
            self.index.passed.insert(call, supervisor);
        }
        monitor.passed = passed;
    }

    fn set_state(&mut self, supervisor: &DeviceId, state: MonitorPhase) {
        let Some(monitor) = self.monitors.get_mut(supervisor) else { return };
        if let Some(call) = monitor.state.call() {
            self.index.of_call.remove(call, supervisor);
        }
        if let Some(deadline) = monitor.state.deadline() {
            self.index.deadlines.remove(&(deadline, supervisor.clone()));
        }
        if let Some(call) = state.call() {
            self.index.of_call.insert(call, supervisor);
        }
        if let Some(deadline) = state.deadline() {
            self.index.deadlines.insert((deadline, supervisor.clone()));
        }
        monitor.state = state;
    }

    fn put(&mut self, supervisor: DeviceId, monitor: Monitor) {
        self.remove(&supervisor);
        self.index.of_target.insert(&monitor.target, &supervisor);
        self.monitors.insert(supervisor, monitor);
    }

    fn remove(&mut self, supervisor: &DeviceId) -> Option<Monitor> {
        self.set_passed(supervisor, BTreeSet::new());
        let state = self.monitors.get(supervisor)?.state.clone();
        self.set_state(supervisor, MonitorPhase::Armed);
        let monitor = self.monitors.remove(supervisor)?;
        self.index.of_target.remove(&monitor.target, supervisor);
        Some(Monitor { state, ..monitor })
    }

    fn disarm(&mut self, supervisor: &DeviceId, now: Now) {
        self.set_state(supervisor, MonitorPhase::Armed);
        self.changed(supervisor);
        self.seek(supervisor, now);
    }

    fn end(&mut self, supervisor: &DeviceId, reason: ReleaseReason) {
        let Some(monitor) = self.remove(supervisor) else { return };
        match monitor.state {
            MonitorPhase::Armed | MonitorPhase::Admitting { .. } => {}
            MonitorPhase::Inviting { call, .. } | MonitorPhase::Joined { call, .. } => self.release(supervisor, call, reason),
        }
        if !monitor.lingering {
            self.outputs.push_back(SupervisionOutput::Gone {
                supervisor: supervisor.clone(),
            });
        }
    }

    fn release(&mut self, supervisor: &DeviceId, call: CallId, reason: ReleaseReason) {
        self.outputs.push_back(SupervisionOutput::Release {
            supervisor: supervisor.clone(),
            call,
            reason,
        });
    }

    fn changed(&mut self, supervisor: &DeviceId) {
        if let Some(monitor) = self.monitors.get(supervisor) {
            self.outputs.push_back(SupervisionOutput::Changed(monitor.fact(supervisor)));
        }
    }

    /// Who asks again may join calls that he was out of.
    fn forgive(&mut self, supervisor: &DeviceId) {
        let passed = self.monitors.get(supervisor).map(|monitor| self.not_to_intrude(monitor));
        if let Some(passed) = passed {
            self.set_passed(supervisor, passed);
        }
    }

    /// The calls that go on already and that he may not break into.
    fn not_to_intrude(&self, monitor: &Monitor) -> BTreeSet<CallId> {
        let may_intrude = match self.config.intrusion {
            Intrusion::Any => true,
            Intrusion::BargeIn => monitor.activity == Activity::BargeIn,
            Intrusion::Never => false,
        };
        if may_intrude {
            return BTreeSet::new();
        }
        let is_on = |call: &&CallFact| {
            let leg = call.party_of(&monitor.target);
            leg.is_some_and(|leg| matches!(leg.state, LegState::Established | LegState::Held))
        };
        let his = self.index.calls.of(&monitor.target).filter_map(|call| self.calls.get(call));
        his.filter(is_on).map(|call| call.id.clone()).collect()
    }

    fn known(&self, call: &CallId) -> Result<(), Refusal> {
        let known = self.calls.contains_key(call);
        known.then_some(()).ok_or_else(|| Refusal::no_call(call))
    }

    fn standing(&self, supervisor: &DeviceId) -> Result<&Monitor, Refusal> {
        let monitor = self.monitors.get(supervisor).filter(|monitor| !monitor.lingering);
        monitor.ok_or_else(|| Refusal::device(Reason::InvalidState, supervisor, "Device '{}' monitors nobody."))
    }
}

impl Monitor {
    fn armed(fact: MonitorFact) -> Self {
        Self {
            target: fact.target,
            activity: fact.activity,
            mode: fact.mode,
            scope: fact.scope,
            confirm_joins: fact.confirm_joins,
            agent_side_only: fact.agent_side_only,
            passed: BTreeSet::new(),
            lingering: false,
            state: MonitorPhase::Armed,
        }
    }

    fn fact(&self, supervisor: &DeviceId) -> MonitorFact {
        MonitorFact {
            supervisor: supervisor.clone(),
            target: self.target.clone(),
            activity: self.activity,
            mode: self.mode,
            scope: self.scope,
            confirm_joins: self.confirm_joins,
            agent_side_only: self.agent_side_only,
            state: match &self.state {
                MonitorPhase::Armed => MonitorState::Armed,
                MonitorPhase::Admitting { call, .. } => MonitorState::Admitting { call: call.clone() },
                MonitorPhase::Inviting { call, .. } => MonitorState::Inviting { call: call.clone() },
                MonitorPhase::Joined { call, activity, since, .. } => MonitorState::Joined {
                    call: call.clone(),
                    activity: *activity,
                    since: *since,
                },
            },
        }
    }

    /// May he begin on this call? Only where he may then stay.
    fn may_join(&self, config: &SupervisionConfig, call: &CallFact, supervisor: &DeviceId) -> bool {
        may_join(config, call, &self.target, supervisor) && self.place(config, call, self.activity, None).is_ok()
    }

    fn place(
        &self,
        config: &SupervisionConfig,
        call: &CallFact,
        activity: Activity,
        until_now: Option<&DeviceId>,
    ) -> Result<MonitorPlace, ReleaseReason> {
        place(config, call, &self.target, self.scope, activity, until_now)
    }
}

impl MonitorPhase {
    fn call(&self) -> Option<&CallId> {
        match self {
            MonitorPhase::Armed => None,
            MonitorPhase::Admitting { call, .. } | MonitorPhase::Inviting { call, .. } | MonitorPhase::Joined { call, .. } => Some(call),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            MonitorPhase::Armed | MonitorPhase::Joined { .. } => None,
            MonitorPhase::Admitting { deadline, .. } | MonitorPhase::Inviting { deadline, .. } => Some(*deadline),
        }
    }
}

/// The devices that are on a call.
fn here(call: &CallFact) -> impl Iterator<Item = &DeviceId> {
    let parties = call.parties.iter().filter(|party| party.state != LegState::Released);
    parties.filter_map(|party| party.device.as_ref())
}

fn why_not(supervisor: &DeviceId, outcome: LegOutcome) -> Refusal {
    let (reason, pattern) = match outcome {
        LegOutcome::Busy => (Reason::InvalidState, "Device '{}' is busy."),
        LegOutcome::Rejected | LegOutcome::HungUp => (Reason::InvalidState, "Device '{}' has rejected the call."),
        LegOutcome::NoAnswer => (Reason::InvalidState, "Device '{}' does not answer."),
        LegOutcome::Unreachable | LegOutcome::Answered => (Reason::Internal, "Device '{}' is not registered."),
    };
    Refusal::device(reason, supervisor, pattern)
}
