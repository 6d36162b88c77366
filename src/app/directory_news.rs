//! What a new directory changes, in words: names of entries and of what is other in them, never a
//! secret.

use crate::gateway::{DeviceEntry, Directory, Group, User};
use crate::model::{DeviceId, Difference, UserId};
use crate::sip::config::{SipAccount, SipDirectory, Trunk};
use std::collections::BTreeSet;
use std::fmt::Display;

/// Names in one line of the log or the audit.
const NAMES: usize = 50;

/// What a new directory changes.
pub(super) struct News(Vec<String>);

impl News {
    /// `passwords`: the users that have new passwords.
    pub(super) fn between<'a>(
        (before, sip_before): (&Directory, Option<&SipDirectory>),
        (after, sip_after): (&Directory, Option<&SipDirectory>),
        passwords: impl Iterator<Item = &'a UserId>,
    ) -> Self {
        let passwords: BTreeSet<&UserId> = passwords.collect();
        let mut lines = Vec::new();
        let mut users = Difference::between(&before.users, &after.users);
        let others = passwords
            .iter()
            .filter(|user| before.users.contains_key(**user) && !users.changed.contains(user));
        let others: Vec<UserId> = others.map(|user| (*user).clone()).collect();
        users.changed.extend(others);
        say(&mut lines, "users", &users, |id| {
            let pair = before.users.get(id).zip(after.users.get(id));
            let mut fields = pair.map(|(was, is)| user_fields(was, is)).unwrap_or_default();
            fields.extend(passwords.contains(id).then_some("password"));
            fields
        });
        let entries = Difference::between(&before.devices, &after.devices);
        let accounts = match (sip_before, sip_after) {
            (Some(before), Some(after)) => before.accounts.changes_to(&after.accounts),
            (Some(_) | None, None) | (None, Some(_)) => {
                Difference { added: Vec::new(), changed: Vec::new(), removed: Vec::new() }
            }
        };
        say(&mut lines, "devices", &united(entries, accounts), |id| {
            let entry = before.devices.get(id).zip(after.devices.get(id));
            let mut fields = entry.map(|(was, is)| device_fields(was, is)).unwrap_or_default();
            let account = |sip: Option<&'_ SipDirectory>| sip?.accounts.get(id).cloned();
            if let Some((was, is)) = account(sip_before).zip(account(sip_after)) {
                fields.extend(account_fields(&was, &is));
            }
            fields.dedup();
            fields
        });
        let groups = Difference::between(&before.groups, &after.groups);
        say(&mut lines, "groups", &groups, |id| {
            let pair = before.groups.get(id).zip(after.groups.get(id));
            pair.map(|(was, is)| group_fields(was, is)).unwrap_or_default()
        });
        if before.voice_environments != after.voice_environments {
            lines.push("voice environments changed".to_owned());
        }
        if let (Some(before), Some(after)) = (sip_before, sip_after) {
            say(&mut lines, "trunks", &of_trunks(&before.trunks, &after.trunks), |_| Vec::new());
        }
        Self(lines)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

fn say<K: Display>(
    lines: &mut Vec<String>,
    kind: &str,
    what: &Difference<K>,
    fields: impl Fn(&K) -> Vec<&'static str>,
) {
    let plain = |names: &[K]| names.iter().map(ToString::to_string).collect::<Vec<String>>();
    let changed = what.changed.iter().map(|name| match fields(name).as_slice() {
        [] => name.to_string(),
        fields => format!("{name} ({})", fields.join(", ")),
    });
    for (verb, names) in [
        ("added", plain(&what.added)),
        ("changed", changed.collect()),
        ("removed", plain(&what.removed)),
    ] {
        let some = names.chunks(NAMES);
        lines.extend(some.map(|names| format!("{kind} {verb}: {}", names.join(", "))));
    }
}

/// Customers have accounts alone, and in a gateway alone there are entries alone.
fn united(one: Difference<DeviceId>, other: Difference<DeviceId>) -> Difference<DeviceId> {
    let both = |one: Vec<DeviceId>, other: Vec<DeviceId>| {
        let all: BTreeSet<DeviceId> = one.into_iter().chain(other).collect();
        all.into_iter().collect::<Vec<DeviceId>>()
    };
    let (added, removed) = (both(one.added, other.added), both(one.removed, other.removed));
    let is_told = |device: &DeviceId| added.contains(device) || removed.contains(device);
    let mut changed = both(one.changed, other.changed);
    changed.retain(|device| !is_told(device));
    Difference { added, changed, removed }
}

fn of_trunks(before: &[Trunk], after: &[Trunk]) -> Difference<String> {
    let of = |trunks: &[Trunk]| {
        trunks.iter().map(|trunk| (trunk.name.clone(), trunk.clone().into())).collect()
    };
    Difference::between(&of(before), &of(after))
}

fn named<const N: usize>(fields: [(&'static str, bool); N]) -> Vec<&'static str> {
    fields.into_iter().filter(|(_, same)| !same).map(|(name, _)| name).collect()
}

fn user_fields(was: &User, is: &User) -> Vec<&'static str> {
    let name =
        |user: &User| (user.display_name.clone(), user.first_name.clone(), user.last_name.clone());
    named([
        ("name", name(was) == name(is)),
        ("email", was.email == is.email),
        ("roles", was.roles == is.roles),
        ("features", was.features == is.features),
        ("devices", was.devices == is.devices),
    ])
}

fn device_fields(was: &DeviceEntry, is: &DeviceEntry) -> Vec<&'static str> {
    named([
        ("voice_environment", was.voice_environment == is.voice_environment),
        ("number", was.number == is.number),
    ])
}

fn account_fields(was: &SipAccount, is: &SipAccount) -> Vec<&'static str> {
    let known = SipAccount {
        number: was.number.clone(),
        username: was.username.clone(),
        ha1s: was.ha1s.clone(),
        ..is.clone()
    };
    named([
        ("number", was.number == is.number),
        ("password", was.ha1s == is.ha1s || was.number != is.number),
        ("settings", *was == known),
    ])
}

fn group_fields(was: &Group, is: &Group) -> Vec<&'static str> {
    named([
        ("agents", was.agents == is.agents),
        ("supervisors", was.supervisors == is.supervisors),
        ("monitor_supervisors", was.monitor_supervisors == is.monitor_supervisors),
        ("agent_side_only", was.agent_side_only == is.agent_side_only),
    ])
}
