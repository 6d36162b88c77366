//! What one step of the B2BUA brings, and what a child machine may use in it.

use super::call_table::CallTable;
use super::leg_factory::LegFactory;
use super::leg_index::LegIndex;
use super::party::{Party, PartyStart};
use super::routing::DialPlan;
use super::{B2buaConfig, Environment, Output};
use crate::media::{CallKey, MediaCommand};
use crate::model::{CallId, DeviceId, Fact, Failure, JoinSound, Now, Refusal};
use crate::sip::leg::{LegCommand, LegId};
use crate::supervision::Supervision;
use std::collections::{BTreeSet, VecDeque};

/// What a step has brought so far.
#[derive(Default)]
pub(super) struct Step {
    pub(super) outputs: VecDeque<Output>,
    /// Ends of legs, which come after the step's hearing: nobody hears what follows an end.
    pub(super) releases: Vec<Output>,
    /// INVITEs, which come last: a device with one phone is released from its other call first.
    pub(super) invitations: Vec<(LegId, LegCommand)>,
    /// Supervisors that have joined.
    pub(super) joined: Vec<(LegId, JoinSound)>,
    /// Calls that this step has changed.
    pub(super) changed: BTreeSet<CallKey>,
}

/// What a call and its parties may use of the B2BUA in a step.
pub(super) struct Ctx<'a> {
    pub(super) config: &'a B2buaConfig,
    pub(super) plan: &'a DialPlan,
    pub(super) environment: &'a mut dyn Environment,
    pub(super) legs: &'a mut LegFactory,
    pub(super) index: &'a mut LegIndex,
    pub(super) supervision: &'a mut Supervision,
    pub(super) out: &'a mut Step,
    pub(super) now: Now,
}

impl Ctx<'_> {
    /// A party with its ports open, or nothing at all.
    pub(super) fn open(&mut self, call: CallKey, start: PartyStart) -> Option<Party> {
        let mut party = self.legs.open(self.environment, call, start)?;
        party.seat = self.plan.trunk_of(&party.peer).map(|trunk| self.index.seat(trunk));
        self.index.add(party.leg, &party.peer, call);
        Some(party)
    }
}

impl Step {
    /// Brings the ends of legs out, and then the INVITEs. A party that was to be invited and has
    /// to leave in the same step is neither.
    pub(super) fn release_and_invite(&mut self, calls: &CallTable) {
        let mut releases = std::mem::take(&mut self.releases);
        let mut invitations = std::mem::take(&mut self.invitations);
        invitations.retain(|(invited, _)| {
            let stays = calls.live(*invited).is_some();
            if !stays {
                releases.retain(|release| {
                    !matches!(
                        release,
                        Output::Leg(LegCommand::Hangup { leg, .. }) if leg == invited
                    )
                });
            }
            stays
        });
        self.extend(releases);
        self.extend(invitations.into_iter().map(|(_, invite)| Output::Leg(invite)));
    }

    pub(super) fn tell_referrer(&mut self, leg: LegId, status: u16) {
        self.leg(LegCommand::TellReferrer { leg, status });
    }

    pub(super) fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(super) fn leg(&mut self, command: LegCommand) {
        self.push(Output::Leg(command));
    }

    pub(super) fn media(&mut self, command: MediaCommand) {
        self.push(Output::Media(command));
    }

    pub(super) fn fact(&mut self, fact: Fact) {
        self.push(Output::Fact(fact));
    }

    /// Something that a device has asked for, or is concerned by, has failed.
    pub(super) fn fail(&mut self, device: DeviceId, call: CallId, refusal: Refusal) {
        self.fact(Fact::Failed(Failure { device, call: Some(call), request_id: None, refusal }));
    }
}

impl Extend<Output> for Step {
    fn extend<I: IntoIterator<Item = Output>>(&mut self, outputs: I) {
        self.outputs.extend(outputs);
    }
}
