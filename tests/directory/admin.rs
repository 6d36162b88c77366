//! The directory by an admin over REST, and as CSV files.

use crate::support::desktop::Desktop;
use crate::support::issuer::{AUDIENCE, TestIssuer};
use crate::support::process::{Process, write_private};
use crate::support::rest_client::{RestClient, http_client, read};
use crate::support::server::{AGENT, Account, SUPERVISOR, describe, user};
use crate::support::talk::{PATIENCE, TALK, Trio};
use reqwest::Method;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use undertone::demo::phone::{Phone, PhoneConfig};

const ADMIN: Account = Account { device: "", number: "", user: "ada", password: "admin-secret" };
const STORE: &str = "[directory]\nsource = 'store'\n";

struct House {
    process: Option<Process>,
    place: TempDir,
}

impl House {
    async fn open(more: &str) -> House {
        let mut house = House { process: None, place: tempfile::tempdir().unwrap() };
        let admin = user(ADMIN, "Admin").replace("devices = ['']\n", "");
        let text = describe(house.place.path(), more) + &admin;
        write_private(&house.file(), &text);
        house.start().await;
        house
    }

    fn file(&self) -> std::path::PathBuf {
        self.place.path().join("house.toml")
    }

    async fn start(&mut self) {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_undertone"));
        command.arg("serve").arg("--config").arg(self.file());
        let process = Process::launch(command, self.place.path()).await;
        process.ready().await;
        self.process = Some(process);
    }

    async fn stop(&mut self) {
        self.process.take().unwrap().terminate(PATIENCE).await;
    }

    fn process(&self) -> &Process {
        self.process.as_ref().unwrap()
    }

    fn client(&self, account: Account) -> RestClient {
        RestClient::of(account, self.process().door("rest"))
    }

    async fn ask(
        &self,
        account: Account,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let url = format!("http://{}/api/v2{path}", self.process().door("rest"));
        let request = http_client().request(method, url);
        let request = request.basic_auth(account.user, Some(account.password));
        let request = match &body {
            Some(body) => request.json(body),
            None => request,
        };
        let (status, body) = read(request).await;
        (status.as_u16(), body)
    }

    /// An admin asks, and it is done.
    async fn done(&self, method: Method, path: &str, body: Value) -> Value {
        let body = (!body.is_null()).then_some(body);
        let (status, reply) = self.ask(ADMIN, method.clone(), path, body).await;
        assert_eq!((status, &reply["statusCode"]), (200, &json!(0)), "{method} {path}: {reply}");
        reply
    }

    fn run(&self, words: &[&str]) -> (bool, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
        command.current_dir(self.place.path()).arg("directory");
        command.arg(words[0]).arg("--config").arg(self.file()).args(&words[1..]);
        let output = command.output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(said).unwrap())
    }

    fn state_holds(&self, secret: &str) -> bool {
        let files = fs::read_dir(self.place.path()).unwrap();
        let mut files = files.map(|file| file.unwrap().path()).filter(|path| path != &self.file());
        files.any(|path| {
            let bytes = fs::read(path).unwrap_or_default();
            bytes.windows(secret.len()).any(|part| part == secret.as_bytes())
        })
    }
}

const NEWCOMER: Account = Account {
    device: "newcomers-phone",
    number: "5010",
    user: "newcomer",
    password: "newcomer-secret",
};

async fn add_newcomer(house: &House) {
    let device = json!({
        "id": NEWCOMER.device, "phoneNumber": NEWCOMER.number, "password": "sip-secret",
    });
    let made = house.done(Method::POST, "/devices", device).await;
    assert_eq!(made["id"], NEWCOMER.device);
    let uri = made["uri"].as_str().unwrap();
    assert!(uri.ends_with("/api/v2/devices/newcomers-phone"), "{uri}");
    let user = json!({
        "userName": NEWCOMER.user, "password": NEWCOMER.password, "roles": ["ROLE_AGENT"],
        "firstName": "Nora", "lastName": "Comer", "devices": [uri],
    });
    let made = house.done(Method::POST, "/users", user).await;
    assert_eq!(made["id"], NEWCOMER.user);
    let group = json!({"name": "second", "agents": [made["uri"]], "supervisors": ["supervisor"]});
    house.done(Method::POST, "/groups", group).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_adds_changes_and_removes_and_all_of_it_outlives_the_process() {
    let mut house = House::open(STORE).await;
    add_newcomer(&house).await;
    let phone = PhoneConfig::new(NEWCOMER.number, "sip-secret", house.process().door("sip"), 700.0);
    let phone = Phone::start(phone).await.unwrap();
    phone.register().await.unwrap();
    let me = house.client(NEWCOMER).get("/me?subresources=devices").await;
    assert_eq!(me["user"]["displayName"], "Nora Comer");
    assert_eq!(me["user"]["devices"][0]["deviceState"], "Active");
    let target = house.client(SUPERVISOR).get("/devices?phoneNumber=5010").await;
    assert_eq!(target["uris"].as_array().unwrap().len(), 1, "the new group counts");

    let users = house.client(ADMIN).get("/users").await;
    let uris = users["uris"].as_array().unwrap();
    assert!(uris.iter().any(|uri| uri.as_str().unwrap().ends_with("/users/newcomer")), "{users}");
    let users = house.client(ADMIN).get("/users?fields=userName,roles").await;
    let whole = json!({"userName": "newcomer", "roles": ["ROLE_AGENT"]});
    assert!(users["users"].as_array().unwrap().contains(&whole), "{users}");
    let own = house.client(NEWCOMER).get("/users").await;
    assert_eq!(own["uris"].as_array().unwrap().len(), 1, "others see themselves alone");

    let change = json!({"lastName": "Again", "emailAddress": "nora@example.com"});
    house.done(Method::PUT, "/users/newcomer", change).await;
    house.stop().await;
    house.start().await;
    let me = house.client(NEWCOMER).get("/me").await;
    assert_eq!(
        (&me["user"]["displayName"], &me["user"]["emailAddress"]),
        (&json!("Nora Again"), &json!("nora@example.com")),
    );
    let phone = PhoneConfig::new(NEWCOMER.number, "sip-secret", house.process().door("sip"), 700.0);
    let phone = Phone::start(phone).await.unwrap();
    phone.register().await.unwrap();
    assert!(!house.state_holds("sip-secret") && !house.state_holds(NEWCOMER.password));

    let mut desktop = Desktop::open(house.process().door("rest"), NEWCOMER).await;
    house.done(Method::DELETE, "/users/newcomer", Value::Null).await;
    desktop.ends().await;
    let (status, _) = house.ask(NEWCOMER, Method::GET, "/me", None).await;
    assert_eq!(status, 403);
    house.done(Method::DELETE, "/devices/newcomers-phone", Value::Null).await;
    assert!(phone.register().await.is_err());
    house.done(Method::DELETE, "/groups/second", Value::Null).await;
    for path in ["/users/newcomer", "/devices/newcomers-phone", "/groups/second"] {
        assert_eq!(house.ask(ADMIN, Method::GET, path, None).await.0, 404, "{path}");
        assert_eq!(house.ask(ADMIN, Method::DELETE, path, None).await.0, 404, "{path}");
    }
    let audit = fs::read_to_string(house.place.path().join("audit.jsonl")).unwrap();
    for said in [
        "users added: newcomer",
        "users changed: newcomer (name, email)",
        "users removed: newcomer",
    ] {
        let line =
            audit.lines().find(|line| line.contains(said)).unwrap_or_else(|| panic!("{audit}"));
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["event"], &line["user"]), (&json!("directory_changed"), &json!("ada")));
        assert_eq!(line["from"], "127.0.0.1");
    }
    assert!(!audit.contains("secret") && !house.process().log().concat().contains("-secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_reads_what_a_change_takes_and_nobody_else_does() {
    let house = House::open(STORE).await;
    add_newcomer(&house).await;
    let settings = json!({
        "aliases": ["5110"], "kind": "house", "srtp": "optional", "srtpOverClear": true,
        "transport": "any", "autoAnswer": true, "ownPorts": true, "qualify": false,
    });
    house.done(Method::PUT, "/devices/newcomers-phone", settings.clone()).await;
    let group = json!({"monitorSupervisors": true, "agentSideOnly": true});
    house.done(Method::PUT, "/groups/second", group).await;
    let entries = [("user", NEWCOMER.user), ("device", NEWCOMER.device), ("group", "second")];
    let read = async |account: Account, kind: &str, id: &str| {
        let mut one = house.client(account).get(&format!("/{kind}s/{id}")).await;
        let list = house.client(account).get(&format!("/{kind}s?fields=*")).await;
        let list = list[format!("{kind}s")].as_array().unwrap();
        assert!(list.contains(&one[kind]), "{kind} {id} {list:?}");
        one[kind].take()
    };
    let [user, device, group] =
        [0, 1, 2].map(|place| read(ADMIN, entries[place].0, entries[place].1));
    let (user, device, group) = (user.await, device.await, group.await);
    for (found, wanted) in [
        (
            &user,
            json!({
                "userName": "newcomer", "firstName": "Nora", "lastName": "Comer",
                "roles": ["ROLE_AGENT"], "devices": ["newcomers-phone"],
                "features": ["api-voice", "api-supervisor-monitoring"],
            }),
        ),
        (&device, settings),
        (&device, json!({"id": "newcomers-phone", "phoneNumber": "5010"})),
        (
            &group,
            json!({
                "name": "second", "agents": ["newcomer"], "supervisors": ["supervisor"],
                "monitorSupervisors": true, "agentSideOnly": true,
            }),
        ),
    ] {
        for (member, value) in wanted.as_object().unwrap() {
            assert_eq!(&found[member], value, "{member} of {found}");
        }
    }
    for text in [&user, &device, &group].map(Value::to_string) {
        assert!(!text.contains("password\":") && !text.contains("ha1"), "{text}");
    }

    // An agent more: what was read, and one beside it.
    let mut more = group.clone();
    more["agents"].as_array_mut().unwrap().push(json!("agent"));
    house.done(Method::PUT, "/groups/second", more).await;
    let with_agent = read(ADMIN, "group", "second").await;
    assert_eq!(with_agent["agents"], json!(["agent", "newcomer"]));
    // What is read changes nothing when it is written.
    for ((kind, id), entry) in entries.into_iter().zip([&user, &device, &group]) {
        house.done(Method::PUT, &format!("/{kind}s/{id}"), entry.clone()).await;
        assert_eq!(read(ADMIN, kind, id).await, *entry, "{kind}");
    }

    let seen = read(SUPERVISOR, "group", "second").await;
    assert_eq!(seen.get("agents").or(seen.get("supervisors")), None, "{seen}");
    let seen = read(SUPERVISOR, "device", NEWCOMER.device).await;
    assert_eq!(seen.get("aliases").or(seen.get("srtp")), None, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_behind_a_trunk_has_no_password_and_those_of_a_range_are_changed_in_the_file() {
    let more = format!(
        "{STORE}[[sip.trunk]]\nname = 'switch'\nsources = []\ntarget = '127.0.0.1:9'\n\
         [[device_range]]\nfirst = '5100'\nlast = '5101'\nvia = 'switch'\nuser = '1{{number:3}}'\n"
    );
    let mut house = House::open(&more).await;
    let desk = json!({"id": "desk", "phoneNumber": "5050", "via": "switch", "user": "1050"});
    house.done(Method::POST, "/devices", desk).await;
    let user = json!({
        "userName": "newcomer", "password": "newcomer-secret", "roles": ["ROLE_AGENT"],
        "devices": ["desk", "5100"],
    });
    house.done(Method::POST, "/users", user).await;
    for (method, path, body, status, code) in [
        (Method::POST, "/devices", json!({"phoneNumber": "5051"}), 400, 1),
        (Method::POST, "/devices", json!({"phoneNumber": "5051", "via": "moon"}), 400, 10),
        (
            Method::POST,
            "/devices",
            json!({"phoneNumber": "5051", "via": "switch", "password": "x"}),
            400,
            10,
        ),
        (
            Method::POST,
            "/devices",
            json!({"phoneNumber": "5051", "via": "switch", "user": "1100"}),
            409,
            19,
        ),
        (Method::PUT, "/devices/desk", json!({"via": "", "user": ""}), 400, 1),
        (Method::PUT, "/devices/5100", json!({"phoneNumber": "5109"}), 403, 3),
        (Method::DELETE, "/devices/5100", Value::Null, 403, 3),
    ] {
        let sent = (!body.is_null()).then(|| body.clone());
        let (found, reply) = house.ask(ADMIN, method.clone(), path, sent).await;
        let row = format!("{method} {path} {body}: {reply}");
        assert_eq!((found, &reply["statusCode"]), (status, &json!(code)), "{row}");
    }
    for _ in 0..2 {
        for (device, number, name) in [("desk", "5050", "1050"), ("5100", "5100", "1100")] {
            let read = house.client(ADMIN).get(&format!("/devices/{device}")).await;
            for (member, value) in [("phoneNumber", number), ("via", "switch"), ("user", name)] {
                assert_eq!(read["device"][member], value, "{read}");
            }
        }
        house.stop().await;
        house.start().await;
    }
    let here = json!({"via": "", "user": "", "password": "desk-secret"});
    house.done(Method::PUT, "/devices/desk", here).await;
    let read = house.client(ADMIN).get("/devices/desk").await;
    assert_eq!(read["device"].get("via"), None, "{read}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_needs_no_password_where_an_issuer_has_it() {
    let issuer = TestIssuer::start().await;
    let more = format!(
        "{STORE}[[identity.issuer]]\nname = 'test'\nissuer = '{}'\naudience = ['{AUDIENCE}']\n",
        issuer.url()
    );
    let mut house = House::open(&more).await;
    let user = json!({"userName": "newcomer", "roles": ["ROLE_AGENT"]});
    house.done(Method::POST, "/users", user).await;
    for _ in 0..2 {
        let url = format!("http://{}/api/v2/me", house.process().door("rest"));
        let (status, me) = read(http_client().get(url).bearer_auth(issuer.token("newcomer"))).await;
        assert_eq!((status.as_u16(), &me["user"]["id"]), (200, &json!("newcomer")), "{me}");
        for password in ["", NEWCOMER.password] {
            let (status, _) =
                house.ask(Account { password, ..NEWCOMER }, Method::GET, "/me", None).await;
            assert_eq!(status, 403, "no password is its own");
        }
        house.stop().await;
        house.start().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_an_admin_changes_the_directory() {
    let house = House::open(STORE).await;
    let before = house.client(ADMIN).get("/users?fields=*").await;
    let user = json!({"userName": "x", "password": "x", "roles": ["ROLE_ADMIN"]});
    let device = json!({"phoneNumber": "1", "password": "x"});
    let nobody = Account { user: "nobody", password: "guess", ..ADMIN };
    for (who, code) in [(AGENT, 5), (SUPERVISOR, 5), (nobody, 20)] {
        for (method, path, body) in [
            (Method::POST, "/users", Some(&user)),
            (Method::PUT, "/users/agent", Some(&user)),
            (Method::DELETE, "/users/agent", None),
            (Method::POST, "/devices", Some(&device)),
            (Method::PUT, "/devices/x", Some(&device)),
            (Method::DELETE, "/devices/x", None),
            (Method::POST, "/groups", Some(&json!({"name": "x"}))),
            (Method::PUT, "/groups/sample", Some(&json!({"supervisors": ["agent"]}))),
            (Method::DELETE, "/groups/sample", None),
        ] {
            let (status, reply) = house.ask(who, method.clone(), path, body.cloned()).await;
            let row = format!("{} {method} {path}: {reply}", who.user);
            assert_eq!((status, &reply["statusCode"]), (403, &json!(code)), "{row}");
        }
    }
    assert_eq!(house.client(ADMIN).get("/users?fields=*").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_attempts_to_change_it_are_written_down_within_measure_and_hold_no_admin_up() {
    let house = House::open(&format!("{STORE}[audit]\nrefused_per_user = 10\n")).await;
    let mut statuses = Vec::new();
    for turn in 0..30 {
        let (method, path) = match turn % 3 {
            0 => (Method::DELETE, format!("/users/{turn}")),
            1 => (Method::PUT, format!("/users/{}", AGENT.user)),
            _ => (Method::POST, "/groups".to_owned()),
        };
        let body = (method != Method::DELETE).then(|| json!({"roles": ["ROLE_ADMIN"]}));
        statuses.push(house.ask(AGENT, method, &path, body).await.0);
    }
    let (refused, limited) = statuses.split_at(10);
    assert!(refused.iter().all(|status| *status == 403), "{statuses:?}");
    assert!(limited.iter().filter(|status| **status == 429).count() >= 18, "{statuses:?}");
    house.done(Method::PUT, &format!("/users/{}", AGENT.user), json!({"firstName": "Al"})).await;
    let audit = fs::read_to_string(house.place.path().join("audit.jsonl")).unwrap();
    let lines = audit.lines().filter(|line| line.contains("refused at")).count();
    assert!((10..=12).contains(&lines), "{lines} lines: {audit}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_password_is_none() {
    let house = House::open(STORE).await;
    let rows = [
        (Method::PUT, format!("/users/{}", AGENT.user), json!({"password": ""})),
        (
            Method::POST,
            "/users".to_owned(),
            json!({"userName": "x", "roles": ["ROLE_AGENT"], "password": ""}),
        ),
        (Method::POST, "/devices".to_owned(), json!({"phoneNumber": "5088", "password": ""})),
        (Method::PUT, format!("/devices/{}", AGENT.device), json!({"password": ""})),
    ];
    for (method, path, body) in rows {
        let (status, reply) = house.ask(ADMIN, method, &path, Some(body)).await;
        assert_eq!((status, &reply["statusCode"]), (400, &json!(10)), "{path}: {reply}");
        assert!(reply["statusMessage"].as_str().unwrap().contains("password"), "{reply}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_directory_in_the_file_every_change_is_refused_and_says_where_it_is() {
    let house = House::open("").await;
    for (method, path, body) in [
        (
            Method::POST,
            "/users",
            json!({"userName": "x", "password": "x", "roles": ["ROLE_AGENT"]}),
        ),
        (Method::PUT, "/devices/x", json!({"phoneNumber": "1"})),
        (Method::DELETE, "/groups/sample", Value::Null),
    ] {
        let body = (!body.is_null()).then_some(body);
        let (status, reply) = house.ask(ADMIN, method, path, body).await;
        assert_eq!((status, &reply["statusCode"]), (403, &json!(3)), "{path}: {reply}");
        assert!(reply["statusMessage"].as_str().unwrap().contains("directory.source"), "{reply}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_so_is_refused_by_name() {
    let house = House::open(STORE).await;
    for (method, path, body, status, code, says) in [
        (Method::POST, "/users", json!({"password": "x", "roles": []}), 400, 1, "userName"),
        (
            Method::POST,
            "/users",
            json!({"userName": "x", "roles": ["ROLE_AGENT"]}),
            400,
            1,
            "password",
        ),
        (Method::POST, "/users", json!({"userName": "x", "password": "x"}), 400, 1, "roles"),
        (
            Method::POST,
            "/users",
            json!({"userName": "agent", "password": "x", "roles": ["ROLE_AGENT"]}),
            409,
            19,
            "/users/agent",
        ),
        (Method::PUT, "/users/agent", json!({"roles": ["ROLE_KING"]}), 400, 10, "ROLE_KING"),
        (Method::PUT, "/users/agent", json!({"roles": "ROLE_AGENT"}), 400, 10, "list"),
        (Method::PUT, "/users/agent", json!({"devices": ["x"]}), 400, 10, "'x'"),
        (Method::PUT, "/users/agent", json!({"devices": [SUPERVISOR.device]}), 409, 19, "another"),
        (Method::PUT, "/users/nobody", json!({}), 404, 6, "/users/nobody"),
        (Method::PUT, "/users/ada", json!({"roles": ["ROLE_AGENT"]}), 409, 2, "admin"),
        (Method::DELETE, "/users/ada", Value::Null, 409, 2, "admin"),
        (Method::POST, "/devices", json!({"password": "x"}), 400, 1, "number"),
        (
            Method::POST,
            "/devices",
            json!({"phoneNumber": "5001", "password": "x"}),
            409,
            19,
            "5001",
        ),
        (
            Method::PUT,
            "/devices/9c14cad7-17c4-48d0-8492-7cf0ff92c224",
            json!({"phoneNumber": "5011"}),
            400,
            1,
            "password",
        ),
        (Method::POST, "/groups", json!({"name": "x", "agents": ["y"]}), 400, 10, "'y'"),
        (Method::PUT, "/groups/sample", json!({"supervisors": ["agent"]}), 400, 10, "Supervisor"),
    ] {
        let body = (!body.is_null()).then_some(body);
        let (found, reply) = house.ask(ADMIN, method.clone(), path, body.clone()).await;
        let row = format!("{method} {path} {body:?}: {found} {reply}");
        assert_eq!((found, &reply["statusCode"]), (status, &json!(code)), "{row}");
        assert!(reply["statusMessage"].as_str().unwrap().contains(says), "{row}");
    }
    house.client(AGENT).get("/me").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coach_that_an_admin_demotes_is_out_of_the_call_at_once() {
    let house = House::open(STORE).await;
    let phones = Trio::register(house.process().door("sip")).await;
    let mut desktop = Desktop::open(house.process().door("rest"), SUPERVISOR).await;
    let body = json!({
        "operationName": "Coach",
        "targetDeviceUri": format!("http://localhost:8080/api/v2/devices/{}", AGENT.device),
    });
    let device = format!("/me/devices/{}", SUPERVISOR.device);
    house.client(SUPERVISOR).post(&device, body).await;
    phones.call().await;
    phones.supervisor.established(PATIENCE).await.unwrap();
    desktop.until(&json!({"call": {"state": "Established"}})).await;
    house.done(Method::PUT, "/users/supervisor", json!({"roles": ["ROLE_AGENT"]})).await;
    phones.supervisor.ended(Duration::from_secs(1)).await.unwrap();
    desktop.until(&json!({"messageType": "ErrorMessage"})).await;
    desktop.until(&json!({"call": {"state": "Released"}})).await;
    phones.hear(TALK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_that_is_imported_elsewhere_is_the_same_directory_with_the_same_passwords() {
    let mut house = House::open(STORE).await;
    add_newcomer(&house).await;
    let (done, said) = house.run(&["export", "."]);
    assert!(!done && said.contains("in use"), "{said}");
    house.stop().await;
    let (done, said) = house.run(&["export", "new/folder"]);
    assert!(done && said.contains("users"), "{said}");
    let mut other = House::open(STORE).await;
    other.stop().await;
    let folder = house.place.path().join("new/folder");
    let mode = |path: &Path| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    };
    assert_eq!(mode(&folder), 0o700);
    let file = |name: &str| folder.join(name).display().to_string();
    let files = ["users.csv", "devices.csv", "groups.csv"].map(file);
    for name in &files {
        assert_eq!(mode(Path::new(name)), 0o600);
    }
    let (done, said) = other.run(&["import", &files[0], &files[1], &files[2]]);
    assert!(done, "{said}");
    let (done, said) = other.run(&["export", "."]);
    assert!(done, "{said}");
    for name in ["users.csv", "devices.csv", "groups.csv"] {
        let text = |place: &Path| fs::read_to_string(place.join(name)).unwrap();
        assert_eq!(text(other.place.path()), text(&folder), "{name}");
    }
    other.start().await;
    other.client(NEWCOMER).get("/me").await;
    let audit = fs::read_to_string(other.place.path().join("audit.jsonl")).unwrap();
    let told = audit.matches("imported: users added: newcomer").count();
    assert_eq!(told, 1, "what was taken in while nothing ran is in the audit: {audit}");
    let phone = PhoneConfig::new(NEWCOMER.number, "sip-secret", other.process().door("sip"), 700.0);
    Phone::start(phone).await.unwrap().register().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_faulty_import_changes_nothing_and_names_the_line() {
    let mut house = House::open(STORE).await;
    house.stop().await;
    let write = |name: &str, text: &str| write_private(&house.place.path().join(name), text);
    write("devices.csv", "id,number,password\nnew-phone,5010,secret\n");
    write(
        "users.csv",
        "id,roles,devices,password\nnew,Agent,new-phone,secret\nnewer,King,,secret\n",
    );
    let (done, said) = house.run(&["import", "users.csv", "devices.csv"]);
    assert!(!done && said.contains("users.csv:3") && said.contains("King"), "{said}");
    write("users.csv", "id,roles,devices,password\nnew,Agent Supervisor,new-phone,secret\n");
    house.start().await;
    assert_eq!(house.ask(ADMIN, Method::GET, "/users/new", None).await.0, 404);
    house.stop().await;
    let (done, said) = house.run(&["import", "users.csv", "devices.csv"]);
    assert!(done && said.contains("1 users, 1 devices"), "{said}");
    house.start().await;
    let new = Account { user: "new", password: "secret", ..NEWCOMER };
    let me = house.client(new).get("/me?subresources=devices").await;
    assert_eq!(me["user"]["devices"][0]["phoneNumber"], "5010");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_passes_to_another_device_takes_no_password_along() {
    let mut house = House::open(STORE).await;
    add_newcomer(&house).await;
    house.stop().await;
    let write = |name: &str, text: &str| write_private(&house.place.path().join(name), text);
    write(
        "devices.csv",
        &format!("id,number,password\n{},5011,secret\nnew-phone,5010,\n", NEWCOMER.device),
    );
    write("users.csv", "id,roles,devices,password\nnew,Agent,new-phone,secret\n");
    let (done, said) = house.run(&["import", "users.csv", "devices.csv"]);
    assert!(done, "{said}");
    house.start().await;
    let phone = PhoneConfig::new(NEWCOMER.number, "sip-secret", house.process().door("sip"), 700.0);
    let registered = Phone::start(phone).await.unwrap().register().await;
    assert!(registered.is_err(), "the password was that of the other device");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_of_the_state_file_is_not_undone_by_that_of_the_configuration_file() {
    let house = House::open(STORE).await;
    let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
    let file = house.place.path().join("new");
    write_private(&file, "another secret\n");
    command.arg("password").arg("--config").arg(house.file()).arg("--password-file").arg(&file);
    let output = command.arg(SUPERVISOR.user).current_dir(house.place.path()).output().unwrap();
    let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    assert!(output.status.success() && said.contains("is in use"), "{said}");
    house.process().signal(nix::sys::signal::Signal::SIGHUP);
    let unchanged = "the directory has not changed";
    let read = async || {
        let log = house.process().log();
        log.iter().any(|line| line.contains(unchanged)).then_some(())
    };
    crate::support::wait::found(PATIENCE, read).await.expect("the file is read again");
    house.client(Account { password: "another secret", ..SUPERVISOR }).get("/me").await;
    assert_eq!(house.ask(SUPERVISOR, Method::GET, "/me", None).await.0, 403);
}
