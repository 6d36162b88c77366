//! What a speaker said and nobody has mixed yet: a ring of samples per speaker, a reader per listener.
//!
//! ```text
//!            reader of the agent ─┐        ┌─ reader of another supervisor
//!   …old… ▐██████████████████████▼████████▼███▌ ◀── write: the next packet
//!                                 ◀─ delay ──▶
//! ```
//!
//! A reader starts at the end: what arrives is in the next frame taken, and nothing said before is ever heard. When the network holds packets
//! back, the reader finds nothing, conceals it, and is behind by so much when they come. How much of that delay has to stay is what the ring
//! has seen of the network in the last seconds (the target); the rest is drained: silence is skipped, a period of the voice is left out, or,
//! for the little that two clocks differ, a frame is played one per cent faster. Nothing said is thrown away, short of a whole ring.
//!
//! What is missing is concealed: the last period of the voice again, fading within 60 ms (after the idea of ITU-T G.711 Appendix I), and a
//! joint of 4 ms to whatever comes next. A codec that conceals by itself hands its own sound in ([`Ring::fill`]).
//!
//! Two parties who talk to each other are read *direct*: no target, all delay is drained. Supervisors, both ways, are read *buffered*.

use std::time::{Duration, Instant};

/// What a ring holds, in ms: a power of two of samples at 8 and 16 kHz.
const CAPACITY_MS: u32 = 512;
/// The longest delay that the network's jitter is granted, in ms.
const MAX_TARGET: u32 = 200;
/// A gap in timestamps up to this is concealed and can still be filled by a late packet, in ms.
const MAX_HOLE: u32 = 200;
/// A packet so late is a restart of the source, in ms.
const MAX_LATE: u32 = 200;
/// What is kept of the past for concealment, in ms.
const PAST: u32 = 30;
/// The same at the highest rate, in samples.
const MAX_PAST: usize = 480;
/// The periods of a voice that are looked for, in tenths of ms: 66 to 400 Hz.
const PERIODS: (u32, u32) = (25, 150);
/// Concealment has faded after so many ms.
const FADE: u32 = 60;
/// And begins to fade after so many.
const HOLD: u32 = 10;
/// A joint, in ms.
const JOINT: u32 = 4;
/// The same at the highest rate, in samples.
const MAX_JOINT: usize = 64;
/// A packet later than [`MAX_LATE`] but no later than this is dropped, in ms, unless another one follows it.
const MAX_STRAY: u32 = 2000;
/// Reads over which the smallest delay is taken: half a second of 20 ms frames, three where the network is uneven.
const WINDOW: u16 = 25;
const LONG_WINDOW: u16 = 150;
/// From this target on a network is uneven, in ms.
const UNEVEN: u32 = 20;
/// A standing delay below this is left alone, in ms.
const TOLERATED: u32 = 1;
/// Blocks of silence are skipped whole, of so many ms, every sample below −54 dBFS.
const BLOCK: u32 = 10;
const QUIET: i16 = 64;
/// Seconds of the network's past that count.
const SECONDS: usize = 5;
/// Who sends nothing for so long has paused.
const PAUSE: Duration = Duration::from_millis(250);

/// How late packets come, against the earliest of the last seconds; in samples. Small: it is touched at every packet.
#[derive(Clone, Copy, Debug)]
struct Arrivals {
    origin: Option<Instant>,
    /// When the last packet came.
    last: Option<Instant>,
    /// Of each second the earliest packet's transit ([`i32::MAX`]: none) and the latest packet's lateness; the running second first.
    early: [i32; SECONDS],
    late: [u16; SECONDS],
    /// What is needed by what the seconds before the running one have shown.
    target: u16,
    turned: u32,
}

impl Default for Arrivals {
    fn default() -> Self {
        Self {
            origin: None,
            last: None,
            early: [i32::MAX; SECONDS],
            late: [0; SECONDS],
            target: 0,
            turned: 0,
        }
    }
}

impl Arrivals {
    fn note(&mut self, timestamp: u32, rate: u32, now: Instant) {
        let origin = *self.origin.get_or_insert(now);
        let last = self.last.replace(now);
        // Not every telephone's clock goes on while it is silent.
        if last.is_some_and(|last| now.saturating_duration_since(last) > PAUSE) {
            self.forget();
        }
        let elapsed = now.saturating_duration_since(origin);
        let second = elapsed.as_secs() as u32;
        if second != self.turned {
            let seconds = (second.wrapping_sub(self.turned) as usize).min(SECONDS);
            self.late.rotate_right(seconds % SECONDS);
            self.early.rotate_right(seconds % SECONDS);
            self.late[..seconds].fill(0);
            self.early[..seconds].fill(i32::MAX);
            self.turned = second;
            self.target = self.needed();
        }
        let arrival = second.wrapping_mul(1000 * rate).wrapping_add(elapsed.subsec_micros() * rate / 1000);
        let transit = arrival.wrapping_sub(timestamp) as i32;
        self.early[0] = self.early[0].min(transit);
        let earliest = self.early.iter().copied().min().unwrap_or(transit);
        let late = transit.wrapping_sub(earliest).clamp(0, i32::from(u16::MAX)) as u16;
        self.late[0] = self.late[0].max(late);
    }

    /// Transits of another source, or after a restart, say nothing about these.
    fn forget(&mut self) {
        self.early = [i32::MAX; SECONDS];
    }

    /// What has happened in two of the last seconds happens again; what has happened once does not.
    fn needed(&self) -> u16 {
        let (mut highest, mut second) = (0, 0);
        for late in self.late {
            if late > highest {
                second = std::mem::replace(&mut highest, late);
            } else {
                second = second.max(late);
            }
        }
        second
    }

    /// The lateness of the last two or three seconds.
    fn recent(&self) -> u32 {
        self.late[..3].iter().copied().max().map_or(0, u32::from)
    }
}

/// What one speaker said, in the order of his timestamps.
#[derive(Clone, Debug)]
pub struct Ring {
    /// Empty while it is closed.
    samples: Box<[i16]>,
    /// Samples a millisecond.
    rate: u32,
    /// The position at the front of `samples`.
    base: u64,
    end: u64,
    /// Concealment remembers nothing before this position: see [`Ring::forget`].
    memory: u64,
    source: Option<(u32, u32)>,
    /// A packet that came far too late, if it should be a restart: what would follow it.
    straggler: Option<(u32, u32)>,
    hole: (u64, u64),
    /// How the packet after the hole began, before it was joined.
    after_hole: Box<[i16]>,
    arrivals: Arrivals,
}

impl Default for Ring {
    fn default() -> Self {
        Self {
            samples: Box::default(),
            rate: 0,
            base: MAX_PAST as u64,
            end: MAX_PAST as u64,
            memory: MAX_PAST as u64,
            source: None,
            straggler: None,
            hole: (0, 0),
            after_hole: Box::default(),
            arrivals: Arrivals::default(),
        }
    }
}

impl Ring {
    /// Begins to take what is said, at so many samples a second; the only place that takes memory.
    pub fn open(&mut self, rate: u32) {
        let rate = rate / 1000;
        *self = Self {
            samples: vec![0; (CAPACITY_MS * rate) as usize].into_boxed_slice(),
            after_hole: vec![0; (JOINT * rate) as usize].into_boxed_slice(),
            rate,
            // Readers know positions of before; what was before is silence.
            base: self.end - u64::from(PAST * rate),
            end: self.end,
            memory: self.end,
            ..Self::default()
        };
    }

    /// Takes nothing any more, and gives its memory back.
    pub fn close(&mut self) {
        self.samples = Box::default();
        self.base = self.end;
        self.source = None;
    }

    /// Whether it takes what is said.
    pub fn is_open(&self) -> bool {
        !self.samples.is_empty()
    }

    /// Somebody begins to hear this speaker: nothing that was said before may come back to him as concealment.
    pub fn forget(&mut self) {
        self.memory = self.end;
    }

    /// What comes next is counted by another clock: its timestamp says nothing of where it belongs.
    pub fn cut(&mut self) {
        self.source = None;
        self.straggler = None;
        self.hole = (0, 0);
        self.arrivals.forget();
    }

    fn ms(&self, millis: u32) -> u32 {
        millis * self.rate
    }

    /// The delay that this network needs, in samples: what packets have been late, more than once in the last five seconds.
    pub fn target(&self) -> u32 {
        u32::from(self.arrivals.target).min(self.ms(MAX_TARGET))
    }

    /// Samples missing before a packet, as far as they can be concealed: lost, or late.
    pub fn missing(&self, ssrc: u32, timestamp: u32) -> usize {
        match self.ahead(ssrc, timestamp) {
            Some(hole) if self.is_open() && (1..=self.ms(MAX_HOLE) as i32).contains(&hole) => hole as usize,
            Some(_) | None => 0,
        }
    }

    fn ahead(&self, ssrc: u32, timestamp: u32) -> Option<i32> {
        let (source, next) = self.source?;
        (source == ssrc).then(|| timestamp.wrapping_sub(next) as i32)
    }

    /// Takes what a codec has made for the samples that are [`Ring::missing`] before a packet.
    pub fn fill(&mut self, samples: &[i16]) {
        let from = self.end;
        self.append(samples);
        self.hole = (from, samples.len() as u64);
        if let Some((_, next)) = &mut self.source {
            *next = next.wrapping_add(samples.len() as u32);
        }
    }

    /// Takes the samples of a packet; `timestamp` counts samples too. Returns whether the end moved: not for a packet that came too late.
    pub fn write(&mut self, ssrc: u32, timestamp: u32, samples: &[i16], now: Instant) -> bool {
        self.take(ssrc, timestamp, samples, Some(now))
    }

    /// Takes what follows in the same packet: it says nothing more of when packets come.
    pub fn write_on(&mut self, ssrc: u32, timestamp: u32, samples: &[i16]) -> bool {
        self.take(ssrc, timestamp, samples, None)
    }

    fn take(&mut self, ssrc: u32, timestamp: u32, samples: &[i16], came: Option<Instant>) -> bool {
        if !self.is_open() {
            return false;
        }
        let (max_late, max_hole) = (self.ms(MAX_LATE) as i32, self.ms(MAX_HOLE) as i32);
        let ahead = self.ahead(ssrc, timestamp);
        let max_stray = self.ms(MAX_STRAY) as i32;
        let is_stray = ahead.is_some_and(|late| (-max_stray..-max_late).contains(&late));
        // What else is in the packet does not make it a restart.
        let follows = came.is_some() && self.straggler == Some((ssrc, timestamp));
        self.straggler = is_stray.then_some((ssrc, timestamp.wrapping_add(samples.len() as u32)));
        if is_stray && !follows {
            return false;
        }
        if !ahead.is_some_and(|ahead| (-max_late..=max_late).contains(&ahead)) {
            self.arrivals.forget();
        }
        if let Some(now) = came {
            self.arrivals.note(timestamp, self.rate, now);
        }
        match ahead {
            Some(late) if (-max_late..0).contains(&late) => {
                let behind = late.unsigned_abs() as usize;
                let (old, new) = samples.split_at(behind.min(samples.len()));
                if let Some(at) = self.end.checked_sub(behind as u64) {
                    self.put(at, old);
                    // The hole is full: what follows it needs no joint any more.
                    let end = self.hole.0 + self.hole.1;
                    let joint = (self.ms(JOINT) as usize).min((self.end - end.min(self.end)) as usize);
                    if self.hole.1 > 0 && at + old.len() as u64 == end && joint > 0 {
                        let mut unjoined = [0; MAX_JOINT];
                        unjoined[..joint].copy_from_slice(&self.after_hole[..joint]);
                        self.put(end, &unjoined[..joint]);
                    }
                }
                if new.is_empty() {
                    return false;
                }
                self.append(new);
            }
            // Who begins is heard softly by those who begin to hear him: see [`Reader`].
            Some(0) => self.append(samples),
            None if self.source.is_none() => self.append(samples),
            Some(hole) if (1..=max_hole).contains(&hole) => {
                let from = self.end;
                self.conceal(hole as usize);
                for (kept, sample) in self.after_hole.iter_mut().zip(samples) {
                    *kept = *sample;
                }
                self.append_joined(samples, hole as u32);
                self.hole = (from, hole as u64);
            }
            Some(_) | None => self.append_joined(samples, 0),
        }
        self.source = Some((ssrc, timestamp.wrapping_add(samples.len() as u32)));
        true
    }

    fn append(&mut self, samples: &[i16]) {
        self.put(self.end, samples);
        self.end += samples.len() as u64;
    }

    /// Goes on where the last sound stopped, `concealed` samples ago, for so many samples.
    fn conceal(&mut self, len: usize) {
        let from = self.end;
        let period = self.period(from);
        for n in 0..len as u32 {
            let sample = self.continued(from, period, n);
            self.append(&[sample]);
        }
    }

    /// A packet that does not follow what was before: the first milliseconds are a joint with how that would have gone on.
    fn append_joined(&mut self, samples: &[i16], concealed: u32) {
        let from = self.end - u64::from(concealed);
        let period = self.period(from);
        let joint = (self.ms(JOINT) as usize).min(samples.len());
        let (first, rest) = samples.split_at(joint);
        for (n, sample) in first.iter().enumerate() {
            let before = self.continued(from, period, concealed + n as u32);
            self.append(&[blend(before, *sample, n, joint)]);
        }
        self.append(rest);
    }

    /// The `n`th sample of how the sound before a position goes on: its last period again and again, fading. The end of a period goes over into
    /// what was before its beginning, and the first one into what was before it.
    fn continued(&self, from: u64, period: u32, n: u32) -> i16 {
        let fade = self.ms(FADE);
        if period == 0 || n >= fade {
            return 0;
        }
        let at = |back: u32, n: u32| i32::from(self.at(from - u64::from(back) + u64::from(n)));
        let (place, seam) = (n % period, period / 4);
        let mut sample = at(period, place);
        if place + seam >= period {
            let over = (place + seam - period) as i32 + 1;
            sample += (at(2 * period, place) - sample) * over / (seam as i32 + 1);
        }
        let joint = self.ms(JOINT).min(period);
        if n < joint {
            let step = i32::from(self.at(from - 1)) - i32::from(self.at(from - u64::from(period) - 1));
            let low = sample.min(i32::from(self.at(from - 1)));
            let high = sample.max(i32::from(self.at(from - 1)));
            sample = (sample + step * (joint - n) as i32 / joint as i32).clamp(low, high);
        }
        let left = (fade - n).min(fade - self.ms(HOLD));
        (sample * left as i32 / (fade - self.ms(HOLD)) as i32) as i16
    }

    /// The period of the voice just before a position, in samples; 0 when nothing is known of it. Of every fourth sample or so, first roughly,
    /// then to the sample: some microseconds.
    fn period(&self, from: u64) -> u32 {
        let (shortest, longest) = ((self.rate * PERIODS.0 / 10) as usize, (self.rate * PERIODS.1 / 10) as usize);
        let mut past = [0; MAX_PAST];
        let Some(past) = past.get_mut(..2 * longest) else { return 0 };
        if from < self.base.max(self.memory) + past.len() as u64 || !self.is_open() {
            return 0;
        }
        self.copy(from - past.len() as u64, past);
        let stride = self.rate as usize / 2;
        let distance = |lag: &usize| -> u32 {
            let (now, before) = (&past[longest..], &past[longest - lag..]);
            let pairs = now.iter().zip(before).step_by(stride);
            pairs.map(|(now, before)| u32::from(now.abs_diff(*before))).sum()
        };
        let rough = (shortest..=longest).step_by(2).min_by_key(distance).unwrap_or(shortest);
        let fine = rough.saturating_sub(1).max(shortest)..=(rough + 1).min(longest);
        fine.min_by_key(distance).unwrap_or(rough) as u32
    }

    /// Begins again at the front, which the cache still has, once every reader has heard everything: in a steady call the ring is never touched
    /// beyond its first eighth of a second.
    pub fn rewind(&mut self) {
        let past = self.ms(PAST) as usize;
        let Some(from) = self.end.checked_sub(self.base).and_then(|len| (len as usize).checked_sub(past)) else {
            return;
        };
        // Not at every packet: what is kept of the past has to be moved.
        if from > 3 * past && from + past <= self.samples.len() {
            self.samples.copy_within(from..from + past, 0);
            self.base = self.end - past as u64;
        }
    }

    fn place(&self, position: u64) -> usize {
        // A power of two, or none.
        position.saturating_sub(self.base) as usize & self.samples.len().wrapping_sub(1)
    }

    fn put(&mut self, at: u64, samples: &[i16]) {
        if at < self.base || samples.len() > self.samples.len() {
            return;
        }
        let at = self.place(at);
        let first = samples.len().min(self.samples.len() - at);
        self.samples[at..at + first].copy_from_slice(&samples[..first]);
        let rest = samples.len() - first;
        self.samples[..rest].copy_from_slice(&samples[first..]);
    }

    fn at(&self, position: u64) -> i16 {
        self.samples.get(self.place(position)).copied().unwrap_or(0)
    }

    fn copy(&self, from: u64, samples: &mut [i16]) {
        let len = samples.len();
        if len > self.samples.len() {
            return samples.fill(0);
        }
        let at = self.place(from);
        let first = len.min(self.samples.len() - at);
        samples[..first].copy_from_slice(&self.samples[at..at + first]);
        samples[first..].copy_from_slice(&self.samples[..len - first]);
    }

    fn is_quiet(&self, from: u64, len: usize) -> bool {
        (from..from + len as u64).all(|position| self.at(position).unsigned_abs() <= QUIET as u16)
    }
}

/// `from` goes over into `to`.
fn blend(from: i16, to: i16, n: usize, len: usize) -> i16 {
    let (n, len) = (n as i32 + 1, len as i32 + 1);
    ((i32::from(from) * (len - n) + i32::from(to) * n) / len) as i16
}

/// How far one listener has heard a speaker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reader {
    position: u64,
    /// Where what is concealed began: the end of what was there.
    stopped: u64,
    /// Samples played because nothing was there, since something was.
    starved: u32,
    /// The voice's period when it stopped.
    period: u32,
    low: u32,
    surplus: u32,
    reads: u16,
    /// The last sample that was heard.
    last: i16,
    /// Samples for which what came after a silence was held back, so that the network's next lateness finds it there.
    held: u32,
    buffered: bool,
}

impl Reader {
    /// A reader that hears what comes from now on, as soon as it comes.
    pub fn direct(ring: &Ring) -> Self {
        Self {
            position: ring.end,
            stopped: ring.end,
            starved: u32::MAX,
            low: u32::MAX,
            last: ring.at(ring.end.wrapping_sub(1)),
            ..Self::default()
        }
    }

    /// A reader that hears what comes from now on, and learns to wait for what the network delays again and again.
    pub fn buffered(ring: &Ring) -> Self {
        Self {
            buffered: true,
            ..Self::direct(ring)
        }
    }

    /// What comes was heard already, by another way: it does not begin softly.
    pub fn going_on(mut self) -> Self {
        self.starved = 0;
        self
    }

    /// The same kind of reader, from now on.
    pub fn anew(self, ring: &Ring) -> Self {
        if self.buffered { Self::buffered(ring) } else { Self::direct(ring) }
    }

    /// Nothing is held back for jitter: what it is behind was said and is late.
    pub fn is_direct(&self) -> bool {
        !self.buffered
    }

    /// Samples written and not yet read.
    pub fn behind(&self, ring: &Ring) -> u32 {
        ring.end.saturating_sub(self.position).min(ring.samples.len() as u64) as u32
    }

    /// Whether the next so many samples are there and quiet.
    pub fn is_quiet(&self, ring: &Ring, len: usize) -> bool {
        self.behind(ring) as usize >= len && ring.is_quiet(self.position, len)
    }

    /// Leaves out the next so many samples.
    pub fn skip(&mut self, ring: &Ring, len: usize) {
        self.position += u64::from(self.behind(ring)).min(len as u64);
    }

    /// Drains all it is behind, without waiting to see whether it is needed.
    pub fn drain(&mut self, ring: &Ring) {
        self.surplus = self.behind(ring);
    }

    /// Fills a frame. Returns whether anything of the speaker is in it, what is concealed included; if not, it is silence.
    pub fn read(&mut self, ring: &Ring, frame: &mut [i16]) -> bool {
        self.catch_up(ring);
        let wanted = frame.len();
        let there = self.behind(ring) as usize;
        if there == 0 || self.holds(ring, there, wanted) {
            let sounds = self.conceal(ring, frame);
            self.last = frame.last().copied().unwrap_or(0);
            return sounds;
        }
        self.held = 0;
        let was_starved = self.starved;
        // What was read may have been replaced since by what came late.
        let moved = if was_starved == 0 {
            i32::from(self.last) - i32::from(ring.at(self.position.wrapping_sub(1)))
        } else {
            0
        };
        let taken = match self.shorten(ring, there, frame) {
            Some(taken) => taken,
            None if there >= wanted => self.play(ring, there, frame),
            // A little slower makes up for a little that is missing.
            None if there + wanted / 80 >= wanted => {
                self.stretch(ring, there, frame);
                there
            }
            None => {
                let (now, later) = frame.split_at_mut(there);
                ring.copy(self.position, now);
                self.position += there as u64;
                self.join(ring, was_starved, now);
                self.settle(ring, moved, now);
                self.starved = 0;
                self.conceal(ring, later);
                self.last = frame.last().copied().unwrap_or(0);
                return true;
            }
        };
        self.position += taken as u64;
        self.join(ring, was_starved, frame);
        self.settle(ring, moved, frame);
        self.last = frame.last().copied().unwrap_or(0);
        self.starved = 0;
        self.note(ring, self.behind(ring));
        true
    }

    /// Goes where something is: past what the ring no longer has, past a hole that was already concealed, past silence while there is delay
    /// to drain.
    fn catch_up(&mut self, ring: &Ring) {
        if ring.end.saturating_sub(self.position) > ring.samples.len() as u64 {
            self.position = ring.end - ring.samples.len() as u64;
        }
        let (from, len) = ring.hole;
        if self.position == from && len > 0 && self.starved > 0 && from + len <= ring.end {
            self.position += len.min(u64::from(self.starved));
        }
        for _ in 0..4 {
            let skip = self.surplus.min(ring.ms(BLOCK)) as usize;
            if skip == 0 || !self.is_quiet(ring, skip) {
                return;
            }
            self.position += skip as u64;
            self.surplus -= skip as u32;
        }
    }

    /// After a silence, whether what came waits until as much is there as the network has needed, but no longer than that.
    fn holds(&mut self, ring: &Ring, there: usize, wanted: usize) -> bool {
        let (target, fade) = (ring.target(), ring.ms(FADE));
        let is_after_silence = self.buffered && self.starved >= fade && self.starved < u32::MAX;
        if !is_after_silence || target <= ring.ms(UNEVEN) || there as u32 >= target || self.held >= target {
            return false;
        }
        self.held += wanted as u32;
        true
    }

    /// The frame begins where the last one ended, and is as it was written 4 ms later.
    fn settle(&self, ring: &Ring, moved: i32, frame: &mut [i16]) {
        if moved == 0 {
            return;
        }
        let joint = (ring.ms(JOINT) as usize).min(frame.len()) as i32;
        for (n, sample) in (0..joint).zip(frame) {
            let to = i32::from(*sample) + moved * (joint - n) / (joint + 1);
            let (low, high) = (
                i32::from(*sample).min(i32::from(self.last)),
                i32::from(*sample).max(i32::from(self.last)),
            );
            *sample = to.clamp(low, high) as i16;
        }
    }

    /// Leaves out a period of the voice, when there is so much to drain: what is before it goes over into what is after it.
    fn shorten(&mut self, ring: &Ring, there: usize, frame: &mut [i16]) -> Option<usize> {
        let joint = (ring.ms(JOINT) as usize).min(frame.len());
        let spare = there.checked_sub(frame.len())?.min(self.surplus as usize) as u32;
        let shortest = ring.rate * PERIODS.0 / 10;
        let longest = (ring.rate * PERIODS.1 / 10).min(spare);
        if longest < shortest {
            return None;
        }
        let mut near = [0; MAX_JOINT + MAX_PAST / 2];
        let near = &mut near[..joint.min(MAX_JOINT) + longest as usize];
        ring.copy(self.position, near);
        let distance = |lag: &u32| -> u32 {
            let pairs = near[..joint].iter().zip(&near[*lag as usize..]).step_by(2);
            pairs.map(|(here, there)| u32::from(here.abs_diff(*there))).sum()
        };
        let rough = (shortest..=longest).step_by(2).min_by_key(distance)?;
        let lag = (rough.saturating_sub(1).max(shortest)..=(rough + 1).min(longest)).min_by_key(distance)?;
        ring.copy(self.position + u64::from(lag), frame);
        for (n, sample) in frame.iter_mut().take(joint).enumerate() {
            *sample = blend(ring.at(self.position + n as u64), *sample, n, joint);
        }
        self.surplus -= lag;
        Some(frame.len() + lag as usize)
    }

    /// As it is, or a per cent faster while there is a little to drain.
    fn play(&mut self, ring: &Ring, there: usize, frame: &mut [i16]) -> usize {
        let wanted = frame.len();
        let faster = (self.surplus as usize).min(wanted / 80).min(there - wanted);
        match faster {
            0 => ring.copy(self.position, frame),
            _ => self.stretch(ring, wanted + faster, frame),
        }
        self.surplus -= faster as u32;
        wanted + faster
    }

    /// Plays `take` samples as long as the frame is, by linear interpolation.
    fn stretch(&self, ring: &Ring, take: usize, frame: &mut [i16]) {
        let len = frame.len();
        for (i, sample) in frame.iter_mut().enumerate() {
            let scaled = i * take;
            let (whole, part) = (scaled / len, (scaled % len) as i32);
            let here = i32::from(ring.at(self.position + whole as u64));
            let next = i32::from(ring.at(self.position + (whole + 1).min(take - 1) as u64));
            *sample = (here + (next - here) * part / len as i32) as i16;
        }
    }

    /// Nothing is there.
    fn conceal(&mut self, ring: &Ring, frame: &mut [i16]) -> bool {
        if self.starved == 0 {
            self.stopped = self.position;
            self.period = ring.period(self.position);
        }
        let begun = self.starved;
        let sounds = begun < ring.ms(FADE) && self.period > 0;
        let joint = ring.ms(JOINT) as i32;
        for (n, sample) in (0..).zip(frame.iter_mut()) {
            *sample = if sounds {
                ring.continued(self.stopped, self.period, begun + n as u32)
            } else if begun == 0 && n < joint {
                // Too little is known of the voice to go on with it.
                (i32::from(self.last) * (joint - n - 1) / joint) as i16
            } else {
                0
            };
        }
        let sounds = sounds || begun == 0 && self.last != 0;
        self.starved = begun.saturating_add(frame.len() as u32);
        self.note(ring, 0);
        sounds
    }

    /// After something was concealed, what comes begins in a joint.
    fn join(&self, ring: &Ring, starved: u32, frame: &mut [i16]) {
        if starved == 0 {
            return;
        }
        let joint = (ring.ms(JOINT) as usize).min(frame.len());
        for (n, sample) in frame.iter_mut().take(joint).enumerate() {
            let before = if self.period > 0 && starved < u32::MAX - ring.ms(JOINT) {
                ring.continued(self.stopped, self.period, starved + n as u32)
            } else {
                0
            };
            *sample = blend(before, *sample, n, joint);
        }
    }

    /// Once in half a second it is clear how much of the delay is too much: what was there at least, but for what may be needed again.
    fn note(&mut self, ring: &Ring, left: u32) {
        self.low = self.low.min(left);
        self.reads += 1;
        let is_uneven = self.buffered && ring.target() > ring.ms(UNEVEN);
        if self.reads < if is_uneven { LONG_WINDOW } else { WINDOW } {
            return;
        }
        let reserve = if self.buffered {
            ring.target().saturating_sub(ring.arrivals.recent())
        } else {
            0
        };
        let surplus = self.low.saturating_sub(reserve);
        self.surplus = if surplus > ring.ms(TOLERATED) { surplus } else { 0 };
        self.low = u32::MAX;
        self.reads = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: u32 = 8000;
    const MS: Duration = Duration::from_millis(1);

    #[expect(clippy::disallowed_methods, reason = "an arbitrary origin of the test's clock")]
    fn start() -> Instant {
        Instant::now()
    }

    fn ring() -> Ring {
        let mut ring = Ring::default();
        ring.open(RATE);
        ring
    }

    /// A voice of about 117 Hz with overtones and a little vibrato: its period is no whole number of samples, and never quite the same.
    fn voice(n: u64) -> i16 {
        let at = n as f64 / f64::from(RATE) * std::f64::consts::TAU;
        let phase = 117.3 * at + 0.4 * (5.0 * at).sin();
        (4000.0 * phase.sin() + 2000.0 * (2.0 * phase).sin() + 1000.0 * (5.0 * phase).cos()) as i16
    }

    /// What a network does to a speaker's packets of 20 ms, and how a listener who takes a frame every 20 ms hears them.
    struct Line {
        ring: Ring,
        reader: Reader,
        start: Instant,
        /// Sent and not arrived: when it will be, its number.
        on_the_way: Vec<(Duration, u64)>,
        packet: u64,
        heard: Vec<i16>,
        starved: usize,
        frames: usize,
        behind: u32,
    }

    impl Line {
        fn new(buffered: bool) -> Self {
            let ring = ring();
            let reader = if buffered { Reader::buffered(&ring) } else { Reader::direct(&ring) };
            Self {
                ring,
                reader,
                start: start(),
                on_the_way: Vec::new(),
                packet: 0,
                heard: Vec::new(),
                starved: 0,
                frames: 0,
                behind: 0,
            }
        }

        /// Sends the next packet at a time, to arrive so much later; `None`: never.
        fn send(&mut self, at: Duration, late: Option<Duration>) {
            if let Some(late) = late {
                self.on_the_way.push((at + late, self.packet));
            }
            self.packet += 1;
        }

        /// The listener takes a frame.
        fn listen(&mut self, at: Duration) {
            self.on_the_way.sort();
            while let Some((arrival, packet)) = self.on_the_way.first().copied().filter(|(arrival, _)| *arrival <= at) {
                self.on_the_way.remove(0);
                let samples: Vec<i16> = (packet * 160..packet * 160 + 160).map(voice).collect();
                if self.reader.behind(&self.ring) == 0 {
                    self.ring.rewind();
                }
                self.ring.write(1, packet as u32 * 160, &samples, self.start + arrival);
            }
            let mut frame = [0; 160];
            let there = self.reader.behind(&self.ring);
            let sounds = self.reader.read(&self.ring, &mut frame);
            self.frames += 1;
            self.starved += usize::from(there == 0 || !sounds);
            self.behind = self.reader.behind(&self.ring);
            self.heard.extend(frame);
        }

        fn second(&mut self, second: u64, mut late: impl FnMut(u64) -> Option<Duration>) {
            for frame in second * 50..second * 50 + 50 {
                let at = 20 * MS * frame as u32;
                self.send(at, late(frame));
                self.listen(at + 10 * MS);
            }
        }

        fn forget(&mut self) {
            (self.starved, self.frames) = (0, 0);
            self.heard.clear();
        }
    }

    /// The sharpest bend between three samples: a click is one that speech has not.
    fn sharpest(samples: &[i16]) -> i32 {
        let bend = |three: &[i16]| i32::from(three[0]) - 2 * i32::from(three[1]) + i32::from(three[2]);
        samples.windows(3).map(|three| bend(three).abs()).max().unwrap_or(0)
    }

    fn sharpest_of_voice() -> i32 {
        sharpest(&(0..640).map(voice).collect::<Vec<_>>())
    }

    /// Chance that is the same every time.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % sides
        }
    }

    #[test]
    fn on_a_steady_network_what_arrives_is_in_the_next_frame_as_it_was() {
        for buffered in [false, true] {
            let mut line = Line::new(buffered);
            (0..20).for_each(|second| line.second(second, |_| Some(5 * MS)));
            assert_eq!((line.starved, line.behind), (0, 0));
            let said: Vec<i16> = (0..line.heard.len() as u64).map(voice).collect();
            assert_eq!(line.heard[32..], said[32..], "all but the joint at the beginning");
        }
    }

    #[test]
    fn after_a_hiccup_of_300_ms_the_delay_returns_within_three_seconds_without_a_click() {
        for buffered in [false, true] {
            let mut line = Line::new(buffered);
            line.second(0, |_| Some(MS));
            line.second(1, |frame| Some(MS + 20 * MS * 65_u32.saturating_sub(frame as u32).min(15)));
            let mut seconds = 0;
            while line.behind > 0 {
                line.second(2 + seconds, |_| Some(MS));
                seconds += 1;
                assert!(seconds <= 3, "{} samples behind", line.behind);
            }
            assert!(sharpest(&line.heard) <= sharpest_of_voice() * 3 / 2, "{}", sharpest(&line.heard));
        }
    }

    #[test]
    fn a_hiccup_followed_by_silence_is_drained_at_once() {
        let (mut ring, start) = (ring(), start());
        let mut reader = Reader::buffered(&ring);
        let mut frame = [0; 160];
        for n in 0..15 {
            ring.write(1, n * 160, &[5000; 160], start);
        }
        let mut rounds = 0;
        while reader.behind(&ring) > 0 {
            ring.write(1, (15 + rounds) * 160, &[0; 160], start + 20 * MS * rounds);
            reader.read(&ring, &mut frame);
            rounds += 1;
            assert!(rounds < 40);
        }
    }

    #[test]
    fn jitter_that_comes_again_and_again_is_waited_for_and_no_longer_than_needed() {
        let mut dice = Dice(7);
        let mut line = Line::new(true);
        let mut late = |_| Some(MS * dice.roll(120) as u32);
        (0..5).for_each(|second| line.second(second, &mut late));
        line.forget();
        (5..25).for_each(|second| line.second(second, &mut late));
        assert!(
            line.starved * 100 < line.frames,
            "{} of {} frames starved",
            line.starved,
            line.frames
        );
        assert!(
            line.behind <= line.ring.target() + 320,
            "{} behind, target {}",
            line.behind,
            line.ring.target()
        );
        (25..35).for_each(|second| line.second(second, |_| Some(MS)));
        assert!(line.behind <= 8, "the network is steady again: {}", line.behind);
    }

    #[test]
    fn nobody_hears_as_concealment_what_was_said_before_he_began() {
        for (next, lost) in [(1, 160), (2, 0), (1, 480)] {
            let (mut ring, now) = (ring(), start());
            for n in 0..20 {
                let secret: Vec<i16> = (0..160).map(|n| if n % 40 < 20 { 9000 } else { -9000 }).collect();
                ring.write(1, n * 160, &secret, now);
            }
            ring.forget();
            let mut reader = Reader::buffered(&ring);
            let mut frame = [0; 480];
            reader.read(&ring, &mut frame);
            assert_eq!(frame, [0; 480]);
            ring.write(next, 20 * 160 + lost, &[100; 80], now);
            ring.write(next, 20 * 160 + lost + 240, &[100; 80], now);
            for _ in 0..4 {
                reader.read(&ring, &mut frame);
                assert!(frame.iter().all(|sample| (0..=100).contains(sample)), "{frame:?}");
            }
        }
    }

    #[test]
    fn a_straggler_is_dropped_and_a_restart_that_goes_on_is_heard() {
        let mut line = Line::new(true);
        let mut sent = 0;
        let mut heard = Vec::new();
        for n in 0..300_u64 {
            let samples = |from: u64| (from..from + 160).map(voice).collect::<Vec<_>>();
            let at = line.start + 20 * MS * n as u32;
            line.ring.write(1, sent as u32, &samples(sent), at);
            sent += 160;
            if n % 50 == 49 {
                let old = sent - 2400;
                assert!(!line.ring.write(1, old as u32, &samples(old), at));
            }
            let mut frame = [0; 160];
            line.reader.read(&line.ring, &mut frame);
            heard.extend(frame);
        }
        assert_eq!(line.reader.behind(&line.ring), 0);
        assert!(sharpest(&heard) <= sharpest_of_voice() * 3 / 2);
        // It begins again a second before.
        let from = sent as u32 - 8000;
        assert!(!line.ring.write(1, from, &[100; 160], line.start + 6 * 1000 * MS));
        assert!(line.ring.write(1, from + 160, &[100; 160], line.start + 6 * 1000 * MS));
        assert!(line.ring.write(1, from + 320, &[100; 160], line.start + 6 * 1000 * MS));
    }

    #[test]
    fn after_a_pause_what_the_network_needs_is_not_forgotten() {
        let mut dice = Dice(21);
        let mut line = Line::new(true);
        let mut last = Duration::ZERO;
        let mut late = |frame: u64| {
            let sent = 20 * MS * frame as u32;
            last = last.max(sent + MS * dice.roll(100) as u32);
            Some(last - sent)
        };
        (0..4).for_each(|second| line.second(second, &mut late));
        line.heard.clear();
        // A second of speech, a second of nothing.
        for second in 4..24 {
            if second % 2 == 0 {
                line.second(second, &mut late);
            } else {
                line.packet += 50;
                (0..50).for_each(|frame| line.listen(Duration::from_secs(second) + 20 * MS * frame + 10 * MS));
            }
        }
        // Ten talkspurts: where one is interrupted, there is silence between its sounds.
        let frames: Vec<bool> = line
            .heard
            .chunks(160)
            .map(|frame| frame.iter().any(|sample| sample.abs() > 500))
            .collect();
        let begins = frames.windows(2).filter(|two| !two[0] && two[1]).count();
        assert!(begins <= 12, "{begins} beginnings of ten talkspurts");
    }

    #[test]
    fn a_clock_that_stands_still_during_a_pause_is_no_late_network() {
        let mut line = Line::new(true);
        line.second(0, |_| Some(MS));
        for second in 1..6 {
            // A second's pause in which the sender's timestamps do not go on.
            let at = |frame: u32| Duration::from_secs(2 * second) + 20 * MS * frame;
            (0..50).for_each(|frame| line.listen(at(frame) - 990 * MS));
            line.forget();
            for frame in 0..50 {
                line.send(at(frame), Some(MS));
                line.listen(at(frame) + 10 * MS);
            }
            assert_eq!((line.starved, line.behind), (0, 0), "after {second} pauses");
        }
    }

    #[test]
    fn packets_out_of_order_are_put_in_order_with_little_noise() {
        let mut dice = Dice(13);
        let mut line = Line::new(true);
        (0..20).for_each(|second| line.second(second, |_| Some(MS * dice.roll(60) as u32)));
        assert!(
            sharpest(&line.heard[16_000..]) <= sharpest_of_voice() * 3,
            "{}",
            sharpest(&line.heard[16_000..])
        );
    }

    #[test]
    fn jitter_that_keeps_the_order_is_no_click() {
        let mut dice = Dice(9);
        let mut line = Line::new(true);
        let mut last = Duration::ZERO;
        for second in 0..20 {
            line.second(second, |frame| {
                let sent = 20 * MS * frame as u32;
                last = last.max(sent + MS * dice.roll(90) as u32);
                Some(last - sent)
            });
        }
        assert!(sharpest(&line.heard) <= sharpest_of_voice() * 5 / 2, "{}", sharpest(&line.heard));
    }

    #[test]
    fn with_15_per_cent_lost_nothing_grows_and_the_voice_goes_on() {
        for buffered in [false, true] {
            let mut dice = Dice(11);
            let mut line = Line::new(buffered);
            for second in 0..60 {
                line.second(second, |_| (dice.roll(100) >= 15).then_some(MS));
            }
            assert!(line.behind <= 160, "{}", line.behind);
            let power = |samples: &[i16]| samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / samples.len() as f64;
            let said: Vec<i16> = (0..48_000).map(voice).collect();
            let lost = 10.0 * (power(&line.heard) / power(&said)).log10();
            assert!(lost > -1.0, "{lost} dB");
            assert!(sharpest(&line.heard) <= sharpest_of_voice() * 5 / 2, "{}", sharpest(&line.heard));
        }
    }

    #[test]
    fn an_hour_with_clocks_200_ppm_apart_has_no_gap_and_no_growing_delay() {
        for ppm in [200_i64, -200] {
            let mut line = Line::new(true);
            let mut worst = 0;
            for frame in 0..180_000_u64 {
                let heard_at = Duration::from_micros(frame * 20_000 + 10_000);
                // Packets come a little more, or less, often than frames are taken.
                loop {
                    let sent_at = (line.packet as i64 * (20_000_000 - 20 * ppm) / 1000) as u64;
                    if Duration::from_micros(sent_at) > heard_at {
                        break;
                    }
                    line.send(Duration::from_micros(sent_at), Some(Duration::ZERO));
                }
                line.listen(heard_at);
                worst = worst.max(line.behind);
                if frame % 500 == 0 {
                    assert!(
                        sharpest(&line.heard) <= sharpest_of_voice() * 5 / 2,
                        "a gap or a click: {}",
                        sharpest(&line.heard)
                    );
                    line.heard.clear();
                }
            }
            assert!(worst <= 240, "{ppm} ppm: {worst} samples");
            assert!(line.starved <= 40, "{ppm} ppm: {} frames", line.starved);
        }
    }

    #[test]
    fn packets_of_10_30_and_60_ms_are_heard_in_frames_of_20() {
        for len in [80_u64, 240, 480] {
            let (mut ring, start) = (ring(), start());
            let mut reader = Reader::buffered(&ring);
            let mut heard = Vec::new();
            let mut said = 0;
            for frame in 0..500_u64 {
                let at = start + 20 * MS * frame as u32;
                while said + len <= (frame + 1) * 160 {
                    let samples: Vec<i16> = (said..said + len).map(voice).collect();
                    ring.write(1, said as u32, &samples, at);
                    said += len;
                }
                let mut frame = [0; 160];
                reader.read(&ring, &mut frame);
                heard.extend(frame);
            }
            assert!(reader.behind(&ring) as u64 <= len);
            assert!(sharpest(&heard[8000..]) <= sharpest_of_voice() * 3 / 2, "{len}");
        }
    }

    #[test]
    fn a_restart_of_the_sender_is_a_joint_and_no_click() {
        let (mut ring, start) = (ring(), start());
        let mut reader = Reader::buffered(&ring);
        let mut heard = Vec::new();
        for (round, ssrc) in [1, 2, 2, 3, 1].into_iter().enumerate() {
            for n in 0..20_u64 {
                // Each time it begins somewhere else in its voice.
                let from = round as u64 * 1013 + n * 160;
                let samples: Vec<i16> = (from..from + 160).map(voice).collect();
                let timestamp = (round as u32).wrapping_mul(0x5000_0000).wrapping_add(n as u32 * 160);
                ring.write(ssrc, timestamp, &samples, start + 20 * MS * (round as u32 * 20 + n as u32));
                let mut frame = [0; 160];
                assert!(reader.read(&ring, &mut frame));
                heard.extend(frame);
            }
        }
        assert_eq!(reader.behind(&ring), 0);
        assert!(sharpest(&heard) <= sharpest_of_voice() * 3 / 2, "{}", sharpest(&heard));
    }

    #[test]
    fn a_lost_packet_is_concealed_once_and_adds_no_delay() {
        let mut line = Line::new(false);
        line.second(0, |frame| (frame != 30).then_some(MS));
        assert_eq!((line.starved, line.behind), (1, 0));
        let frame = &line.heard[30 * 160..31 * 160];
        assert!(frame.iter().any(|sample| sample.abs() > 2000), "its sound goes on");
        let said: Vec<i16> = (0..8000).map(voice).collect();
        assert_eq!(line.heard[31 * 160 + 32..], said[31 * 160 + 32..]);
    }

    #[test]
    fn a_long_packet_in_pieces_is_no_late_network() {
        let (mut ring, start) = (ring(), start());
        for packet in 0..200 {
            let now = start + 60 * MS * packet;
            ring.write(1, packet * 480, &[1000; 240], now);
            ring.write_on(1, packet * 480 + 240, &[1000; 240]);
        }
        assert_eq!(ring.target(), 0);
        assert_eq!(ring.end, MAX_PAST as u64 + 200 * 480);
    }

    #[test]
    fn a_straggler_in_pieces_is_a_straggler() {
        let (mut ring, start) = (ring(), start());
        for packet in 0..200 {
            ring.write(1, packet * 160, &[1000; 160], start + 20 * MS * packet);
        }
        let (end, late) = (ring.end, 199 * 160 - MAX_LATE * 8 - 480);
        assert!(!ring.write(1, late, &[9000; 240], start + 20 * MS * 200));
        assert!(!ring.write_on(1, late + 240, &[9000; 240]));
        assert_eq!(ring.end, end);
        assert!(
            ring.write(1, late + 480, &[9000; 240], start + 20 * MS * 200),
            "but the next packet makes it a restart"
        );
    }

    #[test]
    fn who_stops_fades_within_60_ms_and_is_silent() {
        let mut line = Line::new(true);
        line.second(0, |frame| (frame < 25).then_some(MS));
        assert!(line.heard[28 * 160..].iter().all(|sample| *sample == 0));
        assert!(sharpest(&line.heard) <= sharpest_of_voice() * 3 / 2);
    }

    #[test]
    fn a_late_packet_fills_its_place_while_it_is_still_to_be_heard() {
        let (mut ring, now) = (ring(), start());
        let mut reader = Reader::direct(&ring);
        let mut frame = [0; 480];
        ring.write(1, 0, &[1000; 160], now);
        ring.write(1, 320, &[3000; 160], now);
        assert!(!ring.write(1, 160, &[2000; 160], now));
        reader.read(&ring, &mut frame);
        assert_eq!((frame[100], frame[200], frame[400]), (1000, 2000, 3000));
    }

    #[test]
    fn a_codec_that_conceals_by_itself_is_heard_in_the_hole() {
        let (mut ring, now) = (ring(), start());
        let mut reader = Reader::direct(&ring);
        ring.write(1, 0, &[1000; 160], now);
        assert_eq!(ring.missing(1, 320), 160);
        assert_eq!(ring.missing(2, 320), 0);
        assert_eq!(ring.missing(1, 320 + 1601), 0, "that much is a pause");
        ring.fill(&[1500; 160]);
        assert_eq!(ring.missing(1, 320), 0);
        ring.write(1, 320, &[2000; 160], now);
        let mut frame = [0; 480];
        reader.read(&ring, &mut frame);
        assert_eq!((frame[100], frame[200], frame[400]), (1000, 1500, 2000));
    }

    #[test]
    fn a_closed_ring_takes_no_memory_and_says_nothing() {
        let mut ring = Ring::default();
        assert!(!ring.write(1, 0, &[1; 160], start()));
        let mut reader = Reader::direct(&ring);
        let mut frame = [1; 160];
        assert!(!reader.read(&ring, &mut frame));
        assert_eq!(frame, [0; 160]);
        ring.open(16_000);
        ring.close();
        assert!(!ring.is_open());
        ring.rewind();
        assert!(!reader.read(&ring, &mut frame));
    }

    proptest! {
        #[test]
        fn nothing_panics_and_nothing_is_louder_than_what_was_written(
            wide: bool,
            buffered: bool,
            packets in proptest::collection::vec((0u32..3, any::<u32>(), 0usize..700, any::<bool>(), 0u32..300, 1usize..481), 1..150)
        ) {
            let mut ring = Ring::default();
            ring.open(if wide { 16_000 } else { 8000 });
            let mut reader = if buffered { Reader::buffered(&ring) } else { Reader::direct(&ring) };
            let mut timestamp = 0u32;
            let mut now = start();
            for (ssrc, jump, len, read, pass, wanted) in packets {
                now += MS * pass;
                timestamp = if jump % 5 == 0 { jump } else { timestamp.wrapping_add(jump % 700).wrapping_sub(160) };
                if jump % 3 == 0 {
                    let missing = ring.missing(ssrc, timestamp);
                    ring.fill(&vec![4242; missing]);
                }
                ring.write(ssrc, timestamp, &vec![4242; len], now);
                if reader.behind(&ring) == 0 {
                    ring.rewind();
                }
                if read {
                    let mut frame = vec![0; wanted];
                    reader.read(&ring, &mut frame);
                    prop_assert!(frame.iter().all(|sample| (0..=4242).contains(sample)));
                }
                if jump % 50 == 0 {
                    ring.open(if wide { 16_000 } else { 8000 });
                }
            }
        }
    }
}
