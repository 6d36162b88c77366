//! What issuers of tokens have to vouch for: users, as the directory of a gateway has them now.

use crate::gateway::task::GatewayHandle;
use crate::http::identity::Users;
use crate::model::{GroupId, Role, UserId};
use std::collections::BTreeSet;

/// The directory of a gateway.
pub struct GatewayUsers(GatewayHandle);

impl GatewayUsers {
    /// Of this gateway.
    pub fn new(gateway: GatewayHandle) -> Self {
        Self(gateway)
    }
}

impl Users for GatewayUsers {
    fn roles(&self, user: &UserId) -> Option<BTreeSet<Role>> {
        self.0.user(user).map(|user| user.roles.clone())
    }

    fn groups(&self, user: &UserId) -> BTreeSet<GroupId> {
        let directory = self.0.directory();
        let groups = directory
            .groups
            .iter()
            .filter(|(_, group)| group.agents.contains(user) || group.supervisors.contains(user));
        groups.map(|(id, _)| id.clone()).collect()
    }
}
