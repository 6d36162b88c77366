//! Software phones for demo, tests and benches, built on `rsip` so that the far side of the wire is
//! not our own parser.
//!
//! A [`Phone`] is a SIP user agent on its own UDP socket, or with a connection over TLS, and with an
//! RTP or SRTP socket beside it. While a call stands it sends its own tone in G.711 every 20 ms,
//! records what it hears, and says how loud any other tone is in that. One call at a time; a second
//! one is busy.

mod agent;
pub mod audio;
mod digest;
mod rtp;
mod sdp;
mod socket;
mod srtp;
mod wire;

pub use rtp::{Packet, Voice};
pub use sdp::SdpDirection;
pub use srtp::{PhoneSrtp, SrtpCounts};

use crate::clock;
use crate::secret::Secret;
use crate::tls::ClientTls;
use agent::{Agent, Ask};
use audio::Companding;
use socket::PhoneSocket;
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};

/// What the phone does when it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerPolicy {
    /// Answers by itself after ringing this long.
    Auto(Duration),
    /// Answers by itself only when Answer-Mode, Call-Info or Alert-Info ask it to; else it rings as
    /// `OnRequest` does.
    ByHeader,
    /// Rings until [`Phone::answer`] or a NOTIFY with `Event: talk`.
    OnRequest,
    /// Refuses with 486 Busy Here.
    Busy,
    /// Refuses with 603 Decline.
    Reject,
    /// Rings and never answers, whatever is asked.
    Never,
}

/// How a phone is set up.
#[derive(Clone, Debug)]
pub struct PhoneConfig {
    /// Its number: the user part of its address and its digest user name.
    pub number: String,
    /// The number in P-Asserted-Identity of its INVITEs (RFC 3325): it stands for a carrier.
    pub asserts: Option<String>,
    /// Its digest password.
    pub password: Secret,
    /// Registrar and outbound proxy.
    pub server: SocketAddr,
    /// Where its sockets are bound, on free ports.
    pub ip: IpAddr,
    /// What it does when called.
    pub answer: AnswerPolicy,
    /// What it says.
    pub voice: Voice,
    /// G.711 laws that it takes, and opaque frames, best first.
    pub laws: Vec<Companding>,
    /// Seconds it asks to be registered for.
    pub expires: u32,
    /// Offers no session description in its INVITE; its answer comes in the ACK.
    pub late_offer: bool,
    /// The address its descriptions name instead of its own: what a phone behind a NAT believes.
    pub described_ip: Option<IpAddr>,
    /// Speaks to its server over TLS; `None`: by datagrams.
    pub tls: Option<PhoneTls>,
    /// Encrypts its sound, or has none; `None`: in clear.
    pub srtp: Option<PhoneSrtp>,
}

/// How a phone speaks TLS.
#[derive(Clone, Debug)]
pub struct PhoneTls {
    /// Whom it trusts, and what it presents.
    pub client: ClientTls,
    /// The name that its server's certificate has.
    pub name: String,
    /// It registers and calls sips URIs.
    pub sips: bool,
}

impl PhoneConfig {
    /// A phone on 127.0.0.1 that answers at once in PCMU.
    pub fn new(number: &str, password: &str, server: SocketAddr, hz: f32) -> PhoneConfig {
        PhoneConfig {
            number: number.into(),
            asserts: None,
            password: password.into(),
            server,
            ip: Ipv4Addr::LOCALHOST.into(),
            answer: AnswerPolicy::Auto(Duration::ZERO),
            voice: Voice { hz, dbfs: -16.0 },
            laws: vec![Companding::Mu, Companding::A],
            expires: 300,
            late_offer: false,
            described_ip: None,
            tls: None,
            srtp: None,
        }
    }

    /// Over TLS.
    pub fn over(mut self, tls: PhoneTls) -> PhoneConfig {
        self.tls = Some(tls);
        self
    }

    /// With its sound encrypted.
    pub fn encrypting(mut self, srtp: PhoneSrtp) -> PhoneConfig {
        self.srtp = Some(srtp);
        self
    }

    /// With another answer policy.
    pub fn answering(mut self, answer: AnswerPolicy) -> PhoneConfig {
        self.answer = answer;
        self
    }
}

/// What happened to a phone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PhoneEvent {
    /// The registrar has accepted it; with `false`, its removal.
    Registered(bool),
    /// It is being called.
    Incoming {
        /// The From of the INVITE, raw.
        from: String,
        /// Its header fields asked to answer by itself.
        auto_answer: bool,
    },
    /// The far side rings: 180 or 183.
    Ringing(u16),
    /// A call stands.
    Established,
    /// A NOTIFY with `Event: talk` has come.
    AskedToTalk,
    /// How it goes with the transfer that this phone has asked for: 100 to 699.
    Transfer(u16),
    /// The far side has offered a new session, and this is how it says audio goes (seen from
    /// there).
    Reoffered(SdpDirection),
    /// Its call was refused with this status.
    Refused(u16),
    /// The call is over.
    Ended {
        /// By this phone.
        here: bool,
        /// The Reason field of the BYE or CANCEL.
        reason: Option<String>,
    },
}

/// An event and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// When it happened.
    pub at: Instant,
    /// What happened.
    pub event: PhoneEvent,
}

/// A SIP message as it passed the phone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// When it arrived.
    pub at: Instant,
    /// By this phone.
    pub sent: bool,
    /// `INVITE sip:5001@…` or `200 OK (INVITE)`.
    pub line: String,
    /// The whole text.
    pub text: String,
}

/// Why a phone could not do it.
#[derive(Debug, thiserror::Error)]
pub enum PhoneError {
    /// A socket cannot be opened or used.
    #[error("socket: {0}")]
    Socket(#[from] io::Error),
    /// The far side said no.
    #[error("refused with {0}")]
    Refused(u16),
    /// No answer in time.
    #[error("no answer in time")]
    Timeout,
    /// There is no call in the state that this needs.
    #[error("no call to do that with")]
    NoCall,
    /// Waited for something that did not come; what came instead.
    #[error("not in time; since the last wait came {0:?}")]
    NotInTime(Vec<PhoneEvent>),
    /// The phone has ended.
    #[error("the phone has ended")]
    Gone,
}

#[derive(Debug)]
struct PhoneShared {
    events: Mutex<Vec<Happened>>,
    trace: Mutex<VecDeque<Traced>>,
    count: watch::Sender<usize>,
    sound: rtp::Sound,
}

impl PhoneShared {
    const TRACED: usize = 2000;

    fn happened(&self, event: PhoneEvent) {
        let mut events = held(&self.events);
        events.push(Happened { at: clock::instant(), event });
        self.count.send_replace(events.len());
    }

    fn traced(&self, sent: bool, line: String, text: String) {
        let mut trace = held(&self.trace);
        if trace.len() == Self::TRACED {
            trace.pop_front();
        }
        trace.push_back(Traced { at: clock::instant(), sent, line, text });
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A software phone. Clones are the same phone; it ends with the last of them.
#[derive(Clone, Debug)]
pub struct Phone {
    asks: mpsc::Sender<Ask>,
    shared: Arc<PhoneShared>,
    seen: Arc<Mutex<usize>>,
    number: String,
    address: SocketAddr,
}

impl Phone {
    /// Binds its sockets and starts its tasks; it is not registered yet.
    pub async fn start(config: PhoneConfig) -> Result<Phone, PhoneError> {
        let (socket, address) = PhoneSocket::open(&config).await?;
        let is_encrypted = config.srtp.is_some();
        let sound = rtp::Sound::start(config.ip, rand::random(), config.voice, is_encrypted)?;
        let shared = Arc::new(PhoneShared {
            events: Mutex::default(),
            trace: Mutex::default(),
            count: watch::Sender::new(0),
            sound,
        });
        let (asks, asked) = mpsc::channel(16);
        let number = config.number.clone();
        tokio::spawn(Agent::new(config, socket, address, shared.clone()).run(asked));
        Ok(Phone { asks, shared, seen: Arc::default(), number, address })
    }

    /// The number of the phone.
    pub fn number(&self) -> &str {
        &self.number
    }

    /// Its SIP address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Registers, answering the digest challenge; renews by itself later.
    pub async fn register(&self) -> Result<(), PhoneError> {
        self.ask(|reply| Ask::Register { on: true, reply }).await
    }

    /// Removes its registration.
    pub async fn unregister(&self) -> Result<(), PhoneError> {
        self.ask(|reply| Ask::Register { on: false, reply }).await
    }

    /// Calls a number at its server. Returns once the INVITE is out; what comes of it are events. A
    /// call that has been ended by the other side may end first.
    pub async fn call(&self, number: &str) -> Result<(), PhoneError> {
        const LAST_CALL: Duration = Duration::from_secs(2);
        let mut count = self.shared.count.subscribe();
        let called = tokio::time::timeout(LAST_CALL, async {
            loop {
                count.borrow_and_update();
                let number = number.into();
                match self.ask(|reply| Ask::Call { number, reply }).await {
                    Err(PhoneError::NoCall) => {
                        count.changed().await.map_err(|_| PhoneError::Gone)?
                    }
                    outcome => return outcome,
                }
            }
        });
        called.await.unwrap_or(Err(PhoneError::NoCall))
    }

    /// Answers the ringing call.
    pub async fn answer(&self) -> Result<(), PhoneError> {
        self.ask(|reply| Ask::Answer { reply }).await
    }

    /// Ends the call in whatever state it is: CANCEL, 603 or BYE.
    pub async fn hang_up(&self) -> Result<(), PhoneError> {
        self.ask(|reply| Ask::HangUp { reply }).await
    }

    /// Puts the other side on hold by re-INVITE; returns when it is answered.
    pub async fn hold(&self) -> Result<(), PhoneError> {
        self.ask(|reply| Ask::Reinvite { direction: SdpDirection::SendOnly, reply }).await
    }

    /// Takes the other side back; returns when it is answered.
    pub async fn retrieve(&self) -> Result<(), PhoneError> {
        self.ask(|reply| Ask::Reinvite { direction: SdpDirection::SendRecv, reply }).await
    }

    /// Asks that this number take its place in the call (REFER); returns when that is accepted.
    pub async fn refer(&self, number: &str) -> Result<(), PhoneError> {
        let number = number.into();
        self.ask(|reply| Ask::Refer { number, replaces: None, reply }).await
    }

    /// Asks that its call be joined with this number's, which another line of the same account is
    /// talking to (REFER with Replaces).
    ///
    /// # Errors
    /// One of the two has no call, or it was refused.
    pub async fn refer_to_line(&self, number: &str, line: &Phone) -> Result<(), PhoneError> {
        let (reply, answer) = oneshot::channel();
        line.asks.send(Ask::Dialog { reply }).await.map_err(|_| PhoneError::Gone)?;
        let dialog = answer.await.map_err(|_| PhoneError::Gone)?.ok_or(PhoneError::NoCall)?;
        let number = number.into();
        self.ask(|reply| Ask::Refer { number, replaces: Some(dialog), reply }).await
    }

    /// Sends OPTIONS to its server; `Ok` for any 2xx.
    pub async fn options(&self) -> Result<(), PhoneError> {
        self.ask(|reply| Ask::Options { reply }).await
    }

    /// Its connection breaks. It makes another when it has something to say, and registers again at
    /// once if it was registered; `stays_away`: it does not.
    pub async fn disconnect(&self, stays_away: bool) -> Result<(), PhoneError> {
        self.ask(|reply| Ask::Disconnect { stays_away, reply }).await
    }

    /// What it does from now on when called.
    pub async fn set_answer(&self, answer: AnswerPolicy) -> Result<(), PhoneError> {
        self.ask(|reply| Ask::Policy { answer, reply }).await
    }

    /// What it says from now on; `None` is digital silence, still sent.
    pub fn speak(&self, voice: Option<Voice>) {
        self.shared.sound.speak(voice);
    }

    /// Stops or goes on sending packets, as a broken network would.
    pub fn pause(&self, paused: bool) {
        self.shared.sound.pause(paused);
    }

    /// Sends RFC 4733 events.
    pub fn dtmf(&self, digits: &str) {
        self.shared.sound.dtmf(digits.as_bytes());
    }

    /// Says something else for some packets, to be found elsewhere by [`Phone::mark_heard_at`].
    /// Where it has nobody to say it to, the time passes all the same.
    pub fn mark(&self, voice: Voice, packets: usize) {
        self.shared.sound.mark(voice, packets.max(1));
    }

    /// The last mark is not over yet.
    pub fn is_marking(&self) -> bool {
        self.shared.sound.is_marking()
    }

    /// When the first packet of the last mark was sent.
    pub fn marked_at(&self) -> Option<Instant> {
        self.shared.sound.marked_at()
    }

    /// When the first sample of a mark arrived, since then.
    pub fn mark_heard_at(&self, voice: Voice, since: Instant) -> Option<Instant> {
        rtp::mark_heard_at(&self.received(since), voice.hz, voice.dbfs)
    }

    /// Waits for the next event that fits, from where the last wait ended; what came before it is
    /// passed over.
    pub async fn until(
        &self,
        what: impl Fn(&PhoneEvent) -> bool,
        within: Duration,
    ) -> Result<Happened, PhoneError> {
        let mut count = self.shared.count.subscribe();
        let start = *held(&self.seen);
        let found = tokio::time::timeout(within, async {
            loop {
                count.borrow_and_update();
                let found = {
                    let events = held(&self.shared.events);
                    let mut later = events.iter().enumerate().skip(start);
                    later
                        .find(|(_, happened)| what(&happened.event))
                        .map(|(i, happened)| (i, happened.clone()))
                };
                if found.is_some() {
                    return found;
                }
                count.changed().await.ok()?;
            }
        })
        .await;
        match found {
            Ok(Some((i, happened))) => {
                *held(&self.seen) = i + 1;
                Ok(happened)
            }
            Ok(None) => Err(PhoneError::Gone),
            Err(_) => Err(PhoneError::NotInTime(
                held(&self.shared.events)
                    .iter()
                    .skip(start)
                    .map(|happened| happened.event.clone())
                    .collect(),
            )),
        }
    }

    /// Waits for [`PhoneEvent::Established`].
    pub async fn established(&self, within: Duration) -> Result<Happened, PhoneError> {
        self.until(|event| *event == PhoneEvent::Established, within).await
    }

    /// Waits for [`PhoneEvent::Ended`].
    pub async fn ended(&self, within: Duration) -> Result<Happened, PhoneError> {
        self.until(|event| matches!(event, PhoneEvent::Ended { .. }), within).await
    }

    /// Everything that has happened so far.
    pub fn events(&self) -> Vec<Happened> {
        held(&self.shared.events).clone()
    }

    /// Told of the number of events at each new one.
    pub fn watch(&self) -> watch::Receiver<usize> {
        self.shared.count.subscribe()
    }

    /// SIP messages as they passed, the last 2000.
    pub fn trace(&self) -> Vec<Traced> {
        held(&self.shared.trace).iter().cloned().collect()
    }

    /// Mean level of a tone in what was heard in the last `window`.
    pub fn hears(&self, hz: f32, window: Duration) -> f32 {
        let now = clock::instant();
        self.heard_between(hz, now.checked_sub(window).unwrap_or(now), now)
    }

    /// Mean level of a tone in what was heard between two moments. Packets that did not come count
    /// as silence.
    pub fn heard_between(&self, hz: f32, since: Instant, until: Instant) -> f32 {
        let samples = samples(&self.shared.sound.received(since, until));
        let expected = (until.saturating_duration_since(since).as_secs_f32()
            * audio::RATE as f32
            * 0.9) as usize;
        let level = audio::level(&samples, hz);
        match samples.len() {
            0 => audio::SILENCE_DBFS,
            n if n < expected => {
                (level + 10.0 * (n as f32 / expected as f32).log10()).max(audio::SILENCE_DBFS)
            }
            _ => level,
        }
    }

    /// The loudest 100 ms of a tone between two moments: shows a leak of a single packet.
    pub fn peak_between(&self, hz: f32, since: Instant, until: Instant) -> f32 {
        audio::peak(&samples(&self.shared.sound.received(since, until)), hz)
    }

    /// When the first packet came, since then, in which a tone is louder than `dbfs`.
    pub fn first_heard(&self, hz: f32, dbfs: f32, since: Instant) -> Option<Instant> {
        let packets = self.received(since);
        let packet = packets
            .iter()
            .find(|packet| audio::dbfs(audio::tone_power(&packet.samples(), hz)) > dbfs)?;
        Some(packet.at)
    }

    /// Packets received since then, the last two minutes at most.
    pub fn received(&self, since: Instant) -> Vec<Packet> {
        self.shared.sound.received(since, clock::instant())
    }

    /// Packets received between two moments.
    pub fn received_between(&self, since: Instant, until: Instant) -> Vec<Packet> {
        self.shared.sound.received(since, until)
    }

    /// Packets sent since then, the last two minutes at most.
    pub fn sent(&self, since: Instant) -> Vec<Packet> {
        self.shared.sound.sent(since, clock::instant())
    }

    /// Payloads received since then.
    pub fn payloads(&self, since: Instant) -> Vec<Arc<[u8]>> {
        self.received(since).into_iter().map(|packet| packet.payload).collect()
    }

    /// What has come to its RTP port, of all its calls; `None`: it has no SRTP.
    pub fn srtp(&self) -> Option<SrtpCounts> {
        self.shared.sound.srtp()
    }

    /// Packets sent and received in all.
    pub fn totals(&self) -> (u64, u64) {
        self.shared.sound.totals()
    }

    async fn ask(
        &self,
        make: impl FnOnce(oneshot::Sender<Result<(), PhoneError>>) -> Ask,
    ) -> Result<(), PhoneError> {
        let (reply, answer) = oneshot::channel();
        self.asks.send(make(reply)).await.map_err(|_| PhoneError::Gone)?;
        answer.await.map_err(|_| PhoneError::Gone)?
    }
}

fn samples(packets: &[Packet]) -> Vec<i16> {
    packets.iter().flat_map(Packet::samples).collect()
}
