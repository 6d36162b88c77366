//! The SIP backend with software phones on real sockets: who hears whom, what callers are told,
//! what survives.

use crate::support::sip_fixture::{
    AGENT, BOSS, OUTSIDE, SOON, SipFixture, config, eventually, from_now_on, hz, identical, level,
    mixed_in, outside, site, table, talk,
};
use crate::support::wait;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::net::UdpSocket;
use undertone::clock;
use undertone::demo::phone::audio::{Companding, Tone};
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig, PhoneEvent, SdpDirection};
use undertone::media::Codec;
use undertone::model::{
    Activity, CallId, Command, DeviceId, Fact, LegState, Mode, MonitorState, Reason, Refusal,
    Scope, TransferStep,
};
use undertone::sip::backend;
use undertone::sip::config::Trunk;
use undertone::sip::flow::Protocol;
use undertone::store::{self, Store};

#[tokio::test(flavor = "multi_thread")]
async fn a_coached_call_from_ringing_to_the_last_bye() {
    let mut fixture = SipFixture::open(config()).await;
    let boss = fixture.phone(BOSS, AnswerPolicy::ByHeader).await;
    let (customer, agent) = talk(&mut fixture, AnswerPolicy::Auto(Duration::ZERO)).await;
    let phones = [("customer", &customer), (AGENT, &agent), (BOSS, &boss)];
    table(&phones, &[("customer", "agent"), (AGENT, "customer")]).await;

    fixture.coach(Activity::Coach).await;
    boss.until(
        |event| {
            matches!(
                event,
                PhoneEvent::Incoming { auto_answer: true, from } if from.contains("Coach 5001")
            )
        },
        SOON,
    )
    .await
    .expect("invited");
    fixture.is_joined(BOSS).await;
    let coached_at = clock::instant();
    let coach = [("customer", "agent"), (AGENT, "customer boss"), (BOSS, "customer agent")];
    table(&phones, &coach).await;
    let call = fixture.state(AGENT, LegState::Established).await;
    let switch = |activity| Command::SwitchMonitoring {
        supervisor: BOSS.into(),
        call: call.clone(),
        activity,
    };
    identical(&customer, &[&agent], (coached_at, clock::instant()));
    let leaked =
        customer.peak_between(hz(BOSS), coached_at - Duration::from_secs(1), clock::instant());
    assert!(leaked < -50.0, "the customer has heard the whisper: {leaked} dBFS");

    fixture.command(switch(Activity::BargeIn)).await.expect("accepted");
    table(
        &phones,
        &[("customer", "agent boss"), (AGENT, "customer boss"), (BOSS, "customer agent")],
    )
    .await;
    fixture.command(switch(Activity::ListenIn)).await.expect("accepted");
    table(&phones, &[("customer", "agent"), (AGENT, "customer"), (BOSS, "customer agent")]).await;
    fixture.command(switch(Activity::Coach)).await.expect("accepted");
    table(&phones, &coach).await;

    fixture.command(Command::StopMonitoring { supervisor: BOSS.into() }).await.expect("accepted");
    boss.ended(SOON).await.expect("released");
    table(&phones[..2], &[("customer", "agent"), (AGENT, "customer")]).await;
    agent.hang_up().await.expect("hangs up");
    customer.ended(SOON).await.expect("over");
    assert_eq!(fixture.backend.media().leak_guards, 0);
    eventually("every port is closed", || fixture.backend.media().legs == 0).await;
    fixture.backend.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_armed_before_the_call_joins_when_the_agent_answers_and_goes_with_the_call() {
    let mut fixture = SipFixture::open(config()).await;
    let boss = fixture.phone(BOSS, AnswerPolicy::ByHeader).await;
    fixture.monitor(Activity::Coach, Mode::NextCall, Scope::Agent).await;
    let (customer, agent) =
        talk(&mut fixture, AnswerPolicy::Auto(Duration::from_millis(100))).await;
    fixture.is_joined(BOSS).await;
    let phones = [("customer", &customer), (AGENT, &agent), (BOSS, &boss)];
    table(&phones, &[("customer", "agent"), (AGENT, "customer boss"), (BOSS, "customer agent")])
        .await;
    customer.hang_up().await.expect("hangs up");
    agent.ended(SOON).await.expect("over");
    boss.ended(SOON).await.expect("over");
    fixture.until(|fact| matches!(fact, Fact::MonitorGone { .. }).then_some(())).await;
}

/// The agent is coached: the call, and since when.
async fn coached(
    fixture: &mut SipFixture,
    scope: Scope,
    phones: &[(&str, &Phone)],
) -> (CallId, Instant) {
    fixture.monitor(Activity::Coach, Mode::AllCalls, scope).await;
    fixture.is_joined(BOSS).await;
    let coached_at = clock::instant();
    let coach = [("customer", "agent"), (AGENT, "customer boss"), (BOSS, "customer agent")];
    table(phones, &coach).await;
    (fixture.state(AGENT, LegState::Established).await, coached_at)
}

/// Who hears whom when the other agent has the customer.
async fn handed_over(scope: Scope, phones: &[(&str, &Phone)]) {
    let after: &[(&str, &str)] = match scope {
        Scope::Agent => &[("customer", "other"), ("other", "customer")],
        Scope::Call => {
            &[("customer", "other"), ("other", "customer boss"), (BOSS, "customer other")]
        }
    };
    table(phones, after).await;
}

/// They go on talking: in these times and now the customer got what the agents sent and no whisper,
/// and the customer's phone was left alone.
async fn undisturbed(customer: &Phone, agents: &[&Phone], coached: (Instant, Instant)) {
    let reoffered = customer
        .events()
        .into_iter()
        .any(|happened| matches!(happened.event, PhoneEvent::Reoffered(_)));
    assert!(!reoffered, "the customer's phone was bothered");
    let talking_at = clock::instant();
    eventually("they talk", || customer.payloads(talking_at).len() > 20).await;
    // Between the two nobody is there, or more than one.
    for (since, until) in [coached, (talking_at, clock::instant())] {
        identical(customer, agents, (since, until));
        let leaked = customer.peak_between(hz(BOSS), since, until);
        assert!(leaked < -50.0, "the customer has heard the whisper: {leaked} dBFS");
    }
}

/// The customer hangs up, and nothing is left.
async fn over(fixture: &SipFixture, customer: &Phone, other: &Phone) {
    customer.hang_up().await.expect("hangs up");
    other.ended(SOON).await.expect("over");
    eventually("every port is closed", || fixture.backend.media().legs == 0).await;
    assert_eq!(fixture.backend.media().leak_guards, 0);
}

/// Coached with this scope; then the customer is transferred to the other agent, who rings a moment
/// and answers.
async fn transferred(scope: Scope, by_phone: bool) {
    let mut fixture = SipFixture::open(config()).await;
    let boss = fixture.phone(BOSS, AnswerPolicy::ByHeader).await;
    let other = fixture.phone("other", AnswerPolicy::OnRequest).await;
    let (customer, agent) = talk(&mut fixture, AnswerPolicy::Auto(Duration::ZERO)).await;
    let phones = [("customer", &customer), (AGENT, &agent), (BOSS, &boss), ("other", &other)];
    let (call, coached_at) = coached(&mut fixture, scope, &phones).await;
    let asked_at = clock::instant();
    if by_phone {
        agent.refer("5002").await.expect("accepted");
        agent.until(|event| *event == PhoneEvent::Transfer(200), SOON).await.expect("told");
    } else {
        let step =
            TransferStep::SingleStep { destination: "5002".into(), user_data: Default::default() };
        let device = AGENT.into();
        fixture.command(Command::Transfer { device, call, step }).await.expect("accepted");
    }
    agent.ended(SOON).await.expect("free");
    let left_at = clock::instant();
    match scope {
        Scope::Agent => {
            boss.ended(SOON).await.expect("released with him");
            table(&phones, &[]).await;
        }
        Scope::Call => table(&phones, &[(BOSS, "customer")]).await,
    }
    other.answer().await.expect("answers");
    handed_over(scope, &phones).await;
    if scope == Scope::Agent {
        let heard = boss.peak_between(hz("other"), left_at, clock::instant());
        assert!(heard < -50.0, "the supervisor has heard the next agent: {heard} dBFS");
    }
    undisturbed(&customer, &[&agent, &other], (coached_at, asked_at)).await;
    over(&fixture, &customer, &other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coach_with_scope_agent_is_out_with_the_agent_who_transfers() {
    transferred(Scope::Agent, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coach_with_scope_call_follows_the_customer_to_the_next_agent() {
    transferred(Scope::Call, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_transfers_by_refer_with_the_coach_on_the_call() {
    transferred(Scope::Call, true).await;
    transferred(Scope::Agent, true).await;
}

/// How the agent's consultation with the colleague is completed.
#[derive(Clone, Copy, PartialEq)]
enum Completes {
    Desktop,
    Phone,
    Conference,
}

/// Coached with this scope, the agent asks a colleague by the second line, and transfers the
/// customer there or brings all together.
async fn asked(scope: Scope, completes: Completes) {
    let mut fixture = SipFixture::open(config()).await;
    let boss = fixture.phone(BOSS, AnswerPolicy::ByHeader).await;
    let other = fixture.phone("other", AnswerPolicy::Auto(Duration::ZERO)).await;
    let (customer, agent) = talk(&mut fixture, AnswerPolicy::Auto(Duration::ZERO)).await;
    // The phone's second line, which speaks with the same voice: it registers last, and so is
    // called.
    let line = fixture.phone(AGENT, AnswerPolicy::ByHeader).await;
    let phones = [("customer", &customer), (AGENT, &agent), (BOSS, &boss), ("other", &other)];
    let (call, coached_at) = coached(&mut fixture, scope, &phones).await;

    let asked_at = clock::instant();
    let device = || DeviceId::from(AGENT);
    if completes == Completes::Phone {
        // What a phone sends while it holds is heard by who is held: this one sends silence.
        agent.speak(None);
        agent.hold().await.expect("held");
        line.call("5002").await.expect("calls");
    } else {
        let step =
            TransferStep::Initiate { destination: "5002".into(), user_data: Default::default() };
        let (device, call) = (device(), call.clone());
        fixture.command(Command::Transfer { device, call, step }).await.expect("accepted");
    }
    line.established(SOON).await.expect("answered");
    other.established(SOON).await.expect("asked");
    eventually("they talk", || {
        level(&line, hz("other")) > -30.0 && level(&other, hz(AGENT)) > -30.0
    })
    .await;
    eventually("the customer waits", || level(&customer, hz(AGENT)) < -50.0).await;
    assert!(level(&other, hz("customer")) < -50.0 && level(&boss, hz("other")) < -50.0);
    eventually("the supervisor stays with the customer", || level(&boss, hz("customer")) > -30.0)
        .await;

    let completed_at = clock::instant();
    match completes {
        Completes::Desktop => {
            let (device, step) = (device(), TransferStep::Complete);
            fixture.command(Command::Transfer { device, call, step }).await.expect("accepted");
        }
        Completes::Conference => {
            let (device, step) = (device(), TransferStep::Complete);
            fixture.command(Command::Conference { device, call, step }).await.expect("accepted");
        }
        Completes::Phone => {
            agent.refer_to_line("5002", &line).await.expect("accepted");
            agent.until(|event| *event == PhoneEvent::Transfer(200), SOON).await.expect("told");
        }
    }
    agent.ended(SOON).await.expect("free");
    if completes == Completes::Conference {
        eventually("all hear each other", || {
            let hear = |phone: &Phone, whom: [&str; 2]| {
                whom.iter().all(|name| level(phone, hz(name)) > -30.0)
            };
            hear(&customer, [AGENT, "other"])
                && hear(&line, ["customer", "other"])
                && hear(&other, [AGENT, "customer"])
        })
        .await;
        eventually("the whisper goes on", || level(&line, hz(BOSS)) > -30.0).await;
        for phone in [&customer, &other] {
            let leaked = mixed_in(phone, hz(BOSS)).await;
            assert!(leaked < -60.0, "the whisper was heard: {leaked} dBFS");
        }
        line.hang_up().await.expect("hangs up");
    } else {
        line.ended(SOON).await.expect("free");
    }
    if scope == Scope::Agent {
        boss.ended(SOON).await.expect("released with him");
    }
    handed_over(scope, &phones).await;
    if scope == Scope::Agent && completes != Completes::Conference {
        let heard = boss.peak_between(hz("other"), completed_at, clock::instant());
        assert!(heard < -50.0, "the supervisor has heard the next agent: {heard} dBFS");
    }
    undisturbed(&customer, &[&agent, &line, &other], (coached_at, asked_at)).await;
    over(&fixture, &customer, &other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attended_transfer_takes_the_coach_along_or_leaves_him_out() {
    asked(Scope::Call, Completes::Desktop).await;
    asked(Scope::Agent, Completes::Desktop).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_transfers_by_refer_with_replaces_and_the_coach_goes_along_or_is_out() {
    asked(Scope::Call, Completes::Phone).await;
    asked(Scope::Agent, Completes::Phone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_conference_the_coach_is_heard_by_his_agent_alone() {
    asked(Scope::Call, Completes::Conference).await;
    asked(Scope::Agent, Completes::Conference).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_are_told_404_480_486_488_and_503() {
    async fn refused(fixture: &SipFixture, phone: &Phone, number: &str, status: u16) {
        phone.call(number).await.expect("calls");
        phone
            .until(|event| *event == PhoneEvent::Refused(status), SOON)
            .await
            .unwrap_or_else(|error| panic!("{number} should be {status}: {error}"));
        eventually("no port is left", || fixture.backend.media().legs == 0).await;
    }
    let fixture = SipFixture::open(config()).await;
    let customer = fixture.phone("customer", AnswerPolicy::Never).await;
    let _busy = fixture.phone("other", AnswerPolicy::Busy).await;
    refused(&fixture, &customer, "9999", 404).await;
    refused(&fixture, &customer, "5001", 480).await;
    refused(&fixture, &customer, "5002", 486).await;

    let mut strict = config();
    strict.b2bua.codecs = vec![Codec::Pcma];
    let fixture = SipFixture::open(strict).await;
    let _agent = fixture.phone(AGENT, AnswerPolicy::Auto(Duration::ZERO)).await;
    let mut mu_law = fixture.phone_config("customer");
    mu_law.laws = vec![Companding::Mu];
    let customer = Phone::start(mu_law).await.expect("starts");
    customer.register().await.expect("registers");
    refused(&fixture, &customer, "5001", 488).await;

    let mut full = config();
    full.b2bua.max_calls = 0;
    let fixture = SipFixture::open(full).await;
    let _agent = fixture.phone(AGENT, AnswerPolicy::Auto(Duration::ZERO)).await;
    let customer = fixture.phone("customer", AnswerPolicy::Never).await;
    refused(&fixture, &customer, "5001", 503).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_ends_the_ringing() {
    let fixture = SipFixture::open(config()).await;
    let agent = fixture.phone(AGENT, AnswerPolicy::Never).await;
    let customer = fixture.phone("customer", AnswerPolicy::Never).await;
    customer.call("5001").await.expect("calls");
    customer.until(|event| *event == PhoneEvent::Ringing(180), SOON).await.expect("rings");
    customer.hang_up().await.expect("gives up");
    customer.until(|event| *event == PhoneEvent::Refused(487), SOON).await.expect("487");
    agent.ended(SOON).await.expect("rings no more");
    eventually("no port is left", || fixture.backend.media().legs == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_held_and_retrieved_at_the_phone_and_by_command() {
    let mut fixture = SipFixture::open(config()).await;
    let (customer, agent) = talk(&mut fixture, AnswerPolicy::Auto(Duration::ZERO)).await;
    let phones = [("customer", &customer), (AGENT, &agent)];
    let both = [("customer", "agent"), (AGENT, "customer")];
    table(&phones, &both).await;
    agent.hold().await.expect("held");
    let call = fixture.state(AGENT, LegState::Held).await;
    eventually("the agent hears nothing", || level(&agent, hz("customer")) < -50.0).await;
    agent.retrieve().await.expect("retrieved");
    fixture.state(AGENT, LegState::Established).await;
    table(&phones, &both).await;

    let (device, other) = (DeviceId::from(AGENT), call.clone());
    fixture.command(Command::Hold { device: device.clone(), call: other }).await.expect("held");
    table(&phones, &[]).await;
    fixture.command(Command::Retrieve { device, call }).await.expect("retrieved");
    table(&phones, &both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_dials_through_its_own_phone_and_answers_by_command() {
    let mut fixture = SipFixture::open(config()).await;
    let agent = fixture.phone(AGENT, AnswerPolicy::ByHeader).await;
    let other = fixture.phone("other", AnswerPolicy::ByHeader).await;
    fixture
        .command(Command::Dial {
            device: AGENT.into(),
            destination: "5002".into(),
            user_data: Default::default(),
        })
        .await
        .expect("accepted");
    agent.established(SOON).await.expect("brought in");
    let call = fixture.state("other", LegState::Ringing).await;
    fixture
        .command(Command::Answer { device: "other".into(), call: call.clone() })
        .await
        .expect("accepted");
    other.until(|event| *event == PhoneEvent::AskedToTalk, SOON).await.expect("asked");
    let phones = [(AGENT, &agent), ("other", &other)];
    table(&phones, &[(AGENT, "other"), ("other", AGENT)]).await;
    fixture.command(Command::Hangup { device: AGENT.into(), call }).await.expect("accepted");
    agent.ended(SOON).await.expect("over");
    other.ended(SOON).await.expect("over");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_who_is_busy_is_reported_and_the_call_goes_on() {
    let mut fixture = SipFixture::open(config()).await;
    let _boss = fixture.phone(BOSS, AnswerPolicy::Busy).await;
    let (customer, agent) = talk(&mut fixture, AnswerPolicy::Auto(Duration::ZERO)).await;
    fixture.coach(Activity::Coach).await;
    let failure = fixture
        .until(|fact| match fact {
            Fact::Failed(failure) => Some(failure.clone()),
            _ => None,
        })
        .await;
    assert_eq!(failure.device, BOSS.into());
    let phones = [("customer", &customer), (AGENT, &agent)];
    table(&phones, &[("customer", "agent"), (AGENT, "customer")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_brings_calls_in_and_takes_calls_out() {
    let called = Phone::start(outside()).await.expect("starts");
    let mut config = config();
    config.sip.trunks = vec![site(&called)];
    let fixture = SipFixture::open(config).await;
    let agent = fixture.phone(AGENT, AnswerPolicy::Auto(Duration::ZERO)).await;

    agent.call("0123").await.expect("calls");
    agent.established(SOON).await.expect("answered");
    eventually("the agent hears outside", || level(&agent, hz(OUTSIDE)) > -30.0).await;
    eventually("outside hears the agent", || level(&called, hz(AGENT)) > -30.0).await;
    agent.hang_up().await.expect("hangs up");
    called.ended(SOON).await.expect("over");

    let caller = PhoneConfig { server: fixture.address(), ..outside() };
    let caller = Phone::start(caller).await.expect("starts");
    caller.call("5001").await.expect("calls");
    caller.established(SOON).await.expect("answered");
    eventually("the agent hears outside", || level(&agent, hz(OUTSIDE)) > -30.0).await;
    caller.hang_up().await.expect("hangs up");
    caller.call("0999").await.expect("calls");
    caller
        .until(|event| *event == PhoneEvent::Refused(403), SOON)
        .await
        .expect("no way through us to another trunk");
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_may_be_at_a_port_that_is_ours_over_tcp_alone_and_not_at_one_that_is_ours_over_udp() {
    let caller = UdpSocket::bind("127.0.0.2:0").await.expect("a socket");
    let address = caller.local_addr().expect("bound");
    let mut config = config();
    config.sip.trunks = vec![Trunk::at("site", address, Protocol::Udp)];
    let fixture = SipFixture::open(config).await;
    let _busy = fixture.phone(AGENT, AnswerPolicy::Busy).await;
    for (protocol, expected) in [(Protocol::Tcp, "SIP/2.0 486 "), (Protocol::Udp, "SIP/2.0 488 ")] {
        let server = fixture.address();
        let port = fixture.backend.local_addr(protocol).expect("listens").port();
        let sound = format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
             m=audio {port} RTP/AVP 0\r\na=rtcp:{port}\r\n"
        );
        let invite = format!(
            "INVITE sip:5001@{server} SIP/2.0\r\nVia: SIP/2.0/UDP \
             {address};branch=z9hG4bK{protocol};rport\r\nMax-Forwards: 70\r\n\
             From: <sip:0711@{address}>;tag={protocol}\r\nTo: <sip:5001@{server}>\r\n\
             Call-ID: {protocol}\r\nCSeq: 1 INVITE\r\n\
             Contact: <sip:0711@{address}>\r\nContent-Type: application/sdp\r\n\
             Content-Length: {}\r\n\r\n{sound}",
            sound.len()
        );
        caller.send_to(invite.as_bytes(), server).await.expect("sent");
        let refused = async {
            let mut buffer = vec![0; 65_536];
            loop {
                let (length, _) = caller.recv_from(&mut buffer).await.expect("received");
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                if text.contains(&format!("z9hG4bK{protocol}")) && !text.starts_with("SIP/2.0 1") {
                    return text;
                }
            }
        };
        let refused = tokio::time::timeout(SOON, refused).await.expect("refused");
        assert!(refused.starts_with(expected), "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_behind_a_nat_whose_description_names_a_private_address_hears_and_is_heard() {
    let mut config = config();
    for account in config.sip.accounts.iter_mut() {
        account.nat = undertone::sip::config::Nat::Always;
    }
    let mut fixture = SipFixture::open(config).await;
    let hidden = |device: &str, fixture: &SipFixture| PhoneConfig {
        described_ip: Some(IpAddr::from([10, 0, 0, 1])),
        ..fixture.phone_config(device)
    };
    let agent = Phone::start(hidden(AGENT, &fixture)).await.expect("starts");
    agent.register().await.expect("registers");
    let customer = Phone::start(hidden("customer", &fixture)).await.expect("starts");
    customer.register().await.expect("registers");
    customer.call("5001").await.expect("calls");
    customer.established(SOON).await.expect("answered");
    fixture.state(AGENT, LegState::Established).await;
    let phones = [("customer", &customer), (AGENT, &agent)];
    table(&phones, &[("customer", AGENT), (AGENT, "customer")]).await;
    agent.hold().await.expect("answered");
    agent.retrieve().await.expect("answered");
    table(&phones, &[("customer", AGENT), (AGENT, "customer")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_offer_and_another_law_still_talk() {
    let fixture = SipFixture::open(config()).await;
    let agent = fixture.phone(AGENT, AnswerPolicy::Auto(Duration::ZERO)).await;
    let mut late = fixture.phone_config("customer");
    late.late_offer = true;
    late.laws = vec![Companding::A];
    let customer = Phone::start(late).await.expect("starts");
    customer.register().await.expect("registers");
    customer.call("5001").await.expect("calls");
    customer.established(SOON).await.expect("answered");
    let phones = [("customer", &customer), (AGENT, &agent)];
    table(&phones, &[("customer", "agent"), (AGENT, "customer")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_holds_are_signalled_the_customers_phone_is_told() {
    let mut signalling = config();
    signalling.b2bua.signal_hold = true;
    let mut fixture = SipFixture::open(signalling).await;
    let (customer, agent) = talk(&mut fixture, AnswerPolicy::Auto(Duration::ZERO)).await;
    agent.hold().await.expect("held");
    customer
        .until(|event| *event == PhoneEvent::Reoffered(SdpDirection::SendOnly), SOON)
        .await
        .expect("told");
    agent.retrieve().await.expect("retrieved");
    customer
        .until(|event| *event == PhoneEvent::Reoffered(SdpDirection::SendRecv), SOON)
        .await
        .expect("told");
    table(
        &[("customer", &customer), (AGENT, &agent)],
        &[("customer", "agent"), (AGENT, "customer")],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn monitors_do_not_disturb_and_forwarding_survive_a_restart() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state");
    let mut fixture = SipFixture::with(config(), store::open(&path).expect("opens")).await;
    fixture.coach(Activity::Coach).await;
    fixture
        .command(Command::SetForwarding { device: AGENT.into(), to: Some("5002".into()) })
        .await
        .expect("accepted");
    fixture
        .command(Command::SetDoNotDisturb { device: "other".into(), on: true })
        .await
        .expect("accepted");
    drop(fixture.line);
    fixture.backend.shutdown().await;

    let mut fixture = SipFixture::with(config(), store::open(&path).expect("opens")).await;
    let monitor = fixture
        .until(|fact| match fact {
            Fact::Monitor(monitor) => Some(monitor.clone()),
            _ => None,
        })
        .await;
    assert_eq!((monitor.activity, monitor.state), (Activity::Coach, MonitorState::Armed));
    let customer = fixture.phone("customer", AnswerPolicy::Never).await;
    let _other = fixture.phone("other", AnswerPolicy::Auto(Duration::ZERO)).await;
    customer.call("5001").await.expect("calls");
    customer
        .until(|event| *event == PhoneEvent::Refused(486), SOON)
        .await
        .expect("forwarded to who does not want to be disturbed");
}

/// A store whose disk can be full.
struct Full {
    inner: Store,
    full: AtomicBool,
}

impl store::KeyValueStore for Full {
    fn scan(
        &self,
        table: &str,
        from: &str,
        to: Option<&str>,
        visit: &mut dyn FnMut(&str, &[u8]),
    ) -> Result<(), store::StoreError> {
        self.inner.scan(table, from, to, visit)
    }

    fn write(&self, changes: &[store::Write]) -> Result<(), store::StoreError> {
        match self.full.load(Ordering::SeqCst) {
            true => Err(store::StoreError::Open {
                path: "here".into(),
                problem: "no space left".into(),
            }),
            false => self.inner.write(changes),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_can_not_be_stored_is_refused_and_has_changed_nothing() {
    let disk = Arc::new(Full { inner: store::in_memory(), full: AtomicBool::new(true) });
    let mut fixture = SipFixture::with(config(), disk.clone()).await;
    let refused =
        |done: Result<(), Refusal>| assert_eq!(done.expect_err("refused").reason, Reason::Internal);
    let arm = Command::StartMonitoring {
        supervisor: BOSS.into(),
        target: AGENT.into(),
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope: Scope::Call,
        confirm_joins: false,
        agent_side_only: false,
    };
    let disturb = |on| Command::SetDoNotDisturb { device: AGENT.into(), on };
    let stop = || Command::StopMonitoring { supervisor: BOSS.into() };
    refused(fixture.command(arm.clone()).await);
    refused(fixture.command(disturb(true)).await);
    assert!(fixture.command(stop()).await.is_err(), "nothing is armed");
    let (customer, _agent) = talk(&mut fixture, AnswerPolicy::Auto(Duration::ZERO)).await;
    customer.hang_up().await.expect("hangs up");

    disk.full.store(false, Ordering::SeqCst);
    fixture.command(arm).await.expect("stored");
    disk.full.store(true, Ordering::SeqCst);
    refused(fixture.command(disturb(true)).await);
    fixture.command(stop()).await.expect("what ends something waits for no disk");
    assert_eq!(
        fixture.command(stop()).await.expect_err("it has ended").reason,
        Reason::InvalidState
    );
    disk.full.store(false, Ordering::SeqCst);
    wait::found(SOON, async || {
        disk.inner.load("sip.monitors").expect("readable").is_empty().then_some(())
    })
    .await
    .expect("it is written by itself when it can be");
}

/// A store with a fault of its own.
struct Faulty(Store);

impl store::KeyValueStore for Faulty {
    fn scan(
        &self,
        table: &str,
        from: &str,
        to: Option<&str>,
        visit: &mut dyn FnMut(&str, &[u8]),
    ) -> Result<(), store::StoreError> {
        self.0.scan(table, from, to, visit)
    }

    fn write(&self, _: &[store::Write]) -> Result<(), store::StoreError> {
        panic!("a fault of the store");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_refused_at_once_when_the_thread_that_would_store_it_is_gone() {
    let mut fixture = SipFixture::with(config(), Arc::new(Faulty(store::in_memory()))).await;
    for on in [true, false, true] {
        let command = Command::SetDoNotDisturb { device: AGENT.into(), on };
        let refusal = fixture.command(command).await.expect_err("refused");
        assert!(refusal.text().contains("can not be stored"), "{refusal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_that_stops_ends_its_calls_with_bye() {
    let mut stopping = config();
    stopping.b2bua.grace = Duration::from_millis(300);
    let mut fixture = SipFixture::open(stopping).await;
    let (customer, agent) = talk(&mut fixture, AnswerPolicy::Auto(Duration::ZERO)).await;
    fixture.backend.shutdown().await;
    customer.ended(SOON).await.expect("told");
    agent.ended(SOON).await.expect("told");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_done_is_refused_over_the_contract() {
    let mut fixture = SipFixture::open(config()).await;
    let dial = |device: &str, to: &str| Command::Dial {
        device: device.into(),
        destination: to.into(),
        user_data: Default::default(),
    };
    assert_eq!(
        fixture.command(dial("nobody", "5002")).await.expect_err("unknown").reason,
        Reason::NotFound
    );
    let refusal = fixture.command(dial(AGENT, "5002")).await.expect_err("no phone");
    let expected =
        Refusal::number(Reason::Internal, &"5001".into(), "Device '{}' is not registered.");
    assert_eq!(refusal, expected);
    assert_eq!(refusal.to_string(), "Device '5001' is not registered.");
    let stop = Command::StopMonitoring { supervisor: BOSS.into() };
    assert_eq!(fixture.command(stop).await.expect_err("nothing").reason, Reason::InvalidState);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_calls_change_places_and_neither_customer_hears_the_coach_or_the_other() {
    let mut fixture = SipFixture::open(config()).await;
    let boss = fixture.phone(BOSS, AnswerPolicy::ByHeader).await;
    let (customer, agent) = talk(&mut fixture, AnswerPolicy::Auto(Duration::ZERO)).await;
    let first = fixture.state(AGENT, LegState::Established).await;
    fixture.coach(Activity::Coach).await;
    fixture.is_joined(BOSS).await;
    let hold = Command::Hold { device: AGENT.into(), call: first.clone() };
    fixture.command(hold).await.expect("accepted");
    fixture.state(AGENT, LegState::Held).await;

    // Another line of the same phone.
    let line = fixture.phone(AGENT, AnswerPolicy::Auto(Duration::ZERO)).await;
    let other = fixture.phone("customer2", AnswerPolicy::Never).await;
    other.call("5001").await.expect("calls");
    other.established(SOON).await.expect("answered");
    let second = fixture.state(AGENT, LegState::Established).await;
    assert_ne!(first, second);
    let swap =
        || Command::SwapCalls { device: AGENT.into(), call: first.clone(), other: second.clone() };
    let phones = [("customer", &customer), ("customer2", &other), (AGENT, &agent), (BOSS, &boss)];
    // Whoever is at a line says the same: who hears it shows which line is heard.
    let on_second = [("customer2", AGENT), (AGENT, BOSS), (BOSS, "customer agent")];
    let on_first = [("customer", AGENT), (AGENT, "customer boss"), (BOSS, "customer agent")];
    table(&phones, &on_second).await;
    eventually("the line hears its customer", || level(&line, hz("customer2")) > -30.0).await;
    for expected in [on_first.as_slice(), &on_second, &on_first] {
        fixture.command(swap()).await.expect("accepted");
        table(&phones, expected).await;
    }
    eventually("the line hears nobody", || level(&line, hz("customer2")) < -50.0).await;
    let refused =
        Command::SwapCalls { device: AGENT.into(), call: first.clone(), other: first.clone() };
    assert_eq!(fixture.command(refused).await.expect_err("one call").reason, Reason::InvalidState);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_customer_hears_the_music_of_the_house_and_the_coach_goes_on_whispering() {
    const MUSIC_HZ: f32 = 1789.0;
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("music.ul");
    let mut tone = Tone::new(7);
    let samples = (0..50).flat_map(|_| tone.frame(MUSIC_HZ, -16.0));
    let bytes: Vec<u8> = samples.map(|sample| Companding::Mu.encode(sample)).collect();
    std::fs::write(&file, bytes).expect("written");
    let mut config = config();
    config.media.music = Some(file);
    let mut fixture = SipFixture::open(config).await;
    let boss = fixture.phone(BOSS, AnswerPolicy::ByHeader).await;
    let (customer, agent) = talk(&mut fixture, AnswerPolicy::Auto(Duration::ZERO)).await;
    let call = fixture.state(AGENT, LegState::Established).await;
    fixture.coach(Activity::Coach).await;
    fixture.is_joined(BOSS).await;
    let phones = [("customer", &customer), (AGENT, &agent), (BOSS, &boss)];
    for _ in 0..2 {
        let hold = Command::Hold { device: AGENT.into(), call: call.clone() };
        fixture.command(hold).await.expect("accepted");
        eventually("the customer hears music", || level(&customer, MUSIC_HZ) > -26.0).await;
        from_now_on(&phones, &[(AGENT, BOSS), (BOSS, "customer agent")]).await;
        assert!(level(&customer, MUSIC_HZ) > -26.0, "again and again");
        assert!(level(&agent, MUSIC_HZ) < -50.0 && level(&boss, MUSIC_HZ) < -50.0);
        let retrieve = Command::Retrieve { device: AGENT.into(), call: call.clone() };
        fixture.command(retrieve).await.expect("accepted");
        let talking = [("customer", AGENT), (AGENT, "customer boss"), (BOSS, "customer agent")];
        table(&phones, &talking).await;
        eventually("the music is over", || level(&customer, MUSIC_HZ) < -50.0).await;
    }
    drop(place);
}

#[tokio::test(flavor = "multi_thread")]
async fn music_that_is_none_is_told_when_the_backend_starts() {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("music.wav");
    std::fs::write(&file, b"RIFF0000AVI ").expect("written");
    let mut config = config();
    config.media.music = Some(file.clone());
    let error = backend::start(config, store::in_memory()).await.expect_err("refused");
    let text = error.to_string();
    assert!(text.contains("music.wav") && text.contains("WAV"), "{text}");
}
