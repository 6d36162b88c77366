//! The life of a monitor, seen from the phones.

use super::harness::{AGENT, CUSTOMER, Harness, OTHER, SUPERVISOR, SUPERVISOR2, sdp};
use crate::media::{LeakReason, LegStats, MediaEvent};
use crate::model::{
    Activity, CallId, Command, JoinSound, LegSound, LegState, Mode, MonitorState, PartyRole,
    Reason, Scope, TransferStep,
};
use crate::sip::b2bua::{B2buaConfig, Output, RestoredCalls};
use crate::sip::leg::{EndReason, LegCommand, LegEvent, LegId, LegSource};
use crate::supervision;
use std::time::Duration;

const COACH: &str = "ca ac as sc sa";
const LISTEN: &str = "ca ac sc sa";
const BARGE: &str = "ca cs ac as sc sa";

fn table(harness: &Harness, (customer, agent, supervisor): (LegId, LegId, LegId)) -> String {
    harness.table(&[("c", customer), ("a", agent), ("s", supervisor)])
}

fn switch(call: CallId, activity: Activity) -> Command {
    Command::SwitchMonitoring { supervisor: SUPERVISOR.into(), call, activity }
}

fn armed(harness: &Harness) -> bool {
    harness.monitors.get(SUPERVISOR).is_some_and(|monitor| monitor.state == MonitorState::Armed)
}

#[test]
fn a_monitor_of_agents_only_hears_no_customer_whatever_he_does_and_live() {
    for activity in [Activity::ListenIn, Activity::Coach, Activity::BargeIn] {
        let mut harness = Harness::new();
        let (customer, agent, supervisor) = harness.coached(activity);
        let legs = [("c", customer), ("a", agent), ("s", supervisor)];
        assert!(harness.hears(supervisor, customer));
        let ask = |agent_side_only| Command::StartMonitoring {
            supervisor: SUPERVISOR.into(),
            target: AGENT.into(),
            activity,
            mode: Mode::AllCalls,
            scope: Scope::Call,
            confirm_joins: false,
            agent_side_only,
        };
        harness.command(ask(true)).expect("accepted");
        let expected = match activity {
            Activity::ListenIn => "ca ac sa",
            Activity::Coach | Activity::BargeIn => "ca ac as sa",
        };
        assert_eq!(harness.table(&legs), expected, "{activity}");
        harness.hangs_up(customer);
        let (customer, agent) = harness.talk();
        let supervisor = harness.ringing(SUPERVISOR);
        harness.answer(supervisor);
        let legs = [("c", customer), ("a", agent), ("s", supervisor)];
        assert_eq!(harness.table(&legs), expected, "from the first packet on");
        harness.command(ask(false)).expect("accepted");
        assert!(harness.hears(supervisor, customer));
    }
}

#[test]
fn the_supervisor_is_called_when_the_agent_answers_not_while_it_rings() {
    let mut harness = Harness::new();
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    harness.customer_calls("5001");
    assert_eq!(harness.find_ringing(SUPERVISOR), None);
    let agent = harness.ringing(AGENT);
    harness.answer(agent);
    harness.ringing(SUPERVISOR);
}

#[test]
fn his_phone_is_asked_to_answer_by_itself_and_shows_whom_he_coaches() {
    let mut harness = Harness::new();
    harness.talk();
    harness.log.clear();
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    let commands = harness.leg_commands();
    let [LegCommand::Invite { from, auto_answer, .. }] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert!(auto_answer);
    assert_eq!((from.number.as_str(), from.display.as_str()), ("5001", "Coach 5001"));
}

#[test]
fn nobody_hears_the_supervisor_and_he_hears_nobody_until_he_has_answered() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    harness.monitor(Activity::BargeIn, Mode::AllCalls, Scope::Agent).expect("accepted");
    let supervisor = harness.ringing(SUPERVISOR);
    harness.leg(LegEvent::Progress {
        leg: supervisor,
        status: 183,
        media: Some(sdp(6000, "0", "sendrecv")),
    });
    assert_eq!(table(&harness, (customer, agent, supervisor)), "ca ac");
    harness.answer(supervisor);
    assert_eq!(table(&harness, (customer, agent, supervisor)), BARGE);
}

#[test]
fn each_activity_has_its_table_and_changes_live() {
    for (activity, expected) in
        [(Activity::Coach, COACH), (Activity::ListenIn, LISTEN), (Activity::BargeIn, BARGE)]
    {
        let mut harness = Harness::new();
        let legs = harness.coached(activity);
        assert_eq!(table(&harness, legs), expected);
    }
    let mut harness = Harness::new();
    let legs = harness.coached(Activity::Coach);
    harness.log.clear();
    for (activity, expected) in
        [(Activity::BargeIn, BARGE), (Activity::ListenIn, LISTEN), (Activity::Coach, COACH)]
    {
        harness.command(switch(harness.call_id(), activity)).expect("accepted");
        assert_eq!(table(&harness, legs), expected);
    }
    assert!(harness.leg_commands().is_empty(), "no phone is called again");
}

#[test]
fn in_doubt_about_the_agents_leg_the_whisper_reaches_nobody() {
    let mut harness = Harness::new();
    let legs = harness.coached(Activity::Coach);
    harness.leg(LegEvent::Offered { leg: legs.1, media: None });
    assert_eq!(table(&harness, legs), LISTEN);
    harness.leg(LegEvent::Confirmed { leg: legs.1, media: Some(sdp(5002, "0", "sendrecv")) });
    assert_eq!(table(&harness, legs), COACH);
}

#[test]
fn after_a_leak_was_caught_the_supervisor_is_heard_by_nobody_on_that_call() {
    let mut harness = Harness::new();
    let legs = harness.coached(Activity::Coach);
    let call = harness.lines[&legs.0].call.expect("opened");
    harness.media(MediaEvent::LeakGuard { call, leg: legs.0, reason: LeakReason::NotPermitted });
    assert_eq!(table(&harness, legs), LISTEN);
    harness.command(switch(harness.call_id(), Activity::BargeIn)).expect("accepted");
    assert_eq!(table(&harness, legs), LISTEN);
}

#[test]
fn a_caught_leak_is_reported_once_to_each_supervisor_of_that_call() {
    let mut harness = Harness::new();
    let legs = harness.coached(Activity::Coach);
    let call = harness.lines[&legs.0].call.expect("opened");
    for leg in [legs.0, legs.1] {
        harness.media(MediaEvent::LeakGuard { call, leg, reason: LeakReason::NotPermitted });
    }
    assert_eq!(harness.failures.len(), 1);
    let failure = &harness.failures[0];
    assert_eq!((&failure.device, &failure.call), (&SUPERVISOR.into(), &Some(harness.call_id())));
    assert_eq!(failure.refusal.reason, Reason::Internal);
}

#[test]
fn what_the_sound_of_a_join_was_is_told_though_the_call_is_over() {
    let mut harness = Harness::new();
    let (customer, agent, supervisor) = harness.coached(Activity::Coach);
    let (call, since) = (harness.call_id(), harness.now.wall);
    for leg in [customer, agent] {
        harness.leg(LegEvent::Ended { leg, reason: EndReason::Bye });
    }
    assert!(harness.b2bua.is_idle() && harness.b2bua.has_sound());
    let legs = vec![LegSound {
        role: PartyRole::Supervisor,
        port: 20_004,
        remote: None,
        codec: "PCMU".to_owned(),
        sent: None,
    }];
    harness.media(MediaEvent::JoinEnded { supervisor, legs: legs.clone() });
    let told = JoinSound {
        supervisor: SUPERVISOR.into(),
        target: AGENT.into(),
        call,
        since,
        legs: legs.clone(),
    };
    assert_eq!(harness.sounds, [told]);
    harness.media(MediaEvent::Closed { leg: supervisor, stats: LegStats::default() });
    assert!(!harness.b2bua.has_sound());
    harness.media(MediaEvent::JoinEnded { supervisor, legs });
    assert_eq!(harness.sounds.len(), 1, "nothing is known of it any more");
}

#[test]
fn a_probe_of_a_silent_phone_leaves_the_whisper_alone() {
    let mut harness = Harness::new();
    let legs = harness.coached(Activity::Coach);
    harness.media(MediaEvent::Inactive { leg: legs.1 });
    assert!(harness.lines[&legs.1].offered);
    assert_eq!(table(&harness, legs), COACH);
}

#[test]
fn on_hold_the_whisper_keeps_flowing_and_he_hears_the_held_customer() {
    let mut harness = Harness::new();
    let legs = harness.coached(Activity::Coach);
    harness
        .command(Command::Hold { device: AGENT.into(), call: harness.call_id() })
        .expect("accepted");
    assert_eq!(table(&harness, legs), "as sc sa");

    let config = B2buaConfig { monitor_party_on_hold: false, ..B2buaConfig::default() };
    let mut harness = Harness::with(config, RestoredCalls::default());
    let legs = harness.coached(Activity::Coach);
    harness
        .command(Command::Hold { device: AGENT.into(), call: harness.call_id() })
        .expect("accepted");
    assert_eq!(table(&harness, legs), "as sa");
}

#[test]
fn a_held_customer_does_not_hear_who_barges_in_and_hears_him_again_when_retrieved() {
    let mut harness = Harness::new();
    let legs = harness.coached(Activity::BargeIn);
    let (device, call) = (AGENT, harness.call_id());
    let hold = |call: &CallId| Command::Hold { device: device.into(), call: call.clone() };
    let retrieve = |call: &CallId| Command::Retrieve { device: device.into(), call: call.clone() };
    harness.command(hold(&call)).expect("accepted");
    assert_eq!(table(&harness, legs), "as sc sa");
    harness.command(retrieve(&call)).expect("accepted");
    assert_eq!(table(&harness, legs), BARGE);

    harness.command(switch(call.clone(), Activity::Coach)).expect("accepted");
    harness.command(hold(&call)).expect("accepted");
    harness.command(switch(call.clone(), Activity::BargeIn)).expect("accepted");
    assert_eq!(table(&harness, legs), "as sc sa", "nor does he when the hold came first");
}

#[test]
fn an_agent_who_holds_with_his_phone_keeps_the_barging_supervisor_from_the_customer() {
    for direction in ["sendonly", "inactive"] {
        let mut harness = Harness::new();
        let legs = harness.coached(Activity::BargeIn);
        let offered =
            |direction| LegEvent::Offered { leg: legs.1, media: Some(sdp(5002, "0", direction)) };
        harness.leg(offered(direction));
        assert!(!harness.hears(legs.0, legs.2), "{direction}");
        harness.leg(offered("sendrecv"));
        assert_eq!(table(&harness, legs), BARGE);
    }
}

#[test]
fn next_call_ends_with_that_call() {
    let mut harness = Harness::new();
    harness.monitor(Activity::Coach, Mode::NextCall, Scope::Call).expect("accepted");
    let (customer, _) = harness.talk();
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    harness.hangs_up(customer);
    assert!(harness.monitors.is_empty() && harness.kept.is_empty());
    harness.assert_empty();
}

#[test]
fn all_calls_goes_back_to_armed_with_the_activity_first_asked_for() {
    let mut harness = Harness::new();
    let (customer, _, _) = harness.coached(Activity::Coach);
    harness.command(switch(harness.call_id(), Activity::BargeIn)).expect("accepted");
    harness.hangs_up(customer);
    assert!(armed(&harness));
    let (customer, agent) = harness.talk();
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    assert_eq!(table(&harness, (customer, agent, supervisor)), COACH);
}

#[test]
fn a_supervisor_who_hangs_up_leaves_the_call_to_the_others() {
    let mut harness = Harness::new();
    let (customer, agent, supervisor) = harness.coached(Activity::Coach);
    harness.hangs_up(supervisor);
    assert_eq!(table(&harness, (customer, agent, supervisor)), "ca ac");
    assert!(armed(&harness));
    assert_eq!(harness.state_of(SUPERVISOR), LegState::Released);
    assert_eq!(harness.find_ringing(SUPERVISOR), None, "not called again for this call");
}

#[test]
fn a_supervisor_releases_his_leg_by_command() {
    let mut harness = Harness::new();
    let legs = harness.coached(Activity::BargeIn);
    harness
        .command(Command::Hangup { device: SUPERVISOR.into(), call: harness.call_id() })
        .expect("accepted");
    assert_eq!(table(&harness, legs), "ca ac");
    assert!(armed(&harness));
}

#[test]
fn busy_reject_no_answer_and_out_of_reach_are_told_and_the_monitor_stays_armed() {
    for status in [486, 603, 408, 480] {
        let mut harness = Harness::new();
        harness.talk();
        harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
        let supervisor = harness.ringing(SUPERVISOR);
        harness.leg(LegEvent::Refused { leg: supervisor, status });
        assert_eq!(harness.failures.len(), 1, "{status}");
        assert_eq!(harness.failures[0].device, SUPERVISOR.into());
        assert!(armed(&harness), "{status}");
    }
}

#[test]
fn a_supervisors_phone_that_can_not_be_reached_is_named_with_what_its_switch_has_answered() {
    let refused = |leg, status| LegEvent::Refused { leg, status };
    let failed = |leg, status| LegEvent::Failed { leg, status };
    type Outcome = fn(LegId, u16) -> LegEvent;
    let rows: [(Outcome, u16, Reason, &str); 8] = [
        (refused, 404, Reason::Internal, "can not be reached: its phone or switch answers 404."),
        (refused, 480, Reason::Internal, "can not be reached: its phone or switch answers 480."),
        (refused, 503, Reason::Internal, "can not be reached: its phone or switch answers 503."),
        (refused, 403, Reason::InvalidState, "has rejected the call: 403."),
        (refused, 603, Reason::InvalidState, "has rejected the call."),
        (failed, 503, Reason::Internal, "its phone or switch does not answer."),
        (failed, 480, Reason::Internal, "is not registered."),
        (failed, 408, Reason::InvalidState, "does not answer."),
    ];
    for (outcome, status, reason, text) in rows {
        let mut harness = Harness::new();
        harness.talk();
        harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
        let supervisor = harness.ringing(SUPERVISOR);
        harness.leg(outcome(supervisor, status));
        let refusal = &harness.failures[0].refusal;
        let said = refusal.to_string();
        assert_eq!(refusal.reason, reason, "{said}");
        assert!(said.starts_with(&format!("Device '{SUPERVISOR}' ")), "{said}");
        assert!(said.contains(text), "{said}");
        assert!(armed(&harness), "{said}");
    }
}

#[test]
fn a_phone_that_rings_too_long_is_released() {
    let mut harness = Harness::new();
    harness.talk();
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    let supervisor = harness.ringing(SUPERVISOR);
    harness.log.clear();
    harness.wait(Duration::from_secs(20));
    assert_eq!(harness.leg_commands(), [LegCommand::Hangup { leg: supervisor, reason: None }]);
    assert!(armed(&harness));
    assert_eq!(harness.failures.len(), 1);
}

#[test]
fn an_unregistered_supervisor_is_told_and_stays_armed() {
    let mut harness = Harness::new();
    harness.leg(LegEvent::Registered { device: SUPERVISOR.into(), registered: false });
    harness.talk();
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    assert_eq!(harness.failures.len(), 1);
    assert!(armed(&harness));
}

#[test]
fn cancelling_releases_the_leg_and_there_is_nothing_to_cancel_twice() {
    let mut harness = Harness::new();
    let legs = harness.coached(Activity::Coach);
    harness.log.clear();
    harness.stop().expect("accepted");
    assert_eq!(harness.leg_commands(), [LegCommand::Hangup { leg: legs.2, reason: None }]);
    assert_eq!(table(&harness, legs), "ca ac");
    assert!(harness.monitors.is_empty());
    assert_eq!(harness.stop().expect_err("nothing").reason, Reason::InvalidState);
}

#[test]
fn asking_again_changes_the_activity_without_a_new_call() {
    let mut harness = Harness::new();
    let legs = harness.coached(Activity::Coach);
    harness.log.clear();
    harness.monitor(Activity::ListenIn, Mode::AllCalls, Scope::Agent).expect("accepted");
    assert_eq!(table(&harness, legs), LISTEN);
    assert!(harness.leg_commands().is_empty());
}

#[test]
fn a_second_supervisor_of_the_same_device_is_refused() {
    let mut harness = Harness::new();
    harness.coached(Activity::Coach);
    let refusal = harness
        .command(Command::StartMonitoring {
            supervisor: SUPERVISOR2.into(),
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
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    harness.hangs_up(agent);
    assert!(!harness.hears(supervisor, customer) || harness.calls.is_empty());
    harness.assert_empty();
    assert!(armed(&harness));
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
    let mut harness = Harness::with(debrief.clone(), RestoredCalls::default());
    let legs = harness.coached(Activity::Coach);
    harness.hangs_up(legs.0);
    assert_eq!(harness.table(&[("a", legs.1), ("s", legs.2)]), "as sa");
    harness.hangs_up(legs.1);
    harness.assert_empty();

    let mut harness = Harness::with(debrief, RestoredCalls::default());
    let legs = harness.coached(Activity::ListenIn);
    harness.hangs_up(legs.0);
    harness.assert_empty();
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
    let mut harness = Harness::with(config, RestoredCalls::default());
    let (customer, agent, listener) = harness.coached(Activity::ListenIn);
    harness
        .command(Command::StartMonitoring {
            supervisor: SUPERVISOR2.into(),
            target: AGENT.into(),
            activity: Activity::BargeIn,
            mode: Mode::AllCalls,
            scope: Scope::Call,
            confirm_joins: false,
            agent_side_only: false,
        })
        .expect("accepted");
    let taker = harness.ringing(SUPERVISOR2);
    harness.answer(taker);
    harness.hangs_up(agent);
    assert_eq!(harness.table(&[("c", customer), ("t", taker)]), "ct tc");
    assert!(!harness.hears(listener, taker) && !harness.hears(taker, listener));
}

#[test]
fn leave_is_asked_before_each_join_and_without_it_nobody_joins() {
    let start = |harness: &mut Harness| {
        harness.talk();
        harness
            .command(Command::StartMonitoring {
                supervisor: SUPERVISOR.into(),
                target: AGENT.into(),
                activity: Activity::Coach,
                mode: Mode::AllCalls,
                scope: Scope::Call,
                confirm_joins: true,
                agent_side_only: false,
            })
            .expect("accepted");
        assert_eq!((harness.asked.len(), harness.find_ringing(SUPERVISOR)), (1, None));
    };
    let admit =
        |call, admitted| Command::AdmitMonitoring { supervisor: SUPERVISOR.into(), call, admitted };
    let mut harness = Harness::new();
    start(&mut harness);
    harness.command(admit(harness.call_id(), true)).expect("accepted");
    harness.ringing(SUPERVISOR);

    let mut harness = Harness::new();
    start(&mut harness);
    harness.command(admit(harness.call_id(), false)).expect("accepted");
    assert_eq!(harness.find_ringing(SUPERVISOR), None);

    let mut harness = Harness::new();
    start(&mut harness);
    harness.wait(Duration::from_secs(6));
    assert_eq!(harness.find_ringing(SUPERVISOR), None);
}

#[test]
fn of_two_agents_only_the_coached_one_hears_the_whisper() {
    let mut harness = Harness::new();
    let other = harness.incoming(
        LegSource::Account(OTHER.into()),
        "5001",
        Some(sdp(4000, "0", "sendrecv")),
    );
    let agent = harness.ringing(AGENT);
    harness.answer(agent);
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    assert_eq!(harness.table(&[("o", other), ("a", agent), ("s", supervisor)]), "oa ao as so sa");
}

#[test]
fn a_customers_account_is_not_monitored() {
    let mut harness = Harness::new();
    let refusal = harness
        .command(Command::StartMonitoring {
            supervisor: SUPERVISOR.into(),
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
    let mut harness = Harness::new();
    harness.coached(Activity::Coach);
    let kept =
        RestoredCalls { monitors: harness.kept.values().cloned().collect(), devices: Vec::new() };
    let mut harness = Harness::with(B2buaConfig::default(), kept);
    assert!(armed(&harness));
    let (customer, agent) = harness.talk();
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    assert_eq!(table(&harness, (customer, agent, supervisor)), COACH);
}

#[test]
fn only_what_must_survive_is_kept_and_not_every_move() {
    let mut harness = Harness::new();
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    harness.log.clear();
    harness.talk();
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    let writes =
        harness.log.iter().filter(|output| matches!(output, crate::sip::b2bua::Output::Keep(_)));
    assert_eq!(writes.count(), 0);
}

fn mute(harness: &mut Harness, call: CallId, muted: bool) -> Result<(), crate::model::Refusal> {
    let supervisor = SUPERVISOR.into();
    harness.command(Command::MuteMonitoredParty { supervisor, call, muted })
}

#[test]
fn the_supervisor_silences_the_agent_toward_the_customer_and_still_hears_him() {
    let mut harness = Harness::new();
    let legs = harness.coached(Activity::BargeIn);
    let call = harness.call_id();
    mute(&mut harness, call.clone(), true).expect("accepted");
    assert_eq!(table(&harness, legs), "cs ac as sc sa");
    let muted = |harness: &Harness| harness.only_call().parties[1].muted_by_supervisor;
    assert!(muted(&harness));
    assert_eq!(
        mute(&mut harness, call.clone(), true).expect_err("twice").reason,
        Reason::InvalidState
    );
    harness.command(switch(call.clone(), Activity::Coach)).expect("accepted");
    assert_eq!(table(&harness, legs), "ac as sc sa", "until he lets him speak again");
    mute(&mut harness, call.clone(), false).expect("accepted");
    assert_eq!(table(&harness, legs), COACH);
    assert!(!muted(&harness));
    assert_eq!(mute(&mut harness, call, false).expect_err("twice").reason, Reason::InvalidState);
}

#[test]
fn an_agent_is_heard_again_when_the_supervisor_who_silenced_him_is_gone() {
    let mut harness = Harness::new();
    let (customer, agent, supervisor) = harness.coached(Activity::BargeIn);
    let call = harness.call_id();
    mute(&mut harness, call.clone(), true).expect("accepted");
    harness.hangs_up(supervisor);
    assert_eq!(table(&harness, (customer, agent, supervisor)), "ca ac");
    assert!(!harness.only_call().parties[1].muted_by_supervisor);
    let nobodys = mute(&mut harness, call, true).expect_err("he is not there");
    assert!(matches!(nobodys.reason, Reason::NotFound | Reason::InvalidState), "{nobodys:?}");
}

/// The phone may have one line: what comes before its call is let go would be busy.
#[test]
fn who_turns_to_another_agent_is_let_go_of_the_first_call_before_he_is_invited_to_the_second() {
    let mut harness = Harness::new();
    let other =
        harness.incoming(LegSource::Trunk("city".into()), "5002", Some(sdp(4000, "0", "sendrecv")));
    let answering = harness.ringing(OTHER);
    harness.answer(answering);
    let (_, _, supervisor) = harness.coached(Activity::Coach);
    harness.log.clear();
    harness
        .command(Command::StartMonitoring {
            supervisor: SUPERVISOR.into(),
            target: OTHER.into(),
            activity: Activity::Coach,
            mode: Mode::AllCalls,
            scope: Scope::Call,
            confirm_joins: false,
            agent_side_only: false,
        })
        .unwrap();
    let order: Vec<_> = harness
        .log
        .iter()
        .filter_map(|output| match output {
            Output::Leg(LegCommand::Hangup { leg, .. }) => Some(("let go", *leg)),
            Output::Leg(LegCommand::Invite { leg, .. }) => Some(("invited", *leg)),
            _ => None,
        })
        .collect();
    assert_eq!(order, [("let go", supervisor), ("invited", harness.ringing(SUPERVISOR))]);
    assert!(!harness.lines[&other].ended);
}

/// Found by chance: the step never came to an end, because the supervisor was invited to the call
/// that it had just been released from.
#[test]
fn a_colleague_outside_whom_nobody_reached_is_no_customer_who_left() {
    let mut harness = Harness::new();
    harness.incoming(LegSource::Account(OTHER.into()), "5001", Some(sdp(4000, "0", "sendrecv")));
    let agent = harness.ringing(AGENT);
    harness.answer(agent);
    let call = harness.only_call().id.clone();
    let step =
        TransferStep::SingleStep { destination: "0123".into(), user_data: Default::default() };
    harness.command(Command::Transfer { device: AGENT.into(), call, step }).unwrap();
    let outside =
        harness.lines.values().find(|line| line.party.is_err()).map(|line| line.leg).unwrap();
    harness.leg(LegEvent::Refused { leg: outside, status: 486 });
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).unwrap();
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    assert!(matches!(harness.monitors[SUPERVISOR].state, MonitorState::Joined { .. }));
}

/// The supervisor's phone re-INVITEs with a direction.
fn supervisor_offers(harness: &mut Harness, supervisor: LegId, direction: &str) {
    harness.leg(LegEvent::Offered { leg: supervisor, media: Some(sdp(6000, "0 101", direction)) });
}

/// RFC 3264 8.4.
#[test]
fn a_supervisors_phone_that_holds_with_music_is_heard_by_nobody_until_it_retrieves() {
    for (activity, before) in [(Activity::Coach, COACH), (Activity::BargeIn, "ca cs ac as sc sa")] {
        for direction in ["sendonly", "inactive"] {
            let mut harness = Harness::new();
            let legs = harness.coached(activity);
            assert_eq!(table(&harness, legs), before);
            supervisor_offers(&mut harness, legs.2, direction);
            for ear in [legs.0, legs.1] {
                assert!(!harness.hears(ear, legs.2), "{activity} {direction}");
            }
            supervisor_offers(&mut harness, legs.2, "sendrecv");
            assert_eq!(table(&harness, legs), before);
        }
    }
}

/// RFC 3264 8.4: a phone that answers so is on hold from the beginning.
#[test]
fn a_supervisors_phone_that_answers_on_hold_is_heard_once_it_retrieves() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    harness.monitor(Activity::BargeIn, Mode::AllCalls, Scope::Call).expect("accepted");
    let supervisor = harness.ringing(SUPERVISOR);
    harness.leg(LegEvent::Answered { leg: supervisor, media: sdp(6000, "0 101", "sendonly") });
    assert!(!harness.hears(agent, supervisor) && !harness.hears(customer, supervisor));
    supervisor_offers(&mut harness, supervisor, "sendrecv");
    assert!(harness.hears(agent, supervisor) && harness.hears(customer, supervisor));
}

#[test]
fn nobody_joins_a_call_whose_phones_are_silent_and_asked_until_one_is_known_to_be_there() {
    let silent = |harness: &mut Harness, legs: &[LegId]| {
        for leg in legs {
            harness.media(MediaEvent::Inactive { leg: *leg });
        }
    };
    let answers = |harness: &mut Harness, leg: LegId| {
        harness.leg(LegEvent::OfferAnswered { leg, media: sdp(4000, "0 101", "sendrecv") });
    };
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    silent(&mut harness, &[customer, agent]);
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    assert_eq!(harness.find_ringing(SUPERVISOR), None);
    answers(&mut harness, customer);
    assert_eq!(harness.find_ringing(SUPERVISOR), None, "the agent's phone has not answered");
    // It speaks, which says as much as an answer.
    harness.media(MediaEvent::Active { leg: agent });
    let supervisor = harness.ringing(SUPERVISOR);
    // Silent again before the supervisor's phone has answered: it waits for what comes of it.
    answers(&mut harness, agent);
    silent(&mut harness, &[customer]);
    harness.answer(supervisor);
    assert!(!harness.hears(supervisor, agent) && !harness.hears(agent, supervisor));
    answers(&mut harness, customer);
    assert!(harness.hears(supervisor, agent) && harness.hears(agent, supervisor));
}

#[test]
fn a_supervisor_who_waits_for_a_call_in_doubt_is_released_when_it_ends() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    harness.media(MediaEvent::Inactive { leg: customer });
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    harness.leg(LegEvent::OfferRefused { leg: customer, status: 408 });
    assert_eq!(harness.find_ringing(SUPERVISOR), None);
    assert!(harness.lines[&agent].ended);
    harness.assert_empty();
}
