//! What a connection or a registration means for the legs that use it.

use super::UserAgent;
use crate::model::{DeviceId, Now};
use crate::sip::config::Trunk;
use crate::sip::flow::{ConnectionId, Flow};
use std::net::IpAddr;

impl UserAgent {
    /// A connection carries a registration or a call, or is a trunk's: it is not closed for being
    /// idle.
    pub fn needs(&self, flow: &Flow) -> bool {
        let named = Flow { connection: ConnectionId::NONE, ..*flow };
        let carries = |used: &Flow| *used == *flow || *used == named;
        self.ctx.trunk_at(flow).is_some()
            || self.ctx.registrar.flows().any(carries)
            || self.legs.iter().any(|leg| carries(&leg.peer().dialog().flow))
    }

    /// A trunk is at this address, or a phone has registered from there.
    pub fn knows(&self, address: IpAddr) -> bool {
        let from_there =
            |trunk: &Trunk| trunk.sending_hosts().iter().any(|host| host.contains(address));
        self.config().trunks.iter().any(from_there) || self.ctx.registrar.knows(address)
    }

    /// A connection is gone: the legs on it are reached otherwise.
    pub(super) fn leave_flow(&mut self, gone: &Flow, now: Now) {
        for leg in self.legs.iter_mut().filter(|leg| leg.peer().dialog().flow == *gone) {
            leg.handle_flow_gone(gone, &mut self.ctx, now);
        }
        self.legs.remove_over();
    }

    /// A phone has registered by `flow`: its legs leave the flows that it has left.
    pub(super) fn follow_phone(&mut self, device: &DeviceId, flow: Flow, call_id: &[u8], now: Now) {
        for leg in self.legs.iter_mut() {
            if leg.peer().has_left(device, flow, call_id, &self.ctx.registrar, now) {
                leg.follow(flow, &mut self.ctx, now);
            }
        }
        self.legs.remove_over();
    }
}
