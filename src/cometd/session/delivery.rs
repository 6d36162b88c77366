//! Events on the way to the client of one session: what waits, what has left and may still be lost,
//! and what is replayed.
//!
//! ```text
//! event ──▶ (replay under way: behind it) ──▶ queue ──depart, push──▶ in flight ──▶ arrived
//!                                               ▲                        │ cut
//!                                               └────────────────────────┘
//! ```
//!
//! With acknowledgements nothing is in flight: what has left stays in the queue until its batch is
//! acknowledged.

use super::super::CometdConfig;
use super::super::limits::SessionTotals;
use super::super::message::{AckExt, Event, Pattern};
use super::super::sessions::{Output, RestoredEvents, SocketId};
use super::ReplyPath;
use super::context::Ctx;
use super::queue::{Acks, Queue};
use crate::model::{Now, UserId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Events of one session, from their coming to their arrival at its client.
#[derive(Debug)]
pub struct EventDelivery {
    queue: Queue,
    /// What all sessions of its user, and of its address, have together.
    totals: SessionTotals,
    /// Batches, where the client acknowledges.
    acks: Option<Acks>,
    /// What has left, and has not arrived on a socket of the client's machine yet.
    flight: Option<InFlight>,
    /// A replay under way, and the events that come behind it.
    replay: Option<ReplayInProgress>,
    /// The session is from an earlier life of this process, and its client has not connected since.
    is_restored: bool,
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
pub struct Want {
    pub after: Vec<(Pattern, u64)>,
    pub heard: Vec<Pattern>,
}

impl Want {
    /// The lowest number wanted of any.
    pub fn lowest(&self) -> u64 {
        self.after.iter().map(|(_, after)| *after).min().unwrap_or(u64::MAX)
    }

    fn takes(&self, channel: &str, number: u64) -> bool {
        !self.heard.iter().any(|pattern| pattern.matches(channel))
            && self.after.iter().any(|(pattern, after)| number > *after && pattern.matches(channel))
    }
}

/// What leaves with the reply to a connect.
#[derive(Debug)]
pub struct Leaving {
    pub events: Vec<Arc<Event>>,
    /// The batch that they are, where the client acknowledges.
    pub ack: Option<AckExt>,
    /// The batches count from this life of the process on: the session is to be saved.
    pub is_rebased: bool,
}

/// What more waits than may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surplus {
    /// Of the session itself.
    OfSession,
    /// Of the session's owner with this number, over all of the owner's sessions.
    OfOwner(usize),
}

impl EventDelivery {
    /// With nothing to deliver, and acknowledgements of events behind `acks_from`, if its client
    /// can.
    pub fn new(acks_from: Option<u64>) -> Self {
        Self {
            queue: Queue::default(),
            totals: SessionTotals::default(),
            acks: acks_from.map(|base| Acks::new(base, 0)),
            flight: None,
            replay: None,
            is_restored: false,
        }
    }

    /// As an earlier life of the process has left it: the event log has everything that comes until
    /// the client connects.
    pub fn restored(base: u64, offset: u64) -> Self {
        Self { acks: Some(Acks::new(base, offset)), is_restored: true, ..Self::new(None) }
    }

    /// The totals that it counts itself in from now on.
    pub fn count_in(&mut self, totals: SessionTotals, subscriptions: usize) {
        self.totals = totals;
        self.totals.add_subscriptions(subscriptions);
    }

    pub fn totals(&self) -> &SessionTotals {
        &self.totals
    }

    pub fn acknowledges(&self) -> bool {
        self.acks.is_some()
    }

    /// No event waits in the queue.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Events and bytes that wait.
    pub fn waiting(&self) -> (usize, usize) {
        (self.queue.len(), self.queue.bytes())
    }

    /// Half of what may wait does.
    pub fn is_urgent(&self, config: &CometdConfig) -> bool {
        let (length, bytes) = self.waiting();
        length >= config.max_queue.div_ceil(2) || bytes >= config.max_queue_bytes / 2
    }

    /// Whether more waits than may.
    pub fn surplus(&self, config: &CometdConfig) -> Option<Surplus> {
        let behind = self.replay.as_ref().map_or(0, |replay| replay.events.len());
        let (length, bytes) = self.waiting();
        if length + behind > config.max_queue || bytes > config.max_queue_bytes {
            return Some(Surplus::OfSession);
        }
        if self.queue.is_empty() {
            return None;
        }
        self.totals.over(config).map(Surplus::OfOwner)
    }

    /// An event comes.
    pub fn enqueue(&mut self, event: Arc<Event>, ctx: &mut Ctx) {
        let before = self.waiting();
        match &mut self.replay {
            Some(replay) => replay.events.push(event),
            // It was told nothing since the process started; the event log has it all.
            None if self.is_restored && event.number > 0 => {}
            None => self.queue.push(event),
        }
        self.recount(before, ctx);
    }

    /// Keeps the sums over all queues right after a change of this one.
    fn recount(&self, (length, bytes): (usize, usize), ctx: &mut Ctx) {
        let (length_now, bytes_now) = self.waiting();
        ctx.counts.queued = ctx.counts.queued + length_now - length;
        if bytes_now != bytes {
            self.totals.recount(bytes, bytes_now);
        }
    }

    /// Nothing stands between the queue and the client.
    pub fn may_deliver(&self) -> bool {
        self.replay.is_none() && !self.is_in_doubt()
    }

    /// Events have left of which nobody knows yet whether they arrive.
    fn is_in_doubt(&self) -> bool {
        self.flight.as_ref().is_some_and(|flight| !flight.events.is_empty())
    }

    /// Another path than this one, on which events have left of which nobody knows yet whether they
    /// arrive.
    pub fn in_doubt_elsewhere(&self, by: ReplyPath) -> Option<ReplyPath> {
        let flight = self.flight.as_ref().filter(|_| self.is_in_doubt());
        flight.map(|flight| flight.by).filter(|other| *other != by)
    }

    /// Events may be on their way by another path than this one: it has to be known whether they
    /// arrive.
    pub fn ask_for_outcome(&self, by: ReplyPath, ctx: &mut Ctx) {
        match self.in_doubt_elsewhere(by) {
            Some(ReplyPath::Post(post)) => ctx.out.push_back(Output::Abandon { post }),
            Some(ReplyPath::Socket(socket)) => ctx.out.push_back(Output::AbandonSocket { socket }),
            None => {}
        }
    }

    /// Events leave as they come, in a frame: about so many bytes of them.
    pub fn push(&mut self, socket: SocketId, bytes: usize, ctx: &mut Ctx) -> Vec<Arc<Event>> {
        if !self.may_deliver() || self.queue.is_empty() {
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

    /// Events leave with the reply to a connect, unless they are pushed. Its client is to connect
    /// again after this interval.
    pub fn depart(
        &mut self,
        by: ReplyPath,
        is_pushed: bool,
        interval: Duration,
        ctx: &mut Ctx,
    ) -> Leaving {
        let before = self.waiting();
        let epoch = ctx.numbers.epoch();
        let is_deliverable = self.may_deliver();
        let (mut ack, mut is_rebased) = (None, false);
        let (events, in_doubt) = match &mut self.acks {
            Some(acks) if is_deliverable => {
                // What is older than this life of the process goes alone: then its numbers can be
                // left behind.
                let older = if acks.base < epoch { self.queue.before(epoch) } else { None };
                is_rebased = older.is_none() && acks.rebase(epoch);
                let count = older.unwrap_or(self.queue.len());
                let batch = acks.next(self.queue.iter().take(count));
                ack = Some(AckExt::Batch(batch));
                (self.queue.leave_with(batch, count), Vec::new())
            }
            Some(acks) => {
                ack = Some(AckExt::Batch(acks.next([].iter())));
                (Vec::new(), Vec::new())
            }
            None if !is_pushed && is_deliverable => {
                let events = self.queue.take();
                (events.clone(), events)
            }
            None => (Vec::new(), Vec::new()),
        };
        if !self.is_in_doubt() {
            let oldest = events.first().map(|event| event.born);
            self.flight = Some(InFlight { by, oldest, events: in_doubt, interval });
        }
        ctx.counts.handed_out += events.len() as u64;
        self.recount(before, ctx);
        Leaving { events, ack, is_rebased }
    }

    /// What left by this path has arrived, or never will (`is_cut`). How long its client was told
    /// to wait with it, if anything has left by this path.
    pub fn handle_outcome(
        &mut self,
        by: ReplyPath,
        is_cut: bool,
        ctx: &mut Ctx,
        now: Now,
    ) -> Option<Duration> {
        let flight = self.flight.take_if(|flight| flight.by == by)?;
        if is_cut {
            let before = self.waiting();
            self.queue.give_back(flight.events);
            self.recount(before, ctx);
        } else if let Some(oldest) = flight.oldest {
            ctx.delivered.push(now.mono.saturating_duration_since(oldest));
        }
        Some(flight.interval)
    }

    /// A session of an earlier life needs to hear what its client has, and all that came after it
    /// must still be there.
    pub fn can_resume(&self, ack: Option<i64>, user: Option<&UserId>, ctx: &Ctx) -> bool {
        if !self.is_restored {
            return true;
        }
        let (Some(ack), Some(mut acks), Some(user)) = (ack, self.acks, user) else {
            return false;
        };
        ctx.numbers.reaches_back_to(user, acks.resume(u64::try_from(ack).unwrap_or(0)))
    }

    /// Its client acknowledges a batch. For a client of an earlier life: the number of the last
    /// event that it has, behind which it goes on.
    pub fn acknowledge(&mut self, ack: Option<i64>, ctx: &mut Ctx) -> Option<u64> {
        let acks = self.acks.as_mut()?;
        let acknowledged = ack.and_then(|ack| u64::try_from(ack).ok());
        if std::mem::take(&mut self.is_restored) {
            return Some(acks.resume(acknowledged.unwrap_or(0)));
        }
        let before = self.waiting();
        if let Some(batch) = acknowledged {
            self.queue.acknowledge(batch);
        }
        self.recount(before, ctx);
        None
    }

    /// From which number and batch on the next life of the process could go on; `None` while only a
    /// replay can bring again what its client has not acknowledged.
    pub fn resumes_from(&self) -> Option<(u64, u64)> {
        let acks = self.acks?;
        let is_replayed = |event: &Arc<Event>| (1..=acks.base).contains(&event.number);
        let is_whole = self.replay.is_none() && !self.queue.iter().any(is_replayed);
        is_whole.then_some((acks.base, acks.offset))
    }

    /// Replays that are wanted.
    pub fn replays(&self) -> usize {
        self.replay.as_ref().map_or(0, |replay| replay.wants.len())
    }

    /// Something is to be replayed; what happens meanwhile comes behind it. The number behind which
    /// the event log is to be read, unless it is being read.
    pub fn want(&mut self, want: Want) -> Option<u64> {
        let replay = self.replay.get_or_insert_default();
        replay.wants.push(want);
        replay.ask()
    }

    /// What was asked for has been read, oldest first. The number behind which more is to be read.
    pub fn handle_replay(
        &mut self,
        kept: Vec<RestoredEvents>,
        ctx: &mut Ctx,
        now: Now,
    ) -> Option<u64> {
        let replay = self.replay.as_mut()?;
        replay.take(kept, now);
        if !replay.wants.is_empty() {
            return replay.ask();
        }
        let ReplayInProgress { replayed, events, .. } = self.replay.take().unwrap_or_default();
        let live: BTreeSet<u64> = events.iter().map(|event| event.number).collect();
        let missed = replayed.into_values().filter(|event| !live.contains(&event.number));
        let before = self.waiting();
        for event in missed {
            ctx.counts.replayed += 1;
            self.queue.push(event);
        }
        events.into_iter().for_each(|event| self.queue.push(event));
        self.recount(before, ctx);
        None
    }

    /// The session ends with these subscriptions: nothing waits any more. The request that its
    /// events have left with, if it is not known to have arrived.
    pub fn end(&mut self, subscriptions: usize, ctx: &mut Ctx) -> Option<ReplyPath> {
        let before = self.waiting();
        self.queue.take();
        self.recount(before, ctx);
        self.totals.remove_subscriptions(subscriptions);
        self.flight.take().map(|flight| flight.by)
    }
}

impl ReplayInProgress {
    /// One reading at a time serves all that is wanted by then.
    fn ask(&mut self) -> Option<u64> {
        if self.asked > 0 {
            return None;
        }
        self.asked = self.wants.len();
        self.wants.iter().map(Want::lowest).min()
    }

    /// What was asked for has been read.
    fn take(&mut self, kept: Vec<RestoredEvents>, now: Now) {
        let asked = std::mem::take(&mut self.asked).min(self.wants.len());
        let served: Vec<Want> = self.wants.drain(..asked).collect();
        for RestoredEvents { number, channel, text } in kept {
            if served.iter().any(|want| want.takes(&channel, number)) {
                let event = Event { text: text.into(), number, born: now.mono };
                self.replayed.insert(number, Arc::new(event));
            }
        }
    }
}
