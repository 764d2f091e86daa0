//! The order in which waiting prompts are computed. Pure.
//!
//! Higher priorities go first. Within a priority, flows (one for each request, or for each client that names itself) share the machine
//! by tokens: start-time fair queueing. An item's tag is the virtual time at which it would start if its flow had a fair share;
//! the smallest tag goes first, so a group of two thousand prompts does not stand in front of a single pair that came later.
//! Virtual time moves on with what is served, so nothing waits for ever behind newcomers of its own priority.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Priority; the start tag and the number of the item, smallest first; the item.
type Entry<T> = (i32, Reverse<(u64, u64)>, Held<T>);

/// Items in fair order.
pub struct Queue<T> {
    heap: BinaryHeap<Entry<T>>,
    clock: u64,
    number: u64,
}

/// Takes no part in comparisons.
struct Held<T>(T);

impl<T> PartialEq for Held<T> {
    fn eq(&self, _: &Held<T>) -> bool {
        true
    }
}
impl<T> Eq for Held<T> {}
impl<T> PartialOrd for Held<T> {
    fn partial_cmp(&self, other: &Held<T>) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Held<T> {
    fn cmp(&self, _: &Held<T>) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

/// How far a flow has used its share.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow(u64);

impl<T> Default for Queue<T> {
    fn default() -> Queue<T> {
        Queue { heap: BinaryHeap::new(), clock: 0, number: 0 }
    }
}

impl<T> Queue<T> {
    /// Adds an item of a flow; `cost` is its tokens.
    pub fn push(&mut self, priority: i32, flow: &mut Flow, cost: usize, item: T) {
        let start = flow.0.max(self.clock);
        flow.0 = start.saturating_add((cost as u64).max(1));
        self.heap.push((priority, Reverse((start, self.number)), Held(item)));
        self.number += 1;
    }

    /// The item to compute next.
    pub fn pop(&mut self) -> Option<T> {
        let (_, Reverse((start, _)), Held(item)) = self.heap.pop()?;
        self.clock = self.clock.max(start);
        Some(item)
    }

    /// The item that [`Queue::pop`] would give.
    pub fn peek(&self) -> Option<&T> {
        self.heap.peek().map(|(_, _, Held(item))| item)
    }

    /// Notes that `cost` tokens were computed while this many flows were waiting.
    pub fn served(&mut self, cost: usize, flows: usize) {
        self.clock = self.clock.saturating_add((cost / flows.max(1)).max(1) as u64);
    }

    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    pub fn clear(&mut self) {
        self.heap.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_large_group_does_not_stand_in_front_of_a_single_pair() {
        let mut queue = Queue::default();
        let mut group = Flow::default();
        for i in 0..100 {
            queue.push(0, &mut group, 50, ("group", i));
        }
        assert_eq!(queue.pop(), Some(("group", 0)));
        queue.push(0, &mut Flow::default(), 50, ("pair", 0));
        assert_eq!(queue.pop(), Some(("pair", 0)));
        assert_eq!(queue.pop(), Some(("group", 1)));
    }

    #[test]
    fn priorities_come_first_and_equals_in_the_order_of_arrival() {
        let mut queue = Queue::default();
        for (priority, name) in [(0, "a"), (5, "b"), (0, "c"), (-1, "d")] {
            queue.push(priority, &mut Flow::default(), 10, name);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(order, ["b", "a", "c", "d"]);
    }

    proptest! {
        /// However many newcomers there are, an old item is served after a bounded amount of work.
        #[test]
        fn nothing_starves(cost in 1usize..50, newcomers in 1usize..4, behind in 1usize..20) {
            let mut queue = Queue::default();
            let mut group = Flow::default();
            for i in 0..behind {
                queue.push(0, &mut group, cost, Some(i));
            }
            let (mut left, mut turns) = (behind, 0);
            while left > 0 {
                for _ in 0..newcomers {
                    queue.push(0, &mut Flow::default(), 50, None);
                }
                let popped = queue.pop().unwrap();
                left -= popped.is_some() as usize;
                queue.served(if popped.is_some() { cost } else { 50 }, newcomers + 1);
                turns += 1;
                prop_assert!(turns < 20_000, "{left} of {behind} still wait");
            }
        }

        #[test]
        fn nothing_is_lost(items in prop::collection::vec((-2i32..3, 0usize..4, 1usize..100), 0..60)) {
            let (mut queue, mut flows) = (Queue::default(), [Flow::default(); 4]);
            for (i, (priority, flow, cost)) in items.iter().enumerate() {
                queue.push(*priority, &mut flows[*flow], *cost, i);
            }
            let mut order: Vec<usize> = std::iter::from_fn(|| queue.pop()).collect();
            // Within a priority, a flow's own items keep their order.
            for pair in order.windows(2) {
                let ((p, f, _), (q, g, _)) = (items[pair[0]], items[pair[1]]);
                prop_assert!(p >= q);
                prop_assert!(p != q || f != g || pair[0] < pair[1]);
            }
            order.sort();
            prop_assert_eq!(order, (0..items.len()).collect::<Vec<_>>());
        }
    }
}
