//! What several tests share.

pub(crate) mod allocations;
pub(crate) mod baresip;
pub(crate) mod cable;
pub(crate) mod callers;
pub(crate) mod certificates;
pub(crate) mod cometd_connection;
pub(crate) mod desktop;
pub(crate) mod drain;
pub(crate) mod frames;
pub(crate) mod gateway_server;
pub(crate) mod issuer;
pub(crate) mod packages;
pub(crate) mod ports;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod rest_client;
pub(crate) mod server;
pub(crate) mod sip_fixture;
pub(crate) mod talk;
pub(crate) mod wait;
