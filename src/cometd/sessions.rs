//! Every session of the event channel: one quiet machine.
//!
//! Hand in what happened with `handle_*`, then drain [`Hub::poll_output`]; [`Hub::poll_timeout`] says when to call
//! [`Hub::handle_timeout`].
//!
//! ```text
//! request ──handle_post──▶ ┌─────┐ ──Answer, Send──▶ connection ──▶ client
//! notice ──handle_notice─▶ │ Hub │ ◀─handle_written, handle_sent── it has left
//! time ────handle_timeout▶ └─────┘ ◀─handle_cut, handle_gone────── it has not
//! ```
//!
//! An event leaves a session's queue in one of three ways, and by no other:
//!
//! - **With a connect reply** (long-polling, callback-polling). It is kept until the answer's bytes have left on the connection;
//!   an answer that was cut gives its events back. While nobody knows yet, a newer connect waits for the outcome.
//! - **Pushed** (websocket). The same, frame by frame; one frame at a time, so that a slow client's queue grows here, where it is
//!   bounded.
//! - **Acknowledged** (the ack extension, on any transport). It goes with each connect reply until the client says that it came.

mod connects;
mod ends;
mod handshake;
mod inout;
mod sockets;
mod subscriptions;
#[cfg(test)]
mod tests;

use super::CometdConfig;
use super::event_numbers::EventNumbers;
use super::limits::{QuotaOwner, SessionQuota, SessionQuotas};
use super::message::{
    self, AckExt, Advice, BayeuxReply, ClientAdvice, ClientId, ClientMessage, Event, MessageKind, Pattern, Reconnect, ReplayReply,
    ReplyExt, Timesync, TimesyncReply,
};
use super::session::{Acks, Connect, InFlight, Queue, ReplyPath, Session, SessionOwner, SessionState, UNTOLD, Want};
pub use super::session::{ConnectionType, SessionId};
use super::subscription_index::SubscriptionIndex;
use crate::model::{Now, UserId};
use ends::EndedSessions;
pub use inout::{
    ClientOrigin, ClientRequest, ClientRequestId, CometdTransport, Output, RestoredEvents, Saved, SessionCounts, SessionEnd, SocketId,
};
use sockets::Socket;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use subscriptions::{subscribed, unknown_echo};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SessionTimer {
    Session(SessionId),
    Socket(SocketId),
}

/// By numbers that we have given ourselves, so that nobody can choose them to collide; in the same order in every run.
pub(super) type Numbered<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// All sessions. After each `handle_*` take some of [`Hub::poll_output`], or of [`Hub::poll_ready`] and [`Hub::hand_out_next`]; what is
/// not taken yet comes later, in order.
#[derive(Debug)]
pub struct Sessions {
    config: CometdConfig,
    types: Vec<&'static str>,
    open: Vec<Pattern>,
    sessions: Numbered<SessionId, Box<Session>>,
    by_id: HashMap<ClientId, SessionId, foldhash::fast::RandomState>,
    last_session: u64,
    interest: SubscriptionIndex,
    accounts: SessionQuotas,
    ledger: EventNumbers,
    sockets: Numbered<SocketId, Socket>,
    /// Whose events are in the frame under way.
    in_flight: Numbered<SocketId, SessionId>,
    /// How many there are from each address.
    sockets_from: BTreeMap<IpAddr, usize>,
    deadlines: BTreeSet<(Instant, SessionTimer)>,
    /// Whose connects are in a request that is held, or answered and not yet written.
    sessions_by_request: Numbered<ClientRequestId, Vec<SessionId>>,
    held_by_browser: BTreeMap<Arc<str>, usize>,
    ended: EndedSessions,
    outputs: VecDeque<Output>,
    /// For whom there may be something: who has waited longest comes first. Each is in it once.
    woken: VecDeque<(SessionId, Instant)>,
    /// When the last of it came to be.
    woken_at: Option<Now>,
    counts: SessionCounts,
    /// Ages of the oldest events of answers that have left since they were last asked for.
    delivered: Vec<Duration>,
    pressure: Duration,
    draining: bool,
}

/// The channels of state, in the order they are told.
pub const STATES: [&str; 4] = ["/v2/me", "/v2/me/channels", "/v2/me/devices", "/v2/me/calls"];

const UNKNOWN: &str = "402::session_unknown";
const HANDSHAKE_DENIED: &str = "403::handshake_denied";
const TOO_MANY_SESSIONS: &str = "403::too_many_sessions";
const TOO_MANY_HANDSHAKES: &str = "429::too_many_handshakes";
const LOGIN_EXPIRED: &str = "401::login_expired";
const NO_COMMON_TYPE: &str = "301::connection_types_unsupported";
const CREATE_DENIED: &str = "403:denied_by_security_policy:channel_create_denied";
const PUBLISH_DENIED: &str = "403:denied_by_security_policy:publish_denied";
const CHANNEL_MISSING: &str = "400::channel_missing";
const CHANNEL_INVALID: &str = "405::channel_invalid";
const DATA_MISSING: &str = "403::data_missing";
const DATA_TOO_DEEP: &str = "400::data_too_deep";
const ID_INVALID: &str = "405::message_id_invalid";

/// A client may not ask for a longer pause between connects than this; its session would live as long.
const LONGEST_INTERVAL: Duration = Duration::from_secs(300);
/// How long a connect may wait for what is not a hold: the outcome of an older answer, a replay.
const OUTCOME: Duration = Duration::from_secs(5);

/// What leaves for a client.
type Leaving = (Vec<Arc<Event>>, BayeuxReply);

impl Sessions {
    /// Without sessions. `epoch` is one more at each start of the process; see `ledger`.
    pub fn new(config: CometdConfig, epoch: u64) -> Self {
        let open = config.open_channels.iter().filter_map(|text| Pattern::parse(text)).collect();
        let types = [
            (config.websocket, ConnectionType::Websocket),
            (true, ConnectionType::LongPolling),
            (config.callback_polling, ConnectionType::CallbackPolling),
        ];
        Self {
            types: types
                .iter()
                .filter(|(offered, _)| *offered)
                .map(|(_, transport)| transport.as_str())
                .collect(),
            open,
            sessions: Numbered::default(),
            by_id: HashMap::default(),
            last_session: 0,
            interest: SubscriptionIndex::default(),
            accounts: SessionQuotas::default(),
            ledger: EventNumbers::new(epoch, config.replay_events, config.replay_bytes),
            sockets: Numbered::default(),
            in_flight: Numbered::default(),
            sockets_from: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            sessions_by_request: Numbered::default(),
            held_by_browser: BTreeMap::new(),
            ended: EndedSessions::default(),
            outputs: VecDeque::new(),
            woken: VecDeque::new(),
            woken_at: None,
            counts: SessionCounts::default(),
            delivered: Vec::new(),
            pressure: Duration::ZERO,
            draining: false,
            config,
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
        self.counts
    }

    /// How old the oldest event of each answer was that has left since this was last asked.
    pub fn delivered(&mut self) -> impl Iterator<Item = Duration> + '_ {
        self.delivered.drain(..)
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        while self.outputs.is_empty() && self.hand_out_next() {}
        self.poll_ready()
    }

    /// What to do next, without handing out events to anybody more.
    pub fn poll_ready(&mut self) -> Option<Output> {
        let output = self.outputs.pop_front();
        if let Some(Output::Send { socket, .. }) = &output {
            self.frame_goes(*socket);
        }
        output
    }

    /// Events go out to the session that has waited longest for its turn. False: none waits.
    pub fn hand_out_next(&mut self) -> bool {
        let Some((no, _)) = self.woken.pop_front() else { return false };
        if let Some(session) = self.sessions.get_mut(&no) {
            session.woken = false;
        }
        if let Some(now) = self.woken_at {
            self.hand_out(no, now);
        }
        true
    }

    /// Sessions wait for their turn.
    pub fn has_woken(&self) -> bool {
        !self.woken.is_empty()
    }

    /// Since when the session waits that has waited longest for its turn.
    pub fn waiting_since(&self) -> Option<Instant> {
        self.woken.front().map(|(_, since)| *since)
    }

    /// When to call [`Hub::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// An event that an earlier life has kept. Hand in a user's events from the oldest to the newest, before anything else.
    pub fn restore_event(&mut self, user: &UserId, number: u64, bytes: usize) {
        let gone = self.ledger.restore(user, number, bytes);
        if !gone.is_empty() {
            self.outputs.push_back(Output::Drop { user: user.clone(), gone });
        }
    }

    /// Events that could not be kept after all: whoever asks for what was before hears that something is missing.
    pub fn handle_unkept(&mut self, user: &UserId, number: u64) {
        let gone = self.ledger.lost(user, number);
        self.outputs.push_back(Output::Drop { user: user.clone(), gone });
    }

    /// Nothing that happened in earlier lives of the process is sure to be kept.
    pub fn restore_nothing(&mut self) {
        self.ledger.restore_nothing();
    }

    /// An earlier life has not kept the user's events up to this number.
    pub fn restore_dropped(&mut self, user: &UserId, number: u64) {
        self.ledger.restore_dropped(user, number);
    }

    /// A session that an earlier life has kept. Its client has as long as any other to come back.
    pub fn restore_session(&mut self, saved: Saved, now: Now) {
        let owner = SessionOwner {
            user: Some(saved.user),
            browser: saved.browser,
            login: None,
            address: saved.address,
        };
        let subscriptions = saved.subscriptions.into_iter();
        let subscriptions = subscriptions.filter_map(|name| Pattern::parse(&name).map(|pattern| (name, pattern)));
        let session = Session {
            acks: Some(Acks::new(saved.base, saved.offset)),
            subscriptions: subscriptions.collect(),
            restored: true,
            saved: true,
            connected: true,
            // Its client may still do as it was told when the process went down.
            told_interval: UNTOLD,
            place: SessionState::New {
                // As long as it may have been told to stay away, and then as any other.
                expires: now.mono + Duration::from_secs(1) + self.config.drain_window + self.config.max_interval,
            },
            ..self.session(saved.id, owner, None, ConnectionType::LongPolling, now)
        };
        self.insert(session, now);
    }

    /// A request has come.
    pub fn handle_post(&mut self, post: ClientRequest, now: Now) {
        let reach = post.reach();
        let ClientRequest {
            no: _,
            mut from,
            new_browser,
            via,
            fresh,
            messages,
        } = post;
        if let ReplyPath::Socket(socket) = reach {
            self.frame_came(socket);
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
                    Some((leaving, reply)) => {
                        events.extend(leaving);
                        replies.push(reply);
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

    /// Whether it would draw its session away from another connection. If its own has gone, it is older than what came on that one, only
    /// read later, and is not to be handed in.
    pub fn takes_over(&self, post: &ClientRequest) -> bool {
        let reach = post.reach();
        post.messages.iter().any(|message| {
            let draws = match message.kind {
                MessageKind::Connect { .. } => true,
                MessageKind::Subscribe(_) | MessageKind::Unsubscribe(_) | MessageKind::Publish { .. } => {
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
        for no in self.sessions_by_request.remove(&post).unwrap_or_default() {
            self.arrive(no, ReplyPath::Post(post), false, now);
        }
    }

    /// The request's connection is gone, held or answered, and no answer has left on it: its events wait for the next connect.
    pub fn handle_cut(&mut self, post: ClientRequestId, now: Now) {
        for no in self.sessions_by_request.remove(&post).unwrap_or_default() {
            self.arrive(no, ReplyPath::Post(post), true, now);
        }
    }

    /// Something has happened that this user's sessions are told. `data` is JSON; `channel` is one of [`STATES`].
    pub fn handle_notice(&mut self, user: &UserId, channel: &'static str, data: &str, now: Now) {
        let number = self.ledger.next(user);
        let event = Event::numbered(channel, data, number, now.mono);
        if self.ledger.keeps() {
            let gone = self.ledger.kept(user, number, event.text.len());
            self.outputs.push_back(Output::Keep {
                user: user.clone(),
                channel,
                event: event.clone(),
                gone,
            });
        }
        let Some(account) = self.accounts.get(&QuotaOwner::User(Some(user.clone()))) else {
            return;
        };
        let takes = |no: &SessionId| self.sessions.get(no).is_some_and(|session| session.takes(channel));
        let hearers: Vec<SessionId> = account.sessions.iter().copied().filter(takes).collect();
        for no in hearers {
            self.enqueue(no, event.clone());
            self.wake(no, now);
        }
    }

    /// The state asked for with [`Output::State`]: channel and `data`.
    pub fn handle_state(&mut self, session: SessionId, states: &[(&'static str, String)], now: Now) {
        if let Some(asked) = self.sessions.get_mut(&session) {
            asked.state_asked = false;
        }
        for (channel, data) in states {
            // It may have unsubscribed meanwhile.
            if self.sessions.get(&session).is_some_and(|session| session.takes(channel)) {
                self.enqueue(session, Event::plain(channel, data, now.mono));
            }
        }
        self.ask_state(session);
        self.wake(session, now);
    }

    /// Notices have been lost on the way here. Nobody may miss one silently: sessions that hear them end, and their clients shake
    /// hands again, not all at once, and get the present state.
    pub fn handle_gap(&mut self, now: Now) {
        let mut hearers = Vec::new();
        for (no, session) in &mut self.sessions {
            session.state_asked = false;
            if STATES.iter().any(|channel| session.takes(channel)) {
                hearers.push(*no);
            }
        }
        for no in hearers {
            self.end(no, SessionEnd::Gap, now);
        }
    }

    /// What comes in has to wait so long, lately. Clients are told to wait, too: each a little different, and in steps, so that it
    /// is not told them anew with every reply.
    pub fn handle_pressure(&mut self, waiting: Duration) {
        let steps = waiting.as_millis() / self.config.overload.as_millis().max(1);
        self.pressure = match steps {
            0 => Duration::ZERO,
            steps => Duration::from_secs(1 << (steps.ilog2().min(4))),
        };
    }

    /// We are going down: every held connect is answered, no more are held, and websockets close.
    #[expect(clippy::disallowed_methods, reason = "what comes out is sorted")]
    pub fn handle_drain(&mut self, now: Now) {
        self.draining = true;
        let held = self.sessions.iter().filter(|(_, session)| session.place.is_held());
        let mut held: Vec<SessionId> = held.map(|(no, _)| *no).collect();
        held.sort_unstable();
        for no in held {
            self.release(no, now);
        }
        self.close_all_sockets();
    }

    /// A deadline has come: a hold is over, a session, a login, or a socket without a session.
    pub fn handle_timeout(&mut self, now: Now) {
        while let Some(&(at, timer)) = self.deadlines.first() {
            if at > now.mono {
                break;
            }
            match timer {
                SessionTimer::Session(no) if self.sessions.contains_key(&no) => {
                    if self.is_due(no, now) {
                        self.session_timeout(no, now);
                    }
                }
                SessionTimer::Socket(socket) if self.sockets.contains_key(&socket) => self.socket_timeout(socket),
                // It went with what it was for; never there.
                SessionTimer::Session(_) | SessionTimer::Socket(_) => {
                    self.deadlines.pop_first();
                }
            }
        }
    }

    /// False: the session's deadline has moved on since, and is waited for.
    fn is_due(&mut self, no: SessionId, now: Now) -> bool {
        let Some(session) = self.sessions.get_mut(&no) else { return false };
        let deadline = session.deadline();
        let armed = std::mem::replace(&mut session.armed, deadline);
        self.deadlines.remove(&(armed, SessionTimer::Session(no)));
        self.deadlines.insert((deadline, SessionTimer::Session(no)));
        deadline <= now.mono
    }

    fn session_timeout(&mut self, no: SessionId, now: Now) {
        let Some(session) = self.sessions.get(&no) else { return };
        if session.login_until.is_some_and(|until| until <= now.mono) {
            return self.end(no, SessionEnd::LoginExpired, now);
        }
        match &session.place {
            SessionState::Held { .. } => self.release(no, now),
            SessionState::New { .. } | SessionState::Away { .. } => self.end(no, SessionEnd::Expired, now),
        }
    }

    // ---- other messages

    fn find(&self, message: &ClientMessage, from: &ClientOrigin, reach: ReplyPath) -> Result<SessionId, SessionEnd> {
        let id = message.client.as_ref().ok_or(SessionEnd::NoClientId)?;
        let no = *self.by_id.get(id).ok_or(SessionEnd::NeverKnown)?;
        let session = self.sessions.get(&no).ok_or(SessionEnd::NeverKnown)?;
        let owner = &session.owner;
        if from.user != owner.user {
            return Err(SessionEnd::OtherUser);
        }
        let on_socket = match reach {
            ReplyPath::Socket(socket) => self.sockets.get(&socket).and_then(|socket| socket.session),
            ReplyPath::Post(_) => None,
        };
        match on_socket {
            Some(one) if one == no => return Ok(no),
            Some(_) => return Err(SessionEnd::OtherSocket),
            None => {}
        }
        match (&from.browser, &owner.browser) {
            (Some(mine), Some(owners)) if mine == owners => Ok(no),
            (Some(_), Some(_)) => Err(SessionEnd::OtherBrowser),
            // A client without cookies proves each time who it is.
            (None, _) | (_, None) if from.proven => Ok(no),
            (None, _) | (_, None) if from.login.is_some() && from.login == owner.login => Ok(no),
            (None, _) | (_, None) => Err(SessionEnd::NoBrowser),
        }
    }

    fn message(&mut self, message: ClientMessage, from: &ClientOrigin, reach: ReplyPath, now: Now) -> BayeuxReply {
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
        let no = match self.find(&message, from, reach) {
            Ok(no) => no,
            Err(why) => return self.stranger(message, why, from, now),
        };
        self.postpone(no, now);
        if let ReplyPath::Socket(_) = reach {
            self.attach(no, reach);
            self.ask_for_outcome(no, reach);
        }
        match message.kind {
            MessageKind::Subscribe(subscription) => {
                let outcome = self.subscribe(no, &subscription, message.ext.replay.as_ref());
                self.save(no);
                let (outcome, replay) = match outcome {
                    Ok(replay) => (Ok(()), replay),
                    Err(error) => (Err(error), None),
                };
                let reply = subscribed("/meta/subscribe", id, subscription, outcome);
                BayeuxReply {
                    ext: ReplyExt {
                        replay,
                        ..ReplyExt::default()
                    },
                    ..reply
                }
            }
            MessageKind::Unsubscribe(subscription) => {
                let outcome = self.unsubscribe(no, &subscription);
                self.save(no);
                subscribed("/meta/unsubscribe", id, subscription, outcome)
            }
            MessageKind::Disconnect => {
                self.end(no, SessionEnd::Disconnected, now);
                done("/meta/disconnect", id)
            }
            MessageKind::Publish { channel, data } => match self.publish(&channel, data.as_deref(), now) {
                Ok(()) => done(channel, id),
                Err(error) => failed(channel.as_str(), id, error),
            },
            MessageKind::Handshake { .. }
            | MessageKind::Connect { .. }
            | MessageKind::NoChannel
            | MessageKind::BadId { .. }
            | MessageKind::TooDeep { .. } => {
                unreachable!("sorted out before")
            }
        }
    }

    /// Any message shows that the client lives; it never shortens what it has.
    fn postpone(&mut self, no: SessionId, now: Now) {
        let at_least = now.mono + self.config.max_interval;
        self.change(no, |session| match &mut session.place {
            SessionState::Held { .. } => {}
            SessionState::New { expires } | SessionState::Away { expires } => *expires = (*expires).max(at_least),
        });
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
        if !self.open.iter().any(|open| open.matches(channel)) {
            return Err(PUBLISH_DENIED);
        }
        let event = Event::plain(channel, data.ok_or(DATA_MISSING)?, now.mono);
        for no in self.interest.hearers(channel) {
            self.enqueue(no, event.clone());
            self.wake(no, now);
        }
        Ok(())
    }

    // ---- queues

    fn enqueue(&mut self, no: SessionId, event: Arc<Event>) {
        let Some(session) = self.sessions.get_mut(&no) else { return };
        let before = (session.queue.len(), session.queue.bytes());
        match &mut session.behind {
            Some(behind) => behind.events.push(event),
            // It was told nothing since the process started; the journal has it all.
            None if session.restored && event.number > 0 => {}
            None => session.queue.push(event),
        }
        self.recount(no, before);
    }

    /// Keeps the sums over all queues right after a change of one.
    fn recount(&mut self, no: SessionId, (length, bytes): (usize, usize)) {
        let Some(session) = self.sessions.get(&no) else { return };
        let (length_now, bytes_now) = (session.queue.len(), session.queue.bytes());
        self.counts.queued = self.counts.queued + length_now - length;
        if bytes_now == bytes {
            return;
        }
        for queued in &session.queued {
            // Only one thread counts; what is added wraps around where it is less.
            queued.fetch_add(bytes_now.wrapping_sub(bytes), Relaxed);
        }
    }

    /// There may be something to hand out to this one, once its turn comes: an answer carries all that has come by then. Whoever has
    /// half of what may wait does not wait for it.
    fn wake(&mut self, no: SessionId, now: Now) {
        self.woken_at = Some(now);
        if self.has_much(no) {
            self.hand_out(no, now);
        }
        if let Some(session) = self.sessions.get_mut(&no)
            && !std::mem::replace(&mut session.woken, true)
        {
            self.woken.push_back((no, now.mono));
        }
    }

    /// The house closes: every answer is the last on its connection.
    pub fn is_draining(&self) -> bool {
        self.draining
    }

    fn has_much(&self, no: SessionId) -> bool {
        let queue = self.sessions.get(&no).map(|session| &session.queue);
        queue.is_some_and(|queue| queue.len() >= self.config.max_queue.div_ceil(2) || queue.bytes() >= self.config.max_queue_bytes / 2)
    }

    /// Hands out what can be handed out, and ends a session that has more than it may keep.
    fn hand_out(&mut self, no: SessionId, now: Now) {
        let Some(session) = self.sessions.get(&no) else { return };
        if session.is_pushed()
            && let Some(socket) = session.socket
        {
            self.pump(socket);
            // The rest follows as soon as the frame has left; if it does not leave, the next event shows it.
            if self.sockets.get(&socket).is_some_and(|socket| socket.is_waiting_to_go()) {
                return;
            }
        }
        let Some(session) = self.sessions.get(&no) else { return };
        if let SessionState::Held { connect, .. } = &session.place
            && session.may_deliver()
            && (connect.at_once || (!session.is_pushed() && !session.queue.is_empty()))
        {
            self.release(no, now);
        }
        if let Some(fullest) = self.too_much(no) {
            // Another whose turn has not come yet may be rid of it then.
            let waits = fullest != no && self.sessions.get(&fullest).is_some_and(|session| session.woken);
            if !waits {
                self.end(fullest, SessionEnd::Overflowed, now);
            }
        }
    }

    /// The session that has more than it may keep: this one, or the one with most where a user or an address has too much.
    fn too_much(&self, no: SessionId) -> Option<SessionId> {
        let session = self.sessions.get(&no)?;
        let queue = &session.queue;
        let behind = session.behind.as_ref().map_or(0, |behind| behind.events.len());
        if queue.len() + behind > self.config.max_queue || queue.bytes() > self.config.max_queue_bytes {
            return Some(no);
        }
        if queue.is_empty() {
            return None;
        }
        let limits = [self.config.max_queue_bytes_per_user, self.config.max_queue_bytes_per_address];
        let is_over = |(queued, most): (&Arc<AtomicUsize>, usize)| queued.load(Relaxed) > most;
        let over = session.queued.iter().zip(limits).position(is_over)?;
        let who = session.owner.accounts().into_iter().nth(over)?;
        let over: &SessionQuota = self.accounts.get(&who)?;
        let bytes = |no: &SessionId| self.sessions.get(no).map_or(0, |session| session.queue.bytes());
        over.sessions.iter().copied().max_by_key(bytes)
    }

    // ---- answers

    fn answer(&mut self, reach: ReplyPath, events: Vec<Arc<Event>>, replies: Vec<BayeuxReply>) {
        match reach {
            ReplyPath::Post(post) => {
                let body = message::body(&events, &replies);
                self.outputs.push_back(Output::Answer {
                    post,
                    body,
                    has_events: !events.is_empty(),
                });
            }
            ReplyPath::Socket(socket) => self.reply_on(socket, events, replies),
        }
    }

    /// 402, and always how to go on: clients key on the advice.
    fn stranger(&mut self, message: ClientMessage, why: SessionEnd, from: &ClientOrigin, now: Now) -> BayeuxReply {
        let grave = message.client.as_ref().filter(|_| why == SessionEnd::NeverKnown);
        let grave = grave.and_then(|id| self.ended.find(id));
        let why = grave.map_or(why, |(why, _)| why);
        self.outputs.push_back(Output::UnknownSession {
            why,
            gone_for: grave.map(|(_, at)| now.mono.saturating_duration_since(at)),
            user: from.user.clone(),
        });
        let interval = message.client.as_ref().filter(|_| why == SessionEnd::Gap);
        let interval = interval.map_or(Duration::ZERO, |id| self.spread(id, self.config.drain_window));
        BayeuxReply {
            subscription: unknown_echo(&message.kind),
            advice: Some(Advice {
                interval: interval.as_millis() as u64,
                ..bare_advice(Reconnect::Handshake)
            }),
            ..failed(message.kind.channel(), message.id, UNKNOWN)
        }
    }

    fn is_offered(&self, connection_type: Option<&str>) -> bool {
        connection_type.is_none_or(|one| self.types.contains(&one))
    }

    fn retry(&self, client: &ClientId) -> Advice {
        Advice {
            reconnect: Reconnect::Retry,
            interval: self.interval_of(client).as_millis() as u64,
            timeout: Some(self.config.hold.as_millis() as u64),
            multiple_clients: None,
        }
    }

    fn interval_of(&self, client: &ClientId) -> Duration {
        let interval = self.config.interval;
        if self.draining {
            return interval + Duration::from_secs(1) + self.spread(client, self.config.drain_window);
        }
        interval + self.pressure + self.spread(client, self.pressure)
    }

    /// Somewhere in the window, for each client somewhere else: its id is chance enough.
    fn spread(&self, client: &ClientId, window: Duration) -> Duration {
        let hash = client.0.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        let window = window.as_millis() as u64;
        Duration::from_millis((hash >> 20).checked_rem(window).unwrap_or(0))
    }
}

fn bare_advice(reconnect: Reconnect) -> Advice {
    Advice {
        reconnect,
        interval: 0,
        timeout: None,
        multiple_clients: None,
    }
}

/// The client's clock against ours; only when it is new to us, or far enough off to be worth a change.
fn timesync(sync: Option<Timesync>, received: Now, now: Now) -> Option<TimesyncReply> {
    const WORTH_A_CHANGE_MS: i64 = 25;
    let Timesync { tc, lag, offset } = sync?;
    let ts = i64::try_from(received.wall.0).unwrap_or(i64::MAX);
    let off_by = tc.saturating_add(offset).saturating_add(lag).saturating_sub(ts);
    (lag == 0 || off_by.saturating_abs() >= WORTH_A_CHANGE_MS).then(|| TimesyncReply {
        tc,
        ts,
        p: now.mono.saturating_duration_since(received.mono).as_millis() as i64,
        a: off_by,
    })
}

fn done(channel: impl Into<String>, id: Option<String>) -> BayeuxReply {
    BayeuxReply {
        channel: Some(channel.into()),
        id,
        successful: true,
        ..BayeuxReply::default()
    }
}

fn failed<'a>(channel: impl Into<Option<&'a str>>, id: Option<String>, error: &'static str) -> BayeuxReply {
    BayeuxReply {
        channel: channel.into().map(str::to_owned),
        id,
        error: Some(error),
        ..BayeuxReply::default()
    }
}
