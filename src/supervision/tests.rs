use super::*;
use crate::model::{
    CallFact, CallType, Command, LegState, Mode, MonitorState, Now, PartyFact, PartyRole, Reason,
    Refusal, Scope, Timestamp,
};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use Activity::{BargeIn, Coach, ListenIn};
use LegState::{Dialing, Established, Held, Released, Ringing};
use Mode::{AllCalls, NextCall};
use PartyRole::{Agent, Customer};

#[test]
fn a_supervisor_is_invited_when_the_agent_answers_not_while_he_rings() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    assert_eq!(house.drain(), ["armed Coach AllCalls"]);
    house.call("c", [("", Customer, Dialing), ("anna", Agent, Ringing)]);
    assert_eq!(house.drain(), [""; 0]);
    house.call("c", [("", Customer, Established), ("anna", Agent, Established)]);
    assert_eq!(house.drain(), ["invite boss c Coach", "inviting c"]);
    house.leg("boss", "c", LegOutcome::Answered);
    assert_eq!(house.drain(), ["hear boss c Coach anna", "joined c Coach"]);
}

#[test]
fn a_monitor_asked_for_during_a_call_joins_it_at_once() {
    let mut house = House::default();
    house.talk("c", "anna");
    house.start("boss", "anna", ListenIn).unwrap();
    assert_eq!(house.drain(), ["armed ListenIn AllCalls", "invite boss c ListenIn", "inviting c"]);
}

#[test]
fn without_intrusion_he_waits_for_the_next_call() {
    let mut house = House::new(SupervisionConfig {
        intrusion: Intrusion::Never,
        ..SupervisionConfig::default()
    });
    house.talk("c", "anna");
    house.start("boss", "anna", BargeIn).unwrap();
    assert_eq!(house.drain(), ["armed BargeIn AllCalls"]);
    house.over("c");
    house.talk("d", "anna");
    assert_eq!(house.drain(), ["invite boss d BargeIn", "inviting d"]);
}

#[test]
fn with_intrusion_for_barge_in_only_a_coach_waits() {
    let mut house = House::new(SupervisionConfig {
        intrusion: Intrusion::BargeIn,
        ..SupervisionConfig::default()
    });
    house.talk("c", "anna");
    house.start("boss", "anna", Coach).unwrap();
    assert_eq!(house.drain(), ["armed Coach AllCalls"]);
    house.start("boss", "anna", BargeIn).unwrap();
    assert_eq!(house.drain(), ["armed BargeIn AllCalls", "invite boss c BargeIn", "inviting c"]);
}

#[test]
fn next_call_is_spent_when_its_call_ends() {
    let mut house = House::default();
    house.start_as("boss", "anna", Coach, NextCall, Scope::Call).unwrap();
    house.join("boss", "c", "anna");
    house.over("c");
    assert_eq!(house.drain(), ["release boss c CallEnded", "gone boss"]);
    assert_eq!(house.machine.monitors().count(), 0);
}

#[test]
fn all_calls_goes_back_to_armed_with_the_activity_first_asked_for() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    house.switch("boss", "c", BargeIn).unwrap();
    assert_eq!(house.drain(), ["hear boss c BargeIn anna", "joined c BargeIn"]);
    assert_eq!(house.monitor("boss").activity, Coach);
    house.over("c");
    assert_eq!(house.drain(), ["release boss c CallEnded", "armed Coach AllCalls"]);
    house.talk("d", "anna");
    assert_eq!(house.drain(), ["invite boss d Coach", "inviting d"]);
}

#[test]
fn any_activity_switches_to_any_other() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    for activity in [BargeIn, ListenIn, Coach, ListenIn, BargeIn, Coach] {
        house.switch("boss", "c", activity).unwrap();
        assert_eq!(house.drain()[0], format!("hear boss c {activity} anna"));
    }
}

#[test]
fn switching_to_what_he_does_already_is_refused_and_changes_nothing() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    assert_eq!(house.switch("boss", "c", Coach).unwrap_err().reason, Reason::InvalidState);
    assert_eq!(house.drain(), [""; 0]);
}

#[test]
fn only_a_joined_supervisor_switches() {
    let mut house = House::default();
    assert_eq!(house.switch("boss", "c", BargeIn).unwrap_err().reason, Reason::NotFound);
    house.talk("c", "anna");
    assert_eq!(house.switch("boss", "c", BargeIn).unwrap_err().reason, Reason::InvalidState);
    house.start("boss", "anna", Coach).unwrap();
    assert_eq!(house.switch("boss", "c", BargeIn).unwrap_err().reason, Reason::InvalidState);
    house.leg("boss", "c", LegOutcome::Answered);
    assert_eq!(house.switch("boss", "another", BargeIn).unwrap_err().reason, Reason::NotFound);
}

#[test]
fn a_supervisor_who_hangs_up_is_not_invited_to_that_call_again() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    house.leg("boss", "c", LegOutcome::HungUp);
    assert_eq!(house.drain(), ["armed Coach AllCalls"]);
    house.talk("c", "anna");
    assert_eq!(house.drain(), [""; 0]);
    house.over("c");
    house.talk("d", "anna");
    assert_eq!(house.drain(), ["invite boss d Coach", "inviting d"]);
}

#[test]
fn next_call_is_spent_when_the_supervisor_hangs_up() {
    let mut house = House::default();
    house.start_as("boss", "anna", Coach, NextCall, Scope::Call).unwrap();
    house.join("boss", "c", "anna");
    house.leg("boss", "c", LegOutcome::HungUp);
    assert_eq!(house.drain(), ["gone boss"]);
}

#[test]
fn a_phone_that_is_busy_or_rejects_or_is_away_fails_and_the_monitor_stays_armed() {
    for (outcome, reason) in [
        (LegOutcome::Busy, Reason::InvalidState),
        (LegOutcome::Rejected { status: None }, Reason::InvalidState),
        (LegOutcome::Rejected { status: Some(403) }, Reason::InvalidState),
        (LegOutcome::NoAnswer, Reason::InvalidState),
        (LegOutcome::Unregistered, Reason::Internal),
        (LegOutcome::Unreachable { status: None }, Reason::Internal),
        (LegOutcome::Unreachable { status: Some(404) }, Reason::Internal),
        (LegOutcome::Relayed, Reason::InvalidState),
        (LegOutcome::NoCommonCodec, Reason::InvalidState),
    ] {
        for mode in [NextCall, AllCalls] {
            let mut house = House::default();
            house.start_as("boss", "anna", Coach, mode, Scope::Call).unwrap();
            house.talk("c", "anna");
            house.drain();
            house.leg("boss", "c", outcome);
            assert_eq!(
                house.drain(),
                [format!("failed boss {reason}"), format!("armed Coach {mode}")]
            );
            assert_eq!(house.machine.poll_timeout(), None);
            house.talk("d", "anna");
            assert_eq!(house.drain(), ["invite boss d Coach", "inviting d"]);
        }
    }
}

#[test]
fn a_phone_that_does_not_answer_within_the_timeout_is_released() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.talk("c", "anna");
    house.drain();
    house.wait(Duration::from_millis(19_999));
    assert_eq!(house.drain(), [""; 0]);
    house.wait(Duration::from_millis(1));
    assert_eq!(
        house.drain(),
        ["release boss c NoAnswer", "failed boss InvalidState", "armed Coach AllCalls"]
    );
    house.leg("boss", "c", LegOutcome::Answered);
    assert_eq!(house.drain(), [""; 0]);
}

#[test]
fn cancelling_releases_the_leg_and_the_monitor_is_gone() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    house.stop("boss").unwrap();
    assert_eq!(house.drain(), ["release boss c Cancelled", "gone boss"]);
    house.leg("boss", "c", LegOutcome::HungUp);
    assert_eq!(house.drain(), [""; 0]);
}

#[test]
fn nothing_to_cancel_is_an_invalid_state() {
    let mut house = House::default();
    assert_eq!(house.stop("boss").unwrap_err().reason, Reason::InvalidState);
}

#[test]
fn a_cancelled_supervisor_may_stay_until_the_call_ends() {
    let mut house = House::new(SupervisionConfig {
        cancel_releases_call: false,
        ..SupervisionConfig::default()
    });
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    house.stop("boss").unwrap();
    assert_eq!(house.drain(), ["gone boss"]);
    assert_eq!(house.machine.monitors().count(), 0);
    assert_eq!(house.stop("boss").unwrap_err().reason, Reason::InvalidState);
    house.over("c");
    assert_eq!(house.drain(), ["release boss c CallEnded"]);
    house.talk("d", "anna");
    assert_eq!(house.drain(), [""; 0]);
}

#[test]
fn asking_again_changes_a_joined_monitor_without_another_invite() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    house.start_as("boss", "anna", BargeIn, NextCall, Scope::Agent).unwrap();
    assert_eq!(house.drain(), ["hear boss c BargeIn anna", "joined c BargeIn"]);
    let monitor = house.monitor("boss");
    assert_eq!((monitor.activity, monitor.mode, monitor.scope), (BargeIn, NextCall, Scope::Agent));
    house.over("c");
    assert_eq!(house.drain(), ["release boss c CallEnded", "gone boss"]);
}

#[test]
fn asking_the_same_again_changes_nothing() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    house.start("boss", "anna", Coach).unwrap();
    assert_eq!(house.drain(), [""; 0]);
}

#[test]
fn asking_again_after_hanging_up_joins_the_call_again() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    house.leg("boss", "c", LegOutcome::HungUp);
    house.drain();
    house.start("boss", "anna", Coach).unwrap();
    assert_eq!(house.drain(), ["invite boss c Coach", "inviting c"]);
}

#[test]
fn asking_for_another_target_cancels_the_first_monitor() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    house.start("boss", "bert", ListenIn).unwrap();
    assert_eq!(house.drain(), ["release boss c Replaced", "gone boss", "armed ListenIn AllCalls"]);
    house.talk("d", "bert");
    assert_eq!(house.drain(), ["invite boss d ListenIn", "inviting d"]);
}

#[test]
fn a_second_supervisor_is_refused_and_the_first_target_is_kept() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.start("chief", "bert", Coach).unwrap();
    house.drain();
    assert_eq!(house.start("chief", "anna", Coach).unwrap_err().reason, Reason::InUse);
    assert_eq!(house.drain(), [""; 0]);
    assert_eq!(house.monitor("chief").target.as_str(), "bert");
}

#[test]
fn two_supervisors_join_where_the_house_allows_two() {
    let mut house = House::new(SupervisionConfig {
        max_supervisors_per_device: 2,
        ..SupervisionConfig::default()
    });
    house.start("boss", "anna", Coach).unwrap();
    house.start("chief", "anna", ListenIn).unwrap();
    assert_eq!(house.start("third", "anna", ListenIn).unwrap_err().reason, Reason::InUse);
    house.drain();
    house.talk("c", "anna");
    assert_eq!(
        house.drain(),
        ["invite boss c Coach", "inviting c", "invite chief c ListenIn", "inviting c"]
    );
}

#[test]
fn nobody_monitors_himself() {
    let mut house = House::default();
    assert_eq!(house.start("boss", "boss", Coach).unwrap_err().reason, Reason::NotPermitted);
    house.start("boss", "anna", Coach).unwrap();
    house.drain();
    house.call("c", [("boss", Agent, Established), ("anna", Agent, Established)]);
    assert_eq!(house.drain(), [""; 0]);
}

#[test]
fn a_join_waits_for_leave_and_without_an_answer_nobody_joins() {
    let mut house = House::default();
    house.start_confirmed("boss", "anna", Coach).unwrap();
    house.drain();
    house.talk("c", "anna");
    assert_eq!(house.drain(), ["admitting c", "ask boss c Coach"]);
    house.wait(Duration::from_secs(5));
    assert_eq!(house.drain(), ["failed boss Unavailable", "armed Coach AllCalls"]);
    assert_eq!(house.admit("boss", "c", true).unwrap_err().reason, Reason::InvalidState);
    house.talk("d", "anna");
    assert_eq!(house.drain(), ["admitting d", "ask boss d Coach"]);
    house.admit("boss", "d", true).unwrap();
    assert_eq!(house.drain(), ["invite boss d Coach", "inviting d"]);
}

#[test]
fn who_is_not_admitted_does_not_join_and_stays_armed() {
    let mut house = House::default();
    house.talk("c", "anna");
    house.start_confirmed("boss", "anna", Coach).unwrap();
    house.drain();
    house.admit("boss", "c", false).unwrap();
    assert_eq!(house.drain(), ["failed boss NotPermitted", "armed Coach AllCalls"]);
    assert_eq!(house.machine.poll_timeout(), None);
}

#[test]
fn leave_is_asked_anew_when_the_activity_has_changed() {
    let mut house = House::default();
    house.talk("c", "anna");
    house.start_confirmed("boss", "anna", ListenIn).unwrap();
    house.drain();
    house.start_confirmed("boss", "anna", BargeIn).unwrap();
    assert_eq!(house.drain(), ["admitting c", "ask boss c BargeIn"]);
}

#[test]
fn a_call_that_ends_while_leave_is_asked_leaves_no_timer() {
    let mut house = House::default();
    house.talk("c", "anna");
    house.start_confirmed("boss", "anna", ListenIn).unwrap();
    house.drain();
    house.over("c");
    assert_eq!(house.drain(), ["armed ListenIn AllCalls"]);
    assert_eq!(house.machine.poll_timeout(), None);
}

#[test]
fn a_call_that_ends_while_he_is_invited_releases_him_and_spends_nothing() {
    let mut house = House::default();
    house.start_as("boss", "anna", Coach, NextCall, Scope::Call).unwrap();
    house.talk("c", "anna");
    house.drain();
    house.over("c");
    assert_eq!(house.drain(), ["release boss c CallEnded", "armed Coach NextCall"]);
}

#[test]
fn with_scope_agent_he_leaves_with_the_agent() {
    let mut house = House::default();
    house.start_as("boss", "anna", Coach, AllCalls, Scope::Agent).unwrap();
    house.join("boss", "c", "anna");
    house.call(
        "c",
        [("", Customer, Established), ("anna", Agent, Released), ("bert", Agent, Ringing)],
    );
    assert_eq!(house.drain(), ["release boss c AgentLeft", "armed Coach AllCalls"]);
}

#[test]
fn with_scope_call_the_whisper_moves_to_the_agent_who_takes_over() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    house.call(
        "c",
        [("", Customer, Established), ("anna", Agent, Released), ("bert", Agent, Ringing)],
    );
    assert_eq!(house.drain(), ["hear boss c Coach nobody"]);
    house.call(
        "c",
        [("", Customer, Established), ("anna", Agent, Released), ("bert", Agent, Established)],
    );
    assert_eq!(house.drain(), ["hear boss c Coach bert"]);
    house.call(
        "c",
        [("", Customer, Released), ("anna", Agent, Released), ("bert", Agent, Established)],
    );
    assert_eq!(house.drain(), ["release boss c CustomerLeft", "armed Coach AllCalls"]);
}

#[test]
fn between_two_agents_the_one_who_talked_to_the_target_is_never_coached() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.call_of(
        "c",
        CallType::Internal,
        &[("cleo", Agent, Established), ("anna", Agent, Established)],
    );
    house.leg("boss", "c", LegOutcome::Answered);
    house.drain();
    let left = [("cleo", Agent, Established), ("anna", Agent, Released), ("bert", Agent, Ringing)];
    house.call_of("c", CallType::Internal, &left);
    assert_eq!(house.drain(), ["hear boss c Coach nobody"]);
    let taken =
        [("cleo", Agent, Established), ("anna", Agent, Released), ("bert", Agent, Established)];
    house.call_of("c", CallType::Internal, &taken);
    assert_eq!(house.drain(), ["hear boss c Coach bert"]);
}

#[test]
fn a_scope_narrowed_after_the_agent_left_releases_him() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    house.call("c", [("", Customer, Established), ("anna", Agent, Released)]);
    house.drain();
    house.start_as("boss", "anna", Coach, AllCalls, Scope::Agent).unwrap();
    assert_eq!(
        house.drain(),
        ["joined c Coach", "release boss c AgentLeft", "armed Coach AllCalls"]
    );
}

#[test]
fn he_stays_for_a_debrief_only_where_the_house_wants_it() {
    for (debrief, activity, stays) in
        [(true, Coach, true), (true, BargeIn, true), (true, ListenIn, false), (false, Coach, false)]
    {
        let mut house = House::new(SupervisionConfig { debrief, ..SupervisionConfig::default() });
        house.start("boss", "anna", activity).unwrap();
        house.join("boss", "c", "anna");
        let left =
            fact("c", CallType::Inbound, &[("", Customer, Released), ("anna", Agent, Established)]);
        assert_eq!(house.machine.keeps_alive(&left), stays);
        house.machine.handle_call(&left, house.now);
        assert_eq!(house.drain().is_empty(), stays, "{debrief} {activity}");
    }
}

#[test]
fn where_he_may_not_stay_he_is_not_invited() {
    let conference =
        [("", Customer, Established), ("anna", Agent, Established), ("bert", Agent, Established)];
    let without_the_customer =
        [("", Customer, Released), ("anna", Agent, Established), ("bert", Agent, Established)];
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.call("c", conference);
    house.leg("boss", "c", LegOutcome::Answered);
    house.drain();
    house.call("c", without_the_customer);
    assert_eq!(house.drain(), ["release boss c CustomerLeft", "armed Coach AllCalls"]);
    assert_eq!(house.monitor("boss").state, MonitorState::Armed);

    house.start("boss", "bert", Coach).unwrap();
    assert_eq!(house.drain(), ["gone boss", "armed Coach AllCalls"]);
    house.start_as("boss", "bert", Coach, AllCalls, Scope::Agent).unwrap();
    assert_eq!(house.drain()[1..], ["invite boss c Coach", "inviting c"]);
}

#[test]
fn a_customer_whom_nobody_has_reached_was_never_there() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.drain();
    let parties =
        [("anna", Agent, Established), ("bert", Agent, Established), ("", Customer, Released)];
    let mut tried = fact("c", CallType::Internal, &parties);
    tried.parties[2].established_at = None;
    house.machine.handle_call(&tried, house.now);
    assert_eq!(house.drain()[0], "invite boss c Coach");
    house.leg("boss", "c", LegOutcome::Answered);
    assert_eq!(house.drain()[0], "hear boss c Coach anna");
}

#[test]
fn listening_in_ends_a_debrief() {
    let mut house = House::new(SupervisionConfig { debrief: true, ..SupervisionConfig::default() });
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    house.call("c", [("", Customer, Released), ("anna", Agent, Established)]);
    house.switch("boss", "c", ListenIn).unwrap();
    assert_eq!(house.drain()[2..], ["release boss c CustomerLeft", "armed Coach AllCalls"]);
}

#[test]
fn he_takes_over_only_in_barge_in_with_scope_call_where_the_house_wants_it() {
    for (takeover, activity, scope, heard) in [
        (true, BargeIn, Scope::Call, true),
        (true, Coach, Scope::Call, false),
        (true, BargeIn, Scope::Agent, false),
        (false, BargeIn, Scope::Call, false),
    ] {
        let mut house = House::new(SupervisionConfig { takeover, ..SupervisionConfig::default() });
        house.start_as("boss", "anna", activity, AllCalls, scope).unwrap();
        house.join("boss", "c", "anna");
        let left =
            fact("c", CallType::Inbound, &[("", Customer, Established), ("anna", Agent, Released)]);
        assert_eq!(house.machine.keeps_alive(&left), heard);
        house.machine.handle_call(&left, house.now);
        assert_eq!(
            house.drain().contains(&"hear boss c BargeIn customer".to_owned()),
            heard,
            "{takeover} {activity} {scope}"
        );
    }
}

#[test]
fn a_held_call_keeps_its_supervisor() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    house.call("c", [("", Customer, Established), ("anna", Agent, Held)]);
    assert_eq!(house.drain(), [""; 0]);
}

#[test]
fn he_stays_on_the_first_call_while_the_agent_consults() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    house.call("c", [("", Customer, Established), ("anna", Agent, Held)]);
    house.call_of(
        "d",
        CallType::Consult,
        &[("anna", Agent, Established), ("bert", Agent, Established)],
    );
    assert_eq!(house.drain(), [""; 0]);
}

#[test]
fn consult_calls_are_monitored_from_the_sides_that_the_house_wants() {
    for (consults, of_maker, of_receiver) in [
        (Consults::None, false, false),
        (Consults::Orig, true, false),
        (Consults::Dest, false, true),
        (Consults::All, true, true),
    ] {
        let mut house = House::new(SupervisionConfig {
            monitor_consult_calls: consults,
            ..SupervisionConfig::default()
        });
        house.start("boss", "anna", Coach).unwrap();
        house.start("chief", "bert", Coach).unwrap();
        house.drain();
        house.call_of(
            "d",
            CallType::Consult,
            &[("anna", Agent, Established), ("bert", Agent, Established)],
        );
        let invited = house.drain();
        assert_eq!(invited.contains(&"invite boss d Coach".to_owned()), of_maker);
        assert_eq!(invited.contains(&"invite chief d Coach".to_owned()), of_receiver);
    }
}

#[test]
fn internal_calls_are_left_alone_where_the_house_wants_it() {
    let mut house = House::new(SupervisionConfig {
        monitor_internal_calls: false,
        ..SupervisionConfig::default()
    });
    house.start("boss", "anna", Coach).unwrap();
    house.drain();
    house.call_of(
        "c",
        CallType::Internal,
        &[("cleo", Agent, Established), ("anna", Agent, Established)],
    );
    assert_eq!(house.drain(), [""; 0]);
}

#[test]
fn of_several_calls_the_joined_one_is_followed_and_the_next_is_chosen_when_it_ends() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    house.call("c", [("", Customer, Established), ("anna", Agent, Held)]);
    house.talk("d", "anna");
    assert_eq!(house.drain(), [""; 0]);
    house.over("c");
    assert_eq!(
        house.drain(),
        ["release boss c CallEnded", "armed Coach AllCalls", "invite boss d Coach", "inviting d"]
    );
}

#[test]
fn a_restart_keeps_monitors_armed_and_whoever_was_joined_is_invited_again() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    let kept = house.machine.monitors().collect();
    house.machine = Supervision::new(SupervisionConfig::default(), kept);
    assert_eq!(house.monitor("boss").state, MonitorState::Armed);
    house.talk("c", "anna");
    assert_eq!(house.drain(), ["invite boss c Coach", "inviting c"]);
}

#[test]
fn a_device_that_is_gone_takes_its_monitors_along() {
    let mut house = House::default();
    house.start("boss", "anna", Coach).unwrap();
    house.join("boss", "c", "anna");
    house.machine.handle_device_gone(&"anna".into(), house.now);
    assert_eq!(house.drain(), ["release boss c DeviceGone", "gone boss"]);
}

#[test]
fn muting_the_agent_is_forbidden_for_now() {
    let mut house = House::default();
    let command =
        Command::MuteMonitoredParty { supervisor: "boss".into(), call: "c".into(), muted: true };
    assert_eq!(
        house.machine.handle_command(&command, house.now).unwrap_err().reason,
        Reason::Forbidden
    );
}

/// One step of a random house.
#[derive(Clone, Debug)]
enum Step {
    Start(usize, usize, usize, bool, bool, bool),
    Stop(usize),
    Switch(usize, usize, usize),
    Admit(usize, usize, bool),
    Leg(usize, usize, usize),
    Call(usize, [usize; 4]),
    Over(usize),
    Wait(u64),
    Gone(usize),
}

const BOSSES: [&str; 3] = ["boss", "chief", "head"];
const AGENTS: [&str; 3] = ["anna", "bert", "cleo"];
const CALLS: [&str; 3] = ["c", "d", "e"];
const OUTCOMES: [LegOutcome; 9] = [
    LegOutcome::Answered,
    LegOutcome::Busy,
    LegOutcome::Rejected { status: Some(603) },
    LegOutcome::NoAnswer,
    LegOutcome::Unregistered,
    LegOutcome::Unreachable { status: Some(480) },
    LegOutcome::HungUp,
    LegOutcome::Relayed,
    LegOutcome::NoCommonCodec,
];
const STATES: [LegState; 5] = [Dialing, Ringing, Established, Held, Released];

fn step() -> impl Strategy<Value = Step> {
    let one = 0..3usize;
    prop_oneof![
        1 => (one.clone(), one.clone(), one.clone(), any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(boss, agent, activity, next, scope, confirm)| {
                Step::Start(boss, agent, activity, next, scope, confirm)
            }),
        1 => one.clone().prop_map(Step::Stop),
        1 => (one.clone(), one.clone(), one.clone())
            .prop_map(|(boss, call, activity)| Step::Switch(boss, call, activity)),
        2 => (one.clone(), one.clone(), any::<bool>())
            .prop_map(|(boss, call, yes)| Step::Admit(boss, call, yes)),
        3 => (one.clone(), one.clone(), 0..6usize)
            .prop_map(|(boss, call, outcome)| Step::Leg(boss, call, outcome)),
        4 => (one.clone(), [0..5usize, 0..5, 0..5, 0..5])
            .prop_map(|(call, states)| Step::Call(call, states)),
        1 => one.clone().prop_map(Step::Over),
        1 => (0..25_000u64).prop_map(Step::Wait),
        1 => one.prop_map(Step::Gone),
    ]
}

/// What an observer who sees only inputs and outputs knows.
#[derive(Default)]
struct Observer {
    monitors: BTreeMap<DeviceId, MonitorFact>,
    /// Legs asked for and not ended.
    legs: BTreeMap<(DeviceId, CallId), bool>,
    calls: BTreeMap<CallId, CallFact>,
}

impl Observer {
    fn see(&mut self, output: SupervisionOutput) {
        match output {
            SupervisionOutput::AskAdmission(asked) => {
                let monitor = &self.monitors[&asked.supervisor];
                assert_eq!(monitor.state, MonitorState::Admitting { call: asked.call });
            }
            SupervisionOutput::Invite { supervisor, call, target, .. } => {
                assert_ne!(supervisor, target);
                assert!(self.calls[&call].party_of(&target).is_some());
                let busy = self.legs.keys().any(|(his, _)| *his == supervisor);
                assert!(!busy, "{supervisor} is brought in twice");
                self.legs.insert((supervisor, call), false);
            }
            SupervisionOutput::Hear { supervisor, call, coached, takeover, .. } => {
                assert!(
                    self.legs.get(&(supervisor, call.clone())) == Some(&true),
                    "hears without having answered"
                );
                assert!(!takeover);
                if let Some(coached) = coached {
                    let party =
                        self.calls[&call].party_of(&coached).expect("coached is on the call");
                    assert_eq!(party.role, Agent, "only an agent is coached");
                }
            }
            SupervisionOutput::Release { supervisor, call, .. } => {
                assert!(
                    self.legs.remove(&(supervisor, call)).is_some(),
                    "released what was not there"
                );
            }
            SupervisionOutput::Changed(fact) => {
                self.monitors.insert(fact.supervisor.clone(), fact);
            }
            SupervisionOutput::Gone { supervisor } => {
                assert!(self.monitors.remove(&supervisor).is_some());
            }
            SupervisionOutput::Failed(failure) => {
                assert!(BOSSES.contains(&failure.device.as_str()))
            }
        }
    }

    fn hold(&self, machine: &Supervision, config: &SupervisionConfig) {
        let told: Vec<_> = machine.monitors().collect();
        assert_eq!(
            told,
            self.monitors.values().cloned().collect::<Vec<_>>(),
            "what was published is what is"
        );
        for (supervisor, call) in self.legs.keys() {
            let monitor = self.monitors.get(supervisor).expect("a leg without a monitor");
            assert_eq!(monitor.state.call(), Some(call));
            assert!(self.calls.contains_key(call), "a leg on a call that is over");
            if monitor.scope == Scope::Agent {
                assert!(
                    self.calls[call].party_of(&monitor.target).is_some(),
                    "the agent has left and he has not"
                );
            }
        }
        let waiting = told.iter().filter(|monitor| {
            matches!(monitor.state, MonitorState::Admitting { .. } | MonitorState::Inviting { .. })
        });
        assert_eq!(machine.poll_timeout().is_some(), waiting.count() > 0, "a timer is left over");
        for monitor in &told {
            if let MonitorState::Joined { call, .. } | MonitorState::Inviting { call } =
                &monitor.state
            {
                let answered = matches!(monitor.state, MonitorState::Joined { .. });
                assert_eq!(
                    self.legs.get(&(monitor.supervisor.clone(), call.clone())),
                    Some(&answered)
                );
            }
        }
        let targets: BTreeSet<_> = told.iter().map(|monitor| &monitor.target).collect();
        if config.max_supervisors_per_device == 1 {
            assert_eq!(targets.len(), told.len(), "two supervisors of one device");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_each_leg_ends_once_and_nobody_stays_without_a_monitor(
        steps in proptest::collection::vec(step(), 0..80),
        most in 1..3usize,
        debrief in any::<bool>(),
        intrusion in 0..3usize,
    ) {
        let config = SupervisionConfig {
            max_supervisors_per_device: most,
            debrief,
            intrusion: [Intrusion::Any, Intrusion::BargeIn, Intrusion::Never][intrusion],
            ..SupervisionConfig::default()
        };
        let mut house = House::new(config.clone());
        let mut observer = Observer::default();
        for step in steps {
            match step {
                Step::Start(boss, agent, activity, next, scope, confirm) => {
                    let before: Vec<_> = house.machine.monitors().collect();
                    let command = Command::StartMonitoring {
                        supervisor: BOSSES[boss].into(),
                        target: AGENTS[agent].into(),
                        activity: Activity::ALL[activity],
                        mode: if next { NextCall } else { AllCalls },
                        scope: if scope { Scope::Agent } else { Scope::Call },
                        confirm_joins: confirm,
                        agent_side_only: false,
                    };
                    if house.machine.handle_command(&command, house.now).is_err() {
                        prop_assert_eq!(before, house.machine.monitors().collect::<Vec<_>>());
                    }
                }
                Step::Stop(boss) => {
                    let had = observer.monitors.contains_key(BOSSES[boss]);
                    prop_assert_eq!(house.stop(BOSSES[boss]).is_ok(), had);
                }
                Step::Switch(boss, call, activity) => {
                    let to = Activity::ALL[activity];
                    let may = observer.monitors.get(BOSSES[boss]).is_some_and(|monitor| {
                        matches!(
                            &monitor.state,
                            MonitorState::Joined { call: his, activity, .. }
                                if his.as_str() == CALLS[call] && *activity != to
                        )
                    });
                    prop_assert_eq!(house.switch(BOSSES[boss], CALLS[call], to).is_ok(), may);
                }
                Step::Admit(boss, call, yes) => {
                    let asked = observer.monitors.get(BOSSES[boss]).is_some_and(|monitor| {
                        monitor.state == MonitorState::Admitting { call: CALLS[call].into() }
                    });
                    prop_assert_eq!(house.admit(BOSSES[boss], CALLS[call], yes).is_ok(), asked);
                }
                Step::Leg(boss, call, outcome) => {
                    let key = (BOSSES[boss].into(), CALLS[call].into());
                    let outcome = OUTCOMES[outcome];
                    match (observer.legs.get(&key), outcome) {
                        (Some(false), LegOutcome::Answered) => {
                            observer.legs.insert(key, true);
                        }
                        (Some(false), _) | (Some(true), LegOutcome::HungUp) => {
                            observer.legs.remove(&key);
                        }
                        (Some(true), _) => continue,
                        (None, _) => {}
                    }
                    house.leg(BOSSES[boss], CALLS[call], outcome);
                }
                Step::Call(call, states) => {
                    let parties = [
                        ("", Customer, STATES[states[0]]),
                        ("anna", Agent, STATES[states[1]]),
                        ("bert", Agent, STATES[states[2]]),
                        ("boss", Agent, if states[3] == 0 { Established } else { Released }),
                    ];
                    let fact = fact(CALLS[call], CallType::Inbound, &parties);
                    if fact.is_over() {
                        observer.calls.remove(&fact.id);
                    } else {
                        observer.calls.insert(fact.id.clone(), fact.clone());
                    }
                    house.machine.handle_call(&fact, house.now);
                }
                Step::Over(call) => {
                    observer.calls.remove(CALLS[call]);
                    house.over(CALLS[call]);
                }
                Step::Wait(ms) => house.wait(Duration::from_millis(ms)),
                Step::Gone(agent) => {
                    house.machine.handle_device_gone(&AGENTS[agent].into(), house.now)
                }
            }
            while let Some(output) = house.machine.poll_output() {
                observer.see(output);
            }
            observer.hold(&house.machine, &config);
        }
        for call in CALLS {
            observer.calls.remove(call);
            house.over(call);
            while let Some(output) = house.machine.poll_output() {
                observer.see(output);
            }
            observer.hold(&house.machine, &config);
        }
        prop_assert!(observer.legs.is_empty());
        prop_assert_eq!(house.machine.poll_timeout(), None);
    }
}

/// A machine with its own clock.
struct House {
    machine: Supervision,
    now: Now,
}

impl Default for House {
    fn default() -> Self {
        Self::new(SupervisionConfig::default())
    }
}

impl House {
    fn new(config: SupervisionConfig) -> Self {
        Self { machine: Supervision::new(config, Vec::new()), now: beginning() }
    }

    fn start(&mut self, supervisor: &str, target: &str, activity: Activity) -> Result<(), Refusal> {
        self.start_as(supervisor, target, activity, AllCalls, Scope::Call)
    }

    fn start_as(
        &mut self,
        supervisor: &str,
        target: &str,
        activity: Activity,
        mode: Mode,
        scope: Scope,
    ) -> Result<(), Refusal> {
        let command = Command::StartMonitoring {
            supervisor: supervisor.into(),
            target: target.into(),
            activity,
            mode,
            scope,
            confirm_joins: false,
            agent_side_only: false,
        };
        self.machine.handle_command(&command, self.now)
    }

    fn start_confirmed(
        &mut self,
        supervisor: &str,
        target: &str,
        activity: Activity,
    ) -> Result<(), Refusal> {
        let command = Command::StartMonitoring {
            supervisor: supervisor.into(),
            target: target.into(),
            activity,
            mode: AllCalls,
            scope: Scope::Call,
            confirm_joins: true,
            agent_side_only: false,
        };
        self.machine.handle_command(&command, self.now)
    }

    fn stop(&mut self, supervisor: &str) -> Result<(), Refusal> {
        let command = Command::StopMonitoring { supervisor: supervisor.into() };
        self.machine.handle_command(&command, self.now)
    }

    fn switch(&mut self, supervisor: &str, call: &str, activity: Activity) -> Result<(), Refusal> {
        let command = Command::SwitchMonitoring {
            supervisor: supervisor.into(),
            call: call.into(),
            activity,
        };
        self.machine.handle_command(&command, self.now)
    }

    fn admit(&mut self, supervisor: &str, call: &str, admitted: bool) -> Result<(), Refusal> {
        let command =
            Command::AdmitMonitoring { supervisor: supervisor.into(), call: call.into(), admitted };
        self.machine.handle_command(&command, self.now)
    }

    fn leg(&mut self, supervisor: &str, call: &str, outcome: LegOutcome) {
        self.machine.handle_leg(&supervisor.into(), &call.into(), outcome, self.now);
    }

    fn call<const N: usize>(&mut self, id: &str, parties: [(&str, PartyRole, LegState); N]) {
        self.call_of(id, CallType::Inbound, &parties);
    }

    fn call_of(&mut self, id: &str, call_type: CallType, parties: &[(&str, PartyRole, LegState)]) {
        self.machine.handle_call(&fact(id, call_type, parties), self.now);
    }

    fn talk(&mut self, id: &str, agent: &str) {
        self.call(id, [("", Customer, Established), (agent, Agent, Established)]);
    }

    fn over(&mut self, id: &str) {
        self.call(id, [("", Customer, Released), ("anna", Agent, Released)]);
    }

    /// The agent answers, the supervisor too; what comes of it is not looked at.
    fn join(&mut self, supervisor: &str, call: &str, agent: &str) {
        self.talk(call, agent);
        self.leg(supervisor, call, LegOutcome::Answered);
        self.drain();
    }

    fn wait(&mut self, time: Duration) {
        self.now = self.now + time;
        if self.machine.poll_timeout().is_some_and(|at| at <= self.now.mono) {
            self.machine.handle_timeout(self.now);
        }
    }

    fn monitor(&self, supervisor: &str) -> MonitorFact {
        let mut monitors = self.machine.monitors();
        monitors.find(|monitor| monitor.supervisor.as_str() == supervisor).unwrap()
    }

    fn drain(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.machine.poll_output()).map(told).collect()
    }
}

fn told(output: SupervisionOutput) -> String {
    match output {
        SupervisionOutput::AskAdmission(asked) => {
            format!("ask {} {} {}", asked.supervisor, asked.call, asked.activity)
        }
        SupervisionOutput::Invite { supervisor, call, activity, .. } => {
            format!("invite {supervisor} {call} {activity}")
        }
        SupervisionOutput::Hear { supervisor, call, activity, coached, takeover } => {
            let by = match (&coached, takeover) {
                (Some(coached), _) => coached.as_str(),
                (None, true) => "customer",
                (None, false) => "nobody",
            };
            format!("hear {supervisor} {call} {activity} {by}")
        }
        SupervisionOutput::Release { supervisor, call, reason } => {
            format!("release {supervisor} {call} {reason:?}")
        }
        SupervisionOutput::Changed(fact) => match fact.state {
            MonitorState::Armed => format!("armed {} {}", fact.activity, fact.mode),
            MonitorState::Admitting { call } => format!("admitting {call}"),
            MonitorState::Inviting { call } => format!("inviting {call}"),
            MonitorState::Joined { call, activity, .. } => format!("joined {call} {activity}"),
        },
        SupervisionOutput::Gone { supervisor } => format!("gone {supervisor}"),
        SupervisionOutput::Failed(failure) => {
            format!("failed {} {}", failure.device, failure.refusal.reason)
        }
    }
}

fn fact(id: &str, call_type: CallType, parties: &[(&str, PartyRole, LegState)]) -> CallFact {
    CallFact {
        id: id.into(),
        conn_id: "0123456789abcdef".into(),
        call_type,
        ani: "7001".into(),
        dnis: "5001".into(),
        started_at: Timestamp(0),
        parent: None,
        owner: None,
        user_data: Default::default(),
        parties: parties
            .iter()
            .map(|(device, role, state)| PartyFact {
                device: (!device.is_empty()).then(|| (*device).into()),
                number: (*device).into(),
                role: *role,
                state: *state,
                muted: false,
                muted_by_supervisor: false,
                held_at_phone: false,
                activity: None,
                monitors: None,
                established_at: matches!(state, Established | Held | Released)
                    .then_some(Timestamp(0)),
                quality: None,
                handed_on_to: None,
            })
            .collect(),
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "an Instant can be had in no other way; only differences to it matter"
)]
fn beginning() -> Now {
    Now { mono: Instant::now(), wall: Timestamp(1_000_000) }
}
