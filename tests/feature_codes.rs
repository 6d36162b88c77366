//! Supervisors at their own phones: what they dial is done as if they had asked for it by a client,
//! and who hears whom is listened to.

use crate::support::server::{
    AGENT, Account, COLLEAGUE, CUSTOMER, FOREIGN, SUPERVISOR, Server, device, user,
};
use crate::support::sip_fixture::{eventually, from_now_on};
use crate::support::wait;
use serde_json::{Value, json};
use std::time::Duration;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig, PhoneEvent};

const CODES: &str = "[feature_codes]\nenabled = true\n";
const SOON: Duration = Duration::from_secs(15);

async fn phone(server: &Server, account: Account, hz: f32, answer: AnswerPolicy) -> Phone {
    let config = PhoneConfig::new(account.number, account.password, server.sip, hz);
    let phone = Phone::start(config.answering(answer)).await.unwrap();
    phone.register().await.unwrap();
    phone
}

/// A customer who talks to the agent, and the supervisor's phone.
async fn stage(server: &Server) -> [Phone; 3] {
    let agent = phone(server, AGENT, 613.0, AnswerPolicy::Auto(Duration::ZERO)).await;
    let customer = phone(server, CUSTOMER, 437.0, AnswerPolicy::Never).await;
    let boss = phone(server, SUPERVISOR, 877.0, AnswerPolicy::ByHeader).await;
    customer.call(AGENT.number).await.unwrap();
    customer.established(SOON).await.unwrap();
    [customer, agent, boss]
}

/// From now on exactly these hear exactly those.
async fn hear([customer, agent, boss]: &[Phone; 3], expected: &[(&'static str, &'static str)]) {
    from_now_on(&[("customer", customer), ("agent", agent), ("boss", boss)], expected).await;
}

const LISTEN: &[(&str, &str)] =
    &[("customer", "agent"), ("agent", "customer"), ("boss", "customer agent")];
const COACH: &[(&str, &str)] =
    &[("customer", "agent"), ("agent", "customer boss"), ("boss", "customer agent")];
const BARGE: &[(&str, &str)] =
    &[("customer", "agent boss"), ("agent", "customer boss"), ("boss", "customer agent")];
const ALONE: &[(&str, &str)] = &[("customer", "agent"), ("agent", "customer")];

/// What the audit says, in order: event, operation.
fn told(audit: &[Value]) -> Vec<(&str, &str)> {
    audit
        .iter()
        .map(|line| {
            (line["event"].as_str().unwrap_or(""), line["operation"].as_str().unwrap_or(""))
        })
        .collect()
}

/// Waits until the audit has a line of this event.
async fn audited(server: &Server, event: &str) -> Value {
    let found =
        wait::found(SOON, async || server.audit().into_iter().find(|line| line["event"] == event));
    found.await.unwrap_or_else(|| panic!("no line '{event}': {:?}", server.audit()))
}

async fn refused(phone: &Phone, number: &str) -> u16 {
    phone.call(number).await.unwrap();
    let refused = phone.until(|event| matches!(event, PhoneEvent::Refused(_)), SOON).await;
    match refused.unwrap().event {
        PhoneEvent::Refused(status) => status,
        _ => unreachable!(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_dialled_call_listens_and_keys_decide_who_hears_the_supervisor() {
    let server = Server::configured(CODES).await;
    let phones = stage(&server).await;
    let [_, _, boss] = &phones;
    hear(&phones, ALONE).await;
    boss.call("*815001").await.unwrap();
    boss.established(SOON).await.unwrap();
    hear(&phones, COACH).await;
    for (digit, expected, activity) in
        [("6", BARGE, "BargeIn"), ("4", LISTEN, "ListenIn"), ("5", COACH, "Coach")]
    {
        boss.dtmf(digit);
        let changed = wait::found(SOON, async || {
            let audit = server.audit();
            let last = audit.iter().rev().find(|line| line["event"] == "changed")?;
            (last["activity"] == activity).then_some(())
        });
        changed.await.unwrap_or_else(|| panic!("{digit}: {:?}", server.audit()));
        hear(&phones, expected).await;
    }
    // A digit that means nothing changes nothing, and no digit has reached anybody.
    boss.dtmf("1");
    hear(&phones, COACH).await;
    let [customer, agent, _] = &phones;
    for phone in [customer, agent] {
        let began = phone.events()[0].at;
        assert!(phone.received(began).iter().all(|packet| packet.payload_type != 101));
    }
    boss.hang_up().await.unwrap();
    audited(&server, "released").await;
    hear(&phones, ALONE).await;

    let audit = server.audit();
    assert_eq!(
        told(&audit)[..4],
        [("allowed", "Coach"), ("admitted", ""), ("joined", ""), ("allowed", "SwitchToBargeIn")]
    );
    let first = &audit[0];
    assert_eq!(first["user"], SUPERVISOR.user);
    assert_eq!(first["device"], SUPERVISOR.device);
    assert_eq!(first["target"], AGENT.device);
    assert_eq!(first["from"], "127.0.0.1");
    assert!(first["request_id"].as_str().unwrap().starts_with("code-"), "{first}");
    let monitoring = server.client(SUPERVISOR).look("/me/devices?fields=*").await;
    assert!(monitoring["devices"][0]["supervisorMonitoringState"].is_null(), "{monitoring}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_desktop_sees_what_was_dialled_and_stop_ends_it() {
    let server = Server::configured(CODES).await;
    let phones = stage(&server).await;
    let [_, _, boss] = &phones;
    let line = phone(&server, SUPERVISOR, 1151.0, AnswerPolicy::ByHeader).await;
    boss.call("*805001").await.unwrap();
    boss.established(SOON).await.unwrap();
    hear(&phones, LISTEN).await;
    let desktop = server.client(SUPERVISOR);
    let calls = desktop.look("/me/calls?fields=*").await;
    assert_eq!(calls["calls"][0]["state"], "Established", "{calls}");
    let capabilities = calls["calls"][0]["capabilities"].to_string();
    assert!(capabilities.contains("SwitchToCoach"), "{calls}");
    // What was dialled is changed by the desktop, and by another code.
    let call = calls["calls"][0]["id"].as_str().unwrap().to_owned();
    server
        .post(SUPERVISOR, &format!("/me/calls/{call}"), json!({"operationName": "SwitchToCoach"}))
        .await;
    hear(&phones, COACH).await;
    line.call("*825001").await.unwrap();
    line.established(SOON).await.unwrap();
    line.ended(SOON).await.unwrap();
    hear(&phones, BARGE).await;
    line.call("*83").await.unwrap();
    boss.ended(SOON).await.unwrap();
    line.ended(SOON).await.unwrap();
    hear(&phones, ALONE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_call_to_join_the_phone_is_called_when_there_is_one() {
    let server = Server::configured(CODES).await;
    let boss = phone(&server, SUPERVISOR, 877.0, AnswerPolicy::ByHeader).await;
    boss.call("*81*5001").await.unwrap();
    let began = boss.established(SOON).await.unwrap().at;
    boss.ended(SOON).await.unwrap();
    assert!(boss.peak_between(440.0, began, began + SOON) > -40.0, "a tone says that it is done");
    let agent = phone(&server, AGENT, 613.0, AnswerPolicy::Auto(Duration::ZERO)).await;
    let customer = phone(&server, CUSTOMER, 437.0, AnswerPolicy::Never).await;
    customer.call(AGENT.number).await.unwrap();
    boss.established(SOON).await.unwrap();
    hear(&[customer, agent, boss], COACH).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_is_refused_at_the_phone_and_written_down_as_over_rest() {
    let foreign = device(FOREIGN, "house") + &user(FOREIGN, "Supervisor");
    let nobodys = Account { device: "nobodys", number: "5010", user: "", password: "nobody" };
    let more = [CODES, &foreign, &device(nobodys, "house")].concat();
    let server = Server::configured(&more).await;
    let phones = stage(&server).await;
    let [_, _, boss] = &phones;
    let colleague = phone(&server, COLLEAGUE, 743.0, AnswerPolicy::ByHeader).await;
    let stranger = phone(&server, FOREIGN, 1151.0, AnswerPolicy::ByHeader).await;
    let unowned = phone(&server, nobodys, 991.0, AnswerPolicy::ByHeader).await;
    assert_eq!(refused(&colleague, "*815001").await, 403, "an agent");
    assert_eq!(refused(&stranger, "*815001").await, 403, "a supervisor of another group");
    assert_eq!(refused(&unowned, "*815001").await, 403, "a device of nobody");
    assert_eq!(refused(boss, "*815999").await, 404, "no such agent");
    assert_eq!(refused(boss, "*817001").await, 404, "a customer");
    assert_eq!(refused(boss, "*815005").await, 403, "the own number");
    assert_eq!(refused(boss, "*81").await, 484, "no number");
    assert_eq!(refused(boss, "*83").await, 480, "nothing to stop");
    hear(&phones, ALONE).await;
    let audit = server.audit();
    let refused: Vec<_> = audit
        .iter()
        .filter(|line| line["event"] == "refused")
        .map(|line| {
            let word = |key: &str| line[key].as_str().unwrap_or("").to_owned();
            (word("user"), word("operation"), word("refused"))
        })
        .collect();
    let expected = [
        ("colleague", "Coach", "NotPermitted"),
        ("foreign", "Coach", "NotPermitted"),
        ("", "Coach", "NotPermitted"),
        ("supervisor", "Coach", "NotPermitted"),
    ];
    for (user, operation, reason) in expected {
        let line = (user.to_owned(), operation.to_owned(), reason.to_owned());
        assert!(refused.contains(&line), "{line:?} in {refused:?}");
    }
    eventually("nobody is monitored", || {
        !server.audit().iter().any(|line| line["event"] == "joined")
    })
    .await;
}
