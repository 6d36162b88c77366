//! Where an INVITE of ours goes, and the leg that it begins.

use super::UserAgent;
use super::context::Context;
use super::leg::{InviteContent, Leg, RequestRoute};
use super::trunk_targets::NextHop;
use crate::model::{DeviceId, Now, Number};
use crate::sip::flow::Flow;
use crate::sip::leg::{Destination, LegCommand, LegEvent, LegSource};
use crate::sip::message::{NameAddr, Uri};
use crate::sip::registrar::Binding;
use std::collections::VecDeque;

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
            reasons,
        } = command
        else {
            return;
        };
        let has_room = !self.legs.has(id) && self.legs.len() < self.ctx.domain.config.limits.legs;
        let begun = route(&to, is_secure, &mut self.ctx, now).and_then(|route| {
            let style =
                self.ctx.domain.account_of(&route.source).map(|account| account.auto_answer);
            let (from, asserted) = self.ctx.domain.named_to(&route.source, &from);
            let content = InviteContent {
                from,
                asserted,
                offer,
                auto_answer: style.filter(|_| auto_answer),
                max_forwards,
                passed,
                user_data,
                reasons,
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
            Err(error) => self.ctx.event(LegEvent::Failed { leg: id, status: error.status() }),
        }
    }
}

fn route(
    to: &Destination,
    is_secure: bool,
    ctx: &mut Context,
    now: Now,
) -> Result<RequestRoute, Unroutable> {
    match to {
        Destination::Device(device) => route_to_device(device, is_secure, ctx, now),
        Destination::Trunk { name, number } => {
            let source = LegSource::Trunk(name.clone());
            route_to_trunk(name, (number, source), is_secure, ctx, now)
        }
    }
}

fn route_to_device(
    device: &DeviceId,
    is_secure: bool,
    ctx: &mut Context,
    now: Now,
) -> Result<RequestRoute, Unroutable> {
    let account = ctx.domain.config.account(device).ok_or(Unroutable::NotRegistered)?;
    if let Some(trunk) = account.via.clone() {
        let number = account.name_at_switch().clone();
        let who = (&number, LegSource::Account(device.clone()));
        return route_to_trunk(&trunk, who, is_secure, ctx, now);
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
        others: VecDeque::new(),
    })
}

/// The best target of a trunk, and the others.
fn route_to_trunk(
    name: &str,
    (number, source): (&Number, LegSource),
    is_secure: bool,
    ctx: &mut Context,
    now: Now,
) -> Result<RequestRoute, Unroutable> {
    let trunk = ctx.domain.config.trunk(name).ok_or(Unroutable::NoTrunk)?;
    let order = ctx.targets.order(trunk, &ctx.domain.locals, &mut ctx.tokens, now);
    if order.is_empty() {
        return Err(Unroutable::NoTrunk);
    }
    let fits = |hop: &&NextHop<'_>| !is_secure || hop.flow.protocol.is_secure();
    let mut hops = Vec::new();
    for hop in order.iter().filter(fits) {
        hops.push(next_hop(hop, number, is_secure)?);
    }
    let mut hops = VecDeque::from(hops);
    let (flow, uri, to) = hops.pop_front().ok_or(Unroutable::NotSecure)?;
    let others = hops.into_iter().map(|(flow, uri, _)| (flow, uri)).collect();
    Ok(RequestRoute { flow, uri, to: NameAddr::new(to), source, is_secure, others })
}

/// The way to a target, the Request-URI, and the URI of To.
fn next_hop(
    NextHop { target, flow }: &NextHop<'_>,
    number: &Number,
    is_secure: bool,
) -> Result<(Flow, Uri, Uri), Unroutable> {
    let bad = |_| Unroutable::BadNumber;
    let port = target.port.filter(|port| *port != flow.protocol.default_port());
    let to = Uri::sip(Some(number.as_str().as_bytes()), &target.uri_host(), port).map_err(bad)?;
    let uri = match flow.protocol.uri_param() {
        None => Ok(to.clone()),
        Some(_) if is_secure => to.secured(),
        Some(transport) => to.with_param("transport", Some(transport)),
    };
    Ok((*flow, uri.map_err(bad)?, to))
}
