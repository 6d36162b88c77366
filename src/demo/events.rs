//! `undertone events`: a user's events in a terminal.

use crate::demo::cometd_client::{ListenError, Listener, Round};
use crate::demo::event_text::{plain, text};
use crate::secret::Secret;
use crate::tls::{ClientTls, ClientTlsFiles};
use serde_json::Value;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};

/// What to show.
#[derive(Clone, Debug)]
pub struct EventsOptions {
    /// Scheme, host and port of the gateway.
    pub url: String,
    /// Authorities, in PEM, that vouch for it over https; `None`: those of the system.
    pub authorities: Option<PathBuf>,
    /// Login name of the user.
    pub user: String,
    /// The password of that user.
    pub password: Secret,
    /// Channels or patterns.
    pub channels: Vec<String>,
    /// Behind which number to begin; −1: now, −2: all that is kept.
    pub after: i64,
    /// How they are shown.
    pub format: EventFormat,
}

/// How an event is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EventFormat {
    /// A line for people.
    #[default]
    Line,
    /// The same line, with all that the event says.
    Verbose,
    /// The message as it came.
    Json,
}

/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);

/// Shows events until SIGINT or SIGTERM; tries again whenever the connection is lost.
///
/// # Errors
/// The gateway refuses this user, or there are no authorities in their file; there is nothing to
/// wait for.
pub async fn run(options: EventsOptions) -> Result<(), ListenError> {
    let channels: Vec<&str> = options.channels.iter().map(String::as_str).collect();
    let EventsOptions { url, authorities, user, password, after, .. } = &options;
    let tls = ClientTls::new(ClientTlsFiles { authorities: authorities.clone(), pair: None });
    let mut listener = Listener::new(url, &tls, user, password.expose(), &channels, *after)?;
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return Ok(());
    };
    let mut is_lost = false;
    loop {
        let round = tokio::select! {
            round = listener.next() => round,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        };
        match round {
            Ok(Round { events, reopened }) => {
                match reopened {
                    Some(true) => say("connected; events in between are not kept any more"),
                    Some(false) => say("connected"),
                    None if is_lost => say("connected again"),
                    None => {}
                }
                is_lost = false;
                if events.iter().try_for_each(|event| show(event, options.format)).is_err() {
                    // Nobody reads any more.
                    break;
                }
            }
            Err(denied @ ListenError::Denied(_)) => return Err(denied),
            Err(error) => {
                if !std::mem::replace(&mut is_lost, true) {
                    say(&format!("{error}; trying again"));
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    listener.leave().await;
    Ok(())
}

fn say(text: &str) {
    // For people only; the events are on standard output.
    let _ = writeln!(io::stderr().lock(), "{text}");
}

fn show(event: &Value, format: EventFormat) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", line(event, format))?;
    out.flush()
}

/// `1000000017 /v2/me/devices device 5005 is Active, Ready`; `-` for the present state, which has
/// no number.
fn line(event: &Value, format: EventFormat) -> String {
    let number =
        event["ext"]["replay"].as_u64().map_or("-".to_owned(), |number| number.to_string());
    let channel = plain(event["channel"].as_str().unwrap_or("-"));
    let data = &event["data"];
    match format {
        EventFormat::Line => format!("{number} {channel} {}", text(data)),
        EventFormat::Verbose => {
            let kind = plain(data["messageType"].as_str().unwrap_or("-"));
            format!("{number} {channel} {kind} {data}")
        }
        EventFormat::Json => event.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_is_one_line() {
        let event = json!({
            "data": {"messageType": "ErrorMessage", "errorMessage": "a\nb", "errorCode": 2},
            "channel": "/v2/me/calls",
            "ext": {"replay": 7},
        });
        assert_eq!(
            line(&event, EventFormat::Line),
            r"7 /v2/me/calls failed: a\u{a}b (statusCode 2)"
        );
        assert_eq!(
            line(&event, EventFormat::Verbose),
            format!("7 /v2/me/calls ErrorMessage {}", event["data"])
        );
        assert_eq!(line(&event, EventFormat::Json), event.to_string());
        let foreign = json!({"data": 1, "channel": "/x"});
        assert_eq!(line(&foreign, EventFormat::Line), "- /x 1");
        assert_eq!(line(&foreign, EventFormat::Verbose), "- /x - 1");
    }
}
