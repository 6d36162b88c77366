//! Connected identity (RFC 4916, RFC 3325 9.1): a device's leg that its switch has handed on.

use super::harness::{AGENT, Harness, OTHER, SUPERVISOR, SUPERVISOR2};
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

/// The hearing table when the first leg is the customer's, the second the agent's, the third the
/// supervisor's.
fn table(harness: &Harness, legs: (LegId, LegId, LegId)) -> String {
    harness.table(&[("c", legs.0), ("a", legs.1), ("s", legs.2)])
}

#[test]
fn when_a_leg_is_named_otherwise_after_the_answer_no_supervisor_is_heard_there_from_that_step_on() {
    for activity in [Activity::Coach, Activity::BargeIn, Activity::ListenIn] {
        for scope in [Scope::Agent, Scope::Call] {
            let mut harness = Harness::new();
            let legs = harness.coached_with(activity, scope);
            harness.is_named(legs.1, "0170");
            let after = table(&harness, legs);
            match scope {
                Scope::Agent => assert_eq!(after, "ca ac", "{activity}: released"),
                Scope::Call => assert_eq!(
                    after, "ca ac sc sa",
                    "{activity}: hears the customer's call, and is heard by nobody"
                ),
            }
            assert_eq!(harness.lines[&legs.2].ended, scope == Scope::Agent);
            let call = harness.only_call();
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
    let mut harness = Harness::new();
    let legs = harness.coached_with(Activity::Coach, Scope::Call);
    harness.is_named(legs.1, "5002");
    assert_eq!(table(&harness, legs), "ca ac as sc sa", "the whisper is the next agent's");
    let call = harness.only_call();
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
    harness.hangs_up(legs.1);
    assert!(harness.lines[&legs.0].ended && harness.lines[&legs.2].ended);
    harness.stop().expect("was armed");
    harness.assert_empty();

    let mut harness = Harness::new();
    let legs = harness.coached_with(Activity::Coach, Scope::Agent);
    harness.is_named(legs.1, "1002");
    assert_eq!(
        table(&harness, legs),
        "ca ac",
        "an alias names the device, and scope Agent stays with the first"
    );
    assert_eq!(party(harness.only_call(), OTHER).number.as_str(), "5002");
    assert_eq!(harness.monitors[SUPERVISOR].state, MonitorState::Armed);
}

#[test]
fn the_next_agents_own_supervisor_is_brought_in() {
    let mut harness = Harness::new();
    let (_, agent) = harness.talk();
    let armed = Command::StartMonitoring {
        supervisor: SUPERVISOR2.into(),
        target: OTHER.into(),
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope: Scope::Agent,
        confirm_joins: false,
        agent_side_only: false,
    };
    harness.command(armed).expect("accepted");
    assert_eq!(harness.find_ringing(SUPERVISOR2), None);
    harness.is_named(agent, "5002");
    let supervisor = harness.ringing(SUPERVISOR2);
    harness.answer(supervisor);
    assert!(harness.hears(agent, supervisor));
}

#[test]
fn a_leg_that_comes_back_is_its_devices_again() {
    let mut harness = Harness::new();
    let legs = harness.coached_with(Activity::Coach, Scope::Call);
    harness.is_named(legs.1, "0170");
    assert_eq!(table(&harness, legs), "ca ac sc sa");
    harness.is_named(legs.1, "5001");
    assert_eq!(table(&harness, legs), "ca ac as sc sa");
    let call = harness.only_call();
    assert_eq!(
        (party(call, AGENT).state, party(call, AGENT).handed_on_to.clone()),
        (LegState::Established, None)
    );
    assert_eq!(call.parties.iter().filter(|party| party.device == Some(AGENT.into())).count(), 1);
}

#[test]
fn what_the_first_answer_names_is_the_device_unless_it_has_aliases() {
    let mut harness = Harness::new();
    harness.customer_calls("5001");
    let agent = harness.ringing(AGENT);
    harness.is_named(agent, "1001");
    harness.answer(agent);
    harness.is_named(agent, "1001");
    harness.is_named(agent, "5001");
    assert_eq!(harness.state_of(AGENT), LegState::Established);
    harness.is_named(agent, "1003");
    assert_eq!(harness.state_of(AGENT), LegState::Released);
    harness.is_named(agent, "1001");
    assert_eq!(harness.state_of(AGENT), LegState::Established, "by the name that it was known by");

    let mut harness = Harness::new();
    harness.customer_calls("5002");
    let other = harness.ringing(OTHER);
    harness.is_named(other, "1003");
    harness.answer(other);
    assert_eq!(
        harness.state_of(OTHER),
        LegState::Released,
        "it has aliases, and this is none of them"
    );
    assert_eq!(stranger(harness.only_call(), "1003").state, LegState::Established);
}

#[test]
fn an_answer_in_another_devices_name_is_that_devices() {
    let mut harness = Harness::new();
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    harness.customer_calls("5001");
    let agent = harness.ringing(AGENT);
    harness.is_named(agent, "5002");
    harness.answer(agent);
    assert_eq!(
        (harness.state_of(AGENT), harness.state_of(OTHER)),
        (LegState::Released, LegState::Established)
    );
    assert_eq!(harness.find_ringing(SUPERVISOR), None, "the agent never was on the call");
}

#[test]
fn a_withheld_name_after_the_answer_is_nobodys() {
    let mut harness = Harness::new();
    let legs = harness.coached(Activity::Coach);
    harness.is_named(legs.1, "anonymous");
    assert_eq!(table(&harness, legs), "ca ac sc sa");
    let mut harness = Harness::new();
    harness.customer_calls("5001");
    let agent = harness.ringing(AGENT);
    harness.is_named(agent, "anonymous");
    harness.answer(agent);
    assert_eq!(harness.state_of(AGENT), LegState::Established, "an answer may withhold it");
}

#[test]
fn a_supervisors_own_leg_that_is_handed_on_is_released_at_once() {
    let mut harness = Harness::new();
    let legs = harness.coached_with(Activity::Coach, Scope::Call);
    harness.is_named(legs.2, "0170");
    assert!(harness.lines[&legs.2].ended);
    assert_eq!(table(&harness, legs), "ca ac");
    assert_eq!(harness.failures.len(), 1);
    assert_eq!(harness.failures[0].device, SUPERVISOR.into());

    let mut harness = Harness::new();
    harness.talk();
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    let supervisor = harness.ringing(SUPERVISOR);
    harness.is_named(supervisor, "5002");
    harness.answer_late(supervisor);
    assert!(harness.lines[&supervisor].ended);
    assert_eq!(harness.monitors[SUPERVISOR].state, MonitorState::Armed);
}

#[test]
fn an_agent_who_calls_out_is_known_by_what_the_invite_names_and_handed_on_by_what_differs() {
    let mut harness = Harness::new();
    let agent = harness.incoming(
        LegSource::Account(AGENT.into()),
        "0123",
        Some(super::harness::sdp(4000, "0", "sendrecv")),
    );
    harness.is_named(agent, "1001");
    let customer = harness.lines.values().find(|line| line.outgoing).expect("called").leg;
    harness.answer(customer);
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    harness.is_named(agent, "1001");
    assert!(harness.hears(agent, supervisor));
    harness.is_named(agent, "1009");
    assert!(!harness.hears(agent, supervisor) && !harness.hears(customer, supervisor));
}

#[test]
fn a_customers_leg_may_be_named_as_it_likes() {
    let mut harness = Harness::new();
    let customer = harness.incoming(
        LegSource::Trunk("city".into()),
        "5001",
        Some(super::harness::sdp(4000, "0", "sendrecv")),
    );
    let agent = harness.ringing(AGENT);
    harness.answer(agent);
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    harness.is_named(customer, "5002");
    assert_eq!(table(&harness, (customer, agent, supervisor)), "ca ac as sc sa");
}

#[test]
fn a_device_that_is_on_the_call_already_is_not_two_parties() {
    let mut harness = Harness::new();
    let legs = harness.coached_with(Activity::BargeIn, Scope::Call);
    harness.is_named(legs.1, "5005");
    assert_eq!(stranger(harness.only_call(), "5005").role, PartyRole::Customer);
    assert!(!harness.hears(legs.1, legs.2) && !harness.hears(legs.0, legs.2));
}

#[test]
fn what_the_device_had_asked_for_is_done_by_nobody_any_more() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    let call = harness.call_id();
    let step =
        TransferStep::SingleStep { destination: "5002".into(), user_data: Default::default() };
    let asked = Command::Transfer { device: AGENT.into(), call: call.clone(), step };
    harness.command(asked).expect("accepted");
    let next = harness.ringing(OTHER);
    harness.is_named(agent, "0170");
    assert!(harness.lines[&next].ended, "nobody is transferred to it");
    assert!(harness.hears(agent, customer));

    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    let call = harness.call_id();
    let (device, hold) = (AGENT.into(), call.clone());
    harness.command(Command::Hold { device, call: hold }).expect("accepted");
    assert!(!harness.hears(customer, agent));
    harness.held.clear();
    harness.is_named(agent, "0170");
    assert!(harness.hears(customer, agent), "the newcomer has not put anybody on hold");
}

#[test]
fn a_phone_that_was_to_dial_and_is_somebody_elses_dials_nothing() {
    let mut harness = Harness::new();
    let dial = Command::Dial {
        device: AGENT.into(),
        destination: "0123".into(),
        user_data: Default::default(),
    };
    harness.command(dial).expect("accepted");
    let agent = harness.ringing(AGENT);
    harness.is_named(agent, "5002");
    harness.answer_late(agent);
    assert!(harness.lines[&agent].ended);
    assert!(!harness.leg_commands().iter().any(|command| matches!(
        command,
        LegCommand::Invite { to: crate::sip::leg::Destination::Trunk { .. }, .. }
    )));
    harness.assert_empty();
}

#[test]
fn the_same_names_again_change_nothing() {
    let mut harness = Harness::new();
    let legs = harness.coached(Activity::Coach);
    harness.is_named(legs.1, "0170");
    harness.log.clear();
    harness.is_named(legs.1, "0170");
    harness.leg(LegEvent::ConnectedIdentity { leg: legs.1, names: Vec::new(), withheld: false });
    assert!(
        !harness
            .log
            .iter()
            .any(|output| matches!(output, super::super::Output::Fact(Fact::Call(_)))),
        "{:?}",
        harness.log
    );
}

#[test]
fn the_devices_own_phone_that_takes_a_leg_back_by_replaces_is_the_device() {
    let mut harness = Harness::new();
    let legs = harness.coached_with(Activity::Coach, Scope::Call);
    harness.is_named(legs.1, "anonymous");
    let back = harness.replaces(
        LegSource::Account(AGENT.into()),
        legs.1,
        Some(super::harness::sdp(4100, "0", "sendrecv")),
    );
    let call = harness.only_call();
    assert_eq!(
        (party(call, AGENT).state, party(call, AGENT).number.as_str()),
        (LegState::Established, "5001")
    );
    assert!(harness.hears(back, legs.2), "its coach goes on");
}

/// The agent's account calls the other one, whose phone answers: two legs of a switch that is about
/// to join them with others.
fn agent_calls_other(harness: &mut Harness) -> LegId {
    harness.incoming(
        LegSource::Account(AGENT.into()),
        "5002",
        Some(super::harness::sdp(4200, "0", "sendrecv")),
    );
    let other = harness.ringing(OTHER);
    harness.answer(other);
    other
}

#[test]
fn a_name_that_is_hearsay_is_worth_no_more_than_the_devices_own_leg() {
    // The switch joins the customer with its own call to the other agent, whose phone then goes on
    // to a stranger.
    let mut harness = Harness::new();
    let legs = harness.coached_with(Activity::Coach, Scope::Call);
    let other = agent_calls_other(&mut harness);
    harness.is_named(legs.1, "5002");
    assert!(harness.hears(legs.1, legs.2), "the whisper is the next agent's");
    harness.is_named(other, "0170");
    assert!(
        !harness.hears(legs.1, legs.2) && !harness.hears(legs.0, legs.2),
        "nobody knows who is there now"
    );
    harness.is_named(legs.1, "5002");
    assert!(!harness.hears(legs.1, legs.2), "said again, it is worth no more");

    // The other way round: the stranger is there before the name is.
    let mut harness = Harness::new();
    let legs = harness.coached_with(Activity::Coach, Scope::Call);
    let other = agent_calls_other(&mut harness);
    harness.is_named(other, "0170");
    harness.is_named(legs.1, "5002");
    assert!(!harness.hears(legs.1, legs.2) && !harness.hears(legs.0, legs.2));
}

#[test]
fn a_switch_that_calls_out_for_somebody_else_by_a_devices_account_has_no_coach_of_that_device() {
    for name in ["5001", "0170"] {
        let mut harness = Harness::new();
        let armed = Command::StartMonitoring {
            supervisor: SUPERVISOR.into(),
            target: OTHER.into(),
            activity: Activity::Coach,
            mode: Mode::AllCalls,
            scope: Scope::Agent,
            confirm_joins: false,
            agent_side_only: false,
        };
        harness.command(armed).expect("accepted");
        let caller = harness.incoming(
            LegSource::Account(OTHER.into()),
            "0123",
            Some(super::harness::sdp(4000, "0", "sendrecv")),
        );
        harness.is_named(caller, name);
        let customer = harness.lines.values().find(|line| line.outgoing).expect("called").leg;
        harness.answer(customer);
        assert_eq!(harness.find_ringing(SUPERVISOR), None, "{name}");
    }
}

fn told(harness: &mut Harness) -> Vec<(LegId, String)> {
    let commands = harness.leg_commands().into_iter();
    let told = commands.filter_map(|command| match command {
        LegCommand::Identify { leg, party } => Some((leg, party.number.to_string())),
        _ => None,
    });
    told.collect()
}

/// A customer calls by a trunk, and the agent answers: their legs.
fn customer_talks(harness: &mut Harness) -> (LegId, LegId) {
    let source = LegSource::Trunk("city".into());
    let customer =
        harness.incoming(source, "5001", Some(super::harness::sdp(4000, "0", "sendrecv")));
    let agent = harness.ringing(AGENT);
    harness.answer(agent);
    harness.log.clear();
    (customer, agent)
}

#[test]
fn a_customers_switch_that_names_another_has_connected_it_with_another() {
    let mut harness = Harness::new();
    let (customer, agent) = customer_talks(&mut harness);
    let before = harness.only_call().ani.clone();
    harness.is_named(customer, "0999");
    let call = harness.only_call();
    assert_eq!((call.ani.as_str(), call.parties[0].number.as_str()), ("0999", "0999"));
    assert_eq!(call.parties.len(), 2, "one party, with another number");
    assert_eq!(told(&mut harness), [(agent, "0999".to_owned())], "the agent's phone is told");
    harness.is_named(customer, "0999");
    assert_eq!(told(&mut harness), []);
    harness.is_named(customer, before.as_str());
    assert_eq!(harness.only_call().ani, before);
    assert_eq!(told(&mut harness), [(agent, before.to_string())]);
}

#[test]
fn what_a_customers_invite_or_answer_names_is_the_customer_in_other_words() {
    let mut harness = Harness::new();
    let source = LegSource::Trunk("city".into());
    let offer = Some(super::harness::sdp(4000, "0", "sendrecv"));
    let customer = harness.incoming(source, "5001", offer);
    harness.is_named(customer, "+4930999");
    let before = harness.only_call().ani.clone();
    let agent = harness.ringing(AGENT);
    harness.answer(agent);
    harness.is_named(customer, "+4930999");
    assert_eq!(harness.only_call().ani, before);

    let mut harness = Harness::new();
    let agent = harness.incoming(
        LegSource::Account(AGENT.into()),
        "0123",
        Some(super::harness::sdp(4000, "0", "sendrecv")),
    );
    let customer = harness.lines.values().find(|line| line.outgoing).expect("called").leg;
    harness.is_named(customer, "+49123");
    harness.answer(customer);
    harness.is_named(customer, "+49123");
    let number = |harness: &Harness| {
        let call = harness.only_call();
        let customer = call.parties.iter().find(|party| party.role == PartyRole::Customer);
        customer.expect("a customer").number.to_string()
    };
    assert_eq!(number(&harness), "0123");
    harness.log.clear();
    harness.is_named(customer, "+49124");
    assert_eq!(number(&harness), "+49124");
    assert_eq!(harness.only_call().ani.as_str(), "5001", "the agent has called");
    assert_eq!(told(&mut harness), [(agent, "+49124".to_owned())]);
}

#[test]
fn a_number_that_is_withheld_is_shown_and_told_to_nobody() {
    let mut harness = Harness::new();
    let (customer, _) = customer_talks(&mut harness);
    let names = vec!["0999".into()];
    harness.line(customer).party = Err("anonymous".into());
    harness.leg(LegEvent::ConnectedIdentity { leg: customer, names, withheld: true });
    let call = harness.only_call();
    assert_eq!((call.ani.as_str(), call.parties[0].number.as_str()), ("anonymous", "anonymous"));
    assert_eq!(told(&mut harness), []);
    let names = vec!["0999".into()];
    harness.leg(LegEvent::ConnectedIdentity { leg: customer, names, withheld: false });
    assert_eq!(harness.only_call().ani.as_str(), "anonymous", "it has been said in confidence");
}

#[test]
fn when_a_leg_is_handed_on_or_a_call_transferred_the_other_side_is_told() {
    let mut harness = Harness::new();
    let (customer, agent) = customer_talks(&mut harness);
    harness.is_named(agent, "0170");
    assert_eq!(told(&mut harness), [(customer, "0170".to_owned())]);
    harness.is_named(agent, "5002");
    assert_eq!(told(&mut harness), [(customer, "5002".to_owned())]);

    let mut harness = Harness::new();
    let (customer, _) = customer_talks(&mut harness);
    let step =
        TransferStep::SingleStep { destination: "5002".into(), user_data: Default::default() };
    let (device, call) = (AGENT.into(), harness.call_id());
    harness.command(Command::Transfer { device, call, step }).expect("accepted");
    let next = harness.ringing(OTHER);
    harness.answer(next);
    assert_eq!(told(&mut harness), [(customer, "5002".to_owned())]);
}

#[test]
fn the_caller_that_hands_its_leg_on_is_another_caller_and_nobody_vouches_for_it() {
    let mut harness = Harness::new();
    let identity = crate::sip::leg::PassedHeader { name: "Identity", value: b"signed".to_vec() };
    let source = LegSource::Trunk("city".into());
    let customer = harness.incoming_with(source, "5001", vec![identity]);
    let agent = harness.ringing(AGENT);
    harness.answer(agent);
    harness.is_named(customer, "0999");
    harness.log.clear();
    let step =
        TransferStep::SingleStep { destination: "5002".into(), user_data: Default::default() };
    let (device, call) = (AGENT.into(), harness.call_id());
    harness.command(Command::Transfer { device, call, step }).expect("accepted");
    let invited = harness.leg_commands().into_iter().find_map(|command| match command {
        LegCommand::Invite { from, passed, .. } => Some((from.number.to_string(), passed)),
        _ => None,
    });
    assert_eq!(invited, Some(("0999".to_owned(), Vec::new())));
}
