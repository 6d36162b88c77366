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

    /// MuteCall while muted, UnmuteCall while not.
    pub fn muted_already(muted: bool) -> Self {
        Self::new(
            Reason::InvalidState,
            if muted {
                "The call is already muted."
            } else {
                "The call is not muted."
            },
        )
    }

    /// No such resource, by its path: what the caller sent and nothing that he may not know.
    pub fn not_found(path: impl fmt::Display) -> Self {
        Self::new(Reason::NotFound, format!("Resource '{path}' was not found."))
    }

    /// No such device.
    pub fn no_device(id: impl fmt::Display) -> Self {
        Self::not_found(format_args!("/devices/{id}"))
    }

    /// No such call.
    pub fn no_call(id: impl fmt::Display) -> Self {
        Self::not_found(format_args!("/calls/{id}"))
    }

    /// No device has this number.
    pub fn no_number(number: impl fmt::Display) -> Self {
        Self::not_found(format_args!("/devices?phoneNumber={number}"))
    }
}
