//! The doors: translate, never decide.

#[cfg(feature = "io")]
pub mod auth;
pub mod bayeux;
#[cfg(feature = "io")]
pub mod grpc;
#[cfg(feature = "io")]
pub mod json;
#[cfg(feature = "io")]
pub mod refusal;
#[cfg(feature = "io")]
pub mod rest;
