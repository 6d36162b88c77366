//! Which node a command goes to, and what becomes of the answers of several.

use super::monitor::ClusterMonitor;
use super::{Cluster, IN_FLIGHT, NodeId, Output, Settings, Token, WorkId};
use crate::model::{
    CallId, Command, CommandContext, DeviceId, FeatureCodeId, MonitorFact, MonitorState, Now,
    Reason, Refusal,
};
use std::cmp::Reverse;
use std::time::Duration;

/// How long after a setting has failed at a node it is tried again.
const SET_AGAIN: Duration = Duration::from_secs(5);

/// What an answer of a node belongs to.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// A step toward a monitor, of the cluster's own or of a command of the gateway.
    Step { node: NodeId, supervisor: DeviceId, is_start: bool, is_own: bool },
    /// A setting that a node has missed.
    Setting { node: NodeId, device: DeviceId },
    /// A command of the gateway for this node alone.
    Passed { token: Token },
    /// Leave to bring a supervisor in.
    Admission { token: Token, node: NodeId, supervisor: DeviceId },
    /// A setting of the gateway, which every node answers.
    Set { token: Token, node: NodeId, device: DeviceId },
}

/// A command of the gateway that several nodes answer.
#[derive(Debug)]
pub(super) struct Gathered {
    context: CommandContext,
    waits_for: usize,
    has_accepted: bool,
    /// The first refusal that is no "Unavailable"; else the first of those.
    refusal: Option<Refusal>,
    kind: GatheredKind,
}

#[derive(Debug)]
enum GatheredKind {
    Start { supervisor: DeviceId, before: Option<Box<MonitorFact>> },
    Stop,
    Setting { device: DeviceId, settings: Settings },
}

/// Where a command goes.
enum Route {
    /// To the node that has this call.
    Call(CallId),
    /// To the node that has this call, where the supervisor may be brought in now.
    Admission(DeviceId, CallId),
    /// To the node that has both calls.
    Calls(CallId, CallId),
    /// To a node that reaches the phone of this device, and takes calls.
    Phone(DeviceId),
    /// To the node of this feature code.
    Code(FeatureCodeId),
    Start(Box<MonitorFact>),
    Stop(DeviceId),
    Setting(DeviceId, Settings),
}

pub(super) fn away() -> Refusal {
    Refusal::new(Reason::Unavailable, "The node that this concerns cannot be reached.")
}

impl Cluster {
    pub(super) fn dispatch(
        &mut self,
        token: Token,
        context: CommandContext,
        command: Command,
        now: Now,
    ) {
        let node = match route(&command) {
            Route::Call(call) => self.node_of(&call),
            Route::Admission(supervisor, call) => self.node_that_admits(&supervisor, &call),
            Route::Calls(call, other) => self.node_of_both(&call, &other),
            Route::Phone(device) => self.node_of_phone(&device),
            Route::Code(code) => self.node_of_code(&code),
            Route::Start(asked) => return self.start(token, context, *asked, now),
            Route::Stop(supervisor) => return self.stop(token, context, &supervisor, now),
            Route::Setting(device, settings) => {
                return self.set(token, context, command, device, settings);
            }
        };
        match node {
            Ok(node) => {
                let work = self.passed(token, node, &command, now);
                self.send(node, context, command, work);
            }
            Err(refusal) => self.reply(token, Err(refusal)),
        }
    }

    /// A command is for one node. From when a supervisor has leave to be brought in, nobody else
    /// may do that.
    fn passed(&mut self, token: Token, node: NodeId, command: &Command, now: Now) -> Work {
        match command {
            Command::AdmitMonitoring { supervisor, admitted: true, .. } => {
                if let Some(monitor) = self.monitors.get_mut(supervisor) {
                    monitor.admit(node, now);
                }
                Work::Admission { token, node, supervisor: supervisor.clone() }
            }
            _ => Work::Passed { token },
        }
    }

    fn reply(&mut self, token: Token, result: Result<(), Refusal>) {
        self.outputs.push_back(Output::Reply { token, result });
    }

    /// The node that tells of a call.
    fn node_of(&self, call: &CallId) -> Result<NodeId, Refusal> {
        let holder = self.nodes.iter().find(|(_, node)| node.facts.call(call).is_some());
        match holder {
            Some((id, node)) if node.is_ready => Ok(*id),
            Some(_) => Err(away()),
            None => Err(Refusal::no_call(call)),
        }
    }

    /// The gateway's leave may come late: then another node may have the supervisor.
    fn node_that_admits(&self, supervisor: &DeviceId, call: &CallId) -> Result<NodeId, Refusal> {
        let node = self.node_of(call)?;
        let monitor = self.monitors.get(supervisor);
        if !monitor.is_some_and(|monitor| monitor.is_active_at(node)) {
            let pattern = "Device '{}' does not wait for leave to join this call.";
            return Err(Refusal::device(Reason::InvalidState, supervisor, pattern));
        }
        Ok(node)
    }

    fn node_of_both(&self, call: &CallId, other: &CallId) -> Result<NodeId, Refusal> {
        let (node, others) = (self.node_of(call)?, self.node_of(other)?);
        if node != others {
            let text = "The two calls are on different nodes.";
            return Err(Refusal::new(Reason::InvalidState, text));
        }
        Ok(node)
    }

    /// Of the nodes that reach the phone one that takes calls, the one with most room. One that
    /// takes none, or does not reach it, is asked for want of a better: its refusal says why.
    fn node_of_phone(&self, device: &DeviceId) -> Result<NodeId, Refusal> {
        let ready = self.nodes.iter().filter(|(_, node)| node.is_ready);
        let best = ready.max_by_key(|(id, node)| {
            let reaches = node.facts.device(device).is_some_and(|fact| fact.registered);
            let load = node.load;
            (reaches, load.takes_calls(), load.room(), Reverse(load.calls), Reverse(**id))
        });
        best.map(|(id, _)| *id).ok_or_else(away)
    }

    fn node_of_code(&self, code: &FeatureCodeId) -> Result<NodeId, Refusal> {
        let dialled = self.codes.iter().rev().find(|(known, _)| known == code);
        let (_, node) = dialled.ok_or_else(|| {
            Refusal::new(Reason::InvalidState, "The feature code does not wait for an answer.")
        })?;
        self.ready().find(|ready| ready == node).ok_or_else(away)
    }

    /// A monitor is asked for: at the node where its supervisor is busy, else at every node.
    fn start(&mut self, token: Token, context: CommandContext, asked: MonitorFact, now: Now) {
        let supervisor = asked.supervisor.clone();
        let monitor = self.monitors.entry(supervisor.clone());
        let monitor = monitor.or_insert_with(|| ClusterMonitor::new(supervisor.clone()));
        let desired = monitor.desired().cloned().map(Box::new);
        let by = monitor.desired_by().and_then(|token| self.gathered.get(&token));
        // What has not been accepted yet is not what it is to be again.
        let before = match by.map(|gathered| &gathered.kind) {
            Some(GatheredKind::Start { before, .. }) => before.clone(),
            Some(GatheredKind::Stop | GatheredKind::Setting { .. }) | None => desired,
        };
        let active = monitor.active();
        let nodes: Vec<_> =
            self.ready().filter(|node| active.is_none_or(|active| active == *node)).collect();
        if nodes.is_empty() {
            self.reply(token, Err(away()));
            return self.reconcile(&supervisor, now);
        }
        let kind = GatheredKind::Start { supervisor: supervisor.clone(), before };
        let user = context.user.clone();
        self.gather(token, context, nodes.len(), kind);
        self.owe(&supervisor, token, &nodes, now, |monitor| {
            monitor.set_desired(Some(asked), user, token);
        });
    }

    /// What is desired of a monitor changes, and these nodes are to answer for it.
    fn owe(
        &mut self,
        supervisor: &DeviceId,
        token: Token,
        nodes: &[NodeId],
        now: Now,
        change: impl FnOnce(&mut ClusterMonitor),
    ) {
        let Some(monitor) = self.monitors.get_mut(supervisor) else {
            return;
        };
        change(monitor);
        for (_, overtaken) in monitor.owe(nodes, token) {
            let text = "Another request about this monitor has come meanwhile.";
            self.gathered_one(overtaken, Err(Refusal::new(Reason::Unavailable, text)));
        }
        self.reconcile(supervisor, now);
    }

    /// The context of a command of the gateway for one of its nodes: a feature code concerns the
    /// node that it was dialled at alone.
    pub(super) fn context_of(&self, token: Token, node: NodeId) -> Option<CommandContext> {
        let context = self.gathered.get(&token)?.context.clone();
        let is_there = |code: &FeatureCodeId| self.node_of_code(code) == Ok(node);
        let feature_code = context.feature_code.clone().filter(is_there);
        Some(CommandContext { feature_code, ..context })
    }

    /// A monitor is cancelled: at every node that has it, and at one that is away once it is back.
    fn stop(&mut self, token: Token, context: CommandContext, supervisor: &DeviceId, now: Now) {
        let is_wanted = |monitor: &&mut ClusterMonitor| {
            monitor.desired().is_some() || monitor.holders().next().is_some()
        };
        let Some(monitor) = self.monitors.get_mut(supervisor).filter(is_wanted) else {
            let pattern = "Device '{}' monitors nobody.";
            let refusal = Refusal::device(Reason::InvalidState, supervisor, pattern);
            return self.reply(token, Err(refusal));
        };
        let holders: Vec<_> = monitor.holders().collect();
        let nodes: Vec<_> = self.ready().filter(|node| holders.contains(node)).collect();
        let user = context.user.clone();
        if nodes.is_empty() {
            // Those that have it hear of it once they are back.
            self.reply(token, Ok(()));
        } else {
            let kind = GatheredKind::Stop;
            self.gather(token, context, nodes.len(), kind);
        }
        self.owe(supervisor, token, &nodes, now, |monitor| {
            monitor.set_desired(None, user, token);
        });
    }

    /// A device is set as it is to be at every node.
    fn set(
        &mut self,
        token: Token,
        context: CommandContext,
        command: Command,
        device: DeviceId,
        settings: Settings,
    ) {
        let nodes: Vec<_> = self.ready().collect();
        if nodes.is_empty() {
            return self.reply(token, Err(away()));
        }
        let kind = GatheredKind::Setting { device: device.clone(), settings };
        self.gather(token, context.clone(), nodes.len(), kind);
        for node in nodes {
            let work = Work::Set { token, node, device: device.clone() };
            self.send(node, context.clone(), command.clone(), work);
        }
    }

    fn gather(
        &mut self,
        token: Token,
        context: CommandContext,
        waits_for: usize,
        kind: GatheredKind,
    ) {
        let gathered = Gathered { context, waits_for, has_accepted: false, refusal: None, kind };
        self.gathered.insert(token, gathered);
    }

    /// A node has answered.
    pub(super) fn finish(&mut self, id: WorkId, work: Work, result: Result<(), Refusal>, now: Now) {
        match work {
            Work::Passed { token } => self.reply(token, result),
            Work::Admission { token, node, supervisor } => {
                self.step(&supervisor, now, |monitor| monitor.handle_admitted(node, &result));
                self.reply(token, result);
            }
            Work::Setting { node, device } => {
                if result.is_err() {
                    self.missed(node, device, now);
                }
                self.answered(node, now);
            }
            Work::Step { node, supervisor, is_start, is_own } => {
                if let (true, true, Err(refusal)) = (is_start, is_own, &result) {
                    self.outputs.push_back(Output::NotArmed {
                        node,
                        supervisor: supervisor.clone(),
                        refusal: refusal.clone(),
                    });
                }
                let monitor = self.monitors.get_mut(&supervisor);
                let token =
                    monitor.and_then(|monitor| monitor.handle_result(node, id, &result, now));
                if let Some(token) = token {
                    self.gathered_one(token, result);
                }
                self.reconcile(&supervisor, now);
                if is_own {
                    self.answered(node, now);
                }
            }
            Work::Set { token, node, device } => {
                if result.is_err() {
                    self.missed(node, device, now);
                }
                self.gathered_one(token, result);
            }
        }
    }

    /// A node has answered a command of the cluster's own: the next one has its turn.
    fn answered(&mut self, node: NodeId, now: Now) {
        let Some(state) = self.nodes.get_mut(&node) else {
            return;
        };
        state.in_flight = state.in_flight.saturating_sub(1);
        while let Some(state) = self.nodes.get_mut(&node)
            && state.in_flight < IN_FLIGHT
            && let Some(supervisor) = state.waiting.pop_first()
        {
            self.reconcile(&supervisor, now);
        }
        self.set_missed(node);
    }

    /// A setting has not reached a node: it is tried again later.
    fn missed(&mut self, node: NodeId, device: DeviceId, now: Now) {
        if let Some(state) = self.nodes.get_mut(&node) {
            state.unset.insert(device);
            state.unset_at = Some(now.mono + SET_AGAIN);
        }
    }

    /// One node more has answered a command of the gateway.
    pub(super) fn gathered_one(&mut self, token: Token, result: Result<(), Refusal>) {
        let Some(gathered) = self.gathered.get_mut(&token) else {
            return;
        };
        gathered.waits_for -= 1;
        match result {
            Ok(()) => gathered.has_accepted = true,
            Err(refusal) => {
                let is_first = gathered.refusal.as_ref().is_none_or(|first| {
                    first.reason == Reason::Unavailable && refusal.reason != Reason::Unavailable
                });
                if is_first {
                    gathered.refusal = Some(refusal);
                }
            }
        }
        if gathered.waits_for == 0
            && let Some(gathered) = self.gathered.remove(&token)
        {
            self.gathered_all(token, gathered);
        }
    }

    /// Every node has answered. A start that one of them refuses is refused: what the others have
    /// accepted is taken back. One that cannot be reached does not count.
    fn gathered_all(&mut self, token: Token, gathered: Gathered) {
        let Gathered { has_accepted, refusal, kind, .. } = gathered;
        let is_unavailable =
            refusal.as_ref().is_none_or(|refusal| refusal.reason == Reason::Unavailable);
        let result = match (kind, refusal) {
            (GatheredKind::Start { supervisor, before }, Some(refusal))
                if !has_accepted || !is_unavailable =>
            {
                if let Some(monitor) = self.monitors.get_mut(&supervisor) {
                    monitor.revert(token, before.map(|before| *before));
                }
                Err(refusal)
            }
            (GatheredKind::Setting { device, settings }, refusal) if has_accepted => {
                let known = self.settings.entry(device.clone()).or_default();
                if settings.do_not_disturb.is_some() {
                    known.do_not_disturb = settings.do_not_disturb;
                }
                if settings.forward_to.is_some() {
                    known.forward_to = settings.forward_to;
                }
                self.tell_device(&device);
                refusal.filter(|_| !is_unavailable).map_or(Ok(()), Err)
            }
            (GatheredKind::Start { .. } | GatheredKind::Stop, _) if has_accepted => Ok(()),
            (_, Some(refusal)) => Err(refusal),
            (_, None) => Ok(()),
        };
        self.reply(token, result);
    }

    /// Sets a node as the others are, where it is not: some devices at a time.
    pub(super) fn set_missed(&mut self, node: NodeId) {
        while let Some(state) = self.nodes.get_mut(&node)
            && state.is_ready
            && state.unset_at.is_none()
            && state.in_flight < IN_FLIGHT
            && let Some(device) = state.unset.pop_first()
        {
            let wanted = self.wanted_settings(node, &device);
            let Some(fact) = self.node(node).facts.device(&device) else {
                continue;
            };
            let on = wanted.do_not_disturb.filter(|on| *on != fact.do_not_disturb);
            let to = wanted.forward_to.filter(|to| *to != fact.forward_to);
            let do_not_disturb =
                on.map(|on| Command::SetDoNotDisturb { device: device.clone(), on });
            let forwarding = to.map(|to| Command::SetForwarding { device: device.clone(), to });
            for command in do_not_disturb.into_iter().chain(forwarding) {
                let work = Work::Setting { node, device: device.clone() };
                self.send_own(node, None, command, work);
            }
        }
    }
}

fn route(command: &Command) -> Route {
    match command {
        Command::StartMonitoring {
            supervisor,
            target,
            activity,
            mode,
            scope,
            confirm_joins: _,
            agent_side_only,
        } => Route::Start(Box::new(MonitorFact {
            supervisor: supervisor.clone(),
            target: target.clone(),
            activity: *activity,
            mode: *mode,
            scope: *scope,
            confirm_joins: true,
            agent_side_only: *agent_side_only,
            state: MonitorState::Armed,
        })),
        Command::StopMonitoring { supervisor } => Route::Stop(supervisor.clone()),
        Command::SetDoNotDisturb { device, on } => {
            Route::Setting(device.clone(), Settings { do_not_disturb: Some(*on), forward_to: None })
        }
        Command::SetForwarding { device, to } => Route::Setting(
            device.clone(),
            Settings { do_not_disturb: None, forward_to: Some(to.clone()) },
        ),
        Command::Dial { device, .. } => Route::Phone(device.clone()),
        Command::RefuseFeatureCode { code, .. } => Route::Code(code.clone()),
        Command::SwapCalls { call, other, .. } => Route::Calls(call.clone(), other.clone()),
        Command::AdmitMonitoring { supervisor, call, .. } => {
            Route::Admission(supervisor.clone(), call.clone())
        }
        Command::SwitchMonitoring { call, .. }
        | Command::MuteMonitoredParty { call, .. }
        | Command::Answer { call, .. }
        | Command::Hangup { call, .. }
        | Command::ClearCall { call, .. }
        | Command::Reject { call, .. }
        | Command::Redirect { call, .. }
        | Command::Hold { call, .. }
        | Command::Retrieve { call, .. }
        | Command::Mute { call, .. }
        | Command::SendDtmf { call, .. }
        | Command::Transfer { call, .. }
        | Command::Conference { call, .. }
        | Command::RemoveParticipant { call, .. }
        | Command::ChangeUserData { call, .. } => Route::Call(call.clone()),
    }
}
