//! One table: refusal → statusCode + HTTP · Bayeux error. (The gRPC code is the contract's.)

use crate::model::{Reason, Refusal, UserId};
use crate::telemetry::logged;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

/// What one reason looks like at the doors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorMapping {
    /// `statusCode` of the body.
    pub status_code: u8,
    /// HTTP status.
    pub http: StatusCode,
    /// `error` of a Bayeux reply.
    pub bayeux: &'static str,
    /// `Retry-After` in seconds, where asking again may help.
    pub retry_after_s: Option<u16>,
}

/// The table.
pub fn row(reason: Reason) -> ErrorMapping {
    let (status_code, http, bayeux) = match reason {
        Reason::MissingParameter => (1, StatusCode::BAD_REQUEST, "403::parameter_missing"),
        Reason::InvalidState => (2, StatusCode::CONFLICT, "409::invalid_state"),
        Reason::Forbidden => (3, StatusCode::FORBIDDEN, "403::forbidden"),
        Reason::Internal => (4, StatusCode::INTERNAL_SERVER_ERROR, "500::internal"),
        Reason::Unavailable => (4, StatusCode::SERVICE_UNAVAILABLE, "503::unavailable"),
        Reason::NotPermitted => (5, StatusCode::FORBIDDEN, "403::not_permitted"),
        Reason::NotFound => (6, StatusCode::NOT_FOUND, "404::not_found"),
        Reason::InvalidInput => (10, StatusCode::BAD_REQUEST, "400::invalid_input"),
        Reason::TooLarge => (10, StatusCode::PAYLOAD_TOO_LARGE, "413::too_large"),
        Reason::UnsupportedMediaType => {
            (10, StatusCode::UNSUPPORTED_MEDIA_TYPE, "415::unsupported_media_type")
        }
        Reason::InUse => (19, StatusCode::CONFLICT, "409::in_use"),
        Reason::NotAuthenticated => (20, StatusCode::FORBIDDEN, "403::handshake_denied"),
        Reason::TooManyRequests => (20, StatusCode::TOO_MANY_REQUESTS, "429::too_many_requests"),
    };
    let retry_after_s = match reason {
        Reason::Unavailable => Some(2),
        Reason::TooManyRequests => Some(10),
        Reason::MissingParameter
        | Reason::InvalidState
        | Reason::Forbidden
        | Reason::Internal
        | Reason::NotPermitted
        | Reason::NotFound
        | Reason::InvalidInput
        | Reason::TooLarge
        | Reason::UnsupportedMediaType
        | Reason::InUse
        | Reason::NotAuthenticated => None,
    };
    ErrorMapping { status_code, http, bayeux, retry_after_s }
}

/// The body of every refusal: these two fields and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBody {
    /// Never 0.
    pub status_code: u8,
    /// For people; names the field or device.
    pub status_message: String,
}

/// What the log says of a refusal: an extension of its response. Nothing in it is the client's own
/// text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Reason,
    pub(crate) status_code: u8,
    /// The text as it may be logged; `None`: it may have a name or a number in it that may not.
    pub(crate) why: Option<String>,
    /// What was asked, once it is known.
    pub(crate) operation: Option<Arc<str>>,
    /// The user that has asked, once it is known.
    pub(crate) user: Option<UserId>,
}

/// A refusal on its way out as HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpError {
    refusal: Refusal,
    http: StatusCode,
}

impl HttpError {
    /// With the HTTP status of its row.
    pub fn new(reason: Reason, message: impl Into<Cow<'static, str>>) -> Self {
        Refusal::new(reason, message).into()
    }

    /// With an HTTP status of its own: 405.
    pub(crate) fn with_http(self, http: StatusCode) -> Self {
        Self { http, ..self }
    }

    /// Asking again may help: the error of a Bayeux reply, and after how long.
    pub(crate) fn come_again(&self) -> Option<(&'static str, Duration)> {
        let row = row(self.refusal.reason);
        Some((row.bayeux, Duration::from_secs(row.retry_after_s?.into())))
    }

    /// The caller is not known.
    pub(crate) fn is_access_denied(&self) -> bool {
        self.refusal.reason == Reason::NotAuthenticated
    }

    /// `{"statusCode":20,"statusMessage":"Access denied"}`, 403, and no `WWW-Authenticate`: a
    /// browser would ask for a password.
    pub fn access_denied() -> Self {
        Self::new(Reason::NotAuthenticated, "Access denied")
    }

    /// The same, 401, of a bearer token that is nobody's; with the challenge of RFC 6750 3, at which
    /// a browser asks for nothing.
    pub(crate) fn invalid_token() -> Self {
        Self::access_denied().with_http(StatusCode::UNAUTHORIZED)
    }
}

impl From<Refusal> for HttpError {
    fn from(refusal: Refusal) -> Self {
        let http = row(refusal.reason).http;
        Self { refusal, http }
    }
}

impl IntoResponse for HttpError {
    fn into_response(self) -> Response {
        let row = row(self.refusal.reason);
        let body = ErrorBody {
            status_code: row.status_code,
            status_message: self.refusal.text().into_owned(),
        };
        let mut response = (self.http, axum::Json(body)).into_response();
        response.extensions_mut().insert(Refused {
            reason: self.refusal.reason,
            status_code: row.status_code,
            why: match self.refusal.pattern {
                Cow::Borrowed(_) => Some(logged(&self.refusal).to_string()),
                Cow::Owned(_) => None,
            },
            operation: None,
            user: None,
        });
        if self.http == StatusCode::UNAUTHORIZED {
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        if let Some(seconds) = row.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_logged_of_a_refusal_is_its_text_without_numbers() {
        let logged = |refusal: Refusal| {
            let response = HttpError::from(refusal).into_response();
            response.extensions().get::<Refused>().and_then(|refused| refused.why.clone())
        };
        let missing = logged(Refusal::missing("targetDeviceUri")).unwrap();
        assert_eq!(missing, "Parameter 'targetDeviceUri' is required.");
        let number = logged(Refusal::no_number(&"5001".into())).unwrap();
        assert!(number.starts_with("No device has the number '"), "{number}");
        assert!(!number.contains("5001") && !number.contains(Refusal::PLACE), "{number}");
        // What is made of parts is not known to have none in it.
        assert_eq!(logged(Refusal::new(Reason::Internal, "5001 is gone".to_owned())), None);
    }

    #[test]
    fn every_reason_has_the_row_of_the_mission() {
        let expected = [
            (Reason::MissingParameter, 1, 400),
            (Reason::InvalidState, 2, 409),
            (Reason::Forbidden, 3, 403),
            (Reason::Internal, 4, 500),
            (Reason::Unavailable, 4, 503),
            (Reason::NotPermitted, 5, 403),
            (Reason::NotFound, 6, 404),
            (Reason::InvalidInput, 10, 400),
            (Reason::TooLarge, 10, 413),
            (Reason::UnsupportedMediaType, 10, 415),
            (Reason::InUse, 19, 409),
            (Reason::NotAuthenticated, 20, 403),
            (Reason::TooManyRequests, 20, 429),
        ];
        assert_eq!(expected.len(), Reason::ALL.len());
        for (reason, status_code, http) in expected {
            let row = row(reason);
            assert_eq!((row.status_code, row.http.as_u16()), (status_code, http), "{reason}");
        }
    }

    #[test]
    fn an_unreachable_backend_asks_to_come_again() {
        let response =
            HttpError::new(Reason::Unavailable, "The backend can not be reached.").into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert!(response.headers().contains_key(header::RETRY_AFTER));
    }
}
