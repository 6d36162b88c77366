//! What goes into the sessions and what comes out.

use crate::cometd::message::{ClientId, ClientMessage, Event};
use crate::cometd::session::{ConnectionType, ReplyPath, SessionId};
use crate::model::UserId;
use crate::secret::SharedSecret;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Numbers the requests under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientRequestId(pub u64);

/// Numbers the open websockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SocketId(pub u64);

/// The sender of a request. A session belongs to the sender of its handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientOrigin {
    /// The authenticated user.
    pub user: Option<UserId>,
    /// This very request proves the user, by password or token, not by a cookie.
    pub proven: bool,
    /// End of the user's login, if it ends.
    pub login_until: Option<Instant>,
    /// The cookie `BAYEUX_BROWSER`.
    pub browser: Option<SharedSecret>,
    /// Names the HTTP session whose cookie came with it, or is set by its answer; a request of the
    /// same one is of the same browser.
    pub login: Option<SharedSecret>,
    /// It has no such cookie: a password or a token came alone.
    pub by_password_alone: bool,
    /// It brought a login that is wrong.
    pub is_refused: bool,
    /// Address of the client, behind trusted proxies.
    pub address: IpAddr,
}

/// How a request has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CometdTransport {
    /// A POST with messages.
    Http {
        /// Over HTTP/2, where held connects cost a browser none of its few connections.
        multiplexed: bool,
        /// Websockets do not get through to this client.
        blocked: bool,
    },
    /// GET with `jsonp`.
    Callback,
    /// A frame of this websocket.
    Socket(SocketId),
}

impl CometdTransport {
    /// POST over HTTP/1.1.
    pub const HTTP: CometdTransport = CometdTransport::Http { multiplexed: false, blocked: false };

    pub(in crate::cometd) fn transport(self) -> ConnectionType {
        match self {
            CometdTransport::Http { .. } => ConnectionType::LongPolling,
            CometdTransport::Callback => ConnectionType::CallbackPolling,
            CometdTransport::Socket(_) => ConnectionType::Websocket,
        }
    }
}

/// One request with its messages.
#[derive(Clone, Debug)]
pub struct ClientRequest {
    /// Its number; never used before.
    pub no: ClientRequestId,
    /// The sender of all its messages.
    pub from: ClientOrigin,
    /// The browser's name from now on, where it brought none: sent to it as its cookie.
    pub new_browser: Option<SharedSecret>,
    /// How it has come.
    pub via: CometdTransport,
    /// The id of the session it may open; never used before. Chance is the shell's.
    pub fresh: ClientId,
    /// At least one.
    pub messages: Vec<ClientMessage>,
}

impl ClientRequest {
    pub(super) fn reach(&self) -> ReplyPath {
        match self.via {
            CometdTransport::Socket(socket) => ReplyPath::Socket(socket),
            CometdTransport::Http { .. } | CometdTransport::Callback => ReplyPath::Post(self.no),
        }
    }
}

/// A session as it is kept for the next life of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// Client id of the session.
    pub id: ClientId,
    /// User of the session.
    pub user: UserId,
    /// Value of the cookie `BAYEUX_BROWSER`.
    pub browser: Option<SharedSecret>,
    /// Address that its handshake came from.
    pub address: IpAddr,
    /// The number of the user's event that its batches count from.
    pub base: u64,
    /// The batch that its batches count from.
    pub offset: u64,
    /// Channel patterns of the session.
    pub subscriptions: Vec<String>,
}

/// An event as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestoredEvents {
    /// Its number among its user's events.
    pub number: u64,
    /// Channel of the event.
    pub channel: String,
    /// The whole message, JSON.
    pub text: String,
}

/// A change of the event log: what clients that come back find there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogChange {
    /// An event is kept. If it can not be, say [`super::Sessions::handle_unkept`].
    Event {
        /// User of the event.
        user: UserId,
        /// Channel of the event.
        channel: &'static str,
        /// The event with its number.
        event: Arc<Event>,
        /// Numbers of the user's events that need not be kept any more.
        gone: Vec<u64>,
    },
    /// Events are forgotten; up to which number is remembered.
    NoEvents {
        /// User of the events.
        user: UserId,
        /// Numbers of the events.
        gone: Vec<u64>,
    },
    /// A session is kept as it is now.
    Session(Saved),
    /// A session is forgotten.
    NoSession(ClientId),
}

/// What the shell is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Answer the request with 200 and this body; then say [`super::Sessions::handle_written`] or
    /// [`super::Sessions::handle_cut`].
    Answer {
        /// Number of the request.
        post: ClientRequestId,
        /// A JSON array.
        body: String,
        /// There are events in it, which must not be lost.
        has_events: bool,
    },
    /// A newer connect has taken this one's place: answer an HTTP error at once, but not 408, which
    /// browsers repeat.
    Overtaken {
        /// Number of the request.
        post: ClientRequestId,
    },
    /// A newer connect waits to know whether this answer arrives: see to it that it has or never
    /// will, and say so.
    Abandon {
        /// Number of the request.
        post: ClientRequestId,
    },
    /// The same for the frame under way on a websocket.
    AbandonSocket {
        /// Number of the websocket.
        socket: SocketId,
    },
    /// Send a frame; then say [`super::Sessions::handle_sent`]. There is never a second one under
    /// way.
    Send {
        /// Number of the websocket.
        socket: SocketId,
        /// A JSON array.
        body: String,
    },
    /// The last frame that came is dealt with: read the next one.
    Next {
        /// Number of the websocket.
        socket: SocketId,
    },
    /// Close a websocket once everything is sent; then say [`super::Sessions::handle_gone`].
    Close {
        /// Number of the websocket.
        socket: SocketId,
        /// RFC 6455 7.4.1.
        code: u16,
        /// Text for people.
        reason: &'static str,
    },
    /// Ask for the present state on these channels and hand it in with
    /// [`super::Sessions::handle_state`], in order with the notices.
    State {
        /// The session that has subscribed.
        session: SessionId,
        /// User of the session.
        user: UserId,
        /// Channels of state to ask for.
        channels: Vec<&'static str>,
    },
    /// Read this user's kept events behind this number and hand them in with
    /// [`super::Sessions::handle_replay`], in order.
    Replay {
        /// The session that wants them.
        session: SessionId,
        /// User of the session.
        user: UserId,
        /// Number of the last event that is not wanted.
        after: u64,
    },
    /// Keep a change for the next life of the process, in order.
    Keep(LogChange),
    /// A client was told 402: say why in the log and count it.
    UnknownSession {
        /// Why the session is unknown.
        why: SessionEnd,
        /// How long the session has been gone.
        gone_for: Option<Duration>,
        /// User of the request.
        user: Option<UserId>,
    },
    /// A handshake was refused because there were too many.
    Throttled {
        /// User of the request.
        user: Option<UserId>,
        /// Address of the client.
        address: IpAddr,
    },
}

/// Why a client is told 402.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionEnd {
    /// The message has no client id.
    NoClientId,
    /// We have never heard of it, or long ago.
    NeverKnown,
    /// It did not connect for too long.
    Expired,
    /// Its client has disconnected.
    Disconnected,
    /// Its user has opened more sessions than a user may have.
    CrowdedOut,
    /// It had more events than may wait.
    Overflowed,
    /// Its user's login has ended.
    LoginExpired,
    /// Its user has logged out.
    LoggedOut,
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

impl SessionEnd {
    /// The error of a connect that is held when the session ends; none where its client has ended
    /// it.
    pub(in crate::cometd) fn error(self) -> Option<&'static str> {
        match self {
            SessionEnd::Disconnected => None,
            SessionEnd::LoginExpired => Some(super::LOGIN_EXPIRED),
            SessionEnd::NoClientId
            | SessionEnd::NeverKnown
            | SessionEnd::Expired
            | SessionEnd::CrowdedOut
            | SessionEnd::Overflowed
            | SessionEnd::LoggedOut
            | SessionEnd::Gap
            | SessionEnd::Restarted
            | SessionEnd::OtherUser
            | SessionEnd::OtherBrowser
            | SessionEnd::NoBrowser
            | SessionEnd::OtherSocket => Some(super::UNKNOWN),
        }
    }

    /// How the session's websocket is closed when it ends, where it is: RFC 6455 7.4.1, and the
    /// reason for people.
    pub(super) fn closes_socket(self) -> Option<(u16, &'static str)> {
        match self {
            SessionEnd::Expired => Some((1000, "The session has expired.")),
            SessionEnd::Overflowed => Some((1008, "Too many events wait for this session.")),
            SessionEnd::LoginExpired => Some((1008, "The login has expired.")),
            SessionEnd::LoggedOut => Some((1008, "The user has logged out.")),
            SessionEnd::CrowdedOut => Some((1008, "The user has opened too many sessions.")),
            SessionEnd::Disconnected
            | SessionEnd::Gap
            | SessionEnd::Restarted
            | SessionEnd::NoClientId
            | SessionEnd::NeverKnown
            | SessionEnd::OtherUser
            | SessionEnd::OtherBrowser
            | SessionEnd::NoBrowser
            | SessionEnd::OtherSocket => None,
        }
    }

    /// One word for log and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            SessionEnd::NoClientId => "no_client_id",
            SessionEnd::NeverKnown => "never_known",
            SessionEnd::Expired => "expired",
            SessionEnd::Disconnected => "disconnected",
            SessionEnd::CrowdedOut => "crowded_out",
            SessionEnd::Overflowed => "overflowed",
            SessionEnd::LoginExpired => "login_expired",
            SessionEnd::LoggedOut => "logged_out",
            SessionEnd::Gap => "gap",
            SessionEnd::Restarted => "restarted",
            SessionEnd::OtherUser => "other_user",
            SessionEnd::OtherBrowser => "other_browser",
            SessionEnd::NoBrowser => "no_browser",
            SessionEnd::OtherSocket => "other_socket",
        }
    }
}

/// How much there is, and has been.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionCounts {
    /// Connects that are held.
    pub held: usize,
    /// Events that wait.
    pub queued: usize,
    /// Events that were put into answers and frames so far.
    pub handed_out: u64,
    /// Events that were replayed so far.
    pub replayed: u64,
    /// Sessions by [`ConnectionType::ALL`].
    pub by_transport: [usize; 3],
}
