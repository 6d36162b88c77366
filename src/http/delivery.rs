//! Which answers have really left on a connection.
//!
//! An HTTP library takes the body of an answer and says no more of it. Here the connection itself
//! is watched: before an answer's first byte is written, whether the other end is still there, so
//! that nothing is handed to a socket that is known to be closed; and afterwards, whether the
//! kernel has taken all of it. An answer of which that cannot be said has not left.
//!
//! ```text
//! begin ─▶ under way ──taken──▶ with the connection ──all written──▶ left
//!              │ dropped              │ closed, failed, abandoned
//!              └──────────▶ cut ◀─────┘
//! ```
//!
//! A holder of an answer or a frame may write it here at once, without waking the connection's own
//! task, as long as nothing else is being written. What the kernel does not take is the task's to
//! write before all else.

mod wire;

use crate::tls::Handshake;
use axum::body::Bytes;
use http_body::{Body, Frame, SizeHint};
use nix::sys::socket::{MsgFlags, recv};
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use wire::{Sight, Wire};

/// Names an answer or a frame under way; no two of a connection at a time have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DeliveryId(pub(crate) u64);

/// What has become of an answer or a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeliveryOutcome {
    /// Our kernel has it.
    Left,
    /// It never will.
    Cut,
}

/// Is told what has become of answers and frames. It must not wait, nor call back.
pub(crate) trait DeliveryListener: Send + Sync {
    /// Called once for each delivery that has begun, unless its caller was told.
    fn handle_outcome(&self, id: DeliveryId, outcome: DeliveryOutcome);
}

/// One connection, as those see it that send on it. Cheap to clone.
#[derive(Clone)]
pub struct DeliveryTracker(Arc<Mutex<Tracked>>);

struct Tracked {
    deliveries: Vec<Delivery>,
    phase: Phase,
    /// The task that waits for the other end to make room, and is to hear when there is nothing to
    /// write any more.
    writer: Option<Waker>,
    /// The task that waits for a request to be answered.
    waiter: Option<Waker>,
    /// The connection, until it is closed. `None`: nobody watches it, and what the HTTP library has
    /// taken counts as gone.
    wire: Option<Wire>,
    frames: Frames,
    /// The last that the connection's task wrote went out in part.
    is_torn: bool,
}

/// How far a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There may be more answers.
    Open,
    /// The last answer has been given.
    LastAnswer,
    /// Nothing is written any more.
    Dead,
}

/// Whether whole frames of a websocket may be written by others than the connection's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frames {
    OnlyByTask,
    ByAnybody,
}

/// What became of something that was to be written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Our kernel has it; nobody is told again.
    Left,
    /// The connection's task has to flush it, or its rest.
    Waits,
    /// Nothing of it was taken: something else is being written.
    NotNow,
    /// It never leaves.
    Never,
}

/// An answer or a frame, from its beginning until it has left or is cut: then it is here no more.
struct Delivery {
    id: DeliveryId,
    state: DeliveryState,
    /// The connection's task waits for the answer to have left, with something else to do
    /// afterwards.
    wakes_waiter: bool,
    /// One of several on the connection: it cannot be stopped without the others.
    is_multiplexed: bool,
    listener: Arc<dyn DeliveryListener>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DeliveryState {
    /// Its bytes are not here yet.
    UnderWay,
    /// They never will be: a newer request has taken its place, and the connection's task answers
    /// with an error.
    Superseded,
    /// The connection has its bytes.
    WithConnection {
        /// It is handed over only to a connection that is known to be open.
        has_events: bool,
    },
}

impl DeliveryState {
    fn is_with_connection(self) -> bool {
        matches!(self, DeliveryState::WithConnection { .. })
    }
}

impl Delivery {
    fn new(id: DeliveryId, is_multiplexed: bool, listener: Arc<dyn DeliveryListener>) -> Self {
        Self { id, state: DeliveryState::UnderWay, wakes_waiter: false, is_multiplexed, listener }
    }

    /// It is with the connection, and is handed over only to one that is known to be open.
    fn must_arrive(&self) -> bool {
        self.state == DeliveryState::WithConnection { has_events: true }
    }

    fn tell(self, outcome: DeliveryOutcome) {
        self.listener.handle_outcome(self.id, outcome);
    }
}

impl DeliveryTracker {
    fn new(wire: Option<Wire>) -> Self {
        Self(Arc::new(Mutex::new(Tracked {
            deliveries: Vec::new(),
            phase: Phase::Open,
            writer: None,
            waiter: None,
            wire,
            frames: Frames::OnlyByTask,
            is_torn: false,
        })))
    }

    /// For a connection that is not a [`TrackedConnection`].
    pub(crate) fn blind() -> Self {
        Self::new(None)
    }

    /// A lock that another thread died with holds data that is still whole.
    fn state(&self) -> MutexGuard<'_, Tracked> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: the connection is dead, and nobody will be told anything of this.
    pub(crate) fn begin(
        &self,
        id: DeliveryId,
        is_multiplexed: bool,
        listener: Arc<dyn DeliveryListener>,
    ) -> bool {
        let mut state = self.state();
        if !state.is_dead() {
            state.deliveries.push(Delivery::new(id, is_multiplexed, listener));
        }
        !state.is_dead()
    }

    /// Writes the whole answer to a request that has begun, or leaves it to the task that waits in
    /// [`TrackedConnection::poll_delivery`]; with `at_once` unset always. `is_last`: nothing is
    /// asked on this connection afterwards.
    pub(crate) fn answer(
        &self,
        id: DeliveryId,
        (has_events, is_last): (bool, bool),
        bytes: Vec<u8>,
        at_once: bool,
    ) -> Written {
        let mut state = self.state();
        let Some(at) = state.position_without_bytes(id) else {
            return Written::Never;
        };
        if let Some(entry) = state.deliveries.get_mut(at) {
            entry.state = DeliveryState::WithConnection { has_events };
            entry.wakes_waiter |= is_last;
        }
        if is_last && state.phase == Phase::Open {
            state.phase = Phase::LastAnswer;
        }
        state.write_at_once(at, bytes, at_once)
    }

    /// The other end has closed it, as far as our kernel knows; or we have.
    pub(crate) fn has_gone(&self) -> bool {
        let mut state = self.state();
        state.is_dead() || state.has_gone()
    }

    /// Its last answer has been given, or nothing can be written on it.
    pub(crate) fn has_ended(&self) -> bool {
        self.state().phase != Phase::Open
    }

    /// Tells the task that waits in [`TrackedConnection::poll_delivery`] that a newer request has
    /// taken this one's place.
    pub(crate) fn supersede(&self, id: DeliveryId) {
        let mut state = self.state();
        if let Some(entry) = state.deliveries.iter_mut().find(|entry| entry.id == id) {
            entry.state = DeliveryState::Superseded;
            state.wake();
        }
    }

    /// Whether whole frames may come through [`Self::frame`]: not while the connection's task says
    /// good-bye.
    pub(crate) fn take_frames(&self, may: bool) {
        let mut state = self.state();
        state.frames = match may && state.wire.is_some() {
            true => Frames::ByAnybody,
            false => Frames::OnlyByTask,
        };
    }

    /// Writes a whole frame, if nothing else is being written. Nobody else is told when it never
    /// leaves.
    pub(crate) fn frame(
        &self,
        id: DeliveryId,
        bytes: Vec<u8>,
        listener: &Weak<dyn DeliveryListener>,
    ) -> Written {
        let mut state = self.state();
        if state.is_dead()
            || state.frames == Frames::OnlyByTask
            || state.is_torn
            || !state.deliveries.is_empty()
            || state.wire.as_ref().is_some_and(|wire| !wire.is_free())
        {
            return Written::NotNow;
        }
        let sent = match &mut state.wire {
            Some(wire) => match wire.look() {
                Sight::Gone => None,
                Sight::Quiet | Sight::More => wire.send(bytes, true),
            },
            None => None,
        };
        match (sent, listener.upgrade()) {
            (Some(true), _) => Written::Left,
            (Some(false), Some(listener)) => {
                state.park(id, listener);
                Written::Waits
            }
            (Some(false), None) | (None, _) => {
                state.die();
                Written::Never
            }
        }
    }

    /// Its bytes are with the connection now. False: it is not wanted any more.
    pub(crate) fn taken(&self, id: DeliveryId, has_events: bool) -> bool {
        let mut state = self.state();
        let Some(at) = state.position(id) else {
            return false;
        };
        if state.wire.is_none() {
            state.deliveries.swap_remove(at).tell(DeliveryOutcome::Left);
        } else if let Some(entry) = state.deliveries.get_mut(at) {
            entry.state = DeliveryState::WithConnection { has_events };
        }
        true
    }

    /// Nobody will hand it over any more.
    fn dropped(&self, id: DeliveryId) {
        let mut state = self.state();
        if let Some(at) = state.position_without_bytes(id) {
            state.deliveries.swap_remove(at).tell(DeliveryOutcome::Cut);
        }
    }

    /// Sees to it that it never leaves, unless it has. `None`: that has been told already.
    pub(crate) fn abandon(&self, id: DeliveryId) -> Option<DeliveryOutcome> {
        let mut state = self.state();
        let at = state.position(id)?;
        let entry = state.deliveries.swap_remove(at);
        if entry.state.is_with_connection() && entry.is_multiplexed {
            return Some(DeliveryOutcome::Left);
        }
        if !entry.is_multiplexed {
            state.phase = Phase::Dead;
            state.wake();
            if let Some(writer) = state.writer.take() {
                writer.wake();
            }
        }
        Some(DeliveryOutcome::Cut)
    }
}

impl Tracked {
    fn is_dead(&self) -> bool {
        self.phase == Phase::Dead
    }

    fn position(&self, id: DeliveryId) -> Option<usize> {
        self.deliveries.iter().position(|entry| entry.id == id)
    }

    /// Position of a delivery without bytes at the connection.
    fn position_without_bytes(&self, id: DeliveryId) -> Option<usize> {
        let at = self.position(id)?;
        self.deliveries.get(at).is_some_and(|entry| !entry.state.is_with_connection()).then_some(at)
    }

    /// Bytes that wait for the kernel.
    fn waiting(&mut self) -> usize {
        self.wire.as_mut().map_or(0, |wire| wire.rest().len())
    }

    fn wake(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    /// The rest of a frame is the connection's task's.
    fn park(&mut self, id: DeliveryId, listener: Arc<dyn DeliveryListener>) {
        self.deliveries.push(Delivery {
            state: DeliveryState::WithConnection { has_events: true },
            ..Delivery::new(id, false, listener)
        });
    }

    /// The other end has closed the connection, as far as our kernel knows.
    fn has_gone(&mut self) -> bool {
        self.wire.as_mut().is_some_and(|wire| wire.look() == Sight::Gone)
    }

    /// Writes the delivery at this place. There is no other on the way.
    fn write_at_once(&mut self, at: usize, bytes: Vec<u8>, may_now: bool) -> Written {
        let must_arrive = self.deliveries.get(at).is_some_and(Delivery::must_arrive);
        let sent = match &mut self.wire {
            Some(wire) if self.phase != Phase::Dead => {
                match must_arrive && wire.look() == Sight::Gone {
                    true => None,
                    false => wire.send(bytes, may_now),
                }
            }
            Some(_) | None => None,
        };
        match sent {
            Some(true) => {
                let entry = self.deliveries.swap_remove(at);
                if entry.wakes_waiter {
                    self.wake();
                }
                Written::Left
            }
            Some(false) => {
                self.wake();
                Written::Waits
            }
            None => {
                self.die();
                Written::Never
            }
        }
    }

    /// What others have left.
    fn poll_rest(
        &mut self,
        stream: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(wire) = &mut self.wire else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        let rest = wire.rest();
        while !rest.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(context, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            rest.drain(..written);
        }
        *rest = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// Bytes of the connection's task, behind what others have left. How many were taken.
    fn poll_write(
        &mut self,
        stream: &mut TcpStream,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_rest(stream, context))?;
        let length = bytes.iter().map(|slice| slice.len()).sum();
        match &mut self.wire {
            _ if length == 0 => Poll::Ready(Ok(0)),
            Some(wire) if wire.is_sealed() => {
                wire.seal(bytes)?;
                match self.poll_rest(stream, context)? {
                    // What is sealed is taken, though the kernel may not have it yet.
                    Poll::Ready(()) | Poll::Pending => Poll::Ready(Ok(length)),
                }
            }
            Some(_) | None => Pin::new(stream).poll_write_vectored(context, bytes),
        }
    }

    fn all_written(&mut self) {
        while let Some(at) =
            self.deliveries.iter().position(|entry| entry.state.is_with_connection())
        {
            self.deliveries.swap_remove(at).tell(DeliveryOutcome::Left);
        }
    }

    fn die(&mut self) {
        self.phase = Phase::Dead;
        self.deliveries.drain(..).for_each(|entry| entry.tell(DeliveryOutcome::Cut));
        self.wake();
    }
}

/// A TCP connection that knows what has left on it.
pub struct TrackedConnection {
    stream: TcpStream,
    tracker: DeliveryTracker,
    /// When a client that does not read is given up; there while one is waited for.
    patience: Option<Pin<Box<Sleep>>>,
}

/// What a connection's task has to do about a request that it waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answering {
    /// Its answer has left.
    Done,
    /// Its answer is here, to be flushed.
    ToFlush,
    /// A newer request has taken its place: it is to be answered so.
    Superseded,
    /// Its connection is gone, or its answer is not to leave any more.
    Lost,
}

/// Bytes that are taken from the kernel at once, to be opened.
const ROOM: usize = 16 * 1024;
/// A client that takes nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(30);

impl TrackedConnection {
    /// The connection, and the handle to put into its requests.
    pub fn new(stream: TcpStream) -> (Self, DeliveryTracker) {
        let wire = Wire::new(stream.as_raw_fd(), None);
        Self::of(stream, wire)
    }

    /// As [`Self::new`], of a client that has shaken hands.
    pub fn sealed(Handshake { stream, session }: Handshake) -> (Self, DeliveryTracker) {
        let wire = Wire::new(stream.as_raw_fd(), Some(session));
        Self::of(stream, wire)
    }

    fn of(stream: TcpStream, wire: Wire) -> (Self, DeliveryTracker) {
        let tracker = DeliveryTracker::new(Some(wire));
        let connection = Self { stream, tracker: tracker.clone(), patience: None };
        (connection, tracker)
    }

    /// Something has come, or nothing ever will.
    ///
    /// # Errors
    /// The runtime is ending.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let has_opened = match &mut self.tracker.state().wire {
            Some(wire) => wire.has_opened(context.waker()),
            None => false,
        };
        match has_opened {
            true => Poll::Ready(Ok(())),
            false => self.stream.poll_read_ready(context),
        }
    }

    /// Appends what has come, as far as there is room for it. 0: the other end has closed;
    /// `WouldBlock`: wait and come again.
    ///
    /// # Errors
    /// As of `recv(2)`.
    pub(crate) fn read(&self, bytes: &mut Vec<u8>, room: &mut [u8]) -> io::Result<usize> {
        let is_sealed = self.tracker.state().wire.as_ref().is_some_and(Wire::is_sealed);
        if !is_sealed {
            let count = self.receive(room)?;
            bytes.extend_from_slice(room.get(..count).unwrap_or_default());
            return Ok(count);
        }
        let opened = self.read_opened(room, usize::MAX)?;
        bytes.extend_from_slice(&opened);
        Ok(opened.len())
    }

    /// What has come and been opened, this many bytes at most; nothing: the other end has closed.
    fn read_opened(&self, room: &mut [u8], most: usize) -> io::Result<Vec<u8>> {
        let opened = || match &mut self.tracker.state().wire {
            Some(wire) => wire.take_opened(most),
            None => Some(Vec::new()),
        };
        loop {
            if let Some(opened) = opened() {
                return Ok(opened);
            }
            let count = self.receive(room)?;
            if let Some(wire) = &mut self.tracker.state().wire {
                wire.open(room.get(..count).unwrap_or_default());
            }
        }
    }

    fn receive(&self, room: &mut [u8]) -> io::Result<usize> {
        let mut came = None;
        let outcome = self.stream.try_io(Interest::READABLE, || {
            let count = recv(self.stream.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT)?;
            came = Some(count);
            // Less than there was room for is all there was: it has to be waited for more, without
            // trying first.
            match count > 0 && count < room.len() {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => Ok(()),
            }
        });
        match (came, outcome) {
            (Some(count), _) => Ok(count),
            (None, outcome) => outcome.map(|()| 0),
        }
    }

    /// What the other end does. What is not there yet is waited for in [`Self::poll_readable`].
    fn look(&self) -> Sight {
        let mut state = self.tracker.state();
        let Some(wire) = &mut state.wire else {
            return Sight::Gone;
        };
        if let Some(sight) = wire.seen() {
            return sight;
        }
        let looked = self.stream.try_io(Interest::READABLE, || match wire.look() {
            Sight::Quiet => Err(io::ErrorKind::WouldBlock.into()),
            sight @ (Sight::More | Sight::Gone) => Ok(sight),
        });
        looked.unwrap_or(Sight::Quiet)
    }

    /// What has become of a request that has begun here. Polled again when something comes, and
    /// when the tracker has news.
    pub(crate) fn poll_delivery(
        &self,
        answer: &PendingAnswer,
        sees_more: &mut bool,
        context: &mut Context<'_>,
    ) -> Poll<Answering> {
        loop {
            {
                let mut state = self.tracker.state();
                let is_dead = state.is_dead();
                let Some(entry) = state.deliveries.iter_mut().find(|entry| entry.id == answer.id)
                else {
                    return Poll::Ready(if is_dead { Answering::Lost } else { Answering::Done });
                };
                match entry.state {
                    DeliveryState::Superseded => return Poll::Ready(Answering::Superseded),
                    DeliveryState::WithConnection { .. } => return Poll::Ready(Answering::ToFlush),
                    DeliveryState::UnderWay => entry.wakes_waiter |= *sees_more,
                }
                if state.waiter.as_ref().is_none_or(|waiter| !waiter.will_wake(context.waker())) {
                    state.waiter = Some(context.waker().clone());
                }
            }
            if *sees_more {
                return Poll::Pending;
            }
            if ready!(self.poll_readable(context)).is_err() {
                return Poll::Ready(Answering::Lost);
            }
            match self.look() {
                Sight::Gone => return Poll::Ready(Answering::Lost),
                // The next request is there already, or this one was answered meanwhile.
                Sight::More => *sees_more = true,
                Sight::Quiet => {}
            }
        }
    }

    /// Under the lock, so that nobody can abandon what is being written.
    fn write(
        &mut self,
        bytes: &[io::IoSlice<'_>],
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let length: usize = bytes.iter().map(|slice| slice.len()).sum();
        let mut state = self.tracker.state();
        let must_arrive = state.deliveries.iter().any(Delivery::must_arrive);
        if state.is_dead() || (must_arrive && state.has_gone()) {
            state.die();
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let waiting = state.waiting();
        let written = state.poll_write(&mut self.stream, context, bytes);
        let written = match written {
            Poll::Ready(written) => written,
            Poll::Pending => {
                if state.waiting() < waiting {
                    self.patience = None;
                }
                let patience = self.patience.get_or_insert_with(|| Box::pin(sleep(PATIENCE)));
                if patience.as_mut().poll(context).is_pending() {
                    state.writer = Some(context.waker().clone());
                    return Poll::Pending;
                }
                state.die();
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
        };
        self.patience = None;
        match &written {
            // The library writes all it has; what is less is a full socket.
            Ok(written) if *written == length => {
                state.is_torn = false;
                if state.waiting() == 0 {
                    state.all_written();
                }
            }
            Ok(_) => state.is_torn = true,
            Err(_) => state.die(),
        }
        Poll::Ready(written)
    }
}

impl Drop for TrackedConnection {
    fn drop(&mut self) {
        let mut state = self.tracker.state();
        state.die();
        // Its number is somebody else's soon.
        state.wire = None;
    }
}

impl AsyncRead for TrackedConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let is_sealed = self.tracker.state().wire.as_ref().is_some_and(Wire::is_sealed);
        if !is_sealed {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let mut room = [0; ROOM];
        loop {
            ready!(self.poll_readable(context))?;
            match self.read_opened(&mut room, buffer.remaining()) {
                Ok(opened) => {
                    buffer.put_slice(&opened);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for TrackedConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.write(&[io::IoSlice::new(bytes)], context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(bytes, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Asked only when the library has nothing left to write. TCP itself has nothing to flush.
        self.write(&[], context).map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut state = this.tracker.state();
        if let Some(wire) = &mut state.wire {
            wire.say_goodbye();
            // A client that does not read does not hear it.
            let _ = state.poll_rest(&mut this.stream, context)?;
        }
        drop(state);
        Pin::new(&mut this.stream).poll_shutdown(context)
    }
}

/// A request that has begun. Dropped before its answer has bytes, it is cut; what the connection
/// has taken is the connection's to tell.
pub struct PendingAnswer {
    id: DeliveryId,
    tracker: DeliveryTracker,
}

impl PendingAnswer {
    /// Begins a request. `None`: the connection is dead, and nobody will be told anything of this.
    pub(crate) fn begin(
        id: DeliveryId,
        tracker: DeliveryTracker,
        is_multiplexed: bool,
        listener: Arc<dyn DeliveryListener>,
    ) -> Option<Self> {
        tracker.begin(id, is_multiplexed, listener).then(|| Self { id, tracker })
    }

    /// The body of its answer, which says when the connection has taken it.
    pub(crate) fn into_body(self, data: Bytes, has_events: bool) -> axum::body::Body {
        axum::body::Body::new(TrackedBody { data: Some(data), has_events, answer: self })
    }
}

impl Drop for PendingAnswer {
    fn drop(&mut self) {
        self.tracker.dropped(self.id);
    }
}

struct TrackedBody {
    data: Option<Bytes>,
    has_events: bool,
    answer: PendingAnswer,
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(data) = self.data.take() else {
            return Poll::Ready(None);
        };
        // Else a newer request was told that it never leaves.
        match self.answer.tracker.taken(self.answer.id, self.has_events) {
            true => Poll::Ready(Some(Ok(Frame::data(data)))),
            false => Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.as_ref().map_or(0, |data| data.len() as u64))
    }
}
