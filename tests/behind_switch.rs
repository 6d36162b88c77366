//! Phones that stay with their switch: a switch of its own, with the phones registered there, and
//! the product behind a trunk of it.

use crate::support::sip_fixture::{
    AGENT, BOSS, OTHER, OUTSIDE, SOON, SipFixture, config, eventually, hz, mixed_in, outside, table,
};
use std::net::SocketAddr;
use std::time::Duration;
use undertone::clock;
use undertone::demo::phone::audio;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig, PhoneEvent};
use undertone::model::{Activity, Fact, LegState, Mode, PartyRole, Scope};
use undertone::sip::b2bua::AccountKind;
use undertone::sip::backend::BackendConfig;
use undertone::sip::config::{SipAccount, SipDirectory, Trunk, TrunkSource};
use undertone::sip::flow::Protocol;

/// What the switch calls the devices: 5001 is 1001 there.
const BEHIND: [(&str, &str, &str); 3] =
    [(AGENT, "5001", "1001"), (OTHER, "5002", "1002"), (BOSS, "5005", "1005")];

/// Customers with phones at the switch.
const CUSTOMERS: [(&str, &str); 2] = [("customer", "7001"), ("customer2", "7002")];

/// A product and a switch, each a trunk of the other.
struct Site {
    product: SipFixture,
    switch: SipFixture,
}

fn trunk_to(name: &str, address: SocketAddr, prefixes: &[&str]) -> Trunk {
    let source = TrunkSource::new(address.ip().into(), Some(address.port()));
    Trunk {
        sources: vec![source],
        qualify: Some(Duration::from_secs(10)),
        prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
        ..Trunk::at(name, address, Protocol::Udp)
    }
}

/// The switch: what it calls its phones, and a customer that may call the product.
fn switch_config(product: SocketAddr) -> BackendConfig {
    let mut switch = config();
    let names = BEHIND.iter().map(|(device, _, name)| (*device, *name));
    let account = |(device, name): (&str, &str)| SipAccount {
        kind: AccountKind::Internal,
        ..SipAccount::new(device.into(), name.into(), "undertone", "secret")
    };
    switch.sip.accounts = names.chain(CUSTOMERS).map(account).collect();
    let trunk = trunk_to("product", product, &["5", "0"]);
    switch.sip.trunks = vec![Trunk { own_numbers: true, trusted: true, ..trunk }];
    switch
}

impl Site {
    async fn open() -> Site {
        let mut ours = config();
        ours.sip.accounts = ours.sip.accounts.iter().take(0).cloned().collect();
        let product = SipFixture::open(ours).await;
        let switch = SipFixture::open(switch_config(product.address())).await;
        let mut site = Site { product, switch };
        site.attach(|_| {}).await;
        site
    }

    /// Tells the product of the switch and the devices behind it, while it runs.
    async fn attach(&mut self, change: impl FnOnce(&mut SipDirectory)) {
        let device = |(device, number, name): (&str, &str, &str)| SipAccount {
            user: Some(name.into()),
            ..SipAccount::behind(device.into(), number.into(), "switch")
        };
        let mut directory = SipDirectory {
            accounts: BEHIND.into_iter().map(device).collect(),
            trunks: vec![Trunk { trusted: true, ..trunk_to("switch", self.switch.address(), &[]) }],
        };
        change(&mut directory);
        self.product.backend.directories().apply(directory, false).await;
        self.present(AGENT, true).await;
    }

    /// Waits until the device is there, or not.
    async fn present(&mut self, device: &str, registered: bool) {
        let log = self.product.backend.facts().clone();
        let mut watcher = log.watch();
        let waiting = async {
            while log.device(&device.into()).is_some_and(|it| it.registered) != registered {
                watcher.next().await;
            }
        };
        tokio::time::timeout(SOON, waiting).await.expect("told in time");
    }

    async fn phone(&self, device: &str, answer: AnswerPolicy) -> Phone {
        let names = BEHIND.iter().map(|(device, _, name)| (*device, *name));
        let name = names.chain(CUSTOMERS).find(|(known, _)| *known == device);
        let name = name.expect("a phone of the switch").1;
        let config = PhoneConfig::new(name, "secret", self.switch.address(), hz(device));
        let phone = Phone::start(config.answering(answer)).await.expect("starts");
        phone.register().await.expect("registers");
        phone
    }
}

const AT_ONCE: AnswerPolicy = AnswerPolicy::Auto(Duration::ZERO);

#[tokio::test(flavor = "multi_thread")]
async fn a_customers_call_through_the_switch_is_coached_by_a_supervisor_behind_it() {
    for scope in [Scope::Agent, Scope::Call] {
        let mut site = Site::open().await;
        let (agent, boss) = (site.phone(AGENT, AT_ONCE).await, site.phone(BOSS, AT_ONCE).await);
        let customer = site.phone("customer", AnswerPolicy::Never).await;
        customer.call("5001").await.expect("calls");
        customer.established(SOON).await.expect("answered");
        let call = site.product.state(AGENT, LegState::Established).await;
        let phones = [("customer", &customer), (AGENT, &agent), (BOSS, &boss)];
        table(&phones, &[("customer", "agent"), (AGENT, "customer")]).await;

        site.product.monitor(Activity::Coach, Mode::AllCalls, scope).await;
        site.product.is_joined(BOSS).await;
        let coach = [("customer", "agent"), (AGENT, "customer boss"), (BOSS, "customer agent")];
        table(&phones, &coach).await;
        let leaked = mixed_in(&customer, hz(BOSS)).await;
        assert!(leaked < -60.0, "the customer has heard the whisper: {leaked} dBFS");
        let fact = site.product.calls.iter().find(|known| known.id == call).expect("known");
        let roles: Vec<PartyRole> = fact.parties.iter().map(|party| party.role).collect();
        assert_eq!(roles, [PartyRole::Customer, PartyRole::Agent, PartyRole::Supervisor]);
        assert_eq!(fact.ani.as_str(), "7001");

        agent.hang_up().await.expect("hangs up");
        customer.ended(SOON).await.expect("over");
        boss.ended(SOON).await.expect("over");
        eventually("every port is closed", || site.product.backend.media().legs == 0).await;
        assert_eq!(site.product.backend.media().leak_guards, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_the_switch_calls_a_carrier_of_ours_and_is_coached() {
    let mut site = Site::open().await;
    let carrier = PhoneConfig { server: site.product.address(), ..outside() };
    let called = Phone::start(carrier.answering(AT_ONCE)).await.expect("starts");
    let trunk = crate::support::sip_fixture::site(&called);
    site.attach(|directory| directory.trunks.push(trunk)).await;
    let (agent, boss) = (site.phone(AGENT, AT_ONCE).await, site.phone(BOSS, AT_ONCE).await);
    site.product.coach(Activity::Coach).await;
    agent.call("0123").await.expect("calls");
    agent.established(SOON).await.expect("answered");
    site.product.is_joined(BOSS).await;
    let phones = [(OUTSIDE, &called), (AGENT, &agent), (BOSS, &boss)];
    let coach = [(OUTSIDE, "agent"), (AGENT, "outside boss"), (BOSS, "outside agent")];
    table(&phones, &coach).await;
    assert!(mixed_in(&called, hz(BOSS)).await < -60.0, "the whisper was heard outside");

    // A customer of the carrier calls the same agent: from trunk to trunk.
    agent.hang_up().await.expect("hangs up");
    called.ended(SOON).await.expect("over");
    called.call("5001").await.expect("calls");
    called.established(SOON).await.expect("answered: no 403");
    table(&phones, &coach).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customer_behind_the_switch_gets_no_way_out_and_no_number_that_nobody_has() {
    let mut site = Site::open().await;
    let called = Phone::start(outside()).await.expect("starts");
    let trunk = crate::support::sip_fixture::site(&called);
    site.attach(|directory| directory.trunks.push(trunk)).await;
    let customer = site.phone("customer", AnswerPolicy::Never).await;
    for number in ["0123", "5999"] {
        customer.call(number).await.expect("calls");
        let refused = |event: &PhoneEvent| matches!(event, PhoneEvent::Refused(403 | 404));
        customer.until(refused, SOON).await.expect("refused");
    }
    eventually("no port is left", || site.product.backend.media().legs == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_away_as_soon_as_their_switch_is_and_calls_are_refused_at_once() {
    let mut site = Site::open().await;
    let often = |directory: &mut SipDirectory| {
        directory.trunks[0].qualify = Some(Duration::from_millis(200));
    };
    site.attach(often).await;
    let address = site.switch.address();
    let elsewhere = std::mem::replace(&mut site.switch, SipFixture::open(config()).await);
    elsewhere.backend.shutdown().await;
    for (device, _, _) in BEHIND {
        site.present(device, false).await;
    }
    // It is back, at the same place.
    let mut again = switch_config(site.product.address());
    again.sip.listen.iter_mut().for_each(|listen| listen.address = address);
    again.sip.listen.truncate(1);
    site.switch = SipFixture::open(again).await;
    for (device, _, _) in BEHIND {
        site.present(device, true).await;
    }
    let (agent, customer) =
        (site.phone(AGENT, AT_ONCE).await, site.phone("customer", AnswerPolicy::Never).await);
    customer.call("5001").await.expect("calls");
    customer.established(SOON).await.expect("answered");
    table(
        &[("customer", &customer), (AGENT, &agent)],
        &[("customer", "agent"), (AGENT, "customer")],
    )
    .await;
}

/// A coached call through the switch.
async fn coached(site: &mut Site, scope: Scope) -> (Phone, Phone, Phone) {
    let (agent, boss) = (site.phone(AGENT, AT_ONCE).await, site.phone(BOSS, AT_ONCE).await);
    let customer = site.phone("customer", AnswerPolicy::Never).await;
    customer.call("5001").await.expect("calls");
    customer.established(SOON).await.expect("answered");
    site.product.state(AGENT, LegState::Established).await;
    site.product.monitor(Activity::Coach, Mode::AllCalls, scope).await;
    site.product.is_joined(BOSS).await;
    let phones = [("customer", &customer), (AGENT, &agent), (BOSS, &boss)];
    let coach = [("customer", "agent"), (AGENT, "customer boss"), (BOSS, "customer agent")];
    table(&phones, &coach).await;
    (customer, agent, boss)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_hands_the_agents_leg_to_another_agent_takes_the_coach_along_or_ends_it() {
    for scope in [Scope::Agent, Scope::Call] {
        let mut site = Site::open().await;
        let other = site.phone(OTHER, AT_ONCE).await;
        let (customer, agent, boss) = coached(&mut site, scope).await;
        agent.refer("1002").await.expect("accepted by the switch");
        agent.ended(SOON).await.expect("free");
        let phones = [("customer", &customer), (AGENT, &agent), (OTHER, &other), (BOSS, &boss)];
        match scope {
            Scope::Agent => {
                boss.ended(SOON).await.expect("out");
                table(&phones, &[("customer", "other"), (OTHER, "customer")]).await;
            }
            Scope::Call => {
                let follows =
                    [("customer", "other"), (OTHER, "customer boss"), (BOSS, "customer other")];
                table(&phones, &follows).await;
            }
        }
        let call = site.product.state(OTHER, LegState::Established).await;
        let fact = site.product.calls.iter().find(|known| known.id == call).expect("known");
        let left = fact.parties.iter().find(|party| party.device == Some(AGENT.into()));
        assert_eq!(left.and_then(|party| party.handed_on_to.clone()), Some("5002".into()));
        assert!(mixed_in(&customer, hz(BOSS)).await < -60.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whom_a_switch_hands_the_agents_leg_to_and_is_no_agent_hears_no_whisper() {
    let mut site = Site::open().await;
    let stranger = site.phone(OTHER, AT_ONCE).await;
    site.attach(|directory| directory.accounts.remove(&OTHER.into())).await;
    let (customer, agent, boss) = coached(&mut site, Scope::Call).await;
    let since = clock::instant();
    agent.refer("1002").await.expect("accepted by the switch");
    agent.ended(SOON).await.expect("free");
    let phones = [("customer", &customer), (OTHER, &stranger), (BOSS, &boss)];
    let after = [("customer", "other"), (OTHER, "customer"), (BOSS, "customer other")];
    table(&phones, &after).await;
    assert!(mixed_in(&stranger, hz(BOSS)).await < -60.0, "the stranger hears the whisper");
    let whispered = stranger
        .received(since)
        .into_iter()
        .filter(|packet| audio::dbfs(audio::tone_power(&packet.samples(), hz(BOSS))) > -40.0);
    // What was under way when the switch joined them.
    assert!(whispered.count() <= 2, "the stranger has heard the whisper");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_customer_on_the_line_is_shown_to_the_agent_at_the_desk_and_at_the_phone() {
    let mut site = Site::open().await;
    let second = site.phone("customer2", AT_ONCE).await;
    let (customer, agent, boss) = coached(&mut site, Scope::Call).await;
    let asserted = || {
        let heard = agent.trace().into_iter().map(|traced| traced.text);
        heard.filter(|text| text.contains("P-Asserted-Identity: <sip:7002@")).count()
    };
    assert_eq!(asserted(), 0);
    customer.refer("7002").await.expect("accepted by the switch");
    customer.ended(SOON).await.expect("free");
    let phones = [("customer2", &second), (AGENT, &agent), (BOSS, &boss)];
    let coach = [("customer2", "agent"), (AGENT, "customer2 boss"), (BOSS, "customer2 agent")];
    table(&phones, &coach).await;
    site.product
        .until(|fact| match fact {
            Fact::Call(call) => (call.ani.as_str() == "7002").then_some(()),
            _ => None,
        })
        .await;
    eventually("the agent's phone is told by the product through the switch", || asserted() > 0)
        .await;
    assert!(mixed_in(&second, hz(BOSS)).await < -60.0);
}
