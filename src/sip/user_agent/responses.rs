//! Responses to requests of ours, and requests of ours that found nobody.

use super::UserAgent;
use super::leg::{ClientUse, refusal_ack, refuse_fork};
use super::trunk_presence::TargetOf;
use crate::model::Now;
use crate::sip::flow::Flow;
use crate::sip::message::SipResponse;
use crate::sip::transaction::{ClientKey, Reply};

impl UserAgent {
    pub(super) fn handle_response(&mut self, flow: Flow, response: &SipResponse, now: Now) {
        let headers = &response.headers;
        let (Ok(via), Ok((_, method))) = (headers.via_top(), headers.cseq()) else {
            return;
        };
        let key = ClientKey {
            branch: via.branch().unwrap_or_default().to_vec(),
            method: method.as_bytes().to_vec(),
        };
        let to_tag = headers.to_tag();
        let Some((client, sent_to)) = self.ctx.transactions.client(&key) else {
            return;
        };
        let mut leg = client.leg().and_then(|id| self.legs.get_mut(id));
        let is_same = self.peers.same(sent_to, &flow);
        // What nobody can read is answered so.
        if sent_to.protocol.is_secure() && !flow.protocol.is_secure() {
            return;
        }
        if !is_same
            && !leg.as_ref().is_some_and(|leg| leg.peer().may_answer(&flow, &self.ctx, now.mono))
        {
            return;
        }
        let reply = self.ctx.transactions.handle_response(&key, response.status, &to_tag, now.mono);
        let (id, client) = match reply {
            Reply::Absorbed => return,
            Reply::Refused(id, client) => {
                if let ClientUse::Invite(_, sent) | ClientUse::Reinvite(_, sent) = &client {
                    let ack = refusal_ack(sent, response);
                    self.ctx.transactions.acknowledge(id, &to_tag, sent.flow, ack.to_bytes());
                }
                (id, client)
            }
            Reply::Pass(id, client) => (id, client),
        };
        match (client, &mut leg) {
            (ClientUse::Qualify(phone), _) => {
                self.qualification.handle_outcome(&phone, true, &mut self.ctx, now)
            }
            (ClientUse::AskTrunk(target), _) => {
                self.handle_target_answer(&target, response.status, now)
            }
            (ClientUse::Register(trunk, sent), _) => self.trunk_registrations.handle_response(
                &trunk,
                &sent,
                response,
                &mut self.ctx,
                now,
            ),
            (client, Some(leg)) => {
                leg.handle_response(id, client, response, &mut self.ctx, now);
                if leg.is_over() {
                    let id = leg.id();
                    self.legs.remove(id);
                }
            }
            (ClientUse::Invite(_, sent), None) if (200..300).contains(&response.status) => {
                refuse_fork(id, &sent, response, &mut self.ctx, now);
            }
            (_, None) => {}
        }
    }

    fn handle_target_answer(&mut self, target: &TargetOf, status: u16, now: Now) {
        let news = self.trunk_presence.handle_answer(target, status, &mut self.ctx, now);
        if let Some(target) = news {
            self.trunk_registrations.handle_presence(&target, now);
        }
    }

    /// No response came (408), or the transport failed (503).
    pub(super) fn handle_failure(&mut self, client: ClientUse, status: u16, now: Now) {
        if let ClientUse::Qualify(phone) = &client {
            return self.qualification.handle_outcome(phone, false, &mut self.ctx, now);
        }
        if let ClientUse::AskTrunk(target) = &client {
            return self.handle_target_answer(target, status, now);
        }
        if let ClientUse::Register(trunk, sent) = &client {
            let registrations = &mut self.trunk_registrations;
            return registrations.handle_failure(trunk, sent, status, &mut self.ctx, now);
        }
        let Some(leg) = client.leg().and_then(|id| self.legs.get_mut(id)) else {
            return;
        };
        if matches!(client, ClientUse::Invite(..)) {
            let (source, flow) = (leg.peer().source(), leg.peer().dialog().flow);
            self.qualification.handle_unanswered_call(source, flow, &mut self.ctx, now);
        }
        leg.handle_failure(client, status, &mut self.ctx, now);
        if leg.is_over() {
            let id = leg.id();
            self.legs.remove(id);
        }
    }
}
