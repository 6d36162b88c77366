//! What several keys must keep together, and text that a module takes as it is.

use super::reader::Finding;
use super::sections::Sections;
use crate::cometd::SameSite;
use crate::cometd::message::Pattern;
use crate::cometd::sessions::STATES;
use crate::gateway::User;
use crate::model::{DeviceId, Role, UserId};
use crate::sip::b2bua::AccountKind;
use argon2::password_hash::phc::PasswordHash;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What types alone do not say. Each finding has the path of its key.
pub(super) struct Checks(Vec<Finding>);

fn path(steps: &[&dyn ToString]) -> Vec<String> {
    steps.iter().map(|step| step.to_string()).collect()
}

/// Text that can stand in a URL path, a SIP URI and a log without thinking.
fn plain(text: &str, extra: &[u8]) -> bool {
    let fits =
        |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte) || extra.contains(&byte);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(fits)
}

impl Checks {
    pub(super) fn of(sections: &Sections) -> Vec<Finding> {
        let mut checks = Self(Vec::new());
        checks.addresses(sections);
        checks.rest(sections);
        checks.cometd(sections);
        checks.sip(sections);
        checks.trunks(sections);
        checks.media(sections);
        checks.devices(sections);
        checks.users(sections);
        checks.groups(sections);
        checks.0
    }

    fn wrong(&mut self, steps: &[&dyn ToString], message: impl Into<String>) {
        let (path, message) = (path(steps), message.into());
        self.0.push(Finding { path, message });
    }

    fn unless(&mut self, fine: bool, steps: &[&dyn ToString], message: impl Into<String>) {
        if !fine {
            self.wrong(steps, message);
        }
    }

    fn addresses(&mut self, sections: &Sections) {
        let backend = &sections.sip_backend;
        let addresses = [
            ("rest", "bind", sections.rest.bind),
            ("grpc", "bind", sections.grpc.bind),
            ("admin", "bind", sections.admin.bind),
            ("sip_backend", "grpc_bind", backend.grpc_bind),
            ("sip_backend", "admin_bind", backend.admin_bind),
        ];
        for (number, (section, key, bind)) in addresses.iter().enumerate() {
            self.unless(
                bind.ip().is_loopback() || sections.process.insecure_bind,
                &[section, key],
                format!(
                    "{bind} is not a loopback address and there is no TLS yet: set \
                     insecure_bind = true if the network is trusted"
                ),
            );
            let taken =
                addresses[..number].iter().find(|(_, _, other)| other == bind && bind.port() != 0);
            if let Some((other, its, _)) = taken {
                self.wrong(&[section, key], format!("{bind} is already taken by {other}.{its}"));
            }
        }
        let url = &sections.process.backend_url;
        self.unless(
            is_url(url, &["http"]),
            &[&"backend_url"],
            format!("'{url}' is not an http:// URL"),
        );
        self.unless(
            sections.process.state_dir != Path::new(""),
            &[&"state_dir"],
            "must name a directory",
        );
        self.unless(sections.audit.file != Path::new(""), &[&"audit", &"file"], "must name a file");
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
                !rest.bind.ip().is_unspecified() || !sections.process.insecure_bind,
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
        self.unless(
            sections.http.body_limit >= 1024,
            &[&"rest", &"body_limit"],
            "must be at least 1024 bytes",
        );
    }

    fn cometd(&mut self, sections: &Sections) {
        let cometd = &sections.cometd;
        self.unless(
            cometd.longest_hold >= cometd.hold,
            &[&"bayeux", &"longest_hold"],
            "must not be shorter than bayeux.hold",
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
        let secure = sections.rest.public_url.as_ref().is_some_and(|url| url.starts_with("https:"));
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
            !sections.b2bua.codecs.is_empty(),
            &[&"sip", &"codecs"],
            "must name at least one codec",
        );
        self.unless(
            !sip.algorithms.is_empty(),
            &[&"sip", &"digests"],
            "must name at least one digest",
        );
        self.unless(
            sections.sip_limits.min_expires <= sections.sip_limits.max_expires,
            &[&"sip", &"max_expires"],
            "must not be shorter than sip.min_expires",
        );
    }

    fn trunks(&mut self, sections: &Sections) {
        let mut names = BTreeSet::new();
        for (number, (trunk, login)) in sections.trunks.iter().enumerate() {
            let mut wrong = |key: &'static str, message: String| {
                self.wrong(&[&"sip", &"trunk", &number, &key], message)
            };
            if !plain(&trunk.name, b"") {
                wrong("name", "may contain letters, digits and . _ -".into());
            }
            if !names.insert(trunk.name.as_str()) {
                wrong("name", format!("there are two trunks '{}'", trunk.name));
            }
            if trunk.max_calls_per_second == Some(0) {
                wrong("max_calls_per_second", "must be more than 0".to_owned());
            }
            if !plain(&trunk.target, b":[]") {
                wrong("target", format!("'{}' is not host or host:port", trunk.target));
            }
            if let Some(bad) =
                trunk.prefixes.iter().find(|prefix| !prefix.is_empty() && !plain(prefix, b"+#*"))
            {
                wrong("prefixes", format!("'{bad}' is not the beginning of a number"));
            }
            let login = [&login.user, &login.password, &login.realm];
            if login.iter().any(|part| part.is_some()) && !login.iter().all(|part| part.is_some()) {
                wrong("user", "user, password and realm belong together".into());
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
        let mut names: BTreeSet<&str> =
            sections.devices.iter().map(|(account, _)| account.number.as_str()).collect();
        for (number, (account, details)) in sections.devices.iter().enumerate() {
            for (place, alias) in account.aliases.iter().enumerate() {
                let at: [&dyn ToString; 4] = [&"device", &number, &"aliases", &place];
                self.unless(!alias.as_str().is_empty(), &at, "must not be empty");
                self.unless(
                    names.insert(alias.as_str()),
                    &at,
                    format!("'{alias}' is a number or an alias of a device already"),
                );
            }
            if let Some(environment) = &details.voice_environment {
                self.unless(
                    environments.contains(environment.as_str()),
                    &[&"device", &number, &"voice_environment"],
                    format!("there is no voice environment '{environment}'"),
                );
            }
        }
    }

    fn users(&mut self, sections: &Sections) {
        let kinds: BTreeMap<&DeviceId, AccountKind> =
            sections.devices.iter().map(|(it, _)| (&it.device, it.kind)).collect();
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
                        if let Some(other) = owned.insert(device, &user.id) {
                            self.wrong(
                                &at,
                                format!("device '{device}' belongs to user '{other}' already"),
                            );
                        }
                    }
                }
            }
            if let Some(hash) = &details.password_hash {
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
                        None => self.wrong(&at, format!("there is no user '{name}'")),
                        Some(user)
                            if key == "agents"
                                || user.is(Role::Supervisor)
                                || user.is(Role::Admin) => {}
                        Some(_) => self
                            .wrong(&at, format!("user '{name}' does not have the role Supervisor")),
                    }
                }
            }
        }
    }

    fn unique<'a>(
        &mut self,
        list: &str,
        key: &str,
        names: impl Iterator<Item = &'a str>,
        extra: &[u8],
    ) -> BTreeSet<&'a str> {
        let mut seen = BTreeSet::new();
        for (number, name) in names.enumerate() {
            if !plain(name, extra) {
                self.wrong(
                    &[&list, &number, &key],
                    format!("'{}' has characters that cannot stand here", name.escape_debug()),
                );
            }
            if !seen.insert(name) {
                self.wrong(&[&list, &number, &key], format!("'{name}' is there twice"));
            }
        }
        seen
    }
}

fn is_url(text: &str, schemes: &[&str]) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else {
        return false;
    };
    let host = rest.strip_suffix('/').unwrap_or(rest);
    schemes.contains(&scheme) && plain(host, b":[]")
}
