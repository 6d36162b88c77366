//! What a large directory costs: to start with, to change, and to hold.
//!
//! ```text
//! cargo bench --bench directory -- [--users N] [--json]
//! ```
//!
//! The whole product in this process, gateway and SIP backend, with so many users, each with a
//! device, in groups of fifty. Once from the configuration file, and once from the state file on a
//! disk. A change is a PUT of one user over REST, with its line in the audit and its record on the
//! disk, until it is answered: all machines have it then. Memory is what the process has more than
//! before, by user: users, devices, groups and accounts together.

mod measure;

use measure::Counting;
use serde_json::json;
use std::error::Error;
use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use undertone::app::{self, Running, ServerRole};
use undertone::clock::instant;
use undertone::config;
use undertone::http::auth::hash_password_cheaply;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const USERS: usize = 20_000;
const IN_A_GROUP: usize = 50;
/// The files of a life are closed within this.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Changes that count, after one that does not.
const CHANGES: usize = 101;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let after = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1)?.parse::<usize>().ok()
    };
    undertone::tls::install_provider();
    let users = after("--users").unwrap_or(USERS);
    let figures = measure(users)?;
    match arguments.iter().any(|argument| argument == "--json") {
        true => println!("{figures}"),
        false => {
            println!("{users} users, each with a device");
            for (name, value) in figures.as_object().into_iter().flatten() {
                println!("  {name:<34} {value}");
            }
        }
    }
    Ok(())
}

fn measure(users: usize) -> Result<serde_json::Value, Box<dyn Error>> {
    let place = tempfile::tempdir()?;
    let file = place.path().join("undertone.toml");
    let rounded = |time: Duration| (time.as_secs_f64() * 100_000.0).round() / 100.0;
    write_private(&file, &describe(place.path(), "file", users)?)?;
    let (_, read) = timed(|| config::load(Some(&file)))?;
    let start_file = in_a_life(async || {
        let (running, start) = start(&file).await?;
        running.stop().await;
        Ok(start)
    })?;

    let store = place.path().join("store");
    std::fs::create_dir(&store)?;
    write_private(&file, &describe(&store, "store", users)?)?;
    in_a_life(async || {
        start(&file).await?.0.stop().await;
        Ok(())
    })?;
    // From now on they are in the state file alone.
    write_private(&file, &describe(&store, "store", 1)?)?;
    let (start_store, held, mut changes) = in_a_life(async || {
        let before = Counting::held();
        let (running, start) = start(&file).await?;
        let held = Counting::held() - before;
        let changes = changes(&running).await?;
        running.stop().await;
        Ok((start, held, changes))
    })?;
    changes.sort_unstable();
    let middle = changes[changes.len() / 2];
    let most = changes[changes.len() - 1];
    Ok(json!({
        "read the file, ms": rounded(read),
        "start from the file, ms": rounded(start_file),
        "start from the state file, ms": rounded(start_store),
        "one change, ms": rounded(middle),
        "one change at most, ms": rounded(most),
        "bytes a user": held / users as isize,
    }))
}

/// The life of a process: all that it holds is let go at its end.
fn in_a_life<T>(act: impl AsyncFnOnce() -> Result<T, Box<dyn Error>>) -> Result<T, Box<dyn Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let done = runtime.block_on(act());
    runtime.shutdown_timeout(Duration::from_secs(10));
    done
}

fn timed<T, E>(act: impl FnOnce() -> Result<T, E>) -> Result<(T, Duration), E> {
    let since = instant();
    act().map(|done| (done, since.elapsed()))
}

/// From the file's first byte until the first request is answered.
async fn start(file: &Path) -> Result<(Running, Duration), Box<dyn Error>> {
    let begun: Instant = instant();
    let mut since = begun;
    let running = loop {
        let config = config::load(Some(file))?;
        match app::start(config, ServerRole::Serve, None).await {
            // The writers of the life before end with their last words.
            Err(app::StartError::Store(_)) if begun.elapsed() < LAST_WORDS => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                since = instant();
            }
            other => break other?,
        }
    };
    let rest = running.rest().ok_or("it serves REST")?;
    let me = reqwest::Client::builder().no_proxy().build()?;
    let me = me.get(format!("http://{rest}/api/v2/me")).basic_auth("ada", Some("secret"));
    me.send().await?.error_for_status()?;
    Ok((running, since.elapsed()))
}

async fn changes(running: &Running) -> Result<Vec<Duration>, Box<dyn Error>> {
    let rest = running.rest().ok_or("it serves REST")?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let mut times = Vec::new();
    for number in 0..=CHANGES {
        let url = format!("http://{rest}/api/v2/users/user{}", number % 97);
        let change = json!({"emailAddress": format!("{number}@example.com")});
        let put = http.put(url).basic_auth("ada", Some("secret")).json(&change);
        let since = instant();
        put.send().await?.error_for_status()?;
        times.extend((number > 0).then(|| since.elapsed()));
    }
    Ok(times)
}

fn describe(state: &Path, source: &str, users: usize) -> Result<String, Box<dyn Error>> {
    let hash = hash_password_cheaply("secret")?;
    let mut text = format!(
        "state_dir = '{}'\n[rest]\nbind = '127.0.0.1:0'\n[grpc]\nbind = '127.0.0.1:0'\n[admin]\n\
         bind = '127.0.0.1:0'\n[sip]\nlisten = ['udp:127.0.0.1:0']\ngrace = 0\n\
         [media]\nports = [40000, 40099]\n[directory]\nsource = '{source}'\n\
         [[user]]\nid = 'ada'\nroles = ['Admin']\npassword_hash = '{hash}'\n",
        state.display()
    );
    for number in 0..users {
        let role = if number % IN_A_GROUP == 0 { "Supervisor" } else { "Agent" };
        write!(
            text,
            "[[device]]\nid = 'device-{number}'\nnumber = '{}'\npassword = 'secret'\n\
             [[user]]\nid = 'user{number}'\ndisplay_name = 'User {number}'\nroles = ['{role}']\n\
             devices = ['device-{number}']\npassword_hash = '{hash}'\n",
            100_000 + number
        )?;
    }
    for first in (0..users).step_by(IN_A_GROUP) {
        let last = (first + IN_A_GROUP).min(users);
        let agents: Vec<String> = (first + 1..last).map(|user| format!("'user{user}'")).collect();
        write!(
            text,
            "[[group]]\nid = 'group{first}'\nagents = [{}]\nsupervisors = ['user{first}']\n",
            agents.join(", ")
        )?;
    }
    Ok(text)
}

/// Passwords stand in it.
fn write_private(file: &Path, text: &str) -> std::io::Result<()> {
    std::fs::write(file, text)?;
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600))
}
