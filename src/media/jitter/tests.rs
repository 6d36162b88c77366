use super::*;
use proptest::prelude::*;

const RATE: u32 = 8000;
const MS: Duration = Duration::from_millis(1);

#[expect(clippy::disallowed_methods, reason = "an arbitrary origin of the test's clock")]
fn start() -> Instant {
    Instant::now()
}

fn ring() -> JitterBuffer {
    let mut ring = JitterBuffer::default();
    ring.open(RATE);
    ring
}

/// A voice of about 117 Hz with overtones and a little vibrato: its period is no whole number of
/// samples, and never quite the same.
fn voice(n: u64) -> i16 {
    let at = n as f64 / f64::from(RATE) * std::f64::consts::TAU;
    let phase = 117.3 * at + 0.4 * (5.0 * at).sin();
    (4000.0 * phase.sin() + 2000.0 * (2.0 * phase).sin() + 1000.0 * (5.0 * phase).cos()) as i16
}

/// What a network does to a speaker's packets of 20 ms, and how a listener that takes a frame every
/// 20 ms hears them.
struct Line {
    ring: JitterBuffer,
    reader: PlayoutReader,
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
        let reader =
            if buffered { PlayoutReader::buffered(&ring) } else { PlayoutReader::direct(&ring) };
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
        while let Some((arrival, packet)) =
            self.on_the_way.first().copied().filter(|(arrival, _)| *arrival <= at)
        {
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
    let mut reader = PlayoutReader::buffered(&ring);
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
    assert!(line.starved * 100 < line.frames, "{} of {} frames starved", line.starved, line.frames);
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
            let secret: Vec<i16> =
                (0..160).map(|n| if n % 40 < 20 { 9000 } else { -9000 }).collect();
            ring.write(1, n * 160, &secret, now);
        }
        ring.forget();
        let mut reader = PlayoutReader::buffered(&ring);
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
            (0..50).for_each(|frame| {
                line.listen(Duration::from_secs(second) + 20 * MS * frame + 10 * MS)
            });
        }
    }
    // Ten talkspurts: where one is interrupted, there is silence between its sounds.
    let frames: Vec<bool> =
        line.heard.chunks(160).map(|frame| frame.iter().any(|sample| sample.abs() > 500)).collect();
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
        let power = |samples: &[i16]| {
            samples.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>()
                / samples.len() as f64
        };
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
        let mut reader = PlayoutReader::buffered(&ring);
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
    let mut reader = PlayoutReader::buffered(&ring);
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
    let mut reader = PlayoutReader::direct(&ring);
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
    let mut reader = PlayoutReader::direct(&ring);
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
    let mut ring = JitterBuffer::default();
    assert!(!ring.write(1, 0, &[1; 160], start()));
    let mut reader = PlayoutReader::direct(&ring);
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
        packets in proptest::collection::vec(
            (0u32..3, any::<u32>(), 0usize..700, any::<bool>(), 0u32..300, 1usize..481),
            1..150
        )
    ) {
        let mut ring = JitterBuffer::default();
        ring.open(if wide { 16_000 } else { 8000 });
        let mut reader =
            if buffered { PlayoutReader::buffered(&ring) } else { PlayoutReader::direct(&ring) };
        let mut timestamp = 0u32;
        let mut now = start();
        for (ssrc, jump, len, read, pass, wanted) in packets {
            now += MS * pass;
            timestamp = if jump % 5 == 0 {
                jump
            } else {
                timestamp.wrapping_add(jump % 700).wrapping_sub(160)
            };
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
