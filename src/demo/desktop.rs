//! The supervisor's desktop: an HTTP client, and a listener on the event channel.

use super::timeline::{Timeline, TimelineEntry};
use super::{DemoError, held};
use crate::clock;
use crate::demo::cometd_client::Listener;
use crate::tls::ClientTls;
use serde_json::Value;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// One user's way in over HTTP.
#[derive(Clone)]
pub(super) struct Desktop {
    http: reqwest::Client,
    base: String,
    tls: ClientTls,
    user: String,
    password: String,
    timeline: Timeline,
}

impl Desktop {
    /// Of a user with this password, at a gateway that `tls` believes.
    pub(super) fn new(
        base: &str,
        tls: &ClientTls,
        (user, password): (&str, &str),
        timeline: Timeline,
    ) -> Result<Desktop, DemoError> {
        Ok(Desktop {
            http: crate::demo::client_builder(tls)?.cookie_store(true).build()?,
            base: base.into(),
            tls: tls.clone(),
            user: user.into(),
            password: password.into(),
            timeline,
        })
    }

    /// Posts an operation and shows request and reply. The moment is that of sending.
    pub(super) async fn post(&self, path: &str, body: Value) -> Result<Instant, DemoError> {
        let at = clock::instant();
        let request = self.http.post(format!("{}{path}", self.base)).json(&body);
        let response = request.basic_auth(&self.user, Some(&self.password)).send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        let reply: Value = serde_json::from_str(&text).unwrap_or(Value::String(text));
        self.timeline.add(TimelineEntry::rest(at, &self.user, path, &body, status, &reply));
        match reply.get("statusCode").and_then(Value::as_i64) {
            Some(0) => Ok(at),
            _ => Err(DemoError::Refused {
                request: format!("POST {path} {body}"),
                reply: format!("{status} {reply}"),
            }),
        }
    }

    /// Opens a CometD session, subscribes and keeps listening.
    pub(super) async fn listen(&self, channels: &[&str]) -> Result<Notifications, DemoError> {
        let Desktop { base, tls, user, password, .. } = self;
        let mut listener = Listener::new(base, tls, user, password, channels, -1)?;
        let notifications = Notifications {
            events: Arc::default(),
            count: Arc::new(watch::Sender::new(0)),
            seen: Arc::default(),
        };
        let opened = listener.next().await?;
        self.deliver(&notifications, opened.events);
        let (desktop, heard) = (self.clone(), notifications.clone());
        tokio::spawn(async move {
            while let Ok(round) = listener.next().await {
                desktop.deliver(&heard, round.events);
            }
        });
        Ok(notifications)
    }

    fn deliver(&self, notifications: &Notifications, messages: Vec<Value>) {
        let at = clock::instant();
        for message in messages {
            self.timeline.add(TimelineEntry::cometd(at, &self.user, &message));
            let mut events = held(&notifications.events);
            events.push(message);
            notifications.count.send_replace(events.len());
        }
    }
}

/// What has come over CometD.
#[derive(Clone)]
pub(super) struct Notifications {
    events: Arc<Mutex<Vec<Value>>>,
    count: Arc<watch::Sender<usize>>,
    seen: Arc<Mutex<usize>>,
}

impl Notifications {
    /// Waits for the next message that fits, from where the last wait ended.
    pub(super) async fn until(
        &self,
        what: &str,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Value, DemoError> {
        let mut count = self.count.subscribe();
        let found = tokio::time::timeout(Duration::from_secs(8), async {
            loop {
                count.borrow_and_update();
                {
                    let events = held(&self.events);
                    let mut seen = held(&self.seen);
                    if let Some((i, message)) = events
                        .iter()
                        .enumerate()
                        .skip(*seen)
                        .find(|(_, message)| fits(&message["data"]))
                    {
                        *seen = i + 1;
                        return Some(message.clone());
                    }
                }
                count.changed().await.ok()?;
            }
        });
        match found.await {
            Ok(Some(message)) => Ok(message),
            Ok(None) | Err(_) => Err(DemoError::Missing(format!("CometD: {what}"))),
        }
    }
}
