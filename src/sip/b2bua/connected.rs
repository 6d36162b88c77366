//! A leg whose far side says that somebody else is there now.
//!
//! A switch that rings an agent's phone for us may hand our leg on by itself: its user presses transfer, and the switch bridges the leg
//! with the new party. All that is seen of it here is another name (`LegEvent::ConnectedIdentity`). The device has left the call then, in
//! this step, and the new name is a party of its own on the same leg: a device of ours by its number or an alias, and nobody of ours
//! else. What that does to a supervisor is decided as after a transfer.
//!
//! | stage of the device's leg | a name that is | |
//! |---|---|---|
//! | any | the device's number or alias, or one that it was known by | nothing has changed |
//! | called or calling | another device's | handed on |
//! | called or calling | of nobody here, and the device has aliases | handed on |
//! | called or calling | of nobody here, and the device has none | what the peer calls the device |
//! | calling | withheld | nothing has changed: a caller may withhold its number |
//! | on the call | any other | handed on |
//!
//! A device's name on a leg of another phone or switch is hearsay. It holds as long as nothing here says otherwise: where the device's own
//! leg is with somebody else, or comes to be, so is every leg that only bears its name.

use super::call::{Call, LegStage, Party, Release};
use super::whereabouts::Remark;
use super::{AccountKind, B2bua, Environment, Output, role_of};
use crate::media::CallKey;
use crate::model::{DeviceId, Fact, Failure, Now, Number, PartyRole, Reason, Refusal};
use crate::sip::leg::{ANONYMOUS, LegId, LegSource};
use crate::sip::sdp::Local;
use crate::supervision::LegOutcome;

/// Whose a name is, seen from a leg.
enum Named {
    /// The party's that is there.
    Same,
    /// Another device's.
    Device(DeviceId),
    /// Nobody's of ours.
    Nobody,
}

impl<O: Environment> B2bua<O> {
    /// The peer of a leg has said who is at its end.
    pub(super) fn connected(&mut self, leg: LegId, names: &[Number], now: Now) {
        if let Some(party) = self.call_of(leg).and_then(|call| call.party_mut(leg)) {
            party.is_named |= !names.is_empty();
        }
        let Some((key, call)) = self.place_of(leg) else { return };
        let Some(party) = call.party(leg).filter(|party| self.is_of_house(&party.peer)) else {
            return;
        };
        let may_learn = match party.stage {
            LegStage::Calling { .. } | LegStage::Invited => party.device.as_ref().is_some_and(|device| !self.has_aliases(device)),
            LegStage::Waiting | LegStage::Talking | LegStage::Over => false,
        };
        let is_caller = matches!(party.stage, LegStage::Calling { .. });
        let (mut learned, mut other) = (Vec::new(), None);
        for name in names {
            match self.named(call, party, name) {
                Named::Same => {}
                Named::Nobody if is_caller && name.as_str() == ANONYMOUS => {}
                Named::Nobody if may_learn && name.as_str() == ANONYMOUS => {}
                Named::Nobody if may_learn => learned.push(name.clone()),
                Named::Device(device) => other = other.or(Some((name.clone(), Some(device)))),
                Named::Nobody => other = other.or(Some((name.clone(), None))),
            }
        }
        if let Some((name, device)) = other {
            return self.hand_on(key, leg, &name, device, now);
        }
        if !learned.is_empty()
            && let Some(party) = self.call_of(leg).and_then(|call| call.party_mut(leg))
        {
            party.known_as = learned;
        }
    }

    /// A device has answered of which the configuration says what its switch calls it, and nothing was said.
    pub(super) fn note_unnamed(&mut self, leg: LegId) {
        let Some((_, call)) = self.place_of(leg) else { return };
        let Some(party) = call.party(leg).filter(|party| !party.is_named) else {
            return;
        };
        if party.device.as_ref().is_some_and(|device| self.has_aliases(device)) {
            let peer = party.peer.clone();
            self.outputs.push_back(Output::Remark(Remark::Unnamed { peer }));
        }
    }

    /// The leg is with a telephone of an agent or a supervisor, or with the switch that it is registered from.
    fn is_of_house(&self, peer: &LegSource) -> bool {
        match peer {
            LegSource::Account(device) => self
                .devices
                .get(device)
                .is_some_and(|device| device.extension.kind == AccountKind::Internal),
            LegSource::Trunk(_) => false,
        }
    }

    fn has_aliases(&self, device: &DeviceId) -> bool {
        self.devices.get(device).is_some_and(|device| !device.extension.aliases.is_empty())
    }

    fn named(&self, call: &Call, party: &Party, name: &Number) -> Named {
        if party.number == *name || party.known_as.contains(name) {
            return Named::Same;
        }
        // A device that has left this leg to somebody else may come back under the name that it had there.
        let left_here = |gone: &&Party| gone.handed_on_to.is_some() && gone.peer == party.peer;
        let mut gone = call.parties.iter().rev().filter(left_here);
        let known = gone.find(|gone| gone.known_as.contains(name)).and_then(|gone| gone.device.clone());
        let device = known.or_else(|| self.numbering.named(name).map(|extension| extension.device.clone()));
        match device {
            Some(device) if party.device.as_ref() == Some(&device) => Named::Same,
            Some(device) => Named::Device(device),
            None => Named::Nobody,
        }
    }

    /// The party of a leg has left it to another.
    pub(super) fn hand_on(&mut self, key: CallKey, leg: LegId, name: &Number, device: Option<DeviceId>, now: Now) {
        let Some(call) = self.calls.get(&key) else { return };
        let Some(party) = call.party(leg) else { return };
        if party.is_supervisor() {
            return self.let_supervisor_go(leg, name, now);
        }
        let own = LegSource::Account;
        let is_hearsay = |device: &DeviceId| party.peer != own(device.clone());
        let stranger = device
            .as_ref()
            .filter(|device| is_hearsay(device))
            .and_then(|device| self.stranger_at(device));
        // A device that is on this call by another leg is not two parties.
        let device = device.filter(|device| !call.has(device) && stranger.is_none());
        let lost = party.device.clone().filter(|device| !is_hearsay(device));
        if call.dials.is_some() {
            // The phone that was to dial is somebody else's: nothing is dialled in the device's name.
            self.refuse_callers(key, 480);
            self.leave(leg, Release::Hangup(None), LegOutcome::HungUp, now);
        } else {
            self.change_party(key, leg, name, device.clone(), stranger, now);
        }
        for (key, leg) in lost.map(|lost| self.bearing_the_name_of(&lost)).unwrap_or_default() {
            self.hand_on(key, leg, name, device.clone(), now);
        }
    }

    /// The leg is a device's from now on, or nobody's of ours: then `stranger` says whose, if not `name`.
    fn change_party(&mut self, key: CallKey, leg: LegId, name: &Number, device: Option<DeviceId>, stranger: Option<Number>, now: Now) {
        let extension = device
            .as_ref()
            .and_then(|device| self.devices.get(device))
            .map(|device| &device.extension);
        let (number, role) = match extension {
            Some(extension) => (extension.number.clone(), role_of(extension.kind)),
            None => (stranger.unwrap_or_else(|| name.clone()), PartyRole::Customer),
        };
        self.drop_plans(key, leg);
        let ghost = self.new_leg();
        let Some(call) = self.calls.get_mut(&key) else { return };
        let gone = device.as_ref().map(|device| call.forget_earlier(device)).unwrap_or_default();
        let Some(at) = call.parties.iter().position(|party| party.leg == leg) else {
            return;
        };
        let mut party = call.parties.remove(at);
        call.parties.insert(at, party.left_behind(ghost, number.clone()));
        party.become_another(device, number, role, name, now);
        party
            .known_as
            .extend(gone.iter().flat_map(|gone| gone.known_as.clone()).filter(|known| known != name));
        call.parties.push(party);
        for party in gone {
            self.forget_leg(party.leg, &party.peer);
        }
        self.changed.insert(key);
    }

    /// The number that has a leg of a device's own phone or switch in the device's place.
    fn stranger_at(&self, device: &DeviceId) -> Option<Number> {
        let own = LegSource::Account(device.clone());
        let other = self
            .live_legs(&own)
            .find(|(_, party)| party.device.as_ref() != Some(device) && !party.is_supervisor());
        other.map(|(_, party)| party.number.clone())
    }

    /// The legs that are a device's by what another phone or switch says.
    fn bearing_the_name_of(&self, device: &DeviceId) -> Vec<(CallKey, LegId)> {
        let own = LegSource::Account(device.clone());
        let bears =
            |party: &&Party| party.device.as_ref() == Some(device) && party.peer != own && !party.is_over() && !party.is_supervisor();
        let legs = |call: &Call| {
            call.parties
                .iter()
                .filter(bears)
                .map(|party| (call.key, party.leg))
                .collect::<Vec<_>>()
        };
        self.calls.values().flat_map(legs).collect()
    }

    /// A stranger has a supervisor's leg: it hears nothing more, and is heard by nobody.
    fn let_supervisor_go(&mut self, leg: LegId, name: &Number, now: Now) {
        let Some(call) = self.call_of(leg) else { return };
        let id = call.id.clone();
        let Some(party) = call.party(leg) else { return };
        let outcome = match party.stage {
            LegStage::Invited => LegOutcome::Rejected,
            LegStage::Calling { .. } | LegStage::Waiting | LegStage::Talking | LegStage::Over => LegOutcome::HungUp,
        };
        if let Some(device) = party.device.clone() {
            self.outputs.push_back(Output::Fact(Fact::Failed(Failure {
                device,
                call: Some(id),
                request_id: None,
                refusal: Refusal::new(
                    Reason::InvalidState,
                    format!("Your phone's leg was handed on to '{name}'. It has been released from the call that you monitored."),
                ),
            })));
        }
        self.leave(leg, Release::Hangup(None), outcome, now);
    }

    /// What the party of a leg was about to do with its calls is done by nobody any more.
    fn drop_plans(&mut self, key: CallKey, leg: LegId) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let planned = call.transfer.take_if(|transfer| transfer.by == leg);
        if let Some(transfer) = &planned
            && let Some(party) = call.party_mut(transfer.to)
        {
            party.end(Release::Hangup(None), &mut self.releases);
        }
        let asked_about = call.consult.as_ref().map(|consult| consult.of);
        let Some(party) = self.calls.get(&key).and_then(|call| call.party(leg)) else {
            return;
        };
        let device = party.device.clone();
        let asks = |call: &Call| call.consult.as_ref().is_some_and(|consult| consult.of == leg);
        let mut freed: Vec<CallKey> = self
            .live_legs(&party.peer)
            .filter(|(call, _)| asks(call))
            .map(|(call, _)| call.key)
            .collect();
        let is_its_own = |of: LegId| {
            let first = self.place_of(of).and_then(|(_, call)| call.party(of));
            first.is_none_or(|first| first.device == device)
        };
        freed.extend(asked_about.filter(|of| is_its_own(*of)).map(|_| key));
        for key in freed {
            if let Some(call) = self.calls.get_mut(&key) {
                call.consult = None;
                self.changed.insert(key);
            }
        }
        if planned.is_some_and(|transfer| transfer.referred) {
            self.tell_referrer(leg, 487);
        }
    }
}

impl Party {
    /// The party of the party that has left, without a leg: only its past is told.
    fn left_behind(&self, leg: LegId, to: Number) -> Party {
        let named = (self.number.clone(), self.role);
        let local = Local::new(0, self.local.address());
        Party {
            device: self.device.clone(),
            known_as: self.known_as.clone(),
            is_named: self.is_named,
            handed_on_to: Some(to),
            established_at: self.established_at,
            told: self.told,
            quality: self.quality,
            ..Party::new(leg, self.peer.clone(), named, self.policy.clone(), LegStage::Over, local)
        }
    }

    /// The leg is another party's: nothing that the former one has asked for holds.
    fn become_another(&mut self, device: Option<DeviceId>, number: Number, role: PartyRole, name: &Number, now: Now) {
        self.known_as = if *name == number { Vec::new() } else { vec![name.clone()] };
        (self.device, self.number, self.role) = (device, number, role);
        (self.muted, self.muted_by, self.held_by_command) = (false, None, false);
        self.established_at = self.is_talking().then_some(now.wall);
        self.quality = None;
    }
}
