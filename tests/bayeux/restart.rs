//! The gateway starts anew: what its clients find again.

use super::{PollingSession, data, is_event, reply};
use crate::support::gateway_server::{GatewayServer, MEG_PHONE, ServerOptions};
use serde_json::{Value, json};
use undertone::cometd::CometdConfig;
use undertone::store::{self, Store};

async fn server(store: &Store) -> GatewayServer {
    GatewayServer::open(ServerOptions {
        store: Some(store.clone()),
        bayeux: CometdConfig { open_channels: vec!["/x/**".to_owned()], ..CometdConfig::default() },
        ..ServerOptions::default()
    })
    .await
}

async fn forward_to(server: &GatewayServer, number: &str) {
    let body = json!({"operationName": "ForwardCallsOn", "destination": number});
    let answer = server.post("meg", &format!("/api/v2/me/devices/{MEG_PHONE}"), &body).await;
    assert!(answer.0.is_success(), "{answer:?}");
}

/// What has happened, without the present state.
fn happened(messages: &[Value]) -> Vec<String> {
    let numbered =
        messages.iter().filter(|message| is_event(message) && message["ext"]["replay"].is_u64());
    numbered
        .map(|event| event["data"]["devices"][0]["forwardTo"].as_str().unwrap_or("-").to_owned())
        .collect()
}

fn states(messages: &[Value]) -> usize {
    let plain = messages.iter().filter(|message| is_event(message) && message.get("ext").is_none());
    plain.count()
}

#[tokio::test]
async fn a_client_that_acknowledges_keeps_its_session_and_hears_what_it_had_not_acknowledged() {
    let store = store::in_memory();
    let first = server(&store).await;
    let shake = json!([{"channel": "/meta/handshake", "version": "1.0", "ext": {"ack": true}}]);
    let shaken = super::say(&first, "meg", &shake).await;
    let id = shaken[0]["clientId"].as_str().expect("an id").to_owned();
    let desktop = PollingSession { server: &first, user: "meg", id: id.clone() };
    let connect = |ack: i64| {
        json!({
            "connectionType": "long-polling", "ext": {"ack": ack}, "advice": {"timeout": 3_000},
        })
    };
    let batch = |answer: &[Value]| reply(answer)["ext"]["ack"].as_i64().expect("a number");
    assert_eq!(desktop.subscribe(&json!("/v2/me/devices")).await["successful"], true);
    let answer = desktop.say("/meta/connect", connect(-1)).await;
    forward_to(&first, "11").await;
    let mut ack = batch(&answer);
    let mut heard = happened(&answer);
    while heard.is_empty() {
        let answer = desktop.say("/meta/connect", connect(ack)).await;
        ack = batch(&answer);
        heard.extend(happened(&answer));
    }
    assert_eq!(heard, ["11"]);
    forward_to(&first, "22").await;
    let unread = desktop.say("/meta/connect", connect(ack)).await;
    assert_eq!(happened(&unread), ["22"], "this answer is lost on its way");
    forward_to(&first, "33").await;
    first.close().await;

    let second = server(&store).await;
    let desktop = PollingSession { server: &second, user: "meg", id };
    let answer = desktop.say("/meta/connect", connect(ack)).await;
    assert_eq!(reply(&answer)["successful"], true, "{answer:?}");
    assert_eq!(happened(&answer), ["22", "33"]);
    forward_to(&second, "44").await;
    let (mut ack, mut heard, mut told) = (batch(&answer), Vec::new(), states(&answer));
    while heard.is_empty() || told == 0 {
        let answer = desktop.say("/meta/connect", connect(ack)).await;
        ack = batch(&answer);
        told += states(&answer);
        heard.extend(happened(&answer));
    }
    assert_eq!(heard, ["44"]);
    assert_eq!(told, 1, "the present state, since nobody knows what has changed meanwhile");
}

#[tokio::test]
async fn a_client_that_remembers_its_last_number_hears_all_that_came_after_it() {
    let store = store::in_memory();
    let first = server(&store).await;
    let desktop = PollingSession::on(&first, "meg", "/v2/me/devices").await;
    desktop.events(1).await;
    forward_to(&first, "11").await;
    let event = desktop.events(1).await.remove(0);
    let last = event["ext"]["replay"].as_u64().expect("a number");
    forward_to(&first, "22").await;
    forward_to(&first, "33").await;
    first.close().await;

    let second = server(&store).await;
    forward_to(&second, "44").await;
    let desktop = PollingSession::new(&second, "meg").await;
    let subscribe = desktop.say(
        "/meta/subscribe",
        json!({"subscription": ["/v2/me/devices"], "ext": {"replay": {"/v2/me/devices": last}}}),
    );
    let subscribed = subscribe.await.remove(0);
    assert_eq!(subscribed["ext"]["replay"]["complete"], true, "{subscribed}");
    let mut heard = Vec::new();
    let mut numbers = vec![last];
    while heard.len() < 3 {
        let answer = desktop.connect().await;
        heard.extend(happened(&answer));
        numbers.extend(
            answer
                .iter()
                .filter(|message| is_event(message))
                .filter_map(|event| event["ext"]["replay"].as_u64()),
        );
    }
    assert_eq!(heard, ["22", "33", "44"]);
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "{numbers:?}");
    let bob = PollingSession::new(&second, "bob").await;
    let all = json!({"subscription": "/v2/me/devices", "ext": {"replay": -2}});
    bob.say("/meta/subscribe", all).await;
    assert!(happened(&bob.events(1).await).is_empty(), "another's events are not replayed");
}

#[tokio::test]
async fn other_clients_are_told_to_shake_hands_again_and_get_the_present_state() {
    let store = store::in_memory();
    let first = server(&store).await;
    let id = PollingSession::on(&first, "meg", "/v2/me/devices").await.id.clone();
    first.close().await;
    let second = server(&store).await;
    let desktop = PollingSession { server: &second, user: "meg", id };
    let answer = desktop.connect().await;
    assert_eq!(
        (&answer[0]["error"], &answer[0]["advice"]["reconnect"]),
        (&json!("402::session_unknown"), &json!("handshake"))
    );
    let desktop = PollingSession::on(&second, "meg", "/v2/me/devices").await;
    assert_eq!(data(&desktop.connect().await).len(), 1);
}

#[tokio::test]
async fn a_full_disk_costs_replays_and_nothing_else() {
    let server = GatewayServer::open(ServerOptions {
        store: Some(std::sync::Arc::new(Full)),
        ..ServerOptions::default()
    })
    .await;
    let desktop = PollingSession::on(&server, "meg", "/v2/me/devices").await;
    desktop.events(1).await;
    forward_to(&server, "11").await;
    let event = desktop.events(1).await.remove(0);
    let number = event["ext"]["replay"].as_u64().expect("a number");
    let again = PollingSession::new(&server, "meg").await;
    let subscribe = json!({"subscription": "/v2/me/devices", "ext": {"replay": number - 1}});
    let mut complete = json!(true);
    // The disk's answer comes behind the event.
    while complete == true {
        again.say("/meta/unsubscribe", json!({"subscription": "/v2/me/devices"})).await;
        complete = again.say("/meta/subscribe", subscribe.clone()).await.remove(0)["ext"]["replay"]
            ["complete"]
            .clone();
    }
    assert_eq!(complete, false, "it says that something is missing");
}

/// A store that takes what a start needs, and then nothing.
struct Full;

impl store::KeyValueStore for Full {
    fn scan(
        &self,
        _: &str,
        _: &str,
        _: Option<&str>,
        _: &mut dyn FnMut(&str, &[u8]),
    ) -> Result<(), store::StoreError> {
        Ok(())
    }

    fn write(&self, changes: &[store::Write]) -> Result<(), store::StoreError> {
        match changes {
            [only] if only.key == "epoch" => Ok(()),
            _ => Err(store::StoreError::Open {
                path: "here".into(),
                problem: "no space left".into(),
            }),
        }
    }
}
