use super::*;
use serde_json::json;

fn fields(value: Value) -> Fields {
    match value {
        Value::Object(fields) => fields,
        _ => panic!("an object"),
    }
}

fn user(id: &str) -> EntryId {
    EntryId::User(id.into())
}

fn device(id: &str) -> EntryId {
    EntryId::Device(id.into())
}

fn put(entry: EntryId, value: Value) -> Edit {
    Edit { entry, kind: EditKind::Put(fields(value)) }
}

fn given() -> Given {
    Given { trunks: ["switch".into(), "site".into()].into(), ranged: ["ranged".into()].into() }
}

/// An admin, a supervisor and an agent of one group, each with a device.
fn house() -> DirectoryEditor {
    let mut editor = DirectoryEditor::new(Directory::default(), SipAccounts::default(), given());
    for (name, number, role) in
        [("ada", "5000", "Admin"), ("meg", "5005", "Supervisor"), ("bob", "5001", "Agent")]
    {
        let phone = format!("{name}-phone");
        editor.apply(put(device(&phone), json!({"number": number}))).expect("a device");
        let fields = json!({"roles": [role], "devices": [phone]});
        editor.apply(put(user(name), fields)).expect("a user");
    }
    let group = json!({"agents": ["bob"], "supervisors": ["meg"]});
    editor.apply(put(EntryId::Group("sales".into()), group)).expect("a group");
    editor
}

fn refused(editor: &mut DirectoryEditor, edit: Edit) -> (Reason, String) {
    let before = (editor.directory.clone(), editor.accounts.clone(), editor.names.clone());
    let refusal = editor.apply(edit).expect_err("it can not be so");
    let after = (editor.directory.clone(), editor.accounts.clone(), editor.names.clone());
    assert_eq!(before, after, "a refusal changes nothing");
    (refusal.reason, refusal.to_string())
}

#[test]
fn what_can_not_be_so_is_refused_and_changes_nothing() {
    let mut editor = house();
    let new = |entry, value| Edit { entry, kind: EditKind::Create(fields(value)) };
    let change = |entry, value| Edit { entry, kind: EditKind::Change(fields(value)) };
    let gone = |entry| Edit { entry, kind: EditKind::Remove };
    let group = || EntryId::Group("sales".into());
    for (edit, reason, says) in [
        (new(user("bob"), json!({"roles": ["Agent"]})), Reason::InUse, "exists already"),
        (new(user("eve"), json!({})), Reason::MissingParameter, "'roles'"),
        (new(user("eve"), json!({"roles": []})), Reason::MissingParameter, "'roles'"),
        (new(user("eve"), json!({"roles": ["Boss"]})), Reason::InvalidInput, "Boss"),
        (new(user("e ve"), json!({"roles": ["Agent"]})), Reason::InvalidInput, "characters"),
        (change(user("bob"), json!({"devices": ["x"]})), Reason::InvalidInput, "no device 'x'"),
        (change(user("bob"), json!({"devices": ["meg-phone"]})), Reason::InUse, "another user's"),
        (change(user("bob"), json!({"colour": "red"})), Reason::InvalidInput, "colour"),
        (change(user("eve"), json!({"email": ""})), Reason::NotFound, "/users/eve"),
        (change(user("ada"), json!({"roles": ["Agent"]})), Reason::InvalidState, "an admin"),
        (gone(user("ada")), Reason::InvalidState, "an admin"),
        (gone(device("x")), Reason::NotFound, "/devices/x"),
        (new(device("new"), json!({})), Reason::MissingParameter, "'number'"),
        (new(device("new"), json!({"number": "5001"})), Reason::InUse, "'5001'"),
        (new(device("new"), json!({"number": "50 01"})), Reason::InvalidInput, "50 01"),
        (new(device("new"), json!({"number": "1", "aliases": ["5005"]})), Reason::InUse, "'5005'"),
        (
            new(device("new"), json!({"number": "1", "voice_environment": "x"})),
            Reason::InvalidInput,
            "'x'",
        ),
        (change(device("bob-phone"), json!({"srtp": "required"})), Reason::InvalidInput, "clear"),
        (change(device("bob-phone"), json!({"kind": "customer"})), Reason::InvalidState, "user"),
        (change(group(), json!({"agents": ["eve"]})), Reason::InvalidInput, "'eve'"),
        (change(group(), json!({"supervisors": ["bob"]})), Reason::InvalidInput, "Supervisor"),
    ] {
        let shown = format!("{edit:?}");
        let (found, text) = refused(&mut editor, edit);
        assert!(found == reason && text.contains(says), "{shown}: {found} {text}");
    }
}

#[test]
fn a_device_is_behind_a_trunk_that_there_is_by_a_name_of_its_own() {
    let mut editor = house();
    let change = |entry, value| Edit { entry, kind: EditKind::Change(fields(value)) };
    let behind = json!({"number": "5100", "via": "switch", "user": "1100", "aliases": ["9100"]});
    editor.apply(put(device("first"), behind.clone())).expect("a device");
    let stored = editor.fields(&device("first")).expect("a device");
    for (key, value) in behind.as_object().expect("fields") {
        assert_eq!(&stored[key], value);
    }
    let with = |more: Value| {
        let mut new = fields(json!({"number": "5200", "via": "switch"}));
        new.extend(fields(more));
        Edit { entry: device("second"), kind: EditKind::Put(new) }
    };
    for (edit, reason, says) in [
        (with(json!({"via": "moon"})), Reason::InvalidInput, "no trunk 'moon'"),
        (with(json!({"via": "", "user": "1"})), Reason::InvalidInput, "via is missing"),
        (with(json!({"user": "1100"})), Reason::InUse, "'1100' is what the trunk calls another"),
        (with(json!({"user": "9100"})), Reason::InUse, "'9100'"),
        (with(json!({"user": "5100"})), Reason::InUse, "'5100'"),
        (with(json!({"user": "a b"})), Reason::InvalidInput, "'a b'"),
        (with(json!({"nat": true})), Reason::InvalidInput, "'nat' is for the trunk to say"),
        (with(json!({"transport": "tls"})), Reason::InvalidInput, "'transport'"),
        (change(device("ranged"), json!({"number": "1"})), Reason::Forbidden, "device_range"),
        (
            Edit { entry: device("ranged"), kind: EditKind::Remove },
            Reason::Forbidden,
            "device_range",
        ),
    ] {
        let shown = format!("{edit:?}");
        let (found, text) = refused(&mut editor, edit);
        assert!(found == reason && text.contains(says), "{shown}: {found} {text}");
    }
    // Another switch may call its own so.
    editor.apply(with(json!({"via": "site", "user": "1100"}))).expect("a device");
    // A name that is given up is free.
    editor.apply(change(device("first"), json!({"user": ""}))).expect("changed");
    editor.apply(with(json!({"user": "1100"}))).expect("a device");
    // It registers here again.
    editor.apply(change(device("second"), json!({"via": "", "user": ""}))).expect("changed");
    assert_eq!(editor.accounts.get(&"second".into()).expect("an account").via, None);
}

#[test]
fn whoever_goes_or_loses_the_role_leaves_the_groups_and_a_device_leaves_its_user() {
    let mut editor = house();
    let sales = EntryId::Group("sales".into());
    let demoted = editor.apply(put(user("meg"), json!({"roles": ["Agent"]}))).expect("demoted");
    assert_eq!(demoted, BTreeSet::from([user("meg"), sales.clone()]));
    assert!(editor.directory.groups["sales"].supervisors.is_empty());
    let gone = Edit { entry: user("bob"), kind: EditKind::Remove };
    assert_eq!(editor.apply(gone).expect("gone"), BTreeSet::from([user("bob"), sales]));
    assert!(editor.directory.groups["sales"].agents.is_empty());
    // Its device is nobody's now.
    editor
        .apply(put(user("eve"), json!({"roles": ["Agent"], "devices": ["bob-phone"]})))
        .expect("hers");
    let gone = Edit { entry: device("bob-phone"), kind: EditKind::Remove };
    let touched = editor.apply(gone).expect("gone");
    assert_eq!(touched, BTreeSet::from([user("eve"), device("bob-phone")]));
    assert!(editor.directory.users["eve"].devices.is_empty());
    editor.apply(put(device("other"), json!({"number": "5001"}))).expect("the number is free");
}

#[test]
fn a_change_keeps_what_it_does_not_name_and_a_password_as_long_as_the_number() {
    let mut editor = house();
    let digests = BTreeMap::from([(crate::sip::digest::Algorithm::Md5, "0".repeat(32).into())]);
    editor.set_ha1s(&"bob-phone".into(), digests.clone());
    let change = |value| Edit { entry: device("bob-phone"), kind: EditKind::Change(fields(value)) };
    editor.apply(change(json!({"srtp": "required", "transport": "tls"}))).expect("changed");
    let account = editor.accounts.get(&"bob-phone".into()).expect("an account");
    assert_eq!((account.number.as_str(), &account.ha1s), ("5001", &digests));
    editor.apply(change(json!({"number": "5011"}))).expect("changed");
    let account = editor.accounts.get(&"bob-phone".into()).expect("an account");
    assert!(account.ha1s.is_empty(), "the digests are of the old number");
    assert_eq!(editor.directory.devices["bob-phone"].number, "5011".into());
}

#[test]
fn an_entry_is_read_as_it_is_written() {
    let editor = house();
    for entry in [user("meg"), device("meg-phone"), EntryId::Group("sales".into())] {
        let before = editor.fields(&entry).expect("an entry");
        let mut again = editor.clone();
        again
            .apply(Edit { entry: entry.clone(), kind: EditKind::Put(before.clone()) })
            .expect("put");
        assert_eq!(again.fields(&entry), Some(before));
        assert_eq!(again.directory, editor.directory);
        assert_eq!(again.accounts, editor.accounts);
    }
}
