//! The phone's session descriptions: one audio line, G.711 and telephone-event.

use super::audio::Companding;
use super::srtp::CryptoLine;
use crate::media::srtp::Suite;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};

pub(super) const TELEPHONE_EVENT: u8 = 101;

/// Which way audio goes, seen from the side that says it (RFC 3264 6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SdpDirection {
    /// Audio goes both ways.
    SendRecv,
    /// Only from the side that says it.
    SendOnly,
    /// Only to the side that says it.
    RecvOnly,
    /// Audio goes neither way.
    Inactive,
}

impl SdpDirection {
    fn word(self) -> &'static str {
        match self {
            SdpDirection::SendRecv => "sendrecv",
            SdpDirection::SendOnly => "sendonly",
            SdpDirection::RecvOnly => "recvonly",
            SdpDirection::Inactive => "inactive",
        }
    }

    pub(super) fn sends(self) -> bool {
        matches!(self, SdpDirection::SendRecv | SdpDirection::SendOnly)
    }

    pub(super) fn receives(self) -> bool {
        matches!(self, SdpDirection::SendRecv | SdpDirection::RecvOnly)
    }

    /// The direction in an answer to this offer, by a side that wants `wanted`.
    pub(super) fn answer(self, wanted: SdpDirection) -> SdpDirection {
        match (wanted.sends() && self.receives(), wanted.receives() && self.sends()) {
            (true, true) => SdpDirection::SendRecv,
            (true, false) => SdpDirection::SendOnly,
            (false, true) => SdpDirection::RecvOnly,
            (false, false) => SdpDirection::Inactive,
        }
    }
}

/// What the other side described.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) address: SocketAddr,
    pub(super) laws: Vec<Companding>,
    pub(super) direction: SdpDirection,
    /// Its line is RTP/SAVP.
    pub(super) is_secure: bool,
    /// Its keys of suites that this phone takes, best first.
    pub(super) crypto: Vec<CryptoLine>,
}

/// Reads the first audio line; `None` when there is none that this phone can use. Sound is in clear
/// without `suites`, and has a key of one of them otherwise.
pub(super) fn read(body: &[u8], suites: &[Suite]) -> Option<Described> {
    let text = std::str::from_utf8(body).ok()?;
    let (mut ip, mut port, mut laws, mut direction) =
        (None::<IpAddr>, 0_u16, Vec::new(), SdpDirection::SendRecv);
    let (mut is_secure, mut crypto) = (false, Vec::new());
    let mut in_audio = false;
    for line in text.lines() {
        let Some((kind, value)) = line.trim_end().split_once('=') else {
            continue;
        };
        match kind {
            "m" if in_audio => break,
            "m" => {
                let mut words = value.split_ascii_whitespace();
                in_audio = words.next() == Some("audio");
                if !in_audio {
                    continue;
                }
                port = words.next()?.parse().ok()?;
                is_secure = words.next()?.starts_with("RTP/SAVP");
                laws = words
                    .filter_map(|word| Companding::of_payload_type(word.parse().ok()?))
                    .collect();
            }
            "c" if in_audio || ip.is_none() => {
                ip = value.split_ascii_whitespace().nth(2)?.parse().ok()
            }
            "a" => match value {
                "sendrecv" => direction = SdpDirection::SendRecv,
                "sendonly" => direction = SdpDirection::SendOnly,
                "recvonly" => direction = SdpDirection::RecvOnly,
                "inactive" => direction = SdpDirection::Inactive,
                value => {
                    let line = value.strip_prefix("crypto:").filter(|_| in_audio);
                    crypto.extend(line.and_then(CryptoLine::read));
                }
            },
            _ => {}
        }
    }
    let ip = ip?;
    if ip.is_unspecified() && direction == SdpDirection::SendRecv {
        direction = SdpDirection::SendOnly;
    }
    crypto.retain(|line| suites.contains(&line.suite()));
    let is_usable = if suites.is_empty() { !is_secure } else { !crypto.is_empty() };
    (port != 0 && !laws.is_empty() && is_usable).then_some(Described {
        address: SocketAddr::new(ip, port),
        laws,
        direction,
        is_secure,
        crypto,
    })
}

/// Writes a description with its laws and keys, best first.
pub(super) fn write(described: &Described, session: u64, version: u64) -> Vec<u8> {
    let Described { address, laws, direction, is_secure, crypto } = described;
    let (ip, port) = (address.ip(), address.port());
    let profile = if *is_secure { "RTP/SAVP" } else { "RTP/AVP" };
    let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
    let mut text = format!(
        "v=0\r\no=phone {session} {version} IN {family} {ip}\r\ns=phone\r\nc=IN {family} {ip}\r\n\
         t=0 0\r\nm=audio {port} {profile}"
    );
    for law in laws {
        let _ = write!(text, " {}", law.payload_type());
    }
    let _ = write!(text, " {TELEPHONE_EVENT}\r\n");
    for law in laws {
        let _ = write!(text, "a=rtpmap:{} {}/8000\r\n", law.payload_type(), law.name());
    }
    for line in crypto {
        let _ = write!(text, "a=crypto:{}\r\n", line.write());
    }
    let _ = write!(
        text,
        "a=rtpmap:{TELEPHONE_EVENT} telephone-event/8000\r\na=fmtp:{TELEPHONE_EVENT} 0-15\r\n\
         a=ptime:20\r\na={}\r\n",
        direction.word()
    );
    text.into_bytes()
}
