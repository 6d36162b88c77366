//! The fast path of polls: a plain `POST` to the event channel over HTTP/1.1 goes from its
//! connection to the service and back without the HTTP library and its layers, and holds no buffer
//! while it is held.
//!
//! ```text
//! connection ─▶ is it plain? ──yes──▶ login ─▶ service ─▶ answer, next request
//!                    │ no
//!                    └──▶ the HTTP library, with the bytes read so far, until the connection ends
//! ```
//!
//! Only what is understood completely is plain: anything else about a request, and it is the HTTP
//! library's, which knows better. The head is read by `httparse`, the library's own reader. Request
//! ids, lines in the log, limits, logins, proxies and the headers of every answer are those of the
//! ordinary way: [`super::layers`] has them, and a test compares the answers of both.
//!
//! What it brings, by `cargo bench --bench events -- --short` with 1,000 sessions that poll, with
//! it and without, the middle of three runs on a busy machine: the server's CPU time for an event
//! is 28 instead of 63 µs one-to-one, and 2.6 instead of 8.7 µs one-to-all; a session takes about
//! 35 KiB less memory while its connect is held.

use super::auth::{Auth, AuthenticatedUser, LoginRefused};
use super::delivery::{Answering, DeliveryTracker, PendingAnswer, TrackedConnection};
use super::error::HttpError;
use super::forwarded::{FORWARDED_FOR, Proxies};
use super::hosts::Hosts;
use super::layers::{RequestName, RequestTrace, record_user};
use super::response::{BufferedResponse, ResponseContext};
use crate::clock;
use crate::http::HttpConfig;
use crate::http::server::ConnectionUse as Connection;
use crate::model::UserId;
use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::time::{Sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

/// A service that polls ask: it takes whole requests, and answers them on their connection.
pub trait PollService: Clone + Send + Sync + 'static {
    /// The client of a request. That of the last request serves the next one with the same head.
    type Client: Clone + Send + Sync;

    /// Whether requests with this path are the service's.
    fn takes(&self, path: &str) -> bool;

    /// The largest body, in bytes.
    fn body_limit(&self) -> usize;

    /// The client of a request over HTTP/1.1; `caller`: its user, if it brought a login.
    fn client(
        &self,
        caller: Result<Option<AuthenticatedUser>, LoginRefused>,
        path: &str,
        headers: (&HeaderMap, IpAddr),
        tracker: DeliveryTracker,
    ) -> Self::Client;

    /// Hands a request in. Its answer, with these headers, is written to the connection by
    /// `DeliveryTracker::answer`.
    ///
    /// # Errors
    /// The answer, if there is one already.
    fn post(
        &self,
        client: Self::Client,
        body: &[u8],
        context: ResponseContext,
    ) -> Result<PendingAnswer, HttpError>;

    /// The body of an answer with 200 that says in the service's own words why a login was refused.
    ///
    /// # Errors
    /// The service has no words for it.
    fn refuse(&self, refused: HttpError, body: &[u8]) -> Result<String, HttpError>;

    /// The answer to a request of which a newer one has taken the place.
    fn superseded(&self) -> HttpError;
}

/// The fast path to one service. Cheap to clone.
#[derive(Clone)]
pub struct FastPath<S> {
    auth: Auth,
    service: S,
    proxies: Proxies,
    hosts: Hosts,
    idle: Duration,
}

/// What becomes of a connection.
pub(crate) enum Handling {
    /// It has ended.
    Over,
    /// The HTTP library takes it from here, beginning with these bytes.
    Library(TrackedConnection, Vec<u8>),
}

/// How long a client may take to send the rest of a request, and a kept connection may idle. When
/// it was held before, it is looked at only once in this time, and may idle for twice as long.
const DEADLINE: Duration = Duration::from_secs(75);
/// How long an answer may take once the server closes.
const LAST_WORD: Duration = Duration::from_secs(1);
/// Room for one read: a poll with its head.
const READ: usize = 2 * 1024;
/// A longer head is no plain one.
const HEAD: usize = 4 * 1024;
const HEADERS: usize = 32;
/// The only method of a plain request.
const METHOD: &str = "POST";

impl<S: PollService> FastPath<S> {
    pub(crate) fn new(auth: Auth, service: S, config: &HttpConfig) -> Self {
        let proxies = Proxies::new(&config.trusted_proxies);
        let hosts = Hosts::new(&config.hosts, &config.public_url);
        Self { auth, service, proxies, hosts, idle: DEADLINE }
    }

    /// With another deadline for the rest of a request, and for connections that idle.
    pub(crate) fn idling(self, idle: Duration) -> Self {
        Self { idle, ..self }
    }

    /// Serves plain requests, one after the other, until one is not or the connection is to be
    /// left.
    pub(crate) async fn serve(
        &self,
        mut connection: TrackedConnection,
        wire: &DeliveryTracker,
        peer: SocketAddr,
        visit: &Arc<Connection>,
    ) -> Handling {
        let stopped = visit.leave();
        let mut bytes = Vec::new();
        let mut familiar: Option<Box<CachedHead<S::Client>>> = None;
        let idle = tokio::time::sleep(self.idle);
        let ended = stopped.cancelled();
        tokio::pin!(idle, ended);
        let mut pause = Pause { longest: self.idle, idle, ended };
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
            let ended = self.auth.ended_so_far();
            familiar = familiar.filter(|familiar| {
                now < familiar.until && familiar.ended == ended && bytes.starts_with(&familiar.head)
            });
            let head = match &familiar {
                Some(familiar) => RequestHead::Familiar(familiar.client.clone()),
                None => {
                    match plain(&bytes, self.service.body_limit(), |path| self.service.takes(path))
                    {
                        Some(plain) if self.hosts.admit_field(plain.host.as_ref()) => {
                            RequestHead::New(plain)
                        }
                        Some(_) | None => return Handling::Library(connection, bytes),
                    }
                }
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
            let mut trace = match (&head, &familiar) {
                (RequestHead::Familiar(_), Some(familiar)) => {
                    RequestTrace::of_routine(METHOD, &familiar.path, &familiar.user)
                }
                (RequestHead::Familiar(_), None) => unreachable!("made from one above"),
                (RequestHead::New(plain), _) => {
                    RequestTrace::new(RequestName::random(), METHOD, &plain.path)
                }
            };
            let rest = bytes.split_off(whole);
            let sent = match self
                .ask(head, (body, bytes), (wire, peer), &mut familiar, &mut trace)
                .await
            {
                Ok(pending) => {
                    Ok(pause.until_answered(&connection, &pending, !rest.is_empty()).await)
                }
                Err(answer) => Err(answer),
            };
            let is_last = stopped.is_cancelled();
            let writing = async {
                let answer = match sent {
                    Ok(Answering::Done) => return Ok(()),
                    Ok(Answering::ToFlush) => return connection.flush().await,
                    Ok(Answering::Lost) => return Err(io::ErrorKind::BrokenPipe.into()),
                    Ok(Answering::Superseded) => {
                        BufferedResponse::refused(self.service.superseded()).await
                    }
                    Err(answer) => answer,
                };
                connection.write_all(&answer.into_bytes(&trace, is_last)).await
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

    /// Hands the request in, or has its answer at once. Nothing of the request's bytes is kept.
    async fn ask(
        &self,
        head: RequestHead<S::Client>,
        (body, bytes): (usize, Vec<u8>),
        (tracker, peer): (&DeliveryTracker, SocketAddr),
        familiar: &mut Option<Box<CachedHead<S::Client>>>,
        trace: &mut RequestTrace,
    ) -> Result<PendingAnswer, BufferedResponse> {
        let content = bytes.get(body..).unwrap_or_default();
        let identified = self
            .identify(head, (body, &bytes), (tracker, peer), familiar)
            .instrument(trace.span().clone());
        let identified = identified.await;
        trace.settle();
        let outcome = match identified {
            Ok((client, cookies)) => {
                let context = ResponseContext { trace: trace.clone(), cookies };
                self.service.post(client, content, context).map_err(Err)
            }
            // A login that cannot be checked now is refused in the service's words.
            Err(refused) => Err(self.service.refuse(refused, content)),
        };
        match outcome {
            Ok(pending) => Ok(pending),
            Err(Ok(body)) => {
                Err(BufferedResponse { status: 200, headers: Vec::new(), body: body.into_bytes() })
            }
            Err(Err(refused)) => Err(BufferedResponse::refused(refused).await),
        }
    }

    /// The client of a request, and its new cookies.
    async fn identify(
        &self,
        head: RequestHead<S::Client>,
        (body, bytes): (usize, &[u8]),
        (tracker, peer): (&DeliveryTracker, SocketAddr),
        familiar: &mut Option<Box<CachedHead<S::Client>>>,
    ) -> Result<(S::Client, Vec<HeaderValue>), HttpError> {
        let plain = match head {
            RequestHead::Familiar(client) => return Ok((client, Vec::new())),
            RequestHead::New(plain) => plain,
        };
        let address = self.proxies.client_of(peer.ip(), &plain.headers);
        let ended = self.auth.ended_so_far();
        let client = |caller| {
            self.service.client(caller, &plain.path, (&plain.headers, address), tracker.clone())
        };
        match self.auth.identify(&plain.headers, address).await {
            Ok((caller, cookies)) => {
                let known = caller.as_ref().map(|caller| {
                    record_user(&Span::current(), &caller.user);
                    (caller.user.clone(), caller.until.min(clock::instant() + FAMILIAR))
                });
                let is_dead = caller.is_none() && Auth::has_cookie_alone(&plain.headers);
                let client = client(if is_dead { Err(LoginRefused) } else { Ok(caller) });
                *familiar = known.map(|(user, until)| {
                    Box::new(CachedHead {
                        head: bytes.get(..body).unwrap_or_default().into(),
                        whole: plain.whole,
                        client: client.clone(),
                        user,
                        path: plain.path.as_str().into(),
                        until,
                        ended,
                    })
                });
                Ok((client, self.auth.cookie_lines(&cookies)))
            }
            // A handshake without a user is denied in the service's words.
            Err(refused) if refused.is_access_denied() => {
                Ok((client(Err(LoginRefused)), Vec::new()))
            }
            Err(refused) => Err(refused),
        }
    }
}

/// What a connection waits with: how long it may idle, and whether the server closes.
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
            let deadline = *deadline
                .get_or_insert_with(|| tokio::time::Instant::from(clock::instant()) + self.longest);
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

    /// What becomes of the request. An answer that leaves wakes nobody here: it shows when the next
    /// request comes, or when there has been nothing for a while. `sees_more`: the next request is
    /// here already.
    async fn until_answered(
        &mut self,
        connection: &TrackedConnection,
        answer: &PendingAnswer,
        mut sees_more: bool,
    ) -> Answering {
        poll_fn(|context| {
            let answering = connection.poll_delivery(answer, &mut sees_more, context);
            if answering.is_ready() {
                return answering;
            }
            while self.idle.as_mut().poll(context).is_ready() {
                self.idle
                    .as_mut()
                    .reset(tokio::time::Instant::from(clock::instant()) + self.longest);
            }
            // The connection is closed as soon as it is answered.
            if !sees_more && self.ended.as_mut().poll(context).is_ready() {
                sees_more = true;
                return connection.poll_delivery(answer, &mut sees_more, context);
            }
            Poll::Pending
        })
        .await
    }
}

/// What a request's first lines say.
enum RequestHead<C> {
    /// To be looked at.
    New(Plain),
    /// The same, to the letter, as those of the last request on this connection.
    Familiar(C),
}

/// The last request on a connection: believed for a moment to be of the same client when the next
/// one begins with the very same bytes.
struct CachedHead<C> {
    head: Box<[u8]>,
    whole: usize,
    client: C,
    user: UserId,
    path: Box<str>,
    until: Instant,
    /// Logins that had ended by then; after one more it is not believed.
    ended: u64,
}

/// Reading a head and checking its password again, though it was verified before, takes several
/// hashes and many allocations.
const FAMILIAR: Duration = Duration::from_secs(5);

/// A request that is understood completely.
struct Plain {
    /// What the login wants to see.
    headers: HeaderMap,
    /// Where the body begins.
    body: usize,
    /// Where the request ends.
    whole: usize,
    path: String,
    host: Option<HeaderValue>,
}

fn plain(bytes: &[u8], limit: usize, takes: impl Fn(&str) -> bool) -> Option<Plain> {
    let mut fields = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut fields);
    let Ok(httparse::Status::Complete(body)) = request.parse(bytes.get(..bytes.len().min(HEAD))?)
    else {
        return None;
    };
    if request.method != Some(METHOD) || request.version != Some(1) {
        return None;
    }
    let path = request.path.filter(|path| takes(path))?;
    let mut headers = HeaderMap::with_capacity(4);
    let (mut length, mut host) = (None, None);
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
        } else if is("host") {
            if host.replace(HeaderValue::from_bytes(field.value).ok()?).is_some() {
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
    Some(Plain { headers, body, whole: body.checked_add(length)?, path: path.to_owned(), host })
}

/// Headers that the login is read from.
const WANTED: [HeaderName; 3] = [header::AUTHORIZATION, header::COOKIE, FORWARDED_FOR];
/// Headers that change nothing here.
const HARMLESS: [&str; 8] = [
    "user-agent",
    "accept",
    "accept-language",
    "accept-encoding",
    "content-language",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Reads until there are so many bytes. The length was declared by the client: room is made as
/// bytes come.
async fn fill(
    connection: &TrackedConnection,
    bytes: &mut Vec<u8>,
    whole: usize,
    within: Duration,
) -> bool {
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

/// A client that does not read holds nobody up for long when the server closes.
async fn too_late(stopped: &CancellationToken) {
    stopped.cancelled().await;
    tokio::time::sleep(LAST_WORD).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_plain(text: &str) -> bool {
        plain(text.as_bytes(), 1_000, takes).is_some()
    }

    fn takes(path: &str) -> bool {
        ["", "/", "/connect"]
            .map(|appended| format!("/api/v2/notifications{appended}"))
            .contains(&path.to_owned())
    }

    #[test]
    fn a_poll_as_clients_send_it_is_plain() {
        let head = "POST /api/v2/notifications/connect HTTP/1.1\r\nHost: x\r\n\
                    Authorization: Basic eA==\r\nCookie: a=b\r\n\
                    Content-Type: application/json;charset=UTF-8\r\nContent-Length: 2\r\n\
                    Connection: keep-alive\r\nAccept: */*\r\n\r\n";
        let found = plain(format!("{head}[]GET /").as_bytes(), 1_000, takes).expect("plain");
        assert_eq!((found.body, found.whole), (head.len(), head.len() + 2));
        assert_eq!(found.headers.len(), 2);
        assert_eq!(found.path, "/api/v2/notifications/connect");
        assert!(
            is_plain(&head.replace("/connect", "")) && is_plain(&head.replace("/connect", "/"))
        );
    }

    #[test]
    fn whatever_else_is_said_makes_it_the_librarys() {
        let head = "POST /api/v2/notifications HTTP/1.1\r\nContent-Type: application/json\r\n\
                    Content-Length: 2\r\n";
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
            "POST /api/v2/me HTTP/1.1\r\nContent-Type: application/json\r\n\
             Content-Length: 2\r\n\r\n[]",
            "POST /api/v2/notifications?x HTTP/1.1\r\nContent-Type: application/json\r\n\
             Content-Length: 2\r\n\r\n[]",
            "POST /api/v2/notifications HTTP/1.0\r\nContent-Type: application/json\r\n\
             Content-Length: 2\r\n\r\n[]",
            "POST /api/v2/notifications HTTP/1.1\r\nContent-Type: text/plain\r\n\
             Content-Length: 2\r\n\r\n[]",
            "POST /api/v2/notifications HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]",
            "POST /api/v2/notifications HTTP/1.1\r\nContent-Type: application/json\r\n\r\n[]",
            "POST /api/v2/notifications HTTP/1.1\r\nContent-Type: application/json\r\n\
             Content-Length: +2\r\n\r\n[]",
            "POST /api/v2/notifications HTTP/1.1\r\nContent-Type: application/json\r\n\
             Content-Length: 1001\r\n\r\n",
            "POST /api/v2/notifications HTTP/1.1\r\nContent-Type: application/json\r\n\
             Content-Length: 99999999999999999999\r\n\r\n",
            "POST /api/v2/notifications HTTP/1.1\r\nContent-Type: application/json\r\n\
             Content-Length : 2\r\n\r\n[]",
        ] {
            assert!(!is_plain(text), "{text}");
        }
    }
}
