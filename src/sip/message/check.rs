//! What can be said of a request without any state (RFC 3261 8.2).

use super::body::session_description;
use super::{HeaderError, Method, Scheme, SipRequest, SipResponse};

/// What the user agent can do, for `validate`.
#[derive(Clone, Copy, Debug)]
pub struct Abilities<'a> {
    /// The methods, for 405 and 501 and their Allow.
    pub methods: &'a [Method],
    /// The option tags, for Require.
    pub extensions: &'a [&'a str],
    /// The media types that a session description may come in, in small letters, for 415 and 406
    /// and their Accept: all or some of [`DESCRIBED`](super::DESCRIBED).
    pub bodies: &'a [&'a str],
}

/// A refusal: a status and the header fields that belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refuse {
    /// 400 to 699.
    pub status: u16,
    /// Allow, Accept, Unsupported, Warning.
    pub headers: Vec<(&'static str, Vec<u8>)>,
    /// Why, for the operator's log; `None`: the status says it.
    pub reason: Option<RefuseReason>,
}

/// Why a request is refused, where the status leaves it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefuseReason {
    /// It asks for credentials (401): no refusal, and nothing for a log.
    #[error("credentials are asked for")]
    Challenge,
    /// Its sender is no trunk and no device, and is asked for credentials: a trunk with a source
    /// that is not configured is such a sender.
    #[error("no account and no trunk: asked for credentials")]
    UnknownSender,
    /// The password or the user name of a digest is wrong.
    #[error("wrong user name or password")]
    WrongCredentials,
    /// Too many wrong passwords came from its sender.
    #[error("too many wrong passwords from there")]
    Throttled,
    /// More requests are in progress than may be.
    #[error("too much is going on")]
    Overload,
    /// Its Request-URI names a host that is not ours.
    #[error("the Request-URI names another host")]
    OtherHost,
    /// Its Request-URI names no number.
    #[error("no number")]
    NoNumber,
    /// An INVITE that has expired as it comes (RFC 3261 13.3.1).
    #[error("its Expires is zero")]
    Expired,
    /// The same request has come by another way (RFC 3261 8.2.2.2).
    #[error("the same request by another way")]
    Merged,
    /// A REGISTER for another domain.
    #[error("registers at another host")]
    RegistersElsewhere,
    /// It asks for TLS, or its sender is to use it, and it has come in clear.
    #[error("it came in clear, and is to come over TLS")]
    NeedsTls,
    /// A REFER to a host that is not ours.
    #[error("refers to another host")]
    RefersElsewhere,
    /// A REFER to no number.
    #[error("refers to no number")]
    RefersToNoNumber,
    /// A REFER with Replaces that names no call of its sender.
    #[error("Replaces names no call of this peer")]
    ReplacesNothing,
}

impl Refuse {
    /// A refusal without header fields of its own.
    pub fn new(status: u16) -> Refuse {
        Refuse { status, headers: Vec::new(), reason: None }
    }

    /// The same, with a reason for the operator's log that says more than the status.
    pub fn because(mut self, reason: RefuseReason) -> Refuse {
        self.reason = Some(reason);
        self
    }

    fn with(status: u16, name: &'static str, value: impl Into<Vec<u8>>) -> Refuse {
        Refuse { headers: vec![(name, value.into())], ..Refuse::new(status) }
    }

    /// The response, without a tag on To; `None` to an ACK, which nobody answers.
    pub fn response(&self, request: &SipRequest) -> Option<SipResponse> {
        if request.method == Method::Ack {
            return None;
        }
        let mut response = SipResponse::to(request, self.status);
        for (name, value) in &self.headers {
            response.headers.push(name, value);
        }
        Some(response)
    }
}

/// The stateless checks of a UAS in the order of RFC 3261 8.2: syntax and mandatory fields 400,
/// method 405 or 501, scheme 416, Require 420, body 415, Accept 406. An absent Max-Forwards is
/// forgiven (RFC 2543); zero is for the one that would forward.
pub fn validate(request: &SipRequest, abilities: &Abilities<'_>) -> Result<(), Refuse> {
    check_mandatory(request).map_err(|_| Refuse::new(400))?;
    if !abilities.methods.contains(&request.method) {
        let allow: Vec<&[u8]> = abilities.methods.iter().map(Method::as_bytes).collect();
        let status = if matches!(request.method, Method::Other(_)) { 501 } else { 405 };
        return Err(Refuse::with(status, "Allow", allow.join(b", ".as_slice())));
    }
    if request.uri.scheme() == Scheme::Other {
        return Err(Refuse::new(416));
    }
    if !matches!(request.method, Method::Cancel | Method::Ack) {
        check_require(request, abilities)?;
        check_body(request, abilities)?;
    }
    Ok(())
}

fn check_mandatory(request: &SipRequest) -> Result<(), HeaderError> {
    let headers = &request.headers;
    headers.via_top()?;
    headers.from()?;
    headers.to()?;
    headers.call_id()?;
    if headers.cseq()?.1 != request.method {
        return Err(HeaderError::Malformed("CSeq"));
    }
    for result in [headers.max_forwards().map(drop), headers.content_length().map(drop)] {
        match result {
            Ok(()) | Err(HeaderError::Missing(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn check_require(request: &SipRequest, abilities: &Abilities<'_>) -> Result<(), Refuse> {
    let known = |tag: &[u8]| {
        abilities.extensions.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(tag))
    };
    let unknown: Vec<&[u8]> =
        request.headers.require().into_iter().filter(|tag| !known(tag)).collect();
    if unknown.is_empty() {
        return Ok(());
    }
    Err(Refuse::with(420, "Unsupported", unknown.join(b", ".as_slice())))
}

fn check_body(request: &SipRequest, abilities: &Abilities<'_>) -> Result<(), Refuse> {
    if !matches!(request.method, Method::Invite | Method::Update | Method::Prack) {
        return Ok(());
    }
    let accept = || abilities.bodies.join(", ");
    let encoded = request
        .headers
        .get("Content-Encoding")
        .is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity"));
    if encoded && !request.body.is_empty() {
        let mut refuse = Refuse::with(415, "Accept", accept());
        refuse.headers.push(("Accept-Encoding", b"identity".to_vec()));
        return Err(refuse);
    }
    let kind = request.headers.content_type();
    if kind.is_none() && !request.body.is_empty() {
        return Err(Refuse::with(415, "Accept", accept()));
    }
    session_description(&request.headers, &request.body).map_err(|error| match error.status() {
        415 => Refuse::with(415, "Accept", accept()),
        status => Refuse::new(status),
    })?;
    let wanted = request.headers.get_all("Accept");
    let fits = |range: &&[u8]| {
        let range = range.split(|byte| *byte == b';').next().unwrap_or_default();
        let range = String::from_utf8_lossy(super::scan::trim(range)).to_ascii_lowercase();
        // What we send is one of the first type alone.
        matches!(range.as_str(), "*/*" | "application/*")
            || abilities.bodies.first() == Some(&range.as_str())
    };
    if request.method == Method::Invite && request.headers.has("Accept") && !wanted.iter().any(fits)
    {
        return Err(Refuse::with(
            406,
            "Warning",
            "399 undertone \"No acceptable session description\"",
        ));
    }
    Ok(())
}
