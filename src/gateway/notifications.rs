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
        legs.into_iter().filter_map(|(device, leg)| self.changed_leg(call, device, leg)).collect()
    }

    fn changed_leg(
        &mut self,
        call: &CallId,
        device: DeviceId,
        leg: CallView,
    ) -> Option<(CallNotification, CallView)> {
        let key = (call.clone(), device);
        let left = leg.state == LegState::Released;
        let notification = match self.legs.get(&key) {
            None if left => return None,
            None => CallNotification::StatusChange,
            Some(before) if *before == leg => return None,
            Some(before) => what_changed(before, &leg),
        };
        match left {
            true => self.legs.remove(&key),
            false => self.legs.insert(key, leg.clone()),
        };
        Some((notification, leg))
    }
}

fn what_changed(before: &CallView, after: &CallView) -> CallNotification {
    let same_but_muted = CallView {
        monitored_user_muted: after.monitored_user_muted,
        capabilities: after.capabilities.clone(),
        ..before.clone()
    };
    if before.monitored_user_muted != after.monitored_user_muted && same_but_muted == *after {
        CallNotification::MonitoredUserMutedStateChange
    } else if before.state == after.state && before.user_data != after.user_data {
        CallNotification::AttachedDataChanged
    } else if before.state == after.state && before.participants != after.participants {
        CallNotification::ParticipantsUpdated
    } else {
        CallNotification::StatusChange
    }
}
