//! Addresses that sound is never sent to, whichever peer describes them.

use super::MediaConfig;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

/// Ports below this one belong to services of the system (RFC 6335 6): no telephone has its sound
/// there.
const FIRST_PORT: u16 = 1024;

/// Why sound is not sent to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Forbidden {
    /// A port of the media engine's own, or one that signalling is listened for on.
    #[error("our own address")]
    Ours,
    /// `127.0.0.0/8`, `::1`, where neither we nor the peer are on this machine.
    #[error("loopback address")]
    Loopback,
    /// `169.254.0.0/16` (RFC 3927), `fe80::/10`.
    #[error("link-local address")]
    LinkLocal,
    /// Multicast: `224.0.0.0/4`, `ff00::/8`.
    #[error("multicast address")]
    Multicast,
    /// `255.255.255.255`, `240.0.0.0/4`, `0.0.0.0/8`, `::/96` (RFC 6890).
    #[error("reserved address")]
    Reserved,
    /// A port below 1024.
    #[error("port below 1024")]
    LowPort,
    /// A host that is none of the trunk's `media_sources`.
    #[error("host is none of the trunk's media_sources")]
    Unlisted,
}

impl Forbidden {
    /// A word for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Forbidden::Ours => "ours",
            Forbidden::Loopback => "loopback",
            Forbidden::LinkLocal => "link_local",
            Forbidden::Multicast => "multicast",
            Forbidden::Reserved => "reserved",
            Forbidden::LowPort => "low_port",
            Forbidden::Unlisted => "unlisted",
        }
    }
}

/// What is ours, of which nobody may make a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// The addresses under which the media engine can be reached.
    hosts: Vec<IpAddr>,
    /// The engine listens on every address of the machine.
    everywhere: bool,
    ports: Option<RangeInclusive<u16>>,
    /// Other doors of ours for datagrams.
    doors: Vec<SocketAddr>,
    /// We are on the loopback ourselves.
    at_home: bool,
}

impl Default for Targets {
    fn default() -> Self {
        Self::of(&MediaConfig::default(), &[], &[])
    }
}

impl Targets {
    /// Of an engine with this configuration, and of doors of ours beside it. `interfaces`: the
    /// machine's own addresses, which matter where the engine listens on all of them.
    pub fn of(config: &MediaConfig, interfaces: &[IpAddr], doors: &[SocketAddr]) -> Self {
        let everywhere = config.bind.is_unspecified();
        let mut hosts: Vec<IpAddr> = config.advertised.into_iter().chain([config.bind]).collect();
        if everywhere {
            hosts.extend(interfaces.iter().map(IpAddr::to_canonical));
        }
        Self {
            at_home: config.bind.is_loopback(),
            hosts,
            everywhere,
            ports: config.ports.clone(),
            doors: doors.to_vec(),
        }
    }

    /// Whether the address is a port of ours.
    pub fn is_ours(&self, to: SocketAddr) -> bool {
        let ip = to.ip().to_canonical();
        let is_engine = self.ports.as_ref().is_some_and(|ports| ports.contains(&to.port()))
            && (self.hosts.contains(&ip) || self.everywhere && ip.is_loopback());
        let is_door = |door: &SocketAddr| {
            door.port() == to.port()
                && (door.ip() == ip
                    || door.ip().is_unspecified() && (ip.is_loopback() || self.hosts.contains(&ip)))
        };
        is_engine || self.doors.iter().any(is_door)
    }

    /// Whether sound may be sent there, on behalf of a peer that signals from `host`. Addresses of
    /// ours are another question: [`Targets::is_ours`].
    pub fn check(&self, to: SocketAddr, host: Option<IpAddr>) -> Result<(), Forbidden> {
        let may_loop = self.at_home || host.is_some_and(|host| host.to_canonical().is_loopback());
        check_host(to.ip().to_canonical(), may_loop)?;
        if to.port() < FIRST_PORT {
            return Err(Forbidden::LowPort);
        }
        Ok(())
    }
}

fn check_host(ip: IpAddr, may_loop: bool) -> Result<(), Forbidden> {
    match ip {
        _ if ip.is_loopback() => may_loop.then_some(()).ok_or(Forbidden::Loopback),
        _ if ip.is_multicast() => Err(Forbidden::Multicast),
        IpAddr::V4(v4) if v4.is_link_local() => Err(Forbidden::LinkLocal),
        IpAddr::V4(v4) if v4.octets()[0] == 0 || v4.octets()[0] >= 240 => Err(Forbidden::Reserved),
        IpAddr::V4(_) => Ok(()),
        IpAddr::V6(v6) if v6.segments()[0] & 0xffc0 == 0xfe80 => Err(Forbidden::LinkLocal),
        IpAddr::V6(v6) => match embedded(v6) {
            // What a translator would make of it. `::/96` names no host.
            Some(_) if v6.octets()[..12] == [0; 12] => Err(Forbidden::Reserved),
            Some(v4) => check_host(v4.into(), may_loop),
            None => Ok(()),
        },
    }
}

/// The IPv4 address in an IPv6 one: `::/96` (RFC 4291 2.5.5.1), `64:ff9b::/96` (RFC 6052 2.1),
/// `2002::/16` (RFC 3056 2).
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let octets = v6.octets();
    let four = |at: usize| {
        octets.get(at..at + 4).and_then(|four| <[u8; 4]>::try_from(four).ok()).map(Ipv4Addr::from)
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => four(12),
        [0x2002, ..] => four(2),
        _ => None,
    }
}

/// Whether an address means something in its own network only: private (RFC 1918, RFC 4193), shared
/// (RFC 6598), link-local, loopback.
pub fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || v4.is_loopback() || v4.is_link_local() || a == 100 && b & 0xc0 == 64
        }
        IpAddr::V6(v6) => {
            v6.is_loopback()
                || matches!(v6.segments()[0] & 0xffc0, 0xfe80)
                || v6.segments()[0] & 0xfe00 == 0xfc00
        }
    }
}

#[cfg(test)]
mod tests {
    //! RFC 6890 (special-purpose addresses), RFC 6335 6 (system ports).

    use super::*;

    fn to(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn config(bind: &str, advertised: Option<&str>) -> MediaConfig {
        MediaConfig {
            bind: bind.parse().unwrap(),
            advertised: advertised.map(|text| text.parse().unwrap()),
            ..MediaConfig::default()
        }
    }

    #[test]
    fn nobody_is_sent_to_at_an_address_that_no_telephone_has() {
        let targets = Targets::of(&config("192.0.2.1", None), &[], &[]);
        for (text, why) in [
            ("0.1.2.3:4000", Forbidden::Reserved),
            ("0.0.0.0:4000", Forbidden::Reserved),
            ("240.0.0.1:4000", Forbidden::Reserved),
            ("254.1.1.1:4000", Forbidden::Reserved),
            ("255.255.255.255:4000", Forbidden::Reserved),
            ("169.254.169.254:4000", Forbidden::LinkLocal),
            ("224.0.0.1:4000", Forbidden::Multicast),
            ("239.255.255.255:4000", Forbidden::Multicast),
            ("127.0.0.1:4000", Forbidden::Loopback),
            ("127.9.9.9:4000", Forbidden::Loopback),
            ("[::]:4000", Forbidden::Reserved),
            ("[::1]:4000", Forbidden::Loopback),
            ("[fe80::1]:4000", Forbidden::LinkLocal),
            ("[febf::1]:4000", Forbidden::LinkLocal),
            ("[ff02::1]:4000", Forbidden::Multicast),
            ("[::ffff:169.254.169.254]:4000", Forbidden::LinkLocal),
            ("[::ffff:240.0.0.1]:4000", Forbidden::Reserved),
            ("[::ffff:127.0.0.1]:4000", Forbidden::Loopback),
            ("[::ffff:224.0.0.1]:4000", Forbidden::Multicast),
            ("[::192.0.2.9]:4000", Forbidden::Reserved),
            ("[64:ff9b::169.254.169.254]:4000", Forbidden::LinkLocal),
            ("[2002:7f00:1::]:4000", Forbidden::Loopback),
            ("192.0.2.9:1023", Forbidden::LowPort),
            ("192.0.2.9:22", Forbidden::LowPort),
            ("192.0.2.9:0", Forbidden::LowPort),
        ] {
            assert_eq!(targets.check(to(text), Some([192, 0, 2, 9].into())), Err(why), "{text}");
        }
        for text in [
            "192.0.2.9:1024",
            "10.0.0.1:65535",
            "100.64.0.1:4000",
            "[2001:db8::1]:4000",
            "[fd00::1]:4000",
            "223.255.255.255:4000",
        ] {
            assert_eq!(targets.check(to(text), None), Ok(()), "{text}");
        }
    }

    #[test]
    fn loopback_is_for_a_house_on_the_loopback_and_for_a_peer_on_this_machine() {
        let at_home = Targets::of(&config("127.0.0.1", None), &[], &[]);
        assert_eq!(at_home.check(to("127.0.0.9:4000"), None), Ok(()));
        let outside = Targets::of(&config("192.0.2.1", None), &[], &[]);
        assert_eq!(outside.check(to("127.0.0.1:4000"), Some([127, 0, 0, 1].into())), Ok(()));
        assert_eq!(
            outside.check(to("127.0.0.1:4000"), Some([192, 0, 2, 2].into())),
            Err(Forbidden::Loopback)
        );
    }

    #[test]
    fn our_own_ports_are_known_under_every_address_that_we_have() {
        let one = Targets::of(
            &config("192.0.2.1", Some("203.0.113.1")),
            &[[10, 0, 0, 1].into()],
            &[to("192.0.2.1:5060")],
        );
        for (text, is_ours) in [
            ("192.0.2.1:20000", true),
            ("192.0.2.1:29999", true),
            ("203.0.113.1:25000", true),
            ("[::ffff:203.0.113.1]:25000", true),
            ("192.0.2.1:5060", true),
            ("192.0.2.1:30000", false),
            ("10.0.0.1:25000", false),
            ("127.0.0.1:25000", false),
            ("192.0.2.2:25000", false),
        ] {
            assert_eq!(one.is_ours(to(text)), is_ours, "{text}");
        }
        let all = Targets::of(
            &config("0.0.0.0", Some("203.0.113.1")),
            &[[10, 0, 0, 1].into()],
            &[to("0.0.0.0:5060")],
        );
        for text in [
            "10.0.0.1:25000",
            "203.0.113.1:25000",
            "127.0.0.1:25000",
            "127.0.0.1:5060",
            "10.0.0.1:5060",
        ] {
            assert!(all.is_ours(to(text)), "{text}");
        }
    }
}
