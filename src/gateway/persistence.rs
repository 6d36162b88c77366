//! What survives a restart of the gateway: presence, and the supervisors that were admitted to a
//! call or are on it.

use super::handle::Reply;
use super::{Directory, ListeningRecord};
use crate::model::{AgentState, Answer, DeviceId, Reason, Refusal, Timestamp, UserId};
use crate::store::{Importance, Store, StoreError, Write};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The table of presence: login name → voice state.
const PRESENCE: &str = "presence";
/// The table of the supervisors that were admitted to a call or are on it: supervisor's device →
/// JSON.
const HEARING: &str = "hearing";

/// The sessions that were open, and their voice states.
pub(super) fn kept_sessions(
    directory: &Directory,
    store: &Store,
) -> Result<BTreeMap<UserId, AgentState>, StoreError> {
    let kept = store.load(PRESENCE)?;
    Ok(kept
        .into_iter()
        .filter_map(|(user, state)| {
            Some((UserId::from(user), std::str::from_utf8(&state).ok()?.parse().ok()?))
        })
        .filter(|(user, _)| directory.users.contains_key(user))
        .collect())
}

/// The admissions and joins that have no last line in the audit.
pub(super) fn kept_listening(store: &Store) -> Result<Vec<ListeningRecord>, StoreError> {
    let kept = store.load(HEARING)?;
    let read = |supervisor: &str, bytes: &[u8]| {
        let value: Value = serde_json::from_slice(bytes).ok()?;
        let word = |name: &str| value.get(name)?.as_str();
        Some(ListeningRecord {
            supervisor: supervisor.into(),
            target: word("target")?.into(),
            call: word("call")?.into(),
            activity: word("activity")?.parse().ok()?,
            since: value.get("since").and_then(Value::as_u64).map(Timestamp),
        })
    };
    let entries = kept.iter().filter_map(|(supervisor, bytes)| {
        let found = read(supervisor, bytes);
        if found.is_none() {
            tracing::warn!(
                supervisor,
                "what was kept of somebody who heard a call can not be read and is ignored"
            );
        }
        found
    });
    Ok(entries.collect())
}

/// The change that a user's presence makes.
pub(super) fn presence_change(user: &UserId, presence: Option<AgentState>) -> Write {
    match presence {
        Some(state) => Write::put(PRESENCE, user.as_str(), state.as_str()),
        None => Write::remove(PRESENCE, user.as_str()),
    }
}

/// The change that a supervisor's admission, join or release makes.
pub(super) fn listening_change(supervisor: &DeviceId, hearing: Option<&ListeningRecord>) -> Write {
    let Some(hearing) = hearing else {
        return Write::remove(HEARING, supervisor.as_str());
    };
    let value = json!({
        "target": hearing.target.as_str(),
        "call": hearing.call.as_str(),
        "activity": hearing.activity.as_str(),
        "since": hearing.since.map(|since| since.0),
    });
    Write::put(HEARING, supervisor.as_str(), value.to_string())
}

/// Writes presence and listening records on a thread of its own; answers that depend on it go out
/// when it is durable, or remembered for when the disk takes it.
pub(super) struct StateWriter {
    jobs: std::sync::mpsc::Sender<KeepJob>,
}

struct KeepJob {
    changes: Vec<Write>,
    answers: Vec<(Reply, Result<Answer, Refusal>)>,
}

impl StateWriter {
    pub(super) fn start(store: Store) -> Self {
        let (jobs, waiting) = std::sync::mpsc::channel::<KeepJob>();
        tokio::task::spawn_blocking(move || {
            while let Ok(first) = waiting.recv() {
                let mut batch = first;
                for job in waiting.try_iter() {
                    batch.changes.extend(job.changes);
                    batch.answers.extend(job.answers);
                }
                if let Err(error) = store.write_behind(&batch.changes, Importance::State) {
                    tracing::error!(
                        %error,
                        "presence, or who hears a call, cannot be kept: a restart will forget it"
                    );
                    let accepted = batch.answers.iter_mut().filter(|(_, answer)| answer.is_ok());
                    accepted.for_each(|(_, answer)| {
                        *answer = Err(Refusal::new(Reason::Internal, "The state can not be kept."))
                    });
                }
                send(batch.answers);
            }
        });
        Self { jobs }
    }

    pub(super) fn keep(&self, changes: Vec<Write>, answers: Vec<(Reply, Result<Answer, Refusal>)>) {
        if changes.is_empty() {
            return send(answers);
        }
        if let Err(std::sync::mpsc::SendError(job)) = self.jobs.send(KeepJob { changes, answers }) {
            send(job.answers);
        }
    }
}

fn send(answers: Vec<(Reply, Result<Answer, Refusal>)>) {
    for (reply, result) in answers {
        // The caller may have gone away.
        let _ = reply.send(result);
    }
}
