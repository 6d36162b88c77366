//! The chain: each line has a number, the hash of the line before it, and a signature.
//!
//! ```text
//! {"n":17,"at":"2026-11-23T01:25:26.123Z","event":"joined",…,"prev":"SHA-256 of 16","sig":"…"}
//! {"n":18,"at":…,"event":"checkpoint","cause":"interval","signs":"each","key":"…",…,"sig":"…"}
//! ```
//!
//! The hash is over the bytes of a line without its line feed. A signature is over the bytes of its
//! line before `,"sig":"`, and so over the number, the time and, through the hash, all lines before.
//! Once only checkpoints were signed; from the first that says `"signs":"each"` every line is.

use super::key::{AuditKey, PublicKey};
use super::utc;
use crate::hex::{from_hex, hex};
use crate::model::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

/// SHA-256 of a line.
pub type LineHash = [u8; 32];

/// What stands before a signature.
const SIGNATURE: &str = r#","sig":""#;
/// What `signs` is where every line is signed, in checkpoints and in the head.
pub(super) const EACH: &str = "each";

/// The last line of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChainEnd {
    /// Its number; 0: the chain has no line yet.
    pub n: u64,
    /// Its hash; zeros where it has none.
    pub hash: LineHash,
}

/// The hash of a line, without its line feed.
pub(super) fn hash_of(line: &[u8]) -> LineHash {
    Sha256::digest(line).into()
}

impl ChainEnd {
    /// Appends an object's members as the next line, line feed included.
    pub(super) fn append(&mut self, members: &str, key: &AuditKey, to: &mut Vec<u8>) {
        self.finish(&signed(self.opened(members), key), to);
    }

    /// As [`Self::append`], with the name of the key.
    pub(super) fn append_with_key(&mut self, members: &str, key: &AuditKey, to: &mut Vec<u8>) {
        let opened = self.opened(&format!(r#"{members},"key":"{}""#, key.public().id()));
        self.finish(&signed(opened, key), to);
    }

    fn opened(&self, members: &str) -> String {
        format!(r#"{{"n":{},{members},"prev":"{}""#, self.n + 1, hex(&self.hash))
    }

    fn finish(&mut self, line: &str, to: &mut Vec<u8>) {
        *self = Self { n: self.n + 1, hash: hash_of(line.as_bytes()) };
        to.extend_from_slice(line.as_bytes());
        to.push(b'\n');
    }
}

/// An object without its end, signed and ended.
pub(super) fn signed(opened: String, key: &AuditKey) -> String {
    let signature = key.sign(opened.as_bytes());
    format!("{opened}{SIGNATURE}{}\"}}", hex(&signature))
}

/// Whether the text of an object carries this key's signature; `None`: it carries none.
pub(super) fn is_signed(text: &str, key: &PublicKey) -> Option<bool> {
    let (opened, signature) = text.rsplit_once(SIGNATURE)?;
    let signature = signature.strip_suffix("\"}").and_then(from_hex::<64>);
    Some(signature.is_some_and(|signature| key.verifies(opened.as_bytes(), &signature)))
}

/// Why a line is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// The process has started.
    Start,
    /// It is the first line of a file.
    File,
    /// It is time.
    Interval,
    /// It is the last line of a file.
    Rotated,
    /// It is the last line of a process.
    End,
}

impl Cause {
    fn as_str(self) -> &'static str {
        match self {
            Cause::Start => "start",
            Cause::File => "file",
            Cause::Interval => "interval",
            Cause::Rotated => "rotated",
            Cause::End => "end",
        }
    }
}

pub(super) fn checkpoint(cause: Cause, at: Timestamp) -> String {
    let (at, cause) = (utc(at), cause.as_str());
    format!(r#""at":"{at}","event":"checkpoint","cause":"{cause}","signs":"{EACH}""#)
}

/// The audit that is found is not the one that was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Break {
    /// Its last line, as the head knows it; `None`: there is no head of this key.
    pub(super) expected: Option<ChainEnd>,
    /// The last line that is there.
    pub(super) found: ChainEnd,
}

pub(super) fn broken(what: &Break, at: Timestamp) -> String {
    let expected = what.expected.map_or_else(String::new, |expected| {
        format!(r#""expected":{},"expected_hash":"{}","#, expected.n, hex(&expected.hash))
    });
    let (at, found) = (utc(at), what.found);
    format!(
        r#""at":"{at}","event":"broken",{expected}"found":{},"found_hash":"{}""#,
        found.n,
        hex(&found.hash),
    )
}

/// What stood in a file before there was a chain.
pub(super) fn chain_begun(lines: u64, hash: &LineHash, at: Timestamp) -> String {
    let (at, hash) = (utc(at), hex(hash));
    format!(r#""at":"{at}","event":"chain_begun","lines_before":{lines},"hash_before":"{hash}""#)
}

/// Bytes of a line that was never whole, and that are cut off.
pub(super) fn torn(bytes: &[u8], at: Timestamp) -> String {
    let (at, count, hash) = (utc(at), bytes.len(), hex(&hash_of(bytes)));
    format!(r#""at":"{at}","event":"torn_line_cut","bytes":{count},"hash":"{hash}""#)
}

/// What of a line is the chain's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChainedLine {
    pub(super) n: u64,
    pub(super) prev: LineHash,
    pub(super) at: Timestamp,
    pub(super) has_signature: bool,
    pub(super) kind: LineKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LineKind {
    /// A line of the gateway.
    Plain,
    /// A line of the audit's own.
    Own,
    /// A line of the audit's own, with a signature of the key of this name. From the first that
    /// says so on, each line is signed.
    Checkpoint { key: String, signs_each: bool },
    /// A line of the audit's own: what was found before it is not what was written.
    Broken,
    /// The chain begins in a file that had so many lines, with this hash of all of them.
    ChainBegun { lines: u64, hash: LineHash },
    /// A file with these lines was removed, for it was old enough.
    FileRemoved { first: u64, last: u64, hash: LineHash },
}

#[derive(Deserialize)]
struct Members<'a> {
    n: u64,
    #[serde(borrow)]
    at: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    event: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    prev: std::borrow::Cow<'a, str>,
    sig: Option<IgnoredAny>,
    signs: Option<String>,
    key: Option<String>,
    lines_before: Option<u64>,
    hash_before: Option<String>,
    first: Option<u64>,
    last: Option<u64>,
    hash: Option<String>,
}

impl ChainedLine {
    /// `None`: it is no line of a chain, or is damaged.
    pub(super) fn parse(line: &[u8]) -> Option<Self> {
        let members: Members<'_> = serde_json::from_slice(line).ok()?;
        let hash = |text: &Option<String>| from_hex::<32>(text.as_deref()?);
        let kind = match members.event.as_ref() {
            "checkpoint" => LineKind::Checkpoint {
                key: members.key?,
                signs_each: members.signs.as_deref() == Some(EACH),
            },
            "broken" => LineKind::Broken,
            "chain_begun" => LineKind::ChainBegun {
                lines: members.lines_before?,
                hash: hash(&members.hash_before)?,
            },
            "file_removed" => LineKind::FileRemoved {
                first: members.first?,
                last: members.last?,
                hash: hash(&members.hash)?,
            },
            "torn_line_cut" => LineKind::Own,
            _ => LineKind::Plain,
        };
        Some(Self {
            n: members.n,
            prev: from_hex(&members.prev)?,
            at: super::parse_utc(&members.at)?,
            has_signature: members.sig.is_some(),
            kind,
        })
    }

    /// The end of a chain that ends with the line before this one.
    pub(super) fn before(&self) -> ChainEnd {
        ChainEnd { n: self.n.saturating_sub(1), hash: self.prev }
    }
}

/// Whether a line that is no [`ChainedLine`] is one of before there was a chain.
pub(super) fn is_of_before(line: &[u8]) -> bool {
    match serde_json::from_slice::<serde_json::Value>(line) {
        Ok(serde_json::Value::Object(object)) => {
            object.contains_key("event")
                && !object.contains_key("n")
                && !object.contains_key("prev")
        }
        Ok(_) | Err(_) => false,
    }
}
