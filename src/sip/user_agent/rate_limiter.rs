//! What fills again with time: answers to strangers, guesses, lines in the log.

use crate::rate_limit::TokenBucket;
use crate::sip::config::Trunk;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// All ports of an address together have so many times the allowance of one.
const PORTS: u32 = 4;

/// How often sources are answered that have shown no right to anything.
///
/// A source that is known by its flow (a trunk, a registered phone) has an allowance of its own.
/// Strangers have one for each address and port, and one for each address: another port of a
/// phone's address does not use up what the phone needs.
#[derive(Debug)]
pub(super) struct RateLimiter {
    per_second: u32,
    most: usize,
    known: BTreeMap<SocketAddr, TokenBucket>,
    ports: BTreeMap<SocketAddr, TokenBucket>,
    addresses: BTreeMap<IpAddr, TokenBucket>,
}

impl RateLimiter {
    pub(super) fn new(per_second: u32, most: usize) -> Self {
        Self {
            per_second: per_second.max(1),
            most,
            known: BTreeMap::new(),
            ports: BTreeMap::new(),
            addresses: BTreeMap::new(),
        }
    }

    /// Whether `peer` is answered once more.
    pub(super) fn take(&mut self, peer: SocketAddr, known: bool, now: Instant) -> bool {
        let (burst, each) =
            (self.per_second.saturating_mul(2), Duration::from_secs(1) / self.per_second);
        if known {
            return entry(&mut self.known, peer, self.most, now)
                .is_none_or(|known| known.try_take(burst, each, now).is_ok());
        }
        let Some(address) = entry(&mut self.addresses, peer.ip(), self.most, now) else {
            return false;
        };
        let (all, of_all) = (burst.saturating_mul(PORTS), each / PORTS);
        if !address.wait(all, of_all, now).is_zero() {
            return false;
        }
        // Where no more ports are remembered, the address alone counts.
        let may = entry(&mut self.ports, peer, self.most, now)
            .is_none_or(|port| port.try_take(burst, each, now).is_ok());
        if may {
            address.take(of_all, now);
        }
        may
    }
}

/// The entry of a key; `None` when there are too many that are still in use.
fn entry<K: Ord + Copy>(
    entries: &mut BTreeMap<K, TokenBucket>,
    key: K,
    most: usize,
    now: Instant,
) -> Option<&mut TokenBucket> {
    if entries.len() >= most && !entries.contains_key(&key) {
        entries.retain(|_, allowance| !allowance.used(now).is_zero());
        if entries.len() >= most {
            return None;
        }
    }
    Some(entries.entry(key).or_default())
}

/// How often each trunk may begin a call.
#[derive(Debug)]
pub(super) struct TrunkCalls {
    trunks: BTreeMap<String, TrunkRate>,
}

#[derive(Debug)]
struct TrunkRate {
    per_second: Option<u32>,
    allowance: TokenBucket,
    refused: u64,
}

impl TrunkCalls {
    pub(super) fn new(trunks: &[Trunk]) -> Self {
        let mut calls = Self { trunks: BTreeMap::new() };
        calls.change(trunks);
        calls
    }

    /// Other trunks from now on; what those of before have used up stays used up.
    pub(super) fn change(&mut self, trunks: &[Trunk]) {
        let mut before = std::mem::take(&mut self.trunks);
        let rate = |trunk: &Trunk| {
            let known = before.remove(&trunk.name);
            let (allowance, refused) =
                known.map_or_else(Default::default, |known| (known.allowance, known.refused));
            let rate = TrunkRate { per_second: trunk.max_calls_per_second, allowance, refused };
            (trunk.name.clone(), rate)
        };
        self.trunks = trunks.iter().map(rate).collect();
    }

    pub(super) fn take(&mut self, name: &str, now: Instant) -> bool {
        let Some(trunk) = self.trunks.get_mut(name) else {
            return true;
        };
        let Some(per_second) = trunk.per_second.filter(|per_second| *per_second > 0) else {
            return trunk.per_second.is_none();
        };
        // A second's calls may come at once.
        trunk.allowance.try_take(per_second, Duration::from_secs(1) / per_second, now).is_ok()
    }

    pub(super) fn count_refused(&mut self, name: &str) {
        if let Some(trunk) = self.trunks.get_mut(name) {
            trunk.refused += 1;
        }
    }

    pub(super) fn refused(&self) -> impl Iterator<Item = (&str, u64)> {
        self.trunks.iter().map(|(name, trunk)| (name.as_str(), trunk.refused))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "a test has to begin somewhere; time then passes by hand"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    fn peer(host: u8, port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], port))
    }

    fn answered(
        sources: &mut RateLimiter,
        peer: SocketAddr,
        times: usize,
        known: bool,
        now: Instant,
    ) -> usize {
        (0..times).filter(|_| sources.take(peer, known, now)).count()
    }

    #[test]
    fn one_port_does_not_use_up_what_another_port_of_its_address_needs() {
        let (mut sources, now) = (RateLimiter::new(50, 4096), start());
        assert_eq!(answered(&mut sources, peer(3, 1024), 1000, false, now), 100);
        assert_eq!(answered(&mut sources, peer(3, 5062), 3, false, now), 3);
        let all: usize =
            (2000..3000).map(|port| answered(&mut sources, peer(3, port), 10, false, now)).sum();
        assert_eq!(all, 400 - 103, "an address has its measure too");
        assert_eq!(answered(&mut sources, peer(3, 5062), 1, false, now), 0);
        assert_eq!(
            answered(&mut sources, peer(3, 5062), 3, true, now),
            3,
            "a known source is counted apart"
        );
        assert_eq!(
            answered(&mut sources, peer(3, 5062), 1, false, now + Duration::from_secs(1)),
            1
        );
    }

    #[test]
    fn what_is_remembered_is_bounded_and_strangers_never_push_out_who_is_known() {
        let (mut sources, now) = (RateLimiter::new(1, 100), start());
        for host in 0..=255 {
            for port in 0..10 {
                sources.take(peer(host, port), false, now);
            }
        }
        assert!(sources.addresses.len() <= 100 && sources.ports.len() <= 100);
        assert!(!sources.take(peer(254, 1), false, now));
        assert!(sources.take(peer(254, 1), true, now));
    }
}
