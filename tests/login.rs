//! A desktop logs in as Workspace Web Edition does: each row of the sequence, in any order, by
//! password or by cookie, with a slash behind the path or without.

use crate::support::gateway_server::{
    BOB_PHONE, CONTACT_CENTER, EVE_PHONE, GatewayServer, MEG_PHONE, PASSWORD, PATIENCE,
    ServerOptions,
};
use crate::support::rest_client::read;
use crate::support::wait;
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};

const PUBLIC: &str = "http://127.0.0.1:8080/api/v2";

/// What a row asks.
#[derive(Clone, Debug)]
enum Row {
    /// Nobody asks for the user.
    Stranger,
    /// Path, and the check of the answer.
    Get(String, fn(&Value)),
    /// Path and body, and the check of the answer.
    Post(&'static str, Value, fn(&Value)),
    /// Handshake, connect, subscriptions.
    CometD,
}

/// How a client proves its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Password,
    Cookie,
}

/// What is in all three.
fn is_ok(body: &Value) {
    assert_eq!(body, &json!({"statusCode": 0}));
}

fn has_user(body: &Value) {
    let user = body["user"].as_object().expect("a user");
    let keys: Vec<&str> = user.keys().map(String::as_str).take(11).collect();
    let expected = [
        "id",
        "userName",
        "firstName",
        "lastName",
        "emailAddress",
        "roles",
        "enabled",
        "changePasswordOnFirstLogin",
        "contactCenterId",
        "uri",
        "path",
    ];
    assert_eq!(keys, expected);
    assert_eq!(body["user"].get("contactCenterId"), Some(&json!(CONTACT_CENTER)), "{body}");
    assert_eq!(
        (&user["enabled"], &user["changePasswordOnFirstLogin"]),
        (&json!(true), &json!(false))
    );
}

fn has_features(body: &Value) {
    has_user(body);
    let user = &body["user"];
    assert_eq!(
        user["features"][0],
        json!({
            "id": "api-voice", "displayName": "Voice",
            "description": "Calls on the user's devices.",
            "autoAssignOnContactCenterCreate": true,
            "uri": format!("{PUBLIC}/features/api-voice"), "path": "/features/api-voice",
        })
    );
    assert_eq!(user["features"][1]["id"], "api-supervisor-monitoring");
    let device = &user["devices"][0];
    assert_eq!(
        (&device["id"], &device["description"], &device["channels"], &device["dynamicPhoneNumber"]),
        (&json!(MEG_PHONE), &json!(""), &json!(["voice"]), &json!(""))
    );
    assert_eq!(user["channels"][0]["channel"], "voice");
    assert!(user.get("calls").is_none() && user.get("toys").is_none(), "{user}");
}

fn has_absent_lists(body: &Value) {
    has_user(body);
    let user = &body["user"];
    for list in ["calls", "interactions", "chats"] {
        assert_eq!(user[list], json!([]), "{list}");
    }
    assert_eq!(user["devices"][0]["id"], MEG_PHONE);
    assert!(user.get("features").is_none(), "{user}");
}

fn has_settings(body: &Value) {
    assert_eq!(body, &json!({"statusCode": 0, "settings": [], "key": "name"}));
}

fn has_voice(body: &Value) {
    let service = json!({"id": "voice", "name": "voice", "state": "Active"});
    assert_eq!(body, &json!({"statusCode": 0, "services": [service]}));
}

fn has_no_group(body: &Value) {
    assert_eq!(body, &json!({"statusCode": 0, "groups": []}));
}

fn has_bob(body: &Value) {
    let expected = json!({"statusCode": 0, "contact": {
        "id": "bob", "name": "BOB", "type": "User",
        "phoneNumbers": [{"phoneNumber": "5001", "description": "", "switchName": "House"}],
        "userName": "bob", "firstName": "BOB", "lastName": "", "employeeId": "bob",
        "uri": format!("{PUBLIC}/contacts/bob"), "path": "/contacts/bob",
    }});
    assert_eq!(body.to_string(), expected.to_string(), "and in this order");
}

fn has_version(body: &Value) {
    assert_eq!(body["statusCode"], 0);
    assert!(body["version"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
}

fn has_no_workbin(body: &Value) {
    assert_eq!(body, &json!({"statusCode": 0, "workbins": []}));
}

fn is_open_without_chat(body: &Value) {
    assert_eq!(
        body,
        &json!({
            "statusCode": 7,
            "succeeded": [{"channel": "voice", "statusMessage": "The session is open."}],
            "failed": [{"channel": "chat", "statusMessage": "There is no channel 'chat' here."}],
        })
    );
}

/// The rows of the login sequence.
fn rows() -> Vec<Row> {
    let get = |path: &str, check| Row::Get(path.to_owned(), check);
    let state = |name: &str| Row::Post("/me/channels/voice", json!({"operationName": name}), is_ok);
    let start = json!({
        "operationName": "StartContactCenterSession", "channels": ["voice", "chat"],
        "place": "desk-7", "devicePath": "/devices/7", "loginCode": "5005", "queue": "8000",
    });
    vec![
        Row::Stranger,
        get("/me?subresources=features,devices,channels,toys", has_features),
        get("/me/settings", has_settings),
        get("/me/settings/interaction-workspace", has_settings),
        get("/services?fields=*", has_voice),
        get("/me/groups?type=BusinessUnit&fields=*", has_no_group),
        get("/groups?type=dispositions&fields=*", has_no_group),
        Row::Get(format!("/me/devices/{MEG_PHONE}/settings/tserver"), has_settings),
        Row::Get(format!("/devices/{MEG_PHONE}/settings/tserver"), has_settings),
        Row::Post("/me", start, is_open_without_chat),
        get("/contacts/bob?type=User", has_bob),
        state("NotReady"),
        get("/diagnostics/version", has_version),
        get("/workbins?fields=*", has_no_workbin),
        Row::CometD,
        get("/me?subresources=devices,calls,channels,interactions,chats", has_absent_lists),
        state("Ready"),
    ]
}

/// One desktop.
struct Desktop<'a> {
    server: &'a GatewayServer,
    by: By,
    /// With a slash behind each path.
    slash: bool,
    http: Client,
}

impl<'a> Desktop<'a> {
    async fn open(server: &'a GatewayServer, by: By, slash: bool) -> Self {
        let http = match by {
            By::Password => crate::support::rest_client::client_builder()
                .no_proxy()
                .timeout(PATIENCE)
                .build()
                .expect("one"),
            By::Cookie => server.browser(),
        };
        if by == By::Cookie {
            let login = http.get(server.url("/api/v2/me")).basic_auth("meg", Some(PASSWORD));
            assert_eq!(read(login).await.0, StatusCode::OK);
        }
        Self { server, by, slash, http }
    }

    fn url(&self, path: &str) -> String {
        let slash = if self.slash { "/" } else { "" };
        let (path, query) =
            path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query)));
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        self.server.url(&format!("/api/v2{path}{slash}{query}"))
    }

    fn proved(&self, request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
        match self.by {
            By::Password => request.basic_auth("meg", Some(PASSWORD)),
            By::Cookie => request,
        }
    }

    async fn asked(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        read(self.proved(self.http.post(self.url(path)).json(body))).await
    }

    async fn run(&self, row: &Row) {
        let case = format!("{row:?} by {:?}, slash {}", self.by, self.slash);
        match row {
            Row::Stranger => {
                let stranger = crate::support::rest_client::client_builder()
                    .no_proxy()
                    .build()
                    .expect("a client");
                let answer = read(stranger.get(self.url("/me"))).await;
                let denied = json!({"statusCode": 20, "statusMessage": "Access denied"});
                assert_eq!(answer, (StatusCode::FORBIDDEN, denied), "{case}");
            }
            Row::Get(path, check) => {
                let (status, body) = read(self.proved(self.http.get(self.url(path)))).await;
                assert_eq!(status, StatusCode::OK, "{case}: {body}");
                check(&body);
            }
            Row::Post(path, body, check) => {
                let (status, body) = self.asked(path, body).await;
                assert_eq!(status, StatusCode::OK, "{case}: {body}");
                check(&body);
            }
            Row::CometD => self.subscribe().await,
        }
    }

    async fn subscribe(&self) {
        let say = async |message: Value| {
            let (status, reply) = self.asked("/notifications", &json!([message])).await;
            assert_eq!(status, StatusCode::OK);
            reply
        };
        let shaken = say(json!({
            "channel": "/meta/handshake", "version": "1.0",
            "supportedConnectionTypes": ["long-polling"],
        }))
        .await;
        let client = shaken[0]["clientId"].as_str().expect("a client id").to_owned();
        let connected = say(json!({
            "channel": "/meta/connect", "clientId": client, "connectionType": "long-polling",
        }))
        .await;
        assert_eq!(connected[0]["successful"], true, "{connected}");
        for channel in ["/v2/me/devices", "/v2/me/calls", "/v2/me", "/v2/me/channels"] {
            let subscribed = say(json!({
                "channel": "/meta/subscribe", "clientId": client, "subscription": channel,
            }))
            .await;
            let replies = subscribed.as_array().expect("replies");
            let is_good = |one: &Value| one["subscription"] == channel && one["successful"] == true;
            assert!(replies.iter().any(is_good), "{channel}: {subscribed}");
        }
    }
}

async fn replayed(by: By, slash: bool) {
    for is_reversed in [false, true] {
        let server = GatewayServer::open(ServerOptions::default()).await;
        let desktop = Desktop::open(&server, by, slash).await;
        let mut rows = rows();
        if is_reversed {
            rows.reverse();
        }
        for row in &rows {
            desktop.run(row).await;
        }
        let (_, me) = server.get("meg", "/api/v2/me").await;
        let last = if is_reversed { "NotReady" } else { "Ready" };
        assert_eq!(me["user"]["userState"]["state"], last, "{me}");
    }
}

#[tokio::test]
async fn the_login_sequence_gets_through_by_password() {
    replayed(By::Password, false).await;
    replayed(By::Password, true).await;
}

#[tokio::test]
async fn the_login_sequence_gets_through_by_cookie() {
    replayed(By::Cookie, false).await;
    replayed(By::Cookie, true).await;
}

#[tokio::test]
async fn each_row_of_the_login_sequence_works_alone() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    for by in [By::Password, By::Cookie] {
        for slash in [false, true] {
            let desktop = Desktop::open(&server, by, slash).await;
            for row in rows() {
                desktop.run(&row).await;
                let end = json!({"operationName": "EndContactCenterSession"});
                assert_eq!(server.post("meg", "/api/v2/me", &end).await.0, StatusCode::OK);
            }
        }
    }
}

#[tokio::test]
async fn a_list_in_a_query_may_come_in_several_parameters() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let get = async |query: &str| server.get("bob", &format!("/api/v2/me{query}")).await;
    for (repeated, joined) in [
        ("?subresources=features&subresources=devices", "?subresources=features,devices"),
        ("?fields=id&fields=userName", "?fields=id,userName"),
        (
            "?fields=id&subresources=calls&fields=userName&subresources=features",
            "?fields=id,userName&subresources=calls,features",
        ),
        ("?fields=id&fields=*", "?fields=*"),
    ] {
        let answer = get(repeated).await;
        assert_eq!(answer.0, StatusCode::OK, "{repeated}: {}", answer.1);
        assert_eq!(answer, get(joined).await, "{repeated}");
    }
    let devices = "/api/v2/me/devices?fields=id&fields=deviceState";
    let (_, devices) = server.get("bob", devices).await;
    assert_eq!(devices["devices"][0].as_object().expect("a device").len(), 2, "{devices}");
    let twice = "/api/v2/devices?phoneNumber=1&phoneNumber=2";
    let (status, body) = server.get("bob", twice).await;
    assert_eq!((status, &body["statusCode"]), (StatusCode::BAD_REQUEST, &json!(10)), "{body}");
}

#[tokio::test]
async fn a_session_opens_on_the_channels_that_there_are_or_not_at_all() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let start = async |channels: Value| {
        let body = json!({"operationName": "StartContactCenterSession", "channels": channels});
        server.post("bob", "/api/v2/me", &body).await
    };
    let is_open =
        async || server.get("bob", "/api/v2/me").await.1["user"].get("userState").is_some();
    for (channels, says) in [
        (json!(null), "channels"),
        (json!([]), "channels"),
        (json!("voice"), "channels"),
        (json!({"channel": "voice"}), "channels"),
        (json!(["voice", 7]), "channels"),
        (json!([["voice"]]), "channels"),
    ] {
        let (status, body) = start(channels.clone()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{channels}: {body}");
        let text = body["statusMessage"].as_str().expect("a message");
        assert!(text.contains(says), "{channels}: {text}");
        assert!(!is_open().await, "{channels}");
    }
    for channels in [json!(["chat"]), json!(["Voice"]), json!(["email", "chat", "chat"])] {
        let (status, body) = start(channels.clone()).await;
        assert_eq!((status, &body["statusCode"]), (StatusCode::OK, &json!(7)), "{body}");
        assert_eq!(body["succeeded"], json!([]), "{body}");
        let failed = body["failed"].as_array().expect("a list");
        assert_eq!(failed.last().expect("one")["channel"], channels[0], "{body}");
        assert!(!is_open().await, "{channels}");
    }
    let long = "x".repeat(10_000);
    let (status, body) = start(json!(["chat", "voice", long, "chat", "email"])).await;
    assert_eq!((status, &body["statusCode"]), (StatusCode::OK, &json!(7)), "{body}");
    let failed: Vec<&str> = body["failed"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|one| one["channel"].as_str())
        .collect();
    assert_eq!(failed, ["chat", "email", &"x".repeat(128)], "each once, and cut");
    assert!(is_open().await);
    assert_eq!(start(json!(["voice", "voice"])).await.1, json!({"statusCode": 0}));
    let end =
        |channels: Value| json!({"operationName": "EndContactCenterSession", "channels": channels});
    let (status, body) = server.post("bob", "/api/v2/me", &end(json!(["chat"]))).await;
    assert_eq!((status, &body["statusCode"]), (StatusCode::BAD_REQUEST, &json!(10)));
    assert!(is_open().await);
    let ended = server.post("bob", "/api/v2/me", &end(json!(["voice", "chat"]))).await;
    assert_eq!(ended.1, json!({"statusCode": 0}));
    assert!(!is_open().await);
}

#[tokio::test]
async fn what_is_not_there_or_not_the_users_to_know_is_not_found() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    for path in [
        "/users/eve",
        "/users/bob",
        "/users/nobody",
        "/contacts/eve",
        "/contacts/otto",
        "/contacts/nobody",
        "/contacts/bob?type=Skill",
        "/contacts/%0d%0a",
        "/groups/support",
        "/groups/nothing",
        "/features/api-chat",
        "/me/devices/nothing/settings/tserver",
        "/me/channels/chat",
        "/me/settings/a/b",
        "/logout/now",
    ] {
        let (status, body) = server.get("meg", &format!("/api/v2{path}")).await;
        assert_eq!((status, &body["statusCode"]), (StatusCode::NOT_FOUND, &json!(6)), "{path}");
    }
    for (device, root) in [(BOB_PHONE, "/me/devices"), (EVE_PHONE, "/devices")] {
        let path = format!("/api/v2{root}/{device}/settings/tserver");
        assert_eq!(server.get("meg", &path).await.0, StatusCode::NOT_FOUND, "{path}");
    }
    for path in ["/contacts?type=User&type=Skill", "/me?fields=id&fields=uri", "/groups?type=%ff"] {
        let (status, body) = server.get("meg", &format!("/api/v2{path}")).await;
        let is_read = status == StatusCode::OK;
        assert!(is_read || body["statusCode"] == 10, "{path}: {status} {body}");
    }
    for path in ["/users/meg", "/contacts", "/services", "/me/settings", "/workbins", "/features"] {
        let (status, body) = server.post("meg", &format!("/api/v2{path}"), &json!({})).await;
        assert_eq!(
            (status, &body["statusCode"]),
            (StatusCode::METHOD_NOT_ALLOWED, &json!(3)),
            "{path}"
        );
    }
}

#[tokio::test]
async fn a_user_knows_the_colleagues_of_the_own_groups_and_finds_them_by_number() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let names = async |user: &str, query: &str| -> Vec<String> {
        let (_, body) = server.get(user, &format!("/api/v2/contacts?fields=*{query}")).await;
        let contacts = body["contacts"].as_array().expect("a list");
        contacts.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
    };
    assert_eq!(names("meg", "").await, ["bob", "kim", "meg"]);
    assert_eq!(names("bob", "").await, ["bob", "kim", "meg"]);
    assert_eq!(names("eve", "&type=User").await, ["eve", "otto"]);
    assert_eq!(names("meg", "&phoneNumber=5001").await, ["bob"]);
    assert_eq!(names("meg", "&phoneNumber=5002").await, [] as [&str; 0]);
    assert_eq!(names("meg", "&type=Skill").await, [] as [&str; 0]);
    let (_, uris) = server.get("eve", "/api/v2/contacts").await;
    let expected = ["eve", "otto"].map(|name| format!("{PUBLIC}/contacts/{name}"));
    assert_eq!(uris, json!({"statusCode": 0, "uris": expected}));
    let group = json!({
        "id": "sales", "name": "sales", "type": "AgentGroup",
        "uri": format!("{PUBLIC}/groups/sales"), "path": "/groups/sales",
    });
    for path in ["/me/groups", "/groups"] {
        let (_, body) = server.get("meg", &format!("/api/v2{path}?fields=*&type=AgentGroup")).await;
        assert_eq!(body, json!({"statusCode": 0, "groups": [group]}), "{path}");
    }
    assert_eq!(server.get("meg", "/api/v2/groups/sales").await.1["group"], group);
    assert_eq!(server.get("meg", "/api/v2/users/meg").await.1["user"]["id"], "meg");
}

#[tokio::test]
async fn fields_select_the_members_of_each_object() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let get = async |path: &str| {
        let (status, body) = server.get("meg", &format!("/api/v2{path}")).await;
        assert_eq!(status, StatusCode::OK, "{path}: {body}");
        body
    };
    let device = json!({"id": MEG_PHONE, "phoneNumber": "5005"});
    assert_eq!(
        get("/me/devices?fields=phoneNumber,%20id,toys").await,
        json!({"statusCode": 0, "devices": [device]})
    );
    assert_eq!(
        get(&format!("/me/devices/{MEG_PHONE}?fields=id,phoneNumber")).await,
        json!({"statusCode": 0, "device": device})
    );
    assert_eq!(
        get("/me?fields=userName&subresources=calls").await,
        json!({"statusCode": 0, "user": {"userName": "meg", "calls": []}})
    );
    assert_eq!(get("/me?fields=toys").await, json!({"statusCode": 0, "user": {}}));
    assert_eq!(get("/me?fields=id,*").await, get("/me").await);
    assert_eq!(get("/me?fields=").await, get("/me").await);
    assert_eq!(get("/me/settings?fields=id").await["key"], "name");
    let whole = get("/me/devices?fields=*").await;
    assert_eq!(whole["devices"][0], get(&format!("/me/devices/{MEG_PHONE}")).await["device"]);
    let (status, body) = server.get("meg", "/api/v2/me/devices/nothing?fields=id").await;
    assert_eq!(
        (status, body.as_object().map(serde_json::Map::len)),
        (StatusCode::NOT_FOUND, Some(2))
    );
}

#[tokio::test]
async fn a_state_needs_a_registered_phone_and_offline_does_not() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    server.phones.register(&BOB_PHONE.into(), false).await.expect("a phone");
    let gone = wait::found(PATIENCE, async || {
        let (_, body) = server.get("bob", &format!("/api/v2/me/devices/{BOB_PHONE}")).await;
        (body["device"]["deviceState"] == "Inactive").then_some(())
    });
    gone.await.expect("in time");
    let ask = async |name: &str| {
        server.post("bob", "/api/v2/me/channels/voice", &json!({"operationName": name})).await
    };
    for name in ["Ready", "NotReady", "AfterCallWork", "AuxWork"] {
        let refusal = json!({"statusCode": 4, "statusMessage": "Device '5001' is not registered."});
        assert_eq!(ask(name).await, (StatusCode::INTERNAL_SERVER_ERROR, refusal), "{name}");
    }
    assert_eq!(ask("Offline").await.1, json!({"statusCode": 0}));
    let (_, me) = server.get("bob", "/api/v2/me").await;
    assert!(me["user"].get("userState").is_none(), "no session is open: {me}");
    server.phones.register(&BOB_PHONE.into(), true).await.expect("a phone");
    let accepted = wait::found(PATIENCE, async || (ask("Ready").await.0 == 200).then_some(()));
    accepted.await.expect("in time");
}
