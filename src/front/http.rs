//! What every HTTP request passes, REST and CometD alike.

use super::auth::{self, Auth, random_text};
use super::bayeux::http::Bayeux;
use super::refusal::Refused;
use super::{Config, rest};
use crate::gateway::desk::Desk;
use crate::words::Reason;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowCredentials, AllowOrigin, CorsLayer};
use tracing::Instrument;

/// REST and CometD behind their layers. Serve it with
/// `into_make_service_with_connect_info::<SocketAddr>()`: the login throttle wants to know from where.
pub fn router(config: &Config, auth: Auth, desk: Desk, bayeux: Bayeux) -> Router {
    let origins: Arc<[String]> = config.cors_origins.clone().into();
    let request_path = ServiceBuilder::new()
        // Outermost: whatever happens below carries the request's id, in the log and in the answer.
        .layer(from_fn(name_request))
        // Cookies, errors and events of one user never stay in a cache, and no answer is ever a page.
        .layer(from_fn(harden))
        // A defect answers statusCode 4 and costs one request, not the process.
        .layer(CatchPanicLayer::custom(panicked as fn(Box<dyn Any + Send>) -> Response))
        // A preflight carries no credentials, so it is answered before anybody asks for them.
        .layer(from_fn_with_state(origins.clone(), refuse_foreign_preflight))
        .layer(cors(origins.clone()))
        // Who is it?
        .layer(from_fn_with_state(auth, auth::identify))
        // A cookie proves the browser, not the page: the page must be ours or allowed.
        .layer(from_fn_with_state(origins, auth::same_origin))
        // Where configured, the page also sends back the token that only our answers carry.
        .layer(tower::util::option_layer(config.csrf.then(|| from_fn(auth::csrf))));
    rest::router(config, desk)
        .merge(super::bayeux::http::router(bayeux))
        .layer(request_path)
}

/// The id of a request as it stands in the log and goes back as `X-Request-Id`.
#[derive(Clone, Debug)]
pub struct RequestName(pub Arc<str>);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Takes the client's `X-Request-Id` when it is a plain word, else makes one.
async fn name_request(mut request: Request, next: Next) -> Response {
    let given = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let name: Arc<str> = given
        .filter(|text| is_plain(text))
        .map_or_else(|| random_text::<12>().into(), Into::into);
    request.extensions_mut().insert(RequestName(name.clone()));
    let span = tracing::info_span!(
        "http",
        request_id = %name,
        method = %request.method(),
        path = %request.uri().path(),
        user = tracing::field::Empty,
    );
    async move {
        let mut response = next.run(request).await;
        tracing::debug!(status = response.status().as_u16(), "answered");
        if let Ok(value) = HeaderValue::from_str(&name) {
            response.headers_mut().insert(REQUEST_ID, value);
        }
        response
    }
    .instrument(span)
    .await
}

fn is_plain(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

async fn harden(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let fixed = [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let message = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_default();
    tracing::error!(panic = message, "a request panicked");
    Refused::new(Reason::Internal, "Internal error.").into_response()
}

async fn refuse_foreign_preflight(State(allowed): State<Arc<[String]>>, request: Request, next: Next) -> Response {
    let is_preflight = request.method() == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if is_preflight && !is_allowed(&allowed, request.headers().get(header::ORIGIN)) {
        let mut response = Refused::new(Reason::NotPermitted, "This origin is not allowed.").into_response();
        response.headers_mut().insert(header::VARY, HeaderValue::from_static("Origin"));
        return response;
    }
    next.run(request).await
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
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            header::CONTENT_TYPE,
            header::AUTHORIZATION,
            HeaderName::from_static("x-csrf-token"),
            REQUEST_ID,
        ])
        .expose_headers([HeaderName::from_static("x-csrf-header"), HeaderName::from_static("x-csrf-token")])
        .vary([header::ORIGIN])
        .max_age(Duration::from_secs(600))
}
