//! SIP messages (RFC 3261): bytes in, bytes out, and typed looks at what lies between.
//!
//! ```text
//!  datagram ─▶ parse_datagram ─┐                        ┌─ cseq(), via_top() … typed, on demand
//!                              ├─▶ Message { Headers } ─┤
//!  stream ───▶ StreamFramer ───┘        raw, in order   └─ to_bytes()
//! ```
//!
//! One tokenizer frames and parses. Header fields are bytes kept in order; names are normalised
//! (compact forms, spaces before the colon), values are raw text with foldings turned into spaces.
//! Input never panics, and nothing is allocated by a declared length.

mod body;
mod check;
mod framing;
mod headers;
mod number;
mod scan;
#[cfg(test)]
mod torture;
mod uri;
mod user_to_user;
mod value;

pub use body::{BodyError, DESCRIBED, session_description};
pub use check::{Abilities, Refuse, RefuseReason, validate};
pub use framing::{
    Fault, Framed, MAX_FIELDS, MAX_MESSAGE, ParseError, StreamFramer, parse_datagram,
};
pub use headers::{Field, HeaderError, Headers};
pub use number::{is_printable, printable};
pub use uri::{Host, Scheme, Uri, UriError, escape, unescape};
pub use user_to_user::{read_user_to_user, write_user_to_user};
pub use value::{NameAddr, Params, ValueError, Via};

pub(crate) use scan::{is_token, quote};
use std::fmt;

/// A request or a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SipMessage {
    /// A request.
    Request(SipRequest),
    /// A response.
    Response(SipResponse),
}

impl SipMessage {
    /// The header fields.
    pub fn headers(&self) -> &Headers {
        match self {
            SipMessage::Request(request) => &request.headers,
            SipMessage::Response(response) => &response.headers,
        }
    }

    /// The header fields.
    pub fn headers_mut(&mut self) -> &mut Headers {
        match self {
            SipMessage::Request(request) => &mut request.headers,
            SipMessage::Response(response) => &mut response.headers,
        }
    }

    /// The body.
    pub fn body(&self) -> &[u8] {
        match self {
            SipMessage::Request(request) => &request.body,
            SipMessage::Response(response) => &response.body,
        }
    }

    /// The message on the wire, with a Content-Length that is right.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            SipMessage::Request(request) => request.to_bytes(),
            SipMessage::Response(response) => response.to_bytes(),
        }
    }
}

/// A request.
#[derive(Clone, PartialEq, Eq)]
pub struct SipRequest {
    /// The method.
    pub method: Method,
    /// The Request-URI, with its raw text.
    pub uri: Uri,
    /// The header fields, in order.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
}

impl SipRequest {
    /// A request without header fields.
    pub fn new(method: Method, uri: Uri) -> SipRequest {
        SipRequest { method, uri, headers: Headers::new(), body: Vec::new() }
    }

    /// The same, with one more header field.
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> SipRequest {
        self.headers.push(name, value);
        self
    }

    /// The same, with a body and its Content-Type.
    pub fn with_body(mut self, content_type: &str, body: Vec<u8>) -> SipRequest {
        self.headers.set("Content-Type", content_type);
        self.body = body;
        self
    }

    /// The session description in its body; `None` if there is none, or the body cannot be taken
    /// (see [`session_description`]).
    pub fn description(&self) -> Option<&[u8]> {
        session_description(&self.headers, &self.body).ok().flatten()
    }

    /// The request on the wire, with a Content-Length that is right.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256 + self.headers.text_len() + self.body.len());
        bytes.extend_from_slice(self.method.as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(self.uri.as_bytes());
        bytes.extend_from_slice(b" SIP/2.0\r\n");
        self.headers.write(self.body.len(), &mut bytes);
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// A response.
#[derive(Clone, PartialEq, Eq)]
pub struct SipResponse {
    /// 100 to 699.
    pub status: u16,
    /// The reason phrase: bytes, possibly empty, for people only.
    pub reason: Vec<u8>,
    /// The header fields, in order.
    pub headers: Headers,
    /// The body.
    pub body: Vec<u8>,
}

impl SipResponse {
    /// A response to `request` (RFC 3261 8.2.6.2): every Via, and the first From, To, Call-ID and
    /// CSeq, byte for byte; Timestamp in a 100. Whatever the request lacks, the response lacks. A
    /// tag on To and Record-Route are the caller's.
    pub fn to(request: &SipRequest, status: u16) -> SipResponse {
        SipResponse::from_headers(&request.headers, status)
    }

    pub(crate) fn from_headers(asked: &Headers, status: u16) -> SipResponse {
        let mut headers = Headers::new();
        for field in asked.iter().filter(|field| field.is("Via")) {
            headers.push("Via", field.value());
        }
        for name in ["From", "To", "Call-ID", "CSeq"] {
            if let Some(value) = asked.get(name) {
                headers.push(name, value);
            }
        }
        if let (100, Some(value)) = (status, asked.get("Timestamp")) {
            headers.push("Timestamp", value);
        }
        SipResponse { status, reason: reason_phrase(status).into(), headers, body: Vec::new() }
    }

    /// The session description in its body; `None` if there is none, or the body cannot be taken
    /// (see [`session_description`]).
    pub fn description(&self) -> Option<&[u8]> {
        session_description(&self.headers, &self.body).ok().flatten()
    }

    /// The same, with a tag on To if To is there, can be read and has none.
    pub fn with_to_tag(mut self, tag: &str) -> SipResponse {
        self.headers.tag_to(tag);
        self
    }

    /// The same, with one more header field.
    pub fn with(mut self, name: &str, value: impl AsRef<[u8]>) -> SipResponse {
        self.headers.push(name, value);
        self
    }

    /// The same, with a body and its Content-Type.
    pub fn with_body(mut self, content_type: &str, body: Vec<u8>) -> SipResponse {
        self.headers.set("Content-Type", content_type);
        self.body = body;
        self
    }

    /// The response on the wire, with a Content-Length that is right.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256 + self.headers.text_len() + self.body.len());
        bytes.extend_from_slice(b"SIP/2.0 ");
        bytes.extend_from_slice(self.status.to_string().as_bytes());
        bytes.push(b' ');
        bytes.extend(
            self.reason.iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }),
        );
        bytes.extend_from_slice(b"\r\n");
        self.headers.write(self.body.len(), &mut bytes);
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Without the body, which may hold keys (a=crypto), and without secret header values.
impl fmt::Debug for SipRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {:?} + {} bytes", self.method, self.uri, self.headers, self.body.len())
    }
}

/// Without the body, which may hold keys (a=crypto), and without secret header values.
impl fmt::Debug for SipResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} {:?} + {} bytes",
            self.status,
            self.reason.escape_ascii(),
            self.headers,
            self.body.len()
        )
    }
}

/// A method. Case-sensitive and open (RFC 3261 7.1).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[expect(missing_docs, reason = "the names are the methods")]
pub enum Method {
    Invite,
    Ack,
    Bye,
    Cancel,
    Options,
    Register,
    Info,
    Update,
    Prack,
    Refer,
    Notify,
    Subscribe,
    Message,
    Publish,
    /// A method nobody here knows; a token.
    Other(Vec<u8>),
}

impl Method {
    /// The method of this name; `None` when it is not a token.
    pub fn parse(name: &[u8]) -> Option<Method> {
        Some(match name {
            b"INVITE" => Method::Invite,
            b"ACK" => Method::Ack,
            b"BYE" => Method::Bye,
            b"CANCEL" => Method::Cancel,
            b"OPTIONS" => Method::Options,
            b"REGISTER" => Method::Register,
            b"INFO" => Method::Info,
            b"UPDATE" => Method::Update,
            b"PRACK" => Method::Prack,
            b"REFER" => Method::Refer,
            b"NOTIFY" => Method::Notify,
            b"SUBSCRIBE" => Method::Subscribe,
            b"MESSAGE" => Method::Message,
            b"PUBLISH" => Method::Publish,
            other if scan::is_token(other) => Method::Other(other.to_vec()),
            _ => return None,
        })
    }

    /// Its name on the wire.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            Method::Invite => b"INVITE",
            Method::Ack => b"ACK",
            Method::Bye => b"BYE",
            Method::Cancel => b"CANCEL",
            Method::Options => b"OPTIONS",
            Method::Register => b"REGISTER",
            Method::Info => b"INFO",
            Method::Update => b"UPDATE",
            Method::Prack => b"PRACK",
            Method::Refer => b"REFER",
            Method::Notify => b"NOTIFY",
            Method::Subscribe => b"SUBSCRIBE",
            Method::Message => b"MESSAGE",
            Method::Publish => b"PUBLISH",
            Method::Other(name) => name,
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(self.as_bytes()))
    }
}

/// The phrase that stands beside a status on the wire.
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        199 => "Early Dialog Terminated",
        200 => "OK",
        202 => "Accepted",
        204 => "No Notification",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        305 => "Use Proxy",
        380 => "Alternative Service",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        410 => "Gone",
        413 => "Request Entity Too Large",
        414 => "Request-URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Unsupported URI Scheme",
        420 => "Bad Extension",
        421 => "Extension Required",
        422 => "Session Interval Too Small",
        423 => "Interval Too Brief",
        428 => "Use Identity Header",
        429 => "Provide Referrer Identity",
        433 => "Anonymity Disallowed",
        436 => "Bad Identity Info",
        438 => "Invalid Identity Header",
        469 => "Bad Info Package",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        482 => "Loop Detected",
        483 => "Too Many Hops",
        484 => "Address Incomplete",
        485 => "Ambiguous",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        493 => "Undecipherable",
        494 => "Security Agreement Required",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        505 => "Version Not Supported",
        513 => "Message Too Large",
        580 => "Precondition Failure",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        607 => "Unwanted",
        608 => "Rejected",
        _ => match status / 100 {
            1 => "Progress",
            2 => "Success",
            3 => "Redirection",
            4 => "Request Failure",
            5 => "Server Failure",
            _ => "Global Failure",
        },
    }
}
