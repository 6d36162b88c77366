use super::*;

#[test]
fn a_digit_takes_its_time_in_a_stream_that_is_transcoded() {
    for (codecs, ticks) in [
        ([Codec::Opus, Codec::Pcmu, Codec::Pcmu], 960),
        ([Codec::Pcmu, Codec::Opus, Codec::Pcmu], 160),
        ([Codec::G722, Codec::Pcma, Codec::Pcmu], 160),
        ([Codec::Pcmu, Codec::Pcma, Codec::Pcmu], 160),
        ([Codec::Opus, Codec::Opus, Codec::Pcmu], 960),
    ] {
        for before in [15, 200] {
            let mut harness = Harness::new(codecs, None);
            let samples = vec![500; codecs[0].sample_rate() as usize / 50];
            let mut encoder = Encoder::new(codecs[0]);
            let mut payload = [0; MAX_PAYLOAD];
            let mut say = |harness: &mut Harness| {
                let len = encoder.encode(&samples, &mut payload);
                harness.speak(0, &payload[..len]);
                harness.pass(20 * MS);
            };
            (0..before).for_each(|_| say(&mut harness));
            let sound = harness.last(CUSTOMER).rtp.clone();
            let (_, digit) = harness.phones[0];
            for step in 0..8 {
                let (sequence, timestamp) = harness.phones[0];
                harness.phones[0] = (sequence.wrapping_add(1), timestamp.wrapping_add(ticks));
                let end = if step < 5 { 0 } else { 0x80 };
                let event = packet(0, TELEPHONE_EVENT, sequence, digit, &[5, end | 10, 0, 160]);
                harness.datagram(0, address(0), event);
                harness.pass(20 * MS);
            }
            let event = harness.last(CUSTOMER).rtp.clone();
            say(&mut harness);
            let after = harness.last(CUSTOMER).rtp.clone();
            let frame = codecs[1].clock() / 50;
            let name = format!("{codecs:?} after {before}");
            assert_eq!(event.timestamp.wrapping_sub(sound.timestamp), frame, "the digit: {name}");
            assert_eq!(
                after.timestamp.wrapping_sub(sound.timestamp),
                9 * frame,
                "the sound: {name}"
            );
        }
    }
}

#[test]
fn digits_keep_their_length_between_clocks() {
    let mut harness = Harness::new([Codec::Opus, Codec::Pcmu, Codec::Pcmu], None);
    let wide = LegMedia {
        dtmf_clock: 48_000,
        receives: PayloadTypes::of(&[
            (111, Format::Audio(Codec::Opus)),
            (TELEPHONE_EVENT, Format::Events(EventClock::Full)),
        ]),
        ..media(0, Codec::Opus)
    };
    harness.call.handle_describe(AGENT, wide, harness.time());
    harness.payload(0, TELEPHONE_EVENT, &[5, 0x8a, 0x12, 0xc0]);
    assert_eq!(harness.last(CUSTOMER).payload, [5, 0x8a, 0x03, 0x20]);
    harness.payload(1, TELEPHONE_EVENT, &[5, 0x8a, 0x03, 0x20]);
    assert_eq!(harness.last(AGENT).payload, [5, 0x8a, 0x12, 0xc0]);
}

#[test]
fn digits_of_either_number_and_clock_arrive_under_the_listeners_number() {
    for (number, duration) in [(96, [3, 0x20]), (TELEPHONE_EVENT, [3, 0x20]), (100, [0x12, 0xc0])] {
        let mut harness = Harness::pcmu(None);
        let other = LegMedia { dtmf_pt: Some(98), ..media(1, Codec::Pcmu) };
        harness.call.handle_describe(AGENT, several(0, Codec::Pcmu), harness.time());
        harness.call.handle_describe(CUSTOMER, other, harness.time());
        harness.payload(0, number, &[5, 0x8a, duration[0], duration[1]]);
        let heard = harness.last(CUSTOMER);
        assert_eq!((heard.rtp.payload_type, &heard.payload[..]), (98, &[5, 0x8a, 3, 0x20][..]));
    }
}

#[test]
fn digits_go_between_the_parties_and_a_supervisors_go_nowhere() {
    for activity in [None, Some(Activity::ListenIn), Some(Activity::Coach), Some(Activity::BargeIn)]
    {
        let mut harness = Harness::pcmu(activity);
        for index in 0..3 {
            harness.say(index, 0);
        }
        harness.heard.clear();
        for index in 0..3 {
            for payload in [[5, 10, 0, 160], [5, 0x8a, 1, 64], [5, 0x8a, 1, 64]] {
                let (sequence, timestamp) = harness.phones[index];
                harness.phones[index].0 += 1;
                harness.datagram(
                    index,
                    address(index),
                    packet(index, TELEPHONE_EVENT, sequence, timestamp, &payload),
                );
            }
        }
        let relayed: Vec<_> =
            harness.heard.iter().map(|heard| (heard.listener, heard.rtp.payload_type)).collect();
        let expected: Vec<_> =
            [CUSTOMER; 3].into_iter().chain([AGENT; 3]).map(|leg| (leg, TELEPHONE_EVENT)).collect();
        assert_eq!(relayed, expected, "{activity:?}");
        for events in [&harness.heard[..3], &harness.heard[3..]] {
            assert!(events.windows(2).all(|two| two[0].rtp.timestamp == two[1].rtp.timestamp));
            assert!(
                events
                    .windows(2)
                    .all(|two| two[1].rtp.sequence == two[0].rtp.sequence.wrapping_add(1))
            );
        }
        let pressed = MediaEvent::Key { leg: SUPERVISOR, digit: '5' };
        assert_eq!(harness.events, [pressed], "once for the three packets of a key");
    }
}

#[test]
fn a_supervisors_key_is_told_once_though_its_first_packets_are_lost_or_late() {
    let mut harness = Harness::pcmu(Some(Activity::Coach));
    for index in 0..3 {
        harness.say(index, 0);
    }
    harness.events.clear();
    let (sequence, timestamp) = harness.phones[2];
    for (offset, at, payload) in [
        // Of the first key the last packet alone has come.
        (2, 0, [4, 0x8a, 3, 32]),
        (4, 1600, [6, 10, 0, 160]),
        // One of the key before, late.
        (1, 0, [4, 10, 0, 160]),
        (5, 1600, [6, 0x8a, 1, 64]),
    ] {
        let (sequence, timestamp) = (sequence.wrapping_add(offset), timestamp.wrapping_add(at));
        let packet = packet(2, TELEPHONE_EVENT, sequence, timestamp, &payload);
        harness.datagram(2, address(2), packet);
    }
    let keys = ['4', '6'].map(|digit| MediaEvent::Key { leg: SUPERVISOR, digit });
    assert_eq!(harness.events, keys);
}

#[test]
fn digits_that_we_send_are_events_in_the_agents_stream_and_no_supervisor_gets_them() {
    for activity in [None, Some(Activity::BargeIn)] {
        let mut harness = Harness::pcmu(activity);
        let mut sequence = 0;
        for round in 0..40 {
            if round == 5 {
                harness.call.handle_digits(AGENT, "4x#", harness.time());
            }
            for (index, level) in LEVELS.into_iter().enumerate() {
                harness.say(index, level);
            }
            harness.pass(20 * MS);
        }
        let (mut digits, mut sound_within) = (Vec::new(), 0);
        for (n, heard) in harness.to(CUSTOMER).enumerate() {
            let expected = *harness.to(CUSTOMER).next().map(|first| &first.rtp.sequence).unwrap();
            assert_eq!(heard.rtp.sequence, expected.wrapping_add(n as u16), "unbroken");
            sequence += 1;
            if heard.rtp.payload_type == TELEPHONE_EVENT {
                let [event, flags, high, low] = heard.payload[..] else {
                    panic!("{:?}", heard.payload)
                };
                digits.push((
                    event,
                    flags >= 0x80,
                    u16::from_be_bytes([high, low]),
                    heard.rtp.timestamp,
                ));
            } else if matches!(digits.last(), Some((_, false, ..))) {
                sound_within += 1;
            }
        }
        assert!(sequence > 30);
        let of =
            |event: u8| digits.iter().filter(move |digit| digit.0 == event).collect::<Vec<_>>();
        for event in [4, 11] {
            let packets = of(event);
            let durations: Vec<_> = packets.iter().map(|packet| (packet.1, packet.2)).collect();
            let ends = (true, 800);
            let sound = [160, 320, 480, 640, 800].map(|duration| (false, duration));
            assert_eq!(durations, [&sound[..], &[ends; 3]].concat());
            assert!(
                packets.iter().all(|packet| packet.3 == packets[0].3),
                "one timestamp for the whole event"
            );
        }
        assert!(of(11)[0].3.wrapping_sub(of(4)[0].3) < 0x8000_0000, "later");
        assert_eq!(digits.len(), 16);
        assert!(
            activity.is_some() || sound_within == 0,
            "where the agent is relayed, the digit stands in place of his sound"
        );
        let stray = harness
            .to(AGENT)
            .chain(harness.to(SUPERVISOR))
            .filter(|heard| heard.rtp.payload_type == TELEPHONE_EVENT);
        assert_eq!(stray.count(), 0);
    }
}
