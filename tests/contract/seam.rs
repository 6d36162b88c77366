//! The gateway's end of the seam: connections break, backends restart, nothing is lost.

use super::backends::{simulated_config, users};
use crate::support::callers::{LocalCaller, anonymous};
use crate::support::gateway_server::{BOB_PHONE, GatewayServer, ServerOptions};
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::TcpListenerStream;
use undertone::audit::{AuditConfig, AuditLog};
use undertone::gateway::GatewayConfig;
use undertone::gateway::task::GatewayHandle;
use undertone::grpc;
use undertone::model::{
    Activity, CallId, Capabilities, Command, CommandContext, DeviceFact, DeviceId, DeviceKind,
    Fact, Mode, MonitorState, NodeLoad, Reason, Refusal, Scope,
};
use undertone::store;
use undertone::supervision;
use undertone::telephony::connection::{in_process, line};
use undertone::telephony::proto::telephony_server::TelephonyServer;
use undertone::telephony::proto::{self, telephony_client::TelephonyClient};
use undertone::telephony::simulated::{self, Heard, Pickup, Simulated};
use undertone::telephony::{
    BackendConnection, CommandCall, CommandInbox, TelephonyService, WatchItem, refusal_of, router,
    serve,
};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_line_tells_what_the_backend_can_do_and_all_it_knows() {
    let (server, _simulated) = simulated::start(simulated_config());
    let mut line = line(in_process(server));
    assert_eq!(next(&mut line).await, Fact::SnapshotBegin);
    let mut devices = 0;
    while let Fact::Device(_) = next(&mut line).await {
        devices += 1;
    }
    assert_eq!(devices, 4);
    assert_eq!(*line.capabilities.borrow(), simulated::capabilities());
}

#[tokio::test]
async fn a_line_carries_commands_and_refusals() {
    let (server, _simulated) = simulated::start(simulated_config());
    let line = line(in_process(server));
    assert_eq!(place(&line, dnd("bob-phone", true)).await, Ok(()));
    assert_eq!(place(&line, dnd("nobody's", true)).await.unwrap_err().reason, Reason::NotFound);
}

#[tokio::test]
async fn what_a_backend_quotes_in_a_refusal_is_shown_whole_and_the_device_by_its_number() {
    let device = || DeviceId::from(BOB_PHONE);
    let takes = "Device '{}' does not take '{}'.";
    let (state, input) = (Reason::InvalidState, Reason::InvalidInput);
    for (refusal, shown) in [
        (
            Refusal::device(state, &device(), takes).quoting("sip:evil"),
            "Device '5001' does not take 'sip:evil'.",
        ),
        (
            Refusal::device(state, &device(), takes).quoting("a {} of {}"),
            "Device '5001' does not take 'a {} of {}'.",
        ),
        (
            Refusal::parameter(input, "to", "Parameter '{}' has no '{}'.").quoting("5001"),
            "Parameter 'to' has no '5001'.",
        ),
        (Refusal::new(state, "It is '{}' already.").quoting("on"), "It is 'on' already."),
        (Refusal::device(state, &device(), "Device '{}' is off."), "Device '5001' is off."),
    ] {
        let backend = Some(refuses(refusal));
        let server =
            GatewayServer::open(ServerOptions { backend, ..ServerOptions::default() }).await;
        let body = json!({"operationName": "DoNotDisturbOn"});
        let path = format!("/api/v2/me/devices/{BOB_PHONE}");
        let (_, answer) = server.post("bob", &path, &body).await;
        assert_eq!(answer["statusMessage"], shown);
    }
}

#[tokio::test]
async fn a_backend_that_is_not_there_is_unavailable() {
    let line = line(anonymous("http://127.0.0.1:1"));
    assert_eq!(place(&line, dnd("bob-phone", true)).await.unwrap_err().reason, Reason::Unavailable);
    assert_eq!(*line.capabilities.borrow(), Capabilities::default());
}

#[tokio::test]
async fn a_gateway_that_has_never_met_its_backend_says_so_instead_of_describing_an_empty_world() {
    let caller = LocalCaller::new();
    let (server, _simulated) = simulated::start(simulated_config());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = router(server, caller.auth(), watch::Sender::new(true).subscribe(), true).await;
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let wire = Wire::to(address).await;
    wire.cut();
    let line = line(caller.channel_to(&format!("http://{}", wire.address)));
    let folder = tempfile::tempdir().unwrap();
    let audit = AuditLog::open(&AuditConfig::of(&folder.path().join("audit.jsonl"))).unwrap();
    let gateway =
        GatewayHandle::start(GatewayConfig::default(), users(), line, audit, store::in_memory())
            .unwrap();
    let mut client = TelephonyClient::new(in_process(grpc::serve(gateway.clone())));
    for refused in [
        client.describe(proto::DescribeRequest {}).await.unwrap_err(),
        client.watch(proto::WatchRequest::default()).await.unwrap_err(),
    ] {
        assert_eq!(refusal_of(&refused).reason, Reason::Unavailable);
        assert_eq!(refused.message(), "The telephony backend has not been reached yet.");
    }

    wire.mend();
    let mut ready = gateway.readiness();
    timeout(PATIENCE, ready.wait_for(|ready| *ready)).await.unwrap().unwrap();
    let mut described = client.describe(proto::DescribeRequest {}).await.unwrap().into_inner();
    assert_eq!(described.load.take(), Some(proto::NodeLoad::default()));
    assert_eq!(described, (&simulated::capabilities()).into());
    let mut told = client.watch(proto::WatchRequest::default()).await.unwrap().into_inner();
    let mut devices = 0;
    loop {
        match WatchItem::try_from(told.message().await.unwrap().unwrap()).unwrap() {
            WatchItem::Fact(Fact::Device(_)) => devices += 1,
            WatchItem::Fact(Fact::SnapshotComplete) => break,
            WatchItem::SnapshotBegin { .. } | WatchItem::Heartbeat(_) | WatchItem::Fact(_) => {}
        }
    }
    assert_eq!(devices, 4);

    // What was known last is told while the backend is away.
    wire.cut();
    timeout(PATIENCE, ready.wait_for(|ready| !*ready)).await.unwrap().unwrap();
    assert!(client.describe(proto::DescribeRequest {}).await.is_ok());
}

#[tokio::test]
async fn a_line_that_breaks_resumes_without_a_snapshot() {
    let caller = LocalCaller::new();
    let (server, simulated) = simulated::start(simulated_config());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = router(server, caller.auth(), watch::Sender::new(true).subscribe(), true).await;
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let wire = Wire::to(address).await;
    let mut line = line(caller.channel_to(&format!("http://{}", wire.address)));
    until_complete(&mut line).await;

    wire.cut();
    simulated.register(&"bob-phone".into(), false).await.unwrap();
    assert_eq!(next(&mut line).await, Fact::Lost);
    assert_eq!(place(&line, dnd("bob-phone", true)).await.unwrap_err().reason, Reason::Unavailable);
    wire.mend();
    assert_eq!(next(&mut line).await, Fact::SnapshotComplete);
    let Fact::Device(device) = next(&mut line).await else {
        panic!("what was missed does not come");
    };
    assert!(!device.registered);
    assert_eq!(place(&line, dnd("bob-phone", true)).await, Ok(()));
}

#[tokio::test]
async fn a_backend_that_restarts_is_read_anew() {
    let caller = LocalCaller::new();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let wire = Wire::to(address).await;
    let (server, _simulated) = simulated::start(simulated_config());
    let (end, ended) = oneshot::channel::<()>();
    let first = tokio::spawn(
        router(server, caller.auth(), watch::Sender::new(true).subscribe(), false)
            .await
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
                drop(ended.await)
            }),
    );
    let mut line = line(caller.channel_to(&format!("http://{}", wire.address)));
    until_complete(&mut line).await;

    wire.cut();
    end.send(()).unwrap();
    first.await.unwrap().unwrap();
    assert_eq!(next(&mut line).await, Fact::Lost);
    let listener = TcpListener::bind(address).await.unwrap();
    let (server, _simulated) = simulated::start(simulated_config());
    tokio::spawn(
        router(server, caller.auth(), watch::Sender::new(true).subscribe(), false)
            .await
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    wire.mend();
    assert_eq!(next(&mut line).await, Fact::SnapshotBegin);
    until_complete(&mut line).await;
}

#[tokio::test]
async fn the_router_answers_health_checks_as_long_as_it_is_ready() {
    let caller = LocalCaller::new();
    use tonic_health::pb::health_client::HealthClient;
    use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
    let (server, _simulated) = simulated::start(simulated_config());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let ready = watch::Sender::new(true);
    let router = router(server, caller.auth(), ready.subscribe(), true).await;
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    let mut health = HealthClient::new(anonymous(&format!("http://{address}")));
    for service in ["", "undertone.telephony.v1.Telephony"] {
        let request = HealthCheckRequest { service: service.into() };
        let mut watched = health.watch(request).await.unwrap().into_inner();
        for (is_ready, expected) in
            [(true, ServingStatus::Serving), (false, ServingStatus::NotServing)]
        {
            ready.send_replace(is_ready);
            let answer =
                async { while watched.message().await.unwrap().unwrap().status() != expected {} };
            timeout(PATIENCE, answer).await.expect("health follows what is ready");
        }
    }
}

#[tokio::test]
async fn the_whisper_moves_to_the_agent_who_takes_the_call() {
    let (server, simulated) = simulated::start(simulated_config());
    let line = line(in_process(server));
    let call = talk(&simulated).await;
    place(&line, coach(Scope::Call)).await.unwrap();
    assert_eq!(heard(&simulated, &call).await, Some(coached(Some("bob-phone"))));
    let monitored = || {
        let fact = simulated.facts().call(&call).unwrap();
        fact.party_of(&"meg-phone".into()).unwrap().monitors.clone()
    };
    assert_eq!(monitored(), Some("bob-phone".into()));
    simulated.transfer(&"bob-phone".into(), &call, "5002").await.unwrap();
    assert_eq!(heard(&simulated, &call).await, Some(coached(None)), "nobody hears him meanwhile");
    assert_eq!(monitored(), None);
    simulated.answer(&"eve-phone".into(), &call).await.unwrap();
    assert_eq!(heard(&simulated, &call).await, Some(coached(Some("eve-phone"))));
    assert_eq!(monitored(), Some("eve-phone".into()));
}

#[tokio::test]
async fn with_scope_agent_the_supervisor_leaves_with_the_agent() {
    let (server, simulated) = simulated::start(simulated_config());
    let line = line(in_process(server));
    let call = talk(&simulated).await;
    place(&line, coach(Scope::Agent)).await.unwrap();
    assert_eq!(heard(&simulated, &call).await, Some(coached(Some("bob-phone"))));
    simulated.transfer(&"bob-phone".into(), &call, "5002").await.unwrap();
    assert_eq!(heard(&simulated, &call).await, None);
    let monitor = simulated.facts().monitor(&"meg-phone".into()).unwrap();
    assert_eq!(monitor.state, MonitorState::Armed);
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_who_never_answers_is_given_up_after_twenty_seconds() {
    let supervision = supervision::SupervisionConfig::default();
    let config = simulated::SimulatedConfig { supervision, ..simulated_config() };
    let (server, simulated) = simulated::start(config);
    let line = line(in_process(server));
    simulated.pick_up(&"meg-phone".into(), Pickup::Rings).await.unwrap();
    let call = talk(&simulated).await;
    place(&line, coach(Scope::Call)).await.unwrap();
    let state = || simulated.facts().monitor(&"meg-phone".into()).unwrap().state;
    tokio::time::sleep(
        supervision::SupervisionConfig::default().invite_timeout - Duration::from_secs(1),
    )
    .await;
    assert_eq!(state(), MonitorState::Inviting { call: call.clone() });
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(state(), MonitorState::Armed);
    assert_eq!(heard(&simulated, &call).await, None);
}

#[tokio::test]
async fn forwarding_and_do_not_disturb_act_before_a_phone_rings() {
    let (server, simulated) = simulated::start(simulated_config());
    let line = line(in_process(server));
    let forward = Command::SetForwarding { device: "bob-phone".into(), to: Some("5002".into()) };
    place(&line, forward).await.unwrap();
    let call = simulated.customer_calls("7001", "5001").await.unwrap();
    let fact = simulated.facts().call(&call).unwrap();
    assert!(
        fact.party_of(&"eve-phone".into()).is_some()
            && fact.party_of(&"bob-phone".into()).is_none()
    );
    place(&line, dnd("eve-phone", true)).await.unwrap();
    let refused = simulated.customer_calls("7001", "5001").await.unwrap_err();
    assert_eq!(refused.reason, Reason::InvalidState);
}

#[tokio::test]
async fn an_agent_dials_holds_and_retrieves() {
    let (server, simulated) = simulated::start(simulated_config());
    let line = line(in_process(server));
    let device = DeviceId::from("bob-phone");
    let dial = Command::Dial {
        device: device.clone(),
        destination: "7001".into(),
        user_data: Default::default(),
    };
    place(&line, dial.clone()).await.unwrap();
    assert_eq!(place(&line, dial).await.unwrap_err().reason, Reason::InvalidState);
    let call = CallId::from("simulated-1");
    let hold = Command::Hold { device: device.clone(), call: call.clone() };
    assert_eq!(place(&line, hold.clone()).await.unwrap_err().reason, Reason::InvalidState);
    simulated.customer_answers(&call).await.unwrap();
    place(&line, hold.clone()).await.unwrap();
    assert_eq!(place(&line, hold).await.unwrap_err().reason, Reason::InvalidState);
    let retrieve = Command::Retrieve { device: device.clone(), call: call.clone() };
    place(&line, retrieve).await.unwrap();
    place(&line, Command::Hangup { device, call: call.clone() }).await.unwrap();
    assert_eq!(simulated.facts().call(&call), None);
}

/// A backend that refuses every command with this.
fn refuses(refusal: Refusal) -> TelephonyServer<TelephonyService> {
    let (server, CommandInbox { mut commands, facts, .. }) = serve(simulated::capabilities());
    facts.publish(Fact::Device(DeviceFact {
        id: BOB_PHONE.into(),
        number: "5001".into(),
        kind: DeviceKind::Phone,
        registered: true,
        do_not_disturb: false,
        forward_to: None,
    }));
    tokio::spawn(async move {
        while let Some(placed) = commands.recv().await {
            let _ = placed.reply.send(Err(refusal.clone()));
        }
    });
    server
}

async fn talk(simulated: &Simulated) -> CallId {
    let call = simulated.customer_calls("7001", "5001").await.unwrap();
    simulated.answer(&"bob-phone".into(), &call).await.unwrap();
    call
}

async fn heard(simulated: &Simulated, call: &CallId) -> Option<Heard> {
    let mut heard = simulated.heard(call).await.unwrap();
    heard.remove(&DeviceId::from("meg-phone"))
}

fn coached(coached: Option<&str>) -> Heard {
    Heard { activity: Activity::Coach, coached: coached.map(DeviceId::from), takeover: false }
}

fn coach(scope: Scope) -> Command {
    Command::StartMonitoring {
        supervisor: "meg-phone".into(),
        target: "bob-phone".into(),
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope,
        confirm_joins: false,
        agent_side_only: false,
    }
}

fn dnd(device: &str, on: bool) -> Command {
    Command::SetDoNotDisturb { device: device.into(), on }
}

async fn place(line: &BackendConnection, command: Command) -> Result<(), Refusal> {
    let context = CommandContext {
        request_id: format!("{:x}", rand::random::<u64>()).into(),
        user: Some("meg".into()),
        caller: None,
        from: None,
        deadline: Duration::from_secs(10),
        feature_code: None,
    };
    let (placed, answer) = CommandCall::new(context, command);
    line.commands.send(placed).await.unwrap();
    timeout(PATIENCE, answer).await.unwrap().unwrap()
}

async fn next(line: &mut BackendConnection) -> Fact {
    timeout(PATIENCE, line.facts.recv()).await.expect("nothing comes").unwrap()
}

async fn until_complete(line: &mut BackendConnection) {
    while next(line).await != Fact::SnapshotComplete {}
}

/// A wire to a server that can be cut.
struct Wire {
    address: SocketAddr,
    whole: watch::Sender<bool>,
    _end: mpsc::Sender<()>,
}

impl Wire {
    async fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let whole = watch::Sender::new(true);
        let (end, mut ended) = mpsc::channel(1);
        let is_whole = whole.subscribe();
        tokio::spawn(async move {
            loop {
                let near = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    _ = ended.recv() => return,
                };
                tokio::spawn(carry(near, server, is_whole.clone()));
            }
        });
        Self { address, whole, _end: end }
    }

    fn cut(&self) {
        self.whole.send_replace(false);
    }

    fn mend(&self) {
        self.whole.send_replace(true);
    }
}

async fn carry(mut near: TcpStream, server: SocketAddr, mut whole: watch::Receiver<bool>) {
    if !*whole.borrow_and_update() {
        return;
    }
    let Ok(mut far) = TcpStream::connect(server).await else {
        return;
    };
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        _ = whole.changed() => {}
    }
}

#[tokio::test]
async fn how_busy_a_backend_is_comes_to_its_gateway_and_from_there_to_whoever_it_serves() {
    let (server, CommandInbox { commands: _commands, facts: _, load }) =
        serve(simulated::capabilities());
    let busy = NodeLoad { calls: 3, max_calls: Some(5), is_draining: false };
    load.send_replace(busy);
    let line = line(in_process(server));
    let mut told = line.load.clone();
    let wait = timeout(PATIENCE, told.wait_for(|load| *load == busy));
    wait.await.expect("it comes with Describe").expect("the line lives");
    let draining = NodeLoad { is_draining: true, ..busy };
    load.send_replace(draining);
    let wait = timeout(PATIENCE, told.wait_for(|load| *load == draining));
    wait.await.expect("it comes at once").expect("the line lives");
}
