//! Transfers, consultations and conferences of the simulated backend, and what it refuses to a leg
//! of this or that kind.

use super::backends::simulated_config;
use std::time::Duration;
use undertone::model::{
    Activity, CallFact, CallId, CallType, Command, CommandContext, DeviceId, LegState, Mode,
    MonitorState, Reason, Refusal, Scope, TransferStep, UserData, UserDataChange,
};
use undertone::telephony::connection::{TelephonyChannel, in_process};
use undertone::telephony::execute;
use undertone::telephony::proto::telephony_client::TelephonyClient;
use undertone::telephony::simulated::{self, Pickup, Simulated};

struct House {
    client: TelephonyClient<TelephonyChannel>,
    simulated: Simulated,
    asked: std::cell::Cell<u32>,
}

impl House {
    fn open() -> Self {
        let (server, simulated) = simulated::start(simulated_config());
        let client = TelephonyClient::new(in_process(server));
        Self { client, simulated, asked: std::cell::Cell::new(0) }
    }

    async fn ask(&self, command: Command) -> Result<(), Refusal> {
        self.asked.set(self.asked.get() + 1);
        let context = CommandContext {
            request_id: self.asked.get().to_string().into(),
            user: Some("somebody".into()),
            caller: None,
            from: None,
            deadline: Duration::from_secs(30),
            feature_code: None,
        };
        execute(self.client.clone(), &context, &command).await.map(|_| ())
    }

    async fn refused(&self, command: Command) -> Reason {
        let before = self.simulated.facts().entities();
        let refusal = self.ask(command).await.unwrap_err();
        assert_eq!(self.simulated.facts().entities(), before, "{refusal}: nothing has changed");
        refusal.reason
    }

    /// A customer talks to Bob.
    async fn talk(&self) -> CallId {
        let call = self.simulated.customer_calls("7001", "5001").await.unwrap();
        self.simulated.answer(&BOB.into(), &call).await.unwrap();
        call
    }

    async fn coached(&self, scope: Scope) -> CallId {
        let call = self.talk().await;
        self.ask(Command::StartMonitoring {
            supervisor: MEG.into(),
            target: BOB.into(),
            activity: Activity::Coach,
            mode: Mode::AllCalls,
            scope,
            confirm_joins: false,
            agent_side_only: false,
        })
        .await
        .unwrap();
        call
    }

    async fn answers(&self, device: &str, call: &CallId) {
        self.simulated.answer(&device.into(), call).await.unwrap();
    }

    fn call(&self, call: &CallId) -> Option<CallFact> {
        self.simulated.facts().call(call)
    }

    /// Each party's number and state, without those that have left.
    fn parties(&self, call: &CallId) -> Vec<String> {
        let fact = self.call(call).expect("the call goes on");
        let here = fact.parties.iter().filter(|party| party.state != LegState::Released);
        here.map(|party| format!("{} {}", party.number, party.state.as_str())).collect()
    }

    fn monitor(&self) -> MonitorState {
        self.simulated.facts().monitor(&MEG.into()).unwrap().state
    }
}

const BOB: &str = "bob-phone";
const EVE: &str = "eve-phone";
const MEG: &str = "meg-phone";
const OTTO: &str = "otto-phone";

fn data(pairs: &[(&str, &str)]) -> UserData {
    UserData::new(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into()))).unwrap()
}

fn single_step(to: &str) -> TransferStep {
    TransferStep::SingleStep { destination: to.into(), user_data: data(&[("Why", "blind")]) }
}

fn initiate(to: &str) -> TransferStep {
    TransferStep::Initiate { destination: to.into(), user_data: data(&[("Why", "asked")]) }
}

fn transfer(device: &str, call: &CallId, step: TransferStep) -> Command {
    Command::Transfer { device: device.into(), call: call.clone(), step }
}

fn conference(device: &str, call: &CallId, step: TransferStep) -> Command {
    Command::Conference { device: device.into(), call: call.clone(), step }
}

fn remove(device: &str, call: &CallId, number: &str) -> Command {
    let (device, participant) = (device.into(), number.into());
    Command::RemoveParticipant { device, call: call.clone(), participant }
}

fn clear(device: &str, call: &CallId) -> Command {
    Command::ClearCall { device: device.into(), call: call.clone() }
}

#[tokio::test]
async fn a_single_step_transfer_takes_its_data_along() {
    let house = House::open();
    let call = house.talk().await;
    house.ask(transfer(BOB, &call, single_step("5002"))).await.unwrap();
    assert_eq!(house.parties(&call), ["7001 Established", "5002 Ringing"]);
    assert_eq!(house.call(&call).unwrap().user_data, data(&[("Why", "blind")]));
    house.answers(EVE, &call).await;
    assert_eq!(house.parties(&call), ["7001 Established", "5002 Established"]);
}

#[tokio::test]
async fn a_transfer_that_is_declined_rings_at_the_agent_again() {
    let house = House::open();
    let call = house.talk().await;
    house.ask(transfer(BOB, &call, single_step("5002"))).await.unwrap();
    house.ask(clear(EVE, &call)).await.unwrap();
    assert_eq!(house.parties(&call), ["7001 Established", "5001 Ringing"]);
    house.answers(BOB, &call).await;
    assert_eq!(house.parties(&call), ["7001 Established", "5001 Established"]);
    house.ask(transfer(BOB, &call, single_step("5002"))).await.unwrap();
    house.simulated.customer_hangs_up(&call).await.unwrap();
    assert_eq!(house.call(&call), None);
}

#[tokio::test]
async fn an_attended_transfer_joins_two_calls_and_a_coach_of_the_call_stays() {
    for (scope, stays) in [(Scope::Call, true), (Scope::Agent, false)] {
        let house = House::open();
        let call = house.coached(scope).await;
        house.ask(transfer(BOB, &call, initiate("5002"))).await.unwrap();
        let asking = CallId::from("simulated-2");
        let fact = house.call(&asking).unwrap();
        assert_eq!((fact.call_type, fact.parent), (CallType::Consult, Some(call.clone())));
        assert_eq!(fact.user_data, data(&[("Why", "asked")]));
        assert_eq!(house.parties(&asking)[..2], ["5001 Dialing", "5002 Ringing"]);
        assert_eq!(house.parties(&call)[..2], ["7001 Established", "5001 Held"]);
        assert_eq!(
            house.refused(transfer(BOB, &call, initiate("5006"))).await,
            Reason::InvalidState
        );
        house.answers(EVE, &asking).await;
        assert_eq!(house.parties(&asking)[..2], ["5001 Established", "5002 Established"]);
        house.ask(transfer(BOB, &asking, TransferStep::Complete)).await.unwrap();
        let mut parties = vec!["7001 Established"];
        parties.extend(stays.then_some("5005 Established"));
        parties.push("5002 Established");
        assert_eq!(house.parties(&call), parties);
        assert_eq!(house.call(&asking), None);
        assert_eq!(house.call(&call).unwrap().user_data, data(&[("Why", "asked")]));
        let state = house.monitor();
        assert_eq!(state == MonitorState::Armed, !stays, "{state}");
        let heard = house.simulated.heard(&call).await.unwrap();
        let coached = heard.get(&DeviceId::from(MEG)).map(|heard| heard.coached.clone());
        assert_eq!(coached, stays.then(|| Some(EVE.into())));
    }
}

#[tokio::test]
async fn a_consultation_outlives_the_call_it_was_about() {
    let house = House::open();
    let call = house.talk().await;
    assert_eq!(
        house.refused(transfer(BOB, &call, TransferStep::Complete)).await,
        Reason::InvalidState
    );
    assert_eq!(house.refused(transfer(BOB, &call, initiate("5001"))).await, Reason::InvalidState);
    house.ask(transfer(BOB, &call, initiate("5002"))).await.unwrap();
    house.simulated.customer_hangs_up(&call).await.unwrap();
    assert_eq!(house.call(&call), None);
    let asking = CallId::from("simulated-2");
    assert_eq!(house.call(&asking).unwrap().parent, None);
    assert_eq!(
        house.refused(transfer(BOB, &asking, TransferStep::Complete)).await,
        Reason::InvalidState
    );
}

#[tokio::test]
async fn a_conference_belongs_to_the_agent_that_made_it() {
    let house = House::open();
    let call = house.coached(Scope::Call).await;
    assert_eq!(house.refused(remove(BOB, &call, "7001")).await, Reason::InvalidState);
    house.ask(conference(BOB, &call, single_step("5002"))).await.unwrap();
    assert_eq!(house.call(&call).unwrap().owner, None);
    assert_eq!(
        house.refused(conference(BOB, &call, single_step("7002"))).await,
        Reason::InvalidState,
        "one at a time"
    );
    house.answers(EVE, &call).await;
    assert_eq!(house.call(&call).unwrap().owner, Some(BOB.into()));
    assert_eq!(
        house.refused(conference(BOB, &call, single_step("5002"))).await,
        Reason::InvalidState
    );
    assert_eq!(
        house.refused(transfer(BOB, &call, single_step("5006"))).await,
        Reason::InvalidState
    );
    assert_eq!(house.refused(clear(EVE, &call)).await, Reason::NotPermitted);
    assert_eq!(house.refused(remove(EVE, &call, "7001")).await, Reason::NotPermitted);
    assert_eq!(house.refused(remove(BOB, &call, "4711")).await, Reason::NotFound);
    assert_eq!(house.refused(remove(OTTO, &call, "5002")).await, Reason::NotFound);
    house.ask(remove(MEG, &call, "5002")).await.unwrap();
    let left = ["7001 Established", "5001 Established", "5005 Established"];
    assert_eq!(house.parties(&call), left);
    house.ask(conference(BOB, &call, single_step("5002"))).await.unwrap();
    house.ask(Command::Reject { device: EVE.into(), call: call.clone() }).await.unwrap();
    assert_eq!(house.parties(&call), left, "the others talk on");
    house.ask(clear(BOB, &call)).await.unwrap();
    assert_eq!(house.call(&call), None);
}

#[tokio::test]
async fn a_consultation_becomes_a_conference_and_the_agent_talks_again() {
    let house = House::open();
    let call = house.talk().await;
    house.ask(conference(BOB, &call, initiate("5002"))).await.unwrap();
    let asking = CallId::from("simulated-2");
    house.answers(EVE, &asking).await;
    house.ask(conference(BOB, &call, TransferStep::Complete)).await.unwrap();
    assert_eq!(house.call(&asking), None);
    let all = ["7001 Established", "5001 Established", "5002 Established"];
    assert_eq!(house.parties(&call), all);
    assert_eq!(house.call(&call).unwrap().owner, Some(BOB.into()));
    house.ask(remove(BOB, &call, "7001")).await.unwrap();
    assert_eq!(house.parties(&call), all[1..]);
}

#[tokio::test]
async fn an_agent_whom_the_supervisor_has_muted_is_heard_when_the_supervisor_is_gone() {
    let house = House::open();
    let mute = |call: &CallId, muted| {
        let supervisor = MEG.into();
        Command::MuteMonitoredParty { supervisor, call: call.clone(), muted }
    };
    let call = house.coached(Scope::Call).await;
    let is_muted = || {
        let fact = house.call(&call).unwrap();
        fact.party_of(&BOB.into()).unwrap().muted_by_supervisor
    };
    assert_eq!(house.refused(mute(&"none".into(), true)).await, Reason::NotFound);
    assert_eq!(house.refused(mute(&call, false)).await, Reason::InvalidState);
    house.ask(mute(&call, true)).await.unwrap();
    assert!(is_muted());
    assert_eq!(house.refused(mute(&call, true)).await, Reason::InvalidState);
    house.ask(mute(&call, false)).await.unwrap();
    assert!(!is_muted());
    house.ask(mute(&call, true)).await.unwrap();
    house.ask(Command::StopMonitoring { supervisor: MEG.into() }).await.unwrap();
    assert!(!is_muted());
}

#[tokio::test]
async fn a_supervisor_that_is_asked_about_its_own_call_becomes_a_party_of_it() {
    let house = House::open();
    let call = house.talk().await;
    house.ask(transfer(BOB, &call, initiate("5005"))).await.unwrap();
    house
        .ask(Command::StartMonitoring {
            supervisor: MEG.into(),
            target: BOB.into(),
            activity: Activity::Coach,
            mode: Mode::AllCalls,
            scope: Scope::Call,
            confirm_joins: false,
            agent_side_only: false,
        })
        .await
        .unwrap();
    let asking = CallId::from("simulated-2");
    house.answers(MEG, &asking).await;
    house.ask(conference(BOB, &call, TransferStep::Complete)).await.unwrap();
    assert_eq!(house.parties(&call), ["7001 Established", "5001 Established", "5005 Established"]);
}

/// Everything that is asked of one leg of a call and is not about monitoring, but Answer, Hangup
/// and RemoveParticipant.
fn of_a_principal(device: &str, call: &CallId) -> Vec<Command> {
    let (at, on) = (|| DeviceId::from(device), || call.clone());
    let (digits, destination) = ("1".parse().unwrap(), "5002".into());
    let mut commands = vec![
        Command::Hold { device: at(), call: on() },
        Command::Retrieve { device: at(), call: on() },
        Command::Mute { device: at(), call: on(), on: true },
        Command::Mute { device: at(), call: on(), on: false },
        Command::SendDtmf { device: at(), call: on(), digits },
        Command::Reject { device: at(), call: on() },
        Command::Redirect { device: at(), call: on(), destination },
        Command::SwapCalls { device: at(), call: on(), other: on() },
        Command::ChangeUserData { device: at(), call: on(), change: UserDataChange::Clear },
        clear(device, call),
    ];
    for step in [single_step("5002"), initiate("5002"), TransferStep::Complete] {
        let into = step.clone();
        commands.extend([transfer(device, call, step), conference(device, call, into)]);
    }
    commands
}

#[tokio::test]
async fn a_simulated_supervisors_leg_is_refused_what_it_is_refused_over_sip_ringing_or_joined() {
    let house = House::open();
    house.simulated.pick_up(&MEG.into(), Pickup::Rings).await.unwrap();
    let call = house.coached(Scope::Call).await;
    for state in ["5005 Ringing", "5005 Established"] {
        assert_eq!(house.parties(&call)[2..], [state]);
        for command in of_a_principal(MEG, &call) {
            assert_eq!(house.refused(command.clone()).await, Reason::Forbidden, "{command:?}");
        }
        if state == "5005 Ringing" {
            house.ask(Command::Answer { device: MEG.into(), call: call.clone() }).await.unwrap();
        }
    }
    house.ask(Command::Hangup { device: MEG.into(), call: call.clone() }).await.unwrap();
    assert_eq!(house.parties(&call), ["7001 Established", "5001 Established"]);
}

#[tokio::test]
async fn a_simulated_leg_is_muted_and_sends_digits_while_it_talks_or_holds_and_not_before() {
    let house = House::open();
    let call = house.simulated.customer_calls("7001", "5001").await.unwrap();
    let mute = |on| Command::Mute { device: BOB.into(), call: call.clone(), on };
    let digits = "12#".parse().unwrap();
    let send = Command::SendDtmf { device: BOB.into(), call: call.clone(), digits };
    for command in [mute(true), mute(false), send.clone()] {
        assert_eq!(house.refused(command).await, Reason::InvalidState);
    }
    house.answers(BOB, &call).await;
    house.ask(send.clone()).await.unwrap();
    house.ask(Command::Hold { device: BOB.into(), call: call.clone() }).await.unwrap();
    for command in [mute(true), send, mute(false)] {
        house.ask(command).await.unwrap();
    }
}
