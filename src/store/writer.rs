//! The one way of writing: a thread gathers what waits, writes it in one go, and says of each part
//! what has become of it.
//!
//! ```text
//! Writer::write, flush ──▶ WriterThread::run ── all that waits ──▶ Sink::write (one fsync)
//!                             done, in order  ◀──── outcome ────────────┘
//! ```
//!
//! [`StateFile`] is the sink of state: what may begin only when it is stored, and what has happened
//! already. The event log and the audit have sinks of their own.

use super::{Importance, Safety, Store, Write};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

/// Parts that are written in one go, at most.
const TOGETHER: usize = 4_096;

/// What a thread writes to.
pub(crate) trait Sink: Sized {
    /// A part of what is written.
    type Change: Send;
    /// What has become of parts that were written in one go.
    type Outcome: Clone;

    /// Writes parts that have come together: in order, in one go.
    fn write(&mut self, changes: Vec<Self::Change>) -> Self::Outcome;

    /// What a part takes of the room for parts that wait; one of no size is never refused.
    fn size(_: &Self::Change) -> usize {
        0
    }

    /// When to call [`Sink::handle_idle`] if nothing comes.
    fn idle_after(&self) -> Option<Duration> {
        None
    }

    /// Nothing has come for a while.
    fn handle_idle(&mut self) {}
}

/// Hears, on the writing thread, what has become of a part.
pub(crate) type Done<S> = Box<dyn FnOnce(<S as Sink>::Outcome) + Send>;

/// The way to a writing thread, which ends when this is dropped and everything is written.
pub(crate) struct Writer<S: Sink> {
    jobs: mpsc::Sender<Job<S>>,
    /// The sizes of all parts that wait, and how much they may be.
    waiting: Arc<AtomicUsize>,
    most: usize,
}

/// What is to be run on a thread of its own.
pub(crate) struct WriterThread<S: Sink> {
    jobs: mpsc::Receiver<Job<S>>,
    waiting: Arc<AtomicUsize>,
}

struct Job<S: Sink> {
    /// `None`: what came before is written before anything that comes after.
    change: Option<S::Change>,
    done: Done<S>,
}

/// A part that was not taken, to be dealt with otherwise.
pub(crate) struct NotTaken<S: Sink> {
    pub(crate) why: WriterFault,
    pub(crate) change: S::Change,
    pub(crate) done: Done<S>,
}

/// Why a part is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriterFault {
    /// As much waits as may.
    Full,
    /// The thread has ended.
    Ended,
}

impl<S: Sink> fmt::Debug for Writer<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").finish_non_exhaustive()
    }
}

impl<S: Sink> Writer<S> {
    /// Parts of so much size may wait.
    pub(crate) fn new(most: usize) -> (Self, WriterThread<S>) {
        let (jobs, inbound) = mpsc::channel();
        let waiting = Arc::new(AtomicUsize::new(0));
        (Self { jobs, waiting: waiting.clone(), most }, WriterThread { jobs: inbound, waiting })
    }

    /// Has a part written. Never blocks.
    pub(crate) fn write(
        &self,
        change: S::Change,
        done: impl FnOnce(S::Outcome) + Send + 'static,
    ) -> Result<(), Box<NotTaken<S>>> {
        let (size, done) = (S::size(&change), Box::new(done));
        if size > 0 && self.waiting.fetch_add(size, Ordering::Relaxed) + size > self.most {
            self.waiting.fetch_sub(size, Ordering::Relaxed);
            return Err(Box::new(NotTaken { why: WriterFault::Full, change, done }));
        }
        match self.jobs.send(Job { change: Some(change), done }) {
            Err(mpsc::SendError(Job { change: Some(change), done })) => {
                Err(Box::new(NotTaken { why: WriterFault::Ended, change, done }))
            }
            Ok(()) | Err(mpsc::SendError(Job { change: None, .. })) => Ok(()),
        }
    }

    /// `done` is called when everything before has been written, and nothing after. False: the
    /// thread has ended, and it is not called.
    pub(crate) fn flush(&self, done: impl FnOnce(S::Outcome) + Send + 'static) -> bool {
        self.jobs.send(Job { change: None, done: Box::new(done) }).is_ok()
    }
}

impl<S: Sink> WriterThread<S> {
    /// Writes until the [`Writer`] is dropped.
    pub(crate) fn run(self, mut sink: S) {
        while let Some(first) = self.next(&mut sink) {
            let mut batch = Batch::default();
            for Job { change, done } in iter::once(first).chain(self.jobs.try_iter().take(TOGETHER))
            {
                batch.done.push(done);
                match change {
                    Some(change) => {
                        self.waiting.fetch_sub(S::size(&change), Ordering::Relaxed);
                        batch.changes.push(change);
                    }
                    None => std::mem::take(&mut batch).write(&mut sink),
                }
            }
            batch.write(&mut sink);
        }
    }

    fn next(&self, sink: &mut S) -> Option<Job<S>> {
        loop {
            let Some(idle_after) = sink.idle_after() else {
                return self.jobs.recv().ok();
            };
            match self.jobs.recv_timeout(idle_after) {
                Ok(job) => return Some(job),
                Err(RecvTimeoutError::Timeout) => sink.handle_idle(),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }
}

/// What is written in one go.
struct Batch<S: Sink> {
    changes: Vec<S::Change>,
    done: Vec<Done<S>>,
}

impl<S: Sink> Default for Batch<S> {
    fn default() -> Self {
        Self { changes: Vec::new(), done: Vec::new() }
    }
}

impl<S: Sink> Batch<S> {
    fn write(self, sink: &mut S) {
        if self.done.is_empty() {
            return;
        }
        let outcome = sink.write(self.changes);
        for done in self.done {
            done(outcome.clone());
        }
    }
}

/// Changes of state that belong together.
#[derive(Debug)]
pub(crate) struct StateChange {
    writes: Vec<Write>,
    /// They are stored now or never: something waits for them to be.
    is_ahead: bool,
}

impl StateChange {
    /// What begins something: it is stored, or it does not begin.
    pub(crate) fn ahead(write: Write) -> Self {
        Self { writes: vec![write], is_ahead: true }
    }

    /// What has happened already: it is stored as soon as it can be.
    pub(crate) fn behind(writes: Vec<Write>) -> Self {
        Self { writes, is_ahead: false }
    }
}

/// What has become of changes of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// All of them are in the state file.
    Stored,
    /// What had to be stored is not; what has happened already is remembered until the disk takes
    /// it.
    Waits,
    /// None of them is kept.
    Lost,
}

/// The state in a store. What is known to be in it is not written again.
pub(crate) struct StateFile {
    store: Store,
    /// What the log says is lost.
    what: &'static str,
    known: BTreeMap<(Cow<'static, str>, String), Option<Vec<u8>>>,
}

impl StateFile {
    /// `what` is kept there, in the words of the log.
    pub(crate) fn new(store: Store, what: &'static str) -> Self {
        Self { store, what, known: BTreeMap::new() }
    }

    fn bring(&self, changes: Vec<(Write, bool)>) -> Written {
        let is_ahead = changes.iter().any(|(_, is_ahead)| *is_ahead);
        if is_ahead {
            let all: Vec<Write> = changes.iter().map(|(write, _)| write.clone()).collect();
            match self.store.write(&all) {
                Ok(()) => return Written::Stored,
                Err(error) => {
                    tracing::warn!(%error, "a command is refused because it can not be stored")
                }
            }
        }
        let behind = changes.into_iter().filter(|(_, is_ahead)| !is_ahead);
        let behind: Vec<Write> = behind.map(|(write, _)| write).collect();
        if behind.is_empty() {
            return Written::Lost;
        }
        match self.store.write_behind(&behind, Importance::State) {
            Ok(Safety::Stored) if !is_ahead => Written::Stored,
            Ok(Safety::Stored | Safety::SetAside | Safety::Remembered) => Written::Waits,
            Err(error) => {
                tracing::error!(%error, "{} can not be kept: a restart will forget", self.what);
                Written::Lost
            }
        }
    }
}

impl Sink for StateFile {
    type Change = StateChange;
    type Outcome = Written;

    fn write(&mut self, changes: Vec<StateChange>) -> Written {
        let writes = changes.into_iter().flat_map(|StateChange { writes, is_ahead }| {
            writes.into_iter().map(move |write| (write, is_ahead))
        });
        let mut writes: Vec<(Write, bool)> = writes.collect();
        writes.retain(|(write, _)| {
            let key = (write.table.clone(), write.key.clone());
            self.known.insert(key, write.value.clone()).as_ref() != Some(&write.value)
        });
        if writes.is_empty() {
            return Written::Stored;
        }
        let written = self.bring(writes);
        if written != Written::Stored {
            self.known.clear();
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{self, KeyValueStore, StoreError};
    use std::sync::Mutex;
    use std::thread;

    /// Says what was written together.
    struct Notes(Arc<Mutex<Vec<Vec<u32>>>>);

    impl Sink for Notes {
        type Change = u32;
        type Outcome = usize;

        fn write(&mut self, changes: Vec<u32>) -> usize {
            let count = changes.len();
            self.0.lock().expect("whole").push(changes);
            count
        }

        fn size(change: &u32) -> usize {
            *change as usize
        }
    }

    #[test]
    fn what_waits_is_written_together_and_a_flush_parts_it() {
        let written = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::new(Mutex::new(Vec::new()));
        let (writer, thread) = Writer::new(100);
        let hear = |name: &'static str| {
            let heard = heard.clone();
            move |outcome: usize| heard.lock().expect("whole").push((name, outcome))
        };
        assert!(writer.write(1, hear("1")).is_ok());
        assert!(writer.write(2, hear("2")).is_ok());
        assert!(writer.flush(hear("flush")));
        assert!(writer.write(3, hear("3")).is_ok());
        drop(writer);
        thread.run(Notes(written.clone()));
        assert_eq!(*written.lock().expect("whole"), [vec![1, 2], vec![3]]);
        let heard = heard.lock().expect("whole").clone();
        assert_eq!(heard, [("1", 2), ("2", 2), ("flush", 2), ("3", 1)]);
    }

    #[test]
    fn more_than_may_wait_is_not_taken_and_neither_is_anything_without_the_thread() {
        let (writer, thread) = Writer::<Notes>::new(5);
        assert!(writer.write(5, drop).is_ok());
        let refused = writer.write(1, drop).expect_err("no room");
        assert_eq!((refused.why, refused.change), (WriterFault::Full, 1));
        assert!(writer.write(0, drop).is_ok(), "it takes no room");
        drop(thread);
        let refused = writer.write(0, drop).expect_err("no thread");
        assert_eq!(refused.why, WriterFault::Ended);
        assert!(!writer.flush(drop));
    }

    /// A store that counts what it is told, and takes nothing when `is_full`.
    #[derive(Default)]
    struct Disk {
        is_full: std::sync::atomic::AtomicBool,
        writes: Mutex<Vec<Vec<Write>>>,
    }

    impl KeyValueStore for Disk {
        fn scan(
            &self,
            _: &str,
            _: &str,
            _: Option<&str>,
            _: &mut dyn FnMut(&str, &[u8]),
        ) -> Result<(), StoreError> {
            Ok(())
        }

        fn write(&self, changes: &[Write]) -> Result<(), StoreError> {
            match self.is_full.load(Ordering::Relaxed) {
                true => Err(StoreError::Full { path: "state".into() }),
                false => {
                    self.writes.lock().expect("whole").push(changes.to_vec());
                    Ok(())
                }
            }
        }
    }

    #[test]
    fn what_must_be_stored_is_refused_by_a_full_disk_and_what_has_happened_waits() {
        let disk = Arc::new(Disk::default());
        let store = store::lasting(disk.clone()).expect("a thread");
        let mut state = StateFile::new(store, "the state");
        let set = |key: &str, value: &str| Write::put("table", key, value);
        disk.is_full.store(true, Ordering::Relaxed);
        let both =
            vec![StateChange::ahead(set("a", "1")), StateChange::behind(vec![set("b", "1")])];
        assert_eq!(state.write(both), Written::Waits);
        assert_eq!(state.write(vec![StateChange::ahead(set("a", "1"))]), Written::Lost);
        disk.is_full.store(false, Ordering::Relaxed);
        assert_eq!(state.write(vec![StateChange::ahead(set("a", "2"))]), Written::Stored);
        let written: Vec<Write> =
            disk.writes.lock().expect("whole").iter().flatten().cloned().collect();
        assert_eq!(written, [set("b", "1"), set("a", "2")]);
    }

    #[test]
    fn what_is_known_to_be_stored_is_not_written_again() {
        let disk = Arc::new(Disk::default());
        let mut state = StateFile::new(disk.clone(), "the state");
        let set = |value: &str| Write::put("table", "a", value);
        for (value, writes) in [("1", 1), ("1", 1), ("2", 2), ("1", 3)] {
            assert_eq!(state.write(vec![StateChange::behind(vec![set(value)])]), Written::Stored);
            assert_eq!(disk.writes.lock().expect("whole").len(), writes);
        }
    }

    #[test]
    fn a_thread_that_is_idle_says_so() {
        struct Idle(mpsc::Sender<()>);
        impl Sink for Idle {
            type Change = ();
            type Outcome = ();
            fn write(&mut self, _: Vec<()>) {}
            fn idle_after(&self) -> Option<Duration> {
                Some(Duration::from_millis(1))
            }
            fn handle_idle(&mut self) {
                let _ = self.0.send(());
            }
        }
        let (tell, told) = mpsc::channel();
        let (writer, thread) = Writer::new(0);
        let running = thread::spawn(move || thread.run(Idle(tell)));
        told.recv().expect("it is idle");
        drop(writer);
        running.join().expect("it ends");
    }
}
