//! The shell of a cluster: one task owns the machine, and is to the gateway as one backend.

use super::discovery::{Membership, NodeAddress, NodeSource, follow};
use super::{Cluster, ClusterConfig, NodeId, Output, Token, WorkId};
use crate::clock;
use crate::model::{Capabilities, Fact, NodeLoad, Reason, Refusal};
use crate::telephony::{BackendConnection, CommandCall};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

/// Commands and facts that wait for their reader.
const WAITING: usize = 256;
/// Facts that wait for the gateway before no node is read any more.
const BACKLOG: usize = 4096;

type CommandResult = Pin<Box<dyn Future<Output = (WorkId, Result<(), Refusal>)> + Send>>;

/// What a node says.
enum NodeNews {
    Capabilities(Capabilities),
    Load(NodeLoad),
    Fact(Fact),
}

struct NodeLink {
    address: NodeAddress,
    commands: mpsc::Sender<CommandCall>,
    carrier: AbortHandle,
    /// It is none of the nodes any more, and stays until it is lost.
    is_leaving: bool,
    is_draining: bool,
}

impl NodeLink {
    /// Says how busy the node is.
    fn note_load(&mut self, load: &NodeLoad) {
        let NodeLoad { calls, max_calls, is_draining } = *load;
        if std::mem::replace(&mut self.is_draining, is_draining) != is_draining {
            let node = &self.address;
            match is_draining {
                true => tracing::info!(%node, calls, "a node takes no new calls"),
                false => tracing::info!(%node, calls, "a node takes calls again"),
            }
        }
        let most = max_calls.map_or(f64::NAN, f64::from);
        self.measure([f64::from(calls), most, f64::from(u8::from(is_draining))]);
    }

    fn measure(&self, [calls, most, draining]: [f64; 3]) {
        for (name, value) in [
            ("undertone_node_calls", calls),
            ("undertone_node_calls_max", most),
            ("undertone_node_draining", draining),
        ] {
            metrics::gauge!(name, "node" => self.address.to_string()).set(value);
        }
    }
}

impl Drop for NodeLink {
    fn drop(&mut self) {
        self.carrier.abort();
        self.measure([f64::NAN; 3]);
    }
}

struct ClusterTask<C> {
    cluster: Cluster,
    /// Connects to a node.
    connect: C,
    links: BTreeMap<NodeId, NodeLink>,
    news: mpsc::Sender<(NodeId, NodeNews)>,
    replies: BTreeMap<Token, oneshot::Sender<Result<(), Refusal>>>,
    next_token: u64,
    results: FuturesUnordered<CommandResult>,
    /// Facts that the gateway has not taken yet.
    backlog: VecDeque<Fact>,
    /// The nodes that are ready and all of them, as the metrics have them.
    counted: (usize, usize),
    capabilities: watch::Sender<Capabilities>,
    load: watch::Sender<NodeLoad>,
}

/// Many backends as one; `connect` gives the line to a node, or says why there is none.
pub fn start<C>(config: ClusterConfig, source: NodeSource, connect: C) -> BackendConnection
where
    C: FnMut(&NodeAddress) -> Result<BackendConnection, String> + Send + 'static,
{
    let (commands, placed) = mpsc::channel(WAITING);
    let (tell, facts) = mpsc::channel(WAITING);
    let capabilities = watch::Sender::new(Capabilities::default());
    let described = capabilities.subscribe();
    let (load, loaded) = watch::channel(NodeLoad::default());
    let (news, told) = mpsc::channel(WAITING);
    let instance = format!("cluster-{:016x}", rand::random::<u64>());
    let task = ClusterTask {
        cluster: Cluster::new(config, &instance),
        connect,
        links: BTreeMap::new(),
        news,
        replies: BTreeMap::new(),
        next_token: 0,
        results: FuturesUnordered::new(),
        backlog: VecDeque::new(),
        counted: (0, 0),
        capabilities,
        load,
    };
    tokio::spawn(task.run(follow(source), placed, told, tell));
    BackendConnection { commands, facts, capabilities: described, load: loaded }
}

impl<C> ClusterTask<C>
where
    C: FnMut(&NodeAddress) -> Result<BackendConnection, String> + Send + 'static,
{
    async fn run(
        mut self,
        mut members: mpsc::Receiver<Membership>,
        mut commands: mpsc::Receiver<CommandCall>,
        mut news: mpsc::Receiver<(NodeId, NodeNews)>,
        facts: mpsc::Sender<Fact>,
    ) {
        let mut members_open = true;
        loop {
            self.drain();
            let timeout = self.cluster.poll_timeout();
            tokio::select! {
                biased;
                Some((id, result)) = self.results.next() => {
                    self.cluster.handle_result(id, result, clock::now())
                }
                free = facts.reserve(), if !self.backlog.is_empty() => match free {
                    Ok(free) => {
                        if let Some(fact) = self.backlog.pop_front() {
                            free.send(fact);
                        }
                    }
                    Err(_) => return,
                },
                placed = commands.recv() => match placed {
                    Some(placed) => self.place(placed),
                    None => return,
                },
                member = members.recv(), if members_open => match member {
                    Some(member) => self.change(member),
                    None => members_open = false,
                },
                () = wait_until(timeout) => self.cluster.handle_timeout(clock::now()),
                Some((id, said)) = news.recv(), if self.backlog.len() < BACKLOG => match said {
                    NodeNews::Capabilities(able) => self.cluster.handle_capabilities(id, able),
                    NodeNews::Load(load) => {
                        if let Some(link) = self.links.get_mut(&id) {
                            link.note_load(&load);
                        }
                        self.cluster.handle_load(id, load);
                    }
                    NodeNews::Fact(fact) => self.hear(id, fact),
                },
            }
        }
    }

    fn place(&mut self, CommandCall { context, command, reply }: CommandCall) {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.replies.insert(token, reply);
        self.cluster.handle_command(token, context, command, clock::now());
    }

    fn change(&mut self, member: Membership) {
        match member {
            Membership::Added(id, address) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.is_leaving = false;
                    return;
                }
                tracing::info!(node = %address, "a node of the cluster");
                let connection = match (self.connect)(&address) {
                    Ok(connection) => connection,
                    Err(error) => {
                        return tracing::error!(node = %address, error, "no node of the cluster");
                    }
                };
                let commands = connection.commands.clone();
                let carrier = tokio::spawn(carry(id, connection, self.news.clone()));
                let carrier = carrier.abort_handle();
                let (is_leaving, is_draining) = (false, false);
                let link = NodeLink { address, commands, carrier, is_leaving, is_draining };
                self.links.insert(id, link);
                self.cluster.handle_node_added(id);
            }
            Membership::Removed(id) => {
                if let Some(link) = self.links.get_mut(&id) {
                    link.is_leaving = true;
                }
                self.remove_if_lost(id);
            }
        }
    }

    fn hear(&mut self, id: NodeId, fact: Fact) {
        self.cluster.handle_fact(id, fact, clock::now());
        self.remove_if_lost(id);
    }

    /// A node that is none any more is forgotten once it is lost: until then its calls go on.
    fn remove_if_lost(&mut self, id: NodeId) {
        if self.cluster.is_ready(id) || !self.links.get(&id).is_some_and(|link| link.is_leaving) {
            return;
        }
        if let Some(link) = self.links.remove(&id) {
            tracing::info!(node = %link.address, "no node of the cluster any more");
        }
        self.cluster.handle_node_removed(id, clock::now());
    }

    fn drain(&mut self) {
        while let Some(output) = self.cluster.poll_output() {
            match output {
                Output::Fact(fact) => self.backlog.push_back(fact),
                Output::Capabilities(capabilities) => {
                    self.capabilities.send_replace(capabilities);
                }
                Output::Load(load) => {
                    self.load.send_replace(load);
                }
                Output::Reply { token, result } => {
                    if let Some(reply) = self.replies.remove(&token) {
                        // The asker may have gone away.
                        let _ = reply.send(result);
                    }
                }
                Output::NotArmed { node, supervisor, refusal } => {
                    let node = self.links.get(&node).map(|link| &link.address);
                    tracing::warn!(
                        node = node.map(tracing::field::display),
                        device = %supervisor,
                        error = %refusal,
                        "a node does not take part in a monitor"
                    );
                }
                Output::Command { id, node, context, command } => {
                    let (call, answer) = CommandCall::new(context, command);
                    let commands = self.links.get(&node).map(|link| link.commands.clone());
                    self.results.push(Box::pin(async move {
                        let sent = match commands {
                            Some(commands) => commands.send(call).await.is_ok(),
                            None => false,
                        };
                        let away =
                            || Refusal::new(Reason::Unavailable, "The node cannot be reached.");
                        if !sent {
                            return (id, Err(away()));
                        }
                        (id, answer.await.unwrap_or_else(|_| Err(away())))
                    }));
                }
            }
        }
        let counted = self.cluster.ready_nodes();
        if std::mem::replace(&mut self.counted, counted) == counted {
            return;
        }
        let (ready, all) = counted;
        metrics::gauge!("undertone_nodes_ready").set(ready as f64);
        metrics::gauge!("undertone_nodes").set(all as f64);
    }
}

/// What a node says, until nobody reads it or the node is none any more. What it can do is said
/// before its facts.
async fn carry(id: NodeId, node: BackendConnection, news: mpsc::Sender<(NodeId, NodeNews)>) {
    let BackendConnection { commands: _, mut facts, mut capabilities, mut load } = node;
    // What a node that comes back has said before is no longer so.
    load.mark_changed();
    let mut has_load = true;
    loop {
        let said = tokio::select! {
            biased;
            changed = load.changed(), if has_load => {
                has_load = changed.is_ok();
                NodeNews::Load(*load.borrow_and_update())
            }
            fact = facts.recv() => match fact {
                Some(fact) => NodeNews::Fact(fact),
                None => return,
            },
        };
        if matches!(said, NodeNews::Fact(_)) && capabilities.has_changed().unwrap_or(false) {
            let able = capabilities.borrow_and_update().clone();
            if news.send((id, NodeNews::Capabilities(able))).await.is_err() {
                return;
            }
        }
        if news.send((id, said)).await.is_err() {
            return;
        }
    }
}

async fn wait_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
