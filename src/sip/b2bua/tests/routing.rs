//! Loops and spirals (RFC 3261 16.3), forwarding, redirections by a phone (RFC 3261 21.3).

use super::harness::{AGENT, CUSTOMER, Harness, OTHER, SUPERVISOR, sdp};
use crate::model::{Activity, Command, Mode, Scope, TransferStep};
use crate::sip::b2bua::{B2buaConfig, Output, RestoredCalls, Unroutable};
use crate::sip::leg::{Destination, LegCommand, LegEvent, LegId, LegSource};

fn forward(harness: &mut Harness, device: &str, to: &str) {
    let forward = Command::SetForwarding { device: device.into(), to: Some(to.into()) };
    harness.command(forward).expect("accepted");
}

fn city() -> LegSource {
    LegSource::Trunk("city".into())
}

/// Legs that were made since the last look: where to, and who is shown.
fn invited(harness: &mut Harness) -> Vec<(LegId, String, String)> {
    let commands = harness.leg_commands().into_iter();
    let invited = commands.filter_map(|command| match command {
        LegCommand::Invite { leg, to, from, .. } => {
            let to = match to {
                Destination::Device(device) => device.to_string(),
                Destination::Trunk { number, .. } => number.to_string(),
            };
            Some((leg, to, from.number.to_string()))
        }
        _ => None,
    });
    invited.collect()
}

/// What a caller was refused with since the last look, and why.
fn refused(harness: &mut Harness) -> Option<(u16, Option<Unroutable>)> {
    let log = std::mem::take(&mut harness.log);
    let why = log.iter().find_map(|output| match output {
        Output::Denied { why, .. } => Some(*why),
        _ => None,
    });
    log.iter().find_map(|output| match output {
        Output::Leg(LegCommand::Reject { status, .. }) => Some((*status, why)),
        _ => None,
    })
}

#[test]
fn a_spiral_to_another_number_rings_and_one_that_comes_round_again_is_a_loop() {
    let mut harness = Harness::new();
    harness.incoming(
        LegSource::Account(AGENT.into()),
        "0301",
        Some(sdp(4000, "0 8 101", "sendrecv")),
    );
    let (out, ..) = invited(&mut harness).pop().expect("called");
    harness.comes_back(city(), "5001", "5002", Some(out));
    let (_, to, _) = invited(&mut harness).pop().expect("5002 rings");
    assert_eq!(to, OTHER);
    harness.comes_back(city(), "5001", "0301", Some(out));
    assert_eq!(refused(&mut harness), Some((482, Some(Unroutable::Loop))), "as it went");

    forward(&mut harness, OTHER, "0302");
    harness.comes_back(city(), "5001", "5002", Some(out));
    let (second, to, _) = invited(&mut harness).pop().expect("a spiral goes on");
    assert_eq!(to, "0302");
    for number in ["5002", "0301", "0302"] {
        harness.comes_back(city(), "5001", number, Some(second));
        assert_eq!(refused(&mut harness), Some((482, Some(Unroutable::Loop))), "{number}");
    }
    forward(&mut harness, OTHER, "0301");
    harness.comes_back(city(), "5001", "5002", Some(out));
    assert_eq!(refused(&mut harness), Some((482, Some(Unroutable::Loop))), "without another hop");
}

#[test]
fn hops_are_counted_on_where_somebody_between_begins_anew() {
    let mut harness = Harness::new();
    harness.incoming(LegSource::Account(AGENT.into()), "0301", Some(sdp(4000, "0", "sendrecv")));
    let (mut out, ..) = invited(&mut harness).pop().expect("called");
    let mut left = Vec::new();
    for (device, number) in [(OTHER, "5002"), (SUPERVISOR, "5005")] {
        forward(&mut harness, device, &format!("03{number}"));
        harness.log.clear();
        harness.comes_back(city(), "5001", number, Some(out));
        let commands = harness.leg_commands();
        let next = commands.iter().find_map(|command| match command {
            LegCommand::Invite { leg, max_forwards, .. } => Some((*leg, *max_forwards)),
            _ => None,
        });
        let (leg, hops) = next.expect("goes on");
        left.push(hops);
        out = leg;
    }
    assert_eq!(left, [68, 67], "though each came with 69");
}

#[test]
fn a_call_that_comes_round_unknown_is_known_by_caller_number_and_trunk_while_it_rings() {
    let mut harness = Harness::new();
    forward(&mut harness, AGENT, "0301");
    harness.customer_calls("5001");
    assert_eq!(invited(&mut harness).len(), 1);
    harness.comes_back(city(), "7001", "5001", None);
    assert_eq!(refused(&mut harness), Some((482, Some(Unroutable::Repeated))));
    harness.comes_back(city(), "0177", "5001", None);
    let (second, ..) = invited(&mut harness).pop().expect("another caller is another call");
    harness.answer(second);
    harness.log.clear();
    harness.comes_back(city(), "0177", "5001", None);
    assert_eq!(invited(&mut harness).len(), 1, "the first no longer rings");
    for _ in 0..2 {
        harness.comes_back(city(), "anonymous", "5001", None);
        assert_eq!(
            invited(&mut harness).len(),
            1,
            "who withholds its number is not the one before"
        );
    }
}

#[test]
fn a_device_forwards_no_more_calls_at_once_than_it_may_have() {
    let mut harness = Harness::with(
        B2buaConfig { max_calls_per_device: 3, ..B2buaConfig::default() },
        RestoredCalls::default(),
    );
    forward(&mut harness, AGENT, "0301");
    let mut legs = Vec::new();
    for _ in 0..3 {
        legs.push(harness.incoming(city(), "5001", Some(sdp(4000, "0", "sendrecv"))));
    }
    assert_eq!(invited(&mut harness).len(), 3);
    harness.incoming(city(), "5001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(refused(&mut harness), Some((486, Some(Unroutable::ForwardedTooOften))));
    harness.hangs_up(legs[0]);
    harness.log.clear();
    harness.incoming(city(), "5001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(invited(&mut harness).len(), 1, "one has ended");
}

fn redirects(harness: &mut Harness, leg: LegId, to: &[&str]) {
    harness.log.clear();
    harness.leg(LegEvent::Redirected {
        leg,
        status: 302,
        to: to.iter().map(|number| (*number).into()).collect(),
    });
}

#[test]
fn a_phone_that_redirects_is_followed_and_the_caller_talks_to_where_it_points() {
    let mut harness = Harness::new();
    let customer = harness.customer_calls("5001");
    let agent = harness.ringing(AGENT);
    redirects(&mut harness, agent, &["5002"]);
    let other = harness.ringing(OTHER);
    let commands = harness.leg_commands();
    assert!(
        matches!(
            commands.as_slice(),
            [LegCommand::Invite { from, .. }] if from.number.as_str() == "7001"
        ),
        "{commands:?}"
    );
    harness.answer(other);
    assert_eq!(harness.table(&[("c", customer), ("o", other)]), "co oc");
    harness.hangs_up(customer);
    harness.assert_empty();
}

#[test]
fn a_redirection_goes_by_the_dial_rules_of_the_device_and_not_round_in_circles() {
    let mut harness = Harness::new();
    harness.customer_calls("5001");
    let agent = harness.ringing(AGENT);
    redirects(&mut harness, agent, &["9999", "0301"]);
    let (out, to, _) =
        invited(&mut harness).pop().expect("an agent may send its callers out of the harness");
    assert_eq!(to, "0301");
    harness.leg(LegEvent::Refused { leg: out, status: 486 });
    harness.assert_empty();

    for (number, status) in [("9999", 404), ("5001", 482), ("7001", 486)] {
        let mut harness = Harness::new();
        harness.customer_calls("5001");
        let agent = harness.ringing(AGENT);
        redirects(&mut harness, agent, &[number]);
        assert_eq!(refused(&mut harness).map(|(status, _)| status), Some(status), "{number}");
        harness.assert_empty();
    }

    let mut harness = Harness::new();
    harness.customer_calls("5001");
    let agent = harness.ringing(AGENT);
    redirects(&mut harness, agent, &["5002"]);
    let other = harness.ringing(OTHER);
    redirects(&mut harness, other, &["5001"]);
    assert_eq!(refused(&mut harness).map(|(status, _)| status), Some(482));
    harness.assert_empty();
}

#[test]
fn the_phone_of_a_customer_sends_nobody_out_by_a_trunk() {
    let mut harness = Harness::new();
    harness.incoming(LegSource::Account(AGENT.into()), "7001", Some(sdp(4000, "0", "sendrecv")));
    let customer = harness.ringing(CUSTOMER);
    redirects(&mut harness, customer, &["0900"]);
    assert_eq!(refused(&mut harness).map(|(status, _)| status), Some(403));
    harness.assert_empty();
}

#[test]
fn a_supervisors_phone_redirects_nobody_and_the_call_goes_on() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    let supervisor = harness.ringing(SUPERVISOR);
    redirects(&mut harness, supervisor, &["5002"]);
    assert!(invited(&mut harness).is_empty());
    assert_eq!(harness.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn a_transfer_follows_where_its_destination_points() {
    let mut harness = Harness::new();
    let (customer, _) = harness.talk();
    let call = harness.call_id();
    let step =
        TransferStep::SingleStep { destination: "5002".into(), user_data: Default::default() };
    harness.command(Command::Transfer { device: AGENT.into(), call, step }).expect("accepted");
    let other = harness.ringing(OTHER);
    redirects(&mut harness, other, &["5005"]);
    let supervisor = harness.ringing(SUPERVISOR);
    harness.answer(supervisor);
    assert_eq!(harness.table(&[("c", customer), ("b", supervisor)]), "cb bc");
}

/// Legs that were made since the last look, and whether each is to be over TLS or not at all.
fn secured(harness: &mut Harness) -> Vec<(LegId, bool)> {
    let commands = harness.leg_commands().into_iter();
    let invited = commands.filter_map(|command| match command {
        LegCommand::Invite { leg, is_secure, .. } => Some((leg, is_secure)),
        _ => None,
    });
    invited.collect()
}

#[test]
fn a_call_to_a_sips_uri_is_to_be_secure_on_every_leg_and_one_to_a_sip_uri_is_not() {
    for calls_sips in [true, false] {
        let mut harness = Harness::new();
        harness.calls_sips = calls_sips;
        harness.customer_calls("5001");
        let called = secured(&mut harness);
        assert!(matches!(called[..], [(_, secure)] if secure == calls_sips), "{called:?}");
        harness.answer(called[0].0);
        // Whoever it is handed on to is called as it was.
        for (to_sips, to, expected) in [(false, "999", None), (true, "5002", Some(true))] {
            let to = to.into();
            let (leg, replaces) = (called[0].0, None);
            harness.leg(LegEvent::Referred { leg, to, replaces, is_secure: to_sips });
            let next = secured(&mut harness);
            assert_eq!(next.first().map(|(_, secure)| *secure), expected);
        }
    }
}
