//! The event channel on a websocket.

use super::{PollingSession, data, handshake, open, open_with, reply};
use crate::support::cometd_connection::{By, CometdConnection, Cut, basic, open_socket, upgrade};
use crate::support::gateway_server::{GatewayServer, PATIENCE};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::{Error, Message};
use undertone::cometd::CometdConfig;

/// A session on a socket of its own, connected once and subscribed.
pub(crate) async fn session(
    server: &GatewayServer,
    user: &str,
    channel: &str,
    ext: Value,
) -> (CometdConnection, String) {
    let mut line = CometdConnection::open(server.address, By::Socket, user).await;
    let id = shake(&mut line, ext).await;
    line.send(&json!([{"channel": "/meta/subscribe", "clientId": id, "subscription": channel}]))
        .await;
    assert_eq!(
        reply(&line.until_reply("/meta/subscribe").await.expect("open"))["successful"],
        true
    );
    line.send(&connect(&id, json!({}))).await;
    line.until_reply("/meta/connect").await.expect("open");
    (line, id)
}

async fn shake(line: &mut CometdConnection, ext: Value) -> String {
    line.send(&json!([{
        "channel": "/meta/handshake",
        "version": "1.0",
        "supportedConnectionTypes": ["websocket"],
        "ext": ext,
    }]))
    .await;
    let answer = line.until_reply("/meta/handshake").await.expect("open");
    answer[0]["clientId"].as_str().unwrap_or_else(|| panic!("{answer:?}")).to_owned()
}

fn connect(id: &str, ext: Value) -> Value {
    json!([{"channel": "/meta/connect", "clientId": id, "connectionType": "websocket", "ext": ext}])
}

async fn held(server: &GatewayServer, count: usize) {
    let mut load = server.bayeux.load();
    let waited = timeout(PATIENCE, load.wait_for(|load| load.held == count)).await;
    waited.expect("in time").expect("an event channel");
}

#[tokio::test]
async fn c38_handshake_connect_and_subscribe_on_one_socket() {
    let server = open().await;
    let mut line = CometdConnection::open(server.address, By::Socket, "meg").await;
    line.send(&json!([handshake()])).await;
    let shaken = line.receive().await.expect("a reply").remove(0);
    assert_eq!((&shaken["successful"], &shaken["id"]), (&json!(true), &json!("h1")));
    assert_eq!(shaken["supportedConnectionTypes"], json!(["websocket", "long-polling"]));
    assert_eq!(shaken["advice"], json!({"reconnect": "retry", "interval": 0, "timeout": 25000}));
    let id = shaken["clientId"].as_str().expect("an id");
    line.send(&connect(id, json!({}))).await;
    assert_eq!(
        line.receive().await.expect("a reply")[0]["successful"],
        true,
        "the first is not held"
    );
    line.send(&json!([
        {"channel": "/meta/subscribe", "id": "2", "clientId": id, "subscription": "/x/a"},
        {"channel": "/x/a", "id": "3", "clientId": id, "data": 7},
    ]))
    .await;
    let mut all = Vec::new();
    while all.len() < 3 {
        all.extend(line.receive().await.expect("more"));
    }
    assert_eq!(data(&all), [json!(7)]);
    assert!(
        all.iter()
            .filter(|message| message.get("id").is_some())
            .all(|reply| reply["successful"] == true),
        "{all:?}"
    );
}

#[tokio::test]
async fn c39_an_event_is_pushed_at_once_and_the_connect_stays_held() {
    let hold = std::time::Duration::from_millis(500);
    let server = open_with(CometdConfig { hold, ..CometdConfig::default() }).await;
    let (mut line, id) = session(&server, "meg", "/x/a", json!({})).await;
    let began = undertone::clock::instant();
    line.send(&connect(&id, json!({}))).await;
    held(&server, 1).await;
    PollingSession::new(&server, "bob").await.publish("/x/a", json!("now")).await;
    let pushed = line.receive().await.expect("an event");
    assert_eq!(pushed, [json!({"channel": "/x/a", "data": "now"})]);
    assert_eq!(server.bayeux.load().borrow().held, 1);
    let replied = line.receive().await.expect("a reply");
    assert!(began.elapsed() >= hold);
    assert_eq!(replied, [json!({"channel": "/meta/connect", "successful": true})]);
}

#[tokio::test]
async fn with_acknowledgements_a_websocket_brings_events_with_connect_replies_only() {
    let server = open().await;
    let (mut line, id) = session(&server, "meg", "/x/a", json!({"ack": true})).await;
    let writer = PollingSession::new(&server, "bob").await;
    line.send(&connect(&id, json!({"ack": 0}))).await;
    held(&server, 1).await;
    writer.publish("/x/a", json!(1)).await;
    let first = line.receive().await.expect("a reply");
    assert_eq!(data(&first), [json!(1)]);
    line.send(&connect(&id, json!({"ack": 0}))).await;
    let again = line.receive().await.expect("a reply");
    assert_eq!(data(&again), [json!(1)]);
    line.send(&connect(&id, json!({"ack": reply(&again)["ext"]["ack"]}))).await;
    held(&server, 1).await;
}

#[tokio::test]
async fn a_session_moves_from_http_to_a_socket_and_back() {
    let server = open().await;
    let desktop = PollingSession::on(&server, "meg", "/x/a").await;
    let writer = PollingSession::new(&server, "bob").await;
    let mut line = CometdConnection::open(server.address, By::Socket, "meg").await;
    line.send(&json!([
        {
            "channel": "/meta/connect", "id": "1",
            "clientId": desktop.id, "connectionType": "websocket",
        },
        {"channel": "/meta/subscribe", "id": "2", "clientId": desktop.id, "subscription": "/x/b"},
    ]))
    .await;
    line.until_reply("/meta/subscribe").await.expect("open");
    writer.publish("/x/b", json!("pushed")).await;
    assert_eq!(data(&line.receive().await.expect("an event")), [json!("pushed")]);
    assert_eq!(desktop.waiting().await, Vec::<Value>::new());
    writer.publish("/x/a", json!("polled")).await;
    assert_eq!(data(&desktop.connect().await), [json!("polled")]);
}

#[tokio::test]
async fn g08_a_cut_socket_loses_nothing_that_happens_before_the_next_one() {
    let server = open().await;
    let (mut line, id) = session(&server, "meg", "/x/a", json!({})).await;
    let writer = PollingSession::new(&server, "bob").await;
    for (number, how) in [Cut::Fin, Cut::Rst, Cut::Fin, Cut::Rst].into_iter().enumerate() {
        line.send(&connect(&id, json!({}))).await;
        held(&server, 1).await;
        line.cut(how);
        writer.publish("/x/a", json!(number)).await;
        line = CometdConnection::open(server.address, By::Socket, "meg").await;
        line.send(&connect(&id, json!({}))).await;
        assert_eq!(data(&line.receive().await.expect("an event")), [json!(number)], "{how:?}");
    }
}

#[tokio::test]
async fn g06_and_d11_a_foreign_page_opens_no_socket_even_with_a_valid_cookie() {
    let server = open().await;
    let upgraded = async |origin: Option<String>, user: Option<&str>| {
        let mut request = upgrade(server.address, user);
        if let Some(origin) = origin {
            request.headers_mut().insert("origin", origin.parse().expect("a header"));
        }
        match open_socket(server.address, request).await {
            Ok(_) => 101,
            Err(Error::Http(response)) => response.status().as_u16(),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(upgraded(Some("https://evil".to_owned()), Some("meg")).await, 403);
    assert_eq!(upgraded(Some("null".to_owned()), Some("meg")).await, 403);
    assert_eq!(upgraded(Some(format!("http://{}", server.address)), Some("meg")).await, 101);
    assert_eq!(upgraded(None, Some("meg")).await, 101);
    assert_eq!(upgraded(None, None).await, 101, "who it is, the handshake asks");

    let login = server
        .getting("/api/v2/me")
        .basic_auth("meg", Some(crate::support::gateway_server::PASSWORD));
    let login = login.send().await.expect("an answer");
    let cookie = login.headers()["set-cookie"]
        .to_str()
        .expect("text")
        .split(';')
        .next()
        .expect("a cookie")
        .to_owned();
    let mut request = upgrade(server.address, None);
    request.headers_mut().insert("cookie", cookie.parse().expect("a header"));
    request.headers_mut().insert("origin", "https://evil".parse().expect("a header"));
    let refused = open_socket(server.address, request).await.expect_err("refused");
    assert!(matches!(refused, Error::Http(response) if response.status() == 403));
}

#[tokio::test]
async fn a_handshake_of_nobody_is_denied_on_a_socket_too() {
    let server = open().await;
    let (mut socket, response) =
        open_socket(server.address, upgrade(server.address, None)).await.expect("a websocket");
    assert!(!response.headers().contains_key("set-cookie"), "only a handshake over HTTP sets it");
    socket.send(Message::text(json!([handshake()]).to_string())).await.expect("sent");
    let answer = socket.next().await.expect("a frame").expect("text");
    let answer: Value = serde_json::from_str(answer.to_text().expect("text")).expect("JSON");
    assert_eq!(
        (&answer[0]["error"], &answer[0]["advice"]["reconnect"]),
        (&json!("403::handshake_denied"), &json!("none"))
    );
}

#[tokio::test]
async fn bad_frames_get_a_reply_or_a_close_code_and_end_nobody_elses_session() {
    let server = open().await;
    let (mut other, other_id) = session(&server, "meg", "/x/a", json!({})).await;
    other.send(&connect(&other_id, json!({}))).await;
    for (frame, code) in [
        (Message::text("{"), 1011),
        (Message::text("[1]"), 1011),
        (Message::binary(vec![1, 2]), 1003),
        (Message::text(format!("[{}]", " ".repeat(100_000))), 1009),
    ] {
        let (mut socket, _) = open_socket(server.address, upgrade(server.address, Some("meg")))
            .await
            .expect("a websocket");
        // It may have been closed on us while we were still writing.
        let _ = socket.send(frame.clone()).await;
        let close = loop {
            match timeout(PATIENCE, socket.next()).await.expect("in time") {
                Some(Ok(Message::Close(Some(close)))) => break u16::from(close.code),
                Some(Ok(_)) => {}
                other => panic!("{frame:?}: {other:?}"),
            }
        };
        assert_eq!(close, code, "{}", frame.len());
    }
    let mut line = CometdConnection::open(server.address, By::Socket, "meg").await;
    line.send(&json!([])).await;
    assert_eq!(line.receive().await.expect("a reply")[0]["error"], "400::messages_missing");
    let many: Vec<Value> = (0..65).map(|_| json!({"channel": "/x/a"})).collect();
    line.send(&json!(many)).await;
    assert_eq!(line.receive().await.expect("a reply")[0]["error"], "413::too_many_messages");
    line.send(&json!([{"channel": "/meta/connect", "id": "9", "clientId": "unknown"}])).await;
    let reply = line.receive().await.expect("a reply").remove(0);
    assert_eq!(
        (&reply["error"], &reply["advice"]["reconnect"]),
        (&json!("402::session_unknown"), &json!("handshake"))
    );
    let mut garbage = CometdConnection::open(server.address, By::Socket, "meg").await;
    if let CometdConnection::Socket(socket) = &mut garbage {
        use tokio::io::AsyncWriteExt;
        socket.get_mut().write_all(&[0xff; 64]).await.expect("sent");
    }
    PollingSession::new(&server, "bob").await.publish("/x/a", json!("fine")).await;
    assert_eq!(data(&other.receive().await.expect("an event")), [json!("fine")]);
}

#[tokio::test]
async fn a_client_that_does_not_read_loses_its_session_and_slows_nobody() {
    let server = open_with(CometdConfig {
        max_queue_bytes: 200_000,
        max_queue: 100_000,
        ..CometdConfig::default()
    })
    .await;
    let (slow, _) = session(&server, "meg", "/x/a", json!({})).await;
    let (mut quick, quick_id) = session(&server, "kim", "/x/a", json!({})).await;
    quick.send(&connect(&quick_id, json!({}))).await;
    let writer = PollingSession::new(&server, "bob").await;
    let before = server.bayeux.load().borrow().sessions;
    let large = "x".repeat(30_000);
    // More than two socket buffers and the queue.
    let mut number = 0;
    while server.bayeux.load().borrow().sessions == before {
        number += 1;
        assert!(number < 5_000, "it is never too much");
        writer.publish("/x/a", json!(format!("{number} {large}"))).await;
        let event = quick.receive().await.expect("an event");
        assert!(
            data(&event)[0].as_str().is_some_and(|text| text.starts_with(&format!("{number} ")))
        );
    }
    drop(slow);
}

#[tokio::test]
async fn going_down_closes_sockets_after_telling_them_when_to_come_back() {
    let server = open().await;
    let (mut line, id) = session(&server, "meg", "/x/a", json!({})).await;
    line.send(&connect(&id, json!({}))).await;
    held(&server, 1).await;
    let (told, ()) = tokio::join!(line.receive(), server.bayeux.drain());
    let advice = told.expect("a reply")[0]["advice"].clone();
    assert_eq!(advice["reconnect"], "retry");
    assert!(advice["interval"].as_u64() >= Some(1000), "{advice}");
    assert_eq!(line.receive().await, None);
}

#[tokio::test]
async fn where_websockets_are_not_offered_the_upgrade_fails_at_once() {
    let server = open_with(CometdConfig { websocket: false, ..CometdConfig::default() }).await;
    let refused = open_socket(server.address, upgrade(server.address, Some("meg")))
        .await
        .expect_err("refused");
    assert!(matches!(refused, Error::Http(response) if response.status() == 403));
    let shaken = super::say(&server, "meg", &json!([handshake()])).await;
    assert_eq!(shaken[0]["supportedConnectionTypes"], json!(["long-polling"]));
    assert!(basic("meg").starts_with("Basic "));
}
