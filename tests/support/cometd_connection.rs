//! One raw connection to the event channel, which a test can cut as it likes: a poll on a bare TCP
//! connection, or a websocket.

use super::gateway_server::{PASSWORD, PATIENCE};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::{Request, Response};
use tokio_tungstenite::tungstenite::{Error, Message};

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The socket is closed.
    Fin,
    /// It is reset.
    Rst,
}

/// A transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    /// `long-polling`
    Poll,
    /// `websocket`
    Socket,
}

impl By {
    /// Its name on the wire.
    pub(crate) fn name(self) -> &'static str {
        match self {
            By::Poll => "long-polling",
            By::Socket => "websocket",
        }
    }
}

/// The connection.
pub(crate) enum CometdConnection {
    /// HTTP/1.1, and what of the next answer has been read already.
    Poll(TcpStream, Vec<u8>, String),
    /// A websocket.
    Socket(Box<WebSocketStream<TcpStream>>),
}

/// The header of HTTP Basic.
pub(crate) fn basic(user: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{PASSWORD}")))
}

/// A websocket's upgrade request, to be completed.
pub(crate) fn upgrade(address: SocketAddr, user: Option<&str>) -> Request {
    let mut request =
        format!("ws://{address}/api/v2/notifications").into_client_request().expect("a request");
    if let Some(user) = user {
        request.headers_mut().insert("authorization", basic(user).parse().expect("a header"));
    }
    request
}

/// Opens a websocket.
pub(crate) async fn open_socket(
    address: SocketAddr,
    request: Request,
) -> Result<(WebSocketStream<TcpStream>, Response), Error> {
    let stream = TcpStream::connect(address).await.expect("a connection");
    stream.set_nodelay(true).expect("an option");
    tokio_tungstenite::client_async(request, stream).await
}

/// A connection whose receiver has room for a few kilobytes only.
async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4_096).expect("an option");
    socket.connect(address).await.expect("a connection")
}

impl CometdConnection {
    /// Connects.
    pub(crate) async fn open(address: SocketAddr, by: By, user: &str) -> Self {
        match by {
            By::Poll => {
                let stream = TcpStream::connect(address).await.expect("a connection");
                stream.set_nodelay(true).expect("an option");
                CometdConnection::Poll(stream, Vec::new(), basic(user))
            }
            By::Socket => {
                let socket = loop {
                    match open_socket(address, upgrade(address, Some(user))).await {
                        Ok((socket, _)) => break socket,
                        // Too many log in at once.
                        Err(Error::Http(response)) if response.status() == 503 => {
                            tokio::task::yield_now().await
                        }
                        Err(other) => panic!("{other}"),
                    }
                };
                CometdConnection::Socket(Box::new(socket))
            }
        }
    }

    /// The same, over a connection that takes little at a time.
    pub(crate) async fn open_narrow(address: SocketAddr, by: By, user: &str) -> Self {
        let stream = narrow(address).await;
        match by {
            By::Poll => CometdConnection::Poll(stream, Vec::new(), basic(user)),
            By::Socket => {
                let socket =
                    tokio_tungstenite::client_async(upgrade(address, Some(user)), stream).await;
                CometdConnection::Socket(Box::new(socket.expect("a websocket").0))
            }
        }
    }

    /// Sends messages.
    pub(crate) async fn send(&mut self, messages: &Value) {
        let body = messages.to_string();
        match self {
            CometdConnection::Poll(stream, _, basic) => {
                let head = format!(
                    "POST /api/v2/notifications HTTP/1.1\r\nHost: x\r\nAuthorization: {basic}\r\n\
                     Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                stream.write_all((head + &body).as_bytes()).await.expect("sent");
            }
            CometdConnection::Socket(socket) => {
                socket.send(Message::text(body)).await.expect("sent")
            }
        }
    }

    /// The next answer or frame; `None` when the connection is over.
    pub(crate) async fn receive(&mut self) -> Option<Vec<Value>> {
        let text = match self {
            CometdConnection::Poll(stream, read, _) => {
                timeout(PATIENCE, answer(stream, read)).await.expect("in time")?
            }
            CometdConnection::Socket(socket) => loop {
                match timeout(PATIENCE, socket.next()).await.expect("in time")? {
                    Ok(Message::Text(text)) => break text.to_string(),
                    Ok(Message::Ping(_) | Message::Pong(_)) => {}
                    Ok(_) | Err(_) => return None,
                }
            },
        };
        Some(serde_json::from_str(&text).expect("an array"))
    }

    /// Everything up to the reply on this channel.
    pub(crate) async fn until_reply(&mut self, channel: &str) -> Option<Vec<Value>> {
        let mut all = Vec::new();
        loop {
            all.extend(self.receive().await?);
            if all
                .iter()
                .any(|message| message["channel"] == channel && message.get("successful").is_some())
            {
                return Some(all);
            }
        }
    }

    /// Waits for the first byte of what comes next and reads no more.
    pub(crate) async fn first_byte(&mut self) {
        let stream = match self {
            CometdConnection::Poll(stream, ..) => stream,
            CometdConnection::Socket(socket) => socket.get_mut(),
        };
        timeout(PATIENCE, stream.read_u8()).await.expect("in time").expect("a byte");
    }

    /// Ends it.
    pub(crate) fn cut(self, how: Cut) {
        let stream = match self {
            CometdConnection::Poll(stream, ..) => stream,
            CometdConnection::Socket(socket) => socket.into_inner(),
        };
        if how == Cut::Rst {
            stream.set_zero_linger().expect("an option");
        }
    }
}

/// The body of a 200; `None` when the connection ended first, or it was another one.
async fn answer(stream: &mut TcpStream, read: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(read[..end].to_vec()).expect("a head");
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase()
                    .strip_prefix("content-length:")?
                    .trim()
                    .parse::<usize>()
                    .ok()
            });
            let whole = end + 4 + length.expect("a length");
            if read.len() >= whole {
                let body = String::from_utf8(read[end + 4..whole].to_vec()).expect("text");
                read.drain(..whole);
                return head.starts_with("HTTP/1.1 200").then_some(body);
            }
        }
        if stream.read_buf(read).await.ok()? == 0 {
            return None;
        }
    }
}
