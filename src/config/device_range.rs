//! `[[device_range]]`: devices of one kind with numbers in a row, thousands of them, that are all
//! behind one switch.

use super::sections::DeviceDetails;
use crate::model::Number;
use crate::sip::config::SipAccount;
use serde::Deserialize;

/// More devices than that are no range that somebody has meant.
const MOST: u64 = 100_000;

/// Devices with numbers in a row.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceRange {
    /// The first number, in digits.
    pub(super) first: String,
    /// The last number, with as many digits.
    pub(super) last: String,
    /// The id of each; `{number}` stands for its number.
    #[serde(default = "number")]
    id: String,
    /// What the switch calls each; `{number}` as above, `{number:3}` its last three digits.
    #[serde(default = "number")]
    user: String,
    /// The trunk that all are behind.
    pub(super) via: String,
    /// The voice environment of all.
    voice_environment: Option<String>,
}

/// What is wrong with a range: the key, and why.
pub(super) type RangeFault = (&'static str, String);

impl DeviceRange {
    /// Its devices, by number.
    pub(super) fn devices(&self) -> Result<Vec<(SipAccount, DeviceDetails)>, RangeFault> {
        let value = |key: &'static str, text: &str| {
            let is_number =
                (1..=15).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
            let value = text.parse::<u64>().ok().filter(|_| is_number);
            value.ok_or_else(|| (key, format!("'{text}' is not 1 to 15 digits")))
        };
        let (first, last) = (value("first", &self.first)?, value("last", &self.last)?);
        let digits = self.first.len();
        if self.last.len() != digits || last < first {
            return Err(("last", format!("'{}' does not come after first", self.last)));
        }
        if last - first >= MOST {
            return Err(("last", format!("more than {MOST} devices")));
        }
        let device = |number: u64| {
            let number = format!("{number:0digits$}");
            let id = filled("id", &self.id, &number)?;
            let user = filled("user", &self.user, &number)?;
            let mut account =
                SipAccount::behind(id.as_str().into(), Number::from(number), &self.via);
            account.user = Some(Number::from(user)).filter(|user| *user != account.number);
            let details =
                DeviceDetails { voice_environment: self.voice_environment.clone(), password: None };
            Ok((account, details))
        };
        (first..=last).map(device).collect()
    }
}

fn number() -> String {
    "{number}".to_owned()
}

/// A template with a number in it.
fn filled(key: &'static str, template: &str, number: &str) -> Result<String, RangeFault> {
    let bad = || (key, format!("'{template}' is not text with {{number}} or {{number:3}} in it"));
    let (before, rest) = template.split_once('{').ok_or_else(bad)?;
    let (name, after) = rest.split_once('}').ok_or_else(bad)?;
    let digits = match name.split_once(':') {
        None if name == "number" => number,
        Some(("number", count)) => {
            let count = count.parse::<usize>().ok().filter(|count| *count <= number.len());
            &number[number.len() - count.ok_or_else(bad)?..]
        }
        Some(_) | None => return Err(bad()),
    };
    let is_plain = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-+#*".contains(&byte))
    };
    match is_plain(before) && is_plain(after) {
        true => Ok(format!("{before}{digits}{after}")),
        false => Err(bad()),
    }
}
