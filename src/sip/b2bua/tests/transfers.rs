//! Transfers, and what becomes of those who listen.

use super::harness::{AGENT, CUSTOMER, Harness, OTHER, SUPERVISOR, SUPERVISOR2, sdp};
use crate::model::{
    Activity, Command, LegState, Mode, MonitorState, Reason, Refusal, Scope, TransferStep,
};
use crate::sip::b2bua::{B2buaConfig, RestoredCalls};
use crate::sip::leg::{LegCommand, LegEvent, LegId, LegSource};

fn transfer(harness: &mut Harness, destination: &str) -> Result<(), Refusal> {
    let step =
        TransferStep::SingleStep { destination: destination.into(), user_data: Default::default() };
    let call = harness.call_id();
    harness.command(Command::Transfer { device: AGENT.into(), call, step })
}

fn rings(harness: &mut Harness, leg: LegId) {
    harness.leg(LegEvent::Progress { leg, status: 180, media: None });
}

fn refuses(harness: &mut Harness, leg: LegId, status: u16) {
    harness.leg(LegEvent::Refused { leg, status });
}

/// What the phone of this leg was told of the transfer it asked for.
fn told(harness: &mut Harness, leg: LegId) -> Vec<u16> {
    let commands = harness.leg_commands().into_iter();
    let told = commands.filter_map(|command| match command {
        LegCommand::TellReferrer { leg: to, status } if to == leg => Some(status),
        _ => None,
    });
    told.collect()
}

fn coached(harness: &mut Harness, scope: Scope) -> (LegId, LegId, LegId) {
    harness.coached_with(Activity::Coach, scope)
}

/// The agent transfers to the other one, whose phone is called.
fn transfer_to_other(harness: &mut Harness) -> LegId {
    transfer(harness, "5002").expect("accepted");
    harness.ringing(OTHER)
}

#[test]
fn a_transferred_customer_talks_to_the_next_agent_and_the_first_is_free() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    harness.log.clear();
    transfer(&mut harness, "5002").expect("accepted");
    assert!(harness.hears(customer, agent), "until somebody rings");
    let next = harness.ringing(OTHER);
    let commands = harness.leg_commands();
    let [LegCommand::Invite { from, .. }] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!(from.number.as_str(), "7001", "he sees who calls");
    rings(&mut harness, next);
    assert_eq!(harness.state_of(AGENT), LegState::Released);
    harness.answer(next);
    assert_eq!(harness.table(&[("c", customer), ("a", agent), ("n", next)]), "cn nc");
    let commands = harness.leg_commands();
    assert!(
        !commands
            .iter()
            .any(|command| matches!(command, LegCommand::Offer { leg, .. } if *leg == customer)),
        "the customer's leg is left alone: {commands:?}"
    );
    harness.hangs_up(next);
    harness.assert_empty();
}

#[test]
fn with_scope_agent_the_supervisor_is_out_in_the_step_in_which_the_agent_is() {
    let mut harness = Harness::new();
    let (customer, agent, supervisor) = coached(&mut harness, Scope::Agent);
    let next = transfer_to_other(&mut harness);
    harness.log.clear();
    rings(&mut harness, next);
    assert!(harness.lines[&agent].ended && harness.lines[&supervisor].ended);
    harness.answer(next);
    assert_eq!(harness.table(&[("c", customer), ("n", next), ("s", supervisor)]), "cn nc");
    assert_eq!(harness.monitors[SUPERVISOR].state, MonitorState::Armed);
}

#[test]
fn with_scope_agent_he_is_out_at_once_when_nobody_rings_before_the_answer() {
    let mut harness = Harness::new();
    let (customer, _, supervisor) = coached(&mut harness, Scope::Agent);
    let next = transfer_to_other(&mut harness);
    harness.answer(next);
    assert!(harness.lines[&supervisor].ended);
    assert_eq!(harness.table(&[("c", customer), ("n", next), ("s", supervisor)]), "cn nc");
}

#[test]
fn with_scope_call_the_whisper_moves_to_the_next_agent_and_never_to_the_customer() {
    let mut harness = Harness::new();
    let (customer, agent, supervisor) = coached(&mut harness, Scope::Call);
    let next = transfer_to_other(&mut harness);
    rings(&mut harness, next);
    let legs = [("c", customer), ("a", agent), ("n", next), ("s", supervisor)];
    assert_eq!(harness.table(&legs), "sc", "he hears the customer and is heard by nobody");
    harness.answer(next);
    assert_eq!(harness.table(&legs), "cn nc ns sc sn");
    assert!(matches!(harness.monitors[SUPERVISOR].state, MonitorState::Joined { .. }));
    harness.hangs_up(customer);
    assert_eq!(harness.monitors[SUPERVISOR].state, MonitorState::Armed);
}

#[test]
fn the_coach_follows_through_several_transfers() {
    let mut harness = Harness::new();
    let (customer, _, supervisor) = coached(&mut harness, Scope::Call);
    let next = transfer_to_other(&mut harness);
    harness.answer(next);
    let call = harness.call_id();
    let back =
        TransferStep::SingleStep { destination: "5001".into(), user_data: Default::default() };
    harness
        .command(Command::Transfer { device: OTHER.into(), call, step: back })
        .expect("accepted");
    let again = harness.ringing(AGENT);
    rings(&mut harness, again);
    harness.answer(again);
    let legs = [("c", customer), ("a", again), ("s", supervisor)];
    assert_eq!(harness.table(&legs), "ca ac as sc sa");
}

#[test]
fn transferred_out_to_the_trunk_the_supervisor_hears_both_and_whispers_to_nobody() {
    let mut harness = Harness::new();
    let (customer, _, supervisor) = coached(&mut harness, Scope::Call);
    transfer(&mut harness, "0123").expect("accepted");
    let outside =
        harness.lines.values().find(|line| line.party == Err("0123".into())).expect("called").leg;
    harness.answer(outside);
    let legs = [("c", customer), ("o", outside), ("s", supervisor)];
    assert_eq!(harness.table(&legs), "co oc sc so");
}

#[test]
fn the_next_agents_own_supervisor_is_brought_in_when_he_answers() {
    let mut harness = Harness::new();
    let (customer, _, supervisor) = coached(&mut harness, Scope::Agent);
    harness
        .command(Command::StartMonitoring {
            supervisor: SUPERVISOR2.into(),
            target: OTHER.into(),
            activity: Activity::Coach,
            mode: Mode::NextCall,
            scope: Scope::Agent,
            confirm_joins: false,
            agent_side_only: false,
        })
        .expect("accepted");
    let next = transfer_to_other(&mut harness);
    rings(&mut harness, next);
    assert_eq!(harness.find_ringing(SUPERVISOR2), None);
    harness.answer(next);
    let second = harness.ringing(SUPERVISOR2);
    harness.answer(second);
    let legs = [("c", customer), ("n", next), ("s", supervisor), ("t", second)];
    assert_eq!(harness.table(&legs), "cn nc nt tc tn");
}

#[test]
fn a_number_that_can_not_be_had_costs_nobody_the_call() {
    let mut harness = Harness::new();
    let (customer, agent, supervisor) = coached(&mut harness, Scope::Agent);
    for (destination, reason) in
        [("999", Reason::NotFound), ("5001", Reason::InvalidState), ("7001", Reason::InvalidState)]
    {
        let refused = transfer(&mut harness, destination).expect_err(destination);
        assert_eq!(refused.reason, reason, "{destination}: {refused:?}");
    }
    transfer(&mut harness, "5002").expect("accepted");
    let again = transfer(&mut harness, "0123").expect_err("one at a time");
    assert_eq!(again.reason, Reason::InvalidState);
    let next = harness.ringing(OTHER);
    refuses(&mut harness, next, 486);
    assert_eq!(harness.failures.last().expect("told").device, AGENT.into());
    assert_eq!(
        harness.table(&[("c", customer), ("a", agent), ("s", supervisor)]),
        "ca ac as sc sa"
    );
    transfer(&mut harness, "5002").expect("he may try again");
}

#[test]
fn when_nobody_answers_whoever_transferred_is_called_back_once() {
    let mut harness = Harness::new();
    let (customer, _, supervisor) = coached(&mut harness, Scope::Call);
    let next = transfer_to_other(&mut harness);
    rings(&mut harness, next);
    refuses(&mut harness, next, 408);
    assert_eq!(harness.failures.last().expect("told").device, AGENT.into());
    let back = harness.ringing(AGENT);
    rings(&mut harness, back);
    harness.answer(back);
    assert_eq!(harness.table(&[("c", customer), ("a", back), ("s", supervisor)]), "ca ac as sc sa");

    let mut harness = Harness::new();
    harness.talk();
    let next = transfer_to_other(&mut harness);
    rings(&mut harness, next);
    refuses(&mut harness, next, 486);
    let back = harness.ringing(AGENT);
    refuses(&mut harness, back, 486);
    harness.assert_empty();
}

#[test]
fn whoever_declines_at_his_desktop_or_can_not_be_understood_gives_the_customer_back_too() {
    fn declines(harness: &mut Harness, _: LegId) {
        let (device, call) = (OTHER.into(), harness.call_id());
        harness.command(Command::Hangup { device, call }).expect("accepted");
    }
    fn speaks_another_codec(harness: &mut Harness, leg: LegId) {
        let media = sdp(6000, "18", "sendrecv");
        harness.leg(LegEvent::Answered { leg, media });
    }
    let ways: [fn(&mut Harness, LegId); 2] = [declines, speaks_another_codec];
    for way in ways {
        for has_rung in [false, true] {
            let mut harness = Harness::new();
            let (customer, agent, supervisor) = coached(&mut harness, Scope::Call);
            let next = transfer_to_other(&mut harness);
            if has_rung {
                rings(&mut harness, next);
            }
            way(&mut harness, next);
            assert_eq!(harness.failures.last().expect("told").device, AGENT.into());
            let agent = if has_rung {
                let back = harness.ringing(AGENT);
                harness.answer(back);
                back
            } else {
                agent
            };
            assert_eq!(
                harness.table(&[("c", customer), ("a", agent), ("s", supervisor)]),
                "ca ac as sc sa"
            );
        }
    }
}

#[test]
fn a_customer_who_hangs_up_meanwhile_ends_it_all() {
    for heard in [false, true] {
        let mut harness = Harness::new();
        let (customer, ..) = coached(&mut harness, Scope::Call);
        let next = transfer_to_other(&mut harness);
        if heard {
            rings(&mut harness, next);
        }
        harness.hangs_up(customer);
        harness.assert_empty();
    }
}

#[test]
fn an_agent_who_hangs_up_meanwhile_leaves_the_customer_to_the_next() {
    let mut harness = Harness::new();
    let (customer, agent, supervisor) = coached(&mut harness, Scope::Call);
    transfer(&mut harness, "5002").expect("accepted");
    harness.hangs_up(agent);
    let next = harness.ringing(OTHER);
    assert_eq!(harness.table(&[("c", customer), ("s", supervisor)]), "sc");
    harness.answer(next);
    assert_eq!(harness.table(&[("c", customer), ("n", next), ("s", supervisor)]), "cn nc ns sc sn");
}

#[test]
fn a_phone_that_asks_by_refer_is_told_how_it_goes() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    harness.leg(LegEvent::Referred {
        leg: agent,
        to: "999".into(),
        replaces: None,
        is_secure: false,
    });
    assert_eq!(told(&mut harness, agent), [404]);
    harness.leg(LegEvent::Referred {
        leg: agent,
        to: "5002".into(),
        replaces: None,
        is_secure: false,
    });
    assert!(told(&mut harness, agent).is_empty());
    let next = harness.ringing(OTHER);
    refuses(&mut harness, next, 603);
    assert_eq!(told(&mut harness, agent), [603]);
    harness.leg(LegEvent::Referred {
        leg: agent,
        to: "5002".into(),
        replaces: None,
        is_secure: false,
    });
    let next = harness.ringing(OTHER);
    harness.answer(next);
    assert_eq!(told(&mut harness, agent), [200]);
    assert_eq!(harness.table(&[("c", customer), ("a", agent), ("n", next)]), "cn nc");
}

#[test]
fn who_may_not_transfer_is_told_so_and_nothing_happens() {
    let mut harness = Harness::new();
    let (customer, _, supervisor) = coached(&mut harness, Scope::Call);
    for (leg, status) in [(customer, 403), (supervisor, 603)] {
        harness.log.clear();
        harness.leg(LegEvent::Referred {
            leg,
            to: "5002".into(),
            replaces: None,
            is_secure: false,
        });
        assert_eq!(told(&mut harness, leg), [status]);
        assert_eq!(harness.find_ringing(OTHER), None);
    }
    let mut harness = Harness::new();
    harness.customer_calls("5001");
    harness.ringing(AGENT);
    assert_eq!(
        transfer(&mut harness, "5002").expect_err("not answered yet").reason,
        Reason::InvalidState
    );
    let call = harness.call_id();
    let consult =
        TransferStep::Initiate { destination: "5002".into(), user_data: Default::default() };
    let asked = harness.command(Command::Transfer { device: AGENT.into(), call, step: consult });
    assert_eq!(asked.expect_err("nor to be asked about").reason, Reason::InvalidState);
}

#[test]
fn without_a_free_port_the_call_stays_as_it_is() {
    let mut harness = Harness::with(B2buaConfig::default(), RestoredCalls::default());
    let (customer, agent) = harness.talk();
    harness.b2bua.environment.free = 0;
    assert_eq!(transfer(&mut harness, "5002").expect_err("no port").reason, Reason::Unavailable);
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn a_phone_that_rings_with_early_media_does_not_hear_the_supervisor_who_barges_in() {
    let mut harness = Harness::new();
    let (customer, _, supervisor) = harness.coached_with(Activity::BargeIn, Scope::Call);
    assert!(harness.hears(customer, supervisor));
    let call = harness.call_id();
    let step =
        TransferStep::SingleStep { destination: "5002".into(), user_data: Default::default() };
    let device = AGENT.into();
    harness.command(Command::Conference { device, call, step }).expect("accepted");
    let next = harness.ringing(OTHER);
    harness.leg(LegEvent::Progress {
        leg: next,
        status: 183,
        media: Some(sdp(4010, "0", "sendrecv")),
    });
    assert!(!harness.hears(next, supervisor));
    harness.answer(next);
    assert!(harness.hears(next, supervisor));
}

#[test]
fn early_media_of_the_next_reaches_the_customer() {
    let mut harness = Harness::new();
    let customer = harness.incoming(
        LegSource::Account(CUSTOMER.into()),
        "5001",
        Some(sdp(4000, "0", "sendrecv")),
    );
    let agent = harness.ringing(AGENT);
    harness.answer(agent);
    transfer(&mut harness, "0123").expect("accepted");
    let outside =
        harness.lines.values().find(|line| line.party == Err("0123".into())).expect("called").leg;
    harness.leg(LegEvent::Progress {
        leg: outside,
        status: 183,
        media: Some(sdp(6000, "0", "sendrecv")),
    });
    assert!(harness.hears(customer, outside) && !harness.hears(customer, agent));
}
