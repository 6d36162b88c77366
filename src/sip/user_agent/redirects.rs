//! Where the phone of a device sends its callers (RFC 3261 21.3).

use super::local_domain::LocalDomain;
use crate::model::Number;
use crate::sip::config::Redirects;
use crate::sip::message::{NameAddr, SipResponse, Uri};

/// So many contacts of a redirection are looked at.
const MOST_REDIRECTS: usize = 8;

impl LocalDomain {
    /// The numbers that the phone of a device sends a caller to (RFC 3261 21.3), the preferred
    /// first. Another host is none of them: what a device may call is decided by number.
    pub(super) fn redirected_to(&self, response: &SipResponse) -> Vec<Number> {
        self.contacts_of(response, None)
    }

    /// The same of a trunk, if it may: its own hosts count as ours, and its own names of devices.
    pub(super) fn redirected_by_trunk(&self, name: &str, response: &SipResponse) -> Vec<Number> {
        match self.trunk(name).is_some_and(|trunk| trunk.redirects == Redirects::Follow) {
            true => self.contacts_of(response, Some(name)),
            false => Vec::new(),
        }
    }

    /// The numbers of the contacts at hosts that are ours, or the trunk's.
    fn contacts_of(&self, response: &SipResponse, trunk: Option<&str>) -> Vec<Number> {
        if !matches!(response.status, 300..=302) {
            return Vec::new();
        }
        let mut contacts = response.headers.contacts().unwrap_or_default();
        contacts.truncate(MOST_REDIRECTS);
        // q has three digits behind its point at most (RFC 3261 25.1); without it a contact comes
        // first.
        let weight = |contact: &NameAddr| {
            let q = contact
                .params
                .get("q")
                .and_then(|q| std::str::from_utf8(q).ok()?.parse::<f32>().ok());
            (q.unwrap_or(1.0).clamp(0.0, 1.0) * 1000.0) as u16
        };
        contacts.sort_by_key(|contact| std::cmp::Reverse(weight(contact)));
        let is_phone =
            |uri: &Uri| uri.param("user").is_some_and(|user| user.eq_ignore_ascii_case(b"phone"));
        let fitting = contacts
            .iter()
            .map(|contact| &contact.uri)
            .filter(|uri| self.is_ours(uri) || is_phone(uri) || self.is_at_trunk(trunk, uri));
        fitting.filter_map(|uri| self.number_from(trunk, uri)).collect()
    }
}
