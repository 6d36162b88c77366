//! Ports that many legs share ([`PortUse::Shared`](super::super::PortUse)): a few pairs a worker,
//! each leg known by where its packets come from.
//!
//! One call of the system brings what came for many legs, and one takes what goes to many. A pair
//! is a worker's: it alone receives there. A leg of a call of another worker gets sockets of its
//! own on the same ports, connected to its source ([`Sockets`](super::sockets::Sockets)). In the
//! moment in which such a socket is bound and not yet connected, the system may hand it a packet of
//! another leg, which is dropped.

use super::sockets::{SocketOptions, canonical};
use super::worker::PacketKind;
use crate::clock;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Mutex;
use std::time::Duration;

/// Pairs of each worker. Legs are spread over them, so that what their sockets hold lasts through a
/// stall; two legs of one telephone, or with one address in their offers, get two of them.
pub(super) const PAIRS: usize = 4;
/// Datagrams of one call of the system.
const BATCH: usize = 64;
/// The same while there is little to do.
const FEW: usize = 8;
/// Calls of the system for one socket in one turn.
pub(super) const ROUNDS: usize = 8;
/// What a socket should hold: 50 ms of some hundred calls. The system gives less where
/// `net.core.rmem_max` says so.
const HOLDS: usize = 8 << 20;
/// One byte more than the longest datagram we look at, so that a longer one is seen to be longer.
pub(super) const DATAGRAM: usize = 2048;
/// One call of the system in so many is timed; not every fourth, which would be one pair alone.
const SAMPLE: u64 = 7;

/// RTP on an even port, RTCP on the next.
#[derive(Debug)]
pub(super) struct PortPair {
    pub rtp: UdpSocket,
    pub rtcp: UdpSocket,
    pub address: SocketAddr,
    /// The worker that receives here.
    pub worker: usize,
    /// Held while another socket joins one of these ports; no packet waits for it.
    pub joining: Mutex<()>,
}

impl PortPair {
    pub(super) fn on(options: &SocketOptions, port: u16, worker: usize) -> io::Result<Self> {
        let (rtp, rtcp) = (options.socket(port)?, options.socket(port + 1)?);
        options.make_room(&rtp, HOLDS)?;
        let address = rtp.local_addr()?;
        Ok(Self { rtp, rtcp, address, worker, joining: Mutex::new(()) })
    }

    pub(super) fn socket(&self, way: PacketKind) -> &UdpSocket {
        match way {
            PacketKind::Rtp => &self.rtp,
            PacketKind::Rtcp => &self.rtcp,
        }
    }
}

/// The leg that the packets of a source are from: the place of its call, and the slot in it.
pub(super) type LegAddress = (usize, usize);

/// Which leg the packets of a source are from, by socket. Which it may be is decided before
/// ([`Engine`](super::Engine) knows the legs of all workers).
#[derive(Debug, Default)]
pub(super) struct SourceTable(
    HashMap<(usize, PacketKind, SocketAddr), LegAddress, foldhash::fast::RandomState>,
);

impl SourceTable {
    pub(super) fn of(&self, pair: usize, way: PacketKind, from: SocketAddr) -> Option<LegAddress> {
        self.0.get(&(pair, way, from)).copied()
    }

    /// Enters a leg. Returns false when another one is there: the first one stays.
    pub(super) fn enter(
        &mut self,
        pair: usize,
        way: PacketKind,
        from: SocketAddr,
        owner: LegAddress,
    ) -> bool {
        *self.0.entry((pair, way, from)).or_insert(owner) == owner
    }

    /// Takes a leg out, if it is there.
    pub(super) fn leave(
        &mut self,
        pair: usize,
        way: PacketKind,
        from: SocketAddr,
        owner: LegAddress,
    ) {
        let key = (pair, way, from);
        if self.0.get(&key) == Some(&owner) {
            self.0.remove(&key);
        }
    }
}

/// Space for what comes and goes by shared ports: a worker's, taken once.
pub(super) struct RecvBatch {
    headers: MultiHeaders<SockaddrStorage>,
    /// None where no ports are shared.
    pub datagrams: Option<Box<[[u8; DATAGRAM]; BATCH]>>,
    /// How long each is, and where it came from.
    pub came: [Option<(usize, SocketAddr)>; BATCH],
    /// Datagrams that the next call of the system asks for.
    wanted: usize,
    calls: u64,
    time: Duration,
    pub out: SendBatch,
}

impl RecvBatch {
    pub(super) fn new(pairs: &[PortPair], worker: usize) -> Self {
        Self {
            headers: MultiHeaders::preallocate(BATCH, None),
            datagrams: (!pairs.is_empty())
                .then(|| vec![[0; DATAGRAM]; BATCH].into_boxed_slice().try_into().ok())
                .flatten(),
            came: [None; BATCH],
            wanted: FEW,
            calls: 0,
            time: Duration::ZERO,
            out: SendBatch::new(pairs, worker),
        }
    }

    /// Takes what has come, [`BATCH`] at most. Returns how many, and whether there may be more.
    pub(super) fn receive(&mut self, socket: &UdpSocket) -> (usize, bool) {
        let Some(datagrams) = &mut self.datagrams else {
            return (0, false);
        };
        self.calls += 1;
        let watch = self.calls.is_multiple_of(SAMPLE).then(clock::thread_time);
        let wanted = self.wanted;
        let mut slices = datagrams.each_mut().map(|datagram| [IoSliceMut::new(datagram)]);
        let slices = slices.iter_mut().take(wanted);
        let Ok(messages) =
            recvmmsg(socket.as_raw_fd(), &mut self.headers, slices, MsgFlags::MSG_DONTWAIT, None)
        else {
            return (0, false);
        };
        let mut count = 0;
        for (came, message) in self.came.iter_mut().zip(messages) {
            *came = message.address.and_then(address_of).map(|from| (message.bytes, from));
            count += 1;
        }
        self.wanted = if count == wanted { BATCH } else { FEW };
        if let Some(watch) = watch {
            self.time += clock::thread_time().saturating_sub(watch) * SAMPLE as u32;
        }
        (count, count == wanted)
    }

    /// The time that the system's calls took since this was asked last, estimated.
    pub(super) fn take_time(&mut self) -> Duration {
        std::mem::take(&mut self.time)
    }
}

fn address_of(address: SockaddrStorage) -> Option<SocketAddr> {
    let v4 = address.as_sockaddr_in().map(|address| SocketAddr::from(*address));
    v4.or_else(|| address.as_sockaddr_in6().map(|address| SocketAddr::from(*address)))
        .map(canonical)
}

/// Packets on their way out by a worker's shared ports, until there are many or the turn is over.
pub(super) struct SendBatch {
    headers: MultiHeaders<SockaddrStorage>,
    /// The number of the worker's first pair.
    first: usize,
    batches: Vec<DestinationBatch>,
    calls: u64,
    /// What the system did not take, and the time that its calls took, estimated; fetched with
    /// [`SendBatch::take_sums`].
    errors: u64,
    time: Duration,
}

/// What leaves by one pair.
struct DestinationBatch {
    datagrams: Box<[[u8; DATAGRAM]]>,
    lens: [usize; BATCH],
    to: [Option<SockaddrStorage>; BATCH],
    count: usize,
}

impl SendBatch {
    /// For the pairs of one worker; memory is taken for those that are there.
    pub(super) fn new(pairs: &[PortPair], worker: usize) -> Self {
        let batch = || DestinationBatch {
            datagrams: vec![[0; DATAGRAM]; BATCH].into_boxed_slice(),
            lens: [0; BATCH],
            to: [None; BATCH],
            count: 0,
        };
        let ours = pairs.iter().filter(|pair| pair.worker == worker);
        Self {
            headers: MultiHeaders::preallocate(BATCH, None),
            first: pairs.iter().position(|pair| pair.worker == worker).unwrap_or(pairs.len()),
            batches: ours.map(|_| batch()).collect(),
            calls: 0,
            errors: 0,
            time: Duration::ZERO,
        }
    }

    /// A packet that leaves by a pair's RTP port; at once, if the pair is another worker's.
    pub(super) fn put(
        &mut self,
        pairs: &[PortPair],
        pair: usize,
        bytes: &[u8],
        to: SocketAddr,
    ) -> io::Result<()> {
        let number = pair.wrapping_sub(self.first);
        if self.batches.get(number).is_some_and(|batch| batch.count == BATCH) {
            self.send(pairs, number);
        }
        let Some(batch) = self.batches.get_mut(number) else {
            let pair = pairs.get(pair).ok_or(io::ErrorKind::NotConnected)?;
            return pair.rtp.send_to(bytes, to).map(drop);
        };
        let at = batch.count;
        let Some(datagram) =
            batch.datagrams.get_mut(at).and_then(|datagram| datagram.get_mut(..bytes.len()))
        else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        datagram.copy_from_slice(bytes);
        batch.lens[at] = bytes.len();
        batch.to[at] = Some(SockaddrStorage::from(to));
        batch.count += 1;
        Ok(())
    }

    /// Sends all that waits.
    pub(super) fn flush(&mut self, pairs: &[PortPair]) {
        for number in 0..self.batches.len() {
            self.send(pairs, number);
        }
    }

    /// Sends what is in a batch. What the system does not take is passed over; the others go.
    fn send(&mut self, pairs: &[PortPair], number: usize) {
        let Some(batch) = self.batches.get_mut(number) else {
            return;
        };
        let count = std::mem::take(&mut batch.count);
        let (Some(pair), true) = (pairs.get(self.first + number), count > 0) else {
            return;
        };
        self.calls += 1;
        let watch = self.calls.is_multiple_of(SAMPLE).then(clock::thread_time);
        let mut slices = [[IoSlice::new(&[])]; BATCH];
        for ((slice, datagram), len) in
            slices.iter_mut().zip(&batch.datagrams).zip(batch.lens).take(count)
        {
            *slice = [IoSlice::new(&datagram[..len])];
        }
        let mut done = 0;
        while done < count {
            let (slices, to) = (&slices[done..count], &batch.to[done..count]);
            match sendmmsg(
                pair.rtp.as_raw_fd(),
                &mut self.headers,
                slices,
                to,
                [],
                MsgFlags::MSG_DONTWAIT,
            ) {
                Ok(sent) => done += sent.count().max(1),
                Err(_) => {
                    self.errors += 1;
                    done += 1;
                }
            }
        }
        if let Some(watch) = watch {
            self.time += clock::thread_time().saturating_sub(watch) * SAMPLE as u32;
        }
    }

    /// Errors and time since this was asked last.
    pub(super) fn take_sums(&mut self) -> (u64, Duration) {
        (std::mem::take(&mut self.errors), std::mem::take(&mut self.time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_one_legs_until_it_leaves() {
        let from = SocketAddr::from(([127, 0, 0, 1], 4000));
        let mut sources = SourceTable::default();
        assert!(sources.enter(1, PacketKind::Rtp, from, (5, 0)));
        assert!(sources.enter(1, PacketKind::Rtp, from, (5, 0)));
        assert!(!sources.enter(1, PacketKind::Rtp, from, (6, 0)));
        sources.leave(1, PacketKind::Rtp, from, (6, 0));
        assert_eq!(sources.of(1, PacketKind::Rtp, from), Some((5, 0)));
        assert_eq!(
            (sources.of(2, PacketKind::Rtp, from), sources.of(1, PacketKind::Rtcp, from)),
            (None, None)
        );
        sources.leave(1, PacketKind::Rtp, from, (5, 0));
        assert!(sources.enter(1, PacketKind::Rtp, from, (6, 0)));
    }
}
