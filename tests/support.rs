//! What several tests share.

pub mod front;
