//! The whole product shown in one process: three phones, a desktop, and proof of who heard whom.

mod desktop;
mod hearing;
mod story;
mod timeline;
mod world;

pub use story::run;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// How the demo is run.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// One JSON document on stdout instead of a story.
    pub json: bool,
    /// Gateway and SIP backend as two child processes joined by gRPC.
    pub split: bool,
}

/// Why the demo could not be told to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The product did not start.
    #[error("cannot start: {0}")]
    Start(String),
    /// A phone.
    #[error("the {0}'s phone: {1}")]
    Phone(&'static str, #[source] crate::phone::PhoneError),
    /// HTTP.
    #[error("HTTP: {0}")]
    Http(#[from] reqwest::Error),
    /// A request was refused.
    #[error("{request} was answered {reply}")]
    Refused {
        /// What was asked.
        request: String,
        /// What came.
        reply: String,
    },
    /// CometD did not do as it should.
    #[error("CometD: {0}")]
    CometD(#[from] crate::listener::ListenError),
    /// Something that should have come did not.
    #[error("did not come: {0}")]
    Missing(String),
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
