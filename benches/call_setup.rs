//! What setting up and ending a call costs, against the bare receiving and sending of as many
//! datagrams of the same sizes.
//!
//! ```text
//! cargo bench --bench call_setup -- [--seconds 5] [--slots 32] [--workers 1] [--via] [--json]
//! ```
//!
//! The whole SIP backend on real sockets: a trunk calls devices. A generator in one thread is the
//! trunk and every device; its messages are prebuilt and patched. `--slots` calls are under way at
//! any time, each INVITE, 100, 180, 200, ACK, BYE, 200 on both sides with its media ports opened
//! and closed, and the next follows at once. It drives in turn the backend and a bare loop that
//! answers each datagram with as many, of the sizes that one real call had, at as many calls a
//! second as the backend has just reached: a loop that is faster than its generator never has to
//! wake it, and would seem to cost half. CPU is what the kernel booked for the threads of either;
//! the backend's counts while the bare loop is driven too, as that is when it ends what calls have
//! left behind. What it does when transactions end, half a minute after their call, is only in it
//! when that long is measured. All with the product's allocator. A ratio is that of a second of
//! either, the median of all with the least and the most.
//!
//! With `--via` both sides of each call are devices behind one switch: the caller is known by its
//! P-Asserted-Identity, the callee is rung through the trunk. And 5,000 devices are registered and
//! registered again first, each with a challenge, then asked by OPTIONS whether they are there;
//! behind a switch the same number costs one OPTIONS each ten seconds in all.

mod measure;

use measure::{Spread, Threads, anonymous_kib};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::time::TimeSpec;
use std::any::Any;
use std::error::Error;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use undertone::clock::instant;
use undertone::media::MediaConfig;
use undertone::sip::b2bua::B2buaConfig;
use undertone::sip::backend::{self, SipBackend};
use undertone::sip::config::{ListenAddress, SipAccount, SipConfig, SipLimits, Trunk, TrunkSource};
use undertone::sip::digest::{Credentials, DigestRequest};
use undertone::sip::flow::Protocol;
use undertone::sip::transaction::Bounds;
use undertone::sip::transport::TransportTls;
use undertone::store;

const REALM: &str = "bench";
const SWITCH: &str = "switch";
const PASSWORD: &str = "secret";
const SLICE: Duration = Duration::from_secs(1);
/// Transactions linger for 32 s: until then nothing of a call is freed.
const LINGERING: Duration = Duration::from_secs(30);
/// Less growth than this is noise.
const LEAST_KIB: f64 = 1024.0;
/// Threads of the backend, and of the bare loop.
const OURS: [&str; 2] = ["sip", "media-"];
const BARE: [&str; 1] = ["bare-"];
/// A call that has stood still for so long is given up.
const STUCK: Duration = Duration::from_secs(3);
const NAP: u16 = 20;
const DATAGRAM: usize = 4096;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

struct Options {
    seconds: u64,
    slots: usize,
    workers: usize,
    via: bool,
    /// How often registered devices are asked whether they are there.
    qualify: Option<Duration>,
    json: bool,
}

fn options() -> Result<Options, Box<dyn Error>> {
    let mut options =
        Options { seconds: 5, slots: 32, workers: 1, via: false, qualify: None, json: false };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        let mut value = || args.next().ok_or(format!("{arg} needs a value"));
        match arg.as_str() {
            "--seconds" => options.seconds = value()?.parse()?,
            "--slots" => options.slots = value()?.parse()?,
            "--workers" => options.workers = value()?.parse()?,
            "--via" => options.via = true,
            "--json" => options.json = true,
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
    let row = measure(&options)?;
    if options.via {
        print_registrations(&options)?;
    }
    match options.json {
        true => println!("{}", serde_json::json!({ "rows": [row.json()] })),
        false => row.print(),
    }
    Ok(())
}

struct Row {
    calls: u64,
    cpu: Spread,
    bare_cpu: Spread,
    ratio: Spread,
    reached: f64,
    bare_reached: f64,
    given_up: u64,
    datagrams: usize,
    bytes: usize,
    /// KiB; `None` when it is too small to measure.
    kb_per_call: Option<f64>,
}

impl Row {
    fn print(&self) {
        println!(
            "{} calls: {:.0} calls a second and core, {:.0} µs a call (bare {:.0}, ratio {:.2}; {} \
             datagrams, {} bytes)",
            self.calls,
            1e6 / self.cpu.middle,
            self.cpu,
            self.bare_cpu,
            self.ratio,
            self.datagrams,
            self.bytes,
        );
        let kept = self.kb_per_call.map_or_else(
            || "what is kept of a call is too small to measure".to_owned(),
            |kib| format!("{kib:.1} KiB kept of a call while its transactions linger"),
        );
        println!(
            "beside the generator {:.0} calls a second (bare {:.0}), {} given up, {kept}",
            self.reached, self.bare_reached, self.given_up,
        );
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "engine": "undertone",
            "calls": self.calls,
            "calls_per_s": 1e6 / self.cpu.middle,
            "cpu_us_per_call": self.cpu.middle,
            "cpu_us_per_call_range": [self.cpu.least, self.cpu.most],
            "bare_cpu_us_per_call": self.bare_cpu.middle,
            "bare_cpu_us_per_call_range": [self.bare_cpu.least, self.bare_cpu.most],
            "ratio": self.ratio.middle,
            "ratio_range": [self.ratio.least, self.ratio.most],
            "reached_calls_per_s": self.reached,
            "bare_reached_calls_per_s": self.bare_reached,
            "given_up": self.given_up,
            "datagrams_per_call": self.datagrams,
            "bytes_per_call": self.bytes,
            "kb_per_call": self.kb_per_call,
        })
    }
}

fn measure(options: &Options) -> Result<Row, Box<dyn Error>> {
    let (running, mut calls) = start(options)?;
    let backend = &running.backend;
    match options.via {
        true => calls.wait_for_options()?,
        false => calls.register()?,
    }
    let steps = calls.one_call()?;
    let mut bare = Bare::start(steps, options.slots)?;
    let mut rate = calls.run(SLICE)? as f64 / SLICE.as_secs_f64();
    bare.run(SLICE / 2, rate)?;
    let [mut time, mut bare_time] = [Duration::ZERO; 2];
    let (mut done, mut bare_done) = (0, 0);
    let mut slices = Vec::new();
    let (memory, first) = (anonymous_kib("self")?, instant());
    let mut kept = None;
    // A slice of the one, a slice of the other: what else the machine does disturbs both alike.
    for _ in 0..options.seconds {
        let (ours, theirs, began) =
            (Threads::of("self", &OURS), Threads::of("self", &BARE), instant());
        let exchanges = bare.run(SLICE, rate)?;
        let bare_cpu = Threads::of("self", &BARE).since(&theirs);
        bare_time += began.elapsed();

        let began = instant();
        let ended = calls.run(SLICE)?;
        let cpu = Threads::of("self", &OURS).since(&ours);
        time += began.elapsed();
        rate = ended as f64 / began.elapsed().as_secs_f64();

        if ended == 0 || exchanges == 0 {
            return Err("a second without any call".into());
        }
        let micros = |cpu: Duration, count: u64| cpu.as_secs_f64() * 1e6 / count as f64;
        slices.push((micros(cpu, ended), micros(bare_cpu, exchanges)));
        (done, bare_done) = (done + ended, bare_done + exchanges);
        if first.elapsed() < LINGERING {
            let growth = anonymous_kib("self")? - memory;
            kept = (growth >= LEAST_KIB).then_some(growth / done as f64);
        }
    }
    let until = instant() + STUCK;
    while backend.media().legs > 0 && instant() < until {
        calls.listen(&mut 0)?;
    }
    let open = backend.media().legs;
    if open > 0 {
        return Err(format!("{open} legs are left over").into());
    }
    running.stop();
    let spread = |value: fn(&(f64, f64)) -> f64| {
        Spread::of(slices.iter().map(value)).ok_or("no second was measured")
    };
    Ok(Row {
        calls: done,
        cpu: spread(|slice| slice.0)?,
        bare_cpu: spread(|slice| slice.1)?,
        ratio: spread(|slice| slice.0 / slice.1)?,
        reached: done as f64 / time.as_secs_f64(),
        bare_reached: bare_done as f64 / bare_time.as_secs_f64(),
        given_up: calls.given_up,
        datagrams: bare.steps.iter().map(|step| 1 + step.answers.len()).sum(),
        bytes: bare.steps.iter().map(|step| step.size + step.answers.iter().sum::<usize>()).sum(),
        kb_per_call: kept,
    })
}

/// A SIP backend that runs.
struct Running {
    runtime: tokio::runtime::Runtime,
    backend: SipBackend,
    _server: Box<dyn Any>,
}

impl Running {
    fn stop(self) {
        self.runtime.block_on(self.backend.shutdown());
    }
}

fn start(options: &Options) -> Result<(Running, Calls), Box<dyn Error>> {
    let sockets = Sockets::open()?;
    // The backend's threads are known by their name.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.workers)
        .thread_name("sip")
        .enable_all()
        .build()?;
    let config = config(&sockets, options)?;
    let (server, backend) =
        runtime.block_on(runtime.spawn(backend::start(config, store::in_memory())))??;
    let address = backend.local_addr(Protocol::Udp).ok_or("no UDP")?;
    let calls = Calls::new(sockets, address, options.slots, options.via)?;
    Ok((Running { runtime, backend, _server: Box::new(server) }, calls))
}

/// One trunk that calls, and as many devices as calls at once.
fn config(sockets: &Sockets, options: &Options) -> Result<backend::BackendConfig, Box<dyn Error>> {
    let (caller, callee) = (sockets.caller.local_addr()?, sockets.callee.local_addr()?);
    let source = |side: SocketAddr| TrunkSource::new(side.ip().into(), Some(side.port()));
    let trunk = match options.via {
        true => Trunk {
            sources: vec![source(caller), source(callee)],
            qualify: Some(Duration::from_secs(10)),
            ..Trunk::at(SWITCH, callee, Protocol::Udp)
        },
        false => Trunk {
            // The devices are at the same address, and at another port.
            sources: vec![source(caller)],
            prefixes: Vec::new(),
            ..Trunk::at("caller", caller, Protocol::Udp)
        },
    };
    let account = |number: String| {
        let (device, number) = (format!("device-{number}").into(), number.as_str().into());
        match options.via {
            true => SipAccount::behind(device, number, SWITCH),
            false => SipAccount::new(device, number, REALM, PASSWORD),
        }
    };
    let callers = (0..options.slots).filter(|_| options.via).map(calling);
    let limits = SipLimits {
        transactions: Bounds { total: usize::MAX, per_source: usize::MAX, ..Bounds::default() },
        legs: usize::MAX,
        refusals_per_second: u32::MAX,
        ..SipLimits::default()
    };
    Ok(backend::BackendConfig {
        sip: SipConfig {
            listen: vec![ListenAddress::new(
                Protocol::Udp,
                SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            )],
            realm: REALM.into(),
            accounts: (0..options.slots).map(number).chain(callers).map(account).collect(),
            trunks: vec![trunk],
            limits,
            qualify: options.qualify,
            ..SipConfig::default()
        },
        b2bua: B2buaConfig { grace: Duration::ZERO, ..B2buaConfig::default() },
        media: MediaConfig { ports: None, workers: options.workers, ..MediaConfig::default() },
        tls: TransportTls::default(),
    })
}

fn number(slot: usize) -> String {
    format!("{}", 5000 + slot)
}

/// The number of the device that calls, where it is one.
fn calling(slot: usize) -> String {
    format!("{}", 15_000 + slot)
}

/// What registering costs: each device twice, the second time as a phone refreshes.
fn print_registrations(options: &Options) -> Result<(), Box<dyn Error>> {
    const DEVICES: usize = 5_000;
    const QUALIFY: Duration = Duration::from_secs(10);
    let qualify = Some(QUALIFY);
    let options = Options { slots: DEVICES, via: false, qualify, ..*options };
    let (running, mut calls) = start(&options)?;
    for what in ["registrations", "refreshes"] {
        let before = Threads::of("self", &OURS);
        calls.register()?;
        let cpu = Threads::of("self", &OURS).since(&before).as_secs_f64();
        let each = cpu * 1e6 / DEVICES as f64;
        println!(
            "{DEVICES} {what}: {each:.0} µs each with its challenge, {:.1} a minute are a \
             hundredth of a core",
            0.6e6 / each
        );
    }
    let (before, asked, until) = (Threads::of("self", &OURS), calls.asked, instant() + 2 * QUALIFY);
    while instant() < until {
        calls.listen(&mut 0)?;
    }
    let (cpu, asked) = (Threads::of("self", &OURS).since(&before), calls.asked - asked);
    if asked == 0 {
        return Err("no registered device is asked whether it is there".into());
    }
    println!(
        "{asked} OPTIONS in {} s to {DEVICES} devices: {:.0} µs each with its answer",
        2 * QUALIFY.as_secs(),
        cpu.as_secs_f64() * 1e6 / asked as f64
    );
    running.stop();
    Ok(())
}

struct Sockets {
    caller: UdpSocket,
    callee: UdpSocket,
    epoll: Epoll,
}

impl Sockets {
    fn open() -> Result<Self, Box<dyn Error>> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        let open = |index| -> Result<UdpSocket, Box<dyn Error>> {
            let socket = bind()?;
            socket.set_nonblocking(true)?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, index))?;
            Ok(socket)
        };
        let (caller, callee) = (open(CALLER)?, open(CALLEE)?);
        Ok(Self { caller, callee, epoll })
    }
}

const CALLER: u64 = 0;
const CALLEE: u64 = 1;

fn bind() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    // Less than asked for is fine.
    let _ = socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20);
    Ok(socket)
}

/// A datagram to the server, and the sizes of those that came of it.
#[derive(Clone, Debug)]
struct Step {
    size: usize,
    answers: Vec<usize>,
}

/// What one of the calls under way waits for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Waits {
    ForAnswer,
    ForEnd,
}

struct Slot {
    number: u64,
    waits: Waits,
    since: Instant,
}

/// Caller and callees.
struct Calls {
    sockets: Sockets,
    server: SocketAddr,
    caller: SocketAddr,
    callee: SocketAddr,
    offer: String,
    answer: String,
    slots: Vec<Slot>,
    next: u64,
    taking: bool,
    /// Both sides are devices behind a switch.
    via: bool,
    /// OPTIONS that were answered.
    asked: u64,
    given_up: u64,
    /// While one call is recorded: its datagrams, to the server or from it.
    recorded: Option<Vec<Step>>,
    buffer: Vec<u8>,
}

impl Calls {
    fn new(sockets: Sockets, server: SocketAddr, slots: usize, via: bool) -> io::Result<Self> {
        let (caller, callee) = (sockets.caller.local_addr()?, sockets.callee.local_addr()?);
        let slot = || Slot { number: 0, waits: Waits::ForEnd, since: instant() };
        Ok(Self {
            sockets,
            server,
            caller,
            callee,
            offer: session(40_000, &[0, 8, 101]),
            answer: session(40_002, &[0, 101]),
            slots: (0..slots).map(|_| slot()).collect(),
            next: 1,
            taking: false,
            via,
            asked: 0,
            given_up: 0,
            recorded: None,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// The devices behind a switch are there once it has answered.
    fn wait_for_options(&mut self) -> Result<(), Box<dyn Error>> {
        let until = instant() + STUCK;
        while self.asked == 0 {
            if instant() > until {
                return Err("the switch is not asked whether it is there".into());
            }
            self.listen(&mut 0)?;
        }
        let settled = instant() + Duration::from_millis(200);
        while instant() < settled {
            self.listen(&mut 0)?;
        }
        Ok(())
    }

    /// Every device from one socket.
    fn register(&mut self) -> Result<(), Box<dyn Error>> {
        let socket = self.sockets.callee.try_clone()?;
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(STUCK))?;
        let uri = format!("sip:{}", self.server);
        // Another round is not taken for a repetition of the one before.
        let round = self.next;
        self.next += 1;
        for slot in 0..self.slots.len() {
            let number = number(slot);
            let mut credentials = Credentials::new("server", Some(REALM), &number, PASSWORD);
            let mut authorization = String::new();
            for cseq in 1..=2 {
                let request = format!(
                    "REGISTER {uri} SIP/2.0\r\nVia: SIP/2.0/UDP \
                     {callee};branch=z9hG4bKr{number}.{round}.{cseq}\r\nMax-Forwards: 70\r\n\
                     From: <sip:{number}@{server}>;tag=r{number}\r\nTo: <sip:{number}@{server}>\r\n\
                     Call-ID: r{number}.{round}\r\nCSeq: {cseq} REGISTER\r\n\
                     Contact: <sip:{number}@{callee}>\r\nExpires: 3600\r\n\
                     {authorization}Content-Length: 0\r\n\r\n",
                    callee = self.callee,
                    server = self.server,
                );
                socket.send_to(request.as_bytes(), self.server)?;
                let response = loop {
                    let (length, _) = socket.recv_from(&mut self.buffer)?;
                    let message = std::str::from_utf8(&self.buffer[..length])?.to_owned();
                    if message.starts_with("SIP/2.0 ") {
                        break message;
                    }
                    self.hear_as_callee(&message)?;
                };
                let response = response.as_str();
                let challenges: Vec<&[u8]> =
                    fields(response, "WWW-Authenticate").map(str::as_bytes).collect();
                let subject = DigestRequest { method: b"REGISTER", uri: uri.as_bytes(), body: b"" };
                if let Some(answer) = credentials.answer(&challenges, "server", subject, "bench") {
                    authorization = format!("Authorization: {answer}\r\n");
                } else if !response.starts_with("SIP/2.0 200") {
                    return Err(format!("not registered: {response}").into());
                }
            }
        }
        socket.set_nonblocking(true)?;
        Ok(())
    }

    /// A call alone, for the number and the sizes of its datagrams.
    fn one_call(&mut self) -> Result<Vec<Step>, Box<dyn Error>> {
        self.recorded = Some(Vec::new());
        self.begin(0)?;
        let (mut done, until) = (0, instant() + STUCK);
        while done == 0 {
            if instant() > until {
                return Err("the first call does not come to its end".into());
            }
            self.listen(&mut done)?;
        }
        // What the callee says last comes to nobody's notice.
        let settled = instant() + Duration::from_millis(200);
        while instant() < settled {
            self.listen(&mut done)?;
        }
        Ok(self.recorded.take().unwrap_or_default())
    }

    /// Calls for so long, then waits for the last ones to end; how many there were.
    fn run(&mut self, time: Duration) -> Result<u64, Box<dyn Error>> {
        let until = instant() + time;
        let mut done = 0;
        self.taking = true;
        for slot in 0..self.slots.len() {
            self.begin(slot)?;
        }
        while instant() < until {
            self.listen(&mut done)?;
        }
        self.taking = false;
        while self.slots.iter().any(|slot| slot.number != 0) {
            self.listen(&mut done)?;
            let now = instant();
            for slot in &mut self.slots {
                if slot.number != 0 && now.saturating_duration_since(slot.since) > STUCK {
                    slot.number = 0;
                    self.given_up += 1;
                }
            }
        }
        Ok(done)
    }

    fn begin(&mut self, slot: usize) -> io::Result<()> {
        let call = self.next;
        self.next += 1;
        self.slots[slot] = Slot { number: call, waits: Waits::ForAnswer, since: instant() };
        let (server, caller, offer) = (self.server, self.caller, &self.offer);
        let asserted = match self.via {
            true => format!("P-Asserted-Identity: <sip:{}@{caller}>\r\n", calling(slot)),
            false => String::new(),
        };
        let message = format!(
            "INVITE sip:{number}@{server} SIP/2.0\r\nVia: SIP/2.0/UDP \
             {caller};branch=z9hG4bKi{call};rport\r\nMax-Forwards: 70\r\n\
             From: \"Bench\" <sip:0711@{caller}>;tag=f{call}\r\nTo: <sip:{number}@{server}>\r\n\
             Call-ID: {slot}.{call}@bench\r\nCSeq: 1 INVITE\r\n\
             Contact: <sip:0711@{caller}>\r\nAllow: INVITE, ACK, CANCEL, BYE, OPTIONS\r\n\
             Supported: timer\r\nUser-Agent: bench\r\n{asserted}\
             Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{offer}",
            offer.len(),
            number = number(slot),
        );
        self.send(CALLER, message.as_bytes())
    }

    fn send(&mut self, from: u64, bytes: &[u8]) -> io::Result<()> {
        if let Some(steps) = &mut self.recorded {
            steps.push(Step { size: bytes.len(), answers: Vec::new() });
        }
        let socket = if from == CALLER { &self.sockets.caller } else { &self.sockets.callee };
        match socket.send_to(bytes, self.server) {
            // The far side has it sent again, or the call is given up.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            sent => sent.map(drop),
        }
    }

    fn listen(&mut self, done: &mut u64) -> Result<(), Box<dyn Error>> {
        let mut ready = [EpollEvent::empty(); 2];
        let count = self.sockets.epoll.wait(&mut ready, EpollTimeout::from(NAP))?;
        for event in &ready[..count] {
            let side = event.data();
            loop {
                let mut buffer = std::mem::take(&mut self.buffer);
                let socket =
                    if side == CALLER { &self.sockets.caller } else { &self.sockets.callee };
                let received = socket.recv_from(&mut buffer);
                let outcome = match received {
                    Ok((length, _)) => {
                        if let Some(step) =
                            self.recorded.as_mut().and_then(|steps| steps.last_mut())
                        {
                            step.answers.push(length);
                        }
                        let message = std::str::from_utf8(&buffer[..length])?;
                        match side {
                            CALLER => self.hear_as_caller(message, done),
                            _ => self.hear_as_callee(message),
                        }
                        .map(|()| true)
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
                    Err(error) => Err(error),
                };
                self.buffer = buffer;
                if !outcome? {
                    break;
                }
            }
        }
        Ok(())
    }

    fn hear_as_caller(&mut self, message: &str, done: &mut u64) -> io::Result<()> {
        let Some(status) = message.strip_prefix("SIP/2.0 ") else {
            return Ok(());
        };
        let call_id = field(message, "Call-ID");
        let ids = call_id.strip_suffix("@bench").and_then(|ids| ids.split_once('.'));
        let Some((slot, call)) = ids.and_then(|(slot, call)| {
            Some((slot.parse::<usize>().ok()?, call.parse::<u64>().ok()?))
        }) else {
            return Ok(());
        };
        if self.slots[slot].number != call || status.starts_with('1') {
            return Ok(());
        }
        let is_invite = field(message, "CSeq").ends_with("INVITE");
        match (self.slots[slot].waits, is_invite, status.starts_with("200")) {
            (Waits::ForAnswer, true, true) => {
                let target = field(message, "Contact");
                let target = target.trim_start_matches('<').split('>').next().unwrap_or_default();
                let (from, to, caller) =
                    (field(message, "From"), field(message, "To"), self.caller);
                let request = |method: &str, branch: char, cseq: u8| {
                    format!(
                        "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP \
                         {caller};branch=z9hG4bK{branch}{call};rport\r\nMax-Forwards: 70\r\n\
                         From: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\n\
                         CSeq: {cseq} {method}\r\nUser-Agent: bench\r\nContent-Length: 0\r\n\r\n"
                    )
                };
                let (ack, bye) = (request("ACK", 'a', 1), request("BYE", 'b', 2));
                self.slots[slot].waits = Waits::ForEnd;
                self.slots[slot].since = instant();
                self.send(CALLER, ack.as_bytes())?;
                self.send(CALLER, bye.as_bytes())
            }
            (Waits::ForEnd, true, true) => Ok(()),
            (Waits::ForEnd, false, true) => {
                *done += 1;
                self.over(slot)
            }
            _ => {
                self.given_up += 1;
                self.over(slot)
            }
        }
    }

    fn over(&mut self, slot: usize) -> io::Result<()> {
        match self.taking {
            true => self.begin(slot),
            false => {
                self.slots[slot].number = 0;
                Ok(())
            }
        }
    }

    fn hear_as_callee(&mut self, message: &str) -> io::Result<()> {
        let callee = self.callee;
        let respond = |status: &str, more: &str, body: &str| {
            let mut response = format!("SIP/2.0 {status}\r\n");
            for via in fields(message, "Via") {
                response += &format!("Via: {via}\r\n");
            }
            let (to, call_id) = (field(message, "To"), field(message, "Call-ID"));
            let tag = if to.contains(";tag=") { "" } else { ";tag=callee" };
            response += &format!(
                "From: {}\r\nTo: {to}{tag}\r\nCall-ID: {call_id}\r\nCSeq: {}\r\n\
                 {more}Content-Length: {}\r\n\r\n{body}",
                field(message, "From"),
                field(message, "CSeq"),
                body.len()
            );
            response
        };
        if message.starts_with("INVITE ") {
            let contact = format!("Contact: <sip:callee@{callee}>\r\nUser-Agent: bench\r\n");
            let ringing = respond("180 Ringing", &contact, "");
            let answered = respond(
                "200 OK",
                &format!("{contact}Content-Type: application/sdp\r\n"),
                &self.answer,
            );
            self.send(CALLEE, ringing.as_bytes())?;
            self.send(CALLEE, answered.as_bytes())
        } else if message.starts_with("OPTIONS ") {
            self.asked += 1;
            let answered = respond("200 OK", "", "");
            self.send(CALLEE, answered.as_bytes())
        } else if message.starts_with("BYE ") {
            let answered = respond("200 OK", "", "");
            self.send(CALLEE, answered.as_bytes())
        } else {
            Ok(())
        }
    }
}

fn session(port: u16, payload_types: &[u8]) -> String {
    let mut text = format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP"
    );
    payload_types.iter().for_each(|kind| text += &format!(" {kind}"));
    text += "\r\n";
    for kind in payload_types {
        text += match kind {
            0 => "a=rtpmap:0 PCMU/8000\r\n",
            8 => "a=rtpmap:8 PCMA/8000\r\n",
            _ => "a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\n",
        };
    }
    text + "a=sendrecv\r\n"
}

fn fields<'a>(message: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let head = message.split("\r\n\r\n").next().unwrap_or_default();
    head.split("\r\n").filter_map(move |line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn field<'a>(message: &'a str, name: &'a str) -> &'a str {
    fields(message, name).next().unwrap_or_default()
}

/// The limit: as many datagrams of the same sizes in and out, nothing else.
struct Bare {
    steps: Arc<Vec<Step>>,
    address: SocketAddr,
    socket: UdpSocket,
    slots: usize,
    served: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Bare {
    fn start(steps: Vec<Step>, slots: usize) -> Result<Self, Box<dyn Error>> {
        let server = bind()?;
        let address = server.local_addr()?;
        server.set_read_timeout(Some(Duration::from_millis(100)))?;
        let socket = bind()?;
        socket.set_read_timeout(Some(STUCK))?;
        let (steps, stop) = (Arc::new(steps), Arc::new(AtomicBool::new(false)));
        let served = Arc::new(AtomicU64::new(0));
        let (script, stopping, counter) = (steps.clone(), stop.clone(), served.clone());
        let thread = std::thread::Builder::new().name("bare-0".into()).spawn(move || {
            let mut buffer = [0; DATAGRAM];
            while !stopping.load(Ordering::Relaxed) {
                let Ok((_, from)) = server.recv_from(&mut buffer) else {
                    continue;
                };
                counter.fetch_add(1, Ordering::Relaxed);
                for size in &script[usize::from(buffer[0])].answers {
                    // What is lost shows at the other end.
                    let _ = server.send_to(&buffer[..*size], from);
                }
            }
        })?;
        Ok(Self { steps, address, socket, slots, served, stop, thread: Some(thread) })
    }

    /// So many exchanges a second, at once at most as many as there were calls; how many came to
    /// their end.
    fn run(&mut self, time: Duration, rate: f64) -> Result<u64, Box<dyn Error>> {
        let (began, served) = (instant(), self.served.load(Ordering::Relaxed));
        let (mut begun, mut done) = (0_u32, 0);
        // The step each is at, and how many datagrams are to come.
        let mut places = vec![(0, 0); self.slots];
        let mut free: Vec<usize> = (0..self.slots).collect();
        let mut buffer = [0; DATAGRAM];
        loop {
            let due = began + Duration::from_secs_f64(f64::from(begun) / rate);
            let is_over = instant() >= began + time;
            if is_over && free.len() == self.slots {
                break;
            }
            let mut wait = STUCK;
            if !is_over && !free.is_empty() {
                wait = due.saturating_duration_since(instant());
                if wait.is_zero() {
                    begun += 1;
                    let slot = free.pop().unwrap_or_default();
                    self.say(slot, &mut places[slot], 0)?;
                    continue;
                }
            }
            if !self.has_come(wait)? {
                continue;
            }
            self.socket.recv_from(&mut buffer)?;
            let slot = usize::from(u16::from_be_bytes([buffer[1], buffer[2]]));
            let place = &mut places[slot];
            place.1 -= 1;
            if place.1 > 0 {
                continue;
            }
            let next = place.0 + 1;
            if next < self.steps.len() && self.say(slot, place, next)? {
                continue;
            }
            done += 1;
            free.push(slot);
        }
        // Steps of the last calls that nothing comes of may still wait in the socket.
        let served = self.served.load(Ordering::Relaxed) - served;
        match served + self.slots as u64 >= done * self.steps.len() as u64 {
            true => Ok(done),
            false => Err("the bare loop has lost datagrams".into()),
        }
    }

    /// Waits for a datagram, sleeping; false when none came in time.
    fn has_come(&self, time: Duration) -> Result<bool, Box<dyn Error>> {
        let mut sockets = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        let count = ppoll(&mut sockets, Some(TimeSpec::from_duration(time)), None)?;
        match count == 0 && time >= STUCK {
            true => Err("the bare loop has lost datagrams".into()),
            false => Ok(count > 0),
        }
    }

    /// Sends a step, and those after it that nothing comes of before; false after the last.
    fn say(&self, slot: usize, place: &mut (usize, usize), first: usize) -> io::Result<bool> {
        for (at, step) in self.steps.iter().enumerate().skip(first) {
            let mut bytes = [0; DATAGRAM];
            bytes[0] = at as u8;
            bytes[1..3].copy_from_slice(&(slot as u16).to_be_bytes());
            self.socket.send_to(&bytes[..step.size], self.address)?;
            *place = (at, step.answers.len());
            if !step.answers.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("the bare loop does not panic");
        }
    }
}
