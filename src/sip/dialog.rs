//! A dialog (RFC 3261 12), either side of it.
//!
//! In-dialog requests of ours have the peer's Contact as their Request-URI and go over the dialog's
//! flow, which the user agent chooses among the places where that peer is known to be. In-dialog
//! requests of the peer match Call-ID and both tags; whether they come from the peer is for the
//! user agent to say.

use super::flow::Flow;
use super::message::{HeaderError, Method, NameAddr, Scheme, SipRequest, SipResponse, Uri};

/// A dialog, early or confirmed.
#[derive(Clone, Debug)]
pub struct Dialog {
    /// The Call-ID as bytes.
    pub call_id: Vec<u8>,
    /// The tag that is ours.
    pub local_tag: String,
    /// Theirs; `None` until the first response with a tag.
    pub remote_tag: Option<Vec<u8>>,
    /// Our From, with the tag.
    pub local: Vec<u8>,
    /// Our To, with the tag once it is known.
    pub remote: Vec<u8>,
    /// CSeq of our latest request.
    pub local_cseq: u32,
    /// CSeq of their latest request.
    pub remote_cseq: Option<u32>,
    /// The peer's Contact.
    pub target: Uri,
    /// Route values, first hop first.
    pub routes: Vec<NameAddr>,
    /// The way to the peer.
    pub flow: Flow,
    /// The peer's Allow lists UPDATE.
    pub allows_update: bool,
    /// What is said in it goes over TLS, or not at all (RFC 3261 12.1.1).
    pub is_secure: bool,
    /// Our Contact in it is a sips URI (RFC 3261 8.1.1.8, 12.1.1).
    pub is_sips: bool,
}

/// Why an in-dialog request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("CSeq is lower than the last one")]
pub struct OutOfOrder;

impl Dialog {
    /// The dialog that an INVITE with a Contact asks for, as its UAS (RFC 3261 12.1.1).
    pub fn incoming(
        invite: &SipRequest,
        local_tag: String,
        flow: Flow,
    ) -> Result<Dialog, HeaderError> {
        let headers = &invite.headers;
        let from = headers.from()?;
        let to = headers.to()?;
        let target =
            headers.contacts()?.into_iter().next().ok_or(HeaderError::Missing("Contact"))?.uri;
        let routes = headers.record_routes()?;
        let next = routes.first().map_or(&target, |route| &route.uri);
        let is_sips = flow.protocol.is_secure()
            && (invite.uri.scheme() == Scheme::Sips || next.scheme() == Scheme::Sips);
        Ok(Dialog {
            is_secure: is_sips,
            is_sips,
            call_id: headers.call_id()?.to_vec(),
            // RFC 2543 phones send no tag: the empty one stands for it (RFC 3261 12.2.2).
            remote_tag: Some(from.tag().unwrap_or_default().to_vec()),
            local: to.with_tag(&local_tag).to_bytes(),
            remote: headers.single("From")?.to_vec(),
            local_tag,
            local_cseq: 0,
            remote_cseq: Some(headers.cseq()?.0),
            target,
            routes,
            flow,
            allows_update: headers.lists("Allow", "UPDATE"),
        })
    }

    /// Something in it is to go to a sips URI by a flow that others can read.
    pub fn leaks(&self) -> bool {
        !self.flow.protocol.is_secure() && self.next_uri().scheme() == Scheme::Sips
    }

    /// Where a request of ours goes next by RFC 3261 12.2.1.1.
    pub fn next_uri(&self) -> &Uri {
        self.routes.first().map_or(&self.target, |route| &route.uri)
    }

    /// A flow of this protocol may carry it.
    pub fn may_use(&self, flow: &Flow) -> bool {
        !self.is_secure || flow.protocol.is_secure()
    }

    /// The dialog that our INVITE asks for. `local` has our tag.
    pub fn outgoing(
        call_id: String,
        local: NameAddr,
        local_tag: String,
        remote: NameAddr,
        target: Uri,
        flow: Flow,
    ) -> Dialog {
        Dialog {
            call_id: call_id.into_bytes(),
            local: local.with_tag(&local_tag).to_bytes(),
            local_tag,
            remote_tag: None,
            remote: remote.to_bytes(),
            local_cseq: 0,
            remote_cseq: None,
            is_secure: target.scheme() == Scheme::Sips,
            is_sips: target.scheme() == Scheme::Sips,
            target,
            routes: Vec::new(),
            flow,
            allows_update: false,
        }
    }

    /// A response with a To tag creates or confirms the dialog (RFC 3261 12.1.2).
    pub fn handle_response(&mut self, response: &SipResponse) {
        let headers = &response.headers;
        let Ok(to) = headers.to() else { return };
        let Some(tag) = to.tag() else { return };
        self.remote_tag = Some(tag.to_vec());
        if let Some(raw) = headers.get("To") {
            self.remote = raw.to_vec();
        }
        if let Ok(mut routes) = headers.record_routes() {
            routes.reverse();
            let is_readable = !self.flow.protocol.is_secure();
            let is_sips = |route: &NameAddr| route.uri.scheme() == Scheme::Sips;
            if !(is_readable && routes.first().is_some_and(is_sips)) {
                self.routes = routes;
            }
        }
        self.refresh(&response.headers.contacts().unwrap_or_default());
        if headers.has("Allow") {
            self.allows_update = headers.lists("Allow", "UPDATE");
        }
    }

    /// Target refresh: a re-INVITE or UPDATE, or its 2xx, brings a new Contact (RFC 3261 12.2). A
    /// sips URI is none for a dialog that others can read.
    pub fn refresh(&mut self, contacts: &[NameAddr]) {
        if let [contact] = contacts
            && (contact.uri.scheme() != Scheme::Sips || self.flow.protocol.is_secure())
        {
            self.target = contact.uri.clone();
        }
    }

    /// A request with this Call-ID, To tag and From tag is of this dialog.
    pub fn matches(&self, call_id: &[u8], to_tag: &[u8], from_tag: &[u8]) -> bool {
        self.call_id == call_id
            && self.local_tag.as_bytes() == to_tag
            && self.remote_tag.as_deref() == Some(from_tag)
    }

    /// Takes note of their CSeq: jumps are fine, going back is not (RFC 3261 12.2.2).
    pub fn accept_cseq(&mut self, cseq: u32) -> Result<(), OutOfOrder> {
        if self.remote_cseq.is_some_and(|last| cseq <= last) {
            return Err(OutOfOrder);
        }
        self.remote_cseq = Some(cseq);
        Ok(())
    }

    /// A new request in the dialog, without Via and Contact (RFC 3261 12.2.1.1).
    pub fn request(&mut self, method: Method) -> SipRequest {
        self.local_cseq += 1;
        self.request_with_cseq(method, self.local_cseq)
    }

    /// The ACK of a 2xx: it has the CSeq of its INVITE.
    pub fn ack(&self, cseq: u32) -> SipRequest {
        self.request_with_cseq(Method::Ack, cseq)
    }

    fn request_with_cseq(&self, method: Method, cseq: u32) -> SipRequest {
        let mut routes = self.routes.clone();
        let mut uri = self.target.clone();
        if let Some(first) = routes.first()
            && !first.uri.is_loose()
        {
            // A strict router of RFC 2543 (RFC 3261 12.2.1.1): it becomes the Request-URI, the
            // target the last route.
            uri = std::mem::replace(&mut routes[0].uri, uri);
            routes.rotate_left(1);
        }
        let cseq = format!("{cseq} {method}");
        let mut request = SipRequest::new(method, uri)
            .with("Max-Forwards", "70")
            .with("From", &self.local)
            .with("To", &self.remote)
            .with("Call-ID", &self.call_id)
            .with("CSeq", cseq);
        for route in routes {
            request.headers.push("Route", route.to_bytes());
        }
        request
    }
}
