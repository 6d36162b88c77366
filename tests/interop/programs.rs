//! SIPp and baresip as children of the test; each ends with its handle.

use crate::support::ports::{free_port, free_ports};
use crate::support::server::{Account, COLLEAGUE, Server};
use crate::support::wait;
use serde_json::json;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use undertone::demo::phone::audio::{Companding, Tone};

const SPEECH_DBFS: f32 = -16.0;
const SPEECH_SECONDS: usize = 40;

/// A directory for what the programs read and write.
pub fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

fn speech(hz: f32) -> Vec<i16> {
    let mut tone = Tone::new(hz as u32);
    (0..SPEECH_SECONDS * 50).flat_map(|_| tone.frame(hz, SPEECH_DBFS)).collect()
}

fn start(program: &str, arguments: &[String], place: &Path, log: &Path) -> Child {
    let output = fs::File::create(log).unwrap();
    Command::new(program)
        .args(arguments)
        .current_dir(place)
        .env("TERM", "dumb")
        .stdin(Stdio::null())
        .stdout(output.try_clone().unwrap())
        .stderr(output)
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{program} does not start ({error}); ./test installs it"))
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

/// A registered baresip that answers by itself, speaks a tone and records what it hears.
pub struct Baresip {
    child: Child,
    place: PathBuf,
    control: SocketAddr,
}

impl Baresip {
    pub fn start(server: &Server, account: Account, hz: f32, place: &TempDir) -> Baresip {
        Baresip::start_as("audio_codecs=pcmu/8000/1", "", server, account, hz, place)
    }

    /// With these parameters of its account, and one more module.
    pub fn start_as(
        params: &str,
        module: &str,
        server: &Server,
        account: Account,
        hz: f32,
        place: &TempDir,
    ) -> Baresip {
        let place = place.path().join(format!("baresip-{}", account.number));
        fs::create_dir_all(place.join("heard")).unwrap();
        write_wav(&place.join("tone.wav"), &speech(hz));
        let (media, here) = (free_ports(6), place.display());
        let control = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let modules = fs::read_dir("/usr/lib").unwrap().flatten().map(|entry| entry.path());
        let modules = modules
            .flat_map(|path| [path.join("baresip/modules")])
            .chain([PathBuf::from("/usr/lib/baresip/modules")]);
        let modules = modules
            .into_iter()
            .find(|path| path.is_dir())
            .expect("baresip's modules; ./test installs it");
        // aubridge to nowhere is a sound card that nobody hears; sndfile records what was decoded.
        let trust = match &server.sip_tls {
            Some((_, authority)) => format!("sip_cafile {}\n", authority.display()),
            None => String::new(),
        };
        let config = format!(
            "poll_method epoll\nsip_listen 127.0.0.1:0\nnet_interface 127.0.0.1\n\
             rtp_ports {media}-{}\n\
             audio_player aubridge,nowhere\naudio_alert aubridge,nowhere\n\
             audio_source aufile,{here}/tone.wav\n\
             ausrc_srate 8000\nauplay_srate 8000\nausrc_channels 1\nauplay_channels 1\n\
             snd_path {here}/heard\nmodule_path {}\n\
             module g711.so\n{module}module aubridge.so\nmodule aufile.so\nmodule sndfile.so\n\
             module_tmp uuid.so\nmodule_tmp account.so\nmodule_app contact.so\nmodule_app menu.so\n\
             module_app ctrl_tcp.so\n\
             ctrl_tcp_listen {control}\n{trust}",
            media + 5,
            modules.display(),
            module = if module.is_empty() { String::new() } else { format!("module {module}\n") },
        );
        fs::write(place.join("config"), config).unwrap();
        let (number, password) = (account.number, account.password);
        let sip = match &server.sip_tls {
            Some((address, _)) => format!("{address};transport=tls"),
            None => server.sip.to_string(),
        };
        let account = format!(
            "<sip:{number}@{sip}>;auth_user={number};auth_pass={password};answermode=auto;\
             regint=120;{params}\n"
        );
        fs::write(place.join("accounts"), account).unwrap();
        fs::write(place.join("contacts"), "").unwrap();
        let arguments = ["-4", "-s", "-f", place.to_str().unwrap()].map(str::to_owned);
        let child = start("baresip", &arguments, &place, &place.join("screen"));
        Baresip { child, place, control }
    }

    /// What somebody at the phone does: `hold`, `resume`, `transfer` to somebody.
    pub async fn does(&self, command: &str, params: &str) {
        let message = json!({"command": command, "params": params}).to_string();
        let stream = TcpStream::connect(self.control).await;
        let mut stream = stream.unwrap_or_else(|error| {
            let screen = fs::read_to_string(self.place.join("screen")).unwrap_or_default();
            panic!("baresip takes no commands at {}: {error}\n{screen}", self.control)
        });
        stream.write_all(format!("{}:{message},", message.len()).as_bytes()).await.expect("told");
        // Its answer, or what happens: it has read the command.
        let mut answer = [0; 1024];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut answer)).await;
        read.expect("baresip answers").expect("in full");
    }

    /// Whether it comes to say this on its screen, within ten seconds.
    pub async fn says(&self, what: &str) -> bool {
        let screen = || fs::read_to_string(self.place.join("screen")).unwrap_or_default();
        wait::found(Duration::from_secs(10), async || screen().contains(what).then_some(()))
            .await
            .is_some()
    }

    /// Ends it; what it has heard in its calls.
    pub async fn finished(mut self) -> Vec<i16> {
        if let Some(id) = self.child.id() {
            let id = nix::unistd::Pid::from_raw(id as i32);
            nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGINT).unwrap();
        }
        let ended = tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await;
        ended.expect("baresip ends when asked").unwrap();
        let recordings =
            fs::read_dir(self.place.join("heard")).unwrap().flatten().map(|entry| entry.path());
        let mut heard: Vec<PathBuf> =
            recordings.filter(|path| path.to_string_lossy().ends_with("-dec.wav")).collect();
        heard.sort();
        let screen = || fs::read_to_string(self.place.join("screen")).unwrap_or_default();
        assert!(!heard.is_empty(), "baresip has recorded nothing:\n{}", screen());
        heard.iter().flat_map(|path| read_wav(&fs::read(path).unwrap())).collect()
    }
}

fn write_wav(path: &Path, samples: &[i16]) {
    let size = samples.len() as u32 * 2;
    let mut bytes = Vec::new();
    bytes.extend(b"RIFF");
    bytes.extend((36 + size).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16_u32.to_le_bytes());
    bytes.extend([1, 0, 1, 0]);
    bytes.extend(8000_u32.to_le_bytes());
    bytes.extend(16_000_u32.to_le_bytes());
    bytes.extend([2, 0, 16, 0]);
    bytes.extend(b"data");
    bytes.extend(size.to_le_bytes());
    bytes.extend(samples.iter().flat_map(|sample| sample.to_le_bytes()));
    fs::write(path, bytes).unwrap();
}

/// The samples of a 16-bit WAV file, also of one whose writer did not come to fill in the sizes:
/// one channel, at 8 kHz. The tones lie far below.
fn read_wav(bytes: &[u8]) -> Vec<i16> {
    let chunk =
        |name: &[u8]| bytes.windows(4).position(|window| window == name).expect("a chunk") + 8;
    let format = chunk(b"fmt ");
    let channels = usize::from(u16::from_le_bytes([bytes[format + 2], bytes[format + 3]]));
    let rate = u32::from_le_bytes([
        bytes[format + 4],
        bytes[format + 5],
        bytes[format + 6],
        bytes[format + 7],
    ]) as usize;
    let samples = bytes[chunk(b"data")..].chunks_exact(2);
    samples
        .step_by(channels * rate / 8000)
        .map(|pair| i16::from_le_bytes([pair[0], pair[1]]))
        .collect()
}
