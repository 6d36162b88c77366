//! The short way in for polls: a plain `POST` to the event channel over HTTP/1.1 goes from its connection to the hub and back
//! without the HTTP library and its layers, and holds no buffer while it is held.
//!
//! ```text
//! connection ─▶ is it plain? ──yes──▶ who is it ─▶ hub ─▶ answer, next request
//!                    │ no
//!                    └──▶ the HTTP library, with the bytes read so far, for the rest of the connection's life
//! ```
//!
//! Only what is understood completely is plain: anything else about a request, and it is the HTTP library's, which knows better. The
//! head is read by `httparse`, the library's own reader.

use super::auth::{Auth, Caller};
use super::bayeux::http::{self as bayeux, Bayeux, Visit};
use super::bayeux::message;
use super::bayeux::wire::{Watched, Wire};
use super::http::HARDENED;
use super::proxy::{FORWARDED_FOR, Proxies};
use super::refusal::Refused;
use crate::clock;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::IntoResponse;
use http_body_util::BodyExt;
use httpdate::HttpDate;
use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// What the short way needs. Cheap to clone.
#[derive(Clone)]
pub struct Lane {
    auth: Auth,
    bayeux: Bayeux,
    proxies: Proxies,
}

/// What becomes of a connection.
pub(super) enum Course {
    /// It has ended.
    Over,
    /// The HTTP library takes it from here, beginning with these bytes.
    Library(Watched, Vec<u8>),
}

/// How long a client may take to send the rest of a request, and a kept connection may idle.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long an answer may take once the house closes.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Room for one read: a poll with its head.
const READ: usize = 2 * 1024;
/// A longer head is no plain one.
const HEAD: usize = 4 * 1024;
const HEADERS: usize = 32;

impl Lane {
    pub(super) fn new(auth: Auth, bayeux: Bayeux, proxies: Proxies) -> Self {
        Self { auth, bayeux, proxies }
    }

    /// Serves plain requests, one after the other, until one is not or `stopped` comes.
    pub(super) async fn serve(&self, mut connection: Watched, wire: &Wire, peer: SocketAddr, stopped: &CancellationToken) -> Course {
        let mut bytes = Vec::new();
        let mut familiar = None;
        loop {
            if bytes.is_empty() {
                let readable = timeout(DEADLINE, connection.stream().readable());
                tokio::select! {
                    readable = readable => if !matches!(readable, Ok(Ok(()))) { return Course::Over },
                    () = stopped.cancelled() => return Course::Over,
                }
                bytes.reserve(READ);
                match connection.stream().try_read_buf(&mut bytes) {
                    Ok(0) => return Course::Over,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(_) => return Course::Over,
                }
            }
            let Some(plain) = plain(&bytes, self.bayeux.body_limit()) else {
                return Course::Library(connection, bytes);
            };
            let is_whole = tokio::select! {
                is_whole = fill(&connection, &mut bytes, plain.whole) => is_whole,
                () = stopped.cancelled() => false,
            };
            if !is_whole {
                return Course::Over;
            }
            let rest = bytes.split_off(plain.whole);
            let Some(answer) = self.answer(&connection, (wire, peer), &mut familiar, plain, bytes).await else {
                return Course::Over;
            };
            let is_last = stopped.is_cancelled();
            let answer = answer.into_bytes(is_last);
            let written = tokio::select! {
                written = connection.write_all(&answer) => written.is_ok(),
                () = too_late(stopped) => false,
            };
            if !written || is_last {
                return Course::Over;
            }
            bytes = rest;
        }
    }

    async fn who(
        &self,
        familiar: &mut Option<Box<Familiar>>,
        headers: &HeaderMap,
        peer: SocketAddr,
    ) -> Result<(Option<Caller>, Option<String>), Refused> {
        let now = clock::instant();
        if let Some(known) = familiar.as_ref().filter(|known| now < known.until && known.headers == *headers) {
            return Ok((known.caller.clone(), None));
        }
        let (caller, new_cookie) = self.auth.identify(headers, self.proxies.client_of(peer.ip(), headers)).await?;
        let until = caller.as_ref().map_or(now, |caller| caller.until.min(now + FAMILIAR));
        *familiar = Some(Box::new(Familiar {
            headers: headers.clone(),
            caller: caller.clone(),
            until,
        }));
        Ok((caller, new_cookie))
    }

    /// `None`: the client has gone, and what it would have been told waits for it.
    async fn answer(
        &self,
        connection: &Watched,
        (wire, peer): (&Wire, SocketAddr),
        familiar: &mut Option<Box<Familiar>>,
        plain: Plain,
        bytes: Vec<u8>,
    ) -> Option<Answer> {
        let known = self.who(familiar, &plain.headers, peer).await;
        let messages = match message::parse(bytes.get(plain.body..).unwrap_or_default(), self.bayeux.max_messages()) {
            Ok(messages) => messages,
            Err(error) => return Some(Answer::refused(bayeux::malformed(error)).await),
        };
        let (caller, new_cookie) = match known {
            Ok(known) => known,
            // A handshake of nobody is denied in CometD's words, as is one whose login cannot be checked now.
            Err(refused) if refused.is_access_denied() => (None, None),
            Err(refused) if refused.come_again().is_some() => {
                return Some(Answer {
                    status: 200,
                    headers: Vec::new(),
                    body: bayeux::not_now_body(&refused, messages).into_bytes(),
                });
            }
            Err(refused) => return Some(Answer::refused(refused).await),
        };
        let address = self.proxies.client_of(peer.ip(), &plain.headers);
        let visit = Visit::new(caller, &plain.headers, address, wire.clone(), plain.blocked);
        // Nothing of the request is kept while it is held.
        drop(bytes);
        drop(plain);
        let exchange = bayeux::exchange(&self.bayeux, visit, messages);
        let exchanged = tokio::select! {
            biased;
            exchanged = exchange => exchanged,
            () = gone(connection) => return None,
        };
        let (body, report, browser_cookie) = match exchanged {
            Ok(exchanged) => exchanged,
            Err(refused) => return Some(Answer::refused(refused).await),
        };
        let mut cookies = Vec::new();
        cookies.extend(new_cookie.and_then(|cookie| self.auth.cookie_line(&cookie)));
        cookies.extend(browser_cookie);
        report.taken().then_some(Answer {
            status: 200,
            headers: cookies.into_iter().map(|cookie| (header::SET_COOKIE, cookie)).collect(),
            body: body.into_bytes(),
        })
    }
}

/// A request that is understood completely.
struct Plain {
    /// What the login wants to see.
    headers: HeaderMap,
    /// Where the body begins.
    body: usize,
    /// Where the request ends.
    whole: usize,
    /// `/handshake` is appended.
    blocked: bool,
}

fn plain(bytes: &[u8], limit: usize) -> Option<Plain> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(body)) = request.parse(bytes.get(..bytes.len().min(HEAD))?) else {
        return None;
    };
    if request.method != Some("POST") || request.version != Some(1) {
        return None;
    }
    let appended = request.path?.strip_prefix(bayeux::ENDPOINT)?;
    if !["", "/", "/connect", "/handshake", "/disconnect"].contains(&appended) {
        return None;
    }
    let mut headers = HeaderMap::with_capacity(4);
    let mut length = None;
    let (mut has_type, mut is_json) = (false, false);
    for field in request.headers.iter() {
        let is = |name: &str| field.name.eq_ignore_ascii_case(name);
        if is("content-length") {
            let digits = std::str::from_utf8(field.value)
                .ok()
                .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
            if length.replace(digits.parse::<usize>().ok()?).is_some() {
                return None;
            }
        } else if is("content-type") {
            if std::mem::replace(&mut has_type, true) {
                return None;
            }
            let essence = field.value.split(|byte| *byte == b';').next().unwrap_or_default();
            is_json = essence.trim_ascii().eq_ignore_ascii_case(b"application/json");
        } else if let Some(name) = WANTED.into_iter().find(|name| is(name.as_str())) {
            let value = HeaderValue::from_bytes(field.value).ok()?;
            if headers.append(&name, value) && name == header::AUTHORIZATION {
                return None;
            }
        } else if is("connection") {
            if !field.value.trim_ascii().eq_ignore_ascii_case(b"keep-alive") {
                return None;
            }
        } else if !HARMLESS.iter().any(|name| is(name)) {
            return None;
        }
    }
    let length = length.filter(|length| *length <= limit && is_json)?;
    Some(Plain {
        headers,
        body,
        whole: body.checked_add(length)?,
        blocked: appended == "/handshake",
    })
}

/// Headers that say who it is.
const WANTED: [HeaderName; 3] = [header::AUTHORIZATION, header::COOKIE, FORWARDED_FOR];
/// Headers that change nothing here.
const HARMLESS: [&str; 9] = [
    "host",
    "user-agent",
    "accept",
    "accept-language",
    "accept-encoding",
    "content-language",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Reads until there are so many bytes. The length was declared by the client: room is made as bytes come.
async fn fill(connection: &Watched, bytes: &mut Vec<u8>, whole: usize) -> bool {
    let reading = async {
        while bytes.len() < whole {
            connection.stream().readable().await?;
            bytes.reserve((whole - bytes.len()).min(READ));
            match connection.stream().try_read_buf(bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok::<(), io::Error>(())
    };
    matches!(timeout(DEADLINE, reading).await, Ok(Ok(())))
}

/// A client that does not read holds nobody up for long when the house closes.
async fn too_late(stopped: &CancellationToken) {
    stopped.cancelled().await;
    tokio::time::sleep(LAST_WORD).await;
}

/// Waits until the client has closed or reset the connection.
async fn gone(connection: &Watched) {
    // All that had come was read: wait for what comes next. (A close that has come already is not forgotten by this.)
    let _ = connection
        .stream()
        .try_io(Interest::READABLE, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
    loop {
        if connection.stream().readable().await.is_err() {
            return;
        }
        match connection.stream().try_io(Interest::READABLE, || connection.peek(&mut [0])) {
            // The next request is there already; that it reads on is all that can be known now.
            Ok(read) if read > 0 => std::future::pending().await,
            Ok(_) => return,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Who the last request on a connection came from: believed for a moment when the next one brings the very same credentials.
struct Familiar {
    headers: HeaderMap,
    caller: Option<Caller>,
    until: Instant,
}

/// Checking a password again, though it was verified before, takes several hashes.
const FAMILIAR: Duration = Duration::from_secs(5);

struct Answer {
    status: u16,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Vec<u8>,
}

impl Answer {
    async fn refused(refused: Refused) -> Self {
        let (parts, body) = refused.into_response().into_parts();
        let headers = parts.headers.iter().filter(|(name, _)| **name == header::RETRY_AFTER);
        Self {
            status: parts.status.as_u16(),
            headers: headers.map(|(name, value)| (name.clone(), value.clone())).collect(),
            // It is a few bytes in memory.
            body: body.collect().await.map(|body| body.to_bytes().into()).unwrap_or_default(),
        }
    }

    fn into_bytes(self, is_last: bool) -> Vec<u8> {
        let reason = StatusCode::from_u16(self.status).ok().and_then(|status| status.canonical_reason());
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(clock::wall().0);
        let mut head = String::with_capacity(FIXED_HEAD + self.body.len());
        // Writing to a string never fails.
        let _ = write!(head, "HTTP/1.1 {} {}\r\n", self.status, reason.unwrap_or_default());
        let _ = write!(head, "content-type: application/json\r\ncontent-length: {}\r\n", self.body.len());
        for (name, value) in &HARDENED {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "x-accel-buffering: no\r\nvary: origin\r\ndate: {}\r\n", HttpDate::from(now));
        if is_last {
            head.push_str("connection: close\r\n");
        }
        let mut bytes = head.into_bytes();
        for (name, value) in &self.headers {
            for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
                bytes.extend_from_slice(part);
            }
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Somewhat more than the head of an answer without cookies.
const FIXED_HEAD: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn is_plain(text: &str) -> bool {
        plain(text.as_bytes(), 1_000).is_some()
    }

    #[test]
    fn a_poll_as_clients_send_it_is_plain() {
        let head = "POST /api/v2/notifications/connect HTTP/1.1\r\nHost: x\r\nAuthorization: Basic eA==\r\nCookie: a=b\r\nContent-Type: application/json;charset=UTF-8\r\nContent-Length: 2\r\nConnection: keep-alive\r\nAccept: */*\r\n\r\n";
        let found = plain(format!("{head}[]GET /").as_bytes(), 1_000).expect("plain");
        assert_eq!((found.body, found.whole), (head.len(), head.len() + 2));
        assert_eq!(found.headers.len(), 2);
        assert!(!found.blocked);
        assert!(is_plain(&head.replace("/connect", "")) && is_plain(&head.replace("/connect", "/")));
    }

    #[test]
    fn whatever_else_is_said_makes_it_the_librarys() {
        let head = "POST /api/v2/notifications HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n";
        assert!(is_plain(&format!("{head}\r\n[]")));
        for more in [
            "Content-Length: 2\r\n",
            "Content-Length: 3\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Expect: 100-continue\r\n",
            "Upgrade: websocket\r\n",
            "Connection: close\r\n",
            "Connection: keep-alive, upgrade\r\n",
            "Origin: https://evil\r\n",
            "Sec-Fetch-Site: cross-site\r\n",
            "X-Request-Id: 7\r\n",
            "X-CSRF-TOKEN: 7\r\n",
            "Content-Type: text/plain\r\n",
            "Authorization: Basic eA==\r\nAuthorization: Basic eB==\r\n",
            "Unknown: 7\r\n",
        ] {
            assert!(!is_plain(&format!("{head}{more}\r\n[]")), "{more}");
        }
        for text in [
            "",
            "P",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "GET /api/v2/notifications HTTP/1.1\r\n\r\n",
            "POST /api/v2/me HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
            "POST /api/v2/notifications?x HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
            "POST /api/v2/notifications HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
            "POST /api/v2/notifications HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n[]",
            "POST /api/v2/notifications HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]",
            "POST /api/v2/notifications HTTP/1.1\r\nContent-Type: application/json\r\n\r\n[]",
            "POST /api/v2/notifications HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: +2\r\n\r\n[]",
            "POST /api/v2/notifications HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 1001\r\n\r\n",
            "POST /api/v2/notifications HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "POST /api/v2/notifications HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length : 2\r\n\r\n[]",
        ] {
            assert!(!is_plain(text), "{text}");
        }
    }
}
