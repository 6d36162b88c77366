//! An issuer of tokens on this machine: it counts how often its keys are fetched, can be down, and
//! signs whatever a test wants signed.

use super::certificates::Certificates;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use undertone::clock;
use undertone::http::identity::IssuerConfig;
use undertone::http::server::{self, ConnectionLimits, Door};
use undertone::tls::{Alpn, ServerTls};

/// What the server of the tests is called by issuers.
pub(crate) const AUDIENCE: &str = "https://desk.example.com";
/// What it is as a client of issuers.
pub(crate) const CLIENT: &str = "undertone";

/// A private key, and its name.
pub(crate) struct SigningKey {
    pair: EcdsaKeyPair,
    kid: String,
}

/// Text of a token's part.
pub(crate) fn part(value: &Value) -> String {
    encoded(value.to_string().as_bytes())
}

/// base64url
pub(crate) fn encoded(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl SigningKey {
    /// A new one.
    pub(crate) fn new(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        Self { pair, kid: kid.to_owned() }
    }

    /// The public half: 4, x, y.
    pub(crate) fn public(&self) -> &[u8] {
        self.pair.public_key().as_ref()
    }

    /// The same as a JWK.
    pub(crate) fn jwk(&self) -> Value {
        let (x, y) = self.public()[1..].split_at(32);
        json!({
            "kty": "EC", "crv": "P-256", "x": encoded(x), "y": encoded(y), "use": "sig",
            "alg": "ES256", "kid": self.kid,
        })
    }

    /// The header of its tokens.
    pub(crate) fn header(&self, typ: &str) -> Value {
        json!({"alg": "ES256", "typ": typ, "kid": self.kid})
    }

    /// A token with this header and these claims.
    pub(crate) fn sign(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", part(header), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), message.as_bytes()).expect("signed");
        format!("{message}.{}", encoded(signature.as_ref()))
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    (clock::wall().0 / 1000) as i64
}

struct Shared {
    url: String,
    keys: Mutex<Vec<Value>>,
    fetches: AtomicUsize,
    is_down: AtomicBool,
    /// An answer with keys takes a permit.
    gate: Semaphore,
    /// What the token endpoint answers.
    answer: Mutex<(u16, Value)>,
    /// What it was asked.
    asked: Mutex<Vec<String>>,
}

/// The issuer.
pub(crate) struct TestIssuer {
    /// Its key.
    pub(crate) key: SigningKey,
    shared: Arc<Shared>,
    door: JoinHandle<()>,
}

impl Drop for TestIssuer {
    fn drop(&mut self) {
        self.door.abort();
    }
}

impl TestIssuer {
    /// With one key.
    pub(crate) async fn start() -> Self {
        Self::open("http", None).await
    }

    /// The same over TLS.
    pub(crate) async fn with_tls(certificates: &Certificates) -> Self {
        Self::open("https", Some(certificates.door(Alpn::Http))).await
    }

    async fn open(scheme: &str, tls: Option<Arc<ServerTls>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address: SocketAddr = listener.local_addr().expect("an address");
        let key = SigningKey::new("first");
        let shared = Arc::new(Shared {
            url: format!("{scheme}://{address}/desk"),
            keys: Mutex::new(vec![key.jwk()]),
            fetches: AtomicUsize::new(0),
            is_down: AtomicBool::new(false),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
            answer: Mutex::new((400, json!({"error": "invalid_grant"}))),
            asked: Mutex::default(),
        });
        let routes = Router::new()
            .route("/desk/.well-known/openid-configuration", get(metadata))
            .route("/desk/keys", get(keys))
            .route("/desk/token", post(token))
            .with_state(shared.clone());
        let door = Door { listener, limits: ConnectionLimits::default(), tls };
        let door = tokio::spawn(server::serve(door, routes, std::future::pending()));
        Self { key, shared, door }
    }

    /// Its URL.
    pub(crate) fn url(&self) -> &str {
        &self.shared.url
    }

    /// How a server is told of it.
    pub(crate) fn config(&self, more: Value) -> IssuerConfig {
        let mut config = json!({
            "name": "test", "issuer": self.url(), "audience": [AUDIENCE], "client_id": CLIENT,
        });
        for (key, value) in more.as_object().expect("an object") {
            config[key] = value.clone();
        }
        serde_json::from_value(config).expect("a configuration")
    }

    /// The claims of an access token of a user, good for an hour.
    pub(crate) fn claims(&self, user: &str) -> Value {
        json!({
            "iss": self.url(), "aud": AUDIENCE, "sub": user, "client_id": "desktop",
            "iat": now(), "exp": now() + 3600, "jti": "1",
        })
    }

    /// An access token with these claims.
    pub(crate) fn token_of(&self, claims: &Value) -> String {
        self.key.sign(&self.key.header("at+jwt"), claims)
    }

    /// An access token of a user, good for an hour.
    pub(crate) fn token(&self, user: &str) -> String {
        self.token_of(&self.claims(user))
    }

    /// How often its keys were fetched.
    pub(crate) fn fetches(&self) -> usize {
        self.shared.fetches.load(Ordering::SeqCst)
    }

    /// It has these keys from now on.
    pub(crate) fn publish(&self, keys: Vec<Value>) {
        *self.shared.keys.lock().unwrap() = keys;
    }

    /// It answers 500, or as usual again.
    pub(crate) fn set_down(&self, is_down: bool) {
        self.shared.is_down.store(is_down, Ordering::SeqCst);
    }

    /// Answers with keys wait until they are let go.
    pub(crate) fn hold(&self) {
        self.shared.gate.forget_permits(Semaphore::MAX_PERMITS);
    }

    /// So many of them leave.
    pub(crate) fn let_go(&self, answers: usize) {
        self.shared.gate.add_permits(answers);
    }

    /// The token endpoint answers this.
    pub(crate) fn answer(&self, status: u16, body: Value) {
        *self.shared.answer.lock().unwrap() = (status, body);
    }

    /// What the token endpoint was asked: the forms.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.shared.asked.lock().unwrap().clone()
    }
}

type Answer = Result<Json<Value>, StatusCode>;

fn unless_down(shared: &Shared) -> Result<(), StatusCode> {
    match shared.is_down.load(Ordering::SeqCst) {
        true => Err(StatusCode::INTERNAL_SERVER_ERROR),
        false => Ok(()),
    }
}

async fn metadata(State(shared): State<Arc<Shared>>) -> Answer {
    unless_down(&shared)?;
    let url = &shared.url;
    Ok(Json(json!({
        "issuer": url,
        "jwks_uri": format!("{url}/keys"),
        "authorization_endpoint": format!("{url}/authorize?tenant=desk"),
        "token_endpoint": format!("{url}/token"),
        "authorization_response_iss_parameter_supported": true,
    })))
}

async fn keys(State(shared): State<Arc<Shared>>) -> Answer {
    shared.fetches.fetch_add(1, Ordering::SeqCst);
    shared.gate.acquire().await.expect("open").forget();
    unless_down(&shared)?;
    let keys = shared.keys.lock().unwrap().clone();
    Ok(Json(json!({"keys": keys})))
}

async fn token(State(shared): State<Arc<Shared>>, form: String) -> impl IntoResponse {
    shared.asked.lock().unwrap().push(form);
    let (status, body) = shared.answer.lock().unwrap().clone();
    (StatusCode::from_u16(status).expect("a status"), Json(body))
}
