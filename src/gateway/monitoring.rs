//! Monitors: which supervisor may join, which monitor must end, and what the audit says of each.

use super::access::AccessDirectory;
use super::audit_record::{AuditEvent, AuditRecord, ListeningRecord};
use super::backend_facts::BackendFacts;
use super::pending::{PendingLine, PendingWorks};
use super::{Output, UNAUDITED};
use crate::model::{
    Activity, AdmissionAsked, CallFact, CallId, Command, DeviceId, Failure, JoinSound, MonitorFact,
    MonitorState, NoticeBody, Now, PartyFact, Reason, Refusal, RequestEnvelope, Timestamp, Topic,
    UserId,
};
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
    /// Admissions and joins without their last line, by supervisor's device.
    listening: BTreeMap<DeviceId, ListeningRecord>,
    /// Monitors that must end, by supervisor's device; asked for again after every failure and
    /// every snapshot until they are gone.
    ending: BTreeMap<DeviceId, Ending>,
}

/// A monitor that must end.
struct Ending {
    /// The user whose it was.
    user: Option<UserId>,
    /// So often it could not be ended.
    failures: u32,
    /// When it is asked for again; `None`: it has been asked for, or the backend is away.
    retry_at: Option<Instant>,
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

    fn monitor_record(&self, event: AuditEvent, monitor: &MonitorFact) -> AuditRecord {
        let activity = joined(monitor).map_or(monitor.activity, |(_, activity, _)| activity);
        AuditRecord {
            user: self.owner(&monitor.supervisor),
            device: Some(monitor.supervisor.clone()),
            target: Some(monitor.target.clone()),
            call: monitor.state.call().cloned(),
            activity: Some(activity),
            mode: Some(monitor.mode),
            scope: Some(monitor.scope),
            ..AuditRecord::new(event, self.now.wall)
        }
    }

    fn listening_record(&self, event: AuditEvent, listening: &ListeningRecord) -> AuditRecord {
        AuditRecord {
            user: self.owner(&listening.supervisor),
            device: Some(listening.supervisor.clone()),
            target: Some(listening.target.clone()),
            call: Some(listening.call.clone()),
            activity: Some(listening.activity),
            ..AuditRecord::new(event, self.now.wall)
        }
    }
}

impl Monitoring {
    /// The admissions and joins that an earlier life has left.
    pub(super) fn new(kept: Vec<ListeningRecord>) -> Self {
        Self {
            listening: kept.into_iter().map(|one| (one.supervisor.clone(), one)).collect(),
            ending: BTreeMap::new(),
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
        let user = owner.ok_or_else(|| unowned(&asked.supervisor))?;
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
        // Whoever has lost the device is still the user that the command is for.
        let before = self.ending.get(supervisor).and_then(|ending| ending.user.clone());
        self.end_for(before.or_else(|| ctx.owner(supervisor)), supervisor, ctx);
    }

    fn end_for(&mut self, user: Option<UserId>, supervisor: &DeviceId, ctx: &mut Ctx<'_>) {
        let failures = self.ending.get(supervisor).map_or(0, |ending| ending.failures);
        let ending = Ending { user: user.clone(), failures, retry_at: None };
        self.ending.insert(supervisor.clone(), ending);
        if !ctx.known.is_ready() {
            return;
        }
        let command = Command::StopMonitoring { supervisor: supervisor.clone() };
        ctx.works.command(user, command, ctx.now);
    }

    /// A monitor could not be ended: while it is there, its end is asked for again later.
    pub(super) fn handle_end_failed(
        &mut self,
        supervisor: &DeviceId,
        refusal: Refusal,
        ctx: &mut Ctx<'_>,
    ) {
        let lives = ctx.known.facts().monitor(supervisor).is_some();
        let Some(ending) = self.ending.get_mut(supervisor).filter(|_| lives) else {
            return;
        };
        let retry_in = FIRST_RETRY.saturating_mul(1 << ending.failures.min(5)).min(LAST_RETRY);
        ending.failures = ending.failures.saturating_add(1);
        ending.retry_at = Some(ctx.now.mono + retry_in);
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
        for supervisor in due.map(|(supervisor, _)| supervisor.clone()).collect::<Vec<_>>() {
            self.end(&supervisor, ctx);
        }
    }

    /// A new monitor has been accepted in the place of one that was to end.
    pub(super) fn handle_started(&mut self, supervisor: &DeviceId) {
        self.ending.remove(supervisor);
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
            let Some(user) = ctx.owner(supervisor).filter(|_| is_news) else {
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
        self.ending.retain(|supervisor, _| ctx.known.facts().monitor(supervisor).is_some());
        for supervisor in self.ending.keys().cloned().collect::<Vec<_>>() {
            self.end(&supervisor, ctx);
        }
    }

    /// Ends the monitors that may not go on by another directory. `lost`: the devices that were
    /// taken away, with the users that had them.
    pub(super) fn handle_directory(
        &mut self,
        lost: &BTreeMap<DeviceId, UserId>,
        ctx: &mut Ctx<'_>,
    ) {
        let known = ctx.known;
        for monitor in known.facts().monitors() {
            self.check_permission(monitor, lost.get(&monitor.supervisor), ctx);
        }
    }

    /// Ends a monitor that may not go on, unless that is on its way, and tells the device's user
    /// why. `lost_by`: the user that the device was taken from.
    pub(super) fn check_permission(
        &mut self,
        monitor: &MonitorFact,
        lost_by: Option<&UserId>,
        ctx: &mut Ctx<'_>,
    ) {
        let supervisor = &monitor.supervisor;
        if self.ending.contains_key(supervisor) {
            return;
        }
        let Err(refusal) = may_go_on(monitor, lost_by.is_some(), ctx.access) else {
            return;
        };
        if let Some(owner) = ctx.access.owner(supervisor) {
            let body = NoticeBody::Error {
                device: supervisor.clone(),
                refusal: ctx.access.render_for(Some(owner), refusal.clone()),
            };
            ctx.works.notify(&owner.id, Topic::Devices, body);
        }
        let user = lost_by.cloned().or_else(|| ctx.owner(supervisor));
        let record = AuditRecord {
            user: user.clone(),
            refusal: Some(refusal),
            ..ctx.monitor_record(AuditEvent::Cancelled, monitor)
        };
        ctx.audit(record, PendingLine::Nothing);
        self.end_for(user, supervisor, ctx);
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
        let was = self.listening.get(supervisor).cloned();
        let is = after.and_then(|monitor| {
            joined(monitor).map(|(call, activity, since)| listening(monitor, call, activity, since))
        });
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
            let record = ctx.monitor_record(event, monitor);
            ctx.audit(record, PendingLine::Listening { supervisor });
        }
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
                ..ctx.monitor_record(AuditEvent::Failed, monitor)
            };
            ctx.audit(record, PendingLine::Nothing);
        }
    }

    /// Writes down what the sound of a join was.
    pub(super) fn handle_sound(&self, sound: JoinSound, ctx: &mut Ctx<'_>) {
        let record = AuditRecord {
            user: ctx.owner(&sound.supervisor),
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
                ..ctx.monitor_record(AuditEvent::Cancelled, monitor)
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
    Refusal::device(Reason::NotPermitted, device, "Device '{}' is nobody's.")
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

fn listening(
    monitor: &MonitorFact,
    call: &CallId,
    activity: Activity,
    since: Timestamp,
) -> ListeningRecord {
    ListeningRecord {
        supervisor: monitor.supervisor.clone(),
        target: monitor.target.clone(),
        call: call.clone(),
        activity,
        since: Some(since),
    }
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
