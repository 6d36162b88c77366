use super::{
    Activity, CallId, Caller, DeviceId, Digits, FeatureCodeId, Mode, Number, Refusal, RequestId,
    Scope, UserData, UserDataChange, UserId,
};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// What the gateway sends the backend. Accepted or refused at once; what comes of it arrives as
/// [`super::Fact`]s.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Arm a monitor, or change the one that `supervisor` has. Live when the target is on a call.
    StartMonitoring {
        /// The supervisor's device.
        supervisor: DeviceId,
        /// The device to monitor.
        target: DeviceId,
        /// The activity when joined.
        activity: Activity,
        /// The mode of the monitor.
        mode: Mode,
        /// What it follows.
        scope: Scope,
        /// Ask ([`super::AdmissionAsked`]) before every join and wait for
        /// [`Command::AdmitMonitoring`]; without an answer nobody joins.
        confirm_joins: bool,
        /// The supervisor hears agents only, never a customer, and reaches the monitored agent at
        /// most.
        agent_side_only: bool,
    },
    /// Remove the monitor and release the supervisor's leg, if any.
    StopMonitoring {
        /// The supervisor's device.
        supervisor: DeviceId,
    },
    /// Change what a joined supervisor does, live.
    SwitchMonitoring {
        /// The supervisor's device.
        supervisor: DeviceId,
        /// The call the supervisor is joined to.
        call: CallId,
        /// The activity from now on.
        activity: Activity,
    },
    /// The answer to [`super::AdmissionAsked`].
    AdmitMonitoring {
        /// The supervisor's device.
        supervisor: DeviceId,
        /// The call it was asked for.
        call: CallId,
        /// False: the supervisor may not join this call.
        admitted: bool,
    },
    /// Silence the monitored party toward the customer; the supervisor still hears that party.
    MuteMonitoredParty {
        /// The supervisor's device.
        supervisor: DeviceId,
        /// The call the supervisor is joined to.
        call: CallId,
        /// On or off.
        muted: bool,
    },
    /// Calls to the device are refused while on.
    SetDoNotDisturb {
        /// The device that it is done for.
        device: DeviceId,
        /// On or off.
        on: bool,
    },
    /// Calls to the device go elsewhere while set.
    SetForwarding {
        /// The device that it is done for.
        device: DeviceId,
        /// Where to; `None` turns forwarding off.
        to: Option<Number>,
    },
    /// Call `destination` from the device: its own phone is brought in first.
    Dial {
        /// The device that it is done for.
        device: DeviceId,
        /// The number to call.
        destination: Number,
        /// What is attached to the call from its beginning.
        user_data: UserData,
    },
    /// Answer a ringing call at the device.
    Answer {
        /// The device that it is done for.
        device: DeviceId,
        /// The call that it is done to.
        call: CallId,
    },
    /// Release the device's leg.
    Hangup {
        /// The device that it is done for.
        device: DeviceId,
        /// The call that it is done to.
        call: CallId,
    },
    /// Release every leg of the call.
    ClearCall {
        /// The device that it is done for.
        device: DeviceId,
        /// The call that it is done to.
        call: CallId,
    },
    /// Refuse a call that rings at the device, as its phone would.
    Reject {
        /// The device that it is done for.
        device: DeviceId,
        /// The call that it is done to.
        call: CallId,
    },
    /// Send a call that rings at the device to another number; the device's leg ends.
    Redirect {
        /// The device that it is done for.
        device: DeviceId,
        /// The call that it is done to.
        call: CallId,
        /// The number that rings instead.
        destination: Number,
    },
    /// Put the other party on hold.
    Hold {
        /// The device that it is done for.
        device: DeviceId,
        /// The call that it is done to.
        call: CallId,
    },
    /// Take the other party back.
    Retrieve {
        /// The device that it is done for.
        device: DeviceId,
        /// The call that it is done to.
        call: CallId,
    },
    /// Of two calls of the device, hold the one that it talks on and take back the one that it
    /// holds, in one step.
    SwapCalls {
        /// The device that it is done for.
        device: DeviceId,
        /// The call that it is done to.
        call: CallId,
        /// The other of the two.
        other: CallId,
    },
    /// Silence the device toward the others.
    Mute {
        /// The device that it is done for.
        device: DeviceId,
        /// The call that it is done to.
        call: CallId,
        /// On or off.
        on: bool,
    },
    /// Send digits to the other party.
    SendDtmf {
        /// The device that it is done for.
        device: DeviceId,
        /// The call that it is done to.
        call: CallId,
        /// The digits.
        digits: Digits,
    },
    /// A step of a transfer.
    Transfer {
        /// The device that it is done for.
        device: DeviceId,
        /// The call that it is done to.
        call: CallId,
        /// The step of it that is asked for.
        step: TransferStep,
    },
    /// A step of a conference.
    Conference {
        /// The device that it is done for.
        device: DeviceId,
        /// The call that it is done to.
        call: CallId,
        /// The step of it that is asked for.
        step: TransferStep,
    },
    /// Release another party of the call.
    RemoveParticipant {
        /// The device that asks.
        device: DeviceId,
        /// The call that it is done to.
        call: CallId,
        /// The party's number.
        participant: Number,
    },
    /// Change the data that is attached to the call.
    ChangeUserData {
        /// The device that it is done for.
        device: DeviceId,
        /// The call that it is done to.
        call: CallId,
        /// What is to change.
        change: UserDataChange,
    },
    /// What a feature code asks for is not done: the phone that has dialled it is told why.
    RefuseFeatureCode {
        /// The device that has dialled it.
        device: DeviceId,
        /// The code.
        code: FeatureCodeId,
        /// Why it is not done.
        refusal: Refusal,
    },
}

impl Command {
    /// Takes out the data of a call that it carries; empty where it carries none.
    pub fn take_user_data(&mut self) -> UserData {
        match self {
            Command::Dial { user_data, .. }
            | Command::ChangeUserData { change: UserDataChange::Set(user_data), .. } => {
                std::mem::take(user_data)
            }
            Command::Transfer { step, .. } | Command::Conference { step, .. } => match step {
                TransferStep::SingleStep { user_data, .. }
                | TransferStep::Initiate { user_data, .. } => std::mem::take(user_data),
                TransferStep::Complete => UserData::default(),
            },
            Command::ChangeUserData {
                change: UserDataChange::Delete(_) | UserDataChange::Clear,
                ..
            }
            | Command::StartMonitoring { .. }
            | Command::StopMonitoring { .. }
            | Command::SwitchMonitoring { .. }
            | Command::AdmitMonitoring { .. }
            | Command::MuteMonitoredParty { .. }
            | Command::SetDoNotDisturb { .. }
            | Command::SetForwarding { .. }
            | Command::Answer { .. }
            | Command::Hangup { .. }
            | Command::ClearCall { .. }
            | Command::Reject { .. }
            | Command::Redirect { .. }
            | Command::Hold { .. }
            | Command::Retrieve { .. }
            | Command::SwapCalls { .. }
            | Command::Mute { .. }
            | Command::SendDtmf { .. }
            | Command::RemoveParticipant { .. }
            | Command::RefuseFeatureCode { .. } => UserData::default(),
        }
    }
}

/// A step of a transfer or conference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferStep<D = Number> {
    /// Blind: to the destination at once.
    SingleStep {
        /// The number to transfer to.
        destination: D,
        /// What is attached to the call beside what it has.
        user_data: UserData,
    },
    /// Call the destination first.
    Initiate {
        /// The party to consult.
        destination: D,
        /// What is attached to the new call beside what the call has.
        user_data: UserData,
    },
    /// Join the two calls.
    Complete,
}

impl<D> TransferStep<D> {
    /// The same step to another kind of destination.
    ///
    /// # Errors
    /// That of the conversion.
    pub fn try_map<E, F>(
        self,
        convert: impl FnOnce(D) -> Result<E, F>,
    ) -> Result<TransferStep<E>, F> {
        Ok(match self {
            TransferStep::SingleStep { destination, user_data } => {
                TransferStep::SingleStep { destination: convert(destination)?, user_data }
            }
            TransferStep::Initiate { destination, user_data } => {
                TransferStep::Initiate { destination: convert(destination)?, user_data }
            }
            TransferStep::Complete => TransferStep::Complete,
        })
    }
}

impl From<TransferStep<super::DialString>> for TransferStep {
    fn from(step: TransferStep<super::DialString>) -> Self {
        match step {
            TransferStep::SingleStep { destination, user_data } => {
                TransferStep::SingleStep { destination: destination.into(), user_data }
            }
            TransferStep::Initiate { destination, user_data } => {
                TransferStep::Initiate { destination: destination.into(), user_data }
            }
            TransferStep::Complete => TransferStep::Complete,
        }
    }
}

/// What travels with every command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandContext {
    /// Asking twice under the same id does it once.
    pub request_id: RequestId,
    /// The user that asks for it; `None` for a command of the gateway about a device
    /// without a user.
    pub user: Option<UserId>,
    /// The service that asks for it, as its server has made it out; `None` where the command begins.
    /// It does not travel.
    pub caller: Option<Arc<Caller>>,
    /// From where that service asks; `None`: from this process. It does not travel.
    pub from: Option<IpAddr>,
    /// How long the caller waits for "accepted".
    pub deadline: Duration,
    /// The feature code that it is the answer to, if it is one.
    pub feature_code: Option<FeatureCodeId>,
}
