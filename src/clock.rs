//! The only lines that read the time.

use crate::words::{Now, Timestamp};
use std::time::{Instant, SystemTime};

/// Both clocks: what every machine takes as `now`.
pub fn now() -> Now {
    Now {
        mono: instant(),
        wall: wall(),
    }
}

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn instant() -> Instant {
    Instant::now()
}

/// The wall clock: for what people read.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn wall() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp(since_epoch.as_millis() as u64)
}
