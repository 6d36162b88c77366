//! Feature codes: what a supervisor asks for at the phone is the request that a client would have
//! made, with the same permissions, lines of the audit and notices.

use super::audit_record::{AuditEvent, AuditRecord};
use super::pending::PendingLine;
use super::{Gateway, Token};
use crate::model::{
    CallOperation, Command, FeatureCode, FeatureCodeDialled, Now, Reason, Refusal, Request,
    RequestEnvelope, RequestId, TargetRef, UserId,
};
use std::net::{IpAddr, Ipv4Addr};

/// Where a phone is of which that is not known.
const NOT_KNOWN: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Gateway {
    /// A phone has dialled a feature code: the device's user asks for it.
    pub(super) fn handle_feature_code(&mut self, dialled: FeatureCodeDialled, now: Now) {
        let Some(user) = self.access.owner(&dialled.device).map(|user| user.id.clone()) else {
            return self.refuse_unowned(&dialled, now);
        };
        let asked = asked_by(user, &dialled);
        let token = self.works.wait_for_feature_code(&dialled, &asked.user);
        self.handle_request(token, &asked, now);
    }

    /// Nobody may ask anything at a device that is nobody's.
    fn refuse_unowned(&mut self, dialled: &FeatureCodeDialled, now: Now) {
        let pattern = "Device '{}' is nobody's.";
        let refusal = Refusal::device(Reason::NotPermitted, &dialled.device, pattern);
        let measured = self.handle_refused(None, dialled.from.unwrap_or(NOT_KNOWN), now);
        if measured.is_ok() {
            let record = AuditRecord {
                from: dialled.from,
                request_id: Some(request_id(dialled)),
                operation: Some(dialled.code.operation()),
                device: Some(dialled.device.clone()),
                refusal: Some(refusal.clone()),
                ..AuditRecord::new(AuditEvent::Refused, now.wall)
            };
            self.works.audit(record, PendingLine::Nothing, now);
        }
        let refusal = measured.err().unwrap_or(refusal);
        let command = Command::RefuseFeatureCode {
            device: dialled.device.clone(),
            code: dialled.id.clone(),
            refusal,
        };
        self.works.command(None, command, now);
    }
}

fn request_id(dialled: &FeatureCodeDialled) -> RequestId {
    RequestId::from(dialled.id.as_str())
}

/// The request by which the user would have asked for the same.
fn asked_by(user: UserId, dialled: &FeatureCodeDialled) -> RequestEnvelope {
    let device = dialled.device.clone();
    let request = match dialled.code.clone() {
        FeatureCode::Start { number, activity, mode, scope } => Request::StartMonitoring {
            device,
            target: TargetRef { device: None, number: Some(number) },
            activity,
            mode,
            scope,
        },
        FeatureCode::Stop => Request::CancelMonitoring { device },
        FeatureCode::Switch { call, activity } => {
            Request::OnCall { call, operation: CallOperation::Switch(activity) }
        }
    };
    RequestEnvelope {
        user,
        caller: None,
        from: dialled.from.unwrap_or(NOT_KNOWN),
        request_id: request_id(dialled),
        request: Ok(request),
    }
}

/// Tokens from here on are the gateway's own: no shell counts so far.
pub(super) const FIRST_OWN_TOKEN: Token = Token(1 << 63);
