//! The JSON shapes of GWS v2: views and notices ⇄ text. Key order is the sample's.

mod directory;

pub use directory::{
    ContactJson, ContactNumberJson, DirectoryUserJson, FeatureJson, GroupJson, ServiceJson,
    SettingJson, contact, directory_user, feature, group, voice_service,
};

use crate::http::error;
use crate::model::{
    AgentState, CallId, CallView, DeviceId, DeviceView, Feature, GroupId, Notice, NoticeBody,
    ParticipantView, Quality, Role, Topic, UserId, UserState, UserView,
};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use utoipa::ToSchema;

/// Writes URIs with the configured public prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uris(Arc<str>);

impl Uris {
    /// From scheme, host and port, such as `http://127.0.0.1:8080`.
    pub fn new(public_url: &str) -> Self {
        Self(format!("{}/api/v2", public_url.trim_end_matches('/')).into())
    }

    /// `…/devices/{id}`
    pub fn device(&self, id: &DeviceId) -> String {
        format!("{}{}", self.0, device_path(id))
    }

    /// `…/me/calls/{id}`: a leg is its own user's only.
    pub fn call(&self, id: &CallId) -> String {
        format!("{}/me{}", self.0, call_path(id))
    }

    /// `…/users/{id}`
    pub fn user(&self, id: &UserId) -> String {
        format!("{}{}", self.0, user_path(id))
    }

    /// `…/contacts/{id}`
    pub fn contact(&self, id: &UserId) -> String {
        format!("{}{}", self.0, contact_path(id))
    }

    /// `…/groups/{id}`
    pub fn group(&self, id: &GroupId) -> String {
        format!("{}{}", self.0, group_path(id))
    }

    /// `…/features/{id}`
    pub fn feature(&self, feature: Feature) -> String {
        format!("{}{}", self.0, feature_path(feature))
    }

    /// `…/voice-environments/{id}`
    pub fn voice_environment(&self, id: &str) -> String {
        format!("{}{}", self.0, voice_environment_path(id))
    }
}

fn device_path(id: &DeviceId) -> String {
    format!("/devices/{}", segment(id.as_str()))
}

fn call_path(id: &CallId) -> String {
    format!("/calls/{}", segment(id.as_str()))
}

fn user_path(id: &UserId) -> String {
    format!("/users/{}", segment(id.as_str()))
}

fn contact_path(id: &UserId) -> String {
    format!("/contacts/{}", segment(id.as_str()))
}

fn group_path(id: &GroupId) -> String {
    format!("/groups/{}", segment(id.as_str()))
}

fn feature_path(feature: Feature) -> String {
    format!("/features/{}", feature.as_str())
}

fn voice_environment_path(id: &str) -> String {
    format!("/voice-environments/{}", segment(id))
}

/// One path segment, percent-encoded where RFC 3986 3.3 wants it.
fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'.'
            | b'_'
            | b'~'
            | b'@'
            | b':'
            | b'+' => encoded.push(char::from(byte)),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// A device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeviceJson {
    /// Opaque id.
    pub id: String,
    /// Active or Inactive (no phone registered).
    pub device_state: &'static str,
    /// Absent on an inactive device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_state: Option<UserStateJson>,
    /// Its number.
    pub phone_number: String,
    /// The same number again.
    pub e164_number: String,
    /// Always Private.
    pub telephony_network: &'static str,
    /// On or Off.
    pub do_not_disturb: &'static str,
    /// Where calls are forwarded to, while they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward_to: Option<String>,
    /// Its voice environment.
    pub voice_environment_uri: String,
    /// What its user may ask now; a set.
    pub capabilities: Vec<&'static str>,
    /// Absent while nothing is monitored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supervisor_monitoring_state: Option<MonitoringJson>,
    /// Always empty; only in answers to GET.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<&'static str>,
    /// `["voice"]`; only in answers to GET.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<&'static str>>,
    /// Always empty: each device has a number of its own. Only in answers to GET.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic_phone_number: Option<&'static str>,
    /// What a switch that the phone is at calls it besides. This and what follows: for an admin, of
    /// `/devices`, where the SIP backend runs in the same process. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aliases: Option<Vec<String>>,
    /// The trunk that it is behind. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub via: Option<String>,
    /// What the switch there calls it, if not by its number. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// house. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// off, optional or required. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srtp: Option<String>,
    /// SRTP keys may go over SIP that is not encrypted. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub srtp_over_clear: Option<bool>,
    /// any or tls: how its phones may speak to us. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transport: Option<String>,
    /// The supervisor's phone is asked to answer by itself. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_answer: Option<bool>,
    /// It has a pair of ports of its own for each call. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own_ports: Option<bool>,
    /// Its phones are asked whether they are there. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qualify: Option<bool>,
}

/// An agent's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserStateJson {
    /// Fixed for each state.
    pub id: &'static str,
    /// A text for people.
    pub display_name: &'static str,
    /// Ready, NotReady or LoggedOut.
    pub state: &'static str,
    /// AfterCallWork or AuxWork.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub work_mode: Option<&'static str>,
    /// Why the agent is not ready, where the agent has said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a device monitors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MonitoringJson {
    /// ListenIn, Coach or BargeIn.
    pub state: &'static str,
    /// NextCall or AllCalls.
    pub mode: &'static str,
    /// Agent or Call.
    pub scope: &'static str,
    /// The monitored device.
    pub target_device_uri: String,
}

/// One user's leg of a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallJson {
    /// The same for everybody on the call.
    pub id: String,
    /// Equals `id`.
    pub call_uuid: String,
    /// 16 hexadecimal digits.
    pub conn_id: String,
    /// Dialing, Ringing, Established, Held or Released.
    pub state: &'static str,
    /// The user's device.
    pub device_uri: String,
    /// The others, never the user.
    pub participants: Vec<ParticipantJson>,
    /// The number that called.
    pub ani: String,
    /// The number that was called.
    pub dnis: String,
    /// Internal, Inbound, Outbound or Consult.
    pub call_type: &'static str,
    /// The agent's call that this one was made to ask about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent_call_uri: Option<String>,
    /// What the user may ask of the call now; a set.
    pub capabilities: Vec<&'static str>,
    /// Attached data; absent while there is none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub user_data: BTreeMap<String, String>,
    /// Seconds since the leg was established, as a string.
    pub duration: String,
    /// On: the leg is not heard.
    pub mute: &'static str,
    /// A supervisor listens in.
    pub supervisor_listening_in: bool,
    /// A supervisor has muted the agent toward the customer.
    pub monitored_user_muted: bool,
    /// This is a supervisor's leg.
    pub monitoring: bool,
    /// What the supervisor does, on the supervised legs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub supervisor_monitoring_state: Option<CallMonitoringJson>,
    /// How the sound of the leg fares; only in answers to GET, and absent before the first report.
    /// An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_quality: Option<MediaQualityJson>,
    /// Of a released leg: it has not ended but was handed on to this number, by the phone or the
    /// switch it is at. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handed_on_to: Option<String>,
    /// Its own URI.
    pub uri: String,
    /// Its path under the prefix.
    pub path: String,
}

/// A participant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ParticipantJson {
    /// The number of the participant.
    pub e164_number: String,
    /// The same number again.
    pub formatted_phone_number: String,
    /// The same number again.
    pub phone_number: String,
    /// The same number again.
    pub digits: String,
    /// How the sound of the participant's leg fares; only in answers to GET, and absent before the
    /// first report. An extension.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub media_quality: Option<MediaQualityJson>,
}

/// How the sound of a leg fares: packets since it began, the rest over the last seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct MediaQualityJson {
    /// RTP packets sent to the leg.
    pub packets_sent: u64,
    /// RTP packets received from it.
    pub packets_received: u64,
    /// Of a thousand packets of its, those that did not come.
    pub lost_permille: u16,
    /// Jitter of what came, in milliseconds.
    pub jitter_ms: u32,
    /// Estimate of what came, 1.00 to 4.50; absent when nothing came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mos: Option<Mos>,
    /// Of a thousand packets of ours, those that did not reach it; absent, as the rest, while its
    /// phone reports nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_lost_permille: Option<u16>,
    /// Jitter of what it receives, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_jitter_ms: Option<u32>,
    /// Estimate of what it receives, 1.00 to 4.50.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote_mos: Option<Mos>,
    /// To the phone and back, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round_trip_ms: Option<u32>,
}

/// A mean opinion score with two decimals, 1.00 to 4.50.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ToSchema)]
#[schema(value_type = f64)]
pub struct Mos(
    /// In hundredths.
    pub u16,
);

impl Serialize for Mos {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(f64::from(self.0) / 100.0)
    }
}

/// What the supervisor does on a call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct CallMonitoringJson {
    /// ListenIn, Coach or BargeIn.
    pub state: &'static str,
}

/// A user, as that user sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserJson {
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
    /// Always true: a user that is not enabled is not in the configuration.
    pub enabled: bool,
    /// Always false: passwords are changed in the configuration.
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
    /// `?subresources=features`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub features: Option<Vec<FeatureJson>>,
    /// `?subresources=devices`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub devices: Option<Vec<DeviceJson>>,
    /// `?subresources=calls`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls: Option<Vec<CallJson>>,
    /// `?subresources=channels`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channels: Option<Vec<ChannelJson>>,
    /// `?subresources=groups`
    #[serde(skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<GroupJson>>,
    /// `?subresources=skills`; always empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub skills: Option<Vec<Value>>,
    /// `?subresources=interactions`; always empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interactions: Option<Vec<Value>>,
    /// `?subresources=chats`; always empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chats: Option<Vec<Value>>,
    /// `?subresources=emails`; always empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub emails: Option<Vec<Value>>,
    /// `?subresources=workitems`; always empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workitems: Option<Vec<Value>>,
}

/// A media channel of a user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChannelJson {
    /// `voice`
    pub channel: &'static str,
    /// A contact-centre session is open on it.
    pub active: bool,
    /// The user's state on the channel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_state: Option<UserStateJson>,
}

/// A voice environment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct VoiceEnvironmentJson {
    /// Path id.
    pub id: String,
    /// A text for people.
    pub name: String,
    /// Its URI.
    pub uri: String,
    /// Its path under the prefix.
    pub path: String,
}

/// What a client receives on a state channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(tag = "messageType")]
pub enum NoticeJson {
    /// Whole devices, on `/v2/me/devices`.
    DeviceStateChangeMessage {
        /// Those that changed.
        devices: Vec<DeviceJson>,
    },
    /// The user's whole leg, on `/v2/me/calls`.
    #[serde(rename_all = "camelCase")]
    CallStateChangeMessage {
        /// What changed.
        notification_type: &'static str,
        /// The user's number.
        phone_number: String,
        /// The leg.
        call: CallJson,
    },
    /// The user, on `/v2/me` and `/v2/me/channels`.
    UserStateChangeMessage {
        /// The user with the new state.
        user: UserJson,
    },
    /// Whole services, on `/notifications/services`.
    ServiceStateChangeMessage {
        /// Those that changed.
        services: Vec<ServiceJson>,
    },
    /// Something accepted earlier has failed.
    #[serde(rename_all = "camelCase")]
    ErrorMessage {
        /// `/devices/{id}`
        device_path: String,
        /// The device it concerns.
        device_uri: String,
        /// A statusCode.
        error_code: u8,
        /// A text for people.
        error_message: String,
    },
}

fn on(flag: bool) -> &'static str {
    if flag { "On" } else { "Off" }
}

/// An agent's state with its fixed id.
pub fn user_state(user: &UserState) -> UserStateJson {
    let (id, display_name, state, work_mode) = match user.state {
        AgentState::Ready => ("9430250E-0A1B-421F-B372-F29E69366DED", "Ready", "Ready", None),
        AgentState::NotReady => {
            ("900D55CC-2BB0-431F-8BF9-D3525B383BE6", "Not Ready", "NotReady", None)
        }
        AgentState::AfterCallWork => (
            "D3663509-3D82-4DD3-A82E-2EA8EFA02AEF",
            "AfterCallWork",
            "NotReady",
            Some("AfterCallWork"),
        ),
        AgentState::AuxWork => {
            ("2B36138D-C564-4562-A8CB-3C32D564F296", "AuxWork", "NotReady", Some("AuxWork"))
        }
        AgentState::Offline => {
            ("0F7F5003-EF26-4D13-A6Ef-D0C7EC819BEB", "Offline", "LoggedOut", None)
        }
    };
    let reason = user.reason.as_ref().map(|reason| reason.as_str().to_owned());
    UserStateJson { id, display_name, state, work_mode, reason }
}

/// A device as it is read: with the members that newer servers add, which no event carries.
pub fn whole_device(uris: &Uris, view: &DeviceView) -> DeviceJson {
    DeviceJson {
        description: Some(""),
        channels: Some(vec![VOICE]),
        dynamic_phone_number: Some(""),
        ..device(uris, view)
    }
}

/// The one channel there is.
pub const VOICE: &str = "voice";

/// A device as JSON, with the members that the Coach page prints.
pub fn device(uris: &Uris, view: &DeviceView) -> DeviceJson {
    DeviceJson {
        id: view.id.to_string(),
        device_state: if view.active { "Active" } else { "Inactive" },
        user_state: view.user_state.as_ref().filter(|_| view.active).map(user_state),
        phone_number: view.number.to_string(),
        e164_number: view.number.to_string(),
        telephony_network: "Private",
        do_not_disturb: on(view.do_not_disturb),
        forward_to: view.forward_to.as_ref().map(ToString::to_string),
        voice_environment_uri: uris.voice_environment(&view.voice_environment),
        capabilities: view.capabilities.iter().map(|one| one.as_str()).collect(),
        supervisor_monitoring_state: view.monitoring.as_ref().map(
            |(activity, mode, scope, target)| MonitoringJson {
                state: activity.as_str(),
                mode: mode.as_str(),
                scope: scope.as_str(),
                target_device_uri: uris.device(target),
            },
        ),
        description: None,
        channels: None,
        dynamic_phone_number: None,
        aliases: None,
        via: None,
        user: None,
        kind: None,
        srtp: None,
        srtp_over_clear: None,
        transport: None,
        auto_answer: None,
        own_ports: None,
        qualify: None,
    }
}

/// A leg as JSON.
pub fn call(uris: &Uris, view: &CallView) -> CallJson {
    CallJson {
        id: view.id.to_string(),
        call_uuid: view.id.to_string(),
        conn_id: view.conn_id.clone(),
        state: view.state.as_str(),
        device_uri: uris.device(&view.device),
        participants: view.participants.iter().map(participant).collect(),
        ani: view.ani.to_string(),
        dnis: view.dnis.to_string(),
        call_type: view.call_type.as_str(),
        parent_call_uri: view.parent.as_ref().map(|parent| uris.call(parent)),
        capabilities: view.capabilities.iter().map(|one| one.as_str()).collect(),
        user_data: view.user_data.pairs().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
        duration: view.duration_s.to_string(),
        mute: on(view.muted),
        supervisor_listening_in: view.supervisor_listening_in,
        monitored_user_muted: view.monitored_user_muted,
        monitoring: view.monitoring,
        supervisor_monitoring_state: view
            .monitoring_state
            .map(|activity| CallMonitoringJson { state: activity.as_str() }),
        media_quality: view.quality.as_ref().map(media_quality),
        handed_on_to: view.handed_on_to.as_ref().map(ToString::to_string),
        uri: uris.call(&view.id),
        path: call_path(&view.id),
    }
}

fn participant(view: &ParticipantView) -> ParticipantJson {
    let number = view.number.to_string();
    ParticipantJson {
        e164_number: number.clone(),
        formatted_phone_number: number.clone(),
        phone_number: number.clone(),
        digits: number,
        media_quality: view.quality.as_ref().map(media_quality),
    }
}

fn media_quality(quality: &Quality) -> MediaQualityJson {
    let remote = quality.remote;
    MediaQualityJson {
        packets_sent: quality.packets_sent,
        packets_received: quality.packets_received,
        lost_permille: quality.lost_permille,
        jitter_ms: quality.jitter_ms,
        mos: quality.mos.map(Mos),
        remote_lost_permille: remote.map(|remote| remote.lost_permille),
        remote_jitter_ms: remote.map(|remote| remote.jitter_ms),
        remote_mos: remote.map(|remote| Mos(remote.mos)),
        round_trip_ms: quality.round_trip_ms,
    }
}

/// A user as JSON, without subresources.
pub fn user(uris: &Uris, view: &UserView) -> UserJson {
    UserJson {
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
        features: None,
        devices: None,
        calls: None,
        channels: None,
        groups: None,
        skills: None,
        interactions: None,
        chats: None,
        emails: None,
        workitems: None,
    }
}

/// The voice channel of a user as JSON.
pub fn voice_channel(view: &UserView) -> ChannelJson {
    let user_state = view.state.as_ref().map(user_state);
    ChannelJson { channel: VOICE, active: view.session, user_state }
}

/// A voice environment as JSON.
pub fn voice_environment(uris: &Uris, id: &str, name: &str) -> VoiceEnvironmentJson {
    VoiceEnvironmentJson {
        id: id.to_owned(),
        name: name.to_owned(),
        uri: uris.voice_environment(id),
        path: voice_environment_path(id),
    }
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Agent => "ROLE_AGENT",
        Role::Supervisor => "ROLE_SUPERVISOR",
        Role::Admin => "ROLE_ADMIN",
    }
}

/// The CometD channel of a topic.
pub fn channel(topic: Topic) -> &'static str {
    match topic {
        Topic::Me => "/v2/me",
        Topic::Devices => "/v2/me/devices",
        Topic::Calls => "/v2/me/calls",
        Topic::Channels => "/v2/me/channels",
        Topic::Services => "/notifications/services",
    }
}

/// The `data` of a notice.
pub fn notice(uris: &Uris, notice: &Notice) -> NoticeJson {
    match &notice.body {
        NoticeBody::DeviceStateChange(devices) => NoticeJson::DeviceStateChangeMessage {
            devices: devices.iter().map(|view| device(uris, view)).collect(),
        },
        NoticeBody::CallStateChange { notification, call: view } => {
            NoticeJson::CallStateChangeMessage {
                notification_type: notification.as_str(),
                phone_number: view.number.to_string(),
                call: call(uris, view),
            }
        }
        NoticeBody::UserStateChange(view) => {
            NoticeJson::UserStateChangeMessage { user: user(uris, view) }
        }
        NoticeBody::ServiceStateChange { is_active } => {
            NoticeJson::ServiceStateChangeMessage { services: vec![voice_service(*is_active)] }
        }
        NoticeBody::Error { device, refusal } => NoticeJson::ErrorMessage {
            device_path: device_path(device),
            device_uri: uris.device(device),
            error_code: error::row(refusal.reason).status_code,
            error_message: refusal.to_string(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Activity, CallNotification, CallType, LegState, Mode, Number, Operation, Reason, Refusal,
        RemoteQuality, Scope, Timestamp,
    };

    /// The notification of the Coach page, joined where the page breaks lines, without white space.
    const SAMPLE: &str = concat!(
        r#"{"messageType":"DeviceStateChangeMessage","#,
        r#""devices":[{"id":"efelab32-53f9-43ce-b65e-5768c61f7d4a","deviceState":"Active","#,
        r#""userState":{"id":"900D55CC-2BB0-431F-8BF9-D3525B383BE6","displayName":"Not Ready","#,
        r#""state":"NotReady"},"#,
        r#""phoneNumber":"5005","e164Number":"5005","telephonyNetwork":"Private","#,
        r#""doNotDisturb":"On","#,
        r#""voiceEnvironmentUri":"http://127.0.0.1:8080/api/v2/voice-environments/"#,
        r#"370ef5e6-9e3c-4d91-9588-7f4dfe67e011","#,
        r#""capabilities":["ForwardCallsOn","DoNotDisturbOff","ListenIn","Coach","BargeIn","#,
        r#""CancelSupervisorMonitoring"],"#,
        r#""supervisorMonitoringState":{"state":"Coach","mode":"AllCalls","scope":"Call","#,
        r#""targetDeviceUri":"http://127.0.0.1:8080/api/v2/devices/"#,
        r#"9c14cad7-17c4-48d0-8492-7cf0ff92c224"}}]}"#,
    );

    fn uris() -> Uris {
        Uris::new("http://127.0.0.1:8080/")
    }

    fn text(body: NoticeBody, topic: Topic) -> String {
        let told = Notice { user: "anna".into(), topic, body };
        serde_json::to_string(&notice(&uris(), &told)).expect("a notice is plain data")
    }

    fn sample_device() -> DeviceView {
        DeviceView {
            id: "efelab32-53f9-43ce-b65e-5768c61f7d4a".into(),
            number: "5005".into(),
            active: true,
            user_state: Some(AgentState::NotReady.into()),
            do_not_disturb: true,
            forward_to: None,
            voice_environment: "370ef5e6-9e3c-4d91-9588-7f4dfe67e011".to_owned(),
            capabilities: vec![
                Operation::ForwardCallsOn,
                Operation::DoNotDisturbOff,
                Operation::ListenIn,
                Operation::Coach,
                Operation::BargeIn,
                Operation::CancelSupervisorMonitoring,
            ],
            monitoring: Some((
                Activity::Coach,
                Mode::AllCalls,
                Scope::Call,
                "9c14cad7-17c4-48d0-8492-7cf0ff92c224".into(),
            )),
        }
    }

    #[test]
    fn the_notification_of_the_coach_page_comes_out_as_printed_there() {
        let body = NoticeBody::DeviceStateChange(vec![sample_device()]);
        assert_eq!(text(body, Topic::Devices), SAMPLE);
    }

    #[test]
    fn an_inactive_device_has_no_user_state_and_a_forwarded_one_says_where_to() {
        let view = DeviceView {
            active: false,
            forward_to: Some("5001".into()),
            monitoring: None,
            ..sample_device()
        };
        let shown = serde_json::to_value(device(&uris(), &view)).expect("plain data");
        assert_eq!(shown["deviceState"], "Inactive");
        assert_eq!(shown["forwardTo"], "5001");
        assert!(shown.get("userState").is_none());
        assert!(shown.get("supervisorMonitoringState").is_none());
    }

    #[test]
    fn a_leg_has_every_field_of_the_mission() {
        let number = |text: &str| Number::from(text);
        let leg = CallView {
            id: "c1".into(),
            conn_id: "0123456789abcdef".to_owned(),
            state: LegState::Established,
            device: "d1".into(),
            number: number("5005"),
            participants: vec![ParticipantView { number: number("5001"), quality: None }],
            ani: number("7001"),
            dnis: number("5001"),
            call_type: CallType::Inbound,
            parent: None,
            capabilities: vec![Operation::Hangup],
            user_data: Default::default(),
            established_at: Some(Timestamp(1)),
            duration_s: 7,
            muted: true,
            supervisor_listening_in: false,
            monitored_user_muted: false,
            monitoring: true,
            monitoring_state: None,
            quality: None,
            handed_on_to: None,
        };
        let body =
            NoticeBody::CallStateChange { notification: CallNotification::StatusChange, call: leg };
        let expected = concat!(
            r#"{"messageType":"CallStateChangeMessage","notificationType":"StatusChange","#,
            r#""phoneNumber":"5005","call":{"id":"c1","callUuid":"c1","#,
            r#""connId":"0123456789abcdef","state":"Established","#,
            r#""deviceUri":"http://127.0.0.1:8080/api/v2/devices/d1","#,
            r#""participants":[{"e164Number":"5001","formattedPhoneNumber":"5001","#,
            r#""phoneNumber":"5001","digits":"5001"}],"#,
            r#""ani":"7001","dnis":"5001","callType":"Inbound","capabilities":["Hangup"],"#,
            r#""duration":"7","mute":"On","#,
            r#""supervisorListeningIn":false,"monitoredUserMuted":false,"monitoring":true,"#,
            r#""uri":"http://127.0.0.1:8080/api/v2/me/calls/c1","path":"/calls/c1"}}"#,
        );
        assert_eq!(text(body, Topic::Calls), expected);
    }

    #[test]
    fn how_the_sound_fares_is_said_with_what_is_known() {
        let quality = Quality {
            packets_sent: 500,
            packets_received: 498,
            lost_permille: 4,
            jitter_ms: 2,
            mos: Some(438),
            ..Quality::default()
        };
        let said =
            |quality: &Quality| serde_json::to_string(&media_quality(quality)).expect("plain data");
        let ours =
            r#"{"packetsSent":500,"packetsReceived":498,"lostPermille":4,"jitterMs":2,"mos":4.38"#;
        assert_eq!(said(&quality), format!("{ours}}}"));
        let reported = Quality {
            remote: Some(RemoteQuality { lost_permille: 31, jitter_ms: 9, mos: 410 }),
            round_trip_ms: Some(40),
            ..quality
        };
        let theirs =
            r#","remoteLostPermille":31,"remoteJitterMs":9,"remoteMos":4.1,"roundTripMs":40}"#;
        assert_eq!(said(&reported), format!("{ours}{theirs}"));
    }

    #[test]
    fn a_late_failure_names_the_device_and_the_status_code() {
        let body = NoticeBody::Error {
            device: "d1".into(),
            refusal: Refusal::new(Reason::InvalidState, "The supervisor's phone is busy."),
        };
        let expected = concat!(
            r#"{"messageType":"ErrorMessage","devicePath":"/devices/d1","#,
            r#""deviceUri":"http://127.0.0.1:8080/api/v2/devices/d1","#,
            r#""errorCode":2,"errorMessage":"The supervisor's phone is busy."}"#,
        );
        assert_eq!(text(body, Topic::Devices), expected);
    }

    #[test]
    fn an_odd_id_makes_one_path_segment() {
        assert_eq!(
            uris().device(&"a/b c\r\n".into()),
            "http://127.0.0.1:8080/api/v2/devices/a%2Fb%20c%0D%0A"
        );
    }
}
