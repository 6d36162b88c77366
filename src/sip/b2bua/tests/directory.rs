//! Devices and trunks that go and come while there are calls.

use super::harness::*;
use crate::model::{Activity, Fact, Mode, Reason, Scope};
use crate::sip::b2bua::{AccountKind, Extension, NumberingChange, Output, TrunkRoute};
use crate::sip::config::Nat;
use crate::sip::leg::{LegCommand, LegEvent, LegSource};
use crate::sip::sdp::SrtpPolicy;

impl Harness {
    fn directory(&mut self, change: NumberingChange) {
        let trunks = self.trunks.clone();
        self.b2bua.handle_directory(NumberingChange { trunks, ..change }, self.now);
        self.drain();
    }

    fn removes(&mut self, device: &str, end_calls: bool) {
        let removed = vec![device.into()];
        self.directory(NumberingChange { removed, end_calls, ..NumberingChange::default() });
    }
}

fn hangups(harness: &mut Harness) -> Vec<crate::sip::leg::LegId> {
    let commands = harness.leg_commands();
    let hangup = |command: &LegCommand| match command {
        LegCommand::Hangup { leg, .. } => Some(*leg),
        _ => None,
    };
    commands.iter().filter_map(hangup).collect()
}

#[test]
fn a_removed_supervisor_or_agent_ends_the_monitor_and_the_call_goes_on() {
    for device in [SUPERVISOR, AGENT] {
        let mut harness = Harness::new();
        let legs = harness.coached(Activity::Coach);
        harness.log.clear();
        harness.removes(device, false);
        let gone = Output::Fact(Fact::DeviceGone { device: device.into() });
        assert!(harness.log.contains(&gone), "{device}: {:#?}", harness.log);
        assert_eq!(hangups(&mut harness), [legs.2], "{device}");
        assert!(harness.monitors.is_empty());
        assert_eq!(harness.b2bua.live_calls(), 1, "{device}");
        let refused = harness
            .monitor(Activity::Coach, Mode::AllCalls, Scope::Call)
            .expect_err("known no more");
        assert_eq!(refused.reason, Reason::NotFound, "{device}");
    }
}

#[test]
fn where_it_is_configured_the_calls_of_a_removed_device_end() {
    let mut harness = Harness::new();
    harness.coached(Activity::Coach);
    harness.removes(AGENT, true);
    assert_eq!(harness.b2bua.live_calls(), 0);
}

#[test]
fn a_removed_device_is_called_no_more_and_a_new_one_is_when_it_has_registered() {
    let mut harness = Harness::new();
    harness.removes(AGENT, false);
    let new = Extension {
        device: "new".into(),
        number: "5001".into(),
        aliases: Vec::new(),
        via: None,
        kind: AccountKind::Internal,
        nat: Nat::Auto,
        own_ports: false,
        srtp: SrtpPolicy::Off,
    };
    let caller = || LegSource::Account(CUSTOMER.into());
    harness.log.clear();
    harness.incoming(caller(), "5001", Some(sdp(4000, "0", "sendrecv")));
    let refused = harness.leg_commands();
    assert!(matches!(&refused[..], [LegCommand::Reject { status: 404, .. }]), "{refused:?}");
    harness.directory(NumberingChange { put: vec![new], ..NumberingChange::default() });
    harness.leg(LegEvent::Registered { device: "new".into(), registered: true });
    harness.log.clear();
    harness.incoming(caller(), "5001", Some(sdp(4002, "0", "sendrecv")));
    let rings = harness.leg_commands();
    assert!(rings.iter().any(|command| matches!(command, LegCommand::Invite { .. })), "{rings:?}");
}

#[test]
fn a_removed_trunk_takes_no_new_call_and_its_calls_go_on() {
    let mut harness = Harness::new();
    let caller = LegSource::Trunk("city".into());
    harness.incoming(caller.clone(), "5001", Some(sdp(4000, "0", "sendrecv")));
    assert_eq!(harness.b2bua.live_calls(), 1);
    let trunks: Vec<TrunkRoute> =
        harness.trunks.clone().into_iter().filter(|trunk| trunk.name != "city").collect();
    harness
        .b2bua
        .handle_directory(NumberingChange { trunks, ..NumberingChange::default() }, harness.now);
    harness.drain();
    assert_eq!(harness.b2bua.live_calls(), 1);
    harness.log.clear();
    harness.incoming(LegSource::Account(OTHER.into()), "0123", Some(sdp(4002, "0", "sendrecv")));
    let refused = harness.leg_commands();
    assert!(matches!(&refused[..], [LegCommand::Reject { status: 404, .. }]), "{refused:?}");
}
