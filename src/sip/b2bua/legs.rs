//! What phones and trunks do.

use super::call::{Call, LegStage, Party, PartyExchange, Release};
use super::monitoring::outcome_of;
use super::routing::{Trail, Unroutable};
use super::session::{Rejection, codecs_of, first_of, prefer, read, refuse_offer};
use super::whereabouts::{Aim, Remark, Whereabouts};
use super::{B2bua, CalledParty, CallingParty, Environment, MediaPolicy, Output, identity};
use crate::media::{CallKey, Codec, Forbidden, Hearing};
use crate::model::{CallType, DeviceId, Fact, Failure, Now, Number, PartyRole, Reason, Refusal};
use crate::sip::leg::{Destination, EndReason, Identity, LegCommand, LegEvent, LegId, LegSource, PassedHeader};
use crate::sip::sdp::{Direction, SdpError, SdpFault, SdpSession};
use crate::supervision::LegOutcome;

/// The session description can not be used (RFC 3261 21.4.26).
const NOT_ACCEPTABLE: (u16, &str) = (488, "Not Acceptable Here");

/// What carried the sound of a call has failed (RFC 3261 21.5.1).
const MEDIA_FAILED: (u16, &str) = (500, "Media Failure");

/// An INVITE for a new call.
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

impl<O: Environment> B2bua<O> {
    /// What a leg did. Events of legs that are gone are ignored.
    pub fn handle_leg(&mut self, event: LegEvent, now: Now) {
        match event {
            LegEvent::Incoming {
                leg,
                source,
                from,
                offer,
                replaces: Some(replaced),
                ..
            } => self.replace(leg, source, from, offer.as_deref(), replaced, now),
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
                replaces: None,
                returns,
            } => self.take_in(
                IncomingCall {
                    leg,
                    source,
                    from,
                    claimed,
                    to,
                    offer,
                    max_forwards,
                    passed,
                    returns,
                },
                now,
            ),
            LegEvent::Located { leg, host, is_translated } => self.located(leg, Whereabouts { host, is_translated }),
            LegEvent::ConnectedIdentity { leg, names } => self.connected(leg, &names, now),
            LegEvent::Progress { leg, status, media } => self.progress(leg, status, media, now),
            LegEvent::Answered { leg, media } => self.answered(leg, &media, now),
            LegEvent::Refused { leg, status } => self.refused(leg, status, now),
            LegEvent::Redirected { leg, status, to } => self.redirected(leg, status, &to, now),
            LegEvent::Confirmed { leg, media } => self.confirmed(leg, media.as_deref(), now),
            LegEvent::Offered { leg, media } => self.offered(leg, media.as_deref()),
            LegEvent::OfferAnswered { leg, media } => self.offer_answered(leg, &media, now),
            LegEvent::OfferRefused { leg, status } => self.offer_refused(leg, status, now),
            LegEvent::AskToAnswerRefused { leg, status } => self.not_made_to_answer(leg, status),
            LegEvent::Referred { leg, to, replaces: None } => self.referred(leg, &to),
            LegEvent::Referred {
                leg,
                to: _,
                replaces: Some(other),
            } => self.referred_to_other(leg, other, now),
            LegEvent::Dialled { leg, digits } => self.dialled(leg, &digits),
            LegEvent::Ended { leg, reason } => self.ended(leg, reason, now),
            LegEvent::Registered { device, registered } => self.registered(&device, registered),
        }
        self.finish_step(now);
    }

    fn located(&mut self, leg: LegId, place: Whereabouts) {
        match self.call_of(leg).and_then(|call| call.party_mut(leg)) {
            Some(party) => party.place = Some(place),
            None => self.arriving = Some((leg, place)),
        }
    }

    /// Reads a description of a leg that is there.
    fn read_of(&mut self, leg: LegId, body: &[u8]) -> Result<SdpSession, SdpFault> {
        let call = self
            .by_leg
            .get(&leg)
            .and_then(|key| self.calls.get(key))
            .ok_or(SdpError::Mismatch)?;
        let party = call.party(leg).ok_or(SdpError::Mismatch)?;
        let (policy, peer, place, key) = (party.policy.clone(), party.peer.clone(), party.place, call.key);
        self.read_for(body, &policy, &peer, place, key)
    }

    /// Reads the description of a leg whose INVITE has come; `call`: where it would be.
    pub(super) fn read_arriving(
        &mut self,
        leg: LegId,
        body: &[u8],
        policy: &MediaPolicy,
        peer: &LegSource,
        call: CallKey,
    ) -> Result<SdpSession, SdpFault> {
        let place = self.arriving.filter(|(arriving, _)| *arriving == leg).map(|(_, place)| place);
        self.read_for(body, policy, peer, place, call)
    }

    fn read_for(
        &mut self,
        body: &[u8],
        policy: &MediaPolicy,
        peer: &LegSource,
        place: Option<Whereabouts>,
        call: CallKey,
    ) -> Result<SdpSession, SdpFault> {
        let session = read(body, policy)?;
        let aim = Aim::at(&policy.reach, place, session.audio.rtp, session.audio.rtcp);
        let mut addresses = aim.remote.into_iter().chain(aim.remote_rtcp);
        let ours = addresses.find(|address| policy.targets.is_ours(*address));
        let checked = match ours {
            Some(address) if !self.may_be_ours(peer, call, address) => Err((address, Forbidden::Ours)),
            Some(_) | None => aim.check(policy, place),
        };
        if let Err((address, why)) = checked {
            let peer = peer.clone();
            self.outputs.push_back(Output::Remark(Remark::Refused { peer, address, why }));
            return Err(session.fault(SdpError::Address));
        }
        if aim.nat {
            self.behind_nat.insert(peer.clone());
        }
        Ok(session)
    }

    /// The phone rings on: who asked has to answer it himself.
    fn not_made_to_answer(&mut self, leg: LegId, status: u16) {
        let Some(call) = self.call_of(leg) else { return };
        let id = call.id.clone();
        let Some(party) = call.party_mut(leg).filter(|party| matches!(party.stage, LegStage::Invited)) else {
            return;
        };
        let Some(device) = party.device.clone() else { return };
        let message = match status {
            408 | 503 => format!(
                "The phone of device '{}' was asked to answer and has not reacted ({status}).",
                party.number
            ),
            _ => format!(
                "The phone of device '{}' can not be made to answer ({status}). Answer at the phone.",
                party.number
            ),
        };
        self.outputs.push_back(Output::Fact(Fact::Failed(Failure {
            device,
            call: Some(id),
            request_id: None,
            refusal: Refusal::new(Reason::InvalidState, message),
        })));
    }

    fn take_in(&mut self, incoming: IncomingCall, now: Now) {
        let leg = incoming.leg;
        if let Err(rejection) = self.connect(incoming, now) {
            rejection.tell(leg, &mut self.outputs);
        }
    }

    fn connect(&mut self, incoming: IncomingCall, now: Now) -> Result<(), Rejection> {
        if self.closing.is_some() || self.calls.len() >= self.config.max_calls {
            return Err(503.into());
        }
        let caller = self.caller(&incoming.source).ok_or(403_u16)?;
        if self.is_full(&incoming.source) {
            return Err(503.into());
        }
        let next = CallKey(self.next_call);
        let (leg, peer) = (incoming.leg, &incoming.source);
        let offer = incoming.offer.as_deref();
        let offer = offer
            .map(|body| self.read_arriving(leg, body, &caller.policy, peer, next))
            .transpose()?;
        let (behind, hops) = self.behind(incoming.returns).unwrap_or((Trail::default(), u8::MAX));
        // Who sits between may have begun to count anew.
        let max_forwards = incoming.max_forwards.min(hops.saturating_sub(1));
        if max_forwards == 0 && hops < u8::MAX {
            return Err(483.into());
        }
        let callee = self.route_on(&caller, &incoming.to, behind, None)?;
        if self.is_repeated(&caller, &incoming.claimed, &callee) {
            return Err(Unroutable::Repeated.into());
        }

        let consult = caller.device.as_ref().and_then(|device| self.asks_about(device));
        let (key, id, conn_id) = self.new_ids();
        // What the caller lacks is offered too, last: a callee who speaks nothing else is transcoded.
        let callers = offer.as_ref().map(codecs_of).unwrap_or_default();
        let codecs = first_of(&callers, &self.config.codecs);
        let named = (incoming.from.number.clone(), caller.role);
        let stage = LegStage::Calling {
            offer: offer.map(Box::new),
            early: None,
        };
        let party = self
            .new_party(key, incoming.leg, incoming.source, named, caller.policy.clone(), stage)
            .ok_or(503_u16)?;
        let call = Call {
            key,
            id,
            conn_id,
            call_type: call_type(&caller, &callee),
            ani: incoming.from.number.clone(),
            dnis: incoming.to,
            started_at: now.wall,
            parties: vec![party],
            dials: None,
            dialler: None,
            refusal: None,
            distrusted: false,
            max_forwards,
            claimed: incoming.claimed,
            passed: incoming.passed,
            transfer: None,
            consult,
            owner: None,
            told: Hearing::default(),
            supervised: None,
            reported: None,
            quality_told: None,
        };
        self.begin(call);
        if self.call_out(key, callee, incoming.from, &codecs).is_none() {
            self.refuse_callers(key, 503);
        }
        Ok(())
    }

    pub(super) fn begin(&mut self, call: Call) {
        self.by_id.insert(call.id.clone(), call.key);
        self.changed.insert(call.key);
        self.calls.insert(call.key, call);
    }

    /// Calls somebody into a call; `None` when there is no port for him.
    pub(super) fn call_out(&mut self, key: CallKey, callee: CalledParty, from: Identity, codecs: &[Codec]) -> Option<LegId> {
        let leg = self.new_leg();
        let named = (callee.number, callee.role);
        let peer = match &callee.to {
            Destination::Device(device) => LegSource::Account(device.clone()),
            Destination::Trunk { name, .. } => LegSource::Trunk(name.clone()),
        };
        let mut party = self.new_party(key, leg, peer, named, callee.policy, LegStage::Invited)?;
        let call = self.calls.get_mut(&key)?;
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
        self.invitations.push((leg, invite));
        self.add_party(key, party);
        Some(leg)
    }

    /// A party more on a call that lives.
    pub(super) fn add_party(&mut self, key: CallKey, party: Party) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let gone = party.device.as_ref().map(|device| call.forget_earlier(device)).unwrap_or_default();
        call.parties.push(party);
        for party in gone {
            self.forget_leg(party.leg, &party.peer);
        }
        self.changed.insert(key);
    }

    pub(super) fn refuse_callers(&mut self, key: CallKey, status: u16) {
        if let Some(call) = self.calls.get_mut(&key) {
            call.refusal = Some(status);
            self.changed.insert(key);
        }
    }

    /// The callee's phone rings, perhaps with early media.
    fn progress(&mut self, leg: LegId, status: u16, media: Option<Vec<u8>>, now: Now) {
        let early = media.map(|body| self.read_of(leg, &body));
        let Some((call, mut outputs)) = self.with(leg) else { return };
        let Some(party) = call.party_mut(leg).filter(|party| matches!(party.stage, LegStage::Invited)) else {
            return;
        };
        // 199: one of several early dialogs has ended (RFC 6228). The caller has only one with us.
        if status == 199 {
            return;
        }
        party.rings = true;
        if std::mem::take(&mut party.to_be_asked) {
            outputs.push(Output::Leg(LegCommand::AskToAnswer { leg }));
        }
        if party.is_supervisor() {
            return self.changed(leg, outputs);
        }
        let early = early.map(|read| read.and_then(|answer| party.take_answer(answer, &mut outputs)));
        let codec = match early {
            Some(Ok(_)) => party.codec(),
            // The final answer may be better.
            Some(Err(fault)) => {
                outputs.push(Output::Unusable { leg, fault });
                None
            }
            None => None,
        };
        for caller in call.parties.iter_mut() {
            let media = codec.and_then(|codec| caller.answer_early(codec, &mut outputs));
            if matches!(caller.stage, LegStage::Calling { .. }) {
                outputs.push(Output::Leg(LegCommand::Provisional {
                    leg: caller.leg,
                    status,
                    media,
                }));
            }
        }
        self.changed(leg, outputs);
        self.transfer_rings(leg, now);
    }

    fn answered(&mut self, leg: LegId, body: &[u8], now: Now) {
        self.note_unnamed(leg);
        let answer = self.read_of(leg, body);
        let Some((call, mut outputs)) = self.with(leg) else { return };
        let (id, dials) = (call.id.clone(), call.dials.clone());
        let Some(party) = call.party_mut(leg).filter(|party| matches!(party.stage, LegStage::Invited)) else {
            return;
        };
        let answer = match answer.and_then(|answer| party.take_answer(answer, &mut outputs)) {
            Ok(answer) => answer,
            Err(fault) => return self.unusable(leg, fault, now),
        };
        let Some(codec) = party.codec() else { return };
        party.held_by_phone = answer.audio.is_hold();
        match (&party.link, dials) {
            (Some(_), _) => {
                party.talk(now);
                let device = party.device.clone();
                self.changed(leg, outputs);
                if let Some(device) = device {
                    self.supervision.handle_leg(&device, &id, LegOutcome::Answered, now);
                }
            }
            (None, Some(destination)) => {
                party.stage = LegStage::Waiting;
                self.changed(leg, outputs);
                self.dial_on(leg, &destination, codec);
            }
            (None, None) => {
                party.talk(now);
                call.answer_callers(codec, &mut outputs);
                call.establish(now);
                self.changed(leg, outputs);
                self.transfer_answers(leg, now);
            }
        }
    }

    /// The phone of whoever dialled is there: now the number he dialled.
    fn dial_on(&mut self, leg: LegId, destination: &Number, codec: Codec) {
        let codecs = first_of(&[codec], &self.config.codecs);
        let Some(call) = self.call_of(leg) else { return };
        call.dials = None;
        let key = call.key;
        let Some(dialler) = call.party(leg).and_then(|party| party.device.clone()) else {
            return;
        };
        let from = identity(&self.shown(&dialler), "");
        let caller = self.caller(&LegSource::Account(dialler));
        let done = match caller.map(|caller| self.route(&caller, destination)) {
            Some(Ok(callee)) => self.call_out(key, callee, from, &codecs).map(drop).ok_or(503),
            Some(Err(why)) => Err(why.status()),
            None => Err(404),
        };
        if let Err(status) = done {
            self.refuse_callers(key, status);
        }
    }

    fn refused(&mut self, leg: LegId, status: u16, now: Now) {
        let Some(call) = self.call_of(leg) else { return };
        let Some(party) = call.party(leg).filter(|party| !party.is_over()) else {
            return;
        };
        let (to_device, supervisor) = (party.device.is_some(), party.is_supervisor());
        let key = call.key;
        if self.transfer_fails(leg, status) {
            return self.leave(leg, Release::Gone, outcome_of(status), now);
        }
        if !supervisor && let Some(call) = self.calls.get_mut(&key) {
            call.refusal = Some(as_told_to_caller(status, to_device));
        }
        self.leave(leg, Release::Gone, outcome_of(status), now);
    }

    /// The phone of a device sends its caller elsewhere: as far as the device may send it, and unless that was tried before.
    /// A supervisor's phone sends nobody anywhere, nor one that its own user has asked to be called.
    fn redirected(&mut self, leg: LegId, status: u16, to: &[Number], now: Now) {
        let mut told = status;
        for number in to {
            match self.send_elsewhere(leg, number) {
                Ok(()) => return self.leave(leg, Release::Gone, outcome_of(status), now),
                Err(Some(why)) => told = why.status(),
                Err(None) => break,
            }
        }
        self.refused(leg, told, now);
    }

    /// `None`: this leg is not to be sent anywhere, or there is no port.
    fn send_elsewhere(&mut self, leg: LegId, number: &Number) -> Result<(), Option<Unroutable>> {
        let call = self.call_of(leg).ok_or(None)?;
        let is_recall = call.transfer.as_ref().is_some_and(|transfer| transfer.recalls(leg));
        let party = call
            .party(leg)
            .filter(|party| party.is_invited() && !party.is_supervisor())
            .ok_or(None)?;
        let device = party.device.clone().ok_or(None)?;
        if is_recall || call.dials.is_some() {
            return Err(None);
        }
        let (shown, trail) = (party.shown.clone().ok_or(None)?, party.trail.clone());
        let key = call.key;
        let caller = call
            .parties
            .iter()
            .find(|party| party.leg != leg && !party.is_over() && !party.is_supervisor());
        let caller = caller.map(|party| party.peer.clone()).ok_or(None)?;
        let offered: Vec<Codec> = call.parties.iter().find_map(Party::offered_codecs).unwrap_or_default();
        let codecs = call.codec().map_or(offered, |codec| vec![codec]);
        let codecs = first_of(&codecs, &self.config.codecs);
        let caller = self.caller(&caller).ok_or(None)?;
        let callee = self.route_on(&caller, number, trail, Some(&device))?;
        let new = self.call_out(key, callee, shown, &codecs).ok_or(None)?;
        if let Some(call) = self.calls.get_mut(&key)
            && let Some(transfer) = call.transfer.as_mut().filter(|transfer| transfer.to == leg)
        {
            transfer.to = new;
        }
        Ok(())
    }

    fn ended(&mut self, leg: LegId, _reason: EndReason, now: Now) {
        self.leave(leg, Release::Gone, LegOutcome::HungUp, now);
    }

    /// Ends a leg, and tells supervision if it was a supervisor's.
    pub(super) fn leave(&mut self, leg: LegId, release: Release, outcome: LegOutcome, now: Now) {
        let mut releases = std::mem::take(&mut self.releases);
        if let Some(call) = self.call_of(leg) {
            let (key, id) = (call.key, call.id.clone());
            let mut watcher = None;
            if let Some(party) = call.party_mut(leg).filter(|party| !party.is_over()) {
                party.end(release, &mut releases);
                watcher = party.device.clone().filter(|_| party.is_supervisor());
            }
            self.changed.insert(key);
            if let Some(supervisor) = watcher {
                self.supervision.handle_leg(&supervisor, &id, outcome, now);
            }
        }
        self.releases = releases;
    }

    /// A session description that we can not work with, where it can no longer be refused.
    fn unusable(&mut self, leg: LegId, fault: SdpFault, now: Now) {
        self.outputs.push_back(Output::Unusable { leg, fault });
        let party = self.call_of(leg).and_then(|call| call.party(leg));
        if party.is_some_and(|party| matches!(party.stage, LegStage::Invited) && !party.is_supervisor())
            && !self.transfer_fails(leg, NOT_ACCEPTABLE.0)
            && let Some(call) = self.call_of(leg)
        {
            call.refusal = Some(NOT_ACCEPTABLE.0);
        }
        self.leave(leg, Release::Hangup(Some(NOT_ACCEPTABLE)), LegOutcome::Rejected, now);
    }

    fn confirmed(&mut self, leg: LegId, answer: Option<&[u8]>, now: Now) {
        self.take_answer(leg, |exchange| exchange == PartyExchange::AnswerDue, answer, now);
    }

    fn offer_answered(&mut self, leg: LegId, answer: &[u8], now: Now) {
        self.take_answer(
            leg,
            |exchange| matches!(exchange, PartyExchange::Offered | PartyExchange::Probed),
            Some(answer),
            now,
        );
    }

    fn take_answer(&mut self, leg: LegId, due: fn(PartyExchange) -> bool, answer: Option<&[u8]>, now: Now) {
        let answer = answer.map(|body| self.read_of(leg, body));
        let Some((call, mut outputs)) = self.with(leg) else { return };
        let Some(party) = call.party_mut(leg).filter(|party| !party.is_over() && due(party.exchange)) else {
            return;
        };
        party.exchange = PartyExchange::Idle;
        let Some(answer) = answer else {
            // Within a session, no answer leaves everything as it was.
            return match party.media {
                Some(_) => {
                    party.expect_agreed(&mut outputs);
                    self.changed(leg, outputs)
                }
                None => self.unusable(leg, SdpError::Mismatch.into(), now),
            };
        };
        let answer = match answer.and_then(|answer| party.take_answer(answer, &mut outputs)) {
            Ok(answer) => answer,
            Err(fault) => return self.unusable(leg, fault, now),
        };
        // Whom we told that we only send, or nothing, has no choice: what he answers is no hold of his.
        if party.told.sends() && party.told.receives() {
            party.held_by_phone = answer.audio.is_hold();
        }
        self.changed(leg, outputs);
    }

    fn offer_refused(&mut self, leg: LegId, status: u16, now: Now) {
        let Some((call, mut outputs)) = self.with(leg) else { return };
        let Some(party) = call
            .party_mut(leg)
            .filter(|party| matches!(party.exchange, PartyExchange::Offered | PartyExchange::Probed))
        else {
            return;
        };
        party.exchange = PartyExchange::Idle;
        party.expect_agreed(&mut outputs);
        self.changed(leg, outputs);
        // RFC 3261 14.1: these two mean that the dialog is gone.
        if matches!(status, 408 | 481) {
            self.leave(leg, Release::Hangup(None), LegOutcome::HungUp, now);
        }
    }

    /// What carried the sound of a leg is gone, and that of its whole call with it.
    pub(super) fn media_failed(&mut self, leg: LegId) {
        let mut releases = std::mem::take(&mut self.releases);
        if let Some(call) = self.call_of(leg) {
            let key = call.key;
            call.refusal = Some(MEDIA_FAILED.0);
            call.end_everybody(Some(MEDIA_FAILED), &mut releases);
            self.changed.insert(key);
        }
        self.releases = releases;
    }

    /// The phone's own re-INVITE: hold, retrieve, another codec, another address.
    fn offered(&mut self, leg: LegId, offer: Option<&[u8]>) {
        let signal = self.config.signal_hold;
        let offer = offer.map(|body| self.read_of(leg, body));
        let Some((call, mut outputs)) = self.with(leg) else { return };
        let (ours, common) = (call.direction_toward(leg, signal), call.codec());
        let Some(party) = call.party_mut(leg).filter(|party| !party.is_over()) else {
            return;
        };
        let ready = matches!(party.stage, LegStage::Talking | LegStage::Waiting) && party.exchange == PartyExchange::Idle;
        let reply = match offer {
            _ if !ready => LegCommand::RejectOffer { leg, status: 491 },
            Some(Err(fault)) => {
                outputs.extend(refuse_offer(leg, fault));
                return self.changed(leg, outputs);
            }
            Some(Ok(mut offer)) => {
                prefer(&mut offer, party.codec().or(common));
                party.held_by_phone = offer.audio.is_hold();
                LegCommand::AnswerOffer {
                    leg,
                    media: party.answer_offer(&offer, ours, &mut outputs),
                }
            }
            None => {
                party.exchange = PartyExchange::AnswerDue;
                party.told = ours;
                let codecs = first_of(party.codec().as_slice(), &party.policy.codecs);
                let media = party.local.offer_codecs(ours, &codecs);
                party.expect_offered(&mut outputs);
                LegCommand::AnswerOffer { leg, media }
            }
        };
        outputs.push(Output::Leg(reply));
        self.changed(leg, outputs);
    }

    /// Nothing comes from a phone that should send: is it still there?
    pub(super) fn probe(&mut self, leg: LegId) {
        let Some((call, mut outputs)) = self.with(leg) else { return };
        let Some(party) = call.party_mut(leg) else { return };
        let silent = party.media.as_ref().is_some_and(|media| media.receive);
        party.is_silent = silent;
        if party.is_talking() && party.exchange == PartyExchange::Idle && silent {
            let told = party.told;
            party.reoffer(told, PartyExchange::Probed, &mut outputs);
            self.changed(leg, outputs);
        }
    }

    /// Something comes from a phone that was silent: it is there, whatever becomes of the question.
    pub(super) fn alive(&mut self, leg: LegId) {
        if let Some(party) = self.call_of(leg).and_then(|call| call.party_mut(leg))
            && std::mem::take(&mut party.is_silent)
        {
            self.changed(leg, Vec::new());
        }
    }

    /// Tells the others of a hold, where that is wished for.
    pub(super) fn tell_hold(&mut self, key: CallKey) {
        let signal = self.config.signal_hold;
        let Some(call) = self.calls.get_mut(&key) else { return };
        let wishes: Vec<(LegId, Direction)> = call
            .principals()
            .filter(|party| party.is_talking() && party.exchange == PartyExchange::Idle && party.media.is_some())
            .map(|party| (party.leg, call.direction_toward(party.leg, signal)))
            .collect();
        let mut outputs = Vec::new();
        for (leg, direction) in wishes {
            if let Some(party) = call.party_mut(leg).filter(|party| party.told != direction) {
                party.reoffer(direction, PartyExchange::Offered, &mut outputs);
            }
        }
        if !outputs.is_empty() {
            self.outputs.extend(outputs);
            self.tell_engine(key);
        }
    }

    fn registered(&mut self, device: &DeviceId, registered: bool) {
        if let Some(device) = self.devices.get_mut(device)
            && device.registered != registered
        {
            device.registered = registered;
            self.outputs.push_back(Output::Fact(Fact::Device(device.fact())));
        }
    }

    fn with(&mut self, leg: LegId) -> Option<(&mut Call, Vec<Output>)> {
        self.call_of(leg).map(|call| (call, Vec::new()))
    }

    fn changed(&mut self, leg: LegId, outputs: Vec<Output>) {
        self.outputs.extend(outputs);
        self.changed.extend(self.by_leg.get(&leg));
    }
}

impl Party {
    /// What a caller who has no answer yet has offered.
    fn offered_codecs(&self) -> Option<Vec<Codec>> {
        match &self.stage {
            LegStage::Calling { offer: Some(offer), .. } => Some(codecs_of(offer)),
            _ => None,
        }
    }

    /// Of these codecs those that this leg may use, or else its own.
    fn may_use(&self, codecs: &[Codec]) -> Vec<Codec> {
        let common: Vec<Codec> = codecs.iter().copied().filter(|codec| self.policy.codecs.contains(codec)).collect();
        if common.is_empty() { self.policy.codecs.clone() } else { common }
    }

    fn talk(&mut self, now: Now) {
        self.stage = LegStage::Talking;
        self.established_at = Some(now.wall);
    }

    /// The answer to a caller's offer for early media, the first time.
    fn answer_early(&mut self, wish: Codec, outputs: &mut Vec<Output>) -> Option<Vec<u8>> {
        let LegStage::Calling {
            offer: Some(offer),
            early: None,
        } = &self.stage
        else {
            return None;
        };
        let mut offer = offer.clone();
        prefer(&mut offer, Some(wish));
        let answer = self.answer_offer(&offer, Direction::SendRecv, outputs);
        self.stage = LegStage::Calling {
            offer: Some(offer),
            early: Some(answer.clone()),
        };
        Some(answer)
    }

    /// Takes the peer's answer to what we offered.
    fn take_answer(&mut self, answer: SdpSession, outputs: &mut Vec<Output>) -> Result<SdpSession, SdpFault> {
        self.accept_answer(&answer, outputs).map_err(|error| answer.fault(error))?;
        Ok(answer)
    }

    fn reoffer(&mut self, direction: Direction, exchange: PartyExchange, outputs: &mut Vec<Output>) {
        let codecs = first_of(self.codec().as_slice(), &self.policy.codecs);
        self.exchange = exchange;
        self.told = direction;
        let media = self.local.offer_codecs(direction, &codecs);
        self.expect_offered(outputs);
        outputs.push(Output::Leg(LegCommand::Offer { leg: self.leg, media }));
    }
}

impl Call {
    /// 200 to everybody who called, with the callee's codec.
    fn answer_callers(&mut self, wish: Codec, outputs: &mut Vec<Output>) {
        for party in &mut self.parties {
            let early = party.answer_early(wish, outputs);
            let media = match &party.stage {
                LegStage::Calling { early: Some(first), .. } => early.unwrap_or_else(|| first.clone()),
                LegStage::Calling { early: None, .. } => {
                    party.exchange = PartyExchange::AnswerDue;
                    party
                        .local
                        .offer_codecs(Direction::SendRecv, &party.may_use(&first_of(&[wish], &party.policy.codecs)))
                }
                LegStage::Invited | LegStage::Waiting | LegStage::Talking | LegStage::Over => continue,
            };
            outputs.push(Output::Leg(LegCommand::Accept { leg: party.leg, media }));
        }
    }
}

pub(super) fn call_type(caller: &CallingParty, callee: &CalledParty) -> CallType {
    match (caller.role, callee.role) {
        (PartyRole::Agent, PartyRole::Agent) => CallType::Internal,
        (PartyRole::Agent, PartyRole::Customer | PartyRole::Supervisor) => CallType::Outbound,
        (PartyRole::Customer | PartyRole::Supervisor, _) => CallType::Inbound,
    }
}

/// What a caller is told of a refusal that was made to us.
fn as_told_to_caller(status: u16, to_device: bool) -> u16 {
    match status {
        // A redirection that is not followed, or nobody answered.
        300..=399 | 408 | 487 => 480,
        // Matters between us and the callee, of which the caller knows nothing.
        401 | 407 | 405 | 415 | 420 | 421 | 422 | 491 | 494 => 500,
        // A phone that can not be reached is away; a trunk that can not be reached is out of service.
        503 if to_device => 480,
        _ => status.clamp(400, 699),
    }
}
