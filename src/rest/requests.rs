//! An operation on a resource, as the request that it stands for.

use super::operations::{OperationBody, Parameters, unknown_operation};
use crate::model::{
    Activity, AgentState, BadRequest, BadRequestOn, CallId, CallOperation, DeviceId, Mode,
    Operation, Reason, Refusal, Request, Scope, TargetRef, TransferStep, UserState,
};

/// Where an operation is posted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resource {
    /// `/me`
    User,
    /// `/me/channels/voice`
    VoiceChannel,
    /// `/me/devices/{id}`
    Device(DeviceId),
    /// `/me/devices/{id}/calls`
    CallsOfDevice(DeviceId),
    /// `/me/calls/{id}`
    Call(CallId),
}

impl OperationBody {
    /// The request that it stands for on a resource. One that cannot be read is an attempt where
    /// the gateway has to check permissions first.
    ///
    /// # Errors
    /// The operation does not exist on this resource, or cannot be read and is no attempt.
    pub(super) fn on(self, resource: Resource) -> Result<Result<Request, BadRequest>, Refusal> {
        let operation = self.operation?;
        let on = Target { resource: &resource, operation };
        let refusal = match request(&on, &self.parameters) {
            Ok(request) => return Ok(Ok(request)),
            Err(refusal) => refusal,
        };
        match resource {
            Resource::Device(device) if operation.started().is_some() => {
                Ok(Err(BadRequest { operation, on: BadRequestOn::Device(device), refusal }))
            }
            // Whether the operation is offered at all comes first, and the gateway knows that.
            Resource::Call(call) if refusal.reason == Reason::MissingParameter => {
                Ok(Err(BadRequest { operation, on: BadRequestOn::Call(call), refusal }))
            }
            Resource::User
            | Resource::VoiceChannel
            | Resource::Device(_)
            | Resource::CallsOfDevice(_)
            | Resource::Call(_) => Err(refusal),
        }
    }
}

/// An operation with the resource that it is asked of.
struct Target<'a> {
    resource: &'a Resource,
    operation: Operation,
}

fn request(on: &Target<'_>, parameters: &Parameters) -> Result<Request, Refusal> {
    let destination = || missing_as("destination", parameters.destination());
    let single = || {
        let (destination, user_data) = (destination()?, parameters.user_data_if_any()?);
        Ok(TransferStep::SingleStep { destination, user_data })
    };
    let initiate = || {
        let (destination, user_data) = (destination()?, parameters.user_data_if_any()?);
        Ok(TransferStep::Initiate { destination, user_data })
    };
    match on.operation {
        Operation::StartContactCenterSession => on.user(|| {
            parameters.channels()?;
            Ok(Request::StartSession)
        }),
        Operation::EndContactCenterSession => on.user(|| {
            parameters.channels_if_any()?;
            Ok(Request::EndSession)
        }),
        Operation::Ready => on.agent_state(|| Ok(AgentState::Ready.into())),
        Operation::NotReady => on.agent_state(|| {
            let state = parameters.work_mode()?.unwrap_or(AgentState::NotReady);
            Ok(UserState { state, reason: parameters.reason()? })
        }),
        Operation::AfterCallWork => on.agent_state(|| {
            Ok(UserState { state: AgentState::AfterCallWork, reason: parameters.reason()? })
        }),
        Operation::AuxWork => on.agent_state(|| {
            Ok(UserState { state: AgentState::AuxWork, reason: parameters.reason()? })
        }),
        Operation::Offline => on.agent_state(|| Ok(AgentState::Offline.into())),
        Operation::ListenIn => start(on.device()?, Activity::ListenIn, parameters),
        Operation::Coach => start(on.device()?, Activity::Coach, parameters),
        Operation::BargeIn => start(on.device()?, Activity::BargeIn, parameters),
        Operation::CancelSupervisorMonitoring => {
            Ok(Request::CancelMonitoring { device: on.device()? })
        }
        Operation::DoNotDisturbOn => {
            Ok(Request::SetDoNotDisturb { device: on.device()?, on: true })
        }
        Operation::DoNotDisturbOff => {
            Ok(Request::SetDoNotDisturb { device: on.device()?, on: false })
        }
        Operation::ForwardCallsOn => Ok(Request::SetForwarding {
            device: on.device()?,
            to: Some(parameters.required_number("destination")?),
        }),
        Operation::ForwardCallsOff => Ok(Request::SetForwarding { device: on.device()?, to: None }),
        Operation::Dial => Ok(Request::Dial {
            device: on.calls_of_device()?,
            destination: parameters.destination()?,
            user_data: parameters.user_data_if_any()?,
        }),
        Operation::Answer => on.call(|| Ok(CallOperation::Answer)),
        Operation::Hangup => on.call(|| Ok(CallOperation::Hangup)),
        Operation::ClearCall => on.call(|| Ok(CallOperation::ClearCall)),
        Operation::Reject => on.call(|| Ok(CallOperation::Reject)),
        Operation::Redirect => on.call(|| destination().map(CallOperation::Redirect)),
        Operation::SwapCalls => on.call(|| {
            let other = parameters.call_uri("otherCallUri")?;
            Ok(CallOperation::SwapCalls(other.ok_or_else(|| Refusal::missing("otherCallUri"))?))
        }),
        Operation::AttachUserData => {
            on.call(|| parameters.user_data().map(CallOperation::AttachUserData))
        }
        Operation::UpdateUserData => {
            on.call(|| parameters.user_data().map(CallOperation::UpdateUserData))
        }
        Operation::DeleteUserDataPair => {
            on.call(|| parameters.user_data_key().map(CallOperation::DeleteUserDataPair))
        }
        Operation::DeleteUserData => on.call(|| Ok(CallOperation::DeleteUserData)),
        Operation::Hold => on.call(|| Ok(CallOperation::Hold)),
        Operation::Retrieve => on.call(|| Ok(CallOperation::Retrieve)),
        Operation::MuteCall => on.call(|| Ok(CallOperation::Mute(true))),
        Operation::UnmuteCall => on.call(|| Ok(CallOperation::Mute(false))),
        Operation::SendDtmf => on.call(|| parameters.digits().map(CallOperation::SendDtmf)),
        Operation::SwitchToListenIn => on.call(|| Ok(CallOperation::Switch(Activity::ListenIn))),
        Operation::SwitchToCoach => on.call(|| Ok(CallOperation::Switch(Activity::Coach))),
        Operation::SwitchToBargeIn => on.call(|| Ok(CallOperation::Switch(Activity::BargeIn))),
        Operation::MuteMonitoredUser => on.call(|| Ok(CallOperation::MuteMonitored(true))),
        Operation::UnmuteMonitoredUser => on.call(|| Ok(CallOperation::MuteMonitored(false))),
        Operation::SingleStepTransfer => on.call(|| single().map(CallOperation::Transfer)),
        Operation::InitiateTransfer => on.call(|| initiate().map(CallOperation::Transfer)),
        Operation::CompleteTransfer => {
            on.call(|| Ok(CallOperation::Transfer(TransferStep::Complete)))
        }
        Operation::SingleStepConference => on.call(|| single().map(CallOperation::Conference)),
        Operation::InitiateConference => on.call(|| initiate().map(CallOperation::Conference)),
        Operation::CompleteConference => {
            on.call(|| Ok(CallOperation::Conference(TransferStep::Complete)))
        }
        Operation::RemoveParticipantFromConference => on.call(|| {
            missing_as("participant", parameters.participant())
                .map(CallOperation::RemoveParticipant)
        }),
    }
}

impl Target<'_> {
    fn not_here(&self) -> Refusal {
        unknown_operation(self.operation.as_str())
    }

    fn user(&self, request: impl FnOnce() -> Result<Request, Refusal>) -> Result<Request, Refusal> {
        match self.resource {
            Resource::User => request(),
            Resource::VoiceChannel
            | Resource::Device(_)
            | Resource::CallsOfDevice(_)
            | Resource::Call(_) => Err(self.not_here()),
        }
    }

    /// Old clients ask for it on the user, others on the channel.
    fn agent_state(
        &self,
        state: impl FnOnce() -> Result<UserState, Refusal>,
    ) -> Result<Request, Refusal> {
        match self.resource {
            Resource::User | Resource::VoiceChannel => state().map(Request::SetAgentState),
            Resource::Device(_) | Resource::CallsOfDevice(_) | Resource::Call(_) => {
                Err(self.not_here())
            }
        }
    }

    fn device(&self) -> Result<DeviceId, Refusal> {
        match self.resource {
            Resource::Device(device) => Ok(device.clone()),
            Resource::User
            | Resource::VoiceChannel
            | Resource::CallsOfDevice(_)
            | Resource::Call(_) => Err(self.not_here()),
        }
    }

    fn calls_of_device(&self) -> Result<DeviceId, Refusal> {
        match self.resource {
            Resource::CallsOfDevice(device) => Ok(device.clone()),
            Resource::User | Resource::VoiceChannel | Resource::Device(_) | Resource::Call(_) => {
                Err(self.not_here())
            }
        }
    }

    fn call(
        &self,
        operation: impl FnOnce() -> Result<CallOperation, Refusal>,
    ) -> Result<Request, Refusal> {
        match self.resource {
            Resource::Call(call) => {
                operation().map(|operation| Request::OnCall { call: call.clone(), operation })
            }
            Resource::User
            | Resource::VoiceChannel
            | Resource::Device(_)
            | Resource::CallsOfDevice(_) => Err(self.not_here()),
        }
    }
}

const NO_MODE: &str = "Parameter '{}': '{}' is not one of NextCall, AllCalls.";
const NO_SCOPE: &str = "Parameter '{}': '{}' is not one of Agent, Call.";

fn start(
    device: DeviceId,
    activity: Activity,
    parameters: &Parameters,
) -> Result<Request, Refusal> {
    let target = TargetRef {
        device: parameters.device_uri("targetDeviceUri")?,
        number: parameters.number("phoneNumber")?,
    };
    if target == TargetRef::default() {
        return Err(Refusal::missing("targetDeviceUri"));
    }
    Ok(Request::StartMonitoring {
        device,
        target,
        activity,
        mode: parameters.word("supervisorMonitoringMode", NO_MODE)?.unwrap_or(Mode::AllCalls),
        scope: parameters.word("supervisorMonitoringScope", NO_SCOPE)?.unwrap_or(Scope::Call),
    })
}

/// A parameter of which a part is missing is missing as a whole.
fn missing_as<T>(field: &str, parameter: Result<T, Refusal>) -> Result<T, Refusal> {
    parameter.map_err(|refusal| {
        if refusal.reason == Reason::MissingParameter { Refusal::missing(field) } else { refusal }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::gws_json::Uris;
    use crate::rest::document::operations::{Presence, ResourceKind, describe, example};
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    fn resource(kind: ResourceKind) -> Resource {
        match kind {
            ResourceKind::User => Resource::User,
            ResourceKind::VoiceChannel => Resource::VoiceChannel,
            ResourceKind::Device => Resource::Device("device".into()),
            ResourceKind::CallsOfDevice => Resource::CallsOfDevice("device".into()),
            ResourceKind::Call => Resource::Call("call".into()),
        }
    }

    fn asked(kind: ResourceKind, body: &Value) -> Result<Request, Reason> {
        let body = OperationBody::parse(body.to_string().as_bytes()).expect("an operation");
        match body.on(resource(kind)) {
            Ok(Ok(request)) => Ok(request),
            Ok(Err(bad)) => Err(bad.refusal.reason),
            Err(refusal) => Err(refusal.reason),
        }
    }

    #[test]
    fn a_word_that_is_none_is_refused_with_all_that_there_are() {
        for (words, pattern) in [
            (Mode::ALL.iter().map(|word| word.as_str()).collect::<Vec<_>>(), NO_MODE),
            (Scope::ALL.iter().map(|word| word.as_str()).collect(), NO_SCOPE),
        ] {
            assert!(
                pattern.ends_with(&format!(" is not one of {}.", words.join(", "))),
                "{pattern}"
            );
        }
    }

    /// Each operation with its example, on the first resource that it is described on.
    fn examples() -> impl Iterator<Item = (Operation, ResourceKind, Value)> {
        let uris = Uris::new("http://localhost:8080");
        Operation::ALL.iter().map(move |operation| {
            let resource = describe(*operation).on.first().expect("a resource");
            (*operation, *resource, example(*operation, &uris))
        })
    }

    #[test]
    fn every_operation_exists_on_the_resources_of_the_document_and_on_no_other() {
        for (operation, _, body) in examples() {
            for kind in ResourceKind::ALL {
                let found = asked(kind, &body).map(|request| request.operation());
                let expected = match describe(operation).on.contains(&kind) {
                    true => Ok(operation),
                    false => Err(Reason::Forbidden),
                };
                assert_eq!(found, expected, "{kind:?}: {body}");
            }
        }
    }

    #[test]
    fn every_parameter_of_the_document_is_read_and_required_where_it_says_so() {
        for (operation, kind, whole) in examples() {
            for parameter in describe(operation).parameters {
                let mut body = whole.clone();
                let fields = body.as_object_mut().expect("an object");
                fields.remove(parameter.name);
                let is_required = match parameter.presence {
                    Presence::Optional | Presence::LeftOut => false,
                    Presence::Required => true,
                    Presence::RequiredUnless(other) => {
                        fields.remove(other);
                        true
                    }
                };
                let expected = if is_required { Err(Reason::MissingParameter) } else { Ok(()) };
                assert_eq!(asked(kind, &body).map(|_| ()), expected, "{body}");
                body[parameter.name] = json!([[]]);
                let refused = asked(kind, &body).map(|_| ());
                let is_read = parameter.presence != Presence::LeftOut;
                assert_eq!(
                    refused,
                    if is_read { Err(Reason::InvalidInput) } else { Ok(()) },
                    "{body}"
                );
            }
        }
    }

    #[test]
    fn a_parameter_that_the_document_has_not_for_an_operation_is_let_be() {
        let names: BTreeSet<&str> = Operation::ALL
            .iter()
            .flat_map(|operation| describe(*operation).parameters)
            .map(|parameter| parameter.name)
            .collect();
        for (operation, kind, body) in examples() {
            let own: BTreeSet<&str> =
                describe(operation).parameters.into_iter().map(|one| one.name).collect();
            for other in names.difference(&own) {
                let mut with_other = body.clone();
                with_other[*other] = json!([[]]);
                assert_eq!(asked(kind, &with_other), asked(kind, &body), "{with_other}");
            }
        }
    }
}
