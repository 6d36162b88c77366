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
//!
//! When an address has its turn, users that have a password go before names that nobody has, and
//! in both one of each name in turn: neither many guesses at one user nor guesses at many invented
//! names hold up the first login of another user behind the same address. So a client that floods an
//! address sees there which names wait longer; a queue that is not full tells nothing.

use crate::http::server::ClientNetwork;
use crate::model::UserId;
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

/// A login before its password is hashed.
#[derive(Clone, Debug)]
pub(super) struct PendingLogin {
    /// From where.
    pub(super) origin: ClientNetwork,
    /// What is known of it.
    pub(super) standing: Standing,
    /// The name that it gives.
    pub(super) user: UserId,
    /// There is a password for this name.
    pub(super) is_account: bool,
}

/// Which lane has the next turn, if anybody waits there; else the first lane where somebody does.
const SHARES: [Standing; 8] = {
    use Standing::{Failing, Fresh, Known, Suspect};
    [Known, Fresh, Known, Fresh, Known, Failing, Known, Suspect]
};
const LANES: [Standing; 4] =
    [Standing::Known, Standing::Fresh, Standing::Failing, Standing::Suspect];
/// Logins that wait at once, of all addresses and of one. A user that has a password may wait once
/// also beyond those of the address.
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
    waiting: BTreeMap<ClientNetwork, Line<T>>,
    /// Each address that waits, once.
    order: VecDeque<ClientNetwork>,
    count: usize,
}

/// The logins of one address.
#[derive(Debug)]
struct Line<T> {
    accounts: Users<T>,
    /// Names that nobody has.
    invented: Users<T>,
}

#[derive(Debug)]
struct Users<T> {
    waiting: BTreeMap<UserId, VecDeque<T>>,
    /// Each name that waits, once.
    order: VecDeque<UserId>,
    count: usize,
}

impl<T> Default for Users<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), order: VecDeque::new(), count: 0 }
    }
}

impl<T> Users<T> {
    fn push(&mut self, user: UserId, waiter: T) {
        let own = self.waiting.entry(user.clone()).or_default();
        if own.is_empty() {
            self.order.push_back(user);
        }
        own.push_back(waiter);
        self.count += 1;
    }

    fn pop(&mut self) -> Option<T> {
        let user = self.order.pop_front()?;
        let own = self.waiting.get_mut(&user)?;
        let waiter = own.pop_front()?;
        self.count -= 1;
        match own.is_empty() {
            true => drop(self.waiting.remove(&user)),
            false => self.order.push_back(user),
        }
        Some(waiter)
    }

    fn of(&self, user: &UserId) -> usize {
        self.waiting.get(user).map_or(0, VecDeque::len)
    }

    /// The newest of the name with most, if that has more than so many; of names with as many, of
    /// the one that would be last.
    fn pop_newest(&mut self, few: usize) -> Option<T> {
        let fullest = self.order.iter().max_by_key(|user| self.of(user))?.clone();
        let own = self.waiting.get_mut(&fullest).filter(|own| own.len() > few)?;
        let waiter = own.pop_back()?;
        self.count -= 1;
        if own.is_empty() {
            self.waiting.remove(&fullest);
            self.order.retain(|user| *user != fullest);
        }
        Some(waiter)
    }

    fn retain(&mut self, is_there: impl Fn(&T) -> bool) {
        for own in self.waiting.values_mut() {
            own.retain(&is_there);
        }
        self.waiting.retain(|_, own| !own.is_empty());
        self.order.retain(|user| self.waiting.contains_key(user));
        self.count = self.waiting.values().map(VecDeque::len).sum();
    }
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self { accounts: Users::default(), invented: Users::default() }
    }
}

impl<T> Line<T> {
    fn count(&self) -> usize {
        self.accounts.count + self.invented.count
    }

    fn push(&mut self, login: &PendingLogin, waiter: T) {
        let users = if login.is_account { &mut self.accounts } else { &mut self.invented };
        users.push(login.user.clone(), waiter);
    }

    fn pop(&mut self) -> Option<T> {
        self.accounts.pop().or_else(|| self.invented.pop())
    }

    /// The one with the least claim.
    fn pop_newest(&mut self) -> Option<T> {
        self.invented.pop_newest(0).or_else(|| self.accounts.pop_newest(0))
    }

    /// One that has less of a claim than this newcomer.
    fn make_room(&mut self, login: &PendingLogin) -> Option<T> {
        match login.is_account {
            true => self
                .invented
                .pop_newest(0)
                .or_else(|| self.accounts.pop_newest(self.accounts.of(&login.user) + 1)),
            false => self.invented.pop_newest(self.invented.of(&login.user) + 1),
        }
    }
}

impl<T> Default for Lane<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), order: VecDeque::new(), count: 0 }
    }
}

impl<T> Lane<T> {
    fn push(&mut self, login: &PendingLogin, waiter: T) {
        let line = self.waiting.entry(login.origin).or_default();
        if line.count() == 0 {
            match self.order.len() < CROWD {
                true => self.order.push_back(login.origin),
                false => self.order.push_front(login.origin),
            }
        }
        line.push(login, waiter);
        self.count += 1;
    }

    fn pop(&mut self) -> Option<T> {
        let origin = self.order.pop_front()?;
        self.take(origin, Line::pop)
    }

    /// The newest of an address.
    fn pop_newest(&mut self, origin: ClientNetwork) -> Option<T> {
        self.order.retain(|one| *one != origin);
        self.take(origin, Line::pop_newest)
    }

    /// One of an address that is not in the order; if more of it wait, it goes to the end.
    fn take(
        &mut self,
        origin: ClientNetwork,
        which: impl FnOnce(&mut Line<T>) -> Option<T>,
    ) -> Option<T> {
        let line = self.waiting.get_mut(&origin)?;
        let waiter = which(line)?;
        self.count -= 1;
        match line.count() {
            0 => drop(self.waiting.remove(&origin)),
            _ => self.order.push_back(origin),
        }
        Some(waiter)
    }

    /// One of the newcomer's address that has less of a claim; the address keeps its turn.
    fn make_room(&mut self, login: &PendingLogin) -> Option<T> {
        let line = self.waiting.get_mut(&login.origin)?;
        let waiter = line.make_room(login)?;
        self.count -= 1;
        if line.count() == 0 {
            self.waiting.remove(&login.origin);
            self.order.retain(|one| *one != login.origin);
        }
        Some(waiter)
    }

    /// How many wait of the newcomer's address, and how many of these for the same name.
    fn own(&self, login: &PendingLogin) -> (usize, usize) {
        self.waiting.get(&login.origin).map_or((0, 0), |line| {
            let of_user = line.accounts.of(&login.user) + line.invented.of(&login.user);
            (line.count(), of_user)
        })
    }

    fn retain(&mut self, is_there: impl Fn(&T) -> bool) {
        for line in self.waiting.values_mut() {
            line.accounts.retain(&is_there);
            line.invented.retain(&is_there);
        }
        self.waiting.retain(|_, line| line.count() > 0);
        self.order.retain(|origin| self.waiting.contains_key(origin));
        self.count = self.waiting.values().map(Line::count).sum();
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
        self.waiting.iter().map(|(origin, line)| (line.count(), *origin)).max()
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
        login: &PendingLogin,
        waiter: T,
        is_there: impl Fn(&T) -> bool,
    ) -> Entrance<T> {
        if self.running < self.most {
            self.running += 1;
            return Entrance::Begins;
        }
        let standing = login.standing;
        if self.lane(standing).own(login).0 >= WAITING_OF_ONE || self.waiting() >= WAITING {
            LANES.into_iter().for_each(|lane| self.lane(lane).retain(&is_there));
        }
        let (own, of_user) = self.lane(standing).own(login);
        let other = if own >= WAITING_OF_ONE {
            let other = self.lane(standing).make_room(login);
            if other.is_none() && !(login.is_account && of_user == 0) {
                return Entrance::Refused;
            }
            other
        } else {
            None
        };
        let is_full = other.is_none() && self.waiting() >= WAITING;
        let other = match is_full {
            true => self.make_room(standing, own).or_else(|| self.lane(standing).make_room(login)),
            false => other,
        };
        if is_full && other.is_none() {
            return Entrance::Refused;
        }
        self.lane(standing).push(login, waiter);
        other.map_or(Entrance::Waits, Entrance::InsteadOf)
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
    pub(super) async fn take(&self, login: &PendingLogin) -> Option<Turn> {
        let (turn, mine) = oneshot::channel();
        let is_there = |waiter: &oneshot::Sender<Turn>| !waiter.is_closed();
        let entrance = self.queue(|queue| queue.enter(login, turn, is_there));
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
    use std::collections::BTreeSet;
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
        queue.enter(&of(from, standing), name, |_| true)
    }

    fn of(from: u32, standing: Standing) -> PendingLogin {
        PendingLogin { origin: origin(from), standing, user: "anna".into(), is_account: true }
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
        gone.enter(&of(0, Standing::Fresh), "first", |_| true);
        for from in 1..=WAITING as u32 {
            gone.enter(&of(from, Standing::Suspect), "has given up", |_| true);
        }
        let is_there = |waiter: &&str| *waiter != "has given up";
        let entered = gone.enter(&of(9_000, Standing::Suspect), "new", is_there);
        assert_eq!((entered, gone.waiting()), (Entrance::Waits, 1));
    }

    /// How long a login of anna's, from the address that 400 connections guess from without a pause,
    /// waits after 8 s of that, in hashes. Each guess that is refused comes again 50 ms later.
    fn wait_behind_a_flood(name_of: impl Fn(usize, usize) -> (String, bool)) -> usize {
        const TURN: usize = 50;
        let mut queue = LoginQueue::new(1);
        let guess = |guesser: usize, number: usize| {
            let (name, is_account) = name_of(guesser, number);
            PendingLogin { user: name.as_str().into(), is_account, ..of(1, Standing::Suspect) }
        };
        let mut ready: BTreeSet<(usize, usize)> = (0..400).map(|guesser| (0, guesser)).collect();
        let mut running = None;
        let (mut number, mut came) = (0, None);
        for at in 0..60_000 {
            while ready.first().is_some_and(|(when, _)| *when <= at)
                && let Some((_, guesser)) = ready.pop_first()
            {
                number += 1;
                let login = guess(guesser, number);
                match queue.enter(&login, Some(guesser), |_| true) {
                    Entrance::Begins => running = Some(Some(guesser)),
                    Entrance::Waits => {}
                    Entrance::InsteadOf(other) => {
                        ready.insert((at + TURN, other.expect("anna is not pushed out")));
                    }
                    Entrance::Refused => {
                        ready.insert((at + TURN, guesser));
                    }
                }
            }
            if at == 8_010 {
                came = Some(at);
                match queue.enter(&of(1, Standing::Suspect), None, |_| true) {
                    Entrance::InsteadOf(Some(other)) => {
                        ready.insert((at + TURN, other));
                    }
                    Entrance::Waits => {}
                    other => panic!("{other:?}"),
                }
            }
            if at % TURN == 0
                && let Some(done) = running.take()
            {
                match done {
                    Some(guesser) => {
                        ready.insert((at, guesser));
                    }
                    None => return (at - came.expect("it came")) / TURN,
                }
                running = queue.next();
            }
        }
        panic!("it waits for ever");
    }

    #[test]
    fn a_flood_of_guesses_from_the_same_address_holds_up_no_first_login() {
        // Invented names, a few invented names, one user, 20 users, 400 users.
        let invented = wait_behind_a_flood(|_, number| (format!("guess{number}"), false));
        let few = wait_behind_a_flood(|guesser, _| (format!("guess{}", guesser % 3), false));
        let one = wait_behind_a_flood(|_, _| ("bob".to_owned(), true));
        let some = wait_behind_a_flood(|guesser, _| (format!("user{}", guesser % 20), true));
        let many = wait_behind_a_flood(|guesser, _| (format!("user{guesser}"), true));
        assert!(invented <= 2 && few <= 2 && one <= 3, "{invented} {few} {one}");
        assert!(some <= 22 && many <= 402, "{some} {many}");
    }

    #[test]
    fn names_of_an_address_take_turns_and_invented_ones_come_last() {
        let mut queue = busy();
        for (user, is_account, name) in [
            ("x", false, "x1"),
            ("y", false, "y1"),
            ("bob", true, "b1"),
            ("bob", true, "b2"),
            ("eve", true, "e1"),
        ] {
            let login = PendingLogin { user: user.into(), is_account, ..of(1, Standing::Failing) };
            assert_eq!(queue.enter(&login, name, |_| true), Entrance::Waits);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.next()).collect();
        assert_eq!(order, ["b1", "e1", "b2", "x1", "y1"]);
    }

    #[test]
    fn a_user_without_a_place_gets_one_in_an_address_or_a_queue_that_guesses_fill() {
        let mut queue = busy();
        for from in 1..=4 {
            for _ in 0..WAITING_OF_ONE {
                let login = PendingLogin { is_account: false, ..of(from, Standing::Suspect) };
                assert_eq!(queue.enter(&login, "guess", |_| true), Entrance::Waits);
            }
        }
        assert_eq!(enter(&mut queue, 1, Standing::Suspect, "a"), Entrance::InsteadOf("guess"));
        let other =
            PendingLogin { user: "invented".into(), is_account: false, ..of(1, Standing::Suspect) };
        // One of the name with most.
        let entered = queue.enter(&other, "other", |_| true);
        assert_eq!(entered, Entrance::InsteadOf("guess"));
        assert_eq!(queue.enter(&other, "other", |_| true), Entrance::InsteadOf("guess"));
        assert_eq!(queue.waiting(), WAITING);
    }

    #[tokio::test]
    async fn a_turn_goes_on_to_the_next_that_still_waits() {
        let turns = LoginTurns::new(1);
        let logins = [0, 1, 2, 3].map(|from| of(from, Standing::Fresh));
        let first = turns.take(&logins[1]).await.expect("free");
        let mut given_up = Box::pin(turns.take(&logins[2]));
        let mut patient = Box::pin(turns.take(&logins[3]));
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
