//! Who is shown as calling where a call was sent on, and why it comes; and parties of trunks that
//! are replaced at their own wish.

use super::harness::{AGENT, Harness, OTHER, SUPERVISOR, sdp};
use crate::model::{Activity, Command, Mode, MonitorState, Scope, TransferStep};
use crate::sip::leg::{
    CallReasons, DiversionReason, Identity, LegCommand, LegEvent, LegId, LegSource,
};

/// The caller, and why it calls, in the last INVITE of ours.
fn invited(harness: &mut Harness) -> (Identity, CallReasons) {
    let invites = harness.leg_commands().into_iter().filter_map(|command| match command {
        LegCommand::Invite { from, reasons, .. } => Some((from, reasons)),
        _ => None,
    });
    invites.last().expect("an INVITE")
}

fn diverted(reasons: &CallReasons) -> Vec<(&str, DiversionReason)> {
    reasons.diversions.iter().map(|by| (by.number.as_str(), by.reason)).collect()
}

fn by_trunk(harness: &mut Harness, name: &str, to: &str) -> LegId {
    harness.incoming(LegSource::Trunk(name.into()), to, Some(sdp(4000, "8", "sendrecv")))
}

/// A customer behind a trunk talks with the agent.
fn talk(harness: &mut Harness, trunk: &str) -> (LegId, LegId) {
    let customer = by_trunk(harness, trunk, "5001");
    let agent = harness.ringing(AGENT);
    harness.answer(agent);
    harness.log.clear();
    (customer, agent)
}

fn transfer(harness: &mut Harness, to: &str) {
    let step = TransferStep::SingleStep { destination: to.into(), user_data: Default::default() };
    let (device, call) = (AGENT.into(), harness.call_id());
    harness.command(Command::Transfer { device, call, step }).expect("accepted");
}

fn refers(harness: &mut Harness, leg: LegId, to: &str) {
    let (to, replaces) = (to.into(), None);
    harness.leg(LegEvent::Referred { leg, to, replaces, is_secure: false });
}

/// The unanswered leg to this number behind a trunk.
fn ringing_outside(harness: &Harness, number: &str) -> LegId {
    let is_there = |line: &&super::harness::Line| {
        line.outgoing && !line.answered && !line.ended && line.party == Err(number.into())
    };
    harness.lines.values().find(is_there).expect("rings").leg
}

/// Somebody answers behind the trunk that has A-law alone.
fn answers_outside(harness: &mut Harness, leg: LegId) {
    harness.leg(LegEvent::Answered { leg, media: sdp(5000, "8", "sendrecv") });
}

#[test]
fn a_private_customer_stays_private_wherever_it_is_transferred_or_forwarded() {
    let mut harness = Harness::new();
    harness.is_private = true;
    talk(&mut harness, "city");
    let ani = harness.only_call().ani.clone();
    assert_ne!(ani.as_str(), "anonymous", "the house knows the number");
    transfer(&mut harness, "0301");
    let (from, _) = invited(&mut harness);
    assert_eq!((from.number, from.is_private), (ani, true));

    let mut harness = Harness::new();
    harness.is_private = true;
    let forward = Command::SetForwarding { device: AGENT.into(), to: Some("0301".into()) };
    harness.command(forward).expect("accepted");
    by_trunk(&mut harness, "city", "5001");
    assert!(invited(&mut harness).0.is_private);
}

#[test]
fn a_call_that_is_transferred_or_forwarded_says_by_which_number() {
    let mut harness = Harness::new();
    let (customer, _) = talk(&mut harness, "city");
    let number = harness.lines[&customer].party.clone().expect_err("behind a trunk");
    transfer(&mut harness, "0301");
    let (from, reasons) = invited(&mut harness);
    assert_eq!(from.number, number, "the customer calls");
    assert_eq!(diverted(&reasons), [("5001", DiversionReason::Transfer)]);
    assert_eq!(reasons.referred_by, None, "no phone has asked for it");

    let mut harness = Harness::new();
    let (_, agent) = talk(&mut harness, "city");
    let forward = Command::SetForwarding { device: OTHER.into(), to: Some("0301".into()) };
    harness.command(forward).expect("accepted");
    refers(&mut harness, agent, "5002");
    let (_, reasons) = invited(&mut harness);
    let by = [("5002", DiversionReason::Unconditional), ("5001", DiversionReason::Transfer)];
    assert_eq!(diverted(&reasons), by, "the last one first");
    assert_eq!(reasons.referred_by.map(|by| by.number.to_string()), Some("5001".to_owned()));

    let mut harness = Harness::new();
    by_trunk(&mut harness, "city", "5001");
    let agent = harness.ringing(AGENT);
    harness.leg(LegEvent::Redirected { leg: agent, status: 302, to: vec!["0301".into()] });
    assert_eq!(diverted(&invited(&mut harness).1), [("5001", DiversionReason::Deflection)]);
}

#[test]
fn the_party_of_a_trunk_that_may_is_replaced_once_somebody_is_there() {
    let mut harness = Harness::new();
    let (customer, agent) = talk(&mut harness, "a-law");
    refers(&mut harness, customer, "5002");
    let next = harness.ringing(OTHER);
    let (from, reasons) = invited(&mut harness);
    assert_eq!(from.number.as_str(), "5001", "the agent is whom it gets");
    assert!(reasons.diversions.is_empty() && reasons.referred_by.is_some());
    harness.leg(LegEvent::Progress { leg: next, status: 180, media: None });
    assert!(harness.hears(agent, customer), "nobody could call the customer back");
    harness.answer(next);
    assert_eq!(harness.told_referrer(customer), [200]);
    assert!(harness.lines[&customer].ended);
    assert_eq!(harness.table(&[("c", customer), ("a", agent), ("n", next)]), "an na");
    harness.hangs_up(next);
    harness.assert_empty();
}

#[test]
fn it_goes_out_by_its_own_trunk_and_by_no_other() {
    let mut harness = Harness::new();
    let (customer, agent) = talk(&mut harness, "a-law");
    for (to, status) in [("0301", 403), ("999", 404), ("5001", 486)] {
        refers(&mut harness, customer, to);
        assert_eq!(harness.told_referrer(customer), [status], "{to}");
        assert!(harness.hears(agent, customer) && harness.hears(customer, agent), "{to}");
    }
    refers(&mut harness, customer, "0801");
    let next = ringing_outside(&harness, "0801");
    harness.leg(LegEvent::Progress { leg: next, status: 180, media: None });
    harness.leg(LegEvent::Refused { leg: next, status: 486 });
    assert_eq!(harness.told_referrer(customer), [486]);
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac", "nothing is lost");
    refers(&mut harness, customer, "0801");
    let next = ringing_outside(&harness, "0801");
    answers_outside(&mut harness, next);
    assert_eq!(harness.table(&[("c", customer), ("a", agent), ("n", next)]), "an na");
}

#[test]
fn the_party_of_any_other_trunk_sends_nobody_anywhere() {
    let mut harness = Harness::new();
    let (customer, agent) = talk(&mut harness, "city");
    for to in ["5002", "0301"] {
        refers(&mut harness, customer, to);
        assert_eq!(harness.told_referrer(customer), [403]);
    }
    assert_eq!(harness.find_ringing(OTHER), None);
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn the_coach_reaches_nobody_who_comes_in_the_customers_place() {
    // Scope Call is for a customer's call: between two agents there is none.
    for (scope, to, table) in [
        (Scope::Agent, "5002", "an as na sa sn"),
        (Scope::Agent, "0801", "an as na sa sn"),
        (Scope::Call, "5002", "an na"),
    ] {
        let mut harness = Harness::new();
        let (customer, agent) = talk(&mut harness, "a-law");
        harness.monitor(Activity::Coach, Mode::AllCalls, scope).expect("accepted");
        let supervisor = harness.ringing(SUPERVISOR);
        harness.answer(supervisor);
        refers(&mut harness, customer, to);
        let next = match to {
            "5002" => harness.ringing(OTHER),
            _ => ringing_outside(&harness, to),
        };
        answers_outside(&mut harness, next);
        let legs = [("c", customer), ("a", agent), ("n", next), ("s", supervisor)];
        assert_eq!(harness.table(&legs), table, "{scope:?} {to}");
        let is_joined = matches!(harness.monitors[SUPERVISOR].state, MonitorState::Joined { .. });
        assert_eq!(is_joined, table.contains('s'), "{scope:?} {to}");
    }
}
