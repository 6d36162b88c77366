//! What is wrong with a chain that is not whole, and at which line.
//!
//! A line is *anchored* when it is known to have been written with its number: the line after it
//! has its hash, or it has the hash of the line before it, or it is signed; a line with a wrong
//! signature, or none where there is one on each, does not take the number of one that is signed,
//! or one that the head does not know of. Of the anchored lines, those that stand in the order of
//! their numbers are in their *place*; the others were moved. What lies between two placed lines is
//! then held against the numbers that are missing there.

use super::{Clock, Fault, Finding};
use crate::audit::chain::{ChainEnd, LineHash};
use crate::model::Timestamp;
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// A line, by what the chain knows of it.
pub(super) struct Entry {
    pub(super) file: usize,
    pub(super) line: u64,
    pub(super) hash: LineHash,
    /// It may be from before there was a chain.
    pub(super) is_of_before: bool,
    pub(super) is_ended: bool,
    /// `None`: it cannot be read.
    pub(super) links: Option<Links>,
}

pub(super) struct Links {
    pub(super) n: u64,
    pub(super) prev: LineHash,
    pub(super) at: Timestamp,
    pub(super) is_plain: bool,
    /// It says that the audit was found broken.
    pub(super) is_broken: bool,
    /// Its signature is good; `None`: it has none.
    pub(super) signed: Option<bool>,
    /// The chain begins with it: how many lines were there before, and their hash.
    pub(super) begun: Option<Box<(u64, LineHash)>>,
}

/// What is known beside the lines.
pub(super) struct Known<'a> {
    /// The end of the chain before the first line.
    pub(super) start: ChainEnd,
    pub(super) head: Option<ChainEnd>,
    pub(super) is_part: bool,
    pub(super) files: &'a [PathBuf],
}

/// Everything that is wrong, in the order of the lines.
pub(super) fn findings(entries: Vec<Entry>, known: &Known<'_>) -> Vec<Finding> {
    let mut diagnosis =
        Diagnosis { entries, known, findings: Vec::new(), altered: BTreeSet::new() };
    diagnosis.set_unchained_apart();
    let anchored = diagnosis.anchored();
    let placed = diagnosis.placed(&anchored);
    diagnosis.compare(&anchored, &placed);
    diagnosis.check_placed(&placed);
    diagnosis.tell_broken();
    let mut findings = diagnosis.findings;
    findings.sort_by_key(|finding| (finding.file_number, finding.line));
    findings.dedup_by(|next, before| continues(before, next));
    findings
}

/// Takes a forged line into the finding of the forged lines before it: with another key than the
/// audit's it is all of them.
fn continues(before: &mut Finding, next: &Finding) -> bool {
    let (Some((first, last)), Some((from, to))) = (before.numbers, next.numbers) else {
        return false;
    };
    let are_forged = before.fault == Fault::Forged && next.fault == Fault::Forged;
    let is_next =
        are_forged && before.file_number == next.file_number && from == last.saturating_add(1);
    if is_next {
        before.numbers = Some((first, to));
    }
    is_next
}

struct Diagnosis<'a> {
    entries: Vec<Entry>,
    known: &'a Known<'a>,
    findings: Vec<Finding>,
    /// Placed lines that are not what was written.
    altered: BTreeSet<usize>,
}

/// A line in its place, or what comes before the first.
#[derive(Clone, Copy)]
struct Place {
    /// `None`: before the first.
    at: Option<usize>,
    end: ChainEnd,
}

/// Numbers that are missing, as ranges.
struct Missing(Vec<(u64, u64)>);

impl Missing {
    /// Between two numbers, without those that are elsewhere.
    fn between(after: u64, before: u64, elsewhere: &BTreeSet<u64>) -> Self {
        let mut ranges = Vec::new();
        let mut from = after.saturating_add(1);
        for &n in elsewhere.range(from.min(before)..before) {
            if n > from {
                ranges.push((from, n - 1));
            }
            from = n + 1;
        }
        if from < before {
            ranges.push((from, before - 1));
        }
        Self(ranges)
    }

    /// Takes a number out: this one if it is missing, or else the first.
    fn take(&mut self, wanted: Option<u64>) -> Option<u64> {
        let has = |&(first, last): &(u64, u64)| {
            wanted.is_some_and(|wanted| (first..=last).contains(&wanted))
        };
        let at = self.0.iter().position(has);
        let (at, n) = match (at, wanted) {
            (Some(at), Some(wanted)) => (at, wanted),
            (None | Some(_), _) => (0, self.0.first()?.0),
        };
        let (first, last) = self.0.remove(at);
        if n < last {
            self.0.insert(at, (n + 1, last));
        }
        if first < n {
            self.0.insert(at, (first, n - 1));
        }
        Some(n)
    }
}

impl Diagnosis<'_> {
    fn find(&mut self, at: Option<usize>, fault: Fault, numbers: Option<(u64, u64)>) {
        let (file_number, line) = match at.and_then(|at| self.entries.get(at)) {
            Some(entry) => (entry.file, entry.line),
            None => (0, 0),
        };
        self.push(file_number, line, fault, numbers);
    }

    fn push(&mut self, file: usize, line: u64, fault: Fault, numbers: Option<(u64, u64)>) {
        let (file_number, file) = (Some(file), PathBuf::new());
        self.findings.push(Finding { file, file_number, line, fault, numbers, back_ms: None });
    }

    fn end_of(&self, at: usize) -> Option<ChainEnd> {
        let entry = self.entries.get(at)?;
        Some(ChainEnd { n: entry.links.as_ref()?.n, hash: entry.hash })
    }

    /// The lines of before the chain are none of it; they are as they were counted when it began.
    fn set_unchained_apart(&mut self) {
        let entries = std::mem::take(&mut self.entries);
        let mut kept: Vec<Entry> = Vec::with_capacity(entries.len());
        let mut before: Vec<Entry> = Vec::new();
        let mut file = None;
        let mut has_begun = false;
        for entry in entries {
            if file.replace(entry.file) != Some(entry.file) {
                self.find_unchained(&mut before, &mut kept);
                has_begun = false;
            }
            match &entry.links {
                None if !has_begun => before.push(entry),
                None => kept.push(entry),
                Some(links) => {
                    let begun = links.begun.as_deref().copied();
                    if !has_begun && let Some((lines, hash)) = begun {
                        self.check_before(&before, lines, hash);
                        before.clear();
                    }
                    has_begun = true;
                    kept.append(&mut before);
                    kept.push(entry);
                }
            }
        }
        self.find_unchained(&mut before, &mut kept);
        self.entries = kept;
    }

    /// A file without a chain is none of the audit's.
    fn find_unchained(&mut self, lines: &mut Vec<Entry>, kept: &mut Vec<Entry>) {
        if let Some(first) = lines.iter().find(|entry| entry.is_of_before) {
            self.push(first.file, first.line, Fault::Inserted, None);
        }
        kept.extend(lines.drain(..).filter(|entry| !entry.is_of_before));
    }

    fn check_before(&mut self, before: &[Entry], lines: u64, hash: LineHash) {
        // The chain has the hash of all lines together: which of them was altered is not known,
        // unless it cannot be read any more.
        let unreadable = before.iter().find(|entry| !entry.is_of_before);
        let is_same = before.len() as u64 == lines && {
            let path = before.first().and_then(|entry| self.known.files.get(entry.file));
            path.is_some_and(|path| hash_of_lines(path, lines) == Some(hash))
        };
        if is_same || before.is_empty() && lines == 0 {
            return;
        }
        let file_number = before.first().map_or(0, |entry| entry.file);
        let (fault, line) = match (before.len() as u64).cmp(&lines) {
            std::cmp::Ordering::Less => (Fault::Removed, before.len() as u64),
            std::cmp::Ordering::Equal => (Fault::Altered, unreadable.map_or(1, |it| it.line)),
            std::cmp::Ordering::Greater => (Fault::Inserted, unreadable.map_or(1, |it| it.line)),
        };
        self.push(file_number, line, fault, None);
    }

    /// Which lines are known to have been written with their numbers.
    fn anchored(&self) -> Vec<bool> {
        let linked = self.entries.iter().filter_map(|entry| entry.links.as_ref());
        // What a line says of the one before it, and what lines are.
        let named: BTreeSet<(u64, LineHash)> =
            linked.filter_map(|links| Some((links.n.checked_sub(1)?, links.prev))).collect();
        let mut written: BTreeSet<(u64, LineHash)> = (0..self.entries.len())
            .filter_map(|at| self.end_of(at))
            .map(|end| (end.n, end.hash))
            .collect();
        written.insert((self.known.start.n, self.known.start.hash));
        let linked = self.entries.iter().filter_map(|entry| entry.links.as_ref());
        let signed: BTreeSet<u64> =
            linked.filter(|links| links.signed == Some(true)).map(|links| links.n).collect();
        let is_anchored = |(at, entry): (usize, &Entry)| {
            let Some((links, end)) = entry.links.as_ref().zip(self.end_of(at)) else {
                return false;
            };
            let is_unknown = self.known.head.is_some_and(|head| links.n > head.n);
            if links.signed == Some(false) && (is_unknown || signed.contains(&links.n)) {
                return false;
            }
            let before = links.n.checked_sub(1).map(|n| (n, links.prev));
            links.signed == Some(true)
                || self.known.head == Some(end)
                || named.contains(&(end.n, end.hash))
                || before.is_some_and(|before| written.contains(&before))
        };
        self.entries.iter().enumerate().map(is_anchored).collect()
    }

    /// Of the anchored lines the most that stand in the order of their numbers (the longest
    /// increasing subsequence, by patience).
    fn placed(&self, anchored: &[bool]) -> Vec<usize> {
        let mut piles: Vec<usize> = Vec::new();
        let mut under: Vec<Option<usize>> = vec![None; self.entries.len()];
        let n = |at: usize| self.end_of(at).map_or(0, |end| end.n);
        for at in (0..self.entries.len()).filter(|&at| anchored[at]) {
            let pile = piles.partition_point(|&top| n(top) < n(at));
            under[at] = pile.checked_sub(1).map(|pile| piles[pile]);
            match piles.get_mut(pile) {
                // The first of two with one number stays.
                Some(top) if n(*top) == n(at) => {}
                Some(top) => *top = at,
                None => piles.push(at),
            }
        }
        let mut placed = Vec::new();
        let mut next = piles.last().copied();
        while let Some(at) = next {
            placed.push(at);
            next = under[at];
        }
        placed.reverse();
        placed
    }

    /// Holds what lies between placed lines against the numbers that are missing there.
    fn compare(&mut self, anchored: &[bool], placed: &[usize]) {
        let is_placed: BTreeSet<usize> = placed.iter().copied().collect();
        let elsewhere: BTreeSet<u64> = (0..self.entries.len())
            .filter(|at| anchored[*at] && !is_placed.contains(at))
            .filter_map(|at| Some(self.end_of(at)?.n))
            .collect();
        let placed_ends: BTreeSet<(u64, LineHash)> =
            placed.iter().filter_map(|&at| self.end_of(at)).map(|end| (end.n, end.hash)).collect();
        let start = match (self.known.is_part, placed.first()) {
            (true, Some(&first)) => self.entries[first]
                .links
                .as_ref()
                .map(|links| ChainEnd { n: links.n.saturating_sub(1), hash: links.prev }),
            (true, None) | (false, _) => Some(self.known.start),
        };
        let mut before = Place { at: None, end: start.unwrap_or_default() };
        for next in placed.iter().copied().map(Some).chain([None]) {
            let from = before.at.map_or(0, |at| at + 1);
            let between: Vec<usize> = (from..next.unwrap_or(self.entries.len())).collect();
            let (moved, strange): (Vec<usize>, Vec<usize>) =
                between.into_iter().partition(|at| anchored[*at]);
            for at in moved {
                let Some(end) = self.end_of(at) else { continue };
                let fault = match placed_ends.contains(&(end.n, end.hash)) {
                    true => Fault::Inserted,
                    false => Fault::Reordered,
                };
                self.find(Some(at), fault, Some((end.n, end.n)));
            }
            self.fill(before, next, strange, &elsewhere);
            let Some(at) = next else { break };
            self.check_link(before, at);
            before = Place { at: Some(at), end: self.end_of(at).unwrap_or_default() };
        }
    }

    /// Strange lines stand for missing numbers, as far as these go.
    fn fill(
        &mut self,
        before: Place,
        next: Option<usize>,
        mut strange: Vec<usize>,
        elsewhere: &BTreeSet<u64>,
    ) {
        let until = match (next.and_then(|at| self.end_of(at)), self.known.head) {
            (Some(next), _) => Some(next.n),
            (None, Some(head)) if !self.known.is_part => Some(head.n.saturating_add(1)),
            (None, Some(_) | None) => None,
        };
        let mut missing = match until {
            Some(until) => Missing::between(before.end.n, until, elsewhere),
            None => Missing(Vec::new()),
        };
        strange.sort_by_key(|at| self.entries[*at].is_of_before);
        let mut has_altered = false;
        for at in strange {
            let entry = &self.entries[at];
            let own = entry.links.as_ref().map(|links| links.n);
            match missing.take(own) {
                Some(n) => {
                    has_altered = true;
                    self.find(Some(at), Fault::Altered, Some((n, n)));
                }
                // At the very end it is not known what should be there.
                None if next.is_none() && until.is_none() => {
                    self.find(Some(at), Fault::Altered, own.map(|n| (n, n)))
                }
                // The line that counted them is the one that was altered.
                None if entry.is_of_before && before.at.is_none() && has_altered => {}
                None => self.find(Some(at), Fault::Inserted, None),
            }
        }
        let file = |at: Option<usize>| at.and_then(|at| self.entries.get(at)).map(|it| it.file);
        let is_within = file(before.at).is_some() && file(before.at) == file(next);
        let fault = if is_within { Fault::Removed } else { Fault::CutOff };
        for range in missing.0 {
            self.find(before.at, fault, Some(range));
        }
    }

    /// A placed line that has not the hash of the placed line with the number before: that one is
    /// not what was written.
    fn check_link(&mut self, before: Place, at: usize) {
        let Some(links) = &self.entries[at].links else { return };
        if links.n != before.end.n.saturating_add(1) || links.prev == before.end.hash {
            return;
        }
        let wrong = before.at.unwrap_or(at);
        let n = self.end_of(wrong).map(|end| (end.n, end.n));
        self.altered.insert(wrong);
        self.find(Some(wrong), Fault::Altered, n);
    }

    /// What the gateway itself has found, wherever it stands now.
    fn tell_broken(&mut self) {
        for at in 0..self.entries.len() {
            let links = self.entries[at].links.as_ref();
            if let Some(n) = links.filter(|links| links.is_broken).map(|links| links.n) {
                self.find(Some(at), Fault::Broken, Some((n, n)));
            }
        }
    }

    /// Signatures, the head, unfinished lines, and the clock.
    fn check_placed(&mut self, placed: &[usize]) {
        let mut clock = Clock::default();
        for &at in placed {
            if self.altered.contains(&at) {
                continue;
            }
            let entry = &self.entries[at];
            let Some(links) = &entry.links else { continue };
            let (n, signed) = (links.n, links.signed);
            let end = ChainEnd { n, hash: entry.hash };
            let is_last = placed.last() == Some(&at);
            let head = self.known.head.filter(|head| head.n == n);
            if head.is_some_and(|head| head != end) || !entry.is_ended && head.is_some() {
                let fault = if is_last { Fault::Altered } else { Fault::Forged };
                self.find(Some(at), fault, Some((n, n)));
                continue;
            }
            if signed == Some(false) || !entry.is_ended && self.known.head.is_none() {
                let fault = if is_last { Fault::Altered } else { Fault::Forged };
                self.find(Some(at), fault, Some((n, n)));
                continue;
            }
            if let Some(back) = clock.take(links.at, links.is_plain) {
                self.findings.push(Finding::clock(entry.file, entry.line, n, back));
            }
        }
    }
}

/// The hash of the first lines of a file, with their line feeds.
fn hash_of_lines(path: &std::path::Path, count: u64) -> Option<LineHash> {
    use std::io::{BufRead, BufReader};
    let mut from = BufReader::new(std::fs::File::open(path).ok()?);
    let mut hash = Sha256::new();
    let mut left = count;
    while left > 0 {
        let available = from.fill_buf().ok()?;
        if available.is_empty() {
            return None;
        }
        let taken = match available.iter().position(|byte| *byte == b'\n') {
            Some(at) => {
                left -= 1;
                at + 1
            }
            None => available.len(),
        };
        hash.update(&available[..taken]);
        from.consume(taken);
    }
    Some(hash.finalize().into())
}
