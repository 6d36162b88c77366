//! Every message to every party at each step, as the API words them: a golden transcript for each
//! scenario, in `tests/data/golden`.

mod api;
mod story;
mod uris;

use crate::support::server::{AGENT, Account, COLLEAGUE, CUSTOMER, SUPERVISOR};
use crate::support::talk::PATIENCE;
use serde_json::{Value, json};
use story::Story;
use undertone::demo::phone::{AnswerPolicy, Phone, PhoneEvent};

fn operation(name: &str) -> Value {
    json!({"operationName": name})
}

fn to(name: &str, number: &str) -> Value {
    json!({"operationName": name, "destination": {"phoneNumber": number}})
}

fn coach(scope: &str, mode: &str) -> Value {
    monitor("Coach", scope, mode)
}

fn monitor(activity: &str, scope: &str, mode: &str) -> Value {
    json!({
        "operationName": activity,
        "targetDeviceUri": format!("http://localhost:8080/api/v2/devices/{}", AGENT.device),
        "supervisorMonitoringScope": scope,
        "supervisorMonitoringMode": mode,
    })
}

/// A leg in this state.
fn leg(state: &str) -> Value {
    json!({"call": {"state": state}})
}

/// A leg that is coached, or from which somebody coaches.
fn monitored(activity: &str) -> Value {
    json!({"call": {"state": "Established", "supervisorMonitoringState": {"state": activity}}})
}

impl Story {
    /// The customer calls the agent, who answers at the desktop; `number`: the how-manieth call it
    /// is.
    async fn talk(&mut self, number: usize) {
        self.customer.call(AGENT.number).await.unwrap();
        self.told("the customer calls", &[(AGENT, leg("Ringing"))]).await;
        self.call(AGENT, number, operation("Answer")).await;
        self.told("the agent answers", &[(AGENT, leg("Established"))]).await;
    }

    /// The same, with an armed supervisor who then is on the call.
    async fn monitored_talk(&mut self, number: usize, activity: &str) {
        self.customer.call(AGENT.number).await.unwrap();
        self.told("the customer calls", &[(AGENT, leg("Ringing"))]).await;
        self.call(AGENT, number, operation("Answer")).await;
        let both = [(AGENT, monitored(activity)), (SUPERVISOR, monitored(activity))];
        self.told("the agent answers and is monitored", &both).await;
    }

    async fn customer_hangs_up(&mut self, until: &[(Account, Value)]) {
        self.customer.hang_up().await.unwrap();
        self.told("the customer hangs up", until).await;
    }
}

/// The agent is coached on the first call.
async fn coached(name: &'static str, scope: &str) -> Story {
    let mut story = Story::begin(name).await;
    story.device(SUPERVISOR, coach(scope, "AllCalls")).await;
    story.told("the supervisor asks to coach", &[]).await;
    story.monitored_talk(1, "Coach").await;
    story
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coach_changes_what_he_does_and_cancels() {
    let mut story = coached("a_coach_changes_what_he_does_and_cancels", "Call").await;
    for (name, activity) in [
        ("SwitchToBargeIn", "BargeIn"),
        ("SwitchToListenIn", "ListenIn"),
        ("SwitchToCoach", "Coach"),
    ] {
        story.call(SUPERVISOR, 1, operation(name)).await;
        let both = [(AGENT, monitored(activity)), (SUPERVISOR, monitored(activity))];
        story.told(name, &both).await;
    }
    for (name, muted) in [("MuteMonitoredUser", true), ("UnmuteMonitoredUser", false)] {
        story.call(SUPERVISOR, 1, operation(name)).await;
        let told = json!({"call": {"monitoredUserMuted": muted}});
        story.told(name, &[(AGENT, told.clone()), (SUPERVISOR, told)]).await;
    }
    story.device(SUPERVISOR, operation("CancelSupervisorMonitoring")).await;
    story.told("the supervisor cancels", &[(SUPERVISOR, leg("Released"))]).await;
    story.customer_hangs_up(&[(AGENT, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_of_the_next_call_is_gone_with_it() {
    let mut story = Story::begin("a_monitor_of_the_next_call_is_gone_with_it").await;
    story.device(SUPERVISOR, coach("Agent", "NextCall")).await;
    story.told("the supervisor asks to coach the next call", &[]).await;
    story.monitored_talk(1, "Coach").await;
    story.customer_hangs_up(&[(AGENT, leg("Released")), (SUPERVISOR, leg("Released"))]).await;
    story.talk(2).await;
    story.customer_hangs_up(&[(AGENT, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_whose_phone_is_busy_is_told() {
    let mut story = Story::begin("a_supervisor_whose_phone_is_busy_is_told").await;
    story.supervisor.set_answer(AnswerPolicy::Busy).await.unwrap();
    story.device(SUPERVISOR, coach("Call", "AllCalls")).await;
    story.told("the supervisor asks to coach", &[]).await;
    story.customer.call(AGENT.number).await.unwrap();
    story.told("the customer calls", &[(AGENT, leg("Ringing"))]).await;
    story.call(AGENT, 1, operation("Answer")).await;
    let error = json!({"messageType": "ErrorMessage"});
    story
        .told("the agent answers, and the supervisor's phone is busy", &[(SUPERVISOR, error)])
        .await;
    story.customer_hangs_up(&[(AGENT, leg("Released"))]).await;
    story.supervisor.set_answer(AnswerPolicy::ByHeader).await.unwrap();
    story.monitored_talk(2, "Coach").await;
    story.customer_hangs_up(&[(AGENT, leg("Released")), (SUPERVISOR, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_who_hangs_up_is_there_again_at_the_next_call() {
    let mut story = Story::begin("a_supervisor_who_hangs_up_is_there_again_at_the_next_call").await;
    story.talk(1).await;
    story.device(SUPERVISOR, coach("Call", "AllCalls")).await;
    let both = [(AGENT, monitored("Coach")), (SUPERVISOR, monitored("Coach"))];
    story.told("the supervisor asks to coach a call that goes on", &both).await;
    story.call(SUPERVISOR, 1, operation("Hangup")).await;
    story.told("the supervisor hangs up", &[(SUPERVISOR, leg("Released"))]).await;
    story.customer_hangs_up(&[(AGENT, leg("Released"))]).await;
    story.monitored_talk(2, "Coach").await;
    story.supervisor.hang_up().await.unwrap();
    story.told("the supervisor hangs up at his phone", &[(SUPERVISOR, leg("Released"))]).await;
    story.call(AGENT, 2, operation("Hangup")).await;
    story.told("the agent hangs up", &[(AGENT, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_again_changes_the_monitor_or_its_target() {
    let mut story = Story::begin("asking_again_changes_the_monitor_or_its_target").await;
    story.device(SUPERVISOR, coach("Call", "AllCalls")).await;
    story.told("the supervisor asks to coach", &[]).await;
    story.device(SUPERVISOR, coach("Call", "AllCalls")).await;
    story.told("the same again is no news", &[]).await;
    story.device(SUPERVISOR, monitor("ListenIn", "Agent", "NextCall")).await;
    story.told("ListenIn, NextCall, scope Agent", &[]).await;
    story.monitored_talk(1, "ListenIn").await;
    story.device(SUPERVISOR, monitor("BargeIn", "Agent", "NextCall")).await;
    let both = [(AGENT, monitored("BargeIn")), (SUPERVISOR, monitored("BargeIn"))];
    story.told("BargeIn, on the call", &both).await;
    let colleague = json!({"operationName": "Coach", "phoneNumber": COLLEAGUE.number});
    story.device(SUPERVISOR, colleague).await;
    story.told("another target", &[(SUPERVISOR, leg("Released"))]).await;
    story.customer_hangs_up(&[(AGENT, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coached_agent_holds_retrieves_and_mutes() {
    let mut story = coached("a_coached_agent_holds_retrieves_and_mutes", "Call").await;
    for (name, told) in [
        ("Hold", leg("Held")),
        ("Retrieve", leg("Established")),
        ("MuteCall", json!({"call": {"mute": "On"}})),
        ("UnmuteCall", json!({"call": {"mute": "Off"}})),
    ] {
        story.call(AGENT, 1, operation(name)).await;
        story.told(name, &[(AGENT, told)]).await;
    }
    story.agent.hold().await.unwrap();
    story.told("the agent holds at his phone", &[(AGENT, leg("Held"))]).await;
    story.agent.retrieve().await.unwrap();
    story.told("the agent retrieves at his phone", &[(AGENT, leg("Established"))]).await;
    story.call(AGENT, 1, operation("Hangup")).await;
    story
        .told("the agent hangs up", &[(AGENT, leg("Released")), (SUPERVISOR, leg("Released"))])
        .await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coach_with_scope_call_follows_a_single_step_transfer() {
    let mut story = coached("a_coach_with_scope_call_follows_a_single_step_transfer", "Call").await;
    story.call(AGENT, 1, to("SingleStepTransfer", COLLEAGUE.number)).await;
    story
        .told(
            "the agent transfers to his colleague",
            &[(AGENT, leg("Released")), (COLLEAGUE, leg("Ringing"))],
        )
        .await;
    story.call(COLLEAGUE, 1, operation("Answer")).await;
    story.told("the colleague answers", &[(COLLEAGUE, monitored("Coach"))]).await;
    story.customer_hangs_up(&[(COLLEAGUE, leg("Released")), (SUPERVISOR, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coach_with_scope_agent_is_out_with_a_single_step_transfer() {
    let mut story =
        coached("a_coach_with_scope_agent_is_out_with_a_single_step_transfer", "Agent").await;
    story.call(AGENT, 1, to("SingleStepTransfer", COLLEAGUE.number)).await;
    let told =
        [(AGENT, leg("Released")), (COLLEAGUE, leg("Ringing")), (SUPERVISOR, leg("Released"))];
    story.told("the agent transfers to his colleague", &told).await;
    story.call(COLLEAGUE, 1, operation("Answer")).await;
    story.told("the colleague answers", &[(COLLEAGUE, leg("Established"))]).await;
    story.call(COLLEAGUE, 1, operation("Hangup")).await;
    story.told("the colleague hangs up", &[(COLLEAGUE, leg("Released"))]).await;
    story.end();
}

/// A coached agent has asked the colleague by a second call.
async fn consulted(name: &'static str, scope: &str, initiate: &str) -> (Story, Phone) {
    let mut story = coached(name, scope).await;
    let line = story.second_line(AGENT).await;
    story.call(AGENT, 1, to(initiate, COLLEAGUE.number)).await;
    story
        .told("the agent asks his colleague", &[(AGENT, leg("Held")), (COLLEAGUE, leg("Ringing"))])
        .await;
    story.call(COLLEAGUE, 2, operation("Answer")).await;
    let asked = json!({"call": {"state": "Established", "callType": "Consult"}});
    story.told("the colleague answers", &[(AGENT, asked), (COLLEAGUE, leg("Established"))]).await;
    (story, line)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coach_with_scope_call_follows_an_attended_transfer() {
    let name = "a_coach_with_scope_call_follows_an_attended_transfer";
    let (mut story, _line) = consulted(name, "Call", "InitiateTransfer").await;
    story.call(AGENT, 1, operation("CompleteTransfer")).await;
    story.told("the agent completes the transfer", &[(COLLEAGUE, monitored("Coach"))]).await;
    story.customer_hangs_up(&[(COLLEAGUE, leg("Released")), (SUPERVISOR, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coach_with_scope_agent_is_out_with_an_attended_transfer() {
    let name = "a_coach_with_scope_agent_is_out_with_an_attended_transfer";
    let (mut story, _line) = consulted(name, "Agent", "InitiateTransfer").await;
    story.call(AGENT, 2, operation("CompleteTransfer")).await;
    let told = [
        (COLLEAGUE, json!({"call": {"state": "Established", "callType": "Inbound"}})),
        (SUPERVISOR, leg("Released")),
    ];
    story.told("the agent completes the transfer", &told).await;
    story.customer_hangs_up(&[(COLLEAGUE, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coached_agent_makes_a_conference_and_removes_a_participant() {
    let name = "a_coached_agent_makes_a_conference_and_removes_a_participant";
    let (mut story, _line) = consulted(name, "Call", "InitiateConference").await;
    story.call(AGENT, 1, operation("CompleteConference")).await;
    let told = [
        (AGENT, monitored("Coach")),
        (COLLEAGUE, json!({"call": {"state": "Established", "callType": "Inbound"}})),
    ];
    story.told("the agent makes a conference of it", &told).await;
    story.call(SUPERVISOR, 1, operation("SwitchToBargeIn")).await;
    story
        .told(
            "SwitchToBargeIn",
            &[(AGENT, monitored("BargeIn")), (SUPERVISOR, monitored("BargeIn"))],
        )
        .await;
    let remove = json!({
        "operationName": "RemoveParticipantFromConference", "participant": COLLEAGUE.number,
    });
    story.call(AGENT, 1, remove).await;
    story.told("the agent removes his colleague", &[(COLLEAGUE, leg("Released"))]).await;
    story.customer_hangs_up(&[(AGENT, leg("Released")), (SUPERVISOR, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_removes_a_participant_of_a_conference() {
    let name = "a_supervisor_removes_a_participant_of_a_conference";
    let mut story = coached(name, "Call").await;
    story.call(AGENT, 1, to("SingleStepConference", COLLEAGUE.number)).await;
    story.told("the agent calls his colleague into the call", &[(COLLEAGUE, leg("Ringing"))]).await;
    story.call(COLLEAGUE, 1, operation("Answer")).await;
    story.told("the colleague answers", &[(COLLEAGUE, leg("Established"))]).await;
    let remove = json!({
        "operationName": "RemoveParticipantFromConference",
        "participant": {"phoneNumber": AGENT.number},
    });
    story.call(SUPERVISOR, 1, remove).await;
    story
        .told(
            "the supervisor removes the agent",
            &[(AGENT, leg("Released")), (COLLEAGUE, monitored("Coach"))],
        )
        .await;
    story.customer_hangs_up(&[(COLLEAGUE, leg("Released")), (SUPERVISOR, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn do_not_disturb_and_forwarding_show_on_the_device() {
    let mut story = Story::begin("do_not_disturb_and_forwarding_show_on_the_device").await;
    for account in [AGENT, SUPERVISOR] {
        for body in [
            operation("DoNotDisturbOn"),
            operation("DoNotDisturbOn"),
            operation("DoNotDisturbOff"),
            json!({"operationName": "ForwardCallsOn", "destination": COLLEAGUE.number}),
            operation("ForwardCallsOff"),
        ] {
            let step = format!("{}: {}", account.user, body["operationName"].as_str().unwrap());
            story.device(account, body).await;
            story.told(&step, &[]).await;
        }
    }
    let forward = json!({"operationName": "ForwardCallsOn", "destination": COLLEAGUE.number});
    story.device(AGENT, forward).await;
    story.told("the agent forwards", &[]).await;
    story.customer.call(AGENT.number).await.unwrap();
    story.told("the customer calls the agent", &[(COLLEAGUE, leg("Ringing"))]).await;
    story.customer_hangs_up(&[(COLLEAGUE, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_makes_calls_from_his_desktop() {
    let mut story = Story::begin("an_agent_makes_calls_from_his_desktop").await;
    let calls = format!("/me/devices/{}/calls", AGENT.device);
    story.server.post(AGENT, &calls, to("Dial", CUSTOMER.number)).await;
    story.told("the agent dials the customer", &[(AGENT, leg("Dialing"))]).await;
    story.customer.answer().await.unwrap();
    story.told("the customer answers", &[(AGENT, leg("Established"))]).await;
    story.call(AGENT, 1, json!({"operationName": "SendDtmf", "digits": "42#"})).await;
    story.told("the agent sends digits", &[(AGENT, json!({"notificationType": "DtmfSent"}))]).await;
    story.call(AGENT, 1, operation("Hangup")).await;
    story.told("the agent hangs up", &[(AGENT, leg("Released"))]).await;
    story.server.post(AGENT, &calls, to("Dial", COLLEAGUE.number)).await;
    story.told("the agent dials his colleague", &[(COLLEAGUE, leg("Ringing"))]).await;
    story.call(COLLEAGUE, 2, operation("Answer")).await;
    story
        .told(
            "the colleague answers",
            &[(AGENT, leg("Established")), (COLLEAGUE, leg("Established"))],
        )
        .await;
    story.call(COLLEAGUE, 2, operation("Hangup")).await;
    story
        .told("the colleague hangs up", &[(AGENT, leg("Released")), (COLLEAGUE, leg("Released"))])
        .await;
    story.server.post(AGENT, &calls, to("Dial", COLLEAGUE.number)).await;
    story.told("the agent dials his colleague again", &[(COLLEAGUE, leg("Ringing"))]).await;
    story.call(AGENT, 3, operation("Hangup")).await;
    story
        .told("the agent gives up", &[(AGENT, leg("Released")), (COLLEAGUE, leg("Released"))])
        .await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_a_call_is_told_to_everybody_on_it_and_goes_along() {
    let mut story = Story::begin("data_of_a_call_is_told_to_everybody_on_it_and_goes_along").await;
    story.device(SUPERVISOR, coach("Call", "AllCalls")).await;
    story.told("the supervisor asks to coach", &[]).await;
    let changed = json!({"notificationType": "AttachedDataChanged"});
    let data = |name: &str, data: Value| json!({"operationName": name, "userData": data});
    story.customer.call(AGENT.number).await.unwrap();
    story.told("the customer calls", &[(AGENT, leg("Ringing"))]).await;
    story.call(AGENT, 1, data("UpdateUserData", json!({"CustomerSegment": "Platinum"}))).await;
    let ringing = json!({
        "notificationType": "AttachedDataChanged",
        "call": {"state": "Ringing", "userData": {"CustomerSegment": "Platinum"}},
    });
    story.told("the agent's desktop attaches data while it rings", &[(AGENT, ringing)]).await;
    story.call(AGENT, 1, operation("Answer")).await;
    let both = [(AGENT, monitored("Coach")), (SUPERVISOR, monitored("Coach"))];
    story.told("the agent answers and is coached", &both).await;
    story.call(AGENT, 1, data("AttachUserData", json!({"AccountNumber": "12345"}))).await;
    let both = [(AGENT, changed.clone()), (SUPERVISOR, changed.clone())];
    story.told("the agent attaches more", &both).await;
    let key = json!({"operationName": "DeleteUserDataPair", "key": "CustomerSegment"});
    story.call(AGENT, 1, key).await;
    story.told("the agent deletes a key", &both).await;
    let transfer = json!({
        "operationName": "SingleStepTransfer",
        "destination": {"phoneNumber": COLLEAGUE.number},
        "userData": {"Reason": "Refund"},
    });
    story.call(AGENT, 1, transfer).await;
    let with_all = json!({"call": {
        "state": "Ringing", "userData": {"AccountNumber": "12345", "Reason": "Refund"},
    }});
    story.told("the agent transfers the call with a reason", &[(COLLEAGUE, with_all)]).await;
    story.call(COLLEAGUE, 1, operation("Answer")).await;
    story.told("the colleague answers", &[(COLLEAGUE, leg("Established"))]).await;
    story.call(COLLEAGUE, 1, operation("DeleteUserData")).await;
    story.told("the colleague deletes all data", &[(COLLEAGUE, changed)]).await;
    story.customer_hangs_up(&[(COLLEAGUE, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ringing_call_is_rejected_or_redirected_and_calls_are_swapped_and_cleared() {
    let mut story =
        Story::begin("a_ringing_call_is_rejected_or_redirected_and_calls_are_swapped_and_cleared")
            .await;
    story.customer.call(AGENT.number).await.unwrap();
    story.told("the customer calls", &[(AGENT, leg("Ringing"))]).await;
    story.call(AGENT, 1, operation("Reject")).await;
    story.told("the agent rejects the call", &[(AGENT, leg("Released"))]).await;
    let refused = |event: &PhoneEvent| *event == PhoneEvent::Refused(486);
    story.customer.until(refused, PATIENCE).await.unwrap();
    story.customer.call(AGENT.number).await.unwrap();
    story.told("the customer calls again", &[(AGENT, leg("Ringing"))]).await;
    story.call(AGENT, 2, to("Redirect", COLLEAGUE.number)).await;
    let both = [(AGENT, leg("Released")), (COLLEAGUE, leg("Ringing"))];
    story.told("the agent redirects the call", &both).await;
    story.call(COLLEAGUE, 2, operation("Answer")).await;
    story.told("the colleague answers", &[(COLLEAGUE, leg("Established"))]).await;
    story.call(COLLEAGUE, 2, operation("ClearCall")).await;
    story.told("the colleague clears the call", &[(COLLEAGUE, leg("Released"))]).await;
    story.customer.ended(PATIENCE).await.unwrap();
    story.talk(3).await;
    let _line = story.second_line(AGENT).await;
    story.call(AGENT, 3, to("InitiateTransfer", COLLEAGUE.number)).await;
    let both = [(AGENT, leg("Held")), (COLLEAGUE, leg("Ringing"))];
    story.told("the agent asks a colleague", &both).await;
    story.call(COLLEAGUE, 4, operation("Answer")).await;
    story.told("the colleague answers", &[(COLLEAGUE, leg("Established"))]).await;
    story.swap(AGENT, 3, 4).await;
    let parent_talks = json!({"call": {"state": "Established", "callType": "Inbound"}});
    story.told("the agent swaps the calls", &[(AGENT, parent_talks)]).await;
    story.call(AGENT, 4, operation("ClearCall")).await;
    story.told("the agent clears the consultation", &[(COLLEAGUE, leg("Released"))]).await;
    story.customer_hangs_up(&[(AGENT, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn why_an_agent_is_not_ready_shows_on_device_and_channel() {
    let mut story = Story::begin("why_an_agent_is_not_ready_shows_on_device_and_channel").await;
    let lunch = json!({"operationName": "NotReady", "reason": "Lunch", "workMode": "AuxWork"});
    story.server.post(AGENT, "/me/channels/voice", lunch).await;
    let shown = json!({"devices": [{"userState": {"workMode": "AuxWork", "reason": "Lunch"}}]});
    story.told("the agent goes to lunch", &[(AGENT, shown)]).await;
    story.server.post(AGENT, "/me/channels/voice", operation("Ready")).await;
    let ready = json!({"devices": [{"userState": {"state": "Ready"}}]});
    story.told("the agent is back", &[(AGENT, ready)]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_and_registrations_show_on_device_and_channel() {
    let mut story =
        Story::before_log_in("sessions_and_registrations_show_on_device_and_channel").await;
    let session = json!({"operationName": "StartContactCenterSession", "channels": ["voice"]});
    story.server.post(AGENT, "/me", session.clone()).await;
    story.told("the agent logs in", &[]).await;
    for name in ["Ready", "NotReady", "AfterCallWork", "AuxWork", "Offline", "Ready"] {
        story.server.post(AGENT, "/me/channels/voice", operation(name)).await;
        story.told(&format!("the agent: {name}"), &[]).await;
    }
    story.server.post(SUPERVISOR, "/me", session).await;
    story.told("the supervisor logs in", &[]).await;
    story.device(SUPERVISOR, coach("Call", "AllCalls")).await;
    story.told("the supervisor asks to coach", &[]).await;
    story.supervisor.unregister().await.unwrap();
    let inactive = json!({"devices": [{"deviceState": "Inactive"}]});
    story.told("the supervisor's phone is gone", &[(SUPERVISOR, inactive)]).await;
    story.supervisor.register().await.unwrap();
    let active = json!({"devices": [{"deviceState": "Active"}]});
    story.told("the supervisor's phone is back", &[(SUPERVISOR, active)]).await;
    story.server.post(AGENT, "/me", operation("EndContactCenterSession")).await;
    story.told("the agent logs out, which ends the monitor", &[]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_without_a_phone_is_refused_and_told() {
    let mut story = Story::before_log_in("a_state_without_a_phone_is_refused_and_told").await;
    let session = json!({
        "operationName": "StartContactCenterSession", "channels": ["voice", "chat"],
        "place": "desk-7", "devicePath": "/devices/7", "loginCode": "5001", "queue": "8000",
    });
    let (status, _, reply) = story.server.client(AGENT).ask("/me", &session).await;
    let expected = json!({
        "statusCode": 7,
        "succeeded": [{"channel": "voice", "statusMessage": "The session is open."}],
        "failed": [{"channel": "chat", "statusMessage": "There is no channel 'chat' here."}],
    });
    assert_eq!((status.as_u16(), reply), (200, expected));
    story.told("the agent logs in, also for chat", &[]).await;
    story.agent.unregister().await.unwrap();
    let inactive = json!({"devices": [{"deviceState": "Inactive"}]});
    story.told("the agent's phone is gone", &[(AGENT, inactive)]).await;
    let refusal = json!({"statusCode": 4, "statusMessage": "Device '5001' is not registered."});
    for name in ["Ready", "NotReady", "AfterCallWork", "AuxWork"] {
        for path in ["/me/channels/voice", "/me"] {
            let (status, _, reply) = story.server.client(AGENT).ask(path, &operation(name)).await;
            assert_eq!((status.as_u16(), &reply), (500, &refusal), "{name}");
            story.told(&format!("{path}: {name}"), &[]).await;
        }
    }
    story.server.post(AGENT, "/me/channels/voice", operation("Offline")).await;
    story.told("the agent: Offline", &[]).await;
    story.agent.register().await.unwrap();
    let active = json!({"devices": [{"deviceState": "Active"}]});
    story.told("the agent's phone is back", &[(AGENT, active)]).await;
    story.server.post(AGENT, "/me/channels/voice", operation("Ready")).await;
    story.told("the agent: Ready", &[]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coach_of_the_next_call_who_hangs_up_is_gone() {
    let mut story = Story::begin("a_coach_of_the_next_call_who_hangs_up_is_gone").await;
    story.device(SUPERVISOR, coach("Call", "NextCall")).await;
    story.told("the supervisor asks to coach the next call", &[]).await;
    story.monitored_talk(1, "Coach").await;
    story.call(SUPERVISOR, 1, operation("Hangup")).await;
    story.told("the supervisor hangs up", &[(SUPERVISOR, leg("Released"))]).await;
    story.customer_hangs_up(&[(AGENT, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coach_who_logs_out_leaves_the_call() {
    let mut story = coached("a_coach_who_logs_out_leaves_the_call", "Call").await;
    story.server.post(SUPERVISOR, "/me", operation("EndContactCenterSession")).await;
    story.told("the supervisor logs out", &[(SUPERVISOR, leg("Released"))]).await;
    story.customer_hangs_up(&[(AGENT, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coached_agent_keeps_a_call_whose_destination_is_busy() {
    let mut story =
        coached("a_coached_agent_keeps_a_call_whose_destination_is_busy", "Agent").await;
    story.colleague.set_answer(AnswerPolicy::Busy).await.unwrap();
    let error = json!({"messageType": "ErrorMessage"});
    for name in ["SingleStepTransfer", "SingleStepConference"] {
        story.call(AGENT, 1, to(name, COLLEAGUE.number)).await;
        story.told(name, &[(AGENT, error.clone())]).await;
    }
    story.customer_hangs_up(&[(AGENT, leg("Released")), (SUPERVISOR, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_come_to_nothing_end_where_they_began() {
    let mut story = Story::begin("calls_that_come_to_nothing_end_where_they_began").await;
    story.device(SUPERVISOR, coach("Call", "NextCall")).await;
    story.told("the supervisor asks to coach the next call", &[]).await;
    story.customer.call(AGENT.number).await.unwrap();
    story.told("the customer calls", &[(AGENT, leg("Ringing"))]).await;
    story.customer_hangs_up(&[(AGENT, leg("Released"))]).await;
    story.customer.call(AGENT.number).await.unwrap();
    story.told("the customer calls again", &[(AGENT, leg("Ringing"))]).await;
    story.call(AGENT, 2, operation("Hangup")).await;
    story.told("the agent declines", &[(AGENT, leg("Released"))]).await;
    story.colleague.set_answer(AnswerPolicy::Busy).await.unwrap();
    let calls = format!("/me/devices/{}/calls", AGENT.device);
    story.server.post(AGENT, &calls, to("Dial", COLLEAGUE.number)).await;
    let error = json!({"messageType": "ErrorMessage"});
    story
        .told(
            "the agent dials his colleague, who is busy",
            &[(AGENT, error), (AGENT, leg("Released"))],
        )
        .await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_are_left_of_a_conference_without_its_customer() {
    let mut story =
        coached("two_agents_are_left_of_a_conference_without_its_customer", "Call").await;
    story.call(AGENT, 1, to("SingleStepConference", COLLEAGUE.number)).await;
    story.told("the agent calls his colleague into the call", &[(COLLEAGUE, leg("Ringing"))]).await;
    story.call(COLLEAGUE, 1, operation("Answer")).await;
    story.told("the colleague answers", &[(COLLEAGUE, leg("Established"))]).await;
    story.customer_hangs_up(&[(SUPERVISOR, leg("Released"))]).await;
    story.call(COLLEAGUE, 1, operation("Hangup")).await;
    story
        .told("the colleague hangs up", &[(AGENT, leg("Released")), (COLLEAGUE, leg("Released"))])
        .await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_transfers_is_called_back_when_nobody_takes_the_call() {
    let mut story =
        coached("who_transfers_is_called_back_when_nobody_takes_the_call", "Call").await;
    story.call(AGENT, 1, to("SingleStepTransfer", COLLEAGUE.number)).await;
    story
        .told(
            "the agent transfers to his colleague",
            &[(AGENT, leg("Released")), (COLLEAGUE, leg("Ringing"))],
        )
        .await;
    story.call(COLLEAGUE, 1, operation("Hangup")).await;
    story
        .told("the colleague declines", &[(COLLEAGUE, leg("Released")), (AGENT, leg("Ringing"))])
        .await;
    story.call(AGENT, 1, operation("Answer")).await;
    story.told("the agent takes the call back", &[(AGENT, monitored("Coach"))]).await;
    story.customer_hangs_up(&[(AGENT, leg("Released")), (SUPERVISOR, leg("Released"))]).await;
    story.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_who_can_not_be_had_is_told_and_stays_armed() {
    let mut story = Story::begin("a_supervisor_who_can_not_be_had_is_told_and_stays_armed").await;
    story.supervisor.set_answer(AnswerPolicy::Reject).await.unwrap();
    story.device(SUPERVISOR, coach("Agent", "AllCalls")).await;
    story.told("the supervisor asks to coach", &[]).await;
    let error = json!({"messageType": "ErrorMessage"});
    story.customer.call(AGENT.number).await.unwrap();
    story.told("the customer calls", &[(AGENT, leg("Ringing"))]).await;
    story.call(AGENT, 1, operation("Answer")).await;
    story
        .told(
            "the agent answers, and the supervisor's phone rejects",
            &[(SUPERVISOR, error.clone())],
        )
        .await;
    story.customer_hangs_up(&[(AGENT, leg("Released"))]).await;
    story.supervisor.unregister().await.unwrap();
    let inactive = json!({"devices": [{"deviceState": "Inactive"}]});
    story.told("the supervisor's phone is gone", &[(SUPERVISOR, inactive)]).await;
    story.customer.call(AGENT.number).await.unwrap();
    story.told("the customer calls again", &[(AGENT, leg("Ringing"))]).await;
    story.call(AGENT, 2, operation("Answer")).await;
    story.told("the agent answers, and there is no phone", &[(SUPERVISOR, error)]).await;
    story.customer_hangs_up(&[(AGENT, leg("Released"))]).await;
    story.end();
}
