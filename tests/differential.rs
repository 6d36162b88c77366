//! Ours against rsip, as datagrams: the software phones are on rsip, so that the two sides of a
//! test share no parser.

use self::Difference::{OnlyOurs, OnlyRsip, Seen as Sees};
use crate::corpus;
use proptest::prelude::*;
use rsip::prelude::*;
use undertone::sip::message::{SipMessage, parse_datagram};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Difference {
    /// rsip refuses it.
    OnlyOurs,
    /// We refuse it.
    OnlyRsip,
    /// Both read it and see these things differently.
    Seen(&'static [&'static str]),
}

/// The known differences, with their reasons. docs/differences-from-rsip.md is this table in prose.
#[rustfmt::skip]
const KNOWN: &[(&str, Difference, &str)] = &[
    ("rfc4475/intmeth.dat", OnlyOurs,
     "rsip refuses methods that it does not know; 501 needs them read"),
    ("rfc4475/esc02.dat", OnlyOurs,
     "rsip refuses methods that it does not know; 501 needs them read"),
    ("rfc4475/wsinv.dat", OnlyOurs, "rsip reads no space before the colon"),
    ("rfc4475/longreq.dat", OnlyOurs, "rsip reads no space before the colon"),
    ("rfc4475/esc01.dat", OnlyOurs, "rsip reads no folded header"),
    ("rfc4475/semiuri.dat", OnlyOurs, "rsip reads no folded header"),
    ("rfc4475/unkscm.dat", OnlyOurs,
     "rsip refuses URI schemes it does not know; 416 needs them read"),
    ("rfc5118/wire/ipv6-good.sip", OnlyOurs, "rsip reads no IPv6 reference in a URI"),
    ("rfc5118/wire/port-ambiguous.sip", OnlyOurs, "rsip reads no IPv6 reference in a URI"),
    ("rfc5118/wire/port-unambiguous.sip", OnlyOurs, "rsip reads no IPv6 reference in a URI"),
    ("rfc5118/wire/ipv6-in-sdp.sip", OnlyOurs, "rsip reads no IPv6 reference in a URI"),
    ("rfc5118/wire/mult-ip-in-sdp.sip", OnlyOurs, "rsip reads no IPv6 reference in a URI"),
    ("rfc5118/wire/ipv6-correct-abnf-2-colons.sip", OnlyOurs,
     "rsip reads no IPv6 reference in a URI"),
    ("rfc5118/wire/ipv6-bug-abnf-3-colons.sip", OnlyOurs, "rsip reads no IPv6 reference in a URI"),
    ("rfc5118/wire/via-received-param-no-delim.sip", OnlyOurs,
     "rsip reads no IPv6 reference in a URI"),
    ("rfc5118/wire/via-received-param-with-delim.sip", OnlyOurs,
     "rsip reads no IPv6 reference in a URI"),
    ("derived/invalid_utf8_display.sip", OnlyOurs,
     "rsip refuses a message for one byte that is no UTF-8"),
    ("derived/smuggle_ws_before_colon.sip", OnlyOurs, "rsip reads no space before the colon"),
    ("rfc4475/badaspec.dat", OnlyRsip,
     "rsip looks at header values only when asked: malformed Via, From, \
      To, Contact are ours to refuse with 400"),
    ("rfc4475/baddn.dat", OnlyRsip,
     "rsip looks at header values only when asked: malformed Via, From, \
      To, Contact are ours to refuse with 400"),
    ("rfc4475_wire_fix/baddn_terminated.dat", OnlyRsip,
     "rsip looks at header values only when asked: malformed Via, From, \
      To, Contact are ours to refuse with 400"),
    ("rfc4475/badinv01.dat", OnlyRsip,
     "rsip looks at header values only when asked: malformed Via, From, \
      To, Contact are ours to refuse with 400"),
    ("rfc4475/quotbal.dat", OnlyRsip,
     "rsip looks at header values only when asked: malformed Via, From, \
      To, Contact are ours to refuse with 400"),
    ("rfc4475/regbadct.dat", OnlyRsip,
     "rsip looks at header values only when asked: malformed Via, From, \
      To, Contact are ours to refuse with 400"),
    ("rfc4475/ltgtruri.dat", OnlyRsip, "rsip takes angle brackets around a Request-URI"),
    ("rfc4475/mismatch01.dat", OnlyRsip, "rsip does not compare CSeq with the request line"),
    ("rfc4475/scalarlg.dat", OnlyRsip,
     "rsip reads a CSeq above 2^31 until it is asked for the number"),
    ("rfc4475/clerr.dat", OnlyRsip,
     "rsip ignores Content-Length: too large, negative, signed, repeated"),
    ("rfc4475/ncl.dat", OnlyRsip,
     "rsip ignores Content-Length: too large, negative, signed, repeated"),
    ("rfc4475/mcl01.dat", OnlyRsip,
     "rsip ignores Content-Length: too large, negative, signed, repeated"),
    ("derived/cl_4gib_tcp.sip", OnlyRsip,
     "rsip ignores Content-Length: too large, negative, signed, repeated"),
    ("derived/cl_huge_u64.sip", OnlyRsip,
     "rsip ignores Content-Length: too large, negative, signed, repeated"),
    ("derived/cl_plus_sign.sip", OnlyRsip,
     "rsip ignores Content-Length: too large, negative, signed, repeated"),
    ("derived/tcp_pipeline_two.sip", Sees(&["body"]),
     "rsip ignores Content-Length: what trails the body is body to it"),
    ("rfc4475/dblreq.dat", Sees(&["call_id", "body"]),
     "rsip knows no compact names, and ignores Content-Length"),
    ("rfc4475/multi01.dat", Sees(&["call_id", "cseq", "from_tag"]),
     "rsip takes the first of repeated headers; we take none and answer 400"),
    ("derived/dup_callid.sip", Sees(&["call_id"]),
     "rsip takes the first of repeated headers; we take none and answer 400"),
    ("derived/dup_from_compact.sip", Sees(&["from_tag"]),
     "rsip knows no compact names, so it sees no repetition"),
    ("rfc5118/wire/ipv4-mapped-ipv6.sip", Sees(&["branch"]),
     "rsip reads no IPv6 reference in a Via"),
    ("rfc5118/wire/mult-ip-in-header.sip", Sees(&["branch"]),
     "rsip reads no IPv6 reference in a Via"),
];

#[derive(Debug, PartialEq)]
struct Seen {
    start: String,
    call_id: Option<String>,
    cseq: Option<(u32, String)>,
    from_tag: Option<String>,
    to_tag: Option<String>,
    branch: Option<String>,
    fields: usize,
    body: Vec<u8>,
}

impl Seen {
    fn differences(&self, other: &Seen) -> Vec<&'static str> {
        let same = [
            ("start", self.start == other.start),
            ("call_id", self.call_id == other.call_id),
            ("cseq", self.cseq == other.cseq),
            ("from_tag", self.from_tag == other.from_tag),
            ("to_tag", self.to_tag == other.to_tag),
            ("branch", self.branch == other.branch),
            ("fields", self.fields == other.fields),
            ("body", self.body == other.body),
        ];
        same.into_iter().filter(|(_, same)| !same).map(|(what, _)| what).collect()
    }
}

fn text(bytes: impl AsRef<[u8]>) -> String {
    String::from_utf8_lossy(bytes.as_ref()).into_owned()
}

fn ours(bytes: &[u8]) -> Option<Seen> {
    let message = parse_datagram(bytes).ok()?;
    let headers = message.headers();
    let start = match &message {
        SipMessage::Request(request) => {
            format!("{} {}", request.method, text(request.uri.as_bytes()))
        }
        SipMessage::Response(response) => response.status.to_string(),
    };
    Some(Seen {
        start,
        call_id: headers.call_id().ok().map(text),
        cseq: headers.cseq().ok().map(|(number, method)| (number, method.to_string())),
        from_tag: headers.from().ok().and_then(|from| from.tag().map(text)),
        to_tag: headers.to().ok().and_then(|to| to.tag().map(text)),
        branch: headers.via_top().ok().and_then(|via| via.branch().map(text)),
        fields: headers.len(),
        body: message.body().to_vec(),
    })
}

fn theirs(bytes: &[u8]) -> Option<Seen> {
    let message = rsip::SipMessage::try_from(bytes).ok()?;
    let start = match &message {
        rsip::SipMessage::Request(request) => format!("{} {}", request.method, request.uri),
        rsip::SipMessage::Response(response) => response.status_code.code().to_string(),
    };
    let from = message.from_header().ok().and_then(|from| from.typed().ok());
    let to = message.to_header().ok().and_then(|to| to.typed().ok());
    let via = message.via_header().ok().and_then(|via| via.typed().ok());
    Some(Seen {
        start,
        call_id: message.call_id_header().ok().map(|call_id| call_id.value().to_owned()),
        cseq: message
            .cseq_header()
            .ok()
            .and_then(|cseq| cseq.typed().ok())
            .map(|cseq| (cseq.seq, cseq.method.to_string())),
        from_tag: from.and_then(|from| from.tag().map(|tag| tag.value().to_owned())),
        to_tag: to.and_then(|to| to.tag().map(|tag| tag.value().to_owned())),
        branch: via.and_then(|via| via.branch().map(|branch| branch.value().to_owned())),
        fields: message.headers().iter().count(),
        body: message.body().clone(),
    })
}

#[test]
fn the_two_differ_where_it_is_written_and_nowhere_else() {
    let mut wrong = Vec::new();
    for (name, bytes) in corpus::torture() {
        let known =
            KNOWN.iter().find(|(known, ..)| *known == name).map(|(_, difference, _)| *difference);
        let fits = match (ours(&bytes), theirs(&bytes)) {
            (None, None) => known.is_none(),
            (Some(_), None) => known == Some(OnlyOurs),
            (None, Some(_)) => known == Some(OnlyRsip),
            (Some(ours), Some(theirs)) => match ours.differences(&theirs).as_slice() {
                [] => known.is_none(),
                seen => matches!(known, Some(Sees(known)) if known == seen),
            },
        };
        if !fits {
            wrong.push(format!(
                "{name}: {known:?}\n  ours {:?}\n  rsip {:?}",
                ours(&bytes),
                theirs(&bytes)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_in_the_docs_names_them_all() {
    let docs = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/docs/differences-from-rsip.md"
    ))
    .expect("the table");
    for (name, _, reason) in KNOWN {
        let named =
            docs.lines().any(|line| line.contains(&format!("`{name}`")) && line.contains(reason));
        assert!(named, "{name} {reason}");
    }
}

/// What both must read alike: requests and responses as phones send them.
fn plain_message() -> impl Strategy<Value = Vec<u8>> {
    let method = prop::sample::select(vec![
        "INVITE",
        "ACK",
        "BYE",
        "CANCEL",
        "OPTIONS",
        "REGISTER",
        "INFO",
        "UPDATE",
        "NOTIFY",
        "SUBSCRIBE",
        "MESSAGE",
    ]);
    let uri =
        "sip:([a-z0-9]{1,8}@)?([a-z][a-z0-9]{0,8}[.]test|192[.]0[.]2[.][1-9])(:[1-9][0-9]{3})?";
    let display = "(\"[A-Za-z .]{1,12}\" |[A-Z][a-z]{1,8} )?";
    let extra = "(User-Agent: [a-zA-Z0-9/. ]{0,20}\r\n|X-[A-Za-z]{1,8}: [ -~]{0,30}\r\n\
                 |Supported: [a-z0-9]{1,8}, [a-z]{1,8}\r\n|Subject: \r\n){0,4}";
    let head = (method, uri, display, uri, "[a-z0-9]{4,12}", "(;tag=[a-z0-9]{1,9})?");
    let rest = (
        0..1u32 << 31,
        "[a-z0-9]{1,20}(@[a-z0-9.]{1,12})?",
        "z9hG4bK[A-Za-z0-9]{1,20}",
        extra,
        "[ -~\r\n]{0,80}",
        prop::option::of(100..700u16),
    );
    (head, rest).prop_map(
        |(
            (method, uri, display, other, from_tag, to_tag),
            (cseq, call_id, branch, extra, body, status),
        )| {
            let start = match status {
                Some(status) => format!("SIP/2.0 {status} Fine"),
                None => format!("{method} {uri} SIP/2.0"),
            };
            format!(
                "{start}\r\nVia: SIP/2.0/UDP 192.0.2.1:5062;branch={branch};rport\r\n\
                 Max-Forwards: 70\r\nFrom: {display}<{other}>;tag={from_tag}\r\n\
                 To: <{uri}>{to_tag}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
                 {extra}Content-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(256)
    })]

    #[test]
    fn plain_messages_are_the_same_to_both(message in plain_message()) {
        let (ours, theirs) = (ours(&message), theirs(&message));
        prop_assert!(ours.is_some());
        prop_assert_eq!(ours, theirs);
    }
}
