use super::{Config, LegOutcome, Output};
use crate::words::{CallFact, CallId, Command, DeviceId, MonitorFact, Now, Refusal};
use std::time::Instant;

/// Every monitor of a house.
///
/// After each `handle_*`, drain [`Supervision::poll_output`]; call [`Supervision::handle_timeout`] when [`Supervision::poll_timeout`] says.
#[derive(Debug)]
pub struct Supervision {
    _config: Config,
}

impl Supervision {
    /// The monitors that were kept come back armed, whatever state they were in.
    pub fn new(config: Config, _kept: Vec<MonitorFact>) -> Self {
        Self { _config: config }
    }

    /// The five monitoring commands. A refusal has changed nothing; commands that are not about monitoring are `Forbidden`.
    pub fn handle_command(&mut self, _command: &Command, _now: Now) -> Result<(), Refusal> {
        todo!()
    }

    /// The whole call at every change, supervisors' legs included. Over is when every party is `Released`.
    pub fn handle_call(&mut self, _call: &CallFact, _now: Now) {
        todo!()
    }

    /// What became of a supervisor's leg that `Invite` asked for. Outcomes of legs released meanwhile are ignored.
    pub fn handle_leg(&mut self, _supervisor: &DeviceId, _call: &CallId, _outcome: LegOutcome, _now: Now) {
        todo!()
    }

    /// The device is no longer one of the house. (One that merely unregisters keeps its monitors.)
    pub fn handle_device_gone(&mut self, _device: &DeviceId, _now: Now) {
        todo!()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, _now: Now) {
        todo!()
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// The next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        todo!()
    }

    /// Every monitor, by the supervisor's device.
    pub fn monitors(&self) -> impl Iterator<Item = MonitorFact> {
        std::iter::empty()
    }

    /// Does a supervisor keep this call alive? Asked by the switch when only one party besides supervisors is left, with the call as it
    /// then is; false means: release the rest.
    pub fn keeps_alive(&self, _call: &CallFact) -> bool {
        false
    }
}
