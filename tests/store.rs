//! The state file: what was said to be kept is there after kill −9, and a bad file is one clear line.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use undertone::store::{self, Change};

const STATE: &str = "UNDERTONE_TEST_STATE";

/// The victim of the test below: writes numbers and says which are durable, until it is killed.
#[test]
#[ignore = "run by another test as a process of its own"]
fn a_writer_to_be_killed() {
    let Some(path) = std::env::var_os(STATE) else { return };
    let store = store::open(path.as_ref()).expect("it opens");
    for number in 0_u64.. {
        let changes = [
            Change::put("counter", "latest", number.to_string()),
            Change::put("numbers", format!("{number:08}"), number.to_string()),
        ];
        store.write(&changes).expect("it is written");
        println!("\nkept {number}");
    }
}

#[test]
fn what_was_kept_survives_kill_9_and_changes_come_whole_or_not_at_all() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.redb");
    for round in 1..=3 {
        let mut writer = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "store::a_writer_to_be_killed", "--nocapture"])
            .env(STATE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(writer.stdout.take().expect("its output")).lines();
        let said = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("kept ")?.parse::<u64>().ok())
            .find(|number| *number >= round * 5)
            .expect("it writes");
        writer.kill().expect("kill −9");
        writer.wait().expect("it is dead");

        let store = store::open(&path).expect("it opens again");
        let latest = &store.load("counter").expect("readable")["latest"];
        let latest: u64 = String::from_utf8_lossy(latest).parse().expect("a number");
        assert!(latest >= said, "{latest} < {said}");
        let numbers = store.load("numbers").expect("readable");
        assert!(
            (0..=latest).all(|number| numbers.contains_key(&format!("{number:08}"))),
            "both changes or none"
        );
    }
}

#[test]
fn what_was_removed_is_gone_and_tables_are_apart() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = store::open(&directory.path().join("new/state.redb")).expect("it opens, with its directory");
    for store in [file, store::in_memory()] {
        assert!(store.load("a").expect("readable").is_empty());
        let puts = [Change::put("a", "k", "1"), Change::put("b", "k", "2"), Change::put("a", "l", "3")];
        store.write(&puts).expect("written");
        store
            .write(&[Change::remove("a", "k"), Change::remove("a", "never")])
            .expect("written");
        let keys = |table: &str| store.load(table).expect("readable").into_keys().collect::<Vec<_>>();
        assert_eq!((keys("a"), keys("b")), (vec!["l".to_owned()], vec!["k".to_owned()]));
    }
}

#[test]
fn a_file_that_is_none_of_ours_is_one_clear_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.redb");
    for content in [&b"not a database"[..], &[0; 100_000], &[0xff; 5000]] {
        std::fs::write(&path, content).expect("a file");
        let Err(error) = store::open(&path) else {
            panic!("it opened {} bytes of nonsense", content.len())
        };
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("state file {}: ", path.display())) && !text.contains('\n'),
            "{text}"
        );
        assert_eq!(std::fs::read(&path).expect("still there"), content, "it is left as it was");
    }
}

#[test]
fn a_damaged_file_is_one_clear_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.redb");
    let store = store::open(&path).expect("it opens");
    for number in 0..50 {
        store
            .write(&[Change::put("a", number.to_string(), "x".repeat(500))])
            .expect("written");
    }
    drop(store);
    let whole = std::fs::read(&path).expect("a file");
    for cut in [10, 300, 4096, whole.len() / 2] {
        std::fs::write(&path, &whole[..cut]).expect("a file");
        // Damage is found at opening or at reading, and is an error there, never a panic.
        if let Ok(store) = store::open(&path) {
            let _ = store.load("a");
        }
    }
}

#[test]
fn a_state_file_in_use_by_another_process_is_one_clear_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.redb");
    let _first = store::open(&path).expect("it opens");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).expect("a file").permissions());
    assert_eq!(mode & 0o077, 0, "only its owner may read it");
    let Err(error) = store::open(&path) else {
        panic!("it opened twice")
    };
    assert_eq!(
        error.to_string(),
        format!("state file {}: it is in use by another process", path.display())
    );
}
