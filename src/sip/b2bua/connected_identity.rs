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
//! | called | of nobody here, and the device is behind a trunk | handed on |
//! | called or calling | of nobody here, else | what the peer calls the device |
//! | calling | withheld | nothing has changed: a caller may withhold its number |
//! | on the call | any other | handed on |
//!
//! A device's name on a leg of another phone or switch is hearsay. It holds as long as nothing here
//! says otherwise: where the device's own leg is with another party, or comes to be, so is every
//! leg that only bears its name.
//!
//! A customer's leg is named otherwise, too: its switch has connected it with another. Nothing of the
//! hearing depends on it, whichever party it names; parties and `ani` have the new number from then
//! on, or `anonymous` where that is withheld. What its INVITE or answer names is the customer that
//! is there already, in other words.
//!
//! Of two parties that talk each peer is told when the other is another one
//! ([`LegCommand::Identify`]), whatever has brought that about.
//!
//! What a trunk calls the devices behind it has become their numbers before it comes here.

use super::call::Call;
use super::parties::Parties;
use super::party::{LegStage, Party, PartyStart, Release};
use super::rejection::Rejection;
use super::routing::DialPlan;
use super::step::{Ctx, Step};
use super::{B2bua, Environment, role_of};
use crate::model::{CallId, DeviceId, Now, Number, PartyRole, Reason, Refusal};
#[cfg(doc)]
use crate::sip::leg::LegCommand;
use crate::sip::leg::{ANONYMOUS, Identity, LegId, LegSource};
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

/// What a leg's peer has said, seen from the party that is there.
struct Heard {
    /// Names that the party is known by from now on.
    learned: Vec<Number>,
    /// Another party's name, and its device, if it is one of ours.
    other: Option<(Number, Option<DeviceId>)>,
}

impl<E: Environment> B2bua<E> {
    /// The peer of a leg has named the party at its end.
    pub(super) fn connected(&mut self, leg: LegId, names: &[Number], withheld: bool, now: Now) {
        let Some((call, mut ctx)) = self.find(leg, now) else {
            return self.code_connected(leg, names, now);
        };
        let party = call.parties.get(leg);
        if party.is_some_and(|party| !ctx.plan.is_internal(&party.peer)) {
            call.name_outside(leg, names, withheld, &mut ctx);
        } else if let Some((name, device)) = call.parties.handle_connected(leg, names, ctx.plan) {
            self.hand_on(leg, &name, device, now);
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
        let Some((call, party)) = self.calls.party(leg) else {
            return;
        };
        let is_hearsay = |device: &DeviceId| party.peer != LegSource::Account(device.clone());
        let stranger = device
            .as_ref()
            .filter(|device| is_hearsay(device))
            .and_then(|device| self.calls.stranger_at(device));
        // A device that is on this call by another leg is not two parties.
        let device = device.filter(|device| !call.parties.has(device) && stranger.is_none());
        let lost = party.device.clone().filter(|device| !is_hearsay(device));
        let lost = lost.filter(|_| !party.is_supervisor());
        if !party.is_supervisor() && call.dials.is_none() {
            self.calls.drop_plans(leg, &mut self.out);
        }
        if let Some((call, mut ctx)) = self.find(leg, now) {
            let successor = ctx.plan.successor(name, device.clone(), stranger);
            call.hand_on(leg, successor, &mut ctx);
        }
        for leg in lost.map(|lost| self.calls.bearing_the_name_of(&lost)).unwrap_or_default() {
            self.hand_on(leg, name, device.clone(), now);
        }
    }
}

impl DialPlan {
    /// The party that a leg is handed on to: a device, or nobody of ours. Then `stranger` is its
    /// number, if not `name`.
    fn successor(
        &self,
        name: &Number,
        device: Option<DeviceId>,
        stranger: Option<Number>,
    ) -> Successor {
        let extension =
            device.as_ref().and_then(|device| self.device(device)).map(|device| &device.extension);
        let (number, role) = match extension {
            Some(extension) => (extension.number.clone(), role_of(extension.kind)),
            None => (stranger.unwrap_or_else(|| name.clone()), PartyRole::Customer),
        };
        Successor { device, number, role, name: name.clone() }
    }

    /// `parties`: those of the call.
    fn hear(&self, parties: &[Party], party: &Party, names: &[Number]) -> Heard {
        let may_learn = match party.stage {
            // A switch has said already which device calls: what it says besides is the same.
            LegStage::Calling { .. } => {
                party.device.as_ref().is_some_and(|device| !self.has_aliases(device))
            }
            LegStage::Invited => {
                party.device.as_ref().is_some_and(|device| !self.knows_names(device))
            }
            LegStage::Waiting | LegStage::Talking | LegStage::Over => false,
        };
        let is_caller = matches!(party.stage, LegStage::Calling { .. });
        let (mut learned, mut other) = (Vec::new(), None);
        for name in names {
            match self.named(parties, party, name) {
                Named::Same => {}
                Named::Nobody if is_caller && name.as_str() == ANONYMOUS => {}
                Named::Nobody if may_learn && name.as_str() == ANONYMOUS => {}
                Named::Nobody if may_learn => learned.push(name.clone()),
                Named::Device(device) => other = other.or(Some((name.clone(), Some(device)))),
                Named::Nobody => other = other.or(Some((name.clone(), None))),
            }
        }
        Heard { learned, other }
    }

    fn named(&self, parties: &[Party], party: &Party, name: &Number) -> Named {
        if party.number == *name || party.known_as.contains(name) {
            return Named::Same;
        }
        // A device that has left this leg to another party may come back under the name that it had
        // there.
        let left_here = |gone: &&Party| gone.handed_on_to.is_some() && gone.peer == party.peer;
        let mut gone = parties.iter().rev().filter(left_here);
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
    /// The peer of a leg outside has named the party at its end.
    fn name_outside(&mut self, leg: LegId, names: &[Number], withheld: bool, ctx: &mut Ctx<'_>) {
        let Some(party) = self.parties.get_mut(leg).filter(|party| !party.is_over()) else {
            return;
        };
        party.is_named |= !names.is_empty();
        let is_known = |name: &&Number| party.number == **name || party.known_as.contains(name);
        let Some(name) = names.iter().find(|name| !is_known(name)) else { return };
        let may_learn = matches!(party.stage, LegStage::Calling { .. } | LegStage::Invited);
        let is_same = names.iter().any(|name| is_known(&name));
        let number = if withheld { Number::from(ANONYMOUS) } else { name.clone() };
        party.known_as = names.to_vec();
        if may_learn || is_same || party.number == number {
            return;
        }
        let before = std::mem::replace(&mut party.number, number.clone());
        party.is_private = false;
        self.rename(&before, &number);
        ctx.out.changed.insert(self.key);
    }

    /// A party has another number: the caller, if that was it. What vouches for the former one
    /// (RFC 8224) vouches for nobody now.
    fn rename(&mut self, before: &Number, number: &Number) {
        if self.ani == *before {
            self.ani = number.clone();
            self.passed.retain(|header| !matches!(header.name, "Identity" | "Date"));
        }
    }

    /// The party of a leg leaves it to another. What is left of a party stands beside, without a
    /// leg.
    fn hand_on(&mut self, leg: LegId, to: Successor, ctx: &mut Ctx<'_>) {
        let Some(party) = self.parties.get_mut(leg) else {
            return;
        };
        ctx.out.changed.insert(self.key);
        if party.is_supervisor() {
            return party.handed_to_stranger(&to.name, &self.id, ctx);
        }
        if self.dials.is_some() {
            // The phone that was to dial is another party's: nothing is dialled in the device's
            // name.
            party.leave(Release::Hangup(None), LegOutcome::HungUp, &self.id, ctx);
            self.refuse(Rejection::HandedOn, ctx.out);
            return;
        }
        let before = party.number.clone();
        self.rename(&before, &to.number);
        let ghost = ctx.legs.new_leg();
        let gone = to.device.as_ref().map(|device| self.parties.forget_earlier(device, ctx.index));
        let known = gone.into_iter().flatten().flat_map(|gone| gone.known_as);
        let known: Vec<Number> = known.filter(|known| *known != to.name).collect();
        self.parties.hand_on(leg, ghost, to, known, ctx.now);
    }
}

impl Parties {
    /// The peer of a leg has named the party at its end. Another party's name is returned, with its
    /// device, if it is one of ours.
    fn handle_connected(
        &mut self,
        leg: LegId,
        names: &[Number],
        plan: &DialPlan,
    ) -> Option<(Number, Option<DeviceId>)> {
        let party = self.get(leg)?;
        let counts = !party.is_over() && plan.is_internal(&party.peer);
        let heard = counts.then(|| plan.hear(&self.list, party, names));
        self.get_mut(leg)?.take_names(names, heard)
    }

    /// Where two talk, the peer of each is told which other is there, if that is news.
    pub(super) fn tell_names(&mut self, out: &mut Step) {
        let talking: Vec<(LegId, Identity)> = self
            .principals()
            .filter(|party| party.is_talking())
            .map(|party| (party.leg, party.identity()))
            .collect();
        let [one, other] = talking.as_slice() else { return };
        for (leg, name) in [(one.0, &other.1), (other.0, &one.1)] {
            if let Some(party) = self.get_mut(leg) {
                party.see(name.clone(), out);
            }
        }
    }

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
    /// The peer of the leg of a call that is no party's of a call yet has named the party at its end.
    /// Another party's name is returned.
    pub(super) fn handle_connected(&mut self, names: &[Number], plan: &DialPlan) -> Option<Number> {
        let heard = plan.hear(&[], self, names);
        self.take_names(names, Some(heard)).map(|(name, _)| name)
    }

    fn take_names(
        &mut self,
        names: &[Number],
        heard: Option<Heard>,
    ) -> Option<(Number, Option<DeviceId>)> {
        self.is_named |= !names.is_empty();
        let Heard { learned, other } = heard?;
        if other.is_none() && !learned.is_empty() {
            self.known_as = learned;
        }
        other
    }

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

    /// A stranger has a supervisor's leg: it hears nothing more, and is heard by nobody.
    fn handed_to_stranger(&mut self, name: &Number, call: &CallId, ctx: &mut Ctx<'_>) {
        let outcome = match self.stage {
            LegStage::Invited => LegOutcome::Rejected { status: None },
            LegStage::Calling { .. } | LegStage::Waiting | LegStage::Talking | LegStage::Over => {
                LegOutcome::HungUp
            }
        };
        if let Some(device) = self.device.clone() {
            let message = format!(
                "Your phone's leg was handed on to '{name}'. It has been released from the call \
                 that you monitored."
            );
            ctx.out.fail(device, call.clone(), Refusal::new(Reason::InvalidState, message));
        }
        self.leave(Release::Hangup(None), outcome, call, ctx);
    }

    /// The leg is another party's: nothing that the former one has asked for holds.
    fn become_another(&mut self, to: Successor, now: Now) {
        self.known_as = if to.name == to.number { Vec::new() } else { vec![to.name] };
        (self.device, self.number, self.role) = (to.device, to.number, to.role);
        self.is_private = false;
        (self.muted, self.muted_by, self.held_by_command) = (false, None, false);
        self.established_at = self.is_talking().then_some(now.wall);
        self.quality = None;
    }
}
