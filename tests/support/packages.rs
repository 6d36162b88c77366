//! Packages of npm and PyPI, installed once from committed lists into `target/`, with the scripts
//! that use them beside them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The scripts with their packages beside them.
pub(crate) struct Installed {
    /// With `node_modules`.
    pub(crate) node: PathBuf,
    /// With `packages`.
    pub(crate) python: PathBuf,
}

/// What `tests/NAME` lists and has.
pub(crate) fn installed(name: &str) -> Installed {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(name);
    let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&cache).expect("a cache");
    // Each test is a process of its own: one installs, the others wait.
    let lock = fs::File::create(cache.join("lock")).expect("a lock file");
    lock.lock().expect("a lock");
    let (node, python) = (cache.join("node"), cache.join("python"));
    install(&source, &node, "package-lock.json", &mut npm());
    install(&source, &python, "requirements.txt", &mut pip());
    Installed { node, python }
}

/// What the `requirements.txt` of a folder lists, for PYTHONPATH; `name`: its place in `target/`.
pub(crate) fn python_packages(source: &Path, name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).expect("a folder");
    let lock = fs::File::create(folder.join("lock")).expect("a lock file");
    lock.lock().expect("a lock");
    install(source, &folder, "requirements.txt", &mut pip());
    folder.join("packages")
}

/// What the `package-lock.json` of a folder lists, with the scripts beside it; `name`: its place in
/// `target/`.
pub(crate) fn node_packages(source: &Path, name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).expect("a folder");
    let lock = fs::File::create(folder.join("lock")).expect("a lock file");
    lock.lock().expect("a lock");
    install(source, &folder, "package-lock.json", &mut npm());
    folder
}

fn npm() -> Command {
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"]);
    npm
}

fn pip() -> Command {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    pip.args(["--target", "packages", "-r", "requirements.txt"]);
    pip
}

fn install(source: &Path, folder: &Path, list: &str, command: &mut Command) {
    fs::create_dir_all(folder).expect("a folder");
    for entry in fs::read_dir(source).expect("the folder of the tests") {
        let from = entry.expect("an entry").path();
        if from.is_file() {
            let to = folder.join(from.file_name().expect("a name"));
            let text = fs::read(&from).expect("a file");
            // What is as it should be is left alone: another test's client may be reading it.
            if fs::read(&to).ok().as_ref() != Some(&text) {
                fs::write(&to, text).expect("a copy");
            }
        }
    }
    let wanted = fs::read(source.join(list)).expect("a list of packages");
    let note = folder.join("installed");
    if fs::read(&note).is_ok_and(|had| had == wanted) {
        return;
    }
    let done = command.current_dir(folder).output().expect("it is installed");
    assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    fs::write(note, wanted).expect("a note");
}
