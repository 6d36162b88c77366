//! REST and the event channel in front of a simulated backend, on a real socket.

use super::certificates::Certificates;
use super::rest_client::{RestClient, http_client, read};
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use undertone::app;
use undertone::audit::{AuditConfig, AuditLog};
use undertone::cometd;
use undertone::cometd::long_polling::Cometd;
use undertone::gateway::task::GatewayHandle;
use undertone::gateway::{self, DeviceEntry, Directory, Group, User, VoiceEnvironment};
use undertone::http::auth::{self, Auth};
use undertone::http::identity::{Identities, IdentityConfig, IssuerConfig};
use undertone::http::server::{ConnectionLimits, Door};
use undertone::http::{self, connection as http_connection};
use undertone::model::{Feature, GroupId, Role, UserId};
use undertone::store::{self, Store};
use undertone::telephony::TelephonyService;
use undertone::telephony::connection;
use undertone::telephony::proto::telephony_server::TelephonyServer;
use undertone::telephony::simulated::{self, Simulated, Telephone};
use undertone::tls::Alpn;

/// The supervisor's device of the Coach page.
pub(crate) const MEG_PHONE: &str = "efelab32-53f9-43ce-b65e-5768c61f7d4a";
/// The agent's device of the Coach page.
pub(crate) const BOB_PHONE: &str = "9c14cad7-17c4-48d0-8492-7cf0ff92c224";
/// An agent of another group.
pub(crate) const EVE_PHONE: &str = "e5e5e5e5-0000-4000-8000-000000005002";
/// A supervisor of another group.
pub(crate) const OTTO_PHONE: &str = "0770abcd-0000-4000-8000-000000005006";
/// A second supervisor of bob's group.
pub(crate) const KIM_PHONE: &str = "00c1c1c1-0000-4000-8000-000000005007";
/// Everybody's voice environment.
pub(crate) const ENVIRONMENT: &str = "370ef5e6-9e3c-4d91-9588-7f4dfe67e011";
/// The contact centre.
pub(crate) const CONTACT_CENTER: &str = "c0ffee00-0000-4000-8000-000000000001";
/// Everybody's password.
pub(crate) const PASSWORD: &str = "correct horse";

/// Longer than anything takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// What a test may change.
#[derive(Default)]
pub(crate) struct ServerOptions {
    /// The doors.
    pub(crate) http: http::HttpConfig,
    /// The gateway.
    pub(crate) gateway: gateway::GatewayConfig,
    /// The event channel.
    pub(crate) bayeux: cometd::CometdConfig,
    /// The login.
    pub(crate) auth: auth::AuthConfig,
    /// What holds for issuers of tokens.
    pub(crate) identity: IdentityConfig,
    /// The issuers whose tokens are believed.
    pub(crate) issuers: Vec<IssuerConfig>,
    /// Where the event channel keeps what must survive it; left out: nowhere.
    pub(crate) store: Option<Store>,
    /// TLS, and the authority of its certificate.
    pub(crate) tls: Option<Arc<Certificates>>,
    /// What serves the contract; left out: the simulated telephones.
    pub(crate) backend: Option<TelephonyServer<TelephonyService>>,
    /// Agents `crowd0`, `crowd1`, … with devices of the same names.
    pub(crate) crowd: usize,
}

/// A gateway with its HTTP server, and the simulated backend behind it.
pub(crate) struct GatewayServer {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// What happens at the telephones.
    pub(crate) phones: Simulated,
    /// The event channel.
    pub(crate) bayeux: Cometd,
    gateway: GatewayHandle,
    client: Client,
    scheme: &'static str,
    folder: TempDir,
    stop: watch::Sender<bool>,
    door: JoinHandle<()>,
}

impl GatewayServer {
    /// Opens the doors.
    pub(crate) async fn open(options: ServerOptions) -> Self {
        let telephones = [
            (MEG_PHONE, "5005"),
            (BOB_PHONE, "5001"),
            (EVE_PHONE, "5002"),
            (OTTO_PHONE, "5006"),
            (KIM_PHONE, "5007"),
        ];
        let crowd = (0..options.crowd)
            .map(|number| Telephone::new(&format!("crowd{number}"), &format!("9{number:05}")));
        let telephones = telephones.map(|(id, number)| Telephone::new(id, number));
        let (server, phones) = simulated::start(simulated::SimulatedConfig {
            devices: telephones.into_iter().chain(crowd).collect(),
            ..simulated::SimulatedConfig::default()
        });
        let folder = tempfile::tempdir().expect("a folder");
        let audit = AuditLog::open(&AuditConfig::of(&folder.path().join("audit.jsonl")))
            .expect("an audit file");
        let server = options.backend.unwrap_or(server);
        let line = connection::line(connection::in_process(server));
        let gateway = GatewayHandle::start(
            options.gateway,
            directory(options.crowd),
            line,
            audit,
            store::in_memory(),
        )
        .expect("a gateway");
        let mut ready = gateway.readiness();
        tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready))
            .await
            .expect("in time")
            .expect("a gateway");

        let directory = gateway.directory();
        let accounts = directory.users.keys().map(|user| (user.clone(), password_hash().into()));
        let auth = Auth::new(options.auth, accounts.collect()).expect("password hashes");
        if !options.issuers.is_empty() {
            let users = Arc::new(app::GatewayUsers::new(gateway.clone()));
            let identities = Identities::new(&options.identity, &options.issuers, users);
            auth.believe(identities.expect("issuers"));
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let kept = options.store.unwrap_or_else(store::in_memory);
        let bayeux = Cometd::start(&options.http, options.bayeux, gateway.clone(), kept)
            .expect("an event channel");
        let (router, fast_path) = {
            // The directory of this server is fixed.
            let (directory, _) = undertone::directory::handle::DirectoryHandle::channel();
            app::router(&options.http, auth, gateway.clone(), bayeux.clone(), directory)
        };
        let address = listener.local_addr().expect("an address");
        let (stop, mut stopped) = watch::channel(false);
        let stopping = async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        let (client, tls) = match &options.tls {
            Some(certificates) => (certificates.http_client(), Some(certificates.door(Alpn::Http))),
            None => (http_client(), None),
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let limits = ConnectionLimits::default();
        let door = Door { listener, limits, tls };
        let door = tokio::spawn(http_connection::serve_at(door, router, fast_path, stopping));
        Self { stop, door, address, scheme, phones, bayeux, gateway, client, folder }
    }

    /// Goes down as the product does: says so to every client, writes everything, closes the door.
    pub(crate) async fn close(self) {
        self.bayeux.drain().await;
        self.stop.send_replace(true);
        drop(self.bayeux);
        tokio::time::timeout(PATIENCE, self.door).await.expect("in time").expect("a door");
    }

    /// The lines of the audit.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let text =
            std::fs::read_to_string(self.folder.path().join("audit.jsonl")).expect("an audit file");
        let lines =
            text.lines().map(|line| serde_json::from_str(line).expect("one JSON object per line"));
        lines.filter(|line: &Value| line["event"] != "checkpoint").collect()
    }

    /// The user is no more.
    pub(crate) async fn remove_user(&self, user: &str) {
        let mut directory = Directory::clone(&self.gateway.directory());
        directory.users.remove(user);
        self.gateway.change_directory(directory).await;
    }

    /// Under the door's own address.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// A user's HTTP client, by password; its paths are whole.
    pub(crate) fn client(&self, user: &str) -> RestClient {
        RestClient::with(self.client.clone(), self.url(""), user, PASSWORD)
    }

    /// GET by password.
    pub(crate) async fn get(&self, user: &str, path: &str) -> (StatusCode, Value) {
        read(self.client(user).getting(path)).await
    }

    /// POST by password.
    pub(crate) async fn post(&self, user: &str, path: &str, body: &Value) -> (StatusCode, Value) {
        read(self.client(user).posting(path, body)).await
    }

    /// A POST to be completed.
    pub(crate) fn posting(&self, path: &str) -> RequestBuilder {
        self.client.post(self.url(path))
    }

    /// A GET to be completed.
    pub(crate) fn getting(&self, path: &str) -> RequestBuilder {
        self.client.get(self.url(path))
    }

    /// Another HTTP client, which keeps cookies as a browser does.
    pub(crate) fn browser(&self) -> Client {
        crate::support::rest_client::client_builder()
            .no_proxy()
            .cookie_store(true)
            .timeout(PATIENCE)
            .build()
            .expect("a client")
    }
}

fn password_hash() -> &'static str {
    static HASH: OnceLock<String> = OnceLock::new();
    HASH.get_or_init(|| auth::hash_password_cheaply(PASSWORD).expect("a hash"))
}

fn directory(crowd: usize) -> Directory {
    let user = |id: &str, role, device: &str| User {
        id: id.into(),
        display_name: id.to_uppercase(),
        first_name: id.to_uppercase(),
        last_name: String::new(),
        email: String::new(),
        roles: BTreeSet::from([role]),
        features: BTreeSet::from([Feature::Voice, Feature::SupervisorMonitoring]),
        devices: vec![device.into()],
    };
    let crowd: Vec<String> = (0..crowd).map(|number| format!("crowd{number}")).collect();
    let users = [
        user("meg", Role::Supervisor, MEG_PHONE),
        user("kim", Role::Supervisor, KIM_PHONE),
        user("bob", Role::Agent, BOB_PHONE),
        user("eve", Role::Agent, EVE_PHONE),
        user("otto", Role::Supervisor, OTTO_PHONE),
    ];
    let users = users.into_iter().chain(crowd.iter().map(|name| user(name, Role::Agent, name)));
    let device = |id: &str, number: &str| DeviceEntry {
        id: id.into(),
        number: number.into(),
        voice_environment: ENVIRONMENT.to_owned(),
    };
    let devices = [
        device(MEG_PHONE, "5005"),
        device(KIM_PHONE, "5007"),
        device(BOB_PHONE, "5001"),
        device(EVE_PHONE, "5002"),
        device(OTTO_PHONE, "5006"),
    ];
    let crowd = crowd.iter().enumerate();
    let devices = devices
        .into_iter()
        .chain(crowd.map(|(number, name)| device(name, &format!("9{number:05}"))));
    let group = |id: &str, agents: &[&str], supervisors: &[&str]| Group {
        id: GroupId::from(id),
        agents: agents.iter().map(|user| UserId::from(*user)).collect(),
        supervisors: supervisors.iter().map(|user| UserId::from(*user)).collect(),
        monitor_supervisors: false,
        agent_side_only: false,
    };
    let groups = [group("sales", &["bob"], &["meg", "kim"]), group("support", &["eve"], &["otto"])];
    let environment = VoiceEnvironment { id: ENVIRONMENT.to_owned(), name: "House".to_owned() };
    Directory {
        users: users.map(|user| (user.id.clone(), user.into())).collect(),
        devices: devices.map(|device| (device.id.clone(), device.into())).collect(),
        groups: groups.into_iter().map(|group| (group.id.clone(), group.into())).collect(),
        voice_environments: BTreeMap::from([(environment.id.clone(), environment)]),
        contact_center: CONTACT_CENTER.to_owned(),
    }
}
