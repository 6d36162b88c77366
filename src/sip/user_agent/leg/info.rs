//! Digits by INFO (RFC 2976): `application/dtmf-relay` and `application/dtmf`.

use crate::media::rtp::event_of;
use crate::sip::message::{Refuse, SipRequest};

/// What becomes of the digits that a peer dials by INFO.
#[derive(Debug, Default)]
pub(super) struct InfoDigits {
    /// They are taken, and go nowhere.
    pub(super) swallow: bool,
}

impl InfoDigits {
    /// The digit that an INFO dials in a call that stands or not, if it dials one.
    pub(super) fn dialled(
        &self,
        info: &SipRequest,
        is_confirmed: bool,
    ) -> Result<Option<char>, Refuse> {
        if info.headers.has("Info-Package") {
            return Err(Refuse::new(469));
        }
        // A supervisor's digits are nobody's, whatever they are.
        let digit = dialled(info)?.filter(|_| !self.swallow);
        if digit.is_some() && !is_confirmed {
            return Err(Refuse::new(480));
        }
        digit.map(|digit| digit.ok_or(Refuse::new(400))).transpose()
    }
}

/// What an INFO dials: `None` when it is empty, `Some(None)` when its digit is none.
fn dialled(info: &SipRequest) -> Result<Option<Option<char>>, Refuse> {
    match info.headers.content_type().as_deref() {
        _ if info.body.is_empty() => Ok(None),
        Some("application/dtmf-relay") => Ok(Some(relayed_digit(&info.body))),
        Some("application/dtmf") => Ok(Some(plain_digit(&info.body))),
        _ => {
            // RFC 3261 21.4.13: the types we take.
            let mut refuse = Refuse::new(415);
            let taken = b"application/dtmf-relay, application/dtmf".to_vec();
            refuse.headers.push(("Accept", taken));
            Err(refuse)
        }
    }
}

/// The digit of an `application/dtmf-relay` body: `Signal=5`.
fn relayed_digit(body: &[u8]) -> Option<char> {
    let mut lines = body.split(|byte| matches!(byte, b'\r' | b'\n'));
    let value = lines.find_map(|line| {
        let mut halves = line.splitn(2, |byte| *byte == b'=').map(<[u8]>::trim_ascii);
        halves.next()?.eq_ignore_ascii_case(b"Signal").then(|| halves.next())?
    });
    plain_digit(value?)
}

/// The digit of an `application/dtmf` body: itself, or its event number (RFC 4733 3.2).
fn plain_digit(body: &[u8]) -> Option<char> {
    let digit = match body.trim_ascii() {
        b"10" => '*',
        b"11" => '#',
        [one] => char::from(one.to_ascii_uppercase()),
        _ => return None,
    };
    event_of(digit).map(|_| digit)
}
