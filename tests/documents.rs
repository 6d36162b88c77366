//! The documents of the API, held against the tools that read them, the clients that generators
//! make of them, and the gateway that answers.

use crate::refused;
use crate::support::gateway_server::{
    BOB_PHONE, ENVIRONMENT, GatewayServer, MEG_PHONE, PASSWORD, PATIENCE, ServerOptions,
};
use crate::support::packages::{self, Installed};
use crate::support::rest_client::read;
use reqwest::header::{ALLOW, CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use reqwest::{Method, StatusCode};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tokio::process::Command;
use undertone::gateway::GatewayConfig;

/// A gateway, its documents as files, and the tools.
struct Documents {
    server: GatewayServer,
    openapi: Value,
    folder: TempDir,
    tools: Installed,
}

impl Documents {
    async fn open() -> Self {
        let tools = tokio::task::block_in_place(|| packages::installed("documents"));
        // One user asks more in a minute than a person in a year, and is refused for the most part.
        let gateway = GatewayConfig {
            refused_per_user: 1_000_000,
            refused_per_address: 1_000_000,
            ..GatewayConfig::default()
        };
        let server =
            GatewayServer::open(ServerOptions { gateway, ..ServerOptions::default() }).await;
        let folder = tempfile::tempdir().expect("a folder");
        let openapi = document(&server, "openapi.json").await;
        let asyncapi = document(&server, "asyncapi.json").await;
        for (name, document) in [("openapi.json", &openapi), ("asyncapi.json", &asyncapi)] {
            fs::write(folder.path().join(name), document.to_string()).expect("a file");
        }
        Self { server, openapi, folder, tools }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A module of the installed packages, or a script beside them.
    fn python(&self, arguments: &[&str]) -> Command {
        let packages = self.tools.python.join("packages");
        let mut command = Command::new("python3");
        command
            .args(arguments)
            .current_dir(self.folder.path())
            .env("PYTHONPATH", &packages)
            .env("PATH", before_path(&packages.join("bin")))
            .env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    fn python_script(&self, name: &str) -> String {
        self.tools.python.join(name).display().to_string()
    }

    /// A program of the installed packages, or `node` itself.
    fn node(&self, program: &str) -> Command {
        let installed = self.tools.node.join("node_modules/.bin").join(program);
        let mut command =
            Command::new(if installed.exists() { installed } else { PathBuf::from(program) });
        command
            .current_dir(&self.tools.node)
            .env("REDOCLY_TELEMETRY", "off")
            .env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true");
        command
    }

    /// What a generated client is told: where, as which user, and which devices.
    fn who_and_where(&self) -> [String; 5] {
        [&self.server.url(""), "meg", PASSWORD, MEG_PHONE, BOB_PHONE].map(str::to_owned)
    }

    fn schemas(&self) -> &Map<String, Value> {
        self.openapi["components"]["schemas"].as_object().expect("schemas")
    }
}

fn before_path(folder: &Path) -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(folder.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(folders).expect("a path")
}

async fn document(server: &GatewayServer, name: &str) -> Value {
    let (status, document) = read(server.getting(&format!("/api/v2/{name}"))).await;
    assert_eq!(status, StatusCode::OK);
    document
}

/// Runs it to its end, which must be a good one: what it has printed.
async fn run(command: &mut Command) -> String {
    let running = command.kill_on_drop(true).output();
    let output = tokio::time::timeout(PATIENCE * 8, running).await.expect("in time");
    let output = output.expect("node and python3 are installed");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {printed}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    printed
}

#[tokio::test(flavor = "multi_thread")]
async fn openapi_spec_validator_finds_nothing_wrong() {
    let documents = Documents::open().await;
    run(&mut documents.python(&["-m", "openapi_spec_validator", "openapi.json"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redocly_finds_nothing_wrong_and_warns_of_nothing() {
    let documents = Documents::open().await;
    let mut redocly = documents.node("redocly");
    redocly.args(["lint", "--config", "redocly.yaml"]).arg(documents.file("openapi.json"));
    run(&mut redocly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_parser_of_asyncapi_finds_nothing_wrong() {
    let documents = Documents::open().await;
    let mut parser = documents.node("node");
    run(parser.arg("asyncapi.js").arg(documents.file("asyncapi.json"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_golden_message_and_every_example_is_what_its_schema_says() {
    let documents = Documents::open().await;
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden");
    let transcripts = fs::read_dir(golden).expect("transcripts");
    let transcripts = transcripts.map(|entry| entry.expect("an entry").path());
    let script = documents.python_script("messages.py");
    let mut python = documents.python(&[&script, "openapi.json", "asyncapi.json"]);
    let printed = run(python.args(transcripts)).await;
    let seen: Value = serde_json::from_str(&printed).expect("JSON");
    for name in ["DeviceStateChangeMessage", "CallStateChangeMessage", "ErrorMessage", "Coach"] {
        assert!(seen[name].as_u64().is_some_and(|times| times > 0), "{name}: {seen}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_openapi_typescript_makes_a_coach_request() {
    let documents = Documents::open().await;
    let node = &documents.tools.node;
    let mut generator = documents.node("openapi-typescript");
    generator.arg(documents.file("openapi.json")).args(["--default-non-nullable", "false"]);
    run(generator.arg("-o").arg(node.join("api.d.ts"))).await;
    run(documents.node("tsc").args(["-p", "tsconfig.json"])).await;
    let mut client = documents.node("node");
    let printed = run(client.arg("made/coach.js").args(documents.who_and_where())).await;
    assert_eq!(printed, "coached\n");
    coached(&documents.server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_openapi_python_client_makes_a_coach_request() {
    let documents = Documents::open().await;
    let made = documents.file("undertone_client");
    let mut generator = documents.python(&["-m", "openapi_python_client", "generate"]);
    generator.args(["--path", "openapi.json", "--meta", "none", "--fail-on-warning"]);
    run(generator.arg("--output-path").arg(&made)).await;
    let script = documents.python_script("coach.py");
    let mut client = documents.python(&[&script]);
    let packages = documents.tools.python.join("packages");
    let both = std::env::join_paths([packages.as_path(), documents.folder.path()]);
    let printed =
        run(client.env("PYTHONPATH", both.expect("paths")).args(documents.who_and_where())).await;
    assert_eq!(printed, "coached\n");
    coached(&documents.server).await;
}

/// The client has said so; the gateway says so, too.
async fn coached(server: &GatewayServer) {
    let (_, device) = server.get("meg", &format!("/api/v2/me/devices/{MEG_PHONE}")).await;
    assert_eq!(device["device"]["supervisorMonitoringState"]["state"], "Coach");
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_no_answer_that_the_document_does_not_have() {
    let documents = Documents::open().await;
    let ids = json!({
        "/api/v2/me/devices": MEG_PHONE,
        "/api/v2/devices": BOB_PHONE,
        "/api/v2/voice-environments": ENVIRONMENT,
        "destination": "5002",
    });
    let checks = "not_a_server_error,status_code_conformance,content_type_conformance,\
                  response_headers_conformance,response_schema_conformance,\
                  unsupported_method,refusals_are_those_of_the_document";
    let url = documents.server.url("");
    let mut schemathesis = documents.python(&["-m", "schemathesis.cli", "run", "openapi.json"]);
    schemathesis
        .args(["--url", &url, "--auth", &format!("meg:{PASSWORD}")])
        .args(["--checks", checks, "--phases", "coverage,fuzzing"])
        .args(["--max-examples", "25", "--seed", "15", "--workers", "1"])
        .args(["--generation-database", "none", "--no-color", "--continue-on-failure"])
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .env("UNDERTONE_URL", &url)
        .env("UNDERTONE_USER", "meg")
        .env("UNDERTONE_PASSWORD", PASSWORD)
        .env("UNDERTONE_IDS", ids.to_string())
        .env("UNDERTONE_SEEN", documents.file("seen.json"));
    let packages = documents.tools.python.join("packages");
    let both = std::env::join_paths([packages.as_path(), documents.tools.python.as_path()]);
    run(schemathesis.env("PYTHONPATH", both.expect("paths"))).await;
    let seen = fs::read_to_string(documents.file("seen.json")).expect("what it has seen");
    let seen: BTreeMap<String, BTreeSet<u16>> = serde_json::from_str(&seen).expect("JSON");
    for name in documents.schemas().keys().filter_map(|name| name.strip_suffix("Request")) {
        assert!(seen.contains_key(name), "{name} was never asked: {seen:?}");
    }
    for name in [
        "read_me",
        "read_my_call",
        "Coach",
        "Dial",
        "Ready",
        "Hangup",
        "AttachUserData",
        "ForwardCallsOn",
        "StartContactCenterSession",
    ] {
        assert!(seen[name].contains(&200), "{name} was never accepted: {seen:?}");
    }
}

#[tokio::test]
async fn every_example_is_accepted_as_printed_or_refused_for_the_state_alone() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let document = document(&server, "openapi.json").await;
    let mut accepted = Vec::new();
    let mut sent = 0;
    let mut paths: Vec<_> = document["paths"].as_object().expect("paths").iter().collect();
    // A device makes one call: that of the example, of which the others are asked then.
    paths.sort_by_key(|(path, _)| !path.ends_with("/calls"));
    for (path, item) in paths {
        let content = &item["post"]["requestBody"]["content"]["application/json"];
        let Some(examples) = content["examples"].as_object() else { continue };
        for (name, example) in examples {
            let id = match path.contains("calls/{id}") {
                true => call_of_meg(&server).await,
                false => MEG_PHONE.to_owned(),
            };
            let path = path.replace("{id}", &id);
            let (status, answer) = server.post("meg", &path, &example["value"]).await;
            sent += 1;
            let schema = &document["components"]["schemas"][format!("{name}Request")];
            let rows = schema["x-refusals"].as_array().expect("refusals");
            let is_in = |row: &Value| {
                row["status"] == status.as_u16() && row["statusCode"] == answer["statusCode"]
            };
            match answer["statusCode"].as_u64() {
                Some(0) => accepted.push(name.as_str()),
                // An operation of another kind of leg, or in another state.
                Some(2 | 3) => assert!(rows.iter().any(is_in), "{name}: {answer}"),
                // The user has one call, and it is not the other of the example.
                Some(6) if name == "SwapCalls" => {
                    assert!(rows.iter().any(is_in), "{name}: {answer}")
                }
                _ => panic!("{name} at {path}: {status} {answer}"),
            }
        }
    }
    for name in
        ["Coach", "ListenIn", "StartContactCenterSession", "Dial", "ForwardCallsOn", "Hangup"]
    {
        assert!(accepted.contains(&name), "{name}: {accepted:?}");
    }
    assert!(sent >= 40, "{sent}");
}

/// A call of meg's that rings elsewhere.
async fn call_of_meg(server: &GatewayServer) -> String {
    let calls = async || server.get("meg", "/api/v2/me/calls?fields=*").await.1;
    let id = |calls: &Value| calls["calls"][0]["id"].as_str().map(str::to_owned);
    if let Some(id) = id(&calls().await) {
        return id;
    }
    let dial = json!({"operationName": "Dial", "destination": {"phoneNumber": "5002"}});
    let answer = server.post("meg", &format!("/api/v2/me/devices/{MEG_PHONE}/calls"), &dial).await;
    assert_eq!(answer.1, json!({"statusCode": 0}));
    id(&calls().await).expect("a call")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_has_every_refusal_of_the_table_of_states() {
    let documents = Documents::open().await;
    for (operation, codes) in refused::TABLE {
        let Some(schema) = documents.schemas().get(&format!("{operation}Request")) else {
            assert_eq!(operation, "Dance", "only this one does not exist");
            continue;
        };
        let rows = schema["x-refusals"].as_array().expect("refusals");
        for code in codes.split_whitespace().filter(|code| *code != ".") {
            let code: u64 = code.parse().expect("a statusCode");
            assert!(rows.iter().any(|row| row["statusCode"] == code), "{operation}: {code}");
        }
    }
}

#[tokio::test]
async fn the_openapi_document_names_every_route_and_operation_and_who_may_ask() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let document = document(&server, "openapi.json").await;
    assert_eq!(document["servers"][0]["url"], "http://127.0.0.1:8080");
    assert_eq!(document["security"], json!([{"basic": []}, {"cookie": []}, {"bearer": []}]));
    let cookie = &document["components"]["securitySchemes"]["cookie"];
    assert_eq!((&cookie["in"], &cookie["name"]), (&json!("cookie"), &json!("JSESSIONID")));
    let paths = document["paths"].as_object().expect("paths");
    for path in [
        "/api/v2/me",
        "/api/v2/me/devices",
        "/api/v2/me/devices/{id}",
        "/api/v2/me/devices/{id}/calls",
        "/api/v2/me/calls",
        "/api/v2/me/calls/{id}",
        "/api/v2/me/channels/voice",
        "/api/v2/devices",
        "/api/v2/devices/{id}",
        "/api/v2/voice-environments/{id}",
    ] {
        let operations = paths[path].as_object().expect("operations");
        assert!(operations.values().all(|one| one.get("security").is_none()), "{path}");
    }
    for path in [
        "/api/v2/diagnostics/version",
        "/api/v2/openapi.json",
        "/api/v2/asyncapi.json",
        "/api/v2/docs",
    ] {
        let read = &paths[path]["get"];
        assert_eq!(read["security"], json!([]), "{path}");
        let answer = server.getting(path).send().await.expect("an answer");
        let media_type = answer.headers()[CONTENT_TYPE].to_str().expect("text");
        let media_type = media_type.split(';').next().expect("a media type");
        assert!(read["responses"]["200"]["content"].get(media_type).is_some(), "{path}: {read}");
    }
    let schemas = &document["components"]["schemas"];
    let coach = &schemas["CoachRequest"];
    assert_eq!(coach["properties"]["operationName"]["const"], "Coach");
    let scope = &coach["properties"]["supervisorMonitoringScope"];
    assert_eq!((&scope["enum"], &scope["default"]), (&json!(["Agent", "Call"]), &json!("Call")));
    let mode = &coach["properties"]["supervisorMonitoringMode"];
    assert_eq!(
        (&mode["enum"], &mode["default"]),
        (&json!(["NextCall", "AllCalls"]), &json!("AllCalls"))
    );
    let mapping = &schemas["DeviceOperation"]["discriminator"]["mapping"];
    assert_eq!(mapping["Coach"], "#/components/schemas/CoachRequest");
    assert!(schemas["CallJson"]["properties"].get("mediaQuality").is_some(), "{schemas}");
}

#[tokio::test]
async fn a_read_declares_the_parameters_that_change_its_answer_and_no_others() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let document = document(&server, "openapi.json").await;
    let call = call_of_meg(&server).await;
    let mut seen = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        // A user without a group has none to show.
        let has_nothing = path.contains("groups") || path.ends_with("/workbins");
        let is_other = ["logout", "login", "docs"].iter().any(|word| path.contains(word));
        if item.get("get").is_none() || has_nothing || is_other {
            continue;
        }
        let id = match path.split('/').rev().nth(1) {
            Some("calls") => &call,
            Some("users" | "contacts") => "meg",
            Some("features") => "api-voice",
            Some("voice-environments") => ENVIRONMENT,
            _ => MEG_PHONE,
        };
        let path = path.replace("{id}", id).replace("{group}", "tserver");
        let plain = server.get("meg", &path).await;
        assert_eq!(plain.0, StatusCode::OK, "{path}");
        let declared: BTreeSet<&str> = item["get"]["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|parameter| parameter["in"] == "query")
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        for (name, value) in
            [("fields", "uri"), ("subresources", "devices"), ("phoneNumber", "0"), ("type", "None")]
        {
            let asked = server.get("meg", &format!("{path}?{name}={value}")).await;
            assert_eq!(asked != plain, declared.contains(name), "{path}?{name}: {asked:?}");
            seen.extend(declared.get(name));
        }
    }
    assert_eq!(seen, BTreeSet::from(["fields", "phoneNumber", "subresources", "type"]));
}

#[tokio::test]
async fn the_openapi_document_says_how_an_operation_is_refused() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let document = document(&server, "openapi.json").await;
    let responses = &document["paths"]["/api/v2/me/devices/{id}"]["post"]["responses"];
    for status in ["400", "403", "404", "409", "413", "415", "429", "500", "503"] {
        let schema = &responses[status]["content"]["application/json"]["schema"]["$ref"];
        assert_eq!(schema, "#/components/schemas/ErrorBody", "{status}");
        let may_ask_again = responses[status]["headers"].get("Retry-After").is_some();
        assert_eq!(may_ask_again, ["429", "503"].contains(&status), "{status}");
    }
    let rows = document["components"]["schemas"]["CoachRequest"]["x-refusals"].as_array();
    let in_use = rows.expect("rows").iter().find(|row| row["statusCode"] == 19).expect("a row");
    assert_eq!((&in_use["status"], &in_use["reason"]), (&json!(409), &json!("InUse")));
}

#[tokio::test]
async fn a_method_that_a_path_has_not_is_405_as_the_document_says_with_those_that_it_has() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let document = document(&server, "openapi.json").await;
    let response = &document["components"]["responses"]["MethodNotAllowed"];
    assert_eq!(response["headers"]["Allow"]["required"], true, "{response}");
    let client = server.browser();
    for (path, item) in document["paths"].as_object().expect("paths") {
        let url = server.url(&path.replace("{id}", "some").replace("{group}", "some"));
        let there_are = item.as_object().expect("operations");
        for (method, operation) in there_are {
            let documented = &operation["responses"]["405"];
            let shared = json!({"$ref": "#/components/responses/MethodNotAllowed"});
            assert_eq!(*documented, shared, "{method} {path}");
        }
        for method in [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            let name = method.as_str().to_lowercase();
            if there_are.contains_key(&name) {
                continue;
            }
            let request = client.request(method, &url).basic_auth("meg", Some(PASSWORD));
            let answer = request.send().await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{name} {path}");
            let allowed = answer.headers()[ALLOW].to_str().expect("text").to_lowercase();
            let allowed = allowed.split(',').map(str::trim).filter(|method| *method != "head");
            let allowed: BTreeSet<&str> = allowed.collect();
            let there_are: BTreeSet<&str> = there_are.keys().map(String::as_str).collect();
            assert_eq!(allowed, there_are, "{name} {path}");
            let body: Value = answer.json().await.expect("a body");
            assert_eq!(body["statusCode"], 3, "{name} {path}: {body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_shows_every_operation_in_a_browser_and_asks_no_other_host() {
    let documents = Documents::open().await;
    let url = documents.server.url("");
    let mut browser = documents.node("node");
    browser.args(["page.js", &url]).args(std::env::var_os("DOCS_SCREENSHOT"));
    let printed = run(&mut browser).await;
    let said: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(said["wrong"], json!([]), "{said}");
    let shown = &said["shown"];
    assert_eq!((&shown["state"], &shown["dangling"]), (&json!("drawn"), &json!([])), "{shown}");
    let names = |list: &Value| -> Vec<String> {
        let texts = list.as_array().expect("a list").iter();
        texts.map(|text| text.as_str().expect("text").to_owned()).collect()
    };
    let operations = names(&shown["operations"]);
    for name in documents.schemas().keys().filter_map(|name| name.strip_suffix("Request")) {
        assert!(operations.iter().any(|shown| shown == name), "{name}: {operations:?}");
    }
    let endpoints = names(&shown["endpoints"]);
    let at = |name: &str| endpoints.iter().position(|shown| shown == name);
    let order = [
        "POST/api/v2/me",
        "POST/api/v2/me/channels/voice",
        "POST/api/v2/me/devices/{id}",
        "POST/api/v2/me/calls/{id}",
        "GET/api/v2/contacts",
    ];
    assert!(order.map(at).is_sorted() && order.iter().all(|name| at(name).is_some()));
    assert_eq!(at(order[0]), Some(0), "{endpoints:?}");
    let open = names(&shown["open"]);
    assert!(open.iter().all(|name| name == order[0]) && !open.is_empty(), "{open:?}");
    assert!(names(&shown["messages"]).contains(&"DeviceStateChangeMessage".to_owned()));
    let coach = shown["coach"].as_str().expect("text");
    for part in ["targetDeviceUri", "required unless phoneNumber", "\"AllCalls\"", "409"] {
        assert!(coach.contains(part), "{part}: {coach}");
    }
    for asked in names(&said["asked"]) {
        assert!(asked.starts_with(&url) || asked.starts_with("data:"), "{asked}");
    }
}

#[tokio::test]
async fn the_page_may_load_nothing_from_elsewhere_and_cannot_be_framed() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    for (path, media_type) in [
        ("/api/v2/docs", "text/html; charset=utf-8"),
        ("/api/v2/docs/docs.js", "text/javascript; charset=utf-8"),
        ("/api/v2/docs/docs.css", "text/css; charset=utf-8"),
    ] {
        let answer = server.getting(path).send().await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let header = |name| answer.headers()[name].to_str().expect("text").to_owned();
        assert_eq!(header(CONTENT_TYPE), media_type);
        let policy = header(CONTENT_SECURITY_POLICY);
        for part in ["default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"] {
            assert!(policy.contains(part), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
    }
    let other = server.getting("/api/v2/openapi.json").send().await.expect("an answer");
    assert_eq!(
        other.headers()[CONTENT_SECURITY_POLICY],
        "default-src 'none'; frame-ancestors 'none'"
    );
}
