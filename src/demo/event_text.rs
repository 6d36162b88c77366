//! An event of the event channel in one line for people. What is left out of it is in the whole
//! message, which `--verbose` shows.

use crate::model::is_plain;
use serde_json::Value;

/// Characters of an id that tell it from others on a screen.
const ID: usize = 8;

/// What a message says. Of one that is none of ours, its whole data.
pub(super) fn text(data: &Value) -> String {
    let said = match data["messageType"].as_str() {
        Some("DeviceStateChangeMessage") => devices(data),
        Some("CallStateChangeMessage") => call(data),
        Some("UserStateChangeMessage") => user(data),
        Some("ServiceStateChangeMessage") => services(data),
        Some("ErrorMessage") => error(data),
        Some(_) | None => None,
    };
    plain(&said.unwrap_or_else(|| data.to_string()))
}

/// No control character reaches the terminal, whatever a display name or a number contains.
pub(super) fn plain(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match is_plain(c) {
            true => line.push(c),
            false => line.extend(c.escape_unicode()),
        }
    }
    line
}

/// The beginning of an id, or of the id at the end of a URI.
pub(super) fn short(id: &str) -> String {
    let id = id.rsplit('/').next().unwrap_or(id);
    id.chars().take(ID).collect()
}

/// `service voice is Inactive`
fn services(data: &Value) -> Option<String> {
    let services = data["services"].as_array()?.iter();
    let said: Option<Vec<String>> = services
        .map(|service| {
            let (name, state) = (service["name"].as_str()?, service["state"].as_str()?);
            Some(format!("service {name} is {state}"))
        })
        .collect();
    Some(said?.join(" | "))
}

/// `device 5005 is Active, Not Ready; Coach of device 9c14cad7, AllCalls, scope Call`
fn devices(data: &Value) -> Option<String> {
    let said: Vec<String> = data["devices"].as_array()?.iter().map(device).collect();
    Some(said.join(" | "))
}

fn device(device: &Value) -> String {
    let number = device["phoneNumber"].as_str().unwrap_or("?");
    let states = [&device["deviceState"], &device["userState"]["displayName"]];
    let states: Vec<&str> = states.into_iter().filter_map(Value::as_str).collect();
    let mut parts = vec![format!("device {number} is {}", states.join(", "))];
    if device["doNotDisturb"] == "On" {
        parts.push("do not disturb".to_owned());
    }
    if let Some(to) = device["forwardTo"].as_str() {
        parts.push(format!("forwarded to {to}"));
    }
    let state = &device["supervisorMonitoringState"];
    let may_monitor = device["capabilities"]
        .as_array()
        .is_some_and(|can| can.iter().any(|operation| operation == "Coach"));
    match state["state"].as_str() {
        Some(activity) => {
            let word = |key: &str| state[key].as_str().unwrap_or("?");
            let target = short(word("targetDeviceUri"));
            parts.push(format!(
                "{activity} of device {target}, {}, scope {}",
                word("mode"),
                word("scope")
            ));
        }
        None if may_monitor => parts.push("monitors nobody".to_owned()),
        None => {}
    }
    parts.join("; ")
}

/// `call 64EE8D4A is Established: 5005 with 7001, 5001; Coach; may Hangup, SwitchToListenIn`
fn call(data: &Value) -> Option<String> {
    let call = &data["call"];
    let (id, state) = (call["id"].as_str()?, call["state"].as_str()?);
    let own = data["phoneNumber"].as_str().unwrap_or("?");
    let number = |participant: &Value| participant["phoneNumber"].as_str().map(str::to_owned);
    let others: Vec<String> =
        call["participants"].as_array().into_iter().flatten().filter_map(number).collect();
    let with = if others.is_empty() { "nobody".to_owned() } else { others.join(", ") };
    let mut parts = vec![format!("call {} is {state}: {own} with {with}", short(id))];
    match data["notificationType"].as_str() {
        Some("StatusChange") | None => {}
        Some(kind) => parts.push(kind.to_owned()),
    }
    if let Some(activity) = call["supervisorMonitoringState"]["state"].as_str() {
        parts.push(match call["monitoring"] == true {
            true => activity.to_owned(),
            false => format!("{activity} by a supervisor"),
        });
    }
    for (is_so, said) in [
        (call["mute"] == "On", "muted"),
        (call["monitoredUserMuted"] == true, "muted toward the customer"),
    ] {
        if is_so {
            parts.push(said.to_owned());
        }
    }
    if let Some(to) = call["handedOnTo"].as_str() {
        parts.push(format!("handed on to {to}"));
    }
    let may: Vec<&str> =
        call["capabilities"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !may.is_empty() {
        parts.push(format!("may {}", may.join(", ")));
    }
    Some(parts.join("; "))
}

/// `user supervisor is Not Ready`
fn user(data: &Value) -> Option<String> {
    let user = &data["user"];
    let name = user["userName"].as_str()?;
    let state = user["userState"]["displayName"].as_str().unwrap_or("without a session");
    Some(format!("user {name} is {state}"))
}

/// `failed: The supervisor's phone is busy. (statusCode 2, device d1)`
fn error(data: &Value) -> Option<String> {
    let message = data["errorMessage"].as_str()?;
    let device = data["deviceUri"].as_str().map(|uri| format!(", device {}", short(uri)));
    let device = device.unwrap_or_default();
    Some(format!("failed: {message} (statusCode {}{device})", data["errorCode"]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_device_is_a_line() {
        let agent = json!({
            "id": "9c14cad7-17c4", "deviceState": "Active", "phoneNumber": "5001",
            "userState": {"displayName": "Ready"}, "doNotDisturb": "On", "forwardTo": "7001",
            "capabilities": ["DoNotDisturbOff"],
        });
        let supervisor = json!({
            "deviceState": "Inactive", "phoneNumber": "5005", "doNotDisturb": "Off",
            "capabilities": ["Coach"],
        });
        let devices = |devices: &[&Value]| {
            text(&json!({"messageType": "DeviceStateChangeMessage", "devices": devices}))
        };
        assert_eq!(
            devices(&[&agent, &supervisor]),
            "device 5001 is Active, Ready; do not disturb; forwarded to 7001 | \
             device 5005 is Inactive; monitors nobody"
        );
        let mut coach = supervisor;
        coach["supervisorMonitoringState"] = json!({
            "state": "Coach", "mode": "NextCall", "scope": "Agent",
            "targetDeviceUri": "http://h/api/v2/devices/9c14cad7-17c4",
        });
        assert_eq!(
            devices(&[&coach]),
            "device 5005 is Inactive; Coach of device 9c14cad7, NextCall, scope Agent"
        );
    }

    #[test]
    fn a_call_is_a_line_with_what_may_be_done_with_it() {
        let mut message = json!({
            "messageType": "CallStateChangeMessage", "notificationType": "StatusChange",
            "phoneNumber": "5005",
            "call": {
                "id": "64EE8D4AE9457FEA", "state": "Established", "mute": "Off",
                "participants": [{"phoneNumber": "7001"}, {"phoneNumber": "5001"}],
                "capabilities": ["Hangup", "SwitchToBargeIn"], "monitoring": true,
                "supervisorMonitoringState": {"state": "Coach"},
            },
        });
        assert_eq!(
            text(&message),
            "call 64EE8D4A is Established: 5005 with 7001, 5001; Coach; may Hangup, SwitchToBargeIn"
        );
        message["notificationType"] = json!("MonitoredUserMutedStateChange");
        message["call"]["monitoring"] = json!(false);
        message["call"]["monitoredUserMuted"] = json!(true);
        message["call"]["mute"] = json!("On");
        message["call"]["capabilities"] = json!([]);
        message["call"]["participants"] = json!([]);
        message["call"]["handedOnTo"] = json!("42");
        assert_eq!(
            text(&message),
            "call 64EE8D4A is Established: 5005 with nobody; MonitoredUserMutedStateChange; Coach \
             by a supervisor; muted; muted toward the customer; handed on to 42"
        );
    }

    #[test]
    fn a_user_and_a_failure_are_lines() {
        let user =
            |user: Value| text(&json!({"messageType": "UserStateChangeMessage", "user": user}));
        assert_eq!(
            user(json!({"userName": "anna", "userState": {"displayName": "Not Ready"}})),
            "user anna is Not Ready"
        );
        assert_eq!(user(json!({"userName": "anna"})), "user anna is without a session");
        let failure = json!({
            "messageType": "ErrorMessage", "devicePath": "/devices/d1",
            "deviceUri": "http://h/api/v2/devices/d1", "errorCode": 2,
            "errorMessage": "The supervisor's phone is busy.",
        });
        assert_eq!(
            text(&failure),
            "failed: The supervisor's phone is busy. (statusCode 2, device d1)"
        );
    }

    #[test]
    fn what_is_not_known_is_shown_whole_and_nothing_reaches_the_terminal_as_a_command() {
        for data in [
            json!({"messageType": "NewMessage", "x": 1}),
            json!({"messageType": "CallStateChangeMessage", "call": "gone"}),
            json!({"messageType": "UserStateChangeMessage"}),
            json!("\u{1b}[2J"),
        ] {
            assert_eq!(text(&data), data.to_string());
        }
        let evil = "\u{1b}[2J\r\nINFO \u{9b}\u{202e}";
        let user = json!({"messageType": "UserStateChangeMessage", "user": {"userName": evil}});
        let line = text(&user);
        assert!(!line.chars().any(char::is_control) && !line.contains('\u{202e}'), "{line:?}");
        assert!(line.starts_with("user \\u{1b}[2J"), "{line}");
    }
}
