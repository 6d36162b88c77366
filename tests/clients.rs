//! The real clients of the event channel, unpatched: npm `cometd` 9 and 3.1, npm `faye`, PyPI
//! `aiocometd-ng`. Each over a cable that can be cut and plugged into the next life of the gateway.

use crate::support::cable::Cable;
use crate::support::certificates::Certificates;
use crate::support::cometd_connection::Cut;
use crate::support::gateway_server::{
    BOB_PHONE, GatewayServer, MEG_PHONE, PASSWORD, PATIENCE, ServerOptions,
};
use crate::support::packages::{self, Installed};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use undertone::store::{self, Store};

/// Which program speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Library {
    CometD9,
    CometD3,
    Faye,
    Aiocometd,
}

pub(crate) fn installed() -> Installed {
    packages::installed("clients")
}

/// Where a program finds the event channel: a port of this machine, and with TLS the authority that
/// it is to trust.
pub(crate) struct Place {
    port: u16,
    authority: Option<PathBuf>,
}

impl From<u16> for Place {
    fn from(port: u16) -> Self {
        Self { port, authority: None }
    }
}

/// A client program and what it says.
pub(crate) struct ClientProgram {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    /// Said before what was waited for: events come ahead of the reply that they ride with.
    unheard: VecDeque<Value>,
}

impl ClientProgram {
    pub(crate) fn start(
        library: Library,
        place: impl Into<Place>,
        user: &str,
        transport: &str,
        channels: &str,
        more: &[&str],
    ) -> Self {
        let Installed { node, python } = tokio::task::block_in_place(installed);
        let mut command = match library {
            Library::CometD9 | Library::CometD3 | Library::Faye => Command::new("node"),
            Library::Aiocometd => Command::new("python3"),
        };
        match library {
            Library::CometD9 => command.arg(node.join("cometd.js")).args(["--version", "9"]),
            Library::CometD3 => command.arg(node.join("cometd.js")).args(["--version", "3"]),
            Library::Faye => command.arg(node.join("faye.js")),
            Library::Aiocometd => command
                .arg(python.join("aiocometd_client.py"))
                .env("PYTHONPATH", python.join("packages")),
        };
        let Place { port, authority } = place.into();
        let scheme = if authority.is_some() { "https" } else { "http" };
        if let Some(authority) = authority {
            command.env("NODE_EXTRA_CA_CERTS", &authority).env("SSL_CERT_FILE", &authority);
        }
        command
            .args(["--url", &format!("{scheme}://localhost:{port}/api/v2/notifications")])
            .args([
                "--user",
                user,
                "--password",
                PASSWORD,
                "--transport",
                transport,
                "--channels",
                channels,
            ])
            .args(more);
        Self::run(&mut command)
    }

    /// Any program that speaks in lines of JSON.
    pub(crate) fn run(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node and python3 are installed");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let input = child.stdin.take();
        Self { child, input, lines, unheard: VecDeque::new() }
    }

    /// The next thing of this kind.
    pub(crate) async fn next(&mut self, what: &str) -> Value {
        if let Some(at) = self.unheard.iter().position(|said| said["what"] == what) {
            return self.unheard.remove(at).expect("just found");
        }
        loop {
            let line = tokio::time::timeout(PATIENCE * 2, self.lines.next_line()).await;
            let line = line
                .unwrap_or_else(|_| panic!("no '{what}'; besides: {:?}", self.unheard))
                .expect("a pipe");
            let text = line.unwrap_or_else(|| {
                panic!("it has ended before '{what}'; besides: {:?}", self.unheard)
            });
            match serde_json::from_str::<Value>(&text) {
                Ok(said) if said["what"] == what => return said,
                Ok(said) => self.unheard.push_back(said),
                Err(_) => println!("client: {text}"),
            }
        }
    }

    /// Forgets what it has said of this kind so far.
    fn forget(&mut self, what: &str) {
        self.unheard.retain(|said| said["what"] != what);
    }

    /// What has happened since the last time, up to this number: only numbered events, not the
    /// present state.
    pub(crate) async fn forwards_until(&mut self, last: &str) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.last().map(String::as_str) != Some(last) {
            let event = self.next("event").await["message"].clone();
            assert_eq!(
                (&event["channel"], &event["data"]["messageType"]),
                (&json!("/v2/me/devices"), &json!("DeviceStateChangeMessage"))
            );
            if event["ext"]["replay"].is_u64() {
                seen.push(
                    event["data"]["devices"][0]["forwardTo"].as_str().unwrap_or("-").to_owned(),
                );
            }
        }
        seen
    }

    pub(crate) async fn say(&mut self, line: &str) {
        let input = self.input.as_mut().expect("open");
        input.write_all(format!("{line}\n").as_bytes()).await.expect("it listens");
    }

    pub(crate) async fn end(mut self) {
        drop(self.input.take());
        self.next("disconnected").await;
        let status = tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("in time")
            .expect("a process");
        assert!(status.success());
    }
}

async fn server(store: &Store) -> GatewayServer {
    server_by(store, None).await
}

async fn server_by(store: &Store, tls: Option<&Arc<Certificates>>) -> GatewayServer {
    let store = Some(store.clone());
    GatewayServer::open(ServerOptions { store, tls: tls.cloned(), ..ServerOptions::default() })
        .await
}

pub(crate) async fn forward_to(server: &GatewayServer, number: u32) {
    let body = json!({"operationName": "ForwardCallsOn", "destination": number.to_string()});
    let answer = server.post("meg", &format!("/api/v2/me/devices/{MEG_PHONE}"), &body).await;
    assert_eq!(answer.1, json!({"statusCode": 0}));
}

fn numbers(range: std::ops::RangeInclusive<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// Connect, subscribe, receive in order; a cut connection; a restart of the gateway.
async fn lives_through_everything(
    library: Library,
    transport: &str,
    more: &[&str],
    tls: Option<Arc<Certificates>>,
) {
    let store = store::in_memory();
    let first = server_by(&store, tls.as_ref()).await;
    let cable = Cable::to(first.address).await;
    let authority = || tls.as_ref().map(|certificates| certificates.authority_file());
    let place = |port| Place { port, authority: authority() };
    let mut desktop = ClientProgram::start(
        library,
        place(cable.address.port()),
        "meg",
        transport,
        "/v2/me/devices,/v2/me/calls",
        more,
    );
    assert_eq!(desktop.next("connected").await["transport"], transport);
    for _ in 0..2 {
        assert_eq!(desktop.next("subscribed").await["successful"], true);
    }
    for number in 1..=5 {
        forward_to(&first, number).await;
    }
    assert_eq!(desktop.forwards_until("5").await, numbers(1..=5));

    for (how, number) in [(Cut::Fin, 6), (Cut::Rst, 8)] {
        cable.cut(how).await;
        forward_to(&first, number).await;
        forward_to(&first, number + 1).await;
        let last = (number + 1).to_string();
        assert_eq!(desktop.forwards_until(&last).await, numbers(number..=number + 1), "{how:?}");
    }

    desktop.forget("subscribed");
    desktop.forget("connected");
    desktop.forget("broken");
    let keeps = more.contains(&"--ack") || more.contains(&"--replay");
    if keeps {
        // It has no connection when this happens, and there is no gateway when it comes back.
        cable.plug_into(([127, 0, 0, 1], 1).into());
        cable.cut(Cut::Rst).await;
        desktop.next("broken").await;
        // The reply says that it is accepted; another desktop, that it has been told.
        let mut witness = ClientProgram::start(
            Library::CometD9,
            place(first.address.port()),
            "meg",
            "long-polling",
            "/v2/me/devices",
            &[],
        );
        witness.next("subscribed").await;
        forward_to(&first, 10).await;
        assert_eq!(witness.forwards_until("10").await, ["10"]);
    }
    first.close().await;
    let second = server_by(&store, tls.as_ref()).await;
    cable.plug_into(second.address);
    if !keeps {
        desktop.next("subscribed").await;
    }
    forward_to(&second, 11).await;
    forward_to(&second, 12).await;
    assert_eq!(desktop.forwards_until("12").await, numbers(if keeps { 10..=12 } else { 11..=12 }));
    desktop.end().await;
}

macro_rules! everything {
    ($($name:ident: $library:expr, $transport:expr, $more:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            lives_through_everything($library, $transport, &$more, None).await;
        }
    )*};
}

macro_rules! everything_by_tls {
    ($($name:ident: $library:expr, $transport:expr, $more:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            let tls = Some(Arc::new(Certificates::new()));
            lives_through_everything($library, $transport, &$more, tls).await;
        }
    )*};
}

everything! {
    cometd_9_by_long_polling: Library::CometD9, "long-polling", [];
    cometd_9_by_long_polling_with_ack: Library::CometD9, "long-polling", ["--ack"];
    cometd_9_by_long_polling_with_replay: Library::CometD9, "long-polling", ["--replay"];
    cometd_9_by_websocket: Library::CometD9, "websocket", [];
    cometd_9_by_websocket_with_ack: Library::CometD9, "websocket", ["--ack"];
    cometd_9_by_websocket_with_replay: Library::CometD9, "websocket", ["--replay"];
    cometd_3_by_long_polling: Library::CometD3, "long-polling", [];
    cometd_3_by_long_polling_with_ack: Library::CometD3, "long-polling", ["--ack"];
    cometd_3_by_websocket: Library::CometD3, "websocket", [];
    cometd_3_by_websocket_with_ack: Library::CometD3, "websocket", ["--ack"];
    faye_by_long_polling: Library::Faye, "long-polling", [];
    faye_by_websocket: Library::Faye, "websocket", [];
    aiocometd_by_long_polling: Library::Aiocometd, "long-polling", [];
    aiocometd_by_long_polling_with_ack: Library::Aiocometd, "long-polling", ["--ack"];
    aiocometd_by_websocket: Library::Aiocometd, "websocket", [];
    aiocometd_by_websocket_with_ack: Library::Aiocometd, "websocket", ["--ack"];
}

everything_by_tls! {
    cometd_9_by_long_polling_with_ack_over_tls: Library::CometD9, "long-polling", ["--ack"];
    cometd_9_by_websocket_with_replay_over_tls: Library::CometD9, "websocket", ["--replay"];
    cometd_3_by_long_polling_over_tls: Library::CometD3, "long-polling", [];
    faye_by_websocket_over_tls: Library::Faye, "websocket", [];
    aiocometd_by_long_polling_with_ack_over_tls: Library::Aiocometd, "long-polling", ["--ack"];
    aiocometd_by_websocket_over_tls: Library::Aiocometd, "websocket", [];
}

async fn operate(server: &GatewayServer, body: Value) {
    let answer = server.post("meg", &format!("/api/v2/me/devices/{MEG_PHONE}"), &body).await;
    assert_eq!(answer.1, json!({"statusCode": 0}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desktop_that_may_choose_takes_the_websocket_and_sees_every_change_of_its_device() {
    let server = server(&store::in_memory()).await;
    let port = server.address.port();
    let mut desktop = ClientProgram::start(
        Library::CometD9,
        port,
        "meg",
        "any",
        "/v2/me/devices,/v2/me/calls",
        &[],
    );
    let mut idle =
        ClientProgram::start(Library::CometD9, port, "bob", "any", "/v2/me/devices", &[]);
    assert_eq!(desktop.next("connected").await["transport"], "websocket");
    let device = |said: Value| said["message"]["data"]["devices"][0].clone();
    assert_eq!(device(desktop.next("event").await)["id"], MEG_PHONE);
    assert_eq!(device(idle.next("event").await)["id"], BOB_PHONE);
    operate(&server, json!({"operationName": "DoNotDisturbOn"})).await;
    let coach = json!({
        "operationName": "Coach",
        "targetDeviceUri": format!("http://localhost:8080/api/v2/devices/{BOB_PHONE}"),
    });
    operate(&server, coach).await;
    operate(&server, json!({"operationName": "CancelSupervisorMonitoring"})).await;
    operate(&server, json!({"operationName": "DoNotDisturbOff"})).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let device = device(desktop.next("event").await);
        seen.push((
            device["doNotDisturb"].clone(),
            device["supervisorMonitoringState"]["state"].clone(),
        ));
    }
    let expected =
        [("On", json!(null)), ("On", json!("Coach")), ("On", json!(null)), ("Off", json!(null))];
    assert_eq!(seen, expected.map(|(on, state)| (json!(on), state)));
    desktop.end().await;
    idle.end().await;
}

async fn a_reload_goes_on_with_the_session(library: Library, transport: &str) {
    let server = server(&store::in_memory()).await;
    let place = tempfile::tempdir().expect("a folder");
    let file = place.path().join("storage.json");
    let more = ["--ack", "--reload-file", file.to_str().expect("text")];
    let start = || {
        ClientProgram::start(
            library,
            server.address.port(),
            "meg",
            transport,
            "/v2/me/devices",
            &more,
        )
    };
    let mut page = start();
    page.next("connected").await;
    page.next("subscribed").await;
    forward_to(&server, 1).await;
    assert_eq!(page.forwards_until("1").await, ["1"]);
    // With the connect that is held now it has acknowledged that.
    let mut load = server.bayeux.load();
    let held = tokio::time::timeout(PATIENCE, load.wait_for(|load| load.held == 1)).await;
    let sessions = held.expect("in time").expect("an event channel").sessions;
    page.say("reload").await;
    let ended = tokio::time::timeout(PATIENCE, page.child.wait())
        .await
        .expect("in time")
        .expect("a process");
    assert!(ended.success());
    forward_to(&server, 2).await;
    let mut page = start();
    let seen = page.forwards_until("2").await;
    // Where the page ended before its acknowledgement had left, it hears it again, and loses
    // nothing.
    assert!(seen == ["2"] || seen == ["1", "2"], "{seen:?}");
    forward_to(&server, 3).await;
    assert_eq!(page.forwards_until("3").await, ["3"]);
    assert_eq!(server.bayeux.load().borrow().sessions, sessions, "it is the same session");
    page.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reloaded_page_of_cometd_9_goes_on_with_its_session() {
    a_reload_goes_on_with_the_session(Library::CometD9, "long-polling").await;
    a_reload_goes_on_with_the_session(Library::CometD9, "websocket").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reloaded_page_of_cometd_3_goes_on_with_its_session() {
    a_reload_goes_on_with_the_session(Library::CometD3, "long-polling").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_with_a_wrong_password_is_denied() {
    let server = server(&store::in_memory()).await;
    let mut desktop = ClientProgram::start(
        Library::CometD9,
        server.address.port(),
        "nobody",
        "long-polling",
        "/v2/me/devices",
        &[],
    );
    assert_eq!(desktop.next("handshake").await["successful"], false);
}

/// The login sequence with the reads in the order of a desktop, and npm `cometd` in their midst.
async fn a_desktop_logs_in_and_out(by: &str, transport: &str) {
    let server = server(&store::in_memory()).await;
    let Installed { node, .. } = tokio::task::block_in_place(installed);
    let url = format!("http://localhost:{}/api/v2/notifications", server.address.port());
    let mut desktop = ClientProgram::run(
        Command::new("node").arg(node.join("login.js")).args(["--url", &url]).args([
            "--user",
            "meg",
            "--password",
            PASSWORD,
            "--device",
            MEG_PHONE,
            "--contact",
            "bob",
            "--by",
            by,
            "--transport",
            transport,
        ]),
    );
    let case = format!("by {by} over {transport}");
    let mut answers = Vec::new();
    while answers.len() < 13 {
        let said = desktop.next("answer").await;
        let code = said["body"]["statusCode"].clone();
        let expected = if answers.len() == 6 { 7 } else { 0 };
        assert_eq!((&said["status"], &code), (&json!(200), &json!(expected)), "{case}: {said}");
        answers.push(said);
    }
    assert_eq!(answers[7]["body"]["contact"]["phoneNumbers"][0]["phoneNumber"], "5001");
    assert_eq!(answers[11]["body"]["user"]["chats"], json!([]));
    assert_eq!(desktop.next("handshake").await["successful"], true, "{case}");
    for _ in 0..5 {
        let said = desktop.next("subscribed").await;
        assert_eq!(said["successful"], true, "{case}: {said}");
    }
    let state_of = |said: &Value| {
        said["message"]["data"]["devices"][0]["userState"]["state"].as_str().map(str::to_owned)
    };
    while state_of(&desktop.next("event").await).as_deref() != Some("Ready") {}
    desktop.say("out").await;
    let ended = desktop.next("answer").await;
    assert_eq!(ended["body"], json!({"statusCode": 0}), "{case}");
    let status = desktop.next("answer").await["status"].clone();
    match by {
        // The cookie is good for nothing any more, and the client is told so.
        "cookie" => {
            assert_eq!(status, 403, "{case}");
            let said = desktop.next("handshake").await;
            assert_eq!(said["successful"], false, "{case}: {said}");
        }
        // There was no HTTP session to end: its CometD session goes on.
        _ => {
            assert_eq!(status, 200, "{case}");
            while state_of(&desktop.next("event").await).as_deref() != Some("LoggedOut") {}
        }
    }
    drop(desktop.input.take());
    let left = tokio::time::timeout(PATIENCE, desktop.child.wait()).await;
    assert!(left.expect("in time").expect("a process").success(), "{case}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desktop_logs_in_and_out_by_cookie() {
    a_desktop_logs_in_and_out("cookie", "long-polling").await;
    a_desktop_logs_in_and_out("cookie", "websocket").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desktop_logs_in_and_out_by_password() {
    a_desktop_logs_in_and_out("password", "long-polling").await;
    a_desktop_logs_in_and_out("password", "websocket").await;
}

/// `undertone events` is a client, too.
#[tokio::test]
async fn the_terminal_shows_a_users_events_through_a_restart_and_ends_when_asked() {
    let store = store::in_memory();
    let first = server(&store).await;
    let cable = Cable::to(first.address).await;
    let mut child = Command::new(env!("CARGO_BIN_EXE_undertone"))
        .args(["events", "--user", "meg", "--url", &format!("http://{}", cable.address)])
        .args(["--channel", "/v2/me/devices"])
        .env("UNDERTONE_PASSWORD", PASSWORD)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("our own program");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut next = async || {
        tokio::time::timeout(PATIENCE, lines.next_line())
            .await
            .expect("in time")
            .expect("a pipe")
            .expect("a line")
    };
    let line = next().await;
    assert!(line.starts_with("- /v2/me/devices device ") && !line.contains('{'), "{line}");
    forward_to(&first, 1).await;
    let line = next().await;
    assert!(
        line.starts_with("1000000001 /v2/me/devices device ") && line.contains("forwarded to 1"),
        "{line}"
    );
    first.close().await;
    let second = server(&store).await;
    forward_to(&second, 2).await;
    cable.plug_into(second.address);
    loop {
        let line = next().await;
        if line.starts_with("2000000001 /v2/me/devices") && line.contains("forwarded to 2") {
            break;
        }
        assert!(line.starts_with("- "), "only the present state may come besides: {line}");
    }
    let id = i32::try_from(child.id().expect("running")).expect("a number");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGINT)
        .expect("a signal");
    let status =
        tokio::time::timeout(PATIENCE, child.wait()).await.expect("in time").expect("a process");
    assert!(status.success());
    let mut load = second.bayeux.load();
    let gone = tokio::time::timeout(PATIENCE, load.wait_for(|load| load.sessions == 0)).await;
    gone.expect("it said good-bye").expect("an event channel");
}

#[tokio::test]
async fn the_terminal_says_what_is_wrong_and_gives_up_where_waiting_is_no_use() {
    let server = server(&store::in_memory()).await;
    let run = async |password: Option<&str>| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
        command
            .args(["events", "--user", "meg", "--url", &server.url("")])
            .env_remove("UNDERTONE_PASSWORD");
        if let Some(password) = password {
            command.env("UNDERTONE_PASSWORD", password);
        }
        let output = tokio::time::timeout(PATIENCE, command.output())
            .await
            .expect("in time")
            .expect("our own program");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(Some("wrong")).await;
    assert!(code == Some(1) && said.contains("Access denied"), "{code:?} {said}");
    let (code, said) = run(None).await;
    assert!(code == Some(1) && said.contains("UNDERTONE_PASSWORD"), "{code:?} {said}");
}

/// A proxy on the way that knows no websockets, and a session that ends: the client must not try
/// websockets for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_websocket_is_blocked_goes_on_by_long_polling_even_when_its_session_ends() {
    let store = store::in_memory();
    let first = server(&store).await;
    let cable = Cable::to(first.address).await;
    cable.block_websockets();
    let port = cable.address.port();
    let mut desktop =
        ClientProgram::start(Library::CometD9, port, "meg", "any", "/v2/me/devices", &[]);
    assert_eq!(desktop.next("connected").await["transport"], "long-polling");
    desktop.next("subscribed").await;
    first.close().await;
    let second = server(&store).await;
    cable.plug_into(second.address);
    desktop.next("subscribed").await;
    forward_to(&second, 1).await;
    assert_eq!(desktop.forwards_until("1").await, ["1"]);
    desktop.end().await;
}
