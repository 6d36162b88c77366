use super::*;

#[test]
fn comfort_noise_is_passed_on_to_who_knows_it_and_is_a_soft_noise_for_the_supervisor() {
    let mut harness = Harness::pcmu(Some(Activity::ListenIn));
    for (index, leg) in LEGS.into_iter().enumerate() {
        let knows =
            LegMedia { comfort_noise: (index != 1).then_some(13), ..media(index, Codec::Pcmu) };
        harness.call.handle_describe(leg, knows, harness.time());
    }
    let known = LegMedia { comfort_noise: Some(13), ..media(1, Codec::Pcmu) };
    for round in 0..100 {
        harness.say(0, AGENT_LEVEL);
        if round < 20 {
            harness.say(1, CUSTOMER_LEVEL);
        } else if round == 20 {
            harness.call.handle_describe(CUSTOMER, known, harness.time());
            assert_eq!(harness.payload(1, 13, &[50]), PacketVerdict::Accepted);
        }
        harness.pass(20 * MS);
    }
    let noise: Vec<_> = harness.to(AGENT).filter(|heard| heard.payload.len() == 1).collect();
    assert_eq!(noise.len(), 1);
    assert_eq!((noise[0].payload[0], noise[0].rtp.payload_type), (50, 13));
    let heard = harness.last(SUPERVISOR).samples(Codec::Pcmu);
    let differs = heard.iter().filter(|sample| (**sample - AGENT_LEVEL).abs() > 16).count();
    assert!(differs > 40, "{heard:?}");
    assert!(heard.iter().all(|sample| (sample - AGENT_LEVEL).abs() < 300));
}

#[test]
fn noise_of_who_is_held_is_heard_no_more() {
    let mut harness = Harness::pcmu(Some(Activity::ListenIn));
    let quiet = LegMedia { comfort_noise: Some(13), ..media(1, Codec::Pcmu) };
    harness.call.handle_describe(CUSTOMER, quiet, harness.time());
    harness.say(1, CUSTOMER_LEVEL);
    harness.payload(1, 13, &[40]);
    let held = LegMedia { receive: false, ..quiet };
    harness.call.handle_describe(CUSTOMER, held, harness.time());
    harness.pass(400 * MS);
    harness.heard.clear();
    for _ in 0..10 {
        harness.say(0, 0);
        harness.pass(20 * MS);
    }
    let heard: Vec<i16> =
        harness.to(SUPERVISOR).flat_map(|heard| heard.samples(Codec::Pcmu)).collect();
    assert!(heard.len() > 800);
    assert!(heard.iter().all(|sample| sample.abs() < 16), "{:?}", &heard[..20]);
}

#[test]
fn a_speaker_who_says_that_it_is_silent_is_not_waited_for() {
    let mut harness = Harness::pcmu(Some(Activity::Coach));
    let noisy = LegMedia { comfort_noise: Some(13), ..media(1, Codec::Pcmu) };
    harness.call.handle_describe(CUSTOMER, noisy, harness.time());
    for _ in 0..10 {
        harness.say(1, CUSTOMER_LEVEL);
        harness.pass(20 * MS);
    }
    harness.payload(1, 13, &[60]);
    let before = harness.to(AGENT).count();
    harness.pass(10 * MS);
    assert_eq!(harness.to(AGENT).count(), before + 1);
}
