//! The order in which requests start. Pure.

use super::Request;
use std::collections::HashMap;

/// Requests that wait. Those with the same prompt follow each other, prompts in the order of their first requests, so that at any
/// time at most one prompt has both started and waiting requests. Nobody is overtaken, so everybody starts.
pub(super) struct Queue {
    /// Requests and the number of their prompt, the next one last.
    waiting: Vec<(usize, usize)>,
}

impl Queue {
    pub fn new(requests: &[Request]) -> Queue {
        let mut numbers: HashMap<&[i32], usize> = HashMap::new();
        let mut waiting = Vec::with_capacity(requests.len());
        for (i, request) in requests.iter().enumerate() {
            let fresh = numbers.len();
            waiting.push((i, *numbers.entry(&request.prompt).or_insert(fresh)));
        }
        waiting.sort_by_key(|(_, prompt)| *prompt);
        waiting.reverse();
        Queue { waiting }
    }

    /// The next request and its prompt's number.
    pub fn next(&self) -> Option<(usize, usize)> {
        self.waiting.last().copied()
    }

    /// The next request, if it has this prompt.
    pub fn next_of(&self, prompt: usize) -> Option<usize> {
        self.next().filter(|(_, p)| *p == prompt).map(|(request, _)| request)
    }

    /// The next request has started.
    pub fn pop(&mut self) {
        self.waiting.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    #[test]
    fn equal_prompts_follow_each_other_in_the_order_of_their_first_requests() {
        let request = |prompt: &[i32]| Request { prompt: prompt.to_vec(), settings: Settings::default() };
        let requests = [&[7, 1][..], &[3], &[7, 1], &[7], &[3], &[7, 1]].map(request);
        let mut queue = Queue::new(&requests);
        let mut order = Vec::new();
        while let Some(next) = queue.next() {
            assert_eq!((queue.next_of(next.1), queue.next_of(9)), (Some(next.0), None));
            order.push(next);
            queue.pop();
        }
        assert_eq!(order, [(0, 0), (2, 0), (5, 0), (1, 1), (4, 1), (3, 2)]);
    }
}
