use super::*;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::thread;
use tempfile::TempDir;
use token::make;

const CRM: &str = "crm-crm-crm-crm-crm-crm-crm-crm-crm";
const BOARD: &str = "board-board-board-board-board-board";
const HERE: [u8; 4] = [127, 0, 0, 1];
const THERE: [u8; 4] = [192, 0, 2, 1];

fn written(folder: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = folder.path().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

fn config(name: &str, san: &[&str], token_file: Option<PathBuf>) -> CallerConfig {
    CallerConfig {
        name: name.into(),
        san: san.iter().map(|san| (*san).to_owned()).collect(),
        token_file,
        role: CallerRole::Observer,
        users: BTreeSet::new(),
        groups: BTreeSet::new(),
        may_join_unasked: false,
    }
}

fn by_token(callers: &Callers, token: &str, from: [u8; 4]) -> Result<String, Unknown> {
    let presented =
        Presented { names: None, tokens: &[Some(token)], from: Some(IpAddr::from(from)) };
    callers.identify(&presented).map(|(caller, _)| caller.name.to_string())
}

fn by_names(callers: &Callers, names: &[SubjectName]) -> Result<String, Unknown> {
    let presented = Presented { names: Some(names), ..Presented::default() };
    callers.identify(&presented).map(|(caller, _)| caller.name.to_string())
}

fn unknown(callers: &Callers, presented: &Presented<'_>) -> Option<Unknown> {
    callers.identify(presented).err()
}

fn host(name: &str) -> SubjectName {
    SubjectName::Host(name.to_owned())
}

fn uri(name: &str) -> SubjectName {
    SubjectName::Uri(name.to_owned())
}

#[test]
fn a_token_is_its_callers_and_that_of_this_machine_counts_on_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let crm = config("crm", &[], Some(written(&folder, "crm", CRM)));
    let local = folder.path().join("state/grpc-token");
    let callers = Callers::load(vec![crm], Some(local.clone())).unwrap();
    let own = fs::read_to_string(&local).unwrap();
    assert_eq!(by_token(&callers, CRM, THERE), Ok("crm".to_owned()));
    assert_eq!(by_token(&callers, own.trim(), HERE), Ok("local".to_owned()));
    for (token, from) in [(own.trim(), THERE), (&CRM[1..], HERE), ("", HERE), (BOARD, HERE)] {
        assert_eq!(by_token(&callers, token, from), Err(Unknown::Token));
    }
    let twice = Presented { tokens: &[Some(CRM), Some(CRM)], ..Presented::default() };
    assert_eq!(unknown(&callers, &twice), Some(Unknown::Token));
    let basic = Presented { tokens: &[None], ..Presented::default() };
    assert_eq!(unknown(&callers, &basic), Some(Unknown::Token));
    assert_eq!(unknown(&callers, &Presented::default()), Some(Unknown::Anonymous));
}

#[test]
fn a_certificate_is_known_by_one_name_as_it_stands_there_and_never_by_a_pattern() {
    let crm = config("crm", &["crm.example.com", "urn:example:crm"], None);
    let callers = Callers::load(vec![crm, config("board", &["board"], None)], None).unwrap();
    for names in [
        vec![host("CRM.example.com")],
        vec![host("other"), uri("urn:example:crm")],
        vec![host("crm.example.com"), uri("urn:example:crm")],
    ] {
        assert_eq!(by_names(&callers, &names), Ok("crm".to_owned()), "{names:?}");
    }
    for names in [
        vec![],
        vec![host("*.example.com")],
        vec![host("crm.example.com.")],
        vec![host("xcrm.example.com")],
        vec![host("urn:example:crm")],
        vec![uri("crm.example.com")],
        vec![uri("urn:example:CRM")],
        vec![host("crm.example.com"), host("board")],
    ] {
        assert_eq!(by_names(&callers, &names), Err(Unknown::Certificate), "{names:?}");
    }
}

#[test]
fn a_token_that_is_sent_decides_whatever_the_certificate_says() {
    let folder = tempfile::tempdir().unwrap();
    let crm = config("crm", &["crm"], Some(written(&folder, "crm", CRM)));
    let callers = Callers::load(vec![crm], None).unwrap();
    let names = [host("crm")];
    let presented =
        Presented { names: Some(&names), tokens: &[Some(BOARD)], ..Presented::default() };
    assert_eq!(unknown(&callers, &presented), Some(Unknown::Token));
}

#[test]
fn tokens_are_exchanged_while_it_runs_and_a_file_that_stays_wrong_takes_them_away() {
    let folder = tempfile::tempdir().unwrap();
    let crm = config("crm", &[], Some(written(&folder, "crm", CRM)));
    let callers = Callers::load(vec![crm], None).unwrap();
    let known = |tokens: [&str; 2]| tokens.map(|token| by_token(&callers, token, THERE).is_ok());
    written(&folder, "crm", &format!("{CRM}\n{BOARD}\n"));
    callers.refresh(false);
    assert_eq!(known([CRM, BOARD]), [true, true]);
    written(&folder, "crm", BOARD);
    callers.refresh(false);
    assert_eq!(known([CRM, BOARD]), [false, true]);
    written(&folder, "crm", "too short\n");
    callers.refresh(false);
    assert_eq!(known([CRM, BOARD]), [false, true], "it may be half written");
    callers.refresh(false);
    assert_eq!(known([CRM, BOARD]), [false, false]);
    written(&folder, "crm", CRM);
    callers.refresh(false);
    assert_eq!(known([CRM, BOARD]), [true, false]);
}

#[test]
fn a_file_that_is_wrong_keeps_no_other_callers_tokens_and_a_token_of_two_is_neithers() {
    let folder = tempfile::tempdir().unwrap();
    let caller = |name: &str, text| config(name, &[], Some(written(&folder, name, text)));
    let callers = vec![caller("crm", CRM), caller("board", BOARD)];
    let callers = Callers::load(callers, None).unwrap();
    let known = |tokens: [&str; 2]| tokens.map(|token| by_token(&callers, token, THERE).is_ok());
    let new = CRM.to_uppercase();
    fs::remove_file(folder.path().join("board")).unwrap();
    written(&folder, "crm", &new);
    callers.refresh(false);
    assert_eq!(known([CRM, &new]), [false, true], "the other file is not there");
    callers.refresh(false);
    assert_eq!(known([BOARD, &new]), [false, true]);
    written(&folder, "board", &format!("{BOARD}\n{new}"));
    callers.refresh(false);
    assert_eq!(known([BOARD, &new]), [true, false]);
    written(&folder, "board", BOARD);
    callers.refresh(false);
    assert_eq!(known([BOARD, &new]), [true, true]);
}

#[test]
fn files_with_tokens_that_others_may_read_or_that_hold_none_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(&folder, "crm", CRM);
    let load = || Callers::load(vec![config("crm", &[], Some(path.clone()))], None).map(drop);
    fs::set_permissions(&path, Permissions::from_mode(0o604)).unwrap();
    let error = load().unwrap_err().to_string();
    assert!(error.ends_with("crm: others may read it (mode 0604): chmod 600"), "{error}");
    let too_long = "x".repeat(513);
    for text in ["", "\n", "short", &CRM.replace('-', "é"), &CRM.replace('-', " "), &too_long] {
        written(&folder, "crm", text);
        assert!(matches!(load(), Err(CallersError::Token(TokenError::NotAToken(_)))), "{text}");
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(load(), Err(CallersError::Token(TokenError::Secret(_)))));
    let one = config("one", &[], Some(written(&folder, "one", CRM)));
    let two = config("two", &[], Some(written(&folder, "two", &format!("{BOARD}\n{CRM}"))));
    let error = Callers::load(vec![one, two], None).map(drop).unwrap_err();
    assert_eq!(error.to_string(), "callers 'one' and 'two' have the same token");
}

#[test]
fn the_token_of_the_state_directory_is_made_once_by_whoever_is_first_for_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state/grpc-token");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| make(&path).unwrap());
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    assert_eq!(text.trim().len(), 43, "256 bits, six in a character");
    make(&path).unwrap();
    assert_eq!(fs::read_to_string(&path).unwrap(), text);
    assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o600);
    assert_eq!(path.parent().unwrap().metadata().unwrap().mode() & 0o777, 0o700);
    let left = fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(left, 1, "no draft is left");

    fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
    assert!(Callers::load(Vec::new(), Some(path.clone())).is_err());
    fs::remove_file(&path).unwrap();
    symlink(written(&folder, "elsewhere", CRM), &path).unwrap();
    assert!(Callers::load(Vec::new(), Some(path)).is_err(), "a link is not followed");
}

#[test]
fn a_token_goes_by_tls_or_stays_on_this_machine_and_is_shown_to_no_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = written(&folder, "crm", CRM);
    for url in ["https://backend.example.com:1", "http://127.0.0.1:1", "http://[::1]:1"] {
        let token = BearerToken::of_file(&path, url).unwrap();
        assert!(!format!("{token:?}").contains(CRM), "{token:?}");
    }
    for url in ["http://backend.example.com:1", "http://10.0.0.1:1", "ftp://127.0.0.1", "nonsense"]
    {
        assert!(matches!(BearerToken::of_file(&path, url), Err(TokenError::InClear(_))), "{url}");
    }
}
