//! The TCP doors of the real process, and strangers at them: HTTP/2 streams without end,
//! connections that ask nothing, more of them than there are places or file descriptors.
//!
//! RFC 9113 10.5 (denial of service), 5.1.2 (stream concurrency), 9.1 (idle connections).

mod floods;
mod hosts;
mod logins;
mod stopping;

use crate::support::callers;
use crate::support::cometd_connection::basic;
use crate::support::frames::{
    self, DATA, END_HEADERS, END_STREAM, HEADERS, connect_from, frame, greeting, is_closed,
};
use crate::support::gateway_server::{BOB_PHONE, GatewayServer, MEG_PHONE, ServerOptions};
use crate::support::process::{ANY, Process};
use crate::support::rest_client::http_client;
use crate::support::talk::PATIENCE;
use crate::support::wait;
use reqwest::StatusCode;
use serde_json::json;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tonic::Code;
use undertone::clock;
use undertone::http::HttpConfig;
use undertone::model::Fact;
use undertone::telephony::BackendConnection;
use undertone::telephony::connection;
use undertone::telephony::proto::WatchRequest;
use undertone::telephony::proto::telephony_client::TelephonyClient;

/// What strangers may ask at gRPC, too: it goes on for ever.
const WATCH: &str = "/grpc.health.v1.Health/Watch";
const DOORS: [(&str, &str); 3] = [("rest", "/api/v2/me"), ("grpc", WATCH), ("admin", "/readyz")];

fn stranger(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

async fn serve(place: &Path, doors: &str) -> Process {
    let config = format!(
        "[rest]\nbind = '{ANY}'\n[grpc]\nbind = '{ANY}'\n[admin]\nbind = '{ANY}'\n[sip]\n\
         listen = ['udp:{ANY}', 'tcp:{ANY}']\n\
         [doors]\n{doors}\n"
    );
    Process::start("serve", place, &config).await
}

/// A gateway elsewhere that has read all that is known here.
async fn gateway_at(grpc: SocketAddr, place: &Path) -> BackendConnection {
    let token = place.join("undertone-data/grpc-token");
    let mut line = connection::line(callers::channel(&format!("http://{grpc}"), &token));
    let meeting = async { while line.facts.recv().await != Some(Fact::SnapshotComplete) {} };
    timeout(PATIENCE, meeting).await.expect("the gateway can not get in");
    line
}

/// The doors do what they are there for.
async fn is_open(process: &Process, place: &Path) {
    let http = http_client();
    let rest = http
        .get(format!("http://{}/api/v2/diagnostics/version", process.door("rest")))
        .send()
        .await;
    rest.expect("REST answers");
    http.get(format!("http://{}/livez", process.door("admin")))
        .send()
        .await
        .expect("admin answers");
    gateway_at(process.door("grpc"), place).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_without_end_take_no_memory_and_keep_nobody_out_at_any_door() {
    let place = tempfile::tempdir().unwrap();
    let process = serve(place.path(), "").await;
    process.ready().await;
    is_open(&process, place.path()).await;
    let before = process.memory("VmRSS");
    for (door, path) in DOORS {
        let floods = (0..4).map(|number| {
            tokio::spawn(frames::flood(stranger(20 + number), process.door(door), path, 50_000))
        });
        for flood in floods.collect::<Vec<_>>() {
            timeout(PATIENCE, flood).await.expect("it neither takes nor closes").unwrap();
        }
        is_open(&process, place.path()).await;
    }
    let grown = process.memory("VmHWM").saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_declared_long_takes_no_room_before_it_comes() {
    let place = tempfile::tempdir().unwrap();
    let process = serve(place.path(), "").await;
    process.ready().await;
    let mut connection = connect_from(stranger(30), process.door("grpc")).await;
    let mut bytes = greeting();
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &frames::head("POST", WATCH)));
    // Four megabytes, says the message's head.
    bytes.extend(frame(DATA, 0, 1, &[0, 0, 0x40, 0, 0]));
    connection.write_all(&bytes).await.unwrap();
    let refused = async {
        while let Some((kind, flags, stream, _)) = frames::next(&mut connection).await {
            if (kind, stream) == (HEADERS, 1) {
                return flags & END_STREAM != 0;
            }
        }
        false
    };
    assert!(timeout(PATIENCE, refused).await.expect("an answer"), "refused at once");
}

/// Connections that ask nothing, each in its way.
fn half_open() -> Vec<Vec<u8>> {
    vec![
        Vec::new(),
        frames::PREFACE[..9].to_vec(),
        greeting(),
        b"GET /livez HTTP/1.1\r\nHost: und".to_vec(),
        // A head over HTTP/2 that goes on for ever.
        [greeting(), frame(HEADERS, 0, 1, &frames::head("POST", WATCH)[..9])].concat(),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_ask_nothing_are_closed_and_a_watch_lives_on() {
    let place = tempfile::tempdir().unwrap();
    let process = serve(place.path(), "idle = 0.4").await;
    process.ready().await;
    let mut line = gateway_at(process.door("grpc"), place.path()).await;
    // Three rounds: the watch outlives many times what the others get.
    for _ in 0..3 {
        let mut visitors = Vec::new();
        for (door, _) in DOORS {
            for bytes in half_open() {
                let mut connection = connect_from(stranger(40), process.door(door)).await;
                connection.write_all(&bytes).await.unwrap();
                visitors.push((door, bytes, connection));
            }
        }
        for (door, bytes, mut connection) in visitors {
            assert!(
                is_closed(&mut connection, PATIENCE).await,
                "{door}: {:?}",
                String::from_utf8_lossy(&bytes)
            );
        }
    }
    while let Ok(fact) = line.facts.try_recv() {
        assert_ne!(fact, Fact::Lost, "the watch has ended");
    }
}

/// A watch that goes on for as long as the connection is kept.
async fn watch(from: IpAddr, grpc: SocketAddr) -> TcpStream {
    let mut connection = connect_from(from, grpc).await;
    let mut bytes = greeting();
    bytes.extend(frame(HEADERS, END_HEADERS, 1, &frames::head("POST", WATCH)));
    bytes.extend(frame(DATA, END_STREAM, 1, &[0; 5]));
    connection.write_all(&bytes).await.unwrap();
    let answered = async {
        while frames::next(&mut connection).await.is_some_and(|(kind, ..)| kind != HEADERS) {}
    };
    timeout(PATIENCE, answered).await.expect("an answer");
    connection
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_never_keep_a_gateway_out() {
    let place = tempfile::tempdir().unwrap();
    let process = serve(
        place.path(),
        "grpc_connections = 8\ngrpc_connections_per_address = 4\ngrpc_peers = ['127.0.0.77']",
    )
    .await;
    process.ready().await;
    let grpc = process.door("grpc");
    let mut watches = Vec::new();
    for number in 0..12 {
        watches.push(watch(stranger(50 + number / 4), grpc).await);
    }
    let mut one_more = connect_from(stranger(50), grpc).await;
    // Three have left their places to others; one address has no more than it may.
    assert!(is_closed(&mut one_more, PATIENCE).await);
    let line = gateway_at(grpc, place.path()).await;
    // Eight addresses with one each: nobody gets in but who is known.
    for number in 0..16 {
        watches.push(connect_from(stranger(60 + number), grpc).await);
    }
    watch(stranger(77), grpc).await;
    let mut facts = line.facts;
    while let Ok(fact) = facts.try_recv() {
        assert_ne!(fact, Fact::Lost, "the gateway that is in stays in");
    }
}

/// A connection that says something now and then goes on, whoever else comes.
async fn answers(connection: &mut TcpStream) -> bool {
    let request = b"GET /api/v2/diagnostics/version HTTP/1.1\r\nHost: localhost\r\n\r\n";
    if connection.write_all(request).await.is_err() {
        return false;
    }
    let reading = async {
        let mut some = [0; 16];
        connection.read(&mut some).await.is_ok_and(|count| count > 0)
    };
    timeout(PATIENCE, reading).await.unwrap_or(false)
}

#[tokio::test(flavor = "multi_thread")]
async fn at_rest_the_newest_connection_is_refused_and_no_other() {
    let place = tempfile::tempdir().unwrap();
    let limits = "rest_connections = 4\nrest_connections_per_address = 3";
    let process = serve(place.path(), limits).await;
    process.ready().await;
    let rest = process.door("rest");
    let mut open = Vec::new();
    for _ in 0..3 {
        let mut connection = connect_from(stranger(81), rest).await;
        assert!(answers(&mut connection).await);
        open.push(connection);
    }
    for _ in 0..5 {
        let mut one_more = connect_from(stranger(81), rest).await;
        assert!(is_closed(&mut one_more, PATIENCE).await, "one address has its share");
    }
    let mut other = connect_from(stranger(82), rest).await;
    assert!(answers(&mut other).await, "another address has its own");
    for connection in &mut open {
        let mut rest = vec![0; 4096];
        // What is left of the first answer.
        while timeout(Duration::from_millis(20), connection.read(&mut rest)).await.is_ok() {}
        assert!(answers(connection).await, "an established one was closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_so_many_watches_and_one_that_ends_makes_room() {
    let place = tempfile::tempdir().unwrap();
    let process = serve(place.path(), "").await;
    process.ready().await;
    let token = place.path().join("undertone-data/grpc-token");
    let channel = callers::channel(&format!("http://{}", process.door("grpc")), &token);
    let mut client = TelephonyClient::new(channel);
    let mut open = Vec::new();
    for _ in 0..64 {
        open.push(client.watch(WatchRequest::default()).await.unwrap());
    }
    let refused = client.watch(WatchRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    open.pop();
    let again = async || client.watch(WatchRequest::default()).await.ok();
    open.push(wait::found(PATIENCE, again).await.expect("room for one"));
    for mut watch in open {
        assert!(watch.get_mut().message().await.unwrap().is_some(), "the others go on");
    }
}

/// Seconds of a core that a process has used.
fn used(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks: u64 = [11, 12].into_iter().map(|at| fields[at].parse::<u64>().unwrap()).sum();
    ticks as f64 / 100.0
}

/// A figure, asked for on a connection that is open already.
async fn figure(admin: &mut TcpStream, name: &str) -> f64 {
    admin.write_all(b"GET /metrics HTTP/1.1\r\nHost: undertone\r\n\r\n").await.unwrap();
    let mut text = Vec::new();
    let body = loop {
        let mut some = [0; 16 * 1024];
        let count = admin.read(&mut some).await.unwrap();
        assert!(count > 0, "closed");
        text.extend_from_slice(&some[..count]);
        let said = String::from_utf8_lossy(&text).into_owned();
        if let Some((head, body)) = said.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| {
                line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse::<usize>().ok()
            });
            if body.len() >= length.expect("a length") {
                break body.to_owned();
            }
        }
    };
    let values = body
        .lines()
        .filter(|line| line.starts_with(name))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    values.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_descriptors_every_door_sleeps_between_its_tries_and_works_again_afterwards() {
    let place = tempfile::tempdir().unwrap();
    let process = serve(place.path(), "").await;
    process.ready().await;
    let pid = process.id();
    let mut admin = TcpStream::connect(process.door("admin")).await.unwrap();
    figure(&mut admin, "undertone_accept_errors_total").await;
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    // Only the soft limit: to raise the hard one again takes a privilege.
    let limit_to = |soft: usize| {
        let status = Command::new("prlimit")
            .args(["--pid", &pid.to_string(), &format!("--nofile={soft}:")])
            .status();
        status.is_ok_and(|status| status.success())
    };
    if !limit_to(open) {
        println!("skipped: prlimit is not there or not permitted");
        return;
    }
    let mut visitors = Vec::new();
    for (door, _) in DOORS {
        for _ in 0..4 {
            visitors.push(TcpStream::connect(process.door(door)).await.unwrap());
        }
    }
    let (since, before) = (clock::instant(), used(pid));
    // Three doors with five failures each take a second and a half.
    while figure(&mut admin, "undertone_accept_errors_total").await < 15.0 {
        assert!(clock::instant() < since + PATIENCE);
        tokio::task::yield_now().await;
    }
    let elapsed = since.elapsed();
    assert!(elapsed > Duration::from_millis(700), "{elapsed:?}");
    // Asking for the figures takes most of it.
    let errors = figure(&mut admin, "undertone_accept_errors_total").await;
    assert!(
        errors < 40.0 * elapsed.as_secs_f64().max(1.0),
        "{errors} in {elapsed:?}, {} s of a core",
        used(pid) - before
    );
    drop(visitors);
    assert!(limit_to(1024), "the limit does not go up again");
    is_open(&process, place.path()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_never_come_take_nobody_elses_place_and_are_bounded_for_each_user() {
    let http = HttpConfig { concurrency: 4, ..HttpConfig::default() };
    let server = GatewayServer::open(ServerOptions { http, ..ServerOptions::default() }).await;
    let begin = async |user: &str| {
        let mut socket = TcpStream::connect(server.address).await.expect("a connection");
        let request = format!(
            "POST /api/v2/me/devices/{BOB_PHONE} HTTP/1.1\r\nHost: x\r\nAuthorization: {}\r\n\
             Content-Type: application/json\r\nContent-Length: 64\r\n\r\n{{",
            basic(user)
        );
        socket.write_all(request.as_bytes()).await.expect("a request");
        socket
    };
    // A login that is known costs no hash.
    assert_eq!(server.get("bob", "/api/v2/me").await.0, StatusCode::OK);
    let mut slow = Vec::new();
    for _ in 0..64 {
        slow.push(begin("bob").await);
    }
    // Each is on its way when one more is refused.
    let refused = async || {
        let mut more = begin("bob").await;
        let mut answer = [0; 12];
        let read = timeout(Duration::from_millis(200), more.read_exact(&mut answer)).await;
        match read {
            Ok(_) => Some(String::from_utf8_lossy(&answer).into_owned()),
            Err(_) => {
                slow.push(more);
                None
            }
        }
    };
    let answer = wait::found(PATIENCE, refused).await.expect("one too many is refused");
    assert_eq!(answer, "HTTP/1.1 429");
    assert_eq!(server.get("meg", "/api/v2/me").await.0, StatusCode::OK, "another user");
    assert_eq!(server.get("bob", "/api/v2/me").await.0, StatusCode::OK, "and what has no body");
    let body = json!({"operationName": "DoNotDisturbOn"});
    let path = format!("/api/v2/me/devices/{MEG_PHONE}");
    assert_eq!(server.post("meg", &path, &body).await.0, StatusCode::OK);
    drop(slow);
    let free = async || {
        let path = format!("/api/v2/me/devices/{BOB_PHONE}");
        (server.post("bob", &path, &body).await.0 == StatusCode::OK).then_some(())
    };
    wait::found(PATIENCE, free).await.expect("the places are free again");
}
