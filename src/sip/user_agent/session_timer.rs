//! Session timers (RFC 4028): a leg whose peer has vanished does not live for ever.

use super::UserAgent;
use super::leg::{LegTimer, SessionTimer};
use crate::model::Now;
use crate::sip::leg::LegId;
use crate::sip::message::{Headers, Refuse, SipRequest, SipResponse};
use std::time::Duration;

/// A Session-Expires header.
struct SessionExpires {
    interval: Duration,
    refresher: Option<Refresher>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Refresher {
    Uac,
    Uas,
}

impl UserAgent {
    pub(super) fn first_session(&self) -> SessionTimer {
        SessionTimer {
            interval: self.config.session_expires,
            min: self.config.min_session_expires,
            we_refresh: true,
            peer_knows: false,
        }
    }

    /// 422 for an interval below ours, 400 for one that is no number.
    pub(super) fn check_session(&self, headers: &Headers) -> Result<(), Refuse> {
        let min = self.config.min_session_expires;
        match session_expires(headers) {
            Ok(Some(asked)) if asked.interval < min => {
                let mut refuse = Refuse::new(422);
                refuse.headers.push(("Min-SE", min.as_secs().to_string().into_bytes()));
                Err(refuse)
            }
            Ok(_) => Ok(()),
            Err(()) => Err(Refuse::new(400)),
        }
    }

    /// Agrees on what a request of theirs asks for.
    pub(super) fn agree(&self, before: SessionTimer, headers: &Headers) -> SessionTimer {
        let asked = session_expires(headers).ok().flatten();
        let their_min = seconds(headers.get("Min-SE").unwrap_or_default()).unwrap_or_default();
        let min = before.min.max(their_min);
        let ours = self.config.session_expires;
        let interval = asked.as_ref().map_or(ours, |asked| asked.interval.min(ours)).max(min);
        let peer_knows = headers.lists("Supported", "timer") || asked.is_some();
        let we_refresh = match asked.and_then(|asked| asked.refresher) {
            Some(Refresher::Uac) => false,
            Some(Refresher::Uas) => true,
            None => before.we_refresh || !peer_knows,
        };
        SessionTimer {
            interval,
            min,
            we_refresh,
            peer_knows,
        }
    }

    /// Takes what their 2xx says.
    pub(super) fn agreed(&self, before: SessionTimer, headers: &Headers) -> SessionTimer {
        let said = session_expires(headers).ok().flatten();
        SessionTimer {
            interval: said.as_ref().map_or(before.interval, |said| said.interval.max(before.min)),
            min: before.min,
            we_refresh: said.as_ref().is_none_or(|said| said.refresher != Some(Refresher::Uas)),
            peer_knows: said.is_some(),
        }
    }

    pub(super) fn write_session_request(session: &SessionTimer, request: &mut SipRequest) {
        let refresher = if session.we_refresh { "uac" } else { "uas" };
        // RFC 4028 7.1: the first INVITE leaves the choice open; later requests keep it.
        let value = match session.peer_knows {
            true => format!("{};refresher={refresher}", session.interval.as_secs()),
            false => session.interval.as_secs().to_string(),
        };
        request.headers.push("Session-Expires", value);
        request.headers.push("Min-SE", session.min.as_secs().to_string());
    }

    pub(super) fn write_session_response(session: &SessionTimer, response: &mut SipResponse) {
        let refresher = if session.we_refresh { "uas" } else { "uac" };
        if session.peer_knows && !session.we_refresh {
            response.headers.push("Require", "timer");
        }
        response.headers.push("Supported", "timer");
        let value = format!("{};refresher={refresher}", session.interval.as_secs());
        response.headers.push("Session-Expires", value);
    }

    /// The session begins, or has been refreshed.
    pub(super) fn restart_session(&mut self, key: LegId, now: Now) {
        let Some(leg) = self.legs.get(&key) else { return };
        let session = leg.session;
        self.timers.clear(&(key, LegTimer::Refresh));
        self.timers.clear(&(key, LegTimer::Expire));
        if session.we_refresh {
            self.timers.set((key, LegTimer::Refresh), now.mono + session.interval / 2);
        } else {
            // RFC 4028 10: BYE before the expiration by a third of it or 32 s, whichever is less.
            let margin = (session.interval / 3).min(Duration::from_secs(32));
            self.timers.set((key, LegTimer::Expire), now.mono + session.interval - margin);
        }
    }
}

/// The shortest interval a 422 asks for.
pub(super) fn min_se(headers: &Headers) -> Option<Duration> {
    seconds(headers.get("Min-SE")?)
        .ok()
        .filter(|min| *min <= Duration::from_secs(86_400))
}

fn session_expires(headers: &Headers) -> Result<Option<SessionExpires>, ()> {
    let Some(value) = headers.get("Session-Expires") else {
        return Ok(None);
    };
    let mut parts = value.split(|byte| *byte == b';');
    let interval = seconds(parts.next().unwrap_or_default())?;
    let mut refresher = None;
    for part in parts {
        let text: Vec<u8> = part
            .iter()
            .filter(|byte| !byte.is_ascii_whitespace())
            .map(u8::to_ascii_lowercase)
            .collect();
        match text.as_slice() {
            b"refresher=uac" => refresher = Some(Refresher::Uac),
            b"refresher=uas" => refresher = Some(Refresher::Uas),
            _ => {}
        }
    }
    Ok(Some(SessionExpires { interval, refresher }))
}

fn seconds(value: &[u8]) -> Result<Duration, ()> {
    let digits = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(());
    }
    let text = std::str::from_utf8(digits).map_err(|_| ())?;
    text.parse::<u32>()
        .map(|seconds| Duration::from_secs(seconds.into()))
        .map_err(|_| ())
}
