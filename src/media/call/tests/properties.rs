use super::*;
use proptest::prelude::*;

/// What the network and the supervision do.
#[derive(Clone, Debug)]
enum Step {
    Say(usize),
    Lose(usize),
    /// Two packets of a phone change places.
    Swap(usize),
    Restart(usize),
    Stranger(usize),
    Hear(Option<Activity>),
    Mute(bool),
    /// A phone goes on in the one law or in the other.
    Turn(usize, bool),
    Hold(usize, bool),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let activity = prop_oneof![
        Just(None),
        Just(Some(Activity::ListenIn)),
        Just(Some(Activity::Coach)),
        Just(Some(Activity::BargeIn))
    ];
    prop_oneof![
        12 => (0usize..3).prop_map(Step::Say),
        1 => (0usize..3).prop_map(Step::Lose),
        1 => (0usize..3).prop_map(Step::Swap),
        1 => (0usize..3).prop_map(Step::Restart),
        1 => (0usize..3).prop_map(Step::Stranger),
        1 => activity.prop_map(Step::Hear),
        1 => any::<bool>().prop_map(Step::Mute),
        1 => (0usize..3, any::<bool>()).prop_map(|(index, other)| Step::Turn(index, other)),
        1 => (0usize..3, any::<bool>()).prop_map(|(index, held)| Step::Hold(index, held)),
        8 => (1u64..40).prop_map(Step::Pass),
    ]
}

/// Each phone says one level; a sample is a sum of some of them, so who is in it can be read off.
/// The levels double and more, with room for quantising and for the slopes between sound and
/// silence.
fn speakers_in(sample: i16) -> Option<u8> {
    (0..8u8).find(|mask| {
        let level: i32 = (0..3)
            .filter(|index| mask & 1 << index != 0)
            .map(|index| i32::from(LEVELS[index]))
            .sum();
        is_about(sample, level)
    })
}

fn play(steps: &[Step], mut check: impl FnMut(&Harness, Option<Activity>, bool, usize)) -> Harness {
    let mut harness = Harness::pcmu(None);
    for (index, leg) in LEGS.into_iter().enumerate() {
        harness.call.handle_describe(leg, several(index, Codec::Pcmu), harness.time());
    }
    let (mut activity, mut muted) = (None, false);
    for step in steps {
        let before = harness.heard.len();
        match *step {
            Step::Say(index) => {
                harness.say(index, LEVELS[index]);
            }
            Step::Lose(index) => harness.lose(index),
            Step::Swap(index) => {
                let (sequence, timestamp) = harness.phones[index];
                harness.phones[index] = (sequence.wrapping_add(1), timestamp.wrapping_add(160));
                harness.say(index, LEVELS[index]);
                let mut payload = [0; 160];
                let codec = harness.codecs[index];
                Encoder::new(codec).encode(&[LEVELS[index]; 160], &mut payload);
                let late = packet(index, codec.payload_type(), sequence, timestamp, &payload);
                harness.datagram(index, address(index), late);
            }
            Step::Restart(index) => {
                harness.phones[index] =
                    (harness.phones[index].0 ^ 0x5a5a, harness.phones[index].1 ^ 0xdead_beef)
            }
            Step::Stranger(index) => {
                let mut payload = [0; 160];
                Encoder::new(Codec::Pcmu).encode(&[-20_000; 160], &mut payload);
                harness.datagram(index, address(9), packet(index, 0, 1, 160, &payload));
            }
            Step::Hear(next) => {
                activity = next;
                harness.hear(next);
            }
            Step::Mute(next) => {
                muted = next;
                harness.mute(next);
            }
            Step::Turn(index, other) => {
                harness.codecs[index] = if other { Codec::Pcma } else { Codec::Pcmu }
            }
            Step::Hold(index, held) => {
                let held = LegMedia { receive: !held, ..several(index, Codec::Pcmu) };
                harness.call.handle_describe(LEGS[index], held, harness.time());
            }
            Step::Pass(ms) => harness.pass(Duration::from_millis(ms)),
        }
        check(&harness, activity, muted, before);
    }
    harness
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_nobody_hears_whom_the_table_does_not_allow(
        steps in proptest::collection::vec(step(), 1..250)
    ) {
        let harness = play(&steps, |harness, activity, muted, before| {
            for heard in &harness.heard[before..] {
                let agent = if muted { 0 } else { 1 };
                let allowed = match (heard.listener, activity) {
                    (AGENT, None | Some(Activity::ListenIn)) => 2,
                    (AGENT, Some(Activity::Coach | Activity::BargeIn)) => 2 | 4,
                    (CUSTOMER, None | Some(Activity::ListenIn | Activity::Coach)) => agent,
                    (CUSTOMER, Some(Activity::BargeIn)) => agent | 4,
                    (SUPERVISOR, Some(_)) => 1 | 2,
                    _ => 0,
                };
                let samples = heard.samples(Codec::Pcmu);
                // A leg that fades in or out is anywhere below its level; one that goes on is at
                // it.
                let most: i32 = (0..3)
                    .filter(|index| allowed & 1 << index != 0)
                    .map(|index| i32::from(LEVELS[index]))
                    .sum();
                let is_steady = samples.iter().all(|sample| *sample == samples[0]);
                let is_forbidden = |sample: i16| match is_steady {
                    true => speakers_in(sample).is_none_or(|speakers| speakers & !allowed != 0),
                    false => !(-64..=most + 64 + most / 16).contains(&i32::from(sample)),
                };
                let forbidden: Vec<_> =
                    samples.into_iter().filter(|sample| is_forbidden(*sample)).collect();
                // A sample between sound and silence may fall between two levels.
                assert!(
                    forbidden.len() <= 3,
                    "{:?} heard {forbidden:?} in {activity:?}",
                    heard.listener
                );
            }
        });
        for leg in LEGS {
            let sequences: Vec<_> = harness.to(leg).map(|heard| heard.rtp.ssrc).collect();
            prop_assert!(sequences.windows(2).all(|two| two[0] == two[1]));
            prop_assert_eq!(harness.stats(leg).leak_guards, 0);
        }
    }

    #[test]
    fn the_customers_bytes_are_the_same_whether_or_not_somebody_coaches(
        steps in proptest::collection::vec(step(), 1..250)
    ) {
        let alone: Vec<_> = steps
            .iter()
            .filter(|step| !matches!(step, Step::Hear(_) | Step::Mute(_)))
            .cloned()
            .collect();
        let coached: Vec<_> = steps
            .iter()
            .filter(|step| !matches!(step, Step::Mute(_)))
            .map(|step| match step {
                Step::Hear(Some(Activity::BargeIn)) => Step::Hear(Some(Activity::Coach)),
                other => other.clone(),
            })
            .collect();
        let sent = |steps: &[Step]| {
            let harness = play(steps, |_, _, _, _| {});
            let stats = harness.stats(CUSTOMER);
            assert_eq!(stats.sent, stats.unchanged + stats.transcoded);
            harness
                .to(CUSTOMER)
                .map(|heard| {
                    (heard.at, heard.rtp.sequence, heard.rtp.timestamp, heard.payload.clone())
                })
                .collect::<Vec<_>>()
        };
        prop_assert_eq!(sent(&alone), sent(&coached));
    }
}
