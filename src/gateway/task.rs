//! The shell of the gateway: one task owns the machine; everybody else holds a [`GatewayHandle`].

use super::handle::{Inbound, Reply, StateQuestion};
use super::persistence::{StateWriter, listening_change, monitoring_change, presence_change};
use super::{AuditEvent, AuditFailed, AuditRecord, Gateway, Output, Token, WorkId};
use crate::audit::{self, AuditError, AuditLog};
use crate::clock;
use crate::hex::hex;
use crate::model::{Command, CommandContext, Fact, LegSound, Operation, Reason, Refusal, UserId};
use crate::telephony::{BackendConnection, CommandCall, FactLog};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::MissedTickBehavior;

pub use super::handle::{GatewayEvent, GatewayHandle, QuestionId};

/// While somebody hears a call, the audit is checked so often: a full disk is noticed though
/// nothing is written. A check that has not come back by the next one has failed.
const AUDIT_CHECK: Duration = Duration::from_secs(5);
/// How long a question how things are waits for a backend that has not been met yet.
const MEETING: Duration = Duration::from_secs(3);

type CommandResult = Pin<Box<dyn Future<Output = (WorkId, Result<(), Refusal>)> + Send>>;

/// What is told of the backend to those that wait for it.
pub(super) struct BackendNews {
    /// It can be reached now, and all it knows is known.
    pub(super) ready: watch::Sender<bool>,
    /// It was ready once.
    pub(super) met: watch::Sender<bool>,
}

/// The loop: drain the machine, wait for one thing, hand it in, drain again.
pub(super) struct GatewayTask {
    gateway: Gateway,
    backend: BackendConnection,
    audit: AuditLog,
    audited: mpsc::UnboundedSender<(WorkId, Result<(), AuditFailed>)>,
    checked: mpsc::UnboundedSender<Result<(), AuditFailed>>,
    /// A check of the audit is under way.
    checking: bool,
    writer: StateWriter,
    notices: broadcast::Sender<Arc<GatewayEvent>>,
    news: BackendNews,
    facts: FactLog,
    replies: BTreeMap<Token, Reply>,
    next_token: u64,
    results: FuturesUnordered<CommandResult>,
    /// The questions how things are that have not been answered yet.
    questions: Vec<StateQuestion>,
    meeting_until: Instant,
}

impl GatewayTask {
    /// Starts the task for the requests that the handle sends.
    pub(super) fn spawn(
        gateway: Gateway,
        backend: BackendConnection,
        handle: &GatewayHandle,
        requests: mpsc::Receiver<Inbound>,
        news: BackendNews,
        writer: StateWriter,
    ) {
        let (audited, audit_outcomes) = mpsc::unbounded_channel();
        let (checked, checks) = mpsc::unbounded_channel();
        let task = Self {
            gateway,
            backend,
            audit: handle.audit.clone(),
            audited,
            checked,
            checking: false,
            writer,
            notices: handle.notices.clone(),
            news,
            facts: handle.facts.clone(),
            replies: BTreeMap::new(),
            next_token: 0,
            results: FuturesUnordered::new(),
            questions: Vec::new(),
            meeting_until: clock::instant() + MEETING,
        };
        tokio::spawn(task.run(requests, audit_outcomes, checks));
    }

    async fn run(
        mut self,
        mut requests: mpsc::Receiver<Inbound>,
        mut audited: mpsc::UnboundedReceiver<(WorkId, Result<(), AuditFailed>)>,
        mut checks: mpsc::UnboundedReceiver<Result<(), AuditFailed>>,
    ) {
        let mut check = tokio::time::interval(AUDIT_CHECK);
        check.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut backend_open, mut capabilities_open) = (true, true);
        loop {
            self.drain();
            self.tell_states();
            let timeout = self.gateway.poll_timeout();
            let asked = (!self.questions.is_empty()).then_some(self.meeting_until);
            tokio::select! {
                biased;
                Some((id, written)) = audited.recv() => {
                    self.gateway.handle_audited(id, written, clock::now())
                }
                Some(outcome) = checks.recv() => {
                    self.checking = false;
                    if outcome.is_err() {
                        self.gateway.handle_audit_lost(clock::now());
                    }
                }
                _ = check.tick() => self.check_audit(),
                Some((id, result)) = self.results.next() => {
                    self.gateway.handle_command_result(id, result, clock::now())
                }
                changed = self.backend.capabilities.changed(), if capabilities_open => {
                    capabilities_open = changed.is_ok();
                    let capabilities = self.backend.capabilities.borrow_and_update().clone();
                    self.gateway.handle_capabilities(capabilities, clock::now());
                }
                fact = self.backend.facts.recv(), if backend_open => {
                    backend_open = fact.is_some();
                    self.fact(fact.unwrap_or(Fact::Lost));
                }
                () = wait_until(timeout) => self.gateway.handle_timeout(clock::now()),
                () = wait_until(asked) => {}
                inbound = requests.recv() => match inbound {
                    Some(inbound) => self.inbound(inbound),
                    None => return,
                },
            }
        }
    }

    fn fact(&mut self, fact: Fact) {
        // What the backend can do is said before its facts; it must be known when they arrive.
        if self.backend.capabilities.has_changed().unwrap_or(false) {
            let capabilities = self.backend.capabilities.borrow_and_update().clone();
            self.gateway.handle_capabilities(capabilities, clock::now());
        }
        match &fact {
            // Between the gateway and its backend alone.
            Fact::AdmissionAsked(_) | Fact::FeatureCodeDialled(_) | Fact::CallLost { .. } => {}
            Fact::Device(_)
            | Fact::DeviceGone { .. }
            | Fact::Call(_)
            | Fact::Monitor(_)
            | Fact::MonitorGone { .. }
            | Fact::Failed(_)
            | Fact::JoinSound(_)
            | Fact::SnapshotBegin
            | Fact::SnapshotComplete
            | Fact::Lost => {
                self.facts.publish(fact.clone());
            }
        }
        self.gateway.handle_fact(fact, clock::now());
        let ready = self.gateway.is_ready();
        if ready {
            self.news.met.send_if_modified(|met| !std::mem::replace(met, true));
        }
        if self.news.ready.send_if_modified(|told| std::mem::replace(told, ready) != ready) {
            metrics::gauge!("undertone_backend_ready").set(if ready { 1.0 } else { 0.0 });
        }
    }

    fn inbound(&mut self, inbound: Inbound) {
        match inbound {
            Inbound::Ask(asked, reply) => {
                let (request_id, user) = (&asked.request_id, &asked.user);
                let span = tracing::info_span!("request", %request_id, %user);
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
            Inbound::Directory(new, done) => {
                self.gateway.handle_directory(new, clock::now());
                self.drain();
                // The asker may have gone away.
                let _ = done.send(());
            }
            Inbound::Refused(user, from, reply) => {
                // The asker may have gone away.
                let _ = reply.send(self.gateway.handle_refused(Some(&user), from, clock::now()));
            }
            Inbound::State(question) => {
                self.questions.push(question);
                self.tell_states();
            }
        }
    }

    /// A question before the backend has been met waits a little, rather than be told that every
    /// phone is away.
    fn tell_states(&mut self) {
        if !self.gateway.has_met() && clock::instant() < self.meeting_until {
            return;
        }
        for StateQuestion { id, user, answer } in std::mem::take(&mut self.questions) {
            // The questioner may have gone away.
            let _ = answer.send(self.gateway.states(&user, clock::wall()));
            let _ = self.notices.send(Arc::new(GatewayEvent::Answered(id)));
        }
    }

    fn drain(&mut self) {
        let mut kept = Vec::new();
        let mut answers = Vec::new();
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Reply { token, result } => {
                    answers.extend(self.replies.remove(&token).map(|reply| (reply, result)))
                }
                Output::Command { id, context, command } => self.command(id, context, command),
                Output::Notice(notice) => {
                    metrics::counter!("undertone_notices_total").increment(1);
                    // Nobody listens: nobody is told.
                    let _ = self.notices.send(Arc::new(GatewayEvent::Notice(Box::new(notice))));
                }
                Output::EndFailed { supervisor, refusal, retry_in } => {
                    metrics::counter!("undertone_monitor_end_failures_total").increment(1);
                    tracing::warn!(
                        device = %supervisor,
                        error = %refusal,
                        retry_in_ms = retry_in.as_millis() as u64,
                        "a monitor that must end could not be ended"
                    );
                }
                Output::Audit { id, record } => self.audit(id, &record),
                Output::Keep { user, presence } => {
                    kept.push(presence_change(&user, presence.as_ref()))
                }
                Output::KeepMonitoring { supervisor, monitoring } => {
                    kept.push(monitoring_change(&supervisor, monitoring.as_ref()))
                }
                Output::KeepHearing { supervisor, hearing } => {
                    kept.push(listening_change(&supervisor, hearing.as_ref()))
                }
            }
        }
        self.writer.keep(kept, answers);
    }

    fn command(&mut self, id: WorkId, context: CommandContext, command: Command) {
        tracing::debug!(
            request_id = %context.request_id,
            user = context.user.as_ref().map(UserId::as_str),
            command = name(&command),
            "command"
        );
        let (placed, answer) = CommandCall::new(context, command);
        let sent = self.backend.commands.try_send(placed);
        self.results.push(Box::pin(async move {
            let away =
                || Refusal::new(Reason::Unavailable, "The telephony backend cannot be reached.");
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

pub(super) fn audit_failed(error: &AuditError) -> AuditFailed {
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

/// The line of a change of the directory.
pub(super) fn directory_line<'a>(
    what: &'a str,
    by: Option<(&'a UserId, IpAddr)>,
) -> audit::AuditLine<'a> {
    audit::AuditLine {
        user: by.map(|(user, _)| user.as_str()),
        from: by.map(|(_, address)| address.to_string()),
        message: Some(what),
        at: clock::wall(),
        event: AuditEvent::DirectoryChanged.as_str(),
        ..audit::AuditLine::default()
    }
}

/// The line of a record; `message` is the text of its refusal.
fn audit_line<'a>(record: &'a AuditRecord, message: Option<&'a str>) -> audit::AuditLine<'a> {
    audit::AuditLine {
        at: record.at,
        event: record.event.as_str(),
        user: record.user.as_ref().map(|user| user.as_str()),
        caller: record.caller.as_ref().map(|caller| caller.as_str()),
        from: record.from.map(|from| from.to_string()),
        request_id: record.request_id.as_ref().map(|id| id.as_str()),
        operation: record.operation.map(Operation::as_str),
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
        left_out: record.left_out,
        sound: record.sound.iter().map(audit_sound).collect(),
        since: record.since,
    }
}

fn audit_sound(leg: &LegSound) -> audit::AuditSound<'_> {
    let sent = leg.sent.as_ref();
    audit::AuditSound {
        role: leg.role.as_str(),
        port: leg.port,
        remote: leg.remote.map(|remote| remote.to_string()),
        codec: &leg.codec,
        packets: sent.map(|sent| sent.packets),
        agents: sent.map(|sent| sent.agents),
        hash_before: sent.map(|sent| hex(&sent.hash_before)),
        hash: sent.map(|sent| hex(&sent.hash)),
    }
}

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
        Command::ClearCall { .. } => "ClearCall",
        Command::Reject { .. } => "Reject",
        Command::Redirect { .. } => "Redirect",
        Command::SwapCalls { .. } => "SwapCalls",
        Command::ChangeUserData { .. } => "ChangeUserData",
        Command::Hold { .. } => "Hold",
        Command::Retrieve { .. } => "Retrieve",
        Command::Mute { .. } => "Mute",
        Command::SendDtmf { .. } => "SendDtmf",
        Command::Transfer { .. } => "Transfer",
        Command::Conference { .. } => "Conference",
        Command::RemoveParticipant { .. } => "RemoveParticipant",
        Command::RefuseFeatureCode { .. } => "RefuseFeatureCode",
    }
}
