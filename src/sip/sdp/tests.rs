use super::crypto::{BASE64, read_crypto};
use super::*;
use crate::media::codec::Codec;
use crate::media::srtp::Suite;
use crate::media::{self, EventClock, Format};
use base64::Engine as _;

fn ours() -> Local {
    Local::new(8, "192.0.2.9:20000".parse().unwrap())
}

fn body(connection: &str, rest: &str) -> Vec<u8> {
    format!(
        "v=0\r\no=peer 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN {connection}\r\nt=0 0\r\n{}",
        rest.replace('\n', "\r\n")
    )
    .into_bytes()
}

fn parse(connection: &str, rest: &str) -> Result<SdpSession, SdpError> {
    SdpSession::parse(&body(connection, rest)).map_err(|fault| fault.error)
}

fn text(body: Vec<u8>) -> String {
    String::from_utf8(body).unwrap().replace("\r\n", "\n")
}

#[test]
fn an_offer_says_what_we_can() {
    assert_eq!(
        text(ours().offer(Direction::SendRecv)),
        "v=0\no=- 4 1 IN IP4 192.0.2.9\ns=-\nc=IN IP4 192.0.2.9\nt=0 0\n\
         m=audio 20000 RTP/AVP 0 8 101\na=rtpmap:0 PCMU/8000\n\
         a=rtpmap:8 PCMA/8000\na=rtpmap:101 telephone-event/8000\na=fmtp:101 0-15\na=rtcp-mux\n\
         a=ptime:20\na=sendrecv\n"
    );
}

#[test]
fn the_answer_takes_the_first_common_codec_and_refuses_other_media() {
    let offer = parse(
        "IP4 192.0.2.1",
        "m=video 4000 RTP/AVP 96\na=rtpmap:96 VP8/90000\nm=audio 5000 RTP/AVP 4 8 0 97\n\
         a=rtpmap:97 telephone-event/8000\na=rtcp:5009\na=ptime:30\n",
    );
    let offer = offer.unwrap();
    let (body, agreed) = ours().answer(&offer, Direction::SendRecv);
    let expected = Agreed {
        remote: Some("192.0.2.1:5000".parse().unwrap()),
        remote_rtcp: Some("192.0.2.1:5009".parse().unwrap()),
        rtcp_mux: false,
        codec: Codec::Pcma,
        payload_type: 8,
        telephone_event: Some((97, 8000)),
        comfort_noise: None,
        receives: media::PayloadTypes::of(&[
            (8, Format::Audio(Codec::Pcma)),
            (97, Format::Events(EventClock::Narrow)),
        ]),
        send: true,
        receive: true,
        held: false,
        ptime: Some(30),
        srtp: None,
    };
    assert_eq!(agreed, expected);
    assert!(text(body).ends_with(
        "t=0 0\nm=video 0 RTP/AVP 96\nm=audio 20000 RTP/AVP 8 97\na=rtpmap:8 PCMA/8000\n\
         a=rtpmap:97 telephone-event/8000\n\
         a=fmtp:97 0-15\na=ptime:20\na=sendrecv\n"
    ));
}

#[test]
fn static_types_need_no_map_and_maps_beat_static_types() {
    let codecs = |rest| parse("IP4 192.0.2.1", rest).map(|session| session.audio.codecs);
    assert_eq!(codecs("m=audio 5000 RTP/AVP 0\n"), Ok(vec![(0, Codec::Pcmu)]));
    assert_eq!(
        codecs("m=audio 5000 RTP/AVP 96 8\na=rtpmap:96 pcmu/8000\n"),
        Ok(vec![(96, Codec::Pcmu), (8, Codec::Pcma)])
    );
    assert_eq!(codecs("m=audio 5000 RTP/AVP 0\na=rtpmap:0 G728/8000\n"), Err(SdpError::Codec));
}

#[test]
fn g729_is_read_with_and_without_a_map_where_the_peer_has_put_it() {
    let codecs = |rest: &str| parse("IP4 192.0.2.1", rest).map(|session| session.audio.codecs);
    assert_eq!(codecs("m=audio 5000 RTP/AVP 18 101\n"), Ok(vec![(18, Codec::G729)]));
    for name in ["G729", "g729", "G729a", "G729ab"] {
        let rest = format!("m=audio 5000 RTP/AVP 18\na=rtpmap:18 {name}/8000\n");
        assert_eq!(codecs(&rest), Ok(vec![(18, Codec::G729)]), "{name}");
    }
    for name in ["G729D/8000", "G729E/8000", "G7291/16000", "G729/16000", "G729/8000/2"] {
        let rest = format!("m=audio 5000 RTP/AVP 18\na=rtpmap:18 {name}\n");
        assert_eq!(codecs(&rest), Err(SdpError::Codec), "{name}");
    }
    assert_eq!(
        codecs("m=audio 5000 RTP/AVP 18 96 8\na=rtpmap:96 opus/48000/2\n"),
        Ok(vec![(18, Codec::G729), (96, Codec::Opus), (8, Codec::Pcma)])
    );
}

#[test]
fn g729_alone_is_answered_with_telephone_events_beside_it() {
    let offer = parse(
        "IP4 192.0.2.1",
        "m=audio 5000 RTP/AVP 18 97\na=rtpmap:97 telephone-event/8000\na=fmtp:18 annexb=no\n",
    );
    let (body, agreed) = ours().answer(&offer.unwrap(), Direction::SendRecv);
    assert_eq!((agreed.codec, agreed.payload_type), (Codec::G729, 18));
    assert_eq!(agreed.telephone_event, Some((97, 8000)));
    assert!(text(body).contains(
        "RTP/AVP 18 97\na=rtpmap:18 G729/8000\na=fmtp:18 annexb=no\n\
         a=rtpmap:97 telephone-event/8000\n"
    ));
}

#[test]
fn annex_b_of_g729_is_said_until_one_side_has_ruled_it_out() {
    let said = |local: &mut Local| {
        let offer = text(local.offer_codecs(Direction::SendRecv, &[Codec::G729]));
        offer.lines().find_map(|line| line.strip_prefix("a=fmtp:18 ")).unwrap().to_owned()
    };
    let answers = |local: &mut Local, fmtp: &str| {
        let rest = format!("m=audio 5000 RTP/AVP 18\n{fmtp}");
        local.accept(&parse("IP4 192.0.2.1", &rest).unwrap()).unwrap();
    };
    let mut local = ours();
    assert_eq!(said(&mut local), "annexb=yes");
    answers(&mut local, "");
    answers(&mut local, "a=fmtp:18 annexb=yes\n");
    assert!(local.annex_b());
    answers(&mut local, "a=fmtp:18 foo; AnnexB = NO\n");
    assert!(!local.annex_b());
    assert_eq!(said(&mut local), "annexb=no");
    // RFC 7261 3.3: an answer without it does not bring it back.
    answers(&mut local, "");
    assert_eq!(said(&mut local), "annexb=no");
    let mut local = ours();
    local.limit_annex_b(false);
    assert_eq!(said(&mut local), "annexb=no");
    // What another format says is not of G.729.
    let mut local = ours();
    assert_eq!(said(&mut local), "annexb=yes");
    answers(&mut local, "a=fmtp:101 annexb=no\n");
    assert!(local.annex_b());
}

#[test]
fn a_payload_type_that_the_peer_has_mapped_stays_in_our_offers() {
    let offer = parse(
        "IP4 192.0.2.1",
        "m=audio 5000 RTP/AVP 107 111 0\na=rtpmap:107 opus/48000/2\n\
         a=rtpmap:111 telephone-event/48000\n",
    )
    .unwrap();
    let mut local = ours();
    local.answer(&offer, Direction::SendRecv);
    let again = text(local.offer_codecs(Direction::SendOnly, &[Codec::Opus, Codec::Pcmu]));
    assert!(again.contains("a=rtpmap:107 opus/48000/2\n"), "{again}");
    assert!(again.contains("a=rtpmap:111 telephone-event/48000\n"), "{again}");
    // A number that he has for something else is not ours to take.
    let offer =
        parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0 111\na=rtpmap:111 telephone-event/8000\n");
    let mut local = ours();
    local.answer(&offer.unwrap(), Direction::SendRecv);
    let again = text(local.offer_codecs(Direction::SendRecv, &[Codec::Pcmu, Codec::Opus]));
    assert!(again.contains("a=rtpmap:96 opus/48000/2\n"), "{again}");
    assert!(again.contains("a=rtpmap:111 telephone-event/8000\n"), "{again}");
}

#[test]
fn wideband_codecs_are_read_with_their_clocks_and_answered_as_the_peer_maps_them() {
    let offer = parse(
        "IP4 192.0.2.1",
        "m=audio 5000 RTP/AVP 107 9 0 13 98 110 101\na=rtpmap:107 opus/48000/2\n\
         a=fmtp:107 useinbandfec=1\na=rtpmap:98 L16/16000\n\
         a=rtpmap:110 telephone-event/48000\na=rtpmap:101 telephone-event/8000\n",
    )
    .unwrap();
    let expected = [(107, Codec::Opus), (9, Codec::G722), (0, Codec::Pcmu), (98, Codec::L16)];
    assert_eq!(offer.audio.codecs, expected);
    let (body, agreed) = ours().answer(&offer, Direction::SendRecv);
    assert_eq!((agreed.codec, agreed.payload_type), (Codec::Opus, 107));
    assert_eq!((agreed.telephone_event, agreed.comfort_noise), (Some((110, 48_000)), None));
    assert!(text(body).contains(
        "RTP/AVP 107 110\na=rtpmap:107 opus/48000/2\na=fmtp:107 useinbandfec=1\n\
         a=rtpmap:110 telephone-event/48000\na=fmtp:110 0-15\n"
    ));
    let mut narrow = offer.clone();
    narrow.audio.codecs.retain(|(_, codec)| *codec == Codec::G722);
    let (body, agreed) = ours().answer(&narrow, Direction::SendRecv);
    assert_eq!((agreed.telephone_event, agreed.comfort_noise), (Some((101, 8000)), Some(13)));
    assert!(text(body).contains(
        "RTP/AVP 9 13 101\na=rtpmap:9 G722/8000\na=rtpmap:13 CN/8000\n\
         a=rtpmap:101 telephone-event/8000\n"
    ));
}

#[test]
fn what_has_another_clock_or_more_channels_is_another_codec() {
    for map in ["opus/48000", "opus/8000/2", "L16/44100", "L16/16000/2", "G722/16000", "PCMU/16000"]
    {
        let offer = format!("m=audio 5000 RTP/AVP 96\na=rtpmap:96 {map}\n");
        assert_eq!(parse("IP4 192.0.2.1", &offer).unwrap_err(), SdpError::Codec, "{map}");
    }
}

#[test]
fn an_offer_of_opus_has_telephone_events_for_its_clock_too() {
    let offer = text(ours().offer_codecs(Direction::SendRecv, &[Codec::Opus, Codec::Pcmu]));
    assert!(offer.contains("RTP/AVP 111 0 101 100\na=rtpmap:111 opus/48000/2\n"), "{offer}");
    assert!(offer.contains("a=rtpmap:100 telephone-event/48000\n"));
}

#[test]
fn hold_comes_as_a_direction_or_as_no_address() {
    let agreed =
        |connection, rest| ours().answer(&parse(connection, rest).unwrap(), Direction::SendRecv).1;
    let flows = |agreed: Agreed| (agreed.send, agreed.receive, agreed.held);
    assert_eq!(
        flows(agreed("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0\na=sendonly\n")),
        (false, true, true)
    );
    assert_eq!(
        flows(agreed("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0\na=inactive\n")),
        (false, false, true)
    );
    assert_eq!(
        flows(agreed("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0\na=recvonly\n")),
        (true, false, false)
    );
    assert_eq!(
        flows(agreed("IP4 192.0.2.1", "a=inactive\nm=audio 5000 RTP/AVP 0\n")),
        (false, false, true)
    );
    assert_eq!(
        flows(agreed("IP4 192.0.2.1", "a=inactive\nm=audio 5000 RTP/AVP 0\na=sendrecv\n")),
        (true, true, false)
    );
    let zero = agreed("IP4 0.0.0.0", "m=audio 5000 RTP/AVP 0\na=sendrecv\n");
    assert_eq!((zero.remote, zero.remote_rtcp, flows(zero)), (None, None, (false, true, true)));
}

#[test]
fn the_answer_never_allows_more_than_the_offer() {
    let offer = parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0\na=sendonly\n").unwrap();
    assert!(text(ours().answer(&offer, Direction::SendRecv).0).ends_with("a=recvonly\n"));
    assert!(text(ours().answer(&offer, Direction::SendOnly).0).ends_with("a=inactive\n"));
}

#[test]
fn what_cannot_be_answered_is_refused() {
    let audio = "m=audio 5000 RTP/AVP 0\n";
    assert_eq!(parse("IP4 224.1.2.3/127", audio).unwrap_err(), SdpError::Multicast);
    assert_eq!(parse("IP6 ff02::1", audio).unwrap_err(), SdpError::Multicast);
    assert_eq!(parse("IP4 255.255.255.255", audio).unwrap_err(), SdpError::Address);
    assert_eq!(parse("IP4 phone.example.test", audio).unwrap_err(), SdpError::Address);
    assert_eq!(
        parse("IP4 192.0.2.1", "m=audio 65536 RTP/AVP 0\n").unwrap_err(),
        SdpError::Unreadable
    );
    assert_eq!(parse("IP4 192.0.2.1", "").unwrap_err(), SdpError::NoAudio);
    assert_eq!(parse("IP4 192.0.2.1", "m=audio 0 RTP/AVP 0\n").unwrap_err(), SdpError::NoAudio);
    assert_eq!(parse("IP4 192.0.2.1", "m=video 5000 RTP/AVP 0\n").unwrap_err(), SdpError::NoAudio);
    assert_eq!(parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 3 4\n").unwrap_err(), SdpError::Codec);
    assert_eq!(
        parse("IP4 192.0.2.1", "m=audio 5000 RTP/SAVP 0\n").unwrap_err(),
        SdpError::Transport
    );
    assert_eq!(
        parse("IP4 192.0.2.1", "m=audio 5000 UDP/TLS/RTP/SAVPF 0\n").unwrap_err(),
        SdpError::Transport
    );
    assert_eq!(parse("IP4 192.0.2.1", &audio.repeat(17)).unwrap_err(), SdpError::Unreadable);
    assert_eq!(SdpSession::parse(b"\xff\xfe\0").unwrap_err().error, SdpError::Unreadable);
}

#[test]
fn a_clear_stream_beside_an_encrypted_one_is_taken() {
    let offer =
        parse("IP4 192.0.2.1", "m=audio 5000 RTP/SAVP 0\nm=audio 5002 RTP/AVP 0\n").unwrap();
    let (body, agreed) = ours().answer(&offer, Direction::SendRecv);
    assert_eq!(agreed.remote, Some("192.0.2.1:5002".parse().unwrap()));
    assert!(text(body).contains("m=audio 0 RTP/SAVP 0\nm=audio 20000 RTP/AVP 0\n"));
}

#[test]
fn rtcp_goes_nowhere_but_to_the_host_of_rtp() {
    let rtcp =
        |rest| parse("IP4 192.0.2.1", rest).unwrap().audio.rtcp.map(|address| address.to_string());
    assert_eq!(rtcp("m=audio 5000 RTP/AVP 0\n").as_deref(), Some("192.0.2.1:5001"));
    assert_eq!(
        rtcp("m=audio 5000 RTP/AVP 0\na=rtcp:53020 IN IP4 192.0.2.1\n").as_deref(),
        Some("192.0.2.1:53020")
    );
    assert_eq!(
        rtcp("m=audio 5000 RTP/AVP 0\na=rtcp:53020 IN IP4 198.51.100.1\n").as_deref(),
        Some("192.0.2.1:5001")
    );
    assert_eq!(rtcp("m=audio 65535 RTP/AVP 0\n"), None);
}

#[test]
fn rtcp_shares_the_ports_of_rtp_when_both_want_it_and_payload_types_allow_it() {
    let answered = |rest| {
        let (body, agreed) =
            ours().answer(&parse("IP4 192.0.2.1", rest).unwrap(), Direction::SendRecv);
        let says_so = text(body).contains("a=rtcp-mux\n");
        assert_eq!(says_so, agreed.rtcp_mux);
        (says_so, agreed.remote_rtcp.unwrap().port())
    };
    assert_eq!(answered("m=audio 5000 RTP/AVP 0\na=rtcp-mux\n"), (true, 5000));
    assert_eq!(answered("m=audio 5000 RTP/AVP 0\na=rtcp-mux\na=rtcp:5009\n"), (true, 5000));
    assert_eq!(answered("m=audio 5000 RTP/AVP 0\n"), (false, 5001));
    let ambiguous = "m=audio 5000 RTP/AVP 0 72\na=rtpmap:72 telephone-event/8000\na=rtcp-mux\n";
    assert_eq!(answered(ambiguous), (false, 5001));

    let accepted = |rest| {
        let mut local = ours();
        assert!(text(local.offer(Direction::SendRecv)).contains("a=rtcp-mux\n"));
        local.accept(&parse("IP4 192.0.2.1", rest).unwrap()).unwrap()
    };
    let shared = accepted("m=audio 5000 RTP/AVP 0\na=rtcp-mux\n");
    assert_eq!((shared.rtcp_mux, shared.remote_rtcp), (true, shared.remote));
    assert!(!accepted("m=audio 5000 RTP/AVP 0\na=rtcp:5009\n").rtcp_mux);
}

#[test]
fn a_connection_of_the_stream_beats_that_of_the_session() {
    let session = parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0\nc=IN IP6 2001:db8::1\n").unwrap();
    assert_eq!(session.audio.rtp, Some("[2001:db8::1]:5000".parse().unwrap()));
}

#[test]
fn the_version_counts_changes_and_nothing_else() {
    let mut local = ours();
    let version = |body: Vec<u8>| text(body).lines().nth(1).unwrap().to_owned();
    assert_eq!(version(local.offer(Direction::SendRecv)), "o=- 4 1 IN IP4 192.0.2.9");
    assert_eq!(version(local.offer(Direction::SendRecv)), "o=- 4 1 IN IP4 192.0.2.9");
    assert_eq!(version(local.offer(Direction::SendOnly)), "o=- 4 2 IN IP4 192.0.2.9");
    assert_eq!(version(local.offer(Direction::SendRecv)), "o=- 4 3 IN IP4 192.0.2.9");
    assert_eq!(version(local.offer(Direction::SendRecv)), "o=- 4 3 IN IP4 192.0.2.9");
}

#[test]
fn a_later_offer_keeps_the_lines_and_types_of_the_session() {
    let mut local = ours();
    let offer = parse(
        "IP4 192.0.2.1",
        "m=audio 5000 RTP/AVP 0 96\na=rtpmap:96 telephone-event/8000\nm=video 4000 RTP/AVP 97\n",
    )
    .unwrap();
    local.answer(&offer, Direction::SendRecv);
    let body = text(local.offer(Direction::SendRecv));
    assert!(body.contains("m=audio 20000 RTP/AVP 0 8 96\n"), "{body}");
    assert!(body.ends_with("m=video 0 RTP/AVP 97\n"), "{body}");
}

#[test]
fn an_answer_must_fit_the_offer() {
    let mut local = ours();
    local.offer(Direction::SendRecv);
    let fitting =
        parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 8 101\na=rtpmap:101 telephone-event/8000\n")
            .unwrap();
    let agreed = local.accept(&fitting).unwrap();
    assert_eq!(
        (agreed.codec, agreed.telephone_event, agreed.send),
        (Codec::Pcma, Some((101, 8000)), true)
    );
    let two = parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 8\nm=audio 5002 RTP/AVP 8\n").unwrap();
    assert_eq!(local.accept(&two), Err(SdpError::Mismatch));
}

#[test]
fn an_answer_takes_only_codecs_that_were_offered() {
    let mut local = ours();
    local.offer_codecs(Direction::SendRecv, &[Codec::Pcma]);
    let other = parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0\n").unwrap();
    assert_eq!(local.accept(&other), Err(SdpError::Codec));
    let both = parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0 8\n").unwrap();
    let agreed = local.accept(&both).unwrap();
    assert_eq!((agreed.codec, agreed.payload_type), (Codec::Pcma, 8));
}

const KEY_80: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd";

fn secure(srtp: SrtpPolicy) -> Local {
    ours().with_srtp(srtp, [7; 32])
}

fn with_crypto(proto: &str, lines: &[&str]) -> Vec<u8> {
    let lines: String = lines.iter().map(|line| format!("a=crypto:{line}\n")).collect();
    body("IP4 192.0.2.1", &format!("m=audio 5000 {proto} 0\n{lines}"))
}

fn line_80(tag: u32) -> String {
    format!("{tag} AES_CM_128_HMAC_SHA1_80 inline:{KEY_80}")
}

fn crypto_lines(body: &[u8]) -> Vec<String> {
    let text = String::from_utf8(body.to_vec()).unwrap();
    text.lines().filter_map(|line| line.strip_prefix("a=crypto:")).map(str::to_owned).collect()
}

#[test]
fn crypto_lines_are_read_by_rfc_4568() {
    let read = |value: &str| read_crypto(value).map(|crypto| (crypto.tag, crypto.key.suite()));
    let cm = Some((1, Suite::AesCm128HmacSha1_80));
    assert_eq!(read(&line_80(1)), cm);
    assert_eq!(read(&format!("{}|2^31", line_80(1))), cm);
    assert_eq!(read(&format!("{}|1048576 WSH=128 -NEW", line_80(1))), cm);
    assert_eq!(read(&line_80(1).replace("inline", "INLINE")), cm);
    let short = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGw";
    for key in [short.to_owned(), format!("{short}==")] {
        let gcm = Some((9, Suite::AeadAes128Gcm));
        assert_eq!(read(&format!("9 AEAD_AES_128_GCM inline:{key}")), gcm, "{key}");
    }
    let long = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKis=";
    assert_eq!(
        read(&format!("999999999 AEAD_AES_256_GCM inline:{long}")),
        Some((999_999_999, Suite::AeadAes256Gcm))
    );
}

#[test]
fn crypto_lines_that_cannot_be_honoured_are_passed_over() {
    let good = line_80(1);
    let wrong = [
        format!("{good}|1:4"),
        format!("{good}|2^20|1:4"),
        format!("{good};inline:{KEY_80}|2:4"),
        format!("{good}|2^x"),
        format!("{good} UNENCRYPTED_SRTP"),
        format!("{good} UNAUTHENTICATED_SRTP"),
        format!("{good} UNENCRYPTED_SRTCP"),
        format!("{good} KDR=1"),
        format!("{good} FEC_ORDER=FEC_SRTP"),
        format!("{good} NEW=1"),
        good.replace("inline:", "uri:"),
        good.replace(" inline:", ""),
        good.replace("AES_CM_128", "F8_128"),
        format!("{good}AAAA"),
        good.trim_end_matches("xwd").to_owned(),
        format!("-{good}"),
        format!("1234567890{good}"),
        format!("x{good}"),
        "1".to_owned(),
        String::new(),
        format!("1 AEAD_AES_128_GCM inline:{KEY_80}"),
        format!("1 AES_CM_128_HMAC_SHA1_80 inline:{}", "A".repeat(10_000)),
    ];
    for line in wrong {
        assert_eq!(read_crypto(&line), None, "{line}");
        let offer = with_crypto("RTP/SAVP", &[&line]);
        assert_eq!(
            SdpSession::parse_for(&offer, SrtpPolicy::Required).unwrap_err().error,
            SdpError::Transport
        );
    }
}

#[test]
fn a_description_is_taken_or_refused_by_the_rule_of_its_leg() {
    let line = line_80(1);
    let takes = |proto, lines: &[&str]| {
        [SrtpPolicy::Off, SrtpPolicy::Optional, SrtpPolicy::Required]
            .map(|srtp| SdpSession::parse_for(&with_crypto(proto, lines), srtp).is_ok())
    };
    assert_eq!(takes("RTP/AVP", &[]), [true, true, false]);
    assert_eq!(takes("RTP/AVP", &[&line]), [true, true, true]);
    assert_eq!(takes("RTP/SAVP", &[&line]), [false, true, true]);
    assert_eq!(takes("RTP/SAVPF", &[&line]), [false, true, true]);
    assert_eq!(takes("RTP/SAVP", &[]), [false, false, false]);
    assert_eq!(takes("UDP/TLS/RTP/SAVPF", &[&line]), [false, false, false]);
}

#[test]
fn an_answer_takes_the_first_key_it_can_use_with_its_tag_and_profile() {
    for proto in ["RTP/AVP", "RTP/SAVP", "RTP/SAVPF"] {
        let bad = "4 F8_128_HMAC_SHA1_80 inline:AAAA";
        let offer =
            SdpSession::parse(&with_crypto(proto, &[bad, &line_80(12), &line_80(13)])).unwrap();
        for srtp in [SrtpPolicy::Optional, SrtpPolicy::Required] {
            let (body, agreed) = secure(srtp).answer(&offer, Direction::SendRecv);
            let lines = crypto_lines(&body);
            assert_eq!(lines.len(), 1);
            let (tag, ours) = (&lines[0][..2], read_crypto(&lines[0]).unwrap().key);
            let keys = agreed.srtp.unwrap();
            assert_eq!((tag, &ours), ("12", &keys.ours));
            assert_eq!(BASE64.encode(keys.theirs.material()), KEY_80);
            assert!(text(body).contains(&format!("m=audio 20000 {proto} 0")));
        }
    }
}

#[test]
fn what_the_rule_forbids_is_never_answered_with_sound() {
    let quiet = |srtp, body: Vec<u8>| {
        let (_, agreed) =
            secure(srtp).answer(&SdpSession::parse(&body).unwrap(), Direction::SendRecv);
        (agreed.remote, agreed.remote_rtcp, agreed.send, agreed.receive, agreed.srtp)
            == (None, None, false, false, None)
    };
    assert!(quiet(SrtpPolicy::Required, with_crypto("RTP/AVP", &[])));
    assert!(quiet(SrtpPolicy::Off, with_crypto("RTP/SAVP", &[&line_80(1)])));
    assert!(!quiet(SrtpPolicy::Off, with_crypto("RTP/AVP", &[&line_80(1)])));
}

#[test]
fn an_offer_has_a_key_for_every_suite_each_another() {
    let body = secure(SrtpPolicy::Required).offer(Direction::SendRecv);
    let offered: Vec<Crypto> =
        crypto_lines(&body).iter().map(|line| read_crypto(line).unwrap()).collect();
    assert_eq!(offered.iter().map(|crypto| crypto.key.suite()).collect::<Vec<_>>(), Suite::ALL);
    assert_eq!(offered.iter().map(|crypto| crypto.tag).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let starts: std::collections::BTreeSet<&[u8]> =
        offered.iter().map(|crypto| &crypto.key.material()[..16]).collect();
    assert_eq!(starts.len(), 4);
    assert!(text(body).contains("m=audio 20000 RTP/SAVP 0 8 101\n"));
    let body = secure(SrtpPolicy::Optional).offer(Direction::SendRecv);
    assert_eq!(crypto_lines(&body).len(), 4);
    assert!(text(body).contains("m=audio 20000 RTP/AVP 0 8 101\n"));
    assert_eq!(crypto_lines(&ours().offer(Direction::SendRecv)), [""; 0]);
}

#[test]
fn an_answer_names_a_tag_and_a_suite_that_were_offered() {
    let accept = |srtp, proto: &str, lines: &[&str]| {
        let mut local = secure(srtp);
        local.offer(Direction::SendRecv);
        let answer = SdpSession::parse(&with_crypto(proto, lines)).map_err(|fault| fault.error)?;
        local.accept(&answer).map(|agreed| agreed.srtp.is_some())
    };
    let (right, wrong) = (line_80(3), line_80(1));
    let unusable = format!("{right}|1:4");
    for srtp in [SrtpPolicy::Optional, SrtpPolicy::Required] {
        assert_eq!(accept(srtp, "RTP/SAVP", &[&right]), Ok(true));
        assert_eq!(accept(srtp, "RTP/SAVP", &[&wrong]), Err(SdpError::Crypto));
    }
    assert_eq!(accept(SrtpPolicy::Required, "RTP/AVP", &[&right]), Err(SdpError::Transport));
    assert_eq!(accept(SrtpPolicy::Required, "RTP/AVP", &[]), Err(SdpError::Transport));
    assert_eq!(accept(SrtpPolicy::Optional, "RTP/AVP", &[&right]), Ok(true));
    assert_eq!(accept(SrtpPolicy::Optional, "RTP/AVP", &[]), Ok(false));
    assert_eq!(accept(SrtpPolicy::Optional, "RTP/AVP", &[&wrong]), Err(SdpError::Crypto));
    assert_eq!(accept(SrtpPolicy::Optional, "RTP/AVP", &[&unusable]), Err(SdpError::Crypto));
    assert_eq!(accept(SrtpPolicy::Off, "RTP/SAVP", &[&right]), Err(SdpError::Transport));
    assert_eq!(accept(SrtpPolicy::Off, "RTP/AVP", &[&right]), Ok(false));
}

#[test]
fn our_key_stays_until_something_else_is_agreed_and_never_comes_back() {
    let mut local = secure(SrtpPolicy::Optional);
    let secret = |key: &str, suite: &str| {
        let line = format!("1 {suite} inline:{key}");
        SdpSession::parse(&with_crypto("RTP/SAVP", &[&line])).unwrap()
    };
    let other = KEY_80.replace("AAEC", "BBEC");
    let (cm, shorter) = ("AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32");
    let answer = |local: &mut Local, offer: &SdpSession| {
        local.answer(offer, Direction::SendRecv).1.srtp.map(|keys| keys.ours)
    };
    let first = answer(&mut local, &secret(KEY_80, cm)).unwrap();
    assert_eq!(answer(&mut local, &secret(KEY_80, cm)), Some(first.clone()));
    assert_eq!(answer(&mut local, &secret(&other, cm)), Some(first.clone()));
    let again = local.offer(Direction::SendRecv);
    let lines = crypto_lines(&again);
    assert_eq!((lines.len(), read_crypto(&lines[0]).unwrap().key), (1, first.clone()));
    assert_eq!(local.offer(Direction::SendRecv), again);
    assert!(text(again).contains("RTP/SAVP"));

    let mut seen = vec![first];
    let mut elsewhere = secret(KEY_80, cm);
    elsewhere.audio.rtp = Some("192.0.2.77:5000".parse().unwrap());
    let clear = SdpSession::parse(&with_crypto("RTP/AVP", &[])).unwrap();
    for offer in
        [&elsewhere, &secret(KEY_80, shorter), &secret(KEY_80, cm), &clear, &secret(KEY_80, cm)]
    {
        let Some(key) = answer(&mut local, offer) else {
            continue;
        };
        assert!(!seen.iter().any(|seen| seen.material()[..16] == key.material()[..16]));
        seen.push(key);
    }
    assert_eq!(seen.len(), 5);
}

#[test]
fn keys_are_shown_by_no_debug() {
    let mut local = secure(SrtpPolicy::Required);
    let offer = SdpSession::parse(&with_crypto("RTP/SAVP", &[&line_80(1)])).unwrap();
    let (_, agreed) = local.answer(&offer, Direction::SendRecv);
    let shown = format!("{offer:?} {agreed:?} {local:?}");
    assert!(
        !shown.contains(KEY_80) && !shown.contains("material") && !shown.contains("inline"),
        "{shown}"
    );
}

#[test]
fn texts_that_are_no_utf_8_do_no_harm() {
    let mut raw = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=K\xfcche\r\n".to_vec();
    raw.extend_from_slice(b"c=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 5000 RTP/AVP 0\r\n");
    assert!(SdpSession::parse(&raw).is_ok());
}

// ---- what the peer may send: RFC 3264 5.1, 6.1, 7 and 8.3.2

const NARROW: Format = Format::Events(EventClock::Narrow);
const OPUS: Format = Format::Audio(Codec::Opus);
const PCMU: Format = Format::Audio(Codec::Pcmu);
const PCMA: Format = Format::Audio(Codec::Pcma);

/// Our offer of these codecs, and what comes of this answer.
fn answered(local: &mut Local, codecs: &[Codec], answer: &str) -> Agreed {
    local.offer_codecs(Direction::SendRecv, codecs);
    local.accept(&parse("IP4 192.0.2.1", answer).unwrap()).unwrap()
}

fn heard(agreed: &Agreed) -> Vec<(u8, Format)> {
    let mut heard: Vec<(u8, Format)> = agreed.receives.iter().collect();
    heard.sort_by_key(|(number, _)| *number);
    heard
}

#[test]
fn a_format_is_heard_under_the_number_of_the_offer_and_under_that_of_the_answer() {
    let agreed = answered(
        &mut ours(),
        &[Codec::Opus, Codec::Pcmu],
        "m=audio 5000 RTP/AVP 97 96\na=rtpmap:97 opus/48000/2\na=rtpmap:96 telephone-event/8000\n",
    );
    assert_eq!(heard(&agreed), [(96, NARROW), (97, OPUS), (101, NARROW), (111, OPUS)]);
    assert_eq!(
        (agreed.codec, agreed.payload_type),
        (Codec::Opus, 97),
        "we send as the answer says"
    );
    assert_eq!(agreed.telephone_event, Some((96, 8000)));
}

#[test]
fn everything_that_both_have_named_is_heard_and_nothing_else() {
    let laws = [Codec::Pcmu, Codec::Pcma];
    let events = "a=rtpmap:101 telephone-event/8000\n";
    let agreed = answered(&mut ours(), &laws, &format!("m=audio 5000 RTP/AVP 8 0 101\n{events}"));
    assert_eq!(heard(&agreed), [(0, PCMU), (8, PCMA), (101, NARROW)]);
    assert_eq!(agreed.codec, Codec::Pcma);
    let agreed = answered(&mut ours(), &laws, "m=audio 5000 RTP/AVP 0\n");
    assert_eq!(heard(&agreed), [(0, PCMU)]);
    let agreed =
        answered(&mut ours(), &[Codec::Pcmu], &format!("m=audio 5000 RTP/AVP 9 0 8 101\n{events}"));
    assert_eq!(
        heard(&agreed),
        [(0, PCMU), (101, NARROW)],
        "what we have not offered is not for us to hear"
    );
    let offer =
        parse("IP4 192.0.2.1", &format!("m=audio 5000 RTP/AVP 8 0 13 101\n{events}")).unwrap();
    let (_, agreed) = ours().answer(&offer, Direction::SendRecv);
    assert_eq!(
        heard(&agreed),
        [(8, PCMA), (13, Format::ComfortNoise), (101, NARROW)],
        "what our answer lists"
    );
}

#[test]
fn a_number_that_names_two_formats_names_that_of_the_offer() {
    let agreed = answered(
        &mut ours(),
        &[Codec::Opus, Codec::Pcmu],
        "m=audio 5000 RTP/AVP 101 111\na=rtpmap:101 opus/48000/2\n\
         a=rtpmap:111 telephone-event/8000\n",
    );
    assert_eq!(heard(&agreed), [(101, NARROW), (111, OPUS)]);
    assert_eq!((agreed.payload_type, agreed.telephone_event), (101, Some((111, 8000))));
}

#[test]
fn comfort_noise_and_events_of_another_clock_are_heard_under_their_numbers() {
    let agreed = answered(
        &mut ours(),
        &[Codec::Opus, Codec::Pcmu],
        "m=audio 5000 RTP/AVP 111 0 97 98 99\na=rtpmap:111 opus/48000/2\na=rtpmap:97 CN/8000\n\
         a=rtpmap:98 telephone-event/48000\n\
         a=rtpmap:99 telephone-event/16000\n",
    );
    let full = Format::Events(EventClock::Full);
    let expected = [(0, PCMU), (97, Format::ComfortNoise), (98, full), (100, full), (111, OPUS)];
    assert_eq!(heard(&agreed), expected, "events at 16000 Hz were not offered");
}

#[test]
fn a_later_offer_of_ours_has_the_comfort_noise_and_the_numbers_of_the_session() {
    let offer = parse(
        "IP4 192.0.2.1",
        "m=audio 5000 RTP/AVP 0 13 101\na=rtpmap:101 opus/48000/2\na=rtpmap:13 CN/8000\n",
    );
    let mut local = ours();
    local.answer(&offer.unwrap(), Direction::SendRecv);
    let again = text(local.offer_codecs(Direction::SendRecv, &[Codec::Pcmu, Codec::Opus]));
    assert!(again.contains("RTP/AVP 0 101 13 96 100\n"), "{again}");
    assert!(again.contains("a=rtpmap:96 telephone-event/8000\n"), "101 is taken: {again}");
    let answer = "m=audio 5000 RTP/AVP 0 13 96\na=rtpmap:96 telephone-event/8000\n";
    let agreed = local.accept(&parse("IP4 192.0.2.1", answer).unwrap()).unwrap();
    assert_eq!(heard(&agreed), [(0, PCMU), (13, Format::ComfortNoise), (96, NARROW)]);
}

#[test]
fn a_number_that_is_listed_twice_names_one_format() {
    let offer = parse(
        "IP4 192.0.2.1",
        "m=audio 5000 RTP/AVP 0 0 101 101\na=rtpmap:101 telephone-event/8000\n",
    )
    .unwrap();
    assert_eq!(offer.audio.codecs, [(0, Codec::Pcmu)]);
    assert_eq!(offer.audio.telephone_events, [(101, 8000)]);
}

// ---- lines on which nothing depends: RFC 8866 5

#[test]
fn what_nothing_depends_on_costs_nobody_a_call() {
    let head = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n";
    let audio = "m=audio 5000 RTP/AVP 0\r\n";
    let whole = format!("{head}{audio}");
    for odd in [
        format!("{whole}m=video 0 RTP/AVP\r\n"),
        format!("{head}m=audio 0 RTP/AVP\r\n{audio}"),
        format!("{whole}m=image 0 udptl\r\n"),
        whole.replace("m=audio 5000", "m=audio  5000"),
        whole.replace("RTP/AVP 0", "RTP/AVP 0  8 "),
        whole.replace("o=- ", "o=Front Desk "),
        whole.replace("o=- ", "o="),
        whole.replace("o=- 1 1 ", "o=- 1 99999999999999999999 "),
        whole.replace("o=- 1 1 ", "o=- 1 -5 "),
        whole.replace("o=- 1 1 IN IP4 192.0.2.1", "o="),
        whole.replace("o=- 1 1 IN IP4 192.0.2.1\r\n", ""),
        format!("{whole}b=AS:64.5\r\n"),
        format!("{whole}b=AS: 64\r\n"),
        format!("{whole}b=\r\n"),
        whole.replace("s=-\r\n", "").replace("t=0 0\r\n", ""),
        whole.replace("t=0 0", "t=3724394400.5 99999999999999999999"),
        whole.replace("t=0 0", "t=0 0\r\nr=now\r\nz=?\r\nk=prompt\r\nk=prompt"),
        whole.replace("s=-", "s=one\r\ns=two\r\ni=a\r\ni=b\r\nu=x\r\nu=y\r\nx=odd"),
        whole.replace("c=IN IP4 192.0.2.1", "c=IN IP4 192.0.2.1\r\nc=IN IP4 192.0.2.77"),
        format!("{whole}c=IN  IP4 192.0.2.1\r\nc=IN IP4 192.0.2.77\r\n"),
        whole.replace("\r\n", "\n"),
        format!("{whole}\r\n\r\n"),
        format!("{whole}a=rtpmap: 0 PCMU/8000\r\na=ptime:20.0\r\n"),
    ] {
        let read = SdpSession::parse(odd.as_bytes());
        let session = read.unwrap_or_else(|fault| panic!("{fault}\n{odd}"));
        assert_eq!(session.audio.rtp, Some("192.0.2.1:5000".parse().unwrap()), "{odd}");
        assert_eq!(session.audio.codecs[0], (0, Codec::Pcmu), "{odd}");
        let answer = ours().answer(&session, Direction::SendRecv).0;
        assert!(SdpSession::parse(&answer).is_ok(), "{}", text(answer));
    }
}

#[test]
fn a_refused_line_without_formats_is_answered_with_one() {
    let offer =
        parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP 0\nm=video 0 RTP/AVP\nm=image 0 udptl\n")
            .unwrap();
    let (answer, _) = ours().answer(&offer, Direction::SendRecv);
    assert!(text(answer).ends_with("m=video 0 RTP/AVP 0\nm=image 0 udptl 0\n"));
    assert_eq!(parse("IP4 192.0.2.1", "m=audio 5000 RTP/AVP\n").unwrap_err(), SdpError::Codec);
}

#[test]
fn a_fault_names_its_line_and_shows_no_key_and_no_name() {
    let fault =
        |connection: &str, rest: &str| SdpSession::parse(&body(connection, rest)).unwrap_err();
    let line = |fault: SdpFault| {
        let warning = fault.error.warning();
        fault.line.map(|line| (warning, line.number, line.text))
    };
    let told = |warning, number, text: &str| Some((warning, number, text.to_owned()));
    let at = "IP4 192.0.2.1";
    assert_eq!(
        line(fault(at, "m=audio 5000 RTP/AVP 4\na=sendrecv\n")),
        told(305, 6, "m=audio 5000 RTP/AVP 4")
    );
    assert_eq!(line(fault(at, "m=audio 0 RTP/AVP 0\n")), told(304, 6, "m=audio 0 RTP/AVP 0"));
    assert_eq!(
        line(fault("IP4 phone.example.test", "m=audio 5000 RTP/AVP 0\n")),
        told(301, 4, "c=IN IP4 phone.example.test")
    );
    assert_eq!(
        line(fault(at, "m=audio 5000 RTP/AVP 0\na=sendrecv\nc=IN IP4 224.1.1.1/127\n")),
        told(330, 8, "c=IN IP4 224.1.1.1/127")
    );
    assert_eq!(
        line(fault(at, "m=audio 5000 UDP/TLS/RTP/SAVPF 0\n")),
        told(302, 6, "m=audio 5000 UDP/TLS/RTP/SAVPF 0")
    );
    assert_eq!(
        line(fault(at, "m=audio 65536 RTP/AVP 0\n")),
        told(399, 6, "m=audio 65536 RTP/AVP 0")
    );
    assert_eq!(line(fault(at, "m=audio\n")), told(399, 6, "m=audio"));
    assert_eq!(line(fault(at, "m=audio 5000 RTP/AVP 0\ncrypto inline:AAAA\n")), told(399, 7, ""));
    assert_eq!(fault(at, "").line, None);
    assert_eq!(
        fault(at, "m=audio 5000 RTP/AVP 4\n").to_string(),
        "no common codec, line 6: m=audio 5000 RTP/AVP 4"
    );
    let odd = fault(at, &format!("m=audio 5000 RTP/AVP \"\\\u{7}\u{202e}{}\n", "x".repeat(500)));
    let text = odd.line.unwrap().text;
    assert!(
        text.len() == 100 && text.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'"'),
        "{text}"
    );
}
