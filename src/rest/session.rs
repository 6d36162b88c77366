//! How a contact-centre session opens on some of the channels that are asked for.

use super::Accepted;
use crate::http::gws_json::VOICE;
use serde::Serialize;
use utoipa::ToSchema;

/// The answer to an operation on the user.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub(super) enum SessionReply {
    /// All of it.
    Whole(Accepted),
    /// A part of it.
    Part(PartlyOpened),
}

/// statusCode 7: the session is open, but not on every channel; or, where none of them exists, not
/// at all.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PartlyOpened {
    /// 7
    status_code: u8,
    /// The channels that it is open on; none: no session was opened.
    succeeded: Vec<ChannelOutcome>,
    /// The channels that do not exist here.
    failed: Vec<ChannelOutcome>,
}

/// What became of a channel.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ChannelOutcome {
    /// Its name.
    channel: String,
    /// A text for people.
    status_message: String,
}

pub(super) const PARTIAL_SUCCESS: u8 = 7;

impl SessionReply {
    /// After the operation was accepted, without the channels that do not exist here.
    pub(super) fn new(accepted: Accepted, missing: Vec<String>) -> Self {
        if missing.is_empty() {
            return Self::Whole(accepted);
        }
        let opened = ChannelOutcome {
            channel: VOICE.to_owned(),
            status_message: "The session is open.".to_owned(),
        };
        Self::part(vec![opened], missing)
    }

    /// Nothing was opened: none of the channels exists here.
    pub(super) fn nowhere(missing: Vec<String>) -> Self {
        Self::part(Vec::new(), missing)
    }

    fn part(succeeded: Vec<ChannelOutcome>, missing: Vec<String>) -> Self {
        let failed = missing.into_iter().map(|channel| ChannelOutcome {
            status_message: format!("There is no channel '{channel}' here."),
            channel,
        });
        Self::Part(PartlyOpened {
            status_code: PARTIAL_SUCCESS,
            succeeded,
            failed: failed.collect(),
        })
    }
}
