//! Threads and sockets: the noisy part of media.
//!
//! A few threads, each with its epoll and its calls; a call stays with its thread, so no packet is
//! ever handed over. The loop of a worker: wait, do commands, take packets, do what is due.

mod ports;
mod shared_ports;
mod sockets;
mod timer_wheel;
mod worker;

use super::call::{Leg, MAX_LEGS, StreamStart};
use super::{CallKey, Expected, LegId, MediaCommand, MediaConfig, MediaEvent, Music, PortUse};
use crate::clock;
use nix::errno::Errno;
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit};
use ports::PortPool;
use shared_ports::{PAIRS, PortPair};
use sockets::{SocketOptions, Sockets};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as queue};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::mpsc;
use worker::{LegWithSockets, Worker, WorkerCommand, WorkerHandle};

/// Where the engine's events come out. Bounded; what does not fit is counted in
/// [`EngineStats::events_lost`].
pub type MediaEvents = mpsc::Receiver<MediaEvent>;

/// Events nobody has fetched yet.
const EVENTS: usize = 4096;
/// How often any port is asked for until an even one with a free neighbour comes.
const PORT_TRIES: usize = 64;
/// File descriptors that media leaves to signalling, HTTP and the disk.
const RESERVE: u64 = 64;

/// Why a leg could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MediaError {
    /// No free pair of ports in the range.
    #[error("no free pair of RTP ports")]
    NoPorts,
    /// The call has as many legs as it may have.
    #[error("the call has too many legs")]
    TooManyLegs,
    /// The leg is open already.
    #[error("the leg is open already")]
    LegExists,
    /// The process has no file descriptors left for media.
    #[error(
        "too many open files (EMFILE): raise the limit of open files, `ulimit -n` or LimitNOFILE; \
         with ports of their own a call's legs take six, a coached one's nine"
    )]
    NoDescriptors,
    /// The system refused the socket, with this errno.
    #[error("the system refused the socket: {}", io::Error::from_raw_os_error(*.0))]
    Socket(i32),
    /// The engine is stopping.
    #[error("the media engine is stopping")]
    Stopping,
}

/// Why calls can have no sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    /// Some worker has panicked too often.
    #[error("a media worker has stopped")]
    WorkerStopped,
    /// No leg can be opened.
    #[error("no RTP port can be opened on {bind}: {error}")]
    NoPort {
        /// The address of [`MediaConfig::bind`].
        bind: IpAddr,
        /// Why not.
        error: MediaError,
    },
}

/// Whether an engine of this configuration could open a leg on this machine now.
///
/// # Errors
/// Why it could not.
pub fn can_open(config: &MediaConfig) -> Result<(), MediaError> {
    let options =
        SocketOptions { bind: config.bind, dscp: config.dscp, descriptors_below: RawFd::MAX };
    let opened = match &config.ports {
        Some(range) => {
            let pool = PortPool::of(range, config.port_rest);
            first_free(pool.ready(clock::instant()), |port| Sockets::on(&options, port))
        }
        None => options.bind_any(Sockets::on),
    };
    opened.map(drop)
}

/// Reads the file of the music for those who are held.
///
/// # Errors
/// It can not be read, or is no [`Music`].
pub fn read_music(path: &Path) -> io::Result<Music> {
    let about =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut file = Vec::new();
    let opened = File::open(path).map_err(about)?;
    opened.take(Music::LONGEST_FILE + 1).read_to_end(&mut file).map_err(about)?;
    let is_a_law = path.extension().is_some_and(|end| end == "al" || end == "alaw");
    let music = Music::read(&file, is_a_law);
    music.map_err(|error| about(io::Error::new(io::ErrorKind::InvalidData, error)))
}

/// What can be opened on the first port that nobody else has.
fn first_free<T>(
    ports: impl IntoIterator<Item = u16>,
    open: impl Fn(u16) -> io::Result<T>,
) -> Result<T, MediaError> {
    for port in ports {
        match open(port) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(refused(&error)),
            Ok(opened) => return Ok(opened),
        }
    }
    Err(MediaError::NoPorts)
}

/// Sums over all calls since the start, and what is open now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Calls with at least one leg.
    pub calls: u64,
    /// Legs that are open.
    pub legs: u64,
    /// Valid RTP packets received.
    pub received: u64,
    /// RTP packets sent.
    pub sent: u64,
    /// Of `sent`: another leg's payload, byte for byte.
    pub unchanged: u64,
    /// Of `sent`: one other leg's sound in another codec.
    pub transcoded: u64,
    /// Of `sent`: a sum.
    pub mixed: u64,
    /// Of `sent`: silence on our clock.
    pub silent: u64,
    /// Packets dropped because another address than the signalled one sent them.
    pub foreign: u64,
    /// Packets dropped as not RTP, of an unknown payload type, empty or too long.
    pub malformed: u64,
    /// Packets dropped as too late or not to be received.
    pub discarded: u64,
    /// Packets dropped as not authentic under the agreed SRTP key.
    pub srtp_rejected: u64,
    /// SRTP packets dropped as replays.
    pub srtp_replayed: u64,
    /// Times the leak guard sent silence.
    pub leak_guards: u64,
    /// RTCP packets received.
    pub rtcp_received: u64,
    /// RTCP packets sent.
    pub rtcp_sent: u64,
    /// Packets the system did not take.
    pub send_errors: u64,
    /// Events nobody fetched in time.
    pub events_lost: u64,
    /// Nanoseconds in the system's receiving, estimated from one packet in 64; so are the next two.
    /// What the workers take beyond the three is waiting for packets, and what is due by the clock.
    pub receive_nanos: u64,
    /// Nanoseconds in the system's sending.
    pub send_nanos: u64,
    /// Nanoseconds in the calls' machines: reading, deciding, decoding, mixing, encoding.
    pub machine_nanos: u64,
    /// Pairs of ports that a new leg can have now; those of the last five seconds' legs are
    /// resting. 0 when any port will do.
    pub ports_free: u64,
    /// Legs that could not be opened for want of ports or descriptors.
    pub legs_refused: u64,
    /// Panics of workers: each has ended the call that it was about.
    pub worker_panics: u64,
    /// Workers that have stopped, with the calls that they had.
    pub workers_stopped: u64,
    /// How often a leg of shared ports came to have its packets from where another's come from:
    /// nobody hears either.
    pub sources_taken: u64,
}

/// The handle of the media engine. Its threads end when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<EngineState>,
}

impl Engine {
    /// Starts the workers.
    pub fn start(config: MediaConfig) -> io::Result<(Engine, MediaEvents)> {
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let below = RawFd::try_from(limit.saturating_sub(RESERVE)).unwrap_or(RawFd::MAX);
        Self::start_with_descriptors(config, below)
    }

    /// `below`: sockets with this descriptor or a higher one are given back. The system gives the
    /// lowest that is free.
    fn start_with_descriptors(
        config: MediaConfig,
        below: RawFd,
    ) -> io::Result<(Engine, MediaEvents)> {
        if config.bind.is_unspecified() && config.advertised.is_none() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "media: an unspecified bind address needs an advertised one",
            ));
        }
        let workers = match config.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            some => some,
        };
        let (events, receiver) = mpsc::channel(EVENTS);
        let mut handles = Vec::new();
        let mut inboxes = Vec::new();
        for _ in 0..workers {
            let (sender, inbox) = queue::channel();
            let wake =
                Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
            handles.push(WorkerHandle { sender, wake });
            inboxes.push(inbox);
        }
        let options =
            SocketOptions { bind: config.bind, dscp: config.dscp, descriptors_below: below };
        let directory = LegDirectory {
            ports: config.ports.as_ref().map(|range| PortPool::of(range, config.port_rest)),
            ..LegDirectory::default()
        };
        let music = config.music.as_deref().map(read_music).transpose()?;
        let mut shared = EngineState {
            music,
            handles: handles.clone(),
            counters: Vec::new(),
            threads: Vec::new(),
            directory: Mutex::new(directory),
            options,
            pairs: Vec::new().into(),
            config,
        };
        if shared.config.port_use == PortUse::Shared {
            let mut directory = shared.directory();
            let pairs = (0..workers * PAIRS).map(|number| {
                shared.bind(&mut directory, |options, port| {
                    PortPair::on(options, port, number / PAIRS)
                })
            });
            let pairs = pairs.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
            drop(directory);
            shared.pairs = pairs.into();
        }
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let counters = Arc::new(Counters::default());
            shared.counters.push(Arc::clone(&counters));
            let sockets = (options, Arc::clone(&shared.pairs));
            let worker = Worker::new(
                index,
                inbox,
                handles.clone(),
                events.clone(),
                counters,
                sockets,
                &shared.config,
            )?;
            let thread = std::thread::Builder::new()
                .name(format!("media-{index}"))
                .spawn(move || worker.run())?;
            shared.threads.push(thread);
        }
        let shared = Arc::new(shared);
        Ok((Engine { shared }, receiver))
    }

    /// Opens a leg: RTP on an even port, RTCP on the next. Nobody hears it and it hears nobody.
    /// Returns the RTP address to tell its phone. Does not wait for the worker.
    pub fn open(
        &self,
        call: CallKey,
        leg: LegId,
        expected: Expected,
    ) -> Result<SocketAddr, MediaError> {
        let shared = &*self.shared;
        let mut directory = shared.directory();
        if directory.legs.contains_key(&leg) {
            return Err(MediaError::LegExists);
        }
        if directory.calls.get(&call).is_some_and(|place| place.legs >= MAX_LEGS) {
            return Err(MediaError::TooManyLegs);
        }
        let worker = directory.worker_of(call, shared.working())?;
        let place = directory.pair_for(worker, expected, &shared.pairs, clock::instant());
        let (sockets, mut address) = match &place {
            Some((pair, _)) => {
                (Sockets::shared(&shared.options, *pair), shared.pairs[*pair].address)
            }
            None => shared
                .bind(&mut directory, |options, port| {
                    Ok((Sockets::on(options, port)?, SocketAddr::new(options.bind, port)))
                })
                .inspect_err(|_| directory.refused += 1)?,
        };
        let start = StreamStart {
            ssrc: rand::random(),
            sequence: rand::random::<u16>() >> 1,
            timestamp: rand::random(),
            reports: rand::random(),
        };
        let (now, port) = (clock::instant(), address.port());
        let moved =
            Box::new(LegWithSockets { leg: Leg::new(leg, start, now).at_port(port), sockets });
        let ports = match place {
            Some((pair, known)) => directory.hold(leg, pair, known),
            None => LegPorts::Own(address.port()),
        };
        directory.enter(call, leg, worker, ports);
        if !shared.handles[worker].send(WorkerCommand::Put { call, moved }) {
            directory.close(leg);
            return Err(MediaError::Stopping);
        }
        if let Some(advertised) = shared.config.advertised {
            address.set_ip(advertised);
        }
        Ok(address)
    }

    /// Has a command done. Commands of one call are done in order, after the `open` before them.
    pub fn command(&self, command: MediaCommand) {
        let shared = &*self.shared;
        let mut directory = shared.directory();
        let of = |directory: &LegDirectory, leg| directory.legs.get(&leg).map(|leg| leg.worker);
        let (worker, job) = match command {
            MediaCommand::Describe { leg, media, srtp } => {
                let changed = directory.comes_from(leg, media.remote, shared.rested());
                shared.tell(&directory, changed);
                let is_alone = directory.is_alone(leg);
                let job = WorkerCommand::Describe { leg, media, srtp, is_alone };
                (of(&directory, leg), job)
            }
            MediaCommand::Sources { leg, rule } => {
                (of(&directory, leg), WorkerCommand::Sources { leg, rule })
            }
            MediaCommand::SendDigits { leg, digits } => {
                (of(&directory, leg), WorkerCommand::SendDigits { leg, digits })
            }
            MediaCommand::Beep { leg } => (of(&directory, leg), WorkerCommand::Beep { leg }),
            MediaCommand::Music { leg, on } => {
                let music = self.shared.music.clone().filter(|_| on);
                (of(&directory, leg), WorkerCommand::Music { leg, music })
            }
            MediaCommand::Hear { call, hearing } => {
                let hearing = Box::new(hearing);
                (
                    directory.calls.get(&call).map(|place| place.worker),
                    WorkerCommand::Hear { call, hearing },
                )
            }
            MediaCommand::Move { leg, call } => {
                if directory.calls.get(&call).is_some_and(|place| place.legs >= MAX_LEGS) {
                    return;
                }
                let Ok(to) = directory.worker_of(call, shared.working()) else {
                    return;
                };
                let Some(LegPlacement { worker, ports, .. }) = directory.leave(leg) else {
                    return;
                };
                directory.enter(call, leg, to, ports);
                (Some(worker), WorkerCommand::Move { leg, call, to })
            }
            MediaCommand::Close { leg } => {
                let changed = directory.release(leg, |_| true, shared.rested());
                shared.tell(&directory, changed);
                (directory.close(leg), WorkerCommand::Close { leg })
            }
        };
        if let Some(worker) = worker {
            shared.handles[worker].send(job);
        }
    }

    /// Whether calls can have their sound: every worker works, and a leg could be opened now.
    ///
    /// # Errors
    /// What is in the way.
    pub fn is_ready(&self) -> Result<(), NotReady> {
        let shared = &*self.shared;
        if shared.working().count() < shared.handles.len() {
            return Err(NotReady::WorkerStopped);
        }
        if !shared.pairs.is_empty() {
            return Ok(());
        }
        let (options, bind) = (&shared.options, shared.config.bind);
        let ready: Option<Vec<u16>> =
            shared.directory().ports.as_ref().map(|ports| ports.ready(clock::instant()).collect());
        let opened = match ready {
            // Nobody takes a port while it is tried.
            Some(ready) => first_free(ready, |port| {
                let _directory = shared.directory();
                Sockets::on(options, port)
            }),
            None => options.bind_any(Sockets::on),
        };
        opened.map(drop).map_err(|error| NotReady::NoPort { bind, error })
    }

    /// Sums of all workers.
    pub fn stats(&self) -> EngineStats {
        let mut stats = EngineStats::default();
        for counters in &self.shared.counters {
            counters.add_to(&mut stats);
        }
        let directory = self.shared.directory();
        stats.calls = directory.calls.len() as u64;
        stats.legs = directory.legs.len() as u64;
        stats.workers_stopped = (self.shared.handles.len() - self.shared.working().count()) as u64;
        stats.legs_refused = directory.refused;
        stats.sources_taken = directory.contested;
        stats.ports_free =
            directory.ports.as_ref().map_or(0, |ports| ports.ready(clock::instant()).count())
                as u64;
        stats
    }
}

#[derive(Debug)]
struct EngineState {
    handles: Vec<WorkerHandle>,
    counters: Vec<Arc<Counters>>,
    threads: Vec<JoinHandle<()>>,
    directory: Mutex<LegDirectory>,
    options: SocketOptions,
    /// Shared by many legs; none where each has its own.
    pairs: Arc<[PortPair]>,
    config: MediaConfig,
    music: Option<Music>,
}

impl EngineState {
    /// A panic while it was held leaves it whole: every change is one insertion or removal.
    fn directory(&self) -> MutexGuard<'_, LegDirectory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The workers that have not stopped.
    fn working(&self) -> impl Iterator<Item = usize> {
        let threads = self.threads.iter().enumerate();
        threads.filter(|(_, thread)| !thread.is_finished()).map(|(worker, _)| worker)
    }

    /// When what is given back now has rested.
    fn rested(&self) -> Instant {
        clock::instant() + self.config.port_rest
    }

    /// Two legs of one pair with one source cannot be told apart: neither has it until one is gone.
    fn tell(&self, directory: &LegDirectory, changed: Vec<(LegId, bool)>) {
        for (leg, is_alone) in changed {
            if !is_alone {
                tracing::warn!(
                    leg = leg.0,
                    "another leg's sound comes from where this one's does, to a port that both \
                     share: nobody hears either; the device or trunk needs own_ports"
                );
            }
            if let Some(here) = directory.legs.get(&leg) {
                self.handles[here.worker].send(WorkerCommand::Tell { leg, is_alone });
            }
        }
    }

    /// Sockets on a pair of neighbouring ports, and the first one's address. A pair that somebody
    /// else has rests like one that was given back.
    fn bind<T>(
        &self,
        directory: &mut LegDirectory,
        on: impl Fn(&SocketOptions, u16) -> io::Result<T>,
    ) -> Result<T, MediaError> {
        let Some(ports) = &mut directory.ports else {
            return self.options.bind_any(on);
        };
        let now = clock::instant();
        while let Some(port) = ports.take(now) {
            match on(&self.options, port) {
                Ok(sockets) => return Ok(sockets),
                Err(error) => {
                    ports.give_back(port, now);
                    if error.kind() != io::ErrorKind::AddrInUse {
                        return Err(refused(&error));
                    }
                }
            }
        }
        Err(MediaError::NoPorts)
    }
}

impl SocketOptions {
    /// On an even port that the system has free, and its neighbour.
    fn bind_any<T>(
        &self,
        on: impl Fn(&SocketOptions, u16) -> io::Result<T>,
    ) -> Result<T, MediaError> {
        for _ in 0..PORT_TRIES {
            let any = self.socket(0).map_err(|error| refused(&error))?;
            let port = any.local_addr().map_err(|error| refused(&error))?.port();
            drop(any);
            match on(self, port & !1) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(refused(&error)),
                Ok(sockets) => return Ok(sockets),
            }
        }
        Err(MediaError::NoPorts)
    }
}

fn refused(error: &io::Error) -> MediaError {
    let errno = error.raw_os_error().unwrap_or_default();
    match Errno::from_raw(errno) {
        Errno::EMFILE | Errno::ENFILE => MediaError::NoDescriptors,
        _ => MediaError::Socket(errno),
    }
}

impl Drop for EngineState {
    fn drop(&mut self) {
        for handle in &self.handles {
            handle.send(WorkerCommand::Stop);
        }
        for thread in self.threads.drain(..) {
            // A worker catches its panics; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// Which worker has what.
#[derive(Debug, Default)]
struct LegDirectory {
    legs: BTreeMap<LegId, LegPlacement>,
    calls: BTreeMap<CallKey, WorkerPlace>,
    /// Legs of each worker.
    load: Vec<usize>,
    /// `None`: any port that the system gives.
    ports: Option<PortPool>,
    /// What is known of the legs of a shared pair.
    known: BTreeMap<(usize, SourceClaim), SourceClaims>,
    /// Shared pairs given out.
    given: usize,
    contested: u64,
    refused: u64,
}

#[derive(Debug)]
struct LegPlacement {
    call: CallKey,
    worker: usize,
    ports: LegPorts,
}

/// A leg's ports.
#[derive(Clone, Debug)]
enum LegPorts {
    /// Its own, the even one.
    Own(u16),
    /// A shared pair, by number, and what is known of the leg there.
    Shared { pair: usize, known: Vec<SourceClaim> },
}

/// What a leg is told apart by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum SourceClaim {
    /// Where its packets come from.
    Source(SocketAddr),
    /// The telephone that it belongs to.
    Phone(String),
}

/// The legs of which one thing is known, and until when a pair rests from it when there is none:
/// what is still on its way to the old call must not reach the next.
#[derive(Debug, Default)]
struct SourceClaims {
    legs: Vec<LegId>,
    rests: Option<Instant>,
}

#[derive(Debug)]
struct WorkerPlace {
    worker: usize,
    legs: usize,
}

impl LegDirectory {
    /// The worker of a call; a new one goes to the worker with the fewest legs, of those that work.
    fn worker_of(
        &self,
        call: CallKey,
        working: impl Iterator<Item = usize>,
    ) -> Result<usize, MediaError> {
        if let Some(place) = self.calls.get(&call) {
            return Ok(place.worker);
        }
        let load = |worker: &usize| self.load.get(*worker).copied().unwrap_or(0);
        working.min_by_key(load).ok_or(MediaError::Stopping)
    }

    /// A pair of the worker's that a leg can share: one where what is known of it is known of no
    /// other; and what that is. `None`: it gets ports of its own.
    fn pair_for(
        &mut self,
        worker: usize,
        expected: Expected,
        pairs: &[PortPair],
        now: Instant,
    ) -> Option<(usize, SourceClaim)> {
        let first = worker * PAIRS;
        pairs.get(first)?;
        let known = match expected {
            Expected::Nothing => return None,
            Expected::Phone(phone) => SourceClaim::Phone(phone),
            Expected::Offered(source) => SourceClaim::Source(source),
        };
        self.known.retain(|_, holders| {
            !holders.legs.is_empty() || holders.rests.is_some_and(|until| until > now)
        });
        self.given += 1;
        let given = self.given;
        let mut theirs = (0..PAIRS).map(|turn| (first + (given + turn) % PAIRS, known.clone()));
        theirs.find(|place| !self.known.contains_key(place))
    }

    /// The leg is at the pair, and this is known of it.
    fn hold(&mut self, leg: LegId, pair: usize, known: SourceClaim) -> LegPorts {
        self.known.entry((pair, known.clone())).or_default().legs.push(leg);
        LegPorts::Shared { pair, known: vec![known] }
    }

    fn enter(&mut self, call: CallKey, leg: LegId, worker: usize, ports: LegPorts) {
        if self.load.len() <= worker {
            self.load.resize(worker + 1, 0);
        }
        self.load[worker] += 1;
        self.calls.entry(call).or_insert(WorkerPlace { worker, legs: 0 }).legs += 1;
        self.legs.insert(leg, LegPlacement { call, worker, ports });
    }

    /// What of a leg holds no more; it rests until then. Returns the legs that are alone at their
    /// source now.
    fn release(
        &mut self,
        leg: LegId,
        is_over: impl Fn(&SourceClaim) -> bool,
        until: Instant,
    ) -> Vec<(LegId, bool)> {
        let Some(LegPorts::Shared { pair, known }) =
            self.legs.get_mut(&leg).map(|leg| &mut leg.ports)
        else {
            return Vec::new();
        };
        let pair = *pair;
        let over: Vec<SourceClaim> = known.extract_if(.., |known| is_over(known)).collect();
        let mut alone = Vec::new();
        for known in over {
            let is_source = matches!(known, SourceClaim::Source(_));
            let holders = self.known.entry((pair, known)).or_default();
            holders.legs.retain(|holder| *holder != leg);
            holders.rests = Some(until);
            if let (true, [other]) = (is_source, &holders.legs[..]) {
                alone.push((*other, true));
            }
        }
        alone
    }

    /// Where a leg's packets come from; `None`: it has not said. Where they came from before rests
    /// until then. Returns the other legs that are alone at their source now, or are no more.
    fn comes_from(
        &mut self,
        leg: LegId,
        source: Option<SocketAddr>,
        until: Instant,
    ) -> Vec<(LegId, bool)> {
        let source = source.map(SourceClaim::Source);
        let is_before = |known: &SourceClaim| {
            matches!(known, SourceClaim::Source(_)) && Some(known) != source.as_ref()
        };
        let mut changed = self.release(leg, is_before, until);
        let (Some(LegPorts::Shared { pair, known }), Some(source)) =
            (self.legs.get_mut(&leg).map(|leg| &mut leg.ports), source)
        else {
            return changed;
        };
        if !known.contains(&source) {
            known.push(source.clone());
            let holders = self.known.entry((*pair, source)).or_default();
            if let [other] = holders.legs[..] {
                changed.push((other, false));
            }
            self.contested += u64::from(!holders.legs.is_empty());
            holders.legs.push(leg);
        }
        changed
    }

    /// Nobody else of the leg's pair has its packets from where it has them from.
    fn is_alone(&self, leg: LegId) -> bool {
        let Some(LegPlacement { ports: LegPorts::Shared { pair, known }, .. }) =
            self.legs.get(&leg)
        else {
            return true;
        };
        let mut sources = known.iter().filter(|known| matches!(known, SourceClaim::Source(_)));
        sources.all(|source| {
            let holders = self.known.get(&(*pair, source.clone()));
            holders.is_none_or(|holders| holders.legs[..] == [leg])
        })
    }

    fn leave(&mut self, leg: LegId) -> Option<LegPlacement> {
        let placement = self.legs.remove(&leg)?;
        if let Some(load) = self.load.get_mut(placement.worker) {
            *load -= 1;
        }
        if let Some(place) = self.calls.get_mut(&placement.call) {
            place.legs -= 1;
            if place.legs == 0 {
                self.calls.remove(&placement.call);
            }
        }
        Some(placement)
    }

    /// The leg's port rests from now on. Returns the worker.
    fn close(&mut self, leg: LegId) -> Option<usize> {
        let placement = self.leave(leg)?;
        if let (Some(ports), LegPorts::Own(port)) = (&mut self.ports, placement.ports) {
            ports.give_back(port, clock::instant());
        }
        Some(placement.worker)
    }
}

macro_rules! counters {
    ($($name:ident),* $(,)?) => {
        /// A worker's sums, written by it alone after every turn.
        #[derive(Debug, Default)]
        struct Counters {
            $($name: AtomicU64,)*
        }

        impl Counters {
            fn publish(&self, sums: &EngineStats) {
                $(self.$name.store(sums.$name, Ordering::Relaxed);)*
            }

            fn add_to(&self, stats: &mut EngineStats) {
                $(stats.$name += self.$name.load(Ordering::Relaxed);)*
            }
        }

        impl EngineStats {
            /// What was counted since; what is open or free is as of now.
            pub fn since(mut self, before: &EngineStats) -> EngineStats {
                $(self.$name -= before.$name;)*
                self
            }
        }
    };
}

counters!(
    received,
    sent,
    unchanged,
    transcoded,
    mixed,
    silent,
    foreign,
    malformed,
    discarded,
    srtp_rejected,
    srtp_replayed,
    leak_guards,
    rtcp_received,
    rtcp_sent,
    send_errors,
    events_lost,
    receive_nanos,
    send_nanos,
    machine_nanos,
    worker_panics,
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, UdpSocket};

    #[test]
    fn media_leaves_the_last_descriptors_to_others_and_says_what_is_wrong() {
        let config =
            MediaConfig { bind: Ipv4Addr::LOCALHOST.into(), workers: 1, ..MediaConfig::default() };
        let (engine, _events) = Engine::start_with_descriptors(config, 0).unwrap();
        let error = engine.open(CallKey(1), LegId(1), Expected::Nothing).unwrap_err();
        assert_eq!(error, MediaError::NoDescriptors);
        assert!(error.to_string().contains("EMFILE"), "{error}");
        assert!(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).is_ok());
        assert_eq!(engine.stats().legs, 0);
    }

    #[test]
    fn an_engine_on_an_address_of_another_machine_is_not_ready_and_says_why() {
        // RFC 5737: nobody's.
        let bind = "203.0.113.77".parse().unwrap();
        for ports in [None, Some(20_000..=20_099)] {
            let config = MediaConfig { bind, ports, workers: 1, ..MediaConfig::default() };
            let error = MediaError::Socket(Errno::EADDRNOTAVAIL as i32);
            assert_eq!(can_open(&config), Err(error));
            let (engine, _events) = Engine::start(config).unwrap();
            let missing = engine.is_ready().unwrap_err();
            assert_eq!(missing, NotReady::NoPort { bind, error });
            let said = missing.to_string();
            assert!(said.contains("203.0.113.77") && said.contains("Cannot assign"), "{said}");
        }
    }

    /// A pair of ports that nobody has, the even one taken.
    fn taken_pair() -> (UdpSocket, u16) {
        loop {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let port = socket.local_addr().unwrap().port();
            if port.is_multiple_of(2) && UdpSocket::bind((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
                return (socket, port);
            }
        }
    }

    #[test]
    fn an_engine_without_a_free_pair_of_ports_is_not_ready_until_there_is_one() {
        let (taken, port) = taken_pair();
        let config = MediaConfig {
            ports: Some(port..=port + 1),
            port_rest: std::time::Duration::ZERO,
            workers: 1,
            ..MediaConfig::default()
        };
        let (engine, mut events) = Engine::start(config.clone()).unwrap();
        let bind = Ipv4Addr::LOCALHOST.into();
        let no_port = Err(NotReady::NoPort { bind, error: MediaError::NoPorts });
        assert_eq!((engine.is_ready(), can_open(&config)), (no_port, Err(MediaError::NoPorts)));
        drop(taken);
        assert_eq!((engine.is_ready(), can_open(&config)), (Ok(()), Ok(())));
        // Asked, it has kept nothing: the pair can be had.
        engine.open(CallKey(1), LegId(1), Expected::Nothing).unwrap();
        assert_eq!(engine.is_ready(), no_port);
        engine.command(MediaCommand::Close { leg: LegId(1) });
        assert_eq!(closed(&mut events), LegId(1));
        while engine.is_ready() != Ok(()) {
            std::thread::yield_now();
        }
    }

    /// The next event that is asked for; the others are passed over.
    fn wait_for<T>(events: &mut MediaEvents, mut wanted: impl FnMut(MediaEvent) -> Option<T>) -> T {
        loop {
            let event = events.blocking_recv().expect("the engine runs");
            if let Some(found) = wanted(event) {
                return found;
            }
        }
    }

    fn failed(events: &mut MediaEvents) -> LegId {
        wait_for(events, |event| match event {
            MediaEvent::Failed { leg } => Some(leg),
            _ => None,
        })
    }

    fn closed(events: &mut MediaEvents) -> LegId {
        wait_for(events, |event| match event {
            MediaEvent::Closed { leg, .. } => Some(leg),
            _ => None,
        })
    }

    #[test]
    fn a_panic_costs_the_call_that_it_came_from_and_is_told_and_counted() {
        let (engine, mut events) =
            Engine::start(MediaConfig { ports: None, workers: 1, ..MediaConfig::default() })
                .unwrap();
        for (call, leg) in [(1, 1), (1, 2), (2, 3)] {
            engine.open(CallKey(call), LegId(leg), Expected::Nothing).unwrap();
        }
        engine.shared.handles[0].send(WorkerCommand::Panic(Some(LegId(1))));
        let mut legs = [failed(&mut events), failed(&mut events)];
        legs.sort();
        assert_eq!(legs, [LegId(1), LegId(2)]);
        assert_eq!(engine.is_ready(), Ok(()));
        // The other call goes on, what is said of the dead legs is heard, and a new call finds the
        // worker.
        engine.command(MediaCommand::Beep { leg: LegId(1) });
        for leg in [1, 2, 3] {
            engine.command(MediaCommand::Close { leg: LegId(leg) });
            assert_eq!(closed(&mut events), LegId(leg));
        }
        engine.open(CallKey(4), LegId(4), Expected::Nothing).unwrap();
        engine.command(MediaCommand::Close { leg: LegId(4) });
        assert_eq!(closed(&mut events), LegId(4));
        assert_eq!((engine.stats().worker_panics, engine.stats().workers_stopped), (1, 0));
    }

    #[test]
    fn a_worker_that_panics_again_and_again_stops_and_the_others_take_its_calls() {
        let (engine, mut events) =
            Engine::start(MediaConfig { ports: None, workers: 2, ..MediaConfig::default() })
                .unwrap();
        engine.open(CallKey(1), LegId(1), Expected::Nothing).unwrap();
        let worker = engine.shared.directory().legs[&LegId(1)].worker;
        for _ in 0..4 {
            engine.shared.handles[worker].send(WorkerCommand::Panic(None));
        }
        assert_eq!(failed(&mut events), LegId(1));
        while engine.is_ready() != Err(NotReady::WorkerStopped) {
            std::thread::yield_now();
        }
        assert_eq!((engine.stats().worker_panics, engine.stats().workers_stopped), (4, 1));
        for call in 2..5 {
            engine.open(CallKey(call), LegId(call), Expected::Nothing).unwrap();
            assert_ne!(engine.shared.directory().legs[&LegId(call)].worker, worker);
        }
    }

    #[test]
    fn what_the_system_says_of_a_socket_is_said_in_its_words() {
        let said = refused(&Errno::EACCES.into()).to_string();
        assert!(said.contains("Permission denied"), "{said}");
    }
}
