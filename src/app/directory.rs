//! The directory while the process runs: read again when its file changes or at SIGHUP, checked
//! whole, and applied everywhere at once or not at all.

use super::directory_files::given;
use super::directory_news::News;
use super::new_passwords;
use super::unaudited;
use crate::config::{Config, CredentialsError, DirectorySource, Ranged};
use crate::directory::DirectoryEditor;
use crate::directory::fields::{self, Fields};
use crate::directory::handle::Waiting;
use crate::gateway::Directory;
use crate::gateway::handle::GatewayHandle;
use crate::http::auth::{Auth, PasswordError, PasswordHashes};
use crate::model::{DeviceId, Difference, UserId};
use crate::secret::Secret;
use crate::sip::backend::DirectorySender;
use crate::sip::config::SipDirectory;
use crate::store::Store;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{mpsc, watch};

/// How often the file is looked at. It is read when it has been the same for two looks: what an
/// editor has written half of is not meant.
const LOOK: Duration = Duration::from_secs(1);
/// How often new passwords are looked for.
const LOOK_FOR_PASSWORDS: Duration = Duration::from_millis(200);
/// So often a folder of passwords that rests is read: a change may have the time of the one before.
const LOOKS_AT_PASSWORDS: u32 = 2;

/// Who is told of a new directory.
pub(super) struct Told {
    pub(super) gateway: Option<GatewayPart>,
    pub(super) backend: Option<BackendPart>,
}

/// The gateway that runs in this process.
pub(super) struct GatewayPart {
    pub(super) handle: GatewayHandle,
    pub(super) auth: Auth,
    pub(super) store: Store,
}

/// The SIP backend that runs in this process.
pub(super) struct BackendPart {
    pub(super) directories: DirectorySender,
    pub(super) store: Store,
    /// What it has now.
    pub(super) sip: SipDirectory,
}

/// Why a directory was not applied.
#[derive(Debug, thiserror::Error)]
enum NotApplied {
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(transparent)]
    Password(#[from] PasswordError),
}

/// A directory that everything can be told.
struct Prepared {
    directory: Directory,
    passwords: PasswordHashes,
    sip: Option<SipDirectory>,
    end_calls: bool,
    ranged: Ranged,
}

/// Keeps the directory of a process.
pub(super) struct DirectoryKeeper {
    pub(super) config: Config,
    pub(super) told: Told,
    pub(super) directory: Arc<Directory>,
    /// Where an admin changes the directory; `None`: it is that of the file.
    pub(super) editor: Option<DirectoryEditor>,
    pub(super) end_calls: bool,
    seen: FileStamps,
    password_folder: PasswordFolder,
}

/// Versions of the files that a configuration is read from.
type Versions = Vec<Option<FileStamp>>;

/// A version of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    modified: Option<SystemTime>,
    size: u64,
    inode: u64,
}

/// The versions that were read, and those that the last look has found.
struct FileStamps {
    read: Versions,
    found: Versions,
}

/// The folder of new passwords, as the last look has found it.
#[derive(Default)]
struct PasswordFolder {
    found: Option<FileStamp>,
    /// So often it was found as before.
    looks: u32,
}

impl FileStamp {
    fn of(file: &Path) -> Option<Self> {
        let found = fs::metadata(file).ok()?;
        Some(Self { modified: found.modified().ok(), size: found.len(), inode: found.ino() })
    }
}

fn versions(config: &Config) -> Versions {
    let files = config.file.iter().chain(&config.secret_files);
    files.map(|file| FileStamp::of(file)).collect()
}

impl DirectoryKeeper {
    /// `config` is what the process has started with.
    pub(super) fn new(config: Config, told: Told) -> Self {
        let read = versions(&config);
        let kept = match config.directory_source {
            DirectorySource::File => None,
            DirectorySource::Store => told.backend.as_ref().map(|backend| {
                let (given, sip) = (given(&config, &backend.sip.trunks), &backend.sip);
                DirectoryEditor::new(config.directory.clone(), sip.accounts.clone(), given)
            }),
        };
        Self {
            directory: Arc::new(config.directory.clone()),
            editor: kept,
            end_calls: config.end_calls_of_removed_devices,
            seen: FileStamps { found: read.clone(), read },
            password_folder: PasswordFolder::default(),
            config,
            told,
        }
    }

    /// Until the process stops.
    pub(super) async fn run(
        mut self,
        mut asked: watch::Receiver<()>,
        mut waiting: mpsc::Receiver<Waiting>,
        stopped: impl Future<Output = ()>,
    ) {
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut look_for_passwords = tokio::time::interval(LOOK_FOR_PASSWORDS);
        look_for_passwords.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                () = &mut stopped => return,
                _ = look_for_passwords.tick() => self.take_new_passwords().await,
                asked = asked.changed() => match asked {
                    Ok(()) => self.read_again().await,
                    Err(_) => return,
                },
                // Whoever asks may have gone away.
                Some(asked) = waiting.recv() => match asked {
                    Waiting::Edit(edit, reply) => drop(reply.send(self.edit(edit).await)),
                    Waiting::Devices(devices, reply) => drop(reply.send(self.fields_of(devices))),
                },
                _ = look.tick() => if self.is_new() { self.read_again().await },
            }
        }
    }

    /// These devices in the words of the configuration file; those whose accounts are here.
    fn fields_of(&self, devices: Vec<DeviceId>) -> BTreeMap<DeviceId, Fields> {
        let accounts = self.told.backend.as_ref().map(|backend| &backend.sip.accounts);
        let of = |device: DeviceId| {
            let account = accounts?.get(&device)?;
            let fields = fields::of_device(account, self.directory.devices.get(&device));
            Some((device, fields))
        };
        devices.into_iter().filter_map(of).collect()
    }

    /// Another version of the file is there, and nobody is writing it any more.
    fn is_new(&mut self) -> bool {
        let now = versions(&self.config);
        let rests = self.seen.found == now;
        self.seen.found.clone_from(&now);
        // A file with a secret may be gone because nothing names it any more.
        let is_there = now.first().is_some_and(Option::is_some);
        is_there && rests && self.seen.read != now
    }

    async fn read_again(&mut self) {
        self.seen.read = versions(&self.config);
        let config = self.config.clone();
        let read = tokio::task::spawn_blocking(move || config.read_again()).await;
        let new = match read.unwrap_or(None) {
            None => return,
            Some(Ok(new)) => new,
            Some(Err(problems)) => {
                for problem in &problems.list {
                    tracing::warn!(%problem, "the configuration is faulty: nothing is changed");
                }
                self.look_at(problems.secret_files);
                return count("faulty");
            }
        };
        for key in self.config.restart_keys(&new) {
            tracing::warn!(key, "has changed in the configuration, and needs a restart");
        }
        let passwords = new.clone();
        match self.prepare(new).await {
            Ok(prepared) => {
                self.apply(prepared).await;
                self.note_file().await;
                if self.config.directory_source == DirectorySource::File {
                    self.config.take_passwords(&passwords);
                }
                self.look_at(passwords.secret_files);
            }
            Err(error) => {
                tracing::warn!(%error, "the directory can not be applied: nothing is changed");
                count("faulty");
            }
        }
    }

    /// The files with secrets that are looked at from now on. One of them that a faulty file names
    /// may become what it should be.
    fn look_at(&mut self, secret_files: Vec<PathBuf>) {
        if self.config.secret_files != secret_files {
            self.config.secret_files = secret_files;
            self.seen.read = versions(&self.config);
        }
    }

    /// The audit has what the configuration file has changed.
    async fn note_file(&self) {
        let Some(gateway) = &self.told.gateway else { return };
        let (store, config) = (gateway.store.clone(), self.config.clone());
        let noted = tokio::task::spawn_blocking(move || {
            unaudited::seen(&config).map_or(Ok(()), |seen| store.write(&[seen]))
        });
        if let Ok(Err(error)) = noted.await {
            tracing::warn!(%error, "the next start will tell of another configuration file");
        }
    }

    /// Takes the passwords that `undertone password` has left.
    async fn take_new_passwords(&mut self) {
        let (Some(gateway), Some(folder)) = (&self.told.gateway, &self.config.password_dir) else {
            return;
        };
        let now = FileStamp::of(&new_passwords::folder(folder));
        let PasswordFolder { found, looks } = &mut self.password_folder;
        *looks = if *found == now { looks.saturating_add(1) } else { 0 };
        *found = now;
        if *looks > LOOKS_AT_PASSWORDS {
            return;
        }
        let taken = new_passwords::take(folder, &gateway.store, |user| {
            self.directory.user(user).is_some() && !self.config.has_password(user)
        });
        let passwords = match taken.await {
            Ok(passwords) if passwords.is_empty() => return,
            Ok(passwords) => passwords,
            Err(error) => {
                tracing::error!(%error, "new passwords can not be kept");
                self.password_folder.looks = 0;
                return;
            }
        };
        let new = Prepared {
            directory: Directory::clone(&self.directory),
            passwords,
            sip: self.told.backend.as_ref().map(|backend| backend.sip.clone()),
            end_calls: self.end_calls,
            ranged: self.config.ranged.clone(),
        };
        self.apply(new).await;
    }

    /// All that can fail.
    async fn prepare(&self, mut new: Config) -> Result<Prepared, NotApplied> {
        // These need a restart.
        new.sip.realm.clone_from(&self.config.sip.realm);
        new.state_dir.clone_from(&self.config.state_dir);
        new.directory.contact_center.clone_from(&self.directory.contact_center);
        new.password_dir.clone_from(&self.config.password_dir);
        if let (DirectorySource::Store, Some(backend)) =
            (self.config.directory_source, &self.told.backend)
        {
            let mut kept = Directory {
                users: self.directory.users.clone(),
                devices: self.directory.devices.clone(),
                groups: self.directory.groups.clone(),
                ..new.directory.clone()
            };
            let mut accounts = backend.sip.accounts.clone();
            self.config.without_ranged(&mut kept, &mut accounts);
            new.replace_directory(kept, accounts);
        }
        let ranged = new.ranged.clone();
        let gateway_store = self.told.gateway.as_ref().map(|gateway| gateway.store.clone());
        let backend_store = self.told.backend.as_ref().map(|backend| backend.store.clone());
        let from_store = self.config.directory_source == DirectorySource::Store;
        let end_calls = new.end_calls_of_removed_devices;
        let directory = new.directory.clone();
        let made_passwords = new.made_passwords();
        let credentials = tokio::task::spawn_blocking(move || {
            let rest = gateway_store.map(|store| new.rest_credentials(&store)).transpose()?;
            let sip = match backend_store {
                Some(_) if from_store => Some((new.sip.clone(), Vec::new())),
                Some(store) => Some(new.sip_with_credentials(&store)?),
                None => None,
            };
            Ok::<_, CredentialsError>((rest, sip))
        });
        let (rest, sip) = credentials
            .await
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        let (accounts, rest_made) = rest.unwrap_or_default();
        let (sip, sip_made) = match sip {
            Some((sip, made)) => (Some(sip.directory()), made),
            None => (None, Vec::new()),
        };
        if let Some(file) = made_passwords.filter(|_| !rest_made.is_empty() || !sip_made.is_empty())
        {
            tracing::info!(file = %file.display(), "passwords were made");
        }
        let is_news = |user: &UserId, hash: &Secret| {
            let auth = self.told.gateway.as_ref().map(|gateway| &gateway.auth);
            auth.is_some_and(|auth| auth.password_hash(user).as_ref() != Some(hash))
        };
        let passwords = accounts.into_iter().filter(|(user, hash)| is_news(user, hash)).collect();
        let sip = match (sip, &self.told.backend) {
            (Some(sip), Some(_)) => Some(sip),
            (Some(_), None) | (None, _) => None,
        };
        Ok(Prepared { directory, passwords, sip, end_calls, ranged })
    }

    async fn apply(&mut self, new: Prepared) {
        let Prepared { directory, passwords, sip, end_calls, ranged } = new;
        self.config.ranged = ranged;
        let news = News::between(
            (&self.directory, self.told.backend.as_ref().map(|backend| &backend.sip)),
            (&directory, sip.as_ref()),
            passwords.keys(),
        );
        if news.is_empty() {
            self.end_calls = end_calls;
            tracing::info!("the directory has not changed");
            return count("unchanged");
        }
        let users = Difference::between(&self.directory.users, &directory.users);
        self.end_calls = end_calls;
        if let (Some(editor), Some(sip)) = (&mut self.editor, &sip) {
            let given = given(&self.config, &sip.trunks);
            *editor = DirectoryEditor::new(directory.clone(), sip.accounts.clone(), given);
        }
        if let Some(GatewayPart { handle, .. }) = &self.told.gateway {
            for line in news.lines() {
                // Nobody keeps a right because of a disk: the failure is in the log.
                let _ = handle.audit_directory(line, None).await;
            }
        }
        if let Err(error) = self.tell(directory, (passwords, &users.removed), sip).await {
            tracing::error!(%error, "passwords are not changed");
        }
        for line in news.lines() {
            tracing::info!(change = line, "the directory has changed");
        }
        count("applied");
    }

    /// Tells everybody, in this order: logins, the gateway, the SIP backend.
    ///
    /// # Errors
    /// What is no hash of a password: no login is changed, and everybody else is told.
    pub(super) async fn tell(
        &mut self,
        directory: Directory,
        (passwords, removed): (PasswordHashes, &[UserId]),
        sip: Option<SipDirectory>,
    ) -> Result<(), PasswordError> {
        let mut changed = Ok(());
        self.directory = Arc::new(directory.clone());
        if let Some(GatewayPart { handle, auth, .. }) = &self.told.gateway {
            changed = auth.change_accounts(passwords, removed);
            handle.change_directory(directory).await;
            auth.end_all_of(removed);
        }
        if let (Some(backend), Some(sip)) = (&mut self.told.backend, sip) {
            backend.sip.clone_from(&sip);
            backend.directories.apply(sip, self.end_calls).await;
        }
        self.measure();
        changed
    }

    fn measure(&self) {
        metrics::gauge!("undertone_directory_users").set(self.directory.users.len() as f64);
        metrics::gauge!("undertone_directory_devices").set(self.directory.devices.len() as f64);
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("undertone_directory_reads_total", "outcome" => outcome).increment(1);
}
