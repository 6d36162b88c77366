//! HTTP+JSON ⇄ Request and reply: the operations and reads of GWS v2.

mod administration;
mod browser_login;
mod directory;
mod document;
mod fields;
mod login;
mod logout;
pub(crate) mod operations;
mod requests;
mod session;
mod subresources;

use crate::clock;
use crate::directory::handle::DirectoryHandle;
use crate::gateway::task::GatewayHandle;
use crate::http::HttpConfig;
use crate::http::auth::{self, Auth, AuthenticatedUser, LoggedOut, random_text};
use crate::http::body::{BodiesUnderWay, read_first};
use crate::http::error::{ErrorBody, HttpError, Refused};
use crate::http::gws_json::{self, CallJson, DeviceJson, Uris, UserJson, VoiceEnvironmentJson};
use crate::http::layers::{RequestName, Route};
use crate::model::{
    Answer, BadRequest, Number, Query as Wanted, Reason, Refusal, Request as Words,
    RequestEnvelope, RequestId,
};
use crate::telemetry::Pii;
use axum::extract::rejection::{ExtensionRejection, PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use logout::LoginDoor;
use operations::{AskedChannels, OperationBody};
use requests::Resource;
use serde::{Deserialize, Serialize};
use session::SessionReply;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What the handlers share.
#[derive(Clone)]
struct RestState {
    gateway: GatewayHandle,
    uris: Uris,
    body_limit: usize,
    login: LoginDoor,
    directory: DirectoryHandle,
}

/// `/api/v2` without the layers that it shares with CometD.
pub(crate) fn router(
    config: &HttpConfig,
    gateway: GatewayHandle,
    auth: Auth,
    directory: DirectoryHandle,
) -> Router {
    let rest = RestState {
        gateway,
        uris: Uris::new(&config.public_url),
        body_limit: config.body_limit,
        login: LoginDoor::new(config, auth),
        directory,
    };
    let (closed, closed_document) = OpenApiRouter::<RestState>::new()
        .routes(routes!(read_me, operate_me))
        .routes(routes!(read_my_devices))
        .routes(routes!(read_my_device, operate_my_device))
        .routes(routes!(dial))
        .routes(routes!(read_my_calls))
        .routes(routes!(read_my_call, operate_my_call))
        .routes(routes!(login::read_my_voice_channel, operate_voice_channel))
        .routes(routes!(login::read_my_channels))
        .routes(routes!(logout::log_out, logout::log_out_by_get))
        .routes(routes!(login::read_my_settings))
        .routes(routes!(login::read_my_setting_group))
        .routes(routes!(login::read_my_device_settings))
        .routes(routes!(login::read_device_settings))
        .routes(routes!(login::read_services))
        .routes(routes!(login::read_features))
        .routes(routes!(login::read_feature))
        .routes(routes!(login::read_workbins))
        .routes(routes!(directory::read_users, administration::add_user))
        .routes(routes!(
            directory::read_user,
            administration::change_user,
            administration::remove_user
        ))
        .routes(routes!(directory::read_my_groups))
        .routes(routes!(directory::read_groups, administration::add_group))
        .routes(routes!(
            directory::read_group,
            administration::change_group,
            administration::remove_group
        ))
        .routes(routes!(directory::read_contacts))
        .routes(routes!(directory::read_contact))
        .routes(routes!(read_devices, administration::add_device))
        .routes(routes!(read_device, administration::change_device, administration::remove_device))
        .routes(routes!(read_voice_environment))
        .split_for_parts();
    let (open, open_document) = OpenApiRouter::<RestState>::new()
        .routes(routes!(read_version))
        .routes(routes!(browser_login::begin_login))
        .routes(routes!(browser_login::finish_login))
        .split_for_parts();
    let closed = closed
        .fallback(nothing_here)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn(fields::selected))
        // A hung backend costs one request at most this long.
        .layer(from_fn_with_state(config.timeout, in_time))
        // A flood is answered 503 at the door instead of queueing in memory.
        .layer(from_fn_with_state(Arc::new(Semaphore::new(config.concurrency)), bounded))
        .layer(from_fn_with_state(
            (Arc::<BodiesUnderWay>::default(), config.body_limit),
            read_first,
        ))
        // Whatever becomes of it, it is counted.
        .layer(from_fn(counted))
        // Nothing below here is for clients without a login, not even which paths exist.
        .layer(from_fn(auth::require));
    // Clients and people read them before they log in.
    let open = open.merge(document::routes(closed_document, open_document, &config.public_url));
    open.method_not_allowed_fallback(wrong_method).merge(closed).with_state(rest)
}

async fn nothing_here(request: Request) -> HttpError {
    Refusal::not_found(shortened(request.uri().path())).into()
}

async fn wrong_method(request: Request) -> HttpError {
    let message = format!("Method {} is not allowed here.", shortened(request.method().as_str()));
    HttpError::new(Reason::Forbidden, message).with_http(StatusCode::METHOD_NOT_ALLOWED)
}

async fn in_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(response) => response,
        Err(_) => HttpError::new(Reason::Unavailable, "The request took too long.").into_response(),
    }
}

async fn bounded(State(places): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    match places.try_acquire() {
        Ok(_place) => next.run(request).await,
        Err(_) => HttpError::new(Reason::Unavailable, "Too many requests at once.").into_response(),
    }
}

/// What came from the client, cut to what a message may repeat.
fn shortened(text: &str) -> String {
    text.chars().take(128).collect()
}

impl RestState {
    async fn ask(
        &self,
        from: &RequestContext,
        request: Result<Words, BadRequest>,
    ) -> Result<Json<Accepted>, HttpError> {
        let asked = RequestEnvelope {
            user: from.caller.user.clone(),
            caller: None,
            from: from.caller.address,
            request_id: from.request_id(),
            request,
        };
        match self.gateway.ask(asked).await? {
            Answer::Accepted => Ok(Json(Accepted { status_code: 0 })),
            other => Err(unexpected(&other)),
        }
    }

    async fn read(&self, from: &RequestContext, wanted: Wanted) -> Result<Answer, HttpError> {
        Ok(self.gateway.read(&from.caller.user, wanted).await?)
    }

    async fn device(
        &self,
        from: &RequestContext,
        wanted: Wanted,
    ) -> Result<Json<Reply<OneDevice>>, HttpError> {
        match self.read(from, wanted).await? {
            Answer::Device(view) => {
                Ok(reply(OneDevice { device: gws_json::whole_device(&self.uris, &view) }))
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn devices(
        &self,
        from: &RequestContext,
        wanted: Wanted,
    ) -> Result<Vec<DeviceJson>, HttpError> {
        match self.read(from, wanted).await? {
            Answer::Devices(views) => {
                Ok(views.iter().map(|view| gws_json::whole_device(&self.uris, view)).collect())
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn calls(&self, from: &RequestContext) -> Result<Vec<CallJson>, HttpError> {
        match self.read(from, Wanted::MyCalls).await? {
            Answer::Calls(views) => {
                Ok(views.iter().map(|view| gws_json::call(&self.uris, view)).collect())
            }
            other => Err(unexpected(&other)),
        }
    }

    fn device_list(&self, devices: Vec<DeviceJson>, read: &Read) -> Json<Reply<Devices>> {
        reply(match read.fields {
            Some(_) => Devices::Whole { devices },
            None => Devices::Uris {
                uris: devices
                    .iter()
                    .map(|device| self.uris.device(&device.id.as_str().into()))
                    .collect(),
            },
        })
    }
}

/// The gateway answered another question than the one asked: our own defect.
fn unexpected(answer: &Answer) -> HttpError {
    let answer = format_args!("{answer:?}");
    tracing::error!(answer = %Pii(answer), "the gateway answered another question");
    HttpError::new(Reason::Internal, "Internal error.")
}

/// The user that asks, and the id of the request.
struct RequestContext {
    caller: AuthenticatedUser,
    name: RequestName,
}

/// The operation of a request, once it is known: what its metric is called.
#[derive(Clone, Default)]
struct OperationLabel(Arc<OnceLock<&'static str>>);

impl OperationLabel {
    fn name(&self, operation: &'static str) {
        // A request has one operation.
        let _ = self.0.set(operation);
    }
}

/// Counts and times a request under its operation or, as long as none is known, its method and
/// route.
async fn counted(mut request: Request, next: Next) -> Response {
    let counted = OperationLabel::default();
    request.extensions_mut().insert(counted.clone());
    let (route, since) = (Route::of(&request), clock::instant());
    let mut response = next.run(request).await;
    let operation = match counted.0.get() {
        Some(operation) => (*operation).to_owned(),
        None => route.to_string(),
    };
    if let Some(refused) = response.extensions_mut().get_mut::<Refused>() {
        refused.operation = Some(operation.as_str().into());
    }
    // No label is a client's to choose.
    let labels = [("operation", operation), ("status", response.status().as_u16().to_string())];
    metrics::counter!("undertone_rest_requests_total", &labels).increment(1);
    metrics::histogram!("undertone_rest_request_seconds", &labels).record(since.elapsed());
    response
}

impl RequestContext {
    /// A client may repeat its `X-Request-Id`; what it asks under it is still done each time.
    fn request_id(&self) -> RequestId {
        format!("{}.{}", self.name.0, random_text::<6>()).into()
    }
}

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for RequestContext {
    type Rejection = HttpError;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, HttpError> {
        let caller: Result<Extension<AuthenticatedUser>, ExtensionRejection> =
            Extension::from_request_parts(parts, state).await;
        let Ok(Extension(caller)) = caller else {
            return Err(HttpError::access_denied());
        };
        let name = parts.extensions.get::<RequestName>().cloned();
        Ok(Self { caller, name: name.unwrap_or_else(RequestName::random) })
    }
}

type IdPath = Result<Path<String>, PathRejection>;

/// An id from a path below `root`. What cannot be one names nothing.
fn id<Id: std::convert::From<String>>(root: &str, path: IdPath) -> Result<Id, Refusal> {
    match path {
        Ok(Path(text)) if is_id(&text) => Ok(text.into()),
        Ok(Path(text)) => Err(Refusal::not_found(format_args!("{root}/{}", shortened(&text)))),
        Err(_) => Err(Refusal::not_found(format_args!("{root}/…"))),
    }
}

const LONGEST_ID: usize = 256;

fn is_id(text: &str) -> bool {
    (1..=LONGEST_ID).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// What the read of a list may ask for.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(from = "Vec<(String, String)>")]
struct Read {
    /// `*`: whole objects instead of URIs. Names of members, separated by commas, are taken too: the
    /// objects then have those alone, and are not what the schemas here say.
    #[param(pattern = r"^\*$")]
    fields: Option<String>,
}

/// What the read of something that is always answered whole may ask for: [`fields::selected`]
/// reads it.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "it says what the layer reads")]
struct Members {
    /// Names of members, separated by commas: each object then has those alone, and is not what the
    /// schemas here say. `*`: all of them, as without.
    fields: Option<String>,
}

/// Which lists a user is read with.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(from = "Vec<(String, String)>")]
struct Lists {
    /// `features`, `devices`, `calls`, `channels`, `groups`, separated by commas, or `*`. Lists of
    /// what does not exist here, as `chats`, are empty; other words are left out.
    subresources: Option<String>,
}

/// Of which number.
#[derive(Debug, Default, Deserialize, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase")]
struct OfNumber {
    /// Only what has this number.
    #[param(min_length = 1, max_length = 64, pattern = "^[0-9A-Za-z+*#._-]+$")]
    phone_number: Option<String>,
}

/// Lists that come in several parameters of one name are one list.
impl From<Vec<(String, String)>> for Read {
    fn from(pairs: Vec<(String, String)>) -> Self {
        Self { fields: joined(&pairs, "fields") }
    }
}

impl From<Vec<(String, String)>> for Lists {
    fn from(pairs: Vec<(String, String)>) -> Self {
        Self { subresources: joined(&pairs, "subresources") }
    }
}

fn joined(pairs: &[(String, String)], name: &str) -> Option<String> {
    let of_it = pairs.iter().filter(|(of, _)| of == name).map(|(_, value)| value.as_str());
    let values: Vec<&str> = of_it.collect();
    (!values.is_empty()).then(|| values.join(","))
}

type ReadQuery = Result<Query<Read>, QueryRejection>;
type NumberQuery = Result<Query<OfNumber>, QueryRejection>;

impl OfNumber {
    fn number(&self) -> Result<Option<Number>, Refusal> {
        let text = self.phone_number.as_deref();
        text.map(|text| operations::number("phoneNumber", text)).transpose()
    }
}

fn read<T>(query: Result<Query<T>, QueryRejection>) -> Result<T, Refusal> {
    match query {
        Ok(Query(read)) => Ok(read),
        Err(rejection) => {
            Err(Refusal::new(Reason::InvalidInput, "{}").quoting(shortened(&rejection.body_text())))
        }
    }
}

/// `{"statusCode":0}`: the backend has accepted it. What comes of it arrives over CometD.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Accepted {
    status_code: u8,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Reply<T> {
    status_code: u8,
    #[serde(flatten)]
    body: T,
}

fn reply<T>(body: T) -> Json<Reply<T>> {
    Json(Reply { status_code: 0, body })
}

#[derive(Debug, Serialize, ToSchema)]
struct OneUser {
    user: UserJson,
}

#[derive(Debug, Serialize, ToSchema)]
struct OneDevice {
    device: DeviceJson,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Devices {
    Whole { devices: Vec<DeviceJson> },
    Uris { uris: Vec<String> },
}

#[derive(Debug, Serialize, ToSchema)]
struct OneCall {
    call: CallJson,
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
enum Calls {
    Whole { calls: Vec<CallJson> },
    Uris { uris: Vec<String> },
}

#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct OneVoiceEnvironment {
    voice_environment: VoiceEnvironmentJson,
}

#[derive(Debug, Serialize, ToSchema)]
struct Version {
    version: &'static str,
}

/// The user that asks; with `subresources` also the devices, calls and channels.
#[utoipa::path(
    get, path = "/api/v2/me", params(Members, Lists),
    responses((status = 200, body = Reply<OneUser>), (status = "default", body = ErrorBody))
)]
async fn read_me(
    State(rest): State<RestState>,
    from: RequestContext,
    query: Result<Query<Lists>, QueryRejection>,
) -> Result<Json<Reply<OneUser>>, HttpError> {
    let lists = read(query)?;
    let view = rest.me(&from).await?;
    let mut user = gws_json::user(&rest.uris, &view);
    for part in subresources::wanted(lists.subresources.as_deref()) {
        rest.add(part, &mut user, &view, &from).await?;
    }
    Ok(reply(OneUser { user }))
}

/// StartContactCenterSession, EndContactCenterSession, and the agent states as old clients ask for
/// them.
#[utoipa::path(
    post, path = "/api/v2/me",
    responses(
        (
            status = 200, body = SessionReply,
            description = "Accepted (statusCode 0); or only the channels that there are have been \
                           opened, or none (7)."
        ),
        (status = "default", body = ErrorBody)
    )
)]
async fn operate_me(
    State(rest): State<RestState>,
    from: RequestContext,
    operation: OperationBody,
) -> Result<(Option<Extension<LoggedOut>>, Json<SessionReply>), HttpError> {
    let (is_end, asked) = (operation.ends_session(), operation.asked_channels());
    let missing = match asked {
        Some(AskedChannels { voice: false, missing }) if !missing.is_empty() => {
            return Ok((None, Json(SessionReply::nowhere(missing))));
        }
        asked => asked.map(|asked| asked.missing).unwrap_or_default(),
    };
    let Json(accepted) = rest.ask(&from, operation.on(Resource::User)?).await?;
    // Its cookie is good for the next session no more.
    let ended = is_end.then(|| rest.login.auth.end_session(&from.caller)).flatten();
    Ok((ended.map(Extension), Json(SessionReply::new(accepted, missing))))
}

/// Ready, NotReady, AfterCallWork, AuxWork, Offline.
#[utoipa::path(
    post, path = "/api/v2/me/channels/voice",
    responses((status = 200, body = Accepted), (status = "default", body = ErrorBody))
)]
async fn operate_voice_channel(
    State(rest): State<RestState>,
    from: RequestContext,
    operation: OperationBody,
) -> Result<Json<Accepted>, HttpError> {
    rest.ask(&from, operation.on(Resource::VoiceChannel)?).await
}

/// The user's devices.
#[utoipa::path(
    get, path = "/api/v2/me/devices", params(Read),
    responses((status = 200, body = Reply<Devices>), (status = "default", body = ErrorBody))
)]
async fn read_my_devices(
    State(rest): State<RestState>,
    from: RequestContext,
    query: ReadQuery,
) -> Result<Json<Reply<Devices>>, HttpError> {
    let read = read(query)?;
    let devices = rest.devices(&from, Wanted::MyDevices).await?;
    Ok(rest.device_list(devices, &read))
}

/// One of the user's devices.
#[utoipa::path(
    get, path = "/api/v2/me/devices/{id}",
    params(("id" = String, Path, description = "a device"), Members),
    responses((status = 200, body = Reply<OneDevice>), (status = "default", body = ErrorBody))
)]
async fn read_my_device(
    State(rest): State<RestState>,
    from: RequestContext,
    path: IdPath,
) -> Result<Json<Reply<OneDevice>>, HttpError> {
    rest.device(&from, Wanted::MyDevice(id("/me/devices", path)?)).await
}

/// Coach, ListenIn, BargeIn, CancelSupervisorMonitoring, DoNotDisturbOn, DoNotDisturbOff,
/// ForwardCallsOn, ForwardCallsOff.
#[utoipa::path(
    post, path = "/api/v2/me/devices/{id}",
    params(("id" = String, Path, description = "one of the user's devices")),
    responses((status = 200, body = Accepted), (status = "default", body = ErrorBody))
)]
async fn operate_my_device(
    State(rest): State<RestState>,
    from: RequestContext,
    path: IdPath,
    operation: OperationBody,
) -> Result<Json<Accepted>, HttpError> {
    let device = id("/me/devices", path)?;
    rest.ask(&from, operation.on(Resource::Device(device))?).await
}

/// Dial.
#[utoipa::path(
    post, path = "/api/v2/me/devices/{id}/calls",
    params(("id" = String, Path, description = "one of the user's devices")),
    responses((status = 200, body = Accepted), (status = "default", body = ErrorBody))
)]
async fn dial(
    State(rest): State<RestState>,
    from: RequestContext,
    path: IdPath,
    operation: OperationBody,
) -> Result<Json<Accepted>, HttpError> {
    let device = id("/me/devices", path)?;
    rest.ask(&from, operation.on(Resource::CallsOfDevice(device))?).await
}

/// The user's legs.
#[utoipa::path(
    get, path = "/api/v2/me/calls", params(Read),
    responses((status = 200, body = Reply<Calls>), (status = "default", body = ErrorBody))
)]
async fn read_my_calls(
    State(rest): State<RestState>,
    from: RequestContext,
    query: ReadQuery,
) -> Result<Json<Reply<Calls>>, HttpError> {
    let read = read(query)?;
    let calls = rest.calls(&from).await?;
    Ok(reply(match read.fields {
        Some(_) => Calls::Whole { calls },
        None => Calls::Uris { uris: calls.into_iter().map(|call| call.uri).collect() },
    }))
}

/// One of the user's legs.
#[utoipa::path(
    get, path = "/api/v2/me/calls/{id}",
    params(("id" = String, Path, description = "a call"), Members),
    responses((status = 200, body = Reply<OneCall>), (status = "default", body = ErrorBody))
)]
async fn read_my_call(
    State(rest): State<RestState>,
    from: RequestContext,
    path: IdPath,
) -> Result<Json<Reply<OneCall>>, HttpError> {
    match rest.read(&from, Wanted::MyCall(id("/me/calls", path)?)).await? {
        Answer::Call(view) => Ok(reply(OneCall { call: gws_json::call(&rest.uris, &view) })),
        other => Err(unexpected(&other)),
    }
}

/// What a user may do with its own leg, the supervisor's switching among it.
#[utoipa::path(
    post, path = "/api/v2/me/calls/{id}",
    params(("id" = String, Path, description = "a call the user is on")),
    responses((status = 200, body = Accepted), (status = "default", body = ErrorBody))
)]
async fn operate_my_call(
    State(rest): State<RestState>,
    from: RequestContext,
    path: IdPath,
    operation: OperationBody,
) -> Result<Json<Accepted>, HttpError> {
    let call = id("/me/calls", path)?;
    rest.ask(&from, operation.on(Resource::Call(call))?).await
}

/// The devices the user may monitor (an admin: all): how a supervisor finds a target.
#[utoipa::path(
    get, path = "/api/v2/devices", params(Read, OfNumber),
    responses((status = 200, body = Reply<Devices>), (status = "default", body = ErrorBody))
)]
async fn read_devices(
    State(rest): State<RestState>,
    from: RequestContext,
    query: ReadQuery,
    number: NumberQuery,
) -> Result<Json<Reply<Devices>>, HttpError> {
    let (number, read) = (read(number)?.number()?, read(query)?);
    let mut devices = rest.devices(&from, Wanted::Devices(number)).await?;
    if read.fields.is_some() {
        rest.add_settings(&from, &mut devices).await?;
    }
    Ok(rest.device_list(devices, &read))
}

/// A device the user may see.
#[utoipa::path(
    get, path = "/api/v2/devices/{id}",
    params(("id" = String, Path, description = "a device"), Members),
    responses((status = 200, body = Reply<OneDevice>), (status = "default", body = ErrorBody))
)]
async fn read_device(
    State(rest): State<RestState>,
    from: RequestContext,
    path: IdPath,
) -> Result<Json<Reply<OneDevice>>, HttpError> {
    let Json(mut found) = rest.device(&from, Wanted::Device(id("/devices", path)?)).await?;
    rest.add_settings(&from, std::slice::from_mut(&mut found.body.device)).await?;
    Ok(Json(found))
}

/// What `voiceEnvironmentUri` points to.
#[utoipa::path(
    get, path = "/api/v2/voice-environments/{id}",
    params(("id" = String, Path, description = "a voice environment"), Members),
    responses(
        (status = 200, body = Reply<OneVoiceEnvironment>),
        (status = "default", body = ErrorBody)
    )
)]
async fn read_voice_environment(
    State(rest): State<RestState>,
    _from: RequestContext,
    path: IdPath,
) -> Result<Json<Reply<OneVoiceEnvironment>>, HttpError> {
    let id: String = id("/voice-environments", path)?;
    match rest.gateway.voice_environment(&id) {
        Some(found) => Ok(reply(OneVoiceEnvironment {
            voice_environment: gws_json::voice_environment(&rest.uris, &found.id, &found.name),
        })),
        None => {
            Err(Refusal::not_found(format_args!("/voice-environments/{}", shortened(&id))).into())
        }
    }
}

/// Our version. Open to everybody: clients look for it before they log in.
#[utoipa::path(
    get, path = "/api/v2/diagnostics/version", responses((status = 200, body = Reply<Version>))
)]
async fn read_version() -> Json<Reply<Version>> {
    reply(Version { version: env!("CARGO_PKG_VERSION") })
}
