//! Permissions, presence, views of devices and calls, audiences.
//!
//! [`Gateway`] is a quiet machine: it decides who may ask what, what each user's devices and calls look like now, and who is
//! told. It holds no call: the backend does. It can die and come back without a call noticing.
//!
//! ```text
//!  handle_request ──▶ permission ──▶ Audit ──handle_audited──▶ Command ──handle_command_result──▶ Reply
//!  handle_fact ─────▶ views compared with what was told last ─────────────────────────────────▶ Notice
//! ```

mod access;
mod audit_record;
mod call_index;
mod directory;
mod requests;
mod views;

#[cfg(feature = "io")]
pub mod task;
#[cfg(test)]
mod tests;

pub use audit_record::{AuditEvent, AuditRecord, ListeningRecord};
pub use directory::{DeviceEntry, Directory, Group, User, VoiceEnvironment};

use crate::model::{
    Activity, AdmissionAsked, AgentState, Answer, CallFact, CallId, CallNotification, CallView, Capabilities, Command, CommandContext,
    DeviceFact, DeviceId, DeviceView, Fact, Failure, LegState, MonitorFact, MonitorState, Notice, NoticeBody, Now, PartyFact, Query,
    Reason, Refusal, RequestEnvelope, RequestId, Timestamp, Topic, UserId, UserView,
};
use access::AccessDirectory;
use call_index::CallIndex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the gateway may be told about its own behaviour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// The rule of GWS: Coach cannot be returned to once left. Default: any activity to any other.
    pub one_way_coach: bool,
    /// What the monitored agent is told.
    pub notify_agent: NotifyAgent,
    /// How long the backend may take to accept a command.
    pub command_deadline: Duration,
    /// How long the audit may take to write a line before the attempt is refused.
    pub audit_deadline: Duration,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            one_way_coach: false,
            notify_agent: NotifyAgent::Event,
            command_deadline: Duration::from_secs(5),
            audit_deadline: Duration::from_secs(4),
        }
    }
}

/// What the monitored agent is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyAgent {
    /// Nothing.
    None,
    /// His call carries `supervisorMonitoringState`, and `supervisorListeningIn` in ListenIn.
    Event,
}

/// Whom a reply belongs to; chosen by whoever hands a request in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// Names a command or an audit line until its outcome is handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkId(pub u64);

/// What whoever may not listen is told.
const UNAUDITED: &str = "The audit cannot be written, so nobody may listen.";

/// What the gateway wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The answer to a request.
    Reply {
        /// Which request.
        token: Token,
        /// What to answer.
        result: Result<Answer, Refusal>,
    },
    /// To the backend; its outcome comes back through [`Gateway::handle_command_result`].
    Command {
        /// Its name.
        id: WorkId,
        /// On whose behalf.
        context: CommandContext,
        /// What to do.
        command: Command,
    },
    /// To one user's clients.
    Notice(Notice),
    /// To the audit; its outcome comes back through [`Gateway::handle_audited`].
    Audit {
        /// Its name.
        id: WorkId,
        /// The line.
        record: AuditRecord,
    },
    /// To the store: this user's presence from now on.
    Keep {
        /// Whose.
        user: UserId,
        /// His presence; `None`: no session is open.
        presence: Option<AgentState>,
    },
    /// To the store: what this supervisor's device hears from now on.
    KeepHearing {
        /// Whose.
        supervisor: DeviceId,
        /// What; `None`: nothing.
        hearing: Option<ListeningRecord>,
    },
}

/// What a gateway has kept for the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Who had a session open, and his voice state.
    pub sessions: BTreeMap<UserId, AgentState>,
    /// Who was admitted to a call or was on it.
    pub hearing: Vec<ListeningRecord>,
}

/// The audit line could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit cannot be written")]
pub struct AuditFailed;

/// Who may ask what, what each user sees, and who is told. After every `handle_*`, drain [`Gateway::poll_output`].
pub struct Gateway {
    config: GatewayConfig,
    house: AccessDirectory,
    /// Makes request ids of our own unlike those of the instance before.
    instance: String,
    backend: BackendState,
    capabilities: Capabilities,
    devices: BTreeMap<DeviceId, DeviceFact>,
    calls: CallIndex,
    /// The call that was made to ask about another, by that one.
    asking: BTreeMap<CallId, CallId>,
    monitors: BTreeMap<DeviceId, MonitorFact>,
    /// Who was admitted to a call or is on it, by supervisor's device: each gets a last line in the audit.
    hearing: BTreeMap<DeviceId, ListeningRecord>,
    /// Open sessions and their voice states.
    sessions: BTreeMap<UserId, AgentState>,
    /// Monitors that must end, by supervisor's device; asked for again after every snapshot until they are gone.
    ending: BTreeSet<DeviceId>,
    told_devices: BTreeMap<DeviceId, DeviceView>,
    told_calls: BTreeMap<(CallId, DeviceId), CallView>,
    /// All the backend knows has been known once. Before that nobody is told anything: it would not be news.
    met: bool,
    /// Somebody has asked before that, and was told what was not known yet.
    presumed: bool,
    works: BTreeMap<WorkId, (Instant, PendingWork)>,
    next_work: u64,
    /// Which channel late failures of recent requests go to, oldest first.
    topics: VecDeque<(RequestId, Topic)>,
    outputs: VecDeque<Output>,
}

/// How much of the backend is known.
enum BackendState {
    /// It cannot be reached; what was known last still answers reads.
    Away,
    /// It is telling all it knows; what is left in here at the end is gone.
    Reading {
        devices: BTreeSet<DeviceId>,
        calls: BTreeSet<CallId>,
        monitors: BTreeSet<DeviceId>,
    },
    /// All it knows is known.
    Here,
}

/// What waits for an outcome.
enum PendingWork {
    /// A permitted request waits for its audit line.
    Attempt { token: Token, errand: PendingCommand },
    /// A refused request waits for its audit line, for order's sake only.
    Refused { token: Token, refusal: Refusal },
    /// A join waits for its audit line.
    Admission { user: UserId, asked: AdmissionAsked },
    /// Somebody hears a call: if this line cannot be written, he stops.
    Hearing { supervisor: DeviceId },
    /// The line changes nothing.
    Line,
    /// A command of a request waits for the backend.
    Asked { token: Token, errand: PendingCommand },
    /// A command of our own waits for the backend.
    Own,
}

/// A command with what is needed around it.
#[derive(Clone)]
struct PendingCommand {
    context: CommandContext,
    command: Command,
    record: AuditRecord,
    audited: Audited,
    /// Digits were sent: the leg's user is told.
    digits_on: Option<(CallId, DeviceId)>,
}

/// When the audit line of a permitted request is written.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Audited {
    /// Not at all.
    Never,
    /// Beside the command: what ends listening waits for nothing.
    Beside,
    /// Before the command.
    Before,
}

impl Gateway {
    /// A gateway that knows its directory and what was kept; `instance` is unlike that of any gateway before it.
    pub fn new(config: GatewayConfig, directory: Arc<Directory>, kept: Restored, instance: &str) -> Self {
        let mut gateway = Self {
            config,
            house: AccessDirectory::new(directory),
            instance: instance.to_owned(),
            backend: BackendState::Away,
            capabilities: Capabilities::default(),
            devices: BTreeMap::new(),
            calls: CallIndex::default(),
            monitors: BTreeMap::new(),
            hearing: kept.hearing.into_iter().map(|one| (one.supervisor.clone(), one)).collect(),
            sessions: kept.sessions,
            ending: BTreeSet::new(),
            told_devices: BTreeMap::new(),
            told_calls: BTreeMap::new(),
            asking: BTreeMap::new(),
            met: false,
            presumed: false,
            works: BTreeMap::new(),
            next_work: 0,
            topics: VecDeque::new(),
            outputs: VecDeque::new(),
        };
        let devices: Vec<_> = gateway.house.devices().map(|entry| entry.id.clone()).collect();
        for device in devices {
            gateway.device_news(&device);
        }
        gateway
    }

    /// Takes a request; its [`Output::Reply`] comes when the backend has accepted or refused it.
    pub fn handle_request(&mut self, token: Token, asked: &RequestEnvelope, now: Now) {
        match self.decide(asked, now) {
            Ok(Decision::Done) => self.reply(token, Ok(Answer::Accepted)),
            Ok(Decision::Errand(errand)) => self.begin(token, *errand, now),
            Err(refusal) => self.refuse(token, asked, refusal, now),
        }
    }

    /// Takes what the backend can do; views offer no more.
    pub fn handle_capabilities(&mut self, capabilities: Capabilities, now: Now) {
        if self.capabilities == capabilities {
            return;
        }
        self.capabilities = capabilities;
        if !self.is_ready() {
            // Until all is known, what is offered would be told of devices as they were.
            return;
        }
        self.tell_everybody(now);
    }

    fn tell_everybody(&mut self, now: Now) {
        let devices: Vec<_> = self.house.devices().map(|entry| entry.id.clone()).collect();
        devices.iter().for_each(|device| self.tell_device(device));
        let calls: Vec<_> = self.calls.ids().cloned().collect();
        calls.iter().for_each(|call| self.tell_call(call, now));
    }

    /// Takes a fact.
    pub fn handle_fact(&mut self, fact: Fact, now: Now) {
        match fact {
            Fact::Device(device) => self.device(device),
            Fact::Call(call) => self.call(call, now),
            Fact::Monitor(monitor) => self.monitor(monitor, now),
            Fact::MonitorGone { supervisor } => self.monitor_gone(&supervisor, false, now),
            Fact::AdmissionAsked(asked) => self.admission(asked, now),
            Fact::Failed(failure) => self.failed(failure, now),
            Fact::SnapshotBegin => {
                self.backend = BackendState::Reading {
                    devices: self.devices.keys().cloned().collect(),
                    calls: self.calls.ids().cloned().collect(),
                    monitors: self.monitors.keys().cloned().collect(),
                };
            }
            Fact::SnapshotComplete => self.snapshot_complete(now),
            Fact::Lost => self.backend = BackendState::Away,
        }
    }

    /// Takes the outcome of an audit line.
    pub fn handle_audited(&mut self, id: WorkId, written: Result<(), AuditFailed>, now: Now) {
        let Some((_, work)) = self.works.remove(&id) else { return };
        if written.is_err() {
            self.handle_audit_lost(now);
        }
        match (work, written) {
            (PendingWork::Attempt { token, errand }, Ok(())) => self.send(token, errand, now),
            (PendingWork::Attempt { token, .. }, Err(AuditFailed)) => {
                let refusal = Refusal::new(Reason::Internal, UNAUDITED);
                self.reply(token, Err(refusal));
            }
            (PendingWork::Refused { token, refusal }, Ok(()) | Err(AuditFailed)) => self.reply(token, Err(refusal)),
            (PendingWork::Admission { user, asked }, Ok(())) => {
                let admitted = self.may_join(&asked).is_ok();
                self.admit(user, &asked, admitted, now);
            }
            (PendingWork::Admission { user, asked }, Err(AuditFailed)) => self.admit(user, &asked, false, now),
            (PendingWork::Hearing { .. }, Ok(())) => {}
            (PendingWork::Hearing { supervisor }, Err(AuditFailed)) => {
                if !self.ending.contains(&supervisor) {
                    self.end_monitor(&supervisor, now);
                }
            }
            (PendingWork::Line, Ok(()) | Err(AuditFailed)) => {}
            (work @ (PendingWork::Asked { .. } | PendingWork::Own), _) => {
                self.works.insert(id, (now.mono + self.config.command_deadline, work));
            }
        }
    }

    /// Somebody hears a call: the audit must be able to say so.
    pub fn is_anybody_heard(&self) -> bool {
        self.monitors.values().any(|monitor| joined(monitor).is_some())
    }

    /// The audit cannot be written: who hears a call, or is about to, hears it no more and is told why. Asked for at every failure until
    /// he is gone.
    pub fn handle_audit_lost(&mut self, now: Now) {
        let hears = |monitor: &&MonitorFact| match monitor.state {
            MonitorState::Joined { .. } | MonitorState::Inviting { .. } => true,
            MonitorState::Armed | MonitorState::Admitting { .. } => false,
        };
        let hearing = self.monitors.values().filter(hears).map(|monitor| monitor.supervisor.clone());
        for supervisor in hearing.collect::<Vec<_>>() {
            let is_news = !self.ending.contains(&supervisor);
            self.end_monitor(&supervisor, now);
            let owner = self.house.owner(&supervisor).filter(|_| is_news);
            let Some(user) = owner.map(|user| user.id.clone()) else { continue };
            let body = NoticeBody::Error {
                device: supervisor,
                refusal: Refusal::new(Reason::Internal, UNAUDITED),
            };
            self.outputs.push_back(Output::Notice(notice(&user, Topic::Devices, body)));
        }
    }

    /// Takes the backend's answer to a command.
    pub fn handle_command_result(&mut self, id: WorkId, result: Result<(), Refusal>, now: Now) {
        let Some((_, work)) = self.works.remove(&id) else { return };
        let PendingWork::Asked { token, errand } = work else { return };
        match result {
            Ok(()) => {
                self.reply(token, Ok(Answer::Accepted));
                if let Command::StartMonitoring { supervisor, .. } = &errand.command {
                    self.ending.remove(supervisor);
                }
                if let Some(leg) = &errand.digits_on {
                    self.tell_digits(leg, now);
                }
            }
            Err(refusal) => {
                if errand.audited != Audited::Never {
                    let record = AuditRecord {
                        at: now.wall,
                        event: AuditEvent::Refused,
                        refusal: Some(refusal.clone()),
                        ..errand.record
                    };
                    self.audit(record, PendingWork::Line, now);
                }
                let user = self.house.user(&errand.context.user).ok();
                let refusal = self.house.render_for(user, refusal);
                self.reply(token, Err(refusal));
            }
        }
    }

    /// When to call [`Gateway::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.works.values().map(|(deadline, _)| *deadline).min()
    }

    /// Gives up on outcomes that did not come in time.
    pub fn handle_timeout(&mut self, now: Now) {
        let late: Vec<_> = self
            .works
            .iter()
            .filter(|(_, (deadline, _))| *deadline <= now.mono)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            match self.works.get(&id) {
                Some((_, PendingWork::Asked { .. } | PendingWork::Own)) => {
                    let refusal = Refusal::new(Reason::Unavailable, "The telephony backend did not answer in time.");
                    self.handle_command_result(id, Err(refusal), now);
                }
                Some(_) => self.handle_audited(id, Err(AuditFailed), now),
                None => {}
            }
        }
    }

    /// What is to be done next, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Answers a read: also while the backend is away, with what was known last.
    ///
    /// # Errors
    /// `NotFound` for what is not his to see, `NotAuthenticated` for somebody who is not in the directory.
    pub fn read(&self, user: &UserId, query: &Query, now: Timestamp) -> Result<Answer, Refusal> {
        let user = self.house.user(user)?;
        match query {
            Query::Me => Ok(Answer::User(self.user_view(user))),
            Query::MyDevices => Ok(Answer::Devices(self.own_views(user))),
            Query::MyDevice(device) if user.devices.contains(device) => self.device_view(device).map(Answer::Device),
            Query::MyDevice(device) => Err(Refusal::not_found(format_args!("/me/devices/{device}"))),
            Query::MyCalls => {
                let calls = self.own_calls(user, now).into_iter();
                Ok(Answer::Calls(calls.map(|view| self.measured(view)).collect()))
            }
            Query::MyCall(call) => {
                let view = self.calls.get(call).and_then(|fact| self.live_leg(user, fact));
                view.map(|view| Answer::Call(self.measured(views::timed(view, now))))
                    .ok_or_else(|| Refusal::not_found(format_args!("/me/calls/{call}")))
            }
            Query::Device(device) if self.house.may_know(user, device) => self.view_for(user, device).map(Answer::Device),
            Query::Device(device) => Err(Refusal::no_device(device)),
            Query::Devices(number) => Ok(Answer::Devices(
                self.house
                    .devices()
                    .filter(|entry| number.as_ref().is_none_or(|number| *number == entry.number))
                    .filter(|entry| self.house.may_monitor(user, &entry.id).is_ok())
                    .filter_map(|entry| self.view_for(user, &entry.id).ok())
                    .collect(),
            )),
        }
    }

    /// What the user would be told if everything happened again: himself, each of his devices and each of his calls as they are,
    /// for a new subscription.
    pub fn states(&mut self, user: &UserId, now: Timestamp) -> Vec<Notice> {
        self.presumed |= !self.met;
        let Ok(user) = self.house.user(user) else { return Vec::new() };
        let himself = self.user_view(user);
        let himself = [Topic::Me, Topic::Channels].map(|topic| (topic, NoticeBody::UserStateChange(himself.clone())));
        let devices = self.own_views(user).into_iter();
        let devices = devices.map(|view| (Topic::Devices, NoticeBody::DeviceStateChange(vec![view])));
        let calls = self.own_calls(user, now).into_iter().map(|call| {
            let notification = CallNotification::StatusChange;
            (Topic::Calls, NoticeBody::CallStateChange { notification, call })
        });
        let all = himself.into_iter().chain(devices).chain(calls);
        all.map(|(topic, body)| notice(&user.id, topic, body)).collect()
    }

    /// All the backend knows has been known once.
    pub fn has_met(&self) -> bool {
        self.met
    }

    /// The backend can be reached and all it knows is known.
    pub fn is_ready(&self) -> bool {
        matches!(self.backend, BackendState::Here)
    }
}

/// What becomes of a permitted request.
enum Decision {
    /// Done already.
    Done,
    /// The backend is to do it.
    Errand(Box<PendingCommand>),
}

fn notice(user: &UserId, topic: Topic, body: NoticeBody) -> Notice {
    Notice {
        user: user.clone(),
        topic,
        body,
    }
}

/// Requests on their way.
impl Gateway {
    fn begin(&mut self, token: Token, errand: PendingCommand, now: Now) {
        match errand.audited {
            Audited::Never => self.send(token, errand, now),
            Audited::Beside => {
                self.audit(errand.record.clone(), PendingWork::Line, now);
                self.send(token, errand, now);
            }
            Audited::Before => self.audit(errand.record.clone(), PendingWork::Attempt { token, errand }, now),
        }
    }

    fn send(&mut self, token: Token, errand: PendingCommand, now: Now) {
        let topic = match errand.record.call {
            Some(_) => Topic::Calls,
            None => Topic::Devices,
        };
        self.topics.push_back((errand.context.request_id.clone(), topic));
        if self.topics.len() > RECENT_REQUESTS {
            self.topics.pop_front();
        }
        let (context, command) = (errand.context.clone(), errand.command.clone());
        let id = self.wait(PendingWork::Asked { token, errand }, self.config.command_deadline, now);
        self.outputs.push_back(Output::Command { id, context, command });
    }

    fn refuse(&mut self, token: Token, asked: &RequestEnvelope, refusal: Refusal, now: Now) {
        if !requests::refusal_is_audited(&asked.request, refusal.reason) {
            return self.reply(token, Err(refusal));
        }
        let record = AuditRecord {
            refusal: Some(refusal.clone()),
            ..self.refused_record(asked, now)
        };
        self.audit(record, PendingWork::Refused { token, refusal }, now);
    }

    fn reply(&mut self, token: Token, result: Result<Answer, Refusal>) {
        self.outputs.push_back(Output::Reply { token, result });
    }

    fn audit(&mut self, record: AuditRecord, work: PendingWork, now: Now) {
        let id = self.wait(work, self.config.audit_deadline, now);
        self.outputs.push_back(Output::Audit { id, record });
    }

    fn wait(&mut self, work: PendingWork, deadline: Duration, now: Now) -> WorkId {
        let id = WorkId(self.next_work);
        self.next_work += 1;
        self.works.insert(id, (now.mono + deadline, work));
        id
    }

    /// A command that nobody waits for.
    fn command(&mut self, user: UserId, command: Command, now: Now) {
        let id = self.wait(PendingWork::Own, self.config.command_deadline, now);
        let context = CommandContext {
            request_id: RequestId::from(format!("gateway-{}-{}", self.instance, id.0)),
            user,
            deadline: self.config.command_deadline,
        };
        self.outputs.push_back(Output::Command { id, context, command });
    }
}

/// Enough for the failures that come seconds after their request.
const RECENT_REQUESTS: usize = 4096;

/// Monitors: who may go on.
impl Gateway {
    fn admission(&mut self, asked: AdmissionAsked, now: Now) {
        let owner = self.house.owner(&asked.supervisor).map(|user| user.id.clone());
        let record = AuditRecord {
            user: owner.clone(),
            device: Some(asked.supervisor.clone()),
            target: Some(asked.target.clone()),
            call: Some(asked.call.clone()),
            activity: Some(asked.activity),
            ..AuditRecord::new(AuditEvent::Admitted, now.wall)
        };
        match self.may_join(&asked) {
            Ok(user) => self.audit(record, PendingWork::Admission { user, asked }, now),
            Err(refusal) => {
                let record = AuditRecord {
                    event: AuditEvent::NotAdmitted,
                    refusal: Some(refusal),
                    ..record
                };
                self.audit(record, PendingWork::Line, now);
                let user = owner.unwrap_or_else(|| UserId::from(""));
                self.admit(user, &asked, false, now);
            }
        }
    }

    fn may_join(&self, asked: &AdmissionAsked) -> Result<UserId, Refusal> {
        let stranger = || Refusal::device(Reason::NotPermitted, &asked.supervisor, "Device '{}' is nobody's.");
        let user = self.house.owner(&asked.supervisor).ok_or_else(stranger)?;
        self.may_monitor_target(user, &asked.target)?;
        let hears_all = self.monitors.get(&asked.supervisor).is_none_or(|monitor| !monitor.agent_side_only);
        if hears_all && self.house.agent_side_only(&asked.target) {
            let message = "The agent's customers may not be listened to any more: ask again.";
            return Err(Refusal::new(Reason::NotPermitted, message));
        }
        if self.ending.contains(&asked.supervisor) {
            return Err(Refusal::new(Reason::InvalidState, "The monitor is being cancelled."));
        }
        Ok(user.id.clone())
    }

    fn admit(&mut self, user: UserId, asked: &AdmissionAsked, admitted: bool, now: Now) {
        if admitted {
            self.hear(
                &asked.supervisor,
                Some(ListeningRecord {
                    supervisor: asked.supervisor.clone(),
                    target: asked.target.clone(),
                    call: asked.call.clone(),
                    activity: asked.activity,
                    since: None,
                }),
            );
        }
        let command = Command::AdmitMonitoring {
            supervisor: asked.supervisor.clone(),
            call: asked.call.clone(),
            admitted,
        };
        self.command(user, command, now);
    }

    fn end_monitor(&mut self, supervisor: &DeviceId, now: Now) {
        self.ending.insert(supervisor.clone());
        if !self.is_ready() {
            return;
        }
        let user = self
            .house
            .owner(supervisor)
            .map_or_else(|| UserId::from(""), |user| user.id.clone());
        let command = Command::StopMonitoring {
            supervisor: supervisor.clone(),
        };
        self.command(user, command, now);
    }

    fn monitor(&mut self, monitor: MonitorFact, now: Now) {
        let supervisor = monitor.supervisor.clone();
        let found = match &mut self.backend {
            BackendState::Reading { monitors, .. } => {
                monitors.remove(&supervisor);
                true
            }
            BackendState::Away | BackendState::Here => false,
        };
        let before = self.monitors.insert(supervisor.clone(), monitor.clone());
        self.audit_progress(&supervisor, before.as_ref(), Some(&monitor), found, now);
        self.tell_device(&supervisor);
        let Some(user) = self.house.owner(&supervisor) else { return };
        let permitted = self.may_monitor_target(user, &monitor.target);
        if let (Err(refusal), false) = (permitted, self.ending.contains(&supervisor)) {
            let record = AuditRecord {
                refusal: Some(refusal),
                ..self.monitor_record(AuditEvent::Cancelled, &monitor, now)
            };
            self.audit(record, PendingWork::Line, now);
            self.end_monitor(&supervisor, now);
        }
    }

    fn monitor_gone(&mut self, supervisor: &DeviceId, found: bool, now: Now) {
        self.ending.remove(supervisor);
        if let BackendState::Reading { monitors, .. } = &mut self.backend {
            monitors.remove(supervisor);
        }
        let before = self.monitors.remove(supervisor);
        self.audit_progress(supervisor, before.as_ref(), None, found, now);
        if before.is_some() {
            self.tell_device(supervisor);
        }
    }

    /// Writes down joins, changes and releases; `found`: this is how it is after the gateway or its backend was away.
    fn audit_progress(&mut self, supervisor: &DeviceId, before: Option<&MonitorFact>, after: Option<&MonitorFact>, found: bool, now: Now) {
        let was = self.hearing.get(supervisor).cloned();
        let is = after.and_then(|monitor| joined(monitor).map(|(call, activity, since)| hearing(monitor, call, activity, since)));
        let stays = match (&was, &is) {
            (None, _) => false,
            (Some(was), Some(is)) if was.since.is_some() => was.call == is.call && was.since == is.since,
            (Some(was), _) if was.since.is_some() => false,
            // Admitted to this call, and the backend is still about to bring him in.
            (Some(was), _) => after.and_then(|monitor| monitor.state.call()) == Some(&was.call),
        };
        if let (false, Some(was)) = (stays, &was) {
            self.audit_end(was, before, found, now);
        }
        let Some((monitor, is)) = after.zip(is) else {
            return self.hear(supervisor, was.filter(|_| stays));
        };
        let was = was.filter(|was| stays && was.since.is_some());
        let same_terms = before.is_none_or(|before| (before.mode, before.scope) == (monitor.mode, monitor.scope));
        let event = match &was {
            None if found => Some(AuditEvent::FoundJoined),
            None => Some(AuditEvent::Joined),
            Some(_) if before.is_none() => Some(AuditEvent::FoundJoined),
            Some(was) if was.activity == is.activity && same_terms => None,
            Some(_) => Some(AuditEvent::Changed),
        };
        self.hear(supervisor, Some(is));
        if let Some(event) = event {
            let supervisor = supervisor.clone();
            let record = self.monitor_record(event, monitor, now);
            self.audit(record, PendingWork::Hearing { supervisor }, now);
        }
    }

    fn audit_end(&mut self, was: &ListeningRecord, before: Option<&MonitorFact>, found: bool, now: Now) {
        let (event, heard) = match was.since {
            None => (AuditEvent::NotJoined, None),
            Some(_) if found => (AuditEvent::Lost, None),
            Some(since) => (
                AuditEvent::Released,
                Some(Duration::from_millis(now.wall.0.saturating_sub(since.0))),
            ),
        };
        let record = AuditRecord {
            mode: before.map(|monitor| monitor.mode),
            scope: before.map(|monitor| monitor.scope),
            heard,
            ..self.hearing_record(event, was, now)
        };
        self.audit(record, PendingWork::Line, now);
    }

    fn hearing_record(&self, event: AuditEvent, hearing: &ListeningRecord, now: Now) -> AuditRecord {
        AuditRecord {
            user: self.house.owner(&hearing.supervisor).map(|user| user.id.clone()),
            device: Some(hearing.supervisor.clone()),
            target: Some(hearing.target.clone()),
            call: Some(hearing.call.clone()),
            activity: Some(hearing.activity),
            ..AuditRecord::new(event, now.wall)
        }
    }

    /// Remembers what a supervisor's device hears, beyond the end of this process.
    fn hear(&mut self, supervisor: &DeviceId, hearing: Option<ListeningRecord>) {
        let before = match &hearing {
            Some(hearing) => self.hearing.insert(supervisor.clone(), hearing.clone()),
            None => self.hearing.remove(supervisor),
        };
        if before != hearing {
            self.outputs.push_back(Output::KeepHearing {
                supervisor: supervisor.clone(),
                hearing,
            });
        }
    }

    fn monitor_record(&self, event: AuditEvent, monitor: &MonitorFact, now: Now) -> AuditRecord {
        let activity = joined(monitor).map_or(monitor.activity, |(_, activity, _)| activity);
        AuditRecord {
            user: self.house.owner(&monitor.supervisor).map(|user| user.id.clone()),
            device: Some(monitor.supervisor.clone()),
            target: Some(monitor.target.clone()),
            call: monitor.state.call().cloned(),
            activity: Some(activity),
            mode: Some(monitor.mode),
            scope: Some(monitor.scope),
            ..AuditRecord::new(event, now.wall)
        }
    }

    fn end_session(&mut self, asked: &RequestEnvelope, now: Now) {
        let Ok(user) = self.house.user(&asked.user) else { return };
        let own = user.devices.clone();
        let concerned: Vec<_> = self
            .monitors
            .values()
            .filter(|monitor| own.contains(&monitor.supervisor) || own.contains(&monitor.target))
            .cloned()
            .collect();
        for monitor in concerned {
            let record = AuditRecord {
                from: Some(asked.from),
                request_id: Some(asked.request_id.clone()),
                operation: Some(requests::operation(&asked.request)),
                ..self.monitor_record(AuditEvent::Cancelled, &monitor, now)
            };
            self.audit(record, PendingWork::Line, now);
            self.end_monitor(&monitor.supervisor, now);
        }
        self.set_presence(&asked.user, None);
    }
}

fn hearing(monitor: &MonitorFact, call: &CallId, activity: Activity, since: Timestamp) -> ListeningRecord {
    ListeningRecord {
        supervisor: monitor.supervisor.clone(),
        target: monitor.target.clone(),
        call: call.clone(),
        activity,
        since: Some(since),
    }
}

fn joined(monitor: &MonitorFact) -> Option<(&CallId, Activity, Timestamp)> {
    match &monitor.state {
        MonitorState::Joined { call, activity, since } => Some((call, *activity, *since)),
        MonitorState::Armed | MonitorState::Admitting { .. } | MonitorState::Inviting { .. } => None,
    }
}

/// The same device has left for the same number.
fn is_same_end(one: &PartyFact, other: &PartyFact) -> bool {
    (&one.device, &one.handed_on_to, one.established_at) == (&other.device, &other.handed_on_to, other.established_at)
}

/// Facts, and who is told of them.
impl Gateway {
    fn device(&mut self, device: DeviceFact) {
        if let BackendState::Reading { devices, .. } = &mut self.backend {
            devices.remove(&device.id);
        }
        let id = device.id.clone();
        self.devices.insert(id.clone(), device);
        self.tell_device(&id);
    }

    fn call(&mut self, call: CallFact, now: Now) {
        if let BackendState::Reading { calls, .. } = &mut self.backend {
            calls.remove(&call.id);
        }
        let id = call.id.clone();
        let over = call.is_over();
        let parent = call.parent.clone().filter(|_| !over);
        self.audit_handed_on(&call, now);
        let before = self.calls.insert(call).and_then(|call| call.parent);
        if let Some(parent) = &parent {
            self.asking.insert(parent.clone(), id.clone());
        }
        if before != parent {
            before.iter().for_each(|parent| self.asked_no_more(parent, &id));
        }
        self.tell_call(&id, now);
        // What may be asked about that one depends on this one.
        for related in before.iter().chain(&parent).collect::<BTreeSet<_>>() {
            self.tell_call(related, now);
        }
        if over {
            self.calls.remove(&id);
        }
    }

    /// Writes down, for each supervisor who hears a call or is about to, that a device's leg of it is with another number now.
    fn audit_handed_on(&mut self, call: &CallFact, now: Now) {
        let before = self.calls.get(&call.id).map(|call| call.parties.as_slice()).unwrap_or_default();
        let is_news = |party: &&PartyFact| party.handed_on_to.is_some() && !before.iter().any(|known| is_same_end(known, party));
        let numbers = call.parties.iter().filter(is_news).filter_map(|party| party.handed_on_to.clone());
        let hearing = self.hearing.values().filter(|hearing| hearing.call == call.id);
        let records: Vec<AuditRecord> = hearing
            .flat_map(|hearing| {
                numbers.clone().map(|number| AuditRecord {
                    number: Some(number),
                    ..self.hearing_record(AuditEvent::HandedOn, hearing, now)
                })
            })
            .collect();
        for record in records {
            self.audit(record, PendingWork::Line, now);
        }
    }

    fn asked_no_more(&mut self, parent: &CallId, by: &CallId) {
        if self.asking.get(parent) == Some(by) {
            self.asking.remove(parent);
        }
    }

    fn failed(&mut self, failure: Failure, now: Now) {
        let waits = |hearing: &&ListeningRecord| hearing.since.is_none() && failure.call.as_ref() == Some(&hearing.call);
        if let Some(hearing) = self.hearing.get(&failure.device).filter(waits).cloned() {
            let record = AuditRecord {
                refusal: Some(failure.refusal.clone()),
                ..self.hearing_record(AuditEvent::NotJoined, &hearing, now)
            };
            self.audit(record, PendingWork::Line, now);
            self.hear(&failure.device, None);
        }
        let monitor = self.monitors.get(&failure.device);
        // Only what concerns the call that he monitors: an operation of his own is told to him, and no matter of the audit.
        if let Some(monitor) =
            monitor.filter(|monitor| joined(monitor).map(|(call, ..)| call) == failure.call.as_ref() && failure.call.is_some())
        {
            let record = AuditRecord {
                request_id: failure.request_id.clone(),
                refusal: Some(failure.refusal.clone()),
                ..self.monitor_record(AuditEvent::Failed, monitor, now)
            };
            self.audit(record, PendingWork::Line, now);
        }
        let Some(user) = self.house.owner(&failure.device) else { return };
        let asked_for = failure
            .request_id
            .as_ref()
            .and_then(|request| self.topics.iter().rev().find(|(id, _)| id == request));
        let topic = match asked_for {
            Some((_, topic)) => *topic,
            None if failure.call.is_some() && !self.monitors.contains_key(&failure.device) => Topic::Calls,
            None => Topic::Devices,
        };
        let body = NoticeBody::Error {
            device: failure.device,
            refusal: self.house.render_for(Some(user), failure.refusal),
        };
        let error = notice(&user.id, topic, body);
        self.outputs.push_back(Output::Notice(error));
    }

    fn snapshot_complete(&mut self, now: Now) {
        // A line that resumes says "complete" without having begun: what was known is true again.
        if let BackendState::Reading { devices, calls, monitors } = std::mem::replace(&mut self.backend, BackendState::Here) {
            for device in devices {
                self.devices.remove(&device);
                self.tell_device(&device);
            }
            for supervisor in monitors {
                self.monitor_gone(&supervisor, true, now);
            }
            let closed = self.hearing.keys().filter(|supervisor| !self.monitors.contains_key(*supervisor));
            for supervisor in closed.cloned().collect::<Vec<_>>() {
                self.audit_progress(&supervisor, None, None, true, now);
            }
            for call in calls {
                let parent = self.calls.remove(&call).and_then(|call| call.parent);
                parent.iter().for_each(|parent| self.asked_no_more(parent, &call));
                self.tell_call(&call, now);
                parent.iter().for_each(|parent| self.tell_call(parent, now));
            }
        }
        let told = self.outputs.len();
        let is_first = !std::mem::replace(&mut self.met, true);
        self.tell_everybody(now);
        if is_first && !self.presumed {
            // How things are is no news to those who were told by an earlier life, and the others ask.
            self.outputs.truncate(told);
        }
        self.ending.retain(|supervisor| self.monitors.contains_key(supervisor));
        for supervisor in self.ending.clone() {
            self.end_monitor(&supervisor, now);
        }
    }

    /// Tells a device's user how it is now, if that is news to him.
    fn tell_device(&mut self, device: &DeviceId) {
        if !self.met {
            return;
        }
        let Some((user, view)) = self.device_news(device) else { return };
        let body = NoticeBody::DeviceStateChange(vec![view]);
        self.outputs.push_back(Output::Notice(notice(&user, Topic::Devices, body)));
    }

    fn device_news(&mut self, device: &DeviceId) -> Option<(UserId, DeviceView)> {
        let view = self.device_view(device).ok()?;
        if self.told_devices.get(device) == Some(&view) {
            return None;
        }
        self.told_devices.insert(device.clone(), view.clone());
        let owner = self.house.owner(device)?;
        Some((owner.id.clone(), view))
    }

    /// Tells each user with a leg of the call how his leg is now, if that is news to him.
    fn tell_call(&mut self, id: &CallId, now: Now) {
        if !self.met {
            return;
        }
        let mut legs: BTreeMap<DeviceId, CallView> = self.calls.get(id).map(|call| self.legs(call)).unwrap_or_default();
        let first = (id.clone(), DeviceId::from(""));
        let told: Vec<_> = self
            .told_calls
            .range(first..)
            .take_while(|((call, _), _)| call == id)
            .map(|((_, device), view)| (device.clone(), view.clone()))
            .collect();
        for (device, view) in told {
            let now = legs.get(&device);
            if now.is_none_or(|leg| leg.state == LegState::Released) {
                let handed_on_to = now.and_then(|leg| leg.handed_on_to.clone());
                legs.insert(device, views::released(view, handed_on_to));
            }
        }
        for (device, leg) in legs {
            self.tell_leg(id, device, leg, now);
        }
    }

    fn tell_leg(&mut self, id: &CallId, device: DeviceId, leg: CallView, now: Now) {
        let key = (id.clone(), device);
        let before = self.told_calls.get(&key);
        let left = leg.state == LegState::Released;
        let notification = match before {
            None if left => return,
            None => CallNotification::StatusChange,
            Some(before) if *before == leg => return,
            Some(before) => what_changed(before, &leg),
        };
        match left {
            true => self.told_calls.remove(&key),
            false => self.told_calls.insert(key.clone(), leg.clone()),
        };
        self.tell_user_of_leg(&key.1, notification, leg, now);
    }

    fn tell_digits(&mut self, (call, device): &(CallId, DeviceId), now: Now) {
        if let Some(leg) = self.told_calls.get(&(call.clone(), device.clone())).cloned() {
            self.tell_user_of_leg(device, CallNotification::DtmfSent, leg, now);
        }
    }

    fn tell_user_of_leg(&mut self, device: &DeviceId, notification: CallNotification, leg: CallView, now: Now) {
        let Some(user) = self.house.owner(device) else { return };
        let body = NoticeBody::CallStateChange {
            notification,
            call: views::timed(leg, now.wall),
        };
        let news = notice(&user.id, Topic::Calls, body);
        self.outputs.push_back(Output::Notice(news));
    }

    fn set_presence(&mut self, user: &UserId, presence: Option<AgentState>) {
        let before = match presence {
            Some(state) => self.sessions.insert(user.clone(), state),
            None => self.sessions.remove(user),
        };
        if before == presence {
            return;
        }
        self.outputs.push_back(Output::Keep {
            user: user.clone(),
            presence,
        });
        let Ok(user) = self.house.user(user) else { return };
        let (id, devices, view) = (user.id.clone(), user.devices.clone(), self.user_view(user));
        for topic in [Topic::Me, Topic::Channels] {
            self.outputs
                .push_back(Output::Notice(notice(&id, topic, NoticeBody::UserStateChange(view.clone()))));
        }
        let news: Vec<_> = devices
            .iter()
            .filter_map(|device| self.device_news(device).map(|(_, view)| view))
            .collect();
        if !news.is_empty() {
            self.outputs
                .push_back(Output::Notice(notice(&id, Topic::Devices, NoticeBody::DeviceStateChange(news))));
        }
    }
}

fn what_changed(before: &CallView, after: &CallView) -> CallNotification {
    let same_but_muted = CallView {
        monitored_user_muted: after.monitored_user_muted,
        capabilities: after.capabilities.clone(),
        ..before.clone()
    };
    if before.monitored_user_muted != after.monitored_user_muted && same_but_muted == *after {
        CallNotification::MonitoredUserMutedStateChange
    } else if before.state == after.state && before.participants != after.participants {
        CallNotification::ParticipantsUpdated
    } else {
        CallNotification::StatusChange
    }
}

/// Views.
impl Gateway {
    fn device_view(&self, device: &DeviceId) -> Result<DeviceView, Refusal> {
        let entry = self.house.device(device).ok_or_else(|| Refusal::no_device(device))?;
        let owner = self.house.owner(device);
        let state = owner
            .and_then(|owner| self.sessions.get(&owner.id))
            .copied()
            .unwrap_or(AgentState::Offline);
        Ok(views::device(
            entry,
            owner,
            self.devices.get(device),
            self.monitors.get(device),
            state,
            &self.capabilities,
        ))
    }

    fn view_for(&self, user: &User, device: &DeviceId) -> Result<DeviceView, Refusal> {
        let view = self.device_view(device)?;
        Ok(if user.devices.contains(device) {
            view
        } else {
            views::of_another(view)
        })
    }

    fn own_views(&self, user: &User) -> Vec<DeviceView> {
        user.devices.iter().filter_map(|device| self.device_view(device).ok()).collect()
    }

    fn legs(&self, call: &CallFact) -> BTreeMap<DeviceId, CallView> {
        let devices: BTreeSet<_> = call.parties.iter().filter_map(|party| party.device.as_ref()).collect();
        devices
            .into_iter()
            .filter_map(|device| Some((device.clone(), self.leg_view(call, device)?)))
            .collect()
    }

    fn leg_view(&self, call: &CallFact, device: &DeviceId) -> Option<CallView> {
        let entry = self.house.device(device)?;
        let party = views::leg(call, entry)?;
        let other = |id: &CallId| self.calls.get(id);
        let related = views::Related {
            parent: call
                .parent
                .clone()
                .filter(|id| other(id).is_some_and(|about| views::asks(device, call, about))),
            is_asked_about: self
                .asking
                .get(&call.id)
                .and_then(other)
                .is_some_and(|by| views::asks(device, by, call)),
        };
        Some(views::call(call, entry, party, related, &self.config, &self.capabilities))
    }

    fn live_leg(&self, user: &User, call: &CallFact) -> Option<CallView> {
        let mut legs = user.devices.iter().filter_map(|device| self.leg_view(call, device));
        legs.find(|leg| leg.state != LegState::Released)
    }

    /// A leg as it is read: with how the sound fares, which is told to nobody.
    fn measured(&self, view: CallView) -> CallView {
        let call = self.calls.get(&view.id);
        let entry = self.house.device(&view.device);
        match call.zip(entry).and_then(|(call, entry)| Some((call, views::leg(call, entry)?))) {
            Some((call, party)) => views::measured(view, call, party),
            None => view,
        }
    }

    fn own_calls(&self, user: &User, now: Timestamp) -> Vec<CallView> {
        let legs = self.calls.of(&user.devices).filter_map(|call| self.live_leg(user, call));
        legs.map(|leg| views::timed(leg, now)).collect()
    }

    fn user_view(&self, user: &User) -> UserView {
        let state = self.sessions.get(&user.id).copied();
        UserView {
            id: user.id.clone(),
            display_name: user.display_name.clone(),
            roles: user.roles.iter().copied().collect(),
            features: user.features.iter().copied().collect(),
            session: state.is_some(),
            state,
            devices: user.devices.clone(),
            calls: self
                .calls
                .of(&user.devices)
                .filter(|call| self.live_leg(user, call).is_some())
                .map(|call| call.id.clone())
                .collect(),
        }
    }
}
