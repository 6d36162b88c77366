//! What was done to the audit while nobody wrote it is found at the next start, and stays found.

use super::*;
use crate::hex::hex;

impl Place {
    /// The files as they are now: what a process that was killed leaves behind.
    fn killed(&self) -> Place {
        let copy = Place::new();
        for entry in std::fs::read_dir(self.directory.path()).expect("a directory") {
            let entry = entry.expect("an entry");
            std::fs::copy(entry.path(), copy.path(&entry.file_name().to_string_lossy()))
                .expect("copied");
        }
        Place {
            config: AuditConfig {
                state_dir: copy.config.state_dir.clone(),
                file: copy.config.file.clone(),
                ..self.config.clone()
            },
            ..copy
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn remove(&self, name: &str) {
        std::fs::remove_file(self.path(name)).expect("it was there");
    }

    /// A start and an end.
    fn restart(&self) {
        let audit = self.open();
        self.write(&audit, 2);
        self.close(audit);
    }

    /// The lines of the file, from 1, that say that the audit was found broken.
    fn broken(&self) -> Vec<u64> {
        let found = self.verify().findings.into_iter();
        found.filter(|it| it.fault == Fault::Broken).map(|it| it.line).collect()
    }

    /// It is found at the next start, at this line, and still after others.
    fn stays_broken(&self, line: u64) {
        for _ in 0..3 {
            self.restart();
            assert_eq!(self.broken(), [line], "{:?}", self.text());
        }
    }
}

/// An audit whose process was killed 12 lines after its first checkpoint.
fn killed() -> Place {
    let place = Place::new();
    let audit = place.open();
    place.write(&audit, 12);
    let killed = place.killed();
    place.close(audit);
    killed
}

fn end_of(line: &str) -> chain::ChainEnd {
    let chained = chain::ChainedLine::parse(line.as_bytes()).expect("a line");
    chain::ChainEnd { n: chained.n, hash: chain::hash_of(line.as_bytes()) }
}

fn members_of(line: &str) -> &str {
    let (_, members) = line.split_once(',').expect("members");
    members.rsplit_once(",\"prev\":").expect("the hash").0
}

#[test]
fn a_line_that_was_chained_on_is_found_before_and_after_the_next_start() {
    for is_stopped in [false, true] {
        for count in [1, 3] {
            let place = killed();
            if is_stopped {
                place.restart();
            }
            let mut lines = place.text();
            let last = lines.last().expect("a line").clone();
            let mut end = end_of(&last);
            let at = utc(crate::clock::wall());
            let members = format!(r#""at":"{at}","event":"allowed","user":"root""#);
            let first = lines.len() as u64 + 1;
            for _ in 0..count {
                lines.push(chained_by_hand(&mut end, &members, None));
            }
            place.rewrite(&lines);
            let found: Vec<_> = place.faults().iter().map(|it| (it.0, it.1)).collect();
            let all: Vec<_> = (first..first + count).map(|at| (Fault::Inserted, at)).collect();
            assert_eq!(found, all);
            place.stays_broken(first + count);
            let found = place.faults();
            let named: Vec<_> = found.iter().filter(|it| it.0 == Fault::Inserted).collect();
            assert_eq!(named.len() as u64, count, "the lines themselves are named: {found:?}");
            let text = place.text();
            let said: serde_json::Value =
                serde_json::from_str(&text[(first + count - 1) as usize]).expect("JSON");
            let known = end_of(&last);
            assert_eq!(
                (&said["expected"], &said["expected_hash"]),
                (&known.n.into(), &hex(&known.hash).into())
            );
            assert_eq!(
                (&said["found"], &said["found_hash"]),
                (&end.n.into(), &hex(&end.hash).into())
            );
        }
    }
}

#[test]
fn a_tail_that_was_renumbered_around_a_line_that_is_gone_is_found_before_and_after_the_start() {
    for has_signatures in [true, false] {
        for fillers in [0, 1, 2, 9] {
            let place = killed();
            let lines = place.text();
            let last = lines[lines.len() - 1].clone();
            let mut made = lines[..4].to_vec();
            let mut end = end_of(&made[3]);
            let fill = std::iter::repeat_n(&last, fillers);
            for line in lines[5..].iter().chain(fill) {
                let signature = line.split_once(",\"sig\":").map(|(_, it)| it);
                let signature = signature.filter(|_| has_signatures);
                made.push(chained_by_hand(&mut end, members_of(line), signature));
            }
            place.rewrite(&made);
            assert!(!place.verify().is_intact());
            place.stays_broken(made.len() as u64 + 1);
        }
    }
}

#[test]
fn lines_that_were_cut_off_with_the_head_gone_are_found_for_ever() {
    for cut in [0, 1, 5, 12] {
        let place = killed();
        let lines = place.text();
        place.rewrite(&lines[..lines.len() - cut]);
        place.remove(HEAD_FILE);
        place.stays_broken((lines.len() - cut + 1) as u64);
    }
    let place = killed();
    place.remove("audit.jsonl");
    place.remove(HEAD_FILE);
    place.stays_broken(1);
}

#[test]
fn lines_that_were_cut_off_with_the_head_there_are_missed_and_said_to_be() {
    let place = killed();
    let lines = place.text();
    place.rewrite(&lines[..8]);
    place.stays_broken(9);
    assert!(place.faults().contains(&(Fault::Removed, 8, Some((9, 13)))), "{:?}", place.faults());
    // The whole file is missed by its numbers alone: it may be kept elsewhere.
    let place = killed();
    place.remove("audit.jsonl");
    place.restart();
    assert_eq!(place.faults(), [(Fault::CutOff, 0, Some((1, 13)))]);
}

#[test]
fn a_head_that_is_gone_damaged_or_somebody_elses_breaks_the_audit() {
    let other = std::fs::read(killed().path(HEAD_FILE)).expect("a head");
    let own = std::fs::read(killed().path(HEAD_FILE)).expect("a head");
    assert_ne!(other, own);
    let altered = String::from_utf8_lossy(&own).replace("\"n\":13", "\"n\":12").into_bytes();
    for head in [None, Some(vec![]), Some(other), Some(altered), Some(vec![0; 512])] {
        let place = killed();
        match head {
            Some(head) => std::fs::write(place.path(HEAD_FILE), head).expect("written"),
            None => place.remove(HEAD_FILE),
        }
        place.stays_broken(14);
    }
}

#[test]
fn a_key_that_is_gone_breaks_the_audit_unless_the_one_before_is_named() {
    let place = killed();
    let known = PublicKey::read(&place.path(PUBLIC_KEY_FILE)).expect("a key");
    place.remove(KEY_FILE);
    place.restart();
    assert_eq!(place.broken(), [14]);

    let place = killed();
    std::fs::rename(place.path(PUBLIC_KEY_FILE), place.path(key::OLD_PUBLIC_KEY_FILE)).expect("ok");
    place.remove(KEY_FILE);
    place.restart();
    place.restart();
    let now = PublicKey::read(&place.path(PUBLIC_KEY_FILE)).expect("a key");
    let old = PublicKey::read(&place.path(key::OLD_PUBLIC_KEY_FILE)).expect("a key");
    assert!(old != now && old != known);
    let options = VerifyOptions { keys: vec![old, now.clone()], ..place.options() };
    assert_eq!(verify(&options).expect("readable").findings, []);
    let options = VerifyOptions { keys: vec![now], ..options };
    let found = verify(&options).expect("readable").findings;
    assert_eq!(found.len(), 1, "one finding for all lines of the other key: {found:?}");
    assert_eq!((found[0].fault, found[0].numbers), (Fault::Forged, Some((1, 13))));
}

#[test]
fn a_file_moved_away_by_the_tamperer_is_looked_into() {
    let place = killed();
    let mut lines = place.text();
    let mut end = end_of(lines.last().expect("a line"));
    lines.push(chained_by_hand(&mut end, members_of(&lines[5]), None));
    place.rewrite(&lines);
    std::fs::rename(&place.config.file, place.path("audit.jsonl.1")).expect("moved");
    place.stays_broken(1);
}

/// An audit as it was when only checkpoints were signed.
fn of_before() -> Place {
    let place = Place::new();
    let key = key::AuditKey::open(place.directory.path()).expect("a key");
    key.keep(place.directory.path()).expect("kept");
    let at = utc(crate::clock::wall());
    let mut end = chain::ChainEnd::default();
    let mut lines = Vec::new();
    for n in 0..6 {
        let members = match n {
            0 => format!(
                r#""at":"{at}","event":"checkpoint","cause":"start","key":"{}""#,
                key.public().id()
            ),
            n => format!(r#""at":"{at}","event":"allowed","heard_ms":{n}"#),
        };
        let prev = hex(&end.hash);
        let opened = format!("{{\"n\":{},{members},\"prev\":\"{prev}\"", n + 1);
        let line = if n == 0 { chain::signed(opened, &key) } else { format!("{opened}}}") };
        end = end_of(&line);
        lines.push(line);
    }
    place.rewrite(&lines);
    // One line behind, as after a kill.
    let known = end_of(&lines[4]);
    let head = format!(r#"{{"head":{{"n":{},"hash":"{}","at":"{at}"}}"#, known.n, hex(&known.hash));
    std::fs::write(place.path(HEAD_FILE), chain::signed(head, &key) + "\n").expect("written");
    place
}

#[test]
fn an_audit_of_unsigned_lines_goes_on_and_from_then_on_each_line_is_signed() {
    let place = of_before();
    assert_eq!(place.faults(), []);
    place.restart();
    assert_eq!(place.faults(), []);
    let lines = place.text();
    // Lines as they were once are found, with and without the head.
    let mut made = lines[..8].to_vec();
    let mut end = end_of(&made[7]);
    for line in &lines[8..] {
        made.push(chained_by_hand(&mut end, members_of(line), None));
    }
    place.rewrite(&made);
    let options = place.options();
    for head in [options.head.clone(), None] {
        let found = verify(&VerifyOptions { head, ..options.clone() }).expect("readable").findings;
        assert!(found.iter().any(|it| it.line == 9), "{found:?}");
    }
    place.stays_broken(made.len() as u64 + 1);

    let place = of_before();
    let mut lines = place.text();
    lines[5] = lines[5].replace("heard_ms", "heart_ms");
    lines[4] = lines[4].replace("heard_ms", "heart_ms");
    place.rewrite(&lines);
    place.restart();
    assert_eq!(place.broken(), [7], "what the head knows is held against it");
}

#[test]
fn the_line_that_the_head_knows_is_looked_at_even_where_a_good_line_follows_it() {
    let place = killed();
    let head = std::fs::read(place.path(HEAD_FILE)).expect("a head");
    let known = place.text().len();
    place.restart();
    std::fs::write(place.path(HEAD_FILE), head).expect("as after a power cut");
    let mut lines = place.text();
    lines[known - 1] = lines[known - 1].replace("meg", "peg");
    place.rewrite(&lines);
    place.restart();
    assert_eq!(place.broken(), [lines.len() as u64 + 1]);
}

#[test]
fn a_first_start_that_was_killed_at_any_step_breaks_nothing() {
    let place = Place::new();
    let audit = place.open();
    let whole = place.killed();
    place.close(audit);
    let fresh = || {
        let place = Place::new();
        drop(key::HeadFile::open(&place.config.state_dir).expect("a head"));
        place
    };
    // An empty head; a head of a key that is nowhere; key and head, and no line.
    let no_key = whole.killed();
    no_key.remove(KEY_FILE);
    no_key.remove("audit.jsonl");
    let no_line = Place::new();
    {
        let key = key::AuditKey::open(&no_line.config.state_dir).expect("a key");
        let mut head = key::HeadFile::open(&no_line.config.state_dir).expect("a head");
        head.write(chain::ChainEnd::default(), crate::clock::wall(), &key);
        key.keep(&no_line.config.state_dir).expect("kept");
    }
    let empty_file = no_line.killed();
    std::fs::write(&empty_file.config.file, "").expect("a file");
    for place in [fresh(), no_key, no_line, empty_file] {
        place.restart();
        assert_eq!(place.faults(), []);
    }
}

#[test]
fn a_kill_at_any_moment_of_a_rotation_breaks_nothing() {
    let mut place = Place::new();
    place.config.rotate_size = 2500;
    let audit = place.open();
    for _ in 0..20 {
        place.write(&audit, 1);
        let killed = place.killed();
        // Moved, and the new file not there yet.
        let moved = place.killed();
        std::fs::rename(&moved.config.file, moved.path("audit.jsonl-moved")).expect("moved");
        for place in [killed, moved] {
            place.restart();
            assert_eq!(place.faults(), []);
        }
    }
    assert!(place.files().len() > 2);
    place.close(audit);
}

/// The bytes of the file, and after each write its length and the head.
type Moments = (Place, Vec<u8>, Vec<(usize, Vec<u8>)>);

thread_local! {
    static MOMENTS: Moments = {
        let place = Place::new();
        let mut moments = Vec::new();
        for _ in 0..3 {
            let audit = place.open();
            for _ in 0..8 {
                let length = std::fs::read(&place.config.file).expect("a file").len();
                moments.push((length, std::fs::read(place.path(HEAD_FILE)).expect("a head")));
                place.write(&audit, 1);
            }
            place.close(audit);
        }
        let bytes = std::fs::read(&place.config.file).expect("a file");
        (place, bytes, moments)
    };
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn a_kill_or_a_power_cut_at_any_moment_breaks_nothing(
        head in any::<proptest::sample::Index>(),
        cut in any::<proptest::sample::Index>(),
    ) {
        MOMENTS.with(|(place, bytes, moments)| {
            // The head as it was at some moment, the file as far as it had come then or further.
            let (least, head) = head.get(moments);
            let length = least + cut.index(bytes.len() - least + 1);
            let killed = place.killed();
            std::fs::write(&killed.config.file, &bytes[..length]).expect("written");
            std::fs::write(killed.path(HEAD_FILE), head).expect("written");
            killed.restart();
            prop_assert_eq!(killed.faults(), []);
            Ok(())
        })?;
    }
}
