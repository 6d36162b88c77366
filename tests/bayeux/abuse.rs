//! What one client does to itself, and never to another.

use super::{ENDPOINT, PollingSession, data, handshake, open, open_with, reply, say};
use crate::support::cometd_connection::{By, CometdConnection, open_socket, upgrade};
use crate::support::gateway_server::{GatewayServer, PASSWORD, PATIENCE, ServerOptions};
use futures_util::{SinkExt, StreamExt};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use std::num::NonZeroU32;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use undertone::cometd::CometdConfig;
use undertone::http;

#[tokio::test(flavor = "multi_thread")]
async fn who_subscribes_again_and_again_ends_nobody_elses_session() {
    let server = open().await;
    let meg = PollingSession::on(&server, "meg", "/v2/me/devices").await;
    meg.events(1).await;
    let bob = PollingSession::new(&server, "bob").await;
    let subscribe =
        json!({"channel": "/meta/subscribe", "clientId": bob.id, "subscription": "/v2/me/*"});
    let unsubscribe =
        json!({"channel": "/meta/unsubscribe", "clientId": bob.id, "subscription": "/v2/me/*"});
    let batch: Vec<Value> =
        (0..32).flat_map(|_| [subscribe.clone(), unsubscribe.clone()]).collect();
    let batch = json!(batch);
    let mut flood = JoinSet::new();
    for _ in 0..100 {
        let mut line = CometdConnection::open(server.address, By::Poll, "bob").await;
        let batch = batch.clone();
        flood.spawn(async move {
            for _ in 0..10 {
                line.send(&batch).await;
                line.receive().await.expect("an answer");
            }
        });
    }
    while let Some(done) = flood.join_next().await {
        done.expect("all of it was answered");
    }
    let body = json!({"operationName": "DoNotDisturbOn"});
    let path = format!("/api/v2/me/devices/{}", crate::support::gateway_server::MEG_PHONE);
    assert_eq!(server.post("meg", &path, &body).await.0, StatusCode::OK);
    let event = meg.events(1).await.remove(0);
    assert_eq!(event["data"]["devices"][0]["doNotDisturb"], "On", "the same session");
}

#[tokio::test]
async fn data_nested_without_end_is_refused_and_reaches_nobody() {
    let server = open().await;
    let reader = PollingSession::on(&server, "meg", "/x/a").await;
    let writer = PollingSession::new(&server, "bob").await;
    let deep = format!(
        r#"[{{"channel":"/x/a","clientId":"{}","data":{}{}}}]"#,
        writer.id,
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    let request = server.posting(ENDPOINT).basic_auth("bob", Some(PASSWORD));
    let request = request.header(header::CONTENT_TYPE, "application/json").body(deep);
    let answer: Value = request.send().await.expect("an answer").json().await.expect("JSON");
    assert_eq!(answer[0]["error"], "400::data_too_deep");
    writer.publish("/x/a", json!([[1]])).await;
    assert_eq!(data(&reader.connect().await), [json!([[1]])]);
}

#[tokio::test]
async fn a_number_that_was_never_given_out_is_not_taken_for_a_complete_replay() {
    let server = open().await;
    for number in [json!(9e18), json!(1e300), json!(u64::MAX), json!(9_999_999_999_u64)] {
        let desktop = PollingSession::new(&server, "meg").await;
        let subscribe = json!({"subscription": "/v2/me/devices", "ext": {"replay": number}});
        let reply = desktop.say("/meta/subscribe", subscribe).await.remove(0);
        assert_eq!(reply["ext"]["replay"]["complete"], false, "{number}: {reply}");
        assert_eq!(reply["ext"]["replay"]["last"], 1_000_000_000_u64);
    }
}

#[tokio::test]
async fn a_close_is_answered_with_a_close() {
    let server = open().await;
    let (mut socket, _) = open_socket(server.address, upgrade(server.address, Some("meg")))
        .await
        .expect("a websocket");
    let frame = CloseFrame { code: CloseCode::Normal, reason: "bye".into() };
    socket.send(Message::Close(Some(frame))).await.expect("sent");
    let answer = timeout(PATIENCE, socket.next())
        .await
        .expect("in time")
        .expect("a frame")
        .expect("a close");
    assert!(
        matches!(&answer, Message::Close(Some(close)) if close.code == CloseCode::Normal),
        "{answer:?}"
    );
    assert!(timeout(PATIENCE, socket.next()).await.expect("in time").is_none());
}

#[tokio::test]
async fn a_foreign_page_sends_no_form_and_calls_no_callback_even_with_a_password() {
    let server =
        open_with(CometdConfig { callback_polling: true, ..CometdConfig::default() }).await;
    let message = json!([handshake()]).to_string();
    let encoded: String = form_urlencoded::byte_serialize(message.as_bytes()).collect();
    let form = server
        .posting(ENDPOINT)
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .header(header::ORIGIN, "https://evil")
        .body(format!("message={encoded}"));
    let callback = server
        .getting(&format!("{ENDPOINT}?jsonp=cb&message={encoded}"))
        .header("sec-fetch-site", "cross-site");
    for request in [form, callback] {
        let response = request.basic_auth("meg", Some(PASSWORD)).send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
    }
}

#[tokio::test]
async fn an_address_has_so_many_websockets_and_no_more() {
    let server =
        open_with(CometdConfig { max_sessions_per_address: 3, ..CometdConfig::default() }).await;
    let mut sockets = Vec::new();
    for _ in 0..3 {
        sockets.push(
            open_socket(server.address, upgrade(server.address, None))
                .await
                .expect("a websocket")
                .0,
        );
    }
    let (mut one_more, _) =
        open_socket(server.address, upgrade(server.address, None)).await.expect("a websocket");
    let close = timeout(PATIENCE, one_more.next())
        .await
        .expect("in time")
        .expect("a frame")
        .expect("a close");
    assert!(
        matches!(&close, Message::Close(Some(close)) if u16::from(close.code) == 1013),
        "{close:?}"
    );
    drop(sockets.pop());
    let mut load = server.bayeux.load();
    let gone = timeout(PATIENCE, load.wait_for(|load| load.sockets == 2)).await;
    drop(gone.expect("in time").expect("an event channel"));
    let mut line = CometdConnection::open(server.address, By::Socket, "meg").await;
    line.send(&json!([handshake()])).await;
    assert_eq!(reply(&line.receive().await.expect("open"))["successful"], true);
}

/// Behind a proxy everybody has one address, unless the proxy is believed; and who has logged in
/// before is not guessing.
#[tokio::test]
async fn a_guesser_behind_the_proxy_keeps_nobody_else_out() {
    let server = GatewayServer::open(ServerOptions {
        http: http::HttpConfig {
            trusted_proxies: vec!["127.0.0.1".parse().expect("an address")],
            ..http::HttpConfig::default()
        },
        auth: http::auth::AuthConfig {
            failures_per_address: NonZeroU32::new(2).expect("more than 0"),
            cache_life: std::time::Duration::ZERO,
            ..http::auth::AuthConfig::default()
        },
        ..ServerOptions::default()
    })
    .await;
    let shake = async |user: &str, password: &str, from: &str| {
        let request = server
            .posting(ENDPOINT)
            .basic_auth(user, Some(password))
            .header("x-forwarded-for", from);
        let answer: Value = request
            .json(&json!([handshake()]))
            .send()
            .await
            .expect("an answer")
            .json()
            .await
            .expect("JSON");
        answer[0]["error"].as_str().unwrap_or("fine").to_owned()
    };
    assert_eq!(shake("kim", PASSWORD, "192.0.2.1").await, "fine");
    for number in 0..5 {
        shake(&format!("guess{number}"), "wrong", "192.0.2.1").await;
    }
    assert_eq!(shake("otto", PASSWORD, "192.0.2.1").await, "fine", "from where the guesses came");
    assert_eq!(
        shake("meg", PASSWORD, "192.0.2.2").await,
        "fine",
        "from elsewhere behind the proxy"
    );
    assert_eq!(shake("kim", PASSWORD, "192.0.2.1").await, "fine", "that was right before");
    let mut answer = String::new();
    for _ in 0..12 {
        answer = shake("kim", "wrong", "192.0.2.1").await;
    }
    assert_eq!(answer, "429::too_many_requests", "guessing at one user");
}

#[tokio::test]
async fn messages_of_a_client_nobody_knows_are_all_answered() {
    let server = open().await;
    let many: Vec<Value> =
        (0..64).map(|_| json!({"channel": "/meta/connect", "clientId": "x"})).collect();
    let answer = say(&server, "meg", &json!(many)).await;
    assert_eq!(answer.len(), 64);
    assert!(answer.iter().all(|reply| reply["error"] == "402::session_unknown"));
}
