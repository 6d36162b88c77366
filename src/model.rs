//! Ids and the four words: the vocabulary of every core module.
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

mod activity;
mod caller;
mod command;
pub mod config_value;
mod contact;
mod difference;
mod digits;
mod fact;
mod fact_table;
mod feature_code;
mod ids;
mod network;
mod node_load;
mod notice;
mod operation;
mod plain_text;
mod refusal;
mod request;
mod shared_map;
mod user_data;

pub use activity::{Activity, Mode, Scope, UnknownWord};
pub use caller::{Caller, CallerRole};
pub use command::{Command, CommandContext, TransferStep};
pub use contact::{ContactNumber, ContactView, GroupSettings, GroupView};
pub use difference::Difference;
pub use digits::{DialString, Digits, NotDialable, NotDtmf};
pub use fact::{
    AdmissionAsked, CallFact, CallType, Capabilities, DeviceFact, DeviceKind, Fact, Failure,
    JoinSound, LegSound, LegState, MonitorFact, MonitorState, PartyFact, PartyRole, Quality,
    RemoteQuality, Revised, SentSound,
};
pub use fact_table::{FactTable, Unrepeated};
pub use feature_code::{FeatureCode, FeatureCodeDialled};
pub use ids::{
    CallId, CallerName, DeviceId, FeatureCodeId, GroupId, LegId, Now, Number, RequestId, Timestamp,
    UserId,
};
pub use network::{Network, NotANetwork};
pub use node_load::NodeLoad;
pub use notice::{
    CallNotification, CallView, DeviceView, Notice, NoticeBody, ParticipantView, Topic, UserView,
};
pub use operation::Operation;
pub use plain_text::{PlainText, is_plain};
pub use refusal::{Reason, Refusal, Subject};
pub use request::{
    AgentState, Answer, BadRequest, BadRequestOn, CallOperation, Feature, NotReadyReason, Query,
    Request, RequestEnvelope, Role, TargetRef, UserState,
};
pub use shared_map::SharedMap;
pub use user_data::{NotUserData, UserData, UserDataChange};
