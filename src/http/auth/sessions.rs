//! The open HTTP sessions.

use super::{SessionName, random_text};
use crate::model::UserId;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// The hash of a session's cookie.
pub(super) type SessionKey = [u8; 32];

/// Open sessions, by the hash of their cookie: comparing hashes leaks nothing about a cookie.
#[derive(Default)]
pub(super) struct LoginSessions {
    open: BTreeMap<SessionKey, LoginSession>,
    of: BTreeMap<UserId, BTreeSet<(Instant, SessionKey)>>,
}

#[derive(Clone)]
pub(super) struct LoginSession {
    pub(super) user: UserId,
    pub(super) until: Instant,
    pub(super) csrf: SessionName,
}

impl LoginSessions {
    /// `most`: sessions of the user at once.
    pub(super) fn open(
        &mut self,
        user: &UserId,
        most: usize,
        until: Instant,
        now: Instant,
    ) -> String {
        let cookie = random_text::<18>();
        let key = key_of(&cookie);
        self.drop_dead(user, now);
        let mine = self.of.entry(user.clone()).or_default();
        while mine.len() >= most.max(1) {
            let Some((_, oldest)) = mine.pop_first() else {
                break;
            };
            self.open.remove(&oldest);
        }
        mine.insert((now, key));
        let csrf = SessionName::shared(random_text::<18>());
        let session = LoginSession { user: user.clone(), until, csrf };
        self.open.insert(key, session);
        cookie
    }

    fn drop_dead(&mut self, user: &UserId, now: Instant) {
        let Some(mine) = self.of.get_mut(user) else {
            return;
        };
        while let Some(&(opened, key)) = mine.first() {
            match self.open.get(&key) {
                Some(session) if session.until > now => break,
                _ => {
                    mine.remove(&(opened, key));
                    self.open.remove(&key);
                }
            }
        }
    }

    pub(super) fn find(&self, cookie: &str, now: Instant) -> Option<&LoginSession> {
        self.open.get(&key_of(cookie)).filter(|session| now < session.until)
    }

    /// It is a session of this user, and lives until then, if it does not live for longer already.
    pub(super) fn prolong(
        &mut self,
        cookie: &str,
        user: &UserId,
        until: Instant,
        now: Instant,
    ) -> bool {
        let session = self.open.get_mut(&key_of(cookie));
        let session = session.filter(|session| now < session.until && session.user == *user);
        session.is_some_and(|session| {
            session.until = session.until.max(until);
            true
        })
    }

    /// Closes every session of a user; which they were.
    pub(super) fn close_all(&mut self, user: &UserId) -> Vec<SessionName> {
        let mine = self.of.remove(user).unwrap_or_default();
        let closed = mine.iter().filter_map(|(_, key)| self.open.remove(key));
        closed.map(|session| session.csrf).collect()
    }

    pub(super) fn close(&mut self, user: &UserId, key: &SessionKey) {
        self.open.remove(key);
        if let Some(mine) = self.of.get_mut(user) {
            mine.retain(|(_, one)| one != key);
        }
    }
}

pub(super) fn key_of(cookie: &str) -> SessionKey {
    Sha256::digest(cookie).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use crate::http::auth::AuthConfig;
    use std::time::Duration;

    #[test]
    fn a_session_ends_with_its_life_and_the_oldest_makes_room() {
        let config = AuthConfig { sessions_per_user: 2, ..AuthConfig::default() };
        let mut sessions = LoginSessions::default();
        let now = clock::instant();
        let at = |seconds| now + Duration::from_secs(seconds);
        let (most, life) = (config.sessions_per_user, config.session_life);
        let open = |sessions: &mut LoginSessions, now| {
            sessions.open(&"anna".into(), most, now + life, now)
        };
        let first = open(&mut sessions, now);
        let second = open(&mut sessions, at(1));
        assert!(sessions.find(&first, at(2)).is_some());
        let third = open(&mut sessions, at(2));
        assert!(sessions.find(&first, at(3)).is_none());
        assert!(sessions.find(&second, at(3)).is_some());
        assert!(sessions.find(&third, at(2) + config.session_life).is_none());
        assert!(sessions.find("", at(3)).is_none());
    }
}
