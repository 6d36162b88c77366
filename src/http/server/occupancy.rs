//! The places for connections, and what has them. Core: nothing waits here, and nothing is closed
//! here.
//!
//! ```text
//! a newcomer ─▶ a known peer? ──yes──▶ in, beside the strangers' places
//!                 │ no
//!                 ├ its address has as many as one may ─▶ refused
//!                 ├ a place is free ─▶ in
//!                 └ an address has more than it ─▶ in, instead of a connection of that one:
//!                     the oldest without a request; or, where places are shared fairly, the newest
//! ```

use super::ConnectionLimits;
use crate::model::Network;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

/// How many connections, and how many addresses, are looked at for one that may go.
const LOOKED_AT: usize = 64;

/// An address, or a network of IPv6: a client with one address there has them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::http) struct ClientNetwork(IpAddr);

impl ClientNetwork {
    pub(in crate::http) fn of(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                Self(IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64)))
            }
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

/// One place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ticket {
    origin: ClientNetwork,
    number: u64,
    is_peer: bool,
}

/// What becomes of a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entrance<T> {
    /// There was a place.
    Free(Ticket),
    /// It has the place of another, which is to go.
    InsteadOf(Ticket, T),
    /// There is none.
    Refused(AdmissionError),
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AdmissionError {
    /// The address has enough.
    Address,
    /// All are taken.
    Full,
}

#[derive(Debug)]
pub(super) struct Occupancy<T> {
    most: usize,
    most_of_one: usize,
    peers: Vec<Network>,
    is_shared_fairly: bool,
    /// Connections of each origin, the oldest first.
    strangers: BTreeMap<ClientNetwork, BTreeMap<u64, T>>,
    /// How many each has.
    by_count: BTreeSet<(usize, ClientNetwork)>,
    count: usize,
    known: BTreeMap<ClientNetwork, usize>,
    next: u64,
}

impl<T> Occupancy<T> {
    pub(super) fn new(limits: &ConnectionLimits) -> Self {
        Self {
            most: limits.connections,
            most_of_one: limits.connections_per_address,
            peers: limits.peers.clone(),
            is_shared_fairly: limits.is_shared_fairly,
            strangers: BTreeMap::new(),
            by_count: BTreeSet::new(),
            count: 0,
            known: BTreeMap::new(),
            next: 0,
        }
    }

    /// How many places are taken.
    pub(super) fn taken(&self) -> usize {
        self.count + self.known.values().sum::<usize>()
    }

    /// A newcomer. `is_idle`: of a connection that no request is under way on.
    pub(super) fn enter(
        &mut self,
        address: IpAddr,
        newcomer: T,
        is_idle: impl Fn(&T) -> bool,
    ) -> Entrance<T> {
        let is_peer = self.peers.iter().any(|network| network.contains(address));
        self.next += 1;
        let ticket = Ticket {
            origin: match is_peer {
                // Its neighbours are strangers.
                true => ClientNetwork(address.to_canonical()),
                false => ClientNetwork::of(address),
            },
            number: self.next,
            is_peer,
        };
        if is_peer {
            let count = self.known.entry(ticket.origin).or_default();
            if *count >= self.most {
                return Entrance::Refused(AdmissionError::Address);
            }
            *count += 1;
            return Entrance::Free(ticket);
        }
        let own = self.strangers.get(&ticket.origin).map_or(0, BTreeMap::len);
        if own >= self.most_of_one {
            return Entrance::Refused(AdmissionError::Address);
        }
        if self.count < self.most {
            self.admit(ticket, newcomer);
            return Entrance::Free(ticket);
        }
        match self.to_go(own, is_idle).and_then(|other| self.take(other)) {
            Some(other) => {
                self.admit(ticket, newcomer);
                Entrance::InsteadOf(ticket, other)
            }
            None => Entrance::Refused(AdmissionError::Full),
        }
    }

    /// A connection has ended. One that another took the place of has left already.
    pub(super) fn leave(&mut self, ticket: Ticket) {
        if !ticket.is_peer {
            self.take(ticket);
        } else if let Some(count) = self.known.get_mut(&ticket.origin) {
            *count -= 1;
            if *count == 0 {
                self.known.remove(&ticket.origin);
            }
        }
    }

    /// The connection that makes room for one of a client with so many.
    fn to_go(&self, own: usize, is_idle: impl Fn(&T) -> bool) -> Option<Ticket> {
        let more = self.by_count.iter().rev().take_while(|(count, _)| *count > own).take(LOOKED_AT);
        let ticket = |origin: ClientNetwork, number: u64| Ticket { origin, number, is_peer: false };
        for (_, origin) in more {
            let idle = self
                .strangers
                .get(origin)?
                .iter()
                .take(LOOKED_AT)
                .find(|(_, visit)| is_idle(visit));
            if let Some((number, _)) = idle {
                return Some(ticket(*origin, *number));
            }
        }
        let (count, origin) = self.by_count.last()?;
        let newest = self.strangers.get(origin)?.keys().next_back()?;
        (self.is_shared_fairly && *count > own + 1).then(|| ticket(*origin, *newest))
    }

    fn admit(&mut self, ticket: Ticket, newcomer: T) {
        let own = self.strangers.entry(ticket.origin).or_default();
        self.by_count.remove(&(own.len(), ticket.origin));
        own.insert(ticket.number, newcomer);
        self.by_count.insert((own.len(), ticket.origin));
        self.count += 1;
    }

    fn take(&mut self, ticket: Ticket) -> Option<T> {
        let own = self.strangers.get_mut(&ticket.origin)?;
        let before = own.len();
        let taken = own.remove(&ticket.number)?;
        self.count -= 1;
        self.by_count.remove(&(before, ticket.origin));
        match own.len() {
            0 => drop(self.strangers.remove(&ticket.origin)),
            left => drop(self.by_count.insert((left, ticket.origin))),
        }
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn limits(connections: usize, per_address: usize, fairly: bool) -> ConnectionLimits {
        ConnectionLimits {
            connections,
            connections_per_address: per_address,
            is_shared_fairly: fairly,
            peers: vec!["192.0.2.200".parse().expect("an address")],
            ..ConnectionLimits::default()
        }
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, last])
    }

    /// Of a visitor that is busy: odd numbers.
    fn is_idle(visitor: &u32) -> bool {
        visitor.is_multiple_of(2)
    }

    #[test]
    fn an_address_has_no_more_places_than_one_may_and_gets_them_back() {
        let mut places = Occupancy::new(&limits(9, 2, true));
        let Entrance::Free(first) = places.enter(address(1), 1, is_idle) else {
            panic!("no place")
        };
        assert!(matches!(places.enter(address(1), 1, is_idle), Entrance::Free(_)));
        assert_eq!(
            places.enter(address(1), 1, is_idle),
            Entrance::Refused(AdmissionError::Address)
        );
        places.leave(first);
        places.leave(first);
        assert_eq!(places.taken(), 1);
        assert!(matches!(places.enter(address(1), 1, is_idle), Entrance::Free(_)));
    }

    #[test]
    fn who_has_less_gets_the_place_of_the_one_that_idles_for_longest() {
        let mut places = Occupancy::new(&limits(4, 4, false));
        for visitor in [1, 2, 4, 3] {
            places.enter(address(1), visitor, is_idle);
        }
        assert!(matches!(places.enter(address(2), 5, is_idle), Entrance::InsteadOf(_, 2)));
        assert!(matches!(places.enter(address(3), 7, is_idle), Entrance::InsteadOf(_, 4)));
        // Nobody idles any more, and busy ones are not sent away here.
        assert_eq!(places.enter(address(4), 9, is_idle), Entrance::Refused(AdmissionError::Full));
    }

    #[test]
    fn where_places_are_shared_fairly_the_newest_of_the_greediest_goes_though_it_is_busy() {
        let mut places = Occupancy::new(&limits(3, 3, true));
        for visitor in [1, 3, 5] {
            places.enter(address(1), visitor, is_idle);
        }
        assert!(matches!(places.enter(address(2), 7, is_idle), Entrance::InsteadOf(_, 5)));
        assert!(matches!(places.enter(address(3), 9, is_idle), Entrance::InsteadOf(_, 3)));
        // One each.
        assert_eq!(places.enter(address(4), 11, is_idle), Entrance::Refused(AdmissionError::Full));
    }

    #[test]
    fn a_known_peer_gets_in_whoever_is_there() {
        let mut places = Occupancy::new(&limits(3, 3, false));
        for last in 1..=3 {
            places.enter(address(last), 1, is_idle);
        }
        assert_eq!(places.enter(address(9), 1, is_idle), Entrance::Refused(AdmissionError::Full));
        let Entrance::Free(peer) =
            places.enter("::ffff:192.0.2.200".parse().expect("an address"), 1, is_idle)
        else {
            panic!("no place for a peer")
        };
        assert_eq!(places.taken(), 4);
        places.leave(peer);
        assert_eq!(places.taken(), 3);
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let mut places = Occupancy::new(&limits(9, 1, true));
        let enter = |places: &mut Occupancy<u32>, text: &str| {
            places.enter(text.parse().expect("an address"), 1, is_idle)
        };
        assert!(matches!(enter(&mut places, "2001:db8::1"), Entrance::Free(_)));
        assert_eq!(
            enter(&mut places, "2001:db8::ffff:2"),
            Entrance::Refused(AdmissionError::Address)
        );
        assert!(matches!(enter(&mut places, "2001:db8:0:1::1"), Entrance::Free(_)));
        assert!(matches!(enter(&mut places, "::ffff:192.0.2.1"), Entrance::Free(_)));
        assert_eq!(enter(&mut places, "192.0.2.1"), Entrance::Refused(AdmissionError::Address));
    }

    proptest! {
        /// Against a list: no more than may be, and nobody with one connection is sent away by
        /// anybody.
        #[test]
        fn bounds_hold_and_who_has_one_busy_connection_keeps_it(
            steps in prop::collection::vec(
                (0..6_u8, 0..100_u32, prop::bool::weighted(0.3)),
                1..400,
            ),
            fairly: bool,
        ) {
            let mut places = Occupancy::new(&limits(8, 4, fairly));
            let mut inside: Vec<(u8, u32, Ticket)> = Vec::new();
            for (number, (last, visitor, leaves)) in steps.into_iter().enumerate() {
                // Each of its own, with its oddness.
                let visitor = number as u32 * 100 + visitor;
                if leaves && !inside.is_empty() {
                    let (_, _, ticket) = inside.remove(visitor as usize % inside.len());
                    places.leave(ticket);
                }
                let count = |of: u8, inside: &[(u8, u32, Ticket)]| {
                    inside.iter().filter(|(its, _, _)| *its == of).count()
                };
                match places.enter(address(last), visitor, is_idle) {
                    Entrance::Free(ticket) => {
                        prop_assert!(inside.len() < 8 && count(last, &inside) < 4);
                        inside.push((last, visitor, ticket));
                    }
                    Entrance::InsteadOf(ticket, other) => {
                        prop_assert_eq!(inside.len(), 8);
                        let at = inside
                            .iter()
                            .position(|(_, its, _)| *its == other)
                            .expect("it was there");
                        let (of, _, _) = inside[at];
                        prop_assert!(count(of, &inside) > count(last, &inside));
                        prop_assert!(is_idle(&other) || (fairly && count(of, &inside) > 1));
                        inside.remove(at);
                        inside.push((last, visitor, ticket));
                    }
                    Entrance::Refused(AdmissionError::Address) => {
                        prop_assert_eq!(count(last, &inside), 4)
                    }
                    Entrance::Refused(AdmissionError::Full) => {
                        prop_assert_eq!(inside.len(), 8);
                        let greediest = (0..6).map(|of| count(of, &inside)).max().unwrap_or(0);
                        prop_assert!(!fairly || greediest <= count(last, &inside) + 1);
                    }
                }
                prop_assert_eq!(places.taken(), inside.len());
            }
        }
    }
}
