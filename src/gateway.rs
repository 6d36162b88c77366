//! Permissions, presence, views of devices and calls, audiences.

mod directory;

#[cfg(feature = "io")]
pub mod desk;

pub use directory::{DeviceEntry, Directory, Group, User, VoiceEnvironment};

use std::time::Duration;

/// What the gateway may be told about its own behaviour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The rule of GWS: Coach cannot be returned to once left. Default: any activity to any other.
    pub one_way_coach: bool,
    /// What the monitored agent is told.
    pub notify_agent: NotifyAgent,
    /// How long the backend may take to accept a command.
    pub command_deadline: Duration,
    /// How long the audit may take to write a line before the attempt is refused.
    pub audit_deadline: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            one_way_coach: false,
            notify_agent: NotifyAgent::Event,
            command_deadline: Duration::from_secs(5),
            audit_deadline: Duration::from_secs(5),
        }
    }
}

/// What the monitored agent is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotifyAgent {
    /// Nothing.
    None,
    /// His call carries `supervisorMonitoringState`, and `supervisorListeningIn` in ListenIn.
    Event,
}
