//! How long a caller is known: for what goes on after the request.

use super::{Credential, Entry};
use crate::model::Caller;
use std::sync::Arc;
use tokio::sync::watch;

/// Holds as long as what a caller has shown stands for that caller.
#[derive(Clone)]
pub(in crate::telephony) struct Lease(Option<Terms>);

#[derive(Clone)]
struct Terms {
    caller: Arc<Caller>,
    credential: Credential,
    entries: watch::Receiver<Arc<Vec<Entry>>>,
}

impl Lease {
    pub(super) fn new(
        caller: Arc<Caller>,
        credential: Credential,
        entries: watch::Receiver<Arc<Vec<Entry>>>,
    ) -> Self {
        Self(Some(Terms { caller, credential, entries }))
    }

    /// For ever.
    pub(in crate::telephony) fn without_end() -> Self {
        Self(None)
    }

    /// Returns when the caller is not known by it any more, or is another.
    pub(in crate::telephony) async fn ended(&mut self) {
        let Some(terms) = &mut self.0 else {
            return std::future::pending().await;
        };
        while terms.entries.changed().await.is_ok() {
            let now = terms.credential.caller_among(&terms.entries.borrow_and_update());
            if now.is_ok_and(|caller| caller == terms.caller) {
                continue;
            }
            return;
        }
        // Those that could take it away are gone.
        std::future::pending().await
    }
}
