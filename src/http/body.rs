//! Bodies of requests: read whole, within a limit of bytes and of time.

use super::error::HttpError;
use crate::model::Reason;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::header;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use std::time::Duration;

/// Reads a whole body of at most `limit` bytes. A longer one is refused as soon as its length is
/// known.
pub(crate) async fn read_whole(request: Request, limit: usize) -> Result<Bytes, HttpError> {
    let declared =
        request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let says_too_large = declared
        .and_then(|text| text.parse::<u64>().ok())
        .is_some_and(|length| length > limit as u64);
    let body = request.into_body();
    if says_too_large {
        drain(body);
        return Err(too_large(limit));
    }
    match tokio::time::timeout(BODY_DEADLINE, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        Ok(Err(_)) => Err(HttpError::new(Reason::InvalidInput, "The body ended early.")),
        Err(_) => Err(HttpError::new(Reason::InvalidInput, "The body took too long.")),
    }
}

/// Longest time for a body: 64 KiB take less on any line that a call centre uses.
const BODY_DEADLINE: Duration = Duration::from_secs(8);

fn too_large(limit: usize) -> HttpError {
    HttpError::new(Reason::TooLarge, format!("The body is larger than {limit} bytes."))
}

/// Bytes of a refused body that are read and dropped: closing a connection on which the client
/// still writes resets it, and the client never sees the answer.
const DRAINED: usize = 16 << 20;
/// Longest time for dropping them.
const DRAINED_FOR: Duration = Duration::from_secs(5);

fn drain(body: Body) {
    tokio::spawn(tokio::time::timeout(DRAINED_FOR, async move {
        let mut body = Limited::new(body, DRAINED);
        while let Some(Ok(_)) = body.frame().await {}
    }));
}
