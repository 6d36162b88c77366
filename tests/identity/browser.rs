//! A browser logs in at an issuer.

use super::{LEEWAY, server_with};
use crate::support::gateway_server::{GatewayServer, PATIENCE};
use crate::support::issuer::{AUDIENCE, CLIENT, SigningKey, TestIssuer, now};
use crate::support::rest_client::{client_builder, read};
use crate::support::wait;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use undertone::http::identity::IdentityConfig;

const CALLBACK: &str = "http://127.0.0.1:8080/api/v2/login/callback";

/// A browser that follows nothing by itself.
pub(super) fn browser() -> Client {
    let client = client_builder().no_proxy().cookie_store(true).redirect(Policy::none());
    client.timeout(PATIENCE).build().expect("a client")
}

pub(super) fn location(response: &Response) -> String {
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    response.headers()["location"].to_str().unwrap().to_owned()
}

pub(super) fn query(url: &str) -> BTreeMap<String, String> {
    let (_, query) = url.split_once('?').expect("a query");
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

/// A login under way: what the issuer was asked for.
struct Login {
    browser: Client,
    asked: BTreeMap<String, String>,
}

async fn begin(server: &GatewayServer, more: &str) -> Login {
    let browser = browser();
    let begun = browser.get(server.url(&format!("/api/v2/login{more}"))).send().await.unwrap();
    Login { asked: query(&location(&begun)), browser }
}

impl Login {
    /// The issuer sends the browser back with these parameters.
    async fn back(&self, server: &GatewayServer, parameters: &[(&str, &str)]) -> Response {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let query = query.extend_pairs(parameters).finish();
        let url = server.url(&format!("/api/v2/login/callback?{query}"));
        self.browser.get(url).send().await.unwrap()
    }

    fn state(&self) -> &str {
        &self.asked["state"]
    }

    async fn is_logged_in(&self, server: &GatewayServer) -> bool {
        self.browser.get(server.url("/api/v2/me")).send().await.unwrap().status() == StatusCode::OK
    }
}

/// The claims of the ID token that answers this login.
fn id_claims(issuer: &TestIssuer, login: &Login) -> Value {
    json!({
        "iss": issuer.url(), "aud": CLIENT, "sub": "meg", "nonce": login.asked["nonce"],
        "iat": now(), "exp": now() + 600,
    })
}

fn answer_with(issuer: &TestIssuer, claims: &Value) {
    let token = issuer.key.sign(&issuer.key.header("JWT"), claims);
    let answer = json!({"access_token": "opaque", "token_type": "Bearer", "id_token": token});
    issuer.answer(200, answer);
}

async fn server_of(issuer: &TestIssuer) -> GatewayServer {
    let config = issuer.config(json!({"client_secret": "s3cret:/&"}));
    server_with(IdentityConfig::default(), config).await
}

#[tokio::test]
async fn a_browser_logs_in_at_its_issuer_and_comes_back_to_its_page() {
    let issuer = TestIssuer::start().await;
    let server = server_of(&issuer).await;
    let login = begin(&server, "?redirect=/desk%3Ftab%3D1").await;
    let asked = |key: &str| login.asked.get(key).map(String::as_str);
    assert_eq!(asked("tenant"), Some("desk"), "the query of the endpoint stays");
    assert_eq!(asked("response_type"), Some("code"));
    assert_eq!(asked("client_id"), Some(CLIENT));
    assert_eq!(asked("redirect_uri"), Some(CALLBACK));
    assert_eq!(asked("scope"), Some("openid"));
    assert_eq!(asked("code_challenge_method"), Some("S256"));
    assert_eq!(login.state().len(), 43);

    answer_with(&issuer, &id_claims(&issuer, &login));
    let back = [("code", "the-code"), ("state", login.state()), ("iss", issuer.url())];
    let response = login.back(&server, &back).await;
    assert_eq!(location(&response), "/desk?tab=1");
    let cookies: Vec<_> = response.headers().get_all("set-cookie").iter().collect();
    let cookie = cookies[0].to_str().unwrap();
    assert!(cookie.starts_with("JSESSIONID="), "{cookie}");
    assert!(cookie.contains("; HttpOnly; SameSite=Lax; Max-Age=6"), "{cookie}");
    assert_eq!(
        cookies[1],
        "UNDERTONE_LOGIN=; Path=/api/v2/login; HttpOnly; SameSite=Lax; Max-Age=0"
    );

    let (_, body) = read(login.browser.get(server.url("/api/v2/me"))).await;
    assert_eq!(body["user"]["userName"], "meg");
    let form: BTreeMap<String, String> =
        form_urlencoded::parse(issuer.asked()[0].as_bytes()).into_owned().collect();
    assert_eq!(form["grant_type"], "authorization_code");
    assert_eq!((form["code"].as_str(), form["redirect_uri"].as_str()), ("the-code", CALLBACK));
    let proof = URL_SAFE_NO_PAD.encode(Sha256::digest(&form["code_verifier"]));
    assert_eq!(proof, login.asked["code_challenge"]);
    assert!(!form.contains_key("client_secret"), "it goes in the header");

    // The same again is nobody's: the cookie has gone.
    let again = login.back(&server, &back).await;
    assert_eq!(again.status(), StatusCode::BAD_REQUEST);
    assert_eq!(issuer.asked().len(), 1);
}

#[tokio::test]
async fn a_login_that_this_browser_has_not_begun_asks_the_issuer_nothing() {
    let issuer = TestIssuer::start().await;
    let server = server_of(&issuer).await;
    let (login, other) = (begin(&server, "").await, begin(&server, "").await);
    answer_with(&issuer, &id_claims(&issuer, &login));
    let stranger = Login { browser: browser(), asked: login.asked.clone() };
    let (code, iss) = (("code", "c"), ("iss", issuer.url()));
    let long = "c".repeat(5000);
    for (what, who, back, status) in [
        ("no cookie", &stranger, vec![code, iss, ("state", login.state())], 400),
        ("the state of another", &login, vec![code, iss, ("state", other.state())], 400),
        ("no state", &login, vec![code, iss], 400),
        ("an empty state", &login, vec![code, iss, ("state", "")], 400),
    ] {
        let response = who.back(&server, &back).await;
        assert_eq!(response.status(), status, "{what}");
        assert!(!who.is_logged_in(&server).await, "{what}");
    }
    for (what, back, status) in [
        ("another issuer", vec![code, ("iss", "https://evil.example.com")], 400),
        ("no issuer, where it names itself", vec![code], 400),
        ("an error", vec![("error", "access_denied"), iss], 403),
        ("an error and a code", vec![("error", "access_denied"), code, iss], 403),
        ("no code", vec![iss], 403),
        ("a long code", vec![("code", &long), iss], 403),
        ("two codes", vec![code, code, iss], 400),
    ] {
        let login = begin(&server, "").await;
        let back = [back, vec![("state", login.state())]].concat();
        let response = login.back(&server, &back).await;
        assert_eq!(response.status(), status, "{what}");
        assert!(!login.is_logged_in(&server).await, "{what}");
    }
    assert_eq!(issuer.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn an_id_token_with_any_fault_logs_nobody_in() {
    let issuer = TestIssuer::start().await;
    let server = server_of(&issuer).await;
    let stranger = SigningKey::new("first");
    type Change = fn(&mut Value);
    let faults: [(&str, Change); 14] = [
        ("another nonce", |claims| claims["nonce"] = json!("another")),
        ("no nonce", |claims| drop(claims.as_object_mut().unwrap().remove("nonce"))),
        ("another issuer", |claims| claims["iss"] = json!("https://evil.example.com")),
        ("another client", |claims| claims["aud"] = json!("another")),
        ("an access token's audience", |claims| claims["aud"] = json!(AUDIENCE)),
        ("two audiences", |claims| claims["aud"] = json!([CLIENT, "another"])),
        ("another party", |claims| claims["azp"] = json!("another")),
        ("over", |claims| claims["exp"] = json!(now() - LEEWAY - 1)),
        ("never over", |claims| drop(claims.as_object_mut().unwrap().remove("exp"))),
        ("of the future", |claims| claims["iat"] = json!(now() + LEEWAY + 30)),
        ("an unknown user", |claims| claims["sub"] = json!("nobody")),
        ("no user", |claims| drop(claims.as_object_mut().unwrap().remove("sub"))),
        ("the type of an access token", |claims| claims["#typ"] = json!("at+jwt")),
        ("the key of a stranger", |claims| claims["#key"] = json!("stranger")),
    ];
    for (fault, change) in faults {
        let login = begin(&server, "").await;
        let mut claims = id_claims(&issuer, &login);
        change(&mut claims);
        let key = if claims["#key"].is_string() { &stranger } else { &issuer.key };
        let header = key.header(claims["#typ"].as_str().unwrap_or("JWT"));
        issuer.answer(200, json!({"id_token": key.sign(&header, &claims)}));
        let back = [("code", "c"), ("state", login.state()), ("iss", issuer.url())];
        let response = login.back(&server, &back).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{fault}");
        assert!(!login.is_logged_in(&server).await, "{fault}");
    }
    for (what, status, body, expected) in [
        ("the issuer refuses the code", 400, json!({"error": "invalid_grant"}), 403),
        ("the issuer has failed", 500, json!({}), 503),
        ("no ID token", 200, json!({"access_token": "opaque"}), 403),
        ("a redirect", 302, json!({}), 503),
    ] {
        let login = begin(&server, "").await;
        issuer.answer(status, body);
        let back = [("code", "c"), ("state", login.state()), ("iss", issuer.url())];
        assert_eq!(login.back(&server, &back).await.status().as_u16(), expected, "{what}");
        assert!(!login.is_logged_in(&server).await, "{what}");
    }
    assert_eq!(server.audit(), Vec::<Value>::new());
}

#[tokio::test]
async fn a_login_ends_nowhere_else_and_begins_at_known_issuers_alone() {
    let issuer = TestIssuer::start().await;
    let server = server_of(&issuer).await;
    for (more, status) in [
        ("?redirect=https%3A%2F%2Fevil.example.com", 400),
        ("?redirect=%2F%2Fevil.example.com", 400),
        ("?redirect=%2F%5Cevil.example.com", 400),
        ("?redirect=%2Fa%0D%0ASet-Cookie%3A%20x%3Dy", 400),
        ("?redirect=", 400),
        ("?issuer=another", 404),
        ("?issuer=test&redirect=%2Fdesk", 303),
    ] {
        let response = browser().get(server.url(&format!("/api/v2/login{more}"))).send().await;
        let response = response.unwrap();
        assert_eq!(response.status(), status, "{more}");
        if status != 303 {
            assert!(!response.headers().contains_key("location"), "{more}");
        }
    }
    let without = GatewayServer::open(Default::default()).await;
    let response = browser().get(without.url("/api/v2/login")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    let response = browser().get(without.url("/api/v2/login/callback?code=c&state=s")).send().await;
    assert_eq!(response.unwrap().status(), StatusCode::NOT_FOUND);
    issuer.set_down(true);
    let down = server_of(&issuer).await;
    let response = browser().get(down.url("/api/v2/login")).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_session_of_a_login_ends_with_its_token_and_another_login_prolongs_it() {
    let issuer = TestIssuer::start().await;
    let server = server_of(&issuer).await;
    let log_in = async |login: &Login, exp: i64| {
        let mut claims = id_claims(&issuer, login);
        claims["exp"] = json!(exp);
        answer_with(&issuer, &claims);
        let back = [("code", "c"), ("state", login.state()), ("iss", issuer.url())];
        let response = login.back(&server, &back).await;
        assert_eq!(location(&response), "/api/v2/me");
        let cookie = response.headers()["set-cookie"].to_str().unwrap();
        cookie.split(';').next().unwrap().to_owned()
    };
    let (short, kept) = (begin(&server, "").await, begin(&server, "").await);
    log_in(&short, now() - LEEWAY + 2).await;
    let first = log_in(&kept, now() - LEEWAY + 2).await;
    // The same browser once more.
    let begun = kept.browser.get(server.url("/api/v2/login")).send().await.unwrap();
    let again = Login { asked: query(&location(&begun)), browser: kept.browser.clone() };
    assert_eq!(log_in(&again, now() + 600).await, first, "the same session");
    let over = async || (!short.is_logged_in(&server).await).then_some(());
    wait::found(PATIENCE, over).await.expect("it ends");
    assert!(kept.is_logged_in(&server).await);
}
