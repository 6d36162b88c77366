//! Operations on a user's own leg: whether they are possible, and which command each becomes.

use super::User;
use super::access::{may_monitor_at_all, needs_feature};
use super::pending::Audited;
use super::requests::{Decision, RequestCheck, forbidden};
use crate::model::{
    Activity, CallId, CallOperation, CallView, Command, Feature, Now, Operation, Reason, Refusal,
    RequestEnvelope, Subject, TransferStep, UserDataChange,
};

impl RequestCheck<'_> {
    pub(super) fn on_call(
        &self,
        user: &User,
        asked: &RequestEnvelope,
        call: &CallId,
        operation: &CallOperation,
        now: Now,
    ) -> Result<Decision, Refusal> {
        let leg = self.leg_that_offers(user, call, operation.name())?;
        self.attaches(&leg, operation)?;
        if let CallOperation::SwapCalls(other) = operation {
            self.swaps(user, &leg, other)?;
        }
        let (command, audited) = call_command(&leg, operation);
        let mut pending = self.pending(asked, audited, command, now)?;
        pending.record.device = Some(leg.device.clone());
        pending.record.target = self.reads.known.target_of(&leg.device);
        if let Command::ChangeUserData { change, .. } = &pending.command {
            let changed = leg.user_data.changed(change).unwrap_or_default();
            pending.data_bytes = Some((leg.id.clone(), changed.bytes()));
        }
        if let CallOperation::SendDtmf(_) = operation {
            pending.digits_on = Some((leg.id, leg.device));
        }
        Ok(Decision::Command(Box::new(pending)))
    }

    /// The other call is one of the same device.
    fn swaps(&self, user: &User, leg: &CallView, other: &CallId) -> Result<(), Refusal> {
        if *other == leg.id {
            let text = "Parameter '{}' names the call that it is to be swapped with.";
            return Err(Refusal::parameter(Reason::InvalidInput, "otherCallUri", text));
        }
        let beside = self.reads.own_leg(user, other);
        match beside.ok_or_else(|| Refusal::not_found(format_args!("/me/calls/{other}")))? {
            beside if beside.device == leg.device => Ok(()),
            _ => Err(Refusal::about(
                Reason::InvalidState,
                Subject::Call(other.clone()),
                "Call '{}' is at another device.",
            )),
        }
    }

    /// What the operation attaches to a call is no more than a call may have.
    fn attaches(&self, leg: &CallView, operation: &CallOperation) -> Result<(), Refusal> {
        let data = match operation {
            CallOperation::AttachUserData(data) | CallOperation::UpdateUserData(data) => data,
            CallOperation::Transfer(step) | CallOperation::Conference(step) => match step {
                TransferStep::SingleStep { user_data, .. }
                | TransferStep::Initiate { user_data, .. } => {
                    self.carries(user_data)?;
                    user_data
                }
                TransferStep::Complete => return Ok(()),
            },
            CallOperation::Answer
            | CallOperation::Hangup
            | CallOperation::ClearCall
            | CallOperation::Reject
            | CallOperation::Redirect(_)
            | CallOperation::Hold
            | CallOperation::Retrieve
            | CallOperation::SwapCalls(_)
            | CallOperation::Mute(_)
            | CallOperation::SendDtmf(_)
            | CallOperation::Switch(_)
            | CallOperation::MuteMonitored(_)
            | CallOperation::RemoveParticipant(_)
            | CallOperation::DeleteUserDataPair(_)
            | CallOperation::DeleteUserData => return Ok(()),
        };
        match leg.user_data.with(data) {
            Ok(_) => Ok(()),
            Err(_) => Err(Refusal::too_much_user_data("userData")),
        }
    }

    /// The user's leg of the call, if the user may ask the operation and it is possible there.
    pub(super) fn leg_that_offers(
        &self,
        user: &User,
        call: &CallId,
        operation: Operation,
    ) -> Result<CallView, Refusal> {
        needs_feature(user, Feature::Voice)?;
        if operation.is_of_joined_supervisor() {
            may_monitor_at_all(user)?;
        }
        let leg = self.reads.own_leg(user, call);
        let leg = leg.ok_or_else(|| Refusal::not_found(format_args!("/me/calls/{call}")))?;
        self.offers(&leg, operation)?;
        Ok(leg)
    }

    /// The operation exists for this kind of leg and the backend can do it. Whether the leg's state
    /// allows it is the backend's to say: a client may ask for the next thing before the fact of
    /// the last one has arrived here.
    fn offers(&self, leg: &CallView, operation: Operation) -> Result<(), Refusal> {
        if !self.is_possible(leg, operation) {
            return Err(forbidden(format!("Operation '{operation}' is not possible here.")));
        }
        if operation.is_of_joined_supervisor() && !leg.monitoring {
            return Err(Refusal::new(
                Reason::InvalidState,
                format!(
                    "Operation '{operation}' needs a monitored call: \
                     you are not monitoring this one."
                ),
            ));
        }
        Ok(())
    }

    fn is_possible(&self, leg: &CallView, operation: Operation) -> bool {
        let backend = &self.reads.known.capabilities;
        let may_switch = |to: Activity| {
            let is_one_way = self.reads.config.one_way_coach && to == Activity::Coach;
            backend.live_switching && backend.activities.contains(&to) && !is_one_way
        };
        match operation {
            Operation::Answer => backend.answer,
            Operation::Hangup => true,
            Operation::ClearCall => backend.clear_call && !leg.monitoring,
            Operation::Reject => backend.reject && !leg.monitoring,
            Operation::Redirect => backend.redirect && !leg.monitoring,
            Operation::Hold | Operation::Retrieve => backend.hold && !leg.monitoring,
            Operation::SwapCalls => backend.swap_calls && !leg.monitoring,
            Operation::MuteCall | Operation::UnmuteCall => backend.mute && !leg.monitoring,
            Operation::AttachUserData
            | Operation::UpdateUserData
            | Operation::DeleteUserData
            | Operation::DeleteUserDataPair => backend.user_data && !leg.monitoring,
            Operation::SendDtmf => backend.dtmf && !leg.monitoring,
            Operation::SingleStepTransfer => backend.transfers && !leg.monitoring,
            Operation::InitiateTransfer | Operation::CompleteTransfer => {
                backend.transfers && backend.consultations && !leg.monitoring
            }
            Operation::SingleStepConference => backend.conferences && !leg.monitoring,
            Operation::InitiateConference | Operation::CompleteConference => {
                backend.conferences && backend.consultations && !leg.monitoring
            }
            Operation::RemoveParticipantFromConference => backend.conferences,
            Operation::MuteMonitoredUser | Operation::UnmuteMonitoredUser => backend.mute_monitored,
            Operation::SwitchToListenIn => may_switch(Activity::ListenIn),
            Operation::SwitchToCoach => may_switch(Activity::Coach),
            Operation::SwitchToBargeIn => may_switch(Activity::BargeIn),
            Operation::StartContactCenterSession
            | Operation::EndContactCenterSession
            | Operation::Ready
            | Operation::NotReady
            | Operation::AfterCallWork
            | Operation::AuxWork
            | Operation::Offline
            | Operation::ListenIn
            | Operation::Coach
            | Operation::BargeIn
            | Operation::CancelSupervisorMonitoring
            | Operation::DoNotDisturbOn
            | Operation::DoNotDisturbOff
            | Operation::ForwardCallsOn
            | Operation::ForwardCallsOff
            | Operation::Dial => false,
        }
    }
}

/// The command that an operation becomes, and when the audit has its line. A supervisor's leg is
/// answered and released without asking the audit: the join was admitted, and leaving waits for
/// nothing.
fn call_command(leg: &CallView, operation: &CallOperation) -> (Command, Audited) {
    let (device, call) = (leg.device.clone(), leg.id.clone());
    let supervisor = device.clone();
    let command = match operation.clone() {
        CallOperation::Answer => Command::Answer { device, call },
        CallOperation::Hangup => Command::Hangup { device, call },
        CallOperation::ClearCall => Command::ClearCall { device, call },
        CallOperation::Reject => Command::Reject { device, call },
        CallOperation::Redirect(to) => Command::Redirect { device, call, destination: to.into() },
        CallOperation::SwapCalls(other) => Command::SwapCalls { device, call, other },
        CallOperation::AttachUserData(data) | CallOperation::UpdateUserData(data) => {
            Command::ChangeUserData { device, call, change: UserDataChange::Set(data) }
        }
        CallOperation::DeleteUserDataPair(key) => {
            Command::ChangeUserData { device, call, change: UserDataChange::Delete(key) }
        }
        CallOperation::DeleteUserData => {
            Command::ChangeUserData { device, call, change: UserDataChange::Clear }
        }
        CallOperation::Hold => Command::Hold { device, call },
        CallOperation::Retrieve => Command::Retrieve { device, call },
        CallOperation::Mute(on) => Command::Mute { device, call, on },
        CallOperation::SendDtmf(digits) => Command::SendDtmf { device, call, digits },
        CallOperation::Switch(activity) => Command::SwitchMonitoring { supervisor, call, activity },
        CallOperation::MuteMonitored(muted) => {
            Command::MuteMonitoredParty { supervisor, call, muted }
        }
        CallOperation::Transfer(step) => Command::Transfer { device, call, step: step.into() },
        CallOperation::Conference(step) => Command::Conference { device, call, step: step.into() },
        CallOperation::RemoveParticipant(participant) => {
            Command::RemoveParticipant { device, call, participant: participant.into() }
        }
    };
    let audited = match operation.name().is_of_joined_supervisor() {
        true => Audited::Before,
        false => Audited::Never,
    };
    (command, audited)
}
