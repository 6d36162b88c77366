//! What several tests share.

pub(crate) mod front;
pub(crate) mod house;
pub(crate) mod process;
pub(crate) mod talk;
