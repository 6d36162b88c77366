//! The AsyncAPI document: what a client of the event channel is told, from the same types.

use super::schemas;
use crate::http::auth::SESSION_COOKIE;
use crate::http::gws_json::{self, NoticeJson};
use crate::model::Topic;
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

const DESCRIPTION: &str = "\
What the desktops of a user are told, over CometD (Bayeux): long-polling and websocket at \
`/api/v2/notifications`. A client shakes hands, connects, and subscribes to the channels of this document, \
or to `/v2/me/*`, `/v2/**` or `/**`. \"me\" is the user that has logged in.

The payloads here are the `data` of a Bayeux message. Beside it are `channel`, and `ext.replay`, \
the number of the event, which a client may name in its next handshake to miss nothing. On a \
subscription the present state is told once, without a number.

What is asked of the gateway is in the OpenAPI document at `/api/v2/openapi.json`.";

/// Every channel.
const TOPICS: [Topic; 5] =
    [Topic::Me, Topic::Devices, Topic::Calls, Topic::Channels, Topic::Services];

/// The name of a channel in the document, what it is for, and the messages on it.
fn channel(topic: Topic) -> (&'static str, &'static str, &'static [&'static str]) {
    match topic {
        Topic::Me => ("me", "The user, with the agent's state.", &["UserStateChangeMessage"]),
        Topic::Devices => (
            "devices",
            "The user's devices, and what failed later that was asked of them.",
            &["DeviceStateChangeMessage", "ErrorMessage"],
        ),
        Topic::Calls => (
            "calls",
            "The user's legs of calls, and what failed later that was asked of them.",
            &["CallStateChangeMessage", "ErrorMessage"],
        ),
        Topic::Channels => (
            "channels",
            "The user, with the agent's state on the media channels.",
            &["UserStateChangeMessage"],
        ),
        Topic::Services => (
            "services",
            "The services of the contact centre: voice, which works while the telephony backend can \
             be reached.",
            &["ServiceStateChangeMessage"],
        ),
    }
}

/// An example of each message, by name.
const EXAMPLES: &str = include_str!("notices.json");

/// The document, for clients that reach us under this URL.
pub(super) fn asyncapi(public_url: &str) -> Value {
    let messages = messages();
    let mut components = Map::new();
    let mut of_members = Vec::new();
    NoticeJson::schemas(&mut of_members);
    for (name, schema) in &of_members {
        components.insert(name.clone(), schemas::finished(name, schemas::as_json(schema)));
    }
    let examples: Map<String, Value> = serde_json::from_str(EXAMPLES).unwrap_or_default();
    let mut by_name = Map::new();
    for (name, schema) in messages {
        let summary = schema.get("description").cloned();
        let message = json!({
            "name": name, "title": name, "summary": summary,
            "contentType": "application/json",
            "payload": {"$ref": format!("#/components/schemas/{name}")},
            "examples": examples.get(&name).map(|payload| json!([{"payload": payload}])),
        });
        components.insert(name.clone(), schemas::finished(&name, schema));
        by_name.insert(name, message);
    }
    let schemas = schemas::referred_to(&[&Value::Object(by_name.clone())], components);
    let (mut channels, mut operations) = (Map::new(), Map::new());
    for topic in TOPICS {
        let (name, description, told) = channel(topic);
        let messages: Map<_, _> = told
            .iter()
            .map(|message| {
                let reference = json!({"$ref": format!("#/components/messages/{message}")});
                ((*message).to_owned(), reference)
            })
            .collect();
        let of_operation: Vec<_> = told
            .iter()
            .map(|message| json!({"$ref": format!("#/channels/{name}/messages/{message}")}))
            .collect();
        let address = gws_json::channel(topic);
        channels.insert(
            name.to_owned(),
            json!({"address": address, "description": description, "messages": messages}),
        );
        operations.insert(
            format!("tell_{name}"),
            json!({
                "action": "send", "summary": description,
                "channel": {"$ref": format!("#/channels/{name}")}, "messages": of_operation,
            }),
        );
    }
    let (scheme, host) = public_url.split_once("://").unwrap_or(("http", public_url));
    json!({
        "asyncapi": "3.0.0",
        "info": super::info("Undertone: events", DESCRIPTION),
        "defaultContentType": "application/json",
        "servers": {"gateway": {
            "host": host.trim_end_matches('/'), "protocol": scheme,
            "pathname": "/api/v2/notifications", "description": "CometD (Bayeux).",
            "security": [
                {"$ref": "#/components/securitySchemes/basic"},
                {"$ref": "#/components/securitySchemes/cookie"},
            ],
        }},
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": by_name,
            "schemas": schemas,
            "securitySchemes": {
                "basic": {"type": "http", "scheme": "basic"},
                "cookie": {"type": "httpApiKey", "in": "cookie", "name": SESSION_COOKIE},
            },
        },
    })
}

/// Each message with its schema, by `messageType`.
fn messages() -> Vec<(String, Value)> {
    let all = schemas::as_json(&NoticeJson::schema());
    let each = all.get("oneOf").and_then(Value::as_array).cloned().unwrap_or_default();
    let named = each.into_iter().filter_map(|schema| {
        let name = schema.pointer("/properties/messageType/enum/0")?.as_str()?.to_owned();
        Some((name, schema))
    });
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_message_is_on_a_channel_and_has_an_example() {
        let names: BTreeSet<String> = messages().into_iter().map(|(name, _)| name).collect();
        let told: BTreeSet<String> = TOPICS
            .into_iter()
            .flat_map(|topic| channel(topic).2)
            .map(|name| (*name).to_owned())
            .collect();
        let examples: Map<String, Value> = serde_json::from_str(EXAMPLES).expect("JSON");
        let examples: BTreeSet<String> = examples.into_iter().map(|(name, _)| name).collect();
        assert_eq!((&told, &examples), (&names, &names));
    }
}
