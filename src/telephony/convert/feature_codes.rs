//! Feature codes on the wire.

use super::{
    Commanding, Malformed, activity, id, mode, scope, status, text_of, wire_activity, wire_mode,
    wire_scope,
};
use crate::model::{Command, FeatureCode, FeatureCodeDialled, Reason};
use crate::telephony::proto;
use crate::telephony::proto::feature_code_dialled::{self as wire, Code};
use std::collections::HashMap;

pub(super) fn to_wire(dialled: &FeatureCodeDialled) -> proto::FeatureCodeDialled {
    let code = match &dialled.code {
        FeatureCode::Start { number, activity, mode, scope } => Code::Start(wire::Start {
            number: number.to_string(),
            activity: wire_activity(*activity) as i32,
            mode: wire_mode(*mode) as i32,
            scope: wire_scope(*scope) as i32,
        }),
        FeatureCode::Stop => Code::Stop(wire::Stop {}),
        FeatureCode::Switch { call, activity } => Code::Switch(wire::Switch {
            call: call.to_string(),
            activity: wire_activity(*activity) as i32,
        }),
    };
    proto::FeatureCodeDialled {
        id: dialled.id.to_string(),
        device: dialled.device.to_string(),
        from: text_of(dialled.from.as_ref()),
        code: Some(code),
    }
}

pub(super) fn from_wire(
    dialled: proto::FeatureCodeDialled,
) -> Result<FeatureCodeDialled, Malformed> {
    let code = match dialled.code.ok_or(Malformed::Missing("feature_code_dialled.code"))? {
        Code::Start(start) => FeatureCode::Start {
            activity: activity("feature_code_dialled.start.activity", start.activity())?,
            mode: mode("feature_code_dialled.start.mode", start.mode())?,
            scope: scope("feature_code_dialled.start.scope", start.scope())?,
            number: id("feature_code_dialled.start.number", start.number)?,
        },
        Code::Stop(wire::Stop {}) => FeatureCode::Stop,
        Code::Switch(switch) => FeatureCode::Switch {
            activity: activity("feature_code_dialled.switch.activity", switch.activity())?,
            call: id("feature_code_dialled.switch.call", switch.call)?,
        },
    };
    Ok(FeatureCodeDialled {
        id: id("feature_code_dialled.id", dialled.id)?,
        device: id("feature_code_dialled.device", dialled.device)?,
        code,
        from: match dialled.from.as_str() {
            "" => None,
            text => {
                Some(text.parse().map_err(|_| Malformed::Characters("feature_code_dialled.from"))?)
            }
        },
    })
}

impl Commanding for proto::RefuseFeatureCodeRequest {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        for (field, text) in [("reason", &self.reason), ("message", &self.message)] {
            if text.is_empty() {
                return Err(Malformed::Missing(field));
            }
        }
        let reason = self.reason.parse().unwrap_or(Reason::Internal);
        let command = Command::RefuseFeatureCode {
            device: id("device", self.device)?,
            code: id("code", self.code)?,
            refusal: status::refusal_from(reason, self.message, &HashMap::new()),
        };
        Ok((self.context, command))
    }
}
