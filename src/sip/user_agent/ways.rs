//! Where peers are, and by which way each leg is reached.
//!
//! A request belongs to a leg by Call-ID and tags, when it comes from where the leg's peer is: any source of its trunk, or any port and
//! either transport of an address that its phone has been heard at. Requests of ours go where the peer hears them:
//!
//! | peer | way |
//! |---|---|
//! | a phone that has registered | where its newest registration is called |
//! | a phone that calls from elsewhere | where it says at the host it speaks from; behind a NAT where it speaks from |
//! | a trunk | its first Route, else its Contact, when that is an address of this trunk's; else where it speaks from |

use super::UserAgent;
use super::leg::{ClientUse, Exchange, Leg, LegPhase, LegTimer, Way};
use crate::media::is_private;
use crate::model::{DeviceId, Now};
use crate::sip::config::{Nat, Trunk};
use crate::sip::dialog::Dialog;
use crate::sip::flow::{ConnectionId, Flow, Protocol};
use crate::sip::leg::{LegId, LegSource};
use crate::sip::message::{Headers, Host, Method, Uri, Via};
use crate::sip::peer::{ReturnPath, contact_at, speaks_from, transport_of};
use std::net::IpAddr;
use std::time::Instant;

impl UserAgent {
    /// Where a request came from and where its responses go. `headers` are the request's, or those of the response to it.
    pub(super) fn return_path(&self, source: Flow, via: Option<&Via>, headers: &Headers) -> ReturnPath {
        // Only a datagram whose Via says another port, and does not ask for rport, has two ways to choose from.
        let elsewhere = |via: &Via| via.rport().is_none() && via.port.unwrap_or(5060) != source.peer.port();
        let keeps = source.protocol == Protocol::Udp && via.is_some_and(|via| elsewhere(via) && self.is_behind_nat(&source, via, headers));
        ReturnPath::new(source, via, keeps)
    }

    /// The sender is configured as behind a NAT, or shows it: its Via names a private address that is not the one that it comes from. Whether
    /// it is who it says matters to nobody: its own source is always a safe place to answer.
    fn is_behind_nat(&self, source: &Flow, via: &Via, headers: &Headers) -> bool {
        let from = headers.from().ok().and_then(|from| self.number_of(&from.uri));
        let account = from.and_then(|number| self.account_of_number(number.as_str()));
        let trunk = || self.config.trunks.iter().find(|trunk| speaks_from(trunk, source));
        match account
            .map(|account| account.nat)
            .or_else(|| trunk().map(|trunk| trunk.nat))
            .unwrap_or_default()
        {
            Nat::Always => true,
            Nat::Never => false,
            Nat::Auto => match via.sent_host() {
                Host::Address(named) => {
                    let (named, seen) = (named.to_canonical(), source.peer.ip().to_canonical());
                    is_private(named) && named != seen && !seen.is_loopback()
                }
                Host::Name(_) => false,
            },
        }
    }

    /// A request that names a leg may come from there.
    pub(super) fn is_of_peer(&self, leg: &Leg, source: &Flow, now: Instant) -> bool {
        let address = source.peer.ip().to_canonical();
        match &leg.peer {
            LegSource::Account(device) => {
                leg.dialog.flow.peer.ip().to_canonical() == address || self.registrar.is_at_address(device, address, now)
            }
            LegSource::Trunk(name) => leg.dialog.flow == *source || self.config.trunk(name).is_some_and(|trunk| speaks_from(trunk, source)),
        }
    }

    /// A response to a request of ours may come from there (RFC 3261 17.1.3, 18.1.2: from anywhere; here: from the same peer).
    pub(super) fn may_answer(&self, client: &ClientUse, sent_to: &Flow, source: &Flow, now: Instant) -> bool {
        self.peers.same(sent_to, source)
            || client.leg().and_then(|leg| self.legs.get(&leg)).is_some_and(|leg| match &leg.peer {
                LegSource::Account(device) => self.registrar.is_at_address(device, source.peer.ip(), now),
                LegSource::Trunk(name) => self.config.trunk(name).is_some_and(|trunk| speaks_from(trunk, source)),
            })
    }

    /// The way to the caller of a new dialog, which is put on it.
    pub(super) fn first_way(&self, source: &LegSource, path: &ReturnPath, dialog: &mut Dialog, now: Now) -> Way {
        match source {
            LegSource::Account(device) => {
                let target = self.registered_way(device, path, &dialog.target, now);
                dialog.flow = target.unwrap_or_else(|| path.toward(&dialog.target));
                if target.is_some() { Way::Registered } else { Way::Own }
            }
            LegSource::Trunk(name) => {
                dialog.flow = path.toward(&dialog.target);
                dialog.flow = self.next_hop(name, dialog.flow, next_uri(dialog));
                Way::Own
            }
        }
    }

    /// Where a phone is called that has registered by this very way, or with this Contact from the same address.
    fn registered_way(&self, device: &DeviceId, path: &ReturnPath, contact: &Uri, now: Now) -> Option<Flow> {
        let by_flow = self.registrar.target_of(device, &path.source, now.mono);
        by_flow.or_else(|| {
            let address = path.source.peer.ip().to_canonical();
            let mut bound = self.registrar.of(device, now.mono);
            let found = bound.find(|binding| binding.flow.peer.ip().to_canonical() == address && binding.contact.same(contact));
            found.map(|binding| binding.target)
        })
    }

    /// The peer of a leg has sent a request within it: its way is where that came from, unless there is a better one.
    pub(super) fn come_from(&mut self, key: LegId, path: &ReturnPath, headers: &Headers, now: Now) {
        let Some(leg) = self.legs.get(&key) else { return };
        let refreshes = headers
            .cseq()
            .is_ok_and(|(_, method)| matches!(method, Method::Invite | Method::Update));
        let contacts = if refreshes {
            headers.contacts().unwrap_or_default()
        } else {
            Vec::new()
        };
        let contact = match contacts.as_slice() {
            [contact] => &contact.uri,
            _ => &leg.dialog.target,
        };
        let before = leg.dialog.flow;
        let other_transport = before.protocol != path.source.protocol;
        let (flow, way) = match &leg.peer {
            LegSource::Account(device) => {
                let is_called_there = || self.registrar.of(device, now.mono).any(|binding| binding.target == before);
                match self.registrar.target_of(device, &path.source, now.mono) {
                    Some(target) => (target, Way::Registered),
                    // A request too long for a datagram comes by TCP (RFC 3261 18.1.1): the phone has not moved.
                    None if other_transport && leg.way != Way::Lost && (is_called_there() || is_for(contact, &before)) => (before, leg.way),
                    None => {
                        let flow = path.toward(contact);
                        let moved = flow != before || leg.way == Way::Lost;
                        (flow, if moved { Way::Registered } else { leg.way })
                    }
                }
            }
            LegSource::Trunk(name) => {
                let uri = leg.dialog.routes.first().map_or(contact, |route| &route.uri);
                let from = match other_transport && is_for(uri, &before) {
                    true => before,
                    false => path.toward(contact),
                };
                (self.next_hop(name, from, uri), leg.way)
            }
        };
        if let Some(leg) = self.legs.get_mut(&key) {
            leg.dialog.flow = flow;
            leg.way = way;
        }
    }

    /// A response may have told where the trunk wants to hear of a dialog.
    pub(super) fn aim(&mut self, key: LegId) {
        let Some(leg) = self.legs.get(&key) else { return };
        let LegSource::Trunk(name) = &leg.peer else { return };
        let flow = self.next_hop(name, leg.dialog.flow, next_uri(&leg.dialog));
        if let Some(leg) = self.legs.get_mut(&key) {
            leg.dialog.flow = flow;
        }
    }

    /// A trunk's way, or one to the address that it wants, if that is its own.
    fn next_hop(&self, trunk: &str, way: Flow, uri: &Uri) -> Flow {
        let Some(trunk) = self
            .config
            .trunk(trunk)
            .filter(|trunk| trunk.nat != Nat::Always && way.protocol == Protocol::Udp)
        else {
            return way;
        };
        let wanted = contact_at(uri, way.protocol).filter(|wanted| wanted.is_ipv4() == way.peer.ip().to_canonical().is_ipv4());
        let wanted = wanted.map(|wanted| Flow {
            // A socket of both families writes an IPv4 address as an IPv6 one.
            peer: match (way.peer.ip(), wanted.ip()) {
                (IpAddr::V6(_), IpAddr::V4(address)) => (address.to_ipv6_mapped(), wanted.port()).into(),
                _ => wanted,
            },
            ..way
        });
        let is_at = |flow: &Flow| speaks_from(trunk, flow) || trunk.address.is_some_and(|address| address == flow.peer);
        wanted.filter(is_at).unwrap_or(way)
    }

    /// A connection carries a registration or a call, or is a trunk's: it is not closed for being idle.
    pub fn needs(&self, flow: &Flow) -> bool {
        let named = Flow {
            connection: ConnectionId::NONE,
            ..*flow
        };
        let carries = |used: &Flow| *used == *flow || *used == named;
        self.config.trunks.iter().any(|trunk| trunk.owns(flow.protocol, flow.peer))
            || self.registrar.flows().any(carries)
            || self.legs.values().any(|leg| carries(&leg.dialog.flow))
    }

    /// A trunk is at this address, or somebody has registered from there.
    pub fn knows(&self, address: IpAddr) -> bool {
        let from_there = |trunk: &Trunk| {
            let address = address.to_canonical();
            trunk.sources.iter().any(|source| source.address == address)
        };
        self.config.trunks.iter().any(from_there) || self.registrar.knows(address)
    }

    /// Whoever is at the other end of a connection has shown that it belongs here.
    pub(super) fn know(&mut self, flow: Flow) {
        if flow.connection != ConnectionId::NONE {
            self.outputs.push_back(super::Output::Known(flow));
        }
    }

    /// Trunks can be reached by another connection; phones by another registration, or when they come back.
    pub(super) fn leave_flow(&mut self, gone: &Flow, now: Now) {
        let leaving = self.legs.iter().filter(|(_, leg)| leg.dialog.flow == *gone);
        for key in leaving.map(|(key, _)| *key).collect::<Vec<_>>() {
            let Some(leg) = self.legs.get_mut(&key) else { continue };
            match &leg.peer {
                LegSource::Trunk(name) => {
                    let trunk = self.config.trunks.iter().find(|trunk| trunk.name == *name);
                    let trunk = trunk.filter(|trunk| trunk.protocol == gone.protocol);
                    if let Some(peer) = trunk.and_then(|trunk| trunk.address) {
                        leg.dialog.flow = Flow {
                            peer,
                            connection: ConnectionId::NONE,
                            ..*gone
                        };
                    }
                }
                LegSource::Account(device) => match self.registrar.lookup(device, now.mono).map(|binding| binding.target) {
                    Some(flow) => self.follow(key, flow, now),
                    None => leg.way = Way::Lost,
                },
            }
        }
    }

    /// A phone has registered by `flow`: its legs leave the ways that it has left.
    pub(super) fn follow_phone(&mut self, device: &DeviceId, flow: Flow, call_id: &[u8], now: Now) {
        let has_left = |leg: &Leg| match leg.way {
            Way::Lost => true,
            // Not by this registration; but where the device has no other phone, it is this one.
            Way::Own => {
                let mut others = self.registrar.of(device, now.mono).filter(|binding| !binding.is_of(call_id));
                let of_here = leg.dialog.flow.peer.ip().to_canonical() == flow.peer.ip().to_canonical();
                leg.dialog.flow != flow && of_here && others.next().is_none()
            }
            // A phone registers under one Call-ID as long as it runs (RFC 3261 10.2): its other ways are older ones.
            Way::Registered => {
                let mut others = self.registrar.of(device, now.mono).filter(|binding| !binding.is_of(call_id));
                leg.dialog.flow != flow && !others.any(|binding| binding.target == leg.dialog.flow)
            }
        };
        let of_phone = |leg: &Leg| matches!(&leg.peer, LegSource::Account(peer) if peer == device);
        let moving = self.legs.iter().filter(|(_, leg)| of_phone(leg) && has_left(leg));
        for key in moving.map(|(key, _)| *key).collect::<Vec<_>>() {
            self.follow(key, flow, now);
        }
    }

    /// A leg's phone is reached by another way from now on: what has waited for it is said.
    fn follow(&mut self, key: LegId, flow: Flow, now: Now) {
        let Some(leg) = self.legs.get_mut(&key) else { return };
        leg.dialog.flow = flow;
        leg.way = Way::Registered;
        // What is still to be answered is answered there, too.
        let pending = match (&leg.state, &leg.exchange) {
            (LegPhase::Incoming(incoming), _) => Some(incoming.transaction),
            (_, Exchange::Theirs { transaction, .. }) => Some(*transaction),
            _ => None,
        };
        if let Some(transaction) = pending {
            self.transactions.redirect(transaction, flow, None);
        }
        let waits_for_ack = leg.unacknowledged.as_mut().map(|waiting| waiting.flow = flow).is_some();
        let parting = match leg.state {
            LegPhase::ByePending(reason) if !waits_for_ack => Some(reason),
            _ => None,
        };
        let located = leg.located.is_some();
        self.timers.clear(&(key, LegTimer::Lost));
        if located {
            self.locate(key);
        }
        match parting {
            Some(reason) => self.send_bye(key, reason, now),
            None => self.send_queued(key, now),
        }
    }

    /// Something is to be said to a phone that can not be reached: for so long as any request waits for its answer, it may come back.
    pub(super) fn wait_for_phone(&mut self, key: LegId, now: Now) {
        if !self.timers.is_set(&(key, LegTimer::Lost)) {
            self.timers.set((key, LegTimer::Lost), now.mono + self.config.timing.give_up());
        }
    }
}

/// Where a request of ours goes next by RFC 3261 12.2.1.1.
fn next_uri(dialog: &Dialog) -> &Uri {
    dialog.routes.first().map_or(&dialog.target, |route| &route.uri)
}

/// The URI asks for the transport of this way.
fn is_for(uri: &Uri, way: &Flow) -> bool {
    transport_of(uri) == Some(way.protocol)
}
