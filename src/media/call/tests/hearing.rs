use super::*;

#[test]
fn nobody_hears_anybody_before_the_allow_list_says_so() {
    let mut harness = Harness::pcmu(None);
    harness.call.handle_hear(Hearing::default(), harness.time());
    for _ in 0..50 {
        (0..3).for_each(|index| {
            harness.say(index, LEVELS[index]);
        });
        harness.pass(20 * MS);
    }
    assert!(harness.heard.is_empty());
}

#[test]
fn whatever_codecs_they_have_each_hears_whom_he_may_and_nobody_else() {
    use Codec::{G722, L16, Opus, Pcma, Pcmu};
    let mixtures = [
        [Pcmu, Pcmu, Opus],
        [Opus, Opus, Pcmu],
        [G722, Pcma, Opus],
        [Pcmu, Opus, G722],
        [L16, G722, Pcma],
        [Opus, Opus, Opus],
        [G722, G722, G722],
    ];
    for codecs in mixtures {
        let harness = converse(codecs, Some(Activity::Coach));
        for (listener, hears) in
            [(0, [false, true, true]), (1, [true, false, false]), (2, [true, true, false])]
        {
            for (speaker, hears) in hears.into_iter().enumerate() {
                let level = level_of(&harness, listener, TONES[speaker]);
                match hears {
                    true => assert!(
                        level > -6.0,
                        "{codecs:?}: {listener} hears {speaker} at {level} dB"
                    ),
                    // What Opus and G.722 add of their own lies about 40 dB below.
                    false => assert!(
                        level < -30.0,
                        "{codecs:?}: {listener} hears {speaker} at {level} dB"
                    ),
                }
            }
        }
        let stats = harness.stats(CUSTOMER);
        assert_eq!((stats.mixed, stats.silent, stats.leak_guards), (0, 0, 0));
        assert!(stats.sent >= 149);
        for leg in LEGS {
            let packets: Vec<_> = harness.to(leg).collect();
            let ticks = harness.codecs[harness.call.slot(leg).unwrap()].clock() / 50;
            for two in packets.windows(2).skip(3) {
                assert_eq!(
                    two[1].rtp.timestamp.wrapping_sub(two[0].rtp.timestamp),
                    ticks,
                    "{codecs:?} {leg:?}"
                );
                assert_eq!(two[1].rtp.sequence.wrapping_sub(two[0].rtp.sequence), 1);
            }
        }
    }
}

#[test]
fn what_was_said_while_muted_does_not_come_back_to_conceal_a_loss() {
    let mut harness = Harness::pcmu(Some(Activity::BargeIn));
    harness.mute(true);
    let shout = |harness: &mut Harness| {
        let mut payload = [0; 160];
        let samples: [i16; 160] =
            std::array::from_fn(|n| if n % 40 < 20 { 16_000 } else { -16_000 });
        Encoder::new(Codec::Pcmu).encode(&samples, &mut payload);
        harness.payload(0, 0, &payload);
    };
    for _ in 0..20 {
        shout(&mut harness);
        harness.say(1, 0);
        harness.pass(20 * MS);
    }
    harness.heard.clear();
    harness.mute(false);
    harness.lose(0);
    for _ in 0..3 {
        harness.pass(20 * MS);
        harness.say(0, AGENT_LEVEL);
        harness.lose(0);
    }
    harness.pass(100 * MS);
    let loudest = harness
        .to(CUSTOMER)
        .flat_map(|heard| heard.samples(Codec::Pcmu))
        .map(i16::unsigned_abs)
        .max();
    assert!(loudest <= Some(AGENT_LEVEL.unsigned_abs() + 64), "{loudest:?}");
    assert!(harness.to(CUSTOMER).count() > 0);
}

#[test]
fn nothing_is_decoded_while_nobody_monitors_and_nothing_ever_of_who_is_relayed_alone() {
    let harness = converse([Codec::Opus, Codec::Opus, Codec::Opus], None);
    assert!(harness.call.legs.iter().flatten().all(|leg| leg.speech.decoder.is_none()
        && leg.encoder.0.is_none()
        && !leg.speech.ring.is_open()));
    let stats = harness.stats(AGENT);
    assert_eq!((stats.sent, stats.unchanged), (150, 150));
    let harness = converse([Codec::Opus, Codec::Opus, Codec::Opus], Some(Activity::Coach));
    let customer = harness.call.leg(CUSTOMER).unwrap();
    assert!(customer.encoder.0.is_none() && customer.transcoder.is_none());
    assert_eq!(harness.stats(CUSTOMER).unchanged, harness.stats(CUSTOMER).sent);
}

#[test]
fn the_leak_guard_holds_whatever_codec_is_spoken() {
    let mut harness = Harness::pcmu(Some(Activity::Coach));
    harness.call.handle_describe(SUPERVISOR, several(2, Codec::Pcmu), harness.time());
    harness.say(0, AGENT_LEVEL);
    let customer = harness.call.slot(CUSTOMER).unwrap();
    if let Some(leg) = harness.call.legs[customer].as_mut() {
        leg.route = Route::Pass(2);
    }
    if let Some(leg) = harness.call.legs[2].as_mut() {
        leg.passed_to |= bit(customer);
    }
    for (number, codec) in [(0, Codec::Pcmu), (8, Codec::Pcma), (0, Codec::Pcmu)] {
        harness.say_in(2, number, &mut encoder(codec), SUPERVISOR_LEVEL);
        if harness.last(CUSTOMER).rtp.ssrc == 101 && harness.to(CUSTOMER).count() > 1 {
            assert_eq!(harness.last(CUSTOMER).sent, TransmitKind::Guarded, "{codec:?}");
        }
    }
    assert!(harness.to(CUSTOMER).all(|heard| {
        heard.samples(Codec::Pcmu).iter().all(|sample| *sample < SUPERVISOR_LEVEL / 2)
    }));
    assert!(harness.stats(CUSTOMER).leak_guards > 0);
}

#[test]
fn a_cell_that_roles_forbid_is_silence_and_an_alarm() {
    for also_agent in [true, false] {
        let mut harness = Harness::pcmu(None);
        let mut tampered =
            hearing(Some(Activity::Coach)).cell(CUSTOMER, SUPERVISOR, Some(Gain::UNITY));
        if !also_agent {
            tampered = tampered.cell(CUSTOMER, AGENT, None);
        }
        harness.call.handle_hear(tampered, harness.time());
        for _ in 0..10 {
            harness.say(2, SUPERVISOR_LEVEL);
            harness.say(0, AGENT_LEVEL);
            harness.pass(20 * MS);
        }
        assert!(harness.to(CUSTOMER).count() >= 10);
        for heard in harness.to(CUSTOMER) {
            assert!(
                heard.payload.iter().all(|byte| *byte == 0xff)
                    || heard.sent == TransmitKind::Mixed
                        && is_about(heard.samples(Codec::Pcmu)[0], i32::from(AGENT_LEVEL)),
                "{:?} {:?} {also_agent}",
                heard.sent,
                heard.samples(Codec::Pcmu)
            );
            assert!(
                heard
                    .samples(Codec::Pcmu)
                    .iter()
                    .all(|sample| !is_about(*sample, i32::from(SUPERVISOR_LEVEL)))
            );
        }
        let leak = MediaEvent::LeakGuard {
            call: CallKey(7),
            leg: CUSTOMER,
            reason: LeakReason::NotPermitted,
        };
        assert_eq!(harness.events, [leak], "one alarm a second");
        assert!(harness.stats(CUSTOMER).leak_guards >= 9);
    }
}

#[test]
fn a_muted_agent_reaches_the_supervisor_but_not_the_customer() {
    let mut harness = Harness::pcmu(Some(Activity::Coach));
    harness.say(0, AGENT_LEVEL);
    harness.mute(true);
    for _ in 0..20 {
        harness.pass(20 * MS);
        harness.say(0, AGENT_LEVEL);
    }
    let after: Vec<_> = harness.to(CUSTOMER).skip(1).collect();
    assert!(after.len() > 15);
    assert!(after.iter().all(|heard| heard.sent == TransmitKind::Silent));
    let supervisor = harness.to(SUPERVISOR).last().unwrap();
    assert!(
        supervisor
            .samples(Codec::Pcmu)
            .iter()
            .any(|sample| is_about(*sample, i32::from(AGENT_LEVEL)))
    );
}

#[test]
fn the_leak_guard_says_whether_it_kept_a_secret_or_lacked_a_codec() {
    let mut harness = Harness::new([Codec::Opus, Codec::Pcmu, Codec::Pcmu], Some(Activity::Coach));
    let tell = |harness: &mut Harness| {
        for _ in 0..5 {
            harness.pass(20 * MS);
            harness.speak(0, &payload_of(Codec::Opus));
            harness.say(2, SUPERVISOR_LEVEL);
        }
        std::mem::take(&mut harness.events)
    };
    assert_eq!(tell(&mut harness), []);
    let leak = |reason| MediaEvent::LeakGuard { call: CallKey(7), leg: CUSTOMER, reason };
    if let Some(customer) = harness.call.legs[1].as_mut() {
        customer.transcoder = None;
    }
    assert_eq!(tell(&mut harness), [leak(LeakReason::CodecMismatch)]);
    assert_eq!(harness.last(CUSTOMER).sent, TransmitKind::Guarded);
    if let Some(supervisor) = harness.call.legs[2].as_mut() {
        supervisor.passed_to |= bit(1);
    }
    assert_eq!(
        tell(&mut harness),
        [leak(LeakReason::NotPermitted)],
        "within the same second: one reason does not hide the other"
    );
}

fn payload_of(codec: Codec) -> Vec<u8> {
    let mut payload = vec![0; MAX_PAYLOAD];
    let len = Encoder::new(codec).encode(&vec![0; codec.sample_rate() as usize / 50], &mut payload);
    payload.truncate(len);
    payload
}
