//! How long the server transactions that are over are remembered, and how much that takes.

use super::key::ServerKey;
use super::{Bounds, ServerTransactionId};
use crate::sip::peer::Peer;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

/// A number for each address that is no trunk's.
#[derive(Debug, Default)]
pub(super) struct PerSource(BTreeMap<IpAddr, usize>);

impl PerSource {
    /// That of a peer; none of a trunk's is counted.
    pub(super) fn of(&self, peer: Peer) -> usize {
        match peer {
            Peer::Host(source) => self.0.get(&source).copied().unwrap_or_default(),
            Peer::Trunk(_) => 0,
        }
    }

    pub(super) fn add(&mut self, peer: Peer, more: usize) {
        if let Peer::Host(source) = peer {
            *self.0.entry(source).or_default() += more;
        }
    }

    pub(super) fn subtract(&mut self, peer: Peer, less: usize) {
        let Peer::Host(source) = peer else { return };
        if let Some(number) = self.0.get_mut(&source) {
            *number -= less;
            if *number == 0 {
                self.0.remove(&source);
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The order in which server transactions that are over are forgotten.
#[derive(Debug, Default)]
pub(super) struct EndedTransactions {
    /// By the time at which each is forgotten: what finds it, and what it costs.
    by_time: BTreeMap<(Instant, ServerTransactionId), (Arc<ServerKey>, usize)>,
    /// Bytes, about.
    remembered: usize,
    /// The same.
    per_source: PerSource,
}

impl EndedTransactions {
    /// One is remembered until then; false when its source has no room for it.
    pub(super) fn add(
        &mut self,
        (id, key): (ServerTransactionId, &Arc<ServerKey>),
        cost: usize,
        until: Instant,
        bounds: &Bounds,
    ) -> bool {
        let is_trunk = matches!(key.peer(), Peer::Trunk(_));
        if !is_trunk && self.per_source.of(key.peer()) + cost > bounds.remembered_per_source {
            return false;
        }
        self.per_source.add(key.peer(), cost);
        self.remembered += cost;
        self.by_time.insert((until, id), (key.clone(), cost));
        true
    }

    /// The oldest, when they are more than fit.
    pub(super) fn pop_excess(&mut self, bounds: &Bounds) -> Option<Arc<ServerKey>> {
        if self.remembered <= bounds.remembered {
            return None;
        }
        self.pop()
    }

    /// A transaction that is due.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Arc<ServerKey>> {
        if self.next()? > now {
            return None;
        }
        self.pop()
    }

    fn pop(&mut self) -> Option<Arc<ServerKey>> {
        let (_, (key, cost)) = self.by_time.pop_first()?;
        self.remembered -= cost;
        self.per_source.subtract(key.peer(), cost);
        Some(key)
    }

    /// When the next is forgotten.
    pub(super) fn next(&self) -> Option<Instant> {
        self.by_time.first_key_value().map(|((at, _), _)| *at)
    }

    pub(super) fn count(&self) -> usize {
        self.by_time.len()
    }

    /// What they take, in bytes, about.
    pub(super) fn remembered(&self) -> usize {
        self.remembered
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_time.is_empty() && self.remembered == 0 && self.per_source.is_empty()
    }
}
