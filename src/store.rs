//! What must survive a restart: a trait, and redb as the embedded default.
