use super::activity::string_enum;
use super::{Activity, UnknownWord};
use std::fmt;
use std::str::FromStr;

string_enum! {
    /// `operationName` of a request, and an entry of `capabilities`: what a client asks for, or may
    /// ask for now, in the words of GWS v2. The audit and the metrics call it so too.
    Operation {
        /// Opens the user's session.
        StartContactCenterSession,
        /// Closes the user's session.
        EndContactCenterSession,
        /// The agent takes calls.
        Ready,
        /// The agent takes no calls.
        NotReady,
        /// The agent finishes the last call.
        AfterCallWork,
        /// The agent does other work.
        AuxWork,
        /// The agent leaves the voice channel.
        Offline,
        /// Arms a monitor that hears and is not heard.
        ListenIn,
        /// Arms a monitor that is heard by the agent only.
        Coach,
        /// Arms a monitor that is heard by all.
        BargeIn,
        /// Removes the monitor.
        CancelSupervisorMonitoring,
        /// Refuses calls to the device.
        DoNotDisturbOn,
        /// Lets calls to the device ring again.
        DoNotDisturbOff,
        /// Forwards calls to the device.
        ForwardCallsOn,
        /// Ends the forwarding.
        ForwardCallsOff,
        /// Calls a number from the device.
        Dial,
        /// Answers a ringing call.
        Answer,
        /// Releases the user's leg.
        Hangup,
        /// Releases every leg of the call.
        ClearCall,
        /// Refuses a ringing call.
        Reject,
        /// Sends a ringing call to another number.
        Redirect,
        /// Puts the other party on hold.
        Hold,
        /// Takes the other party back.
        Retrieve,
        /// Holds this call and takes back another that is held, or the other way round.
        SwapCalls,
        /// Silences the user's leg.
        MuteCall,
        /// Ends that silence.
        UnmuteCall,
        /// Sends digits to the other party.
        SendDtmf,
        /// The joined supervisor goes on with ListenIn.
        SwitchToListenIn,
        /// The joined supervisor goes on with Coach.
        SwitchToCoach,
        /// The joined supervisor goes on with BargeIn.
        SwitchToBargeIn,
        /// Silences the monitored agent toward the customer.
        MuteMonitoredUser,
        /// Ends that silence.
        UnmuteMonitoredUser,
        /// A blind transfer.
        SingleStepTransfer,
        /// Begins a transfer with a consultation.
        InitiateTransfer,
        /// Joins the two calls of a consultation by a transfer.
        CompleteTransfer,
        /// Calls a further party into the call.
        SingleStepConference,
        /// Begins a conference with a consultation.
        InitiateConference,
        /// Joins the two calls of a consultation into a conference.
        CompleteConference,
        /// Releases another party of a conference.
        RemoveParticipantFromConference,
        /// Attaches data to the call.
        AttachUserData,
        /// Changes data of the call, or attaches it.
        UpdateUserData,
        /// Takes all data from the call.
        DeleteUserData,
        /// Takes one key from the call's data.
        DeleteUserDataPair,
    } "the operations of GWS v2"
}

impl Operation {
    /// Arms a monitor.
    pub fn start(activity: Activity) -> Self {
        match activity {
            Activity::ListenIn => Operation::ListenIn,
            Activity::Coach => Operation::Coach,
            Activity::BargeIn => Operation::BargeIn,
        }
    }

    /// Changes what a joined supervisor does.
    pub fn switch_to(activity: Activity) -> Self {
        match activity {
            Activity::ListenIn => Operation::SwitchToListenIn,
            Activity::Coach => Operation::SwitchToCoach,
            Activity::BargeIn => Operation::SwitchToBargeIn,
        }
    }

    /// The activity that it arms a monitor with.
    pub fn started(self) -> Option<Activity> {
        Activity::ALL.iter().copied().find(|activity| Operation::start(*activity) == self)
    }

    /// The activity that it switches a joined supervisor to.
    pub fn switched_to(self) -> Option<Activity> {
        Activity::ALL.iter().copied().find(|activity| Operation::switch_to(*activity) == self)
    }

    /// It acts on a monitored call by the supervisor that is joined to it.
    pub fn is_of_joined_supervisor(self) -> bool {
        matches!(self, Operation::MuteMonitoredUser | Operation::UnmuteMonitoredUser)
            || self.switched_to().is_some()
    }

    /// It is about monitoring: every attempt is written down.
    pub fn is_monitoring(self) -> bool {
        self == Operation::CancelSupervisorMonitoring
            || self.started().is_some()
            || self.is_of_joined_supervisor()
    }
}
