//! Names of trunks, looked up in tasks of their own (RFC 3263 4.2, without NAPTR: the transport is
//! configured). Nothing that receives waits for a name server.
//!
//! The configuration of the system is read for each lookup: /etc/resolv.conf and /etc/hosts may
//! change. When to look up again is for the user agent to say.

use super::config::{FoundHost, Lookup, LookupAnswer, LookupFault};
use super::flow::Protocol;
use crate::clock;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::RData;
use hickory_resolver::proto::rr::rdata::SRV;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What came of a lookup.
pub(super) type Outcome = (Lookup, Result<LookupAnswer, LookupFault>);

/// No service has more hosts.
const MOST_HOSTS: usize = 32;

/// Looks names up.
#[derive(Debug)]
pub(super) struct Resolver {
    /// `None`: those of the system.
    server: Option<SocketAddr>,
    sender: mpsc::UnboundedSender<Outcome>,
    outcomes: mpsc::UnboundedReceiver<Outcome>,
    tasks: JoinSet<()>,
}

impl Resolver {
    /// `server`: the name server; `None`: those of the system.
    pub(super) fn new(server: Option<SocketAddr>) -> Self {
        let (sender, outcomes) = mpsc::unbounded_channel();
        Self { server, sender, outcomes, tasks: JoinSet::new() }
    }

    /// Begins to look a name up; what comes of it comes with [`Self::next`].
    pub(super) fn look_up(&mut self, lookup: Lookup) {
        while self.tasks.try_join_next().is_some() {}
        let (sender, server) = (self.sender.clone(), self.server);
        self.tasks.spawn(async move {
            let outcome = look_up(&lookup, server).await;
            // Nobody waits when the endpoint is gone.
            let _ = sender.send((lookup, outcome));
        });
    }

    /// Waits for the outcome of a lookup. May be dropped at any time without losing one.
    pub(super) async fn next(&mut self) -> Outcome {
        match self.outcomes.recv().await {
            Some(outcome) => outcome,
            // There is a sender here.
            None => std::future::pending().await,
        }
    }
}

async fn look_up(lookup: &Lookup, server: Option<SocketAddr>) -> Result<LookupAnswer, LookupFault> {
    let resolver = resolver(server)?;
    if let Some(protocol) = lookup.service {
        let service = match protocol {
            Protocol::Udp => "_sip._udp",
            Protocol::Tcp => "_sip._tcp",
            Protocol::Tls => "_sips._tcp",
        };
        // Name servers that know no SRV, and fail, are no reason not to ask for the address.
        if let Ok(found) = resolver.srv_lookup(format!("{service}.{}", lookup.host)).await {
            let services: Vec<&SRV> = found
                .answers()
                .iter()
                .filter_map(|record| match &record.data {
                    RData::SRV(service) => Some(service),
                    _ => None,
                })
                .collect();
            match services[..] {
                [] => {}
                [only] if only.target.is_root() => return Err(LookupFault::NoService),
                _ => return hosts_of(&services, found.valid_until(), &resolver).await,
            }
        }
    }
    let found = resolver.lookup_ip(lookup.host.as_str()).await.map_err(fault)?;
    let host = |address| FoundHost { priority: 0, weight: 0, address, port: None };
    let hosts: Vec<FoundHost> = found.iter().map(host).take(MOST_HOSTS).collect();
    answer(hosts, found.valid_until())
}

/// The addresses of the hosts of a service. One that has none does not matter where another has.
async fn hosts_of(
    services: &[&SRV],
    mut until: Instant,
    resolver: &TokioResolver,
) -> Result<LookupAnswer, LookupFault> {
    let (mut hosts, mut failed) = (Vec::new(), LookupFault::NoAddress);
    for SRV { priority, weight, port, target, .. } in services.iter().take(MOST_HOSTS) {
        match resolver.lookup_ip(target.clone()).await {
            Ok(found) => {
                until = until.min(found.valid_until());
                let (priority, weight, port) = (*priority, *weight, Some(*port));
                let host = |address| FoundHost { priority, weight, address, port };
                hosts.extend(found.iter().map(host));
            }
            Err(error) => failed = fault(error),
        }
    }
    hosts.truncate(MOST_HOSTS);
    if hosts.is_empty() { Err(failed) } else { answer(hosts, until) }
}

fn answer(hosts: Vec<FoundHost>, until: Instant) -> Result<LookupAnswer, LookupFault> {
    let ttl = until.saturating_duration_since(clock::now().mono);
    match hosts.is_empty() {
        true => Err(LookupFault::NoAddress),
        false => Ok(LookupAnswer { hosts, ttl }),
    }
}

fn fault(error: NetError) -> LookupFault {
    match error {
        NetError::Timeout => LookupFault::Timeout,
        NetError::Dns(DnsError::NoRecordsFound(_)) => LookupFault::NoAddress,
        error => LookupFault::Failed(error.to_string()),
    }
}

/// Without a name server of its own a system has one on itself (resolv.conf(5)).
fn resolver(server: Option<SocketAddr>) -> Result<TokioResolver, LookupFault> {
    let builder = match server {
        None => TokioResolver::builder_tokio(),
        Some(_) => Err(NetError::NoConnections),
    };
    let server = server.unwrap_or((Ipv4Addr::LOCALHOST, 53).into());
    let mut builder = builder.unwrap_or_else(|_| {
        let mut config = NameServerConfig::udp_and_tcp(server.ip());
        config.connections.iter_mut().for_each(|connection| connection.port = server.port());
        let config = ResolverConfig::from_parts(None, Vec::new(), vec![config]);
        TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
    });
    let options = builder.options_mut();
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // What is kept is kept by the user agent.
    options.cache_size = 0;
    options.timeout = options.timeout.min(Duration::from_secs(5));
    builder.build().map_err(|error| LookupFault::Failed(error.to_string()))
}
