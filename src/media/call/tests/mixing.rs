use super::*;

#[test]
fn with_15_per_cent_of_the_supervisors_packets_lost_agent_and_customer_notice_nothing() {
    for supervisor in [Codec::Pcmu, Codec::Opus] {
        let codecs = [Codec::Pcmu, Codec::Pcmu, supervisor];
        // 23 of 150, singly and in pairs.
        let loses = |round: u32| round > 0 && round * 7919 % 150 < 24;
        let whole = converse(codecs, Some(Activity::Coach));
        let lossy = converse_over(codecs, Some(Activity::Coach), loses);
        let packets = |harness: &Harness, leg| {
            let packets = harness.to(leg).map(|heard| {
                (heard.at, heard.rtp.sequence, heard.rtp.timestamp, heard.payload.len())
            });
            packets.collect::<Vec<_>>()
        };
        assert_eq!(packets(&whole, AGENT), packets(&lossy, AGENT));
        assert_eq!(packets(&whole, CUSTOMER), packets(&lossy, CUSTOMER));
        let bytes = |harness: &Harness| {
            harness.to(CUSTOMER).map(|heard| heard.payload.clone()).collect::<Vec<_>>()
        };
        assert!(bytes(&whole) == bytes(&lossy));
        let customer = level_of(&lossy, 0, TONES[1]);
        assert!(customer.abs() < 0.5, "the agent hears the customer at {customer} dB");
        let whisper = level_of(&lossy, 0, TONES[2]);
        assert!(whisper > -3.0, "and the whisper at {whisper} dB");
        assert_eq!(lossy.stats(SUPERVISOR).lost, 23);
    }
}

#[test]
fn while_the_coach_speaks_the_customer_goes_softer_for_the_agent_and_comes_back_without_a_step() {
    let mut harness = Harness::pcmu(None);
    let rules = HearingRules {
        whisper: Gain::from_db(-6.0),
        duck: Gain::from_db(-12.0),
        ..HearingRules::default()
    };
    let coach = HearingRole::Supervisor {
        activity: Activity::Coach,
        coached: Some(AGENT),
        agent_side_only: false,
    };
    let roles =
        [(AGENT, HearingRole::Agent), (CUSTOMER, HearingRole::Customer), (SUPERVISOR, coach)];
    harness.call.handle_hear(Hearing::with(&roles, rules), harness.time());
    for round in 0..150 {
        harness.say(0, AGENT_LEVEL);
        harness.say(1, CUSTOMER_LEVEL);
        harness.say(2, if (50..75).contains(&round) { SUPERVISOR_LEVEL } else { 0 });
        harness.pass(20 * MS);
    }
    let heard: Vec<i16> = harness.to(AGENT).flat_map(|heard| heard.samples(Codec::Pcmu)).collect();
    let (whisper, softer) = (i32::from(SUPERVISOR_LEVEL) / 2, i32::from(CUSTOMER_LEVEL) / 4);
    let about = |from: usize, to: usize, level: i32| {
        let samples = &heard[from * 160..to * 160];
        assert!(
            samples.iter().all(|sample| is_about(*sample, level)),
            "{from} to {to}: {:?}",
            &samples[..8]
        );
    };
    about(5, 49, i32::from(CUSTOMER_LEVEL));
    about(53, 74, whisper + softer);
    about(78, 88, softer);
    about(110, 145, i32::from(CUSTOMER_LEVEL));
    let back = &heard[78 * 160..145 * 160];
    assert!(back.windows(2).all(|two| (two[1] - two[0]).abs() <= 256), "a step on the way back");
    let customer: Vec<_> = harness.to(CUSTOMER).map(|heard| heard.sent).collect();
    assert!(customer.iter().all(|sent| *sent == TransmitKind::Unchanged));
}

#[test]
fn the_whisper_goes_on_while_the_customer_sends_nothing() {
    let mut harness = Harness::pcmu(Some(Activity::Coach));
    for _ in 0..100 {
        harness.say(2, SUPERVISOR_LEVEL);
        harness.pass(20 * MS);
    }
    let whispered: usize = harness
        .to(AGENT)
        .map(|heard| {
            heard
                .samples(Codec::Pcmu)
                .iter()
                .filter(|sample| is_about(**sample, i32::from(SUPERVISOR_LEVEL)))
                .count()
        })
        .sum();
    assert!(whispered >= 97 * 160, "{whispered} samples");
    assert_eq!(harness.to(CUSTOMER).count(), 0);
}

#[test]
fn a_beep_is_heard_by_the_agent_and_changes_nothing_for_the_customer() {
    for activity in [None, Some(Activity::ListenIn), Some(Activity::Coach)] {
        let mut harness = Harness::pcmu(activity);
        let mut beeped = 0;
        for round in 0..40u8 {
            if round == 10 {
                harness.call.handle_beep(AGENT, harness.time());
            }
            harness.payload(0, 0, &[round; 160]);
            harness.payload(1, 0, &[0xff; 160]);
            harness.pass(20 * MS);
            let last = harness.last(AGENT);
            let loud = last.samples(Codec::Pcmu).iter().any(|sample| *sample > 1500);
            assert!(!loud || (10..22).contains(&round), "{round}");
            beeped += u32::from(loud);
        }
        assert!((9..=11).contains(&beeped), "200 ms: {beeped}");
        let to_customer: Vec<_> =
            harness.to(CUSTOMER).map(|heard| (heard.sent, heard.payload[0])).collect();
        assert_eq!(
            to_customer,
            (0..40).map(|round| (TransmitKind::Unchanged, round)).collect::<Vec<_>>()
        );
        assert_eq!(
            harness.last(AGENT).sent,
            if activity == Some(Activity::Coach) {
                TransmitKind::Mixed
            } else {
                TransmitKind::Unchanged
            }
        );
    }
}
