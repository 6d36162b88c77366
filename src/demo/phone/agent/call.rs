//! The phone's one call: its dialog, and what is described in it.

use crate::demo::phone::PhoneConfig;
use crate::demo::phone::audio::Companding;
use crate::demo::phone::sdp::{self, Described, SdpDirection};
use crate::demo::phone::srtp::CallKeys;
use crate::demo::phone::wire::{self, branch_of, dialog_fields, token};
use crate::media::srtp::Keys;
use rsip::{Header, Method, Request, Response};
use std::net::SocketAddr;
use std::time::Instant;

#[derive(Debug)]
pub(super) enum PhoneState {
    /// Our INVITE is out. `cancelled`: the user has hung up already.
    Calling {
        cancelled: bool,
    },
    /// Theirs rings here.
    Ringing {
        invite: Box<Request>,
        from: SocketAddr,
        answer_at: Option<Instant>,
    },
    Established,
}

/// A call, from INVITE to BYE.
#[derive(Debug)]
pub(super) struct PhoneCall {
    pub(super) state: PhoneState,
    pub(super) call_id: String,
    local: String,
    remote: String,
    pub(super) target: String,
    routes: Vec<String>,
    pub(super) peer: SocketAddr,
    cseq: u32,
    /// Of the INVITE we acknowledged last, and that ACK.
    acknowledged: Option<(u32, Vec<u8>)>,
    direction: SdpDirection,
    described: Option<Described>,
    keys: CallKeys,
    session: u64,
    version: u64,
}

impl PhoneCall {
    /// One that an INVITE of ours begins, from the address `own` to the address `uri`.
    pub(super) fn outgoing(own: &str, uri: String, peer: SocketAddr) -> Self {
        let call_id = token();
        Self {
            state: PhoneState::Calling { cancelled: false },
            call_id,
            local: format!("<{own}>;tag={}", token()),
            remote: format!("<{uri}>"),
            target: uri,
            routes: Vec::new(),
            peer,
            cseq: 0,
            acknowledged: None,
            direction: SdpDirection::SendRecv,
            described: None,
            keys: CallKeys::default(),
            session: rand::random::<u32>().into(),
            version: 1,
        }
    }

    /// One that their INVITE begins.
    pub(super) fn incoming(invite: Request, from: SocketAddr, answer_at: Option<Instant>) -> Self {
        let text = |name| {
            wire::value(&invite.headers, name).map(|value| value.into_owned()).unwrap_or_default()
        };
        let routes = wire::values(&invite.headers, "Record-Route").into_iter();
        Self {
            call_id: text("Call-ID"),
            local: format!("{};tag={}", text("To"), token()),
            remote: text("From"),
            target: wire::address(&text("Contact")).into(),
            routes: routes.map(|route| route.into_owned()).collect(),
            peer: from,
            cseq: 0,
            acknowledged: None,
            direction: SdpDirection::SendRecv,
            described: None,
            keys: CallKeys::default(),
            session: rand::random::<u32>().into(),
            version: 1,
            state: PhoneState::Ringing { invite: Box::new(invite), from, answer_at },
        }
    }

    pub(super) fn is_established(&self) -> bool {
        matches!(self.state, PhoneState::Established)
    }

    /// Their INVITE, while it rings here.
    pub(super) fn ringing(&self) -> Option<(&Request, SocketAddr)> {
        match &self.state {
            PhoneState::Ringing { invite, from, .. } => Some((invite, *from)),
            PhoneState::Calling { .. } | PhoneState::Established => None,
        }
    }

    /// When it is answered without being asked.
    pub(super) fn answer_at(&self) -> Option<Instant> {
        match &self.state {
            PhoneState::Ringing { answer_at, .. } => *answer_at,
            PhoneState::Calling { .. } | PhoneState::Established => None,
        }
    }

    /// A CANCEL is for their INVITE.
    pub(super) fn is_cancelled_by(&self, cancel: &Request) -> bool {
        self.ringing().is_some_and(|(invite, _)| branch_of(invite) == branch_of(cancel))
    }

    // ---- the dialog

    /// Our tag.
    pub(super) fn tag(&self) -> Option<&str> {
        wire::tag(&self.local)
    }

    /// The value of a Replaces header, as the receiver of the INVITE sees it (RFC 3891 3).
    pub(super) fn replaces(&self) -> Option<String> {
        let (theirs, ours) = (wire::tag(&self.remote)?, wire::tag(&self.local)?);
        Some(format!("{};to-tag={theirs};from-tag={ours}", self.call_id))
    }

    /// A request is within this dialog.
    pub(super) fn has(&self, request: &Request) -> bool {
        let text = |name| wire::value(&request.headers, name).unwrap_or_default();
        let same_id = text("Call-ID") == self.call_id.as_str();
        let (to, from) = (text("To"), text("From"));
        same_id
            && wire::tag(&to).is_some()
            && wire::tag(&to) == wire::tag(&self.local)
            && wire::tag(&from) == wire::tag(&self.remote)
    }

    /// The fields of our next request within the dialog.
    pub(super) fn next_fields(&mut self, method: Method) -> Vec<Header> {
        self.cseq += 1;
        let name = method.to_string();
        dialog_fields(&self.local, &self.remote, &self.call_id, self.cseq, &name, &self.routes)
    }

    /// A request of ours within it has gone out with this number.
    pub(super) fn count_to(&mut self, cseq: u32) {
        self.cseq = self.cseq.max(cseq);
    }

    /// The fields of the ACK of a 2xx.
    pub(super) fn ack_fields(&self, response: &Response, cseq: u32) -> Vec<Header> {
        let to = wire::value(&response.headers, "To").unwrap_or_default();
        dialog_fields(&self.local, &to, &self.call_id, cseq, "ACK", &self.routes)
    }

    /// That ACK has gone out.
    pub(super) fn acknowledge(&mut self, cseq: u32, ack: Vec<u8>) {
        self.acknowledged = Some((cseq, ack));
    }

    /// The ACK that was lost, when its 2xx has come again.
    pub(super) fn repeated_ack(&self, status: u16, cseq: u32, method: &str) -> Option<&[u8]> {
        let (acknowledged, ack) = self.acknowledged.as_ref()?;
        let is_its = (200..300).contains(&status) && *acknowledged == cseq && method == "INVITE";
        is_its.then_some(ack)
    }

    /// A 2xx to our INVITE, with what it describes. Whether the user has hung up meanwhile; `None`
    /// when nothing waits for it.
    pub(super) fn establish(
        &mut self,
        response: &Response,
        described: Option<Described>,
    ) -> Option<bool> {
        let PhoneState::Calling { cancelled } = self.state else {
            return None;
        };
        if let Some(to) = wire::value(&response.headers, "To") {
            self.remote = to.into_owned();
        }
        self.move_target(wire::value(&response.headers, "Contact").as_deref());
        let routes = wire::values(&response.headers, "Record-Route").into_iter().rev();
        self.routes = routes.map(|route| route.into_owned()).collect();
        self.state = PhoneState::Established;
        self.described = None;
        self.agree(SdpDirection::SendRecv, described);
        Some(cancelled)
    }

    /// A Contact of theirs says where they are reached from now on.
    pub(super) fn move_target(&mut self, contact: Option<&str>) {
        if let Some(contact) = contact {
            self.target = wire::address(contact).into();
        }
    }

    // ---- offer and answer

    /// Another description of ours goes out.
    pub(super) fn describe_anew(&mut self) {
        self.version += 1;
    }

    /// Our offer, or our answer to theirs: what we take at an address.
    pub(super) fn description(
        &mut self,
        direction: SdpDirection,
        offered: Option<&Described>,
        config: &PhoneConfig,
        address: SocketAddr,
    ) -> Vec<u8> {
        let taken = |law: &Companding| config.laws.contains(law);
        let laws: Vec<_> = match offered {
            Some(offered) => offered.laws.iter().copied().filter(taken).take(1).collect(),
            None => config.laws.clone(),
        };
        let crypto = match (&config.srtp, offered) {
            (None, _) => Vec::new(),
            (Some(srtp), Some(offered)) => self.keys.answer(srtp, offered).into_iter().collect(),
            (Some(srtp), None) => self.keys.offer(srtp),
        };
        let is_secure = offered.map_or(config.srtp.is_some(), |offered| offered.is_secure);
        let ours = Described { address, laws, direction, is_secure, crypto };
        sdp::write(&ours, self.session, self.version)
    }

    /// What was agreed: their answer to our offer, or their offer, which is answered.
    pub(super) fn agree(&mut self, direction: SdpDirection, described: Option<Described>) {
        self.direction = direction;
        if let Some(described) = described {
            self.describe(described);
        }
    }

    /// The answer to an offer of ours has come in an ACK.
    pub(super) fn describe(&mut self, described: Described) {
        self.keys.accept(&described);
        self.described = Some(described);
    }

    /// What protects our sound and theirs.
    pub(super) fn keys(&self) -> Option<&Keys> {
        self.keys.agreed()
    }

    /// Where our sound goes, and by which of these laws.
    pub(super) fn destination(&self, laws: &[Companding]) -> Option<(SocketAddr, Companding)> {
        let described = self.described.as_ref()?;
        let law = described.laws.iter().copied().find(|law| laws.contains(law))?;
        let is_heard = self.direction.sends() && described.direction.receives();
        is_heard.then_some((described.address, law))
    }
}
