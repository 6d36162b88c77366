//! Passwords that are made: written down in a file for whoever hands them out, kept as hashes.

use super::Config;
use crate::gateway::{DeviceEntry, Directory};
use crate::http::auth::{PasswordHashes, hash_password};
use crate::model::{DeviceId, Number, Role, UserId};
use crate::private;
use crate::secret::Secret;
use crate::sip;
use crate::sip::config::{SipAccount, SipAccounts};
use crate::sip::digest::{Algorithm, Ha1s, ha1};
use crate::store::{Store, StoreError, Write};
use crate::telephony::phones::PhoneCommand;
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use zeroize::Zeroizing;

/// `rest/<login name>` → PHC string; `sip/<realm>/<user name>/<algorithm>` → HA1.
const TABLE: &str = "credentials";

/// What the cookies of known devices are signed with.
const DEVICE_KEY: &str = "devices";

/// Of 32 characters that no one mistakes for another: 5 bits each, 100 bits.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const LENGTH: usize = 20;

/// The name of the file with the passwords that were made, in the state directory.
const MADE_PASSWORDS: &str = "made-passwords.txt";

/// A password that was made now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The login name or the number.
    pub name: String,
    /// The password, in clear.
    pub password: Secret,
}

/// Credentials cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Passwords that were made cannot be written down.
    #[error("{}: passwords that are made can not be written down: {error}", .path.display())]
    Made {
        /// The file.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A password cannot be hashed.
    #[error(transparent)]
    Hash(#[from] crate::http::auth::PasswordError),
}

impl Config {
    /// The accounts of REST and CometD; makes those that are missing and says so. Where there are
    /// issuers of tokens, none is made.
    ///
    /// # Errors
    /// The store fails.
    pub fn rest_credentials(
        &self,
        store: &Store,
    ) -> Result<(PasswordHashes, Vec<Made>), CredentialsError> {
        let kept = store.load(TABLE)?;
        let (mut accounts, mut made, mut changes) = (PasswordHashes::new(), Vec::new(), Vec::new());
        for user in self.directory.users.keys() {
            let key = format!("rest/{user}");
            let stored = kept.get(&key).and_then(|text| secret_text(text));
            let hash = match self.password_hashes.get(user).cloned().or(stored) {
                Some(hash) => hash,
                // Such users log in by their issuer.
                None if !self.issuers.is_empty() => continue,
                None => {
                    let new = Made::new(user.as_str());
                    let hash = Secret::from(hash_password(new.password.expose())?);
                    changes.push(Write::put(TABLE, key, hash.expose().as_str()));
                    made.push(new);
                    hash
                }
            };
            accounts.insert(user.clone(), hash);
        }
        self.write_down("REST", &made)?;
        keep(store, &changes)?;
        Ok((accounts, made))
    }

    /// The key by which devices are known that have logged in before; makes it once.
    ///
    /// # Errors
    /// The store fails.
    pub fn device_key(&self, store: &Store) -> Result<[u8; 32], CredentialsError> {
        let kept = store.load(TABLE)?.remove(DEVICE_KEY);
        if let Some(key) = kept.and_then(|key| key.try_into().ok()) {
            return Ok(key);
        }
        let key: [u8; 32] = rand::random();
        if let Err(error) = keep(store, &[Write::put(TABLE, DEVICE_KEY, key)]) {
            // It costs the known devices their place in the queue of logins, and nothing else.
            tracing::warn!(%error, "the key of known devices can not be kept");
        }
        Ok(key)
    }

    /// The SIP endpoint with the HA1s of its accounts; makes those that are missing and says so.
    ///
    /// # Errors
    /// The store fails.
    pub fn sip_with_credentials(
        &self,
        store: &Store,
    ) -> Result<(sip::config::SipConfig, Vec<Made>), CredentialsError> {
        let kept = store.load(TABLE)?;
        let mut endpoint = self.sip.clone();
        let (mut made, mut changes) = (Vec::new(), Vec::new());
        let registers = |account: &&mut SipAccount| account.via.is_none();
        for account in endpoint.accounts.iter_mut().filter(registers) {
            let name = account.username.clone();
            let key = |algorithm: Algorithm| {
                format!("sip/{}/{name}/{}", self.sip.realm, algorithm.name())
            };
            let stored = stored_ha1s(&kept, &self.sip.realm, &name);
            let of = |password: &Secret| ha1s_of(&self.sip.realm, &name, password.expose());
            account.ha1s = match self.sip_passwords.get(&account.number) {
                Some(password) => of(password),
                None if stored.len() == ALGORITHMS.len() => stored,
                None => {
                    let new = Made::new(&name);
                    let ha1s = of(&new.password);
                    changes.extend(ha1s.iter().map(|(algorithm, ha1)| {
                        Write::put(TABLE, key(*algorithm), ha1.expose().as_str())
                    }));
                    made.push(new);
                    ha1s
                }
            };
        }
        made.sort_by(|one: &Made, other| one.name.cmp(&other.name));
        self.write_down("SIP", &made)?;
        keep(store, &changes)?;
        Ok((endpoint, made))
    }

    /// Appends passwords that were made to a file which only its owner reads, before anything
    /// relies on them.
    fn write_down(&self, of: &str, made: &[Made]) -> Result<(), CredentialsError> {
        let Some(path) = self.made_passwords().filter(|_| !made.is_empty()) else {
            return Ok(());
        };
        let mut text = Zeroizing::new(String::new());
        for Made { name, password } in made {
            text.push_str(&format!("{of} {name} {}\n", password.expose().as_str()));
        }
        let written = private::open_to_append(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()));
        written.map_err(|error| CredentialsError::Made { path, error })
    }

    /// The file in which passwords are written down that are made.
    pub fn made_passwords(&self) -> Option<PathBuf> {
        self.password_dir.as_ref().map(|folder| folder.join(MADE_PASSWORDS))
    }

    /// Takes users, devices and groups from elsewhere, in the place of those of the file. Their
    /// passwords are those that are kept. Devices of ranges stay, but for those with an id or a
    /// number that is taken.
    pub fn replace_directory(&mut self, directory: Directory, accounts: SipAccounts) {
        self.directory = directory;
        self.sip.accounts = accounts;
        self.password_hashes.clear();
        self.sip_passwords.clear();
        let names = |account: &SipAccount| {
            account.aliases.iter().chain([&account.number]).cloned().collect::<Vec<_>>()
        };
        let taken: BTreeSet<Number> = self.sip.accounts.iter().flat_map(names).collect();
        let is_free = |(account, _): &&(SipAccount, DeviceEntry)| {
            self.sip.accounts.get(&account.device).is_none() && !taken.contains(&account.number)
        };
        self.ranged = self.ranged.iter().filter(is_free).cloned().collect();
        for (account, entry) in self.ranged.iter() {
            self.sip.accounts.insert(account.clone());
            self.directory.devices.insert(entry.id.clone(), Arc::new(entry.clone()));
        }
        // A user of a device that was one of a range.
        let devices = &self.directory.devices;
        for user in self.directory.users.values_mut() {
            if user.devices.iter().any(|device| !devices.contains_key(device)) {
                Arc::make_mut(user).devices.retain(|device| devices.contains_key(device));
            }
        }
    }

    /// A directory without the devices of ranges.
    pub fn without_ranged(&self, directory: &mut Directory, accounts: &mut SipAccounts) {
        for (account, _) in self.ranged.iter() {
            directory.devices.remove(&account.device);
            accounts.remove(&account.device);
        }
    }

    /// The password hashes that there are, of the file and of the store of a gateway.
    ///
    /// # Errors
    /// The store fails.
    pub fn kept_passwords(&self, store: &Store) -> Result<PasswordHashes, StoreError> {
        let kept = store.load(TABLE)?;
        let hash = |user: &UserId| {
            let stored = kept.get(&format!("rest/{user}"));
            let stored = stored.and_then(|text| secret_text(text));
            Some((user.clone(), self.password_hashes.get(user).cloned().or(stored)?))
        };
        Ok(self.directory.users.keys().filter_map(hash).collect())
    }

    /// The HA1s that there are, of the file and of the store of a SIP backend.
    ///
    /// # Errors
    /// The store fails.
    pub fn kept_ha1s(&self, store: &Store) -> Result<BTreeMap<DeviceId, Ha1s>, StoreError> {
        let kept = store.load(TABLE)?;
        let ha1s = |account: &SipAccount| {
            let name = &account.username;
            let ha1s = match self.sip_passwords.get(&account.number) {
                Some(password) => ha1s_of(&self.sip.realm, name, password.expose()),
                None => stored_ha1s(&kept, &self.sip.realm, name),
            };
            (account.device.clone(), ha1s)
        };
        Ok(self.sip.accounts.iter().map(ha1s).collect())
    }

    /// What the stores of a gateway and of a SIP backend are told, so that the passwords of the file
    /// are kept there.
    pub fn keep_passwords(&self) -> (Vec<Write>, Vec<Write>) {
        let rest = self.password_hashes.iter();
        let rest = rest.map(|(user, hash)| keep_password(user, Some(hash))).collect();
        let accounts = self.sip.accounts.iter().filter(|account| account.via.is_none());
        let with_password = accounts.filter_map(|account| {
            Some((&account.username, self.sip_passwords.get(&account.number)?))
        });
        let sip = with_password.flat_map(|(name, password)| {
            let realm = &self.sip.realm;
            keep_ha1s(realm, name, Some(&ha1s_of(realm, name, password.expose())))
        });
        (rest, sip.collect())
    }

    /// Gives each user without a password in the file this one.
    ///
    /// # Errors
    /// It cannot be hashed.
    pub fn give_password(&mut self, password: &str) -> Result<(), CredentialsError> {
        let hash = Secret::from(hash_password(password)?);
        for user in self.directory.users.keys() {
            self.password_hashes.entry(user.clone()).or_insert_with(|| hash.clone());
        }
        Ok(())
    }

    /// What to print when a gateway over simulated telephones starts: where it is, the users with
    /// the passwords that were `made`, and what to ask for first. `door`: the URL by which the
    /// telephones are moved; `grpc`: the address of the contract.
    pub fn simulated_introduction(&self, made: &[Made], door: &str, grpc: SocketAddr) -> String {
        let url = &self.http.public_url;
        let mut text = format!(
            "A gateway over simulated telephones: nobody hears anything, and nothing is kept.\n\n  \
             REST and CometD at {url}/api/v2, described at {url}/api/v2/openapi.json\n\n    \
             {:<24} {:<14} password\n",
            "user", "telephones"
        );
        for user in self.directory.users.values() {
            let devices =
                user.devices.iter().filter_map(|device| self.directory.devices.get(device));
            let numbers: Vec<_> = devices.map(|device| device.number.as_str()).collect();
            let password = password_of(made, &user.id).unwrap_or("(as it was given)");
            let (id, numbers) = (&user.id, numbers.join(" "));
            text.push_str(&format!("    {:<24} {numbers:<14} {password}\n", id.as_str()));
        }
        let (agent, request) = match self.coaching_pair() {
            Some((supervisor, _, target)) => {
                let target = self.directory.devices.get(target);
                let password = password_of(made, supervisor).unwrap_or("$UNDERTONE_PASSWORD");
                (
                    target.map_or("NUMBER", |device| device.number.as_str()),
                    self.coach_request(Some(password)),
                )
            }
            None => ("NUMBER", None),
        };
        text.push_str(&format!(
            "\nA customer calls, the agent answers, and the customer hangs up by\n\n  \
             curl -d 'call 7001 {agent}' {door}\n  curl -d 'answer {agent}' {door}\n  \
             curl -d 'hangup 7001' {door}\n\n\
             Other lines: {}.\nAll telephones, calls and monitors, in JSON: curl {door}\n",
            PhoneCommand::USAGE[3..].join(", ")
        ));
        if let Some(token) = &self.grpc_token_file {
            let token = token.display();
            text.push_str(&format!("\ngRPC at {grpc}, with the token in {token}\n"));
        }
        if let Some(request) = request {
            text.push_str(&format!("\nThe supervisor coaches the agent by\n\n{request}"));
        }
        text
    }

    /// What to print when credentials were made: for whom, where they are written down, and the Coach
    /// request ready to paste. `None` when none were.
    pub fn introduction(&self, rest: &[Made], sip: &[Made]) -> Option<String> {
        if rest.is_empty() && sip.is_empty() {
            return None;
        }
        let file = self.made_passwords().unwrap_or_default();
        let mut text = format!(
            "Passwords were made: they are in {}, which only its owner reads.\nHand them out and \
             remove it; only hashes are kept besides.\n",
            file.display()
        );
        if !rest.is_empty() {
            text.push_str(&format!("\n  REST and CometD at {}\n", self.http.public_url));
            rest.iter().for_each(|made| text.push_str(&made.line()));
        }
        if !sip.is_empty() {
            let at: Vec<String> = self
                .sip
                .listen
                .iter()
                .map(|listen| format!("{} {}", listen.protocol.as_str(), listen.address))
                .collect();
            text.push_str(&format!(
                "\n  SIP, realm \"{}\", at {}\n",
                self.sip.realm,
                at.join(", ")
            ));
            sip.iter().for_each(|made| text.push_str(&made.line()));
        }
        let supervisor = self.coaching_pair().map(|(supervisor, ..)| supervisor);
        let is_made = supervisor.is_some_and(|supervisor| password_of(rest, supervisor).is_some());
        if let Some(request) = self.coach_request(None).filter(|_| is_made) {
            text.push_str(
                "\nWith phones registered and a call answered, a supervisor coaches the \
                 agent by\n\n",
            );
            text.push_str(&request);
        }
        Some(text)
    }

    /// Without a password, curl asks for it.
    fn coach_request(&self, password: Option<&str>) -> Option<String> {
        let (supervisor, device, target) = self.coaching_pair()?;
        let url = format!("{}/api/v2", self.http.public_url);
        let password = password.map(|password| format!(":{password}")).unwrap_or_default();
        Some(format!(
            "  curl -u {supervisor}{password} -H 'Content-Type: application/json' \\\n    \
             -d '{{\"operationName\":\"Coach\",\"targetDeviceUri\":\"{url}/devices/{target}\"}}' \
             \\\n    \
             {url}/me/devices/{device}\n"
        ))
    }

    /// A supervisor with a device, and the device of an agent of the same group.
    fn coaching_pair(&self) -> Option<(&UserId, &DeviceId, &DeviceId)> {
        let users = &self.directory.users;
        self.directory.groups.values().find_map(|group| {
            let first_device =
                |name: &UserId| users.get(name).and_then(|user| user.devices.first());
            let supervisor = group.supervisors.iter().find(|name| first_device(name).is_some())?;
            let agent = |name: &&UserId| {
                users
                    .get(*name)
                    .is_some_and(|user| user.is(Role::Agent) && !user.devices.is_empty())
            };
            let agent = group.agents.iter().find(agent)?;
            Some((supervisor, first_device(supervisor)?, first_device(agent)?))
        })
    }
}

fn secret_text(stored: &[u8]) -> Option<Secret> {
    std::str::from_utf8(stored).ok().map(Secret::from)
}

/// The digests of the password of a SIP account with this user name.
pub fn ha1s_of(realm: &str, username: &str, password: &str) -> Ha1s {
    let one = |algorithm: &Algorithm| (*algorithm, ha1(*algorithm, username, realm, password));
    ALGORITHMS.iter().map(one).collect()
}

fn stored_ha1s(kept: &BTreeMap<String, Vec<u8>>, realm: &str, name: &str) -> Ha1s {
    let ha1 = |algorithm: &Algorithm| {
        let stored = kept.get(&format!("sip/{realm}/{name}/{}", algorithm.name()))?;
        Some((*algorithm, secret_text(stored)?))
    };
    ALGORITHMS.iter().filter_map(ha1).collect()
}

/// What the store of a gateway is told of a user's password; `None`: the user is gone.
pub fn keep_password(user: &UserId, hash: Option<&Secret>) -> Write {
    let key = format!("rest/{user}");
    match hash {
        Some(hash) => Write::put(TABLE, key, hash.expose().as_str()),
        None => Write::remove(TABLE, key),
    }
}

/// What the store of a SIP backend is told of the password of an account; `None`: the account is
/// gone.
pub fn keep_ha1s(realm: &str, username: &str, ha1s: Option<&Ha1s>) -> Vec<Write> {
    let write = |algorithm: &Algorithm| {
        let key = format!("sip/{realm}/{username}/{}", algorithm.name());
        match ha1s.and_then(|ha1s| ha1s.get(algorithm)) {
            Some(ha1) => Write::put(TABLE, key, ha1.expose().as_str()),
            None => Write::remove(TABLE, key),
        }
    };
    ALGORITHMS.iter().map(write).collect()
}

/// The algorithms that HA1s are kept for: all that phones may be challenged with.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::Md5, Algorithm::Sha256, Algorithm::Sha512_256];

impl Made {
    fn new(name: &str) -> Self {
        let mut random = rand::rng();
        let password: String = (0..LENGTH)
            .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
            .collect();
        Self { name: name.to_owned(), password: password.into() }
    }

    fn line(&self) -> String {
        format!("    {}\n", self.name)
    }
}

fn password_of<'a>(made: &'a [Made], user: &UserId) -> Option<&'a str> {
    let made = made.iter().find(|made| made.name == user.as_str());
    made.map(|made| made.password.expose().as_str())
}

fn keep(store: &Store, changes: &[Write]) -> Result<(), StoreError> {
    match changes.is_empty() {
        true => Ok(()),
        false => store.write(changes),
    }
}

/// Forgets every password that was made: the next start makes new ones.
///
/// # Errors
/// The store fails.
pub fn forget_credentials(store: &Store) -> Result<(), StoreError> {
    let changes: Vec<Write> =
        store.load(TABLE)?.into_keys().map(|key| Write::remove(TABLE, key)).collect();
    keep(store, &changes)
}
