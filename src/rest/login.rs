//! What a desktop reads when it logs in, besides the user and its devices: settings, services,
//! features, channels, workbins.

use super::{
    ErrorBody, IdPath, Members, Read, ReadQuery, Reply, RequestContext, RestState, id, read, reply,
    shortened, unexpected,
};
use crate::http::error::HttpError;
use crate::http::gws_json::{self, ChannelJson, FeatureJson, ServiceJson, SettingJson};
use crate::model::{Answer, DeviceId, Feature, Query as Wanted, Refusal, UserView};
use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

/// Settings by their names: there are none.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Settings {
    settings: Vec<SettingJson>,
    /// The member by which a setting is known.
    key: &'static str,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Services {
    services: Vec<ServiceJson>,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum Features {
    Whole { features: Vec<FeatureJson> },
    Uris { uris: Vec<String> },
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OneFeature {
    feature: FeatureJson,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Workbins {
    workbins: Vec<Value>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Channels {
    channels: Vec<ChannelJson>,
}

#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OneChannel {
    channel: ChannelJson,
}

fn no_settings() -> Json<Reply<Settings>> {
    reply(Settings { settings: Vec::new(), key: "name" })
}

impl RestState {
    /// The user that asks.
    pub(super) async fn me(&self, from: &RequestContext) -> Result<UserView, HttpError> {
        match self.read(from, Wanted::Me).await? {
            Answer::User(view) => Ok(view),
            other => Err(unexpected(&other)),
        }
    }
}

/// The settings of the user's desktop: there are none.
#[utoipa::path(
    get, path = "/api/v2/me/settings",
    responses(
        (status = 200, description = "An empty list.", body = Reply<Settings>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_my_settings(_from: RequestContext) -> Json<Reply<Settings>> {
    no_settings()
}

/// The settings of the user's desktop in a group: there are none.
#[utoipa::path(
    get, path = "/api/v2/me/settings/{group}",
    params(("group" = String, Path, description = "a group of settings")),
    responses(
        (status = 200, description = "An empty list.", body = Reply<Settings>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_my_setting_group(
    _from: RequestContext,
    path: IdPath,
) -> Result<Json<Reply<Settings>>, HttpError> {
    let _group: String = id("/me/settings", path)?;
    Ok(no_settings())
}

type SettingsPath = Result<Path<(String, String)>, PathRejection>;

/// The device of a path of settings.
fn device(root: &str, path: SettingsPath) -> Result<DeviceId, Refusal> {
    id(root, path.map(|Path((device, _group))| Path(device)))
}

/// The settings of one of the user's devices, as of the group `tserver`: there are none.
#[utoipa::path(
    get, path = "/api/v2/me/devices/{id}/settings/{group}",
    params(
        ("id" = String, Path, description = "one of the user's devices"),
        ("group" = String, Path, description = "a group of settings")
    ),
    responses(
        (status = 200, description = "An empty list.", body = Reply<Settings>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_my_device_settings(
    State(rest): State<RestState>,
    from: RequestContext,
    path: SettingsPath,
) -> Result<Json<Reply<Settings>>, HttpError> {
    rest.read(&from, Wanted::MyDevice(device("/me/devices", path)?)).await?;
    Ok(no_settings())
}

/// The settings of a device the user may see: there are none.
#[utoipa::path(
    get, path = "/api/v2/devices/{id}/settings/{group}",
    params(
        ("id" = String, Path, description = "a device"),
        ("group" = String, Path, description = "a group of settings")
    ),
    responses(
        (status = 200, description = "An empty list.", body = Reply<Settings>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_device_settings(
    State(rest): State<RestState>,
    from: RequestContext,
    path: SettingsPath,
) -> Result<Json<Reply<Settings>>, HttpError> {
    rest.read(&from, Wanted::Device(device("/devices", path)?)).await?;
    Ok(no_settings())
}

/// The services of the contact centre: voice.
#[utoipa::path(
    get, path = "/api/v2/services", params(Members),
    responses(
        (status = 200, description = "The services.", body = Reply<Services>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_services(
    State(rest): State<RestState>,
    _from: RequestContext,
) -> Json<Reply<Services>> {
    reply(Services { services: vec![gws_json::voice_service(rest.gateway.is_ready())] })
}

/// The features that a user's contract can contain.
#[utoipa::path(
    get, path = "/api/v2/features", params(Read),
    responses(
        (status = 200, description = "The features.", body = Reply<Features>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_features(
    State(rest): State<RestState>,
    _from: RequestContext,
    query: ReadQuery,
) -> Result<Json<Reply<Features>>, HttpError> {
    let read = read(query)?;
    let features = Feature::ALL.map(|feature| gws_json::feature(&rest.uris, feature));
    Ok(reply(match read.fields {
        Some(_) => Features::Whole { features: features.into() },
        None => Features::Uris { uris: features.map(|feature| feature.uri).into() },
    }))
}

/// One of those features.
#[utoipa::path(
    get, path = "/api/v2/features/{id}",
    params(("id" = String, Path, description = "a feature"), Members),
    responses(
        (status = 200, description = "The feature.", body = Reply<OneFeature>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_feature(
    State(rest): State<RestState>,
    _from: RequestContext,
    path: IdPath,
) -> Result<Json<Reply<OneFeature>>, HttpError> {
    let id: String = id("/features", path)?;
    match Feature::ALL.into_iter().find(|feature| feature.as_str() == id) {
        Some(found) => Ok(reply(OneFeature { feature: gws_json::feature(&rest.uris, found) })),
        None => Err(Refusal::not_found(format_args!("/features/{}", shortened(&id))).into()),
    }
}

/// The user's workbins: there are none, since nothing but calls is handled.
#[utoipa::path(
    get, path = "/api/v2/workbins",
    responses(
        (status = 200, description = "An empty list.", body = Reply<Workbins>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_workbins(_from: RequestContext) -> Json<Reply<Workbins>> {
    reply(Workbins { workbins: Vec::new() })
}

/// The user's channels: voice.
#[utoipa::path(
    get, path = "/api/v2/me/channels", params(Members),
    responses(
        (status = 200, description = "The channels.", body = Reply<Channels>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_my_channels(
    State(rest): State<RestState>,
    from: RequestContext,
) -> Result<Json<Reply<Channels>>, HttpError> {
    let view = rest.me(&from).await?;
    Ok(reply(Channels { channels: vec![gws_json::voice_channel(&view)] }))
}

/// The user's voice channel.
#[utoipa::path(
    get, path = "/api/v2/me/channels/voice", params(Members),
    responses(
        (status = 200, description = "The channel.", body = Reply<OneChannel>),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn read_my_voice_channel(
    State(rest): State<RestState>,
    from: RequestContext,
) -> Result<Json<Reply<OneChannel>>, HttpError> {
    let view = rest.me(&from).await?;
    Ok(reply(OneChannel { channel: gws_json::voice_channel(&view) }))
}
