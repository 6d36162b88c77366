//! What must hold for any bytes at the event channel. The fuzz targets and the tests that replay
//! their corpora run the same code.

use serde_json::Value;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use undertone::cometd::CometdConfig;
use undertone::cometd::message::{self, ClientId, Pattern};
use undertone::cometd::sessions::{
    ClientOrigin, ClientRequest, ClientRequestId, CometdTransport, Output, Sessions, SocketId,
};
use undertone::model::{Now, Timestamp, UserId};

fn start() -> Now {
    #[allow(clippy::disallowed_methods)]
    let mono = Instant::now();
    Now { mono, wall: Timestamp(1_700_000_000_000) }
}

fn peer(user: &str) -> ClientOrigin {
    ClientOrigin {
        user: Some(user.into()),
        proven: true,
        login_until: None,
        browser: None,
        login: None,
        by_password_alone: false,
        is_refused: false,
        address: Ipv4Addr::LOCALHOST.into(),
    }
}

/// A request's body: nothing panics, every message gets one reply, and a session that has nothing
/// to do with it goes on.
pub fn bayeux_message(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data)
        && let Some(pattern) = Pattern::parse(text)
    {
        let _ = pattern.matches(text);
    }
    let Ok(messages) = message::parse(data, 16) else {
        return;
    };
    let now = start();
    let mut hub = Sessions::new(CometdConfig::default(), 1);
    let say = |hub: &mut Sessions, no: u64, user: &str, messages| {
        let post = ClientRequest {
            no: ClientRequestId(no),
            from: peer(user),
            new_browser: Some(undertone::secret::SharedSecret::shared("b")),
            via: CometdTransport::HTTP,
            fresh: ClientId(format!("client{no}").into()),
            messages,
        };
        hub.handle_post(post, now);
        let mut answer = None;
        while let Some(output) = hub.poll_output() {
            if let Output::Answer { post, body, .. } = output
                && post == ClientRequestId(no)
            {
                assert!(answer.is_none(), "answered twice");
                answer = Some(serde_json::from_str::<Vec<Value>>(&body).expect("an array of JSON"));
            }
        }
        hub.handle_written(ClientRequestId(no), now);
        answer
    };
    let parsed = |text: &str| message::parse(text.as_bytes(), 16).expect("a message");
    say(&mut hub, 1, "anna", parsed(r#"{"channel":"/meta/handshake"}"#)).expect("an answer");
    let count = messages.len();
    let shakes = |message: &message::ClientMessage| {
        matches!(message.kind, message::MessageKind::Handshake { .. })
    };
    let opens = messages.iter().any(shakes);
    if let Some(answer) = say(&mut hub, 2, "carl", messages) {
        let replies = answer.iter().filter(|message| message.get("successful").is_some()).count();
        assert_eq!(replies, if opens { 1 } else { count });
    }
    let connect = parsed(r#"{"channel":"/meta/connect","clientId":"client1"}"#);
    let answer = say(&mut hub, 3, "anna", connect).expect("an answer");
    assert_eq!(answer[0]["successful"], true);
}

const USERS: [&str; 4] = ["anna", "anna", "bert", "bert"];

#[derive(Default)]
struct Client {
    id: String,
    acks: bool,
    ack: u64,
    post: Option<ClientRequestId>,
    socket: Option<SocketId>,
    heard: Vec<u64>,
}

struct World {
    hub: Sessions,
    now: Now,
    next: u64,
    answers: BTreeMap<ClientRequestId, Vec<Value>>,
    frames: BTreeMap<SocketId, Vec<Value>>,
}

impl World {
    fn drain(&mut self) {
        while let Some(output) = self.hub.poll_output() {
            match output {
                Output::Answer { post, body, .. } => {
                    let before =
                        self.answers.insert(post, serde_json::from_str(&body).expect("JSON"));
                    assert!(before.is_none(), "answered twice");
                }
                Output::Send { socket, body } => {
                    let before =
                        self.frames.insert(socket, serde_json::from_str(&body).expect("JSON"));
                    assert!(before.is_none(), "two frames under way");
                }
                Output::Abandon { post } => {
                    self.answers.remove(&post);
                    self.hub.handle_cut(post, self.now);
                }
                Output::AbandonSocket { socket } | Output::Close { socket, .. } => {
                    self.frames.remove(&socket);
                    self.hub.handle_gone(socket, self.now);
                }
                _ => {}
            }
        }
    }

    fn post(&mut self, user: &str, via: CometdTransport, text: &str) -> ClientRequestId {
        self.next += 1;
        let no = ClientRequestId(self.next);
        let post = ClientRequest {
            no,
            from: peer(user),
            new_browser: None,
            via,
            fresh: ClientId(format!("client{}", no.0).into()),
            messages: message::parse(text.as_bytes(), 16).expect("messages"),
        };
        self.hub.handle_post(post, self.now);
        self.drain();
        no
    }

    fn ask(&mut self, user: &str, text: &str) -> Vec<Value> {
        let no = self.post(user, CometdTransport::HTTP, text);
        let answer = self.answers.remove(&no).expect("an answer");
        self.hub.handle_written(no, self.now);
        self.drain();
        answer
    }
}

impl Client {
    fn connect(&self) -> String {
        let ext =
            if self.acks { format!(r#","ext":{{"ack":{}}}"#, self.ack) } else { String::new() };
        format!(r#"[{{"channel":"/meta/connect","clientId":"{}"{ext}}}]"#, self.id)
    }

    fn hear(&mut self, messages: &[Value]) {
        for message in messages {
            self.ack = message["ext"]["ack"].as_u64().unwrap_or(self.ack);
            self.heard.extend(message["ext"]["replay"].as_u64());
        }
    }

    fn cut(&mut self, world: &mut World) {
        if let Some(post) = self.post.take() {
            world.answers.remove(&post);
            world.hub.handle_cut(post, world.now);
        }
        if let Some(socket) = self.socket.take() {
            world.frames.remove(&socket);
            world.hub.handle_gone(socket, world.now);
        }
        world.drain();
    }

    fn arrives(&mut self, world: &mut World) -> bool {
        if let Some(post) = self.post
            && let Some(answer) = world.answers.remove(&post)
        {
            self.post = None;
            world.hub.handle_written(post, world.now);
            self.hear(&answer);
        } else if let Some(socket) = self.socket
            && let Some(frame) = world.frames.remove(&socket)
        {
            world.hub.handle_sent(socket, world.now);
            self.hear(&frame);
        } else {
            return false;
        }
        world.drain();
        true
    }
}

/// A sequence of operations, two bytes each: whatever is cut, slow or overtaken, each client hears
/// each event of its user once and in order.
pub fn bayeux_session(data: &[u8]) {
    let config = CometdConfig {
        max_interval: Duration::from_secs(1_000_000),
        max_queue: usize::MAX,
        ..CometdConfig::default()
    };
    let mut world = World {
        hub: Sessions::new(config, 1),
        now: start(),
        next: 0,
        answers: BTreeMap::new(),
        frames: BTreeMap::new(),
    };
    let mut clients: Vec<Client> = Vec::new();
    for (number, user) in USERS.iter().enumerate() {
        let acks = number % 2 == 1;
        let shaken =
            world.ask(user, &format!(r#"{{"channel":"/meta/handshake","ext":{{"ack":{acks}}}}}"#));
        let id = shaken[0]["clientId"].as_str().expect("an id").to_owned();
        world.ask(
            user,
            &format!(r#"{{"channel":"/meta/subscribe","clientId":"{id}","subscription":"/v2/me/devices"}}"#),
        );
        let mut client = Client { id, acks, ..Client::default() };
        let first = world.ask(user, &client.connect());
        client.hear(&first);
        clients.push(client);
    }
    let mut told: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for pair in data.chunks_exact(2).take(500) {
        let who = usize::from(pair[1]) % USERS.len();
        let (user, client) = (USERS[who], &mut clients[who]);
        match pair[0] % 8 {
            0 => {
                client.cut(&mut world);
                client.post = Some(world.post(user, CometdTransport::HTTP, &client.connect()));
            }
            1 => {
                client.cut(&mut world);
                world.next += 1;
                let socket = SocketId(world.next);
                world.hub.handle_open(socket, Ipv4Addr::LOCALHOST.into(), world.now);
                client.socket = Some(socket);
                world.post(user, CometdTransport::Socket(socket), &client.connect());
            }
            2 | 3 => {
                let number = told.get(user).map_or(0, Vec::len) as u64 + 1_000_000_001;
                told.entry(user).or_default().push(number);
                world.hub.handle_notice(&UserId::from(user), "/v2/me/devices", "0", world.now);
                world.drain();
            }
            4 | 5 => {
                client.arrives(&mut world);
            }
            6 => client.cut(&mut world),
            _ => {
                world.now.mono += Duration::from_secs(u64::from(pair[1]));
                world.hub.handle_timeout(world.now);
                world.drain();
            }
        }
    }
    for (who, client) in clients.iter_mut().enumerate() {
        client.cut(&mut world);
        for _ in 0..2 {
            client.post = Some(world.post(USERS[who], CometdTransport::HTTP, &client.connect()));
            while client.arrives(&mut world) {}
        }
        assert_eq!(&client.heard, told.entry(USERS[who]).or_default(), "client {who}");
    }
}
