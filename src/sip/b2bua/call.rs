//! A call: a set of parties with roles, and a machine of its own.
//!
//! The [`B2bua`](super::B2bua) finds the call of a leg and hands in what the leg did. What that
//! means to the other parties is decided here; what needs another call, a new leg or a number is
//! done by the B2BUA.

use super::Output;
use super::consultation::Consultation;
use super::hearing_policy::HearingPolicy;
use super::parties::Parties;
use super::party::{LegStage, Party, PartyExchange, Release};
use super::rejection::{as_told_to_caller, unreached};
use super::step::{Ctx, Step};
use super::transfer::Transfer;
use crate::media::{CallKey, Codec, Hearing, MediaCommand};
use crate::model::{
    CallFact, CallId, CallType, DeviceId, Fact, LegState, Now, Number, PartyFact, Quality, Reason,
    Refusal, Timestamp,
};
use crate::sip::leg::{LegCommand, LegId, PassedHeader};
use crate::sip::sdp::{SdpFault, SdpSession};
use crate::supervision::LegOutcome;
use std::time::Instant;

/// The session description can not be used (RFC 3261 21.4.26).
pub(super) const NOT_ACCEPTABLE: (u16, &str) = (488, "Not Acceptable Here");

/// What carried the sound of a call has failed (RFC 3261 21.5.1).
const MEDIA_FAILED: (u16, &str) = (500, "Media Failure");

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
    pub(super) refusal: Option<u16>,
    /// The media engine caught a packet where it must not be. Supervisors are heard by nobody from
    /// then on.
    pub(super) distrusted: bool,
    pub(super) max_forwards: u8,
    /// The number that the caller says it is: for loops only, shown to nobody.
    pub(super) claimed: Number,
    pub(super) passed: Vec<PassedHeader>,
    pub(super) transfer: Option<Transfer>,
    /// It was made to ask about another call.
    pub(super) consult: Option<Consultation>,
    /// The device that has made a conference of it.
    pub(super) owner: Option<DeviceId>,
    /// The hearing that the engine was told last.
    pub(super) told: Hearing,
    /// The fact that was published last, without its quality.
    pub(super) reported: Option<CallFact>,
    /// When its quality was published for its own sake.
    pub(super) quality_told: Option<Instant>,
    /// What supervision was told last.
    pub(super) supervised: Option<CallFact>,
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
}

/// What a party that was called has come to by its answer.
pub(super) enum Answered {
    /// It is on the call, or monitors it.
    Done,
    /// It is the phone of a device that dials: now the number is to be called.
    Dials {
        /// The device that dials.
        device: DeviceId,
        /// The number that was dialled.
        destination: Number,
        /// The codec of the phone.
        codec: Codec,
    },
}

impl Call {
    /// Its fact with how the sound of each party fares.
    pub(super) fn measured(&self, mut fact: CallFact) -> CallFact {
        for (told, party) in fact.parties.iter_mut().zip(self.parties.iter()) {
            told.quality = party.quality;
        }
        fact
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
            parties,
        }
    }

    /// Two talk, or may come to talk.
    pub(super) fn goes_on(&self) -> bool {
        let principals = self.parties.principals().count();
        principals >= 2 || principals == 1 && self.dials.is_some()
    }

    pub(super) fn end_everybody(&mut self, reason: Option<(u16, &'static str)>, out: &mut Step) {
        let status = self.refusal.unwrap_or(480);
        for party in self.parties.iter_mut() {
            let release = match party.stage {
                LegStage::Calling { .. } => Release::Hangup(Some((status, ""))),
                LegStage::Invited | LegStage::Waiting | LegStage::Talking | LegStage::Over => {
                    Release::Hangup(reason)
                }
            };
            party.end(release, out);
        }
        self.dials = None;
    }

    /// The callee is there: every party that called is on the call from now on.
    pub(super) fn establish(&mut self, now: Now) {
        for party in self.parties.iter_mut() {
            if matches!(party.stage, LegStage::Calling { .. } | LegStage::Waiting) {
                party.stage = LegStage::Talking;
                party.established_at = Some(now.wall);
            }
        }
        self.dials = None;
        self.dialler = None;
    }
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
            transfer: None,
            consult: start.consult,
            owner: None,
            told: Hearing::default(),
            supervised: None,
            reported: None,
            quality_told: None,
        }
    }

    /// The phone of a called party rings, perhaps with early media.
    pub(super) fn handle_progress(
        &mut self,
        leg: LegId,
        status: u16,
        early: Option<Result<SdpSession, SdpFault>>,
        ctx: &mut Ctx<'_>,
    ) {
        let key = self.key;
        let Some(party) = self.parties.get_mut(leg).filter(|party| party.is_invited()) else {
            return;
        };
        // 199: one of several early dialogs has ended (RFC 6228). The caller has only one with us.
        if status == 199 {
            return;
        }
        ctx.out.changed.insert(key);
        party.rings = true;
        if std::mem::take(&mut party.to_be_asked) {
            ctx.out.leg(LegCommand::AskToAnswer { leg });
        }
        if party.is_supervisor() {
            return;
        }
        let codec =
            match early.map(|read| read.and_then(|answer| party.take_answer(answer, ctx.out))) {
                Some(Ok(_)) => party.codec(),
                // The final answer may be better.
                Some(Err(fault)) => {
                    ctx.out.push(Output::Unusable { leg, fault });
                    None
                }
                None => None,
            };
        for caller in self.parties.iter_mut() {
            let media = codec.and_then(|codec| caller.answer_early(codec, ctx.out));
            if matches!(caller.stage, LegStage::Calling { .. }) {
                ctx.out.leg(LegCommand::Provisional { leg: caller.leg, status, media });
            }
        }
        self.let_go(leg, ctx);
    }

    /// A called party has answered. The error: its description cannot be used.
    pub(super) fn handle_answered(
        &mut self,
        leg: LegId,
        answer: Result<SdpSession, SdpFault>,
        ctx: &mut Ctx<'_>,
    ) -> Result<Answered, SdpFault> {
        let (key, dials) = (self.key, self.dials.clone());
        let Some(party) = self.parties.get_mut(leg).filter(|party| party.is_invited()) else {
            return Ok(Answered::Done);
        };
        let answer = party.take_answer(answer?, ctx.out)?;
        let Some(codec) = party.codec() else {
            return Ok(Answered::Done);
        };
        party.held_by_phone = answer.audio.is_hold();
        ctx.out.changed.insert(key);
        let device = party.device.clone();
        match (&party.link, dials) {
            (Some(_), _) => {
                party.talk(ctx.now);
                if let Some(device) = device {
                    ctx.supervision.handle_leg(&device, &self.id, LegOutcome::Answered, ctx.now);
                }
            }
            (None, Some(destination)) => {
                party.stage = LegStage::Waiting;
                self.dials = None;
                if let Some(device) = device {
                    return Ok(Answered::Dials { device, destination, codec });
                }
            }
            (None, None) => {
                party.talk(ctx.now);
                self.parties.answer_callers(codec, ctx.out);
                self.establish(ctx.now);
                self.transfer_answers(leg, ctx);
            }
        }
        Ok(Answered::Done)
    }

    /// A leg was refused; `is_transfer`: the call goes on without it.
    pub(super) fn handle_refused(
        &mut self,
        leg: LegId,
        status: u16,
        is_transfer: bool,
        outcome: LegOutcome,
        ctx: &mut Ctx<'_>,
    ) {
        let Some(party) = self.parties.get(leg).filter(|party| !party.is_over()) else {
            return;
        };
        let (to_device, is_supervisor) = (party.device.is_some(), party.is_supervisor());
        if !is_transfer && !is_supervisor {
            self.refusal = Some(as_told_to_caller(status, to_device));
        }
        self.leave(leg, Release::Gone, outcome, ctx);
    }

    /// A description that can not be used, where it can no longer be refused. `is_refusal`: the
    /// callers are told so.
    pub(super) fn handle_unusable(&mut self, leg: LegId, is_refusal: bool, ctx: &mut Ctx<'_>) {
        if is_refusal {
            self.refusal = Some(NOT_ACCEPTABLE.0);
        }
        self.leave(leg, Release::Hangup(Some(NOT_ACCEPTABLE)), LegOutcome::Rejected, ctx);
    }

    /// The answer to an offer of ours on a leg that is up, if one is due.
    pub(super) fn handle_answer(
        &mut self,
        leg: LegId,
        is_due: fn(PartyExchange) -> bool,
        answer: Option<Result<SdpSession, SdpFault>>,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), SdpFault> {
        let key = self.key;
        match self.parties.get_mut(leg).filter(|party| !party.is_over() && is_due(party.exchange)) {
            Some(party) => {
                party.handle_answer(answer, ctx.out).inspect(|()| ctx.out.changed.extend([key]))
            }
            None => Ok(()),
        }
    }

    pub(super) fn handle_offer_refused(&mut self, leg: LegId, status: u16, ctx: &mut Ctx<'_>) {
        let is_due = |party: &&mut Party| {
            matches!(party.exchange, PartyExchange::Offered | PartyExchange::Probed)
        };
        let Some(party) = self.parties.get_mut(leg).filter(is_due) else {
            return;
        };
        party.handle_offer_refused(ctx.out);
        ctx.out.changed.insert(self.key);
        // RFC 3261 14.1: these two mean that the dialog is gone.
        if matches!(status, 408 | 481) {
            self.leave(leg, Release::Hangup(None), LegOutcome::HungUp, ctx);
        }
    }

    /// A party's own re-INVITE.
    pub(super) fn handle_offer(
        &mut self,
        leg: LegId,
        offer: Option<Result<SdpSession, SdpFault>>,
        ctx: &mut Ctx<'_>,
    ) {
        let (ours, common) =
            (self.parties.direction_toward(leg, ctx.config.signal_hold), self.parties.codec());
        let Some(party) = self.parties.get_mut(leg).filter(|party| !party.is_over()) else {
            return;
        };
        party.handle_offer(offer, ours, common, ctx.out);
        ctx.out.changed.insert(self.key);
    }

    /// The phone rings on: the party has to answer at the phone itself.
    pub(super) fn handle_ask_to_answer_refused(&self, leg: LegId, status: u16, out: &mut Step) {
        let party = self.parties.get(leg).filter(|party| party.is_invited());
        if let Some((device, party)) = party.and_then(|party| Some((party.device.clone()?, party)))
        {
            out.fail(device, self.id.clone(), party.not_made_to_answer(status));
        }
    }

    pub(super) fn handle_inactive(&mut self, leg: LegId, ctx: &mut Ctx<'_>) {
        let is_asked =
            self.parties.get_mut(leg).is_some_and(|party| party.handle_inactive(ctx.out));
        ctx.out.changed.extend(is_asked.then_some(self.key));
    }

    pub(super) fn handle_active(&mut self, leg: LegId, ctx: &mut Ctx<'_>) {
        let was_silent = self.parties.get_mut(leg).is_some_and(Party::handle_active);
        ctx.out.changed.extend(was_silent.then_some(self.key));
    }

    /// A leg's quality is no change of its call: supervision is never told. It goes along with the
    /// next change, or by itself when it is a leg's first, or when the last time is long enough
    /// ago.
    pub(super) fn handle_quality(&mut self, leg: LegId, quality: Quality, ctx: &mut Ctx<'_>) {
        let Some(party) = self.parties.get_mut(leg).filter(|party| !party.is_over()) else {
            return;
        };
        let before = party.quality.replace(quality);
        if before == Some(quality) {
            return;
        }
        let interval = ctx.config.quality_interval;
        let is_due = before.is_none()
            || self.quality_told.is_none_or(|told| told + interval <= ctx.now.mono);
        if is_due && let Some(reported) = &self.reported {
            let fact = self.measured(reported.clone());
            self.quality_told = Some(ctx.now.mono);
            ctx.out.fact(Fact::Call(fact));
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
                "Sound was about to reach a party it was not meant for. It was silenced, and you are heard by nobody on this call any more.",
            );
            ctx.out.fail(device.clone(), self.id.clone(), refusal);
        }
    }

    /// What carried the sound of a leg is gone, and that of its whole call with it.
    pub(super) fn handle_media_failed(&mut self, ctx: &mut Ctx<'_>) {
        self.refuse(MEDIA_FAILED.0, ctx.out);
        self.end_everybody(Some(MEDIA_FAILED), ctx.out);
    }

    /// The callee could not be had: what the callers are told.
    pub(super) fn refuse(&mut self, status: u16, out: &mut Step) {
        self.refusal = Some(status);
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
        let Some(party) = self.parties.get_mut(leg).filter(|party| !party.is_over()) else {
            return;
        };
        party.end(release, ctx.out);
        if let Some(supervisor) = party.device.clone().filter(|_| party.is_supervisor()) {
            ctx.supervision.handle_leg(&supervisor, &self.id, outcome, ctx.now);
        }
    }

    /// One party more on a call that lives. The parties that are forgotten for it are returned.
    pub(super) fn add(&mut self, party: Party, out: &mut Step) -> Vec<Party> {
        let gone = party
            .device
            .as_ref()
            .map(|device| self.parties.forget_earlier(device))
            .unwrap_or_default();
        self.parties.push(party);
        out.changed.insert(self.key);
        gone
    }

    /// Tells supervision of the call as it is now.
    pub(super) fn inform_supervision(&mut self, ctx: &mut Ctx<'_>) {
        self.parties.lift_mutes();
        let fact = self.fact();
        ctx.supervision.handle_doubt(&self.id, self.parties.is_probed(), ctx.now);
        if self.supervised.as_ref() != Some(&fact) {
            ctx.supervision.handle_call(&fact, ctx.now);
            self.supervised = Some(fact);
        }
    }

    /// Publishes the call, if that is news, among the outputs from `first` on.
    pub(super) fn report(&mut self, first: usize, out: &mut Step) {
        let fact = self.fact();
        if self.reported.as_ref() != Some(&fact) {
            self.reported = Some(fact.clone());
            let fact = self.measured(fact);
            out.outputs.insert(first, Output::Fact(Fact::Call(fact)));
        }
    }

    /// Ends a call that nobody is left to talk on.
    pub(super) fn end_if_alone(&mut self, ctx: &mut Ctx<'_>) {
        if self.parties.is_over()
            || self.goes_on()
            || self.parties.is_accompanied() && ctx.supervision.keeps_alive(&self.fact())
        {
            return;
        }
        if let (Some(device), Some(status)) = (self.dialler.take(), self.refusal) {
            let missing = if self.dials.is_some() { &self.ani } else { &self.dnis };
            ctx.out.fail(device, self.id.clone(), unreached(status, missing));
        }
        self.end_everybody(None, ctx.out);
        ctx.out.changed.insert(self.key);
    }

    /// Tells the media engine the hearing, if that has changed.
    pub(super) fn update_hearing(&mut self, ctx: &mut Ctx<'_>) {
        if self.parties.is_over() {
            return;
        }
        let hearing = HearingPolicy::of(ctx.config).hearing(self);
        if self.told != hearing {
            self.told = hearing.clone();
            ctx.out.media(MediaCommand::Hear { call: self.key, hearing });
        }
    }

    /// The live party of a device.
    pub(super) fn party_on(&mut self, device: &DeviceId) -> Result<&mut Party, Refusal> {
        let id = self.id.clone();
        self.parties.of_device(device).ok_or_else(|| Refusal::no_call(&id))
    }

    /// Changes something about a device's party.
    pub(super) fn change(
        &mut self,
        device: &DeviceId,
        ctx: &mut Ctx<'_>,
        change: impl FnOnce(&mut Party) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        change(self.party_on(device)?)?;
        ctx.out.changed.insert(self.key);
        Ok(())
    }

    /// Silences the agent that the supervisor monitors now toward every party but supervisors.
    pub(super) fn mute_monitored(
        &mut self,
        supervisor: &DeviceId,
        muted: bool,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), Refusal> {
        let id = self.id.clone();
        let joined = self.party_on(supervisor)?.link.as_ref().filter(|link| link.joined);
        let Some(link) = joined else {
            let pattern = format!("Device '{{}}' does not monitor call '{id}'.");
            return Err(Refusal::device(Reason::InvalidState, supervisor, pattern));
        };
        let agent = link.coached.clone();
        let agent =
            agent.ok_or_else(|| Refusal::new(Reason::InvalidState, "No agent is on the call."))?;
        let party = self.party_on(&agent)?;
        if muted == party.muted_by.is_some() {
            return Err(Refusal::muted_already(muted));
        }
        party.muted_by = muted.then(|| supervisor.clone());
        ctx.out.changed.insert(self.key);
        Ok(())
    }
}
