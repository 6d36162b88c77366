//! Clients that take their answers in small pieces: what the kernel does not take at once is
//! finished later, byte for byte.

use super::{PollingSession, data, handshake, open_with, reply};
use crate::support::cometd_connection::{By, CometdConnection};
use crate::support::gateway_server::{GatewayServer, PATIENCE};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use undertone::cometd::CometdConfig;

/// More than all socket buffers together.
const EVENTS: usize = 200;
const LARGE: usize = 40_000;

async fn server() -> GatewayServer {
    open_with(CometdConfig {
        max_queue: 10_000,
        max_queue_bytes: 64 << 20,
        max_queue_bytes_per_user: 64 << 20,
        max_queue_bytes_per_address: 64 << 20,
        ..CometdConfig::default()
    })
    .await
}

/// A session that hears `/x/a`, connected once.
async fn session(server: &GatewayServer, by: By) -> (CometdConnection, Value) {
    let mut line = CometdConnection::open_narrow(server.address, by, "meg").await;
    let mut shake = handshake();
    shake["supportedConnectionTypes"] = json!([by.name()]);
    line.send(&json!([shake])).await;
    let id = reply(&line.until_reply("/meta/handshake").await.expect("open"))["clientId"].clone();
    line.send(&json!([{"channel":"/meta/subscribe","clientId":id,"subscription":"/x/a"}])).await;
    line.until_reply("/meta/subscribe").await.expect("open");
    let connect = json!([{"channel":"/meta/connect","clientId":id,"connectionType":by.name()}]);
    line.send(&connect).await;
    line.until_reply("/meta/connect").await.expect("open");
    (line, connect)
}

fn large(number: usize) -> Value {
    json!(format!("{number} {}", char::from(b'a' + (number % 26) as u8).to_string().repeat(LARGE)))
}

async fn publish_many(server: &GatewayServer) {
    let writer = PollingSession::new(server, "bob").await;
    for number in 0..EVENTS {
        writer.publish("/x/a", large(number)).await;
    }
}

fn check(heard: &[Value]) {
    assert_eq!(heard.len(), EVENTS);
    for (number, event) in heard.iter().enumerate() {
        assert!(*event == large(number), "event {number} is not as it was sent");
    }
}

async fn a_poll_gets_all_of_a_large_answer() {
    let server = server().await;
    let (mut line, connect) = session(&server, By::Poll).await;
    publish_many(&server).await;
    line.send(&connect).await;
    let answer = line.receive().await.expect("an answer");
    check(&data(&answer));
    line.send(&connect).await;
    let writer = PollingSession::new(&server, "kim").await;
    writer.publish("/x/a", json!("after")).await;
    assert_eq!(data(&line.receive().await.expect("an answer")), ["after"], "each came once");
}

async fn a_websocket_gets_every_frame_whole_and_its_pong_between_two() {
    let server = server().await;
    let (line, _) = session(&server, By::Socket).await;
    let CometdConnection::Socket(mut socket) = line else { unreachable!() };
    publish_many(&server).await;
    socket.send(Message::Ping(b"still there?".to_vec().into())).await.expect("sent");
    let (mut heard, mut pongs) = (Vec::new(), 0);
    while heard.len() < EVENTS || pongs == 0 {
        match timeout(PATIENCE, socket.next())
            .await
            .expect("in time")
            .expect("open")
            .expect("a frame")
        {
            Message::Text(text) => {
                heard.extend(data(&serde_json::from_str::<Vec<Value>>(&text).expect("an array")))
            }
            Message::Pong(said) => {
                assert_eq!(&said[..], b"still there?");
                pongs += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    check(&heard);
    let writer = PollingSession::new(&server, "kim").await;
    writer.publish("/x/a", json!("after")).await;
    let after =
        timeout(PATIENCE, socket.next()).await.expect("in time").expect("open").expect("a frame");
    assert_eq!(
        data(
            &serde_json::from_str::<Vec<Value>>(after.to_text().expect("text")).expect("an array")
        ),
        ["after"]
    );
}

#[tokio::test]
async fn on_one_core_a_poll_that_reads_slowly_gets_all_of_a_large_answer() {
    a_poll_gets_all_of_a_large_answer().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn on_several_cores_a_poll_that_reads_slowly_gets_all_of_a_large_answer() {
    a_poll_gets_all_of_a_large_answer().await;
}

#[tokio::test]
async fn on_one_core_a_websocket_that_reads_slowly_gets_every_frame_whole_and_its_pong() {
    a_websocket_gets_every_frame_whole_and_its_pong_between_two().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn on_several_cores_a_websocket_that_reads_slowly_gets_every_frame_whole_and_its_pong() {
    a_websocket_gets_every_frame_whole_and_its_pong_between_two().await;
}

/// Requests that are answered at once keep nobody from events.
#[tokio::test]
async fn a_flood_of_requests_holds_up_no_event() {
    let server = server().await;
    let (mut line, connect) = session(&server, By::Poll).await;
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..150 {
        let address = server.address;
        flood.spawn(async move {
            let mut line = CometdConnection::open(address, By::Poll, "bob").await;
            loop {
                line.send(&json!([{"channel":"/meta/connect","clientId":"nobody"}])).await;
                line.receive().await.expect("an answer");
            }
        });
    }
    tokio::task::yield_now().await;
    let writer = PollingSession::new(&server, "kim").await;
    for number in 0..20 {
        line.send(&connect).await;
        writer.publish("/x/a", json!(number)).await;
        let answer = timeout(Duration::from_secs(20), line.receive())
            .await
            .expect("soon")
            .expect("an answer");
        assert_eq!(data(&answer), [json!(number)]);
    }
}
