//! Phones that go and come back by another way.

use super::*;
use crate::sip::leg::EndReason;

const LEG: LegId = LegId(1);
const SECOND: Duration = Duration::from_secs(1);
const FIRST_WAY: &str = "1/192.0.2.3:40001";
const SECOND_WAY: &str = "2/192.0.2.3:40002";

/// A phone that registered over FIRST_WAY talks with us.
fn talking() -> Stage {
    let mut stage = Stage::new();
    come(&mut stage, FIRST_WAY, 1);
    stage.command(call_phone(LEG));
    let invite = stage.request("INVITE");
    let extra = "Contact: <sip:1001@192.0.2.3;transport=tcp>\nAllow: INVITE, BYE, ACK, CANCEL\n\
                 Content-Type: application/sdp\n";
    stage.hear(FIRST_WAY, &answer(&invite, 200, ";tag=theirs", extra, SDP));
    assert!(matches!(stage.events().as_slice(), [LegEvent::Answered { .. }]));
    stage.sent.clear();
    stage
}

fn come(stage: &mut Stage, way: &str, cseq: u32) {
    let contact =
        format!("Contact: <sip:1001@{};transport=tcp>\nExpires: 600\n", flow_from(way).peer);
    let first = register("1001", cseq * 10, &contact);
    stage.hear(way, &first);
    let challenge = stage.response(401);
    let mut client = Credentials::new("us", Some(REALM), "1001", "secret");
    let challenges: Vec<&[u8]> = challenge.headers.fields_of("WWW-Authenticate").collect();
    let subject = DigestRequest { method: b"REGISTER", uri: b"sip:coach.example", body: b"" };
    let answer = client.answer(&challenges, "us", subject, "cnonce").unwrap();
    let genuine = register("1001", cseq * 10 + 1, &format!("{contact}Authorization: {answer}\n"));
    stage.hear(way, &genuine);
    stage.events.retain(|event| !matches!(event, LegEvent::Registered { .. }));
}

fn break_off(stage: &mut Stage, way: &str) {
    stage.agent.handle_unreachable(&flow_from(way), stage.now);
    stage.drain();
    stage.events.retain(|event| !matches!(event, LegEvent::Registered { .. }));
}

/// Where the only message with this name went since.
fn way_of(stage: &mut Stage, name: &str) -> Flow {
    let sent = std::mem::take(&mut stage.sent);
    let mut ways = sent.iter().filter(|(_, message)| short(message) == name).map(|(flow, _)| *flow);
    let way = ways.next().unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(ways.next(), None, "{name} twice");
    way
}

fn hang_up(stage: &mut Stage) {
    stage.command(LegCommand::Hangup { leg: LEG, reason: None });
}

#[test]
fn a_phone_that_comes_back_by_another_connection_is_told_bye_there() {
    let mut stage = talking();
    break_off(&mut stage, FIRST_WAY);
    come(&mut stage, SECOND_WAY, 2);
    stage.sent.clear();
    hang_up(&mut stage);
    assert_eq!(way_of(&mut stage, "BYE"), flow_from(SECOND_WAY));
}

#[test]
fn a_phone_back_before_its_old_connection_is_known_to_be_dead_is_told_bye_by_the_new_one() {
    let mut stage = talking();
    come(&mut stage, SECOND_WAY, 2);
    stage.sent.clear();
    hang_up(&mut stage);
    assert_eq!(way_of(&mut stage, "BYE"), flow_from(SECOND_WAY));
}

#[test]
fn a_bye_that_finds_no_way_waits_for_the_phone_to_come_back() {
    let mut stage = talking();
    break_off(&mut stage, FIRST_WAY);
    hang_up(&mut stage);
    assert_eq!(stage.said(), Vec::<String>::new());
    stage.pass(20 * SECOND);
    come(&mut stage, SECOND_WAY, 2);
    assert_eq!(way_of(&mut stage, "BYE"), flow_from(SECOND_WAY));
}

#[test]
fn a_bye_whose_connection_breaks_is_said_again_by_the_next() {
    let mut stage = talking();
    hang_up(&mut stage);
    assert_eq!(way_of(&mut stage, "BYE"), flow_from(FIRST_WAY));
    break_off(&mut stage, FIRST_WAY);
    come(&mut stage, SECOND_WAY, 2);
    assert_eq!(way_of(&mut stage, "BYE"), flow_from(SECOND_WAY));
}

#[test]
fn a_healthy_call_outlives_a_refresh_that_went_a_dead_way() {
    let mut stage = talking();
    stage.pass(150 * SECOND);
    assert_eq!(way_of(&mut stage, "INVITE"), flow_from(FIRST_WAY));
    break_off(&mut stage, FIRST_WAY);
    stage.pass(10 * SECOND);
    come(&mut stage, SECOND_WAY, 2);
    stage.pass(3 * SECOND);
    assert_eq!(way_of(&mut stage, "INVITE"), flow_from(SECOND_WAY));
    assert_eq!(stage.events(), []);
}

#[test]
fn an_offer_waits_for_the_phone_to_come_back() {
    let mut stage = talking();
    break_off(&mut stage, FIRST_WAY);
    stage.command(LegCommand::Offer { leg: LEG, media: SDP.into() });
    assert_eq!(stage.said(), Vec::<String>::new());
    come(&mut stage, SECOND_WAY, 2);
    assert_eq!(way_of(&mut stage, "INVITE"), flow_from(SECOND_WAY));
    assert_eq!(stage.events(), []);
}

#[test]
fn a_phone_that_does_not_come_back_is_given_up_and_nothing_is_left() {
    let mut stage = talking();
    break_off(&mut stage, FIRST_WAY);
    stage.pass(140 * SECOND);
    assert_eq!(stage.events(), [], "nothing had to be said yet");
    stage.pass(60 * SECOND);
    let ended = LegEvent::Ended { leg: LEG, reason: EndReason::Expired };
    assert_eq!(stage.events(), [ended]);
    stage.pass(60 * SECOND);
    assert!(stage.is_quiet(), "{:#?}", stage.agent);
}

#[test]
fn a_connection_is_needed_while_a_registration_or_a_call_goes_by_it() {
    let mut stage = talking();
    assert!(stage.agent.needs(&flow_from(FIRST_WAY)));
    assert!(!stage.agent.needs(&flow_from("9/192.0.2.66:40009")));
    assert!(stage.agent.needs(&flow_from("8/192.0.2.2:40008")), "the trunk's");
    stage.pass(601 * SECOND);
    assert!(!stage.agent.needs(&flow_from(FIRST_WAY)), "expired, and the call unanswered");
}

/// RFC 3261 18.2.1: a device behind an address translator shows in its Contact; a trunk may have
/// several addresses of its own.
#[test]
fn where_a_leg_is_is_told_before_its_descriptions_and_whether_its_address_is_translated() {
    let mut stage = Stage::new();
    let text = invite("c1", "INVITE", 1, "").replace("carrier@192.0.2.2", "carrier@10.0.0.2");
    stage.hear(CARRIER, &text);
    let host = |text: &str| text.parse::<IpAddr>().unwrap();
    assert!(matches!(stage.located[..], [(_, at, false)] if at == host("192.0.2.2")));

    let mut stage = Stage::new();
    stage.register_phone();
    stage.command(call_phone(LEG));
    let invite = stage.request("INVITE");
    stage.hear(PHONE, &answer(&invite, 180, ";tag=theirs", "", ""));
    assert!(matches!(stage.located[..], [(LEG, at, true)] if at == host("192.0.2.3")));
}
