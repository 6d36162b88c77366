//! The audit: which supervisor listened to which device. One JSON object per line, on disk before
//! anybody hears anything.
//!
//! A thread of its own (`store::writer`) gathers what waits, appends it in one write and asks the
//! disk to keep it (fsync) before it says so.

use crate::model::Timestamp;
use crate::store::writer::{NotTaken, Sink, Writer, WriterFault};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use serde::Serialize;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// Lines that may wait for the disk; beyond them an attempt is refused rather than remembered.
const WAITING_LINES: usize = 4096;

/// How often a file that could not be written is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(500);

/// The audit file. Cheap to clone; the writer thread ends with the last clone.
#[derive(Clone, Debug)]
pub struct AuditLog {
    writer: Arc<Writer<AuditFile>>,
    writable: Arc<AtomicBool>,
}

/// Why a line is not on disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened or written.
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

/// Room on disk that a check asks for: some hundred lines.
const ROOM: i64 = 64 * 1024;

impl AuditLog {
    /// Opens or makes the file, with its directory; only its owner may read it.
    ///
    /// # Errors
    /// The file cannot be opened for appending.
    pub fn open(path: &Path) -> Result<Self, AuditError> {
        let mut file = AuditFile {
            path: path.to_owned(),
            file: None,
            writable: Arc::new(AtomicBool::new(false)),
        };
        if let Err(error) = file.ready() {
            return Err(file.failed(&error));
        }
        file.probe();
        let writable = file.writable.clone();
        let (writer, thread) = Writer::new(WAITING_LINES);
        thread::Builder::new().name("audit".into()).spawn(move || thread.run(file)).map_err(
            |error| AuditError::Disk { path: path.to_owned(), problem: error.to_string() },
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
        self.put(Vec::new(), done);
    }

    /// Appends a line; `done` is called on the writer's thread once it is on disk or has failed.
    /// Never blocks.
    pub fn write(
        &self,
        line: &AuditLine<'_>,
        done: impl FnOnce(Result<(), AuditError>) + Send + 'static,
    ) {
        self.put(line.to_bytes(), done);
    }

    fn put(&self, line: Vec<u8>, done: impl FnOnce(Result<(), AuditError>) + Send + 'static) {
        if let Err(not_taken) = self.writer.write(line, done) {
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
}

impl AuditLine<'_> {
    /// The line with its end. No control character, escape sequence or line separator survives
    /// unescaped.
    fn to_bytes(&self) -> Vec<u8> {
        let json =
            serde_json::to_string(self).unwrap_or_else(|_| r#"{"event":"unwritable"}"#.to_owned());
        let mut line = escaped_json(&json).into_bytes();
        line.push(b'\n');
        line
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

struct AuditFile {
    path: PathBuf,
    file: Option<File>,
    writable: Arc<AtomicBool>,
}

impl Sink for AuditFile {
    /// A line; an empty one finds out whether lines can be written.
    type Change = Vec<u8>;
    type Outcome = Result<(), AuditError>;

    fn write(&mut self, lines: Vec<Vec<u8>>) -> Result<(), AuditError> {
        let written = self.append(&lines.concat()).map_err(|error| {
            self.file = None;
            self.failed(&error)
        });
        self.writable.store(written.is_ok(), Ordering::Relaxed);
        written
    }

    fn size(_: &Vec<u8>) -> usize {
        1
    }

    fn idle_after(&self) -> Option<Duration> {
        (!self.writable.load(Ordering::Relaxed)).then_some(TRY_AGAIN)
    }

    fn handle_idle(&mut self) {
        self.probe();
    }
}

impl AuditFile {
    fn failed(&self, error: &io::Error) -> AuditError {
        AuditError::Disk { path: self.path.clone(), problem: error.to_string() }
    }

    /// Finds out whether a line could be written, and leaves none.
    fn probe(&mut self) {
        let tried = self.try_out();
        if tried.is_err() {
            self.file = None;
        }
        self.writable.store(tried.is_ok(), Ordering::Relaxed);
    }

    fn try_out(&mut self) -> io::Result<()> {
        let mut file = self.ready()?;
        let before = file.seek(SeekFrom::End(0))?;
        file.write_all(b"\n").and_then(|()| file.sync_data())?;
        match file.metadata()?.is_file() {
            true => file.set_len(before),
            false => Ok(()),
        }
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut file = self.ready()?;
        if lines.is_empty() {
            return set_room_aside(file);
        }
        let before = file.seek(SeekFrom::End(0))?;
        let kept = file.write_all(lines).and_then(|()| file.sync_data());
        if kept.is_err() {
            // What was refused must not stand there as if it had been allowed; should this fail
            // too, the line is cut off at reopening.
            let _ = file.set_len(before);
        }
        kept
    }

    /// The open file; opened anew after a failure or when it was moved away (log rotation).
    fn ready(&mut self) -> io::Result<&File> {
        let moved = |file: &File| match (file.metadata(), std::fs::metadata(&self.path)) {
            (Ok(open), Ok(named)) => (open.dev(), open.ino()) != (named.dev(), named.ino()),
            _ => true,
        };
        let file = match self.file.take() {
            Some(file) if !moved(&file) => file,
            _ => open(&self.path)?,
        };
        Ok(self.file.insert(file))
    }
}

fn open(path: &Path) -> io::Result<File> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = directory {
        std::fs::create_dir_all(directory)?;
    }
    let mut file =
        OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
    end_torn_line(&mut file)?;
    if let Some(directory) = directory {
        File::open(directory)?.sync_all()?;
    }
    Ok(file)
}

/// A full disk is found before the line that has no room.
fn set_room_aside(mut file: &File) -> io::Result<()> {
    let about = file.metadata()?;
    if !about.is_file() {
        // No room to set aside in a device or a pipe: an empty line tells.
        return file.write_all(b"\n");
    }
    let end = i64::try_from(about.len()).map_err(io::Error::other)?;
    match fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, end, ROOM) {
        // A file system that promises no room.
        Ok(()) | Err(Errno::EOPNOTSUPP | Errno::ENOSYS) => file.sync_data(),
        Err(error) => Err(error.into()),
    }
}

/// A power cut may have left half a line: it must not swallow the next one.
fn end_torn_line(file: &mut File) -> io::Result<()> {
    if !file.metadata()?.is_file() || file.seek(SeekFrom::End(0))? == 0 {
        return Ok(());
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    match last {
        [b'\n'] => Ok(()),
        _ => file.write_all(b"\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    fn written(audit: &AuditLog, line: &AuditLine<'_>) -> Result<(), AuditError> {
        let (tell, told) = channel();
        audit.write(line, move |outcome| tell.send(outcome).expect("the test waits"));
        told.recv().expect("the writer answers")
    }

    fn lines(path: &Path) -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(path).expect("the file is there");
        text.split_terminator('\n')
            .map(|line| serde_json::from_str(line).expect("each line is one JSON object"))
            .collect()
    }

    #[test]
    fn a_line_is_on_disk_when_it_is_said_to_be() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("new").join("audit.jsonl");
        let audit = AuditLog::open(&path).expect("it opens");
        let line = AuditLine {
            at: Timestamp(1_795_397_126_123),
            event: "allowed",
            user: Some("meg"),
            heard_ms: Some(12),
            ..AuditLine::default()
        };
        written(&audit, &line).expect("it is written");
        let expected = serde_json::json!({
            "at": "2026-11-23T01:25:26.123Z", "event": "allowed", "user": "meg", "heard_ms": 12,
        });
        assert_eq!(lines(&path), [expected]);
    }

    #[test]
    fn nobody_can_write_a_line_of_his_own_or_talk_to_the_terminal() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.jsonl");
        let audit = AuditLog::open(&path).expect("it opens");
        let evil =
            "a\r\n{\"event\":\"allowed\"}\u{1b}[2J\u{9b}2J\u{7f}\u{2028}\u{202e}\",\"level\":\"x";
        written(&audit, &AuditLine { event: "refused", user: Some(evil), ..AuditLine::default() })
            .expect("it is written");
        let text = std::fs::read_to_string(&path).expect("the file is there");
        assert!(
            text.trim_end_matches('\n').bytes().all(|byte| (0x20..0x7f).contains(&byte)),
            "{text:?}"
        );
        assert_eq!(lines(&path)[0]["user"], evil);
        assert_eq!(lines(&path).len(), 1);
    }

    #[test]
    fn many_lines_at_once_are_all_kept_in_order() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.jsonl");
        let audit = AuditLog::open(&path).expect("it opens");
        let (tell, told) = channel();
        for number in 0..500 {
            let tell = tell.clone();
            let line =
                AuditLine { event: "allowed", heard_ms: Some(number), ..AuditLine::default() };
            audit.write(&line, move |outcome| tell.send(outcome).expect("the test waits"));
        }
        assert!(told.iter().take(500).all(|outcome| outcome.is_ok()));
        let numbers: Vec<_> = lines(&path).iter().map(|line| line["heard_ms"].as_u64()).collect();
        assert_eq!(numbers, (0..500).map(Some).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_disk_is_reported_and_the_audit_recovers_when_it_can_write_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.jsonl");
        std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
        let audit = AuditLog::open(&path).expect("it opens");
        let line = AuditLine { event: "allowed", ..AuditLine::default() };
        assert!(!audit.is_writable(), "known before anybody asks");
        assert!(matches!(written(&audit, &line), Err(AuditError::Disk { .. })));
        assert!(!audit.is_writable());
        std::fs::remove_file(&path).expect("it goes");
        while !audit.is_writable() {
            thread::yield_now();
        }
        assert_eq!(lines(&path).len(), 0, "finding out has left nothing");
        written(&audit, &line).expect("it is written");
        assert_eq!(lines(&path).len(), 1);
    }

    #[test]
    fn a_check_finds_a_full_disk_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.jsonl");
        let audit = AuditLog::open(&path).expect("it opens");
        let checked = || {
            let (tell, told) = channel();
            audit.check(move |outcome| tell.send(outcome).expect("the test waits"));
            told.recv().expect("the writer answers")
        };
        assert_eq!(checked(), Ok(()));
        assert_eq!(std::fs::read(&path).expect("the file is there"), b"");
        std::fs::remove_file(&path).expect("it goes");
        std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
        assert!(matches!(checked(), Err(AuditError::Disk { .. })));
    }

    #[test]
    fn half_a_line_left_by_a_power_cut_does_not_swallow_the_next() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("audit.jsonl");
        std::fs::write(&path, "{\"event\":\"allo").expect("half a line");
        let audit = AuditLog::open(&path).expect("it opens");
        written(&audit, &AuditLine { event: "joined", ..AuditLine::default() })
            .expect("it is written");
        let text = std::fs::read_to_string(&path).expect("the file is there");
        let last: serde_json::Value =
            serde_json::from_str(text.lines().last().expect("a line")).expect("whole");
        assert_eq!(last["event"], "joined");
    }
}
