//! One monitor: one supervisor's device and its target.

use super::index::Index;
use super::rules::{MonitorPlace, may_join, place};
use super::{Intrusion, LegOutcome, ReleaseReason, SupervisionConfig, SupervisionOutput};
use crate::model::{
    Activity, AdmissionAsked, CallFact, CallId, DeviceId, Failure, LegState, Mode, MonitorFact,
    MonitorState, Now, Reason, Refusal, Scope, Timestamp,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// How long an answered supervisor waits for a call in doubt: longer than a phone may take to
/// answer (RFC 3261 17.1.1.2, timer B: 32 s).
const DOUBT: Duration = Duration::from_secs(60);

/// The calls that live, as they were handed in last: a monitor looks for one when it is armed, and
/// no backend is known here that could be asked.
#[derive(Debug, Default)]
pub(super) struct KnownCalls {
    pub(super) by_id: BTreeMap<CallId, CallFact>,
    /// Calls of which it is not known whether anybody is still there.
    pub(super) doubtful: BTreeSet<CallId>,
}

impl KnownCalls {
    /// Why a supervisor that has not joined a call changes nothing there.
    pub(super) fn refuse_switch(&self, supervisor: &DeviceId, call: &CallId) -> Refusal {
        self.refuse(supervisor, call, format!("Device '{{}}' does not monitor call '{call}'."))
    }

    /// Why a supervisor that does not wait for leave to join a call is given none.
    pub(super) fn refuse_admission(&self, supervisor: &DeviceId, call: &CallId) -> Refusal {
        let pattern = format!("Device '{{}}' does not wait for leave to join call '{call}'.");
        self.refuse(supervisor, call, pattern)
    }

    fn refuse(&self, supervisor: &DeviceId, call: &CallId, pattern: String) -> Refusal {
        if !self.by_id.contains_key(call) {
            return Refusal::no_call(call);
        }
        Refusal::device(Reason::InvalidState, supervisor, pattern)
    }
}

pub(super) fn monitors_nobody(supervisor: &DeviceId) -> Refusal {
    Refusal::device(Reason::InvalidState, supervisor, "Device '{}' monitors nobody.")
}

/// What a monitor may use of [`Supervision`](super::Supervision).
pub(super) struct Ctx<'a> {
    pub(super) config: &'a SupervisionConfig,
    pub(super) calls: &'a KnownCalls,
    pub(super) index: &'a mut Index,
    pub(super) out: &'a mut VecDeque<SupervisionOutput>,
}

#[derive(Debug)]
pub(super) struct Monitor {
    pub(super) supervisor: DeviceId,
    pub(super) target: DeviceId,
    activity: Activity,
    mode: Mode,
    scope: Scope,
    confirm_joins: bool,
    agent_side_only: bool,
    /// Cancelled, but the supervisor stays until the call ends (`cancel_releases_call = false`).
    pub(super) lingering: bool,
    /// It has done what it was asked for once.
    pub(super) is_spent: bool,
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
        /// The phone has answered, and the call is in doubt: nothing is heard until it is known to
        /// live.
        answered: bool,
    },
    Joined {
        call: CallId,
        activity: Activity,
        place: MonitorPlace,
        since: Timestamp,
    },
}

impl Monitor {
    pub(super) fn armed(fact: MonitorFact) -> Self {
        Self {
            supervisor: fact.supervisor,
            target: fact.target,
            activity: fact.activity,
            mode: fact.mode,
            scope: fact.scope,
            confirm_joins: fact.confirm_joins,
            agent_side_only: fact.agent_side_only,
            lingering: false,
            is_spent: false,
            state: MonitorPhase::Armed,
        }
    }

    pub(super) fn fact(&self) -> MonitorFact {
        MonitorFact {
            supervisor: self.supervisor.clone(),
            target: self.target.clone(),
            activity: self.activity,
            mode: self.mode,
            scope: self.scope,
            confirm_joins: self.confirm_joins,
            agent_side_only: self.agent_side_only,
            state: match &self.state {
                MonitorPhase::Armed => MonitorState::Armed,
                MonitorPhase::Admitting { call, .. } => {
                    MonitorState::Admitting { call: call.clone() }
                }
                MonitorPhase::Inviting { call, .. } => {
                    MonitorState::Inviting { call: call.clone() }
                }
                MonitorPhase::Joined { call, activity, since, .. } => {
                    MonitorState::Joined { call: call.clone(), activity: *activity, since: *since }
                }
            },
        }
    }

    /// May it begin on this call? Only where it may then stay.
    fn may_join(&self, config: &SupervisionConfig, call: &CallFact) -> bool {
        may_join(config, call, &self.target, &self.supervisor)
            && self.place(config, call, self.activity, None).is_ok()
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

    /// It is armed, and has never looked for a call.
    pub(super) fn begin_to_seek(&mut self, now: Now, ctx: &mut Ctx<'_>) {
        self.forgive(ctx);
        self.changed(ctx);
        self.seek(now, ctx);
    }

    /// Asked for again: activity, mode and scope change, live if joined. False: asked for with
    /// another target, and this monitor has ended.
    pub(super) fn handle_start(
        &mut self,
        asked: &MonitorFact,
        now: Now,
        ctx: &mut Ctx<'_>,
    ) -> bool {
        let goes_on = self.target == asked.target;
        if goes_on {
            self.ask_again(asked, now, ctx);
        } else {
            self.end(ReleaseReason::Replaced, ctx);
        }
        goes_on
    }

    fn ask_again(&mut self, asked: &MonitorFact, now: Now, ctx: &mut Ctx<'_>) {
        let before = self.fact();
        let revived = std::mem::take(&mut self.lingering);
        self.activity = asked.activity;
        self.mode = asked.mode;
        self.scope = asked.scope;
        self.confirm_joins = asked.confirm_joins;
        self.agent_side_only = asked.agent_side_only;
        let activity_before = match &mut self.state {
            MonitorPhase::Joined { activity, .. } => {
                Some(std::mem::replace(activity, asked.activity))
            }
            MonitorPhase::Armed
            | MonitorPhase::Admitting { .. }
            | MonitorPhase::Inviting { .. } => None,
        };
        let differs = revived || self.fact() != before;
        match &self.state {
            MonitorPhase::Armed => {
                if differs {
                    self.changed(ctx);
                }
                self.forgive(ctx);
                self.seek(now, ctx);
            }
            // What was asked for is not what the supervisor would do now.
            MonitorPhase::Admitting { call, .. } if differs => self.begin(call.clone(), now, ctx),
            MonitorPhase::Admitting { .. } => {}
            MonitorPhase::Inviting { .. } | MonitorPhase::Joined { .. } => {
                self.hear(activity_before, ctx);
                if differs {
                    self.changed(ctx);
                }
                self.follow(now, ctx);
            }
        }
    }

    /// Cancelled: the supervisor is released, or stays until the call ends.
    pub(super) fn handle_stop(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Refusal> {
        if self.lingering {
            return Err(monitors_nobody(&self.supervisor));
        }
        match &self.state {
            MonitorPhase::Joined { .. } if !ctx.config.cancel_releases_call => {
                self.lingering = true;
                self.gone(ctx.out);
            }
            MonitorPhase::Armed
            | MonitorPhase::Admitting { .. }
            | MonitorPhase::Inviting { .. }
            | MonitorPhase::Joined { .. } => self.end(ReleaseReason::Cancelled, ctx),
        }
        Ok(())
    }

    /// Another activity on the call that the supervisor has joined.
    pub(super) fn handle_switch(
        &mut self,
        call: &CallId,
        to: Activity,
        now: Now,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), Refusal> {
        let before = match &mut self.state {
            MonitorPhase::Joined { call: own, activity, .. } if own == call => {
                if *activity == to {
                    let message = format!("The supervisor is in {to} already.");
                    return Err(Refusal::new(Reason::InvalidState, message));
                }
                std::mem::replace(activity, to)
            }
            MonitorPhase::Armed
            | MonitorPhase::Admitting { .. }
            | MonitorPhase::Inviting { .. }
            | MonitorPhase::Joined { .. } => {
                return Err(ctx.calls.refuse_switch(&self.supervisor, call));
            }
        };
        self.hear(Some(before), ctx);
        if !self.lingering {
            self.changed(ctx);
        }
        self.follow(now, ctx);
        Ok(())
    }

    /// The supervisor may join the call that it waits for leave to join, or may not.
    pub(super) fn handle_admission(
        &mut self,
        call: &CallId,
        admitted: bool,
        now: Now,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), Refusal> {
        match &self.state {
            MonitorPhase::Admitting { call: asked, .. } if asked == call => {}
            MonitorPhase::Armed
            | MonitorPhase::Admitting { .. }
            | MonitorPhase::Inviting { .. }
            | MonitorPhase::Joined { .. } => {
                return Err(ctx.calls.refuse_admission(&self.supervisor, call));
            }
        }
        if admitted {
            self.invite(call.clone(), now, ctx);
        } else {
            let pattern = format!("Device '{{}}' may not join call '{call}'.");
            let refusal = Refusal::device(Reason::NotPermitted, &self.supervisor, pattern);
            self.fall_back(refusal, now, ctx);
        }
        Ok(())
    }

    /// A call has changed: its own, or one that its target is on.
    pub(super) fn handle_call(&mut self, call: &CallId, now: Now, ctx: &mut Ctx<'_>) {
        if self.state.call() == Some(call) {
            self.follow(now, ctx);
        }
        self.seek(now, ctx);
    }

    /// What became of the supervisor's leg.
    pub(super) fn handle_leg(
        &mut self,
        call: &CallId,
        outcome: LegOutcome,
        now: Now,
        ctx: &mut Ctx<'_>,
    ) {
        if self.state.call() != Some(call) {
            return;
        }
        match (&self.state, outcome) {
            (MonitorPhase::Admitting { .. }, LegOutcome::Relayed) => {
                self.fall_back(why_not(&self.supervisor, outcome), now, ctx)
            }
            (MonitorPhase::Armed | MonitorPhase::Admitting { .. }, _)
            | (MonitorPhase::Joined { .. }, LegOutcome::Answered) => {}
            (MonitorPhase::Inviting { .. }, LegOutcome::Answered)
                if ctx.calls.doubtful.contains(call) =>
            {
                let (call, deadline) = (call.clone(), now.mono + DOUBT);
                let answered = true;
                self.set_state(MonitorPhase::Inviting { call, deadline, answered }, ctx);
            }
            (MonitorPhase::Inviting { .. }, LegOutcome::Answered) => self.join(now, ctx),
            (
                MonitorPhase::Inviting { .. },
                LegOutcome::Busy
                | LegOutcome::Rejected { .. }
                | LegOutcome::NoAnswer
                | LegOutcome::Unregistered
                | LegOutcome::Unreachable { .. }
                | LegOutcome::HungUp
                | LegOutcome::Relayed
                | LegOutcome::NoCommonCodec,
            ) => self.fall_back(why_not(&self.supervisor, outcome), now, ctx),
            (
                MonitorPhase::Joined { .. },
                LegOutcome::HungUp
                | LegOutcome::Busy
                | LegOutcome::Rejected { .. }
                | LegOutcome::NoAnswer
                | LegOutcome::Unregistered
                | LegOutcome::Unreachable { .. }
                | LegOutcome::Relayed
                | LegOutcome::NoCommonCodec,
            ) => {
                self.pass(ctx);
                self.leave(now, ctx);
            }
        }
    }

    /// A call is in doubt, or is so no longer: its own, or one that its target is on.
    pub(super) fn handle_doubt(
        &mut self,
        call: &CallId,
        in_doubt: bool,
        now: Now,
        ctx: &mut Ctx<'_>,
    ) {
        match &self.state {
            MonitorPhase::Inviting { call: own, answered: true, .. }
                if own == call && !in_doubt =>
            {
                self.join(now, ctx)
            }
            MonitorPhase::Armed
            | MonitorPhase::Admitting { .. }
            | MonitorPhase::Inviting { .. }
            | MonitorPhase::Joined { .. } => self.handle_call(call, now, ctx),
        }
    }

    /// Its call has become a part of another.
    pub(super) fn handle_merged(&mut self, into: &CallId, ctx: &mut Ctx<'_>) {
        let mut state = self.state.clone();
        match &mut state {
            MonitorPhase::Armed => return,
            MonitorPhase::Admitting { call, .. }
            | MonitorPhase::Inviting { call, .. }
            | MonitorPhase::Joined { call, .. } => {
                *call = into.clone();
            }
        }
        self.set_state(state, ctx);
        ctx.index.passed.remove(into, &self.supervisor);
        if !self.lingering {
            self.changed(ctx);
        }
        self.ask_admission(ctx);
    }

    pub(super) fn handle_timeout(&mut self, now: Now, ctx: &mut Ctx<'_>) {
        let refusal = match &self.state {
            MonitorPhase::Armed | MonitorPhase::Joined { .. } => return,
            MonitorPhase::Admitting { .. } => Refusal::new(
                Reason::Unavailable,
                "Nobody has confirmed in time that the supervisor may join.",
            ),
            MonitorPhase::Inviting { call, .. } => {
                self.release(call.clone(), ReleaseReason::NoAnswer, ctx.out);
                why_not(&self.supervisor, LegOutcome::NoAnswer)
            }
        };
        self.fall_back(refusal, now, ctx);
    }

    /// Whether the supervisor keeps a call alive on which one party is left.
    pub(super) fn keeps_alive(&self, config: &SupervisionConfig, call: &CallFact) -> bool {
        match &self.state {
            MonitorPhase::Joined { call: own, activity, place, .. } if *own == call.id => self
                .place(config, call, *activity, place.coached.as_ref())
                .is_ok_and(|place| place.takeover || place.coached.is_some() && config.debrief),
            MonitorPhase::Armed
            | MonitorPhase::Admitting { .. }
            | MonitorPhase::Inviting { .. }
            | MonitorPhase::Joined { .. } => false,
        }
    }

    /// Looks for a call of the target, if the monitor has none.
    fn seek(&mut self, now: Now, ctx: &mut Ctx<'_>) {
        let MonitorPhase::Armed = self.state else {
            return;
        };
        let may_join = |call: &&CallFact| {
            !ctx.index.passed.contains(&call.id, &self.supervisor)
                && !ctx.calls.doubtful.contains(&call.id)
                && self.may_join(ctx.config, call)
        };
        // The call that the target talks on rather than the one that it holds, then the older.
        let order = |call: &&CallFact| {
            let leg = call.party_of(&self.target);
            (
                leg.map(|leg| leg.state == LegState::Held),
                leg.and_then(|leg| leg.established_at),
                call.id.clone(),
            )
        };
        let calls = ctx.index.calls.of(&self.target).filter_map(|call| ctx.calls.by_id.get(call));
        if let Some(call) = calls.filter(may_join).min_by_key(order) {
            self.begin(call.id.clone(), now, ctx);
        }
    }

    fn begin(&mut self, call: CallId, now: Now, ctx: &mut Ctx<'_>) {
        if !self.confirm_joins {
            return self.invite(call, now, ctx);
        }
        let deadline = now.mono + ctx.config.admission_timeout;
        self.set_state(MonitorPhase::Admitting { call, deadline }, ctx);
        self.changed(ctx);
        self.ask_admission(ctx);
    }

    /// Asks whether the supervisor may join the call that it waits for leave to join, if it does.
    fn ask_admission(&self, ctx: &mut Ctx<'_>) {
        if let MonitorPhase::Admitting { call, .. } = &self.state {
            ctx.out.push_back(SupervisionOutput::AskAdmission(AdmissionAsked {
                supervisor: self.supervisor.clone(),
                target: self.target.clone(),
                call: call.clone(),
                activity: self.activity,
            }));
        }
    }

    fn invite(&mut self, call: CallId, now: Now, ctx: &mut Ctx<'_>) {
        ctx.out.push_back(SupervisionOutput::Invite {
            supervisor: self.supervisor.clone(),
            target: self.target.clone(),
            call: call.clone(),
            activity: self.activity,
        });
        let deadline = now.mono + ctx.config.invite_timeout;
        let answered = false;
        self.set_state(MonitorPhase::Inviting { call, deadline, answered }, ctx);
        self.changed(ctx);
    }

    fn join(&mut self, now: Now, ctx: &mut Ctx<'_>) {
        let Some(call) = self.state.call().cloned() else {
            return;
        };
        let activity = self.activity;
        // `follow` runs at each change of the call, so it has not gone meanwhile; if in doubt, the
        // supervisor is heard by nobody.
        let fact = ctx.calls.by_id.get(&call);
        let place = fact.map(|call| self.place(ctx.config, call, activity, None));
        let joined = MonitorPhase::Joined {
            call,
            activity,
            place: place.and_then(Result::ok).unwrap_or_default(),
            since: now.wall,
        };
        self.set_state(joined, ctx);
        self.hear(None, ctx);
        self.changed(ctx);
        self.follow(now, ctx);
    }

    /// Holds the monitor against its call as it is now.
    fn follow(&mut self, now: Now, ctx: &mut Ctx<'_>) {
        let fact = self.state.call().and_then(|call| ctx.calls.by_id.get(call));
        match &self.state {
            MonitorPhase::Armed => {}
            MonitorPhase::Admitting { .. } => {
                let lives = |call: &&CallFact| !ctx.calls.doubtful.contains(&call.id);
                if !fact.filter(lives).is_some_and(|call| self.may_join(ctx.config, call)) {
                    self.disarm(now, ctx);
                }
            }
            MonitorPhase::Inviting { call, .. } => {
                let place = fact.map_or(Err(ReleaseReason::CallEnded), |fact| {
                    self.place(ctx.config, fact, self.activity, None)
                });
                if let Err(reason) = place {
                    self.release(call.clone(), reason, ctx.out);
                    self.disarm(now, ctx);
                }
            }
            MonitorPhase::Joined { call, activity, place, .. } => {
                let after = fact.map_or(Err(ReleaseReason::CallEnded), |fact| {
                    self.place(ctx.config, fact, *activity, place.coached.as_ref())
                });
                match after {
                    Err(reason) => {
                        self.release(call.clone(), reason, ctx.out);
                        self.leave(now, ctx);
                    }
                    Ok(after) if after == *place => {}
                    Ok(after) => {
                        if let MonitorPhase::Joined { place, .. } = &mut self.state {
                            *place = after;
                        }
                        self.hear(None, ctx);
                    }
                }
            }
        }
    }

    /// Says how the supervisor is heard now, if it is joined and does not do what it did `before`.
    fn hear(&mut self, before: Option<Activity>, ctx: &mut Ctx<'_>) {
        let MonitorPhase::Joined { call, activity, place, .. } = &mut self.state else {
            return;
        };
        if before == Some(*activity) {
            return;
        }
        // A supervisor that leaves BargeIn no longer stands in for the agent.
        place.takeover &= *activity == Activity::BargeIn;
        ctx.out.push_back(SupervisionOutput::Hear {
            supervisor: self.supervisor.clone(),
            call: call.clone(),
            activity: *activity,
            coached: place.coached.clone(),
            takeover: place.takeover,
        });
    }

    /// The supervisor is no longer joined: the monitor is spent, or waits for the next call with
    /// the activity first asked for.
    fn leave(&mut self, now: Now, ctx: &mut Ctx<'_>) {
        if self.lingering {
            self.is_spent = true;
            return;
        }
        match self.mode {
            Mode::AllCalls => self.disarm(now, ctx),
            Mode::NextCall => {
                self.is_spent = true;
                self.gone(ctx.out);
            }
        }
    }

    /// The supervisor could not be brought in: the monitor waits for the next call.
    fn fall_back(&mut self, refusal: Refusal, now: Now, ctx: &mut Ctx<'_>) {
        let call = self.state.call().cloned();
        self.pass(ctx);
        ctx.out.push_back(SupervisionOutput::Failed(Failure {
            device: self.supervisor.clone(),
            call,
            request_id: None,
            refusal,
        }));
        self.disarm(now, ctx);
    }

    fn disarm(&mut self, now: Now, ctx: &mut Ctx<'_>) {
        self.set_state(MonitorPhase::Armed, ctx);
        self.changed(ctx);
        self.seek(now, ctx);
    }

    fn pass(&mut self, ctx: &mut Ctx<'_>) {
        let call = self.state.call().filter(|call| ctx.calls.by_id.contains_key(*call));
        if let Some(call) = call.cloned() {
            ctx.index.passed.insert(&call, &self.supervisor);
        }
    }

    fn set_state(&mut self, state: MonitorPhase, ctx: &mut Ctx<'_>) {
        self.unlist(ctx.index);
        if let Some(call) = state.call() {
            ctx.index.of_call.insert(call, &self.supervisor);
        }
        if let Some(deadline) = state.deadline() {
            ctx.index.deadlines.insert((deadline, self.supervisor.clone()));
        }
        self.state = state;
    }

    fn unlist(&self, index: &mut Index) {
        if let Some(call) = self.state.call() {
            index.of_call.remove(call, &self.supervisor);
        }
        if let Some(deadline) = self.state.deadline() {
            index.deadlines.remove(&(deadline, self.supervisor.clone()));
        }
    }

    /// Nothing is found by this monitor any more.
    pub(super) fn forget(&mut self, index: &mut Index) {
        index.passed.forget_supervisor(&self.supervisor);
        self.unlist(index);
        index.of_target.remove(&self.target, &self.supervisor);
    }

    /// Ended from outside.
    pub(super) fn end(&mut self, reason: ReleaseReason, ctx: &mut Ctx<'_>) {
        match &self.state {
            MonitorPhase::Armed | MonitorPhase::Admitting { .. } => {}
            MonitorPhase::Inviting { call, .. } | MonitorPhase::Joined { call, .. } => {
                self.release(call.clone(), reason, ctx.out)
            }
        }
        if !self.lingering {
            self.gone(ctx.out);
        }
        self.is_spent = true;
    }

    fn release(&self, call: CallId, reason: ReleaseReason, out: &mut VecDeque<SupervisionOutput>) {
        let supervisor = self.supervisor.clone();
        out.push_back(SupervisionOutput::Release { supervisor, call, reason });
    }

    fn gone(&self, out: &mut VecDeque<SupervisionOutput>) {
        let supervisor = self.supervisor.clone();
        out.push_back(SupervisionOutput::Gone { supervisor });
    }

    fn changed(&self, ctx: &mut Ctx<'_>) {
        ctx.out.push_back(SupervisionOutput::Changed(self.fact()));
    }

    /// A supervisor that asks again may join calls that it was out of, but for those that go on
    /// already and that it may not break into.
    fn forgive(&mut self, ctx: &mut Ctx<'_>) {
        let may_intrude = match ctx.config.intrusion {
            Intrusion::Any => true,
            Intrusion::BargeIn => self.activity == Activity::BargeIn,
            Intrusion::Never => false,
        };
        let target = &self.target;
        let is_on = |call: &&CallFact| {
            let leg = call.party_of(target);
            leg.is_some_and(|leg| matches!(leg.state, LegState::Established | LegState::Held))
        };
        ctx.index.passed.forget_supervisor(&self.supervisor);
        if may_intrude {
            return;
        }
        let calls = ctx.index.calls.of(&self.target);
        let calls = calls.filter_map(|call| ctx.calls.by_id.get(call));
        let passed: Vec<_> = calls.filter(is_on).map(|call| &call.id).collect();
        for call in passed {
            ctx.index.passed.insert(call, &self.supervisor);
        }
    }
}

impl MonitorPhase {
    pub(super) fn call(&self) -> Option<&CallId> {
        match self {
            MonitorPhase::Armed => None,
            MonitorPhase::Admitting { call, .. }
            | MonitorPhase::Inviting { call, .. }
            | MonitorPhase::Joined { call, .. } => Some(call),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match self {
            MonitorPhase::Armed | MonitorPhase::Joined { .. } => None,
            MonitorPhase::Admitting { deadline, .. } | MonitorPhase::Inviting { deadline, .. } => {
                Some(*deadline)
            }
        }
    }
}

fn why_not(supervisor: &DeviceId, outcome: LegOutcome) -> Refusal {
    let (reason, pattern) = match outcome {
        LegOutcome::Relayed => return Refusal::relayed(),
        LegOutcome::Busy => (Reason::InvalidState, "Device '{}' is busy.".into()),
        LegOutcome::Rejected { status: None } | LegOutcome::HungUp => {
            (Reason::InvalidState, "Device '{}' has rejected the call.".into())
        }
        LegOutcome::Rejected { status: Some(status) } => (
            Reason::InvalidState,
            Cow::from(format!("Device '{{}}' has rejected the call: {status}.")),
        ),
        LegOutcome::NoAnswer => (Reason::InvalidState, "Device '{}' does not answer.".into()),
        LegOutcome::NoCommonCodec => {
            (Reason::InvalidState, "Device '{}' has no codec in common with the call.".into())
        }
        LegOutcome::Unregistered | LegOutcome::Answered => {
            (Reason::Internal, "Device '{}' is not registered.".into())
        }
        LegOutcome::Unreachable { status: Some(status) } => (
            Reason::Internal,
            Cow::from(format!(
                "Device '{{}}' can not be reached: its phone or switch answers {status}. Is it \
                 registered there?"
            )),
        ),
        LegOutcome::Unreachable { status: None } => (
            Reason::Internal,
            "Device '{}' can not be reached: its phone or switch does not answer.".into(),
        ),
    };
    Refusal::device(reason, supervisor, pattern)
}
