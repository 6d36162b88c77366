use super::activity::string_enum;
use super::{
    Activity, CallId, CallType, DeviceId, Feature, LegState, Mode, Number, Operation, Quality,
    Refusal, Role, Scope, Timestamp, UnknownWord, UserData, UserId, UserState,
};
use std::fmt;
use std::str::FromStr;

/// What the gateway tells one user's clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The user; all of the user's sessions receive it.
    pub user: UserId,
    /// The channel it is told on.
    pub topic: Topic,
    /// What is told.
    pub body: NoticeBody,
}

/// A state channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// `/v2/me`
    Me,
    /// `/v2/me/devices`
    Devices,
    /// `/v2/me/calls`
    Calls,
    /// `/v2/me/channels`
    Channels,
    /// `/notifications/services`
    Services,
}

/// What a notice says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoticeBody {
    /// `DeviceStateChangeMessage`: the whole devices.
    DeviceStateChange(Vec<DeviceView>),
    /// `CallStateChangeMessage`: the user's whole leg.
    CallStateChange {
        /// What changed.
        notification: CallNotification,
        /// The leg.
        call: CallView,
    },
    /// `UserStateChangeMessage` on `/v2/me` and `/v2/me/channels`.
    UserStateChange(UserView),
    /// `ServiceStateChangeMessage`: the voice service works, or the telephony backend cannot be
    /// reached.
    ServiceStateChange {
        /// It works.
        is_active: bool,
    },
    /// `ErrorMessage`: something accepted has failed.
    Error {
        /// The device it concerns.
        device: DeviceId,
        /// Why.
        refusal: Refusal,
    },
}

string_enum! {
    /// `notificationType` of a `CallStateChangeMessage`.
    CallNotification {
        /// The leg's state changed.
        StatusChange,
        /// Somebody joined or left.
        ParticipantsUpdated,
        /// A supervisor muted or unmuted the agent.
        MonitoredUserMutedStateChange,
        /// User data changed.
        AttachedDataChanged,
        /// Digits were sent.
        DtmfSent,
    } "StatusChange, ParticipantsUpdated, MonitoredUserMutedStateChange, AttachedDataChanged, \
       DtmfSent"
}

/// A user, as shown to that user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserView {
    /// Login name.
    pub id: UserId,
    /// Name for people.
    pub display_name: String,
    /// First name.
    pub first_name: String,
    /// Last name; may be empty.
    pub last_name: String,
    /// E-mail address; may be empty.
    pub email: String,
    /// `contactCenterId`
    pub contact_center: String,
    /// The user's roles.
    pub roles: Vec<Role>,
    /// What the user's contract contains.
    pub features: Vec<Feature>,
    /// A contact-centre session is open.
    pub session: bool,
    /// The voice state; `None` while no session is open.
    pub state: Option<UserState>,
    /// The user's devices.
    pub devices: Vec<DeviceId>,
    /// The user's calls.
    pub calls: Vec<CallId>,
}

/// A device as its user sees it (GWS v2 device).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceView {
    /// Its id.
    pub id: DeviceId,
    /// Its number.
    pub number: Number,
    /// `deviceState` is Active or Inactive.
    pub active: bool,
    /// `userState`; absent on an inactive device.
    pub user_state: Option<UserState>,
    /// Do-not-disturb.
    pub do_not_disturb: bool,
    /// `forwardTo`.
    pub forward_to: Option<Number>,
    /// Path id of its voice environment.
    pub voice_environment: String,
    /// The operations that its user may ask for now.
    pub capabilities: Vec<Operation>,
    /// `supervisorMonitoringState`: activity, mode, scope, target.
    pub monitoring: Option<(Activity, Mode, Scope, DeviceId)>,
}

/// One participant of a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParticipantView {
    /// The participant's number.
    pub number: Number,
    /// `mediaQuality` of the participant's leg; only in what is read.
    pub quality: Option<Quality>,
}

/// One user's leg of a call as that user sees it (GWS v2 call).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallView {
    /// The call.
    pub id: CallId,
    /// 16 hexadecimal digits.
    pub conn_id: String,
    /// The state of the leg.
    pub state: LegState,
    /// The device of the leg.
    pub device: DeviceId,
    /// The number of that device.
    pub number: Number,
    /// The other parties.
    pub participants: Vec<ParticipantView>,
    /// The calling number.
    pub ani: Number,
    /// The called number.
    pub dnis: Number,
    /// Its kind.
    pub call_type: CallType,
    /// `parentCallUri`: the user's call that this one was made to ask about.
    pub parent: Option<CallId>,
    /// `userData`: what is attached to the call.
    pub user_data: UserData,
    /// The operations that the user may ask for now.
    pub capabilities: Vec<Operation>,
    /// When the leg was established.
    pub established_at: Option<Timestamp>,
    /// Seconds since then.
    pub duration_s: u64,
    /// `mute`: the user is not heard.
    pub muted: bool,
    /// `supervisorListeningIn`
    pub supervisor_listening_in: bool,
    /// `monitoredUserMuted`
    pub monitored_user_muted: bool,
    /// `monitoring`: this is a supervisor's leg.
    pub monitoring: bool,
    /// `supervisorMonitoringState.state`
    pub monitoring_state: Option<Activity>,
    /// `mediaQuality` of the leg; only in what is read, so that no client is told whenever it
    /// changes.
    pub quality: Option<Quality>,
    /// `handedOnTo` of a released leg: the number that has it now.
    pub handed_on_to: Option<Number>,
}
