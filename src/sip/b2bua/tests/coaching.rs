//! The life of a monitor, seen from the phones.

use super::house::{AGENT, BOSS, BOSS2, CUSTOMER, House, OTHER, sdp};
use crate::media::{LeakReason, MediaEvent};
use crate::model::{
    Activity, CallId, Command, LegState, Mode, MonitorState, Reason, Scope, TransferStep,
};
use crate::sip::b2bua::{B2buaConfig, Output, RestoredCalls};
use crate::sip::leg::{LegCommand, LegEvent, LegId, LegSource};
use crate::supervision;
use std::time::Duration;

const COACH: &str = "ca ac as sc sa";
const LISTEN: &str = "ca ac sc sa";
const BARGE: &str = "ca cs ac as sc sa";

fn table(house: &House, (customer, agent, boss): (LegId, LegId, LegId)) -> String {
    house.table(&[("c", customer), ("a", agent), ("s", boss)])
}

fn switch(call: CallId, activity: Activity) -> Command {
    Command::SwitchMonitoring { supervisor: BOSS.into(), call, activity }
}

fn armed(house: &House) -> bool {
    house.monitors.get(BOSS).is_some_and(|monitor| monitor.state == MonitorState::Armed)
}

#[test]
fn a_monitor_of_agents_only_hears_no_customer_whatever_he_does_and_live() {
    for activity in [Activity::ListenIn, Activity::Coach, Activity::BargeIn] {
        let mut house = House::new();
        let (customer, agent, boss) = house.coached(activity);
        let legs = [("c", customer), ("a", agent), ("s", boss)];
        assert!(house.hears(boss, customer));
        let ask = |agent_side_only| Command::StartMonitoring {
            supervisor: BOSS.into(),
            target: AGENT.into(),
            activity,
            mode: Mode::AllCalls,
            scope: Scope::Call,
            confirm_joins: false,
            agent_side_only,
        };
        house.command(ask(true)).expect("accepted");
        let expected = match activity {
            Activity::ListenIn => "ca ac sa",
            Activity::Coach | Activity::BargeIn => "ca ac as sa",
        };
        assert_eq!(house.table(&legs), expected, "{activity}");
        house.hangs_up(customer);
        let (customer, agent) = house.talk();
        let boss = house.ringing(BOSS);
        house.answer(boss);
        let legs = [("c", customer), ("a", agent), ("s", boss)];
        assert_eq!(house.table(&legs), expected, "from the first packet on");
        house.command(ask(false)).expect("accepted");
        assert!(house.hears(boss, customer));
    }
}

#[test]
fn the_supervisor_is_called_when_the_agent_answers_not_while_it_rings() {
    let mut house = House::new();
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    house.customer_calls("5001");
    assert_eq!(house.find_ringing(BOSS), None);
    let agent = house.ringing(AGENT);
    house.answer(agent);
    house.ringing(BOSS);
}

#[test]
fn his_phone_is_asked_to_answer_by_itself_and_shows_whom_he_coaches() {
    let mut house = House::new();
    house.talk();
    house.log.clear();
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    let commands = house.leg_commands();
    let [LegCommand::Invite { from, auto_answer, .. }] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert!(auto_answer);
    assert_eq!((from.number.as_str(), from.display.as_str()), ("5001", "Coach 5001"));
}

#[test]
fn nobody_hears_the_supervisor_and_he_hears_nobody_until_he_has_answered() {
    let mut house = House::new();
    let (customer, agent) = house.talk();
    house.monitor(Activity::BargeIn, Mode::AllCalls, Scope::Agent).expect("accepted");
    let boss = house.ringing(BOSS);
    house.leg(LegEvent::Progress {
        leg: boss,
        status: 183,
        media: Some(sdp(6000, "0", "sendrecv")),
    });
    assert_eq!(table(&house, (customer, agent, boss)), "ca ac");
    house.answer(boss);
    assert_eq!(table(&house, (customer, agent, boss)), BARGE);
}

#[test]
fn each_activity_has_its_table_and_changes_live() {
    for (activity, expected) in
        [(Activity::Coach, COACH), (Activity::ListenIn, LISTEN), (Activity::BargeIn, BARGE)]
    {
        let mut house = House::new();
        let legs = house.coached(activity);
        assert_eq!(table(&house, legs), expected);
    }
    let mut house = House::new();
    let legs = house.coached(Activity::Coach);
    house.log.clear();
    for (activity, expected) in
        [(Activity::BargeIn, BARGE), (Activity::ListenIn, LISTEN), (Activity::Coach, COACH)]
    {
        house.command(switch(house.call_id(), activity)).expect("accepted");
        assert_eq!(table(&house, legs), expected);
    }
    assert!(house.leg_commands().is_empty(), "no phone is called again");
}

#[test]
fn in_doubt_about_the_agents_leg_the_whisper_reaches_nobody() {
    let mut house = House::new();
    let legs = house.coached(Activity::Coach);
    house.leg(LegEvent::Offered { leg: legs.1, media: None });
    assert_eq!(table(&house, legs), LISTEN);
    house.leg(LegEvent::Confirmed { leg: legs.1, media: Some(sdp(5002, "0", "sendrecv")) });
    assert_eq!(table(&house, legs), COACH);
}

#[test]
fn after_a_leak_was_caught_the_supervisor_is_heard_by_nobody_on_that_call() {
    let mut house = House::new();
    let legs = house.coached(Activity::Coach);
    let call = house.lines[&legs.0].call.expect("opened");
    house.media(MediaEvent::LeakGuard { call, leg: legs.0, reason: LeakReason::NotPermitted });
    assert_eq!(table(&house, legs), LISTEN);
    house.command(switch(house.call_id(), Activity::BargeIn)).expect("accepted");
    assert_eq!(table(&house, legs), LISTEN);
}

#[test]
fn a_caught_leak_is_reported_once_to_each_supervisor_of_that_call() {
    let mut house = House::new();
    let legs = house.coached(Activity::Coach);
    let call = house.lines[&legs.0].call.expect("opened");
    for leg in [legs.0, legs.1] {
        house.media(MediaEvent::LeakGuard { call, leg, reason: LeakReason::NotPermitted });
    }
    assert_eq!(house.failures.len(), 1);
    let failure = &house.failures[0];
    assert_eq!((&failure.device, &failure.call), (&BOSS.into(), &Some(house.call_id())));
    assert_eq!(failure.refusal.reason, Reason::Internal);
}

#[test]
fn a_probe_of_a_silent_phone_leaves_the_whisper_alone() {
    let mut house = House::new();
    let legs = house.coached(Activity::Coach);
    house.media(MediaEvent::Inactive { leg: legs.1 });
    assert!(house.lines[&legs.1].offered);
    assert_eq!(table(&house, legs), COACH);
}

#[test]
fn on_hold_the_whisper_keeps_flowing_and_he_hears_the_held_customer() {
    let mut house = House::new();
    let legs = house.coached(Activity::Coach);
    house.command(Command::Hold { device: AGENT.into(), call: house.call_id() }).expect("accepted");
    assert_eq!(table(&house, legs), "as sc sa");

    let config = B2buaConfig { monitor_party_on_hold: false, ..B2buaConfig::default() };
    let mut house = House::with(config, RestoredCalls::default());
    let legs = house.coached(Activity::Coach);
    house.command(Command::Hold { device: AGENT.into(), call: house.call_id() }).expect("accepted");
    assert_eq!(table(&house, legs), "as sa");
}

#[test]
fn a_held_customer_does_not_hear_who_barges_in_and_hears_him_again_when_retrieved() {
    let mut house = House::new();
    let legs = house.coached(Activity::BargeIn);
    let (device, call) = (AGENT, house.call_id());
    let hold = |call: &CallId| Command::Hold { device: device.into(), call: call.clone() };
    let retrieve = |call: &CallId| Command::Retrieve { device: device.into(), call: call.clone() };
    house.command(hold(&call)).expect("accepted");
    assert_eq!(table(&house, legs), "as sc sa");
    house.command(retrieve(&call)).expect("accepted");
    assert_eq!(table(&house, legs), BARGE);

    house.command(switch(call.clone(), Activity::Coach)).expect("accepted");
    house.command(hold(&call)).expect("accepted");
    house.command(switch(call.clone(), Activity::BargeIn)).expect("accepted");
    assert_eq!(table(&house, legs), "as sc sa", "nor does he when the hold came first");
}

#[test]
fn an_agent_who_holds_with_his_phone_keeps_the_barging_supervisor_from_the_customer() {
    for direction in ["sendonly", "inactive"] {
        let mut house = House::new();
        let legs = house.coached(Activity::BargeIn);
        let offered =
            |direction| LegEvent::Offered { leg: legs.1, media: Some(sdp(5002, "0", direction)) };
        house.leg(offered(direction));
        assert!(!house.hears(legs.0, legs.2), "{direction}");
        house.leg(offered("sendrecv"));
        assert_eq!(table(&house, legs), BARGE);
    }
}

#[test]
fn next_call_ends_with_that_call() {
    let mut house = House::new();
    house.monitor(Activity::Coach, Mode::NextCall, Scope::Call).expect("accepted");
    let (customer, _) = house.talk();
    let boss = house.ringing(BOSS);
    house.answer(boss);
    house.hangs_up(customer);
    assert!(house.monitors.is_empty() && house.kept.is_empty());
    house.assert_empty();
}

#[test]
fn all_calls_goes_back_to_armed_with_the_activity_first_asked_for() {
    let mut house = House::new();
    let (customer, _, _) = house.coached(Activity::Coach);
    house.command(switch(house.call_id(), Activity::BargeIn)).expect("accepted");
    house.hangs_up(customer);
    assert!(armed(&house));
    let (customer, agent) = house.talk();
    let boss = house.ringing(BOSS);
    house.answer(boss);
    assert_eq!(table(&house, (customer, agent, boss)), COACH);
}

#[test]
fn a_supervisor_who_hangs_up_leaves_the_call_to_the_others() {
    let mut house = House::new();
    let (customer, agent, boss) = house.coached(Activity::Coach);
    house.hangs_up(boss);
    assert_eq!(table(&house, (customer, agent, boss)), "ca ac");
    assert!(armed(&house));
    assert_eq!(house.state_of(BOSS), LegState::Released);
    assert_eq!(house.find_ringing(BOSS), None, "not called again for this call");
}

#[test]
fn a_supervisor_releases_his_leg_by_command() {
    let mut house = House::new();
    let legs = house.coached(Activity::BargeIn);
    house
        .command(Command::Hangup { device: BOSS.into(), call: house.call_id() })
        .expect("accepted");
    assert_eq!(table(&house, legs), "ca ac");
    assert!(armed(&house));
}

#[test]
fn busy_reject_no_answer_and_out_of_reach_are_told_and_the_monitor_stays_armed() {
    for status in [486, 603, 408, 480] {
        let mut house = House::new();
        house.talk();
        house.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
        let boss = house.ringing(BOSS);
        house.leg(LegEvent::Refused { leg: boss, status });
        assert_eq!(house.failures.len(), 1, "{status}");
        assert_eq!(house.failures[0].device, BOSS.into());
        assert!(armed(&house), "{status}");
    }
}

#[test]
fn a_phone_that_rings_too_long_is_released() {
    let mut house = House::new();
    house.talk();
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    let boss = house.ringing(BOSS);
    house.log.clear();
    house.wait(Duration::from_secs(20));
    assert_eq!(house.leg_commands(), [LegCommand::Hangup { leg: boss, reason: None }]);
    assert!(armed(&house));
    assert_eq!(house.failures.len(), 1);
}

#[test]
fn an_unregistered_supervisor_is_told_and_stays_armed() {
    let mut house = House::new();
    house.leg(LegEvent::Registered { device: BOSS.into(), registered: false });
    house.talk();
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    assert_eq!(house.failures.len(), 1);
    assert!(armed(&house));
}

#[test]
fn cancelling_releases_the_leg_and_there_is_nothing_to_cancel_twice() {
    let mut house = House::new();
    let legs = house.coached(Activity::Coach);
    house.log.clear();
    house.stop().expect("accepted");
    assert_eq!(house.leg_commands(), [LegCommand::Hangup { leg: legs.2, reason: None }]);
    assert_eq!(table(&house, legs), "ca ac");
    assert!(house.monitors.is_empty());
    assert_eq!(house.stop().expect_err("nothing").reason, Reason::InvalidState);
}

#[test]
fn asking_again_changes_the_activity_without_a_new_call() {
    let mut house = House::new();
    let legs = house.coached(Activity::Coach);
    house.log.clear();
    house.monitor(Activity::ListenIn, Mode::AllCalls, Scope::Agent).expect("accepted");
    assert_eq!(table(&house, legs), LISTEN);
    assert!(house.leg_commands().is_empty());
}

#[test]
fn a_second_supervisor_of_the_same_device_is_refused() {
    let mut house = House::new();
    house.coached(Activity::Coach);
    let refusal = house
        .command(Command::StartMonitoring {
            supervisor: BOSS2.into(),
            target: AGENT.into(),
            activity: Activity::ListenIn,
            mode: Mode::AllCalls,
            scope: Scope::Call,
            confirm_joins: false,
            agent_side_only: false,
        })
        .expect_err("in use");
    assert_eq!(refusal.reason, Reason::InUse);
}

#[test]
fn when_the_agent_leaves_the_supervisor_hears_nothing_that_follows() {
    let mut house = House::new();
    let (customer, agent) = house.talk();
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    let boss = house.ringing(BOSS);
    house.answer(boss);
    house.hangs_up(agent);
    assert!(!house.hears(boss, customer) || house.calls.is_empty());
    house.assert_empty();
    assert!(armed(&house));
}

#[test]
fn with_debrief_the_coach_stays_with_the_agent_when_the_customer_has_gone() {
    let debrief = B2buaConfig {
        supervision: supervision::SupervisionConfig {
            debrief: true,
            ..supervision::SupervisionConfig::default()
        },
        ..B2buaConfig::default()
    };
    let mut house = House::with(debrief.clone(), RestoredCalls::default());
    let legs = house.coached(Activity::Coach);
    house.hangs_up(legs.0);
    assert_eq!(house.table(&[("a", legs.1), ("s", legs.2)]), "as sa");
    house.hangs_up(legs.1);
    house.assert_empty();

    let mut house = House::with(debrief, RestoredCalls::default());
    let legs = house.coached(Activity::ListenIn);
    house.hangs_up(legs.0);
    house.assert_empty();
}

#[test]
fn who_takes_over_is_heard_by_the_customer_and_not_by_another_supervisor() {
    let config = B2buaConfig {
        supervision: supervision::SupervisionConfig {
            takeover: true,
            max_supervisors_per_device: 2,
            ..supervision::SupervisionConfig::default()
        },
        ..B2buaConfig::default()
    };
    let mut house = House::with(config, RestoredCalls::default());
    let (customer, agent, listener) = house.coached(Activity::ListenIn);
    house
        .command(Command::StartMonitoring {
            supervisor: BOSS2.into(),
            target: AGENT.into(),
            activity: Activity::BargeIn,
            mode: Mode::AllCalls,
            scope: Scope::Call,
            confirm_joins: false,
            agent_side_only: false,
        })
        .expect("accepted");
    let taker = house.ringing(BOSS2);
    house.answer(taker);
    house.hangs_up(agent);
    assert_eq!(house.table(&[("c", customer), ("t", taker)]), "ct tc");
    assert!(!house.hears(listener, taker) && !house.hears(taker, listener));
}

#[test]
fn leave_is_asked_before_each_join_and_without_it_nobody_joins() {
    let start = |house: &mut House| {
        house.talk();
        house
            .command(Command::StartMonitoring {
                supervisor: BOSS.into(),
                target: AGENT.into(),
                activity: Activity::Coach,
                mode: Mode::AllCalls,
                scope: Scope::Call,
                confirm_joins: true,
                agent_side_only: false,
            })
            .expect("accepted");
        assert_eq!((house.asked.len(), house.find_ringing(BOSS)), (1, None));
    };
    let admit =
        |call, admitted| Command::AdmitMonitoring { supervisor: BOSS.into(), call, admitted };
    let mut house = House::new();
    start(&mut house);
    house.command(admit(house.call_id(), true)).expect("accepted");
    house.ringing(BOSS);

    let mut house = House::new();
    start(&mut house);
    house.command(admit(house.call_id(), false)).expect("accepted");
    assert_eq!(house.find_ringing(BOSS), None);

    let mut house = House::new();
    start(&mut house);
    house.wait(Duration::from_secs(6));
    assert_eq!(house.find_ringing(BOSS), None);
}

#[test]
fn of_two_agents_only_the_coached_one_hears_the_whisper() {
    let mut house = House::new();
    let other =
        house.incoming(LegSource::Account(OTHER.into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    let agent = house.ringing(AGENT);
    house.answer(agent);
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    let boss = house.ringing(BOSS);
    house.answer(boss);
    assert_eq!(house.table(&[("o", other), ("a", agent), ("s", boss)]), "oa ao as so sa");
}

#[test]
fn a_customers_account_is_not_monitored() {
    let mut house = House::new();
    let refusal = house
        .command(Command::StartMonitoring {
            supervisor: BOSS.into(),
            target: CUSTOMER.into(),
            activity: Activity::ListenIn,
            mode: Mode::AllCalls,
            scope: Scope::Call,
            confirm_joins: false,
            agent_side_only: false,
        })
        .expect_err("a customer");
    assert_eq!(refusal.reason, Reason::Forbidden);
}

#[test]
fn monitors_survive_a_restart_armed() {
    let mut house = House::new();
    house.coached(Activity::Coach);
    let kept =
        RestoredCalls { monitors: house.kept.values().cloned().collect(), devices: Vec::new() };
    let mut house = House::with(B2buaConfig::default(), kept);
    assert!(armed(&house));
    let (customer, agent) = house.talk();
    let boss = house.ringing(BOSS);
    house.answer(boss);
    assert_eq!(table(&house, (customer, agent, boss)), COACH);
}

#[test]
fn only_what_must_survive_is_kept_and_not_every_move() {
    let mut house = House::new();
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    house.log.clear();
    house.talk();
    let boss = house.ringing(BOSS);
    house.answer(boss);
    let writes =
        house.log.iter().filter(|output| matches!(output, crate::sip::b2bua::Output::Keep(_)));
    assert_eq!(writes.count(), 0);
}

fn mute(house: &mut House, call: CallId, muted: bool) -> Result<(), crate::model::Refusal> {
    let supervisor = BOSS.into();
    house.command(Command::MuteMonitoredParty { supervisor, call, muted })
}

#[test]
fn the_supervisor_silences_the_agent_toward_the_customer_and_still_hears_him() {
    let mut house = House::new();
    let legs = house.coached(Activity::BargeIn);
    let call = house.call_id();
    mute(&mut house, call.clone(), true).expect("accepted");
    assert_eq!(table(&house, legs), "cs ac as sc sa");
    let muted = |house: &House| house.only_call().parties[1].muted_by_supervisor;
    assert!(muted(&house));
    assert_eq!(
        mute(&mut house, call.clone(), true).expect_err("twice").reason,
        Reason::InvalidState
    );
    house.command(switch(call.clone(), Activity::Coach)).expect("accepted");
    assert_eq!(table(&house, legs), "ac as sc sa", "until he lets him speak again");
    mute(&mut house, call.clone(), false).expect("accepted");
    assert_eq!(table(&house, legs), COACH);
    assert!(!muted(&house));
    assert_eq!(mute(&mut house, call, false).expect_err("twice").reason, Reason::InvalidState);
}

#[test]
fn an_agent_is_heard_again_when_the_supervisor_who_silenced_him_is_gone() {
    let mut house = House::new();
    let (customer, agent, boss) = house.coached(Activity::BargeIn);
    let call = house.call_id();
    mute(&mut house, call.clone(), true).expect("accepted");
    house.hangs_up(boss);
    assert_eq!(table(&house, (customer, agent, boss)), "ca ac");
    assert!(!house.only_call().parties[1].muted_by_supervisor);
    let nobodys = mute(&mut house, call, true).expect_err("he is not there");
    assert!(matches!(nobodys.reason, Reason::NotFound | Reason::InvalidState), "{nobodys:?}");
}

/// His phone may have one line: what comes before he is let go would be busy.
#[test]
fn who_turns_to_another_agent_is_let_go_of_the_first_call_before_he_is_invited_to_the_second() {
    let mut house = House::new();
    let other =
        house.incoming(LegSource::Trunk("city".into()), "5002", Some(sdp(4000, "0", "sendrecv")));
    let answering = house.ringing(OTHER);
    house.answer(answering);
    let (_, _, boss) = house.coached(Activity::Coach);
    house.log.clear();
    house
        .command(Command::StartMonitoring {
            supervisor: BOSS.into(),
            target: OTHER.into(),
            activity: Activity::Coach,
            mode: Mode::AllCalls,
            scope: Scope::Call,
            confirm_joins: false,
            agent_side_only: false,
        })
        .unwrap();
    let order: Vec<_> = house
        .log
        .iter()
        .filter_map(|output| match output {
            Output::Leg(LegCommand::Hangup { leg, .. }) => Some(("let go", *leg)),
            Output::Leg(LegCommand::Invite { leg, .. }) => Some(("invited", *leg)),
            _ => None,
        })
        .collect();
    assert_eq!(order, [("let go", boss), ("invited", house.ringing(BOSS))]);
    assert!(!house.lines[&other].ended);
}

/// Found by chance: the step never came to an end, because he was invited to what he was just
/// released from.
#[test]
fn a_colleague_outside_whom_nobody_reached_is_no_customer_who_left() {
    let mut house = House::new();
    house.incoming(LegSource::Account(OTHER.into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    let agent = house.ringing(AGENT);
    house.answer(agent);
    let call = house.only_call().id.clone();
    let step = TransferStep::SingleStep { destination: "0123".into() };
    house.command(Command::Transfer { device: AGENT.into(), call, step }).unwrap();
    let outside =
        house.lines.values().find(|line| line.party.is_err()).map(|line| line.leg).unwrap();
    house.leg(LegEvent::Refused { leg: outside, status: 486 });
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).unwrap();
    let boss = house.ringing(BOSS);
    house.answer(boss);
    assert!(matches!(house.monitors[BOSS].state, MonitorState::Joined { .. }));
}

/// The supervisor's phone re-INVITEs with a direction.
fn supervisor_offers(house: &mut House, boss: LegId, direction: &str) {
    house.leg(LegEvent::Offered { leg: boss, media: Some(sdp(6000, "0 101", direction)) });
}

/// RFC 3264 8.4.
#[test]
fn a_supervisors_phone_that_holds_with_music_is_heard_by_nobody_until_it_retrieves() {
    for (activity, before) in [(Activity::Coach, COACH), (Activity::BargeIn, "ca cs ac as sc sa")] {
        for direction in ["sendonly", "inactive"] {
            let mut house = House::new();
            let legs = house.coached(activity);
            assert_eq!(table(&house, legs), before);
            supervisor_offers(&mut house, legs.2, direction);
            for ear in [legs.0, legs.1] {
                assert!(!house.hears(ear, legs.2), "{activity} {direction}");
            }
            supervisor_offers(&mut house, legs.2, "sendrecv");
            assert_eq!(table(&house, legs), before);
        }
    }
}

/// RFC 3264 8.4: a phone that answers so is on hold from the beginning.
#[test]
fn a_supervisors_phone_that_answers_on_hold_is_heard_once_it_retrieves() {
    let mut house = House::new();
    let (customer, agent) = house.talk();
    house.monitor(Activity::BargeIn, Mode::AllCalls, Scope::Call).expect("accepted");
    let boss = house.ringing(BOSS);
    house.leg(LegEvent::Answered { leg: boss, media: sdp(6000, "0 101", "sendonly") });
    assert!(!house.hears(agent, boss) && !house.hears(customer, boss));
    supervisor_offers(&mut house, boss, "sendrecv");
    assert!(house.hears(agent, boss) && house.hears(customer, boss));
}

#[test]
fn nobody_joins_a_call_whose_phones_are_silent_and_asked_until_one_is_known_to_be_there() {
    let silent = |house: &mut House, legs: &[LegId]| {
        for leg in legs {
            house.media(MediaEvent::Inactive { leg: *leg });
        }
    };
    let answers = |house: &mut House, leg: LegId| {
        house.leg(LegEvent::OfferAnswered { leg, media: sdp(4000, "0 101", "sendrecv") });
    };
    let mut house = House::new();
    let (customer, agent) = house.talk();
    silent(&mut house, &[customer, agent]);
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    assert_eq!(house.find_ringing(BOSS), None);
    answers(&mut house, customer);
    assert_eq!(house.find_ringing(BOSS), None, "the agent's phone has not answered");
    // It speaks, which says as much as an answer.
    house.media(MediaEvent::Active { leg: agent });
    let boss = house.ringing(BOSS);
    // Silent again before the supervisor's phone has answered: it waits for what comes of it.
    answers(&mut house, agent);
    silent(&mut house, &[customer]);
    house.answer(boss);
    assert!(!house.hears(boss, agent) && !house.hears(agent, boss));
    answers(&mut house, customer);
    assert!(house.hears(boss, agent) && house.hears(agent, boss));
}

#[test]
fn a_supervisor_who_waits_for_a_call_in_doubt_is_released_when_it_ends() {
    let mut house = House::new();
    let (customer, agent) = house.talk();
    house.media(MediaEvent::Inactive { leg: customer });
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    house.leg(LegEvent::OfferRefused { leg: customer, status: 408 });
    assert_eq!(house.find_ringing(BOSS), None);
    assert!(house.lines[&agent].ended);
    house.assert_empty();
}
