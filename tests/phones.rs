//! The software phones against each other, with nothing between them.

use crate::support::wait;
use std::time::Duration;
use undertone::demo::phone::audio::Companding;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig, PhoneEvent, SdpDirection};

const SOON: Duration = Duration::from_secs(10);
const CALLER_HZ: f32 = 437.0;
const CALLED_HZ: f32 = 613.0;

async fn pair(answer: AnswerPolicy) -> (Phone, Phone) {
    let nowhere = "127.0.0.1:9".parse().unwrap();
    let called = Phone::start(PhoneConfig::new("5001", "", nowhere, CALLED_HZ).answering(answer))
        .await
        .unwrap();
    let caller =
        Phone::start(PhoneConfig::new("7001", "", called.address(), CALLER_HZ)).await.unwrap();
    (caller, called)
}

async fn hears(phone: &Phone, hz: f32) {
    let window = Duration::from_millis(300);
    wait::holds("the tone is heard", SOON, || phone.hears(hz, window) >= -20.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phones_hear_each_other_and_not_themselves() {
    let (caller, called) = pair(AnswerPolicy::Auto(Duration::from_millis(50))).await;
    caller.call("5001").await.unwrap();
    caller.until(|event| *event == PhoneEvent::Ringing(180), SOON).await.unwrap();
    let since = caller.established(SOON).await.unwrap().at;
    hears(&caller, CALLED_HZ).await;
    hears(&called, CALLER_HZ).await;
    assert!(caller.hears(CALLER_HZ, SOON) < -50.0);
    assert!(called.hears(CALLED_HZ, SOON) < -50.0);
    let sent = caller.sent(since);
    for payload in called.payloads(since) {
        assert_eq!(
            sent.iter().filter(|packet| packet.payload == payload).count(),
            1,
            "each payload is its own"
        );
    }
    called.hang_up().await.unwrap();
    let over = caller.ended(SOON).await.unwrap();
    assert!(matches!(over.event, PhoneEvent::Ended { here: false, .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_phone_stops_sending_until_it_is_retrieved() {
    let (caller, called) = pair(AnswerPolicy::OnRequest).await;
    caller.call("5001").await.unwrap();
    called
        .until(|event| matches!(event, PhoneEvent::Incoming { auto_answer: false, .. }), SOON)
        .await
        .unwrap();
    called.answer().await.unwrap();
    hears(&caller, CALLED_HZ).await;
    caller.hold().await.unwrap();
    called
        .until(|event| *event == PhoneEvent::Reoffered(SdpDirection::SendOnly), SOON)
        .await
        .unwrap();
    let (_, before) = caller.totals();
    hears(&called, CALLER_HZ).await;
    assert!(caller.totals().1 - before <= 2, "nothing more comes from the held phone");
    caller.retrieve().await.unwrap();
    hears(&caller, CALLED_HZ).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_ends_the_ringing() {
    let (caller, called) = pair(AnswerPolicy::Never).await;
    caller.call("5001").await.unwrap();
    caller.until(|event| *event == PhoneEvent::Ringing(180), SOON).await.unwrap();
    caller.hang_up().await.unwrap();
    caller.until(|event| *event == PhoneEvent::Refused(487), SOON).await.unwrap();
    called.ended(SOON).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn busy_and_rejecting_phones_refuse_with_their_status() {
    for (policy, status) in [(AnswerPolicy::Busy, 486), (AnswerPolicy::Reject, 603)] {
        let (caller, _called) = pair(policy).await;
        caller.call("5001").await.unwrap();
        caller.until(|event| *event == PhoneEvent::Refused(status), SOON).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_offers_late_speaks_pcma() {
    let (_, called) = pair(AnswerPolicy::Auto(Duration::ZERO)).await;
    let mut config = PhoneConfig::new("7002", "", called.address(), CALLER_HZ);
    config.late_offer = true;
    config.laws = vec![Companding::A];
    let caller = Phone::start(config).await.unwrap();
    caller.call("5001").await.unwrap();
    let since = caller.established(SOON).await.unwrap().at;
    hears(&called, CALLER_HZ).await;
    hears(&caller, CALLED_HZ).await;
    assert!(called.received(since).iter().all(|packet| packet.payload_type == 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_is_found_where_it_is_heard() {
    let (caller, called) = pair(AnswerPolicy::Auto(Duration::ZERO)).await;
    caller.call("5001").await.unwrap();
    let since = caller.established(SOON).await.unwrap().at;
    hears(&called, CALLER_HZ).await;
    let mark = undertone::demo::phone::Voice { hz: 2500.0, dbfs: -10.0 };
    caller.mark(mark, 5);
    let heard = wait::found(SOON, async || called.mark_heard_at(mark, since)).await.unwrap();
    let sent = caller.marked_at().unwrap();
    assert!(heard + Duration::from_millis(2) >= sent, "not before it was said");
    assert!(heard < sent + Duration::from_secs(1));
}
