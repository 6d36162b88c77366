//! Reliable provisional responses (RFC 3262), and the early dialogs of forks.

use super::*;
use crate::sip::leg::EndReason;

const SECOND: Duration = Duration::from_secs(1);
const LEG: LegId = LegId(1);
/// Another description than [`SDP`].
const OTHER: &str = "v=0\r\no=- 2 1 IN IP4 192.0.2.8\r\ns=-\r\nc=IN IP4 192.0.2.8\r\nt=0 0\r\n\
                     m=audio 40008 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n";

/// The carrier calls 1001 with this in its INVITE; the call as it will be once a response has given
/// our tag.
fn called(stage: &mut Stage, extra: &str) -> LegId {
    stage.hear(CARRIER, &invite("c1", "INVITE", 7, extra));
    assert_eq!(stage.said(), ["100"]);
    match stage.events().as_slice() {
        [LegEvent::Incoming { leg, .. }] => *leg,
        other => panic!("{other:?}"),
    }
}

fn rings(leg: LegId, media: Option<&str>) -> LegCommand {
    LegCommand::Provisional {
        leg,
        status: if media.is_some() { 183 } else { 180 },
        media: media.map(Into::into),
    }
}

fn call(leg: LegId, response: &SipResponse) -> Call {
    Call {
        leg,
        call_id: "c1".into(),
        theirs: "<sip:+4930@carrier.example>;tag=theirs".into(),
        ours: text(response, "To"),
    }
}

fn prack(call: &Call, cseq: u32, rack: &str) -> String {
    call.request("PRACK", cseq, &format!("RAck: {rack}\n"))
}

/// The same `response` of ours, repeated and waiting; its RAck.
fn rack(response: &SipResponse) -> String {
    assert_eq!(text(response, "Require"), "100rel");
    format!("{} 7 INVITE", text(response, "RSeq"))
}

#[test]
fn who_requires_it_hears_each_provisional_response_until_he_says_so_and_one_after_the_other() {
    let mut stage = Stage::new();
    let leg = called(&mut stage, "Require: 100rel\n");
    stage.command(rings(leg, None));
    let ringing = stage.response(180);
    let call = call(leg, &ringing);
    stage.pass(4 * SECOND);
    assert_eq!(stage.said(), ["180", "180", "180"], "after 0.5, 1.5 and 3.5 s");
    stage.command(rings(leg, Some(SDP)));
    assert!(stage.said().is_empty(), "one at a time");

    stage.hear(CARRIER, &prack(&call, 8, &rack(&ringing)));
    assert_eq!(
        stage.sent.iter().map(|(_, message)| short(message)).collect::<Vec<_>>(),
        ["200", "183"]
    );
    let described = stage.response(183);
    let rseq = |response| text(response, "RSeq").parse::<u32>().unwrap();
    assert_eq!(rseq(&described), rseq(&ringing) + 1);
    assert_eq!(described.body, SDP.as_bytes());

    // RFC 3262 3: no 2xx before a description before it has been heard.
    stage.command(LegCommand::Accept { leg, media: SDP.into() });
    assert!(stage.said().is_empty());
    stage.hear(CARRIER, &prack(&call, 9, &rack(&described)));
    assert_eq!(stage.said(), ["200", "200"]);
    stage.hear(CARRIER, &call.request("ACK", 7, ""));
    assert_eq!(stage.events(), [LegEvent::Confirmed { leg, media: None }]);
    stage.pass(40 * SECOND);
    assert!(stage.said().is_empty(), "nothing is said again");
}

#[test]
fn who_can_do_it_hears_reliably_what_carries_a_description_and_the_rest_as_ever() {
    let mut stage = Stage::new();
    let leg = called(&mut stage, "Supported: 100rel\n");
    stage.command(rings(leg, None));
    assert!(!stage.response(180).headers.has("RSeq"));
    stage.command(rings(leg, Some(SDP)));
    let described = stage.response(183);
    stage.hear(CARRIER, &prack(&call(leg, &described), 8, &rack(&described)));
    assert_eq!(stage.said(), ["200"]);

    let mut stage = Stage::new();
    let leg = called(&mut stage, "");
    stage.command(rings(leg, Some(SDP)));
    let described = stage.response(183);
    assert!(!described.headers.has("RSeq") && !described.headers.has("Require"));
}

#[test]
fn an_answer_does_not_wait_for_the_prack_of_a_ringing_without_a_description() {
    let mut stage = Stage::new();
    let leg = called(&mut stage, "Require: 100rel\n");
    stage.command(rings(leg, None));
    let ringing = stage.response(180);
    stage.command(LegCommand::Accept { leg, media: SDP.into() });
    assert_eq!(stage.said(), ["200"]);
    let call = call(leg, &ringing);
    stage.hear(CARRIER, &prack(&call, 8, &rack(&ringing)));
    assert_eq!(stage.said(), ["200"], "it is still taken");
    stage.hear(CARRIER, &call.request("ACK", 7, ""));
    stage.pass(20 * SECOND);
    assert!(stage.said().is_empty());
}

#[test]
fn a_prack_that_fits_nothing_is_481_and_one_that_can_not_be_read_is_400() {
    let mut stage = Stage::new();
    let leg = called(&mut stage, "Require: 100rel\n");
    stage.command(rings(leg, None));
    let ringing = stage.response(180);
    let (call, right) = (call(leg, &ringing), rack(&ringing));
    let rseq: u32 = text(&ringing, "RSeq").parse().unwrap();
    assert!(rseq > 0 && rseq < 1 << 31, "RFC 3262 7.1");
    let mut cseq = 8;
    let mut expect = |stage: &mut Stage, rack: &str, status: &str| {
        stage.hear(CARRIER, &prack(&call, cseq, rack));
        assert_eq!(stage.said(), [status], "{rack}");
        cseq += 1;
    };
    for wrong in [
        format!("{} 7 INVITE", rseq - 1),
        format!("{} 7 INVITE", rseq + 1),
        format!("{rseq} 8 INVITE"),
        format!("{rseq} 7 UPDATE"),
    ] {
        expect(&mut stage, &wrong, "481");
    }
    for bad in [
        "",
        "1",
        "1 7",
        "one 7 INVITE",
        "1 7 INVITE more",
        "-1 7 INVITE",
        "4294967296 7 INVITE",
        "99999999999999999999 7 INVITE",
    ] {
        expect(&mut stage, bad, "400");
    }
    expect(&mut stage, &right, "200");
    expect(&mut stage, &right, "481");
    let stranger = Call { ours: "<sip:1001@coach.example>;tag=guessed".into(), ..call };
    stage.hear(CARRIER, &prack(&stranger, 30, &right));
    assert_eq!(stage.said(), ["481"]);
    assert!(stage.events().is_empty(), "nobody's call was touched");
}

#[test]
fn an_offer_in_a_prack_is_refused_and_the_response_is_heard() {
    let mut stage = Stage::new();
    let leg = called(&mut stage, "Require: 100rel\n");
    stage.command(rings(leg, Some(SDP)));
    let described = stage.response(183);
    let offering = call(leg, &described).request(
        "PRACK",
        8,
        &format!("RAck: {}\n{WITH_SDP}", rack(&described)),
    );
    stage.hear(CARRIER, &offering);
    assert_eq!(stage.said(), ["488"]);
    stage.command(LegCommand::Accept { leg, media: SDP.into() });
    assert_eq!(stage.said(), ["200"]);
}

#[test]
fn a_repeated_prack_is_answered_again_and_told_once() {
    let mut stage = Stage::new();
    let leg = called(&mut stage, "Require: 100rel\n");
    stage.command(rings(leg, None));
    let ringing = stage.response(180);
    let heard = prack(&call(leg, &ringing), 8, &rack(&ringing));
    stage.hear(CARRIER, &heard);
    stage.hear(CARRIER, &heard);
    assert_eq!(stage.said(), ["200", "200"]);
}

#[test]
fn who_never_hears_that_it_rings_is_refused() {
    let mut stage = Stage::new();
    let leg = called(&mut stage, "Require: 100rel\n");
    stage.command(rings(leg, None));
    stage.response(180);
    stage.pass(31 * SECOND);
    assert!(stage.said().iter().all(|said| said == "180"));
    assert!(stage.events().is_empty());
    stage.pass(2 * SECOND);
    assert_eq!(stage.said().last().map(String::as_str), Some("504"));
    let reason = EndReason::NoAck;
    assert_eq!(stage.events(), [LegEvent::Ended { leg, reason }]);
}

#[test]
fn a_cancel_ends_the_waiting_for_a_prack() {
    let mut stage = Stage::new();
    let leg = called(&mut stage, "Require: 100rel\n");
    stage.command(rings(leg, Some(SDP)));
    let described = stage.response(183);
    stage.command(LegCommand::Accept { leg, media: SDP.into() });
    let with = |method: &str| {
        let text = invite("c1", "INVITE", 7, "").replace("INVITE sip", &format!("{method} sip"));
        text.replace("7 INVITE", &format!("7 {method}"))
    };
    stage.hear(CARRIER, &with("CANCEL"));
    assert_eq!(stage.said(), ["200", "487"]);
    stage.hear(CARRIER, &with("ACK"));
    let reason = EndReason::Cancelled;
    assert_eq!(stage.events(), [LegEvent::Ended { leg, reason }]);
    stage.hear(CARRIER, &prack(&call(leg, &described), 8, &rack(&described)));
    assert_eq!(stage.said(), ["481"]);
    stage.pass(60 * SECOND);
    assert_eq!(stage.said(), [""; 0]);
    assert!(stage.is_quiet());
}

/// A response of a fork of the carrier's to our INVITE.
fn fork(
    stage: &mut Stage,
    invite: &SipRequest,
    status: u16,
    tag: &str,
    rseq: Option<u32>,
    media: Option<&str>,
) {
    let reliably = rseq.map(|rseq| format!("Require: 100rel\nRSeq: {rseq}\n")).unwrap_or_default();
    let described = if media.is_some() { WITH_SDP } else { "" };
    let extra = format!("Contact: <sip:{tag}@192.0.2.2>\n{reliably}{described}");
    stage.hear(
        CARRIER,
        &answer(invite, status, &format!(";tag={tag}"), &extra, media.unwrap_or_default()),
    );
}

#[test]
fn a_reliable_response_to_us_is_acknowledged_once_and_in_order() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    assert!(text_of(&invite, "Supported").contains("100rel"));
    fork(&mut stage, &invite, 180, "a", Some(5), None);
    let prack = stage.request("PRACK");
    let cseq = text_of(&invite, "CSeq");
    assert_eq!(text_of(&prack, "RAck"), format!("5 {cseq}"));
    assert!(text_of(&prack, "To").ends_with(";tag=a"));
    assert_eq!(
        String::from_utf8_lossy(prack.uri.as_bytes()),
        "sip:a@192.0.2.2",
        "the Contact of the early dialog"
    );
    assert_eq!(stage.events().len(), 1);
    for rseq in [5, 7, 4, u32::MAX] {
        fork(&mut stage, &invite, 183, "a", Some(rseq), Some(SDP));
        assert!(
            stage.said().is_empty() && stage.events().is_empty(),
            "{rseq}: heard before, or not its turn"
        );
    }
    fork(&mut stage, &invite, 183, "a", Some(6), Some(SDP));
    assert_eq!(text_of(&stage.request("PRACK"), "RAck"), format!("6 {cseq}"));
    let media = Some(SDP.into());
    assert_eq!(stage.events(), [LegEvent::Progress { leg: LEG, status: 183, media }]);
    fork(&mut stage, &invite, 200, "a", None, None);
    assert_eq!(stage.said(), ["ACK"]);
    let media = SDP.into();
    assert_eq!(stage.events(), [LegEvent::Answered { leg: LEG, media }]);
}

#[test]
fn a_prack_that_is_lost_or_refused_costs_nobody_the_call() {
    for status in [Some(481), Some(500), None] {
        let mut stage = Stage::new();
        stage.command(call_carrier(LEG));
        let invite = stage.request("INVITE");
        fork(&mut stage, &invite, 180, "a", Some(1), None);
        let prack = stage.request("PRACK");
        match status {
            Some(status) => stage.hear(CARRIER, &answer(&prack, status, "", "", "")),
            None => {
                stage.pass(33 * SECOND);
                assert!(stage.said().iter().all(|said| said == "PRACK"));
            }
        }
        stage.events();
        fork(&mut stage, &invite, 200, "a", None, Some(SDP));
        assert!(matches!(stage.events().as_slice(), [LegEvent::Answered { .. }]), "{status:?}");
    }
}

#[test]
fn a_challenge_to_a_prack_is_answered() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    fork(&mut stage, &invite, 183, "a", Some(1), Some(SDP));
    let prack = stage.request("PRACK");
    let challenge =
        "Proxy-Authenticate: Digest realm=\"carrier.example\", nonce=\"n\", qop=\"auth\"\n";
    stage.hear(CARRIER, &answer(&prack, 407, "", challenge, ""));
    let again = stage.request("PRACK");
    assert!(text_of(&again, "Proxy-Authorization").contains("undertone"));
    assert_eq!(text_of(&again, "RAck"), text_of(&prack, "RAck"));
    stage.events();
    stage.command(LegCommand::Hangup { leg: LEG, reason: None });
    assert_eq!(
        text_of(&stage.request("CANCEL"), "Via"),
        text_of(&invite, "Via"),
        "the INVITE is the call"
    );
}

#[test]
fn the_fork_that_answers_is_the_call_with_its_own_description() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    fork(&mut stage, &invite, 183, "a", Some(9), Some(SDP));
    fork(&mut stage, &invite, 183, "b", Some(1), Some(OTHER));
    let pracks: Vec<_> = stage
        .sent()
        .into_iter()
        .map(|message| match message {
            SipMessage::Request(prack) => (
                text_of(&prack, "RAck"),
                text_of(&prack, "To").split("tag=").nth(1).unwrap().to_owned(),
            ),
            SipMessage::Response(response) => panic!("{response:?}"),
        })
        .collect();
    let cseq = text_of(&invite, "CSeq");
    assert_eq!(
        pracks,
        [(format!("9 {cseq}"), "a".to_owned()), (format!("1 {cseq}"), "b".to_owned())]
    );
    assert_eq!(stage.events().len(), 2, "the caller hears whoever spoke last");
    // It was described before: the 2xx says nothing of it, or something that no longer counts (RFC
    // 3261 13.2.1).
    fork(&mut stage, &invite, 200, "a", None, Some(OTHER));
    let ack = stage.request("ACK");
    assert!(text_of(&ack, "To").ends_with("tag=a"));
    let media = SDP.into();
    assert_eq!(stage.events(), [LegEvent::Answered { leg: LEG, media }]);
    fork(&mut stage, &invite, 200, "b", None, None);
    let last = stage.sent();
    assert_eq!(last.iter().map(short).collect::<Vec<_>>(), ["ACK", "BYE"], "one is enough");
    let SipMessage::Request(bye) = &last[1] else { panic!() };
    let number = |request: &SipRequest| request.headers.cseq().unwrap().0;
    assert!(number(bye) > number(&invite) + 2, "above its PRACKs");
    assert!(stage.events().is_empty());
}

#[test]
fn a_fork_that_says_the_same_again_is_not_heard_instead_of_the_other() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    let described = |stage: &mut Stage| match stage.events().as_slice() {
        [LegEvent::Progress { media, .. }] => media.is_some(),
        other => panic!("{other:?}"),
    };
    for (tag, media, is_news) in
        [("a", SDP, true), ("b", OTHER, true), ("a", SDP, false), ("a", OTHER, true)]
    {
        fork(&mut stage, &invite, 183, tag, None, Some(media));
        assert_eq!(described(&mut stage), is_news, "{tag}");
    }
}

/// RFC 3261 13.2.1: the first reliable response has the offer. It is the 200.
#[test]
fn whoever_offers_nothing_and_requires_it_hears_the_offer_in_the_200() {
    let mut stage = Stage::new();
    let text = invite("c1", "INVITE", 7, "Require: 100rel\n");
    let (head, _) = text.split_once("Content-Type").unwrap();
    stage.hear(CARRIER, &format!("{head}Content-Length: 0\n\n"));
    let [LegEvent::Incoming { leg, offer: None, .. }] = stage.events()[..] else {
        panic!("no call")
    };
    stage.command(rings(leg, None));
    assert_eq!(stage.said(), ["100"], "it rings all the same");
    stage.command(LegCommand::Accept { leg, media: SDP.into() });
    assert_eq!(stage.response(200).body, SDP.as_bytes());
}

#[test]
fn the_description_of_another_fork_is_no_answer() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    fork(&mut stage, &invite, 183, "a", None, Some(SDP));
    stage.events();
    fork(&mut stage, &invite, 200, "b", None, None);
    assert_eq!(stage.said(), ["ACK", "BYE"]);
    assert_eq!(stage.events(), [LegEvent::Failed { leg: LEG, status: 488 }]);
}

#[test]
fn forks_without_end_cost_no_memory() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    for number in 0..1000 {
        fork(&mut stage, &invite, 183, &format!("t{number}"), Some(1), Some(SDP));
    }
    assert!(stage.said().len() < 20, "so many are heard, and no more");
    fork(&mut stage, &invite, 200, "t999", None, Some(SDP));
    assert!(matches!(stage.events().last(), Some(LegEvent::Answered { .. })));
}
