//! Which answers have really left on a connection.
//!
//! An HTTP library takes the body of an answer and says no more of it. Here the connection itself is watched: before an answer's
//! first byte is written, whether the other end is still there, so that nothing is handed to a socket that is known to be closed; and
//! afterwards, whether the kernel has taken all of it. An answer of which that cannot be said has not left.
//!
//! ```text
//! begin ─▶ under way ──taken──▶ with the connection ──all written──▶ left
//!              │ dropped              │ closed, failed, abandoned
//!              └──────────▶ cut ◀─────┘
//! ```
//!
//! Who has an answer or a frame may write it here at once, without waking the connection's own
//! task, as long as nothing else is being written. What the kernel does not take is the task's to write before all else.

use crate::cometd::sessions::{ClientRequestId, SocketId};
use crate::cometd::task::RequestOutcome;
use crate::cometd::task::{Inbox, Input, WeakInbox};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeliveryId {
    /// The answer to a request.
    Post(ClientRequestId),
    /// A frame on a websocket.
    Socket(SocketId),
}

/// One connection, as those who send on it see it. Cheap to clone.
#[derive(Clone)]
pub struct DeliveryTracker(Arc<Mutex<DeliveryState>>);

struct DeliveryState {
    parcels: Vec<PendingDelivery>,
    /// Nothing is written any more.
    is_dead: bool,
    /// Who waits for the other end to make room, and is to hear when there is nothing to write any more.
    writer: Option<Waker>,
    /// Who waits for a request to be answered.
    waiter: Option<Waker>,
    /// The connection, until it is closed. `None`: nobody watches it, and what the HTTP library has taken counts as gone.
    socket: Option<RawFd>,
    /// Is to be written before all else.
    rest: Vec<u8>,
    /// The last that the connection's task wrote went out in part.
    is_torn: bool,
    /// Whole frames may be written by others than the connection's task.
    takes_frames: bool,
    /// The last answer has been given.
    has_ended: bool,
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

struct PendingDelivery {
    parcel: DeliveryId,
    is_taken: bool,
    /// Its request is to be answered by the connection's task, with an error.
    is_overtaken: bool,
    /// The connection's task waits for the answer to have left, with something else to do afterwards.
    is_awaited: bool,
    /// It is handed over only to a connection that is known to be open.
    is_precious: bool,
    /// One of several on the connection: it cannot be stopped without the others.
    is_multiplexed: bool,
    inbox: Inbox,
}

impl PendingDelivery {
    fn new(parcel: DeliveryId, is_multiplexed: bool, inbox: Inbox) -> Self {
        Self {
            parcel,
            is_taken: false,
            is_overtaken: false,
            is_awaited: false,
            is_precious: false,
            is_multiplexed,
            inbox,
        }
    }

    fn tell(self, outcome: RequestOutcome) {
        // The loop has ended: nobody asks any more.
        let _ = self.inbox.send(Input::Outcome(self.parcel, outcome));
    }
}

impl DeliveryTracker {
    fn new(socket: Option<RawFd>) -> Self {
        Self(Arc::new(Mutex::new(DeliveryState {
            parcels: Vec::new(),
            is_dead: false,
            writer: None,
            waiter: None,
            socket,
            rest: Vec::new(),
            is_torn: false,
            takes_frames: false,
            has_ended: false,
        })))
    }

    /// For a connection that is not [`Watched`].
    pub(crate) fn blind() -> Self {
        Self::new(None)
    }

    /// A lock that another thread died with holds data that is still whole.
    fn state(&self) -> MutexGuard<'_, DeliveryState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: the connection is dead, and nobody will be told anything of this.
    pub(crate) fn begin(&self, parcel: DeliveryId, is_multiplexed: bool, inbox: Inbox) -> bool {
        let mut state = self.state();
        if !state.is_dead {
            state.parcels.push(PendingDelivery::new(parcel, is_multiplexed, inbox));
        }
        !state.is_dead
    }

    /// Writes the whole answer to a request that has begun, or leaves it to whoever waits in [`Watched::poll_fate`]; with `at_once` unset
    /// always.
    /// `is_last`: nothing is asked on this connection afterwards.
    pub(crate) fn answer(&self, parcel: DeliveryId, (is_precious, is_last): (bool, bool), bytes: Vec<u8>, at_once: bool) -> Written {
        let mut state = self.state();
        let Some(at) = state.parcels.iter().position(|entry| entry.parcel == parcel && !entry.is_taken) else {
            return Written::Never;
        };
        if let Some(entry) = state.parcels.get_mut(at) {
            entry.is_taken = true;
            entry.is_precious = is_precious;
            entry.is_awaited |= is_last;
        }
        state.has_ended |= is_last;
        state.write_at_once(at, bytes, at_once)
    }

    /// The other end has closed it, as far as our kernel knows; or we have.
    pub(crate) fn has_gone(&self) -> bool {
        let state = self.state();
        state.is_dead || state.socket.is_some_and(has_gone)
    }

    /// Its last answer has been given.
    pub(crate) fn has_ended(&self) -> bool {
        self.state().has_ended
    }

    /// Tells whoever waits in [`Watched::poll_fate`] that a newer request has taken this one's place.
    pub(crate) fn overtake(&self, parcel: DeliveryId) {
        let mut state = self.state();
        if let Some(entry) = state.parcels.iter_mut().find(|entry| entry.parcel == parcel) {
            entry.is_overtaken = true;
            state.wake();
        }
    }

    /// Whether whole frames may come through [`Self::frame`]: not while the connection's task says good-bye.
    pub(crate) fn take_frames(&self, may: bool) {
        let mut state = self.state();
        state.takes_frames = may && state.socket.is_some();
    }

    /// Writes a whole frame, if nothing else is being written. Nobody else is told when it never leaves.
    pub(crate) fn frame(&self, parcel: DeliveryId, mut bytes: Vec<u8>, inbox: &WeakInbox) -> Written {
        let mut state = self.state();
        if state.is_dead || !state.takes_frames || state.is_torn || !state.rest.is_empty() || !state.parcels.is_empty() {
            return Written::NotNow;
        }
        let sent = state
            .socket
            .filter(|socket| !has_gone(*socket))
            .and_then(|socket| send_now(socket, &bytes));
        match (sent, inbox.upgrade()) {
            (Some(sent), _) if sent == bytes.len() => Written::Left,
            (Some(sent), Some(inbox)) => {
                bytes.drain(..sent);
                state.park(parcel, bytes, inbox);
                Written::Waits
            }
            (Some(_), None) | (None, _) => {
                state.die();
                Written::Never
            }
        }
    }

    /// Its bytes are with the connection now. False: it is not wanted any more.
    pub(crate) fn taken(&self, parcel: DeliveryId, is_precious: bool) -> bool {
        let mut state = self.state();
        let Some(at) = state.parcels.iter().position(|entry| entry.parcel == parcel) else {
            return false;
        };
        if state.socket.is_none() {
            state.parcels.swap_remove(at).tell(RequestOutcome::Left);
        } else if let Some(entry) = state.parcels.get_mut(at) {
            entry.is_taken = true;
            entry.is_precious = is_precious;
        }
        true
    }

    /// Nobody will hand it over any more.
    pub(crate) fn dropped(&self, parcel: DeliveryId) {
        let mut state = self.state();
        if let Some(at) = state.parcels.iter().position(|entry| entry.parcel == parcel && !entry.is_taken) {
            state.parcels.swap_remove(at).tell(RequestOutcome::Cut);
        }
    }

    /// Sees to it that it never leaves, unless it has. `None`: that has been told already.
    pub(crate) fn abandon(&self, parcel: DeliveryId) -> Option<RequestOutcome> {
        let mut state = self.state();
        let at = state.parcels.iter().position(|entry| entry.parcel == parcel)?;
        let entry = state.parcels.swap_remove(at);
        if entry.is_taken && entry.is_multiplexed {
            return Some(RequestOutcome::Left);
        }
        if !entry.is_multiplexed {
            state.is_dead = true;
            state.wake();
            if let Some(writer) = state.writer.take() {
                writer.wake();
            }
        }
        Some(RequestOutcome::Cut)
    }
}

impl DeliveryState {
    fn wake(&mut self) {
        if let Some(waiter) = self.waiter.take() {
            waiter.wake();
        }
    }

    /// The rest of a frame is the connection's task's.
    fn park(&mut self, parcel: DeliveryId, rest: Vec<u8>, inbox: Inbox) {
        self.parcels.push(PendingDelivery {
            is_taken: true,
            is_precious: true,
            ..PendingDelivery::new(parcel, false, inbox)
        });
        self.rest = rest;
    }

    /// The parcel at this place, which is taken. There is no other on the way.
    fn write_at_once(&mut self, at: usize, mut bytes: Vec<u8>, may_now: bool) -> Written {
        let Some(socket) = self.socket.filter(|_| !self.is_dead) else {
            self.die();
            return Written::Never;
        };
        if self.parcels.get(at).is_some_and(|entry| entry.is_precious) && has_gone(socket) {
            self.die();
            return Written::Never;
        }
        let sent = match may_now && self.rest.is_empty() {
            true => send_now(socket, &bytes),
            false => Some(0),
        };
        let Some(sent) = sent else {
            self.die();
            return Written::Never;
        };
        if sent == bytes.len() {
            let entry = self.parcels.swap_remove(at);
            if entry.is_awaited {
                self.wake();
            }
            return Written::Left;
        }
        bytes.drain(..sent);
        self.rest.append(&mut bytes);
        self.wake();
        Written::Waits
    }

    /// What others have left.
    fn poll_rest(&mut self, stream: &mut TcpStream, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.rest.is_empty() {
            let written = ready!(Pin::new(&mut *stream).poll_write(context, &self.rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.rest.drain(..written);
        }
        self.rest = Vec::new();
        Poll::Ready(Ok(()))
    }

    fn all_written(&mut self) {
        while let Some(at) = self.parcels.iter().position(|entry| entry.is_taken) {
            self.parcels.swap_remove(at).tell(RequestOutcome::Left);
        }
    }

    fn die(&mut self) {
        self.is_dead = true;
        self.parcels.drain(..).for_each(|entry| entry.tell(RequestOutcome::Cut));
        self.wake();
    }
}

/// A TCP connection that knows what has left on it.
pub struct TrackedConnection {
    stream: TcpStream,
    wire: DeliveryTracker,
    /// When a client that does not read is given up; there while one is waited for.
    patience: Option<Pin<Box<Sleep>>>,
}

/// What has become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Its answer has left.
    Answered,
    /// Its answer is here, to be flushed.
    Written,
    /// A newer one has taken its place: it is to be answered so.
    Overtaken,
    /// Its connection is gone, or its answer is not to leave any more.
    Lost,
}

/// A client that takes nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(30);

impl TrackedConnection {
    /// The connection, and the handle to put into its requests.
    pub fn new(stream: TcpStream) -> (Self, DeliveryTracker) {
        let wire = DeliveryTracker::new(Some(stream.as_raw_fd()));
        let watched = Self {
            stream,
            wire: wire.clone(),
            patience: None,
        };
        (watched, wire)
    }

    /// Something has come, or nothing ever will.
    ///
    /// # Errors
    /// The runtime is ending.
    pub(crate) fn poll_readable(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.poll_read_ready(context)
    }

    /// Appends what has come, as far as there is room for it. 0: the other end has closed; `WouldBlock`: wait and come again.
    ///
    /// # Errors
    /// As of `recv(2)`.
    pub(crate) fn read(&self, bytes: &mut Vec<u8>, room: &mut [u8]) -> io::Result<usize> {
        let mut came = None;
        let outcome = self.stream.try_io(Interest::READABLE, || {
            let count = recv(self.stream.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT)?;
            came = Some(count);
            // Less than there was room for is all there was: it has to be waited for more, without trying first.
            match count > 0 && count < room.len() {
                true => Err(io::ErrorKind::WouldBlock.into()),
                false => Ok(()),
            }
        });
        match (came, outcome) {
            (Some(count), _) => {
                bytes.extend_from_slice(room.get(..count).unwrap_or_default());
                Ok(count)
            }
            (None, outcome) => outcome.map(|()| 0),
        }
    }

    /// What has become of a request that has begun here. Polled again when something comes, and when the wire has news.
    pub(crate) fn poll_delivery(&self, parcel: DeliveryId, sees_more: &mut bool, context: &mut Context<'_>) -> Poll<Delivery> {
        loop {
            {
                let mut state = self.wire.state();
                let is_dead = state.is_dead;
                match state.parcels.iter_mut().find(|entry| entry.parcel == parcel) {
                    None if is_dead => return Poll::Ready(Delivery::Lost),
                    None => return Poll::Ready(Delivery::Answered),
                    Some(entry) if entry.is_overtaken => return Poll::Ready(Delivery::Overtaken),
                    Some(entry) if entry.is_taken => return Poll::Ready(Delivery::Written),
                    Some(entry) => entry.is_awaited |= *sees_more,
                }
                if state.waiter.as_ref().is_none_or(|waiter| !waiter.will_wake(context.waker())) {
                    state.waiter = Some(context.waker().clone());
                }
            }
            if *sees_more {
                return Poll::Pending;
            }
            if ready!(self.poll_readable(context)).is_err() {
                return Poll::Ready(Delivery::Lost);
            }
            let peeked = self.stream.try_io(Interest::READABLE, || {
                let peek = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
                recv(self.stream.as_raw_fd(), &mut [0], peek).map_err(io::Error::from)
            });
            match peeked {
                Ok(0) => return Poll::Ready(Delivery::Lost),
                // The next request is there already, or this one was answered meanwhile.
                Ok(_) => *sees_more = true,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Poll::Ready(Delivery::Lost),
            }
        }
    }

    /// Under the lock, so that nobody can abandon what is being written.
    fn write(
        &mut self,
        length: usize,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut state = self.wire.state();
        let is_precious = || state.parcels.iter().any(|entry| entry.is_taken && entry.is_precious);
        if state.is_dead || (is_precious() && has_gone(self.stream.as_raw_fd())) {
            state.die();
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let waiting = state.rest.len();
        let written = match state.poll_rest(&mut self.stream, context) {
            Poll::Ready(Ok(())) => write(Pin::new(&mut self.stream), context),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        };
        let written = match written {
            Poll::Ready(written) => written,
            Poll::Pending => {
                if state.rest.len() < waiting {
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
                state.all_written();
            }
            Ok(_) => state.is_torn = true,
            Err(_) => state.die(),
        }
        Poll::Ready(written)
    }
}

/// How many bytes our kernel takes now. `None`: none ever again.
fn send_now(socket: RawFd, bytes: &[u8]) -> Option<usize> {
    match send(socket, bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
        Ok(sent) => Some(sent),
        Err(Errno::EAGAIN | Errno::EINTR) => Some(0),
        Err(_) => None,
    }
}

/// The other end has closed or reset the connection, as far as our kernel knows.
fn has_gone(socket: RawFd) -> bool {
    match recv(socket, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(bytes) => bytes == 0,
        Err(error) => error != Errno::EAGAIN && error != Errno::EINTR,
    }
}

impl Drop for TrackedConnection {
    fn drop(&mut self) {
        let mut state = self.wire.state();
        state.die();
        // Its number is somebody else's soon.
        state.socket = None;
        state.rest = Vec::new();
    }
}

impl AsyncRead for TrackedConnection {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for TrackedConnection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(bytes.len(), context, |stream, context| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let length = bytes.iter().map(|slice| slice.len()).sum();
        self.write(length, context, |stream, context| stream.poll_write_vectored(context, bytes))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Asked only when the library has nothing left to write. TCP itself has nothing to flush.
        self.write(0, context, |_, _| Poll::Ready(Ok(0))).map_ok(drop)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
