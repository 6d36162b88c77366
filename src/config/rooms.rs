//! From what is written to what each room is told.

use super::{Config, ConfigReader, Doors, Found, raw};
use crate::cometd;
use crate::cometd::message::Pattern;
use crate::cometd::sessions::STATES;
use crate::gateway::{self, DeviceEntry, Directory, Group, NotifyAgent, User, VoiceEnvironment};
use crate::http::server;
use crate::http::{self, auth};
use crate::media::{Codec, Gain, MediaConfig, PortUse};
use crate::model::{DeviceId, Feature, GroupId, Number, Role, UserId};
use crate::sip;
use crate::sip::b2bua::{AccountKind, B2buaConfig, Extension, Numbering, TrunkRoute};
use crate::sip::config::{AutoAnswer, ListenAddress, Login, Nat, SipAccount, SipLimits, Trunk, TrunkSource};
use crate::sip::digest::Algorithm;
use crate::sip::flow::Protocol;
use crate::sip::sdp::SrtpPolicy;
use crate::supervision;
use crate::telemetry;
use argon2::password_hash::phc::PasswordHash;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::Path;

/// Everything that is written, in shape.
pub(super) struct Shapes {
    top: raw::Top,
    rest: raw::Rest,
    login: raw::Login,
    bayeux: raw::Bayeux,
    grpc: raw::Grpc,
    admin: raw::Admin,
    doors: raw::Doors,
    sip_backend: raw::SipBackend,
    monitoring: raw::Monitoring,
    audit: raw::Audit,
    sip: raw::Sip,
    trunks: Vec<raw::Trunk>,
    media: raw::Media,
    log: raw::Log,
    voice_environments: Vec<raw::VoiceEnvironment>,
    devices: Vec<raw::Device>,
    users: Vec<raw::User>,
    groups: Vec<raw::Group>,
}

impl Shapes {
    pub(super) fn read(reader: &mut ConfigReader) -> Option<Self> {
        let trunks = reader.list(&["sip", "trunk"]);
        let (top, rest, login) = (
            reader.top(&["state_dir", "insecure_bind", "backend_url"]),
            reader.section("rest"),
            reader.section("login"),
        );
        let (bayeux, grpc, admin) = (reader.section("bayeux"), reader.section("grpc"), reader.section("admin"));
        let (doors, sip_backend) = (reader.section("doors"), reader.section("sip_backend"));
        let (monitoring, audit, sip) = (reader.section("monitoring"), reader.section("audit"), reader.section("sip"));
        let (media, log) = (reader.section("media"), reader.section("log"));
        let (voice_environments, devices) = (reader.list(&["voice_environment"]), reader.list(&["device"]));
        let (users, groups) = (reader.list(&["user"]), reader.list(&["group"]));
        Some(Self {
            top: top?,
            rest: rest?,
            login: login?,
            bayeux: bayeux?,
            grpc: grpc?,
            admin: admin?,
            doors: doors?,
            sip_backend: sip_backend?,
            monitoring: monitoring?,
            audit: audit?,
            sip: sip?,
            trunks,
            media: media?,
            log: log?,
            voice_environments,
            devices,
            users,
            groups,
        })
    }

    pub(super) fn into_config(self) -> Result<Config, Vec<Found>> {
        let mut checks = Checks(Vec::new());
        checks.binds(&self);
        checks.rest(&self);
        checks.sip(&self);
        checks.media(&self);
        checks.log(&self.log);
        checks.directory(&self);
        if !checks.0.is_empty() {
            return Err(checks.0);
        }
        Ok(Config {
            audit_file: self.top.state_dir.join(&self.audit.file),
            rest_bind: self.rest.bind,
            front: front(&self.rest),
            login: login(&self.login),
            bayeux: bayeux(&self.bayeux),
            grpc_bind: self.grpc.bind,
            grpc_reflection: self.grpc.reflection,
            admin_bind: self.admin.bind,
            doors: doors(&self.doors, &self.rest),
            backend_grpc_bind: self.sip_backend.grpc_bind,
            backend_admin_bind: self.sip_backend.admin_bind,
            gateway: gateway(&self.monitoring, &self.audit),
            directory: directory(&self),
            sip: endpoint(&self),
            b2bua: b2bua(&self.sip, &self.media, &self.monitoring),
            numbering: numbering(&self),
            media: media(&self.media),
            telemetry: telemetry(&self.log),
            password_hashes: self
                .users
                .iter()
                .filter_map(|user| Some((UserId::from(user.id.as_str()), user.password_hash.clone()?)))
                .collect(),
            sip_passwords: self
                .devices
                .iter()
                .filter_map(|device| Some((Number::from(device.number.as_str()), device.password.clone()?)))
                .collect(),
            state_dir: self.top.state_dir,
            insecure_bind: self.top.insecure_bind,
            backend_url: self.top.backend_url,
        })
    }
}

fn front(rest: &raw::Rest) -> http::HttpConfig {
    http::HttpConfig {
        public_url: match &rest.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => format!("http://{}", rest.bind),
        },
        cors_origins: rest.allowed_origins.clone(),
        trusted_proxies: rest.trusted_proxies.clone(),
        csrf: rest.csrf,
        body_limit: rest.body_limit,
        timeout: rest.timeout.0,
        concurrency: rest.concurrency.get() as usize,
    }
}

fn doors(doors: &raw::Doors, rest: &raw::Rest) -> Doors {
    let limits = |name, connections: NonZeroU32, per_address: NonZeroU32, peers: &[IpAddr]| server::ConnectionLimits {
        name,
        connections: connections.get() as usize,
        connections_per_address: per_address.get() as usize,
        peers: peers.to_vec(),
        streams: doors.streams.get(),
        idle: doors.idle.0,
        is_shared_fairly: false,
        is_http2_only: false,
    };
    Doors {
        rest: limits(
            "rest",
            doors.rest_connections,
            doors.rest_connections_per_address,
            &rest.trusted_proxies,
        ),
        grpc: server::ConnectionLimits {
            is_shared_fairly: true,
            is_http2_only: true,
            ..limits(
                "grpc",
                doors.grpc_connections,
                doors.grpc_connections_per_address,
                &doors.grpc_peers,
            )
        },
        admin: server::ConnectionLimits {
            is_shared_fairly: true,
            ..limits(
                "admin",
                doors.admin_connections,
                doors.admin_connections_per_address,
                &doors.admin_peers,
            )
        },
    }
}

fn login(login: &raw::Login) -> auth::AuthConfig {
    auth::AuthConfig {
        session_life: login.session_life.0,
        sessions_per_user: login.sessions_per_user.get() as usize,
        cache_life: login.cache_life.0,
        secure_cookies: login.secure_cookies,
        failures_per_user: login.failures_per_user,
        failures_per_address: login.failures_per_address,
        failure_refill: login.failure_refill.0,
    }
}

fn bayeux(bayeux: &raw::Bayeux) -> cometd::CometdConfig {
    cometd::CometdConfig {
        hold: bayeux.hold.0,
        max_interval: bayeux.max_interval.0,
        interval: bayeux.interval.0,
        longest_hold: bayeux.longest_hold.0,
        max_held_per_browser: bayeux.max_held_per_browser,
        multi_interval: bayeux.multi_interval.0,
        websocket: bayeux.websocket,
        callback_polling: bayeux.callback_polling,
        same_site: match bayeux.same_site {
            raw::SameSite::Strict => cometd::SameSite::Strict,
            raw::SameSite::Lax => cometd::SameSite::Lax,
            raw::SameSite::None => cometd::SameSite::None,
        },
        partitioned: bayeux.partitioned,
        max_sessions: bayeux.max_sessions,
        max_sessions_per_user: bayeux.max_sessions_per_user,
        max_sessions_per_address: bayeux.max_sessions_per_address,
        handshakes_per_user: bayeux.handshakes_per_user.get(),
        handshakes_per_address: bayeux.handshakes_per_address.get(),
        max_subscriptions: bayeux.max_subscriptions,
        max_subscriptions_per_user: bayeux.max_subscriptions_per_user,
        max_subscriptions_per_address: bayeux.max_subscriptions_per_address,
        max_messages: bayeux.max_messages,
        max_queue: bayeux.max_queue,
        max_queue_bytes: bayeux.max_queue_bytes,
        max_queue_bytes_per_user: bayeux.max_queue_bytes_per_user,
        max_queue_bytes_per_address: bayeux.max_queue_bytes_per_address,
        replay_events: bayeux.replay_events,
        replay_bytes: bayeux.replay_bytes,
        drain_window: bayeux.drain_window.0,
        overload: bayeux.overload.0,
        open_channels: bayeux.open_channels.clone(),
        anonymous: bayeux.anonymous,
    }
}

fn gateway(monitoring: &raw::Monitoring, audit: &raw::Audit) -> gateway::GatewayConfig {
    gateway::GatewayConfig {
        one_way_coach: monitoring.one_way_coach,
        notify_agent: match monitoring.notify_agent {
            raw::NotifyAgent::None => NotifyAgent::None,
            // The tone is the backend's; the event comes with it.
            raw::NotifyAgent::Event | raw::NotifyAgent::Beep => NotifyAgent::Event,
        },
        command_deadline: monitoring.command_deadline.0,
        audit_deadline: audit.deadline.0,
    }
}

fn supervision(monitoring: &raw::Monitoring) -> supervision::SupervisionConfig {
    supervision::SupervisionConfig {
        intrusion: match monitoring.intrusion {
            raw::Intrusion::Any => supervision::Intrusion::Any,
            raw::Intrusion::BargeIn => supervision::Intrusion::BargeIn,
            raw::Intrusion::Never => supervision::Intrusion::Never,
        },
        invite_timeout: monitoring.invite_timeout.0,
        admission_timeout: monitoring.admission_timeout.0,
        cancel_releases_call: monitoring.cancel_releases_call,
        max_supervisors_per_device: monitoring.max_supervisors_per_device.0,
        debrief: monitoring.debrief,
        takeover: monitoring.takeover,
        monitor_internal_calls: monitoring.monitor_internal_calls,
        monitor_consult_calls: match monitoring.monitor_consult_calls {
            raw::Consults::None => supervision::Consults::None,
            raw::Consults::Orig => supervision::Consults::Orig,
            raw::Consults::Dest => supervision::Consults::Dest,
            raw::Consults::All => supervision::Consults::All,
        },
    }
}

fn b2bua(sip: &raw::Sip, media: &raw::Media, monitoring: &raw::Monitoring) -> B2buaConfig {
    B2buaConfig {
        codecs: sip.codecs.iter().copied().map(codec).collect(),
        media_over_ipv6: media.advertised.unwrap_or(media.bind).is_ipv6(),
        ring_timeout: sip.ring_timeout.0,
        call_waiting: sip.call_waiting,
        max_calls: sip.max_calls,
        max_calls_per_device: sip.max_calls_per_device,
        signal_hold: sip.signal_hold,
        monitor_party_on_hold: monitoring.monitor_party_on_hold,
        supervisors_hear_each_other: monitoring.supervisors_hear_each_other,
        agent_side_only: monitoring.agent_side_only,
        whisper: Gain::from_db(monitoring.whisper_gain_db),
        duck: Gain::from_db(monitoring.duck_db),
        beep: matches!(monitoring.notify_agent, raw::NotifyAgent::Beep),
        grace: sip.grace.0,
        supervision: supervision(monitoring),
        ..B2buaConfig::default()
    }
}

fn codec(codec: raw::Codec) -> Codec {
    match codec {
        raw::Codec::Pcmu => Codec::Pcmu,
        raw::Codec::Pcma => Codec::Pcma,
        raw::Codec::G722 => Codec::G722,
        raw::Codec::Opus => Codec::Opus,
        raw::Codec::L16 => Codec::L16,
    }
}

fn algorithm(digest: raw::Digest) -> Algorithm {
    match digest {
        raw::Digest::Md5 => Algorithm::Md5,
        raw::Digest::Sha256 => Algorithm::Sha256,
        raw::Digest::Sha512Of256 => Algorithm::Sha512_256,
    }
}

fn protocol(protocol: raw::Protocol) -> Protocol {
    match protocol {
        raw::Protocol::Udp => Protocol::Udp,
        raw::Protocol::Tcp => Protocol::Tcp,
    }
}

fn endpoint(shapes: &Shapes) -> sip::config::SipConfig {
    let sip = &shapes.sip;
    let listen = |listen: &raw::Listen| ListenAddress::new(protocol(listen.protocol), listen.address);
    let defaults = sip::config::SipConfig::default();
    sip::config::SipConfig {
        listen: sip.listen.iter().map(listen).collect(),
        domains: sip.domains.clone(),
        advertised: sip.advertised.clone(),
        realm: sip.realm.clone(),
        algorithms: sip.digests.iter().copied().map(algorithm).collect(),
        accounts: shapes.devices.iter().map(account).collect(),
        trunks: shapes.trunks.iter().map(trunk).collect(),
        challenge_invites: sip.challenge_invites,
        limits: SipLimits {
            min_expires: sip.min_expires.0,
            max_expires: sip.max_expires.0,
            ..defaults.limits
        },
        qualify: Some(sip.qualify.0).filter(|interval| !interval.is_zero()),
        session_expires: sip.session_expires.0,
        min_session_expires: defaults.min_session_expires.min(sip.session_expires.0),
        ..defaults
    }
}

fn account(device: &raw::Device) -> SipAccount {
    let auto_answer = device.auto_answer;
    SipAccount {
        device: DeviceId::from(device.id.as_str()),
        number: Number::from(device.number.as_str()),
        aliases: aliases(device),
        username: device.number.clone(),
        ha1s: BTreeMap::new(),
        kind: kind(device.kind),
        nat: nat(device.nat),
        own_ports: device.own_ports,
        qualify: device.qualify,
        srtp: srtp(device.srtp),
        auto_answer: AutoAnswer {
            answer_mode: auto_answer,
            call_info: auto_answer,
            alert_info: auto_answer,
        },
    }
}

fn trunk(trunk: &raw::Trunk) -> Trunk {
    let login = match (&trunk.realm, &trunk.user, &trunk.password) {
        (Some(realm), Some(user), Some(password)) => Some(Login {
            realm: realm.clone(),
            username: user.clone(),
            password: password.clone(),
        }),
        _ => None,
    };
    Trunk {
        name: trunk.name.clone(),
        sources: trunk
            .sources
            .iter()
            .map(|source| TrunkSource {
                address: source.address.to_canonical(),
                port: source.port,
            })
            .collect(),
        target: trunk.target.clone(),
        address: trunk.target.parse::<SocketAddr>().ok(),
        protocol: protocol(trunk.protocol),
        prefixes: trunk.prefixes.clone(),
        codecs: trunk.codecs.iter().map(|offered| codec(*offered).name().to_owned()).collect(),
        max_calls: trunk.max_calls,
        max_calls_per_second: trunk.max_calls_per_second,
        nat: nat(trunk.nat),
        media_sources: trunk.media_sources.iter().map(|network| network.0).collect(),
        own_ports: trunk.own_ports,
        srtp: srtp(trunk.srtp),
        own_numbers: trunk.own_numbers,
        login,
    }
}

fn srtp(srtp: raw::Srtp) -> SrtpPolicy {
    match srtp {
        raw::Srtp::Off => SrtpPolicy::Off,
        raw::Srtp::Optional => SrtpPolicy::Optional,
        raw::Srtp::Required => SrtpPolicy::Required,
    }
}

fn nat(nat: raw::Nat) -> Nat {
    match nat {
        raw::Nat::Auto => Nat::Auto,
        raw::Nat::Said(true) => Nat::Always,
        raw::Nat::Said(false) => Nat::Never,
    }
}

fn kind(kind: raw::Kind) -> AccountKind {
    match kind {
        raw::Kind::House => AccountKind::Internal,
        raw::Kind::Customer => AccountKind::Customer,
    }
}

fn aliases(device: &raw::Device) -> Vec<Number> {
    device.aliases.iter().map(|alias| Number::from(alias.as_str())).collect()
}

fn numbering(shapes: &Shapes) -> Numbering {
    let extensions = shapes.devices.iter().map(|device| Extension {
        device: DeviceId::from(device.id.as_str()),
        number: Number::from(device.number.as_str()),
        aliases: aliases(device),
        kind: kind(device.kind),
        nat: nat(device.nat),
        own_ports: device.own_ports,
        srtp: srtp(device.srtp),
    });
    let trunks = shapes.trunks.iter().map(|route| TrunkRoute {
        name: route.name.clone(),
        prefixes: route.prefixes.clone(),
        codecs: route.codecs.iter().map(|offered| codec(*offered)).collect(),
        max_calls: route.max_calls,
        nat: nat(route.nat),
        hosts: trunk(route).hosts(),
        media_sources: route.media_sources.iter().map(|network| network.0).collect(),
        own_ports: route.own_ports,
        srtp: srtp(route.srtp),
    });
    Numbering::new(extensions, trunks.collect())
}

fn media(media: &raw::Media) -> MediaConfig {
    MediaConfig {
        bind: media.bind,
        advertised: media.advertised,
        ports: Some(media.ports.0..=media.ports.1),
        port_use: match media.port_use {
            raw::PortUse::PerLeg => PortUse::PerLeg,
            raw::PortUse::Shared => PortUse::Shared,
        },
        workers: media.workers,
        inactivity: media.inactivity.0,
        rtcp_interval: media.rtcp_interval.0,
        dscp: media.dscp,
        ..MediaConfig::default()
    }
}

fn telemetry(log: &raw::Log) -> telemetry::LogConfig {
    telemetry::LogConfig {
        filter: log.filter.clone(),
        format: match log.format {
            raw::LogFormat::Pretty => telemetry::LogFormat::Pretty,
            raw::LogFormat::Json => telemetry::LogFormat::Json,
        },
        personal_data: log.personal_data,
    }
}

fn directory(shapes: &Shapes) -> Directory {
    let first_environment = shapes.voice_environments.first().map_or("", |environment| environment.id.as_str());
    let device = |device: &raw::Device| DeviceEntry {
        id: DeviceId::from(device.id.as_str()),
        number: Number::from(device.number.as_str()),
        voice_environment: device.voice_environment.as_deref().unwrap_or(first_environment).to_owned(),
    };
    let users = |names: &[String]| names.iter().map(|name| UserId::from(name.as_str())).collect();
    Directory {
        users: shapes.users.iter().map(user).map(|user| (user.id.clone(), user)).collect(),
        // A customer's account is nobody's device: it is never seen and never monitored.
        devices: shapes
            .devices
            .iter()
            .filter(|device| device.kind == raw::Kind::House)
            .map(device)
            .map(|device| (device.id.clone(), device))
            .collect(),
        groups: shapes
            .groups
            .iter()
            .map(|group| Group {
                id: GroupId::from(group.id.as_str()),
                agents: users(&group.agents),
                supervisors: users(&group.supervisors),
                monitor_supervisors: group.monitor_supervisors,
                agent_side_only: group.agent_side_only,
            })
            .map(|group| (group.id.clone(), group))
            .collect(),
        voice_environments: shapes
            .voice_environments
            .iter()
            .map(|environment| VoiceEnvironment {
                id: environment.id.clone(),
                name: environment.name.clone(),
            })
            .map(|environment| (environment.id.clone(), environment))
            .collect(),
    }
}

fn user(user: &raw::User) -> User {
    User {
        id: UserId::from(user.id.as_str()),
        display_name: user.display_name.clone().unwrap_or_else(|| user.id.clone()),
        roles: user.roles.iter().copied().map(role).collect(),
        features: user.features.iter().copied().map(feature).collect(),
        devices: user.devices.iter().map(|device| DeviceId::from(device.as_str())).collect(),
    }
}

fn role(role: raw::Role) -> Role {
    match role {
        raw::Role::Agent => Role::Agent,
        raw::Role::Supervisor => Role::Supervisor,
        raw::Role::Admin => Role::Admin,
    }
}

fn feature(feature: raw::Feature) -> Feature {
    match feature {
        raw::Feature::ApiVoice => Feature::Voice,
        raw::Feature::ApiSupervisorMonitoring => Feature::SupervisorMonitoring,
    }
}

/// What shape alone does not say. Each finding has the path of its key.
struct Checks(Vec<Found>);

fn path(steps: &[&dyn ToString]) -> Vec<String> {
    steps.iter().map(|step| step.to_string()).collect()
}

/// Text that can stand in a URL path, a SIP URI and a log without thinking.
fn plain(text: &str, extra: &[u8]) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte) || extra.contains(&byte);
    !text.is_empty() && text.len() <= 128 && text.bytes().all(fits)
}

impl Checks {
    fn wrong(&mut self, steps: &[&dyn ToString], message: impl Into<String>) {
        self.0.push((path(steps), message.into()));
    }

    fn unless(&mut self, fine: bool, steps: &[&dyn ToString], message: impl Into<String>) {
        if !fine {
            self.wrong(steps, message);
        }
    }

    fn binds(&mut self, shapes: &Shapes) {
        let backend = &shapes.sip_backend;
        let doors = [
            ("rest", "bind", shapes.rest.bind),
            ("grpc", "bind", shapes.grpc.bind),
            ("admin", "bind", shapes.admin.bind),
            ("sip_backend", "grpc_bind", backend.grpc_bind),
            ("sip_backend", "admin_bind", backend.admin_bind),
        ];
        for (number, (section, key, bind)) in doors.iter().enumerate() {
            self.unless(
                bind.ip().is_loopback() || shapes.top.insecure_bind,
                &[section, key],
                format!("{bind} is not a loopback address and there is no TLS yet: set insecure_bind = true if the network is trusted"),
            );
            let taken = doors[..number].iter().find(|(_, _, other)| other == bind && bind.port() != 0);
            if let Some((other, its, _)) = taken {
                self.wrong(&[section, key], format!("{bind} is already taken by {other}.{its}"));
            }
        }
        let url = &shapes.top.backend_url;
        self.unless(is_url(url, &["http"]), &[&"backend_url"], format!("'{url}' is not an http:// URL"));
        self.unless(shapes.top.state_dir != Path::new(""), &[&"state_dir"], "must name a directory");
        self.unless(shapes.audit.file != Path::new(""), &[&"audit", &"file"], "must name a file");
    }

    fn rest(&mut self, shapes: &Shapes) {
        let (rest, bayeux) = (&shapes.rest, &shapes.bayeux);
        match &rest.public_url {
            Some(url) => self.unless(
                is_url(url, &["http", "https"]),
                &[&"rest", &"public_url"],
                format!("'{url}' must be scheme, host and port, without a path: http://127.0.0.1:8080"),
            ),
            None => self.unless(
                !rest.bind.ip().is_unspecified() || !shapes.top.insecure_bind,
                &[&"rest", &"bind"],
                "listening on every address needs rest.public_url: what clients reach us under",
            ),
        }
        for (number, origin) in rest.allowed_origins.iter().enumerate() {
            let fine = is_url(origin, &["http", "https"]) && !origin.ends_with('/');
            self.unless(
                fine,
                &[&"rest", &"allowed_origins", &number],
                format!("'{origin}' is not an origin such as https://desk.example.com"),
            );
        }
        self.unless(rest.body_limit >= 1024, &[&"rest", &"body_limit"], "must be at least 1024 bytes");
        self.unless(
            bayeux.longest_hold.0 >= bayeux.hold.0,
            &[&"bayeux", &"longest_hold"],
            "must not be shorter than bayeux.hold",
        );
        for (name, number) in [
            ("max_sessions", bayeux.max_sessions),
            ("max_sessions_per_user", bayeux.max_sessions_per_user),
            ("max_sessions_per_address", bayeux.max_sessions_per_address),
            ("max_held_per_browser", bayeux.max_held_per_browser),
            ("max_subscriptions", bayeux.max_subscriptions),
            ("max_subscriptions_per_user", bayeux.max_subscriptions_per_user),
            ("max_subscriptions_per_address", bayeux.max_subscriptions_per_address),
            ("max_queue_bytes_per_user", bayeux.max_queue_bytes_per_user),
            ("max_queue_bytes_per_address", bayeux.max_queue_bytes_per_address),
            ("max_messages", bayeux.max_messages),
            ("max_queue", bayeux.max_queue),
            ("max_queue_bytes", bayeux.max_queue_bytes),
        ] {
            self.unless(number > 0, &[&"bayeux", &name], "must be more than 0");
        }
        for (number, name) in bayeux.open_channels.iter().enumerate() {
            let is_theirs = Pattern::parse(name)
                .is_some_and(|pattern| !STATES.iter().any(|state| pattern.matches(state)) && !name.starts_with("/meta/"));
            self.unless(
                is_theirs,
                &[&"bayeux", &"open_channels", &number],
                format!("'{name}' is not a channel pattern, or takes in a channel on which only the gateway speaks"),
            );
        }
        let secure = rest.public_url.as_ref().is_some_and(|url| url.starts_with("https:"));
        self.unless(
            secure || !matches!(bayeux.same_site, raw::SameSite::None),
            &[&"bayeux", &"same_site"],
            "browsers take \"none\" over TLS only: rest.public_url must begin with https:",
        );
        self.unless(
            secure || !bayeux.partitioned,
            &[&"bayeux", &"partitioned"],
            "browsers take it over TLS only: rest.public_url must begin with https:",
        );
    }

    fn sip(&mut self, shapes: &Shapes) {
        let sip = &shapes.sip;
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
        self.unless(!sip.codecs.is_empty(), &[&"sip", &"codecs"], "must name at least one codec");
        self.unless(!sip.digests.is_empty(), &[&"sip", &"digests"], "must name at least one digest");
        self.unless(sip.max_calls > 0, &[&"sip", &"max_calls"], "must be more than 0");
        self.unless(
            sip.max_calls_per_device > 0,
            &[&"sip", &"max_calls_per_device"],
            "must be more than 0",
        );
        self.unless(
            sip.min_expires.0 <= sip.max_expires.0,
            &[&"sip", &"max_expires"],
            "must not be shorter than sip.min_expires",
        );
        let mut names = BTreeSet::new();
        for (number, trunk) in shapes.trunks.iter().enumerate() {
            let at =
                |key: &'static str| -> [Box<dyn ToString>; 4] { [Box::new("sip"), Box::new("trunk"), Box::new(number), Box::new(key)] };
            let mut wrong = |key: &'static str, message: String| {
                let steps = at(key);
                self.wrong(
                    &[&steps[0], &steps[1], &steps[2], &steps[3]].map(|step| &**step as &dyn ToString),
                    message,
                );
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
            if let Some(bad) = trunk.prefixes.iter().find(|prefix| !prefix.is_empty() && !plain(prefix, b"+#*")) {
                wrong("prefixes", format!("'{bad}' is not the beginning of a number"));
            }
            let login = [&trunk.user, &trunk.password, &trunk.realm];
            if login.iter().any(|part| part.is_some()) && !login.iter().all(|part| part.is_some()) {
                wrong("user", "user, password and realm belong together".into());
            }
        }
    }

    fn media(&mut self, shapes: &Shapes) {
        let media = &shapes.media;
        let (first, last) = media.ports;
        let pair = first.checked_add(first % 2).and_then(|even| even.checked_add(1));
        self.unless(
            first > 0 && pair.is_some_and(|odd| odd <= last),
            &[&"media", &"ports"],
            format!("[{first}, {last}] has no even port followed by an odd one"),
        );
        self.unless(
            !media.bind.is_unspecified() || media.advertised.is_some(),
            &[&"media", &"bind"],
            "binding every address needs media.advertised: the address that phones can reach",
        );
        self.unless(
            media.bind.is_ipv6() || !media.advertised.is_some_and(|advertised| advertised.is_ipv6()),
            &[&"media", &"advertised"],
            "is an IPv6 address, and media.bind is an IPv4 one: nothing would arrive",
        );
        self.unless(
            media.bind.is_ipv4() || media.bind.is_unspecified() || !media.advertised.is_some_and(|advertised| advertised.is_ipv4()),
            &[&"media", &"advertised"],
            "is an IPv4 address, and media.bind is an IPv6 one: nothing would arrive; \"::\" takes both",
        );
        let monitoring = &shapes.monitoring;
        self.unless(
            (-20.0..=20.0).contains(&monitoring.whisper_gain_db),
            &[&"monitoring", &"whisper_gain_db"],
            "must be -20 to 20",
        );
        self.unless(
            (-40.0..=0.0).contains(&monitoring.duck_db),
            &[&"monitoring", &"duck_db"],
            "must be -40 to 0",
        );
        self.unless(media.dscp < 64, &[&"media", &"dscp"], "must be at most 63");
        self.unless(media.workers <= 1024, &[&"media", &"workers"], "must be at most 1024");
    }

    fn log(&mut self, log: &raw::Log) {
        if let Err(problem) = telemetry::check_filter(&log.filter) {
            self.wrong(&[&"log", &"filter"], problem);
        }
    }

    fn directory(&mut self, shapes: &Shapes) {
        let environments = self.unique(
            "voice_environment",
            "id",
            shapes.voice_environments.iter().map(|it| it.id.as_str()),
            b"",
        );
        self.unique("device", "number", shapes.devices.iter().map(|it| it.number.as_str()), b"+#*");
        let devices = self.unique("device", "id", shapes.devices.iter().map(|it| it.id.as_str()), b"~");
        let mut names: BTreeSet<&str> = shapes.devices.iter().map(|device| device.number.as_str()).collect();
        for (number, device) in shapes.devices.iter().enumerate() {
            for (place, alias) in device.aliases.iter().enumerate() {
                let at: [&dyn ToString; 4] = [&"device", &number, &"aliases", &place];
                self.unless(!alias.is_empty(), &at, "must not be empty");
                self.unless(
                    names.insert(alias),
                    &at,
                    format!("'{alias}' is a number or an alias of a device already"),
                );
            }
            if let Some(environment) = &device.voice_environment {
                self.unless(
                    environments.contains(environment.as_str()),
                    &[&"device", &number, &"voice_environment"],
                    format!("there is no voice environment '{environment}'"),
                );
            }
        }
        let house: BTreeSet<&str> = shapes
            .devices
            .iter()
            .filter(|device| device.kind == raw::Kind::House)
            .map(|device| device.id.as_str())
            .collect();
        self.users(shapes, &devices, &house);
    }

    fn users(&mut self, shapes: &Shapes, devices: &BTreeSet<&str>, house: &BTreeSet<&str>) {
        let users = self.unique("user", "id", shapes.users.iter().map(|it| it.id.as_str()), b"@+");
        let mut owned = BTreeMap::new();
        for (number, user) in shapes.users.iter().enumerate() {
            self.unless(!user.roles.is_empty(), &[&"user", &number, &"roles"], "must name at least one role");
            for (position, device) in user.devices.iter().enumerate() {
                let at: [&dyn ToString; 4] = [&"user", &number, &"devices", &position];
                if !devices.contains(device.as_str()) {
                    self.wrong(&at, format!("there is no device '{device}'"));
                } else if !house.contains(device.as_str()) {
                    self.wrong(&at, format!("device '{device}' is a customer's account and belongs to no user"));
                } else if let Some(other) = owned.insert(device.as_str(), user.id.as_str()) {
                    self.wrong(&at, format!("device '{device}' belongs to user '{other}' already"));
                }
            }
            if let Some(hash) = &user.password_hash {
                let fine = hash.starts_with("$argon2id$") && PasswordHash::new(hash).is_ok();
                self.unless(fine, &[&"user", &number, &"password_hash"], "is not a PHC string of argon2id");
            }
        }
        self.unique("group", "id", shapes.groups.iter().map(|it| it.id.as_str()), b" ");
        let supervises: BTreeSet<&str> = shapes
            .users
            .iter()
            .filter(|user| {
                user.roles
                    .iter()
                    .any(|role| matches!(role, raw::Role::Supervisor | raw::Role::Admin))
            })
            .map(|user| user.id.as_str())
            .collect();
        for (number, group) in shapes.groups.iter().enumerate() {
            for (key, names) in [("agents", &group.agents), ("supervisors", &group.supervisors)] {
                for (position, name) in names.iter().enumerate() {
                    let at: [&dyn ToString; 4] = [&"group", &number, &key, &position];
                    if !users.contains(name.as_str()) {
                        self.wrong(&at, format!("there is no user '{name}'"));
                    } else if key == "supervisors" && !supervises.contains(name.as_str()) {
                        self.wrong(&at, format!("user '{name}' does not have the role Supervisor"));
                    }
                }
            }
        }
    }

    fn unique<'a>(&mut self, list: &str, key: &str, names: impl Iterator<Item = &'a str>, extra: &[u8]) -> BTreeSet<&'a str> {
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
