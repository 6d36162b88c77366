//! Connects of one session: held, answered, superseded, and what leaves with them.

use super::super::message::{
    AckExt, Advice, BayeuxReply, ClientAdvice, Event, Pattern, Reconnect, ReplyExt, Timesync,
};
use super::super::sessions::{
    CometdTransport, LogChange, Output, STATES, SessionEnd, bare_advice, done, failed,
};
use super::context::{Ctx, spread, timesync};
use super::{Connect, InFlight, ReplyPath, Session, SessionState, Want};
use crate::model::Now;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest pause between connects that a client may ask for; its session would live as long.
const LONGEST_INTERVAL: Duration = Duration::from_secs(300);
/// How long a connect may wait for what is not a hold: the outcome of an older answer, a replay.
const OUTCOME: Duration = Duration::from_secs(5);

/// What leaves for a client: events, and the reply to its connect behind them.
#[derive(Debug)]
pub struct Departure {
    pub by: ReplyPath,
    pub events: Vec<Arc<Event>>,
    pub reply: BayeuxReply,
}

/// A connect as it has come.
#[derive(Debug)]
pub struct ConnectRequest {
    pub by: ReplyPath,
    pub transport: CometdTransport,
    /// No other message has come with it.
    pub alone: bool,
    /// Echoed in the reply.
    pub id: Option<String>,
    pub ack: Option<i64>,
    pub timesync: Option<Timesync>,
    pub advice: Option<ClientAdvice>,
    pub browser: Option<Arc<str>>,
    pub login_until: Option<Instant>,
}

impl Session {
    /// A session of an earlier life needs to hear what its client has, and all that came after it
    /// must still be there.
    pub fn can_resume(&self, ack: Option<i64>, ctx: &Ctx) -> bool {
        if !self.restored {
            return true;
        }
        let (Some(ack), Some(mut acks), Some(user)) = (ack, self.acks, &self.owner.user) else {
            return false;
        };
        ctx.numbers.reaches_back_to(user, acks.resume(u64::try_from(ack).unwrap_or(0)))
    }

    /// The newest connect wins: a held one is let go first.
    pub fn supersede(&mut self, by: ReplyPath, ctx: &mut Ctx, now: Now) {
        let Some(older) = self.held_by() else { return };
        let expires = now.mono + ctx.config.max_interval;
        self.enter(SessionState::Away { expires }, ctx);
        match older {
            ReplyPath::Post(post) => {
                ctx.leave_request(post, self.no);
                if older != by {
                    ctx.out.push_back(Output::Overtaken { post });
                }
            }
            // CometD never answers it either.
            ReplyPath::Socket(_) => {}
        }
    }

    /// The reply with its events; `None` when the connect is held.
    pub fn handle_connect(
        &mut self,
        request: ConnectRequest,
        ctx: &mut Ctx,
        now: Now,
    ) -> Option<Departure> {
        self.acknowledge(request.ack, ctx);
        self.login_until = request.login_until;
        self.arm_earlier(ctx);
        let was_connected = std::mem::replace(&mut self.connected, true);
        let transport = request.transport.transport();
        let old = std::mem::replace(&mut self.transport, transport);
        ctx.counts.by_transport[old as usize] -= 1;
        ctx.counts.by_transport[transport as usize] += 1;

        let hold = ctx.hold_for(request.advice);
        let slot = match request.transport {
            CometdTransport::Http { multiplexed: false, .. } | CometdTransport::Callback => {
                request.browser
            }
            CometdTransport::Http { multiplexed: true, .. } | CometdTransport::Socket(_) => None,
        };
        let has_slot = slot.as_ref().is_none_or(|browser| {
            ctx.held_by_browser.get(browser).copied().unwrap_or(0) < ctx.config.max_held_per_browser
        });
        let wants_hold = request.alone && was_connected && !ctx.is_draining && !hold.is_zero();
        let has_nothing = self.queue.is_empty() || self.is_pushed();
        let waits_for_outcome = request.alone && !self.may_deliver() && !self.is_pushed();
        let holds = wants_hold && has_nothing && has_slot;
        let connect = Connect {
            by: request.by,
            id: request.id,
            wants_advice: request.advice.is_some(),
            at_once: !holds,
            crowded: wants_hold && has_nothing && !has_slot,
            interval: request
                .advice
                .and_then(|advice| advice.interval)
                .unwrap_or(ctx.config.interval)
                .min(LONGEST_INTERVAL),
            timesync: request.timesync,
            received: now,
            slot: slot.filter(|_| holds),
        };
        self.ask_for_outcome(request.by, ctx);
        if !(holds || waits_for_outcome) {
            return Some(self.depart(&connect, ctx, now));
        }
        if let ReplyPath::Post(post) = request.by {
            ctx.sessions_by_request.entry(post).or_default().push(self.no);
        }
        let until = now.mono + if holds { hold } else { OUTCOME };
        self.enter(SessionState::Held { connect, until }, ctx);
        None
    }

    fn acknowledge(&mut self, ack: Option<i64>, ctx: &mut Ctx) {
        let Some(acks) = &mut self.acks else { return };
        let acknowledged = ack.and_then(|ack| u64::try_from(ack).ok());
        if !std::mem::take(&mut self.restored) {
            let before = self.waiting();
            if let Some(batch) = acknowledged {
                self.queue.acknowledge(batch);
            }
            self.recount(before, ctx);
            if !self.saved {
                self.save(ctx);
            }
            return;
        }
        let after = acks.resume(acknowledged.unwrap_or(0));
        let patterns = self
            .subscriptions
            .iter()
            .map(|(_, pattern): &(String, Pattern)| (pattern.clone(), after));
        let want = Want { after: patterns.collect(), heard: Vec::new() };
        let channels: Vec<&'static str> =
            STATES.into_iter().filter(|channel| self.takes(channel)).collect();
        if !channels.is_empty() {
            // Nobody knows what has changed while there was no gateway: the replay is what was
            // told, the state what is.
            self.want(want, ctx);
            self.want_state(channels, ctx);
        }
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

    /// Answers the held connect with whatever there is.
    pub fn release(&mut self, ctx: &mut Ctx, now: Now) -> Option<Departure> {
        let SessionState::Held { connect, .. } = &self.state else {
            return None;
        };
        let connect = connect.clone();
        if let ReplyPath::Post(post) = connect.by {
            ctx.leave_request(post, self.no);
        }
        Some(self.depart(&connect, ctx, now))
    }

    /// The session's events leave with the reply to a connect.
    fn depart(&mut self, connect: &Connect, ctx: &mut Ctx, now: Now) -> Departure {
        let before = self.waiting();
        let epoch = ctx.numbers.epoch();
        let mut ext = ReplyExt {
            timesync: timesync(connect.timesync, connect.received, now),
            ..ReplyExt::default()
        };
        let mut is_rebased = false;
        let (pushed, deliverable) = (self.is_pushed(), self.may_deliver());
        let (events, in_doubt) = match &mut self.acks {
            Some(acks) if deliverable => {
                // What is older than this life of the process goes alone: then its numbers can be
                // left behind.
                let older = if acks.base < epoch { self.queue.before(epoch) } else { None };
                is_rebased = older.is_none() && acks.rebase(epoch);
                let count = older.unwrap_or(self.queue.len());
                let batch = acks.next(self.queue.iter().take(count));
                ext.ack = Some(AckExt::Batch(batch));
                (self.queue.leave_with(batch, count), Vec::new())
            }
            Some(acks) => {
                ext.ack = Some(AckExt::Batch(acks.next([].iter())));
                (Vec::new(), Vec::new())
            }
            None if !pushed && deliverable => {
                let events = self.queue.take();
                (events.clone(), events)
            }
            None => (Vec::new(), Vec::new()),
        };
        let advice = self.advice(connect, ctx);
        let interval = self.pause(connect.interval);
        if !self.is_in_doubt() {
            self.flight = Some(InFlight {
                by: connect.by,
                oldest: events.first().map(|event| event.born),
                events: in_doubt,
                interval,
            });
        }
        ctx.counts.handed_out += events.len() as u64;
        self.recount(before, ctx);
        if is_rebased {
            self.save(ctx);
        }
        let expires = now.mono + interval + ctx.config.max_interval;
        self.enter(SessionState::Away { expires }, ctx);
        if let ReplyPath::Post(post) = connect.by {
            ctx.sessions_by_request.entry(post).or_default().push(self.no);
        }
        let reply = BayeuxReply { advice, ext, ..done("/meta/connect", connect.id.clone()) };
        Departure { by: connect.by, events, reply }
    }

    /// The advice of a reply, where the client does not know it yet.
    fn advice(&mut self, connect: &Connect, ctx: &Ctx) -> Option<Advice> {
        let current = ctx.interval_of(&self.id).as_millis() as u64;
        if connect.crowded {
            self.told_interval = ctx.config.multi_interval.as_millis() as u64;
            return Some(Advice {
                reconnect: Reconnect::Retry,
                interval: self.told_interval,
                timeout: Some(ctx.config.hold.as_millis() as u64),
                multiple_clients: Some(true),
            });
        }
        if connect.wants_advice || self.told_interval != current {
            self.told_interval = current;
            return Some(ctx.retry(&self.id));
        }
        None
    }

    /// What left by this path has arrived, or never will (`is_cut`). The life of a session is
    /// counted from then on.
    pub fn handle_outcome(&mut self, by: ReplyPath, is_cut: bool, ctx: &mut Ctx, now: Now) {
        let before = self.waiting();
        let mut interval = self.pause(ctx.config.interval);
        if let Some(flight) = self.flight.take_if(|flight| flight.by == by) {
            interval = flight.interval;
            if is_cut {
                self.queue.give_back(flight.events);
            } else if let Some(oldest) = flight.oldest {
                ctx.delivered.push(now.mono.saturating_duration_since(oldest));
            }
        }
        let lost_its_hold = is_cut && self.held_by() == Some(by);
        // On a websocket a frame may be anything; there the life is counted from when the connect
        // was answered.
        let was_answered =
            matches!((&self.state, by), (SessionState::Away { .. }, ReplyPath::Post(_)));
        self.recount(before, ctx);
        if lost_its_hold || was_answered {
            let expires = now.mono + interval + ctx.config.max_interval;
            self.enter(SessionState::Away { expires }, ctx);
        }
        self.wake(ctx, now);
    }

    /// The session is over: it leaves every index. A held connect is told how its client is to go
    /// on.
    pub fn handle_end(mut self, why: SessionEnd, ctx: &mut Ctx) -> Option<Departure> {
        self.leave(ctx);
        if self.saved {
            ctx.keep(LogChange::NoSession(self.id.clone()));
        }
        let SessionState::Held { connect, .. } = self.state else {
            return None;
        };
        let advice = Advice {
            interval: match why == SessionEnd::Gap {
                true => spread(&self.id, ctx.config.drain_window).as_millis() as u64,
                false => 0,
            },
            ..bare_advice(match why == SessionEnd::Disconnected {
                true => Reconnect::None,
                false => Reconnect::Handshake,
            })
        };
        let reply = match why.error() {
            None => done("/meta/connect", connect.id),
            Some(error) => failed("/meta/connect", connect.id, error),
        };
        Some(Departure {
            by: connect.by,
            events: Vec::new(),
            reply: BayeuxReply { advice: Some(advice), ..reply },
        })
    }

    fn leave(&mut self, ctx: &mut Ctx) {
        ctx.timers.disarm(self.armed, self.timer());
        if let SessionState::Held { connect, .. } = &self.state {
            ctx.release_in(connect.slot.as_ref());
        }
        if let Some(ReplyPath::Post(post)) = self.held_by() {
            ctx.leave_request(post, self.no);
        }
        if let Some(InFlight { by: ReplyPath::Post(post), .. }) = self.flight {
            ctx.leave_request(post, self.no);
        }
        for (_, pattern) in &self.subscriptions {
            ctx.subscriptions.remove(pattern, self.no);
        }
        let before = self.waiting();
        self.queue.take();
        self.recount(before, ctx);
        ctx.counts.by_transport[self.transport as usize] -= 1;
        self.totals.remove_subscriptions(self.subscriptions.len());
        ctx.quotas.closed(self.owner.accounts(), self.no);
    }
}
