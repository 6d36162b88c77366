//! Who asserts to call, and why a call comes: RFC 3323 4.2, 3325 5 to 7, 3892, 5806, 7044.

use super::*;
use crate::sip::config::AssertedIdentity;
use crate::sip::leg::{CallReasons, Diversion, DiversionReason, PassedHeader};

const LEG: LegId = LegId(1);

fn stage(change: impl FnOnce(&mut Trunk)) -> Stage {
    let mut config = config();
    change(&mut config.trunks[0]);
    Stage::with(config)
}

fn trusted(trunk: &mut Trunk) {
    trunk.trusted = true;
}

/// The carrier calls with this From and these header fields.
fn call(stage: &mut Stage, from: &str, extra: &str) -> (Identity, Number, Vec<PassedHeader>) {
    let id = format!("{}{}", from.len(), extra.len());
    let text = invite(&id, &id, 1, extra).replace("<sip:+4930@carrier.example>", from);
    stage.hear(CARRIER, &text);
    let found = stage.events().into_iter().find_map(|event| match event {
        LegEvent::Incoming { from, claimed, passed, .. } => Some((from, claimed, passed)),
        _ => None,
    });
    found.expect("a call")
}

fn seen(stage: &mut Stage, from: &str, extra: &str) -> String {
    let (from, ..) = call(stage, from, extra);
    let privacy = if from.is_private { " (private)" } else { "" };
    format!("{:?} {}{privacy}", from.display, from.number)
}

/// The INVITE of ours to `to`, of this caller.
fn invited(
    stage: &mut Stage,
    to: Destination,
    is_private: bool,
    why: (CallReasons, Vec<PassedHeader>),
) -> SipRequest {
    stage.register_phone();
    let mut command = call_carrier(LEG);
    if let LegCommand::Invite { to: called, from, reasons, passed, .. } = &mut command {
        *called = to;
        *from = Identity { number: "0301".into(), display: "Anna".to_owned(), is_private };
        (*reasons, *passed) = why;
    }
    stage.command(command);
    stage.request("INVITE")
}

fn carrier() -> Destination {
    Destination::Trunk { name: "carrier".to_owned(), number: "+4930123".into() }
}

fn phone() -> Destination {
    Destination::Device(device("phone-1"))
}

fn why() -> (CallReasons, Vec<PassedHeader>) {
    let diversion = |number: &str, reason| Diversion { number: number.into(), reason };
    let reasons = CallReasons {
        diversions: vec![
            diversion("+49305002", DiversionReason::Deflection),
            diversion("5001", DiversionReason::Unconditional),
        ],
        referred_by: Some(Identity {
            number: "5001".into(),
            display: String::new(),
            is_private: false,
        }),
    };
    let passed = [
        ("Diversion", "<sip:5001@pbx.example>;reason=no-answer"),
        ("Diversion", "<sip:0999@pbx.example>;reason=no-answer"),
        ("History-Info", "<sip:0999@pbx.example>;index=1"),
        ("Referred-By", "<sip:0998@pbx.example>"),
    ];
    let passed = passed.map(|(name, value)| PassedHeader { name, value: value.into() });
    (reasons, passed.into())
}

fn all_of(request: &SipRequest, name: &str) -> Vec<String> {
    let fields = request.headers.fields_of(name);
    fields.map(|value| String::from_utf8_lossy(value).into_owned()).collect()
}

const ANONYMOUS: &str = "\"Anonymous\" <sip:anonymous@anonymous.invalid>";
const ASSERTED: &str = "P-Asserted-Identity: \"Bert\" <sip:+4917@carrier.example>\nPrivacy: id\n";

#[test]
fn an_anonymous_caller_that_a_trusted_trunk_asserts_is_known_and_private() {
    let mut stage = stage(trusted);
    assert_eq!(seen(&mut stage, ANONYMOUS, ASSERTED), "\"Bert\" +4917 (private)");
    let rpid = "Remote-Party-ID: <sip:+4918@c.example>;party=calling;privacy=full\n";
    assert_eq!(seen(&mut stage, ANONYMOUS, rpid), "\"\" +4918 (private)");
    let called = "Remote-Party-ID: <sip:+4918@c.example>;party=called\n";
    assert_eq!(seen(&mut stage, ANONYMOUS, called), "\"\" anonymous");
    assert_eq!(seen(&mut stage, ANONYMOUS, ""), "\"\" anonymous");
    for broken in ["", "<sip:anonymous@anonymous.invalid>", "<sip:c.example>", "<<>"] {
        let broken = format!("P-Asserted-Identity: {broken}\n");
        assert_eq!(seen(&mut stage, ANONYMOUS, &broken), "\"\" anonymous", "{broken}");
    }
}

#[test]
fn what_a_trunk_asserts_is_believed_only_of_one_that_is_trusted() {
    let mut stranger = stage(|_| {});
    assert_eq!(seen(&mut stranger, ANONYMOUS, ASSERTED), "\"\" anonymous");
    let open = "P-Asserted-Identity: <sip:+4917@carrier.example>\n";
    let from = "\"Anna\" <sip:+4930@carrier.example>";
    assert_eq!(seen(&mut stranger, from, open), "\"Anna\" +4930");
    let mut trusting = stage(trusted);
    assert_eq!(seen(&mut trusting, from, open), "\"\" +4917", "Anna is another's name");
    assert_eq!(seen(&mut trusting, from, "Privacy: none\n"), "\"Anna\" +4930");
    let mut by_from = stage(|trunk| {
        trunk.trusted = true;
        trunk.identity = AssertedIdentity::From;
    });
    assert_eq!(seen(&mut by_from, from, open), "\"Anna\" +4930");
    let ours = "P-Asserted-Identity: <sip:1002@carrier.example>\n";
    assert_eq!(seen(&mut trusting, from, ours), "\"unverified 1002\" anonymous");
    let private = format!("{ours}Privacy: id\n");
    assert_eq!(seen(&mut trusting, from, &private), "\"\" anonymous", "nor by its name");
}

#[test]
fn a_private_caller_is_shown_to_the_house_asserted_to_who_is_trusted_and_hidden_from_others() {
    let none = || (CallReasons::default(), Vec::new());
    for (to, trust, from, asserted, privacy) in [
        (phone(), false, "\"Anna\" <sip:0301@192.0.2.1>", vec![], ""),
        (carrier(), true, ANONYMOUS, vec!["\"Anna\" <sip:0301@192.0.2.1>".to_owned()], "id"),
        (carrier(), false, ANONYMOUS, vec![], "id"),
    ] {
        let mut stage = stage(|trunk| trunk.trusted = trust);
        let invite = invited(&mut stage, to.clone(), true, none());
        let shown = text_of(&invite, "From");
        assert!(shown.starts_with(&format!("{from};tag=")), "{shown}");
        assert_eq!(all_of(&invite, "P-Asserted-Identity"), asserted, "{to:?} {trust}");
        assert_eq!(text_of(&invite, "Privacy"), privacy);
        let text = String::from_utf8(invite.to_bytes()).expect("text");
        let is_told = !asserted.is_empty() || to == phone();
        assert_eq!(text.contains("0301"), is_told, "{text}");
    }
}

#[test]
fn a_caller_is_asserted_by_both_fields_where_remote_party_id_is_read() {
    let mut stage = stage(|trunk| {
        trunk.trusted = true;
        trunk.identity = AssertedIdentity::Rpid;
    });
    let invite = invited(&mut stage, carrier(), false, (CallReasons::default(), Vec::new()));
    let name = "\"Anna\" <sip:0301@192.0.2.1>";
    assert_eq!(all_of(&invite, "P-Asserted-Identity"), [name]);
    let rpid = format!("{name};party=calling;privacy=off;screen=yes");
    assert_eq!(all_of(&invite, "Remote-Party-ID"), [rpid]);
    assert_eq!(all_of(&invite, "Privacy"), [""; 0]);
}

#[test]
fn who_has_sent_a_call_on_is_told_to_who_may_know_and_never_twice() {
    let ours = [
        "<sip:+49305002@192.0.2.1>;reason=deflection",
        "<sip:5001@192.0.2.1>;reason=unconditional",
    ];
    let theirs = ["<sip:0999@pbx.example>;reason=no-answer"];
    let all = [ours.as_slice(), &theirs].concat();
    let (none, history) = ([""; 0].as_slice(), ["<sip:0999@pbx.example>;index=1"].as_slice());
    let by = ["<sip:5001@192.0.2.1>"].as_slice();
    for (to, trust, diversion, diversions, history, referred_by) in [
        (phone(), false, None, none, none, by),
        (carrier(), true, None, &all, history, by),
        (
            carrier(),
            true,
            Some(false),
            &["<sip:5001@pbx.example>;reason=no-answer", theirs[0]],
            history,
            by,
        ),
        (carrier(), false, None, none, none, none),
        (carrier(), false, Some(true), &ours, none, none),
    ] {
        let mut stage = stage(|trunk| (trunk.trusted, trunk.diversion) = (trust, diversion));
        let invite = invited(&mut stage, to, false, why());
        assert_eq!(all_of(&invite, "Diversion"), diversions, "{trust} {diversion:?}");
        assert_eq!(all_of(&invite, "History-Info"), history, "{trust} {diversion:?}");
        assert_eq!(all_of(&invite, "Referred-By"), referred_by, "{trust} {diversion:?}");
    }
}

#[test]
fn reasons_come_in_from_a_trusted_trunk_as_far_as_they_can_be_read() {
    let names = |passed: Vec<PassedHeader>| {
        let texts =
            passed.iter().map(|it| format!("{}: {}", it.name, String::from_utf8_lossy(&it.value)));
        texts.collect::<Vec<_>>()
    };
    let said = "Diversion: <sip:0999@p.example>;reason=no-answer, <mailto:a@b>, <<x>\n\
                History-Info: <sip:1@p.example?Reason=SIP%3Bcause%3D302>;index=1.1, \
                <sip:2@p.example>, <sip:3@p.example>;index=x\n\
                Referred-By: \"Al\" <sip:4@p.example>;cid=\"x@y\"\n";
    let mut stranger = stage(|_| {});
    let (.., passed) = call(&mut stranger, ANONYMOUS, said);
    assert_eq!(names(passed), [""; 0]);
    let mut stage = stage(trusted);
    let (.., passed) = call(&mut stage, ANONYMOUS, said);
    let expected = [
        "Diversion: <sip:0999@p.example>;reason=no-answer",
        "History-Info: <sip:1@p.example?Reason=SIP%3Bcause%3D302>;index=1.1",
        "Referred-By: \"Al\" <sip:4@p.example>",
    ];
    assert_eq!(names(passed), expected);
    let many = "Diversion: <sip:0@p.example>\n".repeat(40);
    assert_eq!(call(&mut stage, ANONYMOUS, &many).2.len(), 8);
    let long = format!("Diversion: <sip:{}@p.example>\n", "1".repeat(400)).repeat(8);
    assert_eq!(call(&mut stage, ANONYMOUS, &long).2.len(), 4, "2,048 bytes in all");
    let longer = format!("Diversion: <sip:{}@p.example>\n", "1".repeat(600));
    assert_eq!(call(&mut stage, ANONYMOUS, &longer).2.len(), 0);
}
