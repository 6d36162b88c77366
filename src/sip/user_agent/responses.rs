//! Responses to requests of ours, and requests of ours that found nobody.

use super::UserAgent;
use super::leg::{ClientUse, refusal_ack, refuse_fork};
use crate::model::Now;
use crate::sip::flow::Flow;
use crate::sip::message::SipResponse;
use crate::sip::transaction::{ClientKey, ClientTransactionId, Reply};
use std::time::Instant;

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
        let waits = self.ctx.transactions.client(&key);
        if !waits.is_some_and(|(client, sent_to)| self.may_answer(client, sent_to, &flow, now.mono))
        {
            return;
        }
        match self.ctx.transactions.handle_response(&key, response.status, &to_tag, now.mono) {
            Reply::Absorbed => {}
            Reply::Refused(id, client) => {
                if let ClientUse::Invite(_, sent) | ClientUse::Reinvite(_, sent) = &client {
                    let ack = refusal_ack(sent, response);
                    self.ctx.transactions.acknowledge(id, &to_tag, sent.flow, ack.to_bytes());
                }
                self.handle_reply(id, client, response, now);
            }
            Reply::Pass(id, client) => self.handle_reply(id, client, response, now),
        }
    }

    /// A response to a request of ours may come from there.
    fn may_answer(&self, client: &ClientUse, sent_to: &Flow, source: &Flow, now: Instant) -> bool {
        let of_leg = || client.leg().and_then(|leg| self.legs.get(leg));
        self.peers.same(sent_to, source)
            || of_leg().is_some_and(|leg| leg.peer().may_answer(source, &self.ctx, now))
    }

    fn handle_reply(
        &mut self,
        id: ClientTransactionId,
        client: ClientUse,
        response: &SipResponse,
        now: Now,
    ) {
        if let ClientUse::Qualify(phone) = &client {
            return self.qualification.handle_response(phone, &mut self.ctx, now);
        }
        let Some(leg) = client.leg() else { return };
        let late = match &client {
            ClientUse::Invite(_, sent) if (200..300).contains(&response.status) => {
                Some(sent.clone())
            }
            _ => None,
        };
        let found =
            self.with_leg(leg, |leg, ctx| leg.handle_response(id, client, response, ctx, now));
        if let (None, Some(sent)) = (found, late) {
            refuse_fork(id, &sent, response, &mut self.ctx, now);
        }
    }

    /// No response came (408), or the transport failed (503).
    pub(super) fn handle_failure(&mut self, client: ClientUse, status: u16, now: Now) {
        if let ClientUse::Qualify(phone) = &client {
            return self.qualification.handle_failure(phone, &mut self.ctx, now);
        }
        let Some(id) = client.leg() else { return };
        if let (ClientUse::Invite(..), Some(leg)) = (&client, self.legs.get(id)) {
            self.qualification.handle_unanswered_call(
                leg.peer().source(),
                leg.peer().dialog().flow,
                &mut self.ctx,
                now,
            );
        }
        self.with_leg(id, |leg, ctx| leg.handle_failure(client, status, ctx, now));
    }
}
