//! One session of the event channel: what it hears, what waits for it, and how its client is
//! reached.
//!
//! Hand in messages of its client with [`Session::handle_message`], [`Session::handle_connect`],
//! [`Session::handle_subscribe`] and [`Session::handle_unsubscribe`], everything else as a
//! [`SessionInput`] with [`Session::handle`], and its end with [`Session::handle_end`]; each with a
//! [`Ctx`]. What comes out is in `Ctx::out`, in order; a reply that is due is returned as a
//! [`Departure`], and what else is to be done as [`Next`]. After each step its deadline stands in
//! `Ctx::timers`, and it is in `Ctx::turns` when it has something to send. Its events have a
//! machine of their own, [`EventDelivery`].
//!
//! A session is in one of three states, and each has exactly one deadline, so none can leak:
//!
//! ```text
//! handshake ─▶ New ──connect──▶ Away ──connect, nothing to tell──▶ Held
//!                                ▲                                  │
//!                                └──── event, hold over, cut ───────┘
//! ```

mod connect;
mod context;
mod delivery;
mod queue;
mod subscribe;

use super::limits::QuotaOwner;
use super::message::{Advice, ClientId, Event, Pattern, Timesync};
use super::sessions::{ClientOrigin, ClientRequestId, RestoredEvents, Saved, SessionEnd, SocketId};
use crate::model::{Now, UserId};
use crate::secret::SharedSecret;
pub use connect::{ConnectRequest, Departure};
pub use context::{Ctx, DeadlineOwner, Terms, spread, timesync};
use delivery::{EventDelivery, Surplus};
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
pub use subscribe::unknown_echo;

/// Numbers the sessions; none is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// The path on which a message has come, and its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyPath {
    Post(ClientRequestId),
    Socket(SocketId),
}

/// The client that sent the handshake which opened the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionOwner {
    pub user: Option<UserId>,
    pub browser: Option<SharedSecret>,
    pub login: Option<SharedSecret>,
    pub by_password_alone: bool,
    pub address: IpAddr,
}

impl SessionOwner {
    pub fn accounts(&self) -> [QuotaOwner; 2] {
        [QuotaOwner::User(self.user.clone()), QuotaOwner::Address(self.address)]
    }
}

/// How a client reaches its session, by its last connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionType {
    /// `long-polling` by POST.
    LongPolling,
    /// `callback-polling`, by GET with `jsonp`.
    CallbackPolling,
    /// `websocket`, with or without acknowledgements.
    Websocket,
}

impl ConnectionType {
    /// All of them.
    pub const ALL: [ConnectionType; 3] =
        [ConnectionType::LongPolling, ConnectionType::CallbackPolling, ConnectionType::Websocket];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ConnectionType::LongPolling => "long-polling",
            ConnectionType::CallbackPolling => "callback-polling",
            ConnectionType::Websocket => "websocket",
        }
    }
}

#[derive(Debug)]
pub struct Session {
    no: SessionId,
    id: ClientId,
    owner: SessionOwner,
    /// End of its user's login, if it ends.
    login_until: Option<Instant>,
    subscriptions: Vec<(String, Pattern)>,
    delivery: EventDelivery,
    /// It has connected before: only then a connect is held.
    connected: bool,
    /// What it was last told to wait between connects, in milliseconds.
    told_interval: u64,
    /// What its client has asked for, as far as it may.
    terms: Terms,
    transport: ConnectionType,
    state: SessionState,
    /// When its deadline is looked at: never later than that.
    armed: Instant,
    /// The websocket it is on.
    socket: Option<SocketId>,
    /// The gateway has been asked for the present state on its behalf.
    state_asked: bool,
    /// Further channels of which it wants the state; asked for when that has come.
    state_wanted: BTreeSet<&'static str>,
    /// The event log has it, so that it outlives this process.
    saved: bool,
    /// It waits for its turn to hand something out.
    waits_for_turn: bool,
}

#[derive(Debug)]
enum SessionState {
    /// After the handshake.
    New { expires: Instant },
    /// A connect waits for an event.
    Held { connect: Connect, until: Instant },
    /// Between two connects.
    Away { expires: Instant },
}

/// What happens to a session beside the messages of its client.
#[derive(Debug)]
pub enum SessionInput<'a> {
    /// Its user is told something on this channel, or another client has published there.
    Event(&'a str, &'a Arc<Event>),
    /// The state that was asked for with `Output::State`: channel and `data`.
    State(&'a [(&'static str, String)]),
    /// What was asked for with `Output::Replay`, oldest first; `None`: it cannot be read.
    Replay(Option<Vec<RestoredEvents>>),
    /// What left by this path has arrived.
    Arrived(ReplyPath),
    /// What left by this path never arrives.
    Cut(ReplyPath),
    /// The websocket is closed or cut, and the frame under way has not left.
    SocketLost(SocketId),
    /// Another session takes its websocket.
    Displaced(SocketId),
    /// Its turn to hand out what waits has come.
    Turn,
    /// Its deadline may have come.
    Timeout,
}

/// What is to be done after a step.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, on the stack: a box would cost each answer an allocation"
)]
pub enum Next {
    /// Nothing at once.
    Nothing,
    /// What waits is handed out, then [`Session::excess`] is asked.
    HandOut,
    /// The held connect is answered.
    Answer(Departure),
    /// The session is ended.
    End(SessionEnd),
}

/// What more waits than may.
#[derive(Debug)]
pub enum Excess {
    /// For the session itself.
    Session,
    /// For all sessions of its user or address together.
    Quota(QuotaOwner),
}

impl Session {
    /// As it is after its handshake, with acknowledgements of events behind `acks_from`, if its
    /// client can.
    pub fn new(
        (no, id): (SessionId, ClientId),
        owner: SessionOwner,
        (login_until, acks_from): (Option<Instant>, Option<u64>),
        (transport, terms): (ConnectionType, Terms),
        ctx: &Ctx,
        now: Now,
    ) -> Self {
        let interval = ctx.interval_of(&id, terms);
        let expires = now.mono + interval + ctx.config.max_interval;
        Self {
            told_interval: interval.as_millis() as u64,
            terms,
            state: SessionState::New { expires },
            armed: expires,
            no,
            id,
            owner,
            login_until,
            subscriptions: Vec::new(),
            delivery: EventDelivery::new(acks_from),
            connected: false,
            transport,
            socket: None,
            state_asked: false,
            state_wanted: BTreeSet::new(),
            waits_for_turn: false,
            saved: false,
        }
    }

    /// As an earlier life of the process has kept it. Its client has as long as any other to come
    /// back.
    pub fn restored(no: SessionId, saved: Saved, ctx: &Ctx, now: Now) -> Self {
        let owner = SessionOwner {
            user: Some(saved.user),
            browser: saved.browser,
            login: None,
            by_password_alone: false,
            address: saved.address,
        };
        let way = (ConnectionType::LongPolling, ctx.terms(None));
        let subscriptions = saved.subscriptions.into_iter();
        let subscriptions =
            subscriptions.filter_map(|name| Pattern::parse(&name).map(|pattern| (name, pattern)));
        Self {
            delivery: EventDelivery::restored(saved.base, saved.offset),
            subscriptions: subscriptions.collect(),
            saved: true,
            connected: true,
            // Its client may still do as it was told when the process went down.
            told_interval: UNTOLD,
            state: SessionState::New {
                // As long as it may have been told to stay away, and then as any other.
                expires: now.mono
                    + Duration::from_secs(1)
                    + ctx.config.drain_window
                    + ctx.config.max_interval,
            },
            ..Self::new((no, saved.id), owner, (None, None), way, ctx, now)
        }
    }

    /// The session begins: it enters every index.
    pub fn handle_begin(&mut self, ctx: &mut Ctx) {
        let quotas = self.owner.accounts();
        self.delivery.count_in(ctx.quotas.opened(quotas, self.no), self.subscriptions.len());
        for (_, pattern) in &self.subscriptions {
            ctx.subscriptions.add(pattern, self.no);
        }
        ctx.counts.by_transport[self.transport as usize] += 1;
        self.armed = self.deadline();
        ctx.timers.arm(self.armed, self.timer());
    }

    pub fn no(&self) -> SessionId {
        self.no
    }

    pub fn id(&self) -> &ClientId {
        &self.id
    }

    /// The websocket it is on.
    pub fn socket(&self) -> Option<SocketId> {
        self.socket
    }

    /// It is on this websocket from now on, or on none. The one that it was on before, if that is
    /// another.
    pub fn move_to(&mut self, socket: Option<SocketId>) -> Option<SocketId> {
        match self.socket == socket {
            true => None,
            false => std::mem::replace(&mut self.socket, socket),
        }
    }

    /// It belongs to this HTTP session or, without one, to a client that sends a password or a token
    /// alone. A client that has only shaken hands may yet send the cookie that it was given.
    pub fn is_of_login(&self, login: Option<&SharedSecret>) -> bool {
        let keeps_no_cookie = self.owner.by_password_alone;
        match login {
            Some(login) => {
                self.owner.login.as_ref() == Some(login) && !(keeps_no_cookie && self.connected)
            }
            None => keeps_no_cookie,
        }
    }

    /// The advice to connect again.
    pub fn retry(&self, ctx: &Ctx) -> Advice {
        ctx.retry(&self.id, self.terms)
    }

    pub fn waits_for_turn(&self) -> bool {
        self.waits_for_turn
    }

    pub fn queued_bytes(&self) -> usize {
        self.delivery.waiting().1
    }

    pub fn is_held(&self) -> bool {
        matches!(self.state, SessionState::Held { .. })
    }

    /// When it expires, unless a connect is held.
    pub fn expires(&self) -> Option<Instant> {
        match &self.state {
            SessionState::New { expires } | SessionState::Away { expires } => Some(*expires),
            SessionState::Held { .. } => None,
        }
    }

    /// Whether a message from there may speak for the session. `on_socket`: the session of the
    /// websocket it came on.
    pub fn is_open_to(
        &self,
        from: &ClientOrigin,
        on_socket: Option<SessionId>,
    ) -> Result<(), SessionEnd> {
        let owner = &self.owner;
        if from.user != owner.user || from.is_refused {
            return Err(SessionEnd::OtherUser);
        }
        match on_socket {
            Some(one) if one == self.no => return Ok(()),
            Some(_) => return Err(SessionEnd::OtherSocket),
            None => {}
        }
        match (&from.browser, &owner.browser) {
            (Some(mine), Some(owners)) if mine == owners => Ok(()),
            (Some(_), Some(_)) => Err(SessionEnd::OtherBrowser),
            // A client without cookies proves its user with each request.
            (None, _) | (_, None) if from.proven => Ok(()),
            (None, _) | (_, None) if from.login.is_some() && from.login == owner.login => Ok(()),
            (None, _) | (_, None) => Err(SessionEnd::NoBrowser),
        }
    }

    /// Any message shows that the client lives; it never shortens what the session has.
    pub fn handle_message(&mut self, ctx: &Ctx, now: Now) {
        let at_least = now.mono + ctx.config.max_interval;
        match &mut self.state {
            SessionState::Held { .. } => {}
            SessionState::New { expires } | SessionState::Away { expires } => {
                *expires = (*expires).max(at_least)
            }
        }
    }

    /// Something has happened to it.
    pub fn handle(&mut self, input: SessionInput<'_>, ctx: &mut Ctx, now: Now) -> Next {
        match input {
            SessionInput::Event(channel, event) if self.takes(channel) => {
                self.delivery.enqueue(event.clone(), ctx);
                self.wake(ctx, now)
            }
            SessionInput::Event(..) => Next::Nothing,
            SessionInput::State(states) => self.handle_state(states, ctx, now),
            SessionInput::Replay(Some(kept)) => self.handle_replay(kept, ctx, now),
            // Something may be missing, and its client believes that nothing is.
            SessionInput::Replay(None) => Next::End(SessionEnd::Gap),
            SessionInput::Arrived(by) => self.handle_outcome(by, false, ctx, now),
            SessionInput::Cut(by) => self.handle_outcome(by, true, ctx, now),
            SessionInput::SocketLost(socket) => {
                self.socket.take_if(|own| *own == socket);
                self.handle_outcome(ReplyPath::Socket(socket), true, ctx, now)
            }
            SessionInput::Displaced(socket) => {
                self.handle_displaced(socket, ctx, now);
                Next::Nothing
            }
            SessionInput::Turn => {
                self.waits_for_turn = false;
                Next::HandOut
            }
            SessionInput::Timeout => self.handle_timeout(ctx, now),
        }
    }

    /// Its deadline may have come.
    fn handle_timeout(&mut self, ctx: &mut Ctx, now: Now) -> Next {
        let deadline = self.deadline();
        let armed = std::mem::replace(&mut self.armed, deadline);
        ctx.timers.disarm(armed, self.timer());
        ctx.timers.arm(deadline, self.timer());
        if deadline > now.mono {
            return Next::Nothing;
        }
        if self.login_until.is_some_and(|until| until <= now.mono) {
            return Next::End(SessionEnd::LoginExpired);
        }
        match self.release(ctx, now) {
            Some(departure) => Next::Answer(departure),
            None => Next::End(SessionEnd::Expired),
        }
    }

    /// It may hand out what waits: a held connect is answered, if there is something to say.
    pub fn handle_turn(&mut self, ctx: &mut Ctx, now: Now) -> Option<Departure> {
        let SessionState::Held { connect, .. } = &self.state else {
            return None;
        };
        let has_something = connect.at_once || (!self.is_pushed() && !self.delivery.is_empty());
        (has_something && self.delivery.may_deliver()).then(|| self.release(ctx, now)).flatten()
    }

    /// The events that go as they come, on this websocket: about so many bytes of them.
    pub fn push(&mut self, socket: SocketId, bytes: usize, ctx: &mut Ctx) -> Vec<Arc<Event>> {
        match self.is_pushed() && self.connected {
            true => self.delivery.push(socket, bytes, ctx),
            false => Vec::new(),
        }
    }

    /// Another session takes its websocket: a connect that is held there is never answered.
    fn handle_displaced(&mut self, socket: SocketId, ctx: &mut Ctx, now: Now) {
        self.socket = None;
        if self.held_by() == Some(ReplyPath::Socket(socket)) {
            let expires = now.mono + ctx.config.max_interval;
            self.enter(SessionState::Away { expires }, ctx);
        }
    }

    /// There may be something to hand out to it, once its turn comes: an answer carries all that
    /// has come by then. With half of what may wait, it does not wait for its turn.
    fn wake(&mut self, ctx: &mut Ctx, now: Now) -> Next {
        ctx.turns.last = Some(now);
        if !std::mem::replace(&mut self.waits_for_turn, true) {
            ctx.turns.waiting.push_back((self.no, now.mono));
        }
        match self.delivery.is_urgent(&ctx.config) {
            true => Next::HandOut,
            false => Next::Nothing,
        }
    }

    /// Whether more waits than may.
    pub fn excess(&self, ctx: &Ctx) -> Option<Excess> {
        match self.delivery.surplus(&ctx.config)? {
            Surplus::OfSession => Some(Excess::Session),
            Surplus::OfOwner(one) => self.owner.accounts().into_iter().nth(one).map(Excess::Quota),
        }
    }

    /// Moves to another state.
    fn enter(&mut self, state: SessionState, ctx: &mut Ctx) {
        if let SessionState::Held { connect, .. } = &state {
            ctx.hold_in(connect.slot.as_ref());
        }
        if let SessionState::Held { connect, .. } = std::mem::replace(&mut self.state, state) {
            ctx.release_in(connect.slot.as_ref());
        }
        self.arm_earlier(ctx);
    }

    /// Arms the deadline anew where it comes earlier now. Most deadlines move on before they come:
    /// that is seen when the old one does.
    fn arm_earlier(&mut self, ctx: &mut Ctx) {
        let deadline = self.deadline();
        if deadline < self.armed {
            let armed = std::mem::replace(&mut self.armed, deadline);
            ctx.timers.disarm(armed, self.timer());
            ctx.timers.arm(deadline, self.timer());
        }
    }

    fn timer(&self) -> DeadlineOwner {
        DeadlineOwner::Session(self.no)
    }

    /// When something is to be done about it, whatever happens.
    fn deadline(&self) -> Instant {
        let state = match &self.state {
            SessionState::Held { until, .. } => *until,
            SessionState::New { expires } | SessionState::Away { expires } => *expires,
        };
        self.login_until.map_or(state, |login| login.min(state))
    }

    /// Its events go as they come, not with connects: on a websocket, and no acknowledgement is
    /// wanted.
    pub fn is_pushed(&self) -> bool {
        self.socket.is_some() && !self.delivery.acknowledges()
    }

    /// The path of the connect that is held.
    fn held_by(&self) -> Option<ReplyPath> {
        match &self.state {
            SessionState::Held { connect, .. } => Some(connect.by),
            SessionState::New { .. } | SessionState::Away { .. } => None,
        }
    }

    /// A connect is held, events are on their way, or will be pushed, by another path than this
    /// one.
    pub fn is_elsewhere(&self, by: ReplyPath) -> bool {
        let is_held = self.held_by().is_some_and(|held| held != by);
        let is_attached = self.socket.is_some_and(|socket| by != ReplyPath::Socket(socket));
        is_held || is_attached || self.delivery.in_doubt_elsewhere(by).is_some()
    }

    /// How long its client may stay away of its own accord: as it says, or as it was told.
    fn pause(&self, interval: Duration) -> Duration {
        match self.told_interval {
            UNTOLD => interval,
            told => interval.max(Duration::from_millis(told)),
        }
    }

    /// Whether one of its subscriptions takes the channel in.
    pub fn takes(&self, channel: &str) -> bool {
        self.subscriptions.iter().any(|(_, pattern)| pattern.matches(channel))
    }
}

/// What an earlier life may have told the client to wait is not known.
const UNTOLD: u64 = u64::MAX;

#[derive(Clone, Debug)]
struct Connect {
    by: ReplyPath,
    id: Option<String>,
    /// A client that sends advice may have been reloaded: it gets ours again.
    wants_advice: bool,
    /// It is answered as soon as that is known which it waits for.
    at_once: bool,
    /// Its browser may not hold it: others of its sessions hold all there are.
    crowded: bool,
    interval: Duration,
    timesync: Option<Timesync>,
    received: Now,
    /// The browser of which it takes one of the few connections.
    slot: Option<SharedSecret>,
}
