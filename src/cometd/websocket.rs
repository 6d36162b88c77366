//! One websocket: frames in, frames out, one at a time each way.

use super::long_polling::{Cometd, random_hex};
use super::message::{self, BatchError, ClientId};
use super::sessions::{ClientOrigin, ClientRequest, CometdTransport, SocketId};
use super::task::{Input, ToSocket};
use crate::clock;
use crate::http::delivery::{DeliveryId, DeliveryTracker};
use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::SinkExt;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite;

/// How long a frame may take to leave. A client that does not read for so long is gone.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// How long the other end may take to close, too.
const FAREWELL: Duration = Duration::from_secs(2);

/// RFC 6455 7.4.1.
const PROTOCOL_ERROR: u16 = 1002;
const UNSUPPORTED_DATA: u16 = 1003;
const INVALID_TEXT: u16 = 1007;
const TOO_LARGE: u16 = 1009;
/// What CometD says to a frame that is no JSON.
const NOT_MESSAGES: u16 = 1011;

pub(super) async fn serve(
    mut socket: WebSocket,
    (no, peer): (SocketId, ClientOrigin),
    bayeux: Cometd,
    wire: (DeliveryTracker, bool),
) {
    let (tell, orders) = mpsc::unbounded_channel();
    wire.0.take_frames(!wire.1);
    let _ = bayeux.inbox().send(Input::Opened(no, peer.address, wire.0.clone(), tell));
    let farewell = match talk(&mut socket, no, &peer, &bayeux, &wire, orders).await {
        End::Ours(code, reason) => Some(Some(CloseFrame { code, reason: reason.into() })),
        End::Theirs => Some(None),
        End::Lost => None,
    };
    // Nothing may come after a close (RFC 6455 5.5.1).
    wire.0.take_frames(false);
    if let Some(frame) = farewell {
        let farewell = async {
            if let Some(frame) = frame
                && socket.send(Message::Close(Some(frame))).await.is_err()
            {
                return;
            }
            // The library answers a close while it reads on (RFC 6455 5.5.1).
            while let Some(Ok(_)) = socket.recv().await {}
        };
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    }
    // What was under way is known to be cut before anybody hears that the socket is gone.
    drop(socket);
    let _ = bayeux.inbox().send(Input::Gone(no));
}

/// Which side ends the connection.
enum End {
    /// The server, with this code and reason.
    Ours(u16, &'static str),
    /// The client, which waits for our close frame.
    Theirs,
    /// Neither: the connection broke.
    Lost,
}

/// Until one side has had enough.
async fn talk(
    socket: &mut WebSocket,
    no: SocketId,
    peer: &ClientOrigin,
    bayeux: &Cometd,
    (wire, is_multiplexed): &(DeliveryTracker, bool),
    mut orders: mpsc::UnboundedReceiver<ToSocket>,
) -> End {
    let mut may_read = true;
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(ToSocket::Send(body)) => {
                    let frame = DeliveryId(no.0);
                    if !wire.begin(frame, *is_multiplexed, bayeux.frames()) {
                        return End::Lost;
                    }
                    wire.taken(frame, true);
                    let sent = tokio::time::timeout(
                        WRITE_DEADLINE,
                        socket.send(Message::Text(body.into())),
                    )
                    .await;
                    if !matches!(sent, Ok(Ok(()))) {
                        return End::Lost;
                    }
                }
                Some(ToSocket::Flush) => {
                    let flushed = tokio::time::timeout(WRITE_DEADLINE, socket.flush()).await;
                    if !matches!(flushed, Ok(Ok(()))) {
                        return End::Lost;
                    }
                }
                Some(ToSocket::Next) => may_read = true,
                Some(ToSocket::Close(code, reason)) => return End::Ours(code, reason),
                None => return End::Lost,
            },
            frame = socket.recv(), if may_read => match frame {
                Some(Ok(Message::Text(text))) => {
                    match message::parse(text.as_bytes(), bayeux.max_messages()) {
                        Ok(messages) => {
                            let post = ClientRequest {
                                no: bayeux.number(),
                                from: peer.clone(),
                                new_browser: None,
                                via: CometdTransport::Socket(no),
                                fresh: ClientId(random_hex().into()),
                                messages,
                            };
                            may_read = false;
                            let _ = bayeux.inbox().send(Input::Frame(post, clock::instant()));
                        }
                        Err(BatchError::NotMessages { .. }) => {
                            return End::Ours(
                                NOT_MESSAGES,
                                "This is not an array of Bayeux messages.",
                            );
                        }
                        Err(error @ (BatchError::Empty | BatchError::TooMany(_))) => {
                            let reply = message::body(&[], &[message::malformed(&error)]);
                            if socket.send(Message::Text(reply.into())).await.is_err() {
                                return End::Lost;
                            }
                        }
                    }
                }
                Some(Ok(Message::Binary(_))) => {
                    return End::Ours(UNSUPPORTED_DATA, "Messages are text.");
                }
                // Pings are answered by the library.
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(Message::Close(_))) => return End::Theirs,
                Some(Err(error)) => return error_end(&*error.into_inner()),
                None => return End::Lost,
            },
        }
    }
}

/// A whole text frame as a server sends it (RFC 6455 5.2).
pub(super) fn frame(text: &str) -> Vec<u8> {
    const FINAL_TEXT: u8 = 0x81;
    let mut frame = Vec::with_capacity(text.len() + 10);
    frame.push(FINAL_TEXT);
    match text.len() {
        short @ ..126 => frame.push(short as u8),
        middle @ 126..=0xffff => {
            frame.push(126);
            frame.extend_from_slice(&(middle as u16).to_be_bytes());
        }
        long => {
            frame.push(127);
            frame.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(text.as_bytes());
    frame
}

fn error_end(error: &(dyn std::error::Error + Send + Sync + 'static)) -> End {
    match error.downcast_ref::<tungstenite::Error>() {
        Some(tungstenite::Error::Capacity(_)) => End::Ours(TOO_LARGE, "The message is too large."),
        Some(tungstenite::Error::Utf8(_)) => End::Ours(INVALID_TEXT, "Text is UTF-8."),
        Some(tungstenite::Error::Protocol(_)) => End::Ours(PROTOCOL_ERROR, "RFC 6455 is not kept."),
        Some(_) | None => End::Lost,
    }
}
