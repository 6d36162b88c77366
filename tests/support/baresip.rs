//! baresip, a phone that others wrote, as a child of the test; it ends with its handle.

use super::ports::{free_port, free_ports};
use super::programs::{WAV_HEADER, read_wav, speech, start, write_wav};
use super::server::{Account, Server};
use super::wait;
use serde_json::json;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Child;

/// The parameter of an account that speaks G.711 alone.
pub const PCMU: &str = "audio_codecs=pcmu/8000/1";

/// Where a phone registers, as what, and its own address.
#[derive(Clone, Copy, Debug)]
pub struct Registration<'a> {
    /// Host and port, and parameters of the URI.
    pub registrar: &'a str,
    pub number: &'a str,
    pub password: &'a str,
    pub ip: IpAddr,
}

/// A registered baresip that answers by itself, speaks a tone and records what it hears.
pub struct Baresip {
    child: Child,
    place: PathBuf,
    control: SocketAddr,
}

impl Baresip {
    pub fn start(server: &Server, account: Account, hz: f32, place: &TempDir) -> Baresip {
        Baresip::start_as(PCMU, "", server, account, hz, place)
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
        let (registrar, trust) = match &server.sip_tls {
            Some((address, authority)) => (
                format!("{address};transport=tls"),
                format!("sip_cafile {}\n", authority.display()),
            ),
            None => (server.sip.to_string(), String::new()),
        };
        let module =
            if module.is_empty() { String::new() } else { format!("module {module}\n") } + &trust;
        let registration = Registration {
            registrar: &registrar,
            number: account.number,
            password: account.password,
            ip: Ipv4Addr::LOCALHOST.into(),
        };
        Baresip::registered(&registration, params, &module, hz, place)
    }

    /// Registered wherever, with these parameters of its account and more lines of its
    /// configuration.
    pub fn registered(
        registration: &Registration<'_>,
        params: &str,
        more: &str,
        hz: f32,
        place: &TempDir,
    ) -> Baresip {
        let Registration { registrar, number, password, ip } = registration;
        let place = place.path().join(format!("baresip-{number}"));
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
        let config = format!(
            "poll_method epoll\nsip_listen {ip}:0\nnet_interface {ip}\n\
             rtp_ports {media}-{}\n\
             audio_player aubridge,nowhere\naudio_alert aubridge,nowhere\n\
             audio_source aufile,{here}/tone.wav\n\
             ausrc_srate 8000\nauplay_srate 8000\nausrc_channels 1\nauplay_channels 1\n\
             snd_path {here}/heard\nmodule_path {}\n\
             module g711.so\n{more}module aubridge.so\nmodule aufile.so\nmodule sndfile.so\n\
             module_tmp uuid.so\nmodule_tmp account.so\nmodule_app contact.so\nmodule_app menu.so\n\
             module_app ctrl_tcp.so\n\
             ctrl_tcp_listen {control}\n",
            media + 5,
            modules.display(),
        );
        fs::write(place.join("config"), config).unwrap();
        let account = format!(
            "<sip:{number}@{registrar}>;auth_user={number};auth_pass={password};answermode=auto;\
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
        let heard = self.heard();
        let screen = || fs::read_to_string(self.place.join("screen")).unwrap_or_default();
        assert!(!heard.is_empty(), "baresip has recorded nothing:\n{}", screen());
        heard
    }

    /// What it has heard so far in its calls.
    pub fn heard(&self) -> Vec<i16> {
        let recordings =
            fs::read_dir(self.place.join("heard")).unwrap().flatten().map(|entry| entry.path());
        let mut heard: Vec<PathBuf> =
            recordings.filter(|path| path.to_string_lossy().ends_with("-dec.wav")).collect();
        heard.sort();
        let heard = heard.iter().map(|path| fs::read(path).unwrap());
        heard.filter(|bytes| bytes.len() > WAV_HEADER).flat_map(|bytes| read_wav(&bytes)).collect()
    }
}
