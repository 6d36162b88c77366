//! What the gateway is told of many nodes as of one.

use super::{Cluster, NodeId, Output, Settings};
use crate::model::{Capabilities, DeviceFact, DeviceId, Fact, Now};

impl Cluster {
    /// Tells the gateway everything, once each node is known or the time for that is over.
    pub(super) fn meet(&mut self, now: Now) {
        let (ready, all) = self.ready_nodes();
        if self.is_told || ready == 0 {
            self.meeting_since = None;
            return;
        }
        let since = *self.meeting_since.get_or_insert(now.mono);
        if ready < all && now.mono < since + self.config.meeting {
            return;
        }
        self.meeting_since = None;
        self.is_told = true;
        self.tell(Fact::SnapshotBegin);
        // A device that nobody tells of any more is not repeated.
        self.devices.clear();
        for device in self.device_ids() {
            self.tell_device(&device);
        }
        let calls = self.nodes.values().flat_map(|node| node.facts.calls()).cloned();
        for call in calls.collect::<Vec<_>>() {
            self.tell(Fact::Call(call));
        }
        let monitors = self.monitors.values().filter_map(|monitor| monitor.told());
        for monitor in monitors.cloned().collect::<Vec<_>>() {
            self.tell(Fact::Monitor(monitor));
        }
        self.tell(Fact::SnapshotComplete);
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.ask_admissions(id);
        }
    }

    fn device_ids(&self) -> Vec<DeviceId> {
        let devices = self.nodes.values().flat_map(|node| node.facts.devices());
        let mut ids: Vec<_> = devices.map(|device| device.id.clone()).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    /// Tells the gateway how a device is now, if that is news.
    pub(super) fn tell_device(&mut self, id: &DeviceId) {
        if !self.is_told {
            return;
        }
        let now = self.merged_device(id);
        if self.devices.get(id) == now.as_ref() {
            return;
        }
        match now {
            Some(device) => {
                self.devices.insert(id.clone(), device.clone());
                self.tell(Fact::Device(device));
            }
            None => {
                self.devices.remove(id);
                self.tell(Fact::DeviceGone { device: id.clone() });
            }
        }
    }

    /// A device of all nodes: its phone can be reached if one of them reaches it. The rest is what
    /// the gateway has set, else as it is where the phone is, else as the first node has it.
    fn merged_device(&self, id: &DeviceId) -> Option<DeviceFact> {
        let told = || self.nodes.values().filter_map(|node| Some((node, node.facts.device(id)?)));
        let reached = told().find(|(node, device)| device.registered && !node.is_away);
        let known = reached.or_else(|| told().find(|(node, _)| node.is_ready));
        let (_, device) = known.or_else(|| told().next())?;
        let mut device = DeviceFact { registered: reached.is_some(), ..device.clone() };
        if let Some(settings) = self.settings.get(id) {
            device.do_not_disturb = settings.do_not_disturb.unwrap_or(device.do_not_disturb);
            if let Some(forward_to) = &settings.forward_to {
                device.forward_to.clone_from(forward_to);
            }
        }
        Some(device)
    }

    /// The settings of a device as each node should have them: what the gateway has set, else what
    /// another node that can be asked has.
    pub(super) fn wanted_settings(&self, node: NodeId, id: &DeviceId) -> Settings {
        let others = self.nodes.iter().filter(|(other, state)| **other != node && state.is_ready);
        let elsewhere = others.filter_map(|(_, state)| state.facts.device(id)).next();
        let set = self.settings.get(id).cloned().unwrap_or_default();
        Settings {
            do_not_disturb: set
                .do_not_disturb
                .or_else(|| elsewhere.map(|device| device.do_not_disturb)),
            forward_to: set
                .forward_to
                .or_else(|| elsewhere.map(|device| device.forward_to.clone())),
        }
    }

    /// Tells the gateway what every node can do.
    pub(super) fn tell_capabilities(&mut self) {
        let mut known = self.nodes.values().filter_map(|node| node.capabilities.as_ref());
        let Some(first) = known.next().cloned() else {
            return;
        };
        let all = known.fold(first, common);
        if self.capabilities != all {
            self.capabilities = all.clone();
            self.outputs.push_back(Output::Capabilities(all));
        }
    }
}

/// What both can do. That it is a SIP cluster is a limit, which one is enough for.
fn common(one: Capabilities, other: &Capabilities) -> Capabilities {
    fn both<T: PartialEq>(mut one: Vec<T>, other: &[T]) -> Vec<T> {
        one.retain(|item| other.contains(item));
        one
    }
    Capabilities {
        backend: one.backend,
        activities: both(one.activities, &other.activities),
        modes: both(one.modes, &other.modes),
        scopes: both(one.scopes, &other.scopes),
        live_switching: one.live_switching && other.live_switching,
        mute_monitored: one.mute_monitored && other.mute_monitored,
        transfers: one.transfers && other.transfers,
        consultations: one.consultations && other.consultations,
        conferences: one.conferences && other.conferences,
        agent_side_only: one.agent_side_only && other.agent_side_only,
        dtmf: one.dtmf && other.dtmf,
        hold: one.hold && other.hold,
        swap_calls: one.swap_calls && other.swap_calls,
        mute: one.mute && other.mute,
        answer: one.answer && other.answer,
        dial: one.dial && other.dial,
        clear_call: one.clear_call && other.clear_call,
        reject: one.reject && other.reject,
        redirect: one.redirect && other.redirect,
        do_not_disturb: one.do_not_disturb && other.do_not_disturb,
        forwarding: one.forwarding && other.forwarding,
        user_data: one.user_data && other.user_data,
        feature_codes: one.feature_codes && other.feature_codes,
        routing_points: one.routing_points && other.routing_points,
        sip_cluster: one.sip_cluster || other.sip_cluster,
        codecs: both(one.codecs, &other.codecs),
    }
}
