//! Whether the end of a file is what its writer has left there: the last line that the head knows,
//! and behind it lines of the key alone, for a process may be killed between a line and its head,
//! and a power cut may take the head back by some seconds.

use super::chain::{ChainEnd, is_signed};
use super::key::{Head, PublicKey};
use super::lines::{LineReader, Positioned, RawLine, TAIL};
use std::fs::File;
use std::io;

/// The known line is looked for from the end, in so many bytes, then in more.
const WINDOWS: [u64; 3] = [TAIL, 64 * TAIL, u64::MAX];

/// What the end of a file is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tail {
    /// The last line that is known to be ours; `None`: there is none.
    pub(super) end: Option<ChainEnd>,
    /// A line behind the known one is not ours, or not in its place.
    pub(super) has_strange: bool,
}

/// Looks for the line that the head knows (without a head: for any line of the keys) and at those
/// that come after it.
///
/// # Errors
/// The file cannot be read.
pub(super) fn examine(file: &File, head: Option<Head>, keys: &[PublicKey]) -> io::Result<Tail> {
    let length = file.metadata()?.len();
    for window in WINDOWS {
        let from = length.saturating_sub(window);
        let tail = walk(file, from, head, keys)?;
        if tail.end.is_some() || from == 0 {
            return Ok(tail);
        }
    }
    Ok(Tail::default())
}

fn walk(file: &File, from: u64, head: Option<Head>, keys: &[PublicKey]) -> io::Result<Tail> {
    let mut lines = LineReader::new(Positioned { file, at: from });
    if from > 0 {
        // The rest of a line that began before.
        lines.next()?;
    }
    let mut tail = Tail::default();
    // Behind the known line a file may begin.
    let mut is_first = from == 0;
    while let Some(line) = lines.next()? {
        if !line.is_ended {
            break;
        }
        let chained = line.chained();
        let this = chained.as_ref().map(|it| ChainEnd { n: it.n, hash: line.hash });
        let before = chained.as_ref().map(|it| it.before());
        let is_unsigned = chained.as_ref().is_some_and(|it| !it.has_signature);
        let is_ours = || match (head, is_unsigned) {
            // Written before each line was signed.
            (Some(head), true) => !head.signs_each,
            (Some(_) | None, _) => is_of(&line, keys),
        };
        let end = match (head, tail.end) {
            (Some(head), None) if is_first => Some(head.end),
            (Some(_) | None, end) => end,
        };
        match head {
            Some(head) if tail.end.is_none() && this == Some(head.end) => tail.end = this,
            Some(_) if end.is_some() && before == end && is_ours() => tail.end = this,
            Some(_) => tail.has_strange |= tail.end.is_some(),
            None if this.is_some() && is_ours() => tail.end = this,
            None => {}
        }
        is_first &= this.is_none();
    }
    Ok(tail)
}

fn is_of(line: &RawLine<'_>, keys: &[PublicKey]) -> bool {
    let text = std::str::from_utf8(line.bytes);
    text.is_ok_and(|text| keys.iter().any(|key| is_signed(text, key) == Some(true)))
}
