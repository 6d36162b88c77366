//! What finds a transaction: the marks of a message that its repetitions share.

use crate::sip::peer::{Peer, ReturnPath};

/// What makes two requests one (RFC 3261 17.2.3), with the peer: nobody but the sender of an INVITE
/// may cancel it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServerKey {
    peer: Peer,
    /// Length and bytes of the branch, the same of sent-by, then the method. RFC 2543: a branch of
    /// no length, length and bytes of the other marks, then the method.
    marks: Box<[u8]>,
    method_at: u32,
}

impl ServerKey {
    /// The key of a request with a branch that begins with the magic cookie. `sent_by` is in lower
    /// case; ACK counts as INVITE.
    pub fn new(peer: Peer, branch: &[u8], sent_by: &[u8], method: &[u8]) -> Self {
        let mut marks = Vec::with_capacity(branch.len() + sent_by.len() + method.len() + 8);
        for part in [branch, sent_by] {
            marks.extend_from_slice(&(part.len() as u32).to_be_bytes());
            marks.extend_from_slice(part);
        }
        Self::of(peer, marks, method)
    }

    /// The key of an RFC 2543 request: Request-URI, From tag, Call-ID, CSeq number and top Via, in
    /// this order.
    pub fn old(peer: Peer, fields: &[&[u8]], method: &[u8]) -> Self {
        let mut marks = vec![0; 4];
        for field in fields {
            marks.extend_from_slice(&(field.len() as u32).to_be_bytes());
            marks.extend_from_slice(field);
        }
        Self::of(peer, marks, method)
    }

    fn of(peer: Peer, mut marks: Vec<u8>, method: &[u8]) -> Self {
        let method_at = marks.len() as u32;
        marks.extend_from_slice(method);
        Self { peer, marks: marks.into_boxed_slice(), method_at }
    }

    /// The same marks with another method: the INVITE that a CANCEL means.
    pub fn with_method(&self, wanted: &[u8]) -> ServerKey {
        Self::of(self.peer, self.marks[..self.method_at as usize].to_vec(), wanted)
    }

    /// The peer that sent the request.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    pub(super) fn method(&self) -> &[u8] {
        &self.marks[self.method_at as usize..]
    }

    /// How many bytes it has.
    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    /// The least key of the same peer and branch; `None` of RFC 2543's.
    pub(super) fn first_of_branch(&self) -> Option<ServerKey> {
        let (length, rest) = self.marks.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        let is_named = length > 0 && length <= rest.len();
        is_named.then(|| ServerKey { marks: self.marks[..4 + length].into(), ..*self })
    }

    /// It has the peer and the branch of that key.
    pub(super) fn is_of_branch(&self, first: &ServerKey) -> bool {
        self.peer == first.peer && self.marks.starts_with(&first.marks)
    }
}

impl std::fmt::Debug for ServerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ServerKey({:?}, {})", self.peer, self.marks.escape_ascii())
    }
}

/// A request as its transaction sees it.
#[derive(Clone, Debug)]
pub struct ReceivedVia {
    /// What it has in common with its repetitions.
    pub key: ServerKey,
    /// Where it came from, and where its responses go.
    pub path: ReturnPath,
}

/// What finds a client transaction (RFC 3261 17.1.3).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ClientKey {
    /// The branch of our Via.
    pub branch: Vec<u8>,
    /// Method of the CSeq.
    pub method: Vec<u8>,
}
