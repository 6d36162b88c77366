//! Files of the audit as they lie on the disk: their lines, their ends, and which belong together.

use super::chain::{ChainEnd, ChainedLine, LineHash, hash_of, is_of_before};
use crate::model::Timestamp;
use crate::private;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A longer line is none of ours; of it only the hash is taken.
const MAX_LINE: usize = 64 * 1024;
/// What is read of a file's end to find its last line.
pub(super) const TAIL: u64 = 2 * MAX_LINE as u64;
/// Ends of names that are not read: what has been compressed.
const COMPRESSED: [&str; 4] = ["gz", "bz2", "xz", "zst"];

/// One line as it lies in its file.
pub(super) struct RawLine<'a> {
    /// Its number in the file, from 1.
    pub(super) number: u64,
    /// Without its line feed; the beginning of one that is too long.
    pub(super) bytes: &'a [u8],
    pub(super) hash: LineHash,
    /// It ends with a line feed.
    pub(super) is_ended: bool,
    pub(super) is_too_long: bool,
}

impl RawLine<'_> {
    pub(super) fn chained(&self) -> Option<ChainedLine> {
        (!self.is_too_long).then(|| ChainedLine::parse(self.bytes)).flatten()
    }

    /// It may be one of before there was a chain.
    pub(super) fn is_of_before(&self) -> bool {
        !self.is_too_long && is_of_before(self.bytes)
    }
}

/// Reads a file line by line, whatever is in it.
pub(super) struct LineReader<R> {
    from: BufReader<R>,
    line: Vec<u8>,
    number: u64,
    /// Of all that has been read.
    all: Sha256,
}

impl<R: Read> LineReader<R> {
    pub(super) fn new(from: R) -> Self {
        let from = BufReader::with_capacity(MAX_LINE, from);
        Self { from, line: Vec::new(), number: 0, all: Sha256::new() }
    }

    /// The hash of all lines so far, with their line feeds.
    pub(super) fn hash_so_far(&self) -> LineHash {
        self.all.clone().finalize().into()
    }

    pub(super) fn next(&mut self) -> io::Result<Option<RawLine<'_>>> {
        self.line.clear();
        let mut hash = Sha256::new();
        let (mut length, mut is_ended) = (0, false);
        while !is_ended {
            let available = match self.from.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                break;
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            hash.update(part);
            self.all.update(part);
            let room = MAX_LINE.saturating_sub(self.line.len()).min(part.len());
            self.line.extend_from_slice(&part[..room]);
            length += part.len();
            let taken = part.len() + usize::from(end.is_some());
            if end.is_some() {
                is_ended = true;
                self.all.update(b"\n");
            }
            self.from.consume(taken);
        }
        if length == 0 && !is_ended {
            return Ok(None);
        }
        self.number += 1;
        Ok(Some(RawLine {
            number: self.number,
            bytes: &self.line,
            hash: hash.finalize().into(),
            is_ended,
            is_too_long: length > MAX_LINE,
        }))
    }
}

/// What a file has at its beginning and at its end.
#[derive(Clone, Debug, Default)]
pub(super) struct FileEnds {
    /// Lines before the first of a chain, and the hash of them all.
    pub(super) before: Option<(u64, LineHash)>,
    pub(super) first: Option<ChainedLine>,
    /// Its last line that counts in a chain.
    pub(super) last: Option<(ChainEnd, Timestamp)>,
    /// What follows the last line feed.
    pub(super) torn: Vec<u8>,
}

impl FileEnds {
    /// Reads a file of a chain from both ends, any other whole.
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let from = length.saturating_sub(TAIL);
        let mut tail = vec![0; usize::try_from(length - from).unwrap_or_default()];
        file.read_exact_at(&mut tail, from)?;
        let whole = tail.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let torn = tail.split_off(whole);
        let lines = tail.strip_suffix(b"\n").unwrap_or_default();
        let last = lines.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let last = ChainedLine::parse(last)
            .map(|line| (ChainEnd { n: line.n, hash: hash_of(last) }, line.at));
        match last {
            Some(last) => Ok(Self { last: Some(last), torn, ..Self::beginning(file)? }),
            None => Ok(Self { torn, ..Self::scanned(file)? }),
        }
    }

    fn beginning(file: &File) -> io::Result<Self> {
        let mut lines = LineReader::new(Positioned { file, at: 0 });
        let mut ends = Self::default();
        while ends.first.is_none() {
            let before = lines.hash_so_far();
            let Some(line) = lines.next()? else { break };
            ends.first = line.chained();
            if ends.first.is_some() && line.number > 1 {
                ends.before = Some((line.number - 1, before));
            }
        }
        Ok(ends)
    }

    /// Line by line: what cannot be read is counted, so that the numbers after it are right.
    fn scanned(file: &File) -> io::Result<Self> {
        let mut lines = LineReader::new(Positioned { file, at: 0 });
        let mut ends = Self::default();
        let mut count = 0;
        loop {
            let before = lines.hash_so_far();
            let Some(line) = lines.next()? else { break };
            if !line.is_ended {
                // The torn rest of a file without a chain is no line of it.
                if ends.first.is_none() && count > 0 {
                    ends.before = Some((count, before));
                }
                return Ok(ends);
            }
            count = line.number;
            match (line.chained(), &mut ends.last) {
                (Some(chained), _) => {
                    ends.last = Some((ChainEnd { n: chained.n, hash: line.hash }, chained.at));
                    if ends.first.is_none() {
                        ends.before = (line.number > 1).then_some((line.number - 1, before));
                        ends.first = Some(chained);
                    }
                }
                (None, Some((last, _))) => *last = ChainEnd { n: last.n + 1, hash: line.hash },
                (None, None) => {}
            }
        }
        if ends.first.is_none() && count > 0 {
            ends.before = Some((count, lines.hash_so_far()));
        }
        Ok(ends)
    }
}

/// A file read from a place, whatever else is done with it.
pub(super) struct Positioned<'a> {
    pub(super) file: &'a File,
    pub(super) at: u64,
}

impl Read for Positioned<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(to, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// The files that an audit file has become by rotation, ours and logrotate's: `audit.jsonl.…`,
/// `audit.jsonl-…`, `audit-….jsonl`. The second list: those that are compressed.
pub(super) fn rotated(path: &Path) -> io::Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let text = |part: Option<&std::ffi::OsStr>| {
        part.and_then(|part| part.to_str()).unwrap_or_default().to_owned()
    };
    let (name, stem, end) =
        (text(path.file_name()), text(path.file_stem()), text(path.extension()));
    let (mut plain, mut compressed) = (Vec::new(), Vec::new());
    if name.is_empty() {
        return Ok((plain, compressed));
    }
    for entry in std::fs::read_dir(directory.unwrap_or(Path::new(".")))? {
        let entry = entry?;
        let file_name = entry.file_name();
        let Some(other) = file_name.to_str() else { continue };
        let follows = |begin: &str| {
            other.strip_prefix(begin).is_some_and(|rest| rest.starts_with(['.', '-']))
        };
        let is_dated = !end.is_empty()
            && other.strip_prefix(&stem).is_some_and(|rest| rest.starts_with('-'))
            && other.ends_with(&format!(".{end}"));
        if other == name || !(follows(&name) || is_dated) || !entry.file_type()?.is_file() {
            continue;
        }
        let path = directory.map_or_else(|| PathBuf::from(other), |it| it.join(other));
        match COMPRESSED.iter().any(|end| path.extension().is_some_and(|it| it == *end)) {
            true => compressed.push(path),
            false => plain.push(path),
        }
    }
    plain.sort();
    compressed.sort();
    Ok((plain, compressed))
}

/// An audit file with its ends.
pub(super) fn ends_of(path: &Path) -> io::Result<FileEnds> {
    FileEnds::of(&private::open_existing(path)?)
}
