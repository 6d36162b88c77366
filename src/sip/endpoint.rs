//! The user agent on real sockets and a real clock.
//!
//! The rhythm: drain the user agent, wait for one thing, hand it in, drain again. The B2BUA sits
//! beside it in the same loop (`sip::service`): it takes the events of [`Endpoint::next`] and gives
//! its commands to [`Endpoint::send`], so nothing is shared and nothing locked.
//!
//! ```text
//! loop {
//!     for event in endpoint.next().await { B2BUA.handle_leg(event, now) }
//!     while let Some(Output::Leg(command)) = B2BUA.poll_output() { endpoint.send(command) }
//! }
//! ```

mod trunk_log;

use super::config::{SipConfig, SipDirectory, Trunk};
use super::flow::Protocol;
use super::leg::{LegCommand, LegEvent};
use super::registrar::KeptBinding;
use super::resolver::Resolver;
use super::transport::{Transport, TransportEvent, TransportTls};
use super::user_agent::{Counters, Output, RefusedBy, RefusedRequest, UserAgent, WrongPassword};
use crate::clock;
use crate::model::DeviceId;
use crate::telemetry::Pii;
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use tokio::net::UdpSocket;
use tokio::time::sleep_until;

/// The user agent with its sockets.
#[derive(Debug)]
pub struct Endpoint {
    agent: UserAgent,
    transport: Transport,
    resolver: Resolver,
    events: Vec<LegEvent>,
    bindings: Vec<(DeviceId, Vec<KeptBinding>)>,
    sent: u64,
    /// What the metrics know.
    told: (Counters, u64),
    /// What they know of trunks.
    told_of_trunks: BTreeMap<String, u64>,
}

impl Endpoint {
    /// Opens the sockets and starts; names of trunks are looked up meanwhile.
    pub async fn bind(mut config: SipConfig, tls: TransportTls) -> io::Result<Self> {
        if config.trunks.iter().any(|trunk| trunk.speaks(Protocol::Tls)) {
            tls.client.load().map_err(io::Error::other)?;
        }
        let transport = Transport::bind(&config.listen, config.limits, tls).await?;
        if config.advertised.is_none()
            && transport.locals().iter().any(|(_, local)| local.ip().is_unspecified())
        {
            let somewhere = config.trunks.iter().flat_map(Trunk::addresses).next();
            config.advertised = outward(somewhere.map(|(_, address)| address)).await;
        }
        let resolver = Resolver::new(config.name_server);
        let agent =
            UserAgent::new(config, transport.locals().to_vec(), rand::random(), clock::now());
        let mut transport = transport;
        trust(&mut transport, &agent.config().trunks);
        Ok(Self {
            agent,
            transport,
            resolver,
            events: Vec::new(),
            bindings: Vec::new(),
            sent: 0,
            told: (Counters::default(), 0),
            told_of_trunks: BTreeMap::new(),
        })
    }

    /// The addresses that are listened on, with the ports that were taken.
    pub fn local_addrs(&self) -> &[(Protocol, SocketAddr)] {
        self.transport.locals()
    }

    /// The first address of a protocol.
    pub fn local_addr(&self, protocol: Protocol) -> Option<SocketAddr> {
        let found = self.local_addrs().iter().find(|(listening, _)| *listening == protocol);
        found.map(|(_, address)| *address)
    }

    /// The machine, to look at.
    pub fn agent(&self) -> &UserAgent {
        &self.agent
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.transport.connections()
    }

    /// Other accounts and trunks from now on.
    pub fn change_directory(&mut self, new: SipDirectory) {
        self.agent.handle_directory(new, clock::now());
        trust(&mut self.transport, &self.agent.config().trunks);
        self.drain();
    }

    /// Whether new calls may come from now on.
    pub fn set_takes_calls(&mut self, takes_calls: bool) {
        self.agent.set_takes_calls(takes_calls);
    }

    /// Takes back where phones were before a restart; what the B2BUA must know of it.
    pub fn restore(&mut self, kept: Vec<(DeviceId, Vec<KeptBinding>)>) -> Vec<LegEvent> {
        let now = clock::now();
        for (device, bindings) in kept {
            self.agent.restore(&device, bindings, now);
        }
        self.drain();
        std::mem::take(&mut self.events)
    }

    /// Where phones are, of devices for which that has changed: to be kept for [`Self::restore`].
    pub fn take_bindings(&mut self) -> Vec<(DeviceId, Vec<KeptBinding>)> {
        std::mem::take(&mut self.bindings)
    }

    /// Waits until something has happened that the B2BUA must know, or (then nothing is returned)
    /// there are bindings to keep. May be dropped at any time without losing an event.
    pub async fn next(&mut self) -> Vec<LegEvent> {
        loop {
            self.drain();
            if !self.events.is_empty() || !self.bindings.is_empty() {
                return std::mem::take(&mut self.events);
            }
            self.step().await;
        }
    }

    /// Like [`Self::next`], and returns at once, with nothing, when no leg is left.
    pub async fn next_while_legs(&mut self) -> Vec<LegEvent> {
        loop {
            self.drain();
            if !self.events.is_empty() || self.agent.legs() == 0 {
                return std::mem::take(&mut self.events);
            }
            self.step().await;
        }
    }

    async fn step(&mut self) {
        let timeout = self.agent.poll_timeout();
        tokio::select! {
            biased;
            () = until(timeout) => self.agent.handle_timeout(clock::now()),
            arrival = self.transport.next() => self.hand_in(arrival),
            (lookup, outcome) = self.resolver.next() => {
                self.agent.handle_lookup(&lookup, outcome, clock::now())
            }
        }
    }

    /// Takes the registrations with trunks back, and waits until the trunks have said so.
    pub async fn leave_trunks(&mut self) {
        self.agent.leave_trunks(clock::now());
        self.drain();
        while self.agent.is_leaving() {
            self.step().await;
            self.drain();
        }
    }

    /// Does what the B2BUA wants. What comes of it comes with [`Self::next`].
    pub fn send(&mut self, command: LegCommand) {
        self.agent.handle_command(command, clock::now());
        self.drain();
    }

    fn hand_in(&mut self, arrival: TransportEvent) {
        let now = clock::now();
        match arrival {
            TransportEvent::Datagram { flow, bytes } => {
                self.agent.handle_datagram(flow, &bytes, now)
            }
            TransportEvent::Message { flow, message } => {
                self.agent.handle_message(flow, *message, now)
            }
            TransportEvent::Malformed { flow, error } => {
                self.agent.handle_malformed(flow, &error, now)
            }
            TransportEvent::Crowded(caller) => {
                // Whoever belongs here finds a place however many strangers there are.
                let known = self.agent.knows(caller.address());
                self.transport.admit(caller, known);
            }
            TransportEvent::Secured { flow, domains } => {
                self.agent.handle_secured(&flow, domains, now)
            }
            TransportEvent::Idle { flow } if self.agent.needs(&flow) => {}
            TransportEvent::Idle { flow } => self.transport.close(&flow),
            TransportEvent::Undelivered { flow } => self.agent.handle_undelivered(&flow, now),
            TransportEvent::Gone { flow } => self.agent.handle_unreachable(&flow, now),
        }
    }

    /// Tells the metrics what is new.
    fn measure(&mut self) {
        let now = (self.agent.counters(), self.sent);
        if now == self.told {
            return;
        }
        let (counters, sent) = now;
        if counters.overloaded != self.told.0.overloaded {
            for (name, refused) in self.agent.refused_of_trunks() {
                if refused > 0
                    && self.told_of_trunks.insert(name.to_owned(), refused) != Some(refused)
                {
                    metrics::counter!(
                        "undertone_sip_trunk_calls_refused_total",
                        "trunk" => name.to_owned()
                    )
                    .absolute(refused);
                }
            }
        }
        self.told = now;
        for (name, value) in [
            ("undertone_sip_messages_received_total", counters.messages),
            ("undertone_sip_messages_sent_total", sent),
            ("undertone_sip_messages_malformed_total", counters.malformed),
            ("undertone_sip_requests_refused_total", counters.refused),
            ("undertone_sip_requests_silenced_total", counters.silenced),
            ("undertone_sip_requests_overloaded_total", counters.overloaded),
            ("undertone_sip_auth_failures_total", counters.wrong_passwords),
        ] {
            metrics::counter!(name).absolute(value);
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.agent.poll_output() {
            match output {
                Output::Transmit { flow, bytes } => {
                    self.sent += 1;
                    self.transport.send(flow, bytes);
                }
                Output::Event(event) => self.events.push(event),
                Output::Known(flow) => self.transport.know(&flow),
                Output::Connect(flow) => self.transport.connect_ahead(flow),
                Output::Alias { flow, address } => self.transport.alias(&flow, address),
                Output::TrunkConnected { trunk, address, connected } => {
                    trunk_log::connected(trunk, address, connected)
                }
                Output::TrunkPresent { trunk, present, devices } => {
                    trunk_log::present(trunk, present, devices)
                }
                Output::TargetPresent { trunk, address, present } => {
                    trunk_log::target_present(trunk, address, present)
                }
                Output::TargetGone { trunk, address } => trunk_log::target_gone(trunk, address),
                Output::Registration { trunk, state } => trunk_log::registration(trunk, &state),
                Output::LookUp(lookup) => self.resolver.look_up(lookup),
                Output::NotFound { trunks, host, fault, known } => {
                    trunk_log::not_found(&trunks, &host, &fault, known)
                }
                Output::TrunksMoved => trust(&mut self.transport, &self.agent.config().trunks),
                Output::Qualified { device, answers: true } => {
                    tracing::info!(%device, "a phone answers OPTIONS again")
                }
                Output::Qualified { device, answers: false } => {
                    tracing::info!(%device, "a phone does not answer OPTIONS any more")
                }
                Output::Bindings { device, bindings } => self.bindings.push((device, bindings)),
                Output::Unusable { source, call_id, fault } => tracing::info!(
                    call_id,
                    %source,
                    error = %fault.error,
                    line = fault.line.as_ref().map(|line| line.number),
                    text = fault
                        .line
                        .as_ref()
                        .map(|line| line.text.as_str())
                        .filter(|text| !text.is_empty()),
                    "session description that cannot be used"
                ),
                Output::WrongPassword(WrongPassword { device, source, times, throttled }) => {
                    tracing::warn!(
                        %device,
                        %source,
                        times,
                        throttled,
                        "a phone's password is wrong"
                    )
                }
                Output::Refused(refused) => log_refused(&refused),
            }
        }
        self.measure();
    }
}

/// One line for a refusal, either way.
fn log_refused(refused: &RefusedRequest) {
    let realms = Some(refused.realms.as_str()).filter(|realms| !realms.is_empty());
    let left_out = Some(refused.left_out).filter(|left_out| *left_out > 0);
    let message = match refused.by {
        RefusedBy::Us => "request refused",
        RefusedBy::Peer => "refused by the peer",
    };
    tracing::info!(
        method = refused.method,
        call_id = refused.call_id,
        from = %Pii(&refused.from),
        to = %Pii(&refused.to),
        peer = %refused.peer,
        status = refused.status,
        reason = refused.reason,
        hint = refused.hint(),
        realm = realms,
        left_out,
        "{message}"
    );
}

async fn until(timeout: Option<std::time::Instant>) {
    match timeout {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The address that the system would send from, when it listens on all: what a Contact must say.
/// Nothing is sent.
async fn outward(to: Option<SocketAddr>) -> Option<String> {
    let to = to.unwrap_or(SocketAddr::from(([192, 0, 2, 1], 9)));
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any).await.ok()?;
    socket.connect(to).await.ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) => Some(address.to_string()),
        IpAddr::V6(address) => Some(format!("[{address}]")),
    }
}

/// These are the peers from now on.
fn trust(transport: &mut Transport, trunks: &[Trunk]) {
    transport.trust(trunks.iter().flat_map(Trunk::sending_hosts));
    let secure = trunks.iter().flat_map(|trunk| {
        let targets = trunk.targets.iter().filter(|target| target.protocol.is_secure());
        targets.map(move |target| {
            let hosts = target.addresses().map(|address| address.ip().into());
            (hosts.collect(), trunk.certificate_name(target))
        })
    });
    transport.expect(secure);
}
