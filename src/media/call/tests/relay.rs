use super::*;

#[test]
fn without_a_supervisor_both_sides_are_relayed_byte_for_byte() {
    let mut harness = Harness::pcmu(None);
    for round in 0..50u8 {
        harness.payload(0, 0, &[round; 160]);
        harness.payload(1, 0, &[round ^ 0x55; 160]);
        harness.pass(20 * MS);
    }
    let to_customer: Vec<_> = harness.to(CUSTOMER).map(|heard| heard.payload[0]).collect();
    let to_agent: Vec<_> = harness.to(AGENT).map(|heard| heard.payload[0]).collect();
    assert_eq!(to_customer, (0..50).collect::<Vec<u8>>());
    assert_eq!(to_agent, (0..50).map(|round| round ^ 0x55).collect::<Vec<u8>>());
    assert_eq!(harness.to(SUPERVISOR).count(), 0);
    let stats = harness.stats(CUSTOMER);
    assert_eq!((stats.sent, stats.unchanged), (50, 50));
}

#[test]
fn a_coach_is_heard_by_the_agent_at_once_and_the_customer_gets_the_agents_bytes() {
    let mut harness = Harness::pcmu(Some(Activity::Coach));
    harness.say(1, CUSTOMER_LEVEL);
    harness.pass(10 * MS);
    harness.say(2, SUPERVISOR_LEVEL);
    harness.pass(10 * MS);
    harness.say(0, AGENT_LEVEL);
    harness.say(1, CUSTOMER_LEVEL);
    let agent = harness.last(AGENT);
    assert_eq!(agent.sent, TransmitKind::Mixed);
    assert_eq!(agent.at, 20 * MS, "the mix leaves with the customer's packet");
    // The coach begins softly: 4 ms.
    for sample in &agent.samples(Codec::Pcmu)[32..] {
        assert!(is_about(*sample, i32::from(CUSTOMER_LEVEL) + i32::from(SUPERVISOR_LEVEL)));
    }
    let customer = harness.last(CUSTOMER);
    assert_eq!(customer.sent, TransmitKind::Unchanged);
    assert!(
        customer
            .samples(Codec::Pcmu)
            .iter()
            .all(|sample| is_about(*sample, i32::from(AGENT_LEVEL)))
    );
    harness.pass(10 * MS);
    let supervisor =
        harness.to(SUPERVISOR).filter(|heard| heard.sent == TransmitKind::Mixed).last();
    assert!(supervisor.is_some());
}

#[test]
fn a_customer_with_another_codec_gets_the_same_bytes_whether_or_not_somebody_coaches() {
    use Codec::{G722, L16, Opus, Pcma, Pcmu};
    for (agent, customer) in
        [(Pcmu, Pcma), (G722, Pcmu), (Opus, Pcma), (Pcmu, Opus), (L16, G722), (Opus, G722)]
    {
        for supervisor in [Pcmu, Opus] {
            let sent = |activity| {
                let harness = converse([agent, customer, supervisor], activity);
                let packets = harness
                    .to(CUSTOMER)
                    .map(|heard| (heard.at, heard.rtp.clone(), heard.payload.clone()));
                packets.collect::<Vec<_>>()
            };
            let alone = sent(None);
            assert_eq!(alone.len(), 150, "{agent:?} to {customer:?}");
            assert!(
                alone == sent(Some(Activity::Coach)),
                "{agent:?} to {customer:?} under {supervisor:?}"
            );
            assert!(alone == sent(Some(Activity::ListenIn)));
        }
    }
}

#[test]
fn a_speaker_who_changes_his_codec_goes_on_in_the_time_of_his_listener() {
    let mut harness = Harness::new([Codec::Opus, Codec::Pcmu, Codec::Pcmu], None);
    let mut encoder = Encoder::new(Codec::Opus);
    let mut payload = [0; MAX_PAYLOAD];
    for _ in 0..15 {
        let len = encoder.encode(&[500; 320], &mut payload);
        harness.speak(0, &payload[..len]);
        harness.pass(20 * MS);
    }
    let before = harness.last(CUSTOMER).rtp.clone();
    harness.codecs[0] = Codec::Pcmu;
    harness.call.handle_describe(AGENT, media(0, Codec::Pcmu), harness.time());
    harness.speak(0, &[0x55; 160]);
    let after = harness.last(CUSTOMER).rtp.clone();
    assert_eq!(after.sequence, before.sequence.wrapping_add(1));
    assert_eq!(after.timestamp.wrapping_sub(before.timestamp), 160);
}

#[test]
fn differing_codecs_are_transcoded_and_counted_apart() {
    let mut harness = Harness::new([Codec::Pcmu, Codec::Pcma, Codec::Pcmu], Some(Activity::Coach));
    for _ in 0..10 {
        harness.say(0, AGENT_LEVEL);
        harness.pass(20 * MS);
    }
    let stats = harness.stats(CUSTOMER);
    assert_eq!((stats.sent, stats.unchanged, stats.transcoded), (10, 0, 10));
    assert_eq!(harness.last(CUSTOMER).rtp.payload_type, 8);
    assert!(
        harness
            .last(CUSTOMER)
            .samples(Codec::Pcma)
            .iter()
            .all(|sample| is_about(*sample, i32::from(AGENT_LEVEL)))
    );
}
