use super::scan::{Scan, digits, is_space, is_token, quote, trim, unquote};
use super::uri::{host_length, is_uri};
use super::{Host, Uri};
use std::net::IpAddr;

/// Why a header value cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed value")]
pub struct ValueError;

/// Parameters behind a header value, in order, raw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl Params {
    /// No parameters.
    pub fn new() -> Params {
        Params::default()
    }

    /// Reads parameters, from the semicolon before the first to the end.
    pub fn parse(text: &[u8]) -> Result<Params, ValueError> {
        Params::read(Scan::new(text))
    }

    fn read(scan: Scan<'_>) -> Result<Params, ValueError> {
        let mut params = Params::new();
        each_param(scan, |name, value| params.0.push((name.to_vec(), value.map(<[u8]>::to_vec))))?;
        Ok(params)
    }

    /// The raw value of a parameter (a quoted string keeps its quotes); empty when it has none.
    /// Names are compared without case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_deref().unwrap_or_default())
    }

    /// Whether the parameter is there.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets a parameter in its place, or adds it at the end. A value that is neither a token nor a
    /// host is quoted.
    pub fn set(&mut self, name: &str, value: Option<&[u8]>) {
        let value = value.map(|value| if can_stand(value) { value.to_vec() } else { quote(value) });
        match self.0.iter_mut().find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes())) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.as_bytes().to_vec(), value)),
        }
    }

    /// Takes a parameter away.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(found, _)| !found.eq_ignore_ascii_case(name.as_bytes()));
    }

    /// All of them: name, raw value.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.0.iter().map(|(name, value)| (name.as_slice(), value.as_deref()))
    }

    fn write(&self, bytes: &mut Vec<u8>) {
        for (name, value) in &self.0 {
            bytes.push(b';');
            bytes.extend_from_slice(name);
            if let Some(value) = value {
                bytes.push(b'=');
                bytes.extend_from_slice(value);
            }
        }
    }
}

/// `*( SEMI name [ EQUAL value ] )` up to the end.
fn each_param<'a>(
    mut scan: Scan<'a>,
    mut found: impl FnMut(&'a [u8], Option<&'a [u8]>),
) -> Result<(), ValueError> {
    loop {
        scan.spaces();
        if scan.done() {
            return Ok(());
        }
        if !scan.eat(b';') {
            return Err(ValueError);
        }
        scan.spaces();
        let name = scan.token().ok_or(ValueError)?;
        scan.spaces();
        if !scan.eat(b'=') {
            found(name, None);
            continue;
        }
        scan.spaces();
        let value = match scan.peek() {
            Some(b'"') => scan.quoted().ok_or(ValueError)?,
            _ => scan.take_while(|byte| {
                !is_space(byte) && !matches!(byte, b';' | b',' | b'"' | b'<' | b'>')
            }),
        };
        found(name, Some(value));
    }
}

fn can_stand(value: &[u8]) -> bool {
    is_token(value)
        || host_length(value) == Some(value.len())
        || Scan::new(value).quoted() == Some(value)
}

/// A name and an address: From, To, Contact, Route, Record-Route, Refer-To, P-Asserted-Identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameAddr {
    /// The display name without its quotes, empty when there is none. Bytes: people send Latin-1
    /// too.
    pub display: Vec<u8>,
    /// The address.
    pub uri: Uri,
    /// The parameters behind it, the tag among them.
    pub params: Params,
}

impl NameAddr {
    /// An address alone.
    pub fn new(uri: Uri) -> NameAddr {
        NameAddr { display: Vec::new(), uri, params: Params::new() }
    }

    /// Reads one name and address (RFC 3261 20.10). Without angle brackets, parameters belong to
    /// the header (20.10) and the URI must have no `?`.
    pub fn parse(text: &[u8]) -> Result<NameAddr, ValueError> {
        let (display, uri, params) = split_name_addr(text)?;
        let uri = Uri::parse(uri).map_err(|_| ValueError)?;
        Ok(NameAddr { display: unquote(display), uri, params: Params::read(params)? })
    }

    /// Whether `parse` would read it.
    pub(crate) fn fits(text: &[u8]) -> bool {
        split_name_addr(text)
            .is_ok_and(|(_, uri, params)| is_uri(uri) && each_param(params, |_, _| {}).is_ok())
    }

    /// The tag (RFC 3261 19.3); an empty one is none.
    pub fn tag(&self) -> Option<&[u8]> {
        self.params.get("tag").filter(|tag| !tag.is_empty())
    }

    /// The same, with this tag.
    pub fn with_tag(mut self, tag: &str) -> NameAddr {
        self.params.set("tag", Some(tag.as_bytes()));
        self
    }

    /// As it stands in a header, always with angle brackets.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if !self.display.is_empty() {
            bytes.extend(quote(&self.display));
            bytes.push(b' ');
        }
        bytes.push(b'<');
        bytes.extend_from_slice(self.uri.as_bytes());
        bytes.push(b'>');
        self.params.write(&mut bytes);
        bytes
    }
}

/// Display name as it is written, URI, and where the parameters begin.
fn split_name_addr(text: &[u8]) -> Result<(&[u8], &[u8], Scan<'_>), ValueError> {
    let mut scan = Scan::new(text);
    scan.spaces();
    let bare = scan.clone();
    let display = match scan.peek() {
        Some(b'"') => {
            let display = scan.quoted().ok_or(ValueError)?;
            scan.spaces();
            if scan.peek() != Some(b'<') {
                // `""name"" <…>`, as some switches write it: everything before the bracket is the
                // name, unless it holds what could be taken for an address or a parameter.
                scan.take_while(|byte| {
                    !matches!(byte, b'<' | b'>' | b',' | b';' | b':' | b'@' | b'\\')
                });
                if scan.peek() != Some(b'<') {
                    return Err(ValueError);
                }
                let name = trim(&text[..text.len() - scan.rest().len()]);
                return finish_name_addr(inner_name(name), scan);
            }
            display
        }
        _ => trim(scan.take_while(|byte| {
            !matches!(byte, b'<' | b'>' | b'"' | b',' | b';' | b':' | b'@' | b'\\')
        })),
    };
    if scan.peek() == Some(b'<') {
        return finish_name_addr(display, scan);
    }
    scan = bare;
    let uri = scan.take_while(|byte| !is_space(byte) && byte != b';');
    let fits = !uri.iter().any(|byte| matches!(byte, b'?' | b',' | b'<' | b'>' | b'"'));
    if fits { Ok((b"", uri, scan)) } else { Err(ValueError) }
}

/// The rest of a name and address, from its opening bracket on.
fn finish_name_addr<'a>(
    display: &'a [u8],
    mut scan: Scan<'a>,
) -> Result<(&'a [u8], &'a [u8], Scan<'a>), ValueError> {
    scan.eat(b'<');
    let uri = scan.take_while(|byte| byte != b'>');
    if scan.eat(b'>') { Ok((display, uri, scan)) } else { Err(ValueError) }
}

/// A name without the quotes and spaces around it.
fn inner_name(mut name: &[u8]) -> &[u8] {
    while let [b'"' | b' ', rest @ ..] = name {
        name = rest;
    }
    while let [rest @ .., b'"' | b' '] = name {
        name = rest;
    }
    name
}

/// One Via value (RFC 3261 20.42).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// `UDP`, `TCP`, `TLS`, `WS` … in capitals; open.
    pub transport: String,
    /// The host of sent-by as it is written.
    pub host: String,
    /// The port of sent-by, when one is written.
    pub port: Option<u16>,
    /// The parameters: branch, received, rport …
    pub params: Params,
}

impl Via {
    /// A Via of ours.
    pub fn new(transport: &str, host: &str, port: Option<u16>, branch: &str) -> Via {
        let mut params = Params::new();
        params.set("branch", Some(branch.as_bytes()));
        Via { transport: transport.to_owned(), host: host.to_owned(), port, params }
    }

    /// Reads one Via value.
    pub fn parse(text: &[u8]) -> Result<Via, ValueError> {
        let parts = split_via(text)?;
        Ok(Via {
            transport: String::from_utf8_lossy(parts.transport).to_ascii_uppercase(),
            host: String::from_utf8_lossy(parts.host).into_owned(),
            port: parts.port,
            params: Params::read(parts.params)?,
        })
    }

    /// Whether `parse` would read it.
    pub(crate) fn fits(text: &[u8]) -> bool {
        split_via(text).is_ok_and(|parts| each_param(parts.params, |_, _| {}).is_ok())
    }

    /// The branch, `None` when there is none or it is empty.
    pub fn branch(&self) -> Option<&[u8]> {
        self.params.get("branch").filter(|branch| !branch.is_empty())
    }

    /// The address the next hop saw (RFC 3261 18.2.1), with or without brackets (RFC 5118 4.5).
    pub fn received(&self) -> Option<IpAddr> {
        let text = std::str::from_utf8(self.params.get("received")?).ok()?;
        text.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// RFC 3581: `None` when not asked for, `Some(None)` asked for, `Some(Some(port))` filled in.
    pub fn rport(&self) -> Option<Option<u16>> {
        let text = self.params.get("rport")?;
        Some(digits(text).and_then(|port| u16::try_from(port).ok()))
    }

    /// The host of sent-by.
    pub fn sent_host(&self) -> Host {
        Host::read(&self.host)
    }

    /// sent-by as one text, in small letters, for transaction keys. The default port is not filled
    /// in.
    pub fn sent_by(&self) -> String {
        let host = self.host.to_ascii_lowercase();
        self.port.map_or(host.clone(), |port| format!("{host}:{port}"))
    }

    /// As it stands in a header.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = format!("SIP/2.0/{} {}", self.transport, self.host).into_bytes();
        if let Some(port) = self.port {
            bytes.extend_from_slice(format!(":{port}").as_bytes());
        }
        self.params.write(&mut bytes);
        bytes
    }
}

/// The parts of a Via value as they are written; `params` stands where they begin.
struct ViaParts<'a> {
    transport: &'a [u8],
    host: &'a [u8],
    port: Option<u16>,
    params: Scan<'a>,
}

fn split_via(text: &[u8]) -> Result<ViaParts<'_>, ValueError> {
    let mut scan = Scan::new(text);
    for _ in 0..2 {
        scan.spaces();
        scan.token().ok_or(ValueError)?;
        scan.spaces();
        if !scan.eat(b'/') {
            return Err(ValueError);
        }
    }
    scan.spaces();
    let transport = scan.token().ok_or(ValueError)?;
    if !scan.peek().is_some_and(is_space) {
        return Err(ValueError);
    }
    scan.spaces();
    let host = scan.take(host_length(scan.rest()).ok_or(ValueError)?);
    scan.spaces();
    let mut port = None;
    if scan.eat(b':') {
        scan.spaces();
        let number = digits(scan.take_while(|byte| byte.is_ascii_digit()))
            .and_then(|port| u16::try_from(port).ok());
        port = Some(number.ok_or(ValueError)?);
    }
    Ok(ViaParts { transport, host, port, params: scan })
}
