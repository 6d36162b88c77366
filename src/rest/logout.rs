//! Log-out: the HTTP session ends, and the CometD sessions that were opened in it.

use super::{Accepted, ErrorBody, RequestContext, RestState, wrong_method};
use crate::http::HttpConfig;
use crate::http::auth::{self, Auth, LoggedOut};
use crate::http::error::HttpError;
use crate::model::Reason;
use axum::Json;
use axum::extract::{Extension, Request, State};
use std::sync::Arc;

/// What a log-out has to know of logins.
#[derive(Clone)]
pub(super) struct LoginDoor {
    pub(super) auth: Auth,
    /// Requests by cookie must prove their page, so a GET, which need not, ends nothing.
    csrf: bool,
    origins: Arc<[String]>,
}

impl LoginDoor {
    pub(super) fn new(config: &HttpConfig, auth: Auth) -> Self {
        Self { auth, csrf: config.csrf, origins: config.cors_origins.clone().into() }
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

/// The same for old clients; only where CSRF protection is off.
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
) -> Result<LoggedOutReply, HttpError> {
    if rest.login.csrf {
        return Err(wrong_method(request).await);
    }
    if auth::is_foreign(&request, &rest.login.origins) {
        let message = "Cross-site requests are not allowed.";
        return Err(HttpError::new(Reason::NotPermitted, message));
    }
    Ok(ended(&rest, &from))
}
