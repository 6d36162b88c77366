//! The gateway as the rest of the program holds it.

use super::persistence::{StateWriter, kept_listening, kept_monitoring, kept_sessions};
use super::task::{BackendNews, GatewayTask, audit_failed, directory_line};
use super::{AuditFailed, Directory, Gateway, GatewayConfig, Restored, User, VoiceEnvironment};
use crate::audit::AuditLog;
use crate::clock;
use crate::model::{
    Answer, Capabilities, DeviceId, NodeLoad, Notice, Query, Reason, Refusal, RequestEnvelope,
    UserId,
};
use crate::store::{Store, StoreError};
use crate::telephony::{BackendConnection, FactLog};
use arc_swap::ArcSwap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// Requests and reads that may wait for the task.
const WAITING_REQUESTS: usize = 1024;
/// Notices that a slow reader may lag behind before it has to read the states again.
const WAITING_NOTICES: usize = 16_384;

/// The way in to the gateway. Cheap to clone; works from any task.
#[derive(Clone)]
pub struct GatewayHandle {
    inbox: mpsc::Sender<Inbound>,
    questions: Arc<AtomicU64>,
    pub(super) notices: broadcast::Sender<Arc<GatewayEvent>>,
    directory: Arc<ArcSwap<Directory>>,
    ready: watch::Receiver<bool>,
    met: watch::Receiver<bool>,
    pub(super) facts: FactLog,
    capabilities: watch::Receiver<Capabilities>,
    load: watch::Receiver<NodeLoad>,
    pub(super) audit: AuditLog,
}

/// What waits for the task.
pub(super) enum Inbound {
    Ask(RequestEnvelope, Reply),
    Read(UserId, Query, Reply),
    State(StateQuestion),
    /// Whether one more attempt of a user may be refused and written down.
    Refused(UserId, IpAddr, oneshot::Sender<Result<(), Refusal>>),
    Directory(Arc<Directory>, oneshot::Sender<()>),
}

/// What the gateway tells its readers, in the order things happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayEvent {
    /// Something has happened to a user.
    Notice(Box<Notice>),
    /// A question how everything of a user is has been answered: all notices before are older than
    /// the answer, all after are newer.
    Answered(QuestionId),
}

/// Names a question how everything of a user is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct QuestionId(u64);

/// A question how everything of a user is now, and where its answer comes, in the words of notices.
#[derive(Debug)]
pub(super) struct StateQuestion {
    pub(super) id: QuestionId,
    pub(super) user: UserId,
    pub(super) answer: oneshot::Sender<Vec<Notice>>,
}

pub(super) type Reply = oneshot::Sender<Result<Answer, Refusal>>;

fn closing() -> Refusal {
    Refusal::new(Reason::Unavailable, "The gateway is shutting down.")
}

impl GatewayHandle {
    /// Starts the gateway on the current tokio runtime. It ends when the last clone of the handle
    /// is dropped.
    ///
    /// # Errors
    /// What was kept cannot be read.
    pub fn start(
        config: GatewayConfig,
        directory: Directory,
        backend: BackendConnection,
        audit: AuditLog,
        store: Store,
    ) -> Result<Self, StoreError> {
        let directory = Arc::new(directory);
        let kept = Restored {
            sessions: kept_sessions(&directory, &store)?,
            monitoring: kept_monitoring(&store)?,
            hearing: kept_listening(&store)?,
        };
        let instance = format!("{:016x}", rand::random::<u64>());
        let (inbox, requests) = mpsc::channel(WAITING_REQUESTS);
        let (notices, _) = broadcast::channel(WAITING_NOTICES);
        let (tell_ready, ready) = watch::channel(false);
        let (tell_met, met) = watch::channel(false);
        let handle = Self {
            inbox,
            questions: Arc::default(),
            notices,
            directory: Arc::new(ArcSwap::new(directory.clone())),
            ready,
            met,
            facts: FactLog::new(),
            capabilities: backend.capabilities.clone(),
            load: backend.load.clone(),
            audit,
        };
        let mut gateway = Gateway::new(config, directory, kept, &instance);
        gateway.handle_capabilities(backend.capabilities.borrow().clone(), clock::now());
        GatewayTask::spawn(
            gateway,
            backend,
            &handle,
            requests,
            BackendNews { ready: tell_ready, met: tell_met },
            StateWriter::start(store),
        );
        Ok(handle)
    }

    /// Asks the gateway to do something. Answers when the backend has accepted or refused it; what
    /// comes of it arrives as notices.
    pub async fn ask(&self, asked: RequestEnvelope) -> Result<Answer, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Inbound::Ask(asked, reply)).await.map_err(|_| closing())?;
        answer.await.map_err(|_| closing())?
    }

    /// Reads. Answers also while the backend is away, with what was known last.
    pub async fn read(&self, user: &UserId, query: Query) -> Result<Answer, Refusal> {
        let (reply, answer) = oneshot::channel();
        let read = Inbound::Read(user.clone(), query, reply);
        self.inbox.send(read).await.map_err(|_| closing())?;
        answer.await.map_err(|_| closing())?
    }

    /// Every notice to every user, in the order things happened. A receiver that lags reads the
    /// states again.
    pub fn notices(&self) -> broadcast::Receiver<Arc<GatewayEvent>> {
        self.notices.subscribe()
    }

    /// Asks how the user, the user's devices and calls are now. The answer comes first, then
    /// [`GatewayEvent::Answered`] among the notices. The question itself is on its way when the
    /// future has ended.
    pub fn ask_state(
        &self,
        user: UserId,
    ) -> (QuestionId, oneshot::Receiver<Vec<Notice>>, impl Future<Output = ()> + Send + use<>) {
        let (tell, answer) = oneshot::channel();
        let id = QuestionId(self.questions.fetch_add(1, Ordering::Relaxed));
        let question = StateQuestion { id, user, answer: tell };
        let inbox = self.inbox.clone();
        let sent = async move {
            // A gateway that is closing tells nobody anything.
            let _ = inbox.send(Inbound::State(question)).await;
        };
        (id, answer, sent)
    }

    /// The user with this login name, with roles and features.
    pub fn user(&self, user: &UserId) -> Option<Arc<User>> {
        self.directory.load().users.get(user).cloned()
    }

    /// The user whose device this is.
    pub fn owner(&self, device: &DeviceId) -> Option<Arc<User>> {
        let directory = self.directory.load();
        directory.users.values().find(|user| user.devices.contains(device)).cloned()
    }

    /// The voice environment with this path id.
    pub fn voice_environment(&self, id: &str) -> Option<VoiceEnvironment> {
        self.directory.load().voice_environments.get(id).cloned()
    }

    /// The users, devices and groups that exist.
    pub fn directory(&self) -> Arc<Directory> {
        self.directory.load_full()
    }

    /// Before an attempt of a user from this address is refused and written down: one beyond what is
    /// written of each user and address within a minute is counted instead.
    ///
    /// # Errors
    /// It is one of those.
    pub async fn may_be_refused(&self, user: &UserId, from: IpAddr) -> Result<(), Refusal> {
        let (reply, answer) = oneshot::channel();
        let asked = Inbound::Refused(user.clone(), from, reply);
        self.inbox.send(asked).await.map_err(|_| closing())?;
        answer.await.map_err(|_| closing())?
    }

    /// Another directory from now on: whoever has lost a right by it has lost it, and what is under
    /// way by that right is being ended, when the future has ended.
    pub async fn change_directory(&self, new: Directory) {
        let new = Arc::new(new);
        self.directory.store(new.clone());
        let (done, applied) = oneshot::channel();
        // A gateway that is closing has no users.
        let _ = self.inbox.send(Inbound::Directory(new, done)).await;
        let _ = applied.await;
    }

    /// Writes down that the directory has changed: `what` is which entries, never a secret; `by`:
    /// the admin and the admin's address, none for the configuration file.
    ///
    /// # Errors
    /// The audit cannot be written.
    pub async fn audit_directory(
        &self,
        what: &str,
        by: Option<(&UserId, IpAddr)>,
    ) -> Result<(), AuditFailed> {
        let (tell, told) = oneshot::channel();
        let line = directory_line(what, by);
        self.audit.write(&line, move |written| {
            let _ = tell.send(written.map_err(|error| audit_failed(&error)));
        });
        told.await.unwrap_or(Err(AuditFailed))
    }

    /// True while the backend can be reached and all it knows has been read.
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    /// True while the audit can be written; while it can not, nobody may listen.
    pub fn is_audited(&self) -> bool {
        self.audit.is_writable()
    }

    /// The audit file may have been moved away (log rotation): it is opened anew.
    pub fn reopen_audit(&self) {
        self.audit.reopen();
    }

    /// As [`GatewayHandle::is_ready`], for waiting.
    pub fn readiness(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// True from when the backend was ready for the first time: before, nothing is known of it.
    pub fn meeting(&self) -> watch::Receiver<bool> {
        self.met.clone()
    }

    /// What the backend reports, for serving it again: all but the questions that only this gateway
    /// may answer.
    pub fn facts(&self) -> FactLog {
        self.facts.clone()
    }

    /// What the backend can do.
    pub fn capabilities(&self) -> watch::Receiver<Capabilities> {
        self.capabilities.clone()
    }

    /// How busy the backend is.
    pub fn load(&self) -> watch::Receiver<NodeLoad> {
        self.load.clone()
    }
}
