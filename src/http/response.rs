//! Answers of the fast path, as bytes.

use super::error::HttpError;
use super::layers::{HARDENED, REQUEST_ID, RequestTrace, VARIES_BY};
use crate::clock;
use crate::model::Timestamp;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use http_body_util::BodyExt;
use httpdate::HttpDate;
use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// On every answer of the event channel: tells nginx not to keep it back.
pub(crate) const UNBUFFERED: (HeaderName, &str) =
    (HeaderName::from_static("x-accel-buffering"), "no");

/// What the head of an answer has of its own, for whatever writes it.
#[derive(Debug)]
pub struct ResponseContext {
    /// Of its request.
    pub(crate) trace: RequestTrace,
    /// The cookies that it sets.
    pub(crate) cookies: Vec<HeaderValue>,
}

/// A whole answer over HTTP/1.1.
pub(crate) struct BufferedResponse {
    /// RFC 9110 15.
    pub status: u16,
    /// Beside those that every answer has.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// JSON.
    pub body: Vec<u8>,
}

impl BufferedResponse {
    /// What the HTTP library would say.
    pub async fn refused(refused: HttpError) -> Self {
        let (parts, body) = refused.into_response().into_parts();
        let headers = parts.headers.iter().filter(|(name, _)| **name == header::RETRY_AFTER);
        Self {
            status: parts.status.as_u16(),
            headers: headers.map(|(name, value)| (name.clone(), value.clone())).collect(),
            // It is a few bytes in memory.
            body: body.collect().await.map(|body| body.to_bytes().into()).unwrap_or_default(),
        }
    }

    /// `is_last`: the connection is closed afterwards.
    pub fn into_bytes(self, trace: &RequestTrace, is_last: bool) -> Vec<u8> {
        trace.answered(self.status);
        let mut head = String::with_capacity(HEAD_ROOM + self.body.len());
        begin(&mut head, self.status, clock::wall());
        let mut bytes = end(head, trace, self.body.len(), is_last).into_bytes();
        self.headers.iter().for_each(|(name, value)| line(&mut bytes, name, value));
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// The head of answers with 200 and nothing of their own, written once a second for many of them.
#[derive(Default)]
pub(crate) struct ResponseHead {
    text: String,
    second: Option<u64>,
}

impl ResponseHead {
    /// A whole answer with this JSON. `is_last`: the connection is closed afterwards.
    pub fn with(
        &mut self,
        now: Timestamp,
        context: &ResponseContext,
        body: &str,
        is_last: bool,
    ) -> Vec<u8> {
        let second = now.0 / 1_000;
        if self.second.replace(second) != Some(second) {
            self.text.clear();
            begin(&mut self.text, OK, now);
        }
        let mut answer = String::with_capacity(self.text.len() + ROOM_BEHIND + body.len());
        answer.push_str(&self.text);
        context.trace.answered(OK);
        let mut answer = end(answer, &context.trace, body.len(), is_last).into_bytes();
        context.cookies.iter().for_each(|cookie| line(&mut answer, &header::SET_COOKIE, cookie));
        answer.extend_from_slice(b"\r\n");
        answer.extend_from_slice(body.as_bytes());
        answer
    }
}

/// Status of an answer with a body of the service.
const OK: u16 = 200;
/// Somewhat more than the head of an answer without cookies.
const HEAD_ROOM: usize = 512;
/// The lines that differ from one to the next.
const ROOM_BEHIND: usize = 96;

/// Everything up to the length. Writing to a string never fails.
fn begin(head: &mut String, status: u16, now: Timestamp) {
    let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let _ = write!(
        head,
        "HTTP/1.1 {status} {}\r\ncontent-type: application/json\r\n",
        reason.unwrap_or_default()
    );
    for (name, value) in &HARDENED {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    let date = HttpDate::from(SystemTime::UNIX_EPOCH + Duration::from_millis(now.0));
    let (unbuffered, no) = UNBUFFERED;
    let _ = write!(
        head,
        "{unbuffered}: {no}\r\n{}: {VARIES_BY}\r\n{}: {date}\r\n",
        header::VARY,
        header::DATE
    );
}

fn end(mut head: String, trace: &RequestTrace, length: usize, is_last: bool) -> String {
    let name = trace.name();
    let _ = write!(head, "{REQUEST_ID}: {name}\r\ncontent-length: {length}\r\n");
    if is_last {
        head.push_str("connection: close\r\n");
    }
    head
}

fn line(bytes: &mut Vec<u8>, name: &HeaderName, value: &HeaderValue) {
    for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
        bytes.extend_from_slice(part);
    }
}
