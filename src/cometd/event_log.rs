//! Events and sessions that outlive the process: a thread of its own writes them to the store, many
//! at a time, and reads them back.
//!
//! It writes behind: an event is told before it is on disk. A number is never used twice all the
//! same, see [`super::event_numbers`], and a graceful end writes everything. What a full disk does
//! not take waits in memory and is read from there; of a process that dies so, the next one knows
//! that something is missing.

use super::message::{ClientId, Event};
use super::sessions::{RestoredEvents, Saved, SessionId};
use super::task::{Input, WeakInbox};
use crate::model::UserId;
use crate::store::{Importance, Safety, Store, StoreError, Write};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;
use tokio::sync::oneshot;

/// `user NUL number` → channel, line feed, message.
const EVENTS: &str = "cometd_events";
/// User → the highest number of the user's events that is not kept any more.
const DROPPED: &str = "cometd_dropped";
/// Client id → JSON.
const SESSIONS: &str = "cometd_sessions";
/// Odds and ends.
const CHANNEL: &str = "cometd";
const EPOCH: &str = "epoch";

/// Bytes that may wait for the disk; events beyond them are not kept.
const BACKLOG: usize = 64 << 20;
/// Orders carried out at once.
const TOGETHER: usize = 4_096;

/// What the journal is told. Carried out in order.
pub(super) enum Order {
    Keep {
        user: UserId,
        channel: &'static str,
        event: Arc<Event>,
        gone: Vec<u64>,
    },
    Drop {
        user: UserId,
        gone: Vec<u64>,
    },
    Save(Saved),
    Unsave(ClientId),
    Read {
        session: SessionId,
        user: UserId,
        after: u64,
    },
    /// Everything ordered before is on disk when this is answered.
    Flush(oneshot::Sender<()>),
}

/// The way to the thread.
pub(super) struct EventLog {
    orders: mpsc::Sender<Order>,
    backlog: Arc<AtomicUsize>,
}

/// What an earlier life has left.
pub(super) struct Legacy {
    /// Of this life.
    pub(super) epoch: u64,
    /// Events of the last life may be missing, of any user.
    pub(super) has_forgotten: bool,
    /// User, number and size; each user's from the oldest to the newest.
    pub(super) events: Vec<(UserId, u64, usize)>,
    /// User, and up to which number the user's events are not kept.
    pub(super) dropped: Vec<(UserId, u64)>,
    pub(super) sessions: Vec<Saved>,
}

impl EventLog {
    /// Reads what is there, begins a new epoch, and starts the thread. It ends when the journal is
    /// dropped and everything is written.
    pub(super) fn open(store: Store, inbox: WeakInbox) -> Result<(Self, Legacy), StoreError> {
        let mut events = Vec::new();
        store.scan(EVENTS, "", None, &mut |key, value| {
            if let Some((user, number)) = of_key(key) {
                events.push((user, number, value.len()));
            }
        })?;
        let dropped = store.load(DROPPED)?;
        let dropped = dropped
            .iter()
            .filter_map(|(user, number)| Some((user.as_str().into(), number_of(number)?)));
        let dropped: Vec<(UserId, u64)> = dropped.collect();
        let sessions = store.load(SESSIONS)?;
        let sessions = sessions.iter().filter_map(|(id, value)| saved(id, value)).collect();
        let before = store.load(CHANNEL)?;
        let before = before.get(EPOCH).and_then(|text| number_of(text));
        let numbers = events
            .iter()
            .map(|(_, number, _)| number)
            .chain(dropped.iter().map(|(_, number)| number));
        let highest = numbers.map(|number| number / super::event_numbers::EPOCH).max();
        let epoch = before.max(highest).map_or(1, |before| before + 1);
        let begun = [Write::put(CHANNEL, EPOCH, epoch.to_string())];
        // The room set aside is as good as the file: the number must not be used again.
        if store.write_behind(&begun, Importance::State)? == Safety::Remembered {
            store.write(&begun)?;
        }

        let store_has_forgotten = store.has_forgotten();
        let (orders, inbound) = mpsc::channel();
        let backlog = Arc::new(AtomicUsize::new(0));
        let writer = EventLogWriter { store, inbox, backlog: backlog.clone() };
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || writer.run(&inbound))
            .map_err(StoreError::Thread)?;
        let legacy =
            Legacy { epoch, has_forgotten: store_has_forgotten, events, dropped, sessions };
        Ok((Self { orders, backlog }, legacy))
    }

    /// False: the disk is too far behind for one event more.
    pub(super) fn order(&self, order: Order) -> bool {
        if let Order::Keep { event, .. } = &order {
            if self.backlog.load(Ordering::Relaxed) > BACKLOG {
                return false;
            }
            self.backlog.fetch_add(event.text.len(), Ordering::Relaxed);
        }
        self.orders.send(order).is_ok()
    }
}

struct EventLogWriter {
    store: Store,
    inbox: WeakInbox,
    backlog: Arc<AtomicUsize>,
}

impl EventLogWriter {
    fn run(self, orders: &mpsc::Receiver<Order>) {
        let mut changes = Vec::new();
        let mut unsure = Vec::new();
        while let Ok(first) = orders.recv() {
            for order in std::iter::once(first).chain(orders.try_iter().take(TOGETHER)) {
                match order {
                    Order::Keep { user, channel, event, gone } => {
                        self.backlog.fetch_sub(event.text.len(), Ordering::Relaxed);
                        let value = format!("{channel}\n{}", event.text);
                        changes.push(Write::put(EVENTS, key(&user, event.number), value));
                        changes.extend(forget(&user, &gone));
                        unsure.push((user, event.number));
                    }
                    Order::Drop { user, gone } => changes.extend(forget(&user, &gone)),
                    Order::Save(session) => {
                        changes.push(Write::put(SESSIONS, &*session.id.0, save(&session)))
                    }
                    Order::Unsave(id) => changes.push(Write::remove(SESSIONS, &*id.0)),
                    Order::Read { session, user, after } => {
                        self.write(&mut changes, &mut unsure);
                        let kept = self.read(&user, after);
                        self.tell(Input::Replayed(session, kept));
                    }
                    Order::Flush(done) => {
                        self.write(&mut changes, &mut unsure);
                        let _ = done.send(());
                    }
                }
            }
            self.write(&mut changes, &mut unsure);
        }
    }

    fn tell(&self, happening: Input) {
        // Without a loop nobody wants to know.
        if let Some(inbox) = self.inbox.upgrade() {
            let _ = inbox.send(happening);
        }
    }

    fn write(&self, changes: &mut Vec<Write>, unsure: &mut Vec<(UserId, u64)>) {
        if changes.is_empty() {
            return;
        }
        if let Err(error) = self.store.write_behind(changes, Importance::Events) {
            metrics::counter!("undertone_cometd_unkept_total").increment(unsure.len() as u64);
            tracing::warn!(%error, events = unsure.len(), "events can not be kept for clients that come back");
            for (user, number) in unsure.drain(..) {
                self.tell(Input::Unkept(user, number));
            }
        }
        changes.clear();
        unsure.clear();
    }

    fn read(&self, user: &UserId, after: u64) -> Option<Vec<RestoredEvents>> {
        let mut kept = Vec::new();
        let (from, to) = (key(user, after.saturating_add(1)), key(user, u64::MAX));
        let outcome = self.store.scan(EVENTS, &from, Some(&to), &mut |key, value| {
            if let Some((_, number)) = of_key(key)
                && let Some((channel, text)) =
                    std::str::from_utf8(value).ok().and_then(|value| value.split_once('\n'))
            {
                kept.push(RestoredEvents {
                    number,
                    channel: channel.to_owned(),
                    text: text.to_owned(),
                });
            }
        });
        if let Err(error) = outcome {
            tracing::warn!(%error, %user, "kept events can not be read");
            return None;
        }
        Some(kept)
    }
}

fn forget(user: &UserId, gone: &[u64]) -> Vec<Write> {
    let events = gone.iter().map(|number| Write::remove(EVENTS, key(user, *number)));
    let highest = gone.iter().max();
    let highest = highest.map(|highest| Write::put(DROPPED, user.as_str(), highest.to_string()));
    events.chain(highest).collect()
}

fn number_of(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Numbers are as wide as the widest, so that their order is the text's.
fn key(user: &UserId, number: u64) -> String {
    format!("{user}\0{number:020}")
}

fn of_key(key: &str) -> Option<(UserId, u64)> {
    let (user, number) = key.rsplit_once('\0')?;
    Some((user.into(), number.parse().ok()?))
}

fn save(session: &Saved) -> String {
    json!({
        "user": session.user.as_str(),
        "browser": session.browser.as_deref(),
        "address": session.address.to_string(),
        "base": session.base,
        "offset": session.offset,
        "subscriptions": session.subscriptions,
    })
    .to_string()
}

fn saved(id: &str, value: &[u8]) -> Option<Saved> {
    let value: Value = serde_json::from_slice(value).ok()?;
    let subscriptions = value.get("subscriptions")?.as_array()?;
    Some(Saved {
        id: ClientId(id.into()),
        user: value.get("user")?.as_str()?.into(),
        browser: value.get("browser")?.as_str().map(Into::into),
        address: value.get("address")?.as_str()?.parse().ok()?,
        base: value.get("base")?.as_u64()?,
        offset: value.get("offset")?.as_u64()?,
        subscriptions: subscriptions
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_the_order_of_their_numbers() {
        let anna = UserId::from("anna");
        assert!(key(&anna, 9) < key(&anna, 10));
        assert!(key(&anna, u64::MAX) < key(&UserId::from("anna2"), 0));
        assert_eq!(of_key(&key(&anna, 7)), Some((anna, 7)));
    }

    #[test]
    fn a_session_is_read_as_it_was_saved() {
        let session = Saved {
            id: ClientId("c1".into()),
            user: "anna".into(),
            browser: Some("b1".into()),
            address: "192.0.2.1".parse().expect("an address"),
            base: 3_000_000_007,
            offset: 1 << 20,
            subscriptions: vec!["/v2/me/*".to_owned()],
        };
        assert_eq!(saved("c1", save(&session).as_bytes()), Some(session));
        assert_eq!(saved("c1", b"{}"), None);
        assert_eq!(saved("c1", b"\xff"), None);
    }
}
