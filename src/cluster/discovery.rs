//! Which nodes there are: those of a list, or each address of a name that is looked up again and
//! again.

use super::NodeId;
use crate::telephony::connection::host_and_port;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::Uri;

/// How often a name is looked up.
const AGAIN: Duration = Duration::from_secs(10);
/// How long a look-up may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where the nodes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NodeSource {
    /// Their URLs.
    List(Vec<String>),
    /// One URL: each address of its name is a node.
    Name(String),
}

/// Where one node is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeAddress {
    /// The URL: scheme, the name that its certificate is for, port.
    pub url: String,
    /// One of the addresses of that name; `None`: wherever it leads.
    pub address: Option<SocketAddr>,
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address {
            Some(address) => write!(f, "{} at {address}", self.url),
            None => f.write_str(&self.url),
        }
    }
}

/// A change of the nodes that there are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Membership {
    Added(NodeId, NodeAddress),
    Removed(NodeId),
}

/// The nodes that there are, and were, by their addresses. One that comes back is what it was.
#[derive(Debug, Default)]
struct Members {
    ids: BTreeMap<NodeAddress, NodeId>,
    present: BTreeSet<NodeAddress>,
}

impl Members {
    /// What has changed now that these are the nodes.
    fn set(&mut self, now: BTreeSet<NodeAddress>) -> Vec<Membership> {
        let gone = self.present.difference(&now);
        let gone = gone.filter_map(|address| self.ids.get(address)).copied();
        let mut changes: Vec<_> = gone.map(Membership::Removed).collect();
        for address in now.difference(&self.present) {
            let next = NodeId(self.ids.len() as u32);
            let id = *self.ids.entry(address.clone()).or_insert(next);
            changes.push(Membership::Added(id, address.clone()));
        }
        self.present = now;
        changes
    }
}

/// Tells which nodes there are, as long as somebody reads it.
pub(super) fn follow(source: NodeSource) -> mpsc::Receiver<Membership> {
    let (tell, told) = mpsc::channel(16);
    tokio::spawn(async move {
        let mut members = Members::default();
        match source {
            NodeSource::List(urls) => {
                let nodes = urls.into_iter().map(|url| NodeAddress { url, address: None });
                for change in members.set(nodes.collect()) {
                    if tell.send(change).await.is_err() {
                        return;
                    }
                }
                tell.closed().await;
            }
            NodeSource::Name(url) => loop {
                // A name that leads nowhere now is no reason to give up the nodes that are known.
                if let Some(nodes) = look_up(&url).await {
                    for change in members.set(nodes) {
                        if tell.send(change).await.is_err() {
                            return;
                        }
                    }
                }
                tokio::select! {
                    () = tell.closed() => return,
                    () = tokio::time::sleep(AGAIN) => {}
                }
            },
        }
    });
    told
}

async fn look_up(url: &str) -> Option<BTreeSet<NodeAddress>> {
    let uri: Uri = url.parse().ok()?;
    let found = match timeout(PATIENCE, tokio::net::lookup_host(host_and_port(&uri))).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            tracing::warn!(url, %error, "the nodes of the cluster cannot be looked up");
            return None;
        }
        Err(_) => {
            tracing::warn!(url, "the nodes of the cluster are not found in time");
            return None;
        }
    };
    let nodes = found.map(|address| NodeAddress { url: url.to_owned(), address: Some(address) });
    Some(nodes.collect()).filter(|nodes: &BTreeSet<_>| !nodes.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> NodeAddress {
        let address = Some(SocketAddr::from(([192, 0, 2, 1], port)));
        NodeAddress { url: "https://sip.example:11052".to_owned(), address }
    }

    #[test]
    fn a_node_that_comes_back_is_what_it_was() {
        let mut members = Members::default();
        let added = members.set(BTreeSet::from([at(1), at(2)]));
        assert_eq!(
            added,
            [Membership::Added(NodeId(0), at(1)), Membership::Added(NodeId(1), at(2))]
        );
        assert_eq!(members.set(BTreeSet::from([at(2)])), [Membership::Removed(NodeId(0))]);
        let back = members.set(BTreeSet::from([at(1), at(2), at(3)]));
        assert_eq!(
            back,
            [Membership::Added(NodeId(0), at(1)), Membership::Added(NodeId(2), at(3))]
        );
    }

    #[tokio::test]
    async fn each_address_of_a_name_is_a_node() {
        let nodes = look_up("http://localhost:11052").await.expect("it has an address");
        assert!(nodes.iter().all(|node| node.address.is_some_and(|at| at.port() == 11052)));
        assert_eq!(look_up("http://nowhere.invalid:1").await, None);
    }
}
