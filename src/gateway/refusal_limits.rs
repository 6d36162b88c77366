//! How many refused attempts are written down: each is a line of the audit, and whoever repeats
//! them must not fill the disk. What is beyond is counted, and one line says how many.

use super::GatewayConfig;
use super::audit_record::{AuditEvent, AuditRecord};
use crate::model::{CallerName, Now, Timestamp, UserId};
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

/// The service that asks, if one does; for a user of the directory, or for anybody else.
type Who = (Option<CallerName>, Option<UserId>);

/// What is counted for all users together.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// Where a user sits; of IPv6 its network.
    Address(IpAddr),
    /// A service, wherever it calls from.
    Service(CallerName),
}

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker<'a> {
    /// `None`: not of the directory.
    pub(super) user: Option<&'a UserId>,
    /// The service that asks on behalf of the user.
    pub(super) caller: Option<&'a CallerName>,
    pub(super) from: IpAddr,
}

impl Asker<'_> {
    fn who(&self) -> Who {
        (self.caller.cloned(), self.user.cloned())
    }

    fn origin(&self) -> Origin {
        match self.caller {
            Some(caller) => Origin::Service(caller.clone()),
            None => Origin::Address(network(self.from)),
        }
    }
}

/// What is left of the refusals of each user, and of each address or service. Those that a service
/// has brought about count against that service alone.
pub(super) struct RefusalLimits {
    users: KeyedLimiter<Who>,
    origins: KeyedLimiter<Origin>,
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
            origins: KeyedLimiter::new(SWEEP),
            per_user: config.refused_per_user,
            per_address: config.refused_per_address,
            left_out: BTreeMap::new(),
            told_at: None,
        }
    }

    /// One more may be refused and written down; if not, nothing is asked of anybody for it, and
    /// it is counted.
    pub(super) fn may_ask(&mut self, asker: Asker<'_>, now: Now) -> bool {
        let (each_user, each_origin) = (WINDOW / self.per_user, WINDOW / self.per_address);
        let user = self.users.bucket(asker.who(), now.mono);
        let origin = self.origins.bucket(asker.origin(), now.mono);
        let may = user.wait(self.per_user, each_user, now.mono).is_zero()
            && origin.wait(self.per_address, each_origin, now.mono).is_zero();
        if !may {
            self.leave_out(asker, now);
        }
        may
    }

    /// A refusal is written down.
    pub(super) fn take(&mut self, asker: Asker<'_>, now: Now) {
        let (each_user, each_origin) = (WINDOW / self.per_user, WINDOW / self.per_address);
        self.users.bucket(asker.who(), now.mono).take(each_user, now.mono);
        self.origins.bucket(asker.origin(), now.mono).take(each_origin, now.mono);
    }

    fn leave_out(&mut self, asker: Asker<'_>, now: Now) {
        let mut who = asker.who();
        if !self.left_out.contains_key(&who) && self.left_out.len() >= COUNTED {
            who.1 = None;
        }
        let left_out = self.left_out.entry(who).or_insert_with(|| LeftOut {
            count: 0,
            since: now.wall,
            from: Some(asker.from),
        });
        left_out.count = left_out.count.saturating_add(1);
        left_out.from = left_out.from.filter(|known| *known == asker.from);
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
        let record = |((caller, user), left_out): (Who, LeftOut)| AuditRecord {
            user,
            caller,
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
