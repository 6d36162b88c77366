//! A codec that is only relayed: its bytes arrive as they are, or nothing does.

use super::*;
use proptest::prelude::*;

/// Two frames of G.729, of no meaning.
fn frames(round: u8) -> [u8; 20] {
    std::array::from_fn(|at| round.wrapping_mul(31).wrapping_add(at as u8))
}

fn g729(codecs: [Codec; 3], activity: Option<Activity>) -> Harness {
    Harness::new(codecs, activity)
}

#[test]
fn g729_on_both_sides_arrives_byte_for_byte_with_silence_descriptors_and_pauses() {
    let mut harness = g729([Codec::G729; 3], None);
    let mut said = Vec::new();
    for round in 0..50u8 {
        let payload = match round % 10 {
            // A pause: nothing is sent, and the timestamps go on.
            7 | 8 => None,
            6 => Some(frames(round)[..2].to_vec()),
            5 => Some(frames(round)[..12].to_vec()),
            _ => Some(frames(round).to_vec()),
        };
        if payload.is_none() {
            harness.phones[0].1 = harness.phones[0].1.wrapping_add(160);
        }
        if let Some(payload) = payload {
            assert_eq!(harness.speak(0, &payload), PacketVerdict::Accepted);
            said.push(payload);
        }
        harness.speak(1, &frames(!round));
        harness.pass(20 * MS);
    }
    let heard: Vec<_> = harness.to(CUSTOMER).map(|heard| heard.payload.clone()).collect();
    assert_eq!(heard, said);
    assert!(harness.to(CUSTOMER).all(|heard| heard.rtp.payload_type == 18));
    let stats = harness.stats(CUSTOMER);
    assert_eq!((stats.sent, stats.unchanged), (said.len() as u64, said.len() as u64));
    assert_eq!(harness.stats(AGENT).unchanged, 50);
}

#[test]
fn what_is_no_frame_of_g729_goes_to_nobody() {
    let mut harness = g729([Codec::G729; 3], None);
    assert_eq!(harness.payload(0, 18, &[1; 11]), PacketVerdict::Malformed);
    assert_eq!(harness.to(CUSTOMER).count(), 0);
}

#[test]
fn digits_pass_beside_g729_and_are_sent_in_the_name_of_its_legs() {
    let mut harness = g729([Codec::G729; 3], None);
    harness.payload(0, TELEPHONE_EVENT, &[5, 10, 0, 160]);
    let passed = harness.last(CUSTOMER);
    assert_eq!((passed.rtp.payload_type, passed.payload[0]), (TELEPHONE_EVENT, 5));
    harness.call.handle_digits(AGENT, "7", harness.time());
    for _ in 0..20 {
        harness.speak(0, &frames(1));
        harness.pass(20 * MS);
    }
    assert!(
        harness
            .to(CUSTOMER)
            .any(|heard| heard.rtp.payload_type == TELEPHONE_EVENT && heard.payload[0] == 7)
    );
}

#[test]
fn nothing_of_our_own_is_sent_in_g729_and_the_relay_goes_on_after_it() {
    let mut harness = g729([Codec::G729; 3], None);
    harness.speak(0, &frames(1));
    assert_eq!(harness.to(CUSTOMER).count(), 1);
    harness.call.handle_beep(CUSTOMER, harness.time());
    harness.speak(0, &frames(2));
    assert_eq!(harness.to(CUSTOMER).count(), 2, "the beep is in nobody's way");
    harness.mute(true);
    let music = Music::read(&[0x10; 8000], false).unwrap();
    harness.call.handle_music(CUSTOMER, Some(music), harness.time());
    for round in 0..50 {
        harness.speak(0, &frames(round));
        harness.pass(20 * MS);
    }
    assert_eq!(harness.to(CUSTOMER).count(), 2, "no music, no silence, no speech");
    assert!(harness.to(CUSTOMER).all(|heard| heard.sent == TransmitKind::Unchanged));
    harness.call.handle_music(CUSTOMER, None, harness.time());
    harness.mute(false);
    harness.speak(0, &frames(9));
    assert_eq!(harness.last(CUSTOMER).payload, frames(9));
}

#[test]
fn between_g729_and_another_codec_silence_is_heard_on_the_one_side_and_nothing_on_the_other() {
    let mut harness = g729([Codec::G729, Codec::Pcmu, Codec::Pcmu], None);
    for round in 0..10 {
        harness.speak(0, &frames(round));
        harness.say(1, CUSTOMER_LEVEL);
        harness.pass(20 * MS);
    }
    assert!(harness.to(CUSTOMER).count() > 0);
    for heard in harness.to(CUSTOMER) {
        assert_eq!(heard.sent, TransmitKind::Guarded);
        assert!(heard.payload.iter().all(|octet| *octet == 0xff), "{:?}", heard.payload);
    }
    assert_eq!(harness.to(AGENT).count(), 0);
    let mismatches = harness.events.iter().filter(|event| {
        matches!(event, MediaEvent::LeakGuard { reason: LeakReason::CodecMismatch, .. })
    });
    assert_eq!(mismatches.count(), 2, "one of each side within a second");
}

#[test]
fn a_supervisor_on_a_call_in_g729_is_heard_by_nobody_and_hears_silence() {
    for codecs in [
        [Codec::G729, Codec::G729, Codec::Pcmu],
        [Codec::G729; 3],
        [Codec::G729, Codec::Pcmu, Codec::Pcmu],
        [Codec::Pcmu, Codec::G729, Codec::Pcmu],
    ] {
        for activity in [Activity::ListenIn, Activity::Coach, Activity::BargeIn] {
            let mut harness = g729(codecs, Some(activity));
            for round in 0..50u8 {
                for (leg, codec) in codecs.into_iter().enumerate() {
                    match codec {
                        Codec::G729 => harness.speak(leg, &frames(round)),
                        _ => harness.say(leg, SUPERVISOR_LEVEL),
                    };
                }
                harness.pass(20 * MS);
            }
            for (leg, codec) in
                LEGS.into_iter().zip(codecs).filter(|(_, codec)| *codec == Codec::G729)
            {
                // What is sent at all is the one other party's, as it was said.
                let said: Vec<_> = (0..50).map(frames).collect();
                for heard in harness.to(leg) {
                    assert_eq!(heard.sent, TransmitKind::Unchanged, "{codec:?} {activity:?}");
                    assert!(said.iter().any(|said| heard.payload == said));
                }
            }
            if codecs[..2] == [Codec::G729; 2] {
                let heard = harness
                    .to(SUPERVISOR)
                    .all(|heard| heard.samples(Codec::Pcmu).iter().all(|sample| sample.abs() <= 8));
                assert!(heard, "{codecs:?} {activity:?}");
            }
        }
    }
}

/// One thing that comes, or is agreed.
#[derive(Clone, Debug)]
enum Step {
    /// A packet of this phone with this payload type and length: sound, and what is none.
    Packet(usize, u8, usize),
    Describe(usize, Codec, bool),
    Hear(Option<Activity>),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let codec = prop::sample::select(vec![Codec::G729, Codec::G729, Codec::Pcmu, Codec::G722]);
    let payload_type = prop::sample::select(vec![18_u8, 18, 18, 0, 8, 9, 13, TELEPHONE_EVENT]);
    let len = prop::sample::select(vec![20_usize, 20, 20, 2, 12, 0, 1, 160, 11, 600, 1400]);
    let activity = prop::option::of(prop::sample::select(Activity::ALL.to_vec()));
    prop_oneof![
        12 => (0..3_usize, payload_type, len).prop_map(|(at, number, len)| Step::Packet(at, number, len)),
        1 => (0..3_usize, codec, any::<bool>())
            .prop_map(|(at, codec, send)| Step::Describe(at, codec, send)),
        1 => activity.prop_map(Step::Hear),
        6 => (1..40_u64).prop_map(Step::Pass),
    ]
}

/// Every phone may send everything, whatever it is sent.
fn anything(index: usize, codec: Codec, send: bool) -> LegMedia {
    let audio = |codec: Codec| (codec.payload_type(), Format::Audio(codec));
    let receives = PayloadTypes::of(&[
        audio(Codec::G729),
        audio(Codec::Pcmu),
        audio(Codec::Pcma),
        audio(Codec::G722),
        (13, Format::ComfortNoise),
        (TELEPHONE_EVENT, Format::Events(EventClock::Narrow)),
    ]);
    LegMedia { receives, send, comfort_noise: Some(13), ..media(index, codec) }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_in_whatever_codec_g729_is_passed_to_those_who_may_hear_it_and_made_by_nobody(
        steps in prop::collection::vec(step(), 1..200)
    ) {
        let mut harness = g729([Codec::G729; 3], None);
        for (index, leg) in LEGS.into_iter().enumerate() {
            harness.call.handle_describe(leg, anything(index, Codec::G729, true), harness.time());
        }
        for step in steps {
            match step {
                Step::Packet(index, payload_type, len) => {
                    harness.payload(index, payload_type, &vec![0x41 + index as u8; len]);
                }
                Step::Describe(index, codec, send) => {
                    let media = anything(index, codec, send);
                    harness.call.handle_describe(LEGS[index], media, harness.time());
                }
                Step::Hear(activity) => harness.hear(activity),
                Step::Pass(ms) => harness.pass(Duration::from_millis(ms)),
            }
        }
        for heard in harness.heard.iter().filter(|heard| heard.rtp.payload_type == 18) {
            let from: &[u8] = match heard.listener {
                AGENT => &[0x42],
                CUSTOMER => &[0x41],
                _ => &[0x41, 0x42],
            };
            prop_assert_eq!(heard.sent, TransmitKind::Unchanged);
            prop_assert!(heard.payload.iter().all(|octet| from.contains(octet)), "{:?}", heard);
        }
    }
}
