use super::monitoring::spoken;
use super::{
    Activity, CallId, CallView, DeviceId, DeviceView, Mode, Number, Refusal, RequestId, Scope, TransferStep, UnknownWord, UserId, UserView,
};
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

spoken! {
    /// What a user is.
    #[derive(serde::Deserialize)]
    Role {
        /// Takes calls.
        Agent,
        /// May monitor the agents of his groups.
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

spoken! {
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

/// A request with who made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestEnvelope {
    /// The authenticated user.
    pub user: UserId,
    /// From where.
    pub from: IpAddr,
    /// Its id, for idempotence and the log.
    pub request_id: RequestId,
    /// What he asks.
    pub request: Request,
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
        /// Whom to monitor.
        target: TargetRef,
        /// Which of the three.
        activity: Activity,
        /// Default AllCalls.
        mode: Mode,
        /// Default Call.
        scope: Scope,
    },
    /// Coach, ListenIn, BargeIn with parameters that can not be read: an attempt all the same, which is written down and refused.
    MisaskedMonitoring {
        /// The supervisor's device.
        device: DeviceId,
        /// Which of the three.
        activity: Activity,
        /// What is wrong with it.
        refusal: Refusal,
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
        to: Option<Number>,
    },
    /// Dial.
    Dial {
        /// The user's device.
        device: DeviceId,
        /// Whom to call.
        destination: Number,
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
    SetAgentState(AgentState),
}

/// An operation on the user's own leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallOperation {
    /// Answer.
    Answer,
    /// Hangup.
    Hangup,
    /// Hold.
    Hold,
    /// Retrieve.
    Retrieve,
    /// MuteCall, UnmuteCall.
    Mute(bool),
    /// SendDtmf.
    SendDtmf(String),
    /// SwitchToListenIn, SwitchToCoach, SwitchToBargeIn.
    Switch(Activity),
    /// MuteMonitoredUser, UnmuteMonitoredUser.
    MuteMonitored(bool),
    /// SingleStepTransfer, InitiateTransfer, CompleteTransfer.
    Transfer(TransferStep),
    /// SingleStepConference, InitiateConference, CompleteConference.
    Conference(TransferStep),
    /// RemoveParticipantFromConference.
    RemoveParticipant(Number),
}

/// What a client asks to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// Himself.
    Me,
    /// His devices.
    MyDevices,
    /// One of his devices.
    MyDevice(DeviceId),
    /// His legs.
    MyCalls,
    /// One of his legs.
    MyCall(CallId),
    /// A device he may see: his own, or one he may monitor.
    Device(DeviceId),
    /// The devices he may monitor (an admin: all), optionally by number.
    Devices(Option<Number>),
}

/// What the gateway answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Accepted; what comes of it arrives as notices.
    Accepted,
    /// The user.
    User(UserView),
    /// Devices.
    Devices(Vec<DeviceView>),
    /// One device.
    Device(DeviceView),
    /// Legs.
    Calls(Vec<CallView>),
    /// One leg.
    Call(CallView),
}
