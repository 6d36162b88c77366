//! What survives a restart of the gateway: presence, whose each monitor is, and the supervisors that
//! were admitted to a call or are on it.

use super::handle::Reply;
use super::{Directory, ListeningRecord, MonitoringRecord};
use crate::model::{Answer, DeviceId, Reason, Refusal, Timestamp, UserId, UserState};
use crate::store::records::{VERSION, entries, is_readable};
use crate::store::writer::{StateChange, StateFile, Writer, Written};
use crate::store::{Store, StoreError, Write};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::collections::BTreeMap;

/// The table of presence: login name → voice state and, in a second line, the reason given for it.
const PRESENCE: &str = "presence";
/// The table of the supervisors that were admitted to a call or are on it: supervisor's device →
/// JSON.
const HEARING: &str = "hearing";
/// The table of the monitors: supervisor's device → JSON.
const MONITORING: &str = "monitoring";

/// The sessions that were open, and their voice states.
pub(super) fn kept_sessions(
    directory: &Directory,
    store: &Store,
) -> Result<BTreeMap<UserId, UserState>, StoreError> {
    let kept = store.load(PRESENCE)?;
    Ok(kept
        .into_iter()
        .filter_map(|(user, state)| {
            Some((UserId::from(user), restored(std::str::from_utf8(&state).ok()?)?))
        })
        .filter(|(user, _)| directory.users.contains_key(user))
        .collect())
}

fn restored(kept: &str) -> Option<UserState> {
    let (state, reason) = kept.split_once('\n').map_or((kept, None), |(s, r)| (s, Some(r)));
    Some(UserState {
        state: state.parse().ok()?,
        reason: reason.and_then(|text| text.parse().ok()),
    })
}

/// The monitors, by supervisor's device.
pub(super) fn kept_monitoring(
    store: &Store,
) -> Result<BTreeMap<DeviceId, MonitoringRecord>, StoreError> {
    let kept = entries(&**store, MONITORING, |supervisor, record: KeptMonitoring| {
        is_readable(record.version)?;
        let user = record.user.map(UserId::from);
        let supervisor = DeviceId::from(supervisor);
        Some((supervisor, MonitoringRecord { user, is_ending: record.is_ending }))
    });
    Ok(kept?.into_iter().collect())
}

/// [`MonitoringRecord`] as it is kept.
#[derive(Serialize, Deserialize)]
struct KeptMonitoring {
    version: u32,
    user: Option<String>,
    is_ending: bool,
}

/// The admissions and joins that have no last line in the audit.
pub(super) fn kept_listening(store: &Store) -> Result<Vec<ListeningRecord>, StoreError> {
    entries(&**store, HEARING, |supervisor, record: HearingRecord| record.restore(supervisor))
}

/// A supervisor that was admitted to a call or is on it, by the supervisor's device.
#[derive(Serialize, Deserialize)]
struct HearingRecord {
    #[serde(default)]
    version: u32,
    /// Not in what was written before whose a monitor is was kept.
    user: Option<String>,
    target: String,
    call: String,
    activity: String,
    /// Milliseconds since 1970; none before the supervisor hears.
    since: Option<u64>,
}

impl HearingRecord {
    fn of(hearing: &ListeningRecord) -> Self {
        Self {
            version: VERSION,
            user: hearing.user.as_ref().map(UserId::to_string),
            target: hearing.target.to_string(),
            call: hearing.call.to_string(),
            activity: hearing.activity.as_str().to_owned(),
            since: hearing.since.map(|since| since.0),
        }
    }

    fn restore(self, supervisor: &str) -> Option<ListeningRecord> {
        is_readable(self.version)?;
        Some(ListeningRecord {
            user: self.user.map(UserId::from),
            supervisor: supervisor.into(),
            target: self.target.into(),
            call: self.call.into(),
            activity: self.activity.parse().ok()?,
            since: self.since.map(Timestamp),
        })
    }
}

/// The change that a user's presence makes.
pub(super) fn presence_change(user: &UserId, presence: Option<&UserState>) -> Write {
    match presence {
        Some(UserState { state, reason: None }) => {
            Write::put(PRESENCE, user.as_str(), state.as_str())
        }
        Some(UserState { state, reason: Some(reason) }) => {
            Write::put(PRESENCE, user.as_str(), format!("{state}\n{}", reason.as_str()))
        }
        None => Write::remove(PRESENCE, user.as_str()),
    }
}

/// The change that a monitor makes that has begun, must end, or is over.
pub(super) fn monitoring_change(
    supervisor: &DeviceId,
    monitoring: Option<&MonitoringRecord>,
) -> Write {
    let Some(MonitoringRecord { user, is_ending }) = monitoring else {
        return Write::remove(MONITORING, supervisor.as_str());
    };
    let user = user.as_ref().map(UserId::to_string);
    let record = json!(KeptMonitoring { version: VERSION, user, is_ending: *is_ending });
    Write::put(MONITORING, supervisor.as_str(), record.to_string())
}

/// The change that a supervisor's admission, join or release makes.
pub(super) fn listening_change(supervisor: &DeviceId, hearing: Option<&ListeningRecord>) -> Write {
    let Some(hearing) = hearing else {
        return Write::remove(HEARING, supervisor.as_str());
    };
    let record = json!(HearingRecord::of(hearing));
    Write::put(HEARING, supervisor.as_str(), record.to_string())
}

type Answers = Vec<(Reply, Result<Answer, Refusal>)>;

/// Writes presence and listening records on a thread of its own; answers that depend on it go out
/// when it is durable, or remembered for when the disk takes it.
pub(super) struct StateWriter(Writer<StateFile>);

impl StateWriter {
    pub(super) fn start(store: Store) -> Self {
        let (writer, thread) = Writer::new(0);
        let state = StateFile::new(store, "presence, or who hears a call,");
        tokio::task::spawn_blocking(move || thread.run(state));
        Self(writer)
    }

    pub(super) fn keep(&self, changes: Vec<Write>, answers: Answers) {
        if changes.is_empty() {
            return send(answers);
        }
        let written = self.0.write(StateChange::behind(changes), |written| {
            send(match written {
                Written::Stored | Written::Waits => answers,
                Written::Lost => answers.into_iter().map(refused).collect(),
            })
        });
        if let Err(not_taken) = written {
            (not_taken.done)(Written::Waits);
        }
    }
}

/// What was accepted is refused, for it can not be kept.
fn refused((reply, answer): (Reply, Result<Answer, Refusal>)) -> (Reply, Result<Answer, Refusal>) {
    let lost = |_| Err(Refusal::new(Reason::Internal, "The state can not be kept."));
    (reply, answer.and_then(lost))
}

fn send(answers: Answers) {
    for (reply, result) in answers {
        // The caller may have gone away.
        let _ = reply.send(result);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Activity, AgentState};
    use crate::store;

    #[test]
    fn what_was_written_before_there_were_versions_is_read_and_a_newer_version_is_left_alone() {
        let store = store::in_memory();
        let kept = ListeningRecord {
            user: Some("meg".into()),
            supervisor: "boss".into(),
            target: "agent".into(),
            call: "c1".into(),
            activity: Activity::Coach,
            since: Some(Timestamp(1_800_000_000_000)),
        };
        let before = r#"{"target":"agent","call":"c1","activity":"Coach","since":null}"#;
        store
            .write(&[
                listening_change(&"boss".into(), Some(&kept)),
                Write::put(HEARING, "boss2", before),
                Write::put(HEARING, "boss3", before.replace('{', r#"{"version":2,"#)),
                Write::put(HEARING, "boss4", "{"),
            ])
            .expect("writes");
        let older =
            ListeningRecord { user: None, supervisor: "boss2".into(), since: None, ..kept.clone() };
        assert_eq!(kept_listening(&store).expect("reads"), [kept, older]);
    }

    #[test]
    fn whose_a_monitor_is_and_that_it_must_end_is_kept() {
        let store = store::in_memory();
        let (its, nobodys) = (
            MonitoringRecord { user: Some("meg".into()), is_ending: false },
            MonitoringRecord { user: None, is_ending: true },
        );
        store
            .write(&[
                monitoring_change(&"boss".into(), Some(&its)),
                monitoring_change(&"spare".into(), Some(&nobodys)),
                monitoring_change(&"gone".into(), Some(&its)),
                monitoring_change(&"gone".into(), None),
            ])
            .expect("writes");
        let kept = BTreeMap::from([("boss".into(), its), ("spare".into(), nobodys)]);
        assert_eq!(kept_monitoring(&store).expect("reads"), kept);
    }

    #[test]
    fn a_voice_state_is_kept_with_its_reason_and_one_of_before_there_were_reasons_is_read() {
        let lunch = UserState {
            state: AgentState::AuxWork,
            reason: Some("Lunch, until 1".parse().expect("a reason")),
        };
        for state in [lunch, AgentState::NotReady.into()] {
            let store = store::in_memory();
            store.write(&[presence_change(&"bob".into(), Some(&state))]).expect("writes");
            let kept = store.load(PRESENCE).expect("reads");
            let text = std::str::from_utf8(&kept["bob"]).expect("text");
            assert_eq!(restored(text), Some(state), "{text}");
        }
        assert_eq!(restored("Ready"), Some(AgentState::Ready.into()));
        assert_eq!(restored("Dancing"), None);
    }
}
