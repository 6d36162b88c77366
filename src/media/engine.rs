//! Threads and sockets: the noisy part of media.
//!
//! A few threads, each with its epoll and its calls; a call stays with its thread, so no packet is ever handed over. The loop of a
//! worker: wait, do commands, take packets, do what is due.

use super::call::{Call, CallConfig, Leg, MAX_LEGS, Sent, StreamStart, Transmit, Verdict};
use super::srtp::Keys;
use super::{CallKey, Hearing, LegMedia, MediaCommand, MediaConfig, MediaEvent, MediaLeg};
use crate::clock;
use crate::words::Now;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as queue};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Where the engine's events come out. Bounded; what does not fit is counted in [`EngineStats::events_lost`].
pub type MediaEvents = mpsc::Receiver<MediaEvent>;

/// Events nobody has fetched yet.
const EVENTS: usize = 4096;
/// Sockets served in one turn.
const BATCH: usize = 256;
/// One byte more than the longest datagram we look at, so that a longer one is seen to be longer.
const DATAGRAM: usize = 2048;
/// Commands kept for a leg on its way from another worker.
const MAX_WAITING: usize = 32;
/// How often any port is asked for until an even one with a free neighbour comes.
const PORT_TRIES: usize = 64;
/// What is due may be so late: packets mostly wake a worker before its timer does. No more often is looked at what is due.
const SLACK: Duration = Duration::from_millis(1);
/// File descriptors that media leaves to signalling, HTTP and the disk.
const RESERVE: u64 = 64;
/// The wake-up's place among the sockets.
const WAKE: u64 = u64::MAX;

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
    #[error("too many open files (EMFILE): raise the limit of open files, `ulimit -n` or LimitNOFILE; a call takes six")]
    NoDescriptors,
    /// The system refused the socket, with this errno.
    #[error("the system refused the socket: {}", io::Error::from_raw_os_error(*.0))]
    Socket(i32),
    /// The engine is stopping.
    #[error("the media engine is stopping")]
    Stopping,
}

/// Sums over all calls since the start, and what is open now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Calls with at least one leg.
    pub calls: u64,
    /// Open legs.
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
}

/// The handle of the media engine. Its threads end when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Engine {
    shared: Arc<Shared>,
}

impl Engine {
    /// Starts the workers.
    pub fn start(config: MediaConfig) -> io::Result<(Engine, MediaEvents)> {
        let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let below = RawFd::try_from(limit.saturating_sub(RESERVE)).unwrap_or(RawFd::MAX);
        Self::start_with_descriptors(config, below)
    }

    /// `below`: sockets with this descriptor or a higher one are given back. The system gives the lowest that is free.
    fn start_with_descriptors(config: MediaConfig, below: RawFd) -> io::Result<(Engine, MediaEvents)> {
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
        let mut posts = Vec::new();
        let mut inboxes = Vec::new();
        for _ in 0..workers {
            let (sender, inbox) = queue::channel();
            let wake = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
            posts.push(Post { sender, wake });
            inboxes.push(inbox);
        }
        let mut shared = Shared {
            posts: posts.clone(),
            counters: Vec::new(),
            threads: Vec::new(),
            directory: Mutex::default(),
            descriptors_below: below,
            config,
        };
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let counters = Arc::new(Counters::default());
            shared.counters.push(Arc::clone(&counters));
            let worker = Worker::new(index, inbox, posts.clone(), events.clone(), counters, &shared.config)?;
            let thread = std::thread::Builder::new()
                .name(format!("media-{index}"))
                .spawn(move || worker.run())?;
            shared.threads.push(thread);
        }
        let shared = Arc::new(shared);
        Ok((Engine { shared }, receiver))
    }

    /// Opens a leg: an RTP socket on an even port, RTCP on the next. Nobody hears it and it hears nobody. Returns the RTP address to tell
    /// its phone. Does not wait for the worker.
    pub fn open(&self, call: CallKey, leg: MediaLeg) -> Result<SocketAddr, MediaError> {
        let shared = &*self.shared;
        let mut directory = shared.directory();
        if directory.legs.contains_key(&leg) {
            return Err(MediaError::LegExists);
        }
        if directory.calls.get(&call).is_some_and(|place| place.legs >= MAX_LEGS) {
            return Err(MediaError::TooManyLegs);
        }
        let sockets = shared.bind(&mut directory)?;
        let mut address = sockets.rtp.local_addr().map_err(|error| refused(&error))?;
        let start = StreamStart {
            ssrc: rand::random(),
            sequence: rand::random::<u16>() >> 1,
            timestamp: rand::random(),
        };
        let parcel = Box::new(Parcel {
            leg: Leg::new(leg, start, clock::instant()),
            sockets,
        });
        let worker = directory.enter(call, leg, shared.posts.len());
        if !shared.posts[worker].send(Job::Put { call, parcel }) {
            directory.leave(leg);
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
        let of = |directory: &Directory, leg| directory.legs.get(&leg).map(|(_, worker)| *worker);
        let (worker, job) = match command {
            MediaCommand::Describe { leg, media, srtp } => (of(&directory, leg), Job::Describe { leg, media, srtp }),
            MediaCommand::Mute { leg, muted } => (of(&directory, leg), Job::Mute { leg, muted }),
            MediaCommand::SendDigits { leg, digits } => (of(&directory, leg), Job::SendDigits { leg, digits }),
            MediaCommand::Beep { leg } => (of(&directory, leg), Job::Beep { leg }),
            MediaCommand::Hear { call, hearing } => {
                let hearing = Box::new(hearing);
                (directory.calls.get(&call).map(|place| place.worker), Job::Hear { call, hearing })
            }
            MediaCommand::Move { leg, call } => {
                if directory.calls.get(&call).is_some_and(|place| place.legs >= MAX_LEGS) {
                    return;
                }
                let from = directory.leave(leg);
                let to = from.map(|_| directory.enter(call, leg, shared.posts.len()));
                match to {
                    Some(to) => (from, Job::Move { leg, call, to }),
                    None => return,
                }
            }
            MediaCommand::Close { leg } => (directory.leave(leg), Job::Close { leg }),
        };
        if let Some(worker) = worker {
            shared.posts[worker].send(job);
        }
    }

    /// The counters.
    pub fn stats(&self) -> EngineStats {
        let mut stats = EngineStats::default();
        for counters in &self.shared.counters {
            counters.add_to(&mut stats);
        }
        let directory = self.shared.directory();
        stats.calls = directory.calls.len() as u64;
        stats.legs = directory.legs.len() as u64;
        stats
    }
}

#[derive(Debug)]
struct Shared {
    posts: Vec<Post>,
    counters: Vec<Arc<Counters>>,
    threads: Vec<JoinHandle<()>>,
    directory: Mutex<Directory>,
    descriptors_below: RawFd,
    config: MediaConfig,
}

impl Shared {
    /// A panic while it was held leaves it whole: every change is one insertion or removal.
    fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pair of neighbouring ports. The range is gone through in a circle, so that a port rests as long as possible.
    fn bind(&self, directory: &mut Directory) -> Result<Sockets, MediaError> {
        let Some(range) = &self.config.ports else {
            return self.bind_any();
        };
        let first = range.start().next_multiple_of(2).max(2);
        let pairs = (u32::from(*range.end()) + 1).saturating_sub(u32::from(first)) / 2;
        for _ in 0..pairs {
            let port = first + (directory.next_pair % pairs) as u16 * 2;
            directory.next_pair = (directory.next_pair + 1) % pairs;
            match self.bind_pair(port) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(refused(&error)),
                Ok(sockets) => return Ok(sockets),
            }
        }
        Err(MediaError::NoPorts)
    }

    fn bind_any(&self) -> Result<Sockets, MediaError> {
        for _ in 0..PORT_TRIES {
            let any = self.socket(0).map_err(|error| refused(&error))?;
            let port = any.local_addr().map_err(|error| refused(&error))?.port();
            drop(any);
            match self.bind_pair(port & !1) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                Err(error) => return Err(refused(&error)),
                Ok(sockets) => return Ok(sockets),
            }
        }
        Err(MediaError::NoPorts)
    }

    fn bind_pair(&self, port: u16) -> io::Result<Sockets> {
        Ok(Sockets {
            rtp: self.socket(port)?,
            rtcp: self.socket(port + 1)?,
        })
    }

    fn socket(&self, port: u16) -> io::Result<UdpSocket> {
        let tos = u32::from(self.config.dscp & 0x3f) << 2;
        let domain = match self.config.bind {
            IpAddr::V4(_) => Domain::IPV4,
            IpAddr::V6(_) => Domain::IPV6,
        };
        let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
        if socket.as_raw_fd() >= self.descriptors_below {
            return Err(Errno::EMFILE.into());
        }
        socket.set_nonblocking(true)?;
        match self.config.bind {
            IpAddr::V4(_) => socket.set_tos_v4(tos)?,
            IpAddr::V6(_) => socket.set_tclass_v6(tos)?,
        }
        socket.bind(&SocketAddr::new(self.config.bind, port).into())?;
        Ok(socket.into())
    }
}

fn refused(error: &io::Error) -> MediaError {
    let errno = error.raw_os_error().unwrap_or_default();
    match Errno::from_raw(errno) {
        Errno::EMFILE | Errno::ENFILE => MediaError::NoDescriptors,
        _ => MediaError::Socket(errno),
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for post in &self.posts {
            post.send(Job::Stop);
        }
        for thread in self.threads.drain(..) {
            // A worker that panicked has said so; there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

/// Which worker has what.
#[derive(Debug, Default)]
struct Directory {
    legs: BTreeMap<MediaLeg, (CallKey, usize)>,
    calls: BTreeMap<CallKey, Place>,
    next_pair: u32,
}

#[derive(Debug)]
struct Place {
    worker: usize,
    legs: usize,
}

impl Directory {
    /// A new call goes to the worker with the fewest legs.
    fn enter(&mut self, call: CallKey, leg: MediaLeg, workers: usize) -> usize {
        let worker = match self.calls.get_mut(&call) {
            Some(place) => {
                place.legs += 1;
                place.worker
            }
            None => {
                let mut load = vec![0; workers];
                for place in self.calls.values() {
                    load[place.worker] += place.legs;
                }
                let worker = (0..workers).min_by_key(|&worker| load[worker]).unwrap_or(0);
                self.calls.insert(call, Place { worker, legs: 1 });
                worker
            }
        };
        self.legs.insert(leg, (call, worker));
        worker
    }

    fn leave(&mut self, leg: MediaLeg) -> Option<usize> {
        let (call, worker) = self.legs.remove(&leg)?;
        if let Some(place) = self.calls.get_mut(&call) {
            place.legs -= 1;
            if place.legs == 0 {
                self.calls.remove(&call);
            }
        }
        Some(worker)
    }
}

/// A worker's letter box.
#[derive(Clone, Debug)]
struct Post {
    sender: queue::Sender<Job>,
    wake: Arc<EventFd>,
}

impl Post {
    fn send(&self, job: Job) -> bool {
        let sent = self.sender.send(job).is_ok();
        // A counter that is full wakes as well.
        let _ = self.wake.write(1);
        sent
    }
}

/// What a worker is asked to do.
#[derive(Debug)]
enum Job {
    Put {
        call: CallKey,
        parcel: Box<Parcel>,
    },
    Describe {
        leg: MediaLeg,
        media: LegMedia,
        srtp: Option<Box<Keys>>,
    },
    Mute {
        leg: MediaLeg,
        muted: bool,
    },
    Hear {
        call: CallKey,
        hearing: Box<Hearing>,
    },
    SendDigits {
        leg: MediaLeg,
        digits: String,
    },
    Beep {
        leg: MediaLeg,
    },
    Move {
        leg: MediaLeg,
        call: CallKey,
        to: usize,
    },
    Close {
        leg: MediaLeg,
    },
    Stop,
}

/// A leg with its sockets.
#[derive(Debug)]
struct Parcel {
    leg: Leg,
    sockets: Sockets,
}

#[derive(Debug)]
struct Sockets {
    rtp: UdpSocket,
    rtcp: UdpSocket,
}

/// A call and the sockets of its legs, by slot.
#[derive(Debug)]
struct Room {
    call: Call,
    sockets: Vec<Option<Sockets>>,
}

struct Worker {
    index: usize,
    epoll: Epoll,
    inbox: queue::Receiver<Job>,
    posts: Vec<Post>,
    events: mpsc::Sender<MediaEvent>,
    counters: Arc<Counters>,
    config: CallConfig,
    rooms: Vec<Option<Room>>,
    calls: BTreeMap<CallKey, usize>,
    legs: BTreeMap<MediaLeg, usize>,
    /// Commands for legs that are on their way here from another worker.
    waiting: BTreeMap<MediaLeg, Vec<Job>>,
    /// Allow-lists for calls whose first leg is on its way here.
    hearings: BTreeMap<CallKey, Box<Hearing>>,
    wake: Option<Instant>,
    sums: EngineStats,
}

impl Worker {
    fn new(
        index: usize,
        inbox: queue::Receiver<Job>,
        posts: Vec<Post>,
        events: mpsc::Sender<MediaEvent>,
        counters: Arc<Counters>,
        config: &MediaConfig,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&*posts[index].wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Self {
            index,
            epoll,
            inbox,
            posts,
            events,
            counters,
            config: CallConfig {
                inactivity: config.inactivity,
                rtcp_interval: config.rtcp_interval,
            },
            rooms: Vec::new(),
            calls: BTreeMap::new(),
            legs: BTreeMap::new(),
            waiting: BTreeMap::new(),
            hearings: BTreeMap::new(),
            wake: None,
            sums: EngineStats::default(),
        })
    }

    fn run(mut self) {
        let mut ready = [EpollEvent::empty(); BATCH];
        let mut datagram = [0; DATAGRAM];
        loop {
            let count = match self.epoll.wait(&mut ready, self.timeout()) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => {
                    tracing::error!(%error, worker = self.index, "media worker cannot wait for packets");
                    return;
                }
            };
            let now = clock::now();
            let ready = &ready[..count];
            // First who may hear whom, then what has come: a worker that is late passes nothing on by a table that is no more.
            if ready.iter().any(|event| event.data() == WAKE) && !self.do_jobs(now) {
                return;
            }
            for event in ready.iter().filter(|event| event.data() != WAKE) {
                self.receive(event.data(), &mut datagram, now);
            }
            if self.wake.is_some_and(|at| at <= now.mono) {
                self.do_due(now);
            }
            self.counters.publish(&self.sums);
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let Some(wake) = self.wake else { return EpollTimeout::NONE };
        let wait = (wake + SLACK).saturating_duration_since(clock::instant());
        let millis = wait.as_micros().div_ceil(1000).min(10_000) as u16;
        EpollTimeout::from(millis)
    }

    /// Takes one datagram. What is left makes the socket ready again in the next turn, so a flood at one port starves no other.
    fn receive(&mut self, token: u64, datagram: &mut [u8], now: Now) {
        let (place, slot, is_rtcp) = from_token(token);
        let Some(room) = self.rooms.get_mut(place).and_then(Option::as_mut) else {
            return;
        };
        let Room { call, sockets } = room;
        let Some(Some(pair)) = sockets.get(slot) else { return };
        let socket = if is_rtcp { &pair.rtcp } else { &pair.rtp };
        // An ICMP error of an earlier packet comes out here; the next turn has the packets.
        let Ok((len, from)) = socket.recv_from(datagram) else { return };
        let sums = &mut self.sums;
        let verdict = if is_rtcp {
            let verdict = call.handle_rtcp(slot, from, &datagram[..len], now.mono);
            sums.rtcp_received += u64::from(verdict == Verdict::Accepted);
            verdict
        } else {
            let verdict = call.handle_rtp(slot, from, &mut datagram[..len], now.mono, &mut |packet| {
                send(sockets, packet, sums)
            });
            sums.received += u64::from(verdict == Verdict::Accepted);
            verdict
        };
        match verdict {
            Verdict::Accepted => {}
            Verdict::Foreign => self.sums.foreign += 1,
            Verdict::Malformed => self.sums.malformed += 1,
            Verdict::Discarded => self.sums.discarded += 1,
            Verdict::Unauthenticated => self.sums.srtp_rejected += 1,
            Verdict::Replayed => self.sums.srtp_replayed += 1,
        }
        self.settle(place);
    }

    fn do_due(&mut self, now: Now) {
        self.wake = None;
        for place in 0..self.rooms.len() {
            let Some(room) = self.rooms[place].as_mut() else { continue };
            let Room { call, sockets } = room;
            if call.poll_timeout().is_some_and(|at| at <= now.mono) {
                let sums = &mut self.sums;
                call.handle_timeout(now, &mut |packet| send(sockets, packet, sums));
            }
            self.settle(place);
        }
        self.wake = self.wake.map(|at| at.max(now.mono + SLACK));
    }

    /// After every touch of a call: its events out, its next deadline noted.
    fn settle(&mut self, place: usize) {
        let Some(Room { call, .. }) = self.rooms[place].as_mut() else {
            return;
        };
        if let Some(at) = call.poll_timeout() {
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
        while let Some(event) = call.poll_event() {
            if let MediaEvent::LeakGuard { call, leg } = &event {
                tracing::warn!(
                    call = call.0,
                    leg = leg.0,
                    "leak guard: sound the listener must not hear was replaced by silence"
                );
            }
            tell(&self.events, event, &mut self.sums);
        }
    }

    /// Returns false to stop.
    fn do_jobs(&mut self, now: Now) -> bool {
        // Already empty is as good as emptied.
        let _ = self.posts[self.index].wake.read();
        while let Ok(job) = self.inbox.try_recv() {
            if matches!(job, Job::Stop) {
                return false;
            }
            self.do_job(job, now.mono);
        }
        true
    }

    fn do_job(&mut self, job: Job, now: Instant) {
        match job {
            Job::Put { call, parcel } => self.put(call, *parcel, now),
            Job::Hear { call, hearing } => match self.calls.get(&call).copied() {
                Some(place) => {
                    if let Some(room) = self.rooms[place].as_mut() {
                        room.call.handle_hear(*hearing, now);
                    }
                    self.settle(place);
                }
                None => {
                    self.hearings.insert(call, hearing);
                }
            },
            Job::Describe { leg, .. }
            | Job::Mute { leg, .. }
            | Job::SendDigits { leg, .. }
            | Job::Beep { leg }
            | Job::Move { leg, .. }
            | Job::Close { leg }
                if !self.legs.contains_key(&leg) =>
            {
                let waiting = self.waiting.entry(leg).or_default();
                if waiting.len() < MAX_WAITING {
                    waiting.push(job);
                }
            }
            Job::Describe { leg, media, srtp } => self.at(leg, |call| {
                call.handle_keys(leg, srtp.as_deref());
                call.handle_describe(leg, media, now);
            }),
            Job::Mute { leg, muted } => self.at(leg, |call| call.handle_mute(leg, muted, now)),
            Job::SendDigits { leg, digits } => self.at(leg, |call| call.handle_digits(leg, &digits, now)),
            Job::Beep { leg } => self.at(leg, |call| call.handle_beep(leg, now)),
            Job::Move { leg, call, to } => {
                let Some(parcel) = self.take(leg, now) else { return };
                if to == self.index {
                    self.put(call, parcel, now);
                } else {
                    let parcel = Box::new(parcel);
                    self.posts[to].send(Job::Put { call, parcel });
                }
            }
            Job::Close { leg } => {
                if let Some(Parcel { leg: closed, sockets }) = self.take(leg, now) {
                    drop(sockets);
                    let stats = closed.stats();
                    tell(&self.events, MediaEvent::Closed { leg, stats }, &mut self.sums);
                }
            }
            Job::Stop => {}
        }
    }

    fn at(&mut self, leg: MediaLeg, then: impl FnOnce(&mut Call)) {
        let Some(&place) = self.legs.get(&leg) else { return };
        if let Some(room) = self.rooms[place].as_mut() {
            then(&mut room.call);
        }
        self.settle(place);
    }

    fn put(&mut self, key: CallKey, parcel: Parcel, now: Instant) {
        let place = match self.calls.get(&key) {
            Some(place) => *place,
            None => self.open_room(key, now),
        };
        let Parcel { leg, sockets } = parcel;
        let name = leg.name();
        let Some(room) = self.rooms[place].as_mut() else { return };
        let Ok(slot) = room.call.put(leg, now) else {
            // The directory counts legs; a call is never fuller here than there.
            tracing::error!(call = key.0, leg = name.0, "a leg has no place in its call");
            return;
        };
        for (socket, is_rtcp) in [(&sockets.rtp, false), (&sockets.rtcp, true)] {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, to_token(place, slot, is_rtcp));
            if let Err(error) = self.epoll.add(socket, event) {
                tracing::error!(%error, leg = name.0, "a media socket cannot be waited for");
            }
        }
        if room.sockets.len() <= slot {
            room.sockets.resize_with(slot + 1, || None);
        }
        room.sockets[slot] = Some(sockets);
        self.legs.insert(name, place);
        self.settle(place);
        for job in self.waiting.remove(&name).unwrap_or_default() {
            self.do_job(job, now);
        }
    }

    fn open_room(&mut self, key: CallKey, now: Instant) -> usize {
        let mut call = Call::new(key, self.config);
        if let Some(hearing) = self.hearings.remove(&key) {
            call.handle_hear(*hearing, now);
        }
        let sockets = Vec::with_capacity(4);
        let room = Some(Room { call, sockets });
        let place = match self.rooms.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.rooms.push(None);
                self.rooms.len() - 1
            }
        };
        self.rooms[place] = room;
        self.calls.insert(key, place);
        place
    }

    fn take(&mut self, leg: MediaLeg, now: Instant) -> Option<Parcel> {
        let place = self.legs.remove(&leg)?;
        let room = self.rooms[place].as_mut()?;
        let slot = room.call.slot(leg)?;
        let sockets = room.sockets.get_mut(slot)?.take()?;
        for socket in [&sockets.rtp, &sockets.rtcp] {
            if let Err(error) = self.epoll.delete(socket) {
                tracing::error!(%error, leg = leg.0, "a media socket cannot be let go");
            }
        }
        let leg = room.call.take(leg, now)?;
        if room.call.is_empty() {
            self.calls.remove(&room.call.key());
            self.rooms[place] = None;
        } else {
            self.settle(place);
        }
        Some(Parcel { leg, sockets })
    }
}

fn send(sockets: &[Option<Sockets>], packet: Transmit<'_>, sums: &mut EngineStats) {
    let Some(Some(pair)) = sockets.get(packet.slot) else { return };
    let socket = if packet.sent == Sent::Rtcp { &pair.rtcp } else { &pair.rtp };
    if socket.send_to(packet.bytes, packet.to).is_err() {
        sums.send_errors += 1;
        return;
    }
    match packet.sent {
        Sent::Rtcp => {
            sums.rtcp_sent += 1;
            return;
        }
        Sent::Unchanged => sums.unchanged += 1,
        Sent::Transcoded => sums.transcoded += 1,
        Sent::Mixed => sums.mixed += 1,
        Sent::Silent => sums.silent += 1,
        Sent::Guarded => {
            sums.silent += 1;
            sums.leak_guards += 1;
        }
    }
    sums.sent += 1;
}

fn tell(events: &mpsc::Sender<MediaEvent>, event: MediaEvent, sums: &mut EngineStats) {
    if events.try_send(event).is_err() {
        sums.events_lost += 1;
    }
}

fn to_token(place: usize, slot: usize, is_rtcp: bool) -> u64 {
    (place as u64) << 16 | (slot as u64) << 1 | u64::from(is_rtcp)
}

fn from_token(token: u64) -> (usize, usize, bool) {
    ((token >> 16) as usize, (token as usize & 0xffff) >> 1, token & 1 == 1)
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
);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn media_leaves_the_last_descriptors_to_others_and_says_what_is_wrong() {
        let config = MediaConfig {
            bind: Ipv4Addr::LOCALHOST.into(),
            workers: 1,
            ..MediaConfig::default()
        };
        let (engine, _events) = Engine::start_with_descriptors(config, 0).unwrap();
        let error = engine.open(CallKey(1), MediaLeg(1)).unwrap_err();
        assert_eq!(error, MediaError::NoDescriptors);
        assert!(error.to_string().contains("EMFILE"), "{error}");
        assert!(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).is_ok());
        assert_eq!(engine.stats().legs, 0);
    }

    #[test]
    fn what_the_system_says_of_a_socket_is_said_in_its_words() {
        let said = refused(&Errno::EACCES.into()).to_string();
        assert!(said.contains("Permission denied"), "{said}");
    }
}
