//! The gateway's handle and task with the audit file and state file, and a backend played by the
//! test.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};
use undertone::audit::{AuditConfig, AuditLog};
use undertone::gateway::task::{GatewayEvent, GatewayHandle};
use undertone::gateway::{DeviceEntry, Directory, GatewayConfig, Group, User};
use undertone::model::{
    Activity, AdmissionAsked, AgentState, Answer, Capabilities, Command, DeviceFact, DeviceKind,
    Fact, Feature, Mode, MonitorFact, MonitorState, NodeLoad, Notice, NoticeBody, Query, Reason,
    Refusal, Request, RequestEnvelope, Role, Scope, TargetRef, Timestamp,
};
use undertone::store::{self, Store};
use undertone::telephony::{BackendConnection, CommandCall};

async fn next_notice(notices: &mut broadcast::Receiver<Arc<GatewayEvent>>) -> Notice {
    let told = tokio::time::timeout(PATIENCE, notices.recv()).await;
    match &*told.expect("in time").expect("a notice") {
        GatewayEvent::Notice(notice) => Notice::clone(notice),
        other => panic!("{other:?}"),
    }
}

fn directory() -> Directory {
    let user = |id: &str, role| User {
        id: id.into(),
        display_name: id.into(),
        first_name: id.into(),
        last_name: String::new(),
        email: String::new(),
        roles: BTreeSet::from([role]),
        features: BTreeSet::from([Feature::Voice, Feature::SupervisorMonitoring]),
        devices: vec![format!("{id}-phone").into()],
    };
    let device = |id: &str, number: &str| DeviceEntry {
        id: id.into(),
        number: number.into(),
        voice_environment: String::new(),
    };
    let group = Group {
        id: "all".into(),
        agents: BTreeSet::from(["bob".into()]),
        supervisors: BTreeSet::from(["meg".into()]),
        monitor_supervisors: false,
        agent_side_only: false,
    };
    let users = [user("meg", Role::Supervisor), user("bob", Role::Agent)];
    let devices = [device("meg-phone", "5005"), device("bob-phone", "5001")];
    Directory {
        users: users.map(|user| (user.id.clone(), user.into())).into(),
        devices: devices.map(|device| (device.id.clone(), device.into())).into(),
        groups: [(group.id.clone(), group.into())].into(),
        voice_environments: BTreeMap::new(),
        contact_center: String::new(),
    }
}

/// The backend, played by hand.
struct Backend {
    commands: mpsc::Receiver<CommandCall>,
    facts: mpsc::Sender<Fact>,
    _capabilities: watch::Sender<Capabilities>,
}

impl Backend {
    async fn accepts(&mut self) -> Command {
        let placed = tokio::time::timeout(PATIENCE, self.commands.recv())
            .await
            .expect("in time")
            .expect("a command");
        placed.reply.send(Ok(())).expect("the gateway waits");
        placed.command
    }

    async fn reports(&self, fact: Fact) {
        self.facts.send(fact).await.expect("the gateway listens");
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

async fn start(audit: &Path, store: Store) -> (GatewayHandle, Backend) {
    let (commands, placed) = mpsc::channel(16);
    let (facts, reported) = mpsc::channel(16);
    let able = Capabilities {
        activities: Activity::ALL.to_vec(),
        modes: Mode::ALL.to_vec(),
        scopes: Scope::ALL.to_vec(),
        live_switching: true,
        ..Capabilities::default()
    };
    let (tell, capabilities) = watch::channel(able);
    let load = watch::Sender::new(NodeLoad::default()).subscribe();
    let line = BackendConnection { commands, facts: reported, capabilities, load };
    // An earlier gateway lets go of it in tasks of this thread.
    let config = AuditConfig::of(audit);
    let audit = tokio::task::spawn_blocking(move || AuditLog::open(&config));
    let audit = audit.await.expect("it ends").expect("the audit opens");
    let gateway = GatewayHandle::start(GatewayConfig::default(), directory(), line, audit, store)
        .expect("it starts");
    let backend = Backend { commands: placed, facts, _capabilities: tell };
    backend.reports(Fact::SnapshotBegin).await;
    for (id, number) in [("meg-phone", "5005"), ("bob-phone", "5001")] {
        let device = DeviceFact {
            id: id.into(),
            number: number.into(),
            kind: DeviceKind::Phone,
            registered: true,
            do_not_disturb: false,
            forward_to: None,
        };
        backend.reports(Fact::Device(device)).await;
    }
    backend.reports(Fact::SnapshotComplete).await;
    let mut ready = gateway.readiness();
    tokio::time::timeout(PATIENCE, ready.wait_for(|ready| *ready))
        .await
        .expect("in time")
        .expect("ready");
    (gateway, backend)
}

fn asked(user: &str, request: Request) -> RequestEnvelope {
    RequestEnvelope {
        user: user.into(),
        caller: None,
        from: IpAddr::V4(Ipv4Addr::LOCALHOST),
        request_id: "r1".into(),
        request: Ok(request),
    }
}

fn coach() -> Request {
    Request::StartMonitoring {
        device: "meg-phone".into(),
        target: TargetRef { device: Some("bob-phone".into()), number: None },
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope: Scope::Call,
    }
}

fn admission() -> Fact {
    Fact::AdmissionAsked(AdmissionAsked {
        supervisor: "meg-phone".into(),
        target: "bob-phone".into(),
        call: "call".into(),
        activity: Activity::Coach,
    })
}

fn monitor(state: MonitorState) -> MonitorFact {
    MonitorFact {
        supervisor: "meg-phone".into(),
        target: "bob-phone".into(),
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope: Scope::Call,
        confirm_joins: true,
        agent_side_only: false,
        state,
    }
}

fn events(audit: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(audit).expect("the audit file");
    let event = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("one JSON object a line");
        line["event"].as_str().expect("an event").to_owned()
    };
    text.lines().map(event).filter(|event| event != "checkpoint").collect()
}

#[tokio::test]
async fn a_coach_request_becomes_an_audit_line_a_command_and_a_notice() {
    let place = tempfile::tempdir().expect("a directory");
    let audit = place.path().join("audit.jsonl");
    let (gateway, mut backend) = start(&audit, store::in_memory()).await;
    let mut notices = gateway.notices();
    let (answer, command) = tokio::join!(gateway.ask(asked("meg", coach())), backend.accepts());
    assert_eq!(answer, Ok(Answer::Accepted));
    assert!(matches!(command, Command::StartMonitoring { confirm_joins: true, .. }), "{command:?}");
    assert_eq!(events(&audit), ["allowed"], "on disk before it was answered");

    backend.reports(Fact::Monitor(monitor(MonitorState::Armed))).await;
    let notice = next_notice(&mut notices).await;
    assert_eq!(notice.user.as_str(), "meg");
    let NoticeBody::DeviceStateChange(devices) = &notice.body else { panic!("{notice:?}") };
    assert!(devices[0].monitoring.is_some());
    let (question, answer, sent) = gateway.ask_state("meg".into());
    sent.await;
    let told = notices.recv().await.expect("what was asked for");
    assert_eq!(*told, GatewayEvent::Answered(question));
    let states = answer.await.expect("the answer comes first");
    assert!(states.contains(&notice), "{states:?}");

    backend.reports(admission()).await;
    let command = backend.accepts().await;
    assert!(matches!(command, Command::AdmitMonitoring { admitted: true, .. }), "{command:?}");
    assert_eq!(events(&audit), ["allowed", "admitted"]);
    assert!(gateway.facts().monitor(&"meg-phone".into()).is_some(), "it is served again");
}

#[tokio::test]
async fn when_the_audit_cannot_be_written_nobody_starts_and_nobody_joins() {
    let place = tempfile::tempdir().expect("a directory");
    let audit = place.path().join("audit.jsonl");
    let (gateway, mut backend) = start(&audit, store::in_memory()).await;
    std::fs::remove_file(&audit).expect("it goes");
    std::fs::create_dir(&audit).expect("in the way of the file");
    let refused = gateway.ask(asked("meg", coach())).await.map_err(|refusal| refusal.reason);
    assert_eq!(refused, Err(Reason::Internal));
    assert!(!gateway.is_audited());
    assert!(backend.commands.try_recv().is_err(), "nothing was commanded");
    backend.reports(admission()).await;
    let command = backend.accepts().await;
    assert!(matches!(command, Command::AdmitMonitoring { admitted: false, .. }), "{command:?}");

    std::fs::remove_dir(&audit).expect("out of the way");
    let (answer, _) = tokio::join!(gateway.ask(asked("meg", coach())), backend.accepts());
    assert_eq!(answer, Ok(Answer::Accepted));
    assert_eq!(events(&audit), ["allowed"]);
    assert!(gateway.is_audited());
}

/// What a log has written.
#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("whole").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_line_of_the_json_log_has_a_key_twice() {
    let page = Page::default();
    let to = page.clone();
    let log = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || to.clone());
    let _here = tracing::subscriber::set_default(log.finish());
    let place = tempfile::tempdir().expect("a directory");
    let (gateway, mut backend) = start(&place.path().join("audit.jsonl"), store::in_memory()).await;
    let (answer, _) = tokio::join!(gateway.ask(asked("meg", coach())), backend.accepts());
    assert_eq!(answer, Ok(Answer::Accepted));
    let text = String::from_utf8(page.0.lock().expect("whole").clone()).expect("UTF-8");
    let line = text.lines().find(|line| line.contains("allowed")).expect("a line of the attempt");
    assert_eq!(line.matches("\"target\":").count(), 1, "{line}");
    let fields: serde_json::Value = serde_json::from_str(line).expect("JSON");
    assert_eq!(
        (&fields["monitored"], &fields["device"]),
        (&"bob-phone".into(), &"meg-phone".into())
    );
}

#[tokio::test]
async fn a_join_that_a_crash_cut_short_is_closed_in_the_audit_of_the_next_start() {
    let place = tempfile::tempdir().expect("a directory");
    let audit = place.path().join("audit.jsonl");
    let store = store::in_memory();
    let (gateway, mut backend) = start(&audit, store.clone()).await;
    let mut notices = gateway.notices();
    backend.reports(admission()).await;
    backend.accepts().await;
    let state = MonitorState::Joined {
        call: "call".into(),
        activity: Activity::Coach,
        since: Timestamp(1_000),
    };
    backend.reports(Fact::Monitor(monitor(state))).await;
    next_notice(&mut notices).await;
    let kept = async {
        while !store.load("hearing").expect("readable").contains_key("meg-phone") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, kept).await.expect("kept in time");
    drop((gateway, backend));

    let (gateway, _backend) = start(&audit, store.clone()).await;
    let closed = async {
        while events(&audit).last().map(String::as_str) != Some("lost")
            || !store.load("hearing").expect("readable").is_empty()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("closed in time");
    assert_eq!(events(&audit), ["admitted", "joined", "lost"]);
    drop(gateway);
}

#[tokio::test]
async fn when_the_audit_is_lost_while_somebody_listens_he_is_stopped_and_told() {
    let place = tempfile::tempdir().expect("a directory");
    let audit = place.path().join("audit.jsonl");
    let (gateway, mut backend) = start(&audit, store::in_memory()).await;
    let mut notices = gateway.notices();
    let monitor = monitor(MonitorState::Joined {
        call: "call".into(),
        activity: Activity::Coach,
        since: Timestamp(1),
    });
    backend.reports(Fact::Monitor(monitor)).await;
    while !audit.exists() || events(&audit).is_empty() {
        tokio::task::yield_now().await;
    }
    std::fs::remove_file(&audit).expect("it goes");
    std::fs::create_dir(&audit).expect("in the way of the file");
    let command = tokio::time::timeout(PATIENCE, backend.accepts()).await.expect("in seconds");
    let supervisor = "meg-phone".into();
    assert_eq!(command, Command::StopMonitoring { supervisor });
    let told = async {
        loop {
            if let NoticeBody::Error { refusal, .. } = next_notice(&mut notices).await.body {
                return refusal.reason;
            }
        }
    };
    assert_eq!(tokio::time::timeout(PATIENCE, told).await.expect("in time"), Reason::Internal);
}

#[tokio::test]
async fn presence_is_durable_when_it_is_answered() {
    let place = tempfile::tempdir().expect("a directory");
    let audit = place.path().join("audit.jsonl");
    let state = place.path().join("state.redb");
    let store = store::open(&state).expect("it opens");
    let (gateway, backend) = start(&audit, store.clone()).await;
    gateway.ask(asked("bob", Request::StartSession)).await.expect("accepted");
    gateway
        .ask(asked("bob", Request::SetAgentState(AgentState::Ready.into())))
        .await
        .expect("accepted");
    assert_eq!(store.load("presence").expect("readable")["bob"], b"Ready");
    drop((gateway, backend));

    let (gateway, _backend) = start(&audit, store).await;
    let Ok(Answer::User(bob)) = gateway.read(&"bob".into(), Query::Me).await else {
        panic!("himself")
    };
    assert_eq!((bob.session, bob.state), (true, Some(AgentState::Ready.into())));
}

#[tokio::test]
async fn while_the_backend_is_away_reads_answer_and_commands_are_unavailable() {
    let place = tempfile::tempdir().expect("a directory");
    let (gateway, backend) = start(&place.path().join("audit.jsonl"), store::in_memory()).await;
    drop(backend);
    let mut ready = gateway.readiness();
    tokio::time::timeout(PATIENCE, ready.wait_for(|ready| !*ready))
        .await
        .expect("in time")
        .expect("away");
    let Ok(Answer::Devices(devices)) = gateway.read(&"bob".into(), Query::MyDevices).await else {
        panic!("devices")
    };
    assert!(devices[0].active);
    let dnd = Request::SetDoNotDisturb { device: "bob-phone".into(), on: true };
    assert_eq!(
        gateway.ask(asked("bob", dnd)).await.map_err(|refusal| refusal.reason),
        Err(Reason::Unavailable)
    );
}

#[tokio::test]
async fn what_the_backend_refuses_is_the_answer() {
    let place = tempfile::tempdir().expect("a directory");
    let (gateway, mut backend) = start(&place.path().join("audit.jsonl"), store::in_memory()).await;
    let refusal = Refusal::new(Reason::InUse, "Another supervisor monitors this device.");
    let refuse = async {
        let placed = backend.commands.recv().await.expect("a command");
        placed.reply.send(Err(refusal.clone())).expect("the gateway waits");
    };
    let (answer, ()) = tokio::join!(gateway.ask(asked("meg", coach())), refuse);
    assert_eq!(answer, Err(refusal));
}
