//! What is ours: hosts, domains, accounts and their numbers, and how we write ourselves.

use crate::media::is_private;
use crate::model::Number;
use crate::sip::config::{Nat, SipAccount, SipConfig, Trunk};
use crate::sip::dialog::Dialog;
use crate::sip::flow::{Flow, Protocol};
use crate::sip::leg::{ANONYMOUS, LegSource};
use crate::sip::message::{Headers, Host, Scheme, SipRequest, Uri, Via, escape};
use crate::sip::peer::{ReturnPath, speaks_from};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// The Allow header.
pub(super) const ALLOW: &str =
    "INVITE, ACK, CANCEL, BYE, OPTIONS, PRACK, UPDATE, INFO, REFER, REGISTER";

/// The Accept header: [`DESCRIBED`](crate::sip::message::DESCRIBED).
pub(super) const ACCEPT: &str = "application/sdp, multipart/mixed, multipart/alternative";

/// The domain that this user agent serves. It does not change.
#[derive(Debug)]
pub(super) struct LocalDomain {
    /// With the addresses of trunks filled in.
    pub(super) config: SipConfig,
    /// The addresses that are listened on.
    pub(super) locals: Vec<(Protocol, SocketAddr)>,
    /// Where in the configuration the account of a number is, and that of a user name.
    numbers: BTreeMap<Number, usize>,
    users: BTreeMap<String, usize>,
}

impl LocalDomain {
    pub(super) fn new(config: SipConfig, locals: Vec<(Protocol, SocketAddr)>) -> Self {
        Self {
            numbers: index(&config, |account| account.number.clone()),
            users: index(&config, |account| account.username.clone()),
            locals,
            config,
        }
    }

    /// The account that answers to a number.
    pub(super) fn account_of_number(&self, number: &str) -> Option<&SipAccount> {
        self.config.accounts.get(*self.numbers.get(number)?)
    }

    /// The account that a leg is with.
    pub(super) fn account_of(&self, source: &LegSource) -> Option<&SipAccount> {
        match source {
            LegSource::Account(device) => self.config.account(device),
            LegSource::Trunk(_) => None,
        }
    }

    /// The account that answers challenges under this user name.
    pub(super) fn account_of_user(&self, user: &str) -> Option<&SipAccount> {
        self.config.accounts.get(*self.users.get(user)?)
    }

    /// The Request-URI names us or a domain of ours. What stands at another port of our host is
    /// another's; a domain's port is not ours to know: something before us may have another. A tel
    /// URI names no host: whatever is asked resolves it.
    pub(super) fn is_ours(&self, uri: &Uri) -> bool {
        if uri.scheme() == Scheme::Tel {
            return true;
        }
        let host = uri.host_text();
        let named = |name: &String| name.eq_ignore_ascii_case(host);
        if self.config.domains.iter().any(named) {
            return true;
        }
        let advertised = self.config.advertised.as_ref().is_some_and(named);
        let at_host = |local: &SocketAddr| match uri.host() {
            Host::Address(address) => advertised || local.ip() == address.to_canonical(),
            Host::Name(_) => advertised,
        };
        let at_port = |local: &SocketAddr| uri.port().is_none_or(|port| port == local.port());
        self.locals.iter().any(|(_, local)| at_host(local) && at_port(local))
    }

    /// The number that a URI means here: an account's own spelling of it first, else without visual
    /// separators.
    pub(super) fn number_of(&self, uri: &Uri) -> Option<Number> {
        let written = uri.subscriber()?;
        if self.account_of_number(&written).is_some() {
            return Some(Number::from(written));
        }
        uri.number().map(Number::from)
    }

    /// A trunk's address, which is reached over TLS.
    pub(super) fn is_secure_trunk(&self, flow: &Flow) -> bool {
        let is_there =
            |trunk: &Trunk| trunk.protocol.is_secure() && trunk.address == Some(flow.peer);
        flow.protocol.is_secure() && self.config.trunks.iter().any(is_there)
    }

    /// The host that we write of ourselves on a flow.
    pub(super) fn via_host(&self, flow: &Flow) -> String {
        match &self.config.advertised {
            Some(host) => host.clone(),
            None if flow.local.ip().is_ipv6() => format!("[{}]", flow.local.ip()),
            None => flow.local.ip().to_string(),
        }
    }

    /// Our Contact on a leg: its user part is the number that we go by there, so that a phone that
    /// refers to it, or calls it later, names somebody (RFC 5589 7). A sips URI where the dialog
    /// asks for that.
    pub(super) fn contact(&self, flow: &Flow, is_sips: bool, number: &Number) -> Vec<u8> {
        let number = if number.as_str().is_empty() { ANONYMOUS } else { number.as_str() };
        let user = String::from_utf8_lossy(&escape(number.as_bytes())).into_owned();
        let (host, port) = (self.via_host(flow), flow.local.port());
        match flow.protocol.uri_param().filter(|_| !is_sips) {
            Some(transport) => format!("<sip:{user}@{host}:{port};transport={transport}>"),
            None if is_sips => format!("<sips:{user}@{host}:{port}>"),
            None => format!("<sip:{user}@{host}:{port}>"),
        }
        .into_bytes()
    }

    /// The header fields that say what we are and can, on a request that makes or refreshes a
    /// dialog.
    pub(super) fn write_common(&self, request: &mut SipRequest, dialog: &Dialog, number: &Number) {
        request.headers.push("Contact", self.contact(&dialog.flow, dialog.is_sips, number));
        request.headers.push("Allow", ALLOW);
        request.headers.push("Accept", ACCEPT);
        request.headers.push("Supported", "timer");
        request.headers.push("User-Agent", &self.config.product);
    }

    /// Where a request came from and where its responses go. `headers` are the request's, or those
    /// of the response to it.
    pub(super) fn return_path(
        &self,
        source: Flow,
        via: Option<&Via>,
        headers: &Headers,
    ) -> ReturnPath {
        // Only a datagram whose Via says another port, and does not ask for rport, has two ways to
        // choose from.
        let elsewhere = |via: &Via| {
            via.rport().is_none()
                && via.port.unwrap_or(source.protocol.default_port()) != source.peer.port()
        };
        let keeps = source.protocol == Protocol::Udp
            && via.is_some_and(|via| elsewhere(via) && self.is_behind_nat(&source, via, headers));
        ReturnPath::new(source, via, keeps)
    }

    /// The sender is configured as behind a NAT, or shows it: its Via names a private address that
    /// is not the one that it comes from. Whether it is what it says matters to nobody: its own
    /// source is always a safe place to answer.
    fn is_behind_nat(&self, source: &Flow, via: &Via, headers: &Headers) -> bool {
        let from = headers.from().ok().and_then(|from| self.number_of(&from.uri));
        let account = from.and_then(|number| self.account_of_number(number.as_str()));
        let trunk = || self.config.trunks.iter().find(|trunk| speaks_from(trunk, source));
        match account
            .map(|account| account.nat)
            .or_else(|| trunk().map(|trunk| trunk.nat))
            .unwrap_or_default()
        {
            Nat::Always => true,
            Nat::Never => false,
            Nat::Auto => match via.sent_host() {
                Host::Address(named) => {
                    let (named, seen) = (named.to_canonical(), source.peer.ip().to_canonical());
                    is_private(named) && named != seen && !seen.is_loopback()
                }
                Host::Name(_) => false,
            },
        }
    }
}

/// Of two accounts of one name the first counts.
fn index<K: Ord>(config: &SipConfig, name: impl Fn(&SipAccount) -> K) -> BTreeMap<K, usize> {
    let numbered = config.accounts.iter().enumerate().rev();
    numbered.map(|(at, account)| (name(account), at)).collect()
}
