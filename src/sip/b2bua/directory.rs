//! Devices and trunks that come, change and go while calls go on.

use super::numbering::{Extension, TrunkRoute};
use super::party::Release;
use super::rejection::Rejection;
use super::routing::DialPlan;
use super::{AccountKind, B2bua, DeviceState, Environment, Output, Persist, RestoredDevice};
use crate::model::{DeviceId, Fact, Now};
use crate::sip::leg::LegSource;

/// What has become of the devices and trunks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NumberingChange {
    /// Devices that are new, or are something else than before.
    pub put: Vec<Extension>,
    /// Devices that are known no more.
    pub removed: Vec<DeviceId>,
    /// The trunks from now on, all of them.
    pub trunks: Vec<TrunkRoute>,
    /// The calls of devices that are known no more end; else they go on until somebody hangs up.
    pub end_calls: bool,
}

impl<E: Environment> B2bua<E> {
    /// Other devices and trunks from now on. Monitors of and by devices that are known no more end
    /// at once, with the legs of their supervisors.
    pub fn handle_directory(&mut self, change: NumberingChange, now: Now) {
        let NumberingChange { put, removed, trunks, end_calls } = change;
        self.end_codes(&Rejection::UnknownCaller, |device| removed.contains(device));
        let is_there = |peer: &LegSource| self.calls.legs.count(peer) > 0;
        self.plan.former.retain(|device, _| is_there(&LegSource::Account(device.clone())));
        let is_used = |trunk: &TrunkRoute| is_there(&LegSource::Trunk(trunk.name.clone()));
        self.plan.numbering.change_trunks(trunks, is_used);
        let mut set = Vec::new();
        for device in &removed {
            let Some(state) = self.plan.remove(device) else {
                continue;
            };
            let nothing =
                RestoredDevice { device: device.clone(), do_not_disturb: false, forward_to: None };
            set.extend((state.kept() != nothing).then_some(Persist::Device(nothing)));
            if is_there(&LegSource::Account(device.clone())) {
                self.plan.former.insert(device.clone(), state);
            }
        }
        self.trust_trunks();
        let put: Vec<DeviceId> =
            put.into_iter().map(|extension| self.plan.put(extension)).collect();
        let customers = put.iter().filter(|device| !self.plan.is_internal_device(device));
        let unmonitored: Vec<DeviceId> = removed.iter().chain(customers).cloned().collect();
        for device in unmonitored {
            self.supervision.handle_device_gone(&device, now);
        }
        if end_calls {
            removed.iter().for_each(|device| self.end_calls_of(device));
        }
        self.out.extend(set.into_iter().map(Output::Keep));
        self.finish_step(now);
        for device in removed {
            self.out.fact(Fact::DeviceGone { device });
        }
        for device in put.iter().filter_map(|device| self.plan.device(device)) {
            self.out.fact(Fact::Device(device.fact()));
        }
    }

    /// What a trunk says of the legs that it hands on counts for those that are there, too.
    fn trust_trunks(&mut self) {
        for call in self.calls.iter_mut() {
            for party in &mut call.parties.list {
                let trunk = self.plan.trunk_of(&party.peer);
                let Some(route) = trunk.and_then(|trunk| self.plan.numbering.trunk(trunk)) else {
                    continue;
                };
                if party.policy.handed_on != route.handed_on {
                    party.policy.handed_on = route.handed_on;
                    self.out.changed.insert(call.key);
                }
            }
        }
    }

    fn end_calls_of(&mut self, device: &DeviceId) {
        let peer = LegSource::Account(device.clone());
        let legs: Vec<_> = self.calls.legs.legs_of(&peer).collect();
        for leg in legs {
            let key = self.calls.legs.call_of(leg);
            let found = key.and_then(|key| self.calls.get_mut(key));
            if let Some((call, _)) = found
                && let Some(party) = call.parties.get_mut(leg)
            {
                party.end(Release::Hangup(None), &mut self.out);
                self.out.changed.insert(call.key);
            }
        }
    }
}

impl DialPlan {
    fn remove(&mut self, device: &DeviceId) -> Option<DeviceState> {
        let state = self.devices.remove(device)?;
        self.numbering.remove(&state.extension);
        Some(state)
    }

    /// What is set on the device stays, and so does its registration until the user agent says that
    /// it is over.
    fn put(&mut self, extension: Extension) -> DeviceId {
        let id = extension.device.clone();
        self.former.remove(&id);
        match self.devices.get_mut(&id) {
            Some(device) => {
                self.numbering.remove(&device.extension);
                device.extension = extension.clone();
            }
            None => {
                self.devices.insert(id.clone(), DeviceState::new(extension.clone()));
            }
        }
        self.numbering.insert(extension);
        id
    }

    fn is_internal_device(&self, device: &DeviceId) -> bool {
        self.device(device).is_some_and(|device| match device.extension.kind {
            AccountKind::Internal => true,
            AccountKind::Customer => false,
        })
    }
}
