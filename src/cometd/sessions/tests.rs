use super::handshake::{HANDSHAKE_DENIED, TOO_MANY_HANDSHAKES, TOO_MANY_SESSIONS};
use super::*;
use crate::cometd::message;
use crate::model::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

const DEVICES: &str = "/v2/me/devices";
const MULTIPLEXED: CometdTransport = CometdTransport::Http { multiplexed: true, blocked: false };

/// A hub with its own clock, and with connections that keep what they are given until a test reads
/// it.
struct House {
    hub: Sessions,
    now: Now,
    posts: u64,
    answers: BTreeMap<ClientRequestId, Value>,
    overtaken: Vec<ClientRequestId>,
    abandoned: Vec<ClientRequestId>,
    /// The frame under way on each socket.
    frames: BTreeMap<SocketId, Value>,
    closed: Vec<(SocketId, u16)>,
    states: Vec<(SessionId, Vec<&'static str>)>,
    /// Answers that are read only after what has been asked.
    replays: Vec<(SessionId, UserId, u64)>,
    journal: BTreeMap<(UserId, u64), RestoredEvents>,
    saved: BTreeMap<ClientId, Saved>,
    strangers: Vec<SessionEnd>,
    /// So much is done of what the hub wants after each step; the rest comes later.
    patience: usize,
}

impl House {
    fn new(config: CometdConfig) -> Self {
        Self::in_epoch(config, 0)
    }

    fn in_epoch(config: CometdConfig, epoch: u64) -> Self {
        #[expect(clippy::disallowed_methods, reason = "any instant will do to begin with")]
        let mono = Instant::now();
        Self {
            hub: Sessions::new(config, epoch),
            now: Now { mono, wall: Timestamp(1_700_000_000_000) },
            posts: 0,
            answers: BTreeMap::new(),
            overtaken: Vec::new(),
            abandoned: Vec::new(),
            frames: BTreeMap::new(),
            closed: Vec::new(),
            states: Vec::new(),
            replays: Vec::new(),
            journal: BTreeMap::new(),
            saved: BTreeMap::new(),
            patience: usize::MAX,
            strangers: Vec::new(),
        }
    }

    fn open() -> Self {
        Self::new(CometdConfig {
            open_channels: vec!["/x/**".to_owned()],
            ..CometdConfig::default()
        })
    }

    /// The next life of the process, with what this one has written down.
    fn restarted(self, config: CometdConfig, epoch: u64) -> Self {
        let mut next = Self::in_epoch(config, epoch);
        next.posts = self.posts;
        next.now = self.now;
        for ((user, number), kept) in &self.journal {
            next.hub.restore_event(user, *number, kept.text.len());
        }
        for saved in self.saved.values() {
            next.hub.restore_session(saved.clone(), next.now);
        }
        next.journal = self.journal;
        next.saved = self.saved;
        next.drain();
        next
    }

    fn drain(&mut self) {
        for _ in 0..self.patience {
            let Some(output) = self.hub.poll_output() else {
                return;
            };
            match output {
                Output::Answer { post, body, .. } => {
                    let body = serde_json::from_str(&body).expect("an answer is JSON");
                    assert!(
                        self.answers.insert(post, body).is_none(),
                        "{post:?} is answered twice"
                    );
                }
                Output::Overtaken { post } => self.overtaken.push(post),
                // Nothing a test has not read has left.
                Output::Abandon { post } => {
                    self.abandoned.push(post);
                    self.answers.remove(&post);
                    self.hub.handle_cut(post, self.now);
                }
                Output::AbandonSocket { socket } => {
                    self.frames.remove(&socket);
                    self.hub.handle_gone(socket, self.now);
                }
                Output::Send { socket, body } => {
                    let body = serde_json::from_str(&body).expect("a frame is JSON");
                    assert!(
                        self.frames.insert(socket, body).is_none(),
                        "{socket:?} has two frames under way"
                    );
                }
                Output::Next { .. } | Output::Throttled { .. } => {}
                Output::Close { socket, code, .. } => {
                    self.closed.push((socket, code));
                    self.hub.handle_gone(socket, self.now);
                }
                Output::State { session, channels, .. } => self.states.push((session, channels)),
                Output::Replay { session, user, after } => {
                    self.replays.push((session, user, after))
                }
                Output::Keep(LogChange::Event { user, channel, event, gone }) => {
                    let kept = RestoredEvents {
                        number: event.number,
                        channel: channel.to_owned(),
                        text: event.text.to_string(),
                    };
                    self.journal.insert((user.clone(), event.number), kept);
                    for number in gone {
                        self.journal.remove(&(user.clone(), number));
                    }
                }
                Output::Keep(LogChange::NoEvents { user, gone }) => {
                    for number in gone {
                        self.journal.remove(&(user.clone(), number));
                    }
                }
                Output::Keep(LogChange::Session(saved)) => {
                    self.saved.insert(saved.id.clone(), saved);
                }
                Output::Keep(LogChange::NoSession(id)) => {
                    self.saved.remove(&id);
                }
                Output::UnknownSession { why, .. } => self.strangers.push(why),
            }
        }
    }

    /// The journal answers what it was asked.
    fn replay(&mut self) {
        while !self.replays.is_empty() {
            let (session, user, after) = self.replays.remove(0);
            let kept = self
                .journal
                .iter()
                .filter(|((whose, number), _)| *whose == user && *number > after);
            let kept = kept.map(|(_, kept)| kept.clone()).collect();
            self.hub.handle_replay(session, Some(kept), self.now);
            self.drain();
        }
    }

    /// The desk answers what it was asked: each channel's state is this.
    fn tell_states(&mut self, data: Option<u32>) {
        for (session, channels) in std::mem::take(&mut self.states) {
            let state = channels.iter().filter_map(|channel| Some((*channel, data?.to_string())));
            let state: Vec<_> = state.collect();
            self.hub.handle_state(session, &state, self.now);
            self.drain();
        }
    }

    fn post(
        &mut self,
        from: ClientOrigin,
        via: CometdTransport,
        messages: &Value,
    ) -> ClientRequestId {
        self.posts += 1;
        let no = ClientRequestId(self.posts);
        let post = ClientRequest {
            no,
            from,
            new_browser: None,
            via,
            fresh: ClientId(format!("client{}", no.0).into()),
            messages: message::parse(messages.to_string().as_bytes(), 64).expect("messages"),
        };
        self.hub.handle_post(post, self.now);
        self.drain();
        no
    }

    /// Sends a request; its answer stays unwritten.
    fn send(&mut self, user: &str, messages: &Value) -> ClientRequestId {
        self.post(peer(user), CometdTransport::HTTP, messages)
    }

    /// Sends a request and reads its answer.
    fn ask(&mut self, user: &str, messages: &Value) -> Value {
        let post = self.send(user, messages);
        self.read(post)
    }

    fn read(&mut self, post: ClientRequestId) -> Value {
        let answer = self.answers.remove(&post).expect("an answer");
        self.hub.handle_written(post, self.now);
        self.drain();
        answer
    }

    fn open_socket(&mut self) -> SocketId {
        self.posts += 1;
        let socket = SocketId(self.posts);
        self.hub.handle_open(socket, Ipv4Addr::LOCALHOST.into(), self.now);
        self.drain();
        socket
    }

    fn frame(&mut self, socket: SocketId, user: &str, messages: &Value) {
        self.post(peer(user), CometdTransport::Socket(socket), messages);
    }

    /// Everything that arrives on the socket until nothing is under way.
    fn arrived(&mut self, socket: SocketId) -> Value {
        let mut all = Vec::new();
        while let Some(frame) = self.frames.remove(&socket) {
            all.extend(frame.as_array().expect("an array").iter().cloned());
            self.hub.handle_sent(socket, self.now);
            self.drain();
        }
        Value::from(all)
    }

    fn is_held(&self, post: ClientRequestId) -> bool {
        !self.answers.contains_key(&post) && !self.overtaken.contains(&post)
    }

    fn shake_with(&mut self, user: &str, ext: Value) -> String {
        let reply = self.ask(
            user,
            &json!([{
                "channel":"/meta/handshake",
                "version":"1.0",
                "supportedConnectionTypes":["long-polling"],
                "ext":ext,
            }]),
        );
        reply[0]["clientId"].as_str().expect("a client id").to_owned()
    }

    fn shake(&mut self, user: &str) -> String {
        self.shake_with(user, json!({}))
    }

    fn subscribe(&mut self, user: &str, client: &str, channel: &str) {
        let subscribe =
            json!([{"channel":"/meta/subscribe","clientId":client,"subscription":channel}]);
        assert_eq!(self.ask(user, &subscribe)[0]["successful"], true);
        self.tell_states(None);
    }

    /// A session that has connected once, subscribed to `channel`, with nothing to be told of its
    /// state.
    fn session(&mut self, user: &str, channel: &str) -> String {
        let client = self.shake(user);
        self.subscribe(user, &client, channel);
        self.ask(user, &connect(&client));
        client
    }

    /// The same for a client that acknowledges.
    fn acknowledging(&mut self, user: &str, channel: &str) -> String {
        let client = self.shake_with(user, json!({"ack":true}));
        self.subscribe(user, &client, channel);
        self.ask(user, &connect_with(&client, json!({"ack":-1})));
        client
    }

    /// The same on a websocket.
    fn on_socket(&mut self, user: &str, channel: &str) -> (SocketId, String) {
        let socket = self.open_socket();
        self.frame(
            socket,
            user,
            &json!([{
                "channel":"/meta/handshake",
                "version":"1.0",
                "supportedConnectionTypes":["websocket"],
            }]),
        );
        let client = self.arrived(socket)[0]["clientId"].as_str().expect("a client id").to_owned();
        self.frame(
            socket,
            user,
            &json!([{"channel":"/meta/subscribe","clientId":client,"subscription":channel}]),
        );
        self.tell_states(None);
        self.frame(socket, user, &connect(&client));
        self.arrived(socket);
        (socket, client)
    }

    fn notice(&mut self, user: &str, data: u32) {
        self.hub.handle_notice(&user.into(), DEVICES, &data.to_string(), self.now);
        self.drain();
    }

    fn pass(&mut self, time: Duration) {
        self.now.mono += time;
        self.now.wall.0 += time.as_millis() as u64;
        while self.hub.poll_timeout().is_some_and(|at| at <= self.now.mono) {
            self.hub.handle_timeout(self.now);
            self.drain();
        }
    }
}

fn peer(user: &str) -> ClientOrigin {
    let browser = user.strip_prefix("browser ");
    ClientOrigin {
        user: browser.is_none().then(|| user.into()),
        proven: browser.is_none(),
        login_until: None,
        browser: browser.map(SharedSecret::shared),
        login: None,
        by_password_alone: false,
        is_refused: false,
        address: Ipv4Addr::LOCALHOST.into(),
    }
}

fn connect_with(client: &str, ext: Value) -> Value {
    json!([{"channel":"/meta/connect","clientId":client,"connectionType":"long-polling","ext":ext}])
}

/// A connect that is never held.
fn glance(client: &str) -> Value {
    let mut connect = connect(client);
    connect[0]["advice"] = json!({"timeout":0});
    connect
}

fn connect(client: &str) -> Value {
    connect_with(client, json!({}))
}

fn data(answer: &Value) -> Vec<u64> {
    let events = answer.as_array().expect("an array");
    events.iter().filter_map(|event| event["data"].as_u64()).collect()
}

fn batch(answer: &Value) -> u64 {
    let replies = answer.as_array().expect("an array");
    replies.iter().find_map(|reply| reply["ext"]["ack"].as_u64()).expect("a batch")
}

#[test]
fn the_first_connect_returns_at_once_and_the_second_is_held_until_something_happens() {
    let mut house = House::open();
    let client = house.session("anna", DEVICES);
    let held = house.send("anna", &connect(&client));
    assert!(house.is_held(held));
    house.notice("anna", 7);
    let answer = house.read(held);
    assert_eq!(data(&answer), [7]);
    assert_eq!(answer[1]["channel"], "/meta/connect");
    assert_eq!(answer[1]["successful"], true);
}

#[test]
fn a_hold_ends_with_an_empty_reply_and_the_session_lives_on() {
    let mut house = House::open();
    let client = house.session("anna", DEVICES);
    let held = house.send("anna", &connect(&client));
    house.pass(Duration::from_secs(24));
    assert!(house.is_held(held));
    house.pass(Duration::from_secs(1));
    assert_eq!(house.read(held), json!([{"channel":"/meta/connect","successful":true}]));
    assert_eq!(house.hub.len(), 1);
}

#[test]
fn a_client_may_ask_for_a_shorter_hold_and_hears_the_advice_again() {
    let mut house = House::open();
    let client = house.session("anna", DEVICES);
    let mut at_once = connect(&client);
    at_once[0]["advice"] = json!({"timeout":0});
    let answer = house.ask("anna", &at_once);
    assert_eq!(answer[0]["advice"], json!({"reconnect":"retry","interval":0,"timeout":25000}));
    at_once[0]["advice"] = json!({"timeout":3000});
    let held = house.send("anna", &at_once);
    house.pass(Duration::from_secs(3));
    assert!(!house.is_held(held));
}

#[test]
fn without_a_connect_the_session_expires_and_its_client_is_told_to_shake_hands() {
    let mut house = House::open();
    let client = house.session("anna", DEVICES);
    house.pass(Duration::from_secs(61));
    assert!(house.hub.is_empty());
    assert_eq!(house.hub.poll_timeout(), None);
    let reply = &house.ask("anna", &connect(&client))[0];
    assert_eq!(reply["error"], UNKNOWN);
    assert_eq!(reply["advice"], json!({"reconnect":"handshake","interval":0}));
}

#[test]
fn a_session_expires_also_when_its_client_never_connects_or_never_reads() {
    let mut house = House::open();
    house.shake("anna");
    let client = house.session("anna", DEVICES);
    let held = house.send("anna", &connect(&client));
    house.notice("anna", 1);
    assert!(house.answers.contains_key(&held));
    house.pass(Duration::from_secs(61));
    assert!(house.hub.is_empty());
}

#[test]
fn the_newest_connect_wins_and_the_older_one_is_let_go() {
    let mut house = House::open();
    let client = house.session("anna", DEVICES);
    let older = house.send("anna", &connect(&client));
    let newer = house.send("anna", &connect(&client));
    assert_eq!(house.overtaken, [older]);
    house.hub.handle_cut(older, house.now);
    house.notice("anna", 1);
    assert_eq!(data(&house.read(newer)), [1]);
}

#[test]
fn events_of_a_poll_that_was_cut_come_with_the_next_one() {
    let mut house = House::open();
    let client = house.session("anna", DEVICES);
    let cut_while_held = house.send("anna", &connect(&client));
    house.hub.handle_cut(cut_while_held, house.now);
    house.notice("anna", 1);
    let cut_with_events = house.send("anna", &connect(&client));
    assert_eq!(data(&house.answers.remove(&cut_with_events).expect("answered at once")), [1]);
    house.notice("anna", 2);
    house.hub.handle_cut(cut_with_events, house.now);
    house.drain();
    assert_eq!(data(&house.ask("anna", &connect(&client))), [1, 2]);
    let last = house.send("anna", &connect(&client));
    assert!(house.is_held(last));
}

#[test]
fn a_disconnect_lets_the_held_connect_go_for_good() {
    let mut house = House::open();
    let client = house.session("anna", DEVICES);
    let held = house.send("anna", &connect(&client));
    let disconnect = json!([{"channel":"/meta/disconnect","clientId":client}]);
    assert_eq!(house.ask("anna", &disconnect)[0]["successful"], true);
    assert_eq!(house.read(held)[0]["advice"]["reconnect"], "none");
    assert_eq!(house.ask("anna", &disconnect)[0]["error"], UNKNOWN);
}

#[test]
fn connect_and_disconnect_in_one_request_answer_each_message_once() {
    let mut house = House::open();
    let client = house.session("anna", DEVICES);
    let held = house.send("anna", &connect(&client));
    let both = json!([
        {"channel":"/meta/connect","clientId":client,"connectionType":"long-polling"},
        {"channel":"/meta/disconnect","clientId":client},
    ]);
    let answer = house.ask("anna", &both);
    assert_eq!(answer.as_array().map(Vec::len), Some(2));
    assert_eq!(house.overtaken, [held]);
    assert!(house.hub.is_empty());
}

#[test]
fn a_session_answers_nobody_but_its_user() {
    let mut house = House::new(CometdConfig { anonymous: true, ..CometdConfig::default() });
    let client = house.session("anna", DEVICES);
    assert_eq!(house.ask("bert", &connect(&client))[0]["error"], UNKNOWN);
    assert_eq!(house.ask("browser b1", &connect(&client))[0]["error"], UNKNOWN);
    let held = house.send("anna", &connect(&client));
    house.ask("bert", &json!([{"channel":"/meta/disconnect","clientId":client}]));
    assert!(house.is_held(held));
    let nobodys = house.shake("browser b1");
    assert_eq!(house.ask("browser b2", &connect(&nobodys))[0]["error"], UNKNOWN);
    assert_eq!(house.ask("anna", &connect(&nobodys))[0]["error"], UNKNOWN);
    assert_eq!(house.ask("browser b1", &connect(&nobodys))[0]["successful"], true);
}

#[test]
fn whoever_nobody_knows_gets_no_session_or_none_of_the_users_channels() {
    let mut house = House::open();
    let handshake = json!([{
        "channel":"/meta/handshake","version":"1.0","supportedConnectionTypes":["long-polling"],
    }]);
    let reply = &house.ask("browser b1", &handshake)[0];
    assert_eq!(reply["error"], HANDSHAKE_DENIED);
    assert_eq!(reply["advice"]["reconnect"], "none");

    let mut house = House::new(CometdConfig {
        anonymous: true,
        open_channels: vec!["/x/**".to_owned()],
        ..CometdConfig::default()
    });
    let client = house.shake("browser b1");
    for (channel, allowed) in
        [(DEVICES, false), ("/**", false), ("/v2/**", false), ("/x/a", true), ("/x/**", true)]
    {
        let subscribe =
            json!([{"channel":"/meta/subscribe","clientId":client,"subscription":channel}]);
        assert_eq!(house.ask("browser b1", &subscribe)[0]["successful"], allowed, "{channel}");
    }
    assert!(house.states.is_empty());
}

#[test]
fn the_present_state_comes_once_for_each_channel_in_order_with_what_happens() {
    let mut house = House::open();
    let client = house.shake("anna");
    house.ask("anna", &connect(&client));
    let subscribe = |channels: Value| {
        json!([{
            "channel":"/meta/subscribe","clientId":client,"subscription":channels,
        }])
    };
    house.ask("anna", &subscribe(json!(["/v2/me/devices"])));
    house.ask("anna", &subscribe(json!(["/v2/me/*", "/**"])));
    let asked = |house: &House| {
        house.states.iter().map(|(_, channels)| channels.clone()).collect::<Vec<_>>()
    };
    assert_eq!(asked(&house), [vec!["/v2/me/devices"]], "one question at a time");
    house.notice("anna", 1);
    house.tell_states(Some(2));
    assert_eq!(asked(&house), [vec!["/v2/me", "/v2/me/channels", "/v2/me/calls"]]);
    house.notice("anna", 3);
    house.tell_states(Some(4));
    assert_eq!(data(&house.ask("anna", &connect(&client))), [1, 2, 3, 4, 4, 4]);
    house.ask("anna", &subscribe(json!(["/v2/me/devices"])));
    assert!(house.states.is_empty());
}

#[test]
fn a_session_that_never_fetches_is_ended_rather_than_shortened() {
    let mut house = House::new(CometdConfig { max_queue: 3, ..CometdConfig::default() });
    let client = house.session("anna", DEVICES);
    (0..3).for_each(|n| house.notice("anna", n));
    assert_eq!(house.hub.len(), 1);
    house.notice("anna", 3);
    assert!(house.hub.is_empty());
    assert_eq!(house.ask("anna", &connect(&client))[0]["advice"]["reconnect"], "handshake");
}

#[test]
fn one_user_cannot_take_all_the_room() {
    let mut house = House::new(CometdConfig {
        max_sessions_per_user: 2,
        max_sessions: 3,
        ..CometdConfig::default()
    });
    let clients: Vec<String> = (0..3).map(|_| house.shake("anna")).collect();
    assert_eq!(house.hub.len(), 2);
    assert_eq!(house.ask("anna", &connect(&clients[0]))[0]["error"], UNKNOWN);
    assert_eq!(house.ask("anna", &connect(&clients[2]))[0]["successful"], true);
    house.shake("bert");
    let refused = house.ask("carl", &json!([{"channel":"/meta/handshake"}]));
    assert_eq!(refused[0]["error"], TOO_MANY_SESSIONS);
}

#[test]
fn going_down_answers_every_held_connect_and_holds_no_more() {
    let mut house = House::open();
    let client = house.session("anna", DEVICES);
    let held = house.send("anna", &connect(&client));
    house.hub.handle_drain(house.now);
    house.drain();
    let advice = house.read(held)[0]["advice"].clone();
    assert_eq!(advice["reconnect"], "retry");
    assert!(advice["interval"].as_u64() >= Some(1000));
    let next = house.send("anna", &connect(&client));
    assert!(!house.is_held(next));
}

#[test]
fn lost_notices_end_every_session() {
    let mut house = House::open();
    let client = house.session("anna", DEVICES);
    let held = house.send("anna", &connect(&client));
    house.hub.handle_gap(house.now);
    house.drain();
    assert_eq!(house.read(held)[0]["advice"]["reconnect"], "handshake");
}

#[test]
fn a_login_that_ends_ends_the_session_and_says_why() {
    let mut house = House::open();
    let client = house.session("anna", DEVICES);
    let from = ClientOrigin {
        proven: false,
        browser: None,
        login_until: Some(house.now.mono + Duration::from_secs(10)),
        ..peer("anna")
    };
    let by_cookie = house.post(from.clone(), CometdTransport::HTTP, &connect(&client));
    assert_eq!(house.read(by_cookie)[0]["error"], UNKNOWN, "by cookie, and without the browser's");
    let proven = ClientOrigin { proven: true, ..from };
    let held = house.post(proven, CometdTransport::HTTP, &connect(&client));
    house.pass(Duration::from_secs(9));
    assert!(house.is_held(held));
    house.pass(Duration::from_secs(1));
    let reply = &house.read(held)[0];
    assert_eq!(
        (&reply["error"], &reply["advice"]["reconnect"]),
        (&json!(LOGIN_EXPIRED), &json!("handshake"))
    );
    assert!(house.hub.is_empty());
}

#[test]
fn a_log_out_ends_the_sessions_of_its_login_and_no_others() {
    let by_cookie = |login: &str| ClientOrigin {
        proven: false,
        browser: Some(SharedSecret::shared("b1")),
        login: Some(SharedSecret::shared(login)),
        ..peer("anna")
    };
    let alone = ClientOrigin {
        login: Some(SharedSecret::shared("l1")),
        by_password_alone: true,
        ..peer("anna")
    };
    let mut house = House::open();
    let http = CometdTransport::HTTP;
    let shake = json!([{"channel":"/meta/handshake"}]);
    let open = |house: &mut House, from: &ClientOrigin| {
        let post = house.post(from.clone(), http, &shake);
        let client = house.read(post)[0]["clientId"].as_str().expect("an id").to_owned();
        let post = house.post(from.clone(), http, &connect(&client));
        assert_eq!(house.read(post)[0]["successful"], true);
        client
    };
    let is_open = |house: &mut House, from: &ClientOrigin, client: &str| {
        let post = house.post(from.clone(), http, &glance(client));
        house.read(post)[0]["successful"] == true
    };
    let (first, second) = (by_cookie("l1"), by_cookie("l2"));
    let mine = open(&mut house, &first);
    let others = open(&mut house, &second);
    let program = open(&mut house, &alone);
    let bert = house.session("bert", DEVICES);

    let anna = UserId::from("anna");
    let held = house.post(first.clone(), http, &connect(&mine));
    assert!(house.is_held(held));
    house.hub.handle_logout(&anna, EndedLogins::One(&SharedSecret::shared("l1")), house.now);
    house.drain();
    assert_eq!(house.read(held)[0]["error"], UNKNOWN);
    assert!(!is_open(&mut house, &first, &mine));
    assert!(is_open(&mut house, &second, &others));
    assert!(is_open(&mut house, &alone, &program), "it does not live by the cookie");
    let denied = house.post(first, http, &shake);
    assert_eq!(house.read(denied)[0]["error"], HANDSHAKE_DENIED);

    house.hub.handle_logout(&anna, EndedLogins::WithoutSession, house.now);
    house.drain();
    assert!(!is_open(&mut house, &alone, &program));
    assert!(is_open(&mut house, &second, &others));
    assert_eq!(house.strangers, [SessionEnd::LoggedOut; 2]);
    assert_eq!(house.ask("bert", &glance(&bert))[0]["successful"], true);
}

/// A websocket keeps the login that it was opened by.
#[test]
fn a_handshake_by_a_login_that_is_over_is_denied() {
    let mut house = House::new(CometdConfig::default());
    let shake = json!([{"channel":"/meta/handshake"}]);
    let until = |until| ClientOrigin { login_until: Some(until), ..peer("anna") };
    let now = house.now.mono;
    let over = house.post(until(now), CometdTransport::HTTP, &shake);
    assert_eq!(house.read(over)[0]["error"], HANDSHAKE_DENIED);
    assert!(house.hub.is_empty());
    let good = house.post(until(now + Duration::from_secs(1)), CometdTransport::HTTP, &shake);
    assert_eq!(house.read(good)[0]["successful"], true);
}

/// A client may shake hands by password alone and go on with the cookie that the answer sets.
#[test]
fn a_session_belongs_to_the_login_of_its_last_connect() {
    let mut house = House::open();
    let alone = ClientOrigin {
        login: Some(SharedSecret::shared("l1")),
        by_password_alone: true,
        ..peer("anna")
    };
    let shake = json!([{"channel":"/meta/handshake"}]);
    house.post(alone, CometdTransport::HTTP, &shake);
    house.hub.handle_logout(
        &"anna".into(),
        EndedLogins::One(&SharedSecret::shared("l1")),
        house.now,
    );
    assert!(house.hub.is_empty(), "it may have the cookie already");
    let client = house.session("anna", DEVICES);
    let from = ClientOrigin { login: Some(SharedSecret::shared("l2")), ..peer("anna") };
    let post = house.post(from, CometdTransport::HTTP, &glance(&client));
    assert_eq!(house.read(post)[0]["successful"], true);
    house.hub.handle_logout(
        &"anna".into(),
        EndedLogins::One(&SharedSecret::shared("l2")),
        house.now,
    );
    assert!(house.hub.is_empty());
}

#[test]
fn another_browser_of_the_same_user_is_refused_and_a_client_without_cookies_is_not() {
    let mut house = House::open();
    let mine = ClientOrigin { browser: Some(SharedSecret::shared("b1")), ..peer("anna") };
    let http = CometdTransport::HTTP;
    let shaken = house.post(mine.clone(), http, &json!([{"channel":"/meta/handshake"}]));
    let client = house.read(shaken)[0]["clientId"].as_str().expect("an id").to_owned();
    let mut connects = |browser: Option<&str>| {
        let from = ClientOrigin { browser: browser.map(SharedSecret::shared), ..peer("anna") };
        let post = house.post(from, http, &glance(&client));
        house.read(post)[0]["successful"] == true
    };
    assert!(connects(Some("b1")));
    assert!(!connects(Some("b2")));
    assert!(connects(None));
    assert_eq!(house.strangers, [SessionEnd::OtherBrowser]);
}

#[test]
fn a_session_that_began_without_the_browsers_cookie_belongs_to_its_login() {
    let mut house = House::open();
    let http = CometdTransport::HTTP;
    let by_cookie = |login: Option<&str>, browser: Option<&str>| ClientOrigin {
        proven: false,
        browser: browser.map(SharedSecret::shared),
        login: login.map(SharedSecret::shared),
        ..peer("anna")
    };
    let socket = house.open_socket();
    house.post(
        by_cookie(Some("l1"), None),
        CometdTransport::Socket(socket),
        &json!([{"channel":"/meta/handshake"}]),
    );
    let client = house.arrived(socket)[0]["clientId"].as_str().expect("an id").to_owned();
    house.hub.handle_gone(socket, house.now);
    for (login, browser, fine) in [
        (Some("l1"), None, true),
        (Some("l1"), Some("b1"), true),
        (Some("l2"), None, false),
        (None, Some("b1"), false),
        (None, None, false),
    ] {
        let post = house.post(by_cookie(login, browser), http, &glance(&client));
        assert_eq!(house.read(post)[0]["successful"], fine, "{login:?} {browser:?}");
    }
}

#[test]
fn a_browser_holds_one_connect_and_the_next_session_takes_the_place_when_it_is_free() {
    let mut house = House::open();
    let from = ClientOrigin { browser: Some(SharedSecret::shared("b1")), ..peer("anna") };
    let http = CometdTransport::HTTP;
    let mut tabs = Vec::new();
    for _ in 0..2 {
        let shaken = house.post(from.clone(), http, &json!([{"channel":"/meta/handshake"}]));
        let client = house.read(shaken)[0]["clientId"].as_str().expect("an id").to_owned();
        let first = house.post(from.clone(), http, &connect(&client));
        house.read(first);
        tabs.push(client);
    }
    let held = house.post(from.clone(), http, &connect(&tabs[0]));
    let crowded = house.post(from.clone(), http, &connect(&tabs[1]));
    let advice = house.read(crowded)[0]["advice"].clone();
    assert_eq!(advice["multiple-clients"], true);
    assert_eq!((&advice["interval"], &advice["reconnect"]), (&json!(2000), &json!("retry")));
    let multiplexed = house.post(from.clone(), MULTIPLEXED, &connect(&tabs[1]));
    assert!(house.is_held(multiplexed), "HTTP/2 has room");
    house.hub.handle_cut(multiplexed, house.now);
    house.hub.handle_cut(held, house.now);
    let second = house.post(from.clone(), http, &connect(&tabs[1]));
    assert!(house.is_held(second));
    house.pass(Duration::from_secs(25));
    assert_eq!(house.read(second)[0]["advice"]["interval"], 0, "it may poll at once again");
}

#[test]
fn what_was_not_acknowledged_comes_again_and_what_was_does_not() {
    let mut house = House::open();
    let client = house.acknowledging("anna", DEVICES);
    house.notice("anna", 1);
    let first = house.ask("anna", &connect_with(&client, json!({"ack":0})));
    assert_eq!(data(&first), [1]);
    house.notice("anna", 2);
    let again = house.ask("anna", &connect_with(&client, json!({"ack":0})));
    assert_eq!(data(&again), [1, 2]);
    assert!(batch(&again) > batch(&first));
    house.notice("anna", 3);
    let next = house.ask("anna", &connect_with(&client, json!({"ack":batch(&first)})));
    assert_eq!(data(&next), [2, 3], "1 left with the first batch");
    let held = house.send("anna", &connect_with(&client, json!({"ack":batch(&next)})));
    assert!(house.is_held(held));
    house.pass(Duration::from_secs(25));
    let empty = house.read(held);
    assert_eq!(data(&empty), [] as [u64; 0]);
    assert!(batch(&empty) > batch(&next));
}

#[test]
fn an_answer_nobody_knows_of_is_waited_for_and_its_events_are_neither_lost_nor_doubled() {
    let mut house = House::open();
    let client = house.session("anna", DEVICES);
    let older = house.send("anna", &connect(&client));
    house.notice("anna", 1);
    let newer = house.send("anna", &connect(&client));
    assert_eq!(house.abandoned, [older], "the shell was asked, and it has not left");
    assert_eq!(data(&house.read(newer)), [1]);

    // The same, but this time it has left, and the shell only says so later.
    let older = house.send("anna", &connect(&client));
    house.notice("anna", 2);
    let left = house.answers.remove(&older).expect("an answer");
    let post = ClientRequest {
        no: ClientRequestId(1_000),
        from: peer("anna"),
        new_browser: None,
        via: CometdTransport::HTTP,
        fresh: ClientId("x".into()),
        messages: message::parse(connect(&client).to_string().as_bytes(), 1).expect("a connect"),
    };
    house.hub.handle_post(post, house.now);
    assert_eq!(house.hub.poll_output(), Some(Output::Abandon { post: older }));
    house.hub.handle_written(older, house.now);
    house.drain();
    assert_eq!(data(&left), [2]);
    assert!(house.is_held(ClientRequestId(1_000)));
}

#[test]
fn a_websocket_is_told_at_once_and_its_connect_stays_held() {
    let mut house = House::open();
    let (socket, client) = house.on_socket("anna", DEVICES);
    house.frame(socket, "anna", &connect(&client));
    assert_eq!(house.hub.counts().held, 1);
    house.notice("anna", 1);
    assert_eq!(data(&house.frames[&socket]), [1]);
    house.notice("anna", 2);
    house.notice("anna", 3);
    assert_eq!(
        data(&house.arrived(socket)),
        [1, 2, 3],
        "the second and third wait until the first has left"
    );
    assert_eq!(house.hub.counts().held, 1);
    house.pass(Duration::from_secs(25));
    assert_eq!(house.arrived(socket), json!([{"channel":"/meta/connect","successful":true}]));
    house.pass(Duration::from_secs(60));
    assert_eq!(house.closed, [(socket, 1000)]);
    assert!(house.hub.is_empty());
}

#[test]
fn a_cut_websocket_gives_its_frame_back_and_the_next_one_brings_it() {
    let mut house = House::open();
    let (socket, client) = house.on_socket("anna", DEVICES);
    house.frame(socket, "anna", &connect(&client));
    house.notice("anna", 1);
    house.frames.remove(&socket);
    house.hub.handle_gone(socket, house.now);
    house.notice("anna", 2);
    let next = house.open_socket();
    house.frame(next, "anna", &connect(&client));
    assert_eq!(data(&house.arrived(next)), [1, 2]);
    let polled = house.send("anna", &connect(&client));
    assert_eq!(house.closed, [(next, 1000)], "it has gone back to long-polling");
    house.notice("anna", 3);
    assert_eq!(data(&house.read(polled)), [3]);
    let nobodys = house.open_socket();
    house.pass(Duration::from_secs(30));
    assert_eq!(house.closed, [(next, 1000), (nobodys, 1000)], "nobody has come to it");
}

#[test]
fn a_websocket_belongs_to_one_session_and_a_new_handshake_takes_it() {
    let mut house = House::open();
    let (socket, client) = house.on_socket("anna", DEVICES);
    let other = house.session("anna", DEVICES);
    house.frame(socket, "anna", &connect(&other));
    let reply = house.arrived(socket)[0].clone();
    assert_eq!(
        (&reply["error"], &reply["advice"]["reconnect"]),
        (&json!(UNKNOWN), &json!("handshake"))
    );
    house.frame(socket, "anna", &json!([{"channel":"/meta/handshake"}]));
    let fresh = house.arrived(socket)[0]["clientId"].clone();
    house.frame(socket, "anna", &connect(fresh.as_str().expect("an id")));
    assert_eq!(house.arrived(socket)[0]["successful"], true);
    house.frame(socket, "anna", &connect(&client));
    assert_eq!(house.arrived(socket)[0]["error"], UNKNOWN);
    assert_eq!(house.strangers, [SessionEnd::OtherSocket, SessionEnd::OtherSocket]);
}

#[test]
fn a_websocket_that_does_not_read_is_closed_when_too_much_waits_for_it() {
    let mut house = House::new(CometdConfig { max_queue: 3, ..CometdConfig::default() });
    let (socket, client) = house.on_socket("anna", DEVICES);
    house.frame(socket, "anna", &connect(&client));
    (0..5).for_each(|number| house.notice("anna", number));
    assert!(house.hub.is_empty());
    assert_eq!(data(&house.arrived(socket)), [0], "what was under way");
    assert_eq!(house.closed, [(socket, 1008)]);
}

#[test]
fn whoever_has_most_goes_when_a_user_has_too_much() {
    let mut house =
        House::new(CometdConfig { max_queue_bytes_per_user: 1_000, ..CometdConfig::default() });
    let slow = house.session("anna", DEVICES);
    let quick = house.session("anna", DEVICES);
    let mut heard = 0;
    for number in 0..100 {
        house.notice("anna", number);
        heard += data(&house.ask("anna", &connect(&quick))).len();
    }
    assert_eq!(heard, 100);
    assert_eq!(house.ask("anna", &connect(&slow))[0]["error"], UNKNOWN);
    assert_eq!(house.strangers, [SessionEnd::Overflowed]);
}

#[test]
fn handshakes_are_throttled_and_told_when_to_come_again() {
    let mut house = House::new(CometdConfig { handshakes_per_user: 1, ..CometdConfig::default() });
    (0..10).for_each(|_| drop(house.shake("anna")));
    let reply = house.ask("anna", &json!([{"channel":"/meta/handshake"}]))[0].clone();
    assert_eq!(reply["error"], TOO_MANY_HANDSHAKES);
    assert_eq!(reply["advice"]["reconnect"], "handshake");
    assert!(reply["advice"]["interval"].as_u64() >= Some(1000));
    house.shake("bert");
    house.pass(Duration::from_secs(1));
    house.shake("anna");
}

#[test]
fn a_client_that_comes_back_hears_what_it_has_missed_once_and_in_order() {
    let mut house = House::open();
    (1..=5).for_each(|number| house.notice("anna", number));
    let client = house.shake("anna");
    house.ask("anna", &connect(&client));
    let subscribe = json!([{
        "channel":"/meta/subscribe",
        "clientId":client,
        "subscription":["/v2/me/devices"],
        "ext":{"replay":3},
    }]);
    let reply = house.ask("anna", &subscribe)[0].clone();
    assert_eq!(reply["ext"]["replay"], json!({"last":5,"complete":true}));
    house.notice("anna", 6);
    house.tell_states(Some(100));
    house.replay();
    house.notice("anna", 7);
    let answer = house.ask("anna", &connect(&client));
    assert_eq!(data(&answer), [4, 5, 6, 100, 7]);
    let numbers: Vec<Option<u64>> = answer
        .as_array()
        .expect("an array")
        .iter()
        .map(|event| event["ext"]["replay"].as_u64())
        .collect();
    assert_eq!(numbers, [Some(4), Some(5), Some(6), None, Some(7), None]);
}

#[test]
fn a_replay_that_does_not_reach_back_says_so() {
    let mut house = House::new(CometdConfig { replay_events: 2, ..CometdConfig::default() });
    (1..=5).for_each(|number| house.notice("anna", number));
    let client = house.shake("anna");
    house.ask("anna", &connect(&client));
    for (after, complete, expected) in
        [(1, false, vec![4, 5]), (3, true, vec![4, 5]), (77, false, vec![])]
    {
        let subscribe = json!([
            {"channel":"/meta/unsubscribe","clientId":client,"subscription":DEVICES},
            {
                "channel":"/meta/subscribe","clientId":client,
                "subscription":DEVICES,"ext":{"replay":after},
            },
        ]);
        assert_eq!(
            house.ask("anna", &subscribe)[1]["ext"]["replay"]["complete"],
            complete,
            "{after}"
        );
        house.tell_states(None);
        house.replay();
        assert_eq!(data(&house.ask("anna", &glance(&client))), expected, "{after}");
    }
}

#[test]
fn a_client_that_acknowledges_goes_on_after_a_restart_and_misses_nothing() {
    let config = CometdConfig::default();
    let mut house = House::in_epoch(config.clone(), 1);
    let client = house.acknowledging("anna", DEVICES);
    house.notice("anna", 1);
    let first = house.ask("anna", &connect_with(&client, json!({"ack":0})));
    house.notice("anna", 2);
    let lost = house.send("anna", &connect_with(&client, json!({"ack":batch(&first)})));
    assert_eq!(data(&house.answers[&lost]), [2], "it leaves, and never comes");
    house.notice("anna", 3);

    let mut house = house.restarted(config.clone(), 2);
    house.notice("anna", 4);
    let waiting = house.send("anna", &connect_with(&client, json!({"ack":batch(&first)})));
    house.replay();
    house.tell_states(Some(100));
    let answer = house.read(waiting);
    assert_eq!(data(&answer), [2, 3], "what is older than this life goes alone");
    let advice =
        answer.as_array().and_then(|messages| messages.last()).map(|reply| reply["advice"].clone());
    assert_eq!(
        advice,
        Some(json!({"reconnect":"retry","interval":0,"timeout":25000})),
        "it forgets what it was told at the end"
    );
    house.notice("anna", 5);
    let next = house.ask("anna", &connect_with(&client, json!({"ack":batch(&answer)})));
    assert_eq!(data(&next), [4, 100, 5]);

    let mut house = house.restarted(config.clone(), 3);
    let waiting = house.send("anna", &connect_with(&client, json!({"ack":batch(&next)})));
    house.replay();
    assert!(house.is_held(waiting), "it has everything");
    house.notice("anna", 6);
    assert_eq!(data(&house.read(waiting)), [6]);

    let mut house = house.restarted(config, 4);
    assert_eq!(
        house.ask("anna", &connect(&client))[0]["error"],
        UNKNOWN,
        "it does not say what it has"
    );
    assert_eq!(house.strangers, [SessionEnd::Restarted]);
}

#[test]
fn the_clock_is_compared_where_a_client_asks() {
    let mut house = House::open();
    let now = house.now.wall.0 as i64;
    let shake =
        json!([{"channel":"/meta/handshake","ext":{"timesync":{"tc":now - 40,"l":0,"o":0}}}]);
    assert_eq!(
        house.ask("anna", &shake)[0]["ext"]["timesync"],
        json!({"tc":now - 40,"ts":now,"p":0,"a":-40})
    );
    let client = house.session("anna", DEVICES);
    let sync = |off: i64| json!({"timesync":{"tc":house.now.wall.0 as i64 - off,"l":5,"o":0}});
    let (near, far) = (sync(5), sync(50));
    let held = house.send("anna", &connect_with(&client, near));
    house.pass(Duration::from_secs(25));
    assert!(house.read(held)[0].get("ext").is_none());
    let held = house.send("anna", &connect_with(&client, far));
    house.pass(Duration::from_secs(25));
    assert_eq!(house.read(held)[0]["ext"]["timesync"]["p"], 25_000);
}

#[test]
fn who_subscribes_again_and_again_asks_the_desk_and_the_journal_no_more_than_once_at_a_time() {
    let mut house = House::open();
    let client = house.session("anna", "/x/a");
    house.notice("anna", 1);
    for _ in 0..200 {
        let again = json!([
            {
                "channel":"/meta/subscribe","clientId":client,
                "subscription":DEVICES,"ext":{"replay":-2},
            },
            {"channel":"/meta/unsubscribe","clientId":client,"subscription":DEVICES},
        ]);
        house.ask("anna", &again);
    }
    assert_eq!((house.states.len(), house.replays.len()), (1, 1));
    let once_more = json!([{
        "channel":"/meta/subscribe","clientId":client,"subscription":DEVICES,"ext":{"replay":-2},
    }]);
    assert_eq!(house.ask("anna", &once_more)[0]["error"], "429::too_many_replays");
    house.replay();
    house.tell_states(None);
    assert_eq!(house.states.len(), 1, "what was wanted meanwhile");
    assert_eq!(
        data(&house.ask("anna", &glance(&client))),
        [1],
        "once, however often it was asked for"
    );
}

#[test]
fn what_cannot_be_read_again_ends_the_session_rather_than_pass_as_complete() {
    let mut house = House::open();
    house.notice("anna", 1);
    let client = house.session("anna", "/x/a");
    house.ask(
        "anna",
        &json!([{
            "channel":"/meta/subscribe",
            "clientId":client,
            "subscription":DEVICES,
            "ext":{"replay":-2},
        }]),
    );
    let (session, ..) = house.replays.remove(0);
    house.hub.handle_replay(session, None, house.now);
    house.drain();
    let reply = &house.ask("anna", &connect(&client))[0];
    assert_eq!(
        (&reply["error"], &reply["advice"]["reconnect"]),
        (&json!(UNKNOWN), &json!("handshake"))
    );
    assert_eq!(house.strangers, [SessionEnd::Gap]);
}

#[test]
fn a_session_lives_as_long_as_its_client_was_told_to_wait_and_then_as_any_other() {
    let config = CometdConfig {
        max_interval: Duration::from_secs(10),
        drain_window: Duration::from_secs(120),
        ..CometdConfig::default()
    };
    let mut house = House::in_epoch(config.clone(), 1);
    let client = house.acknowledging("anna", DEVICES);
    house.hub.handle_pressure(Duration::from_secs(10));
    let told =
        house.ask("anna", &glance(&client))[0]["advice"]["interval"].as_u64().expect("a number");
    assert!(told > 10_000, "{told}");
    house.pass(Duration::from_millis(told + 9_999));
    let answer = house.ask("anna", &glance(&client));
    assert_eq!(answer[0]["successful"], true);
    let mut house = house.restarted(config, 2);
    house.pass(Duration::from_secs(125));
    let resumed = house.send("anna", &connect_with(&client, json!({"ack":batch(&answer)})));
    house.replay();
    assert!(house.is_held(resumed));
}

#[test]
fn after_a_gap_clients_come_back_spread_out_and_those_who_hear_no_notices_stay() {
    let mut house = House::open();
    let bystander = house.session("bert", "/x/a");
    let clients: Vec<String> = (0..20).map(|_| house.session("anna", DEVICES)).collect();
    house.hub.handle_gap(house.now);
    house.drain();
    let intervals: BTreeSet<u64> = clients
        .iter()
        .map(|client| {
            house.ask("anna", &connect(client))[0]["advice"]["interval"].as_u64().expect("a number")
        })
        .collect();
    assert!(intervals.len() > 10, "{intervals:?}");
    assert_eq!(house.ask("bert", &glance(&bystander))[0]["successful"], true);
}

#[test]
fn under_pressure_clients_are_told_to_wait_and_afterwards_not_to() {
    let mut house = House::open();
    let client = house.session("anna", DEVICES);
    let poll = |house: &mut House| {
        let held = house.send("anna", &connect(&client));
        house.pass(Duration::from_secs(25));
        house.read(held)[0]
            .get("advice")
            .map(|advice| advice["interval"].as_u64().expect("a number"))
    };
    assert_eq!(poll(&mut house), None);
    house.hub.handle_pressure(Duration::from_secs(1));
    let told = poll(&mut house).expect("advice");
    assert!((4_000..8_000).contains(&told), "{told}");
    assert_eq!(poll(&mut house), None, "it is not told twice");
    house.hub.handle_pressure(Duration::ZERO);
    assert_eq!(poll(&mut house), Some(0));
}

#[test]
fn a_reload_takes_the_session_over_and_the_older_connect_is_let_go() {
    let mut house = House::open();
    let client = house.session("anna", DEVICES);
    let older = house.send("anna", &connect(&client));
    house.notice("anna", 1);
    house.read(older);
    let older = house.send("anna", &connect(&client));
    let mut reloaded = connect(&client);
    reloaded[0]["advice"] = json!({"timeout":0});
    let answer = house.ask("anna", &reloaded);
    assert_eq!(house.overtaken, [older]);
    assert_eq!(answer[0]["advice"]["reconnect"], "retry");
}

#[test]
fn who_has_waited_longest_for_his_turn_gets_his_events_first_with_all_that_has_come_by_then() {
    let mut house = House::open();
    let clients: Vec<(String, ClientRequestId)> = (0..3)
        .map(|_| {
            let client = house.session("anna", "/x/a");
            let held = house.send("anna", &connect(&client));
            (client, held)
        })
        .collect();
    let say = |what: u64| json!([{"channel":"/x/a","clientId":clients[0].0,"data":what}]);
    house.patience = 2;
    house.send("anna", &say(1));
    assert!(
        house.is_held(clients[1].1),
        "one answer for whoever has spoken, one for the first who hears"
    );
    house.send("anna", &say(2));
    assert!(house.is_held(clients[2].1));
    assert_eq!(data(&house.read(clients[0].1)), [1]);
    assert_eq!(data(&house.read(clients[1].1)), [1, 2]);
    house.patience = usize::MAX;
    house.drain();
    assert_eq!(data(&house.read(clients[2].1)), [1, 2]);
}

#[test]
fn events_that_wait_for_their_turn_end_nobody_who_takes_them() {
    let config = CometdConfig {
        max_queue: 10,
        open_channels: vec!["/x/**".to_owned()],
        ..CometdConfig::default()
    };
    let mut house = House::in_epoch(config, 1);
    let client = house.session("anna", "/x/a");
    let socket = house.open_socket();
    house.frame(socket, "anna", &connect(&client));
    house.frames.clear();
    house.hub.handle_sent(socket, house.now);
    house.drain();
    let speaker = house.session("anna", "/x/b");
    house.patience = 0;
    let many: Vec<Value> =
        (0..9).map(|n| json!({"channel":"/x/a","clientId":speaker,"data":n})).collect();
    house.send("anna", &json!(many));
    house.send("anna", &json!(many));
    let mut heard = Vec::new();
    loop {
        match house.hub.poll_ready() {
            // It leaves at once.
            Some(Output::Send { socket, body }) => {
                heard.extend(data(&serde_json::from_str(&body).expect("JSON")));
                house.hub.handle_sent(socket, house.now);
            }
            Some(Output::Close { .. }) => panic!("closed"),
            Some(_) => {}
            None if house.hub.hand_out_next() => {}
            None => break,
        }
    }
    assert_eq!(heard, [0, 1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 2, 3, 4, 5, 6, 7, 8]);
}

#[derive(Clone, Debug)]
enum Step {
    /// A client connects anew, over HTTP or on a fresh socket; its older connection is cut.
    Connect(usize, bool),
    Notice(usize),
    /// What is under way to a client arrives.
    Arrives(usize),
    /// It does not.
    Cut(usize),
    Pass(u64),
    Hostile(String),
    Restart,
    Patience(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let word = prop_oneof![
        Just(r#"{"channel":"/meta/connect"}"#.to_owned()),
        Just(r#"{"channel":"/meta/handshake"}"#.to_owned()),
        Just(
            r#"{"channel":"/meta/subscribe","clientId":"client1","subscription":"/**"}"#.to_owned()
        ),
        Just(
            r#"{"channel":"/meta/connect","clientId":"client1","ext":{"ack":9007199254740991}}"#
                .to_owned()
        ),
        Just(r#"{"channel":"/x/a","clientId":"client1","data":1}"#.to_owned()),
        "[a-z/*]{0,9}".prop_map(|text| json!({"channel":text,"clientId":text}).to_string()),
    ];
    let step = prop_oneof![
        4 => (0..CLIENTS.len(), any::<bool>())
            .prop_map(|(who, on_socket)| Step::Connect(who, on_socket)),
        4 => (0..2usize).prop_map(Step::Notice),
        5 => (0..CLIENTS.len()).prop_map(Step::Arrives),
        2 => (0..CLIENTS.len()).prop_map(Step::Cut),
        1 => (0..40u64).prop_map(Step::Pass),
        1 => word.prop_map(Step::Hostile),
        1 => (0..4usize).prop_map(Step::Patience),
    ];
    proptest::collection::vec(step, 0..120)
}

fn steps_of_clients_that_acknowledge() -> impl Strategy<Value = Vec<Step>> {
    (steps(), proptest::collection::vec(any::<proptest::sample::Index>(), 0..4)).prop_map(
        |(mut steps, restarts)| {
            for at in restarts {
                let at = at.index(steps.len() + 1);
                steps.insert(at, Step::Restart);
            }
            steps
        },
    )
}

const CLIENTS: [&str; 3] = ["anna", "anna", "bert"];
const USERS: [&str; 2] = ["anna", "bert"];

/// A client as simple as can be: what has arrived at it, and which way it waits.
#[derive(Default)]
struct Naive {
    id: String,
    ack: Option<u64>,
    post: Option<ClientRequestId>,
    socket: Option<SocketId>,
    heard: Vec<u64>,
}

impl Naive {
    fn hear(&mut self, answer: &Value) {
        self.heard.extend(data(answer));
        if let Some(ack) = &mut self.ack {
            let batches = answer.as_array().expect("an array").iter();
            *ack = batches.filter_map(|reply| reply["ext"]["ack"].as_u64()).max().unwrap_or(*ack);
        }
    }

    fn connect(&self) -> Value {
        connect_with(&self.id, self.ack.map_or(json!({}), |ack| json!({"ack":ack})))
    }

    fn cut(&mut self, house: &mut House) {
        if let Some(post) = self.post.take() {
            house.answers.remove(&post);
            house.hub.handle_cut(post, house.now);
        }
        if let Some(socket) = self.socket.take() {
            house.frames.remove(&socket);
            house.hub.handle_gone(socket, house.now);
        }
        house.drain();
    }

    /// False when nothing was under way.
    fn arrives(&mut self, house: &mut House) -> bool {
        if let Some(post) = self.post
            && house.answers.contains_key(&post)
        {
            self.post = None;
            let answer = house.read(post);
            self.hear(&answer);
            return true;
        }
        let Some(frame) =
            self.socket.and_then(|socket| Some((socket, house.frames.remove(&socket)?)))
        else {
            return false;
        };
        house.hub.handle_sent(frame.0, house.now);
        house.drain();
        self.hear(&frame.1);
        true
    }
}

fn play(steps: Vec<Step>, acks: bool) -> Result<(), TestCaseError> {
    let config = CometdConfig {
        max_interval: Duration::from_secs(100_000),
        replay_events: 1_000,
        replay_bytes: 1 << 30,
        ..CometdConfig::default()
    };
    let mut house = House::in_epoch(config.clone(), 1);
    let mut epoch = 1;
    let mut clients: Vec<Naive> = Vec::new();
    for user in CLIENTS {
        let id =
            if acks { house.acknowledging(user, DEVICES) } else { house.session(user, DEVICES) };
        clients.push(Naive { id, ack: acks.then_some(0), ..Naive::default() });
    }
    let mut told: [Vec<u64>; 2] = Default::default();
    let mut number = 0;
    for step in steps {
        match step {
            Step::Connect(who, on_socket) => {
                clients[who].cut(&mut house);
                let connect = clients[who].connect();
                if on_socket {
                    let socket = house.open_socket();
                    clients[who].socket = Some(socket);
                    house.frame(socket, CLIENTS[who], &connect);
                } else {
                    clients[who].post = Some(house.send(CLIENTS[who], &connect));
                }
            }
            Step::Notice(whose) => {
                number += 1;
                told[whose].push(u64::from(number));
                house.notice(USERS[whose], number);
            }
            Step::Arrives(who) => {
                clients[who].arrives(&mut house);
            }
            Step::Cut(who) => clients[who].cut(&mut house),
            Step::Pass(seconds) => house.pass(Duration::from_secs(seconds)),
            Step::Hostile(text) => {
                house.send("carl", &serde_json::from_str(&text).expect("JSON"));
            }
            Step::Patience(outputs) => house.patience = outputs,
            Step::Restart => {
                house.patience = usize::MAX;
                house.drain();
                epoch += 1;
                house = house.restarted(config.clone(), epoch);
                for client in &mut clients {
                    (client.post, client.socket) = (None, None);
                }
            }
        }
        house.replay();
        house.tell_states(None);
    }
    house.patience = usize::MAX;
    house.drain();
    house.replay();
    house.tell_states(None);
    for (who, client) in clients.iter_mut().enumerate() {
        client.cut(&mut house);
        // One to fetch, one to fetch what had been in doubt.
        for _ in 0..2 {
            client.post = Some(house.send(CLIENTS[who], &client.connect()));
            house.replay();
            house.tell_states(None);
            while client.arrives(&mut house) {}
        }
        let whose = USERS.iter().position(|user| *user == CLIENTS[who]).expect("a user");
        prop_assert_eq!(&client.heard, &told[whose], "client {}", who);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever is cut, held, overtaken or slow, by whichever transport: each client hears each
    /// notice of its user once, in order.
    #[test]
    fn nothing_is_lost_doubled_or_told_to_another(steps in steps()) {
        play(steps, false)?;
    }

    /// The same for clients that acknowledge, also when the process dies and starts again.
    #[test]
    fn nothing_is_lost_or_doubled_by_a_restart_either(
        steps in steps_of_clients_that_acknowledge()
    ) {
        play(steps, true)?;
    }
}
