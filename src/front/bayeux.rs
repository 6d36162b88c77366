//! CometD (Bayeux): the event channel of desktops.
//!
//! `message` is text ⇄ types, `session` the machine with every session in it, `http` the only part that waits.

#[cfg(feature = "io")]
pub mod http;
pub mod message;
pub mod session;

use std::time::Duration;

/// What the event channel may be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a connect is held: below every common idle limit of proxies (30 s).
    pub hold: Duration,
    /// How long a session lives without a connect: longer than a browser lets a background tab sleep.
    pub max_interval: Duration,
    /// What clients are told to wait between two connects.
    pub interval: Duration,
    /// Longest hold that a client may ask for with `advice.timeout`.
    pub longest_hold: Duration,
    /// Sessions at once.
    pub max_sessions: usize,
    /// Sessions of one user at once.
    pub max_sessions_per_user: usize,
    /// Subscriptions of one session.
    pub max_subscriptions: usize,
    /// Messages in one request.
    pub max_messages: usize,
    /// Events that wait for one session; one more ends it, and its client starts again with the current state.
    pub max_queue: usize,
    /// The same in bytes.
    pub max_queue_bytes: usize,
    /// Channel patterns on which clients may publish to each other. For tests; default none.
    pub open_channels: Vec<String>,
    /// Sessions without a user are let in; they see the open channels only.
    pub anonymous: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(25),
            max_interval: Duration::from_secs(60),
            interval: Duration::ZERO,
            longest_hold: Duration::from_secs(60),
            max_sessions: 20_000,
            max_sessions_per_user: 50,
            max_subscriptions: 64,
            max_messages: 64,
            max_queue: 1_000,
            max_queue_bytes: 1 << 20,
            open_channels: Vec::new(),
            anonymous: false,
        }
    }
}
