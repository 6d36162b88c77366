//! Devices that have logged in before: a cookie of each says with which user, and nobody can forge
//! one. It is no login; it only has its login asked apart from those of strangers.

use crate::model::{Timestamp, UserId};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// The name of the cookie.
pub(super) const DEVICE_COOKIE: &str = "UNDERTONE_DEVICE";
/// How long a device is known without a login that was hashed, in seconds.
pub(super) const KNOWN_FOR: u64 = 180 * 24 * 3600;
const SEPARATOR: &[u8] = b"undertone known device 1";
const ID: usize = 16;
const TIME: usize = 8;

/// Names a device with one user.
pub(super) type DeviceId = [u8; ID];

/// Makes out and makes known devices.
pub(super) struct KnownDevices {
    key: [u8; 32],
}

impl KnownDevices {
    pub(super) fn new(key: [u8; 32]) -> Self {
        Self { key }
    }

    fn mac(&self, user: &UserId, head: &[u8]) -> Option<Hmac<Sha256>> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.key).ok()?;
        // A head has one length, so nothing can be moved from it to the name.
        [SEPARATOR, head, user.as_str().as_bytes()].iter().for_each(|part| mac.update(part));
        Some(mac)
    }

    /// The cookie of a new device of this user.
    pub(super) fn cookie(&self, user: &UserId, id: DeviceId, now: Timestamp) -> Option<String> {
        let mut bytes = [&id[..], &(now.0 / 1000).to_be_bytes()].concat();
        let mac = self.mac(user, &bytes)?.finalize().into_bytes();
        bytes.extend(mac);
        Some(URL_SAFE_NO_PAD.encode(bytes))
    }

    /// The device of a cookie, if this user has logged in there.
    pub(super) fn recognise(
        &self,
        user: &UserId,
        cookie: &str,
        now: Timestamp,
    ) -> Option<DeviceId> {
        let bytes = URL_SAFE_NO_PAD.decode(cookie).ok()?;
        let (head, mac) = bytes.split_at_checked(ID + TIME)?;
        self.mac(user, head)?.verify_slice(mac).ok()?;
        let (id, time) = head.split_first_chunk::<ID>()?;
        let since = u64::from_be_bytes(time.try_into().ok()?);
        let age = (now.0 / 1000).saturating_sub(since);
        (age < KNOWN_FOR).then_some(*id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_known_with_its_user_alone_and_not_for_ever() {
        let now = Timestamp(1_800_000_000_000);
        let devices = KnownDevices::new([7; 32]);
        let anna = UserId::from("anna");
        let cookie = devices.cookie(&anna, [1; ID], now).expect("a cookie");
        assert_eq!(devices.recognise(&anna, &cookie, now), Some([1; ID]));
        let later = Timestamp(now.0 + KNOWN_FOR * 1000);
        assert_eq!(devices.recognise(&anna, &cookie, Timestamp(later.0 - 1)), Some([1; ID]));
        assert_eq!(devices.recognise(&anna, &cookie, later), None);
        assert_eq!(devices.recognise(&"bob".into(), &cookie, now), None);
        assert_eq!(KnownDevices::new([8; 32]).recognise(&anna, &cookie, now), None);
        for at in 0..cookie.len() {
            let mut forged = cookie.clone().into_bytes();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).expect("text");
            assert_eq!(devices.recognise(&anna, &forged, now), None, "{forged}");
        }
        for nothing in ["", "x", "AAAA", &cookie[..40]] {
            assert_eq!(devices.recognise(&anna, nothing, now), None, "{nothing}");
        }
    }
}
