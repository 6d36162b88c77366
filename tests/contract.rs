//! What every backend of `undertone.telephony.v1` must do, in whatever language it is written.
//!
//! One suite, run against the simulated backend, the gateway in front of it, and any
//! `TELEPHONY_URL`. What a backend can not do by command (make a customer call, let a phone be
//! busy) the suite asks of [`Ways`].

mod backends;
mod reflection;
mod seam;

use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport::Channel;
use undertone::model::{
    Activity, CallFact, CallId, Command, CommandContext, DeviceFact, DeviceId, Fact, LegState,
    Mode, MonitorFact, MonitorState, Number, PartyRole, Reason, Refusal, Scope, UserId,
};
use undertone::telephony::proto::telephony_client::TelephonyClient;
use undertone::telephony::{WatchItem, execute, proto, refusal_of};

/// How long anything may take. Generous: the machine may be busy, and nothing waits longer than it
/// must.
const PATIENCE: Duration = Duration::from_secs(30);

/// The devices and users that the backend serves, by what they are in the suite.
#[derive(Clone, Debug)]
pub(crate) struct TestAccounts {
    /// The supervisor's device and login name.
    pub(crate) supervisor: (DeviceId, UserId),
    /// Another supervisor.
    pub(crate) second: (DeviceId, UserId),
    /// An agent that both may monitor.
    pub(crate) agent: (DeviceId, UserId),
    /// Another one.
    pub(crate) other_agent: DeviceId,
    /// The backend confirms joins itself and takes no `AdmitMonitoring`: a gateway.
    pub(crate) admits_itself: bool,
}

/// What a supervisor's phone does when it is brought in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pickup {
    Answers,
    Busy,
    Rejects,
}

/// How things happen that no command makes happen.
pub(crate) trait Ways {
    fn accounts(&self) -> TestAccounts;
    /// False: there are no phones; only what needs none is checked.
    fn has_phones(&self) -> bool {
        true
    }
    /// A customer calls the agent. Returns when the call is on its way.
    async fn customer_calls(&mut self);
    /// The agent picks up.
    async fn agent_answers(&mut self, call: &CallId);
    /// The customer hangs up.
    async fn customer_hangs_up(&mut self, call: &CallId);
    /// The supervisor hangs up.
    async fn supervisor_hangs_up(&mut self, call: &CallId);
    /// From now on the supervisor's phone does this when it is brought in.
    async fn supervisor_phone(&mut self, does: Pickup);
}

/// Runs every check in order against one backend.
pub(crate) async fn suite(channel: Channel, mut ways: impl Ways) {
    let mut backend = Backend::open(channel, ways.accounts()).await;
    describes_itself(&mut backend).await;
    begins_a_watch_with_a_whole_snapshot(&mut backend).await;
    resumes_a_watch_after_a_revision(&mut backend).await;
    beats_when_nothing_happens(&mut backend).await;
    sets_do_not_disturb_and_forwarding(&mut backend).await;
    refuses_malformed_input_by_the_name_of_the_field(&mut backend).await;
    refuses_what_is_not_there_or_not_now(&mut backend).await;
    does_a_request_id_once(&mut backend).await;
    arms_changes_and_cancels_a_monitor(&mut backend).await;
    refuses_a_second_supervisor(&mut backend).await;
    if !ways.has_phones() {
        return;
    }
    coaches_switches_and_goes_back_to_armed(&mut backend, &mut ways).await;
    spends_next_call(&mut backend, &mut ways).await;
    joins_a_call_that_is_going_on_and_leaves_when_cancelled(&mut backend, &mut ways).await;
    lets_a_supervisor_hang_up(&mut backend, &mut ways).await;
    reports_a_supervisor_who_is_busy_or_rejects(&mut backend, &mut ways).await;
    reports_calls_until_they_are_over(&mut backend, &mut ways).await;
    if !ways.accounts().admits_itself {
        joins_only_with_leave(&mut backend, &mut ways).await;
    }
}

async fn describes_itself(backend: &mut Backend) {
    let described = backend.client.describe(proto::DescribeRequest {}).await.unwrap().into_inner();
    assert!(!described.backend.is_empty());
    assert!(described.activities().all(|activity| activity != proto::Activity::Unspecified));
    for activity in [proto::Activity::ListenIn, proto::Activity::Coach, proto::Activity::BargeIn] {
        assert!(described.activities().any(|offered| offered == activity));
    }
    assert!(described.modes().any(|mode| mode == proto::Mode::AllCalls));
    assert!(described.scopes().any(|scope| scope == proto::Scope::Call));
}

async fn begins_a_watch_with_a_whole_snapshot(backend: &mut Backend) {
    let mut watch = Watch::open(&backend.client, 0, "").await;
    let WatchItem::SnapshotBegin { instance } = watch.next().await else {
        panic!("no snapshot begins");
    };
    assert!(!instance.is_empty());
    watch.until_complete().await;
    assert!(watch.revision > 0);
    for device in
        [&backend.accounts.supervisor.0, &backend.accounts.second.0, &backend.accounts.agent.0]
    {
        assert!(watch.known.devices.contains_key(device), "{device} is not in the snapshot");
    }
    assert_eq!(watch.known.calls.len(), 0);
    assert_eq!(watch.known.monitors.len(), 0);
}

async fn resumes_a_watch_after_a_revision(backend: &mut Backend) {
    let mut watch = Watch::open(&backend.client, 0, "").await;
    watch.until_complete().await;
    let (instance, revision) = (watch.instance.clone(), watch.revision);
    drop(watch);
    backend.do_not_disturb(true).await.unwrap();
    backend
        .until("do-not-disturb is on", |known, accounts| {
            known.devices[&accounts.agent.0].do_not_disturb
        })
        .await;

    let mut resumed = Watch::open(&backend.client, revision, &instance).await;
    let first = loop {
        match resumed.next().await {
            WatchItem::Heartbeat => {}
            other => break other,
        }
    };
    let WatchItem::Fact(Fact::Device(device)) = first else {
        panic!("what was missed does not come first but {first:?}");
    };
    assert_eq!((&device.id, device.do_not_disturb), (&backend.accounts.agent.0, true));
    assert!(resumed.revision > revision);

    for (revision, instance) in
        [(revision, "another"), (u64::MAX, instance.as_str()), (0, instance.as_str())]
    {
        let mut fresh = Watch::open(&backend.client, revision, instance).await;
        assert!(matches!(fresh.next().await, WatchItem::SnapshotBegin { .. }));
    }
    backend.do_not_disturb(false).await.unwrap();
    backend
        .until("do-not-disturb is off", |known, accounts| {
            !known.devices[&accounts.agent.0].do_not_disturb
        })
        .await;
}

async fn beats_when_nothing_happens(backend: &mut Backend) {
    let mut watch = Watch::open(&backend.client, 0, "").await;
    watch.until_complete().await;
    let revision = watch.revision;
    assert_eq!(watch.next().await, WatchItem::Heartbeat);
    assert_eq!(watch.next().await, WatchItem::Heartbeat);
    assert_eq!(watch.revision, revision);
}

async fn sets_do_not_disturb_and_forwarding(backend: &mut Backend) {
    let before = backend.device().await;
    backend.do_not_disturb(true).await.unwrap();
    let forward = |to: Option<&str>, accounts: &TestAccounts| Command::SetForwarding {
        device: accounts.agent.0.clone(),
        to: to.map(Number::from),
    };
    backend.by_agent(forward(Some("7001"), &backend.accounts)).await.unwrap();
    let expected =
        DeviceFact { do_not_disturb: true, forward_to: Some("7001".into()), ..before.clone() };
    backend
        .until("both are set", |known, accounts| known.devices[&accounts.agent.0] == expected)
        .await;
    backend.do_not_disturb(false).await.unwrap();
    backend.by_agent(forward(None, &backend.accounts)).await.unwrap();
    backend
        .until("both are off", |known, accounts| known.devices[&accounts.agent.0] == before)
        .await;
}

async fn refuses_malformed_input_by_the_name_of_the_field(backend: &mut Backend) {
    let good = proto::StartMonitoringRequest {
        context: Some(proto::CommandContext {
            request_id: "malformed".into(),
            on_behalf_of: backend.accounts.supervisor.1.to_string(),
        }),
        supervisor: backend.accounts.supervisor.0.to_string(),
        target: backend.accounts.agent.0.to_string(),
        activity: proto::Activity::Coach as i32,
        mode: proto::Mode::AllCalls as i32,
        scope: proto::Scope::Call as i32,
        confirm_joins: false,
        agent_side_only: false,
    };
    let context = |request_id: &str, on_behalf_of: &str| {
        Some(proto::CommandContext {
            request_id: request_id.into(),
            on_behalf_of: on_behalf_of.into(),
        })
    };
    let long = "x".repeat(129);
    let with = |change: &dyn Fn(&mut proto::StartMonitoringRequest)| {
        let mut request = good.clone();
        change(&mut request);
        request
    };
    let bad = [
        (with(&|it| it.context = None), Reason::MissingParameter, "context"),
        (
            with(&|it| it.context = context("", "meg")),
            Reason::MissingParameter,
            "context.request_id",
        ),
        (
            with(&|it| it.context = context(&long, "meg")),
            Reason::InvalidInput,
            "context.request_id",
        ),
        (
            with(&|it| it.context = context("r", "")),
            Reason::MissingParameter,
            "context.on_behalf_of",
        ),
        (with(&|it| it.supervisor.clear()), Reason::MissingParameter, "supervisor"),
        (with(&|it| it.target.clone_from(&long)), Reason::InvalidInput, "target"),
        (with(&|it| it.target = "a\r\nb".into()), Reason::InvalidInput, "target"),
        (with(&|it| it.activity = 0), Reason::InvalidInput, "activity"),
        (with(&|it| it.activity = 17), Reason::InvalidInput, "activity"),
        (with(&|it| it.mode = 0), Reason::InvalidInput, "mode"),
        (with(&|it| it.scope = -3), Reason::InvalidInput, "scope"),
    ];
    for (request, reason, field) in bad {
        let status = backend.client.start_monitoring(request).await.unwrap_err();
        let refusal = refusal_of(&status);
        assert_eq!(refusal.reason, reason, "{field}");
        assert!(refusal.text().contains(field), "'{refusal}' does not name {field}");
    }
    assert!(
        backend.snapshot().await.monitors.is_empty(),
        "a refused command has changed something"
    );
}

async fn refuses_what_is_not_there_or_not_now(backend: &mut Backend) {
    let accounts = backend.accounts.clone();
    let nowhere = DeviceId::from("no-such-device");
    let no_call = CallId::from("no-such-call");
    assert_eq!(
        backend.reason(backend.start_for(&nowhere, Activity::Coach)).await,
        Reason::NotFound
    );
    assert_eq!(
        backend.reason(backend.start_for(&accounts.supervisor.0, Activity::Coach)).await,
        Reason::NotPermitted
    );
    let stop = Command::StopMonitoring { supervisor: accounts.supervisor.0.clone() };
    assert_eq!(backend.reason(stop).await, Reason::InvalidState);
    let switch = Command::SwitchMonitoring {
        supervisor: accounts.supervisor.0.clone(),
        call: no_call.clone(),
        activity: Activity::BargeIn,
    };
    assert_eq!(backend.reason(switch).await, Reason::NotFound);
    for command in [
        Command::Answer { device: accounts.supervisor.0.clone(), call: no_call.clone() },
        Command::Hangup { device: accounts.supervisor.0.clone(), call: no_call.clone() },
        Command::Hold { device: accounts.supervisor.0.clone(), call: no_call.clone() },
        Command::SetDoNotDisturb { device: nowhere, on: true },
    ] {
        assert_eq!(backend.reason(command.clone()).await, Reason::NotFound, "{command:?}");
    }
    let admit = Command::AdmitMonitoring {
        supervisor: accounts.supervisor.0,
        call: no_call,
        admitted: true,
    };
    let refused = backend.reason(admit).await;
    assert_eq!(refused, if accounts.admits_itself { Reason::Forbidden } else { Reason::NotFound });
}

async fn does_a_request_id_once(backend: &mut Backend) {
    let device = backend.accounts.agent.0.clone();
    let on = Command::SetDoNotDisturb { device: device.clone(), on: true };
    let context = backend.context(&backend.accounts.agent.1.clone());
    execute(backend.client.clone(), &context, &on).await.unwrap();
    backend.do_not_disturb(false).await.unwrap();
    execute(backend.client.clone(), &context, &on).await.unwrap();
    // Facts come in order: once a later change shows, so would the request done again.
    let forward = |to: Option<&str>| Command::SetForwarding {
        device: device.clone(),
        to: to.map(Number::from),
    };
    backend.by_agent(forward(Some("7001"))).await.unwrap();
    backend
        .until("it is forwarded", |known, accounts| {
            known.devices[&accounts.agent.0].forward_to.is_some()
        })
        .await;
    let known = &backend.watch.known.devices[&device];
    assert!(!known.do_not_disturb, "the same request was done twice");
    backend.by_agent(forward(None)).await.unwrap();
    backend
        .until("it is not forwarded", |known, accounts| {
            known.devices[&accounts.agent.0].forward_to.is_none()
        })
        .await;

    let off = Command::SetDoNotDisturb { device, on: false };
    let refused = execute(backend.client.clone(), &context, &off).await.unwrap_err();
    assert_eq!(refused.reason, Reason::InvalidInput);

    let stop = Command::StopMonitoring { supervisor: backend.accounts.supervisor.0.clone() };
    let context = backend.context(&backend.accounts.supervisor.1.clone());
    let refused = execute(backend.client.clone(), &context, &stop).await.unwrap_err();
    backend.start(Activity::Coach, Mode::AllCalls, Scope::Call).await.unwrap();
    assert_eq!(
        execute(backend.client.clone(), &context, &stop).await,
        Err(refused),
        "another answer"
    );
    backend
        .until("the monitor is still there", |known, accounts| known.monitor(accounts).is_some())
        .await;
    backend.stop().await.unwrap();
    backend.until("the monitor is gone", |known, accounts| known.monitor(accounts).is_none()).await;
}

async fn arms_changes_and_cancels_a_monitor(backend: &mut Backend) {
    backend.start(Activity::Coach, Mode::AllCalls, Scope::Call).await.unwrap();
    backend
        .until("the monitor is armed", |known, accounts| {
            known.monitor(accounts).is_some_and(|monitor| {
                monitor.state == MonitorState::Armed
                    && monitor.target == accounts.agent.0
                    && (monitor.activity, monitor.mode, monitor.scope)
                        == (Activity::Coach, Mode::AllCalls, Scope::Call)
            })
        })
        .await;
    backend.start(Activity::ListenIn, Mode::NextCall, Scope::Agent).await.unwrap();
    backend
        .until("the monitor has changed", |known, accounts| {
            known.monitor(accounts).is_some_and(|monitor| {
                (monitor.activity, monitor.mode, monitor.scope)
                    == (Activity::ListenIn, Mode::NextCall, Scope::Agent)
            })
        })
        .await;
    let other = backend.accounts.other_agent.clone();
    backend.asks(backend.start_for(&other, Activity::BargeIn)).await.unwrap();
    backend
        .until("he monitors another agent", |known, accounts| {
            known.monitor(accounts).is_some_and(|monitor| monitor.target == accounts.other_agent)
                && known.monitors.len() == 1
        })
        .await;
    backend.stop().await.unwrap();
    backend.until("the monitor is gone", |known, _| known.monitors.is_empty()).await;
    let stop = Command::StopMonitoring { supervisor: backend.accounts.supervisor.0.clone() };
    assert_eq!(backend.reason(stop).await, Reason::InvalidState);
}

async fn refuses_a_second_supervisor(backend: &mut Backend) {
    backend.start(Activity::Coach, Mode::AllCalls, Scope::Call).await.unwrap();
    let (device, user) = backend.accounts.second.clone();
    let command = Command::StartMonitoring {
        supervisor: device,
        target: backend.accounts.agent.0.clone(),
        activity: Activity::ListenIn,
        mode: Mode::AllCalls,
        scope: Scope::Call,
        confirm_joins: false,
        agent_side_only: false,
    };
    assert_eq!(backend.by(&user, command).await.unwrap_err().reason, Reason::InUse);
    backend.stop().await.unwrap();
}

async fn coaches_switches_and_goes_back_to_armed(backend: &mut Backend, ways: &mut impl Ways) {
    backend.start(Activity::Coach, Mode::AllCalls, Scope::Call).await.unwrap();
    let call = backend.talk(ways).await;
    backend.until_joined(&call, Activity::Coach).await;
    // The whole call: everybody with the role.
    let fact = backend.snapshot().await.calls[&call].clone();
    let role = |role| fact.parties.iter().filter(|party| party.role == role).collect::<Vec<_>>();
    let (agents, customers, supervisors) =
        (role(PartyRole::Agent), role(PartyRole::Customer), role(PartyRole::Supervisor));
    assert_eq!((agents.len(), customers.len(), supervisors.len()), (1, 1, 1), "{fact:?}");
    assert_eq!(agents[0].device.as_ref(), Some(&backend.accounts.agent.0));
    assert_eq!(supervisors[0].device.as_ref(), Some(&backend.accounts.supervisor.0));
    assert_eq!(supervisors[0].monitors.as_ref(), Some(&backend.accounts.agent.0));
    assert!(fact.parties.iter().all(|party| party.established_at.is_some()));
    assert!(
        fact.conn_id.len() == 16 && fact.conn_id.bytes().all(|digit| digit.is_ascii_hexdigit())
    );

    for activity in [
        Activity::BargeIn,
        Activity::ListenIn,
        Activity::Coach,
        Activity::ListenIn,
        Activity::BargeIn,
    ] {
        let switch = Command::SwitchMonitoring {
            supervisor: backend.accounts.supervisor.0.clone(),
            call: call.clone(),
            activity,
        };
        backend.asks(switch.clone()).await.unwrap();
        backend.until_joined(&call, activity).await;
        assert_eq!(backend.reason(switch).await, Reason::InvalidState, "he does it already");
    }
    ways.customer_hangs_up(&call).await;
    backend
        .until("armed again, as first asked for", |known, accounts| {
            known.monitor(accounts).is_some_and(|monitor| {
                monitor.state == MonitorState::Armed && monitor.activity == Activity::Coach
            }) && known.calls.is_empty()
        })
        .await;
    let call = backend.talk(ways).await;
    backend.until_joined(&call, Activity::Coach).await;
    backend.clear(ways).await;
}

async fn spends_next_call(backend: &mut Backend, ways: &mut impl Ways) {
    backend.start(Activity::ListenIn, Mode::NextCall, Scope::Agent).await.unwrap();
    let call = backend.talk(ways).await;
    backend.until_joined(&call, Activity::ListenIn).await;
    ways.customer_hangs_up(&call).await;
    backend
        .until("the monitor is spent", |known, _| {
            known.monitors.is_empty() && known.calls.is_empty()
        })
        .await;
}

async fn joins_a_call_that_is_going_on_and_leaves_when_cancelled(
    backend: &mut Backend,
    ways: &mut impl Ways,
) {
    let call = backend.talk(ways).await;
    backend.start(Activity::BargeIn, Mode::AllCalls, Scope::Call).await.unwrap();
    backend.until_joined(&call, Activity::BargeIn).await;
    // Asking again changes the activity, without another leg.
    backend.start(Activity::Coach, Mode::AllCalls, Scope::Call).await.unwrap();
    backend.until_joined(&call, Activity::Coach).await;
    backend.stop().await.unwrap();
    backend
        .until("he is out and the call goes on", |known, accounts| {
            let call = &known.calls[&call];
            known.monitors.is_empty()
                && call.party_of(&accounts.supervisor.0).is_none()
                && call.party_of(&accounts.agent.0).is_some()
        })
        .await;
    let legs = &backend.watch.known.calls[&call].parties;
    assert_eq!(
        legs.iter().filter(|party| party.role == PartyRole::Supervisor).count(),
        1,
        "{legs:?}"
    );
    backend.clear(ways).await;
}

async fn lets_a_supervisor_hang_up(backend: &mut Backend, ways: &mut impl Ways) {
    backend.start(Activity::Coach, Mode::AllCalls, Scope::Call).await.unwrap();
    let call = backend.talk(ways).await;
    backend.until_joined(&call, Activity::Coach).await;
    ways.supervisor_hangs_up(&call).await;
    backend
        .until("he is out and the monitor stays armed", |known, accounts| {
            known.calls[&call].party_of(&accounts.supervisor.0).is_none()
                && known
                    .monitor(accounts)
                    .is_some_and(|monitor| monitor.state == MonitorState::Armed)
        })
        .await;
    backend.clear(ways).await;
}

async fn reports_a_supervisor_who_is_busy_or_rejects(backend: &mut Backend, ways: &mut impl Ways) {
    for pickup in [Pickup::Busy, Pickup::Rejects] {
        ways.supervisor_phone(pickup).await;
        backend.start(Activity::Coach, Mode::AllCalls, Scope::Call).await.unwrap();
        backend.watch.known.failures.clear();
        let call = backend.talk(ways).await;
        backend
            .until("it has failed and the monitor stays armed", |known, accounts| {
                known.failures.contains(&accounts.supervisor.0)
                    && known
                        .monitor(accounts)
                        .is_some_and(|monitor| monitor.state == MonitorState::Armed)
                    && known.calls[&call].party_of(&accounts.agent.0).is_some()
            })
            .await;
        backend.clear(ways).await;
    }
    ways.supervisor_phone(Pickup::Answers).await;
}

async fn reports_calls_until_they_are_over(backend: &mut Backend, ways: &mut impl Ways) {
    let call = backend.talk(ways).await;
    backend.watch.known.over.clear();
    ways.customer_hangs_up(&call).await;
    backend.until("the call is over", |known, _| !known.calls.contains_key(&call)).await;
    let over: Vec<_> = backend.watch.known.over.iter().filter(|fact| fact.id == call).collect();
    assert_eq!(over.len(), 1, "it is said once that a call is over");
    assert!(over[0].parties.len() >= 2, "the last word is whole, too");
    assert!(backend.snapshot().await.calls.is_empty());
}

async fn joins_only_with_leave(backend: &mut Backend, ways: &mut impl Ways) {
    let confirmed = |accounts: &TestAccounts| Command::StartMonitoring {
        supervisor: accounts.supervisor.0.clone(),
        target: accounts.agent.0.clone(),
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope: Scope::Call,
        confirm_joins: true,
        agent_side_only: false,
    };
    let admit = |accounts: &TestAccounts, call: &CallId, admitted| Command::AdmitMonitoring {
        supervisor: accounts.supervisor.0.clone(),
        call: call.clone(),
        admitted,
    };
    let asked = |call: CallId| {
        move |known: &Known, accounts: &TestAccounts| {
            known.asked.get(&accounts.supervisor.0) == Some(&call)
        }
    };
    let out = |call: CallId| {
        move |known: &Known, accounts: &TestAccounts| {
            known.monitor(accounts).is_some_and(|monitor| monitor.state == MonitorState::Armed)
                && known.calls[&call]
                    .parties
                    .iter()
                    .all(|party| party.role != PartyRole::Supervisor)
        }
    };

    backend.asks(confirmed(&backend.accounts)).await.unwrap();
    let call = backend.talk(ways).await;
    backend.until("leave is asked for", asked(call.clone())).await;
    // Nobody answers: nobody joins.
    backend.until("without an answer nobody joins", out(call.clone())).await;
    let late = backend.reason(admit(&backend.accounts, &call, true)).await;
    assert_eq!(late, Reason::InvalidState, "leave comes too late");
    backend.hang_up(ways, &call).await;

    let call = backend.talk(ways).await;
    backend.until("leave is asked for again", asked(call.clone())).await;
    backend.asks(admit(&backend.accounts, &call, false)).await.unwrap();
    backend.until("who may not join does not", out(call.clone())).await;
    backend.hang_up(ways, &call).await;

    let call = backend.talk(ways).await;
    backend.until("leave is asked for a third time", asked(call.clone())).await;
    backend.asks(admit(&backend.accounts, &call, true)).await.unwrap();
    backend.until_joined(&call, Activity::Coach).await;
    backend.clear(ways).await;
}

/// A backend under test, watched all the time.
struct Backend {
    client: TelephonyClient<Channel>,
    watch: Watch,
    accounts: TestAccounts,
    asked: u64,
}

impl Backend {
    async fn open(channel: Channel, accounts: TestAccounts) -> Self {
        let client = TelephonyClient::new(channel);
        let mut watch = Watch::open(&client, 0, "").await;
        watch.until_complete().await;
        Self { client, watch, accounts, asked: 0 }
    }

    fn context(&mut self, user: &UserId) -> CommandContext {
        self.asked += 1;
        CommandContext {
            request_id: format!("suite-{}-{}", std::process::id(), self.asked).into(),
            user: Some(user.clone()),
            deadline: PATIENCE,
        }
    }

    async fn by(&mut self, user: &UserId, command: Command) -> Result<(), Refusal> {
        let context = self.context(user);
        execute(self.client.clone(), &context, &command).await.map(|_| ())
    }

    async fn by_agent(&mut self, command: Command) -> Result<(), Refusal> {
        let user = self.accounts.agent.1.clone();
        self.by(&user, command).await
    }

    /// The supervisor asks.
    async fn asks(&mut self, command: Command) -> Result<(), Refusal> {
        let user = self.accounts.supervisor.1.clone();
        self.by(&user, command).await
    }

    async fn reason(&mut self, command: Command) -> Reason {
        self.asks(command).await.unwrap_err().reason
    }

    fn start_for(&self, target: &DeviceId, activity: Activity) -> Command {
        Command::StartMonitoring {
            supervisor: self.accounts.supervisor.0.clone(),
            target: target.clone(),
            activity,
            mode: Mode::AllCalls,
            scope: Scope::Call,
            confirm_joins: false,
            agent_side_only: false,
        }
    }

    async fn start(&mut self, activity: Activity, mode: Mode, scope: Scope) -> Result<(), Refusal> {
        let command = Command::StartMonitoring {
            supervisor: self.accounts.supervisor.0.clone(),
            target: self.accounts.agent.0.clone(),
            activity,
            mode,
            scope,
            confirm_joins: false,
            agent_side_only: false,
        };
        self.asks(command).await
    }

    async fn stop(&mut self) -> Result<(), Refusal> {
        let supervisor = self.accounts.supervisor.0.clone();
        self.asks(Command::StopMonitoring { supervisor }).await
    }

    async fn do_not_disturb(&mut self, on: bool) -> Result<(), Refusal> {
        let device = self.accounts.agent.0.clone();
        self.by_agent(Command::SetDoNotDisturb { device, on }).await
    }

    /// What a new watcher learns.
    async fn snapshot(&self) -> Known {
        let mut watch = Watch::open(&self.client, 0, "").await;
        watch.until_complete().await;
        watch.known
    }

    async fn device(&self) -> DeviceFact {
        self.snapshot().await.devices[&self.accounts.agent.0].clone()
    }

    async fn until(&mut self, what: &str, is_so: impl Fn(&Known, &TestAccounts) -> bool) {
        let Self { watch, accounts, .. } = self;
        let waited = timeout(PATIENCE, async {
            while !is_so(&watch.known, accounts) {
                watch.next().await;
            }
        });
        if waited.await.is_err() {
            panic!("never: {what}; known is {:#?}", watch.known);
        }
    }

    async fn until_joined(&mut self, call: &CallId, activity: Activity) {
        let what = format!("{activity} is joined");
        self.until(&what, |known, accounts| {
            let joined = known.monitor(accounts).is_some_and(|monitor| match &monitor.state {
                MonitorState::Joined { call: his, activity: does, .. } => {
                    his == call && *does == activity
                }
                MonitorState::Armed
                | MonitorState::Admitting { .. }
                | MonitorState::Inviting { .. } => false,
            });
            let leg = known.calls.get(call).and_then(|call| call.party_of(&accounts.supervisor.0));
            joined
                && leg.is_some_and(|leg| {
                    leg.state == LegState::Established && leg.activity == Some(activity)
                })
        })
        .await;
    }

    /// A customer calls the agent, who answers.
    async fn talk(&mut self, ways: &mut impl Ways) -> CallId {
        ways.customer_calls().await;
        self.until("the agent's phone rings", |known, accounts| {
            known.call_of(accounts, LegState::Ringing).is_some()
        })
        .await;
        let call = self.watch.known.call_of(&self.accounts, LegState::Ringing).unwrap();
        ways.agent_answers(&call).await;
        self.until("the agent talks", |known, accounts| {
            known.call_of(accounts, LegState::Established).as_ref() == Some(&call)
        })
        .await;
        call
    }

    async fn hang_up(&mut self, ways: &mut impl Ways, call: &CallId) {
        ways.customer_hangs_up(call).await;
        self.until("the call is over", |known, _| !known.calls.contains_key(call)).await;
    }

    /// Ends every call and monitor.
    async fn clear(&mut self, ways: &mut impl Ways) {
        if self.snapshot().await.monitors.contains_key(&self.accounts.supervisor.0) {
            self.stop().await.unwrap();
        }
        for call in self.snapshot().await.calls.into_keys() {
            ways.customer_hangs_up(&call).await;
        }
        self.until("all is quiet", |known, _| known.calls.is_empty() && known.monitors.is_empty())
            .await;
    }
}

/// What a watcher knows.
#[derive(Clone, Debug, Default)]
struct Known {
    devices: BTreeMap<DeviceId, DeviceFact>,
    calls: BTreeMap<CallId, CallFact>,
    monitors: BTreeMap<DeviceId, MonitorFact>,
    asked: BTreeMap<DeviceId, CallId>,
    failures: Vec<DeviceId>,
    over: Vec<CallFact>,
}

impl Known {
    fn monitor(&self, accounts: &TestAccounts) -> Option<&MonitorFact> {
        self.monitors.get(&accounts.supervisor.0)
    }

    fn call_of(&self, accounts: &TestAccounts, state: LegState) -> Option<CallId> {
        let calls = self.calls.values();
        let mut his = calls
            .filter(|call| call.party_of(&accounts.agent.0).is_some_and(|leg| leg.state == state));
        his.next().map(|call| call.id.clone())
    }

    fn learn(&mut self, fact: Fact) {
        match fact {
            Fact::Device(device) => {
                self.devices.insert(device.id.clone(), device);
            }
            Fact::Call(call) if call.is_over() => {
                self.calls.remove(&call.id);
                self.over.push(call);
            }
            Fact::Call(call) => {
                self.calls.insert(call.id.clone(), call);
            }
            Fact::Monitor(monitor) => {
                self.monitors.insert(monitor.supervisor.clone(), monitor);
            }
            Fact::MonitorGone { supervisor } => {
                self.monitors.remove(&supervisor);
            }
            Fact::AdmissionAsked(asked) => {
                self.asked.insert(asked.supervisor, asked.call);
            }
            Fact::Failed(failure) => self.failures.push(failure.device),
            Fact::SnapshotBegin | Fact::SnapshotComplete | Fact::Lost => {}
        }
    }
}

/// One watch and what it has told.
struct Watch {
    stream: tonic::Streaming<proto::WatchResponse>,
    known: Known,
    instance: String,
    revision: u64,
}

impl Watch {
    async fn open(client: &TelephonyClient<Channel>, after_revision: u64, instance: &str) -> Self {
        let request =
            proto::WatchRequest { after_revision, instance: instance.into(), heartbeat_ms: 100 };
        Self {
            stream: client.clone().watch(request).await.unwrap().into_inner(),
            known: Known::default(),
            instance: instance.into(),
            revision: 0,
        }
    }

    async fn next(&mut self) -> WatchItem {
        let response = timeout(PATIENCE, self.stream.message()).await.expect("the watch is silent");
        let response = response.unwrap().expect("the watch has ended");
        let revision = response.revision;
        let watched = WatchItem::try_from(response).unwrap();
        match &watched {
            WatchItem::SnapshotBegin { instance } => {
                self.instance.clone_from(instance);
                self.known = Known::default();
            }
            WatchItem::Fact(fact) => {
                assert!(revision == 0 || revision >= self.revision, "revisions go back");
                self.known.learn(fact.clone());
            }
            WatchItem::Heartbeat => {}
        }
        self.revision = self.revision.max(revision);
        watched
    }

    async fn until_complete(&mut self) {
        while self.next().await != WatchItem::Fact(Fact::SnapshotComplete) {}
    }
}
