//! Every phone of every call, in one thread of a process of its own.
//!
//! Its parent says what to do in lines on its standard input and reads lines of JSON from its
//! standard output: first the ports of the phones, then one [`Heard`] for each `talk` and one
//! [`Report`] for `report`.

use crate::{FRAME, Kind, Sound};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::io::BufRead;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};
use undertone::clock::instant;
use undertone::media::codec::{Codec, Encoder};
use undertone::media::srtp::{Protect, Unprotect};

/// The rest when there is nothing to do: it is as much as delays are overstated.
const NAP: Duration = Duration::from_micros(100);
/// Marks of one call, in packets: customer's, then supervisor's, then agent's.
const MARK_EVERY: u32 = 60;
/// What a marked packet of each role says; everything else is silence.
const LEVELS: [i16; 3] = [2000, 5000, 12_000];
const PAYLOAD: usize = 160;
/// After a pause of everybody the engine's own clock gives way to the phones'.
const SETTLING: Duration = Duration::from_millis(700);
/// Frames of each role's voice in another codec than PCMU, said again and again.
const LOOP: usize = 50;
/// Where a payload says whose it is and which one.
const NAME: usize = 8;
/// Where marks are looked for: a frame that is not aligned still has one.
const PROBES: [usize; 3] = [40, 80, 140];

/// What the phones are asked.
#[derive(Serialize, Deserialize)]
pub enum Ask {
    /// The ports of the two sides, on the loopback: the engine's and the bare loop's, a port per
    /// phone.
    Sides { engine: Vec<u16>, bare: Vec<u16> },
    /// All talk to a side for so long, then hear out what is on its way.
    Talk { bare: bool, millis: u64 },
    /// Everything so far is forgotten.
    Reset,
    /// What was heard of the engine since.
    Report,
}

/// After a `Talk`.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub struct Heard {
    pub sent: u64,
    pub received: u64,
}

/// Of the engine alone.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Report {
    /// Milliseconds from the sending of a marked packet to the first packet of the listener that
    /// carries the mark, sorted: customer→agent, supervisor→agent, agent→supervisor.
    pub delays: [Vec<f64>; 3],
    /// How far the distance of two packets toward an agent is from 20 ms, in milliseconds, sorted;
    /// without the first moments after a pause of everybody.
    pub spacing: Vec<f64>,
    /// Packets toward a customer that are not, byte for byte, one his agent has sent.
    pub changed: u64,
    /// Packets toward customers.
    pub to_customers: u64,
    /// The most a packet was sent too late, in milliseconds: what the machine was too busy for.
    pub late: f64,
}

pub fn run(kind: Kind, calls: usize, sound: Sound) -> Result<(), Box<dyn Error>> {
    let mut phones = Phones::new(kind, calls, sound)?;
    let ports: Vec<u16> = phones
        .sockets
        .iter()
        .map(|socket| socket.local_addr().map(|address| address.port()))
        .collect::<Result<_, _>>()?;
    say(&ports)?;
    for line in std::io::stdin().lock().lines() {
        match serde_json::from_str(&line?)? {
            Ask::Sides { engine, bare } => {
                let address = |port: &u16| SocketAddr::from((Ipv4Addr::LOCALHOST, *port));
                phones.sides =
                    [engine.iter().map(address).collect(), bare.iter().map(address).collect()];
            }
            Ask::Talk { bare, millis } => {
                say(&phones.talk(usize::from(bare), Duration::from_millis(millis))?)?
            }
            Ask::Reset => phones.report = Report::default(),
            Ask::Report => {
                let mut report = std::mem::take(&mut phones.report);
                report
                    .delays
                    .iter_mut()
                    .chain([&mut report.spacing])
                    .for_each(|values| values.sort_by(f64::total_cmp));
                say(&report)?;
            }
        }
    }
    Ok(())
}

fn say(what: &impl Serialize) -> Result<(), Box<dyn Error>> {
    println!("{}", serde_json::to_string(what)?);
    Ok(())
}

struct Phones {
    kind: Kind,
    sockets: Vec<UdpSocket>,
    sides: [Vec<SocketAddr>; 2],
    epoll: Epoll,
    /// When in the 20 ms each sends, and who: sorted.
    turns: Vec<(Duration, usize)>,
    packets: Vec<u32>,
    marked: Vec<Option<Instant>>,
    heard_at: Vec<Option<Instant>>,
    began: Option<Instant>,
    origin: Instant,
    /// 20 ms since the beginning that passed while they were talking to the other side, or to
    /// nobody.
    silent: u32,
    heard: Heard,
    bare: bool,
    report: Report,
    marks: [u8; 3],
    sound: Sound,
    /// By role, in another codec than PCMU.
    voices: [Vec<Vec<u8>>; 3],
    keys: Vec<(Protect, Unprotect)>,
}

impl Phones {
    fn new(kind: Kind, calls: usize, sound: Sound) -> Result<Self, Box<dyn Error>> {
        let count = calls * kind.legs();
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        let mut sockets = Vec::new();
        for index in 0..count {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
            socket.set_nonblocking(true)?;
            epoll.add(&socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
            sockets.push(socket);
        }
        // Spread evenly and, within a call, as if by chance: multiples of the golden section.
        let mut turns: Vec<_> = (0..count)
            .map(|index| (FRAME.mul_f64(index as f64 * 0.618_034 % 1.0), index))
            .collect();
        turns.sort();
        Ok(Self {
            kind,
            sockets,
            sides: [Vec::new(), Vec::new()],
            epoll,
            turns,
            packets: vec![0; count],
            marked: vec![None; count],
            heard_at: vec![None; count],
            began: None,
            origin: instant(),
            silent: 0,
            heard: Heard::default(),
            bare: false,
            report: Report::default(),
            marks: LEVELS.map(|level| {
                let mut byte = [0];
                Encoder::new(Codec::Pcmu).encode(&[level], &mut byte);
                byte[0]
            }),
            sound,
            voices: [250.0, 400.0, 650.0].map(|hertz| voice(sound.codec, hertz)),
            keys: match sound.key() {
                Some(key) => {
                    (0..count).map(|_| (Protect::new(&key), Unprotect::new(&key))).collect()
                }
                None => Vec::new(),
            },
        })
    }

    fn talk(&mut self, side: usize, time: Duration) -> Result<Heard, Box<dyn Error>> {
        self.heard = Heard::default();
        self.bare = side == 1;
        self.heard_at.fill(None);
        let start = instant();
        self.began = Some(start);
        // Their clocks go on while they say nothing.
        let passed = start.saturating_duration_since(self.origin).as_millis() as u32 / 20;
        self.silent = passed.saturating_sub(self.packets.first().copied().unwrap_or(0));
        let mut round = 0;
        while FRAME * round < time {
            for turn in 0..self.turns.len() {
                let (phase, index) = self.turns[turn];
                let due = start + FRAME * round + phase;
                while instant() < due {
                    self.listen(due)?;
                }
                let late = instant().saturating_duration_since(due).as_secs_f64() * 1000.0;
                self.report.late = self.report.late.max(late);
                let to = self.sides[side][index];
                self.say(index, to)?;
            }
            round += 1;
        }
        self.began = None;
        let until = instant() + Duration::from_millis(60);
        while instant() < until {
            self.listen(until)?;
        }
        Ok(self.heard)
    }

    /// What a phone says in its `number`th packet of PCMU: its name and number, then silence or its
    /// mark.
    fn payload(&self, index: usize, number: u32) -> ([u8; PAYLOAD], bool) {
        let (call, role) = (index / self.kind.legs(), index % self.kind.legs());
        let turn = [40, 0, 20][role];
        let is_mark = (number + call as u32 * 7) % MARK_EVERY == turn;
        let mut payload = [if is_mark { self.marks[role] } else { 0xff }; PAYLOAD];
        payload[..4].copy_from_slice(&(index as u32).to_be_bytes());
        payload[4..NAME].copy_from_slice(&number.to_be_bytes());
        (payload, is_mark)
    }

    fn say(&mut self, index: usize, to: SocketAddr) -> Result<(), Box<dyn Error>> {
        let number = self.packets[index];
        self.packets[index] += 1;
        let (named, is_mark) = self.payload(index, number);
        let codec = self.sound.codec;
        let payload = match codec {
            Codec::Pcmu => &named[..],
            _ => &self.voices[index % self.kind.legs()][number as usize % LOOP],
        };
        let mut packet = [0; 1500];
        let len = 12 + payload.len();
        packet[0] = 0x80;
        packet[1] = codec.payload_type();
        packet[2..4].copy_from_slice(&(number as u16).to_be_bytes());
        packet[4..8].copy_from_slice(
            &(number + self.silent).wrapping_mul(codec.clock() / 50).to_be_bytes(),
        );
        packet[8..12].copy_from_slice(&(index as u32 + 1).to_be_bytes());
        packet[12..len].copy_from_slice(payload);
        if is_mark {
            self.marked[index] = Some(instant());
        }
        let mut protected = [0; 1500];
        let bytes = match self.keys.get_mut(index) {
            Some((outbound, _)) => {
                outbound.protect_rtp(&packet[..len], &mut protected).ok_or("not protected")?
            }
            None => &packet[..len],
        };
        self.sockets[index].send_to(bytes, to)?;
        self.heard.sent += 1;
        Ok(())
    }

    fn listen(&mut self, until: Instant) -> Result<(), Box<dyn Error>> {
        let mut ready = [EpollEvent::empty(); 64];
        let count = self.epoll.wait(&mut ready, EpollTimeout::ZERO)?;
        if count == 0 {
            std::thread::sleep(until.saturating_duration_since(instant()).min(NAP));
            return Ok(());
        }
        let now = instant();
        let mut packet = [0; 2048];
        for event in &ready[..count] {
            let index = event.data() as usize;
            while let Ok((mut len, from)) = self.sockets[index].recv_from(&mut packet) {
                // What one side sends late comes while they talk to the other.
                let is_bare = self.sides[0].get(index) != Some(&from);
                if is_bare != self.bare {
                    continue;
                }
                self.heard.received += 1;
                if is_bare {
                    continue;
                }
                if let Some((_, inbound)) = self.keys.get_mut(index) {
                    len = inbound.unprotect_rtp(&mut packet[..len])?;
                }
                self.hear(index, packet.get(12..len).unwrap_or_default(), now);
            }
        }
        Ok(())
    }

    /// Looks for the marks of those this phone listens to, and at what a customer gets.
    fn hear(&mut self, index: usize, payload: &[u8], now: Instant) {
        let legs = self.kind.legs();
        let (first, role) = (index - index % legs, index % legs);
        let paths: &[(usize, usize)] = match role {
            crate::AGENT => &[(0, crate::CUSTOMER), (1, crate::SUPERVISOR)],
            crate::SUPERVISOR => &[(2, crate::AGENT)],
            _ => &[],
        };
        let is_pcmu = self.sound.codec == Codec::Pcmu;
        for &(path, speaker) in paths.iter().filter(|(_, speaker)| is_pcmu && *speaker < legs) {
            let mark = self.marks[speaker];
            if PROBES.iter().any(|at| payload.get(*at) == Some(&mark))
                && let Some(at) = self.marked[first + speaker].take()
            {
                self.report.delays[path]
                    .push(now.saturating_duration_since(at).as_secs_f64() * 1000.0);
            }
        }
        if role == crate::AGENT
            && let Some(before) = self.heard_at[index].replace(now)
            && self.began.is_some_and(|began| now.saturating_duration_since(began) > SETTLING)
        {
            let distance = now.saturating_duration_since(before).as_secs_f64() * 1000.0;
            self.report.spacing.push((distance - FRAME.as_secs_f64() * 1000.0).abs());
        }
        if role == crate::CUSTOMER {
            self.report.to_customers += 1;
            let number = payload
                .get(4..NAME)
                .and_then(|bytes| Some(u32::from_be_bytes(*bytes.first_chunk()?)));
            let is_said = match is_pcmu {
                true => number
                    .is_some_and(|number| self.payload(first + crate::AGENT, number).0 == payload),
                false => self.voices[crate::AGENT].iter().any(|said| said == payload),
            };
            self.report.changed += u64::from(!is_said);
        }
    }
}

/// A second of a tone that swells, in frames of 20 ms.
fn voice(codec: Codec, hertz: f64) -> Vec<Vec<u8>> {
    let rate = codec.sample_rate() as usize;
    let mut encoder = Encoder::new(codec);
    let sample = |n: usize| {
        let at = n as f64 / rate as f64 * std::f64::consts::TAU;
        (8000.0 * (2.0 * at).sin() * (hertz * at).sin()) as i16
    };
    let samples: Vec<i16> = (0..rate).map(sample).collect();
    let frames = samples.chunks_exact(rate / LOOP);
    frames
        .map(|frame| {
            let mut payload = vec![0; 1400];
            let len = encoder.encode(frame, &mut payload);
            payload.truncate(len);
            payload
        })
        .collect()
}
