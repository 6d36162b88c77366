//! What the gateway asks for.

use super::call::{Call, LegStage, Party, Release};
use super::consultation::Consultation;
use super::legs::call_type;
use super::transfer::TransferKind;
use super::{B2bua, CommandId, Environment, Output, Persist, RestoredDevice, identity, unreached};
use crate::media::{Hearing, MediaCommand};
use crate::model::{CallId, Command, DeviceId, Fact, MonitorFact, MonitorState, Now, Number, PartyRole, Reason, Refusal, TransferStep};
use crate::sip::leg::{Destination, LegCommand, LegId, LegSource};
use crate::sip::sdp::Direction;
use crate::supervision::LegOutcome;

/// RFC 3261 8.1.1.6.
const MAX_FORWARDS: u8 = 70;

/// A command that waits until its change is stored.
pub(super) struct PendingCommand {
    command: Command,
    change: Persist,
    /// It starts monitoring that was stopped meanwhile.
    is_cancelled: bool,
}

impl PendingCommand {
    fn new(command: Command, change: Persist) -> Self {
        Self {
            command,
            change,
            is_cancelled: false,
        }
    }

    fn starts_for(&self, device: &DeviceId) -> bool {
        matches!(&self.command, Command::StartMonitoring { supervisor, .. } if supervisor == device)
    }
}

impl<O: Environment> B2bua<O> {
    /// Takes a command, and answers it by [`Output::Reply`]. One that arms a monitor or sets a device is executed when its change is stored, so
    /// that one that can not be stored has changed nothing; what ends something waits for no disk. A refusal has changed nothing.
    pub fn handle_command(&mut self, id: CommandId, command: Command, now: Now) {
        let result = match self.change_of(&command) {
            Ok(Some(change)) => {
                self.outputs.push_back(Output::Persist {
                    id,
                    change: change.clone(),
                });
                self.pending.insert(id, PendingCommand::new(command, change));
                return;
            }
            Ok(None) => self.execute(&command, now),
            Err(refusal) => Err(refusal),
        };
        self.finish_step(now);
        self.outputs.push_back(Output::Reply { id, result });
    }

    /// Takes the outcome of an [`Output::Persist`].
    pub fn handle_persisted(&mut self, id: CommandId, is_stored: bool, now: Now) {
        let Some(PendingCommand {
            command,
            change,
            is_cancelled,
        }) = self.pending.remove(&id)
        else {
            return;
        };
        let result = match (is_stored, is_cancelled) {
            (true, false) => self.execute(&command, now),
            (true | false, true) => Err(Refusal::new(Reason::InvalidState, "Monitoring was cancelled before it began.")),
            (false, false) => Err(Refusal::new(
                Reason::Internal,
                "The change can not be stored now: the disk of the telephony backend is full or fails.",
            )),
        };
        if result.is_err() {
            // Whether something of it has reached a failing disk is not known.
            let holds = self.what_holds(&change);
            self.outputs.extend(holds.map(Output::Keep));
        }
        self.finish_step(now);
        self.outputs.push_back(Output::Reply { id, result });
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
            Command::SetDoNotDisturb { device, on } => self.with_do_not_disturb(device, *on).map(Persist::Device).map(Some),
            Command::SetForwarding { device, to } => self.with_forwarding(device, to.as_ref()).map(Persist::Device).map(Some),
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
            Persist::Monitor(MonitorFact { supervisor, .. }) | Persist::NoMonitor { supervisor } => Some(match self.kept.get(supervisor) {
                Some(monitor) => Persist::Monitor(monitor.clone()),
                None => Persist::NoMonitor {
                    supervisor: supervisor.clone(),
                },
            }),
            Persist::Device(RestoredDevice { device, .. }) => self.devices.get(device).map(|device| Persist::Device(device.kept())),
        }
    }

    /// The supervisor stops monitoring: what waits for the disk to begin it never comes true. False: nothing does.
    fn cancel_pending(&mut self, supervisor: &DeviceId) -> bool {
        let mut starting = self
            .pending
            .values_mut()
            .filter(|pending| pending.starts_for(supervisor))
            .peekable();
        let is_one_waiting = starting.peek().is_some();
        starting.for_each(|pending| pending.is_cancelled = true);
        if is_one_waiting {
            // Behind what is being written of it.
            self.outputs.push_back(Output::Keep(Persist::NoMonitor {
                supervisor: supervisor.clone(),
            }));
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
                self.live(call).ok_or_else(|| Refusal::no_call(call))?;
                self.supervision.handle_command(command, now)
            }
            Command::SetDoNotDisturb { device, on } => self.with_do_not_disturb(device, *on).map(|wanted| self.set(wanted)),
            Command::SetForwarding { device, to } => self.with_forwarding(device, to.as_ref()).map(|wanted| self.set(wanted)),
            Command::Dial { device, destination } => self.dial(device, destination, None, now),
            Command::Answer { device, call } => self.answer(device, call),
            Command::Hangup { device, call } => self.hang_up(device, call, now),
            Command::Hold { device, call } => self.hold(device, call, true),
            Command::Retrieve { device, call } => self.hold(device, call, false),
            Command::Mute { device, call, on } => self.mute(device, call, *on),
            Command::Transfer { device, call, step } => self.step(device, call, step, TransferKind::Transfer, now),
            Command::Conference { device, call, step } => self.step(device, call, step, TransferKind::Conference, now),
            Command::RemoveParticipant { device, call, participant } => self.remove_participant(device, call, participant, now),
            Command::MuteMonitoredParty { supervisor, call, muted } => self.mute_monitored(supervisor, call, *muted),
            Command::SendDtmf { device, call, digits } => self.send_digits(device, call, digits),
        }
    }

    fn may_be_monitored(&self, supervisor: &DeviceId, target: &DeviceId) -> Result<(), Refusal> {
        if self.closing.is_some() {
            return Err(stopping());
        }
        for device in [supervisor, target] {
            if super::role_of(self.known(device)?.extension.kind) != PartyRole::Agent {
                return Err(Refusal::new(Reason::Forbidden, format!("Device '{device}' is a customer's.")));
            }
        }
        Ok(())
    }

    fn with_do_not_disturb(&self, id: &DeviceId, on: bool) -> Result<RestoredDevice, Refusal> {
        Ok(RestoredDevice {
            do_not_disturb: on,
            ..self.known(id)?.kept()
        })
    }

    fn with_forwarding(&self, id: &DeviceId, to: Option<&Number>) -> Result<RestoredDevice, Refusal> {
        let device = self.known(id)?;
        if let Some(to) = to {
            if to.as_str().is_empty() {
                return Err(Refusal::missing("destination"));
            }
            if *to == device.extension.number {
                return Err(Refusal::new(Reason::InvalidInput, "A device can not be forwarded to itself."));
            }
        }
        Ok(RestoredDevice {
            forward_to: to.cloned(),
            ..device.kept()
        })
    }

    fn set(&mut self, wanted: RestoredDevice) {
        if let Some(device) = self.devices.get_mut(&wanted.device)
            && device.kept() != wanted
        {
            device.do_not_disturb = wanted.do_not_disturb;
            device.forward_to.clone_from(&wanted.forward_to);
            self.outputs.push_back(Output::Keep(Persist::Device(wanted)));
            self.outputs.push_back(Output::Fact(Fact::Device(device.fact())));
        }
    }

    /// Brings the device's own phone in, which is to answer by itself; the destination is called when it has.
    pub(super) fn dial(&mut self, id: &DeviceId, destination: &Number, about: Option<Consultation>, now: Now) -> Result<(), Refusal> {
        let device = self.known(id)?;
        let number = device.extension.number.clone();
        if self.closing.is_some() {
            return Err(stopping());
        }
        if !device.registered {
            return Err(Refusal::new(Reason::Internal, format!("Device '{number}' is not registered.")));
        }
        let source = LegSource::Account(id.clone());
        if self.is_full(&source) {
            return Err(Refusal::new(
                Reason::InvalidState,
                format!("Device '{number}' is on as many calls as it may be."),
            ));
        }
        let caller = self.caller(&source).ok_or_else(|| Refusal::no_device(id))?;
        let callee = self
            .route(&caller, destination)
            .map_err(|why| unreached(why.status(), destination))?;
        if self.calls.len() >= self.config.max_calls {
            return Err(unreached(503, destination));
        }

        let consult = about.or_else(|| self.asks_about(id));
        let (key, call_id, conn_id) = self.new_ids();
        let leg = self.new_leg();
        let named = (number.clone(), caller.role);
        let mut party = self
            .new_party(key, leg, source, named, caller.policy.clone(), LegStage::Invited)
            .ok_or_else(|| unreached(503, destination))?;
        let invite = LegCommand::Invite {
            leg,
            to: Destination::Device(id.clone()),
            from: identity(destination, ""),
            offer: party.local.offer_codecs(Direction::SendRecv, &self.config.codecs),
            auto_answer: true,
            swallow_digits: false,
            timeout: self.config.ring_timeout,
            max_forwards: MAX_FORWARDS,
            passed: Vec::new(),
        };
        self.invitations.push((leg, invite));
        self.begin(Call {
            key,
            id: call_id,
            conn_id,
            call_type: call_type(&caller, &callee),
            ani: number,
            dnis: destination.clone(),
            started_at: now.wall,
            parties: vec![party],
            dials: Some(destination.clone()),
            dialler: Some(id.clone()),
            refusal: None,
            distrusted: false,
            max_forwards: MAX_FORWARDS,
            claimed: self.shown(id),
            passed: Vec::new(),
            transfer: None,
            consult,
            owner: None,
            told: Hearing::default(),
            supervised: None,
            reported: None,
            quality_told: None,
        });
        Ok(())
    }

    fn answer(&mut self, device: &DeviceId, call: &CallId) -> Result<(), Refusal> {
        let party = self.party(device, call)?;
        if !matches!(party.stage, LegStage::Invited) {
            return Err(Refusal::new(Reason::InvalidState, "The call does not ring."));
        }
        let leg = party.leg;
        if party.rings {
            self.outputs.push_back(Output::Leg(LegCommand::AskToAnswer { leg }));
        } else {
            party.to_be_asked = true;
        }
        Ok(())
    }

    fn hang_up(&mut self, device: &DeviceId, call: &CallId, now: Now) -> Result<(), Refusal> {
        let party = self.party(device, call)?;
        let (leg, called, supervisor) = (party.leg, matches!(party.stage, LegStage::Invited), party.is_supervisor());
        if called
            && !supervisor
            && !self.transfer_fails(leg, 603)
            && let Some(call) = self.call_of(leg)
        {
            // The called party declines; a hunting trunk goes on to look elsewhere, which a 603 would forbid.
            call.dialler = None;
            call.refusal = Some(486);
        }
        let outcome = if called { LegOutcome::Rejected } else { LegOutcome::HungUp };
        self.leave(leg, Release::Hangup(None), outcome, now);
        Ok(())
    }

    fn hold(&mut self, device: &DeviceId, call: &CallId, on: bool) -> Result<(), Refusal> {
        self.change_talking(device, call, |party| {
            if party.is_supervisor() {
                return Err(Refusal::new(
                    Reason::InvalidState,
                    "A supervisor does not hold the call he monitors.",
                ));
            }
            match (on, party.held_by_command, party.held_by_phone) {
                (true, false, false) | (false, true, _) => {
                    party.held_by_command = on;
                    Ok(())
                }
                (true, _, _) => Err(Refusal::new(Reason::InvalidState, "The call is already held.")),
                (false, false, true) => Err(Refusal::new(Reason::InvalidState, "The call is held at the phone.")),
                (false, false, false) => Err(Refusal::new(Reason::InvalidState, "The call is not held.")),
            }
        })
    }

    fn mute(&mut self, device: &DeviceId, call: &CallId, on: bool) -> Result<(), Refusal> {
        self.change_talking(device, call, |party| {
            if party.muted == on {
                return Err(Refusal::muted_already(on));
            }
            party.muted = on;
            Ok(())
        })
    }

    /// Silences the agent whom the supervisor monitors now toward everybody but supervisors.
    fn mute_monitored(&mut self, supervisor: &DeviceId, call: &CallId, muted: bool) -> Result<(), Refusal> {
        let party = self.party(supervisor, call)?;
        let joined = party.link.as_ref().filter(|link| link.joined);
        let Some(link) = joined else {
            let message = format!("Device '{supervisor}' does not monitor call '{call}'.");
            return Err(Refusal::new(Reason::InvalidState, message));
        };
        let agent = link.coached.clone();
        let agent = agent.ok_or_else(|| Refusal::new(Reason::InvalidState, "No agent is on the call."))?;
        let party = self.party(&agent, call)?;
        if muted == party.muted_by.is_some() {
            return Err(Refusal::muted_already(muted));
        }
        party.muted_by = muted.then(|| supervisor.clone());
        let leg = party.leg;
        self.changed.extend(self.by_leg.get(&leg));
        Ok(())
    }

    fn step(&mut self, device: &DeviceId, call: &CallId, step: &TransferStep, wanted: TransferKind, now: Now) -> Result<(), Refusal> {
        match step {
            TransferStep::SingleStep { destination } => self.transfer(device, call, destination, wanted),
            TransferStep::Initiate { destination } => self.consult(device, call, destination, now),
            TransferStep::Complete => self.complete(device, call, wanted, now),
        }
    }

    /// Digits to everybody who hears him, supervisors excepted.
    fn send_digits(&mut self, device: &DeviceId, call: &CallId, digits: &str) -> Result<(), Refusal> {
        let party = self.party(device, call)?;
        if party.is_supervisor() {
            return Err(Refusal::new(Reason::InvalidState, "A supervisor sends no digits."));
        }
        if !party.is_talking() {
            return Err(Refusal::new(Reason::InvalidState, "The call is not established."));
        }
        let leg = party.leg;
        self.dialled(leg, digits);
        Ok(())
    }

    /// The same, by INFO from the phone.
    pub(super) fn dialled(&mut self, leg: LegId, digits: &str) {
        let party = self.call_of(leg).and_then(|call| call.party(leg));
        let Some(party) = party.filter(|party| party.is_talking() && !party.is_supervisor()) else {
            return;
        };
        let leg = party.leg;
        self.outputs.push_back(Output::Media(MediaCommand::SendDigits {
            leg,
            digits: digits.to_owned(),
        }));
    }

    /// Releases another party of a conference: its owner may, and whoever monitors it.
    fn remove_participant(&mut self, device: &DeviceId, call: &CallId, participant: &Number, now: Now) -> Result<(), Refusal> {
        let id = call;
        let party = self.party(device, call)?;
        let (leg, joined) = (party.leg, party.link.as_ref().is_some_and(|link| link.joined));
        let call = self.call_of(leg).ok_or_else(|| Refusal::no_call(id))?;
        if call.principals().count() < 3 {
            return Err(Refusal::new(Reason::InvalidState, "The call is not a conference."));
        }
        if !joined && call.owner.as_ref() != Some(device) {
            let message = "Only who made the conference, or monitors it, can remove a participant.";
            return Err(Refusal::new(Reason::NotPermitted, message));
        }
        let mut named = call.others(leg).filter(|party| party.number == *participant);
        let (leg, called) = match (named.next(), named.next()) {
            (Some(found), None) => (found.leg, matches!(found.stage, LegStage::Invited)),
            (None, _) => return Err(Refusal::not_found(format_args!("participant {participant}"))),
            (Some(_), Some(_)) => {
                let message = format!("Several participants have the number '{participant}'.");
                return Err(Refusal::new(Reason::InvalidState, message));
            }
        };
        drop(named);
        if called {
            call.transfer.take_if(|transfer| transfer.to == leg);
        }
        self.leave(leg, Release::Hangup(None), LegOutcome::HungUp, now);
        Ok(())
    }

    fn change_talking(
        &mut self,
        device: &DeviceId,
        call: &CallId,
        change: impl FnOnce(&mut Party) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let party = self.party(device, call)?;
        if !party.is_talking() {
            return Err(Refusal::new(Reason::InvalidState, "The call is not established."));
        }
        change(party)?;
        let leg: LegId = party.leg;
        self.changed.extend(self.by_leg.get(&leg));
        Ok(())
    }

    pub(super) fn party(&mut self, device: &DeviceId, call: &CallId) -> Result<&mut Party, Refusal> {
        let key = self.live(call).ok_or_else(|| Refusal::no_call(call))?;
        self.calls
            .get_mut(&key)
            .and_then(|found| found.of_device(device))
            .ok_or_else(|| Refusal::no_call(call))
    }
}

fn stopping() -> Refusal {
    Refusal::new(Reason::Unavailable, "The backend is stopping.")
}
