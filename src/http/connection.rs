//! The server of REST and CometD: HTTP/1.1, HTTP/2 and websockets on one port, each connection
//! watched for what really leaves on it. Its first layer is the fast path of polls, see
//! [`super::fast_path`].

use super::delivery::TrackedConnection;
use super::fast_path::{FastPath, Handling, PollService};
use crate::http::server::{self, ConnectionLimits, ConnectionPermit, Door, HttpLibrary};
use crate::tls::ServerTls;
use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Serves until `stopped` comes; then finishes the answers under way. As many connections as by
/// default.
pub async fn serve<S: PollService>(
    listener: TcpListener,
    router: Router,
    fast_path: Option<FastPath<S>>,
    stopped: impl Future<Output = ()>,
) {
    let door = Door { listener, limits: ConnectionLimits::default(), tls: None };
    serve_at(door, router, fast_path, stopped).await;
}

/// As [`serve`], at a door of its own kind.
pub async fn serve_at<S: PollService>(
    Door { listener, limits, tls }: Door,
    router: Router,
    fast_path: Option<FastPath<S>>,
    stopped: impl Future<Output = ()>,
) {
    let server = Arc::new(HttpServer {
        tls,
        library: HttpLibrary::new(&limits),
        router,
        fast_path: fast_path.map(|fast_path| fast_path.idling(limits.idle)),
    });
    server::receive(listener, &limits, stopped, |stream, peer, place| {
        server.clone().let_in(stream, peer, place)
    })
    .await;
}

struct HttpServer<S> {
    tls: Option<Arc<ServerTls>>,
    library: HttpLibrary,
    router: Router,
    fast_path: Option<FastPath<S>>,
}

impl<S: PollService> HttpServer<S> {
    async fn let_in(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, place: ConnectionPermit) {
        let (connection, tracker) = match &self.tls {
            None => TrackedConnection::new(stream),
            Some(tls) => match server::shake_hands(tls, stream, place.visit()).await {
                Some(handshake) => TrackedConnection::sealed(handshake),
                None => return,
            },
        };
        let handling = match &self.fast_path {
            Some(fast_path) => fast_path.serve(connection, &tracker, peer, place.visit()).await,
            None => Handling::Library(connection, Vec::new()),
        };
        let Handling::Library(connection, begun) = handling else {
            return;
        };
        let visit = place.visit().clone();
        let connection = Rewound::new(connection, begun, place);
        // The library's state is large; a connection that never needs it does not carry it.
        let serving = self.library.serve(connection, self.router.clone(), &visit, move |request| {
            trim_slashes(request.uri_mut());
            request.extensions_mut().insert(ConnectInfo(peer));
            request.extensions_mut().insert(tracker.clone());
        });
        Box::pin(serving).await;
    }
}

/// A path with slashes behind it is the path without them.
fn trim_slashes(uri: &mut Uri) {
    let path = uri.path();
    let trimmed = path.trim_end_matches('/');
    if trimmed.len() == path.len() || trimmed.is_empty() {
        return;
    }
    let target = match uri.query() {
        Some(query) => PathAndQuery::try_from(format!("{trimmed}?{query}")),
        None => PathAndQuery::try_from(trimmed),
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = target.ok();
    if let Ok(without) = Uri::from_parts(parts) {
        *uri = without;
    }
}

/// A connection of which something has been read already.
struct Rewound {
    connection: TrackedConnection,
    begun: Vec<u8>,
    read: usize,
    /// Kept as long as the connection is open: a websocket outlives its request.
    _place: ConnectionPermit,
}

impl Rewound {
    fn new(connection: TrackedConnection, begun: Vec<u8>, place: ConnectionPermit) -> Self {
        Self { connection, begun, read: 0, _place: place }
    }
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
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
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slashes_behind_a_path_are_as_none() {
        for (given, expected) in [
            ("/api/v2/me/", "/api/v2/me"),
            ("/api/v2/me//?subresources=a/", "/api/v2/me?subresources=a/"),
            ("/api/v2/me", "/api/v2/me"),
            ("/api/v2/me?x=/", "/api/v2/me?x=/"),
            ("/", "/"),
            ("//", "//"),
            ("*", "*"),
            ("https://desk.example/api/v2/me/", "https://desk.example/api/v2/me"),
        ] {
            let mut uri: Uri = given.parse().expect("a URI");
            trim_slashes(&mut uri);
            assert_eq!(uri.to_string(), expected, "{given}");
        }
    }
}
