//! Users, devices and groups in the state file: one record each, in the words of the configuration
//! file, without any secret.

use super::editor::{DirectoryEditor, EntryId};
use super::fields::{self, Fields};
use crate::gateway::{DeviceEntry, Directory};
use crate::sip::b2bua::AccountKind;
use crate::sip::config::SipAccounts;
use crate::store::records::{VERSION, is_readable};
use crate::store::{Store, StoreError, Write};
use serde_json::Value;
use std::sync::Arc;

const USERS: &str = "directory.users";
const DEVICES: &str = "directory.devices";
const GROUPS: &str = "directory.groups";
/// The key of a record's version, which is no key of an entry.
const VERSION_KEY: &str = "version";

/// The directory that is kept, with the voice environments and the id of the contact centre of
/// this one; `None`: none is kept. Accounts have no HA1s.
///
/// # Errors
/// The store fails.
pub fn load(store: &Store, of: &Directory) -> Result<Option<(Directory, SipAccounts)>, StoreError> {
    let [users, devices, groups] = [USERS, DEVICES, GROUPS].map(|table| store.load(table));
    let (users, devices, groups) = (users?, devices?, groups?);
    if users.is_empty() && devices.is_empty() && groups.is_empty() {
        return Ok(None);
    }
    let mut directory = Directory {
        voice_environments: of.voice_environments.clone(),
        contact_center: of.contact_center.clone(),
        ..Directory::default()
    };
    let mut accounts = Vec::new();
    let first = directory.voice_environments.keys().next().cloned().unwrap_or_default();
    for (key, bytes) in &devices {
        let Some(device) = record(DEVICES, key, bytes, fields::device) else {
            continue;
        };
        if device.account.kind == AccountKind::Internal {
            let entry = DeviceEntry {
                id: device.account.device.clone(),
                number: device.account.number.clone(),
                voice_environment: device.voice_environment.unwrap_or_else(|| first.clone()),
            };
            directory.devices.insert(entry.id.clone(), Arc::new(entry));
        }
        accounts.push(device.account);
    }
    for (key, bytes) in &users {
        if let Some(user) = record(USERS, key, bytes, fields::user) {
            directory.users.insert(user.id.clone(), Arc::new(user));
        }
    }
    for (key, bytes) in &groups {
        if let Some(group) = record(GROUPS, key, bytes, fields::group) {
            directory.groups.insert(group.id.clone(), Arc::new(group));
        }
    }
    Ok(Some((directory, accounts.into_iter().collect())))
}

fn record<T, E: std::fmt::Display>(
    table: &str,
    key: &str,
    bytes: &[u8],
    read: fn(Fields) -> Result<T, E>,
) -> Option<T> {
    let mut fields: Fields = serde_json::from_slice(bytes).unwrap_or_default();
    let version = fields.remove(VERSION_KEY).and_then(|version| version.as_u64());
    let version = u32::try_from(version.unwrap_or_default()).unwrap_or(u32::MAX);
    let found = match is_readable(version) {
        Some(()) => read(fields).map_err(|error| error.to_string()),
        None => Err("a newer version has written it".to_owned()),
    };
    found
        .inspect_err(|error| {
            tracing::warn!(table, key, error, "a kept entry can not be read and is ignored");
        })
        .ok()
}

/// What the store is to be told of these entries.
pub fn writes<'a>(
    editor: &DirectoryEditor,
    entries: impl IntoIterator<Item = &'a EntryId>,
) -> Vec<Write> {
    entries.into_iter().map(|entry| write(editor, entry)).collect()
}

fn write(editor: &DirectoryEditor, entry: &EntryId) -> Write {
    let (table, key) = match entry {
        EntryId::User(id) => (USERS, id.as_str()),
        EntryId::Device(id) => (DEVICES, id.as_str()),
        EntryId::Group(id) => (GROUPS, id.as_str()),
    };
    match editor.fields(entry) {
        Some(mut fields) => {
            fields.insert(VERSION_KEY.to_owned(), Value::from(VERSION));
            Write::put(table, key, Value::Object(fields).to_string())
        }
        None => Write::remove(table, key),
    }
}

/// What the store is to be told of all of it, but for the devices that the configuration file says.
pub fn all_writes(editor: &DirectoryEditor) -> Vec<Write> {
    let directory = editor.directory();
    let users = directory.users.keys().cloned().map(EntryId::User);
    let devices = editor.accounts().iter().map(|account| account.device.clone());
    let devices = devices.filter(|device| !editor.is_ranged(device)).map(EntryId::Device);
    let groups = directory.groups.keys().cloned().map(EntryId::Group);
    users.chain(devices).chain(groups).map(|entry| write(editor, &entry)).collect()
}
