//! Wrong passwords: how many one address may try for one device, and when that is told.

use crate::model::DeviceId;
use crate::rate_limit::TokenBucket;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

/// Wrong answers for one device from one address before the next are not looked at.
pub(super) const FREE: u32 = 5;

/// How long until another one is looked at.
pub(super) const EACH: Duration = Duration::from_secs(30);

/// How often the same device and address are told of again.
const AGAIN: Duration = Duration::from_secs(60);

/// Names and sources that are remembered.
const MOST: usize = 4096;

/// Reports at once, and how long until there may be another: a thousand guessers do not fill a disk
/// with log lines.
const REPORTS: u32 = 20;
const REPORT_EACH: Duration = Duration::from_millis(200);

/// Somebody tries to be a device without knowing its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongPassword {
    /// The device that was tried.
    pub device: DeviceId,
    /// Where it was tried from.
    pub source: IpAddr,
    /// How often since this was told last.
    pub times: u32,
    /// For a while nothing is looked at that comes from there for this device.
    pub throttled: bool,
}

/// All ports of an address together have so many times the guesses of one.
const PORTS: u32 = 4;

/// The name that a password is guessed for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Attempt<'a> {
    /// The name of a device.
    Device(&'a str),
    /// A name that nobody here has: counted all the same, so that nobody learns that it is none.
    Nobody(&'a str),
}

/// How many wrong passwords were tried for which device from where: from each address and port,
/// and, with a wider measure, from each address. Addresses of IPv6 count by /64: one subscriber.
#[derive(Debug, Default)]
pub(super) struct PasswordThrottle {
    by: BTreeMap<ThrottleKey, FailedAttempts>,
    reports: TokenBucket,
}

/// Whether it is a device, its name, the address, and the port or all of them.
type ThrottleKey = (bool, String, IpAddr, Option<u16>);

impl Attempt<'_> {
    fn key(self, source: SocketAddr, port: Option<u16>) -> ThrottleKey {
        let (is_device, name) = match self {
            Attempt::Device(name) => (true, name),
            Attempt::Nobody(name) => (false, name),
        };
        (is_device, name.to_owned(), network(source.ip()), port)
    }
}

#[derive(Debug, Default)]
struct FailedAttempts {
    allowance: TokenBucket,
    times: u32,
    told: Option<(Instant, bool)>,
}

impl PasswordThrottle {
    /// How long an answer for this name from this source has to wait before it is looked at.
    pub(super) fn wait(
        &self,
        name: Attempt<'_>,
        source: SocketAddr,
        now: Instant,
    ) -> Option<Duration> {
        let left = |port: Option<u16>, most: u32, each: Duration| {
            let guess = self.by.get(&name.key(source, port));
            guess.map_or(Duration::ZERO, |guess| guess.allowance.wait(most, each, now))
        };
        let wait =
            left(Some(source.port()), FREE, EACH).max(left(None, FREE * PORTS, EACH / PORTS));
        Some(wait).filter(|wait| !wait.is_zero())
    }

    /// A wrong answer, or one that was not looked at. What is to be told of it: how many since this
    /// was told last, and whether nothing more is looked at from there for a while.
    pub(super) fn count(
        &mut self,
        name: Attempt<'_>,
        source: SocketAddr,
        looked_at: bool,
        now: Instant,
    ) -> Option<(u32, bool)> {
        if looked_at {
            self.guess(name.key(source, None), now).allowance.take(EACH / PORTS, now);
        }
        let guess = self.guess(name.key(source, Some(source.port())), now);
        if looked_at {
            guess.allowance.take(EACH, now);
        }
        let throttled = self.wait(name, source, now).is_some();
        // Told by address, whatever the port.
        let guess = self.guess(name.key(source, None), now);
        guess.times = guess.times.saturating_add(1);
        let news = match guess.told {
            None => true,
            Some((at, told_throttled)) => {
                throttled && !told_throttled || now.saturating_duration_since(at) >= AGAIN
            }
        };
        if !news
            || matches!(name, Attempt::Nobody(_))
            || self.reports.try_take(REPORTS, REPORT_EACH, now).is_err()
        {
            return None;
        }
        let guess = self.guess(name.key(source, None), now);
        guess.told = Some((now, throttled));
        Some((std::mem::take(&mut guess.times), throttled))
    }

    fn guess(&mut self, key: ThrottleKey, now: Instant) -> &mut FailedAttempts {
        if self.by.len() >= MOST && !self.by.contains_key(&key) {
            self.forget_some(now);
        }
        self.by.entry(key).or_default()
    }

    /// Those that have not tried for long, and of the others the quarter that has tried least:
    /// forgetting costs little for each that is new.
    fn forget_some(&mut self, now: Instant) {
        self.by.retain(|_, guess| !guess.allowance.used(now).is_zero());
        if self.by.len() < MOST {
            return;
        }
        let mut used: Vec<Duration> =
            self.by.values().map(|guess| guess.allowance.used(now)).collect();
        let (_, limit, _) = used.select_nth_unstable(MOST / 4);
        let limit = *limit;
        let mut left = MOST / 4;
        self.by.retain(|_, guess| {
            let goes = left > 0 && guess.allowance.used(now) <= limit;
            left -= usize::from(goes);
            !goes
        });
    }
}

fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => {
            Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(
        clippy::disallowed_methods,
        reason = "a test has to begin somewhere; time then passes by hand"
    )]
    fn start() -> Instant {
        Instant::now()
    }

    const ANNA: Attempt<'static> = Attempt::Device("anna");

    fn here(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 66], port))
    }

    #[test]
    fn five_are_free_and_then_there_is_one_every_half_minute() {
        let (mut guesses, start) = (PasswordThrottle::default(), start());
        for _ in 0..FREE {
            assert_eq!(guesses.wait(ANNA, here(5060), start), None);
            guesses.count(ANNA, here(5060), true, start);
        }
        assert_eq!(guesses.wait(ANNA, here(5060), start), Some(EACH));
        let later = start + EACH;
        assert_eq!(guesses.wait(ANNA, here(5060), later), None);
        guesses.count(ANNA, here(5060), true, later);
        assert_eq!(guesses.wait(ANNA, here(5060), later), Some(EACH));
        assert_eq!(guesses.wait(Attempt::Device("bert"), here(5060), later), None);
        assert_eq!(guesses.wait(Attempt::Nobody("anna"), here(5060), later), None);
        assert_eq!(guesses.wait(ANNA, "192.0.2.67:5060".parse().unwrap(), later), None);
    }

    #[test]
    fn another_port_of_the_address_is_looked_at_until_the_address_has_guessed_too_often() {
        let (mut guesses, now) = (PasswordThrottle::default(), start());
        for _ in 0..FREE {
            guesses.count(ANNA, here(1024), true, now);
        }
        assert_eq!(guesses.wait(ANNA, here(5062), now), None);
        for port in 2000..2000 + 15 {
            assert_eq!(guesses.wait(ANNA, here(port), now), None);
            guesses.count(ANNA, here(port), true, now);
        }
        assert_eq!(guesses.wait(ANNA, here(5062), now), Some(EACH / PORTS));
    }

    #[test]
    fn a_name_that_nobody_has_is_counted_like_one_that_somebody_has_and_told_to_nobody() {
        let (mut guesses, now) = (PasswordThrottle::default(), start());
        for _ in 0..FREE {
            assert_eq!(guesses.wait(Attempt::Nobody("zoe"), here(5060), now), None);
            assert_eq!(guesses.count(Attempt::Nobody("zoe"), here(5060), true, now), None);
        }
        assert_eq!(guesses.wait(Attempt::Nobody("zoe"), here(5060), now), Some(EACH));
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_their_guesses() {
        let (mut guesses, now) = (PasswordThrottle::default(), start());
        for host in 0..FREE {
            guesses.count(ANNA, format!("[2001:db8::{host}]:5060").parse().unwrap(), true, now);
        }
        assert!(guesses.wait(ANNA, "[2001:db8::ffff]:5060".parse().unwrap(), now).is_some());
        assert_eq!(guesses.wait(ANNA, "[2001:db8:0:1::1]:5060".parse().unwrap(), now), None);
    }

    #[test]
    fn the_first_wrong_password_and_the_throttling_are_told_and_then_one_line_a_minute() {
        let (mut guesses, start) = (PasswordThrottle::default(), start());
        let mut told = Vec::new();
        for second in 0..=120 {
            let now = start + Duration::from_secs(second);
            let looked_at = guesses.wait(ANNA, here(5060), now).is_none();
            let report = guesses.count(ANNA, here(5060), looked_at, now);
            told.extend(report.map(|(times, throttled)| (second, times, throttled)));
        }
        assert_eq!(told, [(0, 1, false), (4, 4, true), (64, 60, true)]);
    }

    #[test]
    fn what_is_remembered_and_what_is_told_is_bounded() {
        let (mut guesses, now) = (PasswordThrottle::default(), start());
        for _ in 0..FREE {
            guesses.count(ANNA, here(5060), true, now);
        }
        let sources = (0..MOST as u32 + 100)
            .map(|host| SocketAddr::from(((0x0a00_0000 + host).to_be_bytes(), 5060)));
        let told =
            sources.filter(|source| guesses.count(ANNA, *source, true, now).is_some()).count();
        assert!(guesses.by.len() <= MOST && told < REPORTS as usize);
        assert!(
            guesses.wait(ANNA, here(5060), now).is_some(),
            "the source that has tried most is not forgotten"
        );
    }
}
