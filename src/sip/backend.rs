//! The reference backend, assembled: sockets, B2BUA, media engine, store and contract in one loop.
//!
//! The loop names its steps: drain the B2BUA, wait for one thing, hand it in, drain again. It never
//! waits for the disk: what must survive goes to a thread of its own. A command that arms a monitor
//! or sets a device is executed when the change is safe, and refused when it can not be stored.
//! What ends something is executed at once and stored behind: nobody stays audible because of a
//! disk.

mod observer;
mod persistence;

use super::b2bua::{
    B2bua, B2buaConfig, CommandId, Environment, Extension, Numbering, NumberingChange, Output,
    TrunkRoute,
};
use super::config::{SipAccount, SipConfig, SipDirectory, Trunk};
use super::endpoint::Endpoint;
use super::flow::Protocol;
use super::leg::{LegCommand, LegEvent, LegId};
use super::sdp::{SdpError, SrtpPolicy};
use super::transport::TransportTls;
use crate::clock;
use crate::media::engine::{Engine, EngineStats, MediaEvents, NotReady};
use crate::media::{
    CallKey, Expected, LeakReason, MediaCommand, MediaConfig, MediaEvent, PortUse, Targets,
};
use crate::model::{CommandContext, DeviceId, Fact, NodeLoad, Now, Refusal, UserId};
use crate::store::{Store, StoreError};
use crate::telephony::{self, CommandCall, CommandInbox, FactLog, proto};
use observer::Observer;
use persistence::BackendWriter;
use proto::telephony_server::TelephonyServer;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};

/// How long the last BYEs may take to be answered when the backend stops: a little more than two
/// retransmissions (RFC 3261 17.1.2.2).
const BYE_TIMEOUT: Duration = Duration::from_secs(2);

/// What the backend is made of.
#[derive(Clone, Debug, Default)]
pub struct BackendConfig {
    /// Accounts, trunks, listening addresses.
    pub sip: SipConfig,
    /// How SIP over TLS is spoken.
    pub tls: TransportTls,
    /// How calls behave.
    pub b2bua: B2buaConfig,
    /// Ports and threads of media.
    pub media: MediaConfig,
}

/// Why the backend could not start.
#[derive(Debug, thiserror::Error)]
pub enum BackendStartError {
    /// A SIP address can not be listened on.
    #[error("SIP: {0}")]
    Sip(io::Error),
    /// The media engine can not start.
    #[error("media: {0}")]
    Media(io::Error),
    /// What was kept can not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A running backend. Dropped, it stops as by [`SipBackend::shutdown`], unwatched.
#[derive(Debug)]
pub struct SipBackend {
    sip: Vec<(Protocol, SocketAddr)>,
    engine: Engine,
    facts: FactLog,
    directories: DirectorySender,
    draining: watch::Sender<bool>,
    load: watch::Receiver<NodeLoad>,
    stop: Option<oneshot::Sender<()>>,
    leave: Option<oneshot::Sender<()>>,
    running: watch::Receiver<bool>,
    calls_are_over: watch::Receiver<bool>,
    task: JoinHandle<()>,
}

/// Other accounts and trunks for a running backend. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DirectorySender(mpsc::UnboundedSender<NewDirectory>);

/// A directory on its way.
#[derive(Debug)]
struct NewDirectory {
    directory: SipDirectory,
    end_calls: bool,
    done: oneshot::Sender<()>,
}

impl DirectorySender {
    /// Applies a directory; returns when everything that comes of it has been asked for. `end_calls`: also the calls of
    /// devices that are gone end.
    pub async fn apply(&self, directory: SipDirectory, end_calls: bool) {
        let (done, applied) = oneshot::channel();
        // A backend that has ended has no accounts.
        let _ = self.0.send(NewDirectory { directory, end_calls, done });
        let _ = applied.await;
    }
}

/// Says that the loop has ended, however it did.
struct Alive(watch::Sender<bool>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

impl SipBackend {
    /// The SIP addresses that are listened on, with the ports that were taken.
    pub fn local_addrs(&self) -> &[(Protocol, SocketAddr)] {
        &self.sip
    }

    /// The first SIP address of a protocol.
    pub fn local_addr(&self, protocol: Protocol) -> Option<SocketAddr> {
        let found = self.sip.iter().find(|(bound, _)| *bound == protocol);
        found.map(|(_, address)| *address)
    }

    /// What the media engine has done.
    pub fn media(&self) -> EngineStats {
        self.engine.stats()
    }

    /// Brings the media's figures into the metrics: to be called before they are read.
    pub fn measure(&self) -> impl Fn() + Send + Sync + 'static {
        let engine = self.engine.clone();
        move || observer::measure_media(&engine.stats())
    }

    /// Where other accounts and trunks go.
    pub fn directories(&self) -> DirectorySender {
        self.directories.clone()
    }

    /// What it has published.
    pub fn facts(&self) -> &FactLog {
        &self.facts
    }

    /// Whether calls can have their sound: for the report of readiness.
    pub fn has_media(&self) -> impl Fn() -> Result<(), NotReady> + Send + Sync + 'static {
        let engine = self.engine.clone();
        move || engine.is_ready()
    }

    /// Where it is said whether new calls may come; the calls that live go on in any case.
    pub fn draining(&self) -> watch::Sender<bool> {
        self.draining.clone()
    }

    /// How busy it is.
    pub fn load(&self) -> watch::Receiver<NodeLoad> {
        self.load.clone()
    }

    /// It still works.
    pub fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// The same, to be waited for.
    pub fn running(&self) -> watch::Receiver<bool> {
        self.running.clone()
    }

    /// Takes no more calls, lets live ones go on for the configured grace, ends the rest, and
    /// returns then. What may be commanded of a call is done to its end; the rest is refused.
    pub async fn close(&mut self) {
        drop(self.stop.take());
        // A backend that has ended has no calls.
        let _ = self.calls_are_over.wait_for(|over| *over).await;
    }

    /// As [`Self::close`], and returns when everything is closed and kept.
    pub async fn shutdown(mut self) {
        drop((self.stop.take(), self.leave.take()));
        if (&mut self.task).await.is_err() {
            tracing::error!("the SIP backend ended in a panic");
        }
    }
}

/// Starts the backend: the server of its contract, to be served or connected to in-process, and its
/// handle.
///
/// # Errors
/// A port in use, a state file that can not be read.
pub async fn start(
    config: BackendConfig,
    store: Store,
) -> Result<(TelephonyServer<telephony::TelephonyService>, SipBackend), BackendStartError> {
    let (kept, bindings, writer) = persistence::start(store).await?;
    let media_config = config.media.clone();
    let (engine, media) = Engine::start(config.media).map_err(BackendStartError::Media)?;
    let numbering = Numbering::of(&config.sip);
    warn_of_unencrypted_keys(&config.sip);
    let mut endpoint =
        Endpoint::bind(config.sip, config.tls).await.map_err(BackendStartError::Sip)?;
    let sip = endpoint.local_addrs().to_vec();
    let grace = config.b2bua.grace;
    let environment = EngineEnvironment { engine: engine.clone() };
    // Sound is UDP: a listener for TCP leaves the same port of UDP to others.
    let over_udp = sip.iter().filter(|(protocol, _)| *protocol == Protocol::Udp);
    let listening: Vec<SocketAddr> = over_udp.map(|(_, address)| *address).collect();
    let b2bua = B2buaConfig {
        targets: Arc::new(Targets::of(&media_config, &interfaces(), &listening)),
        has_music: media_config.music.is_some(),
        ..config.b2bua
    };
    let mut b2bua = B2bua::new(b2bua, numbering, kept, environment);
    for event in endpoint.restore(bindings) {
        b2bua.handle_leg(event, clock::now());
    }
    let (server, CommandInbox { commands, facts, load }) = telephony::serve(b2bua.capabilities());
    let draining = watch::Sender::new(false);
    let loaded = load.subscribe();
    let most_by_ports = calls_by_ports(&media_config);
    let (stop, stopped) = oneshot::channel();
    let (leave, left) = oneshot::channel();
    let (over, calls_are_over) = watch::channel(false);
    let (directories, inbox) = mpsc::unbounded_channel();
    let registered = endpoint.agent().registered_devices().cloned().collect();
    let backend_task = BackendTask {
        b2bua,
        endpoint,
        engine: engine.clone(),
        media: Some(media),
        commands: Some(commands),
        directories: Some(inbox),
        unanswered: BTreeMap::new(),
        next_command: 0,
        facts: facts.clone(),
        writer,
        grace,
        observer: Observer::default(),
        registered,
        most_by_ports,
        load,
    };
    let drained = draining.subscribe();
    let (alive, running) = watch::channel(true);
    let alive = Alive(alive);
    let backend = SipBackend {
        sip,
        engine,
        facts,
        directories: DirectorySender(directories),
        draining,
        load: loaded,
        stop: Some(stop),
        leave: Some(leave),
        running,
        calls_are_over,
        task: tokio::spawn(async move {
            let _alive = alive;
            backend_task
                .run(Orders {
                    stopped: Some(stopped),
                    left: Some(left),
                    drained: Some(drained),
                    over,
                })
                .await;
        }),
    };
    Ok((server, backend))
}

/// For how many calls of two parties there are ports; where legs share them, there is no such
/// limit.
fn calls_by_ports(media: &MediaConfig) -> u32 {
    match (&media.ports, media.port_use) {
        // A leg has two, for RTP and RTCP.
        (Some(ports), PortUse::PerLeg) => (ports.len() as u32 / 4).max(1),
        (Some(_) | None, PortUse::PerLeg | PortUse::Shared) => u32::MAX,
    }
}

/// The machine's own addresses.
fn interfaces() -> Vec<IpAddr> {
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    let address = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    interfaces.filter_map(|interface| interface.address.and_then(address)).collect()
}

/// Keys of SRTP stand in the descriptions (RFC 4568 8.3): a reader of the signalling hears the
/// call.
fn warn_of_unencrypted_keys(sip: &SipConfig) {
    let over_clear = |account: &&SipAccount| {
        account.srtp != SrtpPolicy::Off && account.transport.allows(Protocol::Udp)
    };
    let accounts = sip.accounts.iter().filter(over_clear).count();
    let over_clear = |trunk: &&Trunk| trunk.srtp != SrtpPolicy::Off && !trunk.is_secure();
    let trunks = sip.trunks.iter().filter(over_clear).count();
    if accounts + trunks > 0 {
        tracing::warn!(
            accounts,
            trunks,
            "SRTP keys go over SIP that is not encrypted: only a network that nobody else can read \
             protects them"
        );
    }
}

struct EngineEnvironment {
    engine: Engine,
}

impl Environment for EngineEnvironment {
    fn open_port(&mut self, call: CallKey, leg: LegId, expected: Expected) -> Option<SocketAddr> {
        self.engine
            .open(call, leg, expected)
            .inspect_err(|error| tracing::warn!(%error, "no media port for a leg"))
            .ok()
    }

    fn random(&mut self) -> u128 {
        rand::random()
    }
}

/// Everything the loop owns.
struct BackendTask {
    b2bua: B2bua<EngineEnvironment>,
    endpoint: Endpoint,
    engine: Engine,
    media: Option<MediaEvents>,
    commands: Option<mpsc::Receiver<CommandCall>>,
    directories: Option<mpsc::UnboundedReceiver<NewDirectory>>,
    unanswered: BTreeMap<CommandId, Unanswered>,
    next_command: u64,
    facts: FactLog,
    writer: BackendWriter,
    grace: Duration,
    observer: Observer,
    /// The devices that can be rung.
    registered: BTreeSet<DeviceId>,
    /// Calls for which there are media ports.
    most_by_ports: u32,
    load: watch::Sender<NodeLoad>,
}

/// A command that the B2BUA has not answered yet.
struct Unanswered {
    context: CommandContext,
    reply: oneshot::Sender<Result<(), Refusal>>,
}

impl Unanswered {
    fn span(&self) -> tracing::Span {
        tracing::info_span!(
            "command",
            request_id = %self.context.request_id,
            user = self.context.user.as_ref().map(UserId::as_str)
        )
    }
}

/// How it is told to end, and tells that its calls have.
struct Orders {
    /// Until it is to take no more calls.
    stopped: Option<oneshot::Receiver<()>>,
    /// Until nobody commands it any more.
    left: Option<oneshot::Receiver<()>>,
    /// Whether it is to take no new calls, until its handle is gone.
    drained: Option<watch::Receiver<bool>>,
    over: watch::Sender<bool>,
}

/// One thing that happened.
enum Input {
    Legs(Vec<LegEvent>),
    Command(Option<CommandCall>),
    Directory(Option<Box<NewDirectory>>),
    Stored(CommandId, bool),
    Media(Option<MediaEvent>),
    Timeout,
    Drain(bool),
    Stop,
    Leave,
}

impl BackendTask {
    async fn run(mut self, mut orders: Orders) {
        self.drain();
        while orders.stopped.is_some() || orders.left.is_some() || !self.b2bua.is_idle() {
            let input = self.wait(&mut orders).await;
            self.hand_in(input);
            self.drain();
            let is_over = orders.stopped.is_none() && self.b2bua.is_idle();
            orders.over.send_if_modified(|over| is_over && !std::mem::replace(over, true));
        }
        let _ = timeout(BYE_TIMEOUT, self.wait_for_sound()).await;
        let _ = timeout(BYE_TIMEOUT, self.wait_for_byes()).await;
        let _ = timeout(BYE_TIMEOUT, self.endpoint.leave_trunks()).await;
        self.writer.finish().await;
    }

    async fn wait(&mut self, orders: &mut Orders) -> Input {
        let at = self.b2bua.poll_timeout();
        tokio::select! {
            events = self.endpoint.next() => Input::Legs(events),
            call = next(&mut self.commands) => Input::Command(call),
            new = next_directory(&mut self.directories) => Input::Directory(new.map(Box::new)),
            (id, is_stored) = self.writer.stored() => Input::Stored(id, is_stored),
            event = next(&mut self.media) => Input::Media(event),
            () = until(at) => Input::Timeout,
            drains = drained(&mut orders.drained) => Input::Drain(drains),
            () = ended(&mut orders.stopped) => Input::Stop,
            () = ended(&mut orders.left) => Input::Leave,
        }
    }

    fn hand_in(&mut self, input: Input) {
        let now = clock::now();
        match input {
            Input::Legs(events) => {
                events.into_iter().for_each(|event| self.hand_in_leg(event, now))
            }
            Input::Command(Some(call)) => self.hand_in_command(call, now),
            Input::Command(None) => self.commands = None,
            Input::Directory(Some(new)) => self.hand_in_directory(*new, now),
            Input::Directory(None) => self.directories = None,
            Input::Stored(id, is_stored) => self.hand_in_stored(id, is_stored, now),
            Input::Media(Some(event)) => self.hand_in_media(event, now),
            Input::Media(None) => self.media = None,
            Input::Timeout => self.b2bua.handle_timeout(now),
            Input::Stop => {
                tracing::info!(
                    calls = self.b2bua.live_calls(),
                    grace_s = self.grace.as_secs(),
                    "stopping"
                );
                self.b2bua.close(self.grace, now);
            }
            Input::Drain(drains) => {
                let calls = self.b2bua.live_calls();
                match drains {
                    true => tracing::info!(calls, "no new calls are taken"),
                    false => tracing::info!(calls, "new calls are taken again"),
                }
                self.b2bua.set_draining(drains);
            }
            Input::Leave => {}
        }
    }

    fn hand_in_leg(&mut self, event: LegEvent, now: Now) {
        let span = self.observer.span(&event);
        let _inside = span.enter();
        let mut gone = None;
        match &event {
            LegEvent::AskToAnswerRefused { status, .. } => {
                tracing::info!(status, "a phone can not be made to answer")
            }
            LegEvent::Referred { to, .. } => tracing::debug!(%to, "asks to be replaced"),
            LegEvent::Incoming { leg, call_id, claimed, to, source, .. } => {
                tracing::debug!("a call comes in");
                self.observer.name(*leg, call_id.clone());
                self.observer.calls(*leg, claimed, to, source);
            }
            LegEvent::Redirected { leg, status, to } => {
                tracing::debug!(status, numbers = to.len(), "redirected");
                gone = Some(*leg);
            }
            LegEvent::Refused { leg, status } => {
                tracing::debug!(status, "refused");
                gone = Some(*leg);
            }
            LegEvent::Failed { leg, status } => {
                tracing::debug!(status, "not reached");
                gone = Some(*leg);
            }
            LegEvent::Ended { leg, reason } => {
                tracing::debug!(?reason, "ended");
                gone = Some(*leg);
            }
            LegEvent::Registered { device, registered } => {
                match registered {
                    true => self.registered.insert(device.clone()),
                    false => self.registered.remove(device),
                };
                metrics::gauge!("undertone_sip_registrations").set(self.registered.len() as f64);
                let account = self.endpoint.agent().config().accounts.get(device);
                let registers_here = account.is_none_or(|account| account.via.is_none());
                observer::presence(device, *registered, registers_here);
            }
            LegEvent::TrunkLocated { trunk, hosts } => {
                tracing::info!(trunk, addresses = hosts.len(), "the names of a trunk are known")
            }
            LegEvent::Located { .. }
            | LegEvent::ConnectedIdentity { .. }
            | LegEvent::Dialled { .. }
            | LegEvent::Progress { .. }
            | LegEvent::Answered { .. }
            | LegEvent::Confirmed { .. }
            | LegEvent::Offered { .. }
            | LegEvent::OfferAnswered { .. }
            | LegEvent::OfferRefused { .. } => {}
        }
        self.b2bua.handle_leg(event, now);
        // Each event's consequences are done before the next is looked at: a leg that was opened
        // for it must exist.
        self.drain();
        if let Some(leg) = gone {
            self.observer.forget(leg);
        }
    }

    fn hand_in_media(&mut self, event: MediaEvent, now: Now) {
        match &event {
            MediaEvent::LeakGuard { call, leg, reason: LeakReason::NotPermitted } => {
                tracing::warn!(
                    call = call.0,
                    leg = leg.0,
                    "sound was kept from a listener it was not for"
                );
            }
            MediaEvent::LeakGuard { call, leg, reason: LeakReason::CodecMismatch } => {
                tracing::debug!(
                    call = call.0,
                    leg = leg.0,
                    "sound in another codec was kept from a listener"
                )
            }
            MediaEvent::Closed { leg, stats } => {
                tracing::debug!(leg = leg.0, ?stats, "media closed");
                self.observer.silent(*leg, stats, now);
            }
            MediaEvent::Inactive { leg } => tracing::debug!(leg = leg.0, "silent"),
            MediaEvent::Failed { leg } => tracing::error!(
                leg = leg.0,
                "the media worker of a leg has failed: its call is ended"
            ),
            MediaEvent::Withheld { .. }
            | MediaEvent::JoinEnded { .. }
            | MediaEvent::Active { .. }
            | MediaEvent::Key { .. }
            | MediaEvent::Quality { .. } => {}
        }
        self.b2bua.handle_media(event, now);
    }

    fn hand_in_command(&mut self, call: CommandCall, now: Now) {
        let CommandCall { context, command, reply } = call;
        let id = CommandId(self.next_command);
        self.next_command += 1;
        let code = context.feature_code.clone();
        let unanswered = Unanswered { context, reply };
        let span = unanswered.span();
        let _inside = span.enter();
        self.unanswered.insert(id, unanswered);
        match code {
            Some(code) => self.b2bua.handle_answer(id, &code, command, now),
            None => self.b2bua.handle_command(id, command, now),
        }
        self.drain();
    }

    fn hand_in_directory(&mut self, new: NewDirectory, now: Now) {
        let NewDirectory { directory, end_calls, done } = new;
        let SipDirectory { accounts, trunks } = &directory;
        let changes = self.endpoint.agent().config().accounts.changes_to(accounts);
        let put = changes.put().filter_map(|device| accounts.get(device)).map(Extension::of);
        let change = NumberingChange {
            put: put.collect(),
            trunks: trunks.iter().map(TrunkRoute::of).collect(),
            removed: changes.removed,
            end_calls,
        };
        // Legs are released while the user agent still knows whose they are.
        self.b2bua.handle_directory(change, now);
        self.drain();
        self.endpoint.change_directory(directory);
        // The asker may have gone away.
        let _ = done.send(());
    }

    fn hand_in_stored(&mut self, id: CommandId, is_stored: bool, now: Now) {
        let span = self.unanswered.get(&id).map_or_else(tracing::Span::none, Unanswered::span);
        let _inside = span.enter();
        self.b2bua.handle_persisted(id, is_stored, now);
        self.drain();
    }

    fn drain(&mut self) {
        let mut replies = Vec::new();
        while let Some(output) = self.b2bua.poll_output() {
            match output {
                Output::Leg(command) => {
                    self.note_leg(&command);
                    let invited = match &command {
                        LegCommand::Invite { leg, .. } => Some(*leg),
                        _ => None,
                    };
                    self.endpoint.send(command);
                    if let Some(leg) = invited
                        && let Some(call_id) = self.endpoint.agent().call_id(leg)
                    {
                        self.observer.name(leg, String::from_utf8_lossy(call_id).into_owned());
                    }
                }
                Output::Media(command) => {
                    if let MediaCommand::Describe { leg, media, .. } = &command
                        && let Some((call, role)) = self.b2bua.party_of(*leg)
                    {
                        self.observer.party(*leg, call, role, media.codec, clock::instant());
                    }
                    self.engine.command(command);
                }
                // A question that nobody hears is answered at once.
                Output::Fact(Fact::FeatureCodeDialled(dialled)) if !self.facts.is_watched() => {
                    self.b2bua.handle_unheard(&dialled.id, clock::now())
                }
                Output::Fact(fact) => self.publish(fact),
                Output::Persist { id, change } => self.writer.persist(id, change),
                Output::Keep(change) => self.writer.keep(change),
                Output::Reply { id, result } => replies.push((id, result)),
                Output::Unusable { leg, fault } => self.observer.unusable(leg, &fault),
                Output::Denied { leg, why } => self.observer.denied(leg, why),
                Output::CodeRefused { device, code, refusal } => {
                    observer::code_refused(&device, &code, &refusal)
                }
                Output::Relayed { supervisor, call, codec } => {
                    self.observer.relayed(&supervisor, &call, codec)
                }
                Output::Remark(remark) => self.observer.remark(remark),
            }
        }
        for (device, bindings) in self.endpoint.take_bindings() {
            self.writer.keep_bindings(&device, &bindings);
        }
        self.writer.submit();
        self.tell_load();
        for (id, result) in replies {
            if let Some(command) = self.unanswered.remove(&id) {
                self.answer(command, result);
            }
        }
    }

    /// Says how busy it is, to whoever asks and to whoever calls.
    fn tell_load(&mut self) {
        let load = self.b2bua.load();
        let max_calls = load.max_calls.map(|most| most.min(self.most_by_ports));
        let load = NodeLoad { max_calls, ..load };
        self.endpoint.set_takes_calls(load.takes_calls());
        self.load.send_if_modified(|told| std::mem::replace(told, load) != load);
    }

    fn answer(&mut self, command: Unanswered, result: Result<(), Refusal>) {
        let Unanswered { context, reply } = command;
        match &result {
            Ok(()) => {
                tracing::debug!(
                    request_id = %context.request_id,
                    user = context.user.as_ref().map(UserId::as_str),
                    "command accepted"
                )
            }
            Err(refusal) => {
                tracing::debug!(
                    request_id = %context.request_id,
                    user = context.user.as_ref().map(UserId::as_str),
                    %refusal,
                    "command refused"
                )
            }
        }
        match result {
            Ok(()) => self.writer.answer(result, reply),
            // A refusal has changed nothing: it waits for no disk.
            Err(_) => {
                let _ = reply.send(result);
            }
        }
    }

    /// A leg is refused or released by us.
    fn note_leg(&mut self, command: &LegCommand) {
        match command {
            LegCommand::Reject { leg, status } | LegCommand::Refuse { leg, status, .. } => {
                self.observer.refused(*leg, *status)
            }
            LegCommand::RefuseOffer { leg, .. } if self.b2bua.party_of(*leg).is_none() => {
                self.observer.refused(*leg, SdpError::STATUS)
            }
            LegCommand::TellReferrer { leg, status: status @ 300.. } => {
                self.observer.not_transferred(*leg, *status)
            }
            LegCommand::Hangup { leg, .. } => self.observer.forget(*leg),
            _ => {}
        }
    }

    fn publish(&mut self, fact: Fact) {
        self.observer.fact(&fact, clock::now());
        self.facts.publish(fact);
        metrics::gauge!("undertone_sip_calls").set(self.b2bua.live_calls() as f64);
    }

    /// Waits until what the sound of each join was has been told.
    async fn wait_for_sound(&mut self) {
        while self.b2bua.has_sound()
            && let Some(event) = next(&mut self.media).await
        {
            self.hand_in_media(event, clock::now());
            self.drain();
        }
    }

    /// Waits until every BYE has its answer.
    async fn wait_for_byes(&mut self) {
        while self.endpoint.agent().legs() > 0 {
            for event in self.endpoint.next_while_legs().await {
                self.hand_in_leg(event, clock::now());
            }
        }
    }
}

async fn next<T>(receiver: &mut Option<tokio::sync::mpsc::Receiver<T>>) -> Option<T> {
    match receiver {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

async fn next_directory(
    receiver: &mut Option<mpsc::UnboundedReceiver<NewDirectory>>,
) -> Option<NewDirectory> {
    match receiver {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

/// What is said next; as long as there is somebody to say it.
async fn drained(asked: &mut Option<watch::Receiver<bool>>) -> bool {
    if let Some(drains) = asked {
        if drains.changed().await.is_ok() {
            return *drains.borrow_and_update();
        }
        *asked = None;
    }
    std::future::pending().await
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// Resolves once: when the handle asks to stop, or is gone.
async fn ended(stopped: &mut Option<oneshot::Receiver<()>>) {
    match stopped {
        Some(asked) => {
            let _ = asked.await;
            *stopped = None;
        }
        None => std::future::pending().await,
    }
}
