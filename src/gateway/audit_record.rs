use crate::model::{Activity, CallId, DeviceId, Mode, Number, Operation, Refusal, RequestId, Scope, Timestamp, UserId};
use std::net::IpAddr;
use std::time::Duration;

/// One line of the audit: who, whom, which call, when, from where, why refused, how long heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub event: AuditEvent,
    /// Who; absent when the device is nobody's.
    pub user: Option<UserId>,
    /// From where he asked.
    pub from: Option<IpAddr>,
    /// His request.
    pub request_id: Option<RequestId>,
    /// The operation asked for, in the field's words.
    pub operation: Option<Operation>,
    /// His device.
    pub device: Option<DeviceId>,
    /// Whom.
    pub target: Option<DeviceId>,
    /// The number he named instead of, or beside, a device.
    pub number: Option<Number>,
    /// Which call.
    pub call: Option<CallId>,
    /// What he does there, or asked to do.
    pub activity: Option<Activity>,
    /// For how long he asked.
    pub mode: Option<Mode>,
    /// What he asked to follow.
    pub scope: Option<Scope>,
    /// Why refused.
    pub refusal: Option<Refusal>,
    /// How long he has heard the call.
    pub heard: Option<Duration>,
}

/// What an audit line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditEvent {
    /// A request was permitted and goes to the backend when this line is on disk.
    Allowed,
    /// A request was refused.
    Refused,
    /// He may join this call, once this line is on disk.
    Admitted,
    /// He may not join this call.
    NotAdmitted,
    /// He was admitted and did not come on the call: busy, silent, unwilling, or the call was over first.
    NotJoined,
    /// He is on the call.
    Joined,
    /// He was on the call when the gateway came to know of it.
    FoundJoined,
    /// What he does on the call, or follows, or for how long, has changed.
    Changed,
    /// The monitored leg did not end but was handed on to another number, by the phone or the switch it is at. What becomes of the supervisor
    /// is in the lines that follow.
    HandedOn,
    /// He has left the call.
    Released,
    /// He was on the call before the gateway or its backend was away, and is not any more: when he left is not known.
    Lost,
    /// What he does on the call has failed: sound was kept from somebody it was not for.
    Failed,
    /// The gateway ended his monitor: a log-out, or a permission that is gone.
    Cancelled,
}

/// Somebody who may hear a call or hears it. Kept, so that every admission and every join gets its last line, also after kill −9.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListeningRecord {
    /// His device.
    pub supervisor: DeviceId,
    /// Whom he monitors.
    pub target: DeviceId,
    /// Which call.
    pub call: CallId,
    /// What he does there.
    pub activity: Activity,
    /// Since when he is on the call; `None`: he was admitted and is not there yet.
    pub since: Option<Timestamp>,
}

impl AuditEvent {
    /// The word in the audit file.
    pub fn as_str(self) -> &'static str {
        match self {
            AuditEvent::Allowed => "allowed",
            AuditEvent::Refused => "refused",
            AuditEvent::Admitted => "admitted",
            AuditEvent::NotAdmitted => "not_admitted",
            AuditEvent::NotJoined => "not_joined",
            AuditEvent::Joined => "joined",
            AuditEvent::FoundJoined => "found_joined",
            AuditEvent::Changed => "changed",
            AuditEvent::HandedOn => "handed_on",
            AuditEvent::Released => "released",
            AuditEvent::Lost => "lost",
            AuditEvent::Failed => "failed",
            AuditEvent::Cancelled => "cancelled",
        }
    }
}

impl AuditRecord {
    pub(super) fn new(event: AuditEvent, at: Timestamp) -> Self {
        Self {
            at,
            event,
            user: None,
            from: None,
            request_id: None,
            operation: None,
            device: None,
            target: None,
            number: None,
            call: None,
            activity: None,
            mode: None,
            scope: None,
            refusal: None,
            heard: None,
        }
    }
}
