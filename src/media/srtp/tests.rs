use super::*;
use proptest::prelude::*;

const SSRC: u32 = 0xcafe_babe;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let octet = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    digits.chunks(2).map(octet).collect()
}

fn key(suite: Suite, first: u8) -> MasterKey {
    let material: Vec<u8> =
        (0..suite.material_len()).map(|n| first.wrapping_add(n as u8)).collect();
    MasterKey::new(suite, &material).unwrap()
}

fn pair(suite: Suite) -> (Protect, Unprotect) {
    let key = key(suite, 7);
    (Protect::new(&key), Unprotect::new(&key))
}

fn rtp(ssrc: u32, sequence: u16, payload: &[u8]) -> Vec<u8> {
    let [high, low] = sequence.to_be_bytes();
    [&[0x80, 0, high, low, 0, 0, 0, 1], &ssrc.to_be_bytes()[..], payload].concat()
}

fn protected(outbound: &mut Protect, packet: &[u8]) -> Option<Vec<u8>> {
    let mut buffer = [0; 2048];
    outbound.protect_rtp(packet, &mut buffer).map(<[u8]>::to_vec)
}

fn say(outbound: &mut Protect, sequence: u16) -> Vec<u8> {
    protected(outbound, &rtp(SSRC, sequence, &[sequence as u8; 160])).unwrap()
}

fn hear(inbound: &mut Unprotect, packet: &[u8]) -> Result<Vec<u8>, SrtpError> {
    let mut packet = packet.to_vec();
    let len = inbound.unprotect_rtp(&mut packet)?;
    packet.truncate(len);
    Ok(packet)
}

/// The example of RFC 3711 B.3, which libsrtp's own tests protect packets with.
fn example(suite: Suite) -> MasterKey {
    MasterKey::new(suite, &hex("e1f97a0d3e018be0d64fa32c06de4139 0ec675ad498afeebb6960b3aabe6"))
        .unwrap()
}

#[test]
fn session_keys_are_those_of_rfc_3711_b_3() {
    let key = example(Suite::AesCm128HmacSha1_80);
    assert_eq!(derive::<16>(&key, 0).to_vec(), hex("c61e7a93744f39ee10734afe3ff7a087"));
    assert_eq!(derive::<14>(&key, 2).to_vec(), hex("30cbbc08863d8c85d49db34a9ae1"));
    assert_eq!(derive::<20>(&key, 1).to_vec(), hex("cebe321f6ff7716b6fd4ab49af256a156d38baa4"));
}

#[test]
fn the_key_stream_is_that_of_rfc_3711_b_2() {
    let aes = Aes128::new_from_slice(&hex("2b7e151628aed2a6abf7158809cf4f3c")).unwrap();
    let mut stream = [0; 48];
    key_stream(&aes, 0xf0f1_f2f3_f4f5_f6f7_f8f9_fafb_fcfd_0000, &mut stream);
    assert_eq!(
        stream.to_vec(),
        hex("e03ead0935c95e80e166b16dd92b4eb4 d23513162b02d0f72a43a2fe4a5f97ab \
             41e95b3bb0a2e8dd477901e4fca894c0")
    );
}

#[test]
fn counter_mode_makes_the_packets_that_libsrtp_makes() {
    let mut outbound = Protect::new(&example(Suite::AesCm128HmacSha1_80));
    let clear = hex("800f1234 decafbad cafebabe abababab abababab abababab abababab");
    let secret = hex(
        "800f1234 decafbad cafebabe 4e55dc4c e79978d8 8ca4d215 949d2402 b78d6acc 99ea179b 8dbb",
    );
    assert_eq!(protected(&mut outbound, &clear), Some(secret.clone()));
    assert_eq!(hear(&mut Unprotect::new(outbound.key()), &secret), Ok(clear));
    let clear = hex("81c8000b cafebabe abababab abababab abababab abababab");
    let secret =
        hex("81c8000b cafebabe 7128035b e487b9bd bef89041 f977a5a8 80000001 993e08cd 54d6c1230798");
    let mut buffer = [0; 64];
    assert_eq!(outbound.protect_rtcp(&clear, &mut buffer), Some(&secret[..]));
}

/// The examples of RFC 7714 begin with session keys.
fn gcm_examples() -> [Cipher; 2] {
    let octets: [u8; 32] = std::array::from_fn(|n| n as u8);
    let salt = || Zeroizing::new(hex("517569642070726f2071756f").try_into().unwrap());
    [
        Cipher::Gcm128(Box::new(Aes128Gcm::new_from_slice(&octets[..16]).unwrap()), salt()),
        Cipher::Gcm256(Box::new(Aes256Gcm::new_from_slice(&octets).unwrap()), salt()),
    ]
}

#[test]
fn gcm_makes_the_packets_of_rfc_7714_16() {
    let clear = hex(
        "8040f17b 8041f8d3 5501a0b2 47616c6c 69612065 7374206f 6d6e6973 20646976 69736120 696e2070 \
         61727465 73207472 6573",
    );
    let secrets = [
        "8040f17b 8041f8d3 5501a0b2 f24de3a3 fb34de6c acba861c 9d7e4bca be633bd5 0d294e6f 42a5f47a \
         51c7d19b 36de3adf 8833 \
         899d7f27beb16a9152cf765ee4390cce",
        "8040f17b 8041f8d3 5501a0b2 32b1de78 a822fe12 ef9f78fa 332e33aa b1801238 9a58e2f3 b50b2a02 \
         76ffae0f 1ba63799 b87b \
         7aa3db36dfffd6b0f9bb7878d7a76c13",
    ];
    for (cipher, secret) in gcm_examples().iter().zip(secrets) {
        let mut packet = clear.clone();
        let mut tag = [0; GCM_TAG];
        let (header, payload) = packet.split_at_mut(RTP_HEADER);
        cipher.gcm_seal(0x5501_a0b2, 0xf17b, header, payload, &mut tag).unwrap();
        assert_eq!([&packet[..], &tag].concat(), hex(secret));
    }
}

#[test]
fn gcm_makes_the_reports_of_rfc_7714_17() {
    let [cipher, _] = gcm_examples();
    let mut session = SrtpSession::new(&key(Suite::AeadAes128Gcm, 0));
    session.rtcp = cipher;
    let clear = hex(
        "81c8000d 4d617273 4e545031 4e545032 52545020 0000042a 0000e930 4c756e61 deadbeef deadbeef \
         deadbeef deadbeef deadbeef",
    );
    let secret = hex(
        "81c8000d 4d617273 63e94885 dcdab67c a727d766 2f6b7e99 7ff5c0f7 6c06f32d c676a5f1 730d6fda \
         4ce09b46 86303ded \
         0bb9275b c84aa458 96cf4d2f c5abf872 45d9eade 800005d4",
    );
    let mut buffer = [0; 128];
    let len = session.seal_rtcp(&clear, 0x4d61_7273, ENCRYPTED | 0x5d4, &mut buffer).unwrap();
    assert_eq!(buffer[..len], secret);
    assert_eq!(
        session.open_rtcp(&mut buffer[..len], 0x4d61_7273, ENCRYPTED | 0x5d4),
        Some(clear.len())
    );
    assert_eq!(buffer[..clear.len()], clear);
}

#[test]
fn what_is_protected_comes_out_as_it_was_in_every_suite() {
    for suite in Suite::ALL {
        let (mut outbound, mut inbound) = pair(suite);
        for sequence in 0..5 {
            let clear = rtp(SSRC, sequence, &[sequence as u8; 160]);
            let secret = say(&mut outbound, sequence);
            assert!(secret.len() > clear.len() && secret.len() <= clear.len() + MAX_GROWTH);
            assert_ne!(secret[RTP_HEADER..clear.len()], clear[RTP_HEADER..]);
            assert_eq!(hear(&mut inbound, &secret), Ok(clear));
        }
        let report = hex("80c90001 cafebabe 81ca0002 cafebabe 01020304");
        let mut buffer = [0; 64];
        for _ in 0..3 {
            let mut secret = outbound.protect_rtcp(&report, &mut buffer).unwrap().to_vec();
            assert!(secret.len() <= report.len() + MAX_RTCP_GROWTH);
            let copy = secret.clone();
            assert_eq!(inbound.unprotect_rtcp(&mut secret), Ok(report.len()));
            assert_eq!(secret[..report.len()], report);
            assert_eq!(inbound.unprotect_rtcp(&mut copy.clone()), Err(SrtpError::Replayed));
        }
    }
}

#[test]
fn csrcs_and_extensions_stay_in_clear_and_are_authenticated() {
    for suite in Suite::ALL {
        let (mut outbound, mut inbound) = pair(suite);
        let clear =
            [hex("91000001 00000001 cafebabe 11111111 bede0001 22222222"), vec![5; 80]].concat();
        let secret = protected(&mut outbound, &clear).unwrap();
        assert_eq!(secret[..24], clear[..24]);
        let mut bent = secret.clone();
        bent[20] ^= 1;
        assert_eq!(hear(&mut inbound, &bent), Err(SrtpError::Unauthenticated));
        assert_eq!(hear(&mut inbound, &secret), Ok(clear));
    }
}

#[test]
fn a_packet_is_taken_once_and_reordering_within_the_window_does_no_harm() {
    let (mut outbound, mut inbound) = pair(Suite::AesCm128HmacSha1_80);
    let packets: Vec<_> = (1000..1300).map(|sequence| say(&mut outbound, sequence)).collect();
    assert!(hear(&mut inbound, &packets[200]).is_ok());
    assert!(hear(&mut inbound, &packets[136]).is_ok(), "64 behind");
    assert!(hear(&mut inbound, &packets[201]).is_ok());
    for again in [200, 136, 201] {
        assert_eq!(hear(&mut inbound, &packets[again]), Err(SrtpError::Replayed));
    }
    assert!(hear(&mut inbound, &packets[199]).is_ok());
    assert_eq!(hear(&mut inbound, &packets[50]), Err(SrtpError::Replayed), "too old to tell");
    assert!(hear(&mut inbound, &packets[299]).is_ok());
}

#[test]
fn the_rollover_counter_is_guessed_from_the_sequence_numbers() {
    for suite in Suite::ALL {
        let (mut outbound, mut inbound) = pair(suite);
        let mut packets: Vec<_> =
            (0..140_000_u32).step_by(1000).map(|index| say(&mut outbound, index as u16)).collect();
        for packet in &packets {
            assert!(hear(&mut inbound, packet).is_ok());
        }
        assert_eq!(hear(&mut inbound, &packets.remove(139)), Err(SrtpError::Replayed));
    }
    let (mut outbound, mut inbound) = pair(Suite::AeadAes128Gcm);
    let [last, first, next] = [65_535, 0, 1].map(|sequence| say(&mut outbound, sequence));
    assert!(hear(&mut inbound, &last).is_ok());
    assert!(hear(&mut inbound, &next).is_ok());
    assert!(hear(&mut inbound, &first).is_ok());
    assert_eq!(hear(&mut inbound, &last), Err(SrtpError::Replayed));
}

#[test]
fn what_is_not_authentic_changes_nothing() {
    for suite in Suite::ALL {
        let (mut outbound, mut inbound) = pair(suite);
        let mut stranger = Protect::new(&key(suite, 8));
        assert!(hear(&mut inbound, &say(&mut outbound, 1)).is_ok());
        // Far ahead, it would turn the rollover counter if it were believed.
        for sequence in [2, 20_000, 32_000] {
            let mut forged = say(&mut stranger, sequence);
            let before = forged.clone();
            assert_eq!(inbound.unprotect_rtp(&mut forged), Err(SrtpError::Unauthenticated));
            assert_eq!(forged, before);
        }
        let good = say(&mut outbound, 2);
        for len in 0..good.len() {
            assert_eq!(hear(&mut inbound, &good[..len]), Err(SrtpError::Unauthenticated), "{len}");
        }
        for at in 0..good.len() {
            let mut bent = good.clone();
            bent[at] ^= 1;
            assert!(hear(&mut inbound, &bent).is_err(), "{at}");
        }
        assert!(hear(&mut inbound, &good).is_ok());
    }
}

#[test]
fn a_report_in_clear_is_not_authentic() {
    for suite in Suite::ALL {
        let (outbound, mut inbound) = pair(suite);
        let report = hex("80c90001 cafebabe 81ca0002 cafebabe 01020304");
        let mut buffer = [0; 64];
        let len = outbound.session.seal_rtcp(&report, SSRC, 1, &mut buffer).unwrap();
        assert_eq!(inbound.unprotect_rtcp(&mut buffer[..len]), Err(SrtpError::Unauthenticated));
    }
}

#[test]
fn a_peer_may_change_its_ssrc_and_few_are_remembered() {
    let (_, mut inbound) = pair(Suite::AesCm128HmacSha1_32);
    let packet = |ssrc| {
        let (mut outbound, _) = pair(Suite::AesCm128HmacSha1_32);
        protected(&mut outbound, &rtp(ssrc, 9, &[1; 20])).unwrap()
    };
    for ssrc in 0..MAX_SOURCES as u32 {
        assert!(hear(&mut inbound, &packet(ssrc)).is_ok());
    }
    for ssrc in 0..MAX_SOURCES as u32 {
        assert_eq!(hear(&mut inbound, &packet(ssrc)), Err(SrtpError::Replayed));
    }
    assert!(hear(&mut inbound, &packet(77)).is_ok());
    assert!(inbound.sources.iter().flatten().all(|source| source.ssrc != 0));
}

#[test]
fn one_index_is_never_used_twice() {
    let (mut outbound, _) = pair(Suite::AeadAes256Gcm);
    assert!(protected(&mut outbound, &rtp(SSRC, 500, &[1; 20])).is_some());
    assert!(protected(&mut outbound, &rtp(SSRC, 499, &[1; 20])).is_some());
    assert_eq!(protected(&mut outbound, &rtp(SSRC, 500, &[2; 20])), None);
    assert_eq!(protected(&mut outbound, &rtp(SSRC, 300, &[2; 20])), None);
    outbound.rtcp_index = !ENCRYPTED;
    let report = hex("80c90001 cafebabe");
    assert_eq!(outbound.protect_rtcp(&report, &mut [0; 64]), None);
}

#[test]
fn under_a_new_key_the_rollover_counter_goes_on_or_begins_anew() {
    let suite = Suite::AesCm128HmacSha1_80;
    let (mut before, mut inbound) = pair(suite);
    for index in (0..70_000_u32).step_by(1000) {
        hear(&mut inbound, &say(&mut before, index as u16)).unwrap();
    }
    let next = key(suite, 99);
    for goes_on in [true, false] {
        let mut outbound = Protect::new(&next);
        if goes_on {
            outbound.sent = before.sent;
        }
        let mut rekeyed = inbound.rekeyed(&next);
        let last = say(&mut Protect::new(before.key()), 4000);
        assert_eq!(hear(&mut rekeyed, &last), Err(SrtpError::Unauthenticated));
        let packets: Vec<_> = (5000..145_000_u32)
            .step_by(1000)
            .map(|index| say(&mut outbound, index as u16))
            .collect();
        for packet in &packets {
            assert!(hear(&mut rekeyed, packet).is_ok(), "{goes_on}");
        }
        assert_eq!(hear(&mut rekeyed, packets.last().unwrap()), Err(SrtpError::Replayed));
    }
}

#[test]
fn no_room_is_no_packet() {
    for suite in Suite::ALL {
        let (mut outbound, _) = pair(suite);
        let packet = rtp(SSRC, 1, &[1; 20]);
        assert_eq!(outbound.protect_rtp(&packet, &mut [0; 33]), None);
        assert_eq!(outbound.protect_rtcp(&packet, &mut [0; 40]), None);
        assert!(protected(&mut outbound, &packet).is_some());
    }
}

#[test]
fn keys_are_of_the_right_length_and_are_not_shown() {
    for suite in Suite::ALL {
        assert_eq!(MasterKey::new(suite, &vec![1; suite.material_len() - 1]), None);
        assert_eq!(MasterKey::new(suite, &vec![1; suite.material_len() + 1]), None);
        let key = key(suite, 0x41);
        let (outbound, inbound) = (Protect::new(&key), Unprotect::new(&key));
        let keys = Keys { ours: key.clone(), theirs: key };
        let shown = format!("{keys:?} {outbound:?} {inbound:?}");
        let name = suite.name();
        assert_eq!(
            shown,
            format!(
                "Keys {{ ours: Key({name}), theirs: Key({name}) }} Outbound({name}) Inbound({name})"
            )
        );
        assert_eq!(Suite::named(&name.to_lowercase()), Some(suite));
    }
    assert_eq!(Suite::named("F8_128_HMAC_SHA1_80"), None);
}

proptest! {
    #[test]
    fn no_bytes_are_believed_or_do_harm(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        suite in 0..4_usize,
        tail in any::<u32>()
    ) {
        let suite = Suite::ALL[suite];
        let (mut outbound, mut inbound) = pair(suite);
        prop_assert!(inbound.unprotect_rtp(&mut bytes).is_err());
        prop_assert!(inbound.unprotect_rtcp(&mut bytes).is_err());
        let mut buffer = [0; 256];
        let _ = outbound.protect_rtp(&bytes, &mut buffer);
        let _ = outbound.protect_rtcp(&bytes, &mut buffer);
        if let Some(first) = bytes.first_mut() {
            *first = 0x80 | *first & 0x3f;
        }
        bytes.extend((tail | ENCRYPTED).to_be_bytes());
        prop_assert!(inbound.unprotect_rtp(&mut bytes).is_err());
        prop_assert!(inbound.unprotect_rtcp(&mut bytes).is_err());
        if let Some(secret) = outbound.protect_rtp(&bytes, &mut buffer) {
            let mut secret = secret.to_vec();
            prop_assert_eq!(inbound.unprotect_rtp(&mut secret), Ok(bytes.len()));
            prop_assert_eq!(&secret[..bytes.len()], &bytes[..]);
        }
    }
}
