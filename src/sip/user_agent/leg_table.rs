//! The legs that there are, and which of them a message names.

use super::leg::{Leg, ReferredLeg, refer_target};
use super::tokens::TokenGenerator;
use crate::sip::leg::LegId;
use crate::sip::message::{Headers, Refuse, Via};
use std::collections::{BTreeMap, BTreeSet};

/// The header field by which a call of ours is known when it comes back through a B2BUA. It says
/// nothing to anybody else.
pub(super) const TRAIL: &str = "X-Undertone-Call";

/// Every leg, by its id and by its Call-ID.
#[derive(Debug)]
pub(super) struct LegTable {
    legs: BTreeMap<LegId, Leg>,
    by_call: BTreeMap<Vec<u8>, BTreeSet<LegId>>,
    next: u64,
}

impl Default for LegTable {
    fn default() -> Self {
        Self { legs: BTreeMap::new(), by_call: BTreeMap::new(), next: 2 }
    }
}

impl LegTable {
    pub(super) fn len(&self) -> usize {
        self.legs.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.legs.is_empty() && self.by_call.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Leg> {
        self.legs.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Leg> {
        self.legs.values_mut()
    }

    pub(super) fn has(&self, id: LegId) -> bool {
        self.legs.contains_key(&id)
    }

    pub(super) fn get(&self, id: LegId) -> Option<&Leg> {
        self.legs.get(&id)
    }

    pub(super) fn get_mut(&mut self, id: LegId) -> Option<&mut Leg> {
        self.legs.get_mut(&id)
    }

    /// The id of the next leg that a peer begins: even ones, so that they never meet those of the
    /// B2BUA.
    pub(super) fn next_id(&self) -> LegId {
        LegId(self.next)
    }

    /// That id is taken.
    pub(super) fn take_id(&mut self) {
        self.next += 2;
    }

    pub(super) fn insert(&mut self, leg: Leg) {
        self.by_call.entry(leg.peer().dialog().call_id.clone()).or_default().insert(leg.id());
        self.legs.insert(leg.id(), leg);
    }

    pub(super) fn remove(&mut self, id: LegId) {
        let Some(leg) = self.legs.remove(&id) else {
            return;
        };
        if let Some(legs) = self.by_call.get_mut(&leg.peer().dialog().call_id) {
            legs.remove(&id);
            if legs.is_empty() {
                self.by_call.remove(&leg.peer().dialog().call_id);
            }
        }
    }

    /// Legs that are over are dropped.
    pub(super) fn remove_over(&mut self) {
        let over: Vec<LegId> = self.iter().filter(|leg| leg.is_over()).map(Leg::id).collect();
        for id in over {
            self.remove(id);
        }
    }

    /// The legs with this Call-ID.
    pub(super) fn of_call(&self, call_id: &[u8]) -> impl Iterator<Item = &Leg> {
        let ids = self.by_call.get(call_id).into_iter().flatten();
        ids.filter_map(|id| self.legs.get(id))
    }

    /// The leg with the Call-ID and tags of a request of the peer.
    pub(super) fn within(&mut self, headers: &Headers) -> Option<&mut Leg> {
        let (from, to) = (headers.from().ok()?, headers.to().ok()?);
        let call_id = headers.call_id().ok()?;
        let (from_tag, to_tag) = (from.tag().unwrap_or_default(), to.tag().unwrap_or_default());
        let is_it = |leg: &&Leg| leg.peer().dialog().matches(call_id, to_tag, from_tag);
        let id = self.of_call(call_id).find(is_it)?.id();
        self.legs.get_mut(&id)
    }

    /// The leg that an INVITE wants to replace (RFC 3891 3), and whether only an early dialog is
    /// meant. One that does not exist is not replaced, and no phone joins a call by itself.
    pub(super) fn replaced(&self, headers: &Headers) -> Result<Option<(&Leg, bool)>, Refuse> {
        if let Some(join) = headers.get("Join") {
            return Err(Refuse::new(if self.named(join).is_some() { 603 } else { 481 }));
        }
        if !headers.has("Replaces") {
            return Ok(None);
        }
        let value = headers.single("Replaces").map_err(|_| Refuse::new(400))?;
        self.named(value).map(Some).ok_or(Refuse::new(481))
    }

    /// The leg that the Refer-To of a request names by Replaces. (481 would end the dialog in which
    /// the peer asks, RFC 5057 5.1.)
    pub(super) fn referred_to(&self, headers: &Headers) -> Option<ReferredLeg> {
        let target = refer_target(headers.single("Refer-To").ok()?)?;
        let replaces = target.header("Replaces")?;
        let (other, early_only) = self.named(&replaces)?;
        other.as_referred(early_only)
    }

    /// The leg that a Replaces or Join names, and whether only an early dialog is meant.
    fn named(&self, value: &[u8]) -> Option<(&Leg, bool)> {
        let mut parts = value.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let call_id = parts.next()?;
        let (mut to_tag, mut from_tag, mut early_only) = (None, None, false);
        for part in parts {
            let mut halves = part.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
            match (halves.next()?.to_ascii_lowercase().as_slice(), halves.next()) {
                (b"to-tag", tag) => to_tag = tag,
                (b"from-tag", tag) => from_tag = tag,
                (b"early-only", _) => early_only = true,
                _ => {}
            }
        }
        let (to_tag, from_tag) = (to_tag?, from_tag?);
        let found = self
            .of_call(call_id)
            .find(|leg| leg.peer().dialog().matches(call_id, to_tag, from_tag));
        found.map(|leg| (leg, early_only))
    }

    /// The leg of ours with the INVITE that comes back in this one: through a proxy, which keeps
    /// our Via beneath its own, the Call-ID and the tag (RFC 3261 16.6), or through a B2BUA that
    /// hands on header fields it does not know.
    pub(super) fn returning(&self, headers: &Headers, tokens: &TokenGenerator) -> Option<&Leg> {
        if let Some(id) = headers.get(TRAIL).and_then(|token| tokens.open_token(token)) {
            return self.legs.get(&id);
        }
        let vias = headers.vias().unwrap_or_default();
        let is_ours = |branch: &[u8]| tokens.is_ours(branch);
        if !vias.iter().filter_map(Via::branch).any(is_ours) {
            return None;
        }
        let from = headers.from().ok()?;
        let (tag, call_id) = (from.tag()?, headers.call_id().ok()?);
        self.of_call(call_id).find(|leg| leg.peer().dialog().local_tag.as_bytes() == tag)
    }
}
