//! The servers, each a process of its own on the server's core.

use super::cores::{Cores, cpu_of, pin};
use super::load::Target;
use super::measure::anonymous_kib;
use super::seal::Seal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use undertone::clock::instant;

/// Longer than a collection of garbage takes.
const COLLECTION: Duration = Duration::from_millis(700);
const START: Duration = Duration::from_secs(30);
/// The load is one user at one address, which limits made for people would stop.
const CONFIG: &str = r#"
[rest]
bind = "127.0.0.1:0"
[grpc]
bind = "127.0.0.1:0"
[admin]
bind = "127.0.0.1:0"
[sip]
listen = ["udp:127.0.0.1:0"]
[log]
filter = "warn,undertone::app=info"
[bayeux]
open_channels = ["/x", "/x/**"]
max_sessions = 100000
max_sessions_per_user = 100000
max_sessions_per_address = 100000
max_subscriptions_per_user = 100000
max_subscriptions_per_address = 100000
max_queue_bytes_per_user = 268435456
handshakes_per_user = 100000
handshakes_per_address = 100000
"#;

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Undertone,
    Faye,
    Cometd,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Undertone, Kind::Faye, Kind::Cometd];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Undertone => "undertone",
            Kind::Faye => "faye",
            Kind::Cometd => "cometd-nodejs",
        }
    }

    pub fn has_websockets(self) -> bool {
        self != Kind::Cometd
    }
}

/// A running server. Killed when dropped.
pub struct Server {
    child: Child,
    kind: Kind,
    pub target: Target,
    place: TempDir,
}

impl Server {
    pub fn start(
        kind: Kind,
        cores: Cores,
        peers: &Path,
        seal: Option<&Seal>,
    ) -> Result<Self, Box<dyn Error>> {
        let place = tempfile::tempdir()?;
        let mut command = match kind {
            Kind::Undertone => {
                let config = place.path().join("undertone.toml");
                let tls = seal.map(Seal::keys).unwrap_or_default();
                fs::write(
                    &config,
                    format!("state_dir = {:?}\n{CONFIG}{tls}", place.path().join("state")),
                )?;
                let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
                command.arg("gateway").arg("--config").arg(config).current_dir(place.path());
                command
            }
            Kind::Faye | Kind::Cometd => {
                let mut command = Command::new("node");
                let script = format!("{}.js", kind.name());
                command
                    .arg("--expose-gc")
                    .arg(script)
                    .current_dir(peers)
                    .env("NODE_ENV", "production");
                if let Some(seal) = seal {
                    command.env("TLS_CERTIFICATE", &seal.certificate).env("TLS_KEY", &seal.key);
                }
                command
            }
        };
        let said = place.path().join("said");
        let out = File::create(&said)?;
        command.stdin(Stdio::null()).stderr(out.try_clone()?).stdout(out);
        // A child starts on its parent's core.
        pin(cores.server)?;
        let child = command.spawn();
        pin(cores.generator)?;
        let mut server = Self { child: child?, kind, target: Target::default(), place };
        server.target = server.find_door(&said)?;
        server.target.tls = seal.map(|seal| seal.client.clone());
        Ok(server)
    }

    fn find_door(&mut self, said: &Path) -> Result<Target, Box<dyn Error>> {
        let begun = instant();
        loop {
            let text = fs::read_to_string(said)?;
            if let Some(target) = door(self.kind, &text, self.place.path()) {
                return Ok(target);
            }
            if self.child.try_wait()?.is_some() || begun.elapsed() > START {
                return Err(format!("{} has not started: {text}", self.kind.name()).into());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// CPU time so far of all its threads, those that have ended too, to the nanosecond.
    pub fn cpu(&self) -> Result<Duration, Box<dyn Error>> {
        cpu_of(self.child.id())
    }

    /// Resident memory in KiB without the pages of files, and without garbage where there is such
    /// a thing.
    pub fn memory(&self) -> Result<f64, Box<dyn Error>> {
        let id = self.child.id();
        if self.kind != Kind::Undertone {
            kill(Pid::from_raw(id.try_into()?), Signal::SIGUSR2)?;
            std::thread::sleep(COLLECTION);
        }
        anonymous_kib(&id.to_string())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where it is, from what it has said.
fn door(kind: Kind, said: &str, place: &Path) -> Option<Target> {
    let mark = if kind == Kind::Undertone { "REST and CometD on " } else { "" };
    let (_, url) = said.split_once(&format!("{mark}http"))?;
    let (url, _) = url.split_once('\n')?;
    let (_, url) = url.split_once("://")?;
    let (address, path) = url.split_once('/')?;
    let mut target = Target {
        address: address.to_owned(),
        path: format!("/{path}"),
        authorization: String::new(),
        tls: None,
    };
    if kind == Kind::Undertone {
        target.path += "/notifications";
        let made = fs::read_to_string(place.join("state/made-passwords.txt")).ok()?;
        let password = made.lines().find_map(|line| line.strip_prefix("REST agent "))?;
        target.authorization = format!(
            "Authorization: Basic {}\r\n",
            STANDARD.encode(format!("agent:{}", password.trim()))
        );
    }
    Some(target)
}

/// Where the peers can be started, or why not.
pub fn peers() -> Result<PathBuf, String> {
    let version = Command::new("node").arg("--version").output();
    if !version.is_ok_and(|output| output.status.success()) {
        return Err("there is no node here".to_owned());
    }
    install().map_err(|error| format!("the peers can not be installed: {error}"))
}

fn install() -> Result<PathBuf, Box<dyn Error>> {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers");
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join("peers");
    fs::create_dir_all(&to)?;
    let lock = "package-lock.json";
    let same = fs::read(to.join(lock)).ok() == Some(fs::read(from.join(lock))?);
    let installed = same && to.join("node_modules/.package-lock.json").exists();
    for file in ["package.json", lock, "faye.js", "cometd-nodejs.js"] {
        fs::copy(from.join(file), to.join(file))?;
    }
    if !installed {
        let mut npm = Command::new("npm");
        npm.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"]);
        let output = npm.current_dir(&to).output()?;
        if !output.status.success() {
            fs::remove_file(to.join(lock))?;
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
    }
    Ok(to)
}
