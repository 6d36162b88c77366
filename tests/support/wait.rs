//! Waiting for what sends no event: a file, a page, a counter or a sound of a real program. The one
//! place that looks again and again.

use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// What a look finds, as soon as it finds something; `None` when nothing was there in time.
pub(crate) async fn found<T>(
    within: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> Option<T> {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let searching = async {
        loop {
            looks.tick().await;
            if let Some(found) = look().await {
                return found;
            }
        }
    };
    tokio::time::timeout(within, searching).await.ok()
}

/// Waits until something holds.
#[track_caller]
pub(crate) fn holds(
    what: &str,
    within: Duration,
    holds: impl Fn() -> bool,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let in_time = found(within, async || holds().then_some(())).await;
        assert!(in_time.is_some(), "{caller}: not in time: {what}");
    }
}

/// Lets real time pass: phones talk for so long, or something is measured for so long.
pub(crate) async fn elapse(time: Duration) {
    let _ = tokio::time::timeout(time, std::future::pending::<()>()).await;
}
