//! Whether an audit is what was written: every line of its files held against its neighbours, the
//! signatures, and the head.
//!
//! A first reading goes line by line and holds none of them. Only if something is wrong, a second
//! one takes the numbers and hashes of all lines into memory and finds out what (`diagnosis`).

mod diagnosis;
mod report;

use super::AuditError;
use super::chain::{ChainEnd, ChainedLine, LineKind, is_signed};
use super::key::{Head, PublicKey, disk, read_head};
use super::lines::{LineReader, RawLine};
use crate::model::Timestamp;
use diagnosis::{Entry, Links};
pub use report::{Fault, FileReport, Finding, Report};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A line of the gateway may wait so long for the audit's thread, which dates its own lines itself.
const WAITED: Duration = Duration::from_secs(5);
/// Lines that are looked at to find out where in the audit a file belongs.
const LOOKED_AT: usize = 5;
/// What gzip files begin with (RFC 1952 2.3.1).
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// What is to be verified.
#[derive(Clone, Debug, Default)]
pub struct VerifyOptions {
    /// The files, in any order.
    pub files: Vec<PathBuf>,
    /// Whose signatures count; none: they are not looked at.
    pub keys: Vec<PublicKey>,
    /// The file that says how far the audit goes.
    pub head: Option<PathBuf>,
    /// The files are not the whole audit: what comes before and after them is not asked for.
    pub is_part: bool,
}

/// The files that are to be read where none is named: the audit's own and those that it has become
/// by rotation. The second list: those among them that are compressed and are not read.
///
/// # Errors
/// The directory cannot be read.
pub fn files_of(audit: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), AuditError> {
    let (mut files, compressed) =
        super::lines::rotated(audit).map_err(|error| disk(audit, &error))?;
    if audit.exists() || files.is_empty() {
        files.push(audit.to_owned());
    }
    Ok((files, compressed))
}

/// Verifies files.
///
/// # Errors
/// A file cannot be read: nothing is known then.
pub fn verify(options: &VerifyOptions) -> Result<Report, AuditError> {
    // First of all: while the audit is written, it goes further than the head that was read.
    let head = match (&options.head, options.keys.first()) {
        (Some(path), Some(_)) => Some(head_of(path, &options.keys)?),
        (Some(_), None) | (None, _) => None,
    };
    let files = in_order(&options.files)?;
    let mut first = FirstReading::new(options, head);
    for (number, path) in files.iter().enumerate() {
        read(path, |line| first.take(number, line))?;
        first.end_file(path);
    }
    first.finish();
    let mut report = first.report(&files);
    if first.is_suspicious {
        let mut entries = Vec::new();
        let mut signatures = Signatures::new(&options.keys, head);
        for (number, path) in files.iter().enumerate() {
            read(path, |line| entries.push(Entry::of(number, line, &mut signatures)))?;
        }
        let known = diagnosis::Known {
            start: first.start(),
            head: head.map(|head| head.end),
            is_part: options.is_part,
            files: &files,
        };
        report.findings = diagnosis::findings(entries, &known);
    }
    for finding in &mut report.findings {
        let file = finding.file_number.and_then(|number| files.get(number));
        finding.file = file.cloned().unwrap_or_default();
    }
    Ok(report)
}

fn head_of(path: &Path, keys: &[PublicKey]) -> Result<Head, AuditError> {
    let mut outcome = Err(AuditError::Closed);
    for key in keys {
        outcome = read_head(path, key);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn read(path: &Path, mut visit: impl FnMut(&RawLine<'_>)) -> Result<(), AuditError> {
    let failed = |error| disk(path, &error);
    let mut lines = LineReader::new(File::open(path).map_err(failed)?);
    while let Some(line) = lines.next().map_err(failed)? {
        if line.number == 1 && line.bytes.starts_with(&GZIP) {
            let problem = "it is compressed: unpack it first".to_owned();
            return Err(AuditError::Disk { path: path.to_owned(), problem });
        }
        visit(&line);
    }
    Ok(())
}

/// The files in the order of their lines. Where a file belongs is said by several of its lines: one
/// of them may have been changed.
pub(super) fn in_order(files: &[PathBuf]) -> Result<Vec<PathBuf>, AuditError> {
    let mut placed = Vec::new();
    for path in files {
        let mut votes: BTreeMap<i128, usize> = BTreeMap::new();
        let failed = |error| disk(path, &error);
        let mut lines = LineReader::new(File::open(path).map_err(failed)?);
        let mut looked_at = 0;
        while looked_at < LOOKED_AT
            && let Some(line) = lines.next().map_err(failed)?
        {
            if let Some(chained) = line.chained() {
                *votes.entry(i128::from(chained.n) - i128::from(line.number)).or_default() += 1;
                looked_at += 1;
            }
        }
        let place = votes.into_iter().max_by_key(|(_, count)| *count).map(|(place, _)| place);
        placed.push((place, path.clone()));
    }
    placed.sort();
    placed.dedup();
    Ok(placed.into_iter().map(|(_, path)| path).collect())
}

/// The reading that holds no line.
struct FirstReading<'a> {
    options: &'a VerifyOptions,
    head: Option<ChainEnd>,
    signatures: Signatures<'a>,
    is_suspicious: bool,
    /// The line before; `None` before the first of all.
    end: Option<ChainEnd>,
    first: Option<ChainedLine>,
    /// Chained lines in all, and those after the last signature.
    lines: u64,
    unsigned: u64,
    has_head: bool,
    clock: Clock,
    /// The ends of files that were removed for their age.
    removed: Vec<ChainEnd>,
    file: FileSoFar,
    files: Vec<FileReport>,
    findings: Vec<Finding>,
}

/// What is known of the file that is read.
#[derive(Default)]
struct FileSoFar {
    before: u64,
    first: Option<u64>,
    last: u64,
    hash: sha2::Sha256,
}

impl<'a> FirstReading<'a> {
    fn new(options: &'a VerifyOptions, head: Option<Head>) -> Self {
        Self {
            options,
            head: head.map(|head| head.end),
            signatures: Signatures::new(&options.keys, head),
            is_suspicious: false,
            end: None,
            first: None,
            lines: 0,
            unsigned: 0,
            has_head: head.is_none(),
            clock: Clock::default(),
            removed: Vec::new(),
            file: FileSoFar::default(),
            files: Vec::new(),
            findings: Vec::new(),
        }
    }

    fn take(&mut self, file: usize, line: &RawLine<'_>) {
        use sha2::Digest;
        let Some(chained) = line.chained() else {
            self.is_suspicious |= self.file.first.is_some() || !line.is_of_before();
            self.file.before += 1;
            self.file.hash.update(line.bytes);
            self.file.hash.update(b"\n");
            return;
        };
        if self.file.first.is_none() && self.file.before > 0 {
            let hash = self.file.hash.clone().finalize().into();
            let begun = LineKind::ChainBegun { lines: self.file.before, hash };
            // A chain begins once.
            self.is_suspicious |= chained.kind != begun || chained.n != 1;
        }
        self.is_suspicious |= self.end.is_some_and(|end| chained.before() != end);
        self.is_suspicious |= self.signatures.check(line, &chained) == Some(false);
        let end = ChainEnd { n: chained.n, hash: line.hash };
        // An unfinished line may be on its way; one that the head knows of is not.
        self.is_suspicious |= !line.is_ended && self.head.is_none_or(|head| chained.n <= head.n);
        if let Some(head) = self.head
            && head.n == end.n
        {
            self.has_head = true;
            self.is_suspicious |= head != end;
        }
        self.unsigned = if chained.has_signature { 0 } else { self.unsigned + 1 };
        match &chained.kind {
            LineKind::Broken => self.is_suspicious = true,
            LineKind::FileRemoved { last, hash, .. } => {
                self.removed.push(ChainEnd { n: *last, hash: *hash })
            }
            LineKind::Plain
            | LineKind::Own
            | LineKind::Checkpoint { .. }
            | LineKind::ChainBegun { .. } => {}
        }
        if let Some(back) = self.clock.take(chained.at, chained.kind == LineKind::Plain) {
            self.findings.push(Finding::clock(file, line.number, chained.n, back));
        }
        self.lines += 1;
        self.file.first.get_or_insert(chained.n);
        self.file.last = chained.n;
        self.end = Some(end);
        if self.first.is_none() {
            self.first = Some(chained);
        }
    }

    fn end_file(&mut self, path: &Path) {
        let file = std::mem::take(&mut self.file);
        self.is_suspicious |= file.before > 0 && file.first.is_none();
        self.files.push(FileReport {
            file: path.to_owned(),
            unchained: file.before,
            lines: file.first.map(|first| (first, file.last)),
        });
    }

    fn finish(&mut self) {
        self.is_suspicious |= !self.options.is_part && !self.has_head;
        if let (Some(first), false) = (&self.first, self.options.is_part) {
            self.is_suspicious |= first.before() != self.start();
        }
    }

    /// The end of the chain before the first line that should be there.
    fn start(&self) -> ChainEnd {
        let before = self.first.as_ref().map(ChainedLine::before).unwrap_or_default();
        match self.removed.contains(&before) {
            true => before,
            false => ChainEnd::default(),
        }
    }

    fn report(&mut self, files: &[PathBuf]) -> Report {
        debug_assert_eq!(files.len(), self.files.len());
        Report {
            files: std::mem::take(&mut self.files),
            lines: self.lines,
            first: self.first.as_ref().map(|first| first.n),
            last: self.end.map(|end| end.n),
            end: self.end,
            unsigned: self.unsigned,
            keys: self.options.keys.iter().map(PublicKey::id).collect(),
            has_head: self.head.is_some(),
            findings: std::mem::take(&mut self.findings),
        }
    }
}

/// Holds signatures against the keys, in the order of the lines.
struct Signatures<'a> {
    keys: &'a [PublicKey],
    head: Option<Head>,
    /// From here on each line is signed.
    are_everywhere: bool,
}

impl<'a> Signatures<'a> {
    fn new(keys: &'a [PublicKey], head: Option<Head>) -> Self {
        Self { keys, head, are_everywhere: false }
    }

    /// Whether a line that should be signed is; `None`: it needs no signature, or nobody's counts.
    fn check(&mut self, line: &RawLine<'_>, chained: &ChainedLine) -> Option<bool> {
        if self.keys.is_empty() {
            return None;
        }
        let is_behind = |head: Head| head.signs_each && chained.n > head.end.n;
        let name = match &chained.kind {
            LineKind::Checkpoint { key, .. } => Some(key),
            _ if chained.has_signature => None,
            _ => {
                let needs = self.are_everywhere || self.head.is_some_and(is_behind);
                return needs.then_some(false);
            }
        };
        let is_good = |text: &str| {
            let mut keys = self.keys.iter().filter(|key| name.is_none_or(|name| key.id() == *name));
            keys.any(|key| is_signed(text, key) == Some(true))
        };
        let is_good = std::str::from_utf8(line.bytes).is_ok_and(is_good);
        if let LineKind::Checkpoint { signs_each: true, .. } = chained.kind {
            self.are_everywhere |= is_good;
        }
        Some(is_good)
    }
}

/// Finds out where the clock was put back. The gateway dates its lines in their order; those of the
/// audit itself may be dated a little later than a line that has waited for it.
#[derive(Debug, Default)]
struct Clock {
    plain: Option<Timestamp>,
    own: Option<Timestamp>,
}

impl Clock {
    /// By how many milliseconds it was put back before this line.
    fn take(&mut self, at: Timestamp, is_plain: bool) -> Option<u64> {
        let waited = WAITED.as_millis() as u64;
        let back = |before: Option<Timestamp>, allowed: u64| {
            let back = before?.0.saturating_sub(at.0);
            (back > allowed).then_some(back)
        };
        let (of_plain, of_own) = match is_plain {
            true => (0, waited),
            false => (waited, 0),
        };
        let found = back(self.plain, of_plain).max(back(self.own, of_own));
        if found.is_some() {
            *self = Self::default();
        }
        match is_plain {
            true => self.plain = Some(at),
            false => self.own = Some(at),
        }
        found
    }
}

impl Entry {
    fn of(file: usize, line: &RawLine<'_>, signatures: &mut Signatures<'_>) -> Self {
        let links = line.chained().map(|chained| Links {
            n: chained.n,
            prev: chained.prev,
            at: chained.at,
            is_plain: chained.kind == LineKind::Plain,
            is_broken: chained.kind == LineKind::Broken,
            signed: signatures.check(line, &chained),
            begun: match chained.kind {
                LineKind::ChainBegun { lines, hash } if chained.n == 1 => {
                    Some(Box::new((lines, hash)))
                }
                LineKind::Plain
                | LineKind::Own
                | LineKind::Broken
                | LineKind::ChainBegun { .. }
                | LineKind::Checkpoint { .. }
                | LineKind::FileRemoved { .. } => None,
            },
        });
        Self {
            file,
            line: line.number,
            hash: line.hash,
            is_of_before: links.is_none() && line.is_of_before(),
            is_ended: line.is_ended,
            links,
        }
    }
}
