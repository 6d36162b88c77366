//! The calling end of the contract.

use super::proto::telephony_client::TelephonyClient;
use super::{convert, proto, refusal_of};
use crate::model::{CallId, Command, CommandContext, DeviceId, Reason, Refusal, TransferStep};
use crate::telephony::connection::TelephonyChannel;
use std::time::Duration;
use tonic::{IntoRequest, Request};

/// Asks a backend to do something; returns the revision after which its facts come.
///
/// A backend that can not be reached or does not answer before the context's deadline is
/// [`Reason::Unavailable`].
pub async fn execute(
    client: TelephonyClient<TelephonyChannel>,
    context: &CommandContext,
    command: &Command,
) -> Result<u64, Refusal> {
    answer(client, context, command).await.map_err(|status| match refusal_of(&status) {
        // It is the gateway that is not known there, not its user here.
        Refusal { reason: Reason::NotAuthenticated, .. } => {
            tracing::warn!(cause = status.message(), "the telephony backend refuses this gateway");
            Refusal::new(Reason::Unavailable, "The telephony backend does not know this gateway.")
        }
        refusal => refusal,
    })
}

/// The same, with the status of a refusal as it came.
pub(crate) async fn answer(
    mut client: TelephonyClient<TelephonyChannel>,
    context: &CommandContext,
    command: &Command,
) -> Result<u64, tonic::Status> {
    let deadline = context.deadline;
    let answer = send(&mut client, context, command);
    let answered = tokio::time::timeout(deadline, answer).await;
    let response = answered
        .map_err(|_| tonic::Status::unavailable("The telephony backend does not answer."))??;
    Ok(response.into_inner().revision)
}

async fn send(
    client: &mut TelephonyClient<TelephonyChannel>,
    context: &CommandContext,
    command: &Command,
) -> Result<tonic::Response<proto::CommandResponse>, tonic::Status> {
    let deadline = context.deadline;
    let context = convert::wire_context(context);
    match command {
        Command::StartMonitoring {
            supervisor,
            target,
            activity,
            mode,
            scope,
            confirm_joins,
            agent_side_only,
        } => {
            let message = proto::StartMonitoringRequest {
                context,
                supervisor: supervisor.to_string(),
                target: target.to_string(),
                activity: convert::wire_activity(*activity) as i32,
                mode: convert::wire_mode(*mode) as i32,
                scope: convert::wire_scope(*scope) as i32,
                confirm_joins: *confirm_joins,
                agent_side_only: *agent_side_only,
            };
            client.start_monitoring(within(deadline, message)).await
        }
        Command::StopMonitoring { supervisor } => {
            let message =
                proto::StopMonitoringRequest { context, supervisor: supervisor.to_string() };
            client.stop_monitoring(within(deadline, message)).await
        }
        Command::SwitchMonitoring { supervisor, call, activity } => {
            let message = proto::SwitchMonitoringRequest {
                context,
                supervisor: supervisor.to_string(),
                call: call.to_string(),
                activity: convert::wire_activity(*activity) as i32,
            };
            client.switch_monitoring(within(deadline, message)).await
        }
        Command::AdmitMonitoring { supervisor, call, admitted } => {
            let message = proto::AdmitMonitoringRequest {
                context,
                supervisor: supervisor.to_string(),
                call: call.to_string(),
                admitted: *admitted,
            };
            client.admit_monitoring(within(deadline, message)).await
        }
        Command::MuteMonitoredParty { supervisor, call, muted } => {
            let message = proto::MuteMonitoredPartyRequest {
                context,
                supervisor: supervisor.to_string(),
                call: call.to_string(),
                muted: *muted,
            };
            client.mute_monitored_party(within(deadline, message)).await
        }
        Command::SetDoNotDisturb { device, on } => {
            let message =
                proto::SetDoNotDisturbRequest { context, device: device.to_string(), on: *on };
            client.set_do_not_disturb(within(deadline, message)).await
        }
        Command::SetForwarding { device, to } => {
            let message = proto::SetForwardingRequest {
                context,
                device: device.to_string(),
                to: to.as_ref().map(ToString::to_string).unwrap_or_default(),
            };
            client.set_forwarding(within(deadline, message)).await
        }
        Command::Dial { device, destination, user_data } => {
            let message = proto::DialRequest {
                context,
                device: device.to_string(),
                destination: destination.to_string(),
                user_data: convert::wire_user_data(user_data),
            };
            client.dial(within(deadline, message)).await
        }
        Command::Answer { device, call } => {
            client.answer(within(deadline, leg(context, device, call))).await
        }
        Command::Hangup { device, call } => {
            client.hangup(within(deadline, leg(context, device, call))).await
        }
        Command::ClearCall { device, call } => {
            client.clear_call(within(deadline, leg(context, device, call))).await
        }
        Command::Reject { device, call } => {
            client.reject(within(deadline, leg(context, device, call))).await
        }
        Command::Redirect { device, call, destination } => {
            let message = proto::RedirectRequest {
                context,
                device: device.to_string(),
                call: call.to_string(),
                destination: destination.to_string(),
            };
            client.redirect(within(deadline, message)).await
        }
        Command::Hold { device, call } => {
            client.hold(within(deadline, leg(context, device, call))).await
        }
        Command::Retrieve { device, call } => {
            client.retrieve(within(deadline, leg(context, device, call))).await
        }
        Command::SwapCalls { device, call, other } => {
            let message = proto::SwapCallsRequest {
                context,
                device: device.to_string(),
                call: call.to_string(),
                other: other.to_string(),
            };
            client.swap_calls(within(deadline, message)).await
        }
        Command::Mute { device, call, on } => {
            let message = proto::MuteRequest {
                context,
                device: device.to_string(),
                call: call.to_string(),
                on: *on,
            };
            client.mute(within(deadline, message)).await
        }
        Command::SendDtmf { device, call, digits } => {
            let message = proto::SendDtmfRequest {
                context,
                device: device.to_string(),
                call: call.to_string(),
                digits: digits.as_str().to_owned(),
            };
            client.send_dtmf(within(deadline, message)).await
        }
        Command::Transfer { device, call, step } => {
            client.transfer(within(deadline, stepwise(context, device, call, step))).await
        }
        Command::Conference { device, call, step } => {
            client.conference(within(deadline, stepwise(context, device, call, step))).await
        }
        Command::RemoveParticipant { device, call, participant } => {
            let message = proto::RemoveParticipantRequest {
                context,
                device: device.to_string(),
                call: call.to_string(),
                participant: participant.to_string(),
            };
            client.remove_participant(within(deadline, message)).await
        }
        Command::ChangeUserData { device, call, change } => {
            let message = proto::ChangeUserDataRequest {
                context,
                device: device.to_string(),
                call: call.to_string(),
                change: convert::wire_change(change),
            };
            client.change_user_data(within(deadline, message)).await
        }
        Command::RefuseFeatureCode { device, code, refusal } => {
            let message = proto::RefuseFeatureCodeRequest {
                context,
                device: device.to_string(),
                code: code.to_string(),
                reason: refusal.reason.to_string(),
                message: refusal.to_string(),
            };
            client.refuse_feature_code(within(deadline, message)).await
        }
    }
}

fn stepwise(
    context: Option<proto::CommandContext>,
    device: &DeviceId,
    call: &CallId,
    step: &TransferStep,
) -> proto::TransferRequest {
    let (step, user_data) = convert::wire_step(step);
    let (device, call) = (device.to_string(), call.to_string());
    proto::TransferRequest { context, device, call, step, user_data }
}

fn leg(
    context: Option<proto::CommandContext>,
    device: &DeviceId,
    call: &CallId,
) -> proto::LegRequest {
    proto::LegRequest { context, device: device.to_string(), call: call.to_string() }
}

fn within<M>(deadline: Duration, message: M) -> Request<M> {
    let mut request = message.into_request();
    request.set_timeout(deadline);
    request
}
