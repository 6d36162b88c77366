//! npm `oidc-provider`, unpatched.

use super::browser::{browser, location, query};
use super::{is_user, server_with};
use crate::support::gateway_server::GatewayServer;
use crate::support::packages;
use crate::support::rest_client::read;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use undertone::http::identity::IdentityConfig;

const CALLBACK: &str = "http://127.0.0.1:8080/api/v2/login/callback";

/// The provider, and its URL.
struct Provider {
    url: String,
    _child: Child,
    /// It says more, now and then.
    _output: Lines<BufReader<ChildStdout>>,
}

impl Provider {
    async fn start() -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/identity");
        let folder =
            tokio::task::block_in_place(|| packages::node_packages(&source, "identity-node"));
        let mut child = Command::new("node")
            .arg(folder.join("provider.js"))
            .arg(CALLBACK)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("node");
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let mut lines = output.lines();
        let url = loop {
            let line = lines.next_line().await.expect("its output").expect("a line");
            if line.starts_with("http://") {
                break line;
            }
        };
        Self { url, _child: child, _output: lines }
    }

    async fn server(&self) -> GatewayServer {
        let config = json!({
            "name": "provider", "issuer": self.url, "audience": ["https://desk.example.com"],
            "client_id": "undertone", "client_secret": "a secret of the desk: &%+",
        });
        let config = serde_json::from_value(config).expect("a configuration");
        server_with(IdentityConfig::default(), config).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_has_a_token_from_a_real_provider() {
    let provider = Provider::start().await;
    let server = provider.server().await;
    let http = browser();
    let asked = http
        .post(format!("{}/token", provider.url))
        .basic_auth("bob", Some("a+secret+of+bob"))
        .header("content-type", "application/x-www-form-urlencoded")
        .body("grant_type=client_credentials&scope=desk&resource=https%3A%2F%2Fdesk.example.com");
    let (status, body) = read(asked).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    is_user(&server, body["access_token"].as_str().expect("a token"), "bob").await;
}

/// Follows the provider's pages until it sends the browser back.
async fn log_in(http: &Client, start: String, user: &str) -> String {
    let mut response: Response = http.get(start).send().await.unwrap();
    for _ in 0..12 {
        let here = response.url().clone();
        if response.status().is_redirection() {
            let next = response.headers()["location"].to_str().unwrap();
            let next = here.join(next).expect("a URL").to_string();
            if next.starts_with(CALLBACK) {
                return next;
            }
            response = http.get(next).send().await.unwrap();
            continue;
        }
        let page = response.text().await.unwrap();
        let action = page.split("action=\"").nth(1).and_then(|rest| rest.split('"').next());
        let action = here.join(action.expect("a form")).expect("a URL");
        let form = match page.contains("value=\"login\"") {
            true => format!("prompt=login&login={user}&password=x"),
            false => "prompt=consent".to_owned(),
        };
        let posted = http.post(action).body(form);
        let posted = posted.header("content-type", "application/x-www-form-urlencoded");
        response = posted.send().await.unwrap();
    }
    panic!("it does not send the browser back");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_logs_in_at_a_real_provider() {
    let provider = Provider::start().await;
    let server = provider.server().await;
    let http = browser();
    let begun = http.get(server.url("/api/v2/login?redirect=/desk")).send().await.unwrap();
    let back = log_in(&http, location(&begun), "meg").await;
    assert_eq!(query(&back)["iss"], provider.url);
    let path = back.strip_prefix("http://127.0.0.1:8080").unwrap();
    let finished = http.get(server.url(path)).send().await.unwrap();
    let (status, headers) = (finished.status(), finished.headers().clone());
    assert_eq!(status, StatusCode::SEE_OTHER, "{}", finished.text().await.unwrap());
    assert_eq!(headers["location"], "/desk");
    let (_, body): (_, Value) = read(http.get(server.url("/api/v2/me"))).await;
    assert_eq!(body["user"]["userName"], "meg");
}
