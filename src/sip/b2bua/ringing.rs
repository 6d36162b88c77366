//! A call that rings at a device, and what the device's user does with it from afar: declines it,
//! or sends it elsewhere; and a call that its user ends for everybody.
//!
//! What a user does here is what the phone would do: the caller, a transfer and a supervisor fare
//! alike. Only a number that can not be had is another matter: the user is told, and the phone
//! rings on.

use super::call::{Call, Next};
use super::codec_selection::first_of;
use super::party::{Party, Release};
use super::rejection::{CalleeFailure, Rejection};
use super::routing::Unroutable;
use super::step::Ctx;
use super::{B2bua, Environment, stopping};
use crate::model::{CallId, DeviceId, Now, Number, Reason, Refusal};
use crate::sip::leg::HangupCause;

impl<E: Environment> B2bua<E> {
    /// Sends a call that rings at the device to another number. A refusal has changed nothing.
    pub(super) fn redirect(
        &mut self,
        device: &DeviceId,
        call: &CallId,
        destination: &Number,
        now: Now,
    ) -> Result<(), Refusal> {
        let ringing = self.calls.named(call)?;
        let party = ringing.ringing_party(device)?;
        if self.closing.is_some() {
            return Err(stopping());
        }
        let redirection = ringing.redirection(party).ok_or_else(does_not_ring)?;
        let (key, leg) = (ringing.key, party.leg);
        let callee = redirection
            .route_to(destination, ringing, &self.plan, &self.calls)
            .map_err(|rejection| not_redirected(&rejection, destination))?;
        let (call, mut ctx) = self.find_key(key, now).ok_or_else(|| Refusal::no_call(call))?;
        let codecs = first_of(&redirection.codecs, &ctx.config.codecs);
        let new = call.invite(callee, redirection.shown, &codecs, &mut ctx);
        let new = new.map_err(|rejection| rejection.unreached(destination))?;
        let release = Release::Hangup(Some(HangupCause::Redirected));
        call.handle_redirected(leg, release, new, &mut ctx);
        Ok(())
    }
}

impl Call {
    /// Its phone is called for a call of another's, and may ring.
    pub(super) fn rings_at(&self, party: &Party) -> bool {
        party.is_callee() && self.dials.is_none()
    }

    /// The party of a device at which the call rings.
    fn ringing_party(&self, device: &DeviceId) -> Result<&Party, Refusal> {
        let party = self.principal_of(device)?;
        self.rings_at(party).then_some(party).ok_or_else(does_not_ring)
    }

    /// Declines a ringing call, as its phone would.
    pub(super) fn reject(&mut self, device: &DeviceId, ctx: &mut Ctx<'_>) -> Result<Next, Refusal> {
        let leg = self.ringing_party(device)?.leg;
        Ok(self.callee_failed(leg, CalleeFailure::Declined, ctx))
    }

    /// Ends the call for everybody; a conference only for the agent that made it. A party whose
    /// phone only rings for a call that others are on declines it: what others say to each other is
    /// not its to end.
    pub(super) fn clear(&mut self, device: &DeviceId, ctx: &mut Ctx<'_>) -> Result<Next, Refusal> {
        let party = self.principal_of(device)?;
        let is_anothers = self.owner.as_ref().is_some_and(|owner| owner != device);
        if is_anothers && self.parties.principals().count() > 2 {
            let message = "Only the agent that made the conference can end it for everybody.";
            return Err(Refusal::new(Reason::NotPermitted, message));
        }
        if self.rings_at(party) && (self.transfer.is_some() || self.is_begun_without(party)) {
            return self.reject(device, ctx);
        }
        if self.rings_at(party) {
            let (failure, to_device) = (CalleeFailure::Declined, true);
            self.refuse(Rejection::Callee { failure, to_device }, ctx.out);
        }
        if let Some(by) = self.transfer.as_ref().map(|transfer| transfer.by) {
            let is_here = self.parties.is_live(by);
            if self.drop_transfer(by, ctx.out) && is_here {
                ctx.out.tell_referrer(by, 487);
            }
        }
        self.dialler = None;
        self.end_everybody(None, ctx.out);
        ctx.out.changed.insert(self.key);
        Ok(Next::Nothing)
    }

    /// Others are on the call, who have talked to each other.
    fn is_begun_without(&self, party: &Party) -> bool {
        self.parties.principals().filter(|other| other.leg != party.leg).count() > 1
    }
}

fn does_not_ring() -> Refusal {
    Refusal::new(Reason::InvalidState, "The call does not ring.")
}

/// What a user is told that sends a call where it can not go.
fn not_redirected(rejection: &Rejection, destination: &Number) -> Refusal {
    match rejection {
        Rejection::Unroutable(Unroutable::Loop | Unroutable::CallsItself) => Refusal::number(
            Reason::InvalidState,
            destination,
            "The call can not be sent to '{}': it has been there.",
        ),
        _ => rejection.unreached(destination),
    }
}
