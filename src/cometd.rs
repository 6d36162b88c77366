//! CometD (Bayeux): the event channel of clients.
//!
//! ```text
//!                core                                       shell
//!  text ⇄ types  message                                    long_polling  HTTP, and to websockets
//!  one session   session: connect, subscribe, delivery      websocket     frames in, frames out
//!  all of them   sessions, with subscription_index, limits  task          owns the sessions
//!                and event_numbers (numbers, replay)        event_log     what the store keeps
//! ```

#[cfg(feature = "io")]
mod event_log;
mod event_numbers;
mod limits;
#[cfg(feature = "io")]
pub mod long_polling;
pub mod message;
mod session;
pub mod sessions;
mod subscription_index;
#[cfg(feature = "io")]
pub(crate) mod task;
#[cfg(feature = "io")]
mod websocket;

use crate::model::config_value;
use serde::Deserialize;
use std::time::Duration;

/// What the event channel may be told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CometdConfig {
    /// How long a connect is held: below every common idle limit of proxies (30 s).
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub hold: Duration,
    /// How long a session lives without a connect: longer than a browser lets a background tab
    /// sleep.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub max_interval: Duration,
    /// What clients are told to wait between two connects.
    #[serde(deserialize_with = "config_value::seconds")]
    pub interval: Duration,
    /// Longest hold that a client may ask for with `advice.timeout`.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub longest_hold: Duration,
    /// Connects that one browser may hold at once over HTTP/1.1, which allows it six connections to
    /// a host; further sessions of the browser poll every `multi_interval`.
    #[serde(deserialize_with = "config_value::positive")]
    pub max_held_per_browser: usize,
    /// What a session is told to wait when its browser holds all it may.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub multi_interval: Duration,
    /// Websockets are offered.
    pub websocket: bool,
    /// Callback-polling (JSONP) is offered, to clients that authenticate each request.
    pub callback_polling: bool,
    /// `SameSite` of the cookie `BAYEUX_BROWSER`.
    pub same_site: SameSite,
    /// The cookie is `Partitioned`: each site that embeds our pages has its own. Browsers take it
    /// with Secure only.
    pub partitioned: bool,
    /// Sessions at once.
    #[serde(deserialize_with = "config_value::positive")]
    pub max_sessions: usize,
    /// Sessions of one user at once.
    #[serde(deserialize_with = "config_value::positive")]
    pub max_sessions_per_user: usize,
    /// Sessions from one address at once.
    #[serde(deserialize_with = "config_value::positive")]
    pub max_sessions_per_address: usize,
    /// Handshakes of one user a second, in the long run; ten seconds' worth at once.
    #[serde(deserialize_with = "config_value::nonzero")]
    pub handshakes_per_user: u32,
    /// The same for one address.
    #[serde(deserialize_with = "config_value::nonzero")]
    pub handshakes_per_address: u32,
    /// Subscriptions of one session.
    #[serde(deserialize_with = "config_value::positive")]
    pub max_subscriptions: usize,
    /// Subscriptions of one user's sessions together.
    #[serde(deserialize_with = "config_value::positive")]
    pub max_subscriptions_per_user: usize,
    /// Subscriptions of the sessions from one address together.
    #[serde(deserialize_with = "config_value::positive")]
    pub max_subscriptions_per_address: usize,
    /// Messages in one request.
    #[serde(deserialize_with = "config_value::positive")]
    pub max_messages: usize,
    /// Events that wait for one session; one more ends it, and its client starts again with the
    /// current state.
    #[serde(deserialize_with = "config_value::positive")]
    pub max_queue: usize,
    /// The same in bytes.
    #[serde(deserialize_with = "config_value::positive")]
    pub max_queue_bytes: usize,
    /// The same for one user's sessions together.
    #[serde(deserialize_with = "config_value::positive")]
    pub max_queue_bytes_per_user: usize,
    /// The same for the sessions from one address together.
    #[serde(deserialize_with = "config_value::positive")]
    pub max_queue_bytes_per_address: usize,
    /// Events of a user that are kept for clients that come back; 0: none.
    pub replay_events: usize,
    /// The same in bytes.
    pub replay_bytes: usize,
    /// Going down, clients are told to come back spread over this long.
    #[serde(deserialize_with = "config_value::seconds")]
    pub drain_window: Duration,
    /// The loop is overloaded when what comes in waits longer than this; clients are then told to
    /// wait, too.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub overload: Duration,
    /// Channel patterns on which clients may publish to each other. Default none.
    pub open_channels: Vec<String>,
    /// Sessions without a user are let in; they see the open channels only.
    pub anonymous: bool,
}

/// `SameSite` of a cookie (RFC 6265bis).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SameSite {
    /// Own site only, links from elsewhere not.
    Strict,
    /// Own site, and links from elsewhere.
    Lax,
    /// Everywhere; browsers take it with Secure only.
    None,
}

impl SameSite {
    /// The word in the cookie.
    pub fn as_str(self) -> &'static str {
        match self {
            SameSite::Strict => "Strict",
            SameSite::Lax => "Lax",
            SameSite::None => "None",
        }
    }
}

impl Default for CometdConfig {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(25),
            max_interval: Duration::from_secs(60),
            interval: Duration::ZERO,
            longest_hold: Duration::from_secs(60),
            max_held_per_browser: 1,
            multi_interval: Duration::from_secs(2),
            websocket: true,
            callback_polling: false,
            same_site: SameSite::Lax,
            partitioned: false,
            max_sessions: 20_000,
            max_sessions_per_user: 50,
            max_sessions_per_address: 10_000,
            handshakes_per_user: 20,
            handshakes_per_address: 500,
            max_subscriptions: 64,
            max_subscriptions_per_user: 1_000,
            max_subscriptions_per_address: 100_000,
            max_messages: 64,
            max_queue: 1_000,
            max_queue_bytes: 1 << 20,
            max_queue_bytes_per_user: 8 << 20,
            max_queue_bytes_per_address: 256 << 20,
            replay_events: 200,
            replay_bytes: 256 << 10,
            drain_window: Duration::from_secs(5),
            overload: Duration::from_millis(250),
            open_channels: Vec::new(),
            anonymous: false,
        }
    }
}
