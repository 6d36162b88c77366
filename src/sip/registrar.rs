//! Which phone is where (RFC 3261 10.3): the bindings of each device, each with the flow it came by.
//!
//! Requests to a device carry the Contact it registered and go over the flow the registration came by, never to an address
//! that somebody merely wrote into a Contact.

use super::flow::Flow;
use super::message::Uri;
use crate::words::DeviceId;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Where a device's phone can be reached.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The Contact's URI: the Request-URI of what we send.
    pub contact: Uri,
    /// The way there.
    pub flow: Flow,
    /// Until when.
    pub expires_at: Instant,
    call_id: Vec<u8>,
    cseq: u32,
    order: u64,
}

/// What a REGISTER asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// No Contact: only tell.
    Fetch,
    /// `Contact: *` with `Expires: 0`.
    RemoveAll,
    /// Contacts with the seconds asked for; zero removes.
    Bind(Vec<(Uri, Duration)>),
}

/// Why a REGISTER changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// 423.
    #[error("interval too brief")]
    TooBrief,
    /// 500: an older CSeq of the same Call-ID.
    #[error("out of order")]
    OutOfOrder,
    /// 403: more contacts in one request than a device may have.
    #[error("too many contacts")]
    TooMany,
}

/// The bindings of all devices.
#[derive(Debug)]
pub struct Registrar {
    max_contacts: usize,
    min_expires: Duration,
    max_expires: Duration,
    bindings: BTreeMap<DeviceId, Vec<Binding>>,
    next_order: u64,
}

impl Registrar {
    /// Nobody is registered.
    pub fn new(max_contacts: usize, min_expires: Duration, max_expires: Duration) -> Self {
        Self {
            max_contacts,
            min_expires,
            max_expires,
            bindings: BTreeMap::new(),
            next_order: 0,
        }
    }

    /// Does what an authenticated REGISTER asks, all or nothing. The newest contacts win: a phone that restarts comes from a new port each
    /// time and never takes back the old ones.
    pub fn register(
        &mut self,
        device: &DeviceId,
        change: Change,
        call_id: &[u8],
        cseq: u32,
        flow: Flow,
        now: Instant,
    ) -> Result<(), RegisterError> {
        let mut bound = self.bindings.get(device).cloned().unwrap_or_default();
        bound.retain(|binding| binding.expires_at > now);
        let stale = |binding: &Binding| binding.call_id == call_id && binding.cseq >= cseq;
        match change {
            Change::Fetch => return Ok(()),
            Change::RemoveAll if bound.iter().any(stale) => return Err(RegisterError::OutOfOrder),
            Change::RemoveAll => bound.clear(),
            Change::Bind(contacts) => {
                if contacts.iter().filter(|(_, asked)| !asked.is_zero()).count() > self.max_contacts {
                    return Err(RegisterError::TooMany);
                }
                for (contact, asked) in contacts {
                    if !asked.is_zero() && asked < self.min_expires {
                        return Err(RegisterError::TooBrief);
                    }
                    if bound.iter().any(|binding| binding.contact.same(&contact) && stale(binding)) {
                        return Err(RegisterError::OutOfOrder);
                    }
                    bound.retain(|binding| !binding.contact.same(&contact));
                    if asked.is_zero() {
                        continue;
                    }
                    self.next_order += 1;
                    bound.push(Binding {
                        contact,
                        flow,
                        expires_at: now + asked.min(self.max_expires),
                        call_id: call_id.to_vec(),
                        cseq,
                        order: self.next_order,
                    });
                }
            }
        }
        // Refreshed bindings move to the end: the first is the oldest.
        bound.drain(..bound.len().saturating_sub(self.max_contacts));
        if bound.is_empty() {
            self.bindings.remove(device);
        } else {
            self.bindings.insert(device.clone(), bound);
        }
        Ok(())
    }

    /// The binding that was made or refreshed last.
    pub fn lookup(&self, device: &DeviceId, now: Instant) -> Option<&Binding> {
        self.of(device, now).max_by_key(|binding| binding.order)
    }

    /// All bindings of a device.
    pub fn of(&self, device: &DeviceId, now: Instant) -> impl Iterator<Item = &Binding> {
        let bound = self.bindings.get(device).map(Vec::as_slice).unwrap_or_default();
        bound.iter().filter(move |binding| binding.expires_at > now)
    }

    /// Whether the device has registered over this flow.
    pub fn is_at(&self, device: &DeviceId, flow: &Flow, now: Instant) -> bool {
        self.of(device, now).any(|binding| binding.flow == *flow)
    }

    /// The devices that have any binding.
    pub fn registered(&self) -> impl Iterator<Item = &DeviceId> {
        self.bindings.keys()
    }

    /// Forgets what has expired; the devices that are left with nothing.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<DeviceId> {
        self.retain(|binding| binding.expires_at > now)
    }

    /// Forgets the bindings of a connection that is gone; the devices that are left with nothing.
    pub fn handle_flow_gone(&mut self, flow: &Flow) -> Vec<DeviceId> {
        self.retain(|binding| binding.flow != *flow)
    }

    /// When the next binding expires.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.bindings.values().flatten().map(|binding| binding.expires_at).min()
    }

    fn retain(&mut self, keep: impl Fn(&Binding) -> bool) -> Vec<DeviceId> {
        let mut gone = Vec::new();
        self.bindings.retain(|device, bound| {
            bound.retain(&keep);
            if bound.is_empty() {
                gone.push(device.clone());
            }
            !bound.is_empty()
        });
        gone
    }
}
