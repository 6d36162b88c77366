//! One thread of the engine: wait, do what was asked, take packets, do what is due.
//!
//! While there is little to do, every packet wakes it. When packets come in crowds it takes them in
//! turns of half a millisecond: one waking for many, and no packet later for it than the turn is
//! long.
//!
//! What a call needs for a packet lies close together: with hundreds of calls each packet finds a
//! cold cache, and every page and line costs.

use super::super::call::{
    Call, CallConfig, Leg, PacketVerdict, Transmit, TransmitKind, USUAL_LEGS,
};
use super::super::srtp::Keys;
use super::super::{
    CallKey, Hearing, LeakReason, LegId, LegMedia, LegStats, MediaConfig, MediaEvent, Music,
    SourceRule,
};
use super::shared_ports::{self, PortPair, ROUNDS, RecvBatch, SendBatch, SourceTable};
use super::sockets::{SocketContext, SocketOptions, Sockets, Which};
use super::timer_wheel::Wheel;
use super::{Counters, EngineStats};
use crate::clock;
use crate::model::Now;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use smallvec::SmallVec;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc as queue;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Sockets served in one turn.
const BATCH: usize = 256;
/// Commands kept for a leg on its way from another worker.
const MAX_WAITING: usize = 32;
/// So many packets within [`WATCHED`] are a mode: from here on a timer for a turn is cheaper than
/// being woken by each.
const MANY: usize = 64;
/// How long packets are counted before it is said whether they are a mode.
const WATCHED: Duration = Duration::from_millis(4);
/// How long a turn is: the most that a packet waits for others.
const TURN: Duration = Duration::from_micros(500);
/// A worker that panics more often than this within [`PATIENCE`], and not about a call, stops.
const MAX_PANICS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// One packet in so many is timed: what the clock costs must not show.
const SAMPLE: u64 = 64;
/// The wake-up's place among the sockets.
const WAKE: u64 = u64::MAX;
/// Tells shared sockets from those of one leg.
const SHARED: u64 = 1 << 63;

/// What a socket carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum PacketKind {
    Rtp,
    Rtcp,
}

impl PacketKind {
    pub(super) const BOTH: [PacketKind; 2] = [PacketKind::Rtp, PacketKind::Rtcp];
}

/// The way to hand a worker its commands.
#[derive(Clone, Debug)]
pub(super) struct WorkerHandle {
    pub sender: queue::Sender<WorkerCommand>,
    pub wake: Arc<EventFd>,
}

impl WorkerHandle {
    pub(super) fn send(&self, job: WorkerCommand) -> bool {
        let sent = self.sender.send(job).is_ok();
        // A counter that is full wakes as well.
        let _ = self.wake.write(1);
        sent
    }
}

/// What a worker is asked to do.
#[derive(Debug)]
pub(super) enum WorkerCommand {
    Put {
        call: CallKey,
        moved: Box<LegWithSockets>,
    },
    Describe {
        leg: LegId,
        media: LegMedia,
        srtp: Option<Box<Keys>>,
        /// As in [`WorkerCommand::Tell`].
        is_alone: bool,
    },
    /// Whether the packets of a leg that shares its ports can be told from those of others.
    Tell {
        leg: LegId,
        is_alone: bool,
    },
    Sources {
        leg: LegId,
        rule: SourceRule,
    },
    Hear {
        call: CallKey,
        hearing: Box<Hearing>,
    },
    SendDigits {
        leg: LegId,
        digits: String,
    },
    Beep {
        leg: LegId,
    },
    Music {
        leg: LegId,
        music: Option<Music>,
    },
    Move {
        leg: LegId,
        call: CallKey,
        to: usize,
    },
    Close {
        leg: LegId,
    },
    Stop,
    /// Panics: in the call of this leg, or in the worker itself.
    #[cfg(test)]
    Panic(Option<LegId>),
}

/// A leg with its sockets.
#[derive(Debug)]
pub(super) struct LegWithSockets {
    pub leg: Leg,
    pub sockets: Sockets,
}

/// A call and the sockets of its legs, by slot.
#[derive(Debug)]
struct CallEntry {
    call: Call,
    /// When the wheel wakes it, at the latest.
    awaited: Option<Instant>,
    sockets: SmallVec<[Option<Sockets>; USUAL_LEGS]>,
}

/// Whether packets come in crowds.
struct BatchMode {
    since: Instant,
    packets: usize,
    is_on: bool,
}

impl BatchMode {
    /// So many were taken in a turn; returns whether the next turn is a whole one.
    fn note(&mut self, packets: usize, now: Instant) -> bool {
        self.packets += packets;
        let watched = now.saturating_duration_since(self.since);
        if watched >= WATCHED {
            self.is_on =
                self.packets as u128 * WATCHED.as_nanos() >= MANY as u128 * watched.as_nanos();
            self.since = now;
            self.packets = 0;
        }
        self.is_on
    }
}

/// What a leg's sockets belong to; beside a borrow of the entries.
macro_rules! context {
    ($worker:expr, $place:expr, $slot:expr) => {
        SocketContext {
            worker: $worker.index,
            options: &$worker.options,
            epoll: &$worker.epoll,
            pairs: &$worker.pairs,
            sources: &mut $worker.sources,
            place: $place,
            slot: $slot,
        }
    };
}

/// A thread's calls, and the loop that serves them.
pub(super) struct Worker {
    index: usize,
    epoll: Epoll,
    options: SocketOptions,
    /// Every worker's; this one receives at its own.
    pairs: Arc<[PortPair]>,
    sources: SourceTable,
    inbox: queue::Receiver<WorkerCommand>,
    handles: Vec<WorkerHandle>,
    events: mpsc::Sender<MediaEvent>,
    counters: Arc<Counters>,
    config: CallConfig,
    entries: Vec<Option<Box<CallEntry>>>,
    calls: BTreeMap<CallKey, usize>,
    legs: BTreeMap<LegId, usize>,
    /// Commands for legs that are on their way here from another worker.
    waiting: BTreeMap<LegId, Vec<WorkerCommand>>,
    /// Allow-lists for calls that wait for their first leg, on its way here.
    hearings: BTreeMap<CallKey, Box<Hearing>>,
    wheel: Wheel,
    taken: u64,
    sums: EngineStats,
    /// The call and the leg that are being dealt with: what a panic costs.
    in_hand: InHand,
    /// Legs that a panic has cost: what is still said about them is not for a leg on its way here.
    failed: BTreeSet<LegId>,
    /// Those of them that nobody has been told of.
    untold: Vec<LegId>,
    /// When the worker itself has panicked.
    panics: Vec<Instant>,
}

/// What a worker is in_hand with.
#[derive(Debug, Default)]
struct InHand {
    place: Option<usize>,
    leg: Option<LegId>,
}

impl Worker {
    pub(super) fn new(
        index: usize,
        inbox: queue::Receiver<WorkerCommand>,
        handles: Vec<WorkerHandle>,
        events: mpsc::Sender<MediaEvent>,
        counters: Arc<Counters>,
        (options, pairs): (SocketOptions, Arc<[PortPair]>),
        config: &MediaConfig,
    ) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&*handles[index].wake, EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        for (number, pair) in pairs.iter().enumerate().filter(|(_, pair)| pair.worker == index) {
            for way in PacketKind::BOTH {
                let token = SHARED | (number as u64) << 1 | u64::from(way == PacketKind::Rtcp);
                epoll.add(pair.socket(way), EpollEvent::new(EpollFlags::EPOLLIN, token))?;
            }
        }
        Ok(Self {
            index,
            epoll,
            options,
            pairs,
            sources: SourceTable::default(),
            inbox,
            handles,
            events,
            counters,
            config: CallConfig {
                inactivity: config.inactivity,
                rtcp_interval: config.rtcp_interval,
            },
            entries: Vec::new(),
            calls: BTreeMap::new(),
            legs: BTreeMap::new(),
            waiting: BTreeMap::new(),
            hearings: BTreeMap::new(),
            wheel: Wheel::new(clock::instant()),
            taken: 0,
            sums: EngineStats::default(),
            in_hand: InHand::default(),
            failed: BTreeSet::new(),
            untold: Vec::new(),
            panics: Vec::new(),
        })
    }

    /// Serves until it is told to stop. A panic costs the call that it came from; one that came
    /// from no call costs all that the worker has, and, when it comes again and again, the worker.
    pub(super) fn run(mut self) {
        while catch_unwind(AssertUnwindSafe(|| self.serve())).is_err() {
            let goes_on = self.recover(clock::instant());
            self.tell_failed();
            self.counters.publish(&self.sums);
            if !goes_on {
                tracing::error!(
                    worker = self.index,
                    "media worker panics again and again: it has stopped"
                );
                return;
            }
        }
    }

    /// Drops what a panic may have left half done. Returns false when the worker itself does not
    /// work.
    fn recover(&mut self, now: Instant) -> bool {
        self.sums.worker_panics += 1;
        let InHand { place, leg } = std::mem::take(&mut self.in_hand);
        let places = match place {
            Some(place) => place..place + 1,
            None => 0..self.entries.len(),
        };
        let before = self.untold.len();
        places.for_each(|place| self.fail(place));
        self.untold.extend(leg.filter(|leg| self.failed.insert(*leg)));
        let legs = self.untold.len() - before;
        tracing::error!(
            worker = self.index,
            legs,
            "media worker panicked: the legs of the call that it was about are ended"
        );
        // What is in the inbox wakes it again.
        let _ = self.handles[self.index].wake.write(1);
        if place.is_some() || leg.is_some() {
            return true;
        }
        self.panics.retain(|at| now.saturating_duration_since(*at) < PATIENCE);
        self.panics.push(now);
        self.panics.len() <= MAX_PANICS
    }

    /// Gives up a call with its legs and their sockets.
    fn fail(&mut self, place: usize) {
        let Some(mut entry) = self.entries.get_mut(place).and_then(Option::take) else {
            return;
        };
        for (slot, sockets) in entry.sockets.iter_mut().enumerate() {
            if let Some(sockets) = sockets
                && let Err(error) = sockets.depart(&mut context!(self, place, slot))
            {
                tracing::debug!(%error, "a media socket of a call that failed cannot be let go");
            }
        }
        self.wheel.forget(place);
        self.calls.remove(&entry.call.key());
        let (failed, untold) = (&mut self.failed, &mut self.untold);
        self.legs.retain(|leg, at| {
            let is_lost = *at == place;
            if is_lost {
                failed.insert(*leg);
                untold.push(*leg);
            }
            !is_lost
        });
    }

    fn tell_failed(&mut self) {
        let events = &self.events;
        self.untold.retain(|leg| events.try_send(MediaEvent::Failed { leg: *leg }).is_err());
    }

    fn serve(&mut self) {
        let mut ready = [EpollEvent::empty(); BATCH];
        let mut datagram = [0; shared_ports::DATAGRAM];
        let mut batch = RecvBatch::new(&self.pairs, self.index);
        let mut after = clock::instant();
        let mut mode = BatchMode { since: after, packets: 0, is_on: false };
        loop {
            let count = match self.epoll.wait(&mut ready, self.timeout(after)) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(error) => {
                    tracing::error!(
                        %error,
                        worker = self.index,
                        "media worker cannot wait for packets"
                    );
                    return;
                }
            };
            let now = clock::now();
            let ready = &ready[..count];
            // First the tables of hearing, then what has come: a worker that is late passes nothing
            // on by a table that is no more.
            if ready.iter().any(|event| event.data() == WAKE) && !self.do_jobs(&mut batch.out, now)
            {
                batch.out.flush(&self.pairs);
                return;
            }
            let mut packets = 0;
            for event in ready.iter().filter(|event| event.data() != WAKE) {
                packets += match event.data() & SHARED {
                    0 => self.receive(event.data(), &mut datagram, &mut batch.out, now),
                    _ => self.receive_many(event.data() & !SHARED, &mut batch, now),
                };
            }
            self.do_due(&mut batch.out, now);
            batch.out.flush(&self.pairs);
            let (errors, time) = batch.out.take_sums();
            self.sums.send_errors += errors;
            self.sums.send_nanos += time.as_nanos() as u64;
            self.sums.receive_nanos += batch.take_time().as_nanos() as u64;
            self.counters.publish(&self.sums);
            if !self.untold.is_empty() {
                self.tell_failed();
            }
            after = clock::instant();
            if mode.note(packets, after) && count < BATCH {
                let rest = TURN.saturating_sub(after.saturating_duration_since(now.mono));
                std::thread::sleep(rest);
                after += rest;
            }
        }
    }

    fn timeout(&self, now: Instant) -> EpollTimeout {
        let Some(wake) = self.wheel.next() else {
            return EpollTimeout::NONE;
        };
        let wait = wake.saturating_duration_since(now);
        let millis = wait.as_micros().div_ceil(1000).min(10_000) as u16;
        EpollTimeout::from(millis)
    }

    /// Takes one datagram. What is left makes the socket ready again in the next turn, so a flood
    /// at one port starves no other. Returns how many it took.
    fn receive(
        &mut self,
        token: u64,
        datagram: &mut [u8],
        sends: &mut SendBatch,
        now: Now,
    ) -> usize {
        let (place, slot, which) = from_token(token);
        let Some(entry) = self.entries.get(place).and_then(Option::as_deref) else {
            return 0;
        };
        let Some(Some(here)) = entry.sockets.get(slot) else {
            return 0;
        };
        self.taken += 1;
        let mut watch = self.taken.is_multiple_of(SAMPLE).then(Watch::start);
        let Ok((len, from)) = here.receive(which, datagram) else {
            return 1;
        };
        if let Some(watch) = &mut watch {
            watch.lap(|watch| &mut watch.receive);
        }
        let way = if which == Which::Rtcp { PacketKind::Rtcp } else { PacketKind::Rtp };
        let arrival = ReceivedPacket { place, slot, way, from, watch };
        self.take_in(arrival, &mut datagram[..len], sends, now);
        1
    }

    /// Takes what has come to shared ports. Returns how many.
    fn receive_many(&mut self, token: u64, batch: &mut RecvBatch, now: Now) -> usize {
        let (number, way) = (
            (token >> 1) as usize,
            if token & 1 == 0 { PacketKind::Rtp } else { PacketKind::Rtcp },
        );
        let pairs = Arc::clone(&self.pairs);
        let Some(pair) = pairs.get(number) else {
            return 0;
        };
        let mut all = 0;
        for _ in 0..ROUNDS {
            let (count, is_more) = batch.receive(pair.socket(way));
            for (came, datagram) in batch.came[..count]
                .iter()
                .zip(batch.datagrams.iter_mut().flat_map(|all| all.iter_mut()))
            {
                let Some((len, from)) = *came else { continue };
                let datagram = &mut datagram[..len.min(shared_ports::DATAGRAM)];
                self.taken += 1;
                let Some((place, slot)) = self.sources.of(number, way, from) else {
                    self.sums.foreign += 1;
                    continue;
                };
                let arrival = ReceivedPacket {
                    place,
                    slot,
                    way,
                    from,
                    watch: self.taken.is_multiple_of(SAMPLE).then(Watch::start),
                };
                self.take_in(arrival, datagram, &mut batch.out, now);
            }
            all += count;
            if !is_more {
                break;
            }
        }
        all
    }

    fn take_in(
        &mut self,
        arrival: ReceivedPacket,
        datagram: &mut [u8],
        sends: &mut SendBatch,
        now: Now,
    ) {
        let ReceivedPacket { place, slot, way, from, mut watch } = arrival;
        let Some(CallEntry { call, sockets, .. }) =
            self.entries.get_mut(place).and_then(Option::as_deref_mut)
        else {
            return;
        };
        self.in_hand.place = Some(place);
        let (sums, pairs) = (&mut self.sums, &*self.pairs);
        let verdict = if way == PacketKind::Rtcp || call.is_rtcp(slot, datagram) {
            let verdict = call.handle_rtcp(slot, from, datagram, now.mono);
            sums.rtcp_received += u64::from(verdict == PacketVerdict::Accepted);
            verdict
        } else {
            let verdict = call.handle_rtp(slot, from, datagram, now.mono, &mut |packet| {
                let Some(watch) = &mut watch else {
                    return send(sockets, packet, pairs, sends, sums);
                };
                watch.lap(|watch| &mut watch.machine);
                send(sockets, packet, pairs, sends, sums);
                watch.lap(|watch| &mut watch.send);
            });
            sums.received += u64::from(verdict == PacketVerdict::Accepted);
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
            PacketVerdict::Accepted => {}
            PacketVerdict::Foreign => self.sums.foreign += 1,
            PacketVerdict::Malformed => self.sums.malformed += 1,
            PacketVerdict::Discarded => self.sums.discarded += 1,
            PacketVerdict::Unauthenticated => self.sums.srtp_rejected += 1,
            PacketVerdict::Replayed => self.sums.srtp_replayed += 1,
        }
        self.finish_step(place);
        self.in_hand.place = None;
    }

    fn do_due(&mut self, sends: &mut SendBatch, now: Now) {
        while let Some(place) = self.wheel.take(now.mono) {
            let Some(entry) = self.entries.get_mut(place).and_then(Option::as_deref_mut) else {
                continue;
            };
            self.in_hand.place = Some(place);
            let CallEntry { call, sockets, awaited } = entry;
            *awaited = None;
            if call.poll_timeout().is_some_and(|at| at <= now.mono) {
                let (sums, pairs) = (&mut self.sums, &*self.pairs);
                call.handle_timeout(now, &mut |packet| send(sockets, packet, pairs, sends, sums));
            }
            self.finish_step(place);
            self.in_hand.place = None;
        }
    }

    /// After every touch of a call: its events out, its next deadline noted, its legs' sockets
    /// connected to where they now come from.
    fn finish_step(&mut self, place: usize) {
        let Some(entry) = self.entries.get_mut(place).and_then(Option::as_deref_mut) else {
            return;
        };
        let CallEntry { call, sockets, awaited } = entry;
        if let Some(at) = call.poll_timeout()
            && awaited.is_none_or(|awaited| at < awaited)
        {
            self.wheel.wake(place, at);
            *awaited = Some(at);
        }
        if call.take_moved() {
            for (slot, (sockets, sources)) in sockets.iter_mut().zip(call.sources()).enumerate() {
                let Some(sockets) = sockets else { continue };
                sockets.connect(&mut context!(self, place, slot), sources);
            }
        }
        while let Some(event) = call.poll_event() {
            if let MediaEvent::LeakGuard { call, leg, reason } = &event {
                match reason {
                    LeakReason::NotPermitted => tracing::warn!(
                        call = call.0,
                        leg = leg.0,
                        "leak guard: sound the listener must not hear was replaced by silence"
                    ),
                    LeakReason::CodecMismatch => tracing::info!(
                        call = call.0,
                        leg = leg.0,
                        "leak guard: sound in a codec the listener does not have was replaced by \
                         silence"
                    ),
                }
            }
            tell(&self.events, event, &mut self.sums);
        }
    }

    /// Returns false to stop.
    fn do_jobs(&mut self, sends: &mut SendBatch, now: Now) -> bool {
        // Already empty is as good as emptied.
        let _ = self.handles[self.index].wake.read();
        while let Ok(job) = self.inbox.try_recv() {
            if matches!(job, WorkerCommand::Stop) {
                return false;
            }
            self.do_job(job, sends, now);
            self.in_hand = InHand::default();
        }
        true
    }

    fn do_job(&mut self, job: WorkerCommand, sends: &mut SendBatch, at: Now) {
        let now = at.mono;
        match job {
            WorkerCommand::Put { call, moved } => {
                self.in_hand.leg = Some(moved.leg.name());
                self.put(call, *moved, sends, at);
            }
            WorkerCommand::Hear { call, hearing } => match self.calls.get(&call).copied() {
                Some(place) => {
                    self.in_hand.place = Some(place);
                    if let Some(entry) = self.entries[place].as_mut() {
                        entry.call.handle_hear(*hearing, now);
                    }
                    self.finish_step(place);
                }
                None => {
                    self.hearings.insert(call, hearing);
                }
            },
            WorkerCommand::Close { leg } if self.failed.remove(&leg) => {
                let stats = LegStats::default();
                tell(&self.events, MediaEvent::Closed { leg, stats }, &mut self.sums);
            }
            WorkerCommand::Describe { leg, .. }
            | WorkerCommand::Tell { leg, .. }
            | WorkerCommand::Sources { leg, .. }
            | WorkerCommand::SendDigits { leg, .. }
            | WorkerCommand::Beep { leg }
            | WorkerCommand::Move { leg, .. }
                if self.failed.contains(&leg) => {}
            WorkerCommand::Describe { leg, .. }
            | WorkerCommand::Tell { leg, .. }
            | WorkerCommand::Sources { leg, .. }
            | WorkerCommand::SendDigits { leg, .. }
            | WorkerCommand::Beep { leg }
            | WorkerCommand::Move { leg, .. }
            | WorkerCommand::Close { leg }
                if !self.legs.contains_key(&leg) =>
            {
                let waiting = self.waiting.entry(leg).or_default();
                if waiting.len() < MAX_WAITING {
                    waiting.push(job);
                }
            }
            WorkerCommand::Describe { leg, media, srtp, is_alone } => {
                self.tell(leg, is_alone);
                self.at(leg, |call| {
                    call.handle_keys(leg, srtp.as_deref());
                    call.handle_describe(leg, media, now);
                });
            }
            WorkerCommand::Tell { leg, is_alone } => self.tell(leg, is_alone),
            WorkerCommand::Sources { leg, rule } => {
                self.at(leg, |call| call.handle_source_rule(leg, rule))
            }
            WorkerCommand::SendDigits { leg, digits } => {
                self.at(leg, |call| call.handle_digits(leg, &digits, now))
            }
            WorkerCommand::Beep { leg } => self.at(leg, |call| call.handle_beep(leg, now)),
            WorkerCommand::Music { leg, music } => {
                self.at(leg, |call| call.handle_music(leg, music, now))
            }
            WorkerCommand::Move { leg, call, to } => {
                let Some(moved) = self.take(leg, now) else {
                    return;
                };
                if to == self.index {
                    self.put(call, moved, sends, at);
                } else {
                    let moved = Box::new(moved);
                    self.handles[to].send(WorkerCommand::Put { call, moved });
                }
            }
            WorkerCommand::Close { leg } => {
                self.release(leg, sends, at);
                if let Some(LegWithSockets { leg: closed, sockets }) = self.take(leg, now) {
                    drop(sockets);
                    let stats = closed.stats();
                    tell(&self.events, MediaEvent::Closed { leg, stats }, &mut self.sums);
                }
            }
            WorkerCommand::Stop => {}
            #[cfg(test)]
            WorkerCommand::Panic(leg) => {
                self.in_hand.place = leg.and_then(|leg| self.legs.get(&leg).copied());
                panic!("asked for by a test");
            }
        }
    }

    fn at(&mut self, leg: LegId, then: impl FnOnce(&mut Call)) {
        let Some(&place) = self.legs.get(&leg) else {
            return;
        };
        self.in_hand.place = Some(place);
        if let Some(entry) = self.entries[place].as_mut() {
            then(&mut entry.call);
        }
        self.finish_step(place);
    }

    fn tell(&mut self, leg: LegId, is_alone: bool) {
        let Some(&place) = self.legs.get(&leg) else {
            return;
        };
        let Some(CallEntry { call, sockets, .. }) = self.entries[place].as_deref_mut() else {
            return;
        };
        let Some(slot) = call.slot(leg) else { return };
        if let Some(Some(sockets)) = sockets.get_mut(slot)
            && sockets.tell(is_alone)
            && let Some(sources) = call.sources().nth(slot)
        {
            sockets.connect(&mut context!(self, place, slot), sources);
        }
    }

    fn release(&mut self, leg: LegId, sends: &mut SendBatch, now: Now) {
        let Some(&place) = self.legs.get(&leg) else {
            return;
        };
        self.in_hand.place = Some(place);
        if let Some(CallEntry { call, sockets, .. }) = self.entries[place].as_deref_mut() {
            let (sums, pairs) = (&mut self.sums, &*self.pairs);
            call.handle_release(leg, now, &mut |packet| send(sockets, packet, pairs, sends, sums));
        }
    }

    fn put(&mut self, key: CallKey, moved: LegWithSockets, sends: &mut SendBatch, now: Now) {
        let place = match self.calls.get(&key) {
            Some(place) => *place,
            None => self.open_call(key, now.mono),
        };
        self.in_hand.place = Some(place);
        let LegWithSockets { leg, mut sockets } = moved;
        let name = leg.name();
        let Some(entry) = self.entries[place].as_mut() else {
            return;
        };
        let Ok(slot) = entry.call.put(leg, now.mono) else {
            // The directory counts legs; a call is never fuller here than there.
            tracing::error!(call = key.0, leg = name.0, "a leg has no place in its call");
            return;
        };
        if let Err(error) = sockets.arrive(&context!(self, place, slot)) {
            tracing::error!(%error, leg = name.0, "a media socket cannot be waited for");
        }
        if entry.sockets.len() <= slot {
            entry.sockets.resize_with(slot + 1, || None);
        }
        entry.sockets[slot] = Some(sockets);
        self.legs.insert(name, place);
        self.finish_step(place);
        for job in self.waiting.remove(&name).unwrap_or_default() {
            self.do_job(job, sends, now);
        }
    }

    fn open_call(&mut self, key: CallKey, now: Instant) -> usize {
        let mut call = Call::new(key, self.config);
        if let Some(hearing) = self.hearings.remove(&key) {
            call.handle_hear(*hearing, now);
        }
        let entry = Some(Box::new(CallEntry { call, awaited: None, sockets: SmallVec::new() }));
        let place = match self.entries.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.entries.push(None);
                self.entries.len() - 1
            }
        };
        self.entries[place] = entry;
        self.wheel.make_room(self.entries.len());
        self.calls.insert(key, place);
        place
    }

    fn take(&mut self, leg: LegId, now: Instant) -> Option<LegWithSockets> {
        let place = self.legs.remove(&leg)?;
        self.in_hand = InHand { place: Some(place), leg: Some(leg) };
        let entry = self.entries[place].as_mut()?;
        let slot = entry.call.slot(leg)?;
        let mut sockets = entry.sockets.get_mut(slot)?.take()?;
        if let Err(error) = sockets.depart(&mut context!(self, place, slot)) {
            tracing::error!(%error, leg = leg.0, "a media socket cannot be let go");
        }
        let leg = entry.call.take(leg, now)?;
        let over = entry.call.is_empty().then(|| entry.call.key());
        self.finish_step(place);
        if let Some(key) = over {
            self.calls.remove(&key);
            self.entries[place] = None;
            self.wheel.forget(place);
        }
        Some(LegWithSockets { leg, sockets })
    }
}

/// The leg that a datagram has come for, by which socket and from where.
struct ReceivedPacket {
    place: usize,
    slot: usize,
    way: PacketKind,
    from: SocketAddr,
    watch: Option<Watch>,
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

fn send(
    sockets: &[Option<Sockets>],
    packet: Transmit<'_>,
    pairs: &[PortPair],
    sends: &mut SendBatch,
    sums: &mut EngineStats,
) {
    let Some(Some(here)) = sockets.get(packet.slot) else {
        return;
    };
    let sent = match packet.sent {
        TransmitKind::Rtcp if !packet.muxed => here.send_rtcp(packet.bytes, packet.to, pairs),
        _ => here.send(packet.bytes, packet.to, pairs, sends),
    };
    if sent.is_err() {
        sums.send_errors += 1;
        return;
    }
    match packet.sent {
        TransmitKind::Rtcp => {
            sums.rtcp_sent += 1;
            return;
        }
        TransmitKind::Unchanged => sums.unchanged += 1,
        TransmitKind::Transcoded => sums.transcoded += 1,
        TransmitKind::Mixed => sums.mixed += 1,
        TransmitKind::Silent => sums.silent += 1,
        TransmitKind::Guarded => {
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

pub(super) fn to_token(place: usize, slot: usize, which: Which) -> u64 {
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
