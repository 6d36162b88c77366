//! Lines of the audit for people and programs, by what they are about.

use super::key::disk;
use super::lines::LineReader;
use super::{AuditError, escaped_json};
use crate::model::PlainText;
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::PathBuf;

/// Which lines are to be shown. What is left out does not matter.
#[derive(Clone, Debug, Default)]
pub struct ShowOptions {
    /// The files, in any order.
    pub files: Vec<PathBuf>,
    /// The names of a supervisor: login name, devices.
    pub supervisor: Option<BTreeSet<String>>,
    /// The names of an agent: login name, devices, numbers.
    pub agent: Option<BTreeSet<String>>,
    /// A call.
    pub call: Option<String>,
    /// Not before.
    pub from: Option<Moment>,
    /// Not after.
    pub to: Option<Moment>,
    /// The lines as they are, instead of lines for people.
    pub json: bool,
}

/// A day, an hour, a minute, a second or a millisecond, by UTC: the beginning of an RFC 3339 time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment(String);

impl std::str::FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const PATTERN: &str = "0000-00-00T00:00:00.000";
        let text = text.trim_end_matches('Z').replace(' ', "T");
        let fits = text.bytes().zip(PATTERN.bytes()).all(|(byte, like)| match like {
            b'0' => byte.is_ascii_digit(),
            like => byte == like,
        });
        match fits && [10, 13, 16, 19, 23].contains(&text.len()) {
            true => Ok(Self(text)),
            false => {
                Err("must be a UTC time or the beginning of one: 2026-11-23, 2026-11-23T14:05")
            }
        }
    }
}

impl ShowOptions {
    fn wants(&self, line: &Value) -> bool {
        let text = |key: &str| line.get(key).and_then(Value::as_str);
        let has = |names: &Option<BTreeSet<String>>, keys: &[&str]| {
            names.as_ref().is_none_or(|names| {
                keys.iter().filter_map(|key| text(key)).any(|value| names.contains(value))
            })
        };
        let at = text("at").unwrap_or_default();
        let same_length = |moment: &Moment| at.get(..moment.0.len()).unwrap_or(at).to_owned();
        has(&self.supervisor, &["user", "device"])
            && has(&self.agent, &["target", "number"])
            && self.call.as_deref().is_none_or(|call| text("call") == Some(call))
            && self.from.as_ref().is_none_or(|from| same_length(from) >= from.0)
            && self.to.as_ref().is_none_or(|to| same_length(to) <= to.0)
    }
}

/// Writes the lines. Returns how many could not be read.
///
/// # Errors
/// A file cannot be read; nobody reads what is written.
pub fn show(options: &ShowOptions, out: &mut impl Write) -> Result<u64, AuditError> {
    let mut unreadable = 0;
    for path in super::verify::in_order(&options.files)? {
        let failed = |error: io::Error| disk(&path, &error);
        let mut lines = LineReader::new(std::fs::File::open(&path).map_err(failed)?);
        while let Some(line) = lines.next().map_err(failed)? {
            let Ok(value @ Value::Object(_)) = serde_json::from_slice::<Value>(line.bytes) else {
                unreadable += 1;
                continue;
            };
            if !options.wants(&value) {
                continue;
            }
            let written = match (options.json, std::str::from_utf8(line.bytes)) {
                (true, Ok(text)) => writeln!(out, "{}", escaped_json(text)),
                (true, Err(_)) => Ok(()),
                (false, _) => writeln!(out, "{}", for_people(&value)),
            };
            written.map_err(|_| AuditError::Closed)?;
        }
    }
    Ok(unreadable)
}

/// `2026-11-23T01:25:26.123Z joined user=meg device=… target=… call=…`
fn for_people(line: &Value) -> String {
    const NOT_SHOWN: [&str; 8] = ["at", "event", "n", "prev", "sig", "signs", "key", "from"];
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let head = ["at", "event"].map(|key| line.get(key).map(text).unwrap_or_default());
    let mut shown = head.join(" ");
    for (key, value) in line.as_object().into_iter().flatten() {
        if NOT_SHOWN.contains(&key.as_str()) {
            continue;
        }
        let value = text(value);
        match value.contains([' ', '"', '=']) {
            true => shown.push_str(&format!(" {key}={:?}", PlainText(&value).to_string())),
            false => shown.push_str(&format!(" {key}={}", PlainText(&value))),
        }
    }
    shown
}
