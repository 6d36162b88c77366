use super::scan::{Scan, digits, is_space, is_token, quote, unquote};
use super::uri::host_length;
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

    pub(crate) fn read(scan: &mut Scan<'_>) -> Result<Params, ValueError> {
        let mut params = Params::new();
        loop {
            scan.spaces();
            if scan.done() {
                return Ok(params);
            }
            if !scan.eat(b';') {
                return Err(ValueError);
            }
            scan.spaces();
            let name = scan.token().ok_or(ValueError)?;
            scan.spaces();
            if !scan.eat(b'=') {
                params.0.push((name.to_vec(), None));
                continue;
            }
            scan.spaces();
            let value = match scan.peek() {
                Some(b'"') => scan.quoted().ok_or(ValueError)?,
                _ => scan.take_while(|byte| !is_space(byte) && !matches!(byte, b';' | b',' | b'"' | b'<' | b'>')),
            };
            params.0.push((name.to_vec(), Some(value.to_vec())));
        }
    }

    /// The raw value of a parameter (a quoted string keeps its quotes); empty when it has none. Names are compared without case.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.0
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value.as_deref().unwrap_or_default())
    }

    /// The value of a parameter, without quotes.
    pub fn unquoted(&self, name: &str) -> Option<Vec<u8>> {
        self.get(name).map(unquote)
    }

    /// Whether the parameter is there.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Sets a parameter in its place, or adds it at the end. A value that is neither a token nor a host is quoted.
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

fn can_stand(value: &[u8]) -> bool {
    is_token(value) || host_length(value) == Some(value.len()) || Scan::new(value).quoted() == Some(value)
}

/// A name and an address: From, To, Contact, Route, Record-Route, Refer-To, P-Asserted-Identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameAddr {
    /// The display name without its quotes, empty when there is none. Bytes: people send Latin-1 too.
    pub display: Vec<u8>,
    /// The address.
    pub uri: Uri,
    /// The parameters behind it, the tag among them.
    pub params: Params,
}

impl NameAddr {
    /// An address alone.
    pub fn new(uri: Uri) -> NameAddr {
        NameAddr {
            display: Vec::new(),
            uri,
            params: Params::new(),
        }
    }

    /// Reads one name and address (RFC 3261 20.10). Without angle brackets, parameters belong to the header (20.10) and the URI must
    /// have no `?`.
    pub fn parse(text: &[u8]) -> Result<NameAddr, ValueError> {
        let mut scan = Scan::new(text);
        scan.spaces();
        let display = match scan.peek() {
            Some(b'"') => {
                let display = unquote(scan.quoted().ok_or(ValueError)?);
                scan.spaces();
                if scan.peek() != Some(b'<') {
                    return Err(ValueError);
                }
                display
            }
            _ if scan.rest().contains(&b'<') => {
                let words = scan.take_while(|byte| !matches!(byte, b'<' | b'>' | b'"' | b',' | b';' | b':' | b'@' | b'\\'));
                super::scan::trim(words).to_vec()
            }
            _ => return NameAddr::bare(scan),
        };
        if !scan.eat(b'<') {
            return NameAddr::bare(Scan::new(super::scan::trim(text)));
        }
        let uri = Uri::parse(scan.take_while(|byte| byte != b'>')).map_err(|_| ValueError)?;
        if !scan.eat(b'>') {
            return Err(ValueError);
        }
        Ok(NameAddr {
            display,
            uri,
            params: Params::read(&mut scan)?,
        })
    }

    fn bare(mut scan: Scan<'_>) -> Result<NameAddr, ValueError> {
        let text = scan.take_while(|byte| !is_space(byte) && byte != b';');
        if text.iter().any(|byte| matches!(byte, b'?' | b',' | b'<' | b'>')) {
            return Err(ValueError);
        }
        let uri = Uri::parse(text).map_err(|_| ValueError)?;
        Ok(NameAddr {
            display: Vec::new(),
            uri,
            params: Params::read(&mut scan)?,
        })
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
        Via {
            transport: transport.to_owned(),
            host: host.to_owned(),
            port,
            params,
        }
    }

    /// Reads one Via value.
    pub fn parse(text: &[u8]) -> Result<Via, ValueError> {
        let mut scan = Scan::new(text);
        let part = |scan: &mut Scan<'_>| {
            scan.spaces();
            let token = scan.token().ok_or(ValueError)?;
            Ok::<_, ValueError>(String::from_utf8_lossy(token).to_ascii_uppercase())
        };
        for _ in 0..2 {
            part(&mut scan)?;
            scan.spaces();
            if !scan.eat(b'/') {
                return Err(ValueError);
            }
        }
        let transport = part(&mut scan)?;
        if !scan.peek().is_some_and(is_space) {
            return Err(ValueError);
        }
        scan.spaces();
        let length = host_length(scan.rest()).ok_or(ValueError)?;
        let host = String::from_utf8_lossy(scan.take(length)).into_owned();
        scan.spaces();
        let mut port = None;
        if scan.eat(b':') {
            scan.spaces();
            let number = digits(scan.take_while(|byte| byte.is_ascii_digit())).and_then(|port| u16::try_from(port).ok());
            port = Some(number.ok_or(ValueError)?);
        }
        Ok(Via {
            transport,
            host,
            port,
            params: Params::read(&mut scan)?,
        })
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

    /// sent-by as one text, in small letters, for transaction keys. The default port is not filled in.
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
