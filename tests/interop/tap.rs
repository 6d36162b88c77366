//! What passed on the wire: every RTP packet on the loopback, read from a packet socket. Needs
//! root, as containers that run tests have.

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use undertone::demo::phone::audio::Companding;

/// A running recording.
pub struct Tap {
    over: Arc<AtomicBool>,
    thread: JoinHandle<Heard>,
}

/// What was recorded: by destination port, by SSRC and sequence number.
#[derive(Default)]
pub struct Heard(BTreeMap<u16, Flow>);

#[derive(Default)]
struct Flow {
    seen: BTreeSet<(u32, u16)>,
    samples: Vec<i16>,
}

impl Tap {
    pub fn start() -> Tap {
        let fd = socket(
            AddressFamily::Packet,
            SockType::Datagram,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .expect("a packet socket, to see what SIPp receives: run the interop tests as root");
        let mut socket = socket2::Socket::from(fd);
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let ended = over.clone();
        let thread = std::thread::spawn(move || {
            let mut heard = Heard::default();
            let mut buffer = [0; 2048];
            while !ended.load(Ordering::Relaxed) {
                if let Ok(size) = socket.read(&mut buffer) {
                    heard.take(&buffer[..size]);
                }
            }
            heard
        });
        Tap { over, thread }
    }

    pub fn finish(self) -> Heard {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the tap ran")
    }
}

impl Heard {
    /// One IPv4 packet. On the loopback each is seen twice.
    fn take(&mut self, packet: &[u8]) -> Option<()> {
        const UDP: u8 = 17;
        let header = usize::from(packet.first()? & 0x0f) * 4;
        if packet.first()? >> 4 != 4 || *packet.get(9)? != UDP {
            return None;
        }
        let udp = packet.get(header..)?;
        let port = u16::from_be_bytes([*udp.get(2)?, *udp.get(3)?]);
        let rtp = udp.get(8..)?;
        let law = Companding::of_payload_type(*rtp.get(1)? & 0x7f)?;
        if rtp.len() != 12 + 160 || rtp[0] >> 6 != 2 {
            return None;
        }
        let seq = u16::from_be_bytes([rtp[2], rtp[3]]);
        let ssrc = u32::from_be_bytes([rtp[8], rtp[9], rtp[10], rtp[11]]);
        let flow = self.0.entry(port).or_default();
        if flow.seen.insert((ssrc, seq)) {
            flow.samples.extend(rtp[12..].iter().map(|byte| law.decode(*byte)));
        }
        Some(())
    }

    /// The audio that was sent to a port.
    pub fn samples_to(&self, port: u16) -> Vec<i16> {
        let ports: Vec<_> = self.0.keys().collect();
        let flow = self
            .0
            .get(&port)
            .unwrap_or_else(|| panic!("no audio was sent to port {port}, only to {ports:?}"));
        flow.samples.clone()
    }
}
