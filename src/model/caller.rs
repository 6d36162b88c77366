use super::{CallerName, GroupId, UserId};
use serde::Deserialize;
use std::collections::BTreeSet;
use std::fmt;

/// A service that calls the telephony contract, as it was made out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its name, for the audit and the log.
    pub name: CallerName,
    /// What it may ask.
    pub role: CallerRole,
    /// Of a service: the users that it may act for.
    pub users: BTreeSet<UserId>,
    /// Of a service: it may act for the agents and supervisors of these groups, too.
    pub groups: BTreeSet<GroupId>,
    /// A supervisor may join at its word alone, without AdmissionAsked.
    pub may_join_unasked: bool,
}

/// What a service may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CallerRole {
    /// Everything, for any user: it has checked the user's permissions itself, and keeps the audit.
    Gateway,
    /// Commands, of a gateway, on behalf of its users.
    Service,
    /// Describe and Watch.
    Observer,
}

impl Caller {
    /// The other half of a process that has both.
    pub fn in_this_process() -> Self {
        Self {
            name: CallerName::from("in this process"),
            role: CallerRole::Gateway,
            users: BTreeSet::new(),
            groups: BTreeSet::new(),
            may_join_unasked: true,
        }
    }
}

impl CallerRole {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            CallerRole::Gateway => "gateway",
            CallerRole::Service => "service",
            CallerRole::Observer => "observer",
        }
    }
}

impl fmt::Display for CallerRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
