//! Conferences: further parties, and how one is taken out again.

use super::call::Call;
use super::party::Release;
use super::step::Ctx;
use crate::model::{DeviceId, Number, Reason, Refusal};
use crate::supervision::LegOutcome;

/// More parties than a listener follows; the media engine has places for supervisors beside them.
pub(super) const MOST_PARTIES: usize = 8;

impl Call {
    /// Releases another party of a conference: its owner may, and a supervisor that monitors it.
    pub(super) fn remove_participant(
        &mut self,
        device: &DeviceId,
        participant: &Number,
        ctx: &mut Ctx<'_>,
    ) -> Result<(), Refusal> {
        let party = self.party_on(device)?;
        let (leg, joined) = (party.leg, party.link.as_ref().is_some_and(|link| link.joined));
        if self.parties.principals().count() < 3 {
            return Err(Refusal::new(Reason::InvalidState, "The call is not a conference."));
        }
        if !joined && self.owner.as_ref() != Some(device) {
            let message = "Only who made the conference, or monitors it, can remove a participant.";
            return Err(Refusal::new(Reason::NotPermitted, message));
        }
        let mut named = self.parties.others(leg).filter(|party| party.number == *participant);
        let (leg, is_called) = match (named.next(), named.next()) {
            (Some(found), None) => (found.leg, found.is_invited()),
            (None, _) => {
                return Err(Refusal::not_found(format_args!("participant {participant}")));
            }
            (Some(_), Some(_)) => {
                let message = format!("Several participants have the number '{participant}'.");
                return Err(Refusal::new(Reason::InvalidState, message));
            }
        };
        drop(named);
        if is_called {
            self.transfer.take_if(|transfer| transfer.to == leg);
        }
        self.leave(leg, Release::Hangup(None), LegOutcome::HungUp, ctx);
        Ok(())
    }
}
