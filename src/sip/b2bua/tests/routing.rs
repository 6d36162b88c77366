//! Loops and spirals (RFC 3261 16.3), forwarding, redirections by a phone (RFC 3261 21.3).

use super::house::{AGENT, BOSS, CUSTOMER, House, OTHER, sdp};
use crate::model::{Activity, Command, Mode, Scope, TransferStep};
use crate::sip::b2bua::{B2buaConfig, Output, RestoredCalls, Unroutable};
use crate::sip::leg::{Destination, LegCommand, LegEvent, LegId, LegSource};

fn forward(house: &mut House, device: &str, to: &str) {
    let forward = Command::SetForwarding { device: device.into(), to: Some(to.into()) };
    house.command(forward).expect("accepted");
}

fn city() -> LegSource {
    LegSource::Trunk("city".into())
}

/// Legs that were made since the last look: where to, and who is shown.
fn invited(house: &mut House) -> Vec<(LegId, String, String)> {
    let commands = house.leg_commands().into_iter();
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
fn refused(house: &mut House) -> Option<(u16, Option<Unroutable>)> {
    let log = std::mem::take(&mut house.log);
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
    let mut house = House::new();
    house.incoming(
        LegSource::Account(AGENT.into()),
        "0301",
        Some(sdp(4000, "0 8 101", "sendrecv")),
    );
    let (out, ..) = invited(&mut house).pop().expect("called");
    house.comes_back(city(), "5001", "5002", Some(out));
    let (_, to, _) = invited(&mut house).pop().expect("5002 rings");
    assert_eq!(to, OTHER);
    house.comes_back(city(), "5001", "0301", Some(out));
    assert_eq!(refused(&mut house), Some((482, Some(Unroutable::Loop))), "as it went");

    forward(&mut house, OTHER, "0302");
    house.comes_back(city(), "5001", "5002", Some(out));
    let (second, to, _) = invited(&mut house).pop().expect("a spiral goes on");
    assert_eq!(to, "0302");
    for number in ["5002", "0301", "0302"] {
        house.comes_back(city(), "5001", number, Some(second));
        assert_eq!(refused(&mut house), Some((482, Some(Unroutable::Loop))), "{number}");
    }
    forward(&mut house, OTHER, "0301");
    house.comes_back(city(), "5001", "5002", Some(out));
    assert_eq!(refused(&mut house), Some((482, Some(Unroutable::Loop))), "without another hop");
}

#[test]
fn hops_are_counted_on_where_somebody_between_begins_anew() {
    let mut house = House::new();
    house.incoming(LegSource::Account(AGENT.into()), "0301", Some(sdp(4000, "0", "sendrecv")));
    let (mut out, ..) = invited(&mut house).pop().expect("called");
    let mut left = Vec::new();
    for (device, number) in [(OTHER, "5002"), (BOSS, "5005")] {
        forward(&mut house, device, &format!("03{number}"));
        house.log.clear();
        house.comes_back(city(), "5001", number, Some(out));
        let commands = house.leg_commands();
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
    let mut house = House::new();
    forward(&mut house, AGENT, "0301");
    house.customer_calls("5001");
    assert_eq!(invited(&mut house).len(), 1);
    house.comes_back(city(), "7001", "5001", None);
    assert_eq!(refused(&mut house), Some((482, Some(Unroutable::Repeated))));
    house.comes_back(city(), "0177", "5001", None);
    let (second, ..) = invited(&mut house).pop().expect("another caller is another call");
    house.answer(second);
    house.log.clear();
    house.comes_back(city(), "0177", "5001", None);
    assert_eq!(invited(&mut house).len(), 1, "the first no longer rings");
    for _ in 0..2 {
        house.comes_back(city(), "anonymous", "5001", None);
        assert_eq!(invited(&mut house).len(), 1, "who withholds its number is not the one before");
    }
}

#[test]
fn a_device_forwards_no_more_calls_at_once_than_it_may_have() {
    let mut house = House::with(
        B2buaConfig { max_calls_per_device: 3, ..B2buaConfig::default() },
        RestoredCalls::default(),
    );
    forward(&mut house, AGENT, "0301");
    let mut legs = Vec::new();
    for _ in 0..3 {
        legs.push(house.incoming(city(), "5001", Some(sdp(4000, "0", "sendrecv"))));
    }
    assert_eq!(invited(&mut house).len(), 3);
    house.incoming(city(), "5001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(refused(&mut house), Some((486, Some(Unroutable::ForwardedTooOften))));
    house.hangs_up(legs[0]);
    house.log.clear();
    house.incoming(city(), "5001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(invited(&mut house).len(), 1, "one has ended");
}

fn redirects(house: &mut House, leg: LegId, to: &[&str]) {
    house.log.clear();
    house.leg(LegEvent::Redirected {
        leg,
        status: 302,
        to: to.iter().map(|number| (*number).into()).collect(),
    });
}

#[test]
fn a_phone_that_redirects_is_followed_and_the_caller_talks_to_where_it_points() {
    let mut house = House::new();
    let customer = house.customer_calls("5001");
    let agent = house.ringing(AGENT);
    redirects(&mut house, agent, &["5002"]);
    let other = house.ringing(OTHER);
    let commands = house.leg_commands();
    assert!(
        matches!(commands.as_slice(), [LegCommand::Invite { from, .. }] if from.number.as_str() == "7001"),
        "{commands:?}"
    );
    house.answer(other);
    assert_eq!(house.table(&[("c", customer), ("o", other)]), "co oc");
    house.hangs_up(customer);
    house.assert_empty();
}

#[test]
fn a_redirection_goes_by_the_dial_rules_of_the_device_and_not_round_in_circles() {
    let mut house = House::new();
    house.customer_calls("5001");
    let agent = house.ringing(AGENT);
    redirects(&mut house, agent, &["9999", "0301"]);
    let (out, to, _) =
        invited(&mut house).pop().expect("an agent may send its callers out of the house");
    assert_eq!(to, "0301");
    house.leg(LegEvent::Refused { leg: out, status: 486 });
    house.assert_empty();

    for (number, status) in [("9999", 404), ("5001", 482), ("7001", 486)] {
        let mut house = House::new();
        house.customer_calls("5001");
        let agent = house.ringing(AGENT);
        redirects(&mut house, agent, &[number]);
        assert_eq!(refused(&mut house).map(|(status, _)| status), Some(status), "{number}");
        house.assert_empty();
    }

    let mut house = House::new();
    house.customer_calls("5001");
    let agent = house.ringing(AGENT);
    redirects(&mut house, agent, &["5002"]);
    let other = house.ringing(OTHER);
    redirects(&mut house, other, &["5001"]);
    assert_eq!(refused(&mut house).map(|(status, _)| status), Some(482));
    house.assert_empty();
}

#[test]
fn the_phone_of_a_customer_sends_nobody_out_of_the_house() {
    let mut house = House::new();
    house.incoming(LegSource::Account(AGENT.into()), "7001", Some(sdp(4000, "0", "sendrecv")));
    let customer = house.ringing(CUSTOMER);
    redirects(&mut house, customer, &["0900"]);
    assert_eq!(refused(&mut house).map(|(status, _)| status), Some(403));
    house.assert_empty();
}

#[test]
fn a_supervisors_phone_redirects_nobody_and_the_call_goes_on() {
    let mut house = House::new();
    let (customer, agent) = house.talk();
    house.monitor(Activity::Coach, Mode::AllCalls, Scope::Agent).expect("accepted");
    let boss = house.ringing(BOSS);
    redirects(&mut house, boss, &["5002"]);
    assert!(invited(&mut house).is_empty());
    assert_eq!(house.table(&[("c", customer), ("a", agent)]), "ca ac");
}

#[test]
fn a_transfer_follows_where_its_destination_points() {
    let mut house = House::new();
    let (customer, _) = house.talk();
    let call = house.call_id();
    let step = TransferStep::SingleStep { destination: "5002".into() };
    house.command(Command::Transfer { device: AGENT.into(), call, step }).expect("accepted");
    let other = house.ringing(OTHER);
    redirects(&mut house, other, &["5005"]);
    let boss = house.ringing(BOSS);
    house.answer(boss);
    assert_eq!(house.table(&[("c", customer), ("b", boss)]), "cb bc");
}
