//! Connects of one session: held, answered, superseded, and what leaves with them.

use super::super::message::{
    Advice, BayeuxReply, ClientAdvice, Event, Reconnect, ReplyExt, Timesync,
};
use super::super::sessions::{
    CometdTransport, LogChange, Output, STATES, SessionEnd, bare_advice, done, failed,
};
use super::context::{Ctx, LONGEST_INTERVAL, spread, timesync};
use super::delivery::{Leaving, Want};
use super::{Connect, Next, ReplyPath, Session, SessionState};
use crate::model::Now;
use crate::secret::SharedSecret;
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    pub browser: Option<SharedSecret>,
    pub login_until: Option<Instant>,
    /// The HTTP session, and whether a password came alone.
    pub login: (Option<SharedSecret>, bool),
}

impl Session {
    /// Whether it can go on where its client, of an earlier life of the process, has stopped.
    pub fn can_resume(&self, ack: Option<i64>, ctx: &Ctx) -> bool {
        self.delivery.can_resume(ack, self.owner.user.as_ref(), ctx)
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
        (self.owner.login, self.owner.by_password_alone) = request.login;
        self.arm_earlier(ctx);
        let was_connected = std::mem::replace(&mut self.connected, true);
        let transport = request.transport.transport();
        let old = std::mem::replace(&mut self.transport, transport);
        ctx.counts.by_transport[old as usize] -= 1;
        ctx.counts.by_transport[transport as usize] += 1;

        let hold = ctx.hold_for(request.advice, self.terms);
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
        let has_nothing = self.delivery.is_empty() || self.is_pushed();
        let waits_for_outcome = request.alone && !self.delivery.may_deliver() && !self.is_pushed();
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
        self.delivery.ask_for_outcome(request.by, ctx);
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
        let Some(after) = self.delivery.acknowledge(ack, ctx) else {
            if !self.saved {
                self.save(ctx);
            }
            return;
        };
        let patterns = self.subscriptions.iter().map(|(_, pattern)| (pattern.clone(), after));
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
        self.delivery.ask_for_outcome(by, ctx);
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
        let advice = self.advice(connect, ctx);
        let interval = self.pause(connect.interval);
        let Leaving { events, ack, is_rebased } =
            self.delivery.depart(connect.by, self.is_pushed(), interval, ctx);
        if is_rebased {
            self.save(ctx);
        }
        let expires = now.mono + interval + ctx.config.max_interval;
        self.enter(SessionState::Away { expires }, ctx);
        if let ReplyPath::Post(post) = connect.by {
            ctx.sessions_by_request.entry(post).or_default().push(self.no);
        }
        let timesync = timesync(connect.timesync, connect.received, now);
        let ext = ReplyExt { ack, timesync, ..ReplyExt::default() };
        let reply = BayeuxReply { advice, ext, ..done("/meta/connect", connect.id.clone()) };
        Departure { by: connect.by, events, reply }
    }

    /// The advice of a reply, where the client does not know it yet.
    fn advice(&mut self, connect: &Connect, ctx: &Ctx) -> Option<Advice> {
        let current = ctx.interval_of(&self.id, self.terms).as_millis() as u64;
        if connect.crowded {
            self.told_interval = ctx.config.multi_interval.as_millis() as u64;
            return Some(Advice {
                reconnect: Reconnect::Retry,
                interval: self.told_interval,
                timeout: Some(self.terms.hold.as_millis() as u64),
                multiple_clients: Some(true),
            });
        }
        if connect.wants_advice || self.told_interval != current {
            self.told_interval = current;
            return Some(self.retry(ctx));
        }
        None
    }

    /// What left by this path has arrived, or never will (`is_cut`). The life of a session is
    /// counted from then on.
    pub(super) fn handle_outcome(
        &mut self,
        by: ReplyPath,
        is_cut: bool,
        ctx: &mut Ctx,
        now: Now,
    ) -> Next {
        let told = self.delivery.handle_outcome(by, is_cut, ctx, now);
        let lost_its_hold = is_cut && self.held_by() == Some(by);
        // On a websocket a frame may be anything; there the life is counted from when the connect
        // was answered.
        let was_answered =
            matches!((&self.state, by), (SessionState::Away { .. }, ReplyPath::Post(_)));
        if lost_its_hold || was_answered {
            let interval = told.unwrap_or_else(|| self.pause(ctx.config.interval));
            let expires = now.mono + interval + ctx.config.max_interval;
            self.enter(SessionState::Away { expires }, ctx);
        }
        self.wake(ctx, now)
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
        if let Some(ReplyPath::Post(post)) = self.delivery.end(self.subscriptions.len(), ctx) {
            ctx.leave_request(post, self.no);
        }
        for (_, pattern) in &self.subscriptions {
            ctx.subscriptions.remove(pattern, self.no);
        }
        ctx.counts.by_transport[self.transport as usize] -= 1;
        ctx.quotas.closed(self.owner.accounts(), self.no);
    }
}
