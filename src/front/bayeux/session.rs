//! Every session of the event channel: one quiet machine.
//!
//! Hand in what happened with `handle_*`, then drain [`Hub::poll_output`]; [`Hub::poll_timeout`] says when to call
//! [`Hub::handle_timeout`]. A session is in one of four places, and each has exactly one deadline, so none can leak:
//!
//! ```text
//! handshake ─▶ New ──connect──▶ Answering ──written, cut──▶ Away ──connect, queue empty──▶ Held
//!                                   ▲                        │ connect, queue full             │
//!                                   ├────────────────────────┘                                 │
//!                                   └──────────── event, hold over ───────────────────────────┘
//! ```
//!
//! Events leave on connect replies only (CometD's `metaConnectDeliverOnly`): one order, and one place where they can be lost.
//! There they are kept until the answer is on the socket; an answer that was cut gives them back to the queue.

use super::Config;
use super::message::{self, Advice, ClientAdvice, ClientId, Incoming, Kind, Pattern, Reconnect, Reply, Subscription};
use crate::words::UserId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Numbers the requests under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PostNo(pub u64);

/// Who sends a request. A session belongs to whom its handshake came from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// The authenticated user: the same user's sessions are his from any connection, with or without cookies.
    pub user: Option<UserId>,
    /// The cookie `BAYEUX_BROWSER`: it binds sessions without a user.
    pub browser: Option<Arc<str>>,
}

impl Peer {
    fn owns(&self, session: &Session) -> bool {
        match &session.owner.user {
            Some(user) => self.user.as_ref() == Some(user),
            None => self.user.is_none() && self.browser.is_some() && self.browser == session.owner.browser,
        }
    }
}

/// One request with its messages.
#[derive(Clone, Debug)]
pub struct Post {
    /// Its number; never used before.
    pub no: PostNo,
    /// From whom.
    pub from: Peer,
    /// The id of the session it may open; never used before. Chance is the shell's.
    pub fresh: ClientId,
    /// At least one.
    pub messages: Vec<Incoming>,
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Answer the request with 200 and this body; then say [`Hub::handle_written`] or [`Hub::handle_cut`].
    Answer {
        /// Which.
        post: PostNo,
        /// A JSON array.
        body: String,
    },
    /// A newer connect has taken this one's place: answer an HTTP error at once, but not 408, which browsers repeat.
    Overtaken {
        /// Which.
        post: PostNo,
    },
    /// Ask for the state of the user's devices and hand it in with [`Hub::handle_snapshot`].
    Snapshot {
        /// The session that has subscribed.
        client: ClientId,
        /// Whose devices.
        user: UserId,
    },
}

#[derive(Debug)]
struct Session {
    owner: Peer,
    subscriptions: BTreeMap<String, Pattern>,
    queue: Queue,
    /// It has connected before: only then a connect is held.
    connected: bool,
    /// Events that must come behind a snapshot under way.
    behind_snapshot: Option<Vec<Arc<str>>>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// After the handshake.
    New { expires: Instant },
    /// A connect waits for an event.
    Held { connect: Connect, until: Instant },
    /// A connect reply is on its way with these events.
    Answering {
        post: PostNo,
        events: Vec<Arc<str>>,
        interval: Duration,
        expires: Instant,
    },
    /// Between two connects.
    Away { expires: Instant },
}

impl Place {
    fn is_held(&self) -> bool {
        matches!(self, Place::Held { .. })
    }

    fn deadline(&self) -> Instant {
        match self {
            Place::Held { until, .. } => *until,
            Place::New { expires } | Place::Answering { expires, .. } | Place::Away { expires } => *expires,
        }
    }
}

#[derive(Clone, Debug)]
struct Connect {
    post: PostNo,
    id: Option<String>,
    /// A client that sends advice may have been reloaded: it gets ours again.
    wants_advice: bool,
    interval: Duration,
}

#[derive(Debug, Default)]
struct Queue {
    events: VecDeque<Arc<str>>,
    bytes: usize,
}

impl Queue {
    fn push(&mut self, event: Arc<str>) {
        self.bytes += event.len();
        self.events.push_back(event);
    }

    fn take(&mut self) -> Vec<Arc<str>> {
        self.bytes = 0;
        mem::take(&mut self.events).into()
    }

    fn give_back(&mut self, events: Vec<Arc<str>>) {
        for event in events.into_iter().rev() {
            self.bytes += event.len();
            self.events.push_front(event);
        }
    }
}

/// All sessions. After each `handle_*` drain [`Hub::poll_output`].
#[derive(Debug)]
pub struct Hub {
    config: Config,
    open: Vec<Pattern>,
    sessions: BTreeMap<ClientId, Session>,
    by_user: BTreeMap<Option<UserId>, BTreeSet<ClientId>>,
    deadlines: BTreeSet<(Instant, ClientId)>,
    /// Whose connects are in a request that is held, or answered and not yet written.
    posts: BTreeMap<PostNo, Vec<ClientId>>,
    outputs: VecDeque<Output>,
    held: usize,
    handed_out: u64,
    draining: bool,
}

const DEVICES: &str = "/v2/me/devices";

const UNKNOWN: &str = "402::session_unknown";
const HANDSHAKE_DENIED: &str = "403::handshake_denied";
const TOO_MANY_SESSIONS: &str = "403::too_many_sessions";
const NO_COMMON_TYPE: &str = "301::connection_types_unsupported";
const SUBSCRIPTION_MISSING: &str = "403::subscription_missing";
const SUBSCRIPTION_INVALID: &str = "403::subscription_invalid";
const SUBSCRIBE_DENIED: &str = "403:denied_by_security_policy:subscribe_denied";
const TOO_MANY_SUBSCRIPTIONS: &str = "403::too_many_subscriptions";
const CREATE_DENIED: &str = "403:denied_by_security_policy:channel_create_denied";
const PUBLISH_DENIED: &str = "403:denied_by_security_policy:publish_denied";
const CHANNEL_MISSING: &str = "400::channel_missing";
const CHANNEL_INVALID: &str = "405::channel_invalid";
const DATA_MISSING: &str = "403::data_missing";
const ID_INVALID: &str = "405::message_id_invalid";

const CONNECTION_TYPES: &[&str] = &["long-polling"];

/// A client may not ask for a longer pause between connects than this; its session would live as long.
const LONGEST_INTERVAL: Duration = Duration::from_secs(300);
/// Clients told to come again when too many are here, or we are going down, spread over this long.
const SPREAD: Duration = Duration::from_secs(5);

impl Hub {
    /// Without sessions.
    pub fn new(config: Config) -> Self {
        let open = config.open_channels.iter().filter_map(|text| Pattern::parse(text)).collect();
        Self {
            config,
            open,
            sessions: BTreeMap::new(),
            by_user: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            posts: BTreeMap::new(),
            outputs: VecDeque::new(),
            held: 0,
            handed_out: 0,
            draining: false,
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

    /// Events that wait for their sessions.
    pub fn queued(&self) -> usize {
        self.sessions.values().map(|session| session.queue.events.len()).sum()
    }

    /// Events that were put into answers so far.
    pub fn handed_out(&self) -> u64 {
        self.handed_out
    }

    /// Connects that are held now.
    pub fn held(&self) -> usize {
        self.held
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When to call [`Hub::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// A request has come.
    pub fn handle_post(&mut self, post: Post, now: Instant) {
        let Post { no, from, fresh, messages } = post;
        if let Some(handshake) = messages.iter().position(|message| matches!(message.kind, Kind::Handshake { .. })) {
            // The text: other messages in the same request MUST be ignored.
            let reply = messages
                .into_iter()
                .nth(handshake)
                .map(|message| self.handshake(message, from, fresh, now));
            return self.answer(no, &[], reply.as_slice());
        }
        let alone = messages.len() == 1;
        let mut replies = Vec::with_capacity(messages.len());
        let mut connecting = Vec::new();
        let mut woken = BTreeSet::new();
        for message in messages {
            if let Kind::Connect { connection_type, advice } = &message.kind {
                let (known, taken) = (self.find(&message, &from), is_supported(connection_type.as_deref()));
                let Some(client) = known.filter(|_| taken) else {
                    replies.push(if taken {
                        unknown(message)
                    } else {
                        wrong_type(message, self.retry())
                    });
                    continue;
                };
                let connect = self.begin_connect(no, &client, message.id.clone(), *advice, now);
                if alone && self.may_hold(&client, *advice) {
                    let until = now + self.hold_for(*advice);
                    self.posts.insert(no, vec![client.clone()]);
                    return self.put(&client, Place::Held { connect, until });
                }
                replies.push(self.connect_reply(&connect));
                connecting.push((client, connect.interval));
            } else {
                replies.push(self.message(message, &from, &mut woken, now));
            }
        }
        let mut events = Vec::new();
        for (client, interval) in connecting {
            events.extend(self.depart(no, &client, interval, now));
        }
        self.answer(no, &events, &replies);
        self.wake(woken, now);
    }

    /// The answer is on the socket: its events are delivered.
    pub fn handle_written(&mut self, post: PostNo, now: Instant) {
        self.arrive(post, false, now);
    }

    /// The request's socket is gone, held or answered, and no answer has gone out on it: its events wait for the next connect.
    pub fn handle_cut(&mut self, post: PostNo, now: Instant) {
        self.arrive(post, true, now);
    }

    /// Something has happened that this user's sessions are told. `data` is JSON.
    pub fn handle_notice(&mut self, user: &UserId, channel: &str, data: &str, now: Instant) {
        let Some(clients) = self.by_user.get(&Some(user.clone())) else {
            return;
        };
        let clients: Vec<ClientId> = clients.iter().filter(|client| self.takes(client, channel)).cloned().collect();
        if !clients.is_empty() {
            self.tell(clients, &message::event(channel, data), now);
        }
    }

    /// The state asked for with [`Output::Snapshot`], as `data` of the devices' channel.
    pub fn handle_snapshot(&mut self, client: &ClientId, data: &[String], now: Instant) {
        let Some(session) = self.sessions.get_mut(client) else { return };
        let behind = session.behind_snapshot.take().unwrap_or_default();
        let state = data.iter().map(|data| message::event(DEVICES, data));
        for event in state.chain(behind) {
            session.queue.push(event);
        }
        self.wake(BTreeSet::from([client.clone()]), now);
    }

    /// Notices have been lost on the way here. Nobody may miss one silently: all sessions end, their clients shake hands again and
    /// get the current state.
    pub fn handle_gap(&mut self) {
        let clients: Vec<ClientId> = self.sessions.keys().cloned().collect();
        for client in clients {
            self.end(&client, Reconnect::Handshake);
        }
    }

    /// We are going down: every held connect is answered, and no more are held.
    pub fn handle_drain(&mut self, now: Instant) {
        self.draining = true;
        let clients = self.sessions.iter().filter(|(_, session)| session.place.is_held());
        let clients: Vec<ClientId> = clients.map(|(client, _)| client.clone()).collect();
        for client in clients {
            self.release(&client, now);
        }
    }

    /// A deadline has come: a hold is over, or a session.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, client)) = self.deadlines.first().cloned() {
            if at > now {
                break;
            }
            match self.sessions.get(&client).map(|session| &session.place) {
                Some(Place::Held { .. }) => self.release(&client, now),
                Some(Place::New { .. } | Place::Answering { .. } | Place::Away { .. }) => self.end(&client, Reconnect::Handshake),
                None => {
                    self.deadlines.pop_first();
                }
            }
        }
    }

    fn handshake(&mut self, message: Incoming, from: Peer, fresh: ClientId, now: Instant) -> Reply {
        let refused = |error, reconnect, interval| Reply {
            supported_connection_types: Some(CONNECTION_TYPES),
            advice: Some(Advice {
                reconnect,
                interval,
                timeout: None,
            }),
            ..failed("/meta/handshake", message.id.clone(), error)
        };
        if let Kind::Handshake {
            connection_types: Some(types),
        } = &message.kind
            && !types.iter().any(|one| is_supported(Some(one)))
        {
            return refused(NO_COMMON_TYPE, Reconnect::None, 0);
        }
        if from.user.is_none() && !self.config.anonymous {
            return refused(HANDSHAKE_DENIED, Reconnect::None, 0);
        }
        if !self.make_room(&from) {
            return refused(TOO_MANY_SESSIONS, Reconnect::Handshake, SPREAD.as_millis() as u64);
        }
        let expires = now + self.config.interval + self.config.max_interval;
        self.by_user.entry(from.user.clone()).or_default().insert(fresh.clone());
        self.deadlines.insert((expires, fresh.clone()));
        let session = Session {
            owner: from,
            subscriptions: BTreeMap::new(),
            queue: Queue::default(),
            connected: false,
            behind_snapshot: None,
            place: Place::New { expires },
        };
        self.sessions.insert(fresh.clone(), session);
        Reply {
            version: Some("1.0"),
            supported_connection_types: Some(CONNECTION_TYPES),
            client_id: Some(fresh),
            advice: Some(self.retry()),
            ..done("/meta/handshake", message.id)
        }
    }

    /// A user who opens one session after the other loses the one that would have expired first, unless all of them are held.
    fn make_room(&mut self, from: &Peer) -> bool {
        if self.sessions.len() >= self.config.max_sessions {
            return false;
        }
        let Some(mine) = self.by_user.get(&from.user) else { return true };
        let limit = match from.user {
            Some(_) => self.config.max_sessions_per_user,
            None => self.config.max_sessions,
        };
        if mine.len() < limit {
            return true;
        }
        let idle = mine.iter().filter_map(|client| match &self.sessions.get(client)?.place {
            Place::New { expires } | Place::Away { expires } => Some((*expires, client.clone())),
            Place::Held { .. } | Place::Answering { .. } => None,
        });
        let Some((_, client)) = idle.min() else { return false };
        self.forget(&client);
        true
    }

    fn find(&self, message: &Incoming, from: &Peer) -> Option<ClientId> {
        let client = message.client.as_ref()?;
        let session = self.sessions.get(client)?;
        from.owns(session).then(|| client.clone())
    }

    /// The newest connect wins: a held one of the same session is let go first.
    fn begin_connect(
        &mut self,
        post: PostNo,
        client: &ClientId,
        id: Option<String>,
        advice: Option<ClientAdvice>,
        now: Instant,
    ) -> Connect {
        let interval = advice.and_then(|advice| advice.interval).unwrap_or(self.config.interval);
        let expires = now + self.config.max_interval;
        match self.sessions.get(client).map(|session| &session.place) {
            Some(Place::Held { connect, .. }) => {
                let older = connect.post;
                self.leave(older, client);
                self.put(client, Place::Away { expires });
                self.outputs.push_back(Output::Overtaken { post: older });
            }
            // Its answer has not gone out, or we would have been told before this request could come.
            Some(Place::Answering { post: older, .. }) if *older != post => {
                let older = *older;
                self.leave(older, client);
                self.come_back(client, true, now);
            }
            Some(Place::New { .. } | Place::Answering { .. } | Place::Away { .. }) | None => {}
        }
        Connect {
            post,
            id,
            wants_advice: advice.is_some() || self.draining,
            interval: interval.min(LONGEST_INTERVAL),
        }
    }

    fn may_hold(&self, client: &ClientId, advice: Option<ClientAdvice>) -> bool {
        let ready = |session: &Session| session.connected && session.queue.events.is_empty();
        !self.draining && !self.hold_for(advice).is_zero() && self.sessions.get(client).is_some_and(ready)
    }

    fn hold_for(&self, advice: Option<ClientAdvice>) -> Duration {
        let asked = advice.and_then(|advice| advice.timeout);
        asked.map_or(self.config.hold, |asked| asked.min(self.config.longest_hold))
    }

    fn connect_reply(&self, connect: &Connect) -> Reply {
        Reply {
            advice: connect.wants_advice.then(|| self.retry()),
            ..done("/meta/connect", connect.id.clone())
        }
    }

    /// The session's events leave with the answer of `post`.
    fn depart(&mut self, post: PostNo, client: &ClientId, interval: Duration, now: Instant) -> Vec<Arc<str>> {
        let expires = now + interval + self.config.max_interval;
        let Some(session) = self.sessions.get_mut(client) else {
            return Vec::new();
        };
        if matches!(&session.place, Place::Answering { post: same, .. } if *same == post) {
            return Vec::new();
        }
        session.connected = true;
        let events = session.queue.take();
        let leaving = events.clone();
        self.handed_out += leaving.len() as u64;
        let travellers = self.posts.entry(post).or_default();
        if !travellers.contains(client) {
            travellers.push(client.clone());
        }
        self.put(
            client,
            Place::Answering {
                post,
                events,
                interval,
                expires,
            },
        );
        leaving
    }

    fn arrive(&mut self, post: PostNo, cut: bool, now: Instant) {
        for client in self.posts.remove(&post).unwrap_or_default() {
            self.come_back(&client, cut, now);
        }
    }

    /// From `Held` or `Answering` to `Away`; what was cut is still to be delivered.
    fn come_back(&mut self, client: &ClientId, cut: bool, now: Instant) {
        let Some(session) = self.sessions.get_mut(client) else { return };
        let interval = match &mut session.place {
            Place::Held { connect, .. } => connect.interval,
            Place::Answering { events, interval, .. } => {
                let (events, interval) = (mem::take(events), *interval);
                if cut {
                    session.queue.give_back(events);
                }
                interval
            }
            Place::New { .. } | Place::Away { .. } => return,
        };
        let expires = now + interval + self.config.max_interval;
        self.put(client, Place::Away { expires });
    }

    fn leave(&mut self, post: PostNo, client: &ClientId) {
        if let Some(travellers) = self.posts.get_mut(&post) {
            travellers.retain(|one| one != client);
            if travellers.is_empty() {
                self.posts.remove(&post);
            }
        }
    }

    fn message(&mut self, message: Incoming, from: &Peer, woken: &mut BTreeSet<ClientId>, now: Instant) -> Reply {
        let Incoming { id, client: _, kind } = &message;
        let id = id.clone();
        match kind {
            Kind::NoChannel => return failed(None, id, CHANNEL_MISSING),
            Kind::BadId { channel } => return failed(channel.as_str(), id, ID_INVALID),
            _ => {}
        }
        let Some(client) = self.find(&message, from) else {
            return unknown(message);
        };
        self.postpone(&client, now);
        match message.kind {
            Kind::Subscribe(subscription) => {
                let outcome = self.subscribe(&client, &subscription);
                subscribed("/meta/subscribe", id, subscription, outcome)
            }
            Kind::Unsubscribe(subscription) => {
                let outcome = self.unsubscribe(&client, &subscription);
                subscribed("/meta/unsubscribe", id, subscription, outcome)
            }
            Kind::Disconnect => {
                self.end(&client, Reconnect::None);
                done("/meta/disconnect", id)
            }
            Kind::Publish { channel, data } => match self.publish(&channel, data.as_deref(), woken) {
                Ok(()) => done(channel, id),
                Err(error) => failed(channel.as_str(), id, error),
            },
            Kind::Handshake { .. } | Kind::Connect { .. } | Kind::NoChannel | Kind::BadId { .. } => {
                unreachable!("sorted out before")
            }
        }
    }

    /// Any message shows that the client lives; it never shortens what it has.
    fn postpone(&mut self, client: &ClientId, now: Instant) {
        let at_least = now + self.config.max_interval;
        let Some(session) = self.sessions.get_mut(client) else { return };
        let before = session.place.deadline();
        match &mut session.place {
            Place::Held { .. } => return,
            Place::New { expires } | Place::Answering { expires, .. } | Place::Away { expires } => *expires = (*expires).max(at_least),
        }
        let after = session.place.deadline();
        self.deadlines.remove(&(before, client.clone()));
        self.deadlines.insert((after, client.clone()));
    }

    fn subscribe(&mut self, client: &ClientId, subscription: &Subscription) -> Result<(), &'static str> {
        for name in names(subscription)? {
            let pattern = Pattern::parse(name).ok_or(SUBSCRIPTION_INVALID)?;
            if name.starts_with("/meta/") {
                return Err(SUBSCRIBE_DENIED);
            }
            if name.starts_with("/service/") {
                continue;
            }
            let Some(session) = self.sessions.get_mut(client) else {
                return Err(UNKNOWN);
            };
            if session.owner.user.is_none() && !self.open.iter().any(|open| open.matches(name)) {
                return Err(SUBSCRIBE_DENIED);
            }
            let is_new = !session.subscriptions.contains_key(name);
            if is_new && session.subscriptions.len() >= self.config.max_subscriptions {
                return Err(TOO_MANY_SUBSCRIPTIONS);
            }
            if pattern.matches(DEVICES)
                && session.behind_snapshot.is_none()
                && let Some(user) = session.owner.user.clone()
            {
                session.behind_snapshot = Some(Vec::new());
                self.outputs.push_back(Output::Snapshot {
                    client: client.clone(),
                    user,
                });
            }
            session.subscriptions.insert(name.to_owned(), pattern);
        }
        Ok(())
    }

    fn unsubscribe(&mut self, client: &ClientId, subscription: &Subscription) -> Result<(), &'static str> {
        for name in names(subscription)? {
            Pattern::parse(name).ok_or(SUBSCRIPTION_INVALID)?;
            if let Some(session) = self.sessions.get_mut(client) {
                session.subscriptions.remove(name);
            }
        }
        Ok(())
    }

    /// Clients do not speak on the channels of state; on `/service/**` they speak to nobody.
    fn publish(&mut self, channel: &str, data: Option<&str>, woken: &mut BTreeSet<ClientId>) -> Result<(), &'static str> {
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
        let event = message::event(channel, data.ok_or(DATA_MISSING)?);
        let clients: Vec<ClientId> = self.sessions.keys().filter(|client| self.takes(client, channel)).cloned().collect();
        for client in clients {
            self.enqueue(&client, event.clone());
            woken.insert(client);
        }
        Ok(())
    }

    fn takes(&self, client: &ClientId, channel: &str) -> bool {
        let session = self.sessions.get(client);
        session.is_some_and(|session| session.subscriptions.values().any(|pattern| pattern.matches(channel)))
    }

    fn tell(&mut self, clients: Vec<ClientId>, event: &Arc<str>, now: Instant) {
        for client in &clients {
            self.enqueue(client, event.clone());
        }
        self.wake(clients.into_iter().collect(), now);
    }

    fn enqueue(&mut self, client: &ClientId, event: Arc<str>) {
        let Some(session) = self.sessions.get_mut(client) else { return };
        match &mut session.behind_snapshot {
            Some(behind) => behind.push(event),
            None => session.queue.push(event),
        }
    }

    /// Answers held connects that have something to carry, and ends sessions that have more than they may keep.
    fn wake(&mut self, clients: BTreeSet<ClientId>, now: Instant) {
        for client in clients {
            let Some(session) = self.sessions.get(&client) else { continue };
            let held = session.place.is_held();
            let behind = session.behind_snapshot.as_ref().map_or(0, Vec::len);
            if held && !session.queue.events.is_empty() {
                self.release(&client, now);
            } else if session.queue.events.len() + behind > self.config.max_queue || session.queue.bytes > self.config.max_queue_bytes {
                self.end(&client, Reconnect::Handshake);
            }
        }
    }

    /// Answers the held connect with whatever there is.
    fn release(&mut self, client: &ClientId, now: Instant) {
        let Some(session) = self.sessions.get(client) else { return };
        let Place::Held { connect, .. } = &session.place else { return };
        let mut connect = connect.clone();
        connect.wants_advice |= self.draining;
        let reply = self.connect_reply(&connect);
        let events = self.depart(connect.post, client, connect.interval, now);
        self.answer(connect.post, &events, &[reply]);
    }

    /// The session is over. A held connect says how the client is to go on.
    fn end(&mut self, client: &ClientId, reconnect: Reconnect) {
        let Some(session) = self.forget(client) else { return };
        let Place::Held { connect, .. } = session.place else { return };
        let advice = Advice {
            reconnect,
            interval: 0,
            timeout: None,
        };
        let reply = match reconnect {
            Reconnect::Handshake => failed("/meta/connect", connect.id, UNKNOWN),
            Reconnect::None | Reconnect::Retry => done("/meta/connect", connect.id),
        };
        let reply = Reply {
            advice: Some(advice),
            ..reply
        };
        self.answer(connect.post, &[], &[reply]);
    }

    fn forget(&mut self, client: &ClientId) -> Option<Session> {
        let session = self.sessions.remove(client)?;
        self.deadlines.remove(&(session.place.deadline(), client.clone()));
        self.held -= usize::from(session.place.is_held());
        match &session.place {
            Place::Held { connect, .. } => self.leave(connect.post, client),
            Place::Answering { post, .. } => self.leave(*post, client),
            Place::New { .. } | Place::Away { .. } => {}
        }
        if let Some(mine) = self.by_user.get_mut(&session.owner.user) {
            mine.remove(client);
            if mine.is_empty() {
                self.by_user.remove(&session.owner.user);
            }
        }
        Some(session)
    }

    fn put(&mut self, client: &ClientId, place: Place) {
        let Some(session) = self.sessions.get_mut(client) else { return };
        self.deadlines.remove(&(session.place.deadline(), client.clone()));
        self.deadlines.insert((place.deadline(), client.clone()));
        self.held += usize::from(place.is_held());
        self.held -= usize::from(session.place.is_held());
        session.place = place;
    }

    fn answer(&mut self, post: PostNo, events: &[Arc<str>], replies: &[Reply]) {
        let body = message::body(events, replies);
        self.outputs.push_back(Output::Answer { post, body });
    }

    fn retry(&self) -> Advice {
        // Going down, clients come back spread out: by how many are here, for want of chance.
        let spread = (self.outputs.len() as u64 * 37) % (SPREAD.as_millis() as u64);
        Advice {
            reconnect: Reconnect::Retry,
            interval: self.config.interval.as_millis() as u64 + if self.draining { 1000 + spread } else { 0 },
            timeout: Some(self.config.hold.as_millis() as u64),
        }
    }
}

fn is_supported(connection_type: Option<&str>) -> bool {
    connection_type.is_none_or(|one| CONNECTION_TYPES.contains(&one))
}

fn names(subscription: &Subscription) -> Result<&[String], &'static str> {
    match subscription {
        Subscription::Missing => Err(SUBSCRIPTION_MISSING),
        Subscription::Invalid => Err(SUBSCRIPTION_INVALID),
        Subscription::One(name) => Ok(std::slice::from_ref(name)),
        Subscription::Many(names) => Ok(names),
    }
}

fn done(channel: impl Into<String>, id: Option<String>) -> Reply {
    Reply {
        channel: Some(channel.into()),
        id,
        successful: true,
        ..Reply::default()
    }
}

fn failed<'a>(channel: impl Into<Option<&'a str>>, id: Option<String>, error: &'static str) -> Reply {
    Reply {
        channel: channel.into().map(str::to_owned),
        id,
        error: Some(error),
        ..Reply::default()
    }
}

/// 402, and always how to go on: clients key on the advice.
fn unknown(message: Incoming) -> Reply {
    let subscription = match &message.kind {
        Kind::Subscribe(subscription) | Kind::Unsubscribe(subscription) => echo(subscription.clone()),
        _ => None,
    };
    let advice = Advice {
        reconnect: Reconnect::Handshake,
        interval: 0,
        timeout: None,
    };
    Reply {
        subscription,
        advice: Some(advice),
        ..failed(channel_of(&message.kind), message.id, UNKNOWN)
    }
}

fn wrong_type(message: Incoming, advice: Advice) -> Reply {
    Reply {
        advice: Some(advice),
        ..failed("/meta/connect", message.id, NO_COMMON_TYPE)
    }
}

fn channel_of(kind: &Kind) -> Option<&str> {
    match kind {
        Kind::Handshake { .. } => Some("/meta/handshake"),
        Kind::Connect { .. } => Some("/meta/connect"),
        Kind::Subscribe(_) => Some("/meta/subscribe"),
        Kind::Unsubscribe(_) => Some("/meta/unsubscribe"),
        Kind::Disconnect => Some("/meta/disconnect"),
        Kind::Publish { channel, .. } | Kind::BadId { channel } => Some(channel),
        Kind::NoChannel => None,
    }
}

fn subscribed(channel: &str, id: Option<String>, subscription: Subscription, outcome: Result<(), &'static str>) -> Reply {
    let reply = match outcome {
        Ok(()) => done(channel, id),
        Err(error) => failed(channel, id, error),
    };
    Reply {
        subscription: echo(subscription),
        ..reply
    }
}

fn echo(subscription: Subscription) -> Option<Subscription> {
    match subscription {
        Subscription::Missing | Subscription::Invalid => None,
        Subscription::One(_) | Subscription::Many(_) => Some(subscription),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// A hub with its own clock.
    struct House {
        hub: Hub,
        now: Instant,
        posts: u64,
        answers: BTreeMap<PostNo, Value>,
        overtaken: Vec<PostNo>,
        snapshots: Vec<ClientId>,
    }

    impl House {
        fn new(config: Config) -> Self {
            #[expect(clippy::disallowed_methods, reason = "any instant will do to begin with")]
            let now = Instant::now();
            Self {
                hub: Hub::new(config),
                now,
                posts: 0,
                answers: BTreeMap::new(),
                overtaken: Vec::new(),
                snapshots: Vec::new(),
            }
        }

        fn open() -> Self {
            Self::new(Config {
                open_channels: vec!["/x/**".to_owned()],
                ..Config::default()
            })
        }

        fn drain(&mut self) {
            while let Some(output) = self.hub.poll_output() {
                match output {
                    Output::Answer { post, body } => {
                        let body = serde_json::from_str(&body).expect("an answer is JSON");
                        assert!(self.answers.insert(post, body).is_none(), "{post:?} is answered twice");
                    }
                    Output::Overtaken { post } => self.overtaken.push(post),
                    Output::Snapshot { client, .. } => self.snapshots.push(client),
                }
            }
        }

        /// Sends a request; its answer stays unwritten.
        fn send(&mut self, user: &str, messages: &Value) -> PostNo {
            self.posts += 1;
            let no = PostNo(self.posts);
            let post = Post {
                no,
                from: peer(user),
                fresh: ClientId(format!("client{no:?}").into()),
                messages: message::parse(messages.to_string().as_bytes(), 64).expect("messages"),
            };
            self.hub.handle_post(post, self.now);
            self.drain();
            no
        }

        /// Sends a request and reads its answer.
        fn ask(&mut self, user: &str, messages: &Value) -> Value {
            let post = self.send(user, messages);
            self.read(post)
        }

        fn read(&mut self, post: PostNo) -> Value {
            let answer = self.answers.remove(&post).expect("an answer");
            self.hub.handle_written(post, self.now);
            self.drain();
            answer
        }

        fn is_held(&self, post: PostNo) -> bool {
            !self.answers.contains_key(&post) && !self.overtaken.contains(&post)
        }

        fn shake(&mut self, user: &str) -> String {
            let reply = self.ask(
                user,
                &json!([{"channel":"/meta/handshake","version":"1.0","supportedConnectionTypes":["long-polling"]}]),
            );
            reply[0]["clientId"].as_str().expect("a client id").to_owned()
        }

        /// A session that has connected once, subscribed to `channel`, with its snapshot empty.
        fn session(&mut self, user: &str, channel: &str) -> String {
            let client = self.shake(user);
            let subscribe = json!([{"channel":"/meta/subscribe","clientId":client,"subscription":channel}]);
            assert_eq!(self.ask(user, &subscribe)[0]["successful"], true);
            for client in mem::take(&mut self.snapshots) {
                self.hub.handle_snapshot(&client, &[], self.now);
            }
            self.ask(user, &connect(&client));
            client
        }

        fn notice(&mut self, user: &str, data: u32) {
            self.hub.handle_notice(&user.into(), DEVICES, &data.to_string(), self.now);
            self.drain();
        }

        fn pass(&mut self, time: Duration) {
            self.now += time;
            while self.hub.poll_timeout().is_some_and(|at| at <= self.now) {
                self.hub.handle_timeout(self.now);
                self.drain();
            }
        }
    }

    fn peer(user: &str) -> Peer {
        match user.strip_prefix("browser ") {
            Some(browser) => Peer {
                user: None,
                browser: Some(browser.into()),
            },
            None => Peer {
                user: Some(user.into()),
                browser: None,
            },
        }
    }

    fn connect(client: &str) -> Value {
        json!([{"channel":"/meta/connect","clientId":client,"connectionType":"long-polling"}])
    }

    fn data(answer: &Value) -> Vec<u64> {
        let events = answer.as_array().expect("an array");
        events.iter().filter_map(|event| event["data"].as_u64()).collect()
    }

    #[test]
    fn the_first_connect_returns_at_once_and_the_second_is_held_until_something_happens() {
        let mut house = House::open();
        let client = house.session("anna", DEVICES);
        let held = house.send("anna", &connect(&client));
        assert!(house.is_held(held));
        house.notice("anna", 7);
        let answer = house.read(held);
        assert_eq!(data(&answer), [7]);
        assert_eq!(answer[1]["channel"], "/meta/connect");
        assert_eq!(answer[1]["successful"], true);
    }

    #[test]
    fn a_hold_ends_with_an_empty_reply_and_the_session_lives_on() {
        let mut house = House::open();
        let client = house.session("anna", DEVICES);
        let held = house.send("anna", &connect(&client));
        house.pass(Duration::from_secs(24));
        assert!(house.is_held(held));
        house.pass(Duration::from_secs(1));
        assert_eq!(house.read(held), json!([{"channel":"/meta/connect","successful":true}]));
        assert_eq!(house.hub.len(), 1);
    }

    #[test]
    fn a_client_may_ask_for_a_shorter_hold_and_hears_the_advice_again() {
        let mut house = House::open();
        let client = house.session("anna", DEVICES);
        let mut at_once = connect(&client);
        at_once[0]["advice"] = json!({"timeout":0});
        let answer = house.ask("anna", &at_once);
        assert_eq!(answer[0]["advice"], json!({"reconnect":"retry","interval":0,"timeout":25000}));
        at_once[0]["advice"] = json!({"timeout":3000});
        let held = house.send("anna", &at_once);
        house.pass(Duration::from_secs(3));
        assert!(!house.is_held(held));
    }

    #[test]
    fn without_a_connect_the_session_expires_and_its_client_is_told_to_shake_hands() {
        let mut house = House::open();
        let client = house.session("anna", DEVICES);
        house.pass(Duration::from_secs(61));
        assert!(house.hub.is_empty());
        assert_eq!(house.hub.poll_timeout(), None);
        let reply = &house.ask("anna", &connect(&client))[0];
        assert_eq!(reply["error"], UNKNOWN);
        assert_eq!(reply["advice"], json!({"reconnect":"handshake","interval":0}));
    }

    #[test]
    fn a_session_expires_also_when_its_client_never_connects_or_never_reads() {
        let mut house = House::open();
        house.shake("anna");
        let client = house.session("anna", DEVICES);
        let held = house.send("anna", &connect(&client));
        house.notice("anna", 1);
        assert!(house.answers.contains_key(&held));
        house.pass(Duration::from_secs(61));
        assert!(house.hub.is_empty());
    }

    #[test]
    fn the_newest_connect_wins_and_the_older_one_is_let_go() {
        let mut house = House::open();
        let client = house.session("anna", DEVICES);
        let older = house.send("anna", &connect(&client));
        let newer = house.send("anna", &connect(&client));
        assert_eq!(house.overtaken, [older]);
        house.hub.handle_cut(older, house.now);
        house.notice("anna", 1);
        assert_eq!(data(&house.read(newer)), [1]);
    }

    #[test]
    fn events_of_a_poll_that_was_cut_come_with_the_next_one() {
        let mut house = House::open();
        let client = house.session("anna", DEVICES);
        let cut_while_held = house.send("anna", &connect(&client));
        house.hub.handle_cut(cut_while_held, house.now);
        house.notice("anna", 1);
        let cut_with_events = house.send("anna", &connect(&client));
        assert_eq!(data(&house.answers.remove(&cut_with_events).expect("answered at once")), [1]);
        house.notice("anna", 2);
        house.hub.handle_cut(cut_with_events, house.now);
        assert_eq!(data(&house.ask("anna", &connect(&client))), [1, 2]);
        let last = house.send("anna", &connect(&client));
        assert!(house.is_held(last));
    }

    #[test]
    fn a_disconnect_lets_the_held_connect_go_for_good() {
        let mut house = House::open();
        let client = house.session("anna", DEVICES);
        let held = house.send("anna", &connect(&client));
        let disconnect = json!([{"channel":"/meta/disconnect","clientId":client}]);
        assert_eq!(house.ask("anna", &disconnect)[0]["successful"], true);
        assert_eq!(house.read(held)[0]["advice"]["reconnect"], "none");
        assert_eq!(house.ask("anna", &disconnect)[0]["error"], UNKNOWN);
    }

    #[test]
    fn connect_and_disconnect_in_one_request_answer_each_message_once() {
        let mut house = House::open();
        let client = house.session("anna", DEVICES);
        let held = house.send("anna", &connect(&client));
        let both = json!([
            {"channel":"/meta/connect","clientId":client,"connectionType":"long-polling"},
            {"channel":"/meta/disconnect","clientId":client},
        ]);
        let answer = house.ask("anna", &both);
        assert_eq!(answer.as_array().map(Vec::len), Some(2));
        assert_eq!(house.overtaken, [held]);
        assert!(house.hub.is_empty());
    }

    #[test]
    fn a_session_answers_nobody_but_its_user() {
        let mut house = House::new(Config {
            anonymous: true,
            ..Config::default()
        });
        let client = house.session("anna", DEVICES);
        assert_eq!(house.ask("bert", &connect(&client))[0]["error"], UNKNOWN);
        assert_eq!(house.ask("browser b1", &connect(&client))[0]["error"], UNKNOWN);
        let held = house.send("anna", &connect(&client));
        house.ask("bert", &json!([{"channel":"/meta/disconnect","clientId":client}]));
        assert!(house.is_held(held));
        let nobodys = house.shake("browser b1");
        assert_eq!(house.ask("browser b2", &connect(&nobodys))[0]["error"], UNKNOWN);
        assert_eq!(house.ask("anna", &connect(&nobodys))[0]["error"], UNKNOWN);
        assert_eq!(house.ask("browser b1", &connect(&nobodys))[0]["successful"], true);
    }

    #[test]
    fn whoever_nobody_knows_gets_no_session_or_none_of_the_users_channels() {
        let mut house = House::open();
        let handshake = json!([{"channel":"/meta/handshake","version":"1.0","supportedConnectionTypes":["long-polling"]}]);
        let reply = &house.ask("browser b1", &handshake)[0];
        assert_eq!(reply["error"], HANDSHAKE_DENIED);
        assert_eq!(reply["advice"]["reconnect"], "none");

        let mut house = House::new(Config {
            anonymous: true,
            open_channels: vec!["/x/**".to_owned()],
            ..Config::default()
        });
        let client = house.shake("browser b1");
        for (channel, allowed) in [(DEVICES, false), ("/**", false), ("/v2/**", false), ("/x/a", true), ("/x/**", true)] {
            let subscribe = json!([{"channel":"/meta/subscribe","clientId":client,"subscription":channel}]);
            assert_eq!(house.ask("browser b1", &subscribe)[0]["successful"], allowed, "{channel}");
        }
        assert!(house.snapshots.is_empty());
    }

    #[test]
    fn a_snapshot_comes_before_what_happened_while_it_was_made() {
        let mut house = House::open();
        let client = house.shake("anna");
        house.ask(
            "anna",
            &json!([{"channel":"/meta/subscribe","clientId":client,"subscription":["/v2/me/*","/v2/me/devices"]}]),
        );
        assert_eq!(house.snapshots.len(), 1);
        house.notice("anna", 2);
        house
            .hub
            .handle_snapshot(&ClientId(client.as_str().into()), &["1".to_owned()], house.now);
        house.notice("anna", 3);
        assert_eq!(data(&house.ask("anna", &connect(&client))), [1, 2, 3]);
    }

    #[test]
    fn a_session_that_never_fetches_is_ended_rather_than_shortened() {
        let mut house = House::new(Config {
            max_queue: 3,
            ..Config::default()
        });
        let client = house.session("anna", DEVICES);
        (0..3).for_each(|n| house.notice("anna", n));
        assert_eq!(house.hub.len(), 1);
        house.notice("anna", 3);
        assert!(house.hub.is_empty());
        assert_eq!(house.ask("anna", &connect(&client))[0]["advice"]["reconnect"], "handshake");
    }

    #[test]
    fn one_user_cannot_take_all_the_room() {
        let mut house = House::new(Config {
            max_sessions_per_user: 2,
            max_sessions: 3,
            ..Config::default()
        });
        let clients: Vec<String> = (0..3).map(|_| house.shake("anna")).collect();
        assert_eq!(house.hub.len(), 2);
        assert_eq!(house.ask("anna", &connect(&clients[0]))[0]["error"], UNKNOWN);
        assert_eq!(house.ask("anna", &connect(&clients[2]))[0]["successful"], true);
        house.shake("bert");
        let refused = house.ask("carl", &json!([{"channel":"/meta/handshake"}]));
        assert_eq!(refused[0]["error"], TOO_MANY_SESSIONS);
    }

    #[test]
    fn going_down_answers_every_held_connect_and_holds_no_more() {
        let mut house = House::open();
        let client = house.session("anna", DEVICES);
        let held = house.send("anna", &connect(&client));
        house.hub.handle_drain(house.now);
        house.drain();
        let advice = house.read(held)[0]["advice"].clone();
        assert_eq!(advice["reconnect"], "retry");
        assert!(advice["interval"].as_u64() >= Some(1000));
        let next = house.send("anna", &connect(&client));
        assert!(!house.is_held(next));
    }

    #[test]
    fn lost_notices_end_every_session() {
        let mut house = House::open();
        let client = house.session("anna", DEVICES);
        let held = house.send("anna", &connect(&client));
        house.hub.handle_gap();
        house.drain();
        assert_eq!(house.read(held)[0]["advice"]["reconnect"], "handshake");
    }

    #[derive(Clone, Debug)]
    enum Step {
        Connect(usize),
        Notice(usize),
        Written,
        Cut,
        Pass(u64),
        Hostile(String),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let word = prop_oneof![
            Just(r#"{"channel":"/meta/connect"}"#.to_owned()),
            Just(r#"{"channel":"/meta/handshake"}"#.to_owned()),
            Just(r#"{"channel":"/meta/subscribe","clientId":"client1","subscription":"/**"}"#.to_owned()),
            Just(r#"{"channel":"/x/a","clientId":"client1","data":1}"#.to_owned()),
            "[a-z/*]{0,9}".prop_map(|text| json!({"channel":text,"clientId":text}).to_string()),
        ];
        let step = prop_oneof![
            4 => (0..3usize).prop_map(Step::Connect),
            4 => (0..2usize).prop_map(Step::Notice),
            3 => Just(Step::Written),
            2 => Just(Step::Cut),
            1 => (0..40u64).prop_map(Step::Pass),
            1 => word.prop_map(Step::Hostile),
        ];
        proptest::collection::vec(step, 0..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Whatever is cut, held, overtaken or slow: each session reads each notice of its user once, in order.
        #[test]
        fn nothing_is_lost_doubled_or_told_to_another(steps in steps()) {
            let mut house = House::new(Config { max_interval: Duration::from_secs(100_000), ..Config::default() });
            let users = ["anna", "anna", "bert"];
            let clients: Vec<String> = users.iter().map(|user| house.session(user, DEVICES)).collect();
            let mut of: BTreeMap<PostNo, usize> = BTreeMap::new();
            let mut told: [Vec<u64>; 2] = Default::default();
            let mut read: [Vec<u64>; 3] = Default::default();
            let mut number = 0;
            for step in steps {
                match step {
                    Step::Connect(who) => {
                        let post = house.send(users[who], &connect(&clients[who]));
                        // A client that sends a new connect has dropped the socket of its older one.
                        let older: Vec<PostNo> = of.iter().filter(|(_, one)| **one == who).map(|(post, _)| *post).collect();
                        for post in older {
                            of.remove(&post);
                            house.answers.remove(&post);
                            house.hub.handle_cut(post, house.now);
                        }
                        of.insert(post, who);
                    }
                    Step::Notice(whose) => {
                        number += 1;
                        told[whose].push(u64::from(number));
                        house.notice(["anna", "bert"][whose], number);
                    }
                    Step::Written => if let Some(post) = of.keys().find(|post| house.answers.contains_key(post)).copied() {
                        let who = of.remove(&post).expect("just found");
                        let answer = house.read(post);
                        read[who].extend(data(&answer));
                    },
                    Step::Cut => if let Some((post, _)) = of.pop_first() {
                        house.answers.remove(&post);
                        house.hub.handle_cut(post, house.now);
                    },
                    Step::Pass(seconds) => house.pass(Duration::from_secs(seconds)),
                    Step::Hostile(text) => { house.send("carl", &serde_json::from_str(&text).expect("JSON")); }
                }
                house.drain();
            }
            for (who, user) in users.iter().enumerate() {
                let last = house.send(user, &connect(&clients[who]));
                if let Some(answer) = house.answers.remove(&last) {
                    read[who].extend(data(&answer));
                }
            }
            prop_assert_eq!(&read[0], &told[0]);
            prop_assert_eq!(&read[1], &told[0]);
            prop_assert_eq!(&read[2], &told[1]);
        }
    }
}
