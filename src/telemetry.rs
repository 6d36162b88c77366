//! Logs and metrics.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

static SHOW_PII: AtomicBool = AtomicBool::new(false);

/// Personal data in a log line: redacted unless configured. Numbers and SIP URIs go through it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Pii<T>(pub T);

impl<T: fmt::Display> fmt::Display for Pii<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if SHOW_PII.load(Ordering::Relaxed) {
            self.0.fmt(f)
        } else {
            f.write_str("<redacted>")
        }
    }
}

impl<T: fmt::Display> fmt::Debug for Pii<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Lets numbers and URIs into the log, or keeps them out (the default).
pub fn show_personal_data(show: bool) {
    SHOW_PII.store(show, Ordering::Relaxed);
}
