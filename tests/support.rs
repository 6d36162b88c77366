//! What several tests share.

pub mod front;
pub mod house;
