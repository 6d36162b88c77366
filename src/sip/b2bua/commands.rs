//! What the gateway asks for.

use super::call::{Call, Next};
use super::party::{Party, Release};
use super::rejection::CalleeFailure;
use super::routing::DialPlan;
use super::step::{Ctx, Step};
use super::transfer::TransferKind;
use super::write_ahead::PendingCommand;
use super::{B2bua, CommandId, Environment, Output, Persist, RestoredDevice, role_of, stopping};
use crate::model::{
    Activity, Command, DeviceId, Fact, MonitorFact, MonitorState, Now, Number, PartyRole, Reason,
    Refusal, UserDataChange,
};
use crate::supervision::LegOutcome;

/// What a device does on a call that it is on.
#[derive(Clone, Copy, Debug)]
enum PartyCommand<'a> {
    Answer,
    Hangup,
    Reject,
    Clear,
    Hold(bool),
    Mute(bool),
    SendDigits(&'a str),
    RemoveParticipant(&'a Number),
    MuteMonitored(bool),
    ChangeUserData(&'a UserDataChange),
}

impl<E: Environment> B2bua<E> {
    /// Takes a command, and answers it by [`Output::Reply`]. One that arms a monitor or sets a
    /// device is executed when its change is stored, so that one that can not be stored has changed
    /// nothing; what ends something waits for no disk. A refusal has changed nothing.
    pub fn handle_command(&mut self, id: CommandId, command: Command, now: Now) {
        let result = match self.change_of(&command) {
            Ok(Some(change)) => return self.ahead.begin(id, command, change, &mut self.out),
            Ok(None) => self.execute(&command, now),
            Err(refusal) => Err(refusal),
        };
        self.finish_step(now);
        self.out.push(Output::Reply { id, result });
    }

    /// Takes the outcome of an [`Output::Persist`].
    pub fn handle_persisted(&mut self, id: CommandId, is_stored: bool, now: Now) {
        let Some(PendingCommand { command, change, is_cancelled }) = self.ahead.finish(id) else {
            return;
        };
        let result = match (is_stored, is_cancelled) {
            (true, false) => self.execute(&command, now),
            (true | false, true) => {
                Err(Refusal::new(Reason::InvalidState, "Monitoring was cancelled before it began."))
            }
            (false, false) => Err(Refusal::new(
                Reason::Internal,
                "The change can not be stored now: the disk of the telephony backend is full or \
                 fails.",
            )),
        };
        if result.is_err() {
            self.ahead.take_back(&change, &self.plan, &mut self.out);
        }
        self.finish_step(now);
        self.out.push(Output::Reply { id, result });
    }

    /// What must be stored before this command is executed; `None`: nothing.
    fn change_of(&self, command: &Command) -> Result<Option<Persist>, Refusal> {
        match command {
            Command::StartMonitoring {
                supervisor,
                target,
                activity,
                mode,
                scope,
                confirm_joins,
                agent_side_only,
            } => {
                self.may_be_monitored(supervisor, target)?;
                self.supervision.may_start(supervisor, target)?;
                Ok(Some(Persist::Monitor(MonitorFact {
                    supervisor: supervisor.clone(),
                    target: target.clone(),
                    activity: *activity,
                    mode: *mode,
                    scope: *scope,
                    confirm_joins: *confirm_joins,
                    agent_side_only: *agent_side_only,
                    state: MonitorState::Armed,
                })))
            }
            Command::SetDoNotDisturb { device, on } => {
                self.plan.with_do_not_disturb(device, *on).map(Persist::Device).map(Some)
            }
            Command::SetForwarding { device, to } => {
                self.plan.with_forwarding(device, to.as_ref()).map(Persist::Device).map(Some)
            }
            // Ends something: nobody stays audible because of a disk.
            Command::StopMonitoring { .. } => Ok(None),
            Command::SwitchMonitoring { .. }
            | Command::AdmitMonitoring { .. }
            | Command::MuteMonitoredParty { .. }
            | Command::Dial { .. }
            | Command::Answer { .. }
            | Command::Hangup { .. }
            | Command::Hold { .. }
            | Command::Retrieve { .. }
            | Command::Mute { .. }
            | Command::SendDtmf { .. }
            | Command::Transfer { .. }
            | Command::Conference { .. }
            | Command::RemoveParticipant { .. }
            | Command::ClearCall { .. }
            | Command::Reject { .. }
            | Command::Redirect { .. }
            | Command::SwapCalls { .. }
            | Command::ChangeUserData { .. }
            | Command::RefuseFeatureCode { .. } => Ok(None),
        }
    }

    pub(super) fn execute(&mut self, command: &Command, now: Now) -> Result<(), Refusal> {
        let (device, call, asked) = match command {
            Command::StartMonitoring { supervisor, target, activity, .. } => {
                self.may_be_monitored(supervisor, target)?;
                self.may_coach(*activity, &[supervisor, target])?;
                self.supervision.handle_command(command, now)?;
                self.codes.accept(supervisor, false);
                return Ok(());
            }
            Command::StopMonitoring { supervisor } => {
                let is_cancelled = self.ahead.cancel_start(supervisor, &mut self.out);
                match self.supervision.handle_command(command, now) {
                    Err(_) if is_cancelled => {}
                    done => done?,
                }
                self.codes.accept(supervisor, true);
                return Ok(());
            }
            Command::SwitchMonitoring { supervisor, call, activity } => {
                let call = self.calls.named(call)?;
                let party = call.parties.of(supervisor);
                let agent = party.and_then(Party::monitored);
                let devices: Vec<&DeviceId> = agent.into_iter().chain([supervisor]).collect();
                self.may_coach(*activity, &devices)?;
                return self.supervision.handle_command(command, now);
            }
            Command::AdmitMonitoring { call, .. } => {
                self.calls.key_of(call)?;
                return self.supervision.handle_command(command, now);
            }
            Command::RefuseFeatureCode { device, code, refusal } => {
                return self.refuse_code(device, code, refusal, now);
            }
            Command::SetDoNotDisturb { device, on } => {
                let wanted = self.plan.with_do_not_disturb(device, *on)?;
                self.plan.set(wanted, &mut self.out);
                return Ok(());
            }
            Command::SetForwarding { device, to } => {
                let wanted = self.plan.with_forwarding(device, to.as_ref())?;
                self.plan.set(wanted, &mut self.out);
                return Ok(());
            }
            Command::Dial { device, destination, user_data } => {
                return self.dial(device, destination, None, user_data.clone(), now);
            }
            Command::Redirect { device, call, destination } => {
                return self.redirect(device, call, destination, now);
            }
            Command::SwapCalls { device, call, other } => {
                return self.swap_calls(device, call, other, now);
            }
            Command::Transfer { device, call, step } => {
                return self.transfer(device, call, step, TransferKind::Transfer, now);
            }
            Command::Conference { device, call, step } => {
                return self.transfer(device, call, step, TransferKind::Conference, now);
            }
            Command::Answer { device, call } => (device, call, PartyCommand::Answer),
            Command::Hangup { device, call } => (device, call, PartyCommand::Hangup),
            Command::Reject { device, call } => (device, call, PartyCommand::Reject),
            Command::ClearCall { device, call } => (device, call, PartyCommand::Clear),
            Command::ChangeUserData { device, call, change } => {
                (device, call, PartyCommand::ChangeUserData(change))
            }
            Command::Hold { device, call } => (device, call, PartyCommand::Hold(true)),
            Command::Retrieve { device, call } => (device, call, PartyCommand::Hold(false)),
            Command::Mute { device, call, on } => (device, call, PartyCommand::Mute(*on)),
            Command::SendDtmf { device, call, digits } => {
                (device, call, PartyCommand::SendDigits(digits.as_str()))
            }
            Command::RemoveParticipant { device, call, participant } => {
                (device, call, PartyCommand::RemoveParticipant(participant))
            }
            Command::MuteMonitoredParty { supervisor, call, muted } => {
                (supervisor, call, PartyCommand::MuteMonitored(*muted))
            }
        };
        let (call, mut ctx) = self.find_named(call, now)?;
        let (key, next) = (call.key, call.handle_command(device, asked, &mut ctx)?);
        self.go_on(key, next, now);
        Ok(())
    }

    fn may_coach(&self, activity: Activity, devices: &[&DeviceId]) -> Result<(), Refusal> {
        match activity {
            Activity::Coach => devices.iter().try_for_each(|it| self.plan.may_be_coached(it)),
            Activity::ListenIn | Activity::BargeIn => Ok(()),
        }
    }

    fn may_be_monitored(&self, supervisor: &DeviceId, target: &DeviceId) -> Result<(), Refusal> {
        if self.closing.is_some() {
            return Err(stopping());
        }
        self.plan.may_be_monitored(supervisor, target)
    }
}

impl Call {
    /// What a device does that is on the call.
    fn handle_command(
        &mut self,
        device: &DeviceId,
        command: PartyCommand<'_>,
        ctx: &mut Ctx<'_>,
    ) -> Result<Next, Refusal> {
        let party = self.parties.of_device(device).ok_or_else(|| Refusal::no_call(&self.id))?;
        match command {
            PartyCommand::Answer => party.answer(ctx.out)?,
            PartyCommand::Hangup if party.is_callee() => {
                let leg = party.leg;
                return Ok(self.callee_failed(leg, CalleeFailure::Declined, ctx));
            }
            PartyCommand::Hangup => {
                let is_called = party.is_invited();
                let outcome = if is_called {
                    LegOutcome::Rejected { status: None }
                } else {
                    LegOutcome::HungUp
                };
                ctx.out.changed.insert(self.key);
                party.leave(Release::Hangup(None), outcome, &self.id, ctx);
            }
            PartyCommand::Reject => return self.reject(device, ctx),
            PartyCommand::Clear => return self.clear(device, ctx),
            PartyCommand::ChangeUserData(change) => self.change_user_data(device, change, ctx)?,
            PartyCommand::Hold(on) => {
                party.hold(on)?;
                ctx.out.changed.insert(self.key);
            }
            PartyCommand::Mute(on) => {
                party.mute(on)?;
                ctx.out.changed.insert(self.key);
            }
            PartyCommand::SendDigits(digits) => party.send_digits(digits, ctx.out)?,
            PartyCommand::RemoveParticipant(number) => {
                let is_owner = self.owner.as_ref() == Some(device);
                let is_allowed = is_owner || party.link.as_ref().is_some_and(|link| link.joined);
                let leg = party.leg;
                self.remove_participant(leg, is_allowed, number, ctx)?;
            }
            PartyCommand::MuteMonitored(muted) => {
                let agent = party.monitored_agent(device, &self.id)?;
                self.mute_monitored(&agent, device, muted, ctx)?;
            }
        }
        Ok(Next::Nothing)
    }
}

impl DialPlan {
    /// Both devices are agents'.
    fn may_be_monitored(&self, supervisor: &DeviceId, target: &DeviceId) -> Result<(), Refusal> {
        for device in [supervisor, target] {
            if role_of(self.known(device)?.extension.kind) != PartyRole::Agent {
                return Err(Refusal::device(
                    Reason::Forbidden,
                    device,
                    "Device '{}' is a customer's.",
                ));
            }
        }
        Ok(())
    }

    fn with_do_not_disturb(&self, id: &DeviceId, on: bool) -> Result<RestoredDevice, Refusal> {
        Ok(RestoredDevice { do_not_disturb: on, ..self.known(id)?.kept() })
    }

    fn with_forwarding(
        &self,
        id: &DeviceId,
        to: Option<&Number>,
    ) -> Result<RestoredDevice, Refusal> {
        let device = self.known(id)?;
        if let Some(to) = to {
            if to.as_str().is_empty() {
                return Err(Refusal::missing("destination"));
            }
            if *to == device.extension.number {
                return Err(Refusal::new(
                    Reason::InvalidInput,
                    "A device can not be forwarded to itself.",
                ));
            }
        }
        Ok(RestoredDevice { forward_to: to.cloned(), ..device.kept() })
    }

    fn set(&mut self, wanted: RestoredDevice, out: &mut Step) {
        if let Some(device) = self.devices.get_mut(&wanted.device)
            && device.kept() != wanted
        {
            device.do_not_disturb = wanted.do_not_disturb;
            device.forward_to.clone_from(&wanted.forward_to);
            out.push(Output::Keep(Persist::Device(wanted)));
            out.push(Output::Fact(Fact::Device(device.fact())));
        }
    }

    pub(super) fn handle_registered(
        &mut self,
        device: &DeviceId,
        registered: bool,
        out: &mut Step,
    ) {
        if let Some(device) = self.devices.get_mut(device)
            && device.registered != registered
        {
            device.registered = registered;
            out.fact(Fact::Device(device.fact()));
        }
    }
}
