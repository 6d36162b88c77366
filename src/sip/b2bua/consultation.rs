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
use super::call_table::CallTable;
use super::parties::Parties;
use super::party::{Party, Release};
use super::rejection::Rejection;
use super::step::{Ctx, Step};
use super::transfer::{Transfer, TransferKind};
use super::{B2bua, Environment};
use crate::media::call::MAX_LEGS;
use crate::media::{CallKey, Codec, MediaCommand};
use crate::model::{CallId, DeviceId, Now, Number, PartyRole, Reason, Refusal, UserData};
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

impl<E: Environment> B2bua<E> {
    /// Holds the call, and calls another party to ask about it.
    pub(super) fn consult(
        &mut self,
        device: &DeviceId,
        call: &CallId,
        destination: &Number,
        given: &UserData,
        now: Now,
    ) -> Result<(), Refusal> {
        let asked = self.calls.named(call)?;
        let of = asked.may_be_asked_about(device)?;
        if self.calls.consultation(device, of).is_some() {
            return Err(not_now("Another call is already connected with this one."));
        }
        let (key, about) = (asked.key, Consultation { of, call: call.clone() });
        let user_data = asked.user_data_with(given)?;
        self.dial(device, destination, Some(about), user_data, now)?;
        if let Some((call, mut ctx)) = self.find_key(key, now) {
            call.hold_to_consult(of, &mut ctx);
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
        let leg = self.calls.named(call)?.principal_of(device)?.leg;
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

    fn join(
        &mut self,
        pair: CallPair,
        kind: TransferKind,
        referrer: Option<LegId>,
        now: Now,
    ) -> Result<(), Refusal> {
        let supervising = self.calls.may_join(pair, kind)?;
        let Some(mut ended) = self.calls.take(pair.from) else {
            return Ok(());
        };
        let asker = self.find_key(pair.into, now).and_then(|(call, mut ctx)| {
            for leg in supervising {
                call.leave(leg, Release::Hangup(None), LegOutcome::Busy, &mut ctx);
                ended.leave(leg, Release::Hangup(None), LegOutcome::Busy, &mut ctx);
            }
            call.absorb(&mut ended, pair, kind, referrer, &mut ctx)
        });
        self.calls.insert(ended);
        if let Some(peer) = asker {
            self.calls.move_consultations(&peer, pair.first, pair.second);
        }
        Ok(())
    }
}

impl CallTable {
    /// Whether the two calls may become one: the legs of supervisors that would be parties of what
    /// comes of it, and leave first.
    fn may_join(&self, pair: CallPair, kind: TransferKind) -> Result<Vec<LegId>, Refusal> {
        let (Some(into), Some(from)) = (self.get(pair.into), self.get(pair.from)) else {
            return Err(not_now("One of the two calls is over."));
        };
        into.may_absorb(from, pair)?;
        if kind == TransferKind::Conference && into.parties.is_relayed() {
            return Err(Refusal::relayed());
        }
        Ok(into.parties.supervised_by_parties_of(&from.parties))
    }

    /// The codec of a call, if it is only relayed.
    pub(super) fn relayed(&self, call: &CallId) -> Option<Codec> {
        self.named(call).ok()?.parties.codec().filter(|codec| !codec.is_mixable())
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

    /// It is a call like any other from now on.
    pub(super) fn end_consultation(&mut self, out: &mut Step) {
        self.consult = None;
        out.changed.insert(self.key);
    }

    /// The asking party holds the call meanwhile.
    fn hold_to_consult(&mut self, of: LegId, ctx: &mut Ctx<'_>) {
        if let Some(party) = self.parties.get_mut(of).filter(|party| !party.is_held()) {
            party.held_by_command = true;
        }
        ctx.out.changed.insert(self.key);
    }

    /// The leg of a device that may ask another party about the call.
    fn may_be_asked_about(&self, device: &DeviceId) -> Result<LegId, Refusal> {
        let party = self.principal_of(device)?;
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
            return Err(not_now("Only an agent's two calls can become one."));
        }
        if self.transfer.is_some() || from.transfer.is_some() {
            return Err(not_now("One of the two calls is being transferred already."));
        }
        self.parties.may_take_in(first, &from.parties, second)
    }

    /// Takes the parties of `ended` over. If the asking party goes on with its second leg, its peer
    /// is returned.
    fn absorb(
        &mut self,
        ended: &mut Call,
        pair: CallPair,
        kind: TransferKind,
        referrer: Option<LegId>,
        ctx: &mut Ctx<'_>,
    ) -> Option<LegSource> {
        let CallPair { first, second, .. } = pair;
        self.distrusted |= ended.distrusted;
        self.add_user_data(&ended.user_data);
        ctx.supervision.handle_merged(&ended.id, &self.id);
        let ringing = ended.parties.others(second).find(|party| party.is_invited());
        let ringing = ringing.map(|party| (party.leg, party.rings));
        ended.dials = None;
        ended.dialler = None;

        let keeps_second = kind == TransferKind::Conference
            && ringing.is_none()
            && self.parties.is_better_with(first, &ended.parties, second);
        let is_moving =
            |party: &mut Party| !party.is_over() && (party.leg != second || keeps_second);
        let mut asker = None;
        for party in ended.parties.extract(is_moving) {
            asker = asker.or(self.take_in(party, pair, ctx));
        }
        ended.leave(second, Release::Hangup(None), LegOutcome::HungUp, ctx);
        let stays = self.parties.get_mut(if keeps_second { second } else { first });
        match (kind, ringing) {
            (TransferKind::Conference, _) => {
                self.owner = stays.and_then(|party| {
                    party.held_by_command = false;
                    party.device.clone()
                });
            }
            (TransferKind::Transfer, None) => {
                if let Some(party) = stays {
                    party.end(Release::Hangup(None), ctx.out);
                }
            }
            (TransferKind::Transfer, Some(_)) | (TransferKind::Recall, _) => {}
        }
        ctx.out.changed.extend([self.key, ended.key]);
        let waits = ringing.is_some() && referrer == Some(first);
        if let Some(leg) = referrer.filter(|_| !waits) {
            ctx.out.tell_referrer(leg, 200);
        }
        if let Some((to, rings)) = ringing {
            let number = ended.dnis.clone();
            self.transfer = Some(Transfer { by: first, to, number, referred: waits, kind });
            if rings {
                self.let_go(to, ctx);
            }
        }
        asker
    }

    /// Takes one party of the other call in. If it is the asking party itself, which then goes on
    /// with this leg, its peer is returned.
    fn take_in(
        &mut self,
        mut party: Party,
        pair: CallPair,
        ctx: &mut Ctx<'_>,
    ) -> Option<LegSource> {
        ctx.out.media(MediaCommand::Move { leg: party.leg, call: self.key });
        ctx.index.move_to(party.leg, self.key);
        if party.leg != pair.second {
            self.add(party, ctx);
            return None;
        }
        let place = self.parties.get_mut(pair.first)?;
        party.take_over_from(place);
        let mut left = std::mem::replace(place, party);
        left.end(Release::Hangup(None), ctx.out);
        ctx.index.forget(left.leg, &left.peer);
        Some(left.peer)
    }
}

impl Parties {
    /// Whether the parties of another call may come here, all but the asking party, which is on
    /// both.
    fn may_take_in(&self, first: &Party, from: &Parties, second: &Party) -> Result<(), Refusal> {
        if !first.is_talking() || !self.others(first.leg).any(Party::is_talking) {
            return Err(not_now("The first call is not established."));
        }
        let mut asked = from.others(second.leg).peekable();
        let is_one_ringing =
            asked.peek().is_some_and(|party| party.is_invited()) && from.principals().count() == 2;
        let all_talk =
            asked.peek().is_some() && asked.all(Party::is_talking) && second.is_talking();
        if !all_talk && !is_one_ringing {
            return Err(not_now("The second call is not established."));
        }
        let is_here = |party: &Party| {
            let is_same = |other: &Party| party.device.is_some() && other.device == party.device;
            self.others(first.leg).any(is_same)
        };
        if from.others(second.leg).any(is_here) {
            return Err(not_now("One party is on both calls."));
        }
        if let (Some(ours), Some(theirs)) = (self.codec(), from.codec())
            && !ours.reaches(theirs)
        {
            return Err(not_now("The two calls have no codec in common."));
        }
        if self.live() + from.live() > MAX_LEGS {
            return Err(not_now("There are too many parties for one call."));
        }
        Ok(())
    }

    /// Of the two legs of the party that stays, the first is the one at which its phone is.
    fn is_better_with(&self, first: LegId, other: &Parties, second: LegId) -> bool {
        let is_held = |parties: &Parties, leg: LegId| {
            parties.get(leg).is_some_and(|party| party.held_by_phone)
        };
        is_held(self, first) || !is_held(other, second)
    }
}

fn not_now(message: &'static str) -> Refusal {
    Refusal::new(Reason::InvalidState, message)
}
