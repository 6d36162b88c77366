//! A leg of which the far side says that another party is there now.
//!
//! A switch that rings an agent's phone for us may hand our leg on by itself: its user presses
//! transfer, and the switch bridges the leg with the new party. All that is seen of it here is
//! another name (`LegEvent::ConnectedIdentity`). The device has left the call then, in this step,
//! and the new name is a party of its own on the same leg: a device of ours by its number or an
//! alias, and nobody of ours else. What that does to a supervisor is decided as after a transfer.
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
//! A device's name on a leg of another phone or switch is hearsay. It holds as long as nothing here
//! says otherwise: where the device's own leg is with another party, or comes to be, so is every
//! leg that only bears its name.

use super::call::Call;
use super::media_address::Remark;
use super::parties::Parties;
use super::party::{LegStage, Party, PartyStart, Release};
use super::routing::DialPlan;
use super::step::{Ctx, Step};
use super::{B2bua, Environment, Output, role_of};
use crate::model::{DeviceId, Now, Number, PartyRole, Reason, Refusal};
use crate::sip::leg::{ANONYMOUS, LegId, LegSource};
use crate::sip::sdp::Local;
use crate::supervision::LegOutcome;

/// The party that a name stands for, seen from a leg.
enum Named {
    /// The party that is there.
    Same,
    /// A device other than the party.
    Device(DeviceId),
    /// A party that is no device of ours.
    Nobody,
}

/// The party that a leg is handed on to.
struct Successor {
    /// Its device, if it is one of ours.
    device: Option<DeviceId>,
    number: Number,
    role: PartyRole,
    /// The name by which the peer of the leg calls it.
    name: Number,
}

impl<E: Environment> B2bua<E> {
    /// The peer of a leg has named the party at its end.
    pub(super) fn connected(&mut self, leg: LegId, names: &[Number], now: Now) {
        if let Some(party) = self.calls.of_leg_mut(leg).and_then(|call| call.parties.get_mut(leg)) {
            party.is_named |= !names.is_empty();
        }
        let Some((call, party)) =
            self.calls.live(leg).filter(|(_, party)| self.plan.is_internal(&party.peer))
        else {
            return;
        };
        let may_learn = match party.stage {
            LegStage::Calling { .. } | LegStage::Invited => {
                party.device.as_ref().is_some_and(|device| !self.plan.has_aliases(device))
            }
            LegStage::Waiting | LegStage::Talking | LegStage::Over => false,
        };
        let is_caller = matches!(party.stage, LegStage::Calling { .. });
        let (mut learned, mut other) = (Vec::new(), None);
        for name in names {
            match self.plan.named(call, party, name) {
                Named::Same => {}
                Named::Nobody if is_caller && name.as_str() == ANONYMOUS => {}
                Named::Nobody if may_learn && name.as_str() == ANONYMOUS => {}
                Named::Nobody if may_learn => learned.push(name.clone()),
                Named::Device(device) => other = other.or(Some((name.clone(), Some(device)))),
                Named::Nobody => other = other.or(Some((name.clone(), None))),
            }
        }
        if let Some((name, device)) = other {
            return self.hand_on(leg, &name, device, now);
        }
        if !learned.is_empty()
            && let Some(party) =
                self.calls.of_leg_mut(leg).and_then(|call| call.parties.get_mut(leg))
        {
            party.known_as = learned;
        }
    }

    /// A device has answered of which the configuration says what its switch calls it, and nothing
    /// was said.
    pub(super) fn note_unnamed(&mut self, leg: LegId) {
        let Some((_, party)) = self.calls.live(leg).filter(|(_, party)| !party.is_named) else {
            return;
        };
        if party.device.as_ref().is_some_and(|device| self.plan.has_aliases(device)) {
            let peer = party.peer.clone();
            self.out.push(Output::Remark(Remark::Unnamed { peer }));
        }
    }

    /// The party of a leg has left it to another.
    pub(super) fn hand_on(
        &mut self,
        leg: LegId,
        name: &Number,
        device: Option<DeviceId>,
        now: Now,
    ) {
        let Some(call) = self.calls.of_leg(leg) else {
            return;
        };
        let Some(party) = call.parties.get(leg) else { return };
        if party.is_supervisor() {
            if let Some((call, mut ctx)) = self.find(leg, now) {
                call.let_supervisor_go(leg, name, &mut ctx);
            }
            return;
        }
        let is_hearsay = |device: &DeviceId| party.peer != LegSource::Account(device.clone());
        let stranger = device
            .as_ref()
            .filter(|device| is_hearsay(device))
            .and_then(|device| self.calls.stranger_at(device));
        // A device that is on this call by another leg is not two parties.
        let device = device.filter(|device| !call.parties.has(device) && stranger.is_none());
        let lost = party.device.clone().filter(|device| !is_hearsay(device));
        if call.dials.is_some() {
            // The phone that was to dial is another party's: nothing is dialled in the device's
            // name.
            if let Some((call, mut ctx)) = self.find(leg, now) {
                call.refuse(480, ctx.out);
                call.leave(leg, Release::Hangup(None), LegOutcome::HungUp, &mut ctx);
            }
        } else {
            self.change_party(leg, name, device.clone(), stranger, now);
        }
        for leg in lost.map(|lost| self.calls.bearing_the_name_of(&lost)).unwrap_or_default() {
            self.hand_on(leg, name, device.clone(), now);
        }
    }

    /// The leg is a device's from now on, or nobody's of ours: then `stranger` is its number, if
    /// not `name`.
    fn change_party(
        &mut self,
        leg: LegId,
        name: &Number,
        device: Option<DeviceId>,
        stranger: Option<Number>,
        now: Now,
    ) {
        let extension = device
            .as_ref()
            .and_then(|device| self.plan.device(device))
            .map(|device| &device.extension);
        let (number, role) = match extension {
            Some(extension) => (extension.number.clone(), role_of(extension.kind)),
            None => (stranger.unwrap_or_else(|| name.clone()), PartyRole::Customer),
        };
        let successor = Successor { device, number, role, name: name.clone() };
        self.drop_plans(leg);
        let ghost = self.legs.new_leg();
        let Some((call, ctx)) = self.find(leg, now) else {
            return;
        };
        ctx.out.changed.insert(call.key);
        for gone in call.hand_on(leg, ghost, successor, now) {
            self.calls.forget_leg(gone.leg, &gone.peer);
        }
    }

    /// What the party of a leg was about to do with its calls is done by nobody any more.
    fn drop_plans(&mut self, leg: LegId) {
        let Some(call) = self.calls.of_leg_mut(leg) else {
            return;
        };
        let is_referred = call.drop_transfer(leg, &mut self.out);
        let Some(call) = self.calls.of_leg(leg) else {
            return;
        };
        let Some(party) = call.parties.get(leg) else { return };
        let mut freed = self.calls.asking_about(&party.peer, leg);
        let is_its_own = |of: LegId| {
            let first = self.calls.live(of);
            first.is_none_or(|(_, first)| first.device == party.device)
        };
        let asked_about = call.consult.as_ref().map(|consult| consult.of);
        freed.extend(asked_about.filter(|of| is_its_own(*of)).map(|_| call.key));
        self.forget_consultations(freed);
        if is_referred {
            self.out.tell_referrer(leg, 487);
        }
    }
}

impl DialPlan {
    fn named(&self, call: &Call, party: &Party, name: &Number) -> Named {
        if party.number == *name || party.known_as.contains(name) {
            return Named::Same;
        }
        // A device that has left this leg to another party may come back under the name that it had
        // there.
        let left_here = |gone: &&Party| gone.handed_on_to.is_some() && gone.peer == party.peer;
        let mut gone = call.parties.iter().rev().filter(left_here);
        let known =
            gone.find(|gone| gone.known_as.contains(name)).and_then(|gone| gone.device.clone());
        let device =
            known.or_else(|| self.numbering.named(name).map(|extension| extension.device.clone()));
        match device {
            Some(device) if party.device.as_ref() == Some(&device) => Named::Same,
            Some(device) => Named::Device(device),
            None => Named::Nobody,
        }
    }
}

impl Call {
    /// The party of a leg leaves it to another: what is left of it stands beside, without a leg.
    /// The parties that are forgotten for it are returned.
    fn hand_on(&mut self, leg: LegId, ghost: LegId, to: Successor, now: Now) -> Vec<Party> {
        let gone = to
            .device
            .as_ref()
            .map(|device| self.parties.forget_earlier(device))
            .unwrap_or_default();
        let known = gone.iter().flat_map(|gone| gone.known_as.clone());
        let known: Vec<Number> = known.filter(|known| *known != to.name).collect();
        self.parties.hand_on(leg, ghost, to, known, now);
        gone
    }

    /// Nobody is called for a party any more that has asked for it. True: it has asked at its
    /// phone.
    fn drop_transfer(&mut self, by: LegId, out: &mut Step) -> bool {
        let Some(transfer) = self.transfer.take_if(|transfer| transfer.by == by) else {
            return false;
        };
        if let Some(party) = self.parties.get_mut(transfer.to) {
            party.end(Release::Hangup(None), out);
        }
        transfer.referred
    }

    /// A stranger has a supervisor's leg: it hears nothing more, and is heard by nobody.
    fn let_supervisor_go(&mut self, leg: LegId, name: &Number, ctx: &mut Ctx<'_>) {
        let Some(party) = self.parties.get(leg) else { return };
        let outcome = match party.stage {
            LegStage::Invited => LegOutcome::Rejected,
            LegStage::Calling { .. } | LegStage::Waiting | LegStage::Talking | LegStage::Over => {
                LegOutcome::HungUp
            }
        };
        if let Some(device) = party.device.clone() {
            let message = format!(
                "Your phone's leg was handed on to '{name}'. It has been released from the call that you monitored."
            );
            ctx.out.fail(device, self.id.clone(), Refusal::new(Reason::InvalidState, message));
        }
        self.leave(leg, Release::Hangup(None), outcome, ctx);
    }
}

impl Parties {
    /// What is left of the party of a leg stands in its place, without a leg; the new one comes
    /// last, `known` by these names besides.
    fn hand_on(&mut self, leg: LegId, ghost: LegId, to: Successor, known: Vec<Number>, now: Now) {
        let Some(at) = self.list.iter().position(|party| party.leg == leg) else {
            return;
        };
        let mut party = self.list.remove(at);
        self.list.insert(at, party.left_behind(ghost, to.number.clone()));
        party.become_another(to, now);
        party.known_as.extend(known);
        self.list.push(party);
    }
}

impl Party {
    /// What remains of the party that has left, without a leg: only its past is told.
    fn left_behind(&self, leg: LegId, to: Number) -> Party {
        let local = Local::new(0, self.local.address());
        let start = PartyStart {
            leg,
            peer: self.peer.clone(),
            number: self.number.clone(),
            role: self.role,
            policy: self.policy.clone(),
            stage: LegStage::Over,
        };
        Party {
            device: self.device.clone(),
            known_as: self.known_as.clone(),
            is_named: self.is_named,
            handed_on_to: Some(to),
            established_at: self.established_at,
            told: self.told,
            quality: self.quality,
            ..Party::new(start, local)
        }
    }

    /// The leg is another party's: nothing that the former one has asked for holds.
    fn become_another(&mut self, to: Successor, now: Now) {
        self.known_as = if to.name == to.number { Vec::new() } else { vec![to.name] };
        (self.device, self.number, self.role) = (to.device, to.number, to.role);
        (self.muted, self.muted_by, self.held_by_command) = (false, None, false);
        self.established_at = self.is_talking().then_some(now.wall);
        self.quality = None;
    }
}
