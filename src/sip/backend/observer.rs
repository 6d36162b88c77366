//! What the operator is told of calls: lines in the log and figures in the metrics. Decides
//! nothing.

use crate::media::engine::EngineStats;
use crate::media::{Codec, LegStats};
use crate::model::{
    CallFact, CallId, DeviceId, Fact, LegState, MonitorFact, MonitorState, Now, Number, PartyRole,
    Refusal,
};
use crate::sip::b2bua::{Remark, Unroutable};
use crate::sip::leg::{LegEvent, LegId, LegSource};
use crate::sip::message::reason_phrase;
use crate::sip::sdp::SdpFault;
use crate::telemetry::{Pii, logged};
use metrics::{counter, gauge, histogram};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

/// Calls that are remembered at most; the oldest of them is forgotten for one more.
const MOST_CALLS: usize = 100_000;

/// Remarks that are remembered at most; then all of them are news again.
const MOST_REMARKS: usize = 10_000;

/// What has been said so far.
#[derive(Debug, Default)]
pub(super) struct Observer {
    /// The SIP Call-IDs of legs.
    call_ids: BTreeMap<LegId, String>,
    /// The caller of an incoming leg, until it is refused or gone.
    callers: BTreeMap<LegId, CallAttempt>,
    /// The party of a leg.
    media: BTreeMap<LegId, Sounding>,
    /// The legs of a call that still carry sound.
    sounding: BTreeMap<CallId, BTreeSet<LegId>>,
    calls: BTreeMap<CallId, ObservedCall>,
    monitors: BTreeMap<DeviceId, ObservedMonitor>,
    remarks: Remarks,
}

/// What was said of peers' addresses: once each, or a phone that goes on would fill the log.
#[derive(Debug, Default)]
struct Remarks(BTreeSet<(&'static str, LegSource, Option<IpAddr>)>);

impl Remarks {
    /// Whether it is news.
    fn note(&mut self, what: &'static str, peer: &LegSource, address: Option<IpAddr>) -> bool {
        if self.0.len() >= MOST_REMARKS {
            self.0.clear();
        }
        self.0.insert((what, peer.clone(), address))
    }
}

/// An incoming call, as a line about its refusal tells of it.
#[derive(Debug)]
struct CallAttempt {
    from: Number,
    to: Number,
    peer: LegSource,
    why: Option<Unroutable>,
}

/// A leg with sound.
#[derive(Debug)]
struct Sounding {
    call: CallId,
    role: PartyRole,
    codec: Codec,
    since: Instant,
}

/// A call that was spoken of.
#[derive(Debug)]
struct ObservedCall {
    begun: Instant,
    answered: Option<Instant>,
    over: bool,
    /// Its legs that were handed on and have been told of.
    handed_on: usize,
    customer_packets: u64,
    customer_identical: u64,
}

/// A monitor as it was when it was spoken of last.
#[derive(Debug)]
struct ObservedMonitor {
    state: &'static str,
    joined: Option<CallId>,
    /// Since when it is on its way into a call.
    coming: Option<Instant>,
}

fn name_of(peer: &LegSource) -> &str {
    match peer {
        LegSource::Account(device) => device.as_str(),
        LegSource::Trunk(name) => name,
    }
}

impl Observer {
    /// A leg's SIP Call-ID is known.
    pub(super) fn name(&mut self, leg: LegId, call_id: String) {
        self.call_ids.insert(leg, call_id);
    }

    /// The span in which an event is dealt with.
    pub(super) fn span(&self, event: &LegEvent) -> tracing::Span {
        let leg = match event {
            LegEvent::Incoming { leg, .. }
            | LegEvent::Located { leg, .. }
            | LegEvent::ConnectedIdentity { leg, .. }
            | LegEvent::Progress { leg, .. }
            | LegEvent::Answered { leg, .. }
            | LegEvent::Refused { leg, .. }
            | LegEvent::Failed { leg, .. }
            | LegEvent::Redirected { leg, .. }
            | LegEvent::Confirmed { leg, .. }
            | LegEvent::Offered { leg, .. }
            | LegEvent::OfferAnswered { leg, .. }
            | LegEvent::OfferRefused { leg, .. }
            | LegEvent::AskToAnswerRefused { leg, .. }
            | LegEvent::Referred { leg, .. }
            | LegEvent::Dialled { leg, .. }
            | LegEvent::Ended { leg, .. } => leg,
            LegEvent::TrunkLocated { .. } | LegEvent::Registered { .. } => {
                return tracing::Span::none();
            }
        };
        let known = self.call_ids.get(leg).map_or("", String::as_str);
        let call_id = match event {
            LegEvent::Incoming { call_id, .. } => call_id,
            _ => known,
        };
        tracing::info_span!("sip", call_id, leg = leg.0)
    }

    /// Something about a peer's addresses.
    pub(super) fn remark(&mut self, remark: Remark) {
        match remark {
            Remark::Refused { peer, address, why } => {
                counter!("undertone_media_targets_refused_total", "reason" => why.name())
                    .increment(1);
                if self.remarks.note(why.name(), &peer, Some(address.ip())) {
                    tracing::warn!(
                        peer = name_of(&peer),
                        %address,
                        reason = %why,
                        "a description points to where sound is never sent: refused (488)"
                    );
                }
            }
            Remark::BehindNat { peer, host, described } => {
                if self.remarks.note("nat", &peer, None) {
                    tracing::info!(
                        peer = name_of(&peer),
                        %host,
                        %described,
                        "taken to be behind a NAT: its sound is expected from, and sent to, where \
                         its signalling comes from (nat = \"auto\")"
                    );
                }
            }
            Remark::Waited { peer, host, described } => {
                if self.remarks.note("wait", &peer, Some(described.ip())) {
                    let host = host.map(|host| host.to_string());
                    tracing::info!(
                        peer = name_of(&peer),
                        host,
                        %described,
                        "its sound is described at another host than its signalling's: nothing is \
                         sent there until a valid packet has come from there"
                    );
                }
            }
            Remark::Unnamed { peer } => {
                if self.remarks.note("unnamed", &peer, None) {
                    tracing::warn!(
                        peer = name_of(&peer),
                        "a device has answered and its switch has not said who is connected \
                         (P-Asserted-Identity, Remote-Party-ID): if it hands the leg on, a \
                         supervisor is heard there"
                    );
                }
            }
            Remark::Withheld { peer, address } => {
                counter!("undertone_media_withheld_total").increment(1);
                if self.remarks.note("withheld", &peer, address.map(|address| address.ip())) {
                    let address = address.map(|address| address.to_string());
                    tracing::warn!(
                        peer = name_of(&peer),
                        address,
                        "nothing has come from where its sound is described: nothing more is sent \
                         there; a trunk's media gateways can be named in its media_sources"
                    );
                }
            }
        }
    }

    /// A leg is gone.
    pub(super) fn forget(&mut self, leg: LegId) {
        self.call_ids.remove(&leg);
        self.callers.remove(&leg);
    }

    /// An INVITE for a new call has come.
    pub(super) fn calls(&mut self, leg: LegId, from: &Number, to: &Number, peer: &LegSource) {
        let (from, to, peer) = (from.clone(), to.clone(), peer.clone());
        self.callers.insert(leg, CallAttempt { from, to, peer, why: None });
    }

    /// Why a caller is about to be refused.
    pub(super) fn denied(&mut self, leg: LegId, why: Unroutable) {
        if let Some(caller) = self.callers.get_mut(&leg) {
            caller.why = Some(why);
        }
    }

    /// A caller was refused.
    pub(super) fn refused(&mut self, leg: LegId, status: u16) {
        let call_id = self.call_ids.remove(&leg).unwrap_or_default();
        counter!("undertone_calls_refused_total", "status" => status.to_string()).increment(1);
        let caller = self.callers.remove(&leg);
        let peer = caller.as_ref().map(|caller| match &caller.peer {
            LegSource::Account(device) => device.as_str(),
            LegSource::Trunk(name) => name.as_str(),
        });
        let why = caller.as_ref().and_then(|caller| caller.why);
        let reason = why.map_or_else(|| reason_phrase(status).to_owned(), |why| why.to_string());
        let (from, to) = (
            caller.as_ref().map(|caller| Pii(&caller.from)),
            caller.as_ref().map(|caller| Pii(&caller.to)),
        );
        tracing::info!(
            call_id,
            from = from.map(tracing::field::display),
            to = to.map(tracing::field::display),
            peer,
            status,
            reason,
            "call refused"
        );
    }

    /// A session description could not be used.
    pub(super) fn unusable(&self, leg: LegId, fault: &SdpFault) {
        let call_id = self.call_ids.get(&leg).map_or("", String::as_str);
        let line = fault.line.as_ref();
        tracing::info!(
            call_id,
            leg = leg.0,
            error = %fault.error,
            line = line.map(|line| line.number),
            text = line.map(|line| line.text.as_str()).filter(|text| !text.is_empty()),
            "session description that cannot be used"
        );
    }

    /// A supervisor cannot join a call of which the sound is only relayed.
    pub(super) fn relayed(&self, supervisor: &DeviceId, call: &CallId, codec: Codec) {
        counter!("undertone_joins_refused_total", "reason" => "codec").increment(1);
        tracing::info!(
            %supervisor,
            %call,
            codec = codec.name(),
            "no supervisor can join: the sound of the call is relayed without being decoded"
        );
    }

    /// A transfer that a phone has asked for (REFER) comes to nothing.
    pub(super) fn not_transferred(&self, leg: LegId, status: u16) {
        let call_id = self.call_ids.get(&leg).map_or("", String::as_str);
        counter!("undertone_transfers_refused_total", "status" => status.to_string()).increment(1);
        tracing::info!(call_id, status, reason = reason_phrase(status), "transfer refused");
    }

    /// A leg's sound belongs to this party of this call.
    pub(super) fn party(
        &mut self,
        leg: LegId,
        call: &CallId,
        role: PartyRole,
        codec: Codec,
        now: Instant,
    ) {
        self.sounding.entry(call.clone()).or_default().insert(leg);
        let since = self.media.get(&leg).map_or(now, |sounding| sounding.since);
        let call = call.clone();
        self.media.insert(leg, Sounding { call, role, codec, since });
    }

    /// A leg's sound has ended.
    pub(super) fn silent(&mut self, leg: LegId, stats: &LegStats, now: Now) {
        counter!("undertone_media_packets_lost_total").increment(stats.lost);
        measure_leg(stats);
        let Some(sounding) = self.media.remove(&leg) else {
            return;
        };
        sounding.sum_up(stats, now.mono);
        let Sounding { call, role, .. } = sounding;
        let is_customer = role == PartyRole::Customer;
        if is_customer {
            counter!("undertone_customer_packets_total").increment(stats.sent);
            counter!("undertone_customer_packets_identical_total").increment(stats.unchanged);
        }
        if let Some(legs) = self.sounding.get_mut(&call) {
            legs.remove(&leg);
            if legs.is_empty() {
                self.sounding.remove(&call);
            }
        }
        let Some(known) = self.calls.get_mut(&call) else {
            return;
        };
        if is_customer {
            known.customer_packets += stats.sent;
            known.customer_identical += stats.unchanged;
        }
        self.sum_up(&call);
    }

    /// Says at the end of a call, when all its sound has ended, what went to the customer.
    fn sum_up(&mut self, call: &CallId) {
        if self.sounding.contains_key(call) || !self.calls.get(call).is_some_and(|known| known.over)
        {
            return;
        }
        let Some(known) = self.calls.remove(call) else {
            return;
        };
        if known.answered.is_some() {
            tracing::info!(
                call = %call,
                customer_packets = known.customer_packets,
                customer_packets_identical = known.customer_identical,
                "sound of the call: packets to the customer, and those that were the agent's \
                 unchanged"
            );
        }
    }

    /// A fact is published.
    pub(super) fn fact(&mut self, fact: &Fact, now: Now) {
        match fact {
            Fact::Call(call) => self.call(call, now.mono),
            Fact::Monitor(monitor) => self.monitor(monitor, now.mono),
            Fact::MonitorGone { supervisor } => {
                if let Some(watched) = self.monitors.remove(supervisor) {
                    left(supervisor, watched.joined.as_ref());
                }
                tracing::info!(%supervisor, "monitor gone");
                self.count_monitors();
            }
            Fact::Failed(failure) => tracing::info!(
                device = %failure.device,
                call = failure.call.as_ref().map(CallId::as_str),
                request_id = failure.request_id.as_ref().map(|id| id.as_str()),
                reason = %failure.refusal.reason,
                error = %logged(&failure.refusal),
                "failed"
            ),
            _ => {}
        }
    }

    fn call(&mut self, call: &CallFact, now: Instant) {
        let is_over = call.is_over();
        if !self.calls.contains_key(&call.id) {
            if is_over {
                return;
            }
            counter!("undertone_calls_total").increment(1);
            tracing::info!(
                call = %call.id,
                from = %Pii(&call.ani),
                to = %Pii(&call.dnis),
                "call begun"
            );
            if self.calls.len() >= MOST_CALLS {
                self.calls.pop_first();
            }
            let known = ObservedCall {
                begun: now,
                answered: None,
                over: false,
                handed_on: 0,
                customer_packets: 0,
                customer_identical: 0,
            };
            self.calls.insert(call.id.clone(), known);
        }
        let Some(known) = self.calls.get_mut(&call.id) else {
            return;
        };
        let talking = call
            .parties
            .iter()
            .filter(|party| matches!(party.state, LegState::Established | LegState::Held))
            .count();
        if known.answered.is_none() && talking >= 2 {
            known.answered = Some(now);
            tracing::info!(call = %call.id, after_ms = millis(known.begun, now), "call answered");
        }
        let handed_on = || call.parties.iter().filter(|party| party.handed_on_to.is_some());
        for party in handed_on().skip(known.handed_on) {
            let device = party.device.as_ref().map(DeviceId::as_str);
            let to = party.handed_on_to.as_ref().map(Pii);
            tracing::info!(
                call = %call.id,
                device,
                to = to.map(tracing::field::display),
                "a leg was handed on by its phone or switch"
            );
        }
        known.handed_on = handed_on().count();
        if is_over && !known.over {
            known.over = true;
            let talked_ms = known.answered.map(|answered| millis(answered, now));
            tracing::info!(
                call = %call.id,
                duration_ms = millis(known.begun, now),
                talked_ms,
                "call ended"
            );
            self.sum_up(&call.id);
        }
    }

    fn monitor(&mut self, monitor: &MonitorFact, now: Instant) {
        let asked = monitor.activity;
        // A key or a switch changes what is done on this call alone.
        let (state, joined, activity) = match &monitor.state {
            MonitorState::Armed => ("armed", None, asked),
            MonitorState::Admitting { .. } => ("admitting", None, asked),
            MonitorState::Inviting { .. } => ("inviting", None, asked),
            MonitorState::Joined { call, activity, .. } => {
                ("joined", Some(call.clone()), *activity)
            }
        };
        let switched = (activity != asked).then_some(asked.as_str());
        let before = self.monitors.remove(&monitor.supervisor);
        let (was, came) = before.map_or((None, None), |before| (before.joined, before.coming));
        let (supervisor, target) = (&monitor.supervisor, &monitor.target);
        let coming = match state {
            "admitting" | "inviting" => came.or(Some(now)),
            _ => None,
        };
        if was != joined {
            left(supervisor, was.as_ref());
        }
        match &joined {
            Some(call) if was.as_ref() != Some(call) => {
                counter!("undertone_joins_total").increment(1);
                if let Some(came) = came {
                    histogram!("undertone_join_seconds")
                        .record(now.saturating_duration_since(came).as_secs_f64());
                }
                tracing::info!(
                    %supervisor,
                    monitored = %target,
                    call = %call,
                    activity = activity.as_str(),
                    asked = switched,
                    "supervisor joined"
                );
            }
            _ => {
                tracing::info!(
                    %supervisor,
                    monitored = %target,
                    state,
                    activity = activity.as_str(),
                    asked = switched,
                    "monitor"
                )
            }
        }
        self.monitors.insert(supervisor.clone(), ObservedMonitor { state, joined, coming });
        self.count_monitors();
    }

    fn count_monitors(&self) {
        for state in ["armed", "admitting", "inviting", "joined"] {
            let count = self.monitors.values().filter(|monitor| monitor.state == state).count();
            gauge!("undertone_monitors", "state" => state).set(count as f64);
        }
    }
}

impl Sounding {
    /// How the leg fared, in one line.
    fn sum_up(&self, stats: &LegStats, now: Instant) {
        tracing::info!(
            call = %self.call,
            role = self.role.as_str(),
            codec = self.codec.name(),
            seconds = now.saturating_duration_since(self.since).as_secs(),
            sent = stats.sent,
            received = stats.received,
            lost = stats.lost,
            remote_lost = stats.remote_lost,
            jitter_ms = stats.jitter.as_millis() as u64,
            remote_jitter_ms = stats.remote_jitter.as_millis() as u64,
            round_trip_ms = stats.round_trip.map(|time| time.as_millis() as u64),
            mos = stats.mos.map(opinion),
            remote_mos = stats.remote_mos.map(opinion),
            "sound of a leg"
        );
    }
}

/// Every leg counts once, at its end: what came from it as `in`, what it says it received as `out`.
fn measure_leg(stats: &LegStats) {
    let seen =
        stats.mos.map(|mos| (mos, stats.lost, stats.received + stats.lost, stats.jitter, "in"));
    let told = stats
        .remote_mos
        .map(|mos| (mos, stats.remote_lost, stats.sent, stats.remote_jitter, "out"));
    for (mos, lost, expected, jitter, direction) in seen.into_iter().chain(told) {
        let loss = if expected == 0 { 0.0 } else { lost as f64 / expected as f64 };
        histogram!("undertone_media_loss_ratio", "direction" => direction).record(loss);
        histogram!("undertone_media_jitter_seconds", "direction" => direction)
            .record(jitter.as_secs_f64());
        histogram!("undertone_media_mos", "direction" => direction).record(opinion(mos));
    }
    if let Some(time) = stats.round_trip {
        histogram!("undertone_media_round_trip_seconds").record(time.as_secs_f64());
    }
}

/// A device's phone can be reached, or no longer. Those behind a trunk come and go by the thousand,
/// and the line of the trunk has their count.
pub(super) fn presence(device: &DeviceId, registered: bool, registers_here: bool) {
    match (registers_here, registered) {
        (false, _) => tracing::debug!(%device, registered, "presence of a device"),
        (true, true) => tracing::info!(%device, "phone registered"),
        (true, false) => tracing::info!(%device, "phone no longer registered"),
    }
}

/// A feature code, or a key, is refused.
pub(super) fn code_refused(device: &DeviceId, code: &str, refusal: &Refusal) {
    let reason = refusal.reason.as_str();
    tracing::info!(%device, code, reason, error = %logged(refusal), "feature code refused");
}

fn opinion(hundredths: u16) -> f64 {
    f64::from(hundredths) / 100.0
}

fn left(supervisor: &DeviceId, call: Option<&CallId>) {
    if let Some(call) = call {
        tracing::info!(%supervisor, call = %call, "supervisor left");
    }
}

fn millis(from: Instant, to: Instant) -> u64 {
    to.saturating_duration_since(from).as_millis() as u64
}

/// What the media engine has counted: read when it is asked for, so that no packet costs more for
/// it.
pub(super) fn measure_media(stats: &EngineStats) {
    gauge!("undertone_media_legs").set(stats.legs as f64);
    gauge!("undertone_media_ports_free").set(stats.ports_free as f64);
    gauge!("undertone_media_workers_stopped").set(stats.workers_stopped as f64);
    for (name, value) in [
        ("undertone_media_packets_received_total", stats.received),
        ("undertone_media_packets_sent_total", stats.sent),
        ("undertone_media_packets_unchanged_total", stats.unchanged),
        ("undertone_media_packets_foreign_total", stats.foreign),
        ("undertone_media_packets_malformed_total", stats.malformed),
        ("undertone_media_packets_discarded_total", stats.discarded),
        ("undertone_media_srtp_rejected_total", stats.srtp_rejected),
        ("undertone_media_srtp_replayed_total", stats.srtp_replayed),
        ("undertone_media_send_errors_total", stats.send_errors),
        ("undertone_media_events_lost_total", stats.events_lost),
        ("undertone_media_legs_refused_total", stats.legs_refused),
        ("undertone_media_sources_taken_total", stats.sources_taken),
        ("undertone_media_worker_panics_total", stats.worker_panics),
        ("undertone_leak_guards_total", stats.leak_guards),
    ] {
        counter!(name).absolute(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Activity, Failure, Mode, Reason, Scope, Timestamp};
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex, PoisonError};

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines of the log at INFO.
    fn lines(act: impl FnOnce()) -> Vec<String> {
        let log = Log::default();
        let to = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .with_writer(move || to.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, act);
        let bytes = log.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        String::from_utf8(bytes).expect("text").lines().map(str::to_owned).collect()
    }

    fn now() -> Now {
        crate::clock::now()
    }

    fn joined(activity: Activity) -> Fact {
        Fact::Monitor(MonitorFact {
            supervisor: "boss".into(),
            target: "anna".into(),
            activity: Activity::ListenIn,
            mode: Mode::NextCall,
            scope: Scope::Call,
            confirm_joins: false,
            agent_side_only: false,
            state: MonitorState::Joined { call: "c".into(), activity, since: Timestamp(0) },
        })
    }

    #[test]
    fn the_line_after_a_key_says_the_activity_that_it_has_asked_for_and_the_one_before_all_keys() {
        let mut observer = Observer::default();
        let said = lines(|| {
            observer.fact(&joined(Activity::ListenIn), now());
            observer.fact(&joined(Activity::Coach), now());
            observer.fact(&joined(Activity::ListenIn), now());
        });
        assert_eq!(said.len(), 3, "{said:#?}");
        assert!(said[0].contains(r#"activity="ListenIn""#) && !said[0].contains("asked="));
        assert!(said[1].contains(r#"activity="Coach""#), "{said:#?}");
        assert!(said[1].contains(r#"asked="ListenIn""#), "{said:#?}");
        assert!(said[2].contains(r#"activity="ListenIn""#) && !said[2].contains("asked="));
    }

    #[test]
    fn a_failure_says_why_and_no_number() {
        let pattern = "Device '{}' can not be reached: its phone or switch answers 404.";
        let refusals = [
            Refusal::device(Reason::Internal, &"boss".into(), pattern),
            Refusal::number(Reason::InvalidState, &"0301234".into(), "Number '{}' is busy."),
        ];
        let said = lines(|| {
            for refusal in refusals {
                let (device, call, request_id) = ("boss".into(), None, None);
                let failure = Failure { device, call, request_id, refusal };
                Observer::default().fact(&Fact::Failed(failure), now());
            }
        });
        assert!(said[0].contains("Device 'boss' can not be reached") && said[0].contains("404"));
        assert!(said[1].contains("Number '<redacted>' is busy."), "{said:#?}");
    }

    #[test]
    fn a_refused_feature_code_says_device_code_and_reason() {
        let refusal = Refusal::new(Reason::NotPermitted, "No permission.");
        let said = lines(|| code_refused(&"boss".into(), "*81", &refusal));
        for expected in
            ["device=boss", r#"code="*81""#, r#"reason="NotPermitted""#, "No permission."]
        {
            assert!(said[0].contains(expected), "{said:#?}");
        }
    }

    #[test]
    fn a_thousand_devices_behind_a_trunk_that_comes_or_goes_are_no_line_each() {
        let said = lines(|| {
            (0..1000).for_each(|number| {
                presence(&number.to_string().as_str().into(), number % 2 == 0, false)
            });
            presence(&"anna".into(), true, true);
            presence(&"anna".into(), false, true);
        });
        assert_eq!(said.len(), 2, "{said:#?}");
        assert!(said[0].contains("phone registered") && said[1].contains("no longer registered"));
    }
}
