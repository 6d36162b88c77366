//! The state file: what was said to be kept is there after kill −9, and a bad file is one clear
//! line.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use undertone::store::{self, StoreError, Write};

const STATE: &str = "UNDERTONE_TEST_STATE";

/// The victim of the test below: writes numbers and says which are durable, until it is killed.
#[test]
#[ignore = "run by another test as a process of its own"]
fn a_writer_to_be_killed() {
    let Some(path) = std::env::var_os(STATE) else {
        return;
    };
    let store = store::open(path.as_ref()).expect("it opens");
    for number in 0_u64.. {
        let changes = [
            Write::put("counter", "latest", number.to_string()),
            Write::put("numbers", format!("{number:08}"), number.to_string()),
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
    let file = store::open(&directory.path().join("new/state.redb"))
        .expect("it opens, with its directory");
    for store in [file, store::in_memory()] {
        assert!(store.load("a").expect("readable").is_empty());
        let puts =
            [Write::put("a", "k", "1"), Write::put("b", "k", "2"), Write::put("a", "l", "3")];
        store.write(&puts).expect("written");
        store.write(&[Write::remove("a", "k"), Write::remove("a", "never")]).expect("written");
        let keys =
            |table: &str| store.load(table).expect("readable").into_keys().collect::<Vec<_>>();
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
            Write::put("a", number.to_string(), "x".repeat(500)),
            Write::put("b", number.to_string(), "y"),
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
            let used = store.load(table).and_then(|_| store.write(&[Write::put("a", "1", "z")]));
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
    let Some(path) = std::env::var_os(STATE) else {
        return;
    };
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
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(&path).expect("a file").permissions(),
    );
    assert_eq!(mode & 0o077, 0, "only its owner may read it");
    let Err(error) = store::open(&path) else { panic!("it opened twice") };
    assert_eq!(
        error.to_string(),
        format!("state file {}: it is in use by another process", path.display())
    );
}

/// A store whose disk takes nothing for a while.
struct Failing {
    inner: store::Store,
    fails: std::sync::atomic::AtomicBool,
}

impl store::KeyValueStore for Failing {
    fn scan(
        &self,
        table: &str,
        from: &str,
        to: Option<&str>,
        visit: &mut dyn FnMut(&str, &[u8]),
    ) -> Result<(), StoreError> {
        self.inner.scan(table, from, to, visit)
    }

    fn write(&self, changes: &[Write]) -> Result<(), StoreError> {
        match self.fails.load(std::sync::atomic::Ordering::SeqCst) {
            true => Err(StoreError::Full { path: "here".into() }),
            false => self.inner.write(changes),
        }
    }
}

#[test]
fn what_the_disk_does_not_take_is_read_as_if_it_had_and_written_when_it_does() {
    use store::{Importance, Safety};
    let disk = std::sync::Arc::new(Failing { inner: store::in_memory(), fails: false.into() });
    let lasting = store::lasting(disk.clone()).expect("a store");
    let before = ["b", "d", "f"].map(|key| Write::put("t", key, "old"));
    lasting.write(&before).expect("written");
    disk.fails.store(true, std::sync::atomic::Ordering::SeqCst);
    let behind = [
        Write::put("t", "a", "new"),
        Write::put("t", "d", "new"),
        Write::remove("t", "f"),
        Write::put("t", "g", "new"),
        Write::put("u", "a", "new"),
    ];
    let safety = lasting.write_behind(&behind, Importance::State).expect("remembered");
    assert_eq!(safety, Safety::Remembered);
    assert!(lasting.write(&[Write::put("t", "z", "never")]).is_err(), "all or none, now or never");
    assert!(!lasting.is_writable());
    let of = |store: &dyn store::KeyValueStore, from: &str, to: Option<&str>| {
        let mut found = String::new();
        let mut visit = |key: &str, value: &[u8]| found += &format!("{key}{} ", value.len());
        store.scan("t", from, to, &mut visit).expect("readable");
        found
    };
    let values = |text: &str| text.replace("old", "3");
    assert_eq!(of(&*lasting, "", None), values("a3 b3 d3 g3 "));
    assert_eq!(of(&*lasting, "b", Some("g")), "b3 d3 ");
    assert_eq!(lasting.load("t").expect("readable")["d"], b"new");
    assert_eq!(of(&*disk, "", None), "b3 d3 f3 ");
    // Nobody writes: it tries by itself.
    disk.fails.store(false, std::sync::atomic::Ordering::SeqCst);
    while !lasting.is_writable() {
        std::thread::yield_now();
    }
    assert_eq!(of(&*disk, "", None), "a3 b3 d3 g3 ");
    assert_eq!(disk.inner.load("u").expect("readable").len(), 1);
}

/// The room set aside: what a full disk does not take is there after the process has died, and once
/// only.
#[test]
fn what_a_full_disk_does_not_take_outlives_its_process() {
    use store::{Importance, Safety};
    let place = tempfile::tempdir().expect("a directory");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "none"])
        .arg(place.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: a tmpfs can not be mounted here (needs root)");
        return;
    }
    let path = place.path().join("state.redb");
    let full = || {
        use std::io::Write;
        let mut file = std::fs::File::create(place.path().join("filler")).expect("a file");
        for size in [4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
    };
    let free = || std::fs::remove_file(place.path().join("filler")).expect("gone");
    let first = store::open(&path).expect("it opens");
    first.write(&[Write::put("monitors", "boss", "armed")]).expect("written");
    full();
    assert!(first.write(&[Write::put("monitors", "other", "armed")]).is_err());
    let large = Write::put("events", "e", vec![0; 100_000]);
    assert_eq!(
        first.write_behind(&[large], Importance::Events).expect("remembered"),
        Safety::Remembered
    );
    let gone = [Write::remove("monitors", "boss")];
    assert_eq!(first.write_behind(&gone, Importance::State).expect("set aside"), Safety::SetAside);
    // Dies here: nothing is dropped in order.
    let reopened = place.path().join("copy");
    std::fs::create_dir(&reopened).expect("a directory");
    std::mem::forget(first);
    free();
    for name in ["state.redb", "state.redb.reserve"] {
        std::fs::copy(place.path().join(name), reopened.join(name)).expect("copied");
    }
    let second = store::open(&reopened.join("state.redb")).expect("it opens");
    assert!(second.load("monitors").expect("readable").is_empty());
    assert!(second.has_forgotten(), "an event was in memory only");
    second.write(&[Write::put("monitors", "boss", "armed again")]).expect("written");
    drop(second);
    let third = store::open(&reopened.join("state.redb")).expect("it opens");
    assert_eq!(
        third.load("monitors").expect("readable").len(),
        1,
        "what was taken in once is not taken in again"
    );
    assert!(!third.has_forgotten());
    drop(third);
    let _ = Command::new("umount").arg("-l").arg(place.path()).status();
}

/// The process of the test below: its files may grow to a limit that it raises itself, so that redb
/// fails in the midst of a change.
#[test]
#[ignore = "run by another test as a process of its own"]
fn a_writer_whose_file_may_not_grow() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    use store::{Importance, Safety};
    let Some(path) = std::env::var_os(STATE) else {
        return;
    };
    let store = store::open(path.as_ref()).expect("it opens");
    let mut kept = 0;
    while store.write(&[Write::put("t", format!("{kept:08}"), vec![7; 10_000])]).is_ok() {
        kept += 1;
    }
    assert!(kept > 0 && !store.is_writable());
    assert_eq!(store.load("t").expect("what was written can be read").len(), kept);
    let behind = [Write::remove("t", "00000000"), Write::put("u", "k", "v")];
    let safety = store.write_behind(&behind, Importance::State).expect("taken");
    assert_ne!(safety, Safety::Remembered, "it is safe, there or there");
    let large = [Write::put("t", "large", vec![7; 1_000_000])];
    assert_eq!(store.write_behind(&large, Importance::Events).expect("taken"), Safety::Remembered);
    let whole = |what: &str| {
        let table = store.load("t").expect(what);
        assert_eq!((table.len(), table.contains_key("00000000")), (kept, false), "{what}");
        assert_eq!(store.load("u").expect(what).len(), 1, "{what}");
    };
    whole("before");
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).expect("a limit");
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).expect("raised");
    while !store.is_writable() {
        std::thread::yield_now();
    }
    whole("after");
    drop(store);
    let again = store::open(path.as_ref()).expect("it opens again");
    assert_eq!(again.load("t").expect("readable").len(), kept);
    println!("\ndone");
}

#[test]
fn a_state_file_that_has_failed_is_opened_again_by_itself() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.redb");
    let writer = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -S -f 1000; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "store::a_writer_whose_file_may_not_grow", "--nocapture"])
        .env(STATE, &path)
        .output()
        .expect("it runs");
    let (said, printed) =
        (String::from_utf8_lossy(&writer.stdout), String::from_utf8_lossy(&writer.stderr));
    assert!(writer.status.success() && said.contains("\ndone"), "{said} {printed}");
}
