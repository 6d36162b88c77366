//! One node: what it has told, and whether it can be asked.

use super::ClusterConfig;
use crate::model::{AdmissionAsked, Capabilities, DeviceId, FactTable, MonitorFact, NodeLoad};
use std::collections::VecDeque;
use std::time::Instant;

#[derive(Debug, Default)]
pub(super) struct Node {
    /// What it told last; of a lost one, until its calls count as over.
    pub(super) facts: FactTable,
    pub(super) capabilities: Option<Capabilities>,
    pub(super) load: NodeLoad,
    /// It can be asked, and all it knows is known.
    pub(super) is_ready: bool,
    /// Since when it is not, if it has been.
    pub(super) lost_since: Option<Instant>,
    /// Lost for so long that its phones count as gone.
    pub(super) is_away: bool,
    /// Lost for so long that its calls count as over.
    pub(super) is_expired: bool,
    /// It is no node of the cluster any more.
    pub(super) is_removed: bool,
    /// Commands of the cluster's own that it has not answered.
    pub(super) in_flight: usize,
    /// Monitors that wait for their turn to be armed there, or taken back.
    pub(super) waiting: VecDeque<DeviceId>,
    /// Monitors of the snapshot that is being read.
    pub(super) found: Vec<MonitorFact>,
    /// Asked while the gateway could not be.
    pub(super) admissions: Vec<AdmissionAsked>,
}

impl Node {
    /// When its silence changes what is told of it.
    pub(super) fn deadline(&self, config: &ClusterConfig) -> Option<Instant> {
        let since = self.lost_since.filter(|_| !self.is_ready)?;
        match (self.is_away, self.is_expired) {
            (false, _) => Some(since + config.silence),
            (true, false) => Some(since + config.calls_end),
            (true, true) => None,
        }
    }
}
