//! `?subresources=`: the lists that a user is read with.

use super::{RequestContext, RestState, directory};
use crate::http::error::HttpError;
use crate::http::gws_json::{self, UserJson};
use crate::model::{Query as Wanted, UserView};
use std::collections::BTreeSet;

/// A list below a user.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subresource {
    Features,
    Devices,
    Calls,
    Channels,
    Groups,
    /// The rest are of media and routing that are not offered: always empty.
    Skills,
    Interactions,
    Chats,
    Emails,
    Workitems,
}

impl Subresource {
    const ALL: [Self; 10] = [
        Self::Features,
        Self::Devices,
        Self::Calls,
        Self::Channels,
        Self::Groups,
        Self::Skills,
        Self::Interactions,
        Self::Chats,
        Self::Emails,
        Self::Workitems,
    ];

    /// Its word in the query, and its key in the user.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Features => "features",
            Self::Devices => "devices",
            Self::Calls => "calls",
            Self::Channels => "channels",
            Self::Groups => "groups",
            Self::Skills => "skills",
            Self::Interactions => "interactions",
            Self::Chats => "chats",
            Self::Emails => "emails",
            Self::Workitems => "workitems",
        }
    }
}

/// What a query asks for; words that are none are left out.
pub(super) fn wanted(query: Option<&str>) -> BTreeSet<Subresource> {
    let words: BTreeSet<&str> = query.unwrap_or_default().split(',').map(str::trim).collect();
    let is_wanted = |part: &Subresource| words.contains("*") || words.contains(part.as_str());
    Subresource::ALL.into_iter().filter(is_wanted).collect()
}

impl RestState {
    /// Adds a list to the user that asks.
    pub(super) async fn add(
        &self,
        part: Subresource,
        user: &mut UserJson,
        view: &UserView,
        from: &RequestContext,
    ) -> Result<(), HttpError> {
        match part {
            Subresource::Features => {
                let features = view.features.iter();
                let features = features.map(|feature| gws_json::feature(&self.uris, *feature));
                user.features = Some(features.collect());
            }
            Subresource::Devices => {
                user.devices = Some(self.devices(from, Wanted::MyDevices).await?);
            }
            Subresource::Calls => user.calls = Some(self.calls(from).await?),
            Subresource::Channels => user.channels = Some(vec![gws_json::voice_channel(view)]),
            Subresource::Groups => {
                user.groups = Some(directory::groups(self, from, Wanted::MyGroups).await?);
            }
            Subresource::Skills => user.skills = Some(Vec::new()),
            Subresource::Interactions => user.interactions = Some(Vec::new()),
            Subresource::Chats => user.chats = Some(Vec::new()),
            Subresource::Emails => user.emails = Some(Vec::new()),
            Subresource::Workitems => user.workitems = Some(Vec::new()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_no_list_are_left_out_and_a_star_is_every_list() {
        let words = |query: &str| -> Vec<&str> {
            wanted(Some(query)).into_iter().map(Subresource::as_str).collect()
        };
        assert_eq!(words("calls, toys,,features"), ["features", "calls"]);
        assert_eq!(words("*"), Subresource::ALL.map(Subresource::as_str));
        assert_eq!(words("Devices"), [] as [&str; 0]);
        assert_eq!(wanted(None), BTreeSet::new());
    }
}
