//! What the gateway asks for.

use super::party::Release;
use super::routing::DialPlan;
use super::step::Step;
use super::transfer::TransferKind;
use super::{B2bua, CommandId, Environment, Output, Persist, RestoredDevice, role_of, stopping};
use crate::model::{
    CallId, Command, DeviceId, Fact, MonitorFact, MonitorState, Now, Number, PartyRole, Reason,
    Refusal,
};
use crate::supervision::LegOutcome;

/// A command that waits until its change is stored.
pub(super) struct PendingCommand {
    command: Command,
    change: Persist,
    /// It starts monitoring that was stopped meanwhile.
    is_cancelled: bool,
}

impl PendingCommand {
    fn new(command: Command, change: Persist) -> Self {
        Self { command, change, is_cancelled: false }
    }

    fn starts_for(&self, device: &DeviceId) -> bool {
        matches!(&self.command, Command::StartMonitoring { supervisor, .. } if supervisor == device)
    }
}

impl<E: Environment> B2bua<E> {
    /// Takes a command, and answers it by [`Output::Reply`]. One that arms a monitor or sets a
    /// device is executed when its change is stored, so that one that can not be stored has changed
    /// nothing; what ends something waits for no disk. A refusal has changed nothing.
    pub fn handle_command(&mut self, id: CommandId, command: Command, now: Now) {
        let result = match self.change_of(&command) {
            Ok(Some(change)) => {
                self.out.push(Output::Persist { id, change: change.clone() });
                self.pending.insert(id, PendingCommand::new(command, change));
                return;
            }
            Ok(None) => self.execute(&command, now),
            Err(refusal) => Err(refusal),
        };
        self.finish_step(now);
        self.out.push(Output::Reply { id, result });
    }

    /// Takes the outcome of an [`Output::Persist`].
    pub fn handle_persisted(&mut self, id: CommandId, is_stored: bool, now: Now) {
        let Some(PendingCommand { command, change, is_cancelled }) = self.pending.remove(&id)
        else {
            return;
        };
        let result = match (is_stored, is_cancelled) {
            (true, false) => self.execute(&command, now),
            (true | false, true) => {
                Err(Refusal::new(Reason::InvalidState, "Monitoring was cancelled before it began."))
            }
            (false, false) => Err(Refusal::new(
                Reason::Internal,
                "The change can not be stored now: the disk of the telephony backend is full or fails.",
            )),
        };
        if result.is_err() {
            // Whether something of it has reached a failing disk is not known.
            let holds = self.what_holds(&change);
            self.out.extend(holds.map(Output::Keep));
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
            | Command::RemoveParticipant { .. } => Ok(None),
        }
    }

    /// What is to be on the disk instead of a change that has not come true.
    fn what_holds(&self, change: &Persist) -> Option<Persist> {
        match change {
            Persist::Monitor(MonitorFact { supervisor, .. })
            | Persist::NoMonitor { supervisor } => Some(match self.kept.get(supervisor) {
                Some(monitor) => Persist::Monitor(monitor.clone()),
                None => Persist::NoMonitor { supervisor: supervisor.clone() },
            }),
            Persist::Device(RestoredDevice { device, .. }) => {
                self.plan.device(device).map(|device| Persist::Device(device.kept()))
            }
        }
    }

    /// The supervisor stops monitoring: what waits for the disk to begin it never comes true.
    /// False: nothing does.
    fn cancel_pending(&mut self, supervisor: &DeviceId) -> bool {
        let mut starting =
            self.pending.values_mut().filter(|pending| pending.starts_for(supervisor)).peekable();
        let is_one_waiting = starting.peek().is_some();
        starting.for_each(|pending| pending.is_cancelled = true);
        if is_one_waiting {
            // Behind what is being written of it.
            self.out.push(Output::Keep(Persist::NoMonitor { supervisor: supervisor.clone() }));
        }
        is_one_waiting
    }

    fn execute(&mut self, command: &Command, now: Now) -> Result<(), Refusal> {
        match command {
            Command::StartMonitoring { supervisor, target, .. } => {
                self.may_be_monitored(supervisor, target)?;
                self.supervision.handle_command(command, now)
            }
            Command::StopMonitoring { supervisor } => {
                let is_cancelled = self.cancel_pending(supervisor);
                match self.supervision.handle_command(command, now) {
                    Err(_) if is_cancelled => Ok(()),
                    done => done,
                }
            }
            Command::SwitchMonitoring { call, .. } | Command::AdmitMonitoring { call, .. } => {
                self.calls.named(call)?;
                self.supervision.handle_command(command, now)
            }
            Command::SetDoNotDisturb { device, on } => self
                .plan
                .with_do_not_disturb(device, *on)
                .map(|wanted| self.plan.set(wanted, &mut self.out)),
            Command::SetForwarding { device, to } => self
                .plan
                .with_forwarding(device, to.as_ref())
                .map(|wanted| self.plan.set(wanted, &mut self.out)),
            Command::Dial { device, destination } => self.dial(device, destination, None, now),
            Command::Hangup { device, call } => self.hang_up(device, call, now),
            Command::Transfer { device, call, step } => {
                self.transfer(device, call, step, TransferKind::Transfer, now)
            }
            Command::Conference { device, call, step } => {
                self.transfer(device, call, step, TransferKind::Conference, now)
            }
            Command::Answer { device, call } => {
                let (call, ctx) = self.find_named(call, now)?;
                call.party_on(device)?.answer(ctx.out)
            }
            Command::Hold { device, call } => {
                let (call, mut ctx) = self.find_named(call, now)?;
                call.change(device, &mut ctx, |party| party.hold(true))
            }
            Command::Retrieve { device, call } => {
                let (call, mut ctx) = self.find_named(call, now)?;
                call.change(device, &mut ctx, |party| party.hold(false))
            }
            Command::Mute { device, call, on } => {
                let (call, mut ctx) = self.find_named(call, now)?;
                call.change(device, &mut ctx, |party| party.mute(*on))
            }
            Command::SendDtmf { device, call, digits } => {
                let (call, ctx) = self.find_named(call, now)?;
                call.party_on(device)?.send_digits(digits.as_str(), ctx.out)
            }
            Command::RemoveParticipant { device, call, participant } => {
                let (call, mut ctx) = self.find_named(call, now)?;
                call.remove_participant(device, participant, &mut ctx)
            }
            Command::MuteMonitoredParty { supervisor, call, muted } => {
                let (call, mut ctx) = self.find_named(call, now)?;
                call.mute_monitored(supervisor, *muted, &mut ctx)
            }
        }
    }

    fn hang_up(&mut self, device: &DeviceId, call: &CallId, now: Now) -> Result<(), Refusal> {
        let (call, _) = self.find_named(call, now)?;
        let party = call.party_on(device)?;
        let (leg, is_called, is_supervisor) =
            (party.leg, party.is_invited(), party.is_supervisor());
        let is_declined = is_called && !is_supervisor && !self.transfer_fails(leg, 603, now);
        if let Some((call, mut ctx)) = self.find(leg, now) {
            if is_declined {
                // The called party declines; a hunting trunk goes on to look elsewhere, which a 603
                // would forbid.
                call.dialler = None;
                call.refusal = Some(486);
            }
            let outcome = if is_called { LegOutcome::Rejected } else { LegOutcome::HungUp };
            call.leave(leg, Release::Hangup(None), outcome, &mut ctx);
        }
        Ok(())
    }

    fn may_be_monitored(&self, supervisor: &DeviceId, target: &DeviceId) -> Result<(), Refusal> {
        if self.closing.is_some() {
            return Err(stopping());
        }
        for device in [supervisor, target] {
            if role_of(self.plan.known(device)?.extension.kind) != PartyRole::Agent {
                return Err(Refusal::device(
                    Reason::Forbidden,
                    device,
                    "Device '{}' is a customer's.",
                ));
            }
        }
        Ok(())
    }
}

impl DialPlan {
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
