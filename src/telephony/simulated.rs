//! A backend without telephones: for tests, and for trying things.
//!
//! It keeps devices and calls as a switch does and lets the real [`Supervision`] decide about
//! monitors. It is deterministic: call ids count from 1, and nothing happens that nobody made
//! happen.

pub mod door;
mod joining;

pub use crate::telephony::phones::Pickup;

use crate::clock;
use crate::model::{
    Activity, CallFact, CallId, CallType, Capabilities, Command, DeviceFact, DeviceId, DeviceKind,
    Fact, Failure, LegState, Mode, MonitorFact, Now, Number, PartyFact, PartyRole, Reason, Refusal,
    Scope, Subject, TransferStep, UserData,
};
use crate::supervision::{self, LegOutcome, Supervision, SupervisionOutput};
use crate::telephony::phones::PhoneCommand;
use crate::telephony::proto::telephony_server::TelephonyServer;
use crate::telephony::{CommandInbox, FactLog, TelephonyService, serve};
use joining::{Newcomer, TransferKind, is_talking, principals};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// How often a forwarded call may be forwarded again.
const FORWARDS: usize = 8;

/// Calls at one time that lines of [`PhoneCommand`] may make.
const MOST_CALLS: usize = 1000;

/// A telephone system to simulate.
#[derive(Clone, Debug, Default)]
pub struct SimulatedConfig {
    /// Its devices.
    pub devices: Vec<Telephone>,
    /// Its rules of monitoring.
    pub supervision: supervision::SupervisionConfig,
    /// Monitors from before a restart.
    pub kept: Vec<MonitorFact>,
}

/// A device of the system.
#[derive(Clone, Debug)]
pub struct Telephone {
    /// Its id.
    pub id: DeviceId,
    /// Its number.
    pub number: Number,
    /// Its phone can be reached.
    pub registered: bool,
    /// It belongs to a customer, not to an agent.
    pub is_customer: bool,
    /// What its phone does when it is brought in to monitor.
    pub pickup: Pickup,
}

impl Telephone {
    /// A registered phone of an agent or supervisor that answers by itself when it is brought in to
    /// monitor.
    pub fn new(id: &str, number: &str) -> Self {
        Self {
            id: id.into(),
            number: number.into(),
            registered: true,
            is_customer: false,
            pickup: Pickup::Answers,
        }
    }
}

/// How a supervisor is heard on a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The supervisor's activity.
    pub activity: Activity,
    /// The party that hears the supervisor in Coach, and the agent in BargeIn; `None`: nobody does.
    pub coached: Option<DeviceId>,
    /// The supervisor stands in for the agent.
    pub takeover: bool,
}

/// What the simulated backend can do.
pub fn capabilities() -> Capabilities {
    Capabilities {
        backend: concat!("Undertone simulated ", env!("CARGO_PKG_VERSION")).into(),
        activities: Activity::ALL.to_vec(),
        modes: Mode::ALL.to_vec(),
        scopes: Scope::ALL.to_vec(),
        live_switching: true,
        mute_monitored: true,
        transfers: true,
        consultations: true,
        conferences: true,
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
        ..Capabilities::default()
    }
}

/// Starts a simulated system. It lives as long as the server.
pub fn start(config: SimulatedConfig) -> (TelephonyServer<TelephonyService>, Simulated) {
    let (server, port) = serve(capabilities());
    let (acts, happening) = mpsc::channel(64);
    let facts = port.facts.clone();
    let switch = SimulatedSwitch::new(config, facts.clone());
    tokio::spawn(run(switch, port, happening));
    (server, Simulated { acts, facts })
}

/// The hand that makes things happen in a simulated system. What it does is done, and reported,
/// when it returns.
#[derive(Clone, Debug)]
pub struct Simulated {
    acts: mpsc::Sender<Act>,
    facts: FactLog,
}

type Act = Box<dyn FnOnce(&mut SimulatedSwitch, Now) + Send>;

impl Simulated {
    /// What the system has reported.
    pub fn facts(&self) -> &FactLog {
        &self.facts
    }

    /// Does what a line says, by number instead of by device and call.
    pub async fn perform(&self, command: PhoneCommand) -> Result<(), Refusal> {
        self.act(move |switch, now| switch.perform(&command, now)).await?
    }

    /// Somebody outside calls a number of the system; its device rings.
    pub async fn customer_calls(&self, from: &str, to: &str) -> Result<CallId, Refusal> {
        let (from, to) = (Number::from(from), Number::from(to));
        self.act(move |switch, now| switch.customer_calls(from, &to, now)).await?
    }

    /// The customer answers a call that was dialled from the system.
    pub async fn customer_answers(&self, call: &CallId) -> Result<(), Refusal> {
        let call = call.clone();
        self.act(move |switch, now| switch.answer(None, &call, now)).await?
    }

    /// The customer hangs up.
    pub async fn customer_hangs_up(&self, call: &CallId) -> Result<(), Refusal> {
        let call = call.clone();
        self.act(move |switch, now| switch.hang_up(None, &call, now)).await?
    }

    /// A phone is picked up, as by hand.
    pub async fn answer(&self, device: &DeviceId, call: &CallId) -> Result<(), Refusal> {
        let (device, call) = (device.clone(), call.clone());
        self.act(move |switch, now| switch.answer(Some(&device), &call, now)).await?
    }

    /// A phone hangs up, as by hand.
    pub async fn hang_up(&self, device: &DeviceId, call: &CallId) -> Result<(), Refusal> {
        let (device, call) = (device.clone(), call.clone());
        self.act(move |switch, now| switch.hang_up(Some(&device), &call, now)).await?
    }

    /// An agent passes a call to another number, blindly: the agent leaves and the other rings.
    pub async fn transfer(
        &self,
        device: &DeviceId,
        call: &CallId,
        to: &str,
    ) -> Result<(), Refusal> {
        let (device, call, to) = (device.clone(), call.clone(), Number::from(to));
        let step = TransferStep::SingleStep { destination: to, user_data: UserData::default() };
        self.act(move |switch, now| {
            switch.join_in(&device, &call, &step, TransferKind::Transfer, now)
        })
        .await?
    }

    /// A phone comes or goes.
    pub async fn register(&self, device: &DeviceId, registered: bool) -> Result<(), Refusal> {
        let device = device.clone();
        self.act(move |switch, _| {
            switch.change_device(&device, |fact| fact.registered = registered)
        })
        .await?
    }

    /// From now on the device's phone does this when it is brought in to monitor.
    pub async fn pick_up(&self, device: &DeviceId, pickup: Pickup) -> Result<(), Refusal> {
        let device = device.clone();
        self.act(move |switch, _| {
            switch.device(&device)?;
            switch.pickups.insert(device, pickup);
            Ok(())
        })
        .await?
    }

    /// How every supervisor that is on the call is heard.
    pub async fn heard(&self, call: &CallId) -> Result<BTreeMap<DeviceId, Heard>, Refusal> {
        let call = call.clone();
        self.act(move |switch, _| switch.heard(&call)).await
    }

    async fn act<T: Send + 'static>(
        &self,
        act: impl FnOnce(&mut SimulatedSwitch, Now) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let gone = || Refusal::new(Reason::Unavailable, "The telephony backend is gone.");
        let (tell, told) = oneshot::channel();
        let act: Act = Box::new(move |switch, now| {
            let outcome = act(switch, now);
            switch.settle(now);
            let _ = tell.send(outcome);
        });
        self.acts.send(act).await.map_err(|_| gone())?;
        told.await.map_err(|_| gone())
    }
}

async fn run(
    mut switch: SimulatedSwitch,
    mut port: CommandInbox,
    mut happening: mpsc::Receiver<Act>,
) {
    let far = std::time::Duration::from_secs(3600);
    loop {
        let alarm =
            switch.supervision.poll_timeout().map_or(Instant::now() + far, Instant::from_std);
        tokio::select! {
            biased;
            Some(act) = happening.recv() => act(&mut switch, now()),
            placed = port.commands.recv() => {
                let Some(placed) = placed else { return };
                let answer = switch.command(placed.command, now());
                switch.settle(now());
                // Who asked may have gone.
                let _ = placed.reply.send(answer);
            }
            () = tokio::time::sleep_until(alarm) => {
                switch.supervision.handle_timeout(now());
                switch.settle(now());
            }
        }
    }
}

/// Tokio's clock, so that tests may turn it.
fn now() -> Now {
    Now { mono: Instant::now().into_std(), wall: clock::wall() }
}

/// A supervisor has silenced an agent toward the customer.
#[derive(Clone, Debug)]
struct MonitoredMute {
    call: CallId,
    supervisor: DeviceId,
    agent: DeviceId,
}

/// The system itself: a machine without waiting.
struct SimulatedSwitch {
    devices: BTreeMap<DeviceId, DeviceFact>,
    customers: BTreeSet<DeviceId>,
    pickups: BTreeMap<DeviceId, Pickup>,
    calls: BTreeMap<CallId, CallFact>,
    heard: BTreeMap<(CallId, DeviceId), Heard>,
    /// Who rings for calls that others are on, at most one for each.
    newcomers: BTreeMap<CallId, Newcomer>,
    muted: Vec<MonitoredMute>,
    supervision: Supervision,
    facts: FactLog,
    changed: VecDeque<CallId>,
    outcomes: VecDeque<(DeviceId, CallId, LegOutcome)>,
    calls_made: u64,
}

impl SimulatedSwitch {
    fn new(config: SimulatedConfig, facts: FactLog) -> Self {
        let telephones = config.devices.iter();
        let customers = telephones.clone().filter(|telephone| telephone.is_customer);
        let mut switch = Self {
            devices: BTreeMap::new(),
            customers: customers.map(|telephone| telephone.id.clone()).collect(),
            pickups: telephones.map(|telephone| (telephone.id.clone(), telephone.pickup)).collect(),
            calls: BTreeMap::new(),
            heard: BTreeMap::new(),
            newcomers: BTreeMap::new(),
            muted: Vec::new(),
            supervision: Supervision::new(config.supervision, config.kept),
            facts,
            changed: VecDeque::new(),
            outcomes: VecDeque::new(),
            calls_made: 0,
        };
        for telephone in config.devices {
            let device = DeviceFact {
                id: telephone.id.clone(),
                number: telephone.number,
                kind: DeviceKind::Phone,
                registered: telephone.registered,
                do_not_disturb: false,
                forward_to: None,
            };
            switch.facts.publish(Fact::Device(device.clone()));
            switch.devices.insert(telephone.id, device);
        }
        for monitor in switch.supervision.monitors() {
            switch.facts.publish(Fact::Monitor(monitor));
        }
        switch
    }

    fn command(&mut self, command: Command, now: Now) -> Result<(), Refusal> {
        match &command {
            Command::StartMonitoring { supervisor, target, .. } => {
                self.device(supervisor)?;
                self.device(target)?;
                self.supervision.handle_command(&command, now)
            }
            Command::StopMonitoring { supervisor } => {
                self.device(supervisor)?;
                self.supervision.handle_command(&command, now)
            }
            Command::SwitchMonitoring { supervisor, call, .. }
            | Command::AdmitMonitoring { supervisor, call, .. } => {
                self.device(supervisor)?;
                self.call(call)?;
                self.supervision.handle_command(&command, now)
            }
            Command::MuteMonitoredParty { supervisor, call, muted } => {
                self.mute_monitored(supervisor, call, *muted)
            }
            Command::SetDoNotDisturb { device, on } => {
                self.change_device(device, |fact| fact.do_not_disturb = *on)
            }
            Command::SetForwarding { device, to } => {
                self.change_device(device, |fact| fact.forward_to.clone_from(to))
            }
            Command::Dial { device, destination, user_data } => {
                self.dial(device, destination, user_data, now)
            }
            Command::Answer { device, call } => self.answer(Some(device), call, now),
            Command::Hangup { device, call } => self.hang_up(Some(device), call, now),
            Command::ClearCall { device, call } => self.clear(device, call),
            Command::Reject { device, call } => {
                if self.principal_leg(device, call)?.state != LegState::Ringing {
                    return Err(not_now(call));
                }
                self.hang_up(Some(device), call, now)
            }
            Command::Redirect { device, call, destination } => {
                self.redirect(device, call, destination)
            }
            Command::SwapCalls { device, call, other } => self.swap(device, call, other),
            Command::ChangeUserData { device, call, change } => {
                self.principal_leg(device, call)?;
                let fact = self.calls.get_mut(call).ok_or_else(|| Refusal::no_call(call))?;
                let changed = fact.user_data.changed(change);
                fact.user_data =
                    changed.map_err(|_| Refusal::too_much_user_data("set.user_data"))?;
                self.touch(call);
                Ok(())
            }
            Command::Hold { device, call } => {
                self.turn(device, call, LegState::Established, LegState::Held)
            }
            Command::Retrieve { device, call } => {
                self.turn(device, call, LegState::Held, LegState::Established)
            }
            Command::Mute { device, call, on } => {
                let leg = self.established_leg(device, call)?;
                if leg.muted == *on {
                    return Err(Refusal::muted_already(*on));
                }
                leg.muted = *on;
                self.touch(call);
                Ok(())
            }
            Command::SendDtmf { device, call, .. } => {
                self.established_leg(device, call).map(|_| ())
            }
            Command::Transfer { device, call, step } => {
                self.join_in(device, call, step, TransferKind::Transfer, now)
            }
            Command::Conference { device, call, step } => {
                self.join_in(device, call, step, TransferKind::Conference, now)
            }
            Command::RemoveParticipant { device, call, participant } => {
                self.remove_participant(device, call, participant)
            }
            Command::RefuseFeatureCode { .. } => {
                Err(Refusal::new(Reason::Forbidden, "There are no feature codes here."))
            }
        }
    }

    fn perform(&mut self, command: &PhoneCommand, now: Now) -> Result<(), Refusal> {
        match command {
            PhoneCommand::Call { .. } if self.calls.len() >= MOST_CALLS => Err(Refusal::new(
                Reason::InvalidState,
                format!("There are {MOST_CALLS} calls already."),
            )),
            PhoneCommand::Call { from, to } => match self.device_with(from) {
                Some(device) => self.dial(&device, to, &UserData::default(), now),
                None => self.customer_calls(from.clone(), to, now).map(|_| ()),
            },
            PhoneCommand::Answer(number) => {
                let (call, place) = self.leg_with(number, &[LegState::Ringing])?;
                self.answer_leg(&call, place, now)
            }
            PhoneCommand::HangUp(number) => {
                const FIRST_TO_LAST: [LegState; 4] =
                    [LegState::Established, LegState::Dialing, LegState::Ringing, LegState::Held];
                let (call, place) = self.leg_with(number, &FIRST_TO_LAST)?;
                self.hang_up_leg(&call, place)
            }
            PhoneCommand::Pickup(number, pickup) => {
                let device = self.device_with(number).ok_or_else(|| Refusal::no_number(number))?;
                self.pickups.insert(device, *pickup);
                Ok(())
            }
            PhoneCommand::Register(number, registered) => {
                let device = self.device_with(number).ok_or_else(|| Refusal::no_number(number))?;
                self.change_device(&device, |fact| fact.registered = *registered)
            }
        }
    }

    /// Does what follows from what has happened, until nothing follows any more.
    fn settle(&mut self, now: Now) {
        loop {
            if let Some(output) = self.supervision.poll_output() {
                self.apply(output, now);
            } else if let Some(call) = self.changed.pop_front() {
                self.report(&call, now);
            } else if let Some((supervisor, call, outcome)) = self.outcomes.pop_front() {
                self.supervision.handle_leg(&supervisor, &call, outcome, now);
            } else {
                return;
            }
        }
    }

    fn apply(&mut self, output: SupervisionOutput, now: Now) {
        match output {
            SupervisionOutput::AskAdmission(asked) => {
                self.facts.publish(Fact::AdmissionAsked(asked));
            }
            SupervisionOutput::Invite { supervisor, target, call, activity } => {
                self.invite(supervisor, target, &call, activity)
            }
            SupervisionOutput::Hear { supervisor, call, activity, coached, takeover } => {
                if let Ok(leg) = self.leg(Some(&supervisor), &call) {
                    leg.state = LegState::Established;
                    leg.activity = Some(activity);
                    leg.monitors.clone_from(&coached);
                    leg.established_at.get_or_insert(now.wall);
                }
                let heard = Heard { activity, coached, takeover };
                self.heard.insert((call.clone(), supervisor), heard);
                self.touch(&call);
            }
            SupervisionOutput::Release { supervisor, call, .. } => {
                self.release(&supervisor, &call);
            }
            SupervisionOutput::Changed(monitor) => {
                self.facts.publish(Fact::Monitor(monitor));
            }
            SupervisionOutput::Gone { supervisor } => {
                self.facts.publish(Fact::MonitorGone { supervisor });
            }
            SupervisionOutput::Failed(failure) => {
                self.facts.publish(Fact::Failed(failure));
            }
        }
    }

    fn report(&mut self, call: &CallId, now: Now) {
        let Some(fact) = self.calls.get(call).cloned() else {
            return;
        };
        self.facts.publish(Fact::Call(fact.clone()));
        if fact.is_over() {
            self.calls.remove(call);
            self.heard.retain(|(monitored, _), _| monitored != call);
            self.newcomers.remove(call);
            self.muted.retain(|mute| mute.call != *call);
        }
        self.end_consultations(&fact);
        self.supervision.handle_call(&fact, now);
    }

    fn invite(
        &mut self,
        supervisor: DeviceId,
        target: DeviceId,
        call: &CallId,
        activity: Activity,
    ) {
        let number = self.devices.get(&supervisor).map(|device| device.number.clone());
        let registered = self.devices.get(&supervisor).is_some_and(|device| device.registered);
        let is_busy = self.calls.values().any(|call| call.party_of(&supervisor).is_some());
        let outcome = match self.pickups.get(&supervisor) {
            _ if !registered => Some(LegOutcome::Unregistered),
            _ if is_busy => Some(LegOutcome::Busy),
            Some(Pickup::Answers) | None => Some(LegOutcome::Answered),
            Some(Pickup::Rings) => None,
            Some(Pickup::Busy) => Some(LegOutcome::Busy),
            Some(Pickup::Rejects) => Some(LegOutcome::Rejected { status: None }),
        };
        let reached = !matches!(
            outcome,
            Some(
                LegOutcome::Unregistered
                    | LegOutcome::Unreachable { .. }
                    | LegOutcome::Busy
                    | LegOutcome::Rejected { .. }
                    | LegOutcome::NoAnswer
                    | LegOutcome::HungUp
            )
        );
        if let Some(fact) = self.calls.get_mut(call).filter(|_| reached) {
            fact.parties.push(PartyFact {
                role: PartyRole::Supervisor,
                state: LegState::Ringing,
                activity: Some(activity),
                monitors: Some(target),
                ..party(Some(supervisor.clone()), number.unwrap_or_else(|| "".into()))
            });
            self.touch(call);
        }
        self.outcomes.extend(outcome.map(|outcome| (supervisor, call.clone(), outcome)));
    }

    fn customer_calls(&mut self, from: Number, to: &Number, now: Now) -> Result<CallId, Refusal> {
        let rung = self.route(to)?;
        let rung = rung.ok_or_else(|| Refusal::no_number(to))?;
        let number = self.devices[&rung].number.clone();
        let caller = PartyFact {
            role: PartyRole::Customer,
            state: LegState::Dialing,
            ..party(None, from.clone())
        };
        let callee = PartyFact {
            role: self.role(&rung),
            state: LegState::Ringing,
            ..party(Some(rung), number)
        };
        Ok(self.begin(CallType::Inbound, from, to.clone(), [caller, callee], now))
    }

    fn dial(
        &mut self,
        device: &DeviceId,
        destination: &Number,
        user_data: &UserData,
        now: Now,
    ) -> Result<(), Refusal> {
        let from = self.reachable(device)?.number.clone();
        let talks =
            |call: &CallFact| call.party_of(device).is_some_and(|leg| leg.state != LegState::Held);
        if self.calls.values().any(talks) {
            return Err(Refusal::number(Reason::InvalidState, &from, "Device '{}' is busy."));
        }
        let caller = PartyFact {
            role: self.role(device),
            state: LegState::Dialing,
            ..party(Some(device.clone()), from.clone())
        };
        let (call_type, callee) = match self.route(destination) {
            Ok(rung) => {
                let call_type = match &rung {
                    Some(_) => CallType::Internal,
                    None => CallType::Outbound,
                };
                (call_type, self.called(rung, destination))
            }
            Err(refusal) => {
                self.facts.publish(Fact::Failed(Failure {
                    device: device.clone(),
                    call: None,
                    request_id: None,
                    refusal,
                }));
                return Ok(());
            }
        };
        let call = self.begin(call_type, from, destination.clone(), [caller, callee], now);
        if let Some(fact) = self.calls.get_mut(&call) {
            fact.user_data = user_data.clone();
        }
        Ok(())
    }

    fn answer(
        &mut self,
        device: Option<&DeviceId>,
        call: &CallId,
        now: Now,
    ) -> Result<(), Refusal> {
        let place = self.place(device, call)?;
        self.answer_leg(call, place, now)
    }

    fn answer_leg(&mut self, call: &CallId, place: usize, now: Now) -> Result<(), Refusal> {
        let leg = self.leg_at(call, place)?;
        if leg.state != LegState::Ringing {
            return Err(not_now(call));
        }
        if leg.role == PartyRole::Supervisor {
            let supervisor = leg.device.clone();
            self.outcomes.extend(
                supervisor.map(|supervisor| (supervisor, call.clone(), LegOutcome::Answered)),
            );
            return Ok(());
        }
        leg.state = LegState::Established;
        leg.established_at = Some(now.wall);
        let others = self.calls.get_mut(call).into_iter().flat_map(|call| &mut call.parties);
        for caller in others.filter(|party| party.state == LegState::Dialing) {
            caller.state = LegState::Established;
            caller.established_at = Some(now.wall);
        }
        self.newcomer_answers(call);
        self.touch(call);
        Ok(())
    }

    fn hang_up(
        &mut self,
        device: Option<&DeviceId>,
        call: &CallId,
        _now: Now,
    ) -> Result<(), Refusal> {
        let place = self.place(device, call)?;
        self.hang_up_leg(call, place)
    }

    fn hang_up_leg(&mut self, call: &CallId, place: usize) -> Result<(), Refusal> {
        let leg = self.leg_at(call, place)?;
        let was = std::mem::replace(&mut leg.state, LegState::Released);
        if leg.role == PartyRole::Supervisor {
            let outcome = match was {
                LegState::Established | LegState::Held => LegOutcome::HungUp,
                LegState::Dialing | LegState::Ringing | LegState::Released => {
                    LegOutcome::Rejected { status: None }
                }
            };
            if let Some(supervisor) = leg.device.clone() {
                self.leave(&supervisor, call);
                self.outcomes.push_back((supervisor, call.clone(), outcome));
            }
        } else if was == LegState::Ringing {
            self.newcomer_declines(call);
        }
        self.end_if_alone(call);
        self.touch(call);
        Ok(())
    }

    /// Every leg is released; supervisors are out with the call. A conference is ended only by the
    /// agent that made it, and a party that only rings for what others are on declines it.
    fn clear(&mut self, device: &DeviceId, call: &CallId) -> Result<(), Refusal> {
        let rings = self.principal_leg(device, call)?.state == LegState::Ringing;
        let fact = self.call(call)?;
        let others = principals(fact).count() - 1;
        if others > 1 && fact.owner.as_ref().is_some_and(|owner| owner != device) {
            let message = "Only the agent that made the conference can end it for everybody.";
            return Err(Refusal::new(Reason::NotPermitted, message));
        }
        if rings && (others > 1 || self.newcomers.contains_key(call)) {
            let place = self.place(Some(device), call)?;
            return self.hang_up_leg(call, place);
        }
        let parties = self.calls.get_mut(call).into_iter().flat_map(|call| &mut call.parties);
        for party in parties {
            party.state = LegState::Released;
        }
        self.touch(call);
        Ok(())
    }

    /// Silences the agent that a joined supervisor monitors toward the customer, or ends that.
    fn mute_monitored(
        &mut self,
        supervisor: &DeviceId,
        call: &CallId,
        on: bool,
    ) -> Result<(), Refusal> {
        self.leg(Some(supervisor), call)?;
        let heard = self.heard.get(&(call.clone(), supervisor.clone())).ok_or_else(|| {
            let pattern = format!("Device '{{}}' does not monitor call '{call}'.");
            Refusal::device(Reason::InvalidState, supervisor, pattern)
        })?;
        let agent = heard.coached.clone();
        let agent =
            agent.ok_or_else(|| Refusal::new(Reason::InvalidState, "No agent is on the call."))?;
        let leg = self.leg(Some(&agent), call)?;
        if leg.muted_by_supervisor == on {
            return Err(Refusal::muted_already(on));
        }
        leg.muted_by_supervisor = on;
        self.muted.retain(|mute| mute.call != *call || mute.agent != agent);
        if on {
            let (call, supervisor) = (call.clone(), supervisor.clone());
            self.muted.push(MonitoredMute { call, supervisor, agent });
        }
        self.touch(call);
        Ok(())
    }

    /// A supervisor is out: it is heard no more, and the agent that it has silenced is heard again.
    fn leave(&mut self, supervisor: &DeviceId, call: &CallId) {
        self.heard.remove(&(call.clone(), supervisor.clone()));
        let ended = |mute: &mut MonitoredMute| mute.call == *call && mute.supervisor == *supervisor;
        for mute in self.muted.extract_if(.., ended).collect::<Vec<_>>() {
            if let Ok(leg) = self.leg(Some(&mute.agent), call) {
                leg.muted_by_supervisor = false;
            }
        }
    }

    fn redirect(&mut self, device: &DeviceId, call: &CallId, to: &Number) -> Result<(), Refusal> {
        if self.principal_leg(device, call)?.state != LegState::Ringing {
            return Err(not_now(call));
        }
        let rung = self.route(to)?;
        if rung.as_ref() == Some(device) {
            return Err(Refusal::number(
                Reason::InvalidState,
                to,
                "A call can not be redirected to '{}', where it rings.",
            ));
        }
        self.pass_on(device, call, to, rung)
    }

    /// Holds the call that the device talks on and takes back the one that it holds.
    fn swap(&mut self, device: &DeviceId, call: &CallId, other: &CallId) -> Result<(), Refusal> {
        let one = self.principal_leg(device, call)?.state;
        let two = self.principal_leg(device, other)?.state;
        let swapped = match (one, two) {
            (LegState::Established, LegState::Held) => (LegState::Held, LegState::Established),
            (LegState::Held, LegState::Established) => (LegState::Established, LegState::Held),
            (LegState::Established | LegState::Held, _) => return Err(not_now(other)),
            (_, _) => return Err(not_now(call)),
        };
        self.leg(Some(device), call)?.state = swapped.0;
        self.leg(Some(device), other)?.state = swapped.1;
        self.touch(call);
        self.touch(other);
        Ok(())
    }

    /// The leg of a device that is a supervisor's on no call.
    fn principal_leg(
        &mut self,
        device: &DeviceId,
        call: &CallId,
    ) -> Result<&mut PartyFact, Refusal> {
        let leg = self.leg(Some(device), call)?;
        match leg.role {
            PartyRole::Agent | PartyRole::Customer => Ok(leg),
            PartyRole::Supervisor => Err(Refusal::supervisors_leg()),
        }
    }

    /// The same, while it is on the call, held or not.
    fn established_leg(
        &mut self,
        device: &DeviceId,
        call: &CallId,
    ) -> Result<&mut PartyFact, Refusal> {
        let leg = self.principal_leg(device, call)?;
        if is_talking(leg) { Ok(leg) } else { Err(not_now(call)) }
    }

    /// The device's leg ends and the other number rings.
    fn pass_on(
        &mut self,
        device: &DeviceId,
        call: &CallId,
        to: &Number,
        rung: Option<DeviceId>,
    ) -> Result<(), Refusal> {
        let called = self.called(rung, to);
        self.leg(Some(device), call)?.state = LegState::Released;
        if let Some(fact) = self.calls.get_mut(call) {
            fact.parties.push(called);
        }
        self.touch(call);
        Ok(())
    }

    /// The ringing leg of a number: that of the device there, or of somebody outside.
    fn called(&self, rung: Option<DeviceId>, number: &Number) -> PartyFact {
        let device = rung.as_ref().and_then(|device| self.devices.get(device));
        let number = device.map_or_else(|| number.clone(), |device| device.number.clone());
        let role = rung.as_ref().map_or(PartyRole::Customer, |device| self.role(device));
        PartyFact { role, state: LegState::Ringing, ..party(rung, number) }
    }

    fn turn(
        &mut self,
        device: &DeviceId,
        call: &CallId,
        from: LegState,
        to: LegState,
    ) -> Result<(), Refusal> {
        let leg = self.principal_leg(device, call)?;
        if leg.state != from {
            return Err(not_now(call));
        }
        leg.state = to;
        self.touch(call);
        Ok(())
    }

    /// One party is no call, unless a supervisor keeps it.
    fn end_if_alone(&mut self, call: &CallId) {
        self.drop_moot_newcomer(call);
        let Some(fact) = self.calls.get(call) else {
            return;
        };
        let here = fact.parties.iter().filter(|party| party.state != LegState::Released);
        let people = here.filter(|party| party.role != PartyRole::Supervisor).count();
        if people > 1 || people == 1 && self.supervision.keeps_alive(fact) {
            return;
        }
        let parties = self.calls.get_mut(call).into_iter().flat_map(|call| &mut call.parties);
        for party in parties {
            party.state = LegState::Released;
        }
    }

    fn release(&mut self, device: &DeviceId, call: &CallId) {
        self.leave(device, call);
        if let Ok(leg) = self.leg(Some(device), call) {
            leg.state = LegState::Released;
            self.end_if_alone(call);
            self.touch(call);
        }
    }

    fn begin(
        &mut self,
        call_type: CallType,
        ani: Number,
        dnis: Number,
        parties: [PartyFact; 2],
        now: Now,
    ) -> CallId {
        self.calls_made += 1;
        let id = CallId::from(format!("simulated-{}", self.calls_made));
        let call = CallFact {
            id: id.clone(),
            conn_id: format!("{:016x}", self.calls_made),
            call_type,
            ani,
            dnis,
            started_at: now.wall,
            parent: None,
            owner: None,
            user_data: UserData::default(),
            parties: parties.into(),
        };
        self.calls.insert(id.clone(), call);
        self.touch(&id);
        id
    }

    /// Which device rings for a number: `None` is outside. Forwarding and do-not-disturb act before
    /// it rings.
    fn route(&self, number: &Number) -> Result<Option<DeviceId>, Refusal> {
        let mut number = number;
        for _ in 0..FORWARDS {
            let Some(device) = self.devices.values().find(|device| device.number == *number) else {
                return Ok(None);
            };
            match &device.forward_to {
                Some(next) => number = next,
                None if device.do_not_disturb => {
                    return Err(Refusal::number(
                        Reason::InvalidState,
                        number,
                        "Device '{}' does not want calls.",
                    ));
                }
                None => {
                    return self.reachable(&device.id).map(|device| Some(device.id.clone()));
                }
            }
        }
        Err(Refusal::new(Reason::InvalidState, "The call is forwarded in a circle."))
    }

    fn reachable(&self, device: &DeviceId) -> Result<&DeviceFact, Refusal> {
        let device = self.device(device)?;
        if device.registered {
            Ok(device)
        } else {
            Err(Refusal::number(Reason::Internal, &device.number, "Device '{}' is not registered."))
        }
    }

    fn role(&self, device: &DeviceId) -> PartyRole {
        if self.customers.contains(device) { PartyRole::Customer } else { PartyRole::Agent }
    }

    fn heard(&self, call: &CallId) -> BTreeMap<DeviceId, Heard> {
        let here = self.heard.iter().filter(|((monitored, _), _)| monitored == call);
        here.map(|((_, supervisor), heard)| (supervisor.clone(), heard.clone())).collect()
    }

    fn change_device(
        &mut self,
        device: &DeviceId,
        change: impl FnOnce(&mut DeviceFact),
    ) -> Result<(), Refusal> {
        let fact = self.devices.get_mut(device).ok_or_else(|| Refusal::no_device(device))?;
        change(fact);
        self.facts.publish(Fact::Device(fact.clone()));
        Ok(())
    }

    fn device(&self, device: &DeviceId) -> Result<&DeviceFact, Refusal> {
        self.devices.get(device).ok_or_else(|| Refusal::no_device(device))
    }

    fn call(&self, call: &CallId) -> Result<&CallFact, Refusal> {
        self.calls.get(call).ok_or_else(|| Refusal::no_call(call))
    }

    /// The leg of a device, or of the first party that is no device of the switch, that has not
    /// been released.
    fn leg(&mut self, device: Option<&DeviceId>, call: &CallId) -> Result<&mut PartyFact, Refusal> {
        let place = self.place(device, call)?;
        self.leg_at(call, place)
    }

    /// Where that leg stands among the parties of its call.
    fn place(&self, device: Option<&DeviceId>, call: &CallId) -> Result<usize, Refusal> {
        if let Some(device) = device {
            self.device(device)?;
        }
        let parties = self.calls.get(call).into_iter().flat_map(|call| &call.parties);
        parties
            .into_iter()
            .position(|party| party.device.as_ref() == device && party.state != LegState::Released)
            .ok_or_else(|| Refusal::no_call(call))
    }

    fn leg_at(&mut self, call: &CallId, place: usize) -> Result<&mut PartyFact, Refusal> {
        let parties = self.calls.get_mut(call).map(|call| &mut call.parties);
        parties.and_then(|parties| parties.get_mut(place)).ok_or_else(|| Refusal::no_call(call))
    }

    /// The leg with this number in the first of these states that it has a leg in: its call, the
    /// oldest first, and its place there.
    fn leg_with(&self, number: &Number, states: &[LegState]) -> Result<(CallId, usize), Refusal> {
        let legs = self.calls.values().flat_map(|call| {
            let parties = call.parties.iter().enumerate();
            parties.map(move |(place, party)| (call, place, party))
        });
        let order = |(call, place, party): (&CallFact, usize, &PartyFact)| {
            let rank = states.iter().position(|state| party.state == *state)?;
            (party.number == *number)
                .then(|| ((rank, call.conn_id.clone()), call.id.clone(), place))
        };
        let found = legs.filter_map(order).min();
        let pattern = "Device '{}' is on no call that this can be done with.";
        found
            .map(|(_, call, place)| (call, place))
            .ok_or_else(|| Refusal::number(Reason::InvalidState, number, pattern))
    }

    /// The agent's or supervisor's device with this number.
    fn device_with(&self, number: &Number) -> Option<DeviceId> {
        let found = self.devices.values().find(|device| device.number == *number);
        let house = found.filter(|device| !self.customers.contains(&device.id));
        house.map(|device| device.id.clone())
    }

    fn touch(&mut self, call: &CallId) {
        if !self.changed.contains(call) {
            self.changed.push_back(call.clone());
        }
    }
}

fn party(device: Option<DeviceId>, number: Number) -> PartyFact {
    PartyFact {
        device,
        number,
        role: PartyRole::Customer,
        state: LegState::Ringing,
        muted: false,
        muted_by_supervisor: false,
        held_at_phone: false,
        activity: None,
        monitors: None,
        established_at: None,
        quality: None,
        handed_on_to: None,
    }
}

fn not_now(call: &CallId) -> Refusal {
    let call = Subject::Call(call.clone());
    Refusal::about(Reason::InvalidState, call, "Call '{}' is not in a state that allows this.")
}
