//! Connected identity (RFC 4916, RFC 3325 9.1): a device's leg that its switch has handed on.

use super::house::{AGENT, BOSS, BOSS2, House, OTHER};
use crate::model::{
    Activity, CallFact, Command, Fact, LegState, Mode, MonitorState, PartyFact, PartyRole, Scope,
    TransferStep,
};
use crate::sip::leg::{LegCommand, LegEvent, LegId, LegSource};

fn party<'a>(call: &'a CallFact, device: &str) -> &'a PartyFact {
    let mut parties = call.parties.iter().rev();
    let found = parties.find(|party| party.device == Some(device.into()));
    found.unwrap_or_else(|| panic!("{device} is not on {call:#?}"))
}

fn stranger<'a>(call: &'a CallFact, number: &str) -> &'a PartyFact {
    let mut parties = call.parties.iter();
    let found = parties.find(|party| party.device.is_none() && party.number.as_str() == number);
    found.unwrap_or_else(|| panic!("{number} is not on {call:#?}"))
}

/// Who hears whom when the first leg is the customer's, the second the agent's, the third the
/// supervisor's.
fn table(house: &House, legs: (LegId, LegId, LegId)) -> String {
    house.table(&[("c", legs.0), ("a", legs.1), ("s", legs.2)])
}

#[test]
fn when_a_leg_is_named_otherwise_after_the_answer_no_supervisor_is_heard_there_from_that_step_on() {
    for activity in [Activity::Coach, Activity::BargeIn, Activity::ListenIn] {
        for scope in [Scope::Agent, Scope::Call] {
            let mut house = House::new();
            let legs = house.coached_with(activity, scope);
            house.is_named(legs.1, "0170");
            let after = table(&house, legs);
            match scope {
                Scope::Agent => assert_eq!(after, "ca ac", "{activity}: released"),
                Scope::Call => assert_eq!(
                    after, "ca ac sc sa",
                    "{activity}: hears the customer's call, and is heard by nobody"
                ),
            }
            assert_eq!(house.lines[&legs.2].ended, scope == Scope::Agent);
            let call = house.only_call();
            let left = party(call, AGENT);
            assert_eq!(
                (left.state, left.handed_on_to.clone()),
                (LegState::Released, Some("0170".into()))
            );
            let next = stranger(call, "0170");
            assert_eq!((next.role, next.state), (PartyRole::Customer, LegState::Established));
        }
    }
}

#[test]
fn a_leg_that_is_another_devices_now_is_a_transfer_to_it() {
    let mut house = House::new();
    let legs = house.coached_with(Activity::Coach, Scope::Call);
    house.is_named(legs.1, "5002");
    assert_eq!(table(&house, legs), "ca ac as sc sa", "the whisper is the next agent's");
    let call = house.only_call();
    assert_eq!(party(call, AGENT).handed_on_to, Some("5002".into()));
    let next = party(call, OTHER);
    assert_eq!(
        (next.state, next.number.as_str(), next.role),
        (LegState::Established, "5002", PartyRole::Agent)
    );
    assert_eq!(
        call.parties.last().and_then(|party| party.monitors.clone()).or(Some(OTHER.into())),
        Some(OTHER.into())
    );
    house.hangs_up(legs.1);
    assert!(house.lines[&legs.0].ended && house.lines[&legs.2].ended);
    house.stop().expect("was armed");
    house.assert_empty();

    let mut house = House::new();
    let legs = house.coached_with(Activity::Coach, Scope::Agent);
    house.is_named(legs.1, "1002");
    assert_eq!(
        table(&house, legs),
        "ca ac",
        "an alias names the device, and scope Agent stays with the first"
    );
    assert_eq!(party(house.only_call(), OTHER).number.as_str(), "5002");
    assert_eq!(house.monitors[BOSS].state, MonitorState::Armed);
}

#[test]
fn the_next_agents_own_supervisor_is_brought_in() {
    let mut house = House::new();
    let (_, agent) = house.talk();
    let armed = Command::StartMonitoring {
        supervisor: BOSS2.into(),
        target: OTHER.into(),
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope: Scope::Agent,
        confirm_joins: false,
        agent_side_only: false,
    };
    house.command(armed).expect("accepted");
    assert_eq!(house.find_ringing(BOSS2), None);
    house.is_named(agent, "5002");
    let boss = house.ringing(BOSS2);
    house.answer(boss);
    assert!(house.hears(agent, boss));
}

#[test]
fn a_leg_that_comes_back_is_its_devices_again() {
    let mut house = House::new();
    let legs = house.coached_with(Activity::Coach, Scope::Call);
    house.is_named(legs.1, "0170");
    assert_eq!(table(&house, legs), "ca ac sc sa");
    house.is_named(legs.1, "5001");
    assert_eq!(table(&house, legs), "ca ac as sc sa");
    let call = house.only_call();
    assert_eq!(
        (party(call, AGENT).state, party(call, AGENT).handed_on_to.clone()),
        (LegState::Established, None)
    );
    assert_eq!(call.parties.iter().filter(|party| party.device == Some(AGENT.into())).count(), 1);
}

#[test]
fn what_the_first_answer_names_is_the_device_unless_it_has_aliases() {
    let mut house = House::new();
    house.customer_calls("5001");
    let agent = house.ringing(AGENT);
    house.is_named(agent, "1001");
    house.answer(agent);
    house.is_named(agent, "1001");
    house.is_named(agent, "5001");
    assert_eq!(house.state_of(AGENT), LegState::Established);
    house.is_named(agent, "1003");
    assert_eq!(house.state_of(AGENT), LegState::Released);
    house.is_named(agent, "1001");
    assert_eq!(house.state_of(AGENT), LegState::Established, "by the name that it was known by");

    let mut house = House::new();
    house.customer_calls("5002");
    let other = house.ringing(OTHER);
    house.is_named(other, "1003");
    house.answer(other);
    assert_eq!(
        house.state_of(OTHER),
        LegState::Released,
        "it has aliases, and this is none of them"
    );
    assert_eq!(stranger(house.only_call(), "1003").state, LegState::Established);
}

#[test]
fn an_answer_in_another_devices_name_is_that_devices() {
    let mut house = House::new();
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    house.customer_calls("5001");
    let agent = house.ringing(AGENT);
    house.is_named(agent, "5002");
    house.answer(agent);
    assert_eq!(
        (house.state_of(AGENT), house.state_of(OTHER)),
        (LegState::Released, LegState::Established)
    );
    assert_eq!(house.find_ringing(BOSS), None, "the agent never was on the call");
}

#[test]
fn a_withheld_name_after_the_answer_is_nobodys() {
    let mut house = House::new();
    let legs = house.coached(Activity::Coach);
    house.is_named(legs.1, "anonymous");
    assert_eq!(table(&house, legs), "ca ac sc sa");
    let mut house = House::new();
    house.customer_calls("5001");
    let agent = house.ringing(AGENT);
    house.is_named(agent, "anonymous");
    house.answer(agent);
    assert_eq!(house.state_of(AGENT), LegState::Established, "an answer may withhold it");
}

#[test]
fn a_supervisors_own_leg_that_is_handed_on_is_released_at_once() {
    let mut house = House::new();
    let legs = house.coached_with(Activity::Coach, Scope::Call);
    house.is_named(legs.2, "0170");
    assert!(house.lines[&legs.2].ended);
    assert_eq!(table(&house, legs), "ca ac");
    assert_eq!(house.failures.len(), 1);
    assert_eq!(house.failures[0].device, BOSS.into());

    let mut house = House::new();
    house.talk();
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    let boss = house.ringing(BOSS);
    house.is_named(boss, "5002");
    house.answer_late(boss);
    assert!(house.lines[&boss].ended);
    assert_eq!(house.monitors[BOSS].state, MonitorState::Armed);
}

#[test]
fn an_agent_who_calls_out_is_known_by_what_the_invite_names_and_handed_on_by_what_differs() {
    let mut house = House::new();
    let agent = house.incoming(
        LegSource::Account(AGENT.into()),
        "0123",
        Some(super::house::sdp(4000, "0", "sendrecv")),
    );
    house.is_named(agent, "1001");
    let customer = house.lines.values().find(|line| line.outgoing).expect("called").leg;
    house.answer(customer);
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    let boss = house.ringing(BOSS);
    house.answer(boss);
    house.is_named(agent, "1001");
    assert!(house.hears(agent, boss));
    house.is_named(agent, "1009");
    assert!(!house.hears(agent, boss) && !house.hears(customer, boss));
}

#[test]
fn a_customers_leg_may_be_named_as_it_likes() {
    let mut house = House::new();
    let customer = house.incoming(
        LegSource::Trunk("city".into()),
        "5001",
        Some(super::house::sdp(4000, "0", "sendrecv")),
    );
    let agent = house.ringing(AGENT);
    house.answer(agent);
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    let boss = house.ringing(BOSS);
    house.answer(boss);
    house.is_named(customer, "5002");
    assert_eq!(table(&house, (customer, agent, boss)), "ca ac as sc sa");
}

#[test]
fn a_device_that_is_on_the_call_already_is_not_two_parties() {
    let mut house = House::new();
    let legs = house.coached_with(Activity::BargeIn, Scope::Call);
    house.is_named(legs.1, "5005");
    assert_eq!(stranger(house.only_call(), "5005").role, PartyRole::Customer);
    assert!(!house.hears(legs.1, legs.2) && !house.hears(legs.0, legs.2));
}

#[test]
fn what_the_device_had_asked_for_is_done_by_nobody_any_more() {
    let mut house = House::new();
    let (customer, agent) = house.talk();
    let call = house.call_id();
    let step = TransferStep::SingleStep { destination: "5002".into() };
    let asked = Command::Transfer { device: AGENT.into(), call: call.clone(), step };
    house.command(asked).expect("accepted");
    let next = house.ringing(OTHER);
    house.is_named(agent, "0170");
    assert!(house.lines[&next].ended, "nobody is transferred to it");
    assert!(house.hears(agent, customer));

    let mut house = House::new();
    let (customer, agent) = house.talk();
    let call = house.call_id();
    let (device, hold) = (AGENT.into(), call.clone());
    house.command(Command::Hold { device, call: hold }).expect("accepted");
    assert!(!house.hears(customer, agent));
    house.held.clear();
    house.is_named(agent, "0170");
    assert!(house.hears(customer, agent), "the newcomer has not put anybody on hold");
}

#[test]
fn a_phone_that_was_to_dial_and_is_somebody_elses_dials_nothing() {
    let mut house = House::new();
    let dial = Command::Dial { device: AGENT.into(), destination: "0123".into() };
    house.command(dial).expect("accepted");
    let agent = house.ringing(AGENT);
    house.is_named(agent, "5002");
    house.answer_late(agent);
    assert!(house.lines[&agent].ended);
    assert!(!house.leg_commands().iter().any(|command| matches!(
        command,
        LegCommand::Invite { to: crate::sip::leg::Destination::Trunk { .. }, .. }
    )));
    house.assert_empty();
}

#[test]
fn the_same_names_again_change_nothing() {
    let mut house = House::new();
    let legs = house.coached(Activity::Coach);
    house.is_named(legs.1, "0170");
    house.log.clear();
    house.is_named(legs.1, "0170");
    house.leg(LegEvent::ConnectedIdentity { leg: legs.1, names: Vec::new() });
    assert!(
        !house.log.iter().any(|output| matches!(output, super::super::Output::Fact(Fact::Call(_)))),
        "{:?}",
        house.log
    );
}

#[test]
fn the_devices_own_phone_that_takes_a_leg_back_by_replaces_is_the_device() {
    let mut house = House::new();
    let legs = house.coached_with(Activity::Coach, Scope::Call);
    house.is_named(legs.1, "anonymous");
    let back = house.replaces(
        LegSource::Account(AGENT.into()),
        legs.1,
        Some(super::house::sdp(4100, "0", "sendrecv")),
    );
    let call = house.only_call();
    assert_eq!(
        (party(call, AGENT).state, party(call, AGENT).number.as_str()),
        (LegState::Established, "5001")
    );
    assert!(house.hears(back, legs.2), "its coach goes on");
}

/// The agent's account calls the other one, whose phone answers: two legs of a switch that is about
/// to join them with others.
fn agent_calls_other(house: &mut House) -> LegId {
    house.incoming(
        LegSource::Account(AGENT.into()),
        "5002",
        Some(super::house::sdp(4200, "0", "sendrecv")),
    );
    let other = house.ringing(OTHER);
    house.answer(other);
    other
}

#[test]
fn a_name_that_is_hearsay_is_worth_no_more_than_the_devices_own_leg() {
    // The switch joins the customer with its own call to the other agent, whose phone then goes on
    // to a stranger.
    let mut house = House::new();
    let legs = house.coached_with(Activity::Coach, Scope::Call);
    let other = agent_calls_other(&mut house);
    house.is_named(legs.1, "5002");
    assert!(house.hears(legs.1, legs.2), "the whisper is the next agent's");
    house.is_named(other, "0170");
    assert!(
        !house.hears(legs.1, legs.2) && !house.hears(legs.0, legs.2),
        "nobody knows who is there now"
    );
    house.is_named(legs.1, "5002");
    assert!(!house.hears(legs.1, legs.2), "said again, it is worth no more");

    // The other way round: the stranger is there before the name is.
    let mut house = House::new();
    let legs = house.coached_with(Activity::Coach, Scope::Call);
    let other = agent_calls_other(&mut house);
    house.is_named(other, "0170");
    house.is_named(legs.1, "5002");
    assert!(!house.hears(legs.1, legs.2) && !house.hears(legs.0, legs.2));
}

#[test]
fn a_switch_that_calls_out_for_somebody_else_by_a_devices_account_has_no_coach_of_that_device() {
    for name in ["5001", "0170"] {
        let mut house = House::new();
        let armed = Command::StartMonitoring {
            supervisor: BOSS.into(),
            target: OTHER.into(),
            activity: Activity::Coach,
            mode: Mode::AllCalls,
            scope: Scope::Agent,
            confirm_joins: false,
            agent_side_only: false,
        };
        house.command(armed).expect("accepted");
        let caller = house.incoming(
            LegSource::Account(OTHER.into()),
            "0123",
            Some(super::house::sdp(4000, "0", "sendrecv")),
        );
        house.is_named(caller, name);
        let customer = house.lines.values().find(|line| line.outgoing).expect("called").leg;
        house.answer(customer);
        assert_eq!(house.find_ringing(BOSS), None, "{name}");
    }
}
