//! What the gateway asks for.

use super::call::{Call, LegStage, Party, Release};
use super::consultation::Consultation;
use super::legs::call_type;
use super::transfer::TransferKind;
use super::{B2bua, Environment, Output, Persist, RestoredDevice, identity, unreached};
use crate::media::{Hearing, MediaCommand};
use crate::model::{CallId, Command, DeviceId, Fact, MonitorFact, MonitorState, Now, Number, PartyRole, Reason, Refusal, TransferStep};
use crate::sip::leg::{Destination, LegCommand, LegId, LegSource, MAX_FORWARDS};
use crate::sip::sdp::Direction;
use crate::supervision::LegOutcome;

impl<O: Environment> B2bua<O> {
    /// Does what it can at once; what comes of it are facts. A refusal has changed nothing.
    pub fn handle_command(&mut self, command: &Command, now: Now) -> Result<(), Refusal> {
        let done = self.obey_command(command, now);
        self.finish_step(now);
        done
    }

    /// What must be safe before this command is obeyed, so that one that can not be stored has changed nothing. `None`: it asks for nothing
    /// that is kept, or it ends something, which waits for no disk. A refusal now is the command's.
    pub fn foresee(&self, command: &Command) -> Result<Option<Persist>, Refusal> {
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
            _ => Ok(None),
        }
    }

    /// What was foreseen has not come true: what holds instead is to be kept again.
    pub fn keep_instead(&mut self, foreseen: &Persist) {
        let holds = match foreseen {
            Persist::Monitor(MonitorFact { supervisor, .. }) | Persist::NoMonitor { supervisor } => match self.kept.get(supervisor) {
                Some(monitor) => Persist::Monitor(monitor.clone()),
                None => Persist::NoMonitor {
                    supervisor: supervisor.clone(),
                },
            },
            Persist::Device(RestoredDevice { device, .. }) => match self.devices.get(device) {
                Some(device) => Persist::Device(device.kept()),
                None => return,
            },
        };
        self.outputs.push_back(Output::Keep(holds));
    }

    fn obey_command(&mut self, command: &Command, now: Now) -> Result<(), Refusal> {
        match command {
            Command::StartMonitoring { supervisor, target, .. } => {
                self.may_be_monitored(supervisor, target)?;
                self.supervision.handle_command(command, now)
            }
            Command::StopMonitoring { .. } => self.supervision.handle_command(command, now),
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
        let party = (number.clone(), caller.role);
        let mut seat = self
            .new_seat(key, leg, source, party, caller.terms.clone(), LegStage::Invited)
            .ok_or_else(|| unreached(503, destination))?;
        let invite = LegCommand::Invite {
            leg,
            to: Destination::Device(id.clone()),
            from: identity(destination, ""),
            offer: seat.local.offer_codecs(Direction::SendRecv, &self.config.codecs),
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
            seats: vec![seat],
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
        let seat = self.seat(device, call)?;
        if !matches!(seat.stage, LegStage::Invited) {
            return Err(Refusal::new(Reason::InvalidState, "The call does not ring."));
        }
        let leg = seat.leg;
        if seat.rings {
            self.outputs.push_back(Output::Leg(LegCommand::AskToAnswer { leg }));
        } else {
            seat.to_be_asked = true;
        }
        Ok(())
    }

    fn hang_up(&mut self, device: &DeviceId, call: &CallId, now: Now) -> Result<(), Refusal> {
        let seat = self.seat(device, call)?;
        let (leg, called, supervisor) = (seat.leg, matches!(seat.stage, LegStage::Invited), seat.is_supervisor());
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
        self.change_talking(device, call, |seat| {
            if seat.is_supervisor() {
                return Err(Refusal::new(
                    Reason::InvalidState,
                    "A supervisor does not hold the call he monitors.",
                ));
            }
            match (on, seat.held_by_command, seat.held_by_phone) {
                (true, false, false) | (false, true, _) => {
                    seat.held_by_command = on;
                    Ok(())
                }
                (true, _, _) => Err(Refusal::new(Reason::InvalidState, "The call is already held.")),
                (false, false, true) => Err(Refusal::new(Reason::InvalidState, "The call is held at the phone.")),
                (false, false, false) => Err(Refusal::new(Reason::InvalidState, "The call is not held.")),
            }
        })
    }

    fn mute(&mut self, device: &DeviceId, call: &CallId, on: bool) -> Result<(), Refusal> {
        self.change_talking(device, call, |seat| {
            if seat.muted == on {
                return Err(Refusal::muted_already(on));
            }
            seat.muted = on;
            Ok(())
        })
    }

    /// Silences the agent whom the supervisor monitors now toward everybody but supervisors.
    fn mute_monitored(&mut self, supervisor: &DeviceId, call: &CallId, muted: bool) -> Result<(), Refusal> {
        let seat = self.seat(supervisor, call)?;
        let joined = seat.watch.as_ref().filter(|watch| watch.joined);
        let Some(watch) = joined else {
            let message = format!("Device '{supervisor}' does not monitor call '{call}'.");
            return Err(Refusal::new(Reason::InvalidState, message));
        };
        let agent = watch.coached.clone();
        let agent = agent.ok_or_else(|| Refusal::new(Reason::InvalidState, "No agent is on the call."))?;
        let seat = self.seat(&agent, call)?;
        if muted == seat.muted_by.is_some() {
            return Err(Refusal::muted_already(muted));
        }
        seat.muted_by = muted.then(|| supervisor.clone());
        let leg = seat.leg;
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
        let seat = self.seat(device, call)?;
        if seat.is_supervisor() {
            return Err(Refusal::new(Reason::InvalidState, "A supervisor sends no digits."));
        }
        if !seat.is_talking() {
            return Err(Refusal::new(Reason::InvalidState, "The call is not established."));
        }
        let leg = seat.leg;
        self.dialled(leg, digits);
        Ok(())
    }

    /// The same, by INFO from the phone.
    pub(super) fn dialled(&mut self, leg: LegId, digits: &str) {
        let seat = self.call_of(leg).and_then(|call| call.seat(leg));
        let Some(seat) = seat.filter(|seat| seat.is_talking() && !seat.is_supervisor()) else {
            return;
        };
        let leg = seat.leg;
        self.outputs.push_back(Output::Media(MediaCommand::SendDigits {
            leg,
            digits: digits.to_owned(),
        }));
    }

    /// Releases another party of a conference: its owner may, and whoever monitors it.
    fn remove_participant(&mut self, device: &DeviceId, call: &CallId, participant: &Number, now: Now) -> Result<(), Refusal> {
        let id = call;
        let seat = self.seat(device, call)?;
        let (leg, joined) = (seat.leg, seat.watch.as_ref().is_some_and(|watch| watch.joined));
        let call = self.call_of(leg).ok_or_else(|| Refusal::no_call(id))?;
        if call.principals().count() < 3 {
            return Err(Refusal::new(Reason::InvalidState, "The call is not a conference."));
        }
        if !joined && call.owner.as_ref() != Some(device) {
            let message = "Only who made the conference, or monitors it, can remove a participant.";
            return Err(Refusal::new(Reason::NotPermitted, message));
        }
        let mut named = call.others(leg).filter(|seat| seat.number == *participant);
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
        let seat = self.seat(device, call)?;
        if !seat.is_talking() {
            return Err(Refusal::new(Reason::InvalidState, "The call is not established."));
        }
        change(seat)?;
        let leg: LegId = seat.leg;
        self.changed.extend(self.by_leg.get(&leg));
        Ok(())
    }

    pub(super) fn seat(&mut self, device: &DeviceId, call: &CallId) -> Result<&mut Party, Refusal> {
        let key = self.live(call).ok_or_else(|| Refusal::no_call(call))?;
        self.calls
            .get_mut(&key)
            .and_then(|found| found.party_of(device))
            .ok_or_else(|| Refusal::no_call(call))
    }
}

fn stopping() -> Refusal {
    Refusal::new(Reason::Unavailable, "The backend is stopping.")
}
