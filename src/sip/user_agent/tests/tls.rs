//! SIP over TLS: sips URIs, devices and trunks that speak nothing else, and connections to trunks
//! that stand.

use super::*;
use crate::sip::config::{DeviceTransport, FoundHost, TrunkSource, TrunkTarget};
use crate::sip::leg::LegSource;

const LEG: LegId = LegId(1);
const SECOND: Duration = Duration::from_secs(1);
/// The carrier's signalling over TLS.
const CARRIER_TLS: &str = "192.0.2.2:5061";
/// A connection that the carrier has made.
const FROM_CARRIER: &str = "tls/5/192.0.2.2:40001";
/// The first connection of ours to it.
const TO_CARRIER: &str = "tls/8/192.0.2.2:5061";
const PHONE_TLS: &str = "tls/7/192.0.2.3:40003";

/// The carrier is reached over TLS, and shows a certificate when it connects.
fn over_tls() -> SipConfig {
    let at = address(CARRIER_TLS);
    let host = FoundHost { priority: 0, weight: 0, address: at.ip(), port: None };
    let target = TrunkTarget {
        hosts: vec![host],
        ..TrunkTarget::new("sip.carrier.example", Some(at.port()), Protocol::Tls)
    };
    let carrier = Trunk {
        targets: vec![target],
        sources: vec![TrunkSource::new(address(CARRIER).ip().into(), None)],
        ..Trunk::at("carrier", address(CARRIER_TLS), Protocol::Tls)
    };
    SipConfig { trunks: vec![carrier], verifies_clients: true, ..config() }
}

fn secured(stage: &mut Stage, way: &str, names: &[&str]) {
    let names = names.iter().map(|name| (*name).to_owned()).collect();
    stage.agent.handle_secured(&flow_from(way), names, stage.now);
    stage.drain();
}

fn gone(stage: &mut Stage, way: &str) {
    stage.agent.handle_unreachable(&flow_from(way), stage.now);
    stage.drain();
}

fn to(uri: &str, text: &str) -> String {
    let (method, rest) = text.split_once(' ').unwrap();
    let (_, rest) = rest.split_once(' ').unwrap();
    format!("{method} {uri} {rest}")
}

/// The phone of 1001 registers by `way` with this Contact; the status of the last response.
fn register_by(stage: &mut Stage, way: &str, contact: &str) -> u16 {
    let status =
        stage.register(way, "1001", 1, &format!("Contact: <{contact}>\nExpires: 600\n")).status;
    stage.sent.clear();
    stage.events.clear();
    status
}

#[test]
fn a_request_for_a_sips_uri_is_taken_over_tls_alone() {
    const SIPS: &str = "sips:1001@coach.example";
    const SIP: &str = "sip:1001@coach.example";
    for (uri, way, expected) in [
        (SIP, STRANGER, 401),
        (SIP, "9/192.0.2.66:40000", 401),
        (SIP, "tls/9/192.0.2.66:40000", 401),
        (SIPS, STRANGER, 416),
        (SIPS, "9/192.0.2.66:40000", 416),
        (SIPS, "tls/9/192.0.2.66:40000", 401),
    ] {
        let mut stage = Stage::new();
        stage.hear(way, &to(uri, &invite("c1", "a", 1, "")));
        let sent = stage.sent();
        let [SipMessage::Response(response)] = &sent[..] else { panic!("{uri} {way}: {sent:?}") };
        assert_eq!(response.status, expected, "{uri} by {way}");
    }
}

#[test]
fn a_contact_that_is_a_sips_uri_is_registered_and_called_over_tls_alone() {
    const SIPS: &str = "sips:1001@192.0.2.3:40003";
    let mut stage = Stage::new();
    stage.hear(PHONE, &register("1001", 1, &format!("Contact: <{SIPS}>\n")));
    assert_eq!(stage.said(), ["400"]);
    assert_eq!(register_by(&mut stage, PHONE_TLS, SIPS), 200);
    stage.command(call_phone(LEG));
    let (flow, _) = stage.sent[0].clone();
    let invite = stage.request("INVITE");
    assert_eq!(flow, flow_from(PHONE_TLS));
    assert_eq!(invite.uri.as_bytes(), SIPS.as_bytes());
    assert!(text_of(&invite, "Via").starts_with("SIP/2.0/TLS 192.0.2.1:5061;"));
    assert_eq!(text_of(&invite, "Contact"), "<sips:1001@192.0.2.1:5061>");
}

#[test]
fn our_contact_names_the_transport_and_is_a_sips_uri_where_one_was_called() {
    for (uri, way, contact) in [
        ("sip:1001@coach.example", CARRIER, "<sip:1001@192.0.2.1:5060>"),
        ("sip:1001@coach.example", "5/192.0.2.2:40001", "<sip:1001@192.0.2.1:5060;transport=tcp>"),
        ("sip:1001@coach.example", FROM_CARRIER, "<sip:1001@192.0.2.1:5061;transport=tls>"),
        ("sips:1001@coach.example", FROM_CARRIER, "<sips:1001@192.0.2.1:5061>"),
    ] {
        let mut stage = Stage::new();
        stage.hear(way, &to(uri, &invite("c1", "a", 1, "")));
        let events = stage.events();
        let [LegEvent::Incoming { leg, is_secure, .. }] = events[..] else {
            panic!("{uri} by {way}: {events:?}")
        };
        assert_eq!(is_secure, uri.starts_with("sips"), "{uri} by {way}");
        stage.command(LegCommand::Accept { leg, media: SDP.into() });
        assert_eq!(text(&stage.response(200), "Contact"), contact);
    }
}

#[test]
fn a_call_that_is_to_be_secure_goes_over_tls_or_not_at_all() {
    let securely = |mut command: LegCommand| {
        if let LegCommand::Invite { is_secure, .. } = &mut command {
            *is_secure = true;
        }
        command
    };
    let refused = [LegEvent::Failed { leg: LEG, status: 480 }];

    let mut stage = Stage::new();
    assert_eq!(register_by(&mut stage, PHONE, "sip:1001@10.0.0.3:5062"), 200);
    stage.command(securely(call_phone(LEG)));
    assert_eq!((stage.events().as_slice(), stage.said().len()), (&refused[..], 0));
    // Its older registration is the one that will do.
    let mut stage = Stage::new();
    let contact = "sip:1001@192.0.2.3:40003;transport=tls";
    assert_eq!(register_by(&mut stage, PHONE_TLS, contact), 200);
    stage.register(PHONE, "1001", 2, "Contact: <sip:1001@10.0.0.3:5062>\nExpires: 600\n");
    stage.sent.clear();
    stage.command(securely(call_phone(LEG)));
    assert_eq!(stage.sent[0].0, flow_from(PHONE_TLS));
    assert_eq!(stage.request("INVITE").uri.as_bytes(), contact.as_bytes());

    let mut stage = Stage::new();
    stage.command(securely(call_carrier(LEG)));
    assert_eq!((stage.events().as_slice(), stage.said().len()), (&refused[..], 0));
    let mut stage = Stage::with(over_tls());
    stage.command(securely(call_carrier(LEG)));
    assert_eq!(stage.sent[0].0.protocol, Protocol::Tls);
    let invite = stage.request("INVITE");
    assert_eq!(invite.uri.as_bytes(), b"sips:+4930123@sip.carrier.example");
    assert_eq!(text_of(&invite, "Contact"), "<sips:1001@192.0.2.1:5061>");
}

#[test]
fn a_call_over_tls_to_a_trunk_names_its_transport_and_offers_its_connection() {
    let mut stage = Stage::with(over_tls());
    stage.command(call_carrier(LEG));
    let flow = stage.sent[0].0;
    assert_eq!((flow.protocol, flow.peer), (Protocol::Tls, address(CARRIER_TLS)));
    let invite = stage.request("INVITE");
    assert_eq!(invite.uri.as_bytes(), b"sip:+4930123@sip.carrier.example;transport=tls");
    let via = text_of(&invite, "Via");
    assert!(via.starts_with("SIP/2.0/TLS 192.0.2.1:5061;") && via.ends_with(";alias"), "{via}");
}

#[test]
fn a_sips_contact_is_none_for_a_call_that_others_can_read() {
    let mut stage = Stage::new();
    stage.command(call_carrier(LEG));
    let sent = stage.request("INVITE");
    let extra = "Contact: <sips:carrier@192.0.2.2>\nContent-Type: application/sdp\n";
    stage.hear(CARRIER, &answer(&sent, 200, ";tag=theirs", extra, SDP));
    assert_eq!(stage.request("ACK").uri, sent.uri);
    stage.hear(CARRIER, &invite("c2", "b", 1, "").replace("<sip:carrier@", "<sips:carrier@"));
    assert_eq!(stage.response(400).status, 400);
}

#[test]
fn a_device_over_tls_is_nobody_in_clear_whatever_its_password() {
    let mut config = config();
    first_account(&mut config).transport = DeviceTransport::Tls;
    let mut stage = Stage::with(config);
    for (way, expected) in [(PHONE, 403), ("9/192.0.2.3:40009", 403), (PHONE_TLS, 200)] {
        let contact = "sip:1001@192.0.2.3:5062";
        assert_eq!(register_by(&mut stage, way, contact), expected, "{way}");
    }
    stage.command(call_phone(LEG));
    let invite = stage.request("INVITE");
    let extra = "Contact: <sip:1001@192.0.2.3:40003;transport=tls>\n\
                 Content-Type: application/sdp\n";
    stage.hear(PHONE_TLS, &answer(&invite, 200, ";tag=theirs", extra, SDP));
    let ack = stage.request("ACK");
    stage.events.clear();
    let call = Call {
        leg: LEG,
        call_id: text_of(&ack, "Call-ID"),
        theirs: text_of(&ack, "To"),
        ours: text_of(&ack, "From"),
    };
    stage.hear("192.0.2.3:40003", &call.request("BYE", 7, ""));
    assert_eq!((stage.said(), stage.events().len()), (vec!["481".to_owned()], 0));
    stage.hear(PHONE_TLS, &call.request("BYE", 7, "").replace("BYEBYE", "BYE"));
    assert!(matches!(stage.events().as_slice(), [LegEvent::Ended { .. }]));
}

#[test]
fn a_trunk_over_tls_is_who_has_its_address_and_its_certificate() {
    let other_host = "tls/6/192.0.2.66:40001";
    for (way, names, is_trunk) in [
        (FROM_CARRIER, vec!["sip.carrier.example"], true),
        (FROM_CARRIER, vec!["a.example", "sip.carrier.example"], true),
        (FROM_CARRIER, vec!["carrier.example"], false),
        (FROM_CARRIER, vec!["*.carrier.example"], false),
        (FROM_CARRIER, vec![], false),
        (other_host, vec!["sip.carrier.example"], false),
        (CARRIER, vec!["sip.carrier.example"], false),
        ("5/192.0.2.2:40001", vec!["sip.carrier.example"], false),
    ] {
        let mut stage = Stage::with(over_tls());
        if way.starts_with("tls/") {
            secured(&mut stage, way, &names);
        }
        stage.hear(way, &invite("c1", "a", 1, ""));
        let is_incoming = matches!(
            stage.events().as_slice(),
            [LegEvent::Incoming { source: LegSource::Trunk(_), .. }]
        );
        assert_eq!(is_incoming, is_trunk, "{way} {names:?}");
        assert_eq!(stage.said(), [if is_trunk { "100" } else { "401" }], "{way} {names:?}");
    }
}

#[test]
fn what_a_certificate_has_shown_ends_with_its_connection() {
    let mut stage = Stage::with(over_tls());
    secured(&mut stage, FROM_CARRIER, &["sip.carrier.example"]);
    gone(&mut stage, FROM_CARRIER);
    stage.hear(FROM_CARRIER, &invite("c1", "a", 1, ""));
    assert_eq!(stage.said(), ["401"]);
}

#[test]
fn without_authorities_for_clients_a_trunk_over_tls_is_known_by_its_address() {
    let mut stage = Stage::with(SipConfig { verifies_clients: false, ..over_tls() });
    secured(&mut stage, FROM_CARRIER, &[]);
    stage.hear(FROM_CARRIER, &invite("c1", "a", 1, ""));
    assert_eq!(stage.said(), ["100"]);
    stage.hear(CARRIER, &invite("c2", "b", 1, ""));
    assert_eq!(stage.said(), ["401"], "in clear it is nobody");
}

#[test]
fn a_call_outlives_the_connection_to_its_trunk_and_is_ended_by_another() {
    let mut stage = Stage::with(over_tls());
    secured(&mut stage, FROM_CARRIER, &["sip.carrier.example"]);
    stage.hear(FROM_CARRIER, &invite("c1", "INVITE", 1, ""));
    let events = stage.events();
    let [LegEvent::Incoming { leg, .. }] = events[..] else { panic!("{events:?}") };
    stage.command(LegCommand::Accept { leg, media: SDP.into() });
    let ours = text(&stage.response(200), "To");
    let theirs = "<sip:+4930@carrier.example>;tag=theirs".to_owned();
    let call = Call { leg, call_id: "c1".to_owned(), theirs, ours };
    stage.hear(FROM_CARRIER, &call.request("ACK", 1, ""));
    gone(&mut stage, FROM_CARRIER);
    stage.events.clear();
    stage.pass(60 * SECOND);
    assert!(stage.events().is_empty(), "the call goes on");
    stage.sent.clear();
    stage.command(LegCommand::Hangup { leg, reason: None });
    let (flow, _) = stage.sent[0];
    assert_eq!(
        (flow.protocol, flow.peer, flow.connection),
        (Protocol::Tls, address(CARRIER_TLS), ConnectionId::NONE)
    );
    // Or by the trunk, on a connection of its own.
    let by_another = "tls/6/192.0.2.2:40002";
    secured(&mut stage, by_another, &["sip.carrier.example"]);
    stage.sent.clear();
    stage.hear(by_another, &call.request("BYE", 2, ""));
    assert_eq!(stage.said(), ["200"]);
}

// ---- connections to trunks

#[test]
fn a_trunk_is_connected_to_ahead_and_again_after_longer_and_longer_times() {
    let mut stage = Stage::with(over_tls());
    stage.pass(Duration::ZERO);
    let wanted = Flow { connection: ConnectionId::NONE, ..flow_from(TO_CARRIER) };
    assert_eq!(std::mem::take(&mut stage.connects), [wanted]);
    for most in [1, 2, 4, 8, 16, 32, 60, 60] {
        stage.agent.handle_unreachable(&wanted, stage.now);
        stage.drain();
        stage.pass(Duration::from_millis(most * 500 - 1));
        assert!(stage.connects.is_empty(), "not before half of {most} s");
        stage.pass(Duration::from_millis(most * 500 + 1));
        assert_eq!(std::mem::take(&mut stage.connects), [wanted], "within {most} s");
    }
    let told = ("carrier".to_owned(), false);
    assert_eq!(std::mem::take(&mut stage.connected), std::slice::from_ref(&told), "told once");
    secured(&mut stage, TO_CARRIER, &["sip.carrier.example"]);
    stage.pass(3600 * SECOND);
    assert_eq!(std::mem::take(&mut stage.connected), [("carrier".to_owned(), true)]);
    assert!(stage.connects.is_empty());
    gone(&mut stage, TO_CARRIER);
    assert_eq!(std::mem::take(&mut stage.connected), [told]);
    stage.pass(SECOND);
    assert_eq!(stage.connects, [wanted], "it has stood for a while: soon again");
}

#[test]
fn a_connection_that_breaks_again_and_again_is_not_made_again_at_once() {
    let mut stage = Stage::with(over_tls());
    let mut attempts = 0;
    for connection in 0..600 {
        stage.pass(SECOND);
        for _ in std::mem::take(&mut stage.connects) {
            attempts += 1;
            let way = format!("tls/{}/{CARRIER_TLS}", connection + 10);
            secured(&mut stage, &way, &["sip.carrier.example"]);
            gone(&mut stage, &way);
        }
    }
    assert!((12..=30).contains(&attempts), "{attempts} in ten minutes");
}

#[test]
fn a_trunk_that_offers_its_connection_is_called_by_it() {
    let with_alias = |host: &str| {
        invite("c1", "a", 1, "")
            .replace("SIP/2.0/UDP 192.0.2.2;branch", &format!("SIP/2.0/TLS {host};alias;branch"))
    };
    let mut stage = Stage::with(over_tls());
    stage.pass(Duration::ZERO);
    // It stands for the address of the trunk only where it is said to, by who has its name.
    secured(&mut stage, FROM_CARRIER, &["sip.carrier.example"]);
    stage.hear(FROM_CARRIER, &with_alias("192.0.2.2:5063"));
    assert!(stage.aliases.is_empty());
    let stranger = "tls/6/192.0.2.2:40002";
    secured(&mut stage, stranger, &["other.example"]);
    stage.hear(stranger, &with_alias("192.0.2.2:5061").replace("c1", "c2"));
    assert!(stage.aliases.is_empty());
    stage.hear(FROM_CARRIER, &with_alias("192.0.2.2:5061").replace("c1", "c3"));
    let expected = [(flow_from(FROM_CARRIER), address(CARRIER_TLS))];
    assert_eq!(stage.aliases, expected);
    assert_eq!(stage.connected, [("carrier".to_owned(), true)], "no connection of ours is needed");
}

#[test]
fn a_refer_to_a_sips_uri_asks_for_a_secure_call() {
    for (to, expected) in [("<sip:1002@coach.example>", false), ("<sips:1002@coach.example>", true)]
    {
        let mut stage = Stage::new();
        let call = stage.incoming_call();
        stage.hear(CARRIER, &call.request("REFER", 2, &format!("Refer-To: {to}\n")));
        let events = stage.events();
        let [LegEvent::Referred { is_secure, .. }] = events[..] else { panic!("{events:?}") };
        assert_eq!(is_secure, expected, "{to}");
    }
}
