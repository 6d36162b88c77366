//! A process that takes no new calls: until it is asked to again, or until it ends.

use crate::model::NodeLoad;
use crate::telephony::simulated::door::only_local;
use axum::extract::{ConnectInfo, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::watch;

/// Where the door is.
const PATH: &str = "/drain";
/// How long the backend may take to hear of it: its loop waits for nothing.
const HEARD: Duration = Duration::from_secs(2);

/// Whether a process takes new calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Drain {
    /// It does.
    #[default]
    Off,
    /// Not until it is asked to.
    Asked,
    /// Never again: it ends.
    Stopping,
}

impl Drain {
    /// It takes none.
    pub(super) fn is_on(self) -> bool {
        self != Self::Off
    }
}

/// What the door moves.
#[derive(Clone)]
pub(super) struct DrainDoor {
    pub(super) drain: watch::Sender<Drain>,
    /// Of the SIP backend in this process.
    pub(super) backend: Option<watch::Sender<bool>>,
    /// Of the calls that this process has, or sees.
    pub(super) load: watch::Receiver<NodeLoad>,
}

/// `GET /drain` says whether the process takes new calls and how many there are; `POST /drain` says
/// that it takes none from now on, `DELETE /drain` that it does again: from this machine alone, as
/// nobody is asked for a password.
pub(super) fn router(door: DrainDoor) -> Router {
    let change = post(begin).delete(end).layer(from_fn(only_local)).layer(from_fn(from_here));
    Router::new().route(PATH, get(show).merge(change)).with_state(door)
}

/// The port may be open to others for health and metrics.
async fn from_here(request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    match peer.is_some_and(|ConnectInfo(peer)| peer.ip().to_canonical().is_loopback()) {
        true => next.run(request).await,
        false => {
            (StatusCode::FORBIDDEN, "error this is done from this machine alone\n").into_response()
        }
    }
}

async fn show(State(door): State<DrainDoor>) -> Response {
    let is_draining = door.drain.borrow().is_on();
    let calls = door.load.borrow().calls;
    Json(json!({ "draining": is_draining, "calls": calls })).into_response()
}

async fn begin(State(door): State<DrainDoor>) -> Response {
    door.change(true).await;
    show(State(door)).await
}

async fn end(State(door): State<DrainDoor>) -> Response {
    match door.change(false).await {
        true => show(State(door)).await,
        false => (StatusCode::CONFLICT, "error it stops, for good\n").into_response(),
    }
}

impl DrainDoor {
    /// Returns when the backend has heard of it; whether it is so.
    async fn change(&self, is_on: bool) -> bool {
        let mut is_so = true;
        self.drain.send_if_modified(|drain| {
            let wanted = if is_on { Drain::Asked } else { Drain::Off };
            is_so = *drain != Drain::Stopping || is_on;
            if *drain == Drain::Stopping || *drain == wanted {
                return false;
            }
            if let Some(backend) = &self.backend {
                backend.send_replace(is_on);
            }
            tracing::info!(draining = is_on, "asked by POST or DELETE /drain");
            *drain = wanted;
            true
        });
        if is_so && self.backend.is_some() {
            let mut load = self.load.clone();
            let heard = load.wait_for(|load| load.is_draining == is_on);
            // A backend that has ended takes no calls either.
            let _ = tokio::time::timeout(HEARD, heard).await;
        }
        is_so
    }
}

/// As busy as this, and draining also while this process does.
pub(super) fn with_drain(
    mut load: watch::Receiver<NodeLoad>,
    mut drain: watch::Receiver<Drain>,
) -> watch::Receiver<NodeLoad> {
    let both = |load: &NodeLoad, drain: Drain| {
        let is_draining = load.is_draining || drain.is_on();
        NodeLoad { is_draining, ..*load }
    };
    let (told, result) =
        watch::channel(both(&load.borrow_and_update(), *drain.borrow_and_update()));
    tokio::spawn(async move {
        loop {
            let changed = tokio::select! {
                changed = load.changed() => changed,
                changed = drain.changed() => changed,
                () = told.closed() => return,
            };
            if changed.is_err() {
                return;
            }
            let now = both(&load.borrow_and_update(), *drain.borrow_and_update());
            told.send_if_modified(|told| std::mem::replace(told, now) != now);
        }
    });
    result
}
