use super::*;

#[test]
fn a_stranger_is_counted_and_neither_heard_nor_answered() {
    let mut harness = Harness::pcmu(Some(Activity::Coach));
    harness.say(0, AGENT_LEVEL);
    let stranger = SocketAddr::from(([127, 0, 0, 3], 4000));
    let before = harness.heard.len();
    for (index, leg) in LEGS.into_iter().enumerate() {
        let spray = packet(index, 0, 1, 160, &[0; 160]);
        assert_eq!(harness.datagram(index, stranger, spray), PacketVerdict::Foreign);
        let mut port = address(index);
        port.set_port(4002);
        assert_eq!(
            harness.datagram(index, port, packet(index, 0, 1, 160, &[0; 160])),
            PacketVerdict::Foreign
        );
        assert_eq!(harness.stats(leg).foreign, 2);
    }
    assert_eq!(harness.heard.len(), before);
}

#[test]
fn behind_a_nat_the_port_is_learned_once_and_no_other_host_ever() {
    let mut harness = Harness::pcmu(None);
    let nat = LegMedia { nat: true, ..media(0, Codec::Pcmu) };
    harness.call.handle_describe(AGENT, nat, harness.time());
    let mut real = address(0);
    real.set_port(9999);
    let stranger = SocketAddr::from(([127, 0, 0, 3], 9999));
    assert_eq!(
        harness.datagram(0, stranger, packet(0, 0, 1, 160, &[0; 160])),
        PacketVerdict::Foreign
    );
    assert_eq!(
        harness.datagram(0, stranger, packet(0, 0, 2, 320, &[0; 160])),
        PacketVerdict::Foreign
    );
    assert_eq!(harness.datagram(0, real, packet(0, 0, 1, 160, &[0; 160])), PacketVerdict::Foreign);
    assert_eq!(harness.datagram(0, real, packet(0, 0, 2, 320, &[0; 160])), PacketVerdict::Accepted);
    assert_eq!(harness.datagram(0, real, packet(0, 0, 3, 480, &[0; 160])), PacketVerdict::Accepted);
    assert_eq!(
        harness.datagram(0, address(0), packet(0, 0, 4, 640, &[0; 160])),
        PacketVerdict::Foreign
    );
    let mut third = address(0);
    third.set_port(7777);
    for sequence in 5..9 {
        assert_eq!(
            harness.datagram(0, third, packet(0, 0, sequence, 0, &[0; 160])),
            PacketVerdict::Foreign
        );
    }
}

#[test]
fn what_nobody_agreed_to_is_dropped() {
    let mut harness = Harness::pcmu(None);
    let from = address(0);
    assert_eq!(
        harness.datagram(0, from, packet(0, 77, 1, 160, &[0; 160])),
        PacketVerdict::Malformed
    );
    assert_eq!(
        harness.datagram(0, from, packet(0, 8, 1, 160, &[0; 160])),
        PacketVerdict::Malformed
    );
    assert_eq!(harness.datagram(0, from, packet(0, 0, 1, 160, &[])), PacketVerdict::Malformed);
    assert_eq!(harness.datagram(0, from, vec![0x80; 3]), PacketVerdict::Malformed);
    assert_eq!(
        harness.datagram(0, from, packet(0, TELEPHONE_EVENT, 1, 160, &[255, 0x8a, 255, 255])),
        PacketVerdict::Discarded
    );
    let held = LegMedia { receive: false, ..media(0, Codec::Pcmu) };
    harness.call.handle_describe(AGENT, held, harness.time());
    assert_eq!(
        harness.datagram(0, from, packet(0, 0, 1, 160, &[0; 160])),
        PacketVerdict::Discarded
    );
    assert!(harness.heard.is_empty());
    assert!(harness.events.is_empty());
}

#[test]
fn who_sends_nothing_for_15_s_is_reported_once_until_he_sends_again() {
    let mut harness = Harness::pcmu(None);
    for leg in [CUSTOMER, SUPERVISOR] {
        harness.call.take(leg, harness.time());
    }
    harness.pass(Duration::from_secs(14));
    assert!(harness.events.is_empty());
    harness.pass(Duration::from_secs(60));
    harness.say(0, 0);
    harness.pass(Duration::from_secs(16));
    let (inactive, active) =
        (MediaEvent::Inactive { leg: AGENT }, MediaEvent::Active { leg: AGENT });
    assert_eq!(harness.events, [inactive.clone(), active, inactive]);
}
