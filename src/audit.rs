//! The audit: which supervisor listened to which device. One JSON object per line, on disk before
//! anybody hears anything, and chained, so that a line that is changed or missing is found.
//!
//! ```text
//! AuditLog::write ──▶ thread: number, hash of the line before, one write, one fsync ──▶ done
//!                             each line is signed; a checkpoint now and then, the head after each write
//! ```
//!
//! A thread of its own (`store::writer`) gathers what waits, appends it in one write and asks the
//! disk to keep it (fsync) before it says so. `chain` is what a line looks like, `file` the file
//! that is written, `key` what signs it, `tail` what is looked at before it goes on; `verify` and
//! `show` read it.

mod chain;
mod file;
mod key;
mod lines;
pub mod show;
mod tail;
#[cfg(test)]
mod tests;
pub mod verify;

use crate::model::{Timestamp, config_value};
use crate::store::writer::{NotTaken, Writer, WriterFault};
use file::{AuditChange, AuditFile};
pub use key::{HEAD_FILE, KEY_FILE, PUBLIC_KEY_FILE, PublicKey};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Lines that may wait for the disk; beyond them an attempt is refused rather than remembered.
const WAITING_LINES: usize = 4096;

/// Where the audit is kept, and for how long.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// The file that is written.
    pub file: PathBuf,
    /// When another file is begun, whatever its size.
    pub rotate: Rotation,
    /// Bytes of a file after which another is begun; 0: any number.
    pub rotate_size: u64,
    /// Days after which a file that is not written any more is removed; 0: never.
    pub keep_days: u32,
    /// How long lines go without a signed one after them.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub checkpoint: Duration,
    /// The directory of the key and the head.
    #[serde(skip)]
    pub state_dir: PathBuf,
}

/// When another file is begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rotation {
    /// Never by the clock.
    Never,
    /// With the first line of a day, by UTC.
    Daily,
}

impl AuditConfig {
    /// One file with its key beside it, never rotated.
    pub fn of(file: &Path) -> Self {
        Self {
            file: file.to_owned(),
            rotate: Rotation::Never,
            rotate_size: 0,
            keep_days: 0,
            checkpoint: Duration::from_secs(60),
            state_dir: file.parent().map(Path::to_owned).unwrap_or_default(),
        }
    }
}

/// The audit file. Cheap to clone; the writer thread ends with the last clone.
#[derive(Clone, Debug)]
pub struct AuditLog {
    writer: Arc<Writer<AuditFile>>,
    writable: Arc<AtomicBool>,
}

/// Why a line is not on disk, or a file of the audit not to be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened, read or written.
    #[error("audit file {}: {problem}", path.display())]
    Disk {
        /// The file that it is about.
        path: PathBuf,
        /// What the system says.
        problem: String,
    },
    /// Too many lines wait for the disk.
    #[error("too many audit lines wait for the disk")]
    Overloaded,
    /// The writer has ended.
    #[error("the audit writer has ended")]
    Closed,
}

impl AuditLog {
    /// Opens or makes the file with its key; only its owner may read them, and no symbolic link is
    /// followed.
    ///
    /// # Errors
    /// The file or its key cannot be opened, or another process writes it.
    pub fn open(config: &AuditConfig) -> Result<Self, AuditError> {
        let file = AuditFile::open(config.clone())?;
        tracing::info!(key = file.public_key().id(), "the audit is signed with this key");
        let writable = file.writable();
        let (writer, thread) = Writer::new(WAITING_LINES);
        thread::Builder::new().name("audit".into()).spawn(move || thread.run(file)).map_err(
            |error| AuditError::Disk { path: config.file.clone(), problem: error.to_string() },
        )?;
        Ok(Self { writer: Arc::new(writer), writable })
    }

    /// False from a line that could not be written until one could be again.
    pub fn is_writable(&self) -> bool {
        self.writable.load(Ordering::Relaxed)
    }

    /// Finds out whether lines can still be written, and leaves nothing in the file: room for some
    /// is set aside behind its end, and the disk is asked to keep what it has. `done` as for
    /// [`Self::write`].
    pub fn check(&self, done: impl FnOnce(Result<(), AuditError>) + Send + 'static) {
        self.put(AuditChange::Check, done);
    }

    /// Appends a line; `done` is called on the writer's thread once it is on disk or has failed.
    /// Never blocks.
    pub fn write(
        &self,
        line: &AuditLine<'_>,
        done: impl FnOnce(Result<(), AuditError>) + Send + 'static,
    ) {
        self.put(AuditChange::Line(line.members()), done);
    }

    /// The file may have been moved away: opens it anew.
    pub fn reopen(&self) {
        self.put(AuditChange::Reopen, |reopened| {
            if let Err(error) = reopened {
                tracing::error!(%error, "the audit can not be opened again: nobody may listen");
            }
        });
    }

    fn put(&self, change: AuditChange, done: impl FnOnce(Result<(), AuditError>) + Send + 'static) {
        if let Err(not_taken) = self.writer.write(change, done) {
            let NotTaken { why, done, .. } = *not_taken;
            done(Err(match why {
                WriterFault::Full => AuditError::Overloaded,
                WriterFault::Ended => AuditError::Closed,
            }));
        }
    }
}

/// One line. Absent fields are left out.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AuditLine<'a> {
    /// When; RFC 3339, UTC.
    #[serde(serialize_with = "rfc3339")]
    pub at: Timestamp,
    /// The event that the line is about.
    pub event: &'a str,
    /// The user that asked, by login name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<&'a str>,
    /// The service that asked on behalf of the user, as the configuration names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<&'a str>,
    /// The address of the client that asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The id of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<&'a str>,
    /// The operation asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<&'a str>,
    /// The supervisor's device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<&'a str>,
    /// The monitored device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<&'a str>,
    /// The number that the request named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub number: Option<&'a str>,
    /// The call that is monitored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<&'a str>,
    /// What the supervisor does on the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activity: Option<&'a str>,
    /// The mode that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<&'a str>,
    /// The scope that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<&'a str>,
    /// Why refused: the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<&'a str>,
    /// Why refused, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<&'a str>,
    /// How long the supervisor has heard the call, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heard_ms: Option<u64>,
    /// Of refused attempts that were not written down: how many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<u64>,
    /// What the sound of a join was, leg by leg.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sound: Vec<AuditSound<'a>>,
    /// The beginning of what the line is about; as `at`.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_rfc3339")]
    pub since: Option<Timestamp>,
}

/// The sound of one leg during a join.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AuditSound<'a> {
    /// What it was on the call.
    pub role: &'a str,
    /// The local port.
    pub port: u16,
    /// Where its packets went.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// What they were.
    pub codec: &'a str,
    /// RTP packets that were sent to a customer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets: Option<u64>,
    /// Of these: the agent's payload, byte for byte.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agents: Option<u64>,
    /// The hash before them, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash_before: Option<String>,
    /// The hash behind them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

impl AuditLine<'_> {
    /// The members of the line's object. No control character, escape sequence or line separator
    /// survives unescaped.
    fn members(&self) -> String {
        let json =
            serde_json::to_string(self).unwrap_or_else(|_| r#"{"event":"unwritable"}"#.to_owned());
        let members = json.strip_prefix('{').and_then(|json| json.strip_suffix('}'));
        escaped_json(members.unwrap_or_default())
    }
}

/// JSON with what serde_json leaves alone but a terminal may obey: DEL, C1 controls, line
/// separators, bidirectional overrides.
pub(crate) fn escaped_json(json: &str) -> String {
    let dangerous = |c: char| {
        matches!(
            c,
            '\u{7f}'..='\u{9f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}'
        )
    };
    if !json.contains(dangerous) {
        return json.to_owned();
    }
    let mut escaped = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        match dangerous(c) {
            true => escaped.push_str(&format!("\\u{:04x}", c as u32)),
            false => escaped.push(c),
        }
    }
    escaped
}

fn rfc3339<S: serde::Serializer>(at: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&utc(*at))
}

fn some_rfc3339<S: serde::Serializer>(
    at: &Option<Timestamp>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    at.map(utc).serialize(serializer)
}

/// `2026-11-23T01:25:26.123Z`
pub(crate) fn utc(at: Timestamp) -> String {
    let (seconds, millis) = (at.0 / 1000, at.0 % 1000);
    let (days, clock) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant, "chrono-compatible low-level date algorithms", civil_from_days.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (clock / 3600, clock / 60 % 60, clock % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// The time that [`utc`] writes so, and no other text.
pub(crate) fn parse_utc(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| {
        let digits = bytes.get(from..to)?;
        digits.iter().all(u8::is_ascii_digit).then_some(())?;
        std::str::from_utf8(digits).ok()?.parse::<u64>().ok()
    };
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute) = (number(11, 13)?, number(14, 16)?);
    let (second, millis) = (number(17, 19)?, number(20, 23)?);
    (year >= 1970 && (1..=12).contains(&month) && hour < 24).then_some(())?;
    // Howard Hinnant, "chrono-compatible low-level date algorithms", days_from_civil.
    let shifted = year - u64::from(month <= 2);
    let (era, year_of_era) = (shifted / 400, shifted % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = (era * 146_097 + day_of_era).checked_sub(719_468)?;
    let at = Timestamp(((days * 24 + hour) * 3600 + minute * 60 + second) * 1000 + millis);
    (utc(at) == text).then_some(at)
}

/// The day of a time, since 1970, by UTC.
fn day_of(at: Timestamp) -> u64 {
    at.0 / 86_400_000
}
