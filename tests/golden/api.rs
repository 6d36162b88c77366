//! What the API says of every message, whatever is written down.

use crate::support::server::{Account, SUPERVISOR};
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// displayName, id, state, workMode.
const USER_STATES: [(&str, &str, &str, Option<&str>); 5] = [
    ("Ready", "9430250E-0A1B-421F-B372-F29E69366DED", "Ready", None),
    ("Not Ready", "900D55CC-2BB0-431F-8BF9-D3525B383BE6", "NotReady", None),
    ("AfterCallWork", "D3663509-3D82-4DD3-A82E-2EA8EFA02AEF", "NotReady", Some("AfterCallWork")),
    ("AuxWork", "2B36138D-C564-4562-A8CB-3C32D564F296", "NotReady", Some("AuxWork")),
    ("Offline", "0F7F5003-EF26-4D13-A6Ef-D0C7EC819BEB", "LoggedOut", None),
];

const DEVICE: &str = "id deviceState phoneNumber e164Number telephonyNetwork doNotDisturb \
                      voiceEnvironmentUri capabilities";
const CALL: &str = "id callUuid connId state deviceUri participants ani dnis callType capabilities \
                    duration mute \
                    supervisorListeningIn monitoredUserMuted monitoring uri path";
const ACTIVITIES: [&str; 3] = ["ListenIn", "Coach", "BargeIn"];

/// Panics unless this message to this user is one that the API allows.
pub(super) fn check(account: Account, message: &Value) {
    let (channel, data) = (message["channel"].as_str().unwrap(), &message["data"]);
    match data["messageType"].as_str().unwrap() {
        "DeviceStateChangeMessage" => {
            assert_eq!(channel, "/v2/me/devices");
            has(data, "messageType devices", "");
            data["devices"].as_array().unwrap().iter().for_each(|shown| device(account, shown));
        }
        "CallStateChangeMessage" => {
            assert_eq!(channel, "/v2/me/calls");
            has(data, "messageType notificationType phoneNumber call", "");
            assert_eq!(data["phoneNumber"], account.number);
            call(account, &data["call"]);
        }
        "UserStateChangeMessage" => assert_eq!(channel, "/v2/me/channels"),
        "ErrorMessage" => has(data, "messageType devicePath deviceUri errorCode errorMessage", ""),
        other => panic!("{other}"),
    }
}

/// All of these fields, perhaps some of those, and no others.
fn has(object: &Value, always: &str, perhaps: &str) {
    let set = |words: &str| words.split_whitespace().map(str::to_owned).collect::<BTreeSet<_>>();
    let fields: BTreeSet<String> = object.as_object().unwrap().keys().cloned().collect();
    let (always, perhaps) = (set(always), set(perhaps));
    assert!(fields.is_superset(&always), "{object:#}");
    assert!(fields.is_subset(&always.union(&perhaps).cloned().collect()), "{object:#}");
}

fn is_supervisor(account: Account) -> bool {
    account.user == SUPERVISOR.user
}

fn device(account: Account, shown: &Value) {
    has(shown, DEVICE, "userState forwardTo supervisorMonitoringState");
    let capabilities = shown["capabilities"].as_array().unwrap();
    let offers = |word: &str| capabilities.iter().filter(|offered| *offered == word).count() == 1;
    assert_eq!(offers("DoNotDisturbOff"), shown["doNotDisturb"] == "On", "{shown:#}");
    assert_eq!(offers("DoNotDisturbOn"), shown["doNotDisturb"] == "Off", "{shown:#}");
    let (forwards, monitors) =
        (shown.get("forwardTo").is_some(), shown.get("supervisorMonitoringState"));
    assert_eq!(
        (offers("ForwardCallsOff"), offers("ForwardCallsOn")),
        (forwards, !forwards),
        "{shown:#}"
    );
    for activity in ACTIVITIES {
        assert_eq!(offers(activity), is_supervisor(account), "{shown:#}");
    }
    assert_eq!(offers("CancelSupervisorMonitoring"), monitors.is_some(), "{shown:#}");
    if let Some(state) = monitors {
        has(state, "state mode scope targetDeviceUri", "");
        assert!(ACTIVITIES.iter().any(|activity| state["state"] == *activity), "{shown:#}");
    }
    assert_eq!(shown.get("userState").is_some(), shown["deviceState"] == "Active", "{shown:#}");
    if let Some(state) = shown.get("userState") {
        let row = USER_STATES.iter().find(|(name, ..)| state["displayName"] == *name).unwrap();
        let (_, id, word, work_mode) = row;
        assert_eq!((&state["id"], &state["state"]), (&json!(id), &json!(word)), "{shown:#}");
        assert_eq!(state.get("workMode").and_then(Value::as_str), *work_mode, "{shown:#}");
    }
}

fn call(account: Account, leg: &Value) {
    has(leg, CALL, "supervisorMonitoringState parentCallUri userData");
    assert_eq!(leg["id"], leg["callUuid"]);
    let (id, path) = (leg["id"].as_str().unwrap(), leg["path"].as_str().unwrap());
    assert_eq!(path, format!("/calls/{id}"));
    assert!(
        leg["uri"].as_str().unwrap().ends_with(&format!("/api/v2/me{path}"))
            && leg["deviceUri"].as_str().unwrap().ends_with(account.device)
    );
    for participant in leg["participants"].as_array().unwrap() {
        has(participant, "e164Number formattedPhoneNumber phoneNumber digits", "");
        assert_ne!(participant["phoneNumber"], account.number, "never himself: {leg:#}");
    }
    assert_eq!(leg["monitoring"], is_supervisor(account), "{leg:#}");
    let activity = leg["supervisorMonitoringState"]["state"].as_str();
    let listened_to = activity == Some("ListenIn") && !is_supervisor(account);
    assert_eq!(leg["supervisorListeningIn"], listened_to, "{leg:#}");
    let capabilities = leg["capabilities"].as_array().unwrap();
    let offers = |word: &str| capabilities.iter().any(|offered| offered == word);
    match leg["state"].as_str().unwrap() {
        "Released" => assert!(capabilities.is_empty() && activity.is_none(), "{leg:#}"),
        "Established" if is_supervisor(account) => {
            assert_eq!(
                leg["mute"],
                if activity == Some("ListenIn") { "On" } else { "Off" },
                "{leg:#}"
            );
            for other in ACTIVITIES {
                assert_eq!(offers(&format!("SwitchTo{other}")), activity != Some(other), "{leg:#}");
            }
            let is_muted = leg["monitoredUserMuted"] == true;
            assert!(offers("Hangup") && !(offers("MuteMonitoredUser") && is_muted), "{leg:#}");
            assert!(!offers("UnmuteMonitoredUser") || is_muted, "{leg:#}");
        }
        "Dialing" | "Ringing" | "Established" | "Held" => {
            assert!(offers("Hangup"), "{leg:#}");
            assert!(
                activity.is_none() || is_supervisor(account) || leg["state"] != "Ringing",
                "{leg:#}"
            );
        }
        other => panic!("{other}"),
    }
}
