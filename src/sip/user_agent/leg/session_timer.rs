//! Session timers (RFC 4028): a leg ends when its peer has vanished.

use super::LegTimer;
use crate::model::Now;
use crate::sip::config::SipConfig;
use crate::sip::leg::LegId;
use crate::sip::message::{Headers, Refuse, SipRequest, SipResponse};
use crate::sip::timers::Timers;
use std::time::Duration;

/// RFC 4028 as agreed.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionTimer {
    interval: Duration,
    /// The shortest interval that both sides take.
    min: Duration,
    we_refresh: bool,
    peer_knows: bool,
}

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

/// A value that should be seconds is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a number of seconds")]
struct MalformedSeconds;

impl SessionTimer {
    /// What we ask for.
    pub(super) fn new(config: &SipConfig) -> Self {
        Self {
            interval: config.session_expires,
            min: config.min_session_expires,
            we_refresh: true,
            peer_knows: false,
        }
    }

    /// What becomes of it by a request of theirs.
    pub(super) fn agree(self, headers: &Headers, config: &SipConfig) -> Self {
        let asked = session_expires(headers).ok().flatten();
        let their_min = seconds(headers.get("Min-SE").unwrap_or_default()).unwrap_or_default();
        let min = self.min.max(their_min);
        let ours = config.session_expires;
        let interval = asked.as_ref().map_or(ours, |asked| asked.interval.min(ours)).max(min);
        let peer_knows = headers.lists("Supported", "timer") || asked.is_some();
        let we_refresh = match asked.and_then(|asked| asked.refresher) {
            Some(Refresher::Uac) => false,
            Some(Refresher::Uas) => true,
            None => self.we_refresh || !peer_knows,
        };
        Self { interval, min, we_refresh, peer_knows }
    }

    /// What becomes of it by their 2xx.
    pub(super) fn agreed(self, headers: &Headers) -> Self {
        let said = session_expires(headers).ok().flatten();
        Self {
            interval: said.as_ref().map_or(self.interval, |said| said.interval.max(self.min)),
            min: self.min,
            we_refresh: said.as_ref().is_none_or(|said| said.refresher != Some(Refresher::Uas)),
            peer_knows: said.is_some(),
        }
    }

    /// Asks for no less than this from now on: they have refused less with 422.
    pub(super) fn raise(&mut self, min: Duration) {
        self.min = self.min.max(min);
        self.interval = self.interval.max(min);
    }

    pub(super) fn write_request(&self, request: &mut SipRequest) {
        let refresher = if self.we_refresh { "uac" } else { "uas" };
        // RFC 4028 7.1: the first INVITE leaves the choice open; later requests keep it.
        let value = match self.peer_knows {
            true => format!("{};refresher={refresher}", self.interval.as_secs()),
            false => self.interval.as_secs().to_string(),
        };
        request.headers.push("Session-Expires", value);
        request.headers.push("Min-SE", self.min.as_secs().to_string());
    }

    pub(super) fn write_response(&self, response: &mut SipResponse) {
        let refresher = if self.we_refresh { "uas" } else { "uac" };
        if self.peer_knows && !self.we_refresh {
            response.headers.push("Require", "timer");
        }
        response.headers.push("Supported", "timer");
        let value = format!("{};refresher={refresher}", self.interval.as_secs());
        response.headers.push("Session-Expires", value);
    }

    /// The session begins, or has been refreshed.
    pub(super) fn restart(&self, leg: LegId, timers: &mut Timers<(LegId, LegTimer)>, now: Now) {
        timers.clear(&(leg, LegTimer::Refresh));
        timers.clear(&(leg, LegTimer::Expire));
        if self.we_refresh {
            timers.set((leg, LegTimer::Refresh), now.mono + self.interval / 2);
        } else {
            // RFC 4028 10: BYE before the expiration by a third of it or 32 s, whichever is less.
            let margin = (self.interval / 3).min(Duration::from_secs(32));
            timers.set((leg, LegTimer::Expire), now.mono + self.interval - margin);
        }
    }
}

/// 422 for an interval below ours, 400 for one that is no number.
pub(in crate::sip::user_agent) fn check_session(
    headers: &Headers,
    config: &SipConfig,
) -> Result<(), Refuse> {
    let min = config.min_session_expires;
    match session_expires(headers) {
        Ok(Some(asked)) if asked.interval < min => {
            let mut refuse = Refuse::new(422);
            refuse.headers.push(("Min-SE", min.as_secs().to_string().into_bytes()));
            Err(refuse)
        }
        Ok(_) => Ok(()),
        Err(MalformedSeconds) => Err(Refuse::new(400)),
    }
}

/// The shortest interval a 422 asks for.
pub(super) fn min_se(headers: &Headers) -> Option<Duration> {
    seconds(headers.get("Min-SE")?).ok().filter(|min| *min <= Duration::from_secs(86_400))
}

fn session_expires(headers: &Headers) -> Result<Option<SessionExpires>, MalformedSeconds> {
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

fn seconds(value: &[u8]) -> Result<Duration, MalformedSeconds> {
    let digits = value.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(MalformedSeconds);
    }
    let text = std::str::from_utf8(digits).map_err(|_| MalformedSeconds)?;
    text.parse::<u32>()
        .map(|seconds| Duration::from_secs(seconds.into()))
        .map_err(|_| MalformedSeconds)
}
