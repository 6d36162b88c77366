//! A backend under check, as one rule sees it: commands go there, and what it reports is known.

use super::rules;
use super::{Person, Phones, PhonesError, Residents, Rule};
use crate::model::{
    Activity, CallFact, CallId, Capabilities, Command, CommandContext, DeviceFact, DeviceId, Fact,
    LegState, Mode, MonitorFact, MonitorState, Number, PartyRole, Reason, Refusal, Scope,
};
use crate::telephony::connection::TelephonyChannel;
use crate::telephony::phones::PhoneCommand;
use crate::telephony::proto::telephony_client::TelephonyClient;
use crate::telephony::{WatchItem, answer, code_of, proto, refusal_of};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::timeout;
use tonic::Status;
use tonic_types::StatusExt;

/// What came of a rule, or of a part of one.
pub(super) type Verdict<T = ()> = Result<T, Miss>;

/// A rule that is not kept, or not held against this backend.
#[derive(Debug)]
pub(super) enum Miss {
    Failed { expected: String, came: String },
    Skipped(String),
}

impl Miss {
    pub(super) fn failed(expected: impl Into<String>, came: impl Into<String>) -> Self {
        Miss::Failed { expected: expected.into(), came: came.into() }
    }
}

/// A miss unless it is so.
pub(super) fn ensure(
    is_so: bool,
    expected: impl Into<String>,
    came: impl FnOnce() -> String,
) -> Verdict {
    match is_so {
        true => Ok(()),
        false => Err(Miss::failed(expected, came())),
    }
}

/// A miss if the status carries a reason of the contract to which another gRPC code belongs.
pub(super) fn has_its_code(status: &Status) -> Verdict {
    let refusal = refusal_of(status);
    let is_carried =
        status.get_details_error_info().is_some_and(|info| info.reason == refusal.reason.as_str());
    let code = code_of(refusal.reason);
    ensure(
        !is_carried || status.code() == code,
        format!("a refusal as {} has the gRPC code {code:?}", refusal.reason),
        || format!("{:?}: {refusal}", status.code()),
    )
}

/// What all rules share.
pub(super) struct Bench<P> {
    pub(super) client: TelephonyClient<TelephonyChannel>,
    pub(super) residents: Residents,
    pub(super) offered: Capabilities,
    pub(super) phones: Option<P>,
    pub(super) patience: Duration,
    /// The backend takes no AdmitMonitoring: a gateway, which confirms joins itself.
    pub(super) admits_itself: bool,
    /// A refusal of this rule whose gRPC code is not the one of its reason.
    wrong_code: Option<Miss>,
    /// Makes request ids that no other run has.
    run: u64,
    asked: u64,
}

impl<P: Phones> Bench<P> {
    pub(super) fn new(
        client: TelephonyClient<TelephonyChannel>,
        residents: Residents,
        offered: Capabilities,
        phones: Option<P>,
        patience: Duration,
    ) -> Self {
        let run = rand::random();
        Self {
            client,
            residents,
            offered,
            phones,
            patience,
            admits_itself: false,
            wrong_code: None,
            run,
            asked: 0,
        }
    }

    /// Why a rule is left out.
    pub(super) fn missing(&self, rule: Rule) -> Option<String> {
        if let Some(missing) = rule.missing(&self.offered) {
            return Some(format!("Describe does not offer {missing}"));
        }
        if rule.needs_phones() && self.phones.is_none() {
            return Some("nothing moves the telephones: see --phones".into());
        }
        (rule.needs_admission() && self.admits_itself)
            .then(|| "the backend confirms joins itself".into())
    }

    /// Holds the backend against one rule.
    pub(super) async fn hold_against(&mut self, rule: Rule) -> Verdict {
        let patience = self.patience;
        self.patience = patience.max(rule.longest_wait());
        self.wrong_code = None;
        let verdict = self.held_against(rule).await;
        self.patience = patience;
        match (verdict, self.wrong_code.take()) {
            (Ok(()) | Err(Miss::Skipped(_)), Some(wrong)) => Err(wrong),
            (verdict, _) => verdict,
        }
    }

    async fn held_against(&mut self, rule: Rule) -> Verdict {
        let mut session = Session::open(self).await?;
        rules::hold_against(rule, &mut session).await
    }

    /// Ends what a rule has left: calls, monitors, do-not-disturb and forwarding.
    pub(super) async fn tidy(&mut self) -> Verdict {
        let mut session = Session::open(self).await?;
        session.tidy().await
    }
}

/// The time that one rule takes, with a watch of its own.
pub(super) struct Session<'a, P> {
    pub(super) bench: &'a mut Bench<P>,
    pub(super) watch: Watch,
}

impl<'a, P: Phones> Session<'a, P> {
    async fn open(bench: &'a mut Bench<P>) -> Verdict<Self> {
        let mut watch = Watch::open(&bench.client, 0, "", bench.patience).await?;
        watch.until_complete().await?;
        Ok(Self { bench, watch })
    }

    pub(super) fn residents(&self) -> &Residents {
        &self.bench.residents
    }

    pub(super) fn known(&self) -> &Known {
        &self.watch.known
    }

    /// A context with a request id of its own, on behalf of this person.
    pub(super) fn context(&mut self, person: &Person) -> CommandContext {
        self.bench.asked += 1;
        CommandContext {
            request_id: format!("contract-check-{:016x}-{}", self.bench.run, self.bench.asked)
                .into(),
            user: Some(person.user.clone()),
            caller: None,
            from: None,
            deadline: self.bench.patience,
            feature_code: None,
        }
    }

    /// Asks, and returns the revision that comes in the answer.
    pub(super) async fn send(
        &mut self,
        context: &CommandContext,
        command: &Command,
    ) -> Result<u64, Refusal> {
        let answered = answer(self.bench.client.clone(), context, command).await;
        let status = match answered {
            Ok(revision) => return Ok(revision),
            Err(status) => status,
        };
        if let Err(wrong) = has_its_code(&status) {
            self.bench.wrong_code.get_or_insert(wrong);
        }
        Err(refusal_of(&status))
    }

    /// A person asks, and is not refused.
    pub(super) async fn accepted(&mut self, person: &Person, command: Command) -> Verdict {
        let context = self.context(person);
        self.accepted_in(&context, &command).await.map(|_| ())
    }

    /// Is not refused; returns the revision in the answer.
    pub(super) async fn accepted_in(
        &mut self,
        context: &CommandContext,
        command: &Command,
    ) -> Verdict<u64> {
        let answered = self.send(context, command).await;
        answered.map_err(|refusal| {
            Miss::failed(format!("{} is accepted", name(command)), refused_as(&refusal))
        })
    }

    /// A person asks, and is refused for this reason.
    pub(super) async fn refused(
        &mut self,
        person: &Person,
        command: Command,
        reason: Reason,
    ) -> Verdict {
        let context = self.context(person);
        self.refused_in(&context, &command, reason).await.map(|_| ())
    }

    pub(super) async fn refused_in(
        &mut self,
        context: &CommandContext,
        command: &Command,
        reason: Reason,
    ) -> Verdict<Refusal> {
        let expected = || format!("{} is refused as {reason}", name(command));
        match self.send(context, command).await {
            Err(refusal) if refusal.reason == reason => Ok(refusal),
            Err(refusal) => Err(Miss::failed(expected(), refused_as(&refusal))),
            Ok(_) => Err(Miss::failed(expected(), "it is accepted")),
        }
    }

    /// The supervisor asks to monitor the agent.
    pub(super) async fn start(&mut self, activity: Activity) -> Verdict {
        self.start_as(activity, Mode::AllCalls, Scope::Call).await
    }

    pub(super) async fn start_as(
        &mut self,
        activity: Activity,
        mode: Mode,
        scope: Scope,
    ) -> Verdict {
        let (supervisor, target) =
            (self.residents().supervisor.clone(), self.residents().agent.device.clone());
        let command = Command::StartMonitoring {
            supervisor: supervisor.device.clone(),
            target,
            activity,
            mode,
            scope,
            confirm_joins: false,
            agent_side_only: false,
        };
        self.accepted(&supervisor, command).await
    }

    pub(super) async fn stop(&mut self, supervisor: &Person) -> Verdict {
        let command = Command::StopMonitoring { supervisor: supervisor.device.clone() };
        self.accepted(supervisor, command).await
    }

    /// What somebody that begins to watch is told.
    pub(super) async fn snapshot(&self) -> Verdict<Known> {
        snapshot(&self.bench.client, self.bench.patience).await
    }

    /// Waits until what is known is as expected.
    pub(super) async fn until(
        &mut self,
        expected: impl Into<String>,
        is_so: impl Fn(&Known, &Residents) -> bool,
    ) -> Verdict {
        let expected = expected.into();
        let (watch, residents) = (&mut self.watch, &self.bench.residents);
        let waited = timeout(self.bench.patience, async {
            while !is_so(&watch.known, residents) {
                watch.next().await?;
            }
            Ok(())
        });
        match waited.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(Miss::Failed { came, .. })) => Err(Miss::failed(expected, came)),
            Ok(Err(skipped @ Miss::Skipped(_))) => Err(skipped),
            Err(_) => {
                let came = self.watch.known.describe();
                let after = self.bench.patience.as_secs_f32();
                Err(Miss::failed(expected, format!("after {after} s there are {came}")))
            }
        }
    }

    pub(super) async fn until_armed(&mut self) -> Verdict {
        self.until("the monitor is armed", |known, residents| known.is_armed(&residents.supervisor))
            .await
    }

    /// Waits until everything is known that has come of what was done so far: facts come in order,
    /// and when the second supervisor's monitor of the colleague shows, so does all before it.
    pub(super) async fn catch_up(&mut self) -> Verdict {
        let second = self.residents().second.clone();
        let command = Command::StartMonitoring {
            supervisor: second.device.clone(),
            target: self.residents().colleague.device.clone(),
            activity: Activity::Coach,
            mode: Mode::AllCalls,
            scope: Scope::Call,
            confirm_joins: false,
            agent_side_only: false,
        };
        self.accepted(&second, command).await?;
        self.until("the second supervisor's monitor is armed", |known, residents| {
            known.is_armed(&residents.second)
        })
        .await
    }

    pub(super) async fn until_unmonitored(&mut self) -> Verdict {
        self.until("the monitor is gone", |known, _| known.monitors.is_empty()).await
    }

    /// The supervisor's monitor has joined the call, and its leg is one of the parties.
    pub(super) async fn until_joined(&mut self, call: &CallId, activity: Activity) -> Verdict {
        let expected = format!("the supervisor has joined the call in {activity}");
        self.until(expected, |known, residents| {
            let supervisor = &residents.supervisor.device;
            let joined = known.monitors.get(supervisor).is_some_and(|monitor| {
                matches!(
                    &monitor.state,
                    MonitorState::Joined { call: own, activity: does, .. }
                        if own == call && *does == activity
                )
            });
            let leg = known.calls.get(call).and_then(|call| call.party_of(supervisor));
            joined
                && leg.is_some_and(|leg| {
                    leg.state == LegState::Established && leg.activity == Some(activity)
                })
        })
        .await
    }

    /// Something is done at a telephone.
    pub(super) async fn act(&mut self, command: PhoneCommand) -> Verdict {
        match self.done(&command).await? {
            Ok(()) => Ok(()),
            Err(error) => Err(undone(&command, error.to_string())),
        }
    }

    /// Somebody tries to call, and may be told at once that it can not be.
    pub(super) async fn try_to_call(&mut self, from: Number, to: Number) -> Verdict {
        let command = PhoneCommand::Call { from, to };
        match self.done(&command).await? {
            Ok(()) | Err(PhonesError::Refused(_)) => Ok(()),
            Err(error) => Err(undone(&command, error.to_string())),
        }
    }

    async fn done(&mut self, command: &PhoneCommand) -> Verdict<Result<(), PhonesError>> {
        let Some(phones) = &mut self.bench.phones else {
            return Err(Miss::Skipped("nothing moves the telephones".into()));
        };
        let done = timeout(self.bench.patience, phones.act(command)).await;
        done.map_err(|_| undone(command, "nothing is answered"))
    }

    /// A customer calls the agent, whose phone rings.
    pub(super) async fn ring(&mut self) -> Verdict<CallId> {
        let (customer, agent) = (self.residents().customer.clone(), self.residents().agent.clone());
        self.ring_at(customer, &agent).await
    }

    /// This number calls somebody of the house, whose phone rings.
    pub(super) async fn ring_at(&mut self, from: Number, callee: &Person) -> Verdict<CallId> {
        let to = callee.number.clone();
        self.act(PhoneCommand::Call { from, to }).await?;
        let expected = format!("the phone of {} rings", callee.number);
        self.until(&expected, |known, _| known.call_of(callee, LegState::Ringing).is_some())
            .await?;
        let ringing = self.known().call_of(callee, LegState::Ringing);
        ringing.ok_or_else(|| Miss::failed(expected, "it does not"))
    }

    /// A customer calls the agent, who answers.
    pub(super) async fn talk(&mut self) -> Verdict<CallId> {
        let call = self.ring().await?;
        self.act(PhoneCommand::Answer(self.residents().agent.number.clone())).await?;
        self.until_talking(&call).await?;
        Ok(call)
    }

    pub(super) async fn until_talking(&mut self, call: &CallId) -> Verdict {
        self.until("the agent's leg of the call is established", |known, residents| {
            known.call_of(&residents.agent, LegState::Established).as_ref() == Some(call)
        })
        .await
    }

    /// The customer hangs up, and the call ends.
    pub(super) async fn hang_up(&mut self, call: &CallId) -> Verdict {
        self.act(PhoneCommand::HangUp(self.residents().customer.clone())).await?;
        self.until("the call is over", |known, _| !known.calls.contains_key(call)).await
    }

    async fn tidy(&mut self) -> Verdict {
        let people = {
            let residents = self.residents();
            [&residents.supervisor, &residents.second, &residents.agent, &residents.colleague]
                .map(Clone::clone)
        };
        for person in &people {
            if self.known().monitors.contains_key(&person.device) {
                self.stop(person).await?;
            }
        }
        self.until_unmonitored().await?;
        let mut ended = Ok(());
        for call in self.known().calls.keys().cloned().collect::<Vec<_>>() {
            ended = ended.and(self.end(&call, &people).await);
        }
        // A call that was over before it could be ended is no miss.
        let quiet = self.until("every call is over", |known, _| known.calls.is_empty()).await;
        if quiet.is_err() {
            return ended.and(quiet);
        }
        for person in &people {
            let Some(fact) = self.known().devices.get(&person.device).cloned() else {
                return Err(Miss::failed("every device is there", self.known().describe()));
            };
            let device = person.device.clone();
            if fact.do_not_disturb {
                self.accepted(person, Command::SetDoNotDisturb { device, on: false }).await?;
            }
            let device = person.device.clone();
            if fact.forward_to.is_some() {
                self.accepted(person, Command::SetForwarding { device, to: None }).await?;
            }
        }
        self.until("every device is as it was", |known, _| {
            let mut devices = known.devices.values();
            devices.all(|device| !device.do_not_disturb && device.forward_to.is_none())
        })
        .await
    }

    /// Ends a call: of a conference all but two hang up by command, then the customer hangs up, or
    /// else somebody of the house does by command.
    async fn end(&mut self, call: &CallId, people: &[Person]) -> Verdict {
        let Some(fact) = self.known().calls.get(call).cloned() else {
            return Ok(());
        };
        let customer = self.residents().customer.clone();
        let is_here = |party: &&crate::model::PartyFact| {
            party.state != LegState::Released && party.role != PartyRole::Supervisor
        };
        let here: Vec<_> = fact.parties.iter().filter(is_here).collect();
        let mut on_it = people.iter().filter(|person| fact.party_of(&person.device).is_some());
        for person in on_it.by_ref().take(here.len().saturating_sub(2)) {
            let hangup = Command::Hangup { device: person.device.clone(), call: call.clone() };
            self.accepted(person, hangup).await?;
        }
        if here.iter().any(|party| party.role == PartyRole::Customer && party.number == customer) {
            let hung_up = self.act(PhoneCommand::HangUp(customer)).await;
            if hung_up.is_ok() {
                return Ok(());
            }
        }
        let Some(person) = on_it.next() else {
            return Ok(());
        };
        let hangup = Command::Hangup { device: person.device.clone(), call: call.clone() };
        self.accepted(person, hangup).await
    }
}

/// What somebody that begins to watch is told.
pub(super) async fn snapshot(
    client: &TelephonyClient<TelephonyChannel>,
    patience: Duration,
) -> Verdict<Known> {
    let mut watch = Watch::open(client, 0, "", patience).await?;
    watch.until_complete().await?;
    Ok(watch.known)
}

fn undone(command: &PhoneCommand, came: impl Into<String>) -> Miss {
    Miss::failed(format!("'{command}' is done at the telephone"), came)
}

pub(super) fn name(command: &Command) -> String {
    let said = format!("{command:?}");
    said.split(' ').next().unwrap_or_default().to_owned()
}

pub(super) fn refused_as(refusal: &Refusal) -> String {
    format!("it is refused as {}: {refusal}", refusal.reason)
}

/// What a watcher knows.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    pub(super) devices: BTreeMap<DeviceId, DeviceFact>,
    pub(super) calls: BTreeMap<CallId, CallFact>,
    pub(super) monitors: BTreeMap<DeviceId, MonitorFact>,
    /// Calls that supervisors wait for leave to join, by the supervisor's device.
    pub(super) asked: BTreeMap<DeviceId, CallId>,
    /// The devices of failures.
    pub(super) failures: Vec<DeviceId>,
    /// The devices whose phones have rung, but for those of supervisors that were brought in.
    pub(super) rung: BTreeSet<DeviceId>,
    /// The last facts of calls that are over.
    pub(super) over: Vec<CallFact>,
    /// Each state of a monitor in its order, with the supervisor's device.
    pub(super) states: Vec<(DeviceId, MonitorState)>,
}

impl Known {
    /// A call on which this person's leg is in a state, unless it is a supervisor's there.
    pub(super) fn call_of(&self, person: &Person, state: LegState) -> Option<CallId> {
        let mut on = self.calls.values().filter(|call| {
            let leg = call.party_of(&person.device);
            leg.is_some_and(|leg| leg.state == state && leg.role != PartyRole::Supervisor)
        });
        on.next().map(|call| call.id.clone())
    }

    pub(super) fn is_armed(&self, supervisor: &Person) -> bool {
        let monitor = self.monitors.get(&supervisor.device);
        monitor.is_some_and(|monitor| monitor.state == MonitorState::Armed)
    }

    fn learn(&mut self, fact: Fact) {
        if let Fact::Call(call) = &fact {
            let ringing = call.parties.iter().filter(|party| {
                party.state == LegState::Ringing && party.role != PartyRole::Supervisor
            });
            self.rung.extend(ringing.filter_map(|party| party.device.clone()));
        }
        match fact {
            Fact::Device(device) => {
                self.devices.insert(device.id.clone(), device);
            }
            Fact::DeviceGone { device } => {
                self.devices.remove(&device);
            }
            Fact::Call(call) if call.is_over() => {
                self.calls.remove(&call.id);
                self.over.push(call);
            }
            Fact::Call(call) => {
                self.calls.insert(call.id.clone(), call);
            }
            Fact::Monitor(monitor) => {
                self.states.push((monitor.supervisor.clone(), monitor.state.clone()));
                self.monitors.insert(monitor.supervisor.clone(), monitor);
            }
            Fact::MonitorGone { supervisor } => {
                self.monitors.remove(&supervisor);
            }
            Fact::AdmissionAsked(asked) => {
                self.asked.insert(asked.supervisor, asked.call);
            }
            Fact::Failed(failure) => self.failures.push(failure.device),
            Fact::JoinSound(_)
            | Fact::FeatureCodeDialled(_)
            | Fact::CallLost { .. }
            | Fact::SnapshotBegin
            | Fact::SnapshotComplete
            | Fact::Lost => {}
        }
    }

    /// Calls and monitors in one line.
    pub(super) fn describe(&self) -> String {
        let number = |device: &DeviceId| {
            let known = self.devices.get(device);
            known.map_or(device.to_string(), |device| device.number.to_string())
        };
        let calls = self.calls.values().map(|call| {
            let parties = call.parties.iter().map(|party| {
                format!("{} {} {}", party.number, party.role.as_str(), party.state.as_str())
            });
            format!("call {} ({})", call.id, parties.collect::<Vec<_>>().join(", "))
        });
        let monitors = self.monitors.values().map(|monitor| {
            let (supervisor, target) = (number(&monitor.supervisor), number(&monitor.target));
            let (activity, state) = (monitor.activity, &monitor.state);
            format!("a monitor of {supervisor} on {target} in {activity}, {state}")
        });
        let all: Vec<String> = calls.chain(monitors).collect();
        match all.is_empty() {
            true => "no call and no monitor".into(),
            false => all.join("; "),
        }
    }
}

/// One watch and what it has told.
pub(super) struct Watch {
    stream: tonic::Streaming<proto::WatchResponse>,
    patience: Duration,
    pub(super) known: Known,
    pub(super) instance: String,
    pub(super) revision: u64,
    /// That of the last message alone, as it came.
    pub(super) said: u64,
}

impl Watch {
    pub(super) async fn open(
        client: &TelephonyClient<TelephonyChannel>,
        after_revision: u64,
        instance: &str,
        patience: Duration,
    ) -> Verdict<Self> {
        let request =
            proto::WatchRequest { after_revision, instance: instance.into(), heartbeat_ms: 100 };
        let mut client = client.clone();
        let expected = "Watch is accepted";
        let stream = match timeout(patience, client.watch(request)).await {
            Ok(Ok(stream)) => stream.into_inner(),
            Ok(Err(status)) => {
                return Err(Miss::failed(expected, refused_as(&refusal_of(&status))));
            }
            Err(_) => return Err(Miss::failed(expected, "it is not answered")),
        };
        Ok(Self {
            stream,
            patience,
            known: Known::default(),
            instance: instance.into(),
            revision: 0,
            said: 0,
        })
    }

    /// The next message.
    pub(super) async fn next(&mut self) -> Verdict<WatchItem> {
        const EXPECTED: &str = "the watch goes on";
        let response = match timeout(self.patience, self.stream.message()).await {
            Ok(Ok(Some(response))) => response,
            Ok(Ok(None)) => return Err(Miss::failed(EXPECTED, "it has ended")),
            Ok(Err(status)) => {
                let refusal = refusal_of(&status);
                return Err(Miss::failed(EXPECTED, format!("it has ended: {refusal}")));
            }
            Err(_) => {
                let silent = self.patience.as_secs_f32();
                return Err(Miss::failed(EXPECTED, format!("nothing has come for {silent} s")));
            }
        };
        let revision = response.revision;
        let item = WatchItem::try_from(response).map_err(|malformed| {
            Miss::failed("each message is as the contract says", malformed.to_string())
        })?;
        match &item {
            WatchItem::SnapshotBegin { instance } => {
                self.instance.clone_from(instance);
                let Known { over, rung, .. } = std::mem::take(&mut self.known);
                self.known = Known { over, rung, ..Known::default() };
            }
            WatchItem::Fact(fact) => {
                ensure(
                    revision == 0 || revision >= self.revision,
                    "revisions never go back",
                    || format!("{revision} after {}", self.revision),
                )?;
                self.known.learn(fact.clone());
            }
            WatchItem::Heartbeat(_) => {}
        }
        self.said = revision;
        self.revision = self.revision.max(revision);
        Ok(item)
    }

    pub(super) async fn until_complete(&mut self) -> Verdict {
        let patience = self.patience;
        let reading = async {
            while self.next().await? != WatchItem::Fact(Fact::SnapshotComplete) {}
            Ok(())
        };
        let silent = || Miss::failed("a snapshot comes to SnapshotComplete", "it does not");
        timeout(patience, reading).await.unwrap_or_else(|_| Err(silent()))
    }
}
