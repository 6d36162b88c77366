//! A client of the event channel by long-polling: what `undertone events` and the demo listen with.
//!
//! It acknowledges, and it remembers the number of the last event: after a lost connection, a
//! restart of the gateway or an expired session it goes on where it was.

use crate::telephony::connection::with_causes;
use crate::tls::{ClientTls, TlsError};
use serde_json::{Value, json};
use std::time::Duration;

/// What came of one round.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Round {
    /// Events, as received.
    pub events: Vec<Value>,
    /// A session was opened in this round; true when events between the last session and this one
    /// may be missing.
    pub reopened: Option<bool>,
}

/// Why a round brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The gateway cannot be reached or was cut off; trying again may help.
    #[error("no connection: {}", with_causes(.0.to_string(), .0))]
    Connection(#[from] reqwest::Error),
    /// The authorities that should vouch for it cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// It answers, but not as a CometD server does; trying again may help.
    #[error("HTTP {0}")]
    Http(u16),
    /// It says to come again.
    #[error("not now: {0}")]
    NotNow(String),
    /// Wrong login name or password, or no permission; trying again does not help.
    #[error("refused: {0}")]
    Denied(String),
}

/// The client.
#[derive(Debug)]
pub struct Listener {
    http: reqwest::Client,
    endpoint: String,
    user: String,
    password: String,
    channels: Vec<String>,
    client: Option<String>,
    ack: i64,
    last: i64,
    wait: Duration,
}

/// Longer than a connect is held.
const TIMEOUT: Duration = Duration::from_secs(90);

impl Listener {
    /// Nothing is sent yet. `url` is scheme, host and port, and `tls` what is believed there;
    /// `after` is the number behind which to begin, −1 for the next event.
    ///
    /// # Errors
    /// No HTTP client can be made.
    pub fn new(
        url: &str,
        tls: &ClientTls,
        user: &str,
        password: &str,
        channels: &[&str],
        after: i64,
    ) -> Result<Self, ListenError> {
        Ok(Self {
            http: crate::demo::client_builder(tls)?.cookie_store(true).timeout(TIMEOUT).build()?,
            endpoint: format!("{}/api/v2/notifications", url.trim_end_matches('/')),
            user: user.to_owned(),
            password: password.to_owned(),
            channels: channels.iter().map(|channel| (*channel).to_owned()).collect(),
            client: None,
            ack: 0,
            last: after,
            wait: Duration::ZERO,
        })
    }

    /// Waits for events: as long as the gateway holds a connect. The first round opens the session
    /// and returns at once.
    ///
    /// # Errors
    /// The connection, or a refusal. What was missed comes with a later round.
    pub async fn next(&mut self) -> Result<Round, ListenError> {
        tokio::time::sleep(std::mem::take(&mut self.wait)).await;
        let Some(client) = self.client.clone() else {
            return self.open().await;
        };
        let connect = json!([{
            "channel": "/meta/connect", "clientId": client, "connectionType": "long-polling",
            "ext": {"ack": self.ack},
        }]);
        let messages = self.exchange("/connect", &connect).await?;
        Ok(Round { events: self.take(messages), reopened: None })
    }

    /// Ends the session on the server.
    pub async fn leave(&mut self) {
        if let Some(client) = self.client.take() {
            // Without it the session expires.
            let _ = self
                .exchange(
                    "/disconnect",
                    &json!([{"channel": "/meta/disconnect", "clientId": client}]),
                )
                .await;
        }
    }

    async fn open(&mut self) -> Result<Round, ListenError> {
        let handshake = json!([{
            "channel": "/meta/handshake", "version": "1.0",
            "supportedConnectionTypes": ["long-polling"], "ext": {"ack": true},
        }]);
        let shaken = self.exchange("/handshake", &handshake).await?;
        let reply = shaken.first().cloned().unwrap_or_default();
        let Some(client) = reply["clientId"].as_str() else {
            return Err(self.refused(&reply));
        };
        self.ack = 0;
        let subscribe = json!([{
            "channel": "/meta/subscribe", "clientId": client, "subscription": self.channels,
            "ext": {"replay": self.last},
        }]);
        let subscribed = self.exchange("/", &subscribe).await?;
        let reply = subscribed.iter().find(|message| message["channel"] == "/meta/subscribe");
        let reply = reply.cloned().unwrap_or_default();
        if reply["successful"] != true {
            return Err(self.refused(&reply));
        }
        self.client = Some(client.to_owned());
        let replay = &reply["ext"]["replay"];
        if self.last < 0 {
            // From now on there is something to count from.
            self.last = replay["last"].as_i64().unwrap_or(-1);
        }
        Ok(Round { events: self.take(subscribed), reopened: Some(replay["complete"] == false) })
    }

    /// The advice says whether it is any use to try again.
    fn refused(&mut self, reply: &Value) -> ListenError {
        self.heed(&reply["advice"]);
        let error = match reply["error"].as_str() {
            Some("403::handshake_denied") => "Access denied",
            Some(error) => error,
            None => "no reason given",
        };
        match reply["advice"]["reconnect"].as_str() {
            Some("handshake" | "retry") => ListenError::NotNow(error.to_owned()),
            _ => ListenError::Denied(error.to_owned()),
        }
    }

    fn take(&mut self, messages: Vec<Value>) -> Vec<Value> {
        let (events, replies): (Vec<Value>, Vec<Value>) =
            messages.into_iter().partition(|message| message.get("successful").is_none());
        for reply in replies {
            self.heed(&reply["advice"]);
            self.ack = reply["ext"]["ack"].as_i64().unwrap_or(self.ack);
        }
        let last = events.iter().filter_map(|event| event["ext"]["replay"].as_i64()).max();
        self.last = last.map_or(self.last, |last| last.max(self.last));
        events
    }

    fn heed(&mut self, advice: &Value) {
        if let Some(interval) = advice["interval"].as_u64() {
            self.wait = Duration::from_millis(interval);
        }
        if advice["reconnect"] == "handshake" {
            self.client = None;
        }
    }

    async fn exchange(&self, path: &str, messages: &Value) -> Result<Vec<Value>, ListenError> {
        let request = self.http.post(format!("{}{path}", self.endpoint)).json(messages);
        let response = request.basic_auth(&self.user, Some(&self.password)).send().await?;
        let status = response.status().as_u16();
        match status {
            200 => Ok(response.json().await?),
            401 | 403 => Err(ListenError::Denied(response.text().await.unwrap_or_default())),
            other => Err(ListenError::Http(other)),
        }
    }
}
