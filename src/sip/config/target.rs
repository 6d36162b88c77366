//! Where the requests of trunks come from and go: hosts by address or by name.

use crate::model::{Network, NotANetwork, Number};
use crate::secret::Secret;
use crate::sip::flow::Protocol;
use serde::Deserialize;
use serde::de::{self, Deserializer};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// A name to be looked up.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lookup {
    /// The name, in lower case.
    pub host: String,
    /// The transport whose servers are asked for first, by SRV (RFC 3263 4.2); `None`: only
    /// addresses are.
    pub service: Option<Protocol>,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupAnswer {
    /// The hosts. Never empty.
    pub hosts: Vec<FoundHost>,
    /// How long that is so.
    pub ttl: Duration,
}

/// A host that a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FoundHost {
    /// Of SRV: the lowest is tried first; 0 of a name without.
    pub priority: u16,
    /// Of SRV: the share among those of one priority; 0 of a name without.
    pub weight: u16,
    /// Its address.
    pub address: IpAddr,
    /// Of SRV; `None` of a name without.
    pub port: Option<u16>,
}

/// Why a name stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookupFault {
    /// The name servers know of no address.
    #[error("there is no such name, or it has no address")]
    NoAddress,
    /// The name is a service that is decidedly not there (RFC 2782: a target of `.`).
    #[error("its SRV record says that this service is not there")]
    NoService,
    /// No name server answers.
    #[error("the name servers do not answer")]
    Timeout,
    /// They answer with an error.
    #[error("the name servers fail: {0}")]
    Failed(String),
}

/// Where a trunk's requests go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrunkTarget {
    /// A name, or an address without brackets.
    pub host: String,
    /// `None`: as SRV says, else SIP's own (RFC 3263 4.2).
    pub port: Option<u16>,
    /// Over what.
    pub protocol: Protocol,
    /// The lowest is tried first.
    pub priority: u16,
    /// The share among those of one priority.
    pub weight: u16,
    /// Where it is, as far as is known: of an address at once, of a name when it has been looked
    /// up.
    pub hosts: Vec<FoundHost>,
}

/// Text that names no target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not host, host:port or a URI such as sip:host:port;transport=tls")]
pub struct NotATarget(String);

impl TrunkTarget {
    /// `host`, `host:port`, or a sip or sips URI of a host; `transport` where it names none.
    pub fn parse(text: &str, transport: Protocol) -> Result<Self, NotATarget> {
        Self::read(text, transport).ok_or_else(|| NotATarget(text.to_owned()))
    }

    fn read(text: &str, transport: Protocol) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        let (rest, is_sips) = match (lower.strip_prefix("sips:"), lower.strip_prefix("sip:")) {
            (Some(rest), _) => (rest, true),
            (None, Some(rest)) => (rest, false),
            (None, None) if lower.contains(';') => return None,
            (None, None) => (lower.as_str(), false),
        };
        let mut parts = rest.split(';');
        let place = parts.next()?;
        let mut protocol = if is_sips { Protocol::Tls } else { transport };
        for param in parts {
            protocol = match param.split_once('=').unwrap_or((param, "")) {
                ("lr", _) => protocol,
                ("transport", "tls") => Protocol::Tls,
                ("transport", "tcp") if is_sips => Protocol::Tls,
                ("transport", "tcp") => Protocol::Tcp,
                ("transport", "udp") if !is_sips => Protocol::Udp,
                _ => return None,
            };
        }
        let (host, port) = split_port(place)?;
        Some(Self::new(host, port, protocol))
    }

    /// A target of its own.
    pub fn new(host: &str, port: Option<u16>, protocol: Protocol) -> Self {
        let address = host.parse::<IpAddr>().ok();
        let found = |address| FoundHost { priority: 0, weight: 0, address, port: None };
        Self {
            host: host.to_owned(),
            port,
            protocol,
            priority: 0,
            weight: 1,
            hosts: address.map(found).into_iter().collect(),
        }
    }

    /// It is given by an address.
    pub fn is_address(&self) -> bool {
        self.host.parse::<IpAddr>().is_ok()
    }

    /// What is to be looked up to find it.
    pub fn lookup(&self) -> Option<Lookup> {
        let service = self.port.is_none().then_some(self.protocol);
        (!self.is_address()).then(|| Lookup { host: self.host.clone(), service })
    }

    /// Its host as a URI has it.
    pub fn uri_host(&self) -> String {
        match self.host.parse::<Ipv6Addr>() {
            Ok(address) => format!("[{address}]"),
            Err(_) => self.host.clone(),
        }
    }

    /// The address of one of its hosts.
    pub fn address(&self, host: &FoundHost) -> SocketAddr {
        let port = self.port.or(host.port).unwrap_or(self.protocol.default_port());
        SocketAddr::new(host.address, port)
    }

    /// Where it is, as far as is known.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.hosts.iter().map(|host| self.address(host))
    }
}

/// The target as it is known to people: `sip.example.com`, `192.0.2.1:5080`.
impl fmt::Display for TrunkTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.uri_host())?;
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

/// The host, without brackets, and the port, if there is one.
fn split_port(place: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match place.rsplit_once(':') {
        // An IPv6 address without brackets has no port behind it.
        _ if place.parse::<Ipv6Addr>().is_ok() => (place, None),
        Some((host, port)) if !place.ends_with(']') => (host, Some(port)),
        Some(_) | None => (place, None),
    };
    let in_brackets = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host = match in_brackets {
        Some(address) => address.parse::<Ipv6Addr>().is_ok().then_some(address)?,
        None if host.parse::<IpAddr>().is_ok() || is_name(host) => host,
        None => return None,
    };
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port > 0)?),
        None => None,
    };
    Some((host, port))
}

/// Labels of letters, digits, `-` and `_`, of which the last is no number (RFC 3696 2).
fn is_name(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let is_label = |label: &str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        !label.is_empty() && label.len() <= 63 && label.bytes().all(fits)
    };
    let last = text.rsplit('.').next().unwrap_or_default();
    text.len() <= 253
        && text.split('.').all(is_label)
        && !last.bytes().all(|byte| byte.is_ascii_digit())
}

/// A target of a list: alone, or with its place among the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTarget {
    /// As [`TrunkTarget::parse`] reads it.
    pub target: String,
    /// `None`: its place in the list.
    pub priority: Option<u16>,
    /// `None`: 1.
    pub weight: Option<u16>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TargetTable {
    target: String,
    priority: Option<u16>,
    weight: Option<u16>,
}

/// `"sip.example.com"`, or `{ target = "sip.example.com", priority = 0, weight = 1 }`
impl<'de> Deserialize<'de> for ListedTarget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TextOrTable;

        impl<'de> de::Visitor<'de> for TextOrTable {
            type Value = ListedTarget;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a target, or { target, priority, weight }")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<ListedTarget, E> {
                Ok(ListedTarget { target: text.to_owned(), priority: None, weight: None })
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<ListedTarget, A::Error> {
                let table = TargetTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
                let TargetTable { target, priority, weight } = table;
                Ok(ListedTarget { target, priority, weight })
            }
        }

        deserializer.deserialize_any(TextOrTable)
    }
}

/// What we answer a trunk's challenges with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The realm that it challenges for; no other gets anything.
    pub realm: String,
    /// The user name.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// That we register with a trunk (RFC 3261 10), as a phone does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The user part of our address of record there, and the user name of our digests.
    pub user: String,
    /// The password.
    pub password: Secret,
    /// The realm that it challenges for; `None`: whichever it names.
    pub realm: Option<String>,
    /// How long a registration is asked for.
    pub expires: Duration,
    /// The user part of our Contact: the number that is called here.
    pub contact_user: Number,
}

/// Where a trunk sends from.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct TrunkSource {
    /// The name that is looked up; `None`: its addresses are given.
    pub name: Option<String>,
    /// Its addresses, or networks of them; those of a name as far as they are known.
    pub networks: Vec<Network>,
    /// The port of its datagrams; `None` is any.
    pub port: Option<u16>,
}

impl TrunkSource {
    /// Datagrams of a network, from this port or, `None`, from any; and connections, from any port.
    pub fn new(network: Network, port: Option<u16>) -> Self {
        Self { name: None, networks: vec![network], port }
    }

    /// What is to be looked up to find it.
    pub fn lookup(&self) -> Option<Lookup> {
        self.name.as_ref().map(|name| Lookup { host: name.clone(), service: None })
    }

    /// The address is one of its own.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }
}

/// Text that names nothing that a trunk could send from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotASource {
    /// It is none of the forms.
    #[error(
        "'{0}' is not an address or a name, with or without a port, or a network such as \
         192.0.2.0/24"
    )]
    Malformed(String),
    /// It is meant to be a network.
    #[error(transparent)]
    Network(NotANetwork),
}

/// `192.0.2.10`, `192.0.2.10:5060`, `192.0.2.0/24`, `sbc.example.com` or `sbc.example.com:5060`
impl TryFrom<String> for TrunkSource {
    type Error = NotASource;

    fn try_from(text: String) -> Result<Self, NotASource> {
        if let Ok(socket) = text.parse::<SocketAddr>() {
            return Ok(Self::new(socket.ip().into(), Some(socket.port())));
        }
        match text.parse() {
            Ok(network) => Ok(Self::new(network, None)),
            Err(NotANetwork::Malformed(text)) => match split_port(&text) {
                Some((host, port)) if is_name(host) => {
                    let name = Some(host.to_ascii_lowercase());
                    Ok(Self { name, networks: Vec::new(), port })
                }
                Some(_) | None => Err(NotASource::Malformed(text)),
            },
            Err(error @ NotANetwork::HostBits { .. }) => Err(NotASource::Network(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Option<(String, Option<u16>, Protocol)> {
        let read = TrunkTarget::parse(text, Protocol::Udp).ok()?;
        Some((read.host, read.port, read.protocol))
    }

    #[test]
    fn a_target_is_a_host_a_host_with_a_port_or_a_uri() {
        let (udp, tcp, tls) = (Protocol::Udp, Protocol::Tcp, Protocol::Tls);
        for (text, host, port, protocol) in [
            ("pbx", "pbx", None, udp),
            ("PBX.example.com:5080", "pbx.example.com", Some(5080), udp),
            ("192.0.2.1", "192.0.2.1", None, udp),
            ("[2001:db8::1]:5080", "2001:db8::1", Some(5080), udp),
            ("2001:db8::1", "2001:db8::1", None, udp),
            ("sip:pbx.example.com", "pbx.example.com", None, udp),
            ("sip:pbx.example.com;transport=tcp;lr", "pbx.example.com", None, tcp),
            ("sip:192.0.2.1:5061;transport=TLS", "192.0.2.1", Some(5061), tls),
            ("sips:pbx.example.com", "pbx.example.com", None, tls),
        ] {
            assert_eq!(target(text), Some((host.to_owned(), port, protocol)), "{text}");
        }
        for text in [
            "",
            "a:0",
            "a:99999",
            "a:b",
            "sip:a@b",
            "a;transport=tcp",
            "sip:a;transport=ws",
            "sips:a;transport=udp",
            "192.0.2",
            "192.0.2.1.5",
            "a b",
            "[a]",
            "a..b",
        ] {
            assert_eq!(target(text), None, "{text}");
        }
    }

    #[test]
    fn a_name_is_looked_up_by_srv_unless_a_port_is_given() {
        let lookup = |text| TrunkTarget::parse(text, Protocol::Tcp).unwrap().lookup();
        let host = || "pbx.example".to_owned();
        let by_service = Lookup { host: host(), service: Some(Protocol::Tcp) };
        assert_eq!(lookup("pbx.example"), Some(by_service));
        assert_eq!(lookup("pbx.example:5060"), Some(Lookup { host: host(), service: None }));
        assert_eq!(lookup("192.0.2.1"), None);
    }

    #[test]
    fn a_source_is_an_address_a_network_or_a_name() {
        let read = |text: &str| TrunkSource::try_from(text.to_owned());
        let by_name = read("SBC.example.com:5060").unwrap();
        assert_eq!(by_name.name.as_deref(), Some("sbc.example.com"));
        assert_eq!((by_name.networks.len(), by_name.port), (0, Some(5060)));
        assert!(read("192.0.2.0/28").unwrap().contains("192.0.2.3".parse().unwrap()));
        for text in ["", "192.0.2", "a b", "192.0.2.1/28", "a/24", "sip:a"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
