//! What phones and trunks do: the call of a leg is found here, and told.

use super::call::{Answered, Call, CallStart, NOT_ACCEPTABLE};
use super::codec_selection::{codecs_of, first_of, prefer, read};
use super::media_address::{MediaDestination, MediaReach, Remark};
use super::party::{LegStage, Party, PartyExchange, PartyStart, Release};
use super::rejection::Rejection;
use super::routing::{CalledParty, CallingParty, Trail, Unroutable, behind};
use super::step::Step;
use super::{B2bua, Environment, MediaPolicy, Output, role_of};
use crate::media::call::MAX_LEGS;
use crate::media::{CallKey, Forbidden};
use crate::model::{CallType, Now, Number, PartyRole};
use crate::sip::leg::{Identity, LegCommand, LegEvent, LegId, LegSource, PassedHeader};
use crate::sip::sdp::{Direction, SdpError, SdpFault, SdpSession};
use crate::supervision::LegOutcome;

/// An INVITE for a new call, or for the place of a leg.
struct IncomingCall {
    leg: LegId,
    source: LegSource,
    from: Identity,
    claimed: Number,
    to: Number,
    offer: Option<Vec<u8>>,
    max_forwards: u8,
    passed: Vec<PassedHeader>,
    returns: Option<LegId>,
}

impl<E: Environment> B2bua<E> {
    /// What a leg did. Events of legs that are gone are ignored.
    pub fn handle_leg(&mut self, event: LegEvent, now: Now) {
        match event {
            LegEvent::Incoming {
                leg,
                call_id: _,
                source,
                from,
                claimed,
                to,
                offer,
                max_forwards,
                passed,
                replaces,
                returns,
            } => {
                let incoming = IncomingCall {
                    leg,
                    source,
                    from,
                    claimed,
                    to,
                    offer,
                    max_forwards,
                    passed,
                    returns,
                };
                let taken = match replaces {
                    Some(replaced) => self.replace(incoming, replaced, now),
                    None => self.connect(incoming, now),
                };
                if let Err(rejection) = taken {
                    rejection.tell(leg, &mut self.out);
                }
            }
            LegEvent::Located { leg, host, is_translated } => {
                self.located(leg, MediaReach { host, is_translated })
            }
            LegEvent::ConnectedIdentity { leg, names } => self.connected(leg, &names, now),
            LegEvent::Progress { leg, status, media } => {
                let early = media.map(|body| self.read_of(leg, &body));
                if let Some((call, mut ctx)) = self.find(leg, now) {
                    call.handle_progress(leg, status, early, &mut ctx);
                }
            }
            LegEvent::Answered { leg, media } => self.answered(leg, &media, now),
            LegEvent::Refused { leg, status } => self.refused(leg, status, now),
            LegEvent::Redirected { leg, status, to } => self.redirected(leg, status, &to, now),
            LegEvent::Confirmed { leg, media } => {
                self.exchange_answered(
                    leg,
                    |exchange| exchange == PartyExchange::AnswerDue,
                    media.as_deref(),
                    now,
                );
            }
            LegEvent::Offered { leg, media } => {
                let offer = media.map(|body| self.read_of(leg, &body));
                if let Some((call, mut ctx)) = self.find(leg, now) {
                    call.handle_offer(leg, offer, &mut ctx);
                }
            }
            LegEvent::OfferAnswered { leg, media } => {
                let is_due =
                    |exchange| matches!(exchange, PartyExchange::Offered | PartyExchange::Probed);
                self.exchange_answered(leg, is_due, Some(&media), now);
            }
            LegEvent::OfferRefused { leg, status } => {
                if let Some((call, mut ctx)) = self.find(leg, now) {
                    call.handle_offer_refused(leg, status, &mut ctx);
                }
            }
            LegEvent::AskToAnswerRefused { leg, status } => {
                if let Some((call, ctx)) = self.find(leg, now) {
                    call.handle_ask_to_answer_refused(leg, status, ctx.out);
                }
            }
            LegEvent::Referred { leg, to, replaces: None } => self.referred(leg, &to),
            LegEvent::Referred { leg, to: _, replaces: Some(other) } => {
                self.referred_to_other(leg, other, now)
            }
            LegEvent::Dialled { leg, digits } => {
                if let Some((_, party)) = self.calls.live(leg) {
                    // An INFO that can not be used is nobody's failure.
                    let _ = party.send_digits(&digits, &mut self.out);
                }
            }
            LegEvent::Ended { leg, reason: _ } => {
                self.leave(leg, Release::Gone, LegOutcome::HungUp, now)
            }
            LegEvent::Registered { device, registered } => {
                self.plan.handle_registered(&device, registered, &mut self.out)
            }
        }
        self.finish_step(now);
    }

    fn located(&mut self, leg: LegId, place: MediaReach) {
        match self.calls.of_leg_mut(leg).and_then(|call| call.parties.get_mut(leg)) {
            Some(party) => party.place = Some(place),
            None => self.legs.handle_located(leg, place),
        }
    }

    /// Reads a description of a leg that is there.
    fn read_of(&mut self, leg: LegId, body: &[u8]) -> Result<SdpSession, SdpFault> {
        let call = self.calls.of_leg(leg).ok_or(SdpError::Mismatch)?;
        let party = call.parties.get(leg).ok_or(SdpError::Mismatch)?;
        let (policy, peer, place, key) =
            (party.policy.clone(), party.peer.clone(), party.place, call.key);
        self.read_for(body, &policy, &peer, place, key)
    }

    /// Reads the description of a leg of which the INVITE has come; `call`: where it would be.
    fn read_arriving(
        &mut self,
        incoming: &IncomingCall,
        policy: &MediaPolicy,
        call: CallKey,
    ) -> Result<Option<SdpSession>, SdpFault> {
        let Some(body) = &incoming.offer else {
            return Ok(None);
        };
        let place = self.legs.place_of(incoming.leg);
        self.read_for(body, policy, &incoming.source, place, call).map(Some)
    }

    fn read_for(
        &mut self,
        body: &[u8],
        policy: &MediaPolicy,
        peer: &LegSource,
        place: Option<MediaReach>,
        call: CallKey,
    ) -> Result<SdpSession, SdpFault> {
        let session = read(body, policy)?;
        let aim = MediaDestination::at(&policy.reach, place, session.audio.rtp, session.audio.rtcp);
        let mut addresses = aim.remote.into_iter().chain(aim.remote_rtcp);
        let ours = addresses.find(|address| policy.targets.is_ours(*address));
        let checked = match ours {
            Some(address) if !self.calls.may_be_ours(peer, call, address) => {
                Err((address, Forbidden::Ours))
            }
            Some(_) | None => aim.check(policy, place),
        };
        if let Err((address, why)) = checked {
            let peer = peer.clone();
            self.out.push(Output::Remark(Remark::Refused { peer, address, why }));
            return Err(session.fault(SdpError::Address));
        }
        if aim.nat {
            self.legs.note_nat(peer);
        }
        Ok(session)
    }

    fn connect(&mut self, incoming: IncomingCall, now: Now) -> Result<(), Rejection> {
        if self.closing.is_some() {
            return Err(Rejection::Stopping);
        }
        if self.calls.len() >= self.config.max_calls {
            return Err(Rejection::TooManyCalls);
        }
        let caller = self.plan.caller(&incoming.source).ok_or(Rejection::UnknownCaller)?;
        if self.plan.is_full(&self.calls, &incoming.source) {
            return Err(Rejection::CallerFull);
        }
        let next = self.legs.next_call();
        let offer = self.read_arriving(&incoming, &caller.policy, next)?;
        let (behind, hops) =
            behind(&self.calls, incoming.returns).unwrap_or((Trail::default(), u8::MAX));
        // A switch in between may have begun to count anew.
        let max_forwards = incoming.max_forwards.min(hops.saturating_sub(1));
        if max_forwards == 0 && hops < u8::MAX {
            return Err(Rejection::TooManyHops);
        }
        let callee = self.plan.route_on(&self.calls, &caller, &incoming.to, behind, None)?;
        if self.plan.is_repeated(&self.calls, &caller, &incoming.claimed, &callee) {
            return Err(Unroutable::Repeated.into());
        }

        let consult = caller.device.as_ref().and_then(|device| self.calls.asks_about(device));
        let (key, id, conn_id) = self.legs.new_call();
        // What the caller lacks is offered too, last: a callee that speaks nothing else is
        // transcoded.
        let callers = offer.as_ref().map(codecs_of).unwrap_or_default();
        let codecs = first_of(&callers, &self.config.codecs);
        let start = PartyStart {
            leg: incoming.leg,
            peer: incoming.source,
            number: incoming.from.number.clone(),
            role: caller.role,
            policy: caller.policy.clone(),
            stage: LegStage::Calling { offer: offer.map(Box::new), early: None },
        };
        let party = self.new_party(key, start).ok_or(Rejection::NoPort)?;
        let start = CallStart {
            key,
            id,
            conn_id,
            call_type: call_type(&caller, &callee),
            ani: incoming.from.number.clone(),
            dnis: incoming.to,
            claimed: incoming.claimed,
            max_forwards,
            consult,
        };
        let call = Call::new(start, party, now);
        self.begin(Call { passed: incoming.passed, ..call });
        if self.call_out(key, callee, incoming.from, &codecs).is_none() {
            self.refuse_callers(key, Rejection::NoPort.sip_status());
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, call: Call) {
        self.out.changed.insert(call.key);
        self.calls.insert(call);
    }

    fn answered(&mut self, leg: LegId, body: &[u8], now: Now) {
        self.note_unnamed(leg);
        let answer = self.read_of(leg, body);
        let Some((call, mut ctx)) = self.find(leg, now) else {
            return;
        };
        let key = call.key;
        match call.handle_answered(leg, answer, &mut ctx) {
            Ok(Answered::Done) => {}
            Ok(Answered::Dials { device, destination, codec }) => {
                self.dial_on(key, device, &destination, codec)
            }
            Err(fault) => self.unusable(leg, fault, now),
        }
    }

    fn exchange_answered(
        &mut self,
        leg: LegId,
        is_due: fn(PartyExchange) -> bool,
        answer: Option<&[u8]>,
        now: Now,
    ) {
        let answer = answer.map(|body| self.read_of(leg, body));
        let Some((call, mut ctx)) = self.find(leg, now) else {
            return;
        };
        if let Err(fault) = call.handle_answer(leg, is_due, answer, &mut ctx) {
            self.unusable(leg, fault, now);
        }
    }

    /// A session description that we can not work with, where it can no longer be refused.
    fn unusable(&mut self, leg: LegId, fault: SdpFault, now: Now) {
        self.out.push(Output::Unusable { leg, fault });
        let party = self.calls.of_leg(leg).and_then(|call| call.parties.get(leg));
        let is_callee = party.is_some_and(|party| party.is_invited() && !party.is_supervisor());
        let is_refusal = is_callee && !self.transfer_fails(leg, NOT_ACCEPTABLE.0, now);
        if let Some((call, mut ctx)) = self.find(leg, now) {
            call.handle_unusable(leg, is_refusal, &mut ctx);
        }
    }

    /// Ends a leg, and tells supervision if it was a supervisor's.
    pub(super) fn leave(&mut self, leg: LegId, release: Release, outcome: LegOutcome, now: Now) {
        if let Some((call, mut ctx)) = self.find(leg, now) {
            call.leave(leg, release, outcome, &mut ctx);
        }
    }

    /// An INVITE that takes the place of an established leg of the same peer (RFC 3891): the same
    /// party at another phone, or another party behind the same switch.
    fn replace(
        &mut self,
        incoming: IncomingCall,
        replaced: LegId,
        now: Now,
    ) -> Result<(), Rejection> {
        if self.closing.is_some() {
            return Err(Rejection::Stopping);
        }
        let policy = self.plan.caller(&incoming.source).ok_or(Rejection::UnknownCaller)?.policy;
        let (call, old) = self.calls.live(replaced).ok_or(Rejection::NoSuchCall)?;
        if old.peer != incoming.source || old.is_supervisor() {
            return Err(Rejection::NotTheirs);
        }
        if !old.is_talking() || call.transfer.is_some() {
            return Err(Rejection::NotReplaceable);
        }
        if call.parties.live() >= MAX_LEGS {
            return Err(Rejection::TooManyLegs);
        }
        // Another party may have had the leg meanwhile, and leaves it to the device that takes it
        // back.
        let back = match &incoming.source {
            LegSource::Account(device) if old.device.as_ref() != Some(device) => {
                Some(device.clone())
            }
            LegSource::Account(_) | LegSource::Trunk(_) => None,
        };
        if back.as_ref().is_some_and(|device| call.parties.has(device)) {
            return Err(Rejection::OnCallAlready);
        }
        let (number, role) = match back.as_ref().and_then(|device| self.plan.device(device)) {
            Some(device) => (device.extension.number.clone(), role_of(device.extension.kind)),
            None => (old.number.clone(), old.role),
        };
        let (key, codec) = (call.key, call.parties.codec());
        let offer = self.read_arriving(&incoming, &policy, key)?;
        let IncomingCall { leg, source, from, .. } = incoming;
        let number = match &source {
            LegSource::Account(_) => number,
            LegSource::Trunk(_) => from.number,
        };
        let start =
            PartyStart { leg, peer: source, number, role, policy, stage: LegStage::Talking };
        let mut party = self.new_party(key, start).ok_or(Rejection::NoPort)?;
        party.established_at = Some(now.wall);
        let media = match offer {
            Some(mut offer) => {
                prefer(&mut offer, codec);
                party.held_by_phone = offer.audio.is_hold();
                party.answer_offer(&offer, Direction::SendRecv, &mut self.out)
            }
            None => {
                party.exchange = PartyExchange::AnswerDue;
                let codecs = first_of(codec.as_slice(), &party.policy.codecs);
                party.local.offer_codecs(Direction::SendRecv, &codecs)
            }
        };
        self.out.leg(LegCommand::Accept { leg, media });
        if let Some(device) = back {
            let number = self.plan.shown(&device);
            self.hand_on(replaced, &number, Some(device), now);
        }
        let Some((call, ctx)) = self.find(replaced, now) else {
            return Err(Rejection::NoSuchCall);
        };
        let left = call.replace(replaced, party, ctx.out).ok_or(Rejection::NoSuchCall)?;
        self.calls.forget_leg(left.leg, &left.peer);
        self.is_asked_about_by(&left.peer, replaced, leg);
        Ok(())
    }
}

impl Call {
    /// Another leg takes the place of this one. The party that had it is returned.
    fn replace(&mut self, replaced: LegId, mut party: Party, out: &mut Step) -> Option<Party> {
        let place = self.parties.get_mut(replaced)?;
        party.muted = place.muted;
        party.muted_by = place.muted_by.take();
        let mut left = std::mem::replace(place, party);
        left.end(Release::Hangup(None), out);
        out.changed.insert(self.key);
        Some(left)
    }
}

pub(super) fn call_type(caller: &CallingParty, callee: &CalledParty) -> CallType {
    match (caller.role, callee.role) {
        (PartyRole::Agent, PartyRole::Agent) => CallType::Internal,
        (PartyRole::Agent, PartyRole::Customer | PartyRole::Supervisor) => CallType::Outbound,
        (PartyRole::Customer | PartyRole::Supervisor, _) => CallType::Inbound,
    }
}
