//! Operations on a user's own leg: whether they are possible, and which command each becomes.

use super::access::{may_monitor_at_all, needs_feature};
use super::pending::Audited;
use super::requests::{Decision, RequestCheck, forbidden};
use super::{User, views};
use crate::model::{
    Activity, CallId, CallOperation, CallView, Command, Feature, Now, Number, Reason, Refusal, RequestEnvelope, TransferStep,
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
        needs_feature(user, Feature::Voice)?;
        if matches!(operation, CallOperation::Switch(_) | CallOperation::MuteMonitored(_)) {
            may_monitor_at_all(user)?;
        }
        let not_found = || Refusal::not_found(format_args!("/me/calls/{call}"));
        let leg = self.reads.own_leg(user, call).ok_or_else(not_found)?;
        self.offers(&leg, operation)?;
        let (command, audited) = call_command(&leg, operation)?;
        let mut pending = self.pending(asked, audited, command, now)?;
        pending.record.device = Some(leg.device.clone());
        pending.record.target = self.reads.known.target_of(&leg.device);
        if let CallOperation::SendDtmf(_) = operation {
            pending.digits_on = Some((leg.id, leg.device));
        }
        Ok(Decision::Command(Box::new(pending)))
    }

    /// The operation exists for this kind of leg and the backend can do it. Whether the leg's state allows it is the backend's to say:
    /// a client may ask for the next thing before the fact of the last one has arrived here.
    fn offers(&self, leg: &CallView, operation: &CallOperation) -> Result<(), Refusal> {
        let backend = &self.reads.known.capabilities;
        let word = call_operation(operation);
        let can_step = |step: &TransferStep| backend.consultations || matches!(step, TransferStep::SingleStep { .. });
        let possible = match operation {
            CallOperation::Answer | CallOperation::Hangup => true,
            CallOperation::Hold | CallOperation::Retrieve | CallOperation::Mute(_) => !leg.monitoring,
            CallOperation::SendDtmf(_) => backend.dtmf && !leg.monitoring,
            CallOperation::Transfer(step) => backend.transfers && can_step(step) && !leg.monitoring,
            CallOperation::Conference(step) => backend.conferences && can_step(step) && !leg.monitoring,
            CallOperation::RemoveParticipant(_) => backend.conferences,
            CallOperation::MuteMonitored(_) => backend.mute_monitored,
            CallOperation::Switch(to) => {
                backend.live_switching && backend.activities.contains(to) && !(self.reads.config.one_way_coach && *to == Activity::Coach)
            }
        };
        if !possible {
            return Err(forbidden(&format!("Operation '{word}' is not possible here.")));
        }
        let monitors_only = matches!(operation, CallOperation::Switch(_) | CallOperation::MuteMonitored(_));
        if monitors_only && !leg.monitoring {
            return Err(Refusal::new(
                Reason::InvalidState,
                format!("Operation '{word}' needs a monitored call: you are not monitoring this one."),
            ));
        }
        Ok(())
    }
}

fn call_command(leg: &CallView, operation: &CallOperation) -> Result<(Command, Audited), Refusal> {
    let (device, call) = (leg.device.clone(), leg.id.clone());
    let supervisor = device.clone();
    // A supervisor's leg is answered and released without asking the audit: the join was admitted, and leaving waits for nothing.
    let command = match operation {
        CallOperation::Answer => Command::Answer { device, call },
        CallOperation::Hangup => Command::Hangup { device, call },
        CallOperation::Hold => Command::Hold { device, call },
        CallOperation::Retrieve => Command::Retrieve { device, call },
        CallOperation::Mute(on) => Command::Mute { device, call, on: *on },
        CallOperation::SendDtmf(digits) => {
            let digits = dtmf(digits)?;
            Command::SendDtmf { device, call, digits }
        }
        CallOperation::Switch(activity) => {
            let activity = *activity;
            return Ok((
                Command::SwitchMonitoring {
                    supervisor,
                    call,
                    activity,
                },
                Audited::Before,
            ));
        }
        CallOperation::MuteMonitored(muted) => {
            let muted = *muted;
            return Ok((Command::MuteMonitoredParty { supervisor, call, muted }, Audited::Before));
        }
        CallOperation::Transfer(step) => Command::Transfer {
            device,
            call,
            step: step_to(step)?,
        },
        CallOperation::Conference(step) => Command::Conference {
            device,
            call,
            step: step_to(step)?,
        },
        CallOperation::RemoveParticipant(participant) => {
            telephone_number("participant", participant)?;
            let participant = participant.clone();
            Command::RemoveParticipant { device, call, participant }
        }
    };
    Ok((command, Audited::Never))
}

fn step_to(step: &TransferStep) -> Result<TransferStep, Refusal> {
    match step {
        TransferStep::SingleStep { destination } | TransferStep::Initiate { destination } => dialable(destination)?,
        TransferStep::Complete => {}
    }
    Ok(step.clone())
}

pub(super) fn dialable(number: &Number) -> Result<(), Refusal> {
    telephone_number("destination", number)
}

/// A number, never a URI: what is dialled must not choose a host.
fn telephone_number(field: &str, number: &Number) -> Result<(), Refusal> {
    let text = number.as_str();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+*#._-".contains(&byte);
    if text.is_empty() {
        return Err(Refusal::missing(field));
    }
    if text.len() > LONGEST_NUMBER || !text.bytes().all(plain) {
        return Err(Refusal::parameter(
            Reason::InvalidInput,
            field,
            "Parameter '{}' is not a telephone number.",
        ));
    }
    Ok(())
}

const LONGEST_NUMBER: usize = 64;

fn dtmf(digits: &str) -> Result<String, Refusal> {
    let plain = |byte: u8| byte.is_ascii_digit() || b"*#ABCD".contains(&byte.to_ascii_uppercase());
    if digits.is_empty() {
        return Err(Refusal::missing("digits"));
    }
    if digits.len() > LONGEST_NUMBER || !digits.bytes().all(plain) {
        return Err(Refusal::parameter(
            Reason::InvalidInput,
            "digits",
            "Parameter '{}' may contain 0-9, *, # and A-D.",
        ));
    }
    Ok(digits.to_ascii_uppercase())
}

pub(super) fn call_operation(operation: &CallOperation) -> &'static str {
    match operation {
        CallOperation::Answer => "Answer",
        CallOperation::Hangup => "Hangup",
        CallOperation::Hold => "Hold",
        CallOperation::Retrieve => "Retrieve",
        CallOperation::Mute(true) => "MuteCall",
        CallOperation::Mute(false) => "UnmuteCall",
        CallOperation::SendDtmf(_) => "SendDtmf",
        CallOperation::Switch(to) => views::switch_word(*to),
        CallOperation::MuteMonitored(true) => "MuteMonitoredUser",
        CallOperation::MuteMonitored(false) => "UnmuteMonitoredUser",
        CallOperation::Transfer(TransferStep::SingleStep { .. }) => "SingleStepTransfer",
        CallOperation::Transfer(TransferStep::Initiate { .. }) => "InitiateTransfer",
        CallOperation::Transfer(TransferStep::Complete) => "CompleteTransfer",
        CallOperation::Conference(TransferStep::SingleStep { .. }) => "SingleStepConference",
        CallOperation::Conference(TransferStep::Initiate { .. }) => "InitiateConference",
        CallOperation::Conference(TransferStep::Complete) => "CompleteConference",
        CallOperation::RemoveParticipant(_) => "RemoveParticipantFromConference",
    }
}
