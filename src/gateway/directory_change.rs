//! What a new directory means for those that lose something by it.

use super::access::AccessChange;
use super::{Directory, DirectoryChanges, Gateway, Output, views};
use crate::model::{CallNotification, DeviceId, NoticeBody, Now, Topic, UserId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Gateway {
    /// Takes a directory, and says what has changed. Monitors that their supervisors may not have
    /// any more are cancelled; each user is told how the user itself and its devices are now, and
    /// that the calls of a device that was taken away are over.
    pub fn handle_directory(&mut self, new: Arc<Directory>, now: Now) -> DirectoryChanges {
        let AccessChange { changes, lost } = self.access.change(new);
        if changes.is_empty() {
            return changes;
        }
        self.release_lost(&lost, now);
        let (monitoring, mut ctx) = self.monitoring(now);
        monitoring.handle_directory(&mut ctx);
        for user in &changes.users.removed {
            if self.sessions.remove(user).is_some() {
                let (user, presence) = (user.clone(), None);
                self.works.outputs.push_back(Output::Keep { user, presence });
            }
        }
        for device in &changes.devices.removed {
            self.notifications.forget_device(device);
        }
        for user in changes.users.changed.iter().chain(lost.values()) {
            self.tell_user(user);
        }
        let mut devices: BTreeSet<DeviceId> = changes.devices.put().cloned().collect();
        let users = changes.users.put().filter_map(|user| self.access.found(user));
        devices.extend(users.flat_map(|user| user.devices.iter().cloned()));
        devices.extend(lost.keys().cloned());
        for device in &devices {
            self.tell_device(device);
        }
        let calls: BTreeSet<_> = devices
            .iter()
            .flat_map(|device| self.known.calls_of(std::slice::from_ref(device)))
            .map(|call| call.id.clone())
            .collect();
        calls.iter().for_each(|call| self.tell_call(call, now));
        changes
    }

    /// The legs of devices are no longer those of the users that had them.
    fn release_lost(&mut self, lost: &BTreeMap<DeviceId, UserId>, now: Now) {
        for (device, user) in lost {
            let calls = self.known.calls_of(std::slice::from_ref(device));
            let calls: Vec<_> = calls.map(|call| call.id.clone()).collect();
            for call in calls {
                let Some(leg) = self.notifications.take_leg(&call, device) else {
                    continue;
                };
                let body = NoticeBody::CallStateChange {
                    notification: CallNotification::StatusChange,
                    call: views::timed(views::released(leg, None), now.wall),
                };
                self.works.notify(user, Topic::Calls, body);
            }
        }
    }

    fn tell_user(&mut self, user: &UserId) {
        let Some(user) = self.access.found(user).filter(|_| self.has_met()) else {
            return;
        };
        let (id, view) = (user.id.clone(), self.reader().user_view(user));
        for topic in [Topic::Me, Topic::Channels] {
            self.works.notify(&id, topic, NoticeBody::UserStateChange(view.clone()));
        }
    }
}
