//! Conferences: further parties, and how one is taken out again.

use super::call::Call;
use super::parties::Parties;
use super::party::Release;
use super::step::Ctx;
use crate::model::{Number, Reason, Refusal};
use crate::sip::leg::LegId;
use crate::supervision::LegOutcome;

/// More parties than a listener follows; the media engine has places for supervisors beside them.
pub(super) const MOST_PARTIES: usize = 8;

impl Call {
    /// Releases another party of a conference: its owner may, and a supervisor that monitors it.
    pub(super) fn remove_participant(
        &mut self,
        by: LegId,
        is_allowed: bool,
        participant: &Number,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), Refusal> {
        if self.parties.principals().count() < 3 {
            return Err(Refusal::new(Reason::InvalidState, "The call is not a conference."));
        }
        if !is_allowed {
            let message = "Only who made the conference, or monitors it, can remove a participant.";
            return Err(Refusal::new(Reason::NotPermitted, message));
        }
        let leg = self.parties.participant(by, participant)?;
        self.transfer.take_if(|transfer| transfer.to == leg);
        self.leave(leg, Release::Hangup(None), LegOutcome::HungUp, ctx);
        Ok(())
    }
}

impl Parties {
    /// The leg of the one other party that has this number.
    fn participant(&self, by: LegId, number: &Number) -> Result<LegId, Refusal> {
        let mut named = self.others(by).filter(|party| party.number == *number);
        match (named.next(), named.next()) {
            (Some(found), None) => Ok(found.leg),
            (None, _) => Err(Refusal::not_found(format_args!("participant {number}"))),
            (Some(_), Some(_)) => {
                let message = format!("Several participants have the number '{number}'.");
                Err(Refusal::new(Reason::InvalidState, message))
            }
        }
    }
}
