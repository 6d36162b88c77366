//! SIP messages parsed per second on one core, beside rsip in the same run, both with the product's
//! allocator. `--json` prints one object. Of several rounds the median counts; a ratio is that of a
//! round, whose parsers take turns.
//!
//! Two rows a parser: the message alone (rsip leaves values unread until asked; ours has checked
//! Via, From, To, Contact, Route, Call-ID, CSeq and Max-Forwards), and the message with what a
//! transaction and a dialog ask of it.

mod measure;

use measure::Spread;
use rsip::prelude::*;
use std::hint::black_box;
use std::time::Duration;
use undertone::clock::instant;
use undertone::sip::message::parse_datagram;

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(200);
/// Before the first round, each.
const WARM_UP: Duration = Duration::from_millis(50);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let json = std::env::args().any(|argument| argument == "--json");
    let messages = messages();
    let rounds = measure(
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
    let spread =
        |value: fn(&[f64; 4]) -> f64| Spread::of(rounds.iter().map(value)).expect("a round");
    let rows = [
        (
            "message",
            spread(|round| round[0]),
            spread(|round| round[1]),
            spread(|round| round[0] / round[1]),
        ),
        (
            "with typed headers",
            spread(|round| round[2]),
            spread(|round| round[3]),
            spread(|round| round[2] / round[3]),
        ),
    ];
    if json {
        let [(_, ours, rsip, ratio), (_, ours_typed, rsip_typed, ratio_typed)] = &rows;
        let whole = |spread: &Spread| spread.middle.round();
        let hundredths = |value: f64| (value * 100.0).round() / 100.0;
        let range = |spread: &Spread| [spread.least, spread.most].map(hundredths);
        println!(
            "{}",
            serde_json::json!({
                "name": "sip_messages",
                "unit": "messages/s",
                "ours": whole(ours),
                "rsip": whole(rsip),
                "ratio": hundredths(ratio.middle),
                "ratio_range": range(ratio),
                "ours_typed": whole(ours_typed),
                "rsip_typed": whole(rsip_typed),
                "ratio_typed": hundredths(ratio_typed.middle),
                "ratio_typed_range": range(ratio_typed),
            })
        );
    } else {
        println!(
            "SIP messages parsed per second, one core, median of {ROUNDS} rounds (least to most)"
        );
        for (name, ours, rsip, ratio) in rows {
            println!("  {name:<18}  ours {ours:.0}   rsip {rsip:.0}   ratio {ratio:.2}");
        }
    }
}

type Parser<'a> = &'a mut dyn FnMut(&[u8]);

/// The rounds of all, each parser in turn so that what else the machine does falls on all alike.
fn measure<const N: usize>(mut parsers: [Parser<'_>; N], messages: &[Vec<u8>]) -> Vec<[f64; N]> {
    let mut round = |time| parsers.each_mut().map(|parser| per_second(parser, messages, time));
    round(WARM_UP);
    (0..ROUNDS).map(|_| round(ROUND)).collect()
}

fn per_second(parser: &mut Parser<'_>, messages: &[Vec<u8>], time: Duration) -> f64 {
    let start = instant();
    let mut count = 0u32;
    loop {
        for message in messages {
            parser(message);
        }
        count += messages.len() as u32;
        let spent = start.elapsed();
        if spent >= time {
            return f64::from(count) / spent.as_secs_f64();
        }
    }
}

/// One call as a phone sends and gets it: INVITE, 180, 200, ACK, BYE, and a REGISTER.
fn messages() -> Vec<Vec<u8>> {
    let sdp = "v=0\r\no=- 3747 3747 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\n\
               m=audio 40000 RTP/AVP 0 8 101\r\n\
        a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\n\
        a=fmtp:101 0-15\r\na=sendrecv\r\n";
    let head = |start: &str, method: &str, to_tag: &str, more: &str, body: &str| {
        format!(
            "{start}\r\nVia: SIP/2.0/UDP 192.0.2.10:5060;rport;branch=z9hG4bKPj5d1b0c4a9e\r\n\
             Max-Forwards: 70\r\n\
             From: \"Anna Agent\" <sip:1001@coach.example.test>;tag=8f2c7a51\r\n\
             To: <sip:1002@coach.example.test>{to_tag}\r\n\
             Call-ID: 6f1c2e0d9b7a4c51@192.0.2.10\r\nCSeq: 20471 {method}\r\n\
             Contact: <sip:1001@192.0.2.10:5060;ob>\r\n\
             Allow: PRACK, INVITE, ACK, BYE, CANCEL, UPDATE, INFO, SUBSCRIBE, NOTIFY, REFER, \
             MESSAGE, OPTIONS\r\n\
             Supported: replaces, 100rel, timer, norefersub\r\nUser-Agent: Phone/2.4\r\n\
             {more}Content-Length: {}\r\n\r\n{body}",
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
