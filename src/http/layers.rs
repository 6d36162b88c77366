//! The layers that every HTTP request passes, REST and CometD alike, and what all answers have in
//! common.
//!
//! Polls on the fast path pass the same stations without the HTTP library: the name and the line in
//! the log are [`RequestTrace`]'s, the headers `HARDENED`, `REQUEST_ID` and `VARIES_BY`, the
//! login `Auth::identify`, each written once and used on both ways.

use super::HttpConfig;
use super::auth::{self, Auth, ClientAddress, LoginRefused, NewCookies, random_text};
use super::error::{HttpError, Refused};
use super::forwarded::Proxies;
use super::hosts::Hosts;
use crate::clock;
use crate::model::{Reason, UserId};
use crate::rate_limit::KeyedLimiter;
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use std::any::Any;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowCredentials, AllowOrigin, CorsLayer};
use tracing::{Instrument, Span};

/// Puts the layers around all routes. Serve the result with [`super::connection::serve`]: the
/// throttle of logins needs the address of each connection.
///
/// `answers_logins` says of a path that its protocol has its own words for a login that is missing
/// or that cannot be checked now; such a request passes without a user, the latter with [`NotNow`].
pub(crate) fn layered(
    config: &HttpConfig,
    auth: Auth,
    routes: Router,
    answers_logins: fn(&str) -> bool,
) -> Router {
    let origins: Arc<[String]> = config.cors_origins.clone().into();
    let access = Arc::new(Access {
        auth,
        origins: origins.clone(),
        proxies: Proxies::new(&config.trusted_proxies),
        csrf: config.csrf,
        answers_logins,
    });
    let hosts = Hosts::new(&config.hosts, &config.public_url);
    let outermost = Outermost::new(origins.clone(), hosts);
    // Few layers, each a function in order: a function of its own for each step would copy all
    // steps behind it, for every request.
    let request_path = ServiceBuilder::new()
        // Whatever happens below carries the request's id, in the log and in the answer; and a
        // request for another host, or a foreign preflight, ends here.
        .layer(from_fn_with_state(Arc::new(outermost), outside))
        // A defect answers statusCode 4 and costs one request, not the process.
        .layer(CatchPanicLayer::custom(panicked as fn(Box<dyn Any + Send>) -> Response))
        // A preflight carries no credentials, so it is answered before anybody asks for them.
        .layer(cors(origins))
        // Which user is it, and does the request come from a page that may use the user's cookie?
        .layer(from_fn_with_state(access, inside));
    routes.layer(request_path)
}

/// What the check of a request's user and origin needs.
struct Access {
    auth: Auth,
    origins: Arc<[String]>,
    proxies: Proxies,
    csrf: bool,
    answers_logins: fn(&str) -> bool,
}

/// What the outermost layer knows.
struct Outermost {
    origins: Arc<[String]>,
    hosts: Hosts,
    /// How much the log has been told of each user's refusals.
    told: Mutex<KeyedLimiter<UserId>>,
}

/// Refusals of one user that are said at info level: so many at once, and one more each time. A
/// client that asks the same again and again fills no disk.
const TOLD: (u32, Duration) = (20, Duration::from_millis(200));
/// Users that must come together before it is looked who of them need not be remembered.
const SWEEP: usize = 1024;

impl Outermost {
    fn new(origins: Arc<[String]>, hosts: Hosts) -> Self {
        Self { origins, hosts, told: Mutex::new(KeyedLimiter::new(SWEEP)) }
    }

    /// A refusal of this user is to be said aloud.
    fn is_told(&self, user: &UserId) -> bool {
        let (most, each) = TOLD;
        let now = clock::instant();
        // A lock that another thread died with holds data that is still whole.
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.bucket(user.clone(), now).try_take(most, each, now).is_ok()
    }
}

/// Names the request, and hardens its answer.
async fn outside(
    State(outermost): State<Arc<Outermost>>,
    mut request: Request,
    next: Next,
) -> Response {
    let trace =
        RequestTrace::new(name_of(&request), request.method().as_str(), request.uri().path());
    request.extensions_mut().insert(trace.name.clone());
    let route = Route::of(&request);
    let known = outermost.clone();
    let answering = async move {
        if let Err(refused) = known.hosts.check(&request) {
            return refused.into_response();
        }
        match foreign_preflight(&known.origins, &request) {
            Some(refused) => refused,
            None => next.run(request).await,
        }
    };
    let mut response = answering.instrument(trace.span.clone()).await;
    trace.answered(response.status().as_u16());
    if let Some(refused) = response.extensions_mut().remove::<Refused>() {
        let is_told = refused.user.as_ref().is_some_and(|user| outermost.is_told(user));
        trace.refused(&refused, &route, response.status(), is_told);
    }
    harden(&mut response);
    if let Ok(value) = HeaderValue::from_str(trace.name()) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}

/// Identifies the user, and refuses a request with a cookie that comes from a page of a foreign
/// origin.
async fn inside(State(access): State<Arc<Access>>, mut request: Request, next: Next) -> Response {
    let address = access.proxies.client_of(auth::address_of(&request), request.headers());
    request.extensions_mut().insert(ClientAddress(address));
    let mut user = None;
    let new_cookies = match access.auth.identify(request.headers(), address).await {
        Ok((caller, new_cookies)) => {
            if let Some(caller) = caller {
                record_user(&tracing::Span::current(), &caller.user);
                user = Some(caller.user.clone());
                request.extensions_mut().insert(caller);
            } else if Auth::has_cookie_alone(request.headers())
                && (access.answers_logins)(request.uri().path())
            {
                // Whoever was logged in is not taken for somebody who never was.
                request.extensions_mut().insert(LoginRefused);
            }
            new_cookies
        }
        // CometD clients know no refusal but their own: a handshake without a user is denied in its
        // words.
        Err(refused)
            if refused.is_access_denied() && (access.answers_logins)(request.uri().path()) =>
        {
            request.extensions_mut().insert(LoginRefused);
            NewCookies::default()
        }
        Err(refused)
            if refused.come_again().is_some() && (access.answers_logins)(request.uri().path()) =>
        {
            request.extensions_mut().insert(NotNow(refused));
            NewCookies::default()
        }
        Err(refused) => return refused.into_response(),
    };
    // A cookie proves the browser, not the page.
    if let Err(refused) = auth::same_origin(&access.origins, &request) {
        return access.auth.with_cookies(&new_cookies, refused.into_response());
    }
    // Where configured, the page also sends back the token that only our answers carry.
    let token = match access.csrf.then(|| auth::csrf(&request)) {
        None => None,
        Some(Ok(token)) => token,
        Some(Err(refused)) => {
            return access.auth.with_cookies(&new_cookies, refused.into_response());
        }
    };
    let mut response = access.auth.with_cookies(&new_cookies, next.run(request).await);
    if let Some(refused) = response.extensions_mut().get_mut::<Refused>() {
        refused.user = user;
    }
    if let Some(token) = token {
        auth::offer_csrf(&mut response, token.expose());
    }
    response
}

/// The login could not be checked now. An extension of requests to CometD, which says so in its own
/// words.
#[derive(Clone, Debug)]
pub(crate) struct NotNow(pub(crate) HttpError);

/// The id of a request as it stands in the log and goes back as `X-Request-Id`.
#[derive(Clone, Debug)]
pub struct RequestName(pub Arc<str>);

impl RequestName {
    /// For a request that has no name of its own.
    pub(crate) fn random() -> Self {
        Self(random_text::<12>().into())
    }
}

/// How a request stands in the log, and what its answer is named by. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RequestTrace {
    name: RequestName,
    span: Span,
}

impl RequestTrace {
    /// Of a request, whatever the log says of it.
    pub(crate) fn new(name: RequestName, method: &str, path: &str) -> Self {
        let span = tracing::info_span!(
            "http",
            request_id = %name.0,
            method,
            path,
            user = tracing::field::Empty,
        );
        Self { name, span }
    }

    /// Of a request of which the log says no more than that it was answered: without a span, which
    /// costs more than the request, when that is not said.
    pub(crate) fn of_routine(method: &str, path: &str, user: &UserId) -> Self {
        let name = RequestName::random();
        if !tracing::enabled!(tracing::Level::DEBUG) {
            return Self { name, span: Span::none() };
        }
        let trace = Self::new(name, method, path);
        record_user(&trace.span, user);
        trace
    }

    /// The user is known now: of a poll, which may be held for long, no more is said but
    /// that it was answered, and no span is kept for that when it is not said.
    pub(crate) fn settle(&mut self) {
        if !tracing::enabled!(tracing::Level::DEBUG) {
            self.span = Span::none();
        }
    }

    /// The request's id.
    pub(crate) fn name(&self) -> &str {
        &self.name.0
    }

    /// What is said of the request is said in here.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// The line in the log of a refusal: what a user has met with, and at debug level what anybody
    /// may bring about, or a user without end.
    fn refused(&self, refused: &Refused, route: &Route, status: StatusCode, is_told: bool) {
        let _inside = self.span.enter();
        let route = route.to_string();
        let operation = refused.operation.as_deref().unwrap_or(&route);
        let (status, reason) = (status.as_u16(), refused.reason.as_str());
        let (status_code, why) = (refused.status_code, refused.why.as_deref());
        match is_told {
            true => tracing::info!(operation, reason, status_code, status, why, "request refused"),
            false => {
                tracing::debug!(operation, reason, status_code, status, why, "request refused")
            }
        }
    }

    /// The line in the log of an answer.
    pub(crate) fn answered(&self, status: u16) {
        self.span.in_scope(|| tracing::debug!(status, "answered"));
    }
}

/// The methods that there are.
const OURS: [Method; 4] = [Method::GET, Method::POST, Method::PUT, Method::DELETE];

/// The method and the path of a request as the router has them: of these there are only so many,
/// whatever clients send.
#[derive(Clone, Debug)]
pub(crate) struct Route(Option<(Method, MatchedPath)>);

impl Route {
    pub(crate) fn of(request: &Request) -> Self {
        let path = request.extensions().get::<MatchedPath>();
        let is_ours = OURS.contains(request.method());
        Self(path.filter(|_| is_ours).map(|path| (request.method().clone(), path.clone())))
    }
}

/// `POST /api/v2/me/devices/{id}`
impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some((method, path)) => write!(f, "{method} {}", path.as_str()),
            None => f.write_str("none"),
        }
    }
}

pub(crate) fn record_user(span: &Span, user: &UserId) {
    span.record("user", tracing::field::display(user));
}

/// The request's id, on every answer.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The header of a request by which every answer may differ.
pub(crate) const VARIES_BY: HeaderName = header::ORIGIN;

/// Takes the client's `X-Request-Id` when it is a plain word, else makes one.
fn name_of(request: &Request) -> RequestName {
    let given = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let given = given.filter(|text| is_plain(text));
    given.map_or_else(RequestName::random, |text| RequestName(text.into()))
}

fn is_plain(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// On every answer that does not say otherwise of itself: cookies, errors and events of one user
/// never stay in a cache, and no answer is a page.
pub(crate) const HARDENED: [(HeaderName, &str); 5] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::REFERRER_POLICY, "no-referrer"),
];

fn harden(response: &mut Response) {
    for (name, value) in HARDENED {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(panic = message, "a request panicked");
    HttpError::new(Reason::Internal, "Internal error.").into_response()
}

fn foreign_preflight(allowed: &[String], request: &Request) -> Option<Response> {
    let is_preflight = request.method() == Method::OPTIONS
        && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if !is_preflight || is_allowed(allowed, request.headers().get(header::ORIGIN)) {
        return None;
    }
    let mut response =
        HttpError::new(Reason::NotPermitted, "This origin is not allowed.").into_response();
    response.headers_mut().insert(header::VARY, VARIES_BY.into());
    Some(response)
}

fn is_allowed(allowed: &[String], origin: Option<&HeaderValue>) -> bool {
    origin.is_some_and(|origin| allowed.iter().any(|one| one.as_bytes() == origin.as_bytes()))
}

fn cors(allowed: Arc<[String]>) -> CorsLayer {
    let for_credentials = allowed.clone();
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, _| is_allowed(&allowed, Some(origin))))
        .allow_credentials(AllowCredentials::predicate(move |origin, _| {
            is_allowed(&for_credentials, Some(origin))
        }))
        .allow_methods(OURS)
        .allow_headers([
            header::CONTENT_TYPE,
            header::AUTHORIZATION,
            HeaderName::from_static("x-csrf-token"),
            REQUEST_ID,
        ])
        .expose_headers([
            HeaderName::from_static("x-csrf-header"),
            HeaderName::from_static("x-csrf-token"),
        ])
        .vary([VARIES_BY])
        .max_age(Duration::from_secs(600))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_who_is_refused_without_end_does_not_fill_the_log_nor_silence_others() {
        let outermost = Outermost::new(Arc::new([]), Hosts::default());
        let anna = UserId::from("anna");
        let told = (0..10_000).filter(|_| outermost.is_told(&anna)).count();
        assert!((20..100).contains(&told), "{told}");
        assert!(outermost.is_told(&UserId::from("bob")));
    }
}
