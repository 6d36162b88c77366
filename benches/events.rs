//! Events of the event channel: how many a second, how late, and what a session costs, beside Faye and cometd-nodejs-server.
//!
//! ```text
//! cargo bench --bench events -- [--short] [--sessions 1000] [--seconds 5] [--idle 10000] [--batch 1] [--rounds 1] [--json]
//!     [--servers undertone,faye,cometd-nodejs] [--transports long-polling,websocket] [--patterns one-to-one,one-to-all]
//! ```
//!
//! Each server is a process of its own on one core; the load is this process, one thread on another core. Each row has a fresh server.
//! Other programs on those cores spoil it.
//! A publishing session posts events of 430 bytes, up to `--batch` in a request, over four connections; `--sessions` others hear them:
//! one-to-one each on its own channel in turn, one-to-all everybody each event. Over long-polling each has a connection with a held
//! connect and sends the next at once; cometd-nodejs-server has no websockets. While it is measured the load never sleeps: the kernel
//! charges whoever writes for waking whoever sleeps on the other core, and that would be the server. Three things are measured:
//!
//! * `events/s`: deliveries a second for `--seconds`, with a bounded number of events on their way, so that the server never waits.
//!   `server` and `generator` is how busy each was, the load without its looking in vain. "generator-bound": the load was the limit,
//!   and the server could have done more.
//!   "cores shared": neither was at its limit, as other programs took their time; `µs/event`, the server's CPU time, still counts.
//! * `p50`, `p99`: publish to delivery at 1,000 deliveries a second in either pattern, counted from when each event was due.
//! * `KiB/session`: what the second half of `--idle` sessions, each with one subscription and a held connect, adds to the resident
//!   memory, over their number. Sockets' kernel memory is not in it, nor is the garbage of the peers: they collect it before.
//!
//! `lost`, `doubled` and `disordered` events of all phases are counted for each session. The bars compare ours with the peers of the
//! same run, of each round those that ran one after the other; with several `--rounds` the middle one counts, as machines that others
//! use too are now slower, now faster. Exit code 1 when ours lost or doubled an event; a missed bar is only said.
//!
//! The peers come from npm at the versions in `benches/peers/package-lock.json`. Without node only ours is measured.

#[path = "events/load.rs"]
mod load;
#[path = "events/servers.rs"]
mod servers;
#[path = "events/wire.rs"]
mod wire;

use load::{Load, Pattern, Tally, Transport};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use servers::{Cores, Kind, Server};
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use undertone::clock::instant;

const PACED: u64 = 1_000;
/// Busier than this is at its limit.
const BUSY: f64 = 0.9;

struct Options {
    sessions: usize,
    seconds: f64,
    warm_up: f64,
    idle: usize,
    batch: usize,
    rounds: usize,
    servers: Vec<Kind>,
    transports: Vec<Transport>,
    patterns: Vec<Pattern>,
    json: bool,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        sessions: 1_000,
        seconds: 5.0,
        warm_up: 2.0,
        idle: 10_000,
        batch: 1,
        rounds: 1,
        servers: Kind::ALL.to_vec(),
        transports: Transport::ALL.to_vec(),
        patterns: Pattern::ALL.to_vec(),
        json: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--sessions" => options.sessions = value()?.parse::<usize>()?.clamp(1, 90_000),
            "--seconds" => options.seconds = value()?.parse()?,
            "--idle" => options.idle = value()?.parse()?,
            "--batch" => options.batch = value()?.parse::<usize>()?.clamp(1, 32),
            "--rounds" => options.rounds = value()?.parse::<usize>()?.max(1),
            "--servers" => options.servers = chosen(&Kind::ALL, Kind::name, &value()?)?,
            "--transports" => options.transports = chosen(&Transport::ALL, Transport::name, &value()?)?,
            "--patterns" => options.patterns = chosen(&Pattern::ALL, Pattern::name, &value()?)?,
            "--json" => options.json = true,
            "--short" => {
                options.seconds = 0.8;
                options.warm_up = 0.4;
                options.idle = 1_000;
            }
            "--bench" => {}
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(options)
}

fn chosen<T: Copy>(all: &[T], name: fn(T) -> &'static str, list: &str) -> Result<Vec<T>, String> {
    let find = |word: &str| all.iter().copied().find(|one| name(*one) == word);
    list.split(',')
        .map(|word| find(word).ok_or(format!("{word} is none of them")))
        .collect()
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let mut options = options()?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let cores = Cores::find()?;
    if cores.server == cores.generator {
        note("One core only: server and load take it from each other.")?;
    }
    let mut peers = PathBuf::new();
    if options.servers.iter().any(|server| *server != Kind::Undertone) {
        match servers::peers() {
            Ok(place) => peers = place,
            Err(why) => {
                note(&format!("Only ours is measured: {why}."))?;
                options.servers.retain(|server| *server == Kind::Undertone);
            }
        }
    }
    let rows = measure(&options, cores, &peers)?;
    if options.json {
        let rows: Vec<_> = rows.iter().map(Row::json).collect();
        println!("{}", serde_json::json!({ "rows": rows }));
    } else {
        print_bars(&rows);
    }
    let is_whole = |row: &Row| row.server != Kind::Undertone || (row.tally.lost == 0 && row.tally.doubled == 0);
    Ok(if rows.iter().all(is_whole) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// For people, beside the document.
fn note(text: &str) -> Result<(), Box<dyn Error>> {
    Ok(writeln!(std::io::stderr(), "{text}")?)
}

fn measure(options: &Options, cores: Cores, peers: &Path) -> Result<Vec<Row>, Box<dyn Error>> {
    if !options.json {
        println!(
            "{:14} {:12} {:10} {:>8} {:>9} {:>8} {:>8} {:>5} {:>7} {:>11} {:>6} {:>9} {:>8}",
            "server",
            "transport",
            "pattern",
            "sessions",
            "events/s",
            "p50 ms",
            "p99 ms",
            "lost",
            "doubled",
            "KiB/session",
            "server",
            "generator",
            "µs/event"
        );
    }
    let mut rows: Vec<Row> = Vec::new();
    for _ in 0..options.rounds {
        for &transport in &options.transports {
            for &pattern in &options.patterns {
                for &kind in &options.servers {
                    if transport == Transport::Websocket && !kind.has_websockets() {
                        continue;
                    }
                    let mut row = deliver(options, &Server::start(kind, cores, peers)?, (kind, transport, pattern), cores)?;
                    let known = rows.iter().find(|row| row.server == kind && row.transport == transport);
                    row.kb_per_session = match known {
                        Some(known) => known.kb_per_session,
                        None if options.idle == 0 => None,
                        None => Some(memory(kind, transport, options.idle, &Server::start(kind, cores, peers)?)?),
                    };
                    if !options.json {
                        row.print();
                    }
                    rows.push(row);
                }
            }
        }
    }
    Ok(rows)
}

fn memory(kind: Kind, transport: Transport, idle: usize, server: &Server) -> Result<f64, Box<dyn Error>> {
    let mut load = Load::new(&server.target, transport, Pattern::OneToOne, idle, false)?;
    // The first half fills what the process had to spare already; the first few let it give back what checking the password took.
    let half = (idle / 2).max(1);
    load.open(half.div_ceil(10))?;
    load.open(half - half.div_ceil(10))?;
    let before = server.memory()?;
    load.open(half)?;
    let after = server.memory()?;
    if let Some(failure) = load.tally().first_failure {
        note(&format!("{}, {} idle sessions: {failure}", kind.name(), idle))?;
    }
    Ok((after - before) / half as f64)
}

fn deliver(options: &Options, server: &Server, what: (Kind, Transport, Pattern), cores: Cores) -> Result<Row, Box<dyn Error>> {
    let (kind, transport, pattern) = what;
    let mut load = Load::new(
        &server.target,
        transport,
        pattern,
        options.sessions,
        cores.server != cores.generator,
    )?;
    load.open(options.sessions)?;
    load.prepare(options.batch)?;
    let time = Duration::from_secs_f64(options.seconds);
    load.saturate(Duration::from_secs_f64(options.warm_up))?;
    let (begun, before, own_before) = (instant(), server.cpu()?, load.busy());
    let events = load.saturate(time)?;
    let passed = begun.elapsed().as_secs_f64();
    let (cpu, own_busy) = (server.cpu()? - before, (load.busy() - own_before).as_secs_f64());
    load.settle()?;
    let each = match pattern {
        Pattern::OneToOne => 1,
        Pattern::OneToAll => options.sessions as u64,
    };
    let delays = load.pace((PACED / each).max(1), time)?;
    let tally = load.tally();
    if let Some(failure) = &tally.first_failure {
        let (server, transport, pattern) = (kind.name(), transport.name(), pattern.name());
        note(&format!(
            "{server}, {transport}, {pattern}: {} failures, the first: {failure}",
            tally.failures
        ))?;
    }
    let percentile = |part: f64| {
        let delay = delays.get((delays.len() as f64 * part) as usize);
        delay.map_or(f64::NAN, |delay| *delay as f64 / 1e6)
    };
    Ok(Row {
        server: kind,
        transport,
        pattern,
        sessions: options.sessions,
        events_per_s: events as f64 / passed,
        p50_ms: percentile(0.50),
        p99_ms: percentile(0.99),
        tally,
        kb_per_session: None,
        server_busy: cpu / passed,
        generator_busy: own_busy / passed,
        server_us: cpu * 1e6 / events as f64,
    })
}

struct Row {
    server: Kind,
    transport: Transport,
    pattern: Pattern,
    sessions: usize,
    events_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    tally: Tally,
    kb_per_session: Option<f64>,
    server_busy: f64,
    generator_busy: f64,
    /// The server's CPU time for a delivery.
    server_us: f64,
}

impl Row {
    fn generator_bound(&self) -> bool {
        self.generator_busy > BUSY && self.server_busy < BUSY
    }

    fn disturbed(&self) -> bool {
        self.generator_busy < BUSY && self.server_busy < BUSY
    }

    fn print(&self) {
        let memory = self.kb_per_session.map_or_else(|| "-".to_owned(), |kib| format!("{kib:.1}"));
        println!(
            "{:14} {:12} {:10} {:>8} {:>9.0} {:>8.2} {:>8.2} {:>5} {:>7} {:>11} {:>5.0}% {:>8.0}% {:>8.1}{}{}{}",
            self.server.name(),
            self.transport.name(),
            self.pattern.name(),
            self.sessions,
            self.events_per_s,
            self.p50_ms,
            self.p99_ms,
            self.tally.lost,
            self.tally.doubled,
            memory,
            self.server_busy * 100.0,
            self.generator_busy * 100.0,
            self.server_us,
            if self.generator_bound() { " generator-bound" } else { "" },
            if self.disturbed() { " cores shared" } else { "" },
            if self.tally.disordered > 0 { " disordered" } else { "" },
        );
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "server": self.server.name(),
            "transport": self.transport.name(),
            "pattern": self.pattern.name(),
            "sessions": self.sessions,
            "events_per_s": self.events_per_s,
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            "lost": self.tally.lost,
            "doubled": self.tally.doubled,
            "kb_per_session": self.kb_per_session,
            "disordered": self.tally.disordered,
            "failures": self.tally.failures,
            "server_busy": self.server_busy,
            "generator_busy": self.generator_busy,
            "generator_bound": self.generator_bound(),
            "cores_shared": self.disturbed(),
            "server_cpu_us_per_event": self.server_us,
        })
    }
}

/// Each bar, whether it is met, and what was measured.
fn print_bars(rows: &[Row]) {
    println!();
    for transport in Transport::ALL {
        let find = |server, pattern| -> Vec<&Row> {
            let is_it = |row: &&Row| row.server == server && row.transport == transport && row.pattern == pattern;
            rows.iter().filter(is_it).collect()
        };
        let name = transport.name();
        for (pattern, bar) in [(Pattern::OneToOne, 4.0), (Pattern::OneToAll, 6.0)] {
            let (ours, faye) = (find(Kind::Undertone, pattern), find(Kind::Faye, pattern));
            let pairs = || ours.iter().zip(&faye);
            let Some((ratio, least, most)) = middle(pairs().map(|(ours, faye)| ours.events_per_s / faye.events_per_s)) else {
                continue;
            };
            let by_cpu = middle(pairs().map(|(ours, faye)| faye.server_us / ours.server_us));
            let by_cpu = by_cpu.map_or(f64::NAN, |(by_cpu, ..)| by_cpu);
            let bound = match &ours {
                ours if ours.iter().any(|row| row.generator_bound()) => ", generator-bound",
                ours if ours.iter().chain(&faye).any(|row| row.disturbed()) => ", cores shared",
                _ => "",
            };
            let of = pattern.name();
            print_bar(
                ratio >= bar,
                &format!("{name} {of}: {ratio:.1} x Faye ({least:.1} to {most:.1}), bar {bar} x (by CPU time {by_cpu:.1} x){bound}"),
            );
        }
        let late = |server| middle(find(server, Pattern::OneToOne).into_iter().map(|row| row.p99_ms));
        let best = [late(Kind::Faye), late(Kind::Cometd)].into_iter().flatten().map(|(late, ..)| late);
        if let (Some((ours, ..)), Some(best)) = (late(Kind::Undertone), best.reduce(f64::min)) {
            let ratio = ours / best;
            let text = format!("{name} one-to-one p99: {ratio:.2} of the better peer's, {ours:.2} of {best:.2} ms, bar 0.25");
            print_bar(ratio <= 0.25, &text);
        }
        let ours = Pattern::ALL.into_iter().flat_map(|pattern| find(Kind::Undertone, pattern));
        if let Some(kib) = ours.filter_map(|row| row.kb_per_session).next() {
            print_bar(kib <= 12.0, &format!("{name} memory: {kib:.1} KiB a session, bar 12 KiB"));
        }
    }
}

/// The middle one, the least and the most.
fn middle(values: impl Iterator<Item = f64>) -> Option<(f64, f64, f64)> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    Some((*values.get(values.len() / 2)?, *values.first()?, *values.last()?))
}

fn print_bar(met: bool, text: &str) {
    println!("{:7} {text}", if met { "met" } else { "missed" });
}
