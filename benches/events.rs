//! Events of the event channel: how many a second, how late, and what a session costs, beside Faye
//! and cometd-nodejs-server.
//!
//! ```text
//! cargo bench --bench events -- [--short] [--sessions 1000] [--seconds 5] [--idle 10000]
//!     [--batch 1] [--rounds 1] [--json] [--tls]
//!     [--servers undertone,faye,cometd-nodejs] [--transports long-polling,websocket]
//!     [--patterns one-to-one,one-to-all]
//! ```
//!
//! With `--tls` every server has the same certificate, and all goes over TLS: ours by rustls, the
//! peers by what Node.js has. Each server is a process of its own on one core; the load is this process, one thread on another
//! core. Each row has a fresh server. Other programs on those cores spoil it. Ours checks the user
//! of each request and keeps its state on disk; the peers do neither. A publishing session posts
//! events of 430 bytes, up to `--batch` in a request, over four connections; `--sessions` others
//! hear them: one-to-one each on its own channel in turn, one-to-all everybody each event. Over
//! long-polling each has a connection with a held connect and sends the next at once;
//! cometd-nodejs-server has no websockets. While it is measured the load never sleeps: the kernel
//! charges whoever writes for waking whoever sleeps on the other core, and that would be the
//! server. Three things are measured:
//!
//! * `events/s`: deliveries a second, the median of five parts of `--seconds`, with a bounded
//!   number of events on their way, so that the server never waits. `server` and `generator` is how
//!   busy each was, the load without its looking in vain. "generator-bound": the load was the
//!   limit, and the server could have done more. "cores shared": neither was at its limit, as other
//!   programs took their time; `µs/event`, the server's CPU time, still counts.
//! * `p50`, `p99`: publish to delivery at 1,000 deliveries a second in either pattern, counted from
//!   when each event was due, for `--seconds` and at least six events.
//! * `KiB/session`: what the second half of `--idle` sessions, each with one subscription and a
//!   held connect, adds to the resident memory, over their number: the median of three fresh
//!   servers. Before either reading the server rests until it gives back no more memory: the
//!   allocator of ours keeps what a check of a password took for a second, and then until something
//!   else is freed. Pages of files and sockets' kernel memory are not in it, nor is the garbage of
//!   the peers: they collect it before. A dash: too small to measure, the three differ by more than
//!   the median.
//!
//! Below each row is the least and the most of each figure: of the parts for `events/s` and
//! `µs/event`, of three parts for the delays.
//!
//! `lost`, `doubled` and `disordered` events of all phases are counted for each session. The bars
//! compare ours with the peers of the same run, of each round those that ran one after the other;
//! with several `--rounds` the middle one counts, as machines that others use too are now slower,
//! now faster; a ratio's spread is that of the rounds, or with one round that of its parts. Exit
//! code 1 when ours lost or doubled an event; a missed bar is only said.
//!
//! The peers come from npm at the versions in `benches/peers/package-lock.json`. Without node only
//! ours is measured.

mod cores;
#[path = "events/load.rs"]
mod load;
mod measure;
mod seal;
#[path = "events/servers.rs"]
mod servers;
#[path = "events/wire.rs"]
mod wire;

use cores::Cores;
use load::{Load, Pattern, Tally, Transport};
use measure::Spread;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use seal::Seal;
use servers::{Kind, Server};
use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use undertone::clock::instant;

const PACED: u64 = 1_000;
/// Parts of a row's time under load, and of its time at a pace.
const LOADED_PARTS: u32 = 5;
const PACED_PARTS: u32 = 3;
/// Events in each paced part, however few are due in its time.
const LEAST_EVENTS: u64 = 2;
/// Fresh servers whose memory is measured.
const MEMORY_RUNS: usize = 3;
/// Longer than the allocator of ours keeps what was freed (1 s) and what the peers' collector does.
const REST: Duration = Duration::from_millis(1_200);
/// Rests at most, before a reading of the memory.
const RESTS: usize = 8;
/// Memory that has fallen by less, in KiB, has not fallen.
const SAME_KIB: f64 = 512.0;
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
    tls: bool,
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
        tls: false,
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
            "--transports" => {
                options.transports = chosen(&Transport::ALL, Transport::name, &value()?)?
            }
            "--patterns" => options.patterns = chosen(&Pattern::ALL, Pattern::name, &value()?)?,
            "--json" => options.json = true,
            "--tls" => options.tls = true,
            "--short" => {
                options.seconds = 1.5;
                options.warm_up = 1.0;
                options.idle = 4_000;
            }
            "--bench" => {}
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(options)
}

fn chosen<T: Copy>(all: &[T], name: fn(T) -> &'static str, list: &str) -> Result<Vec<T>, String> {
    let find = |word: &str| all.iter().copied().find(|one| name(*one) == word);
    list.split(',').map(|word| find(word).ok_or(format!("{word} is none of them"))).collect()
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
    let is_whole = |row: &Row| {
        row.server != Kind::Undertone || (row.tally.lost == 0 && row.tally.doubled == 0)
    };
    Ok(if rows.iter().all(is_whole) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
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
    let seal = options.tls.then(Seal::make).transpose()?;
    let mut rows: Vec<Row> = Vec::new();
    for _ in 0..options.rounds {
        for &transport in &options.transports {
            for &pattern in &options.patterns {
                for &kind in &options.servers {
                    if transport == Transport::Websocket && !kind.has_websockets() {
                        continue;
                    }
                    let mut row = deliver(
                        options,
                        &Server::start(kind, cores, peers, seal.as_ref())?,
                        (kind, transport, pattern),
                        cores,
                    )?;
                    let known =
                        rows.iter().find(|row| row.server == kind && row.transport == transport);
                    row.kb_per_session = match known {
                        Some(known) => known.kb_per_session,
                        None if options.idle == 0 => None,
                        None => memory(kind, transport, options.idle, || {
                            Server::start(kind, cores, peers, seal.as_ref())
                        })?,
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

/// KiB that a session adds, of several fresh servers.
fn memory(
    kind: Kind,
    transport: Transport,
    idle: usize,
    start: impl Fn() -> Result<Server, Box<dyn Error>>,
) -> Result<Option<Spread>, Box<dyn Error>> {
    let runs = (0..MEMORY_RUNS).map(|_| added(kind, transport, idle, &start()?));
    Ok(Spread::of(runs.collect::<Result<Vec<f64>, _>>()?))
}

fn added(
    kind: Kind,
    transport: Transport,
    idle: usize,
    server: &Server,
) -> Result<f64, Box<dyn Error>> {
    let mut load = Load::new(&server.target, transport, Pattern::OneToOne, idle, false)?;
    // The first half fills what the process had to spare already.
    let half = (idle / 2).max(1);
    load.open(half)?;
    let before = at_rest(kind, &mut load, server, half)?;
    let opened = load.opened();
    load.open(half)?;
    let after = at_rest(kind, &mut load, server, half)?;
    if let Some(failure) = load.tally().first_failure {
        note(&format!("{}, {} idle sessions: {failure}", kind.name(), idle))?;
    }
    Ok((after - before) / (load.opened() - opened) as f64)
}

/// Memory once it falls no more. An allocator gives back what was freed some time ago only when it
/// is asked for something, so a tenth more sessions are opened after each rest.
fn at_rest(
    kind: Kind,
    load: &mut Load,
    server: &Server,
    half: usize,
) -> Result<f64, Box<dyn Error>> {
    let mut last = server.memory()?;
    for _ in 0..RESTS {
        load.run(REST)?;
        load.open(half.div_ceil(10).min(500))?;
        let now = server.memory()?;
        if now > last - SAME_KIB {
            return Ok(now);
        }
        last = now;
    }
    note(&format!("{}: its memory does not come to rest", kind.name()))?;
    Ok(last)
}

fn deliver(
    options: &Options,
    server: &Server,
    what: (Kind, Transport, Pattern),
    cores: Cores,
) -> Result<Row, Box<dyn Error>> {
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
    let mut parts = Vec::new();
    for _ in 0..LOADED_PARTS {
        let (begun, before) = (instant(), server.cpu()?);
        let events = load.saturate(time / LOADED_PARTS)? as f64;
        let (passed, cpu) = (begun.elapsed().as_secs_f64(), (server.cpu()? - before).as_secs_f64());
        parts.push((events / passed, cpu * 1e6 / events));
    }
    let passed = begun.elapsed().as_secs_f64();
    let (cpu, own_busy) =
        ((server.cpu()? - before).as_secs_f64(), (load.busy() - own_before).as_secs_f64());
    load.settle()?;
    let each = match pattern {
        Pattern::OneToOne => 1,
        Pattern::OneToAll => options.sessions as u64,
    };
    let rate = (PACED / each).max(1);
    let least = Duration::from_secs_f64(LEAST_EVENTS as f64 / rate as f64);
    let paced: Vec<Vec<u64>> = (0..PACED_PARTS)
        .map(|_| load.pace(rate, (time / PACED_PARTS).max(least)))
        .collect::<Result<_, _>>()?;
    let mut all = paced.concat();
    all.sort_unstable();
    let tally = load.tally();
    if let Some(failure) = &tally.first_failure {
        let (server, transport, pattern) = (kind.name(), transport.name(), pattern.name());
        note(&format!(
            "{server}, {transport}, {pattern}: {} failures, the first: {failure}",
            tally.failures
        ))?;
    }
    let percentile = |delays: &[u64], share: f64| {
        let delay = delays.get((delays.len() as f64 * share) as usize);
        delay.map_or(f64::NAN, |delay| *delay as f64 / 1e6)
    };
    let late = |share| {
        let middle = percentile(&all, share);
        let parts =
            Spread::of(paced.iter().map(|delays| percentile(delays, share)).chain([middle]))?;
        Some(Spread { middle, ..parts })
    };
    let nothing = || format!("{}, {}: nothing was delivered", kind.name(), transport.name());
    Ok(Row {
        server: kind,
        transport,
        pattern,
        sessions: options.sessions,
        events_per_s: Spread::of(parts.iter().map(|part| part.0)).ok_or_else(nothing)?,
        p50_ms: late(0.50).ok_or_else(nothing)?,
        p99_ms: late(0.99).ok_or_else(nothing)?,
        paced: all.len() as u64 / each,
        tally,
        kb_per_session: None,
        server_busy: cpu / passed,
        generator_busy: own_busy / passed,
        server_us: Spread::of(parts.iter().map(|part| part.1)).ok_or_else(nothing)?,
    })
}

struct Row {
    server: Kind,
    transport: Transport,
    pattern: Pattern,
    sessions: usize,
    events_per_s: Spread,
    p50_ms: Spread,
    p99_ms: Spread,
    /// Events behind the delays.
    paced: u64,
    tally: Tally,
    /// KiB; `None` when it was not measured.
    kb_per_session: Option<Spread>,
    server_busy: f64,
    generator_busy: f64,
    /// The server's CPU time for a delivery.
    server_us: Spread,
}

impl Row {
    fn generator_bound(&self) -> bool {
        self.generator_busy > BUSY && self.server_busy < BUSY
    }

    fn disturbed(&self) -> bool {
        self.generator_busy < BUSY && self.server_busy < BUSY
    }

    fn print(&self) {
        let memory = self.clear_memory().map_or_else(|| "-".to_owned(), |kib| format!("{kib:.1}"));
        println!(
            "{:14} {:12} {:10} {:>8} {:>9.0} {:>8.2} {:>8.2} {:>5} {:>7} {:>11} {:>5.0}% {:>8.0}% \
             {:>8.1}{}{}{}",
            self.server.name(),
            self.transport.name(),
            self.pattern.name(),
            self.sessions,
            self.events_per_s.middle,
            self.p50_ms.middle,
            self.p99_ms.middle,
            self.tally.lost,
            self.tally.doubled,
            memory,
            self.server_busy * 100.0,
            self.generator_busy * 100.0,
            self.server_us.middle,
            if self.generator_bound() { " generator-bound" } else { "" },
            if self.disturbed() { " cores shared" } else { "" },
            if self.tally.disordered > 0 { " disordered" } else { "" },
        );
        let memory = self
            .kb_per_session
            .map_or_else(String::new, |kib| format!(", {} KiB/session", kib.range(1)));
        println!(
            "{:14} {} events/s, p50 {}, p99 {} ms ({} events), {} µs/event{memory}",
            "",
            self.events_per_s.range(0),
            self.p50_ms.range(2),
            self.p99_ms.range(2),
            self.paced,
            self.server_us.range(1),
        );
    }

    /// KiB a session, unless that is too small to measure.
    fn clear_memory(&self) -> Option<f64> {
        self.kb_per_session.filter(Spread::is_clear).map(|kib| kib.middle)
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "server": self.server.name(),
            "transport": self.transport.name(),
            "pattern": self.pattern.name(),
            "sessions": self.sessions,
            "events_per_s": self.events_per_s.middle,
            "events_per_s_range": pair(&self.events_per_s),
            "p50_ms": self.p50_ms.middle,
            "p50_ms_range": pair(&self.p50_ms),
            "p99_ms": self.p99_ms.middle,
            "p99_ms_range": pair(&self.p99_ms),
            "paced_events": self.paced,
            "lost": self.tally.lost,
            "doubled": self.tally.doubled,
            "kb_per_session": self.clear_memory(),
            "kb_per_session_range": self.kb_per_session.as_ref().map(pair),
            "disordered": self.tally.disordered,
            "failures": self.tally.failures,
            "server_busy": self.server_busy,
            "generator_busy": self.generator_busy,
            "generator_bound": self.generator_bound(),
            "cores_shared": self.disturbed(),
            "server_cpu_us_per_event": self.server_us.middle,
            "server_cpu_us_per_event_range": pair(&self.server_us),
        })
    }
}

fn pair(spread: &Spread) -> [f64; 2] {
    [spread.least, spread.most]
}

/// Each bar, whether it is met, and what was measured.
fn print_bars(rows: &[Row]) {
    println!();
    for transport in Transport::ALL {
        let find = |server, pattern| -> Vec<&Row> {
            let is_it = |row: &&Row| {
                row.server == server && row.transport == transport && row.pattern == pattern
            };
            rows.iter().filter(is_it).collect()
        };
        let name = transport.name();
        for (pattern, bar) in [(Pattern::OneToOne, 4.0), (Pattern::OneToAll, 6.0)] {
            let (ours, faye) = (find(Kind::Undertone, pattern), find(Kind::Faye, pattern));
            let pairs = || ours.iter().zip(&faye);
            let Some(ratio) =
                self::ratio(pairs().map(|(ours, faye)| (&ours.events_per_s, &faye.events_per_s)))
            else {
                continue;
            };
            let Some(by_cpu) =
                self::ratio(pairs().map(|(ours, faye)| (&faye.server_us, &ours.server_us)))
            else {
                continue;
            };
            let bound = match &ours {
                ours if ours.iter().any(|row| row.generator_bound()) => ", generator-bound",
                ours if ours.iter().chain(&faye).any(|row| row.disturbed()) => ", cores shared",
                _ => "",
            };
            let of = pattern.name();
            print_bar(
                ratio.middle >= bar,
                &format!(
                    "{name} {of}: {ratio:.1} x Faye, bar {bar} x (by CPU time {by_cpu:.1} x){bound}"
                ),
            );
        }
        let late = |server| {
            let rows = find(server, Pattern::OneToOne);
            match rows.as_slice() {
                [row] => Some(row.p99_ms),
                rows => Spread::of(rows.iter().map(|row| row.p99_ms.middle)),
            }
        };
        let peers = [late(Kind::Faye), late(Kind::Cometd)].into_iter().flatten();
        let best = peers.min_by(|one, other| one.middle.total_cmp(&other.middle));
        if let (Some(ours), Some(best)) = (late(Kind::Undertone), best) {
            let ratio = ours.middle / best.middle;
            let text = format!(
                "{name} one-to-one p99: {ratio:.2} of the better peer's, {ours:.2} of {best:.2} \
                 ms, bar 0.25"
            );
            print_bar(ratio <= 0.25, &text);
        }
        let ours = Pattern::ALL.into_iter().flat_map(|pattern| find(Kind::Undertone, pattern));
        if let Some(kib) = ours.filter_map(|row| row.kb_per_session).next() {
            match kib.is_clear() {
                true => print_bar(
                    kib.middle <= 12.0,
                    &format!("{name} memory: {kib:.1} KiB a session, bar 12 KiB"),
                ),
                false => println!(
                    "unknown {name} memory: too small to measure with so few sessions, {} KiB a \
                     session, bar 12 KiB",
                    kib.range(1)
                ),
            }
        }
    }
}

/// Of several rounds their spread; of one, as far apart as its parts may be.
fn ratio<'a>(pairs: impl Iterator<Item = (&'a Spread, &'a Spread)>) -> Option<Spread> {
    let pairs: Vec<_> = pairs.collect();
    match pairs.as_slice() {
        [(one, other)] => Some(Spread {
            middle: one.middle / other.middle,
            least: one.least / other.most,
            most: one.most / other.least,
        }),
        pairs => Spread::of(pairs.iter().map(|(one, other)| one.middle / other.middle)),
    }
}

fn print_bar(met: bool, text: &str) {
    println!("{:7} {text}", if met { "met" } else { "missed" });
}
