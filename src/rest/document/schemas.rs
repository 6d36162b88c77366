//! The schemas of the JSON shapes, made fit for generators: what a word may be, flat objects, and
//! nothing that nothing refers to.

use super::refusals;
use crate::model::{
    Activity, AgentState, CallNotification, CallType, LegState, Mode, Operation, Scope,
};
use crate::rest::session::PARTIAL_SUCCESS;
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;

/// Where the schemas of a document are.
const PLACE: &str = "#/components/schemas/";

/// A schema of ours as JSON.
pub(super) fn as_json(schema: &RefOr<Schema>) -> Value {
    serde_json::to_value(schema).unwrap_or_else(|_| unreachable!("a schema is plain data"))
}

/// What a member may say, where that is one of a few words.
fn vocabulary(schema: &str, member: &str) -> Option<Vec<&'static str>> {
    Some(match (schema, member) {
        ("DeviceJson", "deviceState") => vec!["Active", "Inactive"],
        ("ServiceJson", "state") => vec!["Active", "Inactive"],
        ("DeviceJson", "doNotDisturb") | ("CallJson", "mute") => vec!["On", "Off"],
        ("MonitoringJson" | "CallMonitoringJson", "state") => {
            Activity::ALL.iter().map(|one| one.as_str()).collect()
        }
        ("MonitoringJson", "mode") => Mode::ALL.iter().map(|one| one.as_str()).collect(),
        ("MonitoringJson", "scope") => Scope::ALL.iter().map(|one| one.as_str()).collect(),
        ("CallJson", "state") => LegState::ALL.iter().map(|one| one.as_str()).collect(),
        ("CallJson", "callType") => CallType::ALL.iter().map(|one| one.as_str()).collect(),
        ("UserStateJson", "state") => vec!["LoggedIn", "Ready", "NotReady", "LoggedOut"],
        ("UserStateJson", "workMode") => {
            vec![AgentState::AfterCallWork.as_str(), AgentState::AuxWork.as_str()]
        }
        ("CallStateChangeMessage", "notificationType") => {
            CallNotification::ALL.iter().map(|one| one.as_str()).collect()
        }
        _ => return None,
    })
}

/// A schema as it stands in a document.
pub(super) fn finished(name: &str, schema: Value) -> Value {
    let Value::Object(mut schema) = flattened(schema) else {
        return Value::Null;
    };
    let members = schema.get_mut("properties").and_then(Value::as_object_mut);
    for (member, of_member) in members.into_iter().flatten() {
        let Some(of_member) = of_member.as_object_mut() else { continue };
        never_null(of_member);
        if let Some(words) = vocabulary(name, member) {
            of_member.insert("enum".to_owned(), json!(words));
        }
        if member == "capabilities"
            && let Some(items) = of_member.get_mut("items").and_then(Value::as_object_mut)
        {
            let words: Vec<_> = Operation::ALL.iter().map(|one| one.as_str()).collect();
            items.insert("enum".to_owned(), json!(words));
        }
        match (name, member.as_str()) {
            ("ErrorBody", "statusCode") => {
                of_member.insert("enum".to_owned(), json!(refusals::status_codes()));
            }
            ("PartlyOpened", "statusCode") => {
                of_member.insert("const".to_owned(), json!(PARTIAL_SUCCESS));
            }
            (_, "statusCode") if name == "Accepted" || name.starts_with("Reply_") => {
                of_member.insert("const".to_owned(), json!(0));
            }
            _ => {}
        }
    }
    Value::Object(schema)
}

/// What there is not is left out of an object and never null.
fn never_null(member: &mut Map<String, Value>) {
    if let Some(types) = member.get_mut("type").and_then(Value::as_array_mut) {
        types.retain(|one| one != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            member.insert("type".to_owned(), one);
        }
    }
    let Some(Value::Array(mut several)) = member.remove("oneOf") else { return };
    several.retain(|one| one.get("type").is_none_or(|kind| kind != "null"));
    match several.as_slice() {
        [Value::Object(one)] => member.extend(one.clone()),
        _ => {
            member.insert("oneOf".to_owned(), Value::Array(several));
        }
    }
}

/// An `allOf` of objects as one object: generators make one type of it. Of an object that is one of
/// several, only what all of them have is required.
fn flattened(schema: Value) -> Value {
    let Some(parts) = schema.get("allOf").and_then(Value::as_array) else {
        return schema;
    };
    let mut members = Map::new();
    let mut required = Vec::new();
    for part in parts {
        let alternatives = part.get("oneOf").and_then(Value::as_array);
        for one in alternatives.map_or(std::slice::from_ref(part), Vec::as_slice) {
            let of_one = one.get("properties").and_then(Value::as_object);
            members.extend(of_one.cloned().unwrap_or_default());
        }
        let needs = part.get("required").and_then(Value::as_array);
        required.extend(needs.cloned().unwrap_or_default());
    }
    let mut flat = Map::from_iter([
        ("type".to_owned(), json!("object")),
        ("required".to_owned(), json!(required)),
        ("properties".to_owned(), Value::Object(members)),
    ]);
    let description = schema.get("description").cloned();
    flat.extend(description.map(|text| ("description".to_owned(), text)));
    Value::Object(flat)
}

/// Those of the schemas that something of these refers to, themselves or through others.
pub(super) fn referred_to(from: &[&Value], all: Map<String, Value>) -> Map<String, Value> {
    let mut wanted = BTreeSet::new();
    let mut open: Vec<&Value> = from.to_vec();
    while let Some(value) = open.pop() {
        match value {
            Value::Object(members) => {
                let target = members.get("$ref").and_then(Value::as_str);
                let name = target.and_then(|target| target.strip_prefix(PLACE));
                if let Some(name) = name
                    && wanted.insert(name.to_owned())
                {
                    open.extend(all.get(name));
                }
                open.extend(members.values());
            }
            Value::Array(items) => open.extend(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }
    all.into_iter().filter(|(name, _)| wanted.contains(name)).collect()
}
