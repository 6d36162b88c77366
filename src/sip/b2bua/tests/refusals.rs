//! Each operation in each state: what is accepted, what is refused, and that a refusal changes
//! nothing.

use super::harness::{AGENT, Harness, OTHER, SUPERVISOR, SUPERVISOR2, sdp};
use crate::model::{
    Activity, CallId, Command, DeviceId, Mode, Reason, Scope, TransferStep, UserData,
    UserDataChange,
};
use crate::sip::leg::{LegEvent, LegSource};

/// Who asks, and in which state of the leg.
const STATES: [&str; 9] = [
    "he rings",
    "he dials",
    "he talks",
    "he holds",
    "he holds and asks a colleague",
    "he owns a conference",
    "he is in a conference of another",
    "he supervises",
    "his phone is called to supervise",
];

/// In the order of the states. `+` accepted; `s` not in this state; `p` not permitted; `f` forbidden.
const TABLE: [(&str, &str); 21] = [
    ("Answer", "+sssssss+"),
    ("Hold", "ss+ss++ff"),
    ("Retrieve", "ssss+ssff"),
    ("MuteCall", "ss+++++ff"),
    ("UnmuteCall", "sssssssff"),
    ("SendDtmf", "ss+++++ff"),
    ("SingleStepTransfer", "ss+++ssff"),
    ("InitiateTransfer", "ss++s++ff"),
    ("CompleteTransfer", "ssss+ssff"),
    ("SingleStepConference", "ss+++++ff"),
    ("InitiateConference", "ss++s++ff"),
    ("CompleteConference", "ssss+ssff"),
    ("RemoveParticipantFromConference", "sssss+pss"),
    ("MuteMonitoredUser", "sssssss+s"),
    ("UnmuteMonitoredUser", "sssssssss"),
    ("SwitchToBargeIn", "sssssss+s"),
    ("Reject", "+ssssssff"),
    ("Redirect", "+ssssssff"),
    ("ClearCall", "++++++pff"),
    ("SwapCalls", "ssss+ssff"),
    ("UpdateUserData", "+++++++ff"),
];

fn command(harness: &Harness, operation: &str, device: DeviceId, call: CallId) -> Command {
    let (supervisor, destination) = (device.clone(), || "5006".into());
    let transfer = |step| Command::Transfer { device: device.clone(), call: call.clone(), step };
    let conference =
        |step| Command::Conference { device: device.clone(), call: call.clone(), step };
    let single =
        TransferStep::SingleStep { destination: destination(), user_data: Default::default() };
    let initiate =
        TransferStep::Initiate { destination: destination(), user_data: Default::default() };
    match operation {
        "Answer" => Command::Answer { device, call },
        "Hold" => Command::Hold { device, call },
        "Retrieve" => Command::Retrieve { device, call },
        "MuteCall" => Command::Mute { device, call, on: true },
        "UnmuteCall" => Command::Mute { device, call, on: false },
        "SendDtmf" => Command::SendDtmf { device, call, digits: "1".parse().expect("digits") },
        "SingleStepTransfer" => transfer(single),
        "InitiateTransfer" => transfer(initiate),
        "CompleteTransfer" => transfer(TransferStep::Complete),
        "SingleStepConference" => conference(single),
        "InitiateConference" => conference(initiate),
        "CompleteConference" => conference(TransferStep::Complete),
        "RemoveParticipantFromConference" => {
            Command::RemoveParticipant { device, call, participant: "7001".into() }
        }
        "MuteMonitoredUser" => Command::MuteMonitoredParty { supervisor, call, muted: true },
        "UnmuteMonitoredUser" => Command::MuteMonitoredParty { supervisor, call, muted: false },
        "SwitchToBargeIn" => {
            Command::SwitchMonitoring { supervisor, call, activity: Activity::BargeIn }
        }
        "Reject" => Command::Reject { device, call },
        "Redirect" => Command::Redirect { device, call, destination: destination() },
        "ClearCall" => Command::ClearCall { device, call },
        "SwapCalls" => {
            let other = harness.calls.keys().find(|other| **other != call).unwrap_or(&call);
            Command::SwapCalls { device, call: call.clone(), other: other.clone() }
        }
        "UpdateUserData" => {
            let data = UserData::new([("Account".into(), "1".into())]).expect("fits");
            Command::ChangeUserData { device, call, change: UserDataChange::Set(data) }
        }
        other => panic!("{other}"),
    }
}

/// A harness in which somebody is in this state: who, and on which call.
fn in_state(state: &str) -> (Harness, DeviceId, CallId) {
    let mut harness = Harness::new();
    let single =
        || TransferStep::SingleStep { destination: "5002".into(), user_data: Default::default() };
    let asks =
        |harness: &mut Harness, command: Command| harness.command(command).expect("accepted");
    let who = match state {
        "he rings" => {
            harness.customer_calls("5001");
            AGENT
        }
        "he dials" => {
            harness.incoming(
                LegSource::Account(AGENT.into()),
                "7001",
                Some(sdp(4000, "0 8 101", "sendrecv")),
            );
            AGENT
        }
        "he talks" => {
            harness.talk();
            AGENT
        }
        "he holds" => {
            let (_, agent) = harness.talk();
            harness
                .leg(LegEvent::Offered { leg: agent, media: Some(sdp(5000, "0 101", "sendonly")) });
            AGENT
        }
        "he holds and asks a colleague" => {
            harness.talk();
            let (device, call) = (AGENT.into(), harness.call_id());
            let step = TransferStep::Initiate {
                destination: "5002".into(),
                user_data: Default::default(),
            };
            asks(&mut harness, Command::Transfer { device, call: call.clone(), step });
            let line = harness.ringing(AGENT);
            harness.answer(line);
            let colleague = harness.ringing(OTHER);
            harness.answer(colleague);
            return (harness, AGENT.into(), call);
        }
        "he owns a conference" | "he is in a conference of another" => {
            harness.talk();
            let (device, call) = (AGENT.into(), harness.call_id());
            asks(&mut harness, Command::Conference { device, call, step: single() });
            let colleague = harness.ringing(OTHER);
            harness.answer(colleague);
            if state == "he owns a conference" { AGENT } else { OTHER }
        }
        "he supervises" => {
            harness.coached(Activity::Coach);
            SUPERVISOR
        }
        "his phone is called to supervise" => {
            harness.talk();
            harness.monitor(Activity::Coach, Mode::AllCalls, Scope::Call).expect("accepted");
            SUPERVISOR
        }
        other => panic!("{other}"),
    };
    let call = harness.call_id();
    (harness, who.into(), call)
}

fn sign(done: Result<(), crate::model::Refusal>) -> char {
    match done.map_err(|refusal| refusal.reason) {
        Ok(()) => '+',
        Err(Reason::InvalidState) => 's',
        Err(Reason::NotPermitted) => 'p',
        Err(Reason::Forbidden) => 'f',
        Err(other) => panic!("{other:?}"),
    }
}

#[test]
fn each_operation_is_accepted_or_refused_as_its_state_says_and_a_refusal_changes_nothing() {
    for (operation, expected) in TABLE {
        let mut signs = String::new();
        for state in STATES {
            let (mut harness, device, call) = in_state(state);
            let before = (harness.calls.clone(), harness.hearing.clone(), harness.monitors.clone());
            harness.log.clear();
            let asked = command(&harness, operation, device, call);
            let done = sign(harness.command(asked));
            if done != '+' {
                let after =
                    (harness.calls.clone(), harness.hearing.clone(), harness.monitors.clone());
                assert_eq!(before, after, "{operation}, when {state}");
                assert!(harness.log.is_empty(), "{operation}, when {state}: {:?}", harness.log);
            }
            signs.push(done);
        }
        assert_eq!(signs, expected, "{operation}, when {STATES:?}");
    }
}

#[test]
fn whoever_is_not_on_the_call_is_told_that_there_is_none() {
    for (operation, _) in TABLE {
        let (mut harness, ..) = in_state("he talks");
        let call = harness.call_id();
        harness.log.clear();
        let asked = command(&harness, operation, SUPERVISOR2.into(), call);
        let done = harness.command(asked).expect_err("not on it");
        let monitors = operation.starts_with("Switch");
        let expected = if monitors { Reason::InvalidState } else { Reason::NotFound };
        assert_eq!(done.reason, expected, "{operation}");
        let asked = command(&harness, operation, AGENT.into(), "gone".into());
        let gone = harness.command(asked).expect_err("no such call");
        assert_eq!(gone.reason, Reason::NotFound, "{operation}");
        assert!(harness.log.is_empty(), "{operation}");
    }
}
