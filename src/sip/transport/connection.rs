//! The tasks behind a listener and a connection: they wait, and say what has come.

use super::{Dialer, Input, TransportEvent, mark};
use crate::sip::config::SipLimits;
use crate::sip::flow::{Flow, Protocol};
use crate::sip::message::{Framed, StreamFramer};
use crate::tls::{ClientTls, ServerTls, sip_domains};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout, timeout_at};

const CONNECT: Duration = Duration::from_secs(5);
const WRITE: Duration = Duration::from_secs(10);
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);

/// How long the answer to a ping may take (RFC 5626 4.4.1).
const PONG: Duration = Duration::from_secs(10);

/// How a connection begins.
pub(super) enum Opening {
    /// The peer has connected.
    Accept(TcpStream),
    /// The peer has connected, and is to shake hands.
    AcceptTls(TcpStream, Arc<ServerTls>),
    /// We connect.
    Connect,
    /// We connect, to one of these domains.
    ConnectTls(ClientTls, Vec<String>),
}

pub(super) async fn listen(
    protocol: Protocol,
    listener: TcpListener,
    local: SocketAddr,
    sender: mpsc::Sender<Input>,
) {
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                let dialer = Dialer { protocol, stream, local, peer };
                if sender.send(Input::Accepted(dialer)).await.is_err() {
                    return;
                }
            }
            // Out of descriptors, most likely: wait for some to be closed.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// One connection from its beginning until either side ends it. Dropping the sender of `writes`
/// ends it after what is written already.
pub(super) async fn open(
    opening: Opening,
    flow: Flow,
    sender: mpsc::Sender<Input>,
    mut writes: mpsc::Receiver<Vec<u8>>,
    limits: SipLimits,
) {
    let task = ConnectionTask { flow, sender, limits };
    match opening {
        Opening::Accept(stream) => {
            prepare(&stream, &flow);
            task.serve(stream.into_split(), writes, Reading::of_client()).await;
        }
        Opening::AcceptTls(stream, tls) => {
            prepare(&stream, &flow);
            // Who has given up its place meanwhile is told so.
            let shaken = tokio::select! {
                shaken = tls.accept_stream(stream, limits.message_deadline) => shaken,
                _ = writes.recv() => None,
            };
            if let Some(stream) = shaken {
                let presented = stream.get_ref().1.peer_certificates();
                let vouching = tls.vouching(presented);
                let own = presented.and_then(<[_]>::first);
                task.secured(own.map(sip_domains).unwrap_or_default()).await;
                tokio::select! {
                    biased;
                    () = vouching.ended() => {}
                    () = task.serve(tokio::io::split(stream), writes, Reading::of_client()) => {}
                }
            }
        }
        Opening::Connect => {
            if let Ok(Ok(stream)) = timeout(CONNECT, TcpStream::connect(flow.peer)).await {
                prepare(&stream, &flow);
                task.serve(stream.into_split(), writes, Reading::of_server(None)).await;
            }
        }
        Opening::ConnectTls(tls, domains) => match connect_tls(&tls, domains, &flow).await {
            Ok((stream, domains)) => {
                task.secured(domains).await;
                let keep_alive = Some(KeepAlive::new(limits.keep_alive));
                task.serve(tokio::io::split(stream), writes, Reading::of_server(keep_alive)).await;
            }
            Err(error) => tracing::warn!(peer = %flow.peer, %error, "no TLS connection to a trunk"),
        },
    }
    let _ = task.sender.send(Input::Ended(flow.connection)).await;
}

async fn connect_tls(
    tls: &ClientTls,
    domains: Vec<String>,
    flow: &Flow,
) -> io::Result<(tokio_rustls::client::TlsStream<TcpStream>, Vec<String>)> {
    let connecting = async {
        let stream = TcpStream::connect(flow.peer).await?;
        prepare(&stream, flow);
        tls.connect_sip(domains, stream).await
    };
    timeout(CONNECT, connecting).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn prepare(stream: &TcpStream, flow: &Flow) {
    mark(&socket2::SockRef::from(stream), flow.peer);
    let _ = stream.set_nodelay(true);
    // A phone that has lost its power says no good-bye; its registration must not keep the
    // connection for ever.
    let _ = socket2::SockRef::from(stream)
        .set_tcp_keepalive(&socket2::TcpKeepalive::new().with_time(TCP_KEEPALIVE));
}

struct ConnectionTask {
    flow: Flow,
    sender: mpsc::Sender<Input>,
    limits: SipLimits,
}

/// When a connection's peer has said something last; a ping is nothing, and for one that we called,
/// the call counts.
#[derive(Clone, Copy)]
enum Spoken {
    Never,
    At(Instant),
}

/// What is read of a connection, and when it is asked whether it still stands.
struct Reading {
    framer: StreamFramer,
    spoken: Spoken,
    keep_alive: Option<KeepAlive>,
}

impl Reading {
    fn of_client() -> Self {
        Self { framer: StreamFramer::new(), spoken: Spoken::Never, keep_alive: None }
    }

    fn of_server(keep_alive: Option<KeepAlive>) -> Self {
        let framer = match keep_alive {
            Some(_) => StreamFramer::of_server(),
            None => StreamFramer::new(),
        };
        Self { framer, spoken: Spoken::At(Instant::now()), keep_alive }
    }
}

/// Pings of a connection that we have made (RFC 5626 4.4.1). A server that has never answered one
/// may not know them, and is believed to be there.
struct KeepAlive {
    longest: Duration,
    answers: bool,
    /// Nothing has come since a ping was sent then.
    asked_at: Option<Instant>,
    next: Instant,
}

/// What the time of a [`KeepAlive`] means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeepAliveStep {
    Ask,
    Dead,
}

impl KeepAlive {
    fn new(longest: Duration) -> Self {
        Self { longest, answers: false, asked_at: None, next: Instant::now() + some_of(longest) }
    }

    fn poll_timeout(&self) -> Instant {
        match self.asked_at {
            Some(asked_at) if self.answers => self.next.min(asked_at + PONG),
            Some(_) | None => self.next,
        }
    }

    /// Something has come.
    fn handle_bytes(&mut self) {
        self.asked_at = None;
    }

    fn handle_pong(&mut self) {
        self.answers = true;
    }

    fn handle_timeout(&mut self, now: Instant) -> KeepAliveStep {
        match self.asked_at {
            Some(asked_at) if self.answers && asked_at + PONG <= now => KeepAliveStep::Dead,
            Some(_) | None => {
                self.asked_at = self.asked_at.or(Some(now));
                self.next = now + some_of(self.longest);
                KeepAliveStep::Ask
            }
        }
    }
}

/// Between four fifths of it and all.
fn some_of(longest: Duration) -> Duration {
    longest.mul_f64(rand::random_range(0.8..=1.0))
}

impl ConnectionTask {
    async fn secured(&self, domains: Vec<String>) {
        let event = TransportEvent::Secured { flow: self.flow, domains };
        let _ = self.sender.send(Input::Arrival(event)).await;
    }

    async fn serve<R: AsyncRead + Unpin, W: AsyncWrite + Unpin>(
        &self,
        (reader, writer): (R, W),
        writes: mpsc::Receiver<Vec<u8>>,
        reading: Reading,
    ) {
        let reading = async {
            self.read(reader, reading).await;
            let _ = self.sender.send(Input::Ended(self.flow.connection)).await;
            // What is written already goes out.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = reading => {}
            () = write(writer, writes) => {}
        }
    }

    /// Asks whether anybody needs the connection. `false`: there is nobody to ask.
    async fn ask_whether_needed(&self) -> bool {
        let event = TransportEvent::Idle { flow: self.flow };
        self.sender.send(Input::Arrival(event)).await.is_ok()
    }

    async fn read<R: AsyncRead + Unpin>(&self, mut reader: R, reading: Reading) {
        let Reading { mut framer, mut spoken, mut keep_alive } = reading;
        let (limits, flow) = (&self.limits, self.flow);
        let opened = Instant::now();
        let mut buffer = vec![0; 8192];
        let mut begun: Option<Instant> = None;
        let mut reviewed = opened;
        loop {
            // The deadline counts from a message's first byte, however slowly the others come; that
            // of the first from the beginning.
            let deadline = match (begun, spoken) {
                (_, Spoken::Never) => opened + limits.message_deadline,
                (Some(begun), Spoken::At(_)) => begun + limits.message_deadline,
                (None, Spoken::At(at)) => {
                    (at + limits.idle).min(reviewed + limits.stranger_lifetime)
                }
            };
            // Whoever talks on without a pause is looked at, too.
            if reviewed + limits.stranger_lifetime <= Instant::now() {
                reviewed = Instant::now();
                if !self.ask_whether_needed().await {
                    return;
                }
            }
            let wake = keep_alive.as_ref().map_or(deadline, |it| it.poll_timeout().min(deadline));
            let length = match timeout_at(wake, reader.read(&mut buffer)).await {
                Ok(Ok(length @ 1..)) => length,
                Ok(_) => return,
                Err(_) => {
                    let now = Instant::now();
                    let due = keep_alive.as_mut().filter(|it| it.poll_timeout() <= now);
                    match due.map(|keep_alive| keep_alive.handle_timeout(now)) {
                        Some(KeepAliveStep::Dead) => return,
                        Some(KeepAliveStep::Ask) => {
                            let ping = Input::KeepAlive(flow.connection);
                            if self.sender.send(ping).await.is_err() {
                                return;
                            }
                        }
                        None if begun.is_none() && matches!(spoken, Spoken::At(_)) => {
                            spoken = Spoken::At(now);
                            reviewed = now;
                            if !self.ask_whether_needed().await {
                                return;
                            }
                        }
                        None => return,
                    }
                    continue;
                }
            };
            if let Some(keep_alive) = &mut keep_alive {
                keep_alive.handle_bytes();
            }
            begun = begun.or_else(|| Some(Instant::now()));
            framer.push(&buffer[..length]);
            while let Some(framed) = framer.next() {
                begun = Some(Instant::now());
                let happening = match framed {
                    Ok(Framed::Message(message)) => {
                        spoken = Spoken::At(Instant::now());
                        Input::Arrival(TransportEvent::Message { flow, message: Box::new(message) })
                    }
                    Ok(Framed::Ping) => Input::Ping(flow.connection),
                    Ok(Framed::Pong) => {
                        if let Some(keep_alive) = &mut keep_alive {
                            keep_alive.handle_pong();
                        }
                        continue;
                    }
                    Err(error) => Input::Arrival(TransportEvent::Malformed { flow, error }),
                };
                if self.sender.send(happening).await.is_err() {
                    return;
                }
            }
            if framer.is_dead() {
                return;
            }
            if !framer.is_midway() {
                begun = None;
            }
        }
    }
}

async fn write<W: AsyncWrite + Unpin>(mut writer: W, mut writes: mpsc::Receiver<Vec<u8>>) {
    while let Some(bytes) = writes.recv().await {
        // TLS keeps what it could not write until it is flushed.
        let written = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        if !matches!(timeout(WRITE, written).await, Ok(Ok(()))) {
            return;
        }
    }
    let _ = timeout(WRITE, writer.shutdown()).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_server_that_has_answered_pings_and_does_not_any_more_is_dead_after_ten_seconds() {
        let mut keep_alive = KeepAlive::new(Duration::from_secs(120));
        let (asked, start) = (keep_alive.poll_timeout(), Instant::now());
        assert!((96..=120).contains(&(asked - start).as_secs()), "{:?}", asked - start);
        assert_eq!(keep_alive.handle_timeout(asked), KeepAliveStep::Ask);
        keep_alive.handle_bytes();
        keep_alive.handle_pong();
        let again = keep_alive.poll_timeout();
        assert_eq!(keep_alive.handle_timeout(again), KeepAliveStep::Ask);
        assert_eq!(keep_alive.poll_timeout(), again + PONG);
        assert_eq!(keep_alive.handle_timeout(again + PONG), KeepAliveStep::Dead);
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_never_answers_pings_is_believed_to_be_there() {
        let mut keep_alive = KeepAlive::new(Duration::from_secs(120));
        for _ in 0..5 {
            let at = keep_alive.poll_timeout();
            assert_eq!(keep_alive.handle_timeout(at), KeepAliveStep::Ask);
        }
    }
}
