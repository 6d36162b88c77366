//! G.729 over real sockets: relayed as it is, joined by nobody.

use crate::support::desktop::Desktop;
use crate::support::server::{AGENT, Account, COLLEAGUE, CUSTOMER, SUPERVISOR, Server};
use crate::support::sip_fixture::{self, BOSS, OTHER, SOON, SipFixture, config, eventually};
use crate::support::talk::PATIENCE;
use serde_json::json;
use std::time::Duration;
use undertone::clock;
use undertone::demo::phone::audio::Companding;
use undertone::demo::phone::{AnswerPolicy, Packet, Phone, PhoneConfig, PhoneEvent, PhoneSrtp};
use undertone::model::{Activity, Fact, LegState, Reason};

const G729: u8 = 18;
const NOBODY_JOINS: &str = "The sound of the call is in G.729, which is relayed without being \
                            decoded: nobody else can join it.";
const AT_ONCE: AnswerPolicy = AnswerPolicy::Auto(Duration::ZERO);

async fn started(config: PhoneConfig, laws: &[Companding], answer: AnswerPolicy) -> Phone {
    let phone = Phone::start(PhoneConfig { laws: laws.to_vec(), ..config }.answering(answer));
    let phone = phone.await.unwrap();
    phone.register().await.unwrap();
    phone
}

async fn phone(server: &Server, who: Account, laws: &[Companding], answer: AnswerPolicy) -> Phone {
    let config = PhoneConfig::new(who.number, who.password, server.sip, 437.0);
    started(config, laws, answer).await
}

/// What comes at `listener` from now on is what `speaker` sends, packet by packet and in its order,
/// and the numbers of the stream go on without a hole.
async fn gets_the_bytes_of(listener: &Phone, speaker: &Phone) {
    let since = clock::instant();
    eventually("they talk", || listener.received(since).len() > 25).await;
    same(&speaker.sent(since - Duration::from_secs(2)), &listener.received(since));
}

fn same(sent: &[Packet], received: &[Packet]) {
    let first = sent.iter().position(|packet| packet.payload == received[0].payload);
    let sent = &sent[first.expect("it was sent")..];
    for (n, (sent, received)) in sent.iter().zip(received).enumerate() {
        assert_eq!((received.payload_type, received.payload.len()), (G729, 20));
        assert_eq!(sent.payload, received.payload, "packet {n}");
    }
    for pair in received.windows(2) {
        assert_eq!(pair[1].ssrc, pair[0].ssrc);
        assert_eq!(pair[1].seq, pair[0].seq.wrapping_add(1));
        assert_eq!(pair[1].timestamp.wrapping_sub(pair[0].timestamp), 160);
    }
}

/// The customer, with G.729 alone, talks to an agent who has it too.
async fn talk(server: &Server, agent: &[Companding]) -> [Phone; 2] {
    let agent = phone(server, AGENT, agent, AT_ONCE).await;
    let customer = phone(server, CUSTOMER, &[Companding::Opaque], AnswerPolicy::Never).await;
    customer.call(AGENT.number).await.unwrap();
    customer.established(PATIENCE).await.unwrap();
    [customer, agent]
}

/// Each gets what the other sends.
async fn talking(customer: &Phone, agent: &Phone) {
    gets_the_bytes_of(customer, agent).await;
    gets_the_bytes_of(agent, customer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g729_is_relayed_byte_for_byte_and_a_hold_sends_silence_that_is_nothing() {
    let server = Server::start().await;
    let [customer, agent] = talk(&server, &[Companding::Mu, Companding::Opaque]).await;
    talking(&customer, &agent).await;
    agent.dtmf("7");
    eventually("the digit passes", || {
        customer
            .received(clock::instant() - PATIENCE)
            .iter()
            .any(|packet| packet.payload_type == 101 && packet.payload.first() == Some(&7))
    })
    .await;
    let calls = server.client(AGENT).look("/me/calls?fields=*").await;
    let path = format!("/me/calls/{}", calls["calls"][0]["id"].as_str().unwrap());
    server.post(AGENT, &path, json!({"operationName": "Hold"})).await;
    let held = clock::instant();
    eventually("a while", || held.elapsed() > Duration::from_millis(600)).await;
    let after = held + Duration::from_millis(100);
    for phone in [&customer, &agent] {
        assert!(phone.received(after).is_empty(), "{:?}", phone.received(after).len());
    }
    server.post(AGENT, &path, json!({"operationName": "Retrieve"})).await;
    talking(&customer, &agent).await;
    customer.hang_up().await.unwrap();
    agent.ended(PATIENCE).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_to_coach_a_call_in_g729_is_told_why_not_and_the_next_call_is_coached() {
    let server = Server::start().await;
    let mut desktop = Desktop::open(server.rest, SUPERVISOR).await;
    let supervisor = phone(&server, SUPERVISOR, &[Companding::Mu], AnswerPolicy::ByHeader).await;
    let [customer, agent] = talk(&server, &[Companding::Mu, Companding::Opaque]).await;
    let since = clock::instant();
    server.coach(json!({"monitoringMode": "AllCalls"})).await;
    let told = json!({
        "messageType": "ErrorMessage", "errorCode": 2, "errorMessage": NOBODY_JOINS,
    });
    desktop.until(&told).await;
    talking(&customer, &agent).await;
    assert!(!is_called(&supervisor));
    same(&agent.sent(since - Duration::from_secs(2)), &customer.received(since));
    assert!(!reoffered(&customer) && !reoffered(&agent));
    customer.hang_up().await.unwrap();
    agent.ended(PATIENCE).await.unwrap();

    let next = phone(&server, COLLEAGUE, &[Companding::Mu], AnswerPolicy::Never).await;
    next.call(AGENT.number).await.unwrap();
    next.established(PATIENCE).await.unwrap();
    supervisor.established(PATIENCE).await.unwrap();
}

fn is_called(phone: &Phone) -> bool {
    phone.events().iter().any(|it| matches!(it.event, PhoneEvent::Incoming { .. }))
}

fn reoffered(phone: &Phone) -> bool {
    phone.events().iter().any(|it| matches!(it.event, PhoneEvent::Reoffered(_)))
}

#[tokio::test(flavor = "multi_thread")]
async fn with_srtp_on_one_side_the_frames_inside_are_the_same() {
    let server = Server::with_srtp(&[AGENT], "required").await;
    let config = PhoneConfig::new(AGENT.number, AGENT.password, server.sip, 613.0);
    let config = config.encrypting(PhoneSrtp::default());
    let agent = started(config, &[Companding::Opaque], AT_ONCE).await;
    let customer = phone(&server, CUSTOMER, &[Companding::Opaque], AnswerPolicy::Never).await;
    customer.call(AGENT.number).await.unwrap();
    customer.established(PATIENCE).await.unwrap();
    talking(&customer, &agent).await;
    let counts = agent.srtp().unwrap();
    assert!(counts.encrypted > 0 && counts.rejected == 0, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_contract_the_reason_is_told_and_a_transfer_goes_where_g729_is() {
    let mut fixture = SipFixture::open(config()).await;
    let opaque = [Companding::Opaque];
    let agent = started(fixture.phone_config(sip_fixture::AGENT), &opaque, AT_ONCE).await;
    let customer =
        started(fixture.phone_config(sip_fixture::CUSTOMER), &opaque, AnswerPolicy::Never).await;
    let boss = fixture.phone(BOSS, AnswerPolicy::ByHeader).await;
    customer.call("5001").await.unwrap();
    customer.established(SOON).await.unwrap();
    fixture.state(sip_fixture::AGENT, LegState::Established).await;
    for activity in [Activity::ListenIn, Activity::Coach, Activity::BargeIn] {
        fixture.coach(activity).await;
        let failure = fixture.until(|fact| match fact {
            Fact::Failed(failure) => Some(failure.clone()),
            _ => None,
        });
        let failure = failure.await;
        assert_eq!(failure.refusal.reason, Reason::InvalidState);
        assert_eq!(failure.refusal.to_string(), NOBODY_JOINS);
    }
    assert!(!is_called(&boss));
    talking(&customer, &agent).await;

    // A colleague without it: the call is as it was.
    let other = fixture.phone(OTHER, AT_ONCE).await;
    agent.refer("5002").await.unwrap();
    let told = |event: &PhoneEvent| matches!(event, PhoneEvent::Transfer(488));
    agent.until(told, SOON).await.expect("told");
    talking(&customer, &agent).await;
    other.unregister().await.unwrap();

    let other = started(fixture.phone_config(OTHER), &opaque, AT_ONCE).await;
    agent.refer("5002").await.unwrap();
    agent.ended(SOON).await.expect("transferred");
    talking(&customer, &other).await;
    assert_eq!(fixture.backend.media().leak_guards, 0);
}
