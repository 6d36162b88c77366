//! A network of the Internet Protocol, as configuration names it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// A network: an address and how many of its first bits count. A host is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// Text that names no network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotANetwork {
    /// It is neither an address nor an address with a number of bits.
    #[error("'{0}' is not an address or a network such as 192.0.2.0/24 or 2001:db8::/32")]
    Malformed(String),
    /// The address is that of a host within the network.
    #[error("'{text}' has bits set behind the first {}: the network is {network}", network.bits)]
    HostBits {
        /// As it was written.
        text: String,
        /// The network around that host.
        network: Network,
    },
}

impl Network {
    /// The same network, or one within the other.
    pub fn overlaps(&self, other: &Network) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Whether an address is of this network. An IPv4 address counts as such also where it is
    /// written as an IPv6 one (RFC 4291 2.5.5.2).
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.masked(ip.to_canonical()) == Some(self.address)
    }

    /// The network part; `None` of an address of the other family.
    fn masked(&self, ip: IpAddr) -> Option<IpAddr> {
        let bits = u32::from(self.bits);
        match (self.address, ip) {
            (IpAddr::V4(_), IpAddr::V4(v4)) => {
                let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
                Some(Ipv4Addr::from_bits(v4.to_bits() & mask).into())
            }
            (IpAddr::V6(_), IpAddr::V6(v6)) => {
                let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
                Some(Ipv6Addr::from_bits(v6.to_bits() & mask).into())
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => None,
        }
    }

    fn bits_of(address: IpAddr) -> u8 {
        if address.is_ipv4() { 32 } else { 128 }
    }
}

/// The host alone.
impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        let address = address.to_canonical();
        Self { address, bits: Self::bits_of(address) }
    }
}

/// A host, or `address/bits` (RFC 4632 3.1, RFC 4291 2.3).
impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let malformed = || NotANetwork::Malformed(text.to_owned());
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                (address, Some(bits.parse::<u8>().map_err(|_| malformed())?))
            }
            Some(_) => return Err(malformed()),
            None => (text, None),
        };
        let address = address.parse::<IpAddr>().map_err(|_| malformed())?.to_canonical();
        let most = Self::bits_of(address);
        let named = Self { address, bits: bits.unwrap_or(most) };
        if named.bits > most {
            return Err(malformed());
        }
        match named.masked(address) {
            Some(masked) if masked == address => Ok(named),
            Some(masked) => Err(NotANetwork::HostBits {
                text: text.to_owned(),
                network: Self { address: masked, ..named },
            }),
            None => Err(malformed()),
        }
    }
}

impl TryFrom<String> for Network {
    type Error = NotANetwork;

    fn try_from(text: String) -> Result<Self, NotANetwork> {
        text.parse()
    }
}

/// As it is written: a host without its bits.
impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.bits == Self::bits_of(self.address) {
            true => self.address.fmt(f),
            false => write!(f, "{}/{}", self.address, self.bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_has_the_addresses_that_begin_with_its_bits() {
        for (text, within, without) in [
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.0/24", "192.0.2.255", "192.0.3.0"),
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.8/29", "192.0.2.15", "192.0.2.16"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::"),
            ("2001:db8::1", "2001:db8::1", "2001:db8::2"),
            ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("192.0.2.0/24", "::ffff:192.0.2.7", "2001:db8::1"),
        ] {
            assert!(network(text).contains(ip(within)), "{within} in {text}");
            assert!(!network(text).contains(ip(without)), "{without} in {text}");
        }
        assert!(network("0.0.0.0/0").contains(ip("203.0.113.1")));
        assert!(!network("0.0.0.0/0").contains(ip("::1")));
        assert!(network("::/0").contains(ip("::1")) && !network("::/0").contains(ip("10.0.0.1")));
    }

    #[test]
    fn networks_overlap_when_one_is_within_the_other() {
        for (one, other, overlap) in [
            ("10.0.0.0/8", "10.1.0.0/16", true),
            ("10.0.0.0/8", "10.1.2.3", true),
            ("10.0.0.0/8", "11.0.0.0/8", false),
            ("0.0.0.0/0", "::/0", false),
            ("2001:db8::/32", "2001:db8::/32", true),
        ] {
            assert_eq!(network(one).overlaps(&network(other)), overlap, "{one} {other}");
            assert_eq!(network(other).overlaps(&network(one)), overlap, "{other} {one}");
        }
    }

    #[test]
    fn a_host_within_is_told_the_network_that_is_meant() {
        for (text, meant) in [
            ("192.0.2.1/24", "192.0.2.0/24"),
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("1.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::1/64", "2001:db8::/64"),
        ] {
            let error = text.parse::<Network>().unwrap_err();
            let NotANetwork::HostBits { network, .. } = &error else { panic!("{error}") };
            assert_eq!(network.to_string(), meant);
            assert!(error.to_string().ends_with(&format!("the network is {meant}")), "{error}");
        }
    }

    #[test]
    fn what_is_no_network_is_refused_and_a_network_is_written_as_it_is_read() {
        for text in [
            "",
            "/",
            "/8",
            "192.0.2.0/",
            "192.0.2.0/33",
            "::/129",
            "192.0.2.0/-1",
            "192.0.2.0/+8",
            "192.0.2/24",
            "host",
            "192.0.2.0/24/8",
            " 192.0.2.1",
            "::ffff:10.0.0.0/104",
            "192.0.2.1:5060",
        ] {
            let malformed = NotANetwork::Malformed(text.to_owned());
            assert_eq!(text.parse::<Network>(), Err(malformed), "{text}");
        }
        for text in ["192.0.2.1", "192.0.2.0/24", "0.0.0.0/0", "::1", "2001:db8::/32"] {
            assert_eq!(network(text).to_string(), text);
        }
    }
}
