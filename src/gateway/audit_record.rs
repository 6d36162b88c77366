use crate::model::{
    Activity, CallId, CallerName, DeviceId, LegSound, Mode, Number, Operation, Refusal, RequestId,
    Scope, Timestamp, UserId,
};
use std::net::IpAddr;
use std::time::Duration;

/// One line of the audit: the user, the target, the call, the time, the address, the refusal, and
/// how long a call was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditRecord {
    /// The time of the event.
    pub at: Timestamp,
    /// The event that it records.
    pub event: AuditEvent,
    /// The user; absent when the device has none.
    pub user: Option<UserId>,
    /// The service that asked on behalf of the user.
    pub caller: Option<CallerName>,
    /// The address the request came from.
    pub from: Option<IpAddr>,
    /// The id of the request.
    pub request_id: Option<RequestId>,
    /// The operation asked for, in the field's words.
    pub operation: Option<Operation>,
    /// The user's device.
    pub device: Option<DeviceId>,
    /// The monitored device.
    pub target: Option<DeviceId>,
    /// The number named instead of, or beside, a device.
    pub number: Option<Number>,
    /// The call that is monitored.
    pub call: Option<CallId>,
    /// The activity there, or the one asked for.
    pub activity: Option<Activity>,
    /// The mode asked for.
    pub mode: Option<Mode>,
    /// The scope asked for.
    pub scope: Option<Scope>,
    /// The reason of a refusal.
    pub refusal: Option<Refusal>,
    /// How long the supervisor has heard the call.
    pub heard: Option<Duration>,
    /// Of refused attempts that were not written down: how many.
    pub left_out: Option<u64>,
    /// What the sound of a join was.
    pub sound: Vec<LegSound>,
    /// The beginning of what the line is about.
    pub since: Option<Timestamp>,
}

/// What an audit line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuditEvent {
    /// A request was permitted and goes to the backend when this line is on disk.
    Allowed,
    /// A request was refused.
    Refused,
    /// The supervisor may join this call, once this line is on disk.
    Admitted,
    /// The supervisor may not join this call.
    NotAdmitted,
    /// The supervisor was admitted and did not come on the call: busy, silent, unwilling, or the
    /// call was over first.
    NotJoined,
    /// The supervisor is on the call.
    Joined,
    /// The supervisor was on the call when the gateway came to know of it.
    FoundJoined,
    /// The activity, the scope or the mode has changed.
    Changed,
    /// The monitored leg did not end but was handed on to another number, by the phone or the
    /// switch it is at. What becomes of the supervisor is in the lines that follow.
    HandedOn,
    /// The supervisor has left the call.
    Released,
    /// The supervisor was on the call before the gateway or its backend was away, and is not any
    /// more: since when is not known.
    Lost,
    /// What the sound of a join was, after its end.
    Sound,
    /// The activity on the call has failed: sound was kept from somebody it was not for.
    Failed,
    /// The gateway ended the monitor: a log-out, or a permission that is gone.
    Cancelled,
    /// Users, devices or groups are other ones from now on.
    DirectoryChanged,
    /// Attempts were refused that were too many to be written down one by one.
    LeftOut,
}

/// A supervisor that may hear a call or hears it. Kept, so that every admission and every join gets
/// its last line, also after kill −9.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListeningRecord {
    /// The user that monitors; `None`: a service does, with a device that is nobody's.
    pub user: Option<UserId>,
    /// The supervisor's device.
    pub supervisor: DeviceId,
    /// The monitored device.
    pub target: DeviceId,
    /// The call that is monitored.
    pub call: CallId,
    /// The activity there.
    pub activity: Activity,
    /// When the supervisor joined; `None`: admitted and not there yet.
    pub since: Option<Timestamp>,
}

/// A monitor that the gateway answers for, beyond the end of its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitoringRecord {
    /// The user that monitors; `None`: a service does, with a device that is nobody's.
    pub user: Option<UserId>,
    /// It must end: it is asked to until it is gone.
    pub is_ending: bool,
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
            AuditEvent::DirectoryChanged => "directory_changed",
            AuditEvent::HandedOn => "handed_on",
            AuditEvent::Released => "released",
            AuditEvent::Lost => "lost",
            AuditEvent::Sound => "sound",
            AuditEvent::Failed => "failed",
            AuditEvent::Cancelled => "cancelled",
            AuditEvent::LeftOut => "left_out",
        }
    }
}

impl AuditRecord {
    pub(super) fn new(event: AuditEvent, at: Timestamp) -> Self {
        Self {
            at,
            event,
            user: None,
            caller: None,
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
            left_out: None,
            sound: Vec::new(),
            since: None,
        }
    }
}
