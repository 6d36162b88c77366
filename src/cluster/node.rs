//! One node: what it has told, and whether it can be asked.

use super::ClusterConfig;
use crate::model::{AdmissionAsked, Capabilities, DeviceId, FactTable, MonitorFact, NodeLoad};
use std::collections::{BTreeMap, BTreeSet};
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
    pub(super) waiting: BTreeSet<DeviceId>,
    /// Devices whose settings it may have missed.
    pub(super) unset: BTreeSet<DeviceId>,
    /// When a setting that has failed there is tried again.
    pub(super) unset_at: Option<Instant>,
    /// Monitors of the snapshot that is being read.
    pub(super) found: BTreeMap<DeviceId, MonitorFact>,
    /// Asked while the gateway could not be.
    pub(super) admissions: BTreeMap<DeviceId, AdmissionAsked>,
}

impl Node {
    /// When its silence changes what is told of it.
    pub(super) fn deadline(&self, config: &ClusterConfig) -> Option<Instant> {
        if self.is_ready {
            return self.unset_at;
        }
        // One that tells everything anew is not silent.
        let since = self.lost_since.filter(|_| !self.facts.is_in_snapshot())?;
        match (self.is_away, self.is_expired) {
            (false, _) => Some(since + config.silence),
            (true, false) => Some(since + config.calls_end),
            (true, true) => None,
        }
    }
}
