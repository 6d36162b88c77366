use super::scan::{HEADER, HOST, PARAM, URI, USER, are, digits, span};
use std::borrow::Cow;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

/// Why bytes are no URI.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a URI")]
pub struct UriError;

/// A scheme.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the schemes")]
pub enum Scheme {
    Sip,
    Sips,
    Tel,
    /// Any other; the URI is opaque.
    Other,
}

/// A host, as it is written in a URI or a Via.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// An IP address. An IPv6 reference with the third colon that RFC 3261's grammar asked for (RFC
    /// 5118 4.10) is read as if it had two.
    Address(IpAddr),
    /// A name, or a bracketed something that is no address.
    Name(String),
}

/// A URI (RFC 3261 19.1), with the text it came in. Equality is that of the text; `same` is that of
/// RFC 3261 19.1.4.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uri {
    raw: Vec<u8>,
    parts: Parts,
}

/// Where the parts are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parts {
    scheme_end: u32,
    user: Option<Span>,
    host: Span,
    port: Option<u16>,
    params: Span,
    headers: Span,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Span(u32, u32);

impl From<Range<usize>> for Span {
    fn from(range: Range<usize>) -> Span {
        Span(range.start as u32, range.end as u32)
    }
}

/// Whether `text` is a URI.
pub(crate) fn is_uri(text: &[u8]) -> bool {
    Parts::read(text).is_some()
}

impl Parts {
    fn read(text: &[u8]) -> Option<Parts> {
        if text.len() > super::MAX_MESSAGE || !are(URI, text) {
            return None;
        }
        let colon = text.iter().position(|byte| *byte == b':')?;
        let scheme = &text[..colon];
        let named = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        if !scheme.first().is_some_and(u8::is_ascii_alphabetic) || !scheme.iter().all(named) {
            return None;
        }
        let end = Span::from(text.len()..text.len());
        let parts = Parts {
            scheme_end: colon as u32,
            user: None,
            host: end,
            port: None,
            params: end,
            headers: end,
        };
        match scheme_of(scheme) {
            Scheme::Sip | Scheme::Sips => parts.read_sip(text, colon + 1),
            Scheme::Tel | Scheme::Other => Some(parts),
        }
    }

    fn read_sip(mut self, text: &[u8], start: usize) -> Option<Parts> {
        if !escapes_are_whole(&text[start..]) {
            return None;
        }
        let mut at = start;
        if let Some(length) = text[start..].iter().position(|byte| *byte == b'@') {
            let userinfo = &text[start..start + length];
            let user_len = userinfo.iter().position(|byte| *byte == b':').unwrap_or(length);
            if user_len == 0 || !are(USER, userinfo) {
                return None;
            }
            self.user = Some(Span::from(start..start + user_len));
            at = start + length + 1;
        }
        let host_len = host_length(&text[at..])?;
        self.host = Span::from(at..at + host_len);
        at += host_len;
        if text.get(at) == Some(&b':') {
            let length = text[at + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
            self.port = Some(
                digits(&text[at + 1..at + 1 + length]).and_then(|port| u16::try_from(port).ok())?,
            );
            at += 1 + length;
        }
        if at == text.len() {
            return Some(self);
        }
        let question = text[at..]
            .iter()
            .position(|byte| *byte == b'?')
            .map_or(text.len(), |length| at + length);
        match text[at] {
            b'?' => {}
            b';' => {
                let fits = |part: &[u8]| !part.is_empty() && part[0] != b'=' && are(PARAM, part);
                if !text[at + 1..question].split(|byte| *byte == b';').all(fits) {
                    return None;
                }
                self.params = Span::from(at + 1..question);
            }
            _ => return None,
        }
        if question < text.len() {
            if question + 1 == text.len() || !are(HEADER, &text[question + 1..]) {
                return None;
            }
            self.headers = Span::from(question + 1..text.len());
        }
        Some(self)
    }
}

fn scheme_of(scheme: &[u8]) -> Scheme {
    match () {
        _ if scheme.eq_ignore_ascii_case(b"sip") => Scheme::Sip,
        _ if scheme.eq_ignore_ascii_case(b"sips") => Scheme::Sips,
        _ if scheme.eq_ignore_ascii_case(b"tel") => Scheme::Tel,
        _ => Scheme::Other,
    }
}

impl Uri {
    /// Reads a URI. Of schemes other than sip and sips only the scheme is read.
    pub fn parse(text: &[u8]) -> Result<Uri, UriError> {
        let parts = Parts::read(text).ok_or(UriError)?;
        Ok(Uri { raw: text.to_vec(), parts })
    }

    /// `sip:user@host:port`; what cannot stand in a user part is escaped. `host` is a name or an
    /// address, IPv6 with or without brackets.
    pub fn sip(user: Option<&[u8]>, host: &str, port: Option<u16>) -> Result<Uri, UriError> {
        let mut text = b"sip:".to_vec();
        if let Some(user) = user {
            text.extend(escape(user));
            text.push(b'@');
        }
        match host.parse::<Ipv6Addr>() {
            Ok(address) => text.extend_from_slice(format!("[{address}]").as_bytes()),
            Err(_) => text.extend_from_slice(host.as_bytes()),
        }
        if let Some(port) = port {
            text.extend_from_slice(format!(":{port}").as_bytes());
        }
        Uri::parse(&text)
    }

    /// The same, with one more parameter, put before the headers; name and value are escaped where
    /// they must be.
    pub fn with_param(&self, name: &str, value: Option<&str>) -> Result<Uri, UriError> {
        let headers = self.headers();
        let end =
            if headers.is_empty() { self.raw.len() } else { self.parts.headers.0 as usize - 1 };
        let mut text = self.raw[..end].to_vec();
        text.push(b';');
        text.extend(escape(name.as_bytes()));
        if let Some(value) = value {
            text.push(b'=');
            text.extend(escape(value.as_bytes()));
        }
        text.extend_from_slice(&self.raw[end..]);
        Uri::parse(&text)
    }

    /// The same with the scheme sips.
    pub fn secured(&self) -> Result<Uri, UriError> {
        Uri::parse(&[b"sips:", self.opaque()].concat())
    }

    /// The text it came in.
    pub fn as_bytes(&self) -> &[u8] {
        &self.raw
    }

    /// The scheme.
    pub fn scheme(&self) -> Scheme {
        scheme_of(&self.raw[..self.parts.scheme_end as usize])
    }

    /// All behind the scheme's colon.
    pub fn opaque(&self) -> &[u8] {
        &self.raw[self.parts.scheme_end as usize + 1..]
    }

    fn part(&self, span: Span) -> &[u8] {
        &self.raw[span.0 as usize..span.1 as usize]
    }

    /// The user part, unescaped once: bytes, which may hold NUL or line ends.
    pub fn user(&self) -> Option<Cow<'_, [u8]>> {
        self.parts.user.map(|user| unescape(self.part(user)))
    }

    /// The user part as it is written.
    pub fn raw_user(&self) -> Option<&[u8]> {
        self.parts.user.map(|user| self.part(user))
    }

    /// The host as it is written, IPv6 in brackets. Empty for schemes other than sip and sips.
    pub fn host_text(&self) -> &str {
        std::str::from_utf8(self.part(self.parts.host)).unwrap_or_default()
    }

    /// The host.
    pub fn host(&self) -> Host {
        Host::read(self.host_text())
    }

    /// The port, when one is written.
    pub fn port(&self) -> Option<u16> {
        self.parts.port
    }

    /// The parameters in order, unescaped once; a value is `None` when there is no `=`.
    pub fn params(&self) -> impl Iterator<Item = (Cow<'_, [u8]>, Option<Cow<'_, [u8]>>)> {
        let params = self.part(self.parts.params);
        params.split(|byte| *byte == b';').filter(|part| !part.is_empty()).map(|part| {
            match part.iter().position(|byte| *byte == b'=') {
                Some(at) => (unescape(&part[..at]), Some(unescape(&part[at + 1..]))),
                None => (unescape(part), None),
            }
        })
    }

    /// The value of a parameter, unescaped once; empty when it has none. Names are compared without
    /// case.
    pub fn param(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.params()
            .find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.unwrap_or_default())
    }

    /// It has the `lr` parameter (RFC 3261 16.12).
    pub fn is_loose(&self) -> bool {
        self.param("lr").is_some()
    }

    /// The raw text behind `?`, empty when there is none.
    pub fn headers(&self) -> &[u8] {
        self.part(self.parts.headers)
    }

    /// The value of a header behind `?`, unescaped once. It never becomes a header field by itself.
    pub fn header(&self, name: &str) -> Option<Cow<'_, [u8]>> {
        self.headers().split(|byte| *byte == b'&').find_map(|pair| {
            let at = pair.iter().position(|byte| *byte == b'=')?;
            unescape(&pair[..at])
                .eq_ignore_ascii_case(name.as_bytes())
                .then(|| unescape(&pair[at + 1..]))
        })
    }

    /// Whether both name the same resource (RFC 3261 19.1.4). Headers are compared as they are
    /// written.
    pub fn same(&self, other: &Uri) -> bool {
        if self.scheme() == Scheme::Other || self.scheme() == Scheme::Tel {
            return self.raw.eq_ignore_ascii_case(&other.raw);
        }
        let must_match = ["user", "ttl", "method", "maddr", "transport"];
        let param_fits = |name: &str, value: &[u8], there: &Uri| match there.param(name) {
            Some(theirs) => theirs.eq_ignore_ascii_case(value),
            None => !must_match.iter().any(|must| must.eq_ignore_ascii_case(name)),
        };
        let params_fit = |a: &Uri, b: &Uri| {
            a.params().all(|(name, value)| match std::str::from_utf8(&name) {
                Ok(name) => param_fits(name, &value.unwrap_or_default(), b),
                Err(_) => true,
            })
        };
        self.scheme() == other.scheme()
            && self.user() == other.user()
            && self.host_text().eq_ignore_ascii_case(other.host_text())
            && self.parts.port == other.parts.port
            && self.headers() == other.headers()
            && params_fit(self, other)
            && params_fit(other, self)
    }
}

impl fmt::Debug for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Uri({self})")
    }
}

/// Lossy, with control characters escaped and without a password: for people.
impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user_end = self.parts.user.map(|user| user.1 as usize);
        let password = user_end.filter(|end| self.raw.get(*end) == Some(&b':'));
        let around = password.and_then(|end| {
            Some((self.raw.get(..end)?, self.raw.get(self.parts.host.0 as usize..)?))
        });
        match around {
            Some((before, after)) => {
                write!(f, "{}:<secret>@{}", before.escape_ascii(), after.escape_ascii())
            }
            None => write!(f, "{}", self.raw.escape_ascii()),
        }
    }
}

impl Host {
    /// Reads a host; IPv6 in brackets.
    pub fn read(text: &str) -> Host {
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        let address = match inner {
            Some(inner) => inner
                .parse::<Ipv6Addr>()
                .or_else(|_| inner.replacen(":::", "::", 1).parse())
                .ok()
                .map(IpAddr::V6),
            None => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
        };
        address.map_or_else(|| Host::Name(text.to_owned()), Host::Address)
    }
}

/// How many bytes of `text` are a host; `None` when it begins with none.
pub(crate) fn host_length(text: &[u8]) -> Option<usize> {
    if text.first() == Some(&b'[') {
        let close = text.iter().position(|byte| *byte == b']')?;
        let fits = |byte: &u8| byte.is_ascii_hexdigit() || matches!(byte, b':' | b'.');
        return (close > 1 && text[1..close].iter().all(fits)).then_some(close + 1);
    }
    let length = span(HOST, text);
    (length > 0).then_some(length)
}

fn escapes_are_whole(text: &[u8]) -> bool {
    let digit = |at: usize| text.get(at).is_some_and(u8::is_ascii_hexdigit);
    text.iter().enumerate().all(|(at, byte)| *byte != b'%' || digit(at + 1) && digit(at + 2))
}

fn is_mark(byte: u8) -> bool {
    matches!(byte, b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')')
}

/// Undoes `%hh` once; what is no escape stays.
pub fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let digit = |at: usize| text.get(at).and_then(|byte| char::from(*byte).to_digit(16));
    let mut plain = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        match (text[at], digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                plain.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, ..) => {
                plain.push(byte);
                at += 1;
            }
        }
    }
    Cow::Owned(plain)
}

/// Writes everything but letters, digits, marks and `+` as `%hh`, so that it can stand in any part
/// of a URI.
pub fn escape(text: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(text.len());
    for byte in text {
        if byte.is_ascii_alphanumeric() || is_mark(*byte) || *byte == b'+' {
            escaped.push(*byte);
        } else {
            escaped.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    escaped
}
