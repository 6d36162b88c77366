//! The assembly: opens what a process needs, joins the rooms, and takes them down in order. Decides nothing.
//!
//! ```text
//!              ┌ rest, CometD ─┐
//!  Gateway  =  │ gRPC          ├─▶ Desk ══ line ══▶ a backend: in this process (Serve), or elsewhere
//!              └ admin ────────┘
//!  Backend  =    gRPC, admin ─────▶ SIP
//! ```

use crate::audit::{AuditError, AuditLog};
use crate::cometd::long_polling::{self, Cometd};
use crate::config::{Config, CredentialsError, Made};
use crate::gateway::task::GatewayHandle;
use crate::grpc;
use crate::http::auth::{Auth, PasswordError};
use crate::http::fast_path::FastPath;
use crate::http::forwarded::Proxies;
use crate::http::server::{self, ConnectionLimits};
use crate::http::{HttpConfig, connection, layers};
use crate::rest;
use crate::sip::backend::{self, SipBackend};
use crate::sip::flow::Protocol;
use crate::store::{self, Store, StoreError};
use crate::telemetry::{self, Measure, Metrics, Ready};
use crate::telephony::{self, proto::telephony_server::TelephonyServer};
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

/// How long answers under way may take once the doors close.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
/// File descriptors of a coached call: RTP and RTCP of three legs.
const DESCRIPTORS_PER_CALL: u64 = 6;
/// No door takes more than this part of the file descriptors.
const SHARE_OF_A_DOOR: u64 = 2;
/// File descriptors of everything else: doors, phones and desktops over TCP, files.
const OTHER_DESCRIPTORS: u64 = 512;
/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerRole {
    /// Gateway and SIP backend.
    Serve,
    /// The gateway; its backend is at [`Config::backend_url`].
    Gateway,
    /// The SIP backend.
    SipBackend,
}

/// Why a process could not start: each is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port in use, an address that is not ours.
    #[error("{what} can not listen on {address}: {error}")]
    Bind {
        /// Which door.
        what: &'static str,
        /// Where.
        address: SocketAddr,
        /// Why not.
        error: io::Error,
    },
    /// The state file.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The audit file, without which nobody may listen.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// Passwords.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// A password hash.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The SIP side.
    #[error(transparent)]
    Sip(#[from] backend::BackendStartError),
    /// The backend's address.
    #[error("backend_url '{url}': {error}")]
    BackendUrl {
        /// As configured.
        url: String,
        /// What is wrong with it.
        error: tonic::transport::Error,
    },
    /// The process can not be told to stop.
    #[error("signals: {0}")]
    Signals(io::Error),
}

/// A running process, or half of one. Dropped, it ends at once.
pub struct Running {
    rest: Option<SocketAddr>,
    grpc: SocketAddr,
    admin: SocketAddr,
    desk: Option<GatewayHandle>,
    bayeux: Option<Cometd>,
    backend: Option<SipBackend>,
    stores: Vec<Store>,
    introduction: Option<String>,
    stop: watch::Sender<bool>,
    doors: Vec<JoinHandle<()>>,
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

    /// The gateway.
    pub fn desk(&self) -> Option<&GatewayHandle> {
        self.desk.as_ref()
    }

    /// The SIP backend.
    pub fn backend(&self) -> Option<&SipBackend> {
        self.backend.as_ref()
    }

    /// What a newcomer must be told once: the passwords that were made now.
    pub fn introduction(&self) -> Option<&str> {
        self.introduction.as_deref()
    }

    /// One line per open door.
    pub fn doors(&self) -> Vec<String> {
        let rest = self.rest.map(|address| format!("REST and CometD on http://{address}/api/v2"));
        let sip = self.backend.iter().flat_map(SipBackend::local_addrs);
        let sip = sip.map(|(protocol, address)| format!("SIP on {} {address}", protocol.as_str()));
        let rest_of = [
            format!("gRPC on {}", self.grpc),
            format!("health and metrics on http://{}", self.admin),
        ];
        rest.into_iter().chain(sip).chain(rest_of).collect()
    }

    /// Stops in order: no new requests, answers under way, live calls and their grace, the doors.
    pub async fn stop(mut self) {
        if let Some(bayeux) = &self.bayeux {
            bayeux.drain().await;
        }
        if let Some(desk) = &self.desk {
            desk.leave();
        }
        self.stop.send_replace(true);
        if let Some(backend) = self.backend.take() {
            backend.shutdown().await;
        }
        for door in std::mem::take(&mut self.doors) {
            let abort = door.abort_handle();
            if tokio::time::timeout(LAST_ANSWERS, door).await.is_err() {
                abort.abort();
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.doors.iter().for_each(JoinHandle::abort);
    }
}

/// Starts a process on the current tokio runtime. Everything that can fail does so here.
///
/// # Errors
/// One clear line.
pub async fn start(mut config: Config, part: ServerRole, metrics: Option<Metrics>) -> Result<Running, StartError> {
    let rest = match part {
        ServerRole::Serve | ServerRole::Gateway => Some(bind("REST", config.rest_bind).await?),
        ServerRole::SipBackend => None,
    };
    let (grpc_bind, admin_bind) = match part {
        ServerRole::Serve | ServerRole::Gateway => (config.grpc_bind, config.admin_bind),
        ServerRole::SipBackend => (config.backend_grpc_bind, config.backend_admin_bind),
    };
    let (grpc_door, grpc) = bind("gRPC", grpc_bind).await?;
    let (admin_door, admin) = bind("admin", admin_bind).await?;
    // Unless it was said what clients know us by.
    if let Some((_, address)) = &rest
        && config.front.public_url == format!("http://{}", config.rest_bind)
    {
        config.front.public_url = format!("http://{address}");
    }
    let (stop, stopped) = watch::channel(false);
    let mut running = Running {
        rest: rest.as_ref().map(|(_, address)| *address),
        grpc,
        admin,
        desk: None,
        bayeux: None,
        backend: None,
        stores: Vec::new(),
        introduction: None,
        stop,
        doors: Vec::new(),
    };
    let (mut rest_made, mut sip_made) = (Vec::new(), Vec::new());
    let backend_server = match part {
        ServerRole::Serve | ServerRole::SipBackend => Some(start_backend(&config, &mut running, &mut sip_made).await?),
        ServerRole::Gateway => None,
    };
    let (server, serving) = match (rest, backend_server) {
        (Some((door, _)), backend) => {
            let channel = match backend {
                Some(server) => telephony::connection::in_process(server),
                None => telephony::connection::remote(&config.backend_url).map_err(|error| StartError::BackendUrl {
                    url: config.backend_url.clone(),
                    error,
                })?,
            };
            let (desk, router, fast_path) = start_gateway(&config, channel, &mut running, &mut rest_made).await?;
            let serving = connection::serve_within(
                within_descriptors(&config.doors.rest),
                door,
                router,
                fast_path,
                until(stopped.clone()),
            );
            running.doors.push(tokio::spawn(serving));
            let serving = desk.readiness();
            (grpc::serve(desk), serving)
        }
        (None, Some(server)) => (server, running.backend.as_ref().map_or_else(never, SipBackend::running)),
        (None, None) => unreachable!("a process without REST has a backend"),
    };
    let contract = telephony::routes(server, serving, config.grpc_reflection).await;
    let admin = telemetry::admin(metrics, readiness(&running), measures(&running));
    for (door, router, limits) in [(grpc_door, contract, &config.doors.grpc), (admin_door, admin, &config.doors.admin)] {
        let serving = server::serve(door, router, within_descriptors(limits), until(stopped.clone()));
        running.doors.push(tokio::spawn(serving));
    }
    running.introduction = config.introduction(&rest_made, &sip_made);
    Ok(running)
}

/// Runs a process until it is asked to stop (SIGTERM, SIGINT).
///
/// # Errors
/// It can not start.
pub async fn run(config: Config, part: ServerRole, metrics: Option<Metrics>, started: impl FnOnce(&Running)) -> Result<(), StartError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;
    raise_file_limit(&config, part);
    let running = start(config, part, metrics).await?;
    for door in running.doors() {
        tracing::info!("{door}");
    }
    started(&running);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
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

/// Takes as many file descriptors as it may have, and says so when they are too few for the calls it may have.
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
        ServerRole::Gateway => 0,
    };
    let wanted = max_calls as u64 * DESCRIPTORS_PER_CALL + OTHER_DESCRIPTORS;
    if limit < wanted {
        tracing::warn!(
            limit,
            wanted,
            max_calls,
            "the limit of open files is too low for sip.max_calls: calls beyond it will be refused; raise `ulimit -n` or LimitNOFILE"
        );
    }
}

async fn start_backend(
    config: &Config,
    running: &mut Running,
    made: &mut Vec<Made>,
) -> Result<TelephonyServer<telephony::TelephonyService>, StartError> {
    let store = store::open(&config.state_file("sip-backend"))?;
    let (sip, new) = config.sip_with_credentials(&store)?;
    made.extend(new);
    let rooms = backend::BackendConfig {
        sip,
        b2bua: config.b2bua.clone(),
        media: config.media.clone(),
    };
    let (server, backend) = backend::start(rooms, store.clone()).await?;
    running.stores.push(store);
    running.backend = Some(backend);
    Ok(server)
}

async fn start_gateway(
    config: &Config,
    channel: tonic::transport::Channel,
    running: &mut Running,
    made: &mut Vec<Made>,
) -> Result<(GatewayHandle, Router, Option<FastPath<Cometd>>), StartError> {
    let store: Store = store::open(&config.state_file("gateway"))?;
    let audit = AuditLog::open(&config.audit_file)?;
    let (accounts, new) = config.rest_credentials(&store)?;
    made.extend(new);
    let auth = Auth::new(config.login.clone(), accounts)?;
    let line = telephony::connection::line(channel);
    let desk = GatewayHandle::start(config.gateway.clone(), config.directory.clone(), line, audit, store.clone())?;
    let bayeux = Cometd::start(&config.front, config.bayeux.clone(), desk.clone(), store.clone())?;
    running.stores.push(store);
    running.desk = Some(desk.clone());
    running.bayeux = Some(bayeux.clone());
    let (router, fast_path) = router(&config.front, auth, desk.clone(), bayeux);
    Ok((desk, router, fast_path))
}

/// REST and CometD behind their layers, and the fast path of polls, unless each request needs a token
/// of its page. Serve both with [`connection::serve`].
pub fn router(config: &HttpConfig, auth: Auth, gateway: GatewayHandle, cometd: Cometd) -> (Router, Option<FastPath<Cometd>>) {
    let fast_path = (!config.csrf).then(|| FastPath::new(auth.clone(), cometd.clone(), Proxies::new(&config.trusted_proxies)));
    let routes = rest::router(config, gateway).merge(long_polling::router(cometd));
    (layers::layered(config, auth, routes, long_polling::is_endpoint), fast_path)
}

async fn bind(what: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listener = TcpListener::bind(address).await;
    let bound = listener.and_then(|listener| listener.local_addr().map(|address| (listener, address)));
    bound.map_err(|error| StartError::Bind { what, address, error })
}

/// The limits of a door, as far as the process has file descriptors for them: calls need some, too.
fn within_descriptors(limits: &ConnectionLimits) -> ConnectionLimits {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(u64::MAX, |(soft, _)| soft);
    let most = usize::try_from(descriptors / SHARE_OF_A_DOOR).unwrap_or(usize::MAX);
    ConnectionLimits {
        connections: limits.connections.min(most),
        ..limits.clone()
    }
}

/// What is not there does not serve.
fn never() -> watch::Receiver<bool> {
    watch::Sender::new(false).subscribe()
}

async fn until(mut stopped: watch::Receiver<bool>) {
    // A dropped handle stops too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
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
    let (desk, stores) = (running.desk.clone(), running.stores.clone());
    let has_media = running.backend.as_ref().map(SipBackend::has_media);
    Arc::new(move || match &desk {
        _ if has_media.as_ref().is_some_and(|has_media| !has_media()) => Err("a media worker has stopped"),
        Some(_) | None if !stores.iter().all(|store| store.is_writable()) => Err("the state can not be written"),
        Some(desk) if !desk.is_ready() => Err("the telephony backend can not be reached"),
        Some(desk) if !desk.is_audited() => Err("the audit can not be written"),
        Some(_) | None => Ok(()),
    })
}
