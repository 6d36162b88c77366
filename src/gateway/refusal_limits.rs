//! How many refused attempts are written down: each is a line of the audit, and whoever repeats
//! them must not fill the disk. What is beyond is counted, and one line says how many.

use super::GatewayConfig;
use super::audit_record::{AuditEvent, AuditRecord};
use crate::model::{Now, Timestamp, UserId};
use crate::rate_limit::KeyedLimiter;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The time in which so many refusals are written down as the configuration says.
const WINDOW: Duration = Duration::from_secs(60);
/// Keys that come together before full buckets are looked for.
const SWEEP: usize = 1_000;
/// Users that are counted by name; of any more it is only known how often they were refused.
const COUNTED: usize = 1_000;

/// A user of the directory, or anybody else.
type Who = Option<UserId>;

/// What is left of each user's and each address' refusals.
pub(super) struct RefusalLimits {
    users: KeyedLimiter<Who>,
    addresses: KeyedLimiter<IpAddr>,
    per_user: u32,
    per_address: u32,
    left_out: BTreeMap<Who, LeftOut>,
    told_at: Option<Instant>,
}

/// What was not written down of one user.
struct LeftOut {
    count: u64,
    since: Timestamp,
    /// `None`: several addresses.
    from: Option<IpAddr>,
}

impl RefusalLimits {
    pub(super) fn new(config: &GatewayConfig) -> Self {
        Self {
            users: KeyedLimiter::new(SWEEP),
            addresses: KeyedLimiter::new(SWEEP),
            per_user: config.refused_per_user,
            per_address: config.refused_per_address,
            left_out: BTreeMap::new(),
            told_at: None,
        }
    }

    /// One more may be refused and written down; if not, nothing is asked of anybody for it, and
    /// it is counted.
    pub(super) fn may_ask(&mut self, user: Option<&UserId>, from: IpAddr, now: Now) -> bool {
        let (each_user, each_address) = (WINDOW / self.per_user, WINDOW / self.per_address);
        let user_bucket = self.users.bucket(user.cloned(), now.mono);
        let address_bucket = self.addresses.bucket(network(from), now.mono);
        let may = user_bucket.wait(self.per_user, each_user, now.mono).is_zero()
            && address_bucket.wait(self.per_address, each_address, now.mono).is_zero();
        if !may {
            self.leave_out(user, from, now);
        }
        may
    }

    /// A refusal is written down.
    pub(super) fn take(&mut self, user: Option<&UserId>, from: IpAddr, now: Now) {
        let (each_user, each_address) = (WINDOW / self.per_user, WINDOW / self.per_address);
        self.users.bucket(user.cloned(), now.mono).take(each_user, now.mono);
        self.addresses.bucket(network(from), now.mono).take(each_address, now.mono);
    }

    fn leave_out(&mut self, user: Option<&UserId>, from: IpAddr, now: Now) {
        let is_known = self.left_out.contains_key(&user.cloned());
        let user = user.cloned().filter(|_| is_known || self.left_out.len() < COUNTED);
        let left_out = self.left_out.entry(user).or_insert_with(|| LeftOut {
            count: 0,
            since: now.wall,
            from: Some(from),
        });
        left_out.count = left_out.count.saturating_add(1);
        left_out.from = left_out.from.filter(|known| *known == from);
        self.told_at.get_or_insert(now.mono + WINDOW);
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.told_at
    }

    /// The lines that say how many were left out, once they are due.
    pub(super) fn handle_timeout(&mut self, now: Now) -> Vec<AuditRecord> {
        if self.told_at.is_none_or(|at| now.mono < at) {
            return Vec::new();
        }
        self.told_at = None;
        let left_out = std::mem::take(&mut self.left_out);
        let record = |(user, left_out): (Who, LeftOut)| AuditRecord {
            user,
            from: left_out.from,
            left_out: Some(left_out.count),
            since: Some(left_out.since),
            ..AuditRecord::new(AuditEvent::LeftOut, now.wall)
        };
        left_out.into_iter().map(record).collect()
    }
}

/// An IPv6 address stands for its network (/64), all of which is one customer's.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
    }
}
