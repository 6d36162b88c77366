use super::Related;
use crate::gateway::access::AccessDirectory;
use crate::gateway::backend_facts::BackendFacts;
use crate::gateway::notifications::Notifications;
use crate::gateway::{DeviceEntry, GatewayConfig, Group, User, views};
use crate::model::{
    AgentState, Answer, CallFact, CallId, CallView, ContactNumber, ContactView, DeviceId,
    DeviceView, GroupSettings, GroupView, LegState, Query, Refusal, Role, Timestamp, UserId,
    UserState, UserView,
};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Devices, calls and users as a user sees them now.
#[derive(Clone, Copy)]
pub(in crate::gateway) struct Reader<'a> {
    pub(in crate::gateway) config: &'a GatewayConfig,
    pub(in crate::gateway) access: &'a AccessDirectory,
    pub(in crate::gateway) known: &'a BackendFacts,
    /// Open sessions and their voice states.
    pub(in crate::gateway) sessions: &'a BTreeMap<UserId, UserState>,
    /// What was told, of which released legs can still be read.
    pub(in crate::gateway) notifications: &'a Notifications,
}

impl Reader<'_> {
    /// Answers a read.
    ///
    /// # Errors
    /// `NotFound` for what the user may not see.
    pub(in crate::gateway) fn read(
        &self,
        user: &User,
        query: &Query,
        now: Timestamp,
    ) -> Result<Answer, Refusal> {
        match query {
            Query::Me => Ok(Answer::User(self.user_view(user))),
            Query::MyDevices => Ok(Answer::Devices(self.own_devices(user))),
            Query::MyDevice(device) if user.devices.contains(device) => {
                self.device_view(device).map(Answer::Device)
            }
            Query::MyDevice(device) => {
                Err(Refusal::not_found(format_args!("/me/devices/{device}")))
            }
            Query::MyCalls => {
                let calls = self.own_calls(user, now).into_iter();
                Ok(Answer::Calls(calls.map(|view| self.measured(view)).collect()))
            }
            Query::MyCall(call) => {
                let view = self.own_leg(user, call);
                let view = view.map(|view| self.measured(views::timed(view, now)));
                view.or_else(|| self.released_leg(user, call, now))
                    .map(Answer::Call)
                    .ok_or_else(|| Refusal::not_found(format_args!("/me/calls/{call}")))
            }
            Query::Device(device) if self.may_read(user, device) => {
                self.view_for(user, device).map(Answer::Device)
            }
            Query::Device(device) => Err(Refusal::no_device(device)),
            Query::Devices(number) => Ok(Answer::Devices(
                self.access
                    .devices()
                    .filter(|entry| number.as_ref().is_none_or(|number| *number == entry.number))
                    .filter(|entry| {
                        user.is(Role::Admin) || self.access.may_monitor(user, &entry.id).is_ok()
                    })
                    .filter_map(|entry| self.view_for(user, &entry.id).ok())
                    .collect(),
            )),
            Query::User(id) if *id == user.id || user.is(Role::Admin) => {
                let found = self.access.found(id).map(|found| self.user_view(found));
                found.map(Answer::User).ok_or_else(|| not_found("users", id))
            }
            Query::User(id) => Err(not_found("users", id)),
            Query::Users if user.is(Role::Admin) => {
                Ok(Answer::Users(self.access.users().map(|user| self.user_view(user)).collect()))
            }
            Query::Users => Ok(Answer::Users(vec![self.user_view(user)])),
            Query::Contacts => {
                let contacts = self.access.contacts(user);
                Ok(Answer::Contacts(contacts.map(|contact| self.contact_view(contact)).collect()))
            }
            Query::Contact(id) => {
                let found = self.access.contacts(user).find(|contact| contact.id == *id);
                found
                    .map(|contact| Answer::Contact(self.contact_view(contact)))
                    .ok_or_else(|| not_found("contacts", id))
            }
            Query::MyGroups => Ok(Answer::Groups(
                self.access.groups_of(user).map(|group| group_view(user, group)).collect(),
            )),
            Query::Groups => Ok(Answer::Groups(
                self.access.known_groups(user).map(|group| group_view(user, group)).collect(),
            )),
            Query::Group(id) => {
                let found = self.access.known_groups(user).find(|group| group.id == *id);
                found
                    .map(|group| Answer::Group(group_view(user, group)))
                    .ok_or_else(|| not_found("groups", id))
            }
        }
    }

    /// A device as its own user sees it.
    pub(in crate::gateway) fn device_view(&self, device: &DeviceId) -> Result<DeviceView, Refusal> {
        let entry = self.access.device(device).ok_or_else(|| Refusal::no_device(device))?;
        let owner = self.access.owner(device);
        let state = owner
            .and_then(|owner| self.sessions.get(&owner.id))
            .cloned()
            .unwrap_or_else(|| AgentState::Offline.into());
        Ok(views::device(
            entry,
            owner,
            self.known.facts().device(device),
            self.known.facts().monitor(device),
            state,
            &self.known.capabilities,
        ))
    }

    /// The user may read the device: one that the user may know, and any for an admin.
    fn may_read(&self, user: &User, device: &DeviceId) -> bool {
        let is_there = self.access.device(device).is_some();
        is_there && user.is(Role::Admin) || self.access.may_know(user, device)
    }

    fn view_for(&self, user: &User, device: &DeviceId) -> Result<DeviceView, Refusal> {
        let view = self.device_view(device)?;
        Ok(if user.devices.contains(device) { view } else { views::of_another(view) })
    }

    /// The user's devices.
    pub(in crate::gateway) fn own_devices(&self, user: &User) -> Vec<DeviceView> {
        user.devices.iter().filter_map(|device| self.device_view(device).ok()).collect()
    }

    /// The legs of a call, by device, also those that have left.
    pub(in crate::gateway) fn legs(&self, call: &CallFact) -> BTreeMap<DeviceId, CallView> {
        let devices: BTreeSet<_> =
            call.parties.iter().filter_map(|party| party.device.as_ref()).collect();
        devices
            .into_iter()
            .filter_map(|device| Some((device.clone(), self.leg_view(call, device)?)))
            .collect()
    }

    fn leg_view(&self, call: &CallFact, device: &DeviceId) -> Option<CallView> {
        let entry = self.access.device(device)?;
        let party = views::leg(call, entry)?;
        let asks = |by: &CallFact, about: &CallFact| views::asks(device, by, about);
        let parent = call.parent.as_ref().and_then(|parent| self.known.facts().call(parent));
        let parent = parent.filter(|parent| asks(call, parent));
        let asking = self.known.consultation_about(&call.id).filter(|by| asks(by, call));
        let pair = parent.map(|parent| (parent, call)).or(asking.map(|by| (call, by)));
        let related = Related {
            parent: parent.map(|parent| parent.id.clone()),
            is_asked_about: asking.is_some(),
            may_swap: self.may_swap(call, device),
            may_complete: pair
                .is_some_and(|(first, second)| views::may_become_one(device, first, second)),
        };
        Some(views::call(call, entry, party, related, self.config, &self.known.capabilities))
    }

    /// The device is on another call beside this one, and talks on one of the two; its phone holds
    /// neither. While a swap is under way it may talk on both.
    fn may_swap(&self, call: &CallFact, device: &DeviceId) -> bool {
        let state_of = |call: &CallFact| {
            call.party_of(device).filter(|leg| !leg.held_at_phone).map(|leg| leg.state)
        };
        let is_on = |state| matches!(state, Some(LegState::Established | LegState::Held));
        let here = state_of(call);
        let swaps_with = |other: &CallFact| {
            let there = state_of(other);
            let talks = [here, there].contains(&Some(LegState::Established));
            other.id != call.id && is_on(there) && talks
        };
        is_on(here) && self.known.calls_of(std::slice::from_ref(device)).any(swaps_with)
    }

    /// The user's leg of a call, unless it has left.
    pub(in crate::gateway) fn own_leg(&self, user: &User, call: &CallId) -> Option<CallView> {
        self.live_leg(user, self.known.facts().call(call)?)
    }

    /// The user's leg of a call as the user was told last that it has been released.
    fn released_leg(&self, user: &User, call: &CallId, now: Timestamp) -> Option<CallView> {
        let mut devices = user.devices.iter();
        let released = devices.find_map(|device| self.notifications.released_leg(call, device))?;
        Some(views::timed(released.clone(), now))
    }

    fn live_leg(&self, user: &User, call: &CallFact) -> Option<CallView> {
        let mut legs = user.devices.iter().filter_map(|device| self.leg_view(call, device));
        legs.find(|leg| leg.state != LegState::Released)
    }

    /// A leg as it is read: with how the sound fares, which is told to nobody.
    fn measured(&self, view: CallView) -> CallView {
        let call = self.known.facts().call(&view.id);
        let entry = self.access.device(&view.device);
        match call.zip(entry).and_then(|(call, entry)| Some((call, views::leg(call, entry)?))) {
            Some((call, party)) => views::measured(view, call, party),
            None => view,
        }
    }

    /// The user's legs that have not left.
    pub(in crate::gateway) fn own_calls(&self, user: &User, now: Timestamp) -> Vec<CallView> {
        let legs = self.known.calls_of(&user.devices).filter_map(|call| self.live_leg(user, call));
        legs.map(|leg| views::timed(leg, now)).collect()
    }

    /// The user, as the user sees it.
    pub(in crate::gateway) fn user_view(&self, user: &User) -> UserView {
        let state = self.sessions.get(&user.id).cloned();
        UserView {
            id: user.id.clone(),
            display_name: user.display_name.clone(),
            first_name: user.first_name.clone(),
            last_name: user.last_name.clone(),
            email: user.email.clone(),
            contact_center: self.access.contact_center().to_owned(),
            roles: user.roles.iter().copied().collect(),
            features: user.features.iter().copied().collect(),
            session: state.is_some(),
            state,
            devices: user.devices.clone(),
            calls: self
                .known
                .calls_of(&user.devices)
                .filter(|call| self.live_leg(user, call).is_some())
                .map(|call| call.id.clone())
                .collect(),
        }
    }

    /// The user, as a colleague sees the user.
    fn contact_view(&self, contact: &User) -> ContactView {
        let devices = contact.devices.iter().filter_map(|device| self.access.device(device));
        let number = |entry: &DeviceEntry| ContactNumber {
            number: entry.number.clone(),
            switch: self.access.voice_environment(&entry.voice_environment).to_owned(),
        };
        ContactView {
            id: contact.id.clone(),
            display_name: contact.display_name.clone(),
            first_name: contact.first_name.clone(),
            last_name: contact.last_name.clone(),
            numbers: devices.map(number).collect(),
        }
    }
}

/// The group, as the user sees it.
fn group_view(user: &User, group: &Group) -> GroupView {
    let settings = || GroupSettings {
        agents: group.agents.iter().cloned().collect(),
        supervisors: group.supervisors.iter().cloned().collect(),
        monitor_supervisors: group.monitor_supervisors,
        agent_side_only: group.agent_side_only,
    };
    GroupView { id: group.id.clone(), settings: user.is(Role::Admin).then(settings) }
}

fn not_found(list: &str, id: impl fmt::Display) -> Refusal {
    Refusal::not_found(format_args!("/{list}/{id}"))
}
