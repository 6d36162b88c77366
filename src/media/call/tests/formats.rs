use super::*;

#[test]
fn every_agreed_number_is_heard_and_no_other() {
    let mut harness = Harness::pcmu(None);
    harness.call.handle_describe(AGENT, several(0, Codec::Pcmu), harness.time());
    for number in 0..128 {
        let payload: &[u8] = match PayloadTypes::of(&SEVERAL).get(number) {
            Some(Format::Audio(Codec::Opus)) => &[9 << 3],
            Some(Format::Audio(_)) => &[0xff; 160],
            Some(Format::ComfortNoise) => &[60],
            Some(Format::Events(_)) | None => &[5, 0x0a, 0, 160],
        };
        let expected = match PayloadTypes::of(&SEVERAL).get(number) {
            Some(_) => PacketVerdict::Accepted,
            None => PacketVerdict::Malformed,
        };
        assert_eq!(harness.payload(0, number, payload), expected, "{number}");
    }
}

#[test]
fn a_relay_transcodes_while_the_codec_is_another_and_is_a_relay_again() {
    let mut harness = Harness::new([Codec::Pcmu; 3], Some(Activity::Coach));
    harness.call.handle_describe(AGENT, several(0, Codec::Pcmu), harness.time());
    let mut plan = Vec::new();
    for (number, codec) in [
        (0, Codec::Pcmu),
        (8, Codec::Pcma),
        (0, Codec::Pcmu),
        (9, Codec::G722),
        (97, Codec::Opus),
        (111, Codec::Opus),
        (8, Codec::Pcma),
        (0, Codec::Pcmu),
    ] {
        let mut encoder = encoder(codec);
        for _ in 0..20 {
            assert_eq!(
                harness.say_in(0, number, &mut encoder, AGENT_LEVEL),
                PacketVerdict::Accepted
            );
            plan.push(codec);
            harness.pass(20 * MS);
        }
    }
    let heard: Vec<Heard> = harness.to(CUSTOMER).cloned().collect();
    assert_eq!(heard.len(), plan.len(), "one for one");
    for (n, (heard, codec)) in heard.iter().zip(&plan).enumerate() {
        let sent =
            if *codec == Codec::Pcmu { TransmitKind::Unchanged } else { TransmitKind::Transcoded };
        assert_eq!((heard.sent, heard.rtp.payload_type), (sent, 0), "{n}: {codec:?}");
        // Opus filters out what does not swing.
        let steady = n % 20 > 5 && *codec != Codec::Opus;
        let right = |sample: &i16| is_about(*sample, AGENT_LEVEL.into());
        assert!(
            !steady
                || heard.samples(Codec::Pcmu).iter().filter(|sample| right(sample)).count() > 120,
            "{n}: {codec:?}"
        );
    }
    for two in heard.windows(2) {
        assert_eq!(two[1].rtp.sequence, two[0].rtp.sequence.wrapping_add(1));
        assert_eq!(two[1].rtp.timestamp.wrapping_sub(two[0].rtp.timestamp), 160, "{two:?}");
    }
    let stats = harness.stats(CUSTOMER);
    assert_eq!((stats.unchanged, stats.transcoded, stats.leak_guards), (60, 100, 0));
    assert_eq!(harness.stats(AGENT).malformed, 0);
}

#[test]
fn a_speaker_may_change_at_every_packet_and_is_heard_by_whoever_mixes_it() {
    for numbers in [[0, 8], [8, 9], [0, 111]] {
        let mut harness = Harness::new([Codec::Pcmu; 3], Some(Activity::Coach));
        harness.call.handle_describe(SUPERVISOR, several(2, Codec::Pcmu), harness.time());
        let mut encoders = numbers.map(|number| match PayloadTypes::of(&SEVERAL).get(number) {
            Some(Format::Audio(codec)) => encoder(codec),
            other => panic!("{other:?}"),
        });
        for round in 0..200 {
            harness.say(0, 0);
            harness.say(1, 0);
            // Two of each: the numbers of a stream are its own, whatever codec is in it.
            let which = round / 2 % 2;
            assert_eq!(
                harness.say_in(2, numbers[which], &mut encoders[which], SUPERVISOR_LEVEL),
                PacketVerdict::Accepted
            );
            harness.pass(20 * MS);
        }
        let whispered = harness.to(AGENT).skip(50).flat_map(|heard| heard.samples(Codec::Pcmu));
        let whispered: Vec<i16> = whispered.collect();
        let loud = whispered.iter().filter(|sample| **sample > SUPERVISOR_LEVEL / 2).count();
        // Opus filters out what does not swing.
        let tenths = if numbers.contains(&111) { 4 } else { 6 };
        assert!(loud > whispered.len() * tenths / 10, "{numbers:?}: {loud} of {}", whispered.len());
        assert!(harness.to(CUSTOMER).all(|heard| heard.sent == TransmitKind::Unchanged));
        assert_eq!(harness.stats(CUSTOMER).leak_guards + harness.stats(AGENT).leak_guards, 0);
    }
}

#[test]
fn what_was_agreed_before_is_heard_for_a_moment_more() {
    let mut harness = Harness::pcmu(None);
    let other = LegMedia {
        receives: PayloadTypes::of(&[
            (8, Format::Audio(Codec::Pcma)),
            (96, Format::Events(EventClock::Narrow)),
        ]),
        ..media(0, Codec::Pcma)
    };
    let (mut before, mut after) = (encoder(Codec::Pcmu), encoder(Codec::Pcma));
    harness.say_in(0, 0, &mut before, AGENT_LEVEL);
    harness.call.handle_describe(AGENT, other, harness.time());
    harness.pass(500 * MS);
    assert_eq!(harness.say_in(0, 8, &mut after, AGENT_LEVEL), PacketVerdict::Accepted);
    assert_eq!(harness.last(CUSTOMER).sent, TransmitKind::Transcoded);
    assert_eq!(harness.say_in(0, 0, &mut before, AGENT_LEVEL), PacketVerdict::Accepted);
    assert_eq!(harness.last(CUSTOMER).sent, TransmitKind::Unchanged);
    assert_eq!(harness.say_in(0, 0, &mut before, AGENT_LEVEL), PacketVerdict::Accepted);
    assert_eq!(harness.payload(0, TELEPHONE_EVENT, &[5, 0x8a, 3, 0x20]), PacketVerdict::Accepted);
    harness.pass(FORMER);
    assert_eq!(harness.say_in(0, 0, &mut before, AGENT_LEVEL), PacketVerdict::Malformed);
    assert_eq!(harness.payload(0, TELEPHONE_EVENT, &[5, 0x8a, 3, 0x20]), PacketVerdict::Malformed);
    assert_eq!(harness.say_in(0, 8, &mut after, AGENT_LEVEL), PacketVerdict::Accepted);
}

#[test]
fn a_codec_that_is_no_longer_agreed_is_no_longer_expected() {
    let mut harness = Harness::new([Codec::Pcmu; 3], Some(Activity::Coach));
    harness.call.handle_describe(AGENT, several(0, Codec::Pcmu), harness.time());
    let mut wide = encoder(Codec::G722);
    for _ in 0..5 {
        harness.say_in(0, 9, &mut wide, AGENT_LEVEL);
        harness.pass(20 * MS);
    }
    assert_eq!(harness.call.state.rate, 16_000, "the supervisor hears it as it is");
    harness.call.handle_describe(AGENT, media(0, Codec::Pcmu), harness.time());
    assert_eq!(harness.call.state.rate, 8000);
    let agent = harness.call.leg(AGENT).unwrap();
    assert!(agent.seldom.decoders.is_empty() && agent.spoken.codec() == Codec::Pcmu);
    assert!(harness.call.leg(CUSTOMER).unwrap().transcoder.is_none());
}
