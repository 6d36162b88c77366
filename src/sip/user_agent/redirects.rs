//! Where the phone of a device sends its callers (RFC 3261 21.3).

use super::local_domain::LocalDomain;
use crate::model::Number;
use crate::sip::config::Redirects;
use crate::sip::message::{Host, NameAddr, SipResponse, Uri};

/// So many contacts of a redirection are looked at.
const MOST_REDIRECTS: usize = 8;

impl LocalDomain {
    /// The numbers that the phone of a device sends a caller to (RFC 3261 21.3), the preferred
    /// first. Another host is none of them: what a device may call is decided by number.
    pub(super) fn redirected_to(&self, response: &SipResponse) -> Vec<Number> {
        self.contacts_of(response, |_| false)
    }

    /// The same of a trunk, if it may: its own hosts count as ours.
    pub(super) fn redirected_by_trunk(&self, name: &str, response: &SipResponse) -> Vec<Number> {
        let trunk = self.trunk(name).filter(|trunk| trunk.redirects == Redirects::Follow);
        let Some(trunk) = trunk else {
            return Vec::new();
        };
        let hosts = trunk.hosts();
        self.contacts_of(response, |uri| {
            let host = uri.host();
            let is_name = trunk.targets.iter().any(|target| host == Host::read(&target.host));
            is_name || matches!(host, Host::Address(ip) if hosts.iter().any(|own| own.contains(ip)))
        })
    }

    /// The numbers of the contacts at hosts that are ours, or as good as ours.
    fn contacts_of(&self, response: &SipResponse, is_theirs: impl Fn(&Uri) -> bool) -> Vec<Number> {
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
            .filter(|uri| self.is_ours(uri) || is_phone(uri) || is_theirs(uri));
        fitting.filter_map(|uri| self.number_of(uri)).collect()
    }
}
