//! What people do at telephones, one line each: the words of the simulated telephones, and of the
//! program that moves telephones for `undertone contract-check`.
//!
//! ```text
//! call 7001 5001       somebody at 7001 calls 5001
//! answer 5001          the call that rings at 5001 is answered
//! hangup 7001          7001 leaves the call it is on, or takes back the one it makes
//! phone 5005 busy      brought in to monitor, the phone is busy from now on; or: rejects, rings, answers
//! register 5005        the phone can be reached; unregister 5005: it can not
//! ```

use crate::model::{DialString, Number};
use std::fmt;
use std::str::FromStr;

/// What a supervisor's phone does when it is brought in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pickup {
    /// It answers by itself.
    #[default]
    Answers,
    /// It rings until somebody answers or hangs up.
    Rings,
    /// It is busy.
    Busy,
    /// It rejects the call.
    Rejects,
}

impl Pickup {
    const ALL: [Self; 4] = [Self::Answers, Self::Rings, Self::Busy, Self::Rejects];

    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Pickup::Answers => "answers",
            Pickup::Rings => "rings",
            Pickup::Busy => "busy",
            Pickup::Rejects => "rejects",
        }
    }
}

/// Something that is done at a telephone. Telephones are named by their numbers, outside ones too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PhoneCommand {
    /// A call is made.
    Call {
        /// The telephone that calls.
        from: Number,
        /// The number that is called.
        to: Number,
    },
    /// The call that rings there is answered.
    Answer(Number),
    /// The telephone leaves its call, rejects the one that rings or takes back the one it makes.
    HangUp(Number),
    /// What the telephone does from now on when it is brought in to monitor.
    Pickup(Number, Pickup),
    /// The telephone can be reached from now on, or can not.
    Register(Number, bool),
}

impl PhoneCommand {
    /// How each line is written.
    pub const USAGE: [&'static str; 6] = [
        "call FROM TO",
        "answer NUMBER",
        "hangup NUMBER",
        "phone NUMBER answers|rings|busy|rejects",
        "register NUMBER",
        "unregister NUMBER",
    ];
}

impl fmt::Display for PhoneCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PhoneCommand::Call { from, to } => write!(f, "call {from} {to}"),
            PhoneCommand::Answer(number) => write!(f, "answer {number}"),
            PhoneCommand::HangUp(number) => write!(f, "hangup {number}"),
            PhoneCommand::Pickup(number, pickup) => write!(f, "phone {number} {}", pickup.as_str()),
            PhoneCommand::Register(number, true) => write!(f, "register {number}"),
            PhoneCommand::Register(number, false) => write!(f, "unregister {number}"),
        }
    }
}

/// A line says nothing that can be done at a telephone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoPhoneCommand {
    /// The words are others, or too few, or too many.
    #[error("a line is one of: {}", PhoneCommand::USAGE.join(", "))]
    Words,
    /// A telephone has no such number.
    #[error("a number has up to {} of 0-9, A-Z, a-z, +, *, #, -, . and _", DialString::LONGEST)]
    Number,
}

impl FromStr for PhoneCommand {
    type Err = NoPhoneCommand;

    fn from_str(line: &str) -> Result<Self, NoPhoneCommand> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["call", from, to] => Ok(PhoneCommand::Call { from: number(from)?, to: number(to)? }),
            ["answer", at] => Ok(PhoneCommand::Answer(number(at)?)),
            ["hangup", at] => Ok(PhoneCommand::HangUp(number(at)?)),
            ["phone", at, does] => {
                let pickup = Pickup::ALL.into_iter().find(|pickup| pickup.as_str() == does);
                Ok(PhoneCommand::Pickup(number(at)?, pickup.ok_or(NoPhoneCommand::Words)?))
            }
            ["register", at] => Ok(PhoneCommand::Register(number(at)?, true)),
            ["unregister", at] => Ok(PhoneCommand::Register(number(at)?, false)),
            _ => Err(NoPhoneCommand::Words),
        }
    }
}

fn number(word: &str) -> Result<Number, NoPhoneCommand> {
    let dialled: DialString = word.parse().map_err(|_| NoPhoneCommand::Number)?;
    Ok(dialled.number().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_it_is_written() {
        for line in [
            "call 7001 5001",
            "answer 5001",
            "hangup +4930123",
            "phone 5005 answers",
            "phone 5005 rings",
            "phone 5005 busy",
            "phone 5005 rejects",
            "register 5005",
            "unregister 5005",
        ] {
            let read: PhoneCommand = line.parse().unwrap();
            assert_eq!(read.to_string(), line);
            assert_eq!(format!("  {line}\r\n").replace(' ', "\t").parse(), Ok(read));
        }
    }

    #[test]
    fn what_is_no_line_is_refused() {
        for line in ["", "call", "call 7001", "call 1 2 3", "phone 5005 sleeps", "Call 7001 5001"] {
            assert_eq!(line.parse::<PhoneCommand>(), Err(NoPhoneCommand::Words), "{line}");
        }
        let long = format!("answer {}", "1".repeat(DialString::LONGEST + 1));
        for line in ["answer sip:5001@evil", "call ä 5001", &long] {
            assert_eq!(line.parse::<PhoneCommand>(), Err(NoPhoneCommand::Number), "{line}");
        }
    }
}
