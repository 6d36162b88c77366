//! The demo and the command line as a newcomer meets them.

use crate::support::process::write_private;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use tempfile::TempDir;

fn undertone(arguments: &[&str], place: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
    command.args(arguments).current_dir(place).stdin(Stdio::null());
    command
}

fn place() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// A configuration on free ports.
fn free_ports(more: &str) -> String {
    format!(
        "[rest]\nbind = '127.0.0.1:0'\n[grpc]\nbind = '127.0.0.1:0'\n[admin]\n\
         bind = '127.0.0.1:0'\n\
         [sip_backend]\ngrpc_bind = '127.0.0.1:0'\nadmin_bind = '127.0.0.1:0'\n\
         [sip]\nlisten = ['udp:127.0.0.1:0', 'tcp:127.0.0.1:0']\n{more}"
    )
}

fn the_story_is_right(arguments: &[&str]) {
    let place = place();
    let Output { status, stdout, stderr } = undertone(arguments, place.path()).output().unwrap();
    let errors = String::from_utf8_lossy(&stderr);
    let document: Value = serde_json::from_slice(&stdout)
        .unwrap_or_else(|error| panic!("one JSON document: {error}\n{errors}"));
    assert!(status.success(), "{document:#}\n{errors}");
    let mut keys: Vec<_> = document.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    let mut expected = vec![
        "cometd",
        "customer_packets",
        "customer_packets_identical",
        "join_ms",
        "ok",
        "phases",
        "rest",
        "whisper_delay_ms",
    ];
    if arguments.contains(&"--tls") {
        expected.insert(7, "srtp");
        every_packet_is_encrypted(&document);
        assert!(!errors.contains("certificate"), "{errors}");
    }
    assert_eq!(keys, expected);
    assert_eq!(document["ok"], true);
    assert_eq!(document["customer_packets"], document["customer_packets_identical"]);
    let heard = |phase: &str, listener: &str, speaker: &str| {
        let phases = document["phases"].as_array().unwrap();
        let phase = phases.iter().find(|found| found["name"] == phase).unwrap();
        phase["hears"][listener][speaker].as_f64().unwrap() > -30.0
    };
    assert!(heard("Coach", "agent", "supervisor") && !heard("Coach", "customer", "supervisor"));
    assert!(heard("BargeIn", "customer", "supervisor"));
    assert!(
        !heard("ListenIn", "agent", "supervisor") && heard("ListenIn", "supervisor", "customer")
    );
}

/// What the phones received was encrypted, and theirs.
fn every_packet_is_encrypted(document: &Value) {
    let (encrypted, rejected) = (&document["srtp"]["encrypted"], &document["srtp"]["rejected"]);
    assert!(encrypted.as_u64().unwrap() > 100 && *rejected == 0, "{}", document["srtp"]);
}

#[test]
fn the_demo_shows_who_hears_whom_in_one_process() {
    the_story_is_right(&["demo", "--json"]);
}

#[test]
fn the_demo_shows_the_same_with_gateway_and_backend_as_two_processes() {
    the_story_is_right(&["demo", "--json", "--split"]);
}

#[test]
fn the_demo_shows_the_same_over_tls_and_srtp() {
    the_story_is_right(&["demo", "--json", "--tls"]);
}

#[test]
fn the_demo_shows_the_same_over_tls_and_srtp_as_two_processes() {
    the_story_is_right(&["demo", "--json", "--tls", "--split"]);
}

/// Tells a story; who heard whom in it, by phase, listener and speaker.
fn told(scenario: &str, more: &[&str]) -> impl Fn(&str, &str, &str) -> bool {
    let place = place();
    let arguments = [&["demo", "--scenario", scenario, "--json"], more].concat();
    let Output { status, stdout, stderr } = undertone(&arguments, place.path()).output().unwrap();
    let errors = String::from_utf8_lossy(&stderr);
    let document: Value = serde_json::from_slice(&stdout)
        .unwrap_or_else(|error| panic!("one JSON document: {error}\n{errors}"));
    assert!(status.success(), "{document:#}\n{errors}");
    assert_eq!(document["customer_packets"], document["customer_packets_identical"]);
    if more.contains(&"--tls") {
        every_packet_is_encrypted(&document);
    }
    move |phase, listener, speaker| {
        let phases = document["phases"].as_array().unwrap();
        let phase = phases.iter().find(|found| found["name"] == phase).unwrap();
        phase["hears"][listener][speaker].as_f64().unwrap() > -30.0
    }
}

#[test]
fn the_demo_tells_of_a_customer_on_hold_whose_agent_goes_on_being_coached() {
    let heard = told("hold", &[]);
    assert!(heard("on hold", "agent", "supervisor") && heard("on hold", "supervisor", "customer"));
    assert!(!heard("on hold", "customer", "agent") && !heard("on hold", "customer", "supervisor"));
    assert!(heard("retrieved", "customer", "agent"));
}

fn a_conference(heard: impl Fn(&str, &str, &str) -> bool) {
    let phase = "conference of three";
    assert!(heard(phase, "agent", "supervisor") && heard(phase, "customer", "colleague"));
    assert!(!heard(phase, "customer", "supervisor") && !heard(phase, "colleague", "supervisor"));
    assert!(!heard("without the colleague", "customer", "colleague"));
}

#[test]
fn the_demo_tells_of_a_conference_in_which_one_hears_the_coach() {
    a_conference(told("conference", &[]));
}

#[test]
fn the_demo_tells_the_same_of_a_conference_over_tls_and_srtp() {
    a_conference(told("conference", &["--tls"]));
}

fn two_supervisors(heard: impl Fn(&str, &str, &str) -> bool) {
    let phase = "the second: Coach";
    assert!(heard(phase, "agent", "supervisor") && heard(phase, "agent", "second"));
    assert!(!heard(phase, "supervisor", "second") && !heard(phase, "second", "supervisor"));
    assert!(
        !heard("the second: ListenIn", "agent", "second") && !heard(phase, "customer", "second")
    );
}

#[test]
fn the_demo_tells_of_two_supervisors_who_do_not_hear_each_other() {
    two_supervisors(told("two-supervisors", &[]));
}

#[test]
fn the_demo_tells_the_same_of_two_supervisors_over_tls_and_srtp() {
    two_supervisors(told("two-supervisors", &["--tls"]));
}

fn a_transfer(heard: impl Fn(&str, &str, &str) -> bool) {
    assert!(
        heard("after the transfer", "colleague", "supervisor")
            && !heard("after the transfer", "customer", "supervisor")
    );
    assert!(
        heard("without the supervisor", "customer", "colleague")
            && !heard("without the supervisor", "supervisor", "colleague")
    );
}

#[test]
fn the_demo_tells_of_a_transfer_that_the_coach_follows_or_not() {
    a_transfer(told("transfer", &[]));
}

#[test]
fn the_demo_tells_the_same_of_a_transfer_over_tls_and_srtp() {
    a_transfer(told("transfer", &["--tls"]));
}

#[test]
fn the_demo_tells_of_a_customer_on_hold_over_tls_and_says_that_every_packet_was_encrypted() {
    let place = place();
    let arguments = ["demo", "--tls", "--verbose", "--scenario", "hold"];
    let Output { status, stdout, stderr } = undertone(&arguments, place.path()).output().unwrap();
    let told = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{told}\n{}", String::from_utf8_lossy(&stderr));
    let has = |text: &str| told.lines().any(|line| line.contains(text));
    for text in [
        "REST and CometD https://127.0.0.1:",
        "SIP over TLS with SRTP 127.0.0.1:",
        "agent ◀ INVITE sip:5001@127.0.0.1:",
        ";transport=TLS",
        "\"deviceUri\":\"https://127.0.0.1:",
        " encrypted and authentic, 0 otherwise",
        "On hold the customer heard nothing, and the agent the coach.",
    ] {
        assert!(has(text), "{text}\n{told}");
    }
    assert!(!has("\"http://127.0.0.1"), "{told}");
}

#[test]
fn the_demo_tells_each_request_event_and_hearing_in_a_line_that_can_be_read() {
    let place = place();
    let Output { status, stdout, stderr } = undertone(&["demo"], place.path()).output().unwrap();
    let told = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{told}\n{}", String::from_utf8_lossy(&stderr));
    assert!(!told.contains('{'), "no JSON: {told}");
    for line in [
        "REST    supervisor ▶ POST …/me/devices/efelab32  Coach \
         targetDeviceUri=…/devices/9c14cad7  ◀ 200",
        "CometD  supervisor ◀ device 5005 is Active, Not Ready; Coach of device 9c14cad7, \
         AllCalls, scope Call",
        "Heard   Coach: customer ◀ agent   agent ◀ customer, supervisor   supervisor ◀ customer, \
         agent   ✓",
        "Only the agent heard the supervisor whisper.",
    ] {
        assert!(told.lines().any(|told| told.ends_with(line)), "{line}\n{told}");
    }
}

#[test]
fn check_says_what_this_machine_cannot_do() {
    let place = place();
    let check = |config: &str| {
        write_private(&place.path().join("here.toml"), config);
        let output = undertone(&["check", "here.toml"], place.path()).output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.success(), errors.is_empty(), "{errors}");
        errors
    };
    // RFC 5737: nobody's.
    let foreign = free_ports("[media]\nbind = '198.51.100.99'\n")
        .replace("udp:127.0.0.1:0", "udp:203.0.113.77:5060");
    let said: Vec<String> = check(&foreign).lines().map(str::to_owned).collect();
    assert_eq!(
        said,
        [
            "undertone: here.toml:11: sip.listen[0]: this machine does not have the address \
             203.0.113.77 (found 'udp:203.0.113.77:5060')",
            "here.toml:13: media.bind: this machine does not have the address 198.51.100.99",
        ]
    );
    let taken = std::iter::repeat_with(|| UdpSocket::bind("127.0.0.1:0").unwrap())
        .find(|socket| socket.local_addr().unwrap().port().is_multiple_of(2))
        .unwrap();
    let port = taken.local_addr().unwrap().port();
    let full = free_ports(&format!("[media]\nports = [{port}, {}]\n", port + 1));
    let said = check(&full);
    assert!(
        said.starts_with(
            "undertone: here.toml:13: media.ports: no two of them are free on \
                          127.0.0.1 (found ["
        ),
        "{said}"
    );
    assert_eq!(check(&free_ports("")), "");
}

#[test]
fn the_demo_names_its_stories() {
    let place = place();
    let Output { stdout, .. } = undertone(&["demo", "--list"], place.path()).output().unwrap();
    let listed = String::from_utf8(stdout).unwrap();
    let names: Vec<_> = listed.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["coach", "transfer", "hold", "conference", "two-supervisors"]);
    let unknown = undertone(&["demo", "--scenario", "nothing"], place.path()).output().unwrap();
    assert!(!unknown.status.success());
    assert!(
        String::from_utf8_lossy(&unknown.stderr)
            .contains("coach, transfer, hold, conference, two-supervisors")
    );
}

/// Started with a file, with its first lines of log read until it is there.
fn started(part: &str, config: &str, place: &Path) -> Child {
    write_private(&place.join("undertone.toml"), config);
    let mut child = undertone(&[part, "--config", "undertone.toml"], place)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut text = String::new();
    while !text.contains("health and metrics on") {
        let read = log.read_line(&mut text).unwrap();
        assert!(read > 0, "it has ended:\n{text}");
    }
    // Its pipe stays open as long as it runs.
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    child
}

fn terminate(child: Child) -> Output {
    let id = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap());
    nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn the_first_start_names_the_file_of_passwords_and_a_curl_once_and_sigterm_ends_it() {
    let place = place();
    let config = free_ports("");
    let first = terminate(started("serve", &config, place.path()));
    let told = String::from_utf8(first.stdout).unwrap();
    assert!(first.status.success());
    assert!(
        told.contains("5001")
            && told.contains("5005")
            && told.contains("7001")
            && told.contains("./undertone-data/made-passwords.txt")
            && told.contains("curl -u supervisor -H"),
        "{told}"
    );
    let second = terminate(started("serve", &config, place.path()));
    assert!(second.status.success());
    assert_eq!(String::from_utf8(second.stdout).unwrap(), "");
}

#[test]
fn either_half_alone_starts_and_ends_when_asked() {
    for part in ["gateway", "sip-backend"] {
        let place = place();
        assert!(terminate(started(part, &free_ports(""), place.path())).status.success(), "{part}");
    }
}

fn fails_with_one_line(part: &str, config: &str, place: &Path) -> String {
    write_private(&place.join("undertone.toml"), config);
    let output = undertone(&[part, "--config", "undertone.toml"], place).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    errors
}

#[test]
fn a_port_in_use_is_one_clear_line() {
    let place = place();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let config = free_ports("").replacen("127.0.0.1:0", &address.to_string(), 1);
    let line = fails_with_one_line("serve", &config, place.path());
    assert!(line.starts_with(&format!("undertone: REST can not listen on {address}: ")), "{line}");
    let sip = free_ports("").replace("udp:127.0.0.1:0", &format!("tcp:{address}"));
    let line = fails_with_one_line("sip-backend", &sip, place.path());
    assert!(line.starts_with("undertone: SIP: ") && line.contains(&address.to_string()), "{line}");
}

#[test]
fn a_state_file_that_is_none_is_one_clear_line() {
    let place = place();
    std::fs::create_dir(place.path().join("undertone-data")).unwrap();
    std::fs::write(place.path().join("undertone-data/gateway.redb"), "no database").unwrap();
    let line = fails_with_one_line("gateway", &free_ports(""), place.path());
    assert!(line.contains("gateway.redb"), "{line}");
}

#[test]
fn check_names_what_is_wrong_and_the_line() {
    let place = place();
    let file = place.path().join("wrong.toml");
    std::fs::write(&file, "[rest]\nbind = \"here\"\n").unwrap();
    let output = undertone(&["check", "wrong.toml"], place.path()).output().unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(errors.contains("wrong.toml:2: rest.bind: "), "{errors}");
    let printed = undertone(&["config"], place.path()).output().unwrap();
    std::fs::write(&file, printed.stdout).unwrap();
    assert!(
        undertone(&["check", "wrong.toml"], place.path()).output().unwrap().status.success(),
        "the printed defaults are good"
    );
}
