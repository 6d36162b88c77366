//! What must survive: named maps from text to bytes, changed durably.
//!
//! ```text
//! write, write_behind ─▶ Lasting ───────────────▶ Redb (the state file)
//!                          │ what waits for the disk   ▲ closed and opened again after a failure
//!                          └──▶ Reserve ───────────────┘ at the next start
//! ```
//!
//! Loops never wait for a disk: each has a thread of its own that writes for it, see `writer`.

mod lasting;
pub(crate) mod records;
mod redb;
mod reserve;
pub(crate) mod writer;

use lasting::Lasting;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Where things are kept. Shared by every room of a process; blocking, so noisy rooms call it from
/// a blocking task or an own thread.
pub type Store = Arc<dyn KeyValueStore>;

/// A place that keeps named maps.
pub trait KeyValueStore: Send + Sync {
    /// Shows the entries of a map from `from` on, and before `to`, in the order of their keys.
    fn scan(
        &self,
        table: &str,
        from: &str,
        to: Option<&str>,
        visit: &mut dyn FnMut(&str, &[u8]),
    ) -> Result<(), StoreError>;

    /// The whole map; empty when nothing was ever put there.
    fn load(&self, table: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let mut entries = BTreeMap::new();
        self.scan(table, "", None, &mut |key, value| {
            entries.insert(key.to_owned(), value.to_vec());
        })?;
        Ok(entries)
    }

    /// Applies all changes or none. When it returns they survive kill −9 and loss of power.
    fn write(&self, changes: &[Write]) -> Result<(), StoreError>;

    /// Applies all changes, now if the disk takes them, else as soon as it does: until then they
    /// are read as if they had been written.
    ///
    /// # Errors
    /// More would have to be remembered than there is room for; then nothing was done.
    fn write_behind(
        &self,
        changes: &[Write],
        importance: Importance,
    ) -> Result<Safety, StoreError> {
        let _ = importance;
        self.write(changes).map(|()| Safety::Stored)
    }

    /// False from a change that the disk has not taken, or from too little room for one, until
    /// everything is in the state file again.
    fn is_writable(&self) -> bool {
        true
    }

    /// An earlier run has ended while more waited for the disk than could be set aside:
    /// [`Importance::Events`] of it are missing.
    fn has_forgotten(&self) -> bool {
        false
    }

    /// Makes ready for a change: what has failed is opened again.
    ///
    /// # Errors
    /// A change would fail.
    fn ready(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// It remembers by itself what the disk does not take.
    fn is_lasting(&self) -> bool {
        false
    }
}

/// What becomes of a change that is written behind when the disk does not take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    /// Settings, monitors, presence: in the room that is set aside on the disk, as far as it
    /// reaches, removals first.
    State,
    /// Events for clients that come back: in memory only.
    Events,
}

/// How safe a change is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Safety {
    /// In the state file.
    Stored,
    /// In the room set aside on the disk: it survives the end of the process.
    SetAside,
    /// In memory, until the disk takes it.
    Remembered,
}

/// One change of one entry.
#[derive(Clone, PartialEq, Eq)]
pub struct Write {
    /// The table of the entry.
    pub table: Cow<'static, str>,
    /// The key within the table.
    pub key: String,
    /// Its value from now on; `None` removes it.
    pub value: Option<Vec<u8>>,
}

/// Without the value: it may be a password's hash.
impl fmt::Debug for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = self.value.as_ref().map(Vec::len);
        write!(f, "Write({} {:?}, {size:?} bytes)", self.table, self.key)
    }
}

impl Write {
    /// Sets an entry.
    pub fn put(
        table: impl Into<Cow<'static, str>>,
        key: impl Into<String>,
        value: impl Into<Vec<u8>>,
    ) -> Self {
        Self { table: table.into(), key: key.into(), value: Some(value.into()) }
    }

    /// Removes an entry.
    pub fn remove(table: impl Into<Cow<'static, str>>, key: impl Into<String>) -> Self {
        Self { table: table.into(), key: key.into(), value: None }
    }

    /// Its size, in bytes.
    fn size(&self) -> usize {
        self.table.len() + self.key.len() + self.value.as_ref().map_or(0, Vec::len)
    }
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error("state file {}: {problem}", path.display())]
    Open {
        /// The file of the store.
        path: PathBuf,
        /// What is wrong, in one line.
        problem: String,
    },
    /// It was opened and fails now.
    #[error("state file {}: {error}", path.display())]
    Failed {
        /// The file of the store.
        path: PathBuf,
        /// What redb says.
        error: Box<::redb::Error>,
    },
    /// Its disk is full.
    #[error("state file {}: there is no room left on its disk", path.display())]
    Full {
        /// The file of the store.
        path: PathBuf,
    },
    /// The disk takes nothing, and as much waits for it as may.
    #[error("the state can not be written, and {waiting} bytes wait for the disk already")]
    TooMuch {
        /// How many bytes wait.
        waiting: usize,
    },
    /// No thread can be had to write with.
    #[error("the state can not be written: {0}")]
    Thread(std::io::Error),
    /// It was opened, and what is in it is not what was written.
    #[error("state file {}: {DAMAGED}", path.display())]
    Damaged {
        /// The file of the store.
        path: PathBuf,
    },
}

const DAMAGED: &str = "it is damaged";

/// Opens or makes the state file, with its directory.
///
/// # Errors
/// One clear line: not readable, not ours, damaged, or in use by another process.
pub fn open(path: &Path) -> Result<Store, StoreError> {
    Ok(Arc::new(Lasting::open(path)?))
}

/// A store that remembers what its disk does not take, over one that may not.
///
/// # Errors
/// No thread can be had.
pub fn lasting(store: Store) -> Result<Store, StoreError> {
    match store.is_lasting() {
        true => Ok(store),
        false => Ok(Arc::new(Lasting::over(store)?)),
    }
}

/// A store that forgets everything when dropped, for tests and the demo.
pub fn in_memory() -> Store {
    Arc::new(Memory::default())
}

#[derive(Default)]
struct Memory {
    tables: Mutex<BTreeMap<String, BTreeMap<String, Vec<u8>>>>,
}

impl KeyValueStore for Memory {
    fn is_lasting(&self) -> bool {
        true
    }

    fn scan(
        &self,
        table: &str,
        from: &str,
        to: Option<&str>,
        visit: &mut dyn FnMut(&str, &[u8]),
    ) -> Result<(), StoreError> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = tables.get(table).into_iter().flatten();
        entries
            .filter(|(key, _)| key.as_str() >= from && to.is_none_or(|to| key.as_str() < to))
            .for_each(|(key, value)| visit(key, value));
        Ok(())
    }

    fn write(&self, changes: &[Write]) -> Result<(), StoreError> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            let table = tables.entry(change.table.clone().into_owned()).or_default();
            match &change.value {
                Some(value) => table.insert(change.key.clone(), value.clone()),
                None => table.remove(&change.key),
            };
        }
        Ok(())
    }
}
