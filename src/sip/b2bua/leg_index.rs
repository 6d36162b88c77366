//! The legs of all calls, by id and by peer.

use crate::media::CallKey;
use crate::sip::leg::{LegId, LegSource};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// On which call each leg is, and which legs a peer has.
#[derive(Default)]
pub(super) struct LegIndex {
    by_leg: BTreeMap<LegId, CallKey>,
    /// Every leg of a peer, those that have left included until their call forgets them.
    by_peer: BTreeMap<LegSource, BTreeSet<LegId>>,
    seats: BTreeMap<String, TrunkSeat>,
}

/// A place among the calls of a trunk: a leg has it for as long as it lives, and gives it back when
/// it is dropped.
#[derive(Debug, Default)]
pub(super) struct TrunkSeat(Arc<()>);

impl LegIndex {
    pub(super) fn call_of(&self, leg: LegId) -> Option<CallKey> {
        self.by_leg.get(&leg).copied()
    }

    pub(super) fn legs_of(&self, peer: &LegSource) -> impl Iterator<Item = LegId> {
        self.by_peer.get(peer).into_iter().flatten().copied()
    }

    /// A leg goes by this trunk.
    pub(super) fn seat(&mut self, trunk: &str) -> TrunkSeat {
        if !self.seats.contains_key(trunk) {
            // Trunks that were taken out.
            self.seats.retain(|_, seat| Arc::strong_count(&seat.0) > 1);
        }
        TrunkSeat(self.seats.entry(trunk.to_owned()).or_default().0.clone())
    }

    /// The legs that go by this trunk.
    pub(super) fn seated(&self, trunk: &str) -> usize {
        self.seats.get(trunk).map_or(0, |seat| Arc::strong_count(&seat.0) - 1)
    }

    pub(super) fn count(&self, peer: &LegSource) -> usize {
        self.by_peer.get(peer).map_or(0, BTreeSet::len)
    }

    pub(super) fn add(&mut self, leg: LegId, peer: &LegSource, call: CallKey) {
        self.by_leg.insert(leg, call);
        self.by_peer.entry(peer.clone()).or_default().insert(leg);
    }

    pub(super) fn move_to(&mut self, leg: LegId, call: CallKey) {
        self.by_leg.insert(leg, call);
    }

    pub(super) fn forget(&mut self, leg: LegId, peer: &LegSource) {
        self.by_leg.remove(&leg);
        if let Some(legs) = self.by_peer.get_mut(peer) {
            legs.remove(&leg);
            if legs.is_empty() {
                self.by_peer.remove(peer);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.by_leg.is_empty() && self.by_peer.is_empty()
    }
}
