//! What a user does from afar with a call that rings, with a whole call, and with two calls.

use super::harness::{AGENT, CUSTOMER, Harness, OTHER, SUPERVISOR, SUPERVISOR2, sdp};
use crate::model::{
    Activity, CallId, Command, DeviceId, LegState, Mode, MonitorState, Reason, Refusal, Scope,
    TransferStep,
};
use crate::sip::b2bua::{B2buaConfig, RestoredCalls};
use crate::sip::leg::{HangupCause, LegCommand, LegEvent, LegId, LegSource};
use std::time::Duration;

fn reject(harness: &mut Harness, device: &str) -> Result<(), Refusal> {
    let call = harness.call_id();
    harness.command(Command::Reject { device: device.into(), call })
}

fn redirect(harness: &mut Harness, device: &str, to: &str) -> Result<(), Refusal> {
    let call = harness.call_id();
    let destination = to.into();
    harness.command(Command::Redirect { device: device.into(), call, destination })
}

fn clear(harness: &mut Harness, device: &str, call: &CallId) -> Result<(), Refusal> {
    harness.command(Command::ClearCall { device: device.into(), call: call.clone() })
}

fn swap(harness: &mut Harness, call: &CallId, other: &CallId) -> Result<(), Refusal> {
    let (call, other) = (call.clone(), other.clone());
    harness.command(Command::SwapCalls { device: AGENT.into(), call, other })
}

fn rings(harness: &mut Harness, leg: LegId) {
    harness.leg(LegEvent::Progress { leg, status: 180, media: None });
}

fn answers(harness: &mut Harness, device: &str) -> LegId {
    let leg = harness.ringing(device);
    harness.answer(leg);
    leg
}

fn outside(harness: &Harness) -> LegId {
    let line = harness.lines.values().find(|line| line.party == Err("0123".into()));
    line.expect("called").leg
}

/// The agent transfers the only call to a number, blindly.
fn transfer(harness: &mut Harness, to: &str) {
    let step = TransferStep::SingleStep { destination: to.into(), user_data: Default::default() };
    let call = harness.call_id();
    harness.command(Command::Transfer { device: AGENT.into(), call, step }).expect("accepted");
}

/// The agent talks to a customer, holds, and talks to another: the two calls and their legs,
/// customer and agent.
fn two_calls(harness: &mut Harness) -> [(CallId, LegId, LegId); 2] {
    let (customer, agent) = harness.talk();
    let first = harness.call_id();
    harness.command(Command::Hold { device: AGENT.into(), call: first.clone() }).expect("held");
    let offer = Some(sdp(4000, "0", "sendrecv"));
    let other = harness.incoming(LegSource::Trunk("city".into()), "5001", offer);
    let line = answers(harness, AGENT);
    let second = harness.calls.keys().find(|call| **call != first).cloned().expect("two calls");
    [(first, customer, agent), (second, other, line)]
}

fn states(harness: &Harness, calls: &[(CallId, LegId, LegId); 2]) -> [LegState; 2] {
    let state = |call: &CallId| harness.calls[call].party_of(&AGENT.into()).expect("there").state;
    [state(&calls[0].0), state(&calls[1].0)]
}

fn reason(done: Result<(), Refusal>) -> Reason {
    done.expect_err("refused").reason
}

#[test]
fn a_call_that_is_rejected_from_afar_is_busy_to_its_caller_and_its_phone_is_told_why() {
    for has_rung in [false, true] {
        let mut harness = Harness::new();
        let customer = harness.customer_calls("5001");
        let agent = harness.ringing(AGENT);
        if has_rung {
            rings(&mut harness, agent);
        }
        harness.log.clear();
        reject(&mut harness, AGENT).expect("accepted");
        let cancelled = LegCommand::Hangup { leg: agent, reason: Some(HangupCause::Declined) };
        let refused = LegCommand::Reject { leg: customer, status: 486 };
        assert_eq!(harness.leg_commands(), [cancelled, refused]);
        harness.assert_empty();
    }
}

#[test]
fn a_transferred_call_that_is_rejected_goes_back_as_if_the_phone_had_rejected_it() {
    let mut harness = Harness::new();
    let (customer, ..) = harness.coached(Activity::Coach);
    transfer(&mut harness, "5002");
    let next = harness.ringing(OTHER);
    rings(&mut harness, next);
    reject(&mut harness, OTHER).expect("accepted");
    let told = harness.failures.last().expect("told");
    assert_eq!(
        (&told.device, told.refusal.text()),
        (&AGENT.into(), "Number '5002' rejects the call.".into())
    );
    let back = answers(&mut harness, AGENT);
    assert_eq!(harness.table(&[("c", customer), ("a", back)]), "ca ac");
}

#[test]
fn only_a_call_of_another_that_rings_can_be_rejected_or_redirected() {
    let mut harness = Harness::new();
    let dial = Command::Dial {
        device: AGENT.into(),
        destination: "5002".into(),
        user_data: Default::default(),
    };
    harness.command(dial).expect("accepted");
    let own = harness.ringing(AGENT);
    rings(&mut harness, own);
    assert_eq!(reason(reject(&mut harness, AGENT)), Reason::InvalidState, "it is its own call");
    assert_eq!(reason(redirect(&mut harness, AGENT, "5005")), Reason::InvalidState);
    assert_eq!(harness.ringing(AGENT), own);
}

#[test]
fn a_redirected_call_rings_elsewhere_and_its_phone_no_more() {
    let mut harness = Harness::new();
    let customer = harness.customer_calls("5001");
    let agent = harness.ringing(AGENT);
    rings(&mut harness, agent);
    harness.log.clear();
    redirect(&mut harness, AGENT, "5002").expect("accepted");
    let commands = harness.leg_commands();
    let [LegCommand::Hangup { leg, reason }, LegCommand::Invite { from, .. }] = &commands[..]
    else {
        panic!("{commands:?}")
    };
    assert_eq!((*leg, *reason), (agent, Some(HangupCause::Redirected)));
    assert_eq!(from.number.as_str(), "7001", "the next one sees who calls");
    assert_eq!(harness.state_of(AGENT), LegState::Released);
    assert_eq!(harness.state_of(CUSTOMER), LegState::Dialing);
    let next = answers(&mut harness, OTHER);
    assert_eq!(harness.table(&[("c", customer), ("n", next)]), "cn nc");
    // The 200 of the first has crossed its CANCEL.
    harness.answer_late(agent);
    assert_eq!(harness.table(&[("c", customer), ("n", next)]), "cn nc");
}

#[test]
fn a_number_that_can_not_be_had_leaves_the_phone_ringing() {
    let quiet = |device: &str| Command::SetDoNotDisturb { device: device.into(), on: true };
    let forwards = |to: &str| Command::SetForwarding { device: OTHER.into(), to: Some(to.into()) };
    let gone = LegEvent::Registered { device: SUPERVISOR.into(), registered: false };
    for (to, expected) in [
        ("999", Reason::NotFound),
        ("5001", Reason::InvalidState),
        ("5002", Reason::InvalidState),
        ("5005", Reason::InvalidState),
        ("5006", Reason::InvalidState),
        ("7001", Reason::InvalidState),
    ] {
        let mut harness = Harness::new();
        harness.command(quiet(SUPERVISOR2)).expect("accepted");
        harness.command(forwards("5001")).expect("accepted");
        harness.leg(gone.clone());
        let customer = harness.customer_calls("5001");
        let agent = harness.ringing(AGENT);
        let before = harness.calls.clone();
        harness.log.clear();
        assert_eq!(reason(redirect(&mut harness, AGENT, to)), expected, "{to}");
        assert!(harness.log.is_empty() && before == harness.calls, "{to}: {:?}", harness.log);
        harness.answer(agent);
        assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac", "{to}");
    }
    let mut harness = Harness::new();
    harness.customer_calls("5001");
    let agent = harness.ringing(AGENT);
    harness.b2bua.environment.free = 0;
    assert_eq!(reason(redirect(&mut harness, AGENT, "5002")), Reason::Unavailable);
    harness.b2bua.environment.free = 10;
    let now = harness.now;
    harness.b2bua.close(Duration::from_secs(60), now);
    assert_eq!(reason(redirect(&mut harness, AGENT, "5002")), Reason::Unavailable);
    assert_eq!(harness.ringing(AGENT), agent);
}

#[test]
fn forwarding_is_followed_and_a_call_never_comes_back_to_where_it_was() {
    let mut harness = Harness::new();
    let forward = Command::SetForwarding { device: OTHER.into(), to: Some("5005".into()) };
    harness.command(forward).expect("accepted");
    harness.customer_calls("5001");
    redirect(&mut harness, AGENT, "5002").expect("accepted");
    harness.ringing(SUPERVISOR);
    redirect(&mut harness, SUPERVISOR, "5006").expect("accepted");
    for number in ["5001", "5002", "5005", "5006"] {
        assert_eq!(reason(redirect(&mut harness, SUPERVISOR2, number)), Reason::InvalidState);
    }
    redirect(&mut harness, SUPERVISOR2, "0123").expect("accepted");
    let outside = outside(&harness);
    harness.leg(LegEvent::Refused { leg: outside, status: 486 });
    harness.assert_empty();
}

#[test]
fn a_customer_s_phone_leads_nowhere_that_a_customer_may_not_call() {
    let mut harness = Harness::new();
    harness.incoming(LegSource::Account(AGENT.into()), "7001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(reason(redirect(&mut harness, CUSTOMER, "0123")), Reason::NotPermitted);
    redirect(&mut harness, CUSTOMER, "5002").expect("accepted");
}

#[test]
fn where_a_transfer_leads_may_be_redirected_and_so_may_a_call_that_comes_back() {
    let mut harness = Harness::new();
    let (customer, _) = harness.talk();
    transfer(&mut harness, "5002");
    let next = harness.ringing(OTHER);
    assert_eq!(reason(redirect(&mut harness, OTHER, "5001")), Reason::InvalidState, "it is there");
    rings(&mut harness, next);
    redirect(&mut harness, OTHER, "5006").expect("accepted");
    let third = harness.ringing(SUPERVISOR2);
    harness.leg(LegEvent::Refused { leg: third, status: 486 });
    let back = harness.ringing(AGENT);
    redirect(&mut harness, AGENT, "0123").expect("accepted");
    assert!(harness.lines[&back].ended);
    let outside = outside(&harness);
    harness.answer(outside);
    assert_eq!(harness.table(&[("c", customer), ("o", outside)]), "co oc");
}

#[test]
fn a_phone_that_sends_a_call_to_somebody_on_it_is_busy() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    transfer(&mut harness, "5002");
    let next = harness.ringing(OTHER);
    harness.leg(LegEvent::Redirected { leg: next, status: 302, to: vec!["5001".into()] });
    assert_eq!(harness.failures.last().expect("told").device, AGENT.into());
    assert_eq!(harness.find_ringing(AGENT), None);
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn a_redirected_call_is_not_the_devices_and_nobody_comes_to_monitor_it_there() {
    let mut harness = Harness::new();
    harness.monitor(Activity::Coach, Mode::NextCall, Scope::Call).expect("accepted");
    harness.customer_calls("5001");
    redirect(&mut harness, AGENT, "5002").expect("accepted");
    answers(&mut harness, OTHER);
    assert_eq!(harness.find_ringing(SUPERVISOR), None);
    assert_eq!(harness.monitors[SUPERVISOR].state, MonitorState::Armed);
}

#[test]
fn while_a_supervisor_is_invited_or_joined_a_redirected_transfer_whispers_to_nobody_else() {
    for joined_first in [true, false] {
        let mut harness = Harness::new();
        let (customer, agent) = harness.talk();
        harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
        let supervisor = harness.ringing(SUPERVISOR);
        if joined_first {
            harness.answer(supervisor);
        }
        transfer(&mut harness, "5002");
        let next = harness.ringing(OTHER);
        rings(&mut harness, next);
        redirect(&mut harness, OTHER, "0123").expect("accepted");
        if !joined_first && harness.find_ringing(SUPERVISOR) == Some(supervisor) {
            harness.answer(supervisor);
        }
        let outside = outside(&harness);
        let legs = [("c", customer), ("a", agent), ("n", next), ("o", outside), ("s", supervisor)];
        harness.answer(outside);
        let heard = harness.table(&legs);
        assert!(heard.starts_with("co oc"), "{heard}");
        for ear in ["cs", "os", "ns", "as"] {
            assert!(!heard.contains(ear), "joined first: {joined_first}: {heard}");
        }
    }
}

#[test]
fn a_call_is_cleared_for_everybody_in_one_step_and_its_monitor_goes_on() {
    for (mode, is_joined) in
        [(Mode::AllCalls, true), (Mode::AllCalls, false), (Mode::NextCall, true)]
    {
        let mut harness = Harness::new();
        let (customer, agent) = harness.talk();
        harness.monitor(Activity::BargeIn, mode, Scope::Call).expect("accepted");
        let supervisor = harness.ringing(SUPERVISOR);
        if is_joined {
            harness.answer(supervisor);
        }
        let call = harness.call_id();
        assert_eq!(reason(clear(&mut harness, SUPERVISOR, &call)), Reason::Forbidden);
        harness.log.clear();
        clear(&mut harness, AGENT, &call).expect("accepted");
        for leg in [customer, agent, supervisor] {
            assert!(harness.lines[&leg].ended);
        }
        let state = harness.monitors.get(SUPERVISOR).map(|monitor| monitor.state.clone());
        assert_eq!(state, (mode == Mode::AllCalls).then_some(MonitorState::Armed));
        let _ = harness.stop();
        harness.assert_empty();
    }
}

#[test]
fn nobody_stays_for_a_debrief_or_takes_over_when_a_call_is_cleared() {
    let mut config = B2buaConfig::default();
    (config.supervision.debrief, config.supervision.takeover) = (true, true);
    let mut harness = Harness::with(config, RestoredCalls::default());
    harness.coached(Activity::BargeIn);
    let call = harness.call_id();
    clear(&mut harness, AGENT, &call).expect("accepted");
    harness.stop().expect("armed");
    harness.assert_empty();
}

#[test]
fn a_call_that_rings_is_cleared_by_either_end() {
    for (who, status) in [(AGENT, 486), (CUSTOMER, 480)] {
        let mut harness = Harness::new();
        let customer = harness.customer_calls("5001");
        let call = harness.call_id();
        harness.log.clear();
        clear(&mut harness, who, &call).expect("accepted");
        let told = harness.leg_commands();
        assert!(told.contains(&LegCommand::Reject { leg: customer, status }), "{told:?}");
        harness.assert_empty();
    }
    let mut harness = Harness::new();
    let (device, destination) = (DeviceId::from(AGENT), "5002".into());
    harness
        .command(Command::Dial { device, destination, user_data: Default::default() })
        .expect("accepted");
    let call = harness.call_id();
    clear(&mut harness, AGENT, &call).expect("accepted");
    assert!(harness.failures.is_empty(), "{:?}", harness.failures);
    harness.assert_empty();
}

#[test]
fn a_transfer_under_way_is_cleared_with_its_call_and_its_phone_told_so() {
    let mut harness = Harness::new();
    let (_, agent) = harness.talk();
    harness.leg(LegEvent::Referred {
        leg: agent,
        to: "5002".into(),
        replaces: None,
        is_secure: false,
    });
    let (call, next) = (harness.call_id(), harness.ringing(OTHER));
    harness.log.clear();
    clear(&mut harness, AGENT, &call).expect("accepted");
    let told = harness.leg_commands();
    assert!(told.contains(&LegCommand::TellReferrer { leg: agent, status: 487 }), "{told:?}");
    assert!(harness.lines[&next].ended);
    harness.assert_empty();
}

/// What others are on is not ended by an agent whose phone only rings.
#[test]
fn an_agent_whose_phone_rings_for_a_call_of_others_declines_it_and_ends_it_for_nobody() {
    let conference = |harness: &mut Harness| {
        let step =
            TransferStep::SingleStep { destination: "5002".into(), user_data: Default::default() };
        let (device, call) = (AGENT.into(), harness.call_id());
        harness.command(Command::Conference { device, call, step }).expect("accepted");
    };
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    conference(&mut harness);
    let (call, next) = (harness.call_id(), harness.ringing(OTHER));
    rings(&mut harness, next);
    clear(&mut harness, OTHER, &call).expect("accepted");
    assert!(harness.lines[&next].ended);
    assert!(!harness.lines[&customer].ended && !harness.lines[&agent].ended);

    // The agent that transferred the call is called back, as after a rejection.
    let mut harness = Harness::new();
    let (customer, _) = harness.talk();
    transfer(&mut harness, "5002");
    let (call, next) = (harness.call_id(), harness.ringing(OTHER));
    rings(&mut harness, next);
    clear(&mut harness, OTHER, &call).expect("accepted");
    assert!(harness.lines[&next].ended && !harness.lines[&customer].ended);
    harness.ringing(AGENT);
}

#[test]
fn of_two_calls_the_one_that_was_asked_about_is_cleared_and_the_other_goes_on() {
    let mut harness = Harness::new();
    harness.talk();
    let first = harness.call_id();
    let step = TransferStep::Initiate { destination: "5002".into(), user_data: Default::default() };
    harness
        .command(Command::Transfer { device: AGENT.into(), call: first.clone(), step })
        .expect("accepted");
    let line = answers(&mut harness, AGENT);
    let colleague = answers(&mut harness, OTHER);
    clear(&mut harness, AGENT, &first).expect("accepted");
    let rest = harness.only_call();
    assert_eq!((rest.parent.clone(), rest.id == first), (None, false));
    assert_eq!(harness.table(&[("a", line), ("o", colleague)]), "ao oa");
}

#[test]
fn two_calls_change_places_and_each_customer_hears_what_is_meant_for_it() {
    let mut harness = Harness::new();
    let calls = two_calls(&mut harness);
    let legs = [("c", calls[0].1), ("a", calls[0].2), ("d", calls[1].1), ("b", calls[1].2)];
    assert_eq!(harness.table(&legs), "db bd");
    harness.log.clear();
    swap(&mut harness, &calls[0].0, &calls[1].0).expect("accepted");
    assert_eq!(states(&harness, &calls), [LegState::Established, LegState::Held]);
    assert_eq!(harness.table(&legs), "ca ac");
    assert!(harness.leg_commands().is_empty(), "no phone needs to know");
    // In either order, and as often as wished for.
    swap(&mut harness, &calls[0].0, &calls[1].0).expect("accepted");
    assert_eq!(states(&harness, &calls), [LegState::Held, LegState::Established]);
    assert_eq!(harness.table(&legs), "db bd");
}

#[test]
fn calls_are_swapped_only_where_one_is_established_and_one_held() {
    let mut harness = Harness::new();
    let calls = two_calls(&mut harness);
    let [(first, ..), (second, _, line)] = calls.clone();
    let refused = |harness: &mut Harness, one: &CallId, two: &CallId, expected| {
        let before = harness.calls.clone();
        harness.log.clear();
        assert_eq!(reason(swap(harness, one, two)), expected);
        assert!(before == harness.calls && harness.log.is_empty());
    };
    refused(&mut harness, &first, &first, Reason::InvalidState);
    refused(&mut harness, &first, &"gone".into(), Reason::NotFound);
    refused(&mut harness, &"gone".into(), &first, Reason::NotFound);
    let retrieve = Command::Retrieve { device: AGENT.into(), call: first.clone() };
    harness.command(retrieve).expect("accepted");
    refused(&mut harness, &first, &second, Reason::InvalidState);
    let hold = |call: &CallId| Command::Hold { device: AGENT.into(), call: call.clone() };
    harness.command(hold(&first)).expect("accepted");
    harness.command(hold(&second)).expect("accepted");
    refused(&mut harness, &first, &second, Reason::InvalidState);
    let retrieve = Command::Retrieve { device: AGENT.into(), call: first.clone() };
    harness.command(retrieve).expect("accepted");
    // What is held at the phone is taken back there.
    let at_phone = Some(sdp(5000, "0 101", "sendonly"));
    harness.leg(LegEvent::Offered { leg: line, media: at_phone });
    refused(&mut harness, &first, &second, Reason::InvalidState);
    let at_phone = Some(sdp(5000, "0 101", "sendrecv"));
    harness.leg(LegEvent::Offered { leg: line, media: at_phone });
    // That has ended the hold by command, too.
    refused(&mut harness, &first, &second, Reason::InvalidState);
    harness.command(hold(&second)).expect("accepted");
    swap(&mut harness, &first, &second).expect("accepted");

    let mut harness = Harness::new();
    harness.talk();
    let first = harness.call_id();
    harness.command(hold(&first)).expect("accepted");
    harness.incoming(LegSource::Trunk("city".into()), "5001", None);
    let second = harness.calls.keys().find(|call| **call != first).cloned().expect("two calls");
    refused(&mut harness, &first, &second, Reason::InvalidState);
    refused(&mut harness, &second, &first, Reason::InvalidState);
}

#[test]
fn the_coach_of_a_call_that_is_swapped_away_goes_on_whispering_to_that_agent_alone() {
    let mut harness = Harness::new();
    let calls = two_calls(&mut harness);
    swap(&mut harness, &calls[0].0, &calls[1].0).expect("accepted");
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
    let supervisor = answers(&mut harness, SUPERVISOR);
    let call = harness.lines[&supervisor].call;
    let (mine, others) = match call == harness.lines[&calls[0].1].call {
        true => (&calls[0], &calls[1]),
        false => (&calls[1], &calls[0]),
    };
    for _ in 0..2 {
        assert!(!harness.hears(mine.1, supervisor) && !harness.hears(others.1, supervisor));
        assert!(harness.hears(mine.2, supervisor), "agent and supervisor keep talking");
        swap(&mut harness, &calls[0].0, &calls[1].0).expect("accepted");
    }
    let command = Command::SwapCalls {
        device: SUPERVISOR.into(),
        call: mine.0.clone(),
        other: mine.0.clone(),
    };
    assert_eq!(reason(harness.command(command)), Reason::Forbidden);
}

#[test]
fn where_holds_are_signalled_a_phone_that_refuses_one_is_told_of_and_the_swap_holds() {
    let config = B2buaConfig { signal_hold: true, ..B2buaConfig::default() };
    let mut harness = Harness::with(config, RestoredCalls::default());
    let calls = two_calls(&mut harness);
    let (customer, other) = (calls[0].1, calls[1].1);
    let held = sdp(4000, "0 101", "recvonly");
    harness.leg(LegEvent::Confirmed { leg: customer, media: None });
    if harness.lines[&customer].offered {
        harness.leg(LegEvent::OfferAnswered { leg: customer, media: held });
    }
    harness.log.clear();
    swap(&mut harness, &calls[0].0, &calls[1].0).expect("accepted");
    let offered = harness.leg_commands().into_iter().filter_map(|command| match command {
        LegCommand::Offer { leg, .. } => Some(leg),
        _ => None,
    });
    assert_eq!(offered.collect::<Vec<_>>(), [customer, other]);
    harness.leg(LegEvent::OfferAnswered { leg: other, media: sdp(4000, "0 101", "recvonly") });
    assert!(harness.failures.is_empty());
    harness.leg(LegEvent::OfferRefused { leg: customer, status: 488 });
    let told = harness.failures.last().expect("told");
    assert_eq!((&told.device, &told.call), (&AGENT.into(), &Some(calls[0].0.clone())));
    assert_eq!(states(&harness, &calls), [LegState::Established, LegState::Held]);
    let legs = [("c", customer), ("a", calls[0].2), ("d", other), ("b", calls[1].2)];
    assert_eq!(harness.table(&legs), "ca ac");
}
