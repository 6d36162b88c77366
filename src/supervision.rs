//! Monitors, modes, scopes: which supervisor joins which call when.
//!
//! A monitor is one supervisor's device watching one target. It moves between four states, each
//! with only what it needs:
//!
//! ```text
//!            the target talks         leave given           it answers
//!   Armed ──────────────────▶ Admitting ──────────▶ Inviting ──────────▶ Joined
//!     ▲ │      (no leave asked: straight to Inviting)   │                   │
//!     │ └───────────────────────────────────────────────┘                   │
//!     └───── refused, busy, no answer, call over ◀──────┴── released (AllCalls) ── gone (NextCall)
//! ```
//!
//! The shell hands in every change of a call ([`Supervision::handle_call`]) and of a supervisor's
//! leg ([`Supervision::handle_leg`]), and drains [`Supervision::poll_output`] after each before it
//! does anything else: that the agent has left and that the supervisor is out are one step.

mod config;
mod index;
mod monitor;
mod monitors;
mod rules;
#[cfg(test)]
mod tests;

pub use config::{Consults, Intrusion, SupervisionConfig};
pub use monitors::Supervision;

use crate::model::{Activity, AdmissionAsked, CallId, DeviceId, Failure, MonitorFact};

/// What became of a supervisor's leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LegOutcome {
    /// The supervisor's phone has answered.
    Answered,
    /// The supervisor's phone is busy.
    Busy,
    /// The supervisor does not want the call, or the phone will not take it.
    Rejected {
        /// What it has answered, where it was asked.
        status: Option<u16>,
    },
    /// The supervisor's phone was not answered in time.
    NoAnswer,
    /// The supervisor's phone is not registered.
    Unregistered,
    /// The supervisor's phone can not be reached.
    Unreachable {
        /// What it or its switch has answered; `None`: nothing.
        status: Option<u16>,
    },
    /// The supervisor has hung up after the answer.
    HungUp,
    /// The sound of the call is only relayed, and nobody can be mixed into it.
    Relayed,
    /// The supervisor's phone may use no codec that can be mixed.
    NoCommonCodec,
}

/// Why a supervisor's leg is released.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReleaseReason {
    /// The monitor was cancelled.
    Cancelled,
    /// The supervisor monitors another target now.
    Replaced,
    /// The monitored agent has left and the scope is Agent.
    AgentLeft,
    /// The customer has left.
    CustomerLeft,
    /// Nobody is left.
    CallEnded,
    /// The supervisor's phone has not answered in time.
    NoAnswer,
    /// A device is not known any more.
    DeviceGone,
}

/// What the shell has to do, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SupervisionOutput {
    /// Ask whether the supervisor may join; the answer comes as `AdmitMonitoring`.
    AskAdmission(AdmissionAsked),
    /// Bring the supervisor's phone in, heard by nobody. Ends in one [`LegOutcome`] or one
    /// `Release`.
    Invite {
        /// The supervisor's device.
        supervisor: DeviceId,
        /// The device that is monitored: the supervisor's phone shows it.
        target: DeviceId,
        /// The call that is monitored.
        call: CallId,
        /// The activity that the supervisor begins with.
        activity: Activity,
    },
    /// The supervisor has joined, or its activity has changed: apply now.
    Hear {
        /// The supervisor's device.
        supervisor: DeviceId,
        /// The call that is monitored.
        call: CallId,
        /// The activity of the supervisor.
        activity: Activity,
        /// The device that hears the supervisor in Coach, and is the agent in BargeIn. `None`: the
        /// supervisor is heard by nobody.
        coached: Option<DeviceId>,
        /// The supervisor is alone with the customer and takes the agent's place: both hear each
        /// other. Only with `coached: None`.
        takeover: bool,
    },
    /// Release the supervisor's leg, answered or not, at once.
    Release {
        /// The supervisor's device.
        supervisor: DeviceId,
        /// The call that is monitored.
        call: CallId,
        /// Why the leg is released.
        reason: ReleaseReason,
    },
    /// A monitor has changed: publish and keep it.
    Changed(MonitorFact),
    /// A monitor is gone: publish and forget it.
    Gone {
        /// The supervisor's device.
        supervisor: DeviceId,
    },
    /// Something accepted earlier has failed: publish it.
    Failed(Failure),
}
