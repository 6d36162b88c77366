//! The noisy shell of the gateway: one loop owns the machine; everybody else holds a [`Desk`].

use super::{
    AuditFailed, AuditRecord, Directory, Gateway, GatewayConfig, ListeningRecord, Output, Restored, Token, User, VoiceEnvironment, WorkId,
};
use crate::audit::{self, AuditError, AuditLog};
use crate::clock;
use crate::model::{
    AgentState, Answer, Capabilities, Command, CommandContext, DeviceId, Fact, Notice, Query, Reason, Refusal, RequestEnvelope, Timestamp,
    UserId,
};
use crate::store::{Importance, Store, StoreError, Write};
use crate::telephony::{BackendConnection, CommandCall, FactLog};
use futures_util::stream::{FuturesUnordered, StreamExt};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

/// Errands that may wait for the loop.
const WAITING_ERRANDS: usize = 1024;
/// Notices that a slow reader may lag behind before it has to read the states again.
const WAITING_NOTICES: usize = 16_384;
/// While somebody hears a call, the audit is checked so often: a full disk is noticed though nothing is written. A check that has not come
/// back by the next one has failed.
const AUDIT_CHECK: Duration = Duration::from_secs(5);
/// How long whoever asks how things are waits for a backend that has not been met yet.
const MEETING: Duration = Duration::from_secs(3);
/// Where presence is kept: login name → voice state.
const PRESENCE: &str = "presence";
/// Where it is kept who was admitted to a call or is on it: supervisor's device → JSON.
const HEARING: &str = "hearing";

/// The way in to the gateway. Cheap to clone; works from any task.
#[derive(Clone)]
pub struct GatewayHandle {
    inbox: mpsc::Sender<Inbound>,
    notices: broadcast::Sender<Arc<GatewayEvent>>,
    directory: Arc<Directory>,
    ready: watch::Receiver<bool>,
    leaving: Arc<AtomicBool>,
    facts: FactLog,
    capabilities: watch::Receiver<Capabilities>,
    audit: AuditLog,
}

/// What waits at the desk.
enum Inbound {
    Ask(RequestEnvelope, Reply),
    Read(UserId, Query, Reply),
    States(UserId, u64),
}

/// What is told to whoever listens at the desk, in the order things happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayEvent {
    /// Something has happened to somebody.
    Notice(Box<Notice>),
    /// How everything of a user is now: all notices before it are older, all after it newer.
    State {
        /// As in [`Desk::tell_state`].
        asked: u64,
        /// In the words of notices.
        notices: Vec<Notice>,
    },
}

type Reply = oneshot::Sender<Result<Answer, Refusal>>;

fn closing() -> Refusal {
    Refusal::new(Reason::Unavailable, "The gateway is shutting down.")
}

impl GatewayHandle {
    /// Starts the gateway on the current tokio runtime. It ends when the last clone of the desk is dropped.
    ///
    /// # Errors
    /// What was kept cannot be read.
    pub fn start(
        config: GatewayConfig,
        directory: Directory,
        line: BackendConnection,
        audit: AuditLog,
        store: Store,
    ) -> Result<Self, StoreError> {
        let directory = Arc::new(directory);
        let kept = Restored {
            sessions: kept_sessions(&directory, &store)?,
            hearing: kept_hearing(&store)?,
        };
        let instance = format!("{:016x}", rand::random::<u64>());
        let (inbox, errands) = mpsc::channel(WAITING_ERRANDS);
        let (notices, _) = broadcast::channel(WAITING_NOTICES);
        let (tell_ready, ready) = watch::channel(false);
        let (audited, audit_outcomes) = mpsc::unbounded_channel();
        let (checked, checks) = mpsc::unbounded_channel();
        let desk = Self {
            inbox,
            notices: notices.clone(),
            directory: directory.clone(),
            ready,
            leaving: Arc::default(),
            facts: FactLog::new(),
            capabilities: line.capabilities.clone(),
            audit: audit.clone(),
        };
        let mut gateway = Gateway::new(config, directory, kept, &instance);
        gateway.handle_capabilities(line.capabilities.borrow().clone(), clock::now());
        let shell = GatewayTask {
            gateway,
            line,
            audit,
            audited,
            checked,
            checking: false,
            keeper: StateWriter::start(store),
            notices,
            tell_ready,
            leaving: desk.leaving.clone(),
            facts: desk.facts.clone(),
            replies: BTreeMap::new(),
            next_token: 0,
            results: FuturesUnordered::new(),
            asking: Vec::new(),
            meeting_until: clock::instant() + MEETING,
        };
        tokio::spawn(shell.run(errands, audit_outcomes, checks));
        Ok(desk)
    }

    /// Asks the gateway to do something. Answers when the backend has accepted or refused it; what comes of it arrives as notices.
    pub async fn ask(&self, asked: RequestEnvelope) -> Result<Answer, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Inbound::Ask(asked, reply)).await.map_err(|_| closing())?;
        answer.await.map_err(|_| closing())?
    }

    /// Reads. Answers also while the backend is away, with what was known last.
    pub async fn read(&self, user: &UserId, query: Query) -> Result<Answer, Refusal> {
        let (reply, answer) = oneshot::channel();
        let errand = Inbound::Read(user.clone(), query, reply);
        self.inbox.send(errand).await.map_err(|_| closing())?;
        answer.await.map_err(|_| closing())?
    }

    /// Every notice to every user, in the order things happened. A receiver that lags reads the states again.
    pub fn notices(&self) -> broadcast::Receiver<Arc<GatewayEvent>> {
        self.notices.subscribe()
    }

    /// Puts the present state of the user, his devices and his calls among the notices, under the number of whoever asked.
    pub async fn tell_state(&self, user: UserId, asked: u64) {
        // A desk that is closing tells nobody anything.
        let _ = self.inbox.send(Inbound::States(user, asked)).await;
    }

    /// The user with this login name: his roles and features.
    pub fn user(&self, user: &UserId) -> Option<&User> {
        self.directory.user(user)
    }

    /// The voice environment with this path id.
    pub fn voice_environment(&self, id: &str) -> Option<&VoiceEnvironment> {
        self.directory.voice_environments.get(id)
    }

    /// Who exists.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// True while the backend can be reached and all it knows has been read.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// True while the audit can be written; while it can not, nobody may listen.
    pub fn is_audited(&self) -> bool {
        self.audit.is_writable()
    }

    /// The process is about to stop: that its backend goes away is no alarm from now on.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    /// As [`Desk::is_ready`], for waiting.
    pub fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// What the backend reports, for serving it again: all but the questions that only this gateway may answer.
    pub fn facts(&self) -> FactLog {
        self.facts.clone()
    }

    /// What the backend can do.
    pub fn capabilities(&self) -> watch::Receiver<Capabilities> {
        self.capabilities.clone()
    }
}

fn kept_sessions(directory: &Directory, store: &Store) -> Result<BTreeMap<UserId, AgentState>, StoreError> {
    let kept = store.load(PRESENCE)?;
    Ok(kept
        .into_iter()
        .filter_map(|(user, state)| Some((UserId::from(user), std::str::from_utf8(&state).ok()?.parse().ok()?)))
        .filter(|(user, _)| directory.users.contains_key(user))
        .collect())
}

fn kept_hearing(store: &Store) -> Result<Vec<ListeningRecord>, StoreError> {
    let kept = store.load(HEARING)?;
    let read = |supervisor: &str, bytes: &[u8]| {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let word = |name: &str| value.get(name)?.as_str();
        Some(ListeningRecord {
            supervisor: supervisor.into(),
            target: word("target")?.into(),
            call: word("call")?.into(),
            activity: word("activity")?.parse().ok()?,
            since: value.get("since").and_then(Value::as_u64).map(Timestamp),
        })
    };
    let entries = kept.iter().filter_map(|(supervisor, bytes)| {
        let found = read(supervisor, bytes);
        if found.is_none() {
            tracing::warn!(
                supervisor,
                "what was kept of somebody who heard a call can not be read and is ignored"
            );
        }
        found
    });
    Ok(entries.collect())
}

fn hearing_change(supervisor: &DeviceId, hearing: Option<&ListeningRecord>) -> Write {
    let Some(hearing) = hearing else {
        return Write::remove(HEARING, supervisor.as_str());
    };
    let value = json!({
        "target": hearing.target.as_str(),
        "call": hearing.call.as_str(),
        "activity": hearing.activity.as_str(),
        "since": hearing.since.map(|since| since.0),
    });
    Write::put(HEARING, supervisor.as_str(), value.to_string())
}

type CommandResult = Pin<Box<dyn Future<Output = (WorkId, Result<(), Refusal>)> + Send>>;

/// The loop: drain the machine, wait for one thing, hand it in, drain again.
struct GatewayTask {
    gateway: Gateway,
    line: BackendConnection,
    audit: AuditLog,
    audited: mpsc::UnboundedSender<(WorkId, Result<(), AuditFailed>)>,
    checked: mpsc::UnboundedSender<Result<(), AuditFailed>>,
    /// A check of the audit is under way.
    checking: bool,
    keeper: StateWriter,
    notices: broadcast::Sender<Arc<GatewayEvent>>,
    tell_ready: watch::Sender<bool>,
    leaving: Arc<AtomicBool>,
    facts: FactLog,
    replies: BTreeMap<Token, Reply>,
    next_token: u64,
    results: FuturesUnordered<CommandResult>,
    /// Who wants to know how things are, and has not been told yet.
    asking: Vec<(UserId, u64)>,
    meeting_until: Instant,
}

impl GatewayTask {
    async fn run(
        mut self,
        mut errands: mpsc::Receiver<Inbound>,
        mut audited: mpsc::UnboundedReceiver<(WorkId, Result<(), AuditFailed>)>,
        mut checks: mpsc::UnboundedReceiver<Result<(), AuditFailed>>,
    ) {
        let mut check = tokio::time::interval(AUDIT_CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut line_open, mut capabilities_open) = (true, true);
        loop {
            self.drain();
            self.tell_states();
            let timeout = self.gateway.poll_timeout();
            let asked = (!self.asking.is_empty()).then_some(self.meeting_until);
            tokio::select! {
                biased;
                Some((id, written)) = audited.recv() => self.gateway.handle_audited(id, written, clock::now()),
                Some(outcome) = checks.recv() => {
                    self.checking = false;
                    if outcome.is_err() {
                        self.gateway.handle_audit_lost(clock::now());
                    }
                }
                _ = check.tick() => self.check_audit(),
                Some((id, result)) = self.results.next() => self.gateway.handle_command_result(id, result, clock::now()),
                changed = self.line.capabilities.changed(), if capabilities_open => {
                    capabilities_open = changed.is_ok();
                    let capabilities = self.line.capabilities.borrow_and_update().clone();
                    self.gateway.handle_capabilities(capabilities, clock::now());
                }
                fact = self.line.facts.recv(), if line_open => {
                    line_open = fact.is_some();
                    self.fact(fact.unwrap_or(Fact::Lost));
                }
                () = wait_until(timeout) => self.gateway.handle_timeout(clock::now()),
                () = wait_until(asked) => {}
                errand = errands.recv() => match errand {
                    Some(errand) => self.errand(errand),
                    None => return,
                },
            }
        }
    }

    fn fact(&mut self, fact: Fact) {
        // What the backend can do is said before its facts; it must be known when they arrive.
        if self.line.capabilities.has_changed().unwrap_or(false) {
            let capabilities = self.line.capabilities.borrow_and_update().clone();
            self.gateway.handle_capabilities(capabilities, clock::now());
        }
        match &fact {
            Fact::AdmissionAsked(_) => {}
            Fact::Device(_)
            | Fact::Call(_)
            | Fact::Monitor(_)
            | Fact::MonitorGone { .. }
            | Fact::Failed(_)
            | Fact::SnapshotBegin
            | Fact::SnapshotComplete
            | Fact::Lost => {
                self.facts.publish(fact.clone());
            }
        }
        self.gateway.handle_fact(fact, clock::now());
        let ready = self.gateway.is_ready();
        if self.tell_ready.send_if_modified(|told| std::mem::replace(told, ready) != ready) {
            metrics::gauge!("undertone_backend_ready").set(if ready { 1.0 } else { 0.0 });
            match ready {
                true => tracing::info!("the telephony backend is here"),
                false if self.leaving.load(Ordering::Relaxed) => tracing::info!("the telephony backend has stopped"),
                false => tracing::warn!("the telephony backend is away"),
            }
        }
    }

    fn errand(&mut self, errand: Inbound) {
        match errand {
            Inbound::Ask(asked, reply) => {
                let span = tracing::info_span!("request", request_id = %asked.request_id, user = %asked.user);
                let _inside = span.enter();
                let token = Token(self.next_token);
                self.next_token += 1;
                self.replies.insert(token, reply);
                metrics::counter!("undertone_requests_total").increment(1);
                self.gateway.handle_request(token, &asked, clock::now());
                // What comes of it is said under its id.
                self.drain();
            }
            Inbound::Read(user, query, reply) => {
                let _ = reply.send(self.gateway.read(&user, &query, clock::wall()));
            }
            Inbound::States(user, asked) => {
                self.asking.push((user, asked));
                self.tell_states();
            }
        }
    }

    /// Whoever asks before the backend has been met waits a little, rather than hear that every phone is away.
    fn tell_states(&mut self) {
        if !self.gateway.has_met() && clock::instant() < self.meeting_until {
            return;
        }
        for (user, asked) in std::mem::take(&mut self.asking) {
            let notices = self.gateway.states(&user, clock::wall());
            let _ = self.notices.send(Arc::new(GatewayEvent::State { asked, notices }));
        }
    }

    fn drain(&mut self) {
        let mut kept = Vec::new();
        let mut answers = Vec::new();
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Reply { token, result } => answers.extend(self.replies.remove(&token).map(|reply| (reply, result))),
                Output::Command { id, context, command } => self.command(id, context, command),
                Output::Notice(notice) => {
                    metrics::counter!("undertone_notices_total").increment(1);
                    // Nobody listens: nobody is told.
                    let _ = self.notices.send(Arc::new(GatewayEvent::Notice(Box::new(notice))));
                }
                Output::Audit { id, record } => self.audit(id, &record),
                Output::Keep { user, presence } => kept.push(match presence {
                    Some(state) => Write::put(PRESENCE, user.as_str(), state.as_str()),
                    None => Write::remove(PRESENCE, user.as_str()),
                }),
                Output::KeepHearing { supervisor, hearing } => kept.push(hearing_change(&supervisor, hearing.as_ref())),
            }
        }
        self.keeper.keep(kept, answers);
    }

    fn command(&mut self, id: WorkId, context: CommandContext, command: Command) {
        tracing::debug!(request_id = %context.request_id, user = %context.user, command = name(&command), "command");
        let (placed, answer) = CommandCall::new(context, command);
        let sent = self.line.commands.try_send(placed);
        self.results.push(Box::pin(async move {
            let away = || Refusal::new(Reason::Unavailable, "The telephony backend cannot be reached.");
            match sent {
                Ok(()) => (id, answer.await.unwrap_or_else(|_| Err(away()))),
                Err(_) => (id, Err(away())),
            }
        }));
    }

    fn audit(&self, id: WorkId, record: &AuditRecord) {
        let message = record.refusal.as_ref().map(Refusal::text);
        let line = audit_line(record, message.as_deref());
        tracing::info!(
            event = line.event,
            user = line.user,
            device = line.device,
            monitored = line.target,
            call = line.call,
            "monitoring"
        );
        let outcomes = self.audited.clone();
        self.audit.write(&line, move |written| {
            let _ = outcomes.send((id, written.map_err(|error| audit_failed(&error))));
        });
    }

    fn check_audit(&mut self) {
        if !self.gateway.is_anybody_heard() {
            return;
        }
        if std::mem::replace(&mut self.checking, true) {
            tracing::error!("the audit does not answer: nobody may listen");
            return self.gateway.handle_audit_lost(clock::now());
        }
        let outcomes = self.checked.clone();
        self.audit.check(move |written| {
            let _ = outcomes.send(written.map_err(|error| audit_failed(&error)));
        });
    }
}

fn audit_failed(error: &AuditError) -> AuditFailed {
    metrics::counter!("undertone_audit_failures_total").increment(1);
    tracing::error!(%error, "the audit cannot be written: nobody may listen");
    AuditFailed
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// The line of a record; `message` is the text of its refusal.
fn audit_line<'a>(record: &'a AuditRecord, message: Option<&'a str>) -> audit::AuditLine<'a> {
    audit::AuditLine {
        at: record.at,
        event: record.event.as_str(),
        user: record.user.as_ref().map(|user| user.as_str()),
        from: record.from.map(|from| from.to_string()),
        request_id: record.request_id.as_ref().map(|id| id.as_str()),
        operation: record.operation,
        device: record.device.as_ref().map(|device| device.as_str()),
        target: record.target.as_ref().map(|target| target.as_str()),
        number: record.number.as_ref().map(|number| number.as_str()),
        call: record.call.as_ref().map(|call| call.as_str()),
        activity: record.activity.map(|activity| activity.as_str()),
        mode: record.mode.map(|mode| mode.as_str()),
        scope: record.scope.map(|scope| scope.as_str()),
        refused: record.refusal.as_ref().map(|refusal| refusal.reason.as_str()),
        message,
        heard_ms: record.heard.map(|heard| heard.as_millis() as u64),
    }
}

pub(crate) use super::requests::operation;

fn name(command: &Command) -> &'static str {
    match command {
        Command::StartMonitoring { .. } => "StartMonitoring",
        Command::StopMonitoring { .. } => "StopMonitoring",
        Command::SwitchMonitoring { .. } => "SwitchMonitoring",
        Command::AdmitMonitoring { .. } => "AdmitMonitoring",
        Command::MuteMonitoredParty { .. } => "MuteMonitoredParty",
        Command::SetDoNotDisturb { .. } => "SetDoNotDisturb",
        Command::SetForwarding { .. } => "SetForwarding",
        Command::Dial { .. } => "Dial",
        Command::Answer { .. } => "Answer",
        Command::Hangup { .. } => "Hangup",
        Command::Hold { .. } => "Hold",
        Command::Retrieve { .. } => "Retrieve",
        Command::Mute { .. } => "Mute",
        Command::SendDtmf { .. } => "SendDtmf",
        Command::Transfer { .. } => "Transfer",
        Command::Conference { .. } => "Conference",
        Command::RemoveParticipant { .. } => "RemoveParticipant",
    }
}

/// Writes presence and who hears calls on a thread of its own; answers that depend on it go out when it is durable, or remembered for when
/// the disk takes it.
struct StateWriter {
    jobs: std::sync::mpsc::Sender<KeepJob>,
}

struct KeepJob {
    changes: Vec<Write>,
    answers: Vec<(Reply, Result<Answer, Refusal>)>,
}

impl StateWriter {
    fn start(store: Store) -> Self {
        let (jobs, waiting) = std::sync::mpsc::channel::<KeepJob>();
        tokio::task::spawn_blocking(move || {
            while let Ok(first) = waiting.recv() {
                let mut batch = first;
                for job in waiting.try_iter() {
                    batch.changes.extend(job.changes);
                    batch.answers.extend(job.answers);
                }
                if let Err(error) = store.write_behind(&batch.changes, Importance::State) {
                    tracing::error!(%error, "presence, or who hears a call, cannot be kept: a restart will forget it");
                    let accepted = batch.answers.iter_mut().filter(|(_, answer)| answer.is_ok());
                    accepted.for_each(|(_, answer)| *answer = Err(Refusal::new(Reason::Internal, "The state can not be kept.")));
                }
                send(batch.answers);
            }
        });
        Self { jobs }
    }

    fn keep(&self, changes: Vec<Write>, answers: Vec<(Reply, Result<Answer, Refusal>)>) {
        if changes.is_empty() {
            return send(answers);
        }
        if let Err(std::sync::mpsc::SendError(job)) = self.jobs.send(KeepJob { changes, answers }) {
            send(job.answers);
        }
    }
}

fn send(answers: Vec<(Reply, Result<Answer, Refusal>)>) {
    for (reply, result) in answers {
        // Whoever asked has gone away.
        let _ = reply.send(result);
    }
}
