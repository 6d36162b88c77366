//! What the SIP adapter must be told.

mod target;
mod trunk_policy;

use super::b2bua::AccountKind;
use super::digest::{Algorithm, Ha1s, ha1};
use super::flow::Protocol;
use super::message::is_token;
use super::sdp::SrtpPolicy;
use super::transaction::{Bounds, Timing};
use crate::media::Codec;
use crate::model::{DeviceId, Difference, Network, Number, SharedMap, UserData, config_value};
use serde::Deserialize;
use serde::de::{self, Deserializer};
use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
pub use target::{
    FoundHost, ListedTarget, Login, Lookup, LookupAnswer, LookupFault, NotASource, NotATarget,
    Registration, TrunkSource, TrunkTarget,
};
pub use trunk_policy::{AssertedIdentity, HandedOn, Redirects, Referrals, TrunkHold};

/// The configuration of the user agent and its sockets.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SipConfig {
    /// Where to listen. Port 0 takes a free one.
    pub listen: Vec<ListenAddress>,
    /// Hosts that are ours in a Request-URI, besides the addresses we listen on: domains and public
    /// addresses.
    pub domains: Vec<String>,
    /// The host in our Via and Contact. `None`: the address we listen on.
    pub advertised: Option<String>,
    /// The realm of our challenges.
    pub realm: String,
    /// The digest algorithms we challenge for, the preferred first.
    #[serde(rename = "digests")]
    pub algorithms: Vec<Algorithm>,
    /// How long a challenge can be answered.
    #[serde(skip)]
    pub nonce_lifetime: Duration,
    /// The phones that may register and call.
    #[serde(skip)]
    pub accounts: SipAccounts,
    /// The peers that are known by their address.
    #[serde(skip)]
    pub trunks: Vec<Trunk>,
    /// There are authorities that vouch for clients: a trunk over TLS that connects to us shows a
    /// certificate.
    #[serde(skip)]
    pub verifies_clients: bool,
    /// Whether accounts must authenticate each INVITE. When off, an INVITE from the address an
    /// account has registered from is that account's.
    pub challenge_invites: bool,
    /// Bounds.
    #[serde(skip)]
    pub limits: SipLimits,
    /// RFC 3261's timers.
    #[serde(skip)]
    pub timing: Timing,
    /// How often registered phones are asked whether they are there; `None`: never.
    #[serde(deserialize_with = "config_value::seconds_or_never")]
    pub qualify: Option<Duration>,
    /// RFC 4028's interval that we ask for: 300 s.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub session_expires: Duration,
    /// RFC 4028's shortest interval that we accept: 90 s.
    #[serde(skip)]
    pub min_session_expires: Duration,
    /// The name server that names of trunks are looked up at; `None`: those of the system.
    #[serde(skip)]
    pub name_server: Option<SocketAddr>,
    /// The User-Agent and Server header.
    #[serde(skip)]
    pub product: String,
}

impl Default for SipConfig {
    fn default() -> Self {
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5060);
        Self {
            listen: vec![
                ListenAddress::new(Protocol::Udp, address),
                ListenAddress::new(Protocol::Tcp, address),
            ],
            domains: Vec::new(),
            advertised: None,
            realm: "undertone".to_owned(),
            algorithms: vec![Algorithm::Sha256, Algorithm::Md5],
            nonce_lifetime: Duration::from_secs(300),
            accounts: SipAccounts::default(),
            trunks: Vec::new(),
            verifies_clients: false,
            challenge_invites: true,
            limits: SipLimits::default(),
            timing: Timing::default(),
            qualify: None,
            session_expires: Duration::from_secs(300),
            min_session_expires: Duration::from_secs(90),
            name_server: None,
            product: "Undertone".to_owned(),
        }
    }
}

impl SipConfig {
    /// The trunk of this name.
    pub fn trunk(&self, name: &str) -> Option<&Trunk> {
        self.trunks.iter().find(|trunk| trunk.name == name)
    }

    /// The trunk that takes calls to `number`: the one with the longest fitting prefix.
    pub fn trunk_for(&self, number: &Number) -> Option<&Trunk> {
        let fits = |trunk: &&Trunk| trunk.prefix_length(number).is_some();
        self.trunks.iter().filter(fits).max_by_key(|trunk| trunk.prefix_length(number))
    }

    /// The account of a device.
    pub fn account(&self, device: &DeviceId) -> Option<&SipAccount> {
        self.accounts.get(device)
    }

    /// Who may register and call, and the peers.
    pub fn directory(&self) -> SipDirectory {
        SipDirectory { accounts: self.accounts.clone(), trunks: self.trunks.clone() }
    }
}

/// Who may register and call, and the peers: what changes while an endpoint runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SipDirectory {
    /// The phones that may register and call.
    pub accounts: SipAccounts,
    /// The peers that are known by their address.
    pub trunks: Vec<Trunk>,
}

/// Accounts by device. A copy shares them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SipAccounts(SharedMap<DeviceId, SipAccount>);

impl SipAccounts {
    /// The account of a device.
    pub fn get(&self, device: &DeviceId) -> Option<&SipAccount> {
        self.0.get(device).map(|account| &**account)
    }

    /// Every account, by device.
    pub fn iter(&self) -> impl Iterator<Item = &SipAccount> {
        self.0.values().map(|account| &**account)
    }

    /// Every account, by device, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut SipAccount> {
        self.0.values_mut().map(Arc::make_mut)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes an account, in the place of that of its device.
    pub fn insert(&mut self, account: SipAccount) {
        self.0.insert(account.device.clone(), Arc::new(account));
    }

    /// Takes an account out.
    pub fn remove(&mut self, device: &DeviceId) {
        self.0.remove(device);
    }

    /// What has become of each account.
    pub fn changes_to(&self, after: &SipAccounts) -> Difference<DeviceId> {
        Difference::between(&self.0, &after.0)
    }
}

impl FromIterator<SipAccount> for SipAccounts {
    fn from_iter<I: IntoIterator<Item = SipAccount>>(accounts: I) -> Self {
        let by_device = |account: SipAccount| (account.device.clone(), Arc::new(account));
        Self(accounts.into_iter().map(by_device).collect())
    }
}

/// A listening socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct ListenAddress {
    /// Over what.
    pub protocol: Protocol,
    /// Where.
    pub address: SocketAddr,
}

impl ListenAddress {
    /// A listening socket.
    pub fn new(protocol: Protocol, address: SocketAddr) -> Self {
        Self { protocol, address }
    }
}

/// Text that names no socket to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not 'udp:address:port', 'tcp:address:port' or 'tls:address:port'")]
pub struct NotAListenAddress(String);

/// `udp:127.0.0.1:5060`
impl TryFrom<String> for ListenAddress {
    type Error = NotAListenAddress;

    fn try_from(text: String) -> Result<Self, NotAListenAddress> {
        let parsed = text.split_once(':').and_then(|(protocol, address)| {
            let protocol = match protocol {
                "udp" => Protocol::Udp,
                "tcp" => Protocol::Tcp,
                "tls" => Protocol::Tls,
                _ => return None,
            };
            Some(Self::new(protocol, address.parse().ok()?))
        });
        parsed.ok_or(NotAListenAddress(text))
    }
}

/// Whether a peer is behind an address translator: its sound comes from the host that its
/// signalling comes from, from a port that is learned, whatever its description says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nat {
    /// Where it shows: a private address is described by a peer that is seen at a public one; or a
    /// device seen at a public address names another one in its Via (RFC 3261 18.2.1), or a private
    /// one in its Contact.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never: its sound is sent to where its description says, whatever port it comes from.
    Never,
}

/// `"auto"`, or whether there is one.
impl<'de> Deserialize<'de> for Nat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AutoOrBool;

        impl de::Visitor<'_> for AutoOrBool {
            type Value = Nat;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\", true or false")
            }

            fn visit_bool<E: de::Error>(self, is_translated: bool) -> Result<Nat, E> {
                match is_translated {
                    true => Ok(Nat::Always),
                    false => Ok(Nat::Never),
                }
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Nat, E> {
                match text {
                    "auto" => Ok(Nat::Auto),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }
        }

        deserializer.deserialize_any(AutoOrBool)
    }
}

/// How the phones of a device may speak to us.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceTransport {
    /// As they want.
    #[default]
    Any,
    /// Over TLS only.
    Tls,
}

impl DeviceTransport {
    /// They may speak by this.
    pub fn allows(self, protocol: Protocol) -> bool {
        match self {
            DeviceTransport::Any => true,
            DeviceTransport::Tls => protocol.is_secure(),
        }
    }
}

/// A phone of ours.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SipAccount {
    /// The device it is.
    #[serde(rename = "id")]
    pub device: DeviceId,
    /// Its number: the user part of its address of record.
    pub number: Number,
    /// What a switch that it is registered from may call it besides, in P-Asserted-Identity,
    /// Remote-Party-ID or From.
    #[serde(default)]
    pub aliases: Vec<Number>,
    /// The name of the trunk that it is behind: a switch with which its phones are registered. It
    /// is rung there, and a call from there that asserts its name is the device's own. `None`: its
    /// phones register here.
    #[serde(default)]
    pub via: Option<String>,
    /// What that switch calls it; `None`: its number.
    #[serde(default)]
    pub user: Option<Number>,
    /// The user name of its digests; usually the number.
    #[serde(skip)]
    pub username: String,
    /// What its digests are checked against: an HA1 for every algorithm of
    /// [`SipConfig::algorithms`] (without `-sess`).
    #[serde(skip)]
    pub ha1s: Ha1s,
    /// How its phone is asked to answer by itself.
    #[serde(default, deserialize_with = "every_way_or_none")]
    pub auto_answer: AutoAnswer,
    /// What it is used for.
    #[serde(default)]
    pub kind: AccountKind,
    /// Whether it is behind a NAT.
    #[serde(default)]
    pub nat: Nat,
    /// It has a pair of ports of its own for each call even where legs share them: it may send the
    /// sound of several calls from one port.
    #[serde(default)]
    pub own_ports: bool,
    /// Its phones are asked whether they are there ([`SipConfig::qualify`]).
    #[serde(default = "yes")]
    pub qualify: bool,
    /// How its phones may speak to us.
    #[serde(default)]
    pub transport: DeviceTransport,
    /// Whether its media is encrypted.
    #[serde(default)]
    pub srtp: SrtpPolicy,
    /// The keys of its media may go over signalling that others can read.
    #[serde(default)]
    pub srtp_over_clear: bool,
    /// Header fields of its INVITEs that become call data. None: what a phone says of a call is not
    /// believed.
    #[serde(default)]
    pub user_data_headers: UserDataHeaders,
    /// Call data that goes to its phones, by header field of our INVITE.
    #[serde(default)]
    pub send_user_data: UserDataHeaders,
}

impl SipAccount {
    /// An account with its number as user name, with HA1s of SHA-256 and MD5.
    pub fn new(device: DeviceId, number: Number, realm: &str, password: &str) -> Self {
        let username = number.as_str().to_owned();
        let ha1 = |algorithm| (algorithm, ha1(algorithm, &username, realm, password));
        Self {
            ha1s: [Algorithm::Sha256, Algorithm::Md5].map(ha1).into(),
            device,
            number,
            aliases: Vec::new(),
            via: None,
            user: None,
            username,
            auto_answer: AutoAnswer::default(),
            kind: AccountKind::Internal,
            nat: Nat::Auto,
            own_ports: false,
            qualify: true,
            transport: DeviceTransport::Any,
            srtp: SrtpPolicy::Off,
            srtp_over_clear: false,
            user_data_headers: UserDataHeaders::default(),
            send_user_data: UserDataHeaders::default(),
        }
    }

    /// The account of a device whose phones are registered with a switch.
    pub fn behind(device: DeviceId, number: Number, trunk: &str) -> Self {
        let via = Some(trunk.to_owned());
        Self { via, ha1s: BTreeMap::new(), ..Self::new(device, number, "", "") }
    }

    /// The first key of a device behind a trunk that says what the trunk says for all of them.
    pub fn key_of_trunk(&self) -> Option<&'static str> {
        let plain = Self::behind(self.device.clone(), self.number.clone(), "");
        let keys = [
            ("nat", self.nat != plain.nat),
            ("own_ports", self.own_ports != plain.own_ports),
            ("transport", self.transport != plain.transport),
            ("srtp", self.srtp != plain.srtp),
            ("srtp_over_clear", self.srtp_over_clear != plain.srtp_over_clear),
            ("qualify", self.qualify != plain.qualify),
            ("user_data_headers", self.user_data_headers != plain.user_data_headers),
            ("send_user_data", self.send_user_data != plain.send_user_data),
        ];
        keys.into_iter().find(|(_, is_set)| *is_set && self.via.is_some()).map(|(key, _)| key)
    }

    /// What the switch that it is behind calls it.
    pub fn name_at_switch(&self) -> &Number {
        self.user.as_ref().unwrap_or(&self.number)
    }

    /// What a switch may call it besides its number.
    pub fn names_besides(&self) -> impl Iterator<Item = &Number> {
        self.aliases.iter().chain(&self.user)
    }
}

impl fmt::Debug for SipAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("device", &self.device).finish_non_exhaustive()
    }
}

/// The ways to ask a phone to answer by itself; phones understand one or the other, and ignore the
/// rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AutoAnswer {
    /// `Answer-Mode: Auto` (RFC 5373).
    pub answer_mode: bool,
    /// `Call-Info: <sip:…>;answer-after=0`.
    pub call_info: bool,
    /// `Alert-Info: <…>;info=alert-autoanswer`.
    pub alert_info: bool,
}

fn every_way_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AutoAnswer, D::Error> {
    let is_asked = bool::deserialize(deserializer)?;
    Ok(AutoAnswer { answer_mode: is_asked, call_info: is_asked, alert_info: is_asked })
}

fn ten_seconds() -> Option<Duration> {
    Some(Duration::from_secs(10))
}

fn four_seconds() -> Duration {
    Duration::from_secs(4)
}

fn yes() -> bool {
    true
}

impl Default for AutoAnswer {
    fn default() -> Self {
        Self { answer_mode: true, call_info: true, alert_info: true }
    }
}

/// A peer known by its address: a carrier, a session border controller, another switch.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trunk {
    /// Its name.
    pub name: String,
    /// Where its requests come from.
    pub sources: Vec<TrunkSource>,
    /// Where our requests go. Never empty.
    #[serde(skip)]
    pub targets: Vec<TrunkTarget>,
    /// How long a target may take to say anything at all to an INVITE before the next is tried.
    #[serde(default = "four_seconds", deserialize_with = "config_value::some_seconds")]
    pub first_response: Duration,
    /// The name that its certificates have (RFC 5922 7.1); `None`: the host of each target.
    pub tls_name: Option<String>,
    /// The numbers that are called there: `+49`, `0`; an empty prefix fits every number.
    #[serde(default)]
    pub prefixes: Vec<String>,
    /// The codecs it may use, best first. Empty: all of ours.
    #[serde(default)]
    pub codecs: Vec<Codec>,
    /// Our credentials for its challenges, by realm.
    #[serde(skip)]
    pub logins: Vec<Login>,
    /// We register with it.
    #[serde(skip)]
    pub registration: Option<Registration>,
    /// More calls at once over it are refused; `None`: as many as there may be at all.
    pub max_calls: Option<usize>,
    /// More calls that it begins within a second are refused; `None`: any number.
    pub max_calls_per_second: Option<u32>,
    /// Whether it is behind a NAT.
    #[serde(default)]
    pub nat: Nat,
    /// Where its sound may be, besides its own hosts; none: not said.
    #[serde(default)]
    pub media_sources: Vec<Network>,
    /// It has a pair of ports of its own for each call even where legs share them: it may send the
    /// sound of several calls from one port.
    #[serde(default)]
    pub own_ports: bool,
    /// Whether its media is encrypted.
    #[serde(default)]
    pub srtp: SrtpPolicy,
    /// The keys of its media may go over signalling that others can read.
    #[serde(default)]
    pub srtp_over_clear: bool,
    /// Which header field says who calls, of those that a switch asserts.
    #[serde(default)]
    pub identity: AssertedIdentity,
    /// How often each of its targets is asked whether it is there, by OPTIONS (RFC 3261 11);
    /// `None`: never, and devices that are behind it are always there.
    #[serde(default = "ten_seconds", deserialize_with = "config_value::seconds_or_never")]
    pub qualify: Option<Duration>,
    /// It is within our trust domain (RFC 3325 2.3): the caller that it asserts is believed, also a
    /// caller that withholds its number, and it is told who calls, why, and which party is at the
    /// other end when that changes.
    #[serde(default)]
    pub trusted: bool,
    /// Whether it is told which number of ours has sent a call on to it, in Diversion (RFC 5806);
    /// `None`: as it is trusted.
    pub diversion: Option<bool>,
    /// What becomes of a REFER of its party.
    #[serde(default)]
    pub refer: Referrals,
    /// Whether it says that it has handed a leg on.
    #[serde(default)]
    pub handed_on: HandedOn,
    /// It may show numbers of our own devices as calling: a switch on which they hang as well. Else
    /// such a number is withheld, and shown as not verified.
    #[serde(default)]
    pub own_numbers: bool,
    /// Header fields of its INVITEs that become call data, besides User-to-User, which does anyway.
    #[serde(default)]
    pub user_data_headers: UserDataHeaders,
    /// Call data that goes there, by header field of our INVITE.
    #[serde(default)]
    pub send_user_data: UserDataHeaders,
    /// Whether it is told of a hold.
    #[serde(default)]
    pub hold: TrunkHold,
    /// What becomes of a call that it sends elsewhere.
    #[serde(default)]
    pub redirects: Redirects,
}

impl Trunk {
    /// A trunk at an address that may also call us from there, from any port, and that is not asked
    /// whether it is there.
    pub fn at(name: &str, address: SocketAddr, protocol: Protocol) -> Self {
        let host = address.ip().to_string();
        Self {
            name: name.to_owned(),
            sources: vec![TrunkSource::new(address.ip().into(), None)],
            targets: vec![TrunkTarget::new(&host, Some(address.port()), protocol)],
            first_response: four_seconds(),
            tls_name: None,
            prefixes: vec![String::new()],
            codecs: Vec::new(),
            logins: Vec::new(),
            registration: None,
            max_calls: None,
            max_calls_per_second: None,
            nat: Nat::Auto,
            media_sources: Vec::new(),
            own_ports: false,
            srtp: SrtpPolicy::Off,
            srtp_over_clear: false,
            identity: AssertedIdentity::default(),
            trusted: false,
            diversion: None,
            refer: Referrals::default(),
            handed_on: HandedOn::default(),
            qualify: None,
            own_numbers: false,
            user_data_headers: UserDataHeaders::default(),
            send_user_data: UserDataHeaders::default(),
            hold: TrunkHold::default(),
            redirects: Redirects::default(),
        }
    }

    /// It is told which number of ours has sent a call on.
    pub fn hears_diversions(&self) -> bool {
        self.diversion.unwrap_or(self.trusted)
    }

    /// It speaks TLS and nothing else.
    pub fn is_secure(&self) -> bool {
        !self.targets.is_empty() && self.targets.iter().all(|target| target.protocol.is_secure())
    }

    /// Some of its targets are reached over this.
    pub fn speaks(&self, protocol: Protocol) -> bool {
        self.targets.iter().any(|target| target.protocol == protocol)
    }

    /// What is to be looked up to find its targets and sources.
    pub fn lookups(&self) -> impl Iterator<Item = Lookup> {
        let targets = self.targets.iter().filter_map(TrunkTarget::lookup);
        targets.chain(self.sources.iter().filter_map(TrunkSource::lookup))
    }

    /// A name stands for these hosts from now on.
    pub fn place(&mut self, lookup: &Lookup, hosts: &[FoundHost]) {
        for target in &mut self.targets {
            if target.lookup().as_ref() == Some(lookup) {
                target.hosts = hosts.to_vec();
            }
        }
        for source in &mut self.sources {
            if source.lookup().as_ref() == Some(lookup) {
                source.networks = hosts.iter().map(|host| host.address.into()).collect();
            }
        }
    }

    /// One of its targets is there.
    pub fn is_at(&self, protocol: Protocol, address: SocketAddr) -> bool {
        self.target_at(protocol, address).is_some()
    }

    /// The target that is there, the first of several.
    pub fn target_at(&self, protocol: Protocol, address: SocketAddr) -> Option<&TrunkTarget> {
        let mut targets = self.targets.iter().filter(|target| target.protocol == protocol);
        targets.find(|target| target.addresses().any(|at| at == address))
    }

    /// The addresses of its targets.
    pub fn addresses(&self) -> impl Iterator<Item = (Protocol, SocketAddr)> {
        let of = |target: &TrunkTarget| {
            let protocol = target.protocol;
            target.addresses().map(move |address| (protocol, address)).collect::<Vec<_>>()
        };
        self.targets.iter().flat_map(of)
    }

    /// The names that its certificates have, in lower case.
    pub fn certificate_names(&self) -> impl Iterator<Item = String> {
        let secure = self.targets.iter().filter(|target| target.protocol.is_secure());
        secure.map(|target| self.certificate_name(target))
    }

    /// The name that the certificate of a target has, in lower case.
    pub fn certificate_name(&self, target: &TrunkTarget) -> String {
        self.tls_name.as_ref().unwrap_or(&target.host).to_ascii_lowercase()
    }

    /// It may speak to us by this: one that speaks TLS by nothing else.
    pub fn may_speak(&self, protocol: Protocol) -> bool {
        !self.is_secure() || protocol.is_secure()
    }

    /// Requests from there are this trunk's, as far as addresses tell. The port of a connection is
    /// chance and proves nothing: a source with a port is one of datagrams, unless the trunk speaks
    /// by connections. Where we have registered, our calls come from.
    pub fn owns(&self, protocol: Protocol, peer: SocketAddr) -> bool {
        let by_connections = || self.targets.iter().any(|target| target.protocol.is_reliable());
        let covers = |source: &TrunkSource| {
            let port_fits = match protocol {
                Protocol::Udp => source.port.is_none_or(|port| port == peer.port()),
                Protocol::Tcp | Protocol::Tls => source.port.is_none() || by_connections(),
            };
            port_fits && source.contains(peer.ip())
        };
        let is_registrar = || {
            let ip = peer.ip().to_canonical();
            self.registration.is_some() && self.addresses().any(|(_, address)| address.ip() == ip)
        };
        self.may_speak(protocol) && (self.sources.iter().any(covers) || is_registrar())
    }

    /// Where its requests come from, as far as is known.
    pub fn sending_hosts(&self) -> Vec<Network> {
        match self.registration {
            Some(_) => self.hosts(),
            None => self.sources.iter().flat_map(|source| source.networks.clone()).collect(),
        }
    }

    /// Its hosts, as far as they are known.
    pub fn hosts(&self) -> Vec<Network> {
        let sources = self.sources.iter().flat_map(|source| source.networks.iter().copied());
        sources.chain(self.addresses().map(|(_, address)| address.ip().into())).collect()
    }

    fn prefix_length(&self, number: &Number) -> Option<usize> {
        let fitting =
            self.prefixes.iter().filter(|prefix| number.as_str().starts_with(prefix.as_str()));
        fitting.map(String::len).max()
    }
}

/// The header field of RFC 7433.
pub const USER_TO_USER: &str = "User-to-User";

/// Which header field is which key of a call's data.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>")]
pub struct UserDataHeaders(Vec<(String, String)>);

/// Header fields that can not stand for call data: all that is wrong with them, at least one thing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NotUserDataHeaders(pub Vec<HeaderFault>);

impl fmt::Display for NotUserDataHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, fault) in self.0.iter().enumerate() {
            if number > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{fault}")?;
        }
        Ok(())
    }
}

/// Why a header field can not stand for call data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderFault {
    /// Neither `X-…` nor `User-to-User`, or no name of a header field.
    #[error("'{0}' is neither User-to-User nor the name of a header field that begins with X-")]
    Name(String),
    /// A header field that we make ourselves.
    #[error("'{0}' is a header field of our own")]
    Ours(String),
    /// Twice in different spellings.
    #[error("'{0}' stands for two keys")]
    Twice(String),
    /// A key of two header fields.
    #[error("two header fields stand for the key '{0}'")]
    SameKey(String),
    /// A key that call data can not have.
    #[error("'{0}' can not be a key of call data")]
    Key(String),
    /// More than [`UserDataHeaders::MOST`].
    #[error("more than {} header fields", UserDataHeaders::MOST)]
    TooMany,
}

impl UserDataHeaders {
    /// Header fields of one peer at most.
    pub const MOST: usize = 32;
    /// The longest name of a header field, in bytes.
    const LONGEST_NAME: usize = 64;
    /// What names of our own begin with.
    const OURS: &str = "x-undertone-";

    /// The header fields and their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(header, key)| (header.as_str(), key.as_str()))
    }

    /// This header field is among them.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(header, _)| header.eq_ignore_ascii_case(name))
    }

    /// The name as it is written, if it may stand for call data.
    fn checked(name: &str) -> Result<&str, HeaderFault> {
        let lower = name.to_ascii_lowercase();
        match lower.strip_prefix("x-") {
            _ if name.eq_ignore_ascii_case(USER_TO_USER) => Ok(USER_TO_USER),
            Some(_) if lower.starts_with(Self::OURS) => Err(HeaderFault::Ours(name.to_owned())),
            Some(rest) if is_token(rest.as_bytes()) && name.len() <= Self::LONGEST_NAME => Ok(name),
            Some(_) | None => Err(HeaderFault::Name(name.to_owned())),
        }
    }
}

/// `{ "X-Account" = "AccountNumber" }`
impl TryFrom<BTreeMap<String, String>> for UserDataHeaders {
    type Error = NotUserDataHeaders;

    fn try_from(table: BTreeMap<String, String>) -> Result<Self, NotUserDataHeaders> {
        let mut headers = Self::default();
        let mut faults = Vec::new();
        for (name, key) in table {
            let name = match Self::checked(&name) {
                Ok(name) if headers.has(name) => Err(HeaderFault::Twice(name.to_owned())),
                Ok(name) => Ok(name.to_owned()),
                Err(fault) => Err(fault),
            };
            let key = match UserData::is_key(&key) {
                false => Err(HeaderFault::Key(key)),
                true if headers.iter().any(|(_, known)| known == key) => {
                    Err(HeaderFault::SameKey(key))
                }
                true => Ok(key),
            };
            match (name, key) {
                (Ok(name), Ok(key)) => headers.0.push((name, key)),
                (name, key) => faults.extend(name.err().into_iter().chain(key.err())),
            }
        }
        if headers.0.len() > Self::MOST {
            faults.push(HeaderFault::TooMany);
        }
        match faults.is_empty() {
            true => Ok(headers),
            false => Err(NotUserDataHeaders(faults)),
        }
    }
}

/// How much is held at most, so that no peer can exhaust us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SipLimits {
    /// Server transactions.
    #[serde(skip)]
    pub transactions: Bounds,
    /// Legs.
    #[serde(skip)]
    pub legs: usize,
    /// Refusals a second to one source address that is nobody's; more are not answered.
    #[serde(skip)]
    pub refusals_per_second: u32,
    /// How many such sources are remembered.
    #[serde(skip)]
    pub sources: usize,
    /// Contacts of one device.
    #[serde(skip)]
    pub contacts: usize,
    /// Shortest registration accepted: 423 below.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub min_expires: Duration,
    /// Longest registration granted.
    #[serde(deserialize_with = "config_value::some_seconds")]
    pub max_expires: Duration,
    /// An incoming call that nobody answers or refuses is refused by then (RFC 3261's timer C is 3
    /// min).
    #[serde(skip)]
    pub ringing: Duration,
    /// Connections, over TCP and TLS.
    #[serde(skip)]
    pub connections: usize,
    /// Connections of one source address.
    #[serde(skip)]
    pub connections_per_source: usize,
    /// Of all, those of strangers: no trunk's, and nobody has registered or called by them.
    #[serde(skip)]
    pub strangers: usize,
    /// Of these, those of one source address.
    #[serde(skip)]
    pub strangers_per_source: usize,
    /// How long a stranger may keep a connection, whatever it says.
    #[serde(skip)]
    pub stranger_lifetime: Duration,
    /// How long a message may take to arrive once begun, and the first of a connection from the
    /// beginning, or from the end of its handshake, which may take as long.
    #[serde(skip)]
    pub message_deadline: Duration,
    /// A connection on which no message has come for so long is closed, unless a registration or a
    /// call goes by it or it is a trunk's.
    #[serde(skip)]
    pub idle: Duration,
    /// How often a connection of ours to a trunk is asked whether it still stands, at most (RFC
    /// 5626 4.4.1).
    #[serde(skip)]
    pub keep_alive: Duration,
}

impl Default for SipLimits {
    fn default() -> Self {
        Self {
            transactions: Bounds::default(),
            legs: 10_000,
            refusals_per_second: 200,
            sources: 4096,
            contacts: 5,
            min_expires: Duration::from_secs(60),
            max_expires: Duration::from_secs(3600),
            ringing: Duration::from_secs(300),
            connections: 2000,
            connections_per_source: 600,
            strangers: 1000,
            strangers_per_source: 200,
            stranger_lifetime: Duration::from_secs(60),
            message_deadline: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            keep_alive: Duration::from_secs(120),
        }
    }
}
