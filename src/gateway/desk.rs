//! The noisy shell of the gateway: one loop owns the machine; everybody else holds a [`Desk`].

use super::{Directory, User, VoiceEnvironment};
use crate::words::{Answer, Asked, Notice, Query, Reason, Refusal, UserId};
use std::sync::Arc;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// The way in to the gateway. Cheap to clone; works from any task.
#[derive(Clone)]
pub struct Desk {
    inbox: mpsc::Sender<Errand>,
    notices: broadcast::Sender<Arc<Notice>>,
    directory: Arc<Directory>,
    ready: watch::Receiver<bool>,
}

/// What waits at the desk.
enum Errand {
    Ask(Asked, oneshot::Sender<Result<Answer, Refusal>>),
    Read(UserId, Query, oneshot::Sender<Result<Answer, Refusal>>),
    States(UserId, oneshot::Sender<Vec<Notice>>),
}

fn closing() -> Refusal {
    Refusal::new(Reason::Unavailable, "The gateway is shutting down.")
}

impl Desk {
    /// Asks the gateway to do something. Answers when the backend has accepted or refused it; what comes of it arrives as notices.
    pub async fn ask(&self, asked: Asked) -> Result<Answer, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.inbox.send(Errand::Ask(asked, reply)).await.map_err(|_| closing())?;
        answer.await.map_err(|_| closing())?
    }

    /// Reads. Answers also while the backend is away, with what was known last.
    pub async fn read(&self, user: &UserId, query: Query) -> Result<Answer, Refusal> {
        let (reply, answer) = oneshot::channel();
        self.inbox
            .send(Errand::Read(user.clone(), query, reply))
            .await
            .map_err(|_| closing())?;
        answer.await.map_err(|_| closing())?
    }

    /// Every notice to every user, in the order things happened. A receiver that lags reads the states again.
    pub fn notices(&self) -> broadcast::Receiver<Arc<Notice>> {
        self.notices.subscribe()
    }

    /// The current state of each of the user's own devices, for a new subscription.
    pub async fn states(&self, user: &UserId) -> Vec<Notice> {
        let (reply, answer) = oneshot::channel();
        if self.inbox.send(Errand::States(user.clone(), reply)).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
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
}
