//! Offer and answer, as far as the switchboard looks at them.

use crate::media::{Codec, LegMedia};
use std::net::SocketAddr;

/// Which way media may go on a leg, as we see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flow {
    /// From us to the peer.
    pub(super) send: bool,
    /// From the peer to us.
    pub(super) receive: bool,
}

impl Flow {
    pub(super) const BOTH: Flow = Flow { send: true, receive: true };

    fn and(self, other: Flow) -> Flow {
        Flow {
            send: self.send && other.send,
            receive: self.receive && other.receive,
        }
    }

    fn attribute(self) -> &'static str {
        match (self.send, self.receive) {
            (true, true) => "sendrecv",
            (true, false) => "sendonly",
            (false, true) => "recvonly",
            (false, false) => "inactive",
        }
    }
}

/// What a peer described and we can take part in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Remote {
    /// Never empty, the peer's best first.
    pub(super) codecs: Vec<Codec>,
    /// The payload type of telephone-event.
    pub(super) digits: Option<u8>,
    /// What the peer lets flow, as we see it.
    pub(super) flow: Flow,
    address: SocketAddr,
}

/// Our own side of a leg's session.
#[derive(Debug)]
pub(super) struct Local {
    address: SocketAddr,
    id: u64,
    version: u64,
    said: Option<Vec<u8>>,
}

impl Remote {
    /// Reads a description; the error is the status that refuses it.
    pub(super) fn parse(body: &[u8], ours: &[Codec]) -> Result<Self, u16> {
        let text = std::str::from_utf8(body).map_err(|_| 488_u16)?;
        let mut ip = None;
        let mut port = None;
        let mut codecs = Vec::new();
        let mut digits = None;
        let mut flow = Flow::BOTH;
        for line in text.lines() {
            if let Some(c) = line.strip_prefix("c=IN IP4 ") {
                ip = c.trim().parse().ok();
            } else if let Some(m) = line.strip_prefix("m=audio ") {
                let mut words = m.split_whitespace();
                port = words.next().and_then(|port| port.parse::<u16>().ok());
                for pt in words.skip(1) {
                    match pt {
                        "0" => codecs.push(Codec::Pcmu),
                        "8" => codecs.push(Codec::Pcma),
                        _ => digits = pt.parse().ok(),
                    }
                }
            } else if let Some(a) = line.strip_prefix("a=") {
                flow = match a {
                    "sendrecv" => Flow::BOTH,
                    "sendonly" => Flow {
                        send: false,
                        receive: true,
                    },
                    "recvonly" => Flow {
                        send: true,
                        receive: false,
                    },
                    "inactive" => Flow {
                        send: false,
                        receive: false,
                    },
                    _ => flow,
                };
            }
        }
        codecs.retain(|codec| ours.contains(codec));
        match (ip, port) {
            (Some(ip), Some(port)) if !codecs.is_empty() => Ok(Self {
                codecs,
                digits,
                flow,
                address: SocketAddr::new(ip, port),
            }),
            _ => Err(488),
        }
    }

    /// The wish, if the peer knows it; else its own best.
    pub(super) fn pick(&self, wish: Option<Codec>) -> Codec {
        wish.filter(|codec| self.codecs.contains(codec)).unwrap_or(self.codecs[0])
    }

    /// What the engine has to know.
    pub(super) fn media(&self, codec: Codec, ours: Flow, nat: bool) -> LegMedia {
        let flow = ours.and(self.flow);
        LegMedia {
            remote: Some(self.address),
            remote_rtcp: None,
            codec,
            payload_type: payload_type(codec),
            dtmf_pt: self.digits,
            send: flow.send,
            receive: flow.receive,
            nat,
        }
    }
}

impl Local {
    pub(super) fn new(address: SocketAddr, id: u64) -> Self {
        Self {
            address,
            // RFC 4566 5.2: digits; kept in 31 bits, which every peer can read.
            id: id & 0x7fff_ffff,
            version: 1,
            said: None,
        }
    }

    pub(super) fn offer(&mut self, codecs: &[Codec], digits: Option<u8>, flow: Flow) -> Vec<u8> {
        self.say(codecs, digits.or(Some(101)), flow)
    }

    pub(super) fn answer(&mut self, offer: &Remote, codec: Codec, ours: Flow) -> Vec<u8> {
        self.say(&[codec], offer.digits, ours.and(offer.flow))
    }

    fn say(&mut self, codecs: &[Codec], digits: Option<u8>, flow: Flow) -> Vec<u8> {
        let said = self.write(codecs, digits, flow);
        if self.said.as_ref().is_some_and(|before| *before != said) {
            self.version += 1;
        }
        let said = self.write(codecs, digits, flow);
        self.said = Some(said.clone());
        said
    }

    fn write(&self, codecs: &[Codec], digits: Option<u8>, flow: Flow) -> Vec<u8> {
        let (ip, port) = (self.address.ip(), self.address.port());
        let mut types: Vec<String> = codecs.iter().map(|codec| payload_type(*codec).to_string()).collect();
        types.extend(digits.map(|digits| digits.to_string()));
        let mut sdp = format!(
            "v=0\r\no=- {} {} IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n",
            self.id, self.version
        );
        sdp += &format!("m=audio {port} RTP/AVP {}\r\n", types.join(" "));
        if let Some(digits) = digits {
            sdp += &format!("a=rtpmap:{digits} telephone-event/8000\r\n");
        }
        sdp += &format!("a={}\r\n", flow.attribute());
        sdp.into_bytes()
    }
}

fn payload_type(codec: Codec) -> u8 {
    match codec {
        Codec::Pcmu => 0,
        Codec::Pcma => 8,
    }
}

pub(super) fn rtp_name(codec: Codec) -> &'static str {
    match codec {
        Codec::Pcmu => "PCMU",
        Codec::Pcma => "PCMA",
    }
}
