//! Devices behind a switch: where they are rung, how often, and who takes whose leg.

use super::harness::{AGENT, CUSTOMER, Harness, OTHER, SUPERVISOR, sdp};
use crate::model::{Activity, CallType, Command, LegState, Mode, PartyRole, Reason, Scope};
use crate::sip::b2bua::{B2buaConfig, RestoredCalls};
use crate::sip::leg::{Destination, LegCommand, LegId, LegSource};

/// The agents and their supervisor are behind the trunk "city".
fn behind() -> Harness {
    Harness::behind(B2buaConfig::default(), RestoredCalls::default())
}

fn city() -> LegSource {
    LegSource::Trunk("city".into())
}

fn offer() -> Option<Vec<u8>> {
    Some(sdp(4000, "0 8 101", "sendrecv"))
}

fn status(harness: &mut Harness, leg: LegId) -> Option<u16> {
    harness.leg_commands().into_iter().find_map(|command| match command {
        LegCommand::Reject { leg: of, status } if of == leg => Some(status),
        _ => None,
    })
}

/// A customer calls by the trunk, and the agent answers behind it: their legs.
fn talk(harness: &mut Harness) -> (LegId, LegId) {
    let customer = harness.incoming(city(), "5001", offer());
    let agent = harness.ringing(AGENT);
    harness.answer(agent);
    (customer, agent)
}

#[test]
fn a_call_of_the_switch_for_a_device_behind_it_rings_there_and_is_coached_from_there() {
    let mut harness = behind();
    let (customer, agent) = talk(&mut harness);
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    let table = harness.table(&[("c", customer), ("a", agent), ("s", supervisor)]);
    assert_eq!(table, "ca ac as sc sa");
    assert_eq!(harness.only_call().call_type, CallType::Inbound);
    harness.hangs_up(agent);
    harness.hangs_up(supervisor);
    harness.stop().expect("was armed");
    harness.assert_empty();
}

#[test]
fn a_device_behind_a_switch_hears_no_whisper_while_it_is_on_two_calls() {
    let mut harness = behind();
    let (customer, agent) = talk(&mut harness);
    harness.monitor(Activity::Coach, Mode::NextCall, Scope::Agent).expect("accepted");
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    assert!(harness.hears(agent, supervisor));
    // The switch may join the two, and say so a moment later.
    let second = harness.incoming(LegSource::Account(AGENT.into()), "0123", offer());
    assert!(harness.hears(agent, supervisor), "nobody has answered");
    let asked = harness.lines.values().filter(|line| line.outgoing).map(|line| line.leg).max();
    let asked = asked.expect("called");
    harness.answer(asked);
    assert!(!harness.hears(agent, supervisor) && !harness.hears(second, supervisor));
    assert!(harness.hears(supervisor, agent) && harness.hears(customer, agent));
    harness.hangs_up(second);
    assert!(harness.hears(agent, supervisor), "one call again");
}

#[test]
fn an_agent_behind_a_switch_calls_out_by_the_same_switch() {
    let mut harness = behind();
    let agent = harness.incoming(LegSource::Account(AGENT.into()), "0123", offer());
    let called = harness.leg_commands().into_iter().find_map(|command| match command {
        LegCommand::Invite { to: Destination::Trunk { name, number }, .. } => Some((name, number)),
        _ => None,
    });
    assert_eq!(called, Some(("city".to_owned(), "0123".into())));
    let customer = harness.lines.values().find(|line| line.outgoing).expect("called").leg;
    harness.answer(customer);
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    assert!(harness.hears(agent, supervisor) && !harness.hears(customer, supervisor));
    assert_eq!(harness.only_call().call_type, CallType::Outbound);
}

#[test]
fn what_comes_back_for_the_same_device_is_a_loop() {
    let mut harness = behind();
    harness.incoming(city(), "5001", offer());
    let ours = harness.ringing(AGENT);
    // With our token, through a switch that shows another caller.
    let back = harness.comes_back(city(), "0999", "5001", Some(ours));
    assert_eq!(status(&mut harness, back), Some(482));
    // And through one that hides all but the caller.
    let caller = harness.only_call().ani.clone();
    let back = harness.comes_back(city(), caller.as_str(), "5001", None);
    assert_eq!(status(&mut harness, back), Some(482));
    let other = harness.comes_back(city(), caller.as_str(), "5002", None);
    assert_eq!(status(&mut harness, other), None, "it is hunting");
}

#[test]
fn legs_of_devices_behind_a_trunk_are_among_the_calls_that_it_may_carry() {
    let mut harness = behind();
    for extension in [AGENT, OTHER] {
        harness.move_behind(extension, "a-law");
    }
    let caller = harness.customer_calls("5001");
    assert_eq!(status(&mut harness, caller), None);
    let second = harness.customer_calls("5002");
    assert_eq!(status(&mut harness, second), None);
    let third = harness.customer_calls("5002");
    assert_eq!(status(&mut harness, third), Some(503), "two, and no more");
    let out = harness.incoming(LegSource::Account(AGENT.into()), "7001", offer());
    assert_eq!(status(&mut harness, out), Some(503));
}

#[test]
fn a_switch_that_answers_in_another_name_has_not_rung_the_device() {
    for (name, is_coached) in [("5001", true), ("0170", false), ("anonymous", false)] {
        let mut harness = behind();
        harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
        harness.customer_calls("5001");
        let agent = harness.ringing(AGENT);
        harness.is_named(agent, name);
        harness.answer(agent);
        assert_eq!(harness.find_ringing(SUPERVISOR).is_some(), is_coached, "{name}");
    }
}

#[test]
fn whoever_takes_a_leg_by_replaces_is_there_from_then_on() {
    // The same device at another phone.
    let mut harness = behind();
    let legs = harness.coached_with(Activity::Coach, Scope::Call);
    let new = harness.replaces(LegSource::Account(AGENT.into()), legs.1, offer());
    assert!(harness.hears(new, legs.2), "the coach goes on");
    // Another device behind the switch: a transfer to it.
    let mut harness = behind();
    let legs = harness.coached_with(Activity::Coach, Scope::Agent);
    let new = harness.replaces(LegSource::Account(OTHER.into()), legs.1, offer());
    assert!(!harness.hears(new, legs.2), "scope Agent stays with the first");
    let call = harness.only_call();
    let party = |device: &str| call.parties.iter().rfind(|it| it.device == Some(device.into()));
    assert_eq!(party(AGENT).map(|party| party.state), Some(LegState::Released));
    assert_eq!(party(AGENT).and_then(|it| it.handed_on_to.clone()), Some("5002".into()));
    assert_eq!(party(OTHER).map(|party| party.state), Some(LegState::Established));
    // Somebody whom the switch does not call a device of ours.
    for scope in [Scope::Agent, Scope::Call] {
        let mut harness = behind();
        let legs = harness.coached_with(Activity::Coach, scope);
        let new = harness.replaces(city(), legs.1, offer());
        assert!(!harness.hears(new, legs.2) && !harness.hears(legs.0, legs.2));
        let call = harness.only_call();
        let stranger = call.parties.iter().rfind(|it| it.state == LegState::Established);
        assert_eq!(stranger.map(|party| party.role), Some(PartyRole::Customer));
    }
}

#[test]
fn a_leg_is_replaced_by_nobody_of_another_switch_and_no_supervisors_is_at_all() {
    let mut harness = behind();
    let legs = harness.coached_with(Activity::Coach, Scope::Call);
    for (source, leg) in [
        (LegSource::Trunk("either".into()), legs.1),
        (LegSource::Account(CUSTOMER.into()), legs.1),
        (city(), legs.2),
        (LegSource::Account(OTHER.into()), legs.2),
        (city(), legs.0),
    ] {
        let new = harness.replaces(source, leg, offer());
        assert_eq!(status(&mut harness, new), Some(603));
        assert!(harness.hears(legs.1, legs.2));
    }
}

#[test]
fn nobody_coaches_where_a_switch_may_hand_a_leg_on_without_a_word() {
    for at in [AGENT, SUPERVISOR] {
        let mut harness = behind();
        harness.move_behind(at, "mute");
        let refused = harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent);
        let refused = refused.expect_err("refused");
        assert_eq!(refused.reason, Reason::Forbidden);
        assert!(refused.to_string().contains("handed_on"), "{refused}");
        for activity in [Activity::ListenIn, Activity::BargeIn] {
            let mut harness = behind();
            harness.move_behind(at, "mute");
            let (customer, agent, supervisor) = harness.coached(activity);
            assert!(harness.hears(supervisor, agent));
            let (supervisor, call) = (SUPERVISOR.into(), harness.call_id());
            let activity = Activity::Coach;
            let switched = Command::SwitchMonitoring { supervisor, call, activity };
            let refused = harness.command(switched).expect_err("refused");
            assert_eq!(refused.reason, Reason::Forbidden);
            assert!(harness.hears(agent, customer));
        }
    }
}

#[test]
fn a_coach_that_follows_its_call_is_heard_by_no_agent_behind_a_switch_that_says_nothing() {
    let mut harness = behind();
    harness.move_behind(OTHER, "mute");
    let (customer, agent, supervisor) = harness.coached(Activity::Coach);
    harness.is_named(agent, "5002");
    assert!(harness.hears(agent, supervisor), "it is the first switch that says so");
    let mut harness = behind();
    harness.move_behind(OTHER, "mute");
    let legs = harness.coached(Activity::Coach);
    let step = crate::model::TransferStep::SingleStep {
        destination: "5002".into(),
        user_data: Default::default(),
    };
    let (device, call) = (AGENT.into(), harness.call_id());
    harness.command(Command::Transfer { device, call, step }).expect("accepted");
    let other = harness.ringing(OTHER);
    harness.answer(other);
    assert!(harness.hears(legs.2, other) && harness.hears(legs.0, other));
    assert!(!harness.hears(other, legs.2) && !harness.hears(legs.0, legs.2));
    assert_ne!(customer, other);
}
