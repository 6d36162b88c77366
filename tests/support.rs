//! What several tests share.

pub(crate) mod allocations;
pub(crate) mod cable;
pub(crate) mod desktop;
pub(crate) mod floor;
pub(crate) mod frames;
pub(crate) mod front;
pub(crate) mod house;
pub(crate) mod line;
pub(crate) mod process;
pub(crate) mod talk;
pub(crate) mod wait;
