use super::*;

const SUITES: [srtp::Suite; 4] = srtp::Suite::ALL;

fn srtp_key(suite: srtp::Suite, first: u8) -> srtp::MasterKey {
    srtp::MasterKey::new(suite, &vec![first; suite.material_len()]).unwrap()
}

/// The keys of a leg as we have them; the phone's `Protection` has them the other way round.
fn srtp_keys(suite: srtp::Suite, ours: u8, theirs: u8) -> srtp::Keys {
    srtp::Keys { ours: srtp_key(suite, ours), theirs: srtp_key(suite, theirs) }
}

fn secure(harness: &mut Harness, index: usize, keys: &srtp::Keys) {
    let codec = harness.codecs[index];
    harness.call.handle_keys(LEGS[index], Some(keys));
    harness.call.handle_describe(LEGS[index], media(index, codec), harness.time());
}

/// The next packet of a phone, protected by it.
fn protected(
    harness: &mut Harness,
    index: usize,
    phone: &mut Protection,
    payload: &[u8],
) -> Vec<u8> {
    let (sequence, timestamp) = harness.phones[index];
    harness.phones[index] = (sequence.wrapping_add(1), timestamp.wrapping_add(160));
    let mut buffer = [0; MAX_PROTECTED];
    let clear = packet(index, 0, sequence, timestamp, payload);
    phone.protect_rtp(&clear, &mut buffer).unwrap().to_vec()
}

/// One datagram in; what leaves to a leg, as it leaves.
fn raw(
    harness: &mut Harness,
    index: usize,
    from: SocketAddr,
    mut bytes: Vec<u8>,
    to: usize,
) -> (PacketVerdict, Vec<Vec<u8>>) {
    let now = harness.time();
    let mut sent = Vec::new();
    let verdict = harness.call.handle_rtp(index, from, &mut bytes, now, &mut |packet| {
        if packet.slot == to {
            sent.push(packet.bytes.to_vec());
        }
    });
    (verdict, sent)
}

#[test]
fn srtp_toward_the_agent_and_clear_toward_the_customer_carry_the_same_payload() {
    for suite in SUITES {
        let mut harness = Harness::pcmu(None);
        let keys = srtp_keys(suite, 1, 2);
        let mut phone = Protection::new(&srtp_keys(suite, 2, 1));
        secure(&mut harness, 0, &keys);
        for round in 0..50_u8 {
            let secret = protected(&mut harness, 0, &mut phone, &[round; 160]);
            let (verdict, sent) = raw(&mut harness, 0, address(0), secret, 1);
            assert_eq!(verdict, PacketVerdict::Accepted);
            assert_eq!(sent.len(), 1);
            assert_eq!(sent[0][HEADER..], [round; 160]);

            let clear =
                packet(1, 0, u16::from(round), u32::from(round) * 160, &[round ^ 0x55; 160]);
            let (_, sent) = raw(&mut harness, 1, address(1), clear, 0);
            let mut sent = sent.into_iter().next().unwrap();
            assert_ne!(sent[HEADER..HEADER + 160], [round ^ 0x55; 160]);
            assert_eq!(phone.unprotect_rtp(&mut sent), Ok(HEADER + 160));
            assert_eq!(sent[HEADER..HEADER + 160], [round ^ 0x55; 160]);
        }
        let (agent, customer) = (harness.stats(AGENT), harness.stats(CUSTOMER));
        assert_eq!((agent.received, agent.unchanged, agent.srtp_rejected), (50, 50, 0));
        assert_eq!((customer.received, customer.unchanged), (50, 50));
    }
}

#[test]
fn the_longest_packet_passes_under_srtp() {
    let mut harness = Harness::pcmu(None);
    secure(&mut harness, 0, &srtp_keys(SUITES[0], 1, 2));
    let (verdict, sent) =
        raw(&mut harness, 1, address(1), packet(1, 0, 1, 1, &[9; MAX_PAYLOAD]), 0);
    assert_eq!((verdict, sent[0].len()), (PacketVerdict::Accepted, HEADER + MAX_PAYLOAD + 16));
    let mut phone = Protection::new(&srtp_keys(SUITES[0], 2, 1));
    let secret = protected(&mut harness, 0, &mut phone, &[9; MAX_PAYLOAD]);
    let (verdict, sent) = raw(&mut harness, 0, address(0), secret, 1);
    assert_eq!((verdict, sent[0].len()), (PacketVerdict::Accepted, HEADER + MAX_PAYLOAD));
}

#[test]
fn bad_packets_are_dropped_and_counted_and_end_nothing() {
    let mut harness = Harness::pcmu(None);
    let mut phone = Protection::new(&srtp_keys(SUITES[2], 2, 1));
    let mut stranger = Protection::new(&srtp_keys(SUITES[2], 3, 1));
    secure(&mut harness, 0, &srtp_keys(SUITES[2], 1, 2));
    let first = protected(&mut harness, 0, &mut phone, &[1; 160]);
    assert_eq!(raw(&mut harness, 0, address(0), first.clone(), 1).0, PacketVerdict::Accepted);
    for round in 0..200_u8 {
        let forged = match round % 3 {
            0 => protected(&mut harness, 0, &mut stranger, &[round; 160]),
            1 => packet(0, 0, 9000, 9000, &[round; 160]),
            _ => vec![0x80; 13],
        };
        let (verdict, sent) = raw(&mut harness, 0, address(0), forged, 1);
        assert_eq!((verdict, sent.len()), (PacketVerdict::Unauthenticated, 0));
    }
    assert_eq!(raw(&mut harness, 0, address(0), first, 1).0, PacketVerdict::Replayed);
    assert_eq!(raw(&mut harness, 0, address(2), vec![0x80; 172], 1).0, PacketVerdict::Foreign);
    let next = protected(&mut harness, 0, &mut phone, &[7; 160]);
    let (verdict, sent) = raw(&mut harness, 0, address(0), next, 1);
    assert_eq!((verdict, &sent[0][HEADER..]), (PacketVerdict::Accepted, &[7; 160][..]));
    let stats = harness.stats(AGENT);
    assert_eq!(
        (stats.srtp_rejected, stats.srtp_replayed, stats.foreign, stats.received, stats.malformed),
        (200, 1, 1, 2, 0)
    );
}

#[test]
fn a_new_key_counts_at_once_and_what_was_on_its_way_is_heard() {
    let mut harness = Harness::pcmu(None);
    let mut before = Protection::new(&srtp_keys(SUITES[0], 2, 1));
    secure(&mut harness, 0, &srtp_keys(SUITES[0], 1, 2));
    let packet = protected(&mut harness, 0, &mut before, &[1; 160]);
    assert_eq!(raw(&mut harness, 0, address(0), packet, 1).0, PacketVerdict::Accepted);
    // Of two packets under the key before one is too late.
    let on_its_way = [(); 2].map(|()| protected(&mut harness, 0, &mut before, &[2; 160]));
    secure(&mut harness, 0, &srtp_keys(SUITES[0], 1, 4));
    let [soon, late] = on_its_way;
    assert_eq!(raw(&mut harness, 0, address(0), soon, 1).0, PacketVerdict::Accepted);
    let mut after = Protection::new(&srtp_keys(SUITES[0], 4, 1));
    for round in 0..5 {
        let packet = protected(&mut harness, 0, &mut after, &[round; 160]);
        let (verdict, sent) = raw(&mut harness, 0, address(0), packet, 1);
        assert_eq!((verdict, &sent[0][HEADER..]), (PacketVerdict::Accepted, &[round; 160][..]));
    }
    assert_eq!(raw(&mut harness, 0, address(0), late, 1).0, PacketVerdict::Unauthenticated);
    // Our own key has stayed: the phone's decryption goes on.
    harness.say(1, CUSTOMER_LEVEL);
    assert_eq!(harness.stats(CUSTOMER).sent, 7);
}

#[test]
fn the_same_description_again_leaves_srtp_where_it_is() {
    let mut harness = Harness::pcmu(None);
    let keys = srtp_keys(SUITES[1], 1, 2);
    let mut phone = Protection::new(&srtp_keys(SUITES[1], 2, 1));
    secure(&mut harness, 0, &keys);
    let packet = protected(&mut harness, 0, &mut phone, &[1; 160]);
    assert_eq!(raw(&mut harness, 0, address(0), packet.clone(), 1).0, PacketVerdict::Accepted);
    secure(&mut harness, 0, &keys);
    assert_eq!(raw(&mut harness, 0, address(0), packet, 1).0, PacketVerdict::Replayed);
}

#[test]
fn a_port_behind_a_nat_is_learned_from_authentic_packets_alone() {
    let mut harness = Harness::pcmu(None);
    let mut phone = Protection::new(&srtp_keys(SUITES[2], 2, 1));
    harness.call.handle_keys(AGENT, Some(&srtp_keys(SUITES[2], 1, 2)));
    let behind = LegMedia { nat: true, ..media(0, Codec::Pcmu) };
    harness.call.handle_describe(AGENT, behind, harness.time());
    let mut elsewhere = address(0);
    elsewhere.set_port(5555);
    for sequence in 0..4 {
        let clear = packet(0, 0, sequence, 0, &[1; 160]);
        assert_eq!(raw(&mut harness, 0, elsewhere, clear, 1).0, PacketVerdict::Foreign);
    }
    let verdicts = [(); 3].map(|()| {
        let secret = protected(&mut harness, 0, &mut phone, &[1; 160]);
        raw(&mut harness, 0, elsewhere, secret, 1).0
    });
    assert_eq!(
        verdicts,
        [PacketVerdict::Foreign, PacketVerdict::Accepted, PacketVerdict::Accepted]
    );
}

#[test]
fn reports_are_protected_both_ways() {
    let mut harness = Harness::pcmu(None);
    let mut phone = Protection::new(&srtp_keys(SUITES[3], 2, 1));
    secure(&mut harness, 0, &srtp_keys(SUITES[3], 1, 2));
    let mut sent = Vec::new();
    for _ in 0..3 {
        harness.now = harness.call.poll_timeout().unwrap().saturating_duration_since(harness.start);
        let now = Now { mono: harness.time(), wall: Timestamp(0) };
        harness.call.handle_timeout(now, &mut |packet| {
            if packet.slot == 0 && packet.sent == TransmitKind::Rtcp {
                sent.push(packet.bytes.to_vec());
            }
        });
    }
    assert!(!sent.is_empty());
    for report in &mut sent {
        let len = phone.unprotect_rtcp(report).unwrap();
        assert!(rtcp::read(&report[..len], 100).is_ok());
    }
    let from = SocketAddr::new(address(0).ip(), address(0).port() + 1);
    let report = [0x80, 201, 0, 1, 0, 0, 0, 9];
    let mut buffer = [0; 64];
    let secret = phone.protect_rtcp(&report, &mut buffer).unwrap();
    assert_eq!(harness.call.handle_rtcp(0, from, secret, harness.time()), PacketVerdict::Accepted);
    assert_eq!(harness.call.handle_rtcp(0, from, secret, harness.time()), PacketVerdict::Replayed);
    assert_eq!(
        harness.call.handle_rtcp(0, from, &report, harness.time()),
        PacketVerdict::Unauthenticated
    );
    let stats = harness.stats(AGENT);
    assert_eq!((stats.rtcp_received, stats.srtp_replayed, stats.srtp_rejected), (1, 1, 1));
}
