//! Room on the disk that is set aside while there is some: what a full disk does not take into the
//! state file is written here, in place.
//!
//! A file of fixed size beside the state file, with two slots that are written in turn, so that a
//! write that was cut short by a loss of power leaves the one before it:
//!
//! ```text
//! "UTRSRV01"  8 │ generation u64 │ incomplete u8 │ length u32
//!     │ SHA-256 of these three and the rest │ entries
//! entry: table u16 + text │ key u32 + text │ 1 + value u32 + bytes, or 0
//! ```
//!
//! Numbers are big-endian. A slot counts when its generation is above the one that the state file
//! has taken in.

use super::Write;
use crate::private;
use nix::fcntl::{FallocateFlags, fallocate};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"UTRSRV01";
const HEAD: usize = 8 + 8 + 1 + 4 + 32;
/// Some two hundred changes.
const SLOT: usize = 32 * 1024;

pub(super) struct Reserve {
    file: File,
    generation: u64,
}

/// What a slot holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SetAside {
    pub(super) generation: u64,
    /// Other changes were waiting that had no room here.
    pub(super) incomplete: bool,
    pub(super) changes: Vec<Write>,
}

impl Reserve {
    /// Opens or makes the file of a state file, and what was written last.
    pub(super) fn open(state: &Path) -> io::Result<(Self, SetAside)> {
        let file = private::open(&path_of(state))?;
        let length = (2 * SLOT) as u64;
        if file.metadata()?.len() < length {
            // Where a file system promises no room, what was written once has some.
            let _ = fallocate(&file, FallocateFlags::empty(), 0, length as i64);
            file.write_all_at(&vec![0; 2 * SLOT], 0)?;
            file.sync_all()?;
        }
        let mut latest = SetAside::default();
        for at in [0, SLOT] {
            let mut slot = vec![0; SLOT];
            file.read_exact_at(&mut slot, at as u64)?;
            latest =
                decode(&slot).filter(|slot| slot.generation > latest.generation).unwrap_or(latest);
        }
        let generation = latest.generation;
        Ok((Self { file, generation }, latest))
    }

    /// Changes of before this generation are in the state file.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Generations go on above this one.
    pub(super) fn follow(&mut self, generation: u64) {
        self.generation = self.generation.max(generation);
    }

    /// Writes the changes that fit, the first first; true when all do. On the disk when it returns.
    pub(super) fn write<'a>(
        &mut self,
        changes: impl Iterator<Item = (&'a str, &'a str, Option<&'a [u8]>)>,
        incomplete: bool,
    ) -> io::Result<bool> {
        let mut entries = Vec::new();
        let mut all = true;
        for change in changes {
            match entry(change) {
                Some(entry) if HEAD + entries.len() + entry.len() <= SLOT => entries.extend(entry),
                _ => all = false,
            }
        }
        let generation = self.generation + 1;
        let slot = encode(generation, incomplete || !all, &entries);
        self.file.write_all_at(&slot, generation % 2 * SLOT as u64)?;
        self.file.sync_data()?;
        self.generation = generation;
        Ok(all)
    }
}

pub(super) fn path_of(state: &Path) -> PathBuf {
    let mut name = state.as_os_str().to_owned();
    name.push(".reserve");
    name.into()
}

fn entry((table, key, value): (&str, &str, Option<&[u8]>)) -> Option<Vec<u8>> {
    let mut entry = u16::try_from(table.len()).ok()?.to_be_bytes().to_vec();
    entry.extend_from_slice(table.as_bytes());
    entry.extend(u32::try_from(key.len()).ok()?.to_be_bytes());
    entry.extend_from_slice(key.as_bytes());
    match value {
        None => entry.push(0),
        Some(value) => {
            entry.push(1);
            entry.extend(u32::try_from(value.len()).ok()?.to_be_bytes());
            entry.extend_from_slice(value);
        }
    }
    Some(entry)
}

fn encode(generation: u64, incomplete: bool, entries: &[u8]) -> Vec<u8> {
    let mut about = generation.to_be_bytes().to_vec();
    about.push(incomplete.into());
    about.extend((entries.len() as u32).to_be_bytes());
    let hash = Sha256::new().chain_update(&about).chain_update(entries).finalize();
    [MAGIC.as_slice(), &about, &hash, entries].concat()
}

/// `None`: nothing was ever written here, or not to its end.
fn decode(slot: &[u8]) -> Option<SetAside> {
    let mut rest = slot;
    let mut take = |length: usize| {
        let (taken, after) = rest.split_at_checked(length)?;
        rest = after;
        Some(taken)
    };
    if take(MAGIC.len())? != MAGIC {
        return None;
    }
    let (about, hash) = (take(13)?, take(32)?);
    let (generation, incomplete) =
        (u64::from_be_bytes(about.get(..8)?.try_into().ok()?), about.get(8)? != &0);
    let length = u32::from_be_bytes(about.get(9..)?.try_into().ok()?);
    let mut entries = take(usize::try_from(length).ok()?)?;
    if Sha256::new().chain_update(about).chain_update(entries).finalize().as_slice() != hash {
        return None;
    }
    let mut changes = Vec::new();
    while !entries.is_empty() {
        changes.push(change(&mut entries)?);
    }
    Some(SetAside { generation, incomplete, changes })
}

fn change(entries: &mut &[u8]) -> Option<Write> {
    let mut take = |length: usize| {
        let (taken, after) = entries.split_at_checked(length)?;
        *entries = after;
        Some(taken)
    };
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let length = u16::from_be_bytes(take(2)?.try_into().ok()?);
    let table = text(take(length.into())?)?;
    let length = u32::from_be_bytes(take(4)?.try_into().ok()?);
    let key = text(take(usize::try_from(length).ok()?)?)?;
    let value = match take(1)? {
        [0] => None,
        _ => {
            let length = u32::from_be_bytes(take(4)?.try_into().ok()?);
            Some(take(usize::try_from(length).ok()?)?.to_vec())
        }
    };
    Some(Write { table: table.into(), key, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(reserve: &mut Reserve, changes: &[Write], incomplete: bool) -> bool {
        let entries =
            changes.iter().map(|change| (&*change.table, &*change.key, change.value.as_deref()));
        reserve.write(entries, incomplete).expect("written")
    }

    #[test]
    fn what_was_written_last_is_found_and_a_torn_write_leaves_the_one_before_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path().join("state.redb");
        let (mut reserve, nothing) = Reserve::open(&state).expect("opens");
        assert_eq!(nothing, SetAside::default());
        let first = vec![Write::remove("a", "k"), Write::put("b", "l", [0, 255])];
        assert!(write(&mut reserve, &first, false));
        assert!(write(&mut reserve, &[Write::put("a", "k", "2")], true));
        let (_, found) = Reserve::open(&state).expect("opens");
        let second =
            SetAside { generation: 2, incomplete: true, changes: vec![Write::put("a", "k", "2")] };
        assert_eq!(found, second);
        reserve.file.write_all_at(b"x", HEAD as u64).expect("torn");
        let (_, found) = Reserve::open(&state).expect("opens");
        assert_eq!((found.generation, found.changes), (1, first));
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said() {
        let directory = tempfile::tempdir().expect("a directory");
        let state = directory.path().join("state.redb");
        let (mut reserve, _) = Reserve::open(&state).expect("opens");
        let changes = [
            Write::remove("a", "small"),
            Write::put("a", "large", vec![1; SLOT]),
            Write::remove("a", "last"),
        ];
        assert!(!write(&mut reserve, &changes, false));
        let (_, found) = Reserve::open(&state).expect("opens");
        assert!(found.incomplete);
        assert_eq!(found.changes, [changes[0].clone(), changes[2].clone()]);
        let length = std::fs::metadata(path_of(&state)).expect("there").len();
        assert_eq!(length, 2 * SLOT as u64);
    }

    #[test]
    fn no_bytes_panic_or_take_more_than_they_are() {
        let good = encode(7, false, &entry(("t", "key", Some(b"value"))).expect("small"));
        for at in 0..good.len() {
            for byte in [0, 1, 0x7f, 0xff] {
                let mut slot = good.clone();
                slot[at] = byte;
                let found = decode(&slot);
                assert!(found.is_none() || slot == good);
                decode(&good[..at]);
            }
        }
    }
}
