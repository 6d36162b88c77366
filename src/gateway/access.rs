use super::{DeviceEntry, Directory, Group, User};
use crate::model::{DeviceId, Feature, GroupId, Number, Reason, Refusal, Role, Subject, UserId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The directory with the questions that permissions ask of it.
pub(super) struct AccessDirectory {
    directory: Arc<Directory>,
    owners: BTreeMap<DeviceId, UserId>,
    numbers: BTreeMap<Number, DeviceId>,
    /// The groups that name a user as an agent, and those that name the user as a supervisor.
    agents: BTreeMap<UserId, Vec<GroupId>>,
    supervisors: BTreeMap<UserId, Vec<GroupId>>,
}

impl AccessDirectory {
    pub(super) fn new(directory: Arc<Directory>) -> Self {
        let owners = directory
            .users
            .values()
            .flat_map(|user| user.devices.iter().map(|device| (device.clone(), user.id.clone())))
            .collect();
        let numbers = directory
            .devices
            .values()
            .map(|device| (device.number.clone(), device.id.clone()))
            .collect();
        let named = |members: fn(&Group) -> &BTreeSet<UserId>| {
            let mut named: BTreeMap<UserId, Vec<GroupId>> = BTreeMap::new();
            for (id, group) in &directory.groups {
                for member in members(group) {
                    named.entry(member.clone()).or_default().push(id.clone());
                }
            }
            named
        };
        Self {
            agents: named(|group| &group.agents),
            supervisors: named(|group| &group.supervisors),
            directory,
            owners,
            numbers,
        }
    }

    pub(super) fn user(&self, id: &UserId) -> Result<&User, Refusal> {
        self.directory
            .user(id)
            .ok_or_else(|| Refusal::new(Reason::NotAuthenticated, "Access denied"))
    }

    pub(super) fn device(&self, id: &DeviceId) -> Option<&DeviceEntry> {
        self.directory.devices.get(id)
    }

    pub(super) fn devices(&self) -> impl Iterator<Item = &DeviceEntry> {
        self.directory.devices.values()
    }

    pub(super) fn device_ids(&self) -> Vec<DeviceId> {
        self.devices().map(|entry| entry.id.clone()).collect()
    }

    pub(super) fn device_by_number(&self, number: &Number) -> Option<&DeviceEntry> {
        self.directory.devices.get(self.numbers.get(number)?)
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
        named: &'a BTreeMap<UserId, Vec<GroupId>>,
        user: &UserId,
    ) -> impl Iterator<Item = &'a Group> {
        let groups = named.get(user).into_iter().flatten();
        groups.filter_map(|id| self.directory.groups.get(id))
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

/// The user has the role and both features.
pub(super) fn may_monitor_at_all(user: &User) -> Result<(), Refusal> {
    if !supervises(user) {
        return Err(Refusal::new(Reason::NotPermitted, "Only a supervisor may monitor."));
    }
    needs_feature(user, Feature::Voice)?;
    needs_feature(user, Feature::SupervisorMonitoring)
}

pub(super) fn needs_feature(user: &User, feature: Feature) -> Result<(), Refusal> {
    let name = match feature {
        Feature::Voice => "api-voice",
        Feature::SupervisorMonitoring => "api-supervisor-monitoring",
    };
    match user.has(feature) {
        true => Ok(()),
        false => Err(Refusal::new(Reason::NotPermitted, format!("Feature '{name}' is required."))),
    }
}

fn supervises(user: &User) -> bool {
    user.is(Role::Supervisor) || user.is(Role::Admin)
}
