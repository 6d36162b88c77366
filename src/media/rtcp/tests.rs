use super::*;
use crate::media::rtp::{SoundSource, StreamOrigin};
use proptest::prelude::*;
use rtcp_types::{Compound, Packet, SdesItem};

const CLOCK: u32 = 8000;
const MS: Duration = Duration::from_millis(1);

#[expect(clippy::disallowed_methods, reason = "an arbitrary origin of the test's clock")]
fn start() -> Now {
    Now { mono: Instant::now(), wall: Timestamp(1_700_000_000_500) }
}

fn later(now: Now, by: Duration) -> Now {
    Now { mono: now.mono + by, wall: Timestamp(now.wall.0 + by.as_millis() as u64) }
}

fn packet(sequence: u16) -> ReceivedRtp {
    ReceivedRtp {
        marker: false,
        payload_type: 0,
        sequence,
        timestamp: u32::from(sequence).wrapping_mul(160),
        ssrc: 7,
        payload: 12..172,
    }
}

/// Our side of a leg: what it says is read by somebody else's reader.
struct Side {
    reporter: Reporter,
    stream: Stream,
    reception: Reception,
}

impl Side {
    fn new() -> Self {
        Self {
            reporter: Reporter::new(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            stream: Stream::new(0xabcd, 65_530, u32::MAX - 100),
            reception: Reception::default(),
        }
    }

    fn receive(&mut self, sequences: impl IntoIterator<Item = u16>, now: Now) {
        for sequence in sequences {
            self.reception.note(&packet(sequence), Some(CLOCK), now.mono);
        }
    }

    fn report(&mut self, now: Now) -> Vec<u8> {
        let mut buffer = [0; MAX_REPORT];
        let (bytes, _) =
            self.reporter.report(&self.stream, &mut self.reception, false, now, &mut buffer);
        bytes.to_vec()
    }

    /// Its block about SSRC 7.
    fn block(&mut self, now: Now) -> Block {
        read(&self.report(now), 7).unwrap().about_us.unwrap()
    }
}

fn kinds(bytes: &[u8]) -> Vec<u8> {
    let subs = Compound::parse(bytes).unwrap().map(Result::unwrap);
    subs.map(|sub| match sub {
        Packet::Sr(_) => SENDER_REPORT,
        Packet::Rr(_) => RECEIVER_REPORT,
        Packet::Sdes(_) => SDES,
        Packet::Bye(bye) => {
            assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [0xabcd]);
            BYE
        }
        other => panic!("{other:?}"),
    })
    .collect()
}

#[test]
fn another_reader_finds_every_number_of_a_sender_report_where_it_belongs() {
    let now = start();
    let mut side = Side::new();
    for n in 0..3 {
        side.stream.own(160, 160, now.mono + 20 * MS * n);
    }
    // Two cycles after the first: 65530, 65531, then 65535, 0 and 1 of the next.
    side.receive([65_530, 65_531, 65_535, 0, 1], now);
    side.reception.note_sender_report(7, 0x1234_5678, now.mono + 40 * MS);
    let at = later(now, 540 * MS);
    let bytes = side.report(at);
    let mut subs = Compound::parse(&bytes).unwrap().map(Result::unwrap);
    let Some(Packet::Sr(sr)) = subs.next() else { panic!("no sender report") };
    assert_eq!((sr.ssrc(), sr.packet_count(), sr.octet_count()), (0xabcd, 3, 480));
    // 2023-11-14 22:13:21.040 UTC, and the timestamp of that very moment: the third packet's, half
    // a second on.
    assert_eq!(sr.ntp_timestamp() >> 32, 1_700_000_001 + 2_208_988_800);
    assert_eq!(((sr.ntp_timestamp() & 0xffff_ffff) * 1000) >> 32, 39);
    assert_eq!(sr.rtp_timestamp(), (u32::MAX - 100).wrapping_add(320 + 4000));
    let blocks: Vec<_> = sr.report_blocks().collect();
    let [block] = &blocks[..] else { panic!("{} blocks", blocks.len()) };
    assert_eq!((block.ssrc(), block.fraction_lost(), block.cumulative_lost()), (7, 96, 3));
    assert_eq!(block.extended_sequence_number(), 0x1_0001);
    assert_eq!(block.last_sender_report_timestamp(), 0x1234_5678);
    assert_eq!(block.delay_since_last_sender_report_timestamp(), 32_768);
    let Some(Packet::Sdes(sdes)) = subs.next() else { panic!("no description") };
    let chunks: Vec<_> = sdes.chunks().collect();
    assert_eq!((chunks.len(), chunks[0].ssrc()), (1, 0xabcd));
    let items: Vec<_> =
        chunks[0].items().map(|item| (item.type_(), item.value().to_vec())).collect();
    assert_eq!(items, [(SdesItem::CNAME, side.reporter.cname.to_vec())]);
    assert!(subs.next().is_none());
}

#[test]
fn every_leg_has_a_name_of_its_own_and_keeps_it() {
    let name = |random| Reporter::new(random).cname;
    assert_eq!(name(0), *b"AAAAAAAAAAAAAAAA");
    assert_eq!(name(u128::MAX), *b"////////////////");
    assert_ne!(name(1), name(2));
    let mut side = Side::new();
    assert_eq!(side.report(start()), side.report(start()));
}

#[test]
fn who_only_listens_gets_a_receiver_report_and_who_has_fallen_silent_too() {
    let now = start();
    let mut side = Side::new();
    assert_eq!(kinds(&side.report(now)), [RECEIVER_REPORT, SDES]);
    assert_eq!(read(&side.report(now), 7).unwrap(), RtcpReport::default());
    side.stream.own(160, 160, now.mono);
    let after: Vec<_> = (0..4).map(|_| kinds(&side.report(now))[0]).collect();
    assert_eq!(after, [SENDER_REPORT, SENDER_REPORT, RECEIVER_REPORT, RECEIVER_REPORT]);
}

#[test]
fn the_last_report_says_goodbye() {
    let now = start();
    let mut side = Side::new();
    side.receive([1], now);
    let mut buffer = [0; MAX_REPORT];
    let (bytes, _) =
        side.reporter.report(&side.stream, &mut side.reception, true, now, &mut buffer);
    assert_eq!(kinds(bytes), [RECEIVER_REPORT, SDES, BYE]);
}

#[test]
fn a_fraction_is_that_of_the_interval_and_the_sum_that_of_all() {
    let now = start();
    let mut side = Side::new();
    side.receive([0, 1, 3], now);
    let first = side.block(now);
    assert_eq!((first.fraction_lost, first.lost), (64, 1));
    side.receive(4..8, now);
    let second = side.block(now);
    assert_eq!((second.fraction_lost, second.lost), (0, 1));
    assert_eq!(read(&side.report(now), 7).unwrap().about_us, None, "nothing has come since");
}

#[test]
fn what_was_lost_and_comes_late_is_lost_no_more() {
    let now = start();
    let mut side = Side::new();
    side.receive([0, 2], now);
    assert_eq!((side.reception.lost(), side.block(now).lost), (1, 1));
    side.receive([1], now);
    let late = side.block(now);
    assert_eq!((side.reception.lost(), late.lost, late.fraction_lost), (0, 0, 0));
    // Doubled on the way: more came than were sent.
    side.receive([1, 2], now);
    assert_eq!((side.reception.lost(), side.block(now).lost), (0, -2));
}

#[test]
fn the_highest_number_counts_its_cycles() {
    let now = start();
    let mut side = Side::new();
    for cycle in 0..3u32 {
        for sequence in (0..=u16::MAX).step_by(500) {
            side.receive([sequence], now);
        }
        assert_eq!(side.block(now).highest, cycle << 16 | 65_500);
    }
}

#[test]
fn one_packet_from_elsewhere_in_the_sequence_is_a_stray_and_two_are_a_restart() {
    let now = start();
    let mut side = Side::new();
    side.receive([10, 11, 30_000, 12, 13], now);
    assert_eq!((side.reception.lost(), side.block(now).highest), (0, 13));
    side.receive([15, 30_000, 30_001], now);
    let restarted = side.block(now);
    assert_eq!((side.reception.lost(), restarted.lost, restarted.highest), (1, 0, 30_001));
}

#[test]
fn what_came_while_nothing_was_to_be_received_is_not_lost() {
    let now = start();
    let mut side = Side::new();
    side.receive([65_000, 65_002], now);
    side.reception.pause();
    side.receive([400, 401], now);
    let block = side.block(now);
    assert_eq!((side.reception.lost(), block.lost, block.highest), (1, 1, 0x1_0000 + 401));
    side.reception.pause();
    side.receive([7, 8], now);
    assert_eq!((side.reception.lost(), side.block(now).lost), (1, 0));
}

#[test]
fn steady_packets_have_no_jitter_and_others_have_that_of_their_clock() {
    let now = start().mono;
    for clock in [8000, 48_000] {
        let samples = clock / 50;
        let mut steady = Reception::default();
        let mut unsteady = Reception::default();
        for i in 0..1000u16 {
            let packet = ReceivedRtp { timestamp: u32::from(i) * samples, ..packet(i) };
            let at = now + 20 * MS * u32::from(i);
            steady.note(&packet, Some(clock), at);
            unsteady.note(&packet, Some(clock), at + 10 * MS * u32::from(i % 2));
        }
        assert_eq!((steady.jitter(), steady.lost()), (0, 0));
        // Every distance is 10 ms.
        let expected = clock / 100;
        assert!((expected - 1..=expected).contains(&unsteady.jitter()), "{}", unsteady.jitter());
        assert!((9..=10).contains(&unsteady.jitter_time().as_millis()));
    }
}

#[test]
fn a_digit_is_no_jitter() {
    let now = start().mono;
    let mut reception = Reception::default();
    for i in 0..100u16 {
        let is_event = (40..60).contains(&i);
        let packet = ReceivedRtp {
            timestamp: if is_event { 6400 } else { u32::from(i) * 160 },
            ..packet(i)
        };
        reception.note(&packet, (!is_event).then_some(CLOCK), now + 20 * MS * u32::from(i));
    }
    assert_eq!((reception.jitter(), reception.lost()), (0, 0));
}

#[test]
fn a_round_trip_is_what_the_peer_did_not_keep() {
    let now = start();
    let mut side = Side::new();
    side.stream.own(160, 160, now.mono);
    let sr = read(&side.report(now), 7).unwrap().sender.unwrap();
    assert_eq!(sr.0, 0xabcd);
    let answer = Block { last_sender_report: sr.1, delay: 65_536, ..Block::default() };
    let after = |ms| now.mono + MS * ms;
    assert_eq!(side.reporter.round_trip(&answer, after(1030)), Some(30 * MS));
    assert_eq!(
        side.reporter.round_trip(&answer, after(999)),
        None,
        "he kept it longer than it was away"
    );
    assert_eq!(side.reporter.round_trip(&answer, after(11_001)), None, "too long for a round trip");
    for foreign in [0, sr.1 + 1] {
        let foreign = Block { last_sender_report: foreign, ..answer };
        assert_eq!(side.reporter.round_trip(&foreign, after(1030)), None, "no report of ours");
    }
    for _ in 0..REMEMBERED {
        side.stream.own(160, 160, now.mono);
        side.report(later(now, 5000 * MS));
    }
    assert_eq!(side.reporter.round_trip(&answer, after(6000)), None, "long forgotten");
}

#[test]
fn reports_are_spread_from_half_to_one_and_a_half_of_the_interval() {
    let mut reporter = Reporter::new(9 << 96);
    let intervals: Vec<_> = (0..1000).map(|_| reporter.next_interval(1000 * MS)).collect();
    assert!(intervals.iter().all(|interval| (500 * MS..1500 * MS).contains(interval)));
    let sum: Duration = intervals.iter().sum();
    assert!((950..1050).contains(&(sum / 1000).as_millis()), "{sum:?}");
    assert!(
        intervals.iter().min() < Some(&(510 * MS)) && intervals.iter().max() > Some(&(1490 * MS))
    );
    assert_ne!(Reporter::new(8 << 96).next_interval(MS), Reporter::new(9 << 96).next_interval(MS));
}

#[test]
fn a_single_packet_will_do_and_an_unknown_one_is_passed_over() {
    let block = [0, 0, 0, 7, 25, 0xff, 0xff, 0xfe, 0, 0, 0, 9, 0, 0, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2];
    let rr = [&[0x81, 201, 0, 7, 0, 0, 0, 1][..], &block].concat();
    let unknown = [0x80, 210, 0, 1, 1, 2, 3, 4];
    let expected = RtcpReport {
        sender: None,
        about_us: Some(Block {
            fraction_lost: 25,
            lost: -2,
            highest: 9,
            jitter: 80,
            last_sender_report: 1,
            delay: 2,
        }),
    };
    assert_eq!(read(&rr, 7), Ok(expected));
    assert_eq!(read(&[&unknown[..], &rr].concat(), 7), Ok(expected));
    assert_eq!(read(&unknown, 7), Ok(RtcpReport::default()));
    assert_eq!(read(&rr, 8), Ok(RtcpReport::default()), "about somebody else");
    for cut in 1..rr.len() {
        assert_eq!(read(&rr[..cut], 7), Err(NotRtcp), "{cut} octets");
    }
}

#[test]
fn on_a_shared_port_the_second_octet_tells_rtcp_from_rtp() {
    let of = |second| is_rtcp(&[0x80, second, 0, 0]);
    assert!((192..=223).all(of));
    assert!(!(0..192).chain(224..=255).any(of));
    assert!(!is_rtcp(&[0x80]));
}

#[test]
fn a_digit_does_not_move_the_timestamp_of_a_report() {
    let now = start().mono;
    let mut stream = Stream::new(1, 0, 0);
    stream.own(160, 160, now);
    let origin = StreamOrigin { source: SoundSource::Leg(0), ssrc: 7 };
    for step in 1..=20 {
        stream.event(origin, &packet(1), now + 20 * MS * step);
    }
    assert_eq!(stream.timestamp_at(now + 400 * MS), 3200);
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), ours: u32) {
        let _ = read(&bytes, ours);
    }

    #[test]
    fn no_report_panics(
        kind in 200u8..=201,
        count in 0u8..32,
        words in 0u16..60,
        rest in proptest::collection::vec(any::<u8>(), 0..240),
        ours: u32
    ) {
        let [high, low] = words.to_be_bytes();
        let _ = read(&[&[0x80 | count, kind, high, low], &rest[..]].concat(), ours);
    }

    #[test]
    fn every_report_is_read_by_another_reader(
        happenings in proptest::collection::vec(
            (any::<u16>(), 0u32..3, any::<u32>(), 0u8..8),
            0..100,
        ),
        clock in prop_oneof![Just(8000), Just(48_000)],
        random: u128,
    ) {
        let mut now = start();
        let mut side = Side { reporter: Reporter::new(random), ..Side::new() };
        for (sequence, ssrc, timestamp, what) in happenings {
            now = later(now, MS * u32::from(sequence) / 64);
            match what {
                0 => side.reception.pause(),
                1 => side.reception.note_sender_report(ssrc, timestamp, now.mono),
                2 => drop(side.stream.own(160, 160, now.mono)),
                _ => side.reception.note(
                    &ReceivedRtp { ssrc, timestamp, ..packet(sequence) },
                    Some(clock),
                    now.mono,
                ),
            }
            let bytes = side.report(now);
            prop_assert_eq!(kinds(&bytes).len(), 2);
            prop_assert!(read(&bytes, ssrc).is_ok());
        }
    }
}
