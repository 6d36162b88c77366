//! Whose password is hashed next. Core: nothing waits here; [`LoginTurns`] is its shell.
//!
//! ```text
//! known   ─▶ ○ ○ ○   of devices that have logged in before, passwords that were right before
//! fresh   ─▶ ○ ○     of addresses where nothing has failed lately   }
//! failing ─▶ ○ ○ ○   of addresses where some logins have            } in each, one of each
//! suspect ─▶ ○ ○ ○   of addresses where too many have               } address in turn
//! ```
//!
//! Each lane has its share of the turns, the first one most of them, so that none starves. An
//! address is one of IPv4, or a network of IPv6 (/64).

use crate::http::server::ClientNetwork;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// What is known of a login before its password is hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Its device has logged in with this user before, or the password was right before.
    Known,
    /// Nothing has failed at its address lately.
    Fresh,
    /// Some logins have failed there.
    Failing,
    /// Too many have.
    Suspect,
}

/// Which lane has the next turn, if anybody waits there; else the first lane where somebody does.
const SHARES: [Standing; 8] = {
    use Standing::{Failing, Fresh, Known, Suspect};
    [Known, Fresh, Known, Fresh, Known, Failing, Known, Suspect]
};
const LANES: [Standing; 4] =
    [Standing::Known, Standing::Fresh, Standing::Failing, Standing::Suspect];
/// Logins that wait at once, of all addresses and of one.
const WAITING: usize = 1024;
const WAITING_OF_ONE: usize = 256;
/// Addresses that wait in a lane like those of a working day's beginning. When there are more, the
/// newest is next: a crowd of addresses that all guess does not hold up who comes after it.
const CROWD: usize = 256;

/// What becomes of a login.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entrance<T> {
    /// It may begin.
    Begins,
    /// It waits for its turn.
    Waits,
    /// It waits, and this one waits no more.
    InsteadOf(T),
    /// Too many wait.
    Refused,
}

/// Logins that wait, and how many passwords are hashed at once.
#[derive(Debug)]
pub(super) struct LoginQueue<T> {
    most: usize,
    running: usize,
    turn: usize,
    known: Lane<T>,
    fresh: Lane<T>,
    failing: Lane<T>,
    suspect: Lane<T>,
}

#[derive(Debug)]
struct Lane<T> {
    waiting: BTreeMap<ClientNetwork, VecDeque<T>>,
    /// Each address that waits, once.
    order: VecDeque<ClientNetwork>,
    count: usize,
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), order: VecDeque::new(), count: 0 }
    }
}

impl<T> Lane<T> {
    fn push(&mut self, origin: ClientNetwork, waiter: T) {
        let own = self.waiting.entry(origin).or_default();
        if own.is_empty() {
            match self.order.len() < CROWD {
                true => self.order.push_back(origin),
                false => self.order.push_front(origin),
            }
        }
        own.push_back(waiter);
        self.count += 1;
    }

    fn pop(&mut self) -> Option<T> {
        let origin = self.order.pop_front()?;
        self.take(origin, VecDeque::pop_front)
    }

    /// The newest of an address.
    fn pop_newest(&mut self, origin: ClientNetwork) -> Option<T> {
        self.order.retain(|one| *one != origin);
        self.take(origin, VecDeque::pop_back)
    }

    /// One of an address that is not in the order; if more of it wait, it goes to the end.
    fn take(
        &mut self,
        origin: ClientNetwork,
        which: impl FnOnce(&mut VecDeque<T>) -> Option<T>,
    ) -> Option<T> {
        let own = self.waiting.get_mut(&origin)?;
        let waiter = which(own)?;
        self.count -= 1;
        match own.is_empty() {
            true => drop(self.waiting.remove(&origin)),
            false => self.order.push_back(origin),
        }
        Some(waiter)
    }

    fn retain(&mut self, is_there: impl Fn(&T) -> bool) {
        for own in self.waiting.values_mut() {
            own.retain(&is_there);
        }
        self.waiting.retain(|_, own| !own.is_empty());
        self.order.retain(|origin| self.waiting.contains_key(origin));
        self.count = self.waiting.values().map(VecDeque::len).sum();
    }

    /// The newest of the address with more than so many; or, of a crowd with as few each, the one
    /// that would be last: it has given up by now.
    fn give_way(&mut self, few: usize) -> Option<T> {
        let (most, origin) = self.fullest()?;
        match most > few {
            true => self.pop_newest(origin),
            false => {
                let last = *self.order.back()?;
                self.pop_newest(last)
            }
        }
    }

    /// The address with most, and how many.
    fn fullest(&self) -> Option<(usize, ClientNetwork)> {
        self.waiting.iter().map(|(origin, own)| (own.len(), *origin)).max()
    }
}

impl<T> LoginQueue<T> {
    /// With so many passwords hashed at once.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            running: 0,
            turn: 0,
            known: Lane::default(),
            fresh: Lane::default(),
            failing: Lane::default(),
            suspect: Lane::default(),
        }
    }

    fn lane(&mut self, standing: Standing) -> &mut Lane<T> {
        match standing {
            Standing::Known => &mut self.known,
            Standing::Fresh => &mut self.fresh,
            Standing::Failing => &mut self.failing,
            Standing::Suspect => &mut self.suspect,
        }
    }

    fn waiting(&self) -> usize {
        self.known.count + self.fresh.count + self.failing.count + self.suspect.count
    }

    /// A login comes. `is_there`: of one that has not given up.
    pub(super) fn enter(
        &mut self,
        origin: ClientNetwork,
        standing: Standing,
        waiter: T,
        is_there: impl Fn(&T) -> bool,
    ) -> Entrance<T> {
        if self.running < self.most {
            self.running += 1;
            return Entrance::Begins;
        }
        let is_full = |queue: &mut Self| {
            let own = queue.lane(standing).waiting.get(&origin).map_or(0, VecDeque::len);
            own >= WAITING_OF_ONE || queue.waiting() >= WAITING
        };
        if is_full(self) {
            LANES.into_iter().for_each(|lane| self.lane(lane).retain(&is_there));
        }
        let own = self.lane(standing).waiting.get(&origin).map_or(0, VecDeque::len);
        if own >= WAITING_OF_ONE {
            return Entrance::Refused;
        }
        if self.waiting() < WAITING {
            self.lane(standing).push(origin, waiter);
            return Entrance::Waits;
        }
        match self.make_room(standing, own) {
            Some(other) => {
                self.lane(standing).push(origin, waiter);
                Entrance::InsteadOf(other)
            }
            None => Entrance::Refused,
        }
    }

    /// One that waits and has less of a claim than a newcomer of this standing and an address with
    /// so many.
    fn make_room(&mut self, standing: Standing, own: usize) -> Option<T> {
        let behind = LANES.into_iter().rev().take_while(|lane| *lane != standing);
        if let Some(lane) = behind.into_iter().find(|lane| self.lane(*lane).count > 0) {
            return self.lane(lane).give_way(1);
        }
        let may_crowd = matches!(standing, Standing::Known | Standing::Fresh) && own == 0;
        let lane = self.lane(standing);
        match lane.fullest() {
            _ if may_crowd => lane.give_way(1),
            Some((most, origin)) if most > own + 1 => lane.pop_newest(origin),
            Some(_) | None => None,
        }
    }

    /// One has been hashed; the next one.
    pub(super) fn next(&mut self) -> Option<T> {
        self.turn = (self.turn + 1) % SHARES.len();
        let first = SHARES.get(self.turn).copied().into_iter();
        let next = first.chain(LANES).find_map(|standing| self.lane(standing).pop());
        if next.is_none() {
            self.running -= 1;
        }
        next
    }
}

/// The turns of logins. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct LoginTurns(Arc<Mutex<LoginQueue<oneshot::Sender<Turn>>>>);

/// Leave to hash a password, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(Option<LoginTurns>);

impl LoginTurns {
    /// With so many passwords hashed at once.
    pub(super) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(LoginQueue::new(most))))
    }

    /// Waits for a turn; none when too many wait.
    pub(super) async fn take(&self, origin: ClientNetwork, standing: Standing) -> Option<Turn> {
        let (turn, mine) = oneshot::channel();
        let is_there = |waiter: &oneshot::Sender<Turn>| !waiter.is_closed();
        let entrance = self.queue(|queue| queue.enter(origin, standing, turn, is_there));
        match entrance {
            Entrance::Begins => Some(Turn(Some(self.clone()))),
            // A waiter that is dropped hears of it.
            Entrance::Waits | Entrance::InsteadOf(_) => mine.await.ok(),
            Entrance::Refused => None,
        }
    }

    fn queue<R>(&self, work: impl FnOnce(&mut LoginQueue<oneshot::Sender<Turn>>) -> R) -> R {
        // A lock that another thread died with holds data that is still whole.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let Some(turns) = self.0.take() else {
            return;
        };
        while let Some(next) = turns.queue(LoginQueue::next) {
            match next.send(Turn(Some(turns.clone()))) {
                Ok(()) => return,
                // It has given up; its turn is another's.
                Err(mut turn) => turn.0 = None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn origin(number: u32) -> ClientNetwork {
        ClientNetwork::of(IpAddr::from(number.to_be_bytes()))
    }

    /// A queue with one that is being hashed.
    fn busy() -> LoginQueue<&'static str> {
        let mut queue = LoginQueue::new(1);
        assert_eq!(enter(&mut queue, 0, Standing::Fresh, "first"), Entrance::Begins);
        queue
    }

    fn enter(
        queue: &mut LoginQueue<&'static str>,
        from: u32,
        standing: Standing,
        name: &'static str,
    ) -> Entrance<&'static str> {
        queue.enter(origin(from), standing, name, |_| true)
    }

    #[test]
    fn addresses_take_turns_however_many_logins_each_has() {
        let mut queue = busy();
        for name in ["a1", "a2", "a3", "a4"] {
            assert_eq!(enter(&mut queue, 1, Standing::Fresh, name), Entrance::Waits);
        }
        assert_eq!(enter(&mut queue, 2, Standing::Fresh, "b1"), Entrance::Waits);
        assert_eq!(enter(&mut queue, 3, Standing::Fresh, "c1"), Entrance::Waits);
        let order: Vec<_> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(order, ["a1", "b1", "c1", "a2", "a3", "a4"]);
        assert_eq!(queue.running, 0);
        assert_eq!(enter(&mut queue, 1, Standing::Fresh, "d"), Entrance::Begins);
    }

    #[test]
    fn known_devices_go_first_and_nobody_starves() {
        let mut queue = busy();
        for _ in 0..100 {
            for (from, standing, name) in [
                (1, Standing::Suspect, "suspect"),
                (2, Standing::Failing, "failing"),
                (3, Standing::Fresh, "fresh"),
                (4, Standing::Known, "known"),
            ] {
                assert_eq!(enter(&mut queue, from, standing, name), Entrance::Waits);
            }
        }
        let first: Vec<_> = std::iter::from_fn(|| queue.next()).take(80).collect();
        let count = |name| first.iter().filter(|one| **one == name).count();
        let counts = ["known", "fresh", "failing", "suspect"].map(count);
        assert_eq!(counts, [40, 20, 10, 10]);
        let rest = std::iter::from_fn(|| queue.next()).count();
        assert_eq!((rest, queue.running), (320, 0));
    }

    #[test]
    fn a_thousand_addresses_that_guess_hold_up_neither_a_known_device_nor_a_newcomer() {
        let mut queue = busy();
        for from in 1..=1_000 {
            enter(&mut queue, from, Standing::Fresh, "guess");
        }
        enter(&mut queue, 5_000, Standing::Fresh, "newcomer");
        enter(&mut queue, 5_001, Standing::Known, "known");
        let first: Vec<_> = std::iter::from_fn(|| queue.next()).take(3).collect();
        assert!(first.contains(&"newcomer") && first.contains(&"known"), "{first:?}");
    }

    #[test]
    fn a_full_queue_takes_nobody_in_from_where_most_wait_and_everybody_else() {
        let mut queue = busy();
        for _ in 0..WAITING_OF_ONE {
            assert_eq!(enter(&mut queue, 1, Standing::Fresh, "a"), Entrance::Waits);
        }
        assert_eq!(enter(&mut queue, 1, Standing::Fresh, "a"), Entrance::Refused);
        assert_eq!(enter(&mut queue, 1, Standing::Known, "a"), Entrance::Waits, "another lane");
        for from in 10.. {
            if queue.waiting() == WAITING {
                break;
            }
            enter(&mut queue, from, Standing::Fresh, "b");
        }
        assert_eq!(enter(&mut queue, 2, Standing::Fresh, "c"), Entrance::InsteadOf("a"));
        assert_eq!(enter(&mut queue, 3, Standing::Known, "c"), Entrance::InsteadOf("a"));
        assert_eq!(enter(&mut queue, 4, Standing::Suspect, "c"), Entrance::Refused);
        assert_eq!(queue.waiting(), WAITING);
    }

    #[test]
    fn a_full_queue_of_as_many_addresses_still_takes_the_next_one_in() {
        let mut queue = busy();
        for from in 1..=WAITING as u32 {
            assert_eq!(enter(&mut queue, from, Standing::Fresh, "guess"), Entrance::Waits);
        }
        assert_eq!(enter(&mut queue, 9_000, Standing::Fresh, "new"), Entrance::InsteadOf("guess"));
        assert_eq!(
            enter(&mut queue, 9_001, Standing::Known, "known"),
            Entrance::InsteadOf("guess")
        );
        assert_eq!(queue.waiting(), WAITING);
        let mut gone = LoginQueue::new(1);
        gone.enter(origin(0), Standing::Fresh, "first", |_| true);
        for from in 1..=WAITING as u32 {
            gone.enter(origin(from), Standing::Suspect, "has given up", |_| true);
        }
        let is_there = |waiter: &&str| *waiter != "has given up";
        let entered = gone.enter(origin(9_000), Standing::Suspect, "new", is_there);
        assert_eq!((entered, gone.waiting()), (Entrance::Waits, 1));
    }

    #[tokio::test]
    async fn a_turn_goes_on_to_the_next_that_still_waits() {
        let turns = LoginTurns::new(1);
        let first = turns.take(origin(1), Standing::Fresh).await.expect("free");
        let mut given_up = Box::pin(turns.take(origin(2), Standing::Fresh));
        let mut patient = Box::pin(turns.take(origin(3), Standing::Fresh));
        assert!(futures_util::poll!(&mut given_up).is_pending());
        assert!(futures_util::poll!(&mut patient).is_pending());
        drop(given_up);
        drop(first);
        let turn = patient.await.expect("its turn");
        assert_eq!(turns.queue(|queue| queue.running), 1);
        drop(turn);
        assert_eq!(turns.queue(|queue| queue.running), 0);
    }
}
