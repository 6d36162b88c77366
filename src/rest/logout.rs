//! Log-out: the HTTP session ends, and the CometD sessions that were opened in it.

use super::browser_login::CALLBACK;
use super::{Accepted, ErrorBody, RequestContext, RestState, wrong_method};
use crate::http::HttpConfig;
use crate::http::auth::{self, Auth, LoggedOut, Means};
use crate::http::error::HttpError;
use crate::model::Reason;
use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;

/// What a log-out has to know of logins.
#[derive(Clone)]
pub(super) struct LoginDoor {
    pub(super) auth: Auth,
    /// Requests by cookie must prove their page, so a GET, which need not, ends nothing.
    csrf: bool,
    /// Of pages that may log their users out: our own by its public name, and the allowed ones.
    origins: Arc<[String]>,
    /// Where an issuer sends a browser back to.
    pub(super) callback: Arc<str>,
}

impl LoginDoor {
    pub(super) fn new(config: &HttpConfig, auth: Auth) -> Self {
        let public = auth::origin_of(&config.public_url);
        let origins = config.cors_origins.iter().cloned().chain(public).collect();
        let callback = format!("{}{}", config.public_url.trim_end_matches('/'), CALLBACK);
        Self { auth, csrf: config.csrf, origins, callback: callback.into() }
    }
}

type LoggedOutReply = (Option<Extension<LoggedOut>>, Json<Accepted>);

fn ended(rest: &RestState, from: &RequestContext) -> LoggedOutReply {
    let ended = rest.login.auth.log_out(&from.caller);
    (ended.map(Extension), Json(Accepted { status_code: 0 }))
}

/// Ends the HTTP session and its CometD sessions. The contact-centre session stays as it is.
#[utoipa::path(
    post, path = "/api/v2/logout",
    responses(
        (status = 200, description = "Logged out.", body = Accepted),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn log_out(State(rest): State<RestState>, from: RequestContext) -> LoggedOutReply {
    ended(&rest, &from)
}

/// It is a browser's, which may not say to a plain http server where a click comes from: every one
/// calls itself so, or says where it comes from. Other programs follow no link of another site.
fn may_follow_links(request: &Request) -> bool {
    let header = |name: &str| request.headers().get(name);
    let is_browser =
        header("user-agent").is_some_and(|name| name.as_bytes().starts_with(b"Mozilla/"));
    is_browser || ["sec-fetch-site", "origin", "referer"].iter().any(|name| header(name).is_some())
}

/// The same for old clients; only where CSRF protection is off. By cookie, a browser must say that
/// the request comes from a page of this server or an allowed one: by Sec-Fetch-Site, Origin or
/// Referer. Other programs need not.
#[utoipa::path(
    get, path = "/api/v2/logout",
    responses(
        (status = 200, description = "Logged out.", body = Accepted),
        (status = "default", body = ErrorBody)
    )
)]
pub(super) async fn log_out_by_get(
    State(rest): State<RestState>,
    from: RequestContext,
    request: Request,
) -> Result<LoggedOutReply, Response> {
    let LoginDoor { csrf, origins, .. } = &rest.login;
    // HEAD comes here, too, and changes nothing anywhere.
    if *csrf || request.method() != Method::GET {
        let mut refused = wrong_method(request).await.into_response();
        let allowed = HeaderValue::from_static(if *csrf { "POST" } else { "GET, POST" });
        refused.headers_mut().insert(header::ALLOW, allowed);
        return Err(refused);
    }
    let is_proved = match from.caller.by {
        Means::Password | Means::Token => true,
        Means::Cookie => auth::is_from_own_page(&request, origins) || !may_follow_links(&request),
    };
    if auth::is_foreign(&request, origins) || !is_proved {
        let message = "Cross-site requests are not allowed.";
        return Err(HttpError::new(Reason::NotPermitted, message).into_response());
    }
    Ok(ended(&rest, &from))
}
