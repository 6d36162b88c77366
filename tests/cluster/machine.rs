//! A gateway's side of a cluster whose nodes are the real rules of monitoring, without a network:
//! what is on its way is delivered when the test says.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use undertone::clock;
use undertone::cluster::{Cluster, ClusterConfig, NodeId, Output, Token, WorkId};
use undertone::model::{
    Activity, AdmissionAsked, CallFact, CallId, CallType, Capabilities, Command, CommandContext,
    DeviceFact, DeviceId, DeviceKind, Fact, FactTable, Failure, LegState, Mode, MonitorFact,
    MonitorState, NodeLoad, Now, PartyFact, PartyRole, Reason, Refusal, Scope, Timestamp,
};
use undertone::supervision::{LegOutcome, Supervision, SupervisionConfig, SupervisionOutput};

/// One node, and what is on its way from and to it.
pub(super) struct TestNode {
    pub(super) supervision: Supervision,
    pub(super) calls: BTreeMap<CallId, CallFact>,
    pub(super) devices: BTreeMap<DeviceId, DeviceFact>,
    pub(super) invited: BTreeMap<DeviceId, CallId>,
    /// It runs.
    pub(super) is_alive: bool,
    /// The cluster can reach it.
    pub(super) is_linked: bool,
    pub(super) facts: VecDeque<Fact>,
    pub(super) commands: VecDeque<(WorkId, Command)>,
    pub(super) answers: VecDeque<(WorkId, Result<(), Refusal>)>,
}

impl TestNode {
    pub(super) fn new(kept: Vec<MonitorFact>) -> Self {
        Self {
            supervision: Supervision::new(SupervisionConfig::default(), kept),
            calls: BTreeMap::new(),
            devices: BTreeMap::new(),
            invited: BTreeMap::new(),
            is_alive: true,
            is_linked: false,
            facts: VecDeque::new(),
            commands: VecDeque::new(),
            answers: VecDeque::new(),
        }
    }

    pub(super) fn say(&mut self, fact: Fact) {
        self.facts.push_back(fact);
    }

    /// A watch that goes on where it was: what was missed follows.
    pub(super) fn resume(&mut self) {
        self.is_linked = true;
        self.facts.push_front(Fact::SnapshotComplete);
    }

    /// Everything as it is, as of a watch that begins.
    pub(super) fn snapshot(&mut self) {
        self.is_linked = true;
        self.facts.clear();
        self.say(Fact::SnapshotBegin);
        let devices: Vec<_> = self.devices.values().cloned().collect();
        devices.into_iter().for_each(|device| self.say(Fact::Device(device)));
        let calls: Vec<_> = self.calls.values().cloned().collect();
        calls.into_iter().for_each(|call| self.say(Fact::Call(call)));
        let monitors: Vec<_> = self.supervision.monitors().collect();
        for monitor in &monitors {
            self.say(Fact::Monitor(monitor.clone()));
        }
        for monitor in monitors {
            if let MonitorState::Admitting { call } = monitor.state {
                self.say(Fact::AdmissionAsked(AdmissionAsked {
                    supervisor: monitor.supervisor,
                    target: monitor.target,
                    call,
                    activity: monitor.activity,
                }));
            }
        }
        self.say(Fact::SnapshotComplete);
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.supervision.poll_output() {
            match output {
                SupervisionOutput::AskAdmission(asked) => self.say(Fact::AdmissionAsked(asked)),
                SupervisionOutput::Changed(monitor) => self.say(Fact::Monitor(monitor)),
                SupervisionOutput::Gone { supervisor } => {
                    self.say(Fact::MonitorGone { supervisor })
                }
                SupervisionOutput::Failed(failure) => self.say(Fact::Failed(failure)),
                SupervisionOutput::Invite { supervisor, call, .. } => {
                    self.invited.insert(supervisor, call);
                }
                SupervisionOutput::Release { supervisor, .. } => {
                    self.invited.remove(&supervisor);
                }
                SupervisionOutput::Hear { .. } => {}
            }
        }
    }

    pub(super) fn call(&mut self, call: CallFact, now: Now) {
        match call.is_over() {
            true => self.calls.remove(&call.id),
            false => self.calls.insert(call.id.clone(), call.clone()),
        };
        self.say(Fact::Call(call.clone()));
        self.supervision.handle_call(&call, now);
        self.drain();
    }

    pub(super) fn obey(&mut self, command: &Command, now: Now) -> Result<(), Refusal> {
        match command {
            Command::SetDoNotDisturb { device, on } => {
                let Some(fact) = self.devices.get_mut(device) else {
                    return Err(Refusal::no_call(&"no device".into()));
                };
                fact.do_not_disturb = *on;
                let fact = fact.clone();
                self.say(Fact::Device(fact));
                Ok(())
            }
            Command::Hangup { call, .. } if self.calls.contains_key(call) => Ok(()),
            Command::StartMonitoring { confirm_joins, .. } => {
                assert!(confirm_joins, "nobody joins a node's call unasked");
                let done = self.supervision.handle_command(command, now);
                self.drain();
                done
            }
            _ => {
                let done = self.supervision.handle_command(command, now);
                self.drain();
                done
            }
        }
    }

    /// The supervisors that are on a call here, or are being brought in.
    pub(super) fn brought_in(&self) -> Vec<DeviceId> {
        let is_in = |monitor: &MonitorFact| {
            matches!(monitor.state, MonitorState::Inviting { .. } | MonitorState::Joined { .. })
        };
        self.supervision.monitors().filter(is_in).map(|monitor| monitor.supervisor).collect()
    }
}

/// The cluster, its nodes, and what the gateway was told.
pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) nodes: Vec<TestNode>,
    pub(super) now: Now,
    /// What the gateway knows.
    pub(super) told: FactTable,
    pub(super) lost: bool,
    pub(super) failures: Vec<Failure>,
    pub(super) asked: VecDeque<AdmissionAsked>,
    pub(super) replies: BTreeMap<Token, Result<(), Refusal>>,
    pub(super) next_token: u64,
    /// Rounds until everything should have arrived.
    pub(super) patience: usize,
    /// The watch of a node is one that may go on: the node was met, and has not died since.
    pub(super) may_resume: Vec<bool>,
}

impl World {
    pub(super) fn new(nodes: usize) -> Self {
        let mut world = Self {
            cluster: Cluster::new(ClusterConfig::default(), "test"),
            nodes: (0..nodes).map(|_| TestNode::new(Vec::new())).collect(),
            now: Now { mono: clock::instant(), wall: Timestamp(1_800_000_000_000) },
            told: FactTable::default(),
            lost: true,
            failures: Vec::new(),
            asked: VecDeque::new(),
            replies: BTreeMap::new(),
            next_token: 0,
            patience: 100_000,
            may_resume: vec![false; nodes],
        };
        for index in 0..nodes {
            world.cluster.handle_node_added(NodeId(index as u32));
            for number in ["anna", "boss"] {
                let device = DeviceFact {
                    id: number.into(),
                    number: number.into(),
                    kind: DeviceKind::Phone,
                    registered: false,
                    do_not_disturb: false,
                    forward_to: None,
                };
                world.nodes[index].devices.insert(number.into(), device);
            }
        }
        world
    }

    /// All of its nodes are there.
    pub(super) fn met(nodes: usize) -> Self {
        let mut world = Self::new(nodes);
        (0..nodes).for_each(|node| world.nodes[node].snapshot());
        world.settle();
        world
    }

    /// Of two nodes, the supervisor is on call `c` of the first.
    pub(super) fn joined(mode: Mode) -> Self {
        let mut world = Self::met(2);
        world.start(mode).unwrap();
        world.talk(0, "c", "anna");
        world.settle();
        world.phone_answers(0, "boss", LegOutcome::Answered);
        world.settle();
        world
    }

    pub(super) fn drain(&mut self) {
        while let Some(output) = self.cluster.poll_output() {
            match output {
                Output::Fact(fact) => self.hear(fact),
                Output::Capabilities(_) | Output::Load(_) | Output::NotArmed { .. } => {}
                Output::Command { id, node, command, .. } => {
                    let node = &mut self.nodes[node.0 as usize];
                    match node.is_linked {
                        true => node.commands.push_back((id, command)),
                        false => node.answers.push_back((id, Err(unavailable()))),
                    }
                }
                Output::Reply { token, result } => {
                    assert!(self.replies.insert(token, result).is_none(), "answered twice");
                }
            }
        }
    }

    pub(super) fn hear(&mut self, fact: Fact) {
        match fact {
            Fact::SnapshotBegin => {
                assert!(self.lost, "a snapshot after a snapshot");
                self.told.begin_snapshot();
            }
            Fact::SnapshotComplete => {
                self.lost = false;
                let gone = self.told.complete_snapshot().expect("it has begun");
                gone.devices.iter().for_each(|device| self.told.remove_device(device));
                gone.calls.iter().for_each(|call| drop(self.told.remove_call(call)));
                gone.monitors.iter().for_each(|one| drop(self.told.remove_monitor(one)));
            }
            Fact::Lost => {
                self.lost = true;
                self.asked.clear();
            }
            Fact::Device(device) => self.told.insert_device(device),
            Fact::DeviceGone { device } => self.told.remove_device(&device),
            Fact::Call(call) if call.is_over() => drop(self.told.remove_call(&call.id)),
            Fact::Call(call) => drop(self.told.insert_call(call)),
            Fact::Monitor(monitor) => drop(self.told.insert_monitor(monitor)),
            Fact::MonitorGone { supervisor } => drop(self.told.remove_monitor(&supervisor)),
            Fact::AdmissionAsked(asked) => self.asked.push_back(asked),
            Fact::Failed(failure) => self.failures.push(failure),
            Fact::JoinSound(_) | Fact::FeatureCodeDialled(_) | Fact::CallLost { .. } => {}
        }
    }

    /// One fact of a node arrives.
    pub(super) fn deliver_fact(&mut self, node: usize) -> bool {
        if !self.nodes[node].is_linked {
            return false;
        }
        let Some(fact) = self.nodes[node].facts.pop_front() else {
            return false;
        };
        match fact {
            Fact::SnapshotBegin => self.may_resume[node] = false,
            Fact::SnapshotComplete => self.may_resume[node] = true,
            _ => {}
        }
        self.cluster.handle_fact(NodeId(node as u32), fact, self.now);
        self.drain();
        true
    }

    /// One command arrives at a node.
    pub(super) fn deliver_command(&mut self, node: usize) -> bool {
        let Some((id, command)) = self.nodes[node].commands.pop_front() else {
            return false;
        };
        let answer = self.nodes[node].obey(&command, self.now);
        self.nodes[node].answers.push_back((id, answer));
        true
    }

    /// One answer of a node arrives.
    pub(super) fn deliver_answer(&mut self, node: usize) -> bool {
        let Some((id, answer)) = self.nodes[node].answers.pop_front() else {
            return false;
        };
        self.cluster.handle_result(id, answer, self.now);
        self.drain();
        true
    }

    /// The gateway answers one question.
    pub(super) fn admit(&mut self, admitted: bool) -> bool {
        let Some(AdmissionAsked { supervisor, call, .. }) = self.asked.pop_front() else {
            return false;
        };
        self.command(Command::AdmitMonitoring { supervisor, call, admitted });
        true
    }

    /// Everything that is on its way arrives, and every question is answered with yes.
    pub(super) fn settle(&mut self) {
        self.settle_but(|world| world.admit(true));
    }

    pub(super) fn settle_but(&mut self, mut admit: impl FnMut(&mut World) -> bool) {
        self.drain();
        for _ in 0..self.patience {
            let mut moved = false;
            for node in 0..self.nodes.len() {
                moved |= self.deliver_command(node);
                moved |= self.deliver_fact(node);
                moved |= self.deliver_answer(node);
            }
            if !(moved | admit(self)) {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    pub(super) fn command(&mut self, command: Command) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        let context = CommandContext {
            request_id: format!("r{}", token.0).into(),
            user: Some("boss".into()),
            caller: None,
            from: None,
            deadline: Duration::from_secs(5),
            feature_code: None,
        };
        self.cluster.handle_command(token, context, command, self.now);
        self.drain();
        token
    }

    /// A command, and its answer once everything has arrived.
    pub(super) fn ask(&mut self, command: Command) -> Result<(), Refusal> {
        let token = self.command(command);
        self.settle();
        self.replies[&token].clone()
    }

    pub(super) fn start(&mut self, mode: Mode) -> Result<(), Refusal> {
        self.ask(start("boss", "anna", mode))
    }

    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now.mono + time;
        for turn in 0.. {
            let Some(at) = self.cluster.poll_timeout().filter(|at| *at <= until) else {
                break;
            };
            assert!(turn < 10_000, "time does not pass");
            self.now.mono = at.max(self.now.mono);
            self.cluster.handle_timeout(self.now);
            self.drain();
        }
        self.now.mono = until;
    }

    pub(super) fn talk(&mut self, node: usize, call: &str, agent: &str) {
        let fact = talk(call, agent);
        self.nodes[node].call(fact, self.now);
    }

    pub(super) fn over(&mut self, node: usize, call: &str) {
        if let Some(mut fact) = self.nodes[node].calls.get(call).cloned() {
            fact.parties.iter_mut().for_each(|party| party.state = LegState::Released);
            self.nodes[node].call(fact, self.now);
        }
    }

    pub(super) fn phone_answers(&mut self, node: usize, supervisor: &str, outcome: LegOutcome) {
        let (now, node) = (self.now, &mut self.nodes[node]);
        let Some(call) = node.invited.get(supervisor).cloned() else {
            return;
        };
        if outcome != LegOutcome::Answered {
            node.invited.remove(supervisor);
        }
        node.supervision.handle_leg(&supervisor.into(), &call, outcome, now);
        node.drain();
    }

    /// The cluster cannot reach a node any more.
    pub(super) fn cut(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        if !std::mem::take(&mut node.is_linked) {
            return;
        }
        let unanswered = node.commands.drain(..).map(|(id, _)| id);
        let unanswered: Vec<_> =
            unanswered.chain(node.answers.drain(..).map(|(id, _)| id)).collect();
        self.cluster.handle_fact(NodeId(index as u32), Fact::Lost, self.now);
        self.drain();
        for id in unanswered {
            self.cluster.handle_result(id, Err(unavailable()), self.now);
            self.drain();
        }
    }

    /// The cluster reaches a node again, whose watch goes on where it was.
    pub(super) fn resume(&mut self, index: usize) {
        if !self.nodes[index].is_linked {
            self.nodes[index].resume();
        }
    }

    /// A node's process dies; its monitors are on its disk.
    pub(super) fn kill(&mut self, index: usize) {
        self.cut(index);
        self.may_resume[index] = false;
        let node = &mut self.nodes[index];
        let kept = node.supervision.monitors().collect();
        let devices = std::mem::take(&mut node.devices);
        *node = TestNode { devices, is_alive: false, ..TestNode::new(kept) };
    }

    /// A node's process runs again, with what was on its disk or without.
    pub(super) fn revive(&mut self, index: usize, keeps: bool) {
        let node = &mut self.nodes[index];
        if !keeps {
            let devices = std::mem::take(&mut node.devices);
            *node = TestNode { devices, ..TestNode::new(Vec::new()) };
        }
        node.is_alive = true;
        node.snapshot();
    }

    pub(super) fn states(&self) -> Vec<String> {
        let state = |node: &TestNode| {
            let monitor = node.supervision.monitor(&"boss".into());
            monitor.map_or_else(|| "-".to_owned(), |monitor| monitor.state.to_string())
        };
        self.nodes.iter().map(state).collect()
    }

    pub(super) fn told_state(&self) -> Option<String> {
        self.told.monitor(&"boss".into()).map(|monitor| monitor.state.to_string())
    }
}

pub(super) fn unavailable() -> Refusal {
    Refusal::new(Reason::Unavailable, "The node cannot be reached.")
}

pub(super) fn start(supervisor: &str, target: &str, mode: Mode) -> Command {
    Command::StartMonitoring {
        supervisor: supervisor.into(),
        target: target.into(),
        activity: Activity::Coach,
        mode,
        scope: Scope::Agent,
        confirm_joins: true,
        agent_side_only: false,
    }
}

pub(super) fn stop(supervisor: &str) -> Command {
    Command::StopMonitoring { supervisor: supervisor.into() }
}

pub(super) fn talk(call: &str, agent: &str) -> CallFact {
    let party = |device: Option<&str>, role| PartyFact {
        device: device.map(DeviceId::from),
        number: device.unwrap_or("0711").into(),
        role,
        state: LegState::Established,
        muted: false,
        muted_by_supervisor: false,
        held_at_phone: false,
        activity: None,
        monitors: None,
        established_at: Some(Timestamp(1)),
        quality: None,
        handed_on_to: None,
    };
    CallFact {
        id: call.into(),
        conn_id: "0123456789abcdef".to_owned(),
        call_type: CallType::Inbound,
        ani: "0711".into(),
        dnis: agent.into(),
        started_at: Timestamp(1),
        parent: None,
        owner: None,
        user_data: Default::default(),
        parties: vec![party(None, PartyRole::Customer), party(Some(agent), PartyRole::Agent)],
    }
}

#[test]
fn a_monitor_is_armed_on_every_node_and_told_once() {
    let mut world = World::met(3);
    assert_eq!(world.start(Mode::AllCalls), Ok(()));
    assert_eq!(world.states(), ["armed", "armed", "armed"]);
    assert_eq!(world.told_state().as_deref(), Some("armed"));
    assert_eq!(world.ask(stop("boss")), Ok(()));
    assert_eq!(world.states(), ["-", "-", "-"]);
    assert_eq!(world.told_state(), None);
}

#[test]
fn the_node_that_asks_first_has_the_supervisor_and_the_others_have_nothing() {
    let mut world = World::met(2);
    world.start(Mode::AllCalls).unwrap();
    world.talk(1, "c", "anna");
    world.talk(0, "d", "anna");
    world.deliver_fact(1);
    world.settle();
    assert_eq!(world.states(), ["-", "inviting"]);
    world.phone_answers(1, "boss", LegOutcome::Answered);
    world.settle();
    assert_eq!(world.told_state().as_deref(), Some("joined"));
    world.over(1, "c");
    world.settle();
    // The call on the other node is next.
    assert_eq!(world.states(), ["inviting", "-"]);
}

#[test]
fn a_monitor_for_one_call_is_gone_everywhere_after_it() {
    let mut world = World::joined(Mode::NextCall);
    world.over(0, "c");
    world.settle();
    assert_eq!(world.states(), ["-", "-"]);
    assert_eq!(world.told_state(), None);
    world.talk(1, "d", "anna");
    world.settle();
    assert_eq!(world.states(), ["-", "-"]);
}

#[test]
fn a_supervisor_whose_phone_does_not_answer_is_armed_on_every_node_again() {
    let mut world = World::met(2);
    world.start(Mode::NextCall).unwrap();
    world.talk(0, "c", "anna");
    world.settle();
    world.phone_answers(0, "boss", LegOutcome::NoAnswer);
    world.settle();
    assert_eq!(world.states(), ["armed", "armed"]);
    assert_eq!(world.failures.len(), 1);
}

#[test]
fn a_start_that_one_node_refuses_is_refused_and_taken_back() {
    let mut world = World::met(2);
    world.nodes[1].obey(&start("other", "anna", Mode::AllCalls), world.now).unwrap();
    world.nodes[1].facts.clear();
    let refused = world.start(Mode::AllCalls).unwrap_err();
    assert_eq!(refused.reason, Reason::InUse);
    assert_eq!(world.states(), ["-", "-"]);
    assert_eq!(world.told_state(), None);
}

#[test]
fn a_node_that_is_away_does_not_keep_a_monitor_from_being_armed_and_gets_it_later() {
    let mut world = World::met(2);
    world.cut(1);
    assert_eq!(world.start(Mode::AllCalls), Ok(()));
    assert_eq!(world.states(), ["armed", "-"]);
    world.nodes[1].snapshot();
    world.settle();
    assert_eq!(world.states(), ["armed", "armed"]);
}

#[test]
fn a_monitor_that_was_cancelled_while_a_node_was_away_does_not_come_back_with_it() {
    for away in [Duration::from_secs(10), Duration::from_secs(1000)] {
        let mut world = World::met(2);
        world.start(Mode::AllCalls).unwrap();
        world.kill(1);
        assert_eq!(world.ask(stop("boss")), Ok(()));
        assert_eq!(world.told_state(), None);
        world.pass(away);
        world.revive(1, true);
        world.settle();
        assert_eq!(world.states(), ["-", "-"], "after {away:?}");
        assert_eq!(world.told_state(), None);
    }
}

#[test]
fn a_node_that_comes_back_with_an_empty_disk_is_armed_again() {
    let mut world = World::met(2);
    world.start(Mode::NextCall).unwrap();
    world.kill(1);
    world.revive(1, false);
    world.settle();
    assert_eq!(world.states(), ["armed", "armed"]);
}

#[test]
fn while_a_node_with_the_supervisor_is_silent_nobody_else_brings_the_supervisor_in() {
    let mut world = World::joined(Mode::AllCalls);
    world.cut(0);
    world.talk(1, "d", "anna");
    world.pass(Duration::from_secs(5));
    world.settle();
    assert_eq!(world.states(), ["joined", "-"]);
    assert_eq!(world.failures, []);
    world.pass(Duration::from_secs(2));
    world.settle();
    // The supervisor is told that nothing is known of the call.
    assert_eq!(world.failures.len(), 1);
    assert_eq!(world.failures[0].refusal.reason, Reason::Unavailable);
    assert_eq!(world.states(), ["joined", "-"]);
    // It was no more than the connection.
    world.nodes[0].snapshot();
    world.settle();
    assert_eq!(world.told_state().as_deref(), Some("joined"));
    assert_eq!(world.states(), ["joined", "-"]);
}

#[test]
fn the_calls_of_a_dead_node_are_over_in_a_minute_and_its_supervisors_wait_for_it() {
    let mut world = World::joined(Mode::AllCalls);
    world.kill(0);
    world.pass(Duration::from_secs(61));
    world.talk(1, "d", "anna");
    world.settle();
    assert_eq!(world.told.call(&"c".into()), None);
    assert_eq!(world.told_state().as_deref(), Some("armed"));
    // It may be no more than the way to it, and the supervisor still there.
    assert_eq!(world.states()[1], "-");
    assert_eq!(world.start(Mode::AllCalls).unwrap_err().reason, Reason::Unavailable);
    world.revive(0, true);
    world.settle();
    assert_eq!(world.states(), ["-", "inviting"]);
}

#[test]
fn a_dead_node_that_is_none_any_more_keeps_no_supervisor() {
    let mut world = World::joined(Mode::AllCalls);
    world.kill(0);
    world.talk(1, "d", "anna");
    world.cluster.handle_node_removed(NodeId(0), world.now);
    world.pass(Duration::from_secs(61));
    world.settle();
    assert_eq!(world.states()[1], "inviting");
    assert_eq!(world.told.calls().count(), 1);
}

#[test]
fn a_monitor_that_was_on_the_one_call_of_a_dead_node_is_spent() {
    for keeps in [true, false] {
        let mut world = World::joined(Mode::NextCall);
        world.kill(0);
        world.pass(Duration::from_secs(61));
        world.settle();
        assert_eq!(world.states()[1], "-");
        world.revive(0, keeps);
        world.settle();
        assert_eq!(world.told_state(), None);
        assert_eq!(world.states(), ["-", "-"]);
    }
}

#[test]
fn a_cancel_is_remembered_for_a_node_that_is_another_one_when_it_is_back() {
    let mut world = World::met(2);
    world.start(Mode::AllCalls).unwrap();
    world.kill(1);
    world.cluster.handle_node_removed(NodeId(1), world.now);
    world.pass(Duration::from_secs(61));
    assert_eq!(world.ask(stop("boss")), Ok(()));
    world.cluster.handle_node_added(NodeId(1));
    world.revive(1, true);
    world.settle();
    assert_eq!(world.states(), ["-", "-"]);
    assert_eq!(world.told_state(), None);
}

#[test]
fn a_stop_that_has_arrived_and_was_not_answered_ends_the_monitor_at_that_node_alone() {
    let mut world = World::met(2);
    world.start(Mode::AllCalls).unwrap();
    world.talk(0, "c", "anna");
    world.settle_but(|_| false);
    // The monitor is taken back from the other one, which cannot say so.
    while world.deliver_fact(0) {}
    world.deliver_command(1);
    world.cut(1);
    world.settle();
    world.phone_answers(0, "boss", LegOutcome::Answered);
    world.over(0, "c");
    world.settle();
    world.resume(1);
    world.settle();
    assert_eq!(world.states(), ["armed", "armed"]);
}

#[test]
fn a_watch_that_lags_is_told_everything_anew_while_another_node_is_awaited() {
    let mut world = World::new(2);
    world.nodes[0].snapshot();
    world.settle();
    world.nodes[0].snapshot();
    world.deliver_fact(0);
    world.pass(Duration::from_secs(10));
    world.settle();
    assert!(!world.lost || world.cluster.poll_timeout().is_some());
    world.pass(Duration::from_secs(10));
    assert!(!world.lost);
}

#[test]
fn a_call_of_another_node_by_the_same_name_is_not_told() {
    let mut world = World::met(2);
    world.talk(0, "c", "anna");
    world.settle();
    world.talk(1, "c", "boss");
    world.over(1, "c");
    world.settle();
    assert_eq!(world.told.call(&"c".into()).unwrap().dnis, "anna".into());
}

#[test]
fn two_starts_that_are_refused_leave_nothing() {
    let mut world = World::met(2);
    for node in 0..2 {
        let now = world.now;
        world.nodes[node].obey(&start("other", "anna", Mode::AllCalls), now).unwrap();
        world.nodes[node].facts.clear();
    }
    world.command(start("boss", "anna", Mode::NextCall));
    world.command(start("boss", "anna", Mode::AllCalls));
    world.settle();
    world.pass(Duration::from_secs(120));
    world.settle();
    assert_eq!(world.states(), ["-", "-"]);
    assert_eq!(world.told_state(), None);
}

#[test]
fn commands_go_to_the_node_that_has_the_call() {
    let mut world = World::met(2);
    world.talk(1, "c", "anna");
    world.settle();
    let hangup = |call: &str| Command::Hangup { device: "anna".into(), call: call.into() };
    assert_eq!(world.ask(hangup("c")), Ok(()));
    assert_eq!(world.ask(hangup("none")).unwrap_err().reason, Reason::NotFound);
    world.cut(1);
    assert_eq!(world.ask(hangup("c")).unwrap_err().reason, Reason::Unavailable);
}

/// The phone of anna is reached by both nodes, which are as busy as this; the node that is to call.
fn called_by(loads: [NodeLoad; 2], reaches: [bool; 2]) -> Vec<bool> {
    let mut world = World::met(2);
    for (index, (load, registered)) in loads.into_iter().zip(reaches).enumerate() {
        let anna = world.nodes[index].devices.get_mut(&DeviceId::from("anna")).unwrap();
        anna.registered = registered;
        let fact = Fact::Device(anna.clone());
        world.nodes[index].say(fact);
        world.cluster.handle_load(NodeId(index as u32), load);
    }
    world.settle();
    let dial = Command::Dial {
        device: "anna".into(),
        destination: "0123".into(),
        user_data: Default::default(),
    };
    world.command(dial);
    world.nodes.iter().map(|node| !node.commands.is_empty()).collect()
}

#[test]
fn a_call_is_made_at_a_node_that_reaches_the_phone_and_takes_calls_the_one_with_most_room() {
    let load = |calls, max_calls| NodeLoad { calls, max_calls, is_draining: false };
    let draining = NodeLoad { is_draining: true, ..NodeLoad::default() };
    let (first, second) = (vec![true, false], vec![false, true]);
    let idle = NodeLoad::default();
    for (loads, reaches, expected) in [
        ([idle, idle], [true, true], &first),
        ([idle, idle], [false, true], &second),
        ([draining, idle], [true, true], &second),
        ([draining, load(9, Some(10))], [true, true], &second),
        ([load(10, Some(10)), load(99, Some(100))], [true, true], &second),
        ([load(1, Some(10)), load(2, Some(100))], [true, true], &second),
        ([load(2, None), load(1, None)], [true, true], &second),
        // Only there it is known why the phone can not be called.
        ([draining, idle], [true, false], &first),
        ([draining, idle], [false, false], &second),
        ([draining, draining], [false, true], &second),
    ] {
        assert_eq!(&called_by(loads, reaches), expected, "{loads:?} {reaches:?}");
    }
}

#[test]
fn the_cluster_is_as_busy_as_its_nodes_that_can_be_asked() {
    let mut cluster = Cluster::new(ClusterConfig::default(), "test");
    let now = Now { mono: clock::instant(), wall: Timestamp(1_800_000_000_000) };
    let load = |calls, is_draining| NodeLoad { calls, max_calls: Some(10), is_draining };
    let told = |cluster: &mut Cluster| {
        let outputs = std::iter::from_fn(|| cluster.poll_output());
        let loads = outputs.filter_map(|output| match output {
            Output::Load(load) => Some(load),
            _ => None,
        });
        loads.last()
    };
    for (id, calls) in [(0, 3), (1, 4)] {
        cluster.handle_node_added(NodeId(id));
        cluster.handle_load(NodeId(id), load(calls, true));
        assert_eq!(told(&mut cluster), None, "nothing is known of it yet");
        cluster.handle_fact(NodeId(id), Fact::SnapshotBegin, now);
        cluster.handle_fact(NodeId(id), Fact::SnapshotComplete, now);
        let all = NodeLoad { max_calls: Some(10 + 10 * id), ..load(3 + 4 * id, true) };
        assert_eq!(told(&mut cluster), Some(all));
    }
    let both = NodeLoad { calls: 7, max_calls: Some(20), is_draining: true };
    cluster.handle_load(NodeId(1), load(4, false));
    assert_eq!(told(&mut cluster), Some(NodeLoad { is_draining: false, ..both }));
    cluster.handle_load(NodeId(1), load(4, false));
    assert_eq!(told(&mut cluster), None, "it is no news");
    cluster.handle_fact(NodeId(0), Fact::Lost, now);
    assert_eq!(told(&mut cluster), Some(load(4, false)));
}

#[test]
fn a_device_is_registered_where_one_node_reaches_it_until_that_node_is_silent_for_long() {
    let mut world = World::met(2);
    let anna = DeviceId::from("anna");
    let is_registered = |world: &World| world.told.device(&anna).map(|device| device.registered);
    assert_eq!(is_registered(&world), Some(false));
    world.nodes[1].devices.get_mut(&anna).unwrap().registered = true;
    let registered = world.nodes[1].devices[&anna].clone();
    world.nodes[1].say(Fact::Device(registered));
    world.settle();
    assert_eq!(is_registered(&world), Some(true));
    world.cut(1);
    world.pass(Duration::from_secs(5));
    assert_eq!(is_registered(&world), Some(true));
    world.pass(Duration::from_secs(2));
    assert_eq!(is_registered(&world), Some(false));
}

#[test]
fn do_not_disturb_is_set_at_every_node_and_at_one_that_was_away() {
    let mut world = World::met(2);
    world.cut(1);
    let on = Command::SetDoNotDisturb { device: "anna".into(), on: true };
    assert_eq!(world.ask(on), Ok(()));
    world.nodes[1].snapshot();
    world.settle();
    assert!(world.nodes.iter().all(|node| node.devices["anna"].do_not_disturb));
    assert!(world.told.device(&"anna".into()).unwrap().do_not_disturb);
}

#[test]
fn without_any_node_nothing_is_known_and_nothing_can_be_asked() {
    let mut world = World::met(2);
    world.cut(0);
    assert!(!world.lost);
    world.cut(1);
    assert!(world.lost);
    assert_eq!(world.start(Mode::AllCalls).unwrap_err().reason, Reason::Unavailable);
    world.nodes[0].snapshot();
    world.settle();
    assert!(world.lost, "the other may be back soon");
    world.pass(Duration::from_secs(3));
    assert!(!world.lost);
}

#[test]
fn what_a_node_can_not_do_is_not_offered() {
    let mut cluster = Cluster::new(ClusterConfig::default(), "test");
    let able = |hold| Capabilities { hold, mute: true, ..Capabilities::default() };
    for (id, hold) in [(0, true), (1, false)] {
        cluster.handle_node_added(NodeId(id));
        cluster.handle_capabilities(NodeId(id), able(hold));
    }
    let told = std::iter::from_fn(|| cluster.poll_output()).last();
    assert_eq!(told, Some(Output::Capabilities(able(false))));
}

#[test]
fn ten_thousand_monitors_are_armed_on_a_node_that_comes_back_empty_a_few_at_a_time() {
    let mut world = World::met(2);
    for number in 0..10_000 {
        world.command(start(&format!("boss{number}"), &format!("anna{number}"), Mode::AllCalls));
    }
    world.settle();
    world.kill(1);
    world.revive(1, false);
    while world.deliver_fact(1) {}
    assert!(world.nodes[1].commands.len() <= 64, "{}", world.nodes[1].commands.len());
    world.settle();
    assert_eq!(world.nodes[1].supervision.monitors().count(), 10_000);
}
