//! An entry as keys and values, in the words of the configuration file: so it is kept in the store,
//! stands in a CSV file, and comes from REST.

use crate::gateway::{DeviceEntry, Group, User};
use crate::model::{DeviceId, Number, Reason, Refusal, UserId};
use crate::sip::b2bua::AccountKind;
use crate::sip::config::{DeviceTransport, Nat, SipAccount};
use crate::sip::sdp::SrtpPolicy;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Keys of the configuration file with their values.
pub type Fields = Map<String, Value>;

/// A device and its account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its account, without the HA1s.
    pub account: SipAccount,
    /// Its voice environment; none: the first one.
    pub voice_environment: Option<String>,
}

/// What a user is made of.
pub fn of_user(user: &User) -> Fields {
    let features: Vec<&str> = user.features.iter().map(|feature| feature.as_str()).collect();
    let roles: Vec<&str> = user.roles.iter().map(|role| role.as_str()).collect();
    let devices: Vec<&str> = user.devices.iter().map(DeviceId::as_str).collect();
    fields(json!({
        "id": user.id.as_str(),
        "display_name": user.display_name,
        "first_name": user.first_name,
        "last_name": user.last_name,
        "email": user.email,
        "roles": roles,
        "features": features,
        "devices": devices,
    }))
}

/// What a device is made of; customers' accounts have no `entry`.
pub fn of_device(account: &SipAccount, entry: Option<&Arc<DeviceEntry>>) -> Fields {
    let headers = |headers: &crate::sip::config::UserDataHeaders| -> BTreeMap<String, String> {
        headers.iter().map(|(name, key)| (name.to_owned(), key.to_owned())).collect()
    };
    let aliases: Vec<&str> = account.aliases.iter().map(Number::as_str).collect();
    let mut device = fields(json!({
        "id": account.device.as_str(),
        "number": account.number.as_str(),
        "aliases": aliases,
        "via": account.via,
        "user": account.user.as_ref().map(Number::as_str),
        "kind": match account.kind {
            AccountKind::Internal => "house",
            AccountKind::Customer => "customer",
        },
        "nat": match account.nat {
            Nat::Auto => json!("auto"),
            Nat::Always => json!(true),
            Nat::Never => json!(false),
        },
        "own_ports": account.own_ports,
        "srtp": match account.srtp {
            SrtpPolicy::Off => "off",
            SrtpPolicy::Optional => "optional",
            SrtpPolicy::Required => "required",
        },
        "srtp_over_clear": account.srtp_over_clear,
        "transport": match account.transport {
            DeviceTransport::Any => "any",
            DeviceTransport::Tls => "tls",
        },
        "qualify": account.qualify,
        "auto_answer": account.auto_answer.answer_mode,
        "user_data_headers": headers(&account.user_data_headers),
        "send_user_data": headers(&account.send_user_data),
    }));
    if let Some(entry) = entry {
        device.insert("voice_environment".to_owned(), json!(entry.voice_environment));
    }
    device
}

/// What a group is made of.
pub fn of_group(group: &Group) -> Fields {
    let agents: Vec<&str> = group.agents.iter().map(UserId::as_str).collect();
    let supervisors: Vec<&str> = group.supervisors.iter().map(UserId::as_str).collect();
    fields(json!({
        "id": group.id.as_str(),
        "agents": agents,
        "supervisors": supervisors,
        "monitor_supervisors": group.monitor_supervisors,
        "agent_side_only": group.agent_side_only,
    }))
}

/// The user that these fields are.
///
/// # Errors
/// A key is missing, is no key, or its value is not what it should be.
pub fn user(mut fields: Fields) -> Result<User, Refusal> {
    let mut name = |key: &str| -> Result<Option<String>, Refusal> {
        match fields.remove(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Refusal::parameter(Reason::InvalidInput, key, NOT_TEXT)),
        }
    };
    let (display, first, last) = (name("display_name")?, name("first_name")?, name("last_name")?);
    let mut user: User = typed(fields)?;
    user.name(display, first, last);
    Ok(user)
}

/// The device that these fields are.
///
/// # Errors
/// As [`user`].
pub fn device(mut fields: Fields) -> Result<Device, Refusal> {
    let voice_environment = match fields.remove("voice_environment") {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(_) => {
            return Err(Refusal::parameter(Reason::InvalidInput, "voice_environment", NOT_TEXT));
        }
    };
    // What is empty takes back what was said before.
    for key in ["via", "user"] {
        if fields.get(key).is_some_and(|value| value.as_str() == Some("")) {
            fields.remove(key);
        }
    }
    let mut account: SipAccount = typed(fields)?;
    account.username = account.number.as_str().to_owned();
    Ok(Device { account, voice_environment })
}

/// The group that these fields are.
///
/// # Errors
/// As [`user`].
pub fn group(fields: Fields) -> Result<Group, Refusal> {
    typed(fields)
}

const NOT_TEXT: &str = "Parameter '{}' must be a string.";

fn typed<T: DeserializeOwned>(fields: Fields) -> Result<T, Refusal> {
    let id = fields.get("id").and_then(Value::as_str).unwrap_or_default().to_owned();
    serde_json::from_value(Value::Object(fields)).map_err(|error| {
        let problem = error.to_string();
        let missing =
            problem.strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
        match missing {
            Some(missing) => Refusal::missing(missing),
            None => Refusal::parameter(Reason::InvalidInput, &id, "'{}' can not be so: {}.")
                .quoting(problem),
        }
    })
}

fn fields(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        _ => Fields::new(),
    }
}
