//! The SIP backend alone, with software phones on real sockets, each with a tone of its own, and
//! who hears whom among them.

use super::wait;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use undertone::clock;
use undertone::demo::phone::audio;
use undertone::demo::phone::{AnswerPolicy, Packet, Phone, PhoneConfig, PhoneEvent, Voice};
use undertone::media::MediaConfig;
use undertone::model::{
    Activity, CallFact, CallId, Command, CommandContext, DeviceId, Fact, LegState, Mode,
    MonitorFact, MonitorState, Refusal, RequestId, Scope,
};
use undertone::sip::b2bua::{AccountKind, B2buaConfig};
use undertone::sip::backend::{self, BackendConfig, SipBackend};
use undertone::sip::config::{ListenAddress, SipAccount, SipConfig, Trunk, TrunkSource};
use undertone::sip::flow::Protocol;
use undertone::sip::transport::TransportTls;
use undertone::store::{self, Store};
use undertone::telephony::connection;
use undertone::telephony::{BackendConnection, CommandCall};

pub(crate) const SOON: Duration = Duration::from_secs(15);
const REALM: &str = "undertone";
pub(crate) const AGENT: &str = "agent";
pub(crate) const OTHER: &str = "other";
pub(crate) const BOSS: &str = "boss";
pub(crate) const BOSS2: &str = "boss2";
pub(crate) const CUSTOMER: &str = "customer";
pub(crate) const CUSTOMER2: &str = "customer2";
/// The phone behind the trunk, see [`outside`].
pub(crate) const OUTSIDE: &str = "outside";

/// Device, number, tone.
const PEOPLE: [(&str, &str, f32); 7] = [
    (AGENT, "5001", 613.0),
    (OTHER, "5002", 743.0),
    (BOSS, "5005", 877.0),
    (BOSS2, "5006", 1151.0),
    (CUSTOMER, "7001", 437.0),
    (CUSTOMER2, "7002", 331.0),
    (OUTSIDE, "0123", 991.0),
];

pub(crate) struct SipFixture {
    pub(crate) backend: SipBackend,
    pub(crate) line: BackendConnection,
    pub(crate) calls: Vec<CallFact>,
    monitors: BTreeMap<DeviceId, MonitorFact>,
    asked: usize,
}

pub(crate) fn config() -> BackendConfig {
    let account = |(device, number, _): (&str, &str, f32)| SipAccount {
        kind: if device.starts_with(CUSTOMER) {
            AccountKind::Customer
        } else {
            AccountKind::Internal
        },
        ..SipAccount::new(device.into(), number.into(), REALM, "secret")
    };
    let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
    BackendConfig {
        sip: SipConfig {
            listen: vec![
                ListenAddress::new(Protocol::Udp, anywhere),
                ListenAddress::new(Protocol::Tcp, anywhere),
            ],
            realm: REALM.into(),
            accounts: PEOPLE
                .into_iter()
                .filter(|person| person.0 != OUTSIDE)
                .map(account)
                .collect(),
            ..SipConfig::default()
        },
        b2bua: B2buaConfig::default(),
        media: MediaConfig { ports: None, workers: 1, ..MediaConfig::default() },
        tls: TransportTls::default(),
    }
}

/// How a phone behind a trunk is set up.
pub(crate) fn outside() -> PhoneConfig {
    let (_, number, hz) = PEOPLE.into_iter().find(|(name, _, _)| *name == OUTSIDE).expect("known");
    PhoneConfig {
        ip: IpAddr::from([127, 0, 0, 2]),
        ..PhoneConfig::new(number, "", SocketAddr::from(([127, 0, 0, 1], 9)), hz)
    }
}

/// The trunk that leads to such a phone, for numbers that begin with 0.
pub(crate) fn site(phone: &Phone) -> Trunk {
    let source = TrunkSource::new(phone.address().ip().into(), None);
    Trunk {
        sources: vec![source],
        prefixes: vec!["0".into()],
        ..Trunk::at("site", phone.address(), Protocol::Udp)
    }
}

impl SipFixture {
    pub(crate) async fn open(config: BackendConfig) -> SipFixture {
        SipFixture::with(config, store::in_memory()).await
    }

    pub(crate) async fn with(config: BackendConfig, store: Store) -> SipFixture {
        let (server, backend) = backend::start(config, store).await.expect("starts");
        let line = connection::line(connection::in_process(server));
        SipFixture { backend, line, calls: Vec::new(), monitors: BTreeMap::new(), asked: 0 }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.backend.local_addr(Protocol::Udp).expect("listens")
    }

    pub(crate) fn phone_config(&self, device: &str) -> PhoneConfig {
        let (_, number, hz) =
            PEOPLE.into_iter().find(|(name, _, _)| *name == device).expect("known");
        PhoneConfig::new(number, "secret", self.address(), hz)
    }

    pub(crate) async fn phone(&self, device: &str, answer: AnswerPolicy) -> Phone {
        let phone =
            Phone::start(self.phone_config(device).answering(answer)).await.expect("starts");
        phone.register().await.expect("registers");
        phone
    }

    pub(crate) async fn command(&mut self, command: Command) -> Result<(), Refusal> {
        self.asked += 1;
        let context = CommandContext {
            request_id: RequestId::from(format!("r{}", self.asked)),
            user: Some("tester".into()),
            caller: None,
            from: None,
            deadline: SOON,
            feature_code: None,
        };
        let (placed, answer) = CommandCall::new(context, command);
        self.line.commands.send(placed).await.expect("the line lives");
        answer.await.expect("answered")
    }

    pub(crate) async fn coach(&mut self, activity: Activity) {
        self.monitor(activity, Mode::AllCalls, Scope::Call).await;
    }

    pub(crate) async fn monitor(&mut self, activity: Activity, mode: Mode, scope: Scope) {
        self.command(Command::StartMonitoring {
            supervisor: BOSS.into(),
            target: AGENT.into(),
            activity,
            mode,
            scope,
            confirm_joins: false,
            agent_side_only: false,
        })
        .await
        .expect("accepted");
    }

    /// Reads facts until one fits.
    pub(crate) async fn until<T>(&mut self, what: impl Fn(&Fact) -> Option<T>) -> T {
        let waiting = async {
            loop {
                let fact = self.line.facts.recv().await.expect("facts go on");
                self.know(&fact);
                if let Some(found) = what(&fact) {
                    return found;
                }
            }
        };
        tokio::time::timeout(SOON, waiting).await.expect("the fact comes")
    }

    pub(crate) async fn state(&mut self, device: &str, state: LegState) -> CallId {
        let device = DeviceId::from(device);
        let fits = |call: &CallFact| {
            call.parties
                .iter()
                .any(|party| party.device.as_ref() == Some(&device) && party.state == state)
        };
        if let Some(call) = self.calls.iter().find(|call| fits(call)) {
            return call.id.clone();
        }
        self.until(|fact| match fact {
            Fact::Call(call) if fits(call) => Some(call.id.clone()),
            _ => None,
        })
        .await
    }

    fn know(&mut self, fact: &Fact) {
        match fact {
            Fact::Call(call) => {
                self.calls.retain(|known| known.id != call.id);
                self.calls.push(call.clone());
            }
            Fact::Monitor(monitor) => {
                drop(self.monitors.insert(monitor.supervisor.clone(), monitor.clone()))
            }
            Fact::MonitorGone { supervisor } => drop(self.monitors.remove(supervisor)),
            _ => {}
        }
    }

    /// Takes in what has been told so far.
    pub(crate) fn catch_up(&mut self) {
        while let Ok(fact) = self.line.facts.try_recv() {
            self.know(&fact);
        }
    }

    /// What is known of a supervisor's monitor.
    pub(crate) fn monitor_of(&self, supervisor: &str) -> Option<&MonitorFact> {
        self.monitors.get(supervisor)
    }

    /// Waits until the supervisor's monitor, if there is any, fits.
    pub(crate) async fn monitor_is(
        &mut self,
        supervisor: &str,
        fits: impl Fn(Option<&MonitorFact>) -> bool,
    ) {
        let supervisor = DeviceId::from(supervisor);
        while !fits(self.monitors.get(&supervisor)) {
            self.until(|_| Some(())).await;
        }
    }

    /// Waits until the supervisor is joined.
    pub(crate) async fn is_joined(&mut self, supervisor: &str) {
        let joined = |monitor: Option<&MonitorFact>| {
            monitor.is_some_and(|monitor| matches!(monitor.state, MonitorState::Joined { .. }))
        };
        self.monitor_is(supervisor, joined).await;
    }
}

pub(crate) fn level(phone: &Phone, hz: f32) -> f32 {
    phone.hears(hz, Duration::from_millis(200))
}

pub(crate) async fn eventually(what: &str, holds: impl Fn() -> bool) {
    wait::holds(what, SOON, holds).await;
}

pub(crate) fn hz(device: &str) -> f32 {
    PEOPLE.into_iter().find(|(name, _, _)| *name == device).expect("known").2
}

/// Waits until exactly these hear exactly those, `("agent", "customer boss")`, and nobody else.
pub(crate) async fn table(phones: &[(&str, &Phone)], expected: &[(&str, &str)]) {
    let wrong = || {
        let mut wrong = Vec::new();
        for (listener, phone) in phones {
            for (speaker, _) in phones {
                let heard = level(phone, hz(speaker)) > -30.0;
                let allowed = expected.iter().any(|(who, whom)| {
                    who == listener && whom.split(' ').any(|name| name == *speaker)
                });
                if heard != allowed {
                    wrong.push(format!("{listener} hears {speaker}: {heard}"));
                }
            }
        }
        wrong
    };
    let in_time = wait::found(SOON, async || wrong().is_empty().then_some(())).await;
    assert!(in_time.is_some(), "{:?}", wrong());
}

pub(crate) async fn talk(fixture: &mut SipFixture, agent: AnswerPolicy) -> (Phone, Phone) {
    let agent = fixture.phone(AGENT, agent).await;
    let customer = fixture.phone("customer", AnswerPolicy::Never).await;
    customer.call("5001").await.expect("calls");
    customer.established(SOON).await.expect("answered");
    fixture.state(AGENT, LegState::Established).await;
    (customer, agent)
}

/// What reaches the customer is what these have sent, byte for byte.
pub(crate) fn identical(customer: &Phone, agents: &[&Phone], (since, until): (Instant, Instant)) {
    let sent: BTreeSet<Vec<u8>> = agents
        .iter()
        .flat_map(|agent| agent.sent(since - Duration::from_secs(2)))
        .map(|packet| packet.payload.to_vec())
        .collect();
    let received = customer.received_between(since, until);
    assert!(!received.is_empty());
    for packet in received {
        assert!(sent.contains(&packet.payload.to_vec()), "a payload that the agent did not send");
    }
}

/// The frequency with which a phone marks what is said: so far apart that each is told from the
/// next in one packet, be it played a little faster or slower. The second customer and the
/// phone outside share one.
fn marking(device: &str) -> f32 {
    let place = PEOPLE.iter().position(|(name, _, _)| *name == device).expect("known");
    1500.0 * 1.195_f32.powi(place.min(5) as i32)
}

/// From this moment on exactly these hear exactly those: everybody says something new at once, and
/// those that may hear it hear it from the first or the second packet on, the others one packet of
/// it at most. One more may be late on a machine that has other work.
///
/// # Panics
/// Somebody hears more, or less, or it takes too long.
#[track_caller]
pub(crate) fn from_now_on(
    phones: &[(&'static str, &Phone)],
    expected: &[(&'static str, &'static str)],
) -> impl Future<Output = ()> + use<> {
    let phones: Vec<(&str, Phone)> =
        phones.iter().map(|(name, phone)| (*name, (*phone).clone())).collect();
    let expected = expected.to_vec();
    const SAID: usize = 12;
    /// What a supervisor hears waits in a buffer before.
    const LATER: Duration = Duration::from_millis(300);
    let caller = std::panic::Location::caller();
    let since = clock::instant();
    for (name, phone) in &phones {
        phone.mark(Voice { hz: marking(name), dbfs: -16.0 }, SAID);
    }
    async move {
        let deadline = since + SOON;
        let mut said = None;
        loop {
            wait::elapse(Duration::from_millis(20)).await;
            if said.is_none() && phones.iter().all(|(_, phone)| !phone.is_marking()) {
                said = Some(clock::instant());
            }
            let mut wrong = Vec::new();
            for (listener, phone) in &phones {
                let received = phone.received(since);
                for (speaker, _) in &phones {
                    let heard =
                        received.iter().filter(|packet| has(packet, marking(speaker))).count();
                    let allowed = expected.iter().any(|(who, whom)| {
                        who == listener && whom.split(' ').any(|name| name == *speaker)
                    });
                    if heard > 1 && !allowed || heard + 2 < SAID && allowed {
                        wrong.push(format!(
                            "{listener} hears {heard} of {SAID} packets of {speaker}, allowed: \
                             {allowed}"
                        ));
                    }
                }
            }
            match said {
                Some(said) if wrong.is_empty() && clock::instant() > said + LATER => return,
                _ => assert!(clock::instant() < deadline, "{caller}: {wrong:?}"),
            }
        }
    }
}

/// A tone that is spoken at −16 dBFS is in this packet: at its own pitch, or at the one of a buffer
/// that catches up or waits.
fn has(packet: &Packet, hz: f32) -> bool {
    let samples = packet.samples();
    [1.0, 0.98, 1.02, 0.96, 1.04, 0.94, 1.06]
        .into_iter()
        .any(|pitch| audio::dbfs(audio::tone_power(&samples, hz * pitch)) > -28.0)
}

/// How loud a tone is in what somebody hears where voices are mixed: the median of half a second,
/// which a click of other voices does not move.
pub(crate) async fn mixed_in(phone: &Phone, hz: f32) -> f32 {
    const BLOCK: usize = 800;
    let since = clock::instant();
    eventually("they go on for a while", || phone.received(since).len() > 30).await;
    let samples: Vec<i16> = phone.received(since).iter().flat_map(Packet::samples).collect();
    let mut levels: Vec<f32> = samples
        .chunks_exact(BLOCK)
        .map(|block| audio::dbfs(audio::tone_power(block, hz)))
        .collect();
    levels.sort_by(f32::total_cmp);
    levels[levels.len() / 2]
}

/// Every packet that has reached the customer is one that these have sent, byte for byte, or is
/// silence; and the customer's phone was left alone.
pub(crate) fn accounted_for(customer: &Phone, agents: &[&Phone], since: Instant) {
    // First what has come, then what was sent: the last packets may still be on their way.
    let received = customer.received(since);
    let sent: BTreeSet<Vec<u8>> = agents
        .iter()
        .flat_map(|agent| agent.sent(since - Duration::from_secs(1)))
        .map(|packet| packet.payload.to_vec())
        .collect();
    assert!(!received.is_empty(), "the customer has heard nothing at all");
    for packet in &received {
        let loudest = packet.samples().into_iter().map(i16::unsigned_abs).max().unwrap_or(0);
        // −60 dBFS.
        assert!(
            sent.contains(&*packet.payload) || loudest <= 32,
            "packet {} of {} is of no agent and is no silence",
            packet.seq,
            received.len()
        );
    }
    let reoffered = customer
        .events()
        .into_iter()
        .any(|happened| matches!(happened.event, PhoneEvent::Reoffered(_)));
    assert!(!reoffered, "the customer's phone was bothered");
}
