//! The end of a login: the cookie, the CometD sessions that were opened in its HTTP session, and
//! nothing else.

use crate::bayeux::{ENDPOINT, handshake, open, open_with, reply, say};
use crate::support::cometd_connection::{open_socket, upgrade};
use crate::support::gateway_server::{GatewayServer, MEG_PHONE, PASSWORD, PATIENCE, ServerOptions};
use crate::support::rest_client::read;
use futures_util::{SinkExt, StreamExt};
use reqwest::{Client, StatusCode, header};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use undertone::cometd::CometdConfig;
use undertone::http::HttpConfig;

/// A page of a user: its cookies, and its CometD session, if it has one.
struct Page<'a> {
    server: &'a GatewayServer,
    http: Client,
    client: String,
}

impl<'a> Page<'a> {
    async fn open(server: &'a GatewayServer) -> Page<'a> {
        let http = server.browser();
        let login = http.get(server.url("/api/v2/me")).basic_auth("meg", Some(PASSWORD));
        assert_eq!(read(login).await.0, StatusCode::OK);
        let mut page = Page { server, http, client: String::new() };
        let shaken = page.say(json!({
            "channel": "/meta/handshake", "version": "1.0",
            "supportedConnectionTypes": ["long-polling"],
        }));
        page.client = shaken.await[0]["clientId"].as_str().expect("a client id").to_owned();
        assert_eq!(page.connect().await[0]["successful"], true);
        page
    }

    async fn say(&self, message: Value) -> Value {
        let post = self.http.post(self.server.url(ENDPOINT)).json(&json!([message]));
        let (status, replies) = read(post).await;
        assert_eq!(status, StatusCode::OK);
        replies
    }

    async fn connect(&self) -> Value {
        self.say(json!({
            "channel": "/meta/connect", "clientId": self.client, "connectionType": "long-polling",
        }))
        .await
    }

    async fn me(&self) -> StatusCode {
        read(self.http.get(self.server.url("/api/v2/me"))).await.0
    }

    async fn post(&self, path: &str, body: Value) -> reqwest::Response {
        let post = self.http.post(self.server.url(&format!("/api/v2{path}")));
        post.json(&body).send().await.expect("an answer")
    }

    /// Nothing of its login is left.
    async fn is_out(&self) {
        assert_eq!(self.me().await, StatusCode::FORBIDDEN);
        let told = self.connect().await;
        let reply = &told.as_array().expect("replies")[0];
        assert_eq!(
            (&reply["error"], &reply["advice"]["reconnect"]),
            (&json!("402::session_unknown"), &json!("handshake")),
            "{told}"
        );
        let denied = self.say(handshake()).await;
        assert_eq!(denied[0]["error"], "403::handshake_denied", "{denied}");
    }
}

fn takes_the_cookie_away(response: &reqwest::Response) -> bool {
    let cookies = response.headers().get_all(header::SET_COOKIE).iter();
    let ours: Vec<&str> = cookies
        .filter_map(|cookie| cookie.to_str().ok())
        .filter(|cookie| cookie.starts_with("JSESSIONID="))
        .collect();
    ours.len() == 1 && ours[0].starts_with("JSESSIONID=;") && ours[0].contains("Max-Age=0")
}

/// Subscribes to devices, and has a connect held.
async fn held<'a>(page: &'a Page<'_>) -> impl Future<Output = Value> + use<'a> {
    page.say(json!({
        "channel": "/meta/subscribe", "clientId": page.client, "subscription": "/v2/me/channels",
    }))
    .await;
    // What is the state now comes first.
    page.connect().await;
    let http = page.http.clone();
    let url = page.server.url(ENDPOINT);
    let connect = json!([{
        "channel": "/meta/connect", "clientId": page.client, "connectionType": "long-polling",
    }]);
    let mut load = page.server.bayeux.load();
    let before = load.borrow_and_update().held;
    let waiting = tokio::spawn(async move { read(http.post(url).json(&connect)).await.1 });
    let is_held = load.wait_for(|load| load.held > before);
    tokio::time::timeout(PATIENCE, is_held).await.expect("in time").expect("an event channel");
    async move { waiting.await.expect("an answer") }
}

#[tokio::test]
async fn the_end_of_the_contact_centre_session_ends_the_login_and_is_told_first() {
    let server = open().await;
    let page = Page::open(&server).await;
    let start = json!({"operationName": "StartContactCenterSession", "channels": ["voice"]});
    assert_eq!(page.post("/me", start).await.status(), StatusCode::OK);
    let held = held(&page).await;
    let ended = page.post("/me", json!({"operationName": "EndContactCenterSession"})).await;
    assert!(takes_the_cookie_away(&ended), "{:?}", ended.headers());
    assert_eq!(ended.json::<Value>().await.expect("JSON"), json!({"statusCode": 0}));
    let told = held.await;
    let told = told.as_array().expect("an array");
    assert_eq!(told.len(), 2, "{told:?}");
    assert_eq!(told[0]["data"]["messageType"], "UserStateChangeMessage");
    assert!(told[0]["data"]["user"].get("userState").is_none(), "{told:?}");
    assert_eq!(told[1]["successful"], true);
    page.is_out().await;
    // Whoever knows the password comes in again.
    assert_eq!(server.get("meg", "/api/v2/me").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_refused_end_ends_no_login() {
    let server = open().await;
    let page = Page::open(&server).await;
    let end = json!({"operationName": "EndContactCenterSession", "channels": ["chat"]});
    assert_eq!(page.post("/me", end).await.status(), StatusCode::BAD_REQUEST);
    assert_eq!(page.me().await, StatusCode::OK);
    assert_eq!(page.say(handshake()).await[0]["successful"], true);
}

#[tokio::test]
async fn a_log_out_ends_the_login_and_leaves_the_contact_centre_session() {
    let server = open().await;
    for by_get in [false, true] {
        let page = Page::open(&server).await;
        let start = json!({"operationName": "StartContactCenterSession", "channels": ["voice"]});
        assert_eq!(page.post("/me", start).await.status(), StatusCode::OK);
        let held = held(&page).await;
        let url = server.url("/api/v2/logout/");
        let own = server.url("/desk?x#y");
        let request = match by_get {
            true => page.http.get(url).header(header::REFERER, own),
            false => page.http.post(url),
        };
        let out = request.send().await.expect("an answer");
        assert!(takes_the_cookie_away(&out), "{:?}", out.headers());
        assert_eq!(out.json::<Value>().await.expect("JSON"), json!({"statusCode": 0}));
        let told = held.await;
        assert_eq!(
            (&told[0]["error"], &told[0]["advice"]["reconnect"]),
            (&json!("402::session_unknown"), &json!("handshake")),
            "{told}"
        );
        page.is_out().await;
        let (_, me) = server.get("meg", "/api/v2/me").await;
        assert_eq!(me["user"]["userState"]["state"], "NotReady");
    }
    let stranger = read(server.posting("/api/v2/logout")).await;
    assert_eq!((stranger.0, &stranger.1["statusCode"]), (StatusCode::FORBIDDEN, &json!(20)));
}

#[tokio::test]
async fn a_log_out_leaves_other_logins_and_other_users_alone() {
    let server = open().await;
    let page = Page::open(&server).await;
    // Without a cookie each of its requests is proved by its password.
    let program = say(&server, "meg", &json!([handshake()])).await;
    let program = program[0]["clientId"].as_str().expect("an id").to_owned();
    let glance = |client: &str| {
        json!([{
            "channel": "/meta/connect", "clientId": client, "connectionType": "long-polling",
            "advice": {"timeout": 0},
        }])
    };
    assert_eq!(reply(&say(&server, "meg", &glance(&program)).await)["successful"], true);
    let bob = say(&server, "bob", &json!([handshake()])).await;
    let bob = bob[0]["clientId"].as_str().expect("an id").to_owned();
    assert_eq!(server.post("meg", "/api/v2/logout", &json!({})).await.0, StatusCode::OK);
    let told = say(&server, "meg", &glance(&program)).await;
    assert_eq!(reply(&told)["error"], "402::session_unknown", "it has no other login");
    assert_eq!(page.me().await, StatusCode::OK, "the page has one");
    assert_eq!(reply(&say(&server, "bob", &glance(&bob)).await)["successful"], true);
    let end = json!({"operationName": "EndContactCenterSession"});
    let again = say(&server, "meg", &json!([handshake()])).await;
    let again = again[0]["clientId"].as_str().expect("an id").to_owned();
    assert_eq!(server.post("meg", "/api/v2/me", &end).await.0, StatusCode::OK);
    let told = say(&server, "meg", &glance(&again)).await;
    assert_eq!(reply(&told)["successful"], true, "there was no HTTP session to end");
}

#[tokio::test]
async fn a_get_logs_nobody_out_where_pages_prove_themselves_or_from_a_foreign_page() {
    let server = open().await;
    let page = Page::open(&server).await;
    for (name, value) in [("origin", "https://evil"), ("sec-fetch-site", "cross-site")] {
        let get = page.http.get(server.url("/api/v2/logout")).header(name, value);
        let (status, body) = read(get).await;
        assert_eq!((status, &body["statusCode"]), (StatusCode::FORBIDDEN, &json!(5)), "{name}");
        let post = page.http.post(server.url("/api/v2/logout")).header(name, value);
        assert_eq!(read(post).await.0, StatusCode::FORBIDDEN, "{name}");
    }
    assert_eq!(page.me().await, StatusCode::OK);
    let (status, allow, _) = head(&page).await;
    assert_eq!((status, allow.as_str()), (StatusCode::METHOD_NOT_ALLOWED, "GET, POST"));
    assert_eq!(page.me().await, StatusCode::OK, "a HEAD changes nothing");

    let server = GatewayServer::open(ServerOptions {
        http: HttpConfig { csrf: true, ..HttpConfig::default() },
        ..ServerOptions::default()
    })
    .await;
    let browser = server.browser();
    let login = browser.get(server.url("/api/v2/me")).basic_auth("meg", Some(PASSWORD));
    let login = login.send().await.expect("an answer");
    let token = login.headers()["x-csrf-token"].clone();
    let url = server.url("/api/v2/logout");
    let (status, body) = read(browser.get(&url)).await;
    assert_eq!((status, &body["statusCode"]), (StatusCode::METHOD_NOT_ALLOWED, &json!(3)));
    let (status, body) = read(browser.post(&url)).await;
    assert_eq!((status, &body["statusCode"]), (StatusCode::FORBIDDEN, &json!(5)), "{body}");
    let me = server.url("/api/v2/me");
    assert_eq!(read(browser.get(&me)).await.0, StatusCode::OK);
    assert_eq!(read(browser.post(&url).header("x-csrf-token", token)).await.0, StatusCode::OK);
    assert_eq!(read(browser.get(&me)).await.0, StatusCode::FORBIDDEN);
}

async fn head(page: &Page<'_>) -> (StatusCode, String, bool) {
    let head = page.http.head(page.server.url("/api/v2/logout"));
    let answer = head.header("sec-fetch-site", "same-origin").send().await.expect("an answer");
    let allow = answer.headers()[header::ALLOW].to_str().expect("text").to_owned();
    (answer.status(), allow, takes_the_cookie_away(&answer))
}

#[tokio::test]
async fn a_get_by_cookie_logs_out_only_where_a_browser_says_that_it_is_of_an_own_page() {
    let server = GatewayServer::open(ServerOptions {
        http: HttpConfig {
            public_url: "https://Undertone.example:443/".to_owned(),
            cors_origins: vec!["https://desk.example".to_owned()],
            ..HttpConfig::default()
        },
        ..ServerOptions::default()
    })
    .await;
    let page = Page::open(&server).await;
    let url = server.url("/api/v2/logout");
    let elsewhere = url.replace("http://", "http://user@");
    for proof in [
        vec![("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:60.0)")],
        vec![("referer", "http://evil.example/127.0.0.1")],
        vec![("referer", elsewhere.as_str())],
        vec![("referer", "/api/v2/logout")],
        vec![("sec-fetch-site", "same-site")],
        vec![("sec-fetch-site", "")],
        vec![("origin", "null"), ("sec-fetch-site", "none")],
        vec![("origin", "https://evil.example"), ("referer", url.as_str())],
    ] {
        let get =
            proof.iter().fold(page.http.get(&url), |get, (name, value)| get.header(*name, *value));
        let (status, body) = read(get).await;
        assert_eq!((status, &body["statusCode"]), (StatusCode::FORBIDDEN, &json!(5)), "{proof:?}");
    }
    assert_eq!(page.me().await, StatusCode::OK);
    let own = server.url("");
    for (name, value) in [
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-site", "none"),
        ("origin", own.as_str()),
        ("origin", "https://undertone.example"),
        ("origin", "https://desk.example"),
        ("referer", own.as_str()),
        ("referer", "https://undertone.example/desk/?a=b"),
        ("referer", "https://desk.example/"),
    ] {
        let page = Page::open(&server).await;
        let status = read(page.http.get(&url).header(name, value)).await.0;
        assert_eq!(status, StatusCode::OK, "{name}: {value}");
        assert_eq!(page.me().await, StatusCode::FORBIDDEN, "{name}: {value}");
    }
    let program = Page::open(&server).await;
    assert_eq!(read(program.http.get(&url)).await.0, StatusCode::OK, "no browser");
    assert_eq!(program.me().await, StatusCode::FORBIDDEN);
    let by_password = page.http.get(&url).basic_auth("meg", Some(PASSWORD));
    assert_eq!(read(by_password).await.0, StatusCode::OK);
    assert_eq!(page.me().await, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_log_out_closes_the_websockets_of_its_login_and_they_open_no_session_any_more() {
    let server = open().await;
    // A cookie, as a browser sends it with its websockets.
    let fresh = server.getting("/api/v2/me").basic_auth("meg", Some(PASSWORD));
    let fresh = fresh.send().await.expect("an answer");
    let cookie = fresh.headers()[header::SET_COOKIE].to_str().expect("text");
    let cookie = cookie.split(';').next().expect("a pair").to_owned();
    let socket = async || {
        let mut request = upgrade(server.address, None);
        request.headers_mut().insert("cookie", cookie.parse().expect("a header"));
        open_socket(server.address, request).await.expect("a websocket").0
    };
    let (mut with_session, mut without) = (socket().await, socket().await);
    let shake = Message::text(
        json!([{
            "channel": "/meta/handshake", "version": "1.0",
            "supportedConnectionTypes": ["websocket"],
        }])
        .to_string(),
    );
    with_session.send(shake.clone()).await.expect("sent");
    let shaken = with_session.next().await.expect("open").expect("a frame");
    assert!(shaken.to_text().expect("text").contains("\"successful\":true"), "{shaken}");
    let out = server.posting("/api/v2/logout").header(header::COOKIE, &cookie);
    assert_eq!(read(out).await.0, StatusCode::OK);
    let closed = tokio::time::timeout(PATIENCE, with_session.next()).await.expect("in time");
    let closed = closed.expect("a frame").expect("a close");
    let Message::Close(Some(frame)) = closed else { panic!("{closed:?}") };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (1008, "The user has logged out."));
    without.send(shake).await.expect("sent");
    let denied = tokio::time::timeout(PATIENCE, without.next()).await.expect("in time");
    let denied = denied.expect("open").expect("a frame");
    assert!(denied.to_text().expect("text").contains("403::handshake_denied"), "{denied}");
}

/// Polls on one connection are believed for a moment to be of the same client.
#[tokio::test]
async fn a_poll_on_an_open_connection_is_not_believed_after_the_log_out() {
    let server = open().await;
    // A program's session, which outlives the cookie.
    let browser = "0123456789abcdefghij";
    let cookies = format!("BAYEUX_BROWSER={browser}");
    let shaken = server.client("meg").posting(ENDPOINT, &json!([handshake()]));
    let shaken = read(shaken.header(header::COOKIE, &cookies)).await.1;
    let client = shaken[0]["clientId"].as_str().expect("a client id").to_owned();
    let connect = json!([{
        "channel": "/meta/connect", "clientId": client, "connectionType": "long-polling",
    }]);
    let connected = server.client("meg").posting(ENDPOINT, &connect);
    let connected = read(connected.header(header::COOKIE, &cookies)).await.1;
    assert_eq!(connected[0]["successful"], true, "{connected}");

    let fresh = server.getting("/api/v2/me").basic_auth("meg", Some(PASSWORD));
    let fresh = fresh.send().await.expect("an answer");
    let login = fresh.headers()[header::SET_COOKIE].to_str().expect("text");
    let login = login.split(';').next().expect("a pair").to_owned();
    // One connection, and the same head each time.
    let one = crate::support::rest_client::client_builder()
        .no_proxy()
        .pool_max_idle_per_host(1)
        .build()
        .expect("a client");
    let subscribe = async || {
        let message = json!([{
            "channel": "/meta/subscribe", "clientId": client, "subscription": "/v2/other",
        }]);
        let post = one.post(server.url(ENDPOINT)).json(&message);
        read(post.header(header::COOKIE, format!("{login}; {cookies}"))).await.1
    };
    for _ in 0..3 {
        assert_eq!(subscribe().await[0]["successful"], true);
    }
    let out = server.posting("/api/v2/logout").header(header::COOKIE, &login);
    assert_eq!(read(out).await.0, StatusCode::OK);
    assert_eq!(subscribe().await[0]["error"], "402::session_unknown");
}

#[tokio::test]
async fn a_dead_cookie_is_denied_also_where_strangers_are_let_in() {
    let server = open_with(CometdConfig { anonymous: true, ..CometdConfig::default() }).await;
    let shake = async |more: Option<&str>| {
        let post = server.posting(ENDPOINT).json(&json!([handshake()]));
        let post = post.header(header::COOKIE, "JSESSIONID=dead");
        // The same by way of the HTTP library.
        read(more.into_iter().fold(post, |post, name| post.header(name, "1"))).await.1
    };
    for more in [None, Some("x-unknown")] {
        let denied = shake(more).await;
        assert_eq!(
            (&denied[0]["error"], &denied[0]["advice"]["reconnect"]),
            (&json!("403::handshake_denied"), &json!("none"))
        );
    }
    let stranger = server.posting(ENDPOINT).json(&json!([handshake()]));
    assert_eq!(read(stranger).await.1[0]["successful"], true);
    let version = server.getting("/api/v2/diagnostics/version");
    let version = version.header(header::COOKIE, "JSESSIONID=dead");
    assert_eq!(read(version).await.0, StatusCode::OK, "open to everybody");
}

#[tokio::test]
async fn a_wrong_password_is_denied_also_where_strangers_are_let_in() {
    let server = open_with(CometdConfig { anonymous: true, ..CometdConfig::default() }).await;
    let shake = async |password: Option<&str>| {
        let post = server.posting(ENDPOINT).json(&json!([handshake()]));
        let post = match password {
            Some(password) => post.basic_auth("meg", Some(password)),
            None => post,
        };
        read(post).await.1
    };
    assert_eq!(shake(None).await[0]["successful"], true);
    assert_eq!(shake(Some(PASSWORD)).await[0]["successful"], true);
    let denied = shake(Some("wrong")).await;
    assert_eq!(
        (&denied[0]["error"], &denied[0]["advice"]["reconnect"]),
        (&json!("403::handshake_denied"), &json!("none"))
    );
    // The same by way of the HTTP library, and on a websocket.
    let other = server.posting(ENDPOINT).header("x-unknown", "1").json(&json!([handshake()]));
    let denied = read(other.basic_auth("meg", Some("wrong"))).await.1;
    assert_eq!(denied[0]["error"], "403::handshake_denied");
    let mut request = upgrade(server.address, None);
    let wrong = "Basic bWVnOndyb25n";
    request.headers_mut().insert("authorization", wrong.parse().expect("a header"));
    let (mut socket, _) = open_socket(server.address, request).await.expect("a websocket");
    let shake = json!([{
        "channel": "/meta/handshake", "version": "1.0", "supportedConnectionTypes": ["websocket"],
    }]);
    socket.send(Message::text(shake.to_string())).await.expect("sent");
    let denied = socket.next().await.expect("open").expect("a frame");
    assert!(denied.to_text().expect("text").contains("403::handshake_denied"), "{denied}");
}

#[tokio::test]
async fn a_handshake_that_asks_for_a_pause_or_a_shorter_hold_is_told_what_it_gets() {
    let server = open().await;
    for (asked, interval, timeout) in [
        (json!({}), 0, 25_000),
        (json!({"interval": 1500}), 1500, 25_000),
        (json!({"interval": 86_400_000}), 300_000, 25_000),
        (json!({"timeout": 10_000, "interval": 0}), 0, 10_000),
        (json!({"timeout": 60_000}), 0, 25_000),
        (json!({"timeout": 0}), 0, 25_000),
        (json!({"timeout": -1, "interval": "soon"}), 0, 25_000),
        (json!("retry"), 0, 25_000),
    ] {
        let mut shake = handshake();
        shake["advice"] = asked.clone();
        let shaken = say(&server, "meg", &json!([shake])).await;
        let expected = json!({"reconnect": "retry", "interval": interval, "timeout": timeout});
        assert_eq!(shaken[0]["advice"], expected, "{asked}");
        let glance = json!([{
            "channel": "/meta/connect", "clientId": shaken[0]["clientId"],
            "connectionType": "long-polling", "advice": {"timeout": 0},
        }]);
        let connected = say(&server, "meg", &glance).await;
        assert_eq!(reply(&connected)["advice"], expected, "a connect repeats it: {asked}");
    }
    let device = format!("/api/v2/me/devices/{MEG_PHONE}");
    assert_eq!(server.get("meg", &device).await.0, StatusCode::OK);
}
