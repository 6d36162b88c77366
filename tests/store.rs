//! The state file: what was said to be kept is there after kill −9, and a bad file is one clear line.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use undertone::store::{self, Change, StoreError};

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

/// A state file as a process leaves it, with pages of every kind.
fn state_file(path: &Path) -> Vec<u8> {
    let store = store::open(path).expect("it opens");
    for number in 0..50 {
        let changes = [
            Change::put("a", number.to_string(), "x".repeat(500)),
            Change::put("b", number.to_string(), "y"),
        ];
        store.write(&changes).expect("written");
    }
    drop(store);
    std::fs::read(path).expect("a file")
}

/// Opens, reads and writes the file; what it says is one line that names the file.
fn use_it(path: &Path) {
    let say = |error: StoreError| {
        let text = error.to_string();
        assert!(text.starts_with(&format!("state file {}: ", path.display())), "{text}");
        assert!(!text.contains('\n'), "{text}");
        println!("\nsaid {text}");
    };
    match store::open(path) {
        Ok(store) => ["a", "b"].into_iter().for_each(|table| {
            let used = store.load(table).and_then(|_| store.write(&[Change::put("a", "1", "z")]));
            used.unwrap_or_else(say);
        }),
        Err(error) => say(error),
    }
}

#[test]
fn a_file_that_was_cut_off_is_one_clear_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.redb");
    let whole = state_file(&path);
    for cut in [10, 300, 4096, whole.len() / 2] {
        std::fs::write(&path, &whole[..cut]).expect("a file");
        use_it(&path);
    }
}

#[test]
fn a_file_with_a_page_overwritten_is_one_clear_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.redb");
    let whole = state_file(&path);
    for offset in (0..whole.len()).step_by(2048) {
        for (length, byte) in [(16, 0xff), (512, 0xab), (512, 0), (4096, 0x5a)] {
            let mut damaged = whole.clone();
            let end = whole.len().min(offset + length);
            damaged[offset..end].fill(byte);
            std::fs::write(&path, &damaged).expect("a file");
            use_it(&path);
        }
    }
}

/// The process of the test below: opens the damaged file it is given.
#[test]
#[ignore = "run by another test as a process of its own"]
fn a_reader_of_a_damaged_file() {
    let Some(path) = std::env::var_os(STATE) else { return };
    use_it(path.as_ref());
}

#[test]
fn damage_prints_no_panic() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.redb");
    let whole = state_file(&path);
    for offset in [4096, 32_768] {
        let mut damaged = whole.clone();
        damaged[offset..offset + 64].fill(0xff);
        std::fs::write(&path, &damaged).expect("a file");
        let reader = Command::new(std::env::current_exe().expect("this program"))
            .args(["--ignored", "--exact", "store::a_reader_of_a_damaged_file", "--nocapture"])
            .env(STATE, &path)
            .output()
            .expect("it runs");
        let printed = String::from_utf8_lossy(&reader.stderr);
        assert!(reader.status.success() && !printed.contains("panicked"), "{offset}: {printed}");
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
