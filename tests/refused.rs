//! Each operation where it is not allowed, over REST: its row of the error table, a message that
//! says what is wrong, nothing changed for anybody, and a line in the audit where it is somebody's
//! business.

use crate::support::desktop::Audience;
use crate::support::server::{
    AGENT, Account, COLLEAGUE, CUSTOMER, FOREIGN, SUPERVISOR, Server, bystander, device, user,
};
use crate::support::talk::{PATIENCE, phone};
use crate::support::wait;
use serde_json::{Value, json};
use undertone::demo::phone::{AnswerPolicy, Phone};

/// Another supervisor of the agent.
const RIVAL: Account = Account {
    device: "00c1c1c1-0000-4000-8000-000000005006",
    number: "5006",
    user: "rival",
    password: "rival-secret",
};
/// An agent of that group, who has no phone.
const OUTSIDER: Account = Account {
    device: "e5e5e5e5-0000-4000-8000-000000005003",
    number: "5003",
    user: "outsider",
    password: "outsider-secret",
};
/// A supervisor whose contract is for voice only.
const UNPAID: Account = Account {
    device: "abababab-0000-4000-8000-000000005008",
    number: "5008",
    user: "unpaid",
    password: "unpaid-secret",
};
/// A supervisor whose contract is for monitoring only.
const VOICELESS: Account = Account {
    device: "cdcdcdcd-0000-4000-8000-000000005004",
    number: "5004",
    user: "voiceless",
    password: "voiceless-secret",
};

/// Everybody whose view must stay as it is.
const ALL: [Account; 8] =
    [AGENT, COLLEAGUE, SUPERVISOR, RIVAL, FOREIGN, OUTSIDER, UNPAID, VOICELESS];

fn more_people() -> String {
    let people = [
        bystander(),
        [RIVAL, FOREIGN, OUTSIDER, UNPAID, VOICELESS]
            .map(|account| device(account, "house"))
            .concat(),
        user(RIVAL, "Supervisor"),
        user(FOREIGN, "Supervisor"),
        user(OUTSIDER, "Agent"),
        user(UNPAID, "Supervisor") + "features = ['api-voice']\n",
        user(VOICELESS, "Supervisor") + "features = ['api-supervisor-monitoring']\n",
        "[audit]\nrefused_per_user = 10000\nrefused_per_address = 10000\n".to_owned(),
        "[[group]]\nid = 'second'\nagents = ['agent']\n\
         supervisors = ['rival', 'unpaid', 'voiceless']\n\
         [[group]]\nid = 'other'\nagents = ['outsider']\nsupervisors = ['foreign']\n"
            .to_owned(),
    ];
    people.concat()
}

/// statusCode, and the HTTP status that goes with it.
fn http(code: u8) -> u16 {
    match code {
        1 | 10 => 400,
        2 | 19 => 409,
        3 | 5 => 403,
        4 => 500,
        6 => 404,
        other => panic!("no row of the table: {other}"),
    }
}

const MONITORING: [&str; 9] = [
    "Coach",
    "ListenIn",
    "BargeIn",
    "CancelSupervisorMonitoring",
    "SwitchToCoach",
    "SwitchToListenIn",
    "SwitchToBargeIn",
    "MuteMonitoredUser",
    "UnmuteMonitoredUser",
];

/// Whether a line in the audit says so.
#[derive(Clone, Copy, PartialEq)]
enum Audited {
    Yes,
    No,
}

struct Fixture {
    server: Server,
    audience: Audience,
    customer: Phone,
    agent: Phone,
    supervisor: Phone,
    _colleague: Phone,
    /// What everybody sees.
    views: Vec<Value>,
}

impl Fixture {
    async fn open() -> Fixture {
        let server = Server::configured(&more_people()).await;
        let ringing = |account, hz| phone(account, server.sip, hz, AnswerPolicy::ByHeader);
        let mut fixture = Fixture {
            customer: ringing(CUSTOMER, 437.0).await,
            agent: ringing(AGENT, 613.0).await,
            supervisor: ringing(SUPERVISOR, 877.0).await,
            _colleague: ringing(COLLEAGUE, 743.0).await,
            audience: Audience::open(server.rest, &ALL).await,
            server,
            views: Vec::new(),
        };
        fixture.look().await;
        fixture
    }

    async fn seen(&self) -> Vec<Value> {
        let mut views = Vec::new();
        for account in ALL {
            views.push(self.audience.view(account).await);
        }
        views
    }

    /// Something has happened that was meant to.
    async fn look(&mut self) {
        self.audience.catch_up().await;
        for desktop in &mut self.audience.desktops {
            desktop.take();
        }
        self.views = self.seen().await;
    }

    /// Waits for this in a message to the user.
    async fn until(&mut self, account: Account, data: Value) {
        self.audience.of(account).until(&data).await;
        self.look().await;
    }

    /// Nobody has been told anything.
    async fn nobody_was_told(&mut self) {
        self.audience.catch_up().await;
        for account in ALL {
            assert_eq!(self.audience.of(account).take(), [] as [Value; 0], "{}", account.user);
        }
    }

    /// The id of the user's only call.
    async fn call_of(&self, account: Account) -> String {
        let view = self.audience.view(account).await;
        let calls = view["user"]["calls"].as_array().unwrap();
        assert_eq!(calls.len(), 1, "{calls:?}");
        calls[0]["id"].as_str().unwrap().to_owned()
    }

    async fn refused(
        &self,
        who: Account,
        path: &str,
        body: &Value,
        code: u8,
        says: &str,
        audited: Audited,
    ) {
        let before = self.server.audit().len();
        let (status, _, reply) = self.server.client(who).ask(path, body).await;
        let status = status.as_u16();
        let row = format!("{} at {path}: {body} is answered {status} {reply}", who.user);
        assert_eq!((status, &reply["statusCode"]), (http(code), &json!(code)), "{row}");
        let message = reply["statusMessage"].as_str().unwrap_or_default();
        assert!(message.contains(says) && !message.is_empty(), "it does not say '{says}': {row}");
        assert_eq!(reply.as_object().unwrap().len(), 2, "{row}");
        for ((account, before), after) in ALL.into_iter().zip(&self.views).zip(self.seen().await) {
            assert_eq!(after, *before, "{}: {row}", account.user);
        }
        let written = |line: &Value| {
            line["event"] == "refused"
                && line["user"] == who.user
                && line["operation"] == body["operationName"]
                && line["refused"].is_string()
                && line["message"].is_string()
                && line["from"].is_string()
        };
        match audited {
            Audited::No => {}
            Audited::Yes => {
                let is_there = || self.server.audit()[before..].iter().any(written);
                let in_time = wait::found(PATIENCE, async || is_there().then_some(())).await;
                assert!(
                    in_time.is_some(),
                    "not in the audit: {row}: {:?}",
                    &self.server.audit()[before..]
                );
            }
        }
    }

    /// Every operation on this call that is not allowed in the leg's state: refused, and not
    /// offered.
    async fn in_state(&mut self, state: &str, who: Account, call: &str) {
        let view = self.audience.view(who).await;
        let mut calls = view["user"]["calls"].as_array().unwrap().iter();
        let leg = calls.find(|leg| leg["id"] == call).cloned().unwrap_or_default();
        let offers = |operation: &str| {
            leg["capabilities"]
                .as_array()
                .is_some_and(|words| words.iter().any(|word| word == operation))
        };
        let column = STATES.iter().position(|known| *known == state).unwrap();
        for (operation, codes) in TABLE {
            let code = match codes.split_whitespace().nth(column).unwrap() {
                "." => continue,
                code => code.parse().unwrap(),
            };
            // What it names is wrong there, not the state.
            let names_no_call = operation == "SwapCalls" && !leg.is_null() && code == 6;
            assert!(
                names_no_call || !offers(operation),
                "{operation} is offered, when {state}: {leg}"
            );
            let says = match code {
                3 => operation,
                6 if names_no_call => NO_CALL,
                6 => call,
                _ => "",
            };
            // What only the backend knows is no news to the audit, unless it is about monitoring.
            let is_audited = MONITORING.contains(&operation) || code == 6;
            let audited = if is_audited { Audited::Yes } else { Audited::No };
            self.refused(
                who,
                &format!("/me/calls/{call}"),
                &with_parameters(operation),
                code,
                says,
                audited,
            )
            .await;
        }
        self.nobody_was_told().await;
    }
}

fn with_parameters(operation: &str) -> Value {
    let mut body = json!({"operationName": operation});
    match operation {
        "SendDtmf" => body["digits"] = json!("1"),
        "SingleStepTransfer"
        | "InitiateTransfer"
        | "SingleStepConference"
        | "InitiateConference" => {
            body["destination"] = json!({"phoneNumber": OUTSIDER.number});
        }
        "RemoveParticipantFromConference" => body["participant"] = json!(CUSTOMER.number),
        "Redirect" => body["destination"] = json!({"phoneNumber": OUTSIDER.number}),
        "SwapCalls" => body["otherCallUri"] = json!(format!("/api/v2/me/calls/{NO_CALL}")),
        "AttachUserData" | "UpdateUserData" => body["userData"] = json!({"AccountNumber": "12345"}),
        "DeleteUserDataPair" => body["key"] = json!("AccountNumber"),
        _ => {}
    }
    body
}

/// A call that there is not.
const NO_CALL: &str = "no-such-call";

/// The state of the user's leg.
const STATES: [&str; 14] = [
    "there is no such call",
    "it rings",
    "he dials",
    "he talks",
    "he holds",
    "he holds and asks a colleague",
    "he is asked",
    "he owns a conference",
    "he is in a conference of another",
    "he supervises",
    "his phone is called to supervise",
    "it is somebody else's, and he is an agent",
    "it is somebody else's, and he is a supervisor",
    "he has left it",
];

/// statusCodes in the order of the states; `.` is accepted.
pub(crate) const TABLE: [(&str, &str); 28] = [
    ("Answer", "6 . 2 2 2 2 2 2 2 2 . 6 6 6"),
    ("Hangup", "6 . . . . . . . . . . 6 6 6"),
    ("ClearCall", "6 . . . . . . . 5 3 3 6 6 6"),
    ("Reject", "6 . 2 2 2 2 2 2 2 3 3 6 6 6"),
    ("Redirect", "6 . 2 2 2 2 2 2 2 3 3 6 6 6"),
    ("SwapCalls", "6 6 6 6 6 6 6 6 6 3 3 6 6 6"),
    ("AttachUserData", "6 . . . . . . . . 3 3 6 6 6"),
    ("UpdateUserData", "6 . . . . . . . . 3 3 6 6 6"),
    ("DeleteUserDataPair", "6 . . . . . . . . 3 3 6 6 6"),
    ("DeleteUserData", "6 . . . . . . . . 3 3 6 6 6"),
    ("Hold", "6 2 2 . 2 2 . . . 3 3 6 6 6"),
    ("Retrieve", "6 2 2 2 . . 2 2 2 3 3 6 6 6"),
    ("MuteCall", "6 2 2 . . . . . . 3 3 6 6 6"),
    ("UnmuteCall", "6 2 2 2 2 2 2 2 2 3 3 6 6 6"),
    ("SendDtmf", "6 2 2 . . . . . . 3 3 6 6 6"),
    ("SingleStepTransfer", "6 2 2 . . . . 2 2 3 3 6 6 6"),
    ("InitiateTransfer", "6 2 2 . . 2 . . . 3 3 6 6 6"),
    ("CompleteTransfer", "6 2 2 2 2 . 2 2 2 3 3 6 6 6"),
    ("SingleStepConference", "6 2 2 . . . . . . 3 3 6 6 6"),
    ("InitiateConference", "6 2 2 . . 2 . . . 3 3 6 6 6"),
    ("CompleteConference", "6 2 2 2 2 . 2 2 2 3 3 6 6 6"),
    ("RemoveParticipantFromConference", "6 2 2 2 2 2 2 . 5 2 2 6 6 6"),
    ("MuteMonitoredUser", "5 5 5 5 5 5 5 5 5 . 2 5 6 5"),
    ("UnmuteMonitoredUser", "5 5 5 5 5 5 5 5 5 2 2 5 6 5"),
    ("SwitchToListenIn", "5 5 5 5 5 5 5 5 5 . 2 5 6 5"),
    ("SwitchToCoach", "5 5 5 5 5 5 5 5 5 . 2 5 6 5"),
    ("SwitchToBargeIn", "5 5 5 5 5 5 5 5 5 . 2 5 6 5"),
    ("Dance", "3 3 3 3 3 3 3 3 3 3 3 3 3 3"),
];

fn of(account: Account) -> String {
    format!("/me/devices/{}", account.device)
}

fn coach(target: Account) -> Value {
    json!({
        "operationName": "Coach",
        "targetDeviceUri": format!("http://any.where/api/v2/devices/{}", target.device),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_on_a_call_is_refused_where_its_state_does_not_allow_it() {
    let mut fixture = Fixture::open().await;
    fixture.in_state("there is no such call", AGENT, NO_CALL).await;

    fixture.customer.call(AGENT.number).await.unwrap();
    fixture.until(AGENT, json!({"call": {"state": "Ringing"}})).await;
    let call = fixture.call_of(AGENT).await;
    let path = format!("/me/calls/{call}");
    fixture.in_state("it rings", AGENT, &call).await;
    fixture.in_state("it is somebody else's, and he is an agent", COLLEAGUE, &call).await;

    fixture.agent.answer().await.unwrap();
    fixture.until(AGENT, json!({"call": {"state": "Established"}})).await;
    fixture.in_state("he talks", AGENT, &call).await;
    fixture.in_state("it is somebody else's, and he is an agent", COLLEAGUE, &call).await;
    for (who, operation) in
        [(SUPERVISOR, "Hangup"), (RIVAL, "SwitchToBargeIn"), (FOREIGN, "MuteMonitoredUser")]
    {
        fixture
            .refused(who, &path, &json!({"operationName": operation}), 6, &call, Audited::Yes)
            .await;
    }

    fixture.server.post(AGENT, &path, json!({"operationName": "Hold"})).await;
    fixture.until(AGENT, json!({"call": {"state": "Held"}})).await;
    fixture.in_state("he holds", AGENT, &call).await;
    fixture.server.post(AGENT, &path, json!({"operationName": "Retrieve"})).await;
    fixture.until(AGENT, json!({"call": {"state": "Established"}})).await;
    fixture.server.post(AGENT, &path, json!({"operationName": "MuteCall"})).await;
    fixture.until(AGENT, json!({"call": {"mute": "On"}})).await;
    fixture
        .refused(AGENT, &path, &json!({"operationName": "MuteCall"}), 2, "muted", Audited::No)
        .await;
    fixture.server.post(AGENT, &path, json!({"operationName": "UnmuteCall"})).await;
    fixture.until(AGENT, json!({"call": {"mute": "Off"}})).await;

    fixture.supervisor.set_answer(AnswerPolicy::Never).await.unwrap();
    fixture.server.post(SUPERVISOR, &of(SUPERVISOR), coach(AGENT)).await;
    fixture.until(SUPERVISOR, json!({"call": {"state": "Ringing"}})).await;
    fixture.in_state("his phone is called to supervise", SUPERVISOR, &call).await;
    fixture
        .server
        .post(SUPERVISOR, &of(SUPERVISOR), json!({"operationName": "CancelSupervisorMonitoring"}))
        .await;
    fixture.until(SUPERVISOR, json!({"call": {"state": "Released"}})).await;
    fixture.in_state("it is somebody else's, and he is a supervisor", SUPERVISOR, &call).await;

    fixture.supervisor.set_answer(AnswerPolicy::ByHeader).await.unwrap();
    fixture.server.post(SUPERVISOR, &of(SUPERVISOR), coach(AGENT)).await;
    fixture.until(SUPERVISOR, json!({"call": {"state": "Established"}})).await;
    fixture.in_state("he supervises", SUPERVISOR, &call).await;
    fixture.in_state("he talks", AGENT, &call).await;
    fixture.refused(RIVAL, &of(RIVAL), &coach(AGENT), 19, "monitor", Audited::Yes).await;
    let cancel = json!({"operationName": "CancelSupervisorMonitoring"});
    fixture.refused(RIVAL, &of(RIVAL), &cancel, 2, "monitor", Audited::Yes).await;
    fixture
        .refused(RIVAL, &path, &json!({"operationName": "SwitchToBargeIn"}), 6, &call, Audited::Yes)
        .await;

    let line = phone(AGENT, fixture.server.sip, 613.0, AnswerPolicy::ByHeader).await;
    let ask = json!({
        "operationName": "InitiateTransfer", "destination": {"phoneNumber": COLLEAGUE.number},
    });
    fixture.server.post(AGENT, &path, ask).await;
    fixture.until(COLLEAGUE, json!({"call": {"state": "Ringing"}})).await;
    let second = fixture.call_of(COLLEAGUE).await;
    fixture.in_state("it rings", COLLEAGUE, &second).await;
    fixture
        .server
        .post(COLLEAGUE, &format!("/me/calls/{second}"), json!({"operationName": "Answer"}))
        .await;
    fixture.until(COLLEAGUE, json!({"call": {"state": "Established"}})).await;
    fixture.in_state("he holds and asks a colleague", AGENT, &call).await;
    fixture.in_state("he is asked", COLLEAGUE, &second).await;

    fixture.server.post(AGENT, &path, json!({"operationName": "CompleteConference"})).await;
    fixture.until(COLLEAGUE, json!({"call": {"id": call, "state": "Established"}})).await;
    fixture.in_state("he owns a conference", AGENT, &call).await;
    fixture.in_state("he is in a conference of another", COLLEAGUE, &call).await;
    fixture.in_state("he has left it", COLLEAGUE, &second).await;
    let remove = |participant: &str| {
        json!({
            "operationName": "RemoveParticipantFromConference", "participant": participant,
        })
    };
    fixture.refused(AGENT, &path, &remove(RIVAL.number), 6, RIVAL.number, Audited::No).await;

    fixture.server.post(AGENT, &path, remove(COLLEAGUE.number)).await;
    fixture.until(COLLEAGUE, json!({"call": {"id": call, "state": "Released"}})).await;
    fixture.in_state("he has left it", COLLEAGUE, &call).await;
    fixture.server.post(AGENT, &path, json!({"operationName": "Hangup"})).await;
    fixture.until(SUPERVISOR, json!({"call": {"state": "Released"}})).await;
    fixture.in_state("he has left it", AGENT, &call).await;
    line.ended(PATIENCE).await.unwrap();

    let dial = json!({"operationName": "Dial", "destination": {"phoneNumber": CUSTOMER.number}});
    fixture.server.post(AGENT, &format!("{}/calls", of(AGENT)), dial).await;
    fixture
        .until(
            AGENT,
            json!({
                "call": {"state": "Dialing", "participants": [{"phoneNumber": CUSTOMER.number}]},
            }),
        )
        .await;
    let call = fixture.call_of(AGENT).await;
    fixture.in_state("he dials", AGENT, &call).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_and_what_can_not_be_is_refused_by_name() {
    let mut fixture = Fixture::open().await;
    let name = |operation: &str| json!({"operationName": operation});
    let number =
        |operation: &str, number: &str| json!({"operationName": operation, "phoneNumber": number});
    let forward = |to: Value| json!({"operationName": "ForwardCallsOn", "destination": to});
    let dial = |to: Value| json!({"operationName": "Dial", "destination": to});
    let with = |field: &str, value: Value| {
        let mut body = coach(AGENT);
        body[field] = value;
        body
    };
    let [agents, supervisors] = [AGENT, SUPERVISOR].map(|account| format!("{}/calls", of(account)));
    let unknown = "/me/devices/no-such-device";
    let nowhere = json!({
        "operationName": "Coach", "targetDeviceUri": "http://h/api/v2/devices/no-such-device",
    });
    use Audited::{No, Yes};
    #[rustfmt::skip]
    let rows = [
        // Who may not monitor.
        (AGENT, of(AGENT), coach(COLLEAGUE), 5, "supervisor", Yes),
        (AGENT, of(AGENT), name("CancelSupervisorMonitoring"), 5, "supervisor", Yes),
        (UNPAID, of(UNPAID), coach(AGENT), 5, "api-supervisor-monitoring", Yes),
        (
            UNPAID,
            of(UNPAID),
            name("CancelSupervisorMonitoring"),
            5,
            "api-supervisor-monitoring",
            Yes,
        ),
        (VOICELESS, of(VOICELESS), coach(AGENT), 5, "api-voice", Yes),
        (FOREIGN, of(FOREIGN), coach(AGENT), 5, "groups", Yes),
        (FOREIGN, of(FOREIGN), number("ListenIn", AGENT.number), 5, AGENT.number, Yes),
        (SUPERVISOR, of(SUPERVISOR), coach(OUTSIDER), 5, "groups", Yes),
        (SUPERVISOR, of(SUPERVISOR), coach(SUPERVISOR), 5, "himself", Yes),
        (SUPERVISOR, of(SUPERVISOR), coach(RIVAL), 5, "groups", Yes),
        (SUPERVISOR, of(SUPERVISOR), coach(CUSTOMER), 6, CUSTOMER.device, Yes),
        // Whose device it is not.
        (SUPERVISOR, of(AGENT), coach(COLLEAGUE), 5, AGENT.number, Yes),
        (SUPERVISOR, of(RIVAL), coach(AGENT), 6, RIVAL.device, Yes),
        (SUPERVISOR, of(RIVAL), name("CancelSupervisorMonitoring"), 6, RIVAL.device, Yes),
        (SUPERVISOR, unknown.to_owned(), coach(AGENT), 6, "no-such-device", Yes),
        (SUPERVISOR, of(AGENT), name("DoNotDisturbOn"), 5, AGENT.number, Yes),
        (AGENT, of(SUPERVISOR), name("DoNotDisturbOff"), 6, SUPERVISOR.device, Yes),
        (AGENT, of(COLLEAGUE), forward(json!("5001")), 6, COLLEAGUE.device, Yes),
        (AGENT, unknown.to_owned(), name("ForwardCallsOff"), 6, "no-such-device", Yes),
        (AGENT, supervisors, dial(json!({"phoneNumber": "7001"})), 6, SUPERVISOR.device, Yes),
        (VOICELESS, of(VOICELESS), name("DoNotDisturbOn"), 5, "api-voice", Yes),
        (VOICELESS, of(VOICELESS), forward(json!("5001")), 5, "api-voice", Yes),
        (
            VOICELESS,
            format!("{}/calls", of(VOICELESS)),
            dial(json!({"phoneNumber": "5001"})),
            5,
            "api-voice",
            Yes,
        ),
        (
            VOICELESS,
            "/me".to_owned(),
            json!({"operationName": "StartContactCenterSession", "channels": ["voice"]}),
            5,
            "api-voice",
            Yes,
        ),
        (VOICELESS, "/me/channels/voice".to_owned(), name("Ready"), 5, "api-voice", Yes),
        // The target.
        (SUPERVISOR, of(SUPERVISOR), nowhere, 6, "no-such-device", Yes),
        (SUPERVISOR, of(SUPERVISOR), number("BargeIn", "9999"), 6, "9999", Yes),
        (
            SUPERVISOR,
            of(SUPERVISOR),
            with("phoneNumber", json!(COLLEAGUE.number)),
            10,
            "phoneNumber",
            Yes,
        ),
        (SUPERVISOR, of(SUPERVISOR), name("Coach"), 1, "targetDeviceUri", Yes),
        (SUPERVISOR, of(SUPERVISOR), name("ListenIn"), 1, "targetDeviceUri", Yes),
        (SUPERVISOR, of(SUPERVISOR), name("BargeIn"), 1, "targetDeviceUri", Yes),
        (
            SUPERVISOR,
            of(SUPERVISOR),
            with("targetDeviceUri", json!("somewhere")),
            10,
            "targetDeviceUri",
            Yes,
        ),
        (SUPERVISOR, of(SUPERVISOR), with("targetDeviceUri", json!(7)), 10, "targetDeviceUri", Yes),
        (SUPERVISOR, of(SUPERVISOR), with("phoneNumber", json!(["5001"])), 10, "phoneNumber", Yes),
        (
            SUPERVISOR,
            of(SUPERVISOR),
            with("supervisorMonitoringScope", json!("agent")),
            10,
            "supervisorMonitoringScope",
            Yes,
        ),
        (
            SUPERVISOR,
            of(SUPERVISOR),
            with("supervisorMonitoringScope", json!(1)),
            10,
            "supervisorMonitoringScope",
            Yes,
        ),
        (
            SUPERVISOR,
            of(SUPERVISOR),
            with("supervisorMonitoringMode", json!("nextCall")),
            10,
            "supervisorMonitoringMode",
            Yes,
        ),
        (
            SUPERVISOR,
            of(SUPERVISOR),
            with("supervisorMonitoringMode", json!({})),
            10,
            "supervisorMonitoringMode",
            Yes,
        ),
        (AGENT, of(AGENT), name("Coach"), 5, "supervisor", Yes),
        (SUPERVISOR, of(RIVAL), name("Coach"), 6, RIVAL.device, Yes),
        // What there is not.
        (SUPERVISOR, of(SUPERVISOR), name("CancelSupervisorMonitoring"), 2, "monitor", Yes),
        (SUPERVISOR, of(SUPERVISOR), name("SwitchToBargeIn"), 3, "SwitchToBargeIn", No),
        (SUPERVISOR, of(SUPERVISOR), name("coach"), 3, "coach", No),
        (SUPERVISOR, of(SUPERVISOR), json!({}), 1, "operationName", No),
        (SUPERVISOR, of(SUPERVISOR), json!({"operationName": null}), 1, "operationName", No),
        (SUPERVISOR, of(SUPERVISOR), json!({"operationName": 1}), 10, "operationName", No),
        (SUPERVISOR, of(SUPERVISOR), json!([coach(AGENT)]), 10, "object", No),
        (AGENT, agents.clone(), name("Coach"), 3, "Coach", No),
        (AGENT, "/me".to_owned(), name("DoNotDisturbOn"), 3, "DoNotDisturbOn", No),
        (
            AGENT,
            "/me/channels/voice".to_owned(),
            name("StartContactCenterSession"),
            3,
            "StartContactCenterSession",
            No,
        ),
        (AGENT, "/me/channels/voice".to_owned(), name("ready"), 3, "ready", No),
        (AGENT, "/me".to_owned(), name("StartContactCenterSession"), 1, "channels", No),
        (
            AGENT,
            "/me".to_owned(),
            json!({"operationName": "StartContactCenterSession", "channels": []}),
            10,
            "channels",
            No,
        ),
        (
            AGENT,
            "/me".to_owned(),
            json!({"operationName": "StartContactCenterSession", "channels": "voice"}),
            10,
            "channels",
            No,
        ),
        (
            AGENT,
            "/me".to_owned(),
            json!({"operationName": "EndContactCenterSession", "channels": [1]}),
            10,
            "channels",
            No,
        ),
        // Where calls could go.
        (AGENT, of(AGENT), name("ForwardCallsOn"), 1, "destination", No),
        (AGENT, of(AGENT), forward(json!({"phoneNumber": "5002"})), 10, "destination", No),
        (AGENT, of(AGENT), forward(json!("sip:5002@evil")), 10, "destination", No),
        (AGENT, of(AGENT), forward(json!("")), 10, "destination", No),
        (AGENT, of(AGENT), forward(json!(AGENT.number)), 10, "itself", No),
        (AGENT, agents.clone(), name("Dial"), 1, "destination", No),
        (AGENT, agents.clone(), dial(json!("7001")), 10, "destination", No),
        (AGENT, agents.clone(), dial(json!({})), 1, "destination.phoneNumber", No),
        (
            AGENT,
            agents.clone(),
            dial(json!({"phoneNumber": 7001})),
            10,
            "destination.phoneNumber",
            No,
        ),
        (
            AGENT,
            agents.clone(),
            dial(json!({"phoneNumber": "sip:7001@evil"})),
            10,
            "destination.phoneNumber",
            No,
        ),
        (AGENT, agents.clone(), dial(json!({"phoneNumber": "9999"})), 6, "9999", No),
        (
            OUTSIDER,
            format!("{}/calls", of(OUTSIDER)),
            dial(json!({"phoneNumber": "7001"})),
            4,
            "Device '5003' is not registered.",
            No,
        ),
    ];
    for (who, path, body, code, says, audited) in rows {
        fixture.refused(who, &path, &body, code, says, audited).await;
    }
    fixture.nobody_was_told().await;

    fixture.customer.call(AGENT.number).await.unwrap();
    fixture.until(AGENT, json!({"call": {"state": "Ringing"}})).await;
    fixture.agent.answer().await.unwrap();
    fixture.until(AGENT, json!({"call": {"state": "Established"}})).await;
    let call = format!("/me/calls/{}", fixture.call_of(AGENT).await);
    let with = |operation: &str, field: &str, value: Value| {
        json!({
            "operationName": operation, field: value,
        })
    };
    for operation in
        ["SingleStepTransfer", "InitiateTransfer", "SingleStepConference", "InitiateConference"]
    {
        for (value, code, says) in [
            (json!(null), 1, "destination"),
            (json!("5002"), 10, "destination"),
            (json!({}), 1, "destination"),
            (json!({"phoneNumber": null}), 1, "destination"),
            (json!({"phoneNumber": 5002}), 10, "destination.phoneNumber"),
            (json!({"phoneNumber": "sip:5002@evil"}), 10, "destination.phoneNumber"),
            (json!({"phoneNumber": "9999"}), 6, "9999"),
        ] {
            fixture
                .refused(AGENT, &call, &with(operation, "destination", value), code, says, No)
                .await;
        }
    }
    for (value, code) in [
        (json!(null), 1),
        (json!(5), 10),
        (json!(""), 10),
        (json!("12x"), 10),
        (json!("1".repeat(65)), 10),
    ] {
        fixture.refused(AGENT, &call, &with("SendDtmf", "digits", value), code, "digits", No).await;
    }
    for (value, code) in [
        (json!(null), 1),
        (json!(5), 10),
        (json!({}), 1),
        (json!([]), 10),
        (json!("sip:7001@evil"), 10),
    ] {
        let body = with("RemoveParticipantFromConference", "participant", value);
        fixture.refused(AGENT, &call, &body, code, "participant", No).await;
    }
    let many: serde_json::Map<_, _> =
        (0..401).map(|key| (key.to_string(), json!("value"))).collect();
    for operation in ["AttachUserData", "UpdateUserData"] {
        for (value, code, says) in [
            (json!(null), 1, "userData"),
            (json!("a=1"), 10, "userData"),
            (json!(["a"]), 10, "userData"),
            (json!({"a": null}), 10, "userData.a"),
            (json!({"a": {"b": "c"}}), 10, "userData.a"),
            (json!({"": "c"}), 10, "userData"),
            (json!({"a\r\nb": "c"}), 10, "userData"),
            (json!({"a": "x".repeat(65_536)}), 10, "65536"),
            (Value::Object(many.clone()), 10, "400"),
        ] {
            fixture
                .refused(AGENT, &call, &with(operation, "userData", value), code, says, No)
                .await;
        }
    }
    for (value, code) in [(json!(null), 1), (json!(5), 10), (json!(""), 10)] {
        let body = with("DeleteUserDataPair", "key", value);
        fixture.refused(AGENT, &call, &body, code, "key", No).await;
    }
    for (value, code, says) in [
        (json!(null), 1, "otherCallUri"),
        (json!(5), 10, "otherCallUri"),
        (json!("sip:x@y"), 10, "otherCallUri"),
        (json!(format!("/api/v2/me{}", call.trim_start_matches("/me"))), 10, "otherCallUri"),
    ] {
        let body = with("SwapCalls", "otherCallUri", value);
        fixture.refused(AGENT, &call, &body, code, says, No).await;
    }
    let other_device = json!(format!("/api/v2/devices/{}", AGENT.device));
    let body = with("SwapCalls", "otherCallUri", other_device);
    fixture.refused(AGENT, &call, &body, 6, "devices", No).await;
    let too_much = json!({
        "operationName": "SingleStepTransfer",
        "destination": {"phoneNumber": COLLEAGUE.number},
        "userData": {"a": "x".repeat(65_536)},
    });
    fixture.refused(AGENT, &call, &too_much, 10, "userData", No).await;
    let dialled = json!({
        "operationName": "Dial", "destination": {"phoneNumber": "7001"}, "userData": {"a": []},
    });
    fixture.refused(AGENT, &agents, &dialled, 10, "userData.a", No).await;
    let chat = json!({"operationName": "StartContactCenterSession", "channels": ["chat"]});
    let (status, _, reply) = fixture.server.client(AGENT).ask("/me", &chat).await;
    assert_eq!((status.as_u16(), &reply["statusCode"]), (200, &json!(7)), "{reply}");
    for (field, value) in [
        ("reason", json!(5)),
        ("reason", json!("x".repeat(256))),
        ("reason", json!("a\nb")),
        ("reason", json!("\u{202e}hcnuL")),
        ("workMode", json!(1)),
    ] {
        let body = with("NotReady", field, value);
        fixture.refused(AGENT, "/me/channels/voice", &body, 10, field, No).await;
    }
    fixture.nobody_was_told().await;
}
