//! Handshakes: which client gets a session, and how many.

use super::sockets::SocketInput;
use super::{Sessions, bare_advice, done, failed};
use crate::cometd::limits::QuotaOwner;
use crate::cometd::message::{
    AckExt, Advice, BayeuxReply, ClientId, ClientMessage, MessageKind, Reconnect, ReplayReply,
    ReplyExt,
};
use crate::cometd::session::{
    ConnectionType, ReplyPath, Session, SessionId, SessionInput, SessionOwner, spread, timesync,
};
use crate::cometd::sessions::{
    ClientOrigin, CometdTransport, NO_COMMON_TYPE, Output, SessionEnd, SocketId,
};
use crate::model::Now;
use std::time::Duration;

pub(super) const HANDSHAKE_DENIED: &str = "403::handshake_denied";
pub(super) const TOO_MANY_SESSIONS: &str = "403::too_many_sessions";
pub(super) const TOO_MANY_HANDSHAKES: &str = "429::too_many_handshakes";

impl Sessions {
    pub(super) fn handshake(
        &mut self,
        message: ClientMessage,
        from: ClientOrigin,
        via: CometdTransport,
        fresh: ClientId,
        now: Now,
    ) -> BayeuxReply {
        let mut types = self.ctx.types.clone();
        if let CometdTransport::Http { blocked: true, .. } = via {
            // Offered again, npm `cometd` would choose it again, for ever.
            types.retain(|name| *name != ConnectionType::Websocket.as_str());
        }
        let refused = |error, reconnect, interval: Duration| BayeuxReply {
            supported_connection_types: Some(types.clone()),
            advice: Some(Advice {
                interval: interval.as_millis() as u64,
                ..bare_advice(reconnect)
            }),
            ..failed("/meta/handshake", message.id.clone(), error)
        };
        let MessageKind::Handshake { connection_types, advice } = &message.kind else {
            unreachable!("sorted before")
        };
        if let Some(offered) = connection_types
            && !offered.iter().any(|one| self.ctx.is_offered(Some(one)))
        {
            return refused(NO_COMMON_TYPE, Reconnect::None, Duration::ZERO);
        }
        let has_ended = from.login.as_ref().is_some_and(|login| self.ended.has_login(login));
        let is_nobody = from.user.is_none() && !self.ctx.config.anonymous;
        // A websocket keeps the login that it was opened by.
        let is_over = from.login_until.is_some_and(|until| until <= now.mono);
        if from.is_refused || has_ended || is_nobody || is_over {
            return refused(HANDSHAKE_DENIED, Reconnect::None, Duration::ZERO);
        }
        if let Err(wait) = self.ctx.quotas.shake(&from, &self.ctx.config, now.mono) {
            self.ctx.out.push_back(Output::Throttled { user: from.user, address: from.address });
            let wait = wait.max(Duration::from_secs(1));
            return refused(TOO_MANY_HANDSHAKES, Reconnect::Handshake, wait + spread(&fresh, wait));
        }
        if !self.make_room(&from, now) {
            let wait = Duration::from_secs(1) + spread(&fresh, self.ctx.config.drain_window);
            return refused(TOO_MANY_SESSIONS, Reconnect::Handshake, wait);
        }
        let last = from.user.as_ref().map_or(0, |user| self.ctx.numbers.last(user));
        let acks_from = message.ext.acks.then_some(last);
        let ext = ReplyExt {
            ack: acks_from.map(|_| AckExt::Enabled(true)),
            timesync: timesync(message.ext.timesync, now, now),
            replay: (message.ext.replay.is_some() && from.user.is_some())
                .then_some(ReplayReply { last, complete: None }),
        };
        let owner = SessionOwner {
            user: from.user,
            browser: from.browser,
            login: from.login,
            by_password_alone: from.by_password_alone,
            address: from.address,
        };
        let terms = self.ctx.terms(*advice);
        if let CometdTransport::Socket(socket) = via {
            self.displace(socket, now);
        }
        let names = (self.next_number(), fresh.clone());
        let session = Session::new(
            names,
            owner,
            (from.login_until, acks_from),
            (via.transport(), terms),
            &self.ctx,
            now,
        );
        self.begin(session, via);
        BayeuxReply {
            version: Some("1.0"),
            supported_connection_types: Some(types),
            advice: Some(self.ctx.retry(&fresh, terms)),
            client_id: Some(fresh),
            ext,
            ..done("/meta/handshake", message.id)
        }
    }

    /// A user with too many sessions loses the one that would have expired first, unless all of
    /// them are held.
    fn make_room(&mut self, from: &ClientOrigin, now: Now) -> bool {
        let (quotas, config) = (&self.ctx.quotas, &self.ctx.config);
        let address = QuotaOwner::Address(from.address);
        if self.sessions.len() >= config.max_sessions
            || quotas.sessions(&address).len() >= config.max_sessions_per_address
        {
            return false;
        }
        let user = QuotaOwner::User(from.user.clone());
        if from.user.is_none() || quotas.sessions(&user).len() < config.max_sessions_per_user {
            return true;
        }
        let sessions = self.of_owner(&user);
        let expiries = sessions.filter_map(|session| Some((session.expires()?, session.no())));
        let Some((_, no)) = expiries.min() else {
            return false;
        };
        self.end(no, SessionEnd::CrowdedOut, now);
        true
    }

    /// The session that was on the socket is not any more.
    fn displace(&mut self, socket: SocketId, now: Now) {
        if let Some(no) = self.sockets.session_on(ReplyPath::Socket(socket)) {
            self.sockets.handle(socket, SocketInput::Unbind(now), None, &mut self.ctx);
            self.hand_in(no, SessionInput::Displaced(socket), now);
        }
    }

    /// Opens a session, reached by this path.
    fn begin(&mut self, mut session: Session, via: CometdTransport) {
        session.handle_begin(&mut self.ctx);
        if let CometdTransport::Socket(socket) = via {
            self.sockets.attach(&mut session, ReplyPath::Socket(socket), &mut self.ctx);
        }
        session.save(&mut self.ctx);
        self.insert(session);
    }

    pub(super) fn next_number(&mut self) -> SessionId {
        self.last_session += 1;
        SessionId(self.last_session)
    }
}
