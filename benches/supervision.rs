//! What a monitor costs at rest, and whether one fact or one request costs more where there are
//! many.
//!
//! ```text
//! cargo bench --bench supervision -- [--json]
//! ```
//!
//! The pure machines alone, supervision and gateway: no socket, no clock. At each size every tenth
//! monitor's agent is on a call and the supervisor has joined it. A fact is a hold or its end on
//! one of those calls; a request changes what a supervisor does, at the gateway with its line in
//! the audit; a read is the calls of somebody who is on one. Memory is what the allocator, the
//! product's, holds. A time is the median of the rounds that follow a first one; below it the least
//! and the most.

mod measure;

use measure::{Counting, Spread};
use std::error::Error;
use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;
use undertone::clock::instant;
use undertone::gateway::{self, DeviceEntry, Directory, Gateway, Group, Restored, Token, User};
use undertone::model::{
    Activity, Answer, CallFact, CallType, Capabilities, Command, DeviceFact, DeviceId, DeviceKind,
    Fact, Feature, GroupId, LegState, Mode, MonitorFact, MonitorState, Now, PartyFact, PartyRole,
    Query, Request, RequestEnvelope, Role, Scope, TargetRef, Timestamp, UserId,
};
use undertone::supervision::{LegOutcome, Supervision, SupervisionConfig, SupervisionOutput};

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
/// The target of issue and mission.
const MOST_BYTES: usize = 2048;
const STEPS: usize = 20_000;
/// Rounds that count, after one that does not.
const ROUNDS: usize = 7;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Row {
    monitors: usize,
    bytes: usize,
    /// In nanoseconds, as all.
    fact: Spread,
    request: Spread,
    gateway: AtGateway,
}

struct AtGateway {
    fact: Spread,
    request: Spread,
    read: Spread,
}

impl Row {
    fn times(&self) -> [(&'static str, &Spread); 5] {
        let AtGateway { fact, request, read } = &self.gateway;
        [
            ("fact_ns", &self.fact),
            ("request_ns", &self.request),
            ("gateway_fact_ns", fact),
            ("gateway_request_ns", request),
            ("gateway_read_ns", read),
        ]
    }

    fn json(&self) -> serde_json::Value {
        let mut row =
            serde_json::json!({ "monitors": self.monitors, "bytes_per_monitor": self.bytes });
        for (name, time) in self.times() {
            row[name] = (time.middle as u64).into();
            row[format!("{name}_range")] = serde_json::json!([time.least as u64, time.most as u64]);
        }
        row
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let json = std::env::args().any(|argument| argument == "--json");
    let rows: Vec<Row> = SIZES.iter().map(|size| measure(*size)).collect();
    let first = rows.first().ok_or("no size")?;
    if json {
        for row in &rows {
            println!("{}", row.json());
        }
        return Ok(());
    }
    println!(
        "                                                supervision                       gateway"
    );
    println!(
        " monitors   live calls   bytes a monitor   one fact        one request        one \
         fact        one request      one read   (× the smallest size)"
    );
    for row in &rows {
        let cell = |ours: &Spread, smallest: &Spread| {
            format!("{:>8.2} µs {:>4.1}×", ours.middle / 1e3, ours.middle / smallest.middle)
        };
        let (times, smallest) = (row.times(), first.times());
        let [fact, request, told, asked, read]: [String; 5] =
            std::array::from_fn(|at| cell(times[at].1, smallest[at].1));
        println!(
            "{:>9}{:>13}{:>18}{fact}{request}   {told}{asked}{read}",
            row.monitors,
            row.monitors / 10,
            row.bytes,
        );
        let [fact, request, told, asked, read] = row
            .times()
            .map(|(_, time)| format!("{:>8.2}–{:<7.2}", time.least / 1e3, time.most / 1e3));
        println!("{:>40}{fact} {request}    {told} {asked} {read}", "");
    }
    let largest = rows.iter().map(|row| row.bytes).max().unwrap_or_default();
    println!("a monitor at rest: {largest} bytes of at most {MOST_BYTES}");
    Ok(())
}

fn measure(monitors: usize) -> Row {
    let now = Now { mono: instant(), wall: Timestamp(0) };
    let fact = |n| MonitorFact {
        supervisor: supervisor(n),
        target: agent(n),
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope: Scope::Call,
        confirm_joins: false,
        agent_side_only: false,
        state: MonitorState::Armed,
    };
    let armed = || (0..monitors).map(fact).collect::<Vec<MonitorFact>>();
    let before = Counting::held();
    let mut machine = Supervision::new(SupervisionConfig::default(), armed());
    let held = usize::try_from(Counting::held() - before).expect("nothing else is freed meanwhile");
    let bytes = held / monitors;

    for n in (0..monitors).step_by(10) {
        machine.handle_call(&call(n, LegState::Established), now);
        drain(&mut machine);
        machine.handle_leg(
            &supervisor(n),
            &call(n, LegState::Established).id,
            LegOutcome::Answered,
            now,
        );
        drain(&mut machine);
    }
    let facts = holds(monitors);
    let mut activities = Activities::new(monitors);
    let mut rounds = Vec::new();
    for _ in 0..=ROUNDS {
        let requests: Vec<Command> = (0..STEPS)
            .map(|step| who(step, monitors))
            .map(|n| Command::StartMonitoring {
                supervisor: supervisor(n),
                target: agent(n),
                activity: activities.next_of(n),
                mode: Mode::AllCalls,
                scope: Scope::Call,
                confirm_joins: false,
                agent_side_only: false,
            })
            .collect();
        let begun = instant();
        for fact in &facts {
            machine.handle_call(black_box(fact), now);
            drain(&mut machine);
        }
        let between = instant();
        for request in &requests {
            let done = machine.handle_command(black_box(request), now);
            assert!(done.is_ok(), "{done:?}");
            drain(&mut machine);
        }
        rounds.push([a_step(begun, between), a_step(between, instant())]);
    }
    let [fact, request] = spreads(&rounds);
    Row { monitors, bytes, fact, request, gateway: measure_gateway(monitors, now) }
}

/// Whose turn it is.
fn who(step: usize, monitors: usize) -> usize {
    step * 7 % monitors
}

/// Nanoseconds.
fn a_step(from: Instant, until: Instant) -> f64 {
    (until - from).as_nanos() as f64 / STEPS as f64
}

/// Of the rounds that count.
fn spreads<const N: usize>(rounds: &[[f64; N]]) -> [Spread; N] {
    std::array::from_fn(|at| {
        Spread::of(rounds.iter().skip(1).map(|round| round[at])).expect("a round")
    })
}

/// What each supervisor does, so that every request changes it, in every round.
struct Activities(Vec<usize>);

impl Activities {
    fn new(monitors: usize) -> Self {
        let coach = Activity::ALL.iter().position(|activity| *activity == Activity::Coach);
        Self(vec![coach.unwrap_or_default(); monitors])
    }

    fn next_of(&mut self, n: usize) -> Activity {
        let at = &mut self.0[n];
        *at = (*at + 1) % Activity::ALL.len();
        Activity::ALL[*at]
    }
}

/// Holds and their ends, one call after the other.
fn holds(monitors: usize) -> Vec<CallFact> {
    let live: Vec<usize> = (0..monitors).step_by(10).collect();
    let hold = |step: usize| {
        let state = if (step / live.len()).is_multiple_of(2) {
            LegState::Held
        } else {
            LegState::Established
        };
        call(live[step % live.len()], state)
    };
    (0..STEPS).map(hold).collect()
}

fn measure_gateway(monitors: usize, now: Now) -> AtGateway {
    let mut directory = Directory::default();
    for n in 0..monitors {
        for (device, role) in [(agent(n), Role::Agent), (supervisor(n), Role::Supervisor)] {
            let id = user(&device);
            directory.devices.insert(
                device.clone(),
                Arc::new(DeviceEntry {
                    id: device.clone(),
                    number: device.as_str().into(),
                    voice_environment: String::new(),
                }),
            );
            let user = User {
                id: id.clone(),
                display_name: String::new(),
                first_name: String::new(),
                last_name: String::new(),
                email: String::new(),
                roles: [role].into(),
                features: [Feature::Voice, Feature::SupervisorMonitoring].into(),
                devices: vec![device],
            };
            directory.users.insert(id, user.into());
        }
        let id = GroupId::from(format!("{n}"));
        let group = Group {
            id: id.clone(),
            agents: [user(&agent(n))].into(),
            supervisors: [user(&supervisor(n))].into(),
            monitor_supervisors: false,
            agent_side_only: false,
        };
        directory.groups.insert(id, group.into());
    }
    let mut gateway = Gateway::new(
        gateway::GatewayConfig::default(),
        Arc::new(directory),
        Restored::default(),
        "bench",
    );
    gateway.handle_capabilities(
        Capabilities {
            activities: Activity::ALL.to_vec(),
            modes: Mode::ALL.to_vec(),
            scopes: Scope::ALL.to_vec(),
            live_switching: true,
            ..Capabilities::default()
        },
        now,
    );
    gateway.handle_fact(Fact::SnapshotBegin, now);
    for n in 0..monitors {
        for device in [agent(n), supervisor(n)] {
            let number = device.as_str().into();
            let fact = DeviceFact {
                id: device,
                number,
                kind: DeviceKind::Phone,
                registered: true,
                do_not_disturb: false,
                forward_to: None,
            };
            gateway.handle_fact(Fact::Device(fact), now);
        }
    }
    for n in (0..monitors).step_by(10) {
        gateway.handle_fact(Fact::Call(call(n, LegState::Established)), now);
    }
    gateway.handle_fact(Fact::SnapshotComplete, now);
    settle(&mut gateway, now);

    let facts = holds(monitors);
    let mut activities = Activities::new(monitors);
    let readers: Vec<UserId> =
        (0..STEPS).map(|step| user(&agent(who(step, monitors) / 10 * 10))).collect();
    let mut rounds = Vec::new();
    for round in 0..=ROUNDS {
        let requests: Vec<RequestEnvelope> = (0..STEPS)
            .map(|step| (step, who(step, monitors)))
            .map(|(step, n)| RequestEnvelope {
                user: user(&supervisor(n)),
                caller: None,
                from: IpAddr::from([127, 0, 0, 1]),
                request_id: format!("r{round}.{step}").into(),
                request: Ok(Request::StartMonitoring {
                    device: supervisor(n),
                    target: TargetRef { device: Some(agent(n)), number: None },
                    activity: activities.next_of(n),
                    mode: Mode::AllCalls,
                    scope: Scope::Call,
                }),
            })
            .collect();
        let begun = instant();
        for fact in &facts {
            gateway.handle_fact(Fact::Call(black_box(fact).clone()), now);
            settle(&mut gateway, now);
        }
        let told = instant();
        for asked in &requests {
            gateway.handle_request(Token(1), black_box(asked), now);
            settle(&mut gateway, now);
        }
        let asked = instant();
        for reader in &readers {
            let read = gateway.read(black_box(reader), &Query::MyCalls, now.wall);
            assert!(matches!(black_box(read), Ok(Answer::Calls(calls)) if calls.len() == 1));
        }
        rounds.push([a_step(begun, told), a_step(told, asked), a_step(asked, instant())]);
    }
    let [fact, request, read] = spreads(&rounds);
    AtGateway { fact, request, read }
}

/// Audit and backend agree at once.
fn settle(gateway: &mut Gateway, now: Now) {
    while let Some(output) = gateway.poll_output() {
        match black_box(output) {
            gateway::Output::Audit { id, .. } => gateway.handle_audited(id, Ok(()), now),
            gateway::Output::Command { id, .. } => gateway.handle_command_result(id, Ok(()), now),
            gateway::Output::Reply { result, .. } => assert!(result.is_ok(), "{result:?}"),
            _ => {}
        }
    }
}

fn user(device: &DeviceId) -> UserId {
    UserId::from(device.as_str())
}

fn drain(machine: &mut Supervision) {
    while let Some(output) = machine.poll_output() {
        assert!(!matches!(output, SupervisionOutput::Failed(_)));
        black_box(output);
    }
}

fn supervisor(n: usize) -> DeviceId {
    DeviceId::from(format!("5f0e7c6a-0000-4000-8000-{n:012}"))
}

fn agent(n: usize) -> DeviceId {
    DeviceId::from(format!("9c14cad7-0000-4000-8000-{n:012}"))
}

fn call(n: usize, state: LegState) -> CallFact {
    let party = |device: Option<DeviceId>, role, state| PartyFact {
        device,
        number: "5001".into(),
        role,
        state,
        muted: false,
        muted_by_supervisor: false,
        held_at_phone: false,
        activity: None,
        monitors: None,
        established_at: Some(Timestamp(1)),
        quality: None,
        handed_on_to: None,
    };
    CallFact {
        id: format!("{n:032X}").into(),
        conn_id: format!("{n:016x}"),
        call_type: CallType::Inbound,
        ani: "7001".into(),
        dnis: "5001".into(),
        started_at: Timestamp(0),
        parent: None,
        owner: None,
        user_data: Default::default(),
        parties: vec![
            party(None, PartyRole::Customer, LegState::Established),
            party(Some(agent(n)), PartyRole::Agent, state),
        ],
    }
}
