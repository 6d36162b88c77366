//! The walls between the modules: which one may say `use crate::…` of which.

use std::fs;
use std::path::{Path, PathBuf};

/// A module, and the modules it may use. A module that is not here may not exist.
const WALLS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("attach", &[]),
    ("clock", &["model"]),
    ("rate_limit", &[]),
    ("hex", &[]),
    ("secret", &[]),
    ("private", &["secret"]),
    ("tls", &["model", "clock", "private", "secret"]),
    ("supervision", &["model"]),
    ("cluster", &["model", "clock", "rate_limit", "telephony"]),
    ("telephony", &["model", "clock", "rate_limit", "supervision", "tls", "private", "secret"]),
    (
        "gateway",
        &["model", "clock", "hex", "rate_limit", "telephony", "audit", "store", "telemetry"],
    ),
    ("http", &["model", "clock", "rate_limit", "telemetry", "tls", "secret"]),
    ("directory", &["model", "gateway", "sip", "store", "secret"]),
    (
        "rest",
        &["model", "clock", "http", "rate_limit", "gateway", "directory", "telemetry", "secret"],
    ),
    ("cometd", &["model", "clock", "http", "rate_limit", "hex", "gateway", "store", "secret"]),
    ("grpc", &["model", "gateway", "telephony"]),
    ("media", &["model", "clock", "telemetry"]),
    (
        "sip",
        &[
            "model",
            "clock",
            "rate_limit",
            "hex",
            "telephony",
            "supervision",
            "media",
            "store",
            "telemetry",
            "tls",
            "secret",
        ],
    ),
    ("store", &["model", "private"]),
    ("audit", &["model", "clock", "hex", "store", "private"]),
    ("telemetry", &["model"]),
    (
        "config",
        &[
            "model",
            "attach",
            "audit",
            "cluster",
            "cometd",
            "gateway",
            "http",
            "media",
            "sip",
            "store",
            "supervision",
            "telemetry",
            "telephony",
            "tls",
            "clock",
            "private",
            "secret",
        ],
    ),
    ("contract_check", &["model", "telephony", "tls"]),
    ("demo", ANY),
    ("app", ANY),
    ("main", ANY),
    ("cli", ANY),
    ("lib", &[]),
];

const ANY: &[&str] = &["*"];

/// Core modules may not wait, lock or look at the world.
const SHELL_WORDS: &[&str] = &[
    "tokio",
    "async fn",
    ".await",
    "std::net::UdpSocket",
    "std::net::Tcp",
    "Mutex",
    "RwLock",
    "mpsc",
    "clock::",
    "std::thread",
    "std::fs",
];

fn sources() -> Vec<(PathBuf, String)> {
    rust_files("src")
}

/// Every Rust file below a folder of the repository, with its text.
fn rust_files(top: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(top)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder can be read") {
            let path = entry.expect("the folder can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                let text = fs::read_to_string(&path).expect("a source file is UTF-8");
                found.push((path, text));
            }
        }
    }
    found.sort();
    found
}

fn relative(path: &Path) -> String {
    path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
        .expect("under src")
        .display()
        .to_string()
}

fn module(path: &Path) -> String {
    let relative = relative(path);
    let first = relative.split('/').next().expect("a path has a first part");
    first.trim_end_matches(".rs").to_owned()
}

/// The part of a file that ships: everything before its unit tests.
fn shipped(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests").next().expect("split yields at least one part")
}

#[test]
fn every_module_uses_only_the_modules_its_walls_allow() {
    let mut broken = Vec::new();
    for (path, text) in sources() {
        let module = module(&path);
        let Some((_, allowed)) = WALLS.iter().find(|(name, _)| *name == module) else {
            broken.push(format!(
                "{}: module '{module}' is not in the table of walls",
                path.display()
            ));
            continue;
        };
        for (number, line) in shipped(&text)
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            if line.contains("crate::{") {
                broken.push(format!(
                    "{}:{}: one line per module, so that its walls can be read",
                    path.display(),
                    number + 1
                ));
            }
            for rest in line.split("crate::").skip(1) {
                let used: String =
                    rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                let known = WALLS.iter().any(|(name, _)| *name == used);
                if known && used != module && !allowed.contains(&used.as_str()) && *allowed != ANY {
                    broken.push(format!(
                        "{}:{}: '{module}' may not use '{used}'",
                        path.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(broken.is_empty(), "walls are broken:\n{}", broken.join("\n"));
}

#[test]
fn core_modules_neither_wait_nor_look_at_the_world() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs"))
        .expect("lib.rs");
    let mut broken = Vec::new();
    let sources = sources();
    for (path, text) in &sources {
        if is_shell_or_test(path, &sources, &lib) {
            continue;
        }
        for (number, line) in shipped(text)
            .lines()
            .enumerate()
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
        {
            for loud in SHELL_WORDS.iter().filter(|loud| line.contains(**loud)) {
                broken.push(format!(
                    "{}:{}: a core module says '{loud}'",
                    path.display(),
                    number + 1
                ));
            }
        }
    }
    assert!(broken.is_empty(), "core modules are not pure:\n{}", broken.join("\n"));
}

/// Whether the module of a file, or one above it, is declared behind a feature, or a test of it.
fn is_shell_or_test(path: &Path, sources: &[(PathBuf, String)], lib: &str) -> bool {
    let relative = relative(path);
    if relative == "main.rs" || relative == "cli.rs" || relative.starts_with("cli/") {
        return true;
    }
    let parts: Vec<&str> = relative.trim_end_matches(".rs").split('/').collect();
    let mut parent = lib.to_owned();
    for (depth, part) in parts.iter().enumerate() {
        let gated = parent.lines().collect::<Vec<_>>().windows(2).any(|pair| {
            (pair[0].contains("feature = \"") || pair[0].contains("cfg(test)"))
                && pair[1]
                    .trim_start_matches("pub ")
                    .trim_start_matches("pub(crate) ")
                    .starts_with(&format!("mod {part};"))
        });
        if gated {
            return true;
        }
        let file = format!("{}.rs", parts[..=depth].join("/"));
        parent = sources
            .iter()
            .find(|(path, _)| self::relative(path) == file)
            .map(|(_, text)| text.clone())
            .unwrap_or_default();
    }
    false
}

/// `docs/supervision.md` names a test for each rule: it is there.
#[test]
fn every_test_that_the_description_of_supervision_names_exists() {
    let text = include_str!("../docs/supervision.md");
    let files = [rust_files("src"), rust_files("tests")].concat();
    let mut named = 0;
    for quoted in text.split('`').skip(1).step_by(2) {
        let Some(name) = quoted
            .rsplit("::")
            .next()
            .filter(|_| quoted.contains("::"))
            .filter(|name| name.contains('_'))
        else {
            continue;
        };
        named += 1;
        let declared = format!("fn {name}(");
        assert!(
            files.iter().any(|(_, text)| text.contains(&declared)),
            "there is no test {quoted}"
        );
    }
    assert!(named > 30, "{named}");
}
