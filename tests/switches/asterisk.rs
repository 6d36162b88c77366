//! A real Asterisk, Debian's, with its own configuration and what is pasted into it.

use super::scenarios;
use super::site::{AGENT, COLLEAGUE, MUSIC_HZ, Network, SUPERVISOR, password};
use crate::support::talk::PATIENCE;
use crate::support::wait;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::process::{Child, Command};
use undertone::attach::{Attachment, SwitchKind};
use undertone::demo::phone::audio::Companding;

/// A running Asterisk. It ends with this.
pub struct Asterisk {
    /// Where it lives, to be run by chroot.
    root: PathBuf,
    /// What is its own there.
    place: PathBuf,
    child: Child,
}

impl Asterisk {
    /// Starts one that is attached, with the carrier at these addresses, each for numbers of its
    /// own.
    pub async fn start(
        attachment: &Attachment,
        network: Network,
        carrier: [SocketAddr; 2],
    ) -> Asterisk {
        let root = root();
        let name = format!("undertone/{}", network.switch().ip());
        let place = root.join(&name);
        // What an earlier test with the same address has left.
        let _ = fs::remove_dir_all(&place);
        for folder in ["etc", "var/keys", "spool", "run", "log", "music"] {
            fs::create_dir_all(place.join(folder)).unwrap();
        }
        for file in fs::read_dir(root.join("etc/asterisk")).unwrap().flatten() {
            if file.file_type().unwrap().is_file() {
                fs::copy(file.path(), place.join("etc").join(file.file_name())).unwrap();
            }
        }
        let write =
            |file: &str, text: String| fs::write(place.join("etc").join(file), text).unwrap();
        let pasted = attachment.theirs();
        let of = |file: &str| {
            let paste = pasted.iter().find(|paste| paste.file == file).expect("it is pasted");
            paste.text.clone()
        };
        write("asterisk.conf", directories(&root, &name));
        write("logger.conf", "[logfiles]\nconsole => notice,warning,error,verbose(4)\n".into());
        write("rtp.conf", "[general]\nrtpstart=10000\nrtpend=20000\n".into());
        write(
            "musiconhold.conf",
            format!("[default]\nmode=files\ndirectory=/{name}/music\nformat=ulaw\n"),
        );
        let second: Vec<u8> = (0..8000)
            .map(|at| {
                let angle = f32::from(MUSIC_HZ) * at as f32 * std::f32::consts::TAU / 8000.0;
                Companding::Mu.encode((angle.sin() * 7000.0) as i16)
            })
            .collect();
        fs::write(place.join("music/tone.ulaw"), second.repeat(30)).unwrap();
        write("pjsip.conf", owners_pjsip(network, carrier) + &of("pjsip.conf") + ON_THE_LOOPBACK);
        write("extensions.conf", OWNERS_DIAL_PLAN.to_owned() + &of("extensions.conf"));
        let log = fs::File::create(place.join("log/console")).unwrap();
        let child = Command::new("chroot")
            .arg(&root)
            .args(["asterisk", "-f", "-C", &format!("/{name}/etc/asterisk.conf")])
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .kill_on_drop(true)
            .spawn()
            .expect("chroot");
        let asterisk = Asterisk { root, place, child };
        let booted = async || {
            let said = asterisk.says("core waitfullybooted").await;
            said.contains("fully booted").then_some(())
        };
        let booted = wait::found(PATIENCE, booted).await;
        assert!(booted.is_some(), "Asterisk has not started: {}", asterisk.log());
        asterisk
    }

    /// What it answers to a command of its console.
    pub async fn says(&self, command: &str) -> String {
        let own = self.place.strip_prefix(&self.root).unwrap().display().to_string();
        let output = Command::new("chroot")
            .arg(&self.root)
            .args(["asterisk", "-C", &format!("/{own}/etc/asterisk.conf"), "-rx", command])
            .output()
            .await
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until its OPTIONS to us have been answered.
    pub async fn sees_us(&self) {
        self.finds_us("Avail").await;
    }

    /// Waits until its OPTIONS to us find nobody.
    pub async fn misses_us(&self) {
        self.finds_us("Unavail").await;
    }

    async fn finds_us(&self, status: &str) {
        let seen = async || {
            let contacts = self.says("pjsip show contacts").await;
            let mut ours = contacts.lines().filter(|line| line.contains("undertone/"));
            ours.any(|line| line.split_whitespace().any(|word| word == status)).then_some(())
        };
        assert!(wait::found(PATIENCE, seen).await.is_some(), "{}", self.log());
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.join("log/console")).unwrap_or_default()
    }
}

impl Drop for Asterisk {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.start_kill();
        let _ = fs::remove_dir_all(&self.place);
    }
}

/// The folder with Debian's Asterisk.
fn root() -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/asterisk.sh");
    let made = std::process::Command::new(script).stdin(Stdio::null()).output().unwrap();
    let error = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success(), "{error}");
    String::from_utf8(made.stdout).unwrap().trim_end().into()
}

fn directories(root: &Path, name: &str) -> String {
    let libraries = fs::read_dir(root.join("usr/lib")).unwrap().flatten();
    let modules = libraries
        .map(|entry| entry.path().join("asterisk/modules"))
        .find(|modules| modules.is_dir())
        .expect("Asterisk's modules");
    let modules = modules.strip_prefix(root).unwrap().display();
    format!(
        "[directories]\nastetcdir => /{name}/etc\nastmoddir => /{modules}\n\
         astvarlibdir => /{name}/var\nastdbdir => /{name}/var\nastkeydir => /{name}/var\n\
         astdatadir => /usr/share/asterisk\nastagidir => /usr/share/asterisk/agi-bin\n\
         astspooldir => /{name}/spool\nastrundir => /{name}/run\nastlogdir => /{name}/log\n\
         [options]\nverbose = 4\n"
    )
}

/// What the owner has already: phones, and a carrier.
fn owners_pjsip(network: Network, carrier: [SocketAddr; 2]) -> String {
    let mut text = format!(
        "[udp]\ntype=transport\nprotocol=udp\nbind={}\n\n\
         [phone](!)\ntype=endpoint\ntransport=udp\ncontext=phones\nallow=!all,ulaw,alaw\n\n",
        network.switch(),
    );
    for (name, address) in ["carrier", "carrier2"].into_iter().zip(carrier) {
        text += &format!(
            "[{name}]\ntype=endpoint\ntransport=udp\ncontext=from-carrier\n\
             allow=!all,ulaw,alaw\naors={name}\n\
             [{name}]\ntype=aor\ncontact=sip:{address}\n\
             [{name}]\ntype=identify\nendpoint={name}\nmatch={}\n\n",
            address.ip(),
        );
    }
    for person in [AGENT, COLLEAGUE, SUPERVISOR] {
        let (number, name) = (person.number, person.name);
        let password = password(number);
        text += &format!(
            "[{number}](phone)\naors={number}\nauth={number}\ncallerid={name} <{number}>\n\
             [{number}]\ntype=aor\nmax_contacts=1\nremove_existing=yes\n\
             [{number}]\ntype=auth\nusername={number}\npassword={password}\n\n"
        );
    }
    text
}

/// Its sound comes from the address of this transport then, and not from 127.0.0.1.
const ON_THE_LOOPBACK: &str =
    "\n[undertone](+)\ntransport=udp\n[undertone-customer](+)\ntransport=udp\n";

/// The owner's dial plan, with the lines that `undertone attach` says to put there.
const OWNERS_DIAL_PLAN: &str = "[globals]\n\
                                UNDERTONE_RING_TIME = 3\n\
                                [undertone-unanswered]\n\
                                exten => _5XXX,1,Answer()\n\
                                exten => _5XXX,n,MusicOnHold()\n\
                                [phones]\n\
                                include => undertone-numbers\n\
                                include => undertone-outside\n\
                                [from-carrier]\n\
                                include => undertone-numbers\n\
                                [outgoing]\n\
                                exten => _0302!,1,Dial(PJSIP/${EXTEN}@carrier2)\n\
                                exten => _0!,1,Dial(PJSIP/${EXTEN}@carrier)\n\n";

const ASTERISK: SwitchKind = SwitchKind::Asterisk;

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_behind_asterisk_coaches_an_agent_behind_it_and_barges_in() {
    scenarios::coach_and_barge_in(ASTERISK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asterisk_plays_its_music_while_the_agents_phone_holds() {
    scenarios::hold_by_the_phone(ASTERISK, ["", "", "", "customer"], true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asterisk_plays_its_music_while_the_agent_holds_by_rest() {
    scenarios::hold_by_rest(ASTERISK, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_transfers_blindly_behind_asterisk_and_the_coach_goes_along_or_is_out() {
    scenarios::blind_transfer_by_the_phone(ASTERISK, 503).await;
}

/// Asterisk joins two of our legs by itself.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_whom_asterisk_has_joined_to_the_agents_leg_hears_the_whisper() {
    scenarios::attended_transfer_by_the_phone(ASTERISK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_outside_whom_asterisk_has_joined_to_the_agents_leg_hears_the_whisper() {
    scenarios::attended_transfer_to_outside(ASTERISK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_asterisk_transfers_blindly_by_rest() {
    scenarios::blind_transfer_by_rest(ASTERISK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_asterisk_asks_a_colleague_and_transfers_by_rest() {
    scenarios::attended_transfer_by_rest(ASTERISK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_asterisk_is_coached_on_a_call_to_outside() {
    scenarios::outward_call(ASTERISK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_of_the_carrier_that_shows_an_agents_number_is_a_customer_behind_asterisk() {
    // The carrier is not trusted by Asterisk, which knows only what From says.
    scenarios::impostor(ASTERISK, "anonymous").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisors_phone_that_is_not_registered_at_asterisk_is_said_at_once() {
    scenarios::unregistered_supervisor(ASTERISK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_of_asterisk_that_nobody_answers_comes_to_where_the_owner_has_said() {
    scenarios::unanswered(ASTERISK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_asterisk_has_a_second_call_that_nobody_is_coached_on() {
    scenarios::second_call(ASTERISK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asterisk_rings_its_phones_without_us_when_we_are_killed() {
    scenarios::killed(ASTERISK, PATIENCE).await;
}
