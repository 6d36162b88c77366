//! Requests: whether the user may ask it, and which command it becomes.

use super::User;
use super::access::{may_monitor_at_all, needs_feature};
use super::audit_record::{AuditEvent, AuditRecord};
use super::pending::{Audited, PendingCommand};
use super::views::Reader;
use crate::model::{
    Activity, AgentState, BadRequest, BadRequestOn, CallId, Capabilities, Command, CommandContext,
    DeviceId, DialString, Feature, Mode, Now, Number, Operation, Reason, Refusal, Request,
    RequestEnvelope, RequestId, Scope, Subject, TargetRef, Timestamp, UserData, UserState,
};
use std::borrow::Cow;

/// What becomes of a permitted request.
pub(super) enum Decision {
    /// Nothing is left to do.
    Done,
    /// The user's voice state changes; a session opens if none is open.
    Presence(UserState),
    /// The user's session ends.
    EndSession,
    /// The backend is to do it.
    Command(Box<PendingCommand>),
}

/// A request held against permissions, capabilities and what the backend has reported. Changes
/// nothing.
pub(super) struct RequestCheck<'a> {
    pub(super) reads: Reader<'a>,
}

impl<'a> RequestCheck<'a> {
    pub(super) fn new(reads: Reader<'a>) -> Self {
        Self { reads }
    }

    pub(super) fn decide(&self, asked: &RequestEnvelope, now: Now) -> Result<Decision, Refusal> {
        if let Some(caller) = &asked.caller {
            self.reads.access.acts_for(caller, &asked.user)?;
        }
        let unknown = |refusal| match asked.caller {
            Some(_) => {
                let user = Subject::User(asked.user.clone());
                Refusal::about(Reason::NotPermitted, user, "User '{}' is not known.")
            }
            None => refusal,
        };
        let user = self.reads.access.user(&asked.user).map_err(unknown)?;
        let request = match &asked.request {
            Ok(request) => request,
            Err(bad) => return Err(self.refused(user, bad)),
        };
        match request {
            Request::StartMonitoring { device, target, activity, mode, scope } => {
                self.reads.access.own_device(user, device)?;
                may_monitor_at_all(user)?;
                let target = self.resolve(user, target, *activity, *scope)?;
                self.offered(*activity, *mode, *scope)?;
                let agent_side_only = self.reads.access.agent_side_only(&target);
                if agent_side_only
                    && self.reads.known.is_ready()
                    && !self.reads.known.capabilities.agent_side_only
                {
                    return Err(forbidden(
                        "The telephony backend can not keep customers from being heard.",
                    ));
                }
                let mut pending = self.pending(
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
                pending.record.target = Some(target);
                Ok(Decision::Command(Box::new(pending)))
            }
            Request::CancelMonitoring { device } => {
                self.reads.access.own_device(user, device)?;
                may_monitor_at_all(user)?;
                let supervisor = device.clone();
                let mut pending = self.pending(
                    asked,
                    Audited::Beside,
                    Command::StopMonitoring { supervisor },
                    now,
                )?;
                pending.record.target = self.reads.known.target_of(device);
                Ok(Decision::Command(Box::new(pending)))
            }
            Request::SetDoNotDisturb { device, on } => {
                self.reads.access.own_device(user, device)?;
                self.can(|backend| backend.do_not_disturb, "do-not-disturb")?;
                let (device, on) = (device.clone(), *on);
                self.plain(asked, Command::SetDoNotDisturb { device, on }, now)
            }
            Request::SetForwarding { device, to } => {
                self.reads.access.own_device(user, device)?;
                self.can(|backend| backend.forwarding, "forwarding")?;
                let to = to.as_ref().map(DialString::number);
                if to.is_some() && self.reads.access.device(device).map(|entry| &entry.number) == to
                {
                    return Err(Refusal::new(
                        Reason::InvalidInput,
                        "A device cannot forward to itself.",
                    ));
                }
                let (device, to) = (device.clone(), to.cloned());
                self.plain(asked, Command::SetForwarding { device, to }, now)
            }
            Request::Dial { device, destination, user_data } => {
                self.reads.access.own_device(user, device)?;
                self.can(|backend| backend.dial, "dialling")?;
                self.carries(user_data)?;
                let (device, destination) = (device.clone(), destination.number().clone());
                let user_data = user_data.clone();
                self.plain(asked, Command::Dial { device, destination, user_data }, now)
            }
            Request::OnCall { call, operation } => self.on_call(user, asked, call, operation, now),
            Request::StartSession => {
                needs_feature(user, Feature::Voice)?;
                match self.reads.sessions.contains_key(&asked.user) {
                    true => Ok(Decision::Done),
                    false => Ok(Decision::Presence(AgentState::NotReady.into())),
                }
            }
            Request::EndSession => Ok(Decision::EndSession),
            Request::SetAgentState(state) => {
                needs_feature(user, Feature::Voice)?;
                let has_session = self.reads.sessions.contains_key(&asked.user);
                if state.state == AgentState::Offline && !has_session {
                    return Ok(Decision::Done);
                }
                self.has_phone(user, state.state)?;
                Ok(Decision::Presence(state.clone()))
            }
        }
    }

    /// An agent without a phone takes no state but Offline. What the phones are is known while the
    /// backend can be reached.
    fn has_phone(&self, user: &User, state: AgentState) -> Result<(), Refusal> {
        let Some(first) = user.devices.first() else {
            return Ok(());
        };
        let facts = self.reads.known.facts();
        let is_there = |device| facts.device(device).is_some_and(|fact| fact.registered);
        if state == AgentState::Offline
            || !self.reads.known.is_ready()
            || user.devices.iter().any(is_there)
        {
            return Ok(());
        }
        let refusal = Refusal::device(Reason::Internal, first, "Device '{}' is not registered.");
        Err(self.reads.access.render_for(Some(user), refusal))
    }

    /// The device that a user is told of when its state is refused: it has no phone.
    pub(super) fn unreachable(
        &self,
        asked: &RequestEnvelope,
        refusal: &Refusal,
    ) -> Option<DeviceId> {
        let is_state = matches!(asked.request, Ok(Request::SetAgentState(_)));
        let user = self.reads.access.user(&asked.user).ok()?;
        let device = user.devices.first().cloned()?;
        (is_state && refusal.reason == Reason::Internal).then_some(device)
    }

    /// Why a request that cannot be read is refused: permissions come first, and what is not
    /// offered needs no parameters.
    fn refused(&self, user: &User, bad: &BadRequest) -> Refusal {
        let permitted = match &bad.on {
            BadRequestOn::Device(device) => {
                self.reads.access.own_device(user, device).and_then(|()| {
                    match bad.operation.is_monitoring() {
                        true => may_monitor_at_all(user),
                        false => Ok(()),
                    }
                })
            }
            BadRequestOn::Call(call) => self.leg_that_offers(user, call, bad.operation).map(|_| ()),
        };
        permitted.err().unwrap_or_else(|| bad.refusal.clone())
    }

    fn plain(
        &self,
        asked: &RequestEnvelope,
        command: Command,
        now: Now,
    ) -> Result<Decision, Refusal> {
        let pending = self.pending(asked, Audited::Never, command, now)?;
        Ok(Decision::Command(Box::new(pending)))
    }

    pub(super) fn pending(
        &self,
        asked: &RequestEnvelope,
        audited: Audited,
        command: Command,
        now: Now,
    ) -> Result<PendingCommand, Refusal> {
        if !self.reads.known.is_ready() {
            return Err(Refusal::new(
                Reason::Unavailable,
                "The telephony backend cannot be reached.",
            ));
        }
        let context = CommandContext {
            // Ids come from clients: one user's must never stand for another's.
            request_id: RequestId::from(format!("{}/{}", asked.user, asked.request_id)),
            user: Some(asked.user.clone()),
            caller: None,
            from: None,
            deadline: self.reads.config.command_deadline,
            feature_code: None,
        };
        Ok(PendingCommand {
            context,
            command,
            record: record(asked, AuditEvent::Allowed, now.wall),
            audited,
            digits_on: None,
            data_bytes: None,
        })
    }

    /// The device to monitor, if the user may monitor it.
    fn resolve(
        &self,
        user: &User,
        target: &TargetRef,
        activity: Activity,
        scope: Scope,
    ) -> Result<DeviceId, Refusal> {
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
        self.reads.access.may_monitor(user, device).map_err(|refusal| {
            let is_of_device = refusal.subject == Some(Subject::Device(device.clone()));
            match &target.number {
                // A user that names a number does not learn which device has it.
                Some(number) if target.device.is_none() && is_of_device => Refusal::number(
                    refusal.reason,
                    number,
                    "Phone number '{}' is in none of your groups.",
                ),
                Some(_) | None => refusal,
            }
        })?;
        if self.reads.known.is_routing_point(device) {
            self.routing_point(activity, scope)?;
        }
        Ok(device.clone())
    }

    /// A device of the directory, or a routing point of the backend.
    fn by_number(&self, number: &Number) -> Option<&'a DeviceId> {
        let device = self.reads.access.device_by_number(number).map(|entry| &entry.id);
        device.or_else(|| self.reads.known.routing_point_by_number(number))
    }

    /// What a refused attempt was about, as far as we know it: for the audit, which may know more
    /// than the caller.
    pub(super) fn refused_record(&self, asked: &RequestEnvelope, now: Now) -> AuditRecord {
        let record = record(asked, AuditEvent::Refused, now.wall);
        let target_of = |device: &DeviceId| self.reads.known.target_of(device);
        let request = match &asked.request {
            Ok(request) => request,
            Err(BadRequest { on: BadRequestOn::Call(call), .. }) => {
                return self.on_own_leg(record, asked, call);
            }
            Err(BadRequest { on: BadRequestOn::Device(_), .. }) => return record,
        };
        match request {
            Request::StartMonitoring { target, .. } => AuditRecord {
                target: record.target.or_else(|| self.by_number(target.number.as_ref()?).cloned()),
                ..record
            },
            Request::CancelMonitoring { device } => {
                AuditRecord { target: target_of(device), ..record }
            }
            Request::OnCall { call, .. } => self.on_own_leg(record, asked, call),
            Request::SetDoNotDisturb { .. }
            | Request::SetForwarding { .. }
            | Request::Dial { .. }
            | Request::StartSession
            | Request::EndSession
            | Request::SetAgentState(_) => record,
        }
    }

    /// The record with the device of the user's leg of the call, and the target of its monitor.
    fn on_own_leg(
        &self,
        record: AuditRecord,
        asked: &RequestEnvelope,
        call: &CallId,
    ) -> AuditRecord {
        let user = self.reads.access.user(&asked.user).ok();
        let device = user.and_then(|user| self.reads.own_leg(user, call)).map(|leg| leg.device);
        AuditRecord {
            target: device.as_ref().and_then(|device| self.reads.known.target_of(device)),
            device,
            ..record
        }
    }

    /// The backend's calls carry data, or there is none to carry.
    pub(super) fn carries(&self, user_data: &UserData) -> Result<(), Refusal> {
        match user_data.is_empty() {
            true => Ok(()),
            false => self.can(|backend| backend.user_data, "call data"),
        }
    }

    /// The backend can do it. One that was never reached has said nothing about itself yet.
    fn can(&self, can: impl FnOnce(&Capabilities) -> bool, what: &str) -> Result<(), Refusal> {
        if !self.reads.known.is_ready() || can(&self.reads.known.capabilities) {
            return Ok(());
        }
        Err(forbidden(format!("The telephony backend does not offer {what}.")))
    }

    fn exists(&self, device: &DeviceId) -> bool {
        self.reads.access.device(device).is_some() || self.reads.known.is_routing_point(device)
    }

    fn routing_point(&self, activity: Activity, scope: Scope) -> Result<(), Refusal> {
        if self.reads.known.capabilities.sip_cluster {
            return Err(forbidden(
                "Monitoring of routing points is not supported in SIP Cluster environments.",
            ));
        }
        if !self.reads.known.capabilities.routing_points {
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
        if !self.reads.known.is_ready() {
            return Ok(());
        }
        let not_offered =
            |word: &str| Err(forbidden(format!("The telephony backend does not offer {word}.")));
        if !self.reads.known.capabilities.activities.contains(&activity) {
            return not_offered(activity.as_str());
        }
        if !self.reads.known.capabilities.modes.contains(&mode) {
            return not_offered(mode.as_str());
        }
        if !self.reads.known.capabilities.scopes.contains(&scope) {
            return not_offered(&format!("scope {scope}"));
        }
        Ok(())
    }
}

pub(super) fn forbidden(message: impl Into<Cow<'static, str>>) -> Refusal {
    Refusal::new(Reason::Forbidden, message)
}

/// Every attempt to monitor is written down; of the rest, attempts at what is not the user's.
pub(super) fn refusal_is_audited(operation: Operation, reason: Reason) -> bool {
    operation.is_monitoring() || matches!(reason, Reason::NotPermitted | Reason::NotFound)
}

pub(super) fn record(asked: &RequestEnvelope, event: AuditEvent, at: Timestamp) -> AuditRecord {
    let blank = AuditRecord {
        user: Some(asked.user.clone()),
        caller: asked.caller.as_ref().map(|caller| caller.name.clone()),
        from: Some(asked.from),
        request_id: Some(asked.request_id.clone()),
        operation: Some(asked.operation()),
        ..AuditRecord::new(event, at)
    };
    let request = match &asked.request {
        Ok(request) => request,
        Err(bad) => return bad_record(bad, blank),
    };
    match request {
        Request::StartMonitoring { device, target, activity, mode, scope } => AuditRecord {
            device: Some(device.clone()),
            target: target.device.clone(),
            number: target.number.clone(),
            activity: Some(*activity),
            mode: Some(*mode),
            scope: Some(*scope),
            ..blank
        },
        Request::CancelMonitoring { device }
        | Request::SetDoNotDisturb { device, .. }
        | Request::SetForwarding { device, .. }
        | Request::Dial { device, .. } => AuditRecord { device: Some(device.clone()), ..blank },
        Request::OnCall { call, operation } => AuditRecord {
            call: Some(call.clone()),
            activity: operation.name().switched_to(),
            ..blank
        },
        Request::StartSession | Request::EndSession | Request::SetAgentState(_) => blank,
    }
}

fn bad_record(bad: &BadRequest, blank: AuditRecord) -> AuditRecord {
    match &bad.on {
        BadRequestOn::Device(device) => {
            AuditRecord { device: Some(device.clone()), activity: bad.operation.started(), ..blank }
        }
        BadRequestOn::Call(call) => {
            AuditRecord { call: Some(call.clone()), activity: bad.operation.switched_to(), ..blank }
        }
    }
}
