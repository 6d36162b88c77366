//! What a client reads of the contact centre when it logs in: features, services, groups,
//! contacts, settings.

use super::{
    Uris, UserStateJson, VOICE, contact_path, feature_path, group_path, role_word, user_path,
    user_state,
};
use crate::model::{ContactView, DeviceId, Feature, GroupView, UserId, UserView};
use serde::Serialize;
use utoipa::ToSchema;

/// A feature of the contact centre.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FeatureJson {
    /// `api-voice` or `api-supervisor-monitoring`.
    pub id: &'static str,
    /// A name for people.
    pub display_name: &'static str,
    /// A text for people.
    pub description: &'static str,
    /// Always true: each contact centre has it.
    pub auto_assign_on_contact_center_create: bool,
    /// Its URI.
    pub uri: String,
    /// Its path under the prefix.
    pub path: String,
}

/// A service: a medium over which the contact centre is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServiceJson {
    /// `voice`
    pub id: &'static str,
    /// `voice`
    pub name: &'static str,
    /// Active, or Inactive while the telephony backend cannot be reached.
    pub state: &'static str,
}

/// A group of agents and their supervisors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct GroupJson {
    /// Its id.
    pub id: String,
    /// A name for people.
    pub name: String,
    /// AgentGroup
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Its URI.
    pub uri: String,
    /// Its path under the prefix.
    pub path: String,
    /// Its agents, by login name. This and what follows: for an admin alone. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agents: Option<Vec<String>>,
    /// The supervisors that may monitor them, by login name. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supervisors: Option<Vec<String>>,
    /// Its supervisors may also monitor its members that are supervisors themselves. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub monitor_supervisors: Option<bool>,
    /// Its supervisors hear the agents alone. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_side_only: Option<bool>,
}

impl GroupJson {
    /// `type` of the groups that there are.
    pub const TYPE: &str = "AgentGroup";
}

/// A user as the directory has it, with the members that a change of it takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DirectoryUserJson {
    /// The id of the user.
    pub id: String,
    /// The login name of the user.
    pub user_name: String,
    /// The first name of the user.
    pub first_name: String,
    /// The last name of the user; may be empty.
    pub last_name: String,
    /// The e-mail address of the user; may be empty.
    pub email_address: String,
    /// ROLE_AGENT, ROLE_SUPERVISOR, ROLE_ADMIN.
    pub roles: Vec<&'static str>,
    /// Always true: a user that is not enabled is not in the directory.
    pub enabled: bool,
    /// Always false.
    pub change_password_on_first_login: bool,
    /// The id of this contact centre.
    pub contact_center_id: String,
    /// The URI of the user.
    pub uri: String,
    /// Its path under the prefix.
    pub path: String,
    /// A text for people. An extension.
    pub display_name: String,
    /// The voice state; absent while no contact-centre session is open. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_state: Option<UserStateJson>,
    /// The features of the user, by id.
    pub features: Vec<&'static str>,
    /// The devices of the user, by id, in the order they are shown.
    pub devices: Vec<String>,
}

/// A user that the reader may know of, with the numbers to call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContactJson {
    /// The id of the user.
    pub id: String,
    /// A name for people.
    pub name: String,
    /// User
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The numbers of the user's devices.
    pub phone_numbers: Vec<ContactNumberJson>,
    /// The login name of the user.
    pub user_name: String,
    /// The first name of the user.
    pub first_name: String,
    /// The last name of the user; may be empty.
    pub last_name: String,
    /// The id of the user again.
    pub employee_id: String,
    /// Its URI.
    pub uri: String,
    /// Its path under the prefix.
    pub path: String,
}

impl ContactJson {
    /// `type` of the contacts that there are.
    pub const TYPE: &str = "User";
}

/// A number at which a contact is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContactNumberJson {
    /// The number.
    pub phone_number: String,
    /// Always empty.
    pub description: &'static str,
    /// The name of its voice environment.
    pub switch_name: String,
}

/// A setting of a client; there are none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SettingJson {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// A feature as JSON.
pub fn feature(uris: &Uris, feature: Feature) -> FeatureJson {
    let (display_name, description) = match feature {
        Feature::Voice => ("Voice", "Calls on the user's devices."),
        Feature::SupervisorMonitoring => {
            ("Supervisor Monitoring", "Supervisors listen in, coach and barge in.")
        }
    };
    FeatureJson {
        id: feature.as_str(),
        display_name,
        description,
        auto_assign_on_contact_center_create: true,
        uri: uris.feature(feature),
        path: feature_path(feature),
    }
}

/// The voice service as JSON. `is_ready`: the telephony backend can be reached.
pub fn voice_service(is_ready: bool) -> ServiceJson {
    ServiceJson { id: VOICE, name: VOICE, state: if is_ready { "Active" } else { "Inactive" } }
}

/// A user as JSON, with the members that a change of it takes.
pub fn directory_user(uris: &Uris, view: &UserView) -> DirectoryUserJson {
    DirectoryUserJson {
        id: view.id.to_string(),
        user_name: view.id.to_string(),
        first_name: view.first_name.clone(),
        last_name: view.last_name.clone(),
        email_address: view.email.clone(),
        roles: view.roles.iter().map(|role| role_word(*role)).collect(),
        enabled: true,
        change_password_on_first_login: false,
        contact_center_id: view.contact_center.clone(),
        uri: uris.user(&view.id),
        path: user_path(&view.id),
        display_name: view.display_name.clone(),
        user_state: view.state.as_ref().map(user_state),
        features: view.features.iter().map(|feature| feature.as_str()).collect(),
        devices: view.devices.iter().map(DeviceId::to_string).collect(),
    }
}

/// A group as JSON.
pub fn group(uris: &Uris, view: &GroupView) -> GroupJson {
    let names = |users: &[UserId]| users.iter().map(UserId::to_string).collect();
    let settings = view.settings.as_ref();
    GroupJson {
        id: view.id.to_string(),
        name: view.id.to_string(),
        kind: GroupJson::TYPE,
        uri: uris.group(&view.id),
        path: group_path(&view.id),
        agents: settings.map(|settings| names(&settings.agents)),
        supervisors: settings.map(|settings| names(&settings.supervisors)),
        monitor_supervisors: settings.map(|settings| settings.monitor_supervisors),
        agent_side_only: settings.map(|settings| settings.agent_side_only),
    }
}

/// A contact as JSON.
pub fn contact(uris: &Uris, view: &ContactView) -> ContactJson {
    let numbers = view.numbers.iter().map(|number| ContactNumberJson {
        phone_number: number.number.to_string(),
        description: "",
        switch_name: number.switch.clone(),
    });
    ContactJson {
        id: view.id.to_string(),
        name: view.display_name.clone(),
        kind: ContactJson::TYPE,
        phone_numbers: numbers.collect(),
        user_name: view.id.to_string(),
        first_name: view.first_name.clone(),
        last_name: view.last_name.clone(),
        employee_id: view.id.to_string(),
        uri: uris.contact(&view.id),
        path: contact_path(&view.id),
    }
}
