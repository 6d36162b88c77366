//! What one step of the B2BUA brings, and what a child machine may use in it.

use super::{B2buaConfig, Output};
use crate::media::{CallKey, MediaCommand};
use crate::model::{CallId, DeviceId, Fact, Failure, Now, Refusal};
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
    /// Calls that this step has changed.
    pub(super) changed: BTreeSet<CallKey>,
}

/// What a call and its parties may use of the B2BUA in a step.
pub(super) struct Ctx<'a> {
    pub(super) config: &'a B2buaConfig,
    pub(super) supervision: &'a mut Supervision,
    pub(super) out: &'a mut Step,
    pub(super) now: Now,
}

impl Step {
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
