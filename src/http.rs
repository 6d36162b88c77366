//! HTTP: one server for REST and CometD, its layers, and what both say in the same words.
//!
//! ```text
//!           server ─▶ connection ─┬─ plain poll ─▶ fast_path ──────────▶ a PollService (CometD)
//! client ─▶ (limits)  (delivery)  └─ all else ───▶ layers: request id, ─▶ the routes of REST
//!                                                  panic guard, CORS,     and CometD
//!                                                  headers, auth
//! ```
//!
//! It knows neither REST nor CometD: `app` assembles them.

pub mod auth;
pub(crate) mod body;
pub mod connection;
pub mod delivery;
pub mod error;
pub mod fast_path;
pub(crate) mod forwarded;
pub mod gws_json;
pub(crate) mod hosts;
pub mod identity;
pub mod layers;
pub(crate) mod response;
pub mod server;

use crate::model::{Network, config_value};
use serde::Deserialize;
use std::time::Duration;

/// Configuration of HTTP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// Scheme, host and port under which clients reach us, without a path: the prefix of every URI
    /// we write.
    #[serde(skip)]
    pub public_url: String,
    /// Origins (`https://desk.example.com`) of pages that may call us from a browser, besides our
    /// own.
    #[serde(rename = "allowed_origins")]
    pub cors_origins: Vec<String>,
    /// Names by which clients may ask for us, besides that of the public URL; "localhost" stands for
    /// loopback addresses, too. Empty, or with "*": any.
    pub hosts: Vec<String>,
    /// Proxies in front of us, by address or network, with an `X-Forwarded-For` that is believed:
    /// limits count the client behind them, and the audit names it.
    pub trusted_proxies: Vec<Network>,
    /// GET answers with a token that POST, PUT and DELETE by cookie must send back.
    pub csrf: bool,
    /// Largest request body in bytes, for REST and CometD alike.
    pub body_limit: usize,
    /// How long a REST request may take before it is answered 503.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub timeout: Duration,
    /// How many REST requests may be under way at once; more are answered 503.
    #[serde(deserialize_with = "config_value::nonzero")]
    pub concurrency: usize,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            public_url: "http://127.0.0.1:8080".to_owned(),
            cors_origins: Vec::new(),
            hosts: Vec::new(),
            trusted_proxies: Vec::new(),
            csrf: false,
            body_limit: 96 * 1024,
            timeout: Duration::from_secs(10),
            concurrency: 1024,
        }
    }
}
