//! One monitor of a cluster: what was asked for, and what each node has of it.

use super::{NodeId, Token, WorkId};
use crate::model::{
    Command, DeviceId, Fact, Mode, MonitorFact, MonitorState, Now, Reason, Refusal, UserId,
};
use crate::rate_limit::back_off;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long after a refusal a node is asked again; twice as long after each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// How long after an acceptance its fact may take.
const SETTLING: Duration = Duration::from_secs(5);
/// How long after leave to join the node may take to say that it brings the supervisor in, and after
/// a stop to say that the monitor is gone.
const JOINING: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct ClusterMonitor {
    supervisor: DeviceId,
    /// What there should be, as armed; `None`: it is to be gone everywhere.
    desired: Option<MonitorFact>,
    /// The command of the gateway that desired it; `None`: none did.
    desired_by: Option<Token>,
    /// The user that has asked for it; `None`: not known here.
    user: Option<UserId>,
    copies: BTreeMap<NodeId, NodeCopy>,
    /// The node where the supervisor is on a call, or about to be.
    active: Option<NodeId>,
    /// How the gateway was told of it last.
    told: Option<MonitorFact>,
}

/// What one node has of a monitor.
#[derive(Debug, Default)]
struct NodeCopy {
    fact: Option<MonitorFact>,
    /// It may have it though it does not tell: it was asked to, or is away and had it.
    may_have: bool,
    pending: Option<Pending>,
    /// The command of the gateway that it has not been sent yet.
    owes: Option<Token>,
    /// It has been given leave to bring the supervisor in, and its facts do not show that yet; until
    /// then it is taken for true.
    admitted_until: Option<Instant>,
    /// Leaves that it has not answered, and whether it has taken one since its facts last showed it.
    leaves: u32,
    has_taken_leave: bool,
    /// It is lost, and the supervisor was on a call there, or about to be: nobody knows whether that
    /// is still so.
    is_held: bool,
    /// It is lost for so long that its calls count as over.
    is_expired: bool,
    /// A stop was sent to it, and nobody knows whether it has arrived.
    may_have_stopped: bool,
    failures: u32,
    retry_at: Option<Instant>,
}

impl NodeCopy {
    fn is_empty(&self) -> bool {
        self.pending.is_none() && self.owes.is_none() && !self.may_hold()
    }

    /// The supervisor is on a call there, or about to be. One that waits for leave while the monitor
    /// is being taken back from there is not.
    fn is_busy(&self) -> bool {
        let is_stopping = matches!(
            self.pending,
            Some(Pending::Sent { is_start: false, .. } | Pending::Stopped { .. })
        );
        let is_busy = |fact: &MonitorFact| match fact.state {
            MonitorState::Armed => false,
            MonitorState::Admitting { .. } => !is_stopping,
            MonitorState::Inviting { .. } | MonitorState::Joined { .. } => true,
        };
        self.is_held || self.admitted_until.is_some() || self.fact.as_ref().is_some_and(is_busy)
    }

    fn may_hold(&self) -> bool {
        self.fact.is_some() || self.may_have
    }
}

/// What has been sent to a node and does not show in its facts yet.
#[derive(Debug)]
enum Pending {
    /// It has not answered.
    Sent { id: WorkId, is_start: bool, token: Option<Token> },
    /// It has accepted a start.
    Started { until: Instant },
    /// It has accepted a stop, and has yet to say that the monitor is gone.
    Stopped { until: Instant },
}

/// What is sent to a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Arms the monitor, or changes it.
    Start(MonitorFact),
    /// Takes it back.
    Stop,
}

impl Step {
    pub(super) fn is_start(&self) -> bool {
        matches!(self, Step::Start(_))
    }

    pub(super) fn command(self, supervisor: &DeviceId) -> Command {
        let supervisor = supervisor.clone();
        match self {
            Step::Start(asked) => Command::StartMonitoring {
                supervisor,
                target: asked.target,
                activity: asked.activity,
                mode: asked.mode,
                scope: asked.scope,
                confirm_joins: true,
                agent_side_only: asked.agent_side_only,
            },
            Step::Stop => Command::StopMonitoring { supervisor },
        }
    }
}

impl ClusterMonitor {
    pub(super) fn new(supervisor: DeviceId) -> Self {
        Self {
            supervisor,
            desired: None,
            desired_by: None,
            user: None,
            copies: BTreeMap::new(),
            active: None,
            told: None,
        }
    }

    pub(super) fn user(&self) -> Option<UserId> {
        self.user.clone()
    }

    /// The command of the gateway that it is to be as it is by.
    pub(super) fn desired_by(&self) -> Option<Token> {
        self.desired_by
    }

    pub(super) fn desired(&self) -> Option<&MonitorFact> {
        self.desired.as_ref()
    }

    /// It is to be like this from now on by a command of the gateway; `None`: gone.
    pub(super) fn set_desired(
        &mut self,
        desired: Option<MonitorFact>,
        user: Option<UserId>,
        token: Token,
    ) {
        self.desired = desired;
        self.user = user;
        self.desired_by = Some(token);
    }

    /// A command of the gateway is refused: it is to be again as it was before, unless it has been
    /// changed since.
    pub(super) fn revert(&mut self, token: Token, before: Option<MonitorFact>) {
        if self.desired_by == Some(token) {
            self.desired = before;
            self.desired_by = None;
        }
    }

    /// The node where the supervisor is on a call, or about to be.
    pub(super) fn active(&self) -> Option<NodeId> {
        self.active
    }

    pub(super) fn is_active_at(&self, node: NodeId) -> bool {
        self.active == Some(node)
    }

    /// The monitor as that node has it, if the supervisor is busy there.
    pub(super) fn busy_at(&self, node: NodeId) -> Option<&MonitorFact> {
        self.copies.get(&node)?.fact.as_ref().filter(|_| self.is_active_at(node))
    }

    /// The nodes that have it, or may.
    pub(super) fn holders(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.copies.iter().filter(|(_, copy)| copy.may_hold()).map(|(id, _)| *id)
    }

    /// A node tells how it is there; `in_snapshot`: what it found when it was met, which may be
    /// older than what was asked for meanwhile.
    pub(super) fn handle_fact(&mut self, node: NodeId, fact: MonitorFact, in_snapshot: bool) {
        let may_say = self.active.is_none_or(|active| active == node);
        let copy = self.copies.entry(node).or_default();
        // Back from its disk, without the one call that it was for.
        let is_spent = in_snapshot && copy.fact.as_ref().is_some_and(is_spent);
        let is_spent = is_spent && may_say && !matches!(fact.state, MonitorState::Joined { .. });
        if is_spent {
            self.spend();
        }
        let copy = self.copies.entry(node).or_default();
        let is_idle = copy.pending.is_none();
        let is_known = copy.may_hold();
        let is_news = match &self.desired {
            // One that is known is on its way out.
            None => !is_known && fact.confirm_joins,
            Some(desired) => !in_snapshot && may_say && !is_same_asked(desired, &fact),
        };
        if is_idle && is_news {
            (self.desired, self.desired_by) = (Some(armed(&fact)), None);
        }
        let is_as_asked = self.desired.as_ref().is_none_or(|desired| is_same_asked(desired, &fact));
        if let Some(Pending::Started { .. }) = copy.pending
            && is_as_asked
        {
            copy.pending = None;
        }
        copy.may_have = false;
        if in_snapshot {
            copy.may_have_stopped = false;
        }
        if let MonitorState::Inviting { .. } | MonitorState::Joined { .. } = fact.state {
            (copy.admitted_until, copy.has_taken_leave) = (None, false);
        }
        copy.fact = Some(fact);
        self.find_active(node);
    }

    /// A node is given leave to bring the supervisor in.
    pub(super) fn admit(&mut self, node: NodeId, now: Now) {
        let copy = self.copies.entry(node).or_default();
        copy.admitted_until = Some(now.mono + JOINING);
        copy.leaves += 1;
    }

    /// A node has answered to leave that it was given. Of one that is not reached nobody knows
    /// whether it has taken it.
    pub(super) fn handle_admitted(&mut self, node: NodeId, result: &Result<(), Refusal>) {
        let Some(copy) = self.copies.get_mut(&node) else {
            return;
        };
        copy.leaves = copy.leaves.saturating_sub(1);
        let is_refused = matches!(result, Err(refusal) if refusal.reason != Reason::Unavailable);
        copy.has_taken_leave |= !is_refused && copy.admitted_until.is_some();
        if copy.leaves == 0 && !copy.has_taken_leave {
            copy.admitted_until = None;
        }
        self.find_active(node);
    }

    /// Time has passed.
    pub(super) fn handle_time(&mut self, now: Now) {
        let is_due =
            |copy: &NodeCopy| !copy.is_held && copy.admitted_until.is_some_and(|at| at <= now.mono);
        let due = self.copies.iter().filter(|(_, copy)| is_due(copy)).map(|(id, _)| *id);
        for node in due.collect::<Vec<_>>() {
            if let Some(copy) = self.copies.get_mut(&node) {
                (copy.admitted_until, copy.has_taken_leave) = (None, false);
            }
            self.find_active(node);
        }
    }

    /// The one call of a monitor is over, unless it has been asked for all calls meanwhile.
    fn spend(&mut self) {
        if self.desired.as_ref().is_some_and(|desired| desired.mode == Mode::NextCall) {
            (self.desired, self.desired_by) = (None, None);
        }
    }

    /// Keeps `active` true after a change at a node.
    fn find_active(&mut self, changed: NodeId) {
        let is_busy = |id: &NodeId| self.copies.get(id).is_some_and(NodeCopy::is_busy);
        let is_joined = |id: &NodeId| {
            let fact = self.copies.get(id).and_then(|copy| copy.fact.as_ref());
            fact.is_some_and(|fact| matches!(fact.state, MonitorState::Joined { .. }))
        };
        self.active = match self.active.filter(is_busy) {
            // Of two, the one that is on a call already.
            Some(active) if is_joined(&changed) && !is_joined(&active) => Some(changed),
            Some(active) => Some(active),
            None => {
                let busy = || self.copies.keys().filter(|id| is_busy(id));
                busy().find(|id| is_joined(id)).or_else(|| busy().next()).copied()
            }
        };
    }

    /// A node says that it is gone there. Unless that was asked of that node, it is to be gone
    /// everywhere: its one call is over, or another client has ended it.
    pub(super) fn handle_gone(&mut self, node: NodeId) {
        let Some(copy) = self.copies.get_mut(&node) else {
            return;
        };
        copy.fact = None;
        let is_ours = match &copy.pending {
            None => std::mem::take(&mut copy.may_have_stopped),
            Some(Pending::Sent { is_start: true, .. } | Pending::Started { .. }) => true,
            Some(Pending::Sent { is_start: false, .. }) => {
                copy.may_have = false;
                true
            }
            Some(Pending::Stopped { .. }) => {
                (copy.pending, copy.may_have) = (None, false);
                true
            }
        };
        if !is_ours && self.active.is_none_or(|active| active == node) {
            (self.desired, self.desired_by) = (None, None);
        }
        self.find_active(node);
    }

    /// A node has come back without it. One whose call it was is done, unless it was for all calls;
    /// any other is armed there again.
    pub(super) fn handle_missing(&mut self, node: NodeId) {
        let Some(copy) = self.copies.get_mut(&node) else {
            return;
        };
        if let Some(Pending::Stopped { .. }) = copy.pending {
            copy.pending = None;
        }
        // What was accepted after the snapshot is told after it.
        copy.may_have = matches!(
            copy.pending,
            Some(Pending::Started { .. } | Pending::Sent { is_start: true, .. })
        );
        (copy.may_have_stopped, copy.admitted_until, copy.has_taken_leave) = (false, None, false);
        if copy.fact.take().is_some_and(|fact| is_spent(&fact)) && self.active == Some(node) {
            self.spend();
        }
    }

    /// A node can be asked again, and all it has is known.
    pub(super) fn handle_returned(&mut self, node: NodeId, now: Now) {
        let Some(copy) = self.copies.get_mut(&node) else {
            return;
        };
        (copy.is_held, copy.is_expired) = (false, false);
        // What has become of the leave that it was given is still to come.
        copy.admitted_until = copy.admitted_until.map(|_| now.mono + JOINING);
        self.find_active(node);
    }

    /// A node has been away for so long that its calls count as over. Whether the supervisor is on
    /// one nobody knows: nobody else brings the supervisor in before the node is back.
    pub(super) fn handle_expired(&mut self, node: NodeId) {
        if let Some(copy) = self.copies.get_mut(&node) {
            copy.is_expired = true;
        }
    }

    /// A node may have it, from before it was cancelled.
    pub(super) fn expect(&mut self, node: NodeId) {
        self.copies.entry(node).or_default().may_have = true;
    }

    /// A node cannot be asked any more: the command of the gateway that it was not sent. What was
    /// sent is still answered.
    pub(super) fn handle_lost(&mut self, node: NodeId) -> Option<Token> {
        let copy = self.copies.get_mut(&node)?;
        (copy.retry_at, copy.failures) = (None, 0);
        copy.is_held |= copy.is_busy();
        match copy.pending {
            Some(Pending::Started { .. }) => copy.pending = None,
            Some(Pending::Stopped { .. }) => {
                (copy.pending, copy.may_have_stopped) = (None, true);
            }
            Some(Pending::Sent { .. }) | None => {}
        }
        copy.owes.take()
    }

    /// These nodes are to be sent what is desired as a command of the gateway; the commands that
    /// they were not sent yet, which are overtaken by it.
    pub(super) fn owe(&mut self, nodes: &[NodeId], token: Token) -> Vec<(NodeId, Token)> {
        let overtaken = nodes.iter().filter_map(|node| {
            let copy = self.copies.entry(*node).or_default();
            copy.retry_at = None;
            Some((*node, copy.owes.replace(token)?))
        });
        overtaken.collect()
    }

    /// A node has what the gateway's command has asked of it, without being sent it: that command.
    pub(super) fn take_settled(&mut self, node: NodeId) -> Option<Token> {
        let is_wanted = self.desired.is_some() && self.active.is_none_or(|at| at == node);
        let copy = self.copies.get_mut(&node)?;
        if copy.pending.is_some() || is_wanted || copy.may_hold() {
            return None;
        }
        copy.owes.take()
    }

    /// A node is none any more.
    pub(super) fn forget_node(&mut self, node: NodeId) {
        let fact = self.copies.remove(&node).and_then(|copy| copy.fact);
        if fact.is_some_and(|fact| is_spent(&fact)) && self.active == Some(node) {
            self.spend();
        }
        self.find_active(node);
    }

    /// What is to be sent to a node now.
    pub(super) fn next_step(&mut self, node: NodeId, now: Now) -> Option<Step> {
        let may_have = self.active.is_none_or(|active| active == node);
        let wanted = self.desired.as_ref().filter(|_| may_have);
        let copy = self.copies.entry(node).or_default();
        if let Some(Pending::Started { until } | Pending::Stopped { until }) = copy.pending
            && until <= now.mono
        {
            copy.pending = None;
        }
        let waits = copy.owes.is_none() && copy.retry_at.is_some_and(|at| now.mono < at);
        if copy.pending.is_some() || waits {
            return None;
        }
        match (wanted, &copy.fact) {
            (Some(wanted), Some(_)) if copy.owes.is_some() => Some(Step::Start(wanted.clone())),
            (Some(wanted), Some(fact)) if is_same_asked(wanted, fact) => None,
            (Some(wanted), Some(_) | None) => Some(Step::Start(wanted.clone())),
            // One that joins unasked is another client's.
            (None, Some(fact)) if !fact.confirm_joins && copy.owes.is_none() => None,
            (None, _) => copy.may_hold().then_some(Step::Stop),
        }
    }

    /// What is to be sent to a node is being sent: the command of the gateway that it is.
    pub(super) fn take_owed(&mut self, node: NodeId) -> Option<Token> {
        self.copies.get_mut(&node)?.owes.take()
    }

    /// Something has been sent to a node.
    pub(super) fn sent(&mut self, node: NodeId, id: WorkId, is_start: bool, token: Option<Token>) {
        let copy = self.copies.entry(node).or_default();
        copy.pending = Some(Pending::Sent { id, is_start, token });
        copy.may_have |= is_start && copy.fact.is_none();
    }

    /// A node has answered: the command of the gateway that it has answered by that.
    pub(super) fn handle_result(
        &mut self,
        node: NodeId,
        id: WorkId,
        result: &Result<(), Refusal>,
        now: Now,
    ) -> Option<Token> {
        let desired = self.desired.as_ref();
        let copy = self.copies.get_mut(&node)?;
        let Some(Pending::Sent { id: sent, is_start, token }) = copy.pending else {
            return None;
        };
        if sent != id {
            return None;
        }
        copy.pending = None;
        match result {
            Ok(()) => {
                (copy.failures, copy.retry_at) = (0, None);
                copy.may_have_stopped = false;
                let is_shown = match (&copy.fact, is_start) {
                    (Some(fact), true) => {
                        desired.is_none_or(|desired| is_same_asked(desired, fact))
                    }
                    (None, false) => !copy.may_have,
                    (Some(_), false) | (None, true) => false,
                };
                copy.may_have &= is_start;
                if !is_shown {
                    copy.pending = Some(match is_start {
                        true => Pending::Started { until: now.mono + SETTLING },
                        false => Pending::Stopped { until: now.mono + JOINING },
                    });
                }
            }
            Err(refusal) if !is_start && refusal.reason == Reason::InvalidState => {
                (copy.fact, copy.may_have) = (None, false);
                self.find_active(node);
            }
            Err(refusal) => {
                copy.may_have_stopped |= !is_start;
                if is_start && refusal.reason != Reason::Unavailable {
                    copy.may_have = false;
                }
                let pause = back_off(FIRST_RETRY, copy.failures, LAST_RETRY);
                copy.failures = copy.failures.saturating_add(1);
                copy.retry_at = Some(now.mono + pause);
            }
        }
        token
    }

    /// When something is to be sent though nothing happens.
    pub(super) fn wakes_at(&self, now: Now) -> Option<Instant> {
        let at = self.copies.values().filter_map(|copy| match copy.pending {
            Some(Pending::Started { until } | Pending::Stopped { until }) => Some(until),
            Some(Pending::Sent { .. }) => None,
            None => copy.retry_at,
        });
        let at = at.chain(self.copies.values().filter_map(|copy| copy.admitted_until));
        at.filter(|at| *at > now.mono).min()
    }

    /// Nobody has it, nobody wants it, and no node can come back with it.
    pub(super) fn is_over(&self) -> bool {
        self.desired.is_none()
            && self.told.is_none()
            && self.copies.values().all(NodeCopy::is_empty)
    }

    /// How it is now, if the gateway was told otherwise; `is_ready` says which nodes can be asked.
    pub(super) fn news(&mut self, is_ready: impl Fn(NodeId) -> bool) -> Option<Fact> {
        let now = self.shown(is_ready);
        if now == self.told {
            return None;
        }
        self.told.clone_from(&now);
        Some(match now {
            Some(fact) => Fact::Monitor(fact),
            None => Fact::MonitorGone { supervisor: self.supervisor.clone() },
        })
    }

    /// How it is told.
    pub(super) fn told(&self) -> Option<&MonitorFact> {
        self.told.as_ref()
    }

    fn shown(&self, is_ready: impl Fn(NodeId) -> bool) -> Option<MonitorFact> {
        if let Some(active) = self.active
            && let Some(fact) = self.busy_at(active)
        {
            let is_expired = self.copies.get(&active).is_some_and(|copy| copy.is_expired);
            return Some(if is_expired { armed(fact) } else { fact.clone() });
        }
        let ready = self.copies.iter().filter(|(id, _)| is_ready(**id));
        let armed_at = ready.filter_map(|(_, copy)| copy.fact.as_ref()).next();
        let wanted = self.desired.as_ref().filter(|_| self.told.is_some());
        armed_at.cloned().or_else(|| wanted.map(armed))
    }
}

/// The same monitor, while it waits for a call.
fn armed(fact: &MonitorFact) -> MonitorFact {
    MonitorFact { state: MonitorState::Armed, confirm_joins: true, ..fact.clone() }
}

/// The same was asked for.
fn is_same_asked(one: &MonitorFact, other: &MonitorFact) -> bool {
    armed(one) == armed(other) && one.confirm_joins == other.confirm_joins
}

/// The one call that it was for has been joined.
fn is_spent(fact: &MonitorFact) -> bool {
    fact.mode == Mode::NextCall && matches!(fact.state, MonitorState::Joined { .. })
}
