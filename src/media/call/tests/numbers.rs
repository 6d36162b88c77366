use super::*;

#[test]
fn numbers_toward_everybody_are_unbroken_through_joins_switches_and_leaves() {
    let mut harness = Harness::pcmu(None);
    let modes = [
        None,
        Some(Activity::ListenIn),
        Some(Activity::Coach),
        Some(Activity::BargeIn),
        Some(Activity::Coach),
        None,
    ];
    for mode in modes {
        harness.hear(mode);
        for _ in 0..25 {
            for (index, level) in LEVELS.into_iter().enumerate() {
                harness.say(index, level);
            }
            harness.pass(20 * MS);
        }
    }
    for (index, leg) in LEGS.into_iter().enumerate().take(2) {
        let packets: Vec<_> = harness.to(leg).collect();
        assert!((149..=152).contains(&packets.len()), "{}", packets.len());
        for (n, heard) in packets.iter().enumerate() {
            assert_eq!(heard.rtp.ssrc, 100 + index as u32);
            assert_eq!(heard.rtp.sequence, 65_500_u16.wrapping_add(n as u16));
            assert_eq!(heard.rtp.timestamp, (u32::MAX - 1000).wrapping_add(160 * n as u32));
        }
    }
}

#[test]
fn numbers_toward_everybody_are_unbroken_through_a_hold_and_time_goes_on() {
    let inactive = |media: &mut LegMedia| (media.send, media.receive) = (false, false);
    let sendonly = |media: &mut LegMedia| media.receive = false;
    let nowhere =
        |media: &mut LegMedia| (media.send, media.remote, media.remote_rtcp) = (false, None, None);
    let deaf = |media: &mut LegMedia| media.send = false;
    let holds: [&dyn Fn(&mut LegMedia); 4] = [&inactive, &sendonly, &nowhere, &deaf];
    for codecs in [[Codec::Pcmu; 3], [Codec::Pcmu, Codec::Pcma, Codec::Pcmu]] {
        for activity in [None, Some(Activity::Coach)] {
            for hold in holds {
                let mut harness = Harness::new(codecs, activity);
                let talk = |harness: &mut Harness, rounds: usize| {
                    for _ in 0..rounds {
                        for (index, level) in LEVELS.into_iter().enumerate() {
                            harness.say(index, level);
                        }
                        harness.pass(20 * MS);
                    }
                };
                talk(&mut harness, 10);
                let mut held = media(0, codecs[0]);
                hold(&mut held);
                harness.call.handle_describe(AGENT, held, harness.time());
                talk(&mut harness, 100);
                harness.call.handle_describe(AGENT, media(0, codecs[0]), harness.time());
                talk(&mut harness, 10);
                for leg in LEGS {
                    for two in harness.to(leg).collect::<Vec<_>>().windows(2) {
                        let [before, after] = [two[0], two[1]];
                        assert_eq!(
                            after.rtp.sequence,
                            before.rtp.sequence.wrapping_add(1),
                            "{leg:?} {held:?}"
                        );
                        let moved =
                            i64::from(after.rtp.timestamp.wrapping_sub(before.rtp.timestamp));
                        let passed = (after.at - before.at).as_millis() as i64 * 8;
                        assert!(
                            (moved - passed).abs() <= 400,
                            "{leg:?} {held:?}: {moved} in {passed}"
                        );
                    }
                }
                assert_eq!(harness.stats(AGENT).lost, 0);
            }
        }
    }
}

#[test]
fn sound_toward_the_customer_has_no_hole_at_a_join() {
    let mut harness = Harness::pcmu(None);
    for round in 0..100 {
        if round == 50 {
            harness.hear(Some(Activity::BargeIn));
        }
        harness.say(0, AGENT_LEVEL);
        harness.say(1, CUSTOMER_LEVEL);
        assert_eq!(harness.last(CUSTOMER).at, harness.now);
        assert!(
            harness
                .last(CUSTOMER)
                .samples(Codec::Pcmu)
                .iter()
                .all(|sample| is_about(*sample, i32::from(AGENT_LEVEL)))
        );
        harness.pass(20 * MS);
    }
    assert_eq!(harness.to(CUSTOMER).count(), 100);
}

#[test]
fn a_leg_goes_to_another_call_with_its_stream() {
    let mut harness = Harness::pcmu(None);
    harness.say(0, AGENT_LEVEL);
    let sequence = harness.last(CUSTOMER).rtp.sequence;
    let leg = harness.call.take(CUSTOMER, harness.time()).unwrap();
    let mut other = Call::new(CallKey(8), CallConfig::default());
    let start = StreamStart { ssrc: 9, sequence: 9, timestamp: 9, reports: 9 };
    other.put(Leg::new(LegId(9), start, harness.time()), harness.time()).unwrap();
    other.handle_describe(LegId(9), media(0, Codec::Pcmu), harness.time());
    let slot = other.put(leg, harness.time()).unwrap();
    let mut seen = Vec::new();
    let bytes = packet(0, 0, 50, 5000, &[9; 160]);
    other.handle_rtp(0, address(0), &mut bytes.clone(), harness.time(), &mut |_| {
        panic!("heard without a word of the allow-list")
    });
    other.handle_hear(
        Hearing::of(&[(LegId(9), HearingRole::Agent), (CUSTOMER, HearingRole::Customer)]),
        harness.time(),
    );
    other.handle_rtp(0, address(0), &mut bytes.clone(), harness.time(), &mut |packet| {
        assert_eq!(packet.slot, slot);
        seen.push(rtp::parse(packet.bytes).unwrap().sequence);
    });
    assert_eq!(seen, [sequence.wrapping_add(1)]);
}
