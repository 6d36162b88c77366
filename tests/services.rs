//! Services at the contract: each rpc, each kind of caller, by token and by certificate.

use crate::crash::made;
use crate::support::callers::{anonymous, channel, write_token};
use crate::support::certificates::Certificates;
use crate::support::packages::python_packages;
use crate::support::process::{ANY, Process};
use crate::support::rest_client::RestClient;
use crate::support::server::{
    AGENT, BYSTANDER, COLLEAGUE, CUSTOMER, SUPERVISOR, Server, bystander, directory,
};
use crate::support::talk::{COACH, PATIENCE, Speaker, hear};
use crate::support::wait;
use axum::http::uri::PathAndQuery;
use prost::Message;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::Command as Program;
use tonic::{Code, Request, Status, Streaming};
use undertone::app::{self, Running, ServerRole};
use undertone::config;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig};
use undertone::model::{Activity, Command, CommandContext, Mode, Reason, Refusal, Scope};
use undertone::telephony::callers::BearerToken;
use undertone::telephony::connection::{TelephonyChannel, remote};
use undertone::telephony::proto::telephony_client::TelephonyClient;
use undertone::telephony::{execute, proto};
use undertone::tls::{ClientTls, ClientTlsFiles, KeyPairFiles, SubjectName};

const CONTRACT: &str = "undertone.telephony.v1.Telephony";

/// A token of each role.
fn secret(name: &str) -> String {
    format!("{name}.{}", "x".repeat(32))
}

/// Every rpc that the proto file has.
fn rpcs() -> Vec<String> {
    let files = prost_types::FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let services = files.file.iter().flat_map(|file| &file.service);
    let methods = services.flat_map(|service| &service.method);
    methods.map(|method| method.name().to_owned()).collect()
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Nobody,
    Observer,
    Service,
    Gateway,
}

/// The documents: what each role is answered that asks with an empty message.
fn expected(role: Role, rpc: &str, server: ServerRole) -> Code {
    let is_read = ["Describe", "Watch"].contains(&rpc);
    let may = match role {
        Role::Nobody => return Code::Unauthenticated,
        Role::Gateway => true,
        Role::Observer => is_read,
        Role::Service => match server {
            ServerRole::SipBackend => rpc == "Describe",
            _ => !["Watch", "AdmitMonitoring", "RefuseFeatureCode"].contains(&rpc),
        },
    };
    match (may, is_read) {
        (false, _) => Code::PermissionDenied,
        (true, true) => Code::Ok,
        // Its context is missing.
        (true, false) => Code::InvalidArgument,
    }
}

/// Asks an rpc with an empty message; of a stream the first answer counts.
async fn ask(channel: &TelephonyChannel, rpc: &str, authorization: Option<&str>) -> Status {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let mut request = Request::new(());
    if let Some(authorization) = authorization {
        request.metadata_mut().insert("authorization", authorization.parse().unwrap());
    }
    let path = PathAndQuery::try_from(format!("/{CONTRACT}/{rpc}")).unwrap();
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    match client.server_streaming(request, path, codec).await {
        Ok(answer) => match answer.into_inner().message().await {
            Ok(_) => Status::ok(""),
            Err(status) => status,
        },
        Err(status) => status,
    }
}

/// A server with callers of each role.
struct Served {
    place: TempDir,
    certificates: Certificates,
    running: Running,
    role: ServerRole,
    is_sealed: bool,
}

impl Served {
    async fn start(role: ServerRole, is_sealed: bool) -> Self {
        let (place, certificates) = (tempfile::tempdir().unwrap(), Certificates::new());
        let mut text = format!(
            "state_dir = '{}'\n[rest]\nbind = '{ANY}'\n[admin]\nbind = '{ANY}'\n[sip_backend]\n\
             grpc_bind = '{ANY}'\nadmin_bind = '{ANY}'\n[sip]\nlisten = ['udp:{ANY}']\n\
             grace = 0\n[grpc]\nbind = '{ANY}'\n",
            place.path().join("state").display()
        );
        for name in ["observer", "service", "gateway"] {
            let token = place.path().join(name);
            write_token(&token, &secret(name));
            text += &format!(
                "[[grpc.caller]]\nname = 'the-{name}'\nrole = '{name}'\ntoken_file = '{}'\n",
                token.display()
            );
            if is_sealed {
                text += &format!("san = ['{name}.example.com', 'urn:example:{name}']\n");
            }
            if name == "service" {
                text += "groups = ['sample']\n";
            }
        }
        if is_sealed {
            let pair = certificates.server();
            let authorities = place.path().join("clients.crt");
            let bundle = [certificates.authority_file(), nameless(place.path())];
            let bundle: String =
                bundle.iter().map(|file| fs::read_to_string(file).unwrap()).collect();
            fs::write(&authorities, bundle).unwrap();
            text += &format!(
                "[tls]\ngrpc_certificate = '{}'\ngrpc_key = '{}'\ngrpc_client_authorities = '{}'\n",
                pair.certificate.display(),
                pair.key.display(),
                authorities.display()
            );
        }
        text += &directory();
        let config = config::parse(Some((Path::new("test.toml"), &text)), []);
        let mut config = config.unwrap_or_else(|problems| panic!("{problems}"));
        config.media.ports = None;
        let running = app::start(config, role, None).await.unwrap();
        if let Some(gateway) = running.gateway() {
            gateway.readiness().wait_for(|ready| *ready).await.unwrap();
        }
        Self { place, certificates, running, role, is_sealed }
    }

    fn url(&self) -> String {
        let scheme = if self.is_sealed { "https" } else { "http" };
        format!("{scheme}://{}", self.running.grpc())
    }

    fn local_token(&self) -> PathBuf {
        self.place.path().join("state/grpc-token")
    }

    /// The way of a client with this certificate.
    fn channel(&self, pair: Option<KeyPairFiles>) -> TelephonyChannel {
        let authorities = Some(self.certificates.authority_file());
        let tls = ClientTls::new(ClientTlsFiles { authorities, pair });
        remote(&self.url(), tls, BearerToken::none()).unwrap()
    }

    /// Each rpc is answered as the documents say.
    async fn answers(
        &self,
        who: &str,
        role: Role,
        channel: &TelephonyChannel,
        authorization: Option<&str>,
    ) {
        for rpc in rpcs() {
            let answer = ask(channel, &rpc, authorization).await;
            let expected = expected(role, &rpc, self.role);
            assert_eq!(answer.code(), expected, "{who} asks {rpc} of {:?}: {answer:?}", self.role);
            assert_ne!(answer.message(), if expected == Code::Ok { "-" } else { "" }, "{rpc}");
        }
        let unknown = ask(channel, "NoSuchRpc", authorization).await;
        let expected = match role {
            Role::Nobody => Code::Unauthenticated,
            Role::Observer | Role::Service | Role::Gateway => Code::PermissionDenied,
        };
        assert_eq!(unknown.code(), expected, "{who}");
    }

    /// Everybody that shows a token, or nothing.
    async fn answers_tokens(&self, channel: &TelephonyChannel) {
        let local = fs::read_to_string(self.local_token()).unwrap();
        for (who, authorization, role) in [
            ("the observer", format!("Bearer {}", secret("observer")), Role::Observer),
            ("the service", format!("bearer {}", secret("service")), Role::Service),
            ("the gateway", format!("Bearer {}", secret("gateway")), Role::Gateway),
            ("a gateway on this machine", format!("Bearer {}", local.trim()), Role::Gateway),
            ("a wrong token", format!("Bearer {}", secret("other")), Role::Nobody),
            ("half a token", format!("Bearer {}", &secret("gateway")[..32]), Role::Nobody),
            ("no token", "Bearer ".to_owned(), Role::Nobody),
            ("another scheme", format!("Basic {}", secret("gateway")), Role::Nobody),
            ("no scheme", secret("gateway"), Role::Nobody),
        ] {
            self.answers(who, role, channel, Some(&authorization)).await;
        }
        self.answers("nobody", Role::Nobody, channel, None).await;
    }
}

/// An authority, and a certificate of it with the gateway's name in its common name alone.
fn nameless(place: &Path) -> PathBuf {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, "An authority of common names");
    let key = KeyPair::generate().unwrap();
    let authority = place.join("nameless-authority.crt");
    fs::write(&authority, params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, key);
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "gateway.example.com");
    let key = KeyPair::generate().unwrap();
    let issued = params.signed_by(&key, &issuer).unwrap();
    fs::write(place.join("nameless.crt"), issued.pem()).unwrap();
    write_token(&place.join("nameless.key"), &key.serialize_pem());
    authority
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rpc_answers_each_caller_as_the_documents_say() {
    for role in [ServerRole::Serve, ServerRole::SipBackend] {
        let served = Served::start(role, false).await;
        let channel = anonymous(&served.url());
        served.answers_tokens(&channel).await;
        served.running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_rpc_answers_each_certificate_and_each_token_over_tls_as_the_documents_say() {
    for role in [ServerRole::Serve, ServerRole::SipBackend] {
        let served = Served::start(role, true).await;
        let channel = served.channel(None);
        served.answers_tokens(&channel).await;
        let issue = |file: &str, names: &[SubjectName]| served.certificates.issue(file, names);
        let (host, uri) = (
            |name: &str| SubjectName::Host(name.to_owned()),
            |name: &str| SubjectName::Uri(name.to_owned()),
        );
        for (who, names, role) in [
            ("observer", vec![host("observer.example.com")], Role::Observer),
            ("service", vec![uri("urn:example:service")], Role::Service),
            ("gateway", vec![host("x.example.com"), uri("urn:example:gateway")], Role::Gateway),
            ("pattern", vec![host("*.example.com")], Role::Nobody),
            ("another", vec![host("x.example.com")], Role::Nobody),
            ("two", vec![host("gateway.example.com"), host("observer.example.com")], Role::Nobody),
        ] {
            let channel = served.channel(Some(issue(who, &names)));
            served.answers(&format!("certificate '{who}'"), role, &channel, None).await;
        }
        let place = served.place.path();
        let nameless = KeyPairFiles {
            certificate: place.join("nameless.crt"),
            key: place.join("nameless.key"),
        };
        let channel = served.channel(Some(nameless));
        served.answers("the name in CN alone", Role::Nobody, &channel, None).await;

        let gateway = served.channel(Some(issue("again", &[host("gateway.example.com")])));
        let wrong = format!("Bearer {}", secret("other"));
        served.answers("a wrong token decides", Role::Nobody, &gateway, Some(&wrong)).await;

        let other = Certificates::new().issue("gateway", &[host("gateway.example.com")]);
        let stranger = served.channel(Some(other));
        let refused = ask(&stranger, "Describe", None).await;
        assert!(
            std::error::Error::source(&refused).is_some(),
            "another authority: the handshake is refused, not the rpc: {refused:?}"
        );
        let clear = anonymous(&format!("http://{}", served.running.grpc()));
        let refused = ask(&clear, "Describe", None).await;
        assert!(std::error::Error::source(&refused).is_some(), "in clear: {refused:?}");
        served.running.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcio_is_known_by_its_client_certificate() {
    let served = Served::start(ServerRole::Serve, true).await;
    let source = Path::new(env!("CARGO_MANIFEST_DIR"));
    let packages = tokio::task::block_in_place(|| {
        python_packages(&source.join("examples/backend"), "backend")
    });
    let script = source.join("tests/services/calls.py");
    let issued = |name: &str| {
        let files = served.certificates.issue(name, &[SubjectName::Host(name.to_owned())]);
        [files.certificate, files.key]
    };
    let none = || [PathBuf::new(), PathBuf::new()];
    let observer = served.place.path().join("observer");
    for (pair, token, answers) in [
        (issued("service.example.com"), None, ["OK", "PERMISSION_DENIED", "INVALID_ARGUMENT"]),
        (issued("gateway.example.com"), None, ["OK", "OK", "INVALID_ARGUMENT"]),
        (none(), Some(observer), ["OK", "OK", "PERMISSION_DENIED"]),
        (issued("other.example.com"), None, ["UNAUTHENTICATED"; 3]),
        (none(), None, ["UNAUTHENTICATED"; 3]),
    ] {
        let mut python = Program::new("python3");
        python.arg(&script).arg(served.running.grpc().to_string());
        python.arg(served.certificates.authority_file()).args(&pair);
        python.arg(token.unwrap_or_default()).args(["Describe", "Watch", "Dial"]);
        let output = python.env("PYTHONPATH", &packages).kill_on_drop(true).output();
        let output = tokio::time::timeout(PATIENCE, output).await.expect("in time").unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        let [describe, watch, dial] = answers;
        let expected = format!("Describe {describe}\nWatch {watch}\nDial {dial}\n");
        assert_eq!(told, expected, "{pair:?}: {output:?}");
    }
    served.running.stop().await;
}

fn monitoring(confirm_joins: bool) -> Command {
    Command::StartMonitoring {
        supervisor: SUPERVISOR.device.into(),
        target: AGENT.device.into(),
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope: Scope::Call,
        confirm_joins,
        agent_side_only: false,
    }
}

/// Asks on behalf of a user.
async fn command(channel: &TelephonyChannel, user: &str, command: Command) -> Result<u64, Refusal> {
    let context = CommandContext {
        request_id: format!("{:016x}", rand::random::<u64>()).into(),
        user: Some(user.into()),
        caller: None,
        from: None,
        deadline: PATIENCE,
        feature_code: None,
    };
    execute(TelephonyClient::new(channel.clone()), &context, &command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_acts_for_its_users_alone_and_the_audit_has_both() {
    let place = tempfile::tempdir().unwrap();
    let caller = |name: &str, acts_for: &str| {
        let token = place.path().join(name);
        write_token(&token, &secret(name));
        let token = token.display();
        format!(
            "[[grpc.caller]]\nname = '{name}'\nrole = 'service'\ntoken_file = '{token}'\n\
             {acts_for}\n"
        )
    };
    let more = caller("crm", "groups = ['sample']")
        + &caller("dialer", &format!("users = ['{}']", AGENT.user))
        + &bystander();
    let server = Server::configured(&more).await;
    let url = format!("http://{}", server.running.grpc());
    let by = |name: &str| channel(&url, &place.path().join(name));
    let dnd = |account: crate::support::server::Account| Command::SetDoNotDisturb {
        device: account.device.into(),
        on: true,
    };
    let (crm, dialer) = (by("crm"), by("dialer"));
    command(&crm, SUPERVISOR.user, monitoring(false)).await.unwrap();
    command(&crm, COLLEAGUE.user, dnd(COLLEAGUE)).await.unwrap();
    command(&dialer, AGENT.user, dnd(AGENT)).await.unwrap();
    let not_theirs = |user: &str| format!("The caller may not act for user '{user}'.");
    for (channel, user, asked) in [
        (&crm, BYSTANDER.user, dnd(BYSTANDER)),
        // It does not learn who there is, nor whose a device is.
        (&crm, "no-such-user", dnd(BYSTANDER)),
        (&crm, BYSTANDER.user, Command::Hangup { device: AGENT.device.into(), call: "c".into() }),
        (&dialer, SUPERVISOR.user, monitoring(true)),
        (&dialer, COLLEAGUE.user, dnd(COLLEAGUE)),
    ] {
        let refusal = command(channel, user, asked.clone()).await.unwrap_err();
        assert_eq!(refusal.reason, Reason::NotPermitted, "{asked:?}");
        assert_eq!(refusal.text(), not_theirs(user));
    }
    let audit = server.audit();
    let lines: Vec<_> = audit
        .iter()
        .map(|line| ["event", "caller", "user", "operation"].map(|key| line[key].as_str()))
        .collect();
    let line = |event, caller, user, operation| [event, caller, user, operation].map(Some);
    let refused = |caller, user, operation| line("refused", caller, user, operation);
    assert_eq!(
        lines,
        [
            line("allowed", "crm", SUPERVISOR.user, "Coach"),
            refused("crm", BYSTANDER.user, "DoNotDisturbOn"),
            refused("crm", "no-such-user", "DoNotDisturbOn"),
            refused("crm", BYSTANDER.user, "Hangup"),
            refused("dialer", SUPERVISOR.user, "Coach"),
            refused("dialer", COLLEAGUE.user, "DoNotDisturbOn"),
        ],
        "{audit:#?}"
    );
    // What a user asks has no caller.
    server.coach(json!({})).await;
    let audit = server.audit();
    let last = audit.last().unwrap();
    assert_eq!((&last["user"], last.get("caller")), (&json!(SUPERVISOR.user), None), "{last}");
}

/// A SIP backend with a caller that may have supervisors join unasked.
async fn backend_with_unasked(place: &Path, audit_file: &str) -> Process {
    let token = place.join("lab");
    write_token(&token, &secret("lab"));
    let config = format!(
        "[admin]\nbind = '{ANY}'\n[sip]\nlisten = ['udp:{ANY}']\n[sip_backend]\n\
         grpc_bind = '{ANY}'\nadmin_bind = '{ANY}'\naudit_file = '{audit_file}'\n\
         [[grpc.caller]]\nname = 'lab'\nrole = 'gateway'\ntoken_file = '{}'\n\
         may_join_unasked = true\n{}",
        token.display(),
        directory()
    );
    Process::start("sip-backend", place, &config).await
}

async fn monitors(channel: &TelephonyChannel) -> usize {
    let mut client = TelephonyClient::new(channel.clone());
    let mut told = client.watch(proto::WatchRequest::default()).await.unwrap().into_inner();
    let mut monitors = 0;
    loop {
        match told.message().await.unwrap().unwrap().fact.unwrap() {
            proto::watch_response::Fact::Monitor(_) => monitors += 1,
            proto::watch_response::Fact::SnapshotComplete(_) => return monitors,
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_joins_unasked_but_at_the_word_of_who_may_and_with_a_line_on_disk() {
    let place = tempfile::tempdir().unwrap();
    let backend = backend_with_unasked(place.path(), "joins.jsonl").await;
    let url = format!("http://{}", backend.door("grpc"));
    let state = place.path().join("undertone-data");
    let (local, lab) =
        (channel(&url, &state.join("grpc-token")), channel(&url, &place.path().join("lab")));
    let refusal = command(&local, SUPERVISOR.user, monitoring(false)).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::NotPermitted);
    assert_eq!(
        refusal.text(),
        "Caller 'local' may not have supervisors join unasked: confirm_joins must be true."
    );
    assert_eq!(monitors(&local).await, 0, "nothing was done");
    let audit = || {
        let text = fs::read_to_string(state.join("joins.jsonl")).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["event"] != "checkpoint").collect::<Vec<Value>>()
    };
    assert_eq!(audit(), Vec::<Value>::new());

    command(&lab, SUPERVISOR.user, monitoring(false)).await.unwrap();
    let lines = audit();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for (key, value) in [
        ("event", "allowed_unasked"),
        ("caller", "lab"),
        ("user", SUPERVISOR.user),
        ("operation", "Coach"),
        ("device", SUPERVISOR.device),
        ("target", AGENT.device),
    ] {
        assert_eq!(lines[0][key], value, "{}", lines[0]);
    }
    assert_eq!(monitors(&local).await, 1);
    // Where it is asked before each join, the gateway keeps the audit.
    command(&local, SUPERVISOR.user, monitoring(true)).await.unwrap();
    assert_eq!(audit().len(), 1);
    backend.terminate(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_joins_unasked_where_it_can_not_be_written_down() {
    let place = tempfile::tempdir().unwrap();
    let backend = backend_with_unasked(place.path(), "/dev/full").await;
    let lab = channel(&format!("http://{}", backend.door("grpc")), &place.path().join("lab"));
    let refusal = command(&lab, SUPERVISOR.user, monitoring(false)).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::Unavailable, "{refusal}");
    assert_eq!(monitors(&lab).await, 0, "nothing was done");
}

/// A part of the product on free ports, with no configuration file.
async fn unconfigured(part: &str, place: &Path, more: &[(&str, &str)]) -> Process {
    let mut program = Program::new(env!("CARGO_BIN_EXE_undertone"));
    program.arg(part);
    for key in ["REST__BIND", "GRPC__BIND", "ADMIN__BIND"] {
        program.env(format!("UNDERTONE__{key}"), ANY);
    }
    for key in ["SIP_BACKEND__GRPC_BIND", "SIP_BACKEND__ADMIN_BIND"] {
        program.env(format!("UNDERTONE__{key}"), ANY);
    }
    program.env("UNDERTONE__SIP__LISTEN", format!("[\"udp:{ANY}\"]"));
    program.envs(more.iter().copied());
    Process::launch(program, place).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_two_halves_know_each_other_with_no_configuration_and_nobody_else_is_let_in() {
    let place = tempfile::tempdir().unwrap();
    // With all that the libraries say, too.
    let loud = ("UNDERTONE__LOG__FILTER", "trace");
    let mut backend = unconfigured("sip-backend", place.path(), &[loud]).await;
    let url = format!("http://{}", backend.door("grpc"));
    let found = ("UNDERTONE__BACKEND_URL", url.as_str());
    let mut gateway = unconfigured("gateway", place.path(), &[loud, found]).await;
    gateway.ready().await;
    let (of_phones, of_users) =
        (backend.printed_until(CUSTOMER.number).await, gateway.printed_until("curl").await);
    let sip = backend.door("sip");
    let phone = async |number: &str, hz: f32, answer: AnswerPolicy| {
        let password = made(place.path(), &of_phones, number);
        let phone = PhoneConfig::new(number, &password, sip, hz).answering(answer);
        let phone = Phone::start(phone).await.unwrap();
        phone.register().await.unwrap();
        phone
    };
    let customer = phone(CUSTOMER.number, 437.0, AnswerPolicy::Never).await;
    let agent = phone(AGENT.number, 613.0, AnswerPolicy::Auto(Duration::ZERO)).await;
    let supervisor = phone(SUPERVISOR.number, 877.0, AnswerPolicy::ByHeader).await;
    let password = made(place.path(), &of_users, SUPERVISOR.user);
    let client = RestClient::new(gateway.door("rest"), SUPERVISOR.user, &password);
    let coach = json!({
        "operationName": "Coach",
        "targetDeviceUri": format!("http://localhost/api/v2/devices/{}", AGENT.device),
    });
    client.post(&format!("/me/devices/{}", SUPERVISOR.device), coach).await;
    customer.call(AGENT.number).await.unwrap();
    let speakers: [Speaker<'_>; 3] = [
        ("customer", &customer, 437.0),
        ("agent", &agent, 613.0),
        ("supervisor", &supervisor, 877.0),
    ];
    hear(speakers, COACH).await;

    let channel = anonymous(&url);
    for _ in 0..100 {
        assert_eq!(ask(&channel, "Watch", None).await.code(), Code::Unauthenticated);
    }
    let counted = "undertone_grpc_callers_refused_total{reason=\"anonymous\"} 100";
    let look = async || backend.says("/metrics").await.1.contains(counted).then_some(());
    wait::found(PATIENCE, look).await.expect("each is counted");
    let warnings = |process: &Process| {
        let log = process.log();
        log.iter().filter(|line| line.contains("a gRPC caller is refused")).count()
    };
    assert!((1..=20).contains(&warnings(&backend)), "{}", warnings(&backend));
    assert_eq!(warnings(&gateway), 0);
    let token = fs::read_to_string(place.path().join("undertone-data/grpc-token")).unwrap();
    for process in [&backend, &gateway] {
        let log = process.log();
        assert!(log.iter().any(|line| line.contains(" DEBUG ")), "it has said everything");
        let told = log.iter().find(|line| line.contains(token.trim()));
        assert_eq!(told, None, "a token is in the log");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_halves_on_one_machine_know_each_other_by_certificate() {
    let certificates = Certificates::new();
    let name = SubjectName::Uri("urn:undertone:gateway".to_owned());
    let (server, client) = (certificates.server(), certificates.issue("gateway", &[name]));
    let authority = certificates.authority_file();
    let [of_backend, of_gateway] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let of_both = format!(
        "[admin]\nbind = '{ANY}'\n[rest]\nbind = '{ANY}'\n[grpc]\nbind = '{ANY}'\n[sip]\n\
         listen = ['udp:{ANY}']\n[sip_backend]\ngrpc_bind = '{ANY}'\nadmin_bind = '{ANY}'\n"
    );
    let config = format!(
        "{of_both}[[grpc.caller]]\nname = 'gateway'\nrole = 'gateway'\n\
         san = ['urn:undertone:gateway']\n[tls]\ngrpc_certificate = '{}'\ngrpc_key = '{}'\n\
         grpc_client_authorities = '{}'\n{}",
        server.certificate.display(),
        server.key.display(),
        authority.display(),
        directory()
    );
    let backend = Process::start("sip-backend", of_backend.path(), &config).await;
    let config = format!(
        "backend_url = 'https://{}'\n{of_both}[tls]\nbackend_certificate = '{}'\n\
         backend_key = '{}'\nbackend_authorities = '{}'\n{}",
        backend.door("grpc"),
        client.certificate.display(),
        client.key.display(),
        authority.display(),
        directory()
    );
    let gateway = Process::start("gateway", of_gateway.path(), &config).await;
    gateway.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_its_backend_does_not_know_says_so_and_finds_it_once_it_does() {
    let place = tempfile::tempdir().unwrap();
    let backend = unconfigured("sip-backend", place.path(), &[]).await;
    let url = format!("http://{}", backend.door("grpc"));
    let token = place.path().join("token");
    write_token(&token, &secret("other"));
    let more = [
        ("UNDERTONE__BACKEND_URL", url.as_str()),
        ("UNDERTONE__BACKEND_TOKEN_FILE", token.to_str().unwrap()),
    ];
    let gateway = unconfigured("gateway", place.path(), &more).await;
    let said = async || {
        let log = gateway.log();
        log.iter().any(|line| line.contains("its token is no caller's")).then_some(())
    };
    wait::found(PATIENCE, said).await.expect("the log has the cause");
    assert_eq!(gateway.says("/readyz").await.0, 503);
    let known = fs::read_to_string(place.path().join("undertone-data/grpc-token")).unwrap();
    write_token(&token, &known);
    gateway.ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_token_is_taken_away_is_told_nothing_more() {
    let served = Served::start(ServerRole::Serve, false).await;
    let file = |name: &str| served.place.path().join(name);
    let [observer, gateway] =
        ["observer", "gateway"].map(|name| channel(&served.url(), &file(name)));
    let (told, mut goes_on) = (watch(&observer).await, watch(&gateway).await);
    write_token(&file("observer"), &secret("new"));
    served.running.reload();
    assert_eq!(end_of(told).await.code(), Code::Unauthenticated);
    for _ in 0..100 {
        goes_on.message().await.expect("that of another goes on").expect("a heartbeat");
    }
    served.running.stop().await;
}

/// What is told to a watch, a heartbeat at least every 50 ms.
async fn watch(channel: &TelephonyChannel) -> Streaming<proto::WatchResponse> {
    let request = proto::WatchRequest { heartbeat_ms: 50, ..Default::default() };
    TelephonyClient::new(channel.clone()).watch(request).await.unwrap().into_inner()
}

/// How a watch ends.
async fn end_of(mut told: Streaming<proto::WatchResponse>) -> Status {
    let ended = async {
        loop {
            if let Err(status) = told.message().await {
                return status;
            }
        }
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("the watch ends")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_that_is_emptied_or_deleted_takes_its_callers_tokens_and_no_others() {
    let served = Served::start(ServerRole::Serve, false).await;
    let file = |name: &str| served.place.path().join(name);
    let [observer, gateway] =
        ["observer", "gateway"].map(|name| channel(&served.url(), &file(name)));
    let (emptied, deleted) = (watch(&observer).await, watch(&gateway).await);
    let nobody = anonymous(&served.url());
    let asks =
        async |token: &str| ask(&nobody, "Describe", Some(&format!("Bearer {token}"))).await.code();
    write_token(&file("observer"), "");
    write_token(&file("service"), &secret("new"));
    served.running.reload();
    assert_eq!(end_of(emptied).await.code(), Code::Unauthenticated);
    assert_eq!(asks(&secret("observer")).await, Code::Unauthenticated);
    assert_eq!(asks(&secret("service")).await, Code::Unauthenticated);
    assert_eq!(asks(&secret("new")).await, Code::Ok);
    assert_eq!(asks(&secret("gateway")).await, Code::Ok);
    // Without being asked to look, too.
    fs::remove_file(file("gateway")).unwrap();
    assert_eq!(end_of(deleted).await.code(), Code::Unauthenticated);
    assert_eq!(asks(&secret("gateway")).await, Code::Unauthenticated);
    write_token(&file("observer"), &secret("observer"));
    served.running.reload();
    let again = async || (asks(&secret("observer")).await == Code::Ok).then_some(());
    wait::found(PATIENCE, again).await.expect("a good file counts again");
    served.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_authority_is_taken_away_is_told_nothing_more() {
    let served = Served::start(ServerRole::Serve, true).await;
    let file = served.place.path().join("clients.crt");
    let name = SubjectName::Host("gateway.example.com".to_owned());
    let pair = served.certificates.issue("gateway", &[name]);
    let new = || served.channel(Some(pair.clone()));
    let known = async |channel: &TelephonyChannel, authorization: Option<&str>| {
        ask(channel, "Describe", authorization).await.code() == Code::Ok
    };
    let becomes = async |expected: bool| {
        let look = async || (known(&new(), None).await == expected).then_some(());
        wait::found(PATIENCE, look).await.expect("the authorities count");
    };
    let (open, by_token) = (new(), served.channel(None));
    let token = format!("Bearer {}", secret("observer"));
    let told = watch(&open).await;
    assert!(known(&by_token, Some(&token)).await);
    let others = fs::read(Certificates::new().authority_file()).unwrap();
    let ours = fs::read(served.certificates.authority_file()).unwrap();
    fs::write(&file, &others).unwrap();
    served.running.reload();
    assert_ne!(end_of(told).await.code(), Code::Ok);
    assert!(!known(&open, None).await, "the open connection");
    assert!(!known(&new(), None).await, "a new one");
    assert!(known(&by_token, Some(&token)).await, "who has shown no certificate goes on");
    for bad in [Some(""), Some("no certificate"), None] {
        fs::write(&file, &ours).unwrap();
        served.running.reload();
        becomes(true).await;
        let told = watch(&new()).await;
        match bad {
            Some(text) => fs::write(&file, text).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        served.running.reload();
        assert_ne!(end_of(told).await.code(), Code::Ok, "{bad:?}");
        let refused = ask(&new(), "Describe", None).await;
        assert_eq!(refused.code(), Code::Unauthenticated, "{bad:?}");
        assert!(known(&new(), Some(&token)).await, "{bad:?}: tokens still count");
    }
    served.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_of_one_service_count_against_no_other_and_the_audit_has_its_address() {
    let place = tempfile::tempdir().unwrap();
    let mut more = "[audit]\nrefused_per_user = 3\nrefused_per_address = 5\n".to_owned();
    for name in ["crm", "dialer"] {
        write_token(&place.path().join(name), &secret(name));
        more += &format!(
            "[[grpc.caller]]\nname = '{name}'\nrole = 'service'\ngroups = ['sample']\n\
             token_file = '{}'\n",
            place.path().join(name).display()
        );
    }
    let server = Server::configured(&(more + &bystander())).await;
    let url = format!("http://{}", server.running.grpc());
    let [crm, dialer] = ["crm", "dialer"].map(|name| channel(&url, &place.path().join(name)));
    let mut reasons = Vec::new();
    for _ in 0..10 {
        let refusal = command(&crm, BYSTANDER.user, monitoring(false)).await.unwrap_err();
        reasons.push(refusal.reason);
    }
    let put_off = |reason: &&Reason| **reason == Reason::TooManyRequests;
    assert!(reasons.iter().filter(put_off).count() > 0, "{reasons:?}");
    command(&dialer, SUPERVISOR.user, monitoring(false)).await.expect("that of another");
    server.coach(json!({})).await;
    let audit = server.audit();
    let by = |caller: Option<&str>| {
        let own = audit.iter().filter(move |line| line["caller"].as_str() == caller);
        own.map(|line| line["from"].as_str()).collect::<Vec<_>>()
    };
    for caller in [Some("crm"), Some("dialer"), None] {
        let from = by(caller);
        assert!(!from.is_empty() && from.iter().all(|it| *it == Some("127.0.0.1")), "{audit:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_for_everybody_and_reflection_for_callers() {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_client::HealthClient;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    let server = Server::start().await;
    let channel = anonymous(&format!("http://{}", server.running.grpc()));
    let service = CONTRACT.to_owned();
    let mut health = HealthClient::new(channel.clone());
    health.check(HealthCheckRequest { service }).await.expect("health is for everybody");
    let mut reflection = ServerReflectionClient::new(channel);
    let asked = tokio_stream::empty();
    let refused = reflection.server_reflection_info(asked).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[test]
fn callers_that_can_not_be_told_or_ask_for_what_they_may_not_have_are_found_in_the_file() {
    let wrong = |text: &str| {
        let problems = config::parse(Some((Path::new("u.toml"), text)), []).map(drop).unwrap_err();
        problems.list.into_iter().map(|one| (one.key, one.message)).collect::<BTreeMap<_, _>>()
    };
    let found = wrong(
        "[[grpc.caller]]\nname = 'a b'\nrole = 'observer'\n\
         [[grpc.caller]]\nname = 'local'\nrole = 'observer'\ntoken_file = 'x'\nusers = ['agent']\n\
         [[grpc.caller]]\nname = 'c'\nrole = 'service'\ntoken_file = 'x'\n\
         [[grpc.caller]]\nname = 'c'\nrole = 'service'\nsan = ['c', '*.c']\nusers = ['nobody']\n\
         groups = ['none']\nmay_join_unasked = true\n\
         [[grpc.caller]]\nname = 'e'\nrole = 'admin'\ntoken_file = 'x'\n",
    );
    for (key, said) in [
        ("grpc.caller[0].name", "may contain letters"),
        ("grpc.caller[0].san", "nothing tells it"),
        ("grpc.caller[1].name", "'local' is the caller with grpc.token_file"),
        ("grpc.caller[1].role", "a service alone has users"),
        ("grpc.caller[2].role", "needs the users or groups"),
        ("grpc.caller[3].name", "there are two callers 'c'"),
        ("grpc.caller[3].san", "nobody vouches for it"),
        ("grpc.caller[3].users", "there is no user 'nobody'"),
        ("grpc.caller[3].groups", "there is no group 'none'"),
        ("grpc.caller[3].may_join_unasked", "only a gateway may"),
        ("grpc.caller[4].role", "gateway"),
    ] {
        assert!(found.get(key).is_some_and(|text| text.contains(said)), "{key}: {found:#?}");
    }
}
