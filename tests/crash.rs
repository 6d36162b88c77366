//! The real processes, killed and stopped: what was promised is there again, and calls outlive the
//! gateway.

use crate::support::desktop::Audience;
use crate::support::process::{ANY, Process};
use crate::support::rest_client::RestClient;
use crate::support::server::{AGENT, Account, COLLEAGUE, SUPERVISOR, bystander, directory};
use crate::support::sip_fixture::accounted_for;
use crate::support::talk::{
    self, AGENT_HZ, BARGE_IN, COACH, CUSTOMER_HZ, PATIENCE, SUPERVISOR_HZ, TALK, Trio, hear,
};
use crate::support::wait;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use undertone::clock;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig};

/// How long a call may go on after SIGTERM.
const GRACE: Duration = Duration::from_secs(1);
/// What is said last: BYEs and the answers under way, on a busy machine.
const LAST_WORDS: Duration = Duration::from_secs(12);

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

/// The password that was made for a user or a number, from the file that `printed` names, which is
/// relative to `place`.
pub(crate) fn made(place: &Path, printed: &str, user: &str) -> String {
    let named = printed.split_once("they are in ").and_then(|(_, rest)| rest.split_once(", which"));
    let (file, _) = named.unwrap_or_else(|| panic!("no file is named: {printed}"));
    let written = std::fs::read_to_string(place.join(file)).unwrap();
    let of_user = written.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        (words.next() == Some(user)).then(|| words.next().map(str::to_owned))?
    });
    of_user.unwrap_or_else(|| panic!("no password of {user}: {written}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_set_over_rest_and_the_passwords_survive_kill_9() {
    let place = tempfile::tempdir().unwrap();
    let config = on(ANY, ANY, ANY, "");
    let mut first = Process::start("serve", place.path(), &config).await;
    let printed = first.printed_until(&my_device(SUPERVISOR)).await;
    first.ready().await;
    let clients = |process: &Process| {
        let client = |account: Account| {
            let password = made(place.path(), &printed, account.user);
            RestClient::new(process.door("rest"), account.user, &password)
        };
        (client(SUPERVISOR), client(AGENT))
    };
    let (supervisor, agent) = clients(&first);
    supervisor.post(&my_device(SUPERVISOR), coach()).await;
    let operation = |name: &str| json!({"operationName": name});
    supervisor.post(&my_device(SUPERVISOR), operation("DoNotDisturbOn")).await;
    let forward = json!({"operationName": "ForwardCallsOn", "destination": SUPERVISOR.number});
    agent.post(&my_device(AGENT), forward).await;
    let session = json!({"operationName": "StartContactCenterSession", "channels": ["voice"]});
    agent.post("/me", session).await;
    // Its phone is not there: no other state is taken.
    agent.post("/me/channels/voice", operation("Offline")).await;
    first.kill().await;

    let second = Process::start("serve", place.path(), &config).await;
    second.ready().await;
    let (supervisor, agent) = clients(&second);
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
    assert_eq!(agent.get("/me").await["user"]["userState"]["displayName"], "Offline");
    assert_eq!(second.terminate(GRACE + LAST_WORDS).await, "", "passwords are shown once");
}

/// The SIP backend, alone.
async fn backend(place: &TempDir, grpc: &str, sip: &str) -> Process {
    let config = on(ANY, grpc, sip, "") + &directory() + &bystander();
    Process::start("sip-backend", place.path(), &config).await
}

/// A gateway that has found its backend; clients know each of them by the same address.
async fn gateway(place: &TempDir, backend: SocketAddr) -> Process {
    gateway_of(place, backend, &directory()).await
}

/// With these people.
async fn gateway_of(place: &TempDir, backend: SocketAddr, people: &str) -> Process {
    let config =
        on(ANY, ANY, ANY, &format!("backend_url = 'http://{backend}'")) + people + &bystander();
    let config = config.replace("[rest]\n", "[rest]\npublic_url = 'http://undertone.test'\n");
    let gateway = Process::start("gateway", place.path(), &config).await;
    gateway.ready().await;
    gateway
}

/// The call that this user is on.
async fn call_of(client: &RestClient) -> Value {
    let mut body = client.get("/me/calls?fields=*").await;
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
    let supervisor = RestClient::of(SUPERVISOR, first.door("rest"));
    let coached_at = clock::instant();
    supervisor.post(&my_device(SUPERVISOR), coach()).await;
    trio.hear(COACH).await;
    let before = call_of(&supervisor).await;
    first.kill().await;
    trio.hear(COACH).await;

    let second = gateway(&place, backend.door("grpc")).await;
    let supervisor = RestClient::of(SUPERVISOR, second.door("rest"));
    let after = call_of(&supervisor).await;
    for field in ["id", "callUuid", "state", "callType", "monitoring", "mute", "capabilities"] {
        assert_eq!(after[field], before[field], "{field}: {after}");
    }
    let state = &supervisor.device(SUPERVISOR).await["supervisorMonitoringState"];
    assert_eq!(state["state"], "Coach");
    let agents = call_of(&RestClient::of(AGENT, second.door("rest"))).await;
    assert_eq!(
        (&agents["id"], &agents["supervisorMonitoringState"]["state"]),
        (&before["id"], &json!("Coach"))
    );
    trio.hear(COACH).await;
    let leaked = trio.customer.peak_between(SUPERVISOR_HZ, coached_at, clock::instant());
    assert!(leaked < -50.0, "the customer has heard the whisper: {leaked} dBFS");
    let switch = json!({"operationName": "SwitchToBargeIn"});
    supervisor.post(&format!("/me/calls/{}", before["id"].as_str().unwrap()), switch).await;
    trio.hear(BARGE_IN).await;

    let asked = clock::instant();
    second.terminate(LAST_WORDS).await;
    trio.hear(BARGE_IN).await;
    backend.terminate(GRACE + LAST_WORDS).await;
    trio.customer.ended(PATIENCE).await.unwrap();
    let ended = trio.agent.ended(PATIENCE).await.unwrap();
    assert!(ended.at >= asked + GRACE, "the call may go on for its grace");
}

/// The ways in which a supervisor can be joined: mode and scope.
fn ways() -> impl Iterator<Item = Value> {
    let scopes = |mode: &'static str| {
        ["Agent", "Call"].map(
            |scope| json!({"supervisorMonitoringMode": mode, "supervisorMonitoringScope": scope}),
        )
    };
    ["NextCall", "AllCalls"].into_iter().flat_map(scopes)
}

fn coach_as(way: &Value) -> Value {
    let mut body = coach();
    for (key, value) in way.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_whose_permission_is_withdrawn_is_out_of_the_call_and_monitors_nobody() {
    let place = tempfile::tempdir().unwrap();
    let backend = backend(&place, ANY, ANY).await;
    let trio = Trio::register(backend.door("sip")).await;
    let called_at = clock::instant();
    trio.call().await;
    let withdrawn = directory().replace("supervisors = ['supervisor']", "supervisors = []");
    assert_ne!(withdrawn, directory());
    for way in ways() {
        let before = gateway(&place, backend.door("grpc")).await;
        RestClient::of(SUPERVISOR, before.door("rest"))
            .post(&my_device(SUPERVISOR), coach_as(&way))
            .await;
        trio.hear(COACH).await;
        before.kill().await;
        trio.hear(COACH).await;
        let after = gateway_of(&place, backend.door("grpc"), &withdrawn).await;
        trio.supervisor.ended(PATIENCE).await.unwrap();
        trio.hear(TALK).await;
        let supervisor = RestClient::of(SUPERVISOR, after.door("rest"));
        assert!(
            supervisor.device(SUPERVISOR).await["supervisorMonitoringState"].is_null(),
            "{way}"
        );
        let (status, _, reply) = supervisor.ask(&my_device(SUPERVISOR), &coach_as(&way)).await;
        assert_eq!(status.as_u16() / 100, 4, "{way}: {reply}");
        after.kill().await;
    }
    accounted_for(&trio.customer, &[&trio.agent], called_at);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_logs_out_ends_the_monitor_and_nobody_elses_call() {
    let place = tempfile::tempdir().unwrap();
    let backend = backend(&place, ANY, ANY).await;
    let gateway = gateway(&place, backend.door("grpc")).await;
    let trio = Trio::register(backend.door("sip")).await;
    let called_at = clock::instant();
    trio.call().await;
    let session = |name: &str| {
        json!({
            "operationName": format!("{name}ContactCenterSession"), "channels": ["voice"],
        })
    };
    for account in [SUPERVISOR, AGENT] {
        for way in ways() {
            let client = |account| RestClient::of(account, gateway.door("rest"));
            for one in [SUPERVISOR, AGENT] {
                client(one).post("/me", session("Start")).await;
            }
            client(SUPERVISOR).post(&my_device(SUPERVISOR), coach_as(&way)).await;
            trio.hear(COACH).await;
            client(account).post("/me", session("End")).await;
            trio.supervisor.ended(PATIENCE).await.unwrap();
            trio.hear(TALK).await;
            let state =
                client(SUPERVISOR).device(SUPERVISOR).await["supervisorMonitoringState"].take();
            assert!(state.is_null(), "{} logs out, {way}: {state}", account.user);
        }
    }
    accounted_for(&trio.customer, &[&trio.agent], called_at);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_and_an_armed_monitor_reach_their_phones_right_after_kill_9_of_the_backend() {
    let place = tempfile::tempdir().unwrap();
    let first = backend(&place, ANY, ANY).await;
    let [grpc, sip] = ["grpc", "sip"].map(|name| first.door(name).to_string());
    let gateway = gateway(&place, first.door("grpc")).await;
    let supervisor = RestClient::of(SUPERVISOR, gateway.door("rest"));
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
    let line = wait::found(PATIENCE, async || line()).await.unwrap();
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
    let supervisor = RestClient::of(SUPERVISOR, gateway.door("rest"));
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

/// A disk of two megabytes for the state of the processes in a place.
struct SmallDisk {
    place: TempDir,
}

impl SmallDisk {
    /// `None`: mounting is not permitted here.
    fn new() -> Option<SmallDisk> {
        let place = tempfile::tempdir().unwrap();
        let state = place.path().join("undertone-data");
        std::fs::create_dir(&state).unwrap();
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=2m", "undertone-test"]).arg(&state);
        let mounted = mount.output().is_ok_and(|done| done.status.success());
        if !mounted {
            println!("skipped: a tmpfs can not be mounted here (needs root)");
        }
        mounted.then_some(SmallDisk { place })
    }

    fn state(&self) -> std::path::PathBuf {
        self.place.path().join("undertone-data")
    }

    /// Not one byte more goes on it.
    fn fill(&self) {
        use std::io::Write;
        let mut file = std::fs::File::create(self.state().join("filler")).unwrap();
        for size in [4096, 1] {
            while file.write_all(&vec![b'x'; size]).is_ok() {}
        }
    }

    fn free(&self) {
        std::fs::remove_file(self.state().join("filler")).unwrap();
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.state()).status();
    }
}

async fn says_in_time(process: &Process, path: &str, expected: &str) {
    let in_time =
        wait::found(PATIENCE, async || process.says(path).await.1.contains(expected).then_some(()))
            .await;
    assert!(
        in_time.is_some(),
        "{path} does not say {expected}: {:?}, {:?}",
        process.says(path).await,
        process.log()
    );
}

/// A disk that is full while a supervisor coaches: who cancels is out at once, the state is written
/// again by itself when there is room, and after kill −9 with the disk still full what was
/// cancelled is not armed.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_keeps_no_supervisor_on_a_call_and_is_got_over_without_a_restart_and_by_kill_9()
{
    let Some(disk) = SmallDisk::new() else { return };
    let config = on(ANY, ANY, ANY, "") + &directory();
    let process = Process::start("serve", disk.place.path(), &config).await;
    process.ready().await;
    let trio = Trio::register(process.door("sip")).await;
    let supervisor = RestClient::of(SUPERVISOR, process.door("rest"));
    let agent = RestClient::of(AGENT, process.door("rest"));
    let cancel = || json!({"operationName": "CancelSupervisorMonitoring"});
    supervisor.post(&my_device(SUPERVISOR), coach()).await;
    trio.call().await;
    trio.hear(COACH).await;

    disk.fill();
    // Nothing that ends something waits for a disk.
    supervisor.post(&my_device(SUPERVISOR), cancel()).await;
    trio.supervisor.ended(PATIENCE).await.unwrap();
    trio.hear(TALK).await;
    says_in_time(&process, "/readyz", "the state can not be written").await;
    assert_eq!(process.says("/readyz").await.0, 503);
    says_in_time(&process, "/metrics", "undertone_store_writable{store=\"sip-backend\"} 0").await;
    // What begins something does.
    let (status, _, reply) =
        agent.ask(&my_device(AGENT), &json!({"operationName": "DoNotDisturbOn"})).await;
    assert_eq!(status.as_u16(), 500, "{reply}");
    assert!(reply["statusMessage"].as_str().unwrap().contains("disk"), "{reply}");
    let session = json!({"operationName": "StartContactCenterSession", "channels": ["voice"]});
    agent.post("/me", session).await;
    trio.customer.hang_up().await.unwrap();
    trio.agent.ended(PATIENCE).await.unwrap();
    trio.call().await;
    trio.hear(TALK).await;

    disk.free();
    process.ready().await;
    says_in_time(&process, "/metrics", "undertone_store_writable{store=\"sip-backend\"} 1").await;
    supervisor.post(&my_device(SUPERVISOR), coach()).await;
    trio.hear(COACH).await;

    disk.fill();
    supervisor.post(&my_device(SUPERVISOR), cancel()).await;
    trio.hear(TALK).await;
    process.kill().await;
    drop(trio);
    // A process can begin on a full disk, too.
    let process = Process::start("serve", disk.place.path(), &config).await;
    says_in_time(&process, "/readyz", "the state can not be written").await;
    let supervisor = RestClient::of(SUPERVISOR, process.door("rest"));
    assert!(supervisor.device(SUPERVISOR).await["supervisorMonitoringState"].is_null());
    process.kill().await;
    disk.free();
    let process = Process::start("serve", disk.place.path(), &config).await;
    process.ready().await;
    let supervisor = RestClient::of(SUPERVISOR, process.door("rest"));
    assert!(supervisor.device(SUPERVISOR).await["supervisorMonitoringState"].is_null());
    let me = RestClient::of(AGENT, process.door("rest")).get("/me").await;
    assert_eq!(me["user"]["userState"]["displayName"], "Not Ready");
    let trio = Trio::register(process.door("sip")).await;
    trio.call().await;
    trio.hear(TALK).await;
    process.terminate(GRACE + LAST_WORDS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_was_asked_for_warns_of_nothing() {
    let place = tempfile::tempdir().unwrap();
    let process = Process::start("serve", place.path(), &on(ANY, ANY, ANY, "")).await;
    process.ready().await;
    let log = process.log.clone();
    process.terminate(GRACE + LAST_WORDS).await;
    let said = |word: &str| log.lock().unwrap().iter().any(|line| line.contains(word));
    let stopped = wait::found(PATIENCE, async || said(": stopped").then_some(())).await;
    assert!(stopped.is_some(), "{:?}", log.lock().unwrap());
    let alarms = log
        .lock()
        .unwrap()
        .iter()
        .filter(|line| line.contains("WARN") || line.contains("ERROR"))
        .cloned()
        .collect::<Vec<_>>();
    assert!(alarms.is_empty(), "{alarms:?}");
}

/// What has become of the coached call.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Became {
    /// Customer and agent.
    Nothing,
    /// The agent has asked the colleague, and transferred the customer there.
    Transfer,
    /// The agent has asked the colleague, and brought all together.
    Conference,
}

/// The two processes, desktops at the one and phones at the other.
struct Fixture {
    place: TempDir,
    backend: Process,
    gateway: Process,
    audience: Audience,
    trio: Trio,
    /// The agent's second line, which calls the colleague.
    line: Phone,
    colleague: Phone,
    became: Became,
}

const DESKTOPS: [Account; 3] = [AGENT, COLLEAGUE, SUPERVISOR];
const COLLEAGUE_HZ: f32 = 743.0;

impl Fixture {
    /// A supervisor has asked to coach the agent, and nobody is on a call.
    async fn armed(became: Became) -> Fixture {
        let place = tempfile::tempdir().unwrap();
        let backend = backend(&place, ANY, ANY).await;
        let gateway = gateway(&place, backend.door("grpc")).await;
        let sip = backend.door("sip");
        // The phone that registers last is called: the agent's own, as long as the second line has
        // not.
        let trio = Trio::register(sip).await;
        let fixture = Fixture {
            line: Phone::start(PhoneConfig::new(AGENT.number, AGENT.password, sip, AGENT_HZ))
                .await
                .unwrap(),
            colleague: talk::phone(
                COLLEAGUE,
                sip,
                COLLEAGUE_HZ,
                AnswerPolicy::Auto(Duration::ZERO),
            )
            .await,
            audience: Audience::open(gateway.door("rest"), &DESKTOPS).await,
            place,
            backend,
            gateway,
            trio,
            became,
        };
        fixture.client(SUPERVISOR).post(&my_device(SUPERVISOR), coach()).await;
        fixture
    }

    fn client(&self, account: Account) -> RestClient {
        RestClient::of(account, self.gateway.door("rest"))
    }

    /// The supervisor is on the call, and it has become what it is to be.
    async fn talk(&mut self) {
        self.trio.call().await;
        self.trio.hear(COACH).await;
        let complete = match self.became {
            Became::Nothing => return,
            Became::Transfer => "CompleteTransfer",
            Became::Conference => "CompleteConference",
        };
        let agent = self.client(AGENT);
        let call = format!("/me/calls/{}", call_of(&agent).await["id"].as_str().unwrap());
        self.line.register().await.unwrap();
        let colleague = json!({"phoneNumber": COLLEAGUE.number});
        agent
            .post(&call, json!({"operationName": "InitiateTransfer", "destination": colleague}))
            .await;
        self.line.established(PATIENCE).await.unwrap();
        self.colleague.established(PATIENCE).await.unwrap();
        let asked = json!({"call": {"state": "Established", "callType": "Consult"}});
        self.audience.of(AGENT).until(&asked).await;
        agent.post(&call, json!({"operationName": complete})).await;
        self.heard().await;
    }

    /// Who hears whom is as it is to be.
    #[track_caller]
    fn heard(&self) -> impl Future<Output = ()> {
        let (agent, expected) = match self.became {
            Became::Nothing => {
                (&self.trio.agent, ["agent", "customer supervisor", "", "customer agent"])
            }
            Became::Transfer => {
                (&self.line, ["colleague", "", "customer supervisor", "customer colleague"])
            }
            Became::Conference => (
                &self.line,
                [
                    "agent colleague",
                    "customer colleague supervisor",
                    "customer agent",
                    "customer agent colleague",
                ],
            ),
        };
        let speakers = [
            ("customer", &self.trio.customer, CUSTOMER_HZ),
            ("agent", agent, AGENT_HZ),
            ("colleague", &self.colleague, COLLEAGUE_HZ),
            ("supervisor", &self.trio.supervisor, SUPERVISOR_HZ),
        ];
        hear(speakers, expected)
    }

    /// The agent that the supervisor coaches.
    fn coached(&self) -> Account {
        match self.became {
            Became::Nothing | Became::Conference => AGENT,
            Became::Transfer => COLLEAGUE,
        }
    }

    /// The agents that see on their own legs that the supervisor barges in.
    fn see_the_barge_in(&self) -> Vec<Account> {
        match self.became {
            Became::Nothing => vec![AGENT],
            Became::Transfer => vec![COLLEAGUE],
            Became::Conference => vec![AGENT, COLLEAGUE],
        }
    }

    /// kill −9 of the gateway, and another in its place. All hear each other as before, all can be
    /// read as before, and every desktop that comes back is told how things are, once.
    async fn another_gateway(mut self) -> Fixture {
        let is_talking =
            !self.client(SUPERVISOR).get("/me/calls").await["uris"].as_array().unwrap().is_empty();
        self.audience.catch_up().await;
        let mut before = Vec::new();
        for account in DESKTOPS {
            self.audience.of(account).take();
            before.push(self.audience.view(account).await);
        }
        self.gateway.kill().await;
        let gateway = gateway(&self.place, self.backend.door("grpc")).await;
        let mut fixture = Fixture { gateway, ..self };
        if is_talking {
            fixture.heard().await;
        }
        fixture.audience.reopen(fixture.gateway.door("rest")).await;
        fixture.audience.catch_up().await;
        for (account, before) in DESKTOPS.into_iter().zip(before) {
            assert_eq!(fixture.audience.view(account).await, before, "{}", account.user);
            let told = fixture.audience.of(account).take();
            let user = &before["user"];
            let count = |list: &str| user[list].as_array().unwrap().len();
            let on =
                |channel: &str| told.iter().filter(|message| message["channel"] == channel).count();
            assert_eq!(
                (on("/v2/me/devices"), on("/v2/me/calls"), on("/v2/me/channels"), told.len()),
                (count("devices"), count("calls"), 1, count("devices") + count("calls") + 1),
                "{}: how things are, once: {}",
                account.user,
                json!(told)
            );
        }
        fixture.audience.reads_as_told("with another gateway").await;
        fixture
    }

    /// The supervisor changes to BargeIn: everybody concerned is told once.
    async fn barges_in(&mut self) {
        self.audience.catch_up().await;
        for desktop in &mut self.audience.desktops {
            desktop.take();
        }
        let supervisor = self.client(SUPERVISOR);
        let call = format!("/me/calls/{}", call_of(&supervisor).await["id"].as_str().unwrap());
        supervisor.post(&call, json!({"operationName": "SwitchToBargeIn"})).await;
        self.told_once(["DeviceStateChangeMessage", "StatusChange"], "ParticipantsUpdated").await;
    }

    /// What has happened last was told once: to the supervisor on calls and devices, to the
    /// agents that see the BargeIn, and to nobody else.
    async fn told_once(&mut self, supervisor: [&str; 2], concerned: &str) {
        self.audience.catch_up().await;
        for account in DESKTOPS {
            let told = self.audience.of(account).take();
            let kind = |data: &Value| {
                data["notificationType"]
                    .as_str()
                    .or(data["messageType"].as_str())
                    .unwrap()
                    .to_owned()
            };
            let mut kinds: Vec<_> = told.iter().map(|message| kind(&message["data"])).collect();
            kinds.sort_unstable();
            let is_concerned =
                self.see_the_barge_in().iter().any(|other| other.user == account.user);
            let expected: &[&str] = match account.user {
                user if user == SUPERVISOR.user => &supervisor,
                _ if is_concerned => &[concerned],
                _ => &[],
            };
            assert_eq!(kinds, expected, "{}: {}", account.user, json!(told));
        }
        self.audience.reads_as_told("what was told").await;
    }
}

async fn gateways_come_and_go(became: Became) {
    let mut fixture = Fixture::armed(became).await.another_gateway().await;
    fixture.talk().await;
    let mut fixture = fixture.another_gateway().await;
    let coached = call_of(&fixture.client(fixture.coached())).await;
    assert_eq!(coached["supervisorMonitoringState"]["state"], "Coach", "{coached}");
    fixture.barges_in().await;
    fixture.trio.customer.hang_up().await.unwrap();
    fixture.audience.of(SUPERVISOR).until(&json!({"call": {"state": "Released"}})).await;
    let concerned = match became {
        Became::Nothing | Became::Transfer => "StatusChange",
        // The two agents are left.
        Became::Conference => "ParticipantsUpdated",
    };
    fixture.told_once(["DeviceStateChangeMessage", "StatusChange"], concerned).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_talks_and_whoever_looks_on_notices_nothing_of_another_gateway() {
    gateways_come_and_go(Became::Nothing).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coach_goes_on_with_the_next_agent_through_another_gateway() {
    gateways_come_and_go(Became::Transfer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coach_goes_on_in_a_conference_through_another_gateway() {
    gateways_come_and_go(Became::Conference).await;
}

/// kill −9 of the backend under a gateway that goes on, and another in its place: the call is gone,
/// and everybody is told once.
async fn another_backend(became: Became) {
    let mut fixture = Fixture::armed(became).await;
    fixture.talk().await;
    fixture.barges_in().await;
    let [grpc, sip] = ["grpc", "sip"].map(|name| fixture.backend.door(name).to_string());
    fixture.backend.kill().await;
    let second = backend(&fixture.place, &grpc, &sip).await;
    fixture.gateway.ready().await;
    fixture.audience.of(SUPERVISOR).until(&json!({"call": {"state": "Released"}})).await;
    let mut fixture = Fixture { backend: second, ..fixture };
    fixture.told_once(["DeviceStateChangeMessage", "StatusChange"], "StatusChange").await;
    let state = &fixture.client(SUPERVISOR).device(SUPERVISOR).await["supervisorMonitoringState"];
    assert_eq!(
        (&state["state"], &state["mode"]),
        (&json!("Coach"), &json!("AllCalls")),
        "armed again"
    );
    for account in DESKTOPS {
        let calls = fixture.client(account).get("/me/calls").await;
        assert_eq!(calls["uris"], json!([]), "{}", account.user);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_of_the_backend_each_desktop_is_told_once_that_the_call_is_gone() {
    another_backend(Became::Nothing).await;
    another_backend(Became::Transfer).await;
    another_backend(Became::Conference).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_while_no_gateway_runs_shows_to_whoever_comes_back_and_is_told_no_second_time()
{
    let mut fixture = Fixture::armed(Became::Nothing).await;
    fixture.talk().await;
    fixture.audience.catch_up().await;
    fixture.gateway.kill().await;
    fixture.trio.agent.hold().await.unwrap();
    let gateway = gateway(&fixture.place, fixture.backend.door("grpc")).await;
    fixture.audience.of(AGENT).take();
    fixture.audience.reopen(gateway.door("rest")).await;
    fixture.audience.catch_up().await;
    let states = |told: Vec<Value>| -> Vec<Value> {
        let calls = told.iter().filter(|message| message["channel"] == "/v2/me/calls");
        calls.map(|message| message["data"]["call"]["state"].clone()).collect()
    };
    assert_eq!(states(fixture.audience.of(AGENT).take()), ["Held"]);
    fixture.audience.reads_as_told("he holds").await;
    fixture.trio.agent.retrieve().await.unwrap();
    fixture.audience.catch_up().await;
    assert_eq!(states(fixture.audience.of(AGENT).take()), ["Established"]);
    fixture.audience.reads_as_told("he has retrieved").await;
}
