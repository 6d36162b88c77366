//! Passwords made once: printed once, kept as hashes.

use super::Config;
use crate::http::auth::{PasswordHashes, hash_password};
use crate::model::{DeviceId, Role, UserId};
use crate::sip;
use crate::sip::digest::{Algorithm, ha1};
use crate::store::{Store, StoreError, Write};
use rand::Rng;
use std::collections::BTreeMap;

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
        for account in &mut endpoint.accounts {
            let name = account.username.clone();
            let key = |algorithm: Algorithm| {
                format!("sip/{}/{name}/{}", self.sip.realm, algorithm.name())
            };
            let stored: BTreeMap<Algorithm, String> = ALGORITHMS
                .iter()
                .filter_map(|algorithm| {
                    Some((*algorithm, String::from_utf8(kept.get(&key(*algorithm))?.clone()).ok()?))
                })
                .collect();
            let of = |password: &str| -> BTreeMap<Algorithm, String> {
                let one = |algorithm: &Algorithm| {
                    (*algorithm, ha1(*algorithm, &name, &self.sip.realm, password))
                };
                ALGORITHMS.iter().map(one).collect()
            };
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
        Ok((endpoint, made))
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
        if let Some(request) = self.coach_request(rest) {
            text.push_str(
                "\nWith phones registered and a call answered, a supervisor coaches the \
                 agent by\n\n",
            );
            text.push_str(&request);
        }
        Some(text)
    }

    fn coach_request(&self, made: &[Made]) -> Option<String> {
        let (supervisor, device, target) = self.coaching_pair()?;
        let password = made.iter().find(|made| made.name == supervisor.as_str())?.password.as_str();
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
