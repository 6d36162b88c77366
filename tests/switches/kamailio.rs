//! A real Kamailio, Debian's: registrar and proxy of the phones, with what is pasted into it.

use super::scenarios;
use super::site::{Network, password};
use crate::support::talk::PATIENCE;
use crate::support::wait;
use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use undertone::attach::{Attachment, SwitchKind};
use undertone::clock;

/// A running Kamailio. It ends with this.
pub struct Kamailio {
    place: TempDir,
    child: Child,
}

impl Kamailio {
    /// Starts one that is attached, with the carrier at these addresses, each for numbers of its
    /// own.
    pub async fn start(
        attachment: &Attachment,
        network: Network,
        carrier: [SocketAddr; 2],
    ) -> Kamailio {
        let place = tempfile::tempdir().unwrap();
        let pasted = attachment.theirs();
        let of = |file: &str| {
            let paste = pasted.iter().find(|paste| paste.file == file).expect("it is pasted");
            paste.text.as_str()
        };
        let text = OWNERS
            .replace("SWITCH", &network.switch().to_string())
            .replace("US", &network.us().ip().to_string())
            .replace("CARRIER2_HOST", &carrier[1].ip().to_string())
            .replace("CARRIER2", &carrier[1].to_string())
            .replace("CARRIER_HOST", &carrier[0].ip().to_string())
            .replace("CARRIER", &carrier[0].to_string())
            .replace("PASSWORD", &password("$fU"))
            .replace("PASTED_AT_ONCE", of("kamailio-authenticated.cfg"))
            .replace("PASTED_IN", of("kamailio-request-route.cfg"))
            .replace("PASTED_BESIDE", of("kamailio-routes.cfg"));
        let file = place.path().join("kamailio.cfg");
        fs::write(&file, text).unwrap();
        let log = fs::File::create(place.path().join("log")).unwrap();
        let child = Command::new("kamailio")
            .args(["-DD", "-E", "-m", "64", "-M", "8", "-f"])
            .arg(&file)
            .arg("-Y")
            .arg(place.path())
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .kill_on_drop(true)
            .spawn()
            .expect("kamailio: ./test installs it");
        let kamailio = Kamailio { place, child };
        let asked = std::net::UdpSocket::bind((network.ip(250), 0)).unwrap();
        asked.set_nonblocking(true).unwrap();
        let options = format!(
            "OPTIONS sip:{switch} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bKup\r\n\
             From: <sip:test@{own}>;tag=a\r\nTo: <sip:{switch}>\r\nCall-ID: up@{own}\r\n\
             CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n",
            switch = network.switch(),
            own = asked.local_addr().unwrap(),
        );
        let answers = async || {
            // Nobody may be there yet.
            let _ = asked.send_to(options.as_bytes(), network.switch());
            wait::elapse(Duration::from_millis(50)).await;
            asked.recv(&mut [0; 4096]).is_ok().then_some(())
        };
        let answers = wait::found(PATIENCE, answers).await;
        assert!(answers.is_some(), "Kamailio has not started: {}", kamailio.log());
        kamailio
    }

    /// What it has said.
    pub fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Kamailio {
    fn drop(&mut self) {
        if let Some(id) = self.child.id().and_then(|id| i32::try_from(id).ok()) {
            // Its first process ends the others, unless it is killed.
            let id = nix::unistd::Pid::from_raw(id);
            let _ = nix::sys::signal::kill(id, nix::sys::signal::Signal::SIGTERM);
        }
        let until = clock::instant() + PATIENCE;
        while matches!(self.child.try_wait(), Ok(None)) && clock::instant() < until {
            std::thread::yield_now();
        }
    }
}

/// What the owner has already, with the places where `undertone attach` says to paste.
const OWNERS: &str = r#"#!KAMAILIO
debug=2
log_stderror=yes
children=2
disable_tcp=yes
auto_aliases=no
listen=udp:SWITCH
loadmodule "tm.so"
loadmodule "sl.so"
loadmodule "rr.so"
loadmodule "pv.so"
loadmodule "maxfwd.so"
loadmodule "usrloc.so"
loadmodule "registrar.so"
loadmodule "textops.so"
loadmodule "siputils.so"
loadmodule "auth.so"
loadmodule "xlog.so"

request_route {
    if (!mf_process_maxfwd_header("10")) {
        sl_send_reply("483", "Too Many Hops");
        exit;
    }
    if (is_method("CANCEL")) {
        if (t_check_trans()) t_relay();
        exit;
    }
    t_check_trans();
    if (has_totag()) {
        if (loose_route()) {
            t_relay();
        } else if (is_method("ACK")) {
            if (t_check_trans()) t_relay();
        } else {
            sl_send_reply("404", "Not Here");
        }
        exit;
    }
    if (is_method("OPTIONS") && $rU == $null) {
        sl_send_reply("200", "OK");
        exit;
    }
    if (is_method("REGISTER")) {
        if (!pv_www_authenticate("$fd", "PASSWORD", "0")) {
            www_challenge("$fd", "1");
            exit;
        }
        save("location");
        exit;
    }
    if ($si != "US" && $si != "CARRIER_HOST" && $si != "CARRIER2_HOST") {
        if (!pv_proxy_authenticate("$fd", "PASSWORD", "0")) {
            proxy_challenge("$fd", "1");
            exit;
        }
PASTED_AT_ONCE
        consume_credentials();
    }

PASTED_IN
    route(OUTSIDE);
}

route[OUTSIDE] {
    $du = "sip:CARRIER";
    if ($rU =~ "^0302") $du = "sip:CARRIER2";
    record_route();
    t_relay();
    exit;
}

PASTED_BESIDE
"#;

const KAMAILIO: SwitchKind = SwitchKind::Kamailio;

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_behind_kamailio_coaches_an_agent_behind_it_and_barges_in() {
    scenarios::coach_and_barge_in(KAMAILIO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_behind_kamailio_holds_and_the_customer_hears_no_whisper() {
    scenarios::hold_by_the_phone(KAMAILIO, ["agent", "", "", "agent"], false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_kamailio_holds_by_rest() {
    scenarios::hold_by_rest(KAMAILIO, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_transfers_blindly_behind_kamailio_and_the_coach_goes_along_or_is_out() {
    scenarios::blind_transfer_by_the_phone(KAMAILIO, 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_behind_kamailio_asks_a_colleague_and_transfers() {
    scenarios::attended_transfer_by_the_phone(KAMAILIO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_behind_kamailio_joins_two_outside_who_hear_no_whisper() {
    scenarios::attended_transfer_to_outside(KAMAILIO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_kamailio_transfers_blindly_by_rest() {
    scenarios::blind_transfer_by_rest(KAMAILIO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_kamailio_asks_a_colleague_and_transfers_by_rest() {
    scenarios::attended_transfer_by_rest(KAMAILIO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_kamailio_is_coached_on_a_call_to_outside() {
    scenarios::outward_call(KAMAILIO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_of_the_carrier_that_shows_an_agents_number_is_a_customer_behind_kamailio() {
    scenarios::impostor(KAMAILIO, "0309999").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisors_phone_that_is_not_registered_at_kamailio_is_said_at_once() {
    scenarios::unregistered_supervisor(KAMAILIO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_behind_kamailio_has_a_second_call_that_nobody_is_coached_on() {
    scenarios::second_call(KAMAILIO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kamailio_rings_its_phones_without_us_when_we_are_killed() {
    scenarios::killed(KAMAILIO, Duration::from_secs(5)).await;
}
