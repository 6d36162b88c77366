//! SIPp as a child of the test, which ends with its handle, and openssl.

use crate::support::ports::{free_port, free_ports};
use crate::support::programs::{speech, start};
use crate::support::server::{Account, COLLEAGUE, Server};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use undertone::demo::phone::audio::Companding;

/// A directory for what the programs read and write.
pub fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

/// What a server answers to a SIP message that `openssl s_client` sends; what openssl itself says
/// where there is no connection.
pub async fn openssl_says(
    server: SocketAddr,
    authority: &Path,
    version: &str,
    message: &str,
) -> String {
    let mut child = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-verify_ip", "127.0.0.1"])
        .args(["-connect", &server.to_string(), "-CAfile"])
        .args([authority.as_os_str()])
        .arg(version)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("openssl does not start ({error}); ./test installs it"));
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    // It may have ended already.
    let _ = stdin.write_all(message.as_bytes()).await;
    let mut answer = [0; 4096];
    let read = tokio::time::timeout(Duration::from_secs(10), stdout.read(&mut answer)).await;
    let size = read.expect("answers or ends").unwrap();
    String::from_utf8_lossy(&answer[..size]).into_owned()
}

/// A run of SIPp.
pub struct Sipp {
    child: Child,
    place: PathBuf,
    scenario: String,
}

impl Sipp {
    /// Registers an account; its contact is the port on which [`Sipp::agent`] listens.
    pub async fn register(server: &Server, account: Account, place: &TempDir) {
        let port = free_port();
        let place = Self::place(place, account);
        fs::write(place.join("port"), port.to_string()).unwrap();
        let run = Self::run(server, "register", account, port, &[], &place);
        run.succeed(Duration::from_secs(10)).await;
    }

    /// Answers one call at the registered contact.
    pub fn agent(server: &Server, account: Account, hz: f32, place: &TempDir) -> Sipp {
        Self::agent_as("agent", server, account, hz, place)
    }

    /// Answers one call with a scenario of its own, which may call the colleague.
    pub fn agent_as(
        scenario: &str,
        server: &Server,
        account: Account,
        hz: f32,
        place: &TempDir,
    ) -> Sipp {
        let place = Self::place(place, account);
        let port = fs::read_to_string(place.join("port")).unwrap().parse().unwrap();
        Self::record(&place, hz);
        Self::run(server, scenario, account, port, &["-key", "target", COLLEAGUE.number], &place)
    }

    /// Calls a number, talks, hangs up.
    pub fn customer(
        server: &Server,
        account: Account,
        number: &str,
        hz: f32,
        talk: Duration,
        place: &TempDir,
    ) -> Sipp {
        Self::customer_as("customer", server, account, number, hz, talk, place)
    }

    /// Calls a number with a scenario of its own.
    pub fn customer_as(
        scenario: &str,
        server: &Server,
        account: Account,
        number: &str,
        hz: f32,
        talk: Duration,
        place: &TempDir,
    ) -> Sipp {
        let place = Self::place(place, account);
        Self::record(&place, hz);
        let talk = talk.as_millis().to_string();
        Self::run(
            server,
            scenario,
            account,
            free_port(),
            // SIPp signs another URI than that of its request unless it is told not to.
            &[
                "-key",
                "target",
                number,
                "-d",
                &talk,
                "-auth_uri",
                &format!("{number}@{}", server.sip),
            ],
            &place,
        )
    }

    /// A trunk at this port: it calls a number and talks, or answers, as its scenario says.
    pub fn trunk_as(
        scenario: &str,
        server: &Server,
        port: u16,
        parties: (Account, &str),
        talk: Duration,
        place: &TempDir,
    ) -> Sipp {
        Self::trunk_with(scenario, server, port, parties, talk, (&[], place))
    }

    /// The same, with more words for its scenario.
    pub fn trunk_with(
        scenario: &str,
        server: &Server,
        port: u16,
        (from, to): (Account, &str),
        talk: Duration,
        (more, place): (&[&str], &TempDir),
    ) -> Sipp {
        let place = Self::place(place, from);
        Self::record(&place, 450.0);
        let talk = talk.as_millis().to_string();
        let words = [&["-key", "target", to, "-d", &talk], more].concat();
        Self::run(server, scenario, from, port, &words, &place)
    }

    /// Waits for its good end; the messages that it has sent and got.
    pub async fn messages(self, within: Duration) -> String {
        let messages = self.place.join(format!("{}.messages", self.scenario));
        self.succeed(within).await;
        fs::read_to_string(messages).unwrap()
    }

    /// Waits for its good end; the port on which it received audio.
    pub async fn finished(self, within: Duration) -> u16 {
        let messages = self.messages(within).await;
        let own = messages.split("o=sipp").nth(1).expect("it described its audio");
        let port = own.split("m=audio ").nth(1).and_then(|rest| rest.split(' ').next());
        port.expect("an audio line").parse().unwrap()
    }

    fn place(place: &TempDir, account: Account) -> PathBuf {
        let place = place.path().join(account.number);
        fs::create_dir_all(&place).unwrap();
        place
    }

    fn record(place: &Path, hz: f32) {
        let bytes: Vec<u8> =
            speech(hz).into_iter().map(|sample| Companding::Mu.encode(sample)).collect();
        fs::write(place.join("tone.ulaw"), bytes).unwrap();
    }

    fn run(
        server: &Server,
        scenario: &str,
        account: Account,
        port: u16,
        more: &[&str],
        place: &Path,
    ) -> Sipp {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/sipp/{scenario}.xml"));
        let media = free_ports(6).to_string();
        let (port, server, messages, errors) = (
            port.to_string(),
            server.sip.to_string(),
            format!("{scenario}.messages"),
            format!("{scenario}.errors"),
        );
        let mut arguments = vec![
            "-sf",
            file.to_str().unwrap(),
            "-i",
            "127.0.0.1",
            "-p",
            &port,
            "-mi",
            "127.0.0.1",
            "-mp",
            &media,
        ];
        arguments.extend([
            "-m",
            "1",
            "-nostdin",
            "-timeout",
            "30s",
            "-timeout_error",
            "-trace_msg",
            "-message_file",
            &messages,
        ]);
        arguments.extend([
            "-trace_err",
            "-error_file",
            &errors,
            "-s",
            account.number,
            "-au",
            account.number,
            "-ap",
            account.password,
        ]);
        arguments.extend(more);
        arguments.push(&server);
        let arguments: Vec<String> = arguments.into_iter().map(str::to_owned).collect();
        Sipp {
            child: start("sipp", &arguments, place, &place.join(format!("{scenario}.screen"))),
            place: place.into(),
            scenario: scenario.into(),
        }
    }

    async fn succeed(mut self, within: Duration) {
        let status = tokio::time::timeout(within, self.child.wait()).await;
        let read = |kind| {
            fs::read_to_string(self.place.join(format!("{}.{kind}", self.scenario)))
                .unwrap_or_default()
        };
        match status {
            Ok(Ok(status)) if status.success() => {}
            other => panic!(
                "SIPp {}: {other:?}\n{}\n{}\n{}",
                self.scenario,
                read("errors"),
                read("messages"),
                read("screen")
            ),
        }
    }
}
