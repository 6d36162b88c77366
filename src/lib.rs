//! Undertone: a supervisor-coaching gateway for contact centres.
//!
//! ```text
//!           Request                Command                gRPC                      SIP, RTP
//!  client ──────────▶ http  ─▶ gateway ─────────▶ telephony ═══════▶ sip (or another) ────▶ phones
//!     ▲       rest, cometd, grpc  │ ▲                 │
//!     └──── Notice ─────┴─────────┘ └───── Fact ◀─────┘
//! ```
//!
//! The modules, in the order data flows. Those of the core have no async, socket, lock, channel or
//! clock: `handle_*(…, now)`, then drain `poll_output()`; `poll_timeout()` says when to be woken.
//! Those of the shell do all the waiting and hardly anything else; they are behind the feature
//! `io`, the software phones and stories of the demonstration behind `demo`, and the check of other
//! backends behind `contract-check`.
//! `tests/floor_plan.rs` holds which module may use which.

pub mod model;

#[cfg(feature = "io")]
pub mod app;
#[cfg(feature = "io")]
pub mod attach;
#[cfg(feature = "io")]
pub mod audit;
#[cfg(feature = "io")]
pub mod clock;
pub mod cluster;
pub mod cometd;
#[cfg(feature = "io")]
pub mod config;
#[cfg(feature = "contract-check")]
pub mod contract_check;
#[cfg(feature = "demo")]
pub mod demo;
pub mod directory;
pub mod gateway;
#[cfg(feature = "io")]
pub mod grpc;
pub mod hex;
#[cfg(feature = "io")]
pub mod http;
pub mod media;
#[cfg(feature = "io")]
pub mod private;
pub mod rate_limit;
#[cfg(feature = "io")]
pub mod rest;
pub mod secret;
pub mod sip;
#[cfg(feature = "io")]
pub mod store;
pub mod supervision;
#[cfg(feature = "io")]
pub mod telemetry;
#[cfg(feature = "io")]
pub mod telephony;
#[cfg(feature = "io")]
pub mod tls;
