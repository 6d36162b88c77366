//! What a backend has to tell: the latest of everything, and enough history to resume a broken
//! watch.

use crate::model::{
    AdmissionAsked, CallFact, CallId, DeviceFact, DeviceId, Fact, FactTable, MonitorFact,
    MonitorState, Revised, Unrepeated,
};
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// How many changes a broken watch may have missed and still resume: some minutes of a busy system,
/// a few megabytes.
const HISTORY: usize = 4096;

/// Bytes of call data in the history at most: a call's whole data is in each of its facts.
const MOST_USER_DATA: usize = 8 * 1024 * 1024;

/// The facts of one backend: a [`FactTable`] and a bounded history.
///
/// Watchers read from here at their own pace and own no queue: one that lags behind the history
/// gets a fresh snapshot.
#[derive(Clone, Debug)]
pub struct FactLog {
    shared: Arc<LogState>,
}

#[derive(Debug)]
struct LogState {
    instance: String,
    latest: Mutex<Latest>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Latest {
    revision: u64,
    facts: FactTable,
    admissions: BTreeMap<DeviceId, AdmissionAsked>,
    /// When nothing but the quality of a call had changed: of those the history keeps the last.
    measured: BTreeMap<CallId, u64>,
    history: VecDeque<Revised>,
    capacity: usize,
    /// Bytes of the call data that the facts of the history do not share with the one before.
    user_data: BTreeMap<u64, usize>,
    user_data_bytes: usize,
    /// The oldest revision after which a watch can resume.
    floor: u64,
}

impl Default for FactLog {
    fn default() -> Self {
        Self::new()
    }
}

impl FactLog {
    /// An empty log of a new instance.
    pub fn new() -> Self {
        Self::with_history(HISTORY)
    }

    /// An empty log that keeps this many changes.
    pub fn with_history(capacity: usize) -> Self {
        let latest = Latest { capacity, ..Latest::default() };
        Self {
            shared: Arc::new(LogState {
                instance: format!("{:032x}", rand::random::<u128>()),
                latest: Mutex::new(latest),
                changed: watch::Sender::new(0),
            }),
        }
    }

    /// The backend instance of these revisions. A restarted backend is another instance.
    pub fn instance(&self) -> &str {
        &self.shared.instance
    }

    /// The revision of the latest change.
    pub fn revision(&self) -> u64 {
        self.latest().revision
    }

    /// Writes a fact down for every watcher; returns its revision.
    ///
    /// A gateway may publish what its own backend reports as it comes: between `SnapshotBegin` and
    /// `SnapshotComplete` it collects, then forgets what was not repeated. `Lost` changes nothing.
    pub fn publish(&self, fact: Fact) -> u64 {
        let mut latest = self.latest();
        latest.publish(fact);
        let revision = latest.revision;
        drop(latest);
        self.shared.changed.send_replace(revision);
        revision
    }

    /// Every device, call and monitor as it is now.
    pub fn entities(&self) -> Vec<Fact> {
        self.latest().facts.facts().collect()
    }

    /// A device as it is now.
    pub fn device(&self, id: &DeviceId) -> Option<DeviceFact> {
        self.latest().facts.device(id).cloned()
    }

    /// A call as it is now.
    pub fn call(&self, id: &CallId) -> Option<CallFact> {
        self.latest().facts.call(id).cloned()
    }

    /// The monitor of a supervisor's device as it is now.
    pub fn monitor(&self, supervisor: &DeviceId) -> Option<MonitorFact> {
        self.latest().facts.monitor(supervisor).cloned()
    }

    /// Begins with a snapshot.
    pub fn watch(&self) -> Watcher {
        Watcher {
            log: self.clone(),
            changed: self.shared.changed.subscribe(),
            after: None,
            pending: VecDeque::new(),
        }
    }

    /// Begins after `revision` of `instance` if the history still has it, otherwise with a
    /// snapshot.
    pub fn resume(&self, instance: &str, revision: u64) -> Watcher {
        let mut watcher = self.watch();
        if instance == self.shared.instance && revision > 0 && revision <= self.revision() {
            watcher.after = Some(revision);
        }
        watcher
    }

    /// Somebody watches it.
    pub fn is_watched(&self) -> bool {
        self.shared.changed.receiver_count() > 0
    }

    /// How many watch it.
    #[cfg(test)]
    pub(super) fn watchers(&self) -> usize {
        self.shared.changed.receiver_count()
    }

    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.shared.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Latest {
    fn publish(&mut self, mut fact: Fact) {
        let mut own_data = 0;
        if let Fact::Call(call) = &mut fact {
            match self.facts.call(&call.id) {
                Some(before) if before.user_data == call.user_data => {
                    call.user_data = before.user_data.clone();
                }
                Some(_) | None => own_data = call.user_data.bytes(),
            }
        }
        match &fact {
            Fact::Device(device) => self.facts.insert_device(device.clone()),
            Fact::DeviceGone { device } => self.facts.remove_device(device),
            Fact::Call(call) => {
                let before = self.facts.insert_call(call.clone());
                if call.is_over() {
                    self.facts.remove_call(&call.id);
                }
                let superseded = match before {
                    Some(before) if before.is_same_but_quality(call) => {
                        self.measured.insert(call.id.clone(), self.revision + 1)
                    }
                    Some(_) | None => self.measured.remove(&call.id),
                };
                if let Some(superseded) = superseded {
                    self.strike(superseded);
                }
            }
            Fact::Monitor(monitor) => {
                if !matches!(monitor.state, MonitorState::Admitting { .. }) {
                    self.admissions.remove(&monitor.supervisor);
                }
                self.facts.insert_monitor(monitor.clone());
            }
            Fact::MonitorGone { supervisor } => {
                self.admissions.remove(supervisor);
                self.facts.remove_monitor(supervisor);
            }
            Fact::AdmissionAsked(asked) => {
                self.admissions.insert(asked.supervisor.clone(), asked.clone());
            }
            Fact::Failed(_)
            | Fact::JoinSound(_)
            | Fact::FeatureCodeDialled(_)
            | Fact::CallLost { .. } => {}
            Fact::SnapshotBegin => return self.facts.begin_snapshot(),
            Fact::SnapshotComplete => {
                if let Some(gone) = self.facts.complete_snapshot() {
                    self.forget(&gone);
                }
                return;
            }
            Fact::Lost => return,
        }
        self.revision += 1;
        self.history.push_back(Revised { revision: self.revision, fact });
        if own_data > 0 {
            self.user_data.insert(self.revision, own_data);
            self.user_data_bytes += own_data;
        }
        while self.history.len() > self.capacity || self.user_data_bytes > MOST_USER_DATA {
            let Some(oldest) = self.history.pop_front() else {
                return;
            };
            self.floor = oldest.revision;
            self.user_data_bytes -= self.user_data.remove(&oldest.revision).unwrap_or(0);
        }
    }

    /// Takes out of the history what a later whole entity has made needless.
    fn strike(&mut self, revision: u64) {
        if let Ok(place) = self.history.binary_search_by_key(&revision, |revised| revised.revision)
        {
            self.history.remove(place);
        }
    }

    /// Calls and monitors have no fact that says "gone without a word": watchers learn it from a
    /// fresh snapshot.
    fn forget(&mut self, gone: &Unrepeated) {
        if gone.is_empty() {
            return;
        }
        for id in &gone.devices {
            self.facts.remove_device(id);
        }
        for id in &gone.calls {
            self.facts.remove_call(id);
            self.measured.remove(id);
        }
        for supervisor in &gone.monitors {
            self.facts.remove_monitor(supervisor);
            self.admissions.remove(supervisor);
        }
        self.revision += 1;
        self.floor = self.revision;
        self.history.clear();
        self.user_data.clear();
        self.user_data_bytes = 0;
    }

    /// What a watcher that knows everything up to `after` has to be told.
    fn since(&self, after: Option<u64>) -> Vec<Revised> {
        match after {
            Some(after) if after >= self.floor => {
                let known = self.history.partition_point(|revised| revised.revision <= after);
                self.history.range(known..).cloned().collect()
            }
            Some(_) | None => self.snapshot(),
        }
    }

    /// Entities carry revision 0 so that nobody resumes in the middle; questions that still wait
    /// for an answer follow.
    fn snapshot(&self) -> Vec<Revised> {
        let asked = self.admissions.values().cloned().map(Fact::AdmissionAsked);
        let unrevised = |fact| Revised { revision: 0, fact };
        let mut snapshot: Vec<_> = std::iter::once(Fact::SnapshotBegin)
            .chain(self.facts.facts())
            .chain(asked)
            .map(unrevised)
            .collect();
        snapshot.push(Revised { revision: self.revision, fact: Fact::SnapshotComplete });
        snapshot
    }
}

/// Reads a [`FactLog`] from where it stands.
#[derive(Debug)]
pub struct Watcher {
    log: FactLog,
    changed: watch::Receiver<u64>,
    /// Everything up to here has been read; `None` before the first snapshot.
    after: Option<u64>,
    pending: VecDeque<Revised>,
}

impl Watcher {
    /// The next fact. Waits until there is one; may be cancelled without losing any.
    pub async fn next(&mut self) -> Revised {
        loop {
            if let Some(revised) = self.try_next() {
                return revised;
            }
            // The watcher's own clone of the log keeps the sender alive.
            let _ = self.changed.changed().await;
        }
    }

    /// The next fact if there is one now.
    pub fn try_next(&mut self) -> Option<Revised> {
        if self.pending.is_empty() {
            self.changed.mark_unchanged();
            let latest = self.log.latest();
            self.pending = latest.since(self.after).into();
            self.after = Some(latest.revision);
        }
        self.pending.pop_front()
    }

    /// It goes on where another left off, without a snapshot.
    pub(super) fn resumes(&self) -> bool {
        self.after.is_some_and(|after| after >= self.log.latest().floor)
    }

    /// Everything up to this revision has been handed out; 0 in the middle of a snapshot.
    pub fn revision(&self) -> u64 {
        match self.after {
            Some(after) if self.pending.is_empty() => after,
            Some(_) | None => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        CallType, LegState, Number, PartyFact, PartyRole, Quality, Timestamp, UserData,
    };

    #[test]
    fn the_history_is_bounded_by_the_call_data_in_it_and_equal_data_is_there_once() {
        let log = FactLog::new();
        let with = |text: &str, state| {
            let Fact::Call(mut call) = call("c", state) else { panic!("a call") };
            call.user_data = UserData::new([("k".into(), text.repeat(60_000))]).unwrap();
            Fact::Call(call)
        };
        for _ in 0..500 {
            log.publish(with("a", LegState::Established));
            log.publish(with("a", LegState::Held));
        }
        let latest = log.latest();
        assert_eq!((latest.history.len(), latest.floor), (1000, 0));
        drop(latest);
        for _ in 0..500 {
            log.publish(with("a", LegState::Established));
            log.publish(with("b", LegState::Established));
        }
        let latest = log.latest();
        assert!(latest.user_data_bytes <= MOST_USER_DATA && latest.history.len() < 200);
        assert_eq!(latest.user_data.values().sum::<usize>(), latest.user_data_bytes);
        drop(latest);
        let mut lagging = log.resume(log.instance(), 1);
        assert_eq!(lagging.try_next().unwrap().fact, Fact::SnapshotBegin);
    }

    #[test]
    fn a_watch_begins_with_a_snapshot_and_goes_on_with_changes() {
        let log = FactLog::new();
        log.publish(device("a", false));
        log.publish(device("b", false));
        log.publish(device("a", true));
        let mut watcher = log.watch();
        assert_eq!(
            drain(&mut watcher),
            [
                (0, Fact::SnapshotBegin),
                (0, device("a", true)),
                (0, device("b", false)),
                (3, Fact::SnapshotComplete)
            ]
        );
        log.publish(device("b", true));
        assert_eq!(drain(&mut watcher), [(4, device("b", true))]);
        assert_eq!(watcher.revision(), 4);
    }

    #[test]
    fn a_watch_resumes_after_a_revision_of_the_same_instance_only() {
        let log = FactLog::new();
        for on in [false, true, false] {
            log.publish(device("a", on));
        }
        let mut resumed = log.resume(log.instance(), 2);
        assert!(resumed.resumes());
        assert_eq!(drain(&mut resumed), [(3, device("a", false))]);
        for mut fresh in
            [log.resume("another", 2), log.resume(log.instance(), 0), log.resume(log.instance(), 4)]
        {
            assert!(!fresh.resumes());
            assert_eq!(drain(&mut fresh)[0], (0, Fact::SnapshotBegin));
        }
    }

    #[test]
    fn a_watcher_that_lags_behind_the_history_gets_a_fresh_snapshot() {
        let log = FactLog::with_history(2);
        let mut watcher = log.watch();
        drain(&mut watcher);
        for on in [false, true, false] {
            log.publish(device("a", on));
        }
        assert_eq!(
            drain(&mut watcher),
            [(0, Fact::SnapshotBegin), (0, device("a", false)), (3, Fact::SnapshotComplete)]
        );
    }

    #[test]
    fn how_a_calls_sound_fares_is_told_and_takes_no_room_in_the_history() {
        let log = FactLog::with_history(3);
        let measured = |packets_sent| {
            let Fact::Call(mut call) = call("c", LegState::Established) else { panic!("a call") };
            call.parties[0].quality = Some(Quality { packets_sent, ..Quality::default() });
            Fact::Call(call)
        };
        log.publish(device("a", false));
        log.publish(call("c", LegState::Established));
        let mut watcher = log.resume(log.instance(), 1);
        for packets in 1..100 {
            log.publish(measured(packets));
        }
        assert_eq!(
            drain(&mut watcher),
            [(2, call("c", LegState::Established)), (101, measured(99))]
        );
        log.publish(measured(100));
        assert_eq!(drain(&mut watcher), [(102, measured(100))]);
        log.publish(call("c", LegState::Held));
        assert_eq!(
            drain(&mut log.resume(log.instance(), 1)),
            [(2, call("c", LegState::Established)), (103, call("c", LegState::Held))]
        );
    }

    #[test]
    fn a_call_that_is_over_is_reported_once_and_is_in_no_snapshot() {
        let log = FactLog::new();
        let mut watcher = log.watch();
        drain(&mut watcher);
        log.publish(call("c", LegState::Established));
        log.publish(call("c", LegState::Released));
        assert_eq!(
            drain(&mut watcher),
            [(1, call("c", LegState::Established)), (2, call("c", LegState::Released))]
        );
        assert_eq!(log.entities(), []);
    }

    #[test]
    fn what_a_new_snapshot_does_not_repeat_is_gone_for_watchers_too() {
        let log = FactLog::new();
        log.publish(device("a", false));
        log.publish(call("c", LegState::Established));
        let mut watcher = log.watch();
        drain(&mut watcher);
        for fact in [Fact::Lost, Fact::SnapshotBegin, device("a", false), Fact::SnapshotComplete] {
            log.publish(fact);
        }
        assert_eq!(
            drain(&mut watcher),
            [(0, Fact::SnapshotBegin), (0, device("a", false)), (4, Fact::SnapshotComplete)]
        );
    }

    #[test]
    fn a_question_that_waits_for_its_answer_is_repeated_to_a_new_watcher() {
        let log = FactLog::new();
        let monitor = |state| {
            Fact::Monitor(MonitorFact {
                supervisor: "s".into(),
                target: "t".into(),
                activity: crate::model::Activity::Coach,
                mode: crate::model::Mode::AllCalls,
                scope: crate::model::Scope::Call,
                confirm_joins: true,
                agent_side_only: false,
                state,
            })
        };
        let asked = Fact::AdmissionAsked(AdmissionAsked {
            supervisor: "s".into(),
            target: "t".into(),
            call: "c".into(),
            activity: crate::model::Activity::Coach,
        });
        log.publish(monitor(MonitorState::Admitting { call: "c".into() }));
        log.publish(asked.clone());
        assert!(drain(&mut log.watch()).contains(&(0, asked.clone())));
        log.publish(monitor(MonitorState::Armed));
        assert!(!drain(&mut log.watch()).contains(&(0, asked)));
    }

    #[tokio::test]
    async fn a_waiting_watcher_is_woken() {
        let log = FactLog::new();
        let mut watcher = log.watch();
        drain(&mut watcher);
        let (revised, _) = tokio::join!(watcher.next(), async { log.publish(device("a", true)) });
        assert_eq!(revised.revision, 1);
    }

    fn drain(watcher: &mut Watcher) -> Vec<(u64, Fact)> {
        std::iter::from_fn(|| watcher.try_next())
            .map(|revised| (revised.revision, revised.fact))
            .collect()
    }

    fn device(id: &str, registered: bool) -> Fact {
        Fact::Device(DeviceFact {
            id: id.into(),
            number: Number::from("5001"),
            kind: crate::model::DeviceKind::Phone,
            registered,
            do_not_disturb: false,
            forward_to: None,
        })
    }

    fn call(id: &str, state: LegState) -> Fact {
        Fact::Call(CallFact {
            id: id.into(),
            conn_id: "0123456789abcdef".into(),
            call_type: CallType::Inbound,
            ani: "7001".into(),
            dnis: "5001".into(),
            started_at: Timestamp(0),
            parent: None,
            owner: None,
            user_data: Default::default(),
            parties: vec![PartyFact {
                device: None,
                number: "7001".into(),
                role: PartyRole::Customer,
                state,
                muted: false,
                muted_by_supervisor: false,
                held_at_phone: false,
                activity: None,
                monitors: None,
                established_at: None,
                quality: None,
                handed_on_to: None,
            }],
        })
    }
}
