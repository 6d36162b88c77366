//! SIP messages parsed per second on one core, beside rsip in the same run. `--json` prints one object.
//!
//! Two rows a parser: the message alone (rsip leaves values unread until asked; ours has checked Via, From, To, Contact, Route, Call-ID, CSeq
//! and Max-Forwards), and the message with what a transaction and a dialog ask of it.

use rsip::prelude::*;
use std::hint::black_box;
use std::time::Duration;
use undertone::clock;
use undertone::sip::message::parse_datagram;

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(200);

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let messages = messages();
    let [ours, rsip, ours_typed, rsip_typed] = measure(
        [
            &mut |message| drop(black_box(parse_datagram(message).expect("a message"))),
            &mut |message| drop(black_box(rsip::SipMessage::try_from(message).expect("a message"))),
            &mut |message| {
                let message = parse_datagram(message).expect("a message");
                let headers = message.headers();
                black_box((
                    headers.via_top().is_ok(),
                    headers.from().is_ok(),
                    headers.to().is_ok(),
                    headers.cseq().is_ok(),
                    headers.call_id().is_ok(),
                ));
            },
            &mut |message| {
                let message = rsip::SipMessage::try_from(message).expect("a message");
                let via = message.via_header().map(|via| via.typed().is_ok());
                let from = message.from_header().map(|from| from.typed().is_ok());
                let to = message.to_header().map(|to| to.typed().is_ok());
                let cseq = message.cseq_header().map(|cseq| cseq.typed().is_ok());
                let _ = black_box((via, from, to, cseq, message.call_id_header().is_ok()));
            },
        ],
        &messages,
    );
    let (ratio, ratio_typed) = (ours / rsip, ours_typed / rsip_typed);
    if json {
        println!(
            "{{\"name\":\"sip_messages\",\"unit\":\"messages/s\",\"ours\":{ours:.0},\"rsip\":{rsip:.0},\"ratio\":{ratio:.2},\
             \"ours_typed\":{ours_typed:.0},\"rsip_typed\":{rsip_typed:.0},\"ratio_typed\":{ratio_typed:.2}}}"
        );
    } else {
        println!("SIP messages parsed per second, one core, best of {ROUNDS} rounds");
        println!("  message             ours {ours:>10.0}   rsip {rsip:>10.0}   ratio {ratio:.2}");
        println!("  with typed headers  ours {ours_typed:>10.0}   rsip {rsip_typed:>10.0}   ratio {ratio_typed:.2}");
    }
}

type Parser<'a> = &'a mut dyn FnMut(&[u8]);

/// The best round of each, the rounds taking turns so that what else the machine does falls on all alike.
fn measure<const N: usize>(mut parsers: [Parser<'_>; N], messages: &[Vec<u8>]) -> [f64; N] {
    let mut best = [0f64; N];
    for _ in 0..ROUNDS {
        for (parser, best) in parsers.iter_mut().zip(&mut best) {
            let start = clock::now().mono;
            let mut count = 0u32;
            let spent = loop {
                for message in messages {
                    parser(message);
                }
                count += messages.len() as u32;
                let spent = clock::now().mono.saturating_duration_since(start);
                if spent >= ROUND {
                    break spent;
                }
            };
            *best = best.max(f64::from(count) / spent.as_secs_f64());
        }
    }
    best
}

/// One call as a phone sends and gets it: INVITE, 180, 200, ACK, BYE, and a REGISTER.
fn messages() -> Vec<Vec<u8>> {
    let sdp = "v=0\r\no=- 3747 3747 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\nm=audio 40000 RTP/AVP 0 8 101\r\n\
        a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=sendrecv\r\n";
    let head = |start: &str, method: &str, to_tag: &str, more: &str, body: &str| {
        format!(
            "{start}\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;rport;branch=z9hG4bKPj5d1b0c4a9e\r\nMax-Forwards: 70\r\n\
             From: \"Anna Agent\" <sip:1001@coach.example.test>;tag=8f2c7a51\r\nTo: <sip:1002@coach.example.test>{to_tag}\r\n\
             Call-ID: 6f1c2e0d9b7a4c51@192.0.2.10\r\nCSeq: 20471 {method}\r\nContact: <sip:1001@192.0.2.10:5060;ob>\r\n\
             Allow: PRACK, INVITE, ACK, BYE, CANCEL, UPDATE, INFO, SUBSCRIBE, NOTIFY, REFER, MESSAGE, OPTIONS\r\n\
             Supported: replaces, 100rel, timer, norefersub\r\nUser-Agent: Phone/2.4\r\n{more}Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes()
    };
    let typed = "Content-Type: application/sdp\r\n";
    vec![
        head(
            "INVITE sip:1002@coach.example.test SIP/2.0",
            "INVITE",
            "",
            &format!("Session-Expires: 300\r\nMin-SE: 90\r\n{typed}"),
            sdp,
        ),
        head("SIP/2.0 180 Ringing", "INVITE", ";tag=as58f4", "", ""),
        head("SIP/2.0 200 OK", "INVITE", ";tag=as58f4", typed, sdp),
        head("ACK sip:1002@192.0.2.20:5060 SIP/2.0", "ACK", ";tag=as58f4", "", ""),
        head("BYE sip:1002@192.0.2.20:5060 SIP/2.0", "BYE", ";tag=as58f4", "", ""),
        head("REGISTER sip:coach.example.test SIP/2.0", "REGISTER", "", "Expires: 300\r\n", ""),
    ]
}
