//! The state file. redb refuses everything after one failure of its file; closing it and opening it
//! again is what mends it.

use super::{DAMAGED, KeyValueStore, StoreError, Write};
use crate::private;
use nix::sys::statvfs::statvfs;
use redb::backends::FileBackend;
use redb::{Database, DatabaseError, ReadableDatabase, TableDefinition, TableError};
use std::cell::Cell;
use std::fs::File;
use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, PoisonError, RwLock, RwLockReadGuard};

/// Room on the disk without which no change is tried: redb copies every page that it changes.
const ROOM: u64 = 64 * 1024;

pub(super) struct Redb {
    path: PathBuf,
    /// `None` while it can not be opened again.
    database: RwLock<Option<Database>>,
    /// It has failed since it was opened.
    failed: AtomicBool,
}

impl Redb {
    /// Opens or makes the file, with its directory, and reads every page of it: damage is found
    /// before anything relies on it.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        if let Some(directory) = path.parent() {
            private::make_state_directory(directory).map_err(|error| StoreError::Open {
                path: path.to_owned(),
                problem: error.to_string(),
            })?;
        }
        let database = open_with(path, |mut database| {
            if !database.check_integrity()? {
                tracing::warn!(
                    "the state file was damaged and has been repaired; its last change may be \
                     missing"
                );
            }
            Ok(database)
        })?;
        Ok(Self {
            path: path.to_owned(),
            database: RwLock::new(Some(database)),
            failed: AtomicBool::new(false),
        })
    }

    fn database(&self) -> RwLockReadGuard<'_, Option<Database>> {
        self.database.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn guarded<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let damaged = || StoreError::Damaged { path: self.path.clone() };
        let database = self.database();
        let done = match database.as_ref() {
            Some(database) => guarded(|| work(database)).ok_or_else(damaged),
            None => Ok(Err(redb::Error::DatabaseClosed)),
        };
        let done = done.and_then(|done| {
            done.map_err(|error| StoreError::Failed {
                path: self.path.clone(),
                error: Box::new(error),
            })
        });
        if done.is_err() {
            self.failed.store(true, Ordering::Release);
        }
        done
    }

    /// A full disk is found before redb has failed of it. A file system that does not say has room.
    fn has_room(&self, bytes: usize) -> Result<(), StoreError> {
        let wanted = ROOM.saturating_add(4 * bytes as u64);
        let about = statvfs(&self.path).ok().filter(|about| about.blocks() > 0);
        match about {
            Some(about) if about.blocks_free().saturating_mul(about.fragment_size()) < wanted => {
                Err(StoreError::Full { path: self.path.clone() })
            }
            _ => Ok(()),
        }
    }
}

impl Drop for Redb {
    fn drop(&mut self) {
        let database = self.database.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        guarded(|| drop(database));
    }
}

impl KeyValueStore for Redb {
    fn scan(
        &self,
        table: &str,
        from: &str,
        to: Option<&str>,
        visit: &mut dyn FnMut(&str, &[u8]),
    ) -> Result<(), StoreError> {
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

    fn write(&self, changes: &[Write]) -> Result<(), StoreError> {
        self.has_room(changes.iter().map(Write::size).sum())?;
        self.guarded(|database| {
            let write = database.begin_write()?;
            for change in changes {
                let mut table = write.open_table(definition(&change.table))?;
                match &change.value {
                    Some(value) => table.insert(change.key.as_str(), value.as_slice())?,
                    None => table.remove(change.key.as_str())?,
                };
            }
            write.commit()?;
            Ok(())
        })
    }

    fn ready(&self) -> Result<(), StoreError> {
        if self.failed.load(Ordering::Acquire) {
            let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
            // Two of one process can not have it open either: its lock goes with the old one.
            let old = database.take();
            guarded(|| drop(old));
            *database = Some(open_with(&self.path, Ok)?);
            self.failed.store(false, Ordering::Release);
        }
        self.has_room(0)
    }
}

fn open_with(
    path: &Path,
    check: impl FnOnce(Database) -> Result<Database, DatabaseError>,
) -> Result<Database, StoreError> {
    let failed = |problem: String| StoreError::Open { path: path.to_owned(), problem };
    let file = private::open(path).map_err(|error| failed(error.to_string()))?;
    match guarded(|| database(file).and_then(check)) {
        Some(Ok(database)) => Ok(database),
        Some(Err(DatabaseError::DatabaseAlreadyOpen)) => {
            Err(failed("it is in use by another process".into()))
        }
        Some(Err(error)) => Err(failed(one_line(&error.to_string()))),
        None => Err(failed(DAMAGED.into())),
    }
}

fn database(file: File) -> Result<Database, DatabaseError> {
    Database::builder().create_with_backend(FileBackend::new(file)?)
}

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// redb panics on some damaged files; a state file is input like any other. `None`: it has, and
/// nothing was printed.
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

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn definition(table: &str) -> TableDefinition<'_, &'static str, &'static [u8]> {
    TableDefinition::new(table)
}
