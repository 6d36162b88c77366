//! What stands in examples/, as a reader would run it.

use crate::clients::{ClientProgram, Library, forward_to, installed};
use crate::support::gateway_server::{GatewayServer, MEG_PHONE, PASSWORD, PATIENCE, ServerOptions};
use crate::support::packages::{Installed, python_packages};
use crate::support::ports::free_port;
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use undertone::http;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}

fn set_up() -> Installed {
    tokio::task::block_in_place(installed)
}

/// Runs a program that prints events until it has shown one that forwards to this number; then asks
/// it to end.
async fn shows_an_event(mut command: Command) {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let mut child = command
        .env("UNDERTONE_URL", format!("http://localhost:{}", server.address.port()))
        .env("UNDERTONE_USER", "meg")
        .env("UNDERTONE_PASSWORD", PASSWORD)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node and python3 are installed");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut until = async |wanted: &str| {
        let reading = async {
            let mut all = Vec::new();
            loop {
                let line = lines
                    .next_line()
                    .await
                    .expect("a pipe")
                    .unwrap_or_else(|| panic!("it ended after {all:?}"));
                if line.starts_with("event ") && line.contains(wanted) {
                    return;
                }
                all.push(line);
            }
        };
        tokio::time::timeout(PATIENCE, reading)
            .await
            .unwrap_or_else(|_| panic!("no event with {wanted}"));
    };
    until("5005").await;
    forward_to(&server, 4711).await;
    until("4711").await;
    let id = i32::try_from(child.id().expect("running")).expect("a number");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGTERM)
        .expect("a signal");
    let status =
        tokio::time::timeout(PATIENCE, child.wait()).await.expect("in time").expect("a process");
    assert!(status.success(), "{status}");
    let mut load = server.bayeux.load();
    let gone = tokio::time::timeout(PATIENCE, load.wait_for(|load| load.sessions == 0)).await;
    gone.expect("it said good-bye").expect("an event channel");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_example_shows_events() {
    let node = set_up().node;
    let wanted = |path: &Path| -> Value {
        let text = fs::read_to_string(path).expect("package.json");
        serde_json::from_str::<Value>(&text).expect("JSON")["dependencies"].clone()
    };
    let (example_wants, has) =
        (wanted(&example("node/package.json")), wanted(&node.join("package.json")));
    for (name, version) in example_wants.as_object().expect("dependencies") {
        assert_eq!(has[name], *version, "{name}: the tests and the example want the same");
    }
    fs::copy(example("node/events.mjs"), node.join("events.mjs")).expect("a copy");
    let mut command = Command::new("node");
    command.arg(node.join("events.mjs"));
    shows_an_event(command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_example_shows_events() {
    let python = set_up().python;
    let wanted = |path: PathBuf| fs::read_to_string(path).expect("requirements.txt");
    assert_eq!(
        wanted(example("python/requirements.txt")),
        wanted(python.join("requirements.txt")),
        "the tests and the example want the same"
    );
    let mut command = Command::new("python3");
    command.arg(example("python/events.py")).env("PYTHONPATH", python.join("packages"));
    shows_an_event(command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_backend_keeps_the_contract_and_is_described_to_a_python_client() {
    let folder = example("backend");
    let packages = tokio::task::block_in_place(|| python_packages(&folder, "backend"));
    let address = format!("127.0.0.1:{}", free_port());
    let backend = folder.join("backend.py");
    let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
    command
        .args(["contract-check", &format!("http://{address}"), "--json", "--patience", "30"])
        .arg("--phones")
        .arg(format!("python3 {} --listen {address}", backend.display()))
        .env("PYTHONPATH", &packages)
        .kill_on_drop(true);
    let checked = tokio::time::timeout(4 * PATIENCE, command.output());
    let checked = checked.await.expect("in time").expect("the program");
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let report: Value = serde_json::from_slice(&checked.stdout).expect("JSON");
    let rules = report["rules"].as_array().expect("rules");
    let left_out = rules.iter().filter(|rule| rule["outcome"] == "skipped");
    let left_out: Vec<_> = left_out.filter_map(|rule| rule["rule"].as_str()).collect();
    assert_eq!(
        left_out,
        [
            "AnswersOnlyCodesThatWait",
            "SetsForwarding",
            "Mutes",
            "Dials",
            "ClearsACall",
            "RejectsByCommand",
            "RedirectsByCommand",
            "ChangesUserData",
            "BoundsUserData",
            "RingsOnWhereItCannotGo",
            "SwapsWithNoCall",
            "SwapsTwoCalls",
            "TransfersAtOnce",
            "ConfersAndRemoves",
            "ConsultsAndTransfers",
            "ConsultsAndConfers",
            "SendsDigits",
            "MutesTheMonitored"
        ],
        "{report:#}"
    );

    // The same backend, started by hand: the client of grpcio-reflection asks v1alpha.
    let mut backend = Command::new("python3")
        .arg(&backend)
        .args(["--listen", &address])
        .env("PYTHONPATH", &packages)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("python3 is installed");
    let mut said = BufReader::new(backend.stderr.take().expect("piped")).lines();
    let serving = tokio::time::timeout(PATIENCE, said.next_line()).await.expect("in time");
    let serving = serving.expect("a pipe").expect("a line");
    assert_eq!(serving, format!("serving undertone.telephony.v1.Telephony at {address}"));
    let product = crate::support::server::Server::start().await;
    let asking = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract/reflection.py");
    let (ours, token) = (product.running.grpc().to_string(), product.token_file());
    for (address, token) in [(address, None), (ours, Some(token))] {
        let mut command = Command::new("python3");
        command
            .arg(&asking)
            .arg(&address)
            .args(token)
            .env("PYTHONPATH", &packages)
            .kill_on_drop(true);
        let asked = tokio::time::timeout(PATIENCE, command.output());
        let asked = asked.await.expect("in time").expect("python3");
        assert!(asked.status.success(), "{asked:?}");
        let described = String::from_utf8_lossy(&asked.stdout);
        for method in ["Describe", "Watch", "StartMonitoring", "ChangeUserData"] {
            assert!(described.lines().any(|line| line == method), "{address}: {described}");
        }
    }
}

async fn the_page_shows_the_device(transport: &str) {
    let node = set_up().node;
    let mut command = Command::new("node");
    command
        .arg(node.join("page.js"))
        .args(["--user", "meg", "--password", PASSWORD, "--transport", transport, "--page"])
        .arg(example("browser"));
    let mut page = ClientProgram::run(&mut command);
    let origin = page.next("serving").await["origin"].as_str().expect("an origin").to_owned();
    let server = GatewayServer::open(ServerOptions {
        http: http::HttpConfig { cors_origins: vec![origin], ..http::HttpConfig::default() },
        ..ServerOptions::default()
    })
    .await;
    page.say(&server.url("")).await;
    let by = page.next("connected").await["transport"].clone();
    assert_eq!(by, if transport == "any" { "websocket" } else { transport });
    let coach = json!({
        "operationName": "Coach",
        "targetDeviceUri": format!("/api/v2/devices/{}", crate::support::gateway_server::BOB_PHONE),
    });
    let answer = server.post("meg", &format!("/api/v2/me/devices/{MEG_PHONE}"), &coach).await;
    assert_eq!(answer.1, json!({"statusCode": 0}));
    loop {
        let rows = page.next("devices").await["rows"].to_string();
        if rows.contains("5005") && rows.contains("Coach") {
            break;
        }
    }
    page.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_browser_example_shows_whom_a_device_coaches_by_websocket() {
    the_page_shows_the_device("any").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_browser_example_shows_whom_a_device_coaches_by_long_polling() {
    the_page_shows_the_device("long-polling").await;
}

/// The example's configuration with its ports replaced: where clients come, and the two gateways,
/// of which one is down.
fn configured(file: &str, folder: &Path, gateway: SocketAddr) -> (PathBuf, u16) {
    let port = free_port();
    let text = fs::read_to_string(example("proxy").join(file)).expect("a configuration");
    let text = text
        .replace(":8080", &format!(":{}", gateway.port()))
        .replace(":8081", &format!(":{}", free_port()))
        .replace(":8088", &format!(":{port}"));
    let path = folder.join(file);
    fs::write(&path, text).expect("a file");
    (path, port)
}

async fn works_behind(server: &GatewayServer, mut proxy: Child, port: u16) {
    let answers = async {
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, answers).await.expect("the proxy has started");
    let mut number = 0;
    for transport in ["websocket", "long-polling"] {
        for more in [&["--ack"][..], &[]] {
            let mut desktop = ClientProgram::start(
                Library::CometD9,
                port,
                "meg",
                transport,
                "/v2/me/devices",
                more,
            );
            assert_eq!(desktop.next("connected").await["transport"], transport);
            desktop.next("subscribed").await;
            for _ in 0..3 {
                number += 1;
                forward_to(server, number).await;
            }
            let expected: Vec<String> =
                (number - 2..=number).map(|number| number.to_string()).collect();
            assert_eq!(desktop.forwards_until(&number.to_string()).await, expected, "{transport}");
            desktop.end().await;
        }
    }
    proxy.kill().await.expect("it runs");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desktop_works_behind_nginx_as_the_example_configures_it() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (file, port) = configured("nginx.conf", folder.path(), server.address);
    let mut command = Command::new("nginx");
    command.env("PATH", "/usr/sbin:/usr/bin:/bin").arg("-p").arg(folder.path()).arg("-c").arg(file);
    command.args(["-e", "stderr", "-g", "daemon off; master_process off;"]).kill_on_drop(true);
    works_behind(&server, command.spawn().expect("nginx is installed"), port).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desktop_works_behind_haproxy_as_the_example_configures_it() {
    let server = GatewayServer::open(ServerOptions::default()).await;
    let folder = tempfile::tempdir().expect("a folder");
    let (file, port) = configured("haproxy.cfg", folder.path(), server.address);
    let mut command = Command::new("haproxy");
    command
        .env("PATH", "/usr/sbin:/usr/bin:/bin")
        .arg("-db")
        .arg("-f")
        .arg(file)
        .kill_on_drop(true);
    works_behind(&server, command.spawn().expect("haproxy is installed"), port).await;
}
