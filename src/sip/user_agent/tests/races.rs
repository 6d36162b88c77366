//! Messages that cross, get lost, come twice, or come from somebody else.

use super::*;
use crate::sip::leg::EndReason;

const LEG: LegId = LegId(1);
const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn hangup(leg: LegId) -> LegCommand {
    LegCommand::Hangup { leg, reason: None }
}

#[test]
fn a_cancel_waits_for_a_provisional_response() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    stage.command(hangup(LEG));
    assert!(stage.said().is_empty());
    stage.hear(CARRIER, &answer(&invite, 180, ";tag=theirs", "", ""));
    let cancel = stage.request("CANCEL");
    for name in ["Via", "From", "To", "Call-ID"] {
        assert_eq!(text_of(&cancel, name), text_of(&invite, name));
    }
    stage.hear(CARRIER, &answer(&cancel, 200, ";tag=theirs", "", ""));
    stage.hear(CARRIER, &answer(&invite, 487, ";tag=theirs", "", ""));
    assert_eq!(stage.said(), ["ACK"]);
    stage.pass(HOUR);
    assert!(stage.events().is_empty() && stage.is_quiet());
}

#[test]
fn a_cancel_and_a_200_that_cross_end_in_ack_and_bye() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    stage.hear(CARRIER, &answer(&invite, 180, ";tag=theirs", "", ""));
    stage.command(hangup(LEG));
    assert_eq!(stage.said(), ["CANCEL"]);
    let contact = "Contact: <sip:carrier@192.0.2.2>\nContent-Type: application/sdp\n";
    stage.hear(CARRIER, &answer(&invite, 200, ";tag=theirs", contact, SDP));
    let sent = stage.sent();
    assert_eq!(sent.iter().map(short).collect::<Vec<_>>(), ["ACK", "BYE"]);
    let SipMessage::Request(bye) = &sent[1] else { panic!() };
    stage.hear(CARRIER, &answer(bye, 200, "", "", ""));
    stage.pass(HOUR);
    assert!(stage.events().iter().all(|event| matches!(event, LegEvent::Progress { .. })));
    assert!(stage.is_quiet());
}

#[test]
fn a_repeated_200_is_acknowledged_again_and_told_once() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    let ok = answer(
        &invite,
        200,
        ";tag=theirs",
        "Contact: <sip:carrier@192.0.2.2>\nContent-Type: application/sdp\n",
        SDP,
    );
    for _ in 0..3 {
        stage.hear(CARRIER, &ok);
        assert_eq!(stage.said(), ["ACK"]);
    }
    assert_eq!(stage.events().len(), 1);
}

#[test]
fn a_second_fork_that_answers_is_taken_and_ended() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    let extra = "Contact: <sip:carrier@192.0.2.2>\nContent-Type: application/sdp\n";
    stage.hear(CARRIER, &answer(&invite, 200, ";tag=first", extra, SDP));
    assert_eq!(stage.said(), ["ACK"]);
    stage.hear(CARRIER, &answer(&invite, 200, ";tag=second", extra, SDP));
    let sent = stage.sent();
    assert_eq!(sent.iter().map(short).collect::<Vec<_>>(), ["ACK", "BYE"]);
    for message in &sent {
        let SipMessage::Request(request) = message else { panic!() };
        assert!(text_of(request, "To").ends_with("tag=second"));
    }
    assert_eq!(stage.agent.legs(), 1);
}

#[test]
fn a_lost_ack_is_waited_for_and_then_the_call_is_ended() {
    let mut stage = Stage::new();
    stage.hear(CARRIER, &invite("c1", "a", 1, ""));
    let Some(LegEvent::Incoming { leg, .. }) = stage.events().pop() else { panic!() };
    stage.command(LegCommand::Accept { leg, media: SDP.into() });
    assert_eq!(stage.said(), ["100", "200"]);
    stage.pass(31 * SECOND);
    let said = stage.said();
    // 0.5 s doubling to 4 s: at 0.5, 1.5, 3.5, 7.5, 11.5 … 27.5.
    assert_eq!(said, vec!["200"; 9]);
    stage.pass(2 * SECOND);
    assert!(stage.said().contains(&"BYE".to_owned()));
    assert_eq!(stage.events(), [LegEvent::Ended { leg, reason: EndReason::NoAck }]);
    stage.pass(HOUR);
    assert!(stage.is_quiet());
}

#[test]
fn a_repeated_invite_is_one_call() {
    let mut stage = Stage::new();
    for _ in 0..3 {
        stage.hear(CARRIER, &invite("c1", "a", 1, ""));
    }
    assert_eq!(stage.said(), ["100", "100", "100"]);
    assert_eq!(stage.events().len(), 1);
    stage.hear(CARRIER, &invite("c1", "by-another-way", 1, ""));
    assert_eq!(stage.said(), ["482"]);
    assert_eq!(stage.agent.legs(), 1);
}

#[test]
fn a_hang_up_before_the_ack_waits_for_it() {
    let mut stage = Stage::new();
    stage.hear(CARRIER, &invite("c1", "a", 1, ""));
    let Some(LegEvent::Incoming { leg, .. }) = stage.events().pop() else { panic!() };
    stage.command(LegCommand::Accept { leg, media: SDP.into() });
    let ours = text(&stage.response(200), "To");
    stage.command(hangup(leg));
    assert!(stage.said().is_empty());
    let call = Call {
        leg,
        call_id: "c1".into(),
        theirs: "<sip:+4930@carrier.example>;tag=theirs".into(),
        ours,
    };
    stage.hear(CARRIER, &call.request("ACK", 1, ""));
    let bye = stage.request("BYE");
    stage.hear(CARRIER, &answer(&bye, 200, "", "", ""));
    stage.pass(HOUR);
    assert!(stage.events().is_empty() && stage.is_quiet());
}

#[test]
fn two_byes_that_cross_are_both_answered() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.command(hangup(call.leg));
    let bye = stage.request("BYE");
    stage.hear(CARRIER, &call.request("BYE", 2, ""));
    assert_eq!(stage.said(), ["200"]);
    stage.hear(CARRIER, &answer(&bye, 481, "", "", ""));
    stage.pass(HOUR);
    assert!(stage.events().is_empty() && stage.is_quiet());
}

#[test]
fn a_bye_is_answered_each_time_and_told_once() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    for _ in 0..3 {
        stage.hear(CARRIER, &call.request("BYE", 2, ""));
        assert_eq!(stage.said(), ["200"]);
    }
    assert_eq!(stage.events(), [LegEvent::Ended { leg: call.leg, reason: EndReason::Bye }]);
    stage.pass(HOUR);
    assert!(stage.is_quiet());
}

#[test]
fn a_cancel_ends_a_ringing_call() {
    let mut stage = Stage::new();
    stage.hear(CARRIER, &invite("c1", "a", 1, ""));
    let Some(LegEvent::Incoming { leg, .. }) = stage.events().pop() else { panic!() };
    stage.command(LegCommand::Provisional { leg, status: 180, media: None });
    stage.said();
    stage.hear(CARRIER, &cancel("a", "theirs"));
    assert_eq!(stage.said(), ["200", "487"]);
    assert_eq!(stage.events(), [LegEvent::Ended { leg, reason: EndReason::Cancelled }]);
    stage.pass(HOUR);
    assert!(stage.is_quiet());
}

fn cancel(branch: &str, tag: &str) -> String {
    format!(
        "CANCEL sip:1001@coach.example SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK{branch}\n\
         Max-Forwards: 70\n\
         From: <sip:+4930@carrier.example>;tag={tag}\nTo: <sip:1001@coach.example>\nCall-ID: c1\n\
         CSeq: 1 CANCEL\nContent-Length: 0\n\n"
    )
}

#[test]
fn a_forged_cancel_is_481_and_the_call_rings_on() {
    let mut stage = Stage::new();
    stage.hear(CARRIER, &invite("c1", "a", 1, ""));
    stage.said();
    for (peer, branch, tag) in
        [(STRANGER, "a", "theirs"), (CARRIER, "a", "forged"), (CARRIER, "guessed", "theirs")]
    {
        stage.hear(peer, &cancel(branch, tag));
        assert_eq!(stage.said(), ["481"], "{peer} {branch} {tag}");
    }
    assert_eq!(stage.agent.legs(), 1);
    assert_eq!(stage.events().len(), 1);
}

#[test]
fn forged_requests_in_a_dialog_are_481_and_the_call_lives() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.said();
    let wrong_tag = |text: String| text.replace("tag=theirs", "tag=forged");
    for (number, method) in ["BYE", "INVITE", "UPDATE", "INFO"].into_iter().enumerate() {
        let cseq = 10 + number as u32;
        let extra = if matches!(method, "INVITE" | "UPDATE") { WITH_SDP } else { "" };
        let genuine = call.request(method, cseq, extra);
        stage.hear(STRANGER, &genuine);
        assert_eq!(stage.said(), ["481"], "{method} with the right tags from a stranger");
        stage.hear(CARRIER, &wrong_tag(genuine));
        assert_eq!(stage.said(), ["481"], "{method} with a wrong tag");
    }
    assert!(stage.events().is_empty());
    assert_eq!(stage.agent.counters().strangers, 8);
    stage.hear(CARRIER, &call.request("OPTIONS", 2, ""));
    assert_eq!(stage.said(), ["200"]);
    stage.hear(CARRIER, &call.request("BYE", 3, ""));
    assert_eq!(stage.said(), ["200"]);
}

#[test]
fn a_forged_ack_does_not_stop_the_repetitions() {
    let mut stage = Stage::new();
    stage.hear(CARRIER, &invite("c1", "a", 1, ""));
    let Some(LegEvent::Incoming { leg, .. }) = stage.events().pop() else { panic!() };
    stage.command(LegCommand::Accept { leg, media: SDP.into() });
    let ours = text(&stage.response(200), "To");
    let call = Call {
        leg,
        call_id: "c1".into(),
        theirs: "<sip:+4930@carrier.example>;tag=theirs".into(),
        ours,
    };
    stage.hear(STRANGER, &call.request("ACK", 1, ""));
    stage.hear(CARRIER, &call.request("ACK", 7, ""));
    stage.pass(SECOND);
    assert_eq!(stage.said(), ["200"]);
    assert!(stage.events().is_empty());
}

#[test]
fn a_lower_cseq_is_500_and_a_jump_is_fine() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.hear(CARRIER, &call.request("OPTIONS", 900, ""));
    stage.hear(CARRIER, &call.request("OPTIONS", 899, ""));
    stage.hear(CARRIER, &call.request("OPTIONS", 901, ""));
    assert_eq!(stage.said(), ["200", "500", "200"]);
}

#[test]
fn offers_that_cross_are_491_and_ours_is_tried_again() {
    let mut stage = Stage::new();
    let call = stage.outgoing_call();
    stage.command(LegCommand::Offer { leg: LEG, media: SDP.into() });
    let ours = stage.request("INVITE");
    stage.hear(CARRIER, &call.request("INVITE", 5, WITH_SDP));
    assert_eq!(stage.said(), ["491"]);
    stage.hear(CARRIER, &answer(&ours, 491, "", "", ""));
    assert_eq!(stage.said(), ["ACK"]);
    // We made the Call-ID: 2.1 to 4 s.
    stage.pass(Duration::from_millis(2099));
    assert!(!stage.said().contains(&"INVITE".to_owned()));
    stage.pass(2 * SECOND);
    let again = stage.request("INVITE");
    let cseq = |request: &SipRequest| request.headers.cseq().unwrap().0;
    assert_eq!(cseq(&again), cseq(&ours) + 1);
    let extra = "Contact: <sip:carrier@192.0.2.2>\nContent-Type: application/sdp\n";
    stage.hear(CARRIER, &answer(&again, 200, "", extra, SDP));
    assert_eq!(stage.events(), [LegEvent::OfferAnswered { leg: LEG, media: SDP.into() }]);
    assert_eq!(stage.said(), ["ACK"]);
}

#[test]
fn a_repeated_offer_that_crossed_ours_is_refused_as_before() {
    let mut stage = Stage::new();
    let call = stage.outgoing_call();
    stage.command(LegCommand::Offer { leg: LEG, media: SDP.into() });
    stage.said();
    for _ in 0..3 {
        stage.hear(CARRIER, &call.request("INVITE", 5, WITH_SDP));
        assert_eq!(stage.said(), ["491"]);
    }
}

#[test]
fn an_offer_waits_for_theirs_to_be_answered() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.said();
    stage.hear(CARRIER, &call.request("INVITE", 2, WITH_SDP));
    assert!(matches!(stage.events().as_slice(), [LegEvent::Offered { media: Some(_), .. }]));
    stage.command(LegCommand::Offer { leg: call.leg, media: SDP.into() });
    assert_eq!(stage.said(), ["100"]);
    stage.hear(CARRIER, &call.request("UPDATE", 3, WITH_SDP));
    let busy = stage.response(500);
    assert!(busy.headers.has("Retry-After"));
    stage.command(LegCommand::AnswerOffer { leg: call.leg, media: SDP.into() });
    assert_eq!(stage.said(), ["200"]);
    stage.hear(CARRIER, &call.request("ACK", 2, ""));
    assert_eq!(stage.said(), ["INVITE"]);
}

#[test]
fn an_offer_of_theirs_that_nobody_answers_is_refused_and_a_late_answer_ignored() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.said();
    stage.hear(CARRIER, &call.request("INVITE", 2, WITH_SDP));
    stage.pass(Duration::from_secs(25));
    assert_eq!(stage.said().first().map(String::as_str), Some("100"));
    stage.hear(CARRIER, &call.request("ACK", 2, ""));
    stage.said();
    stage.command(LegCommand::AnswerOffer { leg: call.leg, media: SDP.into() });
    assert!(stage.said().is_empty());
    stage.hear(CARRIER, &call.request("INVITE", 3, WITH_SDP));
    assert_eq!(stage.said(), ["100"]);
}

#[test]
fn a_reinvite_without_an_offer_is_answered_with_ours_and_the_ack_has_theirs() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.hear(CARRIER, &call.request("INVITE", 2, ""));
    assert_eq!(stage.events(), [LegEvent::Offered { leg: call.leg, media: None }]);
    stage.command(LegCommand::AnswerOffer { leg: call.leg, media: SDP.into() });
    stage.hear(CARRIER, &call.request("ACK", 2, WITH_SDP));
    assert_eq!(stage.events(), [LegEvent::Confirmed { leg: call.leg, media: Some(SDP.into()) }]);
}

#[test]
fn a_refused_reinvite_leaves_the_call_as_it_was() {
    let mut stage = Stage::new();
    let call = stage.outgoing_call();
    stage.command(LegCommand::Offer { leg: LEG, media: SDP.into() });
    let offer = stage.request("INVITE");
    stage.hear(CARRIER, &answer(&offer, 488, "", "", ""));
    assert_eq!(stage.said(), ["ACK"]);
    assert_eq!(stage.events(), [LegEvent::OfferRefused { leg: LEG, status: 488 }]);
    stage.hear(CARRIER, &call.request("INVITE", 2, WITH_SDP));
    stage.command(LegCommand::RejectOffer { leg: LEG, status: 488 });
    assert_eq!(stage.said(), ["100", "488"]);
    assert_eq!(stage.agent.legs(), 1);
}

#[test]
fn an_unanswered_call_is_cancelled_at_its_timeout_and_told_as_408() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    stage.hear(CARRIER, &answer(&invite, 180, ";tag=theirs", "", ""));
    stage.events();
    stage.pass(61 * SECOND);
    assert!(stage.said().contains(&"CANCEL".to_owned()));
    assert_eq!(stage.events(), [LegEvent::Failed { leg: LEG, status: 408 }]);
    stage.pass(HOUR);
    assert!(stage.events().is_empty() && stage.is_quiet());
}

#[test]
fn a_peer_that_never_says_anything_is_given_up_after_32_seconds_as_503() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    stage.pass(31 * SECOND);
    // Timer A: 0.5, 1.5, 3.5, 7.5, 15.5, 31.5.
    assert_eq!(stage.said(), vec!["INVITE"; 6]);
    stage.pass(2 * SECOND);
    assert_eq!(stage.events(), [LegEvent::Failed { leg: LEG, status: 503 }]);
    assert!(stage.is_quiet());
}

#[test]
fn a_refusal_is_repeated_until_its_ack() {
    let mut stage = Stage::new();
    stage.hear(CARRIER, &invite("c1", "a", 1, ""));
    let Some(LegEvent::Incoming { leg, .. }) = stage.events().pop() else { panic!() };
    stage.command(LegCommand::Reject { leg, status: 486 });
    stage.pass(SECOND);
    let busy = stage.response(486);
    let ack = format!(
        "ACK sip:1001@coach.example SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bKa\n\
         Max-Forwards: 70\n\
         From: <sip:+4930@carrier.example>;tag=theirs\nTo: {}\nCall-ID: c1\nCSeq: 1 ACK\n\
         Content-Length: 0\n\n",
        text(&busy, "To")
    );
    stage.hear(CARRIER, &ack);
    stage.said();
    stage.pass(HOUR);
    assert!(stage.said().is_empty() && stage.is_quiet());
}

#[test]
fn a_reinvite_whose_final_response_never_comes_is_forgotten_after_the_call() {
    let mut stage = Stage::new();
    let call = stage.outgoing_call();
    stage.command(LegCommand::Offer { leg: LEG, media: SDP.into() });
    let offer = stage.request("INVITE");
    stage.hear(CARRIER, &answer(&offer, 100, "", "", ""));
    stage.hear(CARRIER, &call.request("BYE", 2, ""));
    stage.hear(CARRIER, &answer(&offer, 487, "", "", ""));
    assert_eq!(stage.said(), ["200", "ACK"], "the late refusal is still acknowledged");
    stage.pass(HOUR);
    assert!(stage.is_quiet());

    let mut stage = Stage::new();
    stage.outgoing_call();
    stage.command(LegCommand::Offer { leg: LEG, media: SDP.into() });
    let offer = stage.request("INVITE");
    stage.hear(CARRIER, &answer(&offer, 100, "", "", ""));
    stage.pass(61 * SECOND);
    assert!(stage.said().contains(&"BYE".to_owned()));
    assert_eq!(stage.events(), [LegEvent::Ended { leg: LEG, reason: EndReason::Expired }]);
    stage.pass(HOUR);
    assert!(stage.is_quiet());
}
