use super::{DeviceEntry, Directory, DirectoryChanges, Group, User};
use crate::model::{
    Caller, DeviceId, Difference, Feature, GroupId, Number, Reason, Refusal, Role, Subject, UserId,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The directory with the questions that permissions ask of it.
pub(super) struct AccessDirectory {
    directory: Arc<Directory>,
    owners: BTreeMap<DeviceId, UserId>,
    numbers: BTreeMap<Number, DeviceId>,
    /// The groups that name a user as an agent, and those that name the user as a supervisor.
    agents: BTreeMap<UserId, BTreeSet<GroupId>>,
    supervisors: BTreeMap<UserId, BTreeSet<GroupId>>,
}

/// What a new directory means.
pub(super) struct AccessChange {
    pub(super) changes: DirectoryChanges,
    /// The devices that have lost their users, with these.
    pub(super) lost: BTreeMap<DeviceId, UserId>,
}

impl AccessDirectory {
    pub(super) fn new(directory: Arc<Directory>) -> Self {
        let mut access = Self {
            directory: Arc::default(),
            owners: BTreeMap::new(),
            numbers: BTreeMap::new(),
            agents: BTreeMap::new(),
            supervisors: BTreeMap::new(),
        };
        access.change(directory);
        access
    }

    /// Another directory from now on.
    pub(super) fn change(&mut self, after: Arc<Directory>) -> AccessChange {
        let changes = self.directory.changes_to(&after);
        let before = std::mem::replace(&mut self.directory, Arc::clone(&after));
        let lost = self.index_users(&before, &after, &changes.users);
        for id in changes.devices.removed.iter().chain(&changes.devices.changed) {
            if let Some(device) = before.devices.get(id)
                && self.numbers.get(&device.number) == Some(id)
            {
                self.numbers.remove(&device.number);
            }
        }
        for device in changes.devices.put().filter_map(|id| after.devices.get(id)) {
            self.numbers.insert(device.number.clone(), device.id.clone());
        }
        for group in changes.groups.removed.iter().chain(&changes.groups.changed) {
            if let Some(group) = before.groups.get(group) {
                forget_members(&mut self.agents, &group.agents, &group.id);
                forget_members(&mut self.supervisors, &group.supervisors, &group.id);
            }
        }
        for group in changes.groups.put().filter_map(|id| after.groups.get(id)) {
            for (named, members) in
                [(&mut self.agents, &group.agents), (&mut self.supervisors, &group.supervisors)]
            {
                for member in members {
                    named.entry(member.clone()).or_default().insert(group.id.clone());
                }
            }
        }
        AccessChange { changes, lost }
    }

    fn index_users(
        &mut self,
        before: &Directory,
        after: &Directory,
        users: &Difference<UserId>,
    ) -> BTreeMap<DeviceId, UserId> {
        let mut lost = BTreeMap::new();
        for user in users.removed.iter().chain(&users.changed) {
            let devices = before.user(user).map(|user| user.devices.as_slice());
            for device in devices.unwrap_or_default() {
                if self.owners.get(device) == Some(user) {
                    self.owners.remove(device);
                    lost.insert(device.clone(), user.clone());
                }
            }
        }
        for user in users.put().filter_map(|id| after.user(id)) {
            for device in &user.devices {
                self.owners.insert(device.clone(), user.id.clone());
            }
        }
        lost.retain(|device, user| self.owners.get(device) != Some(user));
        lost
    }

    pub(super) fn user(&self, id: &UserId) -> Result<&User, Refusal> {
        self.directory
            .user(id)
            .ok_or_else(|| Refusal::new(Reason::NotAuthenticated, "Access denied"))
    }

    /// The name, if a user has it.
    pub(super) fn known<'a>(&self, id: &'a UserId) -> Option<&'a UserId> {
        self.directory.user(id).map(|_| id)
    }

    /// The service may act for this user.
    pub(super) fn acts_for(&self, caller: &Caller, user: &UserId) -> Result<(), Refusal> {
        self.directory.acts_for(caller, user)
    }

    /// The user with this login name, if there is one.
    pub(super) fn found(&self, id: &UserId) -> Option<&User> {
        self.directory.user(id)
    }

    pub(super) fn users(&self) -> impl Iterator<Item = &User> {
        self.directory.users.values().map(|user| &**user)
    }

    /// Id of this contact centre.
    pub(super) fn contact_center(&self) -> &str {
        &self.directory.contact_center
    }

    /// Name of a voice environment, or its id where it has none.
    pub(super) fn voice_environment<'a>(&'a self, id: &'a str) -> &'a str {
        let found = self.directory.voice_environments.get(id);
        found.map(|found| found.name.as_str()).filter(|name| !name.is_empty()).unwrap_or(id)
    }

    pub(super) fn device(&self, id: &DeviceId) -> Option<&DeviceEntry> {
        self.directory.devices.get(id).map(|device| &**device)
    }

    pub(super) fn devices(&self) -> impl Iterator<Item = &DeviceEntry> {
        self.directory.devices.values().map(|device| &**device)
    }

    pub(super) fn user_ids(&self) -> Vec<UserId> {
        self.directory.users.keys().cloned().collect()
    }

    pub(super) fn device_ids(&self) -> Vec<DeviceId> {
        self.devices().map(|entry| entry.id.clone()).collect()
    }

    pub(super) fn device_by_number(&self, number: &Number) -> Option<&DeviceEntry> {
        self.device(self.numbers.get(number)?)
    }

    pub(super) fn owner(&self, device: &DeviceId) -> Option<&User> {
        self.directory.user(self.owners.get(device)?)
    }

    /// The device is the user's own, and the user's contract contains voice.
    pub(super) fn own_device(&self, user: &User, device: &DeviceId) -> Result<(), Refusal> {
        if user.devices.contains(device) {
            return needs_feature(user, Feature::Voice);
        }
        Err(match self.may_know(user, device) {
            true => Refusal::about(
                Reason::NotPermitted,
                self.subject(user, device),
                "Device '{}' is not yours.",
            ),
            false => Refusal::not_found(format_args!("/me/devices/{device}")),
        })
    }

    /// The user may learn that the device exists: an own one, or one that the user may monitor.
    pub(super) fn may_know(&self, user: &User, device: &DeviceId) -> bool {
        user.devices.contains(device)
            || (self.device(device).is_some() && self.may_monitor(user, device).is_ok())
    }

    /// The users whose names and numbers the user may know: the user itself, those of the own
    /// groups, and those that the user may monitor. An admin may know all.
    pub(super) fn contacts<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a User> {
        let colleagues: BTreeSet<&UserId> = self
            .groups_of(user)
            .flat_map(|group| group.agents.iter().chain(&group.supervisors))
            .collect();
        let users = self.directory.users.values().map(|user| &**user);
        users.filter(move |contact| {
            contact.id == user.id || user.is(Role::Admin) || colleagues.contains(&contact.id)
        })
    }

    fn group(&self, id: &GroupId) -> Option<&Group> {
        self.directory.groups.get(id).map(|group| &**group)
    }

    /// The groups that name the user.
    pub(super) fn groups_of<'a>(&'a self, user: &User) -> impl Iterator<Item = &'a Group> {
        let named = [&self.agents, &self.supervisors].map(|named| named.get(&user.id));
        let ids: BTreeSet<&GroupId> = named.into_iter().flatten().flatten().collect();
        ids.into_iter().filter_map(|id| self.group(id))
    }

    /// The groups of which the user may know: the own ones, and all for an admin.
    pub(super) fn known_groups<'a>(&'a self, user: &User) -> impl Iterator<Item = &'a Group> {
        let own: BTreeSet<&GroupId> = self.groups_of(user).map(|group| &group.id).collect();
        let is_admin = user.is(Role::Admin);
        let groups = self.directory.groups.values().map(|group| &**group);
        groups.filter(move |group| is_admin || own.contains(&group.id))
    }

    /// A device as a user calls it: by its number, or by its id where the user may not know more.
    fn subject(&self, user: &User, device: &DeviceId) -> Subject {
        match self.device(device) {
            Some(entry) if self.may_know(user, device) => Subject::Number(entry.number.clone()),
            Some(_) | None => Subject::Device(device.clone()),
        }
    }

    /// A refusal of the backend, which knows devices by their ids, about the device as this user
    /// calls it: `Device '5001' is not registered.` A device that was not found keeps the id by
    /// which it was asked for.
    pub(super) fn render_for(&self, user: Option<&User>, refusal: Refusal) -> Refusal {
        let Some(user) = user.filter(|_| refusal.reason != Reason::NotFound) else {
            return refusal;
        };
        match &refusal.subject {
            Some(Subject::Device(device)) => {
                let subject = self.subject(user, device);
                refusal.renamed(subject)
            }
            Some(
                Subject::Number(_)
                | Subject::Call(_)
                | Subject::User(_)
                | Subject::Parameter(_)
                | Subject::Resource(_),
            )
            | None => refusal,
        }
    }

    /// One of the groups of the target's user says that its agents alone are heard.
    pub(super) fn agent_side_only(&self, target: &DeviceId) -> bool {
        let Some(owner) = self.owner(target) else {
            return false;
        };
        self.groups(&self.agents, &owner.id).any(|group| group.agent_side_only)
    }

    fn groups<'a>(
        &'a self,
        named: &'a BTreeMap<UserId, BTreeSet<GroupId>>,
        user: &UserId,
    ) -> impl Iterator<Item = &'a Group> {
        let groups = named.get(user).into_iter().flatten();
        groups.filter_map(|id| self.group(id))
    }

    /// The user may monitor the target. Groups name their agents and their supervisors; an admin
    /// may monitor all but the own devices.
    pub(super) fn may_monitor(&self, user: &User, target: &DeviceId) -> Result<(), Refusal> {
        may_monitor_at_all(user)?;
        if user.devices.contains(target) {
            return Err(Refusal::new(Reason::NotPermitted, "Nobody monitors himself."));
        }
        if user.is(Role::Admin) {
            return Ok(());
        }
        let outside = || {
            Refusal::device(Reason::NotPermitted, target, "Device '{}' is in none of your groups.")
        };
        let owner = self.owner(target).ok_or_else(outside)?;
        let mut groups = self.groups(&self.supervisors, &user.id);
        let in_common = if supervises(owner) {
            groups.any(|group| {
                group.monitor_supervisors
                    && (group.agents.contains(&owner.id) || group.supervisors.contains(&owner.id))
            })
        } else {
            groups.any(|group| group.agents.contains(&owner.id))
        };
        if in_common { Ok(()) } else { Err(outside()) }
    }
}

/// A group names these users no more.
fn forget_members(
    named: &mut BTreeMap<UserId, BTreeSet<GroupId>>,
    members: &BTreeSet<UserId>,
    group: &GroupId,
) {
    for member in members {
        if let Some(groups) = named.get_mut(member) {
            groups.remove(group);
            if groups.is_empty() {
                named.remove(member);
            }
        }
    }
}

/// The user has the role and both features.
pub(super) fn may_monitor_at_all(user: &User) -> Result<(), Refusal> {
    if !supervises(user) {
        return Err(Refusal::new(Reason::NotPermitted, "Only a supervisor may monitor."));
    }
    needs_feature(user, Feature::Voice)?;
    needs_feature(user, Feature::SupervisorMonitoring)
}

pub(super) fn needs_feature(user: &User, feature: Feature) -> Result<(), Refusal> {
    match user.has(feature) {
        true => Ok(()),
        false => {
            let message = format!("Feature '{}' is required.", feature.as_str());
            Err(Refusal::new(Reason::NotPermitted, message))
        }
    }
}

fn supervises(user: &User) -> bool {
    user.is(Role::Supervisor) || user.is(Role::Admin)
}
