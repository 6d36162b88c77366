//! Protobuf ⇄ words, exhaustive both ways.

/// What came over the wire is not what the contract says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A required field is absent or empty.
    #[error("Parameter '{0}' is required.")]
    Missing(&'static str),
    /// A field is longer than allowed.
    #[error("Parameter '{0}' is longer than {MAX_ID} characters.")]
    TooLong(&'static str),
    /// An enum field is unspecified or unknown.
    #[error("Parameter '{0}' has no known value.")]
    Unspecified(&'static str),
    /// A field contains characters it may not.
    #[error("Parameter '{0}' contains characters that are not allowed.")]
    Characters(&'static str),
}

/// Characters of an id or a number at most.
pub(super) const MAX_ID: usize = 128;
