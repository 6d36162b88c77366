use super::{Activity, CallId, DeviceId, FeatureCodeId, Mode, Number, Operation, Scope};
use std::net::IpAddr;

/// A phone has dialled a feature code, or a supervisor that monitors has pressed a key of the
/// keypad. The gateway asks for it on behalf of the device's user, by a command with `id` in its
/// context, or ends it by `RefuseFeatureCode`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureCodeDialled {
    /// Names it, in what is answered to it.
    pub id: FeatureCodeId,
    /// The device that has dialled it, by its own authentication.
    pub device: DeviceId,
    /// What it asks for.
    pub code: FeatureCode,
    /// Where its phone is, if that is known: for the audit.
    pub from: Option<IpAddr>,
}

/// What a feature code asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeatureCode {
    /// Monitor the device with this number; the call to the feature code becomes the supervisor's
    /// leg.
    Start {
        /// The number that was dialled after the code.
        number: Number,
        /// What the supervisor does when joined.
        activity: Activity,
        /// How long the monitor lasts.
        mode: Mode,
        /// What it follows.
        scope: Scope,
    },
    /// End the device's monitor.
    Stop,
    /// Do something else on the call that the supervisor is on.
    Switch {
        /// That call.
        call: CallId,
        /// The activity from now on.
        activity: Activity,
    },
}

impl FeatureCode {
    /// The operation by which a client asks for the same.
    pub fn operation(&self) -> Operation {
        match self {
            FeatureCode::Start { activity, .. } => Operation::start(*activity),
            FeatureCode::Stop => Operation::CancelSupervisorMonitoring,
            FeatureCode::Switch { activity, .. } => Operation::switch_to(*activity),
        }
    }
}
