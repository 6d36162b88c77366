//! An HTTP door to simulated telephones, for people and programs without one: lines of
//! [`PhoneCommand`] go in, what is going on comes out.

use super::Simulated;
use crate::model::{CallFact, DeviceFact, Fact, MonitorFact, Reason, Refusal};
use crate::telephony::phones::PhoneCommand;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use std::net::IpAddr;

/// Where the door is.
pub const PATH: &str = "/simulate";
/// Bytes of a line at most.
const LONGEST_LINE: usize = 512;

/// `POST /simulate` does what the line in its body says; `GET /simulate` shows telephones, calls
/// and monitors. It asks nobody for a password: it belongs on a loopback address, and answers nobody
/// that knows it by another name, nor a page from elsewhere.
pub fn router(simulated: Simulated) -> Router {
    Router::new()
        .route(PATH, get(show).post(perform))
        .layer(DefaultBodyLimit::max(LONGEST_LINE))
        .layer(from_fn(only_local))
        .with_state(simulated)
}

/// The layer of a door on the loopback that asks nobody for a password. A page that a browser shows
/// from elsewhere reaches the loopback, too: by its own name, which it has resolved to 127.0.0.1, or
/// across origins.
pub async fn only_local(request: Request, next: Next) -> Response {
    match is_local(request.headers(), request.uri()) {
        true => next.run(request).await,
        false => {
            let text = "error this is done from this machine alone: the Host, and the Origin of a \
                        page, must be localhost or a loopback address\n";
            (StatusCode::FORBIDDEN, text).into_response()
        }
    }
}

fn is_local(headers: &HeaderMap, uri: &Uri) -> bool {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let host = text(header::HOST).or_else(|| uri.authority().map(Authority::as_str));
    let is_from_here = text(header::ORIGIN).is_none_or(|origin| {
        let host = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        host.is_some_and(is_loopback)
    });
    let is_cross_site = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    host.is_some_and(is_loopback) && is_from_here && !is_cross_site
}

/// `localhost` or an address of the loopback, with or without a port.
fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    // No user may stand before it.
    if host.contains('@') {
        return false;
    }
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
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
            Fact::DeviceGone { .. }
            | Fact::MonitorGone { .. }
            | Fact::AdmissionAsked(_)
            | Fact::Failed(_)
            | Fact::JoinSound(_)
            | Fact::FeatureCodeDialled(_)
            | Fact::SnapshotBegin
            | Fact::SnapshotComplete
            | Fact::CallLost { .. }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(headers: &[(&'static str, &str)]) -> bool {
        let headers = headers.iter().map(|(name, value)| {
            (header::HeaderName::from_static(name), value.parse().expect("a header"))
        });
        is_local(&headers.collect(), &Uri::from_static(PATH))
    }

    #[test]
    fn the_door_answers_to_names_of_the_loopback_alone() {
        for host in
            ["localhost", "LOCALHOST:9090", "127.0.0.1:9090", "127.8.8.8", "[::1]:9", "[::1]"]
        {
            assert!(answers(&[("host", host)]), "{host}");
            for scheme in ["http", "https"] {
                let origin = format!("{scheme}://{host}");
                assert!(answers(&[("host", "localhost"), ("origin", &origin)]), "{origin}");
            }
        }
        for host in [
            "evil.example:9090",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.1",
            "0.0.0.0",
            "[2001:db8::1]:80",
            "localhost@evil.example",
            "evil@localhost",
            "",
        ] {
            assert!(!answers(&[("host", host)]), "{host}");
            let origin = format!("http://{host}");
            assert!(!answers(&[("host", "localhost"), ("origin", &origin)]), "{origin}");
        }
        assert!(!answers(&[]));
        assert!(!answers(&[("host", "localhost"), ("origin", "null")]));
        assert!(!answers(&[("host", "localhost"), ("sec-fetch-site", "cross-site")]));
        assert!(answers(&[("host", "localhost"), ("sec-fetch-site", "same-origin")]));
    }
}
