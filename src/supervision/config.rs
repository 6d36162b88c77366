use crate::model::config_value;
use serde::de::{Deserialize, Deserializer, Error};
use std::time::Duration;

/// May a supervisor join a call that is already going on when monitoring is asked for?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Intrusion {
    /// Yes, with any activity.
    #[default]
    Any,
    /// Only in BargeIn; otherwise the supervisor waits for the next call.
    BargeIn,
    /// The supervisor waits for the next call.
    Never,
}

/// Which consult calls of the target are monitored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consults {
    /// None: the supervisor stays on the first call while the agent consults.
    #[default]
    None,
    /// Those the target makes.
    Orig,
    /// Those the target receives.
    Dest,
    /// All consultation calls.
    All,
}

/// The rules of monitoring that are configured.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SupervisionConfig {
    /// `monitoring.intrusion` of the configuration.
    pub intrusion: Intrusion,
    /// How long a supervisor's phone may ring. 20 s: twice what a phone without auto-answer needs.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub invite_timeout: Duration,
    /// How long leave to join may take; then nobody joins. 5 s.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub admission_timeout: Duration,
    /// Cancelling a monitor releases the supervisor's leg; if false it stays until the call ends.
    pub cancel_releases_call: bool,
    /// Further ones are refused with `InUse`.
    #[serde(deserialize_with = "one_to_four")]
    pub max_supervisors_per_device: usize,
    /// In Coach and BargeIn the supervisor may stay with the agent when the customer has left.
    pub debrief: bool,
    /// In BargeIn with scope Call the supervisor may stay with the customer when the agent has
    /// left.
    pub takeover: bool,
    /// Calls between two agents are monitored.
    pub monitor_internal_calls: bool,
    /// `monitoring.monitor_consult_calls` of the configuration.
    pub monitor_consult_calls: Consults,
}

impl Default for SupervisionConfig {
    fn default() -> Self {
        Self {
            intrusion: Intrusion::Any,
            invite_timeout: Duration::from_secs(20),
            admission_timeout: Duration::from_secs(5),
            cancel_releases_call: true,
            max_supervisors_per_device: 1,
            debrief: false,
            takeover: false,
            monitor_internal_calls: true,
            monitor_consult_calls: Consults::None,
        }
    }
}

/// The media engine has places for so many supervisors beside the parties of a conference.
fn one_to_four<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match u32::deserialize(deserializer)? {
        number @ 1..=4 => Ok(number as usize),
        _ => Err(D::Error::custom("must be 1 to 4")),
    }
}
