//! Subscriptions of one session: what it hears from now on, the state it is told at once, what is
//! replayed to it, and what is kept of it for the next life of the process.

use super::super::message::{
    BayeuxReply, Event, MessageKind, Pattern, Replay, ReplayReply, ReplyExt, Subscription,
};
use super::super::sessions::{LogChange, Output, RestoredEvents, STATES, Saved, done, failed};
use super::context::Ctx;
use super::delivery::Want;
use super::{Next, Session};
use crate::model::Now;

const SUBSCRIPTION_MISSING: &str = "403::subscription_missing";
const SUBSCRIPTION_INVALID: &str = "403::subscription_invalid";
const SUBSCRIBE_DENIED: &str = "403:denied_by_security_policy:subscribe_denied";
const TOO_MANY_REPLAYS: &str = "429::too_many_replays";
const TOO_MANY_SUBSCRIPTIONS: &str = "403::too_many_subscriptions";

impl Session {
    /// The reply to `/meta/subscribe`.
    pub fn handle_subscribe(
        &mut self,
        id: Option<String>,
        subscription: Subscription,
        replay: Option<&Replay>,
        ctx: &mut Ctx,
    ) -> BayeuxReply {
        let outcome = self.subscribe(&subscription, replay, ctx);
        self.save(ctx);
        let (outcome, replay) = match outcome {
            Ok(replay) => (Ok(()), replay),
            Err(error) => (Err(error), None),
        };
        BayeuxReply {
            ext: ReplyExt { replay, ..ReplyExt::default() },
            ..subscribed("/meta/subscribe", id, subscription, outcome)
        }
    }

    /// The reply to `/meta/unsubscribe`.
    pub fn handle_unsubscribe(
        &mut self,
        id: Option<String>,
        subscription: Subscription,
        ctx: &mut Ctx,
    ) -> BayeuxReply {
        let outcome = self.unsubscribe(&subscription, ctx);
        self.save(ctx);
        subscribed("/meta/unsubscribe", id, subscription, outcome)
    }

    /// Channels before one that is refused stay subscribed, as with CometD.
    fn subscribe(
        &mut self,
        subscription: &Subscription,
        replay: Option<&Replay>,
        ctx: &mut Ctx,
    ) -> Result<Option<ReplayReply>, &'static str> {
        let heard: Vec<Pattern> =
            self.subscriptions.iter().map(|(_, pattern)| pattern.clone()).collect();
        let outcome = names(subscription)?.iter().try_for_each(|name| self.subscribe_to(name, ctx));

        let Some(user) = self.owner.user.clone() else {
            return outcome.map(|()| None);
        };
        let was_heard = |channel: &str| heard.iter().any(|pattern| pattern.matches(channel));
        let new: Vec<&'static str> = STATES
            .into_iter()
            .filter(|channel| self.takes(channel) && !was_heard(channel))
            .collect();
        let after: Vec<(Pattern, u64)> = self
            .subscriptions
            .iter()
            .filter(|(_, pattern)| !heard.contains(pattern))
            .filter_map(|(name, pattern)| Some((pattern.clone(), replay?.after(name)?)))
            .collect();
        if !after.is_empty() && self.delivery.replays() >= ctx.config.max_subscriptions {
            return Err(TOO_MANY_REPLAYS);
        }
        let last = ctx.numbers.last(&user);
        let want = Want { after, heard };
        let lowest = want.lowest();
        if !want.after.is_empty() {
            self.want(want, ctx);
            // Until the replayed events are acknowledged, only the replay itself can bring them
            // again.
            self.unsave(ctx);
        }
        self.want_state(new, ctx);
        outcome.map(|()| {
            replay.map(|_| ReplayReply {
                last,
                complete: (lowest != u64::MAX).then(|| ctx.numbers.reaches_back_to(&user, lowest)),
            })
        })
    }

    fn subscribe_to(&mut self, name: &str, ctx: &mut Ctx) -> Result<(), &'static str> {
        let pattern = Pattern::parse(name).ok_or(SUBSCRIPTION_INVALID)?;
        if name.starts_with("/meta/") {
            return Err(SUBSCRIBE_DENIED);
        }
        if name.starts_with("/service/") {
            return Ok(());
        }
        if self.owner.user.is_none() && !ctx.open.iter().any(|open| open.matches(name)) {
            return Err(SUBSCRIBE_DENIED);
        }
        if self.subscriptions.iter().any(|(subscribed, _)| subscribed == name) {
            return Ok(());
        }
        if self.subscriptions.len() >= ctx.config.max_subscriptions
            || !self.delivery.totals().subscribe(&ctx.config)
        {
            return Err(TOO_MANY_SUBSCRIPTIONS);
        }
        ctx.subscriptions.add(&pattern, self.no);
        self.subscriptions.push((name.to_owned(), pattern));
        Ok(())
    }

    fn unsubscribe(
        &mut self,
        subscription: &Subscription,
        ctx: &mut Ctx,
    ) -> Result<(), &'static str> {
        for name in names(subscription)? {
            Pattern::parse(name).ok_or(SUBSCRIPTION_INVALID)?;
            let Some(at) = self.subscriptions.iter().position(|(subscribed, _)| subscribed == name)
            else {
                continue;
            };
            let (_, pattern) = self.subscriptions.remove(at);
            ctx.subscriptions.remove(&pattern, self.no);
            self.delivery.totals().remove_subscriptions(1);
        }
        Ok(())
    }

    /// Asks the gateway, once at a time.
    pub(super) fn want_state(&mut self, channels: Vec<&'static str>, ctx: &mut Ctx) {
        self.state_wanted.extend(channels);
        self.ask_state(ctx);
    }

    fn ask_state(&mut self, ctx: &mut Ctx) {
        let Some(user) = self.owner.user.clone() else {
            return;
        };
        if self.state_asked || self.state_wanted.is_empty() {
            return;
        }
        self.state_asked = true;
        let channels = std::mem::take(&mut self.state_wanted);
        let channels = STATES.into_iter().filter(|channel| channels.contains(channel)).collect();
        ctx.out.push_back(Output::State { session: self.no, user, channels });
    }

    /// The state asked for with [`Output::State`]: channel and `data`.
    pub(super) fn handle_state(
        &mut self,
        states: &[(&'static str, String)],
        ctx: &mut Ctx,
        now: Now,
    ) -> Next {
        self.state_asked = false;
        for (channel, data) in states {
            // It may have unsubscribed meanwhile.
            if self.takes(channel) {
                self.delivery.enqueue(Event::plain(channel, data, now.mono), ctx);
            }
        }
        self.ask_state(ctx);
        self.wake(ctx, now)
    }

    /// Notices were lost. Whether the session has to end, as it hears some.
    pub fn handle_gap(&mut self) -> bool {
        self.state_asked = false;
        STATES.iter().any(|channel| self.takes(channel))
    }

    /// Asks for a replay; what happens meanwhile comes behind it.
    pub(super) fn want(&mut self, want: Want, ctx: &mut Ctx) {
        if let Some(after) = self.delivery.want(want) {
            self.ask_replay(after, ctx);
        }
    }

    fn ask_replay(&self, after: u64, ctx: &mut Ctx) {
        if let Some(user) = self.owner.user.clone() {
            ctx.out.push_back(Output::Replay { session: self.no, user, after });
        }
    }

    /// What was asked for with [`Output::Replay`], oldest first.
    pub(super) fn handle_replay(
        &mut self,
        kept: Vec<RestoredEvents>,
        ctx: &mut Ctx,
        now: Now,
    ) -> Next {
        match self.delivery.handle_replay(kept, ctx, now) {
            Some(after) => {
                self.ask_replay(after, ctx);
                Next::Nothing
            }
            None => self.wake(ctx, now),
        }
    }

    fn unsave(&mut self, ctx: &mut Ctx) {
        if std::mem::take(&mut self.saved) {
            ctx.keep(LogChange::NoSession(self.id.clone()));
        }
    }

    /// A client that acknowledges finds its session again after a restart.
    pub fn save(&mut self, ctx: &mut Ctx) {
        let (Some((base, offset)), Some(user), true) =
            (self.delivery.resumes_from(), self.owner.user.clone(), ctx.numbers.keeps())
        else {
            return;
        };
        self.saved = true;
        ctx.keep(LogChange::Session(Saved {
            id: self.id.clone(),
            user,
            browser: self.owner.browser.clone(),
            address: self.owner.address,
            base,
            offset,
            subscriptions: self.subscriptions.iter().map(|(name, _)| name.clone()).collect(),
        }));
    }
}

fn names(subscription: &Subscription) -> Result<&[String], &'static str> {
    match subscription {
        Subscription::Missing => Err(SUBSCRIPTION_MISSING),
        Subscription::Invalid => Err(SUBSCRIPTION_INVALID),
        Subscription::One(name) => Ok(std::slice::from_ref(name)),
        Subscription::Many(names) => Ok(names),
    }
}

fn subscribed(
    channel: &str,
    id: Option<String>,
    subscription: Subscription,
    outcome: Result<(), &'static str>,
) -> BayeuxReply {
    let reply = match outcome {
        Ok(()) => done(channel, id),
        Err(error) => failed(channel, id, error),
    };
    BayeuxReply { subscription: echo(subscription), ..reply }
}

/// The `subscription` of a reply that says that the session is unknown.
pub fn unknown_echo(kind: &MessageKind) -> Option<Subscription> {
    match kind {
        MessageKind::Subscribe(subscription) | MessageKind::Unsubscribe(subscription) => {
            echo(subscription.clone())
        }
        MessageKind::Handshake { .. }
        | MessageKind::Connect { .. }
        | MessageKind::Disconnect
        | MessageKind::Publish { .. }
        | MessageKind::NoChannel
        | MessageKind::BadId { .. }
        | MessageKind::TooDeep { .. } => None,
    }
}

fn echo(subscription: Subscription) -> Option<Subscription> {
    match subscription {
        Subscription::Missing | Subscription::Invalid => None,
        Subscription::One(_) | Subscription::Many(_) => Some(subscription),
    }
}
