//! Users, devices and groups, changed by an admin, in the words of GWS.

use super::operations::read_fields;
use super::{Accepted, IdPath, RequestContext, RestState, id};
use crate::directory::editor::{Edit, EditKind, EntryId};
use crate::directory::fields::Fields;
use crate::directory::handle::{AskedEdit, DirectoryHandle, NewPassword};
use crate::http::auth::hash_password;
use crate::http::error::{ErrorBody, HttpError};
use crate::http::gws_json::DeviceJson;
use crate::model::{Reason, Refusal, Role};
use axum::Json;
use axum::extract::{FromRequest, Request, State};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A user. What is left out stays as it is; of a new one userName and roles must be there, and a
/// password unless users have tokens of an issuer.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "it says what is read")]
struct UserEntry {
    /// The login name, and the id of the user; in a PUT it is in the path.
    user_name: Option<String>,
    /// The first name.
    first_name: Option<String>,
    /// The last name.
    last_name: Option<String>,
    /// The e-mail address.
    email_address: Option<String>,
    /// A text for people; left out: first and last name. An extension.
    display_name: Option<String>,
    /// ROLE_AGENT, ROLE_SUPERVISOR, ROLE_ADMIN.
    roles: Option<Vec<String>>,
    /// api-voice, api-supervisor-monitoring, by id or URI; of a new user left out: both.
    features: Option<Vec<String>>,
    /// The devices of the user, by id or URI.
    devices: Option<Vec<String>>,
    /// The password; kept as a digest.
    password: Option<String>,
}

/// A device. What is left out stays as it is; of a new one phoneNumber and password must be there,
/// or via in the place of the password.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "it says what is read")]
struct DeviceEntry {
    /// The id; of a new device left out: one is made.
    id: Option<String>,
    /// The number, and the user name of its SIP account. Another one needs the password, too.
    phone_number: Option<String>,
    /// The voice environment, by URI; of a new device left out: the first one.
    voice_environment_uri: Option<String>,
    /// The SIP password; kept as digests.
    password: Option<String>,
    /// What a switch that the phone is at calls it besides. An extension.
    aliases: Option<Vec<String>>,
    /// The trunk that it is behind: a switch with which its phones register; empty: none. An
    /// extension.
    via: Option<String>,
    /// What that switch calls it; empty: its number. An extension.
    user: Option<String>,
    /// house or customer. An extension.
    kind: Option<String>,
    /// off, optional or required. An extension.
    srtp: Option<String>,
    /// SRTP keys may go over SIP that is not encrypted. An extension.
    srtp_over_clear: Option<bool>,
    /// any or tls: how its phones may speak to us. An extension.
    transport: Option<String>,
    /// The supervisor's phone is asked to answer by itself. An extension.
    auto_answer: Option<bool>,
    /// It has a pair of ports of its own for each call. An extension.
    own_ports: Option<bool>,
    /// Its phones are asked whether they are there. An extension.
    qualify: Option<bool>,
}

/// A group. What is left out stays as it is.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "it says what is read")]
struct GroupEntry {
    /// The name, and the id of the group; in a PUT it is in the path.
    name: Option<String>,
    /// Its agents, by login name or URI.
    agents: Option<Vec<String>>,
    /// The supervisors that may monitor them, by login name or URI.
    supervisors: Option<Vec<String>>,
    /// Its supervisors may also monitor its members that are supervisors themselves.
    monitor_supervisors: Option<bool>,
    /// Its supervisors hear the agents alone.
    agent_side_only: Option<bool>,
}

/// The entry that was made.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Made {
    status_code: u8,
    /// Its id.
    id: String,
    /// Its URI.
    uri: String,
}

/// The members of a JSON object.
pub(super) struct EntryBody(Map<String, Value>);

impl FromRequest<RestState> for EntryBody {
    type Rejection = HttpError;

    async fn from_request(request: Request, rest: &RestState) -> Result<Self, HttpError> {
        read_fields(request, rest.body_limit).await.map(Self)
    }
}

/// How members of a body are called in the configuration file, and what becomes of their values.
type Names = &'static [(&'static str, &'static str, Kind)];

#[derive(Clone, Copy)]
enum Kind {
    /// As it is.
    Plain,
    /// An id, or a URI that ends with it.
    Reference,
    /// A list of those.
    References,
    /// A list of roles, as GWS spells them.
    Roles,
}

const USER: Names = &[
    ("firstName", "first_name", Kind::Plain),
    ("lastName", "last_name", Kind::Plain),
    ("emailAddress", "email", Kind::Plain),
    ("displayName", "display_name", Kind::Plain),
    ("roles", "roles", Kind::Roles),
    ("features", "features", Kind::References),
    ("devices", "devices", Kind::References),
];
const DEVICE: Names = &[
    ("phoneNumber", "number", Kind::Plain),
    ("voiceEnvironmentUri", "voice_environment", Kind::Reference),
    ("aliases", "aliases", Kind::Plain),
    ("via", "via", Kind::Plain),
    ("user", "user", Kind::Plain),
    ("kind", "kind", Kind::Plain),
    ("srtp", "srtp", Kind::Plain),
    ("srtpOverClear", "srtp_over_clear", Kind::Plain),
    ("transport", "transport", Kind::Plain),
    ("autoAnswer", "auto_answer", Kind::Plain),
    ("ownPorts", "own_ports", Kind::Plain),
    ("qualify", "qualify", Kind::Plain),
];
const GROUP: Names = &[
    ("agents", "agents", Kind::References),
    ("supervisors", "supervisors", Kind::References),
    ("monitorSupervisors", "monitor_supervisors", Kind::Plain),
    ("agentSideOnly", "agent_side_only", Kind::Plain),
];

impl EntryBody {
    /// The members that an entry has keys for, under those keys; a `null` is as good as absent.
    fn fields(&mut self, names: Names) -> Result<Fields, Refusal> {
        let mut fields = Fields::new();
        for (member, key, kind) in names {
            let value = match self.0.remove(*member) {
                None | Some(Value::Null) => continue,
                Some(value) => value,
            };
            let value = match kind {
                Kind::Plain => value,
                Kind::Reference => last_segment(member, value)?,
                Kind::References => each(member, value, last_segment)?,
                Kind::Roles => each(member, value, role)?,
            };
            fields.insert((*key).to_owned(), value);
        }
        // The name for people follows, unless it is said.
        let is_named = fields.contains_key("first_name") || fields.contains_key("last_name");
        if is_named && !fields.contains_key("display_name") {
            fields.insert("display_name".to_owned(), Value::Null);
        }
        Ok(fields)
    }

    fn text(&mut self, member: &str) -> Result<Option<String>, Refusal> {
        match self.0.remove(member) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(not_text(member)),
        }
    }

    fn required(&mut self, member: &str) -> Result<String, Refusal> {
        self.text(member)?.ok_or_else(|| Refusal::missing(member))
    }
}

fn not_text(member: &str) -> Refusal {
    Refusal::parameter(Reason::InvalidInput, member, "Parameter '{}' must be a string.")
}

fn each(
    member: &str,
    value: Value,
    read: fn(&str, Value) -> Result<Value, Refusal>,
) -> Result<Value, Refusal> {
    match value {
        Value::Array(items) => items.into_iter().map(|item| read(member, item)).collect(),
        _ => {
            Err(Refusal::parameter(Reason::InvalidInput, member, "Parameter '{}' must be a list."))
        }
    }
}

fn last_segment(member: &str, value: Value) -> Result<Value, Refusal> {
    let Value::String(text) = value else {
        return Err(not_text(member));
    };
    Ok(Value::from(text.rsplit('/').next().unwrap_or_default()))
}

fn role(member: &str, value: Value) -> Result<Value, Refusal> {
    let Value::String(text) = value else {
        return Err(not_text(member));
    };
    Ok(Value::from(match text.as_str() {
        "ROLE_AGENT" => "Agent",
        "ROLE_SUPERVISOR" => "Supervisor",
        "ROLE_ADMIN" => "Admin",
        other => other,
    }))
}

/// Anybody could log in by an empty one.
fn not_empty(password: String) -> Result<String, Refusal> {
    match password.is_empty() {
        true => Err(Refusal::parameter(
            Reason::InvalidInput,
            "password",
            "Parameter '{}' must not be empty.",
        )),
        false => Ok(password),
    }
}

/// The members of [`DEVICE`] that a device does not have yet.
fn add_settings(device: &mut DeviceJson, fields: &Fields) {
    let text = |key: &str| fields.get(key).and_then(Value::as_str).map(str::to_owned);
    let flag = |key: &str| fields.get(key).and_then(Value::as_bool);
    let aliases = fields.get("aliases").and_then(Value::as_array).map(|aliases| {
        aliases.iter().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    });
    device.aliases = aliases;
    device.via = text("via");
    device.user = text("user");
    device.kind = text("kind");
    device.srtp = text("srtp");
    device.srtp_over_clear = flag("srtp_over_clear");
    device.transport = text("transport");
    device.auto_answer = flag("auto_answer");
    device.own_ports = flag("own_ports");
    device.qualify = flag("qualify");
}

/// A user's password is hashed where it comes in: nothing behind has it.
async fn user_password(password: Option<String>) -> Result<Option<NewPassword>, HttpError> {
    let Some(password) = password else {
        return Ok(None);
    };
    let password = not_empty(password)?;
    let hash = tokio::task::spawn_blocking(move || hash_password(&password)).await;
    match hash {
        Ok(Ok(hash)) => Ok(Some(NewPassword::Hash(hash.into()))),
        Ok(Err(error)) => Err(HttpError::new(Reason::InvalidInput, error.to_string())),
        Err(_) => Err(HttpError::new(Reason::Internal, "Internal error.")),
    }
}

impl RestState {
    fn is_admin(&self, from: &RequestContext) -> bool {
        let user = self.gateway.user(&from.caller.user);
        user.is_some_and(|user| user.is(Role::Admin))
    }

    /// Before anything is made of what comes: a password costs time to hash. Who is no admin is
    /// refused here, and no change of an admin waits behind such requests.
    async fn must_be_admin(&self, from: &RequestContext, what: &str) -> Result<(), Refusal> {
        let caller = &from.caller;
        if self.is_admin(from) {
            return Ok(());
        }
        self.gateway.may_be_refused(&caller.user, caller.address).await?;
        let refusal = DirectoryHandle::not_admin();
        let line = format!("refused at {what}: {refusal}");
        // A refusal stands, written down or not: the failure is in the log.
        let _ = self.gateway.audit_directory(&line, Some((&caller.user, caller.address))).await;
        Err(refusal)
    }

    /// Adds what an admin may change of devices; other users see the devices as they are.
    pub(super) async fn add_settings(
        &self,
        from: &RequestContext,
        devices: &mut [DeviceJson],
    ) -> Result<(), HttpError> {
        if !self.is_admin(from) {
            return Ok(());
        }
        let ids = devices.iter().map(|device| device.id.as_str().into()).collect();
        let mut found = self.directory.device_fields(ids).await?;
        for device in devices {
            if let Some(fields) = found.remove(device.id.as_str()) {
                add_settings(device, &fields);
            }
        }
        Ok(())
    }

    async fn edit(
        &self,
        from: &RequestContext,
        edit: Edit,
        password: Option<NewPassword>,
    ) -> Result<Json<Accepted>, HttpError> {
        let (user, from) = (from.caller.user.clone(), from.caller.address);
        self.directory.edit(AskedEdit { user, from, edit, password }).await?;
        Ok(Json(Accepted { status_code: 0 }))
    }

    async fn create(
        &self,
        from: &RequestContext,
        entry: EntryId,
        fields: Fields,
        password: Option<NewPassword>,
    ) -> Result<Json<Made>, HttpError> {
        let (id, uri) = match &entry {
            EntryId::User(id) => (id.to_string(), self.uris.user(id)),
            EntryId::Device(id) => (id.to_string(), self.uris.device(id)),
            EntryId::Group(id) => (id.to_string(), self.uris.group(id)),
        };
        let Json(_) =
            self.edit(from, Edit { entry, kind: EditKind::Create(fields) }, password).await?;
        Ok(Json(Made { status_code: 0, id, uri }))
    }
}

/// Adds a user. For admins.
#[utoipa::path(
    post, path = "/api/v2/users", request_body = UserEntry,
    responses(
        (status = 200, description = "It is there.", body = Made),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn add_user(
    State(rest): State<RestState>,
    from: RequestContext,
    mut body: EntryBody,
) -> Result<Json<Made>, HttpError> {
    rest.must_be_admin(&from, "users").await?;
    let id = body.required("userName")?;
    let fields = body.fields(USER)?;
    let password = user_password(body.text("password")?).await?;
    rest.create(&from, EntryId::User(id.into()), fields, password).await
}

/// Changes a user. For admins.
#[utoipa::path(
    put, path = "/api/v2/users/{id}", request_body = UserEntry,
    params(("id" = String, Path, description = "a user")),
    responses(
        (status = 200, description = "It is so.", body = Accepted),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn change_user(
    State(rest): State<RestState>,
    from: RequestContext,
    path: IdPath,
    mut body: EntryBody,
) -> Result<Json<Accepted>, HttpError> {
    rest.must_be_admin(&from, "users").await?;
    let entry = EntryId::User(id("/users", path)?);
    let fields = body.fields(USER)?;
    let password = user_password(body.text("password")?).await?;
    rest.edit(&from, Edit { entry, kind: EditKind::Change(fields) }, password).await
}

/// Removes a user: its sessions end, and it leaves its groups. For admins.
#[utoipa::path(
    delete, path = "/api/v2/users/{id}",
    params(("id" = String, Path, description = "a user")),
    responses(
        (status = 200, description = "It is gone.", body = Accepted),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn remove_user(
    State(rest): State<RestState>,
    from: RequestContext,
    path: IdPath,
) -> Result<Json<Accepted>, HttpError> {
    let entry = EntryId::User(id("/users", path)?);
    rest.must_be_admin(&from, "users").await?;
    rest.edit(&from, Edit { entry, kind: EditKind::Remove }, None).await
}

/// Adds a device. For admins.
#[utoipa::path(
    post, path = "/api/v2/devices", request_body = DeviceEntry,
    responses(
        (status = 200, description = "It is there.", body = Made),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn add_device(
    State(rest): State<RestState>,
    from: RequestContext,
    mut body: EntryBody,
) -> Result<Json<Made>, HttpError> {
    rest.must_be_admin(&from, "devices").await?;
    let id = body.text("id")?.unwrap_or_else(new_id);
    let fields = body.fields(DEVICE)?;
    // What needs none has via.
    let password = body.text("password")?.map(not_empty).transpose()?;
    let password = password.map(|text| NewPassword::Sip(text.into()));
    rest.create(&from, EntryId::Device(id.into()), fields, password).await
}

/// Changes a device. For admins.
#[utoipa::path(
    put, path = "/api/v2/devices/{id}", request_body = DeviceEntry,
    params(("id" = String, Path, description = "a device")),
    responses(
        (status = 200, description = "It is so.", body = Accepted),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn change_device(
    State(rest): State<RestState>,
    from: RequestContext,
    path: IdPath,
    mut body: EntryBody,
) -> Result<Json<Accepted>, HttpError> {
    rest.must_be_admin(&from, "devices").await?;
    let entry = EntryId::Device(id("/devices", path)?);
    let fields = body.fields(DEVICE)?;
    let password = body.text("password")?.map(not_empty).transpose()?;
    let password = password.map(|text| NewPassword::Sip(text.into()));
    rest.edit(&from, Edit { entry, kind: EditKind::Change(fields) }, password).await
}

/// Removes a device: its phones are registered no more, and its user loses it. For admins.
#[utoipa::path(
    delete, path = "/api/v2/devices/{id}",
    params(("id" = String, Path, description = "a device")),
    responses(
        (status = 200, description = "It is gone.", body = Accepted),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn remove_device(
    State(rest): State<RestState>,
    from: RequestContext,
    path: IdPath,
) -> Result<Json<Accepted>, HttpError> {
    let entry = EntryId::Device(id("/devices", path)?);
    rest.must_be_admin(&from, "devices").await?;
    rest.edit(&from, Edit { entry, kind: EditKind::Remove }, None).await
}

/// Adds a group. For admins.
#[utoipa::path(
    post, path = "/api/v2/groups", request_body = GroupEntry,
    responses(
        (status = 200, description = "It is there.", body = Made),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn add_group(
    State(rest): State<RestState>,
    from: RequestContext,
    mut body: EntryBody,
) -> Result<Json<Made>, HttpError> {
    rest.must_be_admin(&from, "groups").await?;
    let id = body.required("name")?;
    let fields = body.fields(GROUP)?;
    rest.create(&from, EntryId::Group(id.into()), fields, None).await
}

/// Changes a group. For admins.
#[utoipa::path(
    put, path = "/api/v2/groups/{id}", request_body = GroupEntry,
    params(("id" = String, Path, description = "a group")),
    responses(
        (status = 200, description = "It is so.", body = Accepted),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn change_group(
    State(rest): State<RestState>,
    from: RequestContext,
    path: IdPath,
    mut body: EntryBody,
) -> Result<Json<Accepted>, HttpError> {
    rest.must_be_admin(&from, "groups").await?;
    let entry = EntryId::Group(id("/groups", path)?);
    let fields = body.fields(GROUP)?;
    rest.edit(&from, Edit { entry, kind: EditKind::Change(fields) }, None).await
}

/// Removes a group; its members stay. For admins.
#[utoipa::path(
    delete, path = "/api/v2/groups/{id}",
    params(("id" = String, Path, description = "a group")),
    responses(
        (status = 200, description = "It is gone.", body = Accepted),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn remove_group(
    State(rest): State<RestState>,
    from: RequestContext,
    path: IdPath,
) -> Result<Json<Accepted>, HttpError> {
    let entry = EntryId::Group(id("/groups", path)?);
    rest.must_be_admin(&from, "groups").await?;
    rest.edit(&from, Edit { entry, kind: EditKind::Remove }, None).await
}

/// An id as those of the field mostly are (RFC 9562 5.4).
fn new_id() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}
