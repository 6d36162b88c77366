//! How many frames of HTTP/2 a client may send that cost us something and ask nothing (RFC 9113
//! 10.5). Core: it sees the bytes of a connection go by, and copies none.
//!
//! The HTTP library bounds streams at once, heads, CONTINUATION frames of one head, streams that
//! are reset before they are looked at, and bodies that nobody reads. It counts nothing else, and
//! each frame is worked on, some are answered, without end. So here every frame takes a token,
//! known or unknown, except one kind: DATA, more than padding and a few bytes, of a stream that is
//! open on both sides. A new stream costs one frame, whatever the length of its head.
//!
//! What we send pays for what it brings about, and for the request that it answers: a client that
//! reads answers opens windows and measures the round trip, as often as there is DATA to read. So an
//! ordinary client, however busy, never sees the bottom of its bucket.

use crate::rate_limit::TokenBucket;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Frames at once that nothing has paid for, and one more each time: a browser begins with a dozen,
/// a gRPC client keeps alive every 10 s at most.
const UNPAID: (u32, Duration) = (1_000, Duration::from_millis(10));
/// Frames of a client that an answer's head pays for, those that a frame of its body pays for, and
/// how many bytes pay for one more.
const PAID_BY_HEAD: u32 = 6;
const PAID_BY_DATA: u32 = 2;
const PAID_BY_BYTES: u32 = 1_024;
/// Paid frames that a client may save up: a window's worth of answers, acknowledged at once.
const SAVED: u32 = 16 * 1_024;
/// DATA below this many bytes is hardly an upload.
const SMALL: u32 = 64;
/// How much of a padded frame may be padding (RFC 9113 6.1).
const PADDING: u32 = 256;
/// Bytes that cost as much as one frame, of kinds that may be long.
const LONG: u32 = 256;
/// Streams that are known to be open; DATA of more is paid for. The library has far fewer.
const OPEN: usize = 4 * 1_024;

/// What each client begins HTTP/2 with (RFC 9113 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The length of a frame's head (RFC 9113 4.1).
const HEAD: usize = 9;
/// RFC 9113 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const PADDED: u8 = 8;
/// RFC 9113 7.
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// A GOAWAY frame without further words.
pub(super) type GoAway = [u8; HEAD + 8];

/// More frames came than any use of the connection explains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flood;

/// The meter of one connection.
#[derive(Debug, Default)]
pub(super) struct FrameMeter {
    protocol: Protocol,
    came: Heads,
    went: Heads,
    unpaid: TokenBucket,
    paid: u32,
    /// The highest stream that the client has opened.
    last_stream: u32,
    /// Those that neither side has ended.
    open: BTreeSet<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    /// So much of the preface has come.
    Unknown(usize),
    Http2,
    /// HTTP/1.1, and what it is upgraded to.
    Other,
}

impl Default for Protocol {
    fn default() -> Self {
        Self::Unknown(0)
    }
}

impl FrameMeter {
    /// Bytes of the client.
    ///
    /// # Errors
    /// The client floods the connection; they are to reach nobody.
    pub(super) fn came(&mut self, bytes: &[u8], now: Instant) -> Result<(), Flood> {
        let mut bytes = bytes;
        if let Protocol::Unknown(seen) = self.protocol {
            let rest = PREFACE.get(seen..).unwrap_or_default();
            let length = rest.len().min(bytes.len());
            let (begun, frames) = bytes.split_at_checked(length).unwrap_or_default();
            self.protocol = match rest.starts_with(begun) {
                false => Protocol::Other,
                true if length == rest.len() => Protocol::Http2,
                true => Protocol::Unknown(seen + length),
            };
            bytes = frames;
        }
        if self.protocol != Protocol::Http2 {
            return Ok(());
        }
        let Self { came, unpaid, paid, last_stream, open, .. } = self;
        came.pass(bytes, |head| {
            let is_new = head.kind == HEADERS && head.stream > *last_stream;
            if is_new {
                *last_stream = head.stream;
                if open.len() < OPEN {
                    open.insert(head.stream);
                }
            }
            let is_upload = head.is_upload() && open.contains(&head.stream);
            if head.ends_stream() {
                open.remove(&head.stream);
            }
            let cost = match head.kind {
                _ if is_upload => 0,
                // What is still under way when we have answered is bounded by its window.
                DATA => 1,
                _ if is_new => 1,
                _ => 1 + head.length / LONG,
            };
            match paid.checked_sub(cost) {
                Some(left) => {
                    *paid = left;
                    Ok(())
                }
                None => {
                    let (most, each) = UNPAID;
                    if !unpaid.wait(most, each, now).is_zero() {
                        return Err(Flood);
                    }
                    unpaid.take(each * cost, now);
                    Ok(())
                }
            }
        })
    }

    /// Bytes of ours that the connection has taken.
    pub(super) fn went(&mut self, bytes: &[u8]) {
        if self.protocol == Protocol::Other {
            return;
        }
        let Self { went, paid, open, .. } = self;
        let Ok(()) = went.pass(bytes, |head| {
            if head.ends_stream() {
                open.remove(&head.stream);
            }
            let more = match head.kind {
                DATA => PAID_BY_DATA + head.length / PAID_BY_BYTES,
                HEADERS => PAID_BY_HEAD,
                _ => 0,
            };
            *paid = paid.saturating_add(more).min(SAVED);
            Ok::<(), std::convert::Infallible>(())
        });
    }

    /// What ends the connection; none in the middle of a frame of ours.
    pub(super) fn farewell(&self) -> Option<GoAway> {
        let mut frame = [0; HEAD + 8];
        let fields: [&[u8]; 4] = [
            &[0, 0, 8, GOAWAY, 0],
            &[0; 4],
            &self.last_stream.to_be_bytes(),
            &ENHANCE_YOUR_CALM.to_be_bytes(),
        ];
        for (to, from) in frame.iter_mut().zip(fields.into_iter().flatten()) {
            *to = *from;
        }
        self.went.is_between_frames().then_some(frame)
    }
}

/// What the head of a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FrameHead {
    length: u32,
    kind: u8,
    flags: u8,
    stream: u32,
}

impl FrameHead {
    fn read(bytes: [u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, s0, s1, s2, s3] = bytes;
        Self {
            length: u32::from_be_bytes([0, a, b, c]),
            kind,
            flags,
            stream: u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]),
        }
    }

    /// It brings more than a few bytes of a body, whatever of it is padding.
    fn is_upload(self) -> bool {
        let padding = if self.flags & PADDED == 0 { 0 } else { PADDING };
        self.kind == DATA && self.length >= SMALL + padding
    }

    /// Its sender sends no more of the stream.
    fn ends_stream(self) -> bool {
        match self.kind {
            DATA | HEADERS => self.flags & END_STREAM != 0,
            RST_STREAM => true,
            _ => false,
        }
    }
}

/// Finds the heads of frames in bytes that come in pieces.
#[derive(Debug, Default)]
struct Heads {
    head: [u8; HEAD],
    /// Bytes of the head that are here.
    here: usize,
    /// Bytes of the payload that are still to come.
    payload: usize,
}

impl Heads {
    fn pass<E>(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(FrameHead) -> Result<(), E>,
    ) -> Result<(), E> {
        while !bytes.is_empty() {
            let passed = self.payload.min(bytes.len());
            self.payload -= passed;
            bytes = bytes.get(passed..).unwrap_or_default();
            let room = self.head.get_mut(self.here..).unwrap_or_default();
            let taken = room.len().min(bytes.len());
            let (head, rest) = bytes.split_at_checked(taken).unwrap_or_default();
            for (to, from) in room.iter_mut().zip(head) {
                *to = *from;
            }
            self.here += taken;
            bytes = rest;
            if self.here == HEAD {
                let head = FrameHead::read(self.head);
                (self.here, self.payload) = (0, head.length as usize);
                each(head)?;
            }
        }
        Ok(())
    }

    fn is_between_frames(&self) -> bool {
        self.here == 0 && self.payload == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;
    use proptest::prelude::*;

    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, stream: u32, length: usize) -> Vec<u8> {
        let mut bytes = (length as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.resize(HEAD + length, 7);
        bytes
    }

    fn begun() -> FrameMeter {
        let mut meter = FrameMeter::default();
        assert_eq!(meter.came(PREFACE, clock::instant()), Ok(()));
        meter
    }

    /// With stream 1, and as if it had cost nothing.
    fn opened() -> FrameMeter {
        let mut meter = begun();
        assert_eq!(meter.came(&frame(HEADERS, 4, 1, 20), clock::instant()), Ok(()));
        meter.unpaid = TokenBucket::default();
        meter
    }

    /// How many of a frame a connection takes at one instant; `None`: any number.
    fn taken(meter: &mut FrameMeter, frame: &[u8], now: Instant) -> Option<u32> {
        (0..100_000).find(|_| meter.came(frame, now).is_err())
    }

    #[test]
    fn each_kind_of_frame_that_asks_nothing_is_a_flood_at_last() {
        let now = clock::instant();
        for (name, bytes, most) in [
            ("PRIORITY", frame(2, 0, 1, 5), 1_000),
            ("RST_STREAM", frame(3, 0, 1, 4), 1_000),
            ("SETTINGS", frame(SETTINGS, 0, 0, 0), 1_000),
            ("SETTINGS of 16 KiB", frame(SETTINGS, 0, 0, 16_380), 16),
            ("SETTINGS ACK", frame(SETTINGS, 1, 0, 0), 1_000),
            ("PING", frame(PING, 0, 0, 8), 1_000),
            ("PING ACK", frame(PING, 1, 0, 8), 1_000),
            ("GOAWAY", frame(7, 0, 0, 8), 1_000),
            ("WINDOW_UPDATE", frame(WINDOW_UPDATE, 0, 0, 4), 1_000),
            ("CONTINUATION", frame(9, 0, 1, 0), 1_000),
            ("an unknown kind", frame(0x42, 0, 0, 3), 1_000),
            ("empty DATA", frame(DATA, 0, 1, 0), 1_000),
            ("DATA of one byte", frame(DATA, 0, 1, 1), 1_000),
            ("DATA of padding", frame(DATA, PADDED, 1, 256), 1_000),
            ("DATA of no stream", frame(DATA, 0, 3, 1_000), 1_000),
            ("DATA of the connection", frame(DATA, 0, 0, 1_000), 1_000),
            ("trailers", frame(HEADERS, 4, 1, 1), 1_000),
            ("trailers that end", frame(HEADERS, 5, 1, 1), 1_000),
            ("trailers of 16 KiB", frame(HEADERS, 4, 1, 16_380), 16),
            ("PUSH_PROMISE", frame(5, 4, 1, 8), 1_000),
            ("CONTINUATION of 16 KiB", frame(9, 0, 1, 16_380), 16),
            ("an unknown kind of an open stream", frame(0xff, 0xff, 1, 0), 1_000),
        ] {
            let mut meter = opened();
            assert_eq!(taken(&mut meter, &bytes, now), Some(most), "{name}");
            // It is over; as if the last frame had not come.
            meter.came = Heads::default();
            let later = now + UNPAID.1 * 100;
            let more = taken(&mut meter, &bytes, later);
            assert!(more.is_some_and(|more| (1..=100).contains(&more)), "{name}: {more:?}");
        }
    }

    #[test]
    fn uploads_and_everything_over_http_1_are_no_flood() {
        let now = clock::instant();
        for upload in [frame(DATA, 0, 1, 64), frame(DATA, PADDED, 1, 1_000)] {
            assert_eq!(taken(&mut opened(), &upload, now), None);
        }
        let mut meter = FrameMeter::default();
        assert_eq!(meter.came(b"PRI * HTTP/1.1\r\n\r\n", now), Ok(()));
        assert_eq!(taken(&mut meter, &frame(PING, 0, 0, 8), now), None);
        assert_eq!(meter.protocol, Protocol::Other);
    }

    #[test]
    fn a_stream_that_either_side_has_ended_takes_no_upload_any_more() {
        let now = clock::instant();
        let upload = frame(DATA, 0, 1, 1_000);
        let mut meter = opened();
        assert_eq!(meter.came(&frame(DATA, END_STREAM, 1, 1_000), now), Ok(()));
        assert_eq!(taken(&mut meter, &upload, now), Some(1_000));
        for ours in [
            frame(RST_STREAM, 0, 1, 4),
            frame(HEADERS, END_STREAM, 1, 20),
            frame(DATA, END_STREAM, 1, 0),
        ] {
            let mut meter = opened();
            meter.went(&ours);
            meter.paid = 0;
            assert_eq!(taken(&mut meter, &upload, now), Some(1_000), "{ours:?}");
        }
    }

    #[test]
    fn requests_are_paid_by_their_answers_and_a_flood_without() {
        let now = clock::instant();
        let mut meter = begun();
        let ask = |meter: &mut FrameMeter, stream: u32| {
            // In small pieces, with an end of its own.
            meter.came(&frame(HEADERS, 4, stream, 4_000), now)?;
            meter.came(&frame(DATA, 0, stream, 20), now)?;
            meter.came(&frame(DATA, 0, stream, 20), now)?;
            meter.came(&frame(HEADERS, 5, stream, 20), now)
        };
        for stream in 0..100_000 {
            let stream = 2 * stream + 1;
            assert_eq!(ask(&mut meter, stream), Ok(()));
            meter.went(&frame(HEADERS, 4, stream, 20));
            meter.went(&frame(DATA, END_STREAM, stream, 20));
            assert_eq!(meter.came(&frame(WINDOW_UPDATE, 0, 0, 4), now), Ok(()));
        }
        assert!(meter.open.is_empty());
        (meter.paid, meter.unpaid) = (0, TokenBucket::default());
        let streams = (0..).map(|number| 2 * number + 300_001);
        let unanswered =
            streams.take_while(|stream| meter.came(&frame(HEADERS, 4, *stream, 20), now).is_ok());
        assert_eq!(unanswered.count(), 1_000);
    }

    #[test]
    fn whoever_reads_answers_may_open_windows_and_measure_the_round_trip() {
        let now = clock::instant();
        let mut meter = begun();
        for _ in 0..100_000 {
            meter.went(&frame(DATA, 0, 1, 100));
            // Of the stream and of the connection.
            assert_eq!(meter.came(&frame(WINDOW_UPDATE, 0, 1, 4), now), Ok(()));
            assert_eq!(meter.came(&frame(WINDOW_UPDATE, 0, 0, 4), now), Ok(()));
        }
        for _ in 0..100_000 {
            meter.went(&frame(DATA, 0, 1, 16_384));
            for _ in 0..17 {
                assert_eq!(meter.came(&frame(WINDOW_UPDATE, 0, 1, 4), now), Ok(()));
            }
            assert_eq!(meter.came(&frame(PING, 0, 0, 8), now), Ok(()));
        }
        for stream in 0..100_000 {
            assert_eq!(meter.came(&frame(HEADERS, 5, 2 * stream + 1, 20), now), Ok(()));
            meter.went(&frame(HEADERS, 4, 2 * stream + 1, 20));
            assert_eq!(meter.came(&frame(3, 0, 2 * stream + 1, 4), now), Ok(()));
        }
        // What was saved up comes to an end.
        let most = taken(&mut meter, &frame(PING, 0, 0, 8), now).expect("an end");
        assert!(most <= SAVED + UNPAID.0, "{most}");
    }

    #[test]
    fn the_farewell_names_the_last_stream_and_stands_between_frames_alone() {
        let mut meter = begun();
        assert_eq!(meter.came(&frame(HEADERS, 5, 9, 3), clock::instant()), Ok(()));
        let goaway = [&[0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 9], &[0, 0, 0, 0xb][..]].concat();
        let answer = frame(HEADERS, 4, 9, 30);
        meter.went(&answer[..20]);
        assert_eq!(meter.farewell(), None);
        meter.went(&answer[20..]);
        assert_eq!(meter.farewell().map(|bytes| bytes.to_vec()), Some(goaway));
    }

    proptest! {
        #[test]
        fn frames_are_counted_the_same_however_their_bytes_are_cut(
            frames in proptest::collection::vec(
                (0..12_u8, any::<u8>(), 0..9_u32, 0..300_usize),
                0..40,
            ),
            cuts in proptest::collection::vec(1..50_usize, 1..40),
        ) {
            let now = clock::instant();
            let frames = frames.into_iter().map(|(kind, flags, stream, length)| {
                frame(kind, flags, stream, length)
            });
            let bytes: Vec<u8> = frames.flatten().collect();
            let mut whole = begun();
            let outcome = whole.came(&bytes, now);
            let mut cut = FrameMeter::default();
            let all = [PREFACE, &bytes].concat();
            let (mut rest, mut cuts) = (&all[..], cuts.into_iter().cycle());
            let mut pieces = Ok(());
            while !rest.is_empty() && pieces.is_ok() {
                let (piece, more) = rest.split_at(cuts.next().unwrap().min(rest.len()));
                pieces = cut.came(piece, now);
                rest = more;
            }
            prop_assert_eq!(outcome, pieces);
            prop_assert_eq!(whole.last_stream, cut.last_stream);
            prop_assert_eq!(&whole.open, &cut.open);
            prop_assert_eq!(whole.unpaid.used(now), cut.unpaid.used(now));
        }
    }
}
