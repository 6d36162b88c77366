//! A browser logs in at its user's issuer, and comes back with an HTTP session.

use super::{ErrorBody, RestState};
use crate::http::auth::cookie;
use crate::http::error::HttpError;
use crate::http::identity::{
    Begun, CallbackQuery, Finished, Identities, LOGIN_COOKIE, LONGEST_LOGIN, LoginFault,
};
use crate::model::Reason;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;

/// Where a login begins.
const LOGIN: &str = "/api/v2/login";
/// Where an issuer sends a browser back to.
pub(super) const CALLBACK: &str = "/api/v2/login/callback";

/// How a login is to begin.
#[derive(Deserialize)]
pub(super) struct LoginQuery {
    issuer: Option<String>,
    redirect: Option<String>,
}

impl From<LoginFault> for HttpError {
    fn from(fault: LoginFault) -> Self {
        let (reason, text) = match fault {
            LoginFault::NoIssuer => {
                (Reason::NotFound, "There is no issuer of that name that browsers log in at.")
            }
            LoginFault::Redirect => {
                (Reason::InvalidInput, "'redirect' must be a path of this server.")
            }
            LoginFault::State => (
                Reason::InvalidInput,
                "This login was not begun in this browser, or too long ago: begin it again.",
            ),
            LoginFault::Refused => (Reason::NotPermitted, "The issuer has refused the login."),
            LoginFault::Unavailable => {
                (Reason::Unavailable, "The issuer of logins can not be asked now.")
            }
            LoginFault::Token => return HttpError::access_denied(),
        };
        HttpError::new(reason, text)
    }
}

fn identities(rest: &RestState) -> Result<&Identities, LoginFault> {
    rest.login.auth.identities().filter(|identities| identities.has_logins()).ok_or(
        // As if there were none.
        LoginFault::NoIssuer,
    )
}

/// What came from the client is no query of ours.
fn unreadable(_: QueryRejection) -> HttpError {
    HttpError::new(Reason::InvalidInput, "The query can not be read.")
}

fn see_other(location: &str) -> Response {
    let mut response = StatusCode::SEE_OTHER.into_response();
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

/// Sends a browser to the issuer of its user, to log in there.
#[utoipa::path(
    get, path = "/api/v2/login", tag = "login",
    params(
        ("issuer" = Option<String>, Query, description = "the name of the issuer; else the first"),
        ("redirect" = Option<String>, Query, description = "the path that the login ends at")
    ),
    responses(
        (status = 303, description = "To the issuer. A cookie of ten minutes comes along."),
        (status = 400, description = "`redirect` is no path of this server.", body = ErrorBody),
        (status = 404, description = "Browsers do not log in here.", body = ErrorBody),
        (status = 503, description = "The issuer can not be asked now.", body = ErrorBody),
        (status = "default", description = "Refused.", body = ErrorBody)
    )
)]
pub(super) async fn begin_login(
    State(rest): State<RestState>,
    query: Result<Query<LoginQuery>, QueryRejection>,
) -> Result<Response, HttpError> {
    let Query(LoginQuery { issuer, redirect }) = query.map_err(unreadable)?;
    let begun = identities(&rest)?.begin_login(
        issuer.as_deref(),
        redirect.as_deref(),
        &rest.login.callback,
    );
    let Begun { location, cookie } = begun.await?;
    let mut response = see_other(&location);
    let life = LONGEST_LOGIN.as_secs();
    if let Some(line) = rest.login.auth.cookie_below(LOGIN, (LOGIN_COOKIE, &cookie), life) {
        response.headers_mut().append(header::SET_COOKIE, line);
    }
    Ok(response)
}

/// Where the issuer sends the browser back to: opens the HTTP session.
#[utoipa::path(
    get, path = "/api/v2/login/callback", tag = "login",
    params(
        ("code" = Option<String>, Query, description = "the code of the issuer"),
        ("state" = Option<String>, Query, description = "the state of the login"),
        ("iss" = Option<String>, Query, description = "the issuer"),
        ("error" = Option<String>, Query, description = "why the issuer refuses the login")
    ),
    responses(
        (status = 303, description = "To the path that was asked for, with the session's cookie."),
        (status = 400, description = "This browser has no such login under way.", body = ErrorBody),
        (status = 403, description = "Nobody is logged in by it.", body = ErrorBody),
        (status = 404, description = "Browsers do not log in here.", body = ErrorBody),
        (status = 503, description = "The issuer can not be asked now.", body = ErrorBody),
        (status = "default", description = "Refused.", body = ErrorBody)
    )
)]
pub(super) async fn finish_login(
    State(rest): State<RestState>,
    headers: HeaderMap,
    query: Result<Query<CallbackQuery>, QueryRejection>,
) -> Response {
    let finished = async {
        let Query(query) = query.map_err(unreadable)?;
        let begun = cookie(&headers, LOGIN_COOKIE);
        let finished = identities(&rest)?.finish_login(query, begun, &rest.login.callback);
        Ok::<_, HttpError>(finished.await?)
    };
    let mut response = match finished.await {
        Ok(Finished { login, path }) => {
            let mut response = see_other(&path);
            if let Some(line) = rest.login.auth.open_session(&login, &headers) {
                response.headers_mut().append(header::SET_COOKIE, line);
            }
            response
        }
        Err(refused) => refused.into_response(),
    };
    // Once, and no more.
    if let Some(line) = rest.login.auth.cookie_below(LOGIN, (LOGIN_COOKIE, ""), 0) {
        response.headers_mut().append(header::SET_COOKIE, line);
    }
    response
}
