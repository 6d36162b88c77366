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

mod sockets;
mod subscriptions;
#[cfg(test)]
mod tests;

use super::Config;
use super::interest::Interest;
use super::ledger::Ledger;
use super::limits::{Account, Accounts, Who};
use super::message::{
    self, AckExt, Advice, ClientAdvice, ClientId, Event, Incoming, Kind, Pattern, Reconnect, ReplayReply, Reply, ReplyExt, Timesync,
    TimesyncReply,
};
use super::session::{Acks, Connect, Flight, Owner, Place, Queue, Reach, Session, Want};
pub use super::session::{SessionNo, Transport};
use crate::words::{Now, UserId};
use sockets::Socket;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use subscriptions::{subscribed, unknown_echo};

/// Numbers the requests under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PostNo(pub u64);

/// Numbers the open websockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketNo(pub u64);

/// Who sends a request. A session belongs to whom its handshake came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The authenticated user.
    pub user: Option<UserId>,
    /// He has proved it in this very request, not by a cookie.
    pub proven: bool,
    /// His login is good until then, if it ends.
    pub login_until: Option<Instant>,
    /// The cookie `BAYEUX_BROWSER`.
    pub browser: Option<Arc<str>>,
    /// From where.
    pub address: IpAddr,
}

/// How a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// POST.
    Http {
        /// Over HTTP/2, where held connects cost a browser none of its few connections.
        multiplexed: bool,
    },
    /// GET with `jsonp`.
    Callback,
    /// A frame.
    Socket(SocketNo),
}

impl Via {
    fn transport(self) -> Transport {
        match self {
            Via::Http { .. } => Transport::LongPolling,
            Via::Callback => Transport::CallbackPolling,
            Via::Socket(_) => Transport::Websocket,
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
    /// The browser's name from now on, where it brought none: sent to it as its cookie.
    pub new_browser: Option<Arc<str>>,
    /// By which way.
    pub via: Via,
    /// The id of the session it may open; never used before. Chance is the shell's.
    pub fresh: ClientId,
    /// At least one.
    pub messages: Vec<Incoming>,
}

/// A session as it is kept for the next life of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Its id.
    pub id: ClientId,
    /// Its user.
    pub user: UserId,
    /// Its browser.
    pub browser: Option<Arc<str>>,
    /// From where its handshake came.
    pub address: IpAddr,
    /// What its batches count from.
    pub base: u64,
    /// Its subscriptions.
    pub subscriptions: Vec<String>,
}

/// An event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Its number among its user's events.
    pub number: u64,
    /// On which channel.
    pub channel: String,
    /// The whole message, JSON.
    pub text: String,
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
    /// A newer connect waits to know whether this answer arrives: see to it that it has or never will, and say so.
    Abandon {
        /// Which.
        post: PostNo,
    },
    /// The same for the frame under way on a websocket.
    AbandonSocket {
        /// Which.
        socket: SocketNo,
    },
    /// Send a frame; then say [`Hub::handle_sent`]. There is never a second one under way.
    Send {
        /// Where.
        socket: SocketNo,
        /// A JSON array.
        body: String,
    },
    /// The last frame that came is dealt with: read the next one.
    Next {
        /// Where.
        socket: SocketNo,
    },
    /// Close a websocket once everything is sent; then say [`Hub::handle_gone`].
    Close {
        /// Which.
        socket: SocketNo,
        /// RFC 6455 7.4.1.
        code: u16,
        /// For people.
        reason: &'static str,
    },
    /// Ask for the present state on these channels and hand it in with [`Hub::handle_state`], in order with the notices.
    State {
        /// The session that has subscribed.
        session: SessionNo,
        /// Whose state.
        user: UserId,
        /// Which channels.
        channels: Vec<&'static str>,
    },
    /// Read this user's kept events behind this number and hand them in with [`Hub::handle_replay`], in order.
    Replay {
        /// The session that wants them.
        session: SessionNo,
        /// Whose events.
        user: UserId,
        /// Behind which number.
        after: u64,
    },
    /// Keep an event.
    Keep {
        /// Whose.
        user: UserId,
        /// On which channel.
        channel: &'static str,
        /// The event.
        event: Arc<Event>,
        /// Numbers of his that need not be kept any more.
        gone: Vec<u64>,
    },
    /// Forget events, and remember up to which number.
    Drop {
        /// Whose.
        user: UserId,
        /// Their numbers.
        gone: Vec<u64>,
    },
    /// Keep a session for the next life.
    Save(Saved),
    /// Forget it.
    Unsave(ClientId),
    /// Somebody was told 402: say why in the log and count it.
    Stranger {
        /// In a word.
        why: Why,
        /// How long the session has been gone.
        gone_for: Option<Duration>,
        /// Who asked.
        user: Option<UserId>,
    },
    /// A handshake was refused because there were too many.
    Throttled {
        /// Who asked.
        user: Option<UserId>,
        /// From where.
        address: IpAddr,
    },
}

/// Why a client is told 402.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// The message has no client id.
    NoClientId,
    /// We have never heard of it, or long ago.
    NeverKnown,
    /// It did not connect for too long.
    Expired,
    /// Its client said good-bye.
    Disconnected,
    /// Its user opened more sessions than he may have.
    CrowdedOut,
    /// It had more events than may wait.
    Overflowed,
    /// Its user's login has ended.
    LoginExpired,
    /// Notices were lost on the way to us.
    Gap,
    /// The process has started anew, and the client does not say what it has.
    Restarted,
    /// It is another user's.
    OtherUser,
    /// It is another browser's.
    OtherBrowser,
    /// The request came by cookie, but without the browser's.
    NoBrowser,
    /// The websocket is another session's.
    OtherSocket,
}

impl Why {
    /// One word for log and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Why::NoClientId => "no_client_id",
            Why::NeverKnown => "never_known",
            Why::Expired => "expired",
            Why::Disconnected => "disconnected",
            Why::CrowdedOut => "crowded_out",
            Why::Overflowed => "overflowed",
            Why::LoginExpired => "login_expired",
            Why::Gap => "gap",
            Why::Restarted => "restarted",
            Why::OtherUser => "other_user",
            Why::OtherBrowser => "other_browser",
            Why::NoBrowser => "no_browser",
            Why::OtherSocket => "other_socket",
        }
    }
}

/// How much there is, and has been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connects that are held.
    pub held: usize,
    /// Events that wait.
    pub queued: usize,
    /// Events that were put into answers and frames so far.
    pub handed_out: u64,
    /// Events that were replayed so far.
    pub replayed: u64,
    /// Sessions by [`Transport::ALL`].
    pub by_transport: [usize; 3],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Session(SessionNo),
    Socket(SocketNo),
}

/// All sessions. After each `handle_*` drain [`Hub::poll_output`].
#[derive(Debug)]
pub struct Hub {
    config: Config,
    types: Vec<&'static str>,
    open: Vec<Pattern>,
    sessions: BTreeMap<SessionNo, Session>,
    by_id: HashMap<ClientId, SessionNo>,
    last_session: u64,
    interest: Interest,
    accounts: Accounts,
    ledger: Ledger,
    sockets: BTreeMap<SocketNo, Socket>,
    /// Whose events are in the frame under way.
    in_flight: BTreeMap<SocketNo, SessionNo>,
    deadlines: BTreeSet<(Instant, Timer)>,
    /// Whose connects are in a request that is held, or answered and not yet written.
    riders: BTreeMap<PostNo, Vec<SessionNo>>,
    held_by_browser: BTreeMap<Arc<str>, usize>,
    graves: Graves,
    outputs: VecDeque<Output>,
    counts: Counts,
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
const ID_INVALID: &str = "405::message_id_invalid";

/// A client may not ask for a longer pause between connects than this; its session would live as long.
const LONGEST_INTERVAL: Duration = Duration::from_secs(300);
/// How long a connect may wait for what is not a hold: the outcome of an older answer, a replay.
const OUTCOME: Duration = Duration::from_secs(5);

/// What leaves for a client.
type Leaving = (Vec<Arc<Event>>, Reply);

impl Hub {
    /// Without sessions. `epoch` is one more at each start of the process; see [`super::ledger`].
    pub fn new(config: Config, epoch: u64) -> Self {
        let open = config.open_channels.iter().filter_map(|text| Pattern::parse(text)).collect();
        let types = [
            (config.websocket, Transport::Websocket),
            (true, Transport::LongPolling),
            (config.callback_polling, Transport::CallbackPolling),
        ];
        Self {
            types: types
                .iter()
                .filter(|(offered, _)| *offered)
                .map(|(_, transport)| transport.as_str())
                .collect(),
            open,
            sessions: BTreeMap::new(),
            by_id: HashMap::new(),
            last_session: 0,
            interest: Interest::default(),
            accounts: Accounts::default(),
            ledger: Ledger::new(epoch, config.replay_events, config.replay_bytes),
            sockets: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            riders: BTreeMap::new(),
            held_by_browser: BTreeMap::new(),
            graves: Graves::default(),
            outputs: VecDeque::new(),
            counts: Counts::default(),
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
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// How old the oldest event of each answer was that has left since this was last asked.
    pub fn delivered(&mut self) -> impl Iterator<Item = Duration> + '_ {
        self.delivered.drain(..)
    }

    /// What to do next.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
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

    /// An earlier life has not kept the user's events up to this number.
    pub fn restore_dropped(&mut self, user: &UserId, number: u64) {
        self.ledger.restore_dropped(user, number);
    }

    /// A session that an earlier life has kept. Its client has as long as any other to come back.
    pub fn restore_session(&mut self, saved: Saved, now: Now) {
        let owner = Owner {
            user: Some(saved.user),
            browser: saved.browser,
            address: saved.address,
        };
        let subscriptions = saved.subscriptions.into_iter();
        let subscriptions = subscriptions.filter_map(|name| Pattern::parse(&name).map(|pattern| (name, pattern)));
        let session = Session {
            acks: Some(Acks::new(saved.base)),
            subscriptions: subscriptions.collect(),
            restored: true,
            saved: true,
            connected: true,
            ..self.session(saved.id, owner, None, Transport::LongPolling, now)
        };
        self.insert(session, now);
    }

    /// A request has come.
    pub fn handle_post(&mut self, post: Post, now: Now) {
        let Post {
            no,
            mut from,
            new_browser,
            via,
            fresh,
            messages,
        } = post;
        let reach = match via {
            Via::Socket(socket) => {
                self.frame_came(socket);
                Reach::Socket(socket)
            }
            Via::Http { .. } | Via::Callback => Reach::Post(no),
        };
        if let Some(handshake) = messages.iter().position(|message| matches!(message.kind, Kind::Handshake { .. })) {
            from.browser = from.browser.or(new_browser);
            // The text: other messages in the same request MUST be ignored.
            let reply = messages
                .into_iter()
                .nth(handshake)
                .map(|message| self.handshake(message, from, via, fresh, now));
            return self.answer(reach, Vec::new(), reply.into_iter().collect());
        }
        let alone = messages.len() == 1 || matches!(via, Via::Socket(_));
        let mut replies = Vec::with_capacity(messages.len());
        let mut events = Vec::new();
        let mut woken = BTreeSet::new();
        let mut held = false;
        for message in messages {
            if matches!(message.kind, Kind::Connect { .. }) {
                match self.connect(message, &from, (reach, via), alone, now) {
                    Some((leaving, reply)) => {
                        events.extend(leaving);
                        replies.push(reply);
                    }
                    None => held = true,
                }
            } else {
                replies.push(self.message(message, &from, reach, &mut woken, now));
            }
        }
        match reach {
            // A held request is answered when its connect is.
            Reach::Post(_) if held => {}
            Reach::Post(_) | Reach::Socket(_) => self.answer(reach, events, replies),
        }
        self.wake(woken, now);
    }

    /// The answer has left: its events are delivered.
    pub fn handle_written(&mut self, post: PostNo, now: Now) {
        for no in self.riders.remove(&post).unwrap_or_default() {
            self.arrive(no, Reach::Post(post), false, now);
        }
    }

    /// The request's connection is gone, held or answered, and no answer has left on it: its events wait for the next connect.
    pub fn handle_cut(&mut self, post: PostNo, now: Now) {
        for no in self.riders.remove(&post).unwrap_or_default() {
            self.arrive(no, Reach::Post(post), true, now);
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
        let Some(account) = self.accounts.get(&Who::User(Some(user.clone()))) else {
            return;
        };
        let takes = |no: &SessionNo| self.sessions.get(no).is_some_and(|session| session.takes(channel));
        let hearers: BTreeSet<SessionNo> = account.sessions.iter().copied().filter(takes).collect();
        for no in &hearers {
            self.enqueue(*no, event.clone());
        }
        self.wake(hearers, now);
    }

    /// The state asked for with [`Output::State`]: channel and `data`.
    pub fn handle_state(&mut self, session: SessionNo, states: &[(&'static str, String)], now: Now) {
        for (channel, data) in states {
            // It may have unsubscribed meanwhile.
            if self.sessions.get(&session).is_some_and(|session| session.takes(channel)) {
                self.enqueue(session, Event::plain(channel, data, now.mono));
            }
        }
        self.wake(BTreeSet::from([session]), now);
    }

    /// Notices have been lost on the way here. Nobody may miss one silently: all sessions end, their clients shake hands again and
    /// get the current state.
    pub fn handle_gap(&mut self, now: Now) {
        let sessions: Vec<SessionNo> = self.sessions.keys().copied().collect();
        for no in sessions {
            self.end(no, Why::Gap, now);
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
    pub fn handle_drain(&mut self, now: Now) {
        self.draining = true;
        let held = self.sessions.iter().filter(|(_, session)| session.place.is_held());
        let held: Vec<SessionNo> = held.map(|(no, _)| *no).collect();
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
                Timer::Session(no) if self.sessions.contains_key(&no) => self.session_timeout(no, now),
                Timer::Socket(socket) if self.sockets.contains_key(&socket) => self.socket_timeout(socket),
                // It went with what it was for; never there.
                Timer::Session(_) | Timer::Socket(_) => {
                    self.deadlines.pop_first();
                }
            }
        }
    }

    fn session_timeout(&mut self, no: SessionNo, now: Now) {
        let Some(session) = self.sessions.get(&no) else { return };
        if session.login_until.is_some_and(|until| until <= now.mono) {
            return self.end(no, Why::LoginExpired, now);
        }
        match &session.place {
            Place::Held { .. } => self.release(no, now),
            Place::New { .. } | Place::Away { .. } => self.end(no, Why::Expired, now),
        }
    }

    // ---- handshake

    fn handshake(&mut self, message: Incoming, from: Peer, via: Via, fresh: ClientId, now: Now) -> Reply {
        let types = self.types.clone();
        let refused = |error, reconnect, interval: Duration| Reply {
            supported_connection_types: Some(types.clone()),
            advice: Some(Advice {
                reconnect,
                interval: interval.as_millis() as u64,
                timeout: None,
                multiple_clients: None,
            }),
            ..failed("/meta/handshake", message.id.clone(), error)
        };
        if let Kind::Handshake {
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
        let owner = Owner {
            user: from.user,
            browser: from.browser,
            address: from.address,
        };
        let session = Session {
            acks: message.ext.acks.then(|| Acks::new(last)),
            ..self.session(fresh.clone(), owner, from.login_until, via.transport(), now)
        };
        let ext = ReplyExt {
            ack: session.acks.map(|_| AckExt::Enabled(true)),
            timesync: timesync(message.ext.timesync, now, now),
            replay: (message.ext.replay.is_some() && session.owner.user.is_some()).then_some(ReplayReply { last, complete: None }),
        };
        let no = self.insert(session, now);
        if let Via::Socket(socket) = via {
            self.leave_socket(socket, now);
            self.attach(no, Reach::Socket(socket));
        }
        self.save(no);
        Reply {
            version: Some("1.0"),
            supported_connection_types: Some(self.types.clone()),
            client_id: Some(fresh.clone()),
            advice: Some(self.retry(&fresh)),
            ext,
            ..done("/meta/handshake", message.id)
        }
    }

    fn may_shake(&mut self, from: &Peer, now: Now) -> Result<(), Duration> {
        for who in [Who::User(from.user.clone()), Who::Address(from.address)] {
            self.accounts.entry(who, &self.config, now.mono).shake(now.mono)?;
        }
        Ok(())
    }

    /// A user who opens one session after the other loses the one that would have expired first, unless all of them are held.
    fn make_room(&mut self, from: &Peer, now: Now) -> bool {
        let sessions = |who: &Who| self.accounts.get(who).map_or(0, |account| account.sessions.len());
        if self.sessions.len() >= self.config.max_sessions || sessions(&Who::Address(from.address)) >= self.config.max_sessions_per_address
        {
            return false;
        }
        let mine = Who::User(from.user.clone());
        if from.user.is_none() || sessions(&mine) < self.config.max_sessions_per_user {
            return true;
        }
        let mine = self.accounts.get(&mine).into_iter().flat_map(|account| &account.sessions);
        let idle = mine.filter_map(|no| match &self.sessions.get(no)?.place {
            Place::New { expires } | Place::Away { expires } => Some((*expires, *no)),
            Place::Held { .. } => None,
        });
        let Some((_, no)) = idle.min() else { return false };
        self.end(no, Why::CrowdedOut, now);
        true
    }

    /// As it is after its handshake.
    fn session(&self, id: ClientId, owner: Owner, login_until: Option<Instant>, transport: Transport, now: Now) -> Session {
        Session {
            told_interval: self.interval_of(&id).as_millis() as u64,
            id,
            owner,
            login_until,
            subscriptions: Vec::new(),
            queue: Queue::default(),
            acks: None,
            connected: false,
            transport,
            place: Place::New {
                expires: now.mono + self.config.interval + self.config.max_interval,
            },
            socket: None,
            flight: None,
            behind: None,
            restored: false,
            saved: false,
        }
    }

    fn insert(&mut self, session: Session, now: Now) -> SessionNo {
        self.last_session += 1;
        let no = SessionNo(self.last_session);
        for who in session.owner.accounts() {
            let account = self.accounts.entry(who, &self.config, now.mono);
            account.sessions.insert(no);
            account.subscriptions += session.subscriptions.len();
        }
        for (_, pattern) in &session.subscriptions {
            self.interest.add(pattern, no);
        }
        self.counts.by_transport[session.transport as usize] += 1;
        self.by_id.insert(session.id.clone(), no);
        self.deadlines.insert((session.deadline(), Timer::Session(no)));
        self.sessions.insert(no, session);
        no
    }

    // ---- connect

    /// The reply with its events; `None` when it is held.
    fn connect(&mut self, message: Incoming, from: &Peer, (reach, via): (Reach, Via), alone: bool, now: Now) -> Option<Leaving> {
        let Kind::Connect { connection_type, advice } = &message.kind else {
            unreachable!("sorted before")
        };
        let (is_offered, advice) = (self.is_offered(connection_type.as_deref()), *advice);
        let no = match self.find(&message, from, reach) {
            Ok(no) => no,
            Err(why) => return Some((Vec::new(), self.stranger(message, why, from, now))),
        };
        if !is_offered {
            let reply = Reply {
                advice: self.sessions.get(&no).map(|session| self.retry(&session.id)),
                ..failed("/meta/connect", message.id, NO_COMMON_TYPE)
            };
            return Some((Vec::new(), reply));
        }
        if !self.can_resume(no, message.ext.ack) {
            self.end(no, Why::Restarted, now);
            return Some((Vec::new(), self.stranger(message, Why::Restarted, from, now)));
        }
        self.let_go_of_older(no, reach, now);
        self.attach(no, reach);
        self.acknowledge(no, message.ext.ack);
        self.change(no, |session| session.login_until = from.login_until);
        let session = self.sessions.get_mut(&no)?;
        let was_connected = std::mem::replace(&mut session.connected, true);
        let old = std::mem::replace(&mut session.transport, via.transport());
        self.counts.by_transport[old as usize] -= 1;
        self.counts.by_transport[via.transport() as usize] += 1;

        let hold = self.hold_for(advice);
        let slot = match via {
            Via::Http { multiplexed: false } | Via::Callback => from.browser.clone(),
            Via::Http { multiplexed: true } | Via::Socket(_) => None,
        };
        let has_slot = slot
            .as_ref()
            .is_none_or(|browser| self.held_by_browser.get(browser).copied().unwrap_or(0) < self.config.max_held_per_browser);
        let session = self.sessions.get(&no)?;
        let wants_hold = alone && was_connected && !self.draining && !hold.is_zero();
        let has_nothing = session.queue.is_empty() || session.is_pushed();
        let waits_for_outcome = alone && !session.may_deliver() && !session.is_pushed();
        let holds = wants_hold && has_nothing && has_slot;
        let connect = Connect {
            reach,
            id: message.id,
            wants_advice: advice.is_some(),
            at_once: !holds,
            crowded: wants_hold && has_nothing && !has_slot,
            interval: advice
                .and_then(|advice| advice.interval)
                .unwrap_or(self.config.interval)
                .min(LONGEST_INTERVAL),
            timesync: message.ext.timesync,
            received: now,
            slot: slot.filter(|_| holds),
        };
        self.ask_for_outcome(no, reach);
        if holds || waits_for_outcome {
            if let Reach::Post(post) = reach {
                self.riders.entry(post).or_default().push(no);
            }
            let until = now.mono + if holds { hold } else { OUTCOME };
            self.put(no, Place::Held { connect, until });
            None
        } else {
            self.depart(no, &connect, now)
        }
    }

    /// The newest connect wins: a held one of the same session is let go first.
    fn let_go_of_older(&mut self, no: SessionNo, reach: Reach, now: Now) {
        let Some(Session {
            place: Place::Held { connect, .. },
            ..
        }) = self.sessions.get(&no)
        else {
            return;
        };
        let older = connect.reach;
        self.put(
            no,
            Place::Away {
                expires: now.mono + self.config.max_interval,
            },
        );
        match older {
            Reach::Post(post) => {
                self.get_off(post, no);
                if older != reach {
                    self.outputs.push_back(Output::Overtaken { post });
                }
            }
            // CometD never answers it either.
            Reach::Socket(_) => {}
        }
    }

    /// A session of an earlier life needs to hear what its client has, and all that came after it must still be there.
    fn can_resume(&self, no: SessionNo, ack: Option<i64>) -> bool {
        let Some(session) = self.sessions.get(&no).filter(|session| session.restored) else {
            return true;
        };
        let (Some(ack), Some(mut acks), Some(user)) = (ack, session.acks, &session.owner.user) else {
            return false;
        };
        self.ledger.reaches_back_to(user, acks.resume(u64::try_from(ack).unwrap_or(0)))
    }

    fn acknowledge(&mut self, no: SessionNo, ack: Option<i64>) {
        let Some(session) = self.sessions.get_mut(&no) else { return };
        let Some(acks) = &mut session.acks else { return };
        let acknowledged = ack.and_then(|ack| u64::try_from(ack).ok());
        if !std::mem::take(&mut session.restored) {
            let before = (session.queue.len(), session.queue.bytes());
            if let Some(batch) = acknowledged {
                session.queue.acknowledge(batch);
            }
            let is_saved = session.saved;
            self.recount(no, before);
            if !is_saved {
                self.save(no);
            }
            return;
        }
        let after = acks.resume(acknowledged.unwrap_or(0));
        let Some(user) = session.owner.user.clone() else { return };
        let patterns = session.subscriptions.iter().map(|(_, pattern)| (pattern.clone(), after));
        let want = Want {
            after: patterns.collect(),
            heard: Vec::new(),
        };
        let channels: Vec<&'static str> = STATES.into_iter().filter(|channel| session.takes(channel)).collect();
        if !channels.is_empty() {
            // Nobody knows what has changed while there was no gateway: the replay is what was told, the state what is.
            self.want(no, &user, want);
            self.outputs.push_back(Output::State {
                session: no,
                user,
                channels,
            });
        }
    }

    fn ask_for_outcome(&mut self, no: SessionNo, reach: Reach) {
        let Some(session) = self.sessions.get(&no) else { return };
        match &session.flight {
            Some(flight) if flight.by != reach && session.is_in_doubt() => match flight.by {
                Reach::Post(post) => self.outputs.push_back(Output::Abandon { post }),
                Reach::Socket(socket) => self.outputs.push_back(Output::AbandonSocket { socket }),
            },
            Some(_) | None => {}
        }
    }

    fn hold_for(&self, advice: Option<ClientAdvice>) -> Duration {
        let asked = advice.and_then(|advice| advice.timeout);
        asked.map_or(self.config.hold, |asked| asked.min(self.config.longest_hold))
    }

    /// Answers the held connect with whatever there is.
    fn release(&mut self, no: SessionNo, now: Now) {
        let Some(Session {
            place: Place::Held { connect, .. },
            ..
        }) = self.sessions.get(&no)
        else {
            return;
        };
        let connect = connect.clone();
        if let Reach::Post(post) = connect.reach {
            self.get_off(post, no);
        }
        if let Some((events, reply)) = self.depart(no, &connect, now) {
            self.answer(connect.reach, events, vec![reply]);
        }
    }

    /// The session's events leave with the reply to a connect.
    fn depart(&mut self, no: SessionNo, connect: &Connect, now: Now) -> Option<Leaving> {
        let current = self.interval_of(&self.sessions.get(&no)?.id).as_millis() as u64;
        let session = self.sessions.get_mut(&no)?;
        let before = (session.queue.len(), session.queue.bytes());
        let mut ext = ReplyExt {
            timesync: timesync(connect.timesync, connect.received, now),
            ..ReplyExt::default()
        };
        let (pushed, deliverable) = (session.is_pushed(), session.may_deliver());
        let (events, in_doubt) = match &mut session.acks {
            Some(acks) if deliverable => {
                let batch = acks.next(session.queue.iter());
                ext.ack = Some(AckExt::Batch(batch));
                (session.queue.leave_with(batch), Vec::new())
            }
            Some(acks) => {
                ext.ack = Some(AckExt::Batch(acks.next([].iter())));
                (Vec::new(), Vec::new())
            }
            None if !pushed && deliverable => {
                let events = session.queue.take();
                (events.clone(), events)
            }
            None => (Vec::new(), Vec::new()),
        };
        if !session.is_in_doubt() {
            session.flight = Some(Flight {
                by: connect.reach,
                oldest: events.first().map(|event| event.born),
                events: in_doubt,
                interval: connect.interval,
            });
        }
        let advice = if connect.crowded {
            session.told_interval = self.config.multi_interval.as_millis() as u64;
            Some(Advice {
                reconnect: Reconnect::Retry,
                interval: session.told_interval,
                timeout: Some(self.config.hold.as_millis() as u64),
                multiple_clients: Some(true),
            })
        } else if connect.wants_advice || session.told_interval != current {
            session.told_interval = current;
            let id = session.id.clone();
            Some(self.retry(&id))
        } else {
            None
        };
        self.counts.handed_out += events.len() as u64;
        self.recount(no, before);
        self.put(
            no,
            Place::Away {
                expires: now.mono + connect.interval + self.config.max_interval,
            },
        );
        if let Reach::Post(post) = connect.reach {
            self.riders.entry(post).or_default().push(no);
        }
        let reply = Reply {
            advice,
            ext,
            ..done("/meta/connect", connect.id.clone())
        };
        Some((events, reply))
    }

    /// What left that way has arrived, or never will. The life of a session is counted from then on.
    fn arrive(&mut self, no: SessionNo, by: Reach, cut: bool, now: Now) {
        let Some(session) = self.sessions.get_mut(&no) else { return };
        let before = (session.queue.len(), session.queue.bytes());
        let mut interval = self.config.interval;
        if let Some(flight) = session.flight.take_if(|flight| flight.by == by) {
            interval = flight.interval;
            if cut {
                session.queue.give_back(flight.events);
            } else if let Some(oldest) = flight.oldest {
                self.delivered.push(now.mono.saturating_duration_since(oldest));
            }
        }
        let lost_its_hold = cut && matches!(&session.place, Place::Held { connect, .. } if connect.reach == by);
        // On a websocket a frame may be anything; there the life is counted from when the connect was answered.
        let was_answered = matches!((&session.place, by), (Place::Away { .. }, Reach::Post(_)));
        self.recount(no, before);
        if lost_its_hold || was_answered {
            let expires = now.mono + interval + self.config.max_interval;
            self.put(no, Place::Away { expires });
        }
        self.wake(BTreeSet::from([no]), now);
    }

    fn get_off(&mut self, post: PostNo, no: SessionNo) {
        if let Some(riders) = self.riders.get_mut(&post) {
            riders.retain(|one| *one != no);
            if riders.is_empty() {
                self.riders.remove(&post);
            }
        }
    }

    // ---- other messages

    fn find(&self, message: &Incoming, from: &Peer, reach: Reach) -> Result<SessionNo, Why> {
        let id = message.client.as_ref().ok_or(Why::NoClientId)?;
        let no = *self.by_id.get(id).ok_or(Why::NeverKnown)?;
        let session = self.sessions.get(&no).ok_or(Why::NeverKnown)?;
        let owner = &session.owner;
        if from.user != owner.user {
            return Err(Why::OtherUser);
        }
        let on_socket = match reach {
            Reach::Socket(socket) => self.sockets.get(&socket).and_then(|socket| socket.session),
            Reach::Post(_) => None,
        };
        match on_socket {
            Some(one) if one == no => return Ok(no),
            Some(_) => return Err(Why::OtherSocket),
            None => {}
        }
        match (&from.browser, &owner.browser) {
            (Some(mine), Some(owners)) if mine != owners => return Err(Why::OtherBrowser),
            // A client without cookies proves each time who it is.
            (None, _) if !(from.proven && owner.user.is_some()) => return Err(Why::NoBrowser),
            (Some(_) | None, _) => {}
        }
        Ok(no)
    }

    fn message(&mut self, message: Incoming, from: &Peer, reach: Reach, woken: &mut BTreeSet<SessionNo>, now: Now) -> Reply {
        let id = message.id.clone();
        match &message.kind {
            Kind::NoChannel => return failed(None, id, CHANNEL_MISSING),
            Kind::BadId { channel } => return failed(channel.as_str(), id, ID_INVALID),
            Kind::Handshake { .. }
            | Kind::Connect { .. }
            | Kind::Subscribe(_)
            | Kind::Unsubscribe(_)
            | Kind::Disconnect
            | Kind::Publish { .. } => {}
        }
        let no = match self.find(&message, from, reach) {
            Ok(no) => no,
            Err(why) => return self.stranger(message, why, from, now),
        };
        self.postpone(no, now);
        if let Reach::Socket(_) = reach {
            self.attach(no, reach);
            self.ask_for_outcome(no, reach);
        }
        match message.kind {
            Kind::Subscribe(subscription) => {
                let outcome = self.subscribe(no, &subscription, message.ext.replay.as_ref());
                self.save(no);
                let (outcome, replay) = match outcome {
                    Ok(replay) => (Ok(()), replay),
                    Err(error) => (Err(error), None),
                };
                let reply = subscribed("/meta/subscribe", id, subscription, outcome);
                Reply {
                    ext: ReplyExt {
                        replay,
                        ..ReplyExt::default()
                    },
                    ..reply
                }
            }
            Kind::Unsubscribe(subscription) => {
                let outcome = self.unsubscribe(no, &subscription);
                self.save(no);
                subscribed("/meta/unsubscribe", id, subscription, outcome)
            }
            Kind::Disconnect => {
                self.end(no, Why::Disconnected, now);
                done("/meta/disconnect", id)
            }
            Kind::Publish { channel, data } => match self.publish(&channel, data.as_deref(), woken, now) {
                Ok(()) => done(channel, id),
                Err(error) => failed(channel.as_str(), id, error),
            },
            Kind::Handshake { .. } | Kind::Connect { .. } | Kind::NoChannel | Kind::BadId { .. } => {
                unreachable!("sorted out before")
            }
        }
    }

    /// Any message shows that the client lives; it never shortens what it has.
    fn postpone(&mut self, no: SessionNo, now: Now) {
        let at_least = now.mono + self.config.max_interval;
        self.change(no, |session| match &mut session.place {
            Place::Held { .. } => {}
            Place::New { expires } | Place::Away { expires } => *expires = (*expires).max(at_least),
        });
    }

    /// Clients do not speak on the channels of state; on `/service/**` they speak to nobody.
    fn publish(&mut self, channel: &str, data: Option<&str>, woken: &mut BTreeSet<SessionNo>, now: Now) -> Result<(), &'static str> {
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
            woken.insert(no);
        }
        Ok(())
    }

    // ---- queues

    fn enqueue(&mut self, no: SessionNo, event: Arc<Event>) {
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
    fn recount(&mut self, no: SessionNo, (length, bytes): (usize, usize)) {
        let Some(session) = self.sessions.get(&no) else { return };
        let (length_now, bytes_now) = (session.queue.len(), session.queue.bytes());
        self.counts.queued = self.counts.queued + length_now - length;
        if bytes_now == bytes {
            return;
        }
        for who in session.owner.accounts() {
            if let Some(account) = self.accounts.get_mut(&who) {
                account.queued = account.queued + bytes_now - bytes;
            }
        }
    }

    /// Hands out what can be handed out, and ends sessions that have more than they may keep.
    fn wake(&mut self, sessions: BTreeSet<SessionNo>, now: Now) {
        for no in sessions {
            let Some(session) = self.sessions.get(&no) else { continue };
            if session.is_pushed() {
                if let Some(socket) = session.socket {
                    self.pump(socket);
                }
            }
            let Some(session) = self.sessions.get(&no) else { continue };
            if let Place::Held { connect, .. } = &session.place
                && session.may_deliver()
                && (connect.at_once || (!session.is_pushed() && !session.queue.is_empty()))
            {
                self.release(no, now);
            }
            if let Some(no) = self.too_much(no) {
                self.end(no, Why::Overflowed, now);
            }
        }
    }

    /// The session that has more than it may keep: this one, or the one with most where a user or an address has too much.
    fn too_much(&self, no: SessionNo) -> Option<SessionNo> {
        let session = self.sessions.get(&no)?;
        let queue = &session.queue;
        let behind = session.behind.as_ref().map_or(0, |behind| behind.events.len());
        if queue.len() + behind > self.config.max_queue || queue.bytes() > self.config.max_queue_bytes {
            return Some(no);
        }
        if queue.is_empty() {
            return None;
        }
        let [user, address] = session.owner.accounts();
        let limits = [
            (user, self.config.max_queue_bytes_per_user),
            (address, self.config.max_queue_bytes_per_address),
        ];
        let over = limits.iter().find_map(|(who, most)| {
            let account: &Account = self.accounts.get(who)?;
            (account.queued > *most).then_some(account)
        })?;
        let bytes = |no: &SessionNo| self.sessions.get(no).map_or(0, |session| session.queue.bytes());
        over.sessions.iter().copied().max_by_key(bytes)
    }

    // ---- ends

    /// The session is over. A held connect says how the client is to go on.
    fn end(&mut self, no: SessionNo, why: Why, now: Now) {
        let Some(session) = self.forget(no) else { return };
        self.graves.bury(session.id.clone(), why, now.mono);
        if session.saved {
            self.outputs.push_back(Output::Unsave(session.id));
        }
        if let Place::Held { connect, .. } = session.place {
            let reply = match why {
                Why::Disconnected => Reply {
                    advice: Some(bare_advice(Reconnect::None)),
                    ..done("/meta/connect", connect.id)
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

    fn forget(&mut self, no: SessionNo) -> Option<Session> {
        let mut session = self.sessions.remove(&no)?;
        self.deadlines.remove(&(session.deadline(), Timer::Session(no)));
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
                account.queued -= bytes;
            }
        }
        Some(session)
    }

    /// Changes something that its deadline may depend on.
    fn change(&mut self, no: SessionNo, change: impl FnOnce(&mut Session)) {
        let Some(session) = self.sessions.get_mut(&no) else { return };
        let before = session.deadline();
        change(session);
        let after = session.deadline();
        if before != after {
            self.deadlines.remove(&(before, Timer::Session(no)));
            self.deadlines.insert((after, Timer::Session(no)));
        }
    }

    fn put(&mut self, no: SessionNo, place: Place) {
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

    fn left_place(&mut self, place: &Place) {
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

    // ---- answers

    fn answer(&mut self, reach: Reach, events: Vec<Arc<Event>>, replies: Vec<Reply>) {
        match reach {
            Reach::Post(post) => {
                let body = message::body(&events, &replies);
                self.outputs.push_back(Output::Answer { post, body });
            }
            Reach::Socket(socket) => self.reply_on(socket, events, replies),
        }
    }

    /// 402, and always how to go on: clients key on the advice.
    fn stranger(&mut self, message: Incoming, why: Why, from: &Peer, now: Now) -> Reply {
        let grave = message.client.as_ref().filter(|_| why == Why::NeverKnown);
        let grave = grave.and_then(|id| self.graves.find(id));
        let why = grave.map_or(why, |(why, _)| why);
        self.outputs.push_back(Output::Stranger {
            why,
            gone_for: grave.map(|(_, at)| now.mono.saturating_duration_since(at)),
            user: from.user.clone(),
        });
        Reply {
            subscription: unknown_echo(&message.kind),
            advice: Some(bare_advice(Reconnect::Handshake)),
            ..failed(channel_of(&message.kind), message.id, UNKNOWN)
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

/// What became of sessions, for a while: whoever asks for one can be told why it is gone.
#[derive(Debug, Default)]
struct Graves {
    by_id: HashMap<ClientId, (Why, Instant)>,
    oldest: VecDeque<ClientId>,
}

const GRAVES: usize = 4_096;

impl Graves {
    fn bury(&mut self, id: ClientId, why: Why, at: Instant) {
        while self.oldest.len() >= GRAVES {
            let Some(oldest) = self.oldest.pop_front() else { break };
            self.by_id.remove(&oldest);
        }
        if self.by_id.insert(id.clone(), (why, at)).is_none() {
            self.oldest.push_back(id);
        }
    }

    fn find(&self, id: &ClientId) -> Option<(Why, Instant)> {
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
