//! What one user and one address have, and whether they may have more.

use super::CometdConfig;
use crate::model::UserId;
use crate::rate_limit::TokenBucket;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::{Duration, Instant};

use super::session::SessionId;
use super::sessions::ClientOrigin;

/// The owner of sessions that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum QuotaOwner {
    /// All sessions of a user; `None`: of nobody.
    User(Option<UserId>),
    /// All sessions from an address.
    Address(IpAddr),
}

/// The sessions of one owner, and what they have together.
#[derive(Debug)]
struct SessionQuota {
    sessions: BTreeSet<SessionId>,
    subscriptions: usize,
    /// Bytes of events that wait, counted by its sessions themselves.
    queued: Arc<AtomicUsize>,
    handshakes: TokenBucket,
    handshakes_per_second: u32,
}

/// Accounts of all owners that have a session, or have opened one lately.
#[derive(Debug, Default)]
pub(super) struct SessionQuotas {
    accounts: BTreeMap<QuotaOwner, SessionQuota>,
    /// How many there were after the last sweep.
    swept: usize,
}

/// Accounts that must come together before it is worth looking for idle ones.
const SWEEP: usize = 1_000;

impl SessionQuotas {
    fn entry(&mut self, who: QuotaOwner, config: &CometdConfig, now: Instant) -> &mut SessionQuota {
        if self.accounts.len() > 2 * self.swept + SWEEP {
            self.accounts.retain(|_, account| {
                !(account.sessions.is_empty() && account.handshakes.used(now).is_zero())
            });
            self.swept = self.accounts.len();
        }
        let rate = match &who {
            QuotaOwner::User(_) => config.handshakes_per_user,
            QuotaOwner::Address(_) => config.handshakes_per_address,
        };
        self.accounts.entry(who).or_insert_with(|| SessionQuota {
            sessions: BTreeSet::new(),
            subscriptions: 0,
            queued: Arc::default(),
            handshakes: TokenBucket::default(),
            handshakes_per_second: rate.max(1),
        })
    }

    /// Takes one handshake of the client's user and of its address, or says how long until there is
    /// one.
    pub(super) fn shake(
        &mut self,
        from: &ClientOrigin,
        config: &CometdConfig,
        now: Instant,
    ) -> Result<(), Duration> {
        for who in [QuotaOwner::User(from.user.clone()), QuotaOwner::Address(from.address)] {
            self.entry(who, config, now).shake(now)?;
        }
        Ok(())
    }

    /// Sessions of an owner.
    pub(super) fn sessions(&self, who: &QuotaOwner) -> impl Iterator<Item = SessionId> + '_ {
        self.accounts.get(who).into_iter().flat_map(|account| account.sessions.iter().copied())
    }

    /// How many sessions an owner has.
    pub(super) fn count(&self, who: &QuotaOwner) -> usize {
        self.accounts.get(who).map_or(0, |account| account.sessions.len())
    }

    /// A session begins. The counters of bytes that wait for all sessions of each owner.
    pub(super) fn opened(
        &mut self,
        owners: [QuotaOwner; 2],
        session: SessionId,
        subscriptions: usize,
        config: &CometdConfig,
        now: Instant,
    ) -> [Arc<AtomicUsize>; 2] {
        owners.map(|who| {
            let account = self.entry(who, config, now);
            account.sessions.insert(session);
            account.subscriptions += subscriptions;
            account.queued.clone()
        })
    }

    /// A session has ended.
    pub(super) fn closed(
        &mut self,
        owners: &[QuotaOwner; 2],
        session: SessionId,
        subscriptions: usize,
    ) {
        self.each(owners, |account| {
            account.sessions.remove(&session);
            account.subscriptions -= subscriptions;
        });
    }

    /// Takes a subscription of both owners. False: one of them has too many.
    pub(super) fn subscribe(&mut self, owners: &[QuotaOwner; 2], config: &CometdConfig) -> bool {
        let most = [config.max_subscriptions_per_user, config.max_subscriptions_per_address];
        let has =
            |who: &QuotaOwner| self.accounts.get(who).map_or(0, |account| account.subscriptions);
        if owners.iter().zip(most).any(|(who, most)| has(who) >= most) {
            return false;
        }
        self.each(owners, |account| account.subscriptions += 1);
        true
    }

    /// Gives a subscription of both owners back.
    pub(super) fn unsubscribe(&mut self, owners: &[QuotaOwner; 2]) {
        self.each(owners, |account| account.subscriptions -= 1);
    }

    fn each(&mut self, owners: &[QuotaOwner; 2], mut change: impl FnMut(&mut SessionQuota)) {
        for who in owners {
            if let Some(account) = self.accounts.get_mut(who) {
                change(account);
            }
        }
    }
}

impl SessionQuota {
    /// Takes one handshake, or says how long until there is one.
    fn shake(&mut self, now: Instant) -> Result<(), Duration> {
        let (most, each) = (
            self.handshakes_per_second.saturating_mul(BURST_SECONDS),
            Duration::from_secs(1) / self.handshakes_per_second,
        );
        self.handshakes.try_take(most, each, now)
    }
}

/// Handshakes at once, in seconds' worth of the rate.
const BURST_SECONDS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_shakes_hands_for_ten_seconds_at_once_and_at_its_rate_from_then_on() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do to begin with")]
        let now = Instant::now();
        let config = CometdConfig { handshakes_per_user: 2, ..CometdConfig::default() };
        let mut accounts = SessionQuotas::default();
        let account = accounts.entry(QuotaOwner::User(None), &config, now);
        for _ in 0..20 {
            assert_eq!(account.shake(now), Ok(()));
        }
        assert_eq!(account.shake(now), Err(Duration::from_millis(500)));
        assert_eq!(account.shake(now + Duration::from_millis(500)), Ok(()));
    }

    #[test]
    fn accounts_that_have_nothing_are_forgotten_in_the_end() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do to begin with")]
        let now = Instant::now();
        let config = CometdConfig::default();
        let mut accounts = SessionQuotas::default();
        for number in 0..5_000u32 {
            let at = now + Duration::from_secs(u64::from(number));
            let who = QuotaOwner::Address(IpAddr::from(number.to_be_bytes()));
            assert_eq!(accounts.entry(who, &config, at).shake(at), Ok(()));
        }
        assert!(accounts.accounts.len() <= SWEEP + 100, "{}", accounts.accounts.len());
    }
}
