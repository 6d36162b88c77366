//! `undertone contract-check` and `undertone gateway --simulated`, as others use them.

use super::{PATIENCE, house};
use crate::support::callers::{LocalCaller, anonymous};
use crate::support::process::{ANY, Process};
use crate::support::rest_client::http_client;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::process::Output;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Status};
use undertone::contract_check::{NoPhones, NotChecked, Rule, RuleOutcome, check};
use undertone::model::{
    self, Capabilities, DeviceFact, DeviceKind, Fact, MonitorFact, MonitorState, Reason,
};
use undertone::telephony::connection::in_process;
use undertone::telephony::proto::telephony_server::TelephonyServer;
use undertone::telephony::simulated;
use undertone::telephony::{CommandInbox, FactLog, TelephonyService, serve};

fn undertone() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
    command.kill_on_drop(true);
    command
}

/// A gateway over simulated telephones on free ports, with no configuration file.
async fn simulated_gateway(place: &std::path::Path) -> Process {
    let mut command = undertone();
    command.args(["gateway", "--simulated"]).env("UNDERTONE_PASSWORD", "correct horse");
    for section in ["REST", "GRPC", "ADMIN"] {
        command.env(format!("UNDERTONE__{section}__BIND"), ANY);
    }
    Process::launch(command, place).await
}

async fn ends(mut command: Command) -> Output {
    timeout(PATIENCE, command.output()).await.expect("it ends").expect("it runs")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_over_simulated_telephones_keeps_the_contract_as_the_program_checks_it() {
    let place = tempfile::tempdir().unwrap();
    let mut gateway = simulated_gateway(place.path()).await;
    gateway.ready().await;
    let token = token_of(&mut gateway).await;
    let url = format!("http://{}", gateway.door("grpc"));
    let phones = format!(
        "{} simulate --url http://{} -",
        env!("CARGO_BIN_EXE_undertone"),
        gateway.door("admin")
    );
    let mut command = undertone();
    command.args(["contract-check", &url, "--json", "--phones", &phones, "--patience", "30"]);
    command.args(["--token-file", &token]);
    let checked = ends(command).await;
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(report["failed"], 0, "{report:#}");
    assert_eq!(report["url"], url);
    let rules = report["rules"].as_array().unwrap();
    assert_eq!(rules.len(), Rule::ALL.len());
    let left_out: Vec<_> = rules
        .iter()
        .filter(|rule| rule["outcome"] == "skipped")
        .map(|rule| &rule["rule"])
        .collect();
    assert_eq!(
        left_out,
        [
            "RefusesWhatIsNotOffered",
            "AnswersOnlyCodesThatWait",
            "JoinsNobodyWithoutLeave",
            "JoinsNobodyWhoMayNot",
            "TellsWhichJoinsWaitForLeave",
            "JoinsWithLeave"
        ],
    );

    // Without telephones, for people.
    let mut command = undertone();
    command.args(["contract-check", &url, "--token-file", &token]);
    let checked = ends(command).await;
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(text.contains("ok       Describe names the backend"), "{text}");
    assert!(text.contains("because nothing moves the telephones: see --phones"), "{text}");
    let last = text.lines().last().unwrap();
    assert!(last.contains(" rules ok, 0 failed, "), "{last}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_author_of_a_desktop_needs_no_telephone() {
    let place = tempfile::tempdir().unwrap();
    let mut gateway = simulated_gateway(place.path()).await;
    gateway.ready().await;
    let (rest, door) = (gateway.door("rest"), format!("http://{}/simulate", gateway.door("admin")));
    let introduction = gateway.printed_until("me/devices").await;
    for said in [
        format!("http://{rest}/api/v2"),
        format!("curl -d 'call 7001 5001' {door}"),
        "supervisor2".into(),
        "curl -u supervisor:$UNDERTONE_PASSWORD".into(),
    ] {
        assert!(introduction.contains(&said), "{said} is not in {introduction}");
    }
    assert!(!introduction.contains("correct horse"), "{introduction}");

    let http = http_client();
    let say = async |line: &'static str| {
        let answer = http.post(&door).body(line).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    assert_eq!(say("call 7001 5001").await, (200, "ok\n".into()));
    assert_eq!(say("answer 5001").await, (200, "ok\n".into()));
    let coach = json!({
        "operationName": "Coach",
        "targetDeviceUri":
            format!("http://{rest}/api/v2/devices/9c14cad7-17c4-48d0-8492-7cf0ff92c224"),
    });
    let device = "efelab32-53f9-43ce-b65e-5768c61f7d4a";
    let answer = http
        .post(format!("http://{rest}/api/v2/me/devices/{device}"))
        .basic_auth("supervisor", Some("correct horse"))
        .json(&coach)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.json::<Value>().await.unwrap(), json!({"statusCode": 0}));
    let joined = || async {
        let shown: Value = http.get(&door).send().await.unwrap().json().await.unwrap();
        let joined = json!({
            "supervisor": "5005", "agent": "5001", "activity": "Coach", "state": "joined",
        });
        (shown["monitors"][0] == joined).then_some(shown)
    };
    let shown = crate::support::wait::found(PATIENCE, joined).await.expect("the supervisor joins");
    let parties = json!([
        {"number": "7001", "role": "Customer", "state": "Established"},
        {"number": "5001", "role": "Agent", "state": "Established"},
        {"number": "5005", "role": "Supervisor", "state": "Established"},
    ]);
    assert_eq!(shown["calls"][0]["parties"], parties, "{shown:#}");

    for (line, status, text) in [
        ("call 7001 4711", 404, "error No device has the number '4711'.\n"),
        ("answer 5002", 409, "error Device '5002' is on no call that this can be done with.\n"),
        ("phone 7001 busy", 404, "error No device has the number '7001'.\n"),
        (
            "ring 5001",
            400,
            "error a line is one of: call FROM TO, answer NUMBER, hangup NUMBER, phone NUMBER \
             answers|rings|busy|rejects, register NUMBER, unregister NUMBER\n",
        ),
    ] {
        assert_eq!(say(line).await, (status, text.into()));
    }
    for (name, value) in [
        ("host", "evil.example"),
        ("origin", "http://evil.example"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let line = http.post(&door).header(name, value).body("hangup 7001");
        let answer = line.send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 403, "{name}");
        let text = answer.text().await.unwrap();
        assert!(text.contains("from this machine alone"), "{text}");
    }
    for _ in 1..1000 {
        assert_eq!(say("call 7003 5002").await, (200, "ok\n".into()));
    }
    let full = (409, "error There are 1000 calls already.\n".into());
    assert_eq!(say("call 7003 5002").await, full);
    assert_eq!(say("hangup 7003").await.0, 200);
    assert_eq!(say("call 7003 5002").await.0, 200);
    assert_eq!(say("hangup 7003").await.0, 200);
    assert_eq!(say("unregister 5002").await, (200, "ok\n".into()));
    let mut command = undertone();
    let admin = format!("http://{}", gateway.door("admin"));
    command.args(["simulate", "--url", &admin, "call", "7002", "5002"]);
    let refused = ends(command).await;
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(
        String::from_utf8_lossy(&refused.stdout),
        "error Device '5002' is not registered.\n"
    );
    let mut command = undertone();
    command.args(["simulate", "--url", &admin]);
    let shown: Value = serde_json::from_slice(&ends(command).await.stdout).unwrap();
    assert_eq!(shown["devices"][1]["registered"], false, "{shown:#}");
    gateway.terminate(PATIENCE).await;
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "nothing is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_door_to_simulated_telephones_is_opened_on_the_loopback_only_and_only_when_asked_for() {
    let place = tempfile::tempdir().unwrap();
    let mut command = undertone();
    command
        .args(["gateway", "--simulated"])
        .current_dir(place.path())
        .env("UNDERTONE__ADMIN__INSECURE_BIND", "true")
        .env("UNDERTONE__ADMIN__BIND", "0.0.0.0:0");
    let refused = ends(command).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(text.contains("admin.bind 0.0.0.0:0: simulated telephones"), "{text}");

    let config = format!(
        "state_dir = '{}'\nbackend_url = 'http://127.0.0.1:1'\n[rest]\nbind = '{ANY}'\n[grpc]\n\
         bind = '{ANY}'\n[admin]\nbind = '{ANY}'\n",
        place.path().display()
    );
    let gateway = Process::start("gateway", place.path(), &config).await;
    assert_eq!(gateway.says("/simulate").await.0, 404);
}

#[tokio::test]
async fn a_backend_that_breaks_the_rules_is_told_what_was_expected_and_what_came() {
    let broken = accepts_everything_and_does_nothing();
    let patience = Duration::from_millis(300);
    let house = house();
    let checked = check(in_process(broken), &house, None::<NoPhones>, patience, |_| {});
    let report = timeout(PATIENCE, checked).await.expect("no wait is longer than it may be");
    let report = report.unwrap();
    assert!(!report.is_good());
    let outcome = |rule| {
        let told = report.rules.iter().find(|told| told.rule == rule).unwrap();
        (&told.outcome, told.to_string())
    };
    let (_, text) = outcome(Rule::ArmsAndCancels);
    assert!(text.starts_with("FAILED   StartMonitoring arms a monitor"), "{text}");
    assert!(text.contains("expected: the monitor of the agent is reported with Coach"), "{text}");
    assert!(text.contains("came:     after 0.3 s there are no call and no monitor"), "{text}");
    let (_, text) = outcome(Rule::RefusesWhatIsNotThere);
    assert!(text.contains("expected: StartMonitoring is refused as NotFound"), "{text}");
    assert!(text.contains("came:     it is accepted"), "{text}");
    assert_eq!(outcome(Rule::RefusesMalformedInput).0, &RuleOutcome::Ok);
    let why = "Describe does not offer hold".into();
    assert_eq!(outcome(Rule::HoldsAndRetrieves).0, &RuleOutcome::Skipped { why });
}

#[tokio::test]
async fn a_backend_that_answers_a_reason_with_another_grpc_code_is_told_so() {
    let caller = LocalCaller::new();
    for (reason, code, wrong, broken) in [
        (
            "InvalidState",
            Code::FailedPrecondition,
            Code::Aborted,
            &[Rule::DoesARequestIdOnce, Rule::ArmsAndCancels][..],
        ),
        (
            "NotPermitted",
            Code::PermissionDenied,
            Code::Unauthenticated,
            &[Rule::RefusesByReasonAndCode, Rule::NobodyMonitorsItself],
        ),
        (
            "NotFound",
            Code::NotFound,
            Code::Unknown,
            &[
                Rule::RefusesByReasonAndCode,
                Rule::RefusesWhatIsNotThere,
                Rule::AsksOnlyForCallsThatWait,
            ],
        ),
    ] {
        let address = answers_with_another_code(&caller, code, wrong).await;
        let channel = caller.channel_to(&format!("http://{address}"));
        let checked = check(channel, &house(), None::<NoPhones>, PATIENCE, |_| {}).await.unwrap();
        let failed = checked.rules.iter().filter_map(|told| match &told.outcome {
            RuleOutcome::Failed { expected, came } => Some((told.rule, expected, came)),
            RuleOutcome::Ok | RuleOutcome::Skipped { .. } => None,
        });
        let failed: Vec<_> = failed.collect();
        let rules: Vec<_> = failed.iter().map(|(rule, ..)| *rule).collect();
        assert_eq!(rules, broken, "{failed:#?}");
        for (_, expected, came) in failed {
            assert!(expected.contains(&format!("{code:?}")), "{expected}");
            assert!(expected.contains(reason), "{expected}");
            assert!(came.starts_with(&format!("{wrong:?}")), "{came}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_backend_is_not_at_rest_is_said_once() {
    let why = "the backend was not at rest after";
    let caller = LocalCaller::new();
    let address = never_ends_a_monitor(&caller).await;
    let token = caller.token_file();
    let run = async |more: &[&str]| {
        let mut command = undertone();
        command.args(["contract-check", &format!("http://{address}"), "--patience", "1"]);
        command.arg("--token-file").arg(&token);
        command.args(more);
        let checked = ends(command).await;
        assert_eq!(checked.status.code(), Some(1), "{checked:?}");
        String::from_utf8(checked.stdout).unwrap()
    };
    let text = run(&[]).await;
    assert_eq!(text.matches(why).count(), 1, "{text}");
    let skipped = text.lines().filter(|line| line.starts_with("skipped ")).count();
    assert_eq!(skipped, 2, "the first rule that is left out, and how many more: {text}");
    let summed = text.lines().find_map(|line| {
        let number =
            line.strip_prefix("skipped  ")?.strip_suffix(" more rules for the same reason");
        number?.parse::<usize>().ok()
    });
    let last = text.lines().last().unwrap();
    let all = summed.expect("the number of the others") + 1;
    assert!(last.ends_with(&format!(", {all} skipped")), "{text}");

    // A machine is told of each rule why it was left out.
    let address = never_ends_a_monitor(&caller).await;
    let mut command = undertone();
    let url = format!("http://{address}");
    command.args(["contract-check", &url, "--patience", "1", "--json"]);
    command.arg("--token-file").arg(&token);
    let report: Value = serde_json::from_slice(&ends(command).await.stdout).unwrap();
    let rules = report["rules"].as_array().unwrap();
    let skipped = rules.iter().filter(|rule| rule["outcome"] == "skipped");
    let whys: Vec<_> = skipped.map(|rule| rule["why"].as_str().unwrap()).collect();
    assert_eq!(whys.len(), all);
    assert!(whys.iter().all(|text| text.starts_with(why)), "{whys:?}");
}

#[tokio::test]
async fn a_backend_that_can_not_be_checked_is_not_called_broken() {
    let patience = Duration::from_millis(300);
    let refused = async |channel, house| {
        check(channel, &house, None::<NoPhones>, patience, |_| {}).await.unwrap_err()
    };
    let (server, simulated) = simulated::start(super::backends::simulated_config());
    let channel = in_process(server);
    let mut stranger = house();
    stranger.agent.0 = "4711".into();
    let numbers = "5001, 5002, 5005, 5006".to_owned();
    let NotChecked::NoDevice(number, has) = refused(channel.clone(), stranger).await else {
        panic!("the backend has no such device");
    };
    let mut has: Vec<_> = has.split(", ").collect();
    has.sort_unstable();
    assert_eq!((number.as_str(), has.join(", ")), ("4711", numbers));
    simulated.customer_calls("7001", "5001").await.unwrap();
    let busy = refused(channel, house()).await;
    assert_eq!(busy, NotChecked::Busy { calls: 1, monitors: 0 });

    // Accepts connections, and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let channel = anonymous(&format!("http://{address}"));
    let NotChecked::Unreachable(refusal) = refused(channel, house()).await else {
        panic!("the backend is silent");
    };
    assert_eq!(refusal.reason, Reason::Unavailable);
    let mut command = undertone();
    let url = format!("http://{address}");
    command.args(["contract-check", &url, "--json", "--patience", "1"]);
    let checked = ends(command).await;
    assert_eq!(checked.status.code(), Some(2), "{checked:?}");
    let report: Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert!(report["error"].as_str().unwrap().starts_with("the backend can not be reached"));
    let mut command = undertone();
    command.args(["contract-check", "not a url"]);
    assert_eq!(ends(command).await.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_moves_no_telephones_breaks_rules_and_hangs_nothing() {
    let (server, _simulated) = simulated::start(super::backends::simulated_config());
    let caller = LocalCaller::new();
    let url = format!("http://{}", serving(server, &caller).await);
    let token = caller.token_file();
    for (program, came) in [
        ("while read line; do echo error not today; done", "is answered 'error not today'"),
        ("sleep 1000", "does not answer"),
    ] {
        let mut command = undertone();
        command.args(["contract-check", &url, "--patience", "1", "--phones", program]);
        command.arg("--token-file").arg(&token);
        for (option, person) in [
            ("--supervisor", "5005=meg"),
            ("--second", "5006=otto"),
            ("--agent", "5001=bob"),
            ("--colleague", "5002=eve"),
        ] {
            command.args([option, person]);
        }
        let checked = ends(command).await;
        assert_eq!(checked.status.code(), Some(1), "{program}: {checked:?}");
        let text = String::from_utf8(checked.stdout).unwrap();
        assert!(text.contains(came), "{program}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_run_and_a_place_that_is_no_backend_are_no_broken_rules() {
    let place = tempfile::tempdir().unwrap();
    let gateway = simulated_gateway(place.path()).await;
    gateway.ready().await;
    let grpc = gateway.door("grpc");
    let url = format!("http://{grpc}");
    let not_checked = async |url: &str, phones: &[&str], said: &str| {
        let mut command = undertone();
        command.args(["contract-check", url, "--patience", "5"]).args(phones);
        let checked = ends(command).await;
        let text = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert_eq!(checked.status.code(), Some(2), "{text}");
        assert!(text.contains(said), "{text}");
    };
    not_checked(&url, &["--phones", "exit 3"], "has ended (exit status: 3)").await;
    not_checked(&url, &["--phones", "/no/such/program"], "has ended (exit status: 127)").await;
    let bare = url.trim_start_matches("http://");
    not_checked(bare, &[], "must begin with http:// or https://").await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", other.local_addr().unwrap());
    tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        while let Ok((mut stream, _)) = other.accept().await {
            tokio::spawn(async move {
                let answer = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n";
                let _ = stream.write_all(answer).await;
                // Closed with something unread it would be reset, and the answer lost.
                while matches!(stream.read(&mut [0; 1024]).await, Ok(1..)) {}
            });
        }
    });
    let nothing_of_it = "what answers there is no gRPC server of undertone.telephony.v1: it ";
    not_checked(&url, &[], &format!("{nothing_of_it}does not speak HTTP/2")).await;
    let rest = format!("http://{}", gateway.door("rest"));
    let said = "answers as plain HTTP does, with status ";
    not_checked(&rest, &[], &format!("{nothing_of_it}{said}403 Forbidden")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let empty = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(axum::serve(listener, axum::Router::new()).into_future());
    not_checked(&empty, &[], &format!("{nothing_of_it}{said}404")).await;
    let (_, health) = tonic_health::server::health_reporter();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let other = format!("http://{}", listener.local_addr().unwrap());
    let served = tonic::transport::Server::builder().add_service(health);
    tokio::spawn(served.serve_with_incoming(TcpListenerStream::new(listener)));
    not_checked(&other, &[], &format!("{nothing_of_it}has no Describe")).await;
}

/// Where the token of a gateway over simulated telephones is, as it says itself.
async fn token_of(gateway: &mut Process) -> String {
    let introduction = gateway.printed_until("with the token in ").await;
    let (_, file) = introduction.trim_end().rsplit_once("with the token in ").unwrap();
    file.to_owned()
}

/// A backend with devices whose commands are all accepted and come to nothing.
fn accepts_everything_and_does_nothing() -> TelephonyServer<TelephonyService> {
    accepts_everything(|_, _| {})
}

/// Arms what it is asked to, for ever.
async fn never_ends_a_monitor(caller: &LocalCaller) -> SocketAddr {
    let server = accepts_everything(|command, facts| {
        let model::Command::StartMonitoring { supervisor, target, activity, mode, scope, .. } =
            command
        else {
            return;
        };
        facts.publish(Fact::Monitor(MonitorFact {
            supervisor,
            target,
            activity,
            mode,
            scope,
            confirm_joins: false,
            agent_side_only: false,
            state: MonitorState::Armed,
        }));
    });
    serving(server, caller).await
}

/// Simulated telephones, behind a door that answers another gRPC code in the place of one.
async fn answers_with_another_code(caller: &LocalCaller, code: Code, wrong: Code) -> SocketAddr {
    let (server, _) = simulated::start(super::backends::simulated_config());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mistaken = move |mut response: axum::http::Response<tonic::body::Body>| {
        let of = |code: Code| axum::http::HeaderValue::from(code as i32);
        if response.headers().get(Status::GRPC_STATUS) == Some(&of(code)) {
            response.headers_mut().insert(Status::GRPC_STATUS, of(wrong));
        }
        response
    };
    let ready = tokio::sync::watch::Sender::new(true).subscribe();
    let auth = caller.auth();
    let served = tonic::transport::Server::builder()
        .layer(tower::util::MapResponseLayer::new(mistaken))
        .add_routes(undertone::telephony::routes(server, auth, ready, false).await.into())
        .serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(served);
    address
}

/// A backend on a port.
async fn serving(server: TelephonyServer<TelephonyService>, caller: &LocalCaller) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ready = tokio::sync::watch::Sender::new(true).subscribe();
    let router = undertone::telephony::router(server, caller.auth(), ready, false).await;
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

/// A backend with devices whose commands are all accepted, and what comes of them.
fn accepts_everything(
    does: impl Fn(model::Command, &FactLog) + Send + 'static,
) -> TelephonyServer<TelephonyService> {
    let all = simulated::capabilities();
    let offered = Capabilities {
        backend: "broken".into(),
        activities: all.activities,
        modes: all.modes,
        scopes: all.scopes,
        ..Capabilities::default()
    };
    let (server, CommandInbox { mut commands, facts, .. }) = serve(offered);
    for number in ["5001", "5002", "5005", "5006"] {
        facts.publish(Fact::Device(DeviceFact {
            id: format!("phone-{number}").into(),
            number: number.into(),
            kind: DeviceKind::Phone,
            registered: true,
            do_not_disturb: false,
            forward_to: None,
        }));
    }
    tokio::spawn(async move {
        while let Some(placed) = commands.recv().await {
            does(placed.command, &facts);
            let _ = placed.reply.send(Ok(()));
        }
    });
    server
}
