//! From which peer a packet is, as far as its source tells, and where its sender hears.
//!
//! A source is an address and a port; a peer is a party that speaks from one or several of them. A
//! trunk is all its sources: nodes and ports come and go between two of its messages. Everybody
//! else is an address: a phone's port changes with its NAT, its restart, its transport. What
//! belongs together within one peer is told by what nobody else knows: branches, Call-IDs, tags
//! (RFC 3261 17.2.3, 12.2.2).
//!
//! Where a peer hears is another question. A response goes to the source's address and the port of
//! sent-by, or to the source port when rport asks for that (RFC 3261 18.2.2, RFC 3581 4); never to
//! another host than the source.

use super::config::Trunk;
use super::flow::{ConnectionId, Flow, Protocol};
use super::message::{Host, Scheme, Uri, Via};
use crate::model::Network;
use std::net::{IpAddr, SocketAddr};

/// A party that speaks from one or several sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Peer {
    /// A trunk, or several that have a source in common.
    Trunk(u16),
    /// Anybody else, by address.
    Host(IpAddr),
}

/// Which sources are one peer.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    /// Where trunks are: addresses, the port of their datagrams (`None` is any), and the group of
    /// trunks that speaks from there.
    at: Vec<(Network, Option<u16>, u16)>,
}

impl Peers {
    /// The peers of a configuration in which the addresses of trunks are known.
    pub fn new(trunks: &[Trunk]) -> Self {
        let mut group: Vec<u16> = (0..trunks.len()).map(|number| number as u16).collect();
        for (second, later) in trunks.iter().enumerate() {
            for (first, earlier) in trunks[..second].iter().enumerate() {
                let shared = ends(later).any(|one| ends(earlier).any(|other| overlap(one, other)));
                let (old, new) = (group[second], group[first]);
                if shared {
                    group.iter_mut().filter(|group| **group == old).for_each(|group| *group = new);
                }
            }
        }
        let ends = trunks.iter().zip(group).flat_map(|(trunk, group)| {
            ends(trunk).map(move |(network, port)| (network, port, group))
        });
        Self { at: ends.collect() }
    }

    /// The peer that sends from there.
    pub fn of(&self, flow: &Flow) -> Peer {
        let address = flow.peer.ip().to_canonical();
        let covers = |(network, port, _): &&(Network, Option<u16>, u16)| {
            network.contains(address) && port_fits(*port, flow)
        };
        let found = self.at.iter().find(covers);
        found.map_or(Peer::Host(address), |(_, _, group)| Peer::Trunk(*group))
    }

    /// Both ends are the same peer's: one address, or one trunk.
    pub fn same(&self, one: &Flow, other: &Flow) -> bool {
        one.peer.ip().to_canonical() == other.peer.ip().to_canonical()
            || match (self.of(one), self.of(other)) {
                (Peer::Trunk(one), Peer::Trunk(other)) => one == other,
                (Peer::Host(_), _) | (_, Peer::Host(_)) => false,
            }
    }
}

/// This trunk speaks from there.
pub fn speaks_from(trunk: &Trunk, flow: &Flow) -> bool {
    trunk.may_speak(flow.protocol)
        && ends(trunk).any(|(at, port)| at.contains(flow.peer.ip()) && port_fits(port, flow))
}

/// The port of a connection is chance and proves nothing: an end with a port is one of datagrams.
fn port_fits(port: Option<u16>, flow: &Flow) -> bool {
    match flow.protocol {
        Protocol::Udp => port.is_none_or(|port| port == flow.peer.port()),
        Protocol::Tcp | Protocol::Tls => port.is_none(),
    }
}

/// Where a trunk speaks from: its sources, and its targets unless the sources say more about that
/// address. The ports of one that speaks by connections are any.
fn ends(trunk: &Trunk) -> impl Iterator<Item = (Network, Option<u16>)> {
    let targets = trunk.addresses().map(|(_, address)| address.ip());
    let targets =
        targets.filter(|target| !trunk.sources.iter().any(|source| source.contains(*target)));
    let of_datagrams = trunk.speaks(Protocol::Udp);
    let sources = trunk.sources.iter().flat_map(move |source| {
        let port = source.port.filter(|_| of_datagrams);
        source.networks.iter().map(move |network| (*network, port))
    });
    sources.chain(targets.map(|target| (target.into(), None)))
}

fn overlap(one: (Network, Option<u16>), other: (Network, Option<u16>)) -> bool {
    one.0.overlaps(&other.0) && (one.1.is_none() || other.1.is_none() || one.1 == other.1)
}

/// Where a request came from, and where its sender hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnPath {
    /// Where it came from.
    pub source: Flow,
    /// Where its responses go.
    pub reply: Flow,
    /// Where they go when its connection is gone (RFC 3261 18.2.2): an address to connect to.
    pub fallback: Option<SocketAddr>,
    /// Its sender hears at the source itself: rport was asked for, a connection is there, or a NAT
    /// is between.
    at_source: bool,
}

impl ReturnPath {
    /// The path of a request with this topmost Via. `keeps` to the source whatever the Via says: a
    /// NAT is between.
    pub fn new(source: Flow, via: Option<&Via>, keeps: bool) -> Self {
        let sent_by = via
            .map(|via| via.port.unwrap_or(source.protocol.default_port()))
            .filter(|port| *port != 0);
        let rport = via.is_none_or(|via| via.rport().is_some());
        let named = |port| {
            let mut address = source.peer;
            address.set_port(port);
            address
        };
        let asked = sent_by.filter(|_| !keeps).map(named);
        let (at_source, fallback) = match source.protocol {
            Protocol::Udp => (rport || asked.is_none(), None),
            Protocol::Tcp | Protocol::Tls => (true, asked),
        };
        let peer = asked.filter(|_| !at_source).unwrap_or(source.peer);
        Self { source, reply: Flow { peer, ..source }, fallback, at_source }
    }

    /// Where a request of ours finds the sender that has told its Contact: at the Contact's port
    /// when it hears where it says, else where its responses go. A Contact at another host than the
    /// source is nobody's proof.
    pub fn toward(&self, contact: &Uri) -> Flow {
        if self.at_source {
            return self.reply;
        }
        match contact_at(contact, self.source.protocol) {
            Some(address) if address.ip() == self.source.peer.ip().to_canonical() => {
                let mut peer = self.source.peer;
                peer.set_port(address.port());
                Flow { peer, ..self.reply }
            }
            Some(_) | None => self.reply,
        }
    }
}

/// The address that a Contact or Route names by number, for a transport; `None` for a name, or for
/// another transport's.
pub fn contact_at(uri: &Uri, protocol: Protocol) -> Option<SocketAddr> {
    let Host::Address(address) = uri.host() else {
        return None;
    };
    let port = uri.port().unwrap_or(protocol.default_port());
    (port != 0 && transport_of(uri) == Some(protocol))
        .then(|| SocketAddr::new(address.to_canonical(), port))
}

/// The transport that a URI asks for; `None` when it is none of ours.
pub fn transport_of(uri: &Uri) -> Option<Protocol> {
    let is_sips = uri.scheme() == Scheme::Sips;
    match uri.param("transport") {
        None if is_sips => Some(Protocol::Tls),
        None => Some(Protocol::Udp),
        // TLS is over TCP (RFC 3261 26.2.2).
        Some(name) if name.eq_ignore_ascii_case(b"tls") => Some(Protocol::Tls),
        Some(name) if name.eq_ignore_ascii_case(b"tcp") && is_sips => Some(Protocol::Tls),
        Some(name) if name.eq_ignore_ascii_case(b"tcp") => Some(Protocol::Tcp),
        Some(name) if name.eq_ignore_ascii_case(b"udp") && !is_sips => Some(Protocol::Udp),
        Some(_) => None,
    }
}

/// A way to an address that has no connection yet.
pub fn flow_to(peer: SocketAddr, like: &Flow) -> Flow {
    Flow { peer, connection: ConnectionId::NONE, ..*like }
}
