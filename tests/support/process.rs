//! The real binary as a process of its own.

use super::rest_client::http_client;
use super::talk::PATIENCE;
use super::wait;
use nix::sys::signal::Signal;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::timeout;

/// Writes a file that only its owner may read, as one with passwords must be.
pub fn write_private(file: &Path, text: &str) {
    // In the place of what is there: as an editor does it.
    let beside = file.with_extension("new");
    let _ = std::fs::remove_file(&beside);
    let mut options = std::fs::OpenOptions::new();
    let mut new = options.write(true).create_new(true).mode(0o600).open(&beside).unwrap();
    new.write_all(text.as_bytes()).unwrap();
    std::fs::rename(&beside, file).unwrap();
}

/// A free port.
pub const ANY: &str = "127.0.0.1:0";

/// One of our processes. Killed when dropped.
pub struct Process {
    child: Child,
    /// Names and addresses, as it says them.
    doors: Vec<(String, SocketAddr)>,
    /// What it says while it works; outlives it.
    pub log: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts a part of the product and waits until its doors are open.
    pub async fn start(part: &str, place: &Path, config: &str) -> Process {
        let file = place.join(format!("{part}.toml"));
        write_private(&file, config);
        let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
        command.arg(part).arg("--config").arg(&file);
        Self::launch(command, place).await
    }

    /// Starts a program of the product and waits until its doors are open.
    pub async fn launch(mut command: Command, place: &Path) -> Process {
        let mut child = command
            .current_dir(place)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let doors = timeout(PATIENCE, doors(&mut lines, &log))
            .await
            .unwrap_or_else(|_| panic!("it has not started: {:?}", log.lock().unwrap()));
        let rest = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                rest.lock().unwrap().push(line);
            }
        });
        Process { child, doors, log }
    }

    /// The address of `rest`, `sip` (UDP), `sip-tcp`, `grpc` or `admin`.
    pub fn door(&self, name: &str) -> SocketAddr {
        let found = self.doors.iter().find(|(said, _)| said == name);
        found
            .unwrap_or_else(|| {
                panic!("no {name} among {:?} in {:?}", self.doors, self.log.lock().unwrap())
            })
            .1
    }

    /// kill −9; what it had printed.
    pub async fn kill(mut self) -> String {
        self.child.kill().await.unwrap();
        self.printed().await
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), signal).unwrap();
    }

    /// SIGTERM; exit code 0 in time; what it had printed.
    pub async fn terminate(self, within: Duration) -> String {
        self.signal(Signal::SIGTERM);
        self.ends(within).await
    }

    /// It ends in time with exit code 0; what it had printed.
    pub async fn ends(mut self, within: Duration) -> String {
        let status = timeout(within, self.child.wait())
            .await
            .unwrap_or_else(|_| panic!("it has not ended: {:?}", self.log.lock().unwrap()))
            .unwrap();
        assert_eq!(status.code(), Some(0), "{:?}", self.log.lock().unwrap());
        self.printed().await
    }

    async fn printed(&mut self) -> String {
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).await.unwrap();
        text
    }

    /// What it prints until a line contains `last`.
    pub async fn printed_until(&mut self, last: &str) -> String {
        let mut lines = BufReader::new(self.child.stdout.as_mut().unwrap()).lines();
        let reading = async {
            let mut text = String::new();
            while !text.contains(last) {
                text += &lines
                    .next_line()
                    .await
                    .unwrap()
                    .unwrap_or_else(|| panic!("it ended after: {text}"));
                text.push('\n');
            }
            text
        };
        timeout(PATIENCE, reading).await.unwrap()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id().unwrap()
    }

    /// What it has logged.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// A line of /proc/…/status, in KiB.
    pub fn memory(&self, what: &str) -> u64 {
        let status =
            std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)?.strip_prefix(':'));
        line.unwrap().trim().split(' ').next().unwrap().parse().unwrap()
    }

    /// What admin says under this path: status and text.
    pub async fn says(&self, path: &str) -> (u16, String) {
        let http = http_client();
        let answer = http.get(format!("http://{}{path}", self.door("admin"))).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// Waits until it says that it works.
    pub async fn ready(&self) {
        let url = format!("http://{}/readyz", self.door("admin"));
        let http = http_client();
        let look = async || {
            let answer = http.get(&url).send().await;
            answer.is_ok_and(|answer| answer.status().is_success()).then_some(())
        };
        assert!(
            wait::found(PATIENCE, look).await.is_some(),
            "not ready: {:?}",
            self.log.lock().unwrap()
        );
    }
}

/// Reads the log until the last door is open.
async fn doors(
    lines: &mut Lines<BufReader<ChildStderr>>,
    log: &Mutex<Vec<String>>,
) -> Vec<(String, SocketAddr)> {
    let marks = [
        ("rest", "REST and CometD on http"),
        ("sip", "SIP on UDP "),
        ("sip-tcp", "SIP on TCP "),
        ("grpc", "gRPC on "),
        ("admin", "health and metrics on http"),
    ];
    let mut doors = Vec::new();
    while !doors.iter().any(|(name, _)| name == "admin") {
        let line = lines.next_line().await.unwrap();
        let line = line.unwrap_or_else(|| panic!("it has ended: {:?}", log.lock().unwrap()));
        for (name, mark) in marks {
            if let Some((_, address)) = line.split_once(mark) {
                let address = address.trim_start_matches("s://").trim_start_matches("://");
                let end = address
                    .find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')
                    .unwrap_or(address.len());
                doors.push((name.to_owned(), address[..end].parse().unwrap()));
            }
        }
        log.lock().unwrap().push(line);
    }
    doors
}
