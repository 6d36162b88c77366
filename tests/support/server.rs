//! The whole product in this process, on free ports, with the sample's people.

use super::certificates::Certificates;
use super::rest_client::{RestClient, http_client};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use undertone::app::{self, Running, ServerRole};
use undertone::config;
use undertone::http::auth::hash_password_cheaply;
use undertone::sip::flow::Protocol;

/// A device and its SIP password, which is also its user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Account {
    pub device: &'static str,
    pub number: &'static str,
    pub user: &'static str,
    pub password: &'static str,
}

pub const SUPERVISOR: Account = Account {
    device: "efelab32-53f9-43ce-b65e-5768c61f7d4a",
    number: "5005",
    user: "supervisor",
    password: "supervisor-secret",
};
pub const AGENT: Account = Account {
    device: "9c14cad7-17c4-48d0-8492-7cf0ff92c224",
    number: "5001",
    user: "agent",
    password: "agent-secret",
};
/// Another agent of the same group.
pub const COLLEAGUE: Account = Account {
    device: "1f0c7f4e-6a57-4a0b-8d3e-3b0f3a3c5e02",
    number: "5002",
    user: "colleague",
    password: "colleague-secret",
};
pub const CUSTOMER: Account = Account {
    device: "b6f0c1de-3c0b-4f6e-9a57-0d2f8f1e64c3",
    number: "7001",
    user: "",
    password: "customer-secret",
};
/// A supervisor of another group.
pub const FOREIGN: Account = Account {
    device: "0770abcd-0000-4000-8000-000000005007",
    number: "5007",
    user: "foreign",
    password: "foreign-secret",
};
/// A user of no group, where [`bystander`] is in the configuration.
pub const BYSTANDER: Account = Account {
    device: "0b75a3de-41c2-4d1b-9a3e-6f0e6c1d5009",
    number: "5009",
    user: "bystander",
    password: "bystander-secret",
};

const SOON: Duration = Duration::from_secs(20);

/// A running product.
pub struct Server {
    pub rest: SocketAddr,
    pub sip: SocketAddr,
    /// SIP over TLS, and the file of the authority that vouches for it.
    pub sip_tls: Option<(SocketAddr, PathBuf)>,
    pub running: Running,
    http: reqwest::Client,
    /// REST is behind TLS.
    is_sealed: bool,
    state: TempDir,
}

impl Server {
    pub async fn start() -> Server {
        Server::configured("").await
    }

    /// With more TOML in front of the directory.
    pub async fn configured(more: &str) -> Server {
        Server::described(|state| describe(state, more)).await
    }

    /// With `srtp` of the devices of these accounts.
    pub async fn with_srtp(accounts: &[Account], srtp: &str) -> Server {
        Server::described(|state| {
            let mut text = describe(state, "");
            for account in accounts {
                let number = format!("number = '{}'\n", account.number);
                let srtp = format!("srtp = '{srtp}'\nsrtp_over_clear = true\n");
                text = text.replace(&number, &format!("{number}{srtp}"));
            }
            text
        })
        .await
    }

    /// With SIP over TLS and SRTP, and nothing else, for the devices of these accounts.
    pub async fn with_tls(accounts: &[Account], certificates: &Certificates) -> Server {
        Server::sealed(accounts, certificates, &["sip"]).await
    }

    /// The same, and with REST over TLS.
    pub async fn with_tls_everywhere(accounts: &[Account], certificates: &Certificates) -> Server {
        let mut server = Server::sealed(accounts, certificates, &["sip", "rest"]).await;
        server.http = certificates.http_client();
        server.is_sealed = true;
        server
    }

    async fn sealed(accounts: &[Account], certificates: &Certificates, doors: &[&str]) -> Server {
        let pair = certificates.server();
        let mut server = Server::described(|state| {
            let mut text = describe(state, "");
            for account in accounts {
                let number = format!("number = '{}'\n", account.number);
                let keys = "transport = 'tls'\nsrtp = 'required'\n";
                text = text.replace(&number, &format!("{number}{keys}"));
            }
            text = text.replace("'tcp:127.0.0.1:0'", "'tcp:127.0.0.1:0', 'tls:127.0.0.1:0'");
            let (certificate, key) = (pair.certificate.display(), pair.key.display());
            text += "[tls]\n";
            for door in doors {
                text += &format!("{door}_certificate = '{certificate}'\n{door}_key = '{key}'\n");
            }
            text
        })
        .await;
        let address = server.running.sip(Protocol::Tls).unwrap();
        server.sip_tls = Some((address, certificates.authority_file()));
        server
    }

    async fn described(describe: impl FnOnce(&Path) -> String) -> Server {
        let state = tempfile::tempdir().unwrap();
        let text = describe(state.path());
        let mut config = config::parse(Some((Path::new("test.toml"), &text)), []).unwrap();
        config.media.ports = None;
        let running = app::start(config, ServerRole::Serve, None).await.unwrap();
        Server {
            rest: running.rest().unwrap(),
            sip: running.sip(Protocol::Udp).unwrap(),
            sip_tls: None,
            running,
            http: http_client(),
            is_sealed: false,
            state,
        }
    }

    /// The file with the token of a gateway on this machine.
    pub fn token_file(&self) -> PathBuf {
        self.state.path().join("grpc-token")
    }

    /// The lines of the audit.
    pub fn audit(&self) -> Vec<Value> {
        let text =
            std::fs::read_to_string(self.state.path().join("audit.jsonl")).unwrap_or_default();
        // The last line may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        let lines = whole.lines().map(|line| serde_json::from_str(line).unwrap());
        lines.filter(|line: &Value| line["event"] != "checkpoint").collect()
    }

    /// Waits until the device's phone has registered.
    pub async fn registered(&self, account: Account) {
        let facts = self.running.backend().unwrap().facts().clone();
        let mut watcher = facts.watch();
        let registered = async {
            while !facts.device(&account.device.into()).is_some_and(|device| device.registered) {
                watcher.next().await;
            }
        };
        tokio::time::timeout(SOON, registered)
            .await
            .unwrap_or_else(|_| panic!("{} registers in time", account.number));
    }

    /// The user's HTTP client.
    pub fn client(&self, account: Account) -> RestClient {
        let scheme = if self.is_sealed { "https" } else { "http" };
        let base = format!("{scheme}://{}/api/v2", self.rest);
        RestClient::with(self.http.clone(), base, account.user, account.password)
    }

    /// Posts an operation and expects statusCode 0.
    pub async fn post(&self, account: Account, path: &str, body: Value) {
        self.client(account).post(path, body).await;
    }

    /// The Coach request of the sample, with more in it.
    pub async fn coach(&self, more: Value) {
        let mut body = json!({
            "operationName": "Coach",
            "targetDeviceUri": format!("http://localhost:8080/api/v2/devices/{}", AGENT.device),
        });
        for (key, value) in more.as_object().unwrap() {
            body[key] = value.clone();
        }
        self.post(SUPERVISOR, &format!("/me/devices/{}", SUPERVISOR.device), body).await;
    }
}

/// The configuration of a server with this state, with more TOML in front of the directory.
pub fn describe(state: &Path, more: &str) -> String {
    let doors = "[rest]\nbind = '127.0.0.1:0'\n[grpc]\nbind = '127.0.0.1:0'\n[admin]\n\
                 bind = '127.0.0.1:0'\n\
                 [sip]\nlisten = ['udp:127.0.0.1:0', 'tcp:127.0.0.1:0']\ngrace = 0\n";
    format!("state_dir = '{}'\n{doors}{more}\n{}", state.display(), directory())
}

/// The sample's people, with the passwords above, as TOML.
pub fn directory() -> String {
    let people = [
        device(SUPERVISOR, "house"),
        device(AGENT, "house"),
        device(COLLEAGUE, "house"),
        device(CUSTOMER, "customer"),
        user(SUPERVISOR, "Supervisor"),
        user(AGENT, "Agent"),
        user(COLLEAGUE, "Agent"),
    ];
    format!(
        "{}[[voice_environment]]\nid = '370ef5e6-9e3c-4d91-9588-7f4dfe67e011'\nname = 'Undertone'\n\
         [[group]]\nid = 'sample'\nagents = ['agent', 'colleague']\nsupervisors = ['supervisor']\n",
        people.concat()
    )
}

/// A device and its user, who is in no group.
pub fn bystander() -> String {
    device(BYSTANDER, "house") + &user(BYSTANDER, "Agent")
}

/// A device as TOML.
pub fn device(account: Account, kind: &str) -> String {
    format!(
        "[[device]]\nid = '{}'\nnumber = '{}'\nkind = '{kind}'\npassword = '{}'\n",
        account.device, account.number, account.password
    )
}

/// A user as TOML; keys may follow.
pub fn user(account: Account, role: &str) -> String {
    let hash = hash_password_cheaply(account.password).unwrap();
    format!(
        "[[user]]\nid = '{0}'\ndisplay_name = '{0}'\nroles = ['{role}']\ndevices = ['{1}']\n\
         password_hash = '{hash}'\n",
        account.user, account.device
    )
}
