use super::*;
use crate::media::PortUse;
use crate::model::{DeviceId, Role};
use crate::sip::b2bua::Numbering;
use crate::sip::flow::Protocol;
use crate::sip::sdp::SrtpPolicy;
use std::collections::BTreeSet;

fn read(text: &str) -> Result<Config, Problems> {
    parse(Some((Path::new("undertone.toml"), text)), [])
}

/// The problems as they are printed.
fn problems(text: &str) -> Vec<String> {
    let problems = read(text).expect_err("something is wrong");
    problems.list.iter().map(ToString::to_string).collect()
}

/// The one problem begins like this.
fn assert_problem(text: &str, expected: &str) {
    let found = problems(text);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with(expected), "{}", found[0]);
}

#[test]
fn gateway_and_sip_backend_without_configuration_find_each_other_and_share_no_door() {
    let config = read("").expect("the defaults are fine");
    let addresses = [
        config.rest_bind,
        config.grpc_bind,
        config.admin_bind,
        config.backend_grpc_bind,
        config.backend_admin_bind,
    ];
    let distinct: BTreeSet<_> = addresses.into_iter().collect();
    assert_eq!(distinct.len(), addresses.len(), "{addresses:?}");
    assert_eq!(config.backend_url, format!("http://{}", config.backend_grpc_bind));
    assert_ne!(config.state_file("gateway"), config.state_file("sip-backend"));
}

#[test]
fn srtp_is_off_unless_a_device_or_a_trunk_has_it() {
    let text = "[[device]]\nid = \"d\"\nnumber = \"1\"\nsrtp = \"required\"\n\
                srtp_over_clear = true\n[[device]]\n\
                id = \"e\"\nnumber = \"2\"\n\
                [[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"192.0.2.1\"\n\
                srtp = \"optional\"\n\
                [[sip.trunk]]\nname = \"b\"\nsources = []\ntarget = \"192.0.2.2\"\n";
    let config = read(text).expect("nothing is wrong");
    let accounts: Vec<_> =
        config.sip.accounts.iter().map(|account| (account.number.as_str(), account.srtp)).collect();
    assert_eq!(accounts, [("1", SrtpPolicy::Required), ("2", SrtpPolicy::Off)]);
    let trunks: Vec<_> =
        config.sip.trunks.iter().map(|trunk| (trunk.name.as_str(), trunk.srtp)).collect();
    assert_eq!(trunks, [("a", SrtpPolicy::Optional), ("b", SrtpPolicy::Off)]);
    let numbered: Vec<_> =
        Numbering::of(&config.sip).extensions().map(|extension| extension.srtp).collect();
    assert_eq!(numbered, [SrtpPolicy::Required, SrtpPolicy::Off]);
}

#[test]
fn ports_are_shared_where_the_file_says_so_and_not_by_whom_it_says_not() {
    let text = "[media]\nport_use = \"shared\"\n[[device]]\nid = \"d\"\nnumber = \"1\"\n\
                own_ports = true\n\
                [[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"192.0.2.1\"\n\
                own_ports = true\n";
    let config = read(text).expect("nothing is wrong");
    assert_eq!(config.media.port_use, PortUse::Shared);
    assert!(config.sip.accounts.iter().all(|account| account.own_ports));
    assert!(config.sip.trunks.iter().all(|trunk| trunk.own_ports));
    assert!(Numbering::of(&config.sip).extensions().all(|extension| extension.own_ports));
    let config = parse(None, []).expect("the defaults are fine");
    assert_eq!(config.media.port_use, PortUse::PerLeg);
    assert!(config.sip.accounts.iter().all(|account| !account.own_ports));
}

#[test]
fn without_a_file_it_is_the_world_of_the_sample() {
    let config = parse(None, []).expect("the defaults are fine");
    assert_eq!(config.rest_bind.to_string(), "127.0.0.1:8080");
    assert_eq!(config.grpc_bind.to_string(), "127.0.0.1:11051");
    assert_eq!(config.admin_bind.to_string(), "127.0.0.1:9090");
    assert_eq!(config.state_dir, Path::new("./undertone-data"));
    let device = |id: &str| {
        config.directory.devices.get(&DeviceId::from(id)).map(|device| device.number.as_str())
    };
    assert_eq!(device("efelab32-53f9-43ce-b65e-5768c61f7d4a"), Some("5005"));
    assert_eq!(device("9c14cad7-17c4-48d0-8492-7cf0ff92c224"), Some("5001"));
    assert_eq!(
        device("b6f0c1de-3c0b-4f6e-9a57-0d2f8f1e64c3"),
        None,
        "a customer's account is nobody's device"
    );
    assert!(
        config.directory.voice_environments.contains_key("370ef5e6-9e3c-4d91-9588-7f4dfe67e011")
    );
    assert_eq!(config.directory.groups.len(), 1);
    let accounts: Vec<_> =
        config.sip.accounts.iter().map(|account| account.number.as_str()).collect();
    assert_eq!(accounts, ["5001", "7001", "5005"], "by the ids of their devices");
}

#[test]
fn the_printed_defaults_are_the_defaults_of_the_rooms() {
    let config = read(commented_defaults()).expect("what we print can be read");
    // It listens on the loopback only.
    let local = http::HttpConfig { hosts: vec!["localhost".to_owned()], ..Default::default() };
    assert_eq!(config.http, local);
    assert_eq!(config.login, auth::AuthConfig::default());
    assert_eq!(config.cometd, cometd::CometdConfig::default());
    assert_eq!(config.gateway, gateway::GatewayConfig::default());
    assert_eq!(config.b2bua, B2buaConfig::default());
    assert_eq!(config.media, MediaConfig::default());
    assert_eq!(config.telemetry, telemetry::LogConfig::default());
    let (ours, theirs) = (&config.sip, &sip::config::SipConfig::default());
    assert_eq!(ours.listen, theirs.listen);
    assert_eq!(ours.limits, theirs.limits);
    assert_eq!((&ours.realm, ours.session_expires), (&theirs.realm, theirs.session_expires));
    assert_eq!(ours.min_session_expires, theirs.min_session_expires);
    assert_eq!(ours.challenge_invites, theirs.challenge_invites);
}

#[test]
fn every_key_is_documented_and_the_commented_ones_can_be_set() {
    let is_key = |line: &str| {
        let name = line.split(" = ").next().unwrap_or_default();
        line.contains(" = ")
            && !name.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let (mut documented, mut seen, mut section) =
        (false, std::collections::BTreeSet::new(), String::new());
    for line in commented_defaults().lines() {
        let bare = line.strip_prefix('#').unwrap_or(line);
        if bare.starts_with('[') {
            section = bare.to_owned();
        } else if is_key(bare) {
            let key = format!("{section}{}", bare.split(" = ").next().unwrap_or_default());
            // The user, password and realm of a trunk are explained together.
            let together = key.ends_with("trunk]]password") || key.ends_with("trunk]]realm");
            assert!(!seen.insert(key.clone()) || documented || together, "{key} is not documented");
            documented = false;
        } else {
            documented = line.starts_with("# ");
        }
    }
    let uncommented: String = commented_defaults()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            // In the place of what stands above.
            Some(bare) if bare.starts_with("password") && bare.contains("_file = ") => "\n".into(),
            Some(bare) if bare.starts_with("target = ") => "\n".into(),
            Some(bare) if is_key(bare) || bare.starts_with("[[") => format!("{bare}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    // A name of a certificate goes with TLS alone.
    let uncommented = uncommented
        .replace("transport = \"udp\"", "transport = \"tls\"")
        .replace("\"tcp:127.0.0.1:5060\"]", "\"tls:127.0.0.1:5061\"]");
    let config = read(&uncommented).expect("every commented key can be set");
    assert_eq!(config.sip.trunks.len(), 1);
    assert_eq!(config.sip.trunks[0].logins.len(), 1);
    assert_eq!(config.issuers.len(), 1);
    assert_eq!(
        config.media.advertised.map(|address| address.to_string()).as_deref(),
        Some("203.0.113.5")
    );
}

/// A file with a trunk, a device, and this from line 9 on.
fn behind(text: &str) -> String {
    let trunk = "[[sip.trunk]]\nname = \"switch\"\nsources = []\ntarget = \"192.0.2.1\"\n";
    format!("{trunk}[[device]]\nid = \"d\"\nnumber = \"5001\"\nvia = \"switch\"\n{text}")
}

#[test]
fn what_can_not_be_behind_a_switch_is_told_with_its_line() {
    let range = "[[device_range]]\nfirst = \"5100\"\nlast = \"5199\"\n";
    for (text, expected) in [
        (behind("user = \"1001\"\npassword = \"secret\""), "10: device[0].password: its phones"),
        (behind("transport = \"tls\""), "9: device[0].transport: nothing in sip.listen"),
        (behind("qualify = false"), "9: device[0].qualify: is for the trunk 'switch' to say"),
        (
            behind("").replace("via = \"switch", "via = \"moon"),
            "8: device[0].via: there is no trunk",
        ),
        (
            behind("[[device]]\nid = \"e\"\nnumber = \"1\"\nuser = \"2\""),
            "12: device[1].user: needs via",
        ),
        (
            behind("[[device]]\nid = \"e\"\nnumber = \"1\"\nvia = \"switch\"\nuser = \"5001\""),
            "12: device[1].via: '5001' is what 'switch' calls device 'd' already",
        ),
        (behind(&format!("{range}via = \"moon\"")), "12: device_range[0].via: there is no trunk"),
        (
            behind(&format!("{range}via = \"switch\"\nuser = \"1\"")),
            "13: device_range[0].user: '1' is not text with {number}",
        ),
        (
            behind(&format!("{range}via = \"switch\"\nuser = \"{{number:1}}\"")),
            "13: device_range[0].user: '0' is what 'switch' calls device '5100' already",
        ),
        (
            behind(&format!("{range}via = \"switch\"")).replace("5199", "5099"),
            "11: device_range[0].last: '5099' does not come after first",
        ),
        (
            behind(&format!("{range}via = \"switch\"")).replace("5100", "5000"),
            "10: device_range[0].first: '5001' is a device already",
        ),
        (
            behind(&format!("{range}via = \"switch\"")).replace("5199", "999999"),
            "11: device_range[0].last",
        ),
    ] {
        let found = problems(&text);
        let expected = format!("undertone.toml:{expected}");
        assert!(
            found.iter().any(|problem| problem.starts_with(&expected)),
            "{expected}: {found:?}"
        );
    }
}

#[test]
fn check_says_what_a_switch_that_hands_calls_on_unseen_gives_up() {
    let range = "[[device_range]]\nfirst = \"5100\"\nlast = \"5109\"\nvia = \"switch\"\n";
    let remarks = |handed_on: &str| {
        let text = format!("handed_on = \"{handed_on}\"\nsources");
        let text = behind(range).replacen("sources", &text, 1).replace("192.0.2.1", "127.0.0.9");
        let file = Some((Path::new("undertone.toml"), text.as_str()));
        let (_, remarks) = parse_with_remarks(file, [], Scrutiny::default()).expect("good");
        remarks.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let said = "undertone.toml:3: sip.trunk[0].handed_on: nobody is coached, and nobody coaches, \
                at the 11 devices behind 'switch': it may hand a call on without saying so \
                (found \"refuse\")";
    assert_eq!(remarks("refuse"), [said]);
    assert_eq!(remarks("told"), [""; 0]);
}

#[test]
fn a_range_is_devices_with_numbers_and_names_in_a_row() {
    let range = "user = \"1001\"\n[[device_range]]\nfirst = \"0500\"\nlast = \"0502\"\n\
                 via = \"switch\"\nid = \"desk-{number}\"\nuser = \"1{number:3}\"\n\
                 [[user]]\nid = \"anna\"\nroles = [\"Agent\"]\ndevices = [\"desk-0501\"]";
    let config = read(&behind(range)).expect("fine");
    let accounts = config.sip.accounts.iter();
    let found: Vec<_> = accounts
        .map(|it| (it.device.as_str(), it.number.as_str(), it.name_at_switch().as_str()))
        .collect();
    let expected = [
        ("d", "5001", "1001"),
        ("desk-0500", "0500", "1500"),
        ("desk-0501", "0501", "1501"),
        ("desk-0502", "0502", "1502"),
    ];
    assert_eq!(found, expected);
    assert_eq!(config.directory.devices.len(), 4);
    assert_eq!(config.ranged.len(), 3);

    // With a directory from elsewhere, those of the range stay, but for what is taken.
    let mut config = config;
    let mut kept = config.directory.clone();
    kept.devices.retain(|device, _| device.as_str() == "d");
    let taken = sip::config::SipAccount::behind("x".into(), "0502".into(), "switch");
    config.replace_directory(kept, [taken].into_iter().collect());
    let numbers: Vec<_> = config.sip.accounts.iter().map(|it| it.device.as_str()).collect();
    assert_eq!(numbers, ["desk-0500", "desk-0501", "x"]);
    assert_eq!(config.ranged.len(), 2);
    let anna = &config.directory.users["anna"];
    assert_eq!(anna.devices.len(), 1);
    let (mut rest, mut accounts) = (config.directory.clone(), config.sip.accounts.clone());
    config.without_ranged(&mut rest, &mut accounts);
    assert_eq!((rest.devices.len(), accounts.len()), (1, 1));
}

#[test]
fn a_file_changes_what_it_says_and_nothing_else() {
    let config = read("[rest]\nbind = \"127.0.0.1:9999\"\n[monitoring]\ninvite_timeout = 2.5\n")
        .expect("fine");
    assert_eq!(config.http.public_url, "http://127.0.0.1:9999", "it follows the address");
    assert_eq!(config.rest_bind.port(), 9999);
    assert_eq!(config.b2bua.supervision.invite_timeout.as_millis(), 2500);
    assert_eq!(config.grpc_bind.port(), 11051);
    assert_eq!(config.directory.users.len(), 2);
}

#[test]
fn over_simulated_telephones_a_file_without_a_directory_has_two_supervisors_and_two_agents() {
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("undertone.toml");
    let numbers = |text: &str| {
        std::fs::write(&file, text).expect("a file");
        let config = load_simulated(Some(&file)).expect("fine");
        assert_eq!(config.rest_bind.to_string(), "127.0.0.1:18080");
        let devices = config.directory.devices.values().cloned();
        devices.map(|device| device.number.to_string()).collect::<BTreeSet<_>>()
    };
    let bind = "[rest]\nbind = '127.0.0.1:18080'\n";
    assert_eq!(numbers(bind), ["5001", "5002", "5005", "5006"].map(str::to_owned).into());
    let own = format!("{bind}[[device]]\nid = 'd1'\nnumber = '100'\n");
    assert_eq!(numbers(&own), ["100".to_owned()].into());
}

#[test]
fn a_directory_in_the_file_replaces_the_built_in_one_as_a_whole() {
    let text = r#"
[[device]]
id = "d1"
number = "100"
[[user]]
id = "anna"
roles = ["Agent", "Supervisor"]
devices = ["d1"]
"#;
    let config = read(text).expect("fine");
    assert_eq!((config.directory.users.len(), config.directory.devices.len()), (1, 1));
    assert!(config.directory.groups.is_empty());
    // What the device says of its voice environment points to something.
    let environment = &config.directory.devices[&DeviceId::from("d1")].voice_environment;
    let environments: Vec<&String> = config.directory.voice_environments.keys().collect();
    assert_eq!(environments, [environment]);
    assert!(config.directory.users[&UserId::from("anna")].is(Role::Supervisor));
}

#[test]
fn the_names_of_a_user_follow_from_each_other() {
    let names = |keys: &str| {
        let user = format!("[[user]]\nid = \"anna\"\nroles = [\"Agent\"]\n{keys}");
        let config = read(&user).expect("fine");
        let user = config.directory.user(&UserId::from("anna")).expect("a user").clone();
        [user.display_name, user.first_name, user.last_name, user.email]
    };
    let display = |name: &str| format!("display_name = \"{name}\"\n");
    assert_eq!(names(""), ["anna", "anna", "", ""]);
    assert_eq!(names(&display("Anna")), ["Anna", "Anna", "", ""]);
    assert_eq!(names(&display("Anna Maria Berg")), ["Anna Maria Berg", "Anna Maria", "Berg", ""]);
    let both = "first_name = \"Anna\"\nlast_name = \"Berg\"\nemail = \"anna@desk.example\"\n";
    assert_eq!(names(both), ["Anna Berg", "Anna", "Berg", "anna@desk.example"]);
    assert_eq!(
        names(&format!("{}{both}", display("A. B."))),
        ["A. B.", "Anna", "Berg", "anna@desk.example"]
    );
    assert_eq!(names("last_name = \"Berg\""), ["Berg", "", "Berg", ""]);
}

#[test]
fn the_environment_has_the_last_word() {
    let variables = [
        ("UNDERTONE__REST__BIND", "127.0.0.1:7777"),
        ("UNDERTONE__GRPC__INSECURE_BIND", "true"),
        ("UNDERTONE__GRPC__BIND", "192.0.2.1:11051"),
        ("UNDERTONE__SIP__LISTEN", "[\"udp:127.0.0.1:5070\"]"),
        ("UNDERTONE__STATE_DIR", "/var/lib/undertone"),
        ("UNDERTONE__MONITORING__INTRUSION", "never"),
        ("PATH", "/bin"),
    ];
    let variables = variables.map(|(key, value)| (key.to_owned(), value.to_owned()));
    let file = Some((Path::new("u.toml"), "[rest]\nbind = \"127.0.0.1:9999\"\n"));
    let config = parse(file, variables).expect("fine");
    assert_eq!(config.rest_bind.port(), 7777);
    assert_eq!(config.grpc_bind.to_string(), "192.0.2.1:11051");
    assert_eq!(config.sip.listen.len(), 1);
    assert_eq!(config.state_dir, Path::new("/var/lib/undertone"));
}

#[test]
fn a_bad_value_in_the_environment_names_the_variable() {
    let variable = ("UNDERTONE__REST__BIND".to_owned(), "nonsense".to_owned());
    let problems = parse(None, [variable]).expect_err("it is bad");
    assert!(
        problems.to_string().starts_with("environment UNDERTONE__REST__BIND: rest.bind: "),
        "{problems}"
    );
    let variable = ("UNDERTONE__RESTT__BIND".to_owned(), "x".to_owned());
    let problems = parse(None, [variable]).expect_err("it is bad");
    assert!(
        problems.to_string().starts_with("environment UNDERTONE__RESTT__BIND: restt: "),
        "{problems}"
    );
}

#[test]
fn what_of_the_file_is_repeated_is_escaped_and_cut() {
    let text = format!(
        "[[sip.trunk]]\nname = \"a\"\ntarget = \"udp:192.0.2.1:5060\"\n\
         sources = [\"\\u001b[2J\\u202e{}\"]\n",
        "x".repeat(5000)
    );
    let said = read(&text).expect_err("it is no source").to_string();
    assert!(said.contains(r"'\u{1b}[2J\u{202e}xxx"), "{said}");
    assert!(said.lines().all(|line| line.chars().count() < 500), "{said}");
    assert!(said.chars().all(|c| c == '\n' || !c.is_control()), "{said:?}");
}

#[test]
fn each_bad_value_names_its_key_and_line() {
    for (text, expected) in [
        (
            "[[device]]\nid = \"d\"\nnumber = \"1\"\nnat = \"yes\"",
            "undertone.toml:4: device[0].nat: invalid value string \"yes\", expected \"auto\", \
             true or false",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"192.0.2.1\"\n\
             media_sources = [\"192.0.2.1/24\"]",
            "undertone.toml:5: sip.trunk[0].media_sources[0]: '192.0.2.1/24' has bits set behind \
             the first 24: the network is 192.0.2.0/24",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\ntarget = \"192.0.2.1\"\n\
             sources = [\"192.0.2.0/24\",\n\"2001:db8::1/32\"]",
            "undertone.toml:5: sip.trunk[0].sources[1]: '2001:db8::1/32' has bits set behind the \
             first 32: the network is 2001:db8::/32",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\ntarget = \"192.0.2.1\"\nsources = [\"192.0.2.0/33\"]",
            "undertone.toml:4: sip.trunk[0].sources[0]: '192.0.2.0/33' is not an address or a name, \
             with or without a port, or a network",
        ),
        (
            "[rest]\ntrusted_proxies = [\"10.0.0.1\",\n \"10.1.2.3/16\"]",
            "undertone.toml:3: rest.trusted_proxies[1]: '10.1.2.3/16' has bits set behind the \
             first 16: the network is 10.1.0.0/16",
        ),
        (
            "[rest]\ntrusted_proxies = [\"proxy.example\"]",
            "undertone.toml:2: rest.trusted_proxies[0]: 'proxy.example' is not an address or a \
             network",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"192.0.2.1\"\n\
             user_data_headers = { \"Subject\" = \"a\" }",
            "undertone.toml:5: sip.trunk[0].user_data_headers: 'Subject' is neither User-to-User nor",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"192.0.2.1\"\n\
             send_user_data = { \"X-a b\" = \"a\" }",
            "undertone.toml:5: sip.trunk[0].send_user_data: 'X-a b' is neither User-to-User nor",
        ),
        (
            "[[device]]\nid = \"d\"\nnumber = \"1\"\n\
             send_user_data = { \"X-Undertone-Call\" = \"a\" }",
            "undertone.toml:4: device[0].send_user_data: 'X-Undertone-Call' is a header field of our",
        ),
        (
            "[[device]]\nid = \"d\"\nnumber = \"1\"\n\
             user_data_headers = { \"X-A\" = \"a\", \"x-a\" = \"b\" }",
            "undertone.toml:4: device[0].user_data_headers: 'x-a' stands for two keys",
        ),
        (
            "[[device]]\nid = \"d\"\nnumber = \"1\"\n\
             user_data_headers = { \"X-A\" = \"a\", \"X-B\" = \"a\" }",
            "undertone.toml:4: device[0].user_data_headers: two header fields stand for the key 'a'",
        ),
        (
            "[[device]]\nid = \"d\"\nnumber = \"1\"\nuser_data_headers = { \"X-A\" = \"\" }",
            "undertone.toml:4: device[0].user_data_headers: '' can not be a key of call data",
        ),
        (
            "[[device]]\nid = \"d\"\nnumber = \"1\"\n\
             user_data_headers = { \"Foo\" = \"bar\", \"X-Ok\" = \"\" }",
            "undertone.toml:4: device[0].user_data_headers: 'Foo' is neither User-to-User nor the \
             name of a header field that begins with X-; '' can not be a key of call data",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"x:99999\"",
            "undertone.toml:4: sip.trunk[0].target: 'x:99999' is not host, host:port or a URI",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntargets = [\"x\",\n\"y:0\"]",
            "undertone.toml:5: sip.trunk[0].targets[1]: 'y:0' is not host, host:port or a URI",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"x\"\ntargets = [\"y\"]",
            "undertone.toml:5: sip.trunk[0].targets: target is there, too: one of the two",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntargets = [\"x\", { target = \"y\", \
             prio = 1 }]",
            "undertone.toml:4: sip.trunk[0].targets[1]",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"sip:x;transport=tls\"",
            "undertone.toml:4: sip.trunk[0].target: nothing in sip.listen begins with tls:",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"x\"\nregister = 1",
            "undertone.toml:5: sip.trunk[0].register: must be a table",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"x\"\n\
             register = { user = \"u\" }",
            "undertone.toml:5: sip.trunk[0].register.password: is missing, and password_file, too",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"x\"\n\
             register = { user = \"u\", password = \"p\", contact = \"5\" }",
            "undertone.toml:5: sip.trunk[0].register.contact: there is no key 'contact' here",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"x\"\n\
             [[sip.trunk.login]]\nuser = \"u\"\npassword = \"p\"\nrealm = \"r\"\n\
             [[sip.trunk.login]]\nuser = \"v\"\npassword = \"p\"\nrealm = \"r\"",
            "undertone.toml:12: sip.trunk[0].login[1].realm: there are two logins for 'r'",
        ),
        ("[rest]\n\nbind = \"nonsense\"", "undertone.toml:3: rest.bind: "),
        (
            "[rest]\nbnid = \"x\"",
            "undertone.toml:2: rest.bnid: there is no key 'bnid' here; there are: bind, ",
        ),
        (
            "# hello\n[rset]\nbind = \"x\"",
            "undertone.toml:2: rset: there is no section or key 'rset'",
        ),
        ("insecure = true", "undertone.toml:1: insecure: there is no section or key 'insecure'"),
        ("rest = 1", "undertone.toml:1: rest: must be a section"),
        (
            "rest.insecure_bind = \"yes\"",
            "undertone.toml:1: rest.insecure_bind: found string \"yes\", expected a boolean",
        ),
        (
            "[monitoring]\nintrusion = \"Any\"",
            "undertone.toml:2: monitoring.intrusion: 'Any' is not one of any, barge-in, never",
        ),
        (
            "[monitoring]\ninvite_timeout = 0",
            "undertone.toml:2: monitoring.invite_timeout: must be more than 0",
        ),
        (
            "[monitoring]\ninvite_timeout = -1",
            "undertone.toml:2: monitoring.invite_timeout: -1 is not a number of seconds",
        ),
        (
            "[monitoring]\ninvite_timeout = nan",
            "undertone.toml:2: monitoring.invite_timeout: NaN is not",
        ),
        (
            "[monitoring]\nmax_supervisors_per_device = 0",
            "undertone.toml:2: monitoring.max_supervisors_per_device: ",
        ),
        (
            "[rest]\nbind = \"0.0.0.0:8080\"",
            "undertone.toml:2: rest.bind: 0.0.0.0:8080 is not a loopback address",
        ),
        (
            "[grpc]\nbind = \"192.0.2.1:1\"",
            "undertone.toml:2: grpc.bind: 192.0.2.1:1 is not a loopback address",
        ),
        (
            "admin.bind = \"[::]:9090\"",
            "undertone.toml:1: admin.bind: [::]:9090 is not a loopback address",
        ),
        (
            "[sip_backend]\nadmin_bind = \"192.0.2.1:1\"",
            "undertone.toml:2: sip_backend.admin_bind: 192.0.2.1:1 is not a loopback address",
        ),
        (
            "backend_url = \"http://192.0.2.1:11052\"",
            "undertone.toml:1: backend_url: 'http://192.0.2.1:11052' is another machine: its \
             commands need https://",
        ),
        (
            "[sip]\nlisten = [\"udp:127.0.0.1:5060\",\n\"tls:127.0.0.1:5061\"]",
            "undertone.toml:3: sip.listen[1]: there is no certificate for it: set tls.certificate, \
             or tls.sip_certificate",
        ),
        (
            "[tls]\nsip_certificate = \"c.pem\"\n\
             [sip]\nlisten = [\"tcp:127.0.0.1:5060\",\n\"tls:127.0.0.1:5060\"]",
            "undertone.toml:5: sip.listen[1]: 127.0.0.1:5060 is already taken by sip.listen[0]",
        ),
        (
            "[[device]]\nid = \"d\"\nnumber = \"1\"\nsrtp = \"required\"",
            "undertone.toml:4: device[0].srtp: its keys go over SIP that others can read: set \
             transport = \"tls\", or srtp_over_clear = true if the network is trusted",
        ),
        (
            "[[device]]\nid = \"d\"\nnumber = \"1\"\ntransport = \"tls\"",
            "undertone.toml:4: device[0].transport: nothing in sip.listen begins with tls:",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"x\"\nsrtp = \"required\"",
            "undertone.toml:5: sip.trunk[0].srtp: its keys go over SIP that others can read: set \
             transport = \"tls\", or srtp_over_clear = true if the network is trusted",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"x\"\ntransport = \"tls\"",
            "undertone.toml:5: sip.trunk[0].transport: nothing in sip.listen begins with tls:",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"x\"\ntls_name = \"y\"",
            "undertone.toml:5: sip.trunk[0].tls_name: 'y' is a certificate's name: transport must \
             be \"tls\"",
        ),
        (
            "[tls]\nsip_certificate = \"c.pem\"\n[sip]\nlisten = [\"tls:127.0.0.1:5061\"]\n\
             [[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"192.0.2.1\"\n\
             transport = \"tls\"",
            "undertone.toml:8: sip.trunk[0].target: '192.0.2.1' is an address: tls_name must say \
             which domain its certificate is for",
        ),
        (
            "[tls]\nsip_certificate = \"c.pem\"\n[sip]\nlisten = [\"tls:127.0.0.1:5061\"]\n\
             [[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"192.0.2.1\"\n\
             transport = \"tls\"\ntls_name = \"*.example\"",
            "undertone.toml:10: sip.trunk[0].tls_name: '*.example' is not a domain",
        ),
        (
            "[tls]\ngrpc_key = \"k.pem\"",
            "undertone.toml:2: tls.grpc_key: there is no tls.grpc_certificate that it goes with",
        ),
        (
            "[sip_backend]\nadmin_bind = \"127.0.0.1:11052\"",
            "undertone.toml:2: sip_backend.admin_bind: 127.0.0.1:11052 is already taken by \
             sip_backend.grpc_bind",
        ),
        (
            "[grpc]\nbind = \"127.0.0.1:8080\"",
            "undertone.toml:2: grpc.bind: 127.0.0.1:8080 is already taken by rest.bind",
        ),
        ("[rest]\npublic_url = \"localhost:8080\"", "undertone.toml:2: rest.public_url: "),
        ("[rest]\npublic_url = \"http://x/api\"", "undertone.toml:2: rest.public_url: "),
        (
            "[rest]\nallowed_origins = [\"https://a\",\n \"b\"]",
            "undertone.toml:3: rest.allowed_origins[1]: ",
        ),
        (
            "[sip]\nlisten = [\"udp:127.0.0.1:5060\",\n\"sctp:127.0.0.1:5060\"]",
            "undertone.toml:3: sip.listen[1]: ",
        ),
        (
            "[sip]\nlisten = [\"udp:0.0.0.0:5060\"]",
            "undertone.toml:2: sip.listen[0]: listening on every address",
        ),
        ("[sip]\nrealm = \"a\\\"b\"", "undertone.toml:2: sip.realm: "),
        (
            "[sip]\ncodecs = [\"G728\"]",
            "undertone.toml:2: sip.codecs[0]: 'G728' is not one of PCMU, PCMA, G722, OPUS, L16, \
             G729",
        ),
        (
            "[sip]\nmin_expires = 7200",
            "undertone.toml:2: sip.min_expires: must not be longer than sip.max_expires, which is \
             3600 by default (found 7200)",
        ),
        (
            "[sip]\nmax_expires = 100\nmin_expires = 200",
            "undertone.toml:3: sip.min_expires: must not be longer than sip.max_expires, which is \
             100 (found 200)",
        ),
        (
            "[bayeux]\nhold = 90",
            "undertone.toml:2: bayeux.hold: must not be longer than bayeux.longest_hold, which is \
             60 by default (found 90)",
        ),
        (
            "[sip]\nsession_expires = 89.5",
            "undertone.toml:2: sip.session_expires: must be at least 90 seconds (RFC 4028 4) \
             (found 89.5)",
        ),
        (
            "[rest]\nbind = \"127.0.0.1:9090\"",
            "undertone.toml:2: rest.bind: 127.0.0.1:9090 is already taken by admin.bind, which is \
             \"127.0.0.1:9090\" by default",
        ),
        (
            "[admin]\nbind = \"127.0.0.1:5060\"",
            "undertone.toml:2: admin.bind: 127.0.0.1:5060 is already taken by sip.listen[1], which \
             is \"tcp:127.0.0.1:5060\" by default",
        ),
        (
            "[sip]\nlisten = [\"udp:127.0.0.1:5060\",\n\"udp:127.0.0.1:5060\"]",
            "undertone.toml:3: sip.listen[1]: 127.0.0.1:5060 is already taken by sip.listen[0]",
        ),
        (
            "[sip]\nadvertised = \"sip.example\"\n\
             listen = [\"udp:0.0.0.0:5060\",\n\"udp:192.0.2.1:5060\"]",
            "undertone.toml:4: sip.listen[1]: 192.0.2.1:5060 is already taken by sip.listen[0], \
             which is \"udp:0.0.0.0:5060\"",
        ),
        (
            "[sip]\nlisten = [\"tcp:127.0.0.1:20000\", \"udp:127.0.0.1:29999\"]",
            "undertone.toml:2: sip.listen[1]: port 29999 is among the RTP ports of media.ports, \
             which is [20000, 29999] by default",
        ),
        (
            "[media]\nports = [5000, 6000]",
            "undertone.toml:2: media.ports: has port 5060 of sip.listen[0], which is \
             \"udp:127.0.0.1:5060\" by default (found [5000, 6000])",
        ),
        ("[media]\nports = [20000]", "undertone.toml:2: media.ports"),
        (
            "[media]\nports = [20000, 20000]",
            "undertone.toml:2: media.ports: [20000, 20000] has no even port",
        ),
        ("[media]\nports = [65535, 65535]", "undertone.toml:2: media.ports: "),
        ("[media]\nports = [20000, 70000]", "undertone.toml:2: media.ports"),
        (
            "[media]\nbind = \"0.0.0.0\"",
            "undertone.toml:2: media.bind: binding every address needs",
        ),
        (
            "[media]\nadvertised = \"2001:db8::1\"",
            "undertone.toml:2: media.advertised: is an IPv6 address, and media.bind is an IPv4 one",
        ),
        (
            "[media]\nbind = \"::1\"\nadvertised = \"192.0.2.1\"",
            "undertone.toml:3: media.advertised: is an IPv4 address, and media.bind is an IPv6 one",
        ),
        ("[media]\ndscp = 64", "undertone.toml:2: media.dscp: "),
        ("[log]\nfilter = \"a=b=c\"", "undertone.toml:2: log.filter: "),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []",
            "undertone.toml:1: sip.trunk[0]: 'target' is missing",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = [\"no where\"]\ntarget = \"x\"",
            "undertone.toml:3: sip.trunk[0].sources[0]: ",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"sip:x\\r\\n\"",
            "undertone.toml:4: sip.trunk[0].target: ",
        ),
        (
            "[[sip.trunk]]\nname = \"a\"\nsources = []\ntarget = \"x\"\nuser = \"u\"",
            "undertone.toml:5: sip.trunk[0].user: user, password and realm belong together",
        ),
        (
            "[[device]]\nid = \"d\"\nnumber = \"1\"\nsrtp = \"always\"",
            "undertone.toml:4: device[0].srtp: ",
        ),
        (
            "[[device]]\nid = \"d\"\nnumber = \"1\"\nringtone = 1",
            "undertone.toml:4: device[0].ringtone: there is no key",
        ),
        ("[[device]]\nid = \"d\"\nnumber = \"sip:1@x\"", "undertone.toml:3: device[0].number: "),
        ("[[device]]\nid = \"a/b\"\nnumber = \"1\"", "undertone.toml:2: device[0].id: "),
        (
            "[[device]]\nid = \"d\"\nnumber = \"1\"\n[[device]]\nid = \"e\"\nnumber = \"1\"",
            "undertone.toml:6: device[1].number: '1' is there twice",
        ),
        (
            "[[device]]\nid = \"d\"\nnumber = \"1\"\naliases = [\"7\"]\n[[device]]\nid = \"e\"\n\
             number = \"2\"\naliases = [\"3\", \"1\"]",
            "undertone.toml:8: device[1].aliases[1]: '1' is a number or an alias of a device \
             already",
        ),
        (
            "[[device]]\nid = \"d\"\nnumber = \"1\"\nvoice_environment = \"x\"",
            "undertone.toml:4: device[0].voice_environment: there is no voice environment 'x'",
        ),
        (
            "[[user]]\nid = \"u\"\nroles = [\"Boss\"]",
            "undertone.toml:3: user[0].roles[0]: 'Boss' is not one of",
        ),
        ("[[user]]\nid = \"u\"\nroles = []", "undertone.toml:3: user[0].roles: "),
        ("[[user]]\nid = \"u:v\"\nroles = [\"Agent\"]", "undertone.toml:2: user[0].id: "),
        (
            "[[user]]\nid = \"u\"\nroles = [\"Agent\"]\ndevices = [\"x\"]",
            "undertone.toml:4: user[0].devices[0]: there is no device 'x'",
        ),
        (
            "[[user]]\nid = \"u\"\nroles = [\"Agent\"]\npassword_hash = \"hunter2\"",
            "undertone.toml:4: user[0].password_hash: ",
        ),
        (
            "[[user]]\nid = \"u\"\nroles = [\"Agent\"]\n[[group]]\nid = \"g\"\n\
             supervisors = [\"u\"]",
            "undertone.toml:6: group[0].supervisors[0]: user 'u' does not have the role Supervisor",
        ),
        (
            "[[group]]\nid = \"g\"\nagents = [\"x\"]",
            "undertone.toml:3: group[0].agents[0]: there is no user 'x'",
        ),
        ("[doors]\nidle = 0", "undertone.toml:2: doors.idle: must be more than 0 seconds"),
        (
            "[doors]\nrest_peers = []",
            "undertone.toml:2: doors.rest_peers: there is no key 'rest_peers' here; there are: ",
        ),
        ("[doors]\ngrpc_connections = 0", "undertone.toml:2: doors.grpc_connections: "),
        ("[bayeux]\nmax_queue = 0", "undertone.toml:2: bayeux.max_queue: must be more than 0"),
        (
            "[monitoring]\nwhisper_gain_db = 20.5",
            "undertone.toml:2: monitoring.whisper_gain_db: must be -20 to 20",
        ),
        ("[monitoring]\nduck_db = 1", "undertone.toml:2: monitoring.duck_db: must be -40 to 0"),
        (
            "[monitoring]\nnotify_agent = \"loud\"",
            "undertone.toml:2: monitoring.notify_agent: 'loud' is not one of none, event, beep",
        ),
        (
            "[audit]\ndeadline = \"soon\"",
            "undertone.toml:2: audit.deadline: found string \"soon\", expected a number of \
             seconds",
        ),
        (
            "[sip]\ndigests = [\"MD5-sess\"]",
            "undertone.toml:2: sip.digests[0]: 'MD5-sess' is not one of MD5, SHA-256, SHA-512-256",
        ),
        (
            "[sip]\nmin_expirse = 60",
            "undertone.toml:2: sip.min_expirse: there is no key 'min_expirse' here; there are: ",
        ),
        (
            "[[device]]\nid = \"d\"\nnumber = \"1\"\nkind = \"internal\"",
            "undertone.toml:4: device[0].kind: 'internal' is not one of house, customer",
        ),
        (
            "[[user]]\nid = \"u\"\nroles = [\"Agent\"]\nfeatures = [\"voice\"]",
            "undertone.toml:4: user[0].features[0]: 'voice' is not one of api-voice, \
             api-supervisor-monitoring",
        ),
        (
            "[[group]]\nid = \"g\"\nagents = [1]",
            "undertone.toml:3: group[0].agents[0]: found signed int `1`, expected a string",
        ),
        (
            "[[user]]\nid = 1\nroles = [\"Agent\"]",
            "undertone.toml:2: user[0].id: found signed int `1`, expected a string",
        ),
        ("[rest\nbind = 1", "undertone.toml:1: "),
        ("a = 1\na = 2", "undertone.toml:2: "),
    ] {
        assert_problem(text, expected);
    }
}

#[test]
fn a_device_has_one_user_and_a_customers_account_has_none() {
    let text = r#"
[[device]]
id = "d"
number = "1"
[[device]]
id = "c"
number = "2"
kind = "customer"
[[user]]
id = "a"
roles = ["Agent"]
devices = ["d"]
[[user]]
id = "b"
roles = ["Agent"]
devices = ["d", "c"]
"#;
    let expected = [
        "undertone.toml:16: user[1].devices[0]: device 'd' belongs to user 'a' already",
        "undertone.toml:16: user[1].devices[1]: device 'c' is a customer's account and belongs to \
         no user",
    ];
    assert_eq!(problems(text), expected);
}

/// Single values, keys that are none, and what several keys do not keep together.
#[test]
fn all_problems_are_named_at_once_in_the_order_of_the_file_with_what_was_found() {
    let text = r#"state_dir = ""
[media]
dscp = 64
ports = [5000, 6000]
[rest]
bind = 1
csrf = 2
foo = 3
allowed_origins = ["https://a", 7, "b"]
[sip]
realm = []
codecs = ["G728", "PCMU", "G723"]
session_expires = 60
[[user]]
id = 1
roles = []
devices = ["nowhere"]
[[user]]
id = "anna"
roles = ["Agent", "Boss"]
password_hash = "secret"
[[device]]
nat = "perhaps"
srtp = "often"
[[device]]
id = "d"
number = "1"
aliases = ["1"]
[[group]]
id = "g"
agents = ["nobody"]
supervisors = ["anna"]
[bar]
"#;
    let expected = [
        "1: state_dir: must name a directory (found \"\")",
        "3: media.dscp: must be at most 63 (found 64)",
        "4: media.ports: has port 5060 of sip.listen[0], which is \"udp:127.0.0.1:5060\" by \
         default (found [5000, 6000])",
        "6: rest.bind: found signed int `1`, expected socket address",
        "7: rest.csrf: found signed int `2`, expected a boolean",
        "8: rest.foo: there is no key 'foo' here; there are: bind, insecure_bind, public_url, contact_center_id, allowed_origins, \
         hosts, trusted_proxies, csrf, body_limit, timeout, concurrency (found 3)",
        "9: rest.allowed_origins[1]: found signed int `7`, expected a string",
        "9: rest.allowed_origins[2]: 'b' is not an origin such as https://desk.example.com",
        "11: sip.realm: found sequence, expected a string (found [])",
        "12: sip.codecs[0]: 'G728' is not one of PCMU, PCMA, G722, OPUS, L16, G729",
        "12: sip.codecs[2]: 'G723' is not one of PCMU, PCMA, G722, OPUS, L16, G729",
        "13: sip.session_expires: must be at least 90 seconds (RFC 4028 4) (found 60)",
        "15: user[0].id: found signed int `1`, expected a string",
        "16: user[0].roles: must name at least one role (found [])",
        "20: user[1].roles[1]: 'Boss' is not one of Agent, Supervisor, Admin",
        "21: user[1].password_hash: is not a PHC string of argon2id",
        "22: device[0]: 'id' is missing",
        "22: device[0]: 'number' is missing",
        "23: device[0].nat: invalid value string \"perhaps\", expected \"auto\", true or false",
        "24: device[0].srtp: 'often' is not one of off, optional, required",
        "28: device[1].aliases[0]: '1' is a number or an alias of a device already",
        "33: bar: there is no section or key 'bar'",
    ];
    let expected: Vec<_> = expected.map(|problem| format!("undertone.toml:{problem}")).into();
    assert_eq!(problems(text), expected);
}

/// The device without an id may be the one that is named, the second user another's owner.
#[test]
fn what_goes_with_a_value_that_is_not_known_is_not_judged() {
    let text = "[[device]]\nnumber = \"1\"\n[[user]]\nid = \"anna\"\nroles = [\"Agnet\"]\n\
                devices = [\"d\"]\n[[group]]\nid = \"g\"\nsupervisors = [\"anna\"]\n\
                [rest]\nbind = \"127.0.0.1\"\n[admin]\nbind = \"127.0.0.1:8080\"\n";
    let found = problems(text);
    assert_eq!(found.len(), 3, "{found:#?}");
    assert_eq!(found[0], "undertone.toml:1: device[0]: 'id' is missing");
    assert!(found[1].starts_with("undertone.toml:5: user[0].roles[0]: 'Agnet'"), "{found:#?}");
    assert!(found[2].starts_with("undertone.toml:11: rest.bind: "), "{found:#?}");
}

#[test]
fn a_secret_is_not_shown_whatever_is_wrong_with_it() {
    let text = "[[device]]\nid = \"d\"\nnumber = \"1\"\npassword = 4711\n[[user]]\nid = \"u\"\n\
                roles = [\"Agent\"]\npassword_hash = \"hunter2\"\n[[sip.trunk]]\nname = \"t\"\n\
                sources = []\ntarget = \"192.0.2.1\"\npassword = [\"4711\"]\n";
    let expected = [
        "undertone.toml:4: device[0].password: expected a string",
        "undertone.toml:8: user[0].password_hash: is not a PHC string of argon2id",
        "undertone.toml:13: sip.trunk[0].password: expected a string",
    ];
    assert_eq!(problems(text), expected);
}

#[test]
fn of_two_keys_that_do_not_go_together_the_environments_is_at_fault() {
    let variable = ("UNDERTONE__ADMIN__BIND".to_owned(), "127.0.0.1:7000".to_owned());
    let file = Some((Path::new("undertone.toml"), "[rest]\nbind = \"127.0.0.1:7000\"\n"));
    let problems = parse(file, [variable]).expect_err("they are the same");
    assert_eq!(
        problems.to_string(),
        "environment UNDERTONE__ADMIN__BIND: admin.bind: 127.0.0.1:7000 is already taken by \
         rest.bind, which is \"127.0.0.1:7000\""
    );
}

#[test]
fn sockets_of_other_hosts_ports_or_protocols_do_not_clash() {
    let text = "[sip]\nlisten = [\"udp:127.0.0.1:5060\", \"tcp:127.0.0.1:5060\", \
                \"udp:127.0.0.2:5060\", \"udp:127.0.0.2:20000\", \"udp:127.0.0.1:0\", \
                \"udp:127.0.0.1:0\", \"tcp:127.0.0.1:20000\"]\n";
    assert_eq!(read(text).expect("fine").sip.listen.len(), 7);
}

#[test]
fn a_file_that_is_not_there_is_one_clear_line() {
    let problems = load(Some(Path::new("/nowhere/undertone.toml"))).expect_err("it is not there");
    assert_eq!(
        problems.to_string(),
        "/nowhere/undertone.toml: No such file or directory (os error 2)"
    );
}

#[test]
fn a_door_to_every_address_must_say_what_clients_reach_it_under() {
    assert_problem(
        "[rest]\ninsecure_bind = true\nbind = \"0.0.0.0:8080\"",
        "undertone.toml:3: rest.bind: listening on every address needs rest.public_url",
    );
}

#[test]
fn insecure_bind_opens_the_doors() {
    let text = "[rest]\ninsecure_bind = true\nbind = \"0.0.0.0:8080\"\npublic_url = \"http://desk\"\n\
                [grpc]\nbind = \"0.0.0.0:11051\"";
    // One door's word is not another's.
    assert_problem(
        text,
        "undertone.toml:6: grpc.bind: 0.0.0.0:11051 is not a loopback address and there is no \
         certificate for it: set tls.certificate, or grpc.insecure_bind = true if the network is \
         trusted",
    );
    let both = format!("{text}\ninsecure_bind = true");
    assert!(read(&both).expect("fine").rest_bind.ip().is_unspecified());
}

#[test]
fn credentials_are_made_once_and_kept_as_hashes() {
    let place = tempfile::tempdir().expect("a directory");
    let mut config = parse(None, []).expect("fine");
    config.password_dir = Some(place.path().to_owned());
    let store = crate::store::in_memory();
    let (accounts, rest) = config.rest_credentials(&store).expect("made");
    let (endpoint, sip) = config.sip_with_credentials(&store).expect("made");
    assert_eq!(
        rest.iter().map(|made| made.name.as_str()).collect::<Vec<_>>(),
        ["agent", "supervisor"]
    );
    assert_eq!(
        sip.iter().map(|made| made.name.as_str()).collect::<Vec<_>>(),
        ["5001", "5005", "7001"]
    );
    assert!(accounts.values().all(|hash| hash.expose().starts_with("$argon2id$")));
    let kept = store.load("credentials").expect("kept");
    for made in rest.iter().chain(&sip) {
        let password = made.password.expose().as_bytes();
        assert!(
            !kept.values().any(|value| value.windows(password.len()).any(|part| part == password))
        );
    }
    let text = config.introduction(&rest, &sip).expect("there is something to say");
    let curl = "-d '{\"operationName\":\"Coach\",\"targetDeviceUri\":\"\
                http://127.0.0.1:8080/api/v2/devices/9c14cad7-17c4-48d0-8492-7cf0ff92c224\"}'";
    assert!(text.contains(curl), "{text}");
    assert!(
        text.contains(
            "http://127.0.0.1:8080/api/v2/me/devices/efelab32-53f9-43ce-b65e-5768c61f7d4a"
        ),
        "{text}"
    );
    assert!(text.contains("curl -u supervisor -H"), "{text}");
    assert!(!rest.iter().any(|made| text.contains(made.password.expose().as_str())), "{text}");
    let file = place.path().join("made-passwords.txt");
    assert!(text.contains(&file.display().to_string()), "{text}");
    let about = std::fs::metadata(&file).expect("written down");
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&about) & 0o777, 0o600);
    let lines: String = [("REST", &rest), ("SIP", &sip)]
        .iter()
        .flat_map(|(of, made)| made.iter().map(move |made| (of, made)))
        .map(|(of, made)| format!("{of} {} {}\n", made.name, made.password.expose().as_str()))
        .collect();
    assert_eq!(std::fs::read_to_string(&file).expect("written down"), lines);

    let (again, made) = config.rest_credentials(&store).expect("kept");
    assert_eq!((again, made), (accounts, Vec::new()));
    let (again, made) = config.sip_with_credentials(&store).expect("kept");
    assert_eq!(made, Vec::new());
    assert_eq!(again.accounts, endpoint.accounts);
    assert_eq!(config.introduction(&[], &[]), None);

    forget_credentials(&store).expect("forgotten");
    assert_eq!(config.rest_credentials(&store).expect("made anew").1.len(), 2);
}

#[test]
fn a_configured_password_needs_none_made() {
    let text = "[[device]]\nid = \"d\"\nnumber = \"1\"\npassword = \"secret\"";
    let config = read(text).expect("fine");
    let (endpoint, made) = config.sip_with_credentials(&crate::store::in_memory()).expect("fine");
    assert_eq!(made, Vec::new());
    let expected = sip::digest::ha1(sip::digest::Algorithm::Md5, "1", "undertone", "secret");
    let account = endpoint.account(&"d".into()).expect("the account");
    assert_eq!(account.ha1s[&sip::digest::Algorithm::Md5], expected);
}

#[test]
fn proxies_and_trunks_are_known_by_address_or_by_network() {
    let text = "[rest]\ntrusted_proxies = [\"192.0.2.7\", \"10.0.0.0/8\", \"2001:db8::/64\"]\n\
                [doors]\ngrpc_peers = [\"10.1.0.0/16\"]\n\
                [[sip.trunk]]\nname = \"t\"\ntarget = \"192.0.2.2\"\n\
                sources = [\"192.0.2.2:5060\", \"198.51.100.0/24\", \"[2001:db8::1]:5060\"]\n";
    let config = read(text).expect("fine");
    let written = |networks: &[crate::model::Network]| {
        networks.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let proxies = ["192.0.2.7", "10.0.0.0/8", "2001:db8::/64"];
    assert_eq!(written(&config.http.trusted_proxies), proxies);
    assert_eq!(written(&config.server_limits.rest.peers), proxies, "they have places of their own");
    assert_eq!(written(&config.server_limits.grpc.peers), ["10.1.0.0/16"]);
    let sources: Vec<_> = config.sip.trunks[0]
        .sources
        .iter()
        .map(|source| (source.networks[0].to_string(), source.port))
        .collect();
    let expected =
        [("192.0.2.2", Some(5060)), ("198.51.100.0/24", None), ("2001:db8::1", Some(5060))];
    assert_eq!(sources, expected.map(|(network, port)| (network.to_owned(), port)));
}

#[test]
fn nat_is_auto_unless_it_is_said_and_media_sources_are_hosts_and_networks() {
    use crate::model::Network;
    use sip::config::Nat;
    let text = "[[device]]\nid = \"a\"\nnumber = \"1\"\n\
                [[device]]\nid = \"b\"\nnumber = \"2\"\nnat = true\n\
                [[device]]\nid = \"c\"\nnumber = \"3\"\nnat = false\n\
                [[device]]\nid = \"d\"\nnumber = \"4\"\nnat = \"auto\"\n\
                [[sip.trunk]]\nname = \"t\"\nsources = [\"192.0.2.1\"]\ntarget = \"192.0.2.2\"\n\
                media_sources = [\"198.51.100.7\", \"203.0.113.0/24\"]\n";
    let config = read(text).expect("fine");
    let nats: Vec<Nat> = config.sip.accounts.iter().map(|account| account.nat).collect();
    assert_eq!(nats, [Nat::Auto, Nat::Always, Nat::Never, Nat::Auto]);
    let trunk = &config.sip.trunks[0];
    assert_eq!(trunk.nat, Nat::Auto);
    let networks =
        ["198.51.100.7", "203.0.113.0/24"].map(|text| text.parse::<Network>().expect("a network"));
    assert_eq!(trunk.media_sources, networks);
}

#[test]
fn an_issuer_is_https_and_takes_no_token_for_another() {
    let issuer = |more: &str| {
        let text = format!("[[identity.issuer]]\nname = 'a'\n{more}");
        let problems = read(&text).map(|config| config.issuers).map_err(|found| found.list);
        problems.map_err(|found| found.into_iter().map(|one| one.key).collect::<Vec<_>>())
    };
    let fine = "issuer = 'https://id.example.com/a'\n";
    assert!(issuer(&format!("{fine}audience = ['desk']")).is_ok());
    assert!(issuer("issuer = 'http://127.0.0.1:9'\nclient_id = 'desk'").is_ok());
    for (more, key) in [
        ("audience = []", "audience"),
        ("client_id = 'desk'\nscopes = ['profile']", "scopes"),
        ("audience = ['x']\nclient_secret = 'y'", "client_id"),
        ("audience = ['x']\nalgorithms = []", "algorithms"),
        ("audience = ['x']\nalgorithms = ['none']", "algorithms[0]"),
        ("audience = ['x']\nalgorithms = ['HS256']", "algorithms[0]"),
        ("audience = ['x']\ntoken_types = ['id']", "token_types[0]"),
        ("audience = ['x']\nclient_id = 'x'\ntoken_types = ['JWT']", "token_types"),
        ("audience = ['x']\njwks_url = 'http://192.0.2.1/keys'", "jwks_url"),
    ] {
        let found = issuer(&format!("{fine}{more}")).expect_err(more);
        assert_eq!(found, [format!("identity.issuer[0].{key}")], "{more}");
    }
    for url in ["http://id.example.com", "https://id.example.com/?x=1", "id.example.com"] {
        let found = issuer(&format!("issuer = '{url}'\naudience = ['x']")).expect_err(url);
        assert_eq!(found, ["identity.issuer[0].issuer"], "{url}");
    }
}

#[test]
fn no_passwords_are_made_for_users_that_log_in_by_their_issuer() {
    let text = "[[identity.issuer]]\nname = 'a'\nissuer = 'https://id.example.com'\n\
                audience = ['desk']\n";
    let config = read(text).expect("fine");
    let (accounts, made) = config.rest_credentials(&crate::store::in_memory()).expect("none");
    assert!(accounts.is_empty() && made.is_empty());
}

/// A file with this text and mode, in a directory of its own.
fn config_file(text: &str, mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
    use std::os::unix::fs::PermissionsExt;
    let place = tempfile::tempdir().expect("a directory");
    let path = place.path().join("undertone.toml");
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("a mode");
    (place, path)
}

#[test]
fn a_file_that_others_may_read_has_no_secrets() {
    let secret = "[[device]]\nid = \"d\"\nnumber = \"1\"\npassword = \"hunter2\"\n";
    let trunk = "[[sip.trunk]]\nname = \"t\"\ntarget = \"192.0.2.1\"\nsources = [\"192.0.2.1\"]\n\
                 user = \"u\"\nrealm = \"r\"\npassword = \"hunter2\"\n";
    for (text, line, key) in
        [(secret, 4, "device[0].password"), (trunk, 7, "sip.trunk[0].password")]
    {
        for mode in [0o644, 0o604, 0o660] {
            let (_place, path) = config_file(text, mode);
            let path_text = path.display();
            let expected = format!(
                "{path_text}:{line}: {key}: this secret stands in a file, and others may read it \
                 (mode {mode:04o}): chmod 600 {path_text}, or name a file with it: password_file"
            );
            assert_eq!(load(Some(&path)).expect_err("refused").to_string(), expected);
            let checked = check(&path).expect_err("refused").to_string();
            assert!(checked.contains(&expected), "{checked}");
        }
        let (_place, path) = config_file(text, 0o600);
        load(Some(&path)).expect("nobody else reads it");
    }
    let (_place, path) = config_file("[rest]\ninsecure_bind = true\n", 0o644);
    load(Some(&path)).expect("there is no secret in it");
}

#[test]
fn a_secret_comes_from_a_file_of_its_own_by_path_or_from_the_directory_of_credentials() {
    let (place, path) = config_file("hunter2\n", 0o600);
    let config = |file: &str, credentials: bool| {
        let text = format!("[[device]]\nid = \"d\"\nnumber = \"1\"\npassword_file = \"{file}\"\n");
        let environment = ("CREDENTIALS_DIRECTORY".to_owned(), place.path().display().to_string());
        parse(Some((Path::new("undertone.toml"), &text)), credentials.then_some(environment))
    };
    let whole = path.display().to_string();
    for (file, credentials) in [(whole.as_str(), false), ("undertone.toml", true)] {
        let config = config(file, credentials).expect("fine");
        assert_eq!(config.secret_files, std::slice::from_ref(&path));
        let (endpoint, made) =
            config.sip_with_credentials(&crate::store::in_memory()).expect("fine");
        let expected = sip::digest::ha1(sip::digest::Algorithm::Md5, "1", "undertone", "hunter2");
        let account = endpoint.account(&"d".into()).expect("the account");
        assert_eq!((&account.ha1s[&sip::digest::Algorithm::Md5], made.len()), (&expected, 0));
        let shown = format!("{config:?}");
        assert!(!shown.contains("hunter2") && !shown.contains(expected.expose().as_str()));
    }
    let wrong = |file: &str| config(file, true).expect_err("wrong").to_string();
    assert!(wrong("nowhere").contains("device[0].password_file: nowhere: No such file"));
    assert!(wrong("./undertone.toml").contains("No such file"), "a path is a path");
    for (text, problem) in
        [("", "it is empty"), ("\n", "it is empty"), ("a\nb\n", "more than one line")]
    {
        std::fs::write(&path, text).expect("written");
        assert!(wrong(&whole).contains(problem), "{text:?}: {}", wrong(&whole));
    }
    let (_place, open) = config_file("hunter2\n", 0o644);
    let said = wrong(&open.display().to_string());
    assert!(said.contains("others may read it (mode 0644): chmod 600"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    let both = "[[device]]\nid = \"d\"\nnumber = \"1\"\npassword = \"a\"\npassword_file = \"b\"\n";
    let said = read(both).expect_err("both").to_string();
    assert_eq!(
        said,
        "undertone.toml:5: device[0].password_file: password is there, too: one of the two \
         (found \"b\")"
    );
}

#[test]
fn a_trunk_has_targets_logins_and_a_registration() {
    let config = read(
        "[sip]\nlisten = [\"udp:127.0.0.1:5060\", \"tcp:127.0.0.1:5060\"]\n\
         [[sip.trunk]]\nname = \"a\"\nsources = [\"sbc.example.com\"]\n\
         targets = [\"sip:A.example.com;transport=tcp\", { target = \"192.0.2.2\", weight = 3 },\n\
         { target = \"192.0.2.3:5070\", priority = 1, weight = 2 }]\nqualify = 0\n\
         user = \"u\"\npassword = \"p\"\nrealm = \"one\"\n\
         [sip.trunk.register]\nuser = \"line\"\npassword = \"p\"\nexpires = 600\n\
         [[sip.trunk.login]]\nuser = \"v\"\npassword = \"p\"\nrealm = \"two\"",
    )
    .expect("fine");
    let trunk = &config.sip.trunks[0];
    let targets: Vec<_> = trunk
        .targets
        .iter()
        .map(|target| (target.to_string(), target.protocol, target.priority, target.weight))
        .collect();
    let expected = [
        ("a.example.com".to_owned(), Protocol::Tcp, 0, 1),
        ("192.0.2.2".to_owned(), Protocol::Udp, 1, 3),
        ("192.0.2.3:5070".to_owned(), Protocol::Udp, 1, 2),
    ];
    assert_eq!(targets, expected);
    assert_eq!((trunk.qualify, trunk.first_response.as_secs()), (None, 4));
    let realms: Vec<_> = trunk.logins.iter().map(|login| login.realm.as_str()).collect();
    assert_eq!(realms, ["one", "two"]);
    let registration = trunk.registration.as_ref().expect("it registers");
    assert_eq!((registration.user.as_str(), registration.expires.as_secs()), ("line", 600));
    assert_eq!(registration.contact_user.as_str(), "line");
    assert_eq!(trunk.sources[0].name.as_deref(), Some("sbc.example.com"));
    // What is read again is the same, whatever a name server says.
    assert!(trunk.hosts().len() == 2, "names are not looked up");
}

#[test]
fn feature_codes_are_what_can_be_dialled_and_none_begins_as_another() {
    let wrong = |text: &str| {
        let text = format!("[feature_codes]\nenabled = true\n{text}\n");
        read(&text).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(wrong("coach = '*1'\nlisten = ''\ndigits = ''\nmode = 'AllCalls'"), "");
    for (text, said) in [
        ("coach = 'x1'", "feature_codes.coach"),
        ("coach = '*12345678'", "up to eight"),
        ("coach = '*8'", "must not begin as feature_codes.listen"),
        ("stop = '*80'", "feature_codes.stop"),
        ("digits = '44'", "three different keys"),
        ("digits = '445'", "three different keys"),
        ("mode = 'Once'", "feature_codes.mode"),
        ("[[device]]\nid = 'd1'\nnumber = '*815001'", "feature_codes.coach"),
    ] {
        let found = wrong(text);
        assert!(found.contains(said), "{text}: {found}");
    }
}
