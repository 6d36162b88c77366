//! Phones, requests and faults at random, over sockets: each packet toward a customer is held
//! against what the agents have sent.

use crate::support::sip_fixture::{
    AGENT, BOSS, BOSS2, CUSTOMER, CUSTOMER2, OTHER, SOON, SipFixture, config, eventually, hz,
    outside, site,
};
use crate::support::wait;
use futures_util::future::join_all;
use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::{Duration, Instant};
use undertone::clock;
use undertone::demo::phone::{AnswerPolicy, Packet, Phone, PhoneConfig, audio};
use undertone::model::{
    Activity, CallId, Command, DeviceId, LegState, Mode, MonitorState, PartyRole, Scope,
    TransferStep,
};

/// Fixtures that are played on at the same time, and the steps on each: 2,000 in all.
const FIXTURES: u64 = 4;
const STEPS: usize = 500;
/// So often it is looked at what the customers heard.
const CHUNK: usize = 50;
/// A phone that has not done it by then goes on by itself.
const IMPATIENCE: Duration = Duration::from_millis(60);
/// Between two steps something is said.
const BREATH: Duration = Duration::from_millis(25);

/// Nobody speaks as softly as this, in dBFS: every phone's tone is 19 dB above it, and what a
/// source that comes or goes within a block spreads over the band stays below it.
const SPOKEN: f32 = -35.0;

/// xorshift64*: the same seed, the same choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())].clone()
    }
}

/// Everybody, and what is known of what they did.
struct Crowd {
    fixture: SipFixture,
    dice: Dice,
    customers: Vec<Phone>,
    agents: Vec<Phone>,
    supervisors: Vec<Phone>,
    since: Instant,
    /// More than two were on a call of late, or a customer was: what the customer hears may be
    /// mixed.
    mixed: bool,
    counted: Counted,
}

#[derive(Debug, Default)]
struct Counted {
    of_agents: usize,
    silence: usize,
    mixed: usize,
    joins: usize,
    whispered: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_a_customer_gets_the_agents_packets_or_silence_and_never_a_supervisor() {
    let given = std::env::var("UNDERTONE_DICE").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| clock::now().wall.0);
    println!("the same choices again: UNDERTONE_DICE={seed}");
    let counted = join_all((0..FIXTURES).map(|fixture| played(seed ^ (fixture << 56)))).await;
    for counted in &counted {
        println!("{counted:?}");
    }
    let sum = |what: fn(&Counted) -> usize| counted.iter().map(what).sum::<usize>();
    // Were nothing heard and nobody coached, the above would say nothing.
    assert!(sum(|counted| counted.of_agents) > 2_000, "customers heard too little");
    assert!(sum(|counted| counted.joins) > 20, "supervisors joined too seldom");
    assert!(sum(|counted| counted.whispered) > 100, "agents were whispered to too little");
}

async fn played(seed: u64) -> Counted {
    let mut crowd = Crowd::open(seed).await;
    for step in 1..=STEPS {
        crowd.step().await;
        wait::elapse(BREATH).await;
        crowd.fixture.catch_up();
        crowd.note();
        if step % CHUNK == 0 {
            crowd.judge();
        }
    }
    crowd.end().await
}

impl Crowd {
    async fn open(seed: u64) -> Crowd {
        let called = Phone::start(outside()).await.expect("starts");
        let mut config = config();
        config.sip.trunks = vec![site(&called)];
        config.b2bua.supervision.invite_timeout = Duration::from_secs(2);
        config.b2bua.supervision.max_supervisors_per_device = 2;
        config.b2bua.ring_timeout = Duration::from_secs(2);
        let fixture = SipFixture::open(config).await;
        let caller = PhoneConfig { server: fixture.address(), ..outside() };
        let soon = AnswerPolicy::Auto(Duration::from_millis(30));
        Crowd {
            customers: vec![
                fixture.phone(CUSTOMER, soon).await,
                fixture.phone(CUSTOMER2, soon).await,
                Phone::start(caller).await.expect("starts"),
                called,
            ],
            agents: vec![
                fixture.phone(AGENT, soon).await,
                fixture.phone(AGENT, soon).await,
                fixture.phone(OTHER, soon).await,
            ],
            supervisors: vec![
                fixture.phone(BOSS, AnswerPolicy::ByHeader).await,
                fixture.phone(BOSS2, AnswerPolicy::ByHeader).await,
            ],
            fixture,
            dice: Dice(seed | 1),
            since: clock::instant(),
            mixed: false,
            counted: Counted::default(),
        }
    }

    fn anybody(&mut self) -> Phone {
        let all: Vec<Phone> = [&self.customers, &self.agents, &self.supervisors]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        self.dice.one(&all)
    }

    fn agent(&mut self) -> Phone {
        self.dice.one(&self.agents)
    }

    /// A call that goes on, and a device, mostly one that is on it.
    fn at(&mut self) -> Option<(DeviceId, CallId)> {
        let live: Vec<_> =
            self.fixture.calls.iter().filter(|call| !call.is_over()).cloned().collect();
        let call = (!live.is_empty()).then(|| self.dice.one(&live))?;
        let parties = call.parties.iter().filter(|party| party.role == PartyRole::Agent);
        let his: Vec<DeviceId> = parties.filter_map(|party| party.device.clone()).collect();
        let device = match self.dice.roll(5) {
            0 => self.dice.one(&[AGENT, OTHER, BOSS]).into(),
            _ if his.is_empty() => return None,
            _ => self.dice.one(&his),
        };
        Some((device, call.id))
    }

    async fn step(&mut self) {
        let (supervisor, target) =
            (self.dice.one(&[BOSS, BOSS, BOSS2]), self.dice.one(&[AGENT, AGENT, OTHER]));
        // Nobody barges in here, and nobody calls a supervisor, who would be a party: no customer
        // has to hear one.
        let activity = self.dice.one(&[Activity::Coach, Activity::Coach, Activity::ListenIn]);
        let elsewhere = self.dice.one(&["5001", "5002", "7001", "7002", "0123", "999"]);
        match self.dice.roll(34) {
            0..=5 => {
                let caller = self.dice.one(&self.customers[..3]);
                let number = self.dice.one(&["5001", "5001", "5002"]);
                soon(caller.call(number)).await;
            }
            6 => {
                let agent = self.agent();
                soon(agent.call(elsewhere)).await;
            }
            7 => soon(self.anybody().hang_up()).await,
            8..=13 => {
                let monitor = Command::StartMonitoring {
                    supervisor: supervisor.into(),
                    target: target.into(),
                    activity,
                    mode: self.dice.one(Mode::ALL),
                    scope: self.dice.one(Scope::ALL),
                    confirm_joins: false,
                    agent_side_only: self.dice.roll(8) == 0,
                };
                self.ask(monitor).await;
            }
            14 => {
                let supervisor = supervisor.into();
                self.ask(Command::StopMonitoring { supervisor }).await;
            }
            15 => {
                if let Some((_, call)) = self.at() {
                    let supervisor = supervisor.into();
                    self.ask(Command::SwitchMonitoring { supervisor, call, activity }).await;
                }
            }
            16 => {
                let agent = self.agent();
                match self.dice.roll(2) {
                    0 => soon(agent.hold()).await,
                    _ => soon(agent.retrieve()).await,
                }
            }
            17..=24 => self.control(elsewhere).await,
            25 => soon(self.agent().refer(elsewhere)).await,
            26 => {
                let (agent, line) = (self.agents[0].clone(), self.agents[1].clone());
                soon(agent.refer_to_line(elsewhere, &line)).await;
            }
            27 => {
                let after = Duration::from_millis(20);
                let policies = [
                    AnswerPolicy::Auto(after),
                    AnswerPolicy::Auto(after),
                    AnswerPolicy::Busy,
                    AnswerPolicy::Reject,
                    AnswerPolicy::Never,
                ];
                let policy = self.dice.one(&policies);
                soon(self.agent().set_answer(policy)).await;
                let policies = [
                    AnswerPolicy::ByHeader,
                    AnswerPolicy::ByHeader,
                    AnswerPolicy::Busy,
                    AnswerPolicy::Reject,
                ];
                let (policy, boss) = (self.dice.one(&policies), self.dice.one(&self.supervisors));
                soon(boss.set_answer(policy)).await;
            }
            28 => self.anybody().dtmf("1#"),
            29 => {
                let phone = self.anybody();
                phone.pause(self.dice.roll(4) == 0);
            }
            30 => {
                let phone = self.agent();
                match self.dice.roll(5) {
                    0 => soon(phone.unregister()).await,
                    _ => soon(phone.register()).await,
                }
            }
            31 => {
                let device = target.into();
                let on = self.dice.roll(5) == 0;
                self.ask(Command::SetDoNotDisturb { device, on }).await;
            }
            32 => {
                let device = target.into();
                let to = self.dice.one(&[
                    None,
                    None,
                    None,
                    None,
                    Some("5002".into()),
                    Some("0123".into()),
                ]);
                self.ask(Command::SetForwarding { device, to }).await;
            }
            _ => self.noise(),
        }
    }

    async fn control(&mut self, elsewhere: &str) {
        let Some((device, call)) = self.at() else {
            return;
        };
        let destination = elsewhere.into();
        let command = match self.dice.roll(19) {
            0 => Command::Hold { device, call },
            1 => Command::Retrieve { device, call },
            3 => Command::Mute { device, call, on: true },
            4 | 5 => Command::Mute { device, call, on: false },
            6 => Command::Hangup { device, call },
            7 => Command::SendDtmf { device, call, digits: "5".parse().unwrap() },
            8 => {
                let supervisor = self.dice.one(&[BOSS, BOSS2]).into();
                let muted = self.dice.roll(3) == 0;
                Command::MuteMonitoredParty { supervisor, call, muted }
            }
            9 | 10 => {
                let step = TransferStep::SingleStep { destination, user_data: Default::default() };
                Command::Transfer { device, call, step }
            }
            2 | 11 | 12 => {
                let step = TransferStep::Initiate { destination, user_data: Default::default() };
                Command::Transfer { device, call, step }
            }
            13 => {
                let step = TransferStep::Complete;
                Command::Transfer { device, call, step }
            }
            14 | 15 => {
                let step = TransferStep::Complete;
                Command::Conference { device, call, step }
            }
            16 | 17 => {
                let step = TransferStep::SingleStep { destination, user_data: Default::default() };
                Command::Conference { device, call, step }
            }
            _ => {
                let participant = destination;
                Command::RemoveParticipant { device, call, participant }
            }
        };
        self.ask(command).await;
    }

    async fn ask(&mut self, command: Command) {
        // A refusal is an answer.
        let _ = self.fixture.command(command).await;
    }

    /// What is no message at all comes to the SIP port.
    fn noise(&mut self) {
        let junk: Vec<u8> = (0..self.dice.roll(200)).map(|_| self.dice.roll(256) as u8).collect();
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        socket.send_to(&junk, self.fixture.address()).expect("sent");
    }

    fn note(&mut self) {
        for call in &self.fixture.calls {
            let live = |role| {
                let mut of_role = call.parties.iter().filter(move |party| party.role == role);
                of_role.by_ref().filter(|party| party.state != LegState::Released).count()
            };
            let (agents, customers) = (live(PartyRole::Agent), live(PartyRole::Customer));
            self.mixed |= agents + customers > 2;
        }
        let is_joined = |supervisor: &str| {
            let monitor = self.fixture.monitor_of(supervisor);
            monitor.is_some_and(|monitor| matches!(monitor.state, MonitorState::Joined { .. }))
        };
        self.counted.joins += usize::from(is_joined(BOSS)) + usize::from(is_joined(BOSS2));
    }

    /// Holds what the customers got since the last time against what everybody but the supervisors
    /// has sent.
    fn judge(&mut self) {
        let until = clock::instant();
        let received: Vec<Vec<Packet>> =
            self.customers.iter().map(|phone| phone.received_between(self.since, until)).collect();
        let sent: BTreeSet<Vec<u8>> = self
            .agents
            .iter()
            .chain(&self.customers)
            .flat_map(|phone| phone.sent(self.since - Duration::from_secs(2)))
            .map(|packet| packet.payload.to_vec())
            .collect();
        for packets in received {
            let mut strange = Vec::new();
            for packet in packets {
                let samples = packet.samples();
                if sent.contains(&*packet.payload) {
                    self.counted.of_agents += 1;
                } else if samples.iter().all(|sample| sample.unsigned_abs() <= 32) {
                    self.counted.silence += 1;
                } else {
                    assert!(self.mixed, "packet {} is of no agent and is no silence", packet.seq);
                    self.counted.mixed += 1;
                    strange.push((packet.seq, samples));
                }
            }
            for name in [BOSS, BOSS2] {
                // Only packets that follow each other make a block: a splice of two phases spreads
                // every other voice over the whole band.
                let mut levels: Vec<f32> = strange
                    .chunk_by(|(before, _), (after, _)| before.wrapping_add(1) == *after)
                    .flat_map(|run| run.chunks_exact(5))
                    .map(|block| block.iter().flat_map(|(_, samples)| samples.clone()).collect())
                    .map(|block: Vec<i16>| audio::dbfs(audio::tone_power(&block, hz(name))))
                    .collect();
                levels.sort_by(f32::total_cmp);
                if let Some(middle) = levels.get(levels.len() / 2) {
                    assert!(
                        *middle < SPOKEN,
                        "{name} is in what a customer hears in a conference: {middle} dBFS"
                    );
                }
            }
        }
        for agent in &self.agents {
            let whispered = |packet: &&Packet| {
                audio::dbfs(audio::tone_power(&packet.samples(), hz(BOSS))) > -25.0
            };
            self.counted.whispered +=
                agent.received_between(self.since, until).iter().filter(whispered).count();
        }
        self.since = until;
        // What was mixed a moment ago may still be on its way.
        self.mixed =
            self.fixture.calls.iter().any(|call| !call.is_over() && call.parties.len() > 2);
    }

    async fn end(mut self) -> Counted {
        for supervisor in [BOSS, BOSS2] {
            let supervisor = supervisor.into();
            self.ask(Command::StopMonitoring { supervisor }).await;
        }
        let everybody: Vec<Phone> = [&self.customers, &self.agents, &self.supervisors]
            .into_iter()
            .flatten()
            .cloned()
            .collect();
        let deadline = clock::instant() + SOON;
        // A phone that was called back meanwhile hangs up once more.
        while self.fixture.backend.media().legs > 0 {
            assert!(
                clock::instant() < deadline,
                "ports are left: {}",
                self.fixture.backend.media().legs
            );
            for phone in &everybody {
                soon(phone.hang_up()).await;
            }
            self.fixture.catch_up();
            wait::elapse(BREATH).await;
        }
        self.judge();
        eventually("every port is closed", || self.fixture.backend.media().legs == 0).await;
        assert_eq!(self.fixture.backend.media().leak_guards, 0);
        self.fixture.backend.shutdown().await;
        self.counted
    }
}

/// What a phone can not do now it need not do.
async fn soon<T>(doing: impl Future<Output = T>) {
    let _ = tokio::time::timeout(IMPATIENCE, doing).await;
}
