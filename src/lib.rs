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

pub mod words;

#[cfg(feature = "io")]
pub mod clock;
#[cfg(feature = "io")]
pub mod config;

#[cfg(feature = "io")]
pub mod audit;
#[cfg(feature = "io")]
pub mod contract;
#[cfg(feature = "io")]
pub mod demo;
#[cfg(feature = "io")]
pub mod door;
#[cfg(feature = "io")]
pub mod events;
pub mod front;
pub mod gateway;
#[cfg(feature = "io")]
pub mod listener;
pub mod media;
#[cfg(feature = "io")]
pub mod phone;
#[cfg(feature = "io")]
pub mod serve;
pub mod sip;
#[cfg(feature = "io")]
pub mod store;
pub mod supervision;
#[cfg(feature = "io")]
pub mod telemetry;
#[cfg(feature = "io")]
pub mod telephony;
