//! What an admin may change, and what must hold afterwards.

use super::fields::{self, Device, Fields};
use crate::gateway::{DeviceEntry, Directory, Group, User};
use crate::model::{DeviceId, GroupId, Number, Reason, Refusal, Role, UserId};
use crate::sip::b2bua::AccountKind;
use crate::sip::config::{SipAccount, SipAccounts};
use crate::sip::digest::Ha1s;
use crate::sip::flow::Protocol;
use crate::sip::sdp::SrtpPolicy;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

/// One entry of the directory, by its id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryId {
    /// A user.
    User(UserId),
    /// A device.
    Device(DeviceId),
    /// A group.
    Group(GroupId),
}

/// The path below `/api/v2`.
impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EntryId::User(id) => write!(f, "/users/{id}"),
            EntryId::Device(id) => write!(f, "/devices/{id}"),
            EntryId::Group(id) => write!(f, "/groups/{id}"),
        }
    }
}

/// A change of one entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edit {
    /// Which entry.
    pub entry: EntryId,
    /// What becomes of it.
    pub kind: EditKind,
}

/// What becomes of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditKind {
    /// It is new.
    Create(Fields),
    /// These keys are other ones; the others stay as they are.
    Change(Fields),
    /// It is so from now on, new or not.
    Put(Fields),
    /// It goes. A user leaves its groups, a device its user.
    Remove,
}

/// What the configuration file says, also where an admin changes the directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// The names of the trunks.
    pub trunks: BTreeSet<String>,
    /// The devices of `[[device_range]]`.
    pub ranged: BTreeSet<DeviceId>,
}

/// The directory as it is edited.
#[derive(Clone, Debug)]
pub struct DirectoryEditor {
    directory: Directory,
    accounts: SipAccounts,
    given: Given,
    /// The device behind a trunk that has a name there.
    behind: BTreeMap<(String, Number), DeviceId>,
    /// Who has a number or an alias.
    names: BTreeMap<Number, DeviceId>,
    owners: BTreeMap<DeviceId, UserId>,
}

/// Text that can stand in a URL path, a SIP URI and a log without thinking.
pub fn is_plain(text: &str, extra: &[u8]) -> bool {
    let fits =
        |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte) || extra.contains(&byte);
    let is_step = [".", ".."].contains(&text);
    !text.is_empty() && !is_step && text.len() <= 128 && text.bytes().all(fits)
}

impl DirectoryEditor {
    /// A directory that holds what must hold.
    pub fn new(directory: Directory, accounts: SipAccounts, given: Given) -> Self {
        let named = |account: &SipAccount| {
            let device = account.device.clone();
            let names = account.aliases.iter().chain([&account.number]).cloned();
            names.map(move |name| (name, device.clone())).collect::<Vec<_>>()
        };
        let owned = |user: &Arc<User>| {
            let of = |device: &DeviceId| (device.clone(), user.id.clone());
            user.devices.iter().map(of).collect::<Vec<_>>()
        };
        Self {
            names: accounts.iter().flat_map(named).collect(),
            behind: accounts.iter().flat_map(names_behind).collect(),
            owners: directory.users.values().flat_map(owned).collect(),
            directory,
            accounts,
            given,
        }
    }

    /// The users, devices and groups.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The accounts.
    pub fn accounts(&self) -> &SipAccounts {
        &self.accounts
    }

    /// A device of `[[device_range]]`, which nobody changes here.
    pub fn is_ranged(&self, device: &DeviceId) -> bool {
        self.given.ranged.contains(device)
    }

    /// Changes one entry; the entries that are other ones now, itself among them.
    ///
    /// # Errors
    /// It can not be so; then nothing has changed.
    pub fn apply(&mut self, edit: Edit) -> Result<BTreeSet<EntryId>, Refusal> {
        let Edit { entry, kind } = edit;
        if let EntryId::Device(device) = &entry
            && self.is_ranged(device)
        {
            let text = "Device '{}' is one of a [[device_range]] of the configuration file: change \
                        it there.";
            return Err(Refusal::device(Reason::Forbidden, device, text));
        }
        let before = self.fields(&entry);
        let fields = match (kind, before) {
            (EditKind::Create(_), Some(_)) => {
                return Err(about(Reason::InUse, &entry, "'{}' exists already."));
            }
            (EditKind::Change(_) | EditKind::Remove, None) => {
                return Err(Refusal::not_found(&entry));
            }
            (EditKind::Remove, Some(_)) => return self.remove(&entry),
            (EditKind::Create(fields) | EditKind::Put(fields), _) => fields,
            (EditKind::Change(changed), Some(mut fields)) => {
                fields.extend(changed);
                fields
            }
        };
        let fields = with_id(fields, &entry);
        match &entry {
            EntryId::User(_) => self.put_user(fields::user(fields)?),
            EntryId::Device(_) => self.put_device(fields::device(fields)?),
            EntryId::Group(_) => self.put_group(fields::group(fields)?),
        }
    }

    /// An entry in the words of the configuration file; `None`: there is none.
    pub fn fields(&self, entry: &EntryId) -> Option<Fields> {
        match entry {
            EntryId::User(id) => self.directory.user(id).map(fields::of_user),
            EntryId::Device(id) => {
                let account = self.accounts.get(id)?;
                Some(fields::of_device(account, self.directory.devices.get(id)))
            }
            EntryId::Group(id) => {
                self.directory.groups.get(id).map(|group| fields::of_group(group))
            }
        }
    }

    /// The digests of a device's password are these.
    pub fn set_ha1s(&mut self, device: &DeviceId, ha1s: Ha1s) {
        if let Some(account) = self.accounts.get(device).cloned() {
            self.accounts.insert(SipAccount { ha1s, ..account });
        }
    }

    fn put_user(&mut self, user: User) -> Result<BTreeSet<EntryId>, Refusal> {
        let entry = EntryId::User(user.id.clone());
        check_id(&entry, user.id.as_str(), b"@+")?;
        if user.roles.is_empty() {
            return Err(Refusal::missing("roles"));
        }
        for device in &user.devices {
            let text = device.as_str();
            match self.accounts.get(device).map(|account| account.kind) {
                Some(AccountKind::Internal) => {}
                Some(AccountKind::Customer) => {
                    return Err(invalid(text, "Device '{}' is a customer's and has no user."));
                }
                None => return Err(invalid(text, "There is no device '{}'.")),
            }
            if self.owners.get(device).is_some_and(|owner| *owner != user.id) {
                return Err(Refusal::device(
                    Reason::InUse,
                    device,
                    "Device '{}' is another user's already.",
                ));
            }
        }
        let was_admin = self.directory.user(&user.id).is_some_and(|was| was.is(Role::Admin));
        if was_admin && !user.is(Role::Admin) {
            self.leaves_an_admin(&user.id)?;
        }
        let mut touched = BTreeSet::from([entry]);
        if !user.is(Role::Supervisor) && !user.is(Role::Admin) {
            touched.extend(self.leave_groups(&user.id, Membership::Supervisor));
        }
        self.forget_owner(&user.id);
        for device in &user.devices {
            self.owners.insert(device.clone(), user.id.clone());
        }
        self.directory.users.insert(user.id.clone(), Arc::new(user));
        Ok(touched)
    }

    fn put_device(&mut self, device: Device) -> Result<BTreeSet<EntryId>, Refusal> {
        let Device { mut account, voice_environment } = device;
        let entry = EntryId::Device(account.device.clone());
        check_id(&entry, account.device.as_str(), b"~")?;
        if !is_plain(account.number.as_str(), b"+#*") {
            return Err(invalid(account.number.as_str(), "'{}' is not a number of a device."));
        }
        let names: BTreeSet<&Number> = account.aliases.iter().chain([&account.number]).collect();
        for name in names {
            let is_anothers = self.names.get(name).is_some_and(|device| *device != account.device);
            if is_anothers || name.as_str().is_empty() {
                let text = "'{}' is a number or an alias of a device already.";
                return Err(Refusal::number(Reason::InUse, name, text));
            }
        }
        self.check_behind(&account)?;
        let before = self.directory.devices.get(&account.device);
        let has_it = |id: &String| before.is_some_and(|was| was.voice_environment == *id);
        let environment = match voice_environment {
            Some(id) if self.directory.voice_environments.contains_key(&id) || has_it(&id) => id,
            Some(id) => return Err(invalid(&id, "There is no voice environment '{}'.")),
            None => {
                let first = self.directory.voice_environments.keys().next();
                first.cloned().unwrap_or_default()
            }
        };
        let is_in_clear = account.transport.allows(Protocol::Udp) && !account.srtp_over_clear;
        if account.srtp == SrtpPolicy::Required && is_in_clear {
            let text = "Device '{}' can not have srtp \"required\" without transport \"tls\" or \
                        srtp_over_clear: its keys would go in clear.";
            return Err(invalid(account.device.as_str(), text));
        }
        if account.kind == AccountKind::Customer && self.owners.contains_key(&account.device) {
            return Err(Refusal::device(
                Reason::InvalidState,
                &account.device,
                "Device '{}' has a user, and can not be a customer's.",
            ));
        }
        if let Some(was) = self.accounts.get(&account.device).cloned() {
            if was.number == account.number && account.via.is_none() {
                account.ha1s.clone_from(&was.ha1s);
            }
            self.forget_names(&was);
        }
        for name in account.aliases.iter().chain([&account.number]) {
            self.names.insert(name.clone(), account.device.clone());
        }
        self.behind.extend(names_behind(&account));
        match account.kind {
            AccountKind::Internal => {
                let entry = DeviceEntry {
                    id: account.device.clone(),
                    number: account.number.clone(),
                    voice_environment: environment,
                };
                self.directory.devices.insert(entry.id.clone(), Arc::new(entry));
            }
            AccountKind::Customer => drop(self.directory.devices.remove(&account.device)),
        }
        self.accounts.insert(account);
        Ok(BTreeSet::from([entry]))
    }

    /// A device behind a trunk: there is one, it calls no two devices by one name, and it says what
    /// holds for all of them.
    fn check_behind(&self, account: &SipAccount) -> Result<(), Refusal> {
        let Some(via) = &account.via else {
            let Some(user) = &account.user else { return Ok(()) };
            return Err(invalid(user.as_str(), "'{}' is what no switch calls it: via is missing."));
        };
        if !self.given.trunks.contains(via) {
            return Err(invalid(via, "There is no trunk '{}'."));
        }
        if let Some(key) = account.key_of_trunk() {
            return Err(invalid(key, "'{}' is for the trunk to say, of all devices behind it."));
        }
        for (name, device) in names_behind(account) {
            if !is_plain(name.1.as_str(), b"+#*") {
                return Err(invalid(
                    name.1.as_str(),
                    "'{}' is not a name of a device at a switch.",
                ));
            }
            if self.behind.get(&name).is_some_and(|known| *known != device) {
                let text = "'{}' is what the trunk calls another device already.";
                return Err(Refusal::number(Reason::InUse, &name.1, text));
            }
        }
        Ok(())
    }

    fn put_group(&mut self, group: Group) -> Result<BTreeSet<EntryId>, Refusal> {
        let entry = EntryId::Group(group.id.clone());
        check_id(&entry, group.id.as_str(), b" ")?;
        for member in group.agents.iter().chain(&group.supervisors) {
            if self.directory.user(member).is_none() {
                return Err(invalid(member.as_str(), "There is no user '{}'."));
            }
        }
        let supervises = |user: &UserId| {
            let user = self.directory.user(user);
            user.is_some_and(|user| user.is(Role::Supervisor) || user.is(Role::Admin))
        };
        if let Some(other) = group.supervisors.iter().find(|user| !supervises(user)) {
            return Err(invalid(other.as_str(), "User '{}' does not have the role Supervisor."));
        }
        self.directory.groups.insert(group.id.clone(), Arc::new(group));
        Ok(BTreeSet::from([entry]))
    }

    fn remove(&mut self, entry: &EntryId) -> Result<BTreeSet<EntryId>, Refusal> {
        let mut touched = BTreeSet::from([entry.clone()]);
        match entry {
            EntryId::User(id) => {
                if self.directory.user(id).is_some_and(|user| user.is(Role::Admin)) {
                    self.leaves_an_admin(id)?;
                }
                touched.extend(self.leave_groups(id, Membership::Supervisor));
                touched.extend(self.leave_groups(id, Membership::Agent));
                self.forget_owner(id);
                self.directory.users.remove(id);
            }
            EntryId::Device(id) => {
                if let Some(was) = self.accounts.get(id).cloned() {
                    self.forget_names(&was);
                }
                if let Some(owner) = self.owners.remove(id)
                    && let Some(user) = self.directory.users.get_mut(&owner)
                {
                    Arc::make_mut(user).devices.retain(|device| device != id);
                    touched.insert(EntryId::User(owner));
                }
                self.accounts.remove(id);
                self.directory.devices.remove(id);
            }
            EntryId::Group(id) => drop(self.directory.groups.remove(id)),
        }
        Ok(touched)
    }

    /// Somebody must be able to take back what was done.
    fn leaves_an_admin(&self, but: &UserId) -> Result<(), Refusal> {
        let mut users = self.directory.users.values();
        match users.any(|user| user.id != *but && user.is(Role::Admin)) {
            true => Ok(()),
            false => Err(Refusal::new(Reason::InvalidState, "There must be an admin.")),
        }
    }

    fn leave_groups(&mut self, user: &UserId, as_what: Membership) -> Vec<EntryId> {
        let members = |group: &Group| match as_what {
            Membership::Agent => group.agents.contains(user),
            Membership::Supervisor => group.supervisors.contains(user),
        };
        let mut touched = Vec::new();
        for group in self.directory.groups.values_mut().filter(|group| members(group)) {
            let group = Arc::make_mut(group);
            match as_what {
                Membership::Agent => group.agents.remove(user),
                Membership::Supervisor => group.supervisors.remove(user),
            };
            touched.push(EntryId::Group(group.id.clone()));
        }
        touched
    }

    fn forget_owner(&mut self, user: &UserId) {
        let devices = self.directory.user(user).map(|user| user.devices.clone());
        for device in devices.unwrap_or_default() {
            self.owners.remove(&device);
        }
    }

    fn forget_names(&mut self, account: &SipAccount) {
        for name in account.aliases.iter().chain([&account.number]) {
            if self.names.get(name) == Some(&account.device) {
                self.names.remove(name);
            }
        }
        for (name, _) in names_behind(account) {
            if self.behind.get(&name) == Some(&account.device) {
                self.behind.remove(&name);
            }
        }
    }
}

/// What a trunk may call the device that is behind it.
fn names_behind(account: &SipAccount) -> Vec<((String, Number), DeviceId)> {
    let Some(via) = &account.via else { return Vec::new() };
    let names = account.names_besides().chain([&account.number]);
    names.map(|name| ((via.clone(), name.clone()), account.device.clone())).collect()
}

#[derive(Clone, Copy)]
enum Membership {
    Agent,
    Supervisor,
}

fn with_id(mut fields: Fields, entry: &EntryId) -> Fields {
    let id = match entry {
        EntryId::User(id) => id.as_str(),
        EntryId::Device(id) => id.as_str(),
        EntryId::Group(id) => id.as_str(),
    };
    fields.insert("id".to_owned(), Value::from(id));
    fields
}

fn check_id(entry: &EntryId, id: &str, extra: &[u8]) -> Result<(), Refusal> {
    match is_plain(id, extra) {
        true => Ok(()),
        false => Err(about(
            Reason::InvalidInput,
            entry,
            "'{}' has characters that can not stand in an id, or is too long.",
        )),
    }
}

fn about(reason: Reason, entry: &EntryId, text: &'static str) -> Refusal {
    Refusal::parameter(reason, &entry.to_string(), text)
}

fn invalid(what: &str, text: &'static str) -> Refusal {
    let shown: String = what.chars().take(128).collect();
    Refusal::parameter(Reason::InvalidInput, &shown, text)
}

#[cfg(test)]
mod tests;
