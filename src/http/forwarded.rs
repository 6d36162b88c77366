//! The client's address behind a proxy, where the proxy may be believed.

use crate::model::Network;
use axum::http::{HeaderMap, HeaderName};
use std::net::IpAddr;
use std::sync::Arc;

/// Proxies that say truly where a request comes from. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies(Arc<[Network]>);

/// `X-Forwarded-For: client, proxy, proxy`: each appends the address that it has the request from.
pub(crate) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl Proxies {
    pub(crate) fn new(trusted: &[Network]) -> Self {
        Self(trusted.into())
    }

    /// The last address on the way that is no proxy of ours. What stands before it may be forged.
    pub(crate) fn client_of(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let peer = peer.to_canonical();
        let mut client = peer;
        let lines = headers.get_all(FORWARDED_FOR);
        let hops: Vec<&str> = lines
            .iter()
            .filter_map(|line| line.to_str().ok())
            .flat_map(|line| line.split(','))
            .collect();
        let mut hops = hops.into_iter().rev();
        while self.0.iter().any(|network| network.contains(client)) {
            match hops.next().map(|hop| hop.trim().parse::<IpAddr>()) {
                Some(Ok(hop)) => client = hop.to_canonical(),
                Some(Err(_)) | None => return peer,
            }
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn the_client_is_the_last_one_who_is_no_proxy_of_ours() {
        let address = |text: &str| text.parse::<IpAddr>().expect(text);
        let proxies = Proxies::new(
            &["127.0.0.1", "10.0.0.0/24", "2001:db8::/64"].map(|text| text.parse().expect(text)),
        );
        let client = |peer: &str, lines: &[&str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, HeaderValue::from_str(line).expect("a header"));
            }
            proxies.client_of(address(peer), &headers)
        };
        assert_eq!(
            client("192.0.2.9", &["198.51.100.1"]),
            address("192.0.2.9"),
            "a stranger may say what he likes"
        );
        assert_eq!(client("127.0.0.1", &["198.51.100.1"]), address("198.51.100.1"));
        assert_eq!(client("::ffff:127.0.0.1", &["198.51.100.1"]), address("198.51.100.1"));
        assert_eq!(
            client("127.0.0.1", &["6.6.6.6, 198.51.100.1, 10.0.0.1"]),
            address("198.51.100.1")
        );
        assert_eq!(client("127.0.0.1", &["6.6.6.6", "198.51.100.1"]), address("198.51.100.1"));
        assert_eq!(
            client("10.0.0.7", &["6.6.6.6, 2001:db8:1::9, 2001:db8::1, 10.0.0.255"]),
            address("2001:db8:1::9"),
            "any address of a network is a proxy of ours"
        );
        assert_eq!(client("10.0.1.7", &["198.51.100.1"]), address("10.0.1.7"));
        for nothing in [&[][..], &["unknown"], &[""], &["198.51.100.1, x"], &["10.0.0.1"]] {
            assert_eq!(client("127.0.0.1", nothing), address("127.0.0.1"), "{nothing:?}");
        }
    }
}
