//! The session description of a body: the body itself, or a part of a multipart one (RFC 3261 7.4,
//! RFC 5621).
//!
//! ```text
//!  application/sdp ─────────────────────────────────────▶ the description
//!  multipart/mixed ─┬─ application/sdp, "session" ──────▶ the description
//!                   ├─ multipart/… ─▶ the same again
//!                   ├─ anything, handling=optional ─────▶ passed over
//!                   └─ anything else: required ─────────▶ 415 (RFC 3261 20.11)
//! ```

use super::Headers;
use super::scan::{self, is_space, trim, unquote};
use super::value::Params;

/// The media types that [`session_description`] finds a description in.
pub const DESCRIBED: [&str; 3] = ["application/sdp", "multipart/mixed", "multipart/alternative"];

/// Parts of all levels together that are looked at.
const MAX_PARTS: usize = 32;

/// Levels of multipart bodies within each other.
const MAX_DEPTH: u8 = 4;

/// The longest boundary (RFC 2046 5.1.1).
const MAX_BOUNDARY: usize = 70;

/// Why a body is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It has a part that must be understood and is not: 415.
    #[error("a required body part of a type that is not understood")]
    Unsupported,
    /// It cannot be taken apart: 400.
    #[error("a multipart body that cannot be taken apart")]
    Malformed,
}

impl BodyError {
    /// The status that refuses it.
    pub fn status(self) -> u16 {
        match self {
            BodyError::Unsupported => 415,
            BodyError::Malformed => 400,
        }
    }
}

/// The session description in the body of a message with these header fields; `None` if it has
/// none.
///
/// A body without Content-Type counts as `application/sdp`: nothing else is expected where this is
/// asked. Of several descriptions in `multipart/mixed` the first counts, in `multipart/alternative`
/// the last (RFC 2046 5.1.4).
pub fn session_description<'a>(
    headers: &Headers,
    body: &'a [u8],
) -> Result<Option<&'a [u8]>, BodyError> {
    if trim(body).is_empty() {
        return Ok(None);
    }
    let mut search = Search { message: headers, parts: 0 };
    search.look(PartRole::Whole, headers, body, 0)
}

/// Where a body stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum PartRole {
    /// The body of the message.
    Whole,
    /// One of several that belong together.
    Mixed,
    /// One of several of which one is to be understood.
    Alternative,
}

struct Search<'h> {
    message: &'h Headers,
    parts: usize,
}

impl Search<'_> {
    fn look<'a>(
        &mut self,
        role: PartRole,
        headers: &Headers,
        body: &'a [u8],
        depth: u8,
    ) -> Result<Option<&'a [u8]>, BodyError> {
        let found = self.take(role, headers, body, depth);
        match found {
            Err(_) if self.is_optional(role, headers) => Ok(None),
            found => found,
        }
    }

    fn take<'a>(
        &mut self,
        role: PartRole,
        headers: &Headers,
        body: &'a [u8],
        depth: u8,
    ) -> Result<Option<&'a [u8]>, BodyError> {
        let default = if role == PartRole::Whole { "application/sdp" } else { "text/plain" };
        let kind = headers.content_type();
        let kind = kind.as_deref().unwrap_or(default);
        if is_encoded(headers) {
            return Err(BodyError::Unsupported);
        }
        if let Some(subtype) = kind.strip_prefix("multipart/") {
            if depth >= MAX_DEPTH {
                return Err(BodyError::Malformed);
            }
            let boundary = boundary(headers).ok_or(BodyError::Malformed)?;
            return match subtype {
                "alternative" => self.alternative(&boundary, body, depth),
                // What is not known is as if it were mixed (RFC 2046 5.1.3).
                _ => self.mixed(&boundary, body, depth),
            };
        }
        let is_session = disposition(headers).is_none_or(|disposition| disposition == b"session");
        match kind {
            "application/sdp" if is_session => Ok(Some(body)),
            _ => Err(BodyError::Unsupported),
        }
    }

    fn mixed<'a>(
        &mut self,
        boundary: &[u8],
        body: &'a [u8],
        depth: u8,
    ) -> Result<Option<&'a [u8]>, BodyError> {
        let mut description = None;
        for part in parts(boundary, body).ok_or(BodyError::Malformed)? {
            let (headers, content) = self.open(part)?;
            let found = self.look(PartRole::Mixed, &headers, content, depth + 1)?;
            description = description.or(found);
        }
        Ok(description)
    }

    fn alternative<'a>(
        &mut self,
        boundary: &[u8],
        body: &'a [u8],
        depth: u8,
    ) -> Result<Option<&'a [u8]>, BodyError> {
        let mut description = None;
        for part in parts(boundary, body).ok_or(BodyError::Malformed)? {
            let (headers, content) = self.open(part)?;
            if let Ok(Some(found)) = self.look(PartRole::Alternative, &headers, content, depth + 1)
            {
                description = Some(found);
            }
        }
        description.map(Some).ok_or(BodyError::Unsupported)
    }

    fn open<'a>(&mut self, part: &'a [u8]) -> Result<(Headers, &'a [u8]), BodyError> {
        self.parts += 1;
        if self.parts > MAX_PARTS {
            return Err(BodyError::Malformed);
        }
        Ok(part_of(part))
    }

    /// Whether a call can go on without this part: it says so, or it is there for a header field
    /// that refers to it, which is not read here (RFC 5621 9, RFC 6442 3.4).
    fn is_optional(&self, role: PartRole, headers: &Headers) -> bool {
        let handling = params(headers, "Content-Disposition").and_then(|params| {
            let handling = params.get("handling")?;
            Some(unquote(handling).eq_ignore_ascii_case(b"optional"))
        });
        handling.unwrap_or_else(|| {
            let by_reference =
                disposition(headers).is_some_and(|disposition| disposition == b"by-reference");
            role != PartRole::Whole
                && (by_reference || disposition(headers).is_none() && self.is_referred_to(headers))
        })
    }

    fn is_referred_to(&self, headers: &Headers) -> bool {
        let Some(id) = headers.get("Content-ID") else {
            return false;
        };
        let id = id.strip_prefix(b"<").and_then(|id| id.strip_suffix(b">")).unwrap_or(id);
        let reference = [b"cid:", id].concat();
        let names = |value: &[u8]| {
            value.windows(reference.len()).any(|window| window.eq_ignore_ascii_case(&reference))
        };
        !id.is_empty() && self.message.iter().any(|field| names(field.value()))
    }
}

fn is_encoded(headers: &Headers) -> bool {
    let is = |name, plain: &[&str]| {
        let value = headers.get(name).map(trim).filter(|value| !value.is_empty());
        value.is_some_and(|value| {
            !plain.iter().any(|plain| value.eq_ignore_ascii_case(plain.as_bytes()))
        })
    };
    is("Content-Encoding", &["identity"])
        || is("Content-Transfer-Encoding", &["binary", "8bit", "7bit"])
}

/// The disposition type, in small letters.
fn disposition(headers: &Headers) -> Option<Vec<u8>> {
    let value = headers.get("Content-Disposition")?;
    let kind = value.split(|byte| *byte == b';').next().map(trim)?;
    (!kind.is_empty()).then(|| kind.to_ascii_lowercase())
}

/// The parameters behind a value.
fn params(headers: &Headers, name: &str) -> Option<Params> {
    let value = headers.get(name)?;
    let from = value.iter().position(|byte| *byte == b';')?;
    Params::parse(value.get(from..)?).ok()
}

fn boundary(headers: &Headers) -> Option<Vec<u8>> {
    let boundary = unquote(params(headers, "Content-Type")?.get("boundary")?);
    (1..=MAX_BOUNDARY).contains(&boundary.len()).then_some(boundary)
}

/// What stands between the delimiters of a multipart body; what is before the first and after the
/// last counts for nothing. `None` if there is no part. The last delimiter may be missing: a
/// message that was cut shows that by its length.
fn parts<'a>(boundary: &[u8], body: &'a [u8]) -> Option<Vec<&'a [u8]>> {
    let mut parts = Vec::new();
    let mut begun: Option<usize> = None;
    let mut at = 0;
    while at < body.len() {
        let rest = body.get(at..)?;
        let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        let line = rest.get(..end)?;
        if let Some(is_last) = delimiter(boundary, line) {
            if let Some(from) = begun {
                parts.push(without_line_end(body.get(from..at)?));
            }
            begun = Some(at + end);
            if is_last || parts.len() > MAX_PARTS {
                return (!parts.is_empty()).then_some(parts);
            }
        }
        at += end;
    }
    parts.push(body.get(begun?..)?);
    Some(parts)
}

/// Whether a line is a delimiter, and if so, whether the last.
fn delimiter(boundary: &[u8], line: &[u8]) -> Option<bool> {
    let rest = line.strip_prefix(b"--")?.strip_prefix(boundary)?;
    let is_last = rest.strip_prefix(b"--");
    let padding = is_last.unwrap_or(rest);
    padding.iter().all(|byte| is_space(*byte)).then_some(is_last.is_some())
}

/// The line end before a delimiter belongs to it (RFC 2046 5.1.1).
fn without_line_end(part: &[u8]) -> &[u8] {
    let part = part.strip_suffix(b"\n").unwrap_or(part);
    part.strip_suffix(b"\r").unwrap_or(part)
}

/// The header fields of a part, and its content.
fn part_of(part: &[u8]) -> (Headers, &[u8]) {
    let mut headers = Headers::new();
    let mut field: Option<(Vec<u8>, Vec<u8>)> = None;
    let mut rest = part;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |end| end + 1);
        let (line, after) = rest.split_at(end);
        rest = after;
        let text = trim(line);
        if text.is_empty() {
            break;
        }
        if let (true, Some((_, value))) =
            (line.first().is_some_and(|byte| is_space(*byte)), &mut field)
        {
            value.push(b' ');
            value.extend_from_slice(text);
            continue;
        }
        if let Some((name, value)) = field.take() {
            push(&mut headers, &name, &value);
        }
        let mut halves = text.splitn(2, |byte| *byte == b':');
        if let (Some(name), Some(value)) = (halves.next(), halves.next()) {
            field = Some((trim(name).to_vec(), trim(value).to_vec()));
        }
    }
    if let Some((name, value)) = field {
        push(&mut headers, &name, &value);
    }
    (headers, rest)
}

/// Only what is asked of a part, so that its header fields cost nothing.
fn push(headers: &mut Headers, name: &[u8], value: &[u8]) {
    const ASKED: [&str; 5] = [
        "Content-Type",
        "Content-Disposition",
        "Content-ID",
        "Content-Encoding",
        "Content-Transfer-Encoding",
    ];
    let known = ASKED.into_iter().find(|known| known.as_bytes().eq_ignore_ascii_case(name));
    if let Some(known) = known.filter(|known| scan::is_token(name) && !headers.has(known)) {
        headers.push(known, value);
    }
}

#[cfg(test)]
mod tests {
    //! Where a description may be: RFC 3261 20.11, RFC 5621 3.1, 4 and 9, RFC 2046 5.1.

    use super::*;
    use proptest::prelude::*;

    const SDP: &str = "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\n";

    fn find(content_type: &str, body: &str) -> Result<Option<String>, BodyError> {
        find_in(&[("Content-Type", content_type)], body)
    }

    fn find_in(fields: &[(&str, &str)], body: &str) -> Result<Option<String>, BodyError> {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.push(name, value);
        }
        let found = session_description(&headers, body.as_bytes())?;
        Ok(found.map(|found| String::from_utf8(found.to_vec()).unwrap()))
    }

    /// Parts of `multipart/mixed; boundary=b`, each its header fields and its content.
    fn mixed(parts: &[(&str, &str)]) -> String {
        let parts: String = parts
            .iter()
            .map(|(fields, content)| format!("--b\r\n{fields}\r\n\r\n{content}\r\n"))
            .collect();
        format!("{parts}--b--\r\n")
    }

    const MIXED: &str = "multipart/mixed; boundary=b";
    const SESSION: (&str, &str) = ("Content-Type: application/sdp", SDP);
    const ISUP: (&str, &str) = (
        "Content-Type: application/isup; version=itu-t92+\r\n\
         Content-Disposition: signal; handling=optional",
        "\u{1}\u{10}",
    );

    fn described() -> Result<Option<String>, BodyError> {
        Ok(Some(SDP.to_owned()))
    }

    #[test]
    fn a_body_of_its_own_is_the_description() {
        assert_eq!(find("application/sdp", SDP), described());
        assert_eq!(find("APPLICATION/SDP;charset=utf-8", SDP), described());
        assert_eq!(find_in(&[], SDP), described());
        assert_eq!(find("application/sdp", ""), Ok(None));
        assert_eq!(find("application/sdp", "\r\n"), Ok(None));
        assert_eq!(find("text/plain", SDP), Err(BodyError::Unsupported));
    }

    #[test]
    fn a_disposition_says_what_a_body_is_for_and_whether_it_is_needed() {
        let said = |disposition| {
            find_in(
                &[("Content-Type", "application/sdp"), ("Content-Disposition", disposition)],
                SDP,
            )
        };
        assert_eq!(said("session"), described());
        assert_eq!(said("Session ; handling = required"), described());
        assert_eq!(said("session;handling=optional"), described());
        assert_eq!(said("early-session"), Err(BodyError::Unsupported));
        assert_eq!(said("early-session;handling=optional"), Ok(None));
        let text = |disposition| {
            find_in(
                &[("Content-Type", "text/plain"), ("Content-Disposition", disposition)],
                "hello",
            )
        };
        assert_eq!(text("render"), Err(BodyError::Unsupported));
        assert_eq!(text("render;handling=\"Optional\""), Ok(None));
        assert_eq!(text("by-reference"), Err(BodyError::Unsupported), "there is nothing beside it");
    }

    #[test]
    fn a_description_is_found_beside_other_parts_in_any_order() {
        for parts in [[SESSION, ISUP], [ISUP, SESSION]] {
            assert_eq!(find(MIXED, &mixed(&parts)), described());
            assert_eq!(find("Multipart/Mixed;BOUNDARY=\"b\"", &mixed(&parts)), described());
        }
        assert_eq!(
            find(MIXED, &mixed(&[ISUP])),
            Ok(None),
            "no description at all: the offer is ours to make"
        );
        let early = (
            "Content-Type: application/sdp\r\nContent-Disposition: early-session;handling=optional",
            "v=1",
        );
        assert_eq!(find(MIXED, &mixed(&[early, SESSION])), described());
        assert_eq!(
            find(MIXED, &mixed(&[SESSION, ("Content-Type: application/sdp", "v=1")])),
            described()
        );
    }

    #[test]
    fn what_is_required_and_unknown_is_refused() {
        for fields in [
            "Content-Type: application/isup",
            "Content-Type: application/isup\r\nContent-Disposition: signal",
            "Content-Type: application/isup\r\nContent-Disposition: signal; handling=required",
            "X-Nothing: known",
            "Content-Type: application/sdp\r\nContent-Transfer-Encoding: base64",
            "Content-Type: application/sdp\r\nContent-Encoding: gzip",
        ] {
            assert_eq!(
                find(MIXED, &mixed(&[SESSION, (fields, "?")])),
                Err(BodyError::Unsupported),
                "{fields}"
            );
        }
    }

    #[test]
    fn what_a_header_field_refers_to_is_needed_by_nobody_who_does_not_read_that_field() {
        let location = (
            "Content-Type: application/pidf+xml\r\nContent-ID: <here@example.test>",
            "<presence/>",
        );
        let body = mixed(&[SESSION, location]);
        assert_eq!(find(MIXED, &body), Err(BodyError::Unsupported));
        let fields = [("Content-Type", MIXED), ("Geolocation", "<cid:here@example.test>")];
        assert_eq!(find_in(&fields, &body), described());
        let by_reference = (
            "Content-Type: application/pidf+xml\r\nContent-Disposition: by-reference",
            "<presence/>",
        );
        assert_eq!(find(MIXED, &mixed(&[by_reference, SESSION])), described());
        let required = (
            "Content-Type: application/pidf+xml\r\nContent-Disposition: \
             by-reference;handling=required",
            "<presence/>",
        );
        assert_eq!(find(MIXED, &mixed(&[required, SESSION])), Err(BodyError::Unsupported));
    }

    #[test]
    fn multipart_bodies_are_looked_into_but_not_for_ever() {
        let nest = |levels: usize| {
            let around = |boundary: usize, fields: &str, content: &str| {
                format!("--n{boundary}\r\n{fields}\r\n\r\n{content}\r\n--n{boundary}--\r\n")
            };
            let mut body = around(1, SESSION.0, SDP);
            for level in 2..=levels {
                let inner = format!("Content-Type: multipart/mixed; boundary=n{}", level - 1);
                body = around(level, &inner, &body);
            }
            find(&format!("multipart/mixed; boundary=n{levels}"), &body)
        };
        for levels in 1..=4 {
            assert_eq!(nest(levels), described(), "{levels}");
        }
        assert_eq!(nest(5), Err(BodyError::Malformed));
        let many: Vec<(&str, &str)> = std::iter::repeat_n(ISUP, 40).chain([SESSION]).collect();
        assert_eq!(find(MIXED, &mixed(&many)), Err(BodyError::Malformed));
        let optional =
            [("Content-Type", MIXED), ("Content-Disposition", "session;handling=optional")];
        assert_eq!(find_in(&optional, &mixed(&many)), Ok(None));
    }

    #[test]
    fn of_alternatives_the_last_that_is_understood_counts() {
        let alternative = "multipart/alternative; boundary=b";
        let other = ("Content-Type: application/sdpng", "<sdpng/>");
        let first = ("Content-Type: application/sdp", "v=1");
        assert_eq!(find(alternative, &mixed(&[first, SESSION, other])), described());
        assert_eq!(find(alternative, &mixed(&[other])), Err(BodyError::Unsupported));
    }

    #[test]
    fn delimiters_are_lines_of_their_own() {
        let body = "preamble --b\r\n--bb\r\n\r\nno part\r\n--b \t\r\n\
                    Content-Type: application/sdp\r\n\r\nv=0\r\n--b--\r\nepilogue\r\n--b\r\n\r\n\
                    late";
        assert_eq!(find(MIXED, body), Ok(Some("v=0".to_owned())));
        let bare = "--b\nContent-Type:\n application/sdp\n\nv=0\n--b--";
        assert_eq!(find(MIXED, bare), Ok(Some("v=0".to_owned())));
        let open = "--b\r\nContent-Type: application/sdp\r\n\r\nv=0\r\n";
        assert_eq!(find(MIXED, open), Ok(Some("v=0\r\n".to_owned())));
    }

    #[test]
    fn what_cannot_be_taken_apart_is_malformed() {
        for kind in [
            "multipart/mixed",
            "multipart/mixed;boundary=",
            "multipart/mixed;boundary=\"",
            "multipart/mixed;boundary=c",
        ] {
            assert_eq!(find(kind, &mixed(&[SESSION])), Err(BodyError::Malformed), "{kind}");
        }
        assert_eq!(find(MIXED, "--b--"), Err(BodyError::Malformed));
    }

    proptest! {
        #[test]
        fn nothing_panics_and_what_is_found_lies_in_the_body(
            pieces in proptest::collection::vec(prop_oneof![
                Just("--b\r\n"), Just("--b--"), Just("--b"), Just("\r\n"), Just("\n"),
                Just("Content-Type: application/sdp"), Just(":"),
                Just("Content-Type: multipart/mixed; boundary=b"),
                Just("Content-Disposition: x;handling=optional"), Just(" "), Just("v=0")
            ], 0..40)
        ) {
            let body = pieces.concat();
            if let Ok(Some(found)) = find(MIXED, &body) {
                prop_assert!(body.contains(&found));
            }
        }
    }
}
