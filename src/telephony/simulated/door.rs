//! An HTTP door to simulated telephones, for people and programs without one: lines of
//! [`PhoneCommand`](crate::telephony::phones::PhoneCommand) go in, what is going on comes out.

use super::Simulated;
use crate::model::{CallFact, DeviceFact, Fact, MonitorFact, Reason, Refusal};
use crate::telephony::phones::PhoneCommand;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

/// Where the door is.
pub const PATH: &str = "/simulate";
/// Bytes of a line at most.
const LONGEST_LINE: usize = 512;

/// `POST /simulate` does what the line in its body says; `GET /simulate` shows telephones, calls
/// and monitors. It asks nobody for a password: it belongs on a loopback address.
pub fn router(simulated: Simulated) -> Router {
    Router::new()
        .route(PATH, get(show).post(perform))
        .layer(DefaultBodyLimit::max(LONGEST_LINE))
        .with_state(simulated)
}

async fn perform(State(simulated): State<Simulated>, line: String) -> Response {
    let command: PhoneCommand = match line.parse() {
        Ok(command) => command,
        Err(error) => {
            return (StatusCode::BAD_REQUEST, format!("error {error}\n")).into_response();
        }
    };
    match simulated.perform(command).await {
        Ok(()) => "ok\n".into_response(),
        Err(refusal) => (status_of(&refusal), format!("error {refusal}\n")).into_response(),
    }
}

fn status_of(refusal: &Refusal) -> StatusCode {
    match refusal.reason {
        Reason::NotFound => StatusCode::NOT_FOUND,
        Reason::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Reason::MissingParameter
        | Reason::InvalidState
        | Reason::Forbidden
        | Reason::Internal
        | Reason::NotPermitted
        | Reason::InvalidInput
        | Reason::TooLarge
        | Reason::UnsupportedMediaType
        | Reason::InUse
        | Reason::NotAuthenticated
        | Reason::TooManyRequests => StatusCode::CONFLICT,
    }
}

async fn show(State(simulated): State<Simulated>) -> Json<Value> {
    let (mut devices, mut calls, mut monitors) = (Vec::new(), Vec::new(), Vec::new());
    for fact in simulated.facts().entities() {
        match fact {
            Fact::Device(fact) => devices.push(device(&fact)),
            Fact::Call(fact) => calls.push(call(&fact)),
            Fact::Monitor(fact) => monitors.push(monitor(&simulated, &fact)),
            Fact::MonitorGone { .. }
            | Fact::AdmissionAsked(_)
            | Fact::Failed(_)
            | Fact::SnapshotBegin
            | Fact::SnapshotComplete
            | Fact::Lost => {}
        }
    }
    Json(json!({
        "devices": devices,
        "calls": calls,
        "monitors": monitors,
        "lines": PhoneCommand::USAGE,
    }))
}

fn device(fact: &DeviceFact) -> Value {
    json!({
        "number": fact.number.as_str(),
        "registered": fact.registered,
        "doNotDisturb": fact.do_not_disturb,
        "forwardTo": fact.forward_to.as_ref().map(|number| number.as_str()),
    })
}

fn call(fact: &CallFact) -> Value {
    let parties = fact.parties.iter().map(|party| {
        json!({
            "number": party.number.as_str(),
            "role": party.role.as_str(),
            "state": party.state.as_str(),
        })
    });
    json!({ "id": fact.id.as_str(), "parties": parties.collect::<Vec<_>>() })
}

fn monitor(simulated: &Simulated, fact: &MonitorFact) -> Value {
    let number = |device| simulated.facts().device(device).map(|device| device.number.to_string());
    json!({
        "supervisor": number(&fact.supervisor),
        "agent": number(&fact.target),
        "activity": fact.activity.as_str(),
        "state": fact.state.to_string(),
    })
}
