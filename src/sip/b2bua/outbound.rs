//! What is called: the phone of a device that dials, its destination, and where a redirection
//! leads.

use super::call::{Call, CallStart};
use super::call_table::CallTable;
use super::codec_selection::{common, first_of, with_first};
use super::consultation::Consultation;
use super::inbound::call_type;
use super::party::{LegStage, Party, PartyStart, Release};
use super::rejection::{CalleeFailure, Rejection};
use super::routing::{CalledParty, CallingParty, DialPlan, Trail, Unroutable};
use super::step::Ctx;
use super::{B2bua, Environment, draining, identity, stopping};
use crate::media::Codec;
use crate::model::{DeviceId, Now, Number, Reason, Refusal, UserData};
use crate::sip::leg::{
    CallReasons, Destination, Identity, LegCommand, LegId, LegSource, MAX_FORWARDS,
};
use crate::sip::sdp::Direction;
use crate::supervision::LegOutcome;

/// A call that a device is about to make.
struct DialledCall<'a> {
    device: &'a DeviceId,
    destination: &'a Number,
    caller: CallingParty,
    callee: CalledParty,
    consult: Option<Consultation>,
    /// The codecs of the call that it asks about, if they are only relayed.
    relayed: Option<Codec>,
    user_data: UserData,
}

/// A called party, at its phone or from afar, sends the caller elsewhere.
pub(super) struct Redirection {
    /// The device of that phone, of which the dial rules count; `None`: it is a trunk that sends the
    /// caller elsewhere, and the caller's own count.
    by: Option<DeviceId>,
    /// The peer of the caller.
    caller: LegSource,
    /// The caller that was shown.
    pub(super) shown: Identity,
    trail: Trail,
    /// The codecs to offer next.
    pub(super) codecs: Vec<Codec>,
}

impl<E: Environment> B2bua<E> {
    /// Brings the device's own phone in, which is to answer by itself; the destination is called
    /// when it has.
    pub(super) fn dial(
        &mut self,
        device: &DeviceId,
        destination: &Number,
        about: Option<Consultation>,
        user_data: UserData,
        now: Now,
    ) -> Result<(), Refusal> {
        let known = self.plan.known(device)?;
        if self.closing.is_some() {
            return Err(stopping());
        }
        if self.is_draining && about.is_none() {
            return Err(draining());
        }
        let number = &known.extension.number;
        if !known.registered {
            let message = "Device '{}' is not registered.";
            return Err(Refusal::number(Reason::Internal, number, message));
        }
        let source = LegSource::Account(device.clone());
        if self.plan.is_full(&self.calls, &source) {
            return Err(Refusal::new(
                Reason::InvalidState,
                format!("Device '{number}' is on as many calls as it may be."),
            ));
        }
        let caller = self.plan.caller(&source).ok_or_else(|| Refusal::no_device(device))?;
        let callee = self
            .plan
            .route(&self.calls, &caller, destination)
            .map_err(|why| Rejection::from(why).unreached(destination))?;
        if self.calls.len() >= self.config.max_calls {
            return Err(Rejection::TooManyCalls.unreached(destination));
        }
        let consult = about.or_else(|| self.calls.asks_about(device));
        let relayed = consult.as_ref().and_then(|consult| self.calls.relayed(&consult.call));
        let dialled =
            DialledCall { device, destination, caller, callee, consult, relayed, user_data };
        let call = dialled.begin(&mut self.ctx(now));
        self.begin(call.ok_or_else(|| Rejection::NoPort.unreached(destination))?);
        Ok(())
    }

    /// The phone of a device sends its caller elsewhere: as far as the device may send it, and
    /// unless that was tried before. A supervisor's phone sends a caller nowhere, nor one that its
    /// own user has asked to be called.
    pub(super) fn redirected(&mut self, leg: LegId, status: u16, to: &[Number], now: Now) {
        let Some((call, party)) = self.calls.live(leg) else {
            return;
        };
        let (key, refused) = (call.key, CalleeFailure::Refused(status));
        let is_recall = call.transfer.as_ref().is_some_and(|transfer| transfer.recalls(leg));
        let redirection = call.redirection(party).filter(|_| !is_recall);
        let (next, failure) = match &redirection {
            Some(redirection) => redirection.route(to, refused, call, &self.plan, &self.calls),
            None => (None, refused),
        };
        let Some((call, mut ctx)) = self.find_key(key, now) else {
            return;
        };
        let new = redirection.zip(next).and_then(|(redirection, callee)| {
            let codecs = first_of(&redirection.codecs, &ctx.config.codecs);
            call.invite(callee, redirection.shown, &codecs, &mut ctx).ok()
        });
        match new {
            Some(new) => call.handle_redirected(leg, Release::Gone, new, &mut ctx),
            None => {
                let next = call.callee_failed(leg, failure, &mut ctx);
                self.go_on(key, next, now);
            }
        }
    }
}

impl Redirection {
    /// The first of these numbers that leads somewhere, and why the last one before it did not.
    fn route(
        &self,
        to: &[Number],
        refused: CalleeFailure,
        call: &Call,
        plan: &DialPlan,
        calls: &CallTable,
    ) -> (Option<CalledParty>, CalleeFailure) {
        let mut failure = refused;
        for number in to {
            match self.route_to(number, call, plan, calls) {
                Ok(callee) => return (Some(callee), failure),
                Err(Rejection::Unroutable(why)) => failure = CalleeFailure::Redirected(why),
                // A party is on a call once.
                Err(_) => failure = CalleeFailure::Redirected(Unroutable::Busy),
            }
        }
        (None, failure)
    }

    /// Where one number leads: to nobody who is on the call already.
    pub(super) fn route_to(
        &self,
        number: &Number,
        call: &Call,
        plan: &DialPlan,
        calls: &CallTable,
    ) -> Result<CalledParty, Rejection> {
        let caller = plan.caller(&self.caller).ok_or(Rejection::UnknownCaller)?;
        let callee = plan.route_on(calls, &caller, number, self.trail.clone(), self.by.as_ref())?;
        match call.parties.has_destination(&callee.to) {
            true => Err(Rejection::DestinationOnCall),
            false => Ok(callee),
        }
    }
}

impl DialledCall<'_> {
    /// The call, with the device's own phone called; `None` when there is no port for it.
    fn begin(self, ctx: &mut Ctx<'_>) -> Option<Call> {
        let (key, id, conn_id) = ctx.legs.new_call(ctx.environment);
        let (leg, number) = (ctx.legs.new_leg(), ctx.plan.shown(self.device));
        let call_type = call_type(&self.caller, &self.callee);
        let start = PartyStart {
            leg,
            peer: LegSource::Account(self.device.clone()),
            number: number.clone(),
            role: self.caller.role,
            policy: self.caller.policy,
            stage: LegStage::Invited,
        };
        let mut party = ctx.open(key, start)?;
        // Two calls that are to become one are in codecs that reach each other.
        let codecs = with_first(self.relayed, ctx.config.codecs.clone());
        let invite = LegCommand::Invite {
            leg,
            to: Destination::Device(self.device.clone()),
            from: identity(self.destination, ""),
            offer: party.local.offer_codecs(Direction::SendRecv, &party.may_use(&codecs)),
            auto_answer: true,
            swallow_digits: false,
            timeout: ctx.config.ring_timeout,
            max_forwards: MAX_FORWARDS,
            passed: Vec::new(),
            user_data: self.user_data.clone(),
            is_secure: false,
            reasons: CallReasons::default(),
        };
        ctx.out.invitations.push((leg, invite));
        let start = CallStart {
            key,
            id,
            conn_id,
            call_type,
            ani: number.clone(),
            dnis: self.destination.clone(),
            claimed: number,
            max_forwards: MAX_FORWARDS,
            consult: self.consult,
            user_data: self.user_data,
        };
        Some(Call {
            dials: Some(self.destination.clone()),
            dialler: Some(self.device.clone()),
            ..Call::new(start, party, ctx.now)
        })
    }
}

impl CalledParty {
    /// Its party on a call, with the INVITE on its way: if there is a port for it, and it may use
    /// one of these codecs, or one that reaches them.
    pub(super) fn invite(
        self,
        call: &Call,
        from: Identity,
        codecs: &[Codec],
        ctx: &mut Ctx<'_>,
    ) -> Result<Party, Rejection> {
        let codecs = common(&self.policy.codecs, codecs);
        if codecs.is_empty() {
            return Err(Rejection::NoCommonCodec);
        }
        let leg = ctx.legs.new_leg();
        let peer = match &self.to {
            Destination::Device(device) => LegSource::Account(device.clone()),
            Destination::Trunk { name, .. } => LegSource::Trunk(name.clone()),
        };
        let start = PartyStart {
            leg,
            peer,
            number: self.number,
            role: self.role,
            policy: self.policy,
            stage: LegStage::Invited,
        };
        let mut party = ctx.open(call.key, start).ok_or(Rejection::NoPort)?;
        party.local.limit_annex_b(call.parties.have_annex_b());
        let diversions = self.trail.diversions.iter().rev().cloned().collect();
        party.trail = self.trail;
        party.shown = Some(from.clone());
        let mut passed = call.passed.clone();
        // RFC 8224: an Identity vouches for these two numbers, and only with its Date.
        if from.number != call.ani || party.number != call.dnis {
            passed.retain(|header| !matches!(header.name, "Identity" | "Date"));
        }
        let invite = LegCommand::Invite {
            leg,
            to: self.to,
            from,
            offer: party.local.offer_codecs(Direction::SendRecv, &codecs),
            auto_answer: false,
            swallow_digits: false,
            timeout: ctx.config.ring_timeout,
            max_forwards: call.max_forwards,
            passed,
            user_data: call.user_data.clone(),
            is_secure: call.is_secure,
            reasons: CallReasons { diversions, referred_by: self.referred_by },
        };
        ctx.out.invitations.push((leg, invite));
        Ok(party)
    }
}

impl Call {
    /// The phone of the device that dialled is there: now the number is called.
    pub(super) fn dial_on(
        &mut self,
        dialler: &DeviceId,
        callee: Result<CalledParty, Rejection>,
        codec: Codec,
        ctx: &mut Ctx<'_>,
    ) {
        let codecs = first_of(&[codec], &ctx.config.codecs);
        let from = identity(&ctx.plan.shown(dialler), "");
        let called = callee.and_then(|callee| self.invite(callee, from, &codecs, ctx));
        if let Err(rejection) = called {
            self.refuse(rejection, ctx.out);
        }
    }

    /// What may become of a caller that this party, which is called, sends elsewhere; `None`: it
    /// sends it nowhere.
    pub(super) fn redirection(&self, party: &Party) -> Option<Redirection> {
        if !self.rings_at(party) {
            return None;
        }
        let caller = self.parties.others(party.leg).next()?;
        let offered = self.parties.iter().find_map(Party::offered_codecs);
        let offered = offered.unwrap_or_else(|| caller.policy.codecs.clone());
        Some(Redirection {
            by: party.device.clone(),
            caller: caller.peer.clone(),
            shown: party.shown.clone()?,
            trail: party.trail.clone(),
            codecs: self.parties.codec().map_or(offered, |codec| vec![codec]),
        })
    }

    /// Another is called instead of a party.
    pub(super) fn handle_redirected(
        &mut self,
        leg: LegId,
        release: Release,
        new: LegId,
        ctx: &mut Ctx<'_>,
    ) {
        if let Some(transfer) = self.transfer.as_mut().filter(|transfer| transfer.to == leg) {
            transfer.to = new;
        }
        self.leave(leg, release, LegOutcome::Rejected { status: None }, ctx);
    }
}
