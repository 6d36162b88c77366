use super::activity::string_enum;
use super::{
    Activity, CallId, CallView, Caller, ContactView, DeviceId, DeviceView, DialString, Digits,
    GroupId, GroupView, Mode, Number, Operation, Refusal, RequestId, Scope, TransferStep,
    UnknownWord, UserData, UserId, UserView, is_plain,
};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

string_enum! {
    /// What a user is.
    #[derive(serde::Deserialize)]
    Role {
        /// Takes calls.
        Agent,
        /// May monitor the agents of the own groups.
        Supervisor,
        /// May monitor all and see all.
        Admin,
    } "Agent, Supervisor, Admin"
}

/// What a user's contract with the service contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
pub enum Feature {
    /// `api-voice`
    #[serde(rename = "api-voice")]
    Voice,
    /// `api-supervisor-monitoring`
    #[serde(rename = "api-supervisor-monitoring")]
    SupervisorMonitoring,
}

impl Feature {
    /// All of them.
    pub const ALL: [Feature; 2] = [Feature::Voice, Feature::SupervisorMonitoring];

    /// The id that clients know it by.
    pub fn as_str(self) -> &'static str {
        match self {
            Feature::Voice => "api-voice",
            Feature::SupervisorMonitoring => "api-supervisor-monitoring",
        }
    }
}

string_enum! {
    /// An agent's state. `LoggedIn` is the moment between login and the first state.
    AgentState {
        /// Takes calls.
        Ready,
        /// Takes no calls.
        NotReady,
        /// Not ready: finishing the last call.
        AfterCallWork,
        /// Not ready: other work.
        AuxWork,
        /// Logged out of the voice channel.
        Offline,
    } "Ready, NotReady, AfterCallWork, AuxWork, Offline"
}

/// Why an agent is not ready, in the agent's or the contact centre's words: 1 to 255 characters,
/// all of them plain (see [`is_plain`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotReadyReason(String);

/// The text is no reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 1 to {} printable characters", NotReadyReason::LONGEST)]
pub struct NotAReason;

impl NotReadyReason {
    /// Characters at most.
    pub const LONGEST: usize = 255;

    /// The reason as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NotReadyReason {
    type Err = NotAReason;

    fn from_str(text: &str) -> Result<Self, NotAReason> {
        let fits = !text.is_empty() && text.chars().count() <= Self::LONGEST;
        match fits && text.chars().all(is_plain) {
            true => Ok(Self(text.to_owned())),
            false => Err(NotAReason),
        }
    }
}

/// An agent's state with the reason that was given for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserState {
    /// The state.
    pub state: AgentState,
    /// Why, where the agent said so; only with NotReady, AfterCallWork and AuxWork.
    pub reason: Option<NotReadyReason>,
}

impl From<AgentState> for UserState {
    fn from(state: AgentState) -> Self {
        Self { state, reason: None }
    }
}

/// A request with the user that made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestEnvelope {
    /// The authenticated user.
    pub user: UserId,
    /// The service that asks on behalf of the user; `None`: the user has asked.
    pub caller: Option<Arc<Caller>>,
    /// From where.
    pub from: IpAddr,
    /// Its id, for idempotence and the log.
    pub request_id: RequestId,
    /// What the user asks; an error when it cannot be read.
    pub request: Result<Request, BadRequest>,
}

impl RequestEnvelope {
    /// The name of the operation asked for.
    pub fn operation(&self) -> Operation {
        match &self.request {
            Ok(request) => request.operation(),
            Err(bad) => bad.operation,
        }
    }
}

/// A request with parameters that cannot be read. It is an attempt all the same: permissions are
/// checked first, so that the refusal says no more than that of a good one, and the audit has its
/// line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRequest {
    /// The operation asked for.
    pub operation: Operation,
    /// What it was asked of.
    pub on: BadRequestOn,
    /// What is wrong with it.
    pub refusal: Refusal,
}

/// The resource of a request that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadRequestOn {
    /// One of the user's devices.
    Device(DeviceId),
    /// The user's leg of a call.
    Call(CallId),
}

/// How a client names the device to monitor.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TargetRef {
    /// From `targetDeviceUri`, resolved by its path.
    pub device: Option<DeviceId>,
    /// From `phoneNumber`.
    pub number: Option<Number>,
}

/// What a client asks the gateway to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Coach, ListenIn, BargeIn.
    StartMonitoring {
        /// The supervisor's device.
        device: DeviceId,
        /// The device to monitor.
        target: TargetRef,
        /// Which of the three.
        activity: Activity,
        /// Default AllCalls.
        mode: Mode,
        /// Default Call.
        scope: Scope,
    },
    /// CancelSupervisorMonitoring.
    CancelMonitoring {
        /// The supervisor's device.
        device: DeviceId,
    },
    /// DoNotDisturbOn, DoNotDisturbOff.
    SetDoNotDisturb {
        /// The user's device.
        device: DeviceId,
        /// On or off.
        on: bool,
    },
    /// ForwardCallsOn, ForwardCallsOff.
    SetForwarding {
        /// The user's device.
        device: DeviceId,
        /// Where to; `None` is off.
        to: Option<DialString>,
    },
    /// Dial.
    Dial {
        /// The user's device.
        device: DeviceId,
        /// The number to call.
        destination: DialString,
        /// What is attached to the call from its beginning.
        user_data: UserData,
    },
    /// An operation on the user's own leg of a call.
    OnCall {
        /// The call.
        call: CallId,
        /// What to do.
        operation: CallOperation,
    },
    /// StartContactCenterSession with the voice channel.
    StartSession,
    /// EndContactCenterSession.
    EndSession,
    /// Ready, NotReady, AfterCallWork, AuxWork, Offline.
    SetAgentState(UserState),
}

/// An operation on the user's own leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOperation {
    /// Answer.
    Answer,
    /// Hangup.
    Hangup,
    /// ClearCall.
    ClearCall,
    /// Reject.
    Reject,
    /// Redirect.
    Redirect(DialString),
    /// Hold.
    Hold,
    /// Retrieve.
    Retrieve,
    /// SwapCalls with this other call.
    SwapCalls(CallId),
    /// MuteCall, UnmuteCall.
    Mute(bool),
    /// SendDtmf.
    SendDtmf(Digits),
    /// SwitchToListenIn, SwitchToCoach, SwitchToBargeIn.
    Switch(Activity),
    /// MuteMonitoredUser, UnmuteMonitoredUser.
    MuteMonitored(bool),
    /// SingleStepTransfer, InitiateTransfer, CompleteTransfer.
    Transfer(TransferStep<DialString>),
    /// SingleStepConference, InitiateConference, CompleteConference.
    Conference(TransferStep<DialString>),
    /// RemoveParticipantFromConference.
    RemoveParticipant(DialString),
    /// AttachUserData.
    AttachUserData(UserData),
    /// UpdateUserData.
    UpdateUserData(UserData),
    /// DeleteUserDataPair.
    DeleteUserDataPair(String),
    /// DeleteUserData.
    DeleteUserData,
}

impl Request {
    /// The operation's name.
    pub fn operation(&self) -> Operation {
        match self {
            Request::StartMonitoring { activity, .. } => Operation::start(*activity),
            Request::CancelMonitoring { .. } => Operation::CancelSupervisorMonitoring,
            Request::SetDoNotDisturb { on: true, .. } => Operation::DoNotDisturbOn,
            Request::SetDoNotDisturb { on: false, .. } => Operation::DoNotDisturbOff,
            Request::SetForwarding { to: Some(_), .. } => Operation::ForwardCallsOn,
            Request::SetForwarding { to: None, .. } => Operation::ForwardCallsOff,
            Request::Dial { .. } => Operation::Dial,
            Request::OnCall { operation, .. } => operation.name(),
            Request::StartSession => Operation::StartContactCenterSession,
            Request::EndSession => Operation::EndContactCenterSession,
            Request::SetAgentState(to) => to.state.operation(),
        }
    }
}

impl AgentState {
    /// The operation that asks for it.
    pub fn operation(self) -> Operation {
        match self {
            AgentState::Ready => Operation::Ready,
            AgentState::NotReady => Operation::NotReady,
            AgentState::AfterCallWork => Operation::AfterCallWork,
            AgentState::AuxWork => Operation::AuxWork,
            AgentState::Offline => Operation::Offline,
        }
    }
}

impl CallOperation {
    /// The operation's name.
    pub fn name(&self) -> Operation {
        match self {
            CallOperation::Answer => Operation::Answer,
            CallOperation::Hangup => Operation::Hangup,
            CallOperation::ClearCall => Operation::ClearCall,
            CallOperation::Reject => Operation::Reject,
            CallOperation::Redirect(_) => Operation::Redirect,
            CallOperation::Hold => Operation::Hold,
            CallOperation::Retrieve => Operation::Retrieve,
            CallOperation::SwapCalls(_) => Operation::SwapCalls,
            CallOperation::Mute(true) => Operation::MuteCall,
            CallOperation::Mute(false) => Operation::UnmuteCall,
            CallOperation::SendDtmf(_) => Operation::SendDtmf,
            CallOperation::Switch(to) => Operation::switch_to(*to),
            CallOperation::MuteMonitored(true) => Operation::MuteMonitoredUser,
            CallOperation::MuteMonitored(false) => Operation::UnmuteMonitoredUser,
            CallOperation::Transfer(TransferStep::SingleStep { .. }) => {
                Operation::SingleStepTransfer
            }
            CallOperation::Transfer(TransferStep::Initiate { .. }) => Operation::InitiateTransfer,
            CallOperation::Transfer(TransferStep::Complete) => Operation::CompleteTransfer,
            CallOperation::Conference(TransferStep::SingleStep { .. }) => {
                Operation::SingleStepConference
            }
            CallOperation::Conference(TransferStep::Initiate { .. }) => {
                Operation::InitiateConference
            }
            CallOperation::Conference(TransferStep::Complete) => Operation::CompleteConference,
            CallOperation::RemoveParticipant(_) => Operation::RemoveParticipantFromConference,
            CallOperation::AttachUserData(_) => Operation::AttachUserData,
            CallOperation::UpdateUserData(_) => Operation::UpdateUserData,
            CallOperation::DeleteUserDataPair(_) => Operation::DeleteUserDataPair,
            CallOperation::DeleteUserData => Operation::DeleteUserData,
        }
    }
}

/// What a client asks to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// The user that asks.
    Me,
    /// The user's devices.
    MyDevices,
    /// One of the user's devices.
    MyDevice(DeviceId),
    /// The user's legs.
    MyCalls,
    /// One of the user's legs.
    MyCall(CallId),
    /// A device the user may see: an own one, or one the user may monitor.
    Device(DeviceId),
    /// The devices the user may monitor (an admin: all), optionally by number.
    Devices(Option<Number>),
    /// A user: the one that asks, or any for an admin.
    User(UserId),
    /// The user that asks (an admin: all).
    Users,
    /// The users that the user may know of: those of the own groups, those that the user may
    /// monitor, and the user itself (an admin: all).
    Contacts,
    /// One of them.
    Contact(UserId),
    /// The groups that name the user as an agent or a supervisor.
    MyGroups,
    /// The same; an admin sees all.
    Groups,
    /// One of those.
    Group(GroupId),
}

/// What the gateway answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Accepted; what comes of it arrives as notices.
    Accepted,
    /// The user.
    User(UserView),
    /// Users.
    Users(Vec<UserView>),
    /// Devices.
    Devices(Vec<DeviceView>),
    /// One device.
    Device(DeviceView),
    /// Legs.
    Calls(Vec<CallView>),
    /// One leg.
    Call(CallView),
    /// Contacts.
    Contacts(Vec<ContactView>),
    /// One contact.
    Contact(ContactView),
    /// Groups.
    Groups(Vec<GroupView>),
    /// One group.
    Group(GroupView),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_of_printable_characters() {
        for text in ["Lunch", "Обед", "אוכל\u{200f}", &"é".repeat(NotReadyReason::LONGEST)]
        {
            assert_eq!(text.parse::<NotReadyReason>().map(|reason| reason.0), Ok(text.to_owned()));
        }
        let too_long = "x".repeat(NotReadyReason::LONGEST + 1);
        for text in [
            "",
            &too_long,
            "a\n",
            "\u{9b}2J",
            "a\u{2028}b",
            "a\u{2029}b",
            "\u{202a}",
            "\u{202e}txt",
            "\u{2066}",
            "\u{2069}",
        ] {
            assert_eq!(text.parse::<NotReadyReason>(), Err(NotAReason), "{text:?}");
        }
    }
}
