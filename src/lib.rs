//! Undertone: a supervisor-coaching gateway for contact centres.
//!
//! ```text
//!           Request                Command                gRPC                       SIP, RTP
//!  client ──────────▶ front ─▶ gateway ─────────▶ telephony ═══════▶ sip (or any backend) ─────────▶ phones
//!     ▲                 │         │ ▲                 │
//!     └──── Notice ─────┴─────────┘ └───── Fact ◀─────┘
//! ```
//!
//! The floor plan, in the order data flows. Quiet rooms have no async, socket, lock, channel or clock: `handle_*(…, now)`,
//! then drain `poll_output()`; `poll_timeout()` says when to be woken. Noisy rooms do all the waiting and hardly anything
//! else. Noisy rooms are behind the feature `io`; `tests/floor_plan.rs` holds the walls.

pub mod model;

#[cfg(feature = "io")]
pub mod app;
#[cfg(feature = "io")]
pub mod audit;
#[cfg(feature = "io")]
pub mod clock;
pub mod cometd;
#[cfg(feature = "io")]
pub mod config;
#[cfg(feature = "demo")]
pub mod demo;
pub mod gateway;
#[cfg(feature = "io")]
pub mod grpc;
#[cfg(feature = "io")]
pub mod http;
pub mod media;
#[cfg(feature = "io")]
pub mod rest;
pub mod sip;
#[cfg(feature = "io")]
pub mod store;
pub mod supervision;
#[cfg(feature = "io")]
pub mod telemetry;
#[cfg(feature = "io")]
pub mod telephony;
