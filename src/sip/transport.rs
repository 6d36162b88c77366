//! UDP sockets, TCP and TLS connections (RFC 3261 18): bytes to messages, flows to sockets.
//!
//! ```text
//!  UDP socket ──task──┐
//!  TCP listener ─task─┼──▶ one bounded queue of arrivals ──▶ endpoint
//!  connection ──task──┘        (order is kept)
//! ```
//!
//! Every table is owned by the endpoint's loop; tasks only wait. What is full is dropped (UDP) or
//! not read further (TCP). No names are resolved here.
//!
//! A connection is a stranger's until something has come by it that only a phone or trunk of ours
//! can send. Strangers have a share of all connections, a share each, and a time in all, whatever
//! they say; when their share is full, one that has had its chance gives way to the next. The rest
//! is for those that are known.
//!
//! TLS is spoken by the task of its connection, which has its place among the others from the first
//! byte of the handshake on. A connection of ours to an address over TLS is made only where a
//! trunk's name is known, which the certificate must have.

mod connection;
mod errors;

use super::config::{ListenAddress, SipLimits};
use super::flow::{ConnectionId, Flow, Protocol};
use super::message::{ParseError, SipMessage};
use crate::model::Network;
use crate::tls::{ClientTls, ServerTls};
use connection::{Opening, listen, open};
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// CS3 in the upper six bits: signalling (RFC 4594 4.2).
const TOS_SIGNALLING: u32 = 24 << 2;

/// Arrivals that wait for the endpoint.
const QUEUE: usize = 1024;

/// Messages that wait for a slow connection; with more it is closed.
const WRITES: usize = 256;

/// The largest UDP payload.
const DATAGRAM: usize = 65_535;

/// How TLS is spoken.
#[derive(Clone, Default)]
pub struct TransportTls {
    /// What we present to those that connect to us. `None`: there is no listening over TLS.
    pub server: Option<Arc<ServerTls>>,
    /// How trunks are verified, and what we present to them.
    pub client: ClientTls,
}

impl fmt::Debug for TransportTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransportTls").field("client", &self.client).finish_non_exhaustive()
    }
}

/// Something has come from the network.
#[derive(Debug)]
pub enum TransportEvent {
    /// A datagram.
    Datagram {
        /// Its way.
        flow: Flow,
        /// Its bytes.
        bytes: Vec<u8>,
    },
    /// A message on a connection.
    Message {
        /// Its way.
        flow: Flow,
        /// The message.
        message: Box<SipMessage>,
    },
    /// Something on a connection that is no message.
    Malformed {
        /// Its way.
        flow: Flow,
        /// What is wrong.
        error: ParseError,
    },
    /// Nothing has come on a connection for [`SipLimits::idle`], or it is as old as a stranger's
    /// may be; a caller that does not need it calls [`Transport::close`].
    Idle {
        /// Its way.
        flow: Flow,
    },
    /// Somebody has called while strangers have all that is theirs: [`Transport::admit`] says
    /// whether it is known.
    Crowded(Dialer),
    /// Hands have been shaken on a connection over TLS: before its first message.
    Secured {
        /// Its way.
        flow: Flow,
        /// The domains of the certificate that the peer has shown, in lower case.
        domains: Vec<String>,
    },
    /// A datagram of ours has not arrived: the network, or the other end, has said so by ICMP.
    Undelivered {
        /// Its way.
        flow: Flow,
    },
    /// A flow can no longer be used: its connection is closed, or could not be made.
    Gone {
        /// The way that was.
        flow: Flow,
    },
}

/// A peer that has connected, and has no place yet.
#[derive(Debug)]
pub struct Dialer {
    protocol: Protocol,
    stream: TcpStream,
    local: SocketAddr,
    peer: SocketAddr,
}

impl Dialer {
    /// Its address.
    pub fn address(&self) -> IpAddr {
        self.peer.ip()
    }
}

#[derive(Debug)]
enum Input {
    Arrival(TransportEvent),
    Accepted(Dialer),
    Ping(ConnectionId),
    /// Is it still there?
    KeepAlive(ConnectionId),
    Ended(ConnectionId),
}

/// The sockets.
#[derive(Debug)]
pub struct Transport {
    limits: SipLimits,
    locals: Vec<(Protocol, SocketAddr)>,
    sockets: Vec<(SocketAddr, Arc<UdpSocket>)>,
    connections: BTreeMap<ConnectionId, Connection>,
    /// Addresses of trunks.
    trusted: Vec<Network>,
    tls: TransportTls,
    /// Where trunks over TLS are, and the name that each has.
    names: Vec<(Vec<Network>, String)>,
    next_id: u64,
    happenings: mpsc::Receiver<Input>,
    sender: mpsc::Sender<Input>,
    unreachable: Vec<Flow>,
    tasks: JoinSet<()>,
}

#[derive(Debug)]
struct Connection {
    flow: Flow,
    outgoing: bool,
    /// Since when it is a stranger's; `None`: it is not.
    stranger_since: Option<Instant>,
    /// The address that it stands for besides its own (RFC 5923).
    alias: Option<SocketAddr>,
    writes: mpsc::Sender<Vec<u8>>,
}

impl Transport {
    /// Opens the listening sockets.
    pub async fn bind(
        listen: &[ListenAddress],
        limits: SipLimits,
        tls: TransportTls,
    ) -> io::Result<Self> {
        let (sender, happenings) = mpsc::channel(QUEUE);
        let mut transport = Self {
            limits,
            locals: Vec::new(),
            sockets: Vec::new(),
            connections: BTreeMap::new(),
            trusted: Vec::new(),
            tls,
            names: Vec::new(),
            next_id: 1,
            happenings,
            sender,
            unreachable: Vec::new(),
            tasks: JoinSet::new(),
        };
        for listen in listen {
            let bound = match listen.protocol {
                Protocol::Udp => transport.bind_udp(listen.address).await,
                protocol @ (Protocol::Tcp | Protocol::Tls) => {
                    transport.bind_tcp(protocol, listen.address).await
                }
            };
            let failed =
                format_args!("can not listen on {} {}", listen.protocol.as_str(), listen.address);
            let local = bound
                .map_err(|error| io::Error::new(error.kind(), format!("{failed}: {error}")))?;
            transport.locals.push((listen.protocol, local));
        }
        Ok(transport)
    }

    /// The addresses that are listened on.
    pub fn locals(&self) -> &[(Protocol, SocketAddr)] {
        &self.locals
    }

    /// A peer that connects from these addresses is no stranger.
    pub fn trust(&mut self, networks: impl IntoIterator<Item = Network>) {
        self.trusted = networks.into_iter().collect();
    }

    /// The peers over TLS at these addresses have certificates of these names.
    pub fn expect(&mut self, names: impl IntoIterator<Item = (Vec<Network>, String)>) {
        self.names = names.into_iter().collect();
    }

    /// Makes a connection, unless there is one.
    pub fn connect_ahead(&mut self, flow: Flow) {
        if self.connection_to(&flow).or_else(|| self.connect(flow)).is_none() {
            self.unreachable.push(flow);
        }
    }

    /// Requests to this address go by the connection.
    pub fn alias(&mut self, flow: &Flow, address: SocketAddr) {
        if let Some(connection) = self.connections.get_mut(&flow.connection) {
            connection.alias = Some(address);
        }
    }

    /// The peer of a connection is no stranger any more.
    pub fn know(&mut self, flow: &Flow) {
        if let Some(connection) = self.connections.get_mut(&flow.connection) {
            connection.stranger_since = None;
        }
    }

    /// Takes in a peer for which there was no room among the strangers: one that is known beside
    /// them, another in the place of one that has had its chance.
    pub fn admit(&mut self, caller: Dialer, known: bool) {
        let strangers = || {
            self.connections.iter().filter(|(_, connection)| connection.stranger_since.is_some())
        };
        let of_source = strangers()
            .filter(|(_, connection)| connection.flow.peer.ip() == caller.peer.ip())
            .count();
        if !known {
            // The numbers go up with time: the first is the oldest.
            let oldest = strangers()
                .next()
                .map(|(id, connection)| (*id, connection.flow, connection.stranger_since));
            let had_its_chance = oldest.filter(|(_, _, since)| {
                since.is_some_and(|since| since.elapsed() >= self.limits.message_deadline)
            });
            match had_its_chance {
                Some((_, flow, _)) if of_source < self.limits.strangers_per_source => {
                    self.close(&flow)
                }
                Some(_) | None => {
                    tracing::debug!(
                        peer = %caller.peer.ip(),
                        "connection refused: too many strangers"
                    );
                    return;
                }
            }
        }
        self.serve(caller, known);
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Sends a message, without waiting: UDP loses what does not fit, a connection that does not
    /// keep up is closed.
    pub fn send(&mut self, flow: Flow, bytes: Vec<u8>) {
        match flow.protocol {
            Protocol::Udp => {
                if let Some((_, socket)) =
                    self.sockets.iter().find(|(local, _)| *local == flow.local)
                {
                    // An error may be that of another datagram, and is told once. Whatever is lost
                    // here is sent again by its transaction.
                    let lost = |error: &io::Error| error.kind() != io::ErrorKind::WouldBlock;
                    if socket.try_send_to(&bytes, flow.peer).as_ref().is_err_and(lost) {
                        let _ = socket.try_send_to(&bytes, flow.peer);
                    }
                }
            }
            Protocol::Tcp | Protocol::Tls => {
                let found = match flow.connection {
                    ConnectionId::NONE => self.connection_to(&flow).or_else(|| self.connect(flow)),
                    known => Some(known),
                };
                let writes = found
                    .and_then(|id| self.connections.get(&id))
                    .map(|connection| &connection.writes);
                if writes.is_none_or(|writes| writes.try_send(bytes).is_err()) {
                    if let Some(id) = found {
                        self.connections.remove(&id);
                    }
                    self.unreachable.push(flow);
                }
            }
        }
    }

    /// Closes a connection after what is written already.
    pub fn close(&mut self, flow: &Flow) {
        if self.connections.remove(&flow.connection).is_some() {
            self.unreachable.push(*flow);
        }
    }

    /// Waits for the next arrival. May be dropped at any time without losing one.
    pub async fn next(&mut self) -> TransportEvent {
        loop {
            if let Some(flow) = self.unreachable.pop() {
                return TransportEvent::Gone { flow };
            }
            // The transport holds a sender itself, so the queue never ends.
            let Some(happening) = self.happenings.recv().await else {
                std::future::pending().await
            };
            if let Some(arrival) = self.handle(happening) {
                return arrival;
            }
        }
    }

    fn handle(&mut self, happening: Input) -> Option<TransportEvent> {
        while self.tasks.try_join_next().is_some() {}
        match happening {
            Input::Arrival(arrival) => Some(arrival),
            Input::Accepted(caller) => self.accept(caller),
            Input::Ping(id) => {
                // RFC 5626 3.5.1
                let connection = self.connections.get(&id)?;
                let _ = connection.writes.try_send(b"\r\n".to_vec());
                None
            }
            Input::KeepAlive(id) => {
                // RFC 5626 4.4.1
                let connection = self.connections.get(&id)?;
                let _ = connection.writes.try_send(b"\r\n\r\n".to_vec());
                None
            }
            Input::Ended(id) => {
                let connection = self.connections.remove(&id)?;
                if connection.outgoing {
                    let named = Flow { connection: ConnectionId::NONE, ..connection.flow };
                    self.unreachable.push(named);
                }
                Some(TransportEvent::Gone { flow: connection.flow })
            }
        }
    }

    async fn bind_udp(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        let socket = Arc::new(UdpSocket::bind(address).await?);
        let local = socket.local_addr()?;
        let options = socket2::SockRef::from(&*socket);
        mark(&options, local);
        // A burst of calls must not be lost between two turns of the loop; less than asked for is
        // fine.
        let _ = options.set_recv_buffer_size(1 << 20);
        self.sockets.push((local, socket.clone()));
        errors::ask(&socket);
        self.tasks.spawn(errors::receive(socket.clone(), local, self.sender.clone()));
        self.tasks.spawn(receive(socket, local, self.sender.clone()));
        Ok(local)
    }

    async fn bind_tcp(
        &mut self,
        protocol: Protocol,
        address: SocketAddr,
    ) -> io::Result<SocketAddr> {
        if protocol.is_secure() && self.tls.server.is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no certificate"));
        }
        let listener = TcpListener::bind(address).await?;
        let local = listener.local_addr()?;
        self.tasks.spawn(listen(protocol, listener, local, self.sender.clone()));
        Ok(local)
    }

    fn accept(&mut self, caller: Dialer) -> Option<TransportEvent> {
        let source = caller.address();
        let trusted = self.trusted.iter().any(|network| network.contains(source));
        let (mut of_source, mut strangers, mut strangers_of_source) = (0, 0, 0);
        for connection in self.connections.values() {
            let (is_stranger, is_of_source) =
                (connection.stranger_since.is_some(), connection.flow.peer.ip() == source);
            of_source += usize::from(is_of_source);
            strangers += usize::from(is_stranger);
            strangers_of_source += usize::from(is_stranger && is_of_source);
        }
        let limits = &self.limits;
        if self.connections.len() >= limits.connections
            || of_source >= limits.connections_per_source
        {
            tracing::debug!(peer = %source, "connection refused: too many");
            return None;
        }
        if !trusted
            && (strangers >= limits.strangers || strangers_of_source >= limits.strangers_per_source)
        {
            return Some(TransportEvent::Crowded(caller));
        }
        self.serve(caller, trusted);
        None
    }

    fn serve(&mut self, caller: Dialer, known: bool) {
        let Dialer { protocol, stream, local, peer } = caller;
        let (flow, writes) = self.add(protocol, local, peer, false);
        if let Some(connection) = self.connections.get_mut(&flow.connection)
            && known
        {
            connection.stranger_since = None;
        }
        let opening = match &self.tls.server {
            Some(tls) if protocol.is_secure() => Opening::AcceptTls(stream, tls.clone()),
            Some(_) | None => Opening::Accept(stream),
        };
        self.tasks.spawn(open(opening, flow, self.sender.clone(), writes, self.limits));
    }

    fn connect(&mut self, wanted: Flow) -> Option<ConnectionId> {
        if self.connections.len() >= self.limits.connections {
            return None;
        }
        let opening = match wanted.protocol {
            Protocol::Udp | Protocol::Tcp => Opening::Connect,
            Protocol::Tls => {
                let ip = wanted.peer.ip();
                let is_there = |network: &Network| network.contains(ip);
                let fitting =
                    self.names.iter().filter(|(networks, _)| networks.iter().any(is_there));
                let names: Vec<String> = fitting.map(|(_, name)| name.clone()).collect();
                if names.is_empty() {
                    tracing::debug!(peer = %ip, "not connected: no trunk over TLS is there");
                    return None;
                }
                Opening::ConnectTls(self.tls.client.clone(), names)
            }
        };
        let (flow, writes) = self.add(wanted.protocol, wanted.local, wanted.peer, true);
        self.tasks.spawn(open(opening, flow, self.sender.clone(), writes, self.limits));
        Some(flow.connection)
    }

    fn add(
        &mut self,
        protocol: Protocol,
        local: SocketAddr,
        peer: SocketAddr,
        outgoing: bool,
    ) -> (Flow, mpsc::Receiver<Vec<u8>>) {
        let (writes, receiver) = mpsc::channel(WRITES);
        let flow = Flow { protocol, local, peer, connection: ConnectionId(self.next_id) };
        self.next_id += 1;
        let stranger_since = (!outgoing).then(Instant::now);
        let connection = Connection { flow, outgoing, stranger_since, alias: None, writes };
        self.connections.insert(flow.connection, connection);
        (flow, receiver)
    }

    fn connection_to(&self, wanted: &Flow) -> Option<ConnectionId> {
        let leads_there = |connection: &Connection| {
            connection.flow.protocol == wanted.protocol
                && (connection.flow.peer == wanted.peer || connection.alias == Some(wanted.peer))
        };
        let found = self.connections.iter().find(|(_, connection)| leads_there(connection));
        found.map(|(id, _)| *id)
    }
}

fn mark(socket: &socket2::SockRef<'_>, local: SocketAddr) {
    // Networks that forbid the marking still carry the packets.
    let _ = match local {
        SocketAddr::V4(_) => socket.set_tos_v4(TOS_SIGNALLING),
        SocketAddr::V6(_) => socket.set_tclass_v6(TOS_SIGNALLING),
    };
}

async fn receive(socket: Arc<UdpSocket>, local: SocketAddr, sender: mpsc::Sender<Input>) {
    let mut buffer = vec![0; DATAGRAM];
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) if errors::is_of_another(&error) => continue,
            Err(_) => {
                sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let flow = Flow { protocol: Protocol::Udp, local, peer, connection: ConnectionId::NONE };
        let bytes = buffer[..length].to_vec();
        if sender.send(Input::Arrival(TransportEvent::Datagram { flow, bytes })).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    const OPTIONS: &[u8] = b"OPTIONS sip:a@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/TCP \
                             127.0.0.1;branch=z9hG4bK1\r\nMax-Forwards: 70\r\n\
        From: <sip:b@127.0.0.1>;tag=b\r\nTo: <sip:a@127.0.0.1>\r\nCall-ID: 1\r\nCSeq: 1 OPTIONS\r\n\
        Content-Length: 0\r\n\r\n";

    async fn connected(limits: SipLimits) -> (Transport, TcpStream) {
        let listen = ListenAddress::new(Protocol::Tcp, (Ipv4Addr::LOCALHOST, 0).into());
        let transport = Transport::bind(&[listen], limits, TransportTls::default()).await.unwrap();
        let peer = TcpStream::connect(transport.locals()[0].1).await.unwrap();
        (transport, peer)
    }

    #[tokio::test]
    async fn a_connection_that_only_pings_is_closed_at_the_deadline_of_its_first_message() {
        let limits =
            SipLimits { message_deadline: Duration::from_millis(300), ..SipLimits::default() };
        let (mut transport, mut peer) = connected(limits).await;
        peer.write_all(b"\r\n\r\n").await.unwrap();
        let arrival = timeout(Duration::from_secs(30), transport.next()).await.unwrap();
        assert!(matches!(arrival, TransportEvent::Gone { .. }), "{arrival:?}");
        assert_eq!(transport.connections(), 0);
        let mut said = Vec::new();
        peer.read_to_end(&mut said).await.unwrap();
        assert_eq!(said, b"\r\n");
    }

    /// Takes what comes until `count` connections stand, and says which found no place.
    async fn settle(transport: &mut Transport, count: usize) -> Vec<Dialer> {
        let mut crowded = Vec::new();
        while transport.connections() + crowded.len() < count {
            // It does not end where nothing has arrived: a connection that is taken in makes no
            // arrival.
            let step = transport.happenings.recv().await.unwrap();
            match transport.handle(step) {
                Some(TransportEvent::Crowded(caller)) => crowded.push(caller),
                Some(TransportEvent::Gone { .. }) | None => {}
                Some(other) => panic!("{other:?}"),
            }
        }
        crowded
    }

    #[tokio::test]
    async fn a_stranger_that_talks_on_is_asked_about_as_soon_as_its_time_is_up() {
        let limits = SipLimits {
            stranger_lifetime: Duration::from_millis(100),
            idle: Duration::from_secs(3600),
            ..SipLimits::default()
        };
        let (mut transport, mut peer) = connected(limits).await;
        peer.write_all(OPTIONS).await.unwrap();
        let mut messages = 0;
        let flow = loop {
            match timeout(Duration::from_secs(30), transport.next()).await.unwrap() {
                TransportEvent::Message { .. } => messages += 1,
                TransportEvent::Idle { flow } => break flow,
                other => panic!("{other:?}"),
            }
            peer.write_all(OPTIONS).await.unwrap();
        };
        assert!(messages > 0);
        transport.close(&flow);
        assert_eq!(transport.connections(), 0);
    }

    #[tokio::test]
    async fn strangers_have_a_share_and_whoever_is_known_finds_a_place_beside_them() {
        let limits = SipLimits {
            connections: 6,
            strangers: 3,
            strangers_per_source: 3,
            message_deadline: Duration::from_secs(3600),
            ..SipLimits::default()
        };
        let (mut transport, first) = connected(limits).await;
        let at = transport.locals()[0].1;
        let mut strangers = vec![first];
        for _ in 0..4 {
            strangers.push(TcpStream::connect(at).await.unwrap());
        }
        let mut crowded = settle(&mut transport, 5).await;
        assert_eq!((transport.connections(), crowded.len()), (3, 2));
        // One that has registered makes room for another stranger; one whose address is known finds
        // a place of its own.
        let flow = transport.connections.values().next().unwrap().flow;
        transport.know(&flow);
        transport.admit(crowded.pop().unwrap(), true);
        assert_eq!(transport.connections(), 4);
        strangers.push(TcpStream::connect(at).await.unwrap());
        assert!(settle(&mut transport, 5).await.is_empty());
        transport.admit(crowded.pop().unwrap(), false);
        assert_eq!(transport.connections(), 5, "no stranger has had its chance yet");
        // A trunk is known from the beginning.
        transport.trust([IpAddr::from(Ipv4Addr::LOCALHOST).into()]);
        strangers.push(TcpStream::connect(at).await.unwrap());
        assert!(settle(&mut transport, 6).await.is_empty());
        assert_eq!(transport.connections(), 6);
    }

    #[tokio::test]
    async fn a_stranger_that_has_had_its_chance_gives_way_to_the_next() {
        let limits =
            SipLimits { strangers: 1, message_deadline: Duration::ZERO, ..SipLimits::default() };
        let (mut transport, _first) =
            connected(SipLimits { message_deadline: Duration::from_secs(3600), ..limits }).await;
        settle(&mut transport, 1).await;
        let oldest = transport.connections.values().next().unwrap().flow;
        let _second = TcpStream::connect(transport.locals()[0].1).await.unwrap();
        let crowded = settle(&mut transport, 2).await.pop().unwrap();
        transport.limits = limits;
        transport.admit(crowded, false);
        assert_eq!(transport.connections(), 1);
        assert!(!transport.connections.contains_key(&oldest.connection));
    }

    #[tokio::test]
    async fn an_idle_connection_is_asked_about_again_and_again_and_closed_when_nobody_needs_it() {
        let limits = SipLimits { idle: Duration::from_millis(50), ..SipLimits::default() };
        let (mut transport, mut peer) = connected(limits).await;
        peer.write_all(OPTIONS).await.unwrap();
        assert!(matches!(transport.next().await, TransportEvent::Message { .. }));
        for _ in 0..3 {
            assert!(matches!(transport.next().await, TransportEvent::Idle { .. }));
            assert_eq!(transport.connections(), 1);
        }
        let TransportEvent::Idle { flow } = transport.next().await else { panic!() };
        transport.close(&flow);
        assert!(
            matches!(transport.next().await, TransportEvent::Gone { flow: gone } if gone == flow)
        );
        assert_eq!(transport.connections(), 0);
        assert_eq!(peer.read(&mut [0; 16]).await.unwrap(), 0);
    }
}
