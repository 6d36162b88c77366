//! Session descriptions (RFC 8866) and offer/answer (RFC 3264) for one audio stream with telephone
//! events.
//!
//! ```text
//!  incoming leg: Session::parse(offer) ─▶ Local::answer ─▶ body + Agreed
//!  outgoing leg: Local::offer ─▶ body … Session::parse(answer) ─▶ Local::accept ─▶ Agreed
//! ```
//!
//! Other media lines are refused with port 0. A stream that is only offered encrypted is never
//! answered in clear.
//!
//! Encrypted means SRTP with keys in the descriptions (SDES, RFC 4568); [`SrtpPolicy`] says which
//! leg has it.

mod crypto;
mod lines;
mod offer_answer;
mod parse;
#[cfg(test)]
mod tests;

pub use crypto::Crypto;
pub use offer_answer::{Agreed, Local};
pub use parse::{Audio, MAX_LINES, SdpSession};

/// Whether a leg's media is encrypted: SRTP with keys in the descriptions (RFC 4568).
///
/// | | offers we take | our offer | answers we take |
/// |---|---|---|---|
/// | off | RTP/AVP; its keys are passed over | RTP/AVP | RTP/AVP |
/// | optional | RTP/SAVP; RTP/AVP with keys, or in clear | RTP/AVP with keys | encrypted or clear |
/// | required | RTP/SAVP; RTP/AVP with keys | RTP/SAVP | RTP/SAVP |
///
/// A peer that does no SRTP refuses RTP/SAVP with 488, and there is no second INVITE to try it in
/// clear. So an optional offer is RTP/AVP with `a=crypto` lines, as telephones make it that call
/// this "best effort": a peer that does not know the lines leaves them out of its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SrtpPolicy {
    /// Never.
    #[default]
    Off,
    /// When the peer does it.
    Optional,
    /// Always: what cannot be encrypted is refused.
    Required,
}

/// Why a description is refused, always with 488 (`SdpError::STATUS`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdpError {
    /// It cannot be read: grammar, a port above 65535, too many media lines.
    #[error("unreadable session description")]
    Unreadable,
    /// It has no audio stream, or all are refused or switched off (port 0).
    #[error("no audio stream")]
    NoAudio,
    /// Audio is offered only over what this leg does not have: SRTP, or RTP in clear, or DTLS, or
    /// something that is no RTP.
    #[error("no audio stream over a transport that is wanted here")]
    Transport,
    /// An answer without a key where there must be one, or with another than was asked for.
    #[error("no usable key")]
    Crypto,
    /// No codec that we speak.
    #[error("no common codec")]
    Codec,
    /// Where to send to is missing, a name, a broadcast or no address.
    #[error("no usable address")]
    Address,
    /// Where to send to is a multicast group.
    #[error("multicast address")]
    Multicast,
    /// An answer that does not fit the offer: another number of media lines, or audio elsewhere.
    #[error("answer does not fit the offer")]
    Mismatch,
}

impl SdpError {
    /// 488 Not Acceptable Here.
    pub const STATUS: u16 = 488;

    /// The warn-code of the Warning header field (RFC 3261 20.43).
    pub fn warning(self) -> u16 {
        match self {
            SdpError::Address => 301,
            SdpError::Transport => 302,
            SdpError::NoAudio => 304,
            SdpError::Codec => 305,
            SdpError::Multicast => 330,
            SdpError::Unreadable | SdpError::Crypto | SdpError::Mismatch => 399,
        }
    }
}

/// Why a description is refused, and the line at fault where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdpFault {
    /// Why.
    pub error: SdpError,
    /// The line.
    pub line: Option<FaultLine>,
}

/// A line of a description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FaultLine {
    /// Its number, from 1; empty lines do not count.
    pub number: usize,
    /// Its text if it is a `v=`, `c=` or `m=` line: at most 100 visible characters, without quotes
    /// and backslashes. Empty for other lines, which may hold keys or names.
    pub text: String,
}

impl From<SdpError> for SdpFault {
    fn from(error: SdpError) -> SdpFault {
        SdpFault { error, line: None }
    }
}

impl std::fmt::Display for SdpFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.error)?;
        match &self.line {
            Some(line) if line.text.is_empty() => write!(f, ", line {}", line.number),
            Some(line) => write!(f, ", line {}: {}", line.number, line.text),
            None => Ok(()),
        }
    }
}

impl std::error::Error for SdpFault {}

/// Which side sends, seen from the one that says it (RFC 3264 5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the attributes")]
pub enum Direction {
    #[default]
    SendRecv,
    SendOnly,
    RecvOnly,
    Inactive,
}

impl Direction {
    fn of(send: bool, receive: bool) -> Direction {
        match (send, receive) {
            (true, true) => Direction::SendRecv,
            (true, false) => Direction::SendOnly,
            (false, true) => Direction::RecvOnly,
            (false, false) => Direction::Inactive,
        }
    }

    /// The side that says it sends.
    pub fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }

    /// The side that says it receives.
    pub fn receives(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::RecvOnly)
    }

    /// Seen from the other side.
    pub fn reversed(self) -> Direction {
        Direction::of(self.receives(), self.sends())
    }

    /// Both at once.
    pub fn and(self, other: Direction) -> Direction {
        Direction::of(self.sends() && other.sends(), self.receives() && other.receives())
    }

    /// The name of the attribute.
    pub fn name(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    fn named(name: &str) -> Option<Direction> {
        [Direction::SendRecv, Direction::SendOnly, Direction::RecvOnly, Direction::Inactive]
            .into_iter()
            .find(|it| it.name() == name)
    }
}
