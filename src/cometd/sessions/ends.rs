//! How sessions end, and what is remembered of them.

use super::*;

impl Sessions {
    /// The session is over. A held connect says how the client is to go on.
    pub(super) fn end(&mut self, no: SessionId, why: SessionEnd, now: Now) {
        let Some(session) = self.forget(no) else { return };
        let id = session.id.clone();
        self.ended.bury(id.clone(), why, now.mono);
        if session.saved {
            self.outputs.push_back(Output::Unsave(session.id));
        }
        if let SessionState::Held { connect, .. } = session.place {
            let reply = match why {
                SessionEnd::Disconnected => BayeuxReply {
                    advice: Some(bare_advice(Reconnect::None)),
                    ..done("/meta/connect", connect.id)
                },
                SessionEnd::Gap => BayeuxReply {
                    advice: Some(Advice {
                        interval: self.spread(&id, self.config.drain_window).as_millis() as u64,
                        ..bare_advice(Reconnect::Handshake)
                    }),
                    ..failed("/meta/connect", connect.id, UNKNOWN)
                },
                why => BayeuxReply {
                    advice: Some(bare_advice(Reconnect::Handshake)),
                    ..failed("/meta/connect", connect.id, error_of(why))
                },
            };
            self.answer(connect.reach, Vec::new(), vec![reply]);
        }
        let Some(socket) = session.socket else { return };
        match why {
            SessionEnd::Expired => self.close(socket, 1000, "The session has expired."),
            SessionEnd::Overflowed => self.close(socket, 1008, "Too many events wait for this session."),
            SessionEnd::LoginExpired => self.close(socket, 1008, "The login has expired."),
            SessionEnd::CrowdedOut => self.close(socket, 1008, "The user has opened too many sessions."),
            SessionEnd::Disconnected
            | SessionEnd::Gap
            | SessionEnd::Restarted
            | SessionEnd::NoClientId
            | SessionEnd::NeverKnown
            | SessionEnd::OtherUser
            | SessionEnd::OtherBrowser
            | SessionEnd::NoBrowser
            | SessionEnd::OtherSocket => self.unbind(socket, now),
        }
    }

    pub(super) fn forget(&mut self, no: SessionId) -> Option<Session> {
        let mut session = self.sessions.remove(&no)?;
        self.deadlines.remove(&(session.armed, SessionTimer::Session(no)));
        self.by_id.remove(&session.id);
        self.left_place(&session.place);
        if let SessionState::Held { connect, .. } = &session.place
            && let ReplyPath::Post(post) = connect.reach
        {
            self.get_off(post, no);
        }
        if let Some(InFlight {
            by: ReplyPath::Post(post), ..
        }) = session.flight
        {
            self.get_off(post, no);
        }
        for (_, pattern) in &session.subscriptions {
            self.interest.remove(pattern, no);
        }
        let bytes = session.queue.bytes();
        self.counts.queued -= session.queue.len();
        self.counts.by_transport[session.transport as usize] -= 1;
        session.queue = Queue::default();
        for who in session.owner.accounts() {
            if let Some(account) = self.accounts.get_mut(&who) {
                account.sessions.remove(&no);
                account.subscriptions -= session.subscriptions.len();
            }
        }
        for queued in &session.queued {
            queued.fetch_sub(bytes, Relaxed);
        }
        Some(*session)
    }

    /// Changes something that its deadline may depend on.
    pub(super) fn change(&mut self, no: SessionId, change: impl FnOnce(&mut Session)) {
        let Some(session) = self.sessions.get_mut(&no) else { return };
        change(session);
        let deadline = session.deadline();
        // Most deadlines move on before they come: that is seen when the old one does.
        if deadline < session.armed {
            let armed = std::mem::replace(&mut session.armed, deadline);
            self.deadlines.remove(&(armed, SessionTimer::Session(no)));
            self.deadlines.insert((deadline, SessionTimer::Session(no)));
        }
    }

    pub(super) fn put(&mut self, no: SessionId, place: SessionState) {
        if let SessionState::Held { connect, .. } = &place {
            self.counts.held += 1;
            if let Some(browser) = &connect.slot {
                *self.held_by_browser.entry(browser.clone()).or_default() += 1;
            }
        }
        let mut old = None;
        self.change(no, |session| old = Some(std::mem::replace(&mut session.place, place)));
        if let Some(old) = old {
            self.left_place(&old);
        }
    }

    pub(super) fn left_place(&mut self, place: &SessionState) {
        let SessionState::Held { connect, .. } = place else { return };
        self.counts.held -= 1;
        if let Some(browser) = &connect.slot
            && let Some(held) = self.held_by_browser.get_mut(browser)
        {
            *held -= 1;
            if *held == 0 {
                self.held_by_browser.remove(browser);
            }
        }
    }
}

/// What became of sessions, for a while: whoever asks for one can be told why it is gone.
#[derive(Debug, Default)]
pub(super) struct EndedSessions {
    by_id: HashMap<ClientId, (SessionEnd, Instant)>,
    oldest: VecDeque<ClientId>,
}

const GRAVES: usize = 4_096;

impl EndedSessions {
    pub(super) fn bury(&mut self, id: ClientId, why: SessionEnd, at: Instant) {
        while self.oldest.len() >= GRAVES {
            let Some(oldest) = self.oldest.pop_front() else { break };
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

fn error_of(why: SessionEnd) -> &'static str {
    match why {
        SessionEnd::LoginExpired => LOGIN_EXPIRED,
        SessionEnd::NoClientId
        | SessionEnd::NeverKnown
        | SessionEnd::Expired
        | SessionEnd::Disconnected
        | SessionEnd::CrowdedOut
        | SessionEnd::Overflowed
        | SessionEnd::Gap
        | SessionEnd::Restarted
        | SessionEnd::OtherUser
        | SessionEnd::OtherBrowser
        | SessionEnd::NoBrowser
        | SessionEnd::OtherSocket => UNKNOWN,
    }
}
