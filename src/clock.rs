//! The only lines that read the time.

use crate::model::{Now, Timestamp};
use std::time::{Duration, Instant, SystemTime};

/// Both clocks: what every machine takes as `now`.
pub fn now() -> Now {
    Now { mono: instant(), wall: wall() }
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

/// What the calling thread has taken of its processor so far: for shares of it, not for time. Asks
/// the system: some hundred nanoseconds.
#[cfg(feature = "io")]
pub fn thread_time() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
