//! Watches on their way: each is fed by a task of its own through a short queue, so that a stream
//! that nobody reads costs the facts of others nothing.
//!
//! ```text
//! FactLog ─▶ Watcher ─▶ feeder ─▶ queue ─▶ stream ═▶ the caller
//!                          └── not read for long: gone, and the stream ends with its status
//! ```

use super::callers::Lease;
use super::convert;
use super::proto::watch_response::Fact as Wire;
use super::{CommandCall, Watcher, proto, status_of};
use crate::model::{CallerName, NodeLoad, Reason, Refusal};
use futures_util::Stream;
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tonic::Status;

/// Watches of one caller at once: each is told everything, so a program needs one.
const WATCHES_OF_ONE: usize = 64;
/// Facts that wait for one watch to be read. What comes after them waits in the history of all, see
/// [`super::FactLog`].
const QUEUE: usize = 64;
/// A watch that takes no fact for so long is given up: as long as a connection that takes no byte.
const UNREAD: Duration = Duration::from_secs(30);

/// Who watches, and how often. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(super) struct Watches(Arc<Mutex<BTreeMap<CallerName, usize>>>);

/// One of the watches of a caller, until it is dropped.
#[derive(Debug)]
pub(super) struct WatchPermit {
    watches: Watches,
    caller: CallerName,
}

impl Watches {
    /// One more watch of this caller.
    ///
    /// # Errors
    /// It has enough.
    pub(super) fn begin(&self, caller: &CallerName) -> Result<WatchPermit, Refusal> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(caller.clone()).or_default();
        if *own >= WATCHES_OF_ONE {
            metrics::counter!("undertone_grpc_watches_refused_total").increment(1);
            let text = format!("Caller '{caller}' has {WATCHES_OF_ONE} watches; one shows it all.");
            return Err(Refusal::new(Reason::TooManyRequests, text));
        }
        *own += 1;
        Ok(WatchPermit { watches: self.clone(), caller: caller.clone() })
    }
}

impl Drop for WatchPermit {
    fn drop(&mut self) {
        let mut all = self.watches.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = all.get_mut(&self.caller) {
            *own -= 1;
            if *own == 0 {
                all.remove(&self.caller);
            }
        }
    }
}

/// What feeds a watch.
pub(super) struct Feeder {
    pub(super) watcher: Watcher,
    pub(super) instance: String,
    pub(super) heartbeat: Duration,
    /// How busy the backend is.
    pub(super) load: watch::Receiver<NodeLoad>,
    /// Of the caller.
    pub(super) lease: Lease,
    /// Closed when the backend is gone.
    pub(super) commands: mpsc::Sender<CommandCall>,
}

/// The caller's end of a watch.
pub struct WatchStream {
    queue: mpsc::Receiver<proto::WatchResponse>,
    last: Option<oneshot::Receiver<Status>>,
    _permit: WatchPermit,
}

impl Feeder {
    /// Begins to feed the stream; a watcher that resumes is told so at once.
    pub(super) fn start(self, permit: WatchPermit) -> WatchStream {
        let (sender, queue) = mpsc::channel(QUEUE);
        let (last, told) = oneshot::channel();
        tokio::spawn(async move {
            if let Some(status) = self.feed(&sender).await {
                let _ = last.send(status);
            }
        });
        WatchStream { queue, last: Some(told), _permit: permit }
    }

    /// The status that the stream ends with; none: as a stream whose backend has gone.
    async fn feed(mut self, queue: &mpsc::Sender<proto::WatchResponse>) -> Option<Status> {
        let mut next = self.watcher.resumes().then(|| heartbeat(self.watcher.revision()));
        let mut beats = Heartbeats { every: self.heartbeat, ..Heartbeats::default() };
        loop {
            let is_free = tokio::select! {
                biased;
                () = self.commands.closed() => return None,
                () = self.lease.ended() => return Some(no_longer_known()),
                room = tokio::time::timeout(UNREAD, queue.reserve()) => room,
            };
            let Ok(room) = is_free else {
                metrics::counter!("undertone_grpc_watches_unread_total").increment(1);
                return Some(unread());
            };
            let mut response = match next.take() {
                Some(response) => response,
                None => tokio::select! {
                    biased;
                    () = self.commands.closed() => return None,
                    () = self.lease.ended() => return Some(no_longer_known()),
                    () = queue.closed() => return None,
                    revision = beats.due(&mut self.load) => heartbeat(revision),
                    revised = self.watcher.next() => convert::wire_fact(&revised, &self.instance),
                },
            };
            beats.note(&mut response, &self.load.borrow());
            // The caller has gone.
            room.ok()?.send(response);
        }
    }
}

/// When a watch is told again that its backend lives, and how busy it is.
#[derive(Default)]
struct Heartbeats {
    every: Duration,
    /// None before the first snapshot.
    next: Option<Instant>,
    /// The revision that was told last; none within a snapshot, and none before the first.
    revision: Option<u64>,
    told_draining: bool,
}

impl Heartbeats {
    /// Waits until there is to be one; its revision.
    async fn due(&self, load: &mut watch::Receiver<NodeLoad>) -> u64 {
        let (Some(revision), Some(next)) = (self.revision, self.next) else {
            return std::future::pending().await;
        };
        tokio::select! {
            () = sleep_until(next) => revision,
            Ok(_) = load.wait_for(|load| load.is_draining != self.told_draining) => revision,
        }
    }

    /// Something is told now; a heartbeat with the load.
    fn note(&mut self, response: &mut proto::WatchResponse, load: &NodeLoad) {
        match &mut response.fact {
            Some(Wire::SnapshotBegin(_)) => return self.revision = None,
            Some(Wire::SnapshotComplete(_)) => self.revision = Some(response.revision),
            Some(Wire::Heartbeat(beat)) => {
                beat.load = Some(convert::node_load::wire_load(load));
                self.told_draining = load.is_draining;
                self.next = Some(Instant::now() + self.every);
                self.revision = Some(response.revision);
            }
            Some(_) | None => self.revision = self.revision.map(|_| response.revision),
        }
        self.next.get_or_insert_with(|| Instant::now() + self.every);
    }
}

fn heartbeat(revision: u64) -> proto::WatchResponse {
    let fact = Some(Wire::Heartbeat(proto::Heartbeat::default()));
    proto::WatchResponse { revision, fact }
}

impl Stream for WatchStream {
    type Item = Result<proto::WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(response) = ready!(self.queue.poll_recv(context)) {
            return Poll::Ready(Some(Ok(response)));
        }
        let Some(last) = &mut self.last else {
            return Poll::Ready(None);
        };
        let status = ready!(Pin::new(last).poll(context)).ok();
        self.last = None;
        Poll::Ready(status.map(Err))
    }
}

fn no_longer_known() -> Status {
    status_of(&Refusal::new(Reason::NotAuthenticated, "The caller is not known any more."))
}

fn unread() -> Status {
    let text = format!("The watch was not read for {} s.", UNREAD.as_secs());
    status_of(&Refusal::new(Reason::TooManyRequests, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DeviceFact, DeviceKind, Fact};
    use crate::telephony::FactLog;
    use futures_util::StreamExt;
    use tonic::Code;

    fn caller(name: &str) -> CallerName {
        name.into()
    }

    fn watch(log: &FactLog) -> (WatchStream, mpsc::Receiver<CommandCall>) {
        let (load, _) = watch::channel(NodeLoad::default());
        watch_of(log, &load)
    }

    fn watch_of(
        log: &FactLog,
        load: &watch::Sender<NodeLoad>,
    ) -> (WatchStream, mpsc::Receiver<CommandCall>) {
        let (commands, backend) = mpsc::channel(1);
        let feeder = Feeder {
            watcher: log.watch(),
            instance: log.instance().to_owned(),
            heartbeat: Duration::from_millis(50),
            load: load.subscribe(),
            lease: Lease::without_end(),
            commands,
        };
        (feeder.start(Watches::default().begin(&caller("a")).expect("one")), backend)
    }

    fn change(log: &FactLog, on: bool) {
        log.publish(Fact::Device(DeviceFact {
            id: "d".into(),
            number: "5001".into(),
            kind: DeviceKind::Phone,
            registered: true,
            do_not_disturb: on,
            forward_to: None,
        }));
    }

    #[tokio::test(start_paused = true)]
    async fn an_unread_watch_is_handed_so_many_facts_and_no_more_and_ends_with_its_status() {
        let log = FactLog::new();
        let (mut stream, _backend) = watch(&log);
        for number in 0..10_000 {
            change(&log, number % 2 == 0);
            tokio::task::yield_now().await;
        }
        assert_eq!(log.watchers(), 1);
        tokio::time::sleep(UNREAD - Duration::from_secs(1)).await;
        assert_eq!(log.watchers(), 1, "it may still be read");
        tokio::time::sleep(Duration::from_secs(2)).await;
        // Nobody is woken for it, and nothing is kept for it.
        assert_eq!(log.watchers(), 0);
        for _ in 0..QUEUE {
            assert!(stream.next().await.expect("a fact").is_ok());
        }
        let ended = stream.next().await.expect("a status").expect_err("the end");
        assert_eq!(ended.code(), Code::ResourceExhausted);
        assert!(stream.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_is_read_now_and_then_goes_on() {
        let log = FactLog::new();
        let (mut stream, _backend) = watch(&log);
        for _ in 0..100 {
            for number in 0..500 {
                change(&log, number % 2 == 0);
            }
            tokio::time::sleep(UNREAD / 2).await;
            assert!(stream.next().await.expect("open").is_ok());
        }
        assert_eq!(log.watchers(), 1);
        drop(stream);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(log.watchers(), 0);
    }

    async fn next(stream: &mut WatchStream) -> proto::WatchResponse {
        stream.next().await.expect("open").expect("no status")
    }

    async fn next_beat(stream: &mut WatchStream) -> (u64, proto::NodeLoad) {
        loop {
            let response = next(stream).await;
            if let Some(Wire::Heartbeat(beat)) = response.fact {
                return (response.revision, beat.load.expect("each has the load"));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_come_as_often_as_asked_for_however_many_facts_come_between() {
        let log = FactLog::new();
        change(&log, false);
        let load =
            watch::Sender::new(NodeLoad { calls: 7, max_calls: Some(9), is_draining: false });
        let (mut stream, _backend) = watch_of(&log, &load);
        let teller = log.clone();
        tokio::spawn(async move {
            let mut each = tokio::time::interval(Duration::from_millis(1));
            for number in 0..100_000 {
                each.tick().await;
                change(&teller, number % 2 == 0);
            }
        });
        let begun = Instant::now();
        let (mut told, mut beats) = (0, 0);
        while begun.elapsed() < Duration::from_secs(1) {
            let response = next(&mut stream).await;
            match response.fact {
                Some(Wire::Heartbeat(beat)) => {
                    beats += 1;
                    assert_eq!(response.revision, told, "the revision that was told last");
                    let load = proto::NodeLoad { calls: 7, max_calls: 9, draining: false };
                    assert_eq!(beat.load, Some(load));
                }
                _ => told = response.revision,
            }
        }
        assert!((18..=21).contains(&beats), "{beats} in a second, one each 50 ms");
        assert!(told > 900, "{told}");
    }

    #[tokio::test(start_paused = true)]
    async fn that_a_backend_drains_is_told_at_once_and_only_when_it_changes() {
        let log = FactLog::new();
        change(&log, false);
        let load = watch::Sender::new(NodeLoad { is_draining: true, ..NodeLoad::default() });
        let (mut stream, _backend) = watch_of(&log, &load);
        let begun = Instant::now();
        // Not within the snapshot: SnapshotBegin, the device, SnapshotComplete.
        for _ in 0..3 {
            let response = next(&mut stream).await;
            assert!(!matches!(response.fact, Some(Wire::Heartbeat(_))), "{response:?}");
        }
        assert!(next_beat(&mut stream).await.1.draining);
        for draining in [false, true, false] {
            load.send_modify(|load| load.is_draining = draining);
            assert_eq!(next_beat(&mut stream).await.1.draining, draining);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO, "at once");
        // How many calls there are waits for the next one.
        load.send_modify(|load| load.calls = 5);
        assert_eq!(next_beat(&mut stream).await.1.calls, 5);
        assert_eq!(begun.elapsed(), Duration::from_millis(50));
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_ends_with_its_backend_whether_it_is_read_or_not() {
        for is_read in [true, false] {
            let log = FactLog::new();
            let (mut stream, backend) = watch(&log);
            if is_read {
                assert!(stream.next().await.expect("open").is_ok());
            }
            drop(backend);
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(log.watchers(), 0);
            while let Some(item) = stream.next().await {
                assert!(item.is_ok());
            }
        }
    }

    #[test]
    fn a_caller_has_so_many_watches_and_another_its_own() {
        let watches = Watches::default();
        let mut begun: Vec<_> = (0..WATCHES_OF_ONE)
            .map(|_| watches.begin(&caller("a")).expect("one of its own"))
            .collect();
        let refused = watches.begin(&caller("a")).expect_err("one too many");
        assert_eq!(refused.reason, Reason::TooManyRequests);
        assert!(watches.begin(&caller("b")).is_ok());
        begun.pop();
        assert!(watches.begin(&caller("a")).is_ok());
        drop(begun);
        assert!(watches.0.lock().unwrap().is_empty());
    }
}
