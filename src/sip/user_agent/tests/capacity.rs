//! A node that takes no new calls says so to whoever asks (RFC 3261 11.2, 20.33), and goes on with
//! those that it has.

use super::{CARRIER, PHONE, SDP, STRANGER, Stage, WITH_SDP, invite, text};
use crate::sip::leg::{LegCommand, LegEvent};

fn options(from: &str, name: &str) -> String {
    format!(
        "OPTIONS sip:coach.example SIP/2.0\nVia: SIP/2.0/UDP {from};branch=z9hG4bK{name}\n\
         Max-Forwards: 70\nFrom: <sip:x@{from}>;tag=x\nTo: <sip:coach.example>\n\
         Call-ID: {name}\nCSeq: 1 OPTIONS\nContent-Length: 0\n\n"
    )
}

/// The seconds after which to come again.
fn wait_of(stage: &mut Stage) -> u32 {
    text(&stage.response(503), "Retry-After").parse().expect("seconds")
}

#[test]
fn options_is_503_with_retry_after_to_everybody_while_no_calls_are_taken() {
    let mut stage = Stage::new();
    stage.register_phone();
    stage.agent.set_takes_calls(false);
    let mut waits = Vec::new();
    for turn in 0..6 {
        for peer in [CARRIER, PHONE, STRANGER] {
            stage.hear(peer, &options(peer, &format!("o{turn}")));
            waits.push(wait_of(&mut stage));
        }
    }
    assert!(waits.iter().all(|wait| (10..=20).contains(wait)), "{waits:?}");
    waits.sort_unstable();
    waits.dedup();
    assert!(waits.len() > 3, "not all at one moment: {waits:?}");
    assert!(stage.refusals.is_empty(), "asked every few seconds, it fills no log");
    stage.agent.set_takes_calls(true);
    stage.hear(CARRIER, &options(CARRIER, "again"));
    assert_eq!(stage.said(), ["200"]);
}

#[test]
fn a_call_that_is_refused_for_want_of_room_is_told_when_to_come_again_and_no_other_refusal_is() {
    let mut stage = Stage::new();
    for (name, takes_calls, status, is_told) in [
        ("a", false, 503, true),
        ("b", false, 486, false),
        // A trunk that can not be reached is no reason to send nothing here.
        ("c", true, 503, false),
    ] {
        stage.agent.set_takes_calls(takes_calls);
        stage.hear(CARRIER, &invite(name, name, 1, ""));
        let [LegEvent::Incoming { leg, .. }] = stage.events()[..] else { panic!("{name}") };
        stage.command(LegCommand::Reject { leg, status });
        let refused = stage.response(status);
        assert_eq!(refused.headers.has("Retry-After"), is_told, "{name}");
    }
}

#[test]
fn a_call_goes_on_and_phones_register_while_no_calls_are_taken() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.agent.set_takes_calls(false);
    stage.register_phone();
    stage.hear(CARRIER, &call.request("OPTIONS", 2, ""));
    assert_eq!(stage.said(), ["200"]);
    stage.hear(CARRIER, &call.request("INVITE", 3, WITH_SDP));
    assert!(matches!(stage.events().as_slice(), [LegEvent::Offered { .. }]));
    stage.command(LegCommand::AnswerOffer { leg: call.leg, media: SDP.into() });
    assert!(stage.said().contains(&"200".to_owned()));
    stage.hear(CARRIER, &call.request("ACK", 3, ""));
    stage.hear(CARRIER, &call.request("BYE", 4, ""));
    assert_eq!(stage.said(), ["200"]);
}
