//! What a client reads of the contact centre when it logs in: features, services, groups,
//! contacts, settings.

use super::{Uris, VOICE, contact_path, feature_path, group_path};
use crate::model::{ContactView, Feature, GroupView};
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
}

impl GroupJson {
    /// `type` of the groups that there are.
    pub const TYPE: &str = "AgentGroup";
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

/// A group as JSON.
pub fn group(uris: &Uris, view: &GroupView) -> GroupJson {
    GroupJson {
        id: view.id.to_string(),
        name: view.id.to_string(),
        kind: GroupJson::TYPE,
        uri: uris.group(&view.id),
        path: group_path(&view.id),
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
