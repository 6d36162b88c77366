//! The contract served by the gateway: Command ⇄ Request and reply.
//!
//! A gateway is itself a backend: other services speak to it as it speaks to its own, on behalf of
//! users, with their permissions.

use crate::gateway::task::GatewayHandle;
use crate::model::{
    BadRequest, BadRequestOn, CallId, CallOperation, Command, CommandContext, DeviceId, DialString,
    NodeLoad, NotDialable, Number, Operation, Reason, Refusal, Request, RequestEnvelope, TargetRef,
    TransferStep, UserDataChange,
};
use crate::telephony::callers::RefusedCallers;
use crate::telephony::proto::telephony_server::TelephonyServer;
use crate::telephony::{AboutBackend, CommandCall, OF_ITS_OWN, TelephonyService, serve_facts};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use tokio::sync::{mpsc, watch};

/// Where the other half of this process is.
const THIS_PROCESS: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Serves the gateway as a backend, as long as the server lives.
pub fn serve(gateway: GatewayHandle) -> TelephonyServer<TelephonyService> {
    let load = gateway.load();
    serve_as(gateway, load)
}

/// The same, where it is as busy as this.
pub fn serve_as(
    gateway: GatewayHandle,
    load: watch::Receiver<NodeLoad>,
) -> TelephonyServer<TelephonyService> {
    let about =
        AboutBackend { capabilities: gateway.capabilities(), load, has_met: gateway.meeting() };
    let (server, placed) = serve_facts(about, gateway.facts());
    tokio::spawn(carry(gateway, placed));
    server
}

async fn carry(gateway: GatewayHandle, mut placed: mpsc::Receiver<CommandCall>) {
    let refused = Arc::new(RefusedCallers::default());
    while let Some(CommandCall { context, command, reply }) = placed.recv().await {
        let (gateway, refused) = (gateway.clone(), refused.clone());
        tokio::spawn(async move {
            let answered = match asked(&gateway, &refused, context, command) {
                Ok(asked) => gateway.ask(asked).await.map(|_| ()),
                Err(refusal) => Err(refusal),
            };
            // Who asked may have gone.
            let _ = reply.send(answered);
        });
    }
}

/// The request by which the user of a command would have asked for the same.
fn asked(
    gateway: &GatewayHandle,
    refused: &RefusedCallers,
    context: CommandContext,
    command: Command,
) -> Result<RequestEnvelope, Refusal> {
    let user = context.user.ok_or_else(|| Refusal::missing("context.on_behalf_of"))?;
    let user = match &command {
        // A gateway in front of this one ends the monitor of a device that is nobody's there.
        Command::StopMonitoring { supervisor }
            if user.as_str() == OF_ITS_OWN && gateway.user(&user).is_none() =>
        {
            gateway.owner(supervisor).map_or(user, |owner| owner.id.clone())
        }
        _ => user,
    };
    let caller = context.caller;
    let acts_for = caller.as_ref().map_or(Ok(()), |caller| {
        let permitted = gateway.directory().acts_for(caller, &user);
        permitted.inspect_err(|_| refused.note("user", caller.name.as_str(), None))
    });
    // What is asked for a user that is not the caller's, or not here, is refused and audited by the
    // gateway: the caller learns nothing else, also not which of the two it is.
    let known = gateway.user(&user).filter(|_| acts_for.is_ok());
    let devices = known.as_ref().map(|user| user.devices.as_slice());
    let request = request(devices, command).or_else(|refusal| acts_for.and(Err(refusal)))?;
    Ok(RequestEnvelope {
        request,
        user,
        caller,
        from: context.from.unwrap_or(THIS_PROCESS),
        request_id: context.request_id,
    })
}

/// `devices`: those of the user; `None`: it does not matter whose the device is.
fn request(
    devices: Option<&[DeviceId]>,
    command: Command,
) -> Result<Result<Request, BadRequest>, Refusal> {
    let request = match command {
        Command::StartMonitoring {
            supervisor,
            target,
            activity,
            mode,
            scope,
            // The gateway confirms every join itself.
            confirm_joins: _,
            agent_side_only: false,
        } => Request::StartMonitoring {
            device: supervisor,
            target: TargetRef { device: Some(target), number: None },
            activity,
            mode,
            scope,
        },
        Command::StartMonitoring { agent_side_only: true, supervisor, activity, .. } => {
            let refusal = Refusal::parameter(
                Reason::InvalidInput,
                "agent_side_only",
                "Field '{}' can not be asked for here: the agent's groups decide it.",
            );
            let operation = Operation::start(activity);
            return Ok(Err(bad(operation, BadRequestOn::Device(supervisor), refusal)));
        }
        Command::StopMonitoring { supervisor } => Request::CancelMonitoring { device: supervisor },
        Command::SwitchMonitoring { supervisor, call, activity } => {
            return on_leg(devices, supervisor, call, CallOperation::Switch(activity));
        }
        Command::AdmitMonitoring { .. } => {
            return Err(Refusal::new(Reason::Forbidden, "The gateway confirms joins itself."));
        }
        Command::RefuseFeatureCode { .. } => {
            let text = "The gateway answers feature codes itself.";
            return Err(Refusal::new(Reason::Forbidden, text));
        }
        Command::MuteMonitoredParty { supervisor, call, muted } => {
            return on_leg(devices, supervisor, call, CallOperation::MuteMonitored(muted));
        }
        Command::SetDoNotDisturb { device, on } => Request::SetDoNotDisturb { device, on },
        Command::SetForwarding { device, to } => {
            match to.as_ref().map(|to| dial_string("destination", to)).transpose() {
                Ok(to) => Request::SetForwarding { device, to },
                Err(refusal) => {
                    return Ok(Err(bad(
                        Operation::ForwardCallsOn,
                        BadRequestOn::Device(device),
                        refusal,
                    )));
                }
            }
        }
        Command::Dial { device, destination, user_data } => {
            match dial_string("destination", &destination) {
                Ok(destination) => Request::Dial { device, destination, user_data },
                Err(refusal) => {
                    return Ok(Err(bad(Operation::Dial, BadRequestOn::Device(device), refusal)));
                }
            }
        }
        Command::Answer { device, call } => {
            return on_leg(devices, device, call, CallOperation::Answer);
        }
        Command::Hangup { device, call } => {
            return on_leg(devices, device, call, CallOperation::Hangup);
        }
        Command::ClearCall { device, call } => {
            return on_leg(devices, device, call, CallOperation::ClearCall);
        }
        Command::Reject { device, call } => {
            return on_leg(devices, device, call, CallOperation::Reject);
        }
        Command::Redirect { device, call, destination } => {
            let destination = dial_string("destination", &destination);
            let operation = destination.map(CallOperation::Redirect);
            let operation = operation.map_err(|refusal| (Operation::Redirect, refusal));
            return on_own_leg(devices, device, call, operation);
        }
        Command::SwapCalls { device, call, other } => {
            return on_leg(devices, device, call, CallOperation::SwapCalls(other));
        }
        Command::ChangeUserData { device, call, change } => {
            let operation = match change {
                UserDataChange::Set(data) => CallOperation::UpdateUserData(data),
                UserDataChange::Delete(key) => CallOperation::DeleteUserDataPair(key),
                UserDataChange::Clear => CallOperation::DeleteUserData,
            };
            return on_leg(devices, device, call, operation);
        }
        Command::Hold { device, call } => {
            return on_leg(devices, device, call, CallOperation::Hold);
        }
        Command::Retrieve { device, call } => {
            return on_leg(devices, device, call, CallOperation::Retrieve);
        }
        Command::Mute { device, call, on } => {
            return on_leg(devices, device, call, CallOperation::Mute(on));
        }
        Command::SendDtmf { device, call, digits } => {
            let refusal = Refusal::parameter(
                Reason::InvalidInput,
                "digits",
                "Parameter '{}' may contain 0-9, *, # and A-D.",
            );
            let fits = digits.as_str().len() <= DialString::LONGEST;
            let digits = fits.then_some(digits).ok_or((Operation::SendDtmf, refusal));
            return on_own_leg(devices, device, call, digits.map(CallOperation::SendDtmf));
        }
        Command::Transfer { device, call, step } => {
            let name = match step {
                TransferStep::SingleStep { .. } => Operation::SingleStepTransfer,
                TransferStep::Initiate { .. } => Operation::InitiateTransfer,
                TransferStep::Complete => Operation::CompleteTransfer,
            };
            let step = step.try_map(|destination| dial_string("destination", &destination));
            let operation = step.map(CallOperation::Transfer).map_err(|refusal| (name, refusal));
            return on_own_leg(devices, device, call, operation);
        }
        Command::Conference { device, call, step } => {
            let name = match step {
                TransferStep::SingleStep { .. } => Operation::SingleStepConference,
                TransferStep::Initiate { .. } => Operation::InitiateConference,
                TransferStep::Complete => Operation::CompleteConference,
            };
            let step = step.try_map(|destination| dial_string("destination", &destination));
            let operation = step.map(CallOperation::Conference).map_err(|refusal| (name, refusal));
            return on_own_leg(devices, device, call, operation);
        }
        Command::RemoveParticipant { device, call, participant } => {
            let participant = dial_string("participant", &participant);
            let operation = participant.map(CallOperation::RemoveParticipant);
            let operation =
                operation.map_err(|refusal| (Operation::RemoveParticipantFromConference, refusal));
            return on_own_leg(devices, device, call, operation);
        }
    };
    Ok(Ok(request))
}

fn on_leg(
    devices: Option<&[DeviceId]>,
    device: DeviceId,
    call: CallId,
    operation: CallOperation,
) -> Result<Result<Request, BadRequest>, Refusal> {
    on_own_leg(devices, device, call, Ok(operation))
}

/// A call is named by its user and its id; a leg of another user's device is not found.
fn on_own_leg(
    devices: Option<&[DeviceId]>,
    device: DeviceId,
    call: CallId,
    operation: Result<CallOperation, (Operation, Refusal)>,
) -> Result<Result<Request, BadRequest>, Refusal> {
    if devices.is_some_and(|devices| !devices.contains(&device)) {
        return Err(Refusal::no_device(&device));
    }
    Ok(match operation {
        Ok(operation) => Ok(Request::OnCall { call, operation }),
        Err((operation, refusal)) => Err(bad(operation, BadRequestOn::Call(call), refusal)),
    })
}

fn bad(operation: Operation, on: BadRequestOn, refusal: Refusal) -> BadRequest {
    BadRequest { operation, on, refusal }
}

fn dial_string(field: &str, number: &Number) -> Result<DialString, Refusal> {
    let not_one = |_: NotDialable| {
        Refusal::parameter(Reason::InvalidInput, field, "Parameter '{}' is not a telephone number.")
    };
    number.as_str().parse().map_err(not_one)
}
