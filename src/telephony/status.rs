//! Refusal ⇄ gRPC status with `google.rpc.ErrorInfo`.

use crate::model::{Reason, Refusal, Subject};
use std::collections::HashMap;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

const DOMAIN: &str = "undertone";
/// The key of the text in the metadata, with [`Refusal::PLACE`] where the subject's name stands.
const PATTERN: &str = "pattern";

/// The status that carries a refusal over the wire.
pub fn status_of(refusal: &Refusal) -> Status {
    let details =
        ErrorDetails::with_error_info(refusal.reason.as_str(), DOMAIN, metadata_of(refusal));
    Status::with_error_details(code_of(refusal.reason), refusal.text(), details)
}

/// The subject of a refusal, by its kind, and the text around its name: the metadata of an
/// ErrorInfo.
pub(super) fn metadata_of(refusal: &Refusal) -> HashMap<String, String> {
    let Some(subject) = &refusal.subject else {
        return HashMap::new();
    };
    HashMap::from([
        (subject.kind().to_owned(), subject.name().to_owned()),
        (PATTERN.to_owned(), pattern_of(refusal)),
    ])
}

/// The text with a place for the subject's name alone: what is quoted is a part of it.
fn pattern_of(refusal: &Refusal) -> String {
    match (refusal.pattern.split_once(Refusal::PLACE), &refusal.quoted) {
        (Some((before, behind)), Some(quoted)) => {
            format!("{before}{}{}", Refusal::PLACE, behind.replacen(Refusal::PLACE, quoted, 1))
        }
        (_, _) => refusal.pattern.clone().into_owned(),
    }
}

/// The refusal that came as these parts. Without metadata, or with that of a newer contract, the
/// text says it all; a pattern counts only if it makes that text.
pub(super) fn refusal_from(
    reason: Reason,
    text: String,
    metadata: &HashMap<String, String>,
) -> Refusal {
    let named = |kind: &&str| Subject::of_kind(kind, metadata.get(*kind)?);
    let Some(subject) = Subject::KINDS.iter().find_map(named) else {
        return Refusal::new(reason, text);
    };
    let pattern = metadata.get(PATTERN).unwrap_or(&text).clone();
    let refusal = Refusal::about(reason, subject, pattern);
    match refusal.text() == text {
        true => refusal,
        false => Refusal::new(reason, text),
    }
}

/// What a status means: the refusal it carries, or the nearest one when another program made it.
pub fn refusal_of(status: &Status) -> Refusal {
    let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
    let carried = info.as_ref().and_then(|info| info.reason.parse().ok());
    let reason = carried.unwrap_or_else(|| nearest(status.code()));
    let metadata = info.map(|info| info.metadata).unwrap_or_default();
    let text = match status.message() {
        "" => format!("The telephony backend answered {:?}.", status.code()),
        text => text.to_owned(),
    };
    refusal_from(reason, text, &metadata)
}

/// The gRPC code that belongs to a reason.
pub fn code_of(reason: Reason) -> Code {
    match reason {
        Reason::MissingParameter | Reason::InvalidInput | Reason::UnsupportedMediaType => {
            Code::InvalidArgument
        }
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
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Aborted => {
            Reason::Unavailable
        }
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
    fn every_subject_survives_the_wire_and_the_text_is_for_people() {
        for kind in Subject::KINDS {
            let subject = Subject::of_kind(kind, "it").expect("a kind of the contract");
            let refusal = Refusal::about(Reason::InvalidState, subject, "Now '{}' is busy.");
            let status = status_of(&refusal);
            assert_eq!(status.message(), "Now 'it' is busy.");
            assert_eq!(refusal_of(&status), refusal);
        }
    }

    #[test]
    fn what_a_refusal_quotes_survives_the_wire_beside_its_subject() {
        for pattern in ["'{}' does not take '{}'.", "'{}' takes {}: {}.", "No '{}'.", "Nothing."] {
            for quoted in ["sip:5001", "a {} of {}", ""] {
                let subject = Subject::Device("d-1".into());
                let refusal =
                    Refusal::about(Reason::InvalidState, subject, pattern).quoting(quoted);
                let status = status_of(&refusal);
                assert_eq!(status.message(), refusal.text());
                let carried = refusal_of(&status);
                let renamed = Subject::Number("5001".into());
                assert_eq!(carried.subject, refusal.subject);
                assert_eq!(
                    carried.renamed(renamed.clone()).text(),
                    refusal.renamed(renamed).text()
                );
            }
        }
    }

    #[test]
    fn a_pattern_that_does_not_make_the_text_does_not_replace_it() {
        let text = "Device 'd-1' is busy with {}.";
        for pattern in [Some(""), Some("All is well with '{}'."), None] {
            let mut metadata = HashMap::from([("device".to_owned(), "d-1".to_owned())]);
            metadata.extend(pattern.map(|pattern| (PATTERN.to_owned(), pattern.to_owned())));
            let refusal = refusal_from(Reason::InvalidState, text.to_owned(), &metadata);
            assert_eq!(refusal, Refusal::new(Reason::InvalidState, text));
        }
    }

    #[test]
    fn a_backend_that_sends_no_pattern_or_a_newer_kind_of_subject_is_understood_by_its_text() {
        let text = || "Device 'd-1' is busy.".to_owned();
        let named = refusal_from(
            Reason::InvalidState,
            text(),
            &HashMap::from([("device".to_owned(), "d-1".to_owned())]),
        );
        assert_eq!(
            (named.subject.as_ref(), &*named.text()),
            (Some(&Subject::Device("d-1".into())), &*text())
        );
        let newer = HashMap::from([("planet".to_owned(), "x".to_owned())]);
        assert_eq!(
            refusal_from(Reason::InvalidState, text(), &newer),
            Refusal::new(Reason::InvalidState, text())
        );
    }

    #[test]
    fn a_status_of_another_program_is_the_nearest_reason() {
        assert_eq!(refusal_of(&Status::deadline_exceeded("")).reason, Reason::Unavailable);
        assert_eq!(refusal_of(&Status::unknown("boom")).reason, Reason::Internal);
    }
}
