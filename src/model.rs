//! Ids and the four words: the vocabulary of every quiet room.
//!
//! ```text
//! client ──Request──▶ gateway ──Command──▶ backend
//! client ◀──Notice─── gateway ◀───Fact──── backend
//! ```
//!
//! - A client makes a [`Request`]; the gateway answers it with an [`Answer`] or a [`Refusal`].
//! - The gateway sends the backend a [`Command`].
//! - The backend reports a [`Fact`]: always the whole entity, never a difference.
//! - The gateway sends clients a [`Notice`].
//!
//! Nothing goes backwards except as the next word.

mod command;
mod fact;
mod ids;
mod monitoring;
mod notice;
mod refusal;
mod request;

pub use command::{Command, CommandContext, TransferStep};
pub use fact::{
    AdmissionAsked, CallFact, CallType, Capabilities, DeviceFact, DeviceKind, Fact, Failure, LegState, MonitorFact, MonitorState,
    PartyFact, PartyRole, Quality, RemoteQuality, Revised,
};
pub use ids::{CallId, DeviceId, GroupId, LegId, Now, Number, RequestId, Timestamp, UserId};
pub use monitoring::{Activity, Mode, Scope, UnknownWord};
pub use notice::{CallNotification, CallView, DeviceView, Notice, NoticeBody, ParticipantView, Topic, UserView};
pub use refusal::{Reason, Refusal, Subject};
pub use request::{AgentState, Answer, CallOperation, Feature, Query, Request, RequestEnvelope, Role, TargetRef};
