use super::UnknownWord;
use super::monitoring::spoken;
use std::fmt;
use std::str::FromStr;

spoken! {
    /// Why a request or command was refused. Each is one row of `front/refusal.rs`.
    Reason {
        /// A required parameter is missing.
        MissingParameter,
        /// Not valid in the current state.
        InvalidState,
        /// The operation does not exist here or is forbidden to everybody.
        Forbidden,
        /// Our own fault or the backend's.
        Internal,
        /// The backend can not be reached; asking again may work.
        Unavailable,
        /// This user may not.
        NotPermitted,
        /// No such resource, or not one the user may know of.
        NotFound,
        /// The input is not what it should be.
        InvalidInput,
        /// The input is larger than allowed.
        TooLarge,
        /// The input is of the wrong media type.
        UnsupportedMediaType,
        /// Another supervisor monitors this device.
        InUse,
        /// Nobody knows who is asking.
        NotAuthenticated,
        /// Asked too often.
        TooManyRequests,
    } "the reasons of the contract"
}

/// A refusal: nothing has been changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Which row.
    pub reason: Reason,
    /// For people; names the field or device.
    pub message: String,
}

impl Refusal {
    /// A refusal with its message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
        }
    }

    /// A required parameter is missing.
    pub fn missing(field: &str) -> Self {
        Self::new(Reason::MissingParameter, format!("Parameter '{field}' is required."))
    }

    /// No such resource.
    pub fn not_found(what: impl fmt::Display) -> Self {
        Self::new(Reason::NotFound, format!("Resource '{what}' was not found."))
    }
}
