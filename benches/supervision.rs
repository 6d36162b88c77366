//! What a monitor costs at rest, and whether one fact or one request costs more where there are many.
//!
//! ```text
//! cargo bench --bench supervision -- [--json]
//! ```
//!
//! The pure machine alone: no socket, no clock. At each size every tenth monitor's agent is on a call and the supervisor has joined it. A
//! fact is a hold or its end on one of those calls; a request changes what a supervisor does. Memory is what the allocator holds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::error::Error;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use undertone::clock::instant;
use undertone::supervision::{Config, LegOutcome, Output, Supervision};
use undertone::words::{
    Activity, CallFact, CallType, Command, DeviceId, LegState, Mode, MonitorFact, MonitorState, Now, Party, PartyRole, Scope, Timestamp,
};

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
/// The target of issue and mission.
const MOST_BYTES: usize = 2048;
const STEPS: usize = 20_000;
const ROUNDS: usize = 5;

struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator as it came; the counter beside it allocates nothing.
#[expect(unsafe_code, reason = "an allocator that counts is written so")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        HELD.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Row {
    monitors: usize,
    bytes: usize,
    fact: Duration,
    request: Duration,
}

fn main() -> Result<(), Box<dyn Error>> {
    let json = std::env::args().any(|argument| argument == "--json");
    let rows: Vec<Row> = SIZES.iter().map(|size| measure(*size)).collect();
    let first = rows.first().ok_or("no size")?;
    if json {
        for row in &rows {
            println!(
                r#"{{"monitors":{},"bytes_per_monitor":{},"fact_ns":{},"request_ns":{}}}"#,
                row.monitors,
                row.bytes,
                row.fact.as_nanos(),
                row.request.as_nanos()
            );
        }
        return Ok(());
    }
    println!(" monitors   live calls   bytes a monitor   one fact        one request     (× the smallest size)");
    for row in &rows {
        let times = |ours: Duration, least: Duration| ours.as_secs_f64() / least.as_secs_f64();
        println!(
            "{:>9}{:>13}{:>18}{:>8.2} µs {:>4.1}×{:>8.2} µs {:>4.1}×",
            row.monitors,
            row.monitors / 10,
            row.bytes,
            row.fact.as_secs_f64() * 1e6,
            times(row.fact, first.fact),
            row.request.as_secs_f64() * 1e6,
            times(row.request, first.request),
        );
    }
    let largest = rows.iter().map(|row| row.bytes).max().unwrap_or_default();
    println!("a monitor at rest: {largest} bytes of at most {MOST_BYTES}");
    Ok(())
}

fn measure(monitors: usize) -> Row {
    let now = Now {
        mono: instant(),
        wall: Timestamp(0),
    };
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
    let before = HELD.load(Ordering::Relaxed);
    let mut machine = Supervision::new(Config::default(), armed());
    let bytes = (HELD.load(Ordering::Relaxed) - before) / monitors;

    for n in (0..monitors).step_by(10) {
        machine.handle_call(&call(n, LegState::Established), now);
        drain(&mut machine);
        machine.handle_leg(&supervisor(n), &call(n, LegState::Established).id, LegOutcome::Answered, now);
        drain(&mut machine);
    }
    let live: Vec<usize> = (0..monitors).step_by(10).collect();
    let facts: Vec<CallFact> = (0..STEPS)
        .map(|step| {
            let state = if (step / live.len()).is_multiple_of(2) {
                LegState::Held
            } else {
                LegState::Established
            };
            call(live[step % live.len()], state)
        })
        .collect();
    let requests: Vec<Command> = (0..STEPS)
        .map(|step| Command::StartMonitoring {
            supervisor: supervisor(step * 7 % monitors),
            target: agent(step * 7 % monitors),
            activity: Activity::ALL[step % 3],
            mode: Mode::AllCalls,
            scope: Scope::Call,
            confirm_joins: false,
            agent_side_only: false,
        })
        .collect();
    let mut best = [Duration::MAX; 2];
    for _ in 0..ROUNDS {
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
        let steps = STEPS as u32;
        best[0] = best[0].min((between - begun) / steps);
        best[1] = best[1].min((instant() - between) / steps);
    }
    Row {
        monitors,
        bytes,
        fact: best[0],
        request: best[1],
    }
}

fn drain(machine: &mut Supervision) {
    while let Some(output) = machine.poll_output() {
        assert!(!matches!(output, Output::Failed(_)));
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
    let party = |device: Option<DeviceId>, role, state| Party {
        device,
        number: "5001".into(),
        role,
        state,
        muted: false,
        muted_by_supervisor: false,
        activity: None,
        monitors: None,
        established_at: Some(Timestamp(1)),
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
        parties: vec![
            party(None, PartyRole::Customer, LegState::Established),
            party(Some(agent(n)), PartyRole::Agent, state),
        ],
    }
}
