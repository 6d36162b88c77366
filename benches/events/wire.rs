//! Bytes: HTTP/1.1 responses, websocket frames (RFC 6455), and what the measurement looks for in
//! Bayeux messages.

use std::ops::Range;

/// A whole response at the start of the input.
pub struct Response {
    pub status: u16,
    pub head: usize,
    pub body: Body,
    /// Bytes of the input that it took.
    pub used: usize,
}

pub enum Body {
    /// These bytes of the input.
    Here(Range<usize>),
    /// In several chunks, put together in the buffer that was lent.
    Joined,
}

/// `None`: not all of it is here yet.
pub fn response(input: &[u8], joined: &mut Vec<u8>) -> Result<Option<Response>, &'static str> {
    let Some(head) = find(input, b"\r\n\r\n").map(|at| at + 4) else {
        return Ok(None);
    };
    let status = input.get(9..12).and_then(decimal).ok_or("no HTTP response")? as u16;
    let mut length = 0;
    let mut chunked = false;
    for (name, value) in fields(&input[..head]) {
        if name.eq_ignore_ascii_case(b"content-length") {
            length = decimal(value).ok_or("no length")? as usize;
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            chunked = value.eq_ignore_ascii_case(b"chunked");
        }
    }
    if chunked {
        return chunks(input, head, status, joined);
    }
    let used = head + length;
    let whole = || Response { status, head, body: Body::Here(head..used), used };
    Ok((input.len() >= used).then(whole))
}

fn chunks(
    input: &[u8],
    head: usize,
    status: u16,
    joined: &mut Vec<u8>,
) -> Result<Option<Response>, &'static str> {
    let mut at = head;
    let mut first: Option<Range<usize>> = None;
    joined.clear();
    loop {
        let Some(line) = input.get(at..).and_then(|rest| find(rest, b"\r\n")) else {
            return Ok(None);
        };
        let size = hexadecimal(&input[at..at + line]).ok_or("no size of a chunk")?;
        let data = at + line + 2;
        at = data + size + 2;
        if input.len() < at {
            return Ok(None);
        }
        if size == 0 {
            break;
        }
        let Some(range) = &first else {
            first = Some(data..data + size);
            continue;
        };
        if joined.is_empty() {
            joined.extend_from_slice(&input[range.clone()]);
        }
        joined.extend_from_slice(&input[data..data + size]);
    }
    let body = match first {
        _ if !joined.is_empty() => Body::Joined,
        Some(range) => Body::Here(range),
        None => Body::Here(head..head),
    };
    Ok(Some(Response { status, head, body, used: at }))
}

/// The fields of a head.
fn fields(head: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    head.split(|byte| *byte == b'\n').skip(1).filter_map(|line| {
        let colon = line.iter().position(|byte| *byte == b':')?;
        Some((&line[..colon], line[colon + 1..].trim_ascii()))
    })
}

/// The cookies that a head sets, as they are sent back.
pub fn cookies(head: &[u8]) -> String {
    let mut all = String::new();
    for (_, value) in fields(head).filter(|(name, _)| name.eq_ignore_ascii_case(b"set-cookie")) {
        let pair = value.split(|byte| *byte == b';').next().unwrap_or_default();
        if !all.is_empty() {
            all.push_str("; ");
        }
        all.push_str(&String::from_utf8_lossy(pair));
    }
    all
}

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// A frame at the start of the input.
pub struct Frame {
    pub opcode: u8,
    pub payload: Range<usize>,
}

/// `None`: not all of it is here yet.
pub fn frame(input: &[u8]) -> Result<Option<Frame>, &'static str> {
    let &[first, second, ref rest @ ..] = input else {
        return Ok(None);
    };
    let opcode = first & 0xf;
    if first & 0x80 == 0 || second & 0x80 != 0 || opcode == 0 {
        return Err("a frame in fragments or masked");
    }
    let (start, length) = match (second, rest) {
        (126, [a, b, ..]) => (4, usize::from(u16::from_be_bytes([*a, *b]))),
        (127, [_, _, _, _, a, b, c, d, ..]) => (10, u32::from_be_bytes([*a, *b, *c, *d]) as usize),
        (126 | 127, _) => return Ok(None),
        (short, _) => (2, usize::from(short)),
    };
    let payload = start..start + length;
    Ok((input.len() >= payload.end).then_some(Frame { opcode, payload }))
}

/// A client's frame. Its mask is zero: that costs the server what any other does, and the generator
/// nothing.
pub fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// Bytes of an event's data.
const DATA: usize = 430;
const MARK: &[u8] = b"\"mark\":\"";
const SESSION: usize = 5;
/// The first digit is the source.
const SEQUENCE: usize = 10;
const PER_SOURCE: u64 = 1_000_000_000;
const AT: usize = 16;
const MARKED: usize = SESSION + 1 + SEQUENCE + 1 + AT;

/// What an event says of itself, at fixed places after the mark.
#[derive(Clone, Copy)]
pub struct Event {
    /// To whom it goes.
    pub session: usize,
    /// On which connection it was published: only there is an order.
    pub source: usize,
    pub sequence: u64,
    /// When it was due, in ns.
    pub at: u64,
}

impl Event {
    /// Data of an event, to be patched.
    pub fn blank() -> String {
        let mark = format!("{{\"mark\":\"{}\",\"pad\":\"", "0".repeat(MARKED));
        let pad = "p".repeat(DATA - mark.len() - 2);
        format!("{mark}{pad}\"}}")
    }

    pub fn patch(self, data: &mut [u8]) {
        let mark = &mut data[1 + MARK.len()..][..MARKED];
        digits(&mut mark[..SESSION], self.session as u64);
        digits(
            &mut mark[SESSION + 1..][..SEQUENCE],
            self.source as u64 * PER_SOURCE + self.sequence,
        );
        digits(&mut mark[SESSION + SEQUENCE + 2..], self.at);
    }

    fn read(mark: &[u8]) -> Option<Self> {
        let sequence = decimal(mark.get(SESSION + 1..SESSION + 1 + SEQUENCE)?)?;
        Some(Self {
            session: decimal(mark.get(..SESSION)?)? as usize,
            source: (sequence / PER_SOURCE) as usize,
            sequence: sequence % PER_SOURCE,
            at: decimal(mark.get(SESSION + SEQUENCE + 2..MARKED)?)?,
        })
    }
}

/// What is found in an array of messages.
pub enum Found {
    Event(Event),
    Connect,
    Failed,
}

/// Goes once over the messages and skips what is the same in every event.
pub fn scan(messages: &[u8], mut found: impl FnMut(Found)) {
    const CONNECT: &[u8] = b"\"/meta/connect\"";
    const FAILED: &[u8] = b"\"successful\":false";
    let mut rest = messages;
    while let Some(quote) =
        rest.windows(2).position(|two| two[0] == b'"' && matches!(two[1], b'm' | b'/' | b's'))
    {
        rest = &rest[quote..];
        let event = rest.strip_prefix(MARK).and_then(Event::read);
        let skip = if let Some(event) = event {
            found(Found::Event(event));
            (DATA - 2).min(rest.len())
        } else if rest.starts_with(CONNECT) {
            found(Found::Connect);
            CONNECT.len()
        } else if rest.starts_with(FAILED) {
            found(Found::Failed);
            FAILED.len()
        } else {
            2
        };
        rest = &rest[skip..];
    }
}

/// The text of a field whose value is a string without escapes.
pub fn text_of<'a>(messages: &'a [u8], name: &str) -> Option<&'a str> {
    let mark = format!("\"{name}\":\"");
    let value = &messages[find(messages, mark.as_bytes())? + mark.len()..];
    let end = value.iter().position(|byte| *byte == b'"')?;
    std::str::from_utf8(&value[..end]).ok()
}

pub fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

pub fn digits(place: &mut [u8], mut number: u64) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for byte in text {
        number = number * 10 + u64::from(byte.checked_sub(b'0').filter(|digit| *digit < 10)?);
    }
    (!text.is_empty()).then_some(number)
}

fn hexadecimal(text: &[u8]) -> Option<usize> {
    usize::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}
