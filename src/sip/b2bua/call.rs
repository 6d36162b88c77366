//! A call: a set of legs with roles.

use super::consultation::Consultation;
use super::routing::Trail;
use super::session::media_of;
use super::transfer::Transfer;
use super::whereabouts::{Aim, Whereabouts};
use super::{MediaPolicy, Output};
use crate::media::srtp::Keys;
use crate::media::{CallKey, Codec, Gain, Hearing, HearingRole, HearingRules, LegMedia, MediaCommand, SourceRule};
use crate::model::{Activity, CallFact, CallId, CallType, DeviceId, LegState, Now, Number, PartyFact, PartyRole, Quality, Timestamp};
use crate::sip::leg::{Identity, LegCommand, LegId, LegSource, PassedHeader};
use crate::sip::sdp::{Agreed, Direction, Local, SdpError, SdpSession};
use std::time::Instant;

pub(super) struct Call {
    pub(super) key: CallKey,
    pub(super) id: CallId,
    pub(super) conn_id: String,
    /// What it is when it is not made to ask about another.
    pub(super) call_type: CallType,
    pub(super) ani: Number,
    pub(super) dnis: Number,
    pub(super) started_at: Timestamp,
    pub(super) parties: Vec<Party>,
    /// The number to call once the phone of whoever dialled is there.
    pub(super) dials: Option<Number>,
    /// The request that dialled waits for its destination: told when it fails.
    pub(super) dialler: Option<DeviceId>,
    /// Why the callee could not be had: what the caller is told.
    pub(super) refusal: Option<u16>,
    /// The media engine caught a packet where it must not be. Supervisors are heard by nobody from then on.
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

/// One party and its leg.
pub(super) struct Party {
    pub(super) leg: LegId,
    /// Whose leg it is: what counts against how many calls he may have.
    pub(super) peer: LegSource,
    pub(super) device: Option<DeviceId>,
    pub(super) number: Number,
    /// What the peer calls the party, when that is another name than its number.
    pub(super) known_as: Vec<Number>,
    /// The peer has said who is at its end.
    pub(super) is_named: bool,
    /// The party has left, and its leg was handed on to this number.
    pub(super) handed_on_to: Option<Number>,
    pub(super) role: PartyRole,
    pub(super) policy: MediaPolicy,
    /// Where its signalling comes from, once something has come.
    pub(super) place: Option<Whereabouts>,
    pub(super) stage: LegStage,
    /// His phone has answered our INVITE with a 1xx: there is a dialog in which it can be asked something.
    pub(super) rings: bool,
    /// He is to answer as soon as his phone can be asked to.
    pub(super) to_be_asked: bool,
    pub(super) muted: bool,
    /// The supervisor who has silenced him toward the others, while that one is on the call.
    pub(super) muted_by: Option<DeviceId>,
    pub(super) held_by_command: bool,
    /// His phone has put us on hold.
    pub(super) held_by_phone: bool,
    pub(super) established_at: Option<Timestamp>,
    pub(super) local: Local,
    /// What the engine was told of this leg.
    pub(super) media: Option<LegMedia>,
    /// The engine was told besides what may come while an offer of ours waits.
    pub(super) expecting: bool,
    /// What the engine was told of its addresses besides.
    pub(super) rule: SourceRule,
    /// The keys of its SRTP that the engine was told with it.
    pub(super) keys: Option<Box<Keys>>,
    /// The way media may flow, as he was told last.
    pub(super) told: Direction,
    pub(super) exchange: PartyExchange,
    /// Nothing has come from it for a while, and nothing has come since.
    pub(super) is_silent: bool,
    pub(super) link: Option<MonitorLink>,
    /// Who was shown to him as calling, when he was called.
    pub(super) shown: Option<Identity>,
    /// The way that led to him, when he was called.
    pub(super) trail: Trail,
    /// How his sound fared by the last report.
    pub(super) quality: Option<Quality>,
}

/// How far a leg is.
#[derive(Debug)]
pub(super) enum LegStage {
    /// He calls, and has no answer yet.
    Calling {
        /// His offer, if his INVITE had one.
        offer: Option<Box<SdpSession>>,
        /// The answer he was given with early media: it stays the same (RFC 3261 13.3.1).
        early: Option<Vec<u8>>,
    },
    /// He is called.
    Invited,
    /// His phone is there, and the party he dialled is not.
    Waiting,
    /// He is on the call.
    Talking,
    /// His leg has ended.
    Over,
}

/// Offer and answer on a leg that is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PartyExchange {
    /// None is open.
    Idle,
    /// Our re-INVITE waits for its answer.
    Offered,
    /// The same, only to see whether he is still there: nothing about the session is in doubt.
    Probed,
    /// Our 2xx carried the offer; the ACK brings the answer.
    AnswerDue,
}

/// What makes a party a supervisor's.
pub(super) struct MonitorLink {
    pub(super) target: DeviceId,
    /// What he does or is about to do.
    pub(super) activity: Activity,
    /// He is on the call; `coached` as the monitor says, before our own doubts.
    pub(super) joined: bool,
    pub(super) coached: Option<DeviceId>,
    /// The agent has left, and he is to take his place.
    pub(super) takeover: bool,
    /// He hears agents only.
    pub(super) agent_side_only: bool,
}

/// How a leg is ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Release {
    /// It is gone already.
    Gone,
    /// CANCEL or BYE.
    Hangup(Option<(u16, &'static str)>),
}

/// What of the configuration decides who hears whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rules {
    pub(super) monitor_party_on_hold: bool,
    pub(super) supervisors_hear_each_other: bool,
    pub(super) agent_side_only: bool,
    pub(super) whisper: Gain,
    pub(super) duck: Gain,
}

impl Party {
    /// The party of a leg of which nothing has been heard yet.
    pub(super) fn new(leg: LegId, peer: LegSource, named: (Number, PartyRole), policy: MediaPolicy, stage: LegStage, local: Local) -> Self {
        let (number, role) = named;
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
            is_named: false,
            handed_on_to: None,
            role,
            policy,
            place: None,
            stage,
            rings: false,
            to_be_asked: false,
            muted: false,
            muted_by: None,
            held_by_command: false,
            held_by_phone: false,
            established_at: None,
            local,
            media: None,
            expecting: false,
            rule: SourceRule::default(),
            keys: None,
            told: Direction::SendRecv,
            exchange: PartyExchange::Idle,
            is_silent: false,
            link: None,
            shown: None,
            trail: Trail::default(),
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

    pub(super) fn is_held(&self) -> bool {
        self.held_by_command || self.held_by_phone
    }

    pub(super) fn is_supervisor(&self) -> bool {
        self.role == PartyRole::Supervisor
    }

    /// Something about this leg is being agreed: who is where is not certain until it is.
    pub(super) fn in_doubt(&self) -> bool {
        matches!(self.exchange, PartyExchange::Offered | PartyExchange::AnswerDue)
    }

    pub(super) fn codec(&self) -> Option<Codec> {
        self.media.as_ref().map(|media| media.codec)
    }

    /// Answers an offer of the peer's, and tells the engine what that comes to.
    pub(super) fn answer_offer(&mut self, offer: &SdpSession, ours: Direction, outputs: &mut Vec<Output>) -> Vec<u8> {
        let (answer, agreed) = self.local.answer(offer, ours);
        self.told = ours;
        self.describe(agreed, outputs);
        answer
    }

    /// Takes the peer's answer to what we offered.
    pub(super) fn accept_answer(&mut self, answer: &SdpSession, outputs: &mut Vec<Output>) -> Result<(), SdpError> {
        let agreed = self.local.accept(answer)?;
        self.describe(agreed, outputs);
        Ok(())
    }

    fn describe(&mut self, agreed: Agreed, outputs: &mut Vec<Output>) {
        let aim = Aim::at(&self.policy.reach, self.place, agreed.remote, agreed.remote_rtcp);
        let media = media_of(&agreed, &aim);
        if self.rule != aim.rule {
            self.rule = aim.rule;
            outputs.push(Output::Media(MediaCommand::Sources {
                leg: self.leg,
                rule: aim.rule,
            }));
        }
        let expecting = std::mem::take(&mut self.expecting);
        if self.media.as_ref() != Some(&media) || self.keys != agreed.srtp || expecting {
            self.keys.clone_from(&agreed.srtp);
            outputs.extend(aim.remark(&self.policy.reach, &self.peer, self.place, &agreed).map(Output::Remark));
            outputs.push(Output::Media(MediaCommand::Describe {
                leg: self.leg,
                media,
                srtp: agreed.srtp,
            }));
            self.media = Some(media);
        }
    }

    /// We have made an offer: what it lists may come before its answer does.
    pub(super) fn expect_offered(&mut self, outputs: &mut Vec<Output>) {
        let Some(media) = &self.media else { return };
        let receives = self.local.expected(media.receives);
        if receives != media.receives {
            self.expecting = true;
            self.tell_media(LegMedia { receives, ..*media }, outputs);
        }
    }

    /// It has come to nothing: the session stays as it was.
    pub(super) fn expect_agreed(&mut self, outputs: &mut Vec<Output>) {
        if let (true, Some(media)) = (std::mem::take(&mut self.expecting), self.media) {
            self.tell_media(media, outputs);
        }
    }

    fn tell_media(&self, media: LegMedia, outputs: &mut Vec<Output>) {
        outputs.push(Output::Media(MediaCommand::Describe {
            leg: self.leg,
            media,
            srtp: self.keys.clone(),
        }));
    }

    pub(super) fn end(&mut self, release: Release, releases: &mut Vec<Output>) {
        let was = std::mem::replace(&mut self.stage, LegStage::Over);
        let command = match (was, release) {
            (LegStage::Over, _) => return,
            (_, Release::Gone) => None,
            (LegStage::Calling { .. }, Release::Hangup(reason)) => Some(LegCommand::Reject {
                leg: self.leg,
                status: reason.map_or(480, |(status, _)| status),
            }),
            (LegStage::Invited | LegStage::Waiting | LegStage::Talking, Release::Hangup(reason)) => {
                Some(LegCommand::Hangup { leg: self.leg, reason })
            }
        };
        self.exchange = PartyExchange::Idle;
        self.media = None;
        self.keys = None;
        if let Some(link) = &mut self.link {
            link.joined = false;
        }
        releases.extend(command.map(Output::Leg));
        releases.push(Output::Media(MediaCommand::Close { leg: self.leg }));
    }

    fn state(&self) -> LegState {
        match self.stage {
            LegStage::Calling { .. } | LegStage::Waiting => LegState::Dialing,
            LegStage::Invited => LegState::Ringing,
            LegStage::Talking if self.is_held() => LegState::Held,
            LegStage::Talking => LegState::Established,
            LegStage::Over => LegState::Released,
        }
    }

    fn fact(&self) -> PartyFact {
        PartyFact {
            device: self.device.clone(),
            number: self.number.clone(),
            role: self.role,
            state: self.state(),
            muted: self.muted,
            muted_by_supervisor: self.muted_by.is_some(),
            activity: self.link.as_ref().map(|link| link.activity),
            monitors: self.link.as_ref().map(|link| link.coached.as_ref().unwrap_or(&link.target).clone()),
            established_at: self.established_at,
            quality: None,
            handed_on_to: self.handed_on_to.clone(),
        }
    }
}

impl Call {
    /// Its fact with how the sound of each party fares.
    pub(super) fn measured(&self, mut fact: CallFact) -> CallFact {
        for (told, party) in fact.parties.iter_mut().zip(&self.parties) {
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
            call_type: if self.consult.is_some() {
                CallType::Consult
            } else {
                self.call_type
            },
            ani: self.ani.clone(),
            dnis: self.dnis.clone(),
            started_at: self.started_at,
            parent: self.consult.as_ref().map(|consult| consult.call.clone()),
            owner: self.owner.clone(),
            parties,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.parties.iter().all(Party::is_over)
    }

    pub(super) fn party(&self, leg: LegId) -> Option<&Party> {
        self.parties.iter().find(|party| party.leg == leg)
    }

    pub(super) fn party_mut(&mut self, leg: LegId) -> Option<&mut Party> {
        self.parties.iter_mut().find(|party| party.leg == leg)
    }

    pub(super) fn of_device(&mut self, device: &DeviceId) -> Option<&mut Party> {
        self.parties
            .iter_mut()
            .find(|party| party.device.as_ref() == Some(device) && !party.is_over())
    }

    /// A device has a leg here that has not ended.
    pub(super) fn has(&self, device: &DeviceId) -> bool {
        self.parties
            .iter()
            .any(|party| party.device.as_ref() == Some(device) && !party.is_over())
    }

    pub(super) fn supervisor(&mut self, device: &DeviceId) -> Option<&mut Party> {
        self.of_device(device).filter(|party| party.is_supervisor())
    }

    /// The devices of the supervisors who are on the call, or called to it.
    pub(super) fn supervisors(&self) -> impl Iterator<Item = &DeviceId> {
        let here = self.parties.iter().filter(|party| !party.is_over() && party.is_supervisor());
        here.filter_map(|party| party.device.as_ref())
    }

    /// How many legs it has.
    pub(super) fn live(&self) -> usize {
        self.parties.iter().filter(|party| !party.is_over()).count()
    }

    /// Everybody on the call but the supervisors.
    pub(super) fn principals(&self) -> impl Iterator<Item = &Party> {
        self.parties.iter().filter(|party| !party.is_over() && !party.is_supervisor())
    }

    /// One of its phones is silent and is asked whether it is there: the call may be dead.
    pub(super) fn is_probed(&self) -> bool {
        let waits = |party: &Party| matches!(party.exchange, PartyExchange::Probed | PartyExchange::Offered);
        self.principals().any(|party| party.is_silent && waits(party))
    }

    /// The codec that most of the call speaks: what a newcomer is offered first, so that nothing needs to be converted.
    pub(super) fn codec(&self) -> Option<Codec> {
        self.principals().find_map(Party::codec)
    }

    /// What we are willing to do on a leg, given that the others may hold him. Without `signal` he is not told: he keeps sending, and
    /// a supervisor goes on hearing him.
    pub(super) fn direction_toward(&self, leg: LegId, signal: bool) -> Direction {
        if !signal || self.party(leg).is_none_or(Party::is_supervisor) {
            return Direction::SendRecv;
        }
        let mut others = self.principals().filter(|party| party.leg != leg && party.is_talking()).peekable();
        let held = others.peek().is_some() && others.all(Party::is_held);
        if held { Direction::SendOnly } else { Direction::SendRecv }
    }

    /// Two talk, or may come to talk.
    pub(super) fn goes_on(&self) -> bool {
        let principals = self.principals().count();
        principals >= 2 || principals == 1 && self.dials.is_some()
    }

    /// One is left, and a supervisor who may keep him company.
    pub(super) fn is_accompanied(&self) -> bool {
        let joined = |party: &Party| party.is_talking() && party.link.as_ref().is_some_and(|link| link.joined);
        self.principals().count() == 1 && self.principals().all(Party::is_talking) && self.parties.iter().any(joined)
    }

    pub(super) fn end_everybody(&mut self, reason: Option<(u16, &'static str)>, releases: &mut Vec<Output>) {
        let status = self.refusal.unwrap_or(480);
        for party in &mut self.parties {
            let release = match party.stage {
                LegStage::Calling { .. } => Release::Hangup(Some((status, ""))),
                LegStage::Invited | LegStage::Waiting | LegStage::Talking | LegStage::Over => Release::Hangup(reason),
            };
            party.end(release, releases);
        }
        self.dials = None;
    }

    /// The callee is there: everybody who called him is on the call from now on.
    pub(super) fn establish(&mut self, now: Now) {
        for party in &mut self.parties {
            if matches!(party.stage, LegStage::Calling { .. } | LegStage::Waiting) {
                party.stage = LegStage::Talking;
                party.established_at = Some(now.wall);
            }
        }
        self.dials = None;
        self.dialler = None;
    }

    /// Who hears whom, from nothing but the parties as they are now.
    pub(super) fn hearing(&self, rules: Rules) -> Hearing {
        let audible: Vec<&Party> = self.parties.iter().filter(|party| self.is_audible(party)).collect();
        let roles: Vec<(LegId, HearingRole)> = audible.iter().map(|party| (party.leg, self.hearing_role(party, rules))).collect();
        let mut hearing = Hearing::with(
            &roles,
            HearingRules {
                supervisors_hear_each_other: rules.supervisors_hear_each_other,
                whisper: rules.whisper,
                duck: rules.duck,
            },
        );
        for party in &audible {
            for other in audible.iter().filter(|other| other.leg != party.leg) {
                if !self.may_hear(party, other, rules) {
                    hearing = hearing.cell(party.leg, other.leg, None);
                }
            }
        }
        hearing
    }

    fn is_audible(&self, party: &Party) -> bool {
        if party.is_over() || party.media.is_none() {
            return false;
        }
        party.link.as_ref().is_none_or(|link| link.joined && party.is_talking())
    }

    fn hearing_role(&self, party: &Party, rules: Rules) -> HearingRole {
        match (&party.link, party.role) {
            (Some(link), _) if self.takes_over(party, link) => HearingRole::Agent,
            (Some(link), _) => HearingRole::Supervisor {
                activity: link.activity,
                coached: self.coached(party, link),
                agent_side_only: rules.agent_side_only || link.agent_side_only,
            },
            (None, PartyRole::Agent) => HearingRole::Agent,
            (None, PartyRole::Customer | PartyRole::Supervisor) => HearingRole::Customer,
        }
    }

    /// Alone with the customer, he is the agent.
    fn takes_over(&self, supervisor: &Party, link: &MonitorLink) -> bool {
        let mut principals = self.principals();
        let alone = principals
            .next()
            .is_some_and(|last| last.role == PartyRole::Customer && last.is_talking() && !last.in_doubt())
            && principals.next().is_none();
        link.takeover && link.activity == Activity::BargeIn && alone && !supervisor.in_doubt() && !self.distrusted
    }

    /// The leg of the coached agent, unless anything about it is in doubt.
    fn coached(&self, supervisor: &Party, link: &MonitorLink) -> Option<LegId> {
        let device = link.coached.as_ref()?;
        let agent = self.principals().find(|party| {
            party.device.as_ref() == Some(device) && party.role == PartyRole::Agent && party.is_talking() && party.media.is_some()
        })?;
        let doubt = match link.activity {
            Activity::ListenIn | Activity::Coach => agent.in_doubt(),
            Activity::BargeIn => self.principals().any(Party::in_doubt),
        };
        (!doubt && !supervisor.in_doubt() && !self.distrusted).then_some(agent.leg)
    }

    /// What holds and mutes take away from the table.
    fn may_hear(&self, listener: &Party, speaker: &Party, rules: Rules) -> bool {
        if speaker.muted || speaker.muted_by.is_some() && !listener.is_supervisor() {
            return false;
        }
        // RFC 3264 8.4: a supervisor's phone that holds does not listen, and what it plays meanwhile is for nobody.
        if speaker.is_supervisor() && speaker.held_by_phone {
            return false;
        }
        match (listener.is_supervisor(), speaker.is_supervisor()) {
            (false, false) => !listener.held_by_command && !speaker.held_by_command,
            (true, false) => rules.monitor_party_on_hold || !self.is_on_hold(speaker),
            // One who takes over is an agent to the engine, but still a supervisor to the others.
            (true, true) => rules.supervisors_hear_each_other,
            (false, true) => self.may_hear_supervisor(listener, speaker),
        }
    }

    /// Whoever is on hold hears no supervisor, nor does a phone that only rings. The coached agent does, whoever holds whom: the two keep
    /// talking.
    fn may_hear_supervisor(&self, listener: &Party, supervisor: &Party) -> bool {
        if !listener.is_talking() {
            return false;
        }
        let coached = supervisor.link.as_ref().and_then(|link| self.coached(supervisor, link));
        if coached == Some(listener.leg) {
            return true;
        }
        let agent_holds = self.principals().any(|party| Some(party.leg) == coached && party.is_held());
        !agent_holds && !listener.is_held() && !self.is_on_hold(listener)
    }

    fn is_on_hold(&self, party: &Party) -> bool {
        let mut others = self
            .principals()
            .filter(|other| other.leg != party.leg && other.is_talking())
            .peekable();
        others.peek().is_some() && others.all(Party::is_held)
    }

    /// Whoever was silenced by a supervisor who has left is heard again: nobody else could let him speak.
    pub(super) fn lift_mutes(&mut self) {
        let joined = |party: &Party| party.is_talking() && party.link.as_ref().is_some_and(|link| link.joined);
        let here: Vec<DeviceId> = self
            .parties
            .iter()
            .filter(|party| joined(party))
            .filter_map(|party| party.device.clone())
            .collect();
        for party in &mut self.parties {
            party.muted_by.take_if(|supervisor| !here.contains(supervisor));
        }
    }

    /// Forgets that a device was on this call before: it comes again, and one entry for each is enough.
    pub(super) fn forget_earlier(&mut self, device: &DeviceId) -> Vec<Party> {
        let is_gone = |party: &mut Party| party.is_over() && party.device.as_ref() == Some(device);
        self.parties.extract_if(.., is_gone).collect()
    }
}
