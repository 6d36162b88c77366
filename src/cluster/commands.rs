//! Which node a command goes to, and what becomes of the answers of several.

use super::monitor::{ClusterMonitor, Step};
use super::{Cluster, NodeId, Output, Settings, Token, WorkId};
use crate::model::{
    CallId, Command, CommandContext, DeviceId, FeatureCodeId, MonitorFact, MonitorState, Now,
    Reason, Refusal,
};

/// What an answer of a node belongs to.
#[derive(Clone, Debug)]
pub(super) enum Work {
    /// A step of the cluster's own toward a monitor.
    Own { node: NodeId, supervisor: DeviceId, is_start: bool },
    /// A setting that a node has missed.
    Setting { node: NodeId },
    /// A command of the gateway for this node alone.
    Passed { token: Token },
    /// A command of the gateway that several nodes answer.
    Gathered { token: Token, node: NodeId },
}

/// A command of the gateway that several nodes answer.
#[derive(Debug)]
pub(super) struct Gathered {
    waits_for: usize,
    has_accepted: bool,
    /// The first refusal that is no "Unavailable"; else the first of those.
    refusal: Option<Refusal>,
    kind: GatheredKind,
}

#[derive(Debug)]
enum GatheredKind {
    Start { supervisor: DeviceId, asked: Box<MonitorFact>, before: Option<Box<MonitorFact>> },
    Stop { supervisor: DeviceId },
    Setting { device: DeviceId, settings: Settings },
}

/// Where a command goes.
enum Route {
    /// To the node that has this call.
    Call(CallId),
    /// To the node that has both calls.
    Calls(CallId, CallId),
    /// To the node that reaches the phone of this device.
    Phone(DeviceId),
    /// To the node of this feature code.
    Code(FeatureCodeId),
    Start(Box<MonitorFact>),
    Stop(DeviceId),
    Setting(DeviceId, Settings),
}

fn away() -> Refusal {
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
                self.send(node, context, command, Work::Passed { token });
            }
            Err(refusal) => self.reply(token, Err(refusal)),
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

    fn node_of_both(&self, call: &CallId, other: &CallId) -> Result<NodeId, Refusal> {
        let (node, others) = (self.node_of(call)?, self.node_of(other)?);
        if node != others {
            let text = "The two calls are on different nodes.";
            return Err(Refusal::new(Reason::InvalidState, text));
        }
        Ok(node)
    }

    fn node_of_phone(&self, device: &DeviceId) -> Result<NodeId, Refusal> {
        let reaches = |id: &NodeId| {
            let node = self.nodes.get(id);
            node.and_then(|node| node.facts.device(device)).is_some_and(|fact| fact.registered)
        };
        let found = self.ready().find(reaches).or_else(|| self.ready().next());
        found.ok_or_else(away)
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
        let before = monitor.desired().cloned().map(Box::new);
        let active = monitor.active();
        let nodes: Vec<_> =
            self.ready().filter(|node| active.is_none_or(|active| active == *node)).collect();
        if nodes.is_empty() {
            self.reply(token, Err(away()));
            return self.reconcile(&supervisor, now);
        }
        if let Some(monitor) = self.monitors.get_mut(&supervisor) {
            monitor.set_desired(Some(asked.clone()), context.user.clone());
        }
        let kind = GatheredKind::Start {
            supervisor: supervisor.clone(),
            asked: Box::new(asked.clone()),
            before,
        };
        self.gather(token, nodes.len(), kind);
        let code = context.feature_code.clone();
        let code_node = code.as_ref().and_then(|code| self.node_of_code(code).ok());
        for node in nodes {
            let feature_code = code.clone().filter(|_| code_node == Some(node));
            let context = CommandContext { feature_code, ..context.clone() };
            let command = Step::Start(asked.clone()).command(&supervisor);
            let id = self.send(node, context, command, Work::Gathered { token, node });
            if let Some(monitor) = self.monitors.get_mut(&supervisor) {
                monitor.sent(node, id, true);
            }
        }
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
        monitor.set_desired(None, context.user.clone());
        let holders: Vec<_> = monitor.holders().collect();
        let nodes: Vec<_> = self.ready().filter(|node| holders.contains(node)).collect();
        if nodes.is_empty() {
            // Those that have it hear of it once they are back.
            self.reply(token, Ok(()));
            return self.reconcile(supervisor, now);
        }
        self.gather(token, nodes.len(), GatheredKind::Stop { supervisor: supervisor.clone() });
        for node in nodes {
            let command = Command::StopMonitoring { supervisor: supervisor.clone() };
            let id = self.send(node, context.clone(), command, Work::Gathered { token, node });
            if let Some(monitor) = self.monitors.get_mut(supervisor) {
                monitor.sent(node, id, false);
            }
        }
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
        self.gather(token, nodes.len(), GatheredKind::Setting { device, settings });
        for node in nodes {
            self.send(node, context.clone(), command.clone(), Work::Gathered { token, node });
        }
    }

    fn gather(&mut self, token: Token, waits_for: usize, kind: GatheredKind) {
        let gathered = Gathered { waits_for, has_accepted: false, refusal: None, kind };
        self.gathered.insert(token, gathered);
    }

    /// A node has answered.
    pub(super) fn finish(&mut self, id: WorkId, work: Work, result: Result<(), Refusal>, now: Now) {
        match work {
            Work::Passed { token } => self.reply(token, result),
            Work::Setting { node } => self.answered(node, now),
            Work::Own { node, supervisor, is_start } => {
                if let (true, Err(refusal)) = (is_start, &result) {
                    self.outputs.push_back(Output::NotArmed {
                        node,
                        supervisor: supervisor.clone(),
                        refusal: refusal.clone(),
                    });
                }
                self.step(&supervisor, now, |monitor| {
                    monitor.handle_result(node, id, &result, now)
                });
                self.answered(node, now);
            }
            Work::Gathered { token, node } => self.gathered_one(token, node, id, result, now),
        }
    }

    /// A node has answered a command of the cluster's own: the next one has its turn.
    fn answered(&mut self, node: NodeId, now: Now) {
        let Some(state) = self.nodes.get_mut(&node) else {
            return;
        };
        state.in_flight = state.in_flight.saturating_sub(1);
        if let Some(supervisor) = state.waiting.pop_front() {
            self.reconcile(&supervisor, now);
        }
    }

    fn gathered_one(
        &mut self,
        token: Token,
        node: NodeId,
        id: WorkId,
        result: Result<(), Refusal>,
        now: Now,
    ) {
        let Some(gathered) = self.gathered.get_mut(&token) else {
            return;
        };
        let supervisor = match &gathered.kind {
            GatheredKind::Start { supervisor, .. } | GatheredKind::Stop { supervisor } => {
                Some(supervisor.clone())
            }
            GatheredKind::Setting { .. } => None,
        };
        gathered.waits_for -= 1;
        match &result {
            Ok(()) => gathered.has_accepted = true,
            Err(refusal) => {
                let is_first = gathered.refusal.as_ref().is_none_or(|first| {
                    first.reason == Reason::Unavailable && refusal.reason != Reason::Unavailable
                });
                if is_first {
                    gathered.refusal = Some(refusal.clone());
                }
            }
        }
        if gathered.waits_for == 0
            && let Some(gathered) = self.gathered.remove(&token)
        {
            self.gathered_all(token, gathered);
        }
        if let Some(supervisor) = supervisor {
            self.step(&supervisor, now, |monitor| monitor.handle_result(node, id, &result, now));
        }
    }

    /// Every node has answered. A start that one of them refuses is refused: what the others have
    /// accepted is taken back. One that cannot be reached does not count.
    fn gathered_all(&mut self, token: Token, gathered: Gathered) {
        let Gathered { has_accepted, refusal, kind, .. } = gathered;
        let is_unavailable =
            refusal.as_ref().is_none_or(|refusal| refusal.reason == Reason::Unavailable);
        let result = match (kind, refusal) {
            (GatheredKind::Start { supervisor, asked, before }, Some(refusal))
                if !has_accepted || !is_unavailable =>
            {
                if let Some(monitor) = self.monitors.get_mut(&supervisor)
                    && monitor.desired() == Some(&*asked)
                {
                    let user = monitor.user();
                    monitor.set_desired(before.map(|before| *before), user);
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
            (GatheredKind::Start { .. } | GatheredKind::Stop { .. }, _) if has_accepted => Ok(()),
            (_, Some(refusal)) => Err(refusal),
            (_, None) => Ok(()),
        };
        self.reply(token, result);
    }

    /// A node is back: it is set as the others are.
    pub(super) fn set_again(&mut self, node: NodeId, devices: &[DeviceId]) {
        for device in devices {
            let wanted = self.wanted_settings(node, device);
            let Some(fact) = self.node(node).facts.device(device) else {
                continue;
            };
            let on = wanted.do_not_disturb.filter(|on| *on != fact.do_not_disturb);
            let to = wanted.forward_to.filter(|to| *to != fact.forward_to);
            let do_not_disturb =
                on.map(|on| Command::SetDoNotDisturb { device: device.clone(), on });
            let forwarding = to.map(|to| Command::SetForwarding { device: device.clone(), to });
            for command in do_not_disturb.into_iter().chain(forwarding) {
                self.send_own(node, None, command, Work::Setting { node });
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
        Command::SwitchMonitoring { call, .. }
        | Command::AdmitMonitoring { call, .. }
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
