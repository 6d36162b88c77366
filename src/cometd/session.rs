//! One session of the event channel: what it hears, what waits for it, and how its client is
//! reached.
//!
//! Hand in what happened with `handle_*` and a [`Ctx`]: at its request messages
//! ([`Session::handle_message`], [`Session::handle_connect`], [`Session::handle_subscribe`],
//! [`Session::handle_unsubscribe`]), at events and state ([`Session::handle_event`],
//! [`Session::handle_state`], [`Session::handle_replay`]), at the fate of what has left
//! ([`Session::handle_outcome`], [`Session::handle_socket_lost`]), at its deadline
//! ([`Session::handle_timeout`]), at its turn to send ([`Session::handle_turn`]), and at its end
//! ([`Session::handle_end`]). What comes out is in `Ctx::out`, in order, and a reply that is due is
//! returned as a [`Departure`]. After each step its deadline stands in `Ctx::timers`, and it is in
//! `Ctx::turns` when it has something to send.
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
mod queue;
mod subscribe;

use super::limits::{QuotaOwner, SessionTotals};
use super::message::{ClientId, Event, Pattern, Timesync};
use super::sessions::{ClientOrigin, ClientRequestId, Saved, SessionEnd, SocketId};
use crate::model::{Now, UserId};
pub use connect::{ConnectRequest, Departure};
pub use context::{Ctx, DeadlineOwner, spread, timesync};
use queue::{Acks, Queue};
use std::collections::{BTreeMap, BTreeSet};
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
    pub browser: Option<Arc<str>>,
    pub login: Option<Arc<str>>,
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
    queue: Queue,
    /// What all sessions of its user, and of its address, have together.
    totals: SessionTotals,
    /// Batches, where the client acknowledges.
    acks: Option<Acks>,
    /// It has connected before: only then a connect is held.
    connected: bool,
    /// What it was last told to wait between connects, in milliseconds.
    told_interval: u64,
    transport: ConnectionType,
    state: SessionState,
    /// When its deadline is looked at: never later than that.
    armed: Instant,
    /// The websocket it is on.
    socket: Option<SocketId>,
    /// What has left, and has not arrived on a socket of the client's machine yet.
    flight: Option<InFlight>,
    /// A replay under way, and the events that come behind it.
    replay: Option<ReplayInProgress>,
    /// The gateway has been asked for the present state on its behalf.
    state_asked: bool,
    /// Further channels of which it wants the state; asked for when that has come.
    state_wanted: BTreeSet<&'static str>,
    /// It is from an earlier life of this process, and its client has not connected since.
    restored: bool,
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

/// What a session's deadline has brought.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time, on the stack: a box would cost each answer an allocation"
)]
pub enum Expiry {
    /// The deadline has moved on since, and is waited for.
    NotYet,
    /// The session is to end.
    Ends(SessionEnd),
    /// The held connect is answered.
    Answers(Departure),
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
        transport: ConnectionType,
        ctx: &Ctx,
        now: Now,
    ) -> Self {
        let expires = now.mono + ctx.interval_of(&id) + ctx.config.max_interval;
        Self {
            told_interval: ctx.interval_of(&id).as_millis() as u64,
            state: SessionState::New { expires },
            armed: expires,
            no,
            id,
            owner,
            login_until,
            subscriptions: Vec::new(),
            queue: Queue::default(),
            totals: SessionTotals::default(),
            acks: acks_from.map(|base| Acks::new(base, 0)),
            connected: false,
            transport,
            socket: None,
            flight: None,
            replay: None,
            state_asked: false,
            state_wanted: BTreeSet::new(),
            restored: false,
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
            address: saved.address,
        };
        let subscriptions = saved.subscriptions.into_iter();
        let subscriptions =
            subscriptions.filter_map(|name| Pattern::parse(&name).map(|pattern| (name, pattern)));
        Self {
            acks: Some(Acks::new(saved.base, saved.offset)),
            subscriptions: subscriptions.collect(),
            restored: true,
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
            ..Self::new((no, saved.id), owner, (None, None), ConnectionType::LongPolling, ctx, now)
        }
    }

    /// The session begins: it enters every index.
    pub fn handle_begin(&mut self, ctx: &mut Ctx) {
        let quotas = self.owner.accounts();
        self.totals = ctx.quotas.opened(quotas, self.no);
        self.totals.add_subscriptions(self.subscriptions.len());
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

    pub fn waits_for_turn(&self) -> bool {
        self.waits_for_turn
    }

    pub fn queued_bytes(&self) -> usize {
        self.queue.bytes()
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
        if from.user != owner.user {
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

    /// An event that its subscriptions take in.
    pub fn handle_event(&mut self, event: Arc<Event>, ctx: &mut Ctx, now: Now) {
        self.enqueue(event, ctx);
        self.wake(ctx, now);
    }

    /// Its deadline may have come.
    pub fn handle_timeout(&mut self, ctx: &mut Ctx, now: Now) -> Expiry {
        let deadline = self.deadline();
        let armed = std::mem::replace(&mut self.armed, deadline);
        ctx.timers.disarm(armed, self.timer());
        ctx.timers.arm(deadline, self.timer());
        if deadline > now.mono {
            return Expiry::NotYet;
        }
        if self.login_until.is_some_and(|until| until <= now.mono) {
            return Expiry::Ends(SessionEnd::LoginExpired);
        }
        match self.release(ctx, now) {
            Some(departure) => Expiry::Answers(departure),
            None => Expiry::Ends(SessionEnd::Expired),
        }
    }

    /// It may hand out what waits: a held connect is answered, if there is something to say.
    pub fn handle_turn(&mut self, ctx: &mut Ctx, now: Now) -> Option<Departure> {
        let SessionState::Held { connect, .. } = &self.state else {
            return None;
        };
        let has_something = connect.at_once || (!self.is_pushed() && !self.queue.is_empty());
        (has_something && self.may_deliver()).then(|| self.release(ctx, now)).flatten()
    }

    /// The events that go as they come, on this websocket: about so many bytes of them.
    pub fn push(&mut self, socket: SocketId, bytes: usize, ctx: &mut Ctx) -> Vec<Arc<Event>> {
        if !(self.is_pushed() && self.connected && self.may_deliver()) || self.queue.is_empty() {
            return Vec::new();
        }
        let before = self.waiting();
        let events = self.queue.take_some(bytes);
        self.flight = Some(InFlight {
            by: ReplyPath::Socket(socket),
            oldest: events.first().map(|event| event.born),
            events: events.clone(),
            interval: ctx.config.interval,
        });
        ctx.counts.handed_out += events.len() as u64;
        self.recount(before, ctx);
        events
    }

    /// The websocket is closed or cut, and the frame under way has not left.
    pub fn handle_socket_lost(&mut self, socket: SocketId, ctx: &mut Ctx, now: Now) {
        self.socket.take_if(|own| *own == socket);
        self.handle_outcome(ReplyPath::Socket(socket), true, ctx, now);
    }

    /// Another session takes its websocket: a connect that is held there is never answered.
    pub fn handle_displaced(&mut self, socket: SocketId, ctx: &mut Ctx, now: Now) {
        self.socket = None;
        if self.held_by() == Some(ReplyPath::Socket(socket)) {
            let expires = now.mono + ctx.config.max_interval;
            self.enter(SessionState::Away { expires }, ctx);
        }
    }

    /// There may be something to hand out to it, once its turn comes: an answer carries all that
    /// has come by then. With half of what may wait, it does not wait for its turn.
    fn wake(&mut self, ctx: &mut Ctx, now: Now) {
        ctx.turns.last = Some(now);
        let (length, bytes) = self.waiting();
        if length >= ctx.config.max_queue.div_ceil(2) || bytes >= ctx.config.max_queue_bytes / 2 {
            ctx.turns.urgent = Some(self.no);
        }
        if !std::mem::replace(&mut self.waits_for_turn, true) {
            ctx.turns.waiting.push_back((self.no, now.mono));
        }
    }

    /// Its turn has come.
    pub fn takes_turn(&mut self) {
        self.waits_for_turn = false;
    }

    /// Whether more waits than may.
    pub fn excess(&self, ctx: &Ctx) -> Option<Excess> {
        let behind = self.replay.as_ref().map_or(0, |replay| replay.events.len());
        let (length, bytes) = self.waiting();
        if length + behind > ctx.config.max_queue || bytes > ctx.config.max_queue_bytes {
            return Some(Excess::Session);
        }
        if self.queue.is_empty() {
            return None;
        }
        let over = self.totals.over(&ctx.config)?;
        self.owner.accounts().into_iter().nth(over).map(Excess::Quota)
    }

    fn enqueue(&mut self, event: Arc<Event>, ctx: &mut Ctx) {
        let before = self.waiting();
        match &mut self.replay {
            Some(replay) => replay.events.push(event),
            // It was told nothing since the process started; the event log has it all.
            None if self.restored && event.number > 0 => {}
            None => self.queue.push(event),
        }
        self.recount(before, ctx);
    }

    /// Events and bytes that wait.
    fn waiting(&self) -> (usize, usize) {
        (self.queue.len(), self.queue.bytes())
    }

    /// Keeps the sums over all queues right after a change of this one.
    fn recount(&self, (length, bytes): (usize, usize), ctx: &mut Ctx) {
        let (length_now, bytes_now) = self.waiting();
        ctx.counts.queued = ctx.counts.queued + length_now - length;
        if bytes_now != bytes {
            self.totals.recount(bytes, bytes_now);
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
        self.socket.is_some() && self.acks.is_none()
    }

    /// Nothing stands between its queue and the client.
    fn may_deliver(&self) -> bool {
        self.replay.is_none() && !self.is_in_doubt()
    }

    /// Events have left of which nobody knows yet whether they arrive.
    fn is_in_doubt(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| !flight.events.is_empty())
    }

    /// Another path than this one, on which events have left of which nobody knows yet whether they
    /// arrive.
    fn in_doubt_elsewhere(&self, by: ReplyPath) -> Option<ReplyPath> {
        let flight = self.flight.as_ref().filter(|_| self.is_in_doubt());
        flight.map(|flight| flight.by).filter(|other| *other != by)
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
        is_held || is_attached || self.in_doubt_elsewhere(by).is_some()
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
    slot: Option<Arc<str>>,
}

/// Events on their way.
#[derive(Debug)]
struct InFlight {
    by: ReplyPath,
    events: Vec<Arc<Event>>,
    /// When the oldest event of the answer came to be, acknowledged ones too.
    oldest: Option<Instant>,
    interval: Duration,
}

/// A replay under way, and what has happened since it began.
#[derive(Debug, Default)]
struct ReplayInProgress {
    /// The first `asked` of them are being read.
    wants: Vec<Want>,
    asked: usize,
    replayed: BTreeMap<u64, Arc<Event>>,
    events: Vec<Arc<Event>>,
}

/// What is to be replayed: events of these channels, unless they were heard already.
#[derive(Debug)]
struct Want {
    after: Vec<(Pattern, u64)>,
    heard: Vec<Pattern>,
}

impl Want {
    /// The lowest number wanted of any.
    fn lowest(&self) -> u64 {
        self.after.iter().map(|(_, after)| *after).min().unwrap_or(u64::MAX)
    }

    fn takes(&self, channel: &str, number: u64) -> bool {
        !self.heard.iter().any(|pattern| pattern.matches(channel))
            && self.after.iter().any(|(pattern, after)| number > *after && pattern.matches(channel))
    }
}
