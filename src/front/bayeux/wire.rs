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

use super::hub::{PostNo, SocketNo};
use super::shell::{Happening, Inbox};
use crate::front::bayeux::shell::Outcome;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use std::io;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

/// What is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parcel {
    /// The answer to a request.
    Post(PostNo),
    /// A frame on a websocket.
    Socket(SocketNo),
}

/// One connection, as those who send on it see it. Cheap to clone.
#[derive(Clone)]
pub struct Wire(Arc<Mutex<State>>);

struct State {
    parcels: Vec<Entry>,
    /// Nothing is written any more.
    is_dead: bool,
    /// Who waits for the other end to make room, and is to hear when there is nothing to write any more.
    writer: Option<Waker>,
    /// Nobody watches this connection: what the HTTP library has taken counts as gone.
    is_blind: bool,
}

struct Entry {
    parcel: Parcel,
    is_taken: bool,
    /// It is handed over only to a connection that is known to be open.
    is_precious: bool,
    /// One of several on the connection: it cannot be stopped without the others.
    is_multiplexed: bool,
    inbox: Inbox,
}

impl Entry {
    fn tell(self, outcome: Outcome) {
        // The loop has ended: nobody asks any more.
        let _ = self.inbox.send(Happening::Outcome(self.parcel, outcome));
    }
}

impl Wire {
    fn new(is_blind: bool) -> Self {
        Self(Arc::new(Mutex::new(State {
            parcels: Vec::new(),
            is_dead: false,
            writer: None,
            is_blind,
        })))
    }

    /// For a connection that is not [`Watched`].
    pub(super) fn blind() -> Self {
        Self::new(true)
    }

    /// A lock that another thread died with holds data that is still whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False: the connection is dead, and nobody will be told anything of this.
    pub(super) fn begin(&self, parcel: Parcel, is_multiplexed: bool, inbox: Inbox) -> bool {
        let entry = Entry {
            parcel,
            is_taken: false,
            is_precious: false,
            is_multiplexed,
            inbox,
        };
        let mut state = self.state();
        if !state.is_dead {
            state.parcels.push(entry);
        }
        !state.is_dead
    }

    /// Its bytes are with the connection now. False: it is not wanted any more.
    pub(super) fn taken(&self, parcel: Parcel, is_precious: bool) -> bool {
        let mut state = self.state();
        let Some(at) = state.parcels.iter().position(|entry| entry.parcel == parcel) else {
            return false;
        };
        if state.is_blind {
            state.parcels.swap_remove(at).tell(Outcome::Left);
        } else if let Some(entry) = state.parcels.get_mut(at) {
            entry.is_taken = true;
            entry.is_precious = is_precious;
        }
        true
    }

    /// Nobody will hand it over any more.
    pub(super) fn dropped(&self, parcel: Parcel) {
        let mut state = self.state();
        if let Some(at) = state.parcels.iter().position(|entry| entry.parcel == parcel && !entry.is_taken) {
            state.parcels.swap_remove(at).tell(Outcome::Cut);
        }
    }

    /// Sees to it that it never leaves, unless it has. `None`: that has been told already.
    pub(super) fn abandon(&self, parcel: Parcel) -> Option<Outcome> {
        let mut state = self.state();
        let at = state.parcels.iter().position(|entry| entry.parcel == parcel)?;
        let entry = state.parcels.swap_remove(at);
        if entry.is_taken && entry.is_multiplexed {
            return Some(Outcome::Left);
        }
        state.is_dead |= entry.is_taken;
        if let Some(writer) = state.writer.take().filter(|_| entry.is_taken) {
            writer.wake();
        }
        Some(Outcome::Cut)
    }
}

impl State {
    fn all_written(&mut self) {
        while let Some(at) = self.parcels.iter().position(|entry| entry.is_taken) {
            self.parcels.swap_remove(at).tell(Outcome::Left);
        }
    }

    fn die(&mut self) {
        self.is_dead = true;
        self.parcels.drain(..).for_each(|entry| entry.tell(Outcome::Cut));
    }
}

/// A TCP connection that knows what has left on it.
pub struct Watched {
    stream: TcpStream,
    wire: Wire,
    /// When a client that does not read is given up; there while one is waited for.
    patience: Option<Pin<Box<Sleep>>>,
}

/// A client that takes nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(30);

impl Watched {
    /// The connection, and the handle to put into its requests.
    pub fn new(stream: TcpStream) -> (Self, Wire) {
        let wire = Wire::new(false);
        let watched = Self {
            stream,
            wire: wire.clone(),
            patience: None,
        };
        (watched, wire)
    }

    /// The connection itself, for reading and waiting.
    pub(in crate::front) fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Looks at what has come without taking it; for [`TcpStream::try_io`].
    pub(in crate::front) fn peek(&self, byte: &mut [u8; 1]) -> io::Result<usize> {
        recv(self.stream.as_raw_fd(), byte, MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT).map_err(io::Error::from)
    }

    /// Under the lock, so that nobody can abandon what is being written.
    fn write(
        &mut self,
        length: usize,
        context: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let mut state = self.wire.state();
        if state.is_dead || (state.parcels.iter().any(|entry| entry.is_taken && entry.is_precious) && has_gone(&self.stream)) {
            state.die();
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = match write(Pin::new(&mut self.stream), context) {
            Poll::Ready(written) => written,
            Poll::Pending => {
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
            Ok(written) if *written == length => state.all_written(),
            Ok(_) => {}
            Err(_) => state.die(),
        }
        Poll::Ready(written)
    }
}

/// The other end has closed or reset the connection, as far as our kernel knows.
fn has_gone(stream: &TcpStream) -> bool {
    match recv(stream.as_raw_fd(), &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(bytes) => bytes == 0,
        Err(error) => error != Errno::EAGAIN && error != Errno::EINTR,
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.wire.state().die();
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Watched {
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
        // Asked only when the library has nothing left to write.
        let flushed = ready!(Pin::new(&mut self.stream).poll_flush(context));
        if flushed.is_ok() {
            self.wire.state().all_written();
        }
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
