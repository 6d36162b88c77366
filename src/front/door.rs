//! An open HTTP door: HTTP/1.1, HTTP/2 and websockets on one port, each connection with a deadline for its headers, and watched for
//! what really leaves on it. Polls have a short way in, see [`super::lane`].

use super::bayeux::wire::{Watched, Wire};
use super::lane::{Course, Lane};
use axum::Router;
use axum::extract::{ConnectInfo, Request};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

/// How long a client may take to send the headers of a request, and a kept connection may idle.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// After a failed accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves until `stopped` comes; then finishes the answers under way.
pub async fn serve(door: TcpListener, router: Router, lane: Option<Lane>, stopped: impl Future<Output = ()>) {
    let house = Arc::new(House {
        library: library(),
        router,
        lane,
        stopped: CancellationToken::new(),
    });
    let visitors = TaskTracker::new();
    tokio::pin!(stopped);
    loop {
        let accepted = tokio::select! {
            accepted = door.accept() => accepted,
            () = &mut stopped => break,
        };
        let (stream, peer) = match accepted {
            Ok(connection) => connection,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        // Answers are small and waited for; a socket that refuses this serves all the same.
        let _ = stream.set_nodelay(true);
        visitors.spawn(house.clone().let_in(stream, peer));
    }
    drop(door);
    house.stopped.cancel();
    visitors.close();
    visitors.wait().await;
}

fn library() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(HEADER_DEADLINE)
        .enable_connect_protocol();
    builder
}

struct House {
    library: auto::Builder<TokioExecutor>,
    router: Router,
    lane: Option<Lane>,
    stopped: CancellationToken,
}

impl House {
    async fn let_in(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        let (connection, wire) = Watched::new(stream);
        let course = match &self.lane {
            Some(lane) => lane.serve(connection, &wire, peer, &self.stopped).await,
            None => Course::Library(connection, Vec::new()),
        };
        if let Course::Library(connection, begun) = course {
            // The library's state is large; a connection that never needs it does not carry it.
            Box::pin(self.to_library(Rewound::new(connection, begun), wire, peer)).await;
        }
    }

    async fn to_library(&self, connection: Rewound, wire: Wire, peer: SocketAddr) {
        // Not a layer: that would copy every route for every connection.
        let router = self.router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            request.extensions_mut().insert(wire.clone());
            router.clone().call(request)
        });
        let connection = self.library.serve_connection_with_upgrades(TokioIo::new(connection), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.stopped.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection has ended");
        }
    }
}

/// A connection of which something has been read already.
struct Rewound {
    connection: Watched,
    begun: Vec<u8>,
    read: usize,
}

impl Rewound {
    fn new(connection: Watched, begun: Vec<u8>) -> Self {
        Self {
            connection,
            begun,
            read: 0,
        }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let rest = this.begun.get(this.read..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut this.connection).poll_read(context, buffer);
        }
        let length = rest.len().min(buffer.remaining());
        buffer.put_slice(rest.get(..length).unwrap_or_default());
        this.read += length;
        if this.read == this.begun.len() {
            (this.begun, this.read) = (Vec::new(), 0);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(context)
    }
}
