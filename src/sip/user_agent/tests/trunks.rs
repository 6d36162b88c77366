//! Trunks with several targets: names, who answers, the order of targets, and the next one for an
//! INVITE.

use super::*;
use crate::sip::config::{
    FoundHost, LookupAnswer, LookupFault, Registration, SipDirectory, TrunkSource, TrunkTarget,
};
use crate::sip::message::Method;

const FIRST: &str = "192.0.2.2:5060";
const SECOND: &str = "192.0.2.3:5060";
const THIRD: &str = "192.0.2.4:5060";
const SECOND_AT: Duration = Duration::from_secs(4);

fn target(at: &str, priority: u16, weight: u16) -> TrunkTarget {
    let at = address(at);
    let target = TrunkTarget::new(&at.ip().to_string(), Some(at.port()), Protocol::Udp);
    TrunkTarget { priority, weight, ..target }
}

/// The carrier has these targets, and nobody asks whether they are there.
fn with_targets(targets: Vec<TrunkTarget>) -> SipConfig {
    let mut config = config();
    config.trunks[0].targets = targets;
    config
}

fn two_targets() -> SipConfig {
    with_targets(vec![target(FIRST, 0, 1), target(SECOND, 1, 1)])
}

/// The same, and they are asked.
fn asked() -> SipConfig {
    let mut config = two_targets();
    config.trunks[0].qualify = Some(Duration::from_secs(10));
    config
}

/// Where messages have gone since, and what they were.
fn went(stage: &mut Stage) -> Vec<(SocketAddr, String)> {
    let sent = std::mem::take(&mut stage.sent).into_iter();
    sent.map(|(flow, message)| (flow.peer, short(&message))).collect()
}

/// The INVITE that has gone there, and nothing else.
fn invite_to(stage: &mut Stage, at: &str) -> SipRequest {
    match std::mem::take(&mut stage.sent).as_slice() {
        [(flow, SipMessage::Request(request))]
            if flow.peer == address(at) && request.method == Method::Invite =>
        {
            request.clone()
        }
        other => panic!("{other:?}"),
    }
}

fn refused(stage: &mut Stage) -> Vec<u16> {
    let events = stage.events().into_iter();
    let status = |event| match event {
        LegEvent::Refused { status, .. } | LegEvent::Failed { status, .. } => status,
        other => panic!("{other:?}"),
    };
    events.map(status).collect()
}

/// Each target answers the OPTIONS that it has got, or does not.
fn answer_options(stage: &mut Stage, there: &[&str]) {
    for (flow, message) in std::mem::take(&mut stage.sent) {
        let SipMessage::Request(request) = message else { continue };
        let at = flow.peer.to_string();
        if request.method == Method::Options && there.contains(&at.as_str()) {
            stage.hear(&at, &answer(&request, 200, ";tag=x", "", ""));
        }
    }
}

#[test]
fn an_invite_goes_to_the_next_target_when_the_first_says_503_and_its_retry_after_is_obeyed() {
    let mut stage = Stage::with(two_targets());
    stage.command(call_carrier(LegId(1)));
    let first = invite_to(&mut stage, FIRST);
    stage.hear(FIRST, &answer(&first, 100, "", "", ""));
    stage.hear(FIRST, &answer(&first, 503, ";tag=a", "Retry-After: 60 (busy)\n", ""));
    let sent = std::mem::take(&mut stage.sent);
    let [(_, SipMessage::Request(ack)), (flow, SipMessage::Request(second))] = sent.as_slice()
    else {
        panic!("{sent:?}")
    };
    assert_eq!((ack.method.to_string().as_str(), flow.peer), ("ACK", address(SECOND)));
    assert_eq!(second.uri.as_bytes(), b"sip:+4930123@192.0.2.3");
    for same in ["Call-ID", "From", "To", "CSeq"] {
        assert_eq!(text_of(second, same), text_of(&first, same), "{same}");
    }
    assert_ne!(text_of(second, "Via"), text_of(&first, "Via"));
    stage.hear(SECOND, &answer(second, 180, ";tag=b", "", ""));
    assert!(matches!(stage.events()[..], [LegEvent::Progress { status: 180, .. }]));
    // The next call goes to the second at once, until the first has rested.
    stage.command(call_carrier(LegId(3)));
    let busy = invite_to(&mut stage, SECOND);
    stage.hear(SECOND, &answer(&busy, 486, ";tag=c", "", ""));
    stage.pass(Duration::from_secs(61));
    stage.said();
    stage.command(call_carrier(LegId(5)));
    invite_to(&mut stage, FIRST);
}

#[test]
fn a_silent_target_is_left_after_four_seconds_and_its_late_ringing_is_cancelled() {
    let mut stage = Stage::with(two_targets());
    stage.command(call_carrier(LegId(1)));
    let first = invite_to(&mut stage, FIRST);
    stage.pass(SECOND_AT - Duration::from_millis(1));
    assert!(went(&mut stage).iter().all(|(at, _)| *at == address(FIRST)));
    stage.pass(Duration::from_millis(1));
    let second = invite_to(&mut stage, SECOND);
    // It is not said again to the first.
    stage.hear(SECOND, &answer(&second, 100, "", "", ""));
    stage.pass(Duration::from_secs(10));
    assert_eq!(stage.said(), [""; 0]);
    stage.hear(FIRST, &answer(&first, 180, ";tag=late", "", ""));
    assert_eq!(went(&mut stage), [(address(FIRST), "CANCEL".to_owned())]);
    assert_eq!(stage.events(), [], "nobody hears of it");
    // It has answered all the same: taken, and ended.
    let contact = "Contact: <sip:late@192.0.2.2>\nContent-Type: application/sdp\n";
    stage.hear(FIRST, &answer(&first, 200, ";tag=late", contact, SDP));
    let ended = ["ACK", "BYE"].map(|method| (address(FIRST), method.to_owned()));
    assert_eq!(went(&mut stage), ended);
    let contact = "Contact: <sip:x@192.0.2.3>\nContent-Type: application/sdp\n";
    stage.hear(SECOND, &answer(&second, 200, ";tag=b", contact, SDP));
    assert_eq!(went(&mut stage), [(address(SECOND), "ACK".to_owned())]);
    assert!(matches!(stage.events()[..], [LegEvent::Answered { .. }]));
    // What is said in the call stays with the target that has answered.
    stage.command(LegCommand::Hangup { leg: LegId(1), reason: None });
    assert_eq!(went(&mut stage), [(address(SECOND), "BYE".to_owned())]);
    // The transaction of the first ends without anybody hearing of it.
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.events(), []);
}

#[test]
fn a_final_answer_of_the_callee_is_one_and_so_is_503_after_ringing() {
    for status in [486, 404, 500, 603] {
        let mut stage = Stage::with(two_targets());
        stage.command(call_carrier(LegId(1)));
        let first = invite_to(&mut stage, FIRST);
        stage.hear(FIRST, &answer(&first, status, ";tag=a", "", ""));
        assert_eq!(went(&mut stage), [(address(FIRST), "ACK".to_owned())]);
        assert_eq!(refused(&mut stage), [status]);
    }
    let mut stage = Stage::with(two_targets());
    stage.command(call_carrier(LegId(1)));
    let first = invite_to(&mut stage, FIRST);
    stage.hear(FIRST, &answer(&first, 180, ";tag=a", "", ""));
    stage.events();
    stage.hear(FIRST, &answer(&first, 503, ";tag=a", "", ""));
    assert_eq!(went(&mut stage), [(address(FIRST), "ACK".to_owned())]);
    assert_eq!(refused(&mut stage), [503]);
}

#[test]
fn when_no_target_answers_the_call_is_refused_after_all_have_been_tried() {
    let mut stage = Stage::with(two_targets());
    stage.command(call_carrier(LegId(1)));
    stage.pass(Duration::from_secs(35));
    assert_eq!(stage.events(), [], "the last one has the time of RFC 3261");
    stage.pass(Duration::from_secs(2));
    assert_eq!(refused(&mut stage), [503]);
    stage.pass(Duration::from_secs(60));
    assert!(stage.agent.is_idle());
}

#[test]
fn a_call_that_is_given_up_meanwhile_goes_nowhere_else() {
    let mut stage = Stage::with(two_targets());
    stage.command(call_carrier(LegId(1)));
    let first = invite_to(&mut stage, FIRST);
    stage.command(LegCommand::Hangup { leg: LegId(1), reason: None });
    stage.pass(SECOND_AT);
    stage.hear(FIRST, &answer(&first, 503, ";tag=a", "", ""));
    assert!(went(&mut stage).iter().all(|(at, _)| *at == address(FIRST)));
    assert_eq!(stage.events(), []);
}

#[test]
fn a_challenge_of_the_second_target_is_answered_there() {
    let mut stage = Stage::with(two_targets());
    stage.command(call_carrier(LegId(1)));
    let first = invite_to(&mut stage, FIRST);
    stage.hear(FIRST, &answer(&first, 503, ";tag=a", "", ""));
    let second = stage.request("INVITE");
    let challenge =
        "WWW-Authenticate: Digest realm=\"carrier.example\", nonce=\"n\", qop=\"auth\"\n";
    stage.hear(SECOND, &answer(&second, 401, ";tag=c", challenge, ""));
    let sent = std::mem::take(&mut stage.sent);
    let (flow, SipMessage::Request(again)) = &sent[1] else { panic!("{sent:?}") };
    assert_eq!(flow.peer, address(SECOND));
    assert!(again.headers.has("Authorization"));
    assert_eq!(text_of(again, "CSeq"), "2 INVITE");
}

#[test]
fn a_target_that_answers_options_no_more_is_skipped_at_once_until_it_answers_again() {
    let mut stage = Stage::with(asked());
    stage.pass(Duration::ZERO);
    answer_options(&mut stage, &[FIRST, SECOND]);
    assert_eq!(stage.targets, [(address(FIRST), true), (address(SECOND), true)]);
    assert_eq!(stage.present, [("carrier".to_owned(), true)]);
    stage.targets.clear();
    // The first one's power is gone.
    stage.pass(Duration::from_secs(10));
    answer_options(&mut stage, &[SECOND]);
    stage.pass(Duration::from_secs(7));
    assert_eq!(stage.targets, [(address(FIRST), false)]);
    stage.said();
    stage.command(call_carrier(LegId(1)));
    let invite = invite_to(&mut stage, SECOND);
    stage.hear(SECOND, &answer(&invite, 486, ";tag=b", "", ""));
    assert_eq!(refused(&mut stage), [486]);
    stage.said();
    // And the second one's.
    stage.pass(Duration::from_secs(20));
    stage.said();
    assert_eq!(stage.present, [("carrier".to_owned(), true), ("carrier".to_owned(), false)]);
    stage.command(call_carrier(LegId(3)));
    assert_eq!(refused(&mut stage), [503], "at once");
    assert_eq!(stage.said(), [""; 0]);
    stage.pass(Duration::from_secs(10));
    answer_options(&mut stage, &[FIRST]);
    stage.said();
    stage.command(call_carrier(LegId(5)));
    invite_to(&mut stage, FIRST);
    assert_eq!(stage.present.last(), Some(&("carrier".to_owned(), true)));
}

#[test]
fn a_target_that_comes_back_has_rested() {
    let mut stage = Stage::with(asked());
    stage.pass(Duration::ZERO);
    answer_options(&mut stage, &[FIRST, SECOND]);
    stage.command(call_carrier(LegId(1)));
    invite_to(&mut stage, FIRST);
    // ICMP says that its port is closed.
    stage.agent.handle_undelivered(&flow_from(FIRST), stage.now);
    stage.drain();
    let invite = invite_to(&mut stage, SECOND);
    stage.hear(SECOND, &answer(&invite, 486, ";tag=b", "", ""));
    stage.events();
    stage.said();
    stage.command(call_carrier(LegId(3)));
    let invite = invite_to(&mut stage, SECOND);
    stage.hear(SECOND, &answer(&invite, 486, ";tag=b", "", ""));
    stage.pass(Duration::from_secs(10));
    answer_options(&mut stage, &[FIRST, SECOND]);
    stage.said();
    // Half a minute has not passed.
    stage.command(call_carrier(LegId(5)));
    invite_to(&mut stage, FIRST);
}

#[test]
fn icmp_of_a_request_that_has_been_heard_of_and_of_a_phone_changes_nothing() {
    let mut stage = Stage::with(two_targets());
    stage.command(call_carrier(LegId(1)));
    let invite = invite_to(&mut stage, FIRST);
    stage.hear(FIRST, &answer(&invite, 100, "", "", ""));
    for peer in [FIRST, "198.51.100.9:5060"] {
        stage.agent.handle_undelivered(&flow_from(peer), stage.now);
        stage.drain();
    }
    assert_eq!((stage.said(), stage.events()), (Vec::new(), Vec::new()));
}

#[test]
fn a_target_that_has_never_answered_options_is_called_all_the_same() {
    let mut config = asked();
    config.trunks[0].targets.truncate(1);
    let mut stage = Stage::with(config);
    stage.pass(Duration::from_secs(60));
    assert_eq!(stage.present, [("carrier".to_owned(), false)]);
    stage.said();
    stage.command(call_carrier(LegId(1)));
    invite_to(&mut stage, FIRST);
}

#[test]
fn devices_behind_a_trunk_are_there_as_long_as_one_of_its_targets_answers() {
    let mut config = asked();
    config.accounts.insert(SipAccount::behind(device("behind"), "5001".into(), "carrier"));
    let mut stage = Stage::with(config);
    let registered = |stage: &mut Stage| {
        let events = stage.events().into_iter();
        let told = events.filter_map(|event| match event {
            LegEvent::Registered { registered, .. } => Some(registered),
            _ => None,
        });
        told.collect::<Vec<_>>()
    };
    stage.pass(Duration::ZERO);
    answer_options(&mut stage, &[SECOND]);
    assert_eq!(registered(&mut stage), [true]);
    stage.pass(Duration::from_secs(6));
    assert!(registered(&mut stage).is_empty(), "the first does not matter");
    stage.pass(Duration::from_secs(30));
    assert_eq!(registered(&mut stage), [false]);
}

#[test]
fn targets_of_one_priority_share_the_calls_by_weight() {
    let mut stage = Stage::with(with_targets(vec![
        target(FIRST, 0, 3),
        target(SECOND, 0, 1),
        target(THIRD, 1, 100),
    ]));
    let mut calls: BTreeMap<SocketAddr, u32> = BTreeMap::new();
    for number in 0..400 {
        stage.command(call_carrier(LegId(2 * number + 1)));
        let [(flow, _)] = stage.sent[..] else { panic!() };
        *calls.entry(flow.peer).or_default() += 1;
        stage.sent.clear();
    }
    assert!(!calls.contains_key(&address(THIRD)), "it is for when the others are gone");
    let first = calls[&address(FIRST)];
    assert!((260..340).contains(&first), "{calls:?}");
}

#[test]
fn a_trunk_is_asked_by_any_name_and_answered_and_a_stranger_is_not() {
    let mut stage = Stage::new();
    let options = |from: &str| {
        format!(
            "OPTIONS sip:whatever.example SIP/2.0\nVia: SIP/2.0/UDP {from};branch=z9hG4bKo1\n\
             Max-Forwards: 70\nFrom: <sip:a@b.example>;tag=f\nTo: <sip:whatever.example>\n\
             Call-ID: o1\nCSeq: 1 OPTIONS\nContent-Length: 0\n\n"
        )
    };
    stage.hear(CARRIER, &options("192.0.2.2"));
    stage.response(200);
    stage.hear("198.51.100.9:5060", &options("198.51.100.9"));
    stage.response(404);
}

// ---- names

fn lookup(service: Option<Protocol>) -> Lookup {
    Lookup { host: "pbx.example".to_owned(), service }
}

fn by_name() -> SipConfig {
    let mut config = with_targets(vec![TrunkTarget::new("pbx.example", None, Protocol::Udp)]);
    config.trunks[0].sources = vec![TrunkSource::try_from("pbx.example".to_owned()).unwrap()];
    config
}

fn found(host: &str, port: Option<u16>) -> FoundHost {
    FoundHost { priority: 0, weight: 0, address: host.parse().unwrap(), port }
}

/// What was asked for is found, for a minute.
fn find(stage: &mut Stage, lookup: &Lookup, hosts: Vec<FoundHost>) {
    let answer = Ok(LookupAnswer { hosts, ttl: Duration::from_secs(60) });
    stage.agent.handle_lookup(lookup, answer, stage.now);
    stage.drain();
}

fn fail(stage: &mut Stage, lookup: &Lookup) {
    stage.agent.handle_lookup(lookup, Err(LookupFault::NoAddress), stage.now);
    stage.drain();
}

#[test]
fn the_names_of_a_trunk_are_looked_up_in_the_background_and_again_when_their_time_is_up() {
    let mut stage = Stage::with(by_name());
    assert!(stage.lookups.is_empty(), "it has begun without any name server");
    stage.pass(Duration::ZERO);
    let asked = [lookup(None), lookup(Some(Protocol::Udp))];
    assert_eq!(std::mem::take(&mut stage.lookups), asked);
    stage.command(call_carrier(LegId(1)));
    assert_eq!(refused(&mut stage), [503], "nobody knows where it is");
    stage.hear(FIRST, &invite("c1", "a", 1, ""));
    stage.response(401);
    find(&mut stage, &asked[0], vec![found("192.0.2.2", None)]);
    find(&mut stage, &asked[1], vec![found("192.0.2.3", Some(5070))]);
    stage.events();
    stage.hear(FIRST, &invite("c2", "b", 1, ""));
    assert!(matches!(stage.events()[..], [LegEvent::Incoming { .. }]), "a name is a source, too");
    stage.said();
    stage.command(call_carrier(LegId(3)));
    let invite = invite_to(&mut stage, "192.0.2.3:5070");
    assert_eq!(invite.uri.as_bytes(), b"sip:+4930123@pbx.example", "SRV says the port");
    stage.pass(Duration::from_secs(60));
    assert_eq!(std::mem::take(&mut stage.lookups), asked);
    // It has moved; what is under way goes on where it is.
    find(&mut stage, &asked[1], vec![found("192.0.2.4", Some(5070))]);
    stage.said();
    stage.command(call_carrier(LegId(5)));
    invite_to(&mut stage, "192.0.2.4:5070");
}

#[test]
fn a_name_that_is_not_found_is_told_once_and_tried_after_longer_and_longer_times() {
    let mut stage = Stage::with(by_name());
    stage.pass(Duration::ZERO);
    let service = lookup(Some(Protocol::Udp));
    find(&mut stage, &lookup(None), vec![found("192.0.2.2", None)]);
    for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
        stage.lookups.clear();
        fail(&mut stage, &service);
        stage.pass(Duration::from_secs(wait) - Duration::from_millis(1));
        assert!(!stage.lookups.contains(&service), "{wait}");
        stage.pass(Duration::from_millis(1));
        assert!(stage.lookups.contains(&service), "{wait}");
    }
    assert_eq!(std::mem::take(&mut stage.not_found), [("pbx.example".to_owned(), false)]);
    find(&mut stage, &service, vec![found("192.0.2.3", Some(5070))]);
    stage.pass(Duration::from_secs(60));
    fail(&mut stage, &service);
    assert_eq!(stage.not_found, [("pbx.example".to_owned(), true)]);
    stage.said();
    stage.command(call_carrier(LegId(1)));
    // What was found before holds.
    invite_to(&mut stage, "192.0.2.3:5070");
}

#[test]
fn what_a_name_stands_for_is_not_asked_more_often_than_every_ten_seconds() {
    let mut stage = Stage::with(by_name());
    stage.pass(Duration::ZERO);
    stage.lookups.clear();
    let answer = LookupAnswer { hosts: vec![found("192.0.2.3", None)], ttl: Duration::ZERO };
    stage.agent.handle_lookup(&lookup(Some(Protocol::Udp)), Ok(answer), stage.now);
    stage.pass(Duration::from_millis(9_999));
    assert!(stage.lookups.is_empty());
    stage.pass(Duration::from_millis(1));
    assert_eq!(stage.lookups, [lookup(Some(Protocol::Udp))]);
}

#[test]
fn a_directory_that_is_read_again_keeps_what_names_stand_for() {
    let mut stage = Stage::with(by_name());
    stage.pass(Duration::ZERO);
    find(&mut stage, &lookup(Some(Protocol::Udp)), vec![found("192.0.2.3", Some(5070))]);
    stage.events();
    let mut directory = by_name().directory();
    directory.trunks[0].prefixes = vec!["9".to_owned()];
    stage.agent.handle_directory(directory, stage.now);
    stage.drain();
    let hosts = match stage.events().as_slice() {
        [LegEvent::TrunkLocated { hosts, .. }] => hosts.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(hosts, ["192.0.2.3".parse().unwrap()]);
    stage.said();
    stage.command(call_carrier(LegId(1)));
    invite_to(&mut stage, "192.0.2.3:5070");
}

// ---- registrations

fn registering() -> SipConfig {
    let mut config = two_targets();
    config.trunks[0].sources = Vec::new();
    config.trunks[0].logins = Vec::new();
    config.trunks[0].registration = Some(Registration {
        user: "line".to_owned(),
        password: "secret".into(),
        realm: None,
        expires: Duration::from_secs(600),
        contact_user: "1001".into(),
    });
    config
}

/// The REGISTER that has gone there.
fn register_to(stage: &mut Stage, at: &str) -> SipRequest {
    match std::mem::take(&mut stage.sent).as_slice() {
        [(flow, SipMessage::Request(request))]
            if flow.peer == address(at) && request.method == Method::Register =>
        {
            request.clone()
        }
        other => panic!("{other:?}"),
    }
}

fn grant(stage: &mut Stage, register: &SipRequest, at: &str, seconds: u32) {
    let contact = text_of(register, "Contact");
    let (contact, _) = contact.split_once(";expires").unwrap();
    let granted = format!("Contact: {contact};expires={seconds}\n");
    stage.hear(at, &answer(register, 200, ";tag=r", &granted, ""));
}

#[test]
fn we_register_with_a_digest_refresh_in_time_and_take_it_back_when_we_stop() {
    let mut stage = Stage::with(registering());
    stage.pass(Duration::ZERO);
    let first = register_to(&mut stage, FIRST);
    assert_eq!(first.uri.as_bytes(), b"sip:192.0.2.2:5060");
    assert_eq!(text_of(&first, "To"), "<sip:line@192.0.2.2:5060>");
    assert_eq!(text_of(&first, "Contact"), "<sip:1001@192.0.2.1:5060>;expires=600");
    let challenge = "WWW-Authenticate: Digest realm=\"any\", nonce=\"n\", qop=\"auth\"\n";
    stage.hear(FIRST, &answer(&first, 401, ";tag=c", challenge, ""));
    let again = register_to(&mut stage, FIRST);
    assert!(text_of(&again, "Authorization").contains("realm=\"any\""));
    assert_eq!(text_of(&again, "Call-ID"), text_of(&first, "Call-ID"));
    assert_eq!(text_of(&again, "CSeq"), "2 REGISTER");
    grant(&mut stage, &again, FIRST, 100);
    let told = RegistrationState::Registered { expires: Duration::from_secs(100) };
    assert_eq!(std::mem::take(&mut stage.registrations), [told]);
    stage.pass(Duration::from_millis(74_999));
    assert_eq!(stage.said(), [""; 0]);
    stage.pass(Duration::from_millis(1));
    let refresh = register_to(&mut stage, FIRST);
    grant(&mut stage, &refresh, FIRST, 100);
    assert_eq!(stage.registrations, [], "no news");
    stage.agent.leave_trunks(stage.now);
    stage.drain();
    let last = register_to(&mut stage, FIRST);
    assert_eq!(text_of(&last, "Expires"), "0");
    assert!(stage.agent.is_leaving());
    stage.hear(FIRST, &answer(&last, 401, ";tag=c", challenge, ""));
    let last = register_to(&mut stage, FIRST);
    assert!(last.headers.has("Authorization"));
    assert!(stage.agent.is_leaving());
    stage.hear(FIRST, &answer(&last, 200, ";tag=c", "", ""));
    assert!(!stage.agent.is_leaving());
    assert_eq!(stage.registrations, [RegistrationState::Removed]);
    stage.pass(Duration::from_secs(3600));
    assert_eq!(stage.said(), [""; 0]);
}

#[test]
fn a_registrar_that_wants_longer_is_asked_for_longer() {
    let mut stage = Stage::with(registering());
    stage.pass(Duration::ZERO);
    let first = register_to(&mut stage, FIRST);
    stage.hear(FIRST, &answer(&first, 423, ";tag=c", "Min-Expires: 1800\n", ""));
    let again = register_to(&mut stage, FIRST);
    assert_eq!(text_of(&again, "Expires"), "1800");
    assert!(text_of(&again, "Contact").ends_with(";expires=1800"));
    // One that is never content is not asked for ever.
    stage.hear(FIRST, &answer(&again, 423, ";tag=c", "Min-Expires: 1800\n", ""));
    assert_eq!(stage.said(), [""; 0]);
    assert!(matches!(stage.registrations[..], [RegistrationState::Failed { status: 423, .. }]));
}

#[test]
fn a_wrong_password_is_not_sent_twice_and_tried_again_after_a_while_or_as_it_is_said() {
    let mut stage = Stage::with(registering());
    stage.pass(Duration::ZERO);
    let challenge = "WWW-Authenticate: Digest realm=\"any\", nonce=\"n\", qop=\"auth\"\n";
    let first = register_to(&mut stage, FIRST);
    stage.hear(FIRST, &answer(&first, 401, ";tag=c", challenge, ""));
    let again = register_to(&mut stage, FIRST);
    stage.hear(FIRST, &answer(&again, 401, ";tag=c", challenge, ""));
    let wait = match stage.registrations[..] {
        [RegistrationState::Failed { status: 401, wait }] => wait,
        ref other => panic!("{other:?}"),
    };
    assert!((2500..=5000).contains(&wait.as_millis()), "{wait:?}");
    stage.pass(wait - Duration::from_millis(1));
    assert_eq!(stage.said(), [""; 0]);
    stage.pass(Duration::from_millis(1));
    let next = register_to(&mut stage, FIRST);
    stage.hear(FIRST, &answer(&next, 403, ";tag=c", "Retry-After: 120\n", ""));
    stage.pass(Duration::from_millis(119_999));
    assert_eq!(stage.said(), [""; 0]);
    stage.pass(Duration::from_millis(1));
    register_to(&mut stage, FIRST);
    assert_eq!(stage.registrations.len(), 1, "told once");
}

#[test]
fn a_registrar_that_is_silent_or_busy_makes_room_for_the_next() {
    let mut stage = Stage::with(registering());
    stage.pass(Duration::ZERO);
    let first = register_to(&mut stage, FIRST);
    stage.hear(FIRST, &answer(&first, 503, ";tag=c", "", ""));
    register_to(&mut stage, SECOND);
    // 32 seconds of silence: both have failed.
    stage.pass(Duration::from_secs(33));
    stage.said();
    assert!(matches!(stage.registrations[..], [RegistrationState::Failed { status: 408, .. }]));
    stage.pass(Duration::from_secs(5));
    let [(flow, _), ..] = stage.sent[..] else { panic!("nothing is sent") };
    assert_eq!(flow.peer, address(FIRST));
}

#[test]
fn what_was_registered_at_a_target_that_is_gone_is_registered_at_the_next_at_once() {
    let mut config = registering();
    config.trunks[0].qualify = Some(Duration::from_secs(10));
    let mut stage = Stage::with(config);
    stage.pass(Duration::ZERO);
    let register = std::mem::take(&mut stage.sent).into_iter().find_map(|(_, message)| {
        let SipMessage::Request(request) = message else { return None };
        match request.method {
            Method::Register => {
                stage.hear(FIRST, &answer(&request, 200, ";tag=r", "Expires: 600\n", ""));
                Some(request)
            }
            _ => {
                let at = if text_of(&request, "To").contains("192.0.2.2") { FIRST } else { SECOND };
                stage.hear(at, &answer(&request, 200, ";tag=x", "", ""));
                None
            }
        }
    });
    assert!(register.is_some());
    stage.pass(Duration::from_secs(10));
    answer_options(&mut stage, &[SECOND]);
    stage.pass(Duration::from_secs(6));
    let went = went(&mut stage);
    assert_eq!(went.last(), Some(&(address(SECOND), "REGISTER".to_owned())), "{went:?}");
}

#[test]
fn what_comes_from_where_we_are_registered_is_the_trunks_for_the_number_of_its_to() {
    let mut config = registering();
    let registration = config.trunks[0].registration.as_mut().unwrap();
    registration.contact_user = "line".into();
    let mut stage = Stage::with(config);
    stage.pass(Duration::ZERO);
    stage.said();
    let invite = invite("c1", "a", 1, "");
    let invite = invite.replacen("INVITE sip:1001@coach.example", "INVITE sip:line@192.0.2.1", 1);
    stage.hear(FIRST, &invite);
    match stage.events().as_slice() {
        [LegEvent::Incoming { source, to, .. }] => {
            assert_eq!(*source, crate::sip::leg::LegSource::Trunk("carrier".to_owned()));
            assert_eq!(to.as_str(), "1001");
        }
        other => panic!("{other:?}"),
    }
    stage.said();
    stage.hear("198.51.100.9:5060", &invite.replace("z9hG4bKa", "z9hG4bKz"));
    stage.response(401);
}

#[test]
fn challenges_of_several_realms_are_answered_with_the_login_of_each() {
    let mut config = config();
    let login = |realm: &str, user: &str| Login {
        realm: realm.to_owned(),
        username: user.to_owned(),
        password: "secret".into(),
    };
    config.trunks[0].logins = vec![login("one", "first"), login("two", "second")];
    for (realm, user) in [("one", "first"), ("two", "second")] {
        let mut stage = Stage::with(config.clone());
        stage.command(call_carrier(LegId(1)));
        let invite = stage.request("INVITE");
        let challenge = format!("WWW-Authenticate: Digest realm=\"{realm}\", nonce=\"n\"\n");
        stage.hear(CARRIER, &answer(&invite, 401, ";tag=c", &challenge, ""));
        let again = stage.request("INVITE");
        let answered = text_of(&again, "Authorization");
        assert!(
            answered.contains(&format!("username=\"{user}\", realm=\"{realm}\"")),
            "{answered}"
        );
    }
    let mut stage = Stage::with(config);
    stage.command(call_carrier(LegId(1)));
    let invite = stage.request("INVITE");
    let challenge = "WWW-Authenticate: Digest realm=\"three\", nonce=\"n\"\n";
    stage.hear(CARRIER, &answer(&invite, 401, ";tag=c", challenge, ""));
    assert_eq!(refused(&mut stage), [401]);
}

#[test]
fn a_switch_that_refuses_a_call_is_told_with_what_its_owner_may_have_forgotten() {
    for (status, hint) in
        [(403, "calls outside"), (603, "calls outside"), (404, "registered"), (486, "")]
    {
        let mut stage = Stage::new();
        stage.command(call_carrier(LegId(1)));
        let invite = stage.request("INVITE");
        stage.hear(CARRIER, &answer(&invite, status, ";tag=x", "", ""));
        let said = stage.refusals[0].hint().unwrap_or_default();
        assert!(said.contains(hint), "{status}: {said}");
        assert_eq!(said.is_empty(), hint.is_empty(), "{status}: {said}");
    }
    let mut stage = Stage::new();
    stage.register_phone();
    let mut command = call_carrier(LegId(1));
    if let LegCommand::Invite { to, .. } = &mut command {
        *to = Destination::Device(device("phone-1"));
    }
    stage.command(command);
    let invite = stage.request("INVITE");
    stage.hear(PHONE, &answer(&invite, 603, ";tag=x", "", ""));
    assert_eq!(stage.refusals[0].hint(), None, "its user has declined");
}

#[test]
fn a_registration_that_is_configured_no_more_is_taken_back_with_the_password_it_had() {
    let changes: [fn(&mut SipDirectory); 3] = [
        |new| new.trunks.clear(),
        |new| new.trunks[0].registration = None,
        |new| new.trunks[0].registration.as_mut().unwrap().user = "other".to_owned(),
    ];
    for change in changes {
        let mut stage = Stage::with(registering());
        stage.pass(Duration::ZERO);
        let first = register_to(&mut stage, FIRST);
        grant(&mut stage, &first, FIRST, 600);
        let mut new = SipDirectory {
            accounts: stage.agent.config().accounts.clone(),
            trunks: stage.agent.config().trunks.clone(),
        };
        change(&mut new);
        stage.agent.handle_directory(new, stage.now);
        stage.drain();
        stage.pass(Duration::ZERO);
        let of_first = |stage: &mut Stage| {
            let sent = std::mem::take(&mut stage.sent).into_iter();
            let mut of_first = sent.filter_map(|(_, message)| match message {
                SipMessage::Request(request)
                    if text_of(&request, "Call-ID") == text_of(&first, "Call-ID") =>
                {
                    Some(request)
                }
                _ => None,
            });
            of_first.next()
        };
        let last = of_first(&mut stage).expect("taken back");
        assert_eq!(text_of(&last, "Expires"), "0");
        let challenge = "WWW-Authenticate: Digest realm=\"any\", nonce=\"n\", qop=\"auth\"\n";
        stage.hear(FIRST, &answer(&last, 401, ";tag=c", challenge, ""));
        let again = of_first(&mut stage).expect("with the answer to the challenge");
        assert_eq!(text_of(&again, "Expires"), "0");
        assert!(text_of(&again, "Authorization").contains("username=\"line\""));
        stage.hear(FIRST, &answer(&again, 401, ";tag=c", challenge, ""));
        assert!(of_first(&mut stage).is_none(), "once");
    }
}

#[test]
fn a_changed_registration_is_asked_for_when_the_one_before_has_been_taken_back() {
    for is_answered in [true, false] {
        let mut stage = Stage::with(registering());
        stage.pass(Duration::ZERO);
        let first = register_to(&mut stage, FIRST);
        grant(&mut stage, &first, FIRST, 600);
        let mut new = SipDirectory {
            accounts: stage.agent.config().accounts.clone(),
            trunks: stage.agent.config().trunks.clone(),
        };
        new.trunks[0].registration.as_mut().unwrap().expires = Duration::from_secs(300);
        stage.agent.handle_directory(new, stage.now);
        stage.drain();
        stage.pass(Duration::ZERO);
        // RFC 3261 10.2: else what takes the binding back may come after what makes it anew.
        let last = register_to(&mut stage, FIRST);
        assert_eq!(text_of(&last, "Expires"), "0");
        match is_answered {
            true => stage.hear(FIRST, &answer(&last, 200, ";tag=r", "", "")),
            false => stage.pass(Duration::from_secs(40)),
        }
        stage.pass(Duration::ZERO);
        let sent = std::mem::take(&mut stage.sent).into_iter();
        let next = sent.filter_map(|(_, message)| match message {
            SipMessage::Request(request) if text_of(&request, "Expires") == "300" => Some(request),
            _ => None,
        });
        assert_eq!(next.count().min(1), 1, "answered: {is_answered}");
    }
}
