//! The load: sessions, publishers, and what arrives. One thread, one epoll, no allocation per
//! event.

use super::wire::{self, Body, Event, Found, Response};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::mem;
use std::net::{SocketAddrV4, TcpStream};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};
use undertone::clock::instant;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Connections that publish: a digit's worth at most.
const PUBLISHERS: usize = 4;
/// Published events on their way at most, when there is no other bound: enough that the server
/// never waits for us.
const WINDOW_ONE: u64 = 256;
/// The same when each goes to everybody.
const WINDOW_ALL: u64 = 32;
/// Sessions that are being opened at once.
const OPENING: usize = 64;
/// Connections from one source address: fewer than it has ports.
const PER_ADDRESS: usize = 20_000;
const PATIENCE: Duration = Duration::from_secs(120);
/// What has not arrived after so long without any arrival is lost.
const SILENCE: Duration = Duration::from_secs(3);
const TICK: u64 = u64::MAX;
/// The session number in events for everybody.
const EVERYBODY: usize = 99_999;

#[derive(Clone, Default)]
pub struct Target {
    pub address: String,
    pub path: String,
    /// A line of the head, or nothing.
    pub authorization: String,
    /// Over TLS, with this trust; `None`: in clear.
    pub tls: Option<Arc<ClientConfig>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    LongPolling,
    Websocket,
}

impl Transport {
    pub const ALL: [Transport; 2] = [Transport::LongPolling, Transport::Websocket];

    pub fn name(self) -> &'static str {
        match self {
            Transport::LongPolling => "long-polling",
            Transport::Websocket => "websocket",
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    OneToOne,
    OneToAll,
}

impl Pattern {
    pub const ALL: [Pattern; 2] = [Pattern::OneToOne, Pattern::OneToAll];

    pub fn name(self) -> &'static str {
        match self {
            Pattern::OneToOne => "one-to-one",
            Pattern::OneToAll => "one-to-all",
        }
    }
}

struct Line {
    stream: TcpStream,
    seal: Option<Box<ClientConnection>>,
    /// Came in, and its end has not.
    held: Vec<u8>,
    /// Goes out as soon as the socket takes more.
    out: Vec<u8>,
    framed: bool,
    open: bool,
}

impl Line {
    /// How many of the bytes are on their way; those of TLS all are, in its own buffer or beyond.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(seal) = &mut self.seal else {
            return self.stream.write(bytes);
        };
        seal.writer().write_all(bytes)?;
        self.push().map(|()| bytes.len())
    }

    /// What TLS has to send goes out, as far as the socket takes it.
    fn push(&mut self) -> io::Result<()> {
        let Some(seal) = &mut self.seal else { return Ok(()) };
        while seal.wants_write() {
            match seal.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn has_more_to_write(&self) -> bool {
        !self.out.is_empty() || self.seal.as_ref().is_some_and(|seal| seal.wants_write())
    }

    /// Reads what has come; `WouldBlock` where it is nothing for us.
    fn read(&mut self, input: &mut [u8]) -> io::Result<usize> {
        let Some(seal) = &mut self.seal else {
            return self.stream.read(input);
        };
        let count = seal.read_tls(&mut self.stream)?;
        seal.process_new_packets().map_err(io::Error::other)?;
        let read = match count {
            0 => Ok(0),
            // A record is shorter than the input.
            _ => seal.reader().read(input),
        };
        self.push()?;
        read
    }
}

enum Stage {
    Upgrade,
    Handshake,
    Subscribe,
    Connected,
}

struct Session {
    stage: Stage,
    client: String,
    cookies: String,
    /// The next connect as it goes over the wire; only its id changes.
    connect: Vec<u8>,
    connects: u64,
    /// Sequence numbers on each publishing connection: published, expected next, passed over.
    sent: [u64; PUBLISHERS],
    next: [u64; PUBLISHERS],
    missing: BTreeSet<(usize, u64)>,
}

/// The publishing session's connections and its request, patched for each POST.
#[derive(Default)]
struct Publisher {
    /// Lines that wait for no answer.
    free: Vec<usize>,
    /// Heads of a POST with so many messages.
    heads: Vec<Vec<u8>>,
    message: Vec<u8>,
    channel: Range<usize>,
    id: Range<usize>,
    data: Range<usize>,
    request: Vec<u8>,
    batch: usize,
    /// Whose turn it is, one to one.
    turn: usize,
    /// In all, and for everybody on each connection.
    published: u64,
    sent: [u64; PUBLISHERS],
}

/// What became of the events.
#[derive(Clone, Default)]
pub struct Tally {
    pub delivered: u64,
    pub doubled: u64,
    pub disordered: u64,
    pub lost: u64,
    /// Refusals, broken connections and other surprises, with the first of them.
    pub failures: u64,
    pub first_failure: Option<String>,
}

pub struct Load {
    epoll: Epoll,
    start: Instant,
    target: Target,
    transport: Transport,
    pattern: Pattern,
    /// The publishing session is number 0, the others follow, each on the line of its number; then
    /// the publishing lines.
    sessions: Vec<Session>,
    lines: Vec<Line>,
    ready: usize,
    publisher: Publisher,
    tally: Tally,
    delays: Vec<u64>,
    measuring: bool,
    input: Vec<u8>,
    joined: Vec<u8>,
    ticked: bool,
    /// Looks again at once instead of sleeping, while it is measured.
    eager: bool,
    /// Time with something to do.
    busy: Duration,
}

impl Load {
    /// Opens the publishing session. `most`: sessions that will follow. `own_core`: nobody else
    /// needs this thread's core.
    pub fn new(
        target: &Target,
        transport: Transport,
        pattern: Pattern,
        most: usize,
        own_core: bool,
    ) -> Outcome<Self> {
        let mut load = Self {
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            start: instant(),
            target: target.clone(),
            transport: Transport::LongPolling,
            pattern,
            sessions: Vec::with_capacity(most + 1),
            lines: Vec::with_capacity(most + 1 + PUBLISHERS),
            ready: 0,
            publisher: Publisher::default(),
            tally: Tally::default(),
            delays: Vec::new(),
            measuring: false,
            input: vec![0; 1 << 20],
            joined: Vec::with_capacity(1 << 20),
            ticked: false,
            eager: own_core,
            busy: Duration::ZERO,
        };
        load.open(0)?;
        load.transport = transport;
        Ok(load)
    }

    /// Opens `count` sessions and waits until each has sent its first connect.
    pub fn open(&mut self, count: usize) -> Outcome<()> {
        let begun = instant();
        let goal = self.sessions.len().max(1) + count;
        while self.ready < goal {
            while self.sessions.len() < goal && self.sessions.len() - self.ready < OPENING {
                self.open_one()?;
            }
            self.turn(Duration::from_millis(10))?;
            if self.tally.failures > 0 || begun.elapsed() > PATIENCE {
                let why = self.tally.first_failure.as_deref().unwrap_or("it takes too long");
                return Err(format!("{} of {goal} sessions are open: {why}", self.ready).into());
            }
        }
        // The last connects arrive.
        self.run(Duration::from_millis(300))
    }

    fn open_one(&mut self) -> Outcome<()> {
        let number = self.sessions.len();
        let framed = self.transport == Transport::Websocket;
        self.sessions.push(Session {
            stage: if framed { Stage::Upgrade } else { Stage::Handshake },
            client: String::new(),
            cookies: String::new(),
            connect: Vec::new(),
            connects: 0,
            sent: [0; PUBLISHERS],
            next: [0; PUBLISHERS],
            missing: BTreeSet::new(),
        });
        self.add_line()?;
        if framed {
            let Target { address, path, authorization, .. } = &self.target;
            let request = format!(
                "GET {path} HTTP/1.1\r\nHost: {address}\r\n{authorization}Connection: Upgrade\r\n\
                 Upgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            self.send(number, request.as_bytes());
        } else {
            self.shake_hands(number);
        }
        Ok(())
    }

    fn add_line(&mut self) -> Outcome<usize> {
        let number = self.lines.len();
        let descriptor =
            socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        let stream = TcpStream::from(descriptor);
        let nth = number / PER_ADDRESS;
        if nth > 0 {
            bind(stream.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1 + nth as u8, 0))?;
        }
        let to: SocketAddrV4 = self.target.address.parse()?;
        connect(stream.as_raw_fd(), &SockaddrIn::from(to))?;
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, number as u64))?;
        let seal = self.target.tls.clone().map(|config| {
            let name = ServerName::IpAddress(to.ip().to_owned().into());
            ClientConnection::new(config, name).map(Box::new)
        });
        let mut line = Line {
            stream,
            seal: seal.transpose()?,
            held: Vec::new(),
            out: Vec::new(),
            framed: false,
            open: true,
        };
        line.push()?;
        self.lines.push(line);
        Ok(number)
    }

    /// Waits once, and handles all there is.
    fn turn(&mut self, longest: Duration) -> Outcome<()> {
        self.handle(EpollTimeout::try_from(longest)?)
    }

    /// The same for one that is measured.
    fn measured_turn(&mut self, longest: Duration) -> Outcome<()> {
        let longest = if self.eager { Duration::ZERO } else { longest };
        self.handle(EpollTimeout::try_from(longest)?)
    }

    fn handle(&mut self, timeout: EpollTimeout) -> Outcome<()> {
        let mut events = [EpollEvent::empty(); 256];
        let looked = instant();
        let count = match self.epoll.wait(&mut events, timeout) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        if count == 0 {
            return Ok(());
        }
        // A look that does not sleep and finds something is work.
        let begun = if timeout == EpollTimeout::ZERO { looked } else { instant() };
        for event in &events[..count] {
            if event.data() == TICK {
                self.ticked = true;
                continue;
            }
            let line = event.data() as usize;
            if event.events().contains(EpollFlags::EPOLLOUT) {
                self.flush(line);
            }
            if event
                .events()
                .intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
            {
                self.receive(line);
            }
        }
        self.busy += begun.elapsed();
        Ok(())
    }

    /// Sessions that were opened, without the publishing one.
    pub fn opened(&self) -> usize {
        self.sessions.len() - 1
    }

    /// Time with something to do so far: without the waiting, and without looking in vain.
    pub fn busy(&self) -> Duration {
        self.busy
    }

    pub fn run(&mut self, time: Duration) -> Outcome<()> {
        let end = instant() + time;
        while instant() < end {
            self.turn(Duration::from_millis(10))?;
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        instant().duration_since(self.start).as_nanos() as u64
    }

    fn fail(&mut self, line: usize, what: &str, said: &[u8]) {
        self.tally.failures += 1;
        if self.tally.first_failure.is_none() {
            let said = String::from_utf8_lossy(&said[..said.len().min(400)]);
            self.tally.first_failure = Some(format!("connection {line}: {what} {said}"));
        }
    }

    fn close(&mut self, line: usize, why: &str) {
        if mem::take(&mut self.lines[line].open) {
            let _ = self.epoll.delete(&self.lines[line].stream);
            self.fail(line, why, &[]);
        }
    }

    fn send(&mut self, number: usize, bytes: &[u8]) {
        let line = &mut self.lines[number];
        if line.has_more_to_write() {
            line.out.extend_from_slice(bytes);
            return;
        }
        let written = match line.write(bytes) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return self.close(number, &error.to_string()),
        };
        line.out.extend_from_slice(&bytes[written..]);
        if line.has_more_to_write() {
            self.watch(number, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT);
        }
    }

    fn flush(&mut self, number: usize) {
        let line = &mut self.lines[number];
        let out = mem::take(&mut line.out);
        let written = match line.push().and_then(|()| line.write(&out)) {
            Ok(written) => written,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => return self.close(number, &error.to_string()),
        };
        line.out = out;
        line.out.drain(..written);
        if !line.has_more_to_write() {
            self.watch(number, EpollFlags::EPOLLIN);
        }
    }

    fn watch(&mut self, number: usize, what: EpollFlags) {
        let mut event = EpollEvent::new(what, number as u64);
        if let Err(error) = self.epoll.modify(&self.lines[number].stream, &mut event) {
            self.close(number, error.desc());
        }
    }

    fn receive(&mut self, number: usize) {
        let mut input = mem::take(&mut self.input);
        match self.lines[number].read(&mut input) {
            Ok(0) => self.close(number, "closed by the server"),
            Ok(count) => self.take(number, &input[..count]),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(error) => self.close(number, &error.to_string()),
        }
        self.input = input;
        if self.lines[number].open && self.lines[number].has_more_to_write() {
            self.watch(number, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT);
        }
    }

    fn take(&mut self, number: usize, fresh: &[u8]) {
        let now = self.now();
        let mut held = mem::take(&mut self.lines[number].held);
        let continues = !held.is_empty();
        if continues {
            held.extend_from_slice(fresh);
        }
        let input: &[u8] = if continues { &held } else { fresh };
        let mut at = 0;
        loop {
            match self.take_one(number, &input[at..], now) {
                Ok(0) => break,
                Ok(used) => at += used,
                Err(what) => {
                    self.close(number, what);
                    break;
                }
            }
        }
        if continues {
            held.drain(..at);
        } else {
            held.extend_from_slice(&fresh[at..]);
        }
        self.lines[number].held = held;
    }

    /// How many bytes the first response or frame took; 0 when it is not whole.
    fn take_one(&mut self, number: usize, input: &[u8], now: u64) -> Result<usize, &'static str> {
        if self.lines[number].framed {
            let Some(frame) = wire::frame(input)? else {
                return Ok(0);
            };
            let payload = &input[frame.payload.clone()];
            match frame.opcode {
                wire::TEXT => self.hear(number, payload, &[], now),
                wire::PING => self.send(number, &wire::masked(wire::PONG, payload)),
                wire::CLOSE => return Err("closed by the server with a frame"),
                _ => {}
            }
            return Ok(frame.payload.end);
        }
        let mut joined = mem::take(&mut self.joined);
        let parsed = wire::response(input, &mut joined);
        let used = if let Ok(Some(response)) = &parsed { response.used } else { 0 };
        if let Ok(Some(response)) = &parsed {
            self.answered(number, response, input, &joined, now);
        }
        self.joined = joined;
        parsed.map(|_| used)
    }

    fn answered(
        &mut self,
        number: usize,
        response: &Response,
        input: &[u8],
        joined: &[u8],
        now: u64,
    ) {
        let body = match &response.body {
            Body::Here(range) => &input[range.clone()],
            Body::Joined => joined,
        };
        match response.status {
            200 if number < self.sessions.len() => {
                self.hear(number, body, &input[..response.head], now)
            }
            200 => {
                wire::scan(body, |found| {
                    if matches!(found, Found::Failed) {
                        self.fail(number, "not published", body);
                    }
                });
                self.publisher.free.push(number);
            }
            101 => {
                self.lines[number].framed = true;
                self.shake_hands(number);
            }
            _ => self.fail(number, "refused", &input[..response.used]),
        }
    }

    /// Messages for a session.
    fn hear(&mut self, number: usize, messages: &[u8], head: &[u8], now: u64) {
        match self.sessions[number].stage {
            Stage::Handshake => match wire::text_of(messages, "clientId") {
                Some(client) => {
                    let session = &mut self.sessions[number];
                    session.client = client.to_owned();
                    session.cookies = wire::cookies(head);
                    // Nobody publishes to the publisher.
                    if number == 0 {
                        self.connected(number);
                    } else {
                        self.subscribe(number);
                    }
                }
                None => self.fail(number, "no session", messages),
            },
            Stage::Subscribe => match wire::find(messages, b"\"successful\":true") {
                Some(_) => self.connected(number),
                None => self.fail(number, "not subscribed", messages),
            },
            Stage::Upgrade | Stage::Connected => {
                let mut answered = !self.lines[number].framed;
                wire::scan(messages, |found| match found {
                    Found::Event(event) => self.arrived(number, event, now),
                    Found::Connect => answered = true,
                    Found::Failed => self.fail(number, "failed", messages),
                });
                if answered {
                    self.connect_again(number);
                }
            }
        }
    }

    fn arrived(&mut self, number: usize, event: Event, now: u64) {
        let session = &mut self.sessions[number];
        if event.session != number && event.session != EVERYBODY {
            return self.fail(number, "heard somebody else's event", &[]);
        }
        let Event { source, sequence, at, .. } = event;
        let next = &mut session.next[source % PUBLISHERS];
        if sequence >= *next {
            session.missing.extend((*next..sequence).map(|passed| (source, passed)));
            *next = sequence + 1;
        } else if session.missing.remove(&(source, sequence)) {
            self.tally.disordered += 1;
        } else {
            self.tally.doubled += 1;
            return;
        }
        self.tally.delivered += 1;
        if self.measuring && self.delays.len() < self.delays.capacity() {
            self.delays.push(now.saturating_sub(at));
        }
    }

    fn head(&self, number: usize, length: usize) -> String {
        let Target { address, path, authorization, .. } = &self.target;
        let cookies = &self.sessions[number].cookies;
        let cookies =
            if cookies.is_empty() { String::new() } else { format!("Cookie: {cookies}\r\n") };
        format!(
            "POST {path} HTTP/1.1\r\nHost: {address}\r\n{authorization}{cookies}Content-Type: \
             application/json\r\n\
             Content-Length: {length}\r\n\r\n"
        )
    }

    /// Messages as the session's transport carries them.
    fn packed(&self, number: usize, messages: &str) -> Vec<u8> {
        if self.lines[number].framed {
            return wire::masked(wire::TEXT, messages.as_bytes());
        }
        let mut request = self.head(number, messages.len()).into_bytes();
        request.extend_from_slice(messages.as_bytes());
        request
    }

    fn shake_hands(&mut self, number: usize) {
        let transport = self.transport.name();
        let messages = format!(
            r#"[{{"channel":"/meta/handshake","version":"1.0","supportedConnectionTypes":["{transport}"],"id":"000000001"}}]"#
        );
        self.sessions[number].stage = Stage::Handshake;
        let request = self.packed(number, &messages);
        self.send(number, &request);
    }

    fn subscribe(&mut self, number: usize) {
        let client = &self.sessions[number].client;
        let channel = self.channel(number);
        let messages = format!(
            r#"[{{"channel":"/meta/subscribe","clientId":"{client}","subscription":"{channel}","id":"000000002"}}]"#
        );
        self.sessions[number].stage = Stage::Subscribe;
        let request = self.packed(number, &messages);
        self.send(number, &request);
    }

    fn channel(&self, number: usize) -> String {
        match self.pattern {
            Pattern::OneToOne => format!("/x/s{number:05}"),
            Pattern::OneToAll => "/x/all".to_owned(),
        }
    }

    fn connected(&mut self, number: usize) {
        let client = &self.sessions[number].client;
        let transport =
            if self.lines[number].framed { Transport::Websocket } else { Transport::LongPolling }
                .name();
        let messages = format!(
            r#"[{{"channel":"/meta/connect","clientId":"{client}","connectionType":"{transport}","id":"000000003"}}]"#
        );
        let session = &mut self.sessions[number];
        session.stage = Stage::Connected;
        self.sessions[number].connect = self.packed(number, &messages);
        self.ready += 1;
        self.connect_again(number);
    }

    fn connect_again(&mut self, number: usize) {
        let session = &mut self.sessions[number];
        session.connects += 1;
        let mut connect = mem::take(&mut session.connect);
        let end = connect.len() - "\"}]".len();
        wire::digits(&mut connect[end - 9..end], session.connects + 2);
        self.send(number, &connect);
        self.sessions[number].connect = connect;
    }

    /// To how many sessions an event goes.
    fn fan(&self) -> u64 {
        match self.pattern {
            Pattern::OneToOne => 1,
            Pattern::OneToAll => self.sessions.len() as u64 - 1,
        }
    }

    fn under_way(&self) -> u64 {
        (self.publisher.published * self.fan()).saturating_sub(self.tally.delivered)
    }

    /// Opens the publishing connections. `batch`: messages in one POST at most.
    pub fn prepare(&mut self, batch: usize) -> Outcome<()> {
        let client = &self.sessions[0].client;
        let (before, after) = (r#"{"channel":""#, format!(r#"","clientId":"{client}","id":""#));
        let channel = self.channel(0);
        let data = Event::blank();
        let message = format!(r#"{before}{channel}{after}000000000","data":{data}}},"#);
        let id = before.len() + channel.len() + after.len();
        let data_at = id + 9 + r#"","data":"#.len();
        let mut publisher = Publisher {
            channel: before.len()..before.len() + channel.len(),
            id: id..id + 9,
            data: data_at..data_at + data.len(),
            request: Vec::with_capacity((message.len() + 64) * (batch + 1)),
            turn: 1,
            batch,
            ..Publisher::default()
        };
        publisher.heads =
            (0..=batch).map(|count| self.head(0, message.len() * count + 1).into_bytes()).collect();
        publisher.message = message.into_bytes();
        for _ in 0..PUBLISHERS {
            publisher.free.push(self.add_line()?);
        }
        self.publisher = publisher;
        Ok(())
    }

    /// Posts events; `due` says of each when it should have left.
    fn publish(&mut self, count: usize, due: impl Fn(u64) -> u64) {
        let Some(line) = self.publisher.free.pop() else {
            return;
        };
        let begun = instant();
        let source = line - self.sessions.len();
        let mut request = mem::take(&mut self.publisher.request);
        let publisher = &mut self.publisher;
        request.clear();
        request.extend_from_slice(&publisher.heads[count]);
        request.push(b'[');
        for nth in 0..count as u64 {
            let event = match self.pattern {
                Pattern::OneToOne => {
                    let number = publisher.turn;
                    let sequence = counted(&mut self.sessions[number].sent[source]);
                    publisher.turn = if number + 1 < self.sessions.len() { number + 1 } else { 1 };
                    let channel = publisher.channel.clone();
                    wire::digits(
                        &mut publisher.message[channel.end - 5..channel.end],
                        number as u64,
                    );
                    Event { session: number, source, sequence, at: due(nth) }
                }
                Pattern::OneToAll => Event {
                    session: EVERYBODY,
                    source,
                    sequence: counted(&mut publisher.sent[source]),
                    at: due(nth),
                },
            };
            event.patch(&mut publisher.message[publisher.data.clone()]);
            wire::digits(
                &mut publisher.message[publisher.id.clone()],
                counted(&mut publisher.published),
            );
            request.extend_from_slice(&publisher.message);
        }
        if let Some(comma) = request.last_mut() {
            *comma = b']';
        }
        self.send(line, &request);
        self.publisher.request = request;
        self.busy += begun.elapsed();
    }

    /// Publishes as fast as events arrive, for so long. How many have arrived.
    pub fn saturate(&mut self, time: Duration) -> Outcome<u64> {
        let window = match self.pattern {
            Pattern::OneToOne => WINDOW_ONE,
            Pattern::OneToAll => WINDOW_ALL,
        };
        let (before, batch) = (self.tally.delivered, self.publisher.batch);
        let end = instant() + time;
        while instant() < end {
            while !self.publisher.free.is_empty()
                && self.under_way() + batch as u64 * self.fan() <= window * self.fan()
            {
                let now = self.now();
                self.publish(batch, |_| now);
            }
            self.measured_turn(Duration::from_millis(10))?;
        }
        Ok(self.tally.delivered - before)
    }

    /// Publishes so many events a second, whether they arrive or not. How long each took from when
    /// it was due, in ns, sorted.
    pub fn pace(&mut self, per_second: u64, time: Duration) -> Outcome<Vec<u64>> {
        let period = 1_000_000_000 / per_second;
        let total = (time.as_nanos() as u64 / period).max(1);
        self.delays = Vec::with_capacity((total * self.fan()) as usize);
        self.measuring = true;
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        let begun = self.now();
        let every = TimeSpec::from_duration(Duration::from_nanos(period));
        timer.set(Expiration::Interval(every), TimerSetTimeFlags::empty())?;
        self.epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TICK))?;
        let mut sent = 0;
        while sent < total {
            let due = ((self.now() - begun) / period).min(total) - sent;
            if due == 0 || self.publisher.free.is_empty() {
                self.measured_turn(Duration::from_millis(100))?;
                if mem::take(&mut self.ticked) {
                    let _ = timer.wait();
                }
                continue;
            }
            let count = due.min(self.publisher.batch as u64);
            self.publish(count as usize, |nth| begun + (sent + nth + 1) * period);
            sent += count;
        }
        self.epoll.delete(&timer)?;
        self.settle()?;
        self.measuring = false;
        let mut delays = mem::take(&mut self.delays);
        delays.sort_unstable();
        Ok(delays)
    }

    /// Waits for what is under way.
    pub fn settle(&mut self) -> Outcome<()> {
        let mut last = (self.tally.delivered, instant());
        while self.under_way() > 0 && last.1.elapsed() < SILENCE {
            self.turn(Duration::from_millis(10))?;
            if self.tally.delivered != last.0 {
                last = (self.tally.delivered, instant());
            }
        }
        // A doubled event would come now.
        self.run(Duration::from_millis(100))
    }

    pub fn tally(&self) -> Tally {
        let mut tally = self.tally.clone();
        for session in &self.sessions[1..] {
            let sent = match self.pattern {
                Pattern::OneToOne => session.sent,
                Pattern::OneToAll => self.publisher.sent,
            };
            let total = |numbers: [u64; PUBLISHERS]| numbers.into_iter().sum::<u64>();
            tally.lost +=
                session.missing.len() as u64 + total(sent).saturating_sub(total(session.next));
        }
        tally
    }
}

/// The number before it is one more.
fn counted(number: &mut u64) -> u64 {
    *number += 1;
    *number - 1
}
