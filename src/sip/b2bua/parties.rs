//! The parties of a call, as a set: which of them talk, supervise, or are a device's.

use super::Output;
use super::codec_selection::first_of;
use super::leg_index::LegIndex;
use super::party::{LegStage, Party, PartyExchange, ReadSdp, Release};
use super::step::{Ctx, Step};
use crate::media::Codec;
use crate::model::{DeviceId, Now};
use crate::sip::leg::{LegCommand, LegId};
use crate::sip::sdp::Direction;

/// The parties of a call, in the order in which they came; those that have left stay listed.
pub(super) struct Parties {
    pub(super) list: Vec<Party>,
}

impl Parties {
    pub(super) fn new(first: Party) -> Self {
        Self { list: vec![first] }
    }

    pub(super) fn iter(&self) -> impl DoubleEndedIterator<Item = &Party> {
        self.list.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Party> {
        self.list.iter_mut()
    }

    pub(super) fn push(&mut self, party: Party) {
        self.list.push(party);
    }

    /// Takes out those that fit.
    pub(super) fn extract(&mut self, fits: impl FnMut(&mut Party) -> bool) -> Vec<Party> {
        self.list.extract_if(.., fits).collect()
    }

    pub(super) fn is_over(&self) -> bool {
        self.list.iter().all(Party::is_over)
    }

    pub(super) fn get(&self, leg: LegId) -> Option<&Party> {
        self.list.iter().find(|party| party.leg == leg)
    }

    pub(super) fn get_mut(&mut self, leg: LegId) -> Option<&mut Party> {
        self.list.iter_mut().find(|party| party.leg == leg)
    }

    pub(super) fn of_device(&mut self, device: &DeviceId) -> Option<&mut Party> {
        self.list.iter_mut().find(|party| party.device.as_ref() == Some(device) && !party.is_over())
    }

    /// A device has a leg here that has not ended.
    pub(super) fn has(&self, device: &DeviceId) -> bool {
        self.list.iter().any(|party| party.device.as_ref() == Some(device) && !party.is_over())
    }

    pub(super) fn supervisor(&mut self, device: &DeviceId) -> Option<&mut Party> {
        self.of_device(device).filter(|party| party.is_supervisor())
    }

    /// The devices of the supervisors that are on the call, or called to it.
    pub(super) fn supervisors(&self) -> impl Iterator<Item = &DeviceId> {
        let here = self.list.iter().filter(|party| !party.is_over() && party.is_supervisor());
        here.filter_map(|party| party.device.as_ref())
    }

    /// How many legs it has.
    pub(super) fn live(&self) -> usize {
        self.list.iter().filter(|party| !party.is_over()).count()
    }

    /// Everybody on the call but the supervisors.
    pub(super) fn principals(&self) -> impl Iterator<Item = &Party> {
        self.list.iter().filter(|party| !party.is_over() && !party.is_supervisor())
    }

    /// The other principals.
    pub(super) fn others(&self, leg: LegId) -> impl Iterator<Item = &Party> {
        self.principals().filter(move |party| party.leg != leg)
    }

    /// The codec that most of the call speaks: what a newcomer is offered first, so that nothing
    /// needs to be converted.
    pub(super) fn codec(&self) -> Option<Codec> {
        self.principals().find_map(Party::codec)
    }

    /// The call is in a codec that is only relayed: nobody can be mixed into it.
    pub(super) fn is_relayed(&self) -> bool {
        self.codec().is_some_and(|codec| !codec.is_mixable())
    }

    /// Whether the others may come to hear what this party says in a codec.
    pub(super) fn hear(&self, leg: LegId, codec: Codec) -> bool {
        self.others(leg).all(|other| other.reaches(codec))
    }

    /// Whether no party has ruled out annex B of G.729.
    pub(super) fn have_annex_b(&self) -> bool {
        self.principals().all(Party::has_annex_b)
    }

    /// What one party has ruled out of G.729 is said to every other from now on.
    pub(super) fn share_annex_b(&mut self) {
        let annex_b = self.have_annex_b();
        self.list.iter_mut().for_each(|party| party.local.limit_annex_b(annex_b));
    }

    /// One of its phones is silent and is asked whether it is there: the call may be dead.
    pub(super) fn is_probed(&self) -> bool {
        let waits = |party: &Party| {
            matches!(party.exchange, PartyExchange::Probed | PartyExchange::Offered)
        };
        self.principals().any(|party| party.is_silent && waits(party))
    }

    /// One party is left, and a supervisor that may keep it company.
    pub(super) fn is_accompanied(&self) -> bool {
        let joined = |party: &Party| {
            party.is_talking() && party.link.as_ref().is_some_and(|link| link.joined)
        };
        self.principals().count() == 1
            && self.principals().all(Party::is_talking)
            && self.list.iter().any(joined)
    }

    /// A party that was silenced by a supervisor that has left is heard again: nobody else could
    /// let it speak.
    pub(super) fn lift_mutes(&mut self) {
        let joined = |party: &Party| {
            party.is_talking() && party.link.as_ref().is_some_and(|link| link.joined)
        };
        let here: Vec<DeviceId> = self
            .list
            .iter()
            .filter(|party| joined(party))
            .filter_map(|party| party.device.clone())
            .collect();
        for party in &mut self.list {
            party.muted_by.take_if(|supervisor| !here.contains(supervisor));
        }
    }

    /// Forgets that a device was on this call before: it comes again, and one entry for each is
    /// enough.
    pub(super) fn forget_earlier(&mut self, device: &DeviceId, index: &mut LegIndex) -> Vec<Party> {
        let is_gone = |party: &mut Party| party.is_over() && party.device.as_ref() == Some(device);
        let gone: Vec<Party> = self.list.extract_if(.., is_gone).collect();
        for party in &gone {
            index.forget(party.leg, &party.peer);
        }
        gone
    }

    /// The device of the party of a leg.
    pub(super) fn device_of(&self, leg: LegId) -> Option<DeviceId> {
        self.get(leg)?.device.clone()
    }

    /// The party of a device that has not left.
    pub(super) fn of(&self, device: &DeviceId) -> Option<&Party> {
        let is_devices = |party: &&Party| party.device.as_ref() == Some(device);
        self.list.iter().filter(is_devices).find(|party| !party.is_over())
    }

    /// A leg is here that has not ended.
    pub(super) fn is_live(&self, leg: LegId) -> bool {
        self.list.iter().any(|party| party.leg == leg && !party.is_over())
    }

    /// Every party that called is on the call from now on.
    pub(super) fn establish(&mut self, now: Now) {
        for party in &mut self.list {
            if matches!(party.stage, LegStage::Calling { .. } | LegStage::Waiting) {
                party.talk(now);
            }
        }
    }

    /// A 1xx to every party that calls, with early media if the callee has a codec by now.
    pub(super) fn ring_callers(&mut self, status: u16, codec: Option<Codec>, out: &mut Step) {
        self.share_annex_b();
        let codec = codec.filter(|codec| self.principals().all(|party| party.reaches(*codec)));
        for caller in &mut self.list {
            let media = codec.and_then(|codec| caller.answer_early(codec, out));
            if matches!(caller.stage, LegStage::Calling { .. }) {
                out.leg(LegCommand::Provisional { leg: caller.leg, status, media });
            }
        }
    }

    /// A party's own re-INVITE.
    pub(super) fn handle_offer(&mut self, leg: LegId, offer: Option<ReadSdp>, ctx: &mut Ctx<'_>) {
        self.share_annex_b();
        let ours = self.get(leg).map(|party| self.direction_toward(party));
        let common = self.codec();
        if let Some((party, ours)) = self.get_mut(leg).zip(ours) {
            party.handle_offer(offer, ours, common, ctx.out);
        }
    }

    /// Another leg takes the place of this one. The party that had it is returned.
    pub(super) fn replace(
        &mut self,
        replaced: LegId,
        mut party: Party,
        out: &mut Step,
    ) -> Option<Party> {
        let place = self.get_mut(replaced)?;
        party.muted = place.muted;
        party.muted_by = place.muted_by.take();
        let mut left = std::mem::replace(place, party);
        left.end(Release::Hangup(None), out);
        Some(left)
    }

    /// 200 to every party that called, with the callee's codec.
    pub(super) fn answer_callers(&mut self, wish: Codec, out: &mut Step) {
        self.share_annex_b();
        for party in &mut self.list {
            let early = party.answer_early(wish, out);
            let media = match &party.stage {
                LegStage::Calling { early: Some(first), .. } => {
                    early.unwrap_or_else(|| first.clone())
                }
                LegStage::Calling { early: None, .. } => {
                    party.exchange = PartyExchange::AnswerDue;
                    party.local.offer_codecs(
                        Direction::SendRecv,
                        &party.may_use(&first_of(&[wish], &party.policy.codecs)),
                    )
                }
                LegStage::Invited | LegStage::Waiting | LegStage::Talking | LegStage::Over => {
                    continue;
                }
            };
            out.push(Output::Leg(LegCommand::Accept { leg: party.leg, media }));
        }
    }

    /// The legs of supervisors of the one call that talk on the other: of what comes of the two
    /// they are parties, and no supervisors.
    pub(super) fn supervised_by_parties_of(&self, other: &Parties) -> Vec<LegId> {
        let mut legs = Vec::new();
        for (parties, other) in [(self, other), (other, self)] {
            let supervisors =
                parties.list.iter().filter(|party| !party.is_over() && party.is_supervisor());
            let is_party = |party: &&Party| {
                party.device.is_some()
                    && other.principals().any(|principal| principal.device == party.device)
            };
            legs.extend(supervisors.filter(is_party).map(|party| party.leg));
        }
        legs
    }
}
