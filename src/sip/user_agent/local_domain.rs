//! What is ours: hosts, domains, accounts and their numbers, and how we write ourselves.

use crate::media::is_private;
use crate::model::{DeviceId, Number};
use crate::sip::config::{FoundHost, Lookup, Nat, SipAccount, SipConfig, SipDirectory, Trunk};
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

/// The domain that this user agent serves.
#[derive(Debug)]
pub(super) struct LocalDomain {
    /// With the addresses of trunks filled in.
    pub(super) config: SipConfig,
    /// The addresses that are listened on.
    pub(super) locals: Vec<(Protocol, SocketAddr)>,
    /// The device of the account that has a number, that has a user name, and that has an alias.
    numbers: BTreeMap<Number, DeviceId>,
    users: BTreeMap<String, DeviceId>,
    aliases: BTreeMap<Number, DeviceId>,
    /// The device behind a trunk that has a name there.
    behind: BTreeMap<(String, Number), DeviceId>,
    /// Trunks that are peers no more, for the legs that are still with them.
    former_trunks: Vec<Trunk>,
}

impl LocalDomain {
    pub(super) fn new(config: SipConfig, locals: Vec<(Protocol, SocketAddr)>) -> Self {
        let accounts = config.accounts.clone();
        let mut domain = Self {
            numbers: BTreeMap::new(),
            users: BTreeMap::new(),
            aliases: BTreeMap::new(),
            behind: BTreeMap::new(),
            former_trunks: Vec::new(),
            locals,
            config,
        };
        accounts.iter().for_each(|account| domain.index(account));
        domain
    }

    fn index(&mut self, account: &SipAccount) {
        let device = &account.device;
        self.numbers.insert(account.number.clone(), device.clone());
        self.users.insert(account.username.clone(), device.clone());
        for name in account.names_besides() {
            self.aliases.insert(name.clone(), device.clone());
        }
        for name in names_behind(account) {
            self.behind.insert(name, device.clone());
        }
    }

    fn forget(&mut self, account: &SipAccount) {
        let device = &account.device;
        forget_name(&mut self.numbers, &account.number, device);
        forget_name(&mut self.users, &account.username, device);
        account.names_besides().for_each(|name| forget_name(&mut self.aliases, name, device));
        names_behind(account).for_each(|name| forget_name(&mut self.behind, &name, device));
    }

    /// Other accounts and trunks from now on; what has become of each account. `is_used`: a leg is
    /// with the trunk of this name.
    pub(super) fn change(
        &mut self,
        new: SipDirectory,
        is_used: impl Fn(&str) -> bool,
    ) -> AccountChanges {
        let SipDirectory { accounts, trunks } = new;
        let difference = self.config.accounts.changes_to(&accounts);
        let before = std::mem::replace(&mut self.config.accounts, accounts.clone());
        let gone = difference.removed.iter().chain(&difference.changed);
        gone.filter_map(|device| before.get(device)).for_each(|account| self.forget(account));
        let here = difference.put().filter_map(|device| accounts.get(device));
        here.for_each(|account| self.index(account));
        let must_register_anew = |device: &&DeviceId| {
            let (was, is) = (before.get(device), accounts.get(device));
            let name = |account: Option<&SipAccount>| {
                account.map(|account| {
                    let names = (account.number.clone(), account.username.clone());
                    (names, account.ha1s.clone(), account.transport, account.via.clone())
                })
            };
            name(was) != name(is)
        };
        let unregistered =
            difference.removed.iter().chain(difference.changed.iter().filter(must_register_anew));
        let unregistered = unregistered.cloned().collect();
        let before = std::mem::replace(&mut self.config.trunks, trunks);
        self.former_trunks.extend(before);
        let trunks = &self.config.trunks;
        self.former_trunks.retain(|former| {
            is_used(&former.name) && !trunks.iter().any(|trunk| trunk.name == former.name)
        });
        AccountChanges { unregistered, qualified: difference.changed }
    }

    /// The trunk of this name; one that is a peer no more, as long as a leg is with it.
    pub(super) fn trunk(&self, name: &str) -> Option<&Trunk> {
        let former = || self.former_trunks.iter().find(|trunk| trunk.name == name);
        self.config.trunk(name).or_else(former)
    }

    /// The trunks that are peers, and those that legs are still with.
    pub(super) fn all_trunks(&self) -> impl Iterator<Item = &Trunk> {
        self.config.trunks.iter().chain(&self.former_trunks)
    }

    /// A number or an alias is an account's.
    pub(super) fn is_listed(&self, name: &str) -> bool {
        self.numbers.contains_key(name) || self.aliases.contains_key(name)
    }

    /// The account that answers to a number.
    pub(super) fn account_of_number(&self, number: &str) -> Option<&SipAccount> {
        self.config.accounts.get(self.numbers.get(number)?)
    }

    /// The account that a leg is with.
    pub(super) fn account_of(&self, source: &LegSource) -> Option<&SipAccount> {
        match source {
            LegSource::Account(device) => self.config.account(device),
            LegSource::Trunk(_) => None,
        }
    }

    /// The trunk that a peer is, or is behind.
    pub(super) fn trunk_of<'a>(&'a self, source: &'a LegSource) -> Option<&'a str> {
        match source {
            LegSource::Account(device) => self.config.account(device)?.via.as_deref(),
            LegSource::Trunk(name) => Some(name),
        }
    }

    /// The account that a switch calls by this name.
    pub(super) fn account_behind(&self, trunk: &str, name: &Number) -> Option<&SipAccount> {
        let device = self.behind.get(&(trunk.to_owned(), name.clone()))?;
        self.config.accounts.get(device)
    }

    /// Devices are behind this trunk.
    pub(super) fn has_devices(&self, trunk: &str) -> bool {
        let first = (trunk.to_owned(), Number::from(""));
        self.behind.range(first..).next().is_some_and(|((name, _), _)| name == trunk)
    }

    /// The number that a URI from a switch means here: that of a device, or what the switch calls
    /// a device behind it.
    pub(super) fn number_from(&self, trunk: Option<&str>, uri: &Uri) -> Option<Number> {
        let number = self.number_of(uri)?;
        if self.account_of_number(number.as_str()).is_some() {
            return Some(number);
        }
        let behind = trunk.and_then(|trunk| self.account_behind(trunk, &number));
        Some(behind.map_or(number, |account| account.number.clone()))
    }

    /// The number that an INVITE calls here. What comes to our registration with a trunk, and names
    /// no number of ours by that, is for the number of its To.
    pub(super) fn number_called(&self, trunk: Option<&str>, invite: &SipRequest) -> Option<Number> {
        let number = self.number_from(trunk, &invite.uri);
        let registration = trunk.and_then(|name| self.trunk(name)?.registration.as_ref());
        let is_contact = |number: &Number| {
            let contact = registration.map(|registration| &registration.contact_user);
            contact == Some(number) && self.account_of_number(number.as_str()).is_none()
        };
        match number {
            Some(number) if is_contact(&number) => {
                let to = invite.headers.to().ok();
                let to = to.and_then(|to| self.number_from(trunk, &to.uri));
                Some(to.unwrap_or(number))
            }
            number => number,
        }
    }

    /// A name stands for these hosts from now on; the trunks that it concerns.
    pub(super) fn place(&mut self, lookup: &Lookup, hosts: &[FoundHost]) -> Vec<&Trunk> {
        let mut trunks = Vec::new();
        for trunk in self.config.trunks.iter_mut().chain(&mut self.former_trunks) {
            if trunk.lookups().any(|name| name == *lookup) {
                trunk.place(lookup, hosts);
                trunks.push(&*trunk);
            }
        }
        trunks
    }

    /// The account that answers challenges under this user name.
    pub(super) fn account_of_user(&self, user: &str) -> Option<&SipAccount> {
        self.config.accounts.get(self.users.get(user)?)
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

    /// The URI is at the host of this trunk: at its target, or at an address that it speaks from.
    pub(super) fn is_at_trunk(&self, trunk: Option<&str>, uri: &Uri) -> bool {
        let Some(trunk) = trunk.and_then(|name| self.trunk(name)) else {
            return false;
        };
        match uri.host() {
            Host::Address(address) => {
                let address = address.to_canonical();
                trunk.hosts().iter().any(|host| host.contains(address))
            }
            Host::Name(_) => {
                let named = |host: &str| host.eq_ignore_ascii_case(uri.host_text());
                trunk.targets.iter().any(|target| named(&target.host))
            }
        }
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
        let is_there = |trunk: &Trunk| trunk.is_at(Protocol::Tls, flow.peer);
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

/// What a change of the directory means for accounts.
pub(super) struct AccountChanges {
    /// Those whose phones are registered no more: the accounts that are gone, and those with another
    /// number or password.
    pub(super) unregistered: Vec<DeviceId>,
    /// Those that have changed.
    pub(super) qualified: Vec<DeviceId>,
}

/// What a switch may call the device that is behind it: its name there, its number, its aliases.
fn names_behind(account: &SipAccount) -> impl Iterator<Item = (String, Number)> {
    let names = account.names_besides().chain([&account.number]);
    let via = account.via.clone();
    names.filter_map(move |name| Some((via.clone()?, name.clone())))
}

/// Forgets a name, unless it has passed to another device meanwhile.
fn forget_name<K: Ord>(names: &mut BTreeMap<K, DeviceId>, name: &K, device: &DeviceId) {
    if names.get(name) == Some(device) {
        names.remove(name);
    }
}
