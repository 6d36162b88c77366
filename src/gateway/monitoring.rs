//! Monitors: which supervisor may join, which monitor must end, and what the audit says of each.

use super::access::AccessDirectory;
use super::audit_record::{AuditEvent, AuditRecord, ListeningRecord, MonitoringRecord};
use super::backend_facts::BackendFacts;
use super::pending::{PendingLine, PendingWorks};
use super::{Output, UNAUDITED};
use crate::model::{
    Activity, AdmissionAsked, CallFact, CallId, Command, DeviceId, Failure, JoinSound, MonitorFact,
    MonitorState, NoticeBody, Now, PartyFact, Reason, Refusal, RequestEnvelope, Timestamp, Topic,
    UserId,
};
use crate::rate_limit::back_off;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long after its first failure the end of a monitor is asked for again; twice as long after
/// each further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest time until it is asked for again.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// The monitors as the gateway must answer for them: each admission and each join gets its last
/// line in the audit, and a monitor that must end is asked to until it is gone.
#[derive(Default)]
pub(super) struct Monitoring {
    /// What is kept of each monitor, by supervisor's device.
    kept: BTreeMap<DeviceId, MonitoringRecord>,
    /// Whose each monitor is, by supervisor's device.
    users: BTreeMap<DeviceId, MonitoringUser>,
    /// Admissions and joins without their last line, by supervisor's device.
    listening: BTreeMap<DeviceId, ListeningRecord>,
    /// Monitors that must end, by supervisor's device; asked for again after every failure and
    /// every snapshot until they are gone.
    ending: BTreeMap<DeviceId, Ending>,
}

/// The user that monitors with a device, from when the monitor was accepted or first seen: a user
/// that gets the device meanwhile has asked for nothing.
struct MonitoringUser {
    user: UserId,
    /// The monitor is gone; what its sound was is still to come.
    is_over: bool,
}

/// A monitor that must end.
#[derive(Default)]
struct Ending {
    /// So often it could not be ended.
    failures: u32,
    /// When it is asked for again; `None`: its answer is awaited, or the backend is away.
    retry_at: Option<Instant>,
    /// The backend has accepted it.
    is_accepted: bool,
}

impl Ending {
    /// In how long it is asked for again, later each time.
    fn retry_in(&mut self, now: Instant) -> Duration {
        let retry_in = back_off(FIRST_RETRY, self.failures, LAST_RETRY);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now + retry_in);
        retry_in
    }
}

/// What monitoring needs of the gateway for one step.
pub(super) struct Ctx<'a> {
    pub(super) access: &'a AccessDirectory,
    pub(super) known: &'a BackendFacts,
    pub(super) works: &'a mut PendingWorks,
    pub(super) now: Now,
}

impl Ctx<'_> {
    fn owner(&self, device: &DeviceId) -> Option<UserId> {
        self.access.owner(device).map(|user| user.id.clone())
    }

    fn audit(&mut self, record: AuditRecord, line: PendingLine) {
        self.works.audit(record, line, self.now);
    }

    fn listening_record(&self, event: AuditEvent, listening: &ListeningRecord) -> AuditRecord {
        AuditRecord {
            user: listening.user.clone().or_else(|| self.owner(&listening.supervisor)),
            device: Some(listening.supervisor.clone()),
            target: Some(listening.target.clone()),
            call: Some(listening.call.clone()),
            activity: Some(listening.activity),
            ..AuditRecord::new(event, self.now.wall)
        }
    }
}

impl Monitoring {
    /// The monitors of an earlier life, and the admissions and joins that it has left.
    pub(super) fn new(
        kept: BTreeMap<DeviceId, MonitoringRecord>,
        listening: Vec<ListeningRecord>,
    ) -> Self {
        let users = kept.iter().filter_map(|(device, record)| {
            let user = record.user.clone()?;
            Some((device.clone(), MonitoringUser { user, is_over: false }))
        });
        let ending = kept.iter().filter(|(_, record)| record.is_ending);
        Self {
            users: users.collect(),
            ending: ending.map(|(device, _)| (device.clone(), Ending::default())).collect(),
            kept,
            listening: listening.into_iter().map(|one| (one.supervisor.clone(), one)).collect(),
        }
    }

    /// The user that monitors with a device, or did last; else the user whose it is.
    fn user_of(&self, supervisor: &DeviceId, ctx: &Ctx<'_>) -> Option<UserId> {
        let monitoring = self.users.get(supervisor).map(|monitoring| monitoring.user.clone());
        monitoring.or_else(|| ctx.owner(supervisor))
    }

    /// A monitor is a user's from now on, or over.
    fn set_user(&mut self, supervisor: &DeviceId, user: Option<UserId>, ctx: &mut Ctx<'_>) {
        if let Some(user) = user {
            self.users.insert(supervisor.clone(), MonitoringUser { user, is_over: false });
        } else if let Some(known) = self.users.get_mut(supervisor) {
            known.is_over = true;
        }
        self.keep(supervisor, ctx);
    }

    /// Remembers a monitor beyond the end of this process, as it is now.
    fn keep(&mut self, supervisor: &DeviceId, ctx: &mut Ctx<'_>) {
        let user = self.users.get(supervisor).filter(|known| !known.is_over);
        let user = user.map(|known| known.user.clone());
        let is_ending = self.ending.contains_key(supervisor);
        let now = (user.is_some() || is_ending).then_some(MonitoringRecord { user, is_ending });
        if self.kept.get(supervisor) == now.as_ref() {
            return;
        }
        match now.clone() {
            Some(now) => self.kept.insert(supervisor.clone(), now),
            None => self.kept.remove(supervisor),
        };
        let supervisor = supervisor.clone();
        ctx.works.outputs.push_back(Output::KeepMonitoring { supervisor, monitoring: now });
    }

    fn monitor_record(
        &self,
        event: AuditEvent,
        monitor: &MonitorFact,
        ctx: &Ctx<'_>,
    ) -> AuditRecord {
        let activity = joined(monitor).map_or(monitor.activity, |(_, activity, _)| activity);
        AuditRecord {
            user: self.user_of(&monitor.supervisor, ctx),
            device: Some(monitor.supervisor.clone()),
            target: Some(monitor.target.clone()),
            call: monitor.state.call().cloned(),
            activity: Some(activity),
            mode: Some(monitor.mode),
            scope: Some(monitor.scope),
            ..AuditRecord::new(event, ctx.now.wall)
        }
    }

    /// A backend asks whether a supervisor may join a call.
    pub(super) fn handle_admission(&mut self, asked: AdmissionAsked, ctx: &mut Ctx<'_>) {
        let owner = ctx.owner(&asked.supervisor);
        let record = AuditRecord {
            user: owner.clone(),
            device: Some(asked.supervisor.clone()),
            target: Some(asked.target.clone()),
            call: Some(asked.call.clone()),
            activity: Some(asked.activity),
            ..AuditRecord::new(AuditEvent::Admitted, ctx.now.wall)
        };
        match self.may_join(&asked, ctx) {
            Ok(user) => ctx.audit(record, PendingLine::Admission { user, asked }),
            Err(refusal) => {
                let record = AuditRecord {
                    event: AuditEvent::NotAdmitted,
                    refusal: Some(refusal),
                    ..record
                };
                ctx.audit(record, PendingLine::Nothing);
                self.admit(owner, &asked, false, ctx);
            }
        }
    }

    /// The line of an admission has been written, or could not be.
    pub(super) fn handle_admission_audited(
        &mut self,
        user: UserId,
        asked: &AdmissionAsked,
        written: bool,
        ctx: &mut Ctx<'_>,
    ) {
        let admitted = written && self.may_join(asked, ctx).is_ok();
        self.admit(Some(user), asked, admitted, ctx);
    }

    fn may_join(&self, asked: &AdmissionAsked, ctx: &Ctx<'_>) -> Result<UserId, Refusal> {
        let owner = ctx.access.owner(&asked.supervisor);
        let monitoring = self.users.get(&asked.supervisor).filter(|monitoring| !monitoring.is_over);
        let user = owner
            .filter(|owner| monitoring.is_none_or(|monitoring| monitoring.user == owner.id))
            .ok_or_else(|| unowned(&asked.supervisor))?;
        ctx.access.may_monitor(user, &asked.target)?;
        let hears_all = ctx
            .known
            .facts()
            .monitor(&asked.supervisor)
            .is_none_or(|monitor| !monitor.agent_side_only);
        if hears_all && ctx.access.agent_side_only(&asked.target) {
            return Err(customers_not_heard());
        }
        if self.ending.contains_key(&asked.supervisor) {
            return Err(Refusal::new(Reason::InvalidState, "The monitor is being cancelled."));
        }
        Ok(user.id.clone())
    }

    fn admit(
        &mut self,
        user: Option<UserId>,
        asked: &AdmissionAsked,
        admitted: bool,
        ctx: &mut Ctx<'_>,
    ) {
        if admitted {
            let listening = ListeningRecord {
                user: user.clone(),
                supervisor: asked.supervisor.clone(),
                target: asked.target.clone(),
                call: asked.call.clone(),
                activity: asked.activity,
                since: None,
            };
            self.listen(&asked.supervisor, Some(listening), ctx);
        }
        let command = Command::AdmitMonitoring {
            supervisor: asked.supervisor.clone(),
            call: asked.call.clone(),
            admitted,
        };
        ctx.works.command(user, command, ctx.now);
    }

    /// Ends a monitor: now, and again after every failure and every snapshot until it is gone.
    pub(super) fn end(&mut self, supervisor: &DeviceId, ctx: &mut Ctx<'_>) {
        let user = self.user_of(supervisor, ctx);
        let failures = self.ending.get(supervisor).map_or(0, |ending| ending.failures);
        let ending = Ending { failures, retry_at: None, is_accepted: false };
        self.ending.insert(supervisor.clone(), ending);
        self.keep(supervisor, ctx);
        if !ctx.known.is_ready() {
            return;
        }
        let command = Command::StopMonitoring { supervisor: supervisor.clone() };
        ctx.works.command(user, command, ctx.now);
    }

    /// The end of a monitor has been accepted: if it is still there later, that is a failure.
    pub(super) fn handle_end_accepted(&mut self, supervisor: &DeviceId, ctx: &Ctx<'_>) {
        if let Some(ending) = self.living_ending(supervisor, ctx) {
            ending.retry_in(ctx.now.mono);
            ending.is_accepted = true;
        }
    }

    fn living_ending(&mut self, supervisor: &DeviceId, ctx: &Ctx<'_>) -> Option<&mut Ending> {
        let lives = ctx.known.facts().monitor(supervisor).is_some();
        self.ending.get_mut(supervisor).filter(|_| lives)
    }

    /// A monitor could not be ended: while it is there, its end is asked for again later.
    pub(super) fn handle_end_failed(
        &mut self,
        supervisor: &DeviceId,
        refusal: Refusal,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(ending) = self.living_ending(supervisor, ctx) else {
            return;
        };
        let retry_in = ending.retry_in(ctx.now.mono);
        ctx.works.outputs.push_back(Output::EndFailed {
            supervisor: supervisor.clone(),
            refusal,
            retry_in,
        });
    }

    /// When the end of a monitor is asked for again.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.ending.values().filter_map(|ending| ending.retry_at).min()
    }

    /// Asks again for the ends that have failed.
    pub(super) fn handle_timeout(&mut self, ctx: &mut Ctx<'_>) {
        let is_due = |ending: &Ending| ending.retry_at.is_some_and(|at| at <= ctx.now.mono);
        let due = self.ending.iter().filter(|(_, ending)| is_due(ending));
        let due = due.map(|(supervisor, ending)| (supervisor.clone(), ending.is_accepted));
        for (supervisor, is_accepted) in due.collect::<Vec<_>>() {
            if is_accepted {
                let text = "The backend has accepted it, and the monitor is still there.";
                ctx.works.outputs.push_back(Output::EndFailed {
                    supervisor: supervisor.clone(),
                    refusal: Refusal::new(Reason::Internal, text),
                    retry_in: Duration::ZERO,
                });
            }
            self.end(&supervisor, ctx);
        }
    }

    /// A user's new monitor has been accepted, perhaps in the place of one that was to end.
    pub(super) fn handle_started(
        &mut self,
        supervisor: &DeviceId,
        user: Option<&UserId>,
        ctx: &mut Ctx<'_>,
    ) {
        self.ending.remove(supervisor);
        self.set_user(supervisor, user.cloned().or_else(|| ctx.owner(supervisor)), ctx);
        let known = ctx.known;
        if let Some(monitor) = known.facts().monitor(supervisor) {
            self.check_permission(monitor, ctx);
        }
    }

    /// Ends a monitor unless its end has been asked for.
    pub(super) fn end_unless_ending(&mut self, supervisor: &DeviceId, ctx: &mut Ctx<'_>) {
        if !self.ending.contains_key(supervisor) {
            self.end(supervisor, ctx);
        }
    }

    /// The audit cannot be written: every supervisor that hears a call, or is about to, hears it no
    /// more and is told why.
    pub(super) fn handle_audit_lost(&mut self, ctx: &mut Ctx<'_>) {
        let hears = |monitor: &&MonitorFact| match monitor.state {
            MonitorState::Joined { .. } | MonitorState::Inviting { .. } => true,
            MonitorState::Armed | MonitorState::Admitting { .. } => false,
        };
        let known = ctx.known;
        for MonitorFact { supervisor, .. } in known.facts().monitors().filter(hears) {
            let is_news = !self.ending.contains_key(supervisor);
            self.end(supervisor, ctx);
            let Some(user) = self.user_of(supervisor, ctx).filter(|_| is_news) else {
                continue;
            };
            let body = NoticeBody::Error {
                device: supervisor.clone(),
                refusal: Refusal::new(Reason::Internal, UNAUDITED),
            };
            ctx.works.notify(&user, Topic::Devices, body);
        }
    }

    /// After a snapshot: asks again for the ends that have not come.
    pub(super) fn handle_ready(&mut self, ctx: &mut Ctx<'_>) {
        for supervisor in self.ending.keys().cloned().collect::<Vec<_>>() {
            match ctx.known.facts().monitor(&supervisor) {
                Some(_) => self.end(&supervisor, ctx),
                None => {
                    self.ending.remove(&supervisor);
                    self.keep(&supervisor, ctx);
                }
            }
        }
    }

    /// Ends the monitors that may not go on by another directory.
    pub(super) fn handle_directory(&mut self, ctx: &mut Ctx<'_>) {
        let known = ctx.known;
        for monitor in known.facts().monitors() {
            self.check_permission(monitor, ctx);
        }
        let access = ctx.access;
        self.users
            .retain(|device, monitoring| !monitoring.is_over || access.owner(device).is_some());
    }

    /// Ends a monitor that may not go on, unless that is on its way, and tells its user why.
    pub(super) fn check_permission(&mut self, monitor: &MonitorFact, ctx: &mut Ctx<'_>) {
        let supervisor = &monitor.supervisor;
        if self.ending.contains_key(supervisor) {
            return;
        }
        let user = self.user_of(supervisor, ctx);
        let owner = ctx.access.owner(supervisor);
        let is_lost = user.as_ref() != owner.map(|owner| &owner.id);
        let Err(refusal) = may_go_on(monitor, is_lost, ctx.access) else {
            return;
        };
        if let Some(owner) = owner.filter(|_| !is_lost) {
            let body = NoticeBody::Error {
                device: supervisor.clone(),
                refusal: ctx.access.render_for(Some(owner), refusal.clone()),
            };
            ctx.works.notify(&owner.id, Topic::Devices, body);
        }
        let record = AuditRecord {
            refusal: Some(refusal),
            ..self.monitor_record(AuditEvent::Cancelled, monitor, ctx)
        };
        ctx.audit(record, PendingLine::Nothing);
        self.end(supervisor, ctx);
    }

    /// A monitor is gone; `found`: it went while the gateway or its backend was away.
    pub(super) fn handle_gone(
        &mut self,
        supervisor: &DeviceId,
        before: Option<&MonitorFact>,
        found: bool,
        ctx: &mut Ctx<'_>,
    ) {
        self.ending.remove(supervisor);
        self.handle_progress(supervisor, before, None, found, ctx);
        self.set_user(supervisor, None, ctx);
    }

    /// Closes, after a snapshot, what an earlier life or the time of absence has left open.
    pub(super) fn close_unmonitored(&mut self, ctx: &mut Ctx<'_>) {
        let closed = self
            .listening
            .keys()
            .filter(|supervisor| ctx.known.facts().monitor(supervisor).is_none());
        for supervisor in closed.cloned().collect::<Vec<_>>() {
            self.handle_progress(&supervisor, None, None, true, ctx);
        }
        let over =
            self.users.keys().filter(|supervisor| ctx.known.facts().monitor(supervisor).is_none());
        for supervisor in over.cloned().collect::<Vec<_>>() {
            self.set_user(&supervisor, None, ctx);
        }
    }

    /// Writes down joins, changes and releases; `found`: this is how it is after the gateway or its
    /// backend was away.
    pub(super) fn handle_progress(
        &mut self,
        supervisor: &DeviceId,
        before: Option<&MonitorFact>,
        after: Option<&MonitorFact>,
        found: bool,
        ctx: &mut Ctx<'_>,
    ) {
        if after.is_some() && self.users.get(supervisor).is_none_or(|known| known.is_over) {
            self.set_user(supervisor, ctx.owner(supervisor), ctx);
        }
        let was = self.listening.get(supervisor).cloned();
        let is = after.and_then(|monitor| self.listening_of(monitor, ctx));
        let stays = match (&was, &is) {
            (None, _) => false,
            (Some(was), Some(is)) if was.since.is_some() => {
                was.call == is.call && was.since == is.since
            }
            (Some(was), _) if was.since.is_some() => false,
            // Admitted to this call, and the backend is still about to bring the supervisor in.
            (Some(was), _) => after.and_then(|monitor| monitor.state.call()) == Some(&was.call),
        };
        if let (false, Some(was)) = (stays, &was) {
            audit_end(was, before, found, ctx);
        }
        let Some((monitor, is)) = after.zip(is) else {
            return self.listen(supervisor, was.filter(|_| stays), ctx);
        };
        let was = was.filter(|was| stays && was.since.is_some());
        let same_terms = before
            .is_none_or(|before| (before.mode, before.scope) == (monitor.mode, monitor.scope));
        let event = match &was {
            None if found => Some(AuditEvent::FoundJoined),
            None => Some(AuditEvent::Joined),
            Some(_) if before.is_none() => Some(AuditEvent::FoundJoined),
            Some(was) if was.activity == is.activity && same_terms => None,
            Some(_) => Some(AuditEvent::Changed),
        };
        self.listen(supervisor, Some(is), ctx);
        if let Some(event) = event {
            let supervisor = supervisor.clone();
            let record = self.monitor_record(event, monitor, ctx);
            ctx.audit(record, PendingLine::Listening { supervisor });
        }
    }

    /// What the supervisor of a monitor hears, once the supervisor is on a call.
    fn listening_of(&self, monitor: &MonitorFact, ctx: &Ctx<'_>) -> Option<ListeningRecord> {
        let (call, activity, since) = joined(monitor)?;
        Some(ListeningRecord {
            user: self.user_of(&monitor.supervisor, ctx),
            supervisor: monitor.supervisor.clone(),
            target: monitor.target.clone(),
            call: call.clone(),
            activity,
            since: Some(since),
        })
    }

    /// Remembers what a supervisor's device hears, beyond the end of this process.
    fn listen(
        &mut self,
        supervisor: &DeviceId,
        listening: Option<ListeningRecord>,
        ctx: &mut Ctx<'_>,
    ) {
        let before = match &listening {
            Some(listening) => self.listening.insert(supervisor.clone(), listening.clone()),
            None => self.listening.remove(supervisor),
        };
        if before != listening {
            ctx.works.outputs.push_back(Output::KeepHearing {
                supervisor: supervisor.clone(),
                hearing: listening,
            });
        }
    }

    /// Writes down, for each supervisor that hears a call or is about to, that a device's leg of it
    /// is with another number now. `ctx` knows the call as it was before.
    pub(super) fn handle_call(&self, call: &CallFact, ctx: &mut Ctx<'_>) {
        let before = ctx
            .known
            .facts()
            .call(&call.id)
            .map(|call| call.parties.as_slice())
            .unwrap_or_default();
        let is_news = |party: &&PartyFact| {
            party.handed_on_to.is_some() && !before.iter().any(|known| is_same_end(known, party))
        };
        let numbers =
            call.parties.iter().filter(is_news).filter_map(|party| party.handed_on_to.clone());
        let listening = self.listening.values().filter(|listening| listening.call == call.id);
        let records: Vec<AuditRecord> = listening
            .flat_map(|listening| {
                numbers.clone().map(|number| AuditRecord {
                    number: Some(number),
                    ..ctx.listening_record(AuditEvent::HandedOn, listening)
                })
            })
            .collect();
        for record in records {
            ctx.audit(record, PendingLine::Nothing);
        }
    }

    /// Writes down, for each supervisor that heard a call or was about to, that nobody has seen its
    /// end.
    pub(super) fn handle_call_lost(&mut self, call: &CallId, ctx: &mut Ctx<'_>) {
        let on_it = self.listening.values().filter(|listening| listening.call == *call);
        for was in on_it.cloned().collect::<Vec<_>>() {
            let known = ctx.known;
            audit_end(&was, known.facts().monitor(&was.supervisor), true, ctx);
            self.listen(&was.supervisor, None, ctx);
        }
    }

    /// Writes down what a failure means to a supervisor that hears a call or is about to.
    pub(super) fn handle_failure(&mut self, failure: &Failure, ctx: &mut Ctx<'_>) {
        let waits = |listening: &&ListeningRecord| {
            listening.since.is_none() && failure.call.as_ref() == Some(&listening.call)
        };
        if let Some(listening) = self.listening.get(&failure.device).filter(waits).cloned() {
            let record = AuditRecord {
                refusal: Some(failure.refusal.clone()),
                ..ctx.listening_record(AuditEvent::NotJoined, &listening)
            };
            ctx.audit(record, PendingLine::Nothing);
            self.listen(&failure.device, None, ctx);
        }
        // Only what concerns the monitored call: a failed operation of the supervisor's own is no
        // matter of the audit.
        let concerns = |monitor: &&MonitorFact| {
            joined(monitor).map(|(call, ..)| call) == failure.call.as_ref()
                && failure.call.is_some()
        };
        if let Some(monitor) = ctx.known.facts().monitor(&failure.device).filter(concerns) {
            let record = AuditRecord {
                request_id: failure.request_id.clone(),
                refusal: Some(failure.refusal.clone()),
                ..self.monitor_record(AuditEvent::Failed, monitor, ctx)
            };
            ctx.audit(record, PendingLine::Nothing);
        }
    }

    /// Writes down what the sound of a join was.
    pub(super) fn handle_sound(&self, sound: JoinSound, ctx: &mut Ctx<'_>) {
        let record = AuditRecord {
            user: self.user_of(&sound.supervisor, ctx),
            device: Some(sound.supervisor),
            target: Some(sound.target),
            call: Some(sound.call),
            since: Some(sound.since),
            sound: sound.legs,
            ..AuditRecord::new(AuditEvent::Sound, ctx.now.wall)
        };
        ctx.audit(record, PendingLine::Nothing);
    }

    /// A user ends the session: monitors by and of the user's devices end.
    pub(super) fn handle_session_end(
        &mut self,
        devices: &[DeviceId],
        asked: &RequestEnvelope,
        ctx: &mut Ctx<'_>,
    ) {
        let known = ctx.known;
        let concerned = |monitor: &&MonitorFact| {
            devices.contains(&monitor.supervisor) || devices.contains(&monitor.target)
        };
        for monitor in known.facts().monitors().filter(concerned) {
            let record = AuditRecord {
                from: Some(asked.from),
                request_id: Some(asked.request_id.clone()),
                operation: Some(asked.operation()),
                ..self.monitor_record(AuditEvent::Cancelled, monitor, ctx)
            };
            ctx.audit(record, PendingLine::Nothing);
            self.end(&monitor.supervisor, ctx);
        }
    }
}

/// The monitor's supervisor may monitor its target, and hears no more of it than is allowed.
fn may_go_on(
    monitor: &MonitorFact,
    is_lost: bool,
    access: &AccessDirectory,
) -> Result<(), Refusal> {
    let MonitorFact { supervisor, target, .. } = monitor;
    match access.owner(supervisor) {
        Some(user) if !is_lost => access.may_monitor(user, target)?,
        // No gateway starts such a monitor: a caller that may have supervisors join unasked has,
        // and answers for it.
        None if !is_lost && !monitor.confirm_joins => return Ok(()),
        Some(_) | None => return Err(unowned(supervisor)),
    }
    if access.agent_side_only(target) && !monitor.agent_side_only {
        return Err(customers_not_heard());
    }
    Ok(())
}

fn unowned(device: &DeviceId) -> Refusal {
    let text = "Device '{}' is not that of the user who monitors with it.";
    Refusal::device(Reason::NotPermitted, device, text)
}

fn customers_not_heard() -> Refusal {
    let text = "The agent's customers may not be listened to any more: ask again.";
    Refusal::new(Reason::NotPermitted, text)
}

fn audit_end(was: &ListeningRecord, before: Option<&MonitorFact>, found: bool, ctx: &mut Ctx<'_>) {
    let (event, heard) = match was.since {
        None => (AuditEvent::NotJoined, None),
        Some(_) if found => (AuditEvent::Lost, None),
        Some(since) => (
            AuditEvent::Released,
            Some(Duration::from_millis(ctx.now.wall.0.saturating_sub(since.0))),
        ),
    };
    let record = AuditRecord {
        mode: before.map(|monitor| monitor.mode),
        scope: before.map(|monitor| monitor.scope),
        heard,
        ..ctx.listening_record(event, was)
    };
    ctx.audit(record, PendingLine::Nothing);
}

/// The call that a supervisor is on, with the activity there and since when.
pub(super) fn joined(monitor: &MonitorFact) -> Option<(&CallId, Activity, Timestamp)> {
    match &monitor.state {
        MonitorState::Joined { call, activity, since } => Some((call, *activity, *since)),
        MonitorState::Armed | MonitorState::Admitting { .. } | MonitorState::Inviting { .. } => {
            None
        }
    }
}

/// The same device has left for the same number.
fn is_same_end(one: &PartyFact, other: &PartyFact) -> bool {
    (&one.device, &one.handed_on_to, one.established_at)
        == (&other.device, &other.handed_on_to, other.established_at)
}
