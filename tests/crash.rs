//! The real processes, killed and stopped: what was promised is there again, and calls outlive the gateway.

use crate::support::house::{AGENT, Account, SUPERVISOR, directory};
use crate::support::process::{ANY, Process};
use crate::support::talk::{BARGE_IN, COACH, PATIENCE, SUPERVISOR_HZ, TALK, Trio};
use reqwest::header::RETRY_AFTER;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tempfile::TempDir;
use undertone::clock;
use undertone::phone::{Phone, PhoneConfig};

/// How long a call may go on after SIGTERM.
const GRACE: Duration = Duration::from_secs(1);
/// What is said last: BYEs and the answers under way, on a busy machine.
const LAST_WORDS: Duration = Duration::from_secs(12);

/// One user's desktop.
pub(crate) struct Desk {
    http: reqwest::Client,
    rest: SocketAddr,
    user: String,
    password: String,
}

impl Desk {
    pub(crate) fn of(account: Account, rest: SocketAddr) -> Desk {
        Desk::with(rest, account.user, account.password)
    }

    fn with(rest: SocketAddr, user: &str, password: &str) -> Desk {
        Desk {
            http: reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap(),
            rest,
            user: user.into(),
            password: password.into(),
        }
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> (reqwest::StatusCode, Option<String>, Value) {
        let answer = request.basic_auth(&self.user, Some(&self.password)).send().await.unwrap();
        let retry_after = answer.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap().to_owned());
        (answer.status(), retry_after, answer.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        let (status, _, body) = self.send(self.http.get(format!("http://{}/api/v2{path}", self.rest))).await;
        assert_eq!((status.as_u16(), &body["statusCode"]), (200, &json!(0)), "{path}: {body}");
        body
    }

    async fn ask(&self, path: &str, body: &Value) -> (reqwest::StatusCode, Option<String>, Value) {
        let request = self.http.post(format!("http://{}/api/v2{path}", self.rest)).json(body);
        self.send(request).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) {
        let (_, _, reply) = self.ask(path, &body).await;
        assert_eq!(reply, json!({"statusCode": 0}), "{path} {body}");
    }

    async fn device(&self, account: Account) -> Value {
        let mut body = self.get(&format!("/me/devices/{}", account.device)).await;
        body["device"].take()
    }
}

pub(crate) fn my_device(account: Account) -> String {
    format!("/me/devices/{}", account.device)
}

pub(crate) fn coach() -> Value {
    json!({
        "operationName": "Coach",
        "targetDeviceUri": format!("http://localhost:8080/api/v2/devices/{}", AGENT.device),
    })
}

/// Doors on these addresses; the sample's directory is built in.
pub(crate) fn on(rest: &str, grpc: &str, sip: &str, more: &str) -> String {
    format!(
        "{more}\n[rest]\nbind = '{rest}'\n[grpc]\nbind = '{ANY}'\n[admin]\nbind = '{ANY}'\n\
         [sip_backend]\ngrpc_bind = '{grpc}'\nadmin_bind = '{ANY}'\n\
         [sip]\nlisten = ['udp:{sip}', 'tcp:{ANY}']\ngrace = {}\n",
        GRACE.as_secs()
    )
}

/// The password that was made for a user.
fn made(printed: &str, user: &str) -> String {
    let of_user = printed.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(user)).then(|| words.next_back().map(str::to_owned))?
    });
    of_user.unwrap_or_else(|| panic!("no password of {user}: {printed}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_over_rest_and_the_passwords_survive_kill_9() {
    let place = tempfile::tempdir().unwrap();
    let config = on(ANY, ANY, ANY, "");
    let mut first = Process::start("serve", place.path(), &config).await;
    let printed = first.printed_until(&my_device(SUPERVISOR)).await;
    first.ready().await;
    let desks = |process: &Process| {
        let desk = |account: Account| Desk::with(process.door("rest"), account.user, &made(&printed, account.user));
        (desk(SUPERVISOR), desk(AGENT))
    };
    let (supervisor, agent) = desks(&first);
    supervisor.post(&my_device(SUPERVISOR), coach()).await;
    let operation = |name: &str| json!({"operationName": name});
    supervisor.post(&my_device(SUPERVISOR), operation("DoNotDisturbOn")).await;
    let forward = json!({"operationName": "ForwardCallsOn", "destination": SUPERVISOR.number});
    agent.post(&my_device(AGENT), forward).await;
    let session = json!({"operationName": "StartContactCenterSession", "channels": ["voice"]});
    agent.post("/me", session).await;
    agent.post("/me/channels/voice", operation("AuxWork")).await;
    first.kill().await;

    let second = Process::start("serve", place.path(), &config).await;
    second.ready().await;
    let (supervisor, agent) = desks(&second);
    let device = supervisor.device(SUPERVISOR).await;
    let monitoring = &device["supervisorMonitoringState"];
    assert_eq!(
        (&monitoring["state"], &monitoring["mode"], &monitoring["scope"]),
        (&json!("Coach"), &json!("AllCalls"), &json!("Call")),
        "{device}"
    );
    assert!(monitoring["targetDeviceUri"].as_str().unwrap().ends_with(AGENT.device));
    assert_eq!(device["doNotDisturb"], "On");
    assert_eq!(agent.device(AGENT).await["forwardTo"], SUPERVISOR.number);
    assert_eq!(agent.get("/me").await["user"]["userState"]["displayName"], "AuxWork");
    assert_eq!(second.terminate(GRACE + LAST_WORDS).await, "", "passwords are shown once");
}

/// The SIP backend, alone.
async fn backend(place: &TempDir, grpc: &str, sip: &str) -> Process {
    let config = on(ANY, grpc, sip, "") + &directory();
    Process::start("sip-backend", place.path(), &config).await
}

/// A gateway that has found its backend.
async fn gateway(place: &TempDir, backend: SocketAddr) -> Process {
    let config = on(ANY, ANY, ANY, &format!("backend_url = 'http://{backend}'")) + &directory();
    let gateway = Process::start("gateway", place.path(), &config).await;
    gateway.ready().await;
    gateway
}

/// The call that this user is on.
async fn call_of(desk: &Desk) -> Value {
    let mut body = desk.get("/me/calls?fields=*").await;
    let calls = body["calls"].as_array_mut().unwrap();
    assert_eq!(calls.len(), 1, "{calls:?}");
    calls.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coached_call_outlives_its_gateway_and_the_next_one_takes_it_over() {
    let place = tempfile::tempdir().unwrap();
    let backend = backend(&place, ANY, ANY).await;
    let first = gateway(&place, backend.door("grpc")).await;
    let trio = Trio::register(backend.door("sip")).await;
    trio.call().await;
    trio.hear(TALK).await;
    let supervisor = Desk::of(SUPERVISOR, first.door("rest"));
    let coached_at = clock::instant();
    supervisor.post(&my_device(SUPERVISOR), coach()).await;
    trio.hear(COACH).await;
    let before = call_of(&supervisor).await;
    first.kill().await;
    trio.hear(COACH).await;

    let second = gateway(&place, backend.door("grpc")).await;
    let supervisor = Desk::of(SUPERVISOR, second.door("rest"));
    let after = call_of(&supervisor).await;
    for field in ["id", "callUuid", "state", "callType", "monitoring", "mute", "capabilities"] {
        assert_eq!(after[field], before[field], "{field}: {after}");
    }
    let state = &supervisor.device(SUPERVISOR).await["supervisorMonitoringState"];
    assert_eq!(state["state"], "Coach");
    let agents = call_of(&Desk::of(AGENT, second.door("rest"))).await;
    assert_eq!(
        (&agents["id"], &agents["supervisorMonitoringState"]["state"]),
        (&before["id"], &json!("Coach"))
    );
    trio.hear(COACH).await;
    let leaked = trio.customer.peak_between(SUPERVISOR_HZ, coached_at, clock::instant());
    assert!(leaked < -50.0, "the customer has heard the whisper: {leaked} dBFS");
    let switch = json!({"operationName": "SwitchToBargeIn"});
    supervisor
        .post(&format!("/me/calls/{}", before["id"].as_str().unwrap()), switch)
        .await;
    trio.hear(BARGE_IN).await;

    let asked = clock::instant();
    second.terminate(LAST_WORDS).await;
    trio.hear(BARGE_IN).await;
    backend.terminate(GRACE + LAST_WORDS).await;
    trio.customer.ended(PATIENCE).await.unwrap();
    let ended = trio.agent.ended(PATIENCE).await.unwrap();
    assert!(ended.at >= asked + GRACE, "the call may go on for its grace");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_and_an_armed_monitor_reach_their_phones_right_after_kill_9_of_the_backend() {
    let place = tempfile::tempdir().unwrap();
    let first = backend(&place, ANY, ANY).await;
    let [grpc, sip] = ["grpc", "sip"].map(|name| first.door(name).to_string());
    let gateway = gateway(&place, first.door("grpc")).await;
    let supervisor = Desk::of(SUPERVISOR, gateway.door("rest"));
    let trio = Trio::register(first.door("sip")).await;
    // What came before it is as safe as this, once it is answered.
    supervisor.post(&my_device(SUPERVISOR), coach()).await;
    first.kill().await;

    let second = backend(&place, &grpc, &sip).await;
    gateway.ready().await;
    // No phone has noticed anything.
    trio.call().await;
    trio.hear(COACH).await;
    trio.customer.hang_up().await.unwrap();
    trio.agent.ended(PATIENCE).await.unwrap();
    second.terminate(GRACE + LAST_WORDS).await;
    gateway.terminate(LAST_WORDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_with_a_wrong_password_leaves_a_line_in_the_log_without_password_or_number() {
    let place = tempfile::tempdir().unwrap();
    let backend = backend(&place, ANY, ANY).await;
    let config = PhoneConfig::new(AGENT.number, "mistyped-secret", backend.door("sip"), 440.0);
    let phone = Phone::start(config).await.unwrap();
    assert!(phone.register().await.is_err());
    let line = || backend.log().into_iter().find(|line| line.contains("password is wrong"));
    let waiting = async {
        loop {
            match line() {
                Some(line) => return line,
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    };
    let line = tokio::time::timeout(PATIENCE, waiting).await.unwrap();
    let message = line.split_once("password is wrong").map_or("", |(_, fields)| fields);
    assert!(
        line.contains("WARN") && line.contains(AGENT.device) && line.contains("127.0.0.1"),
        "{line}"
    );
    assert!(!line.contains("mistyped-secret") && !message.contains(AGENT.number), "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_backend_the_gateway_reads_and_refuses_and_works_again_when_it_is_back() {
    let place = tempfile::tempdir().unwrap();
    let first = backend(&place, ANY, ANY).await;
    let [grpc, sip] = ["grpc", "sip"].map(|name| first.door(name).to_string());
    let gateway = gateway(&place, first.door("grpc")).await;
    let supervisor = Desk::of(SUPERVISOR, gateway.door("rest"));
    supervisor.post(&my_device(SUPERVISOR), coach()).await;
    let trio = Trio::register(first.door("sip")).await;
    trio.call().await;
    trio.hear(COACH).await;
    first.kill().await;

    for body in [
        coach(),
        json!({"operationName": "DoNotDisturbOn"}),
        json!({"operationName": "CancelSupervisorMonitoring"}),
    ] {
        let (status, retry_after, reply) = supervisor.ask(&my_device(SUPERVISOR), &body).await;
        assert_eq!((status.as_u16(), &reply["statusCode"]), (503, &json!(4)), "{body}: {reply}");
        assert!(retry_after.is_some_and(|seconds| seconds.parse::<u32>().is_ok()), "{body}");
    }
    assert_eq!(supervisor.device(SUPERVISOR).await["phoneNumber"], SUPERVISOR.number);
    for read in [
        "/me?subresources=*",
        "/me/devices",
        "/me/calls",
        "/devices?fields=*",
        "/diagnostics/version",
    ] {
        supervisor.get(read).await;
    }

    // These phones' call is gone with the backend; others take their places.
    drop(trio);
    let second = backend(&place, &grpc, &sip).await;
    gateway.ready().await;
    let state = &supervisor.device(SUPERVISOR).await["supervisorMonitoringState"];
    assert_eq!((&state["state"], &state["mode"]), (&json!("Coach"), &json!("AllCalls")));
    let trio = Trio::register(second.door("sip")).await;
    trio.call().await;
    trio.hear(COACH).await;
    let cancel = json!({"operationName": "CancelSupervisorMonitoring"});
    supervisor.post(&my_device(SUPERVISOR), cancel).await;
    trio.hear(TALK).await;
    trio.customer.hang_up().await.unwrap();
    trio.agent.ended(PATIENCE).await.unwrap();
    second.terminate(GRACE + LAST_WORDS).await;
    gateway.terminate(LAST_WORDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_was_asked_for_warns_of_nothing() {
    let place = tempfile::tempdir().unwrap();
    let process = Process::start("serve", place.path(), &on(ANY, ANY, ANY, "")).await;
    process.ready().await;
    let log = process.log.clone();
    process.terminate(GRACE + LAST_WORDS).await;
    let said = |word: &str| log.lock().unwrap().iter().any(|line| line.contains(word));
    let waiting = async {
        while !said(": stopped") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "{:?}", log.lock().unwrap());
    let alarms = log
        .lock()
        .unwrap()
        .iter()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"))
        .cloned()
        .collect::<Vec<_>>();
    assert!(alarms.is_empty(), "{alarms:?}");
}
