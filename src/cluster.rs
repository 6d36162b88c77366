//! Several telephony backends as one: the nodes of a cluster, behind one connection.
//!
//! [`Cluster`] is a core machine between a gateway and its backends. Each node tells it facts; it
//! tells the gateway one set of them, and sends each command to the node that last told of its call
//! or its device. There is no other truth: what no node tells is not.
//!
//! ```text
//!            ┌─ Command ─▶ node 1 ─ Fact ─┐
//!  Command ──┼─ Command ─▶ node 2 ─ Fact ─┼──▶ Fact
//!            └─ Command ─▶ node 3 ─ Fact ─┘
//! ```
//!
//! A monitor is armed on every node, as nobody knows on which one its target's next call will be.
//! Once one of them asks whether the supervisor may join, the monitor is taken back from the others,
//! and armed there again when it waits for a call again. So no two nodes can bring the same
//! supervisor in, and what dies with a node was armed elsewhere.

mod commands;
#[cfg(feature = "io")]
pub mod discovery;
mod merge;
mod monitor;
mod node;
#[cfg(feature = "io")]
pub mod task;

use crate::model::{
    AdmissionAsked, CallFact, Capabilities, Command, CommandContext, DeviceFact, DeviceId, Fact,
    Failure, FeatureCodeId, LegState, MonitorFact, NodeLoad, Now, Number, Reason, Refusal,
    RequestId, UserId,
};
use commands::{Gathered, Work};
use monitor::{ClusterMonitor, Step};
use node::Node;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Feature codes whose node is remembered; each is answered within seconds.
const CODES: usize = 4096;
/// Supervisors whose monitors are gone that are remembered, and for how long.
const CANCELLED: usize = 50_000;
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);
/// How long after its end a node may still tell of a monitor as of one that is there.
const SETTLED: Duration = Duration::from_secs(10);
/// Commands of the cluster's own that wait for their answer at one node.
const IN_FLIGHT: usize = 64;

/// Names a node from when it is added; no other node ever has the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId(pub u32);

/// Names the command of the gateway that a reply belongs to; chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// Names a command to a node until its outcome is handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkId(pub u64);

/// How long a cluster waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// For all nodes at the beginning; then what some of them tell is all there is.
    pub meeting: Duration,
    /// From when a node is lost until its phones count as gone and its supervisors are told.
    pub silence: Duration,
    /// From when a node is lost until its calls count as over: both ends have noticed by then.
    pub calls_end: Duration,
    /// For a node to accept a command of the cluster's own.
    pub deadline: Duration,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            meeting: Duration::from_secs(3),
            silence: Duration::from_secs(6),
            calls_end: Duration::from_secs(60),
            deadline: Duration::from_secs(5),
        }
    }
}

/// What a cluster wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// To the gateway, as of one backend.
    Fact(Fact),
    /// To the gateway: what every node can do.
    Capabilities(Capabilities),
    /// To the gateway: how busy the nodes are together that can be asked.
    Load(NodeLoad),
    /// To a node; its outcome comes back through [`Cluster::handle_result`].
    Command {
        /// Its name.
        id: WorkId,
        /// The node.
        node: NodeId,
        /// Request id, user and deadline.
        context: CommandContext,
        /// What to do.
        command: Command,
    },
    /// The answer to a command of the gateway.
    Reply {
        /// Which command.
        token: Token,
        /// Accepted, or why not.
        result: Result<(), Refusal>,
    },
    /// To the log: a node does not take part in a monitor, and is asked again later.
    NotArmed {
        /// The node.
        node: NodeId,
        /// The supervisor's device.
        supervisor: DeviceId,
        /// Why not.
        refusal: Refusal,
    },
}

/// Several telephony backends as one. After every `handle_*`, drain [`Cluster::poll_output`]; call
/// [`Cluster::handle_timeout`] when [`Cluster::poll_timeout`] says.
pub struct Cluster {
    config: ClusterConfig,
    /// Begins each request id of the cluster's own.
    instance: String,
    nodes: BTreeMap<NodeId, Node>,
    monitors: BTreeMap<DeviceId, ClusterMonitor>,
    /// The supervisors whose monitors are gone, and since when.
    cancelled: BTreeMap<DeviceId, Instant>,
    /// When a monitor is looked at again; one that was looked at meanwhile is so in vain.
    wakes: BTreeSet<(Instant, DeviceId)>,
    /// Devices as they were told last.
    devices: BTreeMap<DeviceId, DeviceFact>,
    /// Do-not-disturb and forwarding as the gateway has set them.
    settings: BTreeMap<DeviceId, Settings>,
    /// The nodes of the feature codes that were dialled last.
    codes: VecDeque<(FeatureCodeId, NodeId)>,
    works: BTreeMap<WorkId, Work>,
    /// Commands of the gateway that several nodes answer.
    gathered: BTreeMap<Token, Gathered>,
    next_work: u64,
    capabilities: Capabilities,
    load: NodeLoad,
    /// When the first node was ready, while not all are and the gateway has been told nothing.
    meeting_since: Option<Instant>,
    /// The gateway has been told a snapshot, and not `Lost` since.
    is_told: bool,
    outputs: VecDeque<Output>,
}

/// Settings of a device, once the gateway has made them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Settings {
    do_not_disturb: Option<bool>,
    forward_to: Option<Option<Number>>,
}

impl Cluster {
    /// A cluster without nodes; `instance` is unlike that of any before it.
    pub fn new(config: ClusterConfig, instance: &str) -> Self {
        Self {
            config,
            instance: instance.to_owned(),
            nodes: BTreeMap::new(),
            monitors: BTreeMap::new(),
            cancelled: BTreeMap::new(),
            wakes: BTreeSet::new(),
            devices: BTreeMap::new(),
            settings: BTreeMap::new(),
            codes: VecDeque::new(),
            works: BTreeMap::new(),
            gathered: BTreeMap::new(),
            next_work: 0,
            capabilities: Capabilities::default(),
            load: NodeLoad::default(),
            meeting_since: None,
            is_told: false,
            outputs: VecDeque::new(),
        }
    }

    /// A node that may be there from now on; one of before that is not forgotten yet goes on as what it
    /// was.
    pub fn handle_node_added(&mut self, id: NodeId) {
        self.nodes.entry(id).or_default().is_removed = false;
    }

    /// A node that is none any more, and is not told of again: as one that is lost for good.
    pub fn handle_node_removed(&mut self, id: NodeId, now: Now) {
        self.lose(id, now);
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.is_removed = true;
        if node.is_expired || node.lost_since.is_none() {
            self.forget(id, now);
        }
    }

    /// What a node can do.
    pub fn handle_capabilities(&mut self, id: NodeId, capabilities: Capabilities) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.capabilities = Some(capabilities);
        self.tell_capabilities();
    }

    /// How busy a node is.
    pub fn handle_load(&mut self, id: NodeId, load: NodeLoad) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        node.load = load;
        self.tell_load();
    }

    /// Takes a fact of a node.
    pub fn handle_fact(&mut self, id: NodeId, fact: Fact, now: Now) {
        if self.nodes.get(&id).is_none_or(|node| node.is_removed) {
            return;
        }
        match fact {
            Fact::Device(device) => {
                let name = device.id.clone();
                self.node(id).facts.insert_device(device);
                self.tell_device(&name);
            }
            Fact::DeviceGone { device } => {
                self.node(id).facts.remove_device(&device);
                self.tell_device(&device);
            }
            Fact::Call(call) => self.handle_call(id, call),
            Fact::Monitor(monitor) => self.handle_monitor(id, monitor, now),
            Fact::MonitorGone { supervisor } => {
                self.node(id).facts.remove_monitor(&supervisor);
                self.step(&supervisor, now, |monitor| monitor.handle_gone(id));
            }
            Fact::AdmissionAsked(asked) => self.handle_admission(id, asked),
            Fact::Failed(_) | Fact::JoinSound(_) => self.tell(fact),
            Fact::FeatureCodeDialled(dialled) => {
                if self.codes.len() >= CODES {
                    self.codes.pop_front();
                }
                self.codes.push_back((dialled.id.clone(), id));
                self.tell(Fact::FeatureCodeDialled(dialled));
            }
            Fact::SnapshotBegin => {
                let node = self.node(id);
                node.is_ready = false;
                node.facts.begin_snapshot();
                node.lost_since.get_or_insert(now.mono);
                node.admissions.clear();
                node.found.clear();
            }
            Fact::SnapshotComplete => self.handle_ready(id, now),
            Fact::CallLost { .. } => self.tell(fact),
            Fact::Lost => self.lose(id, now),
        }
    }

    /// Takes a command of the gateway; its [`Output::Reply`] comes when the nodes that it concerns
    /// have answered.
    pub fn handle_command(
        &mut self,
        token: Token,
        context: CommandContext,
        command: Command,
        now: Now,
    ) {
        self.dispatch(token, context, command, now);
    }

    /// Takes a node's answer to a command.
    pub fn handle_result(&mut self, id: WorkId, result: Result<(), Refusal>, now: Now) {
        if let Some(work) = self.works.remove(&id) {
            self.finish(id, work, result, now);
        }
    }

    /// When to call [`Cluster::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let config = &self.config;
        let nodes = self.nodes.values().filter_map(|node| node.deadline(config));
        let meeting = self.meeting_since.map(|since| since + config.meeting);
        nodes.chain(meeting).chain(self.wakes.first().map(|(at, _)| *at)).min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Now) {
        let nodes: Vec<_> = self.nodes.keys().copied().collect();
        for id in nodes {
            self.handle_node_timeout(id, now);
        }
        self.meet(now);
        while let Some((at, _)) = self.wakes.first()
            && *at <= now.mono
        {
            if let Some((_, supervisor)) = self.wakes.pop_first() {
                self.reconcile(&supervisor, now);
            }
        }
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// The node can be asked, and all it knows is known.
    pub fn is_ready(&self, id: NodeId) -> bool {
        self.nodes.get(&id).is_some_and(|node| node.is_ready)
    }

    /// Nodes that are ready, of all that there are.
    pub fn ready_nodes(&self) -> (usize, usize) {
        (self.nodes.values().filter(|node| node.is_ready).count(), self.nodes.len())
    }

    /// The node; only for ids that were looked up before.
    fn node(&mut self, id: NodeId) -> &mut Node {
        self.nodes.entry(id).or_default()
    }

    fn handle_call(&mut self, id: NodeId, call: CallFact) {
        // An id that another node has told of first is that one's.
        if self
            .nodes
            .iter()
            .any(|(other, node)| *other != id && node.facts.call(&call.id).is_some())
        {
            return;
        }
        let node = self.node(id);
        if call.is_over() {
            node.facts.remove_call(&call.id);
        } else {
            node.facts.insert_call(call.clone());
        }
        self.tell(Fact::Call(call));
    }

    fn handle_monitor(&mut self, id: NodeId, fact: MonitorFact, now: Now) {
        let node = self.node(id);
        let in_snapshot = node.facts.is_in_snapshot();
        node.facts.insert_monitor(fact.clone());
        if in_snapshot {
            // Which calls are over is known at its end, and is told first.
            return drop(node.found.insert(fact.supervisor.clone(), fact));
        }
        self.take_monitor(id, fact, false, now);
    }

    fn take_monitor(&mut self, id: NodeId, fact: MonitorFact, in_snapshot: bool, now: Now) {
        let supervisor = fact.supervisor.clone();
        let is_known = self.monitors.contains_key(&supervisor);
        let is_cancelled = self
            .cancelled
            .get(&supervisor)
            .is_some_and(|at| in_snapshot || now.mono.saturating_duration_since(*at) < SETTLED);
        let monitor = self.monitors.entry(supervisor.clone());
        let monitor = monitor.or_insert_with(|| ClusterMonitor::new(supervisor.clone()));
        // One that is on its way out, or was, and not one of another client.
        if monitor.desired().is_none() && (is_known || is_cancelled) {
            monitor.expect(id);
        }
        self.step(&supervisor, now, |monitor| monitor.handle_fact(id, fact, in_snapshot));
    }

    /// A node asks whether a supervisor may join: the gateway is asked unless the supervisor is
    /// busy at another node, from which the monitor is being taken back here.
    fn handle_admission(&mut self, id: NodeId, asked: AdmissionAsked) {
        let is_told = self.is_told;
        let node = self.node(id);
        if !is_told || node.facts.is_in_snapshot() {
            return drop(node.admissions.insert(asked.supervisor.clone(), asked));
        }
        let monitor = self.monitors.get(&asked.supervisor);
        if monitor.is_some_and(|monitor| monitor.is_active_at(id)) {
            self.tell(Fact::AdmissionAsked(asked));
        }
    }

    /// Asks the gateway what a node has asked while the gateway could not be.
    fn ask_admissions(&mut self, id: NodeId) {
        for asked in std::mem::take(&mut self.node(id).admissions).into_values() {
            self.handle_admission(id, asked);
        }
    }

    fn handle_ready(&mut self, id: NodeId, now: Now) {
        let node = self.node(id);
        let snapshot = node.facts.complete_snapshot();
        if node.is_ready && snapshot.is_none() {
            return;
        }
        let is_whole = snapshot.is_some();
        let unrepeated = snapshot.unwrap_or_default();
        node.is_ready = true;
        (node.lost_since, node.is_away, node.is_expired) = (None, false, false);
        let mut over = Vec::new();
        for device in &unrepeated.devices {
            node.facts.remove_device(device);
        }
        for call in &unrepeated.calls {
            over.extend(node.facts.remove_call(call));
        }
        for supervisor in &unrepeated.monitors {
            node.facts.remove_monitor(supervisor);
        }
        let mut found = std::mem::take(&mut node.found);
        over.into_iter().for_each(|call| self.tell_over(call));
        for (supervisor, monitor) in &mut self.monitors {
            match found.remove(supervisor) {
                Some(fact) => {
                    if monitor.desired().is_none() {
                        monitor.expect(id);
                    }
                    monitor.handle_fact(id, fact, true);
                }
                None if is_whole => monitor.handle_missing(id),
                None => {}
            }
            monitor.handle_returned(id, now);
        }
        for fact in found.into_values() {
            self.take_monitor(id, fact, true, now);
        }
        if self.is_told {
            self.ask_admissions(id);
        }
        let devices: Vec<_> = self.node(id).facts.devices().map(|fact| fact.id.clone()).collect();
        for device in devices.iter().chain(&unrepeated.devices) {
            self.tell_device(device);
        }
        self.node(id).unset.extend(devices);
        self.set_missed(id);
        let supervisors: Vec<_> = self.monitors.keys().cloned().collect();
        for supervisor in supervisors {
            self.reconcile(&supervisor, now);
        }
        self.tell_capabilities();
        self.tell_load();
        self.meet(now);
    }

    fn lose(&mut self, id: NodeId, now: Now) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let has_told = node.is_ready || node.lost_since.is_some();
        node.is_ready = false;
        node.facts.abandon_snapshot();
        node.admissions.clear();
        node.found.clear();
        node.waiting.clear();
        if has_told {
            node.lost_since.get_or_insert(now.mono);
        }
        let owed: Vec<_> =
            self.monitors.values_mut().filter_map(|monitor| monitor.handle_lost(id)).collect();
        for token in owed {
            self.gathered_one(token, Err(commands::away()));
        }
        self.tell_load();
        if self.ready().next().is_none() {
            self.meeting_since = None;
            if std::mem::take(&mut self.is_told) {
                self.outputs.push_back(Output::Fact(Fact::Lost));
            }
        }
    }

    fn handle_node_timeout(&mut self, id: NodeId, now: Now) {
        let config = self.config;
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        if node.unset_at.is_some_and(|at| node.is_ready && at <= now.mono) {
            node.unset_at = None;
            self.set_missed(id);
        }
        let node = self.node(id);
        let is_silent = !node.is_ready && !node.facts.is_in_snapshot();
        let Some(since) = node.lost_since.filter(|_| is_silent) else {
            return;
        };
        if !node.is_away && since + config.silence <= now.mono {
            node.is_away = true;
            let devices: Vec<_> = node.facts.devices().map(|fact| fact.id.clone()).collect();
            devices.iter().for_each(|device| self.tell_device(device));
            self.tell_supervisors_away(id);
        }
        let node = self.node(id);
        if !node.is_expired && since + config.calls_end <= now.mono {
            node.is_expired = true;
            let (facts, is_removed) = (std::mem::take(&mut node.facts), node.is_removed);
            facts.calls().cloned().for_each(|call| self.tell_over(call));
            let devices: Vec<_> = facts.devices().map(|fact| fact.id.clone()).collect();
            devices.iter().for_each(|device| self.tell_device(device));
            let supervisors: Vec<_> = self.monitors.keys().cloned().collect();
            for supervisor in supervisors {
                self.step(&supervisor, now, |monitor| monitor.handle_expired(id));
            }
            if is_removed {
                self.forget(id, now);
            }
        }
    }

    fn forget(&mut self, id: NodeId, now: Now) {
        self.nodes.remove(&id);
        for monitor in self.monitors.values_mut() {
            monitor.forget_node(id);
        }
        let devices: Vec<_> = self.devices.keys().cloned().collect();
        devices.iter().for_each(|device| self.tell_device(device));
        self.tell_capabilities();
        let supervisors: Vec<_> = self.monitors.keys().cloned().collect();
        supervisors.iter().for_each(|supervisor| self.reconcile(supervisor, now));
    }

    /// Supervisors whose call is on a node that has been silent for too long.
    fn tell_supervisors_away(&mut self, id: NodeId) {
        let busy = self.monitors.values().filter_map(|monitor| monitor.busy_at(id));
        let failures: Vec<_> = busy
            .map(|fact| Failure {
                device: fact.supervisor.clone(),
                call: fact.state.call().cloned(),
                request_id: None,
                refusal: Refusal::new(
                    Reason::Unavailable,
                    "The node that the monitored call is on cannot be reached.",
                ),
            })
            .collect();
        failures.into_iter().for_each(|failure| self.tell(Fact::Failed(failure)));
    }

    /// The nodes that can be asked.
    fn ready(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.iter().filter(|(_, node)| node.is_ready).map(|(id, _)| *id)
    }

    /// Hands something in to a monitor, tells what it has come to, and asks the nodes for what is
    /// missing.
    fn step(&mut self, supervisor: &DeviceId, now: Now, change: impl FnOnce(&mut ClusterMonitor)) {
        let Some(monitor) = self.monitors.get_mut(supervisor) else {
            return;
        };
        change(monitor);
        self.reconcile(supervisor, now);
    }

    /// Sends each node what it lacks of a monitor, and tells the gateway how that is now.
    fn reconcile(&mut self, supervisor: &DeviceId, now: Now) {
        let Some(monitor) = self.monitors.get_mut(supervisor) else {
            return;
        };
        monitor.handle_time(now);
        let (mut steps, mut settled) = (Vec::new(), Vec::new());
        for (id, node) in &mut self.nodes {
            settled.extend(monitor.take_settled(*id));
            let Some(step) = monitor.next_step(*id, now).filter(|_| node.is_ready) else {
                continue;
            };
            let owed = monitor.take_owed(*id);
            if owed.is_none() && node.in_flight >= IN_FLIGHT {
                node.waiting.insert(supervisor.clone());
                continue;
            }
            steps.push((*id, step, owed));
        }
        for (id, step, owed) in steps {
            self.send_step(id, supervisor, step, owed);
        }
        settled.into_iter().for_each(|token| self.gathered_one(token, Ok(())));
        self.show(supervisor);
        let Some(monitor) = self.monitors.get(supervisor) else {
            return;
        };
        if monitor.is_over() {
            self.monitors.remove(supervisor);
            self.remember_cancelled(supervisor, now);
        } else if let Some(at) = monitor.wakes_at(now) {
            self.wakes.insert((at, supervisor.clone()));
        }
    }

    /// A monitor that is gone does not come back with a node that was away.
    fn remember_cancelled(&mut self, supervisor: &DeviceId, now: Now) {
        if self.cancelled.len() >= CANCELLED {
            let since = |at: &Instant| now.mono.saturating_duration_since(*at);
            self.cancelled.retain(|_, at| since(at) < REMEMBERED);
        }
        if self.cancelled.len() >= CANCELLED {
            let oldest = self.cancelled.iter().min_by_key(|(_, at)| **at);
            let oldest = oldest.map(|(supervisor, _)| supervisor.clone());
            if let Some(oldest) = oldest {
                self.cancelled.remove(&oldest);
            }
        }
        self.cancelled.insert(supervisor.clone(), now.mono);
    }

    fn send_step(&mut self, node: NodeId, supervisor: &DeviceId, step: Step, owed: Option<Token>) {
        let is_start = step.is_start();
        let command = step.command(supervisor);
        let context = owed.and_then(|token| self.context_of(token, node));
        let is_own = context.is_none();
        let work = Work::Step { node, supervisor: supervisor.clone(), is_start, is_own };
        let id = match context {
            Some(context) => self.send(node, context, command, work),
            None => {
                let user = self.monitors.get(supervisor).and_then(ClusterMonitor::user);
                self.send_own(node, user, command, work)
            }
        };
        if let Some(monitor) = self.monitors.get_mut(supervisor) {
            monitor.sent(node, id, is_start, owed);
        }
    }

    /// Sends a command of the cluster's own.
    fn send_own(
        &mut self,
        node: NodeId,
        user: Option<UserId>,
        command: Command,
        work: Work,
    ) -> WorkId {
        self.node(node).in_flight += 1;
        let request_id = RequestId::from(format!("{}-{}", self.instance, self.next_work));
        let context = CommandContext {
            request_id,
            user,
            caller: None,
            from: None,
            deadline: self.config.deadline,
            feature_code: None,
        };
        self.send(node, context, command, work)
    }

    fn send(
        &mut self,
        node: NodeId,
        context: CommandContext,
        command: Command,
        work: Work,
    ) -> WorkId {
        let id = WorkId(self.next_work);
        self.next_work += 1;
        self.works.insert(id, work);
        self.outputs.push_back(Output::Command { id, node, context, command });
        id
    }

    /// Tells the gateway how a monitor is now, if that is news.
    fn show(&mut self, supervisor: &DeviceId) {
        let nodes = &self.nodes;
        let is_ready = |id| nodes.get(&id).is_some_and(|node| node.is_ready);
        let Some(monitor) = self.monitors.get_mut(supervisor) else {
            return;
        };
        if let Some(fact) = monitor.news(is_ready) {
            self.tell(fact);
        }
    }

    /// Tells the gateway how busy the nodes are, if that is news.
    fn tell_load(&mut self) {
        let ready = self.nodes.values().filter(|node| node.is_ready);
        let load = NodeLoad::of_all(ready.map(|node| node.load));
        if std::mem::replace(&mut self.load, load) != load {
            self.outputs.push_back(Output::Load(load));
        }
    }

    fn tell(&mut self, fact: Fact) {
        if self.is_told {
            self.outputs.push_back(Output::Fact(fact));
        }
    }

    /// A call that its node tells no more of.
    fn tell_over(&mut self, mut call: CallFact) {
        for party in &mut call.parties {
            party.state = LegState::Released;
        }
        self.tell(Fact::CallLost { call: call.id.clone() });
        self.tell(Fact::Call(call));
    }
}
