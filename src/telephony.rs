//! The seam between gateway and backend: how the gateway reaches one, and a backend without telephones.

pub mod connect;
pub mod simulated;
