//! The directory changes while calls go on: by SIGHUP, by another file, by an admin over REST.
//! Whoever loses a right loses it at once, and a fault changes nothing.

mod admin;

use crate::crash::{coach, my_device};
use crate::support::desktop::Desktop;
use crate::support::process::{ANY, Process, write_private};
use crate::support::rest_client::RestClient;
use crate::support::server::{
    AGENT, Account, COLLEAGUE, CUSTOMER, SUPERVISOR, describe, device, directory, user,
};
use crate::support::talk::{COACH, PATIENCE, TALK, Trio};
use crate::support::wait;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use undertone::clock;
use undertone::demo::phone::{Phone, PhoneConfig};

/// A user that is not there at first.
const NEWCOMER: Account = Account {
    device: "aaaa0000-0000-4000-8000-000000005010",
    number: "5010",
    user: "newcomer",
    password: "newcomer-secret",
};

/// Whoever loses a right loses it within this.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The binary, with a file that can be changed.
struct House {
    process: Process,
    place: TempDir,
    text: String,
}

impl House {
    async fn open(more: &str) -> House {
        let place = tempfile::tempdir().unwrap();
        let text = describe(place.path(), more);
        let process = Process::start("serve", place.path(), &text).await;
        process.ready().await;
        House { process, place, text }
    }

    fn file(&self) -> PathBuf {
        self.place.path().join("serve.toml")
    }

    /// Another file, which nobody is told of.
    fn write(&mut self, change: impl FnOnce(&str) -> String) {
        let text = change(&self.text);
        assert_ne!(text, self.text, "nothing is changed");
        self.text = text;
        write_private(&self.file(), &self.text);
    }

    fn hang_up(&self) {
        let id = i32::try_from(self.process.id()).unwrap();
        kill(Pid::from_raw(id), Signal::SIGHUP).unwrap();
    }

    /// Another file, and SIGHUP; how it was before is there again when nothing is replaced.
    fn change(&mut self, from: &str, to: &str) {
        self.write(|text| text.replacen(from, to, 1));
        self.hang_up();
    }

    fn client(&self, account: Account) -> RestClient {
        RestClient::of(account, self.process.door("rest"))
    }

    async fn desktop(&self, account: Account) -> Desktop {
        Desktop::open(self.process.door("rest"), account).await
    }

    /// Waits until the log has a line with all of these.
    async fn says(&self, words: &[&str]) {
        let has = |line: &String| words.iter().all(|word| line.contains(word));
        let found =
            wait::found(PATIENCE, async || self.process.log().iter().any(has).then_some(()));
        assert!(found.await.is_some(), "{words:?} is not said: {:#?}", self.process.log());
    }

    fn audit(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.place.path().join("audit.jsonl")).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn coach(&self) {
        let body = json!({
            "operationName": "Coach",
            "targetDeviceUri": format!("http://localhost:8080/api/v2/devices/{}", AGENT.device),
        });
        let device = format!("/me/devices/{}", SUPERVISOR.device);
        self.client(SUPERVISOR).post(&device, body).await;
    }
}

/// A coach that has joined, with a desktop.
struct Coached {
    house: House,
    phones: Trio,
    supervisor: Desktop,
    agent: Desktop,
}

impl Coached {
    async fn begin(more: &str) -> Coached {
        let house = House::open(more).await;
        let phones = Trio::register(house.process.door("sip")).await;
        let supervisor = house.desktop(SUPERVISOR).await;
        let agent = house.desktop(AGENT).await;
        house.coach().await;
        phones.call().await;
        phones.supervisor.established(PATIENCE).await.unwrap();
        let mut coached = Coached { house, phones, supervisor, agent };
        coached.supervisor.until(&json!({"call": {"state": "Established"}})).await;
        coached
            .agent
            .until(&json!({"call": {"supervisorMonitoringState": {"state": "Coach"}}}))
            .await;
        coached
    }

    /// The supervisor's phone hears BYE at once, and the call goes on.
    async fn is_out(&self) {
        let since = clock::instant();
        self.phones.supervisor.ended(PATIENCE).await.unwrap();
        assert!(since.elapsed() < AT_ONCE * 2, "released after {:?}", since.elapsed());
        self.phones.hear(TALK).await;
    }

    fn cancelled(&self) -> Value {
        let lines = self.house.audit();
        let found = lines.iter().find(|line| line["event"] == "cancelled");
        found.unwrap_or_else(|| panic!("the audit does not say so: {lines:#?}")).clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_device_and_trunk_come_with_sighup_and_nothing_else_is_touched() {
    let mut house = House::open("").await;
    let agent = house.client(AGENT);
    agent.get("/me").await;
    house.write(|text| {
        format!(
            "{text}{}{}[[sip.trunk]]\nname = 'carrier'\nsources = ['127.0.0.9']\n\
             target = '127.0.0.9:5060'\nprefixes = ['0']\n",
            device(NEWCOMER, "house"),
            user(NEWCOMER, "Agent"),
        )
    });
    house.hang_up();
    house.says(&["users added: newcomer"]).await;
    house.says(&["devices added", NEWCOMER.device]).await;
    house.says(&["trunks added: carrier"]).await;
    let newcomer = house.client(NEWCOMER);
    let me = newcomer.get("/me?subresources=devices").await;
    assert_eq!(me["user"]["devices"][0]["phoneNumber"], NEWCOMER.number);
    let phone =
        PhoneConfig::new(NEWCOMER.number, NEWCOMER.password, house.process.door("sip"), 700.0);
    let phone = Phone::start(phone).await.unwrap();
    phone.register().await.unwrap();
    agent.get("/me").await;
    let lines = house.audit();
    let said = |text: &str| {
        lines.iter().any(|line| {
            line["event"] == "directory_changed"
                && line["message"] == text
                && line["user"].is_null()
        })
    };
    assert!(said("users added: newcomer"), "{lines:#?}");
    let (_, metrics) = house.process.says("/metrics").await;
    assert!(
        metrics.contains("undertone_directory_reads_total{outcome=\"applied\"} 1"),
        "{metrics}"
    );
    let log = house.process.log().concat();
    assert!(!log.contains(NEWCOMER.password) && !log.contains("argon2id"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_file_is_noticed_without_being_told() {
    let mut house = House::open("").await;
    house.write(|text| text.replacen("display_name = 'agent'", "display_name = 'Agatha'", 1));
    house.says(&["users changed: agent (name)"]).await;
    let me = house.client(AGENT).get("/me").await;
    assert_eq!(me["user"]["displayName"], "Agatha");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_two_halves_each_read_the_file_again_and_a_supervisor_taken_from_it_is_out_of_the_call()
{
    let place = tempfile::tempdir().unwrap();
    let doors = format!("[sip_backend]\ngrpc_bind = '{ANY}'\nadmin_bind = '{ANY}'\n");
    let backend_text = describe(place.path(), &doors);
    let backend = Process::start("sip-backend", place.path(), &backend_text).await;
    let url = format!("backend_url = 'http://{}'\n", backend.door("grpc"));
    let gateway_text = url + &backend_text;
    let gateway = Process::start("gateway", place.path(), &gateway_text).await;
    gateway.ready().await;
    let trio = Trio::register(backend.door("sip")).await;
    trio.call().await;
    let supervisor = RestClient::of(SUPERVISOR, gateway.door("rest"));
    supervisor.post(&my_device(SUPERVISOR), coach()).await;
    trio.hear(COACH).await;

    let write = |part: &str, text: &str| {
        fs::write(place.path().join(format!("{part}.toml")), text).unwrap();
    };
    let more = device(NEWCOMER, "house") + &user(NEWCOMER, "Agent");
    write("sip-backend", &(backend_text.clone() + &more));
    write("gateway", &(gateway_text.clone() + &more));
    let registers = async || {
        let (number, password) = (NEWCOMER.number, NEWCOMER.password);
        let phone = PhoneConfig::new(number, password, backend.door("sip"), 700.0);
        let phone = Phone::start(phone).await.unwrap();
        phone.register().await.ok().map(|()| phone)
    };
    let _phone = wait::found(PATIENCE, registers).await.expect("the backend has read it");
    let newcomer = RestClient::of(NEWCOMER, gateway.door("rest"));
    let logs_in = async || (newcomer.look("/me").await["statusCode"] == 0).then_some(());
    wait::found(PATIENCE, logs_in).await.expect("the gateway has read it");

    let alone = gateway_text.replacen("supervisors = ['supervisor']", "supervisors = []", 1);
    assert_ne!(alone, gateway_text);
    write("gateway", &(alone + &more));
    trio.supervisor.ended(PATIENCE).await.unwrap();
    trio.hear(TALK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_file_changes_nothing_and_each_fault_is_said() {
    let mut house = House::open("").await;
    house.write(|text| {
        text.replacen("roles = ['Supervisor']", "roles = ['Superviser']", 1)
            .replacen("agents = ['agent', 'colleague']", "agents = ['agent', 'nobody']", 1)
            .replacen(&user(COLLEAGUE, "Agent")[..20], "[[user]]\nid = 'renamed", 1)
    });
    house.hang_up();
    house.says(&["faulty", "Superviser"]).await;
    house.says(&["faulty", "nobody"]).await;
    house.client(COLLEAGUE).get("/me").await;
    house.client(SUPERVISOR).get("/me").await;
    assert!(house.audit().iter().all(|line| line["event"] != "directory_changed"));
    let (_, metrics) = house.process.says("/metrics").await;
    assert!(metrics.contains("undertone_directory_reads_total{outcome=\"faulty\"} 1"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_needs_a_restart_is_named_and_the_rest_is_applied() {
    let mut house = House::open("").await;
    house.write(|text| {
        text.replacen("grace = 0", "grace = 7", 1).replacen(
            "display_name = 'agent'",
            "display_name = 'Agatha'",
            1,
        )
    });
    house.hang_up();
    house.says(&["WARN", "sip.grace", "restart"]).await;
    house.says(&["users changed: agent (name)"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_loses_the_role_is_out_of_the_call_at_once() {
    let mut coached = Coached::begin("").await;
    coached.house.write(|text| {
        let group = text.replacen("supervisors = ['supervisor']", "supervisors = []", 1);
        group.replacen("roles = ['Supervisor']", "roles = ['Agent']", 1)
    });
    coached.house.hang_up();
    coached.is_out().await;
    let error = json!({"messageType": "ErrorMessage", "devicePath": format!("/devices/{}", SUPERVISOR.device)});
    coached.supervisor.until(&error).await;
    coached.supervisor.until(&json!({"call": {"state": "Released"}})).await;
    let cancelled = coached.cancelled();
    assert_eq!(
        (&cancelled["user"], &cancelled["target"]),
        (&json!("supervisor"), &json!(AGENT.device)),
        "{cancelled}"
    );
    let device = coached.house.client(SUPERVISOR).device(SUPERVISOR).await;
    let capabilities = device["capabilities"].to_string();
    assert!(!capabilities.contains("Coach") && device["supervisorMonitoringState"].is_null());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_loses_the_feature_is_out_of_the_call_at_once() {
    let mut coached = Coached::begin("").await;
    coached
        .house
        .change("roles = ['Supervisor']", "roles = ['Supervisor']\nfeatures = ['api-voice']");
    coached.is_out().await;
    coached.supervisor.until(&json!({"messageType": "ErrorMessage"})).await;
    assert_eq!(coached.cancelled()["user"], "supervisor");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_loses_the_group_is_out_of_the_call_at_once() {
    let mut coached = Coached::begin("").await;
    coached.house.change("supervisors = ['supervisor']", "supervisors = []");
    coached.is_out().await;
    coached.supervisor.until(&json!({"messageType": "ErrorMessage"})).await;
    coached.agent.until(&json!({"call": {"state": "Established"}})).await;
    assert_eq!(
        coached.cancelled()["message"].as_str().map(|text| text.contains("groups")),
        Some(true)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_taken_from_its_supervisor_is_out_of_the_call_at_once() {
    let mut coached = Coached::begin("").await;
    coached.house.write(|text| {
        text.replacen(&format!("devices = ['{}']", SUPERVISOR.device), "devices = []", 1)
    });
    coached.house.hang_up();
    coached.is_out().await;
    coached.supervisor.until(&json!({"call": {"state": "Released"}})).await;
    assert_eq!(coached.cancelled()["user"], "supervisor");
    let me = coached.house.client(SUPERVISOR).get("/me?subresources=devices").await;
    assert_eq!(me["user"]["devices"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_is_removed_is_out_of_the_call_and_its_events_and_login_end() {
    let mut coached = Coached::begin("").await;
    let mine = user(SUPERVISOR, "Supervisor");
    let begins = &mine[..mine.find("password_hash").unwrap()];
    coached.house.write(|text| {
        let from = text.find(begins).unwrap();
        let to = from + 1 + text[from + 1..].find("[[").unwrap();
        let without = format!("{}{}", &text[..from], &text[to..]);
        without.replacen("supervisors = ['supervisor']", "supervisors = []", 1)
    });
    coached.house.hang_up();
    coached.is_out().await;
    coached.supervisor.ends().await;
    let (status, _, _) = coached.house.client(SUPERVISOR).ask("/me", &json!({})).await;
    assert_eq!(status.as_u16(), 403);
    assert_eq!(coached.cancelled()["user"], "supervisor");
}

/// Everything of a device.
fn without_device(text: &str, account: Account) -> String {
    let begins = format!("[[device]]\nid = '{}'", account.device);
    let from = text.find(&begins).unwrap();
    let to = from + 2 + text[from + 2..].find("[[").unwrap();
    let text = format!("{}{}", &text[..from], &text[to..]);
    text.replacen(&format!("devices = ['{}']", account.device), "devices = []", 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_agents_device_is_unregistered_and_monitored_no_more_and_its_call_goes_on() {
    let mut coached = Coached::begin("").await;
    coached.house.write(|text| without_device(text, AGENT));
    coached.house.hang_up();
    coached.is_out().await;
    coached.house.says(&[AGENT.device, "no longer registered"]).await;
    coached.agent.until(&json!({"call": {"state": "Released"}})).await;
    assert!(coached.phones.agent.register().await.is_err(), "it is known no more");
    // Who hangs up ends it for both.
    coached.phones.customer.hang_up().await.unwrap();
    coached.phones.agent.ended(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_devices_call_ends_where_that_is_configured() {
    let mut coached = Coached::begin("[directory]\nend_calls_of_removed_devices = true\n").await;
    coached.house.write(|text| without_device(text, AGENT));
    coached.house.hang_up();
    coached.phones.agent.ended(PATIENCE).await.unwrap();
    coached.phones.customer.ended(PATIENCE).await.unwrap();
    coached.phones.supervisor.ended(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_another_password_is_logged_in_no_more_with_the_old_one() {
    let mut house = House::open("").await;
    let mut desktop = house.desktop(AGENT).await;
    let other = Account { password: "another-secret", ..AGENT };
    let hash = user(other, "Agent");
    let hash = hash.lines().find(|line| line.starts_with("password_hash")).unwrap().to_owned();
    house.write(|text| {
        let from = text.find("[[user]]\nid = 'agent'").unwrap();
        let from = from + text[from..].find("password_hash").unwrap();
        let to = from + text[from..].find('\n').unwrap();
        format!("{}{hash}{}", &text[..from], &text[to..])
    });
    house.hang_up();
    house.says(&["users changed: agent (password)"]).await;
    desktop.ends().await;
    let (status, _, _) = house.client(AGENT).ask("/me", &json!({})).await;
    assert_eq!(status.as_u16(), 403);
    house.client(other).get("/me").await;
    house.client(COLLEAGUE).get("/me").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_comes_after_its_name_is_read_once_it_is_there() {
    let mut house = House::open("").await;
    let secret = house.place.path().join("newcomer.secret");
    let pipe = house.place.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink(&pipe, &secret).unwrap();
    let named = format!("password_file = {secret:?}");
    house.write(|text| {
        let device = device(NEWCOMER, "house");
        let password = format!("password = '{}'", NEWCOMER.password);
        assert!(device.contains(&password), "{device}");
        format!("{text}{}{}", device.replace(&password, &named), user(NEWCOMER, "Agent"))
    });
    // A pipe that nobody writes keeps nothing waiting.
    house.says(&["faulty", "password_file", "it is no file, but a pipe"]).await;
    house.client(AGENT).get("/me").await;
    fs::remove_file(&secret).unwrap();
    write_private(&secret, NEWCOMER.password);
    house.says(&["users added: newcomer"]).await;
    house.client(NEWCOMER).get("/me").await;
}

#[test]
fn the_sample_has_what_these_tests_change() {
    let text = directory();
    for part in ["supervisors = ['supervisor']", "roles = ['Supervisor']", CUSTOMER.number] {
        assert!(text.contains(part), "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_directory_that_is_read_again_is_said_to_be() {
    let said_at_hang_up = async |process: &Process| {
        process.signal(Signal::SIGHUP);
        let said = async || {
            let log = process.log();
            log.into_iter().find(|line| line.contains("the audit file is opened anew"))
        };
        wait::found(PATIENCE, said).await.expect("SIGHUP is obeyed")
    };
    let house = House::open("").await;
    let said = said_at_hang_up(&house.process).await;
    assert!(said.contains("certificates, tokens and the directory are read again"), "{said}");

    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("simulated.toml");
    write_private(&file, &describe(place.path(), ""));
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_undertone"));
    command.args(["gateway", "--simulated", "--config"]).arg(&file);
    let process = Process::launch(command, place.path()).await;
    process.ready().await;
    let said = said_at_hang_up(&process).await;
    assert!(said.contains("certificates and tokens, not the directory,"), "{said}");
}
