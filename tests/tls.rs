//! Every door behind TLS, and real tools at them.

use crate::crash::on;
use crate::support::certificates::{Certificates, DAY};
use crate::support::process::{ANY, Process};
use crate::support::rest_client::{RestClient, read};
use crate::support::server::{AGENT, Account, CUSTOMER, SUPERVISOR, Server};
use crate::support::talk::{AGENT_HZ, CUSTOMER_HZ, PATIENCE};
use crate::support::wait;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;
use undertone::clock;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig, PhoneEvent, PhoneTls};
use undertone::model::Timestamp;
use undertone::private::SecretFileError;
use undertone::tls::{KeyPair, KeyPairFiles, SubjectName, TlsError};

fn in_files(pair: &KeyPairFiles) -> String {
    let (certificate, key) = (pair.certificate.display(), pair.key.display());
    format!("[tls]\ncertificate = '{certificate}'\nkey = '{key}'\n")
}

/// What a tool prints, and whether it succeeded.
async fn told(program: &str, arguments: &[&str], input: &str) -> (bool, String) {
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = child.unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut to = child.stdin.take().unwrap();
    let _ = to.write_all(input.as_bytes()).await;
    drop(to);
    let output = timeout(PATIENCE, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("{program} {arguments:?} does not end")).unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

async fn curl(authority: &Path, more: &[&str], url: &str) -> (bool, String) {
    let authority = authority.to_str().unwrap();
    let code = "\n%{http_version} %{http_code}";
    let arguments = ["-s", "-S", "--noproxy", "*", "--cacert", authority, "-w", code];
    told("curl", &[&arguments, more, &[url]].concat(), "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_and_openssl_find_every_door_behind_tls_1_2_and_1_3_and_none_in_clear() {
    let place = tempfile::tempdir().unwrap();
    let certificates = Certificates::new();
    let config = on(ANY, ANY, ANY, "") + &in_files(&certificates.server());
    let process = Process::start("serve", place.path(), &config).await;
    let authority = certificates.authority_file();
    let (rest, grpc, admin) = (process.door("rest"), process.door("grpc"), process.door("admin"));

    let document = format!("https://{rest}/api/v2/openapi.json");
    for (more, version) in [(["--http1.1"], "1.1 200"), (["--http2"], "2 200")] {
        let (_, text) = curl(&authority, &more, &document).await;
        assert!(text.ends_with(version), "{more:?}: {text}");
        assert!(text.contains(&format!("https://{rest}")), "its URIs lead here: {more:?}");
    }
    let (_, text) = curl(&authority, &[], &format!("https://{admin}/livez")).await;
    assert!(text.ends_with(" 200"), "{text}");
    let (came, text) = curl(&authority, &[], &format!("http://{rest}/api/v2/openapi.json")).await;
    assert!(!came, "in clear: {text}");

    let other = Certificates::new();
    let stranger = other.authority_file();
    for url in [&document, &format!("https://{admin}/livez")] {
        let (came, text) = curl(&stranger, &[], url).await;
        assert!(!came && text.contains("certificate"), "another authority: {text}");
    }
    for (door, protocol) in [(rest, "h2"), (grpc, "h2"), (admin, "h2")] {
        let (door, authority) = (door.to_string(), authority.to_str().unwrap());
        let ask = ["s_client", "-connect", &door, "-CAfile", authority, "-verify_return_error"];
        for (version, works) in [("-tls1_1", false), ("-tls1_2", true), ("-tls1_3", true)] {
            let more = [version, "-alpn", protocol];
            let (_, text) = told("openssl", &[&ask[..], &more].concat(), "").await;
            let is_met = text.contains(&format!("ALPN protocol: {protocol}"));
            assert_eq!(is_met, works, "{door} {version}: {text}");
            assert!(!works || text.contains("Verify return code: 0 (ok)"), "{door}: {text}");
        }
    }
    process.terminate(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_changes_is_presented_to_new_connections_and_a_bad_one_is_not() {
    let place = tempfile::tempdir().unwrap();
    let certificates = Certificates::new();
    let pair = certificates.server();
    let config = on(ANY, ANY, ANY, "") + &in_files(&pair);
    let process = Process::start("serve", place.path(), &config).await;
    let authority = certificates.authority_file();
    let metrics = format!("https://{}/metrics", process.door("admin"));
    let door = process.door("rest").to_string();
    let serial = async || {
        let ask = ["s_client", "-connect", &door];
        let (_, text) = told("openssl", &ask, "").await;
        let pem = text.split("-----BEGIN").nth(1).expect("a certificate");
        let pem = format!("-----BEGIN{}", pem.split("\n---\n").next().expect("its end"));
        told("openssl", &["x509", "-noout", "-serial"], &pem).await.1
    };
    let first = serial().await;
    let hang_up = || {
        let id = nix::unistd::Pid::from_raw(i32::try_from(process.id()).unwrap());
        nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGHUP).unwrap();
    };
    let figure = async |name: &str| {
        let (_, text) = curl(&authority, &[], &metrics).await;
        let name = format!("{name}{{door=\"rest\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)?.parse::<f64>().ok())
    };
    let days = figure("undertone_tls_days_to_expiry").await.expect("days to expiry");
    assert!((29.0..=30.0).contains(&days), "{days}");

    fs::write(&pair.certificate, "-----BEGIN CERTIFICATE-----\nno\n").unwrap();
    hang_up();
    let failed = async || (figure("undertone_tls_reload_failed").await == Some(1.0)).then_some(());
    wait::found(PATIENCE, failed).await.expect("the bad pair is in the metrics");
    assert_eq!(serial().await, first, "the one of before stays");
    let warned = process.log().iter().any(|line| line.contains("the one of before stays"));
    assert!(warned, "{:?}", process.log());

    certificates.server();
    hang_up();
    let changed = async || (serial().await != first).then_some(());
    wait::found(PATIENCE, changed).await.expect("the new certificate is presented");
    assert_eq!(figure("undertone_tls_reload_failed").await, Some(0.0));
    // Without a signal, too.
    let second = serial().await;
    certificates.server();
    let changed = async || (serial().await != second).then_some(());
    wait::found(PATIENCE, changed).await.expect("a change is seen");
    process.terminate(PATIENCE).await;
}

#[test]
fn each_fault_of_a_pair_is_named_with_its_file() {
    let certificates = Certificates::new();
    let names = [SubjectName::of_host("localhost")];
    let now = clock::wall();
    let month_ago = Timestamp(now.0 - 30 * DAY.as_millis() as u64);
    let month_ahead = Timestamp(now.0 + 30 * DAY.as_millis() as u64);
    let judged = |pair: &KeyPairFiles| KeyPair::load(pair, now).expect_err("it is wrong");
    let fine = certificates.issue("fine", &names);
    assert!(KeyPair::load(&fine, now).is_ok());

    let expired = judged(&certificates.issue_at("expired", &names, month_ago, DAY));
    assert!(matches!(expired, TlsError::Expired { number: 1, .. }), "{expired}");
    let early = judged(&certificates.issue_at("early", &names, month_ahead, DAY));
    assert!(matches!(early, TlsError::NotYetValid { number: 1, .. }), "{early}");
    let other = certificates.issue("other", &names);
    let crossed = KeyPairFiles { key: other.key.clone(), ..fine.clone() };
    let crossed = judged(&crossed);
    assert!(matches!(crossed, TlsError::Key { .. }), "{crossed}");
    let no_key = judged(&KeyPairFiles { key: fine.certificate.clone(), ..fine.clone() });
    assert!(no_key.to_string().contains("others may read it (mode 0644): chmod 600"), "{no_key}");
    let gone = judged(&KeyPairFiles { key: "/nowhere".into(), ..fine.clone() });
    assert!(matches!(gone, TlsError::KeyFile(SecretFileError::Read { .. })), "{gone}");
    let empty = judged(&KeyPairFiles { certificate: fine.key.clone(), ..fine.clone() });
    assert!(matches!(empty, TlsError::NoCertificate { .. }), "{empty}");

    let text = |path: &Path| fs::read_to_string(path).unwrap();
    let chain = text(&fine.certificate) + &text(&other.certificate);
    fs::write(&fine.certificate, chain).unwrap();
    let broken = judged(&fine);
    assert!(matches!(broken, TlsError::BrokenChain { number: 1, .. }), "{broken}");
    let whole = text(&other.certificate) + &text(&certificates.authority_file());
    fs::write(&other.certificate, whole).unwrap();
    assert!(KeyPair::load(&other, now).is_ok(), "with its authority");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_meets_its_backend_by_tls_and_no_other_server_in_its_place() {
    let place = tempfile::tempdir().unwrap();
    let certificates = Certificates::new();
    let config = on(ANY, ANY, ANY, "") + &in_files(&certificates.server());
    let backend = Process::start("sip-backend", place.path(), &config).await;
    let port = backend.door("grpc").port();
    let gateway = async |host: &str, authority: &Path| {
        let authority = authority.display();
        let config = on(ANY, ANY, ANY, &format!("backend_url = 'https://{host}:{port}'"))
            + &format!("[tls]\nbackend_authorities = '{authority}'\n");
        Process::start("gateway", place.path(), &config).await
    };
    let fine = gateway("localhost", &certificates.authority_file()).await;
    fine.ready().await;
    fine.terminate(PATIENCE).await;

    let stranger = Certificates::new();
    let other_name = certificates.issue("server", &[SubjectName::of_host("elsewhere")]);
    for (authority, cause) in [
        (stranger.authority_file(), "invalid peer certificate"),
        (certificates.authority_file(), "not valid for name"),
    ] {
        if cause.starts_with("not valid") {
            assert!(other_name.certificate.exists());
            let presented = async || {
                let door = format!("localhost:{port}");
                let (_, text) = told("openssl", &["s_client", "-connect", &door], "").await;
                text.contains("CN = elsewhere").then_some(())
            };
            wait::found(PATIENCE, presented).await.expect("the other certificate is presented");
        }
        let wrong = gateway("localhost", &authority).await;
        let warned = async || {
            let log = wrong.log();
            let line = log.iter().find(|line| line.contains("the telephony backend is away"));
            line.map(|line| line.contains(cause) || panic!("{line}"))
        };
        wait::found(PATIENCE, warned).await.expect("it says why");
        assert_eq!(wrong.says("/readyz").await.0, 503);
        wrong.terminate(PATIENCE).await;
    }
    backend.terminate(PATIENCE).await;
}

/// `undertone events` and `undertone simulate` as clients.
#[tokio::test(flavor = "multi_thread")]
async fn the_commands_of_a_terminal_believe_the_authority_they_are_given_and_no_other() {
    let place = tempfile::tempdir().unwrap();
    let certificates = Certificates::new();
    let doors = ["rest", "grpc", "admin"].map(|door| format!("[{door}]\nbind = '{ANY}'\n"));
    fs::write(place.path().join("here.toml"), doors.concat() + &in_files(&certificates.server()))
        .unwrap();
    let undertone = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
        command.args(arguments).env("UNDERTONE_PASSWORD", "correct horse").kill_on_drop(true);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    };
    let gateway = undertone(&["gateway", "--simulated", "--config", "here.toml"]);
    let gateway = Process::launch(gateway, place.path()).await;
    let rest = format!("https://{}", gateway.door("rest"));
    let admin = format!("https://{}", gateway.door("admin"));
    let other = Certificates::new();
    let files = [certificates.authority_file(), other.authority_file()];
    let [authority, stranger] = files.each_ref().map(|file| file.to_str().unwrap());
    let events = |ca: &str| {
        let more = ["--url", &rest, "--ca", ca, "--channel", "/v2/me/devices"];
        undertone(&[&["events", "--user", "supervisor"][..], &more].concat()).spawn().unwrap()
    };
    let first_line = async |out: &mut (dyn AsyncRead + Unpin + Send)| {
        let mut lines = BufReader::new(out).lines();
        timeout(PATIENCE, lines.next_line()).await.expect("in time").unwrap().expect("a line")
    };
    let mut believes = events(authority);
    let line = first_line(believes.stdout.as_mut().unwrap()).await;
    assert!(line.starts_with("- /v2/me/devices device 5005 is "), "{line}");
    let mut doubts = events(stranger);
    let line = first_line(doubts.stderr.as_mut().unwrap()).await;
    assert!(line.contains("certificate") && line.ends_with("; trying again"), "{line}");

    let simulate = async |ca: &str| {
        let mut command =
            undertone(&["simulate", "--url", &admin, "--ca", ca, "call", "7001", "5001"]);
        let output = timeout(PATIENCE, command.output()).await.expect("in time").unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&text).into_owned())
    };
    assert_eq!(simulate(authority).await, (Some(0), "ok\n".to_owned()));
    for wrong in [stranger, "no such file"] {
        let (code, text) = simulate(wrong).await;
        assert_eq!(code, Some(1), "{text}");
        assert!(text.contains(if wrong == stranger { "certificate" } else { wrong }), "{text}");
    }
    gateway.terminate(PATIENCE).await;
}

/// A desktop that polls over TLS: the numbers of its events, and its do-not-disturb in each.
struct Polling {
    client: RestClient,
    id: String,
    ack: i64,
    events: Vec<(u64, Value)>,
}

impl Polling {
    async fn open(client: RestClient) -> Self {
        let mut polling = Self { client, id: String::new(), ack: 0, events: Vec::new() };
        let handshake = json!([{
            "channel": "/meta/handshake", "version": "1.0",
            "supportedConnectionTypes": ["long-polling"], "ext": {"ack": true},
        }]);
        let shaken = polling.ask(&handshake).await;
        polling.id = shaken[0]["clientId"].as_str().expect("a session").to_owned();
        let subscribe = json!([{
            "channel": "/meta/subscribe", "clientId": polling.id,
            "subscription": "/v2/me/devices", "ext": {"replay": -1},
        }]);
        polling.ask(&subscribe).await;
        // The present state is no event.
        polling.poll().await;
        polling.events.clear();
        polling
    }

    async fn ask(&mut self, messages: &Value) -> Vec<Value> {
        let (status, answer) = read(self.client.posting("/notifications", messages)).await;
        assert_eq!(status.as_u16(), 200, "{answer}");
        let messages = answer.as_array().expect("messages").clone();
        for message in &messages {
            assert_ne!(message["successful"], false, "{message}");
            self.ack = message["ext"]["ack"].as_i64().unwrap_or(self.ack);
            if let Some(number) = message["ext"]["replay"].as_u64() {
                let device = &message["data"]["devices"][0];
                self.events.push((number, device["doNotDisturb"].clone()));
            }
        }
        messages
    }

    async fn poll(&mut self) {
        let connect = json!([{
            "channel": "/meta/connect", "clientId": self.id, "connectionType": "long-polling",
            "ext": {"ack": self.ack},
        }]);
        self.ask(&connect).await;
    }

    /// Polls until it has so many events; by a new connection each time, or by one that stays.
    async fn until(&mut self, count: usize, connect: impl Fn() -> RestClient, stays: bool) {
        while self.events.len() < count {
            if !stays {
                self.client = connect();
            }
            self.poll().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_exchanged_under_calls_and_polls_and_nothing_is_lost() {
    const ROUNDS: usize = 6;
    const IN_A_ROUND: usize = 10;
    let certificates = Certificates::new();
    let server = Server::with_tls_everywhere(&[], &certificates).await;
    let (sip, _) = server.sip_tls.clone().expect("SIP over TLS");
    let phone = async |account: Account, hz, answer| {
        let config = PhoneConfig::new(account.number, account.password, sip, hz);
        let name = "127.0.0.1".to_owned();
        let tls = PhoneTls { client: certificates.client(), name, sips: false };
        let phone = Phone::start(config.answering(answer).over(tls)).await.unwrap();
        phone.register().await.unwrap();
        phone
    };
    let agent = phone(AGENT, AGENT_HZ, AnswerPolicy::Auto(Duration::ZERO)).await;
    let customer = phone(CUSTOMER, CUSTOMER_HZ, AnswerPolicy::Never).await;
    customer.call(AGENT.number).await.unwrap();
    customer.established(PATIENCE).await.unwrap();

    let connect = || {
        let base = format!("https://{}/api/v2", server.rest);
        let (user, password) = (SUPERVISOR.user, SUPERVISOR.password);
        RestClient::with(certificates.http_client(), base, user, password)
    };
    let mut staying = Polling::open(connect()).await;
    let mut coming = Polling::open(connect()).await;
    let switching = async {
        let device = format!("/me/devices/{}", SUPERVISOR.device);
        let mut presented = certificates.presented(server.rest).await;
        for _ in 0..ROUNDS {
            certificates.server();
            server.running.reload();
            for turn in 0..IN_A_ROUND {
                let on = turn % 2 == 0;
                let operation = if on { "DoNotDisturbOn" } else { "DoNotDisturbOff" };
                connect().post(&device, json!({"operationName": operation})).await;
            }
            let changed = async || {
                let now = certificates.presented(server.rest).await;
                (now != presented).then_some(now)
            };
            presented = wait::found(PATIENCE, changed).await.expect("the new certificate");
        }
    };
    tokio::join!(
        switching,
        staying.until(ROUNDS * IN_A_ROUND, connect, true),
        coming.until(ROUNDS * IN_A_ROUND, connect, false),
    );
    for events in [&staying.events, &coming.events] {
        let first = events[0].0;
        let expected: Vec<(u64, Value)> = (0..ROUNDS * IN_A_ROUND)
            .map(|turn| (first + turn as u64, json!(["On", "Off"][turn % 2])))
            .collect();
        assert_eq!(*events, expected, "each event once, in its order");
    }
    let ended = |event: &PhoneEvent| matches!(event, PhoneEvent::Ended { .. });
    for phone in [&agent, &customer] {
        assert!(!phone.events().iter().any(|happened| ended(&happened.event)), "a call is dropped");
    }
    agent.hold().await.unwrap();
    agent.retrieve().await.unwrap();
    customer.hang_up().await.unwrap();
    agent.ended(PATIENCE).await.unwrap();
}
