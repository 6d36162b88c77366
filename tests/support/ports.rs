//! Ports for programs that cannot be told to take any.

use std::hash::{BuildHasher, RandomState};
use std::net::{TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

/// Below the ports that Linux gives out unasked (`ip_local_port_range` begins at 32768), so that
/// no connection of another program comes to have one before it is bound.
const FIRST: u64 = 10_000;
const COUNT: u64 = 20_000;

/// A port of 127.0.0.1, of UDP and TCP, that nobody has and no other test is given while this
/// process lives.
pub fn free_port() -> u16 {
    free_ports(1)
}

/// The first, even one of this many such ports in a row.
pub fn free_ports(count: u16) -> u16 {
    loop {
        let random = RandomState::new().hash_one(()) % (COUNT - u64::from(count));
        let first = (FIRST + random) as u16 & !1;
        let reserved: Option<Vec<_>> = (first..first + count).map(reserve).collect();
        if let Some(reserved) = reserved {
            std::mem::forget(reserved);
            return first;
        }
    }
}

/// An abstract name stands for a port: the system gives it back when the process ends.
fn reserve(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("undertone-test-port-{port}")).ok()?;
    let reserved = UnixListener::bind_addr(&name).ok()?;
    UdpSocket::bind(("127.0.0.1", port)).ok()?;
    TcpListener::bind(("127.0.0.1", port)).ok()?;
    Some(reserved)
}
