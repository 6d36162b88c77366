//! Passwords made once: printed once, kept as hashes.

use super::Config;
use crate::gateway::Directory;
use crate::http::auth::{PasswordHashes, hash_password};
use crate::model::{DeviceId, Role, UserId};
use crate::sip;
use crate::sip::config::{SipAccount, SipAccounts};
use crate::sip::digest::{Algorithm, ha1};
use crate::store::{Store, StoreError, Write};
use crate::telephony::phones::PhoneCommand;
use rand::Rng;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// `rest/<login name>` → PHC string; `sip/<realm>/<user name>/<algorithm>` → HA1.
const TABLE: &str = "credentials";

/// Of 32 characters that no one mistakes for another: 5 bits each, 100 bits.
const ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
const LENGTH: usize = 20;

/// A password that was made now. It is shown once and not kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Made {
    /// The login name or the number.
    pub name: String,
    /// The password, in clear.
    pub password: String,
}

impl std::fmt::Debug for Made {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Made").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Credentials cannot be read or made.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// The store fails.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A password cannot be hashed.
    #[error(transparent)]
    Hash(#[from] crate::http::auth::PasswordError),
}

impl Config {
    /// The accounts of REST and CometD; makes those that are missing and says so.
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
            let stored = kept.get(&key).and_then(|hash| String::from_utf8(hash.clone()).ok());
            let hash = match self.password_hashes.get(user).cloned().or(stored) {
                Some(hash) => hash,
                None => {
                    let new = Made::new(user.as_str());
                    let hash = hash_password(&new.password)?;
                    changes.push(Write::put(TABLE, key, hash.as_str()));
                    made.push(new);
                    hash
                }
            };
            accounts.insert(user.clone(), hash);
        }
        keep(store, &changes)?;
        Ok((accounts, made))
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
            let of = |password: &str| ha1s_of(&self.sip.realm, &name, password);
            account.ha1s =
                match self.sip_passwords.get(&account.number) {
                    Some(password) => of(password),
                    None if stored.len() == ALGORITHMS.len() => stored,
                    None => {
                        let new = Made::new(&name);
                        let ha1s = of(&new.password);
                        changes.extend(ha1s.iter().map(|(algorithm, ha1)| {
                            Write::put(TABLE, key(*algorithm), ha1.as_str())
                        }));
                        made.push(new);
                        ha1s
                    }
                };
        }
        keep(store, &changes)?;
        made.sort_by(|one: &Made, other| one.name.cmp(&other.name));
        Ok((endpoint, made))
    }

    /// Takes users, devices and groups from elsewhere, in the place of those of the file. Their
    /// passwords are those that are kept.
    pub fn replace_directory(&mut self, directory: Directory, accounts: SipAccounts) {
        self.directory = directory;
        self.sip.accounts = accounts;
        self.password_hashes.clear();
        self.sip_passwords.clear();
    }

    /// The password hashes that there are, of the file and of the store of a gateway.
    ///
    /// # Errors
    /// The store fails.
    pub fn kept_passwords(&self, store: &Store) -> Result<PasswordHashes, StoreError> {
        let kept = store.load(TABLE)?;
        let hash = |user: &UserId| {
            let stored = kept.get(&format!("rest/{user}"));
            let stored = stored.and_then(|hash| String::from_utf8(hash.clone()).ok());
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
                Some(password) => ha1s_of(&self.sip.realm, name, password),
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
            keep_ha1s(realm, name, Some(&ha1s_of(realm, name, password)))
        });
        (rest, sip.collect())
    }

    /// Gives each user without a password in the file this one.
    ///
    /// # Errors
    /// It cannot be hashed.
    pub fn give_password(&mut self, password: &str) -> Result<(), CredentialsError> {
        let hash = hash_password(password)?;
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
                    self.coach_request(password),
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

    /// What to print when credentials were made: each password, and the Coach request ready to
    /// paste. `None` when none were.
    pub fn introduction(&self, rest: &[Made], sip: &[Made]) -> Option<String> {
        if rest.is_empty() && sip.is_empty() {
            return None;
        }
        let mut text = format!(
            "Passwords were made. They are shown this once; {} keeps their hashes.\n",
            self.state_dir.display()
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
        let password = supervisor.and_then(|supervisor| password_of(rest, supervisor));
        if let Some(request) = password.and_then(|password| self.coach_request(password)) {
            text.push_str(
                "\nWith phones registered and a call answered, a supervisor coaches the \
                 agent by\n\n",
            );
            text.push_str(&request);
        }
        Some(text)
    }

    fn coach_request(&self, password: &str) -> Option<String> {
        let (supervisor, device, target) = self.coaching_pair()?;
        let url = format!("{}/api/v2", self.http.public_url);
        Some(format!(
            "  curl -u {supervisor}:{password} -H 'Content-Type: application/json' \\\n    \
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

/// The digests of a device's password, by algorithm.
pub type Ha1s = BTreeMap<Algorithm, String>;

/// The digests of the password of a SIP account with this user name.
pub fn ha1s_of(realm: &str, username: &str, password: &str) -> Ha1s {
    let one = |algorithm: &Algorithm| (*algorithm, ha1(*algorithm, username, realm, password));
    ALGORITHMS.iter().map(one).collect()
}

fn stored_ha1s(kept: &BTreeMap<String, Vec<u8>>, realm: &str, name: &str) -> Ha1s {
    let ha1 = |algorithm: &Algorithm| {
        let stored = kept.get(&format!("sip/{realm}/{name}/{}", algorithm.name()))?;
        Some((*algorithm, String::from_utf8(stored.clone()).ok()?))
    };
    ALGORITHMS.iter().filter_map(ha1).collect()
}

/// What the store of a gateway is told of a user's password; `None`: the user is gone.
pub fn keep_password(user: &UserId, hash: Option<&str>) -> Write {
    let key = format!("rest/{user}");
    match hash {
        Some(hash) => Write::put(TABLE, key, hash),
        None => Write::remove(TABLE, key),
    }
}

/// What the store of a SIP backend is told of the password of an account; `None`: the account is
/// gone.
pub fn keep_ha1s(realm: &str, username: &str, ha1s: Option<&Ha1s>) -> Vec<Write> {
    let write = |algorithm: &Algorithm| {
        let key = format!("sip/{realm}/{username}/{}", algorithm.name());
        match ha1s.and_then(|ha1s| ha1s.get(algorithm)) {
            Some(ha1) => Write::put(TABLE, key, ha1.as_str()),
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
        let password = (0..LENGTH)
            .map(|_| char::from(ALPHABET[random.random_range(0..ALPHABET.len())]))
            .collect();
        Self { name: name.to_owned(), password }
    }

    fn line(&self) -> String {
        format!("    {:<24} {}\n", self.name, self.password)
    }
}

fn password_of<'a>(made: &'a [Made], user: &UserId) -> Option<&'a str> {
    let made = made.iter().find(|made| made.name == user.as_str());
    made.map(|made| made.password.as_str())
}

fn keep(store: &Store, changes: &[Write]) -> Result<(), StoreError> {
    match changes.is_empty() {
        true => Ok(()),
        false => store.write(changes),
    }
}

/// Forgets every password that was made: the next start makes and prints new ones.
///
/// # Errors
/// The store fails.
pub fn forget_credentials(store: &Store) -> Result<(), StoreError> {
    let changes: Vec<Write> =
        store.load(TABLE)?.into_keys().map(|key| Write::remove(TABLE, key)).collect();
    keep(store, &changes)
}
