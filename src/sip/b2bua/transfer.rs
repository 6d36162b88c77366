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
use super::party::{Party, Release};
use super::rejection::{Rejection, unreached};
use super::routing::{CalledParty, CallingParty};
use super::step::{Ctx, Step};
use super::{B2bua, Environment, identity};
use crate::media::CallKey;
use crate::model::{CallId, DeviceId, Now, Number, PartyRole, Refusal, TransferStep};
use crate::sip::leg::{Destination, LegCommand, LegId, LegSource};
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

/// What becomes of a transfer of which the destination could not be had.
enum FailedTransfer {
    /// It was no transfer, or is over with its call.
    None,
    /// The call goes on without it.
    Kept,
    /// The party that transferred has left already.
    Orphaned {
        /// The device of that party.
        device: DeviceId,
        /// What it asked for.
        transfer: Transfer,
    },
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
            TransferStep::SingleStep { destination } => {
                let by = self.find_named(call, now)?.0.party_on(device)?.leg;
                self.begin_transfer(by, destination, kind, false)
                    .map_err(|rejection| rejection.refusal(destination, kind))
            }
            TransferStep::Initiate { destination } => self.consult(device, call, destination, now),
            TransferStep::Complete => self.complete(device, call, kind, now),
        }
    }

    /// The same, asked for at the phone: what comes of it is told there.
    pub(super) fn referred(&mut self, leg: LegId, destination: &Number) {
        if self.calls.live(leg).is_some()
            && let Err(rejection) =
                self.begin_transfer(leg, destination, TransferKind::Transfer, true)
        {
            self.out.tell_referrer(leg, rejection.sip_status());
        }
    }

    /// After an error nothing has changed.
    fn begin_transfer(
        &mut self,
        by: LegId,
        destination: &Number,
        kind: TransferKind,
        referred: bool,
    ) -> Result<(), Rejection> {
        let call = self.calls.of_leg(by).ok_or(Rejection::NoSuchCall)?;
        let key = call.key;
        let (device, shown) = call.may_transfer(by, kind)?;
        if self.closing.is_some() {
            return Err(Rejection::Stopping);
        }
        let caller =
            self.plan.caller(&LegSource::Account(device)).ok_or(Rejection::UnknownCaller)?;
        let callee = self.plan.route(&self.calls, &caller, destination)?;
        if call.is_on_call(&callee.to) {
            return Err(Rejection::DestinationOnCall);
        }
        let to = self.call_in(key, callee, &shown).ok_or(Rejection::NoPort)?;
        if let Some(call) = self.calls.get_mut(key) {
            call.transfer = Some(Transfer { by, to, number: destination.clone(), referred, kind });
        }
        Ok(())
    }

    /// Calls a party into a call that goes on.
    fn call_in(&mut self, key: CallKey, callee: CalledParty, shown: &Number) -> Option<LegId> {
        let spoken = self.calls.get(key)?.parties.codec();
        let codecs = first_of(spoken.as_slice(), &self.config.codecs);
        self.call_out(key, callee, identity(shown, ""), &codecs)
    }

    /// True: it was the destination of a transfer that could not be had, and the call goes on
    /// without it.
    pub(super) fn transfer_fails(&mut self, leg: LegId, status: u16, now: Now) -> bool {
        let Some((call, ctx)) = self.find(leg, now) else {
            return false;
        };
        let key = call.key;
        match call.transfer_fails(leg, status, ctx.out) {
            FailedTransfer::None => false,
            FailedTransfer::Kept => true,
            FailedTransfer::Orphaned { device, transfer } => self.call_back(key, device, transfer),
        }
    }

    /// The party that transferred has left already: the call is its own again, if it takes it.
    fn call_back(&mut self, key: CallKey, device: DeviceId, transfer: Transfer) -> bool {
        self.try_call_back(key, device, transfer).is_some()
    }

    fn try_call_back(&mut self, key: CallKey, device: DeviceId, transfer: Transfer) -> Option<()> {
        let number = self.plan.shown(&device);
        let caller = self.plan.caller(&LegSource::Account(device))?;
        let call = self.calls.get(key)?;
        let shown = call.parties.principals().find(|party| party.is_talking())?.number.clone();
        // Not on its own behalf: it would be busy to itself.
        let caller = CallingParty { device: None, ..caller };
        let callee = self.plan.route(&self.calls, &caller, &number).ok()?;
        let to = self.call_in(key, callee, &shown)?;
        self.calls.get_mut(key)?.transfer =
            Some(Transfer { to, referred: false, kind: TransferKind::Recall, ..transfer });
        Some(())
    }
}

impl Step {
    pub(super) fn tell_referrer(&mut self, leg: LegId, status: u16) {
        self.leg(LegCommand::TellReferrer { leg, status });
    }
}

impl Call {
    /// Whether the party may transfer the call now, or call another into it: its device, and the
    /// number that the destination sees.
    fn may_transfer(&self, by: LegId, kind: TransferKind) -> Result<(DeviceId, Number), Rejection> {
        let party = self.parties.get(by).ok_or(Rejection::NoSuchCall)?;
        if party.is_supervisor() {
            return Err(Rejection::Supervisor);
        }
        let device = party.device.clone().filter(|_| party.role == PartyRole::Agent);
        let device = device.ok_or(Rejection::NotAgent)?;
        if !party.is_talking() || self.transfer.is_some() {
            return Err(Rejection::NotNow);
        }
        let shown = match kind {
            TransferKind::Transfer | TransferKind::Recall => {
                self.parties.only_other(by).ok_or(Rejection::NotNow)?.number.clone()
            }
            TransferKind::Conference
                if self.parties.others(by).any(Party::is_talking)
                    && self.parties.principals().count() < MOST_PARTIES =>
            {
                party.number.clone()
            }
            TransferKind::Conference => return Err(Rejection::NotNow),
        };
        Ok((device, shown))
    }

    fn is_on_call(&self, destination: &Destination) -> bool {
        match destination {
            Destination::Device(device) => self.parties.has(device),
            Destination::Trunk { number, .. } => self
                .parties
                .principals()
                .any(|party| party.device.is_none() && party.number == *number),
        }
    }

    /// The destination answers: the transfer is done, in the same step.
    pub(super) fn transfer_answers(&mut self, leg: LegId, ctx: &mut Ctx<'_>) {
        self.let_go(leg, ctx);
        let Some(transfer) = self.transfer.take_if(|transfer| transfer.to == leg) else {
            return;
        };
        if transfer.kind == TransferKind::Conference {
            self.owner = self.parties.get(transfer.by).and_then(|party| party.device.clone());
            ctx.out.changed.insert(self.key);
        }
    }

    /// The phone of a called party rings. If that is where the call was transferred to, the party
    /// that transferred it leaves.
    pub(super) fn let_go(&mut self, leg: LegId, ctx: &mut Ctx<'_>) {
        let Some(transfer) = self.transfer.clone() else {
            return;
        };
        let is_here = self.parties.get(transfer.by).is_some_and(|party| !party.is_over());
        if transfer.to != leg || transfer.kind != TransferKind::Transfer || !is_here {
            return;
        }
        if transfer.referred {
            // It is released now, and hears no more of it: to its phone it is done.
            ctx.out.tell_referrer(transfer.by, 200);
        }
        self.leave(transfer.by, Release::Hangup(None), LegOutcome::HungUp, ctx);
    }

    fn transfer_fails(&mut self, leg: LegId, status: u16, out: &mut Step) -> FailedTransfer {
        if self.parties.get(leg).is_none_or(Party::is_over) {
            return FailedTransfer::None;
        }
        let Some(transfer) = self.transfer.take_if(|transfer| transfer.to == leg) else {
            return FailedTransfer::None;
        };
        let by = self.parties.get(transfer.by);
        let device = by.and_then(|party| party.device.clone());
        let is_here = by.is_some_and(|party| !party.is_over());
        let Some(device) = device.filter(|_| transfer.kind != TransferKind::Recall) else {
            return FailedTransfer::None;
        };
        out.fail(device.clone(), self.id.clone(), unreached(status, &transfer.number));
        if is_here {
            if transfer.referred {
                out.tell_referrer(transfer.by, status);
            }
            return FailedTransfer::Kept;
        }
        match transfer.kind {
            TransferKind::Transfer => FailedTransfer::Orphaned { device, transfer },
            TransferKind::Conference | TransferKind::Recall => FailedTransfer::None,
        }
    }

    /// The party for which another is called has left: nobody is called any more.
    pub(super) fn transfer_is_moot(&mut self, ctx: &mut Ctx<'_>) {
        let Some(transfer) = self.transfer.clone() else {
            return;
        };
        if self.parties.principals().any(|party| party.is_talking() && party.leg != transfer.by) {
            return;
        }
        self.transfer = None;
        let is_here = self.parties.get(transfer.by).is_some_and(|party| !party.is_over());
        if let Some(party) = self.parties.get_mut(transfer.to) {
            party.end(Release::Hangup(None), ctx.out);
        }
        ctx.out.changed.insert(self.key);
        if transfer.referred && is_here {
            ctx.out.tell_referrer(transfer.by, 487);
        }
    }
}
