//! How sessions end, and what is remembered of them.

use super::*;

impl Hub {
    /// The session is over. A held connect says how the client is to go on.
    pub(super) fn end(&mut self, no: SessionNo, why: Why, now: Now) {
        let Some(session) = self.forget(no) else { return };
        let id = session.id.clone();
        self.graves.bury(id.clone(), why, now.mono);
        if session.saved {
            self.outputs.push_back(Output::Unsave(session.id));
        }
        if let Place::Held { connect, .. } = session.place {
            let reply = match why {
                Why::Disconnected => Reply {
                    advice: Some(bare_advice(Reconnect::None)),
                    ..done("/meta/connect", connect.id)
                },
                Why::Gap => Reply {
                    advice: Some(Advice {
                        interval: self.spread(&id, self.config.drain_window).as_millis() as u64,
                        ..bare_advice(Reconnect::Handshake)
                    }),
                    ..failed("/meta/connect", connect.id, UNKNOWN)
                },
                why => Reply {
                    advice: Some(bare_advice(Reconnect::Handshake)),
                    ..failed("/meta/connect", connect.id, error_of(why))
                },
            };
            self.answer(connect.reach, Vec::new(), vec![reply]);
        }
        let Some(socket) = session.socket else { return };
        match why {
            Why::Expired => self.close(socket, 1000, "The session has expired."),
            Why::Overflowed => self.close(socket, 1008, "Too many events wait for this session."),
            Why::LoginExpired => self.close(socket, 1008, "The login has expired."),
            Why::CrowdedOut => self.close(socket, 1008, "The user has opened too many sessions."),
            Why::Disconnected
            | Why::Gap
            | Why::Restarted
            | Why::NoClientId
            | Why::NeverKnown
            | Why::OtherUser
            | Why::OtherBrowser
            | Why::NoBrowser
            | Why::OtherSocket => self.unbind(socket, now),
        }
    }

    pub(super) fn forget(&mut self, no: SessionNo) -> Option<Session> {
        let mut session = self.sessions.remove(&no)?;
        self.deadlines.remove(&(session.armed, Timer::Session(no)));
        self.by_id.remove(&session.id);
        self.left_place(&session.place);
        if let Place::Held { connect, .. } = &session.place
            && let Reach::Post(post) = connect.reach
        {
            self.get_off(post, no);
        }
        if let Some(Flight { by: Reach::Post(post), .. }) = session.flight {
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
    pub(super) fn change(&mut self, no: SessionNo, change: impl FnOnce(&mut Session)) {
        let Some(session) = self.sessions.get_mut(&no) else { return };
        change(session);
        let deadline = session.deadline();
        // Most deadlines move on before they come: that is seen when the old one does.
        if deadline < session.armed {
            let armed = std::mem::replace(&mut session.armed, deadline);
            self.deadlines.remove(&(armed, Timer::Session(no)));
            self.deadlines.insert((deadline, Timer::Session(no)));
        }
    }

    pub(super) fn put(&mut self, no: SessionNo, place: Place) {
        if let Place::Held { connect, .. } = &place {
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

    pub(super) fn left_place(&mut self, place: &Place) {
        let Place::Held { connect, .. } = place else { return };
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
pub(super) struct Graves {
    by_id: HashMap<ClientId, (Why, Instant)>,
    oldest: VecDeque<ClientId>,
}

const GRAVES: usize = 4_096;

impl Graves {
    pub(super) fn bury(&mut self, id: ClientId, why: Why, at: Instant) {
        while self.oldest.len() >= GRAVES {
            let Some(oldest) = self.oldest.pop_front() else { break };
            self.by_id.remove(&oldest);
        }
        if self.by_id.insert(id.clone(), (why, at)).is_none() {
            self.oldest.push_back(id);
        }
    }

    pub(super) fn find(&self, id: &ClientId) -> Option<(Why, Instant)> {
        self.by_id.get(id).copied()
    }
}

fn error_of(why: Why) -> &'static str {
    match why {
        Why::LoginExpired => LOGIN_EXPIRED,
        Why::NoClientId
        | Why::NeverKnown
        | Why::Expired
        | Why::Disconnected
        | Why::CrowdedOut
        | Why::Overflowed
        | Why::Gap
        | Why::Restarted
        | Why::OtherUser
        | Why::OtherBrowser
        | Why::NoBrowser
        | Why::OtherSocket => UNKNOWN,
    }
}
