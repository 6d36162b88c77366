//! The gRPC server that every backend shares.

use super::proto::telephony_server::TelephonyServer;
use super::{FactLog, Placed, Port};
use crate::words::Capabilities;
use tokio::sync::{mpsc, watch};

/// The contract, served: hands commands to a backend's loop and its facts to watchers.
#[derive(Debug)]
pub struct Service {
    capabilities: watch::Receiver<Capabilities>,
    commands: mpsc::Sender<Placed>,
    facts: FactLog,
}

/// A server for one backend, and the backend's end of it. Request ids are done once, malformed input goes no further.
pub fn serve(capabilities: Capabilities) -> (TelephonyServer<Service>, Port) {
    let facts = FactLog::new();
    let (server, commands) = serve_facts(watch::Sender::new(capabilities).subscribe(), facts.clone());
    (server, Port { commands, facts })
}

/// The same for who has its facts already and whose capabilities change: a gateway.
pub fn serve_facts(capabilities: watch::Receiver<Capabilities>, facts: FactLog) -> (TelephonyServer<Service>, mpsc::Receiver<Placed>) {
    let (commands, placed) = mpsc::channel(256);
    let service = Service {
        capabilities,
        commands,
        facts,
    };
    (TelephonyServer::new(service), placed)
}

/// The whole gRPC router of a backend: the contract, `grpc.health.v1`, and server reflection if asked for.
pub fn router(_server: TelephonyServer<Service>, _reflection: bool) -> tonic::transport::server::Router {
    todo!()
}
