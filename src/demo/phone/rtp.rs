//! The phone's RTP: one socket, a thread that sends a tone every 20 ms, a thread that records what
//! comes.

use super::audio::{self, Companding, FRAME, Tone};
use super::srtp::{PacketProtection, Received, SrtpCounts};
use crate::clock;
use crate::media::srtp::Keys;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

const PACKET: Duration = Duration::from_millis(20);
/// Packets remembered in each direction: two minutes.
const KEPT: usize = 6000;

/// An RTP packet that was sent or received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// When it arrived.
    pub at: Instant,
    /// Its RTP sequence number.
    pub seq: u16,
    /// Its RTP timestamp.
    pub timestamp: u32,
    /// Its synchronisation source (SSRC).
    pub ssrc: u32,
    /// Its RTP payload type.
    pub payload_type: u8,
    /// The other end.
    pub peer: SocketAddr,
    /// Its payload, in bytes.
    pub payload: Arc<[u8]>,
}

impl Packet {
    /// Its samples; none when it is not G.711.
    pub fn samples(&self) -> Vec<i16> {
        let Some(law) = Companding::of_payload_type(self.payload_type) else {
            return Vec::new();
        };
        self.payload.iter().map(|byte| law.decode(*byte)).collect()
    }

    /// Reads a packet (RFC 3550 5.1); `None` when it is not RTP version 2.
    fn read(bytes: &[u8], peer: SocketAddr, at: Instant) -> Option<Packet> {
        let first = *bytes.first()?;
        if first >> 6 != 2 {
            return None;
        }
        let word = |i: usize| Some(u32::from_be_bytes(bytes.get(i..i + 4)?.try_into().ok()?));
        let mut start = 12 + 4 * usize::from(first & 0x0f);
        if first & 0x10 != 0 {
            start += 4 + 4 * (word(start)? as u16 as usize);
        }
        let mut end = bytes.len();
        if first & 0x20 != 0 {
            end = end.checked_sub(usize::from(*bytes.last()?))?;
        }
        Some(Packet {
            at,
            seq: u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]),
            timestamp: word(4)?,
            ssrc: word(8)?,
            payload_type: bytes.get(1)? & 0x7f,
            peer,
            payload: bytes.get(start..end)?.into(),
        })
    }

    fn write(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(12 + self.payload.len());
        bytes.extend([0x80, self.payload_type]);
        bytes.extend(self.seq.to_be_bytes());
        bytes.extend(self.timestamp.to_be_bytes());
        bytes.extend(self.ssrc.to_be_bytes());
        bytes.extend(&*self.payload);
        bytes
    }
}

/// What the phone says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Voice {
    /// Frequency in Hz.
    pub hz: f32,
    /// Level; 0 is a sine of full scale.
    pub dbfs: f32,
}

#[derive(Debug, Default)]
struct RtpLine {
    target: Option<(SocketAddr, Companding)>,
    voice: Option<Voice>,
    mark: Option<(Voice, usize)>,
    marked_at: Option<Instant>,
    digits: VecDeque<u8>,
    paused: bool,
    sent: VecDeque<Packet>,
    received: VecDeque<Packet>,
    total_sent: u64,
    total_received: u64,
    /// Sound is encrypted, both ways.
    srtp: Option<PacketProtection>,
}

impl RtpLine {
    /// A datagram has come: it is heard unless it should be encrypted and is not.
    fn hear(&mut self, received: Received) {
        let received = match &mut self.srtp {
            Some(srtp) => srtp.unprotect(received),
            None => Some(received),
        };
        received.into_iter().for_each(|received| self.take(&received));
    }

    fn take(&mut self, Received { bytes, peer, at }: &Received) {
        if let Some(packet) = Packet::read(bytes, *peer, *at) {
            self.total_received += 1;
            remember(&mut self.received, packet);
        }
    }

    /// A packet as it is to be sent; `None` while it should be encrypted and there is no key.
    fn protect(&mut self, packet: Vec<u8>) -> Option<Vec<u8>> {
        match &mut self.srtp {
            Some(srtp) => srtp.protect(&packet),
            None => Some(packet),
        }
    }
}

/// The phone's ear and mouth. Its threads end when it is dropped.
#[derive(Debug)]
pub(super) struct Sound {
    line: Arc<Mutex<RtpLine>>,
    over: Arc<AtomicBool>,
    address: SocketAddr,
    _rtcp: UdpSocket,
}

impl Sound {
    /// Binds an even port with its RTCP neighbour and starts the threads.
    pub(super) fn start(
        ip: IpAddr,
        seed: u32,
        voice: Voice,
        is_encrypted: bool,
    ) -> io::Result<Sound> {
        let (socket, rtcp) = bind_pair(ip)?;
        let srtp = is_encrypted.then(PacketProtection::default);
        let line = RtpLine { voice: Some(voice), srtp, ..RtpLine::default() };
        let line = Arc::new(Mutex::new(line));
        let over = Arc::new(AtomicBool::new(false));
        let address = socket.local_addr()?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let listening = socket.try_clone()?;
        let (heard, ended) = (line.clone(), over.clone());
        std::thread::Builder::new()
            .name("phone-listen".into())
            .spawn(move || listen(&listening, &heard, &ended))?;
        let (said, ended) = (line.clone(), over.clone());
        std::thread::Builder::new()
            .name("phone-speak".into())
            .spawn(move || speak(&socket, &said, &ended, seed))?;
        Ok(Sound { line, over, address, _rtcp: rtcp })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A call begins; nothing of it is agreed yet.
    pub(super) fn begin(&self) {
        lock(&self.line).srtp.iter_mut().for_each(PacketProtection::reset);
    }

    /// Sends to `target` from now on, under these keys; `None` is silence on the wire.
    pub(super) fn agree(&self, target: Option<(SocketAddr, Companding)>, keys: Option<&Keys>) {
        let mut line = lock(&self.line);
        let early = match (&mut line.srtp, keys) {
            (Some(srtp), Some(keys)) => srtp.rekey(keys),
            (Some(_) | None, _) => Vec::new(),
        };
        early.iter().for_each(|received| line.take(received));
        line.target = target;
    }

    /// Sends nothing any more.
    pub(super) fn hush(&self) {
        lock(&self.line).target = None;
    }

    pub(super) fn srtp(&self) -> Option<SrtpCounts> {
        lock(&self.line).srtp.as_ref().map(|srtp| srtp.counts)
    }

    pub(super) fn speak(&self, voice: Option<Voice>) {
        lock(&self.line).voice = voice;
    }

    pub(super) fn pause(&self, paused: bool) {
        lock(&self.line).paused = paused;
    }

    pub(super) fn dtmf(&self, digits: &[u8]) {
        lock(&self.line).digits.extend(digits);
    }

    pub(super) fn mark(&self, voice: Voice, packets: usize) {
        let mut line = lock(&self.line);
        line.mark = Some((voice, packets));
        line.marked_at = None;
    }

    pub(super) fn is_marking(&self) -> bool {
        lock(&self.line).mark.is_some()
    }

    pub(super) fn marked_at(&self) -> Option<Instant> {
        lock(&self.line).marked_at
    }

    pub(super) fn received(&self, since: Instant, until: Instant) -> Vec<Packet> {
        between(&lock(&self.line).received, since, until)
    }

    pub(super) fn sent(&self, since: Instant, until: Instant) -> Vec<Packet> {
        between(&lock(&self.line).sent, since, until)
    }

    pub(super) fn totals(&self) -> (u64, u64) {
        let line = lock(&self.line);
        (line.total_sent, line.total_received)
    }
}

impl Drop for Sound {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

fn bind_pair(ip: IpAddr) -> io::Result<(UdpSocket, UdpSocket)> {
    loop {
        let socket = UdpSocket::bind((ip, 0))?;
        if let Some(rtcp) = rtcp_of(&socket)? {
            return Ok((socket, rtcp));
        }
    }
}

/// The RTCP socket of an RTP socket: on the next port, which a description without `a=rtcp` names
/// (RFC 3605 1). `None` where the port is odd, or the next one is taken: RTCP would go to whatever
/// listens there.
fn rtcp_of(rtp: &UdpSocket) -> io::Result<Option<UdpSocket>> {
    let address = rtp.local_addr()?;
    if address.port() % 2 != 0 {
        return Ok(None);
    }
    match UdpSocket::bind((address.ip(), address.port() + 1)) {
        Ok(rtcp) => Ok(Some(rtcp)),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(None),
        Err(error) => Err(error),
    }
}

fn lock(line: &Mutex<RtpLine>) -> MutexGuard<'_, RtpLine> {
    line.lock().unwrap_or_else(PoisonError::into_inner)
}

fn between(packets: &VecDeque<Packet>, since: Instant, until: Instant) -> Vec<Packet> {
    packets.iter().filter(|packet| packet.at >= since && packet.at < until).cloned().collect()
}

fn remember(packets: &mut VecDeque<Packet>, packet: Packet) {
    if packets.len() == KEPT {
        packets.pop_front();
    }
    packets.push_back(packet);
}

fn listen(socket: &UdpSocket, line: &Mutex<RtpLine>, over: &AtomicBool) {
    let mut buffer = [0; 2048];
    while !over.load(Ordering::Relaxed) {
        let Ok((size, peer)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let received = Received { bytes: buffer[..size].to_vec(), peer, at: clock::instant() };
        lock(line).hear(received);
    }
}

fn speak(socket: &UdpSocket, line: &Mutex<RtpLine>, over: &AtomicBool, seed: u32) {
    let mut tone = Tone::new(seed);
    let (mut seq, mut timestamp, ssrc) =
        (seed as u16, seed.rotate_left(7), seed.rotate_left(16) | 1);
    // Real phones' clocks know nothing of each other.
    let mut due = clock::instant() + PACKET * (seed % 1000) / 1000;
    while !over.load(Ordering::Relaxed) {
        due += PACKET;
        let now = clock::instant();
        match due.checked_duration_since(now) {
            Some(wait) => std::thread::sleep(wait),
            // Behind by more than ten packets: the machine slept; do not burst.
            None if now - due > 10 * PACKET => due = now,
            None => {}
        }
        timestamp = timestamp.wrapping_add(FRAME as u32);
        let mut line = lock(line);
        let marking = line.mark.map(|(voice, _)| voice);
        line.mark = line
            .mark
            .and_then(|(voice, left)| Some((voice, left.checked_sub(1).filter(|left| *left > 0)?)));
        let (Some((target, law)), false) = (line.target, line.paused) else {
            continue;
        };
        let voice = marking.or(line.voice);
        let samples = voice.map_or([0; FRAME], |voice| tone.frame(voice.hz, voice.dbfs));
        for digit in std::mem::take(&mut line.digits) {
            for packet in digit_packets(digit, &mut seq, timestamp, ssrc) {
                if let Some(bytes) = line.protect(packet) {
                    let _ = socket.send_to(&bytes, target);
                }
            }
        }
        seq = seq.wrapping_add(1);
        let packet = Packet {
            at: clock::instant(),
            seq,
            timestamp,
            ssrc,
            payload_type: law.payload_type(),
            peer: target,
            payload: law.payload(&samples),
        };
        if marking.is_some() {
            line.marked_at.get_or_insert(packet.at);
        }
        let Some(bytes) = line.protect(packet.write()) else {
            continue;
        };
        line.total_sent += 1;
        remember(&mut line.sent, packet);
        drop(line);
        // A refused datagram is the far side's loss, as on any network.
        let _ = socket.send_to(&bytes, target);
    }
}

/// One RFC 4733 event of 60 ms at once: enough to see whether it goes anywhere.
fn digit_packets(digit: u8, seq: &mut u16, timestamp: u32, ssrc: u32) -> Vec<Vec<u8>> {
    let event = match digit {
        b'0'..=b'9' => digit - b'0',
        b'*' => 10,
        b'#' => 11,
        b'A'..=b'D' => digit - b'A' + 12,
        _ => return Vec::new(),
    };
    let parts = [(0, 160_u16), (0, 320), (0x80, 480), (0x80, 480), (0x80, 480)];
    let packet = |(i, (end, duration)): (usize, (u8, u16))| {
        *seq = seq.wrapping_add(1);
        let [high, low] = duration.to_be_bytes();
        let mut bytes = vec![0x80, super::sdp::TELEPHONE_EVENT | if i == 0 { 0x80 } else { 0 }];
        bytes.extend(seq.to_be_bytes());
        bytes.extend(timestamp.to_be_bytes());
        bytes.extend(ssrc.to_be_bytes());
        bytes.extend([event, end | 10, high, low]);
        bytes
    };
    parts.into_iter().enumerate().map(packet).collect()
}

/// Where a mark of frequency `hz` begins in these packets: the time its first sample arrived, were
/// samples to arrive one by one.
pub(super) fn mark_heard_at(packets: &[Packet], hz: f32, dbfs: f32) -> Option<Instant> {
    const WINDOW: usize = 80;
    let samples: Vec<i16> = packets.iter().flat_map(Packet::samples).collect();
    let full = 10_f32.powf(dbfs / 10.0);
    // Half of a window filled gives a quarter of the power.
    let start = (0..samples.len().saturating_sub(WINDOW))
        .find(|i| audio::tone_power(&samples[*i..i + WINDOW], hz) > full / 4.0)?;
    let first = start + WINDOW / 2;
    let mut passed = 0;
    for packet in packets {
        if first < passed + packet.payload.len() {
            return Some(
                packet.at + Duration::from_secs(1) * (first - passed) as u32 / audio::RATE,
            );
        }
        passed += packet.payload.len();
    }
    None
}

#[cfg(test)]
mod tests {
    //! RFC 3550 11: RTP on an even port, RTCP on the next. RFC 3711: what is not authentic is
    //! dropped.

    use super::*;
    use crate::media::srtp::{MasterKey, Protect, Suite};
    use std::net::Ipv4Addr;

    /// The far side's sound in clear: each packet has its own.
    fn packet(seq: u16) -> Vec<u8> {
        [&[0x80, 0, 0, seq as u8, 0, 0, 0, 1, 0, 0, 0, 9][..], &[seq as u8; 160]].concat()
    }

    fn keys(suite: Suite) -> Keys {
        let [ours, theirs] = [1, 2].map(|octet| {
            MasterKey::new(suite, &vec![octet; suite.material_len()]).expect("as long as it is")
        });
        Keys { ours, theirs }
    }

    /// The far side's sound as it sends it under its key.
    fn protected(keys: &Keys) -> impl FnMut(u16) -> Vec<u8> {
        let mut protect = Protect::new(&keys.theirs);
        move |seq| {
            let mut buffer = [0; 256];
            protect.protect_rtp(&packet(seq), &mut buffer).expect("it fits").to_vec()
        }
    }

    fn encrypted_line() -> RtpLine {
        RtpLine { srtp: Some(PacketProtection::default()), ..RtpLine::default() }
    }

    impl RtpLine {
        fn comes(&mut self, bytes: Vec<u8>) {
            let peer = (Ipv4Addr::LOCALHOST, 9).into();
            self.hear(Received { bytes, peer, at: clock::instant() });
        }

        fn heard(&self) -> Vec<u16> {
            self.received.iter().map(|packet| u16::from(packet.payload[0])).collect()
        }

        fn counts(&self) -> SrtpCounts {
            self.srtp.as_ref().expect("it has SRTP").counts
        }
    }

    #[test]
    fn a_packet_that_is_altered_repeated_or_in_clear_is_not_heard() {
        for suite in Suite::ALL {
            let (keys, mut line) = (keys(suite), encrypted_line());
            assert!(line.srtp.as_mut().expect("it has SRTP").rekey(&keys).is_empty());
            let fine = protected(&keys)(1);
            for place in 0..fine.len() {
                let mut altered = fine.clone();
                altered[place] ^= 0x10;
                line.comes(altered);
            }
            line.comes(packet(2));
            assert!(line.heard().is_empty(), "{suite:?}");
            line.comes(fine.clone());
            line.comes(fine.clone());
            assert_eq!(line.heard(), [1]);
            let rejected = fine.len() as u64 + 2;
            assert_eq!(line.counts(), SrtpCounts { encrypted: 1, rejected });
        }
    }

    #[test]
    fn a_packet_that_comes_before_its_key_is_known_is_heard_when_it_is() {
        let (first, mut line) = (keys(Suite::AeadAes128Gcm), encrypted_line());
        let mut says = protected(&first);
        line.comes(says(1));
        line.comes(packet(2));
        assert!(line.heard().is_empty());
        let early = line.srtp.as_mut().expect("it has SRTP").rekey(&first);
        early.iter().for_each(|received| line.take(received));
        line.comes(says(3));
        assert_eq!(line.heard(), [1, 3]);
        assert_eq!(line.counts(), SrtpCounts { encrypted: 2, rejected: 1 });
        // Another call, another key.
        let second = Keys { theirs: first.ours.clone(), ours: first.theirs.clone() };
        line.srtp.as_mut().expect("it has SRTP").reset();
        line.comes(protected(&second)(4));
        let early = line.srtp.as_mut().expect("it has SRTP").rekey(&second);
        early.iter().for_each(|received| line.take(received));
        assert_eq!(line.heard(), [1, 3, 4]);
    }

    #[test]
    fn nothing_is_sent_in_clear_while_there_is_no_key() {
        let (keys, mut line) = (keys(Suite::AesCm128HmacSha1_80), encrypted_line());
        assert_eq!(line.protect(packet(1)), None);
        line.srtp.as_mut().expect("it has SRTP").rekey(&keys);
        let sent = line.protect(packet(1)).expect("there is a key");
        assert_eq!(sent[..12], packet(1)[..12]);
        assert_ne!(sent[12..172], packet(1)[12..172]);
    }

    #[test]
    fn rtp_takes_no_port_whose_next_one_is_taken() {
        let (rtp, rtcp) = bind_pair(Ipv4Addr::LOCALHOST.into()).unwrap();
        let [even, next] = [&rtp, &rtcp].map(|socket| socket.local_addr().unwrap().port());
        assert_eq!((even % 2, next), (0, even + 1));
        assert!(rtcp_of(&rtp).unwrap().is_none());
    }
}
