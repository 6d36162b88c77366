//! In which order the targets of a trunk are tried.
//!
//! | a target | is tried |
//! |---|---|
//! | answers OPTIONS, or has not been asked, or has never answered any | by priority and weight |
//! | has failed to answer an INVITE, or said 503 with Retry-After | behind the others, until its rest is over |
//! | has answered OPTIONS, and does not any more | not at all |

use super::tokens::TokenGenerator;
use crate::model::Now;
use crate::sip::config::{Trunk, TrunkTarget};
use crate::sip::flow::{ConnectionId, Flow, Protocol};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// How long a target that has not answered an INVITE is tried behind others.
pub(super) const REST: Duration = Duration::from_secs(30);
/// How long a Retry-After is obeyed at most.
const LONGEST_REST: Duration = Duration::from_secs(600);

/// Where a target is.
pub(super) type TargetAddress = (Protocol, SocketAddr);

/// What is known of the targets of trunks, by their addresses.
#[derive(Debug, Default)]
pub(super) struct TargetStates {
    known: BTreeMap<TargetAddress, TargetState>,
}

#[derive(Clone, Copy, Debug, Default)]
struct TargetState {
    presence: Presence,
    rests_until: Option<Instant>,
}

/// Whether a target answers OPTIONS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Presence {
    /// It has not been asked, or has never answered: nothing is known.
    #[default]
    Unknown,
    /// It does.
    There,
    /// It has, and does not any more.
    Gone,
}

/// One place where a request to a trunk may go.
#[derive(Clone, Copy, Debug)]
pub(super) struct NextHop<'a> {
    pub(super) target: &'a TrunkTarget,
    pub(super) flow: Flow,
}

impl TargetStates {
    /// It has answered.
    pub(super) fn handle_answer(&mut self, target: TargetAddress) {
        let state = self.known.entry(target).or_default();
        // Whoever comes back has rested.
        let is_back = state.presence == Presence::Gone;
        state.rests_until = state.rests_until.filter(|_| !is_back);
        state.presence = Presence::There;
    }

    /// It has not answered, or a proxy says that it is not there.
    pub(super) fn handle_silence(&mut self, target: TargetAddress) {
        let state = self.known.entry(target).or_default();
        state.presence = match state.presence {
            Presence::Unknown => Presence::Unknown,
            Presence::There | Presence::Gone => Presence::Gone,
        };
    }

    /// Others are tried first until then.
    pub(super) fn rest(&mut self, target: TargetAddress, time: Duration, now: Now) {
        let until = now.mono + time.min(LONGEST_REST);
        let state = self.known.entry(target).or_default();
        state.rests_until = state.rests_until.max(Some(until));
    }

    /// Forgets what is nobody's target.
    pub(super) fn keep(&mut self, is_used: impl Fn(TargetAddress) -> bool) {
        self.known.retain(|target, _| is_used(*target));
    }

    fn is_gone(&self, target: TargetAddress) -> bool {
        self.known.get(&target).is_some_and(|state| state.presence == Presence::Gone)
    }

    fn rests(&self, target: TargetAddress, now: Now) -> bool {
        let until = self.known.get(&target).and_then(|state| state.rests_until);
        until.is_some_and(|until| now.mono < until)
    }

    /// Where a request to this trunk may go, best first (RFC 2782: those of one priority by
    /// weight). What nothing of ours leads to is left out, and so is what is known to be gone.
    pub(super) fn order<'a>(
        &self,
        trunk: &'a Trunk,
        locals: &[(Protocol, SocketAddr)],
        tokens: &mut TokenGenerator,
        now: Now,
    ) -> Vec<NextHop<'a>> {
        let mut places: Vec<Place<'a>> = Vec::new();
        for target in &trunk.targets {
            for host in &target.hosts {
                let address = (target.protocol, target.address(host));
                let Some(flow) = flow_to(address, locals) else { continue };
                if !self.is_gone(address) {
                    places.push(Place {
                        rank: (self.rests(address, now), target.priority, host.priority),
                        // Of equal targets the weight counts, and within one that of its hosts.
                        weights: (u64::from(target.weight), u64::from(host.weight)),
                        hop: NextHop { target, flow },
                    });
                }
            }
        }
        let mut order: Vec<NextHop<'a>> = Vec::new();
        while let Some(first) = places.iter().map(|place| place.rank).min() {
            let (mut equal, rest): (Vec<_>, Vec<_>) =
                places.into_iter().partition(|place| place.rank == first);
            places = rest;
            while !equal.is_empty() {
                let chosen = choose(&equal, tokens);
                let hop = equal.remove(chosen).hop;
                if !order.iter().any(|known| known.flow == hop.flow) {
                    order.push(hop);
                }
            }
        }
        order
    }
}

/// A place and what orders it.
struct Place<'a> {
    rank: (bool, u16, u16),
    weights: (u64, u64),
    hop: NextHop<'a>,
}

/// The weight 0 has a small chance (RFC 2782); alone there is no choice.
fn choose(equal: &[Place<'_>], tokens: &mut TokenGenerator) -> usize {
    if equal.len() < 2 {
        return 0;
    }
    let weight = |place: &Place<'_>| (place.weights.0 * 64 + 1) * (place.weights.1 * 64 + 1);
    let mut left = tokens.below(equal.iter().map(weight).sum());
    let mut weights = equal.iter().map(weight);
    let is_chosen = |weight: u64| match left.checked_sub(weight) {
        Some(rest) => {
            left = rest;
            false
        }
        None => true,
    };
    weights.position(is_chosen).unwrap_or_default()
}

/// The flow to an address, by a connection that is still to be found or made; `None` when nothing
/// of ours speaks its transport.
pub(super) fn flow_to(
    (wanted, peer): TargetAddress,
    locals: &[(Protocol, SocketAddr)],
) -> Option<Flow> {
    let fits = |(protocol, local): &&(Protocol, SocketAddr)| {
        *protocol == wanted && local.is_ipv4() == peer.is_ipv4()
    };
    let (protocol, local) = *locals.iter().find(fits)?;
    Some(Flow { protocol, local, peer, connection: ConnectionId::NONE })
}
