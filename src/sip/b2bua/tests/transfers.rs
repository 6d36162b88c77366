//! Transfers, and what becomes of those who listen.

use super::house::{AGENT, BOSS, BOSS2, CUSTOMER, House, OTHER, sdp};
use crate::model::{
    Activity, Command, LegState, Mode, MonitorState, Reason, Refusal, Scope, TransferStep,
};
use crate::sip::b2bua::{B2buaConfig, RestoredCalls};
use crate::sip::leg::{LegCommand, LegEvent, LegId, LegSource};

fn transfer(house: &mut House, destination: &str) -> Result<(), Refusal> {
    let step = TransferStep::SingleStep { destination: destination.into() };
    let call = house.call_id();
    house.command(Command::Transfer { device: AGENT.into(), call, step })
}

fn rings(house: &mut House, leg: LegId) {
    house.leg(LegEvent::Progress { leg, status: 180, media: None });
}

fn refuses(house: &mut House, leg: LegId, status: u16) {
    house.leg(LegEvent::Refused { leg, status });
}

/// What the phone of this leg was told of the transfer it asked for.
fn told(house: &mut House, leg: LegId) -> Vec<u16> {
    let commands = house.leg_commands().into_iter();
    let told = commands.filter_map(|command| match command {
        LegCommand::TellReferrer { leg: to, status } if to == leg => Some(status),
        _ => None,
    });
    told.collect()
}

fn coached(house: &mut House, scope: Scope) -> (LegId, LegId, LegId) {
    house.coached_with(Activity::Coach, scope)
}

/// The agent transfers to the other one, whose phone is called.
fn transfer_to_other(house: &mut House) -> LegId {
    transfer(house, "5002").expect("accepted");
    house.ringing(OTHER)
}

#[test]
fn a_transferred_customer_talks_to_the_next_agent_and_the_first_is_free() {
    let mut house = House::new();
    let (customer, agent) = house.talk();
    house.log.clear();
    transfer(&mut house, "5002").expect("accepted");
    assert!(house.hears(customer, agent), "until somebody rings");
    let next = house.ringing(OTHER);
    let commands = house.leg_commands();
    let [LegCommand::Invite { from, .. }] = &commands[..] else { panic!("{commands:?}") };
    assert_eq!(from.number.as_str(), "7001", "he sees who calls");
    rings(&mut house, next);
    assert_eq!(house.state_of(AGENT), LegState::Released);
    house.answer(next);
    assert_eq!(house.table(&[("c", customer), ("a", agent), ("n", next)]), "cn nc");
    let commands = house.leg_commands();
    assert!(
        !commands
            .iter()
            .any(|command| matches!(command, LegCommand::Offer { leg, .. } if *leg == customer)),
        "the customer's leg is left alone: {commands:?}"
    );
    house.hangs_up(next);
    house.assert_empty();
}

#[test]
fn with_scope_agent_the_supervisor_is_out_in_the_step_in_which_the_agent_is() {
    let mut house = House::new();
    let (customer, agent, boss) = coached(&mut house, Scope::Agent);
    let next = transfer_to_other(&mut house);
    house.log.clear();
    rings(&mut house, next);
    assert!(house.lines[&agent].ended && house.lines[&boss].ended);
    house.answer(next);
    assert_eq!(house.table(&[("c", customer), ("n", next), ("s", boss)]), "cn nc");
    assert_eq!(house.monitors[BOSS].state, MonitorState::Armed);
}

#[test]
fn with_scope_agent_he_is_out_at_once_when_nobody_rings_before_the_answer() {
    let mut house = House::new();
    let (customer, _, boss) = coached(&mut house, Scope::Agent);
    let next = transfer_to_other(&mut house);
    house.answer(next);
    assert!(house.lines[&boss].ended);
    assert_eq!(house.table(&[("c", customer), ("n", next), ("s", boss)]), "cn nc");
}

#[test]
fn with_scope_call_the_whisper_moves_to_the_next_agent_and_never_to_the_customer() {
    let mut house = House::new();
    let (customer, agent, boss) = coached(&mut house, Scope::Call);
    let next = transfer_to_other(&mut house);
    rings(&mut house, next);
    let legs = [("c", customer), ("a", agent), ("n", next), ("s", boss)];
    assert_eq!(house.table(&legs), "sc", "he hears the customer and is heard by nobody");
    house.answer(next);
    assert_eq!(house.table(&legs), "cn nc ns sc sn");
    assert!(matches!(house.monitors[BOSS].state, MonitorState::Joined { .. }));
    house.hangs_up(customer);
    assert_eq!(house.monitors[BOSS].state, MonitorState::Armed);
}

#[test]
fn the_coach_follows_through_several_transfers() {
    let mut house = House::new();
    let (customer, _, boss) = coached(&mut house, Scope::Call);
    let next = transfer_to_other(&mut house);
    house.answer(next);
    let call = house.call_id();
    let back = TransferStep::SingleStep { destination: "5001".into() };
    house.command(Command::Transfer { device: OTHER.into(), call, step: back }).expect("accepted");
    let again = house.ringing(AGENT);
    rings(&mut house, again);
    house.answer(again);
    let legs = [("c", customer), ("a", again), ("s", boss)];
    assert_eq!(house.table(&legs), "ca ac as sc sa");
}

#[test]
fn transferred_out_to_the_trunk_the_supervisor_hears_both_and_whispers_to_nobody() {
    let mut house = House::new();
    let (customer, _, boss) = coached(&mut house, Scope::Call);
    transfer(&mut house, "0123").expect("accepted");
    let outside =
        house.lines.values().find(|line| line.party == Err("0123".into())).expect("called").leg;
    house.answer(outside);
    let legs = [("c", customer), ("o", outside), ("s", boss)];
    assert_eq!(house.table(&legs), "co oc sc so");
}

#[test]
fn the_next_agents_own_supervisor_is_brought_in_when_he_answers() {
    let mut house = House::new();
    let (customer, _, boss) = coached(&mut house, Scope::Agent);
    house
        .command(Command::StartMonitoring {
            supervisor: BOSS2.into(),
            target: OTHER.into(),
            activity: Activity::Coach,
            mode: Mode::NextCall,
            scope: Scope::Agent,
            confirm_joins: false,
            agent_side_only: false,
        })
        .expect("accepted");
    let next = transfer_to_other(&mut house);
    rings(&mut house, next);
    assert_eq!(house.find_ringing(BOSS2), None);
    house.answer(next);
    let second = house.ringing(BOSS2);
    house.answer(second);
    let legs = [("c", customer), ("n", next), ("s", boss), ("t", second)];
    assert_eq!(house.table(&legs), "cn nc nt tc tn");
}

#[test]
fn a_number_that_can_not_be_had_costs_nobody_the_call() {
    let mut house = House::new();
    let (customer, agent, boss) = coached(&mut house, Scope::Agent);
    for (destination, reason) in
        [("999", Reason::NotFound), ("5001", Reason::InvalidState), ("7001", Reason::InvalidState)]
    {
        let refused = transfer(&mut house, destination).expect_err(destination);
        assert_eq!(refused.reason, reason, "{destination}: {refused:?}");
    }
    transfer(&mut house, "5002").expect("accepted");
    let again = transfer(&mut house, "0123").expect_err("one at a time");
    assert_eq!(again.reason, Reason::InvalidState);
    let next = house.ringing(OTHER);
    refuses(&mut house, next, 486);
    assert_eq!(house.failures.last().expect("told").device, AGENT.into());
    assert_eq!(house.table(&[("c", customer), ("a", agent), ("s", boss)]), "ca ac as sc sa");
    transfer(&mut house, "5002").expect("he may try again");
}

#[test]
fn when_nobody_answers_whoever_transferred_is_called_back_once() {
    let mut house = House::new();
    let (customer, _, boss) = coached(&mut house, Scope::Call);
    let next = transfer_to_other(&mut house);
    rings(&mut house, next);
    refuses(&mut house, next, 408);
    assert_eq!(house.failures.last().expect("told").device, AGENT.into());
    let back = house.ringing(AGENT);
    rings(&mut house, back);
    house.answer(back);
    assert_eq!(house.table(&[("c", customer), ("a", back), ("s", boss)]), "ca ac as sc sa");

    let mut house = House::new();
    house.talk();
    let next = transfer_to_other(&mut house);
    rings(&mut house, next);
    refuses(&mut house, next, 486);
    let back = house.ringing(AGENT);
    refuses(&mut house, back, 486);
    house.assert_empty();
}

#[test]
fn whoever_declines_at_his_desktop_or_can_not_be_understood_gives_the_customer_back_too() {
    fn declines(house: &mut House, _: LegId) {
        let (device, call) = (OTHER.into(), house.call_id());
        house.command(Command::Hangup { device, call }).expect("accepted");
    }
    fn speaks_another_codec(house: &mut House, leg: LegId) {
        let media = sdp(6000, "18", "sendrecv");
        house.leg(LegEvent::Answered { leg, media });
    }
    let ways: [fn(&mut House, LegId); 2] = [declines, speaks_another_codec];
    for way in ways {
        for has_rung in [false, true] {
            let mut house = House::new();
            let (customer, agent, boss) = coached(&mut house, Scope::Call);
            let next = transfer_to_other(&mut house);
            if has_rung {
                rings(&mut house, next);
            }
            way(&mut house, next);
            assert_eq!(house.failures.last().expect("told").device, AGENT.into());
            let agent = if has_rung {
                let back = house.ringing(AGENT);
                house.answer(back);
                back
            } else {
                agent
            };
            assert_eq!(
                house.table(&[("c", customer), ("a", agent), ("s", boss)]),
                "ca ac as sc sa"
            );
        }
    }
}

#[test]
fn a_customer_who_hangs_up_meanwhile_ends_it_all() {
    for heard in [false, true] {
        let mut house = House::new();
        let (customer, ..) = coached(&mut house, Scope::Call);
        let next = transfer_to_other(&mut house);
        if heard {
            rings(&mut house, next);
        }
        house.hangs_up(customer);
        house.assert_empty();
    }
}

#[test]
fn an_agent_who_hangs_up_meanwhile_leaves_the_customer_to_the_next() {
    let mut house = House::new();
    let (customer, agent, boss) = coached(&mut house, Scope::Call);
    transfer(&mut house, "5002").expect("accepted");
    house.hangs_up(agent);
    let next = house.ringing(OTHER);
    assert_eq!(house.table(&[("c", customer), ("s", boss)]), "sc");
    house.answer(next);
    assert_eq!(house.table(&[("c", customer), ("n", next), ("s", boss)]), "cn nc ns sc sn");
}

#[test]
fn a_phone_that_asks_by_refer_is_told_how_it_goes() {
    let mut house = House::new();
    let (customer, agent) = house.talk();
    house.leg(LegEvent::Referred { leg: agent, to: "999".into(), replaces: None });
    assert_eq!(told(&mut house, agent), [404]);
    house.leg(LegEvent::Referred { leg: agent, to: "5002".into(), replaces: None });
    assert!(told(&mut house, agent).is_empty());
    let next = house.ringing(OTHER);
    refuses(&mut house, next, 603);
    assert_eq!(told(&mut house, agent), [603]);
    house.leg(LegEvent::Referred { leg: agent, to: "5002".into(), replaces: None });
    let next = house.ringing(OTHER);
    house.answer(next);
    assert_eq!(told(&mut house, agent), [200]);
    assert_eq!(house.table(&[("c", customer), ("a", agent), ("n", next)]), "cn nc");
}

#[test]
fn who_may_not_transfer_is_told_so_and_nothing_happens() {
    let mut house = House::new();
    let (customer, _, boss) = coached(&mut house, Scope::Call);
    for (leg, status) in [(customer, 403), (boss, 603)] {
        house.log.clear();
        house.leg(LegEvent::Referred { leg, to: "5002".into(), replaces: None });
        assert_eq!(told(&mut house, leg), [status]);
        assert_eq!(house.find_ringing(OTHER), None);
    }
    let mut house = House::new();
    house.customer_calls("5001");
    house.ringing(AGENT);
    assert_eq!(
        transfer(&mut house, "5002").expect_err("not answered yet").reason,
        Reason::InvalidState
    );
    let call = house.call_id();
    let consult = TransferStep::Initiate { destination: "5002".into() };
    let asked = house.command(Command::Transfer { device: AGENT.into(), call, step: consult });
    assert_eq!(asked.expect_err("nor to be asked about").reason, Reason::InvalidState);
}

#[test]
fn without_a_free_port_the_call_stays_as_it_is() {
    let mut house = House::with(B2buaConfig::default(), RestoredCalls::default());
    let (customer, agent) = house.talk();
    house.b2bua.environment.free = 0;
    assert_eq!(transfer(&mut house, "5002").expect_err("no port").reason, Reason::Unavailable);
    assert_eq!(house.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn a_phone_that_rings_with_early_media_does_not_hear_the_supervisor_who_barges_in() {
    let mut house = House::new();
    let (customer, _, boss) = house.coached_with(Activity::BargeIn, Scope::Call);
    assert!(house.hears(customer, boss));
    let call = house.call_id();
    let step = TransferStep::SingleStep { destination: "5002".into() };
    let device = AGENT.into();
    house.command(Command::Conference { device, call, step }).expect("accepted");
    let next = house.ringing(OTHER);
    house.leg(LegEvent::Progress {
        leg: next,
        status: 183,
        media: Some(sdp(4010, "0", "sendrecv")),
    });
    assert!(!house.hears(next, boss));
    house.answer(next);
    assert!(house.hears(next, boss));
}

#[test]
fn early_media_of_the_next_reaches_the_customer() {
    let mut house = House::new();
    let customer = house.incoming(
        LegSource::Account(CUSTOMER.into()),
        "5001",
        Some(sdp(4000, "0", "sendrecv")),
    );
    let agent = house.ringing(AGENT);
    house.answer(agent);
    transfer(&mut house, "0123").expect("accepted");
    let outside =
        house.lines.values().find(|line| line.party == Err("0123".into())).expect("called").leg;
    house.leg(LegEvent::Progress {
        leg: outside,
        status: 183,
        media: Some(sdp(6000, "0", "sendrecv")),
    });
    assert!(house.hears(customer, outside) && !house.hears(customer, agent));
}
