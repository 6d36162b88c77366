use super::activity::string_enum;
use super::{
    Activity, CallId, DeviceId, FeatureCodeDialled, Mode, Number, Refusal, RequestId, Scope,
    Timestamp, UnknownWord, UserData,
};
use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

/// What the backend reports. Each carries the whole entity, so losing one costs nothing and a late
/// reader is right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A device as it is now.
    Device(DeviceFact),
    /// A device is known no more.
    DeviceGone {
        /// The device.
        device: DeviceId,
    },
    /// A call as it is now. Once every party is `Released` it is over and not reported again.
    Call(CallFact),
    /// A monitor as it is now.
    Monitor(MonitorFact),
    /// The monitor of this supervisor's device is gone.
    MonitorGone {
        /// The supervisor's device.
        supervisor: DeviceId,
    },
    /// May the supervisor join? Asked before each join of a monitor that confirms joins; answered
    /// by `AdmitMonitoring`.
    AdmissionAsked(AdmissionAsked),
    /// Something accepted earlier has failed.
    Failed(Failure),
    /// What the sound of a join was, after its end. Not every backend measures it.
    JoinSound(JoinSound),
    /// A supervisor asks for something at the phone. Not every backend has feature codes.
    FeatureCodeDialled(FeatureCodeDialled),
    /// A snapshot begins: what was known before it and is not repeated in it is gone.
    SnapshotBegin,
    /// Everything that existed when the watch began has been reported.
    SnapshotComplete,
    /// Nobody has seen the end of this call: its backend, one of several, is lost or has come back
    /// without it. Made by the seam, never sent on the wire; the call itself, over, comes next.
    CallLost {
        /// The call.
        call: CallId,
    },
    /// The backend can not be reached any more; made by the seam, never sent on the wire.
    Lost,
}

/// A fact and its place in the backend's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revised {
    /// Grows by at least one with each change; a watch may resume after it.
    pub revision: u64,
    /// The fact itself, whole.
    pub fact: Fact,
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A telephone of an agent, a supervisor or a customer account.
    Phone,
    /// A queue or routing point.
    RoutingPoint,
}

/// A device as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceFact {
    /// The id of the device.
    pub id: DeviceId,
    /// Its number.
    pub number: Number,
    /// What it is.
    pub kind: DeviceKind,
    /// Its phone can be reached.
    pub registered: bool,
    /// Do-not-disturb is on.
    pub do_not_disturb: bool,
    /// Calls are forwarded to.
    pub forward_to: Option<Number>,
}

string_enum! {
    /// The kind of a call, as its first leg was made.
    CallType {
        /// Between two internal devices.
        Internal,
        /// From outside to a device.
        Inbound,
        /// From a device to outside.
        Outbound,
        /// A call made to ask a colleague while another is held.
        Consult,
    } "Internal, Inbound, Outbound, Consult"
}

string_enum! {
    /// The state of one leg of a call.
    LegState {
        /// The party is calling and nobody has answered.
        Dialing,
        /// The party's phone rings.
        Ringing,
        /// The party talks.
        Established,
        /// The party has put the others on hold.
        Held,
        /// The party has left.
        Released,
    } "Dialing, Ringing, Established, Held, Released"
}

string_enum! {
    /// What a party is on a call. The hearing table follows from it.
    PartyRole {
        /// An internal device that talks to a customer or to another agent.
        Agent,
        /// Everybody else.
        Customer,
        /// Brought in by a monitor.
        Supervisor,
    } "Agent, Customer, Supervisor"
}

/// One leg of a call as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartyFact {
    /// The device, when it is an internal one.
    pub device: Option<DeviceId>,
    /// The number shown for the party.
    pub number: Number,
    /// The party's role.
    pub role: PartyRole,
    /// The state of the leg.
    pub state: LegState,
    /// The party has muted its leg.
    pub muted: bool,
    /// A supervisor has muted the party toward the customer.
    pub muted_by_supervisor: bool,
    /// Its phone holds the call, and only the phone can take it back (RFC 3264 8.4).
    pub held_at_phone: bool,
    /// For a supervisor: the activity now.
    pub activity: Option<Activity>,
    /// For a supervisor: the device monitored on this call now: the target or, when that one has
    /// left, the agent in its place.
    pub monitors: Option<DeviceId>,
    /// When the leg was established.
    pub established_at: Option<Timestamp>,
    /// How the sound of the leg fares; `None` before the first report, and where nobody measures
    /// it.
    pub quality: Option<Quality>,
    /// Of a device that has left: the number that its leg was handed on to by the phone or the
    /// switch it is at, and that is a party of its own since.
    pub handed_on_to: Option<Number>,
}

/// How the sound of one leg fares: the packets since it began, the rest as of its last report.
/// Estimates are MOS in hundredths, by the E-model (ITU-T G.107).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quality {
    /// RTP packets sent to it.
    pub packets_sent: u64,
    /// RTP packets received from it.
    pub packets_received: u64,
    /// Of a thousand packets of its, those that did not come.
    pub lost_permille: u16,
    /// Interarrival jitter of what came, in milliseconds.
    pub jitter_ms: u32,
    /// How good what it sends can sound; `None` when nothing came.
    pub mos: Option<u16>,
    /// What it reports of what we send to it; `None` while it reports nothing.
    pub remote: Option<RemoteQuality>,
    /// The round trip to it and back, in milliseconds, when it is known.
    pub round_trip_ms: Option<u32>,
}

/// How a leg receives us, by its own report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemoteQuality {
    /// Of a thousand packets of ours, those that did not reach it.
    pub lost_permille: u16,
    /// Interarrival jitter, in milliseconds.
    pub jitter_ms: u32,
    /// How good what we send can sound there.
    pub mos: u16,
}

/// A call as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallFact {
    /// The id of the call.
    pub id: CallId,
    /// 16 hexadecimal digits.
    pub conn_id: String,
    /// Its kind.
    pub call_type: CallType,
    /// The number that called.
    pub ani: Number,
    /// The number that was called.
    pub dnis: Number,
    /// When it began.
    pub started_at: Timestamp,
    /// The call that it was made to ask about, while that one lives.
    pub parent: Option<CallId>,
    /// The device that has made a conference of it.
    pub owner: Option<DeviceId>,
    /// What is attached to it.
    pub user_data: UserData,
    /// Its legs, in the order they came.
    pub parties: Vec<PartyFact>,
}

impl CallFact {
    /// Every party has left.
    pub fn is_over(&self) -> bool {
        self.parties.iter().all(|party| party.state == LegState::Released)
    }

    /// Nothing but how the sound fares differs.
    pub fn is_same_but_quality(&self, other: &CallFact) -> bool {
        let mut alike = self.clone();
        for (party, others) in alike.parties.iter_mut().zip(&other.parties) {
            party.quality = others.quality;
        }
        alike == *other
    }

    /// The leg of a device that has not left.
    pub fn party_of(&self, device: &DeviceId) -> Option<&PartyFact> {
        self.parties.iter().find(|party| {
            party.device.as_ref() == Some(device) && party.state != LegState::Released
        })
    }
}

/// How far a monitor is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MonitorState {
    /// Waits for the target's next call.
    Armed,
    /// Waits for leave to join this call.
    Admitting {
        /// The call of the monitor.
        call: CallId,
    },
    /// The supervisor's phone is being brought in.
    Inviting {
        /// The call of the monitor.
        call: CallId,
    },
    /// The supervisor is on the call.
    Joined {
        /// The call of the monitor.
        call: CallId,
        /// The activity now; differs from the monitor's own after a live switch.
        activity: Activity,
        /// The time of the join.
        since: Timestamp,
    },
}

impl MonitorState {
    /// The call this state is about.
    pub fn call(&self) -> Option<&CallId> {
        match self {
            MonitorState::Armed => None,
            MonitorState::Admitting { call }
            | MonitorState::Inviting { call }
            | MonitorState::Joined { call, .. } => Some(call),
        }
    }
}

/// One plain word, for people: the log says it.
impl fmt::Display for MonitorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MonitorState::Armed => "armed",
            MonitorState::Admitting { .. } => "admitting",
            MonitorState::Inviting { .. } => "inviting",
            MonitorState::Joined { .. } => "joined",
        })
    }
}

/// A monitor as it is now. One per supervisor's device, so that device is its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MonitorFact {
    /// The supervisor's device.
    pub supervisor: DeviceId,
    /// The monitored device.
    pub target: DeviceId,
    /// What was asked for.
    pub activity: Activity,
    /// The mode of the monitor.
    pub mode: Mode,
    /// What it follows.
    pub scope: Scope,
    /// Each join is confirmed first.
    pub confirm_joins: bool,
    /// The supervisor hears agents only.
    pub agent_side_only: bool,
    /// How far it is.
    pub state: MonitorState,
}

/// May this supervisor join this call?
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdmissionAsked {
    /// The supervisor's device.
    pub supervisor: DeviceId,
    /// The monitored device.
    pub target: DeviceId,
    /// The call of the monitor.
    pub call: CallId,
    /// The activity about to begin.
    pub activity: Activity,
}

/// Something that was accepted has failed later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The device it is told to.
    pub device: DeviceId,
    /// The call, if one was concerned.
    pub call: Option<CallId>,
    /// The request that led to it, when still known.
    pub request_id: Option<RequestId>,
    /// The reason of the failure.
    pub refusal: Refusal,
}

/// What the sound was while a supervisor was on a call: for the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinSound {
    /// The supervisor's device.
    pub supervisor: DeviceId,
    /// The monitored device.
    pub target: DeviceId,
    /// The call.
    pub call: CallId,
    /// When the supervisor joined.
    pub since: Timestamp,
    /// The legs of the call then.
    pub legs: Vec<LegSound>,
}

/// The sound of one leg during a join.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegSound {
    /// What it was on the call.
    pub role: PartyRole,
    /// The local port; 0: not known.
    pub port: u16,
    /// Where its packets went.
    pub remote: Option<SocketAddr>,
    /// What they were, by the codec's RTP name; empty: not known.
    pub codec: String,
    /// What a customer was sent.
    pub sent: Option<SentSound>,
}

/// What a customer was sent during a join.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentSound {
    /// RTP packets.
    pub packets: u64,
    /// Of these: the agent's payload, byte for byte.
    pub agents: u64,
    /// The hash of what was sent to it during joins before; zeros: nothing was.
    pub hash_before: [u8; 32],
    /// The SHA-256 of `hash_before` and, for each packet in order, the length of its payload (16
    /// bits, network order) and its payload.
    pub hash: [u8; 32],
}

/// What a backend can do. The gateway offers no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Name and version, for people.
    pub backend: String,
    /// Activities it can start.
    pub activities: Vec<Activity>,
    /// Modes.
    pub modes: Vec<Mode>,
    /// Scopes it keeps to.
    pub scopes: Vec<Scope>,
    /// A joined supervisor can change the activity.
    pub live_switching: bool,
    /// MuteMonitoredParty works.
    pub mute_monitored: bool,
    /// Transfers work, in a single step.
    pub transfers: bool,
    /// Transfers and conferences may begin with a call to ask.
    pub consultations: bool,
    /// Conferences and RemoveParticipant work.
    pub conferences: bool,
    /// A monitor can be limited to hearing agents.
    pub agent_side_only: bool,
    /// SendDtmf works.
    pub dtmf: bool,
    /// Hold and Retrieve work.
    pub hold: bool,
    /// SwapCalls works.
    pub swap_calls: bool,
    /// Mute works.
    pub mute: bool,
    /// Answer works: a phone can be picked up from afar.
    pub answer: bool,
    /// Dial works.
    pub dial: bool,
    /// ClearCall works.
    pub clear_call: bool,
    /// Reject works.
    pub reject: bool,
    /// Redirect works.
    pub redirect: bool,
    /// SetDoNotDisturb works.
    pub do_not_disturb: bool,
    /// SetForwarding works.
    pub forwarding: bool,
    /// Calls carry data, and ChangeUserData works.
    pub user_data: bool,
    /// Supervisors may dial feature codes at their phones.
    pub feature_codes: bool,
    /// Routing points can be monitored.
    pub routing_points: bool,
    /// It is a SIP cluster, where routing points are refused.
    pub sip_cluster: bool,
    /// Codecs, by their RTP names.
    pub codecs: Vec<String>,
}
