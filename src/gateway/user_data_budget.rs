//! How much of a call's data its users may have told anew: each change tells the whole data to
//! everybody on the call, and an agent must not fill the queues of the others.

use crate::model::CallId;
use std::collections::BTreeMap;
use std::time::Instant;

/// Bytes that may be told at once: a third of what a CometD session holds for its client.
const BURST: u64 = 384 * 1024;
/// Bytes a second after that.
const RATE: u64 = 128 * 1024;
/// What the rest of a notice counts.
const NOTICE: u64 = 1024;

/// What has been told of each call's data lately.
#[derive(Debug, Default)]
pub(super) struct UserDataBudget {
    calls: BTreeMap<CallId, Spent>,
}

#[derive(Debug)]
struct Spent {
    bytes: u64,
    at: Instant,
}

impl Spent {
    fn left_at(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.at).as_millis();
        let regained = u64::try_from(passed).unwrap_or(u64::MAX).saturating_mul(RATE) / 1000;
        self.bytes.saturating_sub(regained)
    }
}

impl UserDataBudget {
    /// Takes what a change to this much data costs; false when the call has used up what it has.
    pub(super) fn take(&mut self, call: &CallId, data_bytes: usize, now: Instant) -> bool {
        self.calls.retain(|_, spent| spent.left_at(now) > 0);
        let cost = NOTICE + u64::try_from(data_bytes).unwrap_or(u64::MAX);
        let before = self.calls.get(call).map_or(0, |spent| spent.left_at(now));
        let bytes = before.saturating_add(cost);
        if bytes > BURST {
            return false;
        }
        self.calls.insert(call.clone(), Spent { bytes, at: now });
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an arbitrary beginning of time")]
    fn a_call_has_a_burst_and_then_a_rate_of_its_own() {
        let (mut budget, start) = (UserDataBudget::default(), Instant::now());
        let one = CallId::from("one");
        let taken = (0..10).filter(|_| budget.take(&one, 63 * 1024, start)).count();
        assert_eq!(taken, 6);
        assert!(budget.take(&"two".into(), 63 * 1024, start));
        assert!(!budget.take(&one, 63 * 1024, start + Duration::from_millis(400)));
        assert!(budget.take(&one, 63 * 1024, start + Duration::from_millis(500)));
        let later = start + Duration::from_secs(60);
        assert!(budget.take(&"two".into(), 0, later));
        assert_eq!(budget.calls.len(), 1, "what is regained is forgotten");
    }
}
