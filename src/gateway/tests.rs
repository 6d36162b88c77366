use super::*;
use crate::model::{
    Activity, AdmissionAsked, AgentState, BadRequest, BadRequestOn, CallOperation, CallType,
    DeviceFact, DeviceKind, DialString, Feature, GroupId, LegState, Mode, MonitorState,
    NotDialable, Number, Operation, PartyFact, PartyRole, Quality, Request, RequestId, Role, Scope,
    TargetRef, TransferStep, UserData, UserDataChange,
};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

impl PartialEq<&str> for Operation {
    fn eq(&self, word: &&str) -> bool {
        self.as_str() == *word
    }
}

impl From<Request> for Result<Request, BadRequest> {
    fn from(request: Request) -> Self {
        Ok(request)
    }
}

impl From<BadRequest> for Result<Request, BadRequest> {
    fn from(bad: BadRequest) -> Self {
        Err(bad)
    }
}

fn words(leg: &CallView) -> Vec<&'static str> {
    leg.capabilities.iter().map(|one| one.as_str()).collect()
}

fn dialled(text: &str) -> DialString {
    text.parse().expect("a telephone number")
}

const MEG: &str = "meg";
const MEG_PHONE: &str = "efelab32-53f9-43ce-b65e-5768c61f7d4a";
const BOB_PHONE: &str = "9c14cad7-17c4-48d0-8492-7cf0ff92c224";
const EVE_PHONE: &str = "eve-phone";
const OTTO_PHONE: &str = "otto-phone";
const ADA_PHONE: &str = "ada-phone";

/// Meg supervises Bob; Otto supervises Eve, in a group apart; Ada is the admin.
mod directory_change;
mod ending;
mod feature_codes;

fn directory() -> Directory {
    let user = |id: &str, role, features: &[Feature], device: &str| User {
        id: id.into(),
        display_name: id.to_uppercase(),
        first_name: id.to_uppercase(),
        last_name: String::new(),
        email: String::new(),
        roles: BTreeSet::from([role]),
        features: features.iter().copied().collect(),
        devices: vec![device.into()],
    };
    let both = [Feature::Voice, Feature::SupervisorMonitoring];
    let users = [
        user(MEG, Role::Supervisor, &both, MEG_PHONE),
        user("bob", Role::Agent, &both, BOB_PHONE),
        user("otto", Role::Supervisor, &both, OTTO_PHONE),
        user("eve", Role::Agent, &both, EVE_PHONE),
        user("ada", Role::Admin, &both, ADA_PHONE),
    ];
    let group = |id: &str, agents: &[&str], supervisors: &[&str]| Group {
        id: GroupId::from(id),
        agents: agents.iter().map(|user| UserId::from(*user)).collect(),
        supervisors: supervisors.iter().map(|user| UserId::from(*user)).collect(),
        monitor_supervisors: false,
        agent_side_only: false,
    };
    let devices = [
        (MEG_PHONE, "5005"),
        (BOB_PHONE, "5001"),
        (EVE_PHONE, "5002"),
        (OTTO_PHONE, "5006"),
        (ADA_PHONE, "5000"),
    ];
    Directory {
        users: users.into_iter().map(|user| (user.id.clone(), user.into())).collect(),
        devices: devices
            .map(|(id, number)| DeviceEntry {
                id: id.into(),
                number: number.into(),
                voice_environment: "370ef5e6".into(),
            })
            .into_iter()
            .map(|device| (device.id.clone(), device.into()))
            .collect(),
        groups: [group("sales", &["bob"], &[MEG]), group("support", &["eve"], &["otto"])]
            .into_iter()
            .map(|group| (group.id.clone(), group.into()))
            .collect(),
        voice_environments: BTreeMap::new(),
        contact_center: "contact-center".to_owned(),
    }
}

fn sales(directory: &mut Directory) -> &mut Group {
    Arc::make_mut(directory.groups.get_mut("sales").expect("the group"))
}

fn able() -> Capabilities {
    Capabilities {
        backend: "test".into(),
        activities: Activity::ALL.to_vec(),
        modes: Mode::ALL.to_vec(),
        scopes: Scope::ALL.to_vec(),
        live_switching: true,
        hold: true,
        mute: true,
        answer: true,
        dial: true,
        do_not_disturb: true,
        forwarding: true,
        ..Capabilities::default()
    }
}

/// The gateway with a clock of its own and everybody's phone registered.
struct Harness {
    gateway: Gateway,
    now: Now,
    tokens: u64,
}

impl Harness {
    #[expect(clippy::disallowed_methods, reason = "an arbitrary beginning of time")]
    fn cold(config: GatewayConfig, directory: Directory, kept: Restored) -> Self {
        let now = Now { mono: Instant::now(), wall: Timestamp(1_000_000) };
        let mut gateway = Gateway::new(config, Arc::new(directory), kept, "test");
        gateway.handle_capabilities(able(), now);
        Self { gateway, now, tokens: 0 }
    }

    fn with(config: GatewayConfig, directory: Directory) -> Self {
        let mut harness = Self::cold(config, directory, Restored::default());
        harness.fact(Fact::SnapshotBegin);
        for (id, number) in [
            (MEG_PHONE, "5005"),
            (BOB_PHONE, "5001"),
            (EVE_PHONE, "5002"),
            (OTTO_PHONE, "5006"),
            (ADA_PHONE, "5000"),
        ] {
            harness.fact(Fact::Device(device(id, number)));
        }
        harness.fact(Fact::SnapshotComplete);
        harness.outputs();
        harness
    }

    fn new() -> Self {
        Self::with(GatewayConfig::default(), directory())
    }

    fn outputs(&mut self) -> Vec<Output> {
        std::iter::from_fn(|| self.gateway.poll_output()).collect()
    }

    fn fact(&mut self, fact: Fact) {
        self.gateway.handle_fact(fact, self.now);
    }

    fn facts(&mut self, fact: Fact) -> Vec<Output> {
        self.fact(fact);
        self.outputs()
    }

    fn request(&mut self, user: &str, request: impl Into<Result<Request, BadRequest>>) -> Token {
        let token = Token(self.tokens);
        self.tokens += 1;
        let asked = RequestEnvelope {
            user: user.into(),
            caller: None,
            from: IpAddr::V4(Ipv4Addr::LOCALHOST),
            request_id: RequestId::from(format!("r{}", token.0)),
            request: request.into(),
        };
        self.gateway.handle_request(token, &asked, self.now);
        token
    }

    /// Asks, writes every audit line, and lets the backend accept every command: the answer and the
    /// commands on the way.
    fn asks(
        &mut self,
        user: &str,
        request: impl Into<Result<Request, BadRequest>>,
    ) -> (Result<Answer, Refusal>, Vec<Command>, Vec<AuditRecord>) {
        let token = self.request(user, request);
        let (mut answer, mut commands, mut records) = (None, Vec::new(), Vec::new());
        while let Some(output) = self.gateway.poll_output() {
            match output {
                Output::Reply { token: of, result } if of == token => answer = Some(result),
                Output::Command { id, command, .. } => {
                    commands.push(command);
                    self.gateway.handle_command_result(id, Ok(()), self.now);
                }
                Output::Audit { id, record } => {
                    records.push(record);
                    self.gateway.handle_audited(id, Ok(()), self.now);
                }
                Output::Reply { .. }
                | Output::Notice(_)
                | Output::Keep { .. }
                | Output::KeepMonitoring { .. }
                | Output::KeepHearing { .. }
                | Output::EndFailed { .. } => {}
            }
        }
        (answer.expect("every request is answered"), commands, records)
    }

    fn logs_in(&mut self, user: &str) {
        assert_eq!(self.asks(user, Request::StartSession).0, Ok(Answer::Accepted));
    }

    fn reason(&mut self, user: &str, request: impl Into<Result<Request, BadRequest>>) -> Reason {
        let (answer, commands, _) = self.asks(user, request);
        assert_eq!(commands, [], "a refusal changes nothing");
        answer.expect_err("it is refused").reason
    }

    fn reads(&self, user: &str, query: Query) -> Result<Answer, Refusal> {
        self.gateway.read(&user.into(), &query, self.now.wall)
    }

    fn device_view(&self, user: &str, device: &str) -> DeviceView {
        match self.gateway.read(&user.into(), &Query::MyDevice(device.into()), self.now.wall) {
            Ok(Answer::Device(view)) => view,
            other => panic!("not a device: {other:?}"),
        }
    }

    fn leg(&self, user: &str) -> Option<CallView> {
        self.leg_of(user, "call")
    }

    fn leg_of(&self, user: &str, call: &str) -> Option<CallView> {
        match self.gateway.read(&user.into(), &Query::MyCall(call.into()), self.now.wall) {
            Ok(Answer::Call(view)) if view.state != LegState::Released => Some(view),
            _ => None,
        }
    }

    /// The leg as its user was told that it has been released.
    fn released_leg(&self, user: &str) -> Option<CallView> {
        match self.gateway.read(&user.into(), &Query::MyCall("call".into()), self.now.wall) {
            Ok(Answer::Call(view)) if view.state == LegState::Released => Some(view),
            _ => None,
        }
    }
}

fn device(id: &str, number: &str) -> DeviceFact {
    DeviceFact {
        id: id.into(),
        number: number.into(),
        kind: DeviceKind::Phone,
        registered: true,
        do_not_disturb: false,
        forward_to: None,
    }
}

fn party(device: Option<&str>, number: &str, role: PartyRole, state: LegState) -> PartyFact {
    PartyFact {
        device: device.map(DeviceId::from),
        number: number.into(),
        role,
        state,
        muted: false,
        muted_by_supervisor: false,
        held_at_phone: false,
        activity: None,
        monitors: None,
        established_at: (state == LegState::Established).then_some(Timestamp(1_000_000)),
        quality: None,
        handed_on_to: None,
    }
}

fn supervisor(activity: Activity, state: LegState) -> PartyFact {
    PartyFact {
        activity: Some(activity),
        monitors: Some(BOB_PHONE.into()),
        ..party(Some(MEG_PHONE), "5005", PartyRole::Supervisor, state)
    }
}

fn call(parties: Vec<PartyFact>) -> CallFact {
    CallFact {
        id: "call".into(),
        conn_id: "0123456789abcdef".into(),
        call_type: CallType::Inbound,
        ani: "7001".into(),
        dnis: "5001".into(),
        started_at: Timestamp(1_000_000),
        parent: None,
        owner: None,
        user_data: Default::default(),
        parties,
    }
}

fn customer() -> PartyFact {
    party(None, "7001", PartyRole::Customer, LegState::Established)
}

fn bob() -> PartyFact {
    party(Some(BOB_PHONE), "5001", PartyRole::Agent, LegState::Established)
}

fn coached(activity: Activity) -> CallFact {
    call(vec![customer(), bob(), supervisor(activity, LegState::Established)])
}

fn monitor(state: MonitorState) -> MonitorFact {
    MonitorFact {
        supervisor: MEG_PHONE.into(),
        target: BOB_PHONE.into(),
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope: Scope::Call,
        confirm_joins: true,
        agent_side_only: false,
        state,
    }
}

fn joined_as(activity: Activity) -> MonitorState {
    MonitorState::Joined { call: "call".into(), activity, since: Timestamp(1_000_000) }
}

fn coach_from(device: &str, target: &str) -> Request {
    start(device, Some(target), None, Activity::Coach, Scope::Call)
}

fn start(
    device: &str,
    target: Option<&str>,
    number: Option<&str>,
    activity: Activity,
    scope: Scope,
) -> Request {
    Request::StartMonitoring {
        device: device.into(),
        target: TargetRef { device: target.map(DeviceId::from), number: number.map(Number::from) },
        activity,
        mode: Mode::AllCalls,
        scope,
    }
}

fn on_call(operation: CallOperation) -> Request {
    Request::OnCall { call: "call".into(), operation }
}

fn notices(outputs: &[Output]) -> Vec<&Notice> {
    let mut notices = Vec::new();
    for output in outputs {
        if let Output::Notice(notice) = output {
            notices.push(notice);
        }
    }
    notices
}

fn told(outputs: &[Output]) -> Vec<(&str, CallNotification, LegState)> {
    let change = |notice: &&Notice| match &notice.body {
        NoticeBody::CallStateChange { notification, call } => Some((*notification, call.state)),
        _ => None,
    };
    notices(outputs)
        .into_iter()
        .filter_map(|notice| {
            change(&notice).map(|(notification, state)| (notice.user.as_str(), notification, state))
        })
        .collect()
}

// Who may monitor whom.

#[test]
fn a_supervisor_may_coach_an_agent_of_his_group() {
    let mut harness = Harness::new();
    let (answer, commands, records) = harness.asks(MEG, coach_from(MEG_PHONE, BOB_PHONE));
    assert_eq!(answer, Ok(Answer::Accepted));
    let expected = Command::StartMonitoring {
        supervisor: MEG_PHONE.into(),
        target: BOB_PHONE.into(),
        activity: Activity::Coach,
        mode: Mode::AllCalls,
        scope: Scope::Call,
        confirm_joins: true,
        agent_side_only: false,
    };
    assert_eq!(commands, [expected]);
    assert_eq!(
        records.iter().map(|record| record.event).collect::<Vec<_>>(),
        [AuditEvent::Allowed]
    );
    assert_eq!(records[0].target, Some(BOB_PHONE.into()));
}

#[test]
fn an_agent_may_not_coach_even_with_the_feature() {
    let mut harness = Harness::new();
    assert_eq!(harness.reason("bob", coach_from(BOB_PHONE, EVE_PHONE)), Reason::NotPermitted);
}

#[test]
fn a_supervisor_may_not_coach_outside_his_groups_and_the_attempt_is_written_down() {
    let mut harness = Harness::new();
    let (answer, commands, records) = harness.asks(MEG, coach_from(MEG_PHONE, EVE_PHONE));
    assert_eq!(answer.map_err(|refusal| refusal.reason), Err(Reason::NotPermitted));
    assert_eq!(commands, []);
    assert_eq!(records[0].event, AuditEvent::Refused);
    assert_eq!(records[0].from, Some(IpAddr::V4(Ipv4Addr::LOCALHOST)));
    assert_eq!(
        records[0].refusal.as_ref().map(|refusal| refusal.reason),
        Some(Reason::NotPermitted)
    );
}

#[test]
fn a_supervisor_without_the_feature_may_not_coach() {
    let mut directory = directory();
    Arc::make_mut(directory.users.get_mut(MEG).expect("Meg"))
        .features
        .remove(&Feature::SupervisorMonitoring);
    let mut harness = Harness::with(GatewayConfig::default(), directory);
    assert_eq!(harness.reason(MEG, coach_from(MEG_PHONE, BOB_PHONE)), Reason::NotPermitted);
}

#[test]
fn nobody_monitors_himself_not_even_an_admin() {
    let mut harness = Harness::new();
    assert_eq!(harness.reason(MEG, coach_from(MEG_PHONE, MEG_PHONE)), Reason::NotPermitted);
    assert_eq!(harness.reason("ada", coach_from(ADA_PHONE, ADA_PHONE)), Reason::NotPermitted);
}

#[test]
fn nobody_monitors_another_supervisor_unless_a_group_says_so() {
    let mut directory = directory();
    sales(&mut directory).supervisors.insert("otto".into());
    let mut harness = Harness::with(GatewayConfig::default(), directory.clone());
    assert_eq!(harness.reason(MEG, coach_from(MEG_PHONE, OTTO_PHONE)), Reason::NotPermitted);
    sales(&mut directory).monitor_supervisors = true;
    let mut harness = Harness::with(GatewayConfig::default(), directory);
    assert_eq!(harness.asks(MEG, coach_from(MEG_PHONE, OTTO_PHONE)).0, Ok(Answer::Accepted));
}

#[test]
fn an_admin_may_monitor_all() {
    let mut harness = Harness::new();
    for target in [BOB_PHONE, EVE_PHONE, MEG_PHONE] {
        assert_eq!(harness.asks("ada", coach_from(ADA_PHONE, target)).0, Ok(Answer::Accepted));
    }
}

#[test]
fn a_stranger_is_not_authenticated() {
    let mut harness = Harness::new();
    assert_eq!(
        harness.reason("mallory", coach_from(MEG_PHONE, BOB_PHONE)),
        Reason::NotAuthenticated
    );
}

#[test]
fn somebody_elses_device_is_not_found_unless_he_may_know_that_it_exists() {
    let mut harness = Harness::new();
    let forward =
        |device: &str| Request::SetForwarding { device: device.into(), to: Some(dialled("5000")) };
    assert_eq!(harness.reason("eve", forward(BOB_PHONE)), Reason::NotFound);
    assert_eq!(harness.reason("eve", forward("no-such-phone")), Reason::NotFound);
    assert_eq!(harness.reason(MEG, forward(BOB_PHONE)), Reason::NotPermitted);
    assert_eq!(harness.reason(MEG, coach_from(OTTO_PHONE, BOB_PHONE)), Reason::NotFound);
}

#[test]
fn a_touched_device_of_somebody_else_leaves_an_audit_line() {
    let mut harness = Harness::new();
    let request = Request::SetDoNotDisturb { device: BOB_PHONE.into(), on: true };
    let (_, _, records) = harness.asks("eve", request);
    assert_eq!(records.len(), 1);
    assert_eq!(
        (records[0].event, records[0].operation),
        (AuditEvent::Refused, Some(Operation::DoNotDisturbOn))
    );
}

// How the target is named.

#[test]
fn the_target_is_named_by_uri_or_by_number_and_both_must_agree() {
    let mut harness = Harness::new();
    let ask = |target, number| start(MEG_PHONE, target, number, Activity::Coach, Scope::Call);
    assert_eq!(harness.asks(MEG, ask(None, Some("5001"))).0, Ok(Answer::Accepted));
    assert_eq!(harness.asks(MEG, ask(Some(BOB_PHONE), Some("5001"))).0, Ok(Answer::Accepted));
    assert_eq!(harness.reason(MEG, ask(None, None)), Reason::MissingParameter);
    assert_eq!(harness.reason(MEG, ask(Some(BOB_PHONE), Some("5002"))), Reason::InvalidInput);
    assert_eq!(harness.reason(MEG, ask(Some(BOB_PHONE), Some("nobody"))), Reason::InvalidInput);
    assert_eq!(harness.reason(MEG, ask(Some("unknown"), None)), Reason::NotFound);
    assert_eq!(harness.reason(MEG, ask(Some("unknown"), Some("5001"))), Reason::NotFound);
    assert_eq!(harness.reason(MEG, ask(None, Some("4711"))), Reason::NotFound);
}

#[test]
fn a_routing_point_can_only_be_listened_to_in_call_scope_and_never_in_a_cluster() {
    let mut harness = Harness::new();
    let queue = DeviceFact { kind: DeviceKind::RoutingPoint, ..device("queue", "8000") };
    harness.facts(Fact::Device(queue));
    let ask = |activity, scope| start(ADA_PHONE, None, Some("8000"), activity, scope);
    assert_eq!(harness.reason("ada", ask(Activity::ListenIn, Scope::Call)), Reason::Forbidden);
    let now = harness.now;
    let routing_points = Capabilities { routing_points: true, ..able() };
    harness.gateway.handle_capabilities(routing_points.clone(), now);
    harness.outputs();
    assert_eq!(harness.asks("ada", ask(Activity::ListenIn, Scope::Call)).0, Ok(Answer::Accepted));
    assert_eq!(harness.reason("ada", ask(Activity::Coach, Scope::Call)), Reason::Forbidden);
    assert_eq!(harness.reason("ada", ask(Activity::ListenIn, Scope::Agent)), Reason::InvalidInput);
    let cluster = Capabilities { sip_cluster: true, ..routing_points };
    harness.gateway.handle_capabilities(cluster, now);
    harness.outputs();
    assert_eq!(harness.reason("ada", ask(Activity::ListenIn, Scope::Call)), Reason::Forbidden);
}

#[test]
fn what_the_backend_does_not_offer_is_forbidden() {
    let mut harness = Harness::new();
    let now = harness.now;
    let listen_only = Capabilities { activities: vec![Activity::ListenIn], ..able() };
    harness.gateway.handle_capabilities(listen_only, now);
    harness.outputs();
    assert_eq!(harness.reason(MEG, coach_from(MEG_PHONE, BOB_PHONE)), Reason::Forbidden);
    assert!(!harness.device_view(MEG, MEG_PHONE).capabilities.contains(&Operation::Coach));
}

// The audit comes first.

#[test]
fn no_command_goes_out_before_the_audit_line_is_on_disk() {
    let mut harness = Harness::new();
    let token = harness.request(MEG, coach_from(MEG_PHONE, BOB_PHONE));
    let outputs = harness.outputs();
    let [Output::Audit { id, record }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(record.event, AuditEvent::Allowed);
    harness.gateway.handle_audited(*id, Ok(()), harness.now);
    let outputs = harness.outputs();
    let [Output::Command { id, context, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(context.user, Some(UserId::from(MEG)));
    harness.gateway.handle_command_result(*id, Ok(()), harness.now);
    let reply = Output::Reply { token, result: Ok(Answer::Accepted) };
    let monitoring = MonitoringRecord { user: Some(UserId::from(MEG)), is_ending: false };
    let kept =
        Output::KeepMonitoring { supervisor: MEG_PHONE.into(), monitoring: Some(monitoring) };
    assert_eq!(harness.outputs(), [reply, kept]);
}

#[test]
fn without_an_audit_nobody_may_start_to_listen() {
    let mut harness = Harness::new();
    harness.request(MEG, coach_from(MEG_PHONE, BOB_PHONE));
    let outputs = harness.outputs();
    let [Output::Audit { id, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    harness.gateway.handle_audited(*id, Err(AuditFailed), harness.now);
    let outputs = harness.outputs();
    let [Output::Reply { result: Err(refusal), .. }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(refusal.reason, Reason::Internal);
}

#[test]
fn an_audit_that_does_not_answer_counts_as_failed() {
    let mut harness = Harness::new();
    harness.request(MEG, coach_from(MEG_PHONE, BOB_PHONE));
    harness.outputs();
    assert_eq!(harness.gateway.poll_timeout(), Some(harness.now.mono + Duration::from_secs(4)));
    harness.now = harness.now + Duration::from_secs(4);
    harness.gateway.handle_timeout(harness.now);
    let outputs = harness.outputs();
    let [Output::Reply { result: Err(refusal), .. }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(refusal.reason, Reason::Internal);
    assert_eq!(harness.gateway.poll_timeout(), None);
}

#[test]
fn cancelling_waits_for_no_audit() {
    let mut harness = Harness::new();
    let device = MEG_PHONE.into();
    harness.request(MEG, Request::CancelMonitoring { device });
    let outputs = harness.outputs();
    assert!(matches!(&outputs[..], [Output::Audit { .. }, Output::Command { .. }]), "{outputs:?}");
}

fn asked() -> AdmissionAsked {
    AdmissionAsked {
        supervisor: MEG_PHONE.into(),
        target: BOB_PHONE.into(),
        call: "call".into(),
        activity: Activity::Coach,
    }
}

fn admission(outputs: &[Output]) -> Option<bool> {
    outputs.iter().find_map(|output| match output {
        Output::Command { command: Command::AdmitMonitoring { admitted, .. }, .. } => {
            Some(*admitted)
        }
        _ => None,
    })
}

#[test]
fn a_join_is_admitted_once_its_line_is_on_disk() {
    let mut harness = Harness::new();
    let outputs = harness.facts(Fact::AdmissionAsked(asked()));
    let [Output::Audit { id, record }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!((record.event, record.call.clone()), (AuditEvent::Admitted, Some("call".into())));
    harness.gateway.handle_audited(*id, Ok(()), harness.now);
    assert_eq!(admission(&harness.outputs()), Some(true));
}

#[test]
fn without_an_audit_nobody_joins() {
    let mut harness = Harness::new();
    let outputs = harness.facts(Fact::AdmissionAsked(asked()));
    let [Output::Audit { id, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    harness.gateway.handle_audited(*id, Err(AuditFailed), harness.now);
    assert_eq!(admission(&harness.outputs()), Some(false));
}

#[test]
fn permission_is_asked_again_at_every_join() {
    let mut harness = Harness::new();
    for (supervisor, target) in
        [(MEG_PHONE, EVE_PHONE), (BOB_PHONE, EVE_PHONE), ("nobody's", BOB_PHONE)]
    {
        let outputs = harness.facts(Fact::AdmissionAsked(AdmissionAsked {
            supervisor: supervisor.into(),
            target: target.into(),
            ..asked()
        }));
        let [Output::Audit { record, .. }, Output::Command { .. }] = &outputs[..] else {
            panic!("{outputs:?}")
        };
        assert_eq!(record.event, AuditEvent::NotAdmitted);
        assert_eq!(admission(&outputs), Some(false));
    }
}

#[test]
fn joins_changes_and_releases_are_written_down_with_how_long_he_heard() {
    let mut harness = Harness::new();
    let records = |outputs: Vec<Output>| {
        let record = |output| match output {
            Output::Audit { record, .. } => Some((record.event, record.activity, record.heard)),
            _ => None,
        };
        outputs.into_iter().filter_map(record).collect::<Vec<_>>()
    };
    let armed = harness.facts(Fact::Monitor(monitor(MonitorState::Armed)));
    assert_eq!(records(armed), []);
    let joins = harness.facts(Fact::Monitor(monitor(joined_as(Activity::Coach))));
    assert_eq!(records(joins), [(AuditEvent::Joined, Some(Activity::Coach), None)]);
    let switches = harness.facts(Fact::Monitor(monitor(joined_as(Activity::BargeIn))));
    assert_eq!(records(switches), [(AuditEvent::Changed, Some(Activity::BargeIn), None)]);
    harness.now = harness.now + Duration::from_millis(90_500);
    let leaves = harness.facts(Fact::Monitor(monitor(MonitorState::Armed)));
    let heard = Duration::from_millis(90_500);
    assert_eq!(records(leaves), [(AuditEvent::Released, Some(Activity::BargeIn), Some(heard))]);
}

#[test]
fn who_hears_without_a_line_on_disk_is_released() {
    let mut harness = Harness::new();
    let outputs = harness.facts(Fact::Monitor(monitor(joined_as(Activity::Coach))));
    let id = outputs.iter().find_map(|output| match output {
        Output::Audit { id, .. } => Some(*id),
        _ => None,
    });
    harness.gateway.handle_audited(id.expect("a line"), Err(AuditFailed), harness.now);
    let outputs = harness.outputs();
    let [Output::KeepMonitoring { .. }, Output::Command { command, .. }, Output::Notice(told)] =
        &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    let supervisor = MEG_PHONE.into();
    assert_eq!(command, &Command::StopMonitoring { supervisor });
    assert_eq!(told.user.as_str(), "meg");
    assert!(matches!(
        &told.body,
        NoticeBody::Error { refusal, .. } if refusal.reason == Reason::Internal
    ));
}

#[test]
fn when_the_audit_is_lost_whoever_hears_a_call_hears_it_no_more_and_is_told_once() {
    let mut harness = Harness::new();
    harness.gateway.handle_audit_lost(harness.now);
    assert_eq!(harness.outputs(), [], "nobody hears");
    assert!(!harness.gateway.is_anybody_heard());
    harness.facts(Fact::Monitor(monitor(joined_as(Activity::Coach))));
    assert!(harness.gateway.is_anybody_heard());
    harness.gateway.handle_audit_lost(harness.now);
    let outputs = harness.outputs();
    assert!(
        matches!(
            &outputs[..],
            [
                Output::KeepMonitoring { .. },
                Output::Command { command: Command::StopMonitoring { .. }, .. },
                Output::Notice(told),
            ] if told.user.as_str() == "meg"
        ),
        "{outputs:?}"
    );
    harness.gateway.handle_audit_lost(harness.now);
    let outputs = harness.outputs();
    assert!(
        matches!(&outputs[..], [Output::Command { .. }]),
        "asked again, told once: {outputs:?}"
    );
    harness.facts(Fact::MonitorGone { supervisor: MEG_PHONE.into() });
    harness.gateway.handle_audit_lost(harness.now);
    assert_eq!(harness.outputs(), []);
}

#[test]
fn a_monitor_whose_permission_is_gone_is_cancelled() {
    let mut harness = Harness::new();
    let outputs = harness.facts(Fact::Monitor(MonitorFact {
        target: EVE_PHONE.into(),
        ..monitor(MonitorState::Armed)
    }));
    let supervisor = DeviceId::from(MEG_PHONE);
    assert!(outputs.iter().any(|output| matches!(
        output,
        Output::Audit { record, .. } if record.event == AuditEvent::Cancelled
    )));
    assert!(outputs.iter().any(|output| matches!(
        output,
        Output::Command { command, .. }
            if *command == Command::StopMonitoring { supervisor: supervisor.clone() }
    )));
}

#[test]
fn a_leg_handed_on_is_in_the_audit_before_its_supervisor_is_released_and_its_user_sees_where() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::Coach)));
    let outputs = harness.facts(Fact::Monitor(monitor(joined_as(Activity::Coach))));
    written(&mut harness, outputs);
    let handed_on =
        PartyFact { handed_on_to: Some("0170".into()), state: LegState::Released, ..bob() };
    let stranger = party(None, "0170", PartyRole::Customer, LegState::Established);
    let boss = supervisor(Activity::Coach, LegState::Established);
    let now = call(vec![customer(), handed_on.clone(), boss, stranger.clone()]);
    let outputs = harness.facts(Fact::Call(now.clone()));
    let released = notices(&outputs).into_iter().find_map(|notice| match &notice.body {
        NoticeBody::CallStateChange { call, .. } if notice.user.as_str() == "bob" => {
            Some(call.clone())
        }
        _ => None,
    });
    let released = released.expect("is told");
    assert_eq!((released.state, released.handed_on_to), (LegState::Released, Some("0170".into())));
    let lines: Vec<_> = written(&mut harness, outputs);
    let told: Vec<_> =
        lines.iter().map(|line| (line.event, line.number.clone(), line.target.clone())).collect();
    assert_eq!(told, [(AuditEvent::HandedOn, Some("0170".into()), Some(BOB_PHONE.into()))]);
    let outputs = harness.facts(Fact::Call(now));
    assert_eq!(written(&mut harness, outputs), [], "once");
    assert_eq!(
        harness.leg(MEG).expect("still there").participants.last().map(|last| last.number.clone()),
        Some("0170".into())
    );
    let outputs = harness.facts(Fact::Monitor(monitor(MonitorState::Armed)));
    let lines = written(&mut harness, outputs);
    assert_eq!(lines.iter().map(|line| line.event).collect::<Vec<_>>(), [AuditEvent::Released]);
}

/// Event, target, call and refusal of every audit line; the lines are on disk.
fn written(harness: &mut Harness, outputs: Vec<Output>) -> Vec<AuditRecord> {
    let mut records = Vec::new();
    for output in outputs {
        if let Output::Audit { id, record } = output {
            harness.gateway.handle_audited(id, Ok(()), harness.now);
            records.push(record);
        }
    }
    records
}

fn admitted(harness: &mut Harness) {
    harness.facts(Fact::Monitor(monitor(MonitorState::Admitting { call: "call".into() })));
    let outputs = harness.facts(Fact::AdmissionAsked(asked()));
    assert_eq!(written(harness, outputs)[0].event, AuditEvent::Admitted);
    assert_eq!(admission(&harness.outputs()), Some(true));
    harness.facts(Fact::Monitor(monitor(MonitorState::Inviting { call: "call".into() })));
}

#[test]
fn who_was_admitted_and_did_not_come_leaves_a_line_that_says_why() {
    let mut harness = Harness::new();
    admitted(&mut harness);
    let busy = Refusal::new(Reason::InvalidState, "Device '5005' is busy.");
    let outputs = harness.facts(Fact::Failed(Failure {
        device: MEG_PHONE.into(),
        call: Some("call".into()),
        request_id: None,
        refusal: busy.clone(),
    }));
    let records = written(&mut harness, outputs);
    let [record] = &records[..] else { panic!("{records:?}") };
    assert_eq!((record.event, &record.refusal), (AuditEvent::NotJoined, &Some(busy)));
    assert_eq!((&record.target, &record.call), (&Some(BOB_PHONE.into()), &Some("call".into())));
    let outputs = harness.facts(Fact::Monitor(monitor(MonitorState::Armed)));
    assert_eq!(written(&mut harness, outputs), [], "one line is enough");
}

#[test]
fn who_was_admitted_to_a_call_that_ended_first_leaves_a_line() {
    for fact in [
        Fact::Monitor(monitor(MonitorState::Armed)),
        Fact::MonitorGone { supervisor: MEG_PHONE.into() },
    ] {
        let mut harness = Harness::new();
        admitted(&mut harness);
        let outputs = harness.facts(fact);
        let events: Vec<_> =
            written(&mut harness, outputs).iter().map(|record| record.event).collect();
        assert_eq!(events, [AuditEvent::NotJoined]);
    }
}

#[test]
fn who_was_admitted_and_comes_is_joined_and_nothing_else() {
    let mut harness = Harness::new();
    admitted(&mut harness);
    let outputs = harness.facts(Fact::Monitor(monitor(joined_as(Activity::Coach))));
    let events: Vec<_> = written(&mut harness, outputs).iter().map(|record| record.event).collect();
    assert_eq!(events, [AuditEvent::Joined]);
}

#[test]
fn a_join_of_which_nothing_is_left_after_a_restart_is_closed() {
    for since in [None, Some(Timestamp(900_000))] {
        for monitor_is_left in [false, true] {
            let heard = ListeningRecord {
                user: None,
                supervisor: MEG_PHONE.into(),
                target: BOB_PHONE.into(),
                call: "old".into(),
                activity: Activity::Coach,
                since,
            };
            let kept = Restored { hearing: vec![heard], ..Restored::default() };
            let mut harness = Harness::cold(GatewayConfig::default(), directory(), kept);
            let mut outputs = harness.facts(Fact::SnapshotBegin);
            if monitor_is_left {
                outputs.extend(harness.facts(Fact::Monitor(monitor(MonitorState::Armed))));
            }
            outputs.extend(harness.facts(Fact::SnapshotComplete));
            assert!(
                outputs
                    .iter()
                    .any(|output| matches!(output, Output::KeepHearing { hearing: None, .. }))
            );
            let records = written(&mut harness, outputs);
            let [record] = &records[..] else { panic!("{records:?}") };
            let event = if since.is_some() { AuditEvent::Lost } else { AuditEvent::NotJoined };
            assert_eq!((record.event, &record.call), (event, &Some("old".into())));
            assert_eq!(record.user, Some(MEG.into()));
        }
    }
}

#[test]
fn a_join_that_lives_on_over_a_restart_of_the_gateway_is_found_and_released_once() {
    let heard = ListeningRecord {
        user: Some(MEG.into()),
        supervisor: MEG_PHONE.into(),
        target: BOB_PHONE.into(),
        call: "call".into(),
        activity: Activity::Coach,
        since: Some(Timestamp(1_000_000)),
    };
    let kept = Restored { hearing: vec![heard], ..Restored::default() };
    let mut harness = Harness::cold(GatewayConfig::default(), directory(), kept);
    let mut outputs = harness.facts(Fact::SnapshotBegin);
    outputs.extend(harness.facts(Fact::Monitor(monitor(joined_as(Activity::Coach)))));
    outputs.extend(harness.facts(Fact::SnapshotComplete));
    outputs.extend(harness.facts(Fact::Monitor(monitor(MonitorState::Armed))));
    let events: Vec<_> = written(&mut harness, outputs).iter().map(|record| record.event).collect();
    assert_eq!(events, [AuditEvent::FoundJoined, AuditEvent::Released]);
}

#[test]
fn another_scope_or_mode_while_joined_is_written_down() {
    let mut harness = Harness::new();
    harness.facts(Fact::Monitor(monitor(joined_as(Activity::Coach))));
    let outputs = harness.facts(Fact::Monitor(MonitorFact {
        scope: Scope::Agent,
        ..monitor(joined_as(Activity::Coach))
    }));
    let records = written(&mut harness, outputs);
    assert_eq!((records[0].event, records[0].scope), (AuditEvent::Changed, Some(Scope::Agent)));
}

#[test]
fn a_refused_attempt_by_number_says_which_number_and_whose() {
    let mut harness = Harness::new();
    let ask = |number| start(MEG_PHONE, None, Some(number), Activity::Coach, Scope::Call);
    let (_, _, records) = harness.asks(MEG, ask("5002"));
    assert_eq!(
        (&records[0].number, &records[0].target),
        (&Some("5002".into()), &Some(EVE_PHONE.into()))
    );
    let (_, _, records) = harness.asks(MEG, ask("9999"));
    assert_eq!((&records[0].number, &records[0].target), (&Some("9999".into()), &None));
}

#[test]
fn a_refused_operation_on_a_monitored_call_says_by_which_device_and_about_whom() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::Coach)));
    harness.facts(Fact::Monitor(monitor(joined_as(Activity::Coach))));
    let (_, _, records) = harness.asks(MEG, on_call(CallOperation::MuteMonitored(true)));
    assert_eq!(
        (records[0].event, &records[0].device, &records[0].target),
        (AuditEvent::Refused, &Some(MEG_PHONE.into()), &Some(BOB_PHONE.into()))
    );
}

#[test]
fn a_refusal_by_number_reveals_no_device() {
    let mut harness = Harness::new();
    harness.facts(Fact::Device(device("customer-7001", "7001")));
    let refusal = |harness: &mut Harness, user, number| {
        let phone = if user == MEG { MEG_PHONE } else { ADA_PHONE };
        let ask = start(phone, None, Some(number), Activity::Coach, Scope::Call);
        harness.asks(user, ask).0.expect_err("refused")
    };
    for user in [MEG, "ada"] {
        let unknown = refusal(&mut harness, user, "9999");
        let customer = refusal(&mut harness, user, "7001");
        assert_eq!(unknown.text().replace("9999", "7001"), customer.text());
        assert_eq!((unknown.reason, customer.reason), (Reason::NotFound, Reason::NotFound));
    }
    let outside = refusal(&mut harness, MEG, "5002");
    assert_eq!(outside.reason, Reason::NotPermitted);
    assert_eq!(outside.text(), "Phone number '5002' is in none of your groups.");
}

// Devices as their users see them.

#[test]
fn the_supervisors_device_looks_as_in_the_sample() {
    let mut harness = Harness::new();
    harness.logs_in(MEG);
    let disturbed = DeviceFact { do_not_disturb: true, ..device(MEG_PHONE, "5005") };
    harness.facts(Fact::Device(disturbed));
    let outputs = harness.facts(Fact::Monitor(monitor(MonitorState::Armed)));
    let expected = DeviceView {
        id: MEG_PHONE.into(),
        number: "5005".into(),
        active: true,
        user_state: Some(AgentState::NotReady.into()),
        do_not_disturb: true,
        forward_to: None,
        voice_environment: "370ef5e6".into(),
        capabilities: vec![
            Operation::ForwardCallsOn,
            Operation::DoNotDisturbOff,
            Operation::ListenIn,
            Operation::Coach,
            Operation::BargeIn,
            Operation::CancelSupervisorMonitoring,
        ],
        monitoring: Some((Activity::Coach, Mode::AllCalls, Scope::Call, BOB_PHONE.into())),
    };
    let [Output::KeepMonitoring { monitoring: Some(_), .. }, Output::Notice(notice)] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    assert_eq!((notice.user.as_str(), notice.topic), (MEG, Topic::Devices));
    assert_eq!(notice.body, NoticeBody::DeviceStateChange(vec![expected]));
}

#[test]
fn an_agents_device_never_offers_monitoring() {
    let harness = Harness::new();
    assert_eq!(
        harness.device_view("bob", BOB_PHONE).capabilities,
        ["ForwardCallsOn", "DoNotDisturbOn"]
    );
}

#[test]
fn an_unregistered_device_has_no_user_state() {
    let mut harness = Harness::new();
    harness.logs_in("bob");
    let gone = DeviceFact { registered: false, ..device(BOB_PHONE, "5001") };
    harness.facts(Fact::Device(gone));
    let view = harness.device_view("bob", BOB_PHONE);
    assert_eq!((view.active, view.user_state), (false, None));
}

#[test]
fn a_spent_monitor_leaves_the_device_without_a_monitoring_state_and_says_so() {
    let mut harness = Harness::new();
    harness.facts(Fact::Monitor(monitor(MonitorState::Armed)));
    let supervisor = MEG_PHONE.into();
    let outputs = harness.facts(Fact::MonitorGone { supervisor });
    let [Output::KeepMonitoring { monitoring: None, .. }, Output::Notice(notice)] = &outputs[..]
    else {
        panic!("{outputs:?}")
    };
    let NoticeBody::DeviceStateChange(devices) = &notice.body else { panic!("{notice:?}") };
    assert_eq!(devices[0].monitoring, None);
    assert_eq!(
        devices[0].capabilities,
        ["ForwardCallsOn", "DoNotDisturbOn", "ListenIn", "Coach", "BargeIn"]
    );
}

#[test]
fn another_ones_device_is_shown_without_what_only_its_user_may_ask() {
    let harness = Harness::new();
    let read = |user: &str, query| harness.gateway.read(&user.into(), &query, harness.now.wall);
    let Ok(Answer::Device(view)) = read(MEG, Query::Device(BOB_PHONE.into())) else {
        panic!("she may see it")
    };
    assert_eq!(view.capabilities, Vec::<&str>::new());
    let hidden = read("eve", Query::Device(BOB_PHONE.into())).map_err(|refusal| refusal.reason);
    assert_eq!(hidden, Err(Reason::NotFound));
    let hidden = read(MEG, Query::MyDevice(BOB_PHONE.into())).map_err(|refusal| refusal.reason);
    assert_eq!(hidden, Err(Reason::NotFound));
}

#[test]
fn a_supervisor_finds_the_devices_he_may_monitor_by_number_and_an_admin_finds_all() {
    let harness = Harness::new();
    let find = |user: &str, number: Option<&str>| {
        let query = Query::Devices(number.map(Number::from));
        let Ok(Answer::Devices(views)) =
            harness.gateway.read(&user.into(), &query, harness.now.wall)
        else {
            panic!("devices")
        };
        views.into_iter().map(|view| view.number.as_str().to_owned()).collect::<BTreeSet<_>>()
    };
    let numbers =
        |list: &[&str]| list.iter().map(|number| (*number).to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(find(MEG, None), numbers(&["5001"]));
    assert_eq!(find(MEG, Some("5001")), numbers(&["5001"]));
    assert_eq!(find(MEG, Some("5002")), numbers(&[]));
    assert_eq!(find("bob", None), numbers(&[]));
    assert_eq!(find("ada", None), numbers(&["5000", "5001", "5002", "5005", "5006"]));
}

// Legs as their users see them.

#[test]
fn the_supervisors_leg_lists_agent_and_customer_and_never_himself() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::Coach)));
    let leg = harness.leg(MEG).expect("her leg");
    let numbers: Vec<_> = leg.participants.iter().map(|party| party.number.as_str()).collect();
    assert_eq!(numbers, ["7001", "5001"]);
    assert_eq!((leg.number.as_str(), leg.device.as_str()), ("5005", MEG_PHONE));
    assert_eq!(
        (leg.monitoring, leg.muted, leg.monitoring_state),
        (true, false, Some(Activity::Coach))
    );
    assert_eq!(leg.capabilities, ["Hangup", "SwitchToListenIn", "SwitchToBargeIn"]);
}

#[test]
fn a_supervisor_is_muted_in_listen_in_and_not_in_barge_in() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::ListenIn)));
    let leg = harness.leg(MEG).expect("her leg");
    assert_eq!(
        (leg.muted, leg.capabilities),
        (true, vec![Operation::Hangup, Operation::SwitchToCoach, Operation::SwitchToBargeIn])
    );
    harness.facts(Fact::Call(coached(Activity::BargeIn)));
    let leg = harness.leg(MEG).expect("her leg");
    assert_eq!(
        (leg.muted, leg.capabilities),
        (false, vec![Operation::Hangup, Operation::SwitchToListenIn, Operation::SwitchToCoach])
    );
}

#[test]
fn with_one_way_coach_there_is_no_way_back() {
    let config = GatewayConfig { one_way_coach: true, ..GatewayConfig::default() };
    let mut harness = Harness::with(config, directory());
    harness.facts(Fact::Call(coached(Activity::BargeIn)));
    assert_eq!(harness.leg(MEG).expect("her leg").capabilities, ["Hangup", "SwitchToListenIn"]);
    assert_eq!(
        harness.reason(MEG, on_call(CallOperation::Switch(Activity::Coach))),
        Reason::Forbidden
    );
}

#[test]
fn the_monitored_agent_is_told_and_the_supervisor_is_no_participant_of_his() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(call(vec![customer(), bob()])));
    let outputs = harness.facts(Fact::Call(coached(Activity::ListenIn)));
    assert_eq!(
        told(&outputs),
        [
            ("bob", CallNotification::StatusChange, LegState::Established),
            (MEG, CallNotification::StatusChange, LegState::Established)
        ]
    );
    let leg = harness.leg("bob").expect("his leg");
    assert_eq!(
        (leg.supervisor_listening_in, leg.monitoring_state),
        (true, Some(Activity::ListenIn))
    );
    assert_eq!((leg.monitoring, leg.participants.len()), (false, 1));
    harness.facts(Fact::Call(coached(Activity::BargeIn)));
    let leg = harness.leg("bob").expect("his leg");
    assert_eq!((leg.supervisor_listening_in, leg.participants.len()), (false, 2));
}

#[test]
fn with_notify_agent_none_the_agent_learns_nothing() {
    let config = GatewayConfig { notify_agent: NotifyAgent::None, ..GatewayConfig::default() };
    let mut harness = Harness::with(config, directory());
    harness.facts(Fact::Call(call(vec![customer(), bob()])));
    let outputs = harness.facts(Fact::Call(coached(Activity::Coach)));
    assert_eq!(told(&outputs), [(MEG, CallNotification::StatusChange, LegState::Established)]);
    assert_eq!(harness.leg("bob").expect("his leg").monitoring_state, None);
}

#[test]
fn a_supervisor_whose_phone_still_rings_is_no_news_to_the_agent() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(call(vec![customer(), bob()])));
    let ringing = call(vec![customer(), bob(), supervisor(Activity::BargeIn, LegState::Ringing)]);
    let outputs = harness.facts(Fact::Call(ringing));
    assert_eq!(told(&outputs), [(MEG, CallNotification::StatusChange, LegState::Ringing)]);
}

#[test]
fn a_released_leg_is_told_once_and_can_only_be_read() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::Coach)));
    let left = call(vec![
        customer(),
        bob(),
        PartyFact {
            state: LegState::Released,
            ..supervisor(Activity::Coach, LegState::Established)
        },
    ]);
    let outputs = harness.facts(Fact::Call(left.clone()));
    assert!(told(&outputs).contains(&(MEG, CallNotification::StatusChange, LegState::Released)));
    assert_eq!(harness.leg(MEG), None);
    assert_eq!(harness.released_leg(MEG).map(|leg| leg.capabilities), Some(Vec::new()));
    assert_eq!(harness.released_leg("bob"), None);
    assert_eq!(harness.reason(MEG, on_call(CallOperation::Hangup)), Reason::NotFound);
    assert_eq!(told(&harness.facts(Fact::Call(left))), []);
    let over = call(vec![
        PartyFact { state: LegState::Released, ..customer() },
        PartyFact { state: LegState::Released, ..bob() },
    ]);
    let outputs = harness.facts(Fact::Call(over));
    assert_eq!(told(&outputs), [("bob", CallNotification::StatusChange, LegState::Released)]);
    assert_eq!(harness.leg("bob"), None);
}

#[test]
fn who_joined_is_told_as_participants_updated() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(call(vec![customer(), bob()])));
    let third = party(None, "7002", PartyRole::Customer, LegState::Established);
    let outputs = harness.facts(Fact::Call(call(vec![customer(), bob(), third])));
    assert_eq!(
        told(&outputs),
        [("bob", CallNotification::ParticipantsUpdated, LegState::Established)]
    );
}

#[test]
fn a_supervisor_who_barges_in_is_told_to_the_agent_as_participants_updated() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::Coach)));
    let outputs = harness.facts(Fact::Call(coached(Activity::BargeIn)));
    assert_eq!(
        told(&outputs),
        [
            ("bob", CallNotification::ParticipantsUpdated, LegState::Established),
            (MEG, CallNotification::StatusChange, LegState::Established)
        ]
    );
}

#[test]
fn a_muted_agent_is_told_as_monitored_user_muted() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::Coach)));
    let mut muted = coached(Activity::Coach);
    muted.parties[1].muted_by_supervisor = true;
    let outputs = harness.facts(Fact::Call(muted));
    let expected = CallNotification::MonitoredUserMutedStateChange;
    assert_eq!(
        told(&outputs),
        [("bob", expected, LegState::Established), (MEG, expected, LegState::Established)]
    );
}

#[test]
fn a_leg_counts_the_seconds_since_it_was_established() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(call(vec![customer(), bob()])));
    harness.now = harness.now + Duration::from_secs(42);
    assert_eq!(harness.leg("bob").expect("his leg").duration_s, 42);
    assert_eq!(
        told(&harness.facts(Fact::Call(call(vec![customer(), bob()])))),
        [],
        "time alone is no news"
    );
}

// Operations on a leg.

#[test]
fn a_call_of_others_is_not_found() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::Coach)));
    assert_eq!(harness.reason("eve", on_call(CallOperation::Hangup)), Reason::NotFound);
    assert_eq!(harness.reason("ada", on_call(CallOperation::Hangup)), Reason::NotFound);
}

#[test]
fn switching_is_for_whoever_monitors_the_call() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::Coach)));
    let switch = on_call(CallOperation::Switch(Activity::BargeIn));
    let (answer, commands, records) = harness.asks(MEG, switch.clone());
    assert_eq!(answer, Ok(Answer::Accepted));
    let expected = Command::SwitchMonitoring {
        supervisor: MEG_PHONE.into(),
        call: "call".into(),
        activity: Activity::BargeIn,
    };
    assert_eq!(commands, [expected]);
    assert_eq!(
        (records[0].event, records[0].activity),
        (AuditEvent::Allowed, Some(Activity::BargeIn))
    );
    assert_eq!(harness.reason("bob", switch.clone()), Reason::NotPermitted);
    let own = call(vec![
        customer(),
        party(Some(MEG_PHONE), "5005", PartyRole::Agent, LegState::Established),
    ]);
    harness.facts(Fact::Call(own));
    assert_eq!(harness.reason(MEG, switch), Reason::InvalidState);
}

#[test]
fn words_that_no_backend_offers_are_forbidden_until_the_backend_offers_them() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::Coach)));
    let transfer = || {
        on_call(CallOperation::Transfer(TransferStep::SingleStep {
            destination: dialled("5002"),
            user_data: Default::default(),
        }))
    };
    let digits = || on_call(CallOperation::SendDtmf("1".parse().expect("digits")));
    assert_eq!(harness.reason("bob", transfer()), Reason::Forbidden);
    assert_eq!(harness.reason("bob", digits()), Reason::Forbidden);
    let remove = on_call(CallOperation::RemoveParticipant(dialled("7001")));
    assert_eq!(harness.reason("bob", remove), Reason::Forbidden);
    let mute = || on_call(CallOperation::MuteMonitored(true));
    assert_eq!(harness.reason(MEG, mute()), Reason::Forbidden);
    assert_eq!(harness.leg("bob").expect("his leg").capabilities, ["Hangup", "Hold", "MuteCall"]);
    let empty = [
        (Operation::SingleStepTransfer, "destination"),
        (Operation::SendDtmf, "digits"),
        (Operation::RemoveParticipantFromConference, "participant"),
    ]
    .map(|(operation, field)| BadRequest {
        operation,
        on: BadRequestOn::Call("call".into()),
        refusal: Refusal::missing(field),
    });
    for operation in empty.clone() {
        assert_eq!(harness.reason("bob", operation), Reason::Forbidden, "whatever is missing");
    }
    let more = Capabilities {
        transfers: true,
        dtmf: true,
        mute_monitored: true,
        conferences: true,
        ..able()
    };
    let now = harness.now;
    harness.gateway.handle_capabilities(more, now);
    harness.outputs();
    for (operation, field) in empty.into_iter().zip(["destination", "digits", "participant"]) {
        let missing = harness.asks("bob", operation).0.expect_err("something is missing");
        assert_eq!(missing, Refusal::missing(field));
    }
    assert_eq!(harness.asks("bob", transfer()).0, Ok(Answer::Accepted));
    let consult = on_call(CallOperation::Transfer(TransferStep::Initiate {
        destination: dialled("5002"),
        user_data: Default::default(),
    }));
    assert_eq!(harness.reason("bob", consult), Reason::Forbidden);
    let offered = harness.leg("bob").expect("his leg").capabilities;
    assert!(
        offered.contains(&Operation::SingleStepTransfer)
            && !offered.contains(&Operation::InitiateTransfer)
    );
    assert_eq!(harness.asks("bob", digits()).0, Ok(Answer::Accepted));
    assert_eq!(harness.asks(MEG, mute()).0, Ok(Answer::Accepted));
    assert!(
        harness.leg(MEG).expect("her leg").capabilities.contains(&Operation::MuteMonitoredUser)
    );
}

#[test]
fn where_a_group_says_so_its_agents_alone_are_heard_and_a_backend_that_can_not_do_it_is_not_asked()
{
    let mut directory = directory();
    sales(&mut directory).agent_side_only = true;
    let mut harness = Harness::with(GatewayConfig::default(), directory);
    let now = harness.now;
    assert_eq!(harness.reason(MEG, coach_from(MEG_PHONE, BOB_PHONE)), Reason::Forbidden);
    let more = Capabilities { agent_side_only: true, ..able() };
    harness.gateway.handle_capabilities(more, now);
    harness.outputs();
    let (_, commands, _) = harness.asks(MEG, coach_from(MEG_PHONE, BOB_PHONE));
    let limited = |command: &Command| {
        matches!(command, Command::StartMonitoring { agent_side_only: true, .. })
    };
    assert!(commands.iter().any(limited), "{commands:?}");
}

/// Each state of a leg, and what may be asked in it: nothing else.
#[test]
fn what_may_be_asked_of_a_leg_follows_from_its_state() {
    let all = Capabilities {
        transfers: true,
        consultations: true,
        conferences: true,
        dtmf: true,
        mute_monitored: true,
        ..able()
    };
    let bob_is = |state| party(Some(BOB_PHONE), "5001", PartyRole::Agent, state);
    let at_phone = || PartyFact { held_at_phone: true, ..bob_is(LegState::Held) };
    let colleague = || party(Some("colleague"), "5002", PartyRole::Agent, LegState::Established);
    let established = ["Hangup", "Hold", "MuteCall", "SendDtmf"];
    let of_two =
        ["SingleStepTransfer", "InitiateTransfer", "SingleStepConference", "InitiateConference"];
    let complete = ["CompleteTransfer", "CompleteConference"];
    let consultation = |parties| CallFact {
        id: "consult".into(),
        call_type: CallType::Consult,
        parent: Some("call".into()),
        ..call(parties)
    };
    let owned = |parties| CallFact { owner: Some(BOB_PHONE.into()), ..call(parties) };
    let muted = PartyFact { muted: true, ..bob() };
    let rows: Vec<(&str, Vec<CallFact>, &str, Vec<&str>)> = vec![
        (
            "dialing",
            vec![call(vec![bob_is(LegState::Dialing), customer()])],
            "call",
            vec!["Hangup"],
        ),
        (
            "ringing",
            vec![call(vec![customer(), bob_is(LegState::Ringing)])],
            "call",
            vec!["Answer", "Hangup"],
        ),
        (
            "established",
            vec![call(vec![customer(), bob()])],
            "call",
            [&established[..], &of_two].concat(),
        ),
        (
            "muted",
            vec![call(vec![customer(), muted])],
            "call",
            [&["Hangup", "Hold", "UnmuteCall", "SendDtmf"], &of_two[..]].concat(),
        ),
        (
            "held",
            vec![call(vec![customer(), bob_is(LegState::Held)])],
            "call",
            vec!["Hangup", "Retrieve"],
        ),
        ("held at the phone", vec![call(vec![customer(), at_phone()])], "call", vec!["Hangup"]),
        (
            "held at the phone, and asking",
            vec![call(vec![customer(), at_phone()]), consultation(vec![bob(), colleague()])],
            "call",
            [&["Hangup"], &complete[..]].concat(),
        ),
        (
            "held, and asking",
            vec![
                call(vec![customer(), bob_is(LegState::Held)]),
                consultation(vec![bob(), colleague()]),
            ],
            "call",
            [&["Hangup", "Retrieve"], &complete[..]].concat(),
        ),
        (
            "asking",
            vec![
                call(vec![customer(), bob_is(LegState::Held)]),
                consultation(vec![bob(), colleague()]),
            ],
            "consult",
            [&established[..], &["SingleStepTransfer", "SingleStepConference"], &complete].concat(),
        ),
        (
            "being asked about a call that is not his",
            vec![call(vec![customer(), colleague()]), consultation(vec![colleague(), bob()])],
            "consult",
            [&established[..], &of_two].concat(),
        ),
        (
            "in a conference of his",
            vec![owned(vec![customer(), bob(), colleague()])],
            "call",
            [
                &established[..],
                &[
                    "InitiateTransfer",
                    "SingleStepConference",
                    "InitiateConference",
                    "RemoveParticipantFromConference",
                ],
            ]
            .concat(),
        ),
        (
            "in a conference of another",
            vec![call(vec![customer(), bob(), colleague()])],
            "call",
            [&established[..], &["InitiateTransfer", "SingleStepConference", "InitiateConference"]]
                .concat(),
        ),
        ("released", vec![call(vec![customer(), bob_is(LegState::Released)])], "call", vec![]),
    ];
    for (what, calls, asked, expected) in rows {
        let mut harness = Harness::new();
        let now = harness.now;
        harness.gateway.handle_capabilities(all.clone(), now);
        for call in calls {
            harness.facts(Fact::Call(call));
        }
        let mut offered = harness.leg_of("bob", asked).map(|leg| words(&leg)).unwrap_or_default();
        let mut expected = expected;
        offered.sort_unstable();
        expected.sort_unstable();
        assert_eq!(offered, expected, "{what}");
    }
}

/// The operations on the whole call, on a ringing leg, on two calls and on data, by state.
#[test]
fn data_swaps_clearing_rejecting_and_redirecting_are_offered_where_they_can_be() {
    let all = Capabilities {
        swap_calls: true,
        clear_call: true,
        reject: true,
        redirect: true,
        user_data: true,
        ..able()
    };
    let bob_is = |state| party(Some(BOB_PHONE), "5001", PartyRole::Agent, state);
    let second = |state| CallFact { id: "second".into(), ..call(vec![customer(), bob_is(state)]) };
    let data = ["AttachUserData", "DeleteUserData", "DeleteUserDataPair", "UpdateUserData"];
    let rows: Vec<(&str, Vec<CallFact>, Vec<&str>)> = vec![
        ("dialing", vec![call(vec![bob_is(LegState::Dialing), customer()])], vec![]),
        (
            "ringing",
            vec![call(vec![customer(), bob_is(LegState::Ringing)])],
            vec!["ClearCall", "Redirect", "Reject"],
        ),
        ("established", vec![call(vec![customer(), bob()])], vec!["ClearCall"]),
        ("held", vec![call(vec![customer(), bob_is(LegState::Held)])], vec!["ClearCall"]),
        (
            "established beside a held call",
            vec![call(vec![customer(), bob()]), second(LegState::Held)],
            vec!["ClearCall", "SwapCalls"],
        ),
        (
            "held beside an established call",
            vec![call(vec![customer(), bob_is(LegState::Held)]), second(LegState::Established)],
            vec!["ClearCall", "SwapCalls"],
        ),
        (
            "held beside a held call",
            vec![call(vec![customer(), bob_is(LegState::Held)]), second(LegState::Held)],
            vec!["ClearCall"],
        ),
        (
            "established beside a ringing call",
            vec![call(vec![customer(), bob()]), second(LegState::Ringing)],
            vec!["ClearCall"],
        ),
    ];
    let is_new = |word: &&str| {
        data.contains(word) || ["ClearCall", "Redirect", "Reject", "SwapCalls"].contains(word)
    };
    for (what, calls, expected) in rows {
        let mut harness = Harness::new();
        let now = harness.now;
        harness.gateway.handle_capabilities(all.clone(), now);
        for call in calls {
            harness.facts(Fact::Call(call));
        }
        let leg = harness.leg("bob").expect("a leg");
        let mut offered: Vec<_> = words(&leg).into_iter().filter(is_new).collect();
        let mut expected = [&expected[..], &data].concat();
        offered.sort_unstable();
        expected.sort_unstable();
        assert_eq!(offered, expected, "{what}");
    }
    for state in [LegState::Ringing, LegState::Established] {
        let mut harness = Harness::new();
        let now = harness.now;
        harness.gateway.handle_capabilities(all.clone(), now);
        harness.facts(Fact::Call(call(vec![
            customer(),
            bob(),
            supervisor(Activity::Coach, state),
        ])));
        let offered = words(&harness.leg(MEG).expect("a leg"));
        assert!(!offered.iter().any(is_new), "a supervisor's leg: {offered:?}");
        let forbidden = [
            CallOperation::ClearCall,
            CallOperation::Reject,
            CallOperation::Redirect(dialled("5002")),
            CallOperation::SwapCalls("second".into()),
            CallOperation::UpdateUserData(user_data(&[("a", "1")])),
            CallOperation::DeleteUserData,
        ];
        for operation in forbidden {
            assert_eq!(harness.reason(MEG, on_call(operation)), Reason::Forbidden);
        }
    }
}

#[test]
fn that_two_calls_may_be_swapped_is_told_of_both_when_one_of_them_changes() {
    let mut harness = Harness::new();
    let now = harness.now;
    harness.gateway.handle_capabilities(Capabilities { swap_calls: true, ..able() }, now);
    let held = party(Some(BOB_PHONE), "5001", PartyRole::Agent, LegState::Held);
    harness.facts(Fact::Call(call(vec![customer(), held])));
    let second = |state| CallFact {
        id: "second".into(),
        ..call(vec![customer(), party(Some(BOB_PHONE), "5001", PartyRole::Agent, state)])
    };
    harness.facts(Fact::Call(second(LegState::Ringing)));
    let swap = |leg: &CallView| leg.capabilities.contains(&Operation::SwapCalls);
    assert!(!swap(&harness.leg("bob").expect("a leg")));
    let told = |outputs: &[Output]| -> Vec<(CallId, bool)> {
        let calls = notices(outputs).into_iter().filter_map(|notice| match &notice.body {
            NoticeBody::CallStateChange { call, .. } => Some((call.id.clone(), swap(call))),
            NoticeBody::DeviceStateChange(_)
            | NoticeBody::UserStateChange(_)
            | NoticeBody::ServiceStateChange { .. }
            | NoticeBody::Error { .. } => None,
        });
        calls.collect()
    };
    let outputs = harness.facts(Fact::Call(second(LegState::Established)));
    assert_eq!(told(&outputs), [("second".into(), true), ("call".into(), true)]);
    let held = |held_at_phone| {
        let held = party(Some(BOB_PHONE), "5001", PartyRole::Agent, LegState::Held);
        Fact::Call(call(vec![customer(), PartyFact { held_at_phone, ..held }]))
    };
    for (at_phone, may_swap) in [(true, false), (false, true)] {
        let outputs = harness.facts(held(at_phone));
        assert_eq!(told(&outputs), [("call".into(), may_swap), ("second".into(), may_swap)]);
    }
    let outputs = harness.facts(Fact::Call(second(LegState::Released)));
    assert_eq!(told(&outputs), [("second".into(), false), ("call".into(), false)]);
}

#[test]
fn data_that_changes_is_told_to_everybody_on_the_call_as_that_and_nothing_else_is() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::Coach)));
    let with = |pairs: &[(&str, &str)], fact: CallFact| {
        Fact::Call(CallFact { user_data: user_data(pairs), ..fact })
    };
    let outputs = harness.facts(with(&[("a", "1")], coached(Activity::Coach)));
    let told: Vec<_> = notices(&outputs)
        .into_iter()
        .map(|notice| match &notice.body {
            NoticeBody::CallStateChange { notification, call } => {
                (notice.user.as_str(), *notification, call.user_data.get("a") == Some("1"))
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let changed = CallNotification::AttachedDataChanged;
    assert_eq!(told, [("bob", changed, true), (MEG, changed, true)]);
    let outputs = harness.facts(with(&[("a", "1")], coached(Activity::Coach)));
    assert!(outputs.is_empty(), "again is no news: {outputs:?}");
    let rings =
        call(vec![customer(), party(Some(BOB_PHONE), "5001", PartyRole::Agent, LegState::Ringing)]);
    let mut harness = Harness::new();
    harness.facts(Fact::Call(rings.clone()));
    let outputs = harness.facts(with(&[("a", "1")], rings));
    assert!(matches!(
        &notices(&outputs)[..],
        [Notice { body: NoticeBody::CallStateChange { notification, call }, .. }]
            if *notification == changed && call.state == LegState::Ringing
    ));
}

#[test]
fn data_is_refused_where_it_is_too_much_or_the_backend_has_none() {
    let mut harness = Harness::new();
    let now = harness.now;
    let full = UserData::new([("full".into(), "x".repeat(UserData::MOST_BYTES - 10))]);
    let full = full.expect("it fits");
    let held = CallFact { user_data: full, ..call(vec![customer(), bob()]) };
    harness.facts(Fact::Call(held));
    let update = || on_call(CallOperation::UpdateUserData(user_data(&[("key", "12345678")])));
    let dial = || Request::Dial {
        device: BOB_PHONE.into(),
        destination: dialled("5002"),
        user_data: user_data(&[("a", "1")]),
    };
    assert_eq!(harness.reason("bob", update()), Reason::Forbidden);
    assert_eq!(harness.reason("bob", dial()), Reason::Forbidden);
    let all = Capabilities { user_data: true, transfers: true, ..able() };
    harness.gateway.handle_capabilities(all, now);
    harness.outputs();
    assert_eq!(harness.reason("bob", update()), Reason::InvalidInput);
    let transfer = on_call(CallOperation::Transfer(TransferStep::SingleStep {
        destination: dialled("5002"),
        user_data: user_data(&[("key", "12345678")]),
    }));
    assert_eq!(harness.reason("bob", transfer), Reason::InvalidInput);
    let (answer, commands, records) = harness.asks("bob", dial());
    assert_eq!(answer, Ok(Answer::Accepted));
    assert!(matches!(&commands[..], [Command::Dial { user_data, .. }] if !user_data.is_empty()));
    assert_eq!(records, []);
    let clear = on_call(CallOperation::DeleteUserData);
    let (_, commands, _) = harness.asks("bob", clear);
    let cleared = |command: &Command| {
        matches!(command, Command::ChangeUserData { change: UserDataChange::Clear, .. })
    };
    assert!(commands.iter().all(cleared) && commands.len() == 1, "{commands:?}");
}

#[test]
fn what_the_backend_says_it_can_not_do_is_neither_offered_nor_sent() {
    let mut harness = Harness::new();
    let now = harness.now;
    let bare = Capabilities {
        hold: false,
        mute: false,
        answer: false,
        dial: false,
        do_not_disturb: false,
        forwarding: false,
        ..able()
    };
    harness.gateway.handle_capabilities(bare, now);
    let rings = party(Some(BOB_PHONE), "5001", PartyRole::Agent, LegState::Ringing);
    harness.facts(Fact::Call(call(vec![customer(), rings])));
    assert_eq!(words(&harness.leg("bob").expect("a leg")), ["Hangup"]);
    assert_eq!(harness.reason("bob", on_call(CallOperation::Answer)), Reason::Forbidden);
    harness.facts(Fact::Call(call(vec![customer(), bob()])));
    assert_eq!(words(&harness.leg("bob").expect("a leg")), ["Hangup"]);
    for operation in [CallOperation::Hold, CallOperation::Retrieve, CallOperation::Mute(true)] {
        assert_eq!(harness.reason("bob", on_call(operation)), Reason::Forbidden);
    }
    assert!(harness.device_view("bob", BOB_PHONE).capabilities.is_empty());
    let device = || DeviceId::from(BOB_PHONE);
    let user_data = UserData::default();
    for request in [
        Request::Dial { device: device(), destination: dialled("5002"), user_data },
        Request::SetDoNotDisturb { device: device(), on: true },
        Request::SetForwarding { device: device(), to: Some(dialled("5002")) },
    ] {
        assert_eq!(harness.reason("bob", request), Reason::Forbidden);
    }
}

#[test]
fn why_an_agent_is_not_ready_is_told_and_kept_until_the_next_state() {
    let mut harness = Harness::new();
    harness.logs_in("bob");
    let lunch =
        UserState { state: AgentState::AuxWork, reason: Some("Lunch".parse().expect("a reason")) };
    harness.request("bob", Request::SetAgentState(lunch.clone()));
    let outputs = harness.outputs();
    let kept = |output: &Output| matches!(output, Output::Keep { presence: Some(state), .. } if *state == lunch);
    assert!(outputs.iter().any(kept), "{outputs:?}");
    assert_eq!(harness.device_view("bob", BOB_PHONE).user_state, Some(lunch));
    let (answer, _, _) = harness.asks("bob", Request::SetAgentState(AgentState::AuxWork.into()));
    assert_eq!(answer, Ok(Answer::Accepted));
    let now = harness.device_view("bob", BOB_PHONE).user_state;
    assert_eq!(now, Some(AgentState::AuxWork.into()));
}

fn user_data(pairs: &[(&str, &str)]) -> UserData {
    let pairs = pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
    UserData::new(pairs).expect("call data")
}

#[test]
fn what_a_supervisor_may_ask_follows_from_what_he_does() {
    let all = Capabilities { mute_monitored: true, conferences: true, ..able() };
    let (listen, coach, barge) = ("SwitchToListenIn", "SwitchToCoach", "SwitchToBargeIn");
    let (mute, unmute, remove) =
        ("MuteMonitoredUser", "UnmuteMonitoredUser", "RemoveParticipantFromConference");
    let colleague = || party(Some("colleague"), "5002", PartyRole::Agent, LegState::Established);
    let rows: Vec<(&str, CallFact, Vec<&str>)> = vec![
        ("listens", coached(Activity::ListenIn), vec!["Hangup", coach, barge, mute]),
        ("coaches", coached(Activity::Coach), vec!["Hangup", listen, barge, mute]),
        ("barges in", coached(Activity::BargeIn), vec!["Hangup", listen, coach, mute]),
        (
            "has muted the agent",
            {
                let mut call = coached(Activity::BargeIn);
                for party in call.parties.iter_mut().filter(|party| party.role == PartyRole::Agent)
                {
                    party.muted_by_supervisor = true;
                }
                call
            },
            vec!["Hangup", listen, coach, unmute],
        ),
        (
            "coaches in a conference",
            {
                let mut call = coached(Activity::Coach);
                call.parties.push(colleague());
                call
            },
            vec!["Hangup", listen, barge, mute, remove],
        ),
        (
            "waits with the customer for the next agent",
            {
                let mut call = coached(Activity::Coach);
                for party in call.parties.iter_mut().filter(|party| party.role == PartyRole::Agent)
                {
                    party.state = LegState::Released;
                }
                call
            },
            vec!["Hangup", listen, barge],
        ),
    ];
    for (what, call, mut expected) in rows {
        let mut harness = Harness::new();
        let now = harness.now;
        harness.gateway.handle_capabilities(all.clone(), now);
        harness.facts(Fact::Call(call));
        let mut offered = words(&harness.leg_of(MEG, "call").expect("her leg"));
        offered.sort_unstable();
        expected.sort_unstable();
        assert_eq!(offered, expected, "{what}");
    }
}

#[test]
fn a_call_says_what_it_was_made_to_ask_about_and_the_first_what_it_may_be_joined_with() {
    let mut harness = Harness::new();
    let now = harness.now;
    let more = Capabilities { transfers: true, consultations: true, ..able() };
    harness.gateway.handle_capabilities(more, now);
    let held = party(Some(BOB_PHONE), "5001", PartyRole::Agent, LegState::Held);
    harness.facts(Fact::Call(call(vec![customer(), held])));
    harness.outputs();
    let consultation = |state| CallFact {
        id: "consult".into(),
        call_type: CallType::Consult,
        parent: Some("call".into()),
        ..call(vec![
            party(Some(BOB_PHONE), "5001", PartyRole::Agent, state),
            party(Some("colleague"), "5002", PartyRole::Agent, state),
        ])
    };
    let dials = CallFact {
        parties: vec![party(Some(BOB_PHONE), "5001", PartyRole::Agent, LegState::Dialing)],
        ..consultation(LegState::Dialing)
    };
    harness.facts(Fact::Call(dials));
    for leg in ["call", "consult"] {
        let offered = harness.leg_of("bob", leg).expect("a leg").capabilities;
        assert!(!offered.contains(&Operation::CompleteTransfer), "nobody is asked yet: {leg}");
    }
    let outputs = harness.facts(Fact::Call(consultation(LegState::Established)));
    let both = [
        ("bob", CallNotification::StatusChange, LegState::Established),
        ("bob", CallNotification::StatusChange, LegState::Held),
    ];
    assert_eq!(told(&outputs), both, "the first may be completed now");
    assert_eq!(harness.leg_of("bob", "consult").expect("his leg").parent, Some("call".into()));
    harness.facts(Fact::Call(consultation(LegState::Released)));
    assert!(
        !harness
            .leg_of("bob", "call")
            .expect("his leg")
            .capabilities
            .contains(&Operation::CompleteTransfer)
    );
}

#[test]
fn sent_digits_are_told() {
    let mut harness = Harness::new();
    let now = harness.now;
    harness.gateway.handle_capabilities(Capabilities { dtmf: true, ..able() }, now);
    harness.facts(Fact::Call(call(vec![customer(), bob()])));
    harness.request("bob", on_call(CallOperation::SendDtmf("12#".parse().expect("digits"))));
    let outputs = harness.outputs();
    let [Output::Command { id, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    harness.gateway.handle_command_result(*id, Ok(()), now);
    assert_eq!(
        told(&harness.outputs()),
        [("bob", CallNotification::DtmfSent, LegState::Established)]
    );
}

#[test]
fn a_destination_is_a_number_and_never_a_uri() {
    let mut harness = Harness::new();
    for bad in [
        "sip:127.0.0.1:22;transport=tcp",
        "http://169.254.169.254",
        "50 01;x",
        "5001\r\nX: y",
        "5001@evil",
    ] {
        assert_eq!(bad.parse::<DialString>(), Err(NotDialable), "{bad}");
    }
    let forward =
        |to: &str| Request::SetForwarding { device: BOB_PHONE.into(), to: Some(dialled(to)) };
    let nowhere = |device: &str| BadRequest {
        operation: Operation::ForwardCallsOn,
        on: BadRequestOn::Device(device.into()),
        refusal: Refusal::missing("destination"),
    };
    assert_eq!(harness.reason("bob", nowhere(BOB_PHONE)), Reason::MissingParameter);
    assert_eq!(
        harness.reason("bob", nowhere(EVE_PHONE)),
        Reason::NotFound,
        "permissions come first"
    );
    assert_eq!(harness.reason("bob", forward("5001")), Reason::InvalidInput);
    assert_eq!(harness.asks("bob", forward("+4930123456")).0, Ok(Answer::Accepted));
}

// Presence.

#[test]
fn a_session_begins_not_ready_is_kept_and_told_on_three_channels() {
    let mut harness = Harness::new();
    harness.request("bob", Request::StartSession);
    let outputs = harness.outputs();
    assert!(matches!(
        &outputs[0],
        Output::Keep { user, presence: Some(UserState { state: AgentState::NotReady, .. }) }
            if user.as_str() == "bob"
    ));
    let topics: Vec<_> = notices(&outputs).iter().map(|notice| notice.topic).collect();
    assert_eq!(topics, [Topic::Me, Topic::Channels, Topic::Devices]);
    assert!(matches!(outputs.last(), Some(Output::Reply { result: Ok(_), .. })));
    harness.request("bob", Request::StartSession);
    assert_eq!(harness.outputs().len(), 1, "again changes nothing");
}

#[test]
fn a_state_opens_a_session_where_none_is_and_offline_needs_none() {
    let mut harness = Harness::new();
    let state = |state: AgentState| Request::SetAgentState(state.into());
    assert_eq!(harness.asks("bob", state(AgentState::Offline)).0, Ok(Answer::Accepted));
    assert_eq!(harness.gateway.sessions.get("bob"), None);
    assert_eq!(harness.asks("bob", state(AgentState::Ready)).0, Ok(Answer::Accepted));
    assert_eq!(harness.device_view("bob", BOB_PHONE).user_state, Some(AgentState::Ready.into()));
    harness.logs_in("bob");
    assert_eq!(harness.gateway.sessions.get("bob"), Some(&AgentState::Ready.into()), "it is open");
}

#[test]
fn who_logs_out_is_no_longer_monitored_and_monitors_nobody() {
    for user in [MEG, "bob"] {
        let mut harness = Harness::new();
        harness.logs_in(user);
        harness.facts(Fact::Monitor(monitor(joined_as(Activity::Coach))));
        let (answer, commands, records) = harness.asks(user, Request::EndSession);
        let supervisor = MEG_PHONE.into();
        assert_eq!(answer, Ok(Answer::Accepted));
        assert_eq!(commands, [Command::StopMonitoring { supervisor }]);
        assert!(records.iter().any(|record| record.event == AuditEvent::Cancelled));
        assert_eq!(
            admission(&harness.facts(Fact::AdmissionAsked(asked()))),
            Some(false),
            "nor joins in the meantime"
        );
    }
}

#[test]
fn a_log_out_while_the_backend_is_away_is_made_good_when_it_is_back() {
    let mut harness = Harness::new();
    harness.logs_in("bob");
    harness.facts(Fact::Monitor(monitor(MonitorState::Armed)));
    harness.facts(Fact::Lost);
    let (_, commands, _) = harness.asks("bob", Request::EndSession);
    assert_eq!(commands, []);
    harness.facts(Fact::SnapshotBegin);
    harness.facts(Fact::Monitor(monitor(MonitorState::Armed)));
    let outputs = harness.facts(Fact::SnapshotComplete);
    let stop = Command::StopMonitoring { supervisor: MEG_PHONE.into() };
    assert!(
        outputs
            .iter()
            .any(|output| matches!(output, Output::Command { command, .. } if *command == stop))
    );
}

// The backend comes and goes.

#[test]
fn while_the_backend_is_away_reads_answer_and_commands_are_unavailable() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(call(vec![customer(), bob()])));
    let everybody: Vec<UserId> = directory().users.keys().cloned().collect();
    let services = |outputs: Vec<Output>| {
        let told = outputs.into_iter().map(|output| match output {
            Output::Notice(Notice {
                user,
                topic: Topic::Services,
                body: NoticeBody::ServiceStateChange { is_active },
            }) => (user, is_active),
            other => panic!("{other:?}"),
        });
        told.collect::<Vec<_>>()
    };
    let told =
        |is_active| everybody.iter().map(|user| (user.clone(), is_active)).collect::<Vec<_>>();
    assert_eq!(services(harness.facts(Fact::Lost)), told(false));
    assert_eq!(harness.facts(Fact::Lost), [], "told once");
    assert_eq!(services(harness.facts(Fact::SnapshotComplete)), told(true));
    harness.facts(Fact::Lost);
    assert!(!harness.gateway.is_ready());
    assert!(harness.leg("bob").is_some());
    assert_eq!(harness.reason("bob", on_call(CallOperation::Hold)), Reason::Unavailable);
    assert_eq!(harness.reason(MEG, coach_from(MEG_PHONE, BOB_PHONE)), Reason::Unavailable);
}

#[test]
fn a_new_snapshot_tells_nobody_what_he_knows_and_everybody_what_is_gone() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::Coach)));
    harness.facts(Fact::Monitor(monitor(joined_as(Activity::Coach))));
    harness.facts(Fact::Lost);
    let mut news = harness.facts(Fact::SnapshotBegin);
    for (id, number) in
        [(MEG_PHONE, "5005"), (EVE_PHONE, "5002"), (OTTO_PHONE, "5006"), (ADA_PHONE, "5000")]
    {
        news.extend(harness.facts(Fact::Device(device(id, number))));
    }
    news.extend(harness.facts(Fact::Call(coached(Activity::Coach))));
    assert_eq!(notices(&news), Vec::<&Notice>::new());
    let outputs = harness.facts(Fact::SnapshotComplete);
    let told: Vec<_> = notices(&outputs)
        .iter()
        .filter(|notice| notice.topic != Topic::Services)
        .map(|notice| notice.user.as_str())
        .collect();
    assert_eq!(told, ["bob", MEG], "Bob's phone and Meg's monitor are gone");
    assert!(outputs.iter().any(
        |output| matches!(output, Output::Audit { record, .. } if record.event == AuditEvent::Lost)
    ));
}

#[test]
fn a_call_that_a_snapshot_does_not_repeat_is_over() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(call(vec![customer(), bob()])));
    harness.facts(Fact::SnapshotBegin);
    let outputs = harness.facts(Fact::SnapshotComplete);
    assert_eq!(told(&outputs), [("bob", CallNotification::StatusChange, LegState::Released)]);
}

#[test]
fn a_backend_that_does_not_answer_in_time_is_unavailable() {
    let mut harness = Harness::new();
    let device = BOB_PHONE.into();
    harness.request("bob", Request::SetDoNotDisturb { device, on: true });
    harness.outputs();
    harness.now = harness.now + Duration::from_secs(5);
    harness.gateway.handle_timeout(harness.now);
    let outputs = harness.outputs();
    let [Output::Reply { result: Err(refusal), .. }] = &outputs[..] else { panic!("{outputs:?}") };
    assert_eq!(refusal.reason, Reason::Unavailable);
}

#[test]
fn what_the_backend_refuses_is_refused_with_its_reason_and_written_down() {
    let mut harness = Harness::new();
    harness.request(MEG, coach_from(MEG_PHONE, BOB_PHONE));
    let outputs = harness.outputs();
    let [Output::Audit { id, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    harness.gateway.handle_audited(*id, Ok(()), harness.now);
    let outputs = harness.outputs();
    let [Output::Command { id, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    let in_use = Refusal::new(Reason::InUse, "Another supervisor monitors this device.");
    harness.gateway.handle_command_result(*id, Err(in_use.clone()), harness.now);
    let outputs = harness.outputs();
    let [Output::Audit { record, .. }, Output::Reply { result, .. }] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!((record.event, &record.refusal), (AuditEvent::Refused, &Some(in_use.clone())));
    assert_eq!(result, &Err(in_use));
}

#[test]
fn a_late_failure_goes_to_the_channel_of_its_operation() {
    let mut harness = Harness::new();
    let busy = || Failure {
        device: MEG_PHONE.into(),
        call: Some("call".into()),
        request_id: None,
        refusal: Refusal::new(Reason::InvalidState, "Busy."),
    };
    harness.facts(Fact::Monitor(monitor(MonitorState::Armed)));
    let topic = |outputs: Vec<Output>| match &outputs[..] {
        [Output::Notice(notice)] => (notice.user.as_str().to_owned(), notice.topic),
        other => panic!("{other:?}"),
    };
    assert_eq!(topic(harness.facts(Fact::Failed(busy()))), (MEG.into(), Topic::Devices));
    harness.facts(Fact::Call(coached(Activity::Coach)));
    harness.request(MEG, on_call(CallOperation::Hangup));
    let outputs = harness.outputs();
    let [Output::Command { context, .. }] = &outputs[..] else { panic!("{outputs:?}") };
    let request_id = Some(context.request_id.clone());
    let failed = harness.facts(Fact::Failed(Failure { request_id, ..busy() }));
    assert_eq!(topic(failed), (MEG.into(), Topic::Calls));
}

#[test]
fn a_refusal_of_the_backend_names_devices_by_number_where_he_may_know_it() {
    let mut harness = Harness::new();
    let mut answer = |refusal: Refusal| {
        let device = MEG_PHONE.into();
        harness.request(MEG, Request::SetDoNotDisturb { device, on: true });
        let outputs = harness.outputs();
        let [Output::Command { id, .. }] = &outputs[..] else { panic!("{outputs:?}") };
        harness.gateway.handle_command_result(*id, Err(refusal), harness.now);
        match harness.outputs().pop() {
            Some(Output::Reply { result: Err(refusal), .. }) => refusal.to_string(),
            other => panic!("{other:?}"),
        }
    };
    let about = |device: &str, pattern: &'static str| {
        Refusal::device(Reason::Internal, &device.into(), pattern)
    };
    assert_eq!(
        answer(about(BOB_PHONE, "Device '{}' is not registered.")),
        "Device '5001' is not registered."
    );
    assert_eq!(answer(about(MEG_PHONE, "Device '{}' is busy.")), "Device '5005' is busy.");
    assert_eq!(
        answer(about(EVE_PHONE, "Device '{}' is busy.")),
        format!("Device '{EVE_PHONE}' is busy.")
    );
    let text = "The device's phone is away.";
    assert_eq!(answer(Refusal::new(Reason::Internal, text)), text);
    let unknown = Refusal::no_device(&BOB_PHONE.into());
    assert_eq!(answer(unknown.clone()), unknown.to_string());
}

#[test]
fn a_failure_on_the_call_he_monitors_is_written_down_and_told() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::Coach)));
    harness.facts(Fact::Monitor(monitor(joined_as(Activity::Coach))));
    let leak = Failure {
        device: MEG_PHONE.into(),
        call: Some("call".into()),
        request_id: None,
        refusal: Refusal::new(Reason::Internal, "Silenced."),
    };
    let outputs = harness.facts(Fact::Failed(leak.clone()));
    let [Output::Audit { record, .. }, Output::Notice(notice)] = &outputs[..] else {
        panic!("{outputs:?}")
    };
    assert_eq!(
        (record.event, record.user.as_ref().map(|user| user.as_str())),
        (AuditEvent::Failed, Some(MEG))
    );
    assert_eq!((&record.target, &record.call), (&Some(BOB_PHONE.into()), &leak.call));
    assert_eq!(record.refusal, Some(leak.refusal));
    assert_eq!(notice.user.as_str(), MEG);
}

#[test]
fn two_users_who_choose_the_same_request_id_are_two_requests() {
    let mut harness = Harness::new();
    let mut ids = BTreeSet::new();
    for (user, device) in [("bob", BOB_PHONE), ("eve", EVE_PHONE)] {
        harness.tokens = 7;
        let device = device.into();
        harness.request(user, Request::SetDoNotDisturb { device, on: true });
        let outputs = harness.outputs();
        let [Output::Command { context, .. }] = &outputs[..] else { panic!("{outputs:?}") };
        ids.insert(context.request_id.clone());
    }
    assert_eq!(ids.len(), 2);
}

mod refusals;

mod properties {
    use super::*;
    use crate::model::FactTable;
    use proptest::prelude::*;

    const PHONES: [&str; 5] = [MEG_PHONE, BOB_PHONE, EVE_PHONE, OTTO_PHONE, ADA_PHONE];

    fn any_phone() -> impl Strategy<Value = &'static str> {
        prop::sample::select(PHONES.to_vec())
    }

    fn any_party() -> impl Strategy<Value = PartyFact> {
        let role = prop::sample::select(vec![
            PartyRole::Agent,
            PartyRole::Customer,
            PartyRole::Supervisor,
        ]);
        let state = prop::sample::select(LegState::ALL.to_vec());
        let activity = prop::sample::select(Activity::ALL.to_vec());
        (prop::option::of(any_phone()), role, state, activity, any_phone(), any::<[bool; 2]>())
            .prop_map(|(device, role, state, activity, monitored, [muted, muted_by_supervisor])| {
                PartyFact {
                    muted,
                    muted_by_supervisor,
                    activity: (role == PartyRole::Supervisor).then_some(activity),
                    monitors: (role == PartyRole::Supervisor).then(|| monitored.into()),
                    ..party(device, "7001", role, state)
                }
            })
    }

    fn any_fact() -> impl Strategy<Value = Fact> {
        let activity = prop::sample::select(Activity::ALL.to_vec());
        prop_oneof![
            (any_phone(), any::<[bool; 3]>()).prop_map(
                |(id, [registered, do_not_disturb, forwarded])| Fact::Device(DeviceFact {
                    registered,
                    do_not_disturb,
                    forward_to: forwarded.then(|| "5000".into()),
                    ..device(id, "5001")
                })
            ),
            (prop::sample::select(vec!["one", "two"]), prop::collection::vec(any_party(), 0..4))
                .prop_map(|(id, parties)| Fact::Call(CallFact { id: id.into(), ..call(parties) })),
            (any_phone(), any_phone(), activity.clone()).prop_map(
                |(supervisor, target, activity)| Fact::Monitor(MonitorFact {
                    supervisor: supervisor.into(),
                    target: target.into(),
                    ..monitor(joined_as(activity))
                })
            ),
            any_phone().prop_map(|supervisor| Fact::MonitorGone { supervisor: supervisor.into() }),
            (any_phone(), any_phone(), activity).prop_map(|(supervisor, target, activity)| {
                Fact::AdmissionAsked(AdmissionAsked {
                    supervisor: supervisor.into(),
                    target: target.into(),
                    call: "one".into(),
                    activity,
                })
            }),
            Just(Fact::SnapshotBegin),
            Just(Fact::SnapshotComplete),
            Just(Fact::Lost),
        ]
    }

    fn check_device(view: &DeviceView) {
        let has = |word: &str| view.capabilities.iter().any(|offered| *offered == word);
        assert!(has("DoNotDisturbOn") != has("DoNotDisturbOff"));
        assert!(has("ForwardCallsOn") != has("ForwardCallsOff"));
        assert_eq!(has("ForwardCallsOff"), view.forward_to.is_some());
        let supervises = [MEG_PHONE, OTTO_PHONE, ADA_PHONE].contains(&view.id.as_str());
        for word in ["ListenIn", "Coach", "BargeIn"] {
            assert_eq!(has(word), supervises);
        }
        assert_eq!(has("CancelSupervisorMonitoring"), supervises && view.monitoring.is_some());
        assert_eq!(
            view.capabilities.iter().collect::<BTreeSet<_>>().len(),
            view.capabilities.len()
        );
        assert_eq!(view.user_state.is_some(), view.active);
    }

    fn check_leg(user: &User, view: &CallView, calls: &FactTable) {
        assert!(user.devices.contains(&view.device), "a leg of somebody else's is shown");
        if view.state == LegState::Released {
            assert_eq!(view.capabilities, Vec::<&str>::new());
            return;
        }
        let call = calls.call(&view.id).expect("there is such a call");
        assert!(call.party_of(&view.device).is_some());
        let heard = |number: usize| view.participants.len() <= number;
        assert!(heard(call.parties.len()));
        for word in ["SwitchToCoach", "SwitchToListenIn", "SwitchToBargeIn"] {
            assert!(view.monitoring || !view.capabilities.iter().any(|offered| *offered == word));
        }
        assert!(!view.supervisor_listening_in || view.monitoring_state == Some(Activity::ListenIn));
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn whatever_the_backend_reports_nobody_sees_anothers_leg_and_nobody_unpermitted_joins(
            facts in prop::collection::vec(any_fact(), 1..40)
        ) {
            let mut harness = Harness::new();
            let directory = directory();
            let permitted = [(MEG_PHONE, BOB_PHONE), (OTTO_PHONE, EVE_PHONE)];
            for fact in facts {
                harness.fact(fact);
                while let Some(output) = harness.gateway.poll_output() {
                    match output {
                        Output::Notice(notice) => {
                            let user = &directory.users[&notice.user];
                            match &notice.body {
                                NoticeBody::DeviceStateChange(views) => {
                                    views.iter().for_each(|view| {
                                        assert!(user.devices.contains(&view.id));
                                        check_device(view);
                                    })
                                }
                                NoticeBody::CallStateChange { call, .. } => {
                                    assert!(user.devices.contains(&call.device))
                                }
                                NoticeBody::UserStateChange(view) => {
                                    assert_eq!(view.id, notice.user)
                                }
                                NoticeBody::ServiceStateChange { .. } => {}
                                NoticeBody::Error { device, .. } => {
                                    assert!(user.devices.contains(device))
                                }
                            }
                        }
                        Output::Audit { id, record } => {
                            if record.event == AuditEvent::Admitted {
                                let (device, target) =
                                    (record.device.expect("who"), record.target.expect("whom"));
                                let admin =
                                    device.as_str() == ADA_PHONE && target.as_str() != ADA_PHONE;
                                assert!(
                                    admin
                                        || permitted.contains(&(device.as_str(), target.as_str())),
                                    "{device} {target}"
                                );
                            }
                            harness.gateway.handle_audited(id, Ok(()), harness.now);
                        }
                        Output::Command { id, .. } => {
                            harness.gateway.handle_command_result(id, Ok(()), harness.now)
                        }
                        Output::Reply { .. }
                        | Output::Keep { .. }
                        | Output::KeepMonitoring { .. }
                | Output::KeepHearing { .. }
                        | Output::EndFailed { .. } => {}
                    }
                }
                for user in directory.users.values() {
                    let Ok(Answer::Calls(legs)) =
                        harness.gateway.read(&user.id, &Query::MyCalls, harness.now.wall)
                    else {
                        panic!("legs")
                    };
                    legs.iter().for_each(|leg| check_leg(user, leg, harness.gateway.known.facts()));
                    user.devices.iter().for_each(|device| {
                        check_device(&harness.device_view(user.id.as_str(), device.as_str()))
                    });
                }
            }
            prop_assert!(harness.gateway.works.is_empty(), "nothing waits for what has come");
        }
    }
}

#[test]
fn how_the_sound_fares_is_read_and_told_to_nobody() {
    let mut harness = Harness::new();
    harness.facts(Fact::Call(coached(Activity::Coach)));
    let told = harness.leg("bob").expect("his leg");
    let measured = |packets_sent| {
        let mut call = coached(Activity::Coach);
        for (party, mos) in call.parties.iter_mut().zip([401, 402, 403]) {
            party.quality = Some(Quality { packets_sent, mos: Some(mos), ..Quality::default() });
        }
        call
    };
    for packets in 1..5 {
        assert_eq!(harness.facts(Fact::Call(measured(packets))), []);
    }
    let mos = |quality: Option<Quality>| quality.and_then(|quality| quality.mos);
    let of = |leg: CallView| {
        let others: Vec<_> = leg.participants.iter().map(|one| mos(one.quality)).collect();
        (mos(leg.quality), others)
    };
    let leg = harness.leg("bob").expect("his leg");
    assert_eq!(
        of(leg),
        (Some(402), vec![Some(401)]),
        "and nothing of a supervisor whom he does not see"
    );
    assert_eq!(of(harness.leg("meg").expect("her leg")), (Some(403), vec![Some(401), Some(402)]));
    let Ok(Answer::Calls(list)) =
        harness.gateway.read(&"bob".into(), &Query::MyCalls, harness.now.wall)
    else {
        panic!("calls")
    };
    assert_eq!(mos(list[0].quality), Some(402));
    let states = harness.gateway.states(&"bob".into(), harness.now.wall);
    let legs = states.into_iter().filter_map(|notice| match notice.body {
        NoticeBody::CallStateChange { call, .. } => Some(call),
        _ => None,
    });
    assert_eq!(legs.collect::<Vec<_>>(), [told]);
    // What is told for another reason is without it.
    let mut over = measured(9);
    over.parties.iter_mut().for_each(|party| party.state = LegState::Released);
    for output in harness.facts(Fact::Call(over)) {
        if let Output::Notice(Notice { body: NoticeBody::CallStateChange { call, .. }, .. }) =
            output
        {
            assert_eq!(of(call.clone()), (None, vec![None; call.participants.len()]));
        }
    }
}

#[test]
fn a_user_knows_the_own_groups_and_their_members_and_an_admin_knows_all() {
    let harness = Harness::new();
    let contacts = |user: &str| match harness.reads(user, Query::Contacts) {
        Ok(Answer::Contacts(found)) => {
            found.iter().map(|contact| contact.id.to_string()).collect::<Vec<_>>()
        }
        other => panic!("no contacts: {other:?}"),
    };
    let groups = |user: &str, query| match harness.reads(user, query) {
        Ok(Answer::Groups(found)) => {
            found.iter().map(|group| group.id.to_string()).collect::<Vec<_>>()
        }
        other => panic!("no groups: {other:?}"),
    };
    assert_eq!(contacts(MEG), ["bob", MEG]);
    assert_eq!(contacts("bob"), ["bob", MEG]);
    assert_eq!(contacts("ada"), ["ada", "bob", "eve", MEG, "otto"]);
    assert_eq!(groups(MEG, Query::Groups), ["sales"]);
    assert_eq!(groups("ada", Query::Groups), ["sales", "support"]);
    assert_eq!(groups("ada", Query::MyGroups), [] as [&str; 0]);
    for (user, query, path) in [
        (MEG, Query::Contact("eve".into()), "/contacts/eve"),
        (MEG, Query::Contact("nobody".into()), "/contacts/nobody"),
        (MEG, Query::User("bob".into()), "/users/bob"),
        ("ada", Query::User("nobody".into()), "/users/nobody"),
        (MEG, Query::Group("support".into()), "/groups/support"),
    ] {
        assert_eq!(harness.reads(user, query), Err(Refusal::not_found(path)), "{user} {path}");
    }
    for (user, of) in [(MEG, MEG), ("ada", "bob")] {
        let found = harness.reads(user, Query::User(of.into()));
        assert!(matches!(&found, Ok(Answer::User(view)) if view.id == of.into()), "{found:?}");
    }
    assert!(harness.reads("ada", Query::Group("support".into())).is_ok());
    assert!(harness.reads("ada", Query::Contact("eve".into())).is_ok());
}

#[test]
fn a_state_needs_a_phone_as_long_as_the_backend_can_be_asked_for_it() {
    let mut harness = Harness::new();
    let gone = DeviceFact { registered: false, ..device(BOB_PHONE, "5001") };
    harness.facts(Fact::Device(gone));
    let state = |state: AgentState| Request::SetAgentState(state.into());
    harness.request("bob", state(AgentState::Ready));
    let expected = "Device '5001' is not registered.";
    let refusal =
        Refusal::number(Reason::Internal, &"5001".into(), "Device '{}' is not registered.");
    let outputs = harness.outputs();
    let told = outputs.iter().find_map(|output| match output {
        Output::Notice(told) => Some(told.clone()),
        _ => None,
    });
    let body = NoticeBody::Error { device: BOB_PHONE.into(), refusal: refusal.clone() };
    assert_eq!(told, Some(Notice { user: "bob".into(), topic: Topic::Devices, body }));
    assert_eq!(refusal.to_string(), expected);
    assert_eq!(harness.asks("bob", state(AgentState::Ready)).0, Err(refusal));
    assert_eq!(harness.asks("bob", state(AgentState::Offline)).0, Ok(Answer::Accepted));
    assert_eq!(harness.gateway.sessions.get("bob"), None, "nothing was opened");
    // Nobody knows what has become of the phone.
    harness.facts(Fact::Lost);
    assert_eq!(harness.asks("bob", state(AgentState::Ready)).0, Ok(Answer::Accepted));
    assert_eq!(harness.gateway.sessions.get("bob"), Some(&AgentState::Ready.into()), "it opened");
}
