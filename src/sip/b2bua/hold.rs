//! Hold and retrieve.
//!
//! A party holds by command or by its phone, which then says so in an offer of its own (RFC 3264
//! 8.4). The media engine is told through the [hearing](super::hearing_policy); the phones of the
//! others are told with a re-INVITE where the configuration wishes it.

use super::call::Call;
use super::parties::Parties;
use super::party::{Party, PartyExchange};
use super::step::Ctx;
use crate::model::{Reason, Refusal};
use crate::sip::leg::LegId;
use crate::sip::sdp::Direction;

impl Party {
    pub(super) fn hold(&mut self, on: bool) -> Result<(), Refusal> {
        self.check_established()?;
        if self.is_supervisor() {
            return Err(Refusal::new(
                Reason::InvalidState,
                "A supervisor does not hold the call he monitors.",
            ));
        }
        match (on, self.held_by_command, self.held_by_phone) {
            (true, false, false) | (false, true, _) => {
                self.held_by_command = on;
                Ok(())
            }
            (true, _, _) => Err(Refusal::new(Reason::InvalidState, "The call is already held.")),
            (false, false, true) => {
                Err(Refusal::new(Reason::InvalidState, "The call is held at the phone."))
            }
            (false, false, false) => {
                Err(Refusal::new(Reason::InvalidState, "The call is not held."))
            }
        }
    }
}

impl Parties {
    /// What we are willing to do on a leg, given that the others may hold it. Without `signal` it
    /// is not told: it keeps sending, and a supervisor goes on hearing it.
    pub(super) fn direction_toward(&self, leg: LegId, signal: bool) -> Direction {
        if !signal || self.get(leg).is_none_or(Party::is_supervisor) {
            return Direction::SendRecv;
        }
        let mut others =
            self.principals().filter(|party| party.leg != leg && party.is_talking()).peekable();
        let held = others.peek().is_some() && others.all(Party::is_held);
        if held { Direction::SendOnly } else { Direction::SendRecv }
    }

    /// Every other party that talks holds.
    pub(super) fn is_on_hold(&self, party: &Party) -> bool {
        let mut others = self
            .principals()
            .filter(|other| other.leg != party.leg && other.is_talking())
            .peekable();
        others.peek().is_some() && others.all(Party::is_held)
    }
}

impl Call {
    /// Tells the others of a hold, where that is wished for.
    pub(super) fn signal_hold(&mut self, ctx: &mut Ctx<'_>) {
        let is_ready = |party: &&Party| {
            party.is_talking() && party.exchange == PartyExchange::Idle && party.media.is_some()
        };
        let directions: Vec<(LegId, Direction)> = self
            .parties
            .principals()
            .filter(is_ready)
            .map(|party| {
                (party.leg, self.parties.direction_toward(party.leg, ctx.config.signal_hold))
            })
            .collect();
        let mut is_told = false;
        for (leg, direction) in directions {
            if let Some(party) = self.parties.get_mut(leg).filter(|party| party.told != direction) {
                party.reoffer(direction, PartyExchange::Offered, ctx.out);
                is_told = true;
            }
        }
        if is_told {
            self.update_hearing(ctx);
        }
    }
}
