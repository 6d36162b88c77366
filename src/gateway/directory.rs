use crate::model::{
    Caller, CallerRole, DeviceId, Difference, Feature, GroupId, Number, Reason, Refusal, Role,
    SharedMap, Subject, UserId,
};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// What exists: users, devices, groups, voice environments. A copy shares its entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Users by login name.
    pub users: SharedMap<UserId, User>,
    /// Devices by id.
    pub devices: SharedMap<DeviceId, DeviceEntry>,
    /// Groups by id.
    pub groups: SharedMap<GroupId, Group>,
    /// Voice environments by their path id.
    pub voice_environments: BTreeMap<String, VoiceEnvironment>,
    /// Id of this contact centre: the `contactCenterId` of each user. Opaque.
    pub contact_center: String,
}

/// A user of the gateway.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Login name.
    pub id: UserId,
    /// Name for people.
    #[serde(skip)]
    pub display_name: String,
    /// First name.
    #[serde(skip)]
    pub first_name: String,
    /// Last name; empty where the user has one name only.
    #[serde(skip)]
    pub last_name: String,
    /// E-mail address; may be empty.
    #[serde(default)]
    pub email: String,
    /// The user's roles.
    pub roles: BTreeSet<Role>,
    /// What the user's contract contains.
    #[serde(default = "every_feature")]
    pub features: BTreeSet<Feature>,
    /// The user's devices, in the order they are shown. A device has at most one user.
    #[serde(default)]
    pub devices: Vec<DeviceId>,
}

fn every_feature() -> BTreeSet<Feature> {
    [Feature::Voice, Feature::SupervisorMonitoring].into()
}

impl User {
    /// What is left out follows: the display name from first and last name or the login name; first
    /// and last name from the display name, which ends with the last name.
    pub fn name(&mut self, display: Option<String>, first: Option<String>, last: Option<String>) {
        let both = [&first, &last].map(|name| name.as_deref().unwrap_or_default()).join(" ");
        self.display_name = match (display, both.trim()) {
            (Some(name), _) => name,
            (None, "") => self.id.as_str().to_owned(),
            (None, both) => both.to_owned(),
        };
        (self.first_name, self.last_name) = match (first, last) {
            (None, None) => {
                let name = self.display_name.trim();
                let (first, last) = name.rsplit_once(' ').unwrap_or((name, ""));
                (first.trim().to_owned(), last.to_owned())
            }
            (first, last) => (first.unwrap_or_default(), last.unwrap_or_default()),
        };
    }

    /// The user has the role.
    pub fn is(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The user's contract contains the feature.
    pub fn has(&self, feature: Feature) -> bool {
        self.features.contains(&feature)
    }
}

/// A device of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceEntry {
    /// The id of the device.
    pub id: DeviceId,
    /// Its number.
    pub number: Number,
    /// Path id of its voice environment.
    pub voice_environment: String,
}

/// Agents and the supervisors that may monitor them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The id of the group.
    pub id: GroupId,
    /// The agents of the group.
    #[serde(default)]
    pub agents: BTreeSet<UserId>,
    /// The supervisors of the group.
    #[serde(default)]
    pub supervisors: BTreeSet<UserId>,
    /// The group says that its supervisors may monitor its members that are supervisors themselves.
    #[serde(default)]
    pub monitor_supervisors: bool,
    /// A supervisor of its agents hears them alone, never their customers.
    #[serde(default)]
    pub agent_side_only: bool,
}

/// A voice environment: what `voiceEnvironmentUri` points to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VoiceEnvironment {
    /// Path id.
    pub id: String,
    /// Name for people.
    #[serde(default)]
    pub name: String,
}

impl Directory {
    /// The user with this login name.
    pub fn user(&self, id: &UserId) -> Option<&User> {
        self.users.get(id).map(|user| &**user)
    }

    /// A service that calls may act for this user. Of one that it may not act for it does not learn
    /// whether there is such a user.
    ///
    /// # Errors
    /// [`Reason::NotPermitted`].
    pub fn acts_for(&self, caller: &Caller, user: &UserId) -> Result<(), Refusal> {
        let is_named = match caller.role {
            CallerRole::Gateway => true,
            CallerRole::Observer => false,
            CallerRole::Service => {
                let groups = caller.groups.iter().filter_map(|group| self.groups.get(group));
                caller.users.contains(user)
                    || groups.into_iter().any(|group| {
                        group.agents.contains(user) || group.supervisors.contains(user)
                    })
            }
        };
        if is_named {
            return Ok(());
        }
        let text = "The caller may not act for user '{}'.";
        Err(Refusal::about(Reason::NotPermitted, Subject::User(user.clone()), text))
    }

    /// What has become of each user, device and group.
    pub fn changes_to(&self, after: &Directory) -> DirectoryChanges {
        DirectoryChanges {
            users: Difference::between(&self.users, &after.users),
            devices: Difference::between(&self.devices, &after.devices),
            groups: Difference::between(&self.groups, &after.groups),
            other: self.voice_environments != after.voice_environments
                || self.contact_center != after.contact_center,
        }
    }
}

/// What has become of each user, device and group of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryChanges {
    /// Users.
    pub users: Difference<UserId>,
    /// Devices.
    pub devices: Difference<DeviceId>,
    /// Groups.
    pub groups: Difference<GroupId>,
    /// Voice environments, or the id of the contact centre.
    pub other: bool,
}

impl DirectoryChanges {
    /// Nothing has.
    pub fn is_empty(&self) -> bool {
        self.users.is_empty() && self.devices.is_empty() && self.groups.is_empty() && !self.other
    }
}
