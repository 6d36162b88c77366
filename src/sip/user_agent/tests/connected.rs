//! Connected identity: RFC 3325 9.1, RFC 4916 4, Remote-Party-ID.

use super::*;

const LEG: LegId = LegId(1);

/// What was told: names, and by what event each was followed.
fn told(stage: &mut Stage) -> Vec<String> {
    let name = |event: &LegEvent| match event {
        LegEvent::ConnectedIdentity { names, .. } => {
            Some(names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join("+"))
        }
        LegEvent::Incoming { .. } => Some("incoming".to_owned()),
        LegEvent::Progress { .. } => Some("progress".to_owned()),
        LegEvent::Answered { .. } => Some("answered".to_owned()),
        LegEvent::Offered { .. } => Some("offered".to_owned()),
        LegEvent::OfferAnswered { .. } => Some("offer answered".to_owned()),
        _ => None,
    };
    stage.events().iter().filter_map(name).collect()
}

/// We call the phone; its INVITE.
fn called(stage: &mut Stage) -> SipRequest {
    stage.register_phone();
    stage.command(call_phone(LEG));
    stage.request("INVITE")
}

fn responds(stage: &mut Stage, invite: &SipRequest, status: u16, extra: &str) {
    let extra = format!(
        "Contact: <sip:1001@192.0.2.3:5062>\nAllow: UPDATE\nContent-Type: application/sdp\n{extra}"
    );
    stage.hear(PHONE, &answer(invite, status, ";tag=theirs", &extra, SDP));
}

/// A request of the phone in that dialog.
fn asks(
    stage: &mut Stage,
    invite: &SipRequest,
    method: &str,
    cseq: u32,
    from: Option<&str>,
    extra: &str,
) {
    let body = if extra.contains("Content-Type") { SDP } else { "" };
    let from = from.map_or_else(|| text_of(invite, "To"), str::to_owned);
    let text = format!(
        "{method} sip:192.0.2.1 SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.3:5062;branch=z9hG4bKc{cseq}\n\
         Max-Forwards: 70\nFrom: {from};tag=theirs\n\
         To: {}\nCall-ID: {}\nCSeq: {cseq} {method}\nContact: <sip:1001@192.0.2.3:5062>\n\
         {extra}Content-Length: {}\n\n{body}",
        text_of(invite, "From"),
        text_of(invite, "Call-ID"),
        body.len()
    );
    stage.hear(PHONE, &text);
}

#[test]
fn a_2xx_names_the_party_before_it_answers_and_an_update_alone() {
    let mut stage = Stage::new();
    let invite = called(&mut stage);
    responds(
        &mut stage,
        &invite,
        200,
        "P-Asserted-Identity: \"Anna\" <sip:5001@pbx.example>, <tel:+49305001>\n",
    );
    assert_eq!(told(&mut stage), ["5001++49305001", "answered"]);
    stage.sent.clear();
    asks(&mut stage, &invite, "UPDATE", 1, None, "P-Asserted-Identity: <sip:5002@pbx.example>\n");
    assert_eq!((told(&mut stage), stage.said()), (vec!["5002".to_owned()], vec!["200".to_owned()]));
    asks(&mut stage, &invite, "UPDATE", 2, None, "");
    assert_eq!(told(&mut stage), [""; 0], "no name is no news");
}

#[test]
fn a_re_invite_names_it_before_its_offer_also_when_it_is_refused() {
    let mut stage = Stage::new();
    let invite = called(&mut stage);
    responds(&mut stage, &invite, 200, "");
    assert_eq!(told(&mut stage), ["answered"]);
    let named = "Remote-Party-ID: \"Bert\" \
                 <sip:5002@pbx.example>;party=called;privacy=off;screen=no\n\
                 Content-Type: application/sdp\n";
    asks(&mut stage, &invite, "INVITE", 1, None, named);
    assert_eq!(told(&mut stage), ["5002", "offered"]);
    stage.sent.clear();
    asks(&mut stage, &invite, "INVITE", 2, None, named);
    assert_eq!(told(&mut stage), ["5002"]);
    assert!(stage.said().contains(&"500".to_owned()), "one offer at a time (RFC 3261 14.2)");
}

#[test]
fn a_from_that_is_not_the_dialogs_is_a_name_and_so_is_its_way_back() {
    let mut stage = Stage::new();
    let invite = called(&mut stage);
    responds(&mut stage, &invite, 200, "");
    told(&mut stage);
    asks(&mut stage, &invite, "UPDATE", 1, None, "");
    assert_eq!(told(&mut stage), [""; 0]);
    asks(&mut stage, &invite, "UPDATE", 2, Some("\"Bert\" <sip:5002@pbx.example>"), "");
    assert_eq!(told(&mut stage), ["5002"]);
    asks(&mut stage, &invite, "UPDATE", 3, None, "");
    assert_eq!(told(&mut stage), ["1001"]);
    asks(&mut stage, &invite, "UPDATE", 4, Some("<sip:anonymous@anonymous.invalid>"), "");
    assert_eq!(told(&mut stage), ["anonymous"]);
    asks(&mut stage, &invite, "UPDATE", 5, Some("<sip:pbx.example>"), "");
    assert_eq!(told(&mut stage), ["anonymous"]);
}

#[test]
fn an_answer_without_a_name_has_that_of_its_own_ringing() {
    let mut stage = Stage::new();
    let invite = called(&mut stage);
    responds(&mut stage, &invite, 180, "P-Asserted-Identity: <sip:5002@pbx.example>\n");
    responds(&mut stage, &invite, 200, "");
    assert_eq!(told(&mut stage), ["progress", "5002", "answered"]);

    let mut stage = Stage::new();
    let invite = called(&mut stage);
    let extra = "Contact: <sip:1001@192.0.2.3:5062>\nP-Asserted-Identity: <sip:5002@pbx.example>\n";
    stage.hear(PHONE, &answer(&invite, 180, ";tag=another", extra, ""));
    responds(&mut stage, &invite, 200, "");
    assert_eq!(told(&mut stage), ["progress", "answered"], "another fork rang");
}

#[test]
fn the_answer_to_our_own_offer_names_it_too() {
    let mut stage = Stage::new();
    let invite = called(&mut stage);
    responds(&mut stage, &invite, 200, "");
    told(&mut stage);
    stage.sent.clear();
    stage.command(LegCommand::Offer { leg: LEG, media: SDP.into() });
    let offer = stage.request("INVITE");
    let extra = "Contact: <sip:1001@192.0.2.3:5062>\nContent-Type: application/sdp\n\
                 P-Asserted-Identity: <sip:5002@pbx.example>\n";
    stage.hear(PHONE, &answer(&offer, 200, "", extra, SDP));
    assert_eq!(told(&mut stage), ["5002", "offer answered"]);
}

#[test]
fn an_invite_names_it_right_after_it_has_come_in() {
    let mut stage = Stage::new();
    stage.hear(
        CARRIER,
        &invite("c9", "b9", 1, "P-Asserted-Identity: <sip:0170@pbx.example;user=phone>\n"),
    );
    assert_eq!(told(&mut stage), ["incoming", "0170"]);
}

#[test]
fn what_cannot_be_read_is_withheld_and_only_so_much_is_looked_at() {
    let mut stage = Stage::new();
    let invite = called(&mut stage);
    responds(&mut stage, &invite, 200, "P-Asserted-Identity: <sip:<sip:5002@x>@y>\n");
    assert_eq!(told(&mut stage), ["anonymous", "answered"]);
    let many: Vec<String> = (0..200).map(|number| format!("<sip:{number}@x>")).collect();
    asks(
        &mut stage,
        &invite,
        "UPDATE",
        1,
        None,
        &format!("P-Asserted-Identity: {}\n", many.join(", ")),
    );
    assert_eq!(told(&mut stage), ["0+1+2+3+anonymous"]);
    asks(&mut stage, &invite, "UPDATE", 2, None, "P-Asserted-Identity:\n");
    assert_eq!(told(&mut stage), ["anonymous"]);
}

#[test]
fn a_stranger_names_nobody() {
    let mut stage = Stage::new();
    let invite = called(&mut stage);
    responds(&mut stage, &invite, 200, "");
    told(&mut stage);
    let text = format!(
        "UPDATE sip:192.0.2.1 SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.66;branch=z9hG4bKx\n\
         Max-Forwards: 70\nFrom: {};tag=theirs\nTo: {}\n\
         Call-ID: {}\nCSeq: 9 UPDATE\nContact: <sip:x@192.0.2.66>\n\
         P-Asserted-Identity: <sip:5002@x>\nContent-Length: 0\n\n",
        text_of(&invite, "To"),
        text_of(&invite, "From"),
        text_of(&invite, "Call-ID")
    );
    stage.hear(STRANGER, &text);
    assert_eq!(told(&mut stage), [""; 0]);
}

#[test]
fn each_early_dialog_has_a_name_of_its_own() {
    let mut stage = Stage::new();
    let invite = called(&mut stage);
    for (tag, name) in [("theirs", "0049"), ("another", "1001")] {
        let extra = format!(
            "Contact: <sip:1001@192.0.2.3:5062>\nP-Asserted-Identity: <sip:{name}@pbx.example>\n"
        );
        stage.hear(PHONE, &answer(&invite, 180, &format!(";tag={tag}"), &extra, ""));
    }
    responds(&mut stage, &invite, 200, "");
    assert_eq!(told(&mut stage), ["progress", "progress", "0049", "answered"]);
}

#[test]
fn a_request_that_is_refused_or_is_no_offer_names_it_too() {
    let mut stage = Stage::new();
    let invite = called(&mut stage);
    responds(&mut stage, &invite, 200, "");
    told(&mut stage);
    let named = "P-Asserted-Identity: <sip:5002@pbx.example>\n";
    asks(&mut stage, &invite, "UPDATE", 1, None, &format!("Require: teleport\n{named}"));
    assert_eq!(told(&mut stage), ["5002"]);
    asks(&mut stage, &invite, "INFO", 2, None, named);
    assert_eq!(told(&mut stage), ["5002"]);
}

#[test]
fn an_account_that_calls_under_another_name_says_so() {
    let mut stage = Stage::with(SipConfig { challenge_invites: false, ..config() });
    stage.register_phone();
    let call = |number: &str, id: &str| {
        let text = invite(id, id, 1, "").replace("sip:+4930@carrier.example", number);
        text.replace("192.0.2.2", "192.0.2.3:5062")
            .replace("sip:1001@coach.example SIP", "sip:1002@coach.example SIP")
    };
    stage.hear(PHONE, &call("sip:1001@coach.example", "own"));
    assert_eq!(told(&mut stage), ["incoming"]);
    stage.hear(PHONE, &call("sip:00491799999@coach.example", "other"));
    assert_eq!(told(&mut stage), ["incoming", "00491799999"]);
}

fn identify(leg: LegId, number: &str) -> LegCommand {
    let party = Identity { number: number.into(), display: String::new() };
    LegCommand::Identify { leg, party }
}

#[test]
fn a_phone_of_the_house_is_told_by_update_or_by_re_invite_who_is_there_now() {
    for (allow, method) in [("UPDATE", "UPDATE"), ("INVITE", "INVITE")] {
        let mut stage = Stage::new();
        let invite = called(&mut stage);
        let extra = format!(
            "Contact: <sip:1001@192.0.2.3:5062>\nAllow: {allow}\nContent-Type: application/sdp\n"
        );
        stage.hear(PHONE, &answer(&invite, 200, ";tag=theirs", &extra, SDP));
        stage.sent.clear();
        stage.command(identify(LEG, "5002"));
        let told = stage.request(method);
        assert_eq!(text_of(&told, "P-Asserted-Identity"), "<sip:5002@192.0.2.1>");
        let (extra, body) = match method {
            "INVITE" => {
                ("Contact: <sip:1001@192.0.2.3:5062>\nContent-Type: application/sdp\n", SDP)
            }
            _ => ("", ""),
        };
        stage.events();
        stage.hear(PHONE, &answer(&told, 200, ";tag=theirs", extra, body));
        assert_eq!(stage.events(), [], "the session is as it was");
    }
}

#[test]
fn a_trunk_is_told_who_is_there_only_where_it_is_trusted_and_a_customer_is_not() {
    for trusted in [false, true] {
        let mut config = config();
        config.trunks[0].trusted = trusted;
        let mut stage = Stage::with(config);
        stage.command(call_carrier(LEG));
        let invite = stage.request("INVITE");
        let extra = "Contact: <sip:x@192.0.2.2>\nAllow: UPDATE\nContent-Type: application/sdp\n";
        stage.hear(CARRIER, &answer(&invite, 200, ";tag=theirs", extra, SDP));
        stage.sent.clear();
        stage.command(identify(LEG, "5002"));
        assert_eq!(stage.said(), if trusted { vec!["UPDATE"] } else { Vec::new() });
    }
    let mut config = config();
    for account in config.accounts.iter_mut() {
        account.kind = crate::sip::b2bua::AccountKind::Customer;
    }
    let mut stage = Stage::with(config);
    let invite = called(&mut stage);
    responds(&mut stage, &invite, 200, "");
    stage.sent.clear();
    stage.command(identify(LEG, "5002"));
    assert_eq!(stage.said(), [""; 0]);
}

#[test]
fn a_trunk_names_nobody_of_ours_and_says_what_is_withheld() {
    let names = |stage: &mut Stage| {
        let events = stage.events().into_iter();
        let told = events.filter_map(|event| match event {
            LegEvent::ConnectedIdentity { names, withheld, .. } => {
                Some((names.iter().map(ToString::to_string).collect::<Vec<_>>(), withheld))
            }
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    for (own_numbers, shown) in [(false, "anonymous"), (true, "1001")] {
        let mut config = config();
        config.trunks[0].own_numbers = own_numbers;
        let mut stage = Stage::with(config);
        let named = "P-Asserted-Identity: <sip:1001@192.0.2.2>\nPrivacy: id\n";
        stage.hear(CARRIER, &invite("c1", "INVITE", 1, named));
        assert_eq!(names(&mut stage), [(vec![shown.to_owned()], true)]);
    }
}

#[test]
fn a_request_whose_head_is_too_long_says_who_is_there_all_the_same() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.said();
    stage.events();
    let long =
        format!("P-Asserted-Identity: <sip:0815@192.0.2.2>\nX-Long: {}\n", "x".repeat(40_000));
    stage.hear(CARRIER, &call.request("UPDATE", 2, &long));
    assert_eq!(stage.said(), ["513"]);
    assert_eq!(told(&mut stage), ["0815"]);
}
