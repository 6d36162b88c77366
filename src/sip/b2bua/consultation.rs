//! Two calls of one device: the second is made to ask about the first, and may become a part of it.
//!
//! ```text
//!  customer ── agent (held)          customer ────── colleague      transfer: the agent is out
//!              agent ── colleague
//!                                    customer ── agent ── colleague conference: all stay
//! ```
//!
//! Legs move with their ports and streams; nobody is sent a re-INVITE. The supervisors of either
//! call go along. The first call's id is the one that lives on.

use super::call::Call;
use super::party::{Party, Release};
use super::rejection::Rejection;
use super::step::{Ctx, Step};
use super::transfer::{Transfer, TransferKind};
use super::{B2bua, Environment, Output};
use crate::media::call::MAX_LEGS;
use crate::media::{CallKey, MediaCommand};
use crate::model::{CallId, DeviceId, Now, Number, PartyRole, Reason, Refusal};
use crate::sip::leg::{LegId, LegSource};
use crate::supervision::LegOutcome;

/// What makes a call a consultation.
#[derive(Clone, Debug)]
pub(super) struct Consultation {
    /// The leg of the asking party on the call that it asks about.
    pub(super) of: LegId,
    /// The call that it asks about.
    pub(super) call: CallId,
}

/// A device's two calls.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallPair {
    /// The call that lives on.
    pub(super) into: CallKey,
    /// The device's leg there.
    pub(super) first: LegId,
    /// The call that becomes a part of it.
    pub(super) from: CallKey,
    /// The device's leg there.
    pub(super) second: LegId,
}

/// What is left to do after a call has become a part of another.
struct Absorbed {
    /// Legs that are on the other call now.
    moved: Vec<LegId>,
    /// Parties that are forgotten.
    forgotten: Vec<Party>,
    /// The device goes on with its second leg.
    keeps_second: bool,
    /// The party that is still called, and whether its phone rings.
    ringing: Option<(LegId, bool)>,
}

impl<E: Environment> B2bua<E> {
    /// Holds the call, and calls another party to ask about it.
    pub(super) fn consult(
        &mut self,
        device: &DeviceId,
        call: &CallId,
        destination: &Number,
        now: Now,
    ) -> Result<(), Refusal> {
        let id = call;
        let (call, _) = self.find_named(call, now)?;
        let of = call.may_be_asked_about(device)?;
        if self.calls.consultation(device, of).is_some() {
            return Err(not_now("Another call is already connected with this one."));
        }
        let about = Consultation { of, call: id.clone() };
        self.dial(device, destination, Some(about), now)?;
        if let Some((call, ctx)) = self.find(of, now) {
            if let Some(party) = call.parties.get_mut(of).filter(|party| !party.is_held()) {
                party.held_by_command = true;
            }
            ctx.out.changed.insert(call.key);
        }
        Ok(())
    }

    /// Joins the call and the one that was made to ask about it; either may be named.
    pub(super) fn complete(
        &mut self,
        device: &DeviceId,
        call: &CallId,
        kind: TransferKind,
        now: Now,
    ) -> Result<(), Refusal> {
        let leg = self.find_named(call, now)?.0.party_on(device)?.leg;
        let pair = self.calls.consultation(device, leg);
        let pair = pair.ok_or_else(|| not_now("No other call was made to ask about this one."))?;
        self.join(pair, kind, None, now)
    }

    /// The phone has asked that its two calls go on without it (REFER with Replaces).
    pub(super) fn referred_to_other(&mut self, leg: LegId, other: LegId, now: Now) {
        let joined = match self.calls.pair(leg, other) {
            Some(pair) => self
                .join(pair, TransferKind::Transfer, Some(leg), now)
                .map_err(|_| Rejection::NotJoinable),
            None => Err(Rejection::NoSuchCall),
        };
        if let Err(rejection) = joined
            && self.calls.live(leg).is_some()
        {
            self.out.tell_referrer(leg, rejection.sip_status());
        }
    }

    /// The call that was asked about is over for the party that asked: this one is a call like any
    /// other.
    pub(super) fn nothing_is_asked_about(&mut self, key: CallKey) {
        let Some(call) = self.calls.get(key) else {
            return;
        };
        let gone = call.parties.iter().filter(|party| party.is_over());
        let freed: Vec<CallKey> =
            gone.flat_map(|party| self.calls.asking_about(&party.peer, party.leg)).collect();
        self.forget_consultations(freed);
    }

    /// These calls ask about no other any more.
    pub(super) fn forget_consultations(&mut self, calls: Vec<CallKey>) {
        for key in calls {
            if let Some(call) = self.calls.get_mut(key) {
                call.consult = None;
                self.out.changed.insert(key);
            }
        }
    }

    /// The asking party goes on with another leg.
    pub(super) fn is_asked_about_by(&mut self, peer: &LegSource, before: LegId, after: LegId) {
        for key in self.calls.asking_about(peer, before) {
            if let Some(consult) = self.calls.get_mut(key).and_then(|call| call.consult.as_mut()) {
                consult.of = after;
            }
        }
    }

    fn join(
        &mut self,
        pair: CallPair,
        kind: TransferKind,
        referrer: Option<LegId>,
        now: Now,
    ) -> Result<(), Refusal> {
        let gone = || not_now("One of the two calls is over.");
        let (into, from) = (
            self.calls.get(pair.into).ok_or_else(gone)?,
            self.calls.get(pair.from).ok_or_else(gone)?,
        );
        into.may_absorb(from, pair)?;
        for leg in into.parties.supervised_by_parties_of(&from.parties) {
            self.leave(leg, Release::Hangup(None), LegOutcome::Busy, now);
        }
        let Some(mut ended) = self.calls.take(pair.from) else {
            return Ok(());
        };
        let absorbed = self
            .find_key(pair.into, now)
            .map(|(call, mut ctx)| call.absorb(&mut ended, pair, kind, referrer, &mut ctx));
        self.calls.insert(ended);
        let Some(absorbed) = absorbed else {
            return Ok(());
        };
        for leg in absorbed.moved {
            self.calls.move_leg(leg, pair.into);
        }
        for party in absorbed.forgotten {
            if absorbed.keeps_second && party.leg == pair.first {
                self.is_asked_about_by(&party.peer, pair.first, pair.second);
            }
            self.calls.forget_leg(party.leg, &party.peer);
        }
        let waits = absorbed.ringing.is_some() && referrer == Some(pair.first);
        if let Some(leg) = referrer.filter(|_| !waits) {
            self.out.tell_referrer(leg, 200);
        }
        if let Some((to, true)) = absorbed.ringing
            && let Some((call, mut ctx)) = self.find(to, now)
        {
            call.let_go(to, &mut ctx);
        }
        Ok(())
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
    /// It was made to ask about the call of this leg.
    pub(super) fn asks_about(&self, leg: LegId) -> bool {
        self.consult.as_ref().is_some_and(|consult| consult.of == leg)
    }

    /// The leg of a device that may ask another party about the call.
    fn may_be_asked_about(&mut self, device: &DeviceId) -> Result<LegId, Refusal> {
        let party = self.party_on(device)?;
        if party.is_supervisor() {
            return Err(not_now("A supervisor does not transfer the call he monitors."));
        }
        if !party.is_talking() || party.role != PartyRole::Agent {
            return Err(not_now("Only an established call can be asked about."));
        }
        let leg = party.leg;
        if self.transfer.is_some() || !self.parties.others(leg).any(Party::is_talking) {
            return Err(not_now("The call is being transferred, or nobody is on it."));
        }
        Ok(leg)
    }

    /// Whether `from` may become a part of this call. Everything that could be in the way is looked
    /// at first: a refusal has changed nothing.
    fn may_absorb(&self, from: &Call, pair: CallPair) -> Result<(), Refusal> {
        let gone = || not_now("One of the two calls is over.");
        let (first, second) = (
            self.parties.get(pair.first).ok_or_else(gone)?,
            from.parties.get(pair.second).ok_or_else(gone)?,
        );
        if first.is_supervisor() || second.is_supervisor() || first.role != PartyRole::Agent {
            return Err(not_now("A supervisor does not transfer the call he monitors."));
        }
        if self.transfer.is_some() || from.transfer.is_some() {
            return Err(not_now("One of the two calls is being transferred already."));
        }
        if !first.is_talking() || !self.parties.others(pair.first).any(Party::is_talking) {
            return Err(not_now("The first call is not established."));
        }
        let mut asked = from.parties.others(pair.second).peekable();
        let is_one_ringing = asked.peek().is_some_and(|party| party.is_invited())
            && from.parties.principals().count() == 2;
        let all_talk =
            asked.peek().is_some() && asked.all(Party::is_talking) && second.is_talking();
        if !all_talk && !is_one_ringing {
            return Err(not_now("The second call is not established."));
        }
        let is_here = |party: &Party| {
            let is_same = |other: &Party| party.device.is_some() && other.device == party.device;
            self.parties.others(pair.first).any(is_same)
        };
        if from.parties.others(pair.second).any(is_here) {
            return Err(not_now("One party is on both calls."));
        }
        if self.parties.live() + from.parties.live() > MAX_LEGS {
            return Err(not_now("There are too many parties for one call."));
        }
        Ok(())
    }

    /// Takes the parties of `ended` over.
    fn absorb(
        &mut self,
        ended: &mut Call,
        pair: CallPair,
        kind: TransferKind,
        referrer: Option<LegId>,
        ctx: &mut Ctx<'_>,
    ) -> Absorbed {
        let CallPair { first, second, .. } = pair;
        self.distrusted |= ended.distrusted;
        ctx.supervision.handle_merged(&ended.id, &self.id);
        let ringing = ended.parties.others(second).find(|party| party.is_invited());
        let ringing = ringing.map(|party| (party.leg, party.rings));
        ended.dials = None;
        ended.dialler = None;

        let keeps_second = kind == TransferKind::Conference
            && ringing.is_none()
            && self.is_better_with(first, ended, second);
        let is_moving =
            |party: &mut Party| !party.is_over() && (party.leg != second || keeps_second);
        let moving: Vec<Party> = ended.parties.extract(is_moving);
        let moved = moving.iter().map(|party| party.leg).collect();
        let mut forgotten = Vec::new();
        for party in moving {
            forgotten.extend(self.take_in(party, pair, ctx.out));
        }
        if let Some(party) = ended.parties.get_mut(second) {
            party.end(Release::Hangup(None), ctx.out);
        }
        if kind == TransferKind::Conference {
            let stays = self.parties.get(if keeps_second { second } else { first });
            self.owner = stays.and_then(|party| party.device.clone());
            if let Some(party) = self.parties.get_mut(first) {
                party.held_by_command = false;
            }
        }
        match ringing {
            Some((to, _)) => {
                self.transfer = Some(Transfer {
                    by: first,
                    to,
                    number: ended.dnis.clone(),
                    referred: referrer == Some(first),
                    kind,
                });
            }
            None if kind == TransferKind::Transfer => {
                if let Some(party) = self.parties.get_mut(first) {
                    party.end(Release::Hangup(None), ctx.out);
                }
            }
            None => {}
        }
        ctx.out.changed.extend([self.key, ended.key]);
        Absorbed { moved, forgotten, keeps_second, ringing }
    }

    /// Takes one party of the other call in. The parties that are forgotten for it are returned.
    fn take_in(&mut self, mut party: Party, pair: CallPair, out: &mut Step) -> Vec<Party> {
        out.push(Output::Media(MediaCommand::Move { leg: party.leg, call: self.key }));
        if party.leg != pair.second {
            let forgotten = party
                .device
                .as_ref()
                .map(|device| self.parties.forget_earlier(device))
                .unwrap_or_default();
            self.parties.push(party);
            return forgotten;
        }
        let Some(place) = self.parties.get_mut(pair.first) else {
            return Vec::new();
        };
        party.take_over_from(place);
        let mut left = std::mem::replace(place, party);
        left.end(Release::Hangup(None), out);
        vec![left]
    }

    /// Of the two legs of the party that stays, the one at which its phone is.
    fn is_better_with(&self, first: LegId, other: &Call, second: LegId) -> bool {
        let is_held = |call: &Call, leg: LegId| {
            call.parties.get(leg).is_some_and(|party| party.held_by_phone)
        };
        is_held(self, first) || !is_held(other, second)
    }
}

fn not_now(message: &str) -> Refusal {
    Refusal::new(Reason::InvalidState, message)
}
