//! A user's HTTP client: HTTP Basic on every request.

use super::server::Account;
use super::talk::PATIENCE;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// One user at one server.
#[derive(Clone)]
pub(crate) struct RestClient {
    http: Client,
    /// What stands before each path.
    base: String,
    user: String,
    password: String,
}

/// An HTTP client to be built; TLS has its provider.
pub(crate) fn client_builder() -> reqwest::ClientBuilder {
    undertone::tls::install_provider();
    Client::builder()
}

/// An HTTP client as every test uses it.
pub(crate) fn http_client() -> Client {
    client_builder().no_proxy().timeout(PATIENCE).build().expect("a client")
}

impl RestClient {
    /// The user of an account; paths are below `/api/v2`.
    pub(crate) fn of(account: Account, server: SocketAddr) -> Self {
        Self::new(server, account.user, account.password)
    }

    /// Any user; paths are below `/api/v2`.
    pub(crate) fn new(server: SocketAddr, user: &str, password: &str) -> Self {
        Self::with(http_client(), format!("http://{server}/api/v2"), user, password)
    }

    /// Any user of an HTTP client; paths are below `base`.
    pub(crate) fn with(http: Client, base: String, user: &str, password: &str) -> Self {
        Self { http, base, user: user.to_owned(), password: password.to_owned() }
    }

    /// A GET to be completed.
    pub(crate) fn getting(&self, path: &str) -> RequestBuilder {
        let request = self.http.get(format!("{}{path}", self.base));
        request.basic_auth(&self.user, Some(&self.password))
    }

    /// A GET of a whole URI, to be completed.
    pub(crate) fn getting_uri(&self, uri: &str) -> RequestBuilder {
        self.http.get(uri).basic_auth(&self.user, Some(&self.password))
    }

    /// A POST to be completed.
    pub(crate) fn posting(&self, path: &str, body: &Value) -> RequestBuilder {
        let request = self.http.post(format!("{}{path}", self.base));
        request.basic_auth(&self.user, Some(&self.password)).json(body)
    }

    /// GET that succeeds: the body.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, body) = read(self.getting(path)).await;
        assert_eq!((status.as_u16(), &body["statusCode"]), (200, &json!(0)), "{path}: {body}");
        body
    }

    /// GET: the body, whatever it says.
    pub(crate) async fn look(&self, path: &str) -> Value {
        read(self.getting(path)).await.1
    }

    /// POST: the status, `Retry-After` and the body.
    pub(crate) async fn ask(
        &self,
        path: &str,
        body: &Value,
    ) -> (StatusCode, Option<String>, Value) {
        let answer = self.posting(path, body).send().await.expect("an answer");
        let retry_after = answer.headers().get(RETRY_AFTER);
        let retry_after = retry_after.map(|value| value.to_str().expect("text").to_owned());
        (answer.status(), retry_after, answer.json().await.expect("a JSON body"))
    }

    /// POST that is accepted.
    pub(crate) async fn post(&self, path: &str, body: Value) {
        let (_, _, reply) = self.ask(path, &body).await;
        assert_eq!(reply, json!({"statusCode": 0}), "{path} {body}");
    }

    /// The user's own device, as its user sees it.
    pub(crate) async fn device(&self, account: Account) -> Value {
        self.get(&format!("/me/devices/{}", account.device)).await["device"].take()
    }

    /// Messages to the event channel by long-polling, and what comes back.
    pub(crate) async fn cometd(&self, messages: &Value) -> Value {
        read(self.posting("/notifications", messages)).await.1
    }
}

/// Status and JSON body.
pub(crate) async fn read(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status();
    (status, response.json().await.expect("a JSON body"))
}
