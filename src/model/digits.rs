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

/// A number or extension to call, without the spaces and parentheses of a number as people write
/// it. Never a URI: no `:`, `@`, `;`, `%`, so that what is dialled chooses no host.
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
        if text.len() <= Self::LONGEST && text.contains(['(', ')', ' ']) {
            return as_written(text).map(|digits| Self(digits.as_str().into())).ok_or(NotDialable);
        }
        let may_be = |c: char| c.is_ascii_alphanumeric() || "+*#-._".contains(c);
        match !text.is_empty() && text.len() <= Self::LONGEST && text.chars().all(may_be) {
            true => Ok(Self(text.into())),
            false => Err(NotDialable),
        }
    }
}

/// The digits of a number as people write it, as `+1 (650) 466-1000`: without what parts them
/// (RFC 3966 5.1.1, and spaces).
fn as_written(text: &str) -> Option<String> {
    let number: String = text.chars().filter(|c| !" ()-.".contains(*c)).collect();
    let digits = number.strip_prefix('+').unwrap_or(&number);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then_some(number)
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
        for (written, number) in [("+1 (650) 466-1000", "+16504661000"), ("50 01", "5001")] {
            assert_eq!(
                written.parse::<DialString>().map(|dialled| dialled.to_string()),
                Ok(number.to_owned())
            );
        }
        for text in [
            "",
            " ",
            "()",
            "a (1)",
            "1 +2",
            "sip:127.0.0.1",
            "5001\r\nX: y",
            "5001@evil",
            &"1".repeat(65),
        ] {
            assert_eq!(text.parse::<DialString>(), Err(NotDialable), "{text}");
        }
    }
}
