//! A call: a set of parties with roles, and a machine of its own.
//!
//! The [`B2bua`](super::B2bua) finds the call of a leg and hands in what the leg did. What that
//! means to the other parties is decided here; what depends on the other calls, the dial plan's
//! answer among it, comes back as [`Next`].

use super::Output;
use super::consultation::Consultation;
use super::hearing_policy::HearingPolicy;
use super::parties::Parties;
use super::party::{Answered, LegStage, Party, PartyEvent, PartyExchange, Release};
use super::rejection::{CalleeFailure, Rejection};
use super::reports::CallReports;
use super::routing::CalledParty;
use super::step::{Ctx, Step};
use super::transfer::{FailedTransfer, OrphanedTransfer, Transfer};
use crate::media::{CallKey, Codec};
use crate::model::{
    CallFact, CallId, CallType, DeviceId, LegState, Now, Number, PartyFact, Reason, Refusal,
    Timestamp, UserData,
};
use crate::sip::leg::{HangupCause, Identity, LegId, PassedHeader};
use crate::sip::sdp::{SdpError, SdpFault};
use crate::supervision::LegOutcome;

pub(super) struct Call {
    pub(super) key: CallKey,
    pub(super) id: CallId,
    pub(super) conn_id: String,
    /// What it is when it is not made to ask about another.
    pub(super) call_type: CallType,
    pub(super) ani: Number,
    pub(super) dnis: Number,
    pub(super) started_at: Timestamp,
    pub(super) parties: Parties,
    /// The number to call once the phone of the device that dialled is there.
    pub(super) dials: Option<Number>,
    /// The request that dialled waits for its destination: told when it fails.
    pub(super) dialler: Option<DeviceId>,
    /// Why the callee could not be had: what the caller is told.
    pub(super) refusal: Option<Rejection>,
    /// The media engine caught a packet where it must not be. Supervisors are heard by nobody from
    /// then on.
    pub(super) distrusted: bool,
    pub(super) max_forwards: u8,
    /// The number that the caller says it is: for loops only, shown to nobody.
    pub(super) claimed: Number,
    pub(super) passed: Vec<PassedHeader>,
    /// Its caller wants every leg of it over TLS: a sips URI was called.
    pub(super) is_secure: bool,
    /// What is attached to it.
    pub(super) user_data: UserData,
    pub(super) transfer: Option<Transfer>,
    /// It was made to ask about another call.
    pub(super) consult: Option<Consultation>,
    /// The device that has made a conference of it.
    pub(super) owner: Option<DeviceId>,
    pub(super) reports: CallReports,
}

/// What a call begins with.
pub(super) struct CallStart {
    pub(super) key: CallKey,
    pub(super) id: CallId,
    pub(super) conn_id: String,
    pub(super) call_type: CallType,
    pub(super) ani: Number,
    pub(super) dnis: Number,
    pub(super) claimed: Number,
    pub(super) max_forwards: u8,
    pub(super) consult: Option<Consultation>,
    pub(super) user_data: UserData,
}

/// What a call leaves to be done: a number has to be routed, which depends on every call.
pub(super) enum Next {
    Nothing,
    /// The phone of a device that dials is there: now the number is to be called.
    Dial {
        /// The device that dials.
        device: DeviceId,
        /// The number that was dialled.
        destination: Number,
        /// The codec of the phone.
        codec: Codec,
    },
    /// The destination of a transfer could not be had, and the party that transferred has left.
    CallBack(OrphanedTransfer),
}

impl Call {
    pub(super) fn new(start: CallStart, first: Party, now: Now) -> Self {
        Self {
            key: start.key,
            id: start.id,
            conn_id: start.conn_id,
            call_type: start.call_type,
            ani: start.ani,
            dnis: start.dnis,
            started_at: now.wall,
            parties: Parties::new(first),
            dials: None,
            dialler: None,
            refusal: None,
            distrusted: false,
            max_forwards: start.max_forwards,
            claimed: start.claimed,
            passed: Vec::new(),
            is_secure: false,
            user_data: start.user_data,
            transfer: None,
            consult: start.consult,
            owner: None,
            reports: CallReports::default(),
        }
    }

    /// Its fact, without how its sound fares: that is no news.
    pub(super) fn fact(&self) -> CallFact {
        let mut parties: Vec<PartyFact> = self.parties.iter().map(Party::fact).collect();
        if let (Some(_), Some(dialler)) = (&self.dials, parties.first_mut())
            && dialler.state == LegState::Ringing
        {
            dialler.state = LegState::Dialing;
        }
        CallFact {
            id: self.id.clone(),
            conn_id: self.conn_id.clone(),
            call_type: if self.consult.is_some() { CallType::Consult } else { self.call_type },
            ani: self.ani.clone(),
            dnis: self.dnis.clone(),
            started_at: self.started_at,
            parent: self.consult.as_ref().map(|consult| consult.call.clone()),
            owner: self.owner.clone(),
            user_data: self.user_data.clone(),
            parties,
        }
    }

    /// What the leg of a party did, or its sound.
    pub(super) fn handle_party(
        &mut self,
        leg: LegId,
        event: PartyEvent,
        ctx: &mut Ctx<'_>,
    ) -> Next {
        let Some(party) = self.parties.get_mut(leg).filter(|party| !party.is_over()) else {
            return Next::Nothing;
        };
        match event {
            // 199: one of several early dialogs has ended (RFC 6228). The caller has only one with
            // us.
            PartyEvent::Progress { status: 199, early: _ } => {}
            PartyEvent::Progress { status, early } => {
                if party.is_invited() {
                    ctx.out.changed.insert(self.key);
                    let codec = party.handle_progress(early, ctx.out);
                    if !party.is_supervisor() {
                        self.parties.ring_callers(status, codec, ctx.out);
                        self.let_go(leg, ctx);
                    }
                }
            }
            PartyEvent::Answered(answer) => {
                party.note_unnamed(ctx.plan, ctx.out);
                if !party.is_invited() {
                    return Next::Nothing;
                }
                ctx.out.changed.insert(self.key);
                let is_callee = party.is_callee();
                match party.handle_answered(answer, self.dials.is_some(), &self.id, ctx) {
                    Ok(Answered::Monitors) => {}
                    Ok(Answered::Waits(codec)) => {
                        let device = party.device.clone();
                        if let (Some(device), Some(destination)) = (device, self.dials.take()) {
                            return Next::Dial { device, destination, codec };
                        }
                    }
                    // Another branch than the one with the early media, with another codec.
                    Ok(Answered::Talks(codec)) if !self.parties.hear(leg, codec) => {
                        return self.handle_unusable(leg, true, SdpError::Codec.into(), ctx);
                    }
                    Ok(Answered::Talks(codec)) => {
                        self.parties.answer_callers(codec, ctx.out);
                        self.establish(ctx.now);
                        self.transfer_answers(leg, ctx);
                    }
                    Err(fault) => return self.handle_unusable(leg, is_callee, fault, ctx),
                }
            }
            PartyEvent::CalleeFailed(failure) => return self.callee_failed(leg, failure, ctx),
            PartyEvent::Confirmed(answer) => {
                let is_callee = party.is_callee();
                if party.exchange == PartyExchange::AnswerDue {
                    match party.handle_answer(answer, ctx.out) {
                        Ok(()) => ctx.out.changed.extend([self.key]),
                        Err(fault) => return self.handle_unusable(leg, is_callee, fault, ctx),
                    }
                }
                party.confirm_monitoring(&self.id, ctx);
            }
            PartyEvent::OfferAnswered(answer) if party.is_answer_due() => {
                let is_callee = party.is_callee();
                match party.handle_answer(Some(answer), ctx.out) {
                    Ok(()) => ctx.out.changed.extend([self.key]),
                    Err(fault) => return self.handle_unusable(leg, is_callee, fault, ctx),
                }
            }
            PartyEvent::OfferAnswered(_) => {}
            PartyEvent::Offered(offer) => {
                self.parties.handle_offer(leg, offer, ctx);
                ctx.out.changed.insert(self.key);
            }
            PartyEvent::OfferRefused(status) => {
                let tells_hold = party.exchange == PartyExchange::Offered;
                if party.handle_offer_refused(ctx.out) {
                    ctx.out.changed.insert(self.key);
                    // RFC 3261 14.1: these two mean that the dialog is gone.
                    if matches!(status, 408 | 481) {
                        party.leave(Release::Hangup(None), LegOutcome::HungUp, &self.id, ctx);
                    } else if tells_hold {
                        self.hold_not_signalled(leg, status, ctx);
                    }
                }
            }
            PartyEvent::AskToAnswerRefused(status) => {
                if let Some(device) = party.device.clone().filter(|_| party.is_invited()) {
                    ctx.out.fail(device, self.id.clone(), party.not_made_to_answer(status));
                }
            }
            PartyEvent::Dialled(digits) => {
                // An INFO that can not be used is nobody's failure.
                let _ = party.send_digits(&digits, ctx.out);
            }
            PartyEvent::Ended => {
                ctx.out.changed.insert(self.key);
                party.leave(Release::Gone, LegOutcome::HungUp, &self.id, ctx);
            }
            PartyEvent::Inactive => {
                let is_asked = party.handle_inactive(ctx.out);
                ctx.out.changed.extend(is_asked.then_some(self.key));
            }
            PartyEvent::Active => {
                let was_silent = party.handle_active();
                ctx.out.changed.extend(was_silent.then_some(self.key));
            }
            PartyEvent::Withheld => party.handle_withheld(ctx.out),
            PartyEvent::Quality(quality) => {
                let before = party.quality.replace(quality);
                if before != Some(quality) {
                    self.reports.publish_quality(before.is_none(), &self.parties, ctx);
                }
            }
        }
        Next::Nothing
    }

    /// A called party could not be had.
    pub(super) fn callee_failed(
        &mut self,
        leg: LegId,
        failure: CalleeFailure,
        ctx: &mut Ctx<'_>,
    ) -> Next {
        match self.fail_transfer(leg, failure, ctx.out) {
            FailedTransfer::None => self.drop_callee(leg, failure, false, ctx),
            FailedTransfer::Kept => self.drop_callee(leg, failure, true, ctx),
            FailedTransfer::Orphaned(orphan) => return Next::CallBack(orphan),
        }
        Next::Nothing
    }

    /// A called party that could not be had leaves. `is_transfer`: the call goes on without it.
    pub(super) fn drop_callee(
        &mut self,
        leg: LegId,
        failure: CalleeFailure,
        is_transfer: bool,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(party) = self.parties.get_mut(leg) else {
            return;
        };
        if !is_transfer && !party.is_supervisor() {
            self.refusal = Some(Rejection::Callee { failure, to_device: party.device.is_some() });
            self.dialler.take_if(|_| matches!(failure, CalleeFailure::Declined));
        }
        ctx.out.changed.insert(self.key);
        party.leave(failure.release(), failure.outcome(), &self.id, ctx);
    }

    /// A description that can not be used, where it can no longer be refused.
    fn handle_unusable(
        &mut self,
        leg: LegId,
        is_callee: bool,
        fault: SdpFault,
        ctx: &mut Ctx<'_>,
    ) -> Next {
        ctx.out.push(Output::Unusable { leg, fault });
        if is_callee {
            return self.callee_failed(leg, CalleeFailure::Unusable, ctx);
        }
        let release = Release::Hangup(Some(HangupCause::NotAcceptable));
        self.leave(leg, release, LegOutcome::Rejected { status: None }, ctx);
        Next::Nothing
    }

    /// What it has left to be done, with where the number leads.
    pub(super) fn go_on(
        &mut self,
        next: Next,
        callee: Result<CalledParty, Rejection>,
        ctx: &mut Ctx<'_>,
    ) {
        match next {
            Next::Nothing => {}
            Next::Dial { device, destination: _, codec } => {
                self.dial_on(&device, callee, codec, ctx)
            }
            Next::CallBack(orphan) => self.call_back(orphan, callee, ctx),
        }
    }

    /// The media engine has caught a packet where it must not be: supervisors are heard by nobody
    /// on this call any more, and told so.
    pub(super) fn handle_leak(&mut self, ctx: &mut Ctx<'_>) {
        if std::mem::replace(&mut self.distrusted, true) {
            return;
        }
        ctx.out.changed.insert(self.key);
        for device in self.parties.supervisors() {
            let refusal = Refusal::new(
                Reason::Internal,
                "Sound was about to reach a party it was not meant for. It was silenced, and you \
                 are heard by nobody on this call any more.",
            );
            ctx.out.fail(device.clone(), self.id.clone(), refusal);
        }
    }

    /// What carried the sound of a leg is gone, and that of its whole call with it.
    pub(super) fn handle_media_failed(&mut self, ctx: &mut Ctx<'_>) {
        self.refuse(Rejection::MediaFailed, ctx.out);
        self.end_everybody(Some(HangupCause::MediaFailure), ctx.out);
    }

    /// The callee could not be had: what the callers are told.
    pub(super) fn refuse(&mut self, rejection: Rejection, out: &mut Step) {
        self.refusal = Some(rejection);
        out.changed.insert(self.key);
    }

    /// Ends a leg, and tells supervision if it was a supervisor's.
    pub(super) fn leave(
        &mut self,
        leg: LegId,
        release: Release,
        outcome: LegOutcome,
        ctx: &mut Ctx<'_>,
    ) {
        ctx.out.changed.insert(self.key);
        if let Some(party) = self.parties.get_mut(leg) {
            party.leave(release, outcome, &self.id, ctx);
        }
    }

    /// Calls a party into the call. After an error nothing has changed.
    pub(super) fn invite(
        &mut self,
        callee: CalledParty,
        from: Identity,
        codecs: &[Codec],
        ctx: &mut Ctx<'_>,
    ) -> Result<LegId, Rejection> {
        let party = callee.invite(self, from, codecs, ctx)?;
        let leg = party.leg;
        self.add(party, ctx);
        Ok(leg)
    }

    /// One party more.
    pub(super) fn add(&mut self, party: Party, ctx: &mut Ctx<'_>) {
        if let Some(device) = &party.device {
            self.parties.forget_earlier(device, ctx.index);
        }
        self.parties.push(party);
        ctx.out.changed.insert(self.key);
    }

    /// The callee is there: every party that called is on the call from now on.
    fn establish(&mut self, now: Now) {
        self.parties.establish(now);
        self.dials = None;
        self.dialler = None;
    }

    /// Two talk, or may come to talk.
    fn goes_on(&self) -> bool {
        let principals = self.parties.principals().count();
        principals >= 2 || principals == 1 && self.dials.is_some()
    }

    pub(super) fn end_everybody(&mut self, cause: Option<HangupCause>, out: &mut Step) {
        let refusal = self.refusal.clone().unwrap_or(Rejection::NoAnswer);
        for party in self.parties.iter_mut() {
            let release = match party.stage {
                LegStage::Calling { .. } => Release::Reject(refusal.clone()),
                LegStage::Invited | LegStage::Waiting | LegStage::Talking | LegStage::Over => {
                    Release::Hangup(cause)
                }
            };
            party.end(release, out);
        }
        self.dials = None;
    }

    /// Ends what nobody is left for.
    pub(super) fn settle(&mut self, ctx: &mut Ctx<'_>) {
        self.drop_moot_transfer(ctx);
        self.end_if_alone(ctx);
        self.parties.tell_names(ctx.out);
    }

    /// Ends a call that nobody is left to talk on.
    fn end_if_alone(&mut self, ctx: &mut Ctx<'_>) {
        if self.parties.is_over()
            || self.goes_on()
            || self.parties.is_accompanied() && ctx.supervision.keeps_alive(&self.fact())
        {
            return;
        }
        if let (Some(device), Some(refusal)) = (self.dialler.take(), &self.refusal) {
            let missing = if self.dials.is_some() { &self.ani } else { &self.dnis };
            ctx.out.fail(device, self.id.clone(), refusal.unreached(missing));
        }
        self.end_everybody(None, ctx.out);
        ctx.out.changed.insert(self.key);
    }

    /// Tells supervision of the call as it is now.
    pub(super) fn inform_supervision(&mut self, ctx: &mut Ctx<'_>) {
        self.parties.lift_mutes();
        ctx.supervision.handle_doubt(&self.id, self.parties.is_probed(), ctx.now);
        self.reports.inform_supervision(self.fact(), ctx);
    }

    /// Publishes the call, if that is news, among the outputs from `first` on.
    pub(super) fn publish(&mut self, first: usize, out: &mut Step) {
        self.reports.publish(self.fact(), &self.parties, first, out);
    }

    /// Tells the media engine the hearing, if that has changed.
    pub(super) fn update_hearing(&mut self, ctx: &mut Ctx<'_>) {
        if !self.parties.is_over() {
            let hearing = HearingPolicy::of(ctx.config).hearing(self);
            self.parties.rest(&hearing, ctx.config.has_music, ctx.out);
            self.reports.tell_engine(self.key, hearing, ctx.out);
        }
    }
}
