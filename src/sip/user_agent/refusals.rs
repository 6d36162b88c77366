//! Refusals that are written down for the operator: each in one line, and never so many that they fill a disk.

use crate::rate_limit::TokenBucket;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Lines at once about strangers, and how long until there may be another.
const STRANGERS: u32 = 20;
const STRANGERS_EACH: Duration = Duration::from_secs(2);

/// The same about trunks and registered phones together.
const KNOWN: u32 = 200;
const KNOWN_EACH: Duration = Duration::from_millis(50);

/// Who has refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusedBy {
    /// A request of theirs was refused here.
    Us,
    /// A request of ours was refused there, or found nobody.
    Peer,
}

/// A request that was refused, or something that could not be read. All text is bounded and printable; `from` and `to` are personal data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRequest {
    /// By whom.
    pub by: RefusedBy,
    /// The method; empty when it could not be read.
    pub method: String,
    /// The Call-ID.
    pub call_id: String,
    /// From as it is written.
    pub from: String,
    /// The Request-URI as it is written.
    pub to: String,
    /// The other side.
    pub peer: SocketAddr,
    /// 300 to 699; 0 when nothing was answered.
    pub status: u16,
    /// Why: ours in words, or the reason phrase of theirs.
    pub reason: String,
    /// The realms that were asked for, for 401 and 407.
    pub realms: String,
    /// How many lines of this kind were left out since the last one.
    pub left_out: u64,
}

/// How many refusals are written down.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    known: RefusalLines,
    strangers: RefusalLines,
}

#[derive(Debug, Default)]
struct RefusalLines {
    allowance: TokenBucket,
    left_out: u64,
}

impl Refusals {
    /// The line, if there may be one now. It is not made when there may not.
    pub(super) fn take(&mut self, known: bool, now: Instant, line: impl FnOnce() -> RefusedRequest) -> Option<RefusedRequest> {
        let (lines, most, each) = match known {
            true => (&mut self.known, KNOWN, KNOWN_EACH),
            false => (&mut self.strangers, STRANGERS, STRANGERS_EACH),
        };
        if lines.allowance.try_take(most, each, now).is_err() {
            lines.left_out += 1;
            return None;
        }
        Some(RefusedRequest {
            left_out: std::mem::take(&mut lines.left_out),
            ..line()
        })
    }
}
