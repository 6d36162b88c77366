//! OPTIONS to registered phones (RFC 3261 11): who is silent is not called.

use super::*;
use crate::sip::leg::LegSource;

const LEG: LegId = LegId(1);
const SECOND: Duration = Duration::from_secs(1);
const INTERVAL: Duration = Duration::from_secs(30);

fn stage() -> Stage {
    let mut stage = Stage::with(SipConfig { qualify: Some(INTERVAL), ..config() });
    stage.register_phone();
    stage
}

/// Lets time pass until the phone is asked; its OPTIONS.
fn asked(stage: &mut Stage) -> SipRequest {
    for _ in 0..100 {
        stage.pass(SECOND);
        let sent = stage.sent();
        let options = sent.into_iter().find_map(|message| match message {
            SipMessage::Request(request) if request.method.as_bytes() == b"OPTIONS" => {
                Some(request)
            }
            _ => None,
        });
        if let Some(options) = options {
            return options;
        }
    }
    panic!("nobody asks");
}

fn answers(stage: &mut Stage, options: &SipRequest, status: u16) {
    stage.hear(PHONE, &answer(options, status, ";tag=o", "", ""));
}

fn presence(stage: &mut Stage) -> Vec<bool> {
    let change = |event: &LegEvent| match event {
        LegEvent::Registered { registered, .. } => Some(*registered),
        _ => None,
    };
    stage.events().iter().filter_map(change).collect()
}

#[test]
fn a_phone_that_has_answered_and_is_silent_then_is_not_called_until_it_answers() {
    let mut stage = stage();
    let options = asked(&mut stage);
    assert_eq!(options.uri.as_bytes(), b"sip:1001@10.0.0.3:5062");
    answers(&mut stage, &options, 200);
    stage.pass(INTERVAL + 5 * SECOND);
    assert_eq!(presence(&mut stage), [true; 0], "asked again, and still patient");
    stage.pass(5 * SECOND);
    assert_eq!(presence(&mut stage), [false]);
    stage.command(call_phone(LEG));
    assert_eq!(stage.events(), [LegEvent::Failed { leg: LEG, status: 480 }], "at once");
    stage.sent.clear();
    let again = asked(&mut stage);
    answers(&mut stage, &again, 200);
    assert_eq!(presence(&mut stage), [true]);
    stage.command(call_phone(LEG));
    assert!(stage.said().contains(&"INVITE".to_owned()));
}

#[test]
fn any_response_is_a_sign_of_life() {
    for status in [200, 404, 405, 481, 486, 501] {
        let mut stage = stage();
        for _ in 0..3 {
            let options = asked(&mut stage);
            answers(&mut stage, &options, status);
        }
        assert_eq!(presence(&mut stage), [true; 0]);
    }
}

#[test]
fn a_phone_that_knows_no_options_is_never_taken_for_dead() {
    let mut stage = stage();
    stage.pass(10 * INTERVAL);
    assert_eq!(presence(&mut stage), [true; 0]);
    stage.sent.clear();
    stage.command(call_phone(LEG));
    assert!(stage.said().contains(&"INVITE".to_owned()));
}

#[test]
fn a_phone_that_registers_or_calls_is_there_again() {
    let mut stage = stage();
    let options = asked(&mut stage);
    answers(&mut stage, &options, 200);
    stage.pass(INTERVAL + 10 * SECOND);
    assert_eq!(presence(&mut stage), [false]);
    stage.register(PHONE, "1001", 2, "Contact: <sip:1001@10.0.0.3:5062>\nExpires: 600\n");
    assert_eq!(presence(&mut stage), [true]);

    let mut stage =
        Stage::with(SipConfig { qualify: Some(INTERVAL), challenge_invites: false, ..config() });
    stage.register_phone();
    let options = asked(&mut stage);
    answers(&mut stage, &options, 200);
    stage.pass(INTERVAL + 10 * SECOND);
    assert_eq!(presence(&mut stage), [false]);
    let invite = invite("c7", "c7", 1, "")
        .replace("+4930@carrier.example", "1001@coach.example")
        .replace("sip:1001@coach.example SIP", "sip:1002@coach.example SIP");
    stage.hear(PHONE, &invite.replace("192.0.2.2", "192.0.2.3:5062"));
    let events = stage.events();
    assert!(
        events
            .iter()
            .any(|event| matches!(event, LegEvent::Incoming { source: LegSource::Account(_), .. })),
        "{events:?}"
    );
    assert!(
        events.iter().any(|event| matches!(event, LegEvent::Registered { registered: true, .. })),
        "{events:?}"
    );
}

#[test]
fn a_call_that_finds_nobody_is_the_last_that_waits() {
    let mut stage = stage();
    let options = asked(&mut stage);
    answers(&mut stage, &options, 200);
    stage.command(call_phone(LEG));
    stage.pass(60 * SECOND);
    let events = stage.events();
    assert!(events.contains(&LegEvent::Failed { leg: LEG, status: 503 }), "{events:?}");
    assert!(
        events.contains(&LegEvent::Registered { device: device("phone-1"), registered: false }),
        "{events:?}"
    );
}

#[test]
fn who_is_not_to_be_asked_or_is_gone_is_asked_no_more() {
    let mut config = SipConfig { qualify: Some(INTERVAL), ..config() };
    first_account(&mut config).qualify = false;
    let mut stage = Stage::with(config);
    stage.register_phone();
    stage.pass(3 * INTERVAL);
    assert_eq!(stage.said(), [""; 0]);

    let mut stage = self::stage();
    asked(&mut stage);
    stage.register(PHONE, "1001", 2, "Contact: *\nExpires: 0\n");
    stage.sent.clear();
    stage.pass(3 * INTERVAL);
    assert_eq!(stage.said(), [""; 0]);
    assert!(stage.is_quiet());
}

#[test]
fn another_phone_of_the_device_is_called_in_place_of_a_silent_one() {
    let mut stage = stage();
    let options = asked(&mut stage);
    answers(&mut stage, &options, 200);
    stage.pass(SECOND);
    // The second phone is the newer one, and goes silent.
    let other = "192.0.2.4:5062";
    stage.register(other, "1001", 1, "Contact: <sip:1001@10.0.0.4:5062>\nExpires: 600\n");
    stage.sent.clear();
    let mut is_known = false;
    for _ in 0..200 {
        stage.pass(SECOND);
        for (flow, message) in std::mem::take(&mut stage.sent) {
            let SipMessage::Request(request) = message else {
                continue;
            };
            match flow.peer == address(PHONE) {
                true => answers(&mut stage, &request, 200),
                false if !is_known => {
                    is_known = true;
                    stage.hear(other, &answer(&request, 200, ";tag=o", "", ""));
                }
                false => {}
            }
        }
    }
    assert_eq!(presence(&mut stage), [true; 0], "one of them answers");
    stage.command(call_phone(LEG));
    let invited = stage.sent.iter().find_map(|(flow, message)| {
        matches!(short(message).as_str(), "INVITE").then_some(flow.peer)
    });
    assert_eq!(invited, Some(address(PHONE)));
}
