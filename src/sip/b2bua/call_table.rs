//! Every call, and the ways to find one.

use super::MediaPolicy;
use super::call::Call;
use super::consultation::{CallPair, Consultation};
use super::leg_index::LegIndex;
use super::party::Party;
use super::step::Step;
use crate::media::CallKey;
use crate::model::{CallId, DeviceId, Number, PartyRole, Refusal};
use crate::sip::leg::{LegId, LegSource};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// The calls by key, by id and by leg.
#[derive(Default)]
pub(super) struct CallTable {
    by_key: BTreeMap<CallKey, Call>,
    by_id: BTreeMap<CallId, CallKey>,
    pub(super) legs: LegIndex,
}

impl CallTable {
    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Call> {
        self.by_key.values()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Call> {
        self.by_key.values_mut()
    }

    pub(super) fn get(&self, key: CallKey) -> Option<&Call> {
        self.by_key.get(&key)
    }

    /// A call, and the index that it keeps of its legs.
    pub(super) fn get_mut(&mut self, key: CallKey) -> Option<(&mut Call, &mut LegIndex)> {
        Some((self.by_key.get_mut(&key)?, &mut self.legs))
    }

    pub(super) fn key_of(&self, id: &CallId) -> Result<CallKey, Refusal> {
        self.by_id.get(id).copied().ok_or_else(|| Refusal::no_call(id))
    }

    pub(super) fn named(&self, id: &CallId) -> Result<&Call, Refusal> {
        self.get(self.key_of(id)?).ok_or_else(|| Refusal::no_call(id))
    }

    /// The party of a leg, with its call.
    pub(super) fn party(&self, leg: LegId) -> Option<(&Call, &Party)> {
        let call = self.get(self.legs.call_of(leg)?)?;
        Some((call, call.parties.get(leg)?))
    }

    /// The party of a leg that has not ended, with its call.
    pub(super) fn live(&self, leg: LegId) -> Option<(&Call, &Party)> {
        self.party(leg).filter(|(_, party)| !party.is_over())
    }

    /// The legs of a peer that have not left, with their calls.
    pub(super) fn live_legs(&self, peer: &LegSource) -> impl Iterator<Item = (&Call, &Party)> {
        self.legs.legs_of(peer).filter_map(|leg| self.live(leg))
    }

    /// As many legs of a peer live.
    pub(super) fn has_legs(&self, peer: &LegSource, count: usize) -> bool {
        self.legs.count(peer) >= count && self.live_legs(peer).count() >= count
    }

    pub(super) fn insert(&mut self, call: Call) {
        self.by_id.insert(call.id.clone(), call.key);
        self.by_key.insert(call.key, call);
    }

    /// Takes a call out for a moment, to be put back by [`Self::insert`].
    pub(super) fn take(&mut self, key: CallKey) -> Option<Call> {
        self.by_key.remove(&key)
    }

    pub(super) fn forget_if_over(&mut self, key: CallKey) {
        if self.get(key).is_some_and(|call| call.parties.is_over())
            && let Some(call) = self.by_key.remove(&key)
        {
            self.by_id.remove(&call.id);
            for party in call.parties.iter() {
                self.legs.forget(party.leg, &party.peer);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn has_no_index(&self) -> bool {
        self.legs.is_empty() && self.by_id.is_empty()
    }

    /// How many live legs a device has sent on, by forwarding or by a redirection of its phone.
    pub(super) fn forwarded_by(&self, device: &DeviceId) -> usize {
        let parties = self.iter().flat_map(|call| call.parties.iter());
        let sent_on =
            |party: &&Party| !party.is_over() && party.trail.forwarded_by.contains(device);
        parties.filter(sent_on).count()
    }

    /// The call that a device has on hold while it makes another.
    pub(super) fn asks_about(&self, device: &DeviceId) -> Option<Consultation> {
        let peer = LegSource::Account(device.clone());
        let held = self
            .live_legs(&peer)
            .filter(|(call, party)| call.consult.is_none() && party.device.as_ref() == Some(device))
            .filter(|(_, party)| {
                party.role == PartyRole::Agent && party.is_talking() && party.is_held()
            });
        let (call, party) = held.max_by_key(|(call, _)| call.key)?;
        Some(Consultation { of: party.leg, call: call.id.clone() })
    }

    /// The calls of a peer that were made to ask about the call of this leg.
    pub(super) fn asking_about(&self, peer: &LegSource, leg: LegId) -> Vec<CallKey> {
        let asking = self.live_legs(peer).filter(|(call, _)| call.asks_about(leg));
        asking.map(|(call, _)| call.key).collect()
    }

    /// The call is over for some of its parties: what they had made to ask about it is a call like
    /// any other.
    pub(super) fn end_consultations_about(&mut self, key: CallKey, out: &mut Step) {
        let Some(call) = self.get(key) else { return };
        let gone = call.parties.iter().filter(|party| party.is_over());
        let freed = gone.flat_map(|party| self.asking_about(&party.peer, party.leg)).collect();
        self.end_consultations(freed, out);
    }

    /// These calls ask about no other any more.
    fn end_consultations(&mut self, calls: Vec<CallKey>, out: &mut Step) {
        for key in calls {
            if let Some((call, _)) = self.get_mut(key) {
                call.end_consultation(out);
            }
        }
    }

    /// The asking party goes on with another leg.
    pub(super) fn move_consultations(&mut self, peer: &LegSource, before: LegId, after: LegId) {
        for key in self.asking_about(peer, before) {
            if let Some((Call { consult: Some(consult), .. }, _)) = self.get_mut(key) {
                consult.of = after;
            }
        }
    }

    /// What the party of a leg was about to do with its calls is done by nobody any more.
    pub(super) fn drop_plans(&mut self, leg: LegId, out: &mut Step) {
        let key = self.legs.call_of(leg);
        let Some((call, _)) = key.and_then(|key| self.get_mut(key)) else {
            return;
        };
        let is_referred = call.drop_transfer(leg, out);
        let Some((call, party)) = self.party(leg) else { return };
        let mut freed = self.asking_about(&party.peer, leg);
        let is_its_own = |of: LegId| {
            let first = self.live(of);
            first.is_none_or(|(_, first)| first.device == party.device)
        };
        let asked_about = call.consult.as_ref().map(|consult| consult.of);
        freed.extend(asked_about.filter(|of| is_its_own(*of)).map(|_| call.key));
        self.end_consultations(freed, out);
        if is_referred {
            out.tell_referrer(leg, 487);
        }
    }

    /// The two calls of a device of which one was made to ask about the other, by its leg on
    /// either.
    pub(super) fn consultation(&self, device: &DeviceId, leg: LegId) -> Option<CallPair> {
        let (call, _) = self.live(leg)?;
        if let Some(consult) = &call.consult
            && let Some((into, first)) = self.live(consult.of)
            && first.device.as_ref() == Some(device)
        {
            return Some(CallPair {
                into: into.key,
                first: consult.of,
                from: call.key,
                second: leg,
            });
        }
        let peer = LegSource::Account(device.clone());
        let mut others = self.live_legs(&peer);
        let (other, party) = others.find(|(other, party)| {
            other.asks_about(leg) && party.device.as_ref() == Some(device)
        })?;
        Some(CallPair { into: call.key, first: leg, from: other.key, second: party.leg })
    }

    /// Two legs of one device: the older call lives on, unless it was made to ask about the other.
    pub(super) fn pair(&self, one: LegId, other: LegId) -> Option<CallPair> {
        let ((one_call, mine), (other_call, its)) = (self.live(one)?, self.live(other)?);
        if one_call.key == other_call.key
            || mine.device.is_none()
            || mine.device != its.device
            || mine.peer != its.peer
        {
            return None;
        }
        let one_lives = other_call.asks_about(one)
            || !one_call.asks_about(other) && one_call.key < other_call.key;
        let ((into, first), (from, second)) = match one_lives {
            true => ((one_call.key, one), (other_call.key, other)),
            false => ((other_call.key, other), (one_call.key, one)),
        };
        Some(CallPair { into, first, from, second })
    }

    /// The number that has a leg of a device's own phone or switch in the device's place.
    pub(super) fn stranger_at(&self, device: &DeviceId) -> Option<Number> {
        let own = LegSource::Account(device.clone());
        let other = self
            .live_legs(&own)
            .find(|(_, party)| party.device.as_ref() != Some(device) && !party.is_supervisor());
        other.map(|(_, party)| party.number.clone())
    }

    /// The legs that are a device's by what another phone or switch says.
    pub(super) fn bearing_the_name_of(&self, device: &DeviceId) -> Vec<LegId> {
        let own = LegSource::Account(device.clone());
        let bears = |party: &&Party| {
            party.device.as_ref() == Some(device)
                && party.peer != own
                && !party.is_over()
                && !party.is_supervisor()
        };
        let parties = self.iter().flat_map(|call| call.parties.iter());
        parties.filter(bears).map(|party| party.leg).collect()
    }

    /// Whether sound that a leg of `call` describes at a port of ours may go there. So it is with a
    /// call that leaves by a trunk and comes back by it (a spiral, RFC 3261 16.3): our two legs
    /// toward the trunk name each other. What they name must not lead back to where it came from,
    /// or packets would go round for ever.
    pub(super) fn may_be_ours(
        &self,
        policy: &MediaPolicy,
        call: CallKey,
        address: SocketAddr,
    ) -> bool {
        if !policy.reach.is_trunks() {
            return false;
        }
        let Some(other) = self.at_port(address, |_| true) else {
            return false;
        };
        let is_trunks = self.at_port(address, |party| party.policy.reach.is_trunks()).is_some();
        // What is named may name this call already: that is the other half of the same spiral.
        is_trunks && other.key != call && !self.leads_to(other, call, address)
    }

    /// The live call with a leg at this port.
    fn at_port(&self, address: SocketAddr, fits: impl Fn(&Party) -> bool) -> Option<&Call> {
        let is_there =
            |party: &Party| !party.is_over() && party.local.address() == address && fits(party);
        self.iter().find(|call| call.parties.iter().any(is_there))
    }

    /// Whether sound comes from one call to another by ports of ours, in any number of steps, but
    /// for the step by the leg at `except`.
    fn leads_to(&self, from: &Call, to: CallKey, except: SocketAddr) -> bool {
        let mut seen = BTreeSet::from([from.key]);
        let mut open = vec![from];
        while let Some(call) = open.pop() {
            for party in call
                .parties
                .iter()
                .filter(|party| !party.is_over() && party.local.address() != except)
            {
                let remote = party.media.as_ref().and_then(|media| media.remote);
                let Some(next) = remote.filter(|remote| party.policy.targets.is_ours(*remote))
                else {
                    continue;
                };
                match self.at_port(next, |_| true) {
                    Some(next) if next.key == to => return true,
                    Some(next) if seen.insert(next.key) => open.push(next),
                    Some(_) | None => {}
                }
            }
        }
        false
    }
}
