//! Devices behind a switch: how they are rung, whose call is whose, and when they are there.

use super::*;
use crate::sip::config::AssertedIdentity;
use crate::sip::leg::LegSource;

const AGENT: &str = "behind-1";
const OTHER: &str = "behind-2";

/// 5001, which the carrier calls 2001, and 5002.
fn behind() -> SipConfig {
    let mut config = config();
    config.trunks[0].qualify = Some(Duration::from_secs(10));
    let mut agent = SipAccount::behind(device(AGENT), "5001".into(), "carrier");
    agent.user = Some("2001".into());
    config.accounts.insert(agent);
    config.accounts.insert(SipAccount::behind(device(OTHER), "5002".into(), "carrier"));
    config
}

fn asserting(identity: AssertedIdentity) -> Stage {
    let mut config = behind();
    config.trunks[0].identity = identity;
    let mut stage = Stage::with(config);
    stage.drain();
    stage.events.clear();
    stage
}

fn call_agent(leg: LegId) -> LegCommand {
    match call_phone(leg) {
        LegCommand::Invite { from, offer, timeout, .. } => LegCommand::Invite {
            leg,
            to: Destination::Device(device(AGENT)),
            from,
            offer,
            auto_answer: true,
            swallow_digits: false,
            timeout,
            max_forwards: 70,
            passed: Vec::new(),
            user_data: Default::default(),
            is_secure: false,
            reasons: Default::default(),
        },
        other => panic!("{other:?}"),
    }
}

/// Who calls, and who is called.
fn who(stage: &mut Stage) -> (LegSource, String) {
    match stage.events().into_iter().find(|event| matches!(event, LegEvent::Incoming { .. })) {
        Some(LegEvent::Incoming { source, to, .. }) => (source, to.to_string()),
        other => panic!("{other:?}"),
    }
}

/// Answers the OPTIONS that has gone out.
fn answer_options(stage: &mut Stage, status: u16) {
    let options = stage.request("OPTIONS");
    assert_eq!(options.uri.as_bytes(), b"sip:192.0.2.2:5060");
    stage.hear(CARRIER, &answer(&options, status, ";tag=x", "", ""));
}

fn registered(stage: &mut Stage) -> Vec<(String, bool)> {
    let events = stage.events().into_iter();
    let told = events.filter_map(|event| match event {
        LegEvent::Registered { device, registered } => Some((device.to_string(), registered)),
        _ => None,
    });
    told.collect()
}

#[test]
fn a_device_behind_a_switch_is_there_as_long_as_the_switch_answers_options() {
    let mut stage = Stage::with(behind());
    stage.pass(Duration::ZERO);
    assert_eq!(registered(&mut stage), [], "nobody is there that has not answered");
    // Whatever it answers.
    answer_options(&mut stage, 404);
    let there = [(AGENT.to_owned(), true), (OTHER.to_owned(), true)];
    assert_eq!(registered(&mut stage), there);
    stage.pass(Duration::from_secs(10));
    answer_options(&mut stage, 200);
    assert_eq!(registered(&mut stage), [], "no news");
    // Its power is gone.
    stage.pass(Duration::from_secs(17));
    assert_eq!(registered(&mut stage), there.clone().map(|(device, _)| (device, false)));
    assert_eq!(stage.present, [("carrier".to_owned(), true), ("carrier".to_owned(), false)]);
    stage.sent.clear();
    stage.pass(Duration::from_secs(10));
    answer_options(&mut stage, 200);
    assert_eq!(registered(&mut stage), there);
    assert!(stage.agent.registered_devices().any(|found| *found == device(AGENT)));
    // A proxy answers for it.
    stage.pass(Duration::from_secs(10));
    answer_options(&mut stage, 503);
    assert_eq!(registered(&mut stage).len(), 2);
}

#[test]
fn a_switch_that_is_never_asked_is_always_there() {
    let mut config = behind();
    config.trunks[0].qualify = None;
    let mut stage = Stage::with(config);
    stage.drain();
    assert_eq!(registered(&mut stage).len(), 2);
    stage.pass(Duration::from_secs(3600));
    assert_eq!(stage.said(), [""; 0]);
}

#[test]
fn a_device_behind_a_switch_is_rung_there_by_its_name_and_answers_our_login() {
    let mut stage = asserting(AssertedIdentity::Any);
    stage.command(call_agent(LegId(1)));
    let invite = stage.request("INVITE");
    assert_eq!(invite.uri.as_bytes(), b"sip:2001@192.0.2.2");
    assert!(invite.headers.has("Call-Info"), "it is asked to answer by itself");
    let challenge =
        "WWW-Authenticate: Digest realm=\"carrier.example\", nonce=\"n\", qop=\"auth\"\n";
    stage.hear(CARRIER, &answer(&invite, 401, ";tag=c", challenge, ""));
    let again = stage.request("INVITE");
    assert!(again.headers.has("Authorization"));
    let extra = "Contact: <sip:2001@192.0.2.2>\nContent-Type: application/sdp\n";
    stage.hear(CARRIER, &answer(&again, 200, ";tag=theirs", extra, SDP));
    assert!(matches!(stage.events().as_slice(), [LegEvent::Answered { .. }]));
    let ack = stage.request("ACK");
    assert_eq!(ack.uri.as_bytes(), b"sip:2001@192.0.2.2");
}

#[test]
fn a_call_from_the_switch_is_the_devices_that_it_asserts_and_else_a_customers() {
    let device_of = |name: &str| LegSource::Account(device(name));
    let customer = || LegSource::Trunk("carrier".to_owned());
    let pai = |name: &str| format!("P-Asserted-Identity: <sip:{name}@192.0.2.2>\n");
    let rpid = |name: &str, more: &str| format!("Remote-Party-ID: <sip:{name}@192.0.2.2>{more}\n");
    use AssertedIdentity::{Any, From, Pai, Rpid};
    let rows = [
        (Any, pai("2001"), "7001", device_of(AGENT)),
        (Any, pai("5001"), "7001", device_of(AGENT)),
        (Any, pai("5002"), "7001", device_of(OTHER)),
        // Nobody is called so there.
        (Any, pai("2002"), "5001", customer()),
        (Any, pai("7001"), "5001", customer()),
        // What registers here is not behind the switch.
        (Any, pai("1001"), "7001", customer()),
        // A tel URI beside it (RFC 3325 9.1), of the same and of another.
        (Any, pai("2001") + "P-Asserted-Identity: <tel:5001>\n", "7001", device_of(AGENT)),
        (Any, pai("2001") + "P-Asserted-Identity: <tel:5002>\n", "7001", customer()),
        (Any, rpid("2001", ";party=calling;privacy=off"), "7001", device_of(AGENT)),
        (Any, rpid("2001", ";party=called"), "7001", customer()),
        // Anybody outside may write that.
        (Any, String::new(), "2001", customer()),
        (Any, String::new(), "7001", customer()),
        (Any, pai("\u{1}"), "5001", customer()),
        (Pai, String::new(), "5001", customer()),
        (Pai, rpid("5001", ""), "5001", customer()),
        (Pai, pai("5001"), "7001", device_of(AGENT)),
        (Rpid, pai("5001"), "7001", customer()),
        (Rpid, rpid("5001", ""), "7001", device_of(AGENT)),
        (From, pai("5001"), "7001", customer()),
        (From, pai("7001"), "5001", device_of(AGENT)),
        (From, String::new(), "2001", device_of(AGENT)),
    ];
    for (identity, headers, from, expected) in rows {
        let mut stage = asserting(identity);
        let text = invite("c1", "INVITE", 1, &headers);
        let text =
            text.replace("sip:+4930@carrier.example", &format!("sip:{from}@carrier.example"));
        stage.hear(CARRIER, &text);
        let (source, _) = who(&mut stage);
        assert_eq!(source, expected, "{identity:?} {headers}{from}");
    }
}

#[test]
fn a_customer_that_shows_an_agents_number_is_withheld_and_one_that_is_asserted_is_known() {
    let pai = |name: &str| format!("P-Asserted-Identity: <sip:{name}@192.0.2.2>\n");
    for (headers, from, number, display, is_private) in [
        (String::new(), "5001", "anonymous", "unverified 5001", false),
        (pai("0309999"), "5001", "0309999", "", false),
        (pai("0309999"), "anonymous", "0309999", "", true),
        (String::new(), "anonymous", "anonymous", "", false),
    ] {
        let mut stage = asserting(AssertedIdentity::Pai);
        let text = invite("c1", "INVITE", 1, &headers);
        let from = format!("sip:{from}@carrier.example");
        stage.hear(CARRIER, &text.replace("sip:+4930@carrier.example", &from));
        let told = stage.events().into_iter().find_map(|event| match event {
            LegEvent::Incoming { source, from, .. } => Some((source, from)),
            _ => None,
        });
        let (source, identity) = told.unwrap();
        assert_eq!(source, LegSource::Trunk("carrier".to_owned()));
        let shown = (identity.number.as_str(), identity.display.as_str(), identity.is_private);
        assert_eq!(shown, (number, display, is_private), "{headers}{from}");
    }
}

#[test]
fn a_stranger_is_no_device_behind_the_switch_whatever_it_asserts() {
    let mut stage = asserting(AssertedIdentity::Any);
    let asserted = "P-Asserted-Identity: <sip:2001@192.0.2.2>\n";
    let text = invite("c1", "INVITE", 1, asserted).replace("192.0.2.2", "192.0.2.99");
    stage.hear("192.0.2.99:5060", &text);
    assert_eq!(stage.said(), ["401"]);
    // Nor may anybody register as one.
    stage.hear(PHONE, &register("5001", 1, "Contact: <sip:5001@10.0.0.3:5062>\n"));
    assert_eq!(stage.said(), ["401"]);
}

#[test]
fn a_number_from_the_switch_is_that_of_a_device_or_its_name_there() {
    for (dialled, meant) in [("5001", "5001"), ("2001", "5001"), ("5002", "5002"), ("1001", "1001")]
    {
        let mut stage = asserting(AssertedIdentity::Any);
        let text = invite("c1", "INVITE", 1, "").replace("sip:1001@", &format!("sip:{dialled}@"));
        stage.hear(CARRIER, &text);
        assert_eq!(who(&mut stage).1, meant);
    }
}

#[test]
fn a_switch_refers_its_leg_by_its_own_host_and_by_its_own_names() {
    for (target, to) in [
        ("sip:2001@192.0.2.2", Some("5001")),
        ("sip:2001@192.0.2.2:5080", Some("5001")),
        ("sip:+4940@192.0.2.2", Some("+4940")),
        ("sip:5002@coach.example", Some("5002")),
        ("sip:2001@192.0.2.99", None),
    ] {
        let mut stage = asserting(AssertedIdentity::Any);
        let call = stage.incoming_call();
        stage.hear(CARRIER, &call.request("REFER", 2, &format!("Refer-To: <{target}>\n")));
        let referred = stage.events().into_iter().find_map(|event| match event {
            LegEvent::Referred { to, .. } => Some(to.to_string()),
            _ => None,
        });
        assert_eq!(referred.as_deref(), to, "{target}");
    }
}

#[test]
fn names_on_a_leg_of_a_switch_are_those_of_the_devices_behind_it() {
    let named = |stage: &mut Stage| -> Vec<Vec<String>> {
        let events = stage.events().into_iter();
        let names = events.filter_map(|event| match event {
            LegEvent::ConnectedIdentity { names, .. } => {
                Some(names.iter().map(ToString::to_string).collect())
            }
            _ => None,
        });
        names.collect()
    };
    // Another switch calls 5001 so, and what registers here is called 1001.
    let mut config = behind();
    config.trunks.push(Trunk::at("other", "192.0.2.77:5060".parse().unwrap(), Protocol::Udp));
    let mut elsewhere = SipAccount::behind(device("elsewhere"), "6001".into(), "other");
    elsewhere.user = Some("2001".into());
    config.accounts.insert(elsewhere);
    let mut third = SipAccount::behind(device("third"), "5003".into(), "carrier");
    (third.user, third.aliases) = (Some("1001".into()), vec!["7003".into()]);
    config.accounts.insert(third);
    let mut stage = Stage::with(config);
    stage.command(call_agent(LegId(1)));
    let invite = stage.request("INVITE");
    stage.events.clear();
    let extra = "Contact: <sip:x@192.0.2.2>\nContent-Type: application/sdp\n\
                 P-Asserted-Identity: <sip:2001@192.0.2.2>\n";
    stage.hear(CARRIER, &answer(&invite, 200, ";tag=theirs", extra, SDP));
    assert_eq!(named(&mut stage), [["5001"]], "not 6001");
    let ack = stage.request("ACK");
    let from = text_of(&invite, "From");
    for (cseq, name, number) in
        [(1, "1001", "5003"), (2, "7003", "5003"), (3, "5002", "5002"), (4, "6001", "6001")]
    {
        let update = format!(
            "UPDATE sip:x SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bKu{cseq}\n\
             From: <sip:2001@192.0.2.2>;tag=theirs\nTo: {from}\nCall-ID: {}\nCSeq: {cseq} UPDATE\n\
             Contact: <sip:x@192.0.2.2>\nP-Asserted-Identity: <sip:{name}@192.0.2.2>\n\
             Content-Length: 0\n\n",
            text_of(&ack, "Call-ID")
        );
        stage.hear(CARRIER, &update);
        assert_eq!(named(&mut stage), [[number]], "{name}");
    }
}

#[test]
fn a_leg_is_replaced_by_another_device_of_its_switch_and_by_nobody_elses() {
    for (asserted, source, expected) in [
        ("2001", "192.0.2.2", Some(LegSource::Account(device(AGENT)))),
        ("5002", "192.0.2.2", Some(LegSource::Account(device(OTHER)))),
        ("0170", "192.0.2.2", Some(LegSource::Trunk("carrier".to_owned()))),
        ("2001", "192.0.2.77", None),
    ] {
        let mut config = behind();
        config.trunks.push(Trunk::at("other", "192.0.2.77:5060".parse().unwrap(), Protocol::Udp));
        let mut stage = Stage::with(config);
        stage.command(call_agent(LegId(1)));
        let out = stage.request("INVITE");
        let extra = "Contact: <sip:2001@192.0.2.2>\nContent-Type: application/sdp\n";
        stage.hear(CARRIER, &answer(&out, 200, ";tag=theirs", extra, SDP));
        stage.events.clear();
        stage.sent.clear();
        let our_tag = text_of(&out, "From").split(";tag=").nth(1).unwrap().to_owned();
        let headers = format!(
            "P-Asserted-Identity: <sip:{asserted}@192.0.2.2>\n\
             Replaces: {};to-tag={our_tag};from-tag=theirs\n",
            text_of(&out, "Call-ID")
        );
        let text = invite("c9", "INVITE", 1, &headers).replace("192.0.2.2:", &format!("{source}:"));
        stage.hear(&format!("{source}:5060"), &text);
        let replaces = stage.events().into_iter().find_map(|event| match event {
            LegEvent::Incoming { source, replaces: Some(LegId(1)), .. } => Some(source),
            _ => None,
        });
        assert_eq!(replaces, expected, "{asserted} from {source}");
        if expected.is_none() {
            assert_eq!(stage.said().last().map(String::as_str), Some("603"));
        }
    }
}

#[test]
fn calls_of_devices_behind_a_trunk_count_among_those_that_it_may_begin() {
    let mut config = behind();
    config.trunks[0].max_calls_per_second = Some(1);
    let mut stage = Stage::with(config);
    stage.drain();
    stage.sent.clear();
    let asserted = "P-Asserted-Identity: <sip:2001@192.0.2.2>\n";
    stage.hear(CARRIER, &invite("c1", "INVITE", 1, asserted));
    stage.hear(CARRIER, &invite("c2", "INVITE2", 1, asserted));
    assert_eq!(stage.said(), ["100", "503"]);
    assert_eq!(stage.agent.refused_of_trunks().collect::<Vec<_>>(), [("carrier", 1)]);
}

#[test]
fn devices_come_to_a_switch_and_leave_it_while_it_is_there() {
    let mut stage = Stage::with(behind());
    stage.pass(Duration::ZERO);
    answer_options(&mut stage, 200);
    stage.events.clear();
    stage.directory(|new| new.accounts.remove(&device(OTHER)));
    assert_eq!(registered(&mut stage), [(OTHER.to_owned(), false)]);
    stage.directory(|new| {
        new.accounts.insert(SipAccount::behind(device("new"), "5003".into(), "carrier"))
    });
    assert_eq!(registered(&mut stage), [("new".to_owned(), true)]);
    stage.directory(|new| new.trunks.clear());
    assert_eq!(registered(&mut stage).len(), 2);
}
