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

use super::auth::Auth;
use super::bayeux::http::{self as bayeux, Bayeux, Visit};
use super::bayeux::message::{self, Incoming};
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
use std::sync::OnceLock;
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
        let mut familiar: Option<Box<Familiar>> = None;
        loop {
            if bytes.is_empty() {
                let readable = timeout(DEADLINE, connection.stream().readable());
                tokio::select! {
                    biased;
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
            let now = clock::instant();
            familiar = familiar.filter(|familiar| now < familiar.until && bytes.starts_with(&familiar.head));
            let head = match &familiar {
                Some(familiar) => Head::Familiar(familiar.visit.clone()),
                None => match plain(&bytes, self.bayeux.body_limit()) {
                    Some(plain) => Head::New(plain),
                    None => return Course::Library(connection, bytes),
                },
            };
            let (body, whole) = match (&head, &familiar) {
                (Head::New(plain), _) => (plain.body, plain.whole),
                (Head::Familiar(_), Some(familiar)) => (familiar.head.len(), familiar.whole),
                (Head::Familiar(_), None) => unreachable!("made from one above"),
            };
            if bytes.len() < whole {
                let is_whole = tokio::select! {
                    is_whole = fill(&connection, &mut bytes, whole) => is_whole,
                    () = stopped.cancelled() => false,
                };
                if !is_whole {
                    return Course::Over;
                }
            }
            let rest = bytes.split_off(whole);
            let answer = match self.ask(head, (body, bytes), (wire, peer), &mut familiar).await {
                Ok((visit, messages, cookie)) => self.answer(&connection, visit, messages, cookie).await,
                Err(answer) => Some(answer),
            };
            let Some(answer) = answer else { return Course::Over };
            let is_last = stopped.is_cancelled();
            let answer = answer.into_bytes(is_last);
            let written = tokio::select! {
                biased;
                written = connection.write_all(&answer) => written.is_ok(),
                () = too_late(stopped) => false,
            };
            if !written || is_last {
                return Course::Over;
            }
            bytes = rest;
        }
    }

    /// Who asks what; or what he is told at once. Nothing of the request's bytes is kept.
    async fn ask(
        &self,
        head: Head,
        (body, bytes): (usize, Vec<u8>),
        (wire, peer): (&Wire, SocketAddr),
        familiar: &mut Option<Box<Familiar>>,
    ) -> Result<(Visit, Vec<Incoming>, Option<HeaderValue>), Answer> {
        let identified = match head {
            Head::Familiar(visit) => Ok((visit, None)),
            Head::New(plain) => {
                let address = self.proxies.client_of(peer.ip(), &plain.headers);
                match self.auth.identify(&plain.headers, address).await {
                    Ok((caller, cookie)) => {
                        let known_until = caller.as_ref().map(|caller| caller.until.min(clock::instant() + FAMILIAR));
                        let visit = Visit::new(caller, &plain.headers, address, wire.clone(), plain.blocked);
                        *familiar = known_until.map(|until| {
                            Box::new(Familiar {
                                head: bytes.get(..body).unwrap_or_default().into(),
                                whole: plain.whole,
                                visit: visit.clone(),
                                until,
                            })
                        });
                        Ok((visit, cookie.and_then(|cookie| self.auth.cookie_line(&cookie))))
                    }
                    // A handshake of nobody is denied in CometD's words.
                    Err(refused) if refused.is_access_denied() => {
                        Ok((Visit::new(None, &plain.headers, address, wire.clone(), plain.blocked), None))
                    }
                    Err(refused) => Err(refused),
                }
            }
        };
        let messages = match message::parse(bytes.get(body..).unwrap_or_default(), self.bayeux.max_messages()) {
            Ok(messages) => messages,
            Err(error) => return Err(Answer::refused(bayeux::malformed(error)).await),
        };
        match identified {
            Ok((visit, cookie)) => Ok((visit, messages, cookie)),
            // So is one whose login cannot be checked now.
            Err(refused) if refused.come_again().is_some() => Err(Answer {
                status: 200,
                headers: Vec::new(),
                body: bayeux::not_now_body(&refused, messages).into_bytes(),
            }),
            Err(refused) => Err(Answer::refused(refused).await),
        }
    }

    /// `None`: the client has gone, and what it would have been told waits for it.
    async fn answer(
        &self,
        connection: &Watched,
        visit: Visit,
        messages: Vec<Incoming>,
        login_cookie: Option<HeaderValue>,
    ) -> Option<Answer> {
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
        let cookies = login_cookie.into_iter().chain(browser_cookie);
        report.taken().then(|| Answer {
            status: 200,
            headers: cookies.map(|cookie| (header::SET_COOKIE, cookie)).collect(),
            body: body.into_bytes(),
        })
    }
}

/// What a request's first lines say.
enum Head {
    /// To be looked at.
    New(Plain),
    /// The same, to the letter, as those of the last request on this connection.
    Familiar(Visit),
}

/// The last request on a connection: believed for a moment to be of the same client when the next one begins with the very same bytes.
struct Familiar {
    head: Box<[u8]>,
    whole: usize,
    visit: Visit,
    until: Instant,
}

/// Reading a head and checking its password again, though it was verified before, takes several hashes and many allocations.
const FAMILIAR: Duration = Duration::from_secs(5);

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
        let now = SystemTime::UNIX_EPOCH + Duration::from_millis(clock::wall().0);
        let mut head = String::with_capacity(HEAD_ROOM + self.body.len());
        // Writing to a string never fails.
        let _ = match self.status {
            200 => head.write_str("HTTP/1.1 200 OK\r\n"),
            status => {
                let reason = StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
                write!(head, "HTTP/1.1 {status} {}\r\n", reason.unwrap_or_default())
            }
        };
        head.push_str(fixed_lines());
        let _ = write!(head, "date: {}\r\ncontent-length: {}\r\n", HttpDate::from(now), self.body.len());
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
const HEAD_ROOM: usize = 512;

/// The lines that every answer has.
fn fixed_lines() -> &'static str {
    static LINES: OnceLock<String> = OnceLock::new();
    LINES.get_or_init(|| {
        let mut lines = "content-type: application/json\r\n".to_owned();
        for (name, value) in &HARDENED {
            let _ = write!(lines, "{name}: {value}\r\n");
        }
        lines + "x-accel-buffering: no\r\nvary: origin\r\n"
    })
}

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
