//! What a speaker said and nobody has mixed yet: a ring of samples per speaker, a reader per
//! listener.
//!
//! ```text
//!            reader of the agent ─┐        ┌─ reader of another supervisor
//!   …old… ▐██████████████████████▼████████▼███▌ ◀── write: the next packet
//!                                 ◀─ delay ──▶
//! ```
//!
//! A reader starts at the end: what arrives is in the next frame taken, and nothing said before is
//! ever heard. When the network holds packets back, the reader finds nothing, conceals it, and is
//! behind by so much when they come. How much of that delay has to stay is what the ring has seen
//! of the network in the last seconds (the target); the rest is drained: silence is skipped, a
//! period of the voice is left out, or, for the little that two clocks differ, a frame is played
//! one per cent faster. Nothing said is thrown away, short of a whole ring.
//!
//! What is missing is concealed: the last period of the voice again, fading within 60 ms (after the
//! idea of ITU-T G.711 Appendix I), and a joint of 4 ms to whatever comes next. A codec that
//! conceals by itself hands its own sound in ([`JitterBuffer::fill`]).
//!
//! Two parties that talk to each other are read *direct*: no target, all delay is drained.
//! Supervisors, both ways, are read *buffered*.

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
/// A packet later than [`MAX_LATE`] but no later than this is dropped, in ms, unless another one
/// follows it.
const MAX_STRAY: u32 = 2000;
/// Reads over which the smallest delay is taken: half a second of 20 ms frames, three where the
/// network is uneven.
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
/// A speaker that sends nothing for so long has paused.
const PAUSE: Duration = Duration::from_millis(250);

/// How late packets come, against the earliest of the last seconds; in samples. Small: it is
/// touched at every packet.
#[derive(Clone, Copy, Debug)]
struct Arrivals {
    origin: Option<Instant>,
    /// When the last packet came.
    last: Option<Instant>,
    /// Of each second the earliest packet's transit ([`i32::MAX`]: none) and the latest packet's
    /// lateness; the running second first.
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
        let arrival =
            second.wrapping_mul(1000 * rate).wrapping_add(elapsed.subsec_micros() * rate / 1000);
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

/// What one speaker said, in the order of its timestamps.
#[derive(Clone, Debug)]
pub struct JitterBuffer {
    /// Empty while it is closed.
    samples: Box<[i16]>,
    /// Samples a millisecond.
    rate: u32,
    /// The position at the front of `samples`.
    base: u64,
    end: u64,
    /// Concealment remembers nothing before this position: see [`JitterBuffer::forget`].
    memory: u64,
    source: Option<(u32, u32)>,
    /// A packet that came far too late, if it should be a restart: what would follow it.
    straggler: Option<(u32, u32)>,
    hole: (u64, u64),
    /// How the packet after the hole began, before it was joined.
    after_hole: Box<[i16]>,
    arrivals: Arrivals,
}

impl Default for JitterBuffer {
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

impl JitterBuffer {
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

    /// A listener begins to hear this speaker: nothing that was said before may come back as
    /// concealment.
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

    /// The delay that this network needs, in samples: what packets have been late, more than once
    /// in the last five seconds.
    pub fn target(&self) -> u32 {
        u32::from(self.arrivals.target).min(self.ms(MAX_TARGET))
    }

    /// Samples missing before a packet, as far as they can be concealed: lost, or late.
    pub fn missing(&self, ssrc: u32, timestamp: u32) -> usize {
        match self.ahead(ssrc, timestamp) {
            Some(hole) if self.is_open() && (1..=self.ms(MAX_HOLE) as i32).contains(&hole) => {
                hole as usize
            }
            Some(_) | None => 0,
        }
    }

    fn ahead(&self, ssrc: u32, timestamp: u32) -> Option<i32> {
        let (source, next) = self.source?;
        (source == ssrc).then(|| timestamp.wrapping_sub(next) as i32)
    }

    /// Takes what a codec has made for the samples that are [`JitterBuffer::missing`] before a
    /// packet.
    pub fn fill(&mut self, samples: &[i16]) {
        let from = self.end;
        self.append(samples);
        self.hole = (from, samples.len() as u64);
        if let Some((_, next)) = &mut self.source {
            *next = next.wrapping_add(samples.len() as u32);
        }
    }

    /// Takes the samples of a packet; `timestamp` counts samples too. Returns whether the end
    /// moved: not for a packet that came too late.
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
                    let joint =
                        (self.ms(JOINT) as usize).min((self.end - end.min(self.end)) as usize);
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
            // A speaker that begins is heard softly by those that begin to hear it: see
            // [`PlayoutReader`].
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

    /// A packet that does not follow what was before: the first milliseconds are a joint with how
    /// that would have gone on.
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

    /// The `n`th sample of how the sound before a position goes on: its last period again and
    /// again, fading. The end of a period goes over into what was before its beginning, and the
    /// first one into what was before it.
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
            let step =
                i32::from(self.at(from - 1)) - i32::from(self.at(from - u64::from(period) - 1));
            let low = sample.min(i32::from(self.at(from - 1)));
            let high = sample.max(i32::from(self.at(from - 1)));
            sample = (sample + step * (joint - n) as i32 / joint as i32).clamp(low, high);
        }
        let left = (fade - n).min(fade - self.ms(HOLD));
        (sample * left as i32 / (fade - self.ms(HOLD)) as i32) as i16
    }

    /// The period of the voice just before a position, in samples; 0 when nothing is known of it.
    /// Of every fourth sample or so, first roughly, then to the sample: some microseconds.
    fn period(&self, from: u64) -> u32 {
        let (shortest, longest) =
            ((self.rate * PERIODS.0 / 10) as usize, (self.rate * PERIODS.1 / 10) as usize);
        let mut past = [0; MAX_PAST];
        let Some(past) = past.get_mut(..2 * longest) else {
            return 0;
        };
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

    /// Begins again at the front, which the cache still has, once every reader has heard
    /// everything: in a steady call the ring is never touched beyond its first eighth of a second.
    pub fn rewind(&mut self) {
        let past = self.ms(PAST) as usize;
        let Some(from) =
            self.end.checked_sub(self.base).and_then(|len| (len as usize).checked_sub(past))
        else {
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
pub struct PlayoutReader {
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
    /// Samples for which what came after a silence was held back, so that the network's next
    /// lateness finds it there.
    held: u32,
    buffered: bool,
}

impl PlayoutReader {
    /// A reader that hears what comes from now on, as soon as it comes.
    pub fn direct(ring: &JitterBuffer) -> Self {
        Self {
            position: ring.end,
            stopped: ring.end,
            starved: u32::MAX,
            low: u32::MAX,
            last: ring.at(ring.end.wrapping_sub(1)),
            ..Self::default()
        }
    }

    /// A reader that hears what comes from now on, and learns to wait for what the network delays
    /// again and again.
    pub fn buffered(ring: &JitterBuffer) -> Self {
        Self { buffered: true, ..Self::direct(ring) }
    }

    /// What comes was heard already, by another way: it does not begin softly.
    pub fn going_on(mut self) -> Self {
        self.starved = 0;
        self
    }

    /// The same kind of reader, from now on.
    pub fn anew(self, ring: &JitterBuffer) -> Self {
        if self.buffered { Self::buffered(ring) } else { Self::direct(ring) }
    }

    /// Nothing is held back for jitter: what it is behind was said and is late.
    pub fn is_direct(&self) -> bool {
        !self.buffered
    }

    /// Samples written and not yet read.
    pub fn behind(&self, ring: &JitterBuffer) -> u32 {
        ring.end.saturating_sub(self.position).min(ring.samples.len() as u64) as u32
    }

    /// Whether the next so many samples are there and quiet.
    pub fn is_quiet(&self, ring: &JitterBuffer, len: usize) -> bool {
        self.behind(ring) as usize >= len && ring.is_quiet(self.position, len)
    }

    /// Leaves out the next so many samples.
    pub fn skip(&mut self, ring: &JitterBuffer, len: usize) {
        self.position += u64::from(self.behind(ring)).min(len as u64);
    }

    /// Drains all it is behind, without waiting to see whether it is needed.
    pub fn drain(&mut self, ring: &JitterBuffer) {
        self.surplus = self.behind(ring);
    }

    /// Fills a frame. Returns whether anything of the speaker is in it, what is concealed included;
    /// if not, it is silence.
    pub fn read(&mut self, ring: &JitterBuffer, frame: &mut [i16]) -> bool {
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

    /// Goes where something is: past what the ring no longer has, past a hole that was already
    /// concealed, past silence while there is delay to drain.
    fn catch_up(&mut self, ring: &JitterBuffer) {
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

    /// After a silence, whether what came waits until as much is there as the network has needed,
    /// but no longer than that.
    fn holds(&mut self, ring: &JitterBuffer, there: usize, wanted: usize) -> bool {
        let (target, fade) = (ring.target(), ring.ms(FADE));
        let is_after_silence = self.buffered && self.starved >= fade && self.starved < u32::MAX;
        if !is_after_silence
            || target <= ring.ms(UNEVEN)
            || there as u32 >= target
            || self.held >= target
        {
            return false;
        }
        self.held += wanted as u32;
        true
    }

    /// The frame begins where the last one ended, and is as it was written 4 ms later.
    fn settle(&self, ring: &JitterBuffer, moved: i32, frame: &mut [i16]) {
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

    /// Leaves out a period of the voice, when there is so much to drain: what is before it goes
    /// over into what is after it.
    fn shorten(&mut self, ring: &JitterBuffer, there: usize, frame: &mut [i16]) -> Option<usize> {
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
        let lag = (rough.saturating_sub(1).max(shortest)..=(rough + 1).min(longest))
            .min_by_key(distance)?;
        ring.copy(self.position + u64::from(lag), frame);
        for (n, sample) in frame.iter_mut().take(joint).enumerate() {
            *sample = blend(ring.at(self.position + n as u64), *sample, n, joint);
        }
        self.surplus -= lag;
        Some(frame.len() + lag as usize)
    }

    /// As it is, or a per cent faster while there is a little to drain.
    fn play(&mut self, ring: &JitterBuffer, there: usize, frame: &mut [i16]) -> usize {
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
    fn stretch(&self, ring: &JitterBuffer, take: usize, frame: &mut [i16]) {
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
    fn conceal(&mut self, ring: &JitterBuffer, frame: &mut [i16]) -> bool {
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
    fn join(&self, ring: &JitterBuffer, starved: u32, frame: &mut [i16]) {
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

    /// Once in half a second it is clear how much of the delay is too much: what was there at
    /// least, but for what may be needed again.
    fn note(&mut self, ring: &JitterBuffer, left: u32) {
        self.low = self.low.min(left);
        self.reads += 1;
        let is_uneven = self.buffered && ring.target() > ring.ms(UNEVEN);
        if self.reads < if is_uneven { LONG_WINDOW } else { WINDOW } {
            return;
        }
        let reserve =
            if self.buffered { ring.target().saturating_sub(ring.arrivals.recent()) } else { 0 };
        let surplus = self.low.saturating_sub(reserve);
        self.surplus = if surplus > ring.ms(TOLERATED) { surplus } else { 0 };
        self.low = u32::MAX;
        self.reads = 0;
    }
}

#[cfg(test)]
mod tests;
