//! One websocket: frames in, frames out, one at a time each way.

use super::http::{Bayeux, random_hex};
use super::hub::{Peer, Post, SocketNo, Via};
use super::message::{self, BatchError, ClientId};
use super::shell::{Happening, ToSocket};
use super::wire::{Parcel, Wire};
use crate::clock;
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite;

/// How long a frame may take to leave. A client that does not read for so long is gone.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// How long the other end may take to say good-bye, too.
const FAREWELL: Duration = Duration::from_secs(2);

/// RFC 6455 7.4.1.
const UNSUPPORTED_DATA: u16 = 1003;
const INVALID_TEXT: u16 = 1007;
const TOO_LARGE: u16 = 1009;
/// What CometD says to a frame that is no JSON.
const NOT_MESSAGES: u16 = 1011;

pub(super) async fn serve(mut socket: WebSocket, no: SocketNo, peer: Peer, bayeux: Bayeux, wire: Wire) {
    let (tell, orders) = mpsc::unbounded_channel();
    let _ = bayeux.inbox().send(Happening::Opened(no, wire.clone(), tell));
    if let Some((code, reason)) = talk(&mut socket, no, &peer, &bayeux, &wire, orders).await {
        let frame = CloseFrame {
            code,
            reason: reason.into(),
        };
        let farewell = async {
            if socket.send(Message::Close(Some(frame))).await.is_ok() {
                while let Some(Ok(_)) = socket.recv().await {}
            }
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
    // What was under way is known to be cut before anybody hears that the socket is gone.
    drop(socket);
    let _ = bayeux.inbox().send(Happening::Gone(no));
}

/// Until one side has had enough: how we are to close, if it is us.
async fn talk(
    socket: &mut WebSocket,
    no: SocketNo,
    peer: &Peer,
    bayeux: &Bayeux,
    wire: &Wire,
    mut orders: mpsc::UnboundedReceiver<ToSocket>,
) -> Option<(u16, &'static str)> {
    let mut may_read = true;
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order? {
                ToSocket::Send(body) => {
                    let parcel = Parcel::Socket(no);
                    wire.begin(parcel, false, bayeux.inbox().clone());
                    wire.taken(parcel, true);
                    let sent = tokio::time::timeout(WRITE_DEADLINE, socket.send(Message::Text(body.into()))).await;
                    if !matches!(sent, Ok(Ok(()))) {
                        return None;
                    }
                }
                ToSocket::Next => may_read = true,
                ToSocket::Close(code, reason) => return Some((code, reason)),
            },
            frame = socket.recv(), if may_read => match frame? {
                Ok(Message::Text(text)) => match message::parse(text.as_bytes(), bayeux.max_messages()) {
                    Ok(messages) => {
                        let post = Post {
                            no: bayeux.number(),
                            from: peer.clone(),
                            new_browser: None,
                            via: Via::Socket(no),
                            fresh: ClientId(random_hex().into()),
                            messages,
                        };
                        may_read = false;
                        let _ = bayeux.inbox().send(Happening::Frame(post, clock::instant()));
                    }
                    Err(BatchError::NotMessages { .. }) => return Some((NOT_MESSAGES, "This is not an array of Bayeux messages.")),
                    Err(error @ (BatchError::Empty | BatchError::TooMany(_))) => {
                        let reply = message::body(&[], &[message::malformed(&error)]);
                        if socket.send(Message::Text(reply.into())).await.is_err() {
                            return None;
                        }
                    }
                },
                Ok(Message::Binary(_)) => return Some((UNSUPPORTED_DATA, "Messages are text.")),
                // Pings are answered by the library.
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(Message::Close(_)) => return None,
                Err(error) => return error_close(&*error.into_inner()),
            },
        }
    }
}

fn error_close(error: &(dyn std::error::Error + Send + Sync + 'static)) -> Option<(u16, &'static str)> {
    match error.downcast_ref::<tungstenite::Error>()? {
        tungstenite::Error::Capacity(_) => Some((TOO_LARGE, "The message is too large.")),
        tungstenite::Error::Utf8(_) => Some((INVALID_TEXT, "Text is UTF-8.")),
        tungstenite::Error::Protocol(_) => Some((1002, "RFC 6455 is not kept.")),
        _ => None,
    }
}
