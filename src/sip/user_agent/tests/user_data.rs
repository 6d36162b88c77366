//! Call data in header fields (RFC 7433): what an INVITE says of its call, and what ours say.

use super::*;
use crate::model::UserData;
use crate::sip::config::UserDataHeaders;
use crate::sip::leg::{HangupCause, PassedHeader};

fn table(fields: &[(&str, &str)]) -> UserDataHeaders {
    let fields = fields.iter().map(|(header, key)| ((*header).into(), (*key).into()));
    UserDataHeaders::try_from(BTreeMap::from_iter(fields)).expect("may stand for call data")
}

fn data(pairs: &[(&str, &str)]) -> UserData {
    UserData::new(pairs.iter().map(|(key, value)| ((*key).into(), (*value).into()))).unwrap()
}

/// A user agent whose carrier and whose phone have these tables for what they say.
fn stage(fields: &[(&str, &str)]) -> Stage {
    let mut config = config();
    config.trunks[0].user_data_headers = table(fields);
    first_account(&mut config).user_data_headers = table(fields);
    config.challenge_invites = false;
    Stage::with(config)
}

/// What an INVITE with these header fields says of its call: `key=value`, and how many fields were
/// handed on.
fn said(stage: &mut Stage, peer: &str, fields: &str) -> (Vec<String>, usize) {
    stage.hear(peer, &invite("c1", "a", 1, fields));
    let found = stage.events().into_iter().find_map(|event| match event {
        LegEvent::Incoming { user_data, passed, .. } => Some((user_data, passed.len())),
        _ => None,
    });
    let (data, passed) = found.expect("it is no less a call");
    (data.pairs().map(|(key, value)| format!("{key}={value}")).collect(), passed)
}

#[test]
fn user_to_user_of_a_trunk_is_call_data_and_goes_on_as_it_came() {
    for (fields, expected, passed) in [
        ("User-to-User: 4b2d3437;encoding=hex\n", &["User-to-User=K-47"][..], 1),
        ("user-to-user: \"K;47\";purpose=x\n", &["User-to-User=K;47"], 1),
        (
            "User-to-User: a,b;purpose=x, 63;encoding=hex\nUser-to-User: d\nUser-to-User: e\n",
            &["User-to-User=a", "User-to-User-2=b", "User-to-User-3=c", "User-to-User-4=d"],
            3,
        ),
        ("User-to-User: a\u{1b}[2J\n", &[], 0),
        ("X-Account: 7\n", &[], 0),
        ("", &[], 0),
    ] {
        let found = said(&mut stage(&[]), CARRIER, fields);
        assert_eq!(
            (found.0.as_slice(), found.1),
            (&expected.iter().map(|it| it.to_string()).collect::<Vec<_>>()[..], passed),
            "{fields}"
        );
    }
}

#[test]
fn configured_header_fields_become_call_data_under_their_keys_and_others_do_not() {
    let fields = [("X-Account", "AccountNumber"), ("User-to-User", "Case"), ("X-Tier", "Tier")];
    let said_by = |peer, text: &str| {
        let mut stage = stage(&fields);
        stage.register_phone();
        said(&mut stage, peer, text).0
    };
    let text = "x-account:  4711 \nX-Other: no\nX-ACCOUNT: second\nUser-to-User: 4b;encoding=hex\n\
                X-Tier:\nSubject: no\n";
    for peer in [CARRIER, PHONE] {
        assert_eq!(said_by(peer, text), ["AccountNumber=4711", "Case=K"], "{peer}");
    }
    assert_eq!(
        said_by(CARRIER, "X-Account: a\u{202e}b\nX-Tier: go\u{308}ld\n"),
        ["Tier=go\u{308}ld"]
    );
}

#[test]
fn what_a_phone_says_of_a_call_is_no_call_data_unless_that_is_configured() {
    let mut stage = stage(&[]);
    stage.register_phone();
    let found = said(&mut stage, PHONE, "User-to-User: 4b;encoding=hex\nX-Account: 7\n");
    assert_eq!(found, (Vec::new(), 1));
}

#[test]
fn as_much_as_an_invite_may_have_fits_into_a_call() {
    let long = "x".repeat(31_000);
    let (data, _) = said(&mut stage(&[("X-A", "a")]), CARRIER, &format!("X-A: {long}\n"));
    assert_eq!(data, [format!("a={long}")]);
    let (data, passed) = said(&mut stage(&[]), CARRIER, &format!("User-to-User: {long}\n"));
    assert_eq!((data, passed), (vec![format!("User-to-User={long}")], 0));
    // With all the keys that there may be, it would still fit.
    const { assert!(32 * 1024 + UserDataHeaders::MOST * UserData::LONGEST_KEY < UserData::MOST_BYTES) };
}

/// Our INVITE for a call with this data, to the carrier or the phone, with a User-to-User handed
/// on.
fn sent(fields: &[(&str, &str)], user_data: UserData, passed: Option<&str>) -> [SipRequest; 2] {
    let mut config = config();
    config.trunks[0].send_user_data = table(fields);
    first_account(&mut config).send_user_data = table(fields);
    let mut stage = Stage::with(config);
    stage.register_phone();
    [call_carrier(LegId(1)), call_phone(LegId(3))].map(|mut command| {
        if let LegCommand::Invite { user_data: data, passed: to_pass, .. } = &mut command {
            data.clone_from(&user_data);
            let header = |value: &str| PassedHeader { name: "User-to-User", value: value.into() };
            *to_pass = passed.map(header).into_iter().collect();
        }
        stage.command(command);
        stage.request("INVITE")
    })
}

fn fields(request: &SipRequest, name: &str) -> Vec<String> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    request.headers.fields_of(name).map(text).collect()
}

#[test]
fn configured_keys_go_out_as_header_fields_and_nothing_else_of_the_data_does() {
    let attached = data(&[("AccountNumber", "4711"), ("Case", "K-47"), ("Secret", "s3cret")]);
    let table = [("X-Account", "AccountNumber"), ("User-to-User", "Case"), ("X-None", "None")];
    for invite in sent(&table, attached.clone(), None) {
        assert_eq!(fields(&invite, "X-Account"), ["4711"]);
        assert_eq!(fields(&invite, "User-to-User"), ["4b2d3437;encoding=hex"]);
        assert!(!invite.headers.has("X-None"));
        assert!(!String::from_utf8_lossy(&invite.to_bytes()).contains("s3cret"));
        let shown = format!("{invite:?}");
        assert!(!shown.contains("4711") && !shown.contains("4b2d3437"), "{shown}");
    }
    for invite in sent(&[], attached, None) {
        assert!(!invite.headers.has("X-Account") && !invite.headers.has("User-to-User"));
    }
}

#[test]
fn what_no_header_field_can_say_is_left_out() {
    let table = [("X-A", "a"), ("User-to-User", "u")];
    let long = "x".repeat(513);
    for value in ["", "a\r\nX-B: 1", "a\nb", "a\tb", " a", "a ", "\u{202e}a", &long] {
        for invite in sent(&table, data(&[("a", value), ("u", value)]), None) {
            assert!(!invite.headers.has("X-A"), "{value:?}");
            assert!(!invite.headers.has("User-to-User"), "{value:?}");
        }
    }
    for value in ["a, b; \"c\"", "ü — 東京", &"x".repeat(249)] {
        for invite in sent(&table, data(&[("a", value), ("u", value)]), None) {
            assert_eq!(fields(&invite, "X-A"), [value]);
            let field = &fields(&invite, "User-to-User")[0];
            let said = crate::sip::message::read_user_to_user(field.as_bytes());
            assert_eq!(said.collect::<Vec<_>>(), [value]);
        }
    }
    for invite in sent(&table, data(&[("u", &"x".repeat(250))]), None) {
        assert!(!invite.headers.has("User-to-User"), "longer than what is common");
    }
}

#[test]
fn a_user_to_user_that_is_handed_on_stays_as_it_is_unless_the_call_says_another_by_now() {
    let table = [("User-to-User", "u")];
    let before = "044b2d3437;encoding=hex;purpose=isdn-uui";
    for (attached, expected) in
        [("K-47", before), ("K-48", "4b2d3438;encoding=hex"), ("a\nb", before)]
    {
        for invite in sent(&table, data(&[("u", attached)]), Some(before)) {
            assert_eq!(fields(&invite, "User-to-User"), [expected], "{attached}");
        }
    }
    for invite in sent(&[], data(&[("u", "K-48")]), Some(before)) {
        assert_eq!(fields(&invite, "User-to-User"), [before]);
    }
}

#[test]
fn a_phone_is_told_why_it_rings_no_more() {
    for (cause, text) in [
        (HangupCause::Declined, "SIP;cause=603;text=\"Decline\""),
        (HangupCause::Redirected, "SIP;cause=302;text=\"Moved Temporarily\""),
    ] {
        let mut stage = Stage::new();
        stage.register_phone();
        stage.command(call_phone(LegId(1)));
        let invite = stage.request("INVITE");
        stage.hear(PHONE, &answer(&invite, 180, ";tag=theirs", "", ""));
        stage.command(LegCommand::Hangup { leg: LegId(1), reason: Some(cause) });
        assert_eq!(text_of(&stage.request("CANCEL"), "Reason"), text);
    }
}
