//! The limit: receive and send, nothing else, in a process of its own. The first loop, which sends
//! back, is what everything is compared with. The others show what the system's other ways would
//! bring to who passes packets on to another leg's telephone, as calls do.

#![expect(unsafe_code, reason = "an io_uring is filled by hand")]

use io_uring::{IoUring, cqueue, opcode, types};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, recvmmsg, sendmmsg};
use socket2::SockRef;
use std::error::Error;
use std::io::{IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// As long as a turn of the engine.
const TURN: Duration = Duration::from_micros(500);
const BATCH: usize = 64;
const SHARED: usize = 4;

/// A way to receive and send back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Loop {
    /// A socket a leg, each packet as it comes: the limit that ratios are against.
    Epoll,
    /// The same, each packet passed on to the partner's phone.
    Passed,
    /// The same, passed on, in turns of half a millisecond.
    Turns,
    /// The same, each socket connected to its phone: what the engine does.
    Connected,
    /// Four sockets for all legs, recvmmsg and sendmmsg of 64, in turns.
    Shared,
    /// A socket a leg, connected; io_uring with multishot receiving into provided buffers, all
    /// sends of a turn in one call.
    Uring,
}

impl Loop {
    pub const ALL: [(Loop, &str); 6] = [
        (Loop::Epoll, "epoll, sent back"),
        (Loop::Passed, "epoll, passed on"),
        (Loop::Turns, "epoll, turns"),
        (Loop::Connected, "epoll, connected, turns"),
        (Loop::Shared, "recvmmsg/sendmmsg on four ports, turns"),
        (Loop::Uring, "io_uring, connected, turns"),
    ];
}

/// Serves until it is killed. The phones' ports come on standard input, ours go to standard output.
pub fn run(kind: Loop) -> Result<(), Box<dyn Error>> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    let phones: Vec<u16> = serde_json::from_str(&line)?;
    let count = if kind == Loop::Shared { SHARED } else { phones.len() };
    let mut sockets = Vec::new();
    for port in phones.iter().take(count) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_nonblocking(true)?;
        match kind {
            Loop::Connected | Loop::Uring => socket.connect((Ipv4Addr::LOCALHOST, *port))?,
            Loop::Shared => SockRef::from(&socket).set_recv_buffer_size(4 << 20)?,
            Loop::Epoll | Loop::Passed | Loop::Turns => {}
        }
        sockets.push(socket);
    }
    let ports: Vec<u16> = (0..phones.len())
        .map(|index| {
            sockets[index % sockets.len()].local_addr().map(|address: SocketAddr| address.port())
        })
        .collect::<Result<_, _>>()?;
    println!("{}", serde_json::to_string(&ports)?);
    match kind {
        Loop::Epoll => sent_back(&sockets),
        Loop::Passed => one_by_one(&sockets, &phones, false, Duration::ZERO),
        Loop::Turns => one_by_one(&sockets, &phones, false, TURN),
        Loop::Connected => one_by_one(&sockets, &phones, true, TURN),
        Loop::Shared => by_many(&sockets, &phones),
        Loop::Uring => by_uring(&sockets),
    }
}

fn waiting_for(sockets: &[UdpSocket]) -> nix::Result<Epoll> {
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    for (index, socket) in sockets.iter().enumerate() {
        epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
    }
    Ok(epoll)
}

/// Whose telephone gets the packet.
fn partner(index: usize, count: usize) -> usize {
    if index ^ 1 < count { index ^ 1 } else { index }
}

fn sent_back(sockets: &[UdpSocket]) -> Result<(), Box<dyn Error>> {
    let epoll = waiting_for(sockets)?;
    let mut ready = [EpollEvent::empty(); 256];
    let mut packet = [0; 2048];
    loop {
        let count = epoll.wait(&mut ready, 100_u8).unwrap_or(0);
        for event in &ready[..count] {
            let socket = &sockets[event.data() as usize];
            if let Ok((len, from)) = socket.recv_from(&mut packet) {
                // What is lost is counted by the phones.
                let _ = socket.send_to(&packet[..len], from);
            }
        }
    }
}

fn one_by_one(
    sockets: &[UdpSocket],
    phones: &[u16],
    connected: bool,
    turn: Duration,
) -> Result<(), Box<dyn Error>> {
    let epoll = waiting_for(sockets)?;
    let mut ready = [EpollEvent::empty(); 256];
    let mut packet = [0; 2048];
    loop {
        let count = epoll.wait(&mut ready, 100_u8).unwrap_or(0);
        for event in &ready[..count] {
            let index = event.data() as usize;
            if let Ok((len, _)) = sockets[index].recv_from(&mut packet) {
                let to = partner(index, sockets.len());
                let _ = match connected {
                    true => sockets[to].send(&packet[..len]),
                    false => sockets[to].send_to(&packet[..len], (Ipv4Addr::LOCALHOST, phones[to])),
                };
            }
        }
        if !turn.is_zero() {
            std::thread::sleep(turn);
        }
    }
}

fn by_many(sockets: &[UdpSocket], phones: &[u16]) -> Result<(), Box<dyn Error>> {
    let epoll = waiting_for(sockets)?;
    let mut partners = vec![0_u16; 1 << 16];
    for (index, port) in phones.iter().enumerate() {
        partners[usize::from(*port)] = phones[partner(index, phones.len())];
    }
    let mut ready = [EpollEvent::empty(); 256];
    let mut buffers = vec![[0_u8; 2048]; BATCH];
    let mut headers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut answers = MultiHeaders::<SockaddrIn>::preallocate(BATCH, None);
    let mut came: Vec<(usize, Option<SockaddrIn>)> = Vec::with_capacity(BATCH);
    loop {
        let count = epoll.wait(&mut ready, 100_u8).unwrap_or(0);
        for event in &ready[..count] {
            let socket = sockets[event.data() as usize].as_raw_fd();
            loop {
                came.clear();
                {
                    let mut slices: Vec<[IoSliceMut<'_>; 1]> =
                        buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
                    let Ok(messages) = recvmmsg(
                        socket,
                        &mut headers,
                        slices.iter_mut(),
                        MsgFlags::MSG_DONTWAIT,
                        None,
                    ) else {
                        break;
                    };
                    came.extend(messages.map(|message| (message.bytes, message.address)));
                }
                let slices: Vec<[IoSlice<'_>; 1]> = came
                    .iter()
                    .zip(&buffers)
                    .map(|((len, _), buffer)| [IoSlice::new(&buffer[..*len])])
                    .collect();
                let to = |from: SockaddrIn| {
                    SockaddrIn::new(127, 0, 0, 1, partners[usize::from(from.port())])
                };
                let addresses: Vec<Option<SockaddrIn>> =
                    came.iter().map(|(_, from)| from.map(to)).collect();
                let _ =
                    sendmmsg(socket, &mut answers, &slices, &addresses, [], MsgFlags::MSG_DONTWAIT);
                if came.len() < BATCH {
                    break;
                }
            }
        }
        std::thread::sleep(TURN);
    }
}

const BUFFERS: usize = 4096;
const BUFFER: usize = 2048;
/// Marks the completion of a send, with the buffer it was from.
const SENT: u64 = 1 << 32;

fn by_uring(sockets: &[UdpSocket]) -> Result<(), Box<dyn Error>> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all().setup_cqsize(16_384);
    let mut ring: IoUring = builder.build(4096)?;
    let layout = std::alloc::Layout::array::<types::BufRingEntry>(BUFFERS)?.align_to(4096)?;
    // SAFETY: lives as long as the process, zeroed, page-aligned, of the size that is registered.
    let entries = unsafe { std::alloc::alloc_zeroed(layout) }.cast::<types::BufRingEntry>();
    let memory: &'static mut [u8] = vec![0; BUFFERS * BUFFER].leak();
    let base = memory.as_mut_ptr();
    let mut tail: u16 = 0;
    let give = |tail: &mut u16, buffer: u16| {
        // SAFETY: both indexes are below BUFFERS; the kernel does not read an entry before the tail
        // covers it.
        unsafe {
            let entry = &mut *entries.add(usize::from(*tail) % BUFFERS);
            entry.set_addr(base.add(usize::from(buffer) * BUFFER) as u64);
            entry.set_len(BUFFER as u32);
            entry.set_bid(buffer);
        }
        *tail = tail.wrapping_add(1);
    };
    // SAFETY: the tail lies in the registered ring and is only written here.
    let publish = |tail: u16| unsafe {
        (*types::BufRingEntry::tail(entries).cast::<AtomicU16>()).store(tail, Ordering::Release)
    };
    (0..BUFFERS as u16).for_each(|buffer| give(&mut tail, buffer));
    publish(tail);
    // SAFETY: as above.
    unsafe { ring.submitter().register_buf_ring_with_flags(entries as u64, BUFFERS as u16, 0, 0)? };
    let descriptors: Vec<i32> = sockets.iter().map(AsRawFd::as_raw_fd).collect();
    ring.submitter().register_files(&descriptors)?;
    let receive = |index: u32| {
        opcode::RecvMulti::new(types::Fixed(index), 0).build().user_data(u64::from(index))
    };
    let push = |ring: &mut IoUring, entry: &io_uring::squeue::Entry| -> std::io::Result<()> {
        // SAFETY: what an entry points to is never freed and not written before its completion.
        while unsafe { ring.submission().push(entry) }.is_err() {
            ring.submit()?;
        }
        Ok(())
    };
    for index in 0..sockets.len() {
        push(&mut ring, &receive(index as u32))?;
    }
    let mut came: Vec<(u64, i32, u32)> = Vec::with_capacity(16_384);
    loop {
        let timeout = types::Timespec::new().nsec(100_000_000);
        let wait =
            types::SubmitArgs::new().timespec(&timeout).min_wait_usec(TURN.as_micros() as u32);
        // Times out when nobody talks.
        let _ = ring.submitter().submit_with_args(512, &wait);
        came.clear();
        came.extend(
            ring.completion().map(|entry| (entry.user_data(), entry.result(), entry.flags())),
        );
        for &(name, result, flags) in &came {
            if name >= SENT {
                give(&mut tail, (name >> 32) as u16 - 1);
                continue;
            }
            if !cqueue::more(flags) {
                push(&mut ring, &receive(name as u32))?;
            }
            if let (Ok(len), Some(buffer)) = (u32::try_from(result), cqueue::buffer_select(flags)) {
                // SAFETY: the buffer's index is below BUFFERS.
                let bytes = unsafe { base.add(usize::from(buffer) * BUFFER) };
                let to = partner(name as usize, sockets.len()) as u32;
                let send =
                    opcode::Send::new(types::Fixed(to), bytes, len).flags(nix::libc::MSG_DONTWAIT);
                push(&mut ring, &send.build().user_data(((u64::from(buffer) + 1) * SENT) | name))?;
            }
        }
        publish(tail);
    }
}
