//! A leg's sockets.
//!
//! Two are bound to the RTP port. The one that is connected to the leg's source takes and sends its stream: the system has looked up the
//! way there once and not for every packet. The other takes what comes from anywhere else, so that strangers are seen and counted, and
//! everything while the source is not settled. RTCP has its own.
//!
//! The connected socket is a matter of cost, not of trust: whatever it delivers is held against the signalled source like the rest.

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollEvent, EpollFlags};
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};

/// What every media socket of the engine is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manner {
    /// The address they are bound to.
    pub bind: IpAddr,
    /// The DSCP of what is sent.
    pub dscp: u8,
    /// Sockets with this descriptor or a higher one are given back. The system gives the lowest that is free.
    pub descriptors_below: RawFd,
}

impl Manner {
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

    fn takes_both(&self) -> bool {
        self.bind == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    }

    /// A second socket on the port of `other`, for one source. No third may join them, neither before nor after.
    fn connected(&self, other: &UdpSocket, source: SocketAddr) -> io::Result<UdpSocket> {
        let socket = self.unbound()?;
        let port = other.local_addr()?.port();
        let other = SockRef::from(other);
        socket.set_reuse_address(true)?;
        other.set_reuse_address(true)?;
        let bound = socket.bind(&SocketAddr::new(self.bind, port).into());
        other.set_reuse_address(false)?;
        socket.set_reuse_address(false)?;
        bound?;
        socket.connect(&outward(source, self.takes_both()).into())?;
        Ok(socket.into())
    }
}

/// How a socket names an address that it sends to.
fn outward(to: SocketAddr, takes_both: bool) -> SocketAddr {
    match to {
        SocketAddr::V4(to) if takes_both => SocketAddr::new(to.ip().to_ipv6_mapped().into(), to.port()),
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
    /// RTCP.
    Rtcp,
}

/// The sockets of a leg.
#[derive(Debug)]
pub(super) struct Sockets {
    rtp: UdpSocket,
    rtcp: UdpSocket,
    stream: Option<(UdpSocket, SocketAddr)>,
    /// Bound to `::`: what comes over IPv4 comes from mapped addresses (RFC 4291 2.5.5.2), and is sent there by them.
    takes_both: bool,
}

impl Sockets {
    /// An even port and its neighbour.
    pub(super) fn on(manner: &Manner, port: u16) -> io::Result<Self> {
        Ok(Self {
            rtp: manner.socket(port)?,
            rtcp: manner.socket(port + 1)?,
            stream: None,
            takes_both: manner.takes_both(),
        })
    }

    /// Where RTP is received.
    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.rtp.local_addr()
    }

    /// The worker waits for them.
    pub(super) fn watch(&self, epoll: &Epoll, token: impl Fn(Which) -> u64) -> io::Result<()> {
        let stream = self.stream.as_ref().map(|(socket, _)| (socket, Which::Stream));
        for (socket, which) in [(&self.rtp, Which::Rtp), (&self.rtcp, Which::Rtcp)].into_iter().chain(stream) {
            epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, token(which)))?;
        }
        Ok(())
    }

    /// The worker no longer waits for them.
    pub(super) fn unwatch(&self, epoll: &Epoll) -> io::Result<()> {
        let stream = self.stream.as_ref().map(|(socket, _)| socket);
        for socket in [&self.rtp, &self.rtcp].into_iter().chain(stream) {
            epoll.delete(socket)?;
        }
        Ok(())
    }

    /// The source is settled, or is another one now. What cannot be connected is served as before.
    pub(super) fn connect(&mut self, manner: &Manner, source: Option<SocketAddr>, epoll: &Epoll, token: u64) {
        let Some(source) = source else { return };
        if self.stream.as_ref().is_some_and(|(_, known)| *known == source) {
            return;
        }
        // Closed, it leaves the epoll by itself: nobody else has its descriptor.
        self.stream = None;
        let connected = manner.connected(&self.rtp, source).and_then(|socket| {
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, token))?;
            Ok(socket)
        });
        match connected {
            Ok(socket) => self.stream = Some((socket, source)),
            Err(error) => tracing::debug!(%error, %source, "a media socket cannot be connected"),
        }
    }

    /// One datagram. An ICMP error of an earlier packet comes out here; the next turn has the packets.
    pub(super) fn receive(&self, which: Which, datagram: &mut [u8]) -> io::Result<(usize, SocketAddr)> {
        let (len, from) = match (which, &self.stream) {
            (Which::Rtp, _) => self.rtp.recv_from(datagram)?,
            (Which::Rtcp, _) => self.rtcp.recv_from(datagram)?,
            (Which::Stream, Some((socket, _))) => socket.recv_from(datagram)?,
            (Which::Stream, None) => return Err(io::ErrorKind::NotConnected.into()),
        };
        Ok((len, SocketAddr::new(from.ip().to_canonical(), from.port())))
    }

    /// Sends RTP.
    pub(super) fn send(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        match &self.stream {
            // An ICMP error of an earlier packet comes out here instead of sending.
            Some((socket, source)) if *source == to => match socket.send(bytes) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => socket.send(bytes),
                sent => sent,
            },
            Some(_) | None => self.rtp.send_to(bytes, outward(to, self.takes_both)),
        }
    }

    /// Sends RTCP.
    pub(super) fn send_rtcp(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        self.rtcp.send_to(bytes, outward(to, self.takes_both))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn manner() -> Manner {
        Manner {
            bind: Ipv4Addr::LOCALHOST.into(),
            dscp: 46,
            descriptors_below: RawFd::MAX,
        }
    }

    fn wait_for(socket: &UdpSocket) -> [u8; 1] {
        let mut datagram = [0; 1];
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        socket.recv(&mut datagram).unwrap();
        datagram
    }

    #[test]
    fn the_source_comes_by_the_connected_socket_and_everybody_else_by_the_other() {
        let any = manner().socket(0).unwrap();
        let port = any.local_addr().unwrap().port() & !1;
        drop(any);
        let Ok(mut sockets) = Sockets::on(&manner(), port) else { return };
        let epoll = Epoll::new(nix::sys::epoll::EpollCreateFlags::empty()).unwrap();
        let phones = [(); 2].map(|()| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        let source = phones[0].local_addr().unwrap();
        sockets.connect(&manner(), Some(source), &epoll, 0);
        let here = sockets.local_addr().unwrap();
        phones[0].send_to(&[1], here).unwrap();
        phones[1].send_to(&[2], here).unwrap();
        assert_eq!(wait_for(&sockets.stream.as_ref().unwrap().0), [1]);
        assert_eq!(wait_for(&sockets.rtp), [2]);
        sockets.send(&[3], source).unwrap();
        assert_eq!(wait_for(&phones[0]), [3]);
        // Moved to the other phone.
        sockets.connect(&manner(), Some(phones[1].local_addr().unwrap()), &epoll, 0);
        sockets.rtp.set_nonblocking(true).unwrap();
        phones[1].send_to(&[4], here).unwrap();
        assert_eq!(wait_for(&sockets.stream.as_ref().unwrap().0), [4]);
    }

    #[test]
    fn nobody_else_gets_a_port_that_two_sockets_share() {
        let any = manner().socket(0).unwrap();
        let port = any.local_addr().unwrap().port() & !1;
        drop(any);
        let Ok(mut sockets) = Sockets::on(&manner(), port) else { return };
        let epoll = Epoll::new(nix::sys::epoll::EpollCreateFlags::empty()).unwrap();
        sockets.connect(&manner(), Some(SocketAddr::from(([127, 0, 0, 1], 9))), &epoll, 0);
        assert!(sockets.stream.is_some());
        let third = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        third.set_reuse_address(true).unwrap();
        let refused = third.bind(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }
}
