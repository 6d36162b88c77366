//! One party leaves a call and another takes his place: transfers. Or the other comes as well: a conference.
//!
//! ```text
//!  asked ──route──▶ called ──rings──▶ the transferring party has left ──answers──▶ done
//!            │         │                       │
//!            │refused  │ refused: he keeps     │ refused: he is called back, once
//!            ▼         ▼ the call              ▼
//! ```
//!
//! The customer is never lost to a number that can not be had: as long as nothing rings there, whoever transfers stays. In a conference
//! he stays anyway, and nothing is lost but the newcomer.

use super::call::{Call, Party, Release};
use super::session::first_of;
use super::{B2bua, CalledParty, Environment, Output, identity, unreached};
use crate::media::CallKey;
use crate::model::{CallId, DeviceId, Fact, Failure, Now, Number, PartyRole, Reason, Refusal};
use crate::sip::leg::{Destination, LegCommand, LegId, LegSource};
use crate::supervision::LegOutcome;

/// What is to become of whoever asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TransferKind {
    /// He leaves.
    Transfer,
    /// He stays.
    Conference,
    /// He has left, and is called back.
    Recall,
}

/// More parties than anybody follows; the media engine has places for supervisors beside them.
const MOST_PARTIES: usize = 8;

/// Somebody is called into a call.
#[derive(Clone, Debug)]
pub(super) struct Transfer {
    /// Who has asked.
    pub(super) by: LegId,
    /// Who is called.
    pub(super) to: LegId,
    /// The number that was asked for.
    pub(super) number: Number,
    /// He has asked at his phone (REFER), which is told how it goes.
    pub(super) referred: bool,
    pub(super) wanted: TransferKind,
}

impl Transfer {
    /// This is the leg of whoever transferred, called back.
    pub(super) fn recalls(&self, leg: LegId) -> bool {
        self.wanted == TransferKind::Recall && self.to == leg
    }
}

impl<O: Environment> B2bua<O> {
    /// A single-step transfer or conference asked for by the device's user.
    pub(super) fn transfer(&mut self, device: &DeviceId, call: &CallId, destination: &Number, wanted: TransferKind) -> Result<(), Refusal> {
        let by = self.party(device, call)?.leg;
        self.begin_transfer(by, destination, wanted, false)
            .map_err(|status| refused(status, destination, wanted))
    }

    /// The same, asked for at the phone: what comes of it is told there.
    pub(super) fn referred(&mut self, leg: LegId, destination: &Number) {
        if self.place_of(leg).is_some()
            && let Err(status) = self.begin_transfer(leg, destination, TransferKind::Transfer, true)
        {
            self.tell_referrer(leg, status);
        }
    }

    pub(super) fn tell_referrer(&mut self, leg: LegId, status: u16) {
        self.outputs.push_back(Output::Leg(LegCommand::TellReferrer { leg, status }));
    }

    /// The error is what a SIP phone is told. Nothing has changed then.
    fn begin_transfer(&mut self, by: LegId, destination: &Number, wanted: TransferKind, referred: bool) -> Result<(), u16> {
        let call = self.call_of(by).ok_or(481_u16)?;
        let key = call.key;
        let party = call.party(by).ok_or(481_u16)?;
        if party.is_supervisor() {
            return Err(603);
        }
        let device = party.device.clone().filter(|_| party.role == PartyRole::Agent).ok_or(403_u16)?;
        if !party.is_talking() || call.transfer.is_some() {
            return Err(491);
        }
        let shown = match wanted {
            TransferKind::Transfer | TransferKind::Recall => call.only_other(by).ok_or(491_u16)?.number.clone(),
            TransferKind::Conference if call.others(by).any(Party::is_talking) && call.principals().count() < MOST_PARTIES => {
                party.number.clone()
            }
            TransferKind::Conference => return Err(491),
        };
        if self.closing.is_some() {
            return Err(503);
        }
        let caller = self.caller(&LegSource::Account(device)).ok_or(403_u16)?;
        let callee = self.route(&caller, destination)?;
        let call = self.calls.get_mut(&key).ok_or(481_u16)?;
        let is_here = match &callee.to {
            Destination::Device(device) => call.of_device(device).is_some(),
            Destination::Trunk { number, .. } => call.principals().any(|party| party.device.is_none() && party.number == *number),
        };
        if is_here {
            return Err(486);
        }
        let to = self.call_in(key, callee, &shown).ok_or(503_u16)?;
        if let Some(call) = self.calls.get_mut(&key) {
            call.transfer = Some(Transfer {
                by,
                to,
                number: destination.clone(),
                referred,
                wanted,
            });
        }
        Ok(())
    }

    /// Calls somebody into a call that goes on.
    fn call_in(&mut self, key: CallKey, callee: CalledParty, shown: &Number) -> Option<LegId> {
        let spoken = self.calls.get(&key)?.codec();
        let codecs = first_of(spoken.as_slice(), &self.config.codecs);
        self.call_out(key, callee, identity(shown, ""), &codecs)
    }

    /// The phone of somebody who was called rings. If that is where a call was transferred to, whoever transferred it leaves.
    pub(super) fn transfer_rings(&mut self, leg: LegId, now: Now) {
        self.let_go(leg, now);
    }

    /// He answers: the transfer is done, in the same step.
    pub(super) fn transfer_answers(&mut self, leg: LegId, now: Now) {
        self.let_go(leg, now);
        let Some(call) = self.call_of(leg) else { return };
        let Some(transfer) = call.transfer.take_if(|transfer| transfer.to == leg) else {
            return;
        };
        if transfer.wanted == TransferKind::Conference {
            call.owner = call.party(transfer.by).and_then(|party| party.device.clone());
            let key = call.key;
            self.changed.insert(key);
        }
    }

    pub(super) fn let_go(&mut self, leg: LegId, now: Now) {
        let Some(transfer) = self.call_of(leg).and_then(|call| call.transfer.clone()) else {
            return;
        };
        if transfer.to != leg || transfer.wanted != TransferKind::Transfer || self.place_of(transfer.by).is_none() {
            return;
        }
        if transfer.referred {
            // He is released now, and hears no more of it: to him it is done.
            self.tell_referrer(transfer.by, 200);
        }
        self.leave(transfer.by, Release::Hangup(None), LegOutcome::HungUp, now);
    }

    /// True: it was the destination of a transfer that could not be had, and the call goes on without it.
    pub(super) fn transfer_fails(&mut self, leg: LegId, status: u16) -> bool {
        let Some(call) = self.call_of(leg) else { return false };
        let (key, id) = (call.key, call.id.clone());
        let Some(transfer) = call.transfer.take_if(|transfer| transfer.to == leg) else {
            return false;
        };
        let by = call.party(transfer.by);
        let device = by.and_then(|party| party.device.clone());
        let is_here = by.is_some_and(|party| !party.is_over());
        let Some(device) = device.filter(|_| transfer.wanted != TransferKind::Recall) else {
            return false;
        };
        self.outputs.push_back(Output::Fact(Fact::Failed(Failure {
            device: device.clone(),
            call: Some(id),
            request_id: None,
            refusal: unreached(status, &transfer.number),
        })));
        if is_here {
            if transfer.referred {
                self.tell_referrer(transfer.by, status);
            }
            return true;
        }
        transfer.wanted == TransferKind::Transfer && self.call_back(key, device, transfer)
    }

    /// Whoever transferred has left already: the call is his again, if he takes it.
    fn call_back(&mut self, key: CallKey, device: DeviceId, transfer: Transfer) -> bool {
        let (Some(caller), number) = (self.caller(&LegSource::Account(device.clone())), self.shown(&device)) else {
            return false;
        };
        let Some(shown) = self
            .calls
            .get(&key)
            .and_then(|call| call.principals().find(|party| party.is_talking()))
        else {
            return false;
        };
        let shown = shown.number.clone();
        // Not on his own behalf: he would be busy to himself.
        let caller = super::CallingParty { device: None, ..caller };
        let Some(to) = self
            .route(&caller, &number)
            .ok()
            .and_then(|callee| self.call_in(key, callee, &shown))
        else {
            return false;
        };
        if let Some(call) = self.calls.get_mut(&key) {
            call.transfer = Some(Transfer {
                to,
                referred: false,
                wanted: TransferKind::Recall,
                ..transfer
            });
        }
        true
    }

    /// The party for whom somebody is called has left: nobody is called any more.
    pub(super) fn transfer_is_moot(&mut self, key: CallKey) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let Some(transfer) = call.transfer.clone() else { return };
        if call.principals().any(|party| party.is_talking() && party.leg != transfer.by) {
            return;
        }
        call.transfer = None;
        let is_here = call.party(transfer.by).is_some_and(|party| !party.is_over());
        if let Some(party) = call.party_mut(transfer.to) {
            party.end(Release::Hangup(None), &mut self.releases);
        }
        self.changed.insert(key);
        if transfer.referred && is_here {
            self.tell_referrer(transfer.by, 487);
        }
    }
}

impl Call {
    /// The others who are no supervisors.
    pub(super) fn others(&self, leg: LegId) -> impl Iterator<Item = &Party> {
        self.principals().filter(move |party| party.leg != leg)
    }

    /// The one he talks to, if it is one.
    fn only_other(&self, leg: LegId) -> Option<&Party> {
        let mut others = self.others(leg);
        others.next().filter(|party| party.is_talking() && others.next().is_none())
    }
}

fn refused(status: u16, destination: &Number, wanted: TransferKind) -> Refusal {
    match (status, wanted) {
        (603, _) => Refusal::new(
            Reason::InvalidState,
            "A supervisor neither transfers the call he monitors nor calls others into it.",
        ),
        (491, TransferKind::Conference) => Refusal::new(
            Reason::InvalidState,
            "Only an established call takes a further party, one at a time and eight in all.",
        ),
        (491, _) => Refusal::new(
            Reason::InvalidState,
            "Only an established call of two can be transferred, once at a time.",
        ),
        (status, _) => unreached(status, destination),
    }
}
