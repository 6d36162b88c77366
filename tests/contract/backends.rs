//! The backends that the suite is held against.

use super::keeps_every_rule;
use crate::support::wait;
use std::time::Duration;
use undertone::audit::{AuditConfig, AuditLog};
use undertone::contract_check::{Phones, PhonesError, Rule};
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig, PhoneError};
use undertone::gateway::task::GatewayHandle;
use undertone::gateway::{DeviceEntry, Directory, GatewayConfig, Group, User};
use undertone::grpc;
use undertone::media::MediaConfig;
use undertone::model::{
    Activity, Command, CommandContext, DeviceId, Feature, Mode, Number, Reason, Role, Scope,
};
use undertone::sip;
use undertone::sip::b2bua::{AccountKind, B2buaConfig, FeatureCodeConfig};
use undertone::sip::config::ListenAddress;
use undertone::sip::flow::Protocol;
use undertone::store;
use undertone::supervision;
use undertone::telephony::connection::{in_process, line};
use undertone::telephony::phones::{PhoneCommand, Pickup};
use undertone::telephony::proto::telephony_client::TelephonyClient;
use undertone::telephony::proto::telephony_server::TelephonyServer;
use undertone::telephony::simulated::{self, Simulated, Telephone};
use undertone::telephony::{TelephonyService, execute};

/// What a gateway does not let others do.
const CONFIRMS_JOINS_ITSELF: [Rule; 4] = [
    Rule::JoinsNobodyWithoutLeave,
    Rule::JoinsNobodyWhoMayNot,
    Rule::TellsWhichJoinsWaitForLeave,
    Rule::JoinsWithLeave,
];
/// Where everything is offered there is nothing to be refused for that.
const OFFERS_ALL: [Rule; 1] = [Rule::RefusesWhatIsNotOffered];
/// What a backend without telephones, or one behind a gateway, does not offer.
const HAS_NO_CODES: [Rule; 1] = [Rule::AnswersOnlyCodesThatWait];

#[tokio::test]
async fn the_simulated_backend_keeps_the_contract() {
    let (server, simulated) = simulated::start(simulated_config());
    keeps_every_rule(in_process(server), ByHand(simulated), &[OFFERS_ALL, HAS_NO_CODES].concat())
        .await;
}

#[tokio::test]
async fn the_gateway_keeps_the_contract_that_it_consumes() {
    let (server, simulated) = simulated::start(simulated_config());
    let line = line(in_process(server));
    let directory = tempfile::tempdir().unwrap();
    let audit = AuditLog::open(&AuditConfig::of(&directory.path().join("audit.jsonl"))).unwrap();
    let gateway =
        GatewayHandle::start(GatewayConfig::default(), users(), line, audit, store::in_memory())
            .unwrap();
    gateway.readiness().wait_for(|ready| *ready).await.unwrap();
    let left_out = [&CONFIRMS_JOINS_ITSELF[..], &OFFERS_ALL, &HAS_NO_CODES].concat();
    keeps_every_rule(in_process(grpc::serve(gateway)), ByHand(simulated), &left_out).await;
    let audited = std::fs::read_to_string(directory.path().join("audit.jsonl")).unwrap();
    assert!(audited.lines().count() > 10, "what services ask is audited, too");
}

#[tokio::test]
async fn the_gateway_asks_for_the_permission_of_the_user_a_service_acts_for() {
    let (server, _simulated) = simulated::start(simulated_config());
    let line = line(in_process(server));
    let directory = tempfile::tempdir().unwrap();
    let audit = AuditLog::open(&AuditConfig::of(&directory.path().join("audit.jsonl"))).unwrap();
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
            caller: None,
            from: None,
            deadline: Duration::from_secs(30),
            feature_code: None,
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

pub(super) fn simulated_config() -> simulated::SimulatedConfig {
    simulated::SimulatedConfig {
        devices: vec![
            Telephone::new("meg-phone", "5005"),
            Telephone::new("otto-phone", "5006"),
            Telephone::new("bob-phone", "5001"),
            Telephone::new("eve-phone", "5002"),
        ],
        supervision: supervision::SupervisionConfig {
            // Long enough for what is asked meanwhile on a machine that is busy.
            admission_timeout: Duration::from_secs(2),
            invite_timeout: Duration::from_secs(4),
            ..supervision::SupervisionConfig::default()
        },
        kept: Vec::new(),
    }
}

/// The reference backend, its phones on sockets.
struct OnTheWire {
    backend: sip::backend::SipBackend,
    customer: Desk,
    agent: Desk,
    colleague: Desk,
    supervisor: Desk,
}

/// A telephone with a line or two, each a phone of the same account with one call at a time.
struct Desk(Vec<Phone>);

impl Desk {
    async fn call(&self, number: &Number) {
        self.0[0].call(number.as_str()).await.unwrap();
    }

    /// The other line is the one that is called next: that which registers last.
    async fn answer(&self) {
        let line = self.at_a_line(Phone::answer).await;
        for (_, other) in self.0.iter().enumerate().filter(|(place, _)| *place != line) {
            other.register().await.unwrap();
        }
    }

    async fn hang_up(&self) {
        self.at_a_line(Phone::hang_up).await;
    }

    async fn set_answer(&self, answer: AnswerPolicy) {
        for line in &self.0 {
            line.set_answer(answer).await.unwrap();
        }
    }

    /// The line at which it could be done. The fact that a phone rings may be known before the
    /// INVITE is at the phone.
    async fn at_a_line(&self, does: impl AsyncFn(&Phone) -> Result<(), PhoneError>) -> usize {
        let found = wait::found(crate::support::sip_fixture::SOON, async || {
            for (place, line) in self.0.iter().enumerate() {
                if does(line).await.is_ok() {
                    return Some(place);
                }
            }
            None
        });
        found.await.expect("done in time")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sip_backend_keeps_the_contract() {
    let (server, wire) = OnTheWire::start().await;
    keeps_every_rule(in_process(server), wire, &OFFERS_ALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_keeps_the_contract_over_the_sip_backend() {
    let (server, wire) = OnTheWire::start().await;
    let line = line(in_process(server));
    let directory = tempfile::tempdir().unwrap();
    let audit = AuditLog::open(&AuditConfig::of(&directory.path().join("audit.jsonl"))).unwrap();
    let gateway =
        GatewayHandle::start(GatewayConfig::default(), users(), line, audit, store::in_memory())
            .unwrap();
    gateway.readiness().wait_for(|ready| *ready).await.unwrap();
    let left_out = [&CONFIRMS_JOINS_ITSELF[..], &OFFERS_ALL, &HAS_NO_CODES].concat();
    keeps_every_rule(in_process(grpc::serve(gateway)), wire, &left_out).await;
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
                accounts: accounts.into_iter().collect(),
                ..Default::default()
            },
            b2bua: B2buaConfig {
                supervision: simulated_config().supervision,
                feature_codes: FeatureCodeConfig { enabled: true, ..Default::default() },
                ..Default::default()
            },
            media: MediaConfig { ports: None, workers: 1, ..Default::default() },
            tls: Default::default(),
        };
        let (server, backend) = sip::backend::start(config, store::in_memory()).await.unwrap();
        let address = backend.local_addr(Protocol::Udp).unwrap();
        let desk = async |number: &str, hz: f32, answer: AnswerPolicy, lines: usize| {
            let mut phones = Vec::new();
            for _ in 0..lines {
                let config = PhoneConfig::new(number, "secret", address, hz).answering(answer);
                let phone = Phone::start(config).await.unwrap();
                phone.register().await.unwrap();
                phones.push(phone);
            }
            Desk(phones)
        };
        let wire = Self {
            customer: desk("7001", 437.0, AnswerPolicy::Never, 1).await,
            agent: desk("5001", 613.0, AnswerPolicy::ByHeader, 2).await,
            colleague: desk("5002", 821.0, AnswerPolicy::OnRequest, 1).await,
            supervisor: desk("5005", 1009.0, AnswerPolicy::ByHeader, 1).await,
            backend,
        };
        (server, wire)
    }
}

fn account(device: DeviceId, number: Number) -> sip::config::SipAccount {
    sip::config::SipAccount::new(device, number, "undertone", "secret")
}

impl Phones for OnTheWire {
    async fn act(&mut self, command: &PhoneCommand) -> Result<(), PhonesError> {
        assert!(self.backend.is_running());
        let refused = || PhonesError::Refused(format!("nobody does '{command}' here"));
        let desk = |number: &Number| match number.as_str() {
            "7001" => Ok(&self.customer),
            "5001" => Ok(&self.agent),
            "5002" => Ok(&self.colleague),
            "5005" => Ok(&self.supervisor),
            _ => Err(refused()),
        };
        match command {
            PhoneCommand::Call { from, to } => desk(from)?.call(to).await,
            PhoneCommand::Answer(number) => desk(number)?.answer().await,
            PhoneCommand::HangUp(number) => desk(number)?.hang_up().await,
            PhoneCommand::Pickup(number, pickup) => {
                let answer = match pickup {
                    Pickup::Answers => AnswerPolicy::ByHeader,
                    Pickup::Rings => AnswerPolicy::Never,
                    Pickup::Busy => AnswerPolicy::Busy,
                    Pickup::Rejects => AnswerPolicy::Reject,
                };
                desk(number)?.set_answer(answer).await;
            }
            PhoneCommand::Register(..) => return Err(refused()),
        }
        Ok(())
    }
}

/// The users of the same devices.
pub(super) fn users() -> Directory {
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
        users: users.into_iter().map(|user| (user.id.clone(), user.into())).collect(),
        devices: devices.map(|device| (device.id.clone(), device.into())).collect(),
        groups: [(group.id.clone(), group.into())].into(),
        voice_environments: Default::default(),
        contact_center: String::new(),
    }
}

/// A simulated backend, moved by hand.
pub(super) struct ByHand(pub(super) Simulated);

impl Phones for ByHand {
    async fn act(&mut self, command: &PhoneCommand) -> Result<(), PhonesError> {
        let done = self.0.perform(command.clone()).await;
        done.map_err(|refusal| PhonesError::Refused(refusal.to_string()))
    }
}
