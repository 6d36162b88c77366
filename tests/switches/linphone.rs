//! linphonec, a phone that others wrote, at its console and with files for a sound card.

use crate::support::baresip::Registration;
use crate::support::programs::{WAV_HEADER, speech, start, write_wav};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin};

/// A registered linphonec that answers by itself, speaks a tone and records what it hears. It ends
/// with this.
pub struct Linphone {
    console: ChildStdin,
    place: PathBuf,
    _child: Child,
}

impl Linphone {
    pub async fn start(registration: &Registration<'_>, hz: f32, place: &TempDir) -> Linphone {
        let Registration { registrar, number, password, ip } = registration;
        let place = place.path().join(format!("linphone-{number}"));
        // It does nothing at all without a folder for its database.
        fs::create_dir_all(place.join(".local/share/linphone")).unwrap();
        let (tone, heard) = (place.join("tone.wav"), place.join("heard.wav"));
        write_wav(&tone, &speech(hz));
        let config = format!(
            "[sip]\nbind_address={ip}\nsip_port=5060\nsip_tcp_port=0\nsip_tls_port=0\n\
             [rtp]\nbind_address={ip}\naudio_rtp_port=7078\n"
        );
        let file = place.join("config");
        fs::write(&file, config).unwrap();
        let arguments = ["-b", "/dev/null", "-c", file.to_str().unwrap()].map(str::to_owned);
        let mut child = start("linphonec", &arguments, &place, &place.join("screen"));
        let console = child.stdin.take().unwrap();
        let mut phone = Linphone { console, place, _child: child };
        phone.does("soundcard use files").await;
        phone.does(&format!("play {}", tone.display())).await;
        phone.does(&format!("record {}", heard.display())).await;
        phone.does("autoanswer enable").await;
        let identity = format!("sip:{number}@{registrar}");
        phone.does(&format!("register {identity} sip:{registrar} {password}")).await;
        phone
    }

    async fn does(&mut self, command: &str) {
        let typed = self.console.write_all(format!("{command}\n").as_bytes()).await;
        typed.unwrap_or_else(|error| panic!("linphonec: {command}: {error}\n{}", self.screen()));
    }

    /// What it has heard so far, of which the header is filled in at the end of the call alone. Of
    /// G.711, which is all that the switch lets through, it records 8000 samples a second.
    pub fn heard(&self) -> Vec<i16> {
        let bytes = fs::read(self.place.join("heard.wav")).unwrap_or_default();
        let samples = bytes.get(WAV_HEADER..).unwrap_or_default().chunks_exact(2);
        samples.map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
    }

    /// What it has said.
    pub fn screen(&self) -> String {
        fs::read_to_string(self.place.join("screen")).unwrap_or_default()
    }
}
