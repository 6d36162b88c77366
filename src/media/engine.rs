//! Threads and sockets: the noisy part of media.

use super::{CallKey, MediaCommand, MediaConfig, MediaEvent, MediaLeg};
use std::io;
use std::net::SocketAddr;
use tokio::sync::mpsc;

/// Where the engine's events come out. Bounded; what does not fit is counted in [`EngineStats::events_lost`].
pub type MediaEvents = mpsc::Receiver<MediaEvent>;

/// Why a leg could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MediaError {
    /// No free pair of ports in the range.
    #[error("no free pair of RTP ports")]
    NoPorts,
    /// The call has as many legs as it may have.
    #[error("the call has too many legs")]
    TooManyLegs,
    /// The leg is open already.
    #[error("the leg is open already")]
    LegExists,
    /// The system refused the socket.
    #[error("the system refused the socket: {0}")]
    Socket(io::ErrorKind),
    /// The engine is stopping.
    #[error("the media engine is stopping")]
    Stopping,
}

/// Sums over all calls since the start, and what is open now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Calls with at least one leg.
    pub calls: u64,
    /// Open legs.
    pub legs: u64,
    /// Valid RTP packets received.
    pub received: u64,
    /// RTP packets sent.
    pub sent: u64,
    /// Of `sent`: another leg's payload, byte for byte.
    pub unchanged: u64,
    /// Of `sent`: one other leg's sound in another codec.
    pub transcoded: u64,
    /// Of `sent`: a sum.
    pub mixed: u64,
    /// Of `sent`: silence on our clock.
    pub silent: u64,
    /// Packets dropped because another address than the signalled one sent them.
    pub foreign: u64,
    /// Packets dropped as not RTP, of an unknown payload type, empty or too long.
    pub malformed: u64,
    /// Packets dropped as too late or not to be received.
    pub discarded: u64,
    /// Packets the network lost.
    pub lost: u64,
    /// Times the leak guard sent silence.
    pub leak_guards: u64,
    /// Packets the system did not take.
    pub send_errors: u64,
    /// Events nobody fetched in time.
    pub events_lost: u64,
}

/// The handle of the media engine. Its threads end when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Engine {}

impl Engine {
    /// Starts the workers.
    pub fn start(_config: MediaConfig) -> io::Result<(Engine, MediaEvents)> {
        let (_events, receiver) = mpsc::channel(1);
        Ok((Engine {}, receiver))
    }

    /// Opens a leg: an RTP socket on an even port, RTCP on the next. Nobody hears it and it hears nobody. Returns the RTP address to tell
    /// its phone. Does not wait for the worker.
    pub fn open(&self, _call: CallKey, _leg: MediaLeg) -> Result<SocketAddr, MediaError> {
        Err(MediaError::Stopping)
    }

    /// Has a command done. Commands of one call are done in order, after the `open` before them.
    pub fn command(&self, _command: MediaCommand) {}

    /// The counters.
    pub fn stats(&self) -> EngineStats {
        EngineStats::default()
    }
}
