//! Logins that have failed. Only failures count: a whole call centre behind one address logs in at
//! eight o'clock.
//!
//! What bars a login is what has failed for the same user from the same place: a device that is
//! known with the user, or else an address. So nobody can lock out another's user elsewhere, nor
//! all users of an address; whoever guesses at many users from one address waits behind all others.

use super::devices::DeviceId;
use super::queue::Standing;
use super::{AuthConfig, locked};
use crate::clock;
use crate::http::error::HttpError;
use crate::http::server::ClientNetwork;
use crate::model::{Reason, UserId};
use crate::rate_limit::KeyedLimiter;
use std::sync::Mutex;
use std::time::Duration;

/// Where a login comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A device that is known with the user.
    Device(DeviceId),
    /// Any other.
    Network(ClientNetwork),
}

/// The register of failed logins.
pub(super) struct LoginFailures {
    counted: Mutex<Counts>,
    /// Failures at once of one user from one place, and of all users from one address.
    burst: (u32, u32),
    /// How long until one failure is forgotten, and how long a login is barred when there have been
    /// too many.
    refill: Duration,
}

struct Counts {
    failures: KeyedLimiter<(Place, UserId)>,
    /// Empty while a login is barred.
    barred: KeyedLimiter<(Place, UserId)>,
    of_addresses: KeyedLimiter<ClientNetwork>,
}

/// Keys that must come together before it is worth looking for old ones.
const KEYS: usize = 10_000;

impl LoginFailures {
    pub(super) fn new(config: &AuthConfig) -> Self {
        Self {
            counted: Mutex::new(Counts {
                failures: KeyedLimiter::new(KEYS),
                barred: KeyedLimiter::new(KEYS),
                of_addresses: KeyedLimiter::new(KEYS),
            }),
            burst: (config.failures_per_user.get(), config.failures_per_address.get()),
            refill: config.failure_refill.max(Duration::from_millis(1)),
        }
    }

    /// # Errors
    /// Too many logins of this user have failed from there.
    pub(super) fn allowed(&self, user: &UserId, place: Place) -> Result<(), HttpError> {
        let now = clock::instant();
        match locked(&self.counted).barred.is_full(&(place, user.clone()), now) {
            true => Ok(()),
            false => Err(HttpError::new(
                Reason::TooManyRequests,
                "Too many failed logins. Try again later.",
            )),
        }
    }

    /// What failures say of an address.
    pub(super) fn standing(&self, address: ClientNetwork) -> Standing {
        let now = clock::instant();
        let mut counted = locked(&self.counted);
        // Asking alone makes no entry.
        if counted.of_addresses.is_full(&address, now) {
            return Standing::Fresh;
        }
        let failures = counted.of_addresses.bucket(address, now);
        match failures.wait(self.burst.1, self.refill, now) {
            Duration::ZERO => Standing::Failing,
            _ => Standing::Suspect,
        }
    }

    pub(super) fn record(&self, user: &UserId, place: Place) {
        let now = clock::instant();
        let mut counted = locked(&self.counted);
        let Counts { failures, barred, of_addresses } = &mut *counted;
        let key = (place, user.clone());
        let own = failures.bucket(key.clone(), now);
        if own.try_take(self.burst.0, self.refill, now).is_err() {
            barred.bucket(key, now).drain(self.refill, now);
        }
        if let Place::Network(address) = place {
            // A full measure is enough: it is forgotten as fast as it came together.
            let _ = of_addresses.bucket(address, now).try_take(self.burst.1, self.refill, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn failures_bar_the_user_in_that_place_and_make_an_address_suspect() {
        let config = AuthConfig {
            failures_per_user: std::num::NonZeroU32::new(3).expect("not 0"),
            failures_per_address: std::num::NonZeroU32::new(5).expect("not 0"),
            failure_refill: Duration::from_secs(3600),
            ..AuthConfig::default()
        };
        let failures = LoginFailures::new(&config);
        let network = |last: u8| ClientNetwork::of(IpAddr::from([192, 0, 2, last]));
        let (here, elsewhere) = (Place::Network(network(1)), Place::Network(network(2)));
        let device = Place::Device([1; 16]);
        let (anna, bob) = (UserId::from("anna"), UserId::from("bob"));
        for _ in 0..4 {
            assert!(failures.allowed(&anna, here).is_ok());
            failures.record(&anna, here);
        }
        assert!(failures.allowed(&anna, here).is_err());
        for place in [elsewhere, device] {
            assert!(failures.allowed(&anna, place).is_ok());
        }
        assert!(failures.allowed(&bob, here).is_ok());
        assert_eq!(failures.standing(network(1)), Standing::Failing);
        for _ in 0..4 {
            failures.record(&bob, device);
        }
        assert!(failures.allowed(&bob, device).is_err() && failures.allowed(&bob, here).is_ok());
        let standing = failures.standing(network(1));
        assert_eq!(standing, Standing::Failing, "those of a known device are its own");
        failures.record(&bob, here);
        let standings = [1, 2].map(|last| failures.standing(network(last)));
        assert_eq!(standings, [Standing::Suspect, Standing::Fresh]);
        assert!(failures.allowed(&bob, here).is_ok(), "suspect, but not barred");
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let failures = LoginFailures::new(&AuthConfig::default());
        let network = |text: &str| ClientNetwork::of(text.parse().expect("an address"));
        let anna = UserId::from("anna");
        for _ in 0..11 {
            failures.record(&anna, Place::Network(network("2001:db8::1")));
        }
        let neighbour = Place::Network(network("2001:db8::ffff:1"));
        assert!(failures.allowed(&anna, neighbour).is_err());
        assert!(failures.allowed(&anna, Place::Network(network("2001:db8:0:1::1"))).is_ok());
    }
}
