//! Requests: may he, and what command does it become?

use super::access::{may_monitor_at_all, needs_feature};
use super::audit_record::{AuditEvent, AuditRecord};
use super::{Audited, BackendState, Decision, Gateway, PendingCommand, User, views};
use crate::model::{
    Activity, AgentState, CallId, CallOperation, CallView, Command, CommandContext, DeviceId, DeviceKind, Feature, Mode, Now, Number,
    Reason, Refusal, Request, RequestEnvelope, RequestId, Scope, Subject, TargetRef, Timestamp, TransferStep,
};

impl Gateway {
    pub(super) fn decide(&mut self, asked: &RequestEnvelope, now: Now) -> Result<Decision, Refusal> {
        let user = self.house.user(&asked.user)?;
        match &asked.request {
            Request::StartMonitoring {
                device,
                target,
                activity,
                mode,
                scope,
            } => {
                self.house.own_device(user, device)?;
                may_monitor_at_all(user)?;
                let target = self.resolve(user, target, *activity, *scope)?;
                self.offered(*activity, *mode, *scope)?;
                let agent_side_only = self.house.agent_side_only(&target);
                if agent_side_only && matches!(self.backend, BackendState::Here) && !self.capabilities.agent_side_only {
                    return Err(forbidden("The telephony backend can not keep customers from being heard."));
                }
                let mut errand = self.errand(
                    asked,
                    Audited::Before,
                    Command::StartMonitoring {
                        supervisor: device.clone(),
                        target: target.clone(),
                        activity: *activity,
                        mode: *mode,
                        scope: *scope,
                        confirm_joins: true,
                        agent_side_only,
                    },
                    now,
                )?;
                errand.record.target = Some(target);
                Ok(Decision::Errand(Box::new(errand)))
            }
            Request::MisaskedMonitoring { device, refusal, .. } => {
                self.house.own_device(user, device)?;
                may_monitor_at_all(user)?;
                Err(refusal.clone())
            }
            Request::CancelMonitoring { device } => {
                self.house.own_device(user, device)?;
                may_monitor_at_all(user)?;
                let supervisor = device.clone();
                let mut errand = self.errand(asked, Audited::Beside, Command::StopMonitoring { supervisor }, now)?;
                errand.record.target = self.monitors.get(device).map(|monitor| monitor.target.clone());
                Ok(Decision::Errand(Box::new(errand)))
            }
            Request::SetDoNotDisturb { device, on } => {
                self.house.own_device(user, device)?;
                let (device, on) = (device.clone(), *on);
                self.plain(asked, Command::SetDoNotDisturb { device, on }, now)
            }
            Request::SetForwarding { device, to } => {
                self.house.own_device(user, device)?;
                if let Some(to) = to {
                    dialable(to)?;
                    if self.house.device(device).is_some_and(|entry| entry.number == *to) {
                        return Err(Refusal::new(Reason::InvalidInput, "A device cannot forward to itself."));
                    }
                }
                let (device, to) = (device.clone(), to.clone());
                self.plain(asked, Command::SetForwarding { device, to }, now)
            }
            Request::Dial { device, destination } => {
                self.house.own_device(user, device)?;
                dialable(destination)?;
                let (device, destination) = (device.clone(), destination.clone());
                self.plain(asked, Command::Dial { device, destination }, now)
            }
            Request::OnCall { call, operation } => self.on_call(user, asked, call, operation, now),
            Request::StartSession => {
                needs_feature(user, Feature::Voice)?;
                if !self.sessions.contains_key(&asked.user) {
                    self.set_presence(&asked.user, Some(AgentState::NotReady));
                }
                Ok(Decision::Done)
            }
            Request::EndSession => {
                self.end_session(asked, now);
                Ok(Decision::Done)
            }
            Request::SetAgentState(state) => {
                needs_feature(user, Feature::Voice)?;
                if !self.sessions.contains_key(&asked.user) {
                    return Err(Refusal::new(Reason::InvalidState, "No contact centre session is open."));
                }
                self.set_presence(&asked.user, Some(*state));
                Ok(Decision::Done)
            }
        }
    }

    fn plain(&self, asked: &RequestEnvelope, command: Command, now: Now) -> Result<Decision, Refusal> {
        let errand = self.errand(asked, Audited::Never, command, now)?;
        Ok(Decision::Errand(Box::new(errand)))
    }

    fn errand(&self, asked: &RequestEnvelope, audited: Audited, command: Command, now: Now) -> Result<PendingCommand, Refusal> {
        match self.backend {
            BackendState::Here => {}
            BackendState::Away | BackendState::Reading { .. } => {
                return Err(Refusal::new(Reason::Unavailable, "The telephony backend cannot be reached."));
            }
        }
        let context = CommandContext {
            // Ids come from clients: one user's must never stand for another's.
            request_id: RequestId::from(format!("{}/{}", asked.user, asked.request_id)),
            user: asked.user.clone(),
            deadline: self.config.command_deadline,
        };
        Ok(PendingCommand {
            context,
            command,
            record: record(asked, AuditEvent::Allowed, now.wall),
            audited,
            digits_on: None,
        })
    }

    /// The device to monitor, if he may monitor it.
    fn resolve(&self, user: &User, target: &TargetRef, activity: Activity, scope: Scope) -> Result<DeviceId, Refusal> {
        let by_number = |number: &Number| {
            let found = self.by_number(number);
            found.filter(|device| self.exists(device))
        };
        let device = match (&target.device, &target.number) {
            (None, None) => return Err(Refusal::missing("targetDeviceUri")),
            (Some(device), None) => device,
            (None, Some(number)) => by_number(number).ok_or_else(|| Refusal::no_number(number))?,
            (Some(device), Some(number)) if by_number(number) == Some(device) => device,
            (Some(device), Some(_)) if self.exists(device) => {
                return Err(Refusal::new(
                    Reason::InvalidInput,
                    "Parameters 'targetDeviceUri' and 'phoneNumber' name different devices.",
                ));
            }
            (Some(device), Some(_)) => device,
        };
        if !self.exists(device) {
            return Err(Refusal::no_device(device));
        }
        self.may_monitor_target(user, device)
            .map_err(|refusal| match (&target.device, &target.number) {
                // Whoever names a number does not learn which device has it.
                (None, Some(number)) if refusal.subject == Some(Subject::Device(device.clone())) => {
                    Refusal::number(refusal.reason, number, "Phone number '{}' is in none of your groups.")
                }
                _ => refusal,
            })?;
        if self.devices.get(device).is_some_and(|fact| fact.kind == DeviceKind::RoutingPoint) {
            self.routing_point(activity, scope)?;
        }
        Ok(device.clone())
    }

    /// A device of the directory, or a routing point of the backend.
    fn by_number(&self, number: &Number) -> Option<&DeviceId> {
        let routing_point = || {
            let mut devices = self.devices.values();
            let found = devices.find(|device| device.number == *number && device.kind == DeviceKind::RoutingPoint);
            found.map(|device| &device.id)
        };
        self.house.device_by_number(number).map(|entry| &entry.id).or_else(routing_point)
    }

    /// What a refused attempt was about, as far as we know it: for the audit, which may know more than the caller.
    pub(super) fn refused_record(&self, asked: &RequestEnvelope, now: Now) -> AuditRecord {
        let record = record(asked, AuditEvent::Refused, now.wall);
        let target_of = |device: &DeviceId| self.monitors.get(device).map(|monitor| monitor.target.clone());
        match &asked.request {
            Request::StartMonitoring { target, .. } => AuditRecord {
                target: record.target.or_else(|| self.by_number(target.number.as_ref()?).cloned()),
                ..record
            },
            Request::CancelMonitoring { device } => AuditRecord {
                target: target_of(device),
                ..record
            },
            Request::OnCall { call, .. } => {
                let leg = self
                    .house
                    .user(&asked.user)
                    .ok()
                    .and_then(|user| self.live_leg(user, self.calls.get(call)?));
                let device = leg.map(|leg| leg.device);
                AuditRecord {
                    target: device.as_ref().and_then(target_of),
                    device,
                    ..record
                }
            }
            Request::MisaskedMonitoring { .. }
            | Request::SetDoNotDisturb { .. }
            | Request::SetForwarding { .. }
            | Request::Dial { .. }
            | Request::StartSession
            | Request::EndSession
            | Request::SetAgentState(_) => record,
        }
    }

    fn exists(&self, device: &DeviceId) -> bool {
        let routing_point = || self.devices.get(device).is_some_and(|fact| fact.kind == DeviceKind::RoutingPoint);
        self.house.device(device).is_some() || routing_point()
    }

    /// He may monitor this device or routing point; also asked before every join.
    pub(super) fn may_monitor_target(&self, user: &User, target: &DeviceId) -> Result<(), Refusal> {
        self.house.may_monitor(user, target)
    }

    fn routing_point(&self, activity: Activity, scope: Scope) -> Result<(), Refusal> {
        if self.capabilities.sip_cluster {
            return Err(forbidden(
                "Monitoring of routing points is not supported in SIP Cluster environments.",
            ));
        }
        if !self.capabilities.routing_points {
            return Err(forbidden("The telephony backend does not monitor routing points."));
        }
        if activity != Activity::ListenIn {
            return Err(forbidden("A routing point can only be listened to."));
        }
        if scope != Scope::Call {
            return Err(Refusal::parameter(
                Reason::InvalidInput,
                "supervisorMonitoringScope",
                "Parameter '{}' must be Call for a routing point.",
            ));
        }
        Ok(())
    }

    fn offered(&self, activity: Activity, mode: Mode, scope: Scope) -> Result<(), Refusal> {
        // A backend that was never reached has said nothing about itself yet.
        let BackendState::Here = self.backend else { return Ok(()) };
        let not_offered = |word: &str| Err(forbidden(&format!("The telephony backend does not offer {word}.")));
        if !self.capabilities.activities.contains(&activity) {
            return not_offered(activity.as_str());
        }
        if !self.capabilities.modes.contains(&mode) {
            return not_offered(mode.as_str());
        }
        if !self.capabilities.scopes.contains(&scope) {
            return not_offered(&format!("scope {scope}"));
        }
        Ok(())
    }

    fn on_call(
        &self,
        user: &User,
        asked: &RequestEnvelope,
        call: &CallId,
        operation: &CallOperation,
        now: Now,
    ) -> Result<Decision, Refusal> {
        needs_feature(user, Feature::Voice)?;
        if matches!(operation, CallOperation::Switch(_) | CallOperation::MuteMonitored(_)) {
            may_monitor_at_all(user)?;
        }
        let not_found = || Refusal::not_found(format_args!("/me/calls/{call}"));
        let fact = self.calls.get(call).ok_or_else(not_found)?;
        let leg = self.live_leg(user, fact).ok_or_else(not_found)?;
        self.offers(&leg, operation)?;
        let (command, audited) = call_command(&leg, operation)?;
        let mut errand = self.errand(asked, audited, command, now)?;
        errand.record.device = Some(leg.device.clone());
        errand.record.target = self.monitors.get(&leg.device).map(|monitor| monitor.target.clone());
        if let CallOperation::SendDtmf(_) = operation {
            errand.digits_on = Some((leg.id, leg.device));
        }
        Ok(Decision::Errand(Box::new(errand)))
    }

    /// The operation exists for this kind of leg and the backend can do it. Whether the leg's state allows it is the backend's to say:
    /// a client may ask for the next thing before the fact of the last one has arrived here.
    fn offers(&self, leg: &CallView, operation: &CallOperation) -> Result<(), Refusal> {
        let backend = &self.capabilities;
        let word = call_operation(operation);
        let can_step = |step: &TransferStep| backend.consultations || matches!(step, TransferStep::SingleStep { .. });
        let possible = match operation {
            CallOperation::Answer | CallOperation::Hangup => true,
            CallOperation::Hold | CallOperation::Retrieve | CallOperation::Mute(_) => !leg.monitoring,
            CallOperation::SendDtmf(_) => backend.dtmf && !leg.monitoring,
            CallOperation::Transfer(step) => backend.transfers && can_step(step) && !leg.monitoring,
            CallOperation::Conference(step) => backend.conferences && can_step(step) && !leg.monitoring,
            CallOperation::RemoveParticipant(_) => backend.conferences,
            CallOperation::MuteMonitored(_) => backend.mute_monitored,
            CallOperation::Switch(to) => {
                backend.live_switching && backend.activities.contains(to) && !(self.config.one_way_coach && *to == Activity::Coach)
            }
        };
        if !possible {
            return Err(forbidden(&format!("Operation '{word}' is not possible here.")));
        }
        let monitors_only = matches!(operation, CallOperation::Switch(_) | CallOperation::MuteMonitored(_));
        if monitors_only && !leg.monitoring {
            return Err(Refusal::new(
                Reason::InvalidState,
                format!("Operation '{word}' needs a monitored call: you are not monitoring this one."),
            ));
        }
        Ok(())
    }
}

fn call_command(leg: &CallView, operation: &CallOperation) -> Result<(Command, Audited), Refusal> {
    let (device, call) = (leg.device.clone(), leg.id.clone());
    let supervisor = device.clone();
    // A supervisor's leg is answered and released without asking the audit: the join was admitted, and leaving waits for nothing.
    let command = match operation {
        CallOperation::Answer => Command::Answer { device, call },
        CallOperation::Hangup => Command::Hangup { device, call },
        CallOperation::Hold => Command::Hold { device, call },
        CallOperation::Retrieve => Command::Retrieve { device, call },
        CallOperation::Mute(on) => Command::Mute { device, call, on: *on },
        CallOperation::SendDtmf(digits) => {
            let digits = dtmf(digits)?;
            Command::SendDtmf { device, call, digits }
        }
        CallOperation::Switch(activity) => {
            let activity = *activity;
            return Ok((
                Command::SwitchMonitoring {
                    supervisor,
                    call,
                    activity,
                },
                Audited::Before,
            ));
        }
        CallOperation::MuteMonitored(muted) => {
            let muted = *muted;
            return Ok((Command::MuteMonitoredParty { supervisor, call, muted }, Audited::Before));
        }
        CallOperation::Transfer(step) => Command::Transfer {
            device,
            call,
            step: step_to(step)?,
        },
        CallOperation::Conference(step) => Command::Conference {
            device,
            call,
            step: step_to(step)?,
        },
        CallOperation::RemoveParticipant(participant) => {
            telephone_number("participant", participant)?;
            let participant = participant.clone();
            Command::RemoveParticipant { device, call, participant }
        }
    };
    Ok((command, Audited::Never))
}

fn step_to(step: &TransferStep) -> Result<TransferStep, Refusal> {
    match step {
        TransferStep::SingleStep { destination } | TransferStep::Initiate { destination } => dialable(destination)?,
        TransferStep::Complete => {}
    }
    Ok(step.clone())
}

fn forbidden(message: &str) -> Refusal {
    Refusal::new(Reason::Forbidden, message)
}

fn dialable(number: &Number) -> Result<(), Refusal> {
    telephone_number("destination", number)
}

/// A number, never a URI: what is dialled must not choose a host.
fn telephone_number(field: &str, number: &Number) -> Result<(), Refusal> {
    let text = number.as_str();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+*#._-".contains(&byte);
    if text.is_empty() {
        return Err(Refusal::missing(field));
    }
    if text.len() > LONGEST_NUMBER || !text.bytes().all(plain) {
        return Err(Refusal::parameter(
            Reason::InvalidInput,
            field,
            "Parameter '{}' is not a telephone number.",
        ));
    }
    Ok(())
}

const LONGEST_NUMBER: usize = 64;

fn dtmf(digits: &str) -> Result<String, Refusal> {
    let plain = |byte: u8| byte.is_ascii_digit() || b"*#ABCD".contains(&byte.to_ascii_uppercase());
    if digits.is_empty() {
        return Err(Refusal::missing("digits"));
    }
    if digits.len() > LONGEST_NUMBER || !digits.bytes().all(plain) {
        return Err(Refusal::parameter(
            Reason::InvalidInput,
            "digits",
            "Parameter '{}' may contain 0-9, *, # and A-D.",
        ));
    }
    Ok(digits.to_ascii_uppercase())
}

/// Every attempt to monitor is written down; of the rest, attempts at what is not his.
pub(super) fn refusal_is_audited(request: &Request, reason: Reason) -> bool {
    let monitoring = match request {
        Request::StartMonitoring { .. } | Request::MisaskedMonitoring { .. } | Request::CancelMonitoring { .. } => true,
        Request::OnCall { operation, .. } => matches!(operation, CallOperation::Switch(_) | CallOperation::MuteMonitored(_)),
        Request::SetDoNotDisturb { .. }
        | Request::SetForwarding { .. }
        | Request::Dial { .. }
        | Request::StartSession
        | Request::EndSession
        | Request::SetAgentState(_) => false,
    };
    monitoring || matches!(reason, Reason::NotPermitted | Reason::NotFound)
}

pub(super) fn record(asked: &RequestEnvelope, event: AuditEvent, at: Timestamp) -> AuditRecord {
    let blank = AuditRecord {
        user: Some(asked.user.clone()),
        from: Some(asked.from),
        request_id: Some(asked.request_id.clone()),
        operation: Some(operation(&asked.request)),
        ..AuditRecord::new(event, at)
    };
    match &asked.request {
        Request::StartMonitoring {
            device,
            target,
            activity,
            mode,
            scope,
        } => AuditRecord {
            device: Some(device.clone()),
            target: target.device.clone(),
            number: target.number.clone(),
            activity: Some(*activity),
            mode: Some(*mode),
            scope: Some(*scope),
            ..blank
        },
        Request::MisaskedMonitoring { device, activity, .. } => AuditRecord {
            device: Some(device.clone()),
            activity: Some(*activity),
            ..blank
        },
        Request::CancelMonitoring { device }
        | Request::SetDoNotDisturb { device, .. }
        | Request::SetForwarding { device, .. }
        | Request::Dial { device, .. } => AuditRecord {
            device: Some(device.clone()),
            ..blank
        },
        Request::OnCall { call, operation } => AuditRecord {
            call: Some(call.clone()),
            activity: match operation {
                CallOperation::Switch(to) => Some(*to),
                _ => None,
            },
            ..blank
        },
        Request::StartSession | Request::EndSession | Request::SetAgentState(_) => blank,
    }
}

/// The operation's name, in the field's words.
pub(crate) fn operation(request: &Request) -> &'static str {
    match request {
        Request::StartMonitoring { activity, .. } | Request::MisaskedMonitoring { activity, .. } => activity.as_str(),
        Request::CancelMonitoring { .. } => "CancelSupervisorMonitoring",
        Request::SetDoNotDisturb { on: true, .. } => "DoNotDisturbOn",
        Request::SetDoNotDisturb { on: false, .. } => "DoNotDisturbOff",
        Request::SetForwarding { to: Some(_), .. } => "ForwardCallsOn",
        Request::SetForwarding { to: None, .. } => "ForwardCallsOff",
        Request::Dial { .. } => "Dial",
        Request::OnCall { operation, .. } => call_operation(operation),
        Request::StartSession => "StartContactCenterSession",
        Request::EndSession => "EndContactCenterSession",
        Request::SetAgentState(state) => state.as_str(),
    }
}

fn call_operation(operation: &CallOperation) -> &'static str {
    match operation {
        CallOperation::Answer => "Answer",
        CallOperation::Hangup => "Hangup",
        CallOperation::Hold => "Hold",
        CallOperation::Retrieve => "Retrieve",
        CallOperation::Mute(true) => "MuteCall",
        CallOperation::Mute(false) => "UnmuteCall",
        CallOperation::SendDtmf(_) => "SendDtmf",
        CallOperation::Switch(to) => views::switch_word(*to),
        CallOperation::MuteMonitored(true) => "MuteMonitoredUser",
        CallOperation::MuteMonitored(false) => "UnmuteMonitoredUser",
        CallOperation::Transfer(TransferStep::SingleStep { .. }) => "SingleStepTransfer",
        CallOperation::Transfer(TransferStep::Initiate { .. }) => "InitiateTransfer",
        CallOperation::Transfer(TransferStep::Complete) => "CompleteTransfer",
        CallOperation::Conference(TransferStep::SingleStep { .. }) => "SingleStepConference",
        CallOperation::Conference(TransferStep::Initiate { .. }) => "InitiateConference",
        CallOperation::Conference(TransferStep::Complete) => "CompleteConference",
        CallOperation::RemoveParticipant(_) => "RemoveParticipantFromConference",
    }
}
