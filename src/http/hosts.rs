//! The names that clients may know us by. A page of a foreign site that has its own name point to
//! our address (DNS rebinding) is of our origin to a browser, but it asks for that name.

use super::error::HttpError;
use crate::model::Reason;
use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderValue, StatusCode, Uri, header};
use std::net::IpAddr;
use std::sync::Arc;

/// Every name.
pub(crate) const ANY: &str = "*";
/// Itself, names below it, and loopback addresses.
pub(crate) const LOCALHOST: &str = "localhost";

/// Names by which a server may be asked. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hosts(Option<Arc<[String]>>);

impl Hosts {
    /// Of these and the host of the URL; of every name when there is none, or one is [`ANY`].
    pub(crate) fn new(names: &[String], public_url: &str) -> Self {
        if names.is_empty() || names.iter().any(|name| name == ANY) {
            return Self(None);
        }
        let own = public_url.parse::<Uri>().ok();
        let own = own.as_ref().and_then(Uri::authority).map(Authority::as_str);
        let names =
            names.iter().map(String::as_str).chain(own).map(|name| host_of(name).to_owned());
        Self(Some(names.map(|name| name.to_ascii_lowercase()).collect()))
    }

    /// Whether a request with this target and these `Host` fields may be answered. Each name that
    /// it has must be one of ours, and it must have one.
    fn admit<'a>(
        &self,
        target: Option<&str>,
        fields: impl Iterator<Item = &'a HeaderValue>,
    ) -> bool {
        let Some(names) = &self.0 else {
            return true;
        };
        let mut named = 0;
        let of_fields = fields.map(|field| field.to_str().unwrap_or_default());
        target.into_iter().chain(of_fields).all(|authority| {
            named += 1;
            is_among(names, host_of(authority))
        }) && named > 0
    }

    /// The same of a request that has come by HTTP/1.1 without a host in its target.
    pub(crate) fn admit_field(&self, field: Option<&HeaderValue>) -> bool {
        self.admit(None, field.into_iter())
    }

    /// # Errors
    /// The request is for somebody else.
    pub(crate) fn check(&self, request: &Request) -> Result<(), HttpError> {
        let target = request.uri().authority().map(Authority::as_str);
        match self.admit(target, request.headers().get_all(header::HOST).iter()) {
            true => Ok(()),
            // RFC 9110 15.5.20.
            false => Err(HttpError::new(
                Reason::InvalidInput,
                "This server is not known by the name in Host, see rest.hosts.",
            )
            .with_http(StatusCode::MISDIRECTED_REQUEST)),
        }
    }
}

/// Without a user and a port (RFC 3986 3.2).
fn host_of(authority: &str) -> &str {
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        // More colons are of an address without brackets.
        None => match host.split_once(':') {
            Some((name, port)) if !port.contains(':') => name,
            Some(_) | None => host,
        },
    }
    .trim_end_matches('.')
}

fn is_among(names: &[String], host: &str) -> bool {
    let address = host.parse::<IpAddr>().ok();
    names.iter().any(|name| match name.as_str() {
        LOCALHOST => {
            let below = host.len().checked_sub(LOCALHOST.len());
            let is_named = below.and_then(|below| host.split_at_checked(below));
            let is_named = is_named.is_some_and(|(before, name)| {
                name.eq_ignore_ascii_case(LOCALHOST) && (before.is_empty() || before.ends_with('.'))
            });
            is_named || address.is_some_and(|address| address.to_canonical().is_loopback())
        }
        name => match address {
            Some(address) => name.parse() == Ok(address),
            None => name.eq_ignore_ascii_case(host),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(names: &[&str], target: Option<&str>, fields: &[&str]) -> bool {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let hosts = Hosts::new(&names, "https://Desk.example:8443");
        let fields: Vec<HeaderValue> =
            fields.iter().map(|field| HeaderValue::from_str(field).expect("a value")).collect();
        hosts.admit(target, fields.iter())
    }

    #[test]
    fn whoever_knows_us_by_another_name_is_elsewhere() {
        for field in ["evil.example", "evil.example:8080", "", "desk.example.evil", "localhost"] {
            assert!(!admits(&["desk.example"], None, &[field]), "{field}");
            assert!(!admits(&["desk.example"], Some("desk.example"), &[field]), "{field}");
            assert!(!admits(&["desk.example"], Some(field), &["desk.example"]), "{field}");
            assert!(admits(&[], None, &[field]) && admits(&["x", "*"], None, &[field]), "{field}");
        }
        assert!(!admits(&["desk.example"], None, &[]), "without a name");
        assert!(!admits(&["desk.example"], None, &["desk.example", "evil.example"]));
        for field in ["desk.example", "DESK.example:8443", "desk.example.", "desk.example:1"] {
            assert!(admits(&["x.example"], None, &[field]), "that of the public URL: {field}");
        }
        assert!(admits(&["x.example"], Some("x.example:8443"), &[]));
    }

    #[test]
    fn the_loopback_has_many_names_and_addresses_are_told_by_their_value() {
        for field in
            ["localhost", "LOCALHOST:80", "a.localhost", "127.0.0.1:8080", "127.9.9.9", "[::1]:80"]
        {
            assert!(admits(&["localhost"], None, &[field]), "{field}");
        }
        for field in
            ["localhost.evil", "evillocalhost", "192.0.2.1", "[2001:db8::1]", "127.0.0.1.nip.io"]
        {
            assert!(!admits(&["localhost"], None, &[field]), "{field}");
        }
        assert!(admits(&["2001:db8::1"], None, &["[2001:0DB8:0::1]:8080"]));
        assert!(admits(&["[2001:db8::1]"], None, &["[2001:db8::1]"]));
        assert!(admits(&["192.0.2.1"], None, &["192.0.2.1:8080"]));
    }
}
