//! Who a request is from and where it is meant to go.
//!
//! | RFC | what |
//! |---|---|
//! | 3261 8.2.2.2, 16.3 | merged requests, spirals and loops |
//! | 3261 10.3, 22, 3323, 3325 | who a caller is, and what the callee is shown |
//! | 3261 13.3.1 | Expires of an INVITE |
//! | 3261 19.1.6, 3966, 4694 | numbers |
//! | 3261 21.3 | redirections |
//! | 3515, 3891, 5589 | Refer-To and Replaces |

use super::*;
use crate::sip::config::Redirects;
use crate::sip::leg::{ANONYMOUS, EndReason, LegSource};
use crate::sip::user_agent::RefusedBy;

const LEG: LegId = LegId(1);
const SECOND: Duration = Duration::from_secs(1);

/// An INVITE from a phone, with this From and this Request-URI.
fn from_phone(from: &str, uri: &str, call_id: &str, cseq: u32, extra: &str) -> String {
    let text = invite(call_id, &format!("{call_id}{cseq}"), cseq, extra);
    let text = text.replace("<sip:+4930@carrier.example>", from);
    text.replace("INVITE sip:1001@coach.example", &format!("INVITE {uri}"))
}

/// The answer to the challenge that this INVITE gets.
fn credentials(
    stage: &mut Stage,
    challenge: &SipResponse,
    user: &str,
    password: &str,
    method: &[u8],
    uri: &str,
) -> String {
    let mut client = Credentials::new("us", Some(REALM), user, password);
    let challenges: Vec<&[u8]> = challenge.headers.fields_of("WWW-Authenticate").collect();
    let subject = DigestRequest { method, uri: uri.as_bytes(), body: b"" };
    let cnonce = format!("{:?}", stage.now.mono);
    format!("Authorization: {}\n", client.answer(&challenges, "us", subject, &cnonce).unwrap())
}

fn incoming(stage: &mut Stage) -> Option<(LegId, LegSource, Identity, Number, Option<LegId>)> {
    stage.events().into_iter().find_map(|event| match event {
        LegEvent::Incoming { leg, source, from, to, returns, .. } => {
            Some((leg, source, from, to, returns))
        }
        _ => None,
    })
}

/// The request as a proxy sends it on: its own Via on top, one hop less, perhaps another
/// Request-URI.
fn through_proxy(request: &SipRequest, uri: Option<&str>, branch: &str) -> Vec<u8> {
    let mut request = request.clone();
    request.headers.push_front("Via", format!("SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK{branch}"));
    if let Some(uri) = uri {
        request.uri = crate::sip::message::Uri::parse(uri.as_bytes()).unwrap();
    }
    request.to_bytes()
}

/// The response as the proxy hands it back: without its own Via.
fn back_through_proxy(response: &SipResponse) -> Vec<u8> {
    let mut response = response.clone();
    response.headers.pop_via();
    response.to_bytes()
}

fn hangup(leg: LegId) -> LegCommand {
    LegCommand::Hangup { leg, reason: None }
}

#[test]
fn a_call_of_ours_that_comes_back_to_another_number_is_a_call_with_all_that_belongs_to_it() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let out = stage.request("INVITE");
    stage.hear_message(CARRIER, &through_proxy(&out, Some("sip:1002@coach.example"), "px1"));
    let (inner, source, from, to, returns) = incoming(&mut stage).expect("a spiral is no loop");
    assert_eq!((source, to.as_str()), (LegSource::Trunk("carrier".into()), "1002"));
    assert_eq!(
        (from.number.as_str(), returns),
        ("1001", Some(LEG)),
        "it is our own call: its number is to be believed"
    );
    stage.sent.clear();

    stage.command(LegCommand::Accept { leg: inner, media: SDP.into() });
    let ok = stage.response(200);
    stage.hear_message(CARRIER, &back_through_proxy(&ok));
    assert!(matches!(stage.events().as_slice(), [LegEvent::Answered { leg: LEG, .. }]));
    let ack = stage.request("ACK");
    stage.hear_message(CARRIER, &through_proxy(&ack, None, "px2"));
    assert!(
        matches!(stage.events().as_slice(), [LegEvent::Confirmed { leg, .. }] if *leg == inner)
    );

    stage.command(LegCommand::Offer { leg: LEG, media: SDP.replace("40000", "40002").into() });
    let reinvite = stage.request("INVITE");
    stage.hear_message(CARRIER, &through_proxy(&reinvite, None, "px3"));
    assert!(matches!(stage.events().as_slice(), [LegEvent::Offered { leg, .. }] if *leg == inner));
    stage.sent.clear();
    stage.command(LegCommand::AnswerOffer { leg: inner, media: SDP.into() });
    let ok = stage.response(200);
    stage.hear_message(CARRIER, &back_through_proxy(&ok));
    assert!(matches!(stage.events().as_slice(), [LegEvent::OfferAnswered { leg: LEG, .. }]));
    let ack = stage.request("ACK");
    stage.hear_message(CARRIER, &through_proxy(&ack, None, "px4"));
    assert!(
        matches!(stage.events().as_slice(), [LegEvent::Confirmed { leg, .. }] if *leg == inner)
    );

    stage.command(hangup(inner));
    let bye = stage.request("BYE");
    stage.hear_message(CARRIER, &through_proxy(&bye, None, "px5"));
    let ended = LegEvent::Ended { leg: LEG, reason: EndReason::Bye };
    assert_eq!(stage.events(), [ended]);
    let ok = stage.response(200);
    stage.hear_message(CARRIER, &back_through_proxy(&ok));
    stage.pass(Duration::from_secs(40));
    assert!(stage.is_quiet());
}

#[test]
fn a_spiral_is_cancelled_through_the_proxy() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let out = stage.request("INVITE");
    stage.hear_message(CARRIER, &through_proxy(&out, Some("sip:1002@coach.example"), "px1"));
    let (inner, ..) = incoming(&mut stage).expect("a call");
    stage.command(LegCommand::Provisional { leg: inner, status: 180, media: None });
    let ringing = stage.response(180);
    stage.hear_message(CARRIER, &back_through_proxy(&ringing));
    assert!(matches!(stage.events().as_slice(), [LegEvent::Progress { leg: LEG, .. }]));
    stage.command(hangup(LEG));
    let mut cancel = stage.request("CANCEL");
    // A CANCEL goes from hop to hop: the proxy makes its own (RFC 3261 16.10).
    cancel.headers.set("Via", "SIP/2.0/UDP 192.0.2.2;branch=z9hG4bKpx1");
    cancel.uri = crate::sip::message::Uri::parse(b"sip:1002@coach.example").unwrap();
    stage.hear_message(CARRIER, &cancel.to_bytes());
    let ended = LegEvent::Ended { leg: inner, reason: EndReason::Cancelled };
    assert_eq!(stage.events(), [ended]);
    let terminated = stage.response(487);
    stage.hear_message(CARRIER, &back_through_proxy(&terminated));
    let ack = stage.request("ACK");
    assert_eq!(ack.uri, out.uri);
}

#[test]
fn a_call_that_comes_back_as_it_went_is_known_and_one_for_a_foreign_host_is_a_loop() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let out = stage.request("INVITE");
    stage.hear_message(CARRIER, &through_proxy(&out, None, "px1"));
    assert_eq!(stage.said(), ["482"]);
    stage.hear_message(CARRIER, &through_proxy(&out, Some("sip:+4930123@coach.example"), "px2"));
    let (.., to, returns) = incoming(&mut stage).expect("for the switchboard to judge");
    assert_eq!((to.as_str(), returns), ("+4930123", Some(LEG)));
}

#[test]
fn a_call_that_comes_back_through_a_b2bua_is_known_by_the_header_field_that_it_hands_on() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let out = stage.request("INVITE");
    let token = text_of(&out, "X-Undertone-Call");
    stage.hear(CARRIER, &invite("b2b", "b2b", 1, &format!("X-Undertone-Call: {token}\n")));
    let (.., returns) = incoming(&mut stage).expect("a call");
    assert_eq!(returns, Some(LEG));
    for forged in [
        "",
        "0000000000000001",
        "0000000000000001aaaaaaaaaaaaaaaa",
        &token[1..],
        &format!("{token}0"),
    ] {
        stage.hear(
            CARRIER,
            &invite(
                &format!("f{}", forged.len()),
                forged,
                1,
                &format!("X-Undertone-Call: {forged}\n"),
            ),
        );
        let (.., returns) = incoming(&mut stage).expect("a call");
        assert_eq!(returns, None, "{forged}");
    }
}

#[test]
fn a_proxy_may_fork_to_two_numbers_of_ours_and_not_twice_to_one() {
    let mut stage = Stage::new();
    let fork = |branch: &str, number: &str| {
        let text = invite("c1", branch, 1, "");
        text.replace("INVITE sip:1001@", &format!("INVITE sip:{number}@"))
    };
    stage.hear(CARRIER, &fork("a", "1001"));
    stage.hear(CARRIER, &fork("b", "1002"));
    let called: Vec<_> = stage.events();
    assert_eq!(called.len(), 2);
    stage.sent.clear();
    stage.hear(CARRIER, &fork("c", "1001"));
    assert_eq!(stage.said(), ["482"]);
}

// ---- RFC 3261 22.1, RFC 3323 4.1: who calls

const WITHHELD: &str = "Privacy: id\nP-Preferred-Identity: <sip:1001@coach.example>\n";

#[test]
fn a_registered_phone_that_withholds_its_number_is_challenged_and_known_and_shown_to_nobody() {
    for from in [
        "\"Anonymous\" <sip:anonymous@anonymous.invalid>",
        "<sip:anonymous@coach.example>",
        "\"Anna\" <sip:1001@anonymous.invalid>",
        "\"Anna\" <sip:1001@coach.example>",
        "<tel:1001>",
        "<sip:1001@elsewhere.example>",
        "<sip:reception@coach.example>",
        "<sip:192.0.2.3>",
    ] {
        let mut stage = Stage::new();
        stage.register_phone();
        let uri = "sip:1002@coach.example";
        stage.hear(PHONE, &from_phone(from, uri, "p1", 1, WITHHELD));
        let challenge = stage.response(401);
        let answer = credentials(&mut stage, &challenge, "1001", "secret", b"INVITE", uri);
        stage.hear(PHONE, &from_phone(from, uri, "p1", 2, &format!("{WITHHELD}{answer}")));
        let (_, source, shown, ..) =
            incoming(&mut stage).unwrap_or_else(|| panic!("{from}: {:?}", stage.refusals));
        assert_eq!(source, LegSource::Account(device("phone-1")), "{from}");
        assert_eq!((shown.number.as_str(), shown.display.as_str()), (ANONYMOUS, ""), "{from}");
    }
}

#[test]
fn a_phone_that_does_not_withhold_its_number_is_shown_by_it_whatever_its_from_says() {
    for (from, number) in [
        ("<tel:1001>", "1001"),
        ("<sip:1001;npdi@elsewhere.example>", "1001"),
        ("<sip:reception@coach.example>", "1001"),
        ("<sip:anonymous@anonymous.invalid>", ANONYMOUS),
        ("<sip:1001@anonymous.invalid>", ANONYMOUS),
        ("<sip:Anonymous@coach.example>", ANONYMOUS),
    ] {
        let mut stage = Stage::with(SipConfig { challenge_invites: false, ..config() });
        stage.register_phone();
        stage.hear(PHONE, &from_phone(from, "sip:1002@coach.example", "p1", 1, "Privacy: none\n"));
        let (_, source, shown, ..) = incoming(&mut stage).unwrap_or_else(|| panic!("{from}"));
        assert_eq!(source, LegSource::Account(device("phone-1")), "known by its registration");
        assert_eq!(shown.number.as_str(), number, "{from}");
    }
}

#[test]
fn who_is_not_registered_and_withholds_its_number_is_known_by_the_user_name_of_its_credentials() {
    let mut stage = Stage::new();
    let (from, uri) = ("<sip:anonymous@anonymous.invalid>", "sip:1002@coach.example");
    stage.hear(PHONE, &from_phone(from, uri, "p1", 1, ""));
    let challenge = stage.response(401);
    let answer = credentials(&mut stage, &challenge, "1001", "secret", b"INVITE", uri);
    stage.hear(PHONE, &from_phone(from, uri, "p1", 2, &answer));
    let (_, source, ..) = incoming(&mut stage).expect("known");
    assert_eq!(source, LegSource::Account(device("phone-1")));
}

#[test]
fn of_two_lines_of_one_phone_the_one_that_calls_says_which_it_is() {
    let mut stage = Stage::with(SipConfig { challenge_invites: false, ..config() });
    stage.register(PHONE, "1001", 1, "Contact: <sip:line1@10.0.0.3:5062>\n");
    stage.register(PHONE, "1002", 2, "Contact: <sip:line2@10.0.0.3:5062>\n");
    stage.events();
    let from = "<sip:anonymous@anonymous.invalid>";
    let call = |extra: &str, contact: &str, id: &str| {
        let text = from_phone(from, "sip:1001@coach.example", id, 1, extra);
        text.replace("Contact: <sip:carrier@192.0.2.2>", &format!("Contact: <{contact}>"))
    };
    stage.hear(
        PHONE,
        &call("P-Preferred-Identity: <sip:1002@coach.example>\n", "sip:x@10.0.0.3", "a"),
    );
    let (_, source, ..) = incoming(&mut stage).expect("known");
    assert_eq!(source, LegSource::Account(device("phone-2")));
    stage.hear(PHONE, &call("", "sip:line2@10.0.0.3:5062", "b"));
    let (_, source, ..) = incoming(&mut stage).expect("known");
    assert_eq!(source, LegSource::Account(device("phone-2")));
    stage.sent.clear();
    stage.hear(PHONE, &call("", "sip:x@10.0.0.3:5062", "c"));
    assert_eq!(stage.said(), ["401"], "in doubt nobody is taken for anybody");
}

#[test]
fn a_withheld_number_stays_withheld_toward_the_callee() {
    let mut stage = Stage::new();
    stage.register_phone();
    let mut command = call_carrier(LEG);
    if let LegCommand::Invite { to, from, .. } = &mut command {
        *to = Destination::Device(device("phone-1"));
        *from = Identity::withheld(String::new());
    }
    stage.command(command);
    let invite = stage.request("INVITE");
    assert!(
        text_of(&invite, "From")
            .starts_with("\"Anonymous\" <sip:anonymous@anonymous.invalid>;tag=")
    );
    assert_eq!(text_of(&invite, "Privacy"), "id");
    assert_eq!(text_of(&invite, "Contact"), "<sip:anonymous@192.0.2.1:5060>");
}

#[test]
fn a_trunk_that_asks_for_privacy_gets_it() {
    for (extra, number) in [
        ("Privacy: id\n", ANONYMOUS),
        ("Privacy: header; user;critical\n", ANONYMOUS),
        ("Privacy: none\n", "+4930"),
        ("Privacy: session\n", "+4930"),
        ("", "+4930"),
    ] {
        let mut stage = Stage::new();
        stage.hear(CARRIER, &invite("c1", "a", 1, extra));
        let (_, _, shown, ..) = incoming(&mut stage).expect("a call");
        assert_eq!(shown.number.as_str(), number, "{extra}");
    }
}

// ---- one answer for numbers that are ours and numbers that are not

/// What somebody hears who tries a number with these passwords, INVITE and REGISTER.
fn answers_to_guesses(number: &str) -> Vec<String> {
    let mut stage = Stage::new();
    let mut heard = Vec::new();
    for n in 0..8 {
        let uri = "sip:1002@coach.example";
        let from = format!("<sip:{number}@coach.example>");
        stage.hear(STRANGER, &from_phone(&from, uri, &format!("g{n}"), 1, ""));
        let challenge = match stage.sent().pop() {
            Some(SipMessage::Response(response)) => response,
            other => panic!("{other:?}"),
        };
        heard.push(challenge.status.to_string());
        let answer = credentials(&mut stage, &challenge, number, "guess", b"INVITE", uri);
        stage.hear(STRANGER, &from_phone(&from, uri, &format!("g{n}"), 2, &answer));
        let response = stage.sent().pop();
        heard.push(response.as_ref().map(short).unwrap_or_default());
        stage.hear(STRANGER, &register(number, 100 + 2 * n, ""));
        let challenge = match stage.sent().pop() {
            Some(SipMessage::Response(response)) => response,
            other => panic!("{other:?}"),
        };
        heard.push(challenge.status.to_string());
        let answer =
            credentials(&mut stage, &challenge, number, "guess", b"REGISTER", "sip:coach.example");
        stage.hear(STRANGER, &register(number, 101 + 2 * n, &answer));
        let response = stage.sent().pop();
        heard.push(response.as_ref().map(short).unwrap_or_default());
        stage.pass(SECOND);
    }
    assert!(stage.is_quiet() && stage.events().is_empty());
    heard
}

#[test]
fn nobody_learns_which_numbers_are_ours() {
    let known = answers_to_guesses("1001");
    assert_eq!(known[..4], ["401", "403", "401", "403"]);
    assert!(known.contains(&"503".to_owned()), "guessing is slowed down: {known:?}");
    for unknown in ["1003", "anna", "10010", "anonymous"] {
        assert_eq!(answers_to_guesses(unknown), known, "{unknown}");
    }
}

// ---- RFC 3261 22.4: the digest-uri

#[test]
fn a_digest_uri_that_is_not_the_request_uri_is_no_guess() {
    let mut stage = Stage::new();
    for (n, uri) in [
        "sip:coach.example:5060",
        "sip:edge.example;transport=tcp",
        "SIP:Coach.Example",
        "sip:192.0.2.1",
    ]
    .into_iter()
    .cycle()
    .take(8)
    .enumerate()
    {
        let cseq = 10 + 2 * n as u32;
        stage.hear(PHONE, &register("1001", cseq, "Contact: <sip:1001@10.0.0.3>\n"));
        let challenge = stage.response(401);
        let answer = credentials(&mut stage, &challenge, "1001", "secret", b"REGISTER", uri);
        stage.hear(
            PHONE,
            &register("1001", cseq + 1, &format!("Contact: <sip:1001@10.0.0.3>\n{answer}")),
        );
        assert_eq!(stage.said(), ["200"], "{uri}");
    }
    assert_eq!(stage.agent.counters().wrong_passwords, 0);
}

// ---- strangers at a phone's address

#[test]
fn wrong_passwords_from_a_phones_address_do_not_keep_the_phone_out() {
    let mut stage = Stage::new();
    stage.register_phone();
    let guess = |stage: &mut Stage, peer: &str, cseq: u32, password: &str| {
        stage.hear(peer, &register("1001", cseq, ""));
        let challenge = stage.response(401);
        let answer =
            credentials(stage, &challenge, "1001", password, b"REGISTER", "sip:coach.example");
        stage.hear(peer, &register("1001", cseq + 1, &answer));
        stage.said()
    };
    for n in 0..30 {
        guess(&mut stage, "192.0.2.3:1024", 1000 + 2 * n, "guess");
        guess(&mut stage, PHONE, 2000 + 2 * n, "guess");
    }
    assert_eq!(guess(&mut stage, "192.0.2.3:1024", 3000, "secret"), ["503"]);
    assert_eq!(
        guess(&mut stage, "192.0.2.3:4000", 3100, "secret"),
        ["503"],
        "the address has guessed too often"
    );
    assert_eq!(
        guess(&mut stage, PHONE, 3200, "secret"),
        ["200"],
        "who is registered there is looked at"
    );
}

#[test]
fn strangers_with_a_phones_address_do_not_use_up_its_challenges() {
    let mut stage = Stage::new();
    stage.register_phone();
    for n in 0..20_000 {
        let port = 1024 + n % 4000;
        stage.hear(&format!("192.0.2.3:{port}"), &invite(&format!("f{n}"), &n.to_string(), 1, ""));
    }
    stage.sent.clear();
    stage.hear("192.0.2.3:1024", &register("1001", 900, ""));
    assert_eq!(stage.said().len(), 0);
    assert_eq!(stage.register(PHONE, "1001", 91, "").status, 200);
}

// ---- RFC 3261 19.1.6: numbers

#[test]
fn a_called_number_is_found_whatever_decorates_it() {
    for uri in [
        "sip:1001@coach.example;user=phone",
        "sip:1001;phone-context=example.test@coach.example;user=phone",
        "sip:1001;phone-context=+49@192.0.2.1:5060;user=phone",
        "sip:1001;npdi;rn=+4930555@coach.example;user=phone",
        "sip:1001;isub=1@coach.example",
        "sip:10-01@coach.example",
        "sip:%31001@coach.example",
        "sip:1001:pw@coach.example",
        "tel:1001",
        "tel:10.01;phone-context=+49",
    ] {
        let mut stage = Stage::new();
        let text = invite("c1", "a", 1, "")
            .replace("INVITE sip:1001@coach.example", &format!("INVITE {uri}"));
        stage.hear(CARRIER, &text);
        let (.., to, _) = incoming(&mut stage).unwrap_or_else(|| panic!("{uri}"));
        assert_eq!(to.as_str(), "1001", "{uri}");
    }
}

#[test]
fn a_caller_is_shown_by_its_number_whatever_decorates_it() {
    for (from, number, display) in [
        ("<tel:+49-30-123>", "+4930123", ""),
        ("<sip:+4930123;npdi@carrier.example;user=phone>", "+4930123", ""),
        ("\"\"unknown\"\" <sip:+4930123@carrier.example>", "+4930123", "unknown"),
        ("\"A\u{202e}nna\u{7}\" <sip:%2b4930123@carrier.example>", "+4930123", "Anna"),
        (
            "M\u{fc}ller GmbH & Co. KG <sip:+4930123@carrier.example>",
            "+4930123",
            "M\u{fc}ller GmbH & Co. KG",
        ),
        ("<sip:192.0.2.2>", ANONYMOUS, ""),
        ("<sip:%E2%80%AE1234@carrier.example>", ANONYMOUS, ""),
    ] {
        let mut stage = Stage::new();
        stage.hear(CARRIER, &from_phone(from, "sip:1001@coach.example", "c1", 1, ""));
        let (_, _, shown, ..) = incoming(&mut stage).unwrap_or_else(|| panic!("{from}"));
        assert_eq!((shown.number.as_str(), shown.display.as_str()), (number, display), "{from}");
    }
}

#[test]
fn a_number_is_registered_whatever_decorates_it() {
    for to in [
        "<tel:1001>",
        "<sip:1001;phone-context=x@coach.example>",
        "<sip:10-01@coach.example;user=phone>",
        "\"\"A\"\" <sip:1001@coach.example>",
    ] {
        let mut stage = Stage::new();
        let ask = |cseq, extra: &str| {
            register("1001", cseq, extra)
                .replace("To: <sip:1001@coach.example>", &format!("To: {to}"))
        };
        stage.hear(PHONE, &ask(1, "Contact: <sip:1001@10.0.0.3>\n"));
        let challenge = stage.response(401);
        let answer =
            credentials(&mut stage, &challenge, "1001", "secret", b"REGISTER", "sip:coach.example");
        stage.hear(PHONE, &ask(2, &format!("Contact: <sip:1001@10.0.0.3>\n{answer}")));
        assert_eq!(stage.said(), ["200"], "{to}");
    }
}

#[test]
fn a_number_of_ours_that_comes_from_outside_is_withheld_unless_the_trunk_may_show_it() {
    let call = |own_numbers: bool, from: &str| {
        let mut config = config();
        config.trunks[0].own_numbers = own_numbers;
        let mut stage = Stage::with(config);
        stage.hear(CARRIER, &from_phone(from, "sip:1001@coach.example", "c1", 1, ""));
        let (_, _, shown, ..) = incoming(&mut stage).expect("a call");
        (shown.number.as_str().to_owned(), shown.display)
    };
    let unverified = (ANONYMOUS.to_owned(), "unverified 1002".to_owned());
    for from in [
        "\"Boss\" <sip:1002@carrier.example>",
        "<tel:1002>",
        "<sip:10-02;npdi@carrier.example>",
        "<sip:%31002@x.example>",
    ] {
        assert_eq!(call(false, from), unverified, "{from}");
        assert_eq!(call(true, from).0, "1002", "{from}");
    }
}

#[test]
fn what_is_handed_on_is_bounded_and_printable() {
    let session = "ab30317f1a784dc48ff824d0d3715d86";
    let long = "a".repeat(30_000);
    for (field, passes) in [
        ("User-to-User: 56a390f3;encoding=hex".to_owned(), true),
        ("User-to-User: a\0b".to_owned(), false),
        ("User-to-User: a\u{1b}[2J".to_owned(), false),
        ("User-to-User: \u{202e}a".to_owned(), false),
        (format!("User-to-User: {long}"), false),
        (format!("Session-ID: {session};remote={session}"), true),
        (format!("Session-ID: {session}"), true),
        (format!("Session-ID: {session}\u{1b}"), false),
        ("Session-ID: short".to_owned(), false),
        (format!("Session-ID: {long}"), false),
    ] {
        let mut stage = Stage::new();
        stage.hear(CARRIER, &invite("c1", "a", 1, &format!("{field}\n")));
        let handed_on = stage.events().into_iter().find_map(|event| match event {
            LegEvent::Incoming { passed, .. } => Some(passed.len()),
            _ => None,
        });
        assert_eq!(handed_on, Some(usize::from(passes)), "{}", &field[..field.len().min(60)]);
    }
}

// ---- RFC 3261 13.3.1: Expires

#[test]
fn an_invite_that_expires_is_refused_with_487() {
    let mut stage = Stage::new();
    stage.hear(CARRIER, &invite("c1", "a", 1, "Expires: 2\n"));
    let (leg, ..) = incoming(&mut stage).expect("a call");
    stage.command(LegCommand::Provisional { leg, status: 180, media: None });
    stage.sent.clear();
    stage.pass(SECOND);
    assert!(stage.said().is_empty());
    stage.pass(SECOND);
    assert_eq!(stage.said(), ["487"]);
    let ended = LegEvent::Ended { leg, reason: EndReason::Expired };
    assert_eq!(stage.events(), [ended]);
}

#[test]
fn an_invite_that_is_answered_does_not_expire_and_one_that_has_expired_does_not_ring() {
    let mut stage = Stage::new();
    stage.hear(CARRIER, &invite("c1", "a", 1, "Expires: 2\n"));
    let (leg, ..) = incoming(&mut stage).expect("a call");
    stage.command(LegCommand::Accept { leg, media: SDP.into() });
    stage.pass(10 * SECOND);
    assert!(stage.events().is_empty());
    stage.sent.clear();
    stage.hear(CARRIER, &invite("c2", "b", 1, "Expires: 0\n"));
    assert_eq!(stage.said(), ["487"]);
    for (n, odd) in ["-1", "x", "99999999999", "4294967295"].into_iter().enumerate() {
        stage.hear(
            CARRIER,
            &invite(&format!("o{n}"), &format!("o{n}"), 1, &format!("Expires: {odd}\n")),
        );
        assert!(incoming(&mut stage).is_some(), "{odd}");
    }
}

// ---- RFC 3515, RFC 3891 3, RFC 5589 7

#[test]
fn a_refer_to_our_contact_finds_the_call_by_its_replaces() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.hear(CARRIER, &invite("c2", "second", 1, ""));
    let (other, ..) = incoming(&mut stage).expect("a call");
    stage.command(LegCommand::Accept { leg: other, media: SDP.into() });
    let ok = stage.response(200);
    let contact = text(&ok, "Contact");
    assert_eq!(contact, "<sip:1001@192.0.2.1:5060>", "it has a user part");
    let contact = contact.trim_matches(['<', '>']).to_owned();
    let tag = text(&ok, "To").split("tag=").nth(1).unwrap().to_owned();
    let replaces = format!("Replaces=c2%3Bto-tag%3D{tag}%3Bfrom-tag%3Dtheirs");
    let targets = [
        format!("<{contact}?{replaces}>"),
        format!("<sip:192.0.2.1?{replaces}>"),
        format!("<sip:192.0.2.1:5060;transport=udp?{replaces}&Require=replaces>"),
        format!("<{contact};method=INVITE?Require=replaces&{replaces}>"),
        format!("<sip:1001@sbc.example?{replaces}>"),
        format!("sip:192.0.2.1?{replaces}"),
    ];
    for (cseq, target) in (2..).zip(targets) {
        stage.sent.clear();
        stage.hear(CARRIER, &call.request("REFER", cseq, &format!("Refer-To: {target}\n")));
        let events = stage.events();
        let [LegEvent::Referred { replaces, .. }] = events.as_slice() else {
            panic!("{target}: {events:?} {:?}", stage.said())
        };
        assert_eq!(*replaces, Some(other), "{target}");
        stage.command(LegCommand::TellReferrer { leg: call.leg, status: 486 });
    }
    stage.sent.clear();
    stage.hear(
        CARRIER,
        &call.request(
            "REFER",
            20,
            "Refer-To: <sip:x@sbc.example?Replaces=c9%3Bto-tag%3D1%3Bfrom-tag%3D2>\n",
        ),
    );
    assert_eq!(stage.said(), ["403"]);
}

// ---- RFC 3261 21.3: redirections

fn call_phone(stage: &mut Stage) -> SipRequest {
    stage.register_phone();
    let mut command = call_carrier(LEG);
    if let LegCommand::Invite { to, .. } = &mut command {
        *to = Destination::Device(device("phone-1"));
    }
    stage.command(command);
    stage.request("INVITE")
}

#[test]
fn a_phone_that_sends_its_caller_elsewhere_is_heard() {
    for (status, contacts, numbers) in [
        (302, "Contact: <sip:1002@coach.example>\n", ["1002"].as_slice()),
        (301, "Contact: <tel:+49-30-123>\n", &["+4930123"]),
        (
            300,
            "Contact: <sip:1@coach.example>;q=0.1, <sip:2@192.0.2.1>;q=0.7, \
             <sip:3@coach.example>\n",
            &["3", "2", "1"],
        ),
        (302, "Contact: <sip:030@10.0.0.3;user=phone>\n", &["030"]),
    ] {
        let mut stage = Stage::new();
        let invite = call_phone(&mut stage);
        stage.hear(PHONE, &answer(&invite, status, ";tag=x", contacts, ""));
        let to = numbers.iter().map(|number| Number::from(*number)).collect();
        assert_eq!(stage.events(), [LegEvent::Redirected { leg: LEG, status, to }], "{contacts}");
    }
}

#[test]
fn a_redirection_to_no_number_or_by_a_trunk_is_a_refusal() {
    for contacts in [
        "",
        "Contact: <sip:1002@elsewhere.example>\n",
        "Contact: <mailto:a@b>\n",
        "Contact: >nonsense<\n",
    ] {
        let mut stage = Stage::new();
        let invite = call_phone(&mut stage);
        stage.hear(PHONE, &answer(&invite, 302, ";tag=x", contacts, ""));
        assert_eq!(stage.events(), [LegEvent::Refused { leg: LEG, status: 302 }], "{contacts}");
    }
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    stage.hear(CARRIER, &answer(&invite, 302, ";tag=x", "Contact: <sip:1002@coach.example>\n", ""));
    assert_eq!(stage.events(), [LegEvent::Refused { leg: LEG, status: 302 }]);
}

#[test]
fn a_trunk_that_may_sends_its_caller_to_numbers_here_there_and_nowhere_else() {
    for (contacts, numbers) in [
        ("Contact: <sip:1002@coach.example>\n", ["1002"].as_slice()),
        ("Contact: <sip:0301@192.0.2.2:5070>;q=0.5, <sip:1@coach.example>\n", &["1", "0301"]),
        ("Contact: <sip:0301@elsewhere.example>, <sip:0302@192.0.2.3>\n", &[]),
    ] {
        let mut config = config();
        config.trunks.iter_mut().for_each(|trunk| trunk.redirects = Redirects::Follow);
        let mut stage = Stage::with(config);
        stage.command(call_carrier(LEG));
        let invite = stage.request("INVITE");
        stage.hear(CARRIER, &answer(&invite, 302, ";tag=x", contacts, ""));
        let to: Vec<Number> = numbers.iter().map(|number| Number::from(*number)).collect();
        let expected = match to.is_empty() {
            true => LegEvent::Refused { leg: LEG, status: 302 },
            false => LegEvent::Redirected { leg: LEG, status: 302, to },
        };
        assert_eq!(stage.events(), [expected], "{contacts}");
    }
}

#[test]
fn a_caller_that_is_refused_by_us_is_told_why_in_a_warning() {
    let mut stage = Stage::new();
    stage.hear(CARRIER, &invite("c1", "INVITE", 1, ""));
    let events = stage.events();
    let leg = events.iter().find_map(|event| match event {
        LegEvent::Incoming { leg, .. } => Some(*leg),
        _ => None,
    });
    let leg = leg.expect("an INVITE has come");
    stage.command(LegCommand::Refuse { leg, status: 403, text: "Not \"so\"\r\nEvil: 1".into() });
    let refused = stage.response(403);
    let warning = refused.headers.get("Warning").expect("a warning");
    let text = String::from_utf8_lossy(warning);
    assert_eq!(text, r#"399 undertone "Not \"so\"  Evil: 1""#);
}

// ---- what the operator is told

#[test]
fn an_answer_whose_contact_cannot_be_read_ends_the_call_and_says_so() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    let extra = "Contact: <sip:x@[::1>\nContent-Type: application/sdp\n";
    stage.hear(CARRIER, &answer(&invite, 200, ";tag=x", extra, SDP));
    assert_eq!(stage.said(), ["ACK", "BYE"]);
    assert_eq!(stage.events(), [LegEvent::Failed { leg: LEG, status: 502 }]);
    assert!(stage.refusals[0].reason.contains("Contact"), "{:?}", stage.refusals);
}

#[test]
fn a_long_contact_of_an_sbc_is_registered() {
    let mut stage = Stage::new();
    let contact =
        |length: usize| format!("Contact: <sip:1001@10.0.0.3;route={}>\n", "a".repeat(length));
    assert_eq!(stage.register(PHONE, "1001", 1, &contact(1800)).status, 200);
    stage.hear(PHONE, &register("1001", 99, &contact(3000)));
    assert_eq!(stage.said(), ["400"]);
}

#[test]
fn each_refusal_is_told_with_numbers_peer_and_reason() {
    let mut stage = Stage::new();
    stage.hear(STRANGER, &invite("s1", "a", 1, ""));
    stage.hear(CARRIER, &invite("c1", "b", 1, "").replace("Max-Forwards: 70", "Max-Forwards: 0"));
    stage.command(call_carrier(LEG));
    let ours = stage.request("INVITE");
    let challenge = "WWW-Authenticate: Digest realm=\"other.example\", nonce=\"a\"\n";
    stage.hear(CARRIER, &answer(&ours, 401, ";tag=x", challenge, ""));
    let [stranger, spent, refused] = stage.refusals.as_slice() else {
        panic!("{:?}", stage.refusals)
    };
    assert_eq!(
        (stranger.by, stranger.status, stranger.peer),
        (RefusedBy::Us, 401, address(STRANGER))
    );
    assert!(
        stranger.from.contains("+4930")
            && stranger.to.contains("1001")
            && stranger.reason.contains("no trunk")
    );
    assert_eq!((spent.status, spent.call_id.as_str()), (483, "c1"));
    assert_eq!(
        (refused.by, refused.status, refused.peer),
        (RefusedBy::Peer, 401, address(CARRIER))
    );
    assert_eq!(
        (refused.realms.as_str(), refused.to.as_str()),
        ("other.example", "sip:+4930123@192.0.2.2")
    );
}

#[test]
fn a_stranger_cannot_fill_the_log_nor_crowd_out_what_is_told_of_a_trunk() {
    let mut stage = Stage::new();
    for n in 0..5000 {
        stage.hear(STRANGER, &invite(&format!("f{n}"), &n.to_string(), 1, ""));
    }
    assert_eq!(stage.refusals.len(), 20);
    stage.hear(CARRIER, &invite("c1", "b", 1, "").replace("Max-Forwards: 70", "Max-Forwards: 0"));
    assert_eq!(stage.refusals.len(), 21);
    stage.pass(Duration::from_secs(60));
    stage.hear(STRANGER, &invite("late", "late", 1, ""));
    assert_eq!(stage.refusals.last().map(|refused| refused.left_out), Some(4980));
}
