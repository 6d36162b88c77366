//! Protobuf ⇄ words, exhaustive both ways. What comes in is checked here and nowhere else.

use super::proto::{self, watch_response::Fact as Wire};
mod feature_codes;
pub(super) mod node_load;

use super::status;
use crate::model::{
    Activity, AdmissionAsked, CallFact, CallType, Capabilities, Command, CommandContext,
    DeviceFact, DeviceKind, Fact, Failure, JoinSound, LegSound, LegState, Mode, MonitorFact,
    MonitorState, NodeLoad, NotDtmf, Number, PartyFact, PartyRole, Quality, Reason, Refusal,
    RemoteQuality, RequestId, Revised, Scope, SentSound, Timestamp, TransferStep, UserData,
    UserDataChange,
};
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// On whose behalf a gateway asks what concerns a device that is nobody's: the contract wants a
/// word.
pub(crate) const OF_ITS_OWN: &str = "gateway";

/// What came over the wire is not what the contract says. Each names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A required field is absent or empty.
    Missing(&'static str),
    /// A field is longer than allowed.
    TooLong(&'static str),
    /// An enum field is unspecified or unknown.
    Unspecified(&'static str),
    /// A field contains characters it may not.
    Characters(&'static str),
    /// A call's data is more than a call may have.
    TooMuch(&'static str),
}

/// Legs of a join that are read: more than any call has.
const MAX_SOUND_LEGS: usize = 64;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Refusal::from(self).fmt(f)
    }
}

impl From<Malformed> for Refusal {
    fn from(malformed: Malformed) -> Self {
        Self::from(&malformed)
    }
}

impl From<&Malformed> for Refusal {
    fn from(malformed: &Malformed) -> Self {
        match malformed {
            Malformed::Missing(field) => Refusal::missing(field),
            Malformed::TooLong(field) => {
                let pattern = format!("Parameter '{{}}' is longer than {MAX_ID} characters.");
                Refusal::parameter(Reason::InvalidInput, field, pattern)
            }
            Malformed::Unspecified(field) => Refusal::parameter(
                Reason::InvalidInput,
                field,
                "Parameter '{}' has no known value.",
            ),
            Malformed::Characters(field) => Refusal::parameter(
                Reason::InvalidInput,
                field,
                "Parameter '{}' contains characters that are not allowed.",
            ),
            Malformed::TooMuch(field) => Refusal::too_much_user_data(field),
        }
    }
}

/// Characters of an id or a number at most.
const MAX_ID: usize = 128;

/// A request message of the contract that is a command.
pub(super) trait Commanding {
    /// Takes it apart, checked.
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed>;
}

/// The context of a command, checked.
pub(super) fn context(
    wire: Option<proto::CommandContext>,
    deadline: Duration,
) -> Result<CommandContext, Malformed> {
    let wire = wire.ok_or(Malformed::Missing("context"))?;
    Ok(CommandContext {
        request_id: id("context.request_id", wire.request_id)?,
        user: Some(id("context.on_behalf_of", wire.on_behalf_of)?),
        caller: None,
        from: None,
        deadline,
        feature_code: optional("context.feature_code", wire.feature_code)?,
    })
}

/// The context of a command as it goes on the wire.
pub(super) fn wire_context(context: &CommandContext) -> Option<proto::CommandContext> {
    Some(proto::CommandContext {
        request_id: context.request_id.to_string(),
        on_behalf_of: context
            .user
            .as_ref()
            .map_or_else(|| OF_ITS_OWN.to_owned(), ToString::to_string),
        feature_code: text_of(context.feature_code.as_ref()),
    })
}

impl Commanding for proto::StartMonitoringRequest {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        let command = Command::StartMonitoring {
            activity: activity("activity", self.activity())?,
            mode: mode("mode", self.mode())?,
            scope: scope("scope", self.scope())?,
            supervisor: id("supervisor", self.supervisor)?,
            target: id("target", self.target)?,
            confirm_joins: self.confirm_joins,
            agent_side_only: self.agent_side_only,
        };
        Ok((self.context, command))
    }
}

impl Commanding for proto::StopMonitoringRequest {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        let command = Command::StopMonitoring { supervisor: id("supervisor", self.supervisor)? };
        Ok((self.context, command))
    }
}

impl Commanding for proto::SwitchMonitoringRequest {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        let command = Command::SwitchMonitoring {
            activity: activity("activity", self.activity())?,
            supervisor: id("supervisor", self.supervisor)?,
            call: id("call", self.call)?,
        };
        Ok((self.context, command))
    }
}

impl Commanding for proto::AdmitMonitoringRequest {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        let command = Command::AdmitMonitoring {
            supervisor: id("supervisor", self.supervisor)?,
            call: id("call", self.call)?,
            admitted: self.admitted,
        };
        Ok((self.context, command))
    }
}

impl Commanding for proto::MuteMonitoredPartyRequest {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        let command = Command::MuteMonitoredParty {
            supervisor: id("supervisor", self.supervisor)?,
            call: id("call", self.call)?,
            muted: self.muted,
        };
        Ok((self.context, command))
    }
}

impl Commanding for proto::SetDoNotDisturbRequest {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        let command = Command::SetDoNotDisturb { device: id("device", self.device)?, on: self.on };
        Ok((self.context, command))
    }
}

impl Commanding for proto::SetForwardingRequest {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        let command = Command::SetForwarding {
            device: id("device", self.device)?,
            to: optional("to", self.to)?,
        };
        Ok((self.context, command))
    }
}

impl Commanding for proto::DialRequest {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        let command = Command::Dial {
            device: id("device", self.device)?,
            destination: id("destination", self.destination)?,
            user_data: user_data("user_data", self.user_data)?,
        };
        Ok((self.context, command))
    }
}

/// What a `LegRequest` asks depends on the method it came to.
pub(super) struct OnLeg(pub(super) proto::LegRequest, pub(super) LegMethod);

/// The methods that take a `LegRequest`.
#[derive(Clone, Copy)]
pub(super) enum LegMethod {
    Answer,
    Hangup,
    ClearCall,
    Reject,
    Hold,
    Retrieve,
}

impl Commanding for OnLeg {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        let OnLeg(leg, method) = self;
        let device = id("device", leg.device)?;
        let call = id("call", leg.call)?;
        let command = match method {
            LegMethod::Answer => Command::Answer { device, call },
            LegMethod::Hangup => Command::Hangup { device, call },
            LegMethod::ClearCall => Command::ClearCall { device, call },
            LegMethod::Reject => Command::Reject { device, call },
            LegMethod::Hold => Command::Hold { device, call },
            LegMethod::Retrieve => Command::Retrieve { device, call },
        };
        Ok((leg.context, command))
    }
}

impl Commanding for proto::RedirectRequest {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        let command = Command::Redirect {
            device: id("device", self.device)?,
            call: id("call", self.call)?,
            destination: id("destination", self.destination)?,
        };
        Ok((self.context, command))
    }
}

impl Commanding for proto::SwapCallsRequest {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        let command = Command::SwapCalls {
            device: id("device", self.device)?,
            call: id("call", self.call)?,
            other: id("other", self.other)?,
        };
        Ok((self.context, command))
    }
}

impl Commanding for proto::ChangeUserDataRequest {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        use proto::change_user_data_request::{Change, Clear};
        let change = match self.change.ok_or(Malformed::Missing("change"))? {
            Change::Set(set) => UserDataChange::Set(user_data("set.user_data", set.user_data)?),
            Change::Delete(key) if key.is_empty() => return Err(Malformed::Missing("delete")),
            Change::Delete(key) if UserData::is_key(&key) => UserDataChange::Delete(key),
            Change::Delete(_) => return Err(Malformed::Characters("delete")),
            Change::Clear(Clear {}) => UserDataChange::Clear,
        };
        let command = Command::ChangeUserData {
            device: id("device", self.device)?,
            call: id("call", self.call)?,
            change,
        };
        Ok((self.context, command))
    }
}

impl Commanding for proto::MuteRequest {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        let command = Command::Mute {
            device: id("device", self.device)?,
            call: id("call", self.call)?,
            on: self.on,
        };
        Ok((self.context, command))
    }
}

impl Commanding for proto::SendDtmfRequest {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        let digits: String = id("digits", self.digits)?;
        let command = Command::SendDtmf {
            digits: digits.parse().map_err(|_: NotDtmf| Malformed::Characters("digits"))?,
            device: id("device", self.device)?,
            call: id("call", self.call)?,
        };
        Ok((self.context, command))
    }
}

/// A `TransferRequest` is a transfer or a conference by the method it came to.
pub(super) struct Stepwise(pub(super) proto::TransferRequest, pub(super) StepMethod);

/// The methods that take a `TransferRequest`.
#[derive(Clone, Copy)]
pub(super) enum StepMethod {
    Transfer,
    Conference,
}

impl Commanding for Stepwise {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        use proto::transfer_request::Step;
        let Stepwise(request, method) = self;
        let device = id("device", request.device)?;
        let call = id("call", request.call)?;
        let user_data = user_data("user_data", request.user_data)?;
        let step = match request.step.ok_or(Malformed::Missing("step"))? {
            Step::SingleStep(destination) => {
                TransferStep::SingleStep { destination: id("single_step", destination)?, user_data }
            }
            Step::Initiate(destination) => {
                TransferStep::Initiate { destination: id("initiate", destination)?, user_data }
            }
            Step::Complete(proto::transfer_request::Complete {}) => TransferStep::Complete,
        };
        let command = match method {
            StepMethod::Transfer => Command::Transfer { device, call, step },
            StepMethod::Conference => Command::Conference { device, call, step },
        };
        Ok((request.context, command))
    }
}

impl Commanding for proto::RemoveParticipantRequest {
    fn command(self) -> Result<(Option<proto::CommandContext>, Command), Malformed> {
        let command = Command::RemoveParticipant {
            device: id("device", self.device)?,
            call: id("call", self.call)?,
            participant: id("participant", self.participant)?,
        };
        Ok((self.context, command))
    }
}

/// A step and what it attaches, as they go on the wire.
pub(super) fn wire_step(
    step: &TransferStep,
) -> (Option<proto::transfer_request::Step>, HashMap<String, String>) {
    use proto::transfer_request::{Complete, Step};
    match step {
        TransferStep::SingleStep { destination, user_data } => {
            (Some(Step::SingleStep(destination.to_string())), wire_user_data(user_data))
        }
        TransferStep::Initiate { destination, user_data } => {
            (Some(Step::Initiate(destination.to_string())), wire_user_data(user_data))
        }
        TransferStep::Complete => (Some(Step::Complete(Complete {})), HashMap::new()),
    }
}

/// A change of a call's data as it goes on the wire.
pub(super) fn wire_change(
    change: &UserDataChange,
) -> Option<proto::change_user_data_request::Change> {
    use proto::change_user_data_request::{Change, Clear, Set};
    Some(match change {
        UserDataChange::Set(data) => Change::Set(Set { user_data: wire_user_data(data) }),
        UserDataChange::Delete(key) => Change::Delete(key.clone()),
        UserDataChange::Clear => Change::Clear(Clear {}),
    })
}

/// A call's data as it goes on the wire.
pub(super) fn wire_user_data(data: &UserData) -> HashMap<String, String> {
    data.pairs().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

fn user_data(field: &'static str, wire: HashMap<String, String>) -> Result<UserData, Malformed> {
    UserData::new(wire).map_err(|_| Malformed::TooMuch(field))
}

impl From<&Capabilities> for proto::DescribeResponse {
    fn from(can: &Capabilities) -> Self {
        Self {
            backend: can.backend.clone(),
            activities: can
                .activities
                .iter()
                .map(|activity| wire_activity(*activity) as i32)
                .collect(),
            modes: can.modes.iter().map(|mode| wire_mode(*mode) as i32).collect(),
            scopes: can.scopes.iter().map(|scope| wire_scope(*scope) as i32).collect(),
            live_switching: can.live_switching,
            mute_monitored: can.mute_monitored,
            transfers: can.transfers,
            consultations: can.consultations,
            conferences: can.conferences,
            agent_side_only: can.agent_side_only,
            dtmf: can.dtmf,
            hold: can.hold,
            swap_calls: can.swap_calls,
            mute: can.mute,
            answer: can.answer,
            dial: can.dial,
            clear_call: can.clear_call,
            reject: can.reject,
            redirect: can.redirect,
            do_not_disturb: can.do_not_disturb,
            forwarding: can.forwarding,
            user_data: can.user_data,
            feature_codes: can.feature_codes,
            routing_points: can.routing_points,
            sip_cluster: can.sip_cluster,
            codecs: can.codecs.clone(),
            load: None,
        }
    }
}

impl From<proto::DescribeResponse> for Capabilities {
    /// Activities, modes and scopes of a newer contract are not offered.
    fn from(can: proto::DescribeResponse) -> Self {
        Self {
            activities: can
                .activities()
                .filter_map(|one| activity("activities", one).ok())
                .collect(),
            modes: can.modes().filter_map(|one| mode("modes", one).ok()).collect(),
            scopes: can.scopes().filter_map(|one| scope("scopes", one).ok()).collect(),
            backend: can.backend,
            live_switching: can.live_switching,
            mute_monitored: can.mute_monitored,
            transfers: can.transfers,
            consultations: can.consultations,
            conferences: can.conferences,
            agent_side_only: can.agent_side_only,
            dtmf: can.dtmf,
            hold: can.hold,
            swap_calls: can.swap_calls,
            mute: can.mute,
            answer: can.answer,
            dial: can.dial,
            clear_call: can.clear_call,
            reject: can.reject,
            redirect: can.redirect,
            do_not_disturb: can.do_not_disturb,
            forwarding: can.forwarding,
            user_data: can.user_data,
            feature_codes: can.feature_codes,
            routing_points: can.routing_points,
            sip_cluster: can.sip_cluster,
            codecs: can.codecs,
        }
    }
}

/// One message of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// A snapshot of this instance begins.
    SnapshotBegin {
        /// The backend instance of the revisions that follow.
        instance: String,
    },
    /// A fact, `SnapshotComplete` among them.
    Fact(Fact),
    /// The backend lives, and is as busy as this; `None`: as it has said last.
    Heartbeat(Option<NodeLoad>),
}

/// A fact as it goes on the wire.
pub(super) fn wire_fact(revised: &Revised, instance: &str) -> proto::WatchResponse {
    let fact = match &revised.fact {
        Fact::Device(device) => Wire::Device(wire_device(device)),
        Fact::DeviceGone { device } => {
            Wire::DeviceGone(proto::DeviceGone { device: device.to_string() })
        }
        Fact::Call(call) => Wire::Call(wire_call(call)),
        Fact::Monitor(monitor) => Wire::Monitor(wire_monitor(monitor)),
        Fact::MonitorGone { supervisor } => {
            Wire::MonitorGone(proto::MonitorGone { supervisor: supervisor.to_string() })
        }
        Fact::AdmissionAsked(asked) => Wire::AdmissionAsked(proto::AdmissionAsked {
            supervisor: asked.supervisor.to_string(),
            target: asked.target.to_string(),
            call: asked.call.to_string(),
            activity: wire_activity(asked.activity) as i32,
        }),
        Fact::Failed(failure) => Wire::Failure(proto::Failure {
            device: failure.device.to_string(),
            call: failure.call.as_ref().map(ToString::to_string).unwrap_or_default(),
            request_id: failure.request_id.as_ref().map(ToString::to_string).unwrap_or_default(),
            reason: failure.refusal.reason.to_string(),
            message: failure.refusal.to_string(),
            metadata: status::metadata_of(&failure.refusal),
        }),
        Fact::JoinSound(sound) => Wire::JoinSound(wire_join_sound(sound)),
        Fact::FeatureCodeDialled(dialled) => {
            Wire::FeatureCodeDialled(feature_codes::to_wire(dialled))
        }
        Fact::SnapshotBegin => {
            Wire::SnapshotBegin(proto::SnapshotBegin { instance: instance.to_owned() })
        }
        Fact::SnapshotComplete => Wire::SnapshotComplete(proto::SnapshotComplete {}),
        // Made by the seam and never published; a watcher that sees a heartbeat instead loses
        // nothing.
        Fact::CallLost { .. } | Fact::Lost => Wire::Heartbeat(proto::Heartbeat::default()),
    };
    proto::WatchResponse { revision: revised.revision, fact: Some(fact) }
}

impl TryFrom<proto::WatchResponse> for WatchItem {
    type Error = Malformed;

    fn try_from(response: proto::WatchResponse) -> Result<Self, Malformed> {
        let fact = match response.fact.ok_or(Malformed::Missing("fact"))? {
            Wire::Device(device) => Fact::Device(self::device(device)?),
            Wire::DeviceGone(gone) => {
                Fact::DeviceGone { device: id("device_gone.device", gone.device)? }
            }
            Wire::Call(call) => Fact::Call(self::call(call)?),
            Wire::Monitor(monitor) => Fact::Monitor(self::monitor(monitor)?),
            Wire::MonitorGone(gone) => {
                Fact::MonitorGone { supervisor: id("monitor_gone.supervisor", gone.supervisor)? }
            }
            Wire::AdmissionAsked(asked) => Fact::AdmissionAsked(AdmissionAsked {
                activity: activity("admission_asked.activity", asked.activity())?,
                supervisor: id("admission_asked.supervisor", asked.supervisor)?,
                target: id("admission_asked.target", asked.target)?,
                call: id("admission_asked.call", asked.call)?,
            }),
            Wire::Failure(failure) => Fact::Failed(self::failure(failure)?),
            Wire::JoinSound(sound) => Fact::JoinSound(join_sound(sound)?),
            Wire::FeatureCodeDialled(dialled) => {
                Fact::FeatureCodeDialled(feature_codes::from_wire(dialled)?)
            }
            Wire::SnapshotBegin(begin) => {
                return Ok(WatchItem::SnapshotBegin { instance: begin.instance });
            }
            Wire::SnapshotComplete(proto::SnapshotComplete {}) => Fact::SnapshotComplete,
            Wire::Heartbeat(proto::Heartbeat { load }) => {
                return Ok(WatchItem::Heartbeat(load.as_ref().map(node_load::load)));
            }
        };
        Ok(WatchItem::Fact(fact))
    }
}

fn wire_role(role: PartyRole) -> proto::PartyRole {
    match role {
        PartyRole::Agent => proto::PartyRole::Agent,
        PartyRole::Customer => proto::PartyRole::Customer,
        PartyRole::Supervisor => proto::PartyRole::Supervisor,
    }
}

fn role(name: &'static str, role: proto::PartyRole) -> Result<PartyRole, Malformed> {
    match role {
        proto::PartyRole::Unspecified => Err(Malformed::Unspecified(name)),
        proto::PartyRole::Agent => Ok(PartyRole::Agent),
        proto::PartyRole::Customer => Ok(PartyRole::Customer),
        proto::PartyRole::Supervisor => Ok(PartyRole::Supervisor),
    }
}

fn wire_join_sound(sound: &JoinSound) -> proto::JoinSound {
    let sent = |sent: &SentSound| proto::leg_sound::Sent {
        packets: sent.packets,
        agents: sent.agents,
        hash_before: sent.hash_before.to_vec(),
        hash: sent.hash.to_vec(),
    };
    let leg = |leg: &LegSound| proto::LegSound {
        role: wire_role(leg.role) as i32,
        port: leg.port.into(),
        remote: leg.remote.map(|remote| remote.to_string()).unwrap_or_default(),
        codec: leg.codec.clone(),
        sent: leg.sent.as_ref().map(sent),
    };
    proto::JoinSound {
        supervisor: sound.supervisor.to_string(),
        target: sound.target.to_string(),
        call: sound.call.to_string(),
        since_ms: sound.since.0,
        legs: sound.legs.iter().map(leg).collect(),
    }
}

fn join_sound(sound: proto::JoinSound) -> Result<JoinSound, Malformed> {
    if sound.legs.len() > MAX_SOUND_LEGS {
        return Err(Malformed::TooLong("join_sound.legs"));
    }
    Ok(JoinSound {
        supervisor: id("join_sound.supervisor", sound.supervisor)?,
        target: id("join_sound.target", sound.target)?,
        call: id("join_sound.call", sound.call)?,
        since: Timestamp(sound.since_ms),
        legs: sound.legs.into_iter().map(leg_sound).collect::<Result<_, _>>()?,
    })
}

fn leg_sound(leg: proto::LegSound) -> Result<LegSound, Malformed> {
    let hash = |name: &'static str, bytes: Vec<u8>| {
        <[u8; 32]>::try_from(bytes).map_err(|_| Malformed::Characters(name))
    };
    Ok(LegSound {
        role: role("leg_sound.role", leg.role())?,
        port: u16::try_from(leg.port).map_err(|_| Malformed::TooLong("leg_sound.port"))?,
        remote: match leg.remote.as_str() {
            "" => None,
            text => Some(text.parse().map_err(|_| Malformed::Characters("leg_sound.remote"))?),
        },
        codec: shown("leg_sound.codec", leg.codec)?.to_string(),
        sent: match leg.sent {
            None => None,
            Some(sent) => Some(SentSound {
                packets: sent.packets,
                agents: sent.agents,
                hash_before: hash("leg_sound.sent.hash_before", sent.hash_before)?,
                hash: hash("leg_sound.sent.hash", sent.hash)?,
            }),
        },
    })
}

fn wire_device(device: &DeviceFact) -> proto::Device {
    proto::Device {
        id: device.id.to_string(),
        number: device.number.to_string(),
        kind: match device.kind {
            DeviceKind::Phone => proto::DeviceKind::Phone,
            DeviceKind::RoutingPoint => proto::DeviceKind::RoutingPoint,
        } as i32,
        registered: device.registered,
        do_not_disturb: device.do_not_disturb,
        forward_to: device.forward_to.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn device(device: proto::Device) -> Result<DeviceFact, Malformed> {
    Ok(DeviceFact {
        kind: match device.kind() {
            proto::DeviceKind::Unspecified => return Err(Malformed::Unspecified("device.kind")),
            proto::DeviceKind::Phone => DeviceKind::Phone,
            proto::DeviceKind::RoutingPoint => DeviceKind::RoutingPoint,
        },
        id: id("device.id", device.id)?,
        number: shown("device.number", device.number)?,
        registered: device.registered,
        do_not_disturb: device.do_not_disturb,
        forward_to: optional("device.forward_to", device.forward_to)?,
    })
}

fn wire_call(call: &CallFact) -> proto::Call {
    proto::Call {
        id: call.id.to_string(),
        conn_id: call.conn_id.clone(),
        r#type: match call.call_type {
            CallType::Internal => proto::CallType::Internal,
            CallType::Inbound => proto::CallType::Inbound,
            CallType::Outbound => proto::CallType::Outbound,
            CallType::Consult => proto::CallType::Consult,
        } as i32,
        ani: call.ani.to_string(),
        dnis: call.dnis.to_string(),
        started_at_ms: call.started_at.0,
        parent: call.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        owner: call.owner.as_ref().map(ToString::to_string).unwrap_or_default(),
        user_data: wire_user_data(&call.user_data),
        parties: call.parties.iter().map(wire_party).collect(),
    }
}

fn call(call: proto::Call) -> Result<CallFact, Malformed> {
    Ok(CallFact {
        call_type: match call.r#type() {
            proto::CallType::Unspecified => return Err(Malformed::Unspecified("call.type")),
            proto::CallType::Internal => CallType::Internal,
            proto::CallType::Inbound => CallType::Inbound,
            proto::CallType::Outbound => CallType::Outbound,
            proto::CallType::Consult => CallType::Consult,
        },
        id: id("call.id", call.id)?,
        conn_id: id("call.conn_id", call.conn_id)?,
        ani: shown("call.ani", call.ani)?,
        dnis: shown("call.dnis", call.dnis)?,
        started_at: Timestamp(call.started_at_ms),
        parent: optional("call.parent", call.parent)?,
        owner: optional("call.owner", call.owner)?,
        user_data: user_data("call.user_data", call.user_data)?,
        parties: call.parties.into_iter().map(party).collect::<Result<_, _>>()?,
    })
}

fn wire_party(party: &PartyFact) -> proto::Party {
    proto::Party {
        device_id: party.device.as_ref().map(ToString::to_string).unwrap_or_default(),
        number: party.number.to_string(),
        role: wire_role(party.role) as i32,
        state: match party.state {
            LegState::Dialing => proto::LegState::Dialing,
            LegState::Ringing => proto::LegState::Ringing,
            LegState::Established => proto::LegState::Established,
            LegState::Held => proto::LegState::Held,
            LegState::Released => proto::LegState::Released,
        } as i32,
        muted: party.muted,
        muted_by_supervisor: party.muted_by_supervisor,
        held_at_phone: party.held_at_phone,
        activity: party.activity.map_or(proto::Activity::Unspecified, wire_activity) as i32,
        monitors: party.monitors.as_ref().map(ToString::to_string).unwrap_or_default(),
        established_at_ms: party.established_at.map_or(0, |at| at.0),
        quality: party.quality.as_ref().map(wire_quality),
        handed_on_to: party.handed_on_to.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

fn wire_quality(quality: &Quality) -> proto::Quality {
    proto::Quality {
        packets_sent: quality.packets_sent,
        packets_received: quality.packets_received,
        lost_permille: quality.lost_permille.into(),
        jitter_ms: quality.jitter_ms,
        mos: quality.mos.unwrap_or(0).into(),
        remote: quality.remote.map(|remote| proto::quality::Remote {
            lost_permille: remote.lost_permille.into(),
            jitter_ms: remote.jitter_ms,
            mos: remote.mos.into(),
        }),
        round_trip_ms: quality.round_trip_ms,
    }
}

/// Figures that can not be are taken for the nearest that can.
fn quality(quality: proto::Quality) -> Quality {
    let permille = |lost: u32| lost.min(1000) as u16;
    let mos = |mos: u32| mos.clamp(100, 450) as u16;
    Quality {
        packets_sent: quality.packets_sent,
        packets_received: quality.packets_received,
        lost_permille: permille(quality.lost_permille),
        jitter_ms: quality.jitter_ms,
        mos: (quality.mos > 0).then(|| mos(quality.mos)),
        remote: quality.remote.map(|remote| RemoteQuality {
            lost_permille: permille(remote.lost_permille),
            jitter_ms: remote.jitter_ms,
            mos: mos(remote.mos),
        }),
        round_trip_ms: quality.round_trip_ms,
    }
}

fn party(party: proto::Party) -> Result<PartyFact, Malformed> {
    Ok(PartyFact {
        role: role("party.role", party.role())?,
        state: match party.state() {
            proto::LegState::Unspecified => return Err(Malformed::Unspecified("party.state")),
            proto::LegState::Dialing => LegState::Dialing,
            proto::LegState::Ringing => LegState::Ringing,
            proto::LegState::Established => LegState::Established,
            proto::LegState::Held => LegState::Held,
            proto::LegState::Released => LegState::Released,
        },
        activity: match party.activity() {
            proto::Activity::Unspecified => None,
            known => Some(activity("party.activity", known)?),
        },
        device: optional("party.device_id", party.device_id)?,
        number: shown("party.number", party.number)?,
        muted: party.muted,
        muted_by_supervisor: party.muted_by_supervisor,
        held_at_phone: party.held_at_phone,
        monitors: optional("party.monitors", party.monitors)?,
        established_at: (party.established_at_ms > 0).then_some(Timestamp(party.established_at_ms)),
        quality: party.quality.map(quality),
        handed_on_to: optional("party.handed_on_to", party.handed_on_to)?,
    })
}

fn wire_monitor(monitor: &MonitorFact) -> proto::Monitor {
    use proto::monitor::{Admitting, Armed, Inviting, Joined, State};
    proto::Monitor {
        supervisor: monitor.supervisor.to_string(),
        target: monitor.target.to_string(),
        activity: wire_activity(monitor.activity) as i32,
        mode: wire_mode(monitor.mode) as i32,
        scope: wire_scope(monitor.scope) as i32,
        confirm_joins: monitor.confirm_joins,
        agent_side_only: monitor.agent_side_only,
        state: Some(match &monitor.state {
            MonitorState::Armed => State::Armed(Armed {}),
            MonitorState::Admitting { call } => {
                State::Admitting(Admitting { call: call.to_string() })
            }
            MonitorState::Inviting { call } => State::Inviting(Inviting { call: call.to_string() }),
            MonitorState::Joined { call, activity, since } => State::Joined(Joined {
                call: call.to_string(),
                activity: wire_activity(*activity) as i32,
                since_ms: since.0,
            }),
        }),
    }
}

fn monitor(monitor: proto::Monitor) -> Result<MonitorFact, Malformed> {
    use proto::monitor::{Armed, State};
    Ok(MonitorFact {
        activity: activity("monitor.activity", monitor.activity())?,
        mode: mode("monitor.mode", monitor.mode())?,
        scope: scope("monitor.scope", monitor.scope())?,
        supervisor: id("monitor.supervisor", monitor.supervisor)?,
        target: id("monitor.target", monitor.target)?,
        confirm_joins: monitor.confirm_joins,
        agent_side_only: monitor.agent_side_only,
        state: match monitor.state.ok_or(Malformed::Missing("monitor.state"))? {
            State::Armed(Armed {}) => MonitorState::Armed,
            State::Admitting(admitting) => {
                MonitorState::Admitting { call: id("monitor.admitting.call", admitting.call)? }
            }
            State::Inviting(inviting) => {
                MonitorState::Inviting { call: id("monitor.inviting.call", inviting.call)? }
            }
            State::Joined(joined) => MonitorState::Joined {
                activity: activity("monitor.joined.activity", joined.activity())?,
                since: Timestamp(joined.since_ms),
                call: id("monitor.joined.call", joined.call)?,
            },
        },
    })
}

fn failure(failure: proto::Failure) -> Result<Failure, Malformed> {
    Ok(Failure {
        device: id("failure.device", failure.device)?,
        call: optional("failure.call", failure.call)?,
        request_id: optional::<RequestId>("failure.request_id", failure.request_id)?,
        refusal: status::refusal_from(
            failure.reason.parse().unwrap_or(Reason::Internal),
            failure.message,
            &failure.metadata,
        ),
    })
}

/// An activity as it goes on the wire.
pub(super) fn wire_activity(activity: Activity) -> proto::Activity {
    match activity {
        Activity::ListenIn => proto::Activity::ListenIn,
        Activity::Coach => proto::Activity::Coach,
        Activity::BargeIn => proto::Activity::BargeIn,
    }
}

fn activity(field: &'static str, wire: proto::Activity) -> Result<Activity, Malformed> {
    match wire {
        proto::Activity::Unspecified => Err(Malformed::Unspecified(field)),
        proto::Activity::ListenIn => Ok(Activity::ListenIn),
        proto::Activity::Coach => Ok(Activity::Coach),
        proto::Activity::BargeIn => Ok(Activity::BargeIn),
    }
}

/// A mode as it goes on the wire.
pub(super) fn wire_mode(mode: Mode) -> proto::Mode {
    match mode {
        Mode::NextCall => proto::Mode::NextCall,
        Mode::AllCalls => proto::Mode::AllCalls,
    }
}

fn mode(field: &'static str, wire: proto::Mode) -> Result<Mode, Malformed> {
    match wire {
        proto::Mode::Unspecified => Err(Malformed::Unspecified(field)),
        proto::Mode::NextCall => Ok(Mode::NextCall),
        proto::Mode::AllCalls => Ok(Mode::AllCalls),
    }
}

/// A scope as it goes on the wire.
pub(super) fn wire_scope(scope: Scope) -> proto::Scope {
    match scope {
        Scope::Agent => proto::Scope::Agent,
        Scope::Call => proto::Scope::Call,
    }
}

fn scope(field: &'static str, wire: proto::Scope) -> Result<Scope, Malformed> {
    match wire {
        proto::Scope::Unspecified => Err(Malformed::Unspecified(field)),
        proto::Scope::Agent => Ok(Scope::Agent),
        proto::Scope::Call => Ok(Scope::Call),
    }
}

/// A text that must be there.
fn id<T: From<String>>(field: &'static str, text: String) -> Result<T, Malformed> {
    if text.is_empty() {
        return Err(Malformed::Missing(field));
    }
    fitting(field, text).map(T::from)
}

/// A text that may be absent.
fn optional<T: From<String>>(field: &'static str, text: String) -> Result<Option<T>, Malformed> {
    if text.is_empty() {
        return Ok(None);
    }
    fitting(field, text).map(T::from).map(Some)
}

/// A text that may be absent, as it goes on the wire.
fn text_of(text: Option<&impl ToString>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}

/// A number that is only shown: an anonymous caller has none.
fn shown(field: &'static str, text: String) -> Result<Number, Malformed> {
    fitting(field, text).map(Number::from)
}

fn fitting(field: &'static str, text: String) -> Result<String, Malformed> {
    if text.chars().count() > MAX_ID {
        return Err(Malformed::TooLong(field));
    }
    if text.chars().any(char::is_control) {
        return Err(Malformed::Characters(field));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Subject;

    fn asked() -> proto::StartMonitoringRequest {
        proto::StartMonitoringRequest {
            context: Some(proto::CommandContext {
                request_id: "r1".into(),
                on_behalf_of: "boss".into(),
                feature_code: String::new(),
            }),
            supervisor: "efelab32".into(),
            target: "9c14cad7".into(),
            activity: proto::Activity::Coach as i32,
            mode: proto::Mode::AllCalls as i32,
            scope: proto::Scope::Call as i32,
            confirm_joins: true,
            agent_side_only: true,
        }
    }

    #[test]
    fn an_enum_that_is_unspecified_or_unknown_is_refused_by_name() {
        for value in [0, 99, -1] {
            let refused = proto::StartMonitoringRequest { activity: value, ..asked() };
            assert_eq!(refused.command().unwrap_err(), Malformed::Unspecified("activity"));
        }
    }

    #[test]
    fn an_id_is_there_is_short_and_is_printable() {
        let target = |target: &str| {
            proto::StartMonitoringRequest { target: target.into(), ..asked() }.command().map(|_| ())
        };
        assert_eq!(target(&"ä".repeat(MAX_ID)), Ok(()));
        assert_eq!(target(""), Err(Malformed::Missing("target")));
        assert_eq!(target(&"x".repeat(MAX_ID + 1)), Err(Malformed::TooLong("target")));
        assert_eq!(target("a\r\nb"), Err(Malformed::Characters("target")));
    }

    #[test]
    fn a_command_has_a_context() {
        let refused = context(None, Duration::ZERO).unwrap_err();
        assert_eq!(Refusal::from(refused).reason, Reason::MissingParameter);
    }

    #[test]
    fn digits_are_digits() {
        let request = |digits: &str| proto::SendDtmfRequest {
            context: None,
            device: "d".into(),
            call: "c".into(),
            digits: digits.into(),
        };
        assert!(request("09*#AD").command().is_ok());
        assert_eq!(request("1p2").command().unwrap_err(), Malformed::Characters("digits"));
        assert_eq!(request("").command().unwrap_err(), Malformed::Missing("digits"));
    }

    #[test]
    fn every_fact_survives_the_wire() {
        for fact in facts() {
            let wire = wire_fact(&Revised { revision: 7, fact: fact.clone() }, "one");
            assert_eq!(wire.revision, 7);
            assert_eq!(WatchItem::try_from(wire), Ok(WatchItem::Fact(fact)));
        }
    }

    #[test]
    fn capabilities_survive_the_wire() {
        let can = Capabilities {
            backend: "test 1".into(),
            activities: Activity::ALL.to_vec(),
            modes: Mode::ALL.to_vec(),
            scopes: Scope::ALL.to_vec(),
            live_switching: true,
            mute_monitored: true,
            transfers: true,
            consultations: true,
            conferences: true,
            agent_side_only: true,
            dtmf: true,
            hold: true,
            swap_calls: true,
            mute: true,
            answer: true,
            dial: true,
            clear_call: true,
            reject: true,
            redirect: true,
            do_not_disturb: true,
            forwarding: true,
            user_data: true,
            feature_codes: true,
            routing_points: true,
            sip_cluster: true,
            codecs: vec!["PCMU".into()],
        };
        assert_eq!(Capabilities::from(proto::DescribeResponse::from(&can)), can);
    }

    fn facts() -> Vec<Fact> {
        let party = |role, state| PartyFact {
            device: Some("d".into()),
            number: "5001".into(),
            role,
            state,
            muted: true,
            muted_by_supervisor: true,
            held_at_phone: true,
            activity: Some(Activity::BargeIn),
            monitors: Some("t".into()),
            established_at: Some(Timestamp(5)),
            quality: Some(Quality {
                packets_sent: 1,
                packets_received: 2,
                lost_permille: 3,
                jitter_ms: 4,
                mos: Some(405),
                remote: Some(RemoteQuality { lost_permille: 6, jitter_ms: 7, mos: 408 }),
                round_trip_ms: Some(0),
            }),
            handed_on_to: Some("0170".into()),
        };
        let roles = PartyRole::ALL.iter();
        let mut parties: Vec<_> =
            roles.flat_map(|role| LegState::ALL.iter().map(|state| party(*role, *state))).collect();
        parties.push(PartyFact {
            device: None,
            number: "".into(),
            activity: None,
            monitors: None,
            established_at: None,
            quality: Some(Quality::default()),
            handed_on_to: None,
            ..party(PartyRole::Customer, LegState::Ringing)
        });
        let monitor = |state| {
            Fact::Monitor(MonitorFact {
                supervisor: "s".into(),
                target: "t".into(),
                activity: Activity::Coach,
                mode: Mode::NextCall,
                scope: Scope::Agent,
                confirm_joins: true,
                agent_side_only: true,
                state,
            })
        };
        let call = |call_type| {
            Fact::Call(CallFact {
                id: "c".into(),
                conn_id: "0123456789abcdef".into(),
                call_type,
                ani: "".into(),
                dnis: "5001".into(),
                started_at: Timestamp(9),
                parent: Some("c-0".into()),
                owner: Some("5001".into()),
                user_data: UserData::new([("AccountNumber".into(), "12\n3".into())]).unwrap(),
                parties: parties.clone(),
            })
        };
        let device = |kind, forward_to| {
            Fact::Device(DeviceFact {
                id: "d".into(),
                number: "5001".into(),
                kind,
                registered: true,
                do_not_disturb: true,
                forward_to,
            })
        };
        let mut facts = vec![
            device(DeviceKind::Phone, None),
            device(DeviceKind::RoutingPoint, Some("5002".into())),
            monitor(MonitorState::Armed),
            monitor(MonitorState::Admitting { call: "c".into() }),
            monitor(MonitorState::Inviting { call: "c".into() }),
            monitor(MonitorState::Joined {
                call: "c".into(),
                activity: Activity::ListenIn,
                since: Timestamp(3),
            }),
            Fact::DeviceGone { device: "d".into() },
            Fact::MonitorGone { supervisor: "s".into() },
            Fact::AdmissionAsked(AdmissionAsked {
                supervisor: "s".into(),
                target: "t".into(),
                call: "c".into(),
                activity: Activity::Coach,
            }),
            Fact::JoinSound(JoinSound {
                supervisor: "s".into(),
                target: "t".into(),
                call: "c".into(),
                since: Timestamp(3),
                legs: vec![
                    LegSound {
                        role: PartyRole::Customer,
                        port: 20_000,
                        remote: Some("[2001:db8::7]:40000".parse().unwrap()),
                        codec: "PCMU".into(),
                        sent: Some(SentSound {
                            packets: 9,
                            agents: 8,
                            hash_before: [1; 32],
                            hash: [2; 32],
                        }),
                    },
                    LegSound {
                        role: PartyRole::Supervisor,
                        port: 0,
                        remote: None,
                        codec: String::new(),
                        sent: None,
                    },
                ],
            }),
            Fact::SnapshotComplete,
        ];
        facts.extend(CallType::ALL.iter().map(|call_type| call(*call_type)));
        facts.extend(Reason::ALL.iter().map(|reason| {
            Fact::Failed(Failure {
                device: "d".into(),
                call: None,
                request_id: Some("r".into()),
                refusal: Refusal::new(*reason, "why"),
            })
        }));
        facts.push(Fact::Failed(Failure {
            device: "d".into(),
            call: None,
            request_id: None,
            refusal: Refusal::about(
                Reason::InvalidState,
                Subject::Device("d".into()),
                "Device '{}' is busy.",
            ),
        }));
        facts
    }
}
