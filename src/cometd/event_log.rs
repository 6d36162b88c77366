//! Events and sessions that outlive the process: a thread of its own writes them to the store, many
//! at a time, and reads them back.
//!
//! It writes behind: an event is told before it is on disk. A number is never used twice all the
//! same, see [`super::event_numbers`], and a graceful end writes everything. What a full disk does
//! not take waits in memory and is read from there; of a process that dies so, the next one knows
//! that something is missing.

use super::message::ClientId;
use super::sessions::{LogChange, RestoredEvents, Saved, SessionId};
use super::task::{Input, WeakInbox};
use crate::model::UserId;
use crate::secret::SharedSecret;
use crate::store::records::{VERSION, entries, is_readable};
use crate::store::writer::{Sink, Writer};
use crate::store::{Importance, Safety, Store, StoreError, Write};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::net::IpAddr;
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

/// The way to the thread.
pub(super) struct EventLog {
    writer: Writer<EventFile>,
    store: Store,
    inbox: WeakInbox,
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
        let sessions = entries(&*store, SESSIONS, restore)?;
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
        let (writer, thread) = Writer::new(BACKLOG);
        let file = EventFile { store: store.clone(), inbox: inbox.clone() };
        thread::Builder::new()
            .name("journal".to_owned())
            .spawn(move || thread.run(file))
            .map_err(StoreError::Thread)?;
        let legacy =
            Legacy { epoch, has_forgotten: store_has_forgotten, events, dropped, sessions };
        Ok((Self { writer, store, inbox }, legacy))
    }

    /// Brings a change to the disk. What is handed back is not kept: the disk is too far behind for
    /// one event more.
    pub(super) fn keep(&self, change: LogChange) -> Result<(), LogChange> {
        self.writer.write(change, drop).map_err(|not_taken| not_taken.change)
    }

    /// Reads what has been kept by now of the user's events behind this number, for
    /// [`Input::Replayed`]. False: it will not come.
    pub(super) fn read(&self, session: SessionId, user: UserId, after: u64) -> bool {
        let (store, inbox) = (self.store.clone(), self.inbox.clone());
        self.writer.flush(move |()| {
            tell(&inbox, Input::Replayed(session, read(&store, &user, after)));
        })
    }

    /// Everything before is on disk, or waits for it, when this is answered.
    pub(super) fn flush(&self, done: oneshot::Sender<()>) {
        self.writer.flush(move |()| {
            let _ = done.send(());
        });
    }
}

/// The tables of the event log.
struct EventFile {
    store: Store,
    inbox: WeakInbox,
}

impl Sink for EventFile {
    type Change = LogChange;
    type Outcome = ();

    fn write(&mut self, changes: Vec<LogChange>) {
        let writes: Vec<Write> = changes.iter().flat_map(writes).collect();
        if writes.is_empty() {
            return;
        }
        if let Err(error) = self.store.write_behind(&writes, Importance::Events) {
            let unkept: Vec<(UserId, u64)> = changes.into_iter().filter_map(event).collect();
            metrics::counter!("undertone_cometd_unkept_total").increment(unkept.len() as u64);
            tracing::warn!(
                %error,
                events = unkept.len(),
                "events can not be kept for clients that come back"
            );
            for (user, number) in unkept {
                tell(&self.inbox, Input::Unkept(user, number));
            }
        }
    }

    fn size(change: &LogChange) -> usize {
        match change {
            LogChange::Event { event, .. } => event.text.len(),
            LogChange::NoEvents { .. } | LogChange::Session(_) | LogChange::NoSession(_) => 0,
        }
    }
}

/// The event that a change keeps.
fn event(change: LogChange) -> Option<(UserId, u64)> {
    match change {
        LogChange::Event { user, event, .. } => Some((user, event.number)),
        LogChange::NoEvents { .. } | LogChange::Session(_) | LogChange::NoSession(_) => None,
    }
}

fn writes(change: &LogChange) -> Vec<Write> {
    match change {
        LogChange::Event { user, channel, event, gone } => {
            let value = format!("{channel}\n{}", event.text);
            let mut writes = vec![Write::put(EVENTS, key(user, event.number), value)];
            writes.extend(forget(user, gone));
            writes
        }
        LogChange::NoEvents { user, gone } => forget(user, gone),
        LogChange::Session(session) => vec![Write::put(SESSIONS, &*session.id.0, save(session))],
        LogChange::NoSession(id) => vec![Write::remove(SESSIONS, &*id.0)],
    }
}

fn tell(inbox: &WeakInbox, happening: Input) {
    // Without a loop nobody wants to know.
    if let Some(inbox) = inbox.upgrade() {
        let _ = inbox.send(happening);
    }
}

fn read(store: &Store, user: &UserId, after: u64) -> Option<Vec<RestoredEvents>> {
    let mut kept = Vec::new();
    let (from, to) = (key(user, after.saturating_add(1)), key(user, u64::MAX));
    let outcome = store.scan(EVENTS, &from, Some(&to), &mut |key, value| {
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

/// A session of a client that acknowledges, by client id.
#[derive(Serialize, Deserialize)]
struct SessionRecord {
    #[serde(default)]
    version: u32,
    user: String,
    browser: Option<String>,
    address: IpAddr,
    base: u64,
    offset: u64,
    subscriptions: Vec<String>,
}

fn save(session: &Saved) -> String {
    json!(SessionRecord {
        version: VERSION,
        user: session.user.to_string(),
        browser: session.browser.as_ref().map(|browser| browser.expose().to_string()),
        address: session.address,
        base: session.base,
        offset: session.offset,
        subscriptions: session.subscriptions.clone(),
    })
    .to_string()
}

fn restore(id: &str, record: SessionRecord) -> Option<Saved> {
    is_readable(record.version)?;
    Some(Saved {
        id: ClientId(id.into()),
        user: record.user.into(),
        browser: record.browser.map(SharedSecret::shared),
        address: record.address,
        base: record.base,
        offset: record.offset,
        subscriptions: record.subscriptions,
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
        let read = |bytes: &[u8]| {
            serde_json::from_slice(bytes).ok().and_then(|record| restore("c1", record))
        };
        let session = Saved {
            id: ClientId("c1".into()),
            user: "anna".into(),
            browser: Some(SharedSecret::shared("b1")),
            address: "192.0.2.1".parse().expect("an address"),
            base: 3_000_000_007,
            offset: 1 << 20,
            subscriptions: vec!["/v2/me/*".to_owned()],
        };
        assert_eq!(read(save(&session).as_bytes()), Some(session.clone()));
        let before = r#"{"user":"anna","browser":"b1","address":"192.0.2.1","base":3000000007,
            "offset":1048576,"subscriptions":["/v2/me/*"]}"#;
        assert_eq!(read(before.as_bytes()), Some(session), "before there were versions");
        let newer = before.replace('{', r#"{"version":2,"#);
        assert_eq!(read(newer.as_bytes()), None);
        assert_eq!(read(b"{}"), None);
        assert_eq!(read(b"\xff"), None);
    }
}
