//! What ICMP says of datagrams of ours (RFC 3261 18.4): a switch whose port is closed is known to be
//! so at once, and not after 32 seconds.

use super::{Input, TransportEvent};
use crate::sip::flow::{ConnectionId, Flow, Protocol};
use nix::sys::socket::{MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::time::sleep;

/// Errors are kept for [`receive`]. A system that does not do that tells of none.
pub(super) fn ask(socket: &UdpSocket) {
    let _ = setsockopt(socket, sockopt::Ipv4RecvErr, &true);
    let _ = setsockopt(socket, sockopt::Ipv6RecvErr, &true);
}

/// The error is of a datagram that was sent, and says nothing about receiving.
pub(super) fn is_of_another(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
    )
}

/// Tells of each datagram that has not arrived.
pub(super) async fn receive(
    socket: Arc<UdpSocket>,
    local: SocketAddr,
    sender: mpsc::Sender<Input>,
) {
    loop {
        match socket.async_io(Interest::ERROR, || undelivered(&socket)).await {
            Ok(Some(peer)) => {
                let (protocol, connection) = (Protocol::Udp, ConnectionId::NONE);
                let flow = Flow { protocol, local, peer, connection };
                let arrival = Input::Arrival(TransportEvent::Undelivered { flow });
                if sender.send(arrival).await.is_err() {
                    return;
                }
            }
            Ok(None) => {}
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Where the datagram was to go that the next error is of.
fn undelivered(socket: &UdpSocket) -> io::Result<Option<SocketAddr>> {
    let mut start = [0; 16];
    let mut parts = [IoSliceMut::new(&mut start)];
    let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut parts, None, flags)?;
    let address = message.address.and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|v4| (IpAddr::from(v4.ip()), v4.port()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| (IpAddr::from(v6.ip()), v6.port())))
    });
    Ok(address.map(SocketAddr::from))
}
