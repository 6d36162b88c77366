//! Which phone is where (RFC 3261 10.3): the bindings of each device, each with the flow it came
//! by.
//!
//! Requests to a device carry the Contact it registered and go to the host the registration came
//! from, never to one that somebody merely wrote into a Contact.

use super::flow::{ConnectionId, Flow, Protocol};
use super::message::Uri;
use super::peer::ReturnPath;
use crate::model::{DeviceId, Now, Timestamp};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// Where a device's phone can be reached.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The Contact's URI: the Request-URI of what we send.
    pub contact: Uri,
    /// Where its REGISTER came from.
    pub flow: Flow,
    /// Where the phone is called: at the same host.
    pub target: Flow,
    /// The time at which it expires.
    pub expires_at: Instant,
    /// Nobody has answered there lately: it is not called.
    silent: bool,
    call_id: Vec<u8>,
    cseq: u32,
    /// Number of the challenge that its REGISTER has answered.
    challenge: u64,
    order: u64,
}

/// A binding as it survives a restart. Only those over UDP do: a connection ends with the
/// process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptBinding {
    /// The raw Contact URI.
    pub contact: Vec<u8>,
    /// The address of ours that it came to.
    pub local: SocketAddr,
    /// Where it came from.
    pub peer: SocketAddr,
    /// Where the phone is called.
    pub target: SocketAddr,
    /// The time at which it expires.
    pub expires_at: Timestamp,
    /// The Call-ID of its REGISTER.
    pub call_id: Vec<u8>,
    /// The CSeq of its REGISTER.
    pub cseq: u32,
}

impl Binding {
    /// Nobody has answered there lately.
    pub fn is_silent(&self) -> bool {
        self.silent
    }

    /// It was made or refreshed under this Call-ID.
    pub fn is_of(&self, call_id: &[u8]) -> bool {
        self.call_id == call_id
    }
}

/// A REGISTER that has shown that it may.
#[derive(Clone, Copy, Debug)]
pub struct Genuine<'a> {
    /// Call-ID of the REGISTER.
    pub call_id: &'a [u8],
    /// CSeq of the REGISTER.
    pub cseq: u32,
    /// The number of the challenge that it answers.
    pub challenge: u64,
    /// Where it came from, and where its sender hears.
    pub path: ReturnPath,
}

/// What a REGISTER asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BindingChange {
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
    /// 423: shorter than the shortest interval.
    #[error("interval too brief")]
    TooBrief,
    /// 500: an older CSeq of the same Call-ID, under no newer challenge.
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
    /// The devices that have registered by each flow. Expired bindings are among them until they
    /// are forgotten.
    by_flow: BTreeMap<Flow, BTreeSet<DeviceId>>,
    next_order: u64,
    changed: BTreeSet<DeviceId>,
}

impl Registrar {
    /// Nobody is registered.
    pub fn new(max_contacts: usize, min_expires: Duration, max_expires: Duration) -> Self {
        Self {
            max_contacts,
            min_expires,
            max_expires,
            bindings: BTreeMap::new(),
            by_flow: BTreeMap::new(),
            next_order: 0,
            changed: BTreeSet::new(),
        }
    }

    /// Does what an authenticated REGISTER asks, all or nothing. The newest contacts win: a phone
    /// that restarts comes from a new port each time and never takes back the old ones. One that
    /// begins to count again under its old Call-ID is told from a REGISTER that was overtaken by
    /// the challenge that it answers: a newer one than before.
    pub fn register(
        &mut self,
        device: &DeviceId,
        change: BindingChange,
        genuine: Genuine<'_>,
        now: Instant,
    ) -> Result<(), RegisterError> {
        let Genuine { call_id, cseq, challenge, path } = genuine;
        let mut bound = self.bindings.get(device).cloned().unwrap_or_default();
        bound.retain(|binding| binding.expires_at > now);
        let stale = |binding: &Binding| {
            binding.call_id == call_id && binding.cseq >= cseq && binding.challenge >= challenge
        };
        match change {
            BindingChange::Fetch => return Ok(()),
            BindingChange::RemoveAll if bound.iter().any(stale) => {
                return Err(RegisterError::OutOfOrder);
            }
            BindingChange::RemoveAll => bound.clear(),
            BindingChange::Bind(contacts) => {
                if contacts.iter().filter(|(_, asked)| !asked.is_zero()).count() > self.max_contacts
                {
                    return Err(RegisterError::TooMany);
                }
                for (contact, asked) in contacts {
                    if !asked.is_zero() && asked < self.min_expires {
                        return Err(RegisterError::TooBrief);
                    }
                    if bound.iter().any(|binding| binding.contact.same(&contact) && stale(binding))
                    {
                        return Err(RegisterError::OutOfOrder);
                    }
                    bound.retain(|binding| !binding.contact.same(&contact));
                    if asked.is_zero() {
                        continue;
                    }
                    self.next_order += 1;
                    bound.push(Binding {
                        target: path.toward(&contact),
                        contact,
                        flow: path.source,
                        expires_at: now + asked.min(self.max_expires),
                        silent: false,
                        call_id: call_id.to_vec(),
                        cseq,
                        challenge,
                        order: self.next_order,
                    });
                }
            }
        }
        // Refreshed bindings move to the end: the first is the oldest.
        bound.drain(..bound.len().saturating_sub(self.max_contacts));
        self.changed.insert(device.clone());
        self.put(device, bound);
        Ok(())
    }

    /// Takes back what was kept, as far as it holds still and came to an address that is listened
    /// on. Whether the device has a phone now.
    pub fn restore(
        &mut self,
        device: &DeviceId,
        kept: Vec<KeptBinding>,
        locals: &[(Protocol, SocketAddr)],
        now: Now,
    ) -> bool {
        // What is restored differs from what is kept, or is written once too often.
        self.changed.insert(device.clone());
        let mut bound = Vec::new();
        for binding in kept {
            let left = Duration::from_millis(binding.expires_at.0.saturating_sub(now.wall.0));
            let Ok(contact) = Uri::parse(&binding.contact) else {
                continue;
            };
            let listening = locals.contains(&(Protocol::Udp, binding.local));
            if left.is_zero() || !listening || bound.len() >= self.max_contacts {
                continue;
            }
            self.next_order += 1;
            let flow = |peer| Flow {
                protocol: Protocol::Udp,
                local: binding.local,
                peer,
                connection: ConnectionId::NONE,
            };
            bound.push(Binding {
                contact,
                flow: flow(binding.peer),
                target: flow(binding.target),
                challenge: 0,
                // The clock may have been set back.
                expires_at: now.mono + left.min(self.max_expires),
                silent: false,
                call_id: binding.call_id,
                cseq: binding.cseq,
                order: self.next_order,
            });
        }
        let reachable = !bound.is_empty();
        if reachable {
            self.put(device, bound);
        }
        reachable
    }

    /// A device with bindings that have changed, and those to keep, the last made or refreshed
    /// last.
    pub fn poll_changed(&mut self, now: Now) -> Option<(DeviceId, Vec<KeptBinding>)> {
        let device = self.changed.pop_first()?;
        let mut bound: Vec<&Binding> = self.of(&device, now.mono).collect();
        bound.retain(|binding| binding.flow.protocol == Protocol::Udp);
        bound.sort_by_key(|binding| binding.order);
        let keep = |binding: &Binding| KeptBinding {
            contact: binding.contact.as_bytes().to_vec(),
            local: binding.flow.local,
            peer: binding.flow.peer,
            target: binding.target.peer,
            expires_at: (now + binding.expires_at.saturating_duration_since(now.mono)).wall,
            call_id: binding.call_id.clone(),
            cseq: binding.cseq,
        };
        let kept = bound.into_iter().map(keep).collect();
        Some((device, kept))
    }

    /// The binding that was made or refreshed last, of those that are not marked as silent.
    pub fn lookup(&self, device: &DeviceId, now: Instant) -> Option<&Binding> {
        self.lookup_of(device, |_| true, now)
    }

    /// The same, of those that fit.
    pub fn lookup_of(
        &self,
        device: &DeviceId,
        fits: impl Fn(&Binding) -> bool,
        now: Instant,
    ) -> Option<&Binding> {
        let bound = self.of(device, now).filter(|binding| !binding.silent && fits(binding));
        bound.max_by_key(|binding| binding.order)
    }

    /// Marks a binding as silent, or as answering again; true when that is news. One that is
    /// refreshed answers.
    pub fn mark(&mut self, device: &DeviceId, contact: &[u8], silent: bool) -> bool {
        let mut bound = self.bindings.get_mut(device).into_iter().flatten();
        let found = bound.find(|binding| binding.contact.as_bytes() == contact);
        found.is_some_and(|binding| std::mem::replace(&mut binding.silent, silent) != silent)
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

    /// Where the phone that has registered over this flow is called.
    pub fn target_of(&self, device: &DeviceId, flow: &Flow, now: Instant) -> Option<Flow> {
        let bound = self.of(device, now).filter(|binding| binding.flow == *flow);
        bound.max_by_key(|binding| binding.order).map(|binding| binding.target)
    }

    /// Whether the device has registered from this address, by whatever port and transport.
    pub fn is_at_address(&self, device: &DeviceId, address: IpAddr, now: Instant) -> bool {
        let address = address.to_canonical();
        self.of(device, now).any(|binding| binding.flow.peer.ip().to_canonical() == address)
    }

    /// Whether anybody has registered from this address.
    pub fn knows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.flows().any(|flow| flow.peer.ip().to_canonical() == address)
    }

    /// The devices that have registered over this flow: several, when one phone has several lines.
    pub fn devices_at(&self, flow: &Flow, now: Instant) -> impl Iterator<Item = &DeviceId> {
        let devices = self.by_flow.get(flow).into_iter().flatten();
        devices.filter(move |device| self.is_at(device, flow, now))
    }

    /// The ways by which anybody has registered.
    pub fn flows(&self) -> impl Iterator<Item = &Flow> {
        self.bindings.values().flatten().map(|binding| &binding.flow)
    }

    /// The devices that have any binding which is not marked as silent.
    pub fn registered(&self) -> impl Iterator<Item = &DeviceId> {
        let answering =
            self.bindings.iter().filter(|(_, bound)| bound.iter().any(|binding| !binding.silent));
        answering.map(|(device, _)| device)
    }

    /// Forgets what has expired; the devices that are left with nothing.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<DeviceId> {
        self.retain(|binding| binding.expires_at > now)
    }

    /// Forgets the bindings of a connection that is gone; the devices that are left with nothing.
    pub fn handle_flow_gone(&mut self, flow: &Flow) -> Vec<DeviceId> {
        self.retain(|binding| binding.flow != *flow)
    }

    /// Forgets every binding of a device; whether there was any.
    pub fn remove(&mut self, device: &DeviceId) -> bool {
        let had = self.bindings.contains_key(device);
        if had {
            self.put(device, Vec::new());
            self.changed.insert(device.clone());
        }
        had
    }

    /// When the next binding expires.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.bindings.values().flatten().map(|binding| binding.expires_at).min()
    }

    fn retain(&mut self, keep: impl Fn(&Binding) -> bool) -> Vec<DeviceId> {
        let loses = |(_, bound): &(&DeviceId, &Vec<Binding>)| !bound.iter().all(&keep);
        let losing: Vec<DeviceId> =
            self.bindings.iter().filter(loses).map(|(device, _)| device.clone()).collect();
        let mut gone = Vec::new();
        for device in losing {
            let mut bound = self.bindings.get(&device).cloned().unwrap_or_default();
            bound.retain(&keep);
            if bound.is_empty() {
                gone.push(device.clone());
            }
            self.put(&device, bound);
            self.changed.insert(device);
        }
        gone
    }

    /// The one place that writes bindings, and which device is at which flow by them.
    fn put(&mut self, device: &DeviceId, bound: Vec<Binding>) {
        for binding in self.bindings.remove(device).unwrap_or_default() {
            if let Some(devices) = self.by_flow.get_mut(&binding.flow) {
                devices.remove(device);
                if devices.is_empty() {
                    self.by_flow.remove(&binding.flow);
                }
            }
        }
        for binding in &bound {
            self.by_flow.entry(binding.flow).or_default().insert(device.clone());
        }
        if !bound.is_empty() {
            self.bindings.insert(device.clone(), bound);
        }
    }
}
