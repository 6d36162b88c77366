//! The one tokenizer, and its callers: datagrams and streams.

use super::headers::{FieldPlace, is_call_id, read_cseq};
use super::scan::{TOKEN, digits, line_break, span, split_list, trim};
use super::{
    HeaderError, Headers, Method, NameAddr, SipMessage, SipRequest, SipResponse, Uri, Via,
};

/// The largest message, head and body, in bytes.
pub const MAX_MESSAGE: usize = 65_535;

/// The most header fields of a message.
pub const MAX_FIELDS: usize = 256;

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing but line ends: a keep-alive (RFC 5626 3.5.1). Silence.
    #[error("keep-alive")]
    KeepAlive,
    /// The first line is neither a request line nor a status line. Silence.
    #[error("not SIP")]
    NotSip,
    /// A request line with something wrong in it.
    #[error("malformed request line")]
    RequestLine,
    /// Another version than SIP/2.0.
    #[error("unknown SIP version")]
    Version,
    /// The head does not end, or has lines that end otherwise than in CR LF.
    #[error("malformed head")]
    Head,
    /// More than `MAX_FIELDS` header fields.
    #[error("too many header fields")]
    TooManyFields,
    /// More than `MAX_MESSAGE` bytes.
    #[error("message too large")]
    TooLarge,
    /// Content-Length is absent on a stream, repeated, or no number.
    #[error("bad Content-Length")]
    ContentLength,
    /// The datagram ends before the body does.
    #[error("body shorter than Content-Length")]
    ShortBody,
    /// A header that must be readable is not.
    #[error("{0}")]
    Header(#[from] HeaderError),
    /// CSeq names another method than the request line.
    #[error("CSeq names another method")]
    CSeqMethod,
}

impl Fault {
    /// After this, where the next message of a stream begins is unknown.
    pub fn closes_stream(self) -> bool {
        match self {
            Fault::KeepAlive | Fault::Version | Fault::Header(_) | Fault::CSeqMethod => false,
            Fault::NotSip
            | Fault::RequestLine
            | Fault::Head
            | Fault::TooManyFields
            | Fault::TooLarge
            | Fault::ContentLength
            | Fault::ShortBody => true,
        }
    }

    fn status(self) -> Option<u16> {
        match self {
            Fault::KeepAlive | Fault::NotSip => None,
            Fault::Version => Some(505),
            Fault::TooLarge => Some(513),
            Fault::RequestLine
            | Fault::Head
            | Fault::TooManyFields
            | Fault::ContentLength
            | Fault::ShortBody
            | Fault::Header(_)
            | Fault::CSeqMethod => Some(400),
        }
    }
}

/// A message that could not be read, and what may be said about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{fault}")]
pub struct ParseError {
    /// What is wrong.
    pub fault: Fault,
    /// The answer to send back to where the message came from, statelessly; `None` when silence is
    /// right: no request, an ACK, or no Via to go back along.
    pub response: Option<Box<SipResponse>>,
}

impl ParseError {
    fn silent(fault: Fault) -> ParseError {
        ParseError { fault, response: None }
    }
}

/// Reads the one message of a datagram. Without Content-Length the body ends with the datagram;
/// what comes behind the body is ignored (RFC 3261 18.3).
pub fn parse_datagram(datagram: &[u8]) -> Result<SipMessage, ParseError> {
    let start = datagram.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
    let text = &datagram[start..];
    if text.is_empty() {
        return Err(ParseError::silent(Fault::KeepAlive));
    }
    let head = MessageHead::read(text);
    if datagram.len() > MAX_MESSAGE {
        return Err(head.fail(Fault::TooLarge));
    }
    let Some(head_len) = head.length else {
        let fault = if head.line.is_sip() { Fault::Head } else { Fault::NotSip };
        return Err(head.fail(fault));
    };
    let rest = &text[head_len..];
    let body_len = match head.body_len {
        Ok(length) => length.unwrap_or(rest.len() as u64),
        Err(fault) => return Err(head.fail(fault)),
    };
    let body = usize::try_from(body_len).ok().and_then(|length| rest.get(..length));
    match body {
        Some(body) => head.finish(body),
        None => Err(head.fail(Fault::ShortBody)),
    }
}

/// What a stream brings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Framed {
    /// A message.
    Message(SipMessage),
    /// A double CR LF between messages, to be answered by a single one (RFC 5626 3.5.1).
    Ping,
    /// A single CR LF where nothing else was to come: the answer to a ping of ours.
    Pong,
}

/// Finds the messages of a stream. After an error with a fault that closes the stream it is dead
/// and yields nothing more.
///
/// It holds at most `MAX_MESSAGE` bytes beyond what one `push` brought, if `next` is drained after
/// every push. How long a peer may leave a message unfinished is the shell's to say: `is_midway`.
#[derive(Debug, Default)]
pub struct StreamFramer {
    buffer: Vec<u8>,
    searched: usize,
    dead: bool,
    /// The peer answers pings of ours.
    has_pongs: bool,
}

impl StreamFramer {
    /// At the beginning of a stream.
    pub fn new() -> StreamFramer {
        StreamFramer::default()
    }

    /// At the beginning of a stream to a server that is asked whether it is there: a CR LF by
    /// itself is its answer, and not half a ping.
    pub fn of_server() -> StreamFramer {
        StreamFramer { has_pongs: true, ..StreamFramer::default() }
    }

    /// Takes what the stream brought.
    pub fn push(&mut self, bytes: &[u8]) {
        if !self.dead {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// A message has begun and not ended.
    pub fn is_midway(&self) -> bool {
        self.buffer.iter().any(|byte| !matches!(byte, b'\r' | b'\n'))
    }

    /// The stream must be closed.
    pub fn is_dead(&self) -> bool {
        self.dead
    }

    /// The next message, keep-alive or error; `None` until more is pushed.
    #[expect(clippy::should_implement_trait, reason = "it ends and begins again")]
    pub fn next(&mut self) -> Option<Result<Framed, ParseError>> {
        if self.dead {
            return None;
        }
        match self.step() {
            Err(error) if error.fault.closes_stream() => {
                self.dead = true;
                self.buffer = Vec::new();
                Some(Err(error))
            }
            step => step.transpose(),
        }
    }

    fn step(&mut self) -> Result<Option<Framed>, ParseError> {
        loop {
            match self.buffer.as_slice() {
                [b'\r', b'\n', b'\r', b'\n', ..] => {
                    self.drop_front(4);
                    return Ok(Some(Framed::Ping));
                }
                [b'\r', b'\n'] if self.has_pongs => {
                    self.drop_front(2);
                    return Ok(Some(Framed::Pong));
                }
                [] | [b'\r'] | [b'\r', b'\n'] | [b'\r', b'\n', b'\r'] => return Ok(None),
                [b'\r', b'\n', ..] => self.drop_front(2),
                _ => break,
            }
        }
        let Some(head_len) = head_end(&self.buffer, self.searched.saturating_sub(3)) else {
            self.searched = self.buffer.len();
            // Whoever speaks another protocol is told apart by his first line.
            if self.buffer.len() > MAX_MESSAGE {
                return Err(MessageHead::read(&self.buffer).fail(Fault::TooLarge));
            }
            if line_end(&self.buffer, 0)
                .is_some_and(|end| !StartLine::read(&self.buffer[..end]).is_sip())
            {
                return Err(ParseError::silent(Fault::NotSip));
            }
            return Ok(None);
        };
        self.searched = head_len.saturating_sub(1);
        let head = MessageHead::read(&self.buffer[..head_len]);
        if !head.line.is_sip() {
            return Err(ParseError::silent(Fault::NotSip));
        }
        let body_len = match head.body_len {
            Ok(Some(length)) => length,
            Ok(None) => return Err(head.fail(Fault::ContentLength)),
            Err(fault) => return Err(head.fail(fault)),
        };
        let end = usize::try_from(body_len)
            .ok()
            .and_then(|length| head_len.checked_add(length))
            .filter(|end| *end <= MAX_MESSAGE);
        let Some(end) = end else {
            return Err(head.fail(Fault::TooLarge));
        };
        let Some(body) = self.buffer.get(head_len..end) else {
            return Ok(None);
        };
        let message = head.finish(body);
        self.drop_front(end);
        message.map(|message| Some(Framed::Message(message)))
    }

    fn drop_front(&mut self, count: usize) {
        self.buffer.drain(..count);
        self.searched = 0;
    }
}

/// Where the head ends, its empty line included. A line beginning with a space goes on with the one
/// before it, so the first empty line is always the end.
fn head_end(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(end) = line_end(text, at) {
        if text.get(end + 2..end + 4) == Some(b"\r\n") {
            return Some(end + 4);
        }
        at = end + 2;
    }
    None
}

fn line_end(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(length) = text.get(at..)?.iter().position(|byte| *byte == b'\r') {
        at += length;
        if text.get(at + 1) == Some(&b'\n') {
            return Some(at);
        }
        at += 1;
    }
    None
}

/// Where a line ends, and whether a CR or LF stands in it alone.
#[derive(Clone, Copy)]
struct HeaderLine {
    end: usize,
    /// By CR LF, not by the end of the text.
    ended: bool,
    bare: bool,
}

impl HeaderLine {
    fn at(text: &[u8], from: usize) -> HeaderLine {
        let mut at = from;
        let mut bare = false;
        while let Some(length) = text.get(at..).and_then(line_break) {
            at += length;
            if text[at..].starts_with(b"\r\n") {
                return HeaderLine { end: at, ended: true, bare };
            }
            bare = true;
            at += 1;
        }
        HeaderLine { end: text.len(), ended: false, bare }
    }

    fn or_bare(self, bare: bool) -> HeaderLine {
        HeaderLine { bare: self.bare || bare, ..self }
    }
}

#[derive(Clone, Debug)]
enum StartLine {
    Request(Method, Uri),
    Status(u16, Vec<u8>),
    /// It tries to be a request and fails; whether it is an ACK decides about the answer.
    BadRequest {
        fault: Fault,
        is_ack: bool,
    },
    BadStatus,
    NotSip,
}

impl StartLine {
    fn read(line: &[u8]) -> StartLine {
        if line.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"SIP/")) {
            return StartLine::read_status(line).unwrap_or(StartLine::BadStatus);
        }
        let mut words = line.split(|byte| *byte == b' ');
        let is_version =
            |word: &[u8]| word.get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"SIP/"));
        let is_ack = trim(line).starts_with(b"ACK ");
        let (Some(method), Some(uri), Some(version), None) =
            (words.next(), words.next(), words.next(), words.next())
        else {
            let tries = line.split(|byte| *byte == b' ' || *byte == b'\t').any(is_version);
            return if tries {
                StartLine::BadRequest { fault: Fault::RequestLine, is_ack }
            } else {
                StartLine::NotSip
            };
        };
        if !is_version(version) {
            return StartLine::NotSip;
        }
        if !version.eq_ignore_ascii_case(b"SIP/2.0") {
            let digits = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
            let numbers: Vec<&[u8]> = version[4..].split(|byte| *byte == b'.').collect();
            let other =
                matches!(numbers.as_slice(), [major, minor] if digits(major) && digits(minor));
            let fault = if other { Fault::Version } else { Fault::RequestLine };
            return StartLine::BadRequest { fault, is_ack };
        }
        // Header fields behind the `?` of a Request-URI are none of the grammar's (RFC 3261
        // 19.1.1).
        match (Method::parse(method), Uri::parse(uri)) {
            (Some(method), Ok(uri)) if uri.headers().is_empty() => StartLine::Request(method, uri),
            _ => StartLine::BadRequest { fault: Fault::RequestLine, is_ack },
        }
    }

    fn read_status(line: &[u8]) -> Option<StartLine> {
        let rest = line
            .get(7..)
            .filter(|_| line[..7].eq_ignore_ascii_case(b"SIP/2.0"))?
            .strip_prefix(b" ")?;
        let (code, reason) = match rest.iter().position(|byte| *byte == b' ') {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        let code = digits(code).filter(|status| code.len() == 3 && (100..=699).contains(status))?;
        Some(StartLine::Status(code as u16, reason.to_vec()))
    }

    fn is_sip(&self) -> bool {
        !matches!(self, StartLine::NotSip)
    }
}

/// A head as far as it could be read; the first fault is kept, and reading goes on for the sake of
/// the answer.
struct MessageHead {
    line: StartLine,
    headers: Headers,
    /// With its empty line; `None` when the text ends before it.
    length: Option<usize>,
    /// Content-Length; a fault here is one of framing.
    body_len: Result<Option<u64>, Fault>,
    /// A fault of the head's shape.
    fault: Option<Fault>,
}

impl MessageHead {
    /// Reads up to the first empty line, or to the end.
    fn read(text: &[u8]) -> MessageHead {
        let first = HeaderLine::at(text, 0);
        let mut head = MessageHead {
            line: StartLine::read(&text[..first.end]),
            headers: Headers::new(),
            length: None,
            body_len: Ok(None),
            fault: first.bare.then_some(Fault::Head),
        };
        let mut fields = Vec::with_capacity(16);
        let mut folded = false;
        let mut at = first.end + 2;
        while at < text.len() {
            let mut line = HeaderLine::at(text, at);
            if line.end == at && line.ended {
                head.length = Some(at + 2);
                break;
            }
            while line.ended && matches!(text.get(line.end + 2), Some(b' ' | b'\t')) {
                folded = true;
                line = HeaderLine::at(text, line.end + 2).or_bare(line.bare);
            }
            folded |= line.bare;
            if line.bare {
                head.fault.get_or_insert(Fault::Head);
            }
            head.read_field(text, at, line.end, &mut fields);
            at = line.end + 2;
        }
        let end = head.length.unwrap_or(text.len());
        if !matches!(head.line, StartLine::NotSip | StartLine::BadStatus) {
            head.headers = Headers::adopt(&text[..end], fields, folded);
        }
        head
    }

    fn read_field(&mut self, text: &[u8], start: usize, end: usize, fields: &mut Vec<FieldPlace>) {
        let field = &text[start..end];
        let name_len = span(TOKEN, field);
        let gap = field[name_len..].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        if name_len == 0 || field.get(name_len + gap) != Some(&b':') {
            self.fault.get_or_insert(Fault::Head);
            return;
        }
        if fields.len() == MAX_FIELDS {
            self.fault.get_or_insert(Fault::TooManyFields);
            return;
        }
        let name = &field[..name_len];
        let value = start + name_len + gap + 1..end;
        let full = super::headers::full_name(name).map_or(name, str::as_bytes);
        if full.eq_ignore_ascii_case(b"Content-Length") {
            self.body_len = match (digits(trim(&text[value.clone()])), self.body_len) {
                (Some(length), Ok(None)) => Ok(Some(length)),
                _ => Err(Fault::ContentLength),
            };
        }
        fields.push(FieldPlace::of(text, start..start + name_len, value));
    }

    fn fail(self, fault: Fault) -> ParseError {
        let is_ack = match &self.line {
            StartLine::Request(method, _) => *method == Method::Ack,
            StartLine::BadRequest { is_ack, .. } => *is_ack,
            StartLine::Status(..) | StartLine::BadStatus | StartLine::NotSip => {
                return ParseError::silent(fault);
            }
        };
        let answerable = !is_ack && self.headers.has("Via");
        let status = fault.status().filter(|_| answerable);
        ParseError {
            fault,
            response: status
                .map(|status| Box::new(SipResponse::from_headers(&self.headers, status))),
        }
    }

    fn finish(mut self, body: &[u8]) -> Result<SipMessage, ParseError> {
        if let Some(fault) = self.fault {
            return Err(self.fail(fault));
        }
        let line = std::mem::replace(&mut self.line, StartLine::NotSip);
        let method = match &line {
            StartLine::Request(method, _) => Some(method),
            StartLine::Status(..) => None,
            StartLine::BadRequest { fault, .. } => {
                let fault = *fault;
                return Err(MessageHead { line, ..self }.fail(fault));
            }
            StartLine::BadStatus | StartLine::NotSip => {
                return Err(ParseError::silent(Fault::NotSip));
            }
        };
        if let Err(fault) = check_fields(&self.headers, method) {
            return Err(MessageHead { line, ..self }.fail(fault));
        }
        let (headers, body) = (self.headers, body.to_vec());
        Ok(match line {
            StartLine::Request(method, uri) => {
                SipMessage::Request(SipRequest { method, uri, headers, body })
            }
            StartLine::Status(status, reason) => {
                SipMessage::Response(SipResponse { status, reason, headers, body })
            }
            StartLine::BadRequest { .. } | StartLine::BadStatus | StartLine::NotSip => {
                return Err(ParseError::silent(Fault::NotSip));
            }
        })
    }
}

/// Whatever transactions, dialogs and the registrar stand on can be read, every time it is there.
/// What must be there, and once, is for `validate` to say.
fn check_fields(headers: &Headers, method: Option<&Method>) -> Result<(), Fault> {
    let mut named: Option<Method> = None;
    let mut repeated = false;
    for field in headers.iter() {
        let value = field.value();
        let Some(checked) = Checked::named(field.name()) else {
            continue;
        };
        let fits = match checked {
            Checked::Via => split_list(value).all(Via::fits),
            Checked::From | Checked::To => NameAddr::fits(value),
            // A response is not lost for it: what it answers would wait for ever. Its reader says
            // what is wrong.
            Checked::Contact => {
                method.is_none() || value == b"*" || split_list(value).all(NameAddr::fits)
            }
            Checked::Route | Checked::RecordRoute => split_list(value).all(NameAddr::fits),
            Checked::CallId => is_call_id(value),
            Checked::MaxForwards => digits(value).is_some_and(|number| number <= 255),
            Checked::CSeq => {
                let cseq = read_cseq(value);
                repeated |= named.is_some();
                named = cseq.map(|(_, method)| method);
                named.is_some()
            }
        };
        if !fits {
            return Err(Fault::Header(HeaderError::Malformed(checked.name())));
        }
    }
    match (named, method) {
        (Some(named), Some(method)) if !repeated && named != *method => Err(Fault::CSeqMethod),
        _ => Ok(()),
    }
}

/// The fields that every message is checked for.
#[derive(Clone, Copy)]
enum Checked {
    Via,
    From,
    To,
    Contact,
    Route,
    RecordRoute,
    CallId,
    CSeq,
    MaxForwards,
}

impl Checked {
    const ALL: [Checked; 9] = [
        Checked::Via,
        Checked::From,
        Checked::To,
        Checked::Contact,
        Checked::Route,
        Checked::RecordRoute,
        Checked::CallId,
        Checked::CSeq,
        Checked::MaxForwards,
    ];

    fn name(self) -> &'static str {
        match self {
            Checked::Via => "Via",
            Checked::From => "From",
            Checked::To => "To",
            Checked::Contact => "Contact",
            Checked::Route => "Route",
            Checked::RecordRoute => "Record-Route",
            Checked::CallId => "Call-ID",
            Checked::CSeq => "CSeq",
            Checked::MaxForwards => "Max-Forwards",
        }
    }

    fn named(name: &[u8]) -> Option<Checked> {
        Checked::ALL
            .into_iter()
            .find(|checked| name.eq_ignore_ascii_case(checked.name().as_bytes()))
    }
}
