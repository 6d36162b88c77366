use super::activity::string_enum;
use super::{Activity, UnknownWord};
use std::fmt;
use std::str::FromStr;

string_enum! {
    /// An entry of `capabilities`: what the user may ask of a device or a call now. Each is the
    /// name of an operation.
    Capability {
        /// Monitor in ListenIn.
        ListenIn,
        /// Monitor in Coach.
        Coach,
        /// Monitor in BargeIn.
        BargeIn,
        /// Remove the monitor.
        CancelSupervisorMonitoring,
        /// Refuse calls.
        DoNotDisturbOn,
        /// Let calls ring again.
        DoNotDisturbOff,
        /// Forward calls.
        ForwardCallsOn,
        /// End the forwarding.
        ForwardCallsOff,
        /// Answer the call.
        Answer,
        /// Leave the call.
        Hangup,
        /// Put the other party on hold.
        Hold,
        /// Take the other party back.
        Retrieve,
        /// Silence the own leg.
        MuteCall,
        /// End that silence.
        UnmuteCall,
        /// Send digits.
        SendDtmf,
        /// Go on with ListenIn.
        SwitchToListenIn,
        /// Go on with Coach.
        SwitchToCoach,
        /// Go on with BargeIn.
        SwitchToBargeIn,
        /// Silence the monitored agent toward the customer.
        MuteMonitoredUser,
        /// End that silence.
        UnmuteMonitoredUser,
        /// Transfer blindly.
        SingleStepTransfer,
        /// Begin a transfer with a consultation.
        InitiateTransfer,
        /// Complete the transfer.
        CompleteTransfer,
        /// Call a further party into the call.
        SingleStepConference,
        /// Begin a conference with a consultation.
        InitiateConference,
        /// Complete the conference.
        CompleteConference,
        /// Release another party.
        RemoveParticipantFromConference,
    } "the operations of a device or a call"
}

impl Capability {
    /// To arm a monitor.
    pub fn start(activity: Activity) -> Self {
        match activity {
            Activity::ListenIn => Capability::ListenIn,
            Activity::Coach => Capability::Coach,
            Activity::BargeIn => Capability::BargeIn,
        }
    }

    /// To change what a joined supervisor does.
    pub fn switch_to(activity: Activity) -> Self {
        match activity {
            Activity::ListenIn => Capability::SwitchToListenIn,
            Activity::Coach => Capability::SwitchToCoach,
            Activity::BargeIn => Capability::SwitchToBargeIn,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Operation;

    #[test]
    fn every_capability_is_the_name_of_an_operation() {
        for capability in Capability::ALL {
            assert!(capability.as_str().parse::<Operation>().is_ok(), "{capability}");
        }
    }
}
