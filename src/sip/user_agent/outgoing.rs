//! Where an INVITE of ours goes, and the leg that it begins.

use super::UserAgent;
use super::context::Context;
use super::leg::{InviteContent, Leg, RequestRoute};
use crate::model::{DeviceId, Now, Number};
use crate::sip::config::Trunk;
use crate::sip::flow::{ConnectionId, Flow, Protocol};
use crate::sip::leg::{Destination, LegCommand, LegEvent, LegSource};
use crate::sip::message::{NameAddr, Uri};
use crate::sip::registrar::Binding;
use std::net::SocketAddr;

/// Why there is no leg to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Unroutable {
    #[error("the device has no registered phone")]
    NotRegistered,
    #[error("the trunk cannot be reached")]
    NoTrunk,
    #[error("the number fits into no URI")]
    BadNumber,
    #[error("there is no way there that nobody can read")]
    NotSecure,
    #[error("there are too many legs")]
    TooManyLegs,
}

impl Unroutable {
    fn status(self) -> u16 {
        match self {
            // RFC 5630 5.3
            Self::NotRegistered | Self::NotSecure => 480,
            Self::NoTrunk | Self::TooManyLegs => 503,
            Self::BadNumber => 404,
        }
    }
}

impl UserAgent {
    /// The B2BUA wants a new leg.
    pub(super) fn invite(&mut self, command: LegCommand, now: Now) {
        let LegCommand::Invite {
            leg: id,
            to,
            from,
            offer,
            auto_answer,
            swallow_digits,
            timeout,
            max_forwards,
            passed,
            user_data,
            is_secure,
        } = command
        else {
            return;
        };
        let has_room = !self.legs.has(id) && self.legs.len() < self.ctx.domain.config.limits.legs;
        let begun = route(&to, is_secure, &self.ctx, now).and_then(|route| {
            let style =
                self.ctx.domain.account_of(&route.source).map(|account| account.auto_answer);
            let content = InviteContent {
                from,
                offer,
                auto_answer: style.filter(|_| auto_answer),
                max_forwards,
                passed,
                user_data,
            };
            if !has_room {
                return Err(Unroutable::TooManyLegs);
            }
            Leg::invite(id, route, content, &mut self.ctx, now).map_err(|_| Unroutable::BadNumber)
        });
        match begun {
            Ok(mut leg) => {
                leg.expect_answer(timeout, swallow_digits, &mut self.ctx, now);
                self.legs.insert(leg);
            }
            Err(error) => self.ctx.event(LegEvent::Refused { leg: id, status: error.status() }),
        }
    }
}

fn route(
    to: &Destination,
    is_secure: bool,
    ctx: &Context,
    now: Now,
) -> Result<RequestRoute, Unroutable> {
    match to {
        Destination::Device(device) => route_to_device(device, is_secure, ctx, now),
        Destination::Trunk { name, number } => {
            let trunk = ctx.domain.config.trunk(name).ok_or(Unroutable::NoTrunk)?;
            let source = LegSource::Trunk(name.clone());
            route_to_trunk(trunk, (number, source), is_secure, &ctx.domain.locals)
        }
    }
}

fn route_to_device(
    device: &DeviceId,
    is_secure: bool,
    ctx: &Context,
    now: Now,
) -> Result<RequestRoute, Unroutable> {
    let account = ctx.domain.config.account(device).ok_or(Unroutable::NotRegistered)?;
    if let Some(trunk) = &account.via {
        let trunk = ctx.domain.config.trunk(trunk).ok_or(Unroutable::NotRegistered)?;
        let who = (account.name_at_switch(), LegSource::Account(device.clone()));
        return route_to_trunk(trunk, who, is_secure, &ctx.domain.locals);
    }
    ctx.registrar.lookup(device, now.mono).ok_or(Unroutable::NotRegistered)?;
    let fits = |binding: &Binding| !is_secure || binding.target.protocol.is_secure();
    let binding = ctx.registrar.lookup_of(device, fits, now.mono);
    let binding = binding.ok_or(Unroutable::NotSecure)?;
    let host = ctx.domain.via_host(&binding.target);
    let to = Uri::sip(Some(account.number.as_str().as_bytes()), &host, None)
        .map_err(|_| Unroutable::NotRegistered)?;
    Ok(RequestRoute {
        flow: binding.target,
        uri: binding.contact.clone(),
        to: NameAddr::new(to),
        source: LegSource::Account(device.clone()),
        is_secure,
    })
}

fn route_to_trunk(
    trunk: &Trunk,
    (number, source): (&Number, LegSource),
    is_secure: bool,
    locals: &[(Protocol, SocketAddr)],
) -> Result<RequestRoute, Unroutable> {
    let flow = flow_to_trunk(trunk, locals).ok_or(Unroutable::NoTrunk)?;
    let Flow { protocol, peer, .. } = flow;
    if is_secure && !protocol.is_secure() {
        return Err(Unroutable::NotSecure);
    }
    let host = trunk.target.strip_suffix(&format!(":{}", peer.port())).unwrap_or(&trunk.target);
    let port = (peer.port() != protocol.default_port()).then_some(peer.port());
    let to = Uri::sip(Some(number.as_str().as_bytes()), host, port)
        .map_err(|_| Unroutable::BadNumber)?;
    let uri = match protocol.uri_param() {
        None => Ok(to.clone()),
        Some(_) if is_secure => to.secured(),
        Some(transport) => to.with_param("transport", Some(transport)),
    };
    let uri = uri.map_err(|_| Unroutable::BadNumber)?;
    Ok(RequestRoute { flow, uri, to: NameAddr::new(to), source, is_secure })
}

/// The flow to a trunk's address, by a connection that is still to be found or made; `None` when
/// its address is not known, or nothing of ours speaks its transport.
pub(super) fn flow_to_trunk(trunk: &Trunk, locals: &[(Protocol, SocketAddr)]) -> Option<Flow> {
    let peer = trunk.address?;
    let fits = |(protocol, local): &&(Protocol, SocketAddr)| {
        *protocol == trunk.protocol && local.is_ipv4() == peer.is_ipv4()
    };
    let (protocol, local) = *locals.iter().find(fits)?;
    Some(Flow { protocol, local, peer, connection: ConnectionId::NONE })
}
