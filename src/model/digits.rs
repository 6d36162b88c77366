use super::Number;
use std::fmt;
use std::str::FromStr;

/// Digits that a telephone sends as DTMF: `0`–`9`, `*`, `#`, `A`–`D`, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digits(String);

/// The text has no digits, or others than DTMF has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 0-9, *, #, A-D")]
pub struct NotDtmf;

impl Digits {
    /// As they are sent.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digits {
    type Err = NotDtmf;

    fn from_str(text: &str) -> Result<Self, NotDtmf> {
        let is_dtmf = |c: char| matches!(c, '0'..='9' | '*' | '#' | 'A'..='D');
        match !text.is_empty() && text.chars().all(is_dtmf) {
            true => Ok(Self(text.to_owned())),
            false => Err(NotDtmf),
        }
    }
}

/// A number or extension to call. Never a URI: no `:`, `@`, `;`, `%` and no white space, so that
/// what is dialled chooses no host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialString(Number);

/// The text is not a telephone number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a telephone number")]
pub struct NotDialable;

impl DialString {
    /// Characters at most.
    pub const LONGEST: usize = 64;

    /// The number it names.
    pub fn number(&self) -> &Number {
        &self.0
    }
}

impl FromStr for DialString {
    type Err = NotDialable;

    fn from_str(text: &str) -> Result<Self, NotDialable> {
        let may_be = |c: char| c.is_ascii_alphanumeric() || "+*#-._".contains(c);
        match !text.is_empty() && text.len() <= Self::LONGEST && text.chars().all(may_be) {
            true => Ok(Self(text.into())),
            false => Err(NotDialable),
        }
    }
}

impl From<DialString> for Number {
    fn from(dialled: DialString) -> Self {
        dialled.0
    }
}

impl fmt::Display for DialString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_a_telephone() {
        assert!("09*#AD".parse::<Digits>().is_ok());
        for text in ["", "1p2", "a", " 1"] {
            assert_eq!(text.parse::<Digits>(), Err(NotDtmf), "{text}");
        }
    }

    #[test]
    fn a_dial_string_is_a_number_and_never_a_uri() {
        assert!("+49.30-1_2*#".parse::<DialString>().is_ok());
        for text in ["", "sip:127.0.0.1", "50 01", "5001\r\nX: y", "5001@evil", &"1".repeat(65)] {
            assert_eq!(text.parse::<DialString>(), Err(NotDialable), "{text}");
        }
    }
}
