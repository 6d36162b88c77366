//! Permissions, presence, views of devices and calls, audiences.
//!
//! [`Gateway`] is a core machine: it decides what each user may ask, what each user's devices and
//! calls look like now, and which users are told. It holds no call: the backend does. It can die
//! and come back without a call noticing.
//!
//! ```text
//!  handle_request ─▶ permission ─▶ Audit ─handle_audited─▶ Command ─handle_command_result─▶ Reply
//!  handle_fact ────▶ views compared with what was told last ─────────────────────────────▶ Notice
//! ```

mod access;
mod audit_record;
mod backend_facts;
mod call_index;
mod call_operations;
mod directory;
mod directory_change;
mod feature_codes;
mod monitoring;
mod notifications;
mod pending;
mod refusal_limits;
mod requests;
mod user_data_budget;
mod views;

#[cfg(feature = "io")]
pub mod handle;
#[cfg(feature = "io")]
mod persistence;

#[cfg(feature = "io")]
pub mod task;
#[cfg(test)]
mod tests;

pub use audit_record::{AuditEvent, AuditRecord, ListeningRecord, MonitoringRecord};
pub use directory::{DeviceEntry, Directory, DirectoryChanges, Group, User, VoiceEnvironment};

use crate::model::{
    Answer, CallFact, CallId, CallNotification, CallView, Capabilities, Command, CommandContext,
    DeviceId, DeviceView, Fact, Failure, MonitorFact, Notice, NoticeBody, Now, Query, Reason,
    Refusal, RequestEnvelope, Timestamp, Topic, UserId, UserState, config_value,
};
use access::AccessDirectory;
use backend_facts::BackendFacts;
use monitoring::{Ctx, Monitoring, joined};
use notifications::Notifications;
use pending::{Audited, CommandOrigin, PendingCommand, PendingLine, PendingWorks, notice};
use refusal_limits::{Asker, RefusalLimits};
use requests::{Decision, RequestCheck};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use user_data_budget::UserDataBudget;
use views::Reader;

/// What the gateway may be told about its own behaviour.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GatewayConfig {
    /// The rule of GWS: Coach cannot be returned to once left. Default: any activity to any other.
    pub one_way_coach: bool,
    /// What the monitored agent is told.
    #[serde(skip)]
    pub notify_agent: NotifyAgent,
    /// How long the backend may take to accept a command.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub command_deadline: Duration,
    /// How long the audit may take to write a line before the attempt is refused.
    #[serde(rename = "deadline", deserialize_with = "config_value::some_seconds")]
    pub audit_deadline: Duration,
    /// Refused attempts of one user in a minute that are written down, each.
    #[serde(deserialize_with = "config_value::nonzero")]
    pub refused_per_user: u32,
    /// The same from one address.
    #[serde(deserialize_with = "config_value::nonzero")]
    pub refused_per_address: u32,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            one_way_coach: false,
            notify_agent: NotifyAgent::Event,
            command_deadline: Duration::from_secs(5),
            audit_deadline: Duration::from_secs(4),
            refused_per_user: 60,
            refused_per_address: 600,
        }
    }
}

/// What the monitored agent is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyAgent {
    /// Nothing.
    None,
    /// The agent's call carries `supervisorMonitoringState`, and `supervisorListeningIn` in
    /// ListenIn.
    Event,
}

/// Names the request that a reply belongs to; chosen by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub u64);

/// Names a command or an audit line until its outcome is handed in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WorkId(pub u64);

/// What a supervisor is told that may not listen.
const UNAUDITED: &str = "The audit cannot be written, so nobody may listen.";

/// What a user is told that changes a call's data too fast.
const TOO_MUCH_DATA: &str = "The data of this call changes too fast.";

/// What a user is told that was refused too often.
const TOO_OFTEN_REFUSED: &str = "Too many requests were refused: try again later.";

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
        /// Request id, user and deadline.
        context: CommandContext,
        /// What to do.
        command: Command,
    },
    /// To one user's clients.
    Notice(Notice),
    /// To the log and the metrics: the backend has not ended a monitor that must end.
    EndFailed {
        /// The supervisor's device.
        supervisor: DeviceId,
        /// Why not.
        refusal: Refusal,
        /// It is asked for again after so long.
        retry_in: Duration,
    },
    /// To the audit; its outcome comes back through [`Gateway::handle_audited`].
    Audit {
        /// Its name.
        id: WorkId,
        /// The line.
        record: AuditRecord,
    },
    /// To the store: this user's presence from now on.
    Keep {
        /// The user.
        user: UserId,
        /// The voice state; `None`: no session is open.
        presence: Option<UserState>,
    },
    /// To the store: what is known of the monitor of this supervisor's device from now on.
    KeepMonitoring {
        /// The supervisor's device.
        supervisor: DeviceId,
        /// What; `None`: there is none.
        monitoring: Option<MonitoringRecord>,
    },
    /// To the store: what this supervisor's device hears from now on.
    KeepHearing {
        /// The supervisor's device.
        supervisor: DeviceId,
        /// What; `None`: nothing.
        hearing: Option<ListeningRecord>,
    },
}

/// What a gateway has kept for the next one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// The users with an open session, and their voice states.
    pub sessions: BTreeMap<UserId, UserState>,
    /// The monitors, by supervisor's device.
    pub monitoring: BTreeMap<DeviceId, MonitoringRecord>,
    /// The supervisors that were admitted to a call or were on it.
    pub hearing: Vec<ListeningRecord>,
}

/// The audit line could not be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the audit cannot be written")]
pub struct AuditFailed;

/// What each user may ask, what each user sees, and which users are told. After every `handle_*`,
/// drain [`Gateway::poll_output`].
pub struct Gateway {
    config: GatewayConfig,
    access: AccessDirectory,
    known: BackendFacts,
    monitoring: Monitoring,
    /// Open sessions and their voice states.
    sessions: BTreeMap<UserId, UserState>,
    user_data_budget: UserDataBudget,
    refusal_limits: RefusalLimits,
    notifications: Notifications,
    works: PendingWorks,
}

impl Gateway {
    /// A gateway that knows its directory and what was kept; `instance` is unlike that of any
    /// gateway before it.
    pub fn new(
        config: GatewayConfig,
        directory: Arc<Directory>,
        kept: Restored,
        instance: &str,
    ) -> Self {
        let mut gateway = Self {
            works: PendingWorks::new(&config, instance),
            refusal_limits: RefusalLimits::new(&config),
            config,
            access: AccessDirectory::new(directory),
            known: BackendFacts::default(),
            monitoring: Monitoring::new(kept.monitoring, kept.hearing),
            sessions: kept.sessions,
            user_data_budget: UserDataBudget::default(),
            notifications: Notifications::default(),
        };
        for device in gateway.access.device_ids() {
            gateway.device_news(&device);
        }
        gateway
    }

    /// Takes a request; its [`Output::Reply`] comes when the backend has accepted or refused it.
    pub fn handle_request(&mut self, token: Token, asked: &RequestEnvelope, now: Now) {
        match RequestCheck::new(self.reader()).decide(asked, now) {
            Ok(Decision::Done) => {}
            Ok(Decision::Presence(state)) => self.set_presence(&asked.user, Some(state)),
            Ok(Decision::EndSession) => self.end_session(asked, now),
            Ok(Decision::Command(mut command)) => {
                command.context.feature_code = self.works.feature_code_of(token);
                if let Some((call, bytes)) = &command.data_bytes
                    && !self.user_data_budget.take(call, *bytes, now.mono)
                {
                    let refusal = Refusal::new(Reason::TooManyRequests, TOO_MUCH_DATA);
                    return self.refuse(token, asked, refusal, now);
                }
                return self.begin(token, asked, *command, now);
            }
            Err(refusal) => {
                self.tell_unreachable(asked, &refusal);
                return self.refuse(token, asked, refusal, now);
            }
        }
        self.works.reply(token, Ok(Answer::Accepted), now);
    }

    /// Takes what the backend can do; views offer no more.
    pub fn handle_capabilities(&mut self, capabilities: Capabilities, now: Now) {
        if self.known.capabilities == capabilities {
            return;
        }
        self.known.capabilities = capabilities;
        if !self.is_ready() {
            // Until all is known, what is offered would be told of devices as they were.
            return;
        }
        self.tell_everybody(now);
    }

    /// Takes a fact.
    pub fn handle_fact(&mut self, fact: Fact, now: Now) {
        let (was_met, was_ready) = (self.has_met(), self.is_ready());
        self.take_fact(fact, now);
        let is_active = self.is_ready();
        if was_met && is_active != was_ready {
            for user in self.access.user_ids() {
                let body = NoticeBody::ServiceStateChange { is_active };
                self.works.notify(&user, Topic::Services, body);
            }
        }
    }

    fn take_fact(&mut self, fact: Fact, now: Now) {
        match fact {
            Fact::Device(device) => {
                let id = device.id.clone();
                self.known.insert_device(device);
                self.tell_device(&id);
            }
            Fact::DeviceGone { device } => {
                self.known.remove_device(&device);
                self.tell_device(&device);
            }
            Fact::Call(call) => self.handle_call(call, now),
            Fact::Monitor(monitor) => self.handle_monitor(monitor, now),
            Fact::MonitorGone { supervisor } => self.handle_monitor_gone(&supervisor, false, now),
            Fact::AdmissionAsked(asked) => {
                let (monitoring, mut ctx) = self.monitoring(now);
                monitoring.handle_admission(asked, &mut ctx);
            }
            Fact::Failed(failure) => self.handle_failure(failure, now),
            Fact::JoinSound(sound) => {
                let (monitoring, mut ctx) = self.monitoring(now);
                monitoring.handle_sound(sound, &mut ctx);
            }
            Fact::FeatureCodeDialled(dialled) => self.handle_feature_code(dialled, now),
            Fact::CallLost { call } => {
                let (monitoring, mut ctx) = self.monitoring(now);
                monitoring.handle_call_lost(&call, &mut ctx);
            }
            Fact::SnapshotBegin => self.known.begin_snapshot(),
            Fact::SnapshotComplete => self.handle_snapshot_complete(now),
            Fact::Lost => self.known.lose(),
        }
    }

    /// Takes the outcome of an audit line.
    pub fn handle_audited(&mut self, id: WorkId, written: Result<(), AuditFailed>, now: Now) {
        let Some(line) = self.works.take_line(id) else {
            return;
        };
        if written.is_err() {
            self.handle_audit_lost(now);
        }
        match (line, written) {
            (PendingLine::Attempt { token, command }, Ok(())) => self.send(token, *command, now),
            (PendingLine::Attempt { token, .. }, Err(AuditFailed)) => {
                let refusal = Refusal::new(Reason::Internal, UNAUDITED);
                self.works.reply(token, Err(refusal), now);
            }
            (PendingLine::Refused { token, refusal }, Ok(()) | Err(AuditFailed)) => {
                self.works.reply(token, Err(refusal), now)
            }
            (PendingLine::Admission { user, asked }, written) => {
                let (monitoring, mut ctx) = self.monitoring(now);
                monitoring.handle_admission_audited(user, &asked, written.is_ok(), &mut ctx);
            }
            (PendingLine::Listening { supervisor }, Err(AuditFailed)) => {
                let (monitoring, mut ctx) = self.monitoring(now);
                monitoring.end_unless_ending(&supervisor, &mut ctx);
            }
            (PendingLine::Listening { .. } | PendingLine::Nothing, Ok(()))
            | (PendingLine::Nothing, Err(AuditFailed)) => {}
        }
    }

    /// Somebody hears a call: the audit must be able to say so.
    pub fn is_anybody_heard(&self) -> bool {
        self.known.facts().monitors().any(|monitor| joined(monitor).is_some())
    }

    /// The audit cannot be written: every supervisor that hears a call, or is about to, hears it no
    /// more and is told why. Asked for at every failure until it is so.
    pub fn handle_audit_lost(&mut self, now: Now) {
        let (monitoring, mut ctx) = self.monitoring(now);
        monitoring.handle_audit_lost(&mut ctx);
    }

    /// Takes the backend's answer to a command.
    pub fn handle_command_result(&mut self, id: WorkId, result: Result<(), Refusal>, now: Now) {
        let (token, pending) = match self.works.take_command(id) {
            Some(CommandOrigin::Request(token, pending)) => (token, *pending),
            Some(CommandOrigin::Gateway(command)) => {
                if let Command::StopMonitoring { supervisor } = command {
                    let (monitoring, mut ctx) = self.monitoring(now);
                    match result {
                        Ok(()) => monitoring.handle_end_accepted(&supervisor, &ctx),
                        Err(refusal) => {
                            monitoring.handle_end_failed(&supervisor, refusal, &mut ctx)
                        }
                    }
                }
                return;
            }
            None => return,
        };
        match result {
            Ok(()) => {
                self.works.reply(token, Ok(Answer::Accepted), now);
                if let Command::StartMonitoring { supervisor, .. } = &pending.command {
                    let (monitoring, mut ctx) = self.monitoring(now);
                    monitoring.handle_started(supervisor, pending.context.user.as_ref(), &mut ctx);
                }
                if let Some((call, device)) = &pending.digits_on {
                    self.tell_digits(call, device, now);
                }
            }
            Err(refusal) => {
                if pending.audited != Audited::Never {
                    if let Some(from) = pending.record.from {
                        let user = pending.context.user.as_ref();
                        let user = user.and_then(|user| self.access.known(user));
                        let caller = pending.record.caller.as_ref();
                        self.refusal_limits.take(Asker { user, caller, from }, now);
                    }
                    let record = AuditRecord {
                        at: now.wall,
                        event: AuditEvent::Refused,
                        refusal: Some(refusal.clone()),
                        ..pending.record
                    };
                    self.works.audit(record, PendingLine::Nothing, now);
                }
                let user =
                    pending.context.user.as_ref().and_then(|user| self.access.user(user).ok());
                let refusal = self.access.render_for(user, refusal);
                self.works.reply(token, Err(refusal), now);
            }
        }
    }

    /// When to call [`Gateway::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        let left_out = self.refusal_limits.poll_timeout();
        let ends = self.monitoring.poll_timeout();
        [self.works.poll_timeout(), left_out, ends].into_iter().flatten().min()
    }

    /// Gives up on outcomes that did not come in time, and tries again what must succeed.
    pub fn handle_timeout(&mut self, now: Now) {
        for record in self.refusal_limits.handle_timeout(now) {
            self.works.audit(record, PendingLine::Nothing, now);
        }
        let (monitoring, mut ctx) = self.monitoring(now);
        monitoring.handle_timeout(&mut ctx);
        for (id, is_line) in self.works.late(now.mono) {
            if is_line {
                self.handle_audited(id, Err(AuditFailed), now);
            } else {
                let refusal = Refusal::new(
                    Reason::Unavailable,
                    "The telephony backend did not answer in time.",
                );
                self.handle_command_result(id, Err(refusal), now);
            }
        }
    }

    /// What is to be done next, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.works.outputs.pop_front()
    }

    /// Answers a read: also while the backend is away, with what was known last.
    ///
    /// # Errors
    /// `NotFound` for what the user may not see, `NotAuthenticated` for a user that is not in the
    /// directory.
    pub fn read(&self, user: &UserId, query: &Query, now: Timestamp) -> Result<Answer, Refusal> {
        self.reader().read(self.access.user(user)?, query, now)
    }

    /// What the user would be told if everything happened again: the user itself, each of its
    /// devices and each of its calls as they are, for a new subscription.
    pub fn states(&mut self, user: &UserId, now: Timestamp) -> Vec<Notice> {
        self.notifications.note_read();
        let Ok(user) = self.access.user(user) else {
            return Vec::new();
        };
        let reader = self.reader();
        let itself = reader.user_view(user);
        let itself = [Topic::Me, Topic::Channels]
            .map(|topic| (topic, NoticeBody::UserStateChange(itself.clone())));
        let devices = reader.own_devices(user).into_iter();
        let devices =
            devices.map(|view| (Topic::Devices, NoticeBody::DeviceStateChange(vec![view])));
        let calls = reader.own_calls(user, now).into_iter().map(|call| {
            let notification = CallNotification::StatusChange;
            (Topic::Calls, NoticeBody::CallStateChange { notification, call })
        });
        let all = itself.into_iter().chain(devices).chain(calls);
        all.map(|(topic, body)| notice(&user.id, topic, body)).collect()
    }

    /// All the backend knows has been known once.
    pub fn has_met(&self) -> bool {
        self.notifications.has_met()
    }

    /// The backend can be reached and all it knows is known.
    pub fn is_ready(&self) -> bool {
        self.known.is_ready()
    }
}

/// The parts for one step of a child.
impl Gateway {
    fn reader(&self) -> Reader<'_> {
        Reader {
            config: &self.config,
            access: &self.access,
            known: &self.known,
            sessions: &self.sessions,
            notifications: &self.notifications,
        }
    }

    fn monitoring(&mut self, now: Now) -> (&mut Monitoring, Ctx<'_>) {
        let ctx = Ctx { access: &self.access, known: &self.known, works: &mut self.works, now };
        (&mut self.monitoring, ctx)
    }
}

/// Requests on their way.
impl Gateway {
    fn begin(&mut self, token: Token, asked: &RequestEnvelope, command: PendingCommand, now: Now) {
        match command.audited {
            // Whoever is refused too often does not have the backend refuse, either.
            Audited::Before if !self.may_ask(asked, now) => self.put_off(token, now),
            Audited::Never => self.send(token, command, now),
            Audited::Beside => {
                self.works.audit(command.record.clone(), PendingLine::Nothing, now);
                self.send(token, command, now);
            }
            Audited::Before => {
                let record = command.record.clone();
                let command = Box::new(command);
                self.works.audit(record, PendingLine::Attempt { token, command }, now);
            }
        }
    }

    fn send(&mut self, token: Token, command: PendingCommand, now: Now) {
        let topic = match command.record.call {
            Some(_) => Topic::Calls,
            None => Topic::Devices,
        };
        self.notifications.note_request(command.context.request_id.clone(), topic);
        self.works.send(token, command, now);
    }

    fn refuse(&mut self, token: Token, asked: &RequestEnvelope, refusal: Refusal, now: Now) {
        if !requests::refusal_is_audited(asked.operation(), refusal.reason) {
            return self.works.reply(token, Err(refusal), now);
        }
        if !self.may_ask(asked, now) {
            return self.put_off(token, now);
        }
        self.refusal_limits.take(asker(&self.access, asked), now);
        let record = AuditRecord {
            refusal: Some(refusal.clone()),
            ..RequestCheck::new(self.reader()).refused_record(asked, now)
        };
        self.works.audit(record, PendingLine::Refused { token, refusal }, now);
    }

    /// An attempt that no request stands for is refused, and written down elsewhere. `user`: whose
    /// it is, if it is one of the directory.
    ///
    /// # Errors
    /// It is one too many to be written down, and is counted.
    pub fn handle_refused(
        &mut self,
        user: Option<&UserId>,
        from: IpAddr,
        now: Now,
    ) -> Result<(), Refusal> {
        let user = user.and_then(|user| self.access.known(user));
        let asker = Asker { user, caller: None, from };
        if !self.refusal_limits.may_ask(asker, now) {
            return Err(too_often_refused());
        }
        self.refusal_limits.take(asker, now);
        Ok(())
    }

    fn may_ask(&mut self, asked: &RequestEnvelope, now: Now) -> bool {
        self.refusal_limits.may_ask(asker(&self.access, asked), now)
    }

    fn put_off(&mut self, token: Token, now: Now) {
        self.works.reply(token, Err(too_often_refused()), now);
    }

    /// A state that was refused for want of a phone is told as a failure of the device, too.
    fn tell_unreachable(&mut self, asked: &RequestEnvelope, refusal: &Refusal) {
        if let Some(device) = RequestCheck::new(self.reader()).unreachable(asked, refusal) {
            let body = NoticeBody::Error { device, refusal: refusal.clone() };
            self.works.notify(&asked.user, Topic::Devices, body);
        }
    }

    fn end_session(&mut self, asked: &RequestEnvelope, now: Now) {
        let Ok(user) = self.access.user(&asked.user) else {
            return;
        };
        let devices = user.devices.clone();
        let (monitoring, mut ctx) = self.monitoring(now);
        monitoring.handle_session_end(&devices, asked, &mut ctx);
        self.set_presence(&asked.user, None);
    }

    fn set_presence(&mut self, user: &UserId, presence: Option<UserState>) {
        let before = match presence.clone() {
            Some(state) => self.sessions.insert(user.clone(), state),
            None => self.sessions.remove(user),
        };
        if before == presence {
            return;
        }
        self.works.outputs.push_back(Output::Keep { user: user.clone(), presence });
        let Ok(user) = self.access.user(user) else {
            return;
        };
        let (id, devices, view) =
            (user.id.clone(), user.devices.clone(), self.reader().user_view(user));
        for topic in [Topic::Me, Topic::Channels] {
            self.works.notify(&id, topic, NoticeBody::UserStateChange(view.clone()));
        }
        let news: Vec<_> = devices
            .iter()
            .filter_map(|device| self.device_news(device).map(|(_, view)| view))
            .collect();
        if !news.is_empty() {
            self.works.notify(&id, Topic::Devices, NoticeBody::DeviceStateChange(news));
        }
    }
}

/// Facts, and the users that are told of them.
impl Gateway {
    fn handle_call(&mut self, call: CallFact, now: Now) {
        let (monitoring, mut ctx) = self.monitoring(now);
        monitoring.handle_call(&call, &mut ctx);
        let (id, over) = (call.id.clone(), call.is_over());
        let related = self.known.insert_call(call);
        self.tell_call(&id, now);
        // What may be asked about that one depends on this one.
        related.iter().for_each(|related| self.tell_call(related, now));
        if over {
            self.known.remove_call(&id);
        }
    }

    fn handle_monitor(&mut self, monitor: MonitorFact, now: Now) {
        let (before, found) = self.known.insert_monitor(monitor.clone());
        let (monitoring, mut ctx) = self.monitoring(now);
        monitoring.handle_progress(
            &monitor.supervisor,
            before.as_ref(),
            Some(&monitor),
            found,
            &mut ctx,
        );
        self.tell_device(&monitor.supervisor);
        let (monitoring, mut ctx) = self.monitoring(now);
        monitoring.check_permission(&monitor, &mut ctx);
    }

    fn handle_monitor_gone(&mut self, supervisor: &DeviceId, found: bool, now: Now) {
        let before = self.known.remove_monitor(supervisor);
        let (monitoring, mut ctx) = self.monitoring(now);
        monitoring.handle_gone(supervisor, before.as_ref(), found, &mut ctx);
        if before.is_some() {
            self.tell_device(supervisor);
        }
    }

    fn handle_failure(&mut self, failure: Failure, now: Now) {
        let (monitoring, mut ctx) = self.monitoring(now);
        monitoring.handle_failure(&failure, &mut ctx);
        let Some(user) = self.access.owner(&failure.device) else {
            return;
        };
        let topic = match self.notifications.topic_of(failure.request_id.as_ref()) {
            Some(topic) => topic,
            None if failure.call.is_some()
                && self.known.facts().monitor(&failure.device).is_none() =>
            {
                Topic::Calls
            }
            None => Topic::Devices,
        };
        let body = NoticeBody::Error {
            device: failure.device,
            refusal: self.access.render_for(Some(user), failure.refusal),
        };
        self.works.notify(&user.id, topic, body);
    }

    fn handle_snapshot_complete(&mut self, now: Now) {
        if let Some(gone) = self.known.complete_snapshot() {
            for device in gone.devices {
                self.known.remove_device(&device);
                self.tell_device(&device);
            }
            for supervisor in gone.monitors {
                self.handle_monitor_gone(&supervisor, true, now);
            }
            let (monitoring, mut ctx) = self.monitoring(now);
            monitoring.close_unmonitored(&mut ctx);
            for call in gone.calls {
                let parent = self.known.remove_call(&call);
                self.tell_call(&call, now);
                parent.iter().for_each(|parent| self.tell_call(parent, now));
            }
        }
        let told = self.works.outputs.len();
        let is_no_news = self.notifications.meet();
        self.tell_everybody(now);
        if is_no_news {
            // How things are is no news to those who were told by an earlier life, and the others
            // ask.
            self.works.outputs.truncate(told);
        }
        let (monitoring, mut ctx) = self.monitoring(now);
        monitoring.handle_ready(&mut ctx);
    }

    fn tell_everybody(&mut self, now: Now) {
        let devices = self.access.device_ids();
        devices.iter().for_each(|device| self.tell_device(device));
        let calls: Vec<_> = self.known.facts().calls().map(|call| call.id.clone()).collect();
        calls.iter().for_each(|call| self.tell_call(call, now));
    }

    /// Tells a device's user how it is now, if that is news.
    fn tell_device(&mut self, device: &DeviceId) {
        if !self.has_met() {
            return;
        }
        let Some((user, view)) = self.device_news(device) else {
            return;
        };
        self.works.notify(&user, Topic::Devices, NoticeBody::DeviceStateChange(vec![view]));
    }

    fn device_news(&mut self, device: &DeviceId) -> Option<(UserId, DeviceView)> {
        let view = self.reader().device_view(device).ok()?;
        let is_news = self.notifications.is_news(&view);
        let owner = self.access.owner(device).filter(|_| is_news)?;
        Some((owner.id.clone(), view))
    }

    /// Tells each user with a leg of the call how the leg is now, if that is news.
    fn tell_call(&mut self, id: &CallId, now: Now) {
        if !self.has_met() {
            return;
        }
        let call = self.known.facts().call(id);
        let legs = call.map(|call| self.reader().legs(call)).unwrap_or_default();
        for (notification, leg) in self.notifications.changed_legs(id, legs) {
            self.tell_leg(notification, leg, now);
        }
    }

    fn tell_digits(&mut self, call: &CallId, device: &DeviceId, now: Now) {
        if let Some(leg) = self.notifications.told_leg(call, device).cloned() {
            self.tell_leg(CallNotification::DtmfSent, leg, now);
        }
    }

    fn tell_leg(&mut self, notification: CallNotification, leg: CallView, now: Now) {
        let Some(user) = self.access.owner(&leg.device) else {
            return;
        };
        let body = NoticeBody::CallStateChange { notification, call: views::timed(leg, now.wall) };
        self.works.notify(&user.id, Topic::Calls, body);
    }
}

/// Whose refusals count.
fn asker<'a>(access: &'a AccessDirectory, asked: &'a RequestEnvelope) -> Asker<'a> {
    let caller = asked.caller.as_ref().map(|caller| &caller.name);
    Asker { user: access.known(&asked.user), caller, from: asked.from }
}

fn too_often_refused() -> Refusal {
    Refusal::new(Reason::TooManyRequests, TOO_OFTEN_REFUSED)
}
