//! The event channel on the wire: the conformance cases of long-polling by their numbers, and our
//! own.

mod abuse;
mod cuts;
mod fuzz;
mod restart;
mod slow;
mod transports;
mod websocket;

use crate::support::gateway_server::{
    BOB_PHONE, GatewayServer, MEG_PHONE, PASSWORD, PATIENCE, ServerOptions,
};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use undertone::cometd::CometdConfig;

pub(crate) const ENDPOINT: &str = "/api/v2/notifications";

pub(crate) async fn open() -> GatewayServer {
    open_with(CometdConfig::default()).await
}

pub(crate) async fn open_with(config: CometdConfig) -> GatewayServer {
    GatewayServer::open(ServerOptions {
        bayeux: CometdConfig { open_channels: vec!["/x".to_owned(), "/x/**".to_owned()], ..config },
        ..ServerOptions::default()
    })
    .await
}

pub(crate) async fn send(request: reqwest::RequestBuilder) -> Vec<Value> {
    let response = request.send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::OK);
    let length = response.content_length();
    let text = response.text().await.expect("a body");
    assert_eq!(length, Some(text.len() as u64), "C43: Content-Length");
    serde_json::from_str(&text).expect("C43: a JSON array")
}

pub(crate) async fn say_to(
    server: &GatewayServer,
    path: &str,
    user: &str,
    messages: &Value,
) -> Vec<Value> {
    send(server.client(user).posting(path, messages)).await
}

pub(crate) async fn say(server: &GatewayServer, user: &str, messages: &Value) -> Vec<Value> {
    say_to(server, ENDPOINT, user, messages).await
}

pub(crate) fn handshake() -> Value {
    json!({
        "channel": "/meta/handshake",
        "id": "h1",
        "version": "1.0",
        "supportedConnectionTypes": ["long-polling"],
    })
}

pub(crate) fn is_event(message: &Value) -> bool {
    message.get("successful").is_none()
}

pub(crate) fn data(answer: &[Value]) -> Vec<Value> {
    answer
        .iter()
        .filter(|message| is_event(message))
        .map(|message| message["data"].clone())
        .collect()
}

pub(crate) fn reply(answer: &[Value]) -> &Value {
    answer.iter().find(|message| !is_event(message)).expect("a reply")
}

/// A session without a cookie jar: Basic on every request.
#[derive(Clone)]
pub(crate) struct PollingSession<'a> {
    pub(crate) server: &'a GatewayServer,
    pub(crate) user: &'static str,
    pub(crate) id: String,
}

impl<'a> PollingSession<'a> {
    /// Shakes hands and connects once, so that the next connect is held.
    pub(crate) async fn new(server: &'a GatewayServer, user: &'static str) -> Self {
        let answer = say(server, user, &json!([handshake()])).await;
        let id = answer[0]["clientId"].as_str().expect("a client id").to_owned();
        let desktop = Self { server, user, id };
        assert_eq!(reply(&desktop.connect().await)["successful"], true);
        desktop
    }

    /// With a subscription.
    pub(crate) async fn on(server: &'a GatewayServer, user: &'static str, channel: &str) -> Self {
        let desktop = Self::new(server, user).await;
        assert_eq!(desktop.subscribe(&json!(channel)).await["successful"], true, "{channel}");
        desktop
    }

    pub(crate) fn message(&self, channel: &str, more: &Value) -> Value {
        let mut message = json!({"channel": channel, "clientId": self.id, "id": "1"});
        for (field, value) in more.as_object().expect("fields") {
            message[field] = value.clone();
        }
        message
    }

    pub(crate) async fn say(&self, channel: &str, more: Value) -> Vec<Value> {
        say(self.server, self.user, &json!([self.message(channel, &more)])).await
    }

    pub(crate) async fn connect(&self) -> Vec<Value> {
        self.say("/meta/connect", json!({"connectionType": "long-polling"})).await
    }

    pub(crate) async fn subscribe(&self, subscription: &Value) -> Value {
        self.say("/meta/subscribe", json!({"subscription": subscription})).await.remove(0)
    }

    pub(crate) async fn publish(&self, channel: &str, data: Value) -> Value {
        let answer = self.say(channel, json!({"data": data})).await;
        assert_eq!(answer.len(), 1);
        answer[0].clone()
    }

    /// A connect under way, once it is held.
    pub(crate) async fn hold(&self) -> JoinHandle<Vec<Value>> {
        let mut load = self.server.bayeux.load();
        let before = load.borrow_and_update().held;
        let connect =
            json!([self.message("/meta/connect", &json!({"connectionType": "long-polling"}))]);
        let request = self.server.client(self.user).posting(ENDPOINT, &connect);
        let held = tokio::spawn(send(request));
        let waited = tokio::time::timeout(PATIENCE, load.wait_for(|load| load.held > before)).await;
        waited.expect("held in time").expect("an event channel");
        held
    }

    /// Whatever comes until `count` events are there.
    pub(crate) async fn events(&self, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        while events.len() < count {
            let answer = self.connect().await;
            assert_eq!(reply(&answer)["successful"], true);
            events.extend(answer.into_iter().filter(is_event));
        }
        events
    }

    /// What waits now: a connect that is not held.
    pub(crate) async fn waiting(&self) -> Vec<Value> {
        let answer = self
            .say(
                "/meta/connect",
                json!({"connectionType": "long-polling", "advice": {"timeout": 0}}),
            )
            .await;
        answer.into_iter().filter(is_event).collect()
    }
}

#[tokio::test]
async fn c01_to_c05_a_handshake_opens_a_session_however_it_is_sent() {
    let server = open().await;
    for (path, body) in [
        (ENDPOINT.to_owned(), json!([handshake()])),
        (ENDPOINT.to_owned(), handshake()),
        (format!("{ENDPOINT}/"), json!([handshake()])),
        (format!("{ENDPOINT}/handshake"), json!([handshake()])),
    ] {
        let request = server.posting(&path).basic_auth("meg", Some(PASSWORD)).json(&body);
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        let answer: Vec<Value> = response.json().await.expect("an array");
        assert_eq!(answer.len(), 1);
        let reply = &answer[0];
        assert_eq!((&reply["channel"], &reply["id"]), (&json!("/meta/handshake"), &json!("h1")));
        assert_eq!((&reply["successful"], &reply["version"]), (&json!(true), &json!("1.0")));
        // A client that appends this over HTTP has found no websocket: offered one again, it would
        // try again for ever.
        let blocked = path.ends_with("/handshake");
        let types =
            if blocked { json!(["long-polling"]) } else { json!(["websocket", "long-polling"]) };
        assert_eq!(reply["supportedConnectionTypes"], types, "{path}");
        assert_eq!(reply["advice"], json!({"reconnect": "retry", "interval": 0, "timeout": 25000}));
    }
    let mut ids = BTreeSet::new();
    for _ in 0..100 {
        let answer = say(&server, "meg", &json!([handshake()])).await;
        let id = answer[0]["clientId"].as_str().expect("a client id").to_owned();
        assert!(id.len() >= 20 && id.chars().all(|c| c.is_ascii_alphanumeric()), "{id}");
        ids.insert(id);
    }
    assert_eq!(ids.len(), 100);
    let desktop = PollingSession::new(&server, "meg").await;
    let connect = json!([desktop.message(
        "/meta/connect",
        &json!({"connectionType": "long-polling", "advice": {"timeout": 0}})
    )]);
    assert_eq!(
        say_to(&server, &format!("{ENDPOINT}/connect"), "meg", &connect).await[0]["successful"],
        true
    );
    let disconnect = json!([desktop.message("/meta/disconnect", &json!({}))]);
    let told = say_to(&server, &format!("{ENDPOINT}/disconnect"), "meg", &disconnect).await;
    assert_eq!(told[0]["successful"], true);
}

#[tokio::test]
async fn c02_the_browser_gets_its_cookie_once() {
    let server = open().await;
    let cookies = |response: &reqwest::Response| -> Vec<String> {
        let lines = response.headers().get_all(header::SET_COOKIE);
        lines
            .iter()
            .filter_map(|line| line.to_str().ok())
            .filter(|line| line.starts_with("BAYEUX_BROWSER="))
            .map(str::to_owned)
            .collect()
    };
    let browser = server.browser();
    let shake = || {
        browser
            .post(server.url(ENDPOINT))
            .basic_auth("meg", Some(PASSWORD))
            .json(&json!([handshake()]))
            .send()
    };
    let first = cookies(&shake().await.expect("an answer"));
    assert_eq!(first.len(), 1);
    assert!(first[0].contains("HttpOnly") && first[0].contains("Path=/"), "{first:?}");
    assert_eq!(cookies(&shake().await.expect("an answer")), Vec::<String>::new());
}

#[tokio::test]
async fn c06_to_c08_the_first_connect_returns_at_once_and_later_ones_are_held() {
    let hold = Duration::from_millis(300);
    let server = open_with(CometdConfig { hold, ..CometdConfig::default() }).await;
    let shaken = say(&server, "meg", &json!([handshake()])).await;
    let desktop = PollingSession {
        server: &server,
        user: "meg",
        id: shaken[0]["clientId"].as_str().expect("a client id").to_owned(),
    };
    let first = desktop.connect().await;
    assert_eq!((first.len(), &first[0]["successful"]), (1, &json!(true)));
    let at_once = desktop
        .say("/meta/connect", json!({"connectionType": "long-polling", "advice": {"timeout": 0}}))
        .await;
    assert_eq!(at_once[0]["advice"], shaken[0]["advice"]);
    let began = undertone::clock::instant();
    let second = desktop.connect().await;
    assert!(began.elapsed() >= hold);
    assert_eq!((second.len(), &second[0]["successful"]), (1, &json!(true)));
}

#[tokio::test]
async fn c09_and_c10_events_wake_a_held_connect_or_wait_for_the_next() {
    let server = open().await;
    let reader = PollingSession::on(&server, "meg", "/x/a").await;
    let writer = PollingSession::new(&server, "bob").await;
    let held = reader.hold().await;
    writer.publish("/x/a", json!("now")).await;
    let answer = held.await.expect("an answer");
    assert_eq!(data(&answer), [json!("now")]);
    assert_eq!(
        (&reply(&answer)["channel"], &reply(&answer)["successful"]),
        (&json!("/meta/connect"), &json!(true))
    );
    for n in 0..5 {
        writer.publish("/x/a", json!(n)).await;
    }
    assert_eq!(data(&reader.connect().await), [0, 1, 2, 3, 4].map(|n| json!(n)));
}

#[tokio::test]
async fn c11_and_c12_a_connect_of_nobody_is_told_to_shake_hands() {
    let server = open().await;
    for connect in [
        json!([{
            "channel": "/meta/connect",
            "id": "1",
            "clientId": "unknown",
            "connectionType": "long-polling",
        }]),
        json!([{"channel": "/meta/connect", "id": "1", "connectionType": "long-polling"}]),
    ] {
        let answer = say(&server, "meg", &connect).await;
        assert_eq!(answer[0]["successful"], false);
        assert!(
            answer[0]["error"].as_str().is_some_and(|error| error.starts_with("402")),
            "{answer:?}"
        );
        assert_eq!(answer[0]["advice"], json!({"reconnect": "handshake", "interval": 0}));
    }
}

#[tokio::test]
async fn c13_to_c18_subscriptions_are_taken_echoed_refused_and_given_up() {
    let server = open().await;
    let reader = PollingSession::new(&server, "meg").await;
    let writer = PollingSession::new(&server, "bob").await;
    let one = reader.subscribe(&json!("/x/a")).await;
    assert_eq!(
        (&one["successful"], &one["id"], &one["subscription"]),
        (&json!(true), &json!("1"), &json!("/x/a"))
    );
    let answer = reader.say("/meta/subscribe", json!({"subscription": ["/x/b", "/x/c"]})).await;
    assert_eq!((answer.len(), &answer[0]["subscription"]), (1, &json!(["/x/b", "/x/c"])));
    for channel in ["/x/a", "/x/b", "/x/c"] {
        writer.publish(channel, json!(channel)).await;
    }
    assert_eq!(data(&reader.events(3).await), ["/x/a", "/x/b", "/x/c"].map(|name| json!(name)));

    let refused = |reply: &Value, codes: &[&str]| {
        let error = reply["error"].as_str().unwrap_or_default();
        assert!(
            reply["successful"] == false && codes.iter().any(|code| error.starts_with(code)),
            "{reply}"
        );
    };
    refused(&reader.say("/meta/subscribe", json!({})).await[0], &["403"]);
    for name in [
        json!("x/a"),
        json!("/x/\u{e4}"),
        json!("/x//a"),
        json!("/**/a"),
        json!("/x/*/b"),
        json!(5),
        json!([]),
        json!(["/x/a", 5]),
    ] {
        refused(&reader.subscribe(&name).await, &["403", "405"]);
    }
    refused(&reader.subscribe(&json!("/meta/connect")).await, &["403"]);

    let gone = reader.say("/meta/unsubscribe", json!({"subscription": "/x/a"})).await;
    assert_eq!((&gone[0]["successful"], &gone[0]["subscription"]), (&json!(true), &json!("/x/a")));
    writer.publish("/x/a", json!("unheard")).await;
    writer.publish("/x/b", json!("heard")).await;
    assert_eq!(data(&reader.events(1).await), [json!("heard")]);
}

#[tokio::test]
async fn c19_and_c20_wildcards_take_in_what_they_say() {
    let server = open().await;
    let writer = PollingSession::new(&server, "bob").await;
    let children = PollingSession::on(&server, "meg", "/x/*").await;
    let descendants = PollingSession::on(&server, "meg", "/x/**").await;
    for channel in ["/x", "/x/a", "/x/a/b", "/x/a/b/c"] {
        assert_eq!(writer.publish(channel, json!(channel)).await["successful"], true);
    }
    let channels = |events: Vec<Value>| {
        events
            .iter()
            .map(|event| event["channel"].as_str().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(channels(children.waiting().await), ["/x/a"]);
    assert_eq!(channels(descendants.waiting().await), ["/x/a", "/x/a/b", "/x/a/b/c"]);
}

#[tokio::test]
async fn c21_to_c24_publishing_answers_each_message_and_tells_each_reader_once() {
    let server = open().await;
    let both = PollingSession::on(&server, "meg", "/x/a").await;
    both.subscribe(&json!(["/x/*", "/x/**"])).await;
    let reply = both.publish("/x/a", json!({"n": 1})).await;
    assert_eq!(
        (&reply["channel"], &reply["id"], &reply["successful"]),
        (&json!("/x/a"), &json!("1"), &json!(true))
    );
    assert!(reply.get("data").is_none());
    let events = both.events(1).await;
    assert_eq!(events, [json!({"channel": "/x/a", "data": {"n": 1}})]);
    let batch: Vec<Value> = (0..4)
        .map(|n| {
            let mut message = both.message("/x/a", &json!({"data": n}));
            message["id"] = json!(format!("b{n}"));
            message
        })
        .collect();
    let replies = say(&server, "meg", &json!(batch)).await;
    let ids: Vec<&str> = replies.iter().filter_map(|reply| reply["id"].as_str()).collect();
    assert_eq!(ids, ["b0", "b1", "b2", "b3"]);
    assert_eq!(data(&both.waiting().await), [0, 1, 2, 3].map(|n| json!(n)));
    assert_eq!(both.waiting().await, Vec::<Value>::new());
}

#[tokio::test]
async fn c25_to_c28_what_may_not_be_published_reaches_nobody() {
    let server = open().await;
    let reader = PollingSession::on(&server, "meg", "/**").await;
    let other = PollingSession::new(&server, "bob").await;
    assert_eq!(reader.events(3).await.len(), 3, "his state, on two channels, and his device's");
    let answer = say(&server, "bob", &json!([{"clientId": other.id, "id": "1", "data": 1}])).await;
    assert!(answer.iter().all(|reply| {
        reply["successful"] == false
            && reply["error"].as_str().is_some_and(|e| e.starts_with("400"))
    }));
    for (channel, codes) in [
        ("x/a", ["400", "403", "405"]),
        ("/x//a", ["400", "403", "405"]),
        ("/x/*", ["400", "403", "405"]),
        ("/meta/other", ["403", "404", "403"]),
        ("/foo", ["403", "403", "403"]),
    ] {
        let reply = other.publish(channel, json!(1)).await;
        let error = reply["error"].as_str().unwrap_or_default();
        assert!(
            reply["successful"] == false && codes.iter().any(|code| error.starts_with(code)),
            "{reply}"
        );
    }
    assert_eq!(reader.subscribe(&json!("/service/x")).await["successful"], true);
    assert_eq!(other.publish("/service/x", json!(1)).await["successful"], true);
    assert_eq!(other.publish("/x/a", json!("the only one")).await["successful"], true);
    assert_eq!(data(&reader.events(1).await), [json!("the only one")]);
}

#[tokio::test]
async fn c29_and_c30_a_disconnect_ends_the_session_for_good() {
    let server = open().await;
    let desktop = PollingSession::new(&server, "meg").await;
    let held = desktop.hold().await;
    assert_eq!(desktop.say("/meta/disconnect", json!({})).await[0]["successful"], true);
    assert_eq!(reply(&held.await.expect("an answer"))["advice"]["reconnect"], "none");
    for (channel, more) in [
        ("/meta/connect", json!({"connectionType": "long-polling"})),
        ("/meta/subscribe", json!({"subscription": "/x/a"})),
        ("/meta/unsubscribe", json!({"subscription": "/x/a"})),
        ("/meta/disconnect", json!({})),
        ("/x/a", json!({"data": 1})),
    ] {
        let reply = desktop.say(channel, more).await.remove(0);
        assert!(reply["error"].as_str().is_some_and(|error| error.starts_with("402")), "{reply}");
        assert_eq!(reply["advice"]["reconnect"], "handshake");
    }
}

#[tokio::test]
async fn c31_a_session_without_connects_is_gone_after_max_interval() {
    let server = open_with(CometdConfig {
        max_interval: Duration::from_millis(50),
        ..CometdConfig::default()
    })
    .await;
    let shaken = say(&server, "meg", &json!([handshake()])).await;
    let mut load = server.bayeux.load();
    let gone = tokio::time::timeout(PATIENCE, load.wait_for(|load| load.sessions == 0)).await;
    gone.expect("in time").expect("an event channel");
    let connect = json!([{
        "channel": "/meta/connect",
        "clientId": shaken[0]["clientId"],
        "connectionType": "long-polling",
    }]);
    let answer = say(&server, "meg", &connect).await;
    assert_eq!(
        (&answer[0]["error"], &answer[0]["advice"]["reconnect"]),
        (&json!("402::session_unknown"), &json!("handshake"))
    );
}

#[tokio::test]
async fn c32_and_c33_malformed_requests_are_400_and_break_nothing() {
    let server = open().await;
    let desktop = PollingSession::new(&server, "meg").await;
    for body in [
        "{",
        "",
        "[]",
        "[1]",
        "[null]",
        "null",
        "\"x\"",
        "[{\"channel\":\"/meta/connect\"",
        "\u{0}",
    ] {
        let request = server
            .posting(ENDPOINT)
            .basic_auth("meg", Some(PASSWORD))
            .header(header::CONTENT_TYPE, "application/json");
        let response = request.body(body).send().await.expect("an answer");
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{body}");
    }
    let too_many: Vec<Value> =
        (0..65).map(|_| desktop.message("/x/a", &json!({"data": 1}))).collect();
    let request = server.posting(ENDPOINT).basic_auth("meg", Some(PASSWORD)).json(&too_many);
    assert_eq!(request.send().await.expect("an answer").status(), StatusCode::BAD_REQUEST);
    let request = server
        .posting(ENDPOINT)
        .basic_auth("meg", Some(PASSWORD))
        .header(header::CONTENT_TYPE, "application/json");
    let response = request.body(" ".repeat(100_000)).send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let answer =
        say(&server, "meg", &json!([handshake(), desktop.message("/x/a", &json!({"data": 1}))]))
            .await;
    assert_eq!(
        (answer.len(), &answer[0]["successful"]),
        (1, &json!(true)),
        "others beside a handshake are ignored"
    );
    assert_eq!(desktop.subscribe(&json!("/x/a")).await["successful"], true);
}

#[tokio::test]
async fn c34_every_kind_of_json_arrives_equal() {
    let server = open().await;
    let reader = PollingSession::on(&server, "meg", "/x/a").await;
    let values = [
        json!({"deep": [[[{"a": {"b": [null, true, false]}}]]]}),
        json!(null),
        json!("\u{1f3a7} \u{e9} \u{2028} \" \\ / \u{8}\n\r\t\u{0}"),
        json!(""),
        json!({}),
        json!([]),
        json!(-1),
        json!(0.5),
        json!(1e300),
        json!(9_007_199_254_740_993_u64),
        json!({"": 0, "channel": "/meta/connect", "successful": false}),
    ];
    for value in &values {
        assert_eq!(reader.publish("/x/a", value.clone()).await["successful"], true, "{value}");
    }
    assert_eq!(data(&reader.waiting().await), values);
}

#[tokio::test]
async fn c35_json_is_taken_under_its_names_and_other_text_is_not() {
    let server = open().await;
    let status = async |media_type: Option<&str>| {
        let mut request = server
            .posting(ENDPOINT)
            .basic_auth("meg", Some(PASSWORD))
            .body(json!([handshake()]).to_string());
        if let Some(media_type) = media_type {
            request = request.header(header::CONTENT_TYPE, media_type);
        }
        request.send().await.expect("an answer").status().as_u16()
    };
    for media_type in [
        None,
        Some("text/json"),
        Some("application/json"),
        Some("application/json; charset=utf-8"),
        Some("text/json;charset=UTF-8"),
    ] {
        assert_eq!(status(media_type).await, 200, "{media_type:?}");
    }
    for media_type in ["text/plain", "multipart/form-data; boundary=x"] {
        assert_eq!(status(Some(media_type)).await, 415, "{media_type}");
    }
}

#[tokio::test]
async fn c43_and_c44_connect_and_subscribe_in_one_post_are_answered_at_once_in_order() {
    let server = open().await;
    let desktop = PollingSession::new(&server, "meg").await;
    let batch = json!([
        desktop.message("/meta/connect", &json!({"connectionType": "long-polling"})),
        desktop.message("/meta/subscribe", &json!({"subscription": "/x/a"})),
    ]);
    let answer = say(&server, "meg", &batch).await;
    let channels: Vec<&Value> = answer.iter().map(|reply| &reply["channel"]).collect();
    assert_eq!(channels, ["/meta/connect", "/meta/subscribe"]);
    assert!(answer.iter().all(|reply| reply["successful"] == true));
}

#[tokio::test]
async fn the_newest_connect_wins_and_the_older_one_fails_at_once() {
    let server = open().await;
    let desktop = PollingSession::on(&server, "meg", "/x/a").await;
    let mut load = server.bayeux.load();
    let connect =
        json!([desktop.message("/meta/connect", &json!({"connectionType": "long-polling"}))]);
    let older = tokio::spawn(
        server.posting(ENDPOINT).basic_auth("meg", Some(PASSWORD)).json(&connect).send(),
    );
    let held = tokio::time::timeout(PATIENCE, load.wait_for(|load| load.held == 1)).await;
    drop(held.expect("in time").expect("an event channel"));
    let newer = tokio::spawn(send(
        server.posting(ENDPOINT).basic_auth("meg", Some(PASSWORD)).json(&connect),
    ));
    let status = older.await.expect("a task").expect("an answer").status();
    assert_eq!(status, StatusCode::CONFLICT);
    desktop.publish("/x/a", json!(1)).await;
    assert_eq!(data(&newer.await.expect("an answer")), [json!(1)]);
}

pub(crate) async fn switch_do_not_disturb(
    server: &GatewayServer,
    user: &str,
    device: &str,
    on: bool,
) {
    let body = json!({"operationName": if on { "DoNotDisturbOn" } else { "DoNotDisturbOff" }});
    let (status, body) = server.post(user, &format!("/api/v2/me/devices/{device}"), &body).await;
    assert_eq!(status, StatusCode::OK, "{body}");
}

pub(crate) fn device_of(event: &Value) -> &str {
    event["data"]["devices"][0]["id"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn g01_an_event_of_one_user_reaches_his_sessions_only() {
    let server = open().await;
    let meg = PollingSession::on(&server, "meg", "/v2/me/devices").await;
    let bob = PollingSession::on(&server, "bob", "/v2/me/devices").await;
    for (desktop, device) in [(&meg, MEG_PHONE), (&bob, BOB_PHONE)] {
        let snapshot = desktop.events(1).await;
        assert_eq!(
            (device_of(&snapshot[0]), &snapshot[0]["channel"]),
            (device, &json!("/v2/me/devices"))
        );
    }
    let bobs = bob.hold().await;
    let megs = meg.hold().await;
    switch_do_not_disturb(&server, "meg", MEG_PHONE, true).await;
    let answer = megs.await.expect("an answer");
    let event = answer.iter().find(|message| is_event(message)).expect("an event");
    assert_eq!(
        (&event["channel"], &event["data"]["messageType"]),
        (&json!("/v2/me/devices"), &json!("DeviceStateChangeMessage"))
    );
    assert_eq!(
        (device_of(event), &event["data"]["devices"][0]["doNotDisturb"]),
        (MEG_PHONE, &json!("On"))
    );
    assert!(!bobs.is_finished());
    bob.say("/meta/disconnect", json!({})).await;
    assert_eq!(data(&bobs.await.expect("an answer")), Vec::<Value>::new());
}

#[tokio::test]
async fn g02_each_session_of_a_user_gets_each_event_once() {
    let server = open().await;
    let mut desktops = Vec::new();
    for _ in 0..3 {
        let desktop = PollingSession::on(&server, "meg", "/v2/me/devices").await;
        assert_eq!(desktop.events(1).await.len(), 1);
        desktops.push(desktop);
    }
    switch_do_not_disturb(&server, "meg", MEG_PHONE, true).await;
    switch_do_not_disturb(&server, "meg", MEG_PHONE, false).await;
    for desktop in &desktops {
        let states: Vec<Value> = desktop
            .events(2)
            .await
            .iter()
            .map(|event| event["data"]["devices"][0]["doNotDisturb"].clone())
            .collect();
        assert_eq!(states, ["On", "Off"]);
        assert_eq!(desktop.waiting().await, Vec::<Value>::new());
    }
}

#[tokio::test]
async fn g03_without_a_user_there_is_no_session_or_none_of_the_users_channels() {
    let server = open().await;
    let answer = send(server.posting(ENDPOINT).json(&json!([handshake()]))).await;
    assert_eq!(
        (&answer[0]["successful"], &answer[0]["error"]),
        (&json!(false), &json!("403::handshake_denied"))
    );
    assert_eq!(answer[0]["advice"]["reconnect"], "none");
    let answer =
        send(server.posting(ENDPOINT).basic_auth("meg", Some("wrong")).json(&json!([handshake()])))
            .await;
    assert_eq!(
        (&answer[0]["error"], &answer[0]["advice"]["reconnect"]),
        (&json!("403::handshake_denied"), &json!("none")),
        "in CometD's words, which its clients understand"
    );

    let server = open_with(CometdConfig { anonymous: true, ..CometdConfig::default() }).await;
    let browser = server.browser();
    let say = |messages: Value| send(browser.post(server.url(ENDPOINT)).json(&messages));
    let client = say(json!([handshake()])).await[0]["clientId"].clone();
    let subscribe = |channel: &str| {
        json!([{
            "channel": "/meta/subscribe", "clientId": client, "subscription": channel,
        }])
    };
    for channel in ["/v2/me/devices", "/v2/**", "/**"] {
        let reply = say(subscribe(channel)).await.remove(0);
        assert!(reply["error"].as_str().is_some_and(|error| error.starts_with("403")), "{reply}");
    }
    assert_eq!(say(subscribe("/x/a")).await[0]["successful"], true);
    let elsewhere = send(server.posting(ENDPOINT).json(&subscribe("/x/b"))).await;
    assert_eq!(elsewhere[0]["error"], "402::session_unknown", "another browser");
}

#[tokio::test]
async fn g04_a_client_cannot_speak_on_a_channel_of_state() {
    let server = open().await;
    let reader = PollingSession::on(&server, "meg", "/v2/**").await;
    reader.events(3).await;
    let writer = PollingSession::on(&server, "meg", "/v2/me/calls").await;
    for channel in ["/v2/me/devices", "/v2/me/calls", "/v2/me", "/v2/other"] {
        let reply =
            writer.publish(channel, json!({"messageType": "DeviceStateChangeMessage"})).await;
        assert!(reply["error"].as_str().is_some_and(|error| error.starts_with("403")), "{reply}");
    }
    assert_eq!(reader.waiting().await, Vec::<Value>::new());
}

#[tokio::test]
async fn g05_a_wildcard_brings_the_own_events_only() {
    let server = open().await;
    for (pattern, states) in [("/v2/**", 3), ("/**", 3), ("/v2/me/*", 2)] {
        let meg = PollingSession::on(&server, "meg", pattern).await;
        let told = meg.events(states).await;
        assert!(told.iter().any(|event| device_of(event) == MEG_PHONE), "{pattern}: {told:?}");
        switch_do_not_disturb(&server, "bob", BOB_PHONE, true).await;
        switch_do_not_disturb(&server, "bob", BOB_PHONE, false).await;
        assert_eq!(meg.waiting().await, Vec::<Value>::new(), "{pattern}");
    }
}

#[tokio::test]
async fn d14_a_stolen_client_id_is_worth_nothing_and_its_owner_notices_nothing() {
    let server = open().await;
    let meg = PollingSession::on(&server, "meg", "/x/a").await;
    let thief = PollingSession { user: "bob", ..meg.clone() };
    let held = meg.hold().await;
    for (channel, more) in [
        ("/meta/connect", json!({"connectionType": "long-polling"})),
        ("/meta/subscribe", json!({"subscription": "/x/b"})),
        ("/meta/disconnect", json!({})),
        ("/x/a", json!({"data": "from the thief"})),
    ] {
        let reply = thief.say(channel, more).await.remove(0);
        assert_eq!(reply["error"], "402::session_unknown", "{reply}");
    }
    let nobody =
        send(server.posting(ENDPOINT).json(&json!([meg.message("/meta/disconnect", &json!({}))])))
            .await;
    assert_eq!(nobody[0]["error"], "402::session_unknown");
    PollingSession::new(&server, "bob").await.publish("/x/a", json!("real")).await;
    assert_eq!(data(&held.await.expect("an answer")), [json!("real")]);
}

#[tokio::test]
async fn d12_a_foreign_page_cannot_use_the_cookie_here_either() {
    let server = open().await;
    let browser = server.browser();
    let login = browser
        .get(server.url("/api/v2/me"))
        .basic_auth("meg", Some(PASSWORD))
        .send()
        .await
        .expect("an answer");
    assert_eq!(login.status(), StatusCode::OK);
    let shake = |origin: &str| {
        browser
            .post(server.url(ENDPOINT))
            .header(header::ORIGIN, origin)
            .json(&json!([handshake()]))
            .send()
    };
    assert_eq!(shake("https://evil").await.expect("an answer").status(), StatusCode::FORBIDDEN);
    assert_eq!(shake(&server.url("")).await.expect("an answer").status(), StatusCode::OK);
}

#[tokio::test]
async fn going_down_answers_held_connects() {
    let server = open().await;
    let desktop = PollingSession::new(&server, "meg").await;
    let held = desktop.hold().await;
    let (answer, ()) = tokio::join!(held, server.bayeux.drain());
    let answer = answer.expect("an answer");
    assert_eq!(reply(&answer)["advice"]["reconnect"], "retry");
}

#[tokio::test]
async fn other_methods_are_405() {
    let server = open().await;
    let response =
        server.getting(ENDPOINT).basic_auth("meg", Some(PASSWORD)).send().await.expect("an answer");
    assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(response.headers()[header::ALLOW], "POST");
    let mut socket = TcpStream::connect(server.address).await.expect("a connection");
    socket.write_all(b"\x00\xff garbage\r\n\r\n").await.expect("sent");
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.expect("an end");
    assert!(!PollingSession::new(&server, "meg").await.id.is_empty());
}
