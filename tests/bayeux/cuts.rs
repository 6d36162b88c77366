//! Connections that are cut at every point, and what arrives nevertheless.

use super::{PollingSession, data, is_event, open_with, reply};
use crate::support::cometd_connection::{By, CometdConnection, Cut};
use crate::support::gateway_server::{GatewayServer, PATIENCE, ServerOptions};
use crate::support::wait;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::timeout;
use undertone::cometd::CometdConfig;

/// How a client makes sure of its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Care {
    /// Not at all.
    None,
    /// The ack extension.
    Ack,
    /// A new session, and `ext.replay`.
    Replay,
}

/// When the connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// So long before the event; the connect is held.
    Before(Duration),
    /// So long after it, with nothing read.
    After(Duration),
    /// When its first byte has come.
    Within,
}

/// A client that knows what it has heard.
struct Client {
    user: String,
    by: By,
    care: Care,
    id: String,
    ack: i64,
    last: i64,
    heard: Vec<String>,
}

impl Client {
    fn new(user: String, by: By, care: Care) -> Self {
        Self { user, by, care, id: String::new(), ack: 0, last: -1, heard: Vec::new() }
    }

    async fn open(&self, server: &GatewayServer) -> CometdConnection {
        CometdConnection::open(server.address, self.by, &self.user).await
    }

    /// A session with its subscription, connected once. `None`: the connection has ended meanwhile.
    async fn begin(&mut self, line: &mut CometdConnection) -> Option<()> {
        self.id = loop {
            line.send(&json!([{
                "channel": "/meta/handshake", "version": "1.0",
                "supportedConnectionTypes": [self.by.name()],
                "ext": {"ack": self.care == Care::Ack},
            }]))
            .await;
            let shaken = line.until_reply("/meta/handshake").await?;
            let reply = reply(&shaken);
            if let Some(id) = reply["clientId"].as_str() {
                break id.to_owned();
            }
            // Too many log in at once: it is told when to come again.
            let interval =
                reply["advice"]["interval"].as_u64().unwrap_or_else(|| panic!("{reply}"));
            pause(Duration::from_millis(interval)).await;
        };
        self.ack = 0;
        let mut subscribe = json!({
            "channel": "/meta/subscribe", "clientId": self.id, "subscription": "/v2/me/devices",
        });
        if self.care == Care::Replay {
            subscribe["ext"] = json!({"replay": self.last});
        }
        line.send(&json!([subscribe])).await;
        let subscribed = line.until_reply("/meta/subscribe").await?;
        self.hear(&subscribed);
        self.connect(line).await;
        let first = line.until_reply("/meta/connect").await?;
        self.hear(&first);
        Some(())
    }

    async fn connect(&self, line: &mut CometdConnection) {
        let mut connect = json!({
            "channel": "/meta/connect", "clientId": self.id, "connectionType": self.by.name(),
        });
        if self.care == Care::Ack {
            connect["ext"] = json!({"ack": self.ack});
        }
        line.send(&json!([connect])).await;
    }

    /// Takes up again after a cut.
    async fn resume(&mut self, line: &mut CometdConnection) -> Option<()> {
        match self.care {
            Care::None | Care::Ack => {
                self.connect(line).await;
                Some(())
            }
            Care::Replay => {
                self.begin(line).await?;
                self.connect(line).await;
                Some(())
            }
        }
    }

    /// The next connect, if the last was answered and this has not been heard yet.
    async fn go_on(&self, line: &mut CometdConnection, came: &[Value], last: &str) {
        let answered = came.iter().any(|message| message["channel"] == "/meta/connect");
        if answered && self.heard.last().map(String::as_str) != Some(last) {
            self.connect(line).await;
        }
    }

    fn hear(&mut self, messages: &[Value]) {
        for message in messages {
            if let Some(ack) = message["ext"]["ack"].as_i64() {
                self.ack = ack;
            }
            // The present state, which has no number, says nothing new.
            if let Some(number) = message["ext"]["replay"].as_i64().filter(|_| is_event(message)) {
                self.last = number;
                self.heard.push(forwarded_to(message));
            }
        }
    }
}

fn forwarded_to(event: &Value) -> String {
    event["data"]["devices"][0]["forwardTo"].as_str().unwrap_or_default().to_owned()
}

/// An event that can be told from every other: the user's device forwards to this number.
async fn happen(server: &GatewayServer, user: &str, number: &str) {
    let body = json!({"operationName": "ForwardCallsOn", "destination": number});
    let (status, body) = server.post(user, &format!("/api/v2/me/devices/{user}"), &body).await;
    assert!(status.is_success(), "{body}");
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        wait::elapse(time).await;
    }
}

async fn trial(
    server: Arc<GatewayServer>,
    mut client: Client,
    how: Cut,
    moment: Moment,
    round: usize,
) -> Vec<String> {
    let (first, second) = (format!("1{round:04}"), format!("2{round:04}"));
    let mut line = client.open(&server).await;
    client.begin(&mut line).await.expect("nothing is cut yet");
    if client.care == Care::Replay {
        // Something to count from.
        client.connect(&mut line).await;
        happen(&server, &client.user, "0").await;
        while client.heard.last().map(String::as_str) != Some("0") {
            let came = line.receive().await.expect("nothing is cut yet");
            client.hear(&came);
            client.go_on(&mut line, &came, "0").await;
        }
    }
    client.connect(&mut line).await;
    match moment {
        Moment::Before(time) => {
            line.cut(how);
            pause(time).await;
            happen(&server, &client.user, &first).await;
        }
        Moment::After(time) => {
            happen(&server, &client.user, &first).await;
            pause(time).await;
            line.cut(how);
        }
        Moment::Within => {
            happen(&server, &client.user, &first).await;
            line.first_byte().await;
            line.cut(how);
        }
    }
    let mut line = client.open(&server).await;
    client.resume(&mut line).await.expect("nothing is cut any more");
    happen(&server, &client.user, &second).await;
    while client.heard.last() != Some(&second) {
        let came = line.receive().await.expect("nothing is cut any more");
        client.hear(&came);
        client.go_on(&mut line, &came, &second).await;
    }
    client.heard.retain(|number| *number == first || *number == second);
    client.heard
}

const TRIALS: usize = 100;

async fn house_for_trials() -> Arc<GatewayServer> {
    let server = GatewayServer::open(ServerOptions {
        crowd: TRIALS,
        bayeux: CometdConfig { handshakes_per_address: 10_000, ..CometdConfig::default() },
        ..ServerOptions::default()
    });
    Arc::new(server.await)
}

/// How many of a hundred clients missed the event. A client that heard anything twice, or in
/// the wrong order, fails.
async fn lost(
    server: &Arc<GatewayServer>,
    by: By,
    care: Care,
    how: Cut,
    moment: Moment,
    round: usize,
) -> usize {
    let mut trials = JoinSet::new();
    for number in 0..TRIALS {
        let client = Client::new(format!("crowd{number}"), by, care);
        trials.spawn(trial(server.clone(), client, how, moment, round));
    }
    let (first, second) = (format!("1{round:04}"), format!("2{round:04}"));
    let mut lost = 0;
    while let Some(heard) = trials.join_next().await {
        let heard = heard.expect("a trial");
        if heard == [second.clone()] {
            lost += 1;
        } else {
            assert_eq!(
                heard,
                [first.clone(), second.clone()],
                "{by:?} {care:?} {how:?} {moment:?}"
            );
        }
    }
    lost
}

const MOMENTS: [Duration; 3] =
    [Duration::ZERO, Duration::from_millis(20), Duration::from_millis(300)];

#[tokio::test(flavor = "multi_thread")]
async fn g07_and_g08_without_acknowledgements_nothing_is_lost_when_the_cut_comes_before_the_event()
{
    let server = house_for_trials().await;
    let mut round = 0;
    for by in [By::Poll, By::Socket] {
        for how in [Cut::Fin, Cut::Rst] {
            for before in MOMENTS {
                round += 1;
                let lost = lost(&server, by, Care::None, how, Moment::Before(before), round).await;
                assert_eq!(
                    lost, 0,
                    "of {TRIALS}, {by:?} cut by {how:?} {before:?} before the event"
                );
            }
        }
    }
}

async fn nothing_is_lost_or_doubled(care: Care) {
    let server = house_for_trials().await;
    let mut round = 0;
    for by in [By::Poll, By::Socket] {
        for how in [Cut::Fin, Cut::Rst] {
            let before = MOMENTS.map(Moment::Before);
            let after = MOMENTS.map(Moment::After);
            for moment in before.into_iter().chain(after).chain([Moment::Within]) {
                round += 1;
                let lost = lost(&server, by, care, how, moment, round).await;
                assert_eq!(lost, 0, "of {TRIALS}, {by:?} cut by {how:?}, {moment:?}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g07_and_g08_with_acknowledgements_nothing_is_lost_or_doubled_wherever_the_cut_comes() {
    nothing_is_lost_or_doubled(Care::Ack).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn g07_and_g08_with_replay_nothing_is_lost_or_doubled_wherever_the_cut_comes() {
    nothing_is_lost_or_doubled(Care::Replay).await;
}

/// What was sent before a cut may be read after what its client has sent since. On one thread
/// nobody reads between the sending and the cut.
#[tokio::test]
async fn what_is_read_when_its_connection_has_gone_takes_nobodys_place() {
    let server = GatewayServer::open(ServerOptions { crowd: 1, ..ServerOptions::default() });
    let server = server.await;
    let mut number = 0;
    for (gone_by, what) in [
        (By::Poll, "connect"),
        (By::Socket, "connect"),
        (By::Socket, "subscribe"),
        (By::Socket, "unsubscribe"),
    ] {
        for by in [By::Poll, By::Socket] {
            for how in [Cut::Fin, Cut::Rst] {
                number += 1;
                let case =
                    format!("{by:?} beside a {what} by a {gone_by:?} that is gone by {how:?}");
                let mut client = Client::new("crowd0".to_owned(), by, Care::None);
                let mut gone = CometdConnection::open(server.address, gone_by, &client.user).await;
                let mut line = client.open(&server).await;
                client.begin(&mut line).await.expect("a session");
                let mut load = server.bayeux.load();
                let of_before = timeout(PATIENCE, load.wait_for(|load| load.held == 0)).await;
                of_before.expect("in time").expect("an event channel");
                client.connect(&mut line).await;
                let is_held = timeout(PATIENCE, load.wait_for(|load| load.held == 1)).await;
                is_held.expect("in time").expect("an event channel");
                gone.send(&json!([{
                    "channel": format!("/meta/{what}"), "clientId": client.id,
                    "connectionType": gone_by.name(), "subscription": "/x/y",
                }]))
                .await;
                gone.cut(how);
                happen(&server, "crowd0", &number.to_string()).await;
                let came = line.receive().await;
                client.hear(&came.unwrap_or_else(|| panic!("{case}: it is ended")));
                assert_eq!(client.heard, [number.to_string()], "{case}");
                let more = json!([{
                    "channel": "/meta/unsubscribe", "clientId": client.id, "subscription": "/x/z",
                }]);
                line.send(&more).await;
                assert!(
                    line.until_reply("/meta/unsubscribe").await.is_some(),
                    "{case}: it is ended"
                );
            }
        }
    }
}

/// Ten sessions each of two hundred users, half of them polling, cut again and again while 200
/// events a second happen.
#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_sessions_cut_at_random_for_half_a_minute_lose_double_and_reorder_nothing() {
    const USERS: usize = 200;
    const EACH: usize = 10;
    const EVENTS: usize = 6_000;
    let _ =
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, 20_000, 20_000);
    let server = GatewayServer::open(ServerOptions {
        crowd: USERS,
        bayeux: CometdConfig {
            handshakes_per_address: 10_000,
            handshakes_per_user: 1_000,
            // Each new session of a client that replays leaves the old one behind, until it
            // expires.
            max_sessions: 100_000,
            max_sessions_per_address: 100_000,
            ..CometdConfig::default()
        },
        ..ServerOptions::default()
    });
    let server = Arc::new(server.await);
    let (begun, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let cuts = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for number in 0..USERS * EACH {
        let by = if number % 2 == 0 { By::Poll } else { By::Socket };
        let care = if number % 4 < 2 { Care::Ack } else { Care::Replay };
        let client = Client::new(format!("crowd{}", number / EACH), by, care);
        clients.spawn(be_cut(
            server.clone(),
            client,
            number as u64,
            begun.clone(),
            over.clone(),
            cuts.clone(),
        ));
    }
    wait::holds("all have begun", PATIENCE * 3, || begun.load(Ordering::SeqCst) >= USERS * EACH)
        .await;

    let mut expected = vec![Vec::new(); USERS];
    let mut chance = StdRng::seed_from_u64(7);
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    for event in 0..EVENTS {
        pace.tick().await;
        let user = chance.random_range(0..USERS);
        let number = format!("5{event:06}");
        happen(&server, &format!("crowd{user}"), &number).await;
        expected[user].push(number);
    }
    over.store(true, Ordering::SeqCst);
    for user in 0..USERS {
        // So that a client that waits hears that it is over.
        happen(&server, &format!("crowd{user}"), "9").await;
    }
    let (mut events, mut wrong) = (0, Vec::new());
    while let Some(client) = clients.join_next().await {
        let mut client = client.expect("a client");
        let user: usize = client.user.trim_start_matches("crowd").parse().expect("a number");
        client.heard.retain(|number| number.starts_with('5'));
        events += client.heard.len();
        if client.heard != expected[user] {
            wrong.push((client.by, client.care, client.heard.len(), expected[user].len()));
        }
    }
    println!("{events} events at {} clients, {} cuts", USERS * EACH, cuts.load(Ordering::SeqCst));
    assert!(cuts.load(Ordering::SeqCst) > USERS * EACH, "hardly anything was cut");
    assert!(wrong.is_empty(), "transport, care, heard, happened: {wrong:?}");
}

async fn be_cut(
    server: Arc<GatewayServer>,
    mut client: Client,
    seed: u64,
    begun: Arc<AtomicUsize>,
    over: Arc<AtomicBool>,
    cuts: Arc<AtomicUsize>,
) -> Client {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut line = client.open(&server).await;
    client.begin(&mut line).await.expect("nothing is cut yet");
    if client.care == Care::Replay {
        client.last = client.last.max(1_000_000_000);
    }
    client.connect(&mut line).await;
    begun.fetch_add(1, Ordering::SeqCst);
    loop {
        let until_cut = Duration::from_millis(chance.random_range(0..8_000));
        let deadline = tokio::time::Instant::now() + until_cut;
        let cut = loop {
            match tokio::time::timeout_at(deadline, line.receive()).await {
                Ok(Some(came)) => {
                    client.hear(&came);
                    if client.heard.last().map(String::as_str) == Some("9") {
                        return client;
                    }
                    client.go_on(&mut line, &came, "9").await;
                }
                // A connection that was cut before may have spoken after this one: the last one
                // wins.
                Ok(None) => break Some(Cut::Fin),
                Err(_) if over.load(Ordering::SeqCst) => break None,
                Err(_) => break Some(if chance.random() { Cut::Fin } else { Cut::Rst }),
            }
        };
        let Some(how) = cut else { continue };
        cuts.fetch_add(1, Ordering::SeqCst);
        line.cut(how);
        if chance.random_ratio(1, 4) {
            pause(Duration::from_millis(chance.random_range(0..500))).await;
        }
        line = client.open(&server).await;
        client.resume(&mut line).await.expect("the server is open");
        if chance.random_ratio(1, 4) {
            // At once, before anything is answered.
            cuts.fetch_add(1, Ordering::SeqCst);
            line.cut(how);
            line = client.open(&server).await;
            client.resume(&mut line).await.expect("the server is open");
        }
    }
}

#[tokio::test]
async fn an_answer_that_was_read_in_part_comes_again_to_a_client_that_acknowledges() {
    let server = open_with(CometdConfig::default()).await;
    let mut client = Client::new("meg".to_owned(), By::Poll, Care::Ack);
    let mut line = client.open(&server).await;
    client.begin(&mut line).await.expect("open");
    line.send(
        &json!([{"channel": "/meta/subscribe", "clientId": client.id, "subscription": "/x/a"}]),
    )
    .await;
    line.until_reply("/meta/subscribe").await.expect("open");
    let writer = PollingSession::new(&server, "bob").await;
    writer.publish("/x/a", json!(1)).await;
    client.connect(&mut line).await;
    line.first_byte().await;
    line.cut(Cut::Rst);
    let mut line = client.open(&server).await;
    client.connect(&mut line).await;
    let came = line.receive().await.expect("open");
    assert!(data(&came).contains(&json!(1)), "{came:?}");
}
