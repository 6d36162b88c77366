//! The contract served by the gateway: Command ⇄ Request and reply.
//!
//! A gateway is itself a backend: other services speak to it as it speaks to its own, on behalf of users whose permissions it checks.

use crate::gateway::task::GatewayHandle;
use crate::model::{
    CallId, CallOperation, Command, CommandContext, DeviceId, Reason, Refusal, Request, RequestEnvelope, Subject, TargetRef, UserId,
};
use crate::telephony::proto::telephony_server::TelephonyServer;
use crate::telephony::{CommandCall, TelephonyService, serve_facts};
use std::net::{IpAddr, Ipv4Addr};
use tokio::sync::mpsc;

/// Another service asks, from where its user sits it does not say.
const FROM_A_SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// Serves the gateway as a backend, as long as the server lives.
pub fn serve(desk: GatewayHandle) -> TelephonyServer<TelephonyService> {
    let (server, placed) = serve_facts(desk.capabilities(), desk.facts());
    tokio::spawn(carry(desk, placed));
    server
}

async fn carry(desk: GatewayHandle, mut placed: mpsc::Receiver<CommandCall>) {
    while let Some(CommandCall { context, command, reply }) = placed.recv().await {
        let desk = desk.clone();
        tokio::spawn(async move {
            let answered = match asked(&desk, context, command) {
                Ok(asked) => desk.ask(asked).await.map(|_| ()),
                Err(refusal) => Err(refusal),
            };
            // Who asked may have gone.
            let _ = reply.send(answered);
        });
    }
}

/// What the user, on whose behalf it is commanded, would have asked.
fn asked(desk: &GatewayHandle, context: CommandContext, command: Command) -> Result<RequestEnvelope, Refusal> {
    let user = context.user.ok_or_else(|| Refusal::missing("context.on_behalf_of"))?;
    if desk.user(&user).is_none() {
        return Err(Refusal::about(Reason::NotPermitted, Subject::User(user), "User '{}' is not known."));
    }
    Ok(RequestEnvelope {
        request: request(desk, &user, command)?,
        user,
        from: FROM_A_SERVICE,
        request_id: context.request_id,
    })
}

fn request(desk: &GatewayHandle, user: &UserId, command: Command) -> Result<Request, Refusal> {
    let on_leg = |device: DeviceId, call: CallId, operation: CallOperation| {
        let owns = desk.user(user).is_some_and(|user| user.devices.contains(&device));
        // A call is named by its user and its id; somebody else's leg is none of his.
        owns.then_some(Request::OnCall { call, operation })
            .ok_or_else(|| Refusal::no_device(&device))
    };
    match command {
        Command::StartMonitoring {
            supervisor,
            target,
            activity,
            mode,
            scope,
            // The gateway confirms every join itself.
            confirm_joins: _,
            agent_side_only: false,
        } => Ok(Request::StartMonitoring {
            device: supervisor,
            target: TargetRef {
                device: Some(target),
                number: None,
            },
            activity,
            mode,
            scope,
        }),
        Command::StartMonitoring { agent_side_only: true, .. } => Err(Refusal::parameter(
            Reason::InvalidInput,
            "agent_side_only",
            "Field '{}' can not be asked for here: the agent's groups decide it.",
        )),
        Command::StopMonitoring { supervisor } => Ok(Request::CancelMonitoring { device: supervisor }),
        Command::SwitchMonitoring {
            supervisor,
            call,
            activity,
        } => on_leg(supervisor, call, CallOperation::Switch(activity)),
        Command::AdmitMonitoring { .. } => Err(Refusal::new(Reason::Forbidden, "The gateway confirms joins itself.")),
        Command::MuteMonitoredParty { supervisor, call, muted } => on_leg(supervisor, call, CallOperation::MuteMonitored(muted)),
        Command::SetDoNotDisturb { device, on } => Ok(Request::SetDoNotDisturb { device, on }),
        Command::SetForwarding { device, to } => Ok(Request::SetForwarding { device, to }),
        Command::Dial { device, destination } => Ok(Request::Dial { device, destination }),
        Command::Answer { device, call } => on_leg(device, call, CallOperation::Answer),
        Command::Hangup { device, call } => on_leg(device, call, CallOperation::Hangup),
        Command::Hold { device, call } => on_leg(device, call, CallOperation::Hold),
        Command::Retrieve { device, call } => on_leg(device, call, CallOperation::Retrieve),
        Command::Mute { device, call, on } => on_leg(device, call, CallOperation::Mute(on)),
        Command::SendDtmf { device, call, digits } => on_leg(device, call, CallOperation::SendDtmf(digits)),
        Command::Transfer { device, call, step } => on_leg(device, call, CallOperation::Transfer(step)),
        Command::Conference { device, call, step } => on_leg(device, call, CallOperation::Conference(step)),
        Command::RemoveParticipant { device, call, participant } => on_leg(device, call, CallOperation::RemoveParticipant(participant)),
    }
}
