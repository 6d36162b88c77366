//! What must survive: named maps from text to bytes, changed durably.

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Where things are kept. Shared by every room of a process; blocking, so noisy rooms call it from a blocking task or an own thread.
pub type Store = Arc<dyn Keeper>;

/// A place that keeps named maps.
pub trait Keeper: Send + Sync {
    /// The whole map; empty when nothing was ever put there.
    fn load(&self, table: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError>;

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
    #[error("state file: {0}")]
    Failed(#[from] redb::Error),
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
    // redb panics on some damaged files; a state file is input like any other.
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        // It keeps what phones log in with.
        .mode(0o600)
        .open(path)
        .map_err(|error| failed(error.to_string()))?;
    let opened = std::panic::catch_unwind(move || Database::builder().create_with_backend(FileBackend::new(file)?));
    let database = match opened {
        Ok(Ok(database)) => database,
        Ok(Err(redb::DatabaseError::DatabaseAlreadyOpen)) => return Err(failed("it is in use by another process".into())),
        Ok(Err(error)) => return Err(failed(one_line(&error.to_string()))),
        Err(_) => return Err(failed("it is damaged".into())),
    };
    Ok(Arc::new(Redb { database }))
}

/// A store that forgets everything when dropped, for tests and the demo.
pub fn in_memory() -> Store {
    Arc::new(Memory::default())
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct Redb {
    database: Database,
}

fn definition(table: &str) -> TableDefinition<'_, &'static str, &'static [u8]> {
    TableDefinition::new(table)
}

impl Keeper for Redb {
    fn load(&self, table: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let read = self.database.begin_read().map_err(redb::Error::from)?;
        let table = match read.open_table(definition(table)) {
            Ok(table) => table,
            Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
            Err(error) => return Err(redb::Error::from(error).into()),
        };
        let mut entries = BTreeMap::new();
        for entry in table.iter().map_err(redb::Error::from)? {
            let (key, value) = entry.map_err(redb::Error::from)?;
            entries.insert(key.value().to_owned(), value.value().to_vec());
        }
        Ok(entries)
    }

    fn write(&self, changes: &[Change]) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(redb::Error::from)?;
        for change in changes {
            let mut table = write.open_table(definition(change.table)).map_err(redb::Error::from)?;
            match &change.value {
                Some(value) => table.insert(change.key.as_str(), value.as_slice()).map_err(redb::Error::from)?,
                None => table.remove(change.key.as_str()).map_err(redb::Error::from)?,
            };
        }
        write.commit().map_err(redb::Error::from)?;
        Ok(())
    }
}

#[derive(Default)]
struct Memory {
    tables: Mutex<BTreeMap<String, BTreeMap<String, Vec<u8>>>>,
}

impl Keeper for Memory {
    fn load(&self, table: &str) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(tables.get(table).cloned().unwrap_or_default())
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
