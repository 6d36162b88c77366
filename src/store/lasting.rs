//! A store that outlives its disk's bad times: what the disk does not take is remembered, read as
//! if it were written, and written when the disk takes it again. A thread of its own finds that
//! out.

use super::redb::Redb;
use super::reserve::Reserve;
use super::{Importance, KeyValueStore, Safety, Store, StoreError, Write};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// How often the disk is asked while it is well: a full one is noticed though nothing is written.
const CHECK: Duration = Duration::from_secs(5);
/// How often it is tried while it is not: the first pause, and the longest.
const TRY_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));
/// Bytes that may wait for the disk.
const STATE: usize = 64 << 20;
const EVENTS: usize = 16 << 20;

/// What the state file has of the reserve.
const ABOUT: &str = "store";
const TAKEN_IN: &str = "reserve";

pub(super) struct Lasting {
    shared: Arc<WriterShared>,
    thread: Option<JoinHandle<()>>,
}

struct WriterShared {
    inner: Store,
    name: String,
    /// Where the reserve belongs to. `None`: there is none.
    path: Option<PathBuf>,
    has_forgotten: bool,
    is_writable: AtomicBool,
    state: Mutex<WriterState>,
    wake: Condvar,
}

#[derive(Default)]
struct WriterState {
    waiting: BTreeMap<(String, String), Waiting>,
    /// Of what waits.
    bytes: usize,
    /// Events wait that the reserve has not been told of.
    incomplete: bool,
    reserve: Option<Reserve>,
    /// The generation of the reserve that the state file had at the start.
    taken_in: u64,
    closing: bool,
}

struct Waiting {
    value: Option<Vec<u8>>,
    importance: Importance,
}

impl Lasting {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let inner = Redb::open(path)?;
        let about = inner.load(ABOUT)?;
        let taken_in = about
            .get(TAKEN_IN)
            .and_then(|text| std::str::from_utf8(text).ok()?.parse::<u64>().ok());
        let taken_in = taken_in.unwrap_or_default();
        let mut state = WriterState { taken_in, ..WriterState::default() };
        let mut has_forgotten = false;
        match Reserve::open(path) {
            Ok((mut reserve, left)) => {
                reserve.follow(taken_in);
                if left.generation > taken_in {
                    tracing::warn!(
                        changes = left.changes.len(),
                        "the last run could not write these changes: they are brought in now"
                    );
                    has_forgotten = left.incomplete;
                    left.changes
                        .iter()
                        .for_each(|change| state.remember(change, Importance::State));
                }
                state.reserve = Some(reserve);
            }
            Err(error) => {
                tracing::warn!(
                    %error,
                    path = %path.display(),
                    "no room can be set aside for the state"
                )
            }
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self::start(Arc::new(inner), name, Some(path.to_owned()), state, has_forgotten)
    }

    pub(super) fn over(inner: Store) -> Result<Self, StoreError> {
        Self::start(inner, "other".to_owned(), None, WriterState::default(), false)
    }

    fn start(
        inner: Store,
        name: String,
        path: Option<PathBuf>,
        mut state: WriterState,
        has_forgotten: bool,
    ) -> Result<Self, StoreError> {
        let shared = WriterShared {
            inner,
            name,
            path,
            has_forgotten,
            is_writable: AtomicBool::new(true),
            state: Mutex::default(),
            wake: Condvar::new(),
        };
        shared.measure(&state);
        if !state.waiting.is_empty() {
            // What can not be written yet waits.
            let _ = shared.commit(&mut state, &[]);
        }
        *shared.state() = state;
        let shared = Arc::new(shared);
        let mending = shared.clone();
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || mending.mend())
            .map_err(StoreError::Thread)?;
        Ok(Self { shared, thread: Some(thread) })
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        self.shared.state().closing = true;
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl KeyValueStore for Lasting {
    fn scan(
        &self,
        table: &str,
        from: &str,
        to: Option<&str>,
        visit: &mut dyn FnMut(&str, &[u8]),
    ) -> Result<(), StoreError> {
        let state = self.shared.state();
        if !self.is_writable() {
            // Without room it can still be read.
            let _ = self.shared.inner.ready();
        }
        if state.waiting.is_empty() {
            drop(state);
            return self.shared.inner.scan(table, from, to, visit);
        }
        let start = Bound::Included((table.to_owned(), from.to_owned()));
        let within = |key: &str| to.is_none_or(|to| key < to);
        let over = state.waiting.range((start, Bound::Unbounded));
        let mut over = over.take_while(|((its, key), _)| its == table && within(key)).peekable();
        self.shared.inner.scan(table, from, to, &mut |key, value| {
            while let Some(((_, new), waiting)) = over.next_if(|((_, new), _)| new.as_str() < key) {
                waiting.value.iter().for_each(|value| visit(new, value));
            }
            match over.next_if(|((_, new), _)| new == key) {
                Some((_, waiting)) => waiting.value.iter().for_each(|value| visit(key, value)),
                None => visit(key, value),
            }
        })?;
        over.for_each(|((_, key), waiting)| {
            waiting.value.iter().for_each(|value| visit(key, value))
        });
        Ok(())
    }

    fn write(&self, changes: &[Write]) -> Result<(), StoreError> {
        self.shared.commit(&mut self.shared.state(), changes)
    }

    fn write_behind(
        &self,
        changes: &[Write],
        importance: Importance,
    ) -> Result<Safety, StoreError> {
        let mut state = self.shared.state();
        let Err(error) = self.shared.commit(&mut state, changes) else {
            return Ok(Safety::Stored);
        };
        let most = match importance {
            Importance::State => STATE,
            Importance::Events => EVENTS,
        };
        if state.bytes + changes.iter().map(Write::size).sum::<usize>() > most {
            tracing::debug!(%error, "too much waits for the disk");
            return Err(StoreError::TooMuch { waiting: state.bytes });
        }
        changes.iter().for_each(|change| state.remember(change, importance));
        self.shared.measure(&state);
        Ok(self.shared.set_aside(&mut state, importance))
    }

    fn is_writable(&self) -> bool {
        self.shared.is_writable.load(Ordering::Relaxed)
    }

    fn has_forgotten(&self) -> bool {
        self.shared.has_forgotten
    }

    fn is_lasting(&self) -> bool {
        true
    }
}

impl WriterState {
    fn remember(&mut self, change: &Write, importance: Importance) {
        self.bytes += change.size();
        let waiting = Waiting { value: change.value.clone(), importance };
        let key = (change.table.clone().into_owned(), change.key.clone());
        let length = key.0.len() + key.1.len();
        if let Some(before) = self.waiting.insert(key, waiting) {
            self.bytes -= length + before.value.map_or(0, |value| value.len());
        }
    }

    fn changes(&self) -> impl Iterator<Item = Write> {
        self.waiting.iter().map(|((table, key), waiting)| Write {
            table: table.clone().into(),
            key: key.clone(),
            value: waiting.value.clone(),
        })
    }
}

impl WriterShared {
    /// A lock that another thread died with holds data that is still whole.
    fn state(&self) -> MutexGuard<'_, WriterState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What waits and these changes, all or none.
    fn commit(&self, state: &mut WriterState, changes: &[Write]) -> Result<(), StoreError> {
        let written = match state.waiting.is_empty() && self.is_writable.load(Ordering::Relaxed) {
            true => self.inner.write(changes),
            false => self.inner.ready().and_then(|()| {
                let taken_in =
                    state.reserve.as_ref().map(|reserve| reserve.generation().to_string());
                let taken_in = taken_in.map(|generation| Write::put(ABOUT, TAKEN_IN, generation));
                let all: Vec<Write> =
                    state.changes().chain(changes.iter().cloned()).chain(taken_in).collect();
                self.inner.write(&all)
            }),
        };
        match &written {
            Ok(()) => {
                let count = state.waiting.len();
                state.waiting.clear();
                (state.bytes, state.incomplete) = (0, false);
                if !self.is_writable.swap(true, Ordering::Relaxed) {
                    tracing::info!(
                        store = self.name,
                        changes = count,
                        "the state can be written again; what waited is written"
                    );
                }
            }
            Err(error) => {
                if self.is_writable.swap(false, Ordering::Relaxed) {
                    tracing::error!(
                        %error,
                        store = self.name,
                        "the state can not be written: what changes is remembered until it can be"
                    );
                }
                self.wake.notify_all();
            }
        }
        self.measure(state);
        written
    }

    /// Brings what waits into the reserve, as far as it belongs there.
    fn set_aside(&self, state: &mut WriterState, importance: Importance) -> Safety {
        let WriterState { waiting, reserve, incomplete, .. } = state;
        let is_event = importance == Importance::Events;
        if is_event && *incomplete {
            return Safety::Remembered;
        }
        *incomplete |= is_event;
        let Some(reserve) = reserve else {
            return Safety::Remembered;
        };
        // What was taken away must not come back: it goes first.
        let of = |removed: bool| {
            waiting
                .iter()
                .filter(move |(_, waiting)| {
                    waiting.importance == Importance::State && waiting.value.is_none() == removed
                })
                .map(|((table, key), waiting)| {
                    (table.as_str(), key.as_str(), waiting.value.as_deref())
                })
        };
        match reserve.write(of(true).chain(of(false)), *incomplete) {
            Ok(true) if !is_event => Safety::SetAside,
            Ok(_) => Safety::Remembered,
            Err(error) => {
                tracing::debug!(
                    %error,
                    store = self.name,
                    "the room set aside can not be written either"
                );
                Safety::Remembered
            }
        }
    }

    fn measure(&self, state: &WriterState) {
        let is_writable = self.is_writable.load(Ordering::Relaxed);
        metrics::gauge!("undertone_store_writable", "store" => self.name.clone())
            .set(if is_writable { 1.0 } else { 0.0 });
        metrics::gauge!("undertone_store_waiting_bytes", "store" => self.name.clone())
            .set(state.bytes as f64);
    }

    /// The thread: tries again what waits, and looks at the disk from time to time.
    fn mend(&self) {
        let mut pause = TRY_AGAIN.0;
        let mut state = self.state();
        while !state.closing {
            let is_well = self.is_writable.load(Ordering::Relaxed);
            let wait = if is_well { CHECK } else { pause };
            let (woken, waited) =
                self.wake.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            if state.closing || !waited.timed_out() {
                continue;
            }
            let is_mended = match is_well {
                true => self.look(&mut state),
                false => self.commit(&mut state, &[]).is_ok(),
            };
            pause = if is_mended { TRY_AGAIN.0 } else { TRY_AGAIN.1.min(pause * 2) };
        }
        if !state.waiting.is_empty() && self.commit(&mut state, &[]).is_err() {
            tracing::error!(
                store = self.name,
                changes = state.waiting.len(),
                "these changes could not be written before the end"
            );
        }
    }

    /// True: a change would succeed.
    fn look(&self, state: &mut WriterState) -> bool {
        if let (None, Some(path)) = (&state.reserve, &self.path) {
            state.reserve = Reserve::open(path).ok().map(|(mut reserve, _)| {
                reserve.follow(state.taken_in);
                reserve
            });
        }
        let ready = self.inner.ready();
        if let Err(error) = &ready
            && self.is_writable.swap(false, Ordering::Relaxed)
        {
            tracing::error!(
                %error,
                store = self.name,
                "the state can not be written: what changes is remembered until it can be"
            );
        }
        self.measure(state);
        ready.is_ok()
    }
}
