//! One party leaves a call and another takes its place: transfers. Or the other comes as well: a
//! conference.
//!
//! ```text
//!  asked ──route──▶ called ──rings──▶ the transferring party has left ──answers──▶ done
//!            │         │                       │
//!            │refused  │ refused: it keeps     │ refused: it is called back, once
//!            ▼         ▼ the call              ▼
//! ```
//!
//! The customer is never lost to a number that can not be had: as long as nothing rings there, the
//! transferring party stays. In a conference it stays anyway, and nothing is lost but the newcomer.

use super::call::Call;
use super::codec_selection::first_of;
use super::conference::MOST_PARTIES;
use super::parties::Parties;
use super::party::{Party, Release};
use super::rejection::{CalleeFailure, Rejection};
use super::routing::{CalledParty, DialPlan};
use super::step::{Ctx, Step};
use super::{B2bua, Environment};
use crate::media::CallKey;
use crate::model::{CallId, DeviceId, Now, Number, PartyRole, Refusal, TransferStep, UserData};
use crate::sip::leg::{Destination, Identity, LegId};
use crate::supervision::LegOutcome;

/// What is to become of the party that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransferKind {
    /// It leaves the call.
    Transfer,
    /// It stays on the call.
    Conference,
    /// It has left, and is called back.
    Recall,
}

/// Somebody is called into a call.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    /// The leg of the party that has asked.
    pub(super) by: LegId,
    /// The leg of the party that is called.
    pub(super) to: LegId,
    /// The number that was asked for.
    pub(super) number: Number,
    /// It was asked for at the phone (REFER), which is told how it goes.
    pub(super) referred: bool,
    pub(super) kind: TransferKind,
}

impl Transfer {
    /// This is the leg of the party that transferred, called back.
    pub(super) fn recalls(&self, leg: LegId) -> bool {
        self.kind == TransferKind::Recall && self.to == leg
    }
}

/// A transfer that may be made, and where its number leads.
struct RoutedTransfer {
    by: LegId,
    number: Number,
    kind: TransferKind,
    callee: CalledParty,
    /// The caller that the destination sees.
    shown: Identity,
    /// The data of the call from then on.
    user_data: UserData,
}

/// What becomes of a transfer of which the destination could not be had.
pub(super) enum FailedTransfer {
    /// It was no transfer, or is over with its call.
    None,
    /// The call goes on without it.
    Kept,
    /// The party that transferred has left already.
    Orphaned(OrphanedTransfer),
}

/// A transfer that has failed after the party that transferred has left.
pub(super) struct OrphanedTransfer {
    /// The device of that party, which is called back.
    pub(super) device: DeviceId,
    transfer: Transfer,
    failure: CalleeFailure,
}

impl<E: Environment> B2bua<E> {
    /// A transfer or a conference asked for by the device's user.
    pub(super) fn transfer(
        &mut self,
        device: &DeviceId,
        call: &CallId,
        step: &TransferStep,
        kind: TransferKind,
        now: Now,
    ) -> Result<(), Refusal> {
        match step {
            TransferStep::SingleStep { destination, user_data } => {
                let call = self.calls.named(call)?;
                let by = call.principal_of(device)?.leg;
                let routed = self.route_transfer(call, by, destination, kind);
                let user_data = call.user_data_with(user_data)?;
                let routed = routed.map(|routed| RoutedTransfer { user_data, ..routed });
                self.begin_transfer(call.key, routed, false, now)
                    .map_err(|rejection| rejection.refusal(destination, kind))
            }
            TransferStep::Initiate { destination, user_data } => {
                self.consult(device, call, destination, user_data, now)
            }
            TransferStep::Complete => self.complete(device, call, kind, now),
        }
    }

    /// The same, asked for at the phone: what comes of it is told there.
    pub(super) fn referred(&mut self, leg: LegId, destination: &Number, is_secure: bool, now: Now) {
        let Some((call, _)) = self.calls.live(leg) else {
            return;
        };
        let mut routed = self.route_transfer(call, leg, destination, TransferKind::Transfer);
        if let (Ok(routed), Some(referrer)) = (&mut routed, call.parties.get(leg)) {
            routed.callee.referred_by = Some(referrer.identity());
        }
        let key = call.key;
        if let Some((call, _)) = self.find_key(key, now).filter(|_| is_secure && routed.is_ok()) {
            call.is_secure = true;
        }
        if let Err(rejection) = self.begin_transfer(key, routed, true, now) {
            self.out.tell_referrer(leg, rejection.sip_status());
        }
    }

    /// Whether the party may transfer the call now, and where the number leads for it.
    fn route_transfer(
        &self,
        call: &Call,
        by: LegId,
        destination: &Number,
        kind: TransferKind,
    ) -> Result<RoutedTransfer, Rejection> {
        let (party, shown) = call.may_transfer(by, kind, &self.plan)?;
        if self.closing.is_some() {
            return Err(Rejection::Stopping);
        }
        let mut callee = match &party.device {
            Some(device) => self.plan.route_for(&self.calls, device, destination)?,
            None => self.plan.route_referral(&self.calls, &party.peer, destination)?,
        };
        if let (TransferKind::Transfer, Some(device)) = (kind, &party.device) {
            callee.trail.diversions.splice(..0, self.plan.transferred_by(device));
        }
        if call.parties.has_destination(&callee.to) {
            return Err(Rejection::DestinationOnCall);
        }
        let (number, user_data) = (destination.clone(), call.user_data.clone());
        Ok(RoutedTransfer { by, number, kind, callee, shown, user_data })
    }

    /// After an error nothing has changed.
    fn begin_transfer(
        &mut self,
        key: CallKey,
        routed: Result<RoutedTransfer, Rejection>,
        referred: bool,
        now: Now,
    ) -> Result<(), Rejection> {
        let routed = routed?;
        let (call, mut ctx) = self.find_key(key, now).ok_or(Rejection::NoSuchCall)?;
        call.begin_transfer(routed, referred, &mut ctx)
    }
}

impl Parties {
    /// The destination of a transfer is on the call already.
    pub(super) fn has_destination(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Device(device) => self.has(device),
            Destination::Trunk { number, .. } => {
                self.principals().any(|party| party.device.is_none() && party.number == *number)
            }
        }
    }

    /// The caller that the destination of a transfer by this party sees, if the parties are such
    /// that it may be made.
    fn may_transfer(&self, by: &Party, kind: TransferKind) -> Result<Identity, Rejection> {
        let mut others = self.others(by.leg);
        match kind {
            TransferKind::Transfer | TransferKind::Recall => {
                let other = others.next().filter(|other| other.is_talking());
                let only = other.filter(|_| others.next().is_none());
                only.map(Party::identity).ok_or(Rejection::NotNow)
            }
            TransferKind::Conference if self.is_relayed() => Err(Rejection::Relayed),
            TransferKind::Conference
                if others.any(Party::is_talking) && self.principals().count() < MOST_PARTIES =>
            {
                Ok(by.identity())
            }
            TransferKind::Conference => Err(Rejection::NotNow),
        }
    }
}

impl Call {
    /// Whether the party may transfer the call now, or call another into it: the party, and the
    /// caller that the destination sees. The party of a trunk that may have it replaced, too.
    fn may_transfer(
        &self,
        by: LegId,
        kind: TransferKind,
        plan: &DialPlan,
    ) -> Result<(&Party, Identity), Rejection> {
        let party = self.parties.get(by).ok_or(Rejection::NoSuchCall)?;
        if party.is_supervisor() {
            return Err(Rejection::Supervisor);
        }
        let is_agent = party.device.is_some() && party.role == PartyRole::Agent;
        let is_deflected = party.device.is_none() && plan.follows_referrals(&party.peer);
        if !is_agent && !is_deflected {
            return Err(Rejection::NotAgent);
        }
        if !party.is_talking() || self.transfer.is_some() {
            return Err(Rejection::NotNow);
        }
        Ok((party, self.parties.may_transfer(party, kind)?))
    }

    /// Calls the destination in. After an error nothing has changed.
    fn begin_transfer(
        &mut self,
        routed: RoutedTransfer,
        referred: bool,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), Rejection> {
        let RoutedTransfer { by, number, kind, callee, shown, user_data } = routed;
        let before = std::mem::replace(&mut self.user_data, user_data);
        let to = match self.call_in(callee, shown, ctx) {
            Ok(to) => to,
            Err(rejection) => {
                self.user_data = before;
                return Err(rejection);
            }
        };
        self.transfer = Some(Transfer { by, to, number, referred, kind });
        Ok(())
    }

    /// Calls a party into a call that goes on.
    fn call_in(
        &mut self,
        callee: CalledParty,
        shown: Identity,
        ctx: &mut Ctx<'_>,
    ) -> Result<LegId, Rejection> {
        let spoken = self.parties.codec();
        let codecs = first_of(spoken.as_slice(), &ctx.config.codecs);
        self.invite(callee, shown, &codecs, ctx)
    }

    /// The party that transferred has left already: the call is its own again, if it takes it.
    pub(super) fn call_back(
        &mut self,
        orphan: OrphanedTransfer,
        callee: Result<CalledParty, Rejection>,
        ctx: &mut Ctx<'_>,
    ) {
        let OrphanedTransfer { device: _, transfer, failure } = orphan;
        let (failed, talking) =
            (transfer.to, self.parties.principals().find(|party| party.is_talking()));
        let shown = talking.map(Party::identity);
        let called = callee
            .ok()
            .zip(shown)
            .and_then(|(callee, shown)| self.call_in(callee, shown, ctx).ok());
        if let Some(to) = called {
            let kind = TransferKind::Recall;
            self.transfer = Some(Transfer { to, referred: false, kind, ..transfer });
        }
        self.drop_callee(failed, failure, called.is_some(), ctx);
    }

    /// The destination answers: the transfer is done, in the same step.
    pub(super) fn transfer_answers(&mut self, leg: LegId, ctx: &mut Ctx<'_>) {
        self.let_go(leg, ctx);
        let Some(transfer) = self.transfer.take_if(|transfer| transfer.to == leg) else {
            return;
        };
        if transfer.kind == TransferKind::Conference {
            self.owner = self.parties.device_of(transfer.by);
            ctx.out.changed.insert(self.key);
        }
    }

    /// The phone of a called party rings. If that is where the call was transferred to, the party
    /// that transferred it leaves.
    pub(super) fn let_go(&mut self, leg: LegId, ctx: &mut Ctx<'_>) {
        let rings =
            |transfer: &&Transfer| transfer.to == leg && transfer.kind == TransferKind::Transfer;
        let Some(transfer) = self.transfer.as_ref().filter(rings) else {
            return;
        };
        let is_answered = self.parties.get(leg).is_some_and(Party::is_talking);
        let by = self.parties.get_mut(transfer.by).filter(|party| !party.is_over());
        // Nobody calls a customer back: it leaves when there is somebody in its place.
        let Some(by) = by.filter(|by| by.device.is_some() || is_answered) else { return };
        if transfer.referred {
            // It is released now, and hears no more of it: to its phone it is done.
            ctx.out.tell_referrer(transfer.by, 200);
        }
        ctx.out.changed.insert(self.key);
        by.leave(Release::Hangup(None), LegOutcome::HungUp, &self.id, ctx);
    }

    /// A called party could not be had: if it was the destination of a transfer, that is over.
    pub(super) fn fail_transfer(
        &mut self,
        leg: LegId,
        failure: CalleeFailure,
        out: &mut Step,
    ) -> FailedTransfer {
        let Some(transfer) = self.transfer.take_if(|transfer| transfer.to == leg) else {
            return FailedTransfer::None;
        };
        if transfer.kind == TransferKind::Recall {
            return FailedTransfer::None;
        }
        let device = self.parties.device_of(transfer.by);
        if let Some(device) = device.clone() {
            out.fail(device, self.id.clone(), failure.refusal(&transfer.number));
        }
        if self.parties.is_live(transfer.by) {
            if transfer.referred {
                out.tell_referrer(transfer.by, failure.sip_status());
            }
            return FailedTransfer::Kept;
        }
        match (transfer.kind, device) {
            (TransferKind::Transfer, Some(device)) => {
                FailedTransfer::Orphaned(OrphanedTransfer { device, transfer, failure })
            }
            _ => FailedTransfer::None,
        }
    }

    /// The party for which another is called has left: nobody is called any more.
    pub(super) fn drop_moot_transfer(&mut self, ctx: &mut Ctx<'_>) {
        let Some(by) = self.transfer.as_ref().map(|transfer| transfer.by) else {
            return;
        };
        if self.parties.others(by).any(Party::is_talking) {
            return;
        }
        let is_here = self.parties.is_live(by);
        let is_referred = self.drop_transfer(by, ctx.out);
        ctx.out.changed.insert(self.key);
        if is_referred && is_here {
            ctx.out.tell_referrer(by, 487);
        }
    }

    /// Nobody is called for a party any more that has asked for it. True: it has asked at its
    /// phone.
    pub(super) fn drop_transfer(&mut self, by: LegId, out: &mut Step) -> bool {
        let Some(transfer) = self.transfer.take_if(|transfer| transfer.by == by) else {
            return false;
        };
        if let Some(party) = self.parties.get_mut(transfer.to) {
            party.end(Release::Hangup(None), out);
        }
        transfer.referred
    }
}
