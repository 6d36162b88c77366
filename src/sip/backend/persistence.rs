//! What must survive a restart, written by a thread of its own.

use crate::model::{DeviceId, MonitorFact, MonitorState, Number, Refusal, Timestamp};
use crate::sip::b2bua::{CommandId, Persist, RestoredCalls, RestoredDevice};
use crate::sip::registrar::KeptBinding;
use crate::store::records::{VERSION, entries, is_readable};
use crate::store::writer::{StateChange, StateFile, Writer, Written};
use crate::store::{self, Store, StoreError, Write};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::VecDeque;
use std::net::SocketAddr;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const MONITORS: &str = "sip.monitors";
const DEVICES: &str = "sip.devices";
const BINDINGS: &str = "sip.bindings";

/// Where the phones of each device were.
type Bindings = Vec<(DeviceId, Vec<KeptBinding>)>;

/// The loop's end of the writing thread.
pub(super) struct BackendWriter {
    writer: Writer<StateFile>,
    thread: JoinHandle<()>,
    changes: Vec<Write>,
    /// Something was written since the last answer that may not be safe yet.
    unsafe_yet: bool,
    /// In the order in which they were handed over.
    ahead: VecDeque<AheadChange>,
    /// What has just been stored ahead: its command is executed now, and says it again.
    just_stored: Option<Write>,
}

/// A change that a command waits for.
struct AheadChange {
    command: CommandId,
    /// `None`: its entry has changed again since.
    change: Option<Write>,
    outcome: oneshot::Receiver<Written>,
}

/// Reads what was kept and starts the thread.
pub(super) async fn start(
    store: Store,
) -> Result<(RestoredCalls, Bindings, BackendWriter), StoreError> {
    let reading = move || {
        let store = store::lasting(store)?;
        read(&store).map(|kept| (kept, store))
    };
    let ((kept, bindings), store) = tokio::task::spawn_blocking(reading)
        .await
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let (writer, thread) = Writer::new(0);
    let state = StateFile::new(store, "monitors and device settings");
    let writer = BackendWriter {
        writer,
        thread: tokio::task::spawn_blocking(move || thread.run(state)),
        changes: Vec::new(),
        unsafe_yet: false,
        ahead: VecDeque::new(),
        just_stored: None,
    };
    Ok((kept, bindings, writer))
}

impl BackendWriter {
    pub(super) fn keep(&mut self, keep: Persist) {
        let change = change(keep);
        if self.just_stored.as_ref() != Some(&change) {
            self.note(&change);
            self.changes.push(change);
        }
    }

    /// Where the phones of a device are.
    pub(super) fn keep_bindings(&mut self, device: &DeviceId, bindings: &[KeptBinding]) {
        let known: Vec<BindingRecord> = bindings.iter().filter_map(BindingRecord::of).collect();
        self.changes.push(match known.is_empty() {
            true => Write::remove(BINDINGS, device.as_str()),
            false => Write::put(BINDINGS, device.as_str(), json!(known).to_string()),
        });
    }

    /// Hands over what one step has changed.
    pub(super) fn submit(&mut self) {
        self.just_stored = None;
        if !self.changes.is_empty() {
            self.unsafe_yet = true;
            let changes = StateChange::behind(std::mem::take(&mut self.changes));
            // Of a thread that is gone, the next command that has to be stored is told.
            let _ = self.writer.write(changes, drop);
        }
    }

    /// Writes the change that a command waits for; its outcome comes back by [`Self::stored`].
    pub(super) fn persist(&mut self, command: CommandId, persist: Persist) {
        self.submit();
        let change = change(persist);
        self.note(&change);
        let (tell, outcome) = oneshot::channel();
        let handed_over = self.writer.write(StateChange::ahead(change.clone()), |written| {
            let _ = tell.send(written);
        });
        // What is not taken has no outcome.
        drop(handed_over);
        self.ahead.push_back(AheadChange { command, change: Some(change), outcome });
    }

    /// An entry changes: what was handed over for it before is not what it will be.
    fn note(&mut self, change: &Write) {
        let is_same = |before: &Write| before.table == change.table && before.key == change.key;
        self.just_stored.take_if(|before| is_same(before));
        for ahead in &mut self.ahead {
            ahead.change.take_if(|before| is_same(before));
        }
    }

    /// The command of a change handed to [`Self::persist`], and whether the change is safe. May be
    /// dropped at any time without losing one.
    pub(super) async fn stored(&mut self) -> (CommandId, bool) {
        let Some(AheadChange { command, change, outcome }) = self.ahead.front_mut() else {
            return std::future::pending().await;
        };
        let written = outcome.await.unwrap_or_else(|_| {
            tracing::error!("the thread that writes the state has ended: nothing is stored");
            Written::Lost
        });
        let (command, is_stored) = (*command, written == Written::Stored);
        self.just_stored = change.take().filter(|_| is_stored);
        self.ahead.pop_front();
        (command, is_stored)
    }

    /// Answers a command; not before everything it changed has been written, or remembered for when
    /// the disk takes it.
    pub(super) fn answer(
        &mut self,
        done: Result<(), Refusal>,
        reply: oneshot::Sender<Result<(), Refusal>>,
    ) {
        self.submit();
        let answer = || drop(reply.send(done));
        if std::mem::take(&mut self.unsafe_yet) {
            let _ = self.writer.write(StateChange::behind(Vec::new()), move |_| answer());
        } else {
            answer();
        }
    }

    /// Returns when everything is safe.
    pub(super) async fn finish(mut self) {
        self.submit();
        drop(self.writer);
        let _ = self.thread.await;
    }
}

fn change(keep: Persist) -> Write {
    match keep {
        Persist::Monitor(monitor) => {
            let record = json!(MonitorRecord::of(&monitor));
            Write::put(MONITORS, monitor.supervisor.as_str(), record.to_string())
        }
        Persist::NoMonitor { supervisor } => Write::remove(MONITORS, supervisor.as_str()),
        Persist::Device(device) if !device.do_not_disturb && device.forward_to.is_none() => {
            Write::remove(DEVICES, device.device.as_str())
        }
        Persist::Device(device) => {
            let record = json!(DeviceRecord::of(&device));
            Write::put(DEVICES, device.device.as_str(), record.to_string())
        }
    }
}

/// A monitor, by the supervisor's device.
#[derive(Serialize, Deserialize)]
struct MonitorRecord {
    /// Absent in what was written before there were versions.
    #[serde(default)]
    version: u32,
    target: String,
    activity: String,
    mode: String,
    scope: String,
    confirm_joins: bool,
    #[serde(default)]
    agent_side_only: bool,
}

impl MonitorRecord {
    fn of(monitor: &MonitorFact) -> Self {
        Self {
            version: VERSION,
            target: monitor.target.to_string(),
            activity: monitor.activity.as_str().to_owned(),
            mode: monitor.mode.as_str().to_owned(),
            scope: monitor.scope.as_str().to_owned(),
            confirm_joins: monitor.confirm_joins,
            agent_side_only: monitor.agent_side_only,
        }
    }

    fn restore(self, supervisor: &str) -> Option<MonitorFact> {
        is_readable(self.version)?;
        Some(MonitorFact {
            supervisor: supervisor.into(),
            target: self.target.into(),
            activity: self.activity.parse().ok()?,
            mode: self.mode.parse().ok()?,
            scope: self.scope.parse().ok()?,
            confirm_joins: self.confirm_joins,
            agent_side_only: self.agent_side_only,
            state: MonitorState::Armed,
        })
    }
}

/// What is set on a device, by the device.
#[derive(Serialize, Deserialize)]
struct DeviceRecord {
    #[serde(default)]
    version: u32,
    do_not_disturb: bool,
    forward_to: Option<String>,
}

impl DeviceRecord {
    fn of(device: &RestoredDevice) -> Self {
        Self {
            version: VERSION,
            do_not_disturb: device.do_not_disturb,
            forward_to: device.forward_to.as_ref().map(|number| number.as_str().to_owned()),
        }
    }

    fn restore(self, device: &str) -> Option<RestoredDevice> {
        is_readable(self.version)?;
        Some(RestoredDevice {
            device: device.into(),
            do_not_disturb: self.do_not_disturb,
            forward_to: self.forward_to.map(Number::from),
        })
    }
}

/// Where one phone of a device was; a device has a list of these.
#[derive(Serialize, Deserialize)]
struct BindingRecord {
    #[serde(default)]
    version: u32,
    contact: String,
    local: SocketAddr,
    peer: SocketAddr,
    /// What an older version has written is called at its peer's address.
    target: Option<SocketAddr>,
    /// Milliseconds since 1970.
    expires_at: u64,
    call_id: String,
    cseq: u32,
}

impl BindingRecord {
    /// `None` when it is no text: then the phone is reached when it registers again.
    fn of(binding: &KeptBinding) -> Option<Self> {
        Some(Self {
            version: VERSION,
            contact: std::str::from_utf8(&binding.contact).ok()?.to_owned(),
            local: binding.local,
            peer: binding.peer,
            target: Some(binding.target),
            expires_at: binding.expires_at.0,
            call_id: std::str::from_utf8(&binding.call_id).ok()?.to_owned(),
            cseq: binding.cseq,
        })
    }

    fn restore(self) -> Option<KeptBinding> {
        is_readable(self.version)?;
        Some(KeptBinding {
            contact: self.contact.into_bytes(),
            local: self.local,
            peer: self.peer,
            target: self.target.unwrap_or(self.peer),
            expires_at: Timestamp(self.expires_at),
            call_id: self.call_id.into_bytes(),
            cseq: self.cseq,
        })
    }
}

fn read(store: &Store) -> Result<(RestoredCalls, Bindings), StoreError> {
    let kept = RestoredCalls {
        monitors: entries(&**store, MONITORS, |key, record: MonitorRecord| record.restore(key))?,
        devices: entries(&**store, DEVICES, |key, record: DeviceRecord| record.restore(key))?,
    };
    let bindings = entries(&**store, BINDINGS, |key, records: Vec<BindingRecord>| {
        let bindings = records.into_iter().map(BindingRecord::restore);
        Some((DeviceId::from(key), bindings.collect::<Option<_>>()?))
    })?;
    Ok((kept, bindings))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Activity, Mode, Scope};
    use crate::store;

    #[tokio::test]
    async fn what_was_kept_comes_back_armed_and_what_was_removed_does_not() {
        let store = store::in_memory();
        let kept_monitor = MonitorFact {
            supervisor: "boss".into(),
            target: "agent".into(),
            activity: Activity::Coach,
            mode: Mode::AllCalls,
            scope: Scope::Agent,
            confirm_joins: true,
            agent_side_only: false,
            state: MonitorState::Inviting { call: "c1".into() },
        };
        let kept_device = RestoredDevice {
            device: "agent".into(),
            do_not_disturb: true,
            forward_to: Some("5002".into()),
        };
        let (before, _, mut writer) = start(store.clone()).await.expect("reads");
        assert_eq!(before, RestoredCalls::default());
        writer.keep(Persist::Monitor(kept_monitor.clone()));
        writer.keep(Persist::Device(kept_device.clone()));
        let (reply, answer) = oneshot::channel();
        writer.answer(Ok(()), reply);
        assert_eq!(answer.await, Ok(Ok(())));

        let (after, _, mut writer) = start(store.clone()).await.expect("reads");
        let armed = MonitorFact { state: MonitorState::Armed, ..kept_monitor };
        assert_eq!((after.monitors, after.devices), (vec![armed], vec![kept_device]));
        writer.keep(Persist::NoMonitor { supervisor: "boss".into() });
        writer.keep(Persist::Device(RestoredDevice {
            device: "agent".into(),
            do_not_disturb: false,
            forward_to: None,
        }));
        writer.finish().await;
        assert_eq!(start(store).await.expect("reads").0, RestoredCalls::default());
    }

    #[tokio::test]
    async fn where_phones_were_comes_back_and_what_was_removed_does_not() {
        let store = store::in_memory();
        let binding = KeptBinding {
            contact: b"sip:5001@[2001:db8::7]:5062;ob".to_vec(),
            local: "192.0.2.1:5060".parse().expect("an address"),
            peer: "[2001:db8::7]:49152".parse().expect("an address"),
            target: "[2001:db8::7]:5062".parse().expect("an address"),
            expires_at: Timestamp(1_800_000_000_000),
            call_id: b"c1@phone".to_vec(),
            cseq: u32::MAX,
        };
        let foreign = KeptBinding { contact: b"sip:\xff@192.0.2.9".to_vec(), ..binding.clone() };
        let (_, none, mut writer) = start(store.clone()).await.expect("reads");
        assert!(none.is_empty());
        writer.keep_bindings(&"agent".into(), &[binding.clone(), foreign]);
        writer.finish().await;

        let (_, kept, mut writer) = start(store.clone()).await.expect("reads");
        assert_eq!(kept, [("agent".into(), vec![binding])]);
        writer.keep_bindings(&"agent".into(), &[]);
        writer.finish().await;
        assert!(start(store).await.expect("reads").1.is_empty());
    }

    #[tokio::test]
    async fn an_entry_that_can_not_be_read_is_ignored() {
        let store = store::in_memory();
        store
            .write(&[
                Write::put(MONITORS, "boss", "{"),
                Write::put(DEVICES, "agent", "[1]"),
                Write::put(BINDINGS, "agent", "[{}]"),
            ])
            .expect("writes");
        assert_eq!(start(store).await.expect("starts").0, RestoredCalls::default());
    }

    #[tokio::test]
    async fn what_was_written_before_there_were_versions_is_read_and_a_newer_version_is_left_alone()
    {
        let store = store::in_memory();
        let monitor = concat!(
            r#"{"target":"agent","activity":"Coach","mode":"AllCalls","scope":"Call","#,
            r#""confirm_joins":false}"#,
        );
        let binding = concat!(
            r#"[{"contact":"sip:5001@192.0.2.9","local":"192.0.2.1:5060","peer":"192.0.2.9:5060","#,
            "\n            ",
            r#""expires_at":1800000000000,"call_id":"c1","cseq":7}]"#,
        );
        store
            .write(&[
                Write::put(MONITORS, "boss", monitor),
                Write::put(MONITORS, "boss2", monitor.replace('{', r#"{"version":2,"#)),
                Write::put(DEVICES, "agent", r#"{"do_not_disturb":true,"forward_to":null}"#),
                Write::put(BINDINGS, "agent", binding),
            ])
            .expect("writes");
        let (kept, bindings, _) = start(store).await.expect("reads");
        let supervisors: Vec<&str> =
            kept.monitors.iter().map(|monitor| monitor.supervisor.as_str()).collect();
        assert_eq!((supervisors, kept.devices.len()), (vec!["boss"], 1));
        assert_eq!(bindings[0].1[0].target, bindings[0].1[0].peer);
    }
    #[tokio::test]
    async fn what_is_stored_ahead_is_not_written_again_and_its_answer_waits_for_no_disk() {
        let command = CommandId(1);
        let device = |on| {
            Persist::Device(RestoredDevice {
                device: "agent".into(),
                do_not_disturb: on,
                forward_to: None,
            })
        };
        let (_, _, mut writer) = start(store::in_memory()).await.expect("reads");
        writer.persist(command, device(true));
        assert_eq!(writer.stored().await, (command, true));
        writer.keep(device(true));
        let (reply, mut answer) = oneshot::channel();
        writer.answer(Ok(()), reply);
        assert_eq!(answer.try_recv(), Ok(Ok(())));

        writer.persist(command, device(true));
        writer.keep(device(false));
        writer.submit();
        assert_eq!(writer.stored().await, (command, true));
        writer.keep(device(true));
        assert_eq!(writer.changes.len(), 1, "it was switched off meanwhile");
    }
}
