//! `undertone attach`, and `undertone check --probe`. What is printed runs with real switches in
//! `switches`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use tokio::net::UdpSocket;
use tokio::process::Command;
use undertone::attach::SwitchKind;
use undertone::demo::phone::{Phone, PhoneConfig};

/// Exit code 0 or not, and what was printed and said.
async fn undertone(arguments: &[&str], place: &Path) -> (bool, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_undertone"))
        .args(arguments)
        .current_dir(place)
        .stdin(Stdio::null())
        .output()
        .await
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn flags<'a>(kind: &'a str, switch: &'a str, us: &'a str) -> Vec<&'a str> {
    let place = ["attach", "--kind", kind, "--switch", switch, "--us", us];
    [&place[..], &["--numbers", "5000-5019,5100", "--outside", "0,+"]].concat()
}

#[tokio::test]
async fn what_is_printed_for_any_kind_of_switch_is_a_good_configuration() {
    for kind in SwitchKind::ALL {
        let place = tempfile::tempdir().unwrap();
        let flags = flags(kind.name(), "127.0.0.9", "127.0.0.1");
        let (_, printed, _) = undertone(&flags, place.path()).await;
        let into = [&flags[..], &["--into", "pasted"]].concat();
        let (is_good, written, error) = undertone(&into, place.path()).await;
        assert!(is_good, "{error}");
        let (is_good, _, error) = undertone(&into, place.path()).await;
        assert!(!is_good && error.contains("is there already"), "{error}");
        for file in written.lines() {
            let text = std::fs::read_to_string(place.path().join(file)).unwrap();
            assert!(printed.contains(&text), "{file} is printed as it is written");
            assert!(
                !text.contains("{us}") && !text.contains("{us_") && !text.contains("{numbers"),
                "{file} is filled in"
            );
        }
        let check = ["check", "pasted/undertone.toml"];
        let (is_good, said, error) = undertone(&check, place.path()).await;
        assert!(is_good, "{kind:?}: {error}");
        assert_eq!(said, "pasted/undertone.toml: good\n");
    }
}

#[tokio::test]
async fn what_can_not_be_attached_is_said() {
    let place = tempfile::tempdir().unwrap();
    let good = flags("asterisk", "127.0.0.9", "127.0.0.1");
    let rows = [
        (&["--agent", "6000"][..], "'6000' is not one of the numbers"),
        (&["--supervisor", "5101"], "'5101' is not one of the numbers"),
        (
            &["--supervisor", "5000"],
            "'5000' can not be the number of the agent and of the supervisor",
        ),
        (&["--numbers", "5010-5030"], "5000-5019 and 5010-5030 have numbers in common"),
        (&["--numbers", "5100"], "5100 and 5100 have numbers in common"),
        (&["--outside", "5"], "'5' does not tell numbers outside from 5000-5019"),
        (&["--outside", "51"], "'51' does not tell numbers outside from 5100"),
    ];
    for (more, expected) in rows {
        let (is_good, _, error) = undertone(&[&good, more].concat(), place.path()).await;
        assert!(!is_good && error.contains(expected), "{error}");
    }
    let same = flags("asterisk", "127.0.0.1", "127.0.0.1:5060");
    let (is_good, _, error) = undertone(&same, place.path()).await;
    assert!(!is_good && error.contains("can not both be at 127.0.0.1:5060"), "{error}");
    let (is_good, _, error) = undertone(&["attach", "--kind", "other"], place.path()).await;
    assert!(!is_good && error.contains("--switch is missing, and there is no terminal"), "{error}");
}

#[tokio::test]
async fn who_is_an_agent_by_from_alone_is_a_warning() {
    let place = tempfile::tempdir().unwrap();
    let flags = flags("other", "127.0.0.9", "127.0.0.1");
    undertone(&[&flags[..], &["--into", "."]].concat(), place.path()).await;
    let file = place.path().join("undertone.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let changed = text.replace("identity = \"pai\"", "identity = \"from\"");
    assert_ne!(text, changed);
    std::fs::write(&file, changed).unwrap();
    let (is_good, said, error) = undertone(&["check", "undertone.toml"], place.path()).await;
    assert!(is_good, "{error}");
    let warning = "sip.trunk[0].identity: a caller outside that shows the number of one of the 21";
    assert!(said.contains(warning), "{said}");
}

#[tokio::test]
async fn a_trunk_on_another_machine_and_ourselves_on_the_loopback_is_a_warning() {
    let place = tempfile::tempdir().unwrap();
    let flags = flags("other", "192.0.2.10", "127.0.0.1");
    let into = [&flags[..], &["--into", "."]].concat();
    let (is_good, _, error) = undertone(&into, place.path()).await;
    assert!(is_good, "{error}");
    let (is_good, said, _) = undertone(&["check", "undertone.toml"], place.path()).await;
    assert!(is_good);
    let target = "sip.trunk[0].target: is on another machine, and";
    assert!(said.contains(&format!("{target} sip.listen is reached from this one only")), "{said}");
    assert!(said.contains(&format!("{target} its sound is told to come to 127.0.0.1")), "{said}");
}

#[tokio::test]
async fn a_prefix_that_begins_the_number_of_a_device_behind_its_trunk_is_a_warning() {
    let place = tempfile::tempdir().unwrap();
    let flags = flags("other", "127.0.0.9", "127.0.0.1");
    undertone(&[&flags[..], &["--into", "."]].concat(), place.path()).await;
    let file = place.path().join("undertone.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    let check = ["check", "undertone.toml"];
    for (prefixes, expected) in [
        (
            "\"0\", \"5\"",
            Some("'5' does not tell numbers outside from 5000, which is behind 'switch'"),
        ),
        ("\"51\"", Some("'51' does not tell numbers outside from 5100, which is behind 'switch'")),
        ("\"52\"", None),
        ("\"\"", None),
    ] {
        let changed = text.replace("[\"0\", \"+\"]", &format!("[{prefixes}]"));
        assert_ne!(text, changed);
        std::fs::write(&file, changed).unwrap();
        let (is_good, said, error) = undertone(&check, place.path()).await;
        assert!(is_good, "{error}");
        let found = said.contains("sip.trunk[0].prefixes: ");
        assert_eq!(found, expected.is_some(), "{said}");
        assert!(expected.is_none_or(|expected| said.contains(expected)), "{said}");
    }
}

/// What the probe says of a trunk with this target and source.
async fn probed(target: SocketAddr, source: &str) -> (bool, String) {
    let place = tempfile::tempdir().unwrap();
    let text = format!(
        "[sip]\nlisten = ['udp:127.0.0.1:0']\n[[sip.trunk]]\nname = 'switch'\n\
         sources = ['{source}']\ntarget = '{target}'\n"
    );
    std::fs::write(place.path().join("undertone.toml"), text).unwrap();
    let (is_good, said, error) =
        undertone(&["check", "--probe", "undertone.toml"], place.path()).await;
    assert_eq!(error, "");
    (is_good, said)
}

#[tokio::test]
async fn a_probe_says_whether_a_switch_answers_and_from_where_it_may_call() {
    let config = PhoneConfig::new("switch", "", SocketAddr::from(([127, 0, 0, 1], 9)), 440.0);
    let switch = Phone::start(config).await.unwrap();
    let (is_there, said) = probed(switch.address(), "127.0.0.1").await;
    assert!(is_there && said.contains("(UDP) answers 200 OK"), "{said}");
    assert!(!said.contains("refused"), "{said}");
    assert!(said.contains("its sound is told to come to 127.0.0.1, UDP ports 20000 to 29999"));
    let (is_there, said) = probed(switch.address(), "127.0.0.7").await;
    assert!(is_there && said.contains("it is not among its sources"), "{said}");
}

#[tokio::test]
async fn a_probe_says_which_realm_a_switch_wants_a_password_for() {
    let switch = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = switch.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        let (size, from) = switch.recv_from(&mut buffer).await.unwrap();
        let asked = String::from_utf8_lossy(&buffer[..size]).into_owned();
        let fields = asked.lines().filter(|line| {
            ["Via:", "From:", "To:", "Call-ID:", "CSeq:"].iter().any(|name| line.starts_with(name))
        });
        let fields: String = fields.map(|line| format!("{line}\r\n")).collect();
        let answer = format!(
            "SIP/2.0 401 Unauthorized\r\n{fields}WWW-Authenticate: Digest realm=\"pbx\", \
             nonce=\"1\"\r\nContent-Length: 0\r\n\r\n"
        );
        switch.send_to(answer.as_bytes(), from).await.unwrap();
    });
    let (is_there, said) = probed(target, "127.0.0.1").await;
    assert!(!is_there && said.contains("asks for a password for realm \"pbx\""), "{said}");
    let (stranger, wish) = ("`undertone attach` prints", "set realm, user and password");
    assert!(said.contains(stranger) && said.contains(wish), "{said}");
}

#[tokio::test]
async fn a_probe_fails_where_nobody_answers() {
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (is_there, said) = probed(silent.local_addr().unwrap(), "127.0.0.1").await;
    assert!(!is_there && said.contains("does not answer OPTIONS from 127.0.0.1\n"), "{said}");
}
