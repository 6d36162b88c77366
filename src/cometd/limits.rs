//! What one user and one address have, and whether they may have more.

use super::CometdConfig;
use super::session::SessionId;
use super::sessions::ClientOrigin;
use crate::model::UserId;
use crate::rate_limit::KeyedLimiter;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// The owner of sessions that are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum QuotaOwner {
    /// All sessions of a user; `None`: of nobody.
    User(Option<UserId>),
    /// All sessions from an address.
    Address(IpAddr),
}

/// The sessions of all owners, what they have together, and how often they may be opened.
#[derive(Debug)]
pub(super) struct SessionQuotas {
    /// Of every owner that has a session.
    accounts: BTreeMap<QuotaOwner, SessionQuota>,
    handshakes: KeyedLimiter<QuotaOwner>,
}

/// The sessions of one owner.
#[derive(Debug, Default)]
struct SessionQuota {
    sessions: BTreeSet<SessionId>,
    totals: Arc<OwnerTotals>,
}

/// What the sessions of one owner have together. Only one thread counts.
#[derive(Debug, Default)]
struct OwnerTotals {
    subscriptions: AtomicUsize,
    /// Bytes of events that wait.
    queued: AtomicUsize,
}

/// The totals of a session's user and of its address: the session counts itself in.
#[derive(Debug, Default)]
pub(super) struct SessionTotals([Arc<OwnerTotals>; 2]);

/// Owners that must come together before it is worth looking for those that have not shaken hands
/// lately.
const SWEEP: usize = 1_000;
/// Handshakes at once, in seconds' worth of the rate.
const BURST_SECONDS: u32 = 10;

impl Default for SessionQuotas {
    fn default() -> Self {
        Self { accounts: BTreeMap::new(), handshakes: KeyedLimiter::new(SWEEP) }
    }
}

impl SessionQuotas {
    /// Takes one handshake of the client's user and of its address, or says how long until there is
    /// one.
    pub(super) fn shake(
        &mut self,
        from: &ClientOrigin,
        config: &CometdConfig,
        now: Instant,
    ) -> Result<(), Duration> {
        self.shake_one(QuotaOwner::User(from.user.clone()), config.handshakes_per_user, now)?;
        self.shake_one(QuotaOwner::Address(from.address), config.handshakes_per_address, now)
    }

    fn shake_one(
        &mut self,
        who: QuotaOwner,
        per_second: u32,
        now: Instant,
    ) -> Result<(), Duration> {
        let per_second = per_second.max(1);
        let most = per_second.saturating_mul(BURST_SECONDS);
        self.handshakes.bucket(who, now).try_take(most, Duration::from_secs(1) / per_second, now)
    }

    /// Sessions of an owner.
    pub(super) fn sessions(&self, who: &QuotaOwner) -> &BTreeSet<SessionId> {
        static NONE: BTreeSet<SessionId> = BTreeSet::new();
        self.accounts.get(who).map_or(&NONE, |account| &account.sessions)
    }

    /// A session begins. The totals that it counts itself in from now on.
    pub(super) fn opened(&mut self, owners: [QuotaOwner; 2], session: SessionId) -> SessionTotals {
        SessionTotals(owners.map(|who| {
            let account = self.accounts.entry(who).or_default();
            account.sessions.insert(session);
            account.totals.clone()
        }))
    }

    /// A session has ended.
    pub(super) fn closed(&mut self, owners: [QuotaOwner; 2], session: SessionId) {
        for who in owners {
            if let Entry::Occupied(mut account) = self.accounts.entry(who) {
                account.get_mut().sessions.remove(&session);
                if account.get().sessions.is_empty() {
                    account.remove();
                }
            }
        }
    }
}

impl SessionTotals {
    /// Takes a subscription of both owners. False: one of them has too many.
    pub(super) fn subscribe(&self, config: &CometdConfig) -> bool {
        let most = [config.max_subscriptions_per_user, config.max_subscriptions_per_address];
        let has = self.0.iter().map(|totals| totals.subscriptions.load(Relaxed));
        if has.zip(most).any(|(has, most)| has >= most) {
            return false;
        }
        self.add_subscriptions(1);
        true
    }

    /// So many subscriptions more.
    pub(super) fn add_subscriptions(&self, count: usize) {
        for totals in &self.0 {
            totals.subscriptions.fetch_add(count, Relaxed);
        }
    }

    /// So many subscriptions less.
    pub(super) fn remove_subscriptions(&self, count: usize) {
        for totals in &self.0 {
            totals.subscriptions.fetch_sub(count, Relaxed);
        }
    }

    /// As many bytes of the session wait now, after as many before.
    pub(super) fn recount(&self, before: usize, now: usize) {
        for totals in &self.0 {
            // What is added wraps around where it is less.
            totals.queued.fetch_add(now.wrapping_sub(before), Relaxed);
        }
    }

    /// Which of the two owners has more bytes that wait than it may.
    pub(super) fn over(&self, config: &CometdConfig) -> Option<usize> {
        let most = [config.max_queue_bytes_per_user, config.max_queue_bytes_per_address];
        let mut queued = self.0.iter().map(|totals| totals.queued.load(Relaxed)).zip(most);
        queued.position(|(queued, most)| queued > most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(user: &str, address: u32) -> ClientOrigin {
        ClientOrigin {
            user: Some(user.into()),
            proven: true,
            login_until: None,
            browser: None,
            login: None,
            by_password_alone: false,
            is_refused: false,
            address: IpAddr::from(address.to_be_bytes()),
        }
    }

    #[test]
    fn an_account_shakes_hands_for_ten_seconds_at_once_and_at_its_rate_from_then_on() {
        #[expect(clippy::disallowed_methods, reason = "any instant will do to begin with")]
        let now = Instant::now();
        let config = CometdConfig { handshakes_per_user: 2, ..CometdConfig::default() };
        let mut quotas = SessionQuotas::default();
        let mut shake = |number, at| quotas.shake(&from("anna", number), &config, at);
        for number in 0..20 {
            assert_eq!(shake(number, now), Ok(()));
        }
        assert_eq!(shake(20, now), Err(Duration::from_millis(500)));
        assert_eq!(shake(21, now + Duration::from_millis(500)), Ok(()));
    }

    #[test]
    fn an_account_is_forgotten_with_its_last_session() {
        let config = CometdConfig { max_subscriptions_per_user: 2, ..CometdConfig::default() };
        let owners = || {
            [QuotaOwner::User(Some("anna".into())), QuotaOwner::Address(IpAddr::from([0, 0, 0, 1]))]
        };
        let mut quotas = SessionQuotas::default();
        let one = quotas.opened(owners(), SessionId(1));
        let other = quotas.opened(owners(), SessionId(2));
        assert_eq!(quotas.sessions(&owners()[0]).len(), 2);
        assert!(one.subscribe(&config) && other.subscribe(&config) && !one.subscribe(&config));
        one.remove_subscriptions(1);
        assert!(other.subscribe(&config) && !other.subscribe(&config));
        quotas.closed(owners(), SessionId(1));
        assert!(!quotas.accounts.is_empty());
        quotas.closed(owners(), SessionId(2));
        assert!(quotas.accounts.is_empty());
    }
}
