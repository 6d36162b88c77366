//! What is remembered of sessions that have ended.

use super::SessionEnd;
use crate::cometd::message::ClientId;
use crate::secret::SharedSecret;
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// What became of the last sessions that have ended: a client that asks for one can be told why it
/// is gone.
#[derive(Debug, Default)]
pub(super) struct EndedSessions {
    by_id: HashMap<ClientId, (SessionEnd, Instant)>,
    oldest: VecDeque<ClientId>,
    /// The last HTTP sessions that have ended: a websocket that was opened in one opens no session
    /// any more.
    logins: VecDeque<SharedSecret>,
}

/// Sessions that are remembered.
const REMEMBERED: usize = 4_096;
/// HTTP sessions that are remembered: as many as end in the time that a websocket may have no
/// session.
const LOGINS: usize = 1_024;

impl EndedSessions {
    pub(super) fn add(&mut self, id: ClientId, why: SessionEnd, at: Instant) {
        while self.oldest.len() >= REMEMBERED {
            let Some(oldest) = self.oldest.pop_front() else {
                break;
            };
            self.by_id.remove(&oldest);
        }
        if self.by_id.insert(id.clone(), (why, at)).is_none() {
            self.oldest.push_back(id);
        }
    }

    pub(super) fn add_login(&mut self, login: SharedSecret) {
        if self.logins.len() >= LOGINS {
            self.logins.pop_front();
        }
        self.logins.push_back(login);
    }

    pub(super) fn has_login(&self, login: &SharedSecret) -> bool {
        self.logins.contains(login)
    }

    pub(super) fn find(&self, id: &ClientId) -> Option<(SessionEnd, Instant)> {
        self.by_id.get(id).copied()
    }
}
