//! The order in which requests start. Pure.

use super::Request;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// A request that waits, and the number of its prompt.
#[derive(Clone)]
pub(super) struct Waiting {
    pub number: usize,
    pub prompt: usize,
    pub asked: Arc<Request>,
}

/// Requests that wait, in the order in which they came. Neighbours with equal prompts have the same prompt number, so that at any time
/// at most one prompt has both started and waiting requests. Nobody is overtaken, so everybody starts.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    prompts: usize,
}

impl Queue {
    pub fn push(&mut self, number: usize, asked: Arc<Request>) {
        let same = self.waiting.back().filter(|last| last.asked.prompt == asked.prompt).map(|last| last.prompt);
        let prompt = same.unwrap_or(self.prompts);
        self.prompts = self.prompts.max(prompt + 1);
        self.waiting.push_back(Waiting { number, prompt, asked });
    }

    /// The next request.
    pub fn next(&self) -> Option<&Waiting> {
        self.waiting.front()
    }

    /// The next request, if it has this prompt.
    pub fn next_of(&self, prompt: usize) -> Option<&Waiting> {
        self.next().filter(|w| w.prompt == prompt)
    }

    /// The next request has started.
    pub fn pop(&mut self) {
        self.waiting.pop_front();
    }
}

/// The order in which requests with equal prompts follow each other, prompts in the order of their first requests.
pub(super) fn together(requests: &[Request]) -> Vec<usize> {
    let mut numbers: HashMap<&[i32], usize> = HashMap::new();
    let mut order = Vec::with_capacity(requests.len());
    for (i, request) in requests.iter().enumerate() {
        let fresh = numbers.len();
        order.push((*numbers.entry(&request.prompt).or_insert(fresh), i));
    }
    order.sort_unstable();
    order.into_iter().map(|(_, i)| i).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Settings;
    use super::*;

    #[test]
    fn equal_prompts_follow_each_other_in_the_order_of_their_first_requests() {
        let request = |prompt: &[i32]| Request { prompt: prompt.to_vec(), settings: Settings::default() };
        let requests = [&[7, 1][..], &[3], &[7, 1], &[7], &[3], &[7, 1]].map(request);
        let mut queue = Queue::default();
        together(&requests).into_iter().for_each(|i| queue.push(i, Arc::new(requests[i].clone())));
        let mut order = Vec::new();
        while let Some(next) = queue.next() {
            assert!(queue.next_of(next.prompt).is_some() && queue.next_of(9).is_none());
            order.push((next.number, next.prompt));
            queue.pop();
        }
        assert_eq!(order, [(0, 0), (2, 0), (5, 0), (1, 1), (4, 1), (3, 2)]);
        queue.push(9, Arc::new(requests[3].clone()));
        assert_eq!(queue.next().map(|w| w.prompt), Some(3), "the prompt before it has gone");
    }
}
