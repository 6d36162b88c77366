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
use super::delivery::{Delivery, DeliveryTracker, TrackedConnection};
use super::forwarded::{FORWARDED_FOR, Proxies};
use super::response::BufferedResponse;
use crate::clock;
use crate::cometd::long_polling::{self as bayeux, Cometd, Report, RequestContext};
use crate::cometd::message::{self, ClientMessage};
use crate::http::server::ConnectionUse as Connection;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::time::{Sleep, timeout};
use tokio_util::sync::CancellationToken;

/// What the short way needs. Cheap to clone.
#[derive(Clone)]
pub struct FastPath {
    auth: Auth,
    bayeux: Cometd,
    proxies: Proxies,
    idle: Duration,
}

/// What becomes of a connection.
pub(crate) enum Handling {
    /// It has ended.
    Over,
    /// The HTTP library takes it from here, beginning with these bytes.
    Library(TrackedConnection, Vec<u8>),
}

/// How long a client may take to send the rest of a request, and a kept connection may idle. When it was held before, it is looked at
/// only once in this time, and may idle for twice as long.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long an answer may take once the house closes.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Room for one read: a poll with its head.
const READ: usize = 2 * 1024;
/// A longer head is no plain one.
const HEAD: usize = 4 * 1024;
const HEADERS: usize = 32;

impl FastPath {
    pub(crate) fn new(auth: Auth, bayeux: Cometd, proxies: Proxies) -> Self {
        Self {
            auth,
            bayeux,
            proxies,
            idle: DEADLINE,
        }
    }

    /// With another deadline for the rest of a request, and for connections that idle.
    pub(crate) fn idling(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    /// Serves plain requests, one after the other, until one is not or the connection is to be left.
    pub(crate) async fn serve(
        &self,
        mut connection: TrackedConnection,
        wire: &DeliveryTracker,
        peer: SocketAddr,
        visit: &Arc<Connection>,
    ) -> Handling {
        let stopped = visit.leave();
        let mut bytes = Vec::new();
        let mut familiar: Option<Box<CachedHead>> = None;
        let idle = tokio::time::sleep(self.idle);
        let ended = stopped.cancelled();
        tokio::pin!(idle, ended);
        let mut pause = Pause {
            longest: self.idle,
            idle,
            ended,
        };
        loop {
            if bytes.is_empty() {
                if !pause.until_readable(&connection).await {
                    return Handling::Over;
                }
                match connection.read(&mut bytes, &mut [0; READ]) {
                    Ok(0) => return Handling::Over,
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                    Err(_) => return Handling::Over,
                }
            }
            let now = clock::instant();
            familiar = familiar.filter(|familiar| now < familiar.until && bytes.starts_with(&familiar.head));
            let head = match &familiar {
                Some(familiar) => RequestHead::Familiar(familiar.visit.clone()),
                None => match plain(&bytes, self.bayeux.body_limit()) {
                    Some(plain) => RequestHead::New(plain),
                    None => return Handling::Library(connection, bytes),
                },
            };
            let (body, whole) = match (&head, &familiar) {
                (RequestHead::New(plain), _) => (plain.body, plain.whole),
                (RequestHead::Familiar(_), Some(familiar)) => (familiar.head.len(), familiar.whole),
                (RequestHead::Familiar(_), None) => unreachable!("made from one above"),
            };
            if bytes.len() < whole {
                let is_whole = tokio::select! {
                    is_whole = fill(&connection, &mut bytes, whole, self.idle) => is_whole,
                    () = stopped.cancelled() => false,
                };
                if !is_whole {
                    return Handling::Over;
                }
            }
            let _busy = visit.begin();
            let rest = bytes.split_off(whole);
            let sent = match self.ask(head, (body, bytes), (wire, peer), &mut familiar).await {
                Ok((visit, messages, cookie)) => match bayeux::send(&self.bayeux, visit, messages, cookie) {
                    Ok(report) => Ok(pause.until_answered(&connection, &report, !rest.is_empty()).await),
                    Err(refused) => Err(BufferedResponse::refused(refused).await),
                },
                Err(answer) => Err(answer),
            };
            let is_last = stopped.is_cancelled();
            let writing = async {
                let answer = match sent {
                    Ok(Delivery::Answered) => return Ok(()),
                    Ok(Delivery::Written) => return connection.flush().await,
                    Ok(Delivery::Lost) => return Err(io::ErrorKind::BrokenPipe.into()),
                    Ok(Delivery::Overtaken) => BufferedResponse::refused(bayeux::overtaken()).await,
                    Err(answer) => answer,
                };
                connection.write_all(&answer.into_bytes(is_last)).await
            };
            let written = tokio::select! {
                biased;
                written = writing => written.is_ok(),
                () = too_late(stopped) => false,
            };
            if !written || is_last || wire.has_ended() {
                return Handling::Over;
            }
            bytes = rest;
        }
    }

    /// Who asks what; or what he is told at once. Nothing of the request's bytes is kept.
    async fn ask(
        &self,
        head: RequestHead,
        (body, bytes): (usize, Vec<u8>),
        (wire, peer): (&DeliveryTracker, SocketAddr),
        familiar: &mut Option<Box<CachedHead>>,
    ) -> Result<(RequestContext, Vec<ClientMessage>, Option<HeaderValue>), BufferedResponse> {
        let identified = match head {
            RequestHead::Familiar(visit) => Ok((visit, None)),
            RequestHead::New(plain) => {
                let address = self.proxies.client_of(peer.ip(), &plain.headers);
                match self.auth.identify(&plain.headers, address).await {
                    Ok((caller, cookie)) => {
                        let known_until = caller.as_ref().map(|caller| caller.until.min(clock::instant() + FAMILIAR));
                        let visit = RequestContext::new(caller, &plain.headers, address, wire.clone(), plain.blocked);
                        *familiar = known_until.map(|until| {
                            Box::new(CachedHead {
                                head: bytes.get(..body).unwrap_or_default().into(),
                                whole: plain.whole,
                                visit: visit.clone(),
                                until,
                            })
                        });
                        Ok((visit, cookie.and_then(|cookie| self.auth.cookie_line(&cookie))))
                    }
                    // A handshake of nobody is denied in CometD's words.
                    Err(refused) if refused.is_access_denied() => Ok((
                        RequestContext::new(None, &plain.headers, address, wire.clone(), plain.blocked),
                        None,
                    )),
                    Err(refused) => Err(refused),
                }
            }
        };
        let messages = match message::parse(bytes.get(body..).unwrap_or_default(), self.bayeux.max_messages()) {
            Ok(messages) => messages,
            Err(error) => return Err(BufferedResponse::refused(bayeux::malformed(error)).await),
        };
        match identified {
            Ok((visit, cookie)) => Ok((visit, messages, cookie)),
            // So is one whose login cannot be checked now.
            Err(refused) if refused.come_again().is_some() => Err(BufferedResponse {
                status: 200,
                headers: Vec::new(),
                body: bayeux::not_now_body(&refused, messages).into_bytes(),
            }),
            Err(refused) => Err(BufferedResponse::refused(refused).await),
        }
    }
}

/// What a connection waits with: how long it may idle, and whether the house closes.
struct Pause<'a, Ended> {
    longest: Duration,
    /// Moved on only when it comes, not with each request.
    idle: Pin<&'a mut Sleep>,
    ended: Pin<&'a mut Ended>,
}

impl<Ended: Future<Output = ()>> Pause<'_, Ended> {
    /// False: nothing has come for too long, or nothing more is wanted.
    async fn until_readable(&mut self, connection: &TrackedConnection) -> bool {
        let mut deadline = None;
        poll_fn(|context| {
            if let Poll::Ready(readable) = connection.poll_readable(context) {
                return Poll::Ready(readable.is_ok());
            }
            let deadline = *deadline.get_or_insert_with(|| tokio::time::Instant::from(clock::instant()) + self.longest);
            while self.idle.as_mut().poll(context).is_ready() {
                if self.idle.deadline() >= deadline {
                    return Poll::Ready(false);
                }
                self.idle.as_mut().reset(deadline);
            }
            self.ended.as_mut().poll(context).map(|()| false)
        })
        .await
    }

    /// What becomes of the request. An answer that leaves wakes nobody here: it shows when the next request comes, or when there has
    /// been nothing for a while.
    /// `sees_more`: the next request is here already.
    async fn until_answered(&mut self, connection: &TrackedConnection, report: &Report, mut sees_more: bool) -> Delivery {
        poll_fn(|context| {
            let fate = report.poll_delivery(connection, &mut sees_more, context);
            if fate.is_ready() {
                return fate;
            }
            while self.idle.as_mut().poll(context).is_ready() {
                self.idle
                    .as_mut()
                    .reset(tokio::time::Instant::from(clock::instant()) + self.longest);
            }
            // The connection is closed as soon as it is answered.
            if !sees_more && self.ended.as_mut().poll(context).is_ready() {
                sees_more = true;
                return report.poll_delivery(connection, &mut sees_more, context);
            }
            Poll::Pending
        })
        .await
    }
}

/// What a request's first lines say.
enum RequestHead {
    /// To be looked at.
    New(Plain),
    /// The same, to the letter, as those of the last request on this connection.
    Familiar(RequestContext),
}

/// The last request on a connection: believed for a moment to be of the same client when the next one begins with the very same bytes.
struct CachedHead {
    head: Box<[u8]>,
    whole: usize,
    visit: RequestContext,
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
async fn fill(connection: &TrackedConnection, bytes: &mut Vec<u8>, whole: usize, within: Duration) -> bool {
    let reading = async {
        while bytes.len() < whole {
            poll_fn(|context| connection.poll_readable(context)).await?;
            match connection.read(bytes, &mut [0; READ]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok::<(), io::Error>(())
    };
    matches!(timeout(within, reading).await, Ok(Ok(())))
}

/// A client that does not read holds nobody up for long when the house closes.
async fn too_late(stopped: &CancellationToken) {
    stopped.cancelled().await;
    tokio::time::sleep(LAST_WORD).await;
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
