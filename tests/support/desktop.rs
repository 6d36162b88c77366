//! Desktops: each a websocket on which every message has its place in one order.

use super::cometd_connection::{CometdConnection, open_socket, upgrade};
use super::gateway_server::PATIENCE;
use super::rest_client::{RestClient, http_client};
use super::server::{Account, BYSTANDER};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The channels it listens to.
const CHANNELS: [&str; 3] = ["/v2/me/devices", "/v2/me/calls", "/v2/me/channels"];
/// Subscribed to and left again: its present state comes behind all that was told before.
const MARKER: &str = "/v2/me";

/// One user's.
pub(crate) struct Desktop {
    pub(crate) account: Account,
    line: CometdConnection,
    client: String,
    /// What it was told since the last [`Desktop::take`], as `{channel, data}`.
    told: Vec<Value>,
    /// The user's devices as last told.
    pub(crate) devices: BTreeMap<String, Value>,
    /// The user's legs as last told, also those that are over.
    pub(crate) calls: BTreeMap<String, Value>,
    /// The number of the last event.
    last: Option<u64>,
}

impl Desktop {
    /// Logs in and subscribes.
    pub(crate) async fn open(rest: SocketAddr, account: Account) -> Self {
        let (line, client) = log_in(rest, account).await;
        let mut desktop = Desktop {
            account,
            line,
            client,
            told: Vec::new(),
            devices: BTreeMap::new(),
            calls: BTreeMap::new(),
            last: None,
        };
        desktop.subscribe().await;
        desktop
    }

    /// Logs in again, and goes on behind the last event it knows.
    pub(crate) async fn reopen(&mut self, rest: SocketAddr) {
        (self.line, self.client) = log_in(rest, self.account).await;
        self.subscribe().await;
    }

    async fn subscribe(&mut self) {
        self.connect().await;
        let after = self.last.map_or(json!(-1), |last| json!(last));
        let subscribe = json!([{
            "channel": "/meta/subscribe", "clientId": self.client, "subscription": CHANNELS,
            "ext": {"replay": after},
        }]);
        self.line.send(&subscribe).await;
        while !self.receive().await.iter().any(|said| said == "/meta/subscribe") {}
    }

    async fn connect(&mut self) {
        let connect = json!([{
            "channel": "/meta/connect", "clientId": self.client, "connectionType": "websocket",
        }]);
        self.line.send(&connect).await;
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
                meta if meta.starts_with("/meta/") => {
                    assert_eq!(message["successful"], true, "{message}")
                }
                _ => self.hear(message),
            }
            channels.push(channel);
        }
        channels
    }

    fn hear(&mut self, mut message: Value) {
        if let Some(number) = message["ext"]["replay"].as_u64() {
            assert!(
                self.last.is_none_or(|last| number > last),
                "told twice, or out of order: {message}"
            );
            self.last = Some(number);
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
    pub(crate) async fn until(&mut self, data: &Value) {
        while !self.told.iter().any(|message| contains(&message["data"], data)) {
            let before = self.told.len();
            let more = tokio::time::timeout(PATIENCE, async {
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

    /// Waits until its event channel is over: the line is closed, or it is told so.
    pub(crate) async fn ends(&mut self) {
        let over = async {
            while let Some(messages) = self.line.receive().await {
                let ended = |message: &Value| {
                    message["channel"] == "/meta/connect" && message["successful"] == false
                };
                if messages.iter().any(ended) {
                    return;
                }
            }
        };
        let over = tokio::time::timeout(PATIENCE, over).await;
        assert!(over.is_ok(), "{}'s events go on", self.account.user);
    }

    /// Waits for all that the gateway had told before.
    pub(crate) async fn catch_up(&mut self) {
        let ask = |channel: &str| {
            json!([{
                "channel": channel, "clientId": self.client, "subscription": MARKER,
            }])
        };
        let [subscribe, unsubscribe] = ["/meta/subscribe", "/meta/unsubscribe"].map(ask);
        self.line.send(&subscribe).await;
        while !self.receive().await.iter().any(|said| said == MARKER) {}
        self.line.send(&unsubscribe).await;
        while !self.receive().await.iter().any(|said| said == "/meta/unsubscribe") {}
    }

    /// What it was told since the last time.
    pub(crate) fn take(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.told)
    }
}

async fn log_in(rest: SocketAddr, account: Account) -> (CometdConnection, String) {
    let mut request = upgrade(rest, None);
    let basic =
        format!("Basic {}", STANDARD.encode(format!("{}:{}", account.user, account.password)));
    request.headers_mut().insert("authorization", basic.parse().unwrap());
    let (socket, _) = open_socket(rest, request).await.unwrap();
    let mut line = CometdConnection::Socket(Box::new(socket));
    let handshake = json!([{
        "channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["websocket"],
    }]);
    line.send(&handshake).await;
    let shaken = line.until_reply("/meta/handshake").await.unwrap();
    let client = shaken[0]["clientId"].as_str().unwrap().to_owned();
    (line, client)
}

/// Everything in `part` is in `whole`.
fn contains(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, part)| whole.get(key).is_some_and(|whole| contains(whole, part)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len()
                && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
        }
        (whole, part) => whole == part,
    }
}

/// Several users' desktops at one gateway.
pub(crate) struct Audience {
    rest: SocketAddr,
    http: reqwest::Client,
    pub(crate) desktops: Vec<Desktop>,
    bystander: Desktop,
    /// The bystander does not want to be disturbed.
    is_quiet: bool,
}

impl Audience {
    /// They log in and subscribe. The server has a [`BYSTANDER`].
    pub(crate) async fn open(rest: SocketAddr, accounts: &[Account]) -> Self {
        let mut desktops = Vec::new();
        for account in accounts {
            desktops.push(Desktop::open(rest, *account).await);
        }
        Audience {
            rest,
            http: http_client(),
            desktops,
            bystander: Desktop::open(rest, BYSTANDER).await,
            is_quiet: false,
        }
    }

    /// All log in again at another gateway, and go on where they were.
    pub(crate) async fn reopen(&mut self, rest: SocketAddr) {
        self.rest = rest;
        for desktop in self.desktops.iter_mut().chain([&mut self.bystander]) {
            desktop.reopen(rest).await;
        }
    }

    /// The desktop of an account.
    pub(crate) fn of(&mut self, account: Account) -> &mut Desktop {
        let mut desktops = self.desktops.iter_mut();
        desktops.find(|desktop| desktop.account.user == account.user).unwrap()
    }

    /// Whatever had happened by now has been told to everybody: facts and notices keep their order.
    pub(crate) async fn catch_up(&mut self) {
        self.is_quiet = !self.is_quiet;
        let (operation, shown) = match self.is_quiet {
            true => ("DoNotDisturbOn", "On"),
            false => ("DoNotDisturbOff", "Off"),
        };
        self.bystander.take();
        let device = format!("/me/devices/{}", BYSTANDER.device);
        self.client(BYSTANDER).post(&device, json!({"operationName": operation})).await;
        self.bystander.until(&json!({"devices": [{"doNotDisturb": shown}]})).await;
        for desktop in &mut self.desktops {
            desktop.catch_up().await;
        }
    }

    /// What the user reads of `/me`, devices and calls now, without what passes by itself.
    pub(crate) async fn view(&self, account: Account) -> Value {
        let mut view = self.read(account, "/me?subresources=*").await;
        let of = &mut view["user"];
        for list in ["devices", "calls"] {
            of[list].as_array_mut().unwrap().iter_mut().for_each(|one| *one = timeless(one));
        }
        of["devices"].as_array_mut().unwrap().iter_mut().for_each(|one| *one = as_told(one));
        view
    }

    async fn read(&self, account: Account, path: &str) -> Value {
        self.client(account).look(path).await
    }

    fn client(&self, account: Account) -> RestClient {
        let base = format!("http://{}/api/v2", self.rest);
        RestClient::with(self.http.clone(), base, account.user, account.password)
    }

    /// No message shows what a read contradicts.
    pub(crate) async fn reads_as_told(&self, step: &str) {
        for desktop in &self.desktops {
            self.reads_as_one_was_told(desktop, step).await;
        }
    }

    async fn reads_as_one_was_told(&self, desktop: &Desktop, step: &str) {
        let (account, user) = (desktop.account, desktop.account.user);
        for (id, told) in &desktop.devices {
            let reply = self.read(account, &format!("/me/devices/{id}")).await;
            assert_eq!(
                as_told(&timeless(&reply["device"])),
                timeless(told),
                "{step}: device of {user}"
            );
        }
        let mut live = BTreeMap::new();
        for (id, told) in &desktop.calls {
            let reply = self.read(account, &format!("/me/calls/{id}")).await;
            // A gateway that has begun since has told nobody of what was released before.
            if told["state"] == "Released" && reply["statusCode"] == 6 {
                continue;
            }
            assert_eq!(timeless(&reply["call"]), timeless(told), "{step}: call of {user}");
            if told["state"] != "Released" {
                live.insert(id.clone(), timeless(told));
            }
        }
        let view = self.view(account).await;
        let by_id = |list: &Value| -> BTreeMap<String, Value> {
            let list = list.as_array().unwrap().iter();
            list.map(|one| (one["id"].as_str().unwrap().to_owned(), one.clone())).collect()
        };
        assert_eq!(by_id(&view["user"]["calls"]), live, "{step}: calls of {user}");
        let devices = desktop.devices.iter().map(|(id, told)| (id.clone(), timeless(told)));
        assert_eq!(by_id(&view["user"]["devices"]), devices.collect(), "{step}: devices of {user}");
    }
}

/// Without what passes by itself, and sets in one order.
pub(crate) fn timeless(value: &Value) -> Value {
    let mut value = value.clone();
    for one in value["participants"].as_array_mut().into_iter().flatten() {
        one.as_object_mut().unwrap().remove("mediaQuality");
    }
    if let Some(fields) = value.as_object_mut() {
        fields.remove("duration");
        fields.remove("mediaQuality");
        fields.get_mut("capabilities").map(sort);
    }
    value
}

/// A device that was read, without what no event carries.
fn as_told(device: &Value) -> Value {
    let mut device = device.clone();
    let fields = device.as_object_mut().unwrap();
    for (key, value) in [
        ("description", json!("")),
        ("channels", json!(["voice"])),
        ("dynamicPhoneNumber", json!("")),
    ] {
        assert_eq!(fields.remove(key), Some(value), "{key}");
    }
    device
}

/// A set of words.
pub(crate) fn sort(set: &mut Value) {
    if let Some(words) = set.as_array_mut() {
        words.sort_by(|one, other| one.as_str().cmp(&other.as_str()));
        words.dedup();
    }
}
