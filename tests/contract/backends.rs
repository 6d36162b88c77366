//! The backends that the suite is held against.

use super::{Pickup, TestAccounts, Ways, suite};
use crate::support::wait;
use std::time::Duration;
use undertone::audit::AuditLog;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig};
use undertone::gateway::task::GatewayHandle;
use undertone::gateway::{DeviceEntry, Directory, GatewayConfig, Group, User};
use undertone::grpc;
use undertone::media::MediaConfig;
use undertone::model::{
    Activity, CallId, Command, CommandContext, DeviceId, Feature, Mode, Number, Reason, Role, Scope,
};
use undertone::sip;
use undertone::sip::b2bua::{AccountKind, B2buaConfig};
use undertone::sip::config::ListenAddress;
use undertone::sip::flow::Protocol;
use undertone::store;
use undertone::supervision;
use undertone::telephony::connection::{in_process, line, remote};
use undertone::telephony::proto::telephony_client::TelephonyClient;
use undertone::telephony::proto::telephony_server::TelephonyServer;
use undertone::telephony::simulated::{self, Simulated, Telephone};
use undertone::telephony::{TelephonyService, execute};

#[tokio::test]
async fn the_simulated_backend_keeps_the_contract() {
    let (server, simulated) = simulated::start(simulated_config());
    suite(in_process(server), ByHand::new(simulated, false)).await;
}

#[tokio::test]
async fn the_gateway_keeps_the_contract_that_it_consumes() {
    let (server, simulated) = simulated::start(simulated_config());
    let line = line(in_process(server));
    let directory = tempfile::tempdir().unwrap();
    let audit = AuditLog::open(&directory.path().join("audit.jsonl")).unwrap();
    let gateway =
        GatewayHandle::start(GatewayConfig::default(), users(), line, audit, store::in_memory())
            .unwrap();
    gateway.readiness().wait_for(|ready| *ready).await.unwrap();
    suite(in_process(grpc::serve(gateway)), ByHand::new(simulated, true)).await;
    let audited = std::fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
    assert!(audited.lines().count() > 10, "what services ask is audited, too");
}

#[tokio::test]
async fn the_gateway_asks_for_the_permission_of_the_user_a_service_acts_for() {
    let (server, _simulated) = simulated::start(simulated_config());
    let line = line(in_process(server));
    let directory = tempfile::tempdir().unwrap();
    let audit = AuditLog::open(&directory.path().join("audit.jsonl")).unwrap();
    let gateway =
        GatewayHandle::start(GatewayConfig::default(), users(), line, audit, store::in_memory())
            .unwrap();
    gateway.readiness().wait_for(|ready| *ready).await.unwrap();
    let client = TelephonyClient::new(in_process(grpc::serve(gateway)));
    let coach = |supervisor: &str| Command::StartMonitoring {
        supervisor: supervisor.into(),
        target: "bob-phone".into(),
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope: Scope::Call,
        confirm_joins: false,
        agent_side_only: false,
    };
    let refused = |user: &str, command: Command| {
        let client = client.clone();
        let context = CommandContext {
            request_id: format!("by {user}").into(),
            user: Some(user.into()),
            deadline: Duration::from_secs(30),
        };
        async move { execute(client, &context, &command).await.unwrap_err().reason }
    };
    assert_eq!(refused("nobody", coach("meg-phone")).await, Reason::NotPermitted);
    assert_eq!(refused("eve", coach("eve-phone")).await, Reason::NotPermitted);
    assert_eq!(
        refused("otto", coach("meg-phone")).await,
        Reason::NotFound,
        "somebody else's device"
    );
}

/// `TELEPHONY_URL=http://…` names a backend of another make. `TELEPHONY_HOUSE` names its devices
/// and users, separated by commas: supervisor and user, second supervisor and user, agent and
/// user, other agent. It has to be idle. Without phones, what needs none.
#[tokio::test]
async fn the_backend_at_telephony_url_keeps_the_contract() {
    let Ok(url) = std::env::var("TELEPHONY_URL") else {
        return;
    };
    let named = std::env::var("TELEPHONY_HOUSE").unwrap_or_else(|_| {
        "efelab32-53f9-43ce-b65e-5768c61f7d4a,supervisor,efelab32-53f9-43ce-b65e-5768c61f7d4b,\
         supervisor2,\
         9c14cad7-17c4-48d0-8492-7cf0ff92c224,agent,9c14cad7-17c4-48d0-8492-7cf0ff92c225"
            .into()
    });
    let named: Vec<_> = named.split(',').map(str::trim).collect();
    let [supervisor, boss, second, chief, agent, his, other_agent] = named[..] else {
        panic!("TELEPHONY_HOUSE has seven parts");
    };
    let accounts = TestAccounts {
        supervisor: (supervisor.into(), boss.into()),
        second: (second.into(), chief.into()),
        agent: (agent.into(), his.into()),
        other_agent: other_agent.into(),
        admits_itself: std::env::var_os("TELEPHONY_ADMITS_ITSELF").is_some(),
    };
    suite(remote(&url).unwrap(), NoPhones(accounts)).await;
}

pub(super) fn simulated_config() -> simulated::SimulatedConfig {
    simulated::SimulatedConfig {
        devices: vec![
            Telephone::new("meg-phone", "5005"),
            Telephone::new("otto-phone", "5006"),
            Telephone::new("bob-phone", "5001"),
            Telephone::new("eve-phone", "5002"),
        ],
        supervision: supervision::SupervisionConfig {
            admission_timeout: Duration::from_millis(500),
            ..supervision::SupervisionConfig::default()
        },
        kept: Vec::new(),
    }
}

/// The reference backend, its phones on sockets.
struct OnTheWire {
    backend: sip::backend::SipBackend,
    customer: Phone,
    agent: Phone,
    supervisor: Phone,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sip_backend_keeps_the_contract() {
    let (server, wire) = OnTheWire::start().await;
    suite(in_process(server), wire).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_keeps_the_contract_over_the_sip_backend() {
    let (server, wire) = OnTheWire::start().await;
    let line = line(in_process(server));
    let directory = tempfile::tempdir().unwrap();
    let audit = AuditLog::open(&directory.path().join("audit.jsonl")).unwrap();
    let gateway =
        GatewayHandle::start(GatewayConfig::default(), users(), line, audit, store::in_memory())
            .unwrap();
    gateway.readiness().wait_for(|ready| *ready).await.unwrap();
    suite(in_process(grpc::serve(gateway)), Behind(wire)).await;
}

impl OnTheWire {
    async fn start() -> (TelephonyServer<TelephonyService>, Self) {
        let mut accounts: Vec<_> = simulated_config()
            .devices
            .into_iter()
            .map(|device| account(device.id, device.number))
            .collect();
        accounts.push(sip::config::SipAccount {
            kind: AccountKind::Customer,
            ..account("customer-phone".into(), "7001".into())
        });
        let config = sip::backend::BackendConfig {
            sip: sip::config::SipConfig {
                listen: vec![ListenAddress::new(Protocol::Udp, "127.0.0.1:0".parse().unwrap())],
                accounts,
                ..Default::default()
            },
            b2bua: B2buaConfig {
                supervision: simulated_config().supervision,
                ..Default::default()
            },
            media: MediaConfig { ports: None, workers: 1, ..Default::default() },
        };
        let (server, backend) = sip::backend::start(config, store::in_memory()).await.unwrap();
        let address = backend.local_addr(Protocol::Udp).unwrap();
        let phone = async |number: &str, hz: f32, answer: AnswerPolicy| {
            let phone =
                Phone::start(PhoneConfig::new(number, "secret", address, hz).answering(answer))
                    .await
                    .unwrap();
            phone.register().await.unwrap();
            phone
        };
        let wire = Self {
            customer: phone("7001", 437.0, AnswerPolicy::Never).await,
            agent: phone("5001", 613.0, AnswerPolicy::OnRequest).await,
            supervisor: phone("5005", 1009.0, AnswerPolicy::ByHeader).await,
            backend,
        };
        (server, wire)
    }
}

fn account(device: DeviceId, number: Number) -> sip::config::SipAccount {
    sip::config::SipAccount::new(device, number, "undertone", "secret")
}

impl Ways for OnTheWire {
    fn accounts(&self) -> TestAccounts {
        assert!(self.backend.is_running());
        who_is_who(false)
    }

    async fn customer_calls(&mut self) {
        self.customer.call("5001").await.unwrap();
    }

    async fn agent_answers(&mut self, _: &CallId) {
        // The fact that the phone rings may be here before the INVITE is at the phone.
        let answered =
            wait::found(crate::support::sip_fixture::SOON, async || self.agent.answer().await.ok())
                .await;
        answered.expect("answered in time");
    }

    async fn customer_hangs_up(&mut self, _: &CallId) {
        self.customer.hang_up().await.unwrap();
    }

    async fn supervisor_hangs_up(&mut self, _: &CallId) {
        self.supervisor.hang_up().await.unwrap();
    }

    async fn supervisor_phone(&mut self, does: Pickup) {
        let answer = match does {
            Pickup::Answers => AnswerPolicy::ByHeader,
            Pickup::Busy => AnswerPolicy::Busy,
            Pickup::Rejects => AnswerPolicy::Reject,
        };
        self.supervisor.set_answer(answer).await.unwrap();
    }
}

/// The same backend behind a gateway.
struct Behind(OnTheWire);

impl Ways for Behind {
    fn accounts(&self) -> TestAccounts {
        who_is_who(true)
    }

    async fn customer_calls(&mut self) {
        self.0.customer_calls().await;
    }

    async fn agent_answers(&mut self, call: &CallId) {
        self.0.agent_answers(call).await;
    }

    async fn customer_hangs_up(&mut self, call: &CallId) {
        self.0.customer_hangs_up(call).await;
    }

    async fn supervisor_hangs_up(&mut self, call: &CallId) {
        self.0.supervisor_hangs_up(call).await;
    }

    async fn supervisor_phone(&mut self, does: Pickup) {
        self.0.supervisor_phone(does).await;
    }
}

fn who_is_who(admits_itself: bool) -> TestAccounts {
    TestAccounts {
        supervisor: ("meg-phone".into(), "meg".into()),
        second: ("otto-phone".into(), "otto".into()),
        agent: ("bob-phone".into(), "bob".into()),
        other_agent: "eve-phone".into(),
        admits_itself,
    }
}

/// The users of the same devices.
fn users() -> Directory {
    let user = |name: &str, roles: &[Role]| User {
        id: name.into(),
        display_name: name.into(),
        first_name: name.into(),
        last_name: String::new(),
        email: String::new(),
        roles: roles.iter().copied().collect(),
        features: [Feature::Voice, Feature::SupervisorMonitoring].into(),
        devices: vec![format!("{name}-phone").into()],
    };
    let users = [
        user("meg", &[Role::Supervisor]),
        user("otto", &[Role::Supervisor]),
        user("bob", &[Role::Agent]),
        user("eve", &[Role::Agent]),
    ];
    let devices = simulated_config().devices.into_iter().map(|telephone| DeviceEntry {
        id: telephone.id,
        number: telephone.number,
        voice_environment: "voice".into(),
    });
    let group = Group {
        id: "group".into(),
        agents: ["bob".into(), "eve".into()].into(),
        supervisors: ["meg".into(), "otto".into()].into(),
        monitor_supervisors: false,
        agent_side_only: false,
    };
    Directory {
        users: users.into_iter().map(|user| (user.id.clone(), user)).collect(),
        devices: devices.map(|device| (device.id.clone(), device)).collect(),
        groups: [(group.id.clone(), group)].into(),
        voice_environments: Default::default(),
        contact_center: String::new(),
    }
}

/// A simulated backend, moved by hand.
pub(super) struct ByHand {
    simulated: Simulated,
    admits_itself: bool,
}

impl ByHand {
    pub(super) fn new(simulated: Simulated, admits_itself: bool) -> Self {
        Self { simulated, admits_itself }
    }
}

impl Ways for ByHand {
    fn accounts(&self) -> TestAccounts {
        who_is_who(self.admits_itself)
    }

    async fn customer_calls(&mut self) {
        self.simulated.customer_calls("7001", "5001").await.unwrap();
    }

    async fn agent_answers(&mut self, call: &CallId) {
        self.simulated.answer(&DeviceId::from("bob-phone"), call).await.unwrap();
    }

    async fn customer_hangs_up(&mut self, call: &CallId) {
        self.simulated.customer_hangs_up(call).await.unwrap();
    }

    async fn supervisor_hangs_up(&mut self, call: &CallId) {
        self.simulated.hang_up(&DeviceId::from("meg-phone"), call).await.unwrap();
    }

    async fn supervisor_phone(&mut self, does: Pickup) {
        let does = match does {
            Pickup::Answers => simulated::Pickup::Answers,
            Pickup::Busy => simulated::Pickup::Busy,
            Pickup::Rejects => simulated::Pickup::Rejects,
        };
        self.simulated.pick_up(&DeviceId::from("meg-phone"), does).await.unwrap();
    }
}

/// A backend whose phones are out of reach.
struct NoPhones(TestAccounts);

impl Ways for NoPhones {
    fn accounts(&self) -> TestAccounts {
        self.0.clone()
    }

    fn has_phones(&self) -> bool {
        false
    }

    async fn customer_calls(&mut self) {}

    async fn agent_answers(&mut self, _: &CallId) {}

    async fn customer_hangs_up(&mut self, _: &CallId) {}

    async fn supervisor_hangs_up(&mut self, _: &CallId) {}

    async fn supervisor_phone(&mut self, _: Pickup) {}
}
