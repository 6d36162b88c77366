//! One party of a call and its leg: a machine of its own.
//!
//! It keeps what is agreed with its peer, and answers for its leg alone. What a change of it means
//! to the others is decided by its [`Call`](super::call::Call).

use super::codec_selection::{codecs_of, common, first_of, media_of, prefer};
use super::leg_index::TrunkSeat;
use super::media_address::{MediaDestination, MediaReach, Remark};
use super::rejection::{CalleeFailure, Rejection, refuse_offer};
use super::routing::{DialPlan, Trail};
use super::step::{Ctx, Step};
use super::{MediaPolicy, Output, identity};
use crate::media::srtp::Keys;
use crate::media::{Codec, LegMedia, MediaCommand, SourceRule};
use crate::model::{
    Activity, CallId, DeviceId, LegState, Now, Number, PartyFact, PartyRole, Quality, Reason,
    Refusal, Timestamp,
};
use crate::sip::leg::{ANONYMOUS, HangupCause, Identity, LegCommand, LegId, LegSource};
use crate::sip::sdp::{Agreed, Direction, Local, SdpError, SdpFault, SdpSession};
use crate::supervision::LegOutcome;

/// One party and its leg.
pub(super) struct Party {
    pub(super) leg: LegId,
    /// The device or trunk of the leg, which may have only so many calls.
    pub(super) peer: LegSource,
    pub(super) device: Option<DeviceId>,
    pub(super) number: Number,
    /// What the peer calls the party, when that is another name than its number.
    pub(super) known_as: Vec<Number>,
    /// Its number is for our trust domain alone (RFC 3325 7).
    pub(super) is_private: bool,
    /// The peer has named the party at its end.
    pub(super) is_named: bool,
    /// The number of the other party that the peer knows of, since the two have talked.
    pub(super) sees: Option<Number>,
    /// The party has left, and its leg was handed on to this number.
    pub(super) handed_on_to: Option<Number>,
    /// Its device is behind a switch, and on another call as well.
    pub(super) is_on_two: bool,
    pub(super) role: PartyRole,
    pub(super) policy: MediaPolicy,
    /// Where its signalling comes from, once something has come.
    pub(super) place: Option<MediaReach>,
    pub(super) stage: LegStage,
    /// Its place at the trunk that it goes by, until its leg ends.
    pub(super) seat: Option<TrunkSeat>,
    /// The phone has answered our INVITE with a 1xx: there is a dialog in which it can be asked
    /// something.
    pub(super) rings: bool,
    /// The party is to answer as soon as its phone can be asked to.
    pub(super) to_be_asked: bool,
    pub(super) muted: bool,
    /// The supervisor that has silenced it toward the others, while that one is on the call.
    pub(super) muted_by: Option<DeviceId>,
    pub(super) held_by_command: bool,
    /// Its phone has put us on hold.
    pub(super) held_by_phone: bool,
    pub(super) established_at: Option<Timestamp>,
    pub(super) local: Local,
    /// What the engine was told of this leg.
    pub(super) media: Option<LegMedia>,
    /// Nothing is sent to it: it knows that it is on hold, and there is nothing that it is to hear.
    pub(super) rests: bool,
    /// The engine was told besides what may come while an offer of ours waits.
    pub(super) expecting: bool,
    /// What the engine was told of its addresses besides.
    pub(super) rule: SourceRule,
    /// The keys of its SRTP that the engine was told with it.
    pub(super) keys: Option<Box<Keys>>,
    /// The way media may flow, as the peer was told last.
    pub(super) told: Direction,
    pub(super) exchange: PartyExchange,
    /// Nothing has come from it for a while, and nothing has come since.
    pub(super) is_silent: bool,
    pub(super) link: Option<MonitorLink>,
    /// The caller that its phone was shown, when it was called.
    pub(super) shown: Option<Identity>,
    /// The way that led to it, when it was called.
    pub(super) trail: Trail,
    /// It hears our music.
    pub(super) music: bool,
    /// The quality of its sound by the last report.
    pub(super) quality: Option<Quality>,
}

/// How far a leg is.
#[derive(Debug)]
pub(super) enum LegStage {
    /// It calls, and has no answer yet.
    Calling {
        /// Its offer, if its INVITE had one.
        offer: Option<Box<SdpSession>>,
        /// The answer that it was given with early media: it stays the same (RFC 3261 13.3.1).
        early: Option<Vec<u8>>,
    },
    /// It is called.
    Invited,
    /// Its phone is there, and the party that it dialled is not.
    Waiting,
    /// It is on the call.
    Talking,
    /// Its leg has ended.
    Over,
}

/// Offer and answer on a leg that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartyExchange {
    /// None is open.
    Idle,
    /// Our re-INVITE waits for its answer.
    Offered,
    /// The same, only to see whether it is still there: nothing about the session is in doubt.
    Probed,
    /// Our 2xx carried the offer; the ACK brings the answer.
    AnswerDue,
}

/// What makes a party a supervisor's.
pub(super) struct MonitorLink {
    pub(super) target: DeviceId,
    /// The activity of the supervisor, now or as soon as it has joined.
    pub(super) activity: Activity,
    /// The supervisor is on the call; `coached` as the monitor says, before our own doubts.
    pub(super) joined: bool,
    pub(super) coached: Option<DeviceId>,
    /// The agent has left, and the supervisor is to take its place.
    pub(super) takeover: bool,
    /// The supervisor hears agents only.
    pub(super) agent_side_only: bool,
}

/// How a leg is ended.
#[derive(Clone, Debug)]
pub(super) enum Release {
    /// It is gone already.
    Gone,
    /// CANCEL or BYE; to a caller that has no answer yet, a refusal.
    Hangup(Option<HangupCause>),
    /// A refusal to a caller that has no answer yet.
    Reject(Rejection),
}

/// A description of a peer, if it can be used.
pub(super) type ReadSdp = Result<SdpSession, SdpFault>;

/// What the leg of a party did, or its sound.
pub(super) enum PartyEvent {
    /// A 1xx to our INVITE.
    Progress { status: u16, early: Option<ReadSdp> },
    /// 200 to our INVITE.
    Answered(ReadSdp),
    /// Our INVITE has come to nothing.
    CalleeFailed(CalleeFailure),
    /// The ACK to our 200, with an answer if the 200 carried an offer.
    Confirmed(Option<ReadSdp>),
    /// A re-INVITE, perhaps without an offer.
    Offered(Option<ReadSdp>),
    /// 200 to our re-INVITE.
    OfferAnswered(ReadSdp),
    /// A refusal of our re-INVITE.
    OfferRefused(u16),
    /// The phone cannot be made to answer.
    AskToAnswerRefused(u16),
    /// Digits by INFO.
    Dialled(String),
    /// BYE, or the leg is lost.
    Ended,
    /// Nothing comes from it.
    Inactive,
    /// Something comes from it again.
    Active,
    /// Nothing more is sent to it.
    Withheld,
    /// How its sound fares.
    Quality(Quality),
}

/// What the answer of a called party means to its call.
pub(super) enum Answered {
    /// A supervisor's phone is there.
    Monitors,
    /// The phone of a device that dials is there, with this codec.
    Waits(Codec),
    /// The callee is there, with this codec.
    Talks(Codec),
}

/// What a party begins with.
pub(super) struct PartyStart {
    pub(super) leg: LegId,
    pub(super) peer: LegSource,
    pub(super) number: Number,
    pub(super) role: PartyRole,
    pub(super) policy: MediaPolicy,
    pub(super) stage: LegStage,
}

impl Party {
    /// The party of a leg of which nothing has been heard yet.
    pub(super) fn new(start: PartyStart, local: Local) -> Self {
        let PartyStart { leg, peer, number, role, policy, stage } = start;
        let device = match &peer {
            LegSource::Account(device) => Some(device.clone()),
            LegSource::Trunk(_) => None,
        };
        Self {
            leg,
            peer,
            device,
            number,
            known_as: Vec::new(),
            is_private: false,
            is_named: false,
            sees: None,
            handed_on_to: None,
            is_on_two: false,
            role,
            policy,
            place: None,
            stage,
            seat: None,
            rings: false,
            to_be_asked: false,
            muted: false,
            muted_by: None,
            held_by_command: false,
            held_by_phone: false,
            established_at: None,
            local,
            media: None,
            rests: false,
            expecting: false,
            rule: SourceRule::default(),
            keys: None,
            told: Direction::SendRecv,
            exchange: PartyExchange::Idle,
            is_silent: false,
            link: None,
            shown: None,
            trail: Trail::default(),
            music: false,
            quality: None,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.stage, LegStage::Over)
    }

    pub(super) fn is_talking(&self) -> bool {
        matches!(self.stage, LegStage::Talking)
    }

    pub(super) fn is_invited(&self) -> bool {
        matches!(self.stage, LegStage::Invited)
    }

    /// It is called, and to talk.
    pub(super) fn is_callee(&self) -> bool {
        self.is_invited() && !self.is_supervisor()
    }

    pub(super) fn is_held(&self) -> bool {
        self.held_by_command || self.held_by_phone
    }

    pub(super) fn is_supervisor(&self) -> bool {
        self.role == PartyRole::Supervisor
    }

    /// An offer of ours in a re-INVITE waits for its answer.
    pub(super) fn is_answer_due(&self) -> bool {
        matches!(self.exchange, PartyExchange::Offered | PartyExchange::Probed)
    }

    /// Something about this leg is being agreed: what is heard where is not certain until it is.
    pub(super) fn in_doubt(&self) -> bool {
        matches!(self.exchange, PartyExchange::Offered | PartyExchange::AnswerDue)
    }

    pub(super) fn codec(&self) -> Option<Codec> {
        self.media.as_ref().map(|media| media.codec)
    }

    /// Answers an offer of the peer's, and tells the engine what that comes to.
    pub(super) fn answer_offer(
        &mut self,
        offer: &SdpSession,
        ours: Direction,
        out: &mut Step,
    ) -> Vec<u8> {
        let (answer, agreed) = self.local.answer(offer, ours);
        self.told = ours;
        self.describe(agreed, out);
        answer
    }

    /// Takes the peer's answer to what we offered.
    pub(super) fn accept_answer(
        &mut self,
        answer: &SdpSession,
        out: &mut Step,
    ) -> Result<(), SdpError> {
        let agreed = self.local.accept(answer)?;
        self.describe(agreed, out);
        Ok(())
    }

    pub(super) fn describe(&mut self, agreed: Agreed, out: &mut Step) {
        let aim =
            MediaDestination::at(&self.policy.reach, self.place, agreed.remote, agreed.remote_rtcp);
        let media = media_of(&agreed, &aim);
        if self.rule != aim.rule {
            self.rule = aim.rule;
            out.push(Output::Media(MediaCommand::Sources { leg: self.leg, rule: aim.rule }));
        }
        let expecting = std::mem::take(&mut self.expecting);
        if self.media.as_ref() != Some(&media) || self.keys != agreed.srtp || expecting {
            self.keys.clone_from(&agreed.srtp);
            out.extend(
                aim.remark(&self.policy.reach, &self.peer, self.place, &agreed).map(Output::Remark),
            );
            self.media = Some(media);
            self.tell_media(media, out);
        }
    }

    /// Begins or ends its rest.
    pub(super) fn rest(&mut self, on: bool, out: &mut Step) {
        if let Some(media) = self.media.filter(|_| self.rests != on) {
            self.rests = on;
            match self.expecting {
                true => self.expect_offered(out),
                false => self.tell_media(media, out),
            }
        }
    }

    /// We have made an offer: what it lists may come before its answer does.
    pub(super) fn expect_offered(&mut self, out: &mut Step) {
        let Some(media) = &self.media else { return };
        let receives = self.local.expected(media.receives);
        if receives != media.receives {
            self.expecting = true;
            self.tell_media(LegMedia { receives, ..*media }, out);
        }
    }

    /// It has come to nothing: the session stays as it was.
    pub(super) fn expect_agreed(&mut self, out: &mut Step) {
        if let (true, Some(media)) = (std::mem::take(&mut self.expecting), self.media) {
            self.tell_media(media, out);
        }
    }

    pub(super) fn tell_media(&self, media: LegMedia, out: &mut Step) {
        out.push(Output::Media(MediaCommand::Describe {
            leg: self.leg,
            media: LegMedia { send: media.send && !self.rests, ..media },
            srtp: self.keys.clone(),
        }));
    }

    pub(super) fn end(&mut self, release: Release, out: &mut Step) {
        let was = std::mem::replace(&mut self.stage, LegStage::Over);
        let command = match (was, release) {
            (LegStage::Over, _) => return,
            (_, Release::Gone) => None,
            (LegStage::Calling { .. }, Release::Hangup(cause)) => {
                let status =
                    cause.map_or(Rejection::NoAnswer.sip_status(), HangupCause::sip_status);
                Some(LegCommand::Reject { leg: self.leg, status })
            }
            (LegStage::Calling { .. }, Release::Reject(rejection)) => {
                Some(LegCommand::Reject { leg: self.leg, status: rejection.sip_status() })
            }
            (
                LegStage::Invited | LegStage::Waiting | LegStage::Talking,
                Release::Hangup(reason),
            ) => Some(LegCommand::Hangup { leg: self.leg, reason }),
            (LegStage::Invited | LegStage::Waiting | LegStage::Talking, Release::Reject(_)) => {
                Some(LegCommand::Hangup { leg: self.leg, reason: None })
            }
        };
        self.exchange = PartyExchange::Idle;
        self.seat = None;
        self.media = None;
        self.keys = None;
        if let Some(link) = &mut self.link {
            link.joined = false;
        }
        out.releases.extend(command.map(Output::Leg));
        out.releases.push(Output::Media(MediaCommand::Close { leg: self.leg }));
    }

    /// Ends the leg, and tells supervision if it was a supervisor's.
    pub(super) fn leave(
        &mut self,
        release: Release,
        outcome: LegOutcome,
        call: &CallId,
        ctx: &mut Ctx<'_>,
    ) {
        if self.is_over() {
            return;
        }
        self.end(release, ctx.out);
        if let Some(supervisor) = self.device.as_ref().filter(|_| self.is_supervisor()) {
            ctx.supervision.handle_leg(supervisor, call, outcome, ctx.now);
        }
    }

    pub(super) fn state(&self) -> LegState {
        match self.stage {
            LegStage::Calling { .. } | LegStage::Waiting => LegState::Dialing,
            LegStage::Invited => LegState::Ringing,
            LegStage::Talking if self.is_held() => LegState::Held,
            LegStage::Talking => LegState::Established,
            LegStage::Over => LegState::Released,
        }
    }

    pub(super) fn fact(&self) -> PartyFact {
        PartyFact {
            device: self.device.clone(),
            number: self.number.clone(),
            role: self.role,
            state: self.state(),
            muted: self.muted,
            muted_by_supervisor: self.muted_by.is_some(),
            held_at_phone: self.is_talking() && self.held_by_phone,
            activity: self.link.as_ref().map(|link| link.activity),
            monitors: self.monitored().cloned(),
            established_at: self.established_at,
            quality: None,
            handed_on_to: self.handed_on_to.clone(),
        }
    }

    /// What a caller that has no answer yet has offered.
    pub(super) fn offered_codecs(&self) -> Option<Vec<Codec>> {
        match &self.stage {
            LegStage::Calling { offer: Some(offer), .. } => Some(codecs_of(offer)),
            _ => None,
        }
    }

    /// Of these codecs of its call those that this leg may use, or else its own that reach them.
    pub(super) fn may_use(&self, codecs: &[Codec]) -> Vec<Codec> {
        common(&self.policy.codecs, codecs)
    }

    /// What we offer on a call that speaks this codec.
    fn codecs_with(&self, spoken: Option<Codec>) -> Vec<Codec> {
        self.may_use(&first_of(spoken.as_slice(), &self.policy.codecs))
    }

    /// Whether it may come to hear what is said in this codec, and be heard there.
    pub(super) fn reaches(&self, codec: Codec) -> bool {
        match (self.codec(), self.offered_codecs()) {
            (Some(own), _) => own.reaches(codec),
            (None, Some(offered)) => offered.iter().any(|own| own.reaches(codec)),
            (None, None) => self.policy.codecs.iter().any(|own| own.reaches(codec)),
        }
    }

    /// Whether its phone has not ruled out annex B of G.729.
    pub(super) fn has_annex_b(&self) -> bool {
        let is_offered = match &self.stage {
            LegStage::Calling { offer: Some(offer), .. } => offer.audio.annex_b,
            _ => true,
        };
        is_offered && self.local.annex_b()
    }

    pub(super) fn talk(&mut self, now: Now) {
        self.stage = LegStage::Talking;
        self.established_at = Some(now.wall);
    }

    /// Answers its call: it talks from now on. `wish`: the codec of the call.
    pub(super) fn accept_call(&mut self, wish: Option<Codec>, now: Now, out: &mut Step) {
        let LegStage::Calling { offer, .. } = std::mem::replace(&mut self.stage, LegStage::Talking)
        else {
            return;
        };
        self.established_at = Some(now.wall);
        let media = match offer {
            Some(mut offer) => {
                prefer(&mut offer, wish);
                self.hold_at_phone(offer.audio.is_hold());
                self.answer_offer(&offer, Direction::SendRecv, out)
            }
            None => {
                self.exchange = PartyExchange::AnswerDue;
                let codecs = self.codecs_with(wish);
                self.local.offer_codecs(Direction::SendRecv, &codecs)
            }
        };
        out.leg(LegCommand::Accept { leg: self.leg, media });
    }

    /// The answer to a caller's offer for early media, the first time.
    pub(super) fn answer_early(&mut self, wish: Codec, out: &mut Step) -> Option<Vec<u8>> {
        let LegStage::Calling { offer: Some(offer), early: None } = &self.stage else {
            return None;
        };
        let mut offer = offer.clone();
        prefer(&mut offer, Some(wish));
        let answer = self.answer_offer(&offer, Direction::SendRecv, out);
        self.stage = LegStage::Calling { offer: Some(offer), early: Some(answer.clone()) };
        Some(answer)
    }

    /// Takes the peer's answer to what we offered.
    pub(super) fn take_answer(
        &mut self,
        answer: SdpSession,
        out: &mut Step,
    ) -> Result<SdpSession, SdpFault> {
        self.accept_answer(&answer, out).map_err(|error| answer.fault(error))?;
        Ok(answer)
    }

    pub(super) fn reoffer(
        &mut self,
        direction: Direction,
        exchange: PartyExchange,
        out: &mut Step,
    ) {
        let codecs = self.codecs_with(self.codec());
        self.exchange = exchange;
        self.told = direction;
        let media = self.local.offer_codecs(direction, &codecs);
        self.expect_offered(out);
        out.push(Output::Leg(LegCommand::Offer { leg: self.leg, media }));
    }
}

impl Party {
    /// Its phone rings, perhaps with early media: the codec of that.
    pub(super) fn handle_progress(
        &mut self,
        early: Option<ReadSdp>,
        out: &mut Step,
    ) -> Option<Codec> {
        self.rings = true;
        if std::mem::take(&mut self.to_be_asked) {
            out.leg(LegCommand::AskToAnswer { leg: self.leg });
        }
        if self.is_supervisor() {
            return None;
        }
        match early?.and_then(|answer| self.take_answer(answer, out)) {
            Ok(_) => self.codec(),
            // The final answer may be better.
            Err(fault) => {
                out.push(Output::Unusable { leg: self.leg, fault });
                None
            }
        }
    }

    /// Its phone has answered. `dials`: it is to call a number next.
    pub(super) fn handle_answered(
        &mut self,
        answer: ReadSdp,
        dials: bool,
        call: &CallId,
        ctx: &mut Ctx<'_>,
    ) -> Result<Answered, SdpFault> {
        let answer = self.take_answer(answer?, ctx.out)?;
        let codec = self.codec().ok_or(SdpError::Mismatch)?;
        self.hold_at_phone(answer.audio.is_hold());
        if self.link.is_some() {
            self.talk(ctx.now);
            if let Some(device) = &self.device {
                ctx.supervision.handle_leg(device, call, LegOutcome::Answered, ctx.now);
            }
            return Ok(Answered::Monitors);
        }
        if dials {
            self.stage = LegStage::Waiting;
            return Ok(Answered::Waits(codec));
        }
        self.talk(ctx.now);
        Ok(Answered::Talks(codec))
    }

    /// The device that this supervisor monitors, the agent that it coaches first.
    pub(super) fn monitored(&self) -> Option<&DeviceId> {
        self.link.as_ref().map(|link| link.coached.as_ref().unwrap_or(&link.target))
    }

    /// This other party is there now: the peer is told, where that is news and not withheld.
    pub(super) fn see(&mut self, party: Identity, out: &mut Step) {
        let before = self.sees.replace(party.number.clone());
        let is_news = before.is_some_and(|before| before != party.number);
        if is_news && !matches!(party.number.as_str(), "" | ANONYMOUS) {
            out.leg(LegCommand::Identify { leg: self.leg, party });
        }
    }

    /// The party as the others are told of it.
    pub(super) fn identity(&self) -> Identity {
        Identity { is_private: self.is_private, ..identity(&self.number, "") }
    }

    /// The party's switch calls it by a name that the configuration knows, and has answered without
    /// a word of it.
    pub(super) fn note_unnamed(&self, plan: &DialPlan, out: &mut Step) {
        let has_names = |device: &DeviceId| plan.knows_names(device);
        if !self.is_named && self.device.as_ref().is_some_and(has_names) {
            out.push(Output::Remark(Remark::Unnamed { peer: self.peer.clone() }));
        }
    }

    /// The peer's own re-INVITE: hold, retrieve, another codec, another address. `ours`: what we
    /// are willing to do; `common`: the codec of the call.
    pub(super) fn handle_offer(
        &mut self,
        offer: Option<ReadSdp>,
        ours: Direction,
        common: Option<Codec>,
        out: &mut Step,
    ) {
        let leg = self.leg;
        let ready = matches!(self.stage, LegStage::Talking | LegStage::Waiting)
            && self.exchange == PartyExchange::Idle;
        let reply = match offer {
            _ if !ready => LegCommand::RejectOffer { leg, status: 491 },
            Some(Err(fault)) => return out.extend(refuse_offer(leg, fault)),
            Some(Ok(mut offer)) => {
                let spoken = self.codec().or(common);
                prefer(&mut offer, spoken);
                // What the others would not hear is refused, and everything stays as it is.
                if let (Some((_, codec)), Some(spoken)) = (offer.audio.codecs.first(), spoken)
                    && !codec.reaches(spoken)
                {
                    return out.extend(refuse_offer(leg, offer.fault(SdpError::Codec)));
                }
                self.hold_at_phone(offer.audio.is_hold());
                LegCommand::AnswerOffer { leg, media: self.answer_offer(&offer, ours, out) }
            }
            None => {
                self.exchange = PartyExchange::AnswerDue;
                self.told = ours;
                let codecs = self.codecs_with(self.codec());
                let media = self.local.offer_codecs(ours, &codecs);
                self.expect_offered(out);
                LegCommand::AnswerOffer { leg, media }
            }
        };
        out.leg(reply);
    }

    /// The answer to an offer of ours, or none. The error: the description cannot be used.
    pub(super) fn handle_answer(
        &mut self,
        answer: Option<ReadSdp>,
        out: &mut Step,
    ) -> Result<(), SdpFault> {
        self.exchange = PartyExchange::Idle;
        let Some(answer) = answer else {
            // Within a session, no answer leaves everything as it was.
            return match self.media {
                Some(_) => {
                    self.expect_agreed(out);
                    Ok(())
                }
                None => Err(SdpError::Mismatch.into()),
            };
        };
        let answer = self.take_answer(answer?, out)?;
        // A peer that was told that we only send, or nothing, has no choice: what it answers is no
        // hold of its own.
        if self.told.sends() && self.told.receives() {
            self.hold_at_phone(answer.audio.is_hold());
        }
        Ok(())
    }

    /// Our re-INVITE was refused: the session stays as it was. False: there was none.
    pub(super) fn handle_offer_refused(&mut self, out: &mut Step) -> bool {
        let is_due = self.is_answer_due();
        if is_due {
            self.exchange = PartyExchange::Idle;
            self.expect_agreed(out);
        }
        is_due
    }

    /// Nothing comes from a phone that should send: is it still there? True: it is asked.
    pub(super) fn handle_inactive(&mut self, out: &mut Step) -> bool {
        self.is_silent = self.media.as_ref().is_some_and(|media| media.receive);
        let is_asked = self.is_talking() && self.exchange == PartyExchange::Idle && self.is_silent;
        if is_asked {
            self.reoffer(self.told, PartyExchange::Probed, out);
        }
        is_asked
    }

    /// Something comes from a phone that was silent: it is there, whatever becomes of the question.
    /// True: it was silent.
    pub(super) fn handle_active(&mut self) -> bool {
        std::mem::take(&mut self.is_silent)
    }

    /// Nothing more is sent to the peer, because nothing has come from its address.
    pub(super) fn handle_withheld(&self, out: &mut Step) {
        out.push(Output::Remark(Remark::Withheld {
            peer: self.peer.clone(),
            address: self.media.as_ref().and_then(|media| media.remote),
        }));
    }

    /// The peer of a supervisor's or a called party's phone refuses to be made to answer: it rings
    /// on.
    pub(super) fn not_made_to_answer(&self, status: u16) -> Refusal {
        let message = match status {
            408 | 503 => format!(
                "The phone of device '{}' was asked to answer and has not reacted ({status}).",
                self.number
            ),
            _ => format!(
                "The phone of device '{}' can not be made to answer ({status}). Answer at the \
                 phone.",
                self.number
            ),
        };
        Refusal::new(Reason::InvalidState, message)
    }

    /// Answers the call at the phone, as soon as the phone can be asked to.
    pub(super) fn answer(&mut self, out: &mut Step) -> Result<(), Refusal> {
        if !self.is_invited() {
            return Err(Refusal::new(Reason::InvalidState, "The call does not ring."));
        }
        if self.rings {
            out.leg(LegCommand::AskToAnswer { leg: self.leg });
        } else {
            self.to_be_asked = true;
        }
        Ok(())
    }

    pub(super) fn mute(&mut self, on: bool) -> Result<(), Refusal> {
        self.check_principal()?;
        self.check_established()?;
        if self.muted == on {
            return Err(Refusal::muted_already(on));
        }
        self.muted = on;
        Ok(())
    }

    /// Digits to every party that hears this one, supervisors excepted.
    pub(super) fn send_digits(&self, digits: &str, out: &mut Step) -> Result<(), Refusal> {
        self.check_principal()?;
        self.check_established()?;
        out.media(MediaCommand::SendDigits { leg: self.leg, digits: digits.to_owned() });
        Ok(())
    }

    /// It is no supervisor's leg.
    pub(super) fn check_principal(&self) -> Result<(), Refusal> {
        if self.is_supervisor() { Err(Refusal::supervisors_leg()) } else { Ok(()) }
    }

    pub(super) fn check_established(&self) -> Result<(), Refusal> {
        let established = self.is_talking().then_some(());
        established
            .ok_or_else(|| Refusal::new(Reason::InvalidState, "The call is not established."))
    }
}
