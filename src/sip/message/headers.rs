use super::scan::{digits, is_space, is_token, split_list, trim};
use super::value::{NameAddr, ValueError, Via};
use super::{Method, scan::Scan};
use std::fmt;
use std::net::SocketAddr;
use std::ops::Range;

/// Why a typed header could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// There is none.
    #[error("no {0}")]
    Missing(&'static str),
    /// There are several where there may be one.
    #[error("more than one {0}")]
    Repeated(&'static str),
    /// It is there and cannot be read.
    #[error("malformed {0}")]
    Malformed(&'static str),
}

/// Header fields: bytes, in order, with the names as they were spelled.
///
/// Wherever a name is asked for, case and compact forms (RFC 3261 7.3.3) make no difference.
#[derive(Clone, Default)]
pub struct Headers {
    text: Vec<u8>,
    fields: Vec<FieldPlace>,
}

#[derive(Clone, PartialEq, Eq)]
pub(crate) struct FieldPlace {
    full: Option<&'static str>,
    name: (u32, u32),
    value: (u32, u32),
}

impl FieldPlace {
    /// A field of a text: `name` is a token, `value` is what stands behind the colon.
    pub(crate) fn of(text: &[u8], name: Range<usize>, value: Range<usize>) -> FieldPlace {
        let raw = &text[value.clone()];
        let start = value.start + raw.iter().take_while(|byte| is_space(**byte)).count();
        let end = start + trim(raw).len();
        let short = |range: Range<usize>| (range.start as u32, range.end as u32);
        FieldPlace {
            full: full_name(&text[name.clone()]),
            name: short(name),
            value: short(start.min(end)..end),
        }
    }
}

fn range(place: (u32, u32)) -> Range<usize> {
    place.0 as usize..place.1 as usize
}

/// One header field.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Field<'a> {
    full: Option<&'static str>,
    name: &'a [u8],
    value: &'a [u8],
}

impl<'a> Field<'a> {
    /// The name: the long form of a compact name, else as it was spelled.
    pub fn name(&self) -> &'a [u8] {
        self.full.map_or(self.name, str::as_bytes)
    }

    /// The value: raw, without spaces around it, foldings turned into spaces.
    pub fn value(&self) -> &'a [u8] {
        self.value
    }

    /// It has this name.
    pub fn is(&self, name: &str) -> bool {
        self.name()
            .eq_ignore_ascii_case(full_name(name.as_bytes()).map_or(name, |full| full).as_bytes())
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Headers) -> bool {
        self.fields.len() == other.fields.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Headers {}

impl Headers {
    /// None.
    pub fn new() -> Headers {
        Headers::default()
    }

    /// From the tokenizer: a text and where its fields are. Line ends left in it are those of
    /// foldings, and become spaces.
    pub(crate) fn adopt(text: &[u8], fields: Vec<FieldPlace>, folded: bool) -> Headers {
        let mut text = text.to_vec();
        if folded {
            text.iter_mut()
                .filter(|byte| matches!(byte, b'\r' | b'\n'))
                .for_each(|byte| *byte = b' ');
        }
        Headers { text, fields }
    }

    pub(crate) fn text_len(&self) -> usize {
        let written = |place: &FieldPlace| range(place.name).len() + range(place.value).len() + 4;
        self.fields.iter().map(written).sum()
    }

    /// How many fields there are.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = Field<'_>> {
        self.fields.iter().map(|place| self.field(place))
    }

    fn field(&self, place: &FieldPlace) -> Field<'_> {
        Field {
            full: place.full,
            name: &self.text[range(place.name)],
            value: &self.text[range(place.value)],
        }
    }

    /// The raw value of the first field of this name.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.fields_of(name).next()
    }

    /// The raw values of the fields of this name, a value a field, in order.
    pub fn fields_of<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let name = full_name(name.as_bytes())
            .map_or_else(|| name.as_bytes().to_vec(), |full| full.as_bytes().to_vec());
        self.iter()
            .filter(move |field| field.name().eq_ignore_ascii_case(&name))
            .map(|field| field.value)
    }

    /// The values of all fields of this name in order; where the grammar makes the value a list,
    /// one by one. Empty list elements are left out.
    pub fn get_all<'a>(&'a self, name: &str) -> Vec<&'a [u8]> {
        let list = is_list(name.as_bytes());
        let mut values = Vec::new();
        for value in self.fields_of(name) {
            match list {
                true => values.extend(split_list(value).filter(|element| !element.is_empty())),
                false => values.push(value),
            }
        }
        values
    }

    /// Whether a field of this name is there.
    pub fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Whether a list of tokens (Supported, Require, Allow …) holds this one. Without case.
    pub fn lists(&self, name: &str, token: &str) -> bool {
        self.get_all(name).iter().any(|value| value.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// Adds a field at the end. Line ends within the value become spaces, so that no value makes a
    /// second field; a name that is no token adds nothing.
    pub fn push(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let place = self.store(name.as_bytes(), value.as_ref());
        self.fields.extend(place);
    }

    /// Adds a field before all others.
    pub fn push_front(&mut self, name: &str, value: impl AsRef<[u8]>) {
        if let Some(place) = self.store(name.as_bytes(), value.as_ref()) {
            self.fields.insert(0, place);
        }
    }

    /// Puts one field in the place of the first of this name, and takes the others of it away; adds
    /// it at the end when there is none.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        let Some(place) = self.store(name.as_bytes(), value.as_ref()) else {
            return;
        };
        let first = self.iter().position(|field| field.is(name));
        let Some(first) = first else {
            self.fields.push(place);
            return;
        };
        self.fields[first] = place;
        let mut at = 0;
        let kept: Vec<bool> = self.iter().map(|field| !field.is(name)).collect();
        self.fields.retain(|_| {
            at += 1;
            kept[at - 1] || at - 1 == first
        });
    }

    /// Takes all fields of this name away.
    pub fn remove(&mut self, name: &str) {
        let kept: Vec<bool> = self.iter().map(|field| !field.is(name)).collect();
        let mut kept = kept.into_iter();
        self.fields.retain(|_| kept.next().unwrap_or(true));
    }

    fn store(&mut self, name: &[u8], value: &[u8]) -> Option<FieldPlace> {
        if !is_token(name) {
            return None;
        }
        let name_start = self.text.len();
        self.text.extend_from_slice(name);
        let value_start = self.text.len();
        self.text.extend(
            trim(value).iter().map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }),
        );
        Some(FieldPlace::of(&self.text, name_start..value_start, value_start..self.text.len()))
    }

    /// The fields on the wire and the empty line behind them, with a right Content-Length, where
    /// the first stood or at the end.
    pub(crate) fn write(&self, body_len: usize, bytes: &mut Vec<u8>) {
        let mut length_written = false;
        let mut line = |name: &[u8], value: &[u8]| {
            bytes.extend_from_slice(name);
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value);
            bytes.extend_from_slice(b"\r\n");
        };
        for field in self.iter() {
            if !field.is("Content-Length") {
                line(field.name, field.value);
            } else if !length_written {
                line(field.name, body_len.to_string().as_bytes());
                length_written = true;
            }
        }
        if !length_written {
            line(b"Content-Length", body_len.to_string().as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
    }
}

/// Typed looks. Each reads the text anew.
impl Headers {
    /// The only field of this name.
    pub fn single(&self, name: &'static str) -> Result<&[u8], HeaderError> {
        let mut values = self.fields_of(name);
        let value = values.next().ok_or(HeaderError::Missing(name))?;
        if values.next().is_some() { Err(HeaderError::Repeated(name)) } else { Ok(value) }
    }

    fn number(&self, name: &'static str, max: u64) -> Result<u64, HeaderError> {
        digits(self.single(name)?)
            .filter(|number| *number <= max)
            .ok_or(HeaderError::Malformed(name))
    }

    /// Call-ID.
    pub fn call_id(&self) -> Result<&[u8], HeaderError> {
        let value = self.single("Call-ID")?;
        if is_call_id(value) { Ok(value) } else { Err(HeaderError::Malformed("Call-ID")) }
    }

    /// CSeq: the number is below 2³¹ (RFC 3261 8.1.1.5).
    pub fn cseq(&self) -> Result<(u32, Method), HeaderError> {
        read_cseq(self.single("CSeq")?).ok_or(HeaderError::Malformed("CSeq"))
    }

    /// From.
    pub fn from(&self) -> Result<NameAddr, HeaderError> {
        NameAddr::parse(self.single("From")?).map_err(|_| HeaderError::Malformed("From"))
    }

    /// To.
    pub fn to(&self) -> Result<NameAddr, HeaderError> {
        NameAddr::parse(self.single("To")?).map_err(|_| HeaderError::Malformed("To"))
    }

    /// The topmost Via.
    pub fn via_top(&self) -> Result<Via, HeaderError> {
        let first = self.get("Via").ok_or(HeaderError::Missing("Via"))?;
        split_list(first)
            .next()
            .and_then(|value| Via::parse(value).ok())
            .ok_or(HeaderError::Malformed("Via"))
    }

    /// All Via values, topmost first.
    pub fn vias(&self) -> Result<Vec<Via>, HeaderError> {
        self.read_all("Via", Via::parse)
    }

    /// The contacts; `*` is no address and is left out (see `contact_is_star`).
    pub fn contacts(&self) -> Result<Vec<NameAddr>, HeaderError> {
        if self.contact_is_star() {
            return Ok(Vec::new());
        }
        self.read_all("Contact", NameAddr::parse)
    }

    /// The Contact is `*` (RFC 3261 10.2.2) and nothing else.
    pub fn contact_is_star(&self) -> bool {
        self.get_all("Contact") == [b"*".as_slice()]
    }

    /// The Record-Route values in the order of the message.
    pub fn record_routes(&self) -> Result<Vec<NameAddr>, HeaderError> {
        self.read_all("Record-Route", NameAddr::parse)
    }

    /// The Route values in the order of the message.
    pub fn routes(&self) -> Result<Vec<NameAddr>, HeaderError> {
        self.read_all("Route", NameAddr::parse)
    }

    fn read_all<T>(
        &self,
        name: &'static str,
        read: fn(&[u8]) -> Result<T, ValueError>,
    ) -> Result<Vec<T>, HeaderError> {
        let mut values = Vec::new();
        for field in self.fields_of(name) {
            for element in split_list(field) {
                values.push(read(element).map_err(|_| HeaderError::Malformed(name))?);
            }
        }
        Ok(values)
    }

    /// Max-Forwards.
    pub fn max_forwards(&self) -> Result<u8, HeaderError> {
        self.number("Max-Forwards", 255).map(|number| number as u8)
    }

    /// Content-Length.
    pub fn content_length(&self) -> Result<usize, HeaderError> {
        self.number("Content-Length", super::MAX_MESSAGE as u64).map(|number| number as usize)
    }

    /// Expires in seconds.
    pub fn expires(&self) -> Result<u32, HeaderError> {
        self.number("Expires", u32::MAX.into()).map(|number| number as u32)
    }

    /// The option tags of Require.
    pub fn require(&self) -> Vec<&[u8]> {
        self.get_all("Require")
    }

    /// Content-Type without its parameters, in small letters.
    pub fn content_type(&self) -> Option<String> {
        let value = self.get("Content-Type")?;
        let media = value.split(|byte| *byte == b';').next().unwrap_or_default();
        let media: Vec<u8> = media
            .iter()
            .filter(|byte| !super::scan::is_space(**byte))
            .map(u8::to_ascii_lowercase)
            .collect();
        Some(String::from_utf8_lossy(&media).into_owned())
    }

    /// The tag of To; empty when there is none.
    pub fn to_tag(&self) -> Vec<u8> {
        let to = self.to().ok();
        to.and_then(|to| to.tag().map(<[u8]>::to_vec)).unwrap_or_default()
    }

    /// Takes over the fields of these names, in the order of the names.
    pub fn copy(&mut self, names: &[&str], from: &Headers) {
        for name in names {
            for value in from.fields_of(name) {
                self.push(name, value);
            }
        }
    }

    /// Puts a tag on To when To is there, can be read and has none. The rest of it stays byte for
    /// byte.
    pub fn tag_to(&mut self, tag: &str) {
        let Some(value) = self.get("To") else { return };
        if NameAddr::parse(value).is_ok_and(|to| to.tag().is_none()) {
            let tagged = [value, b";tag=", tag.as_bytes()].concat();
            self.set("To", tagged);
        }
    }

    /// Notes on the topmost Via where the request came from: received (RFC 3261 18.2.1) and, when
    /// it was asked for, rport (RFC 3581). A `received` that the peer wrote itself is replaced. A
    /// Via that cannot be read stays as it is. That Via, stamped.
    pub fn stamp_source(&mut self, source: SocketAddr) -> Option<Via> {
        let mut via = self.via_top().ok()?;
        let ip = source.ip().to_canonical();
        let said = via.sent_host() == super::Host::Address(ip);
        via.params.remove("received");
        if via.rport().is_some() {
            via.params.set("rport", Some(source.port().to_string().as_bytes()));
        }
        if !said || via.rport().is_some() {
            via.params.set("received", Some(ip.to_string().as_bytes()));
        }
        let at = self.iter().position(|field| field.is("Via"))?;
        let mut value = via.to_bytes();
        for other in split_list(self.field(&self.fields[at]).value).skip(1) {
            value.extend_from_slice(b", ");
            value.extend_from_slice(other);
        }
        if let Some(place) = self.store(b"Via", &value) {
            self.fields[at] = place;
        }
        Some(via)
    }

    /// Takes the topmost Via value away.
    pub fn pop_via(&mut self) {
        let Some(at) = self.iter().position(|field| field.is("Via")) else {
            return;
        };
        let others: Vec<&[u8]> = split_list(self.field(&self.fields[at]).value).skip(1).collect();
        if others.is_empty() {
            self.fields.remove(at);
            return;
        }
        let value = others.join(b", ".as_slice());
        if let Some(place) = self.store(b"Via", &value) {
            self.fields[at] = place;
        }
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = ["Authorization", "Proxy-Authorization", "Identity", "User-to-User"];
        // What applications of their own say is call data as often as not.
        let is_extension =
            self.name.get(..2).is_some_and(|start| start.eq_ignore_ascii_case(b"X-"));
        let secret = is_extension || secret.iter().any(|name| self.is(name));
        let value: &[u8] = if secret { b"(kept out of logs)" } else { self.value };
        write!(f, "{}: {}", self.name.escape_ascii(), value.escape_ascii())
    }
}

pub(crate) fn is_call_id(value: &[u8]) -> bool {
    !value.is_empty() && !value.iter().any(|byte| matches!(byte, 0..=b' ' | 0x7f))
}

pub(crate) fn read_cseq(value: &[u8]) -> Option<(u32, Method)> {
    let mut scan = Scan::new(value);
    let number =
        digits(scan.take_while(|byte| byte.is_ascii_digit())).filter(|number| *number < 1 << 31)?;
    scan.peek().filter(|byte| is_space(*byte))?;
    scan.spaces();
    Some((number as u32, Method::parse(scan.rest())?))
}

/// The long form of a compact name (RFC 3261 7.3.3 and the IANA registry).
pub(crate) fn full_name(name: &[u8]) -> Option<&'static str> {
    let [letter] = name else { return None };
    Some(match letter.to_ascii_lowercase() {
        b'a' => "Accept-Contact",
        b'b' => "Referred-By",
        b'c' => "Content-Type",
        b'd' => "Request-Disposition",
        b'e' => "Content-Encoding",
        b'f' => "From",
        b'i' => "Call-ID",
        b'j' => "Reject-Contact",
        b'k' => "Supported",
        b'l' => "Content-Length",
        b'm' => "Contact",
        b'n' => "Identity-Info",
        b'o' => "Event",
        b'r' => "Refer-To",
        b's' => "Subject",
        b't' => "To",
        b'u' => "Allow-Events",
        b'v' => "Via",
        b'x' => "Session-Expires",
        b'y' => "Identity",
        _ => return None,
    })
}

fn is_list(name: &[u8]) -> bool {
    let name = full_name(name).map_or(name, str::as_bytes);
    const LISTS: &[&str] = &[
        "Accept",
        "Accept-Contact",
        "Accept-Encoding",
        "Accept-Language",
        "Alert-Info",
        "Allow",
        "Allow-Events",
        "Call-Info",
        "Contact",
        "Content-Encoding",
        "Content-Language",
        "Diversion",
        "Error-Info",
        "Geolocation",
        "History-Info",
        "In-Reply-To",
        "P-Asserted-Identity",
        "P-Associated-URI",
        "P-Preferred-Identity",
        "Path",
        "Proxy-Require",
        "Reason",
        "Record-Route",
        "Reject-Contact",
        "Remote-Party-ID",
        "Require",
        "Route",
        "Security-Client",
        "Security-Server",
        "Security-Verify",
        "Service-Route",
        "Supported",
        "Unsupported",
        "Via",
        "Warning",
    ];
    LISTS.iter().any(|list| name.eq_ignore_ascii_case(list.as_bytes()))
}
