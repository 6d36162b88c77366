//! The event channel over HTTP: long-polling, callback-polling, and the door to websockets.

use super::CometdConfig;
use super::message::{self, BatchError, ClientId, ClientMessage, MessageKind};
use super::sessions::{ClientOrigin, ClientRequest, ClientRequestId, CometdTransport, SocketId};
use super::task::{CometdTask, ConnectAnswer, DeliveryInbox, Inbox, Input, Load, RequestReply};
use super::websocket;
use crate::clock;
use crate::gateway::task::GatewayHandle;
use crate::hex::hex;
use crate::http::auth::{
    self, AuthenticatedUser, EndedLogin, LoginListener, LoginRefused, Means, cookie,
};
use crate::http::body::read_whole;
use crate::http::delivery::{DeliveryId, DeliveryListener, DeliveryTracker, PendingAnswer};
use crate::http::error::HttpError;
use crate::http::fast_path::PollService;
use crate::http::layers::NotNow;
use crate::http::response::{ResponseContext, UNBUFFERED};
use crate::model::Reason;
use crate::secret::SharedSecret;
use crate::store::{Store, StoreError};
use axum::Router;
use axum::body::Body;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Extension, FromRequestParts, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// The way in to the event channel. Cheap to clone.
#[derive(Clone)]
pub struct Cometd(Arc<CometdServer>);

struct CometdServer {
    inbox: Inbox,
    /// Hear what becomes of answers, and of frames.
    answers: Arc<dyn DeliveryListener>,
    frames: Arc<dyn DeliveryListener>,
    /// The id that a request has which opens no session.
    nobody: ClientId,
    numbers: AtomicU64,
    body_limit: usize,
    max_messages: usize,
    websocket: bool,
    callback_polling: bool,
    /// What follows the value of our cookie.
    cookie_attributes: String,
    origins: Vec<String>,
    load: watch::Receiver<Load>,
}

/// How long a graceful end waits for held connects to be answered and websockets to be closed.
const DRAIN: Duration = Duration::from_secs(3);

impl Cometd {
    /// Starts the loop that owns all sessions; it ends when the last handle and request are gone.
    /// `store` keeps events and sessions for the next life of the process.
    ///
    /// # Errors
    /// What was kept cannot be read.
    pub fn start(
        front: &crate::http::HttpConfig,
        config: CometdConfig,
        desk: GatewayHandle,
        store: Store,
    ) -> Result<Self, StoreError> {
        let (inbox, happenings) = mpsc::unbounded_channel();
        let (tell_load, load) = watch::channel(Load::default());
        let secure = if front.public_url.starts_with("https:") { "; Secure" } else { "" };
        let partitioned = if config.partitioned { "; Partitioned" } else { "" };
        let same_site = config.same_site.as_str();
        let server = CometdServer {
            inbox: inbox.clone(),
            answers: DeliveryInbox::of_requests(inbox.clone()),
            frames: DeliveryInbox::of_sockets(inbox.clone()),
            nobody: ClientId("".into()),
            numbers: AtomicU64::new(0),
            body_limit: front.body_limit,
            max_messages: config.max_messages,
            websocket: config.websocket,
            callback_polling: config.callback_polling,
            cookie_attributes: format!(
                "; Path=/; HttpOnly; SameSite={same_site}{secure}{partitioned}"
            ),
            origins: front.cors_origins.clone(),
            load,
        };
        let inboxes = (inbox.downgrade(), Arc::downgrade(&server.frames));
        let task = CometdTask::new(front, config, desk, store, inboxes, tell_load)?;
        tokio::spawn(task.run(happenings));
        Ok(Self(Arc::new(server)))
    }

    /// How much there is to do, as it changes.
    pub fn load(&self) -> watch::Receiver<Load> {
        self.0.load.clone()
    }

    /// Answers every held connect, closes every websocket and writes down what is to be kept: a
    /// graceful end.
    pub async fn drain(&self) {
        let (done, written) = oneshot::channel();
        let _ = self.0.inbox.send(Input::Drain(done));
        let mut load = self.load();
        let quiet = async {
            let _ = written.await;
            let _ = load.wait_for(|load| load.held == 0 && load.sockets == 0).await;
        };
        if tokio::time::timeout(DRAIN, quiet).await.is_err() {
            tracing::warn!("not every CometD client has taken its last answer");
        }
    }

    pub(super) fn inbox(&self) -> &Inbox {
        &self.0.inbox
    }

    pub(super) fn frames(&self) -> Arc<dyn DeliveryListener> {
        self.0.frames.clone()
    }

    pub(super) fn number(&self) -> ClientRequestId {
        ClientRequestId(self.0.numbers.fetch_add(1, Ordering::Relaxed))
    }

    pub(super) fn max_messages(&self) -> usize {
        self.0.max_messages
    }
}

/// The endpoint and its subtree, without the layers it shares with REST. Clients append
/// `/handshake`, `/connect`, a slash.
pub(crate) fn router(bayeux: Cometd) -> Router {
    Router::new()
        .route(ENDPOINT, any(receive))
        .route("/api/v2/notifications/", any(receive))
        .route("/api/v2/notifications/{*rest}", any(receive))
        .with_state(bayeux)
}

/// Where the event channel is.
pub(crate) const ENDPOINT: &str = "/api/v2/notifications";

/// Whether a path is the event channel's.
pub(crate) fn is_endpoint(path: &str) -> bool {
    path.strip_prefix(ENDPOINT).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

const BROWSER_COOKIE: &str = "BAYEUX_BROWSER";

/// The client of a request, and its connection.
#[derive(Clone)]
pub struct RequestContext {
    peer: ClientOrigin,
    wire: DeliveryTracker,
    multiplexed: bool,
    blocked: bool,
    by: Option<Means>,
}

async fn receive(
    State(bayeux): State<Cometd>,
    caller: Option<Extension<AuthenticatedUser>>,
    request: Request,
) -> Response {
    let outcome = match *request.method() {
        Method::POST => post(bayeux, visit(caller, &request), request).await,
        Method::GET if asks_for_websocket(&request) => {
            websocket(bayeux, visit(caller, &request), request).await
        }
        // RFC 8441.
        Method::CONNECT => websocket(bayeux, visit(caller, &request), request).await,
        Method::GET
            if bayeux.0.callback_polling && auth::is_foreign(&request, &bayeux.0.origins) =>
        {
            Err(foreign())
        }
        Method::GET if bayeux.0.callback_polling => {
            callback(bayeux, visit(caller, &request), request.uri().query().unwrap_or_default())
                .await
        }
        _ => return only_post(),
    };
    outcome.unwrap_or_else(IntoResponse::into_response)
}

fn only_post() -> Response {
    let refused =
        HttpError::new(Reason::Forbidden, "The event channel takes POST only, or a websocket.");
    let mut response = refused.with_http(StatusCode::METHOD_NOT_ALLOWED).into_response();
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
    response
}

fn visit(caller: Option<Extension<AuthenticatedUser>>, request: &Request) -> RequestContext {
    let wire = request
        .extensions()
        .get::<DeliveryTracker>()
        .cloned()
        .unwrap_or_else(DeliveryTracker::blind);
    // npm `cometd` shakes hands on a websocket, and appends this to the URL only where it got none.
    let blocked = request.uri().path().ends_with("/handshake");
    let caller = match request.extensions().get::<LoginRefused>() {
        Some(refused) => Err(*refused),
        None => Ok(caller.map(|Extension(caller)| caller)),
    };
    let visit =
        RequestContext::new(caller, request.headers(), auth::address_of(request), wire, blocked);
    RequestContext { multiplexed: request.version() >= Version::HTTP_2, ..visit }
}

impl RequestContext {
    /// Over HTTP/1.1. `blocked`: websockets do not get through to this client.
    fn new(
        caller: Result<Option<AuthenticatedUser>, LoginRefused>,
        headers: &HeaderMap,
        address: IpAddr,
        wire: DeliveryTracker,
        blocked: bool,
    ) -> Self {
        let is_refused = caller.is_err();
        let caller = caller.ok().flatten();
        let by = caller.as_ref().map(|caller| caller.by);
        let of_session = caller.as_ref().filter(|caller| caller.by != Means::Token);
        Self {
            by,
            peer: ClientOrigin {
                proven: matches!(by, Some(Means::Password | Means::Token)),
                login_until: caller.as_ref().map(|caller| caller.until),
                login: of_session.map(|caller| caller.csrf.clone()),
                by_password_alone: caller
                    .as_ref()
                    .is_some_and(AuthenticatedUser::is_by_password_alone),
                is_refused,
                browser: browser_of(headers),
                address,
                user: caller.map(|caller| caller.user),
            },
            wire,
            multiplexed: false,
            blocked,
        }
    }

    fn via(&self) -> CometdTransport {
        CometdTransport::Http { multiplexed: self.multiplexed, blocked: self.blocked }
    }
}

async fn post(
    bayeux: Cometd,
    visit: RequestContext,
    request: Request,
) -> Result<Response, HttpError> {
    let kind = content_type(request.headers())?;
    let not_now = request.extensions().get::<NotNow>().cloned();
    // A page of any site can send a form without asking, and a browser may add what its user once
    // typed in.
    if matches!(kind, Content::Form) && auth::is_foreign(&request, &bayeux.0.origins) {
        return Err(foreign());
    }
    let bytes = read_whole(request, bayeux.0.body_limit).await?;
    let messages = match kind {
        Content::Json => message::parse(&bytes, bayeux.max_messages()).map_err(malformed)?,
        Content::Form => from_form(&bytes, bayeux.max_messages())?,
    };
    // Everything the request was made of is let go of while it is held.
    drop(bytes);
    if let Some(NotNow(refused)) = not_now {
        let body = not_now_body(&refused, messages);
        return Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response());
    }
    let via = visit.via();
    let (body, has_events, pending, cookie) = exchange(&bayeux, visit, via, messages).await?;
    let body = pending.into_body(body.into(), has_events);
    Ok(answered("application/json", body, cookie))
}

/// What is said while a login cannot be checked.
fn not_now_body(refused: &HttpError, messages: Vec<ClientMessage>) -> String {
    let (error, after) =
        refused.come_again().unwrap_or(("503::unavailable", Duration::from_secs(2)));
    message::body(&[], &message::come_again(messages, error, after))
}

/// JSONP. A page of any site can ask this way with our cookies, and no browser names the page: only
/// requests are answered that prove their user themselves.
async fn callback(
    bayeux: Cometd,
    visit: RequestContext,
    query: &str,
) -> Result<Response, HttpError> {
    let mut fields = form_urlencoded::parse(query.as_bytes());
    let callback =
        fields.find(|(key, _)| key == "jsonp").map_or("jsonp".into(), |(_, value)| value);
    if !is_callback(&callback) {
        return Err(HttpError::new(
            Reason::InvalidInput,
            "'jsonp' must be 1 to 64 letters, digits, dots, underscores or hyphens.",
        ));
    }
    if visit.by == Some(Means::Cookie) {
        return Err(HttpError::new(
            Reason::NotPermitted,
            "Callback-polling is not allowed by cookie: authenticate each request.",
        ));
    }
    let messages = from_form(query.as_bytes(), bayeux.max_messages())?;
    let (body, has_events, pending, cookie) =
        exchange(&bayeux, visit, CometdTransport::Callback, messages).await?;
    // Both are line ends in the JavaScript of older browsers, and text in JSON.
    let body = body.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
    // The comment keeps a callback's name from being the first bytes of something else than a
    // script.
    let script = format!("/**/{callback}({body});");
    let mut response = answered(
        "text/javascript; charset=utf-8",
        pending.into_body(script.into(), has_events),
        cookie,
    );
    let disposition = HeaderValue::from_static("attachment; filename=f.txt");
    response.headers_mut().insert(header::CONTENT_DISPOSITION, disposition);
    Ok(response)
}

fn is_callback(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// Hands the messages in and waits for the answer: as long as the connect is held.
async fn exchange(
    bayeux: &Cometd,
    visit: RequestContext,
    via: CometdTransport,
    messages: Vec<ClientMessage>,
) -> Result<(String, bool, PendingAnswer, Option<HeaderValue>), HttpError> {
    let (reply, answer) = oneshot::channel();
    let (pending, new_cookie) =
        hand_in(bayeux, visit, via, messages, |_| RequestReply::Here(reply))?;
    match answer.await.map_err(|_| closing())? {
        ConnectAnswer::Body(body, has_events) => Ok((body, has_events, pending, new_cookie)),
        ConnectAnswer::Overtaken => Err(superseded()),
    }
}

/// The refusal of a request after its session has sent a newer connect.
fn superseded() -> HttpError {
    HttpError::new(Reason::InvalidState, "A newer connect of this session has come.")
}

/// What clients append to the endpoint when they poll.
const APPENDED: [&str; 5] = ["", "/", "/connect", "/handshake", "/disconnect"];

impl LoginListener for Cometd {
    fn handle_ended(&self, ended: EndedLogin) {
        // The channel is closing: its sessions end with it.
        let _ = self.0.inbox.send(Input::LoggedOut(ended));
    }
}

impl PollService for Cometd {
    type Client = RequestContext;

    fn takes(&self, path: &str) -> bool {
        path.strip_prefix(ENDPOINT).is_some_and(|appended| APPENDED.contains(&appended))
    }

    fn body_limit(&self) -> usize {
        self.0.body_limit
    }

    fn client(
        &self,
        caller: Result<Option<AuthenticatedUser>, LoginRefused>,
        path: &str,
        (headers, address): (&HeaderMap, IpAddr),
        tracker: DeliveryTracker,
    ) -> RequestContext {
        RequestContext::new(caller, headers, address, tracker, path.ends_with("/handshake"))
    }

    fn post(
        &self,
        client: RequestContext,
        body: &[u8],
        mut context: ResponseContext,
    ) -> Result<PendingAnswer, HttpError> {
        let messages = message::parse(body, self.max_messages()).map_err(malformed)?;
        let via = client.via();
        let reply = |browser: Option<&HeaderValue>| {
            context.cookies.extend(browser.cloned());
            RequestReply::Wire(context)
        };
        hand_in(self, client, via, messages, reply).map(|(pending, _)| pending)
    }

    fn refuse(&self, refused: HttpError, body: &[u8]) -> Result<String, HttpError> {
        let messages = message::parse(body, self.max_messages()).map_err(malformed)?;
        match refused.come_again() {
            Some(_) => Ok(not_now_body(&refused, messages)),
            None => Err(refused),
        }
    }

    fn superseded(&self) -> HttpError {
        superseded()
    }
}

fn closing() -> HttpError {
    HttpError::new(Reason::Unavailable, "The event channel is closing.")
}

fn hand_in(
    bayeux: &Cometd,
    visit: RequestContext,
    via: CometdTransport,
    messages: Vec<ClientMessage>,
    reply: impl FnOnce(Option<&HeaderValue>) -> RequestReply,
) -> Result<(PendingAnswer, Option<HeaderValue>), HttpError> {
    let RequestContext { mut peer, wire, by, .. } = visit;
    let opens =
        messages.iter().any(|message| matches!(message.kind, MessageKind::Handshake { .. }));
    let new_browser: Option<SharedSecret> =
        (opens && peer.browser.is_none()).then(|| SharedSecret::shared(random_hex()));
    let new_cookie =
        new_browser.as_ref().and_then(|browser| bayeux.browser_cookie(browser.expose()));
    // Each request proves it anew; a token says for how long.
    peer.login_until = peer.login_until.filter(|_| by != Some(Means::Password));
    let no = bayeux.number();
    let is_multiplexed = matches!(via, CometdTransport::Http { multiplexed: true, .. });
    let pending = PendingAnswer::begin(
        DeliveryId(no.0),
        wire.clone(),
        is_multiplexed,
        bayeux.0.answers.clone(),
    )
    .ok_or_else(closing)?;
    let post = ClientRequest {
        no,
        from: peer,
        new_browser,
        via,
        fresh: if opens { ClientId(random_hex().into()) } else { bayeux.0.nobody.clone() },
        messages,
    };
    let happening = Input::Posted(post, wire, reply(new_cookie.as_ref()), clock::instant());
    bayeux.inbox().send(happening).map_err(|_| closing())?;
    Ok((pending, new_cookie))
}

async fn websocket(
    bayeux: Cometd,
    visit: RequestContext,
    request: Request,
) -> Result<Response, HttpError> {
    if !bayeux.0.websocket {
        return Err(HttpError::new(Reason::Forbidden, "Websockets are not offered here."));
    }
    // Opened as nobody's it would be denied for good.
    if let Some(NotNow(refused)) = request.extensions().get::<NotNow>() {
        return Err(refused.clone());
    }
    // A page of any site can open a websocket with our cookies; the browser says which page it is.
    if auth::is_foreign(&request, &bayeux.0.origins) {
        return Err(foreign());
    }
    // No cookie is set here: npm `faye` opens its socket beside its handshake over HTTP, and would
    // mix up the two browsers.
    let RequestContext { peer, wire, multiplexed, .. } = visit;
    let (mut parts, _) = request.into_parts();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return Ok(rejection.into_response()),
    };
    let no = SocketId(bayeux.number().0);
    let limit = bayeux.0.body_limit;
    let upgrade = upgrade
        .read_buffer_size(BUFFER)
        .write_buffer_size(0)
        .max_write_buffer_size(usize::MAX)
        .max_message_size(limit)
        .max_frame_size(limit);
    Ok(upgrade.on_upgrade(move |socket| {
        websocket::serve(socket, (no, peer), bayeux, (wire, multiplexed))
    }))
}

/// Bytes of a websocket's reading buffer: messages of clients are short, and there are many
/// sockets.
const BUFFER: usize = 2 * 1024;

impl Cometd {
    fn browser_cookie(&self, browser: &str) -> Option<HeaderValue> {
        HeaderValue::from_str(&format!("{BROWSER_COOKIE}={browser}{}", self.0.cookie_attributes))
            .ok()
    }
}

fn foreign() -> HttpError {
    HttpError::new(Reason::NotPermitted, "This origin is not allowed.")
}

fn asks_for_websocket(request: &Request) -> bool {
    let upgrade = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
    upgrade.is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

enum Content {
    Json,
    Form,
}

/// A cross-site form can send `text/plain` without asking anybody; it is not JSON. No type at all
/// is.
fn content_type(headers: &HeaderMap) -> Result<Content, HttpError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(Content::Json);
    };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    match essence.to_ascii_lowercase().as_str() {
        "application/json" | "text/json" => Ok(Content::Json),
        "application/x-www-form-urlencoded" => Ok(Content::Form),
        _ => Err(HttpError::new(
            Reason::UnsupportedMediaType,
            "Content-Type must be application/json or application/x-www-form-urlencoded.",
        )),
    }
}

/// `message=`, once or several times, each with an array or a single message.
fn from_form(form: &[u8], most: usize) -> Result<Vec<ClientMessage>, HttpError> {
    let mut messages = Vec::new();
    for (_, value) in form_urlencoded::parse(form).filter(|(key, _)| key == "message") {
        messages.extend(message::parse(value.as_bytes(), most).map_err(malformed)?);
        if messages.len() > most {
            return Err(malformed(BatchError::TooMany(most)));
        }
    }
    if messages.is_empty() {
        return Err(HttpError::new(Reason::MissingParameter, "'message' is missing."));
    }
    Ok(messages)
}

fn malformed(error: BatchError) -> HttpError {
    HttpError::new(Reason::InvalidInput, format!("Malformed request: {error}."))
}

fn browser_of(headers: &HeaderMap) -> Option<SharedSecret> {
    let value = cookie(headers, BROWSER_COOKIE)?;
    let is_ours =
        (20..=64).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_ours.then(|| SharedSecret::shared(value))
}

/// 160 random bits, alphanumeric.
pub(super) fn random_hex() -> String {
    hex(&rand::random::<[u8; 20]>())
}

fn answered(content_type: &'static str, body: Body, new_cookie: Option<HeaderValue>) -> Response {
    let mut response = ([(header::CONTENT_TYPE, content_type)], body).into_response();
    let headers = response.headers_mut();
    let (unbuffered, no) = UNBUFFERED;
    headers.insert(unbuffered, HeaderValue::from_static(no));
    if let Some(cookie) = new_cookie {
        headers.append(header::SET_COOKIE, cookie);
    }
    response
}
