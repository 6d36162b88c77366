//! What a coached call costs, against the bare receiving and sending of as many packets.
//!
//! ```text
//! cargo bench --bench coached_calls -- [--calls 10,100,500,1000] [--seconds 5] [--workers 1]
//!     [--kinds relay,coached] [--ports per_leg,shared]
//!     [--sounds PCMU,G722,opus,PCMU+AES_CM_128_HMAC_SHA1_80,PCMU+AEAD_AES_128_GCM] [--json]
//! cargo bench --bench coached_calls -- --limits [--calls 100,500] [--seconds 5]
//! ```
//!
//! Three processes: the phones, which all talk, 50 packets a second each, phases spread over the 20
//! ms; a bare loop (receive, send back, a socket a leg, epoll); the engine, in this one. The phones
//! talk to the bare loop and to the engine in turns, two seconds each, so that what else the
//! machine does disturbs both alike. CPU is what the kernel booked for the threads that serve,
//! while the phones talk to them. What the engine takes while they talk to the bare loop, when it
//! sends silence, is said as `quiet`, a share of a core: the bare loop bears with it. A ratio is
//! that of two such turns, the median of all with the least and the most. Delays are from the
//! sending of a marked packet to the first packet of the listener that carries the mark, so a mix
//! includes the wait for the packet that paces it. Memory a leg is what the allocator, the
//! product's, holds for the legs after they have talked, without the engine that has none.
//!
//! `--limits` compares the bare loop with the system's other ways to receive and send as many
//! packets.

mod bare;
#[path = "../measure.rs"]
mod measure;
mod phones;

use bare::Loop;
use measure::{Counting, Spread, Threads};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use phones::{Ask, Heard, Report};
use serde::de::DeserializeOwned;
use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;
use undertone::clock::instant;
use undertone::media::engine::Engine;
use undertone::media::srtp::{Keys, MasterKey, Suite};
use undertone::media::{
    CallKey, Codec, Expected, Format, Hearing, HearingRole, LegId, LegMedia, MediaCommand,
    MediaConfig, PayloadTypes, PortUse,
};
use undertone::model::Activity;

const FRAME: Duration = Duration::from_millis(20);
const WARM_UP: u64 = 1500;
const SLICE: u64 = 2000;
/// Until the engine's threads have what they need without any leg.
const STARTING: Duration = Duration::from_millis(300);
/// The engine's threads.
const WORKERS: [&str; 1] = ["media-"];

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Beyond this the phones did not keep up, and the row says nothing.
const LATE: f64 = 100.0;
/// The most calls with another sound than PCMU.
const OTHERS: usize = 100;
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

    fn named(name: &str) -> Result<Self, String> {
        [Kind::Relay, Kind::Coached]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or(format!("no such kind: {name}"))
    }
}

/// What the packets are: a codec, perhaps in SRTP.
#[derive(Clone, Copy)]
struct Sound {
    codec: Codec,
    suite: Option<Suite>,
}

impl Sound {
    const ALL: [&str; 5] =
        ["PCMU", "G722", "opus", "PCMU+AES_CM_128_HMAC_SHA1_80", "PCMU+AEAD_AES_128_GCM"];

    fn named(name: &str) -> Result<Self, String> {
        let (codec, suite) = match name.split_once('+') {
            Some((codec, suite)) => {
                (codec, Some(Suite::named(suite).ok_or(format!("no such suite: {suite}"))?))
            }
            None => (name, None),
        };
        let codec = Codec::named(codec).ok_or(format!("no such codec: {codec}"))?;
        Ok(Self { codec, suite })
    }

    fn name(self) -> String {
        match self.suite {
            Some(suite) => format!("{}+{}", self.codec.name(), suite.name()),
            None => self.codec.name().to_owned(),
        }
    }

    /// Everybody's key.
    fn key(self) -> Option<MasterKey> {
        let suite = self.suite?;
        MasterKey::new(suite, &[7; 64][..suite.material_len()])
    }
}

struct Options {
    calls: Vec<usize>,
    seconds: u64,
    workers: usize,
    kinds: Vec<Kind>,
    port_uses: Vec<PortUse>,
    /// Others than PCMU are measured with up to so many calls: [`OTHERS`].
    sounds: Vec<Sound>,
    json: bool,
    limits: bool,
    /// For profiles of the engine alone.
    no_bare: bool,
}

fn name_of(port_use: PortUse) -> &'static str {
    match port_use {
        PortUse::PerLeg => "ports per leg",
        PortUse::Shared => "shared ports",
    }
}

fn port_use(name: &str) -> Result<PortUse, String> {
    match name {
        "per_leg" => Ok(PortUse::PerLeg),
        "shared" => Ok(PortUse::Shared),
        other => Err(format!("no such use of ports: {other}")),
    }
}

fn options(mut args: impl Iterator<Item = String>) -> Result<Options, Box<dyn Error>> {
    let mut options = Options {
        calls: vec![10, 100, 500, 1000],
        seconds: 5,
        workers: 1,
        kinds: vec![Kind::Relay, Kind::Coached],
        port_uses: vec![PortUse::PerLeg, PortUse::Shared],
        sounds: Sound::ALL.into_iter().map(Sound::named).collect::<Result<_, _>>()?,
        json: false,
        limits: false,
        no_bare: false,
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--calls" => {
                options.calls = value()?.split(',').map(str::parse).collect::<Result<_, _>>()?
            }
            "--seconds" => options.seconds = value()?.parse()?,
            "--workers" => options.workers = value()?.parse()?,
            "--kinds" => {
                options.kinds = value()?.split(',').map(Kind::named).collect::<Result<_, _>>()?
            }
            "--ports" => {
                options.port_uses = value()?.split(',').map(port_use).collect::<Result<_, _>>()?
            }
            "--sounds" => {
                options.sounds = value()?.split(',').map(Sound::named).collect::<Result<_, _>>()?
            }
            "--json" => options.json = true,
            "--limits" => options.limits = true,
            "--no-bare" => options.no_bare = true,
            "--bench" => {}
            other => return Err(format!("unknown argument {other}").into()),
        }
    }
    Ok(options)
}

fn main() -> Result<(), Box<dyn Error>> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let args: Vec<String> = std::env::args().skip(1).collect();
    let word = |at: usize| args.get(at).map(String::as_str).unwrap_or_default();
    match word(0) {
        "phones" => {
            return phones::run(Kind::named(word(1))?, word(2).parse()?, Sound::named(word(3))?);
        }
        "bare" => return bare::run(Loop::ALL[word(1).parse::<usize>()?].0),
        _ => {}
    }
    let options = options(args.into_iter())?;
    let mut rows = Vec::new();
    for &calls in &options.calls {
        if options.limits {
            rows.extend(limits(calls, &options)?);
            continue;
        }
        for &sound in &options.sounds {
            let is_plain = sound.codec == Codec::Pcmu && sound.suite.is_none();
            if !is_plain && calls > OTHERS {
                continue;
            }
            for &kind in &options.kinds {
                for &port_use in &options.port_uses {
                    let row = measure((kind, port_use), calls, sound, &options)?;
                    if !options.json {
                        row.print();
                    }
                    rows.push(row.json());
                }
            }
        }
    }
    if options.json {
        println!("{}", serde_json::json!({ "rows": rows }));
    }
    Ok(())
}

/// One of our other processes. It ends with us.
struct Helper {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Helper {
    fn start(args: &[&str]) -> Result<Self, Box<dyn Error>> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = child.stdin.take().ok_or("no standard input")?;
        let output = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Self { child, input, output })
    }

    fn tell(&mut self, what: &impl serde::Serialize) -> Result<(), Box<dyn Error>> {
        writeln!(self.input, "{}", serde_json::to_string(what)?)?;
        Ok(())
    }

    fn hear<T: DeserializeOwned>(&mut self) -> Result<T, Box<dyn Error>> {
        let mut line = String::new();
        if self.output.read_line(&mut line)? == 0 {
            return Err("a process of the bench has ended".into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn threads(&self) -> Threads {
        Threads::of(&self.child.id().to_string(), &[""])
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The phones and the bare loop that answers them.
struct Stage {
    phones: Helper,
    ports: Vec<u16>,
    bare: Helper,
    bare_ports: Vec<u16>,
}

impl Stage {
    fn set(kind: Kind, calls: usize, sound: Sound, bare: usize) -> Result<Self, Box<dyn Error>> {
        let mut phones =
            Helper::start(&["phones", kind.name(), &calls.to_string(), &sound.name()])?;
        let ports: Vec<u16> = phones.hear()?;
        let mut bare = Helper::start(&["bare", &bare.to_string()])?;
        bare.tell(&ports)?;
        let bare_ports = bare.hear()?;
        Ok(Self { phones, ports, bare, bare_ports })
    }

    fn talk(&mut self, bare: bool, millis: u64) -> Result<Heard, Box<dyn Error>> {
        self.phones.tell(&Ask::Talk { bare, millis })?;
        self.phones.hear()
    }

    /// What the phones have heard since the last reset.
    fn report(&mut self) -> Result<Report, Box<dyn Error>> {
        self.phones.tell(&Ask::Report)?;
        self.phones.hear()
    }

    fn talk_to_bare(&mut self, millis: u64) -> Result<Turn, Box<dyn Error>> {
        let before = self.bare.threads();
        let heard = self.talk(true, millis)?;
        Ok(Turn { cpu: self.bare.threads().since(&before), heard })
    }
}

/// What some seconds of talking took.
#[derive(Clone, Copy, Default)]
struct Turn {
    cpu: Duration,
    heard: Heard,
}

impl Turn {
    fn all(turns: &[Turn]) -> Turn {
        let mut all = Turn::default();
        for turn in turns {
            all.cpu += turn.cpu;
            all.heard.sent += turn.heard.sent;
            all.heard.received += turn.heard.received;
        }
        all
    }

    fn lost(&self) -> u64 {
        self.heard.sent.saturating_sub(self.heard.received)
    }

    /// Microseconds of CPU for each packet in and out.
    fn per_packet(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.heard.sent as f64
    }
}

/// What a packet costs against what it costs the others, of the turns that followed each other.
fn ratio(turns: &[Turn], others: &[Turn]) -> Option<Spread> {
    Spread::of(turns.iter().zip(others).map(|(turn, other)| turn.per_packet() / other.per_packet()))
}

/// The bare loops beside each other.
fn limits(calls: usize, options: &Options) -> Result<Vec<serde_json::Value>, Box<dyn Error>> {
    let kind = Kind::Coached;
    let mut stages = Vec::new();
    for index in 0..Loop::ALL.len() {
        let mut stage = Stage::set(kind, calls, Sound::named("PCMU")?, index)?;
        let sides = Ask::Sides { engine: Vec::new(), bare: stage.bare_ports.clone() };
        stage.phones.tell(&sides)?;
        stage.talk(true, WARM_UP)?;
        stage.phones.tell(&Ask::Reset)?;
        stages.push((stage, Vec::new()));
    }
    for _ in 0..options.seconds.div_ceil(SLICE / 1000) {
        for (stage, turns) in &mut stages {
            turns.push(stage.talk_to_bare(SLICE)?);
        }
    }
    let limits = stages[0].1.clone();
    let mut rows = Vec::new();
    for ((stage, turns), (_, name)) in stages.iter_mut().zip(Loop::ALL) {
        let Some(ratio) = ratio(turns, &limits) else {
            continue;
        };
        let (all, late) = (Turn::all(turns), stage.report()?.late);
        let (cost, lost) = (all.per_packet(), all.lost());
        if !options.json {
            let late = if late > LATE { ", PHONES DID NOT KEEP UP" } else { "" };
            println!(
                "{calls:>5} calls {name:<40} {cost:5.2} µs a packet, ratio {ratio:4.2}, lost \
                 {lost}{late}"
            );
        }
        rows.push(serde_json::json!({
            "loop": name, "calls": calls, "us_per_packet": cost, "ratio": ratio.middle,
            "ratio_range": [ratio.least, ratio.most],
            "lost": lost, "phones_late_ms": late, "phones_kept_up": late <= LATE,
        }));
    }
    Ok(rows)
}

struct Row {
    kind: Kind,
    port_use: PortUse,
    /// In receiving, sending and the machines, while it was talked to.
    nanos: [u64; 3],
    calls: usize,
    sound: Sound,
    engine: Turn,
    /// Nothing when only the engine was measured.
    bare: Option<Turn>,
    ratio: Option<Spread>,
    /// The engine's share of a core while the phones talk to the bare loop.
    quiet: Option<f64>,
    talked: f64,
    lost: u64,
    kib_per_leg: f64,
    report: Report,
}

impl Row {
    /// Microseconds of CPU for a second of one call.
    fn cpu(&self, turn: &Turn) -> f64 {
        turn.per_packet() * self.kind.legs() as f64 / FRAME.as_secs_f64()
    }

    /// Where the engine's time goes: receiving, sending, the machine of the call, and the rest
    /// (waiting, clocks, counting), as shares. `None` when the first three are more than all: they
    /// are of some turns only, and one was interrupted.
    fn split(&self) -> Option<[f64; 4]> {
        let all = self.engine.cpu.as_nanos() as f64;
        let [receive, send, machine] = self.nanos.map(|nanos| nanos as f64 / all);
        let rest = 1.0 - receive - send - machine;
        (rest >= 0.0).then_some([receive, send, machine, rest])
    }

    fn print(&self) {
        let split = self.split().map_or_else(
            || "where its time went is not known".to_owned(),
            |shares| {
                let [receive, send, machine, rest] = shares.map(|share| share * 100.0);
                format!(
                    "receive {receive:.0} %, send {send:.0} %, decode+mix+encode {machine:.0} \
                     %, rest {rest:.0} %"
                )
            },
        );
        let quiet = self.quiet.map_or_else(
            || "not measured".to_owned(),
            |share| format!("{:.0} % of a core", share * 100.0),
        );
        let report = &self.report;
        let bare = match (&self.bare, &self.ratio) {
            (Some(bare), Some(ratio)) => {
                format!(" (bare {:5.0}, ratio {ratio:4.2})", self.cpu(bare))
            }
            _ => String::new(),
        };
        println!(
            "{:>5} {:<8} {:<14} {:<28} {:6.0} µs a call·s{bare}, {:5.0} calls a core, {:4.1} KiB a \
             leg, lost {}{}, changed {} of {}{}",
            self.calls,
            self.kind.name(),
            name_of(self.port_use),
            self.sound.name(),
            self.cpu(&self.engine),
            1e6 / self.cpu(&self.engine),
            self.kib_per_leg,
            self.lost,
            self.bare.map_or_else(String::new, |bare| format!(" (bare {})", bare.lost())),
            report.changed,
            report.to_customers,
            if report.late > LATE { ", PHONES DID NOT KEEP UP" } else { "" },
        );
        println!(
            "{:15}{split}; quiet {quiet}; spacing toward agents {:.2} ms p99 off 20 ms; phones \
             {:.0} ms late at worst",
            "",
            share(&report.spacing, 0.99).unwrap_or_default(),
            report.late,
        );
        for (delays, name) in
            report.delays.iter().zip(["customer→agent", "supervisor→agent", "agent→supervisor"])
        {
            if let (Some(median), Some(high)) = (share(delays, 0.5), share(delays, 0.99)) {
                println!(
                    "{:15}{name:<17} {median:6.2} ms p50, {high:6.2} ms p99, {} marks",
                    "",
                    delays.len()
                );
            }
        }
    }

    fn json(&self) -> serde_json::Value {
        let report = &self.report;
        let delay = |path: usize| {
            serde_json::json!({
                "p50": share(&report.delays[path], 0.5), "p99": share(&report.delays[path], 0.99),
            })
        };
        let split = self.split();
        let part = |at: usize| split.map(|shares| shares[at]);
        serde_json::json!({
            "engine": "epoll",
            "ports": name_of(self.port_use),
            "kind": self.kind.name(),
            "codec": self.sound.codec.name(),
            "srtp": self.sound.suite.map(Suite::name),
            "calls": self.calls,
            "cpu_us_per_call_s": self.cpu(&self.engine),
            "bare_cpu_us_per_call_s": self.bare.as_ref().map(|bare| self.cpu(bare)),
            "ratio": self.ratio.map(|ratio| ratio.middle),
            "ratio_range": self.ratio.map(|ratio| [ratio.least, ratio.most]),
            "quiet_share": self.quiet,
            "calls_per_core": 1e6 / self.cpu(&self.engine),
            "cpu_share": {
                "receive": part(0), "send": part(1), "machine": part(2), "rest": part(3),
            },
            "lost": self.lost,
            "changed": report.changed,
            "to_customers": report.to_customers,
            "kib_per_leg": self.kib_per_leg,
            "spacing_p99_ms": share(&report.spacing, 0.99),
            "phones_late_ms": report.late,
            "phones_kept_up": report.late <= LATE,
            "seconds": self.talked,
            "delay_ms": {
                "customer_agent": delay(0),
                "supervisor_agent": delay(1),
                "agent_supervisor": delay(2),
            },
        })
    }
}

/// The value below which so many of the sorted ones lie.
fn share(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    sorted.get(((sorted.len() as f64 * share) as usize).min(last)).copied()
}

fn measure(
    (kind, port_use): (Kind, PortUse),
    calls: usize,
    sound: Sound,
    options: &Options,
) -> Result<Row, Box<dyn Error>> {
    let mut stage = Stage::set(kind, calls, sound, 0)?;
    let rtcp = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let (engine, _events) = Engine::start(MediaConfig {
        workers: options.workers,
        ports: None,
        port_use,
        ..MediaConfig::default()
    })?;
    std::thread::sleep(STARTING);
    let before = Counting::held();
    let ports = open(&engine, kind, calls, sound, &stage.ports, rtcp.local_addr()?)?;
    let sides = Ask::Sides { engine: ports, bare: stage.bare_ports.clone() };
    stage.phones.tell(&sides)?;
    drop(sides);
    stage.talk(true, WARM_UP)?;
    stage.talk(false, WARM_UP)?;
    let memory = Counting::held() - before;
    stage.phones.tell(&Ask::Reset)?;

    let (mut engine_turns, mut bare_turns) = (Vec::new(), Vec::new());
    let (mut quiet, mut quiet_time, mut talked) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let mut nanos = [0; 3];
    let workers = || Threads::of("self", &WORKERS);
    let before = engine.stats();
    for _ in 0..options.seconds.div_ceil(SLICE / 1000) {
        if !options.no_bare {
            let (cpu_before, began) = (workers(), instant());
            bare_turns.push(stage.talk_to_bare(SLICE)?);
            quiet += workers().since(&cpu_before);
            quiet_time += began.elapsed();
        }
        let (cpu_before, stats_before, began) = (workers(), engine.stats(), instant());
        let heard = stage.talk(false, SLICE)?;
        engine_turns.push(Turn { cpu: workers().since(&cpu_before), heard });
        talked += began.elapsed();
        // While nobody talks to it, it sends silence; that is not what its time is for here.
        let slice = engine.stats().since(&stats_before);
        for (all, nanos) in
            nanos.iter_mut().zip([slice.receive_nanos, slice.send_nanos, slice.machine_nanos])
        {
            *all += nanos;
        }
    }
    let served = Turn::all(&engine_turns);
    // Time for the last of the counters to be told.
    stage.talk(true, 20)?;
    let stats = engine.stats().since(&before);
    let report = stage.report()?;
    // On the way to the engine, and on the way from it, its own clock's frames included; what it
    // sends while nobody talks to it is silence that the phones do not count.
    let in_lost = served.heard.sent.saturating_sub(stats.received);
    let out_lost = stats.unchanged.saturating_sub(report.to_customers) + stats.send_errors;
    Ok(Row {
        kind,
        port_use,
        nanos,
        calls,
        sound,
        lost: in_lost + if kind == Kind::Coached { out_lost } else { served.lost() },
        engine: served,
        bare: (!options.no_bare).then(|| Turn::all(&bare_turns)),
        ratio: ratio(&engine_turns, &bare_turns),
        quiet: (!options.no_bare).then(|| quiet.as_secs_f64() / quiet_time.as_secs_f64()),
        talked: talked.as_secs_f64(),
        kib_per_leg: memory as f64 / 1024.0 / (calls * kind.legs()) as f64,
        report,
    })
}

fn open(
    engine: &Engine,
    kind: Kind,
    calls: usize,
    sound: Sound,
    phones: &[u16],
    rtcp: SocketAddr,
) -> Result<Vec<u16>, Box<dyn Error>> {
    let mut ports = Vec::new();
    for call in 0..calls {
        let key = CallKey(call as u64);
        let mut roles = Vec::new();
        for leg in 0..kind.legs() {
            let index = call * kind.legs() + leg;
            let name = LegId(index as u64);
            ports.push(engine.open(key, name, Expected::Phone(index.to_string()))?.port());
            let media = LegMedia {
                remote: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, phones[index]))),
                remote_rtcp: Some(rtcp),
                rtcp_mux: false,
                codec: sound.codec,
                payload_type: sound.codec.payload_type(),
                dtmf_pt: None,
                dtmf_clock: 8000,
                comfort_noise: None,
                receives: PayloadTypes::of(&[(
                    sound.codec.payload_type(),
                    Format::Audio(sound.codec),
                )]),
                send: true,
                receive: true,
                nat: false,
            };
            engine.command(MediaCommand::Describe {
                leg: name,
                media,
                srtp: sound.key().map(|key| Box::new(Keys { ours: key.clone(), theirs: key })),
            });
            let agent = LegId((call * kind.legs() + AGENT) as u64);
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
    Ok(ports)
}
