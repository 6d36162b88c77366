//! Refusal ⇄ gRPC status with `google.rpc.ErrorInfo`.

use crate::model::{Reason, Refusal};
use std::collections::HashMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

const DOMAIN: &str = "undertone";

/// The status that carries a refusal over the wire.
pub fn status_of(refusal: &Refusal) -> Status {
    let details = ErrorDetails::with_error_info(refusal.reason.as_str(), DOMAIN, HashMap::new());
    Status::with_error_details(code_of(refusal.reason), &refusal.message, details)
}

/// What a status means: the refusal it carries, or the nearest one when another program made it.
pub fn refusal_of(status: &Status) -> Refusal {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
    let carried = info.and_then(|info| info.reason.parse().ok());
    let reason = carried.unwrap_or_else(|| nearest(status.code()));
    let message = match status.message() {
        "" => format!("The telephony backend answered {:?}.", status.code()),
        message => message.to_owned(),
    };
    Refusal::new(reason, message)
}

fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::MissingParameter | Reason::InvalidInput | Reason::UnsupportedMediaType => Code::InvalidArgument,
        Reason::InvalidState => Code::FailedPrecondition,
        Reason::Forbidden => Code::Unimplemented,
        Reason::Internal => Code::Internal,
        Reason::Unavailable => Code::Unavailable,
        Reason::NotPermitted => Code::PermissionDenied,
        Reason::NotFound => Code::NotFound,
        Reason::TooLarge => Code::OutOfRange,
        Reason::InUse => Code::AlreadyExists,
        Reason::NotAuthenticated => Code::Unauthenticated,
        Reason::TooManyRequests => Code::ResourceExhausted,
    }
}

fn nearest(code: Code) -> Reason {
    match code {
        Code::InvalidArgument => Reason::InvalidInput,
        Code::OutOfRange => Reason::TooLarge,
        Code::FailedPrecondition => Reason::InvalidState,
        Code::Unimplemented => Reason::Forbidden,
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => Reason::Unavailable,
        Code::PermissionDenied => Reason::NotPermitted,
        Code::NotFound => Reason::NotFound,
        Code::AlreadyExists => Reason::InUse,
        Code::Unauthenticated => Reason::NotAuthenticated,
        Code::ResourceExhausted => Reason::TooManyRequests,
        Code::Ok | Code::Unknown | Code::Internal | Code::DataLoss => Reason::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_survives_the_wire() {
        for reason in Reason::ALL {
            let refusal = Refusal::new(*reason, "Device '5001' is not registered.");
            assert_eq!(refusal_of(&status_of(&refusal)), refusal);
        }
    }

    #[test]
    fn a_status_of_another_program_is_the_nearest_reason() {
        assert_eq!(refusal_of(&Status::deadline_exceeded("")).reason, Reason::Unavailable);
        assert_eq!(refusal_of(&Status::unknown("boom")).reason, Reason::Internal);
    }
}
