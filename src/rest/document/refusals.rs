//! How requests are refused, in the words of the document. HTTP status and statusCode come from the
//! table that refuses.

use crate::http::error;
use crate::model::Reason;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What every operation may be refused for.
pub(super) const OF_OPERATIONS: &[Reason] = &[
    Reason::MissingParameter,
    Reason::Forbidden,
    Reason::Internal,
    Reason::Unavailable,
    Reason::NotPermitted,
    Reason::InvalidInput,
    Reason::TooLarge,
    Reason::UnsupportedMediaType,
    Reason::NotAuthenticated,
    Reason::TooManyRequests,
];

/// What a change of a user, a device or a group may be refused for besides.
pub(super) const OF_ENTRIES: &[Reason] = &[Reason::NotFound, Reason::InUse, Reason::InvalidState];

/// What every read may be refused for.
pub(super) const OF_READS: &[Reason] = &[
    Reason::Internal,
    Reason::Unavailable,
    Reason::NotPermitted,
    Reason::NotFound,
    Reason::InvalidInput,
    Reason::NotAuthenticated,
    Reason::TooManyRequests,
];

/// What is open to everybody is refused for this: a login that comes with it and is wrong.
pub(super) const OF_OPEN: &[Reason] =
    &[Reason::Unavailable, Reason::NotAuthenticated, Reason::TooManyRequests];

/// When a request is refused so.
pub(super) fn when(reason: Reason) -> &'static str {
    match reason {
        Reason::MissingParameter => "A required parameter is missing.",
        Reason::InvalidState => "It is not valid in the current state.",
        Reason::Forbidden => "The resource has no such operation.",
        Reason::Internal => "The gateway or the backend has failed.",
        Reason::Unavailable => "The backend cannot be reached, or too much is going on.",
        Reason::NotPermitted => "The user may not, or the page that asks may not.",
        Reason::NotFound => "There is no such resource, or none that the user may know of.",
        Reason::InvalidInput => "A parameter is not what it should be, or the body is not JSON.",
        Reason::TooLarge => "The body is too large.",
        Reason::UnsupportedMediaType => "The body is not application/json.",
        Reason::InUse => "Another supervisor monitors the device, or the name is taken.",
        Reason::NotAuthenticated => "The user is not known, or the password is wrong.",
        Reason::TooManyRequests => "Too many logins have failed.",
    }
}

/// The statusMessage of an example.
fn message(reason: Reason) -> &'static str {
    match reason {
        Reason::MissingParameter => "Parameter 'operationName' is required.",
        Reason::InvalidState => "The call is not established.",
        Reason::Forbidden => "Operation 'Dance' does not exist on this resource.",
        Reason::Internal => "Device '5001' is not registered.",
        Reason::Unavailable => "The telephony backend cannot be reached.",
        Reason::NotPermitted => "Only a supervisor may monitor.",
        Reason::NotFound => "Resource '/devices/nothing' was not found.",
        Reason::InvalidInput => "Parameter 'phoneNumber' is not a telephone number.",
        Reason::TooLarge => "The body is larger than 65536 bytes.",
        Reason::UnsupportedMediaType => "Content-Type must be application/json.",
        Reason::InUse => "Device '5001' is already monitored by another supervisor.",
        Reason::NotAuthenticated => "Access denied",
        Reason::TooManyRequests => "Too many failed logins.",
    }
}

/// Every statusCode of a refusal.
pub(super) fn status_codes() -> BTreeSet<u8> {
    Reason::ALL.iter().map(|reason| error::row(*reason).status_code).collect()
}

/// A table in Markdown.
pub(super) fn table(refusals: &BTreeMap<Reason, &'static str>) -> String {
    let mut text = "| HTTP | statusCode | refused when |\n|---|---|---|\n".to_owned();
    for (reason, when) in refusals {
        let row = error::row(*reason);
        // Writing to a string never fails.
        let _ = writeln!(text, "| {} | {} | {when} |", row.http.as_u16(), row.status_code);
    }
    text
}

/// The same for programs.
pub(super) fn list(refusals: &BTreeMap<Reason, &'static str>) -> Value {
    let rows = refusals.iter().map(|(reason, when)| {
        let row = error::row(*reason);
        json!({
            "reason": reason.as_str(), "status": row.http.as_u16(), "statusCode": row.status_code,
            "when": when,
        })
    });
    rows.collect()
}

/// The schema of every refusal.
const ERROR_BODY: &str = "#/components/schemas/ErrorBody";

/// The name of [`wrong_method`] among the components of the document.
pub(super) const WRONG_METHOD: &str = "MethodNotAllowed";

/// The response to a method that a path does not have, the same for all of them.
pub(super) fn wrong_method() -> Value {
    let code = error::row(Reason::Forbidden).status_code;
    let example =
        json!({"statusCode": code, "statusMessage": "Method DELETE is not allowed here."});
    let allow = json!({
        "description": "The methods that there are, separated by commas.",
        "required": true,
        "schema": {"type": "string"},
    });
    json!({
        "description": format!("statusCode {code}: The path has no such method."),
        "headers": {"Allow": allow},
        "content": {"application/json": {
            "schema": {"$ref": ERROR_BODY},
            "examples": {WRONG_METHOD: {"value": example}},
        }},
    })
}

/// The name of [`invalid_token`] among the components of the document.
pub(super) const INVALID_TOKEN: &str = "InvalidToken";

/// The response to a bearer token that is nobody's, the same for all paths.
pub(super) fn invalid_token() -> Value {
    let code = error::row(Reason::NotAuthenticated).status_code;
    let example = json!({"statusCode": code, "statusMessage": message(Reason::NotAuthenticated)});
    let challenge = json!({
        "description": "RFC 6750 3.",
        "required": true,
        "schema": {"type": "string"},
    });
    json!({
        "description": format!("statusCode {code}: The bearer token is nobody's."),
        "headers": {"WWW-Authenticate": challenge},
        "content": {"application/json": {
            "schema": {"$ref": ERROR_BODY},
            "examples": {INVALID_TOKEN: {"value": example}},
        }},
    })
}

/// The responses with which a request is refused for these reasons, by HTTP status.
pub(super) fn responses(reasons: &BTreeSet<Reason>) -> Map<String, Value> {
    let mut by_status: BTreeMap<u16, Vec<Reason>> = BTreeMap::new();
    for reason in reasons {
        by_status.entry(error::row(*reason).http.as_u16()).or_default().push(*reason);
    }
    by_status
        .into_iter()
        .map(|(status, reasons)| (status.to_string(), response(&reasons)))
        .collect()
}

fn response(reasons: &[Reason]) -> Value {
    let mut texts = Vec::new();
    let mut examples = Map::new();
    let mut may_ask_again = false;
    for reason in reasons {
        let row = error::row(*reason);
        texts.push(format!("statusCode {}: {}", row.status_code, when(*reason)));
        let value = json!({"statusCode": row.status_code, "statusMessage": message(*reason)});
        examples.insert(reason.as_str().to_owned(), json!({"value": value}));
        may_ask_again |= row.retry_after_s.is_some();
    }
    let schema = json!({"$ref": ERROR_BODY});
    let mut response = Map::from_iter([
        ("description".to_owned(), json!(texts.join(" "))),
        (
            "content".to_owned(),
            json!({"application/json": {"schema": schema, "examples": examples}}),
        ),
    ]);
    if may_ask_again {
        let header = json!({
            "description": "Seconds after which asking again may help.",
            "schema": {"type": "integer", "minimum": 0},
        });
        response.insert("headers".to_owned(), json!({"Retry-After": header}));
    }
    Value::Object(response)
}
