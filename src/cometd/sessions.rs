//! Every session of the event channel: one core machine.
//!
//! Hand in what happened with `handle_*`, then drain [`Sessions::poll_output`];
//! [`Sessions::poll_timeout`] says when to call [`Sessions::handle_timeout`].
//!
//! ```text
//! request ──handle_post──▶ ┌──────────┐ ──Answer, Send──▶ connection ──▶ client
//! notice ──handle_notice─▶ │ Sessions │ ◀─handle_written, handle_sent── it has left
//! time ────handle_timeout▶ └──────────┘ ◀─handle_cut, handle_gone────── it has not
//! ```
//!
//! Here the session is found that something has happened to: by client id, request, websocket, user
//! or subscription. What happens to it is decided by `Session` itself, with a `Ctx` of what all
//! sessions share, and for websockets by `Socket`.
//!
//! An event leaves a session's queue in one of three ways, and by no other:
//!
//! - **With a connect reply** (long-polling, callback-polling). It is kept until the answer's bytes
//!   have left on the connection; an answer that was cut gives its events back. While nobody knows
//!   yet, a newer connect waits for the outcome.
//! - **Pushed** (websocket). The same, frame by frame; one frame at a time, so that a slow client's
//!   queue grows here, where it is bounded.
//! - **Acknowledged** (the ack extension, on any transport). It goes with each connect reply until
//!   the client says that it came.

mod ended;
mod handshake;
mod inout;
mod sockets;
#[cfg(test)]
mod tests;

use super::CometdConfig;
use super::limits::QuotaOwner;
use super::message::{
    Advice, BayeuxReply, ClientId, ClientMessage, Event, MessageKind, Pattern, Reconnect,
};
use super::session::{
    ConnectRequest, Ctx, DeadlineOwner, Departure, Excess, Next, ReplyPath, Session, SessionInput,
    spread, unknown_echo,
};
pub use super::session::{ConnectionType, SessionId};
use crate::model::{Now, UserId};
use crate::secret::SharedSecret;
use ended::EndedSessions;
pub use inout::{
    ClientOrigin, ClientRequest, ClientRequestId, CometdTransport, LogChange, Output,
    RestoredEvents, Saved, SessionCounts, SessionEnd, SocketId,
};
use sockets::{SocketInput, Sockets};
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// By numbers that we have given ourselves, so that nobody can choose them to collide; in the same
/// order in every run.
pub(super) type Numbered<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// All sessions: finds the one that something has happened to, and lets it act.
///
/// After each `handle_*` take some of [`Sessions::poll_output`], or of [`Sessions::poll_ready`] and
/// [`Sessions::hand_out_next`]; what is not taken yet comes later, in order. Then
/// [`Sessions::poll_timeout`] says when to call [`Sessions::handle_timeout`].
#[derive(Debug)]
pub struct Sessions {
    sessions: Numbered<SessionId, Box<Session>>,
    by_id: HashMap<ClientId, SessionId, foldhash::fast::RandomState>,
    last_session: u64,
    sockets: Sockets,
    ended: EndedSessions,
    ctx: Ctx,
}

/// The channels of state, in the order they are told.
pub const STATES: [&str; 4] = ["/v2/me", "/v2/me/channels", "/v2/me/devices", "/v2/me/calls"];

const UNKNOWN: &str = "402::session_unknown";
const LOGIN_EXPIRED: &str = "401::login_expired";
const NO_COMMON_TYPE: &str = "301::connection_types_unsupported";
const CREATE_DENIED: &str = "403:denied_by_security_policy:channel_create_denied";
const PUBLISH_DENIED: &str = "403:denied_by_security_policy:publish_denied";
const CHANNEL_MISSING: &str = "400::channel_missing";
const CHANNEL_INVALID: &str = "405::channel_invalid";
const DATA_MISSING: &str = "403::data_missing";
const DATA_TOO_DEEP: &str = "400::data_too_deep";
const ID_INVALID: &str = "405::message_id_invalid";

/// Which logins of a user have ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedLogins<'a> {
    /// This HTTP session.
    One(&'a SharedSecret),
    /// Those of clients that send a password or a token alone.
    WithoutSession,
    /// All of them.
    All,
}

impl Sessions {
    /// Without sessions. `epoch` is one more at each start of the process; see `event_numbers`.
    pub fn new(config: CometdConfig, epoch: u64) -> Self {
        Self {
            sessions: Numbered::default(),
            by_id: HashMap::default(),
            last_session: 0,
            sockets: Sockets::default(),
            ended: EndedSessions::default(),
            ctx: Ctx::new(config, epoch),
        }
    }

    /// Sessions now.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// No session.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Websockets now.
    pub fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// How much there is, and has been.
    pub fn counts(&self) -> SessionCounts {
        self.ctx.counts
    }

    /// How old the oldest event of each answer was that has left since this was last asked.
    pub fn delivered(&mut self) -> impl Iterator<Item = Duration> + '_ {
        self.ctx.delivered.drain(..)
    }

    /// The process ends: every answer is the last on its connection.
    pub fn is_draining(&self) -> bool {
        self.ctx.is_draining
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        while self.ctx.out.is_empty() && self.hand_out_next() {}
        self.poll_ready()
    }

    /// What to do next, without handing out events to anybody more.
    pub fn poll_ready(&mut self) -> Option<Output> {
        let output = self.ctx.out.pop_front();
        if let Some(Output::Send { socket, .. }) = &output {
            self.sockets.handle(*socket, SocketInput::HandedOver, None, &mut self.ctx);
        }
        output
    }

    /// Events go out to the session that has waited longest for its turn. False: none waits.
    pub fn hand_out_next(&mut self) -> bool {
        let Some((no, _)) = self.ctx.turns.waiting.pop_front() else {
            return false;
        };
        if let Some(now) = self.ctx.turns.last {
            self.hand_in(no, SessionInput::Turn, now);
        }
        true
    }

    /// Sessions wait for their turn.
    pub fn has_woken(&self) -> bool {
        !self.ctx.turns.waiting.is_empty()
    }

    /// Since when the session waits that has waited longest for its turn.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.ctx.turns.waiting.front().map(|(_, since)| *since)
    }

    /// When to call [`Sessions::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.ctx.timers.first().map(|(at, _)| at)
    }

    /// An event that an earlier life has kept. Hand in a user's events from the oldest to the
    /// newest, before anything else.
    pub fn restore_event(&mut self, user: &UserId, number: u64, bytes: usize) {
        let gone = self.ctx.numbers.restore(user, number, bytes);
        if !gone.is_empty() {
            self.ctx.keep(LogChange::NoEvents { user: user.clone(), gone });
        }
    }

    /// Events that could not be kept after all: a client that asks for what was before hears that
    /// something is missing.
    pub fn handle_unkept(&mut self, user: &UserId, number: u64) {
        let gone = self.ctx.numbers.lost(user, number);
        self.ctx.keep(LogChange::NoEvents { user: user.clone(), gone });
    }

    /// Nothing that happened in earlier lives of the process is sure to be kept.
    pub fn restore_nothing(&mut self) {
        self.ctx.numbers.restore_nothing();
    }

    /// An earlier life has not kept the user's events up to this number.
    pub fn restore_dropped(&mut self, user: &UserId, number: u64) {
        self.ctx.numbers.restore_dropped(user, number);
    }

    /// A session that an earlier life has kept. Its client has as long as any other to come back.
    pub fn restore_session(&mut self, saved: Saved, now: Now) {
        let no = self.next_number();
        let mut session = Session::restored(no, saved, &self.ctx, now);
        session.handle_begin(&mut self.ctx);
        self.insert(session);
    }

    fn insert(&mut self, session: Session) {
        self.by_id.insert(session.id().clone(), session.no());
        self.sessions.insert(session.no(), Box::new(session));
    }

    /// A request has come.
    pub fn handle_post(&mut self, post: ClientRequest, now: Now) {
        let reach = post.reach();
        let ClientRequest { no: _, mut from, new_browser, via, fresh, messages } = post;
        if let ReplyPath::Socket(socket) = reach {
            self.sockets.handle(socket, SocketInput::Frame, None, &mut self.ctx);
        }
        if let Some(handshake) = messages
            .iter()
            .position(|message| matches!(message.kind, MessageKind::Handshake { .. }))
        {
            from.browser = from.browser.or(new_browser);
            // The text: other messages in the same request MUST be ignored.
            let reply = messages
                .into_iter()
                .nth(handshake)
                .map(|message| self.handshake(message, from, via, fresh, now));
            return self.answer(reach, Vec::new(), reply.into_iter().collect());
        }
        let alone = messages.len() == 1 || matches!(via, CometdTransport::Socket(_));
        let mut replies = Vec::with_capacity(messages.len());
        let mut events = Vec::new();
        let mut held = false;
        for message in messages {
            if matches!(message.kind, MessageKind::Connect { .. }) {
                match self.connect(message, &from, (reach, via), alone, now) {
                    Some(departure) => {
                        events.extend(departure.events);
                        replies.push(departure.reply);
                    }
                    None => held = true,
                }
            } else {
                replies.push(self.message(message, &from, reach, now));
            }
        }
        match reach {
            // A held request is answered when its connect is.
            ReplyPath::Post(_) if held => {}
            ReplyPath::Post(_) | ReplyPath::Socket(_) => self.answer(reach, events, replies),
        }
    }

    /// Whether it would draw its session away from another connection. If its own has gone, it is
    /// older than what came on that one, only read later, and is not to be handed in.
    pub fn takes_over(&self, post: &ClientRequest) -> bool {
        let reach = post.reach();
        post.messages.iter().any(|message| {
            let draws = match message.kind {
                MessageKind::Connect { .. } => true,
                MessageKind::Subscribe(_)
                | MessageKind::Unsubscribe(_)
                | MessageKind::Publish { .. } => {
                    matches!(reach, ReplyPath::Socket(_))
                }
                MessageKind::Handshake { .. }
                | MessageKind::Disconnect
                | MessageKind::NoChannel
                | MessageKind::BadId { .. }
                | MessageKind::TooDeep { .. } => false,
            };
            let no = message.client.as_ref().filter(|_| draws).and_then(|id| self.by_id.get(id));
            no.and_then(|no| self.sessions.get(no))
                .is_some_and(|session| session.is_elsewhere(reach))
        })
    }

    /// The answer has left: its events are delivered.
    pub fn handle_written(&mut self, post: ClientRequestId, now: Now) {
        self.handle_outcome(post, SessionInput::Arrived, now);
    }

    /// The request's connection is gone, held or answered, and no answer has left on it: its events
    /// wait for the next connect.
    pub fn handle_cut(&mut self, post: ClientRequestId, now: Now) {
        self.handle_outcome(post, SessionInput::Cut, now);
    }

    fn handle_outcome(
        &mut self,
        post: ClientRequestId,
        outcome: fn(ReplyPath) -> SessionInput<'static>,
        now: Now,
    ) {
        for no in self.ctx.sessions_by_request.remove(&post).unwrap_or_default() {
            self.hand_in(no, outcome(ReplyPath::Post(post)), now);
        }
    }

    /// A websocket has been opened.
    pub fn handle_open(&mut self, socket: SocketId, address: IpAddr, now: Now) {
        self.sockets.open(socket, address, &mut self.ctx, now);
    }

    /// The frame under way on this socket has left: its events are delivered.
    pub fn handle_sent(&mut self, socket: SocketId, now: Now) {
        let path = ReplyPath::Socket(socket);
        let sent = self.sockets.handle(socket, SocketInput::Sent, None, &mut self.ctx);
        for no in sent.unwrap_or_default().arrived {
            self.hand_in(no, SessionInput::Arrived(path), now);
        }
        self.answer(path, Vec::new(), Vec::new());
    }

    /// The socket is closed or cut, and the frame under way has not left. Its session waits for its
    /// client to come back.
    pub fn handle_gone(&mut self, socket: SocketId, now: Now) {
        let Some(state) = self.sockets.remove(socket) else {
            return;
        };
        for no in state.handle_gone(&mut self.ctx) {
            self.hand_in(no, SessionInput::SocketLost(socket), now);
        }
    }

    /// Something has happened that this user's sessions are told. `data` is JSON; `channel` is one
    /// of [`STATES`].
    pub fn handle_notice(&mut self, user: &UserId, channel: &'static str, data: &str, now: Now) {
        let number = self.ctx.numbers.next(user);
        let event = Event::numbered(channel, data, number, now.mono);
        if self.ctx.numbers.keeps() {
            let gone = self.ctx.numbers.kept(user, number, event.text.len());
            self.ctx.keep(LogChange::Event {
                user: user.clone(),
                channel,
                event: event.clone(),
                gone,
            });
        }
        let sessions: Vec<SessionId> = self
            .ctx
            .quotas
            .sessions(&QuotaOwner::User(Some(user.clone())))
            .iter()
            .copied()
            .collect();
        for no in sessions {
            self.hand_in(no, SessionInput::Event(channel, &event), now);
        }
    }

    /// The state asked for with [`Output::State`]: channel and `data`.
    pub fn handle_state(
        &mut self,
        session: SessionId,
        states: &[(&'static str, String)],
        now: Now,
    ) {
        self.hand_in(session, SessionInput::State(states), now);
    }

    /// What was asked for with [`Output::Replay`], oldest first; `None`: it cannot be read.
    pub fn handle_replay(
        &mut self,
        session: SessionId,
        kept: Option<Vec<RestoredEvents>>,
        now: Now,
    ) {
        self.hand_in(session, SessionInput::Replay(kept), now);
    }

    /// Notices have been lost on the way here. Nobody may miss one silently: sessions that hear
    /// them end, and their clients shake hands again, not all at once, and get the present state.
    pub fn handle_gap(&mut self, now: Now) {
        let mut hearers = Vec::new();
        for (no, session) in &mut self.sessions {
            if session.handle_gap() {
                hearers.push(*no);
            }
        }
        for no in hearers {
            self.end(no, SessionEnd::Gap, now);
        }
    }

    /// What comes in has to wait so long, lately. Clients are told to wait, too: each a little
    /// different, and in steps, so that it is not told them anew with every reply.
    pub fn handle_pressure(&mut self, waiting: Duration) {
        let steps = waiting.as_millis() / self.ctx.config.overload.as_millis().max(1);
        self.ctx.pressure = match steps {
            0 => Duration::ZERO,
            steps => Duration::from_secs(1 << (steps.ilog2().min(4))),
        };
    }

    /// A user has logged out: the sessions that were opened in this HTTP session end or, without
    /// one, those whose clients send a password or a token alone, or all of them. What they have
    /// been told by then goes out first, as far as its way is open.
    pub fn handle_logout(&mut self, user: &UserId, what: EndedLogins<'_>, now: Now) {
        let owner = QuotaOwner::User(Some(user.clone()));
        let of_login = self.of_owner(&owner).filter(|session| match what {
            EndedLogins::One(login) => session.is_of_login(Some(login)),
            EndedLogins::WithoutSession => session.is_of_login(None),
            EndedLogins::All => true,
        });
        let ending: Vec<SessionId> = of_login.map(Session::no).collect();
        for no in ending {
            self.hand_in(no, SessionInput::Turn, now);
            self.end(no, SessionEnd::LoggedOut, now);
        }
        if let EndedLogins::One(login) = what {
            self.ended.add_login(login.clone());
        }
    }

    /// We are going down: every held connect is answered, no more are held, and websockets close.
    #[expect(clippy::disallowed_methods, reason = "what comes out is sorted")]
    pub fn handle_drain(&mut self, now: Now) {
        self.ctx.is_draining = true;
        let mut held: Vec<&mut Box<Session>> =
            self.sessions.values_mut().filter(|session| session.is_held()).collect();
        held.sort_unstable_by_key(|session| session.no());
        for session in held {
            if let Some(departure) = session.release(&mut self.ctx, now) {
                depart(&mut self.sockets, departure, Some(session), &mut self.ctx);
            }
        }
        let on_sockets = self.sessions.values_mut();
        let on_sockets = on_sockets.filter_map(|session| Some((session.socket()?, &mut **session)));
        self.sockets.handle_drain(on_sockets.collect(), &mut self.ctx);
    }

    /// A deadline has come: a hold is over, a session, a login, or a socket without a session.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some((at, owner)) = self.ctx.timers.first().filter(|(at, _)| *at <= now.mono) {
            let was_there = match owner {
                DeadlineOwner::Session(no) => self.hand_in(no, SessionInput::Timeout, now),
                DeadlineOwner::Socket(socket) => {
                    let input = SocketInput::Timeout;
                    self.sockets.handle(socket, input, None, &mut self.ctx).is_some()
                }
            };
            if !was_there {
                // It went with what it was for; never there.
                self.ctx.timers.disarm(at, owner);
            }
        }
    }

    // ---- messages

    /// The session that a message speaks for, with what it may change.
    fn claimed(
        &mut self,
        message: &ClientMessage,
        from: &ClientOrigin,
        path: ReplyPath,
    ) -> Result<(&mut Session, &mut Sockets, &mut Ctx), SessionEnd> {
        let id = message.client.as_ref().ok_or(SessionEnd::NoClientId)?;
        let no = self.by_id.get(id).ok_or(SessionEnd::NeverKnown)?;
        let session = self.sessions.get_mut(no).ok_or(SessionEnd::NeverKnown)?;
        session.is_open_to(from, self.sockets.session_on(path))?;
        Ok((session, &mut self.sockets, &mut self.ctx))
    }

    /// The reply with its events; `None` when the connect is held.
    fn connect(
        &mut self,
        message: ClientMessage,
        from: &ClientOrigin,
        (by, via): (ReplyPath, CometdTransport),
        alone: bool,
        now: Now,
    ) -> Option<Departure> {
        let MessageKind::Connect { connection_type, advice } = &message.kind else {
            unreachable!("sorted before")
        };
        let at_once = |reply| Some(Departure { by, events: Vec::new(), reply });
        let (session, sockets, ctx) = match self.claimed(&message, from, by) {
            Ok(claimed) => claimed,
            Err(why) => return at_once(self.unknown(message, why, from, now)),
        };
        if !ctx.is_offered(connection_type.as_deref()) {
            return at_once(BayeuxReply {
                advice: Some(session.retry(ctx)),
                ..failed("/meta/connect", message.id, NO_COMMON_TYPE)
            });
        }
        if !session.can_resume(message.ext.ack, ctx) {
            let no = session.no();
            self.end(no, SessionEnd::Restarted, now);
            return at_once(self.unknown(message, SessionEnd::Restarted, from, now));
        }
        session.supersede(by, ctx, now);
        sockets.attach(session, by, ctx);
        let request = ConnectRequest {
            by,
            transport: via,
            alone,
            id: message.id,
            ack: message.ext.ack,
            timesync: message.ext.timesync,
            advice: *advice,
            browser: from.browser.clone(),
            login_until: from.login_until,
            login: (from.login.clone(), from.by_password_alone),
        };
        session.handle_connect(request, ctx, now)
    }

    fn message(
        &mut self,
        message: ClientMessage,
        from: &ClientOrigin,
        by: ReplyPath,
        now: Now,
    ) -> BayeuxReply {
        let id = message.id.clone();
        match &message.kind {
            MessageKind::NoChannel => return failed(None, id, CHANNEL_MISSING),
            MessageKind::BadId { channel } => return failed(channel.as_str(), id, ID_INVALID),
            MessageKind::TooDeep { channel } => return failed(channel.as_str(), id, DATA_TOO_DEEP),
            MessageKind::Handshake { .. }
            | MessageKind::Connect { .. }
            | MessageKind::Subscribe(_)
            | MessageKind::Unsubscribe(_)
            | MessageKind::Disconnect
            | MessageKind::Publish { .. } => {}
        }
        let (session, sockets, ctx) = match self.claimed(&message, from, by) {
            Ok(claimed) => claimed,
            Err(why) => return self.unknown(message, why, from, now),
        };
        session.handle_message(ctx, now);
        if let ReplyPath::Socket(_) = by {
            sockets.attach(session, by, ctx);
            session.ask_for_outcome(by, ctx);
        }
        match message.kind {
            MessageKind::Subscribe(subscription) => {
                session.handle_subscribe(id, subscription, message.ext.replay.as_ref(), ctx)
            }
            MessageKind::Unsubscribe(subscription) => {
                session.handle_unsubscribe(id, subscription, ctx)
            }
            MessageKind::Disconnect => {
                let no = session.no();
                self.end(no, SessionEnd::Disconnected, now);
                done("/meta/disconnect", id)
            }
            MessageKind::Publish { channel, data } => {
                match self.publish(&channel, data.as_deref(), now) {
                    Ok(()) => done(channel, id),
                    Err(error) => failed(channel.as_str(), id, error),
                }
            }
            MessageKind::Handshake { .. }
            | MessageKind::Connect { .. }
            | MessageKind::NoChannel
            | MessageKind::BadId { .. }
            | MessageKind::TooDeep { .. } => {
                unreachable!("sorted out before")
            }
        }
    }

    /// Clients do not speak on the channels of state; on `/service/**` they speak to nobody.
    fn publish(&mut self, channel: &str, data: Option<&str>, now: Now) -> Result<(), &'static str> {
        let pattern = Pattern::parse(channel).ok_or(CHANNEL_INVALID)?;
        let channel = pattern.exact().ok_or(CHANNEL_INVALID)?;
        if channel.starts_with("/meta/") {
            return Err(CREATE_DENIED);
        }
        if channel.starts_with("/service/") {
            return Ok(());
        }
        if !self.ctx.open.iter().any(|open| open.matches(channel)) {
            return Err(PUBLISH_DENIED);
        }
        let event = Event::plain(channel, data.ok_or(DATA_MISSING)?, now.mono);
        for no in self.ctx.subscriptions.hearers(channel) {
            self.hand_in(no, SessionInput::Event(channel, &event), now);
        }
        Ok(())
    }

    /// 402, and always how to go on: clients key on the advice.
    fn unknown(
        &mut self,
        message: ClientMessage,
        why: SessionEnd,
        from: &ClientOrigin,
        now: Now,
    ) -> BayeuxReply {
        let ended = message.client.as_ref().filter(|_| why == SessionEnd::NeverKnown);
        let ended = ended.and_then(|id| self.ended.find(id));
        let why = ended.map_or(why, |(why, _)| why);
        self.ctx.out.push_back(Output::UnknownSession {
            why,
            gone_for: ended.map(|(_, at)| now.mono.saturating_duration_since(at)),
            user: from.user.clone(),
        });
        let interval = message.client.as_ref().filter(|_| why == SessionEnd::Gap);
        let interval =
            interval.map_or(Duration::ZERO, |id| spread(id, self.ctx.config.drain_window));
        BayeuxReply {
            subscription: unknown_echo(&message.kind),
            advice: Some(Advice {
                interval: interval.as_millis() as u64,
                ..bare_advice(Reconnect::Handshake)
            }),
            ..failed(message.kind.channel(), message.id, UNKNOWN)
        }
    }

    // ---- what sessions have to send

    /// Something happens to one session. What waits for it is handed out if it is to be; it ends if
    /// it has more than it may keep. False: it is gone.
    fn hand_in(&mut self, no: SessionId, input: SessionInput<'_>, now: Now) -> bool {
        let Some(session) = self.sessions.get_mut(&no) else {
            return false;
        };
        let (sockets, ctx) = (&mut self.sockets, &mut self.ctx);
        match session.handle(input, ctx, now) {
            Next::Nothing => {}
            Next::Answer(departure) => depart(sockets, departure, Some(session), ctx),
            Next::End(why) => self.end(no, why, now),
            // The rest follows as soon as the frame has left; if it does not leave, the next event
            // shows it.
            Next::HandOut if sockets.push(session, ctx) => {}
            Next::HandOut => {
                if let Some(departure) = session.handle_turn(ctx, now) {
                    depart(sockets, departure, Some(session), ctx);
                }
                match session.excess(ctx) {
                    None => {}
                    Some(Excess::Session) => self.end(no, SessionEnd::Overflowed, now),
                    Some(Excess::Quota(who)) => self.relieve(no, &who, now),
                }
            }
        }
        true
    }

    /// All sessions of a user, or from an address.
    fn of_owner(&self, who: &QuotaOwner) -> impl Iterator<Item = &Session> {
        let numbers = self.ctx.quotas.sessions(who).iter();
        numbers.filter_map(|no| self.sessions.get(no)).map(|session| &**session)
    }

    /// All sessions of a user or an address have too much together: the one with most ends.
    fn relieve(&mut self, no: SessionId, who: &QuotaOwner, now: Now) {
        let sessions = self.of_owner(who);
        let Some(fullest) = sessions.max_by_key(|session| session.queued_bytes()) else {
            return;
        };
        // Another that has not had its turn yet may be rid of it then.
        if fullest.no() == no || !fullest.waits_for_turn() {
            let fullest = fullest.no();
            self.end(fullest, SessionEnd::Overflowed, now);
        }
    }

    /// The session is over. A held connect says how its client is to go on.
    fn end(&mut self, no: SessionId, why: SessionEnd, now: Now) {
        let Some(session) = self.sessions.remove(&no) else {
            return;
        };
        self.by_id.remove(session.id());
        self.ended.add(session.id().clone(), why, now.mono);
        let socket = session.socket();
        if let Some(departure) = session.handle_end(why, &mut self.ctx) {
            depart(&mut self.sockets, departure, None, &mut self.ctx);
        }
        if let Some(socket) = socket {
            let input = match why.closes_socket() {
                Some((code, reason)) => SocketInput::Close(code, reason),
                None => SocketInput::Unbind(now),
            };
            self.sockets.handle(socket, input, None, &mut self.ctx);
        }
    }

    fn answer(&mut self, path: ReplyPath, events: Vec<Arc<Event>>, replies: Vec<BayeuxReply>) {
        let session = self.sockets.session_on(path).and_then(|no| self.sessions.get_mut(&no));
        self.sockets.answer(
            path,
            (events, replies),
            session.map(|session| &mut **session),
            &mut self.ctx,
        );
    }
}

/// Sends a reply with its events.
fn depart(
    sockets: &mut Sockets,
    departure: Departure,
    session: Option<&mut Session>,
    ctx: &mut Ctx,
) {
    let Departure { by, events, reply } = departure;
    sockets.answer(by, (events, vec![reply]), session, ctx);
}

pub(super) fn bare_advice(reconnect: Reconnect) -> Advice {
    Advice { reconnect, interval: 0, timeout: None, multiple_clients: None }
}

pub(super) fn done(channel: impl Into<String>, id: Option<String>) -> BayeuxReply {
    BayeuxReply { channel: Some(channel.into()), id, successful: true, ..BayeuxReply::default() }
}

pub(super) fn failed<'a>(
    channel: impl Into<Option<&'a str>>,
    id: Option<String>,
    error: &'static str,
) -> BayeuxReply {
    BayeuxReply {
        channel: channel.into().map(str::to_owned),
        id,
        error: Some(error),
        ..BayeuxReply::default()
    }
}
