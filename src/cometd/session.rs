//! One session: who owns it, what it hears, what waits for it, and where its client is.
//!
//! A session is in one of three places, and each has exactly one deadline, so none can leak:
//!
//! ```text
//! handshake ─▶ New ──connect──▶ Away ──connect, nothing to tell──▶ Held
//!                                ▲                                  │
//!                                └──── event, hold over, cut ───────┘
//! ```

use super::limits::QuotaOwner;
use super::message::{ClientId, Event, Pattern, Timesync};
use super::sessions::{ClientRequestId, SocketId};
use crate::model::{Now, UserId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::mem;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

/// Numbers the sessions; none is used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId(pub u64);

/// By which way a message has come, and its answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyPath {
    Post(ClientRequestId),
    Socket(SocketId),
}

/// To whom a session belongs: him whose handshake it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SessionOwner {
    pub(super) user: Option<UserId>,
    pub(super) browser: Option<Arc<str>>,
    pub(super) login: Option<Arc<str>>,
    pub(super) address: IpAddr,
}

impl SessionOwner {
    pub(super) fn accounts(&self) -> [QuotaOwner; 2] {
        [QuotaOwner::User(self.user.clone()), QuotaOwner::Address(self.address)]
    }
}

/// How a client reaches its session, by its last connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionType {
    /// `long-polling`
    LongPolling,
    /// `callback-polling`
    CallbackPolling,
    /// `websocket`
    Websocket,
}

impl ConnectionType {
    /// All of them.
    pub const ALL: [ConnectionType; 3] = [
        ConnectionType::LongPolling,
        ConnectionType::CallbackPolling,
        ConnectionType::Websocket,
    ];

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
pub(super) struct Session {
    pub(super) id: ClientId,
    pub(super) owner: SessionOwner,
    /// Its user's login is good until then, if it ends.
    pub(super) login_until: Option<Instant>,
    pub(super) subscriptions: Vec<(String, Pattern)>,
    pub(super) queue: Queue,
    /// Bytes that wait for all sessions of its user, and of its address.
    pub(super) queued: [Arc<AtomicUsize>; 2],
    /// The client acknowledges.
    pub(super) acks: Option<Acks>,
    /// It has connected before: only then a connect is held.
    pub(super) connected: bool,
    /// What it was last told to wait between connects, in milliseconds.
    pub(super) told_interval: u64,
    pub(super) transport: ConnectionType,
    pub(super) place: SessionState,
    /// When its deadline is looked at: never later than that.
    pub(super) armed: Instant,
    /// The socket it is on.
    pub(super) socket: Option<SocketId>,
    /// What has left, and has not arrived on a socket of the client's machine yet.
    pub(super) flight: Option<InFlight>,
    /// Events that come behind a replay under way.
    pub(super) behind: Option<ReplayInProgress>,
    /// The desk has been asked for the present state on its behalf.
    pub(super) state_asked: bool,
    /// Channels whose state it wants besides; asked for when that has come.
    pub(super) state_wanted: BTreeSet<&'static str>,
    /// It is from an earlier life of this process, and its client has not connected since.
    pub(super) restored: bool,
    /// The journal has it, so that it outlives this process.
    pub(super) saved: bool,
    /// There may be something to hand out to it.
    pub(super) woken: bool,
}

#[derive(Debug)]
pub(super) enum SessionState {
    /// After the handshake.
    New { expires: Instant },
    /// A connect waits for an event.
    Held { connect: Connect, until: Instant },
    /// Between two connects.
    Away { expires: Instant },
}

impl SessionState {
    pub(super) fn is_held(&self) -> bool {
        matches!(self, SessionState::Held { .. })
    }

    fn deadline(&self) -> Instant {
        match self {
            SessionState::Held { until, .. } => *until,
            SessionState::New { expires } | SessionState::Away { expires } => *expires,
        }
    }
}

impl Session {
    /// When something is to be done about it, whatever happens.
    pub(super) fn deadline(&self) -> Instant {
        let place = self.place.deadline();
        self.login_until.map_or(place, |login| login.min(place))
    }

    /// Its events go as they come, not with connects: on a websocket, and no acknowledgement is wanted.
    pub(super) fn is_pushed(&self) -> bool {
        self.socket.is_some() && self.acks.is_none()
    }

    /// Nothing stands between its queue and the client.
    pub(super) fn may_deliver(&self) -> bool {
        self.behind.is_none() && !self.is_in_doubt()
    }

    /// Events have left of which nobody knows yet whether they arrive.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| !flight.events.is_empty())
    }

    /// By which other way than this one events have left of which nobody knows yet whether they arrive.
    pub(super) fn in_doubt_elsewhere(&self, reach: ReplyPath) -> Option<ReplyPath> {
        let flight = self.flight.as_ref().filter(|_| self.is_in_doubt());
        flight.map(|flight| flight.by).filter(|by| *by != reach)
    }

    /// A connect is held, events are on their way, or will be pushed, by another way than this one.
    pub(super) fn is_elsewhere(&self, reach: ReplyPath) -> bool {
        let is_held = matches!(&self.place, SessionState::Held { connect, .. } if connect.reach != reach);
        let is_attached = self.socket.is_some_and(|socket| reach != ReplyPath::Socket(socket));
        is_held || is_attached || self.in_doubt_elsewhere(reach).is_some()
    }

    /// How long its client may stay away of its own accord: as it says, or as it was told.
    pub(super) fn pause(&self, interval: Duration) -> Duration {
        match self.told_interval {
            UNTOLD => interval,
            told => interval.max(Duration::from_millis(told)),
        }
    }

    pub(super) fn takes(&self, channel: &str) -> bool {
        self.subscriptions.iter().any(|(_, pattern)| pattern.matches(channel))
    }
}

/// What an earlier life may have told the client to wait is not known.
pub(super) const UNTOLD: u64 = u64::MAX;

#[derive(Clone, Debug)]
pub(super) struct Connect {
    pub(super) reach: ReplyPath,
    pub(super) id: Option<String>,
    /// A client that sends advice may have been reloaded: it gets ours again.
    pub(super) wants_advice: bool,
    /// It is answered as soon as that is known which it waits for.
    pub(super) at_once: bool,
    /// Its browser may not hold it: others of its sessions hold all there are.
    pub(super) crowded: bool,
    pub(super) interval: Duration,
    pub(super) timesync: Option<Timesync>,
    pub(super) received: Now,
    /// The browser whose place among the held connects it takes.
    pub(super) slot: Option<Arc<str>>,
}

/// Events on their way.
#[derive(Debug)]
pub(super) struct InFlight {
    pub(super) by: ReplyPath,
    pub(super) events: Vec<Arc<Event>>,
    /// When the oldest event of the answer came to be, acknowledged ones too.
    pub(super) oldest: Option<Instant>,
    pub(super) interval: Duration,
}

/// A replay under way, and what has happened since it began.
#[derive(Debug, Default)]
pub(super) struct ReplayInProgress {
    /// The first `asked` of them are being read.
    pub(super) wants: Vec<Want>,
    pub(super) asked: usize,
    pub(super) replayed: BTreeMap<u64, Arc<Event>>,
    pub(super) events: Vec<Arc<Event>>,
}

/// What is to be replayed: events of these channels, unless they were heard already.
#[derive(Debug)]
pub(super) struct Want {
    pub(super) after: Vec<(Pattern, u64)>,
    pub(super) heard: Vec<Pattern>,
}

impl Want {
    /// The lowest number wanted of any.
    pub(super) fn lowest(&self) -> u64 {
        self.after.iter().map(|(_, after)| *after).min().unwrap_or(u64::MAX)
    }

    pub(super) fn takes(&self, channel: &str, number: u64) -> bool {
        !self.heard.iter().any(|pattern| pattern.matches(channel))
            && self
                .after
                .iter()
                .any(|(pattern, after)| number > *after && pattern.matches(channel))
    }
}

#[derive(Debug)]
struct QueuedEvent {
    event: Arc<Event>,
    /// The first batch that it left with; `None`: it has not left yet.
    batch: Option<u64>,
}

/// Events that wait: to leave, or, with acknowledgements, to be acknowledged.
#[derive(Debug, Default)]
pub(super) struct Queue {
    events: VecDeque<QueuedEvent>,
    bytes: usize,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.events.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Event>> {
        self.events.iter().map(|queued| &queued.event)
    }

    pub(super) fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.text.len();
        self.events.push_back(QueuedEvent { event, batch: None });
    }

    /// Everything leaves.
    pub(super) fn take(&mut self) -> Vec<Arc<Event>> {
        self.bytes = 0;
        mem::take(&mut self.events).into_iter().map(|queued| queued.event).collect()
    }

    /// The first events leave, about so many bytes of them.
    pub(super) fn take_some(&mut self, bytes: usize) -> Vec<Arc<Event>> {
        if self.bytes <= bytes {
            return self.take();
        }
        let mut taken = Vec::new();
        let mut size = 0;
        while size < bytes
            && let Some(queued) = self.events.pop_front()
        {
            size += queued.event.text.len();
            taken.push(queued.event);
        }
        self.bytes -= size;
        taken
    }

    /// What has left and not arrived.
    pub(super) fn give_back(&mut self, events: Vec<Arc<Event>>) {
        for event in events.into_iter().rev() {
            self.bytes += event.text.len();
            self.events.push_front(QueuedEvent { event, batch: None });
        }
    }

    /// The first so many leave with this batch and stay, until it is acknowledged.
    pub(super) fn leave_with(&mut self, batch: u64, count: usize) -> Vec<Arc<Event>> {
        let leaving = self.events.iter_mut().take(count);
        leaving
            .map(|queued| {
                queued.batch.get_or_insert(batch);
                queued.event.clone()
            })
            .collect()
    }

    /// How many there are before the first of this epoch, if there is an older one among them.
    pub(super) fn before(&self, epoch: u64) -> Option<usize> {
        let is_older = |queued: &QueuedEvent| (1..epoch).contains(&queued.event.number);
        let last = self.events.iter().rposition(is_older)?;
        Some(last + 1)
    }

    /// Everything that left with this batch or before has arrived.
    pub(super) fn acknowledge(&mut self, batch: u64) {
        while let Some(queued) = self.events.front()
            && queued.batch.is_some_and(|left| left <= batch)
        {
            self.bytes -= queued.event.text.len();
            self.events.pop_front();
        }
    }
}

/// The batches of a client that acknowledges.
///
/// A batch's number grows with each connect reply, as CometD's does. Besides, it says up to which of the user's events it
/// reaches, so that a client's acknowledgement is understood by the next life of this process too, without anything written per
/// batch: it is at least `offset` + (that number − `base`) × 2²⁰.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Acks {
    /// A number of the user's that the client has everything up to.
    pub(super) base: u64,
    /// The batch from which on numbers are counted.
    pub(super) offset: u64,
    last: u64,
    /// The highest number that has left.
    reached: u64,
}

const BATCHES: u32 = 20;

impl Acks {
    pub(super) fn new(base: u64, offset: u64) -> Self {
        Self {
            base,
            offset,
            last: offset,
            reached: base,
        }
    }

    /// The number of the next connect reply, which carries these events.
    pub(super) fn next<'a>(&mut self, events: impl Iterator<Item = &'a Arc<Event>>) -> u64 {
        let highest = events.map(|event| event.number).max().unwrap_or(0);
        self.reached = self.reached.max(highest);
        let at_least = (self.reached - self.base).saturating_mul(1 << BATCHES).saturating_add(self.offset);
        self.last = self.last.saturating_add(1).max(at_least);
        self.last
    }

    /// What a client acknowledges that was here in an earlier life: up to which of its user's events it has everything.
    pub(super) fn resume(&mut self, acknowledged: u64) -> u64 {
        self.last = self.last.max(acknowledged);
        self.reached = self.base.saturating_add(acknowledged.saturating_sub(self.offset) >> BATCHES);
        self.reached
    }

    /// The client has everything from before this epoch: what follows is counted from its start, or each start of the process
    /// would take numbers away from those that JavaScript can say exactly. True when something has changed.
    pub(super) fn rebase(&mut self, epoch: u64) -> bool {
        if self.base >= epoch {
            return false;
        }
        *self = Self::new(epoch, self.last);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(number: u64) -> Arc<Event> {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        Event::numbered("/a", &number.to_string(), number, now)
    }

    fn numbers(events: &[Arc<Event>]) -> Vec<u64> {
        events.iter().map(|event| event.number).collect()
    }

    #[test]
    fn what_left_stays_until_it_is_acknowledged() {
        let mut queue = Queue::default();
        queue.push(event(1));
        assert_eq!(numbers(&queue.leave_with(5, 9)), [1]);
        queue.push(event(2));
        assert_eq!(numbers(&queue.leave_with(6, 9)), [1, 2]);
        queue.push(event(3));
        queue.acknowledge(4);
        assert_eq!(queue.len(), 3);
        queue.acknowledge(5);
        assert_eq!(numbers(&queue.leave_with(7, 9)), [2, 3]);
        queue.acknowledge(6);
        assert_eq!(numbers(&queue.leave_with(8, 9)), [3], "it left with 7 first");
        queue.acknowledge(7);
        assert!(queue.is_empty());
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn what_comes_back_is_first_again() {
        let mut queue = Queue::default();
        [1, 2, 3].into_iter().for_each(|number| queue.push(event(number)));
        let some = queue.take_some(1);
        assert_eq!(numbers(&some), [1]);
        queue.give_back(some);
        assert_eq!(numbers(&queue.take()), [1, 2, 3]);
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn batches_grow_and_the_next_life_reads_from_them_how_far_they_reached() {
        let base = 3_000_000_007;
        let mut acks = Acks::new(base, 0);
        let none: [Arc<Event>; 0] = [];
        let first = acks.next(none.iter());
        let second = acks.next([event(base + 2), event(0)].iter());
        let third = acks.next(none.iter());
        assert!(first < second && second < third, "{first} {second} {third}");
        for (acknowledged, reached) in [(0, base), (first, base), (second, base + 2), (third, base + 2)] {
            let mut next_life = Acks::new(base, 0);
            assert_eq!(next_life.resume(acknowledged), reached);
            assert!(next_life.next(none.iter()) > acknowledged);
        }
        let next_epoch = acks.next([event(4_000_000_001)].iter());
        assert!(next_epoch < 1 << 53, "JavaScript says it exactly");
    }

    #[test]
    fn numbers_stay_exact_over_a_thousand_starts() {
        let mut acks = Acks::new(1_000_000_000, 0);
        for epoch in 2..1_000 {
            let mut next_life = Acks::new(acks.base, acks.offset);
            next_life.resume(acks.next([].iter()));
            let epoch = epoch * 1_000_000_000;
            assert!(next_life.rebase(epoch));
            assert!(!next_life.rebase(epoch));
            let batch = next_life.next([event(epoch + 7)].iter());
            assert!(batch < 1 << 53);
            assert_eq!(Acks::new(next_life.base, next_life.offset).resume(batch), epoch + 7);
            acks = next_life;
        }
    }
}
