//! The phone's session descriptions: one audio line, G.711 and telephone-event.

use super::audio::Companding;
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
}

/// Reads the first audio line; `None` when there is none that this phone can use.
pub(super) fn read(body: &[u8]) -> Option<Described> {
    let text = std::str::from_utf8(body).ok()?;
    let (mut ip, mut port, mut laws, mut direction) =
        (None::<IpAddr>, 0_u16, Vec::new(), SdpDirection::SendRecv);
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
                laws = words
                    .skip(1)
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
                _ => {}
            },
            _ => {}
        }
    }
    let ip = ip?;
    if ip.is_unspecified() && direction == SdpDirection::SendRecv {
        direction = SdpDirection::SendOnly;
    }
    (port != 0 && !laws.is_empty()).then_some(Described {
        address: SocketAddr::new(ip, port),
        laws,
        direction,
    })
}

/// Writes a description of `address` with these laws, best first.
pub(super) fn write(
    address: SocketAddr,
    session: u64,
    version: u64,
    laws: &[Companding],
    direction: SdpDirection,
) -> Vec<u8> {
    let (ip, port) = (address.ip(), address.port());
    let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
    let mut text = format!(
        "v=0\r\no=phone {session} {version} IN {family} {ip}\r\ns=phone\r\nc=IN {family} {ip}\r\n\
         t=0 0\r\nm=audio {port} RTP/AVP"
    );
    for law in laws {
        let _ = write!(text, " {}", law.payload_type());
    }
    let _ = write!(text, " {TELEPHONE_EVENT}\r\n");
    for law in laws {
        let _ = write!(text, "a=rtpmap:{} {}/8000\r\n", law.payload_type(), law.name());
    }
    let _ = write!(
        text,
        "a=rtpmap:{TELEPHONE_EVENT} telephone-event/8000\r\na=fmtp:{TELEPHONE_EVENT} 0-15\r\n\
         a=ptime:20\r\na={}\r\n",
        direction.word()
    );
    text.into_bytes()
}
