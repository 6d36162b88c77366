//! The assembly: opens what a process needs, joins the modules, and takes them down in order.
//! Decides nothing.
//!
//! ```text
//!              ┌ REST, CometD ─┐
//!  Gateway  =  │ gRPC          ├─▶ gateway task ═ connection ═▶ backend, here (Serve) or elsewhere
//!              └ admin ────────┘
//!  Backend  =    gRPC, admin ─────▶ SIP
//! ```
//!
//! A gateway over simulated telephones has these, and a door to them, in its own process.

mod callers;
mod directory;
mod directory_edit;
pub mod directory_files;
mod directory_news;
mod drain;
mod gateway_users;
pub mod new_passwords;
mod simulated;
mod unaudited;

pub use self::gateway_users::GatewayUsers;

use self::directory::{BackendPart, DirectoryKeeper, GatewayPart, Told};
use self::drain::{Drain, DrainDoor};
use self::simulated::ScratchDirectory;
use crate::audit::{AuditConfig, AuditError, AuditLog};
use crate::clock;
use crate::cluster::discovery::{NodeAddress, NodeSource};
use crate::cluster::{self, ClusterConfig};
use crate::cometd::long_polling::{self, Cometd};
use crate::config::{Config, CredentialsError, DirectorySource, Made};
use crate::directory::handle::DirectoryHandle;
use crate::gateway::task::GatewayHandle;
use crate::grpc;
use crate::http::auth::{Auth, PasswordError, PasswordHashes};
use crate::http::fast_path::FastPath;
use crate::http::identity::{Identities, IssuerError};
use crate::http::server::{self, ConnectionLimits, Door};
use crate::http::{HttpConfig, connection, layers};
use crate::model::UserId;
use crate::rest;
use crate::sip::backend::{self, SipBackend};
use crate::sip::config::SipConfig;
use crate::sip::flow::Protocol;
use crate::sip::transport::TransportTls;
use crate::store::{self, Store, StoreError};
use crate::telemetry::{self, Measure, Metrics, Ready};
use crate::telephony::callers::{Callers, CallersError, TokenError};
use crate::telephony::connection::TelephonyChannel;
use crate::telephony::simulated::{self as simulated_telephones, Simulated};
use crate::telephony::{self, BackendConnection, proto::telephony_server::TelephonyServer};
use crate::tls::{Alpn, ClientTls, ServerTls, ServerTlsFiles, TlsError};
use axum::Router;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long answers under way may take once the servers close.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// How often certificates and tokens are looked at, and how often certificates' end is warned of.
const LOOK_AT_FILES: Duration = Duration::from_secs(5);
const WARN_OF_EXPIRY: Duration = Duration::from_secs(24 * 3600);
/// File descriptors of a coached call: RTP and RTCP of three legs.
const DESCRIPTORS_PER_CALL: u64 = 6;
/// No server takes more than this part of the file descriptors.
const SHARE_OF_A_SERVER: u64 = 2;
/// File descriptors of everything else: listening sockets, phones and desktops over TCP, files.
const OTHER_DESCRIPTORS: u64 = 512;

/// Which parts of the product a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerRole {
    /// Gateway and SIP backend.
    Serve,
    /// The gateway; its backend is at [`Config::backend_url`].
    Gateway,
    /// The gateway over simulated telephones, with a door to move them at the admin address.
    SimulatedGateway,
    /// The SIP backend.
    SipBackend,
}

/// Why a process could not start: each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port in use, an address that is not ours.
    #[error("{what} can not listen on {address}: {error}")]
    Bind {
        /// Name of the server, as in "REST".
        what: &'static str,
        /// The address as configured.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// The state file cannot be opened or read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit file, without which nobody may listen.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Passwords cannot be read or made.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A password hash cannot be read.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The SIP backend cannot start.
    #[error(transparent)]
    Sip(#[from] backend::BackendStartError),
    /// The address of the backend cannot be used.
    #[error("backend_url '{url}': {error}")]
    BackendUrl {
        /// The address as configured.
        url: String,
        /// What is wrong with it.
        error: tonic::transport::Error,
    },
    /// The callers of gRPC cannot be made out.
    #[error(transparent)]
    Callers(#[from] CallersError),
    /// The gateway cannot be known to its backend.
    #[error("backend_token_file: {0}")]
    BackendToken(#[from] TokenError),
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Two processes would each have a directory.
    #[error(
        "directory.source = \"store\" needs gateway and SIP backend in one process: undertone serve"
    )]
    StoreOfTwo,
    /// The door to simulated telephones asks for no password.
    #[error(
        "admin.bind {0}: simulated telephones are moved there, so it must be a loopback address"
    )]
    SimulatedInPublic(SocketAddr),
    /// The audit of a process that keeps nothing has no place.
    #[error("a temporary directory for the audit: {0}")]
    Scratch(io::Error),
    /// An issuer of tokens cannot be used.
    #[error("identity.issuer: {0}")]
    Issuer(#[from] IssuerError),
    /// The process can not be told to stop.
    #[error("signals: {0}")]
    Signals(io::Error),
}

/// A running process, or half of one. Dropped, it ends at once.
pub struct Running {
    rest: Option<SocketAddr>,
    grpc: SocketAddr,
    admin: SocketAddr,
    gateway: Option<GatewayHandle>,
    cometd: Option<Cometd>,
    backend: Option<SipBackend>,
    simulated: Option<Simulated>,
    _scratch: Option<ScratchDirectory>,
    stores: Vec<Store>,
    introduction: Option<String>,
    /// Whether it takes new calls.
    drain: watch::Sender<Drain>,
    stop: watch::Sender<bool>,
    reload: watch::Sender<()>,
    /// The directory is that of a file, which is read again.
    reads_directory: bool,
    has_tls: DoorsWithTls,
    servers: Vec<JoinHandle<()>>,
}

/// Which doors have TLS.
#[derive(Clone, Copy)]
struct DoorsWithTls {
    rest: bool,
    grpc: bool,
    admin: bool,
}

fn scheme(has_tls: bool) -> &'static str {
    if has_tls { "https" } else { "http" }
}

impl Running {
    /// Where REST and CometD are.
    pub fn rest(&self) -> Option<SocketAddr> {
        self.rest
    }

    /// Where the telephony contract is served.
    pub fn grpc(&self) -> SocketAddr {
        self.grpc
    }

    /// Where health and metrics are.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where phones register.
    pub fn sip(&self, protocol: Protocol) -> Option<SocketAddr> {
        self.backend.as_ref()?.local_addr(protocol)
    }

    /// The gateway that runs in this process.
    pub fn gateway(&self) -> Option<&GatewayHandle> {
        self.gateway.as_ref()
    }

    /// The SIP backend that runs in this process.
    pub fn backend(&self) -> Option<&SipBackend> {
        self.backend.as_ref()
    }

    /// Text to print once: the passwords that were made at this start.
    pub fn introduction(&self) -> Option<&str> {
        self.introduction.as_deref()
    }

    /// One line for each address that is listened on.
    pub fn addresses(&self) -> Vec<String> {
        let (rest_scheme, admin_scheme) = (scheme(self.has_tls.rest), scheme(self.has_tls.admin));
        let rest = self.rest;
        let rest =
            rest.map(|address| format!("REST and CometD on {rest_scheme}://{address}/api/v2"));
        let sip = self.backend.iter().flat_map(SipBackend::local_addrs);
        let sip = sip.map(|(protocol, address)| format!("SIP on {} {address}", protocol.as_str()));
        let door = simulated_telephones::door::PATH;
        let simulated = self.simulated.as_ref();
        let simulated = simulated
            .map(|_| format!("simulated telephones on {admin_scheme}://{}{door}", self.admin));
        let rest_of = [
            format!("gRPC on {}{}", self.grpc, if self.has_tls.grpc { " by TLS" } else { "" }),
            format!("health and metrics on {admin_scheme}://{}", self.admin),
        ];
        rest.into_iter().chain(sip).chain(simulated).chain(rest_of).collect()
    }

    /// Reads again what may change while it runs, as SIGHUP does: certificates, keys, the tokens of
    /// callers, the directory in the configuration file, and the audit file, which another program
    /// may have moved away.
    pub fn reload(&self) {
        let what = match self.reads_directory {
            true => "certificates, tokens and the directory",
            false => "certificates and tokens, not the directory,",
        };
        tracing::info!("{what} are read again, the audit file is opened anew");
        self.reload.send_replace(());
        if let Some(gateway) = &self.gateway {
            gateway.reopen_audit();
        }
    }

    /// Stops in order: no new calls, live calls and their grace, with every door open for what may
    /// still be done about them; then CometD, the servers with the answers under way, the backend.
    pub async fn stop(mut self) {
        self.drain.send_replace(Drain::Stopping);
        if let Some(backend) = &mut self.backend {
            backend.close().await;
        }
        if let Some(cometd) = &self.cometd {
            cometd.drain().await;
        }
        self.stop.send_replace(true);
        if let Some(backend) = self.backend.take() {
            backend.shutdown().await;
        }
        for server in std::mem::take(&mut self.servers) {
            let abort = server.abort_handle();
            if tokio::time::timeout(LAST_ANSWERS, server).await.is_err() {
                abort.abort();
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.servers.iter().for_each(JoinHandle::abort);
    }
}

/// Starts a process on the current tokio runtime. Everything that can fail does so here.
///
/// # Errors
/// One clear line.
pub async fn start(
    mut config: Config,
    part: ServerRole,
    metrics: Option<Metrics>,
) -> Result<Running, StartError> {
    let scratch = match part {
        ServerRole::Serve | ServerRole::Gateway | ServerRole::SipBackend => None,
        ServerRole::SimulatedGateway if !config.admin_bind.ip().is_loopback() => {
            return Err(StartError::SimulatedInPublic(config.admin_bind));
        }
        ServerRole::SimulatedGateway => {
            let scratch = ScratchDirectory::create().map_err(StartError::Scratch)?;
            config.audit = AuditConfig::of(&scratch.path().join("audit.jsonl"));
            config.grpc_token_file = Some(scratch.path().join("grpc-token"));
            config.password_dir = None;
            Some(scratch)
        }
    };
    let stores = Stores::open(&mut config, part)?;
    let (directory, edits) = DirectoryHandle::channel();
    let rest = match part {
        ServerRole::Serve | ServerRole::Gateway | ServerRole::SimulatedGateway => {
            Some(bind("REST", config.rest_bind).await?)
        }
        ServerRole::SipBackend => None,
    };
    let (grpc_bind, admin_bind) = match part {
        ServerRole::Serve | ServerRole::Gateway | ServerRole::SimulatedGateway => {
            (config.grpc_bind, config.admin_bind)
        }
        ServerRole::SipBackend => (config.backend_grpc_bind, config.backend_admin_bind),
    };
    let (grpc_listener, grpc) = bind("gRPC", grpc_bind).await?;
    let (admin_listener, admin_address) = bind("admin", admin_bind).await?;
    // Unless it was said what clients know us by.
    if let Some((_, address)) = &rest
        && let Some(scheme) = config.http.public_url.strip_suffix(&format!("{}", config.rest_bind))
    {
        config.http.public_url = format!("{scheme}{address}");
    }
    let mut presented = Vec::new();
    let mut door = |name, files: &Option<ServerTlsFiles>, alpn| {
        let tls = files.clone().map(|files| ServerTls::load(name, files, alpn).map(Arc::new));
        let tls = tls.transpose()?;
        presented.extend(tls.clone());
        Ok::<_, TlsError>(tls)
    };
    let rest_tls = match rest {
        Some(_) => door("rest", &config.tls.rest, Alpn::Http)?,
        None => None,
    };
    let grpc_tls = door("grpc", &config.tls.grpc, Alpn::Http2)?;
    let admin_tls = door("admin", &config.tls.admin, Alpn::Http)?;
    let has_sip = match part {
        ServerRole::Serve | ServerRole::SipBackend => {
            config.sip.listen.iter().any(|listen| listen.protocol.is_secure())
        }
        ServerRole::Gateway | ServerRole::SimulatedGateway => false,
    };
    let sip_tls = TransportTls {
        server: if has_sip { door("sip", &config.tls.sip, Alpn::None)? } else { None },
        client: ClientTls::new(config.tls.sip_client.clone()),
    };
    let (callers, auth) = callers::auth(&config, part)?;
    let (stop, stopped) = watch::channel(false);
    let mut running = Running {
        rest: rest.as_ref().map(|(_, address)| *address),
        grpc,
        admin: admin_address,
        gateway: None,
        cometd: None,
        backend: None,
        simulated: None,
        _scratch: scratch,
        stores: Vec::new(),
        introduction: None,
        drain: watch::Sender::default(),
        stop,
        reload: watch::Sender::new(()),
        reads_directory: false,
        has_tls: DoorsWithTls {
            rest: rest_tls.is_some(),
            grpc: grpc_tls.is_some(),
            admin: admin_tls.is_some(),
        },
        servers: Vec::new(),
    };
    let (mut rest_made, mut sip_made) = (Vec::new(), Vec::new());
    let mut told = Told { gateway: None, backend: None };
    let backend_server = match part {
        ServerRole::Serve | ServerRole::SipBackend => {
            let parts = BackendParts {
                store: stores.backend.unwrap_or_else(store::in_memory),
                tls: sip_tls,
            };
            Some(start_backend(&config, parts, &mut running, &mut told, &mut sip_made).await?)
        }
        ServerRole::SimulatedGateway => {
            let (server, telephones) = simulated::start(&config);
            running.simulated = Some(telephones);
            Some(server)
        }
        ServerRole::Gateway => None,
    };
    let (server, serving) = match (rest, backend_server) {
        (Some((listener, _)), backend) => {
            let line = match backend {
                Some(server) => {
                    telephony::connection::line(telephony::connection::in_process(server))
                }
                None => backend_elsewhere(&config)?,
            };
            let store = stores.gateway.unwrap_or_else(store::in_memory);
            let parts = GatewayParts { connection: line, store, directory };
            let (gateway, router, fast_path) =
                start_gateway(&config, parts, &mut running, &mut told, &mut rest_made).await?;
            let limits = within_descriptors(&config.server_limits.rest);
            let serving = connection::serve_at(
                Door { listener, limits, tls: rest_tls },
                router,
                fast_path,
                until(stopped.clone()),
            );
            running.servers.push(tokio::spawn(serving));
            let serving = gateway.readiness();
            let load = drain::with_drain(gateway.load(), running.drain.subscribe());
            (grpc::serve_as(gateway, load), serving)
        }
        (None, Some(server)) => {
            (server, running.backend.as_ref().map_or_else(never, SipBackend::running))
        }
        (None, None) => unreachable!("a process without REST has a backend"),
    };
    let serving = unless_draining(serving, running.drain.subscribe());
    let contract = telephony::routes(server, auth, serving, config.grpc_reflection).await;
    let admin = telemetry::admin(metrics, readiness(&running), measures(&running));
    let admin = admin.merge(drain::router(drain_door(&running)));
    let admin = match &running.simulated {
        Some(telephones) => admin.merge(simulated_telephones::door::router(telephones.clone())),
        None => admin,
    };
    for (listener, router, limits, tls) in [
        (grpc_listener, contract, &config.server_limits.grpc, grpc_tls),
        (admin_listener, admin, &config.server_limits.admin, admin_tls),
    ] {
        let door = Door { listener, limits: within_descriptors(limits), tls };
        let serving = server::serve(door, router, until(stopped.clone()));
        running.servers.push(tokio::spawn(serving));
    }
    let mut kept = config.clone();
    if part == ServerRole::SimulatedGateway {
        // Simulated telephones are those that it has begun with.
        kept.file = None;
    }
    running.reads_directory = kept.file.is_some();
    let keeper = DirectoryKeeper::new(kept, told);
    let keeper = keeper.run(running.reload.subscribe(), edits, until(stopped.clone()));
    running.servers.push(tokio::spawn(keeper));
    let again = watch_files((presented, callers), running.reload.subscribe(), stopped.clone());
    running.servers.push(tokio::spawn(again));
    running.introduction = match part {
        ServerRole::Serve | ServerRole::Gateway | ServerRole::SipBackend => {
            config.introduction(&rest_made, &sip_made)
        }
        ServerRole::SimulatedGateway => {
            let scheme = scheme(running.has_tls.admin);
            let door = format!("{scheme}://{admin_address}{}", simulated_telephones::door::PATH);
            Some(config.simulated_introduction(&rest_made, &door, grpc))
        }
    };
    Ok(running)
}

/// Runs a process until it is asked to stop (SIGTERM, SIGINT). SIGHUP never ends it.
///
/// # Errors
/// It can not start.
pub async fn run(
    config: Config,
    part: ServerRole,
    metrics: Option<Metrics>,
    started: impl FnOnce(&Running),
) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(StartError::Signals)?;
    raise_file_limit(&config, part);
    warn_of_clear_doors(&config, part);
    let running = start(config, part, metrics).await?;
    for address in running.addresses() {
        tracing::info!("{address}");
    }
    started(&running);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            Some(()) = hangup.recv() => running.reload(),
        }
    }
    tracing::info!("stopping");
    tokio::select! {
        () = running.stop() => tracing::info!("stopped"),
        // Asked twice: at once.
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Said at each start: what goes through these doors can be read on the way.
fn warn_of_clear_doors(config: &Config, part: ServerRole) {
    let contract = match part {
        ServerRole::Serve | ServerRole::Gateway | ServerRole::SimulatedGateway => {
            [("grpc.bind", config.grpc_bind), ("admin.bind", config.admin_bind)]
        }
        ServerRole::SipBackend => [
            ("sip_backend.grpc_bind", config.backend_grpc_bind),
            ("sip_backend.admin_bind", config.backend_admin_bind),
        ],
    };
    let rest = (part != ServerRole::SipBackend).then_some(("rest.bind", config.rest_bind));
    let [grpc, admin] = contract;
    let doors = [(grpc, &config.tls.grpc), (admin, &config.tls.admin)].into_iter();
    let doors = doors.chain(rest.map(|rest| (rest, &config.tls.rest)));
    for ((door, address), _) in
        doors.filter(|((_, address), tls)| tls.is_none() && !address.ip().is_loopback())
    {
        tracing::warn!(door, %address, "served without TLS: what goes there can be read on the way");
    }
}

/// Takes as many file descriptors as it may have, and says so when they are too few for the calls
/// it may have.
fn raise_file_limit(config: &Config, part: ServerRole) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(_) => soft,
    };
    let max_calls = match part {
        ServerRole::Serve | ServerRole::SipBackend => config.b2bua.max_calls,
        ServerRole::Gateway | ServerRole::SimulatedGateway => 0,
    };
    let wanted = max_calls as u64 * DESCRIPTORS_PER_CALL + OTHER_DESCRIPTORS;
    if limit < wanted {
        tracing::warn!(
            limit,
            wanted,
            max_calls,
            "the limit of open files is too low for sip.max_calls: calls beyond it will be \
             refused; raise `ulimit -n` or LimitNOFILE"
        );
    }
}

/// The state files of a process.
struct Stores {
    gateway: Option<Store>,
    backend: Option<Store>,
}

impl Stores {
    /// Opens them; where the directory is kept there, it is that of the configuration from now on,
    /// or that of the file is kept there from now on.
    fn open(config: &mut Config, part: ServerRole) -> Result<Self, StartError> {
        let (has_gateway, has_backend) = match part {
            ServerRole::Serve => (true, true),
            ServerRole::Gateway => (true, false),
            ServerRole::SipBackend => (false, true),
            ServerRole::SimulatedGateway => (false, false),
        };
        let open =
            |wanted: bool, name| wanted.then(|| store::open(&config.state_file(name))).transpose();
        let stores = Self {
            gateway: open(has_gateway, "gateway")?,
            backend: open(has_backend, "sip-backend")?,
        };
        match (config.directory_source, &stores) {
            (DirectorySource::File, _) => {}
            (DirectorySource::Store, Self { gateway: Some(gateway), backend: Some(backend) }) => {
                directory_files::adopt(config, gateway, backend)?;
            }
            (DirectorySource::Store, _) => return Err(StartError::StoreOfTwo),
        }
        Ok(stores)
    }
}

/// What a SIP backend is started with.
struct BackendParts {
    store: Store,
    tls: TransportTls,
}

/// What a gateway is started with.
struct GatewayParts {
    connection: BackendConnection,
    store: Store,
    directory: DirectoryHandle,
}

async fn start_backend(
    config: &Config,
    parts: BackendParts,
    running: &mut Running,
    told: &mut Told,
    made: &mut Vec<Made>,
) -> Result<TelephonyServer<telephony::TelephonyService>, StartError> {
    let BackendParts { store, tls } = parts;
    let (sip, new) = config.sip_with_credentials(&store)?;
    made.extend(new);
    let directory = sip.directory();
    let sip = SipConfig { trunks: directory.trunks.clone(), ..sip };
    let (b2bua, media) = (config.b2bua.clone(), config.media.clone());
    let parts = backend::BackendConfig { sip, tls, b2bua, media };
    let (server, backend) = backend::start(parts, store.clone()).await?;
    if let Err(missing) = backend.has_media()() {
        tracing::warn!(%missing, "calls can have no sound");
    }
    let directories = backend.directories();
    told.backend = Some(BackendPart { directories, store: store.clone(), sip: directory });
    running.stores.push(store);
    running.backend = Some(backend);
    Ok(server)
}

/// The line to the backend of the configuration, or to all of its backends as to one.
fn backend_elsewhere(config: &Config) -> Result<BackendConnection, StartError> {
    let Some(nodes) = config.backends.clone() else {
        let address = NodeAddress { url: config.backend_url.clone(), address: None };
        return node(config, &address);
    };
    let urls = match &nodes {
        NodeSource::List(urls) => urls.as_slice(),
        NodeSource::Name(url) => std::slice::from_ref(url),
    };
    // What cannot be used is said at the start, not when it is needed.
    for url in urls {
        channel(config, &NodeAddress { url: url.clone(), address: None })?;
    }
    let config = config.clone();
    Ok(cluster::task::start(ClusterConfig::default(), nodes, move |address| {
        node(&config, address).map_err(|error| error.to_string())
    }))
}

/// The line to one backend elsewhere.
fn node(config: &Config, address: &NodeAddress) -> Result<BackendConnection, StartError> {
    let channel = channel(config, address)?;
    Ok(telephony::connection::line_to(channel, &address.to_string()))
}

fn channel(config: &Config, node: &NodeAddress) -> Result<TelephonyChannel, StartError> {
    let tls = ClientTls::new(config.tls.backend.clone());
    let token = callers::token(config, &node.url)?;
    telephony::connection::remote_at(&node.url, node.address, tls, token)
        .map_err(|error| StartError::BackendUrl { url: node.url.clone(), error })
}

async fn start_gateway(
    config: &Config,
    parts: GatewayParts,
    running: &mut Running,
    told: &mut Told,
    made: &mut Vec<Made>,
) -> Result<(GatewayHandle, Router, Option<FastPath<Cometd>>), StartError> {
    let GatewayParts { connection, store, directory } = parts;
    let audit_config = config.audit.clone();
    let audit = tokio::task::spawn_blocking(move || AuditLog::open(&audit_config)).await;
    let audit = audit.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
    let taken = match &config.password_dir {
        Some(folder) => {
            let may_have =
                |user: &UserId| config.directory.user(user).is_some() && !config.has_password(user);
            new_passwords::take(folder, &store, may_have).await?
        }
        None => PasswordHashes::new(),
    };
    let (accounts, new) = config.rest_credentials(&store)?;
    made.extend(new);
    let devices = config.device_key(&store)?;
    let auth = Auth::with_devices(config.login.clone(), accounts, devices)?;
    let gateway = GatewayHandle::start(
        config.gateway.clone(),
        config.directory.clone(),
        connection,
        audit,
        store.clone(),
    )?;
    let passwords = taken.keys().map(|user| format!("users changed: {user} (password)"));
    unaudited::tell(&gateway, config, &store, passwords.collect()).await;
    let cometd =
        Cometd::start(&config.http, config.cometd.clone(), gateway.clone(), store.clone())?;
    if !config.issuers.is_empty() {
        let users = Arc::new(GatewayUsers::new(gateway.clone()));
        let identities = Identities::new(&config.identity, &config.issuers, users)?;
        identities.prefetch();
        auth.believe(identities);
    }
    told.gateway =
        Some(GatewayPart { handle: gateway.clone(), auth: auth.clone(), store: store.clone() });
    running.stores.push(store);
    running.gateway = Some(gateway.clone());
    running.cometd = Some(cometd.clone());
    let (router, fast_path) = router(&config.http, auth, gateway.clone(), cometd, directory);
    Ok((gateway, router, fast_path))
}

/// REST and CometD behind their layers, and the fast path of polls, unless each request needs a
/// token of its page. Serve both with [`connection::serve`].
pub fn router(
    config: &HttpConfig,
    auth: Auth,
    gateway: GatewayHandle,
    cometd: Cometd,
    directory: DirectoryHandle,
) -> (Router, Option<FastPath<Cometd>>) {
    let fast_path = (!config.csrf).then(|| FastPath::new(auth.clone(), cometd.clone(), config));
    auth.tell(Arc::new(cometd.clone()));
    let routes =
        rest::router(config, gateway, auth.clone(), directory).merge(long_polling::router(cometd));
    (layers::layered(config, auth, routes, long_polling::is_endpoint), fast_path)
}

async fn bind(
    what: &'static str,
    address: SocketAddr,
) -> Result<(TcpListener, SocketAddr), StartError> {
    let listener = TcpListener::bind(address).await;
    let bound =
        listener.and_then(|listener| listener.local_addr().map(|address| (listener, address)));
    bound.map_err(|error| StartError::Bind { what, address, error })
}

/// The limits of a server, as far as the process has file descriptors for them: calls need some,
/// too.
fn within_descriptors(limits: &ConnectionLimits) -> ConnectionLimits {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let most = usize::try_from(descriptors / SHARE_OF_A_SERVER).unwrap_or(usize::MAX);
    ConnectionLimits { connections: limits.connections.min(most), ..limits.clone() }
}

/// The readiness of a part that this process does not have.
fn never() -> watch::Receiver<bool> {
    watch::Sender::new(false).subscribe()
}

/// Reads certificates and the tokens of callers again when they have changed, and in any case when
/// it is asked for; warns of certificates' end at the start and each day.
async fn watch_files(
    (presented, callers): (Vec<Arc<ServerTls>>, Arc<Callers>),
    mut asked: watch::Receiver<()>,
    stopped: watch::Receiver<bool>,
) {
    let refresh = |in_any_case| {
        presented.iter().for_each(|tls| tls.refresh(in_any_case));
        callers.refresh(in_any_case);
    };
    let mut look = tokio::time::interval(LOOK_AT_FILES);
    let mut warn = tokio::time::interval(WARN_OF_EXPIRY);
    let stopped = until(stopped);
    tokio::pin!(stopped);
    loop {
        tokio::select! {
            () = &mut stopped => return,
            _ = look.tick() => refresh(false),
            _ = warn.tick() => {
                presented.iter().for_each(|tls| tls.warn_of_expiry(clock::wall()));
            }
            asked = asked.changed() => match asked {
                Ok(()) => refresh(true),
                Err(_) => return,
            },
        }
    }
}

/// Readiness that ends as soon as the process takes no new calls.
fn unless_draining(
    mut serving: watch::Receiver<bool>,
    mut draining: watch::Receiver<Drain>,
) -> watch::Receiver<bool> {
    let (told, result) = watch::channel(*serving.borrow());
    tokio::spawn(async move {
        loop {
            let serves = *serving.borrow_and_update() && !draining.borrow_and_update().is_on();
            told.send_if_modified(|told| std::mem::replace(told, serves) != serves);
            let changed = tokio::select! {
                changed = serving.changed() => changed,
                changed = draining.changed() => changed,
                () = told.closed() => return,
            };
            if changed.is_err() {
                return;
            }
        }
    });
    result
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // A dropped handle stops too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn drain_door(running: &Running) -> DrainDoor {
    let load = running.backend.as_ref().map(SipBackend::load);
    let load = load.or_else(|| running.gateway.as_ref().map(GatewayHandle::load));
    DrainDoor {
        drain: running.drain.clone(),
        backend: running.backend.as_ref().map(SipBackend::draining),
        load: load.unwrap_or_else(|| watch::Sender::default().subscribe()),
    }
}

fn measures(running: &Running) -> Measure {
    let backend = running.backend.as_ref().map(SipBackend::measure);
    Arc::new(move || {
        if let Some(measure) = &backend {
            measure();
        }
    })
}

fn readiness(running: &Running) -> Ready {
    let (gateway, stores) = (running.gateway.clone(), running.stores.clone());
    let has_media = running.backend.as_ref().map(SipBackend::has_media);
    let drain = running.drain.subscribe();
    Arc::new(move || {
        let draining = match *drain.borrow() {
            Drain::Off => None,
            Drain::Asked => Some("draining: it has been asked to take no new calls"),
            Drain::Stopping => Some("draining: it has been asked to stop"),
        };
        if let Some(draining) = draining {
            return Err(draining.to_owned());
        }
        if let Some(has_media) = &has_media {
            has_media().map_err(|missing| missing.to_string())?;
        }
        let missing = match &gateway {
            Some(_) | None if !stores.iter().all(|store| store.is_writable()) => {
                "the state can not be written"
            }
            Some(gateway) if !gateway.is_ready() => "the telephony backend can not be reached",
            Some(gateway) if !gateway.is_audited() => "the audit can not be written",
            Some(_) | None => return Ok(()),
        };
        Err(missing.to_owned())
    })
}
