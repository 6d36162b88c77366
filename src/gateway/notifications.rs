//! What each user's clients have been told, so that only news is told again.

use super::views;
use crate::model::{
    CallId, CallNotification, CallView, DeviceId, DeviceView, LegState, RequestId, Topic,
};
use std::collections::{BTreeMap, VecDeque};

/// Enough for the failures that come seconds after their request.
const RECENT_REQUESTS: usize = 4096;

/// The devices and legs as they were told last, and the channels of recent requests.
#[derive(Default)]
pub(super) struct Notifications {
    devices: BTreeMap<DeviceId, DeviceView>,
    legs: BTreeMap<(CallId, DeviceId), CallView>,
    /// All the backend knows has been known once. Before that nobody is told anything: it would not
    /// be news.
    met: bool,
    /// Somebody has asked before that, and was told what was not known yet.
    presumed: bool,
    /// The legs that were told to be released last: a client may still read them.
    released: ReleasedLegs,
    /// The channel for late failures of recent requests, oldest first.
    topics: VecDeque<(RequestId, Topic)>,
}

impl Notifications {
    pub(super) fn has_met(&self) -> bool {
        self.met
    }

    /// A user reads how things are.
    pub(super) fn note_read(&mut self) {
        self.presumed |= !self.met;
    }

    /// All the backend knows is known. True the first time, if nobody has been told anything else
    /// before: then it is no news.
    pub(super) fn meet(&mut self) -> bool {
        let is_first = !std::mem::replace(&mut self.met, true);
        is_first && !self.presumed
    }

    pub(super) fn note_request(&mut self, id: RequestId, topic: Topic) {
        self.topics.push_back((id, topic));
        if self.topics.len() > RECENT_REQUESTS {
            self.topics.pop_front();
        }
    }

    /// The channel of the operation that a request asked for, while it is remembered.
    pub(super) fn topic_of(&self, request: Option<&RequestId>) -> Option<Topic> {
        let request = request?;
        let asked_for = self.topics.iter().rev().find(|(id, _)| id == request);
        asked_for.map(|(_, topic)| *topic)
    }

    /// Remembers how a device is told now; false when it was told so before.
    pub(super) fn is_news(&mut self, view: &DeviceView) -> bool {
        if self.devices.get(&view.id) == Some(view) {
            return false;
        }
        self.devices.insert(view.id.clone(), view.clone());
        true
    }

    /// The leg of a device as it was told last.
    pub(super) fn told_leg(&self, call: &CallId, device: &DeviceId) -> Option<&CallView> {
        self.legs.get(&(call.clone(), device.clone()))
    }

    /// A device is known no more.
    pub(super) fn forget_device(&mut self, device: &DeviceId) {
        self.devices.remove(device);
    }

    /// The leg of a device as it was told last; it is not remembered any more.
    pub(super) fn take_leg(&mut self, call: &CallId, device: &DeviceId) -> Option<CallView> {
        self.legs.remove(&(call.clone(), device.clone()))
    }

    /// The legs of a call that are to be told, given all of them as they are now; a leg that was
    /// told and is not there any more has been released.
    pub(super) fn changed_legs(
        &mut self,
        call: &CallId,
        mut legs: BTreeMap<DeviceId, CallView>,
    ) -> Vec<(CallNotification, CallView)> {
        let first = (call.clone(), DeviceId::from(""));
        let of_call = self.legs.range(first..).take_while(|((of, _), _)| of == call);
        for ((_, device), view) in of_call {
            let now = legs.get(device);
            if now.is_none_or(|leg| leg.state == LegState::Released) {
                let handed_on_to = now.and_then(|leg| leg.handed_on_to.clone());
                legs.insert(device.clone(), views::released(view.clone(), handed_on_to));
            }
        }
        legs.into_iter().flat_map(|(device, leg)| self.changed_leg(call, device, leg)).collect()
    }

    /// The leg of a device that was told to be released, for as long as there is room.
    pub(super) fn released_leg(&self, call: &CallId, device: &DeviceId) -> Option<&CallView> {
        self.released.legs.get(&(call.clone(), device.clone())).map(|(_, leg)| leg)
    }

    fn changed_leg(
        &mut self,
        call: &CallId,
        device: DeviceId,
        leg: CallView,
    ) -> Vec<(CallNotification, CallView)> {
        let key = (call.clone(), device);
        let left = leg.state == LegState::Released;
        let changed = match self.legs.get(&key) {
            None if left => return Vec::new(),
            None => vec![CallNotification::StatusChange],
            Some(before) if *before == leg => return Vec::new(),
            Some(before) => what_changed(before, &leg),
        };
        if left {
            self.legs.remove(&key);
            self.released.insert(key, leg.clone());
        } else {
            self.legs.insert(key, leg.clone());
        }
        changed.into_iter().map(|notification| (notification, leg.clone())).collect()
    }
}

/// Legs as they were told to be released, the last of them.
#[derive(Default)]
struct ReleasedLegs {
    /// Each with the number under which it was told last.
    legs: BTreeMap<(CallId, DeviceId), (u64, CallView)>,
    /// Oldest first; a leg that came back and left again is there twice.
    order: VecDeque<(u64, (CallId, DeviceId))>,
    told: u64,
    data_bytes: usize,
}

impl ReleasedLegs {
    /// Legs at most.
    const MOST: usize = 4096;
    /// Bytes of their call data at most.
    const MOST_DATA: usize = 4 * 1024 * 1024;

    fn insert(&mut self, key: (CallId, DeviceId), leg: CallView) {
        self.told += 1;
        self.data_bytes += leg.user_data.bytes();
        let before = self.legs.insert(key.clone(), (self.told, leg));
        self.data_bytes -= before.map_or(0, |(_, before)| before.user_data.bytes());
        self.order.push_back((self.told, key));
        while self.order.len() > Self::MOST || self.data_bytes > Self::MOST_DATA {
            let Some((told, oldest)) = self.order.pop_front() else {
                return;
            };
            if self.legs.get(&oldest).is_some_and(|(last, _)| *last == told) {
                let left = self.legs.remove(&oldest);
                self.data_bytes -= left.map_or(0, |(_, left)| left.user_data.bytes());
            }
        }
    }
}

/// Who is there and what is attached may change in one step: clients listen for either.
fn what_changed(before: &CallView, after: &CallView) -> Vec<CallNotification> {
    let same_but_muted = CallView {
        monitored_user_muted: after.monitored_user_muted,
        capabilities: after.capabilities.clone(),
        ..before.clone()
    };
    if before.monitored_user_muted != after.monitored_user_muted && same_but_muted == *after {
        return vec![CallNotification::MonitoredUserMutedStateChange];
    }
    let mut changed = Vec::new();
    if before.state == after.state && before.participants != after.participants {
        changed.push(CallNotification::ParticipantsUpdated);
    }
    if before.state == after.state && before.user_data != after.user_data {
        changed.push(CallNotification::AttachedDataChanged);
    }
    if changed.is_empty() {
        changed.push(CallNotification::StatusChange);
    }
    changed
}
