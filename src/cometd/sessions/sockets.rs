//! Websockets: which session is on which, and the one frame that is under way on each.

use super::{Output, SessionId, SessionTimer, Sessions, SocketId};
use crate::cometd::message::{BayeuxReply, Body, Event};
use crate::cometd::session::{InFlight, ReplyPath, SessionState};
use crate::model::Now;
use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub(super) struct Socket {
    pub(super) session: Option<SessionId>,
    address: Option<IpAddr>,
    /// A frame is under way,
    busy: bool,
    /// and has been handed over.
    is_out: bool,
    /// A frame has come whose successor may not be read yet.
    owes_next: bool,
    outbox: Vec<Outgoing>,
    /// It has no session and is closed then.
    deadline: Option<Instant>,
    closing: Option<(u16, &'static str)>,
}

#[derive(Debug)]
enum Outgoing {
    Event(Arc<Event>),
    Reply(Box<BayeuxReply>),
}

impl Socket {
    /// Its frame has not been handed over yet.
    pub(super) fn is_waiting_to_go(&self) -> bool {
        self.busy && !self.is_out
    }
}

/// A socket without a session is closed after this long.
const WITHOUT_SESSION: Duration = Duration::from_secs(30);
/// Events in one frame, in bytes: several clients refuse frames of more than 64 KiB.
const FRAME: usize = 32 * 1024;

impl Sessions {
    /// A websocket has been opened.
    pub fn handle_open(&mut self, socket: SocketId, address: IpAddr, now: Now) {
        let state = Socket {
            address: Some(address),
            ..Socket::default()
        };
        self.sockets.insert(socket, state);
        let from_there = self.sockets_from.entry(address).or_default();
        *from_there += 1;
        let too_many = *from_there > self.config.max_sessions_per_address;
        self.unbind(socket, now);
        if self.draining {
            self.close(socket, 1001, GOING_DOWN);
        } else if too_many {
            self.close(socket, 1013, "Too many websockets from this address.");
        }
    }

    /// The frame under way on this socket has left: its events are delivered.
    pub fn handle_sent(&mut self, socket: SocketId, now: Now) {
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        state.busy = false;
        let here = state.session;
        self.arrive_all(socket, here, false, now);
        self.pump(socket);
    }

    /// The socket is closed or cut, and the frame under way has not left. Its session waits for its client to come back.
    pub fn handle_gone(&mut self, socket: SocketId, now: Now) {
        let Some(state) = self.sockets.remove(&socket) else { return };
        if let Some(address) = state.address
            && let Some(from_there) = self.sockets_from.get_mut(&address)
        {
            *from_there -= 1;
            if *from_there == 0 {
                self.sockets_from.remove(&address);
            }
        }
        if let Some(deadline) = state.deadline {
            self.deadlines.remove(&(deadline, SessionTimer::Socket(socket)));
        }
        if let Some(no) = state.session {
            self.change(no, |session| session.socket = None);
        }
        self.arrive_all(socket, state.session, true, now);
    }

    /// The session that is on the socket, and one that has moved on while a frame of its was under way here.
    fn arrive_all(&mut self, socket: SocketId, here: Option<SessionId>, cut: bool, now: Now) {
        let by = ReplyPath::Socket(socket);
        let waiting = self.in_flight.remove(&socket);
        let sessions: BTreeSet<SessionId> = here.into_iter().chain(waiting).collect();
        for no in sessions {
            self.arrive(no, by, cut, now);
        }
    }

    pub(super) fn frame_came(&mut self, socket: SocketId) {
        if let Some(state) = self.sockets.get_mut(&socket) {
            state.owes_next = true;
        }
    }

    pub(super) fn socket_timeout(&mut self, socket: SocketId) {
        self.close(socket, 1000, "No session has come.");
    }

    /// The session is reached this way from now on.
    pub(super) fn attach(&mut self, no: SessionId, reach: ReplyPath) {
        let Some(session) = self.sessions.get_mut(&no) else { return };
        let wanted = match reach {
            ReplyPath::Post(_) => None,
            ReplyPath::Socket(socket) => Some(socket),
        };
        if session.socket == wanted {
            return;
        }
        let older = std::mem::replace(&mut session.socket, wanted);
        if let Some(older) = older {
            // Its client, if it is still there, is not to wait for an answer that goes elsewhere.
            self.close(older, 1000, "The session is on another connection now.");
        }
        if let Some(socket) = wanted
            && let Some(state) = self.sockets.get_mut(&socket)
        {
            state.session = Some(no);
            if let Some(deadline) = state.deadline.take() {
                self.deadlines.remove(&(deadline, SessionTimer::Socket(socket)));
            }
        }
    }

    /// The session that was on the socket is not any more.
    pub(super) fn leave_socket(&mut self, socket: SocketId, now: Now) {
        let Some(no) = self.sockets.get(&socket).and_then(|socket| socket.session) else {
            return;
        };
        let is_held_here =
            |place: &SessionState| matches!(place, SessionState::Held { connect, .. } if connect.reach == ReplyPath::Socket(socket));
        let held = self.sessions.get(&no).is_some_and(|session| is_held_here(&session.place));
        self.change(no, |session| session.socket = None);
        if held {
            let expires = now.mono + self.config.max_interval;
            self.put(no, SessionState::Away { expires });
        }
        self.unbind(socket, now);
    }

    pub(super) fn unbind(&mut self, socket: SocketId, now: Now) {
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        state.session = None;
        if state.deadline.is_none() && state.closing.is_none() {
            let deadline = now.mono + WITHOUT_SESSION;
            state.deadline = Some(deadline);
            self.deadlines.insert((deadline, SessionTimer::Socket(socket)));
        }
    }

    /// Closes once what waits has been sent.
    pub(super) fn close(&mut self, socket: SocketId, code: u16, reason: &'static str) {
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        state.session = None;
        state.closing = Some((code, reason));
        if let Some(deadline) = state.deadline.take() {
            self.deadlines.remove(&(deadline, SessionTimer::Socket(socket)));
        }
        self.pump(socket);
    }

    #[expect(clippy::disallowed_methods, reason = "what comes out is sorted")]
    pub(super) fn close_all_sockets(&mut self) {
        let mut sockets: Vec<SocketId> = self.sockets.keys().copied().collect();
        sockets.sort_unstable();
        for socket in sockets {
            let session = self.sockets.get(&socket).and_then(|socket| socket.session);
            if let Some(no) = session {
                self.pump(socket);
                self.change(no, |session| session.socket = None);
                self.in_flight.insert(socket, no);
            }
            self.close(socket, 1001, GOING_DOWN);
        }
    }

    pub(super) fn reply_on(&mut self, socket: SocketId, events: Vec<Arc<Event>>, replies: Vec<BayeuxReply>) {
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        let replies = replies.into_iter().map(|reply| Outgoing::Reply(Box::new(reply)));
        state.outbox.extend(events.into_iter().map(Outgoing::Event).chain(replies));
        self.pump(socket);
    }

    pub(super) fn frame_goes(&mut self, socket: SocketId) {
        if let Some(state) = self.sockets.get_mut(&socket) {
            state.is_out = true;
        }
    }

    /// Sends what there is, one frame at a time.
    pub(super) fn pump(&mut self, socket: SocketId) {
        let Some(state) = self.sockets.get(&socket) else { return };
        if !state.busy {
            let pushed = state.session.map_or_else(Vec::new, |no| self.push(no, socket));
            let Some(state) = self.sockets.get_mut(&socket) else { return };
            let outbox = std::mem::take(&mut state.outbox);
            if !outbox.is_empty() || !pushed.is_empty() {
                (state.busy, state.is_out) = (true, false);
                let mut body = Body::with_capacity(pushed.iter().map(|event| event.text.len() + 1).sum::<usize>() + 160 * outbox.len());
                for outgoing in &outbox {
                    match outgoing {
                        Outgoing::Event(event) => body.event(event),
                        Outgoing::Reply(reply) => body.reply(reply),
                    }
                }
                pushed.iter().for_each(|event| body.event(event));
                self.outputs.push_back(Output::Send { socket, body: body.end() });
            }
        }
        let Some(state) = self.sockets.get_mut(&socket) else { return };
        if !state.outbox.is_empty() {
            return;
        }
        if let Some((code, reason)) = state.closing {
            if !state.busy {
                self.outputs.push_back(Output::Close { socket, code, reason });
            }
        } else if std::mem::take(&mut state.owes_next) {
            self.outputs.push_back(Output::Next { socket });
        }
    }

    /// The events of a session that go as they come.
    fn push(&mut self, no: SessionId, socket: SocketId) -> Vec<Arc<Event>> {
        let Some(session) = self.sessions.get_mut(&no) else {
            return Vec::new();
        };
        if !(session.is_pushed() && session.connected && session.may_deliver()) || session.queue.is_empty() {
            return Vec::new();
        }
        let before = (session.queue.len(), session.queue.bytes());
        let events = session.queue.take_some(FRAME);
        session.flight = Some(InFlight {
            by: ReplyPath::Socket(socket),
            oldest: events.first().map(|event| event.born),
            events: events.clone(),
            interval: self.config.interval,
        });
        self.in_flight.insert(socket, no);
        self.counts.handed_out += events.len() as u64;
        self.recount(no, before);
        events
    }
}

const GOING_DOWN: &str = "The gateway is going down.";
