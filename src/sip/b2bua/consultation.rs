//! Two calls of one device: the second is made to ask about the first, and may become a part of it.
//!
//! ```text
//!  customer ── agent (held)          customer ────── colleague      transfer: the agent is out
//!              agent ── colleague
//!                                    customer ── agent ── colleague conference: he stays
//! ```
//!
//! Legs move with their ports and streams; nobody is sent a re-INVITE. Whoever supervises either call goes along. The first call's id
//! is the one that lives on.

use super::call::{Call, LegStage, Party, PartyExchange, Release};
use super::session::{Rejection, first_of, prefer};
use super::transfer::{Transfer, TransferKind};
use super::{B2bua, Environment, Output, role_of};
use crate::media::call::MAX_LEGS;
use crate::media::{CallKey, MediaCommand};
use crate::model::{CallId, DeviceId, Now, Number, PartyRole, Reason, Refusal};
use crate::sip::leg::{Identity, LegCommand, LegId, LegSource};
use crate::sip::sdp::Direction;
use crate::supervision::LegOutcome;

/// What makes a call a consultation.
#[derive(Clone, Debug)]
pub(super) struct Consultation {
    /// Whoever asks, on the call that he asks about.
    pub(super) of: LegId,
    /// That call.
    pub(super) call: CallId,
}

/// A device's two calls.
#[derive(Clone, Copy, Debug)]
struct CallPair {
    /// The call that lives on, and the device's leg there.
    into: CallKey,
    first: LegId,
    /// The call that becomes a part of it, and the device's leg there.
    from: CallKey,
    second: LegId,
}

impl<O: Environment> B2bua<O> {
    /// Holds the call, and calls somebody to ask about it.
    pub(super) fn consult(&mut self, device: &DeviceId, call: &CallId, destination: &Number, now: Now) -> Result<(), Refusal> {
        let id = call;
        let party = self.party(device, call)?;
        if party.is_supervisor() {
            return Err(not_now("A supervisor does not transfer the call he monitors."));
        }
        if !party.is_talking() || party.role != PartyRole::Agent {
            return Err(not_now("Only an established call can be asked about."));
        }
        let of = party.leg;
        let call = self.call_of(of).ok_or_else(|| Refusal::no_call(id))?;
        if call.transfer.is_some() || !call.others(of).any(Party::is_talking) {
            return Err(not_now("The call is being transferred, or nobody is on it."));
        }
        if self.consultation(device, of).is_some() {
            return Err(not_now("Another call is already connected with this one."));
        }
        let about = Consultation { of, call: id.clone() };
        self.dial(device, destination, Some(about), now)?;
        if let Some(party) = self
            .call_of(of)
            .and_then(|call| call.party_mut(of))
            .filter(|party| !party.is_held())
        {
            party.held_by_command = true;
        }
        self.changed.extend(self.by_leg.get(&of));
        Ok(())
    }

    /// Joins the call and the one that was made to ask about it; either may be named.
    pub(super) fn complete(&mut self, device: &DeviceId, call: &CallId, wanted: TransferKind, now: Now) -> Result<(), Refusal> {
        let leg = self.party(device, call)?.leg;
        let pair = self.consultation(device, leg);
        let pair = pair.ok_or_else(|| not_now("No other call was made to ask about this one."))?;
        self.join(pair, wanted, None, now)
    }

    /// The phone has asked that its two calls go on without it (REFER with Replaces).
    pub(super) fn referred_to_other(&mut self, leg: LegId, other: LegId, now: Now) {
        let pair = self.pair(leg, other);
        let done = pair.map_or(Err(481), |pair| {
            self.join(pair, TransferKind::Transfer, Some(leg), now).map_err(|_| 486)
        });
        if let Err(status) = done
            && self.place_of(leg).is_some()
        {
            self.tell_referrer(leg, status);
        }
    }

    /// The call that a device has on hold while it makes another.
    pub(super) fn asks_about(&self, device: &DeviceId) -> Option<Consultation> {
        let peer = LegSource::Account(device.clone());
        let held = self
            .live_legs(&peer)
            .filter(|(call, party)| call.consult.is_none() && party.device.as_ref() == Some(device))
            .filter(|(_, party)| party.role == PartyRole::Agent && party.is_talking() && party.is_held());
        let (call, party) = held.max_by_key(|(call, _)| call.key)?;
        Some(Consultation {
            of: party.leg,
            call: call.id.clone(),
        })
    }

    /// The call that was asked about is over for whoever asked: this one is a call like any other.
    pub(super) fn nothing_is_asked_about(&mut self, key: CallKey) {
        let Some(call) = self.calls.get(&key) else { return };
        let gone = call.parties.iter().filter(|party| party.is_over());
        let mut freed = Vec::new();
        for party in gone {
            let of_him = self.live_legs(&party.peer);
            freed.extend(of_him.filter(|(call, _)| call.consult.as_ref().is_some_and(|consult| consult.of == party.leg)));
        }
        for key in freed.into_iter().map(|(call, _)| call.key).collect::<Vec<_>>() {
            if let Some(call) = self.calls.get_mut(&key) {
                call.consult = None;
                self.changed.insert(key);
            }
        }
    }

    /// The two calls of a device of which one was made to ask about the other, by its leg on either.
    fn consultation(&self, device: &DeviceId, leg: LegId) -> Option<CallPair> {
        let (key, call) = self.place_of(leg)?;
        if let Some(consult) = &call.consult
            && let Some((into, first)) = self.place_of(consult.of)
            && first.party(consult.of)?.device.as_ref() == Some(device)
        {
            return Some(CallPair {
                into,
                first: consult.of,
                from: key,
                second: leg,
            });
        }
        let peer = LegSource::Account(device.clone());
        let mut others = self.live_legs(&peer);
        let asks = |call: &Call| call.consult.as_ref().is_some_and(|consult| consult.of == leg);
        let (other, party) = others.find(|(other, party)| asks(other) && party.device.as_ref() == Some(device))?;
        Some(CallPair {
            into: key,
            first: leg,
            from: other.key,
            second: party.leg,
        })
    }

    /// Two legs of one device: the older call lives on, unless it was made to ask about the other.
    fn pair(&self, one: LegId, other: LegId) -> Option<CallPair> {
        let ((one_key, one_call), (other_key, other_call)) = (self.place_of(one)?, self.place_of(other)?);
        let (mine, his) = (one_call.party(one)?, other_call.party(other)?);
        if one_key == other_key || mine.device.is_none() || mine.device != his.device || mine.peer != his.peer {
            return None;
        }
        let asks = |call: &Call, of: LegId| call.consult.as_ref().is_some_and(|consult| consult.of == of);
        let one_lives = asks(other_call, one) || !asks(one_call, other) && one_key < other_key;
        let ((into, first), (from, second)) = match one_lives {
            true => ((one_key, one), (other_key, other)),
            false => ((other_key, other), (one_key, one)),
        };
        Some(CallPair { into, first, from, second })
    }

    pub(super) fn place_of(&self, leg: LegId) -> Option<(CallKey, &Call)> {
        let call = self.calls.get(self.by_leg.get(&leg)?)?;
        let is_here = call.party(leg).is_some_and(|party| !party.is_over());
        is_here.then_some((call.key, call))
    }

    /// Everything that could be in the way is looked at first: a refusal has changed nothing.
    fn may_join(&self, pair: CallPair) -> Result<(), Refusal> {
        let gone = || not_now("One of the two calls is over.");
        let (into, from) = (
            self.calls.get(&pair.into).ok_or_else(gone)?,
            self.calls.get(&pair.from).ok_or_else(gone)?,
        );
        let (first, second) = (into.party(pair.first).ok_or_else(gone)?, from.party(pair.second).ok_or_else(gone)?);
        if first.is_supervisor() || second.is_supervisor() || first.role != PartyRole::Agent {
            return Err(not_now("A supervisor does not transfer the call he monitors."));
        }
        if into.transfer.is_some() || from.transfer.is_some() {
            return Err(not_now("One of the two calls is being transferred already."));
        }
        if !first.is_talking() || !into.others(pair.first).any(Party::is_talking) {
            return Err(not_now("The first call is not established."));
        }
        let mut asked = from.others(pair.second).peekable();
        let is_one_ringing = asked.peek().is_some_and(|party| matches!(party.stage, LegStage::Invited)) && from.principals().count() == 2;
        let all_talk = asked.peek().is_some() && asked.all(Party::is_talking) && second.is_talking();
        if !all_talk && !is_one_ringing {
            return Err(not_now("The second call is not established."));
        }
        let twice = |party: &Party| {
            let is_same = |other: &Party| party.device.is_some() && other.device == party.device;
            into.others(pair.first).any(is_same)
        };
        if from.others(pair.second).any(twice) {
            return Err(not_now("One party is on both calls."));
        }
        if into.live() + from.live() > MAX_LEGS {
            return Err(not_now("There are too many parties for one call."));
        }
        Ok(())
    }

    fn join(&mut self, pair: CallPair, wanted: TransferKind, referrer: Option<LegId>, now: Now) -> Result<(), Refusal> {
        self.may_join(pair)?;
        self.nobody_supervises_himself(pair, now);
        let CallPair { into, first, from, second } = pair;
        let Some(mut ended) = self.calls.remove(&from) else {
            return Ok(());
        };
        let Some(call) = self.calls.get_mut(&into) else {
            self.calls.insert(from, ended);
            return Ok(());
        };
        call.distrusted |= ended.distrusted;
        self.supervision.handle_merged(&ended.id, &call.id);
        let ringing = ended.others(second).find(|party| matches!(party.stage, LegStage::Invited));
        let ringing = ringing.map(|party| (party.leg, party.rings));
        let number = ended.dnis.clone();
        ended.dials = None;
        ended.dialler = None;

        let keeps_second = wanted == TransferKind::Conference && ringing.is_none() && call.is_better_with(first, &ended, second);
        let is_moving = |party: &mut Party| !party.is_over() && (party.leg != second || keeps_second);
        let moving: Vec<Party> = ended.parties.extract_if(.., is_moving).collect();
        let mut forgotten = Vec::new();
        for mut party in moving {
            self.by_leg.insert(party.leg, into);
            self.outputs.push_back(Output::Media(MediaCommand::Move {
                leg: party.leg,
                call: into,
            }));
            if party.leg == second {
                if let Some(place) = call.parties.iter_mut().find(|party| party.leg == first) {
                    party.take_over_from(place);
                    let mut left = std::mem::replace(place, party);
                    left.end(Release::Hangup(None), &mut self.releases);
                    forgotten.push(left);
                }
                continue;
            }
            if let Some(device) = &party.device {
                forgotten.extend(call.forget_earlier(device));
            }
            call.parties.push(party);
        }
        if let Some(party) = ended.party_mut(second) {
            party.end(Release::Hangup(None), &mut self.releases);
        }
        if wanted == TransferKind::Conference {
            call.owner = call
                .party(if keeps_second { second } else { first })
                .and_then(|party| party.device.clone());
            if let Some(party) = call.party_mut(first) {
                party.held_by_command = false;
            }
        }
        match ringing {
            Some((to, _)) => {
                call.transfer = Some(Transfer {
                    by: first,
                    to,
                    number,
                    referred: referrer == Some(first),
                    wanted,
                });
            }
            None if wanted == TransferKind::Transfer => {
                if let Some(party) = call.party_mut(first) {
                    party.end(Release::Hangup(None), &mut self.releases);
                }
            }
            None => {}
        }
        self.calls.insert(from, ended);
        for party in forgotten {
            if keeps_second && party.leg == first {
                self.is_asked_about_by(&party.peer, first, second);
            }
            self.forget_leg(party.leg, &party.peer);
        }
        self.changed.extend([into, from]);
        let waits = ringing.is_some() && referrer == Some(first);
        if let Some(leg) = referrer.filter(|_| !waits) {
            self.tell_referrer(leg, 200);
        }
        if let Some((to, true)) = ringing {
            self.let_go(to, now);
        }
        Ok(())
    }

    /// Whoever supervises the one call and talks on the other is a party of what comes of them, and no supervisor.
    fn nobody_supervises_himself(&mut self, pair: CallPair, now: Now) {
        let (Some(into), Some(from)) = (self.calls.get(&pair.into), self.calls.get(&pair.from)) else {
            return;
        };
        let mut out = Vec::new();
        for (call, other) in [(into, from), (from, into)] {
            let supervisors = call.parties.iter().filter(|party| !party.is_over() && party.is_supervisor());
            let is_party = |party: &&Party| party.device.is_some() && other.principals().any(|principal| principal.device == party.device);
            out.extend(supervisors.filter(is_party).map(|party| party.leg));
        }
        for leg in out {
            self.leave(leg, Release::Hangup(None), LegOutcome::Busy, now);
        }
    }

    /// An INVITE that takes the place of an established leg of the same peer (RFC 3891): the same party at another phone, or another party
    /// behind the same switch.
    pub(super) fn replace(&mut self, leg: LegId, source: LegSource, from: Identity, offer: Option<&[u8]>, replaced: LegId, now: Now) {
        if let Err(rejection) = self.try_replace(leg, source, from, offer, replaced, now) {
            rejection.tell(leg, &mut self.outputs);
        }
    }

    fn try_replace(
        &mut self,
        leg: LegId,
        source: LegSource,
        from: Identity,
        offer: Option<&[u8]>,
        replaced: LegId,
        now: Now,
    ) -> Result<(), Rejection> {
        if self.closing.is_some() {
            return Err(503.into());
        }
        let policy = self.caller(&source).ok_or(403_u16)?.policy;
        let (key, call) = self.place_of(replaced).ok_or(481_u16)?;
        let old = call.party(replaced).ok_or(481_u16)?;
        if old.peer != source || old.is_supervisor() {
            return Err(603.into());
        }
        if !old.is_talking() || call.transfer.is_some() {
            return Err(480.into());
        }
        if call.live() >= MAX_LEGS {
            return Err(503.into());
        }
        // Somebody else may have had the leg meanwhile, and leaves it to the device whose phone takes it back.
        let back = match &source {
            LegSource::Account(device) if old.device.as_ref() != Some(device) => Some(device.clone()),
            LegSource::Account(_) | LegSource::Trunk(_) => None,
        };
        if back.as_ref().is_some_and(|device| call.has(device)) {
            return Err(603.into());
        }
        let (number, role, codec) = match back.as_ref().and_then(|device| self.devices.get(device)) {
            Some(device) => (device.extension.number.clone(), role_of(device.extension.kind), call.codec()),
            None => (old.number.clone(), old.role, call.codec()),
        };
        let offer = offer.map(|body| self.read_arriving(leg, body, &policy, &source, key)).transpose()?;
        let number = match &source {
            LegSource::Account(_) => number,
            LegSource::Trunk(_) => from.number,
        };
        let mut party = self
            .new_party(key, leg, source, (number, role), policy, LegStage::Talking)
            .ok_or(503_u16)?;
        party.established_at = Some(now.wall);
        let mut outputs = Vec::new();
        let media = match offer {
            Some(mut offer) => {
                prefer(&mut offer, codec);
                party.held_by_phone = offer.audio.is_hold();
                party.answer_offer(&offer, Direction::SendRecv, &mut outputs)
            }
            None => {
                party.exchange = PartyExchange::AnswerDue;
                let codecs = first_of(codec.as_slice(), &party.policy.codecs);
                party.local.offer_codecs(Direction::SendRecv, &codecs)
            }
        };
        outputs.push(Output::Leg(LegCommand::Accept { leg, media }));
        self.outputs.extend(outputs);
        if let Some(device) = back {
            let number = self.shown(&device);
            self.hand_on(key, replaced, &number, Some(device), now);
        }
        let Some(call) = self.calls.get_mut(&key) else {
            return Err(481.into());
        };
        let Some(place) = call.party_mut(replaced) else {
            return Err(481.into());
        };
        party.muted = place.muted;
        party.muted_by = place.muted_by.take();
        let mut left = std::mem::replace(place, party);
        left.end(Release::Hangup(None), &mut self.releases);
        self.forget_leg(left.leg, &left.peer);
        self.is_asked_about_by(&left.peer, replaced, leg);
        self.changed.insert(key);
        Ok(())
    }

    /// Whoever asks goes on with another leg.
    fn is_asked_about_by(&mut self, peer: &LegSource, before: LegId, after: LegId) {
        let asks = |call: &Call| call.consult.as_ref().is_some_and(|consult| consult.of == before);
        let his = self.live_legs(peer).filter(|(call, _)| asks(call));
        for key in his.map(|(call, _)| call.key).collect::<Vec<_>>() {
            if let Some(consult) = self.calls.get_mut(&key).and_then(|call| call.consult.as_mut()) {
                consult.of = after;
            }
        }
    }
}

impl Party {
    /// The same party goes on with another leg.
    fn take_over_from(&mut self, before: &mut Party) {
        self.held_by_command = false;
        self.muted |= before.muted;
        self.muted_by = before.muted_by.take().or(self.muted_by.take());
        self.established_at = before.established_at.or(self.established_at);
    }
}

impl Call {
    /// Of the two legs of whoever stays, the one at which his phone is.
    fn is_better_with(&self, first: LegId, other: &Call, second: LegId) -> bool {
        let is_held = |call: &Call, leg: LegId| call.party(leg).is_some_and(|party| party.held_by_phone);
        is_held(self, first) || !is_held(other, second)
    }
}

fn not_now(message: &str) -> Refusal {
    Refusal::new(Reason::InvalidState, message)
}
