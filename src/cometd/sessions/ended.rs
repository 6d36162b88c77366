//! What is remembered of sessions that have ended.

use super::SessionEnd;
use crate::cometd::message::ClientId;
use std::collections::{HashMap, VecDeque};
use std::time::Instant;

/// What became of the last sessions that have ended: a client that asks for one can be told why it
/// is gone.
#[derive(Debug, Default)]
pub(super) struct EndedSessions {
    by_id: HashMap<ClientId, (SessionEnd, Instant)>,
    oldest: VecDeque<ClientId>,
}

/// Sessions that are remembered.
const REMEMBERED: usize = 4_096;

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

    pub(super) fn find(&self, id: &ClientId) -> Option<(SessionEnd, Instant)> {
        self.by_id.get(id).copied()
    }
}
