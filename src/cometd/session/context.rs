//! What a session works with besides its own record: limits, timers, indices, and what comes out.

use super::super::CometdConfig;
use super::super::event_numbers::EventNumbers;
use super::super::limits::SessionQuotas;
use super::super::message::{
    Advice, ClientAdvice, ClientId, Pattern, Reconnect, Timesync, TimesyncReply,
};
use super::super::sessions::{
    ClientRequestId, LogChange, Numbered, Output, SessionCounts, SocketId,
};
use super::super::subscription_index::SubscriptionIndex;
use super::{ConnectionType, SessionId};
use crate::model::Now;
use crate::secret::SharedSecret;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Everything that sessions share. It holds no session, so that one of them can change it.
#[derive(Debug)]
pub struct Ctx {
    pub config: CometdConfig,
    /// The connection types on offer, the preferred one first.
    pub types: Vec<&'static str>,
    /// Channels on which clients may publish to each other.
    pub open: Vec<Pattern>,
    pub numbers: EventNumbers,
    pub quotas: SessionQuotas,
    pub subscriptions: SubscriptionIndex,
    pub timers: Timers,
    /// Sessions with a connect in a request that is held, or answered and not yet written.
    pub sessions_by_request: Numbered<ClientRequestId, Vec<SessionId>>,
    /// Held connects of each browser that take one of its few connections.
    pub held_by_browser: BTreeMap<SharedSecret, usize>,
    pub turns: Turns,
    pub out: VecDeque<Output>,
    pub counts: SessionCounts,
    /// Ages of the oldest events of answers that have left since they were last asked for.
    pub delivered: Vec<Duration>,
    /// How much longer clients are told to wait while the process is overloaded.
    pub pressure: Duration,
    pub is_draining: bool,
}

impl Ctx {
    pub fn new(config: CometdConfig, epoch: u64) -> Self {
        let types = [
            (config.websocket, ConnectionType::Websocket),
            (true, ConnectionType::LongPolling),
            (config.callback_polling, ConnectionType::CallbackPolling),
        ];
        let types = types.iter().filter(|(offered, _)| *offered);
        Self {
            types: types.map(|(_, transport)| transport.as_str()).collect(),
            open: config.open_channels.iter().filter_map(|text| Pattern::parse(text)).collect(),
            numbers: EventNumbers::new(epoch, config.replay_events, config.replay_bytes),
            quotas: SessionQuotas::default(),
            subscriptions: SubscriptionIndex::default(),
            timers: Timers::default(),
            sessions_by_request: Numbered::default(),
            held_by_browser: BTreeMap::new(),
            turns: Turns::default(),
            out: VecDeque::new(),
            counts: SessionCounts::default(),
            delivered: Vec::new(),
            pressure: Duration::ZERO,
            is_draining: false,
            config,
        }
    }

    /// Keeps something for the next life of the process.
    pub fn keep(&mut self, change: LogChange) {
        self.out.push_back(Output::Keep(change));
    }

    pub fn is_offered(&self, connection_type: Option<&str>) -> bool {
        connection_type.is_none_or(|one| self.types.contains(&one))
    }

    /// What a client asks for in its handshake, as far as it may: a longer pause between connects,
    /// and a shorter hold. npm `cometd` asks for a hold of 60 s whatever its page has configured,
    /// which proxies cut; no hold at all is asked for with each connect.
    pub fn terms(&self, advice: Option<ClientAdvice>) -> Terms {
        let hold = advice.and_then(|advice| advice.timeout).filter(|hold| !hold.is_zero());
        let interval = advice.and_then(|advice| advice.interval).unwrap_or_default();
        Terms {
            hold: hold.map_or(self.config.hold, |hold| hold.min(self.config.hold)),
            interval: interval.min(LONGEST_INTERVAL).max(self.config.interval),
        }
    }

    /// How long a connect is held: as long as its client asks for, within limits.
    pub fn hold_for(&self, advice: Option<ClientAdvice>, terms: Terms) -> Duration {
        let asked = advice.and_then(|advice| advice.timeout);
        asked.map_or(terms.hold, |asked| asked.min(self.config.longest_hold))
    }

    /// The advice to connect again.
    pub fn retry(&self, client: &ClientId, terms: Terms) -> Advice {
        Advice {
            reconnect: Reconnect::Retry,
            interval: self.interval_of(client, terms).as_millis() as u64,
            timeout: Some(terms.hold.as_millis() as u64),
            multiple_clients: None,
        }
    }

    /// How long a client is told to wait between two connects.
    pub fn interval_of(&self, client: &ClientId, terms: Terms) -> Duration {
        let interval = terms.interval;
        if self.is_draining {
            return interval + Duration::from_secs(1) + spread(client, self.config.drain_window);
        }
        interval + self.pressure + spread(client, self.pressure)
    }

    /// A request has been answered for this session, or the session waits for it no longer.
    pub fn leave_request(&mut self, post: ClientRequestId, session: SessionId) {
        if let Some(sessions) = self.sessions_by_request.get_mut(&post) {
            sessions.retain(|one| *one != session);
            if sessions.is_empty() {
                self.sessions_by_request.remove(&post);
            }
        }
    }

    /// A connect is held in this browser's name.
    pub fn hold_in(&mut self, browser: Option<&SharedSecret>) {
        self.counts.held += 1;
        if let Some(browser) = browser {
            *self.held_by_browser.entry(browser.clone()).or_default() += 1;
        }
    }

    /// A connect that was held in this browser's name is held no longer.
    pub fn release_in(&mut self, browser: Option<&SharedSecret>) {
        self.counts.held -= 1;
        if let Some(browser) = browser
            && let Some(held) = self.held_by_browser.get_mut(browser)
        {
            *held -= 1;
            if *held == 0 {
                self.held_by_browser.remove(browser);
            }
        }
    }
}

/// The longest pause between connects that a client may ask for; its session would live as long.
pub const LONGEST_INTERVAL: Duration = Duration::from_secs(300);

/// What a session's client has asked for in its handshake, and may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// How long a connect is held that asks for nothing else.
    pub hold: Duration,
    /// The pause between two connects.
    pub interval: Duration,
}

/// What a deadline belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeadlineOwner {
    /// Of a session: its hold, its life or its login ends.
    Session(SessionId),
    /// Of a websocket: it has had no session for too long.
    Socket(SocketId),
}

/// All deadlines, the next one first.
#[derive(Debug, Default)]
pub struct Timers(BTreeSet<(Instant, DeadlineOwner)>);

impl Timers {
    pub fn first(&self) -> Option<(Instant, DeadlineOwner)> {
        self.0.first().copied()
    }

    pub fn arm(&mut self, at: Instant, owner: DeadlineOwner) {
        self.0.insert((at, owner));
    }

    pub fn disarm(&mut self, at: Instant, owner: DeadlineOwner) {
        self.0.remove(&(at, owner));
    }
}

/// Sessions to which there may be something to hand out.
#[derive(Debug, Default)]
pub struct Turns {
    /// The one that has waited longest comes first. Each session is in it once.
    pub waiting: VecDeque<(SessionId, Instant)>,
    /// When the last of it came to be.
    pub last: Option<Now>,
}

/// Somewhere in the window, for each client somewhere else: its id is random enough.
pub fn spread(client: &ClientId, window: Duration) -> Duration {
    let hash = client.0.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let window = window.as_millis() as u64;
    Duration::from_millis((hash >> 20).checked_rem(window).unwrap_or(0))
}

/// The client's clock against ours; only when it is new to us, or far enough off to be worth a
/// change.
pub fn timesync(sync: Option<Timesync>, received: Now, now: Now) -> Option<TimesyncReply> {
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
