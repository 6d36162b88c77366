use super::verify::{Fault, Report, VerifyOptions, verify};
use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc::channel;

mod tampering;

fn written(audit: &AuditLog, line: &AuditLine<'_>) -> Result<(), AuditError> {
    let (tell, told) = channel();
    audit.write(line, move |outcome| tell.send(outcome).expect("the test waits"));
    told.recv().expect("the writer answers")
}

fn checked(audit: &AuditLog) -> Result<(), AuditError> {
    let (tell, told) = channel();
    audit.check(move |outcome| tell.send(outcome).expect("the test waits"));
    told.recv().expect("the writer answers")
}

/// The lines of the gateway.
fn lines(path: &Path) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(path).expect("the file is there");
    text.split_terminator('\n')
        .map(|line| serde_json::from_str(line).expect("each line is one JSON object"))
        .filter(|line: &serde_json::Value| line["event"] != "checkpoint")
        .collect()
}

type FoundFault = (Fault, u64, Option<(u64, u64)>);

/// An audit in a directory of its own.
struct Place {
    directory: tempfile::TempDir,
    config: AuditConfig,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let config = AuditConfig::of(&directory.path().join("audit.jsonl"));
        Self { directory, config }
    }

    fn open(&self) -> AuditLog {
        AuditLog::open(&self.config).expect("it opens")
    }

    /// Writes so many lines, one by one.
    fn write(&self, audit: &AuditLog, count: u64) {
        for number in 0..count {
            let line = AuditLine {
                at: crate::clock::wall(),
                event: "allowed",
                user: Some("meg"),
                heard_ms: Some(number),
                ..AuditLine::default()
            };
            written(audit, &line).expect("it is written");
        }
    }

    /// Ends the writer, so that everything is on disk.
    fn close(&self, audit: AuditLog) {
        drop(audit);
        drop(key::HeadFile::open(&self.config.state_dir).expect("the writer lets go"));
    }

    fn files(&self) -> Vec<PathBuf> {
        verify::files_of(&self.config.file).expect("a directory").0
    }

    fn options(&self) -> VerifyOptions {
        let public = self.directory.path().join(PUBLIC_KEY_FILE);
        VerifyOptions {
            files: self.files(),
            keys: vec![PublicKey::read(&public).expect("a key")],
            head: Some(self.directory.path().join(HEAD_FILE)),
            is_part: false,
        }
    }

    fn verify(&self) -> Report {
        verify(&self.options()).expect("it can be read")
    }

    /// Each fault with its line and the numbers that it is about.
    fn faults(&self) -> Vec<FoundFault> {
        let findings = self.verify().findings;
        findings.into_iter().map(|it| (it.fault, it.line, it.numbers)).collect()
    }

    fn text(&self) -> Vec<String> {
        let text = std::fs::read_to_string(&self.config.file).expect("the file is there");
        text.lines().map(str::to_owned).collect()
    }

    fn rewrite(&self, lines: &[String]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(&self.config.file, text).expect("written");
    }
}

/// The lines of an audit with two starts, some signed lines among them, and its place.
fn sample() -> (Place, Vec<String>) {
    let place = Place::new();
    for count in [12, 9] {
        let audit = place.open();
        place.write(&audit, count);
        place.close(audit);
    }
    // The second start's lines are dated again from the beginning: as little as they are.
    let lines = place.text();
    (place, lines)
}

#[test]
fn a_line_is_on_disk_when_it_is_said_to_be() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("new").join("audit.jsonl");
    let audit = AuditLog::open(&AuditConfig::of(&path)).expect("it opens");
    let line = AuditLine {
        at: Timestamp(1_795_397_126_123),
        event: "allowed",
        user: Some("meg"),
        heard_ms: Some(12),
        ..AuditLine::default()
    };
    written(&audit, &line).expect("it is written");
    let text = std::fs::read_to_string(&path).expect("the file is there");
    let before = text.lines().next().expect("the start is signed");
    let prev = crate::hex::hex(&chain::hash_of(before.as_bytes()));
    let expected = serde_json::json!({
        "n": 2, "at": "2026-11-23T01:25:26.123Z", "event": "allowed", "user": "meg",
        "heard_ms": 12, "prev": prev,
    });
    let mut line = lines(&path).remove(0);
    assert!(line["sig"].take().is_string());
    line.as_object_mut().expect("an object").remove("sig");
    assert_eq!(line, expected);
}

#[test]
fn nobody_can_write_a_line_of_his_own_or_talk_to_the_terminal() {
    let place = Place::new();
    let audit = place.open();
    let evil =
        "a\r\n{\"event\":\"allowed\"}\u{1b}[2J\u{9b}2J\u{7f}\u{2028}\u{202e}\",\"level\":\"x";
    written(&audit, &AuditLine { event: "refused", user: Some(evil), ..AuditLine::default() })
        .expect("it is written");
    let text = std::fs::read_to_string(&place.config.file).expect("the file is there");
    assert!(text.bytes().all(|byte| (0x20..0x7f).contains(&byte) || byte == b'\n'), "{text:?}");
    assert_eq!(lines(&place.config.file)[0]["user"], evil);
    assert_eq!(lines(&place.config.file).len(), 1);
}

#[test]
fn many_lines_at_once_are_all_kept_in_order() {
    let place = Place::new();
    let audit = place.open();
    let (tell, told) = channel();
    for number in 0..500 {
        let tell = tell.clone();
        let line = AuditLine {
            at: crate::clock::wall(),
            event: "allowed",
            heard_ms: Some(number),
            ..AuditLine::default()
        };
        audit.write(&line, move |outcome| tell.send(outcome).expect("the test waits"));
    }
    assert!(told.iter().take(500).all(|outcome| outcome.is_ok()));
    let numbers: Vec<_> =
        lines(&place.config.file).iter().map(|line| line["heard_ms"].as_u64()).collect();
    assert_eq!(numbers, (0..500).map(Some).collect::<Vec<_>>());
    assert_eq!(place.faults(), []);
}

#[test]
fn what_is_in_the_way_is_reported_and_the_audit_recovers_when_it_can_write_again() {
    let place = Place::new();
    let audit = place.open();
    let line = AuditLine { at: crate::clock::wall(), event: "allowed", ..AuditLine::default() };
    written(&audit, &line).expect("it is written");
    std::fs::remove_file(&place.config.file).expect("it goes");
    std::fs::create_dir(&place.config.file).expect("in the way");
    assert!(matches!(checked(&audit), Err(AuditError::Disk { .. })));
    assert!(!audit.is_writable());
    assert!(matches!(written(&audit, &line), Err(AuditError::Disk { .. })));
    std::fs::remove_dir(&place.config.file).expect("it goes");
    while !audit.is_writable() {
        thread::yield_now();
    }
    assert_eq!(lines(&place.config.file).len(), 0, "finding out has left no line of the gateway");
    written(&audit, &line).expect("it is written");
    assert_eq!(lines(&place.config.file).len(), 1);
    assert_eq!(place.faults(), [(Fault::CutOff, 0, Some((1, 2)))], "what was removed is missed");
}

/// A directory on a disk of its own, with little room; `None` where there can be none.
fn small_disk() -> Option<tempfile::TempDir> {
    let place = tempfile::tempdir().expect("a directory");
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "none"])
        .arg(place.path())
        .status();
    if !mounted.is_ok_and(|status| status.success()) {
        println!("skipped: a tmpfs can not be mounted here (needs root)");
        return None;
    }
    Some(place)
}

#[test]
fn a_full_disk_refuses_lines_and_with_room_again_the_chain_goes_on() {
    use std::io::Write;
    let Some(disk) = small_disk() else { return };
    let path = disk.path().join("audit.jsonl");
    let config = AuditConfig::of(&path);
    let audit = AuditLog::open(&config).expect("it opens");
    let line = AuditLine { at: crate::clock::wall(), event: "allowed", ..AuditLine::default() };
    written(&audit, &line).expect("it is written");
    let filler = disk.path().join("filler");
    let mut file = std::fs::File::create(&filler).expect("a file");
    for size in [4096, 1] {
        while file.write_all(&vec![1; size]).is_ok() {}
    }
    // First the room that was set aside is used up.
    let long = "x".repeat(8192);
    let line = AuditLine { user: Some(&long), ..line };
    let count = (1..).take_while(|_| written(&audit, &line).is_ok()).count();
    assert!(matches!(written(&audit, &line), Err(AuditError::Disk { .. })));
    assert!(matches!(checked(&audit), Err(AuditError::Disk { .. })));
    assert!(!audit.is_writable());
    assert_eq!(lines(&path).len(), 1 + count, "what was refused does not stand there");
    drop(file);
    std::fs::remove_file(&filler).expect("room");
    while !audit.is_writable() {
        thread::yield_now();
    }
    written(&audit, &line).expect("it is written");
    assert_eq!(lines(&path).len(), 2 + count);
    let options = VerifyOptions {
        files: vec![path.clone()],
        keys: vec![PublicKey::read(&disk.path().join(PUBLIC_KEY_FILE)).expect("a key")],
        head: Some(disk.path().join(HEAD_FILE)),
        is_part: false,
    };
    assert_eq!(verify(&options).expect("readable").findings, []);
    drop(audit);
    drop(key::HeadFile::open(&config.state_dir).expect("the writer lets go"));
    let _ = std::process::Command::new("umount").arg("-l").arg(disk.path()).status();
}

#[test]
fn a_check_leaves_nothing_behind() {
    let place = Place::new();
    let audit = place.open();
    let before = place.text();
    assert_eq!(checked(&audit), Ok(()));
    assert_eq!(place.text(), before);
}

#[test]
fn half_a_line_left_by_a_power_cut_is_cut_off_and_a_line_says_so() {
    let place = Place::new();
    let audit = place.open();
    place.write(&audit, 3);
    place.close(audit);
    let before = place.text();
    let text = std::fs::read_to_string(&place.config.file).expect("the file is there");
    std::fs::write(&place.config.file, format!("{text}{{\"n\":9,\"event\":\"allo")).expect("half");
    let audit = place.open();
    place.close(audit);
    let lines = lines(&place.config.file);
    assert_eq!(lines[3]["event"], "torn_line_cut");
    assert_eq!(lines[3]["bytes"], 20);
    assert_eq!(place.text()[..before.len()], before);
    assert_eq!(place.faults(), []);
}

#[test]
fn files_are_for_their_owner_alone_and_no_link_is_followed() {
    let place = Place::new();
    std::fs::write(&place.config.file, "").expect("a file");
    let readable = std::fs::Permissions::from_mode(0o644);
    std::fs::set_permissions(&place.config.file, readable.clone()).expect("readable");
    let audit = place.open();
    for name in ["audit.jsonl", KEY_FILE, HEAD_FILE] {
        let about = std::fs::metadata(place.directory.path().join(name)).expect("it is there");
        assert_eq!(about.permissions().mode() & 0o777, 0o600, "{name}");
    }
    place.close(audit);
    let key = place.directory.path().join(KEY_FILE);
    std::fs::set_permissions(&key, readable).expect("readable");
    let refused = AuditLog::open(&place.config).expect_err("others may read the key").to_string();
    assert!(refused.contains("others may read it"), "{refused}");

    let new = tempfile::tempdir().expect("a directory");
    let directory = new.path().join("state");
    let config = AuditConfig::of(&directory.join("audit.jsonl"));
    drop(AuditLog::open(&config).expect("it opens"));
    let about = std::fs::metadata(&directory).expect("it is there");
    assert_eq!(about.permissions().mode() & 0o777, 0o700);

    for name in ["audit.jsonl", KEY_FILE, HEAD_FILE] {
        let place = Place::new();
        let elsewhere = place.directory.path().join("elsewhere");
        std::fs::write(&elsewhere, "").expect("a file");
        std::os::unix::fs::symlink(&elsewhere, place.directory.path().join(name)).expect("a link");
        let refused = AuditLog::open(&place.config).expect_err("a link").to_string();
        assert!(refused.contains("symbolic link"), "{name}: {refused}");
        assert_eq!(std::fs::read(&elsewhere).expect("readable"), b"");
    }
}

#[test]
fn a_second_process_is_told_that_the_audit_is_written_already() {
    let place = Place::new();
    let audit = place.open();
    let refused = AuditLog::open(&place.config).expect_err("it is in use").to_string();
    assert!(refused.contains("another process"), "{refused}");
    place.close(audit);
    drop(place.open());
}

#[test]
fn a_file_of_before_the_chain_is_gone_on_with_and_its_lines_are_counted() {
    let place = Place::new();
    let old = [r#"{"at":"x","event":"allowed"}"#, r#"{"at":"x","event":"joined"}"#];
    std::fs::write(&place.config.file, format!("{}\n{}\n", old[0], old[1])).expect("written");
    let audit = place.open();
    place.write(&audit, 2);
    place.close(audit);
    let lines = place.text();
    assert_eq!(lines[..2], old);
    let begun: serde_json::Value = serde_json::from_str(&lines[2]).expect("JSON");
    assert_eq!((&begun["event"], &begun["lines_before"]), (&"chain_begun".into(), &2.into()));
    assert_eq!(place.faults(), []);

    let mut altered = lines.clone();
    altered[1] = altered[1].replace("joined", "jolted");
    place.rewrite(&altered);
    assert_eq!(place.faults(), [(Fault::Altered, 1, None)], "one of them");
    let mut removed = lines.clone();
    removed.remove(0);
    place.rewrite(&removed);
    assert_eq!(place.faults(), [(Fault::Removed, 1, None)]);
    let mut begun = lines.clone();
    begun[2] = begun[2].replace("\"lines_before\":2", "\"lines_before\":3");
    place.rewrite(&begun);
    assert!(place.faults().contains(&(Fault::Altered, 3, Some((1, 1)))), "{:?}", place.faults());
    begun[2] = "not even JSON".to_owned();
    place.rewrite(&begun);
    assert_eq!(place.faults(), [(Fault::Altered, 3, Some((1, 1)))]);
}

#[test]
fn lines_without_a_chain_are_no_part_of_an_audit_that_has_begun() {
    const FORGED: &str = "{\"at\":\"x\",\"event\":\"joined\",\"user\":\"root\"}\n";
    // In the place of the file that was moved away, while it is written and while it is not.
    for is_open in [true, false] {
        let place = Place::new();
        let mut audit = Some(place.open());
        audit.iter().for_each(|audit| place.write(audit, 3));
        if !is_open {
            audit.take().into_iter().for_each(|audit| place.close(audit));
        }
        let moved = place.directory.path().join("audit.jsonl.000000000004");
        std::fs::rename(&place.config.file, &moved).expect("moved");
        std::fs::write(&place.config.file, FORGED).expect("written");
        let audit = audit.unwrap_or_else(|| place.open());
        place.write(&audit, 2);
        place.close(audit);
        let faults: Vec<_> = place.faults().into_iter().map(|(fault, ..)| fault).collect();
        assert_eq!(faults, [Fault::Inserted, Fault::Broken], "{is_open}");
    }
    // As a file of its own beside it.
    let place = Place::new();
    let audit = place.open();
    place.write(&audit, 3);
    place.close(audit);
    for beside in ["audit.jsonl.000000000003", "audit.jsonl.1"] {
        let beside = place.directory.path().join(beside);
        std::fs::write(&beside, FORGED).expect("written");
        assert_eq!(place.faults(), [(Fault::Inserted, 1, None)]);
        std::fs::remove_file(beside).expect("removed");
        assert_eq!(place.faults(), []);
    }
}

#[test]
fn a_chain_goes_on_across_files_rotated_by_size_in_whatever_order_they_are_given() {
    let mut place = Place::new();
    place.config.rotate_size = 1500;
    let audit = place.open();
    place.write(&audit, 20);
    place.close(audit);
    let mut files = place.files();
    assert!(files.len() > 2, "{files:?}");
    assert_eq!(place.faults(), []);
    files.reverse();
    let options = VerifyOptions { files: files.clone(), ..place.options() };
    let report = verify(&options).expect("readable");
    assert_eq!(report.findings, []);
    let last = place.config.file.clone();
    assert_eq!(report.files.last().map(|file| &file.file), Some(&last));

    // A file in the middle is gone, one's end, and another's beginning.
    let second = report.files[1].clone();
    std::fs::rename(&second.file, place.directory.path().join("kept")).expect("moved");
    assert_eq!(place.verify().findings[0].numbers, second.lines);
    assert_eq!(place.verify().findings[0].fault, Fault::CutOff);
    let text = std::fs::read_to_string(place.directory.path().join("kept")).expect("readable");
    let short: String = text.lines().skip(1).map(|line| format!("{line}\n")).collect();
    std::fs::write(&second.file, short).expect("written");
    let (first, _) = second.lines.expect("lines");
    let found = place.verify().findings;
    assert_eq!((found[0].fault, found[0].numbers), (Fault::CutOff, Some((first, first))));
    let lines = text.lines().count();
    let short: String = text.lines().take(lines - 2).map(|line| format!("{line}\n")).collect();
    std::fs::write(&second.file, short).expect("written");
    let (_, end) = second.lines.expect("lines");
    let found = place.verify().findings;
    assert_eq!((found[0].fault, found[0].numbers), (Fault::CutOff, Some((end - 1, end))));
    assert_eq!(found[0].file, second.file);

    // One file alone is a part.
    std::fs::write(&second.file, text).expect("written");
    let alone =
        VerifyOptions { files: vec![second.file.clone()], is_part: true, ..place.options() };
    assert_eq!(verify(&alone).expect("readable").findings, []);
    let whole = VerifyOptions { is_part: false, ..alone };
    assert!(!verify(&whole).expect("readable").is_intact());
}

#[test]
fn a_chain_goes_on_when_the_file_is_moved_away_with_and_without_being_told() {
    for is_told in [true, false] {
        let place = Place::new();
        let audit = place.open();
        place.write(&audit, 3);
        let moved = place.directory.path().join("audit.jsonl.1");
        std::fs::rename(&place.config.file, &moved).expect("moved");
        if is_told {
            audit.reopen();
            assert_eq!(checked(&audit), Ok(()));
            assert!(place.config.file.exists(), "there again though nothing was to be written");
        }
        place.write(&audit, 2);
        place.close(audit);
        let old = std::fs::read_to_string(&moved).expect("readable");
        assert!(old.lines().last().is_some_and(|line| line.contains(r#""cause":"rotated""#)));
        assert_eq!(lines(&place.config.file).len(), 2);
        assert_eq!(place.files().len(), 2);
        assert_eq!(place.faults(), []);
    }
}

#[test]
fn a_chain_goes_on_over_a_start_after_the_file_was_moved_away() {
    let place = Place::new();
    let audit = place.open();
    place.write(&audit, 3);
    place.close(audit);
    let moved = place.directory.path().join("audit.jsonl-20261123");
    std::fs::rename(&place.config.file, moved).expect("moved");
    let audit = place.open();
    place.write(&audit, 2);
    place.close(audit);
    assert_eq!(place.faults(), []);
    assert_eq!(place.files().len(), 2);
}

#[test]
fn a_rotated_file_that_is_not_old_enough_stays() {
    let mut place = Place::new();
    place.config.rotate_size = 1500;
    let audit = place.open();
    let long_ago = |number: u64| AuditLine {
        at: Timestamp(1_000_000_000_000 + number),
        event: "allowed",
        ..AuditLine::default()
    };
    for number in 0..20 {
        written(&audit, &long_ago(number)).expect("it is written");
    }
    place.close(audit);
    let rotated = place.files().len() - 1;
    assert!(rotated > 1, "{:?}", place.files());
    // What makes a file old is the date of its last line, which is the signature's: now.
    place.config.keep_days = 1;
    let audit = place.open();
    place.close(audit);
    assert_eq!(place.files().len() - 1, rotated, "nothing is old enough");
    assert_eq!(place.faults().iter().filter(|it| it.0 != Fault::ClockBack).count(), 0);
}

/// What removes old files, driven with files that are dated by hand.
#[test]
fn a_file_whose_last_line_is_old_is_removed_and_missed_by_nobody() {
    let mut place = Place::new();
    let old = |number: u64| AuditLine {
        at: Timestamp(1_000_000_000_000 + number),
        event: "allowed",
        ..AuditLine::default()
    };
    let audit = place.open();
    for number in 0..3 {
        written(&audit, &old(number)).expect("it is written");
    }
    // Copied away before it is signed, as logrotate's `copytruncate` does.
    let copied = place.directory.path().join("audit.jsonl.1");
    std::fs::copy(&place.config.file, &copied).expect("copied");
    std::fs::File::options()
        .write(true)
        .open(&place.config.file)
        .and_then(|file| file.set_len(0))
        .expect("truncated");
    place.write(&audit, 2);
    place.close(audit);
    assert_eq!(place.faults(), [(Fault::ClockBack, 2, Some((2, 2)))].as_slice());
    place.config.keep_days = 30;
    let audit = place.open();
    place.write(&audit, 1);
    place.close(audit);
    assert!(!copied.exists(), "it is old enough");
    assert!(place.config.file.exists());
    let removed = lines(&place.config.file)
        .into_iter()
        .find(|line| line["event"] == "file_removed")
        .expect("a line says so");
    assert_eq!(
        (&removed["file"], &removed["first"], &removed["last"]),
        (&"audit.jsonl.1".into(), &1.into(), &4.into())
    );
    let faults = place.faults();
    assert!(faults.iter().all(|it| it.0 == Fault::ClockBack), "{faults:?}");
    // Another beginning than the one that is said to have been removed is missed.
    let mut lines = place.text();
    lines.remove(0);
    place.rewrite(&lines);
    assert!(place.faults().iter().any(|it| it.0 == Fault::CutOff), "{:?}", place.faults());
}

#[test]
fn lines_cut_off_at_the_end_are_missed_and_stay_missed() {
    let (place, lines) = sample();
    let count = lines.len() as u64;
    place.rewrite(&lines[..lines.len() - 3]);
    let missed = (Fault::CutOff, count - 3, Some((count - 2, count)));
    assert_eq!(place.faults(), [missed].as_slice());
    // Lines that are written afterwards do not take their numbers.
    let audit = place.open();
    place.write(&audit, 2);
    place.close(audit);
    let missed = (Fault::Removed, count - 3, Some((count - 2, count)));
    let said = (Fault::Broken, count - 2, Some((count + 1, count + 1)));
    assert_eq!(place.faults(), [missed, said]);
}

#[test]
fn a_clock_that_ran_back_is_found_at_its_line() {
    let place = Place::new();
    let audit = place.open();
    for at in [1_795_397_126_123, 1_795_397_126_124, 1_795_397_126_000, 1_795_397_126_001] {
        let line = AuditLine { at: Timestamp(at), event: "allowed", ..AuditLine::default() };
        written(&audit, &line).expect("it is written");
    }
    place.close(audit);
    let findings = place.verify().findings;
    let found: Vec<_> = findings.iter().filter(|it| it.line == 4).collect();
    assert_eq!(found.len(), 1, "{findings:?}");
    assert_eq!((found[0].fault, found[0].back_ms), (Fault::ClockBack, Some(124)));
}

/// A line that is chained as it must be, by somebody without the key.
fn chained_by_hand(end: &mut chain::ChainEnd, members: &str, signature: Option<&str>) -> String {
    let (n, prev) = (end.n + 1, crate::hex::hex(&end.hash));
    let signature = signature.map_or("}".to_owned(), |rest| format!(",\"sig\":{rest}"));
    let made = format!("{{\"n\":{n},{members},\"prev\":\"{prev}\"{signature}");
    *end = chain::ChainEnd { n, hash: chain::hash_of(made.as_bytes()) };
    made
}

#[test]
fn a_chain_that_was_made_anew_without_the_key_is_found() {
    let (place, lines) = sample();
    let target = 4;
    // Whoever alters a line and has no key makes all hashes after it anew.
    let mut forged = lines[..target].to_vec();
    let mut end = chain::ChainedLine::parse(lines[target].as_bytes()).expect("a line").before();
    for line in &lines[target..] {
        let (_, members) = line.split_once(',').expect("members");
        let (members, rest) = members.rsplit_once(",\"prev\":").expect("the hash");
        let members = members.replace("\"heard_ms\":4", "\"heard_ms\":5");
        let (_, signature) = rest.split_once(",\"sig\":").expect("each line is signed");
        forged.push(chained_by_hand(&mut end, &members, Some(signature)));
    }
    place.rewrite(&forged);
    let options = place.options();
    for head in [options.head.clone(), None] {
        let report = verify(&VerifyOptions { head, ..options.clone() }).expect("readable");
        let kinds: BTreeSet<_> = report.findings.iter().map(|it| it.fault.as_str()).collect();
        assert!(kinds.contains("forged") || kinds.contains("altered"), "{:?}", report.findings);
    }
}

#[test]
fn what_is_read_names_the_key_and_json_says_what_is_wrong() {
    let (place, lines) = sample();
    let report = place.verify();
    assert!(report.is_intact() || report.findings.iter().all(|it| it.fault == Fault::ClockBack));
    let mut altered = lines;
    altered[3] = altered[3].replace("meg", "peg");
    place.rewrite(&altered);
    let json = place.verify().json();
    assert_eq!(json["intact"], false);
    let finding = &json["findings"][0];
    assert_eq!((&finding["fault"], &finding["line"]), (&"altered".into(), &4.into()));
    let text = place.verify().to_string();
    assert!(text.contains("audit.jsonl:4: altered: line 4 was altered"), "{text}");
}

#[test]
fn times_are_read_as_they_are_written() {
    for at in [0, 1, 951_782_400_000, 1_795_397_126_123, 4_102_444_799_999, 68_169_600_000] {
        assert_eq!(parse_utc(&utc(Timestamp(at))), Some(Timestamp(at)));
    }
    for text in ["", "2026-02-30T00:00:00.000Z", "2026-11-23T01:25:26Z", "2026-11-23 01:25:26.123Z"]
    {
        assert_eq!(parse_utc(text), None, "{text}");
    }
}

/// What is done to one line.
#[derive(Clone, Debug)]
enum Change {
    /// A byte becomes another one.
    Byte {
        at: usize,
        to: u8,
    },
    RemoveByte {
        at: usize,
    },
    AddByte {
        at: usize,
        byte: u8,
    },
    /// The whole line becomes another object.
    Replace(String),
    Remove,
    Repeat,
    /// It goes to another place.
    Move(usize),
    /// A line of somebody else's comes before it.
    Insert(String),
}

fn byte() -> impl Strategy<Value = u8> {
    any::<u8>().prop_filter("a line feed makes two lines", |byte| *byte != b'\n')
}

fn change() -> impl Strategy<Value = Change> {
    let other = prop_oneof![
        Just("{}".to_owned()),
        Just(String::new()),
        Just(r#"{"at":"2026-11-23T01:25:26.123Z","event":"allowed"}"#.to_owned()),
        (0..40_u64).prop_map(|n| format!(
            r#"{{"n":{n},"at":"2026-11-23T01:25:26.123Z","event":"allowed","prev":"{n:064}"}}"#
        )),
    ];
    prop_oneof![
        4 => (any::<usize>(), byte()).prop_map(|(at, to)| Change::Byte { at, to }),
        2 => any::<usize>().prop_map(|at| Change::RemoveByte { at }),
        2 => (any::<usize>(), byte()).prop_map(|(at, byte)| Change::AddByte { at, byte }),
        2 => other.clone().prop_map(Change::Replace),
        2 => Just(Change::Remove),
        1 => Just(Change::Repeat),
        2 => any::<usize>().prop_map(Change::Move),
        1 => other.prop_map(Change::Insert),
    ]
}

thread_local! {
    static SAMPLE: (Place, Vec<Vec<u8>>) = {
        let place = Place::new();
        for _ in 0..2 {
            let audit = place.open();
            for _ in 0..8 {
                let line = AuditLine {
                    at: crate::clock::wall(), event: "allowed", user: Some("meg"),
                    ..AuditLine::default()
                };
                written(&audit, &line).expect("it is written");
            }
            place.close(audit);
        }
        let lines = place.text().into_iter().map(String::into_bytes).collect();
        assert_eq!(place.faults(), []);
        (place, lines)
    };
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn each_change_of_a_single_line_is_found_at_its_line(line in any::<usize>(), change in change()) {
        SAMPLE.with(|(place, original)| {
            let line = line % original.len();
            let mut lines = original.clone();
            // The lines of the file that may be named, from 1, and 0 before the first.
            let mut named = vec![line as u64 + 1];
            let before = lines[line].clone();
            match &change {
                Change::Byte { at, to } => {
                    let at = at % before.len();
                    lines[line][at] = *to;
                }
                Change::RemoveByte { at } => {
                    lines[line].remove(at % before.len());
                }
                Change::AddByte { at, byte } => lines[line].insert(at % (before.len() + 1), *byte),
                Change::Replace(text) => lines[line] = text.clone().into_bytes(),
                Change::Remove => {
                    lines.remove(line);
                    // The one after which it is missing.
                    named = vec![line as u64];
                }
                Change::Repeat => {
                    lines.insert(line, before.clone());
                    named = vec![line as u64 + 1, line as u64 + 2];
                }
                Change::Move(to) => {
                    let moved = lines.remove(line);
                    let to = to % original.len();
                    lines.insert(to, moved);
                    named = vec![to as u64 + 1];
                    if to.abs_diff(line) == 1 {
                        named.push(line as u64 + 1);
                    }
                }
                Change::Insert(text) => lines.insert(line, text.clone().into_bytes()),
            }
            if lines == *original {
                return Ok(());
            }
            let mut text = lines.join(&b'\n');
            text.push(b'\n');
            std::fs::write(&place.config.file, &text).expect("written");
            let findings = place.verify().findings;
            std::fs::write(&place.config.file, {
                let mut text = original.join(&b'\n');
                text.push(b'\n');
                text
            }).expect("written");
            prop_assert!(!findings.is_empty(), "{change:?} of line {line}");
            prop_assert!(
                findings.iter().all(|it| named.contains(&it.line)),
                "{change:?} of line {} is said to be {findings:?}",
                line + 1
            );
            if let Change::Remove = change {
                let n = line as u64 + 1;
                prop_assert_eq!(findings[0].numbers, Some((n, n)));
            }
            Ok(())
        })?;
    }
}
