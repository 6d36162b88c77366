//! Each request of REST by each kind of user: allowed or refused as `docs/permissions.md` says. The
//! requests are those of the OpenAPI document, with its examples, so that none can be forgotten.

use crate::support::rest_client::{RestClient, http_client};
use crate::support::server::{
    AGENT, Account, COLLEAGUE, CUSTOMER, FOREIGN, SUPERVISOR, device, directory, user,
};
use crate::support::talk::PATIENCE;
use crate::support::wait;
use reqwest::{Client, Method};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use undertone::app::{self, Running, ServerRole};
use undertone::config;
use undertone::model::Operation;

const ADMIN: Account = Account {
    device: "adadadad-0000-4000-8000-000000005010",
    number: "5010",
    user: "admin",
    password: "admin-secret",
};
/// Who asks: nobody, and the columns of the table after it.
const ASKING: [Option<Account>; 5] =
    [None, Some(COLLEAGUE), Some(FOREIGN), Some(SUPERVISOR), Some(ADMIN)];

const DOCUMENT: &str = "docs/permissions.md";
const HEADER: &str = "| request | operations | of | nobody | agent | supervisor of another group | \
                      supervisor | admin |\n|---|---|---|---|---|---|---|---|\n";

/// Whose device, call, user or group the path of a request names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Whose {
    /// It names nothing that is somebody's.
    Nobodys,
    /// That of the user who asks.
    Own,
    /// The agent's of the group that the supervisor supervises.
    Agents,
}

impl Whose {
    fn word(self) -> &'static str {
        match self {
            Self::Nobodys => "",
            Self::Own => "own",
            Self::Agents => "the agent's",
        }
    }
}

/// A request of the document.
#[derive(Clone, Debug)]
struct Asked {
    method: Method,
    path: String,
    operation: Option<String>,
    body: Option<Value>,
}

/// The gateway over simulated telephones: the agent is on a call.
struct Fixture {
    running: Running,
    http: Client,
    _place: TempDir,
}

impl Fixture {
    async fn open() -> Self {
        let place = tempfile::tempdir().unwrap();
        let doors = "[rest]\nbind = '127.0.0.1:0'\n[grpc]\nbind = '127.0.0.1:0'\n[admin]\n\
                     bind = '127.0.0.1:0'\n[audit]\nrefused_per_user = 10000\n\
                     refused_per_address = 10000\n";
        let others = [
            device(FOREIGN, "house"),
            device(ADMIN, "house"),
            user(FOREIGN, "Supervisor"),
            user(ADMIN, "Admin"),
            "[[group]]\nid = 'other'\nsupervisors = ['foreign']\n".to_owned(),
        ];
        let state = place.path().display();
        let text = format!("state_dir = '{state}'\n{doors}{}{}", directory(), others.concat());
        let config = config::parse(Some((Path::new("test.toml"), &text)), []).unwrap();
        let running = app::start(config, ServerRole::SimulatedGateway, None).await.unwrap();
        let fixture = Self { running, http: http_client(), _place: place };
        fixture.call_of(AGENT).await;
        fixture
    }

    fn base(&self) -> String {
        format!("http://{}/api/v2", self.running.rest().unwrap())
    }

    fn client(&self, account: Account) -> RestClient {
        RestClient::with(self.http.clone(), self.base(), account.user, account.password)
    }

    /// The call of the account's device; there is one from now on.
    async fn call_of(&self, account: Account) -> String {
        let client = self.client(account);
        let calls = async || {
            let calls = client.get("/me/calls?fields=*").await;
            calls["calls"][0]["id"].as_str().map(str::to_owned)
        };
        if let Some(call) = calls().await {
            return call;
        }
        let dial =
            json!({"operationName": "Dial", "destination": {"phoneNumber": CUSTOMER.number}});
        client.post(&format!("/me/devices/{}/calls", account.device), dial).await;
        wait::found(PATIENCE, calls).await.expect("a call")
    }

    /// The requests of the document.
    async fn requests(&self) -> Vec<Asked> {
        let document = self.client(ADMIN).look("/openapi.json").await;
        let mut requests = Vec::new();
        for (path, item) in document["paths"].as_object().expect("paths") {
            for (method, described) in item.as_object().expect("methods") {
                let Ok(method) = method.to_uppercase().parse::<Method>() else { continue };
                let content = &described["requestBody"]["content"]["application/json"];
                let asked = Asked {
                    method,
                    path: path.replace("/api/v2", ""),
                    operation: None,
                    body: content.is_object().then(|| json!({})),
                };
                match content["examples"].as_object() {
                    Some(examples) => requests.extend(examples.iter().map(|(name, example)| {
                        let body = Some(example["value"].clone());
                        Asked { operation: Some(name.clone()), body, ..asked.clone() }
                    })),
                    None => requests.push(asked),
                }
            }
        }
        requests
    }

    /// The path of a request, with names for its parameters.
    async fn path(&self, asked: &Asked, whose: Whose, asking: Option<Account>) -> String {
        let account = match whose {
            Whose::Own => asking.unwrap_or(COLLEAGUE),
            Whose::Nobodys | Whose::Agents => AGENT,
        };
        let id = match asked.path.split('/').take_while(|part| *part != "{id}").last() {
            Some("devices") => account.device.to_owned(),
            Some("calls") => self.call_of(account).await,
            Some("users" | "contacts") => account.user.to_owned(),
            Some("groups") if account == FOREIGN => "other".to_owned(),
            Some("groups") => "sample".to_owned(),
            Some("features") => "api-voice".to_owned(),
            Some("voice-environments") => "370ef5e6-9e3c-4d91-9588-7f4dfe67e011".to_owned(),
            _ => String::new(),
        };
        asked.path.replace("{id}", &id).replace("{group}", "voice")
    }

    /// `login`, `yes`, or the statusCode of the refusal.
    async fn outcome(&self, asked: &Asked, whose: Whose, asking: Option<Account>) -> String {
        let path = self.path(asked, whose, asking).await;
        let mut request = self.http.request(asked.method.clone(), format!("{}{path}", self.base()));
        if let Some(account) = asking {
            request = request.basic_auth(account.user, Some(account.password));
        }
        if let Some(body) = &asked.body {
            request = request.json(body);
        }
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        let text = response.text().await.expect("an answer");
        let code = serde_json::from_str::<Value>(&text).ok();
        let code = code.and_then(|body| body["statusCode"].as_u64());
        match (status, code) {
            (_, Some(20)) => "login".to_owned(),
            (_, Some(code @ (5 | 6))) => code.to_string(),
            // Refused for what the user asks for, or because of the state, not for who the user is.
            (_, Some(0..=3 | 10 | 19)) | (200, None) => "yes".to_owned(),
            _ => panic!("{asked:?} of {asking:?} at {path}: {status} {text}"),
        }
    }
}

/// Whose things a path may name.
fn whose(path: &str) -> &'static [Whose] {
    let is_somebodys = ["devices/{id}", "calls/{id}", "users/{id}", "groups/{id}", "contacts/{id}"];
    match is_somebodys.iter().any(|part| path.contains(part)) {
        true => &[Whose::Own, Whose::Agents],
        false => &[Whose::Nobodys],
    }
}

/// A row of the table, without its operations.
type Row = (String, Whose, Vec<String>);

fn table(rows: &[(Row, Option<String>)]) -> String {
    let mut grouped: Vec<(&Row, BTreeSet<&str>)> = Vec::new();
    for (row, operation) in rows {
        let at = match grouped.iter().position(|(known, _)| *known == row) {
            Some(at) => at,
            None => {
                grouped.push((row, BTreeSet::new()));
                grouped.len() - 1
            }
        };
        grouped[at].1.extend(operation.as_deref());
    }
    let mut text = HEADER.to_owned();
    for ((request, whose, cells), operations) in grouped {
        let operations: Vec<&str> = operations.into_iter().collect();
        let _ = writeln!(
            text,
            "| `{request}` | {} | {} | {} |",
            operations.join(", "),
            whose.word(),
            cells.join(" | ")
        );
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn each_request_is_allowed_or_refused_to_each_kind_of_user_as_the_document_says() {
    let requests = Fixture::open().await.requests().await;
    let named: BTreeSet<&str> =
        requests.iter().filter_map(|asked| asked.operation.as_deref()).collect();
    let all: BTreeSet<&str> = Operation::ALL.iter().map(|operation| operation.as_str()).collect();
    assert_eq!(named, all, "each operation of the code is in the document");
    let mut rows: Vec<(Row, Option<String>)> = Vec::new();
    for asked in &requests {
        for whose in whose(&asked.path) {
            // What one of them does changes nothing for the next row.
            let fixture = Fixture::open().await;
            let mut cells = Vec::new();
            for asking in ASKING {
                cells.push(fixture.outcome(asked, *whose, asking).await);
            }
            let request = format!("{} {}", asked.method, asked.path);
            rows.push(((request, *whose, cells), asked.operation.clone()));
        }
    }
    let found = table(&rows);
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let document = fs::read_to_string(&path).expect("the document");
    let (before, rest) = document.split_once(HEADER).expect("the table");
    let after = rest.find("\n\n").map_or("", |end| &rest[end + 1..]);
    let written = format!("{HEADER}{}", &rest[..rest.len() - after.len()]);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        return fs::write(path, format!("{before}{found}{after}")).expect("the document");
    }
    assert_eq!(
        found, written,
        "{DOCUMENT} says otherwise; if it is wrong: UPDATE_GOLDEN=1 cargo nextest run permissions"
    );
}
