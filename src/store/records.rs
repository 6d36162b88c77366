//! Records of the state: JSON with a version.

use super::{KeyValueStore, StoreError};
use serde::de::DeserializeOwned;

/// The version of the records. A field that is added has a default; anything else is a new version.
/// Absent in what was written before there were versions.
pub(crate) const VERSION: u32 = 1;

/// `None` for what a newer version has written: it is left alone.
pub(crate) fn is_readable(version: u32) -> Option<()> {
    (version <= VERSION).then_some(())
}

/// The entries of a table that can be read; the others are named in the log and left alone.
pub(crate) fn entries<R: DeserializeOwned, T>(
    store: &dyn KeyValueStore,
    table: &str,
    restore: fn(&str, R) -> Option<T>,
) -> Result<Vec<T>, StoreError> {
    let mut found = Vec::new();
    for (key, bytes) in store.load(table)? {
        match serde_json::from_slice(&bytes).ok().and_then(|record| restore(&key, record)) {
            Some(entry) => found.push(entry),
            None => tracing::warn!(table, key, "a kept entry can not be read and is ignored"),
        }
    }
    Ok(found)
}
