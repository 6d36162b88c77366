//! What is called: the phone of a device that dials, its destination, and where a redirection
//! leads.

use super::call::{Call, CallStart};
use super::codec_selection::first_of;
use super::consultation::Consultation;
use super::inbound::call_type;
use super::monitoring::outcome_of;
use super::party::{LegStage, Party, PartyStart, Release};
use super::rejection::{Rejection, unreached};
use super::routing::{CalledParty, Unroutable};
use super::{B2bua, Environment, identity, stopping};
use crate::media::{CallKey, Codec};
use crate::model::{DeviceId, Now, Number, Reason, Refusal};
use crate::sip::leg::{Destination, Identity, LegCommand, LegId, LegSource, MAX_FORWARDS};
use crate::sip::sdp::Direction;

impl<E: Environment> B2bua<E> {
    /// Brings the device's own phone in, which is to answer by itself; the destination is called
    /// when it has.
    pub(super) fn dial(
        &mut self,
        id: &DeviceId,
        destination: &Number,
        about: Option<Consultation>,
        now: Now,
    ) -> Result<(), Refusal> {
        let device = self.plan.known(id)?;
        let number = device.extension.number.clone();
        if self.closing.is_some() {
            return Err(stopping());
        }
        if !device.registered {
            return Err(Refusal::number(
                Reason::Internal,
                &number,
                "Device '{}' is not registered.",
            ));
        }
        let source = LegSource::Account(id.clone());
        if self.plan.is_full(&self.calls, &source) {
            return Err(Refusal::new(
                Reason::InvalidState,
                format!("Device '{number}' is on as many calls as it may be."),
            ));
        }
        let caller = self.plan.caller(&source).ok_or_else(|| Refusal::no_device(id))?;
        let callee = self
            .plan
            .route(&self.calls, &caller, destination)
            .map_err(|why| unreached(why.sip_status(), destination))?;
        let full = |why: Rejection| unreached(why.sip_status(), destination);
        if self.calls.len() >= self.config.max_calls {
            return Err(full(Rejection::TooManyCalls));
        }

        let consult = about.or_else(|| self.calls.asks_about(id));
        let (key, call_id, conn_id) = self.legs.new_call();
        let leg = self.legs.new_leg();
        let start = PartyStart {
            leg,
            peer: source,
            number: number.clone(),
            role: caller.role,
            policy: caller.policy.clone(),
            stage: LegStage::Invited,
        };
        let mut party = self.new_party(key, start).ok_or_else(|| full(Rejection::NoPort))?;
        let invite = LegCommand::Invite {
            leg,
            to: Destination::Device(id.clone()),
            from: identity(destination, ""),
            offer: party.local.offer_codecs(Direction::SendRecv, &self.config.codecs),
            auto_answer: true,
            swallow_digits: false,
            timeout: self.config.ring_timeout,
            max_forwards: MAX_FORWARDS,
            passed: Vec::new(),
        };
        self.out.invitations.push((leg, invite));
        let start = CallStart {
            key,
            id: call_id,
            conn_id,
            call_type: call_type(&caller, &callee),
            ani: number,
            dnis: destination.clone(),
            claimed: self.plan.shown(id),
            max_forwards: MAX_FORWARDS,
            consult,
        };
        self.begin(Call {
            dials: Some(destination.clone()),
            dialler: Some(id.clone()),
            ..Call::new(start, party, now)
        });
        Ok(())
    }

    /// The phone of the device that dialled is there: now the number is called.
    pub(super) fn dial_on(
        &mut self,
        key: CallKey,
        dialler: DeviceId,
        destination: &Number,
        codec: Codec,
    ) {
        let codecs = first_of(&[codec], &self.config.codecs);
        let from = identity(&self.plan.shown(&dialler), "");
        let caller = self.plan.caller(&LegSource::Account(dialler));
        let callee = caller.map(|caller| self.plan.route(&self.calls, &caller, destination));
        let callee = callee.unwrap_or(Err(Unroutable::NoSuchNumber));
        let called = callee.map_err(Rejection::from).and_then(|callee| {
            let leg = self.call_out(key, callee, from, &codecs);
            leg.ok_or(Rejection::NoPort)
        });
        if let Err(rejection) = called {
            self.refuse_callers(key, rejection.sip_status());
        }
    }

    /// Calls a party into a call; `None` when there is no port for it.
    pub(super) fn call_out(
        &mut self,
        key: CallKey,
        callee: CalledParty,
        from: Identity,
        codecs: &[Codec],
    ) -> Option<LegId> {
        let leg = self.legs.new_leg();
        let peer = match &callee.to {
            Destination::Device(device) => LegSource::Account(device.clone()),
            Destination::Trunk { name, .. } => LegSource::Trunk(name.clone()),
        };
        let start = PartyStart {
            leg,
            peer,
            number: callee.number,
            role: callee.role,
            policy: callee.policy,
            stage: LegStage::Invited,
        };
        let mut party = self.new_party(key, start)?;
        let call = self.calls.get(key)?;
        party.trail = callee.trail;
        party.shown = Some(from.clone());
        let mut passed = call.passed.clone();
        // RFC 8224: an Identity vouches for these two numbers, and only with its Date.
        if from.number != call.ani || party.number != call.dnis {
            passed.retain(|header| !matches!(header.name, "Identity" | "Date"));
        }
        let invite = LegCommand::Invite {
            leg,
            to: callee.to,
            from,
            offer: party.local.offer_codecs(Direction::SendRecv, &party.may_use(codecs)),
            auto_answer: false,
            swallow_digits: false,
            timeout: self.config.ring_timeout,
            max_forwards: call.max_forwards,
            passed,
        };
        self.out.invitations.push((leg, invite));
        self.add_party(key, party);
        Some(leg)
    }

    /// One party more on a call that lives.
    pub(super) fn add_party(&mut self, key: CallKey, party: Party) {
        let Some(call) = self.calls.get_mut(key) else {
            return;
        };
        for gone in call.add(party, &mut self.out) {
            self.calls.forget_leg(gone.leg, &gone.peer);
        }
    }

    pub(super) fn refuse_callers(&mut self, key: CallKey, status: u16) {
        if let Some(call) = self.calls.get_mut(key) {
            call.refuse(status, &mut self.out);
        }
    }

    pub(super) fn refused(&mut self, leg: LegId, status: u16, now: Now) {
        let is_transfer = self.transfer_fails(leg, status, now);
        if let Some((call, mut ctx)) = self.find(leg, now) {
            call.handle_refused(leg, status, is_transfer, outcome_of(status), &mut ctx);
        }
    }

    /// The phone of a device sends its caller elsewhere: as far as the device may send it, and
    /// unless that was tried before. A supervisor's phone sends a caller nowhere, nor one that its
    /// own user has asked to be called.
    pub(super) fn redirected(&mut self, leg: LegId, status: u16, to: &[Number], now: Now) {
        let mut told = status;
        for number in to {
            match self.send_elsewhere(leg, number) {
                Ok(()) => return self.leave(leg, Release::Gone, outcome_of(status), now),
                Err(Some(why)) => told = why.sip_status(),
                Err(None) => break,
            }
        }
        self.refused(leg, told, now);
    }

    /// `None`: this leg is not to be sent anywhere, or there is no port.
    fn send_elsewhere(&mut self, leg: LegId, number: &Number) -> Result<(), Option<Unroutable>> {
        let call = self.calls.of_leg(leg).ok_or(None)?;
        let party = call
            .parties
            .get(leg)
            .filter(|party| party.is_invited() && !party.is_supervisor())
            .ok_or(None)?;
        let device = party.device.clone().ok_or(None)?;
        let is_recall = call.transfer.as_ref().is_some_and(|transfer| transfer.recalls(leg));
        if is_recall || call.dials.is_some() {
            return Err(None);
        }
        let (shown, trail) = (party.shown.clone().ok_or(None)?, party.trail.clone());
        let caller = call.parties.others(leg).next().ok_or(None)?;
        let offered: Vec<Codec> =
            call.parties.iter().find_map(Party::offered_codecs).unwrap_or_default();
        let codecs = call.parties.codec().map_or(offered, |codec| vec![codec]);
        let codecs = first_of(&codecs, &self.config.codecs);
        let caller = self.plan.caller(&caller.peer).ok_or(None)?;
        let key = call.key;
        let callee = self.plan.route_on(&self.calls, &caller, number, trail, Some(&device))?;
        let new = self.call_out(key, callee, shown, &codecs).ok_or(None)?;
        if let Some(call) = self.calls.get_mut(key)
            && let Some(transfer) = call.transfer.as_mut().filter(|transfer| transfer.to == leg)
        {
            transfer.to = new;
        }
        Ok(())
    }
}
