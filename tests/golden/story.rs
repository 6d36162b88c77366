//! A scenario with the whole product and real phones: each step's messages, compared with what is
//! written down.

use super::{api, uris};
use crate::support::desktop::{Audience, sort};
use crate::support::server::{AGENT, Account, COLLEAGUE, CUSTOMER, SUPERVISOR, Server, bystander};
use crate::support::talk;
use serde_json::{Map, Value, json};
use std::fmt::Write;
use std::path::PathBuf;
use undertone::demo::phone::{AnswerPolicy, Phone};

/// Whose desktops are written down, in this order.
const DESKTOPS: [Account; 3] = [AGENT, COLLEAGUE, SUPERVISOR];

/// Regenerates what is written down.
const UPDATE: &str = "UPDATE_GOLDEN";

pub(super) struct Story {
    name: &'static str,
    pub(super) server: Server,
    pub(super) customer: Phone,
    pub(super) agent: Phone,
    pub(super) colleague: Phone,
    pub(super) supervisor: Phone,
    audience: Audience,
    names: Names,
    steps: Vec<Value>,
    golden: Option<Value>,
}

impl Story {
    /// Everybody's phone is registered, everybody has logged in and subscribed. `name` is the
    /// test's.
    pub(super) async fn begin(name: &'static str) -> Story {
        let mut story = Story::before_log_in(name).await;
        let session = json!({"operationName": "StartContactCenterSession", "channels": ["voice"]});
        for account in DESKTOPS {
            story.server.post(account, "/me", session.clone()).await;
        }
        story.told("everybody has logged in", &[]).await;
        story
    }

    /// The same, and nobody has opened a contact-centre session yet.
    pub(super) async fn before_log_in(name: &'static str) -> Story {
        let server = Server::configured(&bystander()).await;
        let phone =
            async |account, hz| talk::phone(account, server.sip, hz, AnswerPolicy::ByHeader).await;
        let customer = phone(CUSTOMER, 437.0).await;
        let agent = phone(AGENT, 613.0).await;
        let colleague = phone(COLLEAGUE, 743.0).await;
        let supervisor = phone(SUPERVISOR, 877.0).await;
        for account in DESKTOPS {
            server.registered(account).await;
        }
        let mut story = Story {
            name,
            customer,
            agent,
            colleague,
            supervisor,
            audience: Audience::open(server.rest, &DESKTOPS).await,
            server,
            names: Names::default(),
            steps: Vec::new(),
            golden: match std::env::var_os(UPDATE) {
                Some(_) => None,
                None => Some(written_down(name)),
            },
        };
        story.told("everybody has subscribed", &[]).await;
        story
    }

    /// A further phone of the same account: it registers last, and so is the one that is called.
    pub(super) async fn second_line(&self, account: Account) -> Phone {
        talk::phone(account, self.server.sip, 613.0, AnswerPolicy::ByHeader).await
    }

    /// An operation on the user's device.
    pub(super) async fn device(&self, account: Account, body: Value) {
        self.server.post(account, &format!("/me/devices/{}", account.device), body).await;
    }

    /// An operation on the user's leg of a call, by the number under which it is written down.
    pub(super) async fn call(&self, account: Account, number: usize, body: Value) {
        let id = &self.names.calls[number - 1];
        self.server.post(account, &format!("/me/calls/{id}"), body).await;
    }

    /// SwapCalls of two calls of the user's device, by their numbers.
    pub(super) async fn swap(&self, account: Account, number: usize, other: usize) {
        let other = &self.names.calls[other - 1];
        let uri = format!("http://any.where/api/v2/me/calls/{other}");
        let body = json!({"operationName": "SwapCalls", "otherCallUri": uri});
        self.call(account, number, body).await;
    }

    /// The step is over when each of these users has been told a message with that in its data.
    /// Everything that everybody has been told in it is as written down, and what a user can
    /// read is what the user was told last.
    pub(super) async fn told(&mut self, step: &str, until: &[(Account, Value)]) {
        for (account, data) in until {
            self.audience.of(*account).until(data).await;
        }
        self.audience.catch_up().await;
        let mut found = Map::from_iter([("step".to_owned(), json!(step))]);
        let mut heard = Vec::new();
        for desktop in &mut self.audience.desktops {
            let told = desktop.take();
            told.iter().for_each(|message| api::check(desktop.account, message));
            heard.push(told.clone());
            let told: Vec<Value> =
                told.iter().map(|message| self.names.normalised(message)).collect();
            found.insert(desktop.account.user.to_owned(), json!(told));
        }
        self.audience.reads_as_told(step).await;
        for (desktop, heard) in self.audience.desktops.iter().zip(&heard) {
            uris::answer(&self.server, desktop, heard, step).await;
        }
        let found = Value::Object(found);
        if let Some(golden) = &self.golden {
            let expected = &golden["steps"][self.steps.len()];
            for key in ["step"].into_iter().chain(DESKTOPS.map(|account| account.user)) {
                assert!(expected[key] == found[key], "{}", self.difference(key, expected, &found));
            }
        }
        self.steps.push(found);
    }

    fn difference(&self, key: &str, expected: &Value, found: &Value) -> String {
        let (number, step) = (self.steps.len() + 1, found["step"].as_str().unwrap_or_default());
        let mut text = format!(
            "{}: step {number} ({step}): {key} differs from {}\n",
            self.name,
            path(self.name).display()
        );
        let of = |value: &Value| match &value[key] {
            Value::Array(messages) => messages.clone(),
            other => vec![other.clone()],
        };
        let (expected, found) = (of(expected), of(found));
        for at in 0..expected.len().max(found.len()) {
            let show = |messages: &[Value]| {
                messages.get(at).map_or("nothing".to_owned(), |message| format!("{message:#}"))
            };
            if expected.get(at) != found.get(at) {
                let _ = write!(
                    text,
                    "message {}\nexpected: {}\ncame: {}\n",
                    at + 1,
                    show(&expected),
                    show(&found)
                );
            }
        }
        let run = format!("cargo nextest run --test all -E 'test(=golden::{})'", self.name);
        let _ =
            write!(text, "run it alone: {run}\nif what came is right by the API: {UPDATE}=1 {run}");
        text
    }

    /// There are no more steps.
    pub(super) fn end(self) {
        match self.golden {
            Some(golden) => {
                let steps = golden["steps"].as_array().map(Vec::len);
                assert_eq!(steps, Some(self.steps.len()), "steps in {}", path(self.name).display());
            }
            None => std::fs::write(path(self.name), text(self.name, &self.steps)).unwrap(),
        }
    }
}

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests/data/golden", &format!("{name}.json")].iter().collect()
}

fn written_down(name: &str) -> Value {
    let path = path(name);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; {UPDATE}=1 writes it", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A message a line.
fn text(name: &str, steps: &[Value]) -> String {
    let step = |step: &Value| {
        let told = DESKTOPS.map(|account| {
            let messages = step[account.user].as_array().unwrap();
            let lines: Vec<String> =
                messages.iter().map(|message| format!("\n        {message}")).collect();
            let end = if lines.is_empty() { "" } else { "\n      " };
            format!("      \"{}\": [{}{end}]", account.user, lines.join(","))
        });
        format!("    {{\n      \"step\": {},\n{}\n    }}", step["step"], told.join(",\n"))
    };
    let steps: Vec<String> = steps.iter().map(step).collect();
    format!("{{\n  \"scenario\": \"{name}\",\n  \"steps\": [\n{}\n  ]\n}}\n", steps.join(",\n"))
}

/// What is another each time, by the names that are written down instead.
#[derive(Default)]
struct Names {
    calls: Vec<String>,
    connections: Vec<String>,
}

impl Names {
    fn normalised(&mut self, message: &Value) -> Value {
        let mut message = message.clone();
        if let Some(data) = message["data"].as_object_mut() {
            data.remove("metrics");
        }
        let call = &message["data"]["call"];
        if let (Some(id), Some(connection)) = (call["id"].as_str(), call["connId"].as_str()) {
            let is_one =
                connection.len() == 16 && connection.chars().all(|c| c.is_ascii_hexdigit());
            assert!(is_one, "16 hex digits: {connection}");
            for (names, name) in [(&mut self.calls, id), (&mut self.connections, connection)] {
                if !names.iter().any(|known| known == name) {
                    names.push(name.to_owned());
                }
            }
        }
        self.rename(&mut message);
        message
    }

    fn rename(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if let Some((_, path)) = text.split_once("/api/v2/") {
                    *text = format!("http://HOUSE/api/v2/{path}");
                }
                for (names, word) in [(&self.calls, "CALL"), (&self.connections, "CONNECTION")] {
                    for (at, name) in names.iter().enumerate() {
                        *text = text.replace(name.as_str(), &format!("{word}-{}", at + 1));
                    }
                }
            }
            Value::Array(values) => values.iter_mut().for_each(|value| self.rename(value)),
            Value::Object(fields) => {
                for (key, value) in fields.iter_mut() {
                    match key.as_str() {
                        "capabilities" => sort(value),
                        "duration" => {
                            let seconds = value.as_str().and_then(|text| text.parse::<u64>().ok());
                            assert!(seconds.is_some(), "a string of seconds: {value}");
                            *value = json!("SECONDS");
                        }
                        _ => self.rename(value),
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}
