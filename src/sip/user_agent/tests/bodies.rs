//! Session descriptions in the bodies of messages: RFC 3261 13.2.1, 14.1, 20.11 and 20.43, RFC
//! 5621.

use super::*;
use crate::sip::sdp::{SdpError, SdpSession};

const LEG: LegId = LegId(1);

const MULTIPART: &str = "Content-Type: multipart/mixed; boundary=\"edge\"\n";

/// A description beside ISUP, which may be left out or may not.
fn beside_isup(handling: &str) -> String {
    format!(
        "--edge\r\nContent-Type: application/isup; version=itu-t92+\r\n\
         Content-Disposition: signal; handling={handling}\r\n\r\n\u{1}\u{10}\r\n\
         --edge\r\nContent-Type: application/sdp\r\n\r\n{SDP}\r\n--edge--\r\n"
    )
}

/// A message of the peer's with another body.
fn with_body(message: &str, content_type: &str, body: &str) -> String {
    let (head, _) = message.split_once("\n\n").unwrap();
    let kept = head.lines().filter(|line| !line.starts_with("Content-"));
    let head: String = kept.map(|line| format!("{line}\n")).collect();
    format!("{head}{content_type}Content-Length: {}\n\n{body}", body.len())
}

fn described(media: Option<&Vec<u8>>) -> bool {
    media.is_some_and(|media| media == SDP.as_bytes() && SdpSession::parse(media).is_ok())
}

#[test]
fn an_offer_beside_something_else_is_an_offer() {
    let mut stage = Stage::new();
    let plain = invite("c1", "INVITE", 1, "");
    stage.hear(CARRIER, &with_body(&plain, MULTIPART, &beside_isup("optional")));
    let events = stage.events();
    let [LegEvent::Incoming { leg, offer, .. }] = &events[..] else { panic!("{events:?}") };
    assert!(described(offer.as_ref()));
    stage.command(LegCommand::Accept { leg: *leg, media: SDP.into() });
    let ok = stage.response(200);
    assert_eq!(text(&ok, "Content-Type"), "application/sdp");
    let call = Call {
        leg: *leg,
        call_id: "c1".to_owned(),
        theirs: "<sip:+4930@carrier.example>;tag=theirs".to_owned(),
        ours: text(&ok, "To"),
    };
    stage.hear(CARRIER, &call.request("ACK", 1, ""));
    stage.events();
    for (cseq, method) in [(2, "INVITE"), (3, "UPDATE")] {
        let request =
            with_body(&call.request(method, cseq, ""), MULTIPART, &beside_isup("optional"));
        stage.hear(CARRIER, &request);
        let events = stage.events();
        assert!(
            matches!(&events[..], [LegEvent::Offered { media, .. }] if described(media.as_ref())),
            "{method}: {events:?}"
        );
        stage.command(LegCommand::AnswerOffer { leg: *leg, media: SDP.into() });
        assert_eq!(stage.response(200).body, SDP.as_bytes(), "{method}");
        if method == "INVITE" {
            stage.hear(CARRIER, &call.request("ACK", cseq, ""));
            stage.events();
        }
    }
}

#[test]
fn a_required_part_that_is_not_understood_is_415_and_what_we_take_is_said() {
    let mut stage = Stage::new();
    let refused = |stage: &mut Stage, text: &str| {
        stage.hear(CARRIER, text);
        let response = stage.response(415);
        assert_eq!(
            self::text(&response, "Accept"),
            "application/sdp, multipart/mixed, multipart/alternative"
        );
        assert!(stage.events().is_empty());
    };
    let plain = invite("c1", "a", 1, "");
    refused(&mut stage, &with_body(&plain, MULTIPART, &beside_isup("required")));
    let plain = invite("c1", "b", 1, "");
    refused(&mut stage, &with_body(&plain, "Content-Type: application/isup\n", "\u{1}"));
    let call = stage.incoming_call();
    for (cseq, method) in [(2, "INVITE"), (3, "UPDATE")] {
        refused(
            &mut stage,
            &with_body(&call.request(method, cseq, ""), MULTIPART, &beside_isup("required")),
        );
    }
    assert_eq!(stage.agent.legs(), 1, "the call goes on");
    let plain = invite("c2", "c", 1, "");
    stage.hear(
        CARRIER,
        &with_body(&plain, "Content-Type: multipart/mixed\n", &beside_isup("optional")),
    );
    assert_eq!(stage.said(), ["400"]);
}

#[test]
fn an_invite_whose_parts_may_all_be_left_out_is_one_without_an_offer() {
    let mut stage = Stage::new();
    let isup = "--edge\r\nContent-Type: application/isup\r\n\
                Content-Disposition: signal;handling=optional\r\n\r\n\u{1}\r\n--edge--\r\n";
    stage.hear(CARRIER, &with_body(&invite("c1", "a", 1, ""), MULTIPART, isup));
    let events = stage.events();
    let [LegEvent::Incoming { leg, offer: None, .. }] = events[..] else { panic!("{events:?}") };
    stage.command(LegCommand::Accept { leg, media: SDP.into() });
    let ok = stage.response(200);
    let call = Call {
        leg,
        call_id: "c1".to_owned(),
        theirs: "<sip:+4930@carrier.example>;tag=theirs".to_owned(),
        ours: text(&ok, "To"),
    };
    stage.hear(
        CARRIER,
        &with_body(&call.request("ACK", 1, ""), MULTIPART, &beside_isup("optional")),
    );
    let events = stage.events();
    assert!(
        matches!(&events[..], [LegEvent::Confirmed { media, .. }] if described(media.as_ref())),
        "{events:?}"
    );
}

#[test]
fn an_answer_beside_something_else_is_an_answer_in_a_183_and_in_a_200() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    let contact = "Contact: <sip:carrier@192.0.2.2>\n";
    for (status, extra) in [(183, ""), (200, contact)] {
        let response = answer(&invite, status, ";tag=theirs", extra, "");
        stage.hear(CARRIER, &with_body(&response, MULTIPART, &beside_isup("optional")));
        let events = stage.events();
        let media = match &events[..] {
            [LegEvent::Progress { media, .. }] => media.as_ref(),
            [LegEvent::Answered { media, .. }] => Some(media),
            other => panic!("{other:?}"),
        };
        assert!(described(media), "{status}");
    }
    stage.said();
    stage.command(LegCommand::Offer { leg: LEG, media: SDP.into() });
    let again = stage.request("INVITE");
    let response = answer(&again, 200, "", contact, "");
    stage.hear(CARRIER, &with_body(&response, MULTIPART, &beside_isup("optional")));
    let events = stage.events();
    assert!(
        matches!(&events[..], [LegEvent::OfferAnswered { media, .. }] if media == SDP.as_bytes()),
        "{events:?}"
    );
}

#[test]
fn a_refused_offer_says_which_line_was_at_fault() {
    let fault =
        SdpSession::parse(SDP.replace("AVP 0", "AVP 4").replace(":0 PCMU", ":4 G723").as_bytes())
            .unwrap_err();
    assert_eq!(fault.error, SdpError::Codec);
    let warning = "305 undertone \"no common codec, line 6: m=audio 40000 RTP/AVP 4\"";
    let mut stage = Stage::new();
    stage.hear(CARRIER, &invite("c1", "a", 1, ""));
    let Some(LegEvent::Incoming { leg, .. }) = stage.events().pop() else { panic!() };
    let refuse = |leg| LegCommand::RefuseOffer { leg, fault: fault.clone() };
    stage.command(refuse(leg));
    assert_eq!(text(&stage.response(488), "Warning"), warning);
    assert_eq!(stage.agent.legs(), 0);
    let call = stage.incoming_call();
    for (cseq, method) in [(2, "INVITE"), (3, "UPDATE")] {
        stage.hear(CARRIER, &call.request(method, cseq, WITH_SDP));
        stage.command(refuse(call.leg));
        assert_eq!(text(&stage.response(488), "Warning"), warning, "{method}");
    }
    assert_eq!(stage.agent.legs(), 1, "the session stays as it was");
}

#[test]
fn an_ack_without_the_answer_to_a_re_invite_ends_no_call() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.hear(CARRIER, &call.request("INVITE", 2, ""));
    assert!(matches!(stage.events()[..], [LegEvent::Offered { media: None, .. }]));
    stage.command(LegCommand::AnswerOffer { leg: call.leg, media: SDP.into() });
    stage.response(200);
    stage.hear(CARRIER, &call.request("ACK", 2, ""));
    assert_eq!(stage.events(), [LegEvent::Confirmed { leg: call.leg, media: None }]);
    assert!(stage.said().is_empty(), "no BYE");
    assert_eq!(stage.agent.legs(), 1);
}

#[test]
fn what_we_take_is_said_in_our_invites_and_to_options() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let takes = "application/sdp, multipart/mixed, multipart/alternative";
    assert_eq!(text_of(&stage.request("INVITE"), "Accept"), takes);
    stage.hear(CARRIER, &with_body(&invite("c1", "o", 1, "").replace("INVITE", "OPTIONS"), "", ""));
    assert_eq!(text(&stage.response(200), "Accept"), takes);
}

#[test]
fn an_offer_that_nobody_could_use_makes_no_leg_and_is_told_to_the_log() {
    let mut stage = Stage::new();
    let unusable = SDP.replace("IP4 192.0.2.9\r\nt=", "IP4 media.example.test\r\nt=");
    stage.hear(CARRIER, &with_body(&invite("c1", "a", 1, ""), WITH_SDP, &unusable));
    let warning = "301 undertone \"no usable address, line 4: c=IN IP4 media.example.test\"";
    assert_eq!(text(&stage.response(488), "Warning"), warning);
    assert!(stage.events().is_empty() && stage.is_quiet());
    assert_eq!(stage.faults.len(), 1);
    stage.hear(STRANGER, &with_body(&invite("c2", "b", 1, ""), WITH_SDP, &unusable));
    assert_ne!(stage.said(), ["488"], "who is nobody is not told what is wrong with it");
    assert_eq!(stage.faults.len(), 1);
}
