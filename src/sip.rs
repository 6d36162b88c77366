//! The reference backend: a B2BUA with its registrar, on our own SIP core.

pub mod digest;
pub mod leg;
pub mod message;
pub mod sdp;
pub mod switchboard;
