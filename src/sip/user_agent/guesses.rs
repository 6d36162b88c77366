//! Wrong passwords: how many one address may try for one device, and who is told.

use crate::words::DeviceId;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// Wrong answers for one device from one address before the next are not looked at.
pub(super) const FREE: u32 = 5;

/// How long until another one is looked at.
pub(super) const EACH: Duration = Duration::from_secs(30);

/// How often the same device and address are told of again.
const AGAIN: Duration = Duration::from_secs(60);

/// Devices and addresses that are remembered.
const MOST: usize = 4096;

/// Reports at once, and how long until there may be another: a thousand guessers do not fill a disk with log lines.
const REPORTS: u32 = 20;
const REPORT_EACH: Duration = Duration::from_millis(200);

/// Somebody tries to be a device without knowing its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongPassword {
    /// The device.
    pub device: DeviceId,
    /// Where it was tried from.
    pub source: IpAddr,
    /// How often since this was told last.
    pub times: u32,
    /// For a while nothing is looked at that comes from there for this device.
    pub throttled: bool,
}

/// How many wrong passwords were tried for which device from where. Addresses of IPv6 count by /64: one subscriber.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    by: BTreeMap<(DeviceId, IpAddr), Guess>,
    reports: Allowance,
}

#[derive(Debug, Default)]
struct Guess {
    allowance: Allowance,
    times: u32,
    told: Option<(Instant, bool)>,
}

/// Something that fills again with time. Holds when it will be empty of use, and so needs no clock to be made.
#[derive(Debug, Default)]
struct Allowance {
    /// When everything used will have been given back.
    whole_at: Option<Instant>,
}

impl Allowance {
    fn used(&self, now: Instant) -> Duration {
        self.whole_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }

    /// How long until there is one more; zero: now.
    fn wait(&self, most: u32, each: Duration, now: Instant) -> Duration {
        self.used(now).saturating_sub(each * (most - 1))
    }

    fn take(&mut self, each: Duration, now: Instant) {
        self.whole_at = Some(now + self.used(now) + each);
    }
}

impl Guesses {
    /// How long an answer for this device from this address has to wait before it is looked at.
    pub(super) fn wait(&self, device: &DeviceId, source: IpAddr, now: Instant) -> Option<Duration> {
        let guess = self.by.get(&(device.clone(), network(source)))?;
        Some(guess.allowance.wait(FREE, EACH, now)).filter(|wait| !wait.is_zero())
    }

    /// A wrong answer, or one that was not looked at; what is to be told of it.
    pub(super) fn count(&mut self, device: &DeviceId, source: IpAddr, looked_at: bool, now: Instant) -> Option<WrongPassword> {
        let key = (device.clone(), network(source));
        if self.by.len() >= MOST && !self.by.contains_key(&key) {
            self.forget_one(now);
        }
        let guess = self.by.entry(key).or_default();
        if looked_at {
            guess.allowance.take(EACH, now);
        }
        guess.times = guess.times.saturating_add(1);
        let throttled = !guess.allowance.wait(FREE, EACH, now).is_zero();
        let news = match guess.told {
            None => true,
            Some((at, told_throttled)) => throttled && !told_throttled || now.saturating_duration_since(at) >= AGAIN,
        };
        if !news || !self.reports.wait(REPORTS, REPORT_EACH, now).is_zero() {
            return None;
        }
        self.reports.take(REPORT_EACH, now);
        guess.told = Some((now, throttled));
        Some(WrongPassword {
            device: device.clone(),
            source,
            times: std::mem::take(&mut guess.times),
            throttled,
        })
    }

    /// Those who have not tried for long; if there are none, who has tried least.
    fn forget_one(&mut self, now: Instant) {
        self.by.retain(|_, guess| !guess.allowance.used(now).is_zero());
        if self.by.len() >= MOST
            && let Some(key) = self
                .by
                .iter()
                .min_by_key(|(_, guess)| guess.allowance.used(now))
                .map(|(key, _)| key.clone())
        {
            self.by.remove(&key);
        }
    }
}

fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test has to begin somewhere; time then passes by hand")]
    fn start() -> Instant {
        Instant::now()
    }

    fn device(name: &str) -> DeviceId {
        name.into()
    }

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 66));

    #[test]
    fn five_are_free_and_then_there_is_one_every_half_minute() {
        let (mut guesses, start, anna) = (Guesses::default(), start(), device("anna"));
        for _ in 0..FREE {
            assert_eq!(guesses.wait(&anna, HERE, start), None);
            guesses.count(&anna, HERE, true, start);
        }
        assert_eq!(guesses.wait(&anna, HERE, start), Some(EACH));
        let later = start + EACH;
        assert_eq!(guesses.wait(&anna, HERE, later), None);
        guesses.count(&anna, HERE, true, later);
        assert_eq!(guesses.wait(&anna, HERE, later), Some(EACH));
        assert_eq!(guesses.wait(&device("bert"), HERE, later), None);
        assert_eq!(guesses.wait(&anna, "192.0.2.67".parse().unwrap(), later), None);
    }

    #[test]
    fn addresses_of_one_ipv6_network_share_their_guesses() {
        let (mut guesses, now, anna) = (Guesses::default(), start(), device("anna"));
        for host in 0..FREE {
            guesses.count(&anna, format!("2001:db8::{host}").parse().unwrap(), true, now);
        }
        assert!(guesses.wait(&anna, "2001:db8::ffff".parse().unwrap(), now).is_some());
        assert_eq!(guesses.wait(&anna, "2001:db8:0:1::1".parse().unwrap(), now), None);
    }

    #[test]
    fn the_first_wrong_password_and_the_beginning_of_the_throttling_are_told_and_then_one_line_a_minute() {
        let (mut guesses, start, anna) = (Guesses::default(), start(), device("anna"));
        let mut told = Vec::new();
        for second in 0..=120 {
            let now = start + Duration::from_secs(second);
            let looked_at = guesses.wait(&anna, HERE, now).is_none();
            let report = guesses.count(&anna, HERE, looked_at, now);
            told.extend(report.map(|report| (second, report.times, report.throttled)));
        }
        assert_eq!(told, [(0, 1, false), (4, 4, true), (64, 60, true)]);
    }

    #[test]
    fn what_is_remembered_and_what_is_told_is_bounded() {
        let (mut guesses, now, anna) = (Guesses::default(), start(), device("anna"));
        for _ in 0..FREE {
            guesses.count(&anna, HERE, true, now);
        }
        let sources = (0..MOST as u32 + 100).map(|host| IpAddr::from((0x0a00_0000 + host).to_be_bytes()));
        let told = sources.filter(|source| guesses.count(&anna, *source, true, now).is_some()).count();
        assert!(guesses.by.len() <= MOST && told < REPORTS as usize);
        assert!(guesses.wait(&anna, HERE, now).is_some(), "who has tried most is not forgotten");
    }
}
