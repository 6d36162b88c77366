//! What waits for one session, and how its client acknowledges what has come.

use super::super::message::Event;
use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;

#[derive(Debug)]
struct QueuedEvent {
    event: Arc<Event>,
    /// The first batch that it left with; `None`: it has not left yet.
    batch: Option<u64>,
}

/// Events that wait: to leave, or, with acknowledgements, to be acknowledged.
#[derive(Debug, Default)]
pub struct Queue {
    events: VecDeque<QueuedEvent>,
    bytes: usize,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Event>> {
        self.events.iter().map(|queued| &queued.event)
    }

    pub fn push(&mut self, event: Arc<Event>) {
        self.bytes += event.text.len();
        self.events.push_back(QueuedEvent { event, batch: None });
    }

    /// Takes everything that waits.
    pub fn take(&mut self) -> Vec<Arc<Event>> {
        self.bytes = 0;
        mem::take(&mut self.events).into_iter().map(|queued| queued.event).collect()
    }

    /// The first events leave, about so many bytes of them.
    pub fn take_some(&mut self, bytes: usize) -> Vec<Arc<Event>> {
        if self.bytes <= bytes {
            return self.take();
        }
        let mut taken = Vec::new();
        let mut size = 0;
        while size < bytes
            && let Some(queued) = self.events.pop_front()
        {
            size += queued.event.text.len();
            taken.push(queued.event);
        }
        self.bytes -= size;
        taken
    }

    /// What has left and not arrived.
    pub fn give_back(&mut self, events: Vec<Arc<Event>>) {
        for event in events.into_iter().rev() {
            self.bytes += event.text.len();
            self.events.push_front(QueuedEvent { event, batch: None });
        }
    }

    /// The first so many leave with this batch and stay, until it is acknowledged.
    pub fn leave_with(&mut self, batch: u64, count: usize) -> Vec<Arc<Event>> {
        let leaving = self.events.iter_mut().take(count);
        leaving
            .map(|queued| {
                queued.batch.get_or_insert(batch);
                queued.event.clone()
            })
            .collect()
    }

    /// How many there are before the first of this epoch, if there is an older one among them.
    pub fn before(&self, epoch: u64) -> Option<usize> {
        let is_older = |queued: &QueuedEvent| (1..epoch).contains(&queued.event.number);
        let last = self.events.iter().rposition(is_older)?;
        Some(last + 1)
    }

    /// Everything that left with this batch or before has arrived.
    pub fn acknowledge(&mut self, batch: u64) {
        while let Some(queued) = self.events.front()
            && queued.batch.is_some_and(|left| left <= batch)
        {
            self.bytes -= queued.event.text.len();
            self.events.pop_front();
        }
    }
}

/// The batches of a client that acknowledges.
///
/// A batch's number grows with each connect reply, as CometD's does. Besides, it says up to which
/// of the user's events it reaches, so that a client's acknowledgement is understood by the next
/// life of this process too, without anything written per batch: it is at least `offset` + (that
/// number − `base`) × 2²⁰.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acks {
    /// A number of the user's that the client has everything up to.
    pub base: u64,
    /// The batch from which on numbers are counted.
    pub offset: u64,
    last: u64,
    /// The highest number that has left.
    reached: u64,
}

const BATCHES: u32 = 20;

impl Acks {
    pub fn new(base: u64, offset: u64) -> Self {
        Self { base, offset, last: offset, reached: base }
    }

    /// The number of the next connect reply, which carries these events.
    pub fn next<'a>(&mut self, events: impl Iterator<Item = &'a Arc<Event>>) -> u64 {
        let highest = events.map(|event| event.number).max().unwrap_or(0);
        self.reached = self.reached.max(highest);
        let at_least =
            (self.reached - self.base).saturating_mul(1 << BATCHES).saturating_add(self.offset);
        self.last = self.last.saturating_add(1).max(at_least);
        self.last
    }

    /// What a client acknowledges that was here in an earlier life: up to which of its user's
    /// events it has everything.
    pub fn resume(&mut self, acknowledged: u64) -> u64 {
        self.last = self.last.max(acknowledged);
        self.reached =
            self.base.saturating_add(acknowledged.saturating_sub(self.offset) >> BATCHES);
        self.reached
    }

    /// The client has everything from before this epoch: what follows is counted from its start, or
    /// each start of the process would take numbers away from those that JavaScript can say
    /// exactly. True when something has changed.
    pub fn rebase(&mut self, epoch: u64) -> bool {
        if self.base >= epoch {
            return false;
        }
        *self = Self::new(epoch, self.last);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn event(number: u64) -> Arc<Event> {
        #[expect(clippy::disallowed_methods, reason = "any instant will do")]
        let now = Instant::now();
        Event::numbered("/a", &number.to_string(), number, now)
    }

    fn numbers(events: &[Arc<Event>]) -> Vec<u64> {
        events.iter().map(|event| event.number).collect()
    }

    #[test]
    fn what_left_stays_until_it_is_acknowledged() {
        let mut queue = Queue::default();
        queue.push(event(1));
        assert_eq!(numbers(&queue.leave_with(5, 9)), [1]);
        queue.push(event(2));
        assert_eq!(numbers(&queue.leave_with(6, 9)), [1, 2]);
        queue.push(event(3));
        queue.acknowledge(4);
        assert_eq!(queue.len(), 3);
        queue.acknowledge(5);
        assert_eq!(numbers(&queue.leave_with(7, 9)), [2, 3]);
        queue.acknowledge(6);
        assert_eq!(numbers(&queue.leave_with(8, 9)), [3], "it left with 7 first");
        queue.acknowledge(7);
        assert!(queue.is_empty());
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn what_comes_back_is_first_again() {
        let mut queue = Queue::default();
        [1, 2, 3].into_iter().for_each(|number| queue.push(event(number)));
        let some = queue.take_some(1);
        assert_eq!(numbers(&some), [1]);
        queue.give_back(some);
        assert_eq!(numbers(&queue.take()), [1, 2, 3]);
        assert_eq!(queue.bytes(), 0);
    }

    #[test]
    fn batches_grow_and_the_next_life_reads_from_them_how_far_they_reached() {
        let base = 3_000_000_007;
        let mut acks = Acks::new(base, 0);
        let none: [Arc<Event>; 0] = [];
        let first = acks.next(none.iter());
        let second = acks.next([event(base + 2), event(0)].iter());
        let third = acks.next(none.iter());
        assert!(first < second && second < third, "{first} {second} {third}");
        for (acknowledged, reached) in
            [(0, base), (first, base), (second, base + 2), (third, base + 2)]
        {
            let mut next_life = Acks::new(base, 0);
            assert_eq!(next_life.resume(acknowledged), reached);
            assert!(next_life.next(none.iter()) > acknowledged);
        }
        let next_epoch = acks.next([event(4_000_000_001)].iter());
        assert!(next_epoch < 1 << 53, "JavaScript says it exactly");
    }

    #[test]
    fn numbers_stay_exact_over_a_thousand_starts() {
        let mut acks = Acks::new(1_000_000_000, 0);
        for epoch in 2..1_000 {
            let mut next_life = Acks::new(acks.base, acks.offset);
            next_life.resume(acks.next([].iter()));
            let epoch = epoch * 1_000_000_000;
            assert!(next_life.rebase(epoch));
            assert!(!next_life.rebase(epoch));
            let batch = next_life.next([event(epoch + 7)].iter());
            assert!(batch < 1 << 53);
            assert_eq!(Acks::new(next_life.base, next_life.offset).resume(batch), epoch + 7);
            acks = next_life;
        }
    }
}
