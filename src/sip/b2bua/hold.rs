//! Hold and retrieve.
//!
//! A party holds by command or by its phone, which then says so in an offer of its own (RFC 3264
//! 8.4). The media engine is told through the [hearing](super::hearing_policy); the phones of the
//! others are told with a re-INVITE where the configuration wishes it.

use super::call::Call;
use super::parties::Parties;
use super::party::{MonitorLink, Party, PartyExchange};
use super::step::{Ctx, Step};
use super::{B2bua, Environment};
use crate::media::{Hearing, MediaCommand};
use crate::model::{CallId, DeviceId, LegState, Now, PartyRole, Reason, Refusal, Subject};
use crate::sip::leg::LegId;
use crate::sip::sdp::Direction;

impl<E: Environment> B2bua<E> {
    /// Holds the one of a device's two calls that it talks on, and takes the other back. Neither is
    /// looked at before both are known to be such: a refusal has changed nothing.
    pub(super) fn swap_calls(
        &mut self,
        device: &DeviceId,
        call: &CallId,
        other: &CallId,
        now: Now,
    ) -> Result<(), Refusal> {
        let one = self.calls.named(call)?.principal_of(device)?;
        let two = self.calls.named(other)?.principal_of(device)?;
        let (talks, holds) = match (one.state(), two.state()) {
            (LegState::Established, LegState::Held) => ((call, one), (other, two)),
            (LegState::Held, LegState::Established) => ((other, two), (call, one)),
            (
                LegState::Established | LegState::Held,
                LegState::Established
                | LegState::Held
                | LegState::Dialing
                | LegState::Ringing
                | LegState::Released,
            ) => return Err(not_swapped(other)),
            (LegState::Dialing | LegState::Ringing | LegState::Released, _) => {
                return Err(not_swapped(call));
            }
        };
        if holds.1.held_by_phone {
            return Err(held_at_phone());
        }
        for (call, on) in [(talks.0, true), (holds.0, false)] {
            let (call, ctx) = self.find_named(call, now)?;
            if let Some(party) = call.parties.of_device(device) {
                party.held_by_command = on;
            }
            ctx.out.changed.insert(call.key);
        }
        Ok(())
    }
}

impl Party {
    pub(super) fn hold(&mut self, on: bool) -> Result<(), Refusal> {
        self.check_principal()?;
        self.check_established()?;
        match (on, self.held_by_command, self.held_by_phone) {
            (true, false, false) | (false, true, false) => {
                self.held_by_command = on;
                Ok(())
            }
            (true, _, _) => Err(Refusal::new(Reason::InvalidState, "The call is already held.")),
            (false, _, true) => Err(held_at_phone()),
            (false, false, false) => {
                Err(Refusal::new(Reason::InvalidState, "The call is not held."))
            }
        }
    }

    /// Its phone says whether it holds the call. Taking it back there ends a hold by command as
    /// well: many phones hold the one call by themselves when another is answered, and nobody would
    /// guess that it was held twice.
    pub(super) fn hold_at_phone(&mut self, on: bool) {
        if self.held_by_phone && !on {
            self.held_by_command = false;
        }
        self.held_by_phone = on;
    }
}

impl Parties {
    /// What we are willing to do on a leg, given that the others may hold it. Where that is not to
    /// be told it keeps sending, and a supervisor goes on hearing it.
    pub(super) fn direction_toward(&self, party: &Party) -> Direction {
        let is_told = party.policy.signals_hold && !party.is_supervisor() && self.is_on_hold(party);
        if is_told { Direction::SendOnly } else { Direction::SendRecv }
    }

    /// Every other party that talks holds.
    pub(super) fn is_on_hold(&self, party: &Party) -> bool {
        let mut others = self
            .principals()
            .filter(|other| other.leg != party.leg && other.is_talking())
            .peekable();
        others.peek().is_some() && others.all(Party::is_held)
    }

    /// The party is held by agents, and hears music while it is, if there is any. An agent that is
    /// coached hears the supervisor instead.
    pub(super) fn is_to_hear_music(&self, party: &Party) -> bool {
        let coaches = |link: &MonitorLink| link.joined && link.coached == party.device;
        let is_coached = party.device.is_some()
            && self.list.iter().filter_map(|other| other.link.as_ref()).any(coaches);
        let mut others =
            self.principals().filter(|other| other.leg != party.leg && other.is_talking());
        party.is_talking()
            && !party.is_supervisor()
            && !party.is_held()
            && party.media.is_some()
            && !is_coached
            && self.is_on_hold(party)
            && others.all(|other| other.role == PartyRole::Agent)
    }

    /// A party that has been told of its hold, and has agreed, is sent nothing unless there is
    /// something that it is to hear (RFC 3264 8.4: whoever holds may send). Its switch plays its own
    /// music to it then, from its own port, and silence of ours would come between.
    pub(super) fn rest(&mut self, hearing: &Hearing, has_music: bool, out: &mut Step) {
        let rests = |party: &Party| {
            party.told == Direction::SendOnly
                && !(has_music && self.is_to_hear_music(party))
                && !hearing.hears_somebody(party.leg)
        };
        let settled = self.list.iter().filter(|party| {
            party.told != Direction::SendOnly || party.exchange == PartyExchange::Idle
        });
        let resting: Vec<(LegId, bool)> = settled.map(|party| (party.leg, rests(party))).collect();
        for (leg, on) in resting {
            if let Some(party) = self.get_mut(leg) {
                party.rest(on, out);
            }
        }
    }

    /// Tells the phones of the others of a hold or its end. True: one was told.
    fn signal_hold(&mut self, out: &mut Step) -> bool {
        self.share_annex_b();
        let is_ready = |party: &&Party| {
            party.is_talking() && party.exchange == PartyExchange::Idle && party.media.is_some()
        };
        let directions: Vec<(LegId, Direction)> = self
            .principals()
            .filter(is_ready)
            .map(|party| (party, self.direction_toward(party)))
            .filter(|(party, direction)| party.told != *direction)
            .map(|(party, direction)| (party.leg, direction))
            .collect();
        for party in &mut self.list {
            if let Some((_, direction)) = directions.iter().find(|(leg, _)| *leg == party.leg) {
                party.reoffer(*direction, PartyExchange::Offered, out);
            }
        }
        !directions.is_empty()
    }
}

impl Call {
    /// A party's phone has refused to be told of a hold, or of its end. The hold itself is the
    /// engine's, and holds all the same; those who hold or have held are told that the phone may
    /// not send.
    pub(super) fn hold_not_signalled(&self, leg: LegId, status: u16, ctx: &mut Ctx<'_>) {
        let Some(party) = self.parties.get(leg) else { return };
        let holders = self.parties.others(leg).filter(|other| other.is_talking());
        for device in holders.filter_map(|holder| holder.device.clone()) {
            let pattern = format!("The phone of '{{}}' takes neither hold nor its end ({status}).");
            let refusal = Refusal::number(Reason::Internal, &party.number, pattern);
            ctx.out.fail(device, self.id.clone(), refusal);
        }
    }

    /// Begins and ends the music of those who are held, where there is any.
    pub(super) fn play_music(&mut self, ctx: &mut Ctx<'_>) {
        if !ctx.config.has_music {
            return;
        }
        let hear: Vec<(LegId, bool)> = self
            .parties
            .iter()
            .filter(|party| !party.is_over())
            .map(|party| (party.leg, self.parties.is_to_hear_music(party)))
            .collect();
        for (leg, on) in hear {
            if let Some(party) = self.parties.get_mut(leg).filter(|party| party.music != on) {
                party.music = on;
                ctx.out.media(MediaCommand::Music { leg, on });
            }
        }
    }

    /// Tells the others of a hold, where that is wished for.
    pub(super) fn signal_hold(&mut self, ctx: &mut Ctx<'_>) {
        if self.parties.signal_hold(ctx.out) {
            self.update_hearing(ctx);
        }
    }
}

fn held_at_phone() -> Refusal {
    Refusal::new(Reason::InvalidState, "The call is held at the phone.")
}

fn not_swapped(call: &CallId) -> Refusal {
    let call = Subject::Call(call.clone());
    let pattern =
        "Of two calls of the device, one is established and one held; call '{}' is not so.";
    Refusal::about(Reason::InvalidState, call, pattern)
}
