//! What several keys must keep together, and text that a module takes as it is.

mod trunks;

use super::locate::{ConfigFile, spelled};
use super::reader::Finding;
use super::sections::{ProcessConfig, Sections, TcpAddress, TlsPair};
use crate::cometd::SameSite;
use crate::cometd::message::Pattern;
use crate::cometd::sessions::STATES;
use crate::gateway::User;
use crate::http::identity::{Endpoint, TokenType};
use crate::model::{CallerRole, DeviceId, Role, UserId};
use crate::sip::b2bua::AccountKind;
use crate::sip::config::{DeviceTransport, ListenAddress, SipAccount};
use crate::sip::flow::Protocol;
use crate::sip::sdp::SrtpPolicy;
use crate::telephony::callers::{LOCAL, is_loopback_url};
use argon2::password_hash::phc::PasswordHash;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

/// The shortest session interval that there may be (RFC 4028 4).
const MIN_SESSION_EXPIRES: Duration = Duration::from_secs(90);

/// The longest feature code.
const LONGEST_CODE: usize = 8;

/// Smaller audit files than this would be no use: some hundred lines.
const MIN_AUDIT_FILE: u64 = 65_536;

/// What types alone do not say. Each finding has the path of its key: of two that do not go
/// together, of the one that was set, or set later.
pub(super) struct Checks<'a> {
    source: &'a ConfigFile<'a>,
    /// Keys of which the value is not known: nothing is said of them, and of what goes with them.
    faulty: &'a [Vec<String>],
    findings: Vec<Finding>,
}

/// A socket that is to be opened.
struct Listener {
    path: Vec<String>,
    protocol: Protocol,
    address: SocketAddr,
}

impl Listener {
    /// Both cannot be opened. TLS is over TCP.
    fn clashes_with(&self, other: &Listener) -> bool {
        self.protocol.is_reliable() == other.protocol.is_reliable()
            && self.address.port() == other.address.port()
            && self.address.port() != 0
            && share_a_host(self.address.ip(), other.address.ip())
    }
}

/// Sockets that are bound to these have an address in common. One that is bound to `::` takes IPv4
/// too.
fn share_a_host(one: IpAddr, other: IpAddr) -> bool {
    let takes = |all: IpAddr, one: IpAddr| {
        all.is_unspecified() && (all.is_ipv6() || all.is_ipv4() == one.is_ipv4())
    };
    one == other || takes(one, other) || takes(other, one)
}

fn path(steps: &[&dyn ToString]) -> Vec<String> {
    steps.iter().map(|step| step.to_string()).collect()
}

/// Clocks that differ by more are wrong.
const LONGEST_LEEWAY: Duration = Duration::from_secs(300);

/// Text that can stand in a URL path, a SIP URI and a log without thinking.
fn plain(text: &str, extra: &[u8]) -> bool {
    let fits =
        |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte) || extra.contains(&byte);
    let is_step = [".", ".."].contains(&text);
    !text.is_empty() && !is_step && text.len() <= 128 && text.bytes().all(fits)
}

impl<'a> Checks<'a> {
    /// `more`: found by others.
    pub(super) fn of(
        sections: &Sections,
        source: &'a ConfigFile<'a>,
        faulty: &'a [Vec<String>],
        more: Vec<Finding>,
    ) -> Vec<Finding> {
        let mut checks = Self { source, faulty, findings: Vec::new() };
        checks.addresses(sections);
        checks.tls(sections);
        checks.callers(sections);
        checks.issuers(sections);
        checks.listeners(sections);
        checks.rest(sections);
        checks.cometd(sections);
        checks.sip(sections);
        checks.feature_codes(sections);
        checks.trunks(sections);
        checks.media(sections);
        checks.devices(sections);
        let ranged = checks.ranged(sections);
        checks.behind(sections, &ranged);
        checks.users(sections, &ranged);
        checks.groups(sections);
        for Finding { path, message } in more {
            checks.find(path, message);
        }
        checks.findings
    }

    fn wrong(&mut self, steps: &[&dyn ToString], message: impl Into<String>) {
        self.find(path(steps), message.into());
    }

    fn find(&mut self, path: Vec<String>, message: String) {
        if self.is_known(&path) {
            self.findings.push(Finding { path, message });
        }
    }

    /// Neither the key nor what is in it is a stand-in for something else.
    fn is_known(&self, path: &[String]) -> bool {
        !self.faulty.iter().any(|faulty| path.starts_with(faulty) || faulty.starts_with(path))
    }

    /// All tables of a list are there, and this key is known of each of them.
    fn are_known(&self, list: &str, key: &str) -> bool {
        !self.faulty.iter().any(|faulty| {
            faulty.first().is_some_and(|first| first == list)
                && faulty.get(2).is_none_or(|faulty| faulty == key)
        })
    }

    /// Of two keys that do not go together, the one that was set, or set later, is at fault: each
    /// comes with what is then to be said of it, before the name and the value of the other.
    fn apart(&mut self, one: (Vec<String>, String), other: (Vec<String>, String)) {
        if !self.is_known(&one.0) || !self.is_known(&other.0) {
            return;
        }
        let (at, with) = match self.source.setting(&one.0) < self.source.setting(&other.0) {
            true => (other, one),
            false => (one, other),
        };
        let (path, message) = at;
        let (name, value) = (spelled(&with.0), self.source.value(&with.0));
        self.find(path, format!("{message} {name}, which is {value}"));
    }

    fn unless_apart(
        &mut self,
        fine: bool,
        one: (&[&dyn ToString], &str),
        other: (&[&dyn ToString], &str),
    ) {
        if !fine {
            self.apart((path(one.0), one.1.to_owned()), (path(other.0), other.1.to_owned()));
        }
    }

    fn unless(&mut self, fine: bool, steps: &[&dyn ToString], message: impl Into<String>) {
        if !fine {
            self.wrong(steps, message);
        }
    }

    /// No two sockets of the product are the same, and none of them is one of sound.
    fn listeners(&mut self, sections: &Sections) {
        let tcp = sections.addresses().map(|tcp| Listener {
            path: path(&[&tcp.section, &tcp.key]),
            protocol: Protocol::Tcp,
            address: tcp.address,
        });
        let sip = sections.sip.listen.iter().enumerate().map(|(number, listen)| Listener {
            path: path(&[&"sip", &"listen", &number]),
            protocol: listen.protocol,
            address: listen.address,
        });
        let listeners: Vec<Listener> = tcp.into_iter().chain(sip).collect();
        for (number, listener) in listeners.iter().enumerate() {
            let earlier = listeners.iter().take(number);
            if let Some(other) = earlier.rev().find(|other| listener.clashes_with(other)) {
                let taken = |listener: &Listener| {
                    (listener.path.clone(), format!("{} is already taken by", listener.address))
                };
                self.apart(taken(listener), taken(other));
            }
            let media = &sections.media;
            let is_of_sound = listener.protocol == Protocol::Udp
                && media
                    .ports
                    .as_ref()
                    .is_some_and(|ports| ports.contains(&listener.address.port()))
                && share_a_host(listener.address.ip(), media.bind);
            if is_of_sound {
                let port = listener.address.port();
                self.apart(
                    (listener.path.clone(), format!("port {port} is among the RTP ports of")),
                    (path(&[&"media", &"ports"]), format!("has port {port} of")),
                );
            }
        }
    }

    fn addresses(&mut self, sections: &Sections) {
        for TcpAddress { section, key, address, may_be_clear, has_tls } in sections.addresses() {
            self.unless(
                address.ip().is_loopback() || has_tls || may_be_clear,
                &[&section, &key],
                format!(
                    "{address} is not a loopback address and there is no certificate for it: set \
                     tls.certificate, or {section}.insecure_bind = true if the network is trusted"
                ),
            );
        }
        self.backends(&sections.process);
        self.unless(
            sections.process.state_dir != Path::new(""),
            &[&"state_dir"],
            "must name a directory",
        );
        self.unless(sections.audit.file != Path::new(""), &[&"audit", &"file"], "must name a file");
        let size = sections.audit.rotate_size;
        self.unless(
            size == 0 || size >= MIN_AUDIT_FILE,
            &[&"audit", &"rotate_size"],
            format!("must be 0, or at least {MIN_AUDIT_FILE} bytes"),
        );
        let backend_audit = &sections.sip_backend.audit_file;
        self.unless(
            *backend_audit != Path::new("") && *backend_audit != sections.audit.file,
            &[&"sip_backend", &"audit_file"],
            "must name a file, another one than audit.file",
        );
    }

    fn backends(&mut self, process: &ProcessConfig) {
        self.backend(&process.backend_url, &[&"backend_url"]);
        for (index, url) in process.backends.iter().enumerate() {
            self.backend(url, &[&"backends", &index]);
            self.unless(
                !process.backends[..index].contains(url),
                &[&"backends", &index],
                format!("'{url}' is there twice"),
            );
        }
        if process.backends_name.is_empty() {
            return;
        }
        self.backend(&process.backends_name, &[&"backends_name"]);
        self.unless(
            process.backends.is_empty(),
            &[&"backends_name"],
            "there is a list of backends already: one of the two",
        );
    }

    /// Whether a backend may be at this URL.
    fn backend(&mut self, url: &str, place: &[&dyn ToString]) {
        self.unless(
            is_url(url, &["http", "https"]),
            place,
            format!("'{url}' is not an http:// or https:// URL"),
        );
        self.unless(
            !is_url(url, &["http"]) || is_loopback_url(url),
            place,
            format!("'{url}' is another machine: its commands need https://"),
        );
    }

    fn tls(&mut self, sections: &Sections) {
        for TlsPair { name, certificate, key } in sections.tls.pairs() {
            self.unless(
                certificate.is_some() || key.is_none(),
                &[&"tls", &format!("{name}key")],
                format!("there is no tls.{name}certificate that it goes with"),
            );
        }
    }

    fn callers(&mut self, sections: &Sections) {
        let mut seen = BTreeMap::new();
        let mut names = BTreeMap::new();
        for (number, caller) in sections.callers.iter().enumerate() {
            let mut wrong = |key: &'static str, message: String| {
                self.wrong(&[&"grpc", &"caller", &number, &key], message);
            };
            let name = caller.name.as_str();
            if !plain(name, b"") {
                wrong("name", "may contain letters, digits and . _ -".to_owned());
            }
            if name == LOCAL {
                wrong("name", format!("'{LOCAL}' is the caller with grpc.token_file"));
            }
            if names.insert(name, number).is_some() {
                wrong("name", format!("there are two callers '{name}'"));
            }
            for san in &caller.san {
                let is_one = !san.is_empty() && san.bytes().all(|byte| byte.is_ascii_graphic());
                if !is_one || san.contains('*') {
                    wrong("san", format!("'{}' is no DNS name and no URI", san.escape_debug()));
                }
                if let Some(other) = seen.insert(san.to_ascii_lowercase(), name) {
                    wrong("san", format!("'{san}' is caller '{other}' already"));
                }
            }
            if caller.san.is_empty() && caller.token_file.is_none() {
                wrong("san", "nothing tells it: set san or token_file".to_owned());
            }
            if !caller.san.is_empty() && !sections.tls.knows_clients() {
                wrong("san", "nobody vouches for it: set tls.grpc_client_authorities".to_owned());
            }
            let acts_for_some = !caller.users.is_empty() || !caller.groups.is_empty();
            match caller.role {
                CallerRole::Service if !acts_for_some => {
                    wrong("role", "a service needs the users or groups it acts for".to_owned());
                }
                CallerRole::Gateway | CallerRole::Observer if acts_for_some => {
                    wrong("role", "a service alone has users and groups".to_owned());
                }
                CallerRole::Gateway | CallerRole::Service | CallerRole::Observer => {}
            }
            if caller.may_join_unasked && caller.role != CallerRole::Gateway {
                wrong("may_join_unasked", "only a gateway may".to_owned());
            }
        }
        self.served(sections);
    }

    fn issuers(&mut self, sections: &Sections) {
        let identity = &sections.identity;
        self.unless(
            identity.leeway <= LONGEST_LEEWAY,
            &[&"identity", &"leeway"],
            format!("must not be more than {} s", LONGEST_LEEWAY.as_secs()),
        );
        self.unless_apart(
            identity.keys_stale >= identity.keys_refresh,
            (&[&"identity", &"keys_stale"], "must not be shorter than"),
            (&[&"identity", &"keys_refresh"], "must not be longer than"),
        );
        let (mut names, mut urls) = (BTreeSet::new(), BTreeSet::new());
        for (number, issuer) in sections.issuers.iter().enumerate() {
            let mut wrong = |key: &'static str, message: String| {
                self.wrong(&[&"identity", &"issuer", &number, &key], message);
            };
            let name = issuer.name.as_str();
            if !plain(name, b"") {
                wrong("name", "may contain letters, digits and . _ -".to_owned());
            }
            if !names.insert(name) {
                wrong("name", format!("there are two issuers '{name}'"));
            }
            if !urls.insert(&issuer.issuer) {
                wrong("issuer", format!("there are two issuers with '{}'", issuer.issuer));
            }
            let not_asked = |url: &str| format!("'{url}' is no https:// URL, nor http:// of here");
            if Endpoint::parse(&issuer.issuer).is_none() || issuer.issuer.contains('?') {
                wrong("issuer", not_asked(&issuer.issuer));
            }
            if let Some(url) = issuer.jwks_url.as_ref().filter(|url| Endpoint::parse(url).is_none())
            {
                wrong("jwks_url", not_asked(url));
            }
            if issuer.audience.is_empty() && issuer.client_id.is_none() {
                wrong("audience", "nothing is taken from it: set audience or client_id".to_owned());
            }
            if issuer.audience.iter().any(String::is_empty) {
                wrong("audience", "names nobody".to_owned());
            }
            if issuer.algorithms.is_empty() {
                wrong("algorithms", "must name at least one".to_owned());
            }
            if issuer.token_types.is_empty() {
                wrong("token_types", "must name at least one".to_owned());
            }
            let takes_ids = issuer.token_types.contains(&TokenType::Jwt)
                && issuer.client_id.as_ref().is_some_and(|id| issuer.audience.contains(id));
            if takes_ids {
                let text = "with \"JWT\" an ID token would be an access token where audience has \
                            client_id";
                wrong("token_types", text.to_owned());
            }
            if issuer.client_id.is_some() && !issuer.scopes.iter().any(|scope| scope == "openid") {
                wrong("scopes", "must contain \"openid\"".to_owned());
            }
            if issuer.client_secret.is_some() && issuer.client_id.is_none() {
                wrong("client_id", "is what the secret is for".to_owned());
            }
        }
    }

    /// Those that services act for are there.
    fn served(&mut self, sections: &Sections) {
        let users: BTreeSet<_> = sections.users.iter().map(|(user, _)| &user.id).collect();
        let groups: BTreeSet<_> = sections.groups.iter().map(|(group, _)| &group.id).collect();
        let (has_users, has_groups) = (self.are_known("user", "id"), self.are_known("group", "id"));
        for (number, caller) in sections.callers.iter().enumerate() {
            let at = |key: &'static str| path(&[&"grpc", &"caller", &number, &key]);
            for user in caller.users.iter().filter(|user| has_users && !users.contains(user)) {
                self.find(at("users"), format!("there is no user '{user}'"));
            }
            for group in caller.groups.iter().filter(|group| has_groups && !groups.contains(group))
            {
                self.find(at("groups"), format!("there is no group '{group}'"));
            }
        }
    }

    fn rest(&mut self, sections: &Sections) {
        let rest = &sections.rest;
        match &rest.public_url {
            Some(url) => self.unless(
                is_url(url, &["http", "https"]),
                &[&"rest", &"public_url"],
                format!(
                    "'{url}' must be scheme, host and port, without a path: http://127.0.0.1:8080"
                ),
            ),
            None => self.unless(
                !rest.bind.ip().is_unspecified()
                    || !(rest.insecure_bind || sections.tls.door("rest_").is_some()),
                &[&"rest", &"bind"],
                "listening on every address needs rest.public_url: what clients reach us under",
            ),
        }
        for (number, origin) in sections.http.cors_origins.iter().enumerate() {
            let fine = is_url(origin, &["http", "https"]) && !origin.ends_with('/');
            self.unless(
                fine,
                &[&"rest", &"allowed_origins", &number],
                format!("'{origin}' is not an origin such as https://desk.example.com"),
            );
        }
        for (number, host) in sections.http.hosts.iter().enumerate() {
            let is_none = host.is_empty() || host.contains(['/', '@', ' ']);
            let message = format!("'{host}' is not a host such as desk.example.com, or \"*\"");
            self.unless(!is_none, &[&"rest", &"hosts", &number], message);
        }
        self.unless(
            sections.http.body_limit >= 1024,
            &[&"rest", &"body_limit"],
            "must be at least 1024 bytes",
        );
    }

    fn cometd(&mut self, sections: &Sections) {
        let cometd = &sections.cometd;
        self.unless_apart(
            cometd.longest_hold >= cometd.hold,
            (&[&"bayeux", &"longest_hold"], "must not be shorter than"),
            (&[&"bayeux", &"hold"], "must not be longer than"),
        );
        for (number, name) in cometd.open_channels.iter().enumerate() {
            let is_theirs = Pattern::parse(name).is_some_and(|pattern| {
                !STATES.iter().any(|state| pattern.matches(state)) && !name.starts_with("/meta/")
            });
            self.unless(
                is_theirs,
                &[&"bayeux", &"open_channels", &number],
                format!(
                    "'{name}' is not a channel pattern, or takes in a channel on which only \
                     the gateway speaks"
                ),
            );
        }
        let secure = match &sections.rest.public_url {
            Some(url) => url.starts_with("https:"),
            None => sections.tls.door("rest_").is_some(),
        };
        self.unless(
            secure || cometd.same_site != SameSite::None,
            &[&"bayeux", &"same_site"],
            "browsers take \"none\" over TLS only: rest.public_url must begin with https:",
        );
        self.unless(
            secure || !cometd.partitioned,
            &[&"bayeux", &"partitioned"],
            "browsers take it over TLS only: rest.public_url must begin with https:",
        );
    }

    fn sip(&mut self, sections: &Sections) {
        let sip = &sections.sip;
        self.unless(!sip.listen.is_empty(), &[&"sip", &"listen"], "must name at least one address");
        for (number, listen) in sip.listen.iter().enumerate() {
            self.unless(
                !listen.address.ip().is_unspecified() || sip.advertised.is_some(),
                &[&"sip", &"listen", &number],
                "listening on every address needs sip.advertised: the host that phones can reach",
            );
            self.unless(
                !listen.protocol.is_secure() || sections.tls.door("sip_").is_some(),
                &[&"sip", &"listen", &number],
                "there is no certificate for it: set tls.certificate, or tls.sip_certificate",
            );
        }
        if let Some(advertised) = &sip.advertised {
            self.unless(
                plain(advertised, b":[]"),
                &[&"sip", &"advertised"],
                format!("'{advertised}' is not a host"),
            );
        }
        for (number, domain) in sip.domains.iter().enumerate() {
            self.unless(
                plain(domain, b":[]"),
                &[&"sip", &"domains", &number],
                format!("'{domain}' is not a host"),
            );
        }
        self.unless(
            plain(&sip.realm, b" "),
            &[&"sip", &"realm"],
            "may contain letters, digits, spaces and . _ -",
        );
        self.unless(
            sections.b2bua.codecs.iter().any(|codec| codec.is_mixable()),
            &[&"sip", &"codecs"],
            "must name at least one codec besides G729, which is only relayed",
        );
        self.unless(
            !sip.algorithms.is_empty(),
            &[&"sip", &"digests"],
            "must name at least one digest",
        );
        self.unless_apart(
            sections.sip_limits.min_expires <= sections.sip_limits.max_expires,
            (&[&"sip", &"max_expires"], "must not be shorter than"),
            (&[&"sip", &"min_expires"], "must not be longer than"),
        );
        self.unless(
            sip.session_expires >= MIN_SESSION_EXPIRES,
            &[&"sip", &"session_expires"],
            "must be at least 90 seconds (RFC 4028 4)",
        );
    }

    fn feature_codes(&mut self, sections: &Sections) {
        let config = &sections.feature_codes;
        let is_dialled = |byte: u8| byte.is_ascii_digit() || matches!(byte, b'*' | b'#');
        let codes: Vec<(&'static str, &str)> = config.codes().collect();
        for (number, (key, code)) in codes.iter().enumerate() {
            self.unless(
                code.len() <= LONGEST_CODE && code.bytes().all(is_dialled),
                &[&"feature_codes", key],
                "may have up to eight digits, * and #, or be empty",
            );
            let earlier = codes.iter().take(number);
            let goes_on = |other: &str| code.starts_with(other) || other.starts_with(code);
            if let Some((other, _)) = earlier.rev().find(|(_, other)| goes_on(other)) {
                let begins = |key: &'static str| {
                    (path(&[&"feature_codes", &key]), "must not begin as".to_owned())
                };
                self.apart(begins(key), begins(other));
            }
        }
        let keys = config.digits.as_bytes();
        let are_apart = |keys: &[u8]| matches!(*keys, [a, b, c] if a != b && b != c && a != c);
        self.unless(
            keys.is_empty() || are_apart(keys) && keys.iter().copied().all(is_dialled),
            &[&"feature_codes", &"digits"],
            "must be three different keys, for ListenIn, Coach and BargeIn, or none",
        );
        for (number, (account, _)) in sections.devices.iter().enumerate() {
            let begins = |(_, code): &&(&str, &str)| account.number.as_str().starts_with(code);
            let code = codes.iter().find(begins).filter(|_| config.enabled);
            if let Some((key, _)) = code {
                self.apart(
                    (path(&[&"device", &number, &"number"]), "begins as the feature code".into()),
                    (path(&[&"feature_codes", key]), "begins the number".to_owned()),
                );
            }
        }
    }

    fn media(&mut self, sections: &Sections) {
        let media = &sections.media;
        self.unless(
            !media.bind.is_unspecified() || media.advertised.is_some(),
            &[&"media", &"bind"],
            "binding every address needs media.advertised: the address that phones can reach",
        );
        self.unless(
            media.bind.is_ipv6()
                || !media.advertised.is_some_and(|advertised| advertised.is_ipv6()),
            &[&"media", &"advertised"],
            "is an IPv6 address, and media.bind is an IPv4 one: nothing would arrive",
        );
        self.unless(
            media.bind.is_ipv4()
                || media.bind.is_unspecified()
                || !media.advertised.is_some_and(|advertised| advertised.is_ipv4()),
            &[&"media", &"advertised"],
            "is an IPv4 address, and media.bind is an IPv6 one: nothing would arrive; \"::\" takes \
             both",
        );
        self.unless(media.dscp < 64, &[&"media", &"dscp"], "must be at most 63");
        self.unless(media.workers <= 1024, &[&"media", &"workers"], "must be at most 1024");
    }

    fn devices(&mut self, sections: &Sections) {
        let environments = self.unique(
            "voice_environment",
            "id",
            sections.voice_environments.iter().map(|it| it.id.as_str()),
            b"",
        );
        self.unique(
            "device",
            "number",
            sections.devices.iter().map(|(it, _)| it.number.as_str()),
            b"+#*",
        );
        self.unique(
            "device",
            "id",
            sections.devices.iter().map(|(it, _)| it.device.as_str()),
            b"~",
        );
        let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (number, (account, _)) in sections.devices.iter().enumerate() {
            let at = path(&[&"device", &number, &"number"]);
            if self.is_known(&at) {
                names.entry(account.number.as_str().to_owned()).or_insert(at);
            }
        }
        for (number, (account, details)) in sections.devices.iter().enumerate() {
            for (place, alias) in account.aliases.iter().enumerate() {
                let at: [&dyn ToString; 4] = [&"device", &number, &"aliases", &place];
                self.unless(!alias.as_str().is_empty(), &at, "must not be empty");
                let first = names.entry(alias.as_str().to_owned()).or_insert_with(|| path(&at));
                let is_first = *first == path(&at) || !self.is_known(first);
                self.unless(
                    is_first,
                    &at,
                    format!("'{alias}' is a number or an alias of a device already"),
                );
            }
            self.unless(
                account.srtp != SrtpPolicy::Required
                    || !account.transport.allows(Protocol::Udp)
                    || account.srtp_over_clear,
                &[&"device", &number, &"srtp"],
                KEYS_CAN_BE_READ,
            );
            let over_tls = |listen: &ListenAddress| listen.protocol.is_secure();
            self.unless(
                account.transport == DeviceTransport::Any
                    || sections.sip.listen.iter().any(over_tls),
                &[&"device", &number, &"transport"],
                "nothing in sip.listen begins with tls:",
            );
            self.unless(
                details.password.as_ref().is_none_or(|password| !password.expose().is_empty()),
                &[&"device", &number, &"password"],
                "must not be empty",
            );
            if let Some(environment) = &details.voice_environment {
                self.unless(
                    environments.contains(environment.as_str())
                        || !self.are_known("voice_environment", "id"),
                    &[&"device", &number, &"voice_environment"],
                    format!("there is no voice environment '{environment}'"),
                );
            }
        }
    }

    /// Devices behind switches: their trunks, and their names there.
    fn behind(&mut self, sections: &Sections, ranged: &[(usize, SipAccount)]) {
        let is_trunk = |name: &str| sections.trunks.iter().any(|(trunk, _)| trunk.name == name);
        let trunks_are_known = !self.faulty.iter().any(|faulty| {
            faulty.first().is_some_and(|first| first == "sip")
                && faulty.get(1).is_some_and(|second| second == "trunk")
        });
        let unknown = |via: &str| format!("there is no trunk '{via}' in [[sip.trunk]]");
        let mut names = BTreeMap::new();
        for (number, (account, details)) in sections.devices.iter().enumerate() {
            let at = |key: &'static str| path(&[&"device", &number, &key]);
            let Some(via) = &account.via else {
                if account.user.is_some() {
                    self.find(at("user"), "needs via, the switch that calls it so".to_owned());
                }
                continue;
            };
            if trunks_are_known && !is_trunk(via) {
                self.find(at("via"), unknown(via));
            }
            if details.password.is_some() {
                let message = format!("its phones register with the switch '{via}', not here");
                self.find(at("password"), message);
            }
            if let Some(key) = account.key_of_trunk() {
                self.find(at(key), format!("is for the trunk '{via}' to say, of all behind it"));
            }
            self.named_behind(account, &at("via"), &mut names);
        }
        for (range, account) in ranged {
            self.named_behind(account, &path(&[&"device_range", range, &"user"]), &mut names);
        }
        for (number, range) in sections.ranges.iter().enumerate() {
            if trunks_are_known && !is_trunk(&range.via) {
                self.find(path(&[&"device_range", &number, &"via"]), unknown(&range.via));
            }
        }
    }

    /// A switch calls no two devices by one name.
    fn named_behind<'n>(
        &mut self,
        account: &'n SipAccount,
        at: &[String],
        names: &mut BTreeMap<(&'n str, &'n str), &'n DeviceId>,
    ) {
        let Some(via) = account.via.as_deref() else { return };
        for name in account.names_besides().chain([&account.number]) {
            let first = *names.entry((via, name.as_str())).or_insert(&account.device);
            if *first != account.device {
                let message = format!("'{name}' is what '{via}' calls device '{first}' already");
                self.find(at.to_vec(), message);
            }
        }
    }

    /// The devices of ranges that are as they should be, each with the place of its range.
    fn ranged(&mut self, sections: &Sections) -> Vec<(usize, SipAccount)> {
        let mut ranged = Vec::new();
        let (mut ids, mut numbers) = (BTreeSet::new(), BTreeSet::new());
        for (account, _) in &sections.devices {
            ids.insert(account.device.clone());
            numbers.extend(account.aliases.iter().chain([&account.number]).cloned());
        }
        for (place, range) in sections.ranges.iter().enumerate() {
            let devices = match range.devices() {
                Ok(devices) => devices,
                Err((key, message)) => {
                    self.wrong(&[&"device_range", &place, &key], message);
                    continue;
                }
            };
            for (account, _) in devices {
                if !numbers.insert(account.number.clone()) {
                    let message = format!("'{}' is a device already", account.number);
                    self.wrong(&[&"device_range", &place, &"first"], message);
                    break;
                }
                if !ids.insert(account.device.clone()) {
                    let message = format!("there is a device '{}' already", account.device);
                    self.wrong(&[&"device_range", &place, &"id"], message);
                    break;
                }
                ranged.push((place, account));
            }
        }
        ranged
    }

    fn users(&mut self, sections: &Sections, ranged: &[(usize, SipAccount)]) {
        let devices = sections.devices.iter().map(|(account, _)| account);
        let devices = devices.chain(ranged.iter().map(|(_, account)| account));
        let kinds: BTreeMap<&DeviceId, AccountKind> =
            devices.map(|account| (&account.device, account.kind)).collect();
        self.unique("user", "id", sections.users.iter().map(|(it, _)| it.id.as_str()), b"@+");
        let mut owned = BTreeMap::new();
        for (number, (user, details)) in sections.users.iter().enumerate() {
            self.unless(
                !user.roles.is_empty(),
                &[&"user", &number, &"roles"],
                "must name at least one role",
            );
            for (position, device) in user.devices.iter().enumerate() {
                let at: [&dyn ToString; 4] = [&"user", &number, &"devices", &position];
                match kinds.get(device) {
                    None if !self.are_known("device", "id") => {}
                    None => self.wrong(&at, format!("there is no device '{device}'")),
                    Some(AccountKind::Customer) => {
                        self.wrong(
                            &at,
                            format!(
                                "device '{device}' is a customer's account and belongs to no user"
                            ),
                        );
                    }
                    Some(AccountKind::Internal) => {
                        let owner = owned.insert(device, &user.id);
                        if let Some(other) = owner.filter(|_| self.are_known("user", "id")) {
                            self.wrong(
                                &at,
                                format!("device '{device}' belongs to user '{other}' already"),
                            );
                        }
                    }
                }
            }
            if let Some(hash) = &details.password_hash {
                let hash = hash.expose();
                let fine = hash.starts_with("$argon2id$") && PasswordHash::new(hash).is_ok();
                self.unless(
                    fine,
                    &[&"user", &number, &"password_hash"],
                    "is not a PHC string of argon2id",
                );
            }
        }
    }

    fn groups(&mut self, sections: &Sections) {
        self.unique("group", "id", sections.groups.iter().map(|(it, _)| it.id.as_str()), b" ");
        let users: BTreeMap<&UserId, &User> =
            sections.users.iter().map(|(user, _)| (&user.id, user)).collect();
        for (number, (_, members)) in sections.groups.iter().enumerate() {
            for (key, names) in [("agents", &members.agents), ("supervisors", &members.supervisors)]
            {
                for (position, name) in names.iter().enumerate() {
                    let at: [&dyn ToString; 4] = [&"group", &number, &key, &position];
                    match users.get(name) {
                        None if !self.are_known("user", "id") => {}
                        None => self.wrong(&at, format!("there is no user '{name}'")),
                        Some(user)
                            if key == "agents"
                                || user.is(Role::Supervisor)
                                || user.is(Role::Admin)
                                || !self.are_known("user", "roles") => {}
                        Some(_) => self
                            .wrong(&at, format!("user '{name}' does not have the role Supervisor")),
                    }
                }
            }
        }
    }

    fn unique<'n>(
        &mut self,
        list: &str,
        key: &str,
        names: impl Iterator<Item = &'n str>,
        extra: &[u8],
    ) -> BTreeSet<&'n str> {
        let mut seen = BTreeMap::new();
        for (number, name) in names.enumerate() {
            if !plain(name, extra) {
                self.wrong(
                    &[&list, &number, &key],
                    format!("'{}' has characters that cannot stand here", name.escape_debug()),
                );
            }
            let first = *seen.entry(name).or_insert(number);
            if first != number && self.is_known(&path(&[&list, &first, &key])) {
                self.wrong(&[&list, &number, &key], format!("'{name}' is there twice"));
            }
        }
        seen.into_keys().collect()
    }
}

/// Keys of SRTP stand in the descriptions (RFC 4568 8.3).
const KEYS_CAN_BE_READ: &str = "its keys go over SIP that others can read: set transport = \"tls\", \
                                or srtp_over_clear = true if the network is trusted";

fn is_url(text: &str, schemes: &[&str]) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let host = rest.strip_suffix('/').unwrap_or(rest);
    schemes.contains(&scheme) && plain(host, b":[]")
}
