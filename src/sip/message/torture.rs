//! RFC 4475 and RFC 5118, against the written oracle in tests/data/torture/index.tsv.

use super::*;
use crate::hex::hex;
use sha2::{Digest, Sha256};

const ABILITIES: Abilities<'_> = Abilities {
    methods: &[
        Method::Invite,
        Method::Ack,
        Method::Bye,
        Method::Cancel,
        Method::Options,
        Method::Register,
        Method::Info,
    ],
    extensions: &["timer", "replaces"],
    bodies: &["application/sdp"],
};

struct Row {
    file: String,
    bytes: Vec<u8>,
    parser: String,
    allowed: String,
    method: String,
    sha256: String,
}

fn rows() -> Vec<Row> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/torture/");
    let index = std::fs::read_to_string(format!("{root}index.tsv")).unwrap();
    let rows = index.lines().skip(1).map(|line| {
        let cells: Vec<&str> = line.split('\t').collect();
        Row {
            file: cells[0].to_owned(),
            bytes: std::fs::read(format!("{root}{}", cells[0])).unwrap(),
            parser: cells[5].to_owned(),
            allowed: cells[7].to_owned(),
            method: cells[9].to_owned(),
            sha256: cells[15].to_owned(),
        }
    });
    rows.collect()
}

fn row(name: &str) -> Row {
    rows().into_iter().find(|row| row.file.ends_with(name)).unwrap()
}

fn read(name: &str) -> SipMessage {
    parse_datagram(&row(name).bytes).unwrap()
}

fn request(name: &str) -> SipRequest {
    let SipMessage::Request(request) = read(name) else { panic!("{name} is a response") };
    request
}

/// `Ok` goes on to the application, `Err` is the status sent back, 0 for silence.
fn outcome(bytes: &[u8]) -> Result<SipMessage, u16> {
    let message = parse_datagram(bytes)
        .map_err(|error| error.response.map_or(0, |response| response.status))?;
    if let SipMessage::Request(request) = &message {
        validate(request, &ABILITIES).map_err(|refuse| refuse.status)?;
    }
    Ok(message)
}

#[test]
fn the_files_are_the_archives_byte_for_byte() {
    let rows = rows();
    assert_eq!(rows.len(), 75);
    for row in rows {
        let sum = hex(&Sha256::digest(&row.bytes));
        assert_eq!(sum, row.sha256, "{}", row.file);
    }
}

#[test]
fn every_torture_message_is_taken_or_refused_as_the_rfc_says() {
    let mut wrong = Vec::new();
    for row in rows() {
        let parsed = parse_datagram(&row.bytes);
        // The archive of RFC 5118 has bare line feeds and cannot be sent as it is; its sendable
        // form is beside it.
        if row.file.contains("/archive/") {
            assert_eq!(parsed.unwrap_err().fault, Fault::Head, "{}", row.file);
            continue;
        }
        let outcome = outcome(&row.bytes);
        let fits = match &outcome {
            Ok(_) => row.parser.starts_with("accept") && !row.parser.contains("fail validation"),
            Err(0) => row.allowed.contains("silence"),
            Err(400) => {
                row.allowed.starts_with("400")
                    || (row.allowed.contains("400") && !row.allowed.contains("except 400"))
            }
            Err(status) => {
                row.allowed.contains(&status.to_string()) || row.allowed.starts_with("any final")
            }
        };
        if !fits {
            wrong.push(format!(
                "{}: {:?}, but {} / {}",
                row.file,
                outcome.err(),
                row.parser,
                row.allowed
            ));
        }
        if let Ok(SipMessage::Request(request)) = parsed {
            assert_eq!(request.method.to_string(), row.method, "{}", row.file);
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn what_was_read_is_printed_and_read_again_the_same() {
    for row in rows() {
        let Ok(message) = parse_datagram(&row.bytes) else {
            continue;
        };
        let again = parse_datagram(&message.to_bytes()).unwrap();
        assert_eq!(again.body(), message.body(), "{}", row.file);
        let fields = |message: &SipMessage| -> Vec<(Vec<u8>, Vec<u8>)> {
            let fields = message.headers().iter().filter(|field| !field.is("Content-Length"));
            fields.map(|field| (field.name().to_vec(), field.value().to_vec())).collect()
        };
        assert_eq!(fields(&again), fields(&message), "{}", row.file);
        assert_eq!(again.to_bytes(), message.to_bytes(), "{}", row.file);
    }
}

#[test]
fn the_short_tortuous_invite_means_what_it_says() {
    let request = request("wsinv.dat");
    assert_eq!(request.headers.cseq(), Ok((9, Method::Invite)));
    assert_eq!(request.headers.max_forwards(), Ok(68));
    assert_eq!(request.headers.vias().unwrap().len(), 3);
    assert_eq!(request.headers.get("Subject"), Some(b"".as_slice()));
    assert_eq!(request.headers.to().unwrap().tag(), Some(b"1918181833n".as_slice()));
    assert_eq!(request.headers.from().unwrap().display, b"J Rosenberg \\\"");
    let contacts = request.headers.contacts().unwrap();
    assert_eq!(contacts[0].params.get("newparam"), Some(b"newvalue".as_slice()));
    assert_eq!(contacts[0].params.get("q"), Some(b"0.33".as_slice()));
}

#[test]
fn escapes_are_undone_once() {
    let request = request("esc01.dat");
    assert_eq!(request.uri.user().unwrap().as_ref(), b"sips:user@example.com");
    assert_eq!(request.uri.host_text(), "example.net");
    let contact = &request.headers.contacts().unwrap()[0];
    assert_eq!(contact.uri.param("lr").unwrap().as_ref(), b"");
    assert_eq!(contact.uri.param("name").unwrap().as_ref(), b"value%41");
}

#[test]
fn an_escaped_nul_does_not_shorten_a_user() {
    let request = request("escnull.dat");
    let users: Vec<Vec<u8>> = request
        .headers
        .contacts()
        .unwrap()
        .iter()
        .map(|it| it.uri.user().unwrap().into_owned())
        .collect();
    assert_eq!(users, [b"\0".to_vec(), b"\0\0".to_vec()]);
}

#[test]
fn semicolons_before_the_at_belong_to_the_user() {
    assert_eq!(request("semiuri.dat").uri.user().unwrap().as_ref(), b"user;par=u@example.net");
}

#[test]
fn odd_but_valid_characters_survive() {
    let request = request("intmeth.dat");
    assert_eq!(request.method.as_bytes(), b"!interesting-Method0123456789_*+`.%indeed'~");
    assert_eq!(request.uri.host_text(), "example.com");
    let response = SipResponse::to(&request, 501).with_to_tag("t1");
    assert_eq!(response.headers.get("From"), request.headers.get("From"));
    assert_eq!(response.headers.get("Call-ID"), request.headers.get("Call-ID"));
}

#[test]
fn an_ipv6_reference_hides_no_port() {
    assert_eq!(request("wire/port-ambiguous.sip").uri.port(), None);
    assert_eq!(request("wire/port-unambiguous.sip").uri.port(), Some(5070));
    let vias = request("wire/via-received-param-with-delim.sip").headers.vias().unwrap();
    assert_eq!(vias[0].received(), Some("2001:db8::9:255".parse().unwrap()));
    let vias = request("wire/via-received-param-no-delim.sip").headers.vias().unwrap();
    assert_eq!(vias[0].received(), Some("2001:db8::9:255".parse().unwrap()));
}

#[test]
fn both_spellings_of_an_ipv6_reference_are_one_address() {
    let expected = Host::Address("2001:db8::192.0.2.1".parse().unwrap());
    assert_eq!(request("wire/ipv6-correct-abnf-2-colons.sip").uri.host(), expected);
    assert_eq!(request("wire/ipv6-bug-abnf-3-colons.sip").uri.host(), expected);
}

#[test]
fn what_trails_the_body_of_a_datagram_is_no_second_request() {
    let request = request("dblreq.dat");
    assert_eq!((request.method, request.body.len()), (Method::Register, 0));
}

#[test]
fn a_refusal_can_be_built_whatever_is_missing() {
    let insufficient = request("insuf.dat");
    let refuse = validate(&insufficient, &ABILITIES).unwrap_err();
    let response = refuse.response(&insufficient).unwrap();
    assert_eq!(response.status, 400);
    assert!(response.headers.has("Via") && !response.headers.has("Call-ID"));
    let repeated = request("multi01.dat");
    let response = validate(&repeated, &ABILITIES).unwrap_err().response(&repeated).unwrap();
    assert_eq!(response.headers.fields_of("CSeq").count(), 1);
}

#[test]
fn refusals_say_what_would_have_been_acceptable() {
    let refuse = validate(&request("bext01.dat"), &ABILITIES).unwrap_err();
    assert_eq!((refuse.status, refuse.headers[0].0), (420, "Unsupported"));
    assert_eq!(refuse.headers[0].1, b"nothingSupportsThis, nothingSupportsThisEither");
    let refuse = validate(&request("invut.dat"), &ABILITIES).unwrap_err();
    assert_eq!(refuse.headers, [("Accept", b"application/sdp".to_vec())]);
    let error = parse_datagram(&row("badvers.dat").bytes).unwrap_err();
    assert_eq!(error.response.unwrap().status, 505);
}
