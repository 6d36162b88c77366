//! Handshakes: who gets a session, and how many.

use super::*;

impl Sessions {
    pub(super) fn handshake(
        &mut self,
        message: ClientMessage,
        from: ClientOrigin,
        via: CometdTransport,
        fresh: ClientId,
        now: Now,
    ) -> BayeuxReply {
        let mut types = self.types.clone();
        if let CometdTransport::Http { blocked: true, .. } = via {
            // Offered again, npm `cometd` would choose it again, for ever.
            types.retain(|name| *name != ConnectionType::Websocket.as_str());
        }
        let refused = |error, reconnect, interval: Duration| BayeuxReply {
            supported_connection_types: Some(types.clone()),
            advice: Some(Advice {
                reconnect,
                interval: interval.as_millis() as u64,
                timeout: None,
                multiple_clients: None,
            }),
            ..failed("/meta/handshake", message.id.clone(), error)
        };
        if let MessageKind::Handshake {
            connection_types: Some(offered),
        } = &message.kind
            && !offered.iter().any(|one| self.is_offered(Some(one)))
        {
            return refused(NO_COMMON_TYPE, Reconnect::None, Duration::ZERO);
        }
        if from.user.is_none() && !self.config.anonymous {
            return refused(HANDSHAKE_DENIED, Reconnect::None, Duration::ZERO);
        }
        if let Err(wait) = self.may_shake(&from, now) {
            self.outputs.push_back(Output::Throttled {
                user: from.user,
                address: from.address,
            });
            let wait = wait.max(Duration::from_secs(1));
            return refused(TOO_MANY_HANDSHAKES, Reconnect::Handshake, wait + self.spread(&fresh, wait));
        }
        if !self.make_room(&from, now) {
            let wait = self.config.drain_window;
            return refused(
                TOO_MANY_SESSIONS,
                Reconnect::Handshake,
                Duration::from_secs(1) + self.spread(&fresh, wait),
            );
        }
        let last = from.user.as_ref().map_or(0, |user| self.ledger.last(user));
        let owner = SessionOwner {
            user: from.user,
            browser: from.browser,
            login: from.login,
            address: from.address,
        };
        let session = Session {
            acks: message.ext.acks.then(|| Acks::new(last, 0)),
            ..self.session(fresh.clone(), owner, from.login_until, via.transport(), now)
        };
        let ext = ReplyExt {
            ack: session.acks.map(|_| AckExt::Enabled(true)),
            timesync: timesync(message.ext.timesync, now, now),
            replay: (message.ext.replay.is_some() && session.owner.user.is_some()).then_some(ReplayReply { last, complete: None }),
        };
        let no = self.insert(session, now);
        if let CometdTransport::Socket(socket) = via {
            self.leave_socket(socket, now);
            self.attach(no, ReplyPath::Socket(socket));
        }
        self.save(no);
        BayeuxReply {
            version: Some("1.0"),
            supported_connection_types: Some(types),
            client_id: Some(fresh.clone()),
            advice: Some(self.retry(&fresh)),
            ext,
            ..done("/meta/handshake", message.id)
        }
    }

    pub(super) fn may_shake(&mut self, from: &ClientOrigin, now: Now) -> Result<(), Duration> {
        for who in [QuotaOwner::User(from.user.clone()), QuotaOwner::Address(from.address)] {
            self.accounts.entry(who, &self.config, now.mono).shake(now.mono)?;
        }
        Ok(())
    }

    /// A user who opens one session after the other loses the one that would have expired first, unless all of them are held.
    pub(super) fn make_room(&mut self, from: &ClientOrigin, now: Now) -> bool {
        let sessions = |who: &QuotaOwner| self.accounts.get(who).map_or(0, |account| account.sessions.len());
        if self.sessions.len() >= self.config.max_sessions
            || sessions(&QuotaOwner::Address(from.address)) >= self.config.max_sessions_per_address
        {
            return false;
        }
        let mine = QuotaOwner::User(from.user.clone());
        if from.user.is_none() || sessions(&mine) < self.config.max_sessions_per_user {
            return true;
        }
        let mine = self.accounts.get(&mine).into_iter().flat_map(|account| &account.sessions);
        let idle = mine.filter_map(|no| match &self.sessions.get(no)?.place {
            SessionState::New { expires } | SessionState::Away { expires } => Some((*expires, *no)),
            SessionState::Held { .. } => None,
        });
        let Some((_, no)) = idle.min() else { return false };
        self.end(no, SessionEnd::CrowdedOut, now);
        true
    }

    /// As it is after its handshake.
    pub(super) fn session(
        &self,
        id: ClientId,
        owner: SessionOwner,
        login_until: Option<Instant>,
        transport: ConnectionType,
        now: Now,
    ) -> Session {
        let expires = now.mono + self.interval_of(&id) + self.config.max_interval;
        Session {
            told_interval: self.interval_of(&id).as_millis() as u64,
            place: SessionState::New { expires },
            armed: expires,
            id,
            owner,
            login_until,
            subscriptions: Vec::new(),
            queue: Queue::default(),
            queued: Default::default(),
            acks: None,
            connected: false,
            transport,
            socket: None,
            flight: None,
            behind: None,
            state_asked: false,
            state_wanted: BTreeSet::new(),
            restored: false,
            woken: false,
            saved: false,
        }
    }

    pub(super) fn insert(&mut self, mut session: Session, now: Now) -> SessionId {
        self.last_session += 1;
        let no = SessionId(self.last_session);
        session.queued = session.owner.accounts().map(|who| {
            let account = self.accounts.entry(who, &self.config, now.mono);
            account.sessions.insert(no);
            account.subscriptions += session.subscriptions.len();
            account.queued.clone()
        });
        for (_, pattern) in &session.subscriptions {
            self.interest.add(pattern, no);
        }
        self.counts.by_transport[session.transport as usize] += 1;
        self.by_id.insert(session.id.clone(), no);
        session.armed = session.deadline();
        self.deadlines.insert((session.armed, SessionTimer::Session(no)));
        self.sessions.insert(no, Box::new(session));
        no
    }
}
