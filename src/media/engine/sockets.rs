//! A leg's sockets.
//!
//! Two are bound to the RTP port. The one that is connected to the leg's source takes and sends its
//! stream: the system has looked up the way there once and not for every packet. The other takes
//! what comes from anywhere else, so that strangers are seen and counted, and everything while the
//! source is not settled. RTCP has its own. Or it shares a pair of ports with other legs.
//!
//! The connected socket is a matter of cost, not of trust: whatever it delivers is held against the
//! signalled source like the rest.

use super::shared_ports::{PortPair, SendBatch, SourceTable};
use super::worker::{PacketKind, to_token};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::PoisonError;

/// What every media socket of the engine is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct SocketOptions {
    /// The address they are bound to.
    pub bind: IpAddr,
    /// The DSCP of what is sent.
    pub dscp: u8,
    /// Sockets with this descriptor or a higher one are given back. The system gives the lowest
    /// that is free.
    pub descriptors_below: RawFd,
}

impl SocketOptions {
    /// A socket on a port; 0: any that is free.
    pub(super) fn socket(&self, port: u16) -> io::Result<UdpSocket> {
        let socket = self.unbound()?;
        socket.bind(&SocketAddr::new(self.bind, port).into())?;
        Ok(socket.into())
    }

    fn unbound(&self) -> io::Result<Socket> {
        let tos = u32::from(self.dscp & 0x3f) << 2;
        let domain = match self.bind {
            IpAddr::V4(_) => Domain::IPV4,
            IpAddr::V6(_) => Domain::IPV6,
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if socket.as_raw_fd() >= self.descriptors_below {
            return Err(Errno::EMFILE.into());
        }
        socket.set_nonblocking(true)?;
        if self.bind.is_ipv4() || self.takes_both() {
            socket.set_tos_v4(tos)?;
        }
        if self.bind.is_ipv6() {
            socket.set_only_v6(!self.takes_both())?;
            socket.set_tclass_v6(tos)?;
        }
        Ok(socket)
    }

    /// Room for what has come and is not taken yet, in bytes; as much of it as the system gives.
    pub(super) fn make_room(&self, socket: &UdpSocket, bytes: usize) -> io::Result<()> {
        // A process that may goes beyond the limit of the system.
        if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
            SockRef::from(socket).set_recv_buffer_size(bytes)?;
        }
        Ok(())
    }

    fn takes_both(&self) -> bool {
        self.bind == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    }

    /// Another socket on the port of `other`, for one source. Sockets that are made here may share
    /// a port with each other, and with nobody else: `other` lets nobody join it.
    fn connected(&self, other: &UdpSocket, source: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.unbound()?;
        let port = other.local_addr()?.port();
        let other = SockRef::from(other);
        socket.set_reuse_address(true)?;
        other.set_reuse_address(true)?;
        let bound = socket.bind(&SocketAddr::new(self.bind, port).into());
        other.set_reuse_address(false)?;
        bound?;
        socket.connect(&outward(source, self.takes_both()).into())?;
        Ok(socket.into())
    }
}

/// How we name an address that a socket names.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// How a socket names an address that it sends to.
pub(super) fn outward(to: SocketAddr, takes_both: bool) -> SocketAddr {
    match to {
        SocketAddr::V4(to) if takes_both => {
            SocketAddr::new(to.ip().to_ipv6_mapped().into(), to.port())
        }
        to => to,
    }
}

/// Which of a leg's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// RTP from anywhere.
    Rtp,
    /// RTP of the source.
    Stream,
    /// RTCP from anywhere.
    Rtcp,
}

/// The sockets of a leg.
#[derive(Debug)]
pub(super) struct Sockets {
    home: Home,
    /// Connected to the source.
    stream: Option<(UdpSocket, SocketAddr)>,
    takes_both: bool,
}

#[derive(Debug)]
enum Home {
    /// Ports of its own.
    Own { rtp: UdpSocket, rtcp: UdpSocket },
    /// A pair that it shares, by number, and the sources under which the worker of the pair has
    /// entered it: RTP and RTCP.
    Shared { pair: usize, is_alone: bool, entered: [Option<SocketAddr>; 2] },
    /// The same, but its call is another worker's: RTCP has a socket connected to its source, as
    /// RTP has `stream`.
    Away { pair: usize, is_alone: bool, rtcp: Option<(UdpSocket, SocketAddr)> },
}

/// What a leg's sockets belong to.
pub(super) struct SocketContext<'a> {
    pub worker: usize,
    pub options: &'a SocketOptions,
    pub epoll: &'a Epoll,
    pub pairs: &'a [PortPair],
    pub sources: &'a mut SourceTable,
    pub place: usize,
    pub slot: usize,
}

impl SocketContext<'_> {
    fn token(&self, which: Which) -> u64 {
        to_token(self.place, self.slot, which)
    }
}

impl Sockets {
    /// An even port and its neighbour.
    pub(super) fn on(options: &SocketOptions, port: u16) -> io::Result<Self> {
        let home = Home::Own { rtp: options.socket(port)?, rtcp: options.socket(port + 1)? };
        Ok(Self { home, stream: None, takes_both: options.takes_both() })
    }

    /// Those of a pair that is there.
    pub(super) fn shared(options: &SocketOptions, pair: usize) -> Self {
        Self {
            home: Home::Shared { pair, is_alone: false, entered: [None; 2] },
            stream: None,
            takes_both: options.takes_both(),
        }
    }

    /// The leg has come to a worker.
    pub(super) fn arrive(&mut self, context: &SocketContext<'_>) -> io::Result<()> {
        match &mut self.home {
            Home::Own { rtp, rtcp } => {
                let stream = self.stream.as_ref().map(|(socket, _)| (socket, Which::Stream));
                for (socket, which) in
                    [(&*rtp, Which::Rtp), (&*rtcp, Which::Rtcp)].into_iter().chain(stream)
                {
                    context.epoll.add(socket, readable(context.token(which)))?;
                }
            }
            Home::Shared { pair, is_alone, .. } | Home::Away { pair, is_alone, .. } => {
                let (pair, is_alone) = (*pair, *is_alone);
                self.stream = None;
                self.home = match context.pairs.get(pair).map(|pair| pair.worker) {
                    Some(worker) if worker == context.worker => {
                        Home::Shared { pair, is_alone, entered: [None; 2] }
                    }
                    Some(_) | None => Home::Away { pair, is_alone, rtcp: None },
                };
            }
        }
        Ok(())
    }

    /// The leg leaves its worker.
    pub(super) fn depart(&mut self, context: &mut SocketContext<'_>) -> io::Result<()> {
        match &mut self.home {
            Home::Own { rtp, rtcp } => {
                let stream = self.stream.as_ref().map(|(socket, _)| socket);
                for socket in [&*rtp, &*rtcp].into_iter().chain(stream) {
                    context.epoll.delete(socket)?;
                }
            }
            Home::Shared { pair, entered, .. } => {
                for (way, from) in PacketKind::BOTH.into_iter().zip(entered) {
                    if let Some(from) = from.take() {
                        context.sources.leave(*pair, way, from, (context.place, context.slot));
                    }
                }
            }
            // Closed, they leave the epoll by themselves: nobody else has their descriptors.
            Home::Away { rtcp, .. } => {
                self.stream = None;
                *rtcp = None;
            }
        }
        Ok(())
    }

    /// Whether the packets of a leg that shares its ports can be told from those of others. Returns
    /// whether that is news.
    pub(super) fn tell(&mut self, alone: bool) -> bool {
        match &mut self.home {
            Home::Own { .. } => false,
            Home::Shared { is_alone, .. } | Home::Away { is_alone, .. } => {
                std::mem::replace(is_alone, alone) != alone
            }
        }
    }

    /// The sources of RTP and RTCP are settled, or are others now. A leg with ports of its own that
    /// cannot be connected is served as before.
    pub(super) fn connect(
        &mut self,
        context: &mut SocketContext<'_>,
        sources: [Option<SocketAddr>; 2],
    ) {
        let stream = context.token(Which::Stream);
        match &mut self.home {
            Home::Own { rtp, .. } => {
                if let [Some(source), _] = sources
                    && let Err(error) = connect(&mut self.stream, context, rtp, source, stream)
                {
                    tracing::debug!(%error, %source, "a media socket cannot be connected");
                }
            }
            Home::Shared { pair, is_alone, entered } => {
                let owner = (context.place, context.slot);
                for ((way, source), entered) in
                    PacketKind::BOTH.into_iter().zip(sources).zip(entered)
                {
                    let source = source.filter(|_| *is_alone);
                    if *entered == source {
                        continue;
                    }
                    if let Some(before) = entered.take() {
                        context.sources.leave(*pair, way, before, owner);
                    }
                    *entered =
                        source.filter(|source| context.sources.enter(*pair, way, *source, owner));
                }
            }
            Home::Away { pair, is_alone, rtcp } => {
                let Some(pair) = context.pairs.get(*pair) else {
                    return;
                };
                let rtcp_token = context.token(Which::Rtcp);
                let ways = [(&mut self.stream, &pair.rtp, stream), (rtcp, &pair.rtcp, rtcp_token)];
                for ((socket, other, token), source) in ways.into_iter().zip(sources) {
                    let Some(source) = source.filter(|_| *is_alone) else {
                        *socket = None;
                        continue;
                    };
                    let _joining = pair.joining.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Err(error) = connect(socket, context, other, source, token) {
                        tracing::warn!(%error, "a leg's shared port cannot be joined from another \
                                                thread: it is not heard");
                    }
                }
            }
        }
    }

    /// One datagram. An ICMP error of an earlier packet comes out here; the next turn has the
    /// packets.
    pub(super) fn receive(
        &self,
        which: Which,
        datagram: &mut [u8],
    ) -> io::Result<(usize, SocketAddr)> {
        let socket = match (which, &self.home, &self.stream) {
            (Which::Rtp, Home::Own { rtp, .. }, _) => rtp,
            (Which::Rtcp, Home::Own { rtcp, .. } | Home::Away { rtcp: Some((rtcp, _)), .. }, _) => {
                rtcp
            }
            (Which::Stream, _, Some((socket, _))) => socket,
            _ => return Err(io::ErrorKind::NotConnected.into()),
        };
        let (len, from) = socket.recv_from(datagram)?;
        Ok((len, canonical(from)))
    }

    /// Sends RTP, at once or with the worker's other packets.
    pub(super) fn send(
        &self,
        bytes: &[u8],
        to: SocketAddr,
        pairs: &[PortPair],
        sends: &mut SendBatch,
    ) -> io::Result<()> {
        if let Some((socket, source)) = &self.stream
            && *source == to
        {
            // An ICMP error of an earlier packet comes out here instead of sending.
            match socket.send(bytes) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    socket.send(bytes)?
                }
                sent => sent?,
            };
            return Ok(());
        }
        match &self.home {
            Home::Own { rtp, .. } => rtp.send_to(bytes, outward(to, self.takes_both)).map(drop),
            Home::Shared { pair, .. } | Home::Away { pair, .. } => {
                sends.put(pairs, *pair, bytes, outward(to, self.takes_both))
            }
        }
    }

    /// Sends a report by the RTCP port.
    pub(super) fn send_rtcp(
        &self,
        bytes: &[u8],
        to: SocketAddr,
        pairs: &[PortPair],
    ) -> io::Result<()> {
        let to = outward(to, self.takes_both);
        match &self.home {
            Home::Own { rtcp, .. } => rtcp.send_to(bytes, to).map(drop),
            Home::Shared { pair, .. } | Home::Away { pair, .. } => match pairs.get(*pair) {
                Some(pair) => pair.rtcp.send_to(bytes, to).map(drop),
                None => Err(io::ErrorKind::NotConnected.into()),
            },
        }
    }
}

fn readable(token: u64) -> EpollEvent {
    EpollEvent::new(EpollFlags::EPOLLIN, token)
}

/// A socket on the port of `other` for one source, in place of the one for another.
fn connect(
    socket: &mut Option<(UdpSocket, SocketAddr)>,
    context: &SocketContext<'_>,
    other: &UdpSocket,
    source: SocketAddr,
    token: u64,
) -> io::Result<()> {
    if socket.as_ref().is_some_and(|(_, known)| *known == source) {
        return Ok(());
    }
    // Closed, it leaves the epoll by itself: nobody else has its descriptor.
    *socket = None;
    let connected = context.options.connected(other, source)?;
    context.epoll.add(&connected, readable(token))?;
    *socket = Some((connected, source));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn options() -> SocketOptions {
        SocketOptions { bind: Ipv4Addr::LOCALHOST.into(), dscp: 46, descriptors_below: RawFd::MAX }
    }

    fn wait_for(socket: &UdpSocket) -> [u8; 1] {
        let mut datagram = [0; 1];
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        socket.recv(&mut datagram).unwrap();
        datagram
    }

    /// A port with a free neighbour, if one is there.
    fn port() -> u16 {
        let any = options().socket(0).unwrap();
        any.local_addr().unwrap().port() & !1
    }

    fn pair() -> PortPair {
        (0..50).find_map(|_| PortPair::on(&options(), port(), 0).ok()).expect("two free ports")
    }

    fn own() -> Sockets {
        (0..50).find_map(|_| Sockets::on(&options(), port()).ok()).expect("two free ports")
    }

    fn with<T>(
        worker: usize,
        pairs: &[PortPair],
        then: impl FnOnce(&mut SocketContext<'_>) -> T,
    ) -> T {
        then(&mut SocketContext {
            worker,
            options: &options(),
            epoll: &Epoll::new(nix::sys::epoll::EpollCreateFlags::empty()).unwrap(),
            pairs,
            sources: &mut SourceTable::default(),
            place: 0,
            slot: 0,
        })
    }

    fn rtp(sockets: &Sockets) -> &UdpSocket {
        match &sockets.home {
            Home::Own { rtp, .. } => rtp,
            home => panic!("{home:?}"),
        }
    }

    #[test]
    fn the_source_comes_by_the_connected_socket_and_everybody_else_by_the_other() {
        let mut sockets = own();
        let phones = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let source = phones[0].local_addr().unwrap();
        with(0, &[], |context| {
            sockets.connect(context, [Some(source), None]);
            let here = rtp(&sockets).local_addr().unwrap();
            phones[0].send_to(&[1], here).unwrap();
            phones[1].send_to(&[2], here).unwrap();
            assert_eq!(wait_for(&sockets.stream.as_ref().unwrap().0), [1]);
            assert_eq!(wait_for(rtp(&sockets)), [2]);
            sockets.send(&[3], source, &[], &mut SendBatch::new(&[], 0)).unwrap();
            assert_eq!(wait_for(&phones[0]), [3]);
            // Moved to the other phone.
            sockets.connect(context, [Some(phones[1].local_addr().unwrap()), None]);
            rtp(&sockets).set_nonblocking(true).unwrap();
            phones[1].send_to(&[4], here).unwrap();
            assert_eq!(wait_for(&sockets.stream.as_ref().unwrap().0), [4]);
        });
    }

    #[test]
    fn nobody_else_gets_a_port_that_two_sockets_share() {
        let mut sockets = own();
        with(0, &[], |context| {
            sockets.connect(context, [Some(SocketAddr::from(([127, 0, 0, 1], 9))), None])
        });
        assert!(sockets.stream.is_some());
        let third = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        third.set_reuse_address(true).unwrap();
        let port = rtp(&sockets).local_addr().unwrap().port();
        let refused = third.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn legs_that_went_to_another_worker_have_their_packets_there_and_the_others_stay() {
        let pairs = [pair()];
        let phones = [(); 3].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let mut away: Vec<Sockets> = (0..2).map(|_| Sockets::shared(&options(), 0)).collect();
        for (leg, phone) in away.iter_mut().zip(&phones) {
            with(1, &pairs, |context| {
                leg.arrive(context).unwrap();
                leg.tell(true);
                leg.connect(context, [Some(phone.local_addr().unwrap()), None]);
            });
        }
        for (sent, phone) in phones.iter().enumerate() {
            phone.send_to(&[sent as u8], pairs[0].address).unwrap();
        }
        assert_eq!(wait_for(&away[0].stream.as_ref().unwrap().0), [0]);
        assert_eq!(wait_for(&away[1].stream.as_ref().unwrap().0), [1]);
        assert_eq!(wait_for(&pairs[0].rtp), [2]);
        away[1]
            .send(&[9], phones[1].local_addr().unwrap(), &pairs, &mut SendBatch::new(&pairs, 1))
            .unwrap();
        assert_eq!(wait_for(&phones[1]), [9]);
        let third = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        third.set_reuse_address(true).unwrap();
        assert!(third.bind(&pairs[0].address.into()).is_err(), "nobody else gets the port");
    }

    #[test]
    fn workers_join_a_pair_at_the_same_time() {
        let pairs = [pair()];
        std::thread::scope(|scope| {
            for thread in 1..3 {
                let pairs = &pairs;
                scope.spawn(move || {
                    for n in 0..500 {
                        let mut leg = Sockets::shared(&options(), 0);
                        with(thread, pairs, |context| {
                            leg.arrive(context).unwrap();
                            leg.tell(true);
                            let source =
                                SocketAddr::from(([127, 0, 0, 1], 10_000 + 2 * n + thread as u16));
                            leg.connect(context, [Some(source), None]);
                        });
                        assert!(leg.stream.is_some());
                    }
                });
            }
        });
    }
}
