//! Every operation, described: where it is posted to, its parameters, and how it is refused. The
//! schemas of the document are made from it, and its examples are what the tests send.

use super::refusals;
use crate::http::gws_json::{Uris, VOICE};
use crate::model::{DialString, Mode, NotReadyReason, Operation, Reason, Scope, UserData};
use crate::rest::operations::LONGEST_URI;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// A resource that operations are posted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rest) enum ResourceKind {
    /// `/me`
    User,
    /// `/me/channels/voice`
    VoiceChannel,
    /// `/me/devices/{id}`
    Device,
    /// `/me/devices/{id}/calls`
    CallsOfDevice,
    /// `/me/calls/{id}`
    Call,
}

impl ResourceKind {
    /// Every one.
    pub(in crate::rest) const ALL: [ResourceKind; 5] = [
        ResourceKind::User,
        ResourceKind::VoiceChannel,
        ResourceKind::Device,
        ResourceKind::CallsOfDevice,
        ResourceKind::Call,
    ];

    /// Its path in the document.
    pub(in crate::rest) fn path(self) -> &'static str {
        match self {
            ResourceKind::User => "/api/v2/me",
            ResourceKind::VoiceChannel => "/api/v2/me/channels/voice",
            ResourceKind::Device => "/api/v2/me/devices/{id}",
            ResourceKind::CallsOfDevice => "/api/v2/me/devices/{id}/calls",
            ResourceKind::Call => "/api/v2/me/calls/{id}",
        }
    }

    /// What a POST to it does.
    pub(super) fn summary(self) -> &'static str {
        match self {
            ResourceKind::User => "Opens or closes the user's session, or sets the agent's state.",
            ResourceKind::VoiceChannel => "Sets the agent's state on the voice channel.",
            ResourceKind::Device => {
                "Monitors, forwards, and refuses calls with one of the devices."
            }
            ResourceKind::CallsOfDevice => "Makes a call from one of the user's devices.",
            ResourceKind::Call => "Acts on the user's leg of a call, a supervisor's among them.",
        }
    }

    /// The name of the schema that is one of its operations.
    pub(super) fn schema_name(self) -> &'static str {
        match self {
            ResourceKind::User => "UserOperation",
            ResourceKind::VoiceChannel => "VoiceChannelOperation",
            ResourceKind::Device => "DeviceOperation",
            ResourceKind::CallsOfDevice => "CallsOfDeviceOperation",
            ResourceKind::Call => "CallOperation",
        }
    }

    /// Its operations, in the order of [`Operation::ALL`].
    pub(super) fn operations(self) -> impl Iterator<Item = Operation> {
        let here = move |operation: &Operation| describe(*operation).on.contains(&self);
        Operation::ALL.iter().copied().filter(here)
    }
}

/// One operation.
pub(in crate::rest) struct OperationDescription {
    summary: &'static str,
    /// Where it may be posted to.
    pub(in crate::rest) on: &'static [ResourceKind],
    /// What may stand beside `operationName`.
    pub(in crate::rest) parameters: Vec<Parameter>,
    /// Its own refusals, and when; those of every operation are [`refusals::OF_OPERATIONS`].
    refusals: BTreeMap<Reason, &'static str>,
}

/// One parameter.
pub(in crate::rest) struct Parameter {
    /// Its name.
    pub(in crate::rest) name: &'static str,
    /// Whether it must be there.
    pub(in crate::rest) presence: Presence,
    /// What the example has; `None` leaves it out.
    example: Option<Example>,
    /// What it may be: JSON Schema.
    schema: Value,
}

/// Whether a parameter must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rest) enum Presence {
    Optional,
    /// Clients send it, and it is not read.
    LeftOut,
    Required,
    /// It, or the parameter of that name.
    RequiredUnless(&'static str),
}

/// The value of a parameter in the example.
enum Example {
    Json(Value),
    /// The URI of the device that the sample of the Coach page monitors.
    DeviceUri,
    /// The URI of some call.
    CallUri,
}

/// The device that the sample of the Coach page monitors.
const SAMPLE_DEVICE: &str = "9c14cad7-17c4-48d0-8492-7cf0ff92c224";
/// A call.
const SAMPLE_CALL: &str = "0b5c2f4e7d1a4c06";

/// What the document says of an operation. A new one does not compile until it is described.
pub(in crate::rest) fn describe(operation: Operation) -> OperationDescription {
    match operation {
        Operation::StartContactCenterSession => on_user("Opens the user's contact-centre session.")
            .with(channels_to_open())
            .with(left_out("place", "Where the agent sits."))
            .with(left_out("devicePath", "The device at which the agent sits."))
            .with(left_out("loginCode", "The agent's number at the switch."))
            .with(left_out("queue", "Where the agent's calls come from."))
            .refused(Reason::NotPermitted, "The user has not the feature api-voice."),
        Operation::EndContactCenterSession => {
            on_user("Closes the user's contact-centre session.").with(channels_to_close())
        }
        Operation::Ready => agent_state("The agent takes calls."),
        Operation::NotReady => {
            agent_state("The agent takes no calls.").with(reason()).with(work_mode())
        }
        Operation::AfterCallWork => agent_state("The agent finishes the last call.").with(reason()),
        Operation::AuxWork => agent_state("The agent does other work.").with(reason()),
        Operation::Offline => agent_state("The agent leaves the voice channel."),
        Operation::ListenIn => monitor("Arms a monitor that hears all and is heard by nobody."),
        Operation::Coach => {
            monitor("Arms a monitor that hears all and is heard by the agent only.")
        }
        Operation::BargeIn => monitor("Arms a monitor that hears all and is heard by all."),
        Operation::CancelSupervisorMonitoring => on_device("Removes the monitor.")
            .refused(Reason::InvalidState, "The device monitors nobody.")
            .refused(Reason::NotPermitted, NO_SUPERVISOR),
        Operation::DoNotDisturbOn => on_device("Refuses calls to the device."),
        Operation::DoNotDisturbOff => on_device("Lets calls to the device ring again."),
        Operation::ForwardCallsOn => on_device("Forwards calls to the device.")
            .with(number("destination", Presence::Required, "5002", "Where to."))
            .refused(Reason::InvalidInput, "The destination is the device itself, or no number."),
        Operation::ForwardCallsOff => on_device("Ends the forwarding."),
        Operation::Dial => {
            OperationDescription::new("Calls a number.", &[ResourceKind::CallsOfDevice])
                .with(destination())
                .with(user_data())
                .refused(Reason::InvalidState, "The number is busy, or does not answer.")
                .refused(Reason::Forbidden, NOT_OFFERED_BY_BACKEND)
                .refused(Reason::NotPermitted, NOT_OWN_DEVICE)
                .refused(Reason::NotFound, "There is no such device, or nothing has this number.")
                .refused(Reason::Internal, "The device is not registered.")
        }
        Operation::Answer => on_call("Answers a ringing call.", "The call does not ring."),
        Operation::Hangup => on_call("Releases the user's leg.", "The leg has been released."),
        Operation::ClearCall => on_call("Releases every leg of the call.", "The call is over.")
            .refused(
                Reason::NotPermitted,
                "The conference is another's, or the feature api-voice is missing.",
            ),
        Operation::Reject => on_call("Refuses a ringing call.", "The call does not ring."),
        Operation::Redirect => {
            on_call("Sends a ringing call to another number.", "The call does not ring.")
                .with(destination())
        }
        Operation::SwapCalls => on_call(
            "Holds this call and takes back the other, or the other way round.",
            NOT_SWAPPED,
        )
        .with(other_call())
        .refused(Reason::NotFound, "The user has not both calls."),
        Operation::AttachUserData => {
            user_data_of("Attaches data to the call.").with(new_user_data())
        }
        Operation::UpdateUserData => {
            user_data_of("Changes data of the call, or attaches it.").with(new_user_data())
        }
        Operation::DeleteUserData => user_data_of("Takes all data from the call."),
        Operation::DeleteUserDataPair => {
            user_data_of("Takes one key from the call's data; none of that name is no error.")
                .with(user_data_key())
        }
        Operation::Hold => {
            on_call("Puts the other party on hold.", "The call is not established, or is held.")
        }
        Operation::Retrieve => {
            on_call("Takes the other party back from hold.", "The call is not held.")
        }
        Operation::MuteCall => {
            on_call("Silences the user's leg.", "The call is not established, or is muted.")
        }
        Operation::UnmuteCall => on_call("Ends that silence.", "The call is not muted."),
        Operation::SendDtmf => {
            on_call("Sends digits to the other party.", NOT_ESTABLISHED).with(digits())
        }
        Operation::SwitchToListenIn => {
            of_joined("The supervisor on the call goes on with ListenIn.")
        }
        Operation::SwitchToCoach => of_joined("The supervisor on the call goes on with Coach."),
        Operation::SwitchToBargeIn => of_joined("The supervisor on the call goes on with BargeIn."),
        Operation::MuteMonitoredUser => of_joined("Silences the monitored agent for the customer."),
        Operation::UnmuteMonitoredUser => of_joined("Ends that silence."),
        Operation::SingleStepTransfer => {
            calling("Transfers the call without asking: a blind transfer.", NOT_TRANSFERABLE)
        }
        Operation::InitiateTransfer => {
            calling("Holds the call and calls a colleague about it.", NOT_TRANSFERABLE)
        }
        Operation::CompleteTransfer => {
            on_call("Joins the two calls of a consultation by a transfer.", NO_CONSULTATION)
        }
        Operation::SingleStepConference => {
            calling("Calls a further party into the call.", NOT_ESTABLISHED)
        }
        Operation::InitiateConference => {
            calling("Holds the call and calls a further party first.", NOT_TRANSFERABLE)
        }
        Operation::CompleteConference => {
            on_call("Joins the two calls of a consultation into a conference.", NO_CONSULTATION)
        }
        Operation::RemoveParticipantFromConference => {
            on_call("Releases another party of a conference.", "The call is not a conference.")
                .with(participant())
                .refused(
                    Reason::NotPermitted,
                    "The user neither made the conference nor monitors it.",
                )
                .refused(Reason::NotFound, "The user has no such call, or it no such participant.")
        }
    }
}

const NO_SUPERVISOR: &str = "The user is no supervisor, or has not both features.";
const NOT_OWN_DEVICE: &str = "The device is not the user's, or the feature api-voice is missing.";
const NO_DEVICE: &str = "There is no such device.";
const NO_CALL: &str = "The user has no such call.";
const NOT_OFFERED: &str = "It is not possible on this leg, or the backend does not offer it.";
const NOT_ESTABLISHED: &str = "The call is not established.";
const NOT_TRANSFERABLE: &str = "The call is not established, or a consultation is under way.";
const NO_CONSULTATION: &str = "There is no answered consultation.";
const NOT_SWAPPED: &str = "Not one of the two calls is held and the other established.";
const TOO_MUCH_DATA: &str =
    "The call would have more data than it may, or a parameter is not what it should be.";
const NOT_OFFERED_BY_BACKEND: &str = "The backend does not offer it.";

fn on_user(summary: &'static str) -> OperationDescription {
    OperationDescription::new(summary, &[ResourceKind::User])
}

fn agent_state(summary: &'static str) -> OperationDescription {
    OperationDescription::new(summary, &[ResourceKind::User, ResourceKind::VoiceChannel])
        .refused(Reason::NotPermitted, "The user has not the feature api-voice.")
        .refused(Reason::Internal, "None of the user's devices is registered.")
}

fn on_device(summary: &'static str) -> OperationDescription {
    OperationDescription::new(summary, &[ResourceKind::Device])
        .refused(Reason::Forbidden, NOT_OFFERED_BY_BACKEND)
        .refused(Reason::NotPermitted, NOT_OWN_DEVICE)
        .refused(Reason::NotFound, NO_DEVICE)
}

/// The operations of the Coach page.
fn monitor(summary: &'static str) -> OperationDescription {
    on_device(summary)
        .with(Parameter {
            name: "targetDeviceUri",
            presence: Presence::RequiredUnless("phoneNumber"),
            example: Some(Example::DeviceUri),
            schema: json!({
                "type": "string", "maxLength": LONGEST_URI, "pattern": uri_of("devices"),
                "description":
                    "The device to monitor. Only its path counts: the host may be any of ours.",
            }),
        })
        .with(Parameter {
            example: None,
            ..number(
                "phoneNumber",
                Presence::RequiredUnless("targetDeviceUri"),
                "5001",
                "The number of the device to monitor, or of a routing point, instead of the URI. \
                 Where both are given they must agree.",
            )
        })
        .with(word(
            "supervisorMonitoringScope",
            Scope::ALL.iter().map(|scope| scope.as_str()),
            Scope::Call.as_str(),
            "Agent: the supervisor leaves with the agent. Call: it stays with the call.",
        ))
        .with(word(
            "supervisorMonitoringMode",
            Mode::ALL.iter().map(|mode| mode.as_str()),
            Mode::AllCalls.as_str(),
            "NextCall: the monitor is gone after one call. AllCalls: it stays until cancelled.",
        ))
        .refused(Reason::MissingParameter, "Neither targetDeviceUri nor phoneNumber is given.")
        .refused(Reason::InvalidState, "The supervisor's device is in no state to monitor.")
        .refused(Reason::NotPermitted, "The user may not monitor the target, or anybody.")
        .refused(Reason::NotFound, "There is no such device, or no such target.")
        .refused(Reason::Forbidden, "The backend does not offer it, or not for this target.")
        .refused(Reason::InUse, "Another supervisor monitors the target.")
}

/// `unless`: the state that it is refused in.
fn on_call(summary: &'static str, unless: &'static str) -> OperationDescription {
    OperationDescription::new(summary, &[ResourceKind::Call])
        .refused(Reason::InvalidState, unless)
        .refused(Reason::Forbidden, NOT_OFFERED)
        .refused(Reason::NotPermitted, "The user has not the feature api-voice.")
        .refused(Reason::NotFound, NO_CALL)
}

/// An operation on a leg that calls somebody.
fn calling(summary: &'static str, unless: &'static str) -> OperationDescription {
    on_call(summary, unless)
        .with(destination())
        .with(user_data())
        .refused(Reason::InvalidInput, TOO_MUCH_DATA)
}

/// An operation on the data of the call.
fn user_data_of(summary: &'static str) -> OperationDescription {
    on_call(summary, "The call is over.").refused(Reason::InvalidInput, TOO_MUCH_DATA)
}

/// An operation of a supervisor that is joined to the call.
fn of_joined(summary: &'static str) -> OperationDescription {
    on_call(summary, "The user is not the supervisor on the call, or it is so already.")
        .refused(Reason::NotPermitted, NO_SUPERVISOR)
}

/// A telephone number, see [`DialString`].
const PHONE_NUMBER: &str = "^[0-9A-Za-z+*#._-]+$";
/// Digits that a telephone sends, see [`crate::model::Digits`].
const DIGITS: &str = "^[0-9*#A-D]+$";
/// A text without control characters.
const PRINTABLE: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$";
/// A text of characters that are plain, see [`crate::model::is_plain`].
const PLAIN: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f\\u2028-\\u202e\\u2066-\\u2069]+$";

/// An absolute URI or a path that names one of a collection: only the path counts.
fn uri_of(collection: &str) -> String {
    format!(
        "^(https?://[0-9A-Za-z.:\\[\\]_-]+)?/(api/v2/)?(me/)?{collection}/\
         ([0-9A-Za-z._~@:+-]|%[2-6][0-9A-Fa-f]|%7[0-9A-Ea-e]){{1,256}}/?$"
    )
}

fn phone_number(description: &str) -> Value {
    json!({
        "type": "string", "minLength": 1, "maxLength": DialString::LONGEST, "pattern": PHONE_NUMBER,
        "description": description,
    })
}

fn number(name: &'static str, presence: Presence, example: &str, description: &str) -> Parameter {
    let example = Some(Example::Json(json!(example)));
    Parameter { name, presence, example, schema: phone_number(description) }
}

fn word(
    name: &'static str,
    words: impl Iterator<Item = &'static str>,
    default: &str,
    description: &str,
) -> Parameter {
    let words: Vec<_> = words.collect();
    let schema =
        json!({"type": "string", "enum": words, "default": default, "description": description});
    let example = Some(Example::Json(json!(default)));
    Parameter { name, presence: Presence::Optional, example, schema }
}

fn channels_to_open() -> Parameter {
    Parameter {
        name: "channels",
        presence: Presence::Required,
        example: Some(Example::Json(json!([VOICE]))),
        schema: json!({
            "type": "array", "items": {"type": "string"}, "minItems": 1,
            "description": "The media channels. Others than voice do not exist here, and fail.",
        }),
    }
}

fn channels_to_close() -> Parameter {
    Parameter {
        name: "channels",
        presence: Presence::Optional,
        example: Some(Example::Json(json!([VOICE]))),
        schema: json!({
            "type": "array", "items": {"type": "string"}, "contains": {"const": VOICE},
            "description": "The media channels, voice among them. Others do not exist here.",
        }),
    }
}

fn destination() -> Parameter {
    Parameter {
        name: "destination",
        presence: Presence::Required,
        example: Some(Example::Json(json!({"phoneNumber": "5002"}))),
        schema: json!({"$ref": "#/components/schemas/Destination"}),
    }
}

fn participant() -> Parameter {
    Parameter {
        name: "participant",
        presence: Presence::Required,
        example: Some(Example::Json(json!({"phoneNumber": "7001"}))),
        schema: json!({
            "anyOf": [
                {"$ref": "#/components/schemas/Destination"},
                phone_number("The bare number."),
            ],
            "description": "The party to release, by its number.",
        }),
    }
}

fn digits() -> Parameter {
    Parameter {
        name: "digits",
        presence: Presence::Required,
        example: Some(Example::Json(json!("123#"))),
        schema: json!({
            "type": "string", "minLength": 1, "maxLength": DialString::LONGEST, "pattern": DIGITS,
            "description": "The digits, in their order.",
        }),
    }
}

fn reason() -> Parameter {
    Parameter {
        name: "reason",
        presence: Presence::Optional,
        example: Some(Example::Json(json!("Lunch"))),
        schema: json!({
            "type": "string", "minLength": 1, "maxLength": NotReadyReason::LONGEST,
            "pattern": PLAIN, "description": "Why, for people.",
        }),
    }
}

/// What clients send, and nothing here knows.
fn left_out(name: &'static str, meaning: &str) -> Parameter {
    let description = format!("{meaning} Taken, and left out.");
    Parameter {
        name,
        presence: Presence::LeftOut,
        example: None,
        schema: json!({"type": "string", "description": description}),
    }
}

fn work_mode() -> Parameter {
    Parameter {
        name: "workMode",
        presence: Presence::Optional,
        example: None,
        schema: json!({
            "type": "string", "examples": ["AfterCallWork", "AuxWork"],
            "description": "What the agent does instead: AfterCallWork or AuxWork, as the \
                operation of that name. Another word is left out.",
        }),
    }
}

fn other_call() -> Parameter {
    Parameter {
        name: "otherCallUri",
        presence: Presence::Required,
        example: Some(Example::CallUri),
        schema: json!({
            "type": "string", "maxLength": LONGEST_URI, "pattern": uri_of("calls"),
            "description": "The other of the user's calls.",
        }),
    }
}

/// A key of a call's data; how long it may be is counted in bytes, which JSON Schema cannot say.
fn key(description: &str) -> Value {
    json!({
        "type": "string", "minLength": 1, "maxLength": UserData::LONGEST_KEY, "pattern": PRINTABLE,
        "description": description,
    })
}

fn user_data_key() -> Parameter {
    Parameter {
        name: "key",
        presence: Presence::Required,
        example: Some(Example::Json(json!("customerId"))),
        schema: key("The key, of 256 bytes at most."),
    }
}

/// Data that goes along with a call that is made.
fn user_data() -> Parameter {
    Parameter {
        name: "userData",
        presence: Presence::Optional,
        example: Some(Example::Json(json!({"customerId": "4711"}))),
        schema: json!({"$ref": "#/components/schemas/UserData"}),
    }
}

fn new_user_data() -> Parameter {
    Parameter { presence: Presence::Required, ..user_data() }
}

fn user_data_schema() -> Value {
    json!({
        "type": "object",
        "maxProperties": UserData::MOST_KEYS,
        "propertyNames": key("A key of 256 bytes at most."),
        "additionalProperties": {
            "type": ["string", "integer", "boolean"], "minimum": i64::MIN, "maximum": u64::MAX,
        },
        "description": "Data attached to a call: 400 keys and 64 KiB a call, keys and values \
                        together. An integer, written without fraction or exponent, or a \
                        boolean becomes the text that is written. Other numbers are refused.",
    })
}

impl OperationDescription {
    fn new(summary: &'static str, on: &'static [ResourceKind]) -> Self {
        Self { summary, on, parameters: Vec::new(), refusals: BTreeMap::new() }
    }

    fn with(mut self, parameter: Parameter) -> Self {
        self.parameters.push(parameter);
        self
    }

    fn refused(mut self, reason: Reason, when: &'static str) -> Self {
        self.refusals.insert(reason, when);
        self
    }

    /// Every reason that it may be refused for, and when: its own, and those of every operation.
    pub(super) fn refusals(&self) -> BTreeMap<Reason, &'static str> {
        let common =
            refusals::OF_OPERATIONS.iter().map(|reason| (*reason, refusals::when(*reason)));
        common.chain(self.refusals.iter().map(|(reason, when)| (*reason, *when))).collect()
    }
}

/// The body of a request, as it may be sent.
pub(in crate::rest) fn example(operation: Operation, uris: &Uris) -> Value {
    let mut body = Map::from_iter([("operationName".to_owned(), json!(operation.as_str()))]);
    for Parameter { name, example, .. } in describe(operation).parameters {
        let value = match example {
            Some(Example::Json(value)) => value,
            Some(Example::DeviceUri) => json!(uris.device(&SAMPLE_DEVICE.into())),
            Some(Example::CallUri) => json!(uris.call(&SAMPLE_CALL.into())),
            None => continue,
        };
        body.insert(name.to_owned(), value);
    }
    Value::Object(body)
}

/// The name of an operation's schema.
pub(super) fn schema_name(operation: Operation) -> String {
    format!("{operation}Request")
}

/// The examples of a resource's operations, by name.
pub(super) fn examples(resource: ResourceKind, uris: &Uris) -> Value {
    let examples = resource.operations().map(|operation| {
        let value = example(operation, uris);
        let summary = describe(operation).summary;
        (operation.as_str().to_owned(), json!({"summary": summary, "value": value}))
    });
    Value::Object(examples.collect())
}

/// The schemas of all operations, of each resource, which is one of its operations, and of what
/// several parameters share.
pub(super) fn schemas(uris: &Uris) -> Map<String, Value> {
    let destination = json!({
        "type": "object",
        "required": ["phoneNumber"],
        "properties": {"phoneNumber": phone_number("The number to call.")},
        "description": "A party, by its number.",
    });
    let one_each = Operation::ALL
        .iter()
        .map(|operation| (schema_name(*operation), request_schema(*operation, uris)));
    let of_resources = ResourceKind::ALL
        .map(|resource| (resource.schema_name().to_owned(), resource_schema(resource)));
    let shared = [("Destination", destination), ("UserData", user_data_schema())];
    let shared = shared.map(|(name, schema)| (name.to_owned(), schema));
    one_each.chain(of_resources).chain(shared).collect()
}

fn request_schema(operation: Operation, uris: &Uris) -> Value {
    let described = describe(operation);
    let mut required = vec!["operationName"];
    let name = json!({"type": "string", "const": operation.as_str()});
    let mut properties = Map::from_iter([("operationName".to_owned(), name)]);
    let mut instead = None;
    let refusals = described.refusals();
    for Parameter { name, presence, schema, .. } in described.parameters {
        match presence {
            Presence::Optional | Presence::LeftOut => {}
            Presence::Required => required.push(name),
            Presence::RequiredUnless(other) => instead = Some((name, other)),
        }
        properties.insert(name.to_owned(), schema);
    }
    let mut schema = Map::from_iter([
        ("type".to_owned(), json!("object")),
        (
            "description".to_owned(),
            json!(format!("{}\n\n{}", described.summary, refusals::table(&refusals))),
        ),
        ("required".to_owned(), json!(required)),
        ("properties".to_owned(), Value::Object(properties)),
        ("examples".to_owned(), json!([example(operation, uris)])),
        ("x-refusals".to_owned(), refusals::list(&refusals)),
    ]);
    // Not: neither is there. Generators let it be; of `oneOf` and `anyOf` they make two types, and
    // linters want the members of a `required` beside it.
    if let Some((one, other)) = instead {
        let neither = json!({"properties": {(one): {"not": {}}, (other): {"not": {}}}});
        schema.insert("not".to_owned(), neither);
    }
    Value::Object(schema)
}

fn resource_schema(resource: ResourceKind) -> Value {
    let reference = |operation| format!("#/components/schemas/{}", schema_name(operation));
    let one_of: Vec<_> =
        resource.operations().map(|operation| json!({"$ref": reference(operation)})).collect();
    let mapping: Map<_, _> = resource
        .operations()
        .map(|operation| (operation.as_str().to_owned(), json!(reference(operation))))
        .collect();
    json!({
        "description": resource.summary(),
        "oneOf": one_of,
        "discriminator": {"propertyName": "operationName", "mapping": mapping},
    })
}
