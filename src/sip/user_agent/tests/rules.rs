//! Who may what, and what is said how.

use super::*;
use crate::sip::config::SipAccounts;
use crate::sip::config::SipLimits;
use crate::sip::leg::{EndReason, HangupCause, LegSource, PassedHeader};
use crate::sip::message::Uri;
use crate::sip::peer::ReturnPath;
use crate::sip::registrar::{BindingChange, Genuine, Registrar};

const LEG: LegId = LegId(1);
const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn call_phone() -> LegCommand {
    let LegCommand::Invite { from, offer, .. } = call_carrier(LEG) else { panic!() };
    LegCommand::Invite {
        leg: LEG,
        to: Destination::Device(device("phone-1")),
        from,
        offer,
        auto_answer: true,
        swallow_digits: true,
        timeout: Duration::from_secs(60),
        max_forwards: 12,
        passed: vec![
            PassedHeader { name: "User-to-User", value: b"56a390f3;encoding=hex".to_vec() },
            PassedHeader { name: "X-Coach-Role", value: b"supervisor".to_vec() },
            PassedHeader { name: "Identity", value: b"without its date".to_vec() },
        ],
        user_data: Default::default(),
        is_secure: false,
        reasons: Default::default(),
    }
}

#[test]
fn a_phone_registers_with_its_digest_and_is_called_where_it_registered_from() {
    let mut stage = Stage::new();
    let ok = stage.register(PHONE, "1001", 1, "Contact: <sip:1001@10.0.0.3:5062>\nExpires: 600\n");
    assert_eq!(
        (ok.status, text(&ok, "Contact").as_str()),
        (200, "<sip:1001@10.0.0.3:5062>;expires=600")
    );
    assert_eq!(
        stage.events(),
        [LegEvent::Registered { device: device("phone-1"), registered: true }]
    );
    stage.command(call_phone());
    let (flow, _) = stage.sent[0];
    assert_eq!(flow.peer, address(PHONE), "the Contact's address is nobody's proof");
    let invite = stage.request("INVITE");
    assert_eq!(invite.uri.as_bytes(), b"sip:1001@10.0.0.3:5062");
    assert_eq!(text_of(&invite, "Max-Forwards"), "12");
    assert!(text_of(&invite, "From").starts_with(r#""Anna \"A\"" <sip:1001@192.0.2.1>;tag="#));
    assert_eq!(text_of(&invite, "Answer-Mode"), "Auto");
    assert!(text_of(&invite, "Call-Info").ends_with(";answer-after=0"));
    assert!(text_of(&invite, "Alert-Info").contains("info=alert-autoanswer"));
    assert_eq!(text_of(&invite, "User-to-User"), "56a390f3;encoding=hex");
    assert!(!invite.headers.has("X-Coach-Role") && !invite.headers.has("Identity"));
    assert_eq!(text_of(&invite, "Session-Expires"), "300");
    assert_eq!(text_of(&invite, "Min-SE"), "90");
}

#[test]
fn a_wrong_password_is_403_and_binds_nothing() {
    let mut stage = Stage::new();
    stage.hear(PHONE, &register("1001", 1, "Contact: <sip:1001@10.0.0.3>\n"));
    let challenge = stage.response(401);
    let mut client = Credentials::new("us", Some(REALM), "1001", "wrong");
    let challenges: Vec<&[u8]> = challenge.headers.fields_of("WWW-Authenticate").collect();
    let subject = DigestRequest { method: b"REGISTER", uri: b"sip:coach.example", body: b"" };
    let answer = client.answer(&challenges, "us", subject, "c").unwrap();
    stage.hear(
        PHONE,
        &register("1001", 2, &format!("Contact: <sip:1001@10.0.0.3>\nAuthorization: {answer}\n")),
    );
    assert_eq!(stage.said(), ["403"]);
    assert_eq!(stage.agent.registered_devices().count(), 0);
    // A number that does not exist is answered as one that does.
    stage.hear(PHONE, &register("4711", 1, "Contact: <sip:4711@10.0.0.3>\n"));
    assert_eq!(stage.said(), ["401"]);
}

/// A digest to a challenge of ours with this password.
fn digest(stage: &mut Stage, peer: &str, number: &str, cseq: u32, password: &str) -> String {
    stage.hear(peer, &register(number, cseq, ""));
    let challenge = stage.response(401);
    let challenges: Vec<&[u8]> = challenge.headers.fields_of("WWW-Authenticate").collect();
    let subject = DigestRequest { method: b"REGISTER", uri: b"sip:coach.example", body: b"" };
    let mut client = Credentials::new("us", Some(REALM), number, password);
    client.answer(&challenges, "us", subject, "c").unwrap()
}

fn guess(stage: &mut Stage, peer: &str, number: &str, cseq: u32, password: &str) -> SipResponse {
    let answer = digest(stage, peer, number, cseq, password);
    let again = register(
        number,
        cseq + 1,
        &format!("Contact: <sip:x@10.0.0.3>\nAuthorization: {answer}\n"),
    );
    stage.hear(peer, &again);
    match stage.sent().pop() {
        Some(SipMessage::Response(response)) => response,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_guesses_passwords_is_soon_not_looked_at_and_disturbs_nobody_elsewhere() {
    let mut stage = Stage::new();
    let guesses: Vec<u16> = (0..150)
        .map(|n| guess(&mut stage, STRANGER, "1001", 100 + 2 * n, "wrong").status)
        .collect();
    assert_eq!(guesses.iter().filter(|status| **status == 403).count(), 5);
    assert!(guesses[5..].iter().all(|status| *status == 503));
    let right = guess(&mut stage, STRANGER, "1001", 800, "secret");
    assert_eq!(
        (right.status, text(&right, "Retry-After").as_str()),
        (503, "30"),
        "nobody learns that it is the right one"
    );
    assert_eq!(stage.agent.registered_devices().count(), 0);
    assert!(stage.is_quiet(), "answered statelessly");
    let counters = stage.agent.counters();
    assert_eq!((counters.wrong_passwords, counters.throttled), (5, 146));
    let reports = std::mem::take(&mut stage.reports);
    let told: Vec<(u32, bool)> =
        reports.iter().map(|report| (report.times, report.throttled)).collect();
    assert_eq!(told, [(1, false), (4, true)]);
    assert!(
        reports.iter().all(|report| (&report.device, report.source)
            == (&device("phone-1"), address(STRANGER).ip()))
    );

    assert_eq!(stage.register(PHONE, "1001", 90, "Contact: <sip:1001@10.0.0.3>\n").status, 200);
    assert_eq!(
        guess(&mut stage, STRANGER, "1002", 900, "secret").status,
        200,
        "another device of the same site"
    );
    stage.pass(Duration::from_secs(30));
    assert_eq!(guess(&mut stage, STRANGER, "1001", 950, "secret").status, 200, "after waiting");
}

#[test]
fn a_wrong_password_on_a_call_counts_as_one_on_a_registration() {
    let mut stage = Stage::new();
    for n in 0..5 {
        guess(&mut stage, STRANGER, "1001", 100 + 2 * n, "wrong");
    }
    let answer = digest(&mut stage, STRANGER, "1001", 200, "secret");
    let call = invite("c1", "i", 1, &format!("Authorization: {answer}\n"));
    stage.hear(STRANGER, &call.replace("sip:+4930@carrier.example", "sip:1001@coach.example"));
    assert_eq!(stage.said(), ["503"]);
}

#[test]
fn one_account_can_not_register_another() {
    let mut stage = Stage::new();
    stage.hear(PHONE, &register("1002", 1, "Contact: <sip:1002@10.0.0.3>\n"));
    let challenge = stage.response(401);
    let mut client = Credentials::new("us", Some(REALM), "1001", "secret");
    let challenges: Vec<&[u8]> = challenge.headers.fields_of("WWW-Authenticate").collect();
    let subject = DigestRequest { method: b"REGISTER", uri: b"sip:coach.example", body: b"" };
    let answer = client.answer(&challenges, "us", subject, "c").unwrap();
    stage.hear(
        PHONE,
        &register("1002", 2, &format!("Contact: <sip:1002@10.0.0.3>\nAuthorization: {answer}\n")),
    );
    assert_eq!(stage.said(), ["403"]);
}

#[test]
fn a_phone_is_called_after_a_restart_before_it_registers_again() {
    let mut before = Stage::new();
    before.register_phone();
    before.pass(Duration::from_secs(100));
    let registered = |registered| LegEvent::Registered { device: device("phone-1"), registered };

    let mut stage = before.restarted(config(), Duration::from_secs(300));
    assert_eq!(stage.events(), [registered(true)]);
    stage.command(call_phone());
    assert_eq!(stage.sent[0].0, flow_from(PHONE));
    let invite = stage.request("INVITE");
    assert_eq!(invite.uri.as_bytes(), b"sip:1001@10.0.0.3:5062");
    stage.pass(Duration::from_secs(199));
    assert!(!stage.events().contains(&registered(false)));
    stage.pass(Duration::from_secs(1));
    assert_eq!(stage.agent.registered_devices().count(), 0, "not longer than it had asked for");
    assert!(stage.kept.values().all(Vec::is_empty), "nor kept any longer: {:?}", stage.kept);
}

#[test]
fn nobody_is_restored_who_has_expired_or_is_no_account_or_came_to_an_address_not_ours() {
    let mut before = Stage::new();
    before.register_phone();
    let mut strangers = config();
    strangers.accounts = SipAccounts::default();
    let mut elsewhere = Stage::new();
    elsewhere.kept.clone_from(&before.kept);
    elsewhere.kept.values_mut().flatten().for_each(|kept| kept.local = address("192.0.2.1:5080"));
    for mut stage in [
        before.restarted(config(), Duration::from_secs(600)),
        before.restarted(strangers, SECOND),
        elsewhere.restarted(config(), SECOND),
    ] {
        assert_eq!(stage.events(), []);
        assert_eq!(stage.kept[&device("phone-1")], [], "and it is forgotten");
    }
    // A clock that was set back does not prolong a registration for ever.
    before.kept.values_mut().flatten().for_each(|kept| kept.expires_at.0 += 1_000_000_000);
    let mut stage = before.restarted(config(), SECOND);
    stage.pass(HOUR);
    assert_eq!(stage.agent.registered_devices().count(), 0);
}

#[test]
fn what_is_registered_over_a_connection_ends_with_it_and_is_not_kept() {
    let mut stage = Stage::new();
    stage.register_phone();
    let mut kept = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let flow = Flow {
            protocol,
            connection: ConnectionId(u64::from(protocol.is_reliable())),
            ..flow_from(PHONE)
        };
        let mut registrar = Registrar::new(5, SECOND, HOUR);
        let contact = Uri::parse(b"sip:1001@10.0.0.3").unwrap();
        let bind = BindingChange::Bind(vec![(contact, HOUR)]);
        let genuine = Genuine {
            call_id: b"c",
            cseq: 1,
            challenge: 1,
            path: ReturnPath::new(flow, None, false),
        };
        registrar.register(&device("phone-1"), bind, genuine, stage.now.mono).unwrap();
        let (_, bindings) = registrar.poll_changed(stage.now).unwrap();
        kept.push(bindings.len());
    }
    assert_eq!(kept, [0, 1]);
}

#[test]
fn bindings_are_fetched_refreshed_removed_and_expire() {
    let mut stage = Stage::new();
    stage.register_phone();
    let fetched = stage.register(PHONE, "1001", 2, "");
    assert_eq!(fetched.headers.fields_of("Contact").count(), 1);
    let brief =
        stage.register(PHONE, "1001", 3, "Contact: <sip:1001@10.0.0.3:5062>\nExpires: 10\n");
    assert_eq!((brief.status, text(&brief, "Min-Expires").as_str()), (423, "60"));
    let star = stage.register(PHONE, "1001", 4, "Contact: *\nExpires: 0\n");
    assert_eq!((star.status, star.headers.has("Contact")), (200, false));
    let gone = LegEvent::Registered { device: device("phone-1"), registered: false };
    assert_eq!(stage.events(), std::slice::from_ref(&gone));
    stage.register(PHONE, "1001", 5, "Contact: <sip:1001@10.0.0.3:5062>;expires=120\n");
    stage.pass(121 * SECOND);
    assert_eq!(stage.events().last(), Some(&gone));
    stage.command(call_phone());
    assert_eq!(stage.events(), [LegEvent::Failed { leg: LEG, status: 480 }]);
}

#[test]
fn a_phone_that_restarts_again_and_again_registers_and_is_called_at_its_newest_contact() {
    let mut stage = Stage::new();
    for restart in 1..=12 {
        let peer = format!("192.0.2.3:{}", 50_000 + restart);
        let ok = stage.register(
            &peer,
            "1001",
            restart,
            &format!("Contact: <sip:1001@10.0.0.{restart}>\n"),
        );
        assert_eq!(ok.status, 200);
        assert_eq!(ok.headers.fields_of("Contact").count(), restart.min(5) as usize);
    }
    stage.command(call_phone());
    let (flow, _) = stage.sent.last().unwrap();
    assert_eq!(flow.peer, address("192.0.2.3:50012"));
    assert_eq!(stage.request("INVITE").uri.as_bytes(), b"sip:1001@10.0.0.12");
}

#[test]
fn another_port_of_our_host_is_another() {
    let mut stage = Stage::new();
    let options = |uri: &str, branch: &str| {
        format!(
            "OPTIONS {uri} SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK{branch}\n\
             Max-Forwards: 70\nFrom: <sip:a@b.example>;tag=a\n\
             To: <{uri}>\nCall-ID: {branch}\nCSeq: 1 OPTIONS\nContent-Length: 0\n\n"
        )
    };
    let asked = [
        ("sip:1001@192.0.2.1", "200"),
        ("sip:1001@192.0.2.1:5060", "200"),
        ("sip:1001@192.0.2.1:9999", "404"),
        ("sip:1001@coach.example", "200"),
        ("sip:1001@coach.example:9999", "200"),
        ("sip:1001@192.0.2.9:5060", "404"),
    ];
    for (number, (uri, status)) in asked.into_iter().enumerate() {
        stage.hear("198.51.100.9:5060", &options(uri, &format!("o{number}")));
        assert_eq!(stage.said(), [status], "{uri}");
    }
}

#[test]
fn more_contacts_in_one_request_than_a_device_may_have_change_nothing() {
    let mut stage = Stage::new();
    stage.register_phone();
    let contacts: String =
        (1..=6).map(|number| format!("Contact: <sip:1001@10.0.0.{number}>\n")).collect();
    assert_eq!(stage.register(PHONE, "1001", 2, &contacts).status, 403);
    assert_eq!(stage.register(PHONE, "1001", 3, "").headers.fields_of("Contact").count(), 1);
}

#[test]
fn a_phone_calls_with_its_digest_under_its_own_number() {
    let mut stage = Stage::new();
    stage.register_phone();
    let ask = |branch: &str, cseq, extra: &str| {
        invite("c9", branch, cseq, extra)
            .replace("<sip:+4930@carrier.example>", "\"Boss\" <sip:1001@coach.example>")
    };
    stage.hear(PHONE, &ask("1", 1, ""));
    let challenge = stage.response(401);
    let mut client = Credentials::new("us", Some(REALM), "1001", "secret");
    let challenges: Vec<&[u8]> = challenge.headers.fields_of("WWW-Authenticate").collect();
    let subject = DigestRequest { method: b"INVITE", uri: b"sip:1001@coach.example", body: b"" };
    let answer = client.answer(&challenges, "us", subject, "c").unwrap();
    stage.hear(
        PHONE,
        &ask(
            "2",
            2,
            &format!("Authorization: {answer}\nIdentity: x\nDate: now\nUser-to-User: y\n"),
        ),
    );
    let events = stage.events();
    let [LegEvent::Incoming { source, from, passed, .. }] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(*source, LegSource::Account(device("phone-1")));
    assert_eq!((from.number.as_str(), from.display.as_str()), ("1001", "Boss"));
    assert_eq!(passed.iter().map(|header| header.name).collect::<Vec<_>>(), ["User-to-User"]);
}

#[test]
fn strangers_foreign_targets_and_unknown_users_are_refused_without_a_leg() {
    let mut stage = Stage::new();
    stage.hear(STRANGER, &invite("s1", "1", 1, ""));
    assert_eq!(stage.said(), ["401"], "as if there were such an account");
    let relay = invite("s2", "2", 1, "")
        .replace("INVITE sip:1001@coach.example", "INVITE sip:+1900@elsewhere.example");
    stage.hear(CARRIER, &relay);
    assert_eq!(stage.said(), ["404"]);
    let smuggled =
        invite("s3", "3", 1, "").replace("INVITE sip:1001@", "INVITE sip:1001%0d%0aX:1@");
    stage.hear(CARRIER, &smuggled);
    assert_eq!(stage.said(), ["404"]);
    assert!(stage.events().is_empty() && stage.is_quiet());
}

#[test]
fn stateless_refusals_of_one_request_are_the_same() {
    let mut stage = Stage::new();
    let foreign = invite("s1", "1", 1, "")
        .replace("INVITE sip:1001@coach.example", "INVITE sip:1001@elsewhere.example");
    stage.hear(STRANGER, &foreign);
    stage.hear(STRANGER, &foreign);
    let sent = stage.sent();
    assert_eq!(sent[0], sent[1]);
    assert!(stage.is_quiet());
}

#[test]
fn a_flood_costs_no_memory_and_is_not_answered_for_ever() {
    let mut stage = Stage::with(SipConfig {
        limits: SipLimits { refusals_per_second: 50, ..SipLimits::default() },
        ..config()
    });
    for number in 0..2000 {
        stage.hear(STRANGER, &invite(&format!("f{number}"), &number.to_string(), 1, ""));
    }
    assert_eq!(stage.said().len(), 100);
    assert!(stage.is_quiet());
    stage.hear(CARRIER, &invite("c1", "a", 1, ""));
    assert_eq!(stage.events().len(), 1);
    stage.pass(SECOND);
    stage.said();
    stage.hear(STRANGER, &invite("late", "late", 1, ""));
    assert_eq!(stage.said(), ["401"]);
}

#[test]
fn a_trunk_that_calls_too_much_gets_503_and_is_served_again_later() {
    let mut config = config();
    config.limits.legs = 3;
    let mut stage = Stage::with(config);
    for number in 0..4 {
        stage.hear(CARRIER, &invite(&format!("f{number}"), &number.to_string(), 1, ""));
    }
    let refused = stage.response(503);
    assert!(refused.headers.has("Retry-After"));
    assert_eq!(stage.events().len(), 3);
    stage.pass(HOUR);
    stage.events();
    stage.hear(CARRIER, &invite("again", "again", 1, ""));
    assert_eq!(stage.events().len(), 1);
}

fn challenge(realm: &str) -> String {
    format!(
        "WWW-Authenticate: Digest realm=\"{realm}\", nonce=\"abc\", qop=\"auth\", \
         algorithm=SHA-256\n"
    )
}

#[test]
fn the_trunks_challenge_is_answered_once() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let first = stage.request("INVITE");
    stage.hear(CARRIER, &answer(&first, 401, ";tag=x", &challenge("carrier.example"), ""));
    let sent = stage.sent();
    assert_eq!(sent.iter().map(short).collect::<Vec<_>>(), ["ACK", "INVITE"]);
    let SipMessage::Request(second) = &sent[1] else { panic!() };
    assert!(second.headers.has("Authorization"));
    assert_eq!(second.headers.cseq().unwrap().0, 2);
    stage.hear(CARRIER, &answer(second, 401, ";tag=x", &challenge("carrier.example"), ""));
    assert_eq!(stage.said(), ["ACK"]);
    assert_eq!(stage.events(), [LegEvent::Refused { leg: LEG, status: 401 }]);
}

#[test]
fn a_foreign_realm_gets_nothing_on_invite_and_on_bye() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let first = stage.request("INVITE");
    stage.hear(CARRIER, &answer(&first, 401, ";tag=x", &challenge("evil.example"), ""));
    assert_eq!(stage.said(), ["ACK"]);
    assert_eq!(stage.events(), [LegEvent::Refused { leg: LEG, status: 401 }]);

    let mut stage = Stage::new();
    stage.outgoing_call();
    stage.command(LegCommand::Hangup { leg: LEG, reason: None });
    let bye = stage.request("BYE");
    stage.hear(CARRIER, &answer(&bye, 401, "", &challenge("evil.example"), ""));
    assert!(stage.said().is_empty());
    stage.pass(HOUR);
    assert!(stage.is_quiet());
}

#[test]
fn a_phone_that_challenges_us_gets_nothing() {
    let mut stage = Stage::new();
    stage.register_phone();
    stage.command(call_phone());
    let invite = stage.request("INVITE");
    stage.hear(PHONE, &answer(&invite, 401, ";tag=x", &challenge("carrier.example"), ""));
    assert_eq!(stage.said(), ["ACK"]);
    assert_eq!(stage.events(), [LegEvent::Refused { leg: LEG, status: 401 }]);
}

#[test]
fn a_bye_is_challenged_and_sent_again() {
    let mut stage = Stage::new();
    stage.outgoing_call();
    stage.command(LegCommand::Hangup { leg: LEG, reason: Some(HangupCause::MediaFailure) });
    let bye = stage.request("BYE");
    assert_eq!(text_of(&bye, "Reason"), "SIP;cause=500;text=\"Media Failure\"");
    stage.hear(CARRIER, &answer(&bye, 401, "", &challenge("carrier.example"), ""));
    let again = stage.request("BYE");
    assert!(again.headers.has("Authorization"));
    stage.hear(CARRIER, &answer(&again, 200, "", "", ""));
    stage.pass(HOUR);
    assert!(stage.is_quiet());
}

#[test]
fn a_response_from_another_address_is_nobodys() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    let ok = answer(
        &invite,
        200,
        ";tag=x",
        "Contact: <sip:x@192.0.2.66>\nContent-Type: application/sdp\n",
        SDP,
    );
    stage.hear(STRANGER, &ok);
    assert!(stage.events().is_empty() && stage.said().is_empty());
}

#[test]
fn a_call_whose_hops_are_used_up_is_refused() {
    let mut stage = Stage::new();
    let spent = invite("c2", "b", 1, "").replace("Max-Forwards: 70", "Max-Forwards: 0");
    stage.hear(CARRIER, &spent);
    assert_eq!(stage.said(), ["483"]);
}

#[test]
fn a_peer_may_take_the_place_of_its_own_leg_and_of_no_other() {
    let mut stage = Stage::new();
    stage.register_phone();
    let call = stage.incoming_call();
    let tag = call.ours.split("tag=").nth(1).unwrap().to_owned();
    stage.said();
    for (n, (extra, status)) in [
        ("Replaces: nobody;to-tag=1;from-tag=2\n".to_owned(), "481"),
        (format!("Replaces: c1;to-tag={tag};from-tag=other\n"), "481"),
        (format!("Replaces: c1;to-tag=theirs;from-tag={tag}\n"), "481"),
        ("Replaces: c1;from-tag=theirs\n".to_owned(), "481"),
        (format!("Replaces: c1;to-tag={tag};from-tag=theirs;early-only\n"), "486"),
        (format!("Join: c1;to-tag={tag};from-tag=theirs\n"), "603"),
        (
            format!(
                "Replaces: c1;to-tag={tag};from-tag=theirs\n\
                 Replaces: c1;to-tag={tag};from-tag=theirs\n"
            ),
            "400",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        stage.hear(CARRIER, &invite(&format!("r{n}"), &format!("r{n}"), 1, &extra));
        assert_eq!(stage.said(), [status], "{extra}");
    }
    assert!(stage.events().is_empty());
    let names = format!("Replaces: c1 ; from-tag = theirs;to-tag={tag}\n");
    stage.hear(CARRIER, &invite("r8", "r8", 1, &names));
    let events = stage.events();
    let [LegEvent::Incoming { replaces, .. }] = events.as_slice() else { panic!("{events:?}") };
    assert_eq!(*replaces, Some(call.leg));
}

#[test]
fn a_phone_refers_to_its_own_other_call() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.hear(CARRIER, &invite("c2", "second", 1, ""));
    let Some(LegEvent::Incoming { leg: other, .. }) = stage.events().pop() else {
        panic!("no call")
    };
    stage.command(LegCommand::Accept { leg: other, media: SDP.into() });
    let tag = text(&stage.response(200), "To").split("tag=").nth(1).unwrap().to_owned();
    stage.said();
    stage.hear(
        CARRIER,
        &refer(
            &call,
            2,
            &format!("<sip:1002@coach.example?Replaces=c2%3Bto-tag%3D{tag}%3Bfrom-tag%3Dtheirs>"),
        ),
    );
    assert_eq!(
        stage.events(),
        [LegEvent::Referred {
            leg: call.leg,
            to: "1002".into(),
            replaces: Some(other),
            is_secure: false
        }]
    );
}

#[test]
fn requests_that_are_not_for_here_do_nothing() {
    let mut stage = Stage::new();
    let request = |method: &str| {
        let text = invite("x", method, 1, "").replace("INVITE", method);
        text.replace("Content-Type: application/sdp\n", "Content-Type: text/plain\n")
    };
    stage.hear(CARRIER, &request("REFER"));
    assert_eq!(stage.said(), ["403"]);
    for method in ["SUBSCRIBE", "MESSAGE", "PUBLISH", "NOTIFY"] {
        stage.hear(CARRIER, &request(method));
        let refused = stage.response(405);
        assert!(refused.headers.has("Allow"), "{method}");
    }
    stage.hear(CARRIER, &request("BREW"));
    assert!(stage.response(501).headers.has("Allow"));
    let of_no_call = Call {
        leg: LegId(0),
        call_id: "x".into(),
        theirs: "<sip:+4930@carrier.example>;tag=theirs".into(),
        ours: "<sip:1001@coach.example>".into(),
    };
    for method in ["BYE", "UPDATE", "INFO", "PRACK"] {
        stage.hear(CARRIER, &of_no_call.request(method, 1, ""));
        assert_eq!(stage.said(), ["481"], "{method}");
    }
    assert!(stage.events().is_empty() && stage.is_quiet());
}

#[test]
fn a_session_that_nobody_refreshes_expires() {
    let mut stage = Stage::new();
    stage.hear(CARRIER, &invite("c0", "z", 1, "Session-Expires: 30\nSupported: timer\n"));
    assert_eq!(text(&stage.response(422), "Min-SE"), "90");
    stage.hear(
        CARRIER,
        &invite("c1", "a", 1, "Session-Expires: 120;refresher=uac\nSupported: timer\n"),
    );
    let Some(LegEvent::Incoming { leg, .. }) = stage.events().pop() else { panic!() };
    stage.command(LegCommand::Accept { leg, media: SDP.into() });
    let ok = stage.response(200);
    assert_eq!(text(&ok, "Session-Expires"), "120;refresher=uac");
    assert_eq!(text(&ok, "Require"), "timer");
    let call = Call {
        leg,
        call_id: "c1".into(),
        theirs: "<sip:+4930@carrier.example>;tag=theirs".into(),
        ours: text(&ok, "To"),
    };
    stage.hear(CARRIER, &call.request("ACK", 1, ""));
    stage.events();
    stage.pass(60 * SECOND);
    stage.said();
    stage.hear(
        CARRIER,
        &call.request("UPDATE", 2, "Session-Expires: 120;refresher=uac\nSupported: timer\n"),
    );
    assert_eq!(stage.said(), ["200"]);
    stage.pass(87 * SECOND);
    assert!(stage.said().is_empty());
    stage.pass(2 * SECOND);
    assert!(stage.said().contains(&"BYE".to_owned()));
    assert_eq!(stage.events(), [LegEvent::Ended { leg, reason: EndReason::Expired }]);
}

#[test]
fn we_refresh_by_update_or_by_reinvite_as_the_peer_can() {
    let mut stage = Stage::new();
    stage.outgoing_call();
    stage.pass(151 * SECOND);
    let refresh = stage.request("INVITE");
    assert_eq!(refresh.body, SDP.as_bytes());
    let extra =
        "Contact: <sip:carrier@192.0.2.2>\nAllow: INVITE, UPDATE\nContent-Type: application/sdp\n";
    stage.hear(CARRIER, &answer(&refresh, 200, "", extra, SDP));
    assert_eq!(stage.said(), ["ACK"]);
    assert!(stage.events().is_empty(), "an unchanged session is no news");
    stage.pass(151 * SECOND);
    let again = stage.request("INVITE");
    stage.hear(CARRIER, &answer(&again, 481, "", "", ""));
    assert_eq!(stage.said(), ["ACK", "BYE"]);
    assert_eq!(stage.events(), [LegEvent::Ended { leg: LEG, reason: EndReason::Expired }]);

    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let invite = stage.request("INVITE");
    let extra = "Contact: <sip:carrier@192.0.2.2>\nAllow: INVITE, UPDATE\n\
                 Session-Expires: 200;refresher=uac\nRequire: timer\n\
                 Content-Type: application/sdp\n";
    stage.hear(CARRIER, &answer(&invite, 200, ";tag=theirs", extra, SDP));
    stage.said();
    stage.pass(101 * SECOND);
    let update = stage.request("UPDATE");
    assert_eq!(text_of(&update, "Session-Expires"), "200;refresher=uac");
    assert!(update.body.is_empty());
}

#[test]
fn a_longer_interval_that_the_peer_asks_for_is_taken() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let first = stage.request("INVITE");
    stage.hear(CARRIER, &answer(&first, 422, ";tag=x", "Min-SE: 600\n", ""));
    let second = stage.request("INVITE");
    assert_eq!(
        (text_of(&second, "Session-Expires"), text_of(&second, "Min-SE")),
        ("600".into(), "600".into())
    );
    assert_eq!(second.headers.cseq().unwrap().0, 2);
}

fn info(call: &Call, cseq: u32, kind: &str, body: &str) -> String {
    let text = call.request("INFO", cseq, &format!("Content-Type: {kind}\n"));
    let text = text.replace("Content-Length: 0", &format!("Content-Length: {}", body.len()));
    format!("{text}{body}")
}

#[test]
fn digits_by_info_are_handed_on_and_what_is_none_is_refused() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.said();
    stage
        .hear(CARRIER, &info(&call, 2, "application/dtmf-relay", "Signal= 5\r\nDuration= 160\r\n"));
    stage.hear(CARRIER, &info(&call, 3, "application/dtmf", "#"));
    stage.hear(CARRIER, &info(&call, 4, "application/x-other", "?"));
    stage.hear(CARRIER, &call.request("INFO", 5, ""));
    stage.hear(CARRIER, &info(&call, 6, "application/dtmf", "11"));
    stage.hear(CARRIER, &info(&call, 7, "application/dtmf", "55"));
    stage.hear(CARRIER, &info(&call, 8, "application/dtmf-relay", "Duration=160\r\n"));
    stage.hear(CARRIER, &info(&call, 9, "application/dtmf-relay", "signal=d\n"));
    assert_eq!(stage.said(), ["200", "200", "415", "200", "200", "400", "400", "200"]);
    let dialled = |digits: &str| LegEvent::Dialled { leg: call.leg, digits: digits.to_owned() };
    assert_eq!(stage.events(), [dialled("5"), dialled("#"), dialled("#"), dialled("D")]);
}

#[test]
fn a_supervisors_digits_by_info_are_swallowed_and_reach_nobody() {
    let mut stage = Stage::new();
    let mut command = call_carrier(LegId(1));
    if let LegCommand::Invite { swallow_digits, .. } = &mut command {
        *swallow_digits = true;
    }
    let call = stage.outgoing(command);
    stage.said();
    stage.events();
    stage
        .hear(CARRIER, &info(&call, 2, "application/dtmf-relay", "Signal= 5\r\nDuration= 160\r\n"));
    stage.hear(CARRIER, &info(&call, 3, "application/dtmf", "#"));
    stage.hear(CARRIER, &info(&call, 4, "application/x-other", "?"));
    assert_eq!(stage.said(), ["200", "200", "415"]);
    assert!(stage.events().is_empty());
}

#[test]
fn a_ringing_phone_is_asked_to_answer() {
    let mut stage = Stage::new();
    stage.register_phone();
    stage.command(call_phone());
    let invite = stage.request("INVITE");
    stage.command(LegCommand::AskToAnswer { leg: LEG });
    assert!(stage.said().is_empty(), "there is no dialog yet");
    stage.hear(
        PHONE,
        &answer(&invite, 180, ";tag=phone", "Contact: <sip:1001@10.0.0.3:5062>\n", ""),
    );
    stage.command(LegCommand::AskToAnswer { leg: LEG });
    let notify = stage.request("NOTIFY");
    assert_eq!(text_of(&notify, "Event"), "talk");
    assert!(text_of(&notify, "To").ends_with("tag=phone"));
    stage.hear(PHONE, &answer(&notify, 200, "", "", ""));
    let extra = "Contact: <sip:1001@10.0.0.3:5062>\nContent-Type: application/sdp\n";
    stage.hear(PHONE, &answer(&invite, 200, ";tag=phone", extra, SDP));
    let ack = stage.request("ACK");
    assert_eq!(ack.headers.cseq().unwrap().0, 1);
    stage.command(LegCommand::Hangup { leg: LEG, reason: None });
    assert_eq!(stage.request("BYE").headers.cseq().unwrap().0, 3);
}

#[test]
fn a_phone_that_refuses_to_be_made_to_answer_is_reported_and_rings_on() {
    let refused = |status| LegEvent::AskToAnswerRefused { leg: LEG, status };
    let mut stage = Stage::new();
    stage.register_phone();
    stage.command(call_phone());
    let invite = stage.request("INVITE");
    stage.command(LegCommand::AskToAnswer { leg: LEG });
    assert_eq!(stage.events(), [refused(480)], "there is no dialog to ask in");
    let contact = "Contact: <sip:1001@10.0.0.3:5062>\n";
    stage.hear(PHONE, &answer(&invite, 180, ";tag=phone", contact, ""));
    stage.events();
    for status in [481, 489, 501] {
        stage.command(LegCommand::AskToAnswer { leg: LEG });
        let notify = stage.request("NOTIFY");
        stage.hear(PHONE, &answer(&notify, status, "", "", ""));
        assert_eq!(stage.events(), [refused(status)]);
    }
    stage.command(LegCommand::AskToAnswer { leg: LEG });
    stage.pass(Duration::from_secs(32));
    assert_eq!(stage.events(), [refused(408)], "it has not reacted at all");
    stage.command(LegCommand::AskToAnswer { leg: LEG });
    let notify = stage.request("NOTIFY");
    let extra = format!("{contact}Content-Type: application/sdp\n");
    stage.hear(PHONE, &answer(&invite, 200, ";tag=phone", &extra, SDP));
    stage.hear(PHONE, &answer(&notify, 481, "", "", ""));
    assert!(
        matches!(stage.events().as_slice(), [LegEvent::Answered { .. }]),
        "what was wanted has happened"
    );
}

#[test]
fn routes_are_followed_in_both_directions() {
    let mut stage = Stage::new();
    let recorded = "Record-Route: <sip:p2.example;lr>, <sip:p1.example;lr>\n";
    stage.hear(CARRIER, &invite("c1", "a", 1, recorded));
    let Some(LegEvent::Incoming { leg, .. }) = stage.events().pop() else { panic!() };
    stage.command(LegCommand::Accept { leg, media: SDP.into() });
    let ok = stage.response(200);
    assert_eq!(text(&ok, "Record-Route"), "<sip:p2.example;lr>, <sip:p1.example;lr>");
    let call = Call {
        leg,
        call_id: "c1".into(),
        theirs: "<sip:+4930@carrier.example>;tag=theirs".into(),
        ours: text(&ok, "To"),
    };
    stage.hear(CARRIER, &call.request("ACK", 1, ""));
    stage.command(LegCommand::Hangup { leg, reason: None });
    let bye = stage.request("BYE");
    assert_eq!(bye.uri.as_bytes(), b"sip:carrier@192.0.2.2");
    let routes: Vec<&[u8]> = bye.headers.fields_of("Route").collect();
    assert_eq!(routes, [b"<sip:p2.example;lr>".as_slice(), b"<sip:p1.example;lr>"]);
}

#[test]
fn an_incoming_call_that_nobody_takes_is_refused_in_the_end() {
    let mut stage = Stage::new();
    stage.hear(CARRIER, &invite("c1", "a", 1, ""));
    let Some(LegEvent::Incoming { leg, .. }) = stage.events().pop() else { panic!() };
    stage.command(LegCommand::Provisional { leg, status: 180, media: None });
    stage.said();
    stage.pass(125 * SECOND);
    assert_eq!(stage.said(), ["180", "180"], "repeated every minute");
    stage.pass(HOUR);
    assert!(stage.said().contains(&"480".to_owned()));
    assert!(matches!(stage.events().as_slice(), [LegEvent::Ended { .. }]));
    assert!(stage.is_quiet());
}

#[test]
fn a_phone_whose_connection_is_gone_is_gone() {
    let mut stage = Stage::new();
    stage.register_phone();
    stage.agent.handle_unreachable(&flow_from(PHONE), stage.now);
    stage.drain();
    assert_eq!(
        stage.events(),
        [LegEvent::Registered { device: device("phone-1"), registered: false }]
    );
}

fn refer(call: &Call, cseq: u32, to: &str) -> String {
    call.request("REFER", cseq, &format!("Refer-To: {to}\n"))
}

fn fragment(notify: &SipRequest) -> (String, String) {
    let body = String::from_utf8_lossy(&notify.body).into_owned();
    (text_of(notify, "Subscription-State"), body)
}

#[test]
fn a_phone_that_refers_is_told_how_it_goes_until_the_last_word() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.said();
    stage.hear(CARRIER, &refer(&call, 2, "<sip:1002@coach.example>"));
    assert_eq!(
        stage.events(),
        [LegEvent::Referred { leg: call.leg, to: "1002".into(), replaces: None, is_secure: false }]
    );
    let sent = stage.sent();
    let [SipMessage::Response(accepted), SipMessage::Request(notify)] = &sent[..] else {
        panic!("{:?}", sent.iter().map(short).collect::<Vec<_>>())
    };
    assert_eq!(accepted.status, 202);
    assert_eq!(text_of(notify, "Event"), "refer;id=2");
    assert_eq!(text_of(notify, "Content-Type"), "message/sipfrag;version=2.0");
    assert_eq!(
        fragment(notify),
        ("active;expires=300".to_owned(), "SIP/2.0 100 Trying\r\n".to_owned())
    );
    stage.hear(CARRIER, &answer(notify, 200, "", "", ""));
    stage.hear(CARRIER, &refer(&call, 3, "<sip:1003@coach.example>"));
    assert_eq!(stage.said(), ["491"], "one at a time");
    stage.command(LegCommand::TellReferrer { leg: call.leg, status: 486 });
    let notify = stage.request("NOTIFY");
    let last = ("terminated;reason=noresource".to_owned(), "SIP/2.0 486 Busy Here\r\n".to_owned());
    assert_eq!(fragment(&notify), last);
    stage.hear(CARRIER, &answer(&notify, 481, "", "", ""));
    stage.command(LegCommand::TellReferrer { leg: call.leg, status: 200 });
    assert!(stage.sent().is_empty(), "it has been told");
    stage.hear(CARRIER, &refer(&call, 4, "<sip:1003@coach.example>"));
    assert!(matches!(stage.events().as_slice(), [LegEvent::Referred { .. }]), "and may ask again");
}

#[test]
fn a_phone_that_wants_to_hear_nothing_of_its_refer_hears_nothing() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.said();
    let silent = call.request("REFER", 2, "Refer-To: sip:1002@coach.example\nRefer-Sub: false\n");
    stage.hear(CARRIER, &silent);
    let accepted = stage.response(202);
    assert_eq!(text(&accepted, "Refer-Sub"), "false");
    stage.command(LegCommand::TellReferrer { leg: call.leg, status: 200 });
    assert!(stage.sent().is_empty());
}

#[test]
fn a_refer_to_what_we_can_not_call_is_refused_and_asks_for_nothing() {
    let mut stage = Stage::new();
    let call = stage.incoming_call();
    stage.said();
    let targets = [
        ("mailto:+4930", "416"),
        ("<sip:1002@elsewhere.example>", "403"),
        ("<sip:coach.example>", "404"),
        ("<sip:1002@coach.example;method=BYE>", "501"),
        ("<sip:1002@coach.example?Replaces=a%40b%3Bto-tag%3D1%3Bfrom-tag%3D2>", "404"),
        ("<sip:1002@coach.example", "400"),
    ];
    for (cseq, (to, status)) in (2..).zip(targets) {
        stage.hear(CARRIER, &refer(&call, cseq, to));
        assert_eq!(stage.said(), [status], "{to}");
    }
    stage.hear(CARRIER, &call.request("REFER", 20, ""));
    stage.hear(
        CARRIER,
        &call.request(
            "REFER",
            21,
            "Refer-To: sip:1@coach.example\nRefer-To: sip:2@coach.example\n",
        ),
    );
    assert_eq!(stage.said(), ["400", "400"]);
    assert!(stage.events().is_empty());
}
