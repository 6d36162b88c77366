use super::*;

#[test]
fn when_packets_stop_our_clock_takes_over_two_packet_times_after_the_next_was_due() {
    let mut harness = Harness::pcmu(Some(Activity::Coach));
    for _ in 0..10 {
        harness.say(1, CUSTOMER_LEVEL);
        harness.pass(20 * MS);
    }
    let before = harness.to(AGENT).count();
    harness.pass(39 * MS);
    assert_eq!(harness.to(AGENT).count(), before);
    harness.pass(MS);
    assert_eq!(harness.to(AGENT).count(), before + 2, "nothing is owed");
    harness.pass(200 * MS);
    assert_eq!(harness.to(AGENT).count(), before + 12);
}

#[test]
fn a_packet_that_is_lost_is_replaced_when_the_next_one_comes() {
    let mut harness = Harness::pcmu(Some(Activity::Coach));
    for round in 0..100 {
        match round {
            50 => harness.lose(1),
            _ => drop(harness.say(1, CUSTOMER_LEVEL)),
        }
        harness.pass(20 * MS);
        let frames = harness.to(AGENT).count();
        assert_eq!(frames, if round == 50 { 50 } else { round + 1 });
    }
}

#[test]
fn after_a_hiccup_of_300_ms_the_whispers_delay_returns_to_what_it_was() {
    for speaker in [2, 1] {
        let mut harness = Harness::pcmu(Some(Activity::Coach));
        let mut missing = 0;
        for round in 0..600 {
            let hiccup = (100..115).contains(&round);
            for (index, level) in LEVELS.into_iter().enumerate() {
                if index == speaker && hiccup {
                    missing += 1;
                    continue;
                }
                let late = if index == speaker { std::mem::take(&mut missing) } else { 0 };
                for _ in 0..=late {
                    harness.say(index, level);
                }
            }
            harness.pass(20 * MS);
        }
        // As many frames as the time had: none are waiting in the phone either.
        let frames = harness.to(AGENT).count();
        assert!((598..=601).contains(&frames), "speaker {speaker}: {frames} frames in 600 rounds");
        // The speaker stops: what is still on its way is its delay.
        harness.heard.clear();
        for _ in 0..50 {
            for index in (0..3).filter(|index| *index != speaker) {
                harness.say(index, LEVELS[index]);
            }
            harness.pass(20 * MS);
        }
        let quiet = if speaker == 2 { CUSTOMER_LEVEL } else { SUPERVISOR_LEVEL };
        let still: usize = harness
            .to(AGENT)
            .map(|heard| {
                heard
                    .samples(Codec::Pcmu)
                    .iter()
                    .filter(|sample| !is_about(**sample, i32::from(quiet)) && **sample != 0)
                    .count()
            })
            .sum();
        // And the 60 ms in which what is concealed fades.
        assert!(still <= 240 + 480, "speaker {speaker}: {still} samples of his were still to come");
    }
}

#[test]
fn a_burst_is_not_sent_on_as_a_burst() {
    let mut harness = Harness::pcmu(Some(Activity::Coach));
    for _ in 0..10 {
        harness.say(1, CUSTOMER_LEVEL);
        harness.pass(20 * MS);
    }
    harness.pass(300 * MS);
    let before = harness.to(AGENT).count();
    for _ in 0..15 {
        harness.say(1, CUSTOMER_LEVEL);
    }
    assert!(harness.to(AGENT).count() - before <= 2);
}

/// What the agent gets while the customer's packets are held up once, all else on time.
struct HeldUp {
    /// Frames more than the time had, at the most, and at the end of 12 s.
    most: i64,
    left: i64,
    /// When the last frame more was there.
    until: Duration,
    /// Frames in which the customer's voice is not as it was said.
    changed: usize,
}

/// One hold-up of the customer's packets after 100 rounds; what was held comes at once after it.
fn held_up(hold: Duration, stalls: bool) -> HeldUp {
    let mut harness = Harness::pcmu(Some(Activity::Coach));
    let voice = |round: u32| -> Vec<u8> {
        let samples: Vec<i16> = (0..160)
            .map(|n| {
                let at = f64::from(round * 160 + n) / 8000.0;
                (9000.0
                    * (at * 170.0 * std::f64::consts::TAU).sin()
                    * (1.0 + 0.3 * (at * 3.0).sin())) as i16
            })
            .collect();
        let mut payload = [0; 160];
        Encoder::new(Codec::Pcmu).encode(&samples, &mut payload);
        payload.to_vec()
    };
    let mut said = std::collections::BTreeSet::new();
    let mut most = 0;
    let mut until = Duration::ZERO;
    let origin = harness.now;
    let begin = 100 * 20 * MS;
    let mut waiting: Vec<Vec<u8>> = Vec::new();
    for round in 0..700_u32 {
        let at = origin + round * 20 * MS;
        if !waiting.is_empty() && at >= begin + hold {
            let rest = (begin + hold).saturating_sub(harness.now);
            harness.pass(rest);
            for payload in waiting.drain(..) {
                harness.payload(1, 0, &payload);
            }
        }
        let rest = at.saturating_sub(harness.now);
        match stalls && !waiting.is_empty() {
            true => harness.now = harness.now.max(at),
            false => harness.pass(rest),
        }
        harness.say(0, 0);
        let payload: Vec<u8> = voice(round);
        said.insert(payload.clone());
        match at >= begin && at < begin + hold {
            true => waiting.push(payload),
            false => drop(harness.payload(1, 0, &payload)),
        }
        let frames = harness.to(AGENT).count() as i64 - i64::from(round + 1);
        most = most.max(frames);
        if frames > 0 {
            until = harness.now - begin;
        }
    }
    let changed = harness.to(AGENT).filter(|heard| !said.contains(&heard.payload)).count();
    HeldUp { most, left: harness.to(AGENT).count() as i64 - 700, until, changed }
}

/// What is held up for less than two packet times reaches the agent as it was said, as late as it
/// came; beyond that one frame is made up, and given back within six seconds.
#[test]
fn a_hold_up_of_the_customers_packets_is_no_frame_more_for_the_agent_and_no_word_less() {
    let calm = held_up(Duration::ZERO, false);
    assert_eq!((calm.most, calm.left), (0, 0));
    for stalls in [false, true] {
        for hold in [5, 9, 12, 15, 19, 25, 29, 35, 39] {
            let seen = held_up(hold * MS, stalls);
            assert_eq!((seen.most, seen.left), (0, 0), "{hold} ms");
            assert!(
                seen.changed <= calm.changed,
                "{hold} ms: {} frames are not as they were said",
                seen.changed
            );
        }
    }
    for hold in [45, 65, 85, 125, 205] {
        let seen = held_up(hold * MS, false);
        assert!(
            seen.most <= 1 && seen.left <= 0 && seen.until <= Duration::from_millis(6500),
            "{hold} ms"
        );
    }
}
