//! The data of a call, in header fields: what an INVITE says of a call, and what an INVITE of ours
//! says.
//!
//! What a peer may attach is what is configured for it, and User-to-User where it is a trunk. What
//! does not fit is left out: nothing that a peer writes there ends a call.

use super::local_domain::LocalDomain;
use crate::model::UserData;
use crate::sip::config::{USER_TO_USER, UserDataHeaders};
use crate::sip::leg::LegSource;
use crate::sip::message::{
    Headers, SipRequest, is_printable, read_user_to_user, write_user_to_user,
};

/// Values of one call that are taken from User-to-User: no more were ever seen.
const MOST_USER_TO_USER: usize = 4;

/// The longest value of a header field of ours, in bytes: what of it is common (RFC 7433 4.1) and
/// leaves an INVITE in one datagram.
const LONGEST_VALUE: usize = 512;

/// Bytes of all header fields of ours together, names included: the rest of an INVITE has room
/// beside them in a datagram that is not cut in pieces (RFC 3261 18.1.1).
const MOST_BYTES: usize = 800;

impl LocalDomain {
    /// What an INVITE of this peer says of its call.
    pub(super) fn user_data(&self, source: &LegSource, headers: &Headers) -> UserData {
        let (table, takes_any) = match self.trunk_of(source) {
            Some(name) => (self.trunk(name).map(|trunk| &trunk.user_data_headers), true),
            None => (self.account_of(source).map(|account| &account.user_data_headers), false),
        };
        let Some(table) = table else {
            return UserData::default();
        };
        let unlisted =
            (takes_any && !table.has(USER_TO_USER)).then_some((USER_TO_USER, USER_TO_USER));
        let said =
            table.iter().chain(unlisted).flat_map(|(header, key)| read(headers, header, key));
        said.fold(UserData::default(), |data, pair| match UserData::new([pair]) {
            Ok(one) => data.with_what_fits(&one),
            Err(_) => data,
        })
    }

    /// Writes what of the data is configured for the peer. A User-to-User that was handed on says
    /// the same already, or gives way.
    pub(super) fn write_user_data(
        &self,
        invite: &mut SipRequest,
        peer: &LegSource,
        data: &UserData,
    ) {
        let mut room = MOST_BYTES;
        for (header, key) in self.sent_to(peer).into_iter().flat_map(UserDataHeaders::iter) {
            let Some(text) = data.get(key).filter(|text| is_sayable(text)) else {
                continue;
            };
            let value = match header == USER_TO_USER {
                true => write_user_to_user(text),
                false => text.to_owned(),
            };
            let mut before = invite.headers.fields_of(header).flat_map(read_user_to_user);
            let is_there =
                header == USER_TO_USER && before.next().is_some_and(|before| before == text);
            drop(before);
            let length = header.len() + value.len();
            if !is_there && value.len() <= LONGEST_VALUE && length <= room {
                invite.headers.set(header, value);
                room -= length;
            }
        }
    }

    fn sent_to(&self, peer: &LegSource) -> Option<&UserDataHeaders> {
        match self.trunk_of(peer) {
            Some(name) => self.trunk(name).map(|trunk| &trunk.send_user_data),
            None => self.account_of(peer).map(|account| &account.send_user_data),
        }
    }
}

/// What the fields of one name say: User-to-User may have several values, of which those after the
/// first have a number behind their key; of any other, the first field counts.
fn read(headers: &Headers, header: &str, key: &str) -> Vec<(String, String)> {
    if header == USER_TO_USER {
        let texts = headers.fields_of(header).flat_map(read_user_to_user).take(MOST_USER_TO_USER);
        let numbered = |(before, text): (usize, String)| match before {
            0 => (key.to_owned(), text),
            before => (format!("{key}-{}", before + 1), text),
        };
        return texts.enumerate().map(numbered).collect();
    }
    let text = headers.get(header).and_then(|value| std::str::from_utf8(value).ok());
    let text = text.filter(|text| !text.is_empty() && text.chars().all(is_printable));
    text.map(|text| (key.to_owned(), text.to_owned())).into_iter().collect()
}

/// A text that a header field can say as it is (RFC 3261 25.1, TEXT-UTF8-TRIM).
fn is_sayable(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= LONGEST_VALUE
        && text.trim() == text
        && text.chars().all(is_printable)
}
