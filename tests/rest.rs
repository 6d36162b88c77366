//! REST over a real socket: every operation, every read, every row of bad input.

use crate::support::gateway_server::{
    BOB_PHONE, ENVIRONMENT, EVE_PHONE, GatewayServer, KIM_PHONE, MEG_PHONE, OTTO_PHONE, PASSWORD,
    ServerOptions,
};
use crate::support::rest_client::read;
use crate::support::wait;
use reqwest::header::{self, HeaderValue};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::num::NonZeroU32;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use undertone::http;
use undertone::http::auth;

fn device(id: &str) -> String {
    format!("/api/v2/me/devices/{id}")
}

fn coach() -> Value {
    json!({
        "operationName": "Coach",
        "targetDeviceUri": format!("http://localhost:8080/api/v2/devices/{BOB_PHONE}"),
    })
}

/// The refusal has its row and nothing else in its body.
#[track_caller]
fn refused((status, body): (StatusCode, Value), http: u16, status_code: u8) -> String {
    assert_eq!((status.as_u16(), &body["statusCode"]), (http, &json!(status_code)), "{body}");
    let message = body["statusMessage"].as_str().expect("a message").to_owned();
    assert_eq!(body.as_object().map(serde_json::Map::len), Some(2), "{body}");
    message
}

#[track_caller]
fn accepted(answer: (StatusCode, Value)) {
    assert_eq!(answer, (StatusCode::OK, json!({"statusCode": 0})));
}

#[tokio::test]
async fn the_coach_request_of_the_sample_is_accepted_and_shows_on_the_device() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    accepted(server.post("meg", &device(MEG_PHONE), &coach()).await);
    let (status, body) = server.get("meg", &device(MEG_PHONE)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        body["device"]["supervisorMonitoringState"],
        json!({
            "state": "Coach", "mode": "AllCalls", "scope": "Call",
            "targetDeviceUri": format!("http://127.0.0.1:8080/api/v2/devices/{BOB_PHONE}"),
        })
    );
    let lines = server.audit();
    assert!(lines.iter().any(|line| line["user"] == "meg"), "{lines:?}");
}

#[tokio::test]
async fn every_operation_of_a_device_works() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let meg = device(MEG_PHONE);
    let operation = |name: &str| json!({"operationName": name});
    for name in ["Coach", "ListenIn", "BargeIn"] {
        let body = json!({
            "operationName": name, "phoneNumber": "5001",
            "supervisorMonitoringScope": "Agent", "supervisorMonitoringMode": "NextCall",
        });
        accepted(server.post("meg", &meg, &body).await);
        let state = server.get("meg", &meg).await.1["device"]["supervisorMonitoringState"].clone();
        assert_eq!(
            (&state["state"], &state["scope"], &state["mode"]),
            (&json!(name), &json!("Agent"), &json!("NextCall"))
        );
    }
    accepted(server.post("meg", &meg, &operation("CancelSupervisorMonitoring")).await);
    refused(server.post("meg", &meg, &operation("CancelSupervisorMonitoring")).await, 409, 2);
    for (name, field, value) in [
        ("DoNotDisturbOn", "doNotDisturb", json!("On")),
        ("DoNotDisturbOff", "doNotDisturb", json!("Off")),
    ] {
        accepted(server.post("meg", &meg, &operation(name)).await);
        assert_eq!(server.get("meg", &meg).await.1["device"][field], value);
    }
    accepted(
        server
            .post("meg", &meg, &json!({"operationName": "ForwardCallsOn", "destination": "5002"}))
            .await,
    );
    assert_eq!(server.get("meg", &meg).await.1["device"]["forwardTo"], "5002");
    accepted(server.post("meg", &meg, &operation("ForwardCallsOff")).await);
    assert!(server.get("meg", &meg).await.1["device"].get("forwardTo").is_none());
}

#[tokio::test]
async fn a_call_is_dialled_answered_held_retrieved_and_ended() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let dial = json!({"operationName": "Dial", "destination": {"phoneNumber": "5002"}});
    accepted(server.post("bob", &format!("{}/calls", device(BOB_PHONE)), &dial).await);
    let calls = server.get("eve", "/api/v2/me/calls?fields=*").await.1;
    let call = calls["calls"][0].clone();
    assert_eq!((&call["state"], &call["ani"]), (&json!("Ringing"), &json!("5001")), "{calls}");
    let path = format!("/api/v2/me{}", call["path"].as_str().expect("a path"));
    for (user, name, state) in [
        ("eve", "Answer", "Established"),
        ("eve", "Hold", "Held"),
        ("eve", "Retrieve", "Established"),
    ] {
        accepted(server.post(user, &path, &json!({"operationName": name})).await);
        assert_eq!(server.get(user, &path).await.1["call"]["state"], state);
    }
    refused(server.post("eve", &path, &json!({"operationName": "Retrieve"})).await, 409, 2);
    refused(server.post("meg", &path, &json!({"operationName": "Hangup"})).await, 404, 6);
    refused(server.post("bob", &path, &json!({"operationName": "SwitchToBargeIn"})).await, 403, 5);
    let uris = server.get("eve", "/api/v2/me/calls").await.1;
    assert_eq!(uris["uris"][0], call["uri"]);
    accepted(server.post("eve", &path, &json!({"operationName": "Hangup"})).await);
}

#[tokio::test]
async fn a_supervisor_on_a_call_switches_what_he_does() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    accepted(server.post("meg", &device(MEG_PHONE), &coach()).await);
    let call = server.phones.customer_calls("7001", "5001").await.expect("a call");
    server.phones.answer(&BOB_PHONE.into(), &call).await.expect("bob answers");
    let path = format!("/api/v2/me/calls/{call}");
    let established = wait::found(crate::support::gateway_server::PATIENCE, async || {
        let leg = server.get("meg", &path).await.1["call"].take();
        (leg["state"] == "Established").then_some(leg)
    });
    let leg = established.await.expect("established in time");
    assert_eq!(leg["monitoring"], true, "{leg}");
    for name in ["SwitchToBargeIn", "SwitchToListenIn", "SwitchToCoach"] {
        accepted(server.post("meg", &path, &json!({"operationName": name})).await);
    }
    // What is not for a supervisor's leg is refused as such, whole or with a parameter missing.
    let destination = json!({"phoneNumber": "5002"});
    for body in [
        json!({"operationName": "SingleStepTransfer", "destination": destination}),
        json!({"operationName": "SingleStepTransfer"}),
        json!({"operationName": "InitiateTransfer", "destination": destination}),
        json!({"operationName": "CompleteTransfer"}),
        json!({"operationName": "SendDtmf", "digits": "5"}),
    ] {
        refused(server.post("meg", &path, &body).await, 403, 3);
        let name = body["operationName"].as_str().expect("a name");
        let offered = leg["capabilities"].as_array().expect("a list");
        assert!(!offered.iter().any(|word| word == name), "{name} is offered");
    }
}

#[tokio::test]
async fn a_contact_centre_session_opens_and_the_state_changes() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let start = json!({"operationName": "StartContactCenterSession", "channels": ["voice"]});
    accepted(server.post("bob", "/api/v2/me", &start).await);
    for (path, name, state) in [
        (
            "/api/v2/me/channels/voice",
            "Ready",
            json!({
                "id": "9430250E-0A1B-421F-B372-F29E69366DED",
                "displayName": "Ready",
                "state": "Ready",
            }),
        ),
        (
            "/api/v2/me",
            "NotReady",
            json!({
                "id": "900D55CC-2BB0-431F-8BF9-D3525B383BE6",
                "displayName": "Not Ready",
                "state": "NotReady",
            }),
        ),
        (
            "/api/v2/me/channels/voice",
            "AfterCallWork",
            json!({
                "id": "D3663509-3D82-4DD3-A82E-2EA8EFA02AEF",
                "displayName": "AfterCallWork",
                "state": "NotReady",
                "workMode": "AfterCallWork",
            }),
        ),
        (
            "/api/v2/me/channels/voice",
            "AuxWork",
            json!({
                "id": "2B36138D-C564-4562-A8CB-3C32D564F296",
                "displayName": "AuxWork",
                "state": "NotReady",
                "workMode": "AuxWork",
            }),
        ),
        (
            "/api/v2/me/channels/voice",
            "Offline",
            json!({
                "id": "0F7F5003-EF26-4D13-A6Ef-D0C7EC819BEB",
                "displayName": "Offline",
                "state": "LoggedOut",
            }),
        ),
    ] {
        accepted(server.post("bob", path, &json!({"operationName": name})).await);
        assert_eq!(server.get("bob", "/api/v2/me").await.1["user"]["userState"], state, "{name}");
    }
    accepted(
        server
            .post("bob", "/api/v2/me", &json!({"operationName": "EndContactCenterSession"}))
            .await,
    );
    let bad = |channels: Value| {
        json!({
            "operationName": "StartContactCenterSession", "channels": channels,
        })
    };
    refused(
        server
            .post("bob", "/api/v2/me", &json!({"operationName": "StartContactCenterSession"}))
            .await,
        400,
        1,
    );
    refused(server.post("bob", "/api/v2/me", &bad(json!("voice"))).await, 400, 10);
    refused(server.post("bob", "/api/v2/me", &bad(json!([]))).await, 400, 10);
}

#[tokio::test]
async fn every_read_answers() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let (_, me) = server.get("meg", "/api/v2/me?subresources=*").await;
    let user = &me["user"];
    assert_eq!((&user["userName"], &user["roles"]), (&json!("meg"), &json!(["ROLE_SUPERVISOR"])));
    assert_eq!(user["devices"][0]["phoneNumber"], "5005");
    assert_eq!(user["calls"], json!([]));
    assert_eq!(user["channels"][0]["channel"], "voice");
    let uri = format!("http://127.0.0.1:8080/api/v2/devices/{MEG_PHONE}");
    assert_eq!(
        server.get("meg", "/api/v2/me/devices").await.1,
        json!({"statusCode": 0, "uris": [uri]})
    );
    assert_eq!(
        server.get("meg", "/api/v2/me/devices?fields=*").await.1["devices"][0]["id"],
        MEG_PHONE
    );
    assert_eq!(
        server.get("meg", &format!("/api/v2/devices/{BOB_PHONE}")).await.1["device"]["id"],
        BOB_PHONE
    );
    let found = server.get("meg", "/api/v2/devices?phoneNumber=5001&fields=*").await.1;
    assert_eq!(found["devices"][0]["id"], BOB_PHONE);
    let seen = server.get("meg", "/api/v2/devices?fields=*").await.1.to_string();
    assert!(seen.contains(BOB_PHONE) && !seen.contains(EVE_PHONE), "{seen}");
    let environment =
        server.get("meg", &format!("/api/v2/voice-environments/{ENVIRONMENT}")).await.1;
    assert_eq!(environment["voiceEnvironment"]["id"], ENVIRONMENT);
    let (status, version) = read(server.getting("/api/v2/diagnostics/version")).await;
    assert_eq!((status, &version["statusCode"]), (StatusCode::OK, &json!(0)));
    refused(server.get("meg", "/api/v2/me/devices/nothing").await, 404, 6);
    refused(server.get("meg", &device(BOB_PHONE)).await, 404, 6);
    refused(server.get("meg", &format!("/api/v2/devices/{EVE_PHONE}")).await, 404, 6);
    refused(server.get("meg", "/api/v2/me/calls/nothing").await, 404, 6);
    refused(server.get("meg", "/api/v2/voice-environments/nothing").await, 404, 6);
    refused(server.get("meg", "/api/v2/devices?phoneNumber=5%0d%0a").await, 400, 10);
}

#[tokio::test]
async fn bad_bodies_get_their_row_and_change_nothing() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let meg = device(MEG_PHONE);
    let before = server.get("meg", &meg).await;
    let send = |text: &str| {
        read(
            server
                .posting(&meg)
                .basic_auth("meg", Some(PASSWORD))
                .header(header::CONTENT_TYPE, "application/json")
                .body(text.to_owned()),
        )
    };
    for text in [
        "",
        "{",
        "[]",
        "null",
        "1",
        "\"Coach\"",
        "{\"operationName\":\"Coach\"",
        "\u{feff}{}",
        "{}{}",
    ] {
        refused(send(text).await, 400, 10);
    }
    let with = |field: &str, value: Value| {
        let mut body = coach();
        body[field] = value;
        body.to_string()
    };
    for (field, value) in [
        ("operationName", json!(7)),
        ("targetDeviceUri", json!(["x"])),
        ("targetDeviceUri", json!({"uri": "x"})),
        ("supervisorMonitoringScope", json!(true)),
        ("supervisorMonitoringScope", json!("call")),
        ("supervisorMonitoringScope", json!("Everybody")),
        ("supervisorMonitoringMode", json!("allcalls")),
        ("supervisorMonitoringMode", json!(1)),
        ("phoneNumber", json!(5001)),
        ("phoneNumber", json!("sip:5001@evil")),
        // Disagrees with targetDeviceUri.
        ("phoneNumber", json!("5002")),
    ] {
        refused(send(&with(field, value)).await, 400, 10);
    }
    let message = refused(send(r#"{"operationName":"Coach"}"#).await, 400, 1);
    assert!(message.contains("targetDeviceUri"), "{message}");
    let message = refused(send("{}").await, 400, 1);
    assert!(message.contains("operationName"), "{message}");
    let message = refused(send(r#"{"operationName":"ForwardCallsOn"}"#).await, 400, 1);
    assert!(message.contains("destination"), "{message}");
    for name in ["Dance", "coach", "Hangup", "", "StartContactCenterSession"] {
        refused(send(&json!({"operationName": name}).to_string()).await, 403, 3);
    }
    assert_eq!(server.get("meg", &meg).await, before);
}

#[tokio::test]
async fn a_target_uri_opens_no_door_but_a_device() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = trap.local_addr().expect("an address").port();
    let long = format!("/api/v2/devices/{}", "a".repeat(10_000));
    for uri in [
        format!("sip:127.0.0.1:{port};transport=tcp"),
        format!("http://127.0.0.1:{port}/"),
        format!("http://127.0.0.1:{port}"),
        format!("http://127.0.0.1:{port}/api/v2/devices/unknown"),
        "sip:169.254.169.254".to_owned(),
        "sip:[::1]".to_owned(),
        "tel:+15550100".to_owned(),
        "http://".to_owned(),
        "http://user%0d%0a@host/x".to_owned(),
        "/api/v2/devices/a%0d%0ab".to_owned(),
        "/api/v2/devices/a\r\nX: y".to_owned(),
        long,
    ] {
        let body = json!({"operationName": "Coach", "targetDeviceUri": uri});
        let (status, answer) = server.post("meg", &device(MEG_PHONE), &body).await;
        let row = (status.as_u16(), answer["statusCode"].as_u64());
        assert!(matches!(row, (400, Some(10)) | (404, Some(6))), "{uri:.60}: {answer}");
    }
    let visited = tokio::time::timeout(std::time::Duration::from_millis(50), trap.accept()).await;
    assert!(visited.is_err(), "somebody followed a targetDeviceUri");
    for uri in [
        format!("/api/v2/devices/{BOB_PHONE}"),
        format!("https://gws.example/api/v2/devices/{BOB_PHONE}"),
    ] {
        accepted(
            server
                .post(
                    "meg",
                    &device(MEG_PHONE),
                    &json!({"operationName": "Coach", "targetDeviceUri": uri}),
                )
                .await,
        );
    }
}

#[tokio::test]
async fn whoever_may_not_is_told_and_nothing_changes() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let at = |id: &str| format!("/api/v2/devices/{id}");
    let coaching = |target: &str| json!({"operationName": "Coach", "targetDeviceUri": at(target)});
    // An agent who asks to coach.
    refused(server.post("bob", &device(BOB_PHONE), &coaching(EVE_PHONE)).await, 403, 5);
    // A supervisor of other groups, who may not even know of the device.
    let (status, answer) = server.post("meg", &device(MEG_PHONE), &coaching(EVE_PHONE)).await;
    let row = (status.as_u16(), answer["statusCode"].as_u64());
    assert!(matches!(row, (403, Some(5)) | (404, Some(6))), "{answer}");
    // Somebody else's device.
    let (status, answer) = server.post("meg", &device(OTTO_PHONE), &coaching(BOB_PHONE)).await;
    let row = (status.as_u16(), answer["statusCode"].as_u64());
    assert!(matches!(row, (403, Some(5)) | (404, Some(6))), "{answer}");
    // An unknown device.
    refused(server.post("meg", &device("unknown"), &coaching(BOB_PHONE)).await, 404, 6);
    refused(server.post("meg", &device(MEG_PHONE), &coaching("unknown")).await, 404, 6);
    // Another supervisor monitors it.
    accepted(server.post("meg", &device(MEG_PHONE), &coach()).await);
    refused(server.post("kim", &device(KIM_PHONE), &coach()).await, 409, 19);
}

#[tokio::test]
async fn a_large_body_is_refused_at_once_and_its_sender_reads_why() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let big = vec![b' '; 10_000_000];
    let request = server
        .posting(&device(MEG_PHONE))
        .basic_auth("meg", Some(PASSWORD))
        .header(header::CONTENT_TYPE, "application/json");
    refused(read(request.body(big)).await, 413, 10);

    // Announced only: the answer does not wait for it.
    let mut socket = tokio::net::TcpStream::connect(server.address).await.expect("a connection");
    let token = "bWVnOmNvcnJlY3QgaG9yc2U=";
    let head = format!(
        "POST {} HTTP/1.1\r\nHost: x\r\nAuthorization: Basic {token}\r\n\
         Content-Type: application/json\r\nContent-Length: 10000000\r\n\r\n",
        device(MEG_PHONE)
    );
    socket.write_all(head.as_bytes()).await.expect("sent");
    let mut answer = [0; 12];
    socket.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn other_media_types_paths_and_methods_answer_in_the_same_shape() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let meg = device(MEG_PHONE);
    for media_type in [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "application/xml",
    ] {
        let request = server
            .posting(&meg)
            .basic_auth("meg", Some(PASSWORD))
            .header(header::CONTENT_TYPE, media_type);
        refused(read(request.body(coach().to_string())).await, 415, 10);
    }
    refused(
        read(server.posting(&meg).basic_auth("meg", Some(PASSWORD)).body(coach().to_string()))
            .await,
        415,
        10,
    );
    let request = server
        .posting(&meg)
        .basic_auth("meg", Some(PASSWORD))
        .header(header::CONTENT_TYPE, "application/json;charset=UTF-8");
    accepted(read(request.body(coach().to_string())).await);
    refused(server.get("meg", "/api/v2/nothing").await, 404, 6);
    refused(server.get("meg", "/").await, 404, 6);
    refused(server.get("meg", "/api/v2/me/devices/%ff").await, 404, 6);
    refused(server.post("meg", "/api/v2/me/devices", &json!({})).await, 405, 3);
    refused(
        read(server.browser().delete(server.url(&meg)).basic_auth("meg", Some(PASSWORD))).await,
        405,
        3,
    );
}

#[tokio::test]
async fn whoever_is_unknown_is_denied_without_a_password_prompt() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let denied = json!({"statusCode": 20, "statusMessage": "Access denied"});
    for request in [
        server.getting("/api/v2/me"),
        server.getting("/api/v2/nothing"),
        server.getting("/api/v2/me").basic_auth("meg", Some("wrong")),
        server.getting("/api/v2/me").basic_auth("nobody", Some(PASSWORD)),
        server.getting("/api/v2/me").header(header::AUTHORIZATION, "Bearer abc"),
        server.getting("/api/v2/me").header(header::AUTHORIZATION, "Basic !!"),
        server.getting("/api/v2/me").header(header::COOKIE, "JSESSIONID=guessed"),
    ] {
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        assert!(response.headers().get(header::WWW_AUTHENTICATE).is_none());
        assert!(response.headers().get(header::SET_COOKIE).is_none());
        assert_eq!(response.json::<Value>().await.expect("JSON"), denied);
    }
}

#[tokio::test]
async fn the_session_cookie_stands_in_for_the_password() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let browser = server.browser();
    let first = browser
        .get(server.url("/api/v2/me"))
        .basic_auth("meg", Some(PASSWORD))
        .send()
        .await
        .expect("an answer");
    let cookie = first.headers()[header::SET_COOKIE].to_str().expect("text").to_owned();
    assert!(
        cookie.starts_with("JSESSIONID=")
            && cookie.contains("HttpOnly")
            && cookie.contains("SameSite=Lax"),
        "{cookie}"
    );
    let second = browser.get(server.url("/api/v2/me")).send().await.expect("an answer");
    assert_eq!(second.status(), StatusCode::OK);
    let third = browser
        .get(server.url("/api/v2/me"))
        .basic_auth("meg", Some(PASSWORD))
        .send()
        .await
        .expect("an answer");
    assert!(third.headers().get(header::SET_COOKIE).is_none(), "the session it has goes on");
}

#[tokio::test]
async fn a_foreign_page_cannot_use_the_cookie() {
    let server = GatewayServer::open(ServerOptions {
        http: http::HttpConfig {
            cors_origins: vec!["https://desk.example".to_owned()],
            ..http::HttpConfig::default()
        },
        ..ServerOptions::default()
    })
    .await;
    let browser = server.browser();
    let login = browser
        .get(server.url("/api/v2/me"))
        .basic_auth("meg", Some(PASSWORD))
        .send()
        .await
        .expect("an answer");
    assert_eq!(login.status(), StatusCode::OK);
    let meg = server.url(&device(MEG_PHONE));
    for origin in ["https://evil", "null", "http://127.0.0.1:1"] {
        refused(
            read(browser.post(&meg).header(header::ORIGIN, origin).json(&coach())).await,
            403,
            5,
        );
    }
    refused(
        read(browser.post(&meg).header("sec-fetch-site", "cross-site").json(&coach())).await,
        403,
        5,
    );
    let form =
        browser.post(&meg).header(header::CONTENT_TYPE, "text/plain").body(coach().to_string());
    refused(read(form).await, 415, 10);
    assert!(
        server.get("meg", &device(MEG_PHONE)).await.1["device"]
            .get("supervisorMonitoringState")
            .is_none()
    );
    let own = format!("http://{}", server.address);
    for origin in [own.as_str(), "https://desk.example"] {
        accepted(read(browser.post(&meg).header(header::ORIGIN, origin).json(&coach())).await);
    }
}

#[tokio::test]
async fn csrf_protection_wants_its_token_back() {
    let server = GatewayServer::open(ServerOptions {
        http: http::HttpConfig { csrf: true, ..http::HttpConfig::default() },
        ..ServerOptions::default()
    })
    .await;
    let browser = server.browser();
    let login = browser
        .get(server.url("/api/v2/me"))
        .basic_auth("meg", Some(PASSWORD))
        .send()
        .await
        .expect("an answer");
    assert_eq!(login.headers()["x-csrf-header"], "X-CSRF-TOKEN");
    let token: HeaderValue = login.headers()["x-csrf-token"].clone();
    let meg = server.url(&device(MEG_PHONE));
    let message = refused(read(browser.post(&meg).json(&coach())).await, 403, 5);
    assert_eq!(message, "Missing or invalid Csrf token");
    refused(read(browser.post(&meg).header("x-csrf-token", "wrong").json(&coach())).await, 403, 5);
    let again = browser.get(server.url("/api/v2/me")).send().await.expect("an answer");
    assert_eq!(again.headers()["x-csrf-token"], token);
    accepted(read(browser.post(&meg).header("X-CSRF-TOKEN", token).json(&coach())).await);
}

#[tokio::test]
async fn guessing_passwords_is_slowed_down_for_that_user_and_address_only() {
    let server = GatewayServer::open(ServerOptions {
        auth: auth::AuthConfig {
            failures_per_user: NonZeroU32::new(3).expect("not 0"),
            ..auth::AuthConfig::default()
        },
        ..ServerOptions::default()
    })
    .await;
    let guess = |user: &'static str, password: &'static str| {
        read(server.getting("/api/v2/me").basic_auth(user, Some(password)))
    };
    for _ in 0..3 {
        refused(guess("bob", "wrong").await, 403, 20);
    }
    let mut answers = Vec::new();
    for _ in 0..3 {
        answers.push(guess("bob", "wrong").await.0.as_u16());
    }
    assert!(answers.ends_with(&[429]), "{answers:?}");
    let response = server
        .getting("/api/v2/me")
        .basic_auth("bob", Some(PASSWORD))
        .send()
        .await
        .expect("an answer");
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(response.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(guess("eve", PASSWORD).await.0, StatusCode::OK);
}

/// Behind one address, or one proxy that is not believed, and with a password that is guessed at.
#[tokio::test]
async fn nobody_locks_out_a_known_device_nor_the_first_logins_of_a_site() {
    let three = NonZeroU32::new(3).expect("not 0");
    let server = GatewayServer::open(ServerOptions {
        auth: auth::AuthConfig {
            failures_per_user: three,
            failures_per_address: three,
            failure_refill: std::time::Duration::from_secs(3600),
            cache_life: std::time::Duration::ZERO,
            ..auth::AuthConfig::default()
        },
        ..ServerOptions::default()
    })
    .await;
    let login = async |user: &str, password: &str, cookie: Option<&str>| {
        let mut request = server.getting("/api/v2/me").basic_auth(user, Some(password));
        if let Some(cookie) = cookie {
            request = request.header(header::COOKIE, cookie);
        }
        request.send().await.expect("an answer")
    };
    let first = login("bob", PASSWORD, None).await;
    let lines = first.headers().get_all(header::SET_COOKIE).iter();
    let device = lines
        .filter_map(|line| line.to_str().ok())
        .find(|line| line.starts_with("UNDERTONE_DEVICE="))
        .expect("the device is known from now on");
    for attribute in ["; Path=/", "; HttpOnly", "; SameSite=Lax", "; Max-Age=15552000"] {
        assert!(device.contains(attribute), "{device}");
    }
    let device = device.split(';').next().expect("a pair");
    // Guesses at bob, and at everybody else, from the very same address.
    for number in 0..30 {
        for user in ["bob", &format!("guess{number}")] {
            assert!(login(user, "wrong", None).await.status().is_client_error());
        }
    }
    assert_eq!(login("bob", "wrong", None).await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(login("meg", PASSWORD, None).await.status(), StatusCode::OK, "a first login");
    // What was right before is no guess; this device has one allowance, whatever others do.
    let forged = device.replace("UNDERTONE_DEVICE=", "UNDERTONE_DEVICE=AAAA");
    assert_eq!(login("bob", "wrong", Some(&forged)).await.status(), StatusCode::TOO_MANY_REQUESTS);
    let answer = login("bob", "wrong", Some(device)).await;
    assert_eq!(answer.status(), StatusCode::FORBIDDEN, "checked, though others are barred");
    let answer = login("bob", PASSWORD, Some(device)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let again = answer.headers().get_all(header::SET_COOKIE).iter();
    let is_device = |line: &HeaderValue| line.as_bytes().starts_with(b"UNDERTONE_DEVICE");
    assert!(!again.into_iter().any(is_device), "it is known already");
    // The cookie is no login, and none of another user's.
    let alone = server.getting("/api/v2/me").header(header::COOKIE, device);
    assert_eq!(alone.send().await.expect("an answer").status(), StatusCode::FORBIDDEN);
    let mut statuses = Vec::new();
    for _ in 0..5 {
        statuses.push(login("eve", "wrong", Some(device)).await.status().as_u16());
    }
    assert!(statuses.ends_with(&[429]), "{statuses:?}");
    // An allowance of its own has an end, too.
    let mut last = StatusCode::OK;
    for _ in 0..5 {
        last = login("bob", "wrong", Some(device)).await.status();
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
}

#[tokio::test]
async fn every_answer_has_a_request_id_and_stays_out_of_caches() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let ask = |id: Option<&str>| {
        let mut request = server.getting("/api/v2/me").basic_auth("meg", Some(PASSWORD));
        if let Some(id) = id {
            request = request.header("x-request-id", id);
        }
        request.send()
    };
    let answer = ask(Some("trace-1.a")).await.expect("an answer");
    assert_eq!(answer.headers()["x-request-id"], "trace-1.a");
    assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store");
    assert_eq!(answer.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    for odd in [None, Some("a b"), Some("\"level\":")] {
        let answer = ask(odd).await.expect("an answer");
        let id = answer.headers()["x-request-id"].to_str().expect("text");
        assert!(id.len() >= 12 && Some(id) != odd);
    }
    // The same id twice is two requests: proxies repeat it.
    for name in ["DoNotDisturbOn", "DoNotDisturbOff"] {
        let request = server
            .posting(&device(MEG_PHONE))
            .basic_auth("meg", Some(PASSWORD))
            .header("x-request-id", "same");
        accepted(read(request.json(&json!({"operationName": name}))).await);
    }
    assert_eq!(server.get("meg", &device(MEG_PHONE)).await.1["device"]["doNotDisturb"], "Off");
}

#[tokio::test]
async fn a_preflight_is_answered_for_allowed_origins_on_the_whole_subtree() {
    let server = GatewayServer::open(ServerOptions {
        http: http::HttpConfig {
            cors_origins: vec!["https://desk.example".to_owned()],
            ..http::HttpConfig::default()
        },
        ..ServerOptions::default()
    })
    .await;
    for path in [
        "/api/v2/me",
        "/api/v2/notifications",
        "/api/v2/notifications/handshake",
        "/api/v2/notifications/connect",
    ] {
        let preflight = |origin: &str| {
            let request = server.browser().request(Method::OPTIONS, server.url(path));
            request
                .header(header::ORIGIN, origin)
                .header("access-control-request-method", "POST")
                .header("access-control-request-headers", "content-type")
                .send()
        };
        let answer = preflight("https://desk.example").await.expect("an answer");
        assert!(answer.status().is_success(), "{path}");
        assert_eq!(answer.headers()["access-control-allow-origin"], "https://desk.example");
        assert_eq!(answer.headers()["access-control-allow-credentials"], "true");
        let text = |name: &str| answer.headers()[name].to_str().expect("text").to_ascii_lowercase();
        assert!(text("access-control-allow-methods").contains("post"));
        assert!(text("access-control-allow-headers").contains("content-type"));
        assert!(text("vary").contains("origin"));
        let answer = preflight("https://evil").await.expect("an answer");
        let given: Vec<_> = answer
            .headers()
            .keys()
            .filter(|name| name.as_str().starts_with("access-control"))
            .collect();
        assert!(given.is_empty(), "{path}: {given:?}");
    }
}
