//! Where the sound of a leg may come from and go to, by where its signalling comes from.
//!
//! | the peer | its sound is described at | so it is sent |
//! |---|---|---|
//! | device | the host of its signalling | there |
//! | device | another host | there, once a valid packet has come from there |
//! | device behind a NAT | any | to the host of its signalling, at its packets' port |
//! | trunk | the host of its signalling, its `sources`, its `media_sources` | there |
//! | trunk without `media_sources` | another host | there, 500 packets until a valid one has come |
//! | trunk with `media_sources` | another host | refused |
//!
//! A device is behind a NAT where the configuration says so, or where it shows: see [`Nat::Auto`].

use super::MediaPolicy;
use crate::media::{Forbidden, SourceRule, is_private};
use crate::model::Network;
use crate::sip::config::Nat;
use crate::sip::leg::LegSource;
use crate::sip::sdp::Agreed;
use std::net::{IpAddr, SocketAddr};

/// Packets that go to the media gateway of a trunk before anything has come from there: ten seconds
/// of 20 ms. A gateway that waits to be spoken to first hears us, and a host that was named by a
/// forged INVITE is not sent a call's worth.
const TRUNK_UNHEARD: u32 = 500;

/// Where a leg's signalling comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MediaReach {
    pub(super) host: IpAddr,
    /// Its Via or Contact names another address than that: an address translator is on the way.
    pub(super) is_translated: bool,
}

/// What of a peer's configuration decides where its sound goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reachability {
    Device(Nat),
    Trunk {
        nat: Nat,
        /// Its own hosts.
        hosts: Vec<Network>,
        /// Where its sound may be besides; none: not said.
        media_sources: Vec<Network>,
    },
}

impl Reachability {
    /// The peer is a trunk, or behind one.
    pub(super) fn is_trunks(&self) -> bool {
        matches!(self, Reachability::Trunk { .. })
    }

    pub(super) fn nat(&self) -> Nat {
        match self {
            Reachability::Device(nat) | Reachability::Trunk { nat, .. } => *nat,
        }
    }
}

/// Where a leg's sound is expected and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MediaDestination {
    pub(super) remote: Option<SocketAddr>,
    pub(super) remote_rtcp: Option<SocketAddr>,
    pub(super) nat: bool,
    pub(super) rule: SourceRule,
}

/// Something about a leg's peer that an operator should read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remark {
    /// A description pointed to a place where sound is never sent: it was refused.
    Refused {
        /// The peer that sent the description.
        peer: LegSource,
        /// The address in it.
        address: SocketAddr,
        /// Why not there.
        why: Forbidden,
    },
    /// The peer is taken to be behind a NAT, by what it sends.
    BehindNat {
        /// The peer of the leg.
        peer: LegSource,
        /// Where its signalling comes from.
        host: IpAddr,
        /// Where it says its sound is.
        described: SocketAddr,
    },
    /// The peer's sound is described at another host than its signalling's: nothing is sent until a
    /// valid packet has come from there.
    Waited {
        /// The peer of the leg.
        peer: LegSource,
        /// Where its signalling comes from.
        host: Option<IpAddr>,
        /// Where it says its sound is.
        described: SocketAddr,
    },
    /// A device behind a switch, or with aliases, has answered, and its peer has not named the
    /// connected party.
    Unnamed {
        /// The peer of the leg.
        peer: LegSource,
    },
    /// Nothing more is sent to the peer, because nothing has come from where its sound was
    /// described.
    Withheld {
        /// The peer of the leg.
        peer: LegSource,
        /// The address that it was described at.
        address: Option<SocketAddr>,
    },
}

impl MediaDestination {
    /// By the description and what is known of the peer. `place`: `None` while nothing has come
    /// from it.
    pub(super) fn at(
        reach: &Reachability,
        place: Option<MediaReach>,
        rtp: Option<SocketAddr>,
        rtcp: Option<SocketAddr>,
    ) -> Self {
        let nat = reach.nat();
        let plain = Self {
            remote: rtp,
            remote_rtcp: rtcp,
            nat: false,
            rule: SourceRule { follow: nat != Nat::Never, ..SourceRule::default() },
        };
        let Some(described) = rtp.map(|rtp| rtp.ip()) else {
            return plain;
        };
        let host = place.map(|place| place.host);
        let translated = |plain: Self, host: IpAddr| {
            let seen = |address: SocketAddr| SocketAddr::new(host, address.port());
            Self {
                remote: plain.remote.map(seen),
                remote_rtcp: plain.remote_rtcp.map(seen),
                nat: true,
                ..plain
            }
        };
        let unheard =
            |packets| Self { rule: SourceRule { unheard: Some(packets), ..plain.rule }, ..plain };
        match (reach, place) {
            (_, Some(place))
                if nat == Nat::Always && place.host.is_ipv4() == described.is_ipv4() =>
            {
                translated(plain, place.host)
            }
            (_, Some(place)) if nat == Nat::Auto && is_behind_nat(&place, described) => {
                translated(plain, place.host)
            }
            (Reachability::Device(_), _) if host == Some(described) => plain,
            // A relay of its own, or a wrong guess of its own address: whichever of the two speaks.
            (Reachability::Device(Nat::Auto), Some(place)) if place.is_translated => Self {
                nat: true,
                rule: SourceRule { unheard: Some(0), or_from: Some(place.host), ..plain.rule },
                ..plain
            },
            (Reachability::Device(_), _) => unheard(0),
            (Reachability::Trunk { hosts, media_sources, .. }, _) => {
                let mut known = hosts.iter().chain(media_sources);
                let is_known =
                    host == Some(described) || known.any(|network| network.contains(described));
                if is_known { plain } else { unheard(TRUNK_UNHEARD) }
            }
        }
    }

    /// Whether sound may be sent there. Addresses of ours are another question.
    pub(super) fn check(
        &self,
        policy: &MediaPolicy,
        place: Option<MediaReach>,
    ) -> Result<(), (SocketAddr, Forbidden)> {
        let host = place.map(|place| place.host);
        for address in self.remote.into_iter().chain(self.remote_rtcp) {
            policy.targets.check(address, host).map_err(|why| (address, why))?;
        }
        match (&policy.reach, self.remote) {
            (Reachability::Trunk { media_sources, .. }, Some(remote))
                if !media_sources.is_empty() && self.rule.unheard.is_some() =>
            {
                Err((remote, Forbidden::Unlisted))
            }
            _ => Ok(()),
        }
    }

    /// What an operator should read of it, the first time.
    pub(super) fn remark(
        &self,
        reach: &Reachability,
        peer: &LegSource,
        place: Option<MediaReach>,
        agreed: &Agreed,
    ) -> Option<Remark> {
        let (peer, described) = (peer.clone(), agreed.remote?);
        match place {
            Some(place) if self.nat && reach.nat() == Nat::Auto => {
                Some(Remark::BehindNat { peer, host: place.host, described })
            }
            _ if self.rule.unheard == Some(0) => {
                Some(Remark::Waited { peer, host: place.map(|place| place.host), described })
            }
            _ => None,
        }
    }
}

/// A private address in the description of a peer that is seen at a public one cannot be reached;
/// and a peer with headers that show that its address is translated may have its port translated
/// too.
fn is_behind_nat(place: &MediaReach, described: IpAddr) -> bool {
    let is_unreachable = is_private(described)
        && !is_private(place.host)
        && place.host.is_ipv4() == described.is_ipv4();
    is_unreachable || place.is_translated && place.host == described
}

#[cfg(test)]
mod tests {
    //! RFC 3264 5.1, RFC 3261 18.2.1 (received), RFC 4961.

    use super::*;

    const PUBLIC: &str = "203.0.113.7";
    const PRIVATE: &str = "192.168.1.7";

    fn place(host: &str, is_translated: bool) -> Option<MediaReach> {
        let host = host.parse().unwrap();
        Some(MediaReach { host, is_translated })
    }

    fn aim(reach: &Reachability, place: Option<MediaReach>, described: &str) -> MediaDestination {
        let rtp: SocketAddr = described.parse().unwrap();
        MediaDestination::at(
            reach,
            place,
            Some(rtp),
            Some(SocketAddr::new(rtp.ip(), rtp.port() + 1)),
        )
    }

    /// Remote, behind a NAT, how many packets before anything has come.
    fn short(
        reach: &Reachability,
        place: Option<MediaReach>,
        described: &str,
    ) -> (String, bool, Option<u32>) {
        let aim = aim(reach, place, described);
        (aim.remote.unwrap().to_string(), aim.nat, aim.rule.unheard)
    }

    #[test]
    fn a_device_is_sent_to_at_the_host_of_its_signalling_or_once_it_has_spoken() {
        let device = Reachability::Device(Nat::Auto);
        for (host, described, unheard) in [
            (PUBLIC, "203.0.113.7:4000", None),
            (PRIVATE, "192.168.1.7:4000", None),
            ("127.0.0.1", "127.0.0.1:4000", None),
            (PUBLIC, "198.51.100.1:4000", Some(0)),
            (PRIVATE, "192.168.1.8:4000", Some(0)),
            ("127.0.0.1", "127.0.0.9:4000", Some(0)),
            ("127.0.0.1", "192.168.1.8:4000", Some(0)),
        ] {
            let expected = (described.to_owned(), false, unheard);
            assert_eq!(short(&device, place(host, false), described), expected, "{host}");
        }
        assert_eq!(
            short(&device, None, "192.168.1.8:4000").2,
            Some(0),
            "nothing is known: nothing is sent"
        );
    }

    #[test]
    fn a_private_address_from_a_public_source_is_reason_enough_to_see_a_nat() {
        let seen = ("203.0.113.7:4000".to_owned(), true, None);
        for described in [
            "192.168.1.7:4000",
            "10.1.2.3:4000",
            "172.16.0.1:4000",
            "100.64.0.1:4000",
            "169.254.3.4:4000",
            "127.0.0.1:4000",
        ] {
            assert_eq!(
                short(&Reachability::Device(Nat::Auto), place(PUBLIC, false), described),
                seen,
                "{described}"
            );
            assert_eq!(
                short(&Reachability::Device(Nat::Never), place(PUBLIC, true), described).2,
                Some(0),
                "{described}"
            );
        }
        assert_eq!(
            short(&Reachability::Device(Nat::Auto), place(PUBLIC, true), "203.0.113.7:4000"),
            seen
        );
        assert_eq!(
            short(&Reachability::Device(Nat::Always), place(PUBLIC, false), "198.51.100.1:4000"),
            seen
        );
        // A public address of another host: a relay of the phone's, perhaps.
        let either =
            aim(&Reachability::Device(Nat::Auto), place(PUBLIC, true), "198.51.100.1:4000");
        assert_eq!(either.rule.or_from, Some(PUBLIC.parse().unwrap()));
        assert_eq!(either.rule.unheard, Some(0));
    }

    #[test]
    fn in_a_private_network_and_on_the_loopback_nothing_is_translated() {
        for (host, described) in [
            (PRIVATE, "192.168.9.9:4000"),
            (PRIVATE, "10.0.0.1:4000"),
            ("127.0.0.1", "10.0.0.1:4000"),
        ] {
            assert!(
                !aim(&Reachability::Device(Nat::Auto), place(host, false), described).nat,
                "{described}"
            );
        }
    }

    #[test]
    fn a_trunk_has_its_sound_at_its_own_hosts_where_it_may_and_elsewhere_for_a_while() {
        let trunk = |media_sources: &[&str]| Reachability::Trunk {
            nat: Nat::Auto,
            hosts: vec!["203.0.113.8".parse().unwrap()],
            media_sources: media_sources.iter().map(|text| text.parse().unwrap()).collect(),
        };
        for (described, unheard) in [
            ("203.0.113.7:4000", None),
            ("203.0.113.8:4000", None),
            ("198.51.100.1:4000", Some(TRUNK_UNHEARD)),
        ] {
            assert_eq!(
                short(&trunk(&[]), place(PUBLIC, false), described),
                (described.to_owned(), false, unheard)
            );
        }
        assert_eq!(
            short(&trunk(&["198.51.100.0/24"]), place(PUBLIC, false), "198.51.100.1:4000").2,
            None
        );
        assert_eq!(
            short(&trunk(&[]), place(PUBLIC, false), "10.0.0.1:4000"),
            ("203.0.113.7:4000".into(), true, None)
        );
    }
}
