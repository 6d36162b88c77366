//! What can happen to a coached call, in every mode and scope, with software phones on sockets.
//! After each step it is measured who hears whom, to within one packet of the moment of change; and
//! at the end every packet that the customer got is one of an agent's, or silence.

use crate::support::sip_fixture::{
    AGENT, BOSS, BOSS2, CUSTOMER, CUSTOMER2, OTHER, OUTSIDE, SOON, SipFixture, accounted_for,
    config, eventually, from_now_on, hz, mixed_in, outside, site,
};
use futures_util::future::join_all;
use std::time::{Duration, Instant};
use undertone::clock;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneEvent};
use undertone::media::PortUse;
use undertone::model::{
    Activity, CallId, Command, Fact, LegState, Mode, MonitorFact, MonitorState, Reason, Scope,
    TransferStep,
};
use undertone::sip::backend::BackendConfig;

/// Nobody but these two hear each other.
const TALK: [(&str, &str); 2] = [(CUSTOMER, AGENT), (AGENT, CUSTOMER)];
const COACH: [(&str, &str); 3] =
    [(CUSTOMER, AGENT), (AGENT, "customer boss"), (BOSS, "customer agent")];

/// A fixture in which an agent is coached, or about to be.
struct Stage {
    fixture: SipFixture,
    mode: Mode,
    scope: Scope,
    customer: Phone,
    agent: Phone,
    boss: Phone,
    since: Instant,
}

/// Plays it in every mode and scope, each on a fixture of its own, at the same time. With scope
/// Agent the monitor is armed before the call, with scope Call the call is there already.
async fn in_every_way(play: impl AsyncFn(Stage)) {
    in_every_way_of(config, play).await;
}

async fn in_every_way_of(config: impl Fn() -> BackendConfig, play: impl AsyncFn(Stage)) {
    let ways =
        Mode::ALL.iter().flat_map(|mode| Scope::ALL.iter().map(move |scope| (*mode, *scope)));
    let played = ways.map(|(mode, scope)| {
        let mut config = config();
        // Where ports are shared and calls are on two threads, legs go from one to the other.
        config.media.port_use =
            if mode == Mode::AllCalls { PortUse::Shared } else { PortUse::PerLeg };
        config.media.workers = 2;
        let stage = Stage::open(config, mode, scope);
        let play = &play;
        async move {
            println!("mode {mode}, scope {scope}");
            play(stage.await).await;
        }
    });
    join_all(played).await;
}

impl Stage {
    async fn open(config: BackendConfig, mode: Mode, scope: Scope) -> Stage {
        let fixture = SipFixture::open(config).await;
        let boss = fixture.phone(BOSS, AnswerPolicy::ByHeader).await;
        let agent = fixture.phone(AGENT, AnswerPolicy::Auto(Duration::ZERO)).await;
        let customer = fixture.phone(CUSTOMER, AnswerPolicy::Never).await;
        Stage { fixture, mode, scope, customer, agent, boss, since: clock::instant() }
    }

    async fn arm(&mut self) {
        self.fixture.monitor(Activity::Coach, self.mode, self.scope).await;
    }

    /// The customer has called, and the coach is there.
    async fn coached(&mut self) -> CallId {
        if self.scope == Scope::Agent {
            self.arm().await;
        }
        let call = self.call().await;
        if self.scope == Scope::Call {
            self.arm().await;
        }
        self.fixture.is_joined(BOSS).await;
        self.hear(&COACH).await;
        call
    }

    async fn call(&mut self) -> CallId {
        self.customer.call("5001").await.expect("calls");
        self.customer.established(SOON).await.expect("answered");
        self.agent.established(SOON).await.expect("answered");
        self.fixture.state(AGENT, LegState::Established).await
    }

    #[track_caller]
    fn hear(&self, expected: &[(&'static str, &'static str)]) -> impl Future<Output = ()> + use<> {
        self.hear_with(&[], expected)
    }

    /// So it is from now on, among the three and these.
    #[track_caller]
    fn hear_with(
        &self,
        more: &[(&'static str, &Phone)],
        expected: &[(&'static str, &'static str)],
    ) -> impl Future<Output = ()> + use<> {
        let mut phones = vec![(CUSTOMER, &self.customer), (AGENT, &self.agent), (BOSS, &self.boss)];
        phones.extend(more);
        from_now_on(&phones, expected)
    }

    async fn armed(&mut self) {
        let armed = |monitor: Option<&MonitorFact>| {
            monitor.is_some_and(|monitor| monitor.state == MonitorState::Armed)
        };
        self.fixture.monitor_is(BOSS, armed).await;
    }

    async fn gone(&mut self) {
        self.fixture.monitor_is(BOSS, |monitor| monitor.is_none()).await;
    }

    /// The supervisor was there for a call and is not any more: with NextCall that was all, with
    /// AllCalls the supervisor comes to the next one.
    async fn spent(&mut self) {
        match self.mode {
            Mode::NextCall => self.gone().await,
            Mode::AllCalls => self.armed().await,
        }
    }

    /// Nobody is on a call; the next one is coached, or is not.
    async fn next_call(&mut self) {
        self.call().await;
        match self.mode {
            Mode::AllCalls => {
                self.fixture.is_joined(BOSS).await;
                self.hear(&COACH).await;
            }
            Mode::NextCall => self.hear(&TALK).await,
        }
    }

    async fn transfer(&mut self, call: &CallId, step: TransferStep) {
        let (device, call) = (AGENT.into(), call.clone());
        self.fixture.command(Command::Transfer { device, call, step }).await.expect("accepted");
    }

    /// The customer has heard nothing that was not allowed, all go home, and nothing is left.
    async fn over(self, others: &[&Phone]) {
        let agents: Vec<&Phone> = [&self.agent].into_iter().chain(others.iter().copied()).collect();
        accounted_for(&self.customer, &agents, self.since);
        self.go_home(others).await;
    }

    async fn go_home(self, others: &[&Phone]) {
        for phone in
            [&self.customer, &self.agent, &self.boss].into_iter().chain(others.iter().copied())
        {
            let _ = phone.hang_up().await;
        }
        eventually("every port is closed", || self.fixture.backend.media().legs == 0).await;
        assert_eq!(self.fixture.backend.media().leak_guards, 0);
        self.fixture.backend.shutdown().await;
    }
}

fn to(destination: &str) -> TransferStep {
    TransferStep::SingleStep { destination: destination.into(), user_data: Default::default() }
}

fn ask(destination: &str) -> TransferStep {
    TransferStep::Initiate { destination: destination.into(), user_data: Default::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_customer_hangs_up() {
    in_every_way(async |mut stage| {
        stage.coached().await;
        stage.customer.hang_up().await.expect("hangs up");
        stage.boss.ended(SOON).await.expect("released");
        stage.agent.ended(SOON).await.expect("over");
        stage.spent().await;
        stage.next_call().await;
        stage.over(&[]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_hangs_up() {
    in_every_way(async |mut stage| {
        stage.coached().await;
        stage.agent.hang_up().await.expect("hangs up");
        stage.boss.ended(SOON).await.expect("released");
        stage.customer.ended(SOON).await.expect("over");
        stage.spent().await;
        stage.next_call().await;
        stage.over(&[]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_hangs_up() {
    in_every_way(async |mut stage| {
        stage.coached().await;
        stage.boss.hang_up().await.expect("hangs up");
        stage.spent().await;
        stage.hear(&TALK).await;
        stage.customer.hang_up().await.expect("hangs up");
        stage.agent.ended(SOON).await.expect("over");
        stage.next_call().await;
        stage.over(&[]).await;
    })
    .await;
}

/// The customer is with another now. With scope Call the coach went along.
async fn handed_over(stage: &mut Stage, other: &Phone) {
    match stage.scope {
        Scope::Agent => {
            stage.spent().await;
            stage.hear_with(&[(OTHER, other)], &[(CUSTOMER, OTHER), (OTHER, CUSTOMER)]).await;
        }
        Scope::Call => {
            let follows = [(CUSTOMER, OTHER), (OTHER, "customer boss"), (BOSS, "customer other")];
            stage.hear_with(&[(OTHER, other)], &follows).await;
            stage.customer.hang_up().await.expect("hangs up");
            stage.boss.ended(SOON).await.expect("released");
            stage.spent().await;
        }
    }
}

async fn blind(stage: &mut Stage, by_phone: bool) -> Phone {
    let other = stage.fixture.phone(OTHER, AnswerPolicy::OnRequest).await;
    let call = stage.coached().await;
    if by_phone {
        stage.agent.refer("5002").await.expect("accepted");
    } else {
        stage.transfer(&call, to("5002")).await;
    }
    stage.agent.ended(SOON).await.expect("free");
    match stage.scope {
        Scope::Agent => {
            stage.spent().await;
            stage.hear_with(&[(OTHER, &other)], &[]).await;
        }
        Scope::Call => stage.hear_with(&[(OTHER, &other)], &[(BOSS, CUSTOMER)]).await,
    }
    other.answer().await.expect("answers");
    stage.customer_hears(&other).await;
    handed_over(stage, &other).await;
    other
}

impl Stage {
    /// Waits until the customer gets something of what this agent says.
    async fn customer_hears(&self, agent: &Phone) {
        agent.until(|event| *event == PhoneEvent::Established, SOON).await.expect("answered");
        let since = clock::instant();
        eventually("they are through", || {
            let sent: Vec<_> = agent.sent(since).into_iter().map(|packet| packet.payload).collect();
            self.customer.received(since).iter().any(|packet| sent.contains(&packet.payload))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blind_transfer_by_operation() {
    in_every_way(async |mut stage| {
        let other = blind(&mut stage, false).await;
        stage.over(&[&other]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blind_transfer_by_the_phone() {
    in_every_way(async |mut stage| {
        let other = blind(&mut stage, true).await;
        stage.over(&[&other]).await;
    })
    .await;
}

/// The agent asks the colleague on the phone's second line, while the customer and the coach wait.
async fn consulting(stage: &mut Stage) -> (CallId, Phone, Phone) {
    let other = stage.fixture.phone(OTHER, AnswerPolicy::Auto(Duration::ZERO)).await;
    let call = stage.coached().await;
    let line = stage.fixture.phone(AGENT, AnswerPolicy::ByHeader).await;
    stage.transfer(&call, ask("5002")).await;
    line.established(SOON).await.expect("answered");
    other.established(SOON).await.expect("asked");
    stage.fixture.state(OTHER, LegState::Established).await;
    // The two lines have the same voice; what the first says is for the coach alone.
    let waits = [(AGENT, "boss"), (BOSS, "customer agent")];
    stage.hear_with(&[(OTHER, &other)], &waits).await;
    from_now_on(
        &[(AGENT, &line), (OTHER, &other), (CUSTOMER, &stage.customer), (BOSS, &stage.boss)],
        &[(AGENT, OTHER), (OTHER, AGENT), (BOSS, CUSTOMER)],
    )
    .await;
    (call, line, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attended_transfer() {
    in_every_way(async |mut stage| {
        let (call, line, other) = consulting(&mut stage).await;
        stage.transfer(&call, TransferStep::Complete).await;
        line.ended(SOON).await.expect("free");
        stage.agent.ended(SOON).await.expect("free");
        handed_over(&mut stage, &other).await;
        stage.over(&[&line, &other]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consultation_that_is_ended_again() {
    in_every_way(async |mut stage| {
        let (call, line, other) = consulting(&mut stage).await;
        line.hang_up().await.expect("hangs up");
        other.ended(SOON).await.expect("over");
        let device = AGENT.into();
        stage.fixture.command(Command::Retrieve { device, call }).await.expect("accepted");
        stage.hear(&COACH).await;
        stage.over(&[&line, &other]).await;
    })
    .await;
}

/// The agent, on the second line, the colleague and the customer talk with each other; the coach
/// whispers to the agent.
async fn conferring(stage: &mut Stage) -> (Phone, Phone) {
    let (call, line, other) = consulting(stage).await;
    let (device, step) = (AGENT.into(), TransferStep::Complete);
    stage.fixture.command(Command::Conference { device, call, step }).await.expect("accepted");
    stage.agent.ended(SOON).await.expect("one line is enough");
    let phones =
        [(CUSTOMER, &stage.customer), (AGENT, &line), (OTHER, &other), (BOSS, &stage.boss)];
    let all = [
        (CUSTOMER, "agent other"),
        (AGENT, "customer other boss"),
        (OTHER, "customer agent"),
        (BOSS, "customer agent other"),
    ];
    from_now_on(&phones, &all).await;
    for phone in [&stage.customer, &other] {
        let leaked = mixed_in(phone, hz(BOSS)).await;
        assert!(leaked < -60.0, "the whisper was heard: {leaked} dBFS");
    }
    (line, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conference_that_the_agent_leaves() {
    in_every_way(async |mut stage| {
        let (line, other) = conferring(&mut stage).await;
        // What was mixed is no agent's packet: it is the time after that has to be accounted for.
        stage.since = clock::instant() + Duration::from_millis(300);
        line.hang_up().await.expect("leaves");
        handed_over(&mut stage, &other).await;
        stage.over(&[&line, &other]).await;
    })
    .await;
}

/// The customer leaves a conference of two agents: with scope Agent the coach stays with the agent,
/// with scope Call it was the customer's call.
#[tokio::test(flavor = "multi_thread")]
async fn a_conference_that_the_customer_leaves() {
    in_every_way(async |mut stage| {
        let (line, other) = conferring(&mut stage).await;
        stage.customer.hang_up().await.expect("leaves");
        stage.fixture.state(CUSTOMER, LegState::Released).await;
        let heard: &[(&str, &str)] = match stage.scope {
            Scope::Agent => &[(AGENT, "other boss"), (OTHER, AGENT), (BOSS, "agent other")],
            Scope::Call => {
                stage.boss.ended(SOON).await.expect("released");
                stage.spent().await;
                &[(AGENT, OTHER), (OTHER, AGENT)]
            }
        };
        from_now_on(&[(AGENT, &line), (OTHER, &other), (BOSS, &stage.boss)], heard).await;
        stage.go_home(&[&line, &other]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_to_another_agent_who_is_monitored_too() {
    let two = || {
        let mut config = config();
        config.b2bua.supervision.max_supervisors_per_device = 2;
        config
    };
    in_every_way_of(two, async |mut stage| {
        let boss2 = stage.fixture.phone(BOSS2, AnswerPolicy::ByHeader).await;
        let other = stage.fixture.phone(OTHER, AnswerPolicy::Auto(Duration::ZERO)).await;
        let call = stage.coached().await;
        stage
            .fixture
            .command(Command::StartMonitoring {
                supervisor: BOSS2.into(),
                target: OTHER.into(),
                activity: Activity::Coach,
                mode: stage.mode,
                scope: stage.scope,
                confirm_joins: false,
                agent_side_only: false,
            })
            .await
            .expect("accepted");
        stage.transfer(&call, to("5002")).await;
        stage.agent.ended(SOON).await.expect("free");
        boss2.established(SOON).await.expect("joined");
        stage.fixture.is_joined(BOSS2).await;
        let more = [(OTHER, &other), (BOSS2, &boss2)];
        match stage.scope {
            Scope::Agent => {
                stage.spent().await;
                let his_own =
                    [(CUSTOMER, OTHER), (OTHER, "customer boss2"), (BOSS2, "customer other")];
                stage.hear_with(&more, &his_own).await;
            }
            Scope::Call => {
                let both = [
                    (CUSTOMER, OTHER),
                    (OTHER, "customer boss boss2"),
                    (BOSS, "customer other"),
                    (BOSS2, "customer other"),
                ];
                stage.hear_with(&more, &both).await;
            }
        }
        stage.over(&[&other, &boss2]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_out_to_the_trunk() {
    let play = async |mode, scope| {
        let out = Phone::start(outside()).await.expect("starts");
        let mut config = config();
        config.sip.trunks = vec![site(&out)];
        let mut stage = Stage::open(config, mode, scope).await;
        let call = stage.coached().await;
        stage.transfer(&call, to("0123")).await;
        stage.agent.ended(SOON).await.expect("free");
        stage.customer_hears(&out).await;
        match stage.scope {
            Scope::Agent => {
                stage.spent().await;
                stage
                    .hear_with(&[(OUTSIDE, &out)], &[(CUSTOMER, OUTSIDE), (OUTSIDE, CUSTOMER)])
                    .await;
            }
            Scope::Call => {
                let no_agent =
                    [(CUSTOMER, OUTSIDE), (OUTSIDE, CUSTOMER), (BOSS, "customer outside")];
                stage.hear_with(&[(OUTSIDE, &out)], &no_agent).await;
            }
        }
        stage.over(&[&out]).await;
    };
    let ways =
        Mode::ALL.iter().flat_map(|mode| Scope::ALL.iter().map(move |scope| (*mode, *scope)));
    join_all(ways.map(|(mode, scope)| play(mode, scope))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hold_and_retrieve_during_a_whisper() {
    in_every_way(async |mut stage| {
        let call = stage.coached().await;
        let held = [(AGENT, BOSS), (BOSS, "customer agent")];
        let (device, at) = (|| AGENT.into(), || call.clone());
        stage
            .fixture
            .command(Command::Hold { device: device(), call: at() })
            .await
            .expect("accepted");
        stage.hear(&held).await;
        stage
            .fixture
            .command(Command::Retrieve { device: device(), call: at() })
            .await
            .expect("accepted");
        stage.hear(&COACH).await;
        stage.agent.hold().await.expect("accepted");
        stage.fixture.state(AGENT, LegState::Held).await;
        // A phone that holds with sendonly says that it hears nothing, and what it says is for who
        // is held.
        stage.hear(&[(CUSTOMER, AGENT), (BOSS, "customer agent")]).await;
        stage.agent.retrieve().await.expect("accepted");
        stage.hear(&COACH).await;
        stage.over(&[]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_call_waits_and_is_answered() {
    in_every_way(async |mut stage| {
        stage.coached().await;
        let line = stage.fixture.phone(AGENT, AnswerPolicy::OnRequest).await;
        let customer2 = stage.fixture.phone(CUSTOMER2, AnswerPolicy::Never).await;
        customer2.call("5001").await.expect("calls");
        line.until(|event| matches!(event, PhoneEvent::Incoming { .. }), SOON)
            .await
            .expect("rings");
        stage.hear_with(&[(CUSTOMER2, &customer2)], &COACH).await;
        line.answer().await.expect("answers");
        customer2.established(SOON).await.expect("answered");
        // The supervisor follows the call that was joined.
        stage.hear_with(&[(CUSTOMER2, &customer2)], &COACH).await;
        stage.customer.hang_up().await.expect("hangs up");
        stage.boss.ended(SOON).await.expect("released");
        stage.agent.ended(SOON).await.expect("over");
        let second = [(CUSTOMER2, &customer2), (AGENT, &line), (BOSS, &stage.boss)];
        match stage.mode {
            Mode::NextCall => {
                stage.fixture.monitor_is(BOSS, |monitor| monitor.is_none()).await;
                from_now_on(&second, &[(CUSTOMER2, AGENT), (AGENT, CUSTOMER2)]).await;
            }
            Mode::AllCalls => {
                stage.boss.established(SOON).await.expect("invited to the other");
                stage.fixture.is_joined(BOSS).await;
                from_now_on(
                    &second,
                    &[(CUSTOMER2, AGENT), (AGENT, "customer2 boss"), (BOSS, "customer2 agent")],
                )
                .await;
            }
        }
        accounted_for(&customer2, &[&line], stage.since);
        stage.over(&[&line, &customer2]).await;
    })
    .await;
}

/// The supervisor's phone can not be had: the supervisor is told, the monitor stays, and the
/// supervisor comes to the next call.
async fn not_to_be_had(policy: AnswerPolicy) {
    let impatient = || {
        let mut config = config();
        config.b2bua.supervision.invite_timeout = Duration::from_millis(700);
        config
    };
    in_every_way_of(impatient, async |mut stage| {
        stage.boss.set_answer(policy).await.expect("set");
        stage.arm().await;
        stage.call().await;
        let failure = stage
            .fixture
            .until(|fact| match fact {
                Fact::Failed(failure) => Some(failure.clone()),
                _ => None,
            })
            .await;
        assert_eq!(failure.device, BOSS.into());
        stage.armed().await;
        stage.hear(&TALK).await;
        stage.customer.hang_up().await.expect("hangs up");
        stage.agent.ended(SOON).await.expect("over");
        stage.boss.set_answer(AnswerPolicy::ByHeader).await.expect("set");
        stage.call().await;
        stage.fixture.is_joined(BOSS).await;
        stage.hear(&COACH).await;
        stage.over(&[]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisors_phone_is_busy() {
    not_to_be_had(AnswerPolicy::Busy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisors_phone_rejects() {
    not_to_be_had(AnswerPolicy::Reject).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_does_not_answer() {
    not_to_be_had(AnswerPolicy::Never).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_cancels() {
    in_every_way(async |mut stage| {
        stage.coached().await;
        let stop = || Command::StopMonitoring { supervisor: BOSS.into() };
        stage.fixture.command(stop()).await.expect("accepted");
        stage.boss.ended(SOON).await.expect("released");
        stage.gone().await;
        stage.hear(&TALK).await;
        let refusal = stage.fixture.command(stop()).await.expect_err("there is nothing left");
        assert_eq!(refusal.reason, Reason::InvalidState);
        stage.over(&[]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_switches_what_he_does() {
    in_every_way(async |mut stage| {
        let call = stage.coached().await;
        let listen = [TALK[0], TALK[1], COACH[2]];
        let barge = [(CUSTOMER, "agent boss"), COACH[1], COACH[2]];
        let order = [
            Activity::ListenIn,
            Activity::Coach,
            Activity::ListenIn,
            Activity::BargeIn,
            Activity::Coach,
        ];
        for activity in order {
            if activity == Activity::BargeIn {
                accounted_for(&stage.customer, &[&stage.agent], stage.since);
            }
            let (supervisor, call) = (BOSS.into(), call.clone());
            let switch = Command::SwitchMonitoring { supervisor, call, activity };
            stage.fixture.command(switch).await.expect("accepted");
            match activity {
                Activity::ListenIn => stage.hear(&listen).await,
                Activity::Coach => {
                    stage.hear(&COACH).await;
                    stage.since = clock::instant();
                }
                Activity::BargeIn => stage.hear(&barge).await,
            }
        }
        let invited = stage
            .boss
            .events()
            .into_iter()
            .filter(|happened| matches!(happened.event, PhoneEvent::Incoming { .. }));
        assert_eq!(invited.count(), 1, "all in one call");
        stage.hear(&COACH).await;
        stage.over(&[]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_turns_to_another_agent() {
    in_every_way(async |mut stage| {
        let other = stage.fixture.phone(OTHER, AnswerPolicy::Auto(Duration::ZERO)).await;
        let customer2 = stage.fixture.phone(CUSTOMER2, AnswerPolicy::Never).await;
        customer2.call("5002").await.expect("calls");
        customer2.established(SOON).await.expect("answered");
        stage.coached().await;
        stage
            .fixture
            .command(Command::StartMonitoring {
                supervisor: BOSS.into(),
                target: OTHER.into(),
                activity: Activity::Coach,
                mode: stage.mode,
                scope: stage.scope,
                confirm_joins: false,
                agent_side_only: false,
            })
            .await
            .expect("accepted");
        stage.boss.ended(SOON).await.expect("released");
        stage.boss.established(SOON).await.expect("invited");
        stage.fixture.is_joined(BOSS).await;
        let there = [
            TALK[0],
            TALK[1],
            (CUSTOMER2, OTHER),
            (OTHER, "customer2 boss"),
            (BOSS, "customer2 other"),
        ];
        stage.hear_with(&[(OTHER, &other), (CUSTOMER2, &customer2)], &there).await;
        accounted_for(&customer2, &[&other], stage.since);
        stage.over(&[&other, &customer2]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_supervisor_comes() {
    let second = |stage: &Stage| Command::StartMonitoring {
        supervisor: BOSS2.into(),
        target: AGENT.into(),
        activity: Activity::Coach,
        mode: stage.mode,
        scope: stage.scope,
        confirm_joins: false,
        agent_side_only: false,
    };
    in_every_way(async |mut stage| {
        let _boss2 = stage.fixture.phone(BOSS2, AnswerPolicy::ByHeader).await;
        stage.coached().await;
        let refusal = stage.fixture.command(second(&stage)).await.expect_err("one a device");
        assert_eq!(refusal.reason, Reason::InUse);
        stage.hear(&COACH).await;
        stage.over(&[]).await;
    })
    .await;
    let two = || {
        let mut config = config();
        config.b2bua.supervision.max_supervisors_per_device = 2;
        config
    };
    in_every_way_of(two, async |mut stage| {
        let boss2 = stage.fixture.phone(BOSS2, AnswerPolicy::ByHeader).await;
        stage.coached().await;
        stage.fixture.command(second(&stage)).await.expect("two a device");
        boss2.established(SOON).await.expect("invited");
        stage.fixture.is_joined(BOSS2).await;
        let both = [
            TALK[0],
            (AGENT, "customer boss boss2"),
            (BOSS, "customer agent"),
            (BOSS2, "customer agent"),
        ];
        stage.hear_with(&[(BOSS2, &boss2)], &both).await;
        stage.boss.hang_up().await.expect("hangs up");
        stage.spent().await;
        let one = [TALK[0], (AGENT, "customer boss2"), (BOSS2, "customer agent")];
        stage.hear_with(&[(BOSS2, &boss2)], &one).await;
        stage.over(&[&boss2]).await;
    })
    .await;
}
