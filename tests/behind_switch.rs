//! Phones that stay with their switch: a switch of its own, with the phones registered there, and
//! the product behind a trunk of it.

use crate::support::sip_fixture::{
    AGENT, BOSS, OTHER, OUTSIDE, SOON, SipFixture, config, eventually, hz, mixed_in, outside, table,
};
use std::net::SocketAddr;
use std::time::Duration;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneConfig, PhoneEvent};
use undertone::model::{Activity, LegState, Mode, PartyRole, Scope};
use undertone::sip::b2bua::AccountKind;
use undertone::sip::backend::BackendConfig;
use undertone::sip::config::{SipAccount, SipDirectory, Trunk, TrunkSource};
use undertone::sip::flow::Protocol;

/// What the switch calls the devices: 5001 is 1001 there.
const BEHIND: [(&str, &str, &str); 3] =
    [(AGENT, "5001", "1001"), (OTHER, "5002", "1002"), (BOSS, "5005", "1005")];

/// A product and a switch, each a trunk of the other.
struct Site {
    product: SipFixture,
    switch: SipFixture,
}

fn trunk_to(name: &str, address: SocketAddr, prefixes: &[&str]) -> Trunk {
    let source = TrunkSource { network: address.ip().into(), port: Some(address.port()) };
    Trunk {
        sources: vec![source],
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
    switch.sip.accounts = names.chain([("customer", "7001")]).map(account).collect();
    let trunk = trunk_to("product", product, &["5", "0"]);
    switch.sip.trunks = vec![Trunk { own_numbers: true, ..trunk }];
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
            trunks: vec![trunk_to("switch", self.switch.address(), &[])],
        };
        change(&mut directory);
        self.product.backend.directories().apply(directory, false).await;
        for (device, _, _) in BEHIND {
            self.present(device, true).await;
        }
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
        let name = names.chain([("customer", "7001")]).find(|(known, _)| *known == device);
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
