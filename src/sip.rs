//! The reference backend: a B2BUA with its registrar, on our own SIP core.

pub mod b2bua;
#[cfg(feature = "io")]
pub mod backend;
pub mod config;
pub mod dialog;
pub mod digest;
#[cfg(feature = "io")]
pub mod endpoint;
pub mod flow;
pub mod leg;
pub mod message;
pub mod peer;
pub mod registrar;
#[cfg(feature = "io")]
mod resolver;
pub mod sdp;
pub mod timers;
pub mod transaction;
#[cfg(feature = "io")]
pub mod transport;
pub mod user_agent;
