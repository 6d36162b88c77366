//! What happens at any switch.

use super::site::{AGENT, COLLEAGUE, CUSTOMER, FRIEND, MUSIC_HZ, Person, SUPERVISOR, Site};
use crate::support::talk::{PATIENCE, Speaker, hear};
use crate::support::wait;
use serde_json::json;
use std::time::{Duration, Instant};
use undertone::attach::SwitchKind;
use undertone::clock;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneEvent};

/// Customer and agent.
const TALK: [&str; 4] = ["agent", "customer", "", ""];
/// The supervisor hears both, and only the agent hears the supervisor.
const COACH: [&str; 4] = ["agent", "customer supervisor", "", "customer agent"];
/// All hear all.
const BARGE_IN: [&str; 4] = ["agent supervisor", "customer supervisor", "", "customer agent"];
/// The agent has gone, and the supervisor with the agent.
const COLLEAGUE_ALONE: [&str; 4] = ["colleague", "", "customer", ""];
/// The agent has gone, and the supervisor coaches the colleague.
const COLLEAGUE_COACHED: [&str; 4] = ["colleague", "", "customer supervisor", "customer colleague"];
/// Nobody hears anybody.
const SILENCE: [&str; 4] = ["", "", "", ""];
const SCOPES: [&str; 2] = ["Agent", "Call"];
/// A single packet of a supervisor is louder than this in its 100 ms, and the click of a tone that
/// begins is softer.
const SILENT: f32 = -40.0;

/// The customer talks to the agent, whom the supervisor coaches.
async fn coached(kind: SwitchKind, scope: &str) -> Site {
    let site = Site::open(kind).await;
    site.call().await;
    site.monitor("Coach", json!({"supervisorMonitoringScope": scope})).await;
    site.hear(COACH).await;
    site
}

/// Nobody of these has heard the supervisor at any time since then.
fn no_whisper(listeners: &[&Phone], since: Instant) {
    for phone in listeners {
        let peak = phone.peak_between(f32::from(SUPERVISOR.hz), since, clock::instant());
        assert!(peak < SILENT, "{} has heard the supervisor at {peak} dBFS", phone.number());
    }
}

/// They are left alone for so long.
async fn a_while() {
    wait::elapse(Duration::from_millis(700)).await;
}

pub async fn coach_and_barge_in(kind: SwitchKind) {
    let site = Site::open(kind).await;
    let since = clock::instant();
    site.call().await;
    site.hear(TALK).await;
    site.monitor("Coach", json!({})).await;
    site.hear(COACH).await;
    no_whisper(&[&site.customer], since);
    site.monitor("BargeIn", json!({})).await;
    site.hear(BARGE_IN).await;
    let log = site.log();
    let warned: Vec<&str> = log.lines().filter(|line| line.contains(" WARN ")).collect();
    assert_eq!(warned, [""; 0], "what was pasted is all that is wanted");
    site.agent.hang_up().await.unwrap();
    site.customer.ended(PATIENCE).await.unwrap();
    site.supervisor.ended(PATIENCE).await.unwrap();
    site.until("agent", &[]).await;
}

/// `held`: who hears whom of the four then. A phone may send music of its own.
pub async fn hold_by_the_phone(kind: SwitchKind, held: [&str; 4], has_music: bool) {
    let site = coached(kind, "Agent").await;
    let since = clock::instant();
    site.agent.hold().await.unwrap();
    site.hear(held).await;
    if has_music {
        let music = || site.customer.hears(f32::from(MUSIC_HZ), Duration::from_millis(200)) > -30.0;
        wait::holds("the switch plays its music", PATIENCE, music).await;
    }
    site.agent.retrieve().await.unwrap();
    site.hear(COACH).await;
    no_whisper(&[&site.customer], since);
}

pub async fn hold_by_rest(kind: SwitchKind, has_music: bool) {
    let site = coached(kind, "Agent").await;
    let since = clock::instant();
    let calls = site.until("agent", &["Established"]).await;
    site.does("agent", &calls[0], json!({"operationName": "Hold"})).await;
    site.until("agent", &["Held"]).await;
    let heard = |phone: &Phone, hz: u16| phone.hears(f32::from(hz), Duration::from_millis(200));
    wait::holds("the customer hears nobody", PATIENCE, || {
        heard(&site.customer, AGENT.hz) < -40.0 && heard(&site.customer, SUPERVISOR.hz) < -40.0
    })
    .await;
    if has_music {
        let music = || heard(&site.customer, MUSIC_HZ) > -30.0;
        wait::holds("the switch plays its music", PATIENCE, music).await;
    }
    let held = clock::instant();
    a_while().await;
    let ours = site.network.us().ip();
    let packets = site.customer.received_between(held, clock::instant());
    let ours = packets.iter().filter(|packet| packet.peer.ip() == ours).count();
    assert_eq!(ours, 0, "silence of ours beside the music");
    site.does("agent", &calls[0], json!({"operationName": "Retrieve"})).await;
    site.hear(COACH).await;
    no_whisper(&[&site.customer], since);
}

/// `outcome`: what the phone is told at the end.
pub async fn blind_transfer_by_the_phone(kind: SwitchKind, outcome: u16) {
    for scope in SCOPES {
        let site = coached(kind, scope).await;
        let since = clock::instant();
        site.agent.refer(COLLEAGUE.number).await.unwrap();
        site.colleague.established(PATIENCE).await.unwrap();
        let told = |event: &PhoneEvent| matches!(event, PhoneEvent::Transfer(200..));
        let told = site.agent.until(told, PATIENCE).await.unwrap();
        assert_eq!(told.event, PhoneEvent::Transfer(outcome));
        let goes_along = scope == "Call";
        site.hear(if goes_along { COLLEAGUE_COACHED } else { COLLEAGUE_ALONE }).await;
        no_whisper(&[&site.customer], since);
        if !goes_along {
            no_whisper(&[&site.colleague], since);
        }
        site.until("agent", &[]).await;
        site.until("colleague", &["Established"]).await;
    }
}

/// The agent's phone puts the customer on hold and talks to another party on a second line, which
/// comes back.
async fn consults(site: &Site, other: Person, phone: &Phone) -> Phone {
    site.agent.hold().await.unwrap();
    let second = site.second_line().await;
    second.call(other.number).await.unwrap();
    second.established(PATIENCE).await.unwrap();
    hear_two((other.name, phone, other.hz), ("second", &second, AGENT.hz)).await;
    second
}

/// The agent's phone transfers the customer to the party of its second line.
async fn joins(site: &Site, other: Person, second: &Phone) {
    site.agent.refer_to_line(other.number, second).await.unwrap();
    site.agent.until(|event| *event == PhoneEvent::Transfer(200), PATIENCE).await.unwrap();
    // As a phone does when it is told so; the other end may have done it already.
    for line in [&site.agent, second] {
        let _ = line.hang_up().await;
        line.ended(PATIENCE).await.unwrap();
    }
}

pub async fn attended_transfer_by_the_phone(kind: SwitchKind) {
    for scope in SCOPES {
        let site = coached(kind, scope).await;
        let since = clock::instant();
        let second = consults(&site, COLLEAGUE, &site.colleague).await;
        no_whisper(&[&site.customer, &site.colleague], since);
        joins(&site, COLLEAGUE, &second).await;
        let goes_along = scope == "Call";
        site.hear(if goes_along { COLLEAGUE_COACHED } else { COLLEAGUE_ALONE }).await;
        a_while().await;
        no_whisper(&[&site.customer], since);
        if !goes_along {
            no_whisper(&[&site.colleague], since);
        }
        site.until("agent", &[]).await;
        for call in site.calls("colleague").await {
            let others = call["participants"].as_array().unwrap();
            let numbers: Vec<_> = others.iter().map(|other| &other["phoneNumber"]).collect();
            assert_eq!(numbers, [CUSTOMER.number], "{call:#?}");
        }
    }
}

/// The agent joins the customer with somebody else outside: nobody is left who may be coached.
pub async fn attended_transfer_to_outside(kind: SwitchKind) {
    for scope in SCOPES {
        let site = coached(kind, scope).await;
        let since = clock::instant();
        let second = consults(&site, FRIEND, &site.friend).await;
        joins(&site, FRIEND, &second).await;
        hear_two(("friend", &site.friend, FRIEND.hz), ("customer", &site.customer, CUSTOMER.hz))
            .await;
        a_while().await;
        no_whisper(&[&site.customer], since);
        no_whisper(&[&site.friend], since);
        site.until("agent", &[]).await;
    }
}

/// The two hear each other.
async fn hear_two(one: (&'static str, &Phone, u16), other: (&'static str, &Phone, u16)) {
    let speakers: [Speaker<'_>; 2] =
        [(one.0, one.1, f32::from(one.2)), (other.0, other.1, f32::from(other.2))];
    hear(speakers, [other.0, one.0]).await;
}

pub async fn blind_transfer_by_rest(kind: SwitchKind) {
    for scope in SCOPES {
        let site = coached(kind, scope).await;
        let since = clock::instant();
        let calls = site.until("agent", &["Established"]).await;
        let destination = json!({"phoneNumber": COLLEAGUE.number});
        let transfer = json!({"operationName": "SingleStepTransfer", "destination": destination});
        site.does("agent", &calls[0], transfer).await;
        let goes_along = scope == "Call";
        site.hear(if goes_along { COLLEAGUE_COACHED } else { COLLEAGUE_ALONE }).await;
        no_whisper(&[&site.customer], since);
        site.until("agent", &[]).await;
    }
}

pub async fn attended_transfer_by_rest(kind: SwitchKind) {
    for scope in SCOPES {
        let site = coached(kind, scope).await;
        let since = clock::instant();
        // The phone has two lines; the next call comes to the second.
        let second = site.second_line().await;
        second.register().await.unwrap();
        let calls = site.until("agent", &["Established"]).await;
        let destination = json!({"phoneNumber": COLLEAGUE.number});
        let ask = json!({"operationName": "InitiateTransfer", "destination": destination});
        site.does("agent", &calls[0], ask).await;
        second.established(PATIENCE).await.unwrap();
        site.until("agent", &["Established", "Held"]).await;
        hear_two(("colleague", &site.colleague, COLLEAGUE.hz), ("second", &second, AGENT.hz)).await;
        site.does("agent", &calls[0], json!({"operationName": "CompleteTransfer"})).await;
        let goes_along = scope == "Call";
        site.hear(if goes_along { COLLEAGUE_COACHED } else { COLLEAGUE_ALONE }).await;
        no_whisper(&[&site.customer], since);
        site.until("agent", &[]).await;
    }
}

pub async fn outward_call(kind: SwitchKind) {
    let site = Site::open(kind).await;
    let since = clock::instant();
    site.customer.set_answer(AnswerPolicy::Auto(Duration::ZERO)).await.unwrap();
    site.monitor("Coach", json!({})).await;
    site.agent.call(CUSTOMER.number).await.unwrap();
    site.customer.established(PATIENCE).await.unwrap();
    site.hear(COACH).await;
    no_whisper(&[&site.customer], since);
    let calls = site.until("agent", &["Established"]).await;
    assert_eq!(calls[0]["callType"], "Outbound", "{calls:#?}");
    site.customer.hang_up().await.unwrap();
    site.agent.ended(PATIENCE).await.unwrap();
    site.supervisor.ended(PATIENCE).await.unwrap();
}

/// The agent rings up a colleague while the customer waits, and comes back.
pub async fn second_call(kind: SwitchKind) {
    let site = coached(kind, "Agent").await;
    let since = clock::instant();
    let second = consults(&site, COLLEAGUE, &site.colleague).await;
    a_while().await;
    no_whisper(&[&site.customer, &site.colleague], since);
    assert_eq!(site.calls("agent").await.len(), 2);
    second.hang_up().await.unwrap();
    site.colleague.ended(PATIENCE).await.unwrap();
    site.agent.retrieve().await.unwrap();
    site.hear(COACH).await;
    no_whisper(&[&site.customer], since);
}

/// Without us the phones go on; what was said through us is over.
pub async fn killed(kind: SwitchKind, within: Duration) {
    let mut site = coached(kind, "Agent").await;
    site.us.take().unwrap().kill().await;
    site.hear(SILENCE).await;
    site.misses_us().await;
    for phone in [&site.agent, &site.supervisor, &site.customer] {
        phone.hang_up().await.unwrap();
        phone.ended(PATIENCE).await.unwrap();
    }
    let since = clock::instant();
    site.call().await;
    let took = clock::instant() - since;
    assert!(took < within, "{took:?}");
    site.hear(TALK).await;
    // Asterisk transfers by itself then; of a proxy it is the customer's phone that would.
    if kind == SwitchKind::Asterisk {
        site.agent.refer(COLLEAGUE.number).await.unwrap();
        site.hear(COLLEAGUE_ALONE).await;
    }
}

/// Nobody answers, and the caller comes to where the owner has said.
pub async fn unanswered(kind: SwitchKind) {
    let site = Site::open(kind).await;
    site.agent.set_answer(AnswerPolicy::Never).await.unwrap();
    site.call().await;
    let music = || site.customer.hears(f32::from(MUSIC_HZ), Duration::from_millis(200)) > -30.0;
    wait::holds("the caller comes to the voicemail", PATIENCE, music).await;
    site.until("agent", &[]).await;
}

/// The carrier brings callers that show the agent's number, or assert it, while the agent is to be
/// coached. `asserted`: what is known of a caller that is anonymous, and whom the carrier names.
pub async fn impostor(kind: SwitchKind, asserted: &str) {
    let site = Site::open(kind).await;
    site.monitor("Coach", json!({})).await;
    for (shown, asserts, known) in [
        (AGENT.number, None, "anonymous"),
        (AGENT.number, Some(AGENT.number), "anonymous"),
        ("anonymous", Some(AGENT.number), "anonymous"),
        ("anonymous", Some("0309999"), asserted),
    ] {
        let since = clock::instant();
        let stranger = site.stranger(shown, asserts).await;
        stranger.call(COLLEAGUE.number).await.unwrap();
        stranger.established(PATIENCE).await.unwrap();
        hear_two(("colleague", &site.colleague, COLLEAGUE.hz), ("stranger", &stranger, FRIEND.hz))
            .await;
        let calls = site.until("colleague", &["Established"]).await;
        let told = [&calls[0]["callType"], &calls[0]["ani"]];
        assert_eq!(told, ["Inbound", known], "{shown} {asserts:?}: {calls:#?}");
        a_while().await;
        no_whisper(&[&stranger, &site.colleague], since);
        assert_eq!(site.calls("agent").await.len(), 0, "the agent has no call");
        assert!(!called(&site.supervisor), "nobody is coached");
        stranger.hang_up().await.unwrap();
        site.colleague.ended(PATIENCE).await.unwrap();
        site.until("colleague", &[]).await;
    }
    // The agent's own call is another matter.
    site.agent.call(COLLEAGUE.number).await.unwrap();
    site.agent.established(PATIENCE).await.unwrap();
    site.hear(["", "colleague supervisor", "agent", "agent colleague"]).await;
}

/// The phone has got an INVITE.
fn called(phone: &Phone) -> bool {
    phone.trace().iter().any(|message| !message.sent && message.line.starts_with("INVITE "))
}

/// The supervisor's phone is not registered with the switch: that is said at once.
pub async fn unregistered_supervisor(kind: SwitchKind) {
    let site = Site::open(kind).await;
    site.supervisor.unregister().await.unwrap();
    site.call().await;
    site.hear(TALK).await;
    let since = clock::instant();
    site.monitor("Coach", json!({})).await;
    let refused = || site.log().contains("refused by the peer");
    wait::holds("the refusal is in the log", PATIENCE, refused).await;
    let took = clock::instant() - since;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let log = site.log();
    let line = log.lines().find(|line| line.contains("refused by the peer")).unwrap();
    assert!(line.contains("hint") && !line.contains("408"), "{line}");
    site.hear(TALK).await;
}
