//! Subscriptions: what a session hears from now on, what it is told at once, and what is replayed to it.

use super::{Output, QuotaOwner, STATES, SessionEnd, SessionId, Sessions, UNKNOWN, done, failed};
use crate::cometd::message::{BayeuxReply, Event, MessageKind, Pattern, Replay, ReplayReply, Subscription};
use crate::cometd::session::{ReplayInProgress, Want};
use crate::model::Now;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::{RestoredEvents, Saved};

const SUBSCRIPTION_MISSING: &str = "403::subscription_missing";
const SUBSCRIPTION_INVALID: &str = "403::subscription_invalid";
const SUBSCRIBE_DENIED: &str = "403:denied_by_security_policy:subscribe_denied";
const TOO_MANY_REPLAYS: &str = "429::too_many_replays";
const TOO_MANY_SUBSCRIPTIONS: &str = "403::too_many_subscriptions";

impl Sessions {
    /// Channels before one that is refused stay subscribed, as with CometD.
    pub(super) fn subscribe(
        &mut self,
        no: SessionId,
        subscription: &Subscription,
        replay: Option<&Replay>,
    ) -> Result<Option<ReplayReply>, &'static str> {
        let session = self.sessions.get(&no).ok_or(UNKNOWN)?;
        let heard: Vec<Pattern> = session.subscriptions.iter().map(|(_, pattern)| pattern.clone()).collect();
        let outcome = names(subscription)?.iter().try_for_each(|name| self.subscribe_to(no, name));

        let session = self.sessions.get(&no).ok_or(UNKNOWN)?;
        let Some(user) = session.owner.user.clone() else {
            return outcome.map(|()| None);
        };
        let was_heard = |channel: &str| heard.iter().any(|pattern| pattern.matches(channel));
        let new: Vec<&'static str> = STATES
            .into_iter()
            .filter(|channel| session.takes(channel) && !was_heard(channel))
            .collect();
        let after: Vec<(Pattern, u64)> = session
            .subscriptions
            .iter()
            .filter(|(_, pattern)| !heard.contains(pattern))
            .filter_map(|(name, pattern)| Some((pattern.clone(), replay?.after(name)?)))
            .collect();
        let waiting = session.behind.as_ref().map_or(0, |behind| behind.wants.len());
        if !after.is_empty() && waiting >= self.config.max_subscriptions {
            return Err(TOO_MANY_REPLAYS);
        }
        let last = self.ledger.last(&user);
        let want = Want { after, heard };
        let lowest = want.lowest();
        if !want.after.is_empty() {
            self.want(no, want);
            // Until the replayed events are acknowledged, only the replay itself can bring them again.
            self.unsave(no);
        }
        self.want_state(no, new);
        outcome.map(|()| {
            replay.map(|_| ReplayReply {
                last,
                complete: (lowest != u64::MAX).then(|| self.ledger.reaches_back_to(&user, lowest)),
            })
        })
    }

    fn subscribe_to(&mut self, no: SessionId, name: &str) -> Result<(), &'static str> {
        let pattern = Pattern::parse(name).ok_or(SUBSCRIPTION_INVALID)?;
        if name.starts_with("/meta/") {
            return Err(SUBSCRIBE_DENIED);
        }
        if name.starts_with("/service/") {
            return Ok(());
        }
        let session = self.sessions.get_mut(&no).ok_or(UNKNOWN)?;
        if session.owner.user.is_none() && !self.open.iter().any(|open| open.matches(name)) {
            return Err(SUBSCRIBE_DENIED);
        }
        if session.subscriptions.iter().any(|(subscribed, _)| subscribed == name) {
            return Ok(());
        }
        let accounts = session.owner.accounts();
        let taken = |who: &QuotaOwner| self.accounts.get(who).map_or(0, |account| account.subscriptions);
        let [user, address] = &accounts;
        if session.subscriptions.len() >= self.config.max_subscriptions
            || taken(user) >= self.config.max_subscriptions_per_user
            || taken(address) >= self.config.max_subscriptions_per_address
        {
            return Err(TOO_MANY_SUBSCRIPTIONS);
        }
        self.interest.add(&pattern, no);
        session.subscriptions.push((name.to_owned(), pattern));
        for who in accounts {
            if let Some(account) = self.accounts.get_mut(&who) {
                account.subscriptions += 1;
            }
        }
        Ok(())
    }

    pub(super) fn unsubscribe(&mut self, no: SessionId, subscription: &Subscription) -> Result<(), &'static str> {
        for name in names(subscription)? {
            Pattern::parse(name).ok_or(SUBSCRIPTION_INVALID)?;
            let session = self.sessions.get_mut(&no).ok_or(UNKNOWN)?;
            let Some(at) = session.subscriptions.iter().position(|(subscribed, _)| subscribed == name) else {
                continue;
            };
            let (_, pattern) = session.subscriptions.remove(at);
            self.interest.remove(&pattern, no);
            for who in session.owner.accounts() {
                if let Some(account) = self.accounts.get_mut(&who) {
                    account.subscriptions -= 1;
                }
            }
        }
        Ok(())
    }

    /// Asks the desk, once at a time for each session.
    pub(super) fn want_state(&mut self, no: SessionId, channels: Vec<&'static str>) {
        if let Some(session) = self.sessions.get_mut(&no) {
            session.state_wanted.extend(channels);
        }
        self.ask_state(no);
    }

    pub(super) fn ask_state(&mut self, no: SessionId) {
        let Some(session) = self.sessions.get_mut(&no) else { return };
        let Some(user) = session.owner.user.clone() else { return };
        if session.state_asked || session.state_wanted.is_empty() {
            return;
        }
        session.state_asked = true;
        let channels = std::mem::take(&mut session.state_wanted);
        let channels = STATES.into_iter().filter(|channel| channels.contains(channel)).collect();
        self.outputs.push_back(Output::State {
            session: no,
            user,
            channels,
        });
    }

    /// Asks the journal; what happens meanwhile comes behind it.
    pub(super) fn want(&mut self, no: SessionId, want: Want) {
        let Some(session) = self.sessions.get_mut(&no) else { return };
        session.behind.get_or_insert_default().wants.push(want);
        self.ask_journal(no);
    }

    /// One reading at a time for each session serves all that is wanted by then.
    fn ask_journal(&mut self, no: SessionId) {
        let Some(session) = self.sessions.get_mut(&no) else { return };
        let (Some(behind), Some(user)) = (&mut session.behind, session.owner.user.clone()) else {
            return;
        };
        if behind.asked > 0 {
            return;
        }
        behind.asked = behind.wants.len();
        let after = behind.wants.iter().map(Want::lowest).min().unwrap_or(u64::MAX);
        self.outputs.push_back(Output::Replay { session: no, user, after });
    }

    /// What was asked for with [`Output::Replay`], oldest first; `None`: it cannot be read.
    pub fn handle_replay(&mut self, no: SessionId, kept: Option<Vec<RestoredEvents>>, now: Now) {
        let Some(kept) = kept else {
            // Something may be missing, and its client believes that nothing is.
            return self.end(no, SessionEnd::Gap, now);
        };
        let Some(session) = self.sessions.get_mut(&no) else { return };
        let Some(behind) = &mut session.behind else { return };
        let asked = std::mem::take(&mut behind.asked).min(behind.wants.len());
        let served: Vec<Want> = behind.wants.drain(..asked).collect();
        for RestoredEvents { number, channel, text } in kept {
            if served.iter().any(|want| want.takes(&channel, number)) {
                let event = Event {
                    text: text.into(),
                    number,
                    born: now.mono,
                };
                behind.replayed.insert(number, Arc::new(event));
            }
        }
        if !behind.wants.is_empty() {
            return self.ask_journal(no);
        }
        let ReplayInProgress { replayed, events, .. } = session.behind.take().unwrap_or_default();
        let live: BTreeSet<u64> = events.iter().map(|event| event.number).collect();
        let missed = replayed.into_values().filter(|event| !live.contains(&event.number));
        let before = (session.queue.len(), session.queue.bytes());
        for event in missed {
            self.counts.replayed += 1;
            session.queue.push(event);
        }
        events.into_iter().for_each(|event| session.queue.push(event));
        self.recount(no, before);
        self.wake(no, now);
    }

    fn unsave(&mut self, no: SessionId) {
        let Some(session) = self.sessions.get_mut(&no) else { return };
        if std::mem::take(&mut session.saved) {
            self.outputs.push_back(Output::Unsave(session.id.clone()));
        }
    }

    /// A client that acknowledges finds its session again after a restart.
    pub(super) fn save(&mut self, no: SessionId) {
        let keeps = self.ledger.keeps();
        let Some(session) = self.sessions.get_mut(&no) else { return };
        let (Some(acks), Some(user), true) = (session.acks, session.owner.user.clone(), keeps) else {
            return;
        };
        let is_replayed = |event: &Arc<Event>| (1..=acks.base).contains(&event.number);
        if session.behind.is_some() || session.queue.iter().any(is_replayed) {
            return;
        }
        session.saved = true;
        let saved = Saved {
            id: session.id.clone(),
            user,
            browser: session.owner.browser.clone(),
            address: session.owner.address,
            base: acks.base,
            offset: acks.offset,
            subscriptions: session.subscriptions.iter().map(|(name, _)| name.clone()).collect(),
        };
        self.outputs.push_back(Output::Save(saved));
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

pub(super) fn subscribed(channel: &str, id: Option<String>, subscription: Subscription, outcome: Result<(), &'static str>) -> BayeuxReply {
    let reply = match outcome {
        Ok(()) => done(channel, id),
        Err(error) => failed(channel, id, error),
    };
    BayeuxReply {
        subscription: echo(subscription),
        ..reply
    }
}

pub(super) fn unknown_echo(kind: &MessageKind) -> Option<Subscription> {
    match kind {
        MessageKind::Subscribe(subscription) | MessageKind::Unsubscribe(subscription) => echo(subscription.clone()),
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
