//! One thread of the engine: wait, do what was asked, take packets, do what is due.
//!
//! While there is little to do, every packet wakes it. When packets come in crowds it takes them in turns of half a millisecond: one waking for
//! many, and no packet later for it than the turn is long.
//!
//! What a call needs for a packet lies close together: with hundreds of calls each packet finds a cold cache, and every page and line costs.

use super::super::call::{Call, CallConfig, Leg, Sent, Transmit, USUAL_LEGS, Verdict};
use super::super::srtp::Keys;
use super::super::{CallKey, Hearing, LegMedia, MediaConfig, MediaEvent, MediaLeg};
use super::sockets::{Manner, Sockets, Which};
use super::wheel::Wheel;
use super::{Counters, EngineStats};
use crate::clock;
use crate::words::Now;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use smallvec::SmallVec;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc as queue;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Sockets served in one turn.
const BATCH: usize = 256;
/// One byte more than the longest datagram we look at, so that a longer one is seen to be longer.
const DATAGRAM: usize = 2048;
/// Commands kept for a leg on its way from another worker.
const MAX_WAITING: usize = 32;
/// So many packets within [`WATCHED`] are a crowd: from here on a timer for a turn is cheaper than being woken by each.
const CROWD: usize = 64;
/// How long packets are counted before it is said whether they are a crowd.
const WATCHED: Duration = Duration::from_millis(4);
/// How long a turn is: the most that a packet waits for others.
const TURN: Duration = Duration::from_micros(500);
/// One packet in so many is timed: what the clock costs must not show.
const SAMPLE: u64 = 64;
/// The wake-up's place among the sockets.
const WAKE: u64 = u64::MAX;

/// A worker's letter box.
#[derive(Clone, Debug)]
pub(super) struct Post {
    pub sender: queue::Sender<Job>,
    pub wake: Arc<EventFd>,
}

impl Post {
    pub(super) fn send(&self, job: Job) -> bool {
        let sent = self.sender.send(job).is_ok();
        // A counter that is full wakes as well.
        let _ = self.wake.write(1);
        sent
    }
}

/// What a worker is asked to do.
#[derive(Debug)]
pub(super) enum Job {
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
pub(super) struct Parcel {
    pub leg: Leg,
    pub sockets: Sockets,
}

/// A call and the sockets of its legs, by slot.
#[derive(Debug)]
struct Room {
    call: Call,
    /// When the wheel wakes it, at the latest.
    awaited: Option<Instant>,
    sockets: SmallVec<[Option<Sockets>; USUAL_LEGS]>,
}

/// Whether packets come in crowds.
struct Crowd {
    since: Instant,
    packets: usize,
    is_here: bool,
}

impl Crowd {
    /// So many were taken in a turn; returns whether the next turn is a whole one.
    fn note(&mut self, packets: usize, now: Instant) -> bool {
        self.packets += packets;
        let watched = now.saturating_duration_since(self.since);
        if watched >= WATCHED {
            self.is_here = self.packets as u128 * WATCHED.as_nanos() >= CROWD as u128 * watched.as_nanos();
            self.since = now;
            self.packets = 0;
        }
        self.is_here
    }
}

/// A thread's calls, and the loop that serves them.
pub(super) struct Worker {
    index: usize,
    epoll: Epoll,
    manner: Manner,
    inbox: queue::Receiver<Job>,
    posts: Vec<Post>,
    events: mpsc::Sender<MediaEvent>,
    counters: Arc<Counters>,
    config: CallConfig,
    rooms: Vec<Option<Box<Room>>>,
    calls: BTreeMap<CallKey, usize>,
    legs: BTreeMap<MediaLeg, usize>,
    /// Commands for legs that are on their way here from another worker.
    waiting: BTreeMap<MediaLeg, Vec<Job>>,
    /// Allow-lists for calls whose first leg is on its way here.
    hearings: BTreeMap<CallKey, Box<Hearing>>,
    wheel: Wheel,
    taken: u64,
    sums: EngineStats,
}

impl Worker {
    pub(super) fn new(
        index: usize,
        inbox: queue::Receiver<Job>,
        posts: Vec<Post>,
        events: mpsc::Sender<MediaEvent>,
        counters: Arc<Counters>,
        manner: Manner,
        config: &MediaConfig,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&*posts[index].wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Self {
            index,
            epoll,
            manner,
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
            wheel: Wheel::new(clock::instant()),
            taken: 0,
            sums: EngineStats::default(),
        })
    }

    pub(super) fn run(mut self) {
        let mut ready = [EpollEvent::empty(); BATCH];
        let mut datagram = [0; DATAGRAM];
        let mut after = clock::instant();
        let mut crowd = Crowd {
            since: after,
            packets: 0,
            is_here: false,
        };
        loop {
            let count = match self.epoll.wait(&mut ready, self.timeout(after)) {
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
            self.do_due(now);
            self.counters.publish(&self.sums);
            after = clock::instant();
            if crowd.note(count, after) && count < BATCH {
                let rest = TURN.saturating_sub(after.saturating_duration_since(now.mono));
                std::thread::sleep(rest);
                after += rest;
            }
        }
    }

    fn timeout(&self, now: Instant) -> EpollTimeout {
        let Some(wake) = self.wheel.next() else { return EpollTimeout::NONE };
        let wait = wake.saturating_duration_since(now);
        let millis = wait.as_micros().div_ceil(1000).min(10_000) as u16;
        EpollTimeout::from(millis)
    }

    /// Takes one datagram. What is left makes the socket ready again in the next turn, so a flood at one port starves no other.
    fn receive(&mut self, token: u64, datagram: &mut [u8], now: Now) {
        let (place, slot, which) = from_token(token);
        let Some(room) = self.rooms.get_mut(place).and_then(Option::as_deref_mut) else {
            return;
        };
        let Room { call, sockets, .. } = room;
        let Some(Some(here)) = sockets.get(slot) else { return };
        self.taken += 1;
        let mut watch = self.taken.is_multiple_of(SAMPLE).then(Watch::start);
        let Ok((len, from)) = here.receive(which, datagram) else { return };
        if let Some(watch) = &mut watch {
            watch.lap(|watch| &mut watch.receive);
        }
        let sums = &mut self.sums;
        let verdict = if which == Which::Rtcp || call.is_rtcp(slot, &datagram[..len]) {
            let verdict = call.handle_rtcp(slot, from, &datagram[..len], now.mono);
            sums.rtcp_received += u64::from(verdict == Verdict::Accepted);
            verdict
        } else {
            let verdict = call.handle_rtp(slot, from, &mut datagram[..len], now.mono, &mut |packet| {
                let Some(watch) = &mut watch else {
                    return send(sockets, packet, sums);
                };
                watch.lap(|watch| &mut watch.machine);
                send(sockets, packet, sums);
                watch.lap(|watch| &mut watch.send);
            });
            sums.received += u64::from(verdict == Verdict::Accepted);
            verdict
        };
        if let Some(mut watch) = watch {
            watch.lap(|watch| &mut watch.machine);
            let nanos = |time: Duration| time.as_nanos() as u64 * SAMPLE;
            self.sums.receive_nanos += nanos(watch.receive);
            self.sums.send_nanos += nanos(watch.send);
            self.sums.machine_nanos += nanos(watch.machine);
        }
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
        while let Some(place) = self.wheel.take(now.mono) {
            let Some(room) = self.rooms.get_mut(place).and_then(Option::as_deref_mut) else {
                continue;
            };
            let Room { call, sockets, awaited } = room;
            *awaited = None;
            if call.poll_timeout().is_some_and(|at| at <= now.mono) {
                let sums = &mut self.sums;
                call.handle_timeout(now, &mut |packet| send(sockets, packet, sums));
            }
            self.settle(place);
        }
    }

    /// After every touch of a call: its events out, its next deadline noted, its legs' sockets connected to where they now come from.
    fn settle(&mut self, place: usize) {
        let Some(room) = self.rooms.get_mut(place).and_then(Option::as_deref_mut) else {
            return;
        };
        let Room { call, sockets, awaited } = room;
        if let Some(at) = call.poll_timeout()
            && awaited.is_none_or(|awaited| at < awaited)
        {
            self.wheel.wake(place, at);
            *awaited = Some(at);
        }
        if call.take_moved() {
            for (slot, sockets) in sockets.iter_mut().enumerate() {
                if let Some(sockets) = sockets {
                    let token = to_token(place, slot, Which::Stream);
                    sockets.connect(&self.manner, call.source(slot), &self.epoll, token);
                }
            }
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
            self.do_job(job, now);
        }
        true
    }

    fn do_job(&mut self, job: Job, at: Now) {
        let now = at.mono;
        match job {
            Job::Put { call, parcel } => self.put(call, *parcel, at),
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
                    self.put(call, parcel, at);
                } else {
                    let parcel = Box::new(parcel);
                    self.posts[to].send(Job::Put { call, parcel });
                }
            }
            Job::Close { leg } => {
                self.farewell(leg, at);
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

    fn farewell(&mut self, leg: MediaLeg, now: Now) {
        let Some(&place) = self.legs.get(&leg) else { return };
        if let Some(Room { call, sockets, .. }) = self.rooms[place].as_deref_mut() {
            let sums = &mut self.sums;
            call.farewell(leg, now, &mut |packet| send(sockets, packet, sums));
        }
    }

    fn put(&mut self, key: CallKey, parcel: Parcel, now: Now) {
        let place = match self.calls.get(&key) {
            Some(place) => *place,
            None => self.open_room(key, now.mono),
        };
        let Parcel { leg, sockets } = parcel;
        let name = leg.name();
        let Some(room) = self.rooms[place].as_mut() else { return };
        let Ok(slot) = room.call.put(leg, now.mono) else {
            // The directory counts legs; a call is never fuller here than there.
            tracing::error!(call = key.0, leg = name.0, "a leg has no place in its call");
            return;
        };
        if let Err(error) = sockets.watch(&self.epoll, |which| to_token(place, slot, which)) {
            tracing::error!(%error, leg = name.0, "a media socket cannot be waited for");
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
        let room = Some(Box::new(Room {
            call,
            awaited: None,
            sockets: SmallVec::new(),
        }));
        let place = match self.rooms.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.rooms.push(None);
                self.rooms.len() - 1
            }
        };
        self.rooms[place] = room;
        self.wheel.make_room(self.rooms.len());
        self.calls.insert(key, place);
        place
    }

    fn take(&mut self, leg: MediaLeg, now: Instant) -> Option<Parcel> {
        let place = self.legs.remove(&leg)?;
        let room = self.rooms[place].as_mut()?;
        let slot = room.call.slot(leg)?;
        let sockets = room.sockets.get_mut(slot)?.take()?;
        if let Err(error) = sockets.unwatch(&self.epoll) {
            tracing::error!(%error, leg = leg.0, "a media socket cannot be let go");
        }
        let leg = room.call.take(leg, now)?;
        if room.call.is_empty() {
            self.calls.remove(&room.call.key());
            self.rooms[place] = None;
            self.wheel.forget(place);
        } else {
            self.settle(place);
        }
        Some(Parcel { leg, sockets })
    }
}

/// Times a packet on its way through.
struct Watch {
    at: Instant,
    receive: Duration,
    machine: Duration,
    send: Duration,
}

impl Watch {
    fn start() -> Self {
        Self {
            at: clock::instant(),
            receive: Duration::ZERO,
            machine: Duration::ZERO,
            send: Duration::ZERO,
        }
    }

    /// The time since the last lap was for this.
    fn lap(&mut self, what: impl FnOnce(&mut Self) -> &mut Duration) {
        let now = clock::instant();
        let time = now.saturating_duration_since(std::mem::replace(&mut self.at, now));
        *what(self) += time;
    }
}

fn send(sockets: &[Option<Sockets>], packet: Transmit<'_>, sums: &mut EngineStats) {
    let Some(Some(here)) = sockets.get(packet.slot) else { return };
    let sent = match packet.sent {
        Sent::Rtcp if !packet.muxed => here.send_rtcp(packet.bytes, packet.to),
        _ => here.send(packet.bytes, packet.to),
    };
    if sent.is_err() {
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

fn to_token(place: usize, slot: usize, which: Which) -> u64 {
    let which = match which {
        Which::Rtp => 0,
        Which::Stream => 1,
        Which::Rtcp => 2,
    };
    (place as u64) << 16 | (slot as u64) << 2 | which
}

fn from_token(token: u64) -> (usize, usize, Which) {
    let which = match token & 3 {
        0 => Which::Rtp,
        1 => Which::Stream,
        _ => Which::Rtcp,
    };
    ((token >> 16) as usize, (token as usize & 0xffff) >> 2, which)
}
