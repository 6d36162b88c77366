//! SIP messages and session descriptions: what must hold for any bytes, and the corpora of the fuzz
//! targets.

#[path = "../fuzz/targets.rs"]
#[expect(unreachable_pub, reason = "the fuzz targets are other crates")]
mod targets;

use crate::corpus;
use proptest::collection::vec;
use proptest::prelude::*;
use undertone::sip::message::{
    Fault, Framed, Method, SipMessage, SipRequest, SipResponse, StreamFramer, Uri, parse_datagram,
};

fn frames(framer: &mut StreamFramer, bytes: &[u8]) -> Vec<Framed> {
    framer.push(bytes);
    std::iter::from_fn(|| framer.next()).map(|framed| framed.expect("a frame")).collect()
}

fn fault(stream: &[u8]) -> (Fault, bool) {
    let mut framer = StreamFramer::new();
    framer.push(stream);
    let error = std::iter::from_fn(|| framer.next()).find_map(Result::err).expect("an error");
    (error.fault, framer.is_dead())
}

fn derived(name: &str) -> Vec<u8> {
    corpus::file(&format!("torture/derived/{name}"))
}

fn options(extra: &str) -> Vec<u8> {
    format!(
        "OPTIONS sip:a@example.test SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bK1\r\n\
         From: <sip:b@example.test>;tag=1\r\n\
         To: <sip:a@example.test>\r\nCall-ID: c1\r\nCSeq: 1 OPTIONS\r\n{extra}"
    )
    .into_bytes()
}

#[test]
fn the_fuzz_corpora_still_pass() {
    for (target, run) in [
        ("sip_message", targets::sip_message as fn(&[u8])),
        ("sip_stream", targets::sip_stream),
        ("sdp", targets::sdp),
    ] {
        let inputs =
            corpus::directory(&format!("{}/fuzz/corpus/{target}", env!("CARGO_MANIFEST_DIR")));
        assert!(inputs.len() >= 8, "{target} has {} inputs", inputs.len());
        inputs.iter().for_each(|(_, input)| run(input));
    }
}

#[test]
fn the_torture_corpora_hold_as_datagrams_and_as_streams() {
    for (_, input) in corpus::torture() {
        targets::sip_message(&input);
        for cut in [0, 1, 59] {
            targets::sip_stream(&[&[cut], input.as_slice()].concat());
        }
    }
}

#[test]
fn two_messages_cut_anywhere_are_the_same_two_messages() {
    let stream = derived("tcp_pipeline_two.sip");
    let whole = frames(&mut StreamFramer::new(), &stream);
    assert_eq!(whole.len(), 2);
    for cut in 0..=stream.len() {
        let mut framer = StreamFramer::new();
        let mut pieces = frames(&mut framer, &stream[..cut]);
        pieces.extend(frames(&mut framer, &stream[cut..]));
        assert_eq!(pieces, whole, "cut at {cut}");
        assert!(!framer.is_midway());
    }
}

#[test]
fn a_stream_whose_framing_is_in_doubt_is_dead() {
    assert_eq!(fault(&corpus::file("torture/rfc4475/mcl01.dat")), (Fault::ContentLength, true));
    assert_eq!(fault(&corpus::file("torture/rfc4475/ncl.dat")), (Fault::ContentLength, true));
    assert_eq!(fault(&derived("cl_plus_sign.sip")), (Fault::ContentLength, true));
    assert_eq!(fault(&derived("cl_huge_u64.sip")), (Fault::ContentLength, true));
    assert_eq!(fault(&derived("cl_4gib_tcp.sip")), (Fault::TooLarge, true));
    assert_eq!(fault(&derived("tcp_garbage_http.sip")), (Fault::NotSip, true));
    assert_eq!(fault(&options("\r\n")), (Fault::ContentLength, true));
    assert_eq!(fault(&options("Content-Length: 0\r\nl: 0\r\n\r\n")), (Fault::ContentLength, true));
    assert_eq!(fault(&[b"A".repeat(70_000)].concat()), (Fault::TooLarge, true));
}

#[test]
fn a_space_before_the_colon_hides_no_content_length() {
    let body = options("Content-Length: 0\r\n\r\n");
    let outer = [options(&format!("Content-Length : {}\r\n\r\n", body.len())), body].concat();
    let framed = frames(&mut StreamFramer::new(), &outer);
    let [Framed::Message(message)] = framed.as_slice() else { panic!("{framed:?}") };
    assert!(message.body().starts_with(b"OPTIONS"));
}

#[test]
fn a_bad_message_in_good_frames_is_answered_and_the_stream_lives() {
    let bad = String::from_utf8(options("Content-Length: 0\r\n\r\n"))
        .unwrap()
        .replace("CSeq: 1", "CSeq: 99999999999");
    let mut framer = StreamFramer::new();
    framer.push(&[bad.as_bytes(), &options("Content-Length: 0\r\n\r\n")].concat());
    let error = framer.next().unwrap().unwrap_err();
    assert_eq!(error.response.unwrap().status, 400);
    assert!(matches!(framer.next(), Some(Ok(Framed::Message(_)))));
}

#[test]
fn keep_alives_are_seen_and_do_not_disturb() {
    assert_eq!(
        frames(&mut StreamFramer::new(), &derived("tcp_crlf_keepalive.sip")),
        [Framed::Ping]
    );
    let stream = [b"\r\n\r\n\r\n".as_slice(), &options("Content-Length: 0\r\n\r\n")].concat();
    assert!(matches!(
        frames(&mut StreamFramer::new(), &stream).as_slice(),
        [Framed::Ping, Framed::Message(_)]
    ));
    let error = parse_datagram(&derived("udp_crlf_keepalive.sip")).unwrap_err();
    assert_eq!((error.fault, error.response), (Fault::KeepAlive, None));
}

#[test]
fn hostile_messages_of_our_own_are_refused_as_written_beside_them() {
    let status = |name: &str| {
        parse_datagram(&derived(name)).unwrap_err().response.map(|response| response.status)
    };
    for name in ["smuggle_ruri_headers.sip", "cl_plus_sign.sip", "cl_huge_u64.sip"] {
        assert_eq!(status(name), Some(400), "{name}");
    }
    for name in ["smuggle_bare_lf_lines.sip", "udp_one_byte.sip"] {
        assert_eq!(status(name), None, "{name}");
    }
    assert!(parse_datagram(&derived("big_header_60k.sip")).is_ok());
    let Ok(SipMessage::Request(request)) = parse_datagram(&derived("smuggle_ws_before_colon.sip"))
    else {
        panic!("it can be read")
    };
    assert!(request.headers.iter().all(|field| !field.name().contains(&b' ')));
    assert!(request.headers.has("P-Asserted-Identity") || request.headers.has("X-Coach-Role"));
}

#[test]
fn too_many_fields_are_refused() {
    let many = "X: y\r\n".repeat(300);
    let error = parse_datagram(&options(&format!("{many}\r\n"))).unwrap_err();
    assert_eq!(
        (error.fault, error.response.map(|response| response.status)),
        (Fault::TooManyFields, Some(400))
    );
}

#[test]
fn no_header_value_makes_a_second_header() {
    let uri = Uri::parse(b"sip:a@example.test").unwrap();
    let request = SipRequest::new(Method::Options, uri)
        .with("Via", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1")
        .with("Subject", "one\r\nX-Evil: two\n\nthree")
        .with("X-Bad: name", "lost");
    let Ok(SipMessage::Request(read)) = parse_datagram(&request.to_bytes()) else {
        panic!("it can be read")
    };
    assert!(!read.headers.has("X-Evil") && !read.headers.has("X-Bad"));
    assert_eq!(read.headers.get("Subject"), Some(b"one  X-Evil: two  three".as_slice()));
}

#[test]
fn the_source_is_noted_on_the_topmost_via_alone() {
    let mut headers = SipRequest::new(Method::Options, Uri::parse(b"sip:a").unwrap())
        .with(
            "v",
            "SIP/2.0/UDP phone.test:5070;rport;received=203.0.113.1;branch=z9hG4bK1, SIP/2.0/UDP \
             192.0.2.2",
        )
        .with("Via", "SIP/2.0/TCP 192.0.2.3")
        .headers;
    headers.stamp_source("192.0.2.9:1234".parse().unwrap());
    let vias = headers.vias().unwrap();
    assert_eq!(
        (vias.len(), vias[0].received(), vias[0].rport()),
        (3, Some("192.0.2.9".parse().unwrap()), Some(Some(1234)))
    );
    assert_eq!((vias[1].received(), vias[1].rport()), (None, None));
    headers.pop_via();
    headers.pop_via();
    assert_eq!(headers.vias().unwrap()[0].host, "192.0.2.3");
}

#[test]
fn fields_are_set_in_place_and_removed_by_any_name() {
    let mut headers = SipRequest::new(Method::Options, Uri::parse(b"sip:a").unwrap())
        .with("f", "<sip:a@b>")
        .with("Contact", "<sip:one>, <sip:two>;q=1")
        .with("m", "\"x, <y>\" <sip:three>")
        .headers;
    assert_eq!(headers.contacts().unwrap().len(), 3);
    headers.set("CONTACT", "<sip:four>");
    assert_eq!(
        headers.iter().map(|field| field.value().to_vec()).collect::<Vec<_>>(),
        [b"<sip:a@b>".to_vec(), b"<sip:four>".to_vec()]
    );
    headers.remove("From");
    assert_eq!(headers.len(), 1);
}

#[test]
fn a_response_tags_to_once_and_keeps_the_rest_as_it_was() {
    let Ok(SipMessage::Request(request)) = parse_datagram(&options("\r\n")) else {
        panic!("it can be read")
    };
    let response = SipResponse::to(&request, 200).with_to_tag("x").with_to_tag("y");
    assert_eq!(response.headers.get("To"), Some(b"<sip:a@example.test>;tag=x".as_slice()));
    assert!(response.to_bytes().starts_with(b"SIP/2.0 200 OK\r\nVia: "));
}

#[test]
fn uris_are_the_same_by_rfc_3261_19_1_4() {
    let same = |a: &str, b: &str| {
        Uri::parse(a.as_bytes()).unwrap().same(&Uri::parse(b.as_bytes()).unwrap())
    };
    assert!(same("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"));
    assert!(same("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"));
    assert!(!same("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"));
    assert!(!same("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"));
    assert!(!same("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"));
    assert!(!same("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"));
}

#[test]
fn a_user_with_anything_in_it_is_escaped_and_comes_back() {
    let uri = Uri::sip(Some("a b@c:\r\n\"<é>".as_bytes()), "2001:db8::1", Some(5060))
        .unwrap()
        .with_param("x", Some("y;z"))
        .unwrap();
    assert_eq!(uri.user().unwrap().as_ref(), "a b@c:\r\n\"<é>".as_bytes());
    assert_eq!(uri.host_text(), "[2001:db8::1]");
    assert_eq!(uri.param("X").unwrap().as_ref(), b"y;z");
}

#[derive(Clone, Debug)]
enum Mutation {
    Replace(prop::sample::Index, u8),
    Remove(prop::sample::Index, usize),
    Insert(prop::sample::Index, Vec<u8>),
    Repeat(prop::sample::Index, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let pieces = prop::sample::select(vec![
        "\r\n",
        "\r",
        "\n",
        " ",
        "\t",
        ":",
        ";",
        ",",
        "<",
        ">",
        "\"",
        "\\",
        "%",
        "=",
        "?",
        "@",
        "[",
        "]",
        "\0",
        "\u{ff}",
        "*",
        "SIP/2.0",
        "l: 5\r\n",
        "\r\n\r\n",
        ";tag=",
        "Via: ",
        "9999999999999999999999",
    ]);
    prop_oneof![
        (any::<prop::sample::Index>(), any::<u8>())
            .prop_map(|(at, byte)| Mutation::Replace(at, byte)),
        (any::<prop::sample::Index>(), 1..40usize)
            .prop_map(|(at, length)| Mutation::Remove(at, length)),
        (any::<prop::sample::Index>(), pieces)
            .prop_map(|(at, piece)| Mutation::Insert(at, piece.as_bytes().to_vec())),
        (any::<prop::sample::Index>(), 1..80usize)
            .prop_map(|(at, length)| Mutation::Repeat(at, length)),
    ]
}

fn mutate(bytes: &mut Vec<u8>, mutation: &Mutation) {
    if bytes.is_empty() {
        return;
    }
    let length = bytes.len();
    match mutation {
        Mutation::Replace(at, byte) => bytes[at.index(length)] = *byte,
        Mutation::Remove(at, count) => {
            drop(bytes.drain(at.index(length)..(at.index(length) + count).min(length)))
        }
        Mutation::Insert(at, piece) => {
            drop(bytes.splice(at.index(length)..at.index(length), piece.iter().copied()))
        }
        Mutation::Repeat(at, count) => {
            bytes.extend_from_within(at.index(length)..(at.index(length) + count).min(length))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(256)
    })]

    #[test]
    fn no_bytes_upset_the_parsers(bytes in vec(any::<u8>(), 0..600)) {
        targets::sip_message(&bytes);
        targets::sip_stream(&bytes);
        targets::sdp(&bytes);
    }

    #[test]
    fn no_mutation_of_a_message_upsets_the_parser(
        pick in any::<prop::sample::Index>(), mutations in vec(mutation(), 1..6)
    ) {
        let mut corpus = corpus::torture();
        let (_, mut bytes) = corpus.swap_remove(pick.index(corpus.len()));
        mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation));
        targets::sip_message(&bytes);
        targets::sip_stream(&bytes);
    }

    #[test]
    fn no_mutation_of_a_description_upsets_the_parser(mutations in vec(mutation(), 1..8)) {
        let mut bytes = b"v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
                          m=audio 5000 RTP/AVP 0 8 101\r\na=rtpmap:101 \
            telephone-event/8000\r\na=ptime:20\r\na=rtcp:5001\r\na=sendonly\r\n\
            m=video 5002 RTP/AVP 96\r\n".to_vec();
        mutations.iter().for_each(|mutation| mutate(&mut bytes, mutation));
        targets::sdp(&bytes);
    }

    #[test]
    fn what_is_written_is_read_back(
        method in "[A-Z]{1,12}",
        user in vec(any::<u8>(), 1..20),
        subject in vec(any::<u8>(), 0..60),
        body in vec(any::<u8>(), 0..200),
    ) {
        let uri = Uri::sip(Some(&user), "example.test", None).unwrap();
        let request = SipRequest::new(Method::parse(method.as_bytes()).unwrap(), uri)
            .with("Via", "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1")
            .with("Subject", &subject)
            .with_body("application/x", body);
        let Ok(SipMessage::Request(read)) = parse_datagram(&request.to_bytes()) else {
            panic!("it can be read")
        };
        prop_assert_eq!(read.uri.user().unwrap().into_owned(), user);
        prop_assert_eq!(&read.method, &request.method);
        prop_assert_eq!(&read.body, &request.body);
        prop_assert_eq!(read.headers.get("Subject"), request.headers.get("Subject"));
        targets::sip_message(&request.to_bytes());
    }
}
