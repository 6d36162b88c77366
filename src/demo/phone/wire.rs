//! `rsip` messages as this phone needs them.

use rsip::headers::{self, UntypedHeader};
use rsip::{Header, Headers, Method, Request, Response, SipMessage, StatusCode, Uri, Version};

/// Reads a datagram; `None` for keep-alives and what `rsip` cannot read.
pub(super) fn read(bytes: &[u8]) -> Option<SipMessage> {
    if bytes.iter().all(|byte| byte.is_ascii_whitespace() || *byte == 0) {
        return None;
    }
    SipMessage::try_from(bytes).ok()
}

/// The first value of a header field, whatever `rsip` calls it.
pub(super) fn value<'a>(headers: &'a Headers, name: &str) -> Option<std::borrow::Cow<'a, str>> {
    values(headers, name).into_iter().next()
}

/// All values of a header field.
pub(super) fn values<'a>(headers: &'a Headers, name: &str) -> Vec<std::borrow::Cow<'a, str>> {
    headers
        .iter()
        .filter_map(|header| {
            if let Header::Other(other, value) = header {
                return other.eq_ignore_ascii_case(name).then(|| value.trim().into());
            }
            let text = header.to_string();
            let (found, value) = text.split_once(':')?;
            found.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned().into())
        })
        .collect()
}

/// The URI between angle brackets, or the whole before any parameter.
pub(super) fn address(value: &str) -> &str {
    match value.split_once('<') {
        Some((_, rest)) => rest.split('>').next().unwrap_or(rest),
        None => value.split([';', ',']).next().unwrap_or(value).trim(),
    }
}

/// The tag parameter of From or To.
pub(super) fn tag(value: &str) -> Option<&str> {
    parameter(value.rsplit_once('>').map_or(value, |(_, parameters)| parameters), "tag")
}

/// A `;name=value` parameter.
pub(super) fn parameter<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.split(';').skip(1).find_map(|parameter| {
        let (found, value) = parameter.split_once('=')?;
        found.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

/// Number and method of CSeq.
pub(super) fn cseq(headers: &Headers) -> Option<(u32, String)> {
    let text = value(headers, "CSeq")?;
    let (number, method) = text.split_once(' ')?;
    Some((number.parse().ok()?, method.trim().into()))
}

/// Does the INVITE ask to be answered without anybody touching the phone? (RFC 5373 and what phones
/// understand beside it.)
pub(super) fn asks_auto_answer(headers: &Headers) -> bool {
    let has = |name, word: &str| {
        values(headers, name).iter().any(|value| value.to_ascii_lowercase().contains(word))
    };
    has("Answer-Mode", "auto")
        || has("Call-Info", "answer-after=0")
        || has("Alert-Info", "alert-autoanswer")
        || has("Alert-Info", "auto answer")
}

/// The fields that a request has within a dialog, and outside of one.
pub(super) fn dialog_fields(
    local: &str,
    remote: &str,
    call_id: &str,
    cseq: u32,
    method: &str,
    routes: &[String],
) -> Vec<Header> {
    let routes = routes.iter().map(|route| Header::Route(headers::Route::new(route.clone())));
    [
        Header::MaxForwards(headers::MaxForwards::new("70")),
        Header::From(headers::From::new(local)),
        Header::To(headers::To::new(remote)),
        Header::CallId(headers::CallId::new(call_id)),
        Header::CSeq(headers::CSeq::new(format!("{cseq} {method}"))),
    ]
    .into_iter()
    .chain(routes)
    .collect()
}

/// The branch of a request's topmost Via.
pub(super) fn branch_of(request: &Request) -> String {
    let via = value(&request.headers, "Via").unwrap_or_default();
    parameter(&via, "branch").unwrap_or_default().to_owned()
}

/// A branch that no other request has (RFC 3261 8.1.1.7).
pub(super) fn new_branch() -> String {
    format!("z9hG4bK{}", token())
}

/// A tag, Call-ID or nonce that nothing else has.
pub(super) fn token() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// A request from its parts; Content-Length is added.
pub(super) fn request(
    method: Method,
    uri: &str,
    fields: Vec<Header>,
    body: Option<Vec<u8>>,
) -> Option<Request> {
    let mut headers = Headers::from(fields);
    let body = finish(&mut headers, body);
    Some(Request { method, uri: Uri::try_from(uri).ok()?, version: Version::V2, headers, body })
}

/// A response that repeats what RFC 3261 8.2.6.2 says, with our tag in To.
pub(super) fn response(
    request: &Request,
    status: u16,
    tag: &str,
    mut more: Vec<Header>,
    body: Option<Vec<u8>>,
) -> Response {
    let mut fields: Vec<Header> = Vec::new();
    for header in request.headers.iter() {
        match header {
            Header::Via(_) | Header::From(_) | Header::CallId(_) | Header::CSeq(_) => {
                fields.push(header.clone())
            }
            Header::RecordRoute(_) if status < 300 => fields.push(header.clone()),
            Header::To(to) if status > 100 && self::tag(to.value()).is_none() => {
                fields.push(Header::To(headers::To::new(format!("{};tag={tag}", to.value()))));
            }
            Header::To(_) => fields.push(header.clone()),
            _ => {}
        }
    }
    fields.append(&mut more);
    let mut headers = Headers::from(fields);
    let body = finish(&mut headers, body);
    Response { status_code: StatusCode::from(status), version: Version::V2, headers, body }
}

fn finish(headers: &mut Headers, body: Option<Vec<u8>>) -> Vec<u8> {
    let body = body.unwrap_or_default();
    headers.push(Header::UserAgent(headers::UserAgent::new("undertone-phone")));
    if !body.is_empty() {
        headers.push(Header::ContentType(headers::ContentType::new("application/sdp")));
    }
    headers.push(Header::ContentLength(headers::ContentLength::new(body.len().to_string())));
    body
}

/// A line for people: `INVITE sip:5001@…` or `200 OK (INVITE)`.
pub(super) fn summary(message: &SipMessage) -> String {
    match message {
        SipMessage::Request(request) => format!("{} {}", request.method, request.uri),
        SipMessage::Response(response) => {
            let method = cseq(&response.headers).map(|(_, method)| method).unwrap_or_default();
            format!("{} ({method})", response.status_code)
        }
    }
}
