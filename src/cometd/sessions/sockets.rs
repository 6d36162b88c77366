//! Websockets: which session is on which, and the one frame that is under way on each.

use super::{Output, SessionId, SocketId};
use crate::cometd::message::{BayeuxReply, Body, Event};
use crate::cometd::session::{Ctx, DeadlineOwner, ReplyPath, Session};
use crate::model::Now;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// One websocket. Like a session, it has `handle_*` for what happens on it, and puts what is to be
/// done into `Ctx::out`.
#[derive(Debug)]
pub(super) struct Socket {
    id: SocketId,
    session: Option<SessionId>,
    /// The session with events in the frame under way, or in the last one.
    pushing: Option<SessionId>,
    address: IpAddr,
    frame: OutgoingFrame,
    /// A frame has come, and the next one may not be read yet.
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

/// The one frame under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OutgoingFrame {
    None,
    /// It stands among the outputs.
    Waiting,
    /// It has been handed over.
    HandedOver,
}

/// A socket without a session is closed after this long.
const WITHOUT_SESSION: Duration = Duration::from_secs(30);
/// Events in one frame, in bytes: several clients refuse frames of more than 64 KiB.
const FRAME: usize = 32 * 1024;
const GOING_DOWN: &str = "The gateway is going down.";

/// What happens to a websocket.
#[derive(Debug)]
pub(super) enum SocketInput {
    /// A frame has come.
    Frame,
    /// The frame under way has been handed over.
    HandedOver,
    /// The frame under way has left.
    Sent,
    /// Replies leave, and events before them; with them those of the session.
    Reply(Vec<Arc<Event>>, Vec<BayeuxReply>),
    /// Events may wait for the session.
    Push,
    /// This session is on it from now on.
    Bind(SessionId),
    /// No session is on it any more.
    Unbind(Now),
    /// It is closed once what waits has been sent.
    Close(u16, &'static str),
    /// It had no session for too long.
    Timeout,
}

/// What has come of it.
#[derive(Debug, Default)]
pub(super) struct SocketStep {
    /// The sessions with events in the frame that has left.
    pub(super) arrived: BTreeSet<SessionId>,
    /// A frame waits to be handed over.
    pub(super) is_waiting: bool,
}

impl Socket {
    /// Something has happened to it. Events of `session`, if it is on this websocket, leave with
    /// what leaves.
    fn handle(
        &mut self,
        input: SocketInput,
        session: Option<&mut Session>,
        ctx: &mut Ctx,
    ) -> SocketStep {
        let mut arrived = BTreeSet::new();
        match input {
            SocketInput::Frame => self.owes_next = true,
            SocketInput::HandedOver => self.frame = OutgoingFrame::HandedOver,
            SocketInput::Sent => {
                self.frame = OutgoingFrame::None;
                arrived.extend(self.session.into_iter().chain(self.pushing.take()));
            }
            SocketInput::Reply(events, replies) => self.reply(events, replies, session, ctx),
            SocketInput::Push => self.pump(session, ctx),
            SocketInput::Bind(session) => self.bind(session, ctx),
            SocketInput::Unbind(now) => self.unbind(ctx, now),
            SocketInput::Close(code, reason) => self.close(code, reason, ctx),
            SocketInput::Timeout => self.close(1000, "No session has come.", ctx),
        }
        SocketStep { arrived, is_waiting: self.frame == OutgoingFrame::Waiting }
    }

    /// It is gone. The sessions that were on it, or that have moved on with a frame under way here.
    pub(super) fn handle_gone(self, ctx: &mut Ctx) -> BTreeSet<SessionId> {
        if let Some(deadline) = self.deadline {
            ctx.timers.disarm(deadline, self.timer());
        }
        self.session.into_iter().chain(self.pushing).collect()
    }

    /// This session is on it from now on.
    fn bind(&mut self, session: SessionId, ctx: &mut Ctx) {
        self.session = Some(session);
        self.disarm(ctx);
    }

    /// No session is on it any more.
    fn unbind(&mut self, ctx: &mut Ctx, now: Now) {
        self.session = None;
        if self.deadline.is_none() && self.closing.is_none() {
            let deadline = now.mono + WITHOUT_SESSION;
            self.deadline = Some(deadline);
            ctx.timers.arm(deadline, self.timer());
        }
    }

    /// Closes once what waits has been sent.
    fn close(&mut self, code: u16, reason: &'static str, ctx: &mut Ctx) {
        self.session = None;
        self.closing = Some((code, reason));
        self.disarm(ctx);
        self.pump(None, ctx);
    }

    /// The process ends: what the session has is sent, and the socket closed behind it.
    fn handle_drain(&mut self, session: Option<&mut Session>, ctx: &mut Ctx) {
        if let Some(session) = session {
            self.pump(Some(session), ctx);
            session.move_to(None);
            self.pushing = Some(session.no());
        }
        self.close(1001, GOING_DOWN, ctx);
    }

    /// Replies, and the events before them.
    fn reply(
        &mut self,
        events: Vec<Arc<Event>>,
        replies: Vec<BayeuxReply>,
        session: Option<&mut Session>,
        ctx: &mut Ctx,
    ) {
        let replies = replies.into_iter().map(|reply| Outgoing::Reply(Box::new(reply)));
        self.outbox.extend(events.into_iter().map(Outgoing::Event).chain(replies));
        self.pump(session, ctx);
    }

    /// Sends what there is, one frame at a time; with it the events of the session, if it is on
    /// this socket.
    fn pump(&mut self, session: Option<&mut Session>, ctx: &mut Ctx) {
        if self.frame == OutgoingFrame::None {
            self.send(session, ctx);
        }
        if !self.outbox.is_empty() {
            return;
        }
        let socket = self.id;
        if let Some((code, reason)) = self.closing {
            if self.frame == OutgoingFrame::None {
                ctx.out.push_back(Output::Close { socket, code, reason });
            }
        } else if std::mem::take(&mut self.owes_next) {
            ctx.out.push_back(Output::Next { socket });
        }
    }

    fn send(&mut self, session: Option<&mut Session>, ctx: &mut Ctx) {
        let session = session.filter(|session| self.session == Some(session.no()));
        let pushed = session.map_or_else(Vec::new, |session| {
            let pushed = session.push(self.id, FRAME, ctx);
            if !pushed.is_empty() {
                self.pushing = Some(session.no());
            }
            pushed
        });
        let outbox = std::mem::take(&mut self.outbox);
        if outbox.is_empty() && pushed.is_empty() {
            return;
        }
        self.frame = OutgoingFrame::Waiting;
        let mut body = Body::with_capacity(
            pushed.iter().map(|event| event.text.len() + 1).sum::<usize>() + 160 * outbox.len(),
        );
        for outgoing in &outbox {
            match outgoing {
                Outgoing::Event(event) => body.event(event),
                Outgoing::Reply(reply) => body.reply(reply),
            }
        }
        pushed.iter().for_each(|event| body.event(event));
        ctx.out.push_back(Output::Send { socket: self.id, body: body.end() });
    }

    fn disarm(&mut self, ctx: &mut Ctx) {
        if let Some(deadline) = self.deadline.take() {
            ctx.timers.disarm(deadline, self.timer());
        }
    }

    fn timer(&self) -> DeadlineOwner {
        DeadlineOwner::Socket(self.id)
    }
}

/// All websockets.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    by_id: super::Numbered<SocketId, Socket>,
    /// How many there are from each address.
    from: BTreeMap<IpAddr, usize>,
}

impl Sockets {
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Something has happened to a websocket. Events of `session`, if it is on this websocket,
    /// leave with what leaves. `None`: it is gone.
    pub(super) fn handle(
        &mut self,
        socket: SocketId,
        input: SocketInput,
        session: Option<&mut Session>,
        ctx: &mut Ctx,
    ) -> Option<SocketStep> {
        Some(self.by_id.get_mut(&socket)?.handle(input, session, ctx))
    }

    /// The session on the websocket that a message has come on.
    pub(super) fn session_on(&self, path: ReplyPath) -> Option<SessionId> {
        match path {
            ReplyPath::Socket(socket) => self.by_id.get(&socket)?.session,
            ReplyPath::Post(_) => None,
        }
    }

    /// A websocket has been opened.
    pub(super) fn open(&mut self, id: SocketId, address: IpAddr, ctx: &mut Ctx, now: Now) {
        let mut socket = Socket {
            id,
            session: None,
            pushing: None,
            address,
            frame: OutgoingFrame::None,
            owes_next: false,
            outbox: Vec::new(),
            deadline: None,
            closing: None,
        };
        let from_there = self.from.entry(address).or_default();
        *from_there += 1;
        socket.unbind(ctx, now);
        if ctx.is_draining {
            socket.close(1001, GOING_DOWN, ctx);
        } else if *from_there > ctx.config.max_sessions_per_address {
            socket.close(1013, "Too many websockets from this address.", ctx);
        }
        self.by_id.insert(id, socket);
    }

    /// A websocket is gone.
    pub(super) fn remove(&mut self, socket: SocketId) -> Option<Socket> {
        let socket = self.by_id.remove(&socket)?;
        if let Some(from_there) = self.from.get_mut(&socket.address) {
            *from_there -= 1;
            if *from_there == 0 {
                self.from.remove(&socket.address);
            }
        }
        Some(socket)
    }

    /// The session is reached this way from now on.
    pub(super) fn attach(&mut self, session: &mut Session, path: ReplyPath, ctx: &mut Ctx) {
        let wanted = match path {
            ReplyPath::Post(_) => None,
            ReplyPath::Socket(socket) => Some(socket),
        };
        if session.socket() == wanted {
            return;
        }
        // The client, if it is still there, is not to wait for an answer that goes elsewhere.
        if let Some(older) = session.move_to(wanted) {
            let reason = "The session is on another connection now.";
            self.handle(older, SocketInput::Close(1000, reason), None, ctx);
        }
        if let Some(socket) = wanted {
            self.handle(socket, SocketInput::Bind(session.no()), None, ctx);
        }
    }

    /// Answers a request or a frame. `session`: the one that is on the socket.
    pub(super) fn answer(
        &mut self,
        path: ReplyPath,
        (events, replies): (Vec<Arc<Event>>, Vec<BayeuxReply>),
        session: Option<&mut Session>,
        ctx: &mut Ctx,
    ) {
        match path {
            ReplyPath::Post(post) => ctx.out.push_back(Output::Answer {
                post,
                body: crate::cometd::message::body(&events, &replies),
                has_events: !events.is_empty(),
            }),
            ReplyPath::Socket(socket) => {
                self.handle(socket, SocketInput::Reply(events, replies), session, ctx);
            }
        }
    }

    /// Pushes what waits for a session that is on a websocket. True: a frame waits to be handed
    /// over there.
    pub(super) fn push(&mut self, session: &mut Session, ctx: &mut Ctx) -> bool {
        let Some(socket) = session.socket().filter(|_| session.is_pushed()) else {
            return false;
        };
        let step = self.handle(socket, SocketInput::Push, Some(session), ctx);
        step.is_some_and(|step| step.is_waiting)
    }

    /// The process ends: every websocket is closed behind what its session has.
    #[expect(clippy::disallowed_methods, reason = "they are brought into order")]
    pub(super) fn handle_drain(
        &mut self,
        mut sessions: BTreeMap<SocketId, &mut Session>,
        ctx: &mut Ctx,
    ) {
        let mut sockets: Vec<&mut Socket> = self.by_id.values_mut().collect();
        sockets.sort_unstable_by_key(|socket| socket.id);
        for socket in sockets {
            socket.handle_drain(sessions.remove(&socket.id), ctx);
        }
    }
}
