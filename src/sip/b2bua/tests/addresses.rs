//! Where a leg's sound may be: RFC 3264 5.1 and 6.1 (addresses of a description), RFC 3261 21.4.26
//! (488), RFC 6890.

use super::harness::{AGENT, CUSTOMER, Harness, sdp};
use crate::media::{Forbidden, MediaCommand, MediaEvent, SourceRule};
use crate::sip::b2bua::{B2buaConfig, Output, Remark, RestoredCalls};
use crate::sip::config::Nat;
use crate::sip::leg::{HangupCause, LegCommand, LegEvent, LegId, LegSource};
use crate::sip::sdp::SdpError;
use std::net::{IpAddr, SocketAddr};

/// A description at an address; RTCP on the next port.
fn at(host: &str, port: u16) -> Vec<u8> {
    let text = String::from_utf8(sdp(port, "0 8 101", "sendrecv")).expect("text");
    text.replace("127.0.0.1", host).into_bytes()
}

fn account(device: &str) -> LegSource {
    LegSource::Account(device.into())
}

fn trunk() -> LegSource {
    LegSource::Trunk("city".into())
}

/// An INVITE from a host.
fn calls(harness: &mut Harness, source: LegSource, host: &str, to: &str, offer: Vec<u8>) -> LegId {
    harness.locate_next(host.parse().expect("an address"), false);
    harness.incoming(source, to, Some(offer))
}

fn rejected(harness: &mut Harness) -> Vec<u16> {
    let reject = |command| match command {
        LegCommand::Reject { status, .. } | LegCommand::RejectOffer { status, .. } => Some(status),
        LegCommand::RefuseOffer { .. } => Some(SdpError::STATUS),
        _ => None,
    };
    harness.leg_commands().into_iter().filter_map(reject).collect()
}

fn remarks(harness: &Harness) -> Vec<Remark> {
    let remark = |output: &Output| match output {
        Output::Remark(remark) => Some(remark.clone()),
        _ => None,
    };
    harness.log.iter().filter_map(remark).collect()
}

/// The last rule and the last address that the engine was told of a leg.
fn told(harness: &Harness, leg: LegId) -> (SourceRule, Option<SocketAddr>) {
    let (mut last, mut remote) = (SourceRule::default(), None);
    for output in &harness.log {
        match output {
            Output::Media(MediaCommand::Sources { leg: of, rule }) if of.0 == leg.0 => {
                assert_eq!(remote, None, "the rule comes before the description");
                last = *rule;
            }
            Output::Media(MediaCommand::Describe { leg: of, media, .. }) if of.0 == leg.0 => {
                remote = media.remote
            }
            _ => {}
        }
    }
    (last, remote)
}

#[test]
fn a_description_that_points_to_where_sound_is_never_sent_is_refused_for_anybody() {
    for source in [account(CUSTOMER), trunk()] {
        for (host, port, why) in [
            ("240.0.0.1", 4000, Forbidden::Reserved),
            ("0.1.2.3", 4000, Forbidden::Reserved),
            ("169.254.169.254", 4000, Forbidden::LinkLocal),
            ("169.254.169.254", 80, Forbidden::LinkLocal),
            ("127.0.0.1", 22, Forbidden::LowPort),
            ("127.0.0.1", 20_500, Forbidden::Ours),
        ] {
            let mut harness = Harness::new();
            calls(&mut harness, source.clone(), "127.0.0.1", "5001", at(host, port));
            let said = remarks(&harness);
            assert!(
                matches!(&said[..], [Remark::Refused { why: said, .. }] if *said == why),
                "{host}: {said:?}"
            );
            assert_eq!(rejected(&mut harness), [488], "{host}:{port}");
            harness.assert_empty();
        }
    }
}

#[test]
fn a_re_invite_to_such_an_address_is_refused_and_the_session_stays_and_an_answer_ends_the_leg() {
    let mut harness = Harness::new();
    let (customer, _) = harness.talk();
    harness.log.clear();
    harness.leg(LegEvent::Offered { leg: customer, media: Some(at("169.254.1.1", 4000)) });
    assert_eq!(rejected(&mut harness), [488]);
    assert!(!harness.b2bua.is_idle());

    let mut harness = Harness::new();
    harness.customer_calls("5001");
    let agent = harness.ringing(AGENT);
    harness.log.clear();
    harness.leg(LegEvent::Answered { leg: agent, media: at("127.0.0.1", 20_500) });
    let ended = harness.leg_commands();
    assert!(matches!(
        ended[..],
        [
            LegCommand::Hangup { reason: Some(HangupCause::NotAcceptable), .. },
            LegCommand::Reject { status: 488, .. }
        ] | [
            LegCommand::Reject { status: 488, .. },
            LegCommand::Hangup { reason: Some(HangupCause::NotAcceptable), .. }
        ]
    ));
    harness.assert_empty();
}

#[test]
fn a_device_that_describes_another_host_is_sent_nothing_until_it_speaks_from_there() {
    let mut harness = Harness::new();
    let customer =
        calls(&mut harness, account(CUSTOMER), "127.0.0.1", "5001", at("127.0.0.9", 4000));
    let agent = harness.ringing(AGENT);
    harness.leg(LegEvent::Located {
        leg: agent,
        host: IpAddr::from([127, 0, 0, 1]),
        is_translated: false,
    });
    harness.answer(agent);
    let elsewhere = SocketAddr::from(([127, 0, 0, 9], 4000));
    let (rule, remote) = told(&harness, customer);
    assert_eq!((rule.unheard, remote), (Some(0), Some(elsewhere)));
    assert_eq!(told(&harness, agent).0, SourceRule::default());
    assert!(matches!(
        &remarks(&harness)[..],
        [Remark::Waited { described, .. }] if *described == elsewhere
    ));
}

#[test]
fn a_device_with_a_private_address_seen_at_a_public_one_is_behind_a_nat_without_being_told() {
    let mut harness = Harness::new();
    let customer =
        calls(&mut harness, account(CUSTOMER), "203.0.113.7", "5001", at("192.168.1.7", 4000));
    harness.answer(harness.ringing(AGENT));
    let (rule, remote) = told(&harness, customer);
    assert_eq!((rule.unheard, remote), (None, Some(SocketAddr::from(([203, 0, 113, 7], 4000)))));
    assert!(remarks(&harness).iter().any(|remark| matches!(remark, Remark::BehindNat { .. })));
}

#[test]
fn a_trunk_with_media_sources_has_its_sound_there_and_nowhere_else() {
    let named = |harness: &mut Harness| {
        let city = harness.b2bua.plan.numbering.trunk_mut("city").expect("a trunk");
        city.media_sources = vec!["127.0.0.8/29".parse().expect("a network")];
    };
    for (host, refused) in [("127.0.0.9", false), ("127.0.0.1", false), ("127.0.0.99", true)] {
        let mut harness = Harness::new();
        named(&mut harness);
        let leg = calls(&mut harness, trunk(), "127.0.0.1", "5001", at(host, 4000));
        if refused {
            assert_eq!(rejected(&mut harness), [488]);
            continue;
        }
        harness.answer(harness.ringing(AGENT));
        assert_eq!(told(&harness, leg).0.unheard, None, "{host}");
    }
    // Without them: so much, until something comes.
    let mut harness = Harness::new();
    let leg = calls(&mut harness, trunk(), "127.0.0.1", "5001", at("127.0.0.99", 4000));
    harness.answer(harness.ringing(AGENT));
    assert_eq!(told(&harness, leg).0.unheard, Some(500));
    harness.media(MediaEvent::Withheld { leg });
    assert!(matches!(remarks(&harness).last(), Some(Remark::Withheld { .. })));
}

#[test]
fn nat_false_sends_to_the_very_port_that_is_described() {
    let mut harness =
        Harness::with_peers(B2buaConfig::default(), RestoredCalls::default(), |nat, _| {
            *nat = Nat::Never
        });
    let customer =
        calls(&mut harness, account(CUSTOMER), "127.0.0.1", "5001", at("127.0.0.1", 4000));
    harness.answer(harness.ringing(AGENT));
    assert!(!told(&harness, customer).0.follow);
}

/// The port that a leg of ours was told of in its description.
fn ours(harness: &Harness, leg: LegId) -> SocketAddr {
    let call =
        harness.b2bua.calls.iter().find(|call| call.parties.get(leg).is_some()).expect("a call");
    call.parties.get(leg).expect("a party").local.address()
}

#[test]
fn a_call_that_leaves_and_comes_back_by_a_trunk_has_its_sound_and_two_that_would_go_round_have_not()
{
    let mut harness = Harness::new();
    let agent = calls(&mut harness, account(AGENT), "127.0.0.1", "0301", at("127.0.0.1", 4000));
    let out = harness.lines.values().find(|line| line.outgoing).expect("to the trunk").leg;
    let there = ours(&harness, out);
    // The proxy brings it back as it was, to another number.
    let back = calls(&mut harness, trunk(), "127.0.0.1", "5002", at("127.0.0.1", there.port()));
    let other = harness.ringing("other");
    harness.answer(other);
    let here = ours(&harness, back);
    harness.leg(LegEvent::Answered { leg: out, media: at("127.0.0.1", here.port()) });
    assert_eq!((told(&harness, back).1, told(&harness, out).1), (Some(there), Some(here)));
    assert!(rejected(&mut harness).is_empty());
    // Another way from the second call to the first would be a circle; so is a leg that names a
    // port of its own call.
    for port in [ours(&harness, agent).port(), ours(&harness, other).port(), here.port()] {
        calls(&mut harness, account(CUSTOMER), "127.0.0.1", "5001", at("127.0.0.1", port));
        assert_eq!(rejected(&mut harness), [488]);
    }
    harness.leg(LegEvent::Offered { leg: back, media: Some(at("127.0.0.1", here.port())) });
    assert_eq!(rejected(&mut harness), [488]);
}

#[test]
fn two_calls_that_name_each_others_ports_on_both_sides_are_no_circle_of_sound() {
    let mut harness = Harness::new();
    let first = calls(&mut harness, trunk(), "127.0.0.1", "0301", at("127.0.0.1", 4000));
    assert_eq!(rejected(&mut harness), [403], "a trunk is not carried to a trunk");
    assert!(harness.b2bua.calls.is_empty(), "{first:?}");
    // Two agents call out; each trunk leg names the other.
    let mut legs = Vec::new();
    for device in [AGENT, "other"] {
        calls(&mut harness, account(device), "127.0.0.1", "0301", at("127.0.0.1", 4000));
        legs.push(
            harness
                .lines
                .values()
                .filter(|line| line.outgoing)
                .map(|line| line.leg)
                .max()
                .expect("a leg"),
        );
    }
    let ports = [ours(&harness, legs[0]).port(), ours(&harness, legs[1]).port()];
    for (leg, port) in [(legs[0], ports[1]), (legs[1], ports[0])] {
        harness.leg(LegEvent::Answered { leg, media: at("127.0.0.1", port) });
    }
    assert_eq!(
        told(&harness, legs[1]).1.map(|address| address.port()),
        Some(ports[0]),
        "one line between two calls"
    );
    // A third party of the first call's that leads to the second again closes the circle.
    harness.log.clear();
    harness.leg(LegEvent::Offered { leg: legs[0], media: Some(at("127.0.0.1", ports[0])) });
    assert_eq!(rejected(&mut harness), [488]);
}

#[test]
fn when_what_carries_its_sound_fails_a_call_is_ended_with_a_reason() {
    let mut harness = Harness::new();
    let (customer, agent) = harness.talk();
    harness.log.clear();
    for leg in [customer, agent] {
        harness.media(MediaEvent::Failed { leg });
    }
    let hangups = harness.leg_commands();
    assert!(
        hangups.iter().all(|command| matches!(
            command,
            LegCommand::Hangup { reason: Some(HangupCause::MediaFailure), .. }
        )),
        "{hangups:?}"
    );
    assert_eq!(hangups.len(), 2);
    harness.assert_empty();
}
