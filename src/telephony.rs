//! The contract `undertone.telephony.v1` between gateway and backend: its generated types, their
//! conversion to the model, the server that every backend shares, how a gateway reaches a backend,
//! and a backend without telephones.
//!
//! ```text
//! gateway/task ──CommandCall──▶ connection ═══gRPC═══▶ server ──CommandCall──▶ a backend's loop
//!              ◀─────Fact──────            ◀══════════        ◀────publish──── FactLog
//! ```

pub mod callers;
mod client;
pub mod connection;
mod convert;
mod dedup;
mod fact_log;
pub mod phones;
mod server;
pub mod simulated;
mod status;
mod watches;

#[cfg(feature = "contract-check")]
pub(crate) use client::answer;
pub use client::execute;
pub(crate) use convert::OF_ITS_OWN;
pub use convert::{Malformed, WatchItem};
pub use fact_log::{FactLog, Watcher};
pub use server::{AboutBackend, TelephonyService, router, routes, serve, serve_facts};
pub use status::{code_of, refusal_of, status_of};

use crate::model::{Capabilities, Command, CommandContext, Fact, NodeLoad, Refusal};
use tokio::sync::{mpsc, oneshot, watch};

/// Generated from `proto/undertone/telephony/v1/telephony.proto`.
#[expect(missing_docs, reason = "generated; the proto file has the documentation")]
#[allow(unreachable_pub, clippy::all, reason = "generated")]
pub mod proto {
    tonic::include_proto!("undertone.telephony.v1");

    /// The compiled descriptors, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/telephony.bin"));
}

/// One command on its way: contract server → backend's loop, or gateway's task → connection.
#[derive(Debug)]
pub struct CommandCall {
    /// Request id, user, and how long the caller waits.
    pub context: CommandContext,
    /// What is commanded.
    pub command: Command,
    /// Accepted or refused. Dropped unanswered, it is [`crate::model::Reason::Unavailable`].
    pub reply: oneshot::Sender<Result<(), Refusal>>,
}

impl CommandCall {
    /// A command with the end on which its answer comes.
    pub fn new(
        context: CommandContext,
        command: Command,
    ) -> (Self, oneshot::Receiver<Result<(), Refusal>>) {
        let (reply, answer) = oneshot::channel();
        let placed = Self { context, command, reply };
        (placed, answer)
    }
}

/// The backend's end: what its loop receives, and where it publishes.
#[derive(Debug)]
pub struct CommandInbox {
    /// Commands, well formed and each request id only once.
    pub commands: mpsc::Receiver<CommandCall>,
    /// Where the backend says what has become of things.
    pub facts: FactLog,
    /// Where the backend says how busy it is; without a limit and not draining until it does.
    pub load: watch::Sender<NodeLoad>,
}

/// The gateway's end of the seam, made by `telephony::connect::line`; reconnects and resumes by
/// itself.
///
/// A new snapshot comes as `SnapshotBegin`, the entities, `SnapshotComplete`; when the stream
/// breaks, `Lost`.
#[derive(Debug)]
pub struct BackendConnection {
    /// Where the gateway places its commands.
    pub commands: mpsc::Sender<CommandCall>,
    /// What the backend reports.
    pub facts: mpsc::Receiver<Fact>,
    /// What the backend can do, as it last said; empty until it has said.
    pub capabilities: watch::Receiver<Capabilities>,
    /// How busy the backend is, as it last said.
    pub load: watch::Receiver<NodeLoad>,
}
