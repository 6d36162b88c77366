//! One user's desktop: a websocket on which every message has its place in one order.

use crate::support::house::{Account, House};
use crate::support::line::{Line, open_socket, upgrade};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The channels it listens to.
const CHANNELS: [&str; 3] = ["/v2/me/devices", "/v2/me/calls", "/v2/me/channels"];
/// Subscribed to and left again: its present state comes behind all that was told before.
const MARKER: &str = "/v2/me";

pub(super) struct Desktop {
    pub(super) account: Account,
    line: Line,
    client: String,
    /// What it was told since the last [`Desktop::take`], as `{channel, data}`.
    told: Vec<Value>,
    /// His devices as last told.
    pub(super) devices: BTreeMap<String, Value>,
    /// His legs as last told, also those that are over.
    pub(super) calls: BTreeMap<String, Value>,
    /// The number of the last event.
    last: u64,
}

impl Desktop {
    /// Logs in and subscribes.
    pub(super) async fn open(house: &House, account: Account) -> Self {
        let mut request = upgrade(house.rest, None);
        let basic = format!("Basic {}", STANDARD.encode(format!("{}:{}", account.user, account.password)));
        request.headers_mut().insert("authorization", basic.parse().unwrap());
        let (socket, _) = open_socket(house.rest, request).await.unwrap();
        let mut line = Line::Socket(Box::new(socket));
        let handshake = json!([{"channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["websocket"]}]);
        line.send(&handshake).await;
        let shaken = line.until_reply("/meta/handshake").await.unwrap();
        let mut desktop = Desktop {
            account,
            line,
            client: shaken[0]["clientId"].as_str().unwrap().to_owned(),
            told: Vec::new(),
            devices: BTreeMap::new(),
            calls: BTreeMap::new(),
            last: 0,
        };
        desktop.connect().await;
        desktop.ask("/meta/subscribe", &json!(CHANNELS)).await;
        desktop
    }

    async fn connect(&mut self) {
        let connect = json!([{"channel": "/meta/connect", "clientId": self.client, "connectionType": "websocket"}]);
        self.line.send(&connect).await;
    }

    /// Takes in what comes up to the reply.
    async fn ask(&mut self, channel: &str, subscription: &Value) {
        let ask = json!([{"channel": channel, "clientId": self.client, "subscription": subscription}]);
        self.line.send(&ask).await;
        while !self.receive().await.iter().any(|said| said == channel) {}
    }

    /// Takes in what comes next; the channels of all of it.
    async fn receive(&mut self) -> Vec<String> {
        let messages = self.line.receive().await.expect("the line holds");
        let mut channels = Vec::new();
        for message in messages {
            let channel = message["channel"].as_str().unwrap().to_owned();
            match channel.as_str() {
                MARKER => {}
                "/meta/connect" => self.connect().await,
                meta if meta.starts_with("/meta/") => assert_eq!(message["successful"], true, "{message}"),
                _ => self.hear(message),
            }
            channels.push(channel);
        }
        channels
    }

    fn hear(&mut self, mut message: Value) {
        if let Some(number) = message["ext"]["replay"].as_u64() {
            assert!(number > self.last, "told twice, or out of order: {message}");
            self.last = number;
        }
        let data = message["data"].take();
        for device in data["devices"].as_array().into_iter().flatten() {
            self.devices.insert(device["id"].as_str().unwrap().to_owned(), device.clone());
        }
        if let Some(id) = data["call"]["id"].as_str() {
            self.calls.insert(id.to_owned(), data["call"].clone());
        }
        self.told.push(json!({"channel": message["channel"], "data": data}));
    }

    /// Waits for a message with all of this in its data.
    pub(super) async fn until(&mut self, data: &Value) {
        while !self.told.iter().any(|message| contains(&message["data"], data)) {
            let before = self.told.len();
            let more = tokio::time::timeout(crate::support::front::PATIENCE, async {
                while self.told.len() == before {
                    self.receive().await;
                }
            });
            assert!(
                more.await.is_ok(),
                "{} was not told {data}, but {:#}",
                self.account.user,
                json!(self.told)
            );
        }
    }

    /// Waits for all that the gateway had told before.
    pub(super) async fn catch_up(&mut self) {
        let ask = |channel: &str| json!([{"channel": channel, "clientId": self.client, "subscription": MARKER}]);
        let [subscribe, unsubscribe] = ["/meta/subscribe", "/meta/unsubscribe"].map(ask);
        self.line.send(&subscribe).await;
        while !self.receive().await.iter().any(|said| said == MARKER) {}
        self.line.send(&unsubscribe).await;
        while !self.receive().await.iter().any(|said| said == "/meta/unsubscribe") {}
    }

    /// What it was told since the last time.
    pub(super) fn take(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.told)
    }
}

/// Everything in `part` is in `whole`.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => part
            .iter()
            .all(|(key, part)| whole.get(key).is_some_and(|whole| contains(whole, part))),
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        (whole, part) => whole == part,
    }
}
