//! The audit of the whole product: what its own commands say of it, and what a join's sound was.

use crate::attacks::coached_process;
use crate::crash::on;
use crate::support::process::{ANY, Process};
use crate::support::server::{AGENT, SUPERVISOR};
use crate::support::talk::{PATIENCE, Trio};
use crate::support::wait;
use nix::sys::signal::Signal;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::process::{Command, Output};

const FILE: &str = "undertone-data/audit.jsonl";

/// `undertone audit …` where the process was.
fn audit(place: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_undertone"));
    command.arg("audit").args(words).args(["--config", "serve.toml"]).current_dir(place);
    command.output().unwrap()
}

fn events(place: &Path, file: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(place.join(file)).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A coached call that has ended; the audit was moved away meanwhile, and the process told so.
async fn ended_call() -> (tempfile::TempDir, Process, Trio, Value) {
    let (place, process, trio) = coached_process("").await;
    let here = place.path();
    std::fs::rename(here.join(FILE), here.join(format!("{FILE}.1"))).unwrap();
    process.signal(Signal::SIGHUP);
    wait::holds("a new file", PATIENCE, || here.join(FILE).exists()).await;
    trio.customer.hang_up().await.unwrap();
    let sound = wait::found(PATIENCE, async || {
        events(here, FILE).into_iter().find(|line| line["event"] == "sound")
    });
    let sound = sound.await.expect("what the sound was");
    (place, process, trio, sound)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coached_call_leaves_a_line_of_its_sound_in_a_chain_that_is_whole() {
    let (place, process, trio, sound) = ended_call().await;
    let here = place.path();
    let roles: Vec<_> = sound["sound"].as_array().unwrap().iter().map(|leg| &leg["role"]).collect();
    assert_eq!(roles, ["Customer", "Agent", "Supervisor"]);
    let customer = &sound["sound"][0];
    let packets = customer["packets"].as_u64().unwrap();
    assert!(packets >= 5, "{sound}");
    assert_eq!(customer["agents"], packets, "all of them were the agent's: {sound}");
    assert_eq!(customer["codec"], "PCMU");
    let remote: std::net::SocketAddr = customer["remote"].as_str().unwrap().parse().unwrap();
    assert!(remote.ip().is_loopback() && customer["port"].as_u64().unwrap() > 1024, "{sound}");
    // Whoever has captured what the customer was sent makes the same hash: of some run of packets.
    let heard: Vec<_> = trio.customer.received(trio.customer.events()[0].at);
    let payloads: Vec<&[u8]> = heard.iter().map(|packet| &packet.payload[..]).collect();
    let wanted = customer["hash"].as_str().unwrap();
    let is_there = payloads.windows(packets as usize).any(|run| {
        let mut hash = Sha256::new_with_prefix([0; 32]);
        for payload in run {
            hash.update((payload.len() as u16).to_be_bytes());
            hash.update(payload);
        }
        undertone::hex::hex(&hash.finalize()) == wanted
    });
    assert!(is_there, "no {packets} packets in a row of {} have this hash", payloads.len());

    // While it is written, and afterwards.
    let verified = audit(here, &["verify"]);
    assert!(verified.status.success(), "{verified:?}");
    process.terminate(PATIENCE).await;
    let verified = audit(here, &["verify", "--json"]);
    let report: Value = serde_json::from_slice(&verified.stdout).unwrap();
    assert_eq!((verified.status.code(), &report["intact"]), (Some(0), &true.into()), "{report}");
    assert_eq!(report["files"].as_array().unwrap().len(), 2);
    assert_eq!(events(here, FILE).last().unwrap()["event"], "checkpoint");

    let call = sound["call"].as_str().unwrap();
    let shown = |words: &[&str]| {
        let shown = audit(here, &[&["show", "--json"], words].concat());
        assert!(shown.status.success(), "{shown:?}");
        let text = String::from_utf8(shown.stdout).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.map(|line| line["event"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let of_call = ["admitted", "joined", "released", "sound"];
    assert_eq!(shown(&["--call", call]), of_call);
    let all = [&["allowed"], &of_call[..]].concat();
    assert_eq!(shown(&["--agent", AGENT.number]), all);
    assert_eq!(shown(&["--supervisor", SUPERVISOR.user]), all);
    assert_eq!(shown(&["--supervisor", AGENT.user]), [] as [&str; 0]);
    assert_eq!(shown(&["--to", "2001-01-01"]), [] as [&str; 0]);
    let text = audit(here, &["show", "--call", call, "--from", "2001-01-01"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.lines().next().unwrap().contains(" admitted user=supervisor "), "{text}");

    // One letter of one line.
    let file = here.join(format!("{FILE}.1"));
    let good = std::fs::read_to_string(&file).unwrap();
    let at = good.lines().position(|line| line.contains("\"joined\"")).unwrap() + 1;
    std::fs::write(&file, good.replace("\"event\":\"joined\"", "\"event\":\"joinet\"")).unwrap();
    let verified = audit(here, &["verify"]);
    assert_eq!(verified.status.code(), Some(1));
    let text = String::from_utf8(verified.stdout).unwrap();
    assert!(text.contains(&format!("audit.jsonl.1:{at}: altered:")), "{text}");
    std::fs::write(&file, good).unwrap();
    let unknown = audit(here, &["verify", "no-such-file"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");
}

/// A gateway is started, and killed once it is ready.
async fn killed_gateway(place: &Path) {
    let process = Process::start("serve", place, &on(ANY, ANY, ANY, "")).await;
    process.ready().await;
    process.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_was_chained_on_after_kill_9_is_found_and_the_next_gateway_signs_that_it_was() {
    let place = tempfile::tempdir().unwrap();
    let here = place.path();
    for _ in 0..3 {
        killed_gateway(here).await;
        let verified = audit(here, &["verify"]);
        assert!(verified.status.success(), "{verified:?}");
    }
    let mut text = std::fs::read_to_string(here.join(FILE)).unwrap();
    let last = text.lines().last().unwrap();
    let n = serde_json::from_str::<Value>(last).unwrap()["n"].as_u64().unwrap() + 1;
    let prev = undertone::hex::hex(&Sha256::digest(last));
    let at = "2026-11-23T01:25:26.123Z";
    let forged = format!(r#"{{"n":{n},"at":"{at}","event":"allowed","prev":"{prev}"}}"#);
    text += &(forged + "\n");
    std::fs::write(here.join(FILE), text).unwrap();
    let is_found = |wanted: &str| {
        let verified = audit(here, &["verify"]);
        assert_eq!(verified.status.code(), Some(1), "{verified:?}");
        let said = String::from_utf8(verified.stdout).unwrap();
        assert!(said.contains(&format!("audit.jsonl:{wanted}:")), "{said}");
    };
    is_found(&format!("{n}: inserted"));
    for _ in 0..2 {
        killed_gateway(here).await;
        is_found(&format!("{n}: inserted"));
        is_found(&format!("{}: broken", n + 1));
    }
    for gone in ["audit.head", "audit.pub"] {
        std::fs::remove_file(here.join("undertone-data").join(gone)).unwrap();
        let refused = audit(here, &["verify"]);
        assert_eq!(refused.status.code(), Some(2), "nothing proves it without {gone}");
    }
}
