//! What must survive: named maps from text to bytes, changed durably.

use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, TableDefinition, TableError};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Once, PoisonError};

/// Where things are kept. Shared by every room of a process; blocking, so noisy rooms call it from a blocking task or an own thread.
pub type Store = Arc<dyn Keeper>;

/// A place that keeps named maps.
pub trait Keeper: Send + Sync {
    /// Shows the entries of a map from `from` on, and before `to`, in the order of their keys.
    fn scan(&self, table: &str, from: &str, to: Option<&str>, visit: &mut dyn FnMut(&str, &[u8])) -> Result<(), StoreError>;

    /// The whole map; empty when nothing was ever put there.
    fn load(&self, table: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let mut entries = BTreeMap::new();
        self.scan(table, "", None, &mut |key, value| {
            entries.insert(key.to_owned(), value.to_vec());
        })?;
        Ok(entries)
    }

    /// Applies all changes or none. When it returns they survive kill −9 and loss of power.
    fn write(&self, changes: &[Change]) -> Result<(), StoreError>;
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which map.
    pub table: &'static str,
    /// Which entry.
    pub key: String,
    /// Its value from now on; `None` removes it.
    pub value: Option<Vec<u8>>,
}

impl Change {
    /// Sets an entry.
    pub fn put(table: &'static str, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self {
            table,
            key: key.into(),
            value: Some(value.into()),
        }
    }

    /// Removes an entry.
    pub fn remove(table: &'static str, key: impl Into<String>) -> Self {
        Self {
            table,
            key: key.into(),
            value: None,
        }
    }
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error("state file {}: {problem}", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// What is wrong, in one line.
        problem: String,
    },
    /// It was opened and fails now.
    #[error("state file {}: {error}", path.display())]
    Failed {
        /// Which file.
        path: PathBuf,
        /// What redb says.
        error: Box<redb::Error>,
    },
    /// No thread can be had to write with.
    #[error("the state can not be written: {0}")]
    Thread(std::io::Error),
    /// It was opened, and what is in it is not what was written.
    #[error("state file {}: {DAMAGED}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
    },
}

/// Opens or makes the state file, with its directory.
///
/// # Errors
/// One clear line: not readable, not ours, damaged, or in use by another process.
pub fn open(path: &Path) -> Result<Store, StoreError> {
    let failed = |problem: String| StoreError::Open {
        path: path.to_owned(),
        problem,
    };
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|error| failed(error.to_string()))?;
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        // It keeps what phones log in with.
        .mode(0o600)
        .open(path)
        .map_err(|error| failed(error.to_string()))?;
    match guarded(|| checked(file)) {
        Some(Ok(database)) => Ok(Arc::new(Redb {
            path: path.to_owned(),
            database: Some(database),
        })),
        Some(Err(DatabaseError::DatabaseAlreadyOpen)) => Err(failed("it is in use by another process".into())),
        Some(Err(error)) => Err(failed(one_line(&error.to_string()))),
        None => Err(failed(DAMAGED.into())),
    }
}

/// Opens the file and reads every page of it: damage is found before anything relies on it.
fn checked(file: File) -> Result<Database, DatabaseError> {
    let mut database = Database::builder().create_with_backend(FileBackend::new(file)?)?;
    if !database.check_integrity()? {
        tracing::warn!("the state file was damaged and has been repaired; its last change may be missing");
    }
    Ok(database)
}

const DAMAGED: &str = "it is damaged";

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// redb panics on some damaged files; a state file is input like any other. `None`: it has, and nothing was printed.
fn guarded<T>(work: impl FnOnce() -> T) -> Option<T> {
    static HOOKED: Once = Once::new();
    HOOKED.call_once(|| {
        let others = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            // Only this thread is silent: the hook is the whole process's.
            if !GUARDED.with(Cell::get) {
                others(panic);
            }
        }));
    });
    let before = GUARDED.replace(true);
    let done = panic::catch_unwind(AssertUnwindSafe(work)).ok();
    GUARDED.set(before);
    done
}

/// A store that forgets everything when dropped, for tests and the demo.
pub fn in_memory() -> Store {
    Arc::new(Memory::default())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Redb {
    path: PathBuf,
    /// `None` only while it is dropped.
    database: Option<Database>,
}

impl Drop for Redb {
    fn drop(&mut self) {
        let database = self.database.take();
        guarded(|| drop(database));
    }
}

impl Redb {
    fn guarded<T>(&self, work: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, StoreError> {
        let damaged = || StoreError::Damaged { path: self.path.clone() };
        let database = self.database.as_ref().ok_or_else(damaged)?;
        let done = guarded(|| work(database)).ok_or_else(damaged)?;
        done.map_err(|error| StoreError::Failed {
            path: self.path.clone(),
            error: Box::new(error),
        })
    }
}

fn definition(table: &str) -> TableDefinition<'_, &'static str, &'static [u8]> {
    TableDefinition::new(table)
}

impl Keeper for Redb {
    fn scan(&self, table: &str, from: &str, to: Option<&str>, visit: &mut dyn FnMut(&str, &[u8])) -> Result<(), StoreError> {
        self.guarded(|database| {
            let read = database.begin_read()?;
            let table = match read.open_table(definition(table)) {
                Ok(table) => table,
                Err(TableError::TableDoesNotExist(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let entries = match to {
                Some(to) => table.range(from..to)?,
                None => table.range(from..)?,
            };
            for entry in entries {
                let (key, value) = entry?;
                visit(key.value(), value.value());
            }
            Ok(())
        })
    }

    fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        self.guarded(|database| {
            let write = database.begin_write()?;
            for change in changes {
                let mut table = write.open_table(definition(change.table))?;
                match &change.value {
                    Some(value) => table.insert(change.key.as_str(), value.as_slice())?,
                    None => table.remove(change.key.as_str())?,
                };
            }
            write.commit()?;
            Ok(())
        })
    }
}

#[derive(Default)]
struct Memory {
    tables: Mutex<BTreeMap<String, BTreeMap<String, Vec<u8>>>>,
}

impl Keeper for Memory {
    fn scan(&self, table: &str, from: &str, to: Option<&str>, visit: &mut dyn FnMut(&str, &[u8])) -> Result<(), StoreError> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let entries = tables.get(table).into_iter().flatten();
        entries
            .filter(|(key, _)| key.as_str() >= from && to.is_none_or(|to| key.as_str() < to))
            .for_each(|(key, value)| visit(key, value));
        Ok(())
    }

    fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        for change in changes {
            let table = tables.entry(change.table.to_owned()).or_default();
            match &change.value {
                Some(value) => table.insert(change.key.clone(), value.clone()),
                None => table.remove(&change.key),
            };
        }
        Ok(())
    }
}
