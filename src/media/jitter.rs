//! What a speaker said and nobody has mixed yet: a ring of samples per speaker, a reader per listener.
//!
//! ```text
//!            reader of the agent ─┐        ┌─ reader of another supervisor
//!   …old… ▐██████████████████████▼████████▼███▌ ◀── write: the next packet
//!                                 ◀─ delay ──▶
//! ```
//!
//! A reader starts at the end: what arrives is in the next frame taken. When the network holds packets back and then delivers them
//! together, the reader is behind by so much; what it is behind *at least* during half a second serves no purpose, and is
//! drained by skipping silence and by playing up to an eighth faster. Nothing said is ever thrown away, short of a whole ring.

/// Samples a ring holds: a second at 8 kHz, half of one at 16 kHz.
pub const CAPACITY: usize = 8192;
/// A gap in timestamps up to this becomes silence that a late packet can still fill, in ms.
const MAX_HOLE: u32 = 60;
/// A packet so late is a restart of the source, in ms.
const MAX_LATE: u32 = 200;
/// Reads over which the smallest delay is taken: half a second of 20 ms frames.
const WINDOW: u16 = 25;
/// A standing delay below this is left alone, in ms.
const TOLERATED: u32 = 1;
/// From this on, in ms, frames are played an eighth faster instead of a sixteenth.
const MUCH: u32 = 100;
/// Blocks of silence are skipped whole, of so many ms, every sample below −54 dBFS.
const BLOCK: u32 = 10;
const QUIET: i16 = 64;

/// What one speaker said, in the order of his timestamps.
#[derive(Clone, Debug, Default)]
pub struct Ring {
    /// Empty while it is closed.
    samples: Box<[i16]>,
    /// Samples a millisecond.
    rate: u32,
    /// The position at the front of `samples`.
    base: u64,
    end: u64,
    source: Option<(u32, u32)>,
    hole: (u64, u64),
}

impl Ring {
    /// Begins to take what is said, at so many samples a second; the only place that takes memory.
    pub fn open(&mut self, rate: u32) {
        *self = Self {
            samples: vec![0; CAPACITY].into_boxed_slice(),
            rate: rate / 1000,
            // Readers know positions of before.
            base: self.end,
            end: self.end,
            source: None,
            hole: (0, 0),
        };
    }

    /// Takes nothing any more, and gives its memory back.
    pub fn close(&mut self) {
        self.samples = Box::default();
        self.base = self.end;
    }

    /// Whether it takes what is said.
    pub fn is_open(&self) -> bool {
        !self.samples.is_empty()
    }

    fn ms(&self, millis: u32) -> u32 {
        millis * self.rate
    }

    /// Takes the samples of a packet. Returns whether the end moved: not for a packet that came too late.
    pub fn write(&mut self, ssrc: u32, timestamp: u32, samples: &[i16]) -> bool {
        if !self.is_open() {
            return false;
        }
        let (max_late, max_hole) = (self.ms(MAX_LATE) as i32, self.ms(MAX_HOLE) as i32);
        let ahead = match self.source {
            Some((source, next)) if source == ssrc => Some(timestamp.wrapping_sub(next) as i32),
            Some(_) | None => None,
        };
        match ahead {
            Some(late) if (-max_late..0).contains(&late) => {
                let behind = late.unsigned_abs() as usize;
                let (old, new) = samples.split_at(behind.min(samples.len()));
                if let Some(at) = self.end.checked_sub(behind as u64) {
                    self.put(at, old);
                }
                if new.is_empty() {
                    return false;
                }
                self.append(new);
            }
            Some(hole) if (1..=max_hole).contains(&hole) => {
                let from = self.end;
                for _ in 0..hole {
                    self.append(&[0]);
                }
                self.hole = (from, hole as u64);
                self.append(samples);
            }
            Some(_) | None => self.append(samples),
        }
        self.source = Some((ssrc, timestamp.wrapping_add(samples.len() as u32)));
        true
    }

    fn append(&mut self, samples: &[i16]) {
        self.put(self.end, samples);
        self.end += samples.len() as u64;
    }

    /// Begins again at the front, which the cache still has, once every reader has heard everything. In a steady call that is at
    /// every packet, and the rest of the ring is never touched.
    pub fn rewind(&mut self) {
        self.base = self.end;
    }

    fn place(&self, position: u64) -> usize {
        position.saturating_sub(self.base) as usize % CAPACITY
    }

    fn put(&mut self, at: u64, samples: &[i16]) {
        if at < self.base || samples.len() > self.samples.len() {
            return;
        }
        let at = self.place(at);
        let first = samples.len().min(CAPACITY - at);
        self.samples[at..at + first].copy_from_slice(&samples[..first]);
        let rest = samples.len() - first;
        self.samples[..rest].copy_from_slice(&samples[first..]);
    }

    fn at(&self, position: u64) -> i16 {
        self.samples.get(self.place(position)).copied().unwrap_or(0)
    }

    fn copy(&self, from: u64, samples: &mut [i16]) {
        let at = self.place(from);
        let len = samples.len();
        if len > self.samples.len() {
            return samples.fill(0);
        }
        let first = len.min(CAPACITY - at);
        samples[..first].copy_from_slice(&self.samples[at..at + first]);
        samples[first..].copy_from_slice(&self.samples[..len - first]);
    }

    fn is_quiet(&self, from: u64, len: usize) -> bool {
        (from..from + len as u64).all(|position| self.at(position).abs() <= QUIET)
    }
}

/// How far one listener has heard a speaker.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reader {
    position: u64,
    /// Samples of silence played because nothing was there, since something was.
    starved: u64,
    low: u32,
    reads: u16,
    surplus: u32,
}

impl Reader {
    /// A reader that hears what comes from now on.
    pub fn at_end(ring: &Ring) -> Self {
        Self {
            position: ring.end,
            starved: u64::MAX,
            low: u32::MAX,
            reads: 0,
            surplus: 0,
        }
    }

    /// Samples written and not yet read.
    pub fn behind(&self, ring: &Ring) -> u32 {
        ring.end.saturating_sub(self.position).min(CAPACITY as u64) as u32
    }

    /// Drains all it is behind, without waiting to see whether it is needed.
    pub fn drain(&mut self, ring: &Ring) {
        self.surplus = self.behind(ring);
    }

    /// Fills a frame. Returns whether anything of the speaker is in it; if not, it is silence.
    pub fn read(&mut self, ring: &Ring, frame: &mut [i16]) -> bool {
        self.catch_up(ring);
        let wanted = frame.len();
        let there = self.behind(ring) as usize;
        if there == 0 {
            frame.fill(0);
            self.starved = self.starved.saturating_add(wanted as u64);
            self.note(ring, 0);
            return false;
        }
        let take = self.share(ring, there, wanted);
        if take == wanted {
            ring.copy(self.position, frame);
        } else if take > wanted || take + wanted / 16 >= wanted {
            self.stretch(ring, take, frame);
        } else {
            ring.copy(self.position, &mut frame[..take]);
            frame[take..].fill(0);
        }
        self.position += take as u64;
        self.surplus = self.surplus.saturating_sub(take.saturating_sub(wanted) as u32);
        self.starved = wanted.saturating_sub(take) as u64;
        self.note(ring, self.behind(ring));
        true
    }

    /// Goes where something is: past what the ring no longer has, past a hole that was already heard as silence, past
    /// silence while there is delay to drain.
    fn catch_up(&mut self, ring: &Ring) {
        if ring.end.saturating_sub(self.position) > CAPACITY as u64 {
            self.position = ring.end - CAPACITY as u64;
        }
        let (from, len) = ring.hole;
        if self.position == from && len > 0 && self.starved > 0 && from + len <= ring.end {
            self.position += len.min(self.starved);
        }
        for _ in 0..4 {
            let skip = self.surplus.min(ring.ms(BLOCK)) as usize;
            if skip == 0 || !ring.is_quiet(self.position, skip) {
                return;
            }
            self.position += skip as u64;
            self.surplus -= skip as u32;
        }
    }

    /// How many samples go into the frame.
    fn share(&self, ring: &Ring, there: usize, wanted: usize) -> usize {
        let faster = match self.surplus {
            0 => 0,
            surplus if surplus > ring.ms(MUCH) => wanted / 8,
            _ => wanted / 16,
        };
        there.min(wanted + faster.min(self.surplus as usize))
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

    fn note(&mut self, ring: &Ring, left: u32) {
        self.low = self.low.min(left);
        self.reads += 1;
        if self.reads >= WINDOW {
            self.surplus = if self.low > ring.ms(TOLERATED) { self.low } else { 0 };
            self.low = u32::MAX;
            self.reads = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ring() -> Ring {
        let mut ring = Ring::default();
        ring.open(8000);
        ring
    }

    /// A speaker who counts: sample `n` is `n % 20000 + 1000`, never quiet.
    struct Counter {
        ring: Ring,
        said: u32,
    }

    impl Counter {
        fn new() -> Self {
            Self { ring: ring(), said: 0 }
        }

        fn packet(&mut self, len: u32) {
            let samples: Vec<i16> = (self.said..self.said + len).map(value).collect();
            self.ring.write(1, self.said, &samples);
            self.said += len;
        }
    }

    fn value(n: u32) -> i16 {
        (n % 20_000) as i16 + 1000
    }

    #[test]
    fn what_arrives_is_in_the_next_frame() {
        let mut speaker = Counter::new();
        let mut reader = Reader::at_end(&speaker.ring);
        let mut frame = [0; 160];
        assert!(!reader.read(&speaker.ring, &mut frame));
        for round in 0..1000 {
            speaker.packet(160);
            assert!(reader.read(&speaker.ring, &mut frame));
            assert_eq!(frame[0], value(160 * round));
            assert_eq!(frame[159], value(160 * round + 159));
        }
    }

    #[test]
    fn after_a_hiccup_the_delay_returns_and_nothing_is_thrown_away() {
        let mut speaker = Counter::new();
        let mut reader = Reader::at_end(&speaker.ring);
        let mut frame = [0; 160];
        for _ in 0..50 {
            speaker.packet(160);
            reader.read(&speaker.ring, &mut frame);
        }
        for _ in 0..15 {
            assert!(!reader.read(&speaker.ring, &mut frame));
        }
        for _ in 0..15 {
            speaker.packet(160);
        }
        let mut last = *frame.last().unwrap();
        let mut biggest_step = 0;
        let mut rounds = 0;
        while reader.behind(&speaker.ring) > 0 {
            speaker.packet(160);
            reader.read(&speaker.ring, &mut frame);
            if last != 0 {
                for sample in frame {
                    if sample > last {
                        biggest_step = biggest_step.max(sample - last);
                    }
                    last = sample;
                }
            }
            last = frame[159];
            rounds += 1;
            assert!(rounds < 300, "still {} samples behind after 6 s", reader.behind(&speaker.ring));
        }
        assert!(biggest_step <= 2, "samples were skipped: {biggest_step}");
        speaker.packet(160);
        reader.read(&speaker.ring, &mut frame);
        assert_eq!(frame[159], value(speaker.said - 1));
    }

    #[test]
    fn a_hiccup_followed_by_silence_is_drained_at_once() {
        let mut ring = ring();
        let mut reader = Reader::at_end(&ring);
        let mut frame = [0; 160];
        let mut timestamp = 0;
        let mut packet = |ring: &mut Ring, level: i16| {
            ring.write(1, timestamp, &[level; 160]);
            timestamp += 160;
        };
        for _ in 0..15 {
            packet(&mut ring, 5000);
        }
        let mut rounds = 0;
        while reader.behind(&ring) > 0 {
            packet(&mut ring, 0);
            reader.read(&ring, &mut frame);
            rounds += 1;
            assert!(rounds < 40);
        }
    }

    #[test]
    fn drift_is_drained_either_way() {
        for packets in [1001, 999] {
            let mut speaker = Counter::new();
            let mut reader = Reader::at_end(&speaker.ring);
            let mut frame = [0; 160];
            let mut due = 0;
            let mut starved = 0;
            for read in 0..20_000_u32 {
                while due <= read * packets / 1000 {
                    speaker.packet(160);
                    due += 1;
                }
                if !reader.read(&speaker.ring, &mut frame) {
                    starved += 1;
                }
                assert!(reader.behind(&speaker.ring) < 480);
            }
            assert!(starved <= 21);
        }
    }

    #[test]
    fn jitter_that_needs_a_delay_keeps_it() {
        let mut speaker = Counter::new();
        let mut reader = Reader::at_end(&speaker.ring);
        let mut frame = [0; 160];
        let mut starved = 0;
        for round in 0..500 {
            if round % 2 == 0 {
                speaker.packet(160);
                speaker.packet(160);
            }
            if !reader.read(&speaker.ring, &mut frame) {
                starved += 1;
            }
        }
        assert_eq!(starved, 0);
    }

    #[test]
    fn a_lost_packet_is_silence_once_and_adds_no_delay() {
        let mut ring = ring();
        let mut reader = Reader::at_end(&ring);
        let mut frame = [0; 160];
        ring.write(1, 0, &[1000; 160]);
        assert!(reader.read(&ring, &mut frame));
        assert!(!reader.read(&ring, &mut frame));
        ring.write(1, 320, &[2000; 160]);
        assert!(reader.read(&ring, &mut frame));
        assert_eq!(frame, [2000; 160]);
        assert_eq!(reader.behind(&ring), 0);
    }

    #[test]
    fn a_late_packet_fills_its_place_while_it_is_still_to_be_heard() {
        let mut ring = ring();
        let mut reader = Reader::at_end(&ring);
        let mut frame = [0; 480];
        ring.write(1, 0, &[1000; 160]);
        ring.write(1, 320, &[3000; 160]);
        assert!(!ring.write(1, 160, &[2000; 160]));
        reader.position = 0;
        assert!(reader.read(&ring, &mut frame));
        assert_eq!((frame[0], frame[160], frame[320]), (1000, 2000, 3000));
    }

    proptest! {
        #[test]
        fn nothing_panics_and_nothing_is_heard_that_was_not_written(
            packets in proptest::collection::vec((0u32..3, any::<u32>(), 0usize..1488, any::<bool>()), 1..200)
        ) {
            let mut ring = ring();
            let mut reader = Reader::at_end(&ring);
            let mut frame = [0; 160];
            let mut timestamp = 0u32;
            for (ssrc, jump, len, read) in packets {
                timestamp = if jump % 5 == 0 { jump } else { timestamp.wrapping_add(jump % 500).wrapping_sub(160) };
                ring.write(ssrc, timestamp, &vec![4242; len]);
                if reader.behind(&ring) == 0 {
                    ring.rewind();
                }
                if read {
                    reader.read(&ring, &mut frame);
                    prop_assert!(frame.iter().all(|sample| (0..=4242).contains(sample)));
                }
                prop_assert!(reader.behind(&ring) as usize <= CAPACITY);
            }
        }
    }
}
