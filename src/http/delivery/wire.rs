//! The bytes of one connection, in clear or sealed by TLS, as all see them that send on it.

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};
use rustls::ServerConnection;
use std::io::{self, IoSlice, Read, Write};
use std::os::fd::RawFd;
use std::task::Waker;

/// Bytes that are taken from the kernel at once.
const CHUNK: usize = 4096;

/// An open connection.
pub(super) struct Wire {
    socket: RawFd,
    tls: Option<Box<Seal>>,
    /// For the kernel, before all else.
    rest: Vec<u8>,
}

/// TLS of a connection. Whoever looks whether the other end is still there reads on its behalf:
/// what comes can only be known by opening it.
struct Seal {
    session: Box<ServerConnection>,
    /// Opened, and not read yet.
    opened: Vec<u8>,
    /// The other end sends nothing any more.
    has_ended: bool,
    has_said_goodbye: bool,
    /// The task that reads, for when another one has opened something.
    reader: Option<Waker>,
}

/// What a look at the other end finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sight {
    /// Nothing has come.
    Quiet,
    /// Something can be read.
    More,
    /// It has closed or reset the connection.
    Gone,
}

impl Wire {
    pub(super) fn new(socket: RawFd, session: Option<Box<ServerConnection>>) -> Self {
        let tls = session.map(|mut session| {
            // What is taken is bounded where it is sent.
            session.set_buffer_limit(None);
            let mut seal = Box::new(Seal {
                session,
                opened: Vec::new(),
                has_ended: false,
                has_said_goodbye: false,
                reader: None,
            });
            // A request may have come with the end of the handshake.
            seal.take_processed();
            seal
        });
        Self { socket, tls, rest: Vec::new() }
    }

    pub(super) fn is_sealed(&self) -> bool {
        self.tls.is_some()
    }

    /// What waits for the kernel.
    pub(super) fn rest(&mut self) -> &mut Vec<u8> {
        &mut self.rest
    }

    pub(super) fn is_free(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes bytes to be sent, and gives the kernel what it takes now, if that `may` be. `true`: the
    /// kernel has all of them. `None`: it never will.
    pub(super) fn send(&mut self, bytes: Vec<u8>, may: bool) -> Option<bool> {
        let mut bytes = match &mut self.tls {
            Some(tls) => tls.seal(&[IoSlice::new(&bytes)])?,
            None => bytes,
        };
        let sent = match may && self.rest.is_empty() {
            true => send_now(self.socket, &bytes)?,
            false => 0,
        };
        if sent == bytes.len() {
            return Some(true);
        }
        bytes.drain(..sent);
        self.rest.append(&mut bytes);
        Some(false)
    }

    /// Seals bytes behind the rest. Only of a connection that is sealed.
    ///
    /// # Errors
    /// The connection is at its end.
    pub(super) fn seal(&mut self, bytes: &[IoSlice<'_>]) -> io::Result<()> {
        let sealed = self.tls.as_mut().and_then(|tls| tls.seal(bytes));
        let mut sealed = sealed.ok_or(io::ErrorKind::BrokenPipe)?;
        self.rest.append(&mut sealed);
        Ok(())
    }

    /// Says that nothing more is sent (RFC 8446 6.1).
    pub(super) fn say_goodbye(&mut self) {
        if let Some(tls) = self.tls.as_mut().filter(|tls| !tls.has_said_goodbye) {
            tls.has_said_goodbye = true;
            tls.session.send_close_notify();
            let mut sealed = tls.take_sealed();
            self.rest.append(&mut sealed);
        }
    }

    /// What is known of the other end without looking.
    pub(super) fn seen(&self) -> Option<Sight> {
        let tls = self.tls.as_ref()?;
        match (tls.opened.is_empty(), tls.has_ended) {
            (false, _) => Some(Sight::More),
            (true, true) => Some(Sight::Gone),
            (true, false) => None,
        }
    }

    /// Looks at the other end, as far as our kernel knows it.
    pub(super) fn look(&mut self) -> Sight {
        if let Some(sight) = self.seen() {
            return sight;
        }
        let Some(tls) = &mut self.tls else {
            return match recv(self.socket, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
                Ok(0) => Sight::Gone,
                Ok(_) => Sight::More,
                Err(Errno::EAGAIN | Errno::EINTR) => Sight::Quiet,
                Err(_) => Sight::Gone,
            };
        };
        let mut room = [0; CHUNK];
        let sight = loop {
            if !tls.opened.is_empty() {
                break Sight::More;
            }
            if tls.has_ended {
                break Sight::Gone;
            }
            match recv(self.socket, &mut room, MsgFlags::MSG_DONTWAIT) {
                Ok(count) => tls.open(room.get(..count).unwrap_or_default()),
                Err(Errno::EAGAIN | Errno::EINTR) => break Sight::Quiet,
                Err(_) => tls.has_ended = true,
            }
        };
        if sight != Sight::Quiet
            && let Some(reader) = tls.reader.take()
        {
            reader.wake();
        }
        self.flush_replies();
        sight
    }

    /// Something can be read without looking; else the reader is woken when another has looked.
    pub(super) fn has_opened(&mut self, reader: &Waker) -> bool {
        let Some(tls) = &mut self.tls else {
            return false;
        };
        if !tls.opened.is_empty() || tls.has_ended {
            return true;
        }
        if tls.reader.as_ref().is_none_or(|waiting| !waiting.will_wake(reader)) {
            tls.reader = Some(reader.clone());
        }
        false
    }

    /// What came from the kernel; empty: the other end has closed.
    pub(super) fn open(&mut self, bytes: &[u8]) {
        if let Some(tls) = &mut self.tls {
            tls.open(bytes);
        }
        self.flush_replies();
    }

    /// Hands over what is opened, as far as there is room for it. `None`: nothing is yet. Nothing:
    /// there never will be more.
    pub(super) fn take_opened(&mut self, room: usize) -> Option<Vec<u8>> {
        let tls = self.tls.as_mut()?;
        if tls.opened.len() <= room {
            let opened = std::mem::take(&mut tls.opened);
            return (!opened.is_empty() || tls.has_ended).then_some(opened);
        }
        Some(tls.opened.drain(..room).collect())
    }

    /// What TLS itself has to say to what came: new keys, an alert.
    fn flush_replies(&mut self) {
        let Some(tls) = self.tls.as_mut().filter(|tls| tls.session.wants_write()) else {
            return;
        };
        let mut replies = tls.take_sealed();
        self.rest.append(&mut replies);
        match send_now(self.socket, &self.rest) {
            Some(sent) => drop(self.rest.drain(..sent)),
            None => tls.has_ended = true,
        }
    }
}

impl Seal {
    fn seal(&mut self, bytes: &[IoSlice<'_>]) -> Option<Vec<u8>> {
        for slice in bytes {
            self.session.writer().write_all(slice).ok()?;
        }
        Some(self.take_sealed())
    }

    fn take_sealed(&mut self) -> Vec<u8> {
        let mut sealed = Vec::new();
        while self.session.wants_write() {
            // A vector takes everything.
            if self.session.write_tls(&mut sealed).is_err() {
                break;
            }
        }
        sealed
    }

    fn open(&mut self, mut bytes: &[u8]) {
        if bytes.is_empty() {
            self.has_ended = true;
        }
        while !bytes.is_empty() {
            let before = bytes.len();
            let is_read = self.session.read_tls(&mut bytes).is_ok() && bytes.len() < before;
            if !is_read {
                self.has_ended = true;
                return;
            }
            self.take_processed();
            if self.has_ended {
                return;
            }
        }
    }

    /// Opens what the session has.
    fn take_processed(&mut self) {
        match self.session.process_new_packets() {
            Ok(state) => {
                let start = self.opened.len();
                self.opened.resize(start + state.plaintext_bytes_to_read(), 0);
                let room = self.opened.get_mut(start..).unwrap_or_default();
                let is_read = self.session.reader().read_exact(room).is_ok();
                self.has_ended |= !is_read || state.peer_has_closed();
            }
            Err(error) => {
                tracing::debug!(%error, "a TLS connection has broken the rules");
                self.has_ended = true;
            }
        }
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
