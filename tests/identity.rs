//! Users by bearer token and by a login at their issuer: what is taken, what is refused, and that
//! nothing comes of what is refused.

mod browser;
mod provider;

use crate::support::certificates::Certificates;
use crate::support::cometd_connection::{open_socket, upgrade};
use crate::support::gateway_server::{
    BOB_PHONE, GatewayServer, MEG_PHONE, PATIENCE, ServerOptions,
};
use crate::support::issuer::{AUDIENCE, SigningKey, TestIssuer, encoded, now, part};
use crate::support::rest_client::{http_client, read};
use crate::support::server::Server;
use crate::support::wait;
use futures_util::{SinkExt, StreamExt};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::time::Duration;
use tokio_tungstenite::tungstenite::Message;
use undertone::http::identity::{IdentityConfig, IssuerConfig};

const LEEWAY: i64 = 60;

async fn server_with(identity: IdentityConfig, issuer: IssuerConfig) -> GatewayServer {
    GatewayServer::open(ServerOptions { identity, issuers: vec![issuer], ..Default::default() })
        .await
}

async fn server_of(issuer: &TestIssuer) -> GatewayServer {
    server_with(IdentityConfig::default(), issuer.config(json!({}))).await
}

/// What the server says to a token that asks who it is of.
async fn me(server: &GatewayServer, token: &str) -> (StatusCode, Value) {
    read(server.getting("/api/v2/me").bearer_auth(token)).await
}

async fn is_user(server: &GatewayServer, token: &str, user: &str) {
    let (status, body) = me(server, token).await;
    assert_eq!((status, &body["user"]["userName"]), (StatusCode::OK, &json!(user)), "{body}");
}

async fn coach(server: &GatewayServer, token: &str) -> (StatusCode, Value) {
    let body = json!({
        "operationName": "Coach",
        "targetDeviceUri": format!("http://localhost:8080/api/v2/devices/{BOB_PHONE}"),
    });
    let path = format!("/api/v2/me/devices/{MEG_PHONE}");
    read(server.posting(&path).bearer_auth(token).json(&body)).await
}

async fn bayeux(server: &GatewayServer, token: &str, messages: &Value) -> Value {
    let (status, body) =
        read(server.posting("/api/v2/notifications").bearer_auth(token).json(messages)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    body
}

fn handshake() -> Value {
    json!([{"channel": "/meta/handshake", "version": "1.0",
            "supportedConnectionTypes": ["long-polling", "websocket"]}])
}

fn connect(client: &Value) -> Value {
    json!([{"channel": "/meta/connect", "clientId": client, "connectionType": "long-polling"}])
}

#[tokio::test]
async fn a_token_is_its_user_at_rest_and_at_the_event_channel() {
    let issuer = TestIssuer::start().await;
    let server = server_of(&issuer).await;
    let token = issuer.token("meg");
    is_user(&server, &token, "meg").await;
    let (status, body) = coach(&server, &token).await;
    assert_eq!((status, &body), (StatusCode::OK, &json!({"statusCode": 0})));
    let line = server.audit().pop().expect("a line");
    assert_eq!(line["user"], "meg");

    let answer = server.getting("/api/v2/me").bearer_auth(&token).send().await.unwrap();
    assert!(!answer.headers().contains_key("set-cookie"), "a token opens no session");

    let client = bayeux(&server, &token, &handshake()).await[0]["clientId"].clone();
    assert!(client.is_string());
    assert_eq!(bayeux(&server, &token, &connect(&client)).await[0]["successful"], true);
    let other = issuer.token("kim");
    let reply = bayeux(&server, &other, &connect(&client)).await;
    assert_eq!(reply[0]["error"], "402::session_unknown", "it is another user's");

    let mut request = upgrade(server.address, None);
    let bearer = format!("bearer {token}").parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    let (mut socket, _) = open_socket(server.address, request).await.unwrap();
    socket.send(Message::text(handshake().to_string())).await.unwrap();
    let reply = socket.next().await.unwrap().unwrap().into_text().unwrap();
    assert!(reply.contains("\"successful\":true"), "{reply}");
    assert_eq!(issuer.fetches(), 1);
}

/// A token with a fault: its name, and the token.
fn faults(issuer: &TestIssuer) -> Vec<(&'static str, String)> {
    let key = &issuer.key;
    let header = key.header("at+jwt");
    let claims = issuer.claims("meg");
    let with_header = |name: &str, value: Value| {
        let mut header = header.clone();
        header[name] = value;
        key.sign(&header, &claims)
    };
    let without_header = |name: &str| {
        let mut header = header.clone();
        header.as_object_mut().unwrap().remove(name);
        key.sign(&header, &claims)
    };
    let with = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        key.sign(&header, &claims)
    };
    let without = |name: &str| {
        let mut claims = claims.clone();
        claims.as_object_mut().unwrap().remove(name);
        key.sign(&header, &claims)
    };
    let by_hmac = |secret: &[u8]| {
        let header = json!({"alg": "HS256", "typ": "at+jwt", "kid": "first"});
        let message = format!("{}.{}", part(&header), part(&claims));
        let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        let tag = aws_lc_rs::hmac::sign(&secret, message.as_bytes());
        format!("{message}.{}", encoded(tag.as_ref()))
    };
    let unsigned = |alg: &str| {
        let header = json!({"alg": alg, "typ": "at+jwt"});
        format!("{}.{}.", part(&header), part(&claims))
    };
    let good = issuer.token("meg");
    let (message, signature) = good.rsplit_once('.').unwrap();
    let stranger = SigningKey::new("first");
    let mut with_own_key = header.clone();
    with_own_key["jwk"] = stranger.jwk();
    with_own_key["jku"] = json!("http://127.0.0.1:9/keys");
    let id_token = {
        let mut claims = claims.clone();
        claims["aud"] = json!("undertone");
        key.sign(&key.header("JWT"), &claims)
    };
    let late = now() + LEEWAY + 30;
    vec![
        ("no algorithm", unsigned("none")),
        ("no algorithm, spelled otherwise", unsigned("nOnE")),
        ("no algorithm, and a signature", with_header("alg", json!("none"))),
        ("HMAC with the public key", by_hmac(key.public())),
        ("HMAC with the JWK", by_hmac(key.jwk().to_string().as_bytes())),
        ("HMAC with nothing", by_hmac(b"")),
        ("an algorithm that is not taken", with_header("alg", json!("ES384"))),
        ("an algorithm of another kind of key", with_header("alg", json!("RS256"))),
        ("no algorithm at all", without_header("alg")),
        ("another audience", with("aud", json!("https://crm.example.com"))),
        ("no audience", without("aud")),
        ("an audience that begins like ours", with("aud", json!("https://desk.example.com.evil"))),
        ("the ID token of a browser", id_token),
        ("another issuer", with("iss", json!("https://evil.example.com"))),
        ("an issuer with a slash more", with("iss", json!(format!("{}/", issuer.url())))),
        ("no issuer", without("iss")),
        ("another type", with_header("typ", json!("JWT"))),
        ("the type of a logout token", with_header("typ", json!("logout+jwt"))),
        ("no type", without_header("typ")),
        ("a key that is a path", with_header("kid", json!("../../../../etc/passwd"))),
        ("a key that is a URL", with_header("kid", json!("http://127.0.0.1:9/key"))),
        ("a key that is a query", with_header("kid", json!("x' OR 1=1 --"))),
        ("a key with a long name", with_header("kid", json!("k".repeat(129)))),
        ("a key that is no text", with_header("kid", json!(["first"]))),
        ("the key that it brings along", stranger.sign(&with_own_key, &claims)),
        ("the key of a stranger", stranger.sign(&header, &claims)),
        ("a critical extension", with_header("crit", json!(["exp"]))),
        ("no critical extension, said so", with_header("crit", Value::Null)),
        ("issued in the future", with("iat", json!(late))),
        ("good in the future", with("nbf", json!(late))),
        ("over", with("exp", json!(now() - LEEWAY - 1))),
        ("over since 1970", with("exp", json!(0))),
        ("never over", without("exp")),
        ("over after the end of time", with("exp", json!(1e300))),
        ("over before the beginning of time", with("exp", json!(-1))),
        ("over at a text", with("exp", json!("4000000000"))),
        ("too long", with("note", json!("n".repeat(9_000)))),
        ("a long header", with_header("note", json!("n".repeat(2_000)))),
        ("nothing", String::new()),
        ("no token", "no-token".to_owned()),
        ("two parts", message.to_owned()),
        ("four parts", format!("{good}.x")),
        ("dots", "..".to_owned()),
        ("no JSON", format!("{}.{}.{signature}", encoded(b"{"), encoded(b"{"))),
        ("padding", format!("{good}=")),
        ("no signature", format!("{message}.")),
        ("half a signature", format!("{message}.{}", &signature[..signature.len() / 2])),
        ("other claims", {
            let (header, _) = message.split_once('.').unwrap();
            format!("{header}.{}.{signature}", part(&issuer.claims("kim")))
        }),
        ("a token that needs a proof", with("cnf", json!({"jkt": "x"}))),
        ("an unknown user", issuer.token("nobody")),
        ("no user", without("sub")),
        ("an empty user", issuer.token("")),
        ("a user that is no text", with("sub", json!(["meg"]))),
        ("a user in other letters", issuer.token("MEG")),
    ]
}

/// Each fault, the status it has, and that nothing came of it.
#[tokio::test]
async fn a_token_with_any_fault_is_refused_and_nothing_happens() {
    let issuer = TestIssuer::start().await;
    let server = server_of(&issuer).await;
    is_user(&server, &issuer.token("meg"), "meg").await;
    let sessions = |server: &GatewayServer| server.bayeux.load().borrow().sessions;
    for (fault, token) in faults(&issuer) {
        let answer = server.getting("/api/v2/me").bearer_auth(&token).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{fault}");
        let challenge = &answer.headers()["www-authenticate"];
        assert_eq!(challenge, "Bearer error=\"invalid_token\"", "{fault}");
        assert!(!answer.headers().contains_key("set-cookie"), "{fault}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body, json!({"statusCode": 20, "statusMessage": "Access denied"}), "{fault}");

        assert_eq!(coach(&server, &token).await.0, StatusCode::UNAUTHORIZED, "{fault}");

        let reply = bayeux(&server, &token, &handshake()).await;
        assert_eq!(reply[0]["error"], "403::handshake_denied", "{fault}");
        assert!(reply[0].get("clientId").is_none(), "{fault}");
    }
    assert_eq!(server.audit(), Vec::<Value>::new());
    assert_eq!(sessions(&server), 0);
    // Several keys were not known: that is one look for another.
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn a_token_beside_a_cookie_or_another_login_is_what_counts() {
    let issuer = TestIssuer::start().await;
    let server = server_of(&issuer).await;
    let browser = server.browser();
    let me = server.url("/api/v2/me");
    let by_password = browser.get(&me).basic_auth("meg", Some("correct horse"));
    assert_eq!(read(by_password).await.0, StatusCode::OK);
    let (status, _) = read(browser.get(&me).bearer_auth("no.good.token")).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "the cookie mends nothing");
    let (_, body) = read(browser.get(&me).bearer_auth(issuer.token("kim"))).await;
    assert_eq!(body["user"]["userName"], "kim");
    let twice = server.getting("/api/v2/me").bearer_auth(issuer.token("meg"));
    let twice = twice.header("authorization", "Basic bWVnOmNvcnJlY3QgaG9yc2U=");
    assert_eq!(read(twice).await.0, StatusCode::FORBIDDEN, "which of both?");
    let in_query = server.getting(&format!("/api/v2/me?access_token={}", issuer.token("meg")));
    assert_eq!(read(in_query).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_unknown_keys_are_one_fetch() {
    let issuer = TestIssuer::start().await;
    let server = std::sync::Arc::new(server_of(&issuer).await);
    is_user(&server, &issuer.token("meg"), "meg").await;
    assert_eq!(issuer.fetches(), 1);
    let claims = issuer.claims("meg");
    let requests: Vec<_> = (0..1000)
        .map(|number| {
            let kid = format!("unknown-{number}");
            let header = json!({"alg": "ES256", "typ": "at+jwt", "kid": kid});
            let token = issuer.key.sign(&header, &claims);
            let server = server.clone();
            tokio::spawn(async move { me(&server, &token).await.0 })
        })
        .collect();
    for request in requests {
        assert_eq!(request.await.unwrap(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(issuer.fetches(), 2);
    is_user(&server, &issuer.token("meg"), "meg").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_fetched_once_for_all_that_wait_for_them() {
    let issuer = TestIssuer::start().await;
    let server = std::sync::Arc::new(server_of(&issuer).await);
    issuer.hold();
    let requests: Vec<_> = (0..50)
        .map(|_| {
            let (server, token) = (server.clone(), issuer.token("meg"));
            tokio::spawn(async move { me(&server, &token).await.0 })
        })
        .collect();
    wait::holds("the keys are asked for", PATIENCE, || issuer.fetches() == 1).await;
    // Whoever asked first goes away: the others still get them.
    requests[0].abort();
    issuer.let_go(100);
    for request in requests.into_iter().skip(1) {
        assert_eq!(request.await.unwrap(), StatusCode::OK);
    }
    assert_eq!(issuer.fetches(), 1);
}

#[tokio::test]
async fn a_new_key_is_taken_at_once_and_one_that_was_withdrawn_no_more() {
    let issuer = TestIssuer::start().await;
    let server = server_of(&issuer).await;
    let (old, next) = (issuer.token("meg"), SigningKey::new("second"));
    is_user(&server, &old, "meg").await;
    issuer.publish(vec![next.jwk()]);
    let new = next.sign(&next.header("at+jwt"), &issuer.claims("kim"));
    is_user(&server, &new, "kim").await;
    assert_eq!(me(&server, &old).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(issuer.fetches(), 2);
}

#[tokio::test]
async fn a_key_that_was_withdrawn_is_not_believed_for_long() {
    let issuer = TestIssuer::start().await;
    let keys_refresh = Duration::from_millis(200);
    let identity = IdentityConfig { keys_refresh, ..IdentityConfig::default() };
    let server = server_with(identity, issuer.config(json!({}))).await;
    let token = issuer.token("meg");
    is_user(&server, &token, "meg").await;
    issuer.publish(vec![SigningKey::new("second").jwk()]);
    let gone = async || (me(&server, &token).await.0 == StatusCode::UNAUTHORIZED).then_some(());
    wait::found(PATIENCE, gone).await.expect("it is refused");
}

#[tokio::test]
async fn keys_that_cannot_be_fetched_anew_are_believed_for_a_while_and_then_nobody_is_let_in() {
    let issuer = TestIssuer::start().await;
    let identity = IdentityConfig {
        keys_refresh: Duration::from_millis(200),
        keys_stale: Duration::from_secs(3),
        ..IdentityConfig::default()
    };
    let server = server_with(identity, issuer.config(json!({}))).await;
    let token = issuer.token("meg");
    is_user(&server, &token, "meg").await;
    issuer.set_down(true);
    is_user(&server, &token, "meg").await;
    let gone = async || (me(&server, &token).await.0 != StatusCode::OK).then_some(());
    wait::found(PATIENCE, gone).await.expect("they become too old");
    let (status, body) = me(&server, &token).await;
    assert_eq!((status, &body["statusCode"]), (StatusCode::SERVICE_UNAVAILABLE, &json!(4)));
    assert_eq!(coach(&server, &token).await.0, StatusCode::SERVICE_UNAVAILABLE);
    let reply = bayeux(&server, &token, &handshake()).await;
    assert_eq!(reply[0]["error"], "503::unavailable", "a client comes again");
    assert_eq!(server.audit(), Vec::<Value>::new());
    let (status, _) = server.get("meg", "/api/v2/me").await;
    assert_eq!(status, StatusCode::OK, "passwords are no concern of the issuer");
    assert!(issuer.fetches() <= 2, "it is not asked without end");
}

#[tokio::test]
async fn an_issuer_that_was_never_there_lets_nobody_in() {
    let issuer = TestIssuer::start().await;
    issuer.set_down(true);
    let server = server_of(&issuer).await;
    for _ in 0..20 {
        let (status, _) = me(&server, &issuer.token("meg")).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    }
    assert_eq!(issuer.fetches(), 0, "its keys are where it says, and it says nothing");
}

#[tokio::test]
async fn keys_for_other_uses_and_too_many_bytes_of_them_are_none() {
    let issuer = TestIssuer::start().await;
    let mut for_encryption = issuer.key.jwk();
    for_encryption["use"] = json!("enc");
    let secret = json!({"kty": "oct", "k": encoded(b"secret"), "kid": "first", "alg": "HS256"});
    issuer.publish(vec![for_encryption, secret]);
    let server = server_of(&issuer).await;
    assert_eq!(me(&server, &issuer.token("meg")).await.0, StatusCode::SERVICE_UNAVAILABLE);

    let issuer = TestIssuer::start().await;
    let mut long = issuer.key.jwk();
    long["x5c"] = json!(["c".repeat(300_000)]);
    issuer.publish(vec![long]);
    let server = server_of(&issuer).await;
    assert_eq!(me(&server, &issuer.token("meg")).await.0, StatusCode::SERVICE_UNAVAILABLE);
}

/// The whole product, as its file says.
#[tokio::test]
async fn an_issuer_is_asked_over_tls_and_must_be_vouched_for() {
    let certificates = Certificates::new();
    let issuer = TestIssuer::with_tls(&certificates).await;
    let http = http_client();
    let authorities = format!("authorities = '{}'\n", certificates.authority_file().display());
    for (more, status) in [(authorities.as_str(), 200), ("", 503)] {
        let server = Server::configured(&format!(
            "[[identity.issuer]]\nname = 'test'\nissuer = '{}'\naudience = ['{AUDIENCE}']\n{more}",
            issuer.url()
        ))
        .await;
        let url = format!("http://{}/api/v2/me", server.rest);
        let (found, body) = read(http.get(url).bearer_auth(issuer.token("supervisor"))).await;
        assert_eq!(found.as_u16(), status, "{body}");
        server.running.stop().await;
    }
}

/// What the issuer does not vouch for is not the user's; and nothing is that only it says.
#[tokio::test]
async fn a_token_vouches_for_every_role_and_group_of_its_user_where_it_is_asked_to() {
    let issuer = TestIssuer::start().await;
    let config = issuer.config(json!({
        "user_claim": "preferred_username",
        "roles_claim": "roles", "roles": {"coach": "Supervisor"},
        "groups_claim": "teams", "groups": {"/desk/sales": "sales"},
    }));
    let server = server_with(IdentityConfig::default(), config).await;
    let token = |user: &str, roles: Value, teams: Value| {
        let mut claims = issuer.claims("0f8b");
        claims["preferred_username"] = json!(user);
        (claims["roles"], claims["teams"]) = (roles, teams);
        issuer.token_of(&claims)
    };
    is_user(&server, &token("meg", json!(["coach"]), json!(["/desk/sales"])), "meg").await;
    is_user(&server, &token("meg", json!("x Supervisor"), json!(["sales", "hr"])), "meg").await;
    for (roles, teams) in [
        (json!(["Agent"]), json!(["sales"])),
        (json!(["Admin"]), json!(["sales"])),
        (json!([]), json!(["sales"])),
        (json!(null), json!(["sales"])),
        (json!({"coach": true}), json!(["sales"])),
        (json!(["coach"]), json!(["support"])),
        (json!(["coach"]), json!([])),
    ] {
        let token = token("meg", roles.clone(), teams.clone());
        let (status, _) = me(&server, &token).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{roles} {teams}");
    }
    // An agent with a token that says supervisor is an agent.
    let risen = token("bob", json!(["Agent", "coach", "Admin"]), json!(["sales", "support"]));
    is_user(&server, &risen, "bob").await;
    let (status, _) = coach(&server, &risen).await;
    assert_ne!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_user_that_is_no_more_is_refused_by_the_token_of_before() {
    let issuer = TestIssuer::start().await;
    let server = server_of(&issuer).await;
    let token = issuer.token("meg");
    is_user(&server, &token, "meg").await;
    server.remove_user("meg").await;
    assert_eq!(me(&server, &token).await.0, StatusCode::UNAUTHORIZED);
}

/// `exp` is past, so that it is over in about a second: a leeway after it.
fn nearly_over(issuer: &TestIssuer, user: &str) -> String {
    let mut claims = issuer.claims(user);
    claims["exp"] = json!(now() - LEEWAY + 2);
    issuer.token_of(&claims)
}

#[tokio::test]
async fn a_session_of_the_event_channel_ends_with_its_token() {
    let issuer = TestIssuer::start().await;
    let server = server_of(&issuer).await;
    is_user(&server, &issuer.token("meg"), "meg").await;
    let token = nearly_over(&issuer, "meg");
    let client = bayeux(&server, &token, &handshake()).await[0]["clientId"].clone();
    assert_eq!(bayeux(&server, &token, &connect(&client)).await[0]["successful"], true);
    // Held until the login is over, on the fast path.
    let reply = bayeux(&server, &token, &connect(&client)).await;
    assert_eq!(reply[0]["error"], "401::login_expired", "{reply}");
    let reply = bayeux(&server, &token, &connect(&client)).await;
    assert_eq!(reply[0]["successful"], false);
    let reply = bayeux(&server, &token, &handshake()).await;
    assert_eq!(reply[0]["error"], "403::handshake_denied");
}

#[tokio::test]
async fn a_newer_token_of_the_same_user_prolongs_the_session() {
    let issuer = TestIssuer::start().await;
    let server = server_of(&issuer).await;
    is_user(&server, &issuer.token("meg"), "meg").await;
    let old = nearly_over(&issuer, "meg");
    let client = bayeux(&server, &old, &handshake()).await[0]["clientId"].clone();
    assert_eq!(bayeux(&server, &old, &connect(&client)).await[0]["successful"], true);
    let new = issuer.token("meg");
    let mut at_once = connect(&client);
    at_once[0]["advice"] = json!({"timeout": 0});
    assert_eq!(bayeux(&server, &new, &at_once).await[0]["successful"], true);
    let over = async || (me(&server, &old).await.0 == StatusCode::UNAUTHORIZED).then_some(());
    wait::found(PATIENCE, over).await.expect("the old one is over");
    assert_eq!(bayeux(&server, &new, &at_once).await[0]["successful"], true);
}

#[tokio::test]
async fn a_websocket_ends_with_its_token() {
    let issuer = TestIssuer::start().await;
    let server = server_of(&issuer).await;
    is_user(&server, &issuer.token("meg"), "meg").await;
    let mut request = upgrade(server.address, None);
    let bearer = format!("Bearer {}", nearly_over(&issuer, "meg")).parse().unwrap();
    request.headers_mut().insert("authorization", bearer);
    let (mut socket, _) = open_socket(server.address, request).await.unwrap();
    socket.send(Message::text(handshake().to_string())).await.unwrap();
    let mut closed = None;
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Close(Some(frame)) = message {
            closed = Some((u16::from(frame.code), frame.reason.to_string()));
        }
    }
    assert_eq!(closed, Some((1008, "The login has expired.".to_owned())));
}

/// Nothing of what was shown is in what is said or kept.
#[test]
fn a_secret_is_never_shown() {
    let config: IssuerConfig = serde_json::from_value(json!({
        "name": "test", "issuer": "https://id.example.com", "client_id": "undertone",
        "client_secret": "a-very-long-secret",
    }))
    .unwrap();
    assert!(!format!("{config:?}").contains("a-very-long-secret"));
}
