//! HTTP/2 as bytes (RFC 9113), for what no library would send.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const SETTINGS: u8 = 4;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// One frame (RFC 9113 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// What every client begins with.
pub fn greeting() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// A request's head in HPACK without a table (RFC 7541 6.2.2), as gRPC writes it.
pub fn head(method: &str, path: &str) -> Vec<u8> {
    let mut block = Vec::new();
    let mut field = |name: &str, value: &str| {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend(text.bytes());
        }
    };
    field(":method", method);
    field(":scheme", "http");
    field(":path", path);
    field(":authority", "undertone");
    field("content-type", "application/grpc");
    field("te", "trailers");
    block
}

/// A connection from this address.
pub async fn connect_from(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// The next frame: kind, flags, stream, payload. `None`: the connection has been closed.
pub async fn next(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<(u8, u8, u32, Vec<u8>)> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
    stream.read_exact(&mut payload).await.ok()?;
    Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
}

/// Reads until the other end has closed; false when it has not in time.
pub async fn is_closed(stream: &mut (impl AsyncReadExt + Unpin), within: Duration) -> bool {
    let reading = async {
        let mut some = [0; 4096];
        while stream.read(&mut some).await.is_ok_and(|count| count > 0) {}
    };
    timeout(within, reading).await.is_ok()
}

/// Opens so many streams and ends none of their requests, as fast as the other end takes it, until
/// it closes.
pub async fn flood(from: IpAddr, to: SocketAddr, path: &str, streams: u32) {
    let connection = connect_from(from, to).await;
    let (mut reading, mut writing) = connection.into_split();
    tokio::spawn(async move { is_closed(&mut reading, Duration::from_secs(3600)).await });
    let head = head("POST", path);
    let mut bytes = greeting();
    for number in 0..streams {
        bytes.extend(frame(HEADERS, END_HEADERS, number * 2 + 1, &head));
        if bytes.len() > 64 * 1024 {
            if writing.write_all(&bytes).await.is_err() {
                return;
            }
            bytes.clear();
        }
    }
    let _ = writing.write_all(&bytes).await;
    // Open until the test ends.
    std::mem::forget(writing);
}
