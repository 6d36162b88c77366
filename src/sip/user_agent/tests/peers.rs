//! Who a packet is from, and where its sender hears.
//!
//! | RFC | what |
//! |---|---|
//! | 3261 18.2.2, 3581 4 | where responses go, and then requests of ours |
//! | 3261 17.2.3, 9.2 | repetitions, CANCEL and ACK from another source of the same peer |
//! | 3261 17.1.3, 18.1.2 | responses from another source of the same peer |
//! | 3261 12.2.2, 22.1 | requests within a dialog from another source |
//! | 3261 10.3 | registrations of a phone that has begun again |
//! | none | how much a trunk may ask for |

use super::*;
use crate::sip::config::{SipLimits, TrunkSource};
use crate::sip::leg::EndReason;
use crate::sip::transaction::Bounds;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

const LEG: LegId = LegId(1);
const SECOND: Duration = Duration::from_secs(1);
/// The carrier's second node, and other ports and connections of its two nodes.
const NODE: &str = "192.0.2.4:5060";
const OTHER_PORT: &str = "192.0.2.2:49152";
const OTHER_SOURCES: [&str; 4] = [OTHER_PORT, NODE, "192.0.2.4:49152", "7/192.0.2.2:49999"];

/// A site with a carrier of two nodes.
fn two_nodes() -> SipConfig {
    let mut config = config();
    let source = |address: &str| TrunkSource::new(address.parse().unwrap(), None);
    config.trunks[0].sources = vec![source("192.0.2.2"), source("192.0.2.4")];
    config
}

fn behind_nat() -> SipConfig {
    let mut config = two_nodes();
    first_account(&mut config).nat = crate::sip::config::Nat::Always;
    config
}

/// Where everything since has gone, in short.
fn ways(stage: &mut Stage) -> Vec<(String, String)> {
    let sent = std::mem::take(&mut stage.sent);
    let way = |flow: &Flow| match flow.connection {
        ConnectionId::NONE if flow.protocol == Protocol::Tcp => format!("new/{}", flow.peer),
        ConnectionId::NONE => flow.peer.to_string(),
        ConnectionId(number) => format!("{number}/{}", flow.peer),
    };
    sent.iter().map(|(flow, message)| (short(message), way(flow))).collect()
}

fn way_of(stage: &mut Stage, what: &str) -> String {
    let ways = ways(stage);
    let found = ways.iter().find(|(name, _)| name == what).map(|(_, way)| way.clone());
    found.unwrap_or_else(|| panic!("no {what} among {ways:?}"))
}

fn options(via: &str) -> String {
    format!(
        "OPTIONS sip:coach.example SIP/2.0\nVia: {via}\nMax-Forwards: 70\n\
         From: <sip:1001@coach.example>;tag=o\n\
         To: <sip:coach.example>\nCall-ID: o\nCSeq: 1 OPTIONS\nContent-Length: 0\n\n"
    )
}

/// REGISTER of 1001 with this Via, its challenge and its answer. Where the challenge went.
fn register_by(stage: &mut Stage, source: &str, via: &str, cseq: u32, contact: &str) -> String {
    let request = |cseq: u32, extra: &str| {
        let text = register("1001", cseq, &format!("Contact: {contact}\nExpires: 600\n{extra}"));
        text.replace("SIP/2.0/UDP 10.0.0.3:5062;rport", via)
    };
    stage.hear(source, &request(cseq * 10, ""));
    let (flow, _) = stage.sent[0];
    let answer = answer_of(stage, "REGISTER", "sip:coach.example");
    stage.hear(source, &request(cseq * 10 + 1, &format!("Authorization: {answer}\n")));
    assert_eq!(stage.said(), ["200"]);
    stage.events.clear();
    flow.peer.to_string()
}

/// The digest of 1001 that answers the 401 that was sent last.
fn answer_of(stage: &mut Stage, method: &str, uri: &str) -> String {
    let challenge = stage.response(401);
    let challenges: Vec<&[u8]> = challenge.headers.fields_of("WWW-Authenticate").collect();
    let subject = DigestRequest { method: method.as_bytes(), uri: uri.as_bytes(), body: b"" };
    let mut client = Credentials::new("us", Some(REALM), "1001", "secret");
    client.answer(&challenges, "us", subject, "cnonce").unwrap()
}

/// The phone of 1001, at this Contact, is called and answers from `source`.
fn talking(stage: &mut Stage, source: &str, contact: &str) -> Call {
    stage.command(call_phone(LEG));
    let invite = stage.request("INVITE");
    let extra = format!(
        "Contact: {contact}\nAllow: INVITE, BYE, ACK, CANCEL\nContent-Type: application/sdp\n"
    );
    stage.hear(source, &answer(&invite, 200, ";tag=theirs", &extra, SDP));
    assert!(matches!(stage.events().as_slice(), [LegEvent::Answered { .. }]));
    let ack = stage.request("ACK");
    Call {
        leg: LEG,
        call_id: text_of(&ack, "Call-ID"),
        theirs: text_of(&ack, "To"),
        ours: text_of(&ack, "From"),
    }
}

fn from_phone(call: &Call, method: &str, cseq: u32, extra: &str) -> String {
    let text = call.request(method, cseq, extra);
    text.replace("UDP 192.0.2.2;", "UDP 192.0.2.3:5062;rport;")
        .replace("<sip:carrier@192.0.2.2>", "<sip:1001@192.0.2.3:5062>")
}

fn hang_up(stage: &mut Stage) {
    stage.command(LegCommand::Hangup { leg: LEG, reason: None });
}

// ---- RFC 3261 18.2.2, RFC 3581 4: where responses and requests of ours go

#[test]
fn a_response_goes_to_the_port_of_sent_by_or_with_rport_of_the_source_and_never_to_another_host() {
    for (via, source, way) in [
        ("SIP/2.0/UDP 192.0.2.66:6060;branch=z9hG4bK1", "192.0.2.66:49152", "192.0.2.66:6060"),
        ("SIP/2.0/UDP 192.0.2.66;branch=z9hG4bK1", "192.0.2.66:49152", "192.0.2.66:5060"),
        (
            "SIP/2.0/UDP 192.0.2.66:6060;rport;branch=z9hG4bK1",
            "192.0.2.66:49152",
            "192.0.2.66:49152",
        ),
        (
            "SIP/2.0/UDP 192.0.2.66:6060;branch=z9hG4bK1;rport=7",
            "192.0.2.66:49152",
            "192.0.2.66:49152",
        ),
        // A private address from a public source: a NAT is between, and knows the source port
        // alone.
        ("SIP/2.0/UDP 10.0.0.9:6060;branch=z9hG4bK1", "192.0.2.66:49152", "192.0.2.66:49152"),
        ("SIP/2.0/UDP pc.example:6060;branch=z9hG4bK1", "192.0.2.66:49152", "192.0.2.66:6060"),
        (
            "SIP/2.0/UDP 192.0.2.66:6060;received=192.0.2.9;maddr=192.0.2.8;branch=z9hG4bK1",
            "192.0.2.66:49152",
            "192.0.2.66:6060",
        ),
        ("SIP/2.0/UDP 192.0.2.66:0;branch=z9hG4bK1", "192.0.2.66:49152", "192.0.2.66:49152"),
        ("SIP/2.0/TCP 192.0.2.66:6060;branch=z9hG4bK1", "7/192.0.2.66:49152", "7/192.0.2.66:49152"),
        (
            "SIP/2.0/UDP 192.0.2.66:6060;branch=z9hG4bK1, SIP/2.0/UDP 10.0.0.1:7;branch=z9hG4bK0",
            "192.0.2.66:4",
            "192.0.2.66:6060",
        ),
    ] {
        let mut stage = Stage::new();
        stage.hear(source, &options(via));
        assert_eq!(ways(&mut stage), [("200".into(), way.into())], "{via}");
        // Refused statelessly, and what can not even be read.
        stage.hear(
            source,
            &options(via).replace("sip:coach.example SIP", "sip:elsewhere.example SIP"),
        );
        assert_eq!(ways(&mut stage), [("404".into(), way.into())], "{via}");
        stage.hear(source, &options(via).replace("Content-Length: 0", "Content-Length: none"));
        assert_eq!(ways(&mut stage), [("400".into(), way.into())], "{via}");
    }
}

#[test]
fn a_phone_behind_a_nat_hears_at_its_source_whatever_its_via_says() {
    let mut stage = Stage::with(behind_nat());
    let via = "SIP/2.0/UDP 10.0.0.3:5062";
    let way = register_by(&mut stage, "192.0.2.3:49152", via, 1, "<sip:1001@192.0.2.3:5062>");
    assert_eq!(way, "192.0.2.3:49152");
    stage.command(call_phone(LEG));
    assert_eq!(way_of(&mut stage, "INVITE"), "192.0.2.3:49152");
}

#[test]
fn a_phone_that_sends_from_another_port_than_it_hears_at_is_called_at_its_contacts_port() {
    for (via, contact, way) in [
        ("SIP/2.0/UDP 192.0.2.3:5062", "<sip:1001@192.0.2.3:5062>", "192.0.2.3:5062"),
        ("SIP/2.0/UDP 192.0.2.3:5062", "<sip:1001@192.0.2.3:5070>", "192.0.2.3:5070"),
        ("SIP/2.0/UDP 192.0.2.3:5062", "<sip:1001@192.0.2.3>", "192.0.2.3:5060"),
        // Another host, or a name, or another transport: where its responses go.
        ("SIP/2.0/UDP 192.0.2.3:5062", "<sip:1001@192.0.2.66:5070>", "192.0.2.3:5062"),
        ("SIP/2.0/UDP 192.0.2.3:5062", "<sip:1001@phone.example:5070>", "192.0.2.3:5062"),
        ("SIP/2.0/UDP 192.0.2.3:5062", "<sip:1001@192.0.2.3:5070;transport=tcp>", "192.0.2.3:5062"),
        ("SIP/2.0/UDP 192.0.2.3:5062;rport", "<sip:1001@192.0.2.3:5070>", "192.0.2.3:49152"),
    ] {
        let mut stage = Stage::with(two_nodes());
        register_by(&mut stage, "192.0.2.3:49152", via, 1, contact);
        stage.command(call_phone(LEG));
        assert_eq!(way_of(&mut stage, "INVITE"), way, "{via} {contact}");
        let mut later = stage.restarted(two_nodes(), SECOND);
        later.command(call_phone(LEG));
        assert_eq!(way_of(&mut later, "INVITE"), way, "after a restart: {via} {contact}");
    }
}

#[test]
fn everything_of_a_trunks_call_goes_to_the_port_where_it_hears() {
    let mut stage = Stage::with(two_nodes());
    // The call comes from 5060; its re-INVITE from a port of chance, without rport.
    let call = stage.incoming_call();
    stage.sent.clear();
    stage.hear(OTHER_PORT, &call.request("INVITE", 2, WITH_SDP));
    stage.command(LegCommand::AnswerOffer { leg: call.leg, media: SDP.into() });
    // 100, 200, and the 200 again until its ACK comes.
    stage.pass(SECOND / 2);
    assert_eq!(
        ways(&mut stage),
        ["100", "200", "200"].map(|name| (name.to_owned(), CARRIER.to_owned()))
    );
    stage.hear(OTHER_PORT, &call.request("ACK", 2, ""));
    stage.hear(OTHER_PORT, &call.request("REFER", 3, "Refer-To: <sip:1002@coach.example>\n"));
    assert_eq!(
        ways(&mut stage),
        ["202", "NOTIFY"].map(|name| (name.to_owned(), CARRIER.to_owned()))
    );
    stage.pass(150 * SECOND);
    assert_eq!(way_of(&mut stage, "INVITE"), CARRIER, "the refresh");
    stage.command(LegCommand::Hangup { leg: call.leg, reason: None });
    assert_eq!(way_of(&mut stage, "BYE"), CARRIER);
}

#[test]
fn a_trunk_that_asks_for_rport_from_a_port_of_chance_hears_our_requests_at_its_contact() {
    let mut stage = Stage::with(two_nodes());
    let call = stage.incoming_call();
    stage.sent.clear();
    let info = call.request("OPTIONS", 2, "").replace("UDP 192.0.2.2;", "UDP 192.0.2.2;rport;");
    stage.hear(OTHER_PORT, &info);
    assert_eq!(ways(&mut stage), [("200".into(), OTHER_PORT.into())]);
    stage.command(LegCommand::Hangup { leg: call.leg, reason: None });
    assert_eq!(way_of(&mut stage, "BYE"), CARRIER);
}

#[test]
fn a_trunks_node_that_answers_with_its_own_contact_hears_the_rest_there_a_stranger_nothing() {
    for (contact, way) in [("192.0.2.4:5070", "192.0.2.4:5070"), ("192.0.2.66:5070", CARRIER)] {
        let mut stage = Stage::with(two_nodes());
        stage.command(call_carrier(LEG));
        let invite = stage.request("INVITE");
        let extra = format!("Contact: <sip:x@{contact}>\nContent-Type: application/sdp\n");
        stage.hear(NODE, &answer(&invite, 200, ";tag=theirs", &extra, SDP));
        assert_eq!(way_of(&mut stage, "ACK"), way);
        hang_up(&mut stage);
        assert_eq!(way_of(&mut stage, "BYE"), way);
    }
}

#[test]
fn an_answer_whose_connection_is_gone_is_said_by_a_new_one() {
    let mut stage = Stage::with(two_nodes());
    let by_tcp = invite("c1", "a", 1, "").replace("UDP 192.0.2.2;", "TCP 192.0.2.2:5080;");
    stage.hear("7/192.0.2.2:49152", &by_tcp);
    let Some(LegEvent::Incoming { leg, .. }) = stage.events().pop() else { panic!() };
    assert_eq!(ways(&mut stage), [("100".into(), "7/192.0.2.2:49152".into())]);
    stage.agent.handle_unreachable(&flow_from("7/192.0.2.2:49152"), stage.now);
    stage.drain();
    stage.sent.clear();
    stage.command(LegCommand::Reject { leg, status: 486 });
    assert_eq!(ways(&mut stage), [("486".into(), "new/192.0.2.2:5080".into())]);
}

// ---- RFC 3261 17.2.3, 9.2: what belongs to an INVITE

fn cancel(cseq: u32, branch: &str) -> String {
    format!(
        "CANCEL sip:1001@coach.example SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.2;branch=z9hG4bK{branch}\n\
         Max-Forwards: 70\n\
         From: <sip:+4930@carrier.example>;tag=theirs\nTo: <sip:1001@coach.example>\nCall-ID: c1\n\
         CSeq: {cseq} CANCEL\nContent-Length: 0\n\n"
    )
}

#[test]
fn a_cancel_from_any_source_of_its_trunk_cancels_and_a_strangers_does_not() {
    for source in OTHER_SOURCES {
        let mut stage = Stage::with(two_nodes());
        stage.hear(CARRIER, &invite("c1", "a", 1, ""));
        stage.events();
        stage.said();
        stage.hear(STRANGER, &cancel(1, "a"));
        assert_eq!(stage.said(), ["481"]);
        stage.hear(source, &cancel(1, "a"));
        assert_eq!(stage.said(), ["200", "487"], "{source}");
        assert!(matches!(
            stage.events().as_slice(),
            [LegEvent::Ended { reason: EndReason::Cancelled, .. }]
        ));
        stage.hear(
            source,
            &invite("c1", "a", 1, "").replacen("INVITE", "ACK", 1).replace("1 INVITE", "1 ACK"),
        );
        stage.pass(10 * SECOND);
        assert_eq!(stage.said(), Vec::<String>::new(), "the refusal has its ACK from {source}");
    }
}

#[test]
fn a_cancel_whose_sent_by_has_changed_cancels_when_call_id_and_tag_are_the_invites() {
    let mut stage = Stage::with(two_nodes());
    stage.hear(CARRIER, &invite("c1", "a", 1, ""));
    stage.said();
    let other_sent_by = |text: String| text.replace("UDP 192.0.2.2;", "UDP 198.51.100.7:5062;");
    for forged in [
        cancel(1, "b"),
        cancel(1, "a").replace("tag=theirs", "tag=forged"),
        cancel(1, "a").replace("Call-ID: c1", "Call-ID: c2"),
    ] {
        stage.hear(CARRIER, &other_sent_by(forged));
        assert_eq!(stage.said(), ["481"]);
    }
    stage.hear(STRANGER, &other_sent_by(cancel(1, "a")));
    assert_eq!(stage.said(), ["481"]);
    stage.hear(CARRIER, &other_sent_by(cancel(1, "a")));
    assert_eq!(stage.said(), ["200", "487"]);
    let ack = invite("c1", "a", 1, "").replacen("INVITE", "ACK", 1).replace("1 INVITE", "1 ACK");
    stage.hear(CARRIER, &other_sent_by(ack));
    stage.pass(10 * SECOND);
    assert_eq!(stage.said(), Vec::<String>::new());
}

#[test]
fn an_invite_again_from_another_source_of_its_trunk_is_answered_where_it_came_from() {
    for source in OTHER_SOURCES {
        let mut stage = Stage::with(two_nodes());
        let asked = invite("c1", "a", 1, "").replace("UDP 192.0.2.2;", "UDP 192.0.2.2;rport;");
        stage.hear(CARRIER, &asked);
        stage.events();
        stage.said();
        stage.hear(source, &asked);
        assert_eq!(ways(&mut stage), [("100".into(), source.into())]);
        assert!(stage.events().is_empty());
        stage.hear(STRANGER, &asked);
        assert_eq!(stage.said(), ["401"]);
    }
}

#[test]
fn a_phones_ack_and_cancel_belong_to_its_invite_from_any_port_of_its_address() {
    let mut stage = Stage::with(two_nodes());
    stage.register_phone();
    let call = |method: &str, extra: &str| {
        let text = invite("c1", "a", 1, extra).replace("INVITE", method);
        text.replace("sip:+4930@carrier.example", "sip:1001@coach.example")
            .replace("UDP 192.0.2.2;", "UDP 192.0.2.3:5062;rport;")
    };
    stage.hear(PHONE, &call("INVITE", ""));
    let answer = answer_of(&mut stage, "INVITE", "sip:1001@coach.example");
    stage.hear(PHONE, &call("INVITE", &format!("Authorization: {answer}\n")).replace("bKa", "bKb"));
    assert_eq!(stage.said(), ["100"]);
    stage.hear("192.0.2.3:50001", &call("CANCEL", "").replace("bKa", "bKb"));
    assert_eq!(stage.said(), ["200", "487"]);
    stage.hear("8/192.0.2.3:50002", &call("ACK", "").replace("bKa", "bKb"));
    stage.pass(10 * SECOND);
    assert_eq!(stage.said(), Vec::<String>::new());
}

#[test]
fn an_old_request_is_its_repetition_from_another_port_too() {
    let mut stage = Stage::with(two_nodes());
    let old = invite("c1", "a", 1, "").replace(";branch=z9hG4bKa", ";rport");
    stage.hear(CARRIER, &old);
    stage.said();
    stage.hear(OTHER_PORT, &old);
    assert_eq!(stage.said(), ["100"]);
    assert_eq!(stage.events().len(), 1);
}

// ---- RFC 3261 17.1.3, 18.1.2: responses

#[test]
fn a_response_from_any_source_of_the_trunk_is_taken_and_a_strangers_is_not() {
    for source in OTHER_SOURCES {
        let mut stage = Stage::with(two_nodes());
        stage.command(call_carrier(LEG));
        let invite = stage.request("INVITE");
        let extra = "Contact: <sip:x@192.0.2.2>\nContent-Type: application/sdp\n";
        stage.hear(STRANGER, &answer(&invite, 200, ";tag=forged", extra, SDP));
        assert!(stage.events().is_empty() && stage.said().is_empty());
        stage.hear(source, &answer(&invite, 180, ";tag=theirs", "", ""));
        stage.hear(source, &answer(&invite, 200, ";tag=theirs", extra, SDP));
        assert!(
            matches!(
                stage.events().as_slice(),
                [LegEvent::Progress { .. }, LegEvent::Answered { .. }]
            ),
            "{source}"
        );
        assert_eq!(ways(&mut stage), [("ACK".into(), CARRIER.into())]);
    }
}

#[test]
fn a_trunk_called_at_no_source_may_answer_from_its_sources_and_is_not_admitted_by_its_target() {
    let mut config = two_nodes();
    config.trunks[0].sources.remove(0);
    let mut stage = Stage::with(config);
    stage.command(call_carrier(LEG));
    let invited = stage.request("INVITE");
    stage.hear(NODE, &answer(&invited, 180, ";tag=theirs", "", ""));
    assert_eq!(stage.events().len(), 1);
    stage.hear(CARRIER, &invite("c1", "a", 1, ""));
    assert_eq!(stage.said(), ["401"]);
}

#[test]
fn a_trunk_whose_sources_have_ports_is_no_peer_from_another_port() {
    let mut config = two_nodes();
    config.trunks[0].sources[0].port = Some(5060);
    let mut stage = Stage::with(config);
    let call = stage.incoming_call();
    stage.said();
    stage.hear(OTHER_PORT, &call.request("BYE", 2, ""));
    assert_eq!(stage.said(), ["481"]);
    stage.hear(NODE, &call.request("BYE", 2, ""));
    assert_eq!(stage.said(), ["200"]);
}

#[test]
fn every_address_of_a_trunks_network_is_the_same_peer_and_its_neighbours_are_not() {
    let mut config = two_nodes();
    config.trunks[0].sources = vec![TrunkSource::new("192.0.2.0/29".parse().unwrap(), None)];
    let mut stage = Stage::with(config);
    let call = stage.incoming_call();
    stage.said();
    stage.hear("192.0.2.8:5060", &call.request("BYE", 2, ""));
    assert_eq!(stage.said(), ["481"], "the first address behind the network");
    stage.hear("192.0.2.8:5060", &invite("c9", "b", 1, ""));
    assert_eq!(stage.said(), ["401"]);
    stage.hear("192.0.2.7:49152", &call.request("BYE", 2, ""));
    assert_eq!(stage.said(), ["200"], "the last address of the network");
}

#[test]
fn two_trunks_that_share_a_source_are_one_peer() {
    let mut config = two_nodes();
    let mut second = config.trunks[0].clone();
    second.name = "second".to_owned();
    second.sources[0].networks = vec!["192.0.2.5".parse().unwrap()];
    config.trunks.insert(0, second);
    let mut stage = Stage::with(config);
    stage.hear(NODE, &invite("c1", "a", 1, ""));
    stage.said();
    stage.hear(CARRIER, &cancel(1, "a"));
    assert_eq!(stage.said(), ["200", "487"]);
}

// ---- RFC 3261 12.2.2, 22.1: requests within a dialog

const NEW_PORT: &str = "192.0.2.3:50001";
const NEW_CONNECTION: &str = "8/192.0.2.3:50002";
const AWAY: &str = "198.51.100.7:50003";
const CONTACT: &str = "<sip:1001@192.0.2.3:5062>";

fn phone_talks() -> (Stage, Call) {
    let mut stage = Stage::with(two_nodes());
    register_by(&mut stage, PHONE, "SIP/2.0/UDP 192.0.2.3:5062;rport", 1, CONTACT);
    let call = talking(&mut stage, PHONE, CONTACT);
    (stage, call)
}

#[test]
fn a_phones_requests_in_a_call_are_taken_from_a_new_port_and_by_the_other_transport() {
    for source in [NEW_PORT, NEW_CONNECTION] {
        for (method, extra, said) in [
            ("INFO", "", "200"),
            ("OPTIONS", "", "200"),
            ("INVITE", WITH_SDP, "100"),
            ("UPDATE", "", "200"),
            ("REFER", "Refer-To: <sip:1002@coach.example>\n", "202"),
            ("BYE", "", "200"),
        ] {
            let (mut stage, call) = phone_talks();
            stage.hear(source, &from_phone(&call, method, 10, extra));
            assert_eq!(ways(&mut stage)[0], (said.into(), source.into()), "{method}");
            stage.hear(STRANGER, &from_phone(&call, method, 11, extra));
            assert_eq!(stage.said(), ["481"], "{method} of a stranger");
        }
    }
}

#[test]
fn an_ack_from_a_new_port_is_one() {
    let (mut stage, call) = phone_talks();
    stage.hear(PHONE, &from_phone(&call, "INVITE", 10, WITH_SDP));
    stage.command(LegCommand::AnswerOffer { leg: LEG, media: SDP.into() });
    stage.said();
    stage.hear(AWAY, &from_phone(&call, "ACK", 10, ""));
    stage.pass(SECOND);
    assert_eq!(stage.said(), ["200"], "not from elsewhere");
    stage.hear(NEW_PORT, &from_phone(&call, "ACK", 10, ""));
    stage.pass(10 * SECOND);
    assert_eq!(stage.said(), Vec::<String>::new());
}

#[test]
fn a_phone_that_speaks_from_a_new_port_hears_there_until_it_registers_and_then_where_it_did() {
    let (mut stage, call) = phone_talks();
    stage.hear(NEW_PORT, &from_phone(&call, "OPTIONS", 10, ""));
    stage.said();
    stage.command(LegCommand::Offer { leg: LEG, media: SDP.into() });
    let (flow, SipMessage::Request(offer)) = stage.sent.pop().unwrap() else { panic!() };
    assert_eq!(flow.peer, address(NEW_PORT));
    stage.hear(NEW_PORT, &answer(&offer, 488, "", "", ""));
    stage.sent.clear();
    register_by(&mut stage, "192.0.2.3:50009", "SIP/2.0/UDP 192.0.2.3:5062;rport", 2, CONTACT);
    hang_up(&mut stage);
    assert_eq!(way_of(&mut stage, "BYE"), "192.0.2.3:50009");
}

#[test]
fn a_request_too_long_for_a_datagram_comes_by_tcp_and_the_phone_is_reached_where_registered() {
    let (mut stage, call) = phone_talks();
    stage.hear(NEW_CONNECTION, &from_phone(&call, "INVITE", 10, WITH_SDP));
    stage.command(LegCommand::AnswerOffer { leg: LEG, media: SDP.into() });
    assert_eq!(
        ways(&mut stage),
        ["100", "200"].map(|name| (name.to_owned(), NEW_CONNECTION.to_owned()))
    );
    assert_eq!(stage.known, [flow_from(NEW_CONNECTION)]);
    stage.hear(PHONE, &from_phone(&call, "ACK", 10, ""));
    stage.agent.handle_unreachable(&flow_from(NEW_CONNECTION), stage.now);
    hang_up(&mut stage);
    assert_eq!(way_of(&mut stage, "BYE"), PHONE);
}

#[test]
fn a_call_that_a_registered_phone_makes_by_tcp_goes_on_where_it_has_registered() {
    let mut stage = Stage::with(two_nodes());
    register_by(&mut stage, PHONE, "SIP/2.0/UDP 192.0.2.3:5062;rport", 1, CONTACT);
    let call = |extra: &str, branch: &str| {
        let text = invite("c1", branch, 1, extra)
            .replace("sip:+4930@carrier.example", "sip:1001@coach.example");
        text.replace("UDP 192.0.2.2;", "TCP 192.0.2.3:5062;rport;")
            .replace("<sip:carrier@192.0.2.2>", CONTACT)
    };
    stage.hear(NEW_CONNECTION, &call("", "a"));
    let answer = answer_of(&mut stage, "INVITE", "sip:1001@coach.example");
    stage.hear(NEW_CONNECTION, &call(&format!("Authorization: {answer}\n"), "b"));
    let Some(LegEvent::Incoming { leg, .. }) = stage.events().pop() else { panic!() };
    stage.command(LegCommand::Accept { leg, media: SDP.into() });
    assert_eq!(way_of(&mut stage, "200"), NEW_CONNECTION);
    let ack = call("", "c").replacen("INVITE", "ACK", 1).replace("1 INVITE", "1 ACK");
    let to = format!("To: <sip:1001@coach.example>;tag={}", tag(&stage, leg));
    stage.hear(NEW_CONNECTION, &ack.replace("To: <sip:1001@coach.example>", &to));
    stage.command(LegCommand::Hangup { leg, reason: None });
    assert_eq!(way_of(&mut stage, "BYE"), PHONE);
}

fn tag(stage: &Stage, leg: LegId) -> String {
    stage.agent.legs.get(leg).unwrap().peer().dialog().local_tag.clone()
}

#[test]
fn a_phone_at_a_foreign_address_is_481_without_digest_challenged_with_an_old_taken_with_a_right() {
    let (mut stage, call) = phone_talks();
    for method in ["BYE", "INFO", "OPTIONS"] {
        stage.hear(AWAY, &from_phone(&call, method, 10, ""));
        assert_eq!(stage.said(), ["481"], "{method}");
    }
    // A challenge that went to another address is answered: it is asked anew, and its answer is
    // taken.
    stage.hear(PHONE, &register("1001", 90, ""));
    let elsewhere = answer_of(&mut stage, "OPTIONS", "sip:192.0.2.1");
    stage.hear(AWAY, &from_phone(&call, "OPTIONS", 11, &format!("Authorization: {elsewhere}\n")));
    let answer = answer_of(&mut stage, "OPTIONS", "sip:192.0.2.1");
    let wrong = answer.replace("response=\"", "response=\"0");
    stage.hear(AWAY, &from_phone(&call, "OPTIONS", 12, &format!("Authorization: {wrong}\n")));
    assert_eq!(stage.said(), ["403"]);
    stage.hear(AWAY, &from_phone(&call, "OPTIONS", 13, &format!("Authorization: {answer}\n")));
    assert_eq!(ways(&mut stage), [("200".into(), AWAY.into())]);
    hang_up(&mut stage);
    assert_eq!(way_of(&mut stage, "BYE"), AWAY, "the way of the call has followed");
}

#[test]
fn no_digest_takes_anybody_into_a_trunks_call_or_another_phones() {
    let mut stage = Stage::with(two_nodes());
    let call = stage.incoming_call();
    stage.said();
    stage.hear(PHONE, &register("1001", 90, ""));
    let answer = answer_of(&mut stage, "BYE", "sip:192.0.2.1");
    stage.hear(PHONE, &call.request("BYE", 2, &format!("Authorization: {answer}\n")));
    assert_eq!(stage.said(), ["481"]);

    let (mut stage, call) = phone_talks();
    stage.hear(AWAY, &register("1002", 90, ""));
    let challenge = stage.response(401);
    let challenges: Vec<&[u8]> = challenge.headers.fields_of("WWW-Authenticate").collect();
    let subject = DigestRequest { method: b"BYE", uri: b"sip:192.0.2.1", body: b"" };
    let answer = Credentials::new("us", Some(REALM), "1002", "secret")
        .answer(&challenges, "us", subject, "c")
        .unwrap();
    stage.hear(AWAY, &from_phone(&call, "BYE", 2, &format!("Authorization: {answer}\n")));
    assert_eq!(stage.said(), ["403"]);
    assert_eq!(stage.agent.legs(), 1);
}

#[test]
fn a_phone_that_has_registered_from_a_new_address_is_heard_and_answers_from_there() {
    let (mut stage, call) = phone_talks();
    register_by(&mut stage, AWAY, "SIP/2.0/UDP 10.0.0.3:5062;rport", 2, CONTACT);
    stage.hear(AWAY, &from_phone(&call, "OPTIONS", 10, ""));
    assert_eq!(ways(&mut stage), [("200".into(), AWAY.into())]);
    hang_up(&mut stage);
    let (flow, SipMessage::Request(bye)) = stage.sent.pop().unwrap() else { panic!() };
    assert_eq!(flow.peer, address(AWAY));
    // The answer may still come from the old address, and the transaction ends.
    stage.hear(AWAY, &answer(&bye, 200, "", "", ""));
    assert_eq!(stage.agent.legs(), 0);
}

#[test]
fn what_asks_within_a_dialog_that_is_not_there_is_481_whatever_it_asks() {
    let mut stage = Stage::with(two_nodes());
    let call = stage.incoming_call();
    stage.said();
    for (number, method) in ["NOTIFY", "MESSAGE", "SUBSCRIBE", "PUBLISH"].into_iter().enumerate() {
        let asked = call.request(method, 10 + number as u32, "");
        stage.hear(CARRIER, &asked.replace("tag=theirs", "tag=other"));
        assert_eq!(stage.said(), ["481"], "{method}");
        stage.hear(CARRIER, &asked);
        assert_eq!(stage.said(), ["405"], "{method} in a dialog that is there");
        stage.hear(CARRIER, &asked.replace(&call.ours, "<sip:1001@coach.example>"));
        assert_eq!(stage.said(), ["405"], "{method} in none");
    }
    assert_eq!(stage.agent.legs(), 1);
}

// ---- RFC 3261 10.3: registrations

#[test]
fn a_phone_that_counts_from_the_beginning_again_registers_with_a_new_challenge_not_an_old_one() {
    let mut stage = Stage::with(two_nodes());
    let with_old = |stage: &mut Stage, cseq: u32, extra: &str| {
        let answer = answer_of(stage, "REGISTER", "sip:coach.example");
        let text = register(
            "1001",
            cseq,
            &format!("Contact: {CONTACT}\n{extra}Authorization: {answer}\n"),
        );
        (answer, text)
    };
    stage.hear(PHONE, &register("1001", 500, ""));
    let (_, overtaken) = with_old(&mut stage, 501, "");
    stage.hear(PHONE, &register("1001", 502, ""));
    let (_, second) = with_old(&mut stage, 503, "");
    stage.hear(PHONE, &second);
    assert_eq!(stage.said(), ["200"]);
    stage.hear(PHONE, &overtaken);
    assert_eq!(stage.said(), ["500"], "it was overtaken on its way");
    stage.hear(PHONE, &register("1001", 1, ""));
    let (_, after_restart) = with_old(&mut stage, 2, "Expires: 300\n");
    stage.hear(PHONE, &after_restart);
    let ok = stage.response(200);
    assert_eq!(text(&ok, "Contact"), format!("{CONTACT};expires=300"));
}

// ---- how much a trunk may ask for

#[test]
fn a_request_in_a_call_finds_room_where_a_new_call_does_not() {
    let mut config = two_nodes();
    config.limits.transactions = Bounds { total: 1, per_source: 1, ..Bounds::default() };
    let mut stage = Stage::with(config);
    let call = stage.incoming_call();
    stage.hear(CARRIER, &invite("c2", "b", 1, ""));
    stage.said();
    stage.hear(CARRIER, &invite("c3", "c", 1, ""));
    assert_eq!(stage.said(), ["503"]);
    for (cseq, method) in [(2, "OPTIONS"), (3, "INFO"), (4, "BYE")] {
        stage.hear(CARRIER, &call.request(method, cseq, ""));
        assert_eq!(stage.said(), ["200"], "{method}");
    }
    stage.hear(CARRIER, &cancel(1, "b").replace("Call-ID: c1", "Call-ID: c2"));
    assert_eq!(stage.said(), ["200", "487"]);
    assert_eq!(stage.agent.refused_of_trunks().collect::<Vec<_>>(), [("carrier", 1)]);
}

#[test]
fn a_trunk_with_a_rate_of_its_own_is_refused_above_it_and_counted() {
    let mut config = two_nodes();
    config.trunks[0].max_calls_per_second = Some(10);
    let mut stage = Stage::with(config);
    let call = |stage: &mut Stage, count: u32, name: &str| {
        for number in 0..count {
            stage.hear(
                CARRIER,
                &invite(&format!("{name}{number}"), &format!("{name}{number}"), 1, ""),
            );
        }
        let said = stage.said();
        said.iter().filter(|status| *status == "503").count()
    };
    assert_eq!(call(&mut stage, 12, "a"), 2);
    stage.pass(SECOND);
    stage.said();
    assert_eq!(call(&mut stage, 10, "b"), 0);
    assert_eq!(stage.agent.refused_of_trunks().collect::<Vec<_>>(), [("carrier", 2)]);
}

#[test]
fn three_hundred_calls_a_second_from_one_address_for_a_minute_are_all_served() {
    let mut stage = Stage::with(two_nodes());
    let mut most = (0, 0);
    for number in 0..300 * 60 {
        let id = format!("c{number}");
        stage.hear(CARRIER, &invite(&id, &id, 1, ""));
        let Some(LegEvent::Incoming { leg, .. }) = stage.events.pop() else {
            panic!("{number}: {:?}", stage.said())
        };
        stage.command(LegCommand::Accept { leg, media: SDP.into() });
        let call = Call {
            leg,
            ours: format!("<sip:1001@coach.example>;tag={}", tag(&stage, leg)),
            call_id: id,
            theirs: "<sip:+4930@carrier.example>;tag=theirs".to_owned(),
        };
        stage.hear(CARRIER, &call.request("ACK", 1, ""));
        stage.hear(CARRIER, &call.request("BYE", 2, ""));
        stage.events.clear();
        assert_eq!(stage.said(), ["100", "200", "200"], "{number}");
        stage.pass(SECOND / 300);
        most = most.max(stage.agent.ctx.transactions.remembered());
    }
    // INVITE and BYE of 32 seconds.
    assert!((19_000..=19_300).contains(&most.0), "{most:?}");
    assert!(most.1 < 20 << 20, "{most:?}");
    stage.pass(60 * SECOND);
    assert!(stage.is_quiet());
}

#[test]
fn what_is_remembered_of_ended_requests_is_bounded_by_memory_and_refuses_nobody() {
    let mut config = two_nodes();
    let bounds = Bounds {
        remembered: 64 << 10,
        remembered_per_source: 16 << 10,
        unacknowledged: 10,
        ..Bounds::default()
    };
    config.limits = SipLimits { transactions: bounds, ..SipLimits::default() };
    let mut stage = Stage::with(config);
    register_by(&mut stage, PHONE, "SIP/2.0/UDP 192.0.2.3:5062;rport", 1, CONTACT);
    let of_phone = talking(&mut stage, PHONE, CONTACT);
    for number in 0..200 {
        stage.hear(PHONE, &from_phone(&of_phone, "OPTIONS", 10 + number, ""));
        assert_eq!(stage.said(), ["200"]);
    }
    let (_, bytes) = stage.agent.ctx.transactions.remembered();
    assert!(bytes <= 16 << 10, "{bytes}");
    let call = stage.incoming_call();
    stage.said();
    for number in 0..500 {
        stage.hear(CARRIER, &call.request("OPTIONS", 10 + number, ""));
        assert_eq!(stage.said(), ["200"]);
    }
    // The last ones are still known.
    stage.hear(CARRIER, &call.request("OPTIONS", 509, ""));
    assert_eq!(stage.said(), ["200"]);
    let (_, bytes) = stage.agent.ctx.transactions.remembered();
    assert!((32 << 10..=64 << 10).contains(&bytes), "{bytes}");
    // Refusals that nobody acknowledges.
    for number in 0..50 {
        stage.hear(CARRIER, &call.request("INVITE", 600 + number, "Session-Expires: 1\n"));
    }
    stage.said();
    stage.pass(SECOND / 2);
    assert_eq!(stage.said().len(), 10, "the last ones are repeated");
    stage.pass(3600 * SECOND);
}

// ---- a naive model

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    SamePort,
    OtherPort,
    OtherNode,
    Stranger,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Probe {
    Options,
    Cancel,
    Again,
    Ack,
    Bye,
    Forged,
}

#[derive(Clone, Debug)]
struct Case {
    from: Origin,
    tcp: bool,
    sent_host: usize,
    sent_port: Option<u16>,
    rport: Option<Option<u16>>,
    received: bool,
    probe: Probe,
    of_phone: bool,
}

const HOSTS: [&str; 4] = ["192.0.2.2", "192.0.2.4", "10.1.2.3", "sbc.example"];

fn case() -> impl Strategy<Value = Case> {
    let from = prop::sample::select(vec![
        Origin::SamePort,
        Origin::OtherPort,
        Origin::OtherNode,
        Origin::Stranger,
    ]);
    let probe = prop::sample::select(vec![
        Probe::Options,
        Probe::Cancel,
        Probe::Again,
        Probe::Ack,
        Probe::Bye,
        Probe::Forged,
    ]);
    let port = prop::option::of(prop::sample::select(vec![0u16, 1, 5060, 5062, 6060, 65535]));
    let rport = prop::option::of(prop::option::of(any::<u16>()));
    let more = (prop::bool::ANY, prop::bool::ANY, prop::bool::ANY);
    (from, 0..HOSTS.len(), port, rport, probe, more).prop_map(
        |(from, sent_host, sent_port, rport, probe, (tcp, received, of_phone))| Case {
            from,
            tcp,
            sent_host,
            sent_port,
            rport,
            received,
            probe,
            of_phone,
        },
    )
}

/// The naive model: RFC 3261 18.2.2 and RFC 3581 4 by the letter, but for the private address in a
/// Via from a public source.
fn answered_at(case: &Case, source: &Flow) -> (SocketAddr, ConnectionId) {
    if case.tcp {
        return (source.peer, source.connection);
    }
    let port = match (case.rport, case.sent_port) {
        _ if HOSTS[case.sent_host].starts_with("10.") => source.peer.port(),
        (Some(_), _) | (None, Some(0)) => source.peer.port(),
        (None, Some(port)) => port,
        (None, None) => 5060,
    };
    (SocketAddr::new(source.peer.ip(), port), ConnectionId::NONE)
}

/// The naive model: one trunk, or one address, is one peer.
fn belongs(case: &Case) -> bool {
    match case.from {
        Origin::SamePort | Origin::OtherPort => true,
        Origin::OtherNode => !case.of_phone,
        Origin::Stranger => false,
    }
}

impl Case {
    fn source(&self) -> Flow {
        let (port, connection) = match (self.from, self.tcp) {
            (Origin::SamePort, false) => (5060, ConnectionId::NONE),
            (_, false) => (49152, ConnectionId::NONE),
            (Origin::SamePort, true) => (49000, ConnectionId(7)),
            (_, true) => (49001, ConnectionId(8)),
        };
        let host = match (self.from, self.of_phone) {
            (Origin::SamePort | Origin::OtherPort, false) => "192.0.2.2",
            (Origin::SamePort | Origin::OtherPort, true) => "192.0.2.3",
            (Origin::OtherNode, false) => "192.0.2.4",
            (Origin::OtherNode, true) => "192.0.2.5",
            (Origin::Stranger, _) => "192.0.2.66",
        };
        let flow = flow_from(&format!("{host}:{port}"));
        let protocol = if self.tcp { Protocol::Tcp } else { Protocol::Udp };
        Flow { protocol, connection, ..flow }
    }

    fn via(&self, branch: &str) -> String {
        let transport = if self.tcp { "TCP" } else { "UDP" };
        let port = self.sent_port.map(|port| format!(":{port}")).unwrap_or_default();
        let rport = match self.rport {
            None => String::new(),
            Some(None) => ";rport".to_owned(),
            Some(Some(port)) => format!(";rport={port}"),
        };
        let received = if self.received { ";received=203.0.113.9" } else { "" };
        let host = HOSTS[self.sent_host];
        format!("SIP/2.0/{transport} {host}{port};branch=z9hG4bK{branch}{rport}{received}")
    }
}

/// A world that many cases share: each has a call of its own, and leaves nothing behind.
struct Shared {
    stage: Stage,
    count: u64,
}

impl Shared {
    fn new() -> Shared {
        let mut stage = Stage::with(SipConfig {
            challenge_invites: false,
            limits: SipLimits {
                refusals_per_second: 1_000_000,
                max_expires: 1_000_000 * SECOND,
                ..SipLimits::default()
            },
            ..two_nodes()
        });
        let phone = |tcp: bool| Case {
            from: Origin::SamePort,
            tcp,
            sent_host: 0,
            sent_port: None,
            rport: None,
            received: false,
            probe: Probe::Options,
            of_phone: true,
        };
        // The phone has registered by both of its flows: its INVITE is taken without a challenge.
        for (cseq, tcp) in [(1, false), (2, true)] {
            let flow = phone(tcp).source();
            let way = match tcp {
                true => format!("7/{}", flow.peer),
                false => flow.peer.to_string(),
            };
            let contact = format!("<sip:1001@{}>", flow.peer);
            let request = |cseq: u32, extra: &str| {
                register("1001", cseq, &format!("Contact: {contact}\nExpires: 1000000\n{extra}"))
            };
            stage.hear(&way, &request(cseq * 10, ""));
            let answer = answer_of(&mut stage, "REGISTER", "sip:coach.example");
            stage.hear(&way, &request(cseq * 10 + 1, &format!("Authorization: {answer}\n")));
            assert_eq!(stage.said(), ["200"]);
        }
        stage.events.clear();
        Shared { stage, count: 0 }
    }

    fn hear(&mut self, source: Flow, text: &str) {
        let (head, body) = text.split_once("\n\n").unwrap();
        let bytes = format!("{}\r\n\r\n{body}", head.replace('\n', "\r\n"));
        self.stage.agent.handle_datagram(source, bytes.as_bytes(), self.stage.now);
        self.stage.drain();
    }

    fn run(&mut self, case: &Case) -> Result<(), TestCaseError> {
        self.count += 1;
        let id = format!("p{}", self.count);
        let number =
            if case.of_phone { "sip:1001@coach.example" } else { "sip:+4930@carrier.example" };
        let message = |method: &str, via: &str, to_tag: &str, cseq: u32| {
            let body = if method == "INVITE" { SDP } else { "" };
            format!(
                "{method} sip:1002@coach.example SIP/2.0\nVia: {via}\nMax-Forwards: 70\n\
                 From: <{number}>;tag=t\n\
                 To: <sip:1002@coach.example>{to_tag}\nCall-ID: {id}\nCSeq: {cseq} {method}\n\
                 Contact: <sip:x@192.0.2.2>\n\
                 Content-Type: application/sdp\nContent-Length: {}\n\n{body}",
                body.len()
            )
        };
        let first = Case { from: Origin::SamePort, ..case.clone() };
        let source = case.source();
        let via = case.via(&id);
        let invite = message("INVITE", &via, "", 1);
        let expected = |status: &str| (status.to_owned(), answered_at(case, &source));
        let mut leg = None;
        if case.probe != Probe::Options {
            self.hear(first.source(), &invite);
            let at = answered_at(&first, &first.source());
            prop_assert_eq!(self.ways(), [("100".to_owned(), at)]);
            leg = match self.stage.events.pop() {
                Some(LegEvent::Incoming { leg, .. }) => Some(leg),
                other => return Err(TestCaseError::fail(format!("{other:?}"))),
            };
            self.stage.events.clear();
        }
        let belongs = belongs(case);
        let stranger_invite = "401";
        match (case.probe, leg) {
            (Probe::Options, _) | (_, None) => {
                self.hear(source, &message("OPTIONS", &via, "", 1));
                prop_assert_eq!(self.ways(), [expected("200")]);
            }
            (Probe::Cancel, Some(_)) => {
                self.hear(source, &message("CANCEL", &via, "", 1));
                let final_at = answered_at(&first, &first.source());
                let all = match belongs {
                    true => vec![expected("200"), ("487".to_owned(), final_at)],
                    false => vec![expected("481")],
                };
                prop_assert_eq!(self.ways(), all);
            }
            (Probe::Again, Some(_)) => {
                self.hear(source, &invite);
                let status = if belongs { "100" } else { stranger_invite };
                prop_assert_eq!(self.ways(), [expected(status)]);
                prop_assert!(self.stage.events.is_empty());
            }
            (Probe::Ack, Some(leg)) => {
                self.stage.command(LegCommand::Reject { leg, status: 486 });
                self.stage.sent.clear();
                let waits = self.stage.agent.ctx.transactions.count().0;
                self.hear(source, &message("ACK", &via, ";tag=x", 1));
                let left = self.stage.agent.ctx.transactions.count().0;
                prop_assert_eq!(waits - left, usize::from(belongs));
                prop_assert!(self.ways().is_empty());
                self.hear(first.source(), &message("ACK", &via, ";tag=x", 1));
            }
            (Probe::Bye | Probe::Forged, Some(leg)) => {
                self.stage.command(LegCommand::Accept { leg, media: SDP.into() });
                self.stage.sent.clear();
                let ours = match case.probe {
                    Probe::Forged => "guessed".to_owned(),
                    _ => tag(&self.stage, leg),
                };
                let bye = message("BYE", &case.via(&format!("{id}b")), &format!(";tag={ours}"), 2);
                self.hear(source, &bye);
                let taken = belongs && case.probe == Probe::Bye;
                prop_assert_eq!(self.ways(), [expected(if taken { "200" } else { "481" })]);
                prop_assert_eq!(self.stage.events.len(), usize::from(taken));
            }
        }
        // Out of the way for the next one.
        if let Some(leg) = leg {
            self.stage.command(LegCommand::Reject { leg, status: 480 });
            self.stage.agent.legs.remove(leg);
        }
        self.stage.events.clear();
        self.stage.sent.clear();
        if self.count.is_multiple_of(64) {
            self.stage.pass(40 * SECOND);
            self.stage.sent.clear();
        }
        Ok(())
    }

    fn ways(&mut self) -> Vec<(String, (SocketAddr, ConnectionId))> {
        let sent = std::mem::take(&mut self.stage.sent);
        sent.iter().map(|(flow, message)| (short(message), (flow.peer, flow.connection))).collect()
    }
}

/// A quarter of the hundred thousand; four threads take a quarter each.
fn hold_against_the_model(quarter: u8) {
    let mut world = Shared::new();
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &[quarter; 32]);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), random);
    let cases = case();
    for number in 0..25_000 {
        let case = cases.new_tree(&mut runner).unwrap().current();
        if let Err(error) = world.run(&case) {
            panic!("{number}: {case:?}: {error}");
        }
    }
}

#[test]
fn a_naive_model_says_where_each_request_is_answered_and_whether_it_belongs() {
    hold_against_the_model(0);
}

#[test]
fn a_naive_model_says_where_each_request_is_answered_and_whether_it_belongs_2() {
    hold_against_the_model(1);
}

#[test]
fn a_naive_model_says_where_each_request_is_answered_and_whether_it_belongs_3() {
    hold_against_the_model(2);
}

#[test]
fn a_naive_model_says_where_each_request_is_answered_and_whether_it_belongs_4() {
    hold_against_the_model(3);
}
