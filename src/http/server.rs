//! Every TCP door but SIP's: one accept loop, bounds for the clients that come in, and HTTP on
//! their connections.
//!
//! ```text
//! accept ─▶ Occupancy: is there a place? ─▶ a task per connection ─▶ the HTTP library
//!    ▲            │ no: closed, or another one's       │ long idle, or its place is needed
//!    └─ pause ◀── an error                             └─▶ told to go, closed
//! ```
//!
//! A connection costs a place as long as it is open. What it may make the HTTP library remember is
//! bounded by [`ConnectionLimits::streams`] and the windows below, so that memory is bounded by the
//! number of places. What it may make it do without asking anything is bounded by `frame_meter`.

mod frame_meter;
mod metered;
mod occupancy;

use super::delivery::TrackedConnection;
use crate::model::{Network, config_value};
use crate::rate_limit::back_off;
use crate::tls::{Handshake, PeerCertificates, ServerTls};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{ConnectInfo, Request};
use axum::http::Method;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use metered::Metered;
pub(super) use occupancy::ClientNetwork;
use occupancy::{AdmissionError, Entrance, Occupancy, Ticket};
use serde::Deserialize;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

/// How long a connection may take to go that was told to.
const FAREWELL: Duration = Duration::from_secs(1);
/// Pauses after failed accepts, most likely for want of file descriptors: the first, doubled each
/// time, and the longest.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Bytes of a request's body, and of all on one connection, that a client may send before they are
/// read (RFC 9113 6.9).
const STREAM_WINDOW: u32 = 64 * 1024 - 1;
const CONNECTION_WINDOW: u32 = 256 * 1024;
/// Bytes of an answer that wait for a client to read.
const SEND_BUFFER: usize = 64 * 1024;
/// Bytes of a head over HTTP/1.1.
const HEAD: usize = 64 * 1024;
/// Streams that a client has broken the rules with, and those that it has reset before they were
/// looked at (CVE-2023-44487), before its connection is closed.
const BROKEN_STREAMS: usize = 64;
const UNSEEN_STREAMS: usize = 20;
/// Bytes of a head over HTTP/2. CONTINUATION frames of one head are few accordingly.
const HEADER_LIST: u32 = 16 * 1024;
/// How long a client over HTTP/2 may take to answer a PING.
const PING_ANSWER: Duration = Duration::from_secs(20);

/// What a door allows.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConnectionLimits {
    /// Its name in the log and the metrics.
    #[serde(skip)]
    pub name: &'static str,
    /// Connections at once of all strangers together.
    #[serde(deserialize_with = "config_value::nonzero")]
    pub connections: usize,
    /// Connections at once from one address, or one network of IPv6 (/64).
    #[serde(deserialize_with = "config_value::nonzero")]
    pub connections_per_address: usize,
    /// Addresses, or networks of them, with connections that have places of their own, as many for
    /// each address as there are for all strangers together.
    pub peers: Vec<Network>,
    /// Requests under way at once on one connection over HTTP/2.
    #[serde(deserialize_with = "config_value::nonzero")]
    pub streams: u32,
    /// How long a connection may be open without a request, and the head of a request may take.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub idle: Duration,
    /// When all places are taken, an address with fewer connections gets the place of one with
    /// more, though a request is under way there.
    #[serde(skip)]
    pub is_shared_fairly: bool,
    /// Nothing but HTTP/2 is spoken.
    #[serde(skip)]
    pub is_http2_only: bool,
}

impl Default for ConnectionLimits {
    /// Of REST and CometD.
    fn default() -> Self {
        Self {
            name: "rest",
            connections: 50_000,
            connections_per_address: 20_000,
            peers: Vec::new(),
            streams: 100,
            idle: Duration::from_secs(75),
            is_shared_fairly: false,
            is_http2_only: false,
        }
    }
}

/// What is known of one connection.
#[derive(Debug)]
pub struct ConnectionUse {
    /// Requests under way.
    active: AtomicUsize,
    /// Requests that began and requests that ended, so far.
    changes: AtomicU64,
    leave: CancellationToken,
    closing: CancellationToken,
}

impl ConnectionUse {
    fn new(closing: &CancellationToken) -> Self {
        Self {
            active: AtomicUsize::new(0),
            changes: AtomicU64::new(0),
            leave: closing.child_token(),
            closing: closing.clone(),
        }
    }

    /// A request is under way until the guard is dropped.
    pub fn begin(self: &Arc<Self>) -> RequestGuard {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.changes.fetch_add(1, Ordering::Relaxed);
        RequestGuard(self.clone())
    }

    /// Cancelled when the connection is to be closed after the answers under way.
    pub fn leave(&self) -> &CancellationToken {
        &self.leave
    }

    fn is_idle(&self) -> bool {
        self.active.load(Ordering::Acquire) == 0
    }
}

/// A request under way.
#[derive(Debug)]
pub struct RequestGuard(Arc<ConnectionUse>);

impl RequestGuard {
    /// It never ends before its connection does.
    fn forever(self) {
        self.0.active.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        // In this order: a connection that looks idle has its last change counted.
        self.0.changes.fetch_add(1, Ordering::Relaxed);
        self.0.active.fetch_sub(1, Ordering::Release);
    }
}

type Places = Arc<Mutex<Occupancy<Arc<ConnectionUse>>>>;

/// A place among the connections; free again when it is dropped.
#[derive(Debug)]
pub struct ConnectionPermit {
    places: Places,
    ticket: Ticket,
    name: &'static str,
    visit: Arc<ConnectionUse>,
}

impl ConnectionPermit {
    /// The connection that has it.
    pub fn visit(&self) -> &Arc<ConnectionUse> {
        &self.visit
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        let taken = {
            let mut places = lock(&self.places);
            places.leave(self.ticket);
            places.taken()
        };
        metrics::gauge!("undertone_connections", "door" => self.name).set(taken as f64);
    }
}

/// A lock that another thread died with holds data that is still whole.
fn lock(places: &Places) -> MutexGuard<'_, Occupancy<Arc<ConnectionUse>>> {
    places.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where connections come from.
pub trait Accept: Send {
    /// The next one.
    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send;
}

impl Accept for TcpListener {
    fn accept(&mut self) -> impl Future<Output = io::Result<(TcpStream, SocketAddr)>> + Send {
        TcpListener::accept(self)
    }
}

/// Lets connections in until `stopped` comes, each to a task of its own; then tells them to go, and
/// returns when the last one has.
pub async fn receive<F>(
    mut listener: impl Accept,
    limits: &ConnectionLimits,
    stopped: impl Future<Output = ()>,
    serve: impl Fn(TcpStream, SocketAddr, ConnectionPermit) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let closing = CancellationToken::new();
    let places = Arc::new(Mutex::new(Occupancy::new(limits)));
    let visitors = TaskTracker::new();
    let mut failures = AcceptFailures::default();
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut stopped => break,
        };
        let (stream, peer) = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                tokio::select! {
                    () = sleep(failures.pause(limits.name, &error)) => continue,
                    () = &mut stopped => break,
                }
            }
        };
        failures.over(limits.name);
        if let Some(place) = take_place(&places, limits.name, peer.ip(), &closing) {
            // Answers are small and waited for; a socket that refuses this serves all the same.
            let _ = stream.set_nodelay(true);
            visitors.spawn(serve(stream, peer, place));
        }
    }
    drop(listener);
    closing.cancel();
    visitors.close();
    visitors.wait().await;
}

fn take_place(
    places: &Places,
    name: &'static str,
    address: IpAddr,
    closing: &CancellationToken,
) -> Option<ConnectionPermit> {
    let visit = Arc::new(ConnectionUse::new(closing));
    let (entrance, taken) = {
        let mut all = lock(places);
        (all.enter(address, visit.clone(), |visit| visit.is_idle()), all.taken())
    };
    let ticket = match entrance {
        Entrance::Free(ticket) => ticket,
        Entrance::InsteadOf(ticket, other) => {
            metrics::counter!("undertone_connections_displaced_total", "door" => name).increment(1);
            other.leave.cancel();
            ticket
        }
        Entrance::Refused(why) => {
            let reason = match why {
                AdmissionError::Address => "address",
                AdmissionError::Full => "full",
            };
            let labels = [("door", name), ("reason", reason)];
            metrics::counter!("undertone_connections_refused_total", &labels).increment(1);
            tracing::debug!(door = name, %address, reason, "a connection is refused");
            return None;
        }
    };
    metrics::gauge!("undertone_connections", "door" => name).set(taken as f64);
    Some(ConnectionPermit { places: places.clone(), ticket, name, visit })
}

/// Accepts that have failed in a row.
#[derive(Debug, Default)]
struct AcceptFailures(u32);

impl AcceptFailures {
    fn pause(&mut self, name: &'static str, error: &io::Error) -> Duration {
        if self.0 == 0 {
            tracing::warn!(door = name, %error, "connections can not be accepted");
        }
        metrics::counter!("undertone_accept_errors_total", "door" => name).increment(1);
        let (first, longest) = ACCEPT_PAUSE;
        let pause = back_off(first, self.0, longest);
        self.0 = self.0.saturating_add(1);
        pause
    }

    fn over(&mut self, name: &'static str) {
        if self.0 > 0 {
            tracing::info!(door = name, failures = self.0, "connections are accepted again");
            self.0 = 0;
        }
    }
}

/// Where a server's clients come in.
pub struct Door {
    /// The port.
    pub listener: TcpListener,
    /// What it allows.
    pub limits: ConnectionLimits,
    /// What it presents; without, it speaks in clear.
    pub tls: Option<Arc<ServerTls>>,
}

/// Serves a router until `stopped` comes; then finishes the answers under way.
pub async fn serve(
    Door { listener, limits, tls }: Door,
    router: Router,
    stopped: impl Future<Output = ()>,
) {
    let library = Arc::new(HttpLibrary::new(&limits));
    receive(listener, &limits, stopped, |stream, peer, place| {
        let (library, router, tls) = (library.clone(), router.clone(), tls.clone());
        async move {
            let tracked = match tls {
                None => Some((TrackedConnection::new(stream).0, None, None)),
                Some(tls) => shake_hands(&tls, stream, place.visit()).await.map(|handshake| {
                    let certificates = handshake.session.peer_certificates();
                    let vouching = tls.vouching(certificates);
                    let owned = certificates.map(|chain| {
                        let chain = chain.iter().map(|one| one.clone().into_owned());
                        PeerCertificates(Arc::new(chain.collect()))
                    });
                    (TrackedConnection::sealed(handshake).0, owned, Some(vouching))
                }),
            };
            let Some((connection, certificates, vouching)) = tracked else {
                return;
            };
            // The library's state is large.
            let serving =
                Box::pin(library.serve(connection, router, place.visit(), move |request| {
                    request.extensions_mut().insert(ConnectInfo(peer));
                    if let Some(certificates) = &certificates {
                        request.extensions_mut().insert(certificates.clone());
                    }
                }));
            let expelled = async {
                match vouching {
                    Some(vouching) => vouching.ended().await,
                    None => std::future::pending().await,
                }
            };
            // Nothing more is read of a client that nobody vouches for.
            tokio::select! {
                biased;
                () = expelled => {}
                () = serving => {}
            }
        }
    })
    .await;
}

/// `None`: the client could not, or its place was needed by another.
pub(super) async fn shake_hands(
    tls: &ServerTls,
    stream: TcpStream,
    visit: &ConnectionUse,
) -> Option<Handshake> {
    tokio::select! {
        handshake = tls.accept(stream) => handshake,
        () = visit.leave.cancelled() => None,
    }
}

/// The HTTP library, with its bounds.
#[derive(Clone, Debug)]
pub struct HttpLibrary {
    builder: auto::Builder<TokioExecutor>,
    idle: Duration,
    name: &'static str,
}

impl HttpLibrary {
    /// For connections through a door.
    pub fn new(limits: &ConnectionLimits) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.idle)
            .max_buf_size(HEAD);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(limits.idle.min(Duration::from_secs(20)))
            .keep_alive_timeout(PING_ANSWER)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_concurrent_streams(limits.streams)
            .max_local_error_reset_streams(BROKEN_STREAMS)
            .max_pending_accept_reset_streams(UNSEEN_STREAMS)
            .max_header_list_size(HEADER_LIST)
            .max_send_buf_size(SEND_BUFFER);
        if limits.is_http2_only {
            builder = builder.http2_only();
        } else {
            builder.http2().enable_connect_protocol();
        }
        Self { builder, idle: limits.idle, name: limits.name }
    }

    /// Serves one connection, until it ends, nothing is asked for in a while, or it is told to
    /// leave. Each request is prepared first.
    pub async fn serve<I>(
        &self,
        io: I,
        router: Router,
        visit: &Arc<ConnectionUse>,
        prepare: impl Fn(&mut Request<Incoming>) + Clone,
    ) where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let asked = visit.clone();
        // Not a layer: that would copy every route for every connection.
        let service = service_fn(move |mut request: Request<Incoming>| {
            prepare(&mut request);
            let busy = asked.begin();
            let is_connect = request.method() == Method::CONNECT;
            let answering = router.clone().call(request);
            async move {
                let response = answering.await?;
                if is_connect && response.status().is_success() {
                    // A websocket over HTTP/2 (RFC 8441) has begun; it has deadlines of its own.
                    busy.forever();
                    return Ok::<_, Infallible>(
                        response.map(|body| CountedBody { body, _busy: None }),
                    );
                }
                Ok(response.map(|body| CountedBody { body, _busy: Some(busy) }))
            }
        });
        let io = TokioIo::new(Metered::new(io, self.name));
        let connection = self.builder.serve_connection_with_upgrades(io, service);
        tokio::pin!(connection);
        let mut changes = 0;
        let idle = sleep(self.idle);
        tokio::pin!(idle);
        loop {
            tokio::select! {
                ended = connection.as_mut() => return note(ended),
                () = visit.leave.cancelled() => break,
                () = idle.as_mut() => {
                    let is_idle = visit.is_idle();
                    let now = visit.changes.load(Ordering::Relaxed);
                    let before = std::mem::replace(&mut changes, now);
                    if is_idle && before == changes {
                        break;
                    }
                    let next = idle.deadline() + self.idle;
                    idle.as_mut().reset(next);
                }
            }
        }
        connection.as_mut().graceful_shutdown();
        if visit.closing.is_cancelled() && !visit.is_idle() {
            return note(connection.await);
        }
        // HTTP/2 may still be shaking hands, and then never hears that it is over. Or a request has
        // come before the word of its end.
        loop {
            match timeout(FAREWELL, connection.as_mut()).await {
                Ok(ended) => return note(ended),
                Err(_) if visit.is_idle() || visit.leave.is_cancelled() => return,
                Err(_) => {}
            }
        }
    }
}

fn note(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection has ended");
    }
}

/// The body of an answer; its request is under way until it is dropped.
struct CountedBody {
    body: Body,
    _busy: Option<RequestGuard>,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests;
