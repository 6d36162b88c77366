//! The whole product shown in one process: three phones, a desktop, and proof of what each of them
//! heard.

pub mod cometd_client;
mod desktop;
mod event_text;
pub mod events;
mod hearing;
pub mod phone;
pub mod simulate;
mod story;
mod timeline;
mod world;

pub use story::run;

use crate::tls::{ClientTls, TlsError};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How the demo is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct DemoOptions {
    /// One JSON document on stdout instead of a story.
    pub json: bool,
    /// Requests, answers and events are shown whole, and every message of a phone's.
    pub verbose: bool,
    /// Gateway and SIP backend as two child processes joined by gRPC.
    pub split: bool,
    /// HTTPS, SIP over TLS and SRTP everywhere, by a private authority made for it.
    pub tls: bool,
    /// The story to tell.
    pub scenario: Scenario,
}

/// A story that the demo can tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scenario {
    /// Coach, BargeIn, ListenIn; cancelled; armed before the call.
    #[default]
    Coach,
    /// The agent transfers the customer: the coach follows the customer, or leaves the call.
    Transfer,
    /// The agent puts the customer on hold while being coached.
    Hold,
    /// The agent brings a colleague in, and the supervisor removes the colleague again.
    Conference,
    /// Two supervisors on one call.
    TwoSupervisors,
}

impl Scenario {
    /// All stories, in the order they are listed.
    pub const ALL: [Scenario; 5] = [
        Scenario::Coach,
        Scenario::Transfer,
        Scenario::Hold,
        Scenario::Conference,
        Scenario::TwoSupervisors,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Scenario::Coach => "coach",
            Scenario::Transfer => "transfer",
            Scenario::Hold => "hold",
            Scenario::Conference => "conference",
            Scenario::TwoSupervisors => "two-supervisors",
        }
    }

    /// What it shows, in a line.
    pub fn about(self) -> &'static str {
        match self {
            Scenario::Coach => {
                "a supervisor coaches, speaks to both, listens, cancels; then once more armed \
                 before the call"
            }
            Scenario::Transfer => {
                "the agent transfers the customer: with scope Call the coach follows, with scope \
                 Agent the coach is out"
            }
            Scenario::Hold => {
                "the agent puts the customer on hold: agent and coach go on talking, and the \
                 customer hears nothing of it"
            }
            Scenario::Conference => {
                "the agent brings a colleague in: all hear each other, the whisper only the agent; \
                 then the colleague is removed"
            }
            Scenario::TwoSupervisors => {
                "one supervisor coaches, a second listens and then coaches too; neither hears the \
                 other"
            }
        }
    }
}

/// Why the demo could not be told to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The product did not start.
    #[error("cannot start: {0}")]
    Start(String),
    /// A software phone failed.
    #[error("the {0}'s phone: {1}")]
    Phone(&'static str, #[source] crate::demo::phone::PhoneError),
    /// An HTTP request failed.
    #[error("HTTP: {0}")]
    Http(#[from] reqwest::Error),
    /// The certificates of the demo cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// A request was refused.
    #[error("{request} was answered {reply}")]
    Refused {
        /// What was asked.
        request: String,
        /// What was answered.
        reply: String,
    },
    /// CometD did not do as it should.
    #[error("CometD: {0}")]
    CometD(#[from] crate::demo::cometd_client::ListenError),
    /// Something that should have come did not.
    #[error("did not come: {0}")]
    Missing(String),
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An HTTP client to be built; over https it believes the servers that `tls` does.
fn client_builder(tls: &ClientTls) -> Result<reqwest::ClientBuilder, TlsError> {
    let tls = tls.config(&[b"http/1.1"])?;
    Ok(reqwest::Client::builder().tls_backend_preconfigured(tls).no_proxy())
}
