//! What crosses modules: addresses to listen on, users, devices, groups and trunks; and where in
//! the file the keys of each module stand.

use super::device_range::DeviceRange;
use super::reader::ConfigReader;
use super::{Config, DirectorySource, ServerLimits, Settings, TlsConfig};
use crate::audit::AuditConfig;
use crate::cluster::discovery::NodeSource;
use crate::cometd::CometdConfig;
use crate::gateway::{
    DeviceEntry, Directory, GatewayConfig, Group, NotifyAgent, User, VoiceEnvironment,
};
use crate::http::HttpConfig;
use crate::http::auth::AuthConfig;
use crate::http::hosts::LOCALHOST;
use crate::http::identity::{IdentityConfig, IssuerConfig};
use crate::http::server::ConnectionLimits;
use crate::media::MediaConfig;
use crate::model::{UserId, config_value};
use crate::secret::Secret;
use crate::sip::b2bua::{AccountKind, B2buaConfig, FeatureCodeConfig};
use crate::sip::config::{
    ListedTarget, Login, NotATarget, Registration, SipAccount, SipConfig, SipLimits, Trunk,
    TrunkTarget,
};
use crate::sip::flow::Protocol;
use crate::supervision::SupervisionConfig;
use crate::telemetry::LogConfig;
use crate::telephony::callers::CallerConfig;
use crate::tls::{ClientTlsFiles, KeyPairFiles, ServerTlsFiles};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The whole file, read by module.
pub(super) struct Sections {
    pub(super) process: ProcessConfig,
    pub(super) rest: RestAddress,
    pub(super) grpc: GrpcAddress,
    pub(super) callers: Vec<CallerConfig>,
    pub(super) admin: AdminAddress,
    pub(super) sip_backend: BackendAddresses,
    pub(super) audit: AuditConfig,
    pub(super) tls: TlsKeys,
    pub(super) http: HttpConfig,
    pub(super) login: AuthConfig,
    pub(super) identity: IdentityConfig,
    pub(super) issuers: Vec<IssuerConfig>,
    pub(super) cometd: CometdConfig,
    pub(super) rest_limits: ConnectionLimits,
    pub(super) grpc_limits: ConnectionLimits,
    pub(super) admin_limits: ConnectionLimits,
    pub(super) gateway: GatewayConfig,
    pub(super) announcement: Announcement,
    pub(super) supervision: SupervisionConfig,
    pub(super) sip: SipConfig,
    pub(super) sip_limits: SipLimits,
    pub(super) b2bua: B2buaConfig,
    pub(super) feature_codes: FeatureCodeConfig,
    pub(super) media: MediaConfig,
    pub(super) log: LogConfig,
    pub(super) directory: DirectoryKeys,
    pub(super) trunks: Vec<(Trunk, TrunkKeys)>,
    pub(super) trunk_logins: BTreeMap<usize, Vec<TrunkLogin>>,
    pub(super) trunk_registers: BTreeMap<usize, TrunkRegister>,
    pub(super) voice_environments: Vec<VoiceEnvironment>,
    pub(super) devices: Vec<(SipAccount, DeviceDetails)>,
    pub(super) ranges: Vec<DeviceRange>,
    pub(super) users: Vec<(User, UserDetails)>,
    pub(super) groups: Vec<(Group, GroupMembers)>,
}

/// Keys of no section.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProcessConfig {
    pub(super) state_dir: PathBuf,
    pub(super) backend_url: String,
    pub(super) backends: Vec<String>,
    pub(super) backends_name: String,
    pub(super) backend_token_file: Option<PathBuf>,
}

impl ProcessConfig {
    /// Where the nodes of the cluster are, if the gateway has one.
    fn backends(&self) -> Option<NodeSource> {
        if !self.backends_name.is_empty() {
            return Some(NodeSource::Name(self.backends_name.clone()));
        }
        (!self.backends.is_empty()).then(|| NodeSource::List(self.backends.clone()))
    }
}

/// `[rest]`: where REST and CometD are, for themselves and for clients.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RestAddress {
    pub(super) bind: SocketAddr,
    pub(super) insecure_bind: bool,
    pub(super) public_url: Option<String>,
    pub(super) contact_center_id: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GrpcAddress {
    pub(super) bind: SocketAddr,
    pub(super) insecure_bind: bool,
    pub(super) reflection: bool,
    token_file: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AdminAddress {
    pub(super) bind: SocketAddr,
    pub(super) insecure_bind: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BackendAddresses {
    pub(super) grpc_bind: SocketAddr,
    pub(super) admin_bind: SocketAddr,
    pub(super) insecure_bind: bool,
    pub(super) audit_file: PathBuf,
}

/// `[tls]`: where certificates and keys are, for all doors and for single ones.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TlsKeys {
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    rest_certificate: Option<PathBuf>,
    rest_key: Option<PathBuf>,
    grpc_certificate: Option<PathBuf>,
    grpc_key: Option<PathBuf>,
    grpc_client_authorities: Option<PathBuf>,
    admin_certificate: Option<PathBuf>,
    admin_key: Option<PathBuf>,
    sip_certificate: Option<PathBuf>,
    sip_key: Option<PathBuf>,
    sip_client_authorities: Option<PathBuf>,
    sip_authorities: Option<PathBuf>,
    backend_authorities: Option<PathBuf>,
    backend_certificate: Option<PathBuf>,
    backend_key: Option<PathBuf>,
}

impl TlsKeys {
    /// The pairs that may be set: the names of their keys, and the values.
    pub(super) fn pairs(&self) -> [TlsPair<'_>; 6] {
        let pair = |name, certificate, key| TlsPair { name, certificate, key };
        [
            pair("", self.certificate.as_deref(), self.key.as_deref()),
            pair("rest_", self.rest_certificate.as_deref(), self.rest_key.as_deref()),
            pair("grpc_", self.grpc_certificate.as_deref(), self.grpc_key.as_deref()),
            pair("admin_", self.admin_certificate.as_deref(), self.admin_key.as_deref()),
            pair("sip_", self.sip_certificate.as_deref(), self.sip_key.as_deref()),
            pair("backend_", self.backend_certificate.as_deref(), self.backend_key.as_deref()),
        ]
    }

    /// What the door of this name presents: its own pair, else that of all doors. An empty name of
    /// a file: nothing.
    pub(super) fn door(&self, name: &str) -> Option<ServerTlsFiles> {
        let own = self.pairs().into_iter().find(|pair| pair.name == name);
        let own = own.filter(|pair| pair.certificate.is_some());
        let pair = own.or_else(|| self.pairs().into_iter().find(|pair| pair.name.is_empty()))?;
        let client_authorities = match name {
            "grpc_" => self.grpc_client_authorities.clone(),
            "sip_" => self.sip_client_authorities.clone(),
            _ => None,
        };
        Some(ServerTlsFiles { pair: pair.files()?, client_authorities })
    }

    /// How trunks over TLS are verified, and what is presented to them.
    pub(super) fn sip_client(&self) -> ClientTlsFiles {
        ClientTlsFiles {
            authorities: self.sip_authorities.clone(),
            pair: self.door("sip_").map(|door| door.pair),
        }
    }

    /// Somebody vouches for the clients of gRPC.
    pub(super) fn knows_clients(&self) -> bool {
        self.door("grpc_").is_some_and(|files| files.client_authorities.is_some())
    }

    pub(super) fn backend(&self) -> ClientTlsFiles {
        let pair = self.pairs().into_iter().find(|pair| pair.name == "backend_");
        ClientTlsFiles {
            authorities: self.backend_authorities.clone(),
            pair: pair.and_then(|pair| pair.files()),
        }
    }
}

/// A certificate chain and its key as the file names them.
pub(super) struct TlsPair<'a> {
    /// What precedes the names of the keys.
    pub(super) name: &'static str,
    pub(super) certificate: Option<&'a Path>,
    pub(super) key: Option<&'a Path>,
}

impl TlsPair<'_> {
    fn files(&self) -> Option<KeyPairFiles> {
        let is_named = |path: &&Path| !path.as_os_str().is_empty();
        let certificate = self.certificate.filter(is_named)?;
        // Both are often in one file.
        let key = self.key.filter(is_named).unwrap_or(certificate);
        Some(KeyPairFiles { certificate: certificate.to_owned(), key: key.to_owned() })
    }
}

/// What the monitored agent is told, by the gateway and by the backend.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Announcement {
    notify_agent: AnnouncedBy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum AnnouncedBy {
    None,
    Event,
    Beep,
}

/// `[directory]`: where it is kept, and what becomes of who is taken out of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DirectoryKeys {
    source: DirectorySource,
    end_calls_of_removed_devices: bool,
}

/// Where a trunk is, as the file has it, and what its challenges are answered with: all of that or
/// nothing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrunkKeys {
    pub(super) target: Option<String>,
    #[serde(default)]
    pub(super) targets: Vec<ListedTarget>,
    #[serde(default)]
    pub(super) transport: Protocol,
    pub(super) user: Option<String>,
    pub(super) password: Option<Secret>,
    pub(super) realm: Option<String>,
}

/// What a trunk's challenges for one realm more are answered with.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrunkLogin {
    user: String,
    password: Secret,
    pub(super) realm: String,
}

/// `register` of a trunk.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TrunkRegister {
    pub(super) user: String,
    pub(super) password: Option<Secret>,
    pub(super) realm: Option<String>,
    #[serde(default = "an_hour", deserialize_with = "config_value::some_seconds")]
    pub(super) expires: Duration,
    pub(super) contact_user: Option<String>,
}

fn an_hour() -> Duration {
    Duration::from_secs(3600)
}

impl TrunkKeys {
    /// The targets with the paths of their keys within the trunk's table, as they are read.
    pub(super) fn targets(&self) -> Vec<(Vec<String>, Result<TrunkTarget, NotATarget>)> {
        let one = self
            .target
            .iter()
            .map(|text| (vec!["target".to_owned()], TrunkTarget::parse(text, self.transport)));
        let listed = self.targets.iter().enumerate().map(|(number, listed)| {
            let read = TrunkTarget::parse(&listed.target, self.transport);
            let place = u16::try_from(number).unwrap_or(u16::MAX);
            let placed = read.map(|target| TrunkTarget {
                priority: listed.priority.unwrap_or(place),
                weight: listed.weight.unwrap_or(1),
                ..target
            });
            (vec!["targets".to_owned(), number.to_string()], placed)
        });
        one.chain(listed).collect()
    }

    /// Some target is reached over this.
    pub(super) fn speaks(&self, protocol: Protocol) -> bool {
        let mut targets = self.targets().into_iter().filter_map(|(_, target)| target.ok());
        targets.any(|target| target.protocol == protocol)
    }
}

/// What the SIP account of a device does not need to know.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceDetails {
    pub(super) voice_environment: Option<String>,
    pub(super) password: Option<Secret>,
}

/// What the gateway does not know of a user, or fills in.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UserDetails {
    display_name: Option<String>,
    first_name: Option<String>,
    last_name: Option<String>,
    pub(super) password_hash: Option<Secret>,
}

/// The members of a group in the order of the file, in which problems are told.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct GroupMembers {
    #[serde(default)]
    pub(super) agents: Vec<UserId>,
    #[serde(default)]
    pub(super) supervisors: Vec<UserId>,
}

/// A TCP address that is served.
pub(super) struct TcpAddress {
    pub(super) section: &'static str,
    pub(super) key: &'static str,
    pub(super) address: SocketAddr,
    /// Its insecure_bind is set.
    pub(super) may_be_clear: bool,
    pub(super) has_tls: bool,
}

/// The voice environment of all devices where the file has none: each has one to point to.
const UNNAMED_ENVIRONMENT: &str = "default";

impl Sections {
    /// `None` when something is wrong: the reader has the findings.
    pub(super) fn read(reader: &mut ConfigReader) -> Option<Self> {
        let trunks = reader.pairs(&["sip", "trunk"]);
        let trunk_logins = reader.inner_items(&["sip", "trunk"], "login");
        let trunk_registers = reader.inner(&["sip", "trunk"], "register");
        let callers = reader.items(&["grpc", "caller"]);
        let issuers = reader.items(&["identity", "issuer"]);
        let identity = reader.section("identity");
        let (process, rest, http) =
            (reader.section(""), reader.section("rest"), reader.section("rest"));
        let tls = reader.section("tls");
        let (login, cometd) = (reader.section("login"), reader.section("bayeux"));
        let (grpc, admin, sip_backend) =
            (reader.section("grpc"), reader.section("admin"), reader.section("sip_backend"));
        let mut limits =
            |prefix| reader.sections::<ConnectionLimits>(&[("doors", prefix), ("doors", "")]);
        let (rest_limits, grpc_limits, admin_limits) =
            (limits("rest_"), limits("grpc_"), limits("admin_"));
        let gateway = reader.sections(&[("monitoring", ""), ("audit", "")]);
        let (announcement, supervision, audit) =
            (reader.section("monitoring"), reader.section("monitoring"), reader.section("audit"));
        let (sip, sip_limits) = (reader.section("sip"), reader.section("sip"));
        let b2bua = reader.sections(&[("sip", ""), ("monitoring", "")]);
        let feature_codes = reader.section("feature_codes");
        let (media, log) = (reader.section("media"), reader.section("log"));
        let directory = reader.section("directory");
        let voice_environments = reader.items(&["voice_environment"]);
        let ranges = reader.items(&["device_range"]);
        let (devices, users, groups) =
            (reader.pairs(&["device"]), reader.pairs(&["user"]), reader.pairs(&["group"]));
        Some(Self {
            process: process?,
            rest: rest?,
            grpc: grpc?,
            callers,
            admin: admin?,
            sip_backend: sip_backend?,
            audit: audit?,
            tls: tls?,
            http: http?,
            login: login?,
            identity: identity?,
            issuers,
            cometd: cometd?,
            rest_limits: rest_limits?,
            grpc_limits: grpc_limits?,
            admin_limits: admin_limits?,
            gateway: gateway?,
            announcement: announcement?,
            supervision: supervision?,
            sip: sip?,
            sip_limits: sip_limits?,
            b2bua: b2bua?,
            feature_codes: feature_codes?,
            media: media?,
            log: log?,
            directory: directory?,
            trunks,
            trunk_logins,
            trunk_registers,
            voice_environments,
            devices,
            ranges,
            users,
            groups,
        })
    }

    /// The TCP addresses that are served.
    pub(super) fn addresses(&self) -> [TcpAddress; 5] {
        let (rest, grpc, admin, backend) = (&self.rest, &self.grpc, &self.admin, &self.sip_backend);
        let address = |section, key, address, may_be_clear, tls| TcpAddress {
            section,
            key,
            address,
            may_be_clear,
            has_tls: self.tls.door(tls).is_some(),
        };
        let in_clear = backend.insecure_bind;
        [
            address("rest", "bind", rest.bind, rest.insecure_bind, "rest_"),
            address("grpc", "bind", grpc.bind, grpc.insecure_bind, "grpc_"),
            address("admin", "bind", admin.bind, admin.insecure_bind, "admin_"),
            address("sip_backend", "grpc_bind", backend.grpc_bind, in_clear, "grpc_"),
            address("sip_backend", "admin_bind", backend.admin_bind, in_clear, "admin_"),
        ]
    }

    /// When [`super::checks`] has found nothing.
    pub(super) fn into_config(mut self) -> Config {
        // The checks have found nothing.
        let ranged = self.ranges.iter().filter_map(|range| range.devices().ok()).flatten();
        let named = self.devices.len();
        self.devices.extend(ranged.collect::<Vec<_>>());
        self.complete();
        let directory = self.directory();
        let of_range = |(account, _): &(SipAccount, DeviceDetails)| {
            let entry = directory.devices.get(&account.device)?;
            Some((account.clone(), DeviceEntry::clone(entry)))
        };
        let ranged = self.devices.iter().skip(named).filter_map(of_range).collect();
        let hash = |(user, details): (User, UserDetails)| Some((user.id, details.password_hash?));
        let password = |(account, details): &(SipAccount, DeviceDetails)| {
            Some((account.number.clone(), details.password.clone()?))
        };
        let sip_passwords = self.devices.iter().filter_map(password).collect();
        let grpc_token_file = Some(self.grpc.token_file)
            .filter(|file| !file.as_os_str().is_empty())
            .map(|file| self.process.state_dir.join(file));
        let backend_audit_file = self.process.state_dir.join(&self.sip_backend.audit_file);
        Config {
            audit: AuditConfig {
                file: self.process.state_dir.join(&self.audit.file),
                state_dir: self.process.state_dir.clone(),
                ..self.audit
            },
            state_dir: self.process.state_dir.clone(),
            tls: TlsConfig {
                rest: self.tls.door("rest_"),
                grpc: self.tls.door("grpc_"),
                admin: self.tls.door("admin_"),
                sip: self.tls.door("sip_"),
                sip_client: self.tls.sip_client(),
                backend: self.tls.backend(),
            },
            backends: self.process.backends(),
            backend_url: self.process.backend_url,
            backend_token_file: self.process.backend_token_file,
            rest_bind: self.rest.bind,
            http: self.http,
            login: self.login,
            identity: self.identity,
            issuers: self.issuers,
            cometd: self.cometd,
            grpc_bind: self.grpc.bind,
            grpc_reflection: self.grpc.reflection,
            grpc_token_file,
            callers: self.callers,
            admin_bind: self.admin.bind,
            server_limits: ServerLimits {
                rest: self.rest_limits,
                grpc: self.grpc_limits,
                admin: self.admin_limits,
            },
            backend_grpc_bind: self.sip_backend.grpc_bind,
            backend_admin_bind: self.sip_backend.admin_bind,
            backend_audit_file,
            gateway: self.gateway,
            directory,
            sip: SipConfig {
                accounts: self.devices.into_iter().map(|(account, _)| account).collect(),
                trunks: self.trunks.into_iter().map(|(trunk, _)| trunk).collect(),
                limits: self.sip_limits,
                ..self.sip
            },
            b2bua: B2buaConfig {
                supervision: self.supervision,
                feature_codes: self.feature_codes,
                ..self.b2bua
            },
            media: self.media,
            telemetry: self.log,
            directory_source: self.directory.source,
            end_calls_of_removed_devices: self.directory.end_calls_of_removed_devices,
            file: None,
            secret_files: Vec::new(),
            password_dir: Some(self.process.state_dir.clone()),
            ranged,
            settings: Settings::default(),
            password_hashes: self.users.into_iter().filter_map(hash).collect(),
            sip_passwords,
        }
    }

    /// Fills in what follows from keys of another module, or from another key.
    fn complete(&mut self) {
        self.http.public_url = match &self.rest.public_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => match self.tls.door("rest_") {
                Some(_) => format!("https://{}", self.rest.bind),
                None => format!("http://{}", self.rest.bind),
            },
        };
        if self.http.hosts.is_empty()
            && self.rest.bind.ip().is_loopback()
            && self.http.trusted_proxies.is_empty()
        {
            self.http.hosts.push(LOCALHOST.to_owned());
        }
        let is_secure =
            self.tls.door("rest_").is_some() || self.http.public_url.starts_with("https:");
        self.login.secure_cookies |= is_secure;
        (self.rest_limits.name, self.grpc_limits.name, self.admin_limits.name) =
            ("rest", "grpc", "admin");
        self.rest_limits.peers = self.http.trusted_proxies.clone();
        (self.grpc_limits.is_shared_fairly, self.admin_limits.is_shared_fairly) = (true, true);
        self.grpc_limits.is_http2_only = true;
        // The tone is the backend's; the event comes with it.
        self.gateway.notify_agent = match self.announcement.notify_agent {
            AnnouncedBy::None => NotifyAgent::None,
            AnnouncedBy::Event | AnnouncedBy::Beep => NotifyAgent::Event,
        };
        self.sip.verifies_clients =
            self.tls.door("sip_").is_some_and(|door| door.client_authorities.is_some());
        self.b2bua.beep = self.announcement.notify_agent == AnnouncedBy::Beep;
        self.b2bua.media_over_ipv6 = self.media.advertised.unwrap_or(self.media.bind).is_ipv6();
        if self.voice_environments.is_empty() && !self.devices.is_empty() {
            self.voice_environments
                .push(VoiceEnvironment { id: UNNAMED_ENVIRONMENT.to_owned(), name: String::new() });
        }
        for (account, _) in &mut self.devices {
            account.username = account.number.as_str().to_owned();
        }
        for (number, (trunk, keys)) in self.trunks.iter_mut().enumerate() {
            // The checks have found nothing.
            trunk.targets =
                keys.targets().into_iter().filter_map(|(_, target)| target.ok()).collect();
            let more = self.trunk_logins.remove(&number).unwrap_or_default();
            let more = more.into_iter().map(TrunkLogin::login);
            trunk.logins = keys.login().into_iter().chain(more).collect();
            trunk.registration =
                self.trunk_registers.remove(&number).and_then(TrunkRegister::registration);
        }
        for (user, details) in &mut self.users {
            let (first, last) = (details.first_name.take(), details.last_name.take());
            user.name(details.display_name.take(), first, last);
        }
    }

    fn directory(&self) -> Directory {
        let environment =
            self.voice_environments.first().map_or("", |environment| environment.id.as_str());
        let device = |(account, details): &(SipAccount, DeviceDetails)| DeviceEntry {
            id: account.device.clone(),
            number: account.number.clone(),
            voice_environment: details
                .voice_environment
                .as_deref()
                .unwrap_or(environment)
                .to_owned(),
        };
        // A customer's account belongs to no user: it is never seen and never monitored.
        let ours = self.devices.iter().filter(|(account, _)| account.kind == AccountKind::Internal);
        let environments = self.voice_environments.iter().cloned();
        Directory {
            users: self
                .users
                .iter()
                .map(|(user, _)| (user.id.clone(), user.clone().into()))
                .collect(),
            devices: ours.map(device).map(|device| (device.id.clone(), device.into())).collect(),
            groups: self
                .groups
                .iter()
                .map(|(group, _)| (group.id.clone(), group.clone().into()))
                .collect(),
            voice_environments: environments
                .map(|environment| (environment.id.clone(), environment))
                .collect(),
            contact_center: self.rest.contact_center_id.clone(),
        }
    }
}

impl TrunkKeys {
    fn login(&mut self) -> Option<Login> {
        Some(Login {
            realm: self.realm.take()?,
            username: self.user.take()?,
            password: self.password.take()?,
        })
    }
}

impl TrunkLogin {
    fn login(self) -> Login {
        Login { realm: self.realm, username: self.user, password: self.password }
    }
}

impl TrunkRegister {
    fn registration(self) -> Option<Registration> {
        Some(Registration {
            contact_user: self.contact_user.as_deref().unwrap_or(&self.user).into(),
            user: self.user,
            password: self.password?,
            realm: self.realm,
            expires: self.expires,
        })
    }
}
