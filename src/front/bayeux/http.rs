//! The noisy side: long-polling over HTTP.

use super::Config;
use crate::front::json::Uris;
use crate::gateway::desk::Desk;
use axum::Router;

/// The way in to the event channel. Cheap to clone.
#[derive(Clone)]
pub struct Bayeux;

impl Bayeux {
    /// Starts the loop that owns all sessions.
    pub fn start(_config: Config, _uris: Uris, _desk: Desk) -> Self {
        Self
    }

    /// Answers every held connect, so that a graceful shutdown does not wait for them.
    pub fn drain(&self) {}
}

/// The endpoint and its subtree, without the layers it shares with REST.
pub(in crate::front) fn router(_bayeux: Bayeux) -> Router {
    Router::new()
}
