//! Where a message came from and how an answer gets back.

use serde::Deserialize;
use std::fmt;
use std::net::SocketAddr;

/// A transport protocol that Undertone speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Datagrams: may be lost, repeated, reordered.
    #[default]
    Udp,
    /// A stream: nothing is retransmitted.
    Tcp,
    /// A stream that nobody on the way can read.
    Tls,
}

impl Protocol {
    /// As it stands in a Via header.
    pub fn as_str(self) -> &'static str {
        match self {
            Protocol::Udp => "UDP",
            Protocol::Tcp => "TCP",
            Protocol::Tls => "TLS",
        }
    }

    /// As it stands in a URI's transport parameter; `None`: it is what a URI without one means.
    pub fn uri_param(self) -> Option<&'static str> {
        match self {
            Protocol::Udp => None,
            Protocol::Tcp => Some("tcp"),
            Protocol::Tls => Some("tls"),
        }
    }

    /// SIP's own port on it (RFC 3261 19.1.2).
    pub fn default_port(self) -> u16 {
        match self {
            Protocol::Udp | Protocol::Tcp => 5060,
            Protocol::Tls => 5061,
        }
    }

    /// Nobody on the way can read it.
    pub fn is_secure(self) -> bool {
        match self {
            Protocol::Udp | Protocol::Tcp => false,
            Protocol::Tls => true,
        }
    }

    /// Retransmission timers are not used on it.
    pub fn is_reliable(self) -> bool {
        match self {
            Protocol::Udp => false,
            Protocol::Tcp | Protocol::Tls => true,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Names one connection, TCP or TLS, for as long as the process lives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

impl ConnectionId {
    /// UDP, or: connect when there is no connection to the peer yet.
    pub const NONE: ConnectionId = ConnectionId(0);
}

/// A way to one peer: a UDP address pair or a connection (RFC 5626's flow).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Flow {
    /// Over what.
    pub protocol: Protocol,
    /// Our listening address.
    pub local: SocketAddr,
    /// The other side.
    pub peer: SocketAddr,
    /// Which connection.
    pub connection: ConnectionId,
}
