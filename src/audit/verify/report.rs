//! What verifying has found, for people and for programs.

use crate::audit::chain::ChainEnd;
use crate::hex::hex;
use crate::model::PlainText;
use serde_json::{Value, json};
use std::fmt;
use std::path::PathBuf;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A line is not what was written.
    Altered,
    /// Lines are missing between others.
    Removed,
    /// A line stands in another place than it was written.
    Reordered,
    /// A line was put in.
    Inserted,
    /// Lines are missing at the beginning or the end of the audit, or of a file.
    CutOff,
    /// A signature is not the key's, or not of these lines.
    Forged,
    /// At its start the writer has found another audit than it had left.
    Broken,
    /// The clock was put back.
    ClockBack,
}

impl Fault {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Altered => "altered",
            Fault::Removed => "removed",
            Fault::Reordered => "reordered",
            Fault::Inserted => "inserted",
            Fault::CutOff => "cut_off",
            Fault::Forged => "forged",
            Fault::Broken => "broken",
            Fault::ClockBack => "clock_back",
        }
    }
}

/// Something that is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    pub(super) file_number: Option<usize>,
    /// The line of the file: the one that is wrong, or the one after which something is missing; 0
    /// before the first.
    pub line: u64,
    /// What is wrong.
    pub fault: Fault,
    /// The first and the last number of the lines that it is about, where that is known.
    pub numbers: Option<(u64, u64)>,
    /// By how much the clock was put back, in milliseconds.
    pub back_ms: Option<u64>,
}

impl Finding {
    pub(super) fn clock(file_number: usize, line: u64, n: u64, back: u64) -> Self {
        Self {
            file: PathBuf::new(),
            file_number: Some(file_number),
            line,
            fault: Fault::ClockBack,
            numbers: Some((n, n)),
            back_ms: Some(back),
        }
    }

    fn text(&self) -> String {
        let lines = match self.numbers {
            Some((first, last)) if first == last => format!("line {first}"),
            Some((first, last)) => format!("lines {first} to {last}"),
            None => "the line".to_owned(),
        };
        let plural = self.numbers.is_some_and(|(first, last)| first != last);
        let (is, was) = if plural { ("are", "were") } else { ("is", "was") };
        match self.fault {
            Fault::Altered => format!("{lines} {was} altered"),
            Fault::Removed => format!("{lines} {was} removed after this one"),
            Fault::Reordered => format!("{lines} {is} not where it was written"),
            Fault::Inserted => format!("{lines} {was} inserted"),
            Fault::CutOff => format!("{lines} {is} missing after this one: cut off"),
            Fault::Forged => format!("{lines} {is} not what was signed"),
            Fault::Broken => {
                format!("{lines} {is} what the gateway wrote when it found the audit tampered with")
            }
            Fault::ClockBack => {
                format!("{lines}: the clock ran back by {} ms", self.back_ms.unwrap_or_default())
            }
        }
    }

    fn json(&self) -> Value {
        json!({
            "file": self.file.to_string_lossy(),
            "line": self.line,
            "fault": self.fault.as_str(),
            "first": self.numbers.map(|(first, _)| first),
            "last": self.numbers.map(|(_, last)| last),
            "back_ms": self.back_ms,
            "message": self.text(),
        })
    }
}

/// `audit.jsonl:17: altered: …`
impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = self.file.display().to_string();
        write!(f, "{}:{}: {}: {}", PlainText(&file), self.line, self.fault.as_str(), self.text())
    }
}

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// Its name.
    pub file: PathBuf,
    /// Lines that are none of the chain's.
    pub unchained: u64,
    /// The first and the last number of its lines.
    pub lines: Option<(u64, u64)>,
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The files, in the order of their lines.
    pub files: Vec<FileReport>,
    /// Lines of the chain.
    pub lines: u64,
    /// The number of the first.
    pub first: Option<u64>,
    /// The number of the last.
    pub last: Option<u64>,
    pub(super) end: Option<ChainEnd>,
    /// Lines after the last signature.
    pub unsigned: u64,
    /// The names of the keys that count.
    pub keys: Vec<String>,
    /// It is known how far the audit goes.
    pub has_head: bool,
    /// What is wrong.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Nothing is wrong.
    pub fn is_intact(&self) -> bool {
        self.findings.is_empty()
    }

    /// One JSON document.
    pub fn json(&self) -> Value {
        let files = self.files.iter().map(|file| {
            json!({
                "file": file.file.to_string_lossy(),
                "unchained": file.unchained,
                "first": file.lines.map(|(first, _)| first),
                "last": file.lines.map(|(_, last)| last),
            })
        });
        json!({
            "intact": self.is_intact(),
            "lines": self.lines,
            "first": self.first,
            "last": self.last,
            "hash": self.end.map(|end| hex(&end.hash)),
            "unsigned": self.unsigned,
            "keys": self.keys,
            "head": self.has_head,
            "files": files.collect::<Vec<_>>(),
            "findings": self.findings.iter().map(Finding::json).collect::<Vec<_>>(),
        })
    }

    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.keys.is_empty() {
            notes.push("no key was given: signatures were not looked at".to_owned());
        }
        if !self.has_head {
            notes.push("no head was given: what is cut off at the end is not missed".to_owned());
        }
        if self.unsigned > 0 && !self.has_head {
            notes.push(format!("the last {} lines are not signed", self.unsigned));
        }
        for file in self.files.iter().filter(|file| file.lines.is_none() && file.unchained > 0) {
            notes.push(format!(
                "{}: {} lines without a chain: nothing is known of them",
                PlainText(&file.file.display().to_string()),
                file.unchained
            ));
        }
        notes
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            writeln!(f, "{finding}")?;
        }
        for note in self.notes() {
            writeln!(f, "note: {note}")?;
        }
        let verdict = match self.is_intact() {
            true => "intact".to_owned(),
            false => format!("NOT intact, {} findings", self.findings.len()),
        };
        let (files, lines) = (self.files.len(), self.lines);
        match self.first.zip(self.last) {
            Some((first, last)) => {
                writeln!(f, "{lines} lines in {files} files, {first} to {last}: {verdict}")
            }
            None => writeln!(f, "no chained line in {files} files: {verdict}"),
        }
    }
}
