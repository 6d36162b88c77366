//! The real npm `cometd` client under Node, as desktops run it.

use crate::support::front::{BOB_PHONE, House, MEG_PHONE, PASSWORD, PATIENCE, Wishes};
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::OnceCell;

/// The script with its packages beside it, installed once from the committed lock file.
async fn script() -> &'static Path {
    static SCRIPT: OnceCell<PathBuf> = OnceCell::const_new();
    SCRIPT
        .get_or_init(async || {
            let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/node");
            let cache = Path::new(env!("CARGO_TARGET_TMPDIR")).join("node");
            std::fs::create_dir_all(&cache).expect("a cache");
            let lock = std::fs::read(source.join("package-lock.json")).expect("a lock file");
            let installed = cache.join("installed-lock.json");
            let is_current = std::fs::read(&installed).is_ok_and(|had| had == lock);
            for file in ["package.json", "package-lock.json", "desktop.js"] {
                std::fs::copy(source.join(file), cache.join(file)).expect("a copy");
            }
            if !is_current {
                let install = Command::new("npm")
                    .args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
                    .current_dir(&cache)
                    .output()
                    .await
                    .expect("npm is installed");
                assert!(install.status.success(), "npm ci: {}", String::from_utf8_lossy(&install.stderr));
                std::fs::write(&installed, lock).expect("a note");
            }
            cache.join("desktop.js")
        })
        .await
}

struct Desktop {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
    /// Said before what was waited for: events come ahead of the reply that they ride with.
    unheard: VecDeque<Value>,
}

impl Desktop {
    async fn start(house: &House, user: &str, transport: &str, channels: &[&str]) -> Self {
        let mut child = Command::new("node")
            .arg(script().await)
            .args([&house.url("/api/v2/notifications"), user, PASSWORD, transport])
            .args(channels)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("node is installed");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let input = child.stdin.take();
        Self {
            child,
            input,
            lines,
            unheard: VecDeque::new(),
        }
    }

    /// The next thing of this kind.
    async fn next(&mut self, what: &str) -> Value {
        if let Some(at) = self.unheard.iter().position(|said| said["what"] == what) {
            return self.unheard.remove(at).expect("just found");
        }
        loop {
            let line = tokio::time::timeout(PATIENCE, self.lines.next_line())
                .await
                .expect("in time")
                .expect("a pipe");
            let text = line.expect("the desktop goes on");
            match serde_json::from_str::<Value>(&text) {
                Ok(said) if said["what"] == what => return said,
                Ok(said) => self.unheard.push_back(said),
                Err(_) => println!("desktop: {text}"),
            }
        }
    }

    async fn next_devices(&mut self) -> Value {
        let event = self.next("event").await["message"].clone();
        assert_eq!(
            (&event["channel"], &event["data"]["messageType"]),
            (&json!("/v2/me/devices"), &json!("DeviceStateChangeMessage"))
        );
        event["data"]["devices"][0].clone()
    }

    async fn end(mut self) {
        drop(self.input.take());
        assert_eq!(self.next("disconnected").await["successful"], true);
        let status = tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("in time")
            .expect("a process");
        assert!(status.success());
    }
}

async fn operate(house: &House, body: Value) {
    let answer = house.post("meg", &format!("/api/v2/me/devices/{MEG_PHONE}"), &body).await;
    assert_eq!(answer.1, json!({"statusCode": 0}));
}

async fn a_desktop_sees_every_change_of_its_device(transport: &str) {
    let house = House::open(Wishes::default()).await;
    let mut desktop = Desktop::start(&house, "meg", transport, &["/v2/me/devices", "/v2/me/calls"]).await;
    let mut idle = Desktop::start(&house, "bob", transport, &["/v2/me/*"]).await;
    assert_eq!(desktop.next("connected").await["transport"], "long-polling");
    assert_eq!(desktop.next_devices().await["id"], MEG_PHONE);
    assert_eq!(idle.next_devices().await["id"], BOB_PHONE);

    operate(&house, json!({"operationName": "DoNotDisturbOn"})).await;
    let coach = json!({"operationName": "Coach", "targetDeviceUri": format!("http://localhost:8080/api/v2/devices/{BOB_PHONE}")});
    operate(&house, coach).await;
    operate(&house, json!({"operationName": "CancelSupervisorMonitoring"})).await;
    operate(&house, json!({"operationName": "DoNotDisturbOff"})).await;

    let mut seen = Vec::new();
    for _ in 0..4 {
        let device = desktop.next_devices().await;
        seen.push((device["doNotDisturb"].clone(), device["supervisorMonitoringState"]["state"].clone()));
    }
    let expected = [
        ("On", json!(null)),
        ("On", json!("Coach")),
        ("On", json!(null)),
        ("Off", json!(null)),
    ];
    assert_eq!(seen, expected.map(|(on, state)| (json!(on), state)));
    desktop.end().await;
    idle.end().await;
}

#[tokio::test]
async fn the_npm_client_sees_every_change_of_its_device_in_order() {
    a_desktop_sees_every_change_of_its_device("long-polling").await;
}

#[tokio::test]
async fn the_npm_client_falls_back_to_long_polling_by_itself() {
    a_desktop_sees_every_change_of_its_device("any").await;
}

#[tokio::test]
async fn the_npm_client_with_a_wrong_password_is_denied() {
    let house = House::open(Wishes::default()).await;
    let mut desktop = Desktop::start(&house, "nobody", "long-polling", &[]).await;
    assert_eq!(desktop.next("handshake").await["successful"], false);
}
