//! What phones and trunks do: the call of a leg is found here, and told.

use super::call::{Call, CallStart, Next};
use super::codec_selection::{codecs_of, first_of, with_first};
use super::consultation::Consultation;
use super::leg_factory::Describer;
use super::media_address::MediaReach;
use super::party::{LegStage, Party, PartyEvent, PartyStart, ReadSdp};
use super::rejection::{CalleeFailure, Rejection};
use super::routing::{CalledParty, CallingParty, DialPlan, Unroutable};
use super::step::Ctx;
use super::{B2bua, Environment, MediaPolicy, role_of};
use crate::media::call::MAX_LEGS;
use crate::media::{CallKey, Codec};
use crate::model::{CallType, DeviceId, Now, Number, PartyRole, UserData};
use crate::sip::leg::{Identity, LegEvent, LegId, LegSource, PassedHeader};
use crate::sip::sdp::{SdpError, SdpSession};

/// An INVITE for a new call, or for the place of a leg.
pub(super) struct IncomingCall {
    pub(super) leg: LegId,
    pub(super) source: LegSource,
    from: Identity,
    claimed: Number,
    pub(super) to: Number,
    offer: Option<Vec<u8>>,
    max_forwards: u8,
    passed: Vec<PassedHeader>,
    user_data: UserData,
    returns: Option<LegId>,
    is_secure: bool,
}

/// What was found for an INVITE for a new call.
struct RoutedCall {
    caller: CallingParty,
    callee: CalledParty,
    offer: Option<SdpSession>,
    max_forwards: u8,
    consult: Option<Consultation>,
    /// The codec of the call that it asks about, if that is only relayed.
    relayed: Option<Codec>,
}

/// A leg that may be replaced, and the party that takes its place.
struct Replacement {
    call: CallKey,
    number: Number,
    role: PartyRole,
    policy: MediaPolicy,
    /// The codec of the call.
    codec: Option<Codec>,
    /// No party of it has ruled out annex B of G.729.
    annex_b: bool,
    /// The party that takes its place is not the one that had it: its device, if it is one of ours.
    successor: Option<Option<DeviceId>>,
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
                user_data,
                replaces,
                returns,
                is_secure,
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
                    user_data,
                    returns,
                    is_secure,
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
                let place = MediaReach { host, is_translated };
                let found = self.find(leg, now);
                match found.and_then(|(call, _)| call.parties.get_mut(leg)) {
                    Some(party) => party.place = Some(place),
                    None => self.legs.handle_located(leg, place),
                }
            }
            LegEvent::TrunkLocated { trunk, hosts } => {
                if let Some(route) = self.plan.numbering.trunk_mut(&trunk) {
                    route.hosts = hosts;
                }
            }
            LegEvent::Registered { device, registered } => {
                self.plan.handle_registered(&device, registered, &mut self.out)
            }
            LegEvent::ConnectedIdentity { leg, names, withheld } => {
                self.connected(leg, &names, withheld, now)
            }
            LegEvent::Redirected { leg, status, to } => self.redirected(leg, status, &to, now),
            LegEvent::Referred { leg, to, replaces: None, is_secure } => {
                self.referred(leg, &to, is_secure, now)
            }
            LegEvent::Referred { leg, to: _, replaces: Some(other), is_secure: _ } => {
                self.referred_to_other(leg, other, now)
            }
            LegEvent::Progress { leg, status, media } => {
                let early = media.map(|body| self.read(leg, &body));
                self.handle_party(leg, PartyEvent::Progress { status, early }, now);
            }
            LegEvent::Answered { leg, media } => {
                let answer = self.read(leg, &media);
                self.handle_party(leg, PartyEvent::Answered(answer), now);
            }
            LegEvent::Refused { leg, status } => {
                let failure = CalleeFailure::Refused(status);
                self.handle_party(leg, PartyEvent::CalleeFailed(failure), now)
            }
            LegEvent::Failed { leg, status } => {
                let failure = CalleeFailure::Unreached(status);
                self.handle_party(leg, PartyEvent::CalleeFailed(failure), now)
            }
            LegEvent::Confirmed { leg, media } => {
                let answer = media.map(|body| self.read(leg, &body));
                self.handle_party(leg, PartyEvent::Confirmed(answer), now);
            }
            LegEvent::Offered { leg, media } => {
                let offer = media.map(|body| self.read(leg, &body));
                self.handle_party(leg, PartyEvent::Offered(offer), now);
            }
            LegEvent::OfferAnswered { leg, media } => {
                let answer = self.read(leg, &media);
                self.handle_party(leg, PartyEvent::OfferAnswered(answer), now);
            }
            LegEvent::OfferRefused { leg, status } => {
                self.handle_party(leg, PartyEvent::OfferRefused(status), now)
            }
            LegEvent::AskToAnswerRefused { leg, status } => {
                self.handle_party(leg, PartyEvent::AskToAnswerRefused(status), now)
            }
            LegEvent::Dialled { leg, digits } => {
                digits.chars().for_each(|digit| self.handle_key(leg, digit, now));
                self.handle_party(leg, PartyEvent::Dialled(digits), now)
            }
            LegEvent::Ended { leg, reason: _ } => {
                if !self.code_hung_up(leg, now) {
                    self.handle_party(leg, PartyEvent::Ended, now);
                }
            }
        }
        self.finish_step(now);
    }

    /// Finds the call of a leg, and tells it.
    pub(super) fn handle_party(&mut self, leg: LegId, event: PartyEvent, now: Now) {
        if let Some((call, mut ctx)) = self.find(leg, now) {
            let (key, next) = (call.key, call.handle_party(leg, event, &mut ctx));
            self.go_on(key, next, now);
        }
    }

    /// What a call has left to be done.
    pub(super) fn go_on(&mut self, key: CallKey, next: Next, now: Now) {
        let callee = match &next {
            Next::Nothing => return,
            Next::Dial { device, destination, .. } => {
                self.plan.route_for(&self.calls, device, destination)
            }
            Next::CallBack(orphan) => self.plan.route_back(&self.calls, &orphan.device),
        };
        if let Some((call, mut ctx)) = self.find_key(key, now) {
            call.go_on(next, callee, &mut ctx);
        }
    }

    /// Reads a description of a leg that is there.
    fn read(&mut self, leg: LegId, body: &[u8]) -> ReadSdp {
        let (call, party) = self.calls.party(leg).ok_or(SdpError::Mismatch)?;
        let by = Describer {
            call: call.key,
            peer: &party.peer,
            policy: &party.policy,
            place: party.place,
        };
        self.legs.read(body, by, &self.calls, &mut self.out)
    }

    /// Reads the description of a leg of which the INVITE has come; `call`: where it would be.
    pub(super) fn read_arriving(
        &mut self,
        incoming: &IncomingCall,
        policy: &MediaPolicy,
        call: CallKey,
    ) -> Result<Option<SdpSession>, Rejection> {
        let Some(body) = &incoming.offer else {
            return Ok(None);
        };
        let place = self.legs.place_of(incoming.leg);
        let by = Describer { call, peer: &incoming.source, policy, place };
        Ok(Some(self.legs.read(body, by, &self.calls, &mut self.out)?))
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
        if let Some(device) = caller.device.clone().filter(|_| caller.role == PartyRole::Agent)
            && self.config.feature_codes.read(incoming.to.as_str()).is_some()
        {
            return self.dial_code(incoming, caller, device, now);
        }
        let consult = caller.device.as_ref().and_then(|device| self.calls.asks_about(device));
        if self.is_draining && consult.is_none() {
            return Err(Rejection::Draining);
        }
        let next = self.legs.next_call();
        let offer = self.read_arriving(&incoming, &caller.policy, next)?;
        let (behind, hops) = self.calls.behind(incoming.returns);
        // A switch in between may have begun to count anew.
        let max_forwards = incoming.max_forwards.min(hops.saturating_sub(1));
        if max_forwards == 0 && hops < u8::MAX {
            return Err(Rejection::TooManyHops);
        }
        let callee = self.plan.route_on(&self.calls, &caller, &incoming.to, behind, None)?;
        if self.plan.is_repeated(&self.calls, &caller, &incoming.claimed, &callee) {
            return Err(Unroutable::Repeated.into());
        }
        let relayed = consult.as_ref().and_then(|consult| self.calls.relayed(&consult.call));
        let routed = RoutedCall { caller, callee, offer, max_forwards, consult, relayed };
        let call = incoming.begin(routed, &mut self.ctx(now))?;
        self.begin(call);
        Ok(())
    }

    pub(super) fn begin(&mut self, call: Call) {
        self.out.changed.insert(call.key);
        self.calls.insert(call);
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
        let replacement = call.may_replace(old, &incoming, policy, &self.plan)?;
        let (key, leg) = (call.key, incoming.leg);
        let (successor, number) = (replacement.successor.clone(), replacement.number.clone());
        let offer = self.read_arriving(&incoming, &replacement.policy, key)?;
        let user_data = incoming.user_data.clone();
        let party = incoming.take_place(replacement, offer, &mut self.ctx(now))?;
        if let Some(device) = successor {
            self.hand_on(replaced, &number, device, now);
        }
        let (call, ctx) = self.find_key(key, now).ok_or(Rejection::NoSuchCall)?;
        let left = call.parties.replace(replaced, party, ctx.out).ok_or(Rejection::NoSuchCall)?;
        call.add_user_data(&user_data);
        ctx.out.changed.insert(key);
        ctx.index.forget(left.leg, &left.peer);
        self.calls.move_consultations(&left.peer, replaced, leg);
        Ok(())
    }
}

impl IncomingCall {
    /// A call of which this is the caller, and which calls the callee.
    fn begin(self, routed: RoutedCall, ctx: &mut Ctx<'_>) -> Result<Call, Rejection> {
        let RoutedCall { caller, callee, offer, max_forwards, consult, relayed } = routed;
        let (key, id, conn_id) = ctx.legs.new_call(ctx.environment);
        let call_type = call_type(&caller, &callee);
        // What the caller lacks is offered too, last: a callee that speaks nothing else is
        // transcoded.
        let callers = offer.as_ref().map_or_else(|| caller.policy.codecs.clone(), codecs_of);
        // Two calls that are to become one are in codecs that reach each other.
        let relayed = relayed.filter(|codec| callers.contains(codec));
        let codecs = first_of(&with_first(relayed, callers), &ctx.config.codecs);
        let start = PartyStart {
            leg: self.leg,
            peer: self.source,
            number: self.from.number.clone(),
            role: caller.role,
            policy: caller.policy,
            stage: LegStage::Calling { offer: offer.map(Box::new), early: None },
        };
        let mut party = ctx.open(key, start).ok_or(Rejection::NoPort)?;
        party.is_private = self.from.is_private;
        let start = CallStart {
            key,
            id,
            conn_id,
            call_type,
            ani: self.from.number.clone(),
            dnis: self.to,
            claimed: self.claimed,
            max_forwards,
            consult,
            user_data: self.user_data,
        };
        let mut call = Call {
            passed: self.passed,
            is_secure: self.is_secure,
            ..Call::new(start, party, ctx.now)
        };
        if let Err(rejection) = call.invite(callee, self.from, &codecs, ctx) {
            call.refuse(rejection, ctx.out);
        }
        Ok(call)
    }

    /// A party that takes the place of a leg.
    fn take_place(
        self,
        replacement: Replacement,
        offer: Option<SdpSession>,
        ctx: &mut Ctx<'_>,
    ) -> Result<Party, Rejection> {
        let Replacement { call, number, role, policy, codec, annex_b, successor: _ } = replacement;
        if let Some(codec) = codec {
            let reaches = |own: &Codec| own.reaches(codec);
            match &offer {
                Some(offer) if !codecs_of(offer).iter().any(reaches) => {
                    return Err(offer.fault(SdpError::Codec).into());
                }
                None if !policy.codecs.iter().any(reaches) => {
                    return Err(Rejection::NoCommonCodec);
                }
                Some(_) | None => {}
            }
        }
        let start = PartyStart {
            leg: self.leg,
            peer: self.source,
            number,
            role,
            policy,
            stage: LegStage::Talking,
        };
        let mut party = ctx.open(call, start).ok_or(Rejection::NoPort)?;
        party.is_private = self.from.is_private;
        party.stage = LegStage::Calling { offer: offer.map(Box::new), early: None };
        party.local.limit_annex_b(annex_b);
        party.accept_call(codec, ctx.now, ctx.out);
        Ok(party)
    }
}

impl Call {
    /// Whether the leg of `old` may be replaced, and the party that then has its place.
    fn may_replace(
        &self,
        old: &Party,
        incoming: &IncomingCall,
        policy: MediaPolicy,
        plan: &DialPlan,
    ) -> Result<Replacement, Rejection> {
        let trunk = plan.trunk_of(&incoming.source);
        let is_of_switch = trunk.is_some() && plan.trunk_of(&old.peer) == trunk;
        if old.peer != incoming.source && !is_of_switch || old.is_supervisor() {
            return Err(Rejection::NotTheirs);
        }
        if !old.is_talking() || self.transfer.is_some() {
            return Err(Rejection::NotReplaceable);
        }
        if self.parties.live() >= MAX_LEGS {
            return Err(Rejection::TooManyLegs);
        }
        // It may be another party that takes the leg: a device takes it back, or the switch has
        // joined two.
        let new = match &incoming.source {
            LegSource::Account(device) => Some(device.clone()),
            LegSource::Trunk(_) => None,
        };
        let successor = Some(new.clone()).filter(|new| *new != old.device);
        let is_here = |device: &DeviceId| self.parties.has(device);
        if successor.iter().flatten().any(is_here) {
            return Err(Rejection::OnCallAlready);
        }
        let (number, role) = match new.as_ref().and_then(|device| plan.device(device)) {
            Some(device) => (device.extension.number.clone(), role_of(device.extension.kind)),
            None => (incoming.from.number.clone(), PartyRole::Customer),
        };
        let (codec, annex_b) = (self.parties.codec(), self.parties.have_annex_b());
        Ok(Replacement { call: self.key, number, role, policy, codec, annex_b, successor })
    }
}

pub(super) fn call_type(caller: &CallingParty, callee: &CalledParty) -> CallType {
    match (caller.role, callee.role) {
        (PartyRole::Agent, PartyRole::Agent) => CallType::Internal,
        (PartyRole::Agent, PartyRole::Customer | PartyRole::Supervisor) => CallType::Outbound,
        (PartyRole::Customer | PartyRole::Supervisor, _) => CallType::Inbound,
    }
}
