//! What a coached call costs, against the bare receiving and sending of as many packets.
//!
//! ```text
//! cargo bench --bench coached_calls -- [--calls 50,100,200] [--seconds 5] [--workers 1] [--kinds relay,coached] [--json] [--no-bare]
//! ```
//!
//! A generator in one thread plays every phone: 50 packets a second each, phases spread over the 20 ms. It drives in turn a bare loop
//! (the same epoll pattern: receive, send back) over as many sockets, and the engine. CPU is what the kernel booked for
//! the media threads alone. Delays are from the sending of a marked packet to the first packet of the listener that carries the mark,
//! so a mix includes the wait for the packet that paces it.

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::collections::BTreeSet;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use undertone::clock::instant;
use undertone::media::engine::Engine;
use undertone::media::{CallKey, Codec, Hearing, HearingRole, LegMedia, MediaCommand, MediaConfig, MediaLeg};
use undertone::words::Activity;

const FRAME: Duration = Duration::from_millis(20);
const WARM_UP: Duration = Duration::from_millis(1500);
/// The generator's rest when there is nothing to do: it is as much as delays are overstated.
const NAP: Duration = Duration::from_micros(100);
const SLICE: Duration = Duration::from_secs(1);
/// Marks of one call, in packets: customer's, then supervisor's, then agent's.
const MARK_EVERY: u32 = 60;
/// What a marked packet of each role says; everything else is silence.
const LEVELS: [i16; 3] = [2000, 5000, 12_000];
const AGENT: usize = 0;
const CUSTOMER: usize = 1;
const SUPERVISOR: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Relay,
    Coached,
}

impl Kind {
    fn legs(self) -> usize {
        match self {
            Kind::Relay => 2,
            Kind::Coached => 3,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Relay => "relay",
            Kind::Coached => "coached",
        }
    }
}

struct Options {
    calls: Vec<usize>,
    seconds: u64,
    workers: usize,
    kinds: Vec<Kind>,
    json: bool,
    /// For profiles of the engine alone.
    no_bare: bool,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        calls: vec![50, 100, 200],
        seconds: 5,
        workers: 1,
        kinds: vec![Kind::Relay, Kind::Coached],
        json: false,
        no_bare: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--calls" => options.calls = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--seconds" => options.seconds = value()?.parse()?,
            "--workers" => options.workers = value()?.parse()?,
            "--kinds" => {
                let named = value()?;
                options.kinds.retain(|kind| named.split(',').any(|name| name == kind.name()));
            }
            "--json" => options.json = true,
            "--no-bare" => options.no_bare = true,
            "--bench" => {}
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Box<dyn Error>> {
    let options = options()?;
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let mut rows = Vec::new();
    for &calls in &options.calls {
        for &kind in &options.kinds {
            let row = measure(kind, calls, &options)?;
            if !options.json {
                row.print();
            }
            rows.push(row.json());
        }
    }
    if options.json {
        println!("{}", serde_json::json!({ "rows": rows }));
    }
    Ok(())
}

struct Row {
    kind: Kind,
    calls: usize,
    cpu: f64,
    bare_cpu: f64,
    lost: u64,
    bare_lost: u64,
    kb_per_call: f64,
    late: Duration,
    delays: [Vec<Duration>; 3],
}

impl Row {
    fn ratio(&self) -> f64 {
        self.cpu / self.bare_cpu
    }

    fn delay(&self, path: usize, share: f64) -> Option<f64> {
        let delays = &self.delays[path];
        let at = (delays.len() as f64 * share) as usize;
        delays
            .get(at.min(delays.len().checked_sub(1)?))
            .map(|delay| delay.as_secs_f64() * 1000.0)
    }

    fn print(&self) {
        println!(
            "{:>4} {:<8} {:6.0} µs a call·s (bare {:5.0}, ratio {:4.2}), {:5.0} calls a core, {:4.0} KiB a call, lost {} (bare {}), generator {:.0} ms late at worst",
            self.calls,
            self.kind.name(),
            self.cpu,
            self.bare_cpu,
            self.ratio(),
            1e6 / self.cpu,
            self.kb_per_call,
            self.lost,
            self.bare_lost,
            self.late.as_secs_f64() * 1000.0,
        );
        for (path, name) in ["customer→agent", "supervisor→agent", "agent→supervisor"].into_iter().enumerate() {
            if let (Some(median), Some(high)) = (self.delay(path, 0.5), self.delay(path, 0.99)) {
                println!(
                    "{:14}{name:<17} {median:6.2} ms p50, {high:6.2} ms p99, {} marks",
                    "",
                    self.delays[path].len()
                );
            }
        }
    }

    fn json(&self) -> serde_json::Value {
        let delay = |path| serde_json::json!({ "p50": self.delay(path, 0.5), "p99": self.delay(path, 0.99) });
        serde_json::json!({
            "engine": "undertone",
            "kind": self.kind.name(),
            "calls": self.calls,
            "cpu_us_per_call_s": self.cpu,
            "bare_cpu_us_per_call_s": self.bare_cpu,
            "ratio": self.ratio(),
            "lost": self.lost,
            "kb_per_call": self.kb_per_call,
            "generator_late_ms": self.late.as_secs_f64() * 1000.0,
            "delay_ms": { "customer_agent": delay(0), "supervisor_agent": delay(1), "agent_supervisor": delay(2) },
        })
    }
}

fn measure(kind: Kind, calls: usize, options: &Options) -> Result<Row, Box<dyn Error>> {
    let mut phones = Phones::new(kind, calls)?;
    let bare = Bare::start(calls * kind.legs())?;
    phones.bare_ports = bare.addresses.iter().map(SocketAddr::port).collect();
    phones.talk(&bare.addresses, WARM_UP)?;

    let before = resident();
    let (engine, _events) = Engine::start(MediaConfig {
        workers: options.workers,
        ports: None,
        ..MediaConfig::default()
    })?;
    let addresses = open(&engine, kind, calls, &phones)?;
    phones.talk(&addresses, WARM_UP)?;
    phones.settle()?;
    let memory = resident().saturating_sub(before);
    let before = engine.stats();
    phones.reset();

    // A slice of the one, a slice of the other: what else the machine does disturbs both alike.
    let [mut cpu, mut bare_cpu] = [Duration::ZERO; 2];
    let [mut time, mut bare_time] = [Duration::ZERO; 2];
    for _ in 0..options.seconds {
        if !options.no_bare {
            let (cpu_before, began) = (cpu_of("bare-"), instant());
            phones.talk(&bare.addresses, SLICE)?;
            bare_cpu += cpu_of("bare-") - cpu_before;
            bare_time += began.elapsed();
        }
        let (cpu_before, began) = (cpu_of("media-"), instant());
        phones.talk(&addresses, SLICE)?;
        cpu += cpu_of("media-") - cpu_before;
        time += began.elapsed();
    }
    phones.settle()?;
    let stats = engine.stats();
    phones.settle()?;
    // On the way to the engine, and on the way from it, its own clock's frames included.
    let [(to_engine, from_engine), (to_bare, from_bare)] = [phones.engine, phones.bare];
    let in_lost = to_engine.saturating_sub(stats.received - before.received);
    let out_lost = (stats.sent - before.sent).saturating_sub(from_engine) + stats.send_errors;
    phones.delays.iter_mut().for_each(|delays| delays.sort());
    let per_call_second = |cpu: Duration, time: Duration| cpu.as_secs_f64() * 1e6 / time.as_secs_f64() / calls as f64;
    Ok(Row {
        kind,
        calls,
        cpu: per_call_second(cpu, time),
        bare_cpu: per_call_second(bare_cpu, bare_time),
        lost: in_lost + out_lost,
        bare_lost: to_bare.saturating_sub(from_bare),
        kb_per_call: memory as f64 / 1024.0 / calls as f64,
        late: phones.late,
        delays: phones.delays,
    })
}

fn open(engine: &Engine, kind: Kind, calls: usize, phones: &Phones) -> Result<Vec<SocketAddr>, Box<dyn Error>> {
    let mut addresses = Vec::new();
    for call in 0..calls {
        let key = CallKey(call as u64);
        let mut roles = Vec::new();
        for leg in 0..kind.legs() {
            let index = call * kind.legs() + leg;
            let name = MediaLeg(index as u64);
            addresses.push(engine.open(key, name)?);
            let media = LegMedia {
                remote: Some(phones.sockets[index].local_addr()?),
                remote_rtcp: Some(phones.rtcp.local_addr()?),
                codec: Codec::Pcmu,
                payload_type: 0,
                dtmf_pt: None,
                send: true,
                receive: true,
                nat: false,
            };
            engine.command(MediaCommand::Describe {
                leg: name,
                media,
                srtp: None,
            });
            let agent = MediaLeg((call * kind.legs() + AGENT) as u64);
            roles.push((
                name,
                match leg {
                    AGENT => HearingRole::Agent,
                    CUSTOMER => HearingRole::Customer,
                    _ => HearingRole::Supervisor {
                        activity: Activity::Coach,
                        coached: Some(agent),
                        agent_side_only: false,
                    },
                },
            ));
        }
        let hearing = Hearing::of(&roles);
        engine.command(MediaCommand::Hear { call: key, hearing });
    }
    Ok(addresses)
}

/// Every phone of every call, in one thread.
struct Phones {
    kind: Kind,
    sockets: Vec<UdpSocket>,
    rtcp: UdpSocket,
    epoll: Epoll,
    /// When in the 20 ms each sends, and who: sorted.
    turns: Vec<(Duration, usize)>,
    packets: Vec<u32>,
    marked: Vec<Option<Instant>>,
    /// Sent and received, with the engine and with the bare loop.
    engine: (u64, u64),
    bare: (u64, u64),
    bare_ports: BTreeSet<u16>,
    /// The most a packet of the generator was sent too late: what the machine was too busy for.
    late: Duration,
    delays: [Vec<Duration>; 3],
    silence: [u8; 160],
    marks: [[u8; 160]; 3],
}

impl Phones {
    fn new(kind: Kind, calls: usize) -> Result<Self, Box<dyn Error>> {
        let count = calls * kind.legs();
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        let mut sockets = Vec::new();
        for index in 0..count {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_nonblocking(true)?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
            sockets.push(socket);
        }
        // Spread evenly and, within a call, as if by chance: multiples of the golden section.
        let mut turns: Vec<_> = (0..count)
            .map(|index| (FRAME.mul_f64(index as f64 * 0.618_034 % 1.0), index))
            .collect();
        turns.sort();
        Ok(Self {
            kind,
            sockets,
            rtcp: UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?,
            epoll,
            turns,
            packets: vec![0; count],
            marked: vec![None; count],
            engine: (0, 0),
            bare: (0, 0),
            bare_ports: BTreeSet::new(),
            late: Duration::ZERO,
            delays: [const { Vec::new() }; 3],
            silence: [0xff; 160],
            marks: LEVELS.map(|level| {
                let mut payload = [0; 160];
                Codec::Pcmu.encode(&[level; 160], &mut payload);
                payload
            }),
        })
    }

    fn reset(&mut self) {
        self.engine = (0, 0);
        self.bare = (0, 0);
        self.late = Duration::ZERO;
        self.delays.iter_mut().for_each(Vec::clear);
    }

    fn talk(&mut self, to: &[SocketAddr], time: Duration) -> Result<(), Box<dyn Error>> {
        let start = instant();
        let mut round = 0;
        while FRAME * round < time {
            for turn in 0..self.turns.len() {
                let (phase, index) = self.turns[turn];
                let due = start + FRAME * round + phase;
                while instant() < due {
                    self.listen(due)?;
                }
                self.late = self.late.max(instant().saturating_duration_since(due));
                self.say(index, to[index])?;
            }
            round += 1;
        }
        Ok(())
    }

    /// Takes what is still on its way.
    fn settle(&mut self) -> Result<(), Box<dyn Error>> {
        let until = instant() + Duration::from_millis(100);
        while instant() < until {
            self.listen(until)?;
        }
        Ok(())
    }

    fn say(&mut self, index: usize, to: SocketAddr) -> Result<(), Box<dyn Error>> {
        let (call, role) = (index / self.kind.legs(), index % self.kind.legs());
        let number = self.packets[index];
        self.packets[index] += 1;
        let turn = [40, 0, 20][role];
        let is_mark = (number + call as u32 * 7) % MARK_EVERY == turn;
        let mut packet = [0; 172];
        packet[0] = 0x80;
        packet[2..4].copy_from_slice(&(number as u16).to_be_bytes());
        packet[4..8].copy_from_slice(&number.wrapping_mul(160).to_be_bytes());
        packet[8..12].copy_from_slice(&(index as u32 + 1).to_be_bytes());
        packet[12..].copy_from_slice(if is_mark { &self.marks[role] } else { &self.silence });
        if is_mark {
            self.marked[index] = Some(instant());
        }
        self.sockets[index].send_to(&packet, to)?;
        let is_bare = self.bare_ports.contains(&to.port());
        let count = if is_bare { &mut self.bare } else { &mut self.engine };
        count.0 += 1;
        Ok(())
    }

    fn listen(&mut self, until: Instant) -> Result<(), Box<dyn Error>> {
        let mut ready = [EpollEvent::empty(); 64];
        let count = self.epoll.wait(&mut ready, EpollTimeout::ZERO)?;
        if count == 0 {
            std::thread::sleep(until.saturating_duration_since(instant()).min(NAP));
            return Ok(());
        }
        let now = instant();
        let mut packet = [0; 2048];
        for event in &ready[..count] {
            let index = event.data() as usize;
            while let Ok((len, from)) = self.sockets[index].recv_from(&mut packet) {
                if self.bare_ports.contains(&from.port()) {
                    self.bare.1 += 1;
                    continue;
                }
                self.engine.1 += 1;
                self.hear(index, packet.get(12..len).unwrap_or_default(), now);
            }
        }
        Ok(())
    }

    /// Looks for the marks of those this phone listens to.
    fn hear(&mut self, index: usize, payload: &[u8], now: Instant) {
        let legs = self.kind.legs();
        let (first, role) = (index - index % legs, index % legs);
        let paths: &[(usize, usize)] = match role {
            AGENT => &[(0, CUSTOMER), (1, SUPERVISOR)],
            SUPERVISOR => &[(2, AGENT)],
            _ => &[],
        };
        for &(path, speaker) in paths.iter().filter(|(_, speaker)| *speaker < legs) {
            let mark = self.marks[speaker][0];
            if payload.contains(&mark)
                && let Some(at) = self.marked[first + speaker].take()
            {
                self.delays[path].push(now.saturating_duration_since(at));
            }
        }
    }
}

/// The limit: receive, send back, nothing else.
struct Bare {
    addresses: Vec<SocketAddr>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    served: Arc<AtomicU64>,
}

impl Bare {
    fn start(count: usize) -> Result<Self, Box<dyn Error>> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        let mut sockets = Vec::new();
        let mut addresses = Vec::new();
        for index in 0..count {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_nonblocking(true)?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
            addresses.push(socket.local_addr()?);
            sockets.push(socket);
        }
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopping, counter) = (Arc::clone(&stop), Arc::clone(&served));
        let thread = std::thread::Builder::new().name("bare-0".into()).spawn(move || {
            let mut ready = [EpollEvent::empty(); 256];
            let mut packet = [0; 2048];
            while !stopping.load(Ordering::Relaxed) {
                let count = epoll.wait(&mut ready, 100_u8).unwrap_or(0);
                for event in &ready[..count] {
                    let socket = &sockets[event.data() as usize];
                    if let Ok((len, from)) = socket.recv_from(&mut packet) {
                        counter.fetch_add(u64::from(socket.send_to(&packet[..len], from).is_ok()), Ordering::Relaxed);
                    }
                }
            }
        })?;
        Ok(Self {
            addresses,
            stop,
            thread: Some(thread),
            served,
        })
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the bare loop does not panic");
        }
        assert!(self.served.load(Ordering::Relaxed) > 0);
    }
}

/// CPU time of this process's threads of that name, to the nanosecond (proc(5): schedstat).
fn cpu_of(name: &str) -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let nanos = tasks.filter_map(|task| {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).ok();
        if !read("comm")?.starts_with(name) {
            return None;
        }
        read("schedstat")?.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Resident bytes (proc(5): statm).
fn resident() -> u64 {
    const PAGE: u64 = 4096;
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<u64>().ok())
        .unwrap_or(0)
        * PAGE
}
