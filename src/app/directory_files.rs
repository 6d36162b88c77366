//! The directory in the state files of a process that does not run: taken in at the start, from CSV
//! files, and written to them.

use super::directory_news::News;
use super::unaudited;
use crate::config::{Config, DirectorySource, keep_ha1s, keep_password};
use crate::directory::table::{self, PASSWORD, PASSWORD_HASH, TableError};
use crate::directory::{DirectoryEditor, Edit, EditKind, EntryId, Fields, Given, kept};
use crate::http::auth::{PasswordError, hash_password};
use crate::model::{DeviceId, UserId};
use crate::private::{self, Exposed};
use crate::secret::Secret;
use crate::sip::config::{SipAccount, SipAccounts, SipDirectory, Trunk};
use crate::sip::digest::{Algorithm, Ha1s};
use crate::store::{self, Store, StoreError, Write};
use serde_json::Value;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Why a directory can not be taken in, or written.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The state file can not be used; while the product runs, it is in use.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Nobody would read it.
    #[error(
        "the directory is kept in the configuration file: set directory.source = \"store\" first"
    )]
    KeptInFile,
    /// A CSV file can not be opened.
    #[error("{}: {error}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A CSV file has passwords, and others may read it.
    #[error("{}: {exposed}", path.display())]
    Exposed {
        /// Which.
        path: PathBuf,
        /// Its mode.
        exposed: Exposed,
    },
    /// A CSV file is not what it should be.
    #[error("{}: {error}", path.display())]
    Table {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        error: TableError,
    },
    /// An entry can not be so.
    #[error("{}:{line}: {problem}", path.display())]
    Entry {
        /// In which file.
        path: PathBuf,
        /// On which line.
        line: u64,
        /// Why not.
        problem: String,
    },
    /// A password can not be hashed.
    #[error(transparent)]
    Password(#[from] PasswordError),
}

/// The CSV files of a directory.
#[derive(Clone, Debug)]
pub struct DirectoryFiles {
    /// Users.
    pub users: PathBuf,
    /// Devices.
    pub devices: PathBuf,
    /// Groups; none: they stay as they are.
    pub groups: Option<PathBuf>,
}

/// What was taken in or written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Users.
    pub users: usize,
    /// Devices.
    pub devices: usize,
    /// Groups.
    pub groups: usize,
}

/// Where the directory is kept in the state files: it is the directory of the process from now on.
/// When none is kept yet, that of the configuration file is, with its passwords.
///
/// # Errors
/// A store fails.
pub(super) fn adopt(
    config: &mut Config,
    gateway: &Store,
    backend: &Store,
) -> Result<(), StoreError> {
    if let Some((directory, accounts)) = kept::load(gateway, &config.directory)? {
        tracing::info!(
            users = directory.users.len(),
            devices = accounts.len(),
            groups = directory.groups.len(),
            "users, devices and groups are those of the state file"
        );
        config.replace_directory(directory, accounts);
        return Ok(());
    }
    let editor = editor(config);
    let (rest, sip) = config.keep_passwords();
    write(backend, &sip)?;
    write(gateway, &[kept::all_writes(&editor), rest].concat())?;
    tracing::info!("users, devices and groups of the configuration file are kept from now on");
    Ok(())
}

/// What an admin of the directory does not change.
pub(super) fn given(config: &Config, trunks: &[Trunk]) -> Given {
    Given {
        trunks: trunks.iter().map(|trunk| trunk.name.clone()).collect(),
        ranged: config.ranged.iter().map(|(account, _)| account.device.clone()).collect(),
    }
}

fn editor(config: &Config) -> DirectoryEditor {
    let given = given(config, &config.sip.trunks);
    DirectoryEditor::new(config.directory.clone(), config.sip.accounts.clone(), given)
}

fn write(store: &Store, changes: &[Write]) -> Result<(), StoreError> {
    match changes.is_empty() {
        true => Ok(()),
        false => store.write(changes),
    }
}

/// The state files of a process that does not run.
struct Closed {
    config: Config,
    gateway: Store,
    backend: Store,
}

impl Closed {
    /// Files that root makes are those of the owner of the state directory, who runs the gateway.
    fn open(config: Config) -> Result<Self, FilesError> {
        let path = config.state_dir.clone();
        let made = private::make_state_directory(&path);
        let opened =
            made.and_then(|()| private::as_owner_of(&path, || Ok(Self::open_here(config))));
        opened.map_err(|error| FilesError::File { path, error })?
    }

    fn open_here(mut config: Config) -> Result<Self, FilesError> {
        let gateway = store::open(&config.state_file("gateway"))?;
        let backend = store::open(&config.state_file("sip-backend"))?;
        if config.directory_source == DirectorySource::Store {
            adopt(&mut config, &gateway, &backend)?;
        }
        Ok(Self { config, gateway, backend })
    }
}

/// Takes in the entries of CSV files, each in the place of the one of its id; the others stay.
///
/// # Errors
/// The first thing that is wrong; then nothing has changed.
pub fn import(config: Config, files: &DirectoryFiles) -> Result<Counts, FilesError> {
    if config.directory_source == DirectorySource::File {
        return Err(FilesError::KeptInFile);
    }
    let Closed { config, gateway, backend } = Closed::open(config)?;
    let mut editor = editor(&config);
    let (mut to_gateway, mut to_backend) = (Vec::new(), Vec::new());
    let devices = entries(&files.devices, table::DEVICES)?;
    let users = entries(&files.users, table::USERS)?;
    let groups = files.groups.as_deref().map(|path| entries(path, table::GROUPS)).transpose()?;
    let groups = groups.unwrap_or_default();
    let counts = Counts { users: users.len(), devices: devices.len(), groups: groups.len() };
    for Row { line, id, mut fields } in devices {
        let password = fields.remove(PASSWORD).and_then(text);
        let ha1s = ALGORITHMS.iter().filter_map(|(algorithm, column)| {
            Some((*algorithm, fields.remove(*column).and_then(text)?.into()))
        });
        let mut ha1s: Ha1s = ha1s.collect();
        let number = fields.get("number").and_then(Value::as_str).unwrap_or_default().to_owned();
        if let Some(password) = password {
            ha1s = crate::config::ha1s_of(&config.sip.realm, &number, &password);
        }
        let entry = EntryId::Device(id.as_str().into());
        put(&mut editor, &files.devices, line, entry.clone(), fields)?;
        if !ha1s.is_empty() {
            to_backend.extend(keep_ha1s(&config.sip.realm, &number, Some(&ha1s)));
        }
        to_gateway.push(entry);
    }
    let (mut hashes, mut with_password) = (Vec::new(), Vec::new());
    // A device may pass from one user to another: all are taken away first.
    for Row { id, .. } in &users {
        let entry = EntryId::User(id.as_str().into());
        if editor.fields(&entry).is_some() {
            let none = Fields::from_iter([("devices".to_owned(), Value::Array(Vec::new()))]);
            let edit = Edit { entry: entry.clone(), kind: EditKind::Change(none) };
            editor.apply(edit).map_err(|problem| FilesError::Entry {
                path: files.users.clone(),
                line: 0,
                problem: problem.to_string(),
            })?;
        }
    }
    for Row { line, id, mut fields } in users {
        let hash = match fields.remove(PASSWORD).and_then(text) {
            Some(password) => Some(hash_password(&password)?.into()),
            None => fields.remove(PASSWORD_HASH).and_then(text).map(Secret::from),
        };
        fields.remove(PASSWORD_HASH);
        let user: UserId = id.as_str().into();
        let entry = EntryId::User(user.clone());
        put(&mut editor, &files.users, line, entry.clone(), fields)?;
        with_password.extend(hash.is_some().then(|| user.clone()));
        hashes.extend(hash.map(|hash| keep_password(&user, Some(&hash))));
        to_gateway.push(entry);
    }
    for Row { line, id, fields } in groups {
        let entry = EntryId::Group(id.as_str().into());
        let path = files.groups.as_deref().unwrap_or(&files.users);
        put(&mut editor, path, line, entry.clone(), fields)?;
        to_gateway.push(entry);
    }
    // Groups may have lost members by what was taken in.
    let all_groups = editor.directory().groups.keys().cloned().map(EntryId::Group);
    to_gateway.extend(all_groups);
    to_backend.splice(..0, left_digests(&config, editor.accounts()));
    let accounts = |accounts: &SipAccounts| SipDirectory {
        accounts: accounts.clone(),
        trunks: config.sip.trunks.clone(),
    };
    let news = News::between(
        (&config.directory, Some(&accounts(&config.sip.accounts))),
        (editor.directory(), Some(&accounts(editor.accounts()))),
        with_password.iter(),
    );
    let lines: Vec<String> = news.lines().map(|line| format!("imported: {line}")).collect();
    let unaudited = unaudited::keep(&gateway, lines.iter().map(String::as_str))?;
    write(&backend, &to_backend)?;
    write(&gateway, &[kept::writes(&editor, &to_gateway), hashes, unaudited].concat())?;
    Ok(counts)
}

/// The digests of numbers that no device has any more, or another one than before, go: a phone would
/// register by them as a device that is not its own.
fn left_digests(config: &Config, now: &SipAccounts) -> Vec<Write> {
    let has_left = |account: &&SipAccount| {
        now.get(&account.device).is_none_or(|now| now.username != account.username)
    };
    let left = config.sip.accounts.iter().filter(has_left);
    left.flat_map(|account| keep_ha1s(&config.sip.realm, &account.username, None)).collect()
}

/// Columns of digests, and their algorithms.
const ALGORITHMS: [(Algorithm, &str); 3] = [
    (Algorithm::Md5, "ha1_md5"),
    (Algorithm::Sha256, "ha1_sha256"),
    (Algorithm::Sha512_256, "ha1_sha512_256"),
];

fn text(value: Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

/// The column has passwords, or their digests.
fn is_secret(column: &str) -> bool {
    let is_digest = ALGORITHMS.iter().any(|(_, name)| *name == column);
    is_digest || [PASSWORD, PASSWORD_HASH].contains(&column)
}

/// One line of a CSV file.
struct Row {
    line: u64,
    id: String,
    fields: Fields,
}

fn entries(path: &Path, columns: &[&str]) -> Result<Vec<Row>, FilesError> {
    let file =
        File::open(path).map_err(|error| FilesError::File { path: path.to_owned(), error })?;
    let exposed = file.metadata().ok().and_then(|about| private::exposed(&about));
    let rows = table::read(file, columns)
        .map_err(|error| FilesError::Table { path: path.to_owned(), error })?;
    let has_secrets = rows.iter().any(|(_, fields)| fields.keys().any(|name| is_secret(name)));
    if let Some(exposed) = exposed.filter(|_| has_secrets) {
        return Err(FilesError::Exposed { path: path.to_owned(), exposed });
    }
    let row = |(line, mut fields): (u64, Fields)| match fields.remove("id").and_then(text) {
        Some(id) => Ok(Row { line, id, fields }),
        None => Err(FilesError::Entry {
            path: path.to_owned(),
            line,
            problem: "there is no id".to_owned(),
        }),
    };
    rows.into_iter().map(row).collect()
}

fn put(
    editor: &mut DirectoryEditor,
    path: &Path,
    line: u64,
    entry: EntryId,
    fields: Fields,
) -> Result<(), FilesError> {
    editor.apply(Edit { entry, kind: EditKind::Put(fields) }).map(drop).map_err(|problem| {
        FilesError::Entry { path: path.to_owned(), line, problem: problem.to_string() }
    })
}

/// Writes the directory to `users.csv`, `devices.csv` and `groups.csv` of a folder. They have
/// digests of passwords: only their owner reads them. A folder that is not there is made, for its
/// owner alone.
///
/// # Errors
/// The state files can not be read, or the folder not be written.
pub fn export(config: Config, folder: &Path) -> Result<Counts, FilesError> {
    let Closed { config, gateway, backend } = Closed::open(config)?;
    let (hashes, _) =
        config.kept_passwords(&gateway).map(|hashes| (hashes, ())).map_err(FilesError::Store)?;
    let ha1s = config.kept_ha1s(&backend)?;
    private::make_directory(folder)
        .map_err(|error| FilesError::File { path: folder.to_owned(), error })?;
    let editor = editor(&config);
    let user = |id: &UserId| {
        let mut fields = editor.fields(&EntryId::User(id.clone()))?;
        let hash = hashes.get(id).cloned();
        fields.extend(
            hash.map(|hash| (PASSWORD_HASH.to_owned(), Value::from(hash.expose().as_str()))),
        );
        Some(fields)
    };
    let device = |id: &DeviceId| {
        let mut fields = editor.fields(&EntryId::Device(id.clone()))?;
        let digests = ha1s.get(id);
        for (algorithm, column) in ALGORITHMS {
            let ha1 = digests.and_then(|digests| digests.get(&algorithm));
            fields.extend(ha1.map(|ha1| (column.to_owned(), Value::from(ha1.expose().as_str()))));
        }
        Some(fields)
    };
    let directory = editor.directory();
    let users = directory.users.keys().filter_map(user);
    save(&folder.join("users.csv"), table::USERS, users)?;
    let kept = editor.accounts().iter().filter(|account| !editor.is_ranged(&account.device));
    let devices: Vec<Fields> = kept.filter_map(|account| device(&account.device)).collect();
    let count = devices.len();
    save(&folder.join("devices.csv"), table::DEVICES, devices.into_iter())?;
    let groups = directory.groups.keys();
    let groups = groups.filter_map(|id| editor.fields(&EntryId::Group(id.clone())));
    save(&folder.join("groups.csv"), table::GROUPS, groups)?;
    Ok(Counts { users: directory.users.len(), devices: count, groups: directory.groups.len() })
}

fn save(
    path: &Path,
    columns: &[&str],
    entries: impl Iterator<Item = Fields>,
) -> Result<(), FilesError> {
    let file = private::create(path);
    let file = file.map_err(|error| FilesError::File { path: path.to_owned(), error })?;
    table::write(file, columns, entries)
        .map_err(|error| FilesError::Table { path: path.to_owned(), error })
}
