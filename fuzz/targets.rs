//! What must hold for any bytes. The fuzz targets and the tests that replay their corpora run the
//! same code.

use undertone::sip::message::{
    Abilities, Framed, Method, ParseError, SipMessage, SipResponse, StreamFramer, parse_datagram,
    validate,
};
use undertone::sip::sdp::{Direction, Local, SdpSession};

const ABILITIES: Abilities<'_> =
    Abilities { methods: &[Method::Invite], extensions: &["timer"], bodies: &["application/sdp"] };

/// A datagram: nothing panics, what is accepted prints to what reads the same, and every request
/// can be answered.
pub fn sip_message(data: &[u8]) {
    match parse_datagram(data) {
        Ok(message) => look_at(&message),
        Err(error) => look_at_error(&error),
    }
}

/// A stream, cut by its first byte: however it is cut, the same messages come out.
pub fn sip_stream(data: &[u8]) {
    let Some((cut, stream)) = data.split_first() else {
        return;
    };
    let whole = frames(&mut [stream].into_iter());
    let pieces = frames(&mut stream.chunks(usize::from(*cut % 61) + 1));
    assert_eq!(whole, pieces);
    for framed in &whole {
        match framed {
            Ok(Framed::Message(message)) => look_at(message),
            Ok(Framed::Ping | Framed::Pong) => {}
            Err(error) => look_at_error(error),
        }
    }
}

fn frames(pieces: &mut dyn Iterator<Item = &[u8]>) -> Vec<Result<Framed, ParseError>> {
    let mut framer = StreamFramer::new();
    let mut frames = Vec::new();
    for piece in pieces {
        framer.push(piece);
        while let Some(framed) = framer.next() {
            frames.push(framed);
        }
    }
    frames
}

/// A session description: nothing panics, our answer can be read and never allows more than the
/// offer.
pub fn sdp(data: &[u8]) {
    let Ok(offer) = SdpSession::parse(data) else {
        return;
    };
    let mut local = Local::new(1, ([192, 0, 2, 1], 20_000).into());
    let (body, agreed) = local.answer(&offer, Direction::SendRecv);
    assert!(!agreed.send || offer.audio.direction.receives());
    assert!(agreed.remote.is_none_or(|remote| !remote.ip().is_multicast() && remote.port() != 0));
    let answer = SdpSession::parse(&body).expect("our answer can be read");
    assert_eq!(answer.audio.direction, Direction::SendRecv.and(offer.audio.direction.reversed()));
    let again =
        SdpSession::parse(&local.offer(Direction::SendRecv)).expect("our offer can be read");
    assert_eq!(again.version, answer.version + 1);
    let _ = local.accept(&offer);
}

fn look_at_error(error: &ParseError) {
    if let Some(response) = &error.response {
        assert!(response.status >= 400);
        // Its headers are the peer's, so that it may be as unreadable as they were; it is one
        // message all the same.
        let _ = parse_datagram(&response.to_bytes());
    }
}

fn look_at(message: &SipMessage) {
    let headers = message.headers();
    let _ = (
        headers.call_id(),
        headers.cseq(),
        headers.from(),
        headers.to(),
        headers.max_forwards(),
        headers.content_length(),
    );
    let _ = (
        headers.vias(),
        headers.contacts(),
        headers.routes(),
        headers.record_routes(),
        headers.expires(),
        headers.content_type(),
    );
    let _ = (headers.require(), format!("{message:?}"));
    for address in [headers.from(), headers.to()].into_iter().flatten() {
        let _ = (
            address.tag(),
            address.uri.user(),
            address.uri.host(),
            address.uri.params().count(),
            address.uri.same(&address.uri),
        );
    }
    let printed = message.to_bytes();
    let again = parse_datagram(&printed).expect("what was accepted prints to what is accepted");
    assert_eq!(again.to_bytes(), printed);
    assert_eq!(again.body(), message.body());
    let fields = |message: &SipMessage| -> Vec<(Vec<u8>, Vec<u8>)> {
        let fields = message.headers().iter().filter(|field| !field.is("Content-Length"));
        fields.map(|field| (field.name().to_vec(), field.value().to_vec())).collect()
    };
    assert_eq!(fields(&again), fields(message));
    let mut framer = StreamFramer::new();
    framer.push(&printed);
    assert_eq!(framer.next(), Some(Ok(Framed::Message(again.clone()))));
    assert!(framer.next().is_none() && !framer.is_midway());
    if let SipMessage::Request(request) = message {
        let mut response = match validate(request, &ABILITIES) {
            Ok(()) => Some(SipResponse::to(request, 200)),
            Err(refuse) => refuse.response(request),
        };
        if let Some(response) = &mut response {
            response.headers.stamp_source(([192, 0, 2, 1], 5060).into());
            response.headers.tag_to("t");
            parse_datagram(&response.to_bytes())
                .expect("a response to what was accepted can be read");
        }
    }
}
