use super::*;
use crate::infer::trie::Trie;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A text of which the first tokens may be skipped, for an adapter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Text(Vec<i32>, usize, usize);

impl Work for Text {
    fn ids(&self) -> &[i32] {
        &self.0
    }
    fn skippable(&self) -> usize {
        self.1
    }
    fn adapter(&self) -> usize {
        self.2
    }
}

fn whole(ids: &[i32]) -> Arc<Text> {
    Arc::new(Text(ids.to_vec(), ids.len() - 1, 0))
}

const LIMITS: Limits = Limits { longest: 12, tokens: 8, pieces: 4, keys: 30, rows: 24, adapters: 2, patience: 1000 };

/// A scheduler whose passes are played: a row holds the beginning that was computed into it.
struct Play {
    scheduler: Scheduler<Text>,
    pool: BTreeMap<u32, (usize, Vec<i32>)>,
    /// How each waiter ended.
    ends: BTreeMap<Waiter, Vec<&'static str>>,
}

impl Play {
    fn new(limits: Limits) -> Play {
        Play { scheduler: Scheduler::new(limits), pool: BTreeMap::new(), ends: BTreeMap::new() }
    }

    fn submit(&mut self, now: Micros, terms: Terms, work: &Arc<Text>) -> Option<Waiter> {
        let waiter = self.scheduler.submit(now, terms, work.clone()).ok()?;
        assert!(self.ends.insert(waiter, Vec::new()).is_none(), "a waiter's name is its own");
        Some(waiter)
    }

    fn cancel(&mut self, waiter: Waiter) {
        self.scheduler.cancel(waiter);
        if self.ends[&waiter].is_empty() {
            self.end(waiter, "cancelled");
        }
    }

    fn end(&mut self, waiter: Waiter, how: &'static str) {
        self.ends.get_mut(&waiter).unwrap().push(how);
    }

    /// One step; returns the waiters that it answered.
    fn step(&mut self, now: Micros) -> Vec<Waiter> {
        let limits = self.scheduler.limits;
        let step = self.scheduler.step(now);
        step.expired.iter().for_each(|w| self.end(*w, "expired"));
        let mut written = BTreeSet::new();
        for piece in &step.pieces {
            assert!(!piece.tokens.is_empty() && piece.rows.len() == piece.tokens.end);
            assert_eq!(piece.work.2, step.adapter, "one adapter at a time");
            for p in piece.tokens.clone() {
                assert!(written.insert(piece.rows[p]), "a row is written twice");
                self.pool.insert(piece.rows[p], (step.adapter, piece.work.0[..=p].to_vec()));
            }
        }
        for piece in &step.pieces {
            for (p, row) in piece.rows.iter().enumerate() {
                assert_eq!(self.pool[row], (piece.work.2, piece.work.0[..=p].to_vec()), "a key of another beginning");
            }
        }
        assert!(written.len() <= limits.tokens && step.pieces.len() <= limits.pieces);
        assert!(step.pieces.iter().map(|p| p.rows.len()).sum::<usize>() <= limits.keys);
        let done: Vec<Waiter> = self.scheduler.complete(&step).into_iter().flatten().collect();
        done.iter().for_each(|w| self.end(*w, "answered"));
        self.check();
        done
    }

    /// Every row is in one place.
    fn check(&self) {
        let s = &self.scheduler;
        let own: usize = s.jobs.values().map(|j| j.own.len()).sum();
        assert_eq!(s.free.len() + s.tree.rows() + own, s.limits.rows, "rows are conserved");
        let left: usize = s.jobs.values().filter(|j| j.started).map(Job::left).sum();
        assert!(s.unused_rows() >= left, "started work can be finished");
        assert_eq!(s.promised, left);
        let waiters: usize = s.served.values().map(|share| share.waiters).sum();
        assert_eq!(waiters, s.waiting.len());
        let distinct: BTreeSet<&u32> = s.free.iter().collect();
        assert_eq!(distinct.len(), s.free.len());
    }

    fn finish(&mut self, now: Micros) {
        let mut steps = 0;
        while self.scheduler.waiting() > 0 {
            self.step(now);
            steps += 1;
            assert!(steps < 10_000, "work that is never done");
        }
        assert!(self.ends.values().all(|e| e.len() == 1), "one end for everybody: {:?}", self.ends);
        assert_eq!(self.scheduler.unused_rows(), self.scheduler.limits.rows);
        assert!(self.scheduler.deadlines.is_empty());
        assert!(self.scheduler.served.is_empty() && self.scheduler.same.is_empty() && self.scheduler.jobs.is_empty());
        let c = self.scheduler.counts();
        assert_eq!(c.submitted, c.answered + c.expired + c.cancelled);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Submit { ids: Vec<i32>, skip: bool, adapter: usize, client: u64, priority: u32, patience: Option<u64> },
    Cancel(usize),
    Step,
    Restart,
    Wait(u64),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let ids = prop::collection::vec(0..3, 0..14);
    let submit = (ids, any::<bool>(), 0..2usize, 0..4u64, 0..3u32, prop::option::of(0..3000u64)).prop_map(
        |(ids, skip, adapter, client, priority, patience)| Event::Submit {
            ids,
            skip,
            adapter,
            client,
            priority,
            patience,
        },
    );
    let event = prop_oneof![
        10 => submit,
        2 => (0usize..50).prop_map(Event::Cancel),
        8 => Just(Event::Step),
        1 => Just(Event::Restart),
        2 => (0..900u64).prop_map(Event::Wait),
    ];
    prop::collection::vec(event, 1..120)
}

proptest! {
    #[test]
    fn everybody_is_answered_once_and_rows_are_conserved(events in events(), tokens in 1usize..9, spare in 0usize..20) {
        let limits = Limits { tokens, rows: 12 + tokens + spare, ..LIMITS };
        let mut play = Play::new(limits);
        let (mut now, mut waiters) = (0, Vec::new());
        for event in events {
            match event {
                Event::Submit { ids, skip, adapter, client, priority, patience } => {
                    let skippable = if skip { ids.len().saturating_sub(1) } else { ids.len() / 3 };
                    let terms = Terms { client, priority, deadline: patience.map(|p| now + p) };
                    let fits = !ids.is_empty() && ids.len() <= 12;
                    let waiter = play.submit(now, terms, &Arc::new(Text(ids, skippable, adapter)));
                    prop_assert_eq!(waiter.is_some(), fits);
                    waiters.extend(waiter);
                }
                Event::Cancel(i) if !waiters.is_empty() => play.cancel(waiters[i % waiters.len()]),
                Event::Cancel(_) => {}
                Event::Step => drop(play.step(now)),
                Event::Restart => {
                    play.scheduler.restart();
                    play.pool.clear();
                    prop_assert_eq!(play.scheduler.unused_rows(), limits.rows);
                }
                Event::Wait(time) => now += time,
            }
            play.check();
        }
        play.finish(now);
    }
}

#[test]
fn ranking_computes_each_token_of_the_trie_once() {
    let answer = |i: i32| vec![10 + i; 4];
    let pairs = (0..5).flat_map(|i| (0..5).filter(move |j| *j != i).map(move |j| (i, j)));
    let prompts: Vec<Vec<i32>> = pairs.map(|(i, j)| [vec![1, 2, 3], answer(i), answer(j), vec![4]].concat()).collect();
    for tokens in [3, 8, 500] {
        let mut play = Play::new(Limits { tokens, rows: 1000, pieces: 50, keys: 1000, ..LIMITS });
        for (i, prompt) in prompts.iter().enumerate() {
            play.submit(0, Terms { client: i as u64 % 3, ..Terms::default() }, &whole(prompt)).unwrap();
        }
        play.finish(0);
        let counts = play.scheduler.counts();
        assert_eq!(counts.computed as usize, Trie::new(&prompts).tokens().computed);
        assert_eq!(counts.tokens as usize, prompts.len() * 12);
        // Again, with everything in memory: the last token of each.
        for prompt in &prompts {
            play.submit(0, Terms::default(), &whole(prompt)).unwrap();
        }
        play.finish(0);
        assert_eq!(play.scheduler.counts().computed - counts.computed, prompts.len() as u64);
    }
}

#[test]
fn equal_work_is_done_once_and_outlives_whoever_leaves() {
    let mut play = Play::new(LIMITS);
    let work = whole(&[1, 2, 3]);
    let [a, b, c] = [0, 1, 2].map(|client| play.submit(0, Terms { client, ..Terms::default() }, &work).unwrap());
    play.cancel(a);
    assert_eq!(play.step(0), [b, c]);
    let counts = play.scheduler.counts();
    assert_eq!((counts.computed, counts.joined, counts.answered, counts.cancelled), (3, 2, 2, 1));
}

#[test]
fn a_cancelled_sequence_gives_its_rows_back_at_once() {
    let mut play = Play::new(Limits { tokens: 4, rows: 16, ..LIMITS });
    let waiter = play.submit(0, Terms::default(), &whole(&[0, 1, 2, 0, 1, 2, 0, 1, 2])).unwrap();
    assert!(play.step(0).is_empty());
    assert_eq!(play.scheduler.unused_rows(), 12);
    play.cancel(waiter);
    assert_eq!(play.scheduler.unused_rows(), 16);
    play.finish(0);
}

#[test]
fn a_deadline_ends_what_waits_and_what_is_half_done() {
    let mut play = Play::new(Limits { tokens: 4, ..LIMITS });
    let by = |deadline| Terms { deadline: Some(deadline), ..Terms::default() };
    let half = play.submit(0, by(10), &whole(&[1, 1, 1, 1, 1, 1])).unwrap();
    let late = play.submit(0, by(5), &whole(&[2, 2])).unwrap();
    let never = play.submit(0, Terms::default(), &whole(&[2, 3])).unwrap();
    // The nearest deadline first.
    assert_eq!(play.step(4), [late]);
    assert!(play.step(9).contains(&never) || play.ends[&never].is_empty());
    play.step(10);
    assert!(play.ends[&half] == ["expired"] || play.ends[&half] == ["answered"]);
    play.finish(10);
    let stale = play.submit(20, by(20), &whole(&[1])).unwrap();
    play.step(20);
    assert_eq!(play.ends[&stale], ["expired"]);
}

#[test]
fn a_small_client_does_not_wait_for_a_large_one() {
    let mut play = Play::new(Limits { pieces: 1, ..LIMITS });
    let large: Vec<Waiter> =
        (0..50).map(|i| play.submit(0, Terms { client: 1, ..Terms::default() }, &whole(&[1, i, i])).unwrap()).collect();
    play.step(0);
    play.step(0);
    let small = play.submit(1, Terms { client: 2, ..Terms::default() }, &whole(&[7, 7])).unwrap();
    let done: Vec<Waiter> = (0..2).flat_map(|_| play.step(1)).collect();
    assert!(done.contains(&small), "{done:?}");
    assert_eq!(play.step(1), [large[3]], "work of one client in the order it came");
    // It does not save up for the time when it asked for nothing.
    let again: Vec<Waiter> =
        (0..8).map(|i| play.submit(2, Terms { client: 2, ..Terms::default() }, &whole(&[8, i, i])).unwrap()).collect();
    let done: Vec<Waiter> = (0..6).flat_map(|_| play.step(2)).collect();
    assert!((2..=4).contains(&done.iter().filter(|w| again.contains(w)).count()), "{done:?}");
}

#[test]
fn priority_comes_first_but_nothing_starves() {
    let mut play = Play::new(Limits { pieces: 1, ..LIMITS });
    let low = play.submit(0, Terms { client: 0, ..Terms::default() }, &whole(&[5, 5, 5])).unwrap();
    let urgent = Terms { client: 1, priority: 3, deadline: None };
    let mut last = None;
    for step in 0..10_000u64 {
        // More urgent work than can be done.
        let now = step * 10;
        for k in 0..2 {
            last = play.submit(now, urgent, &whole(&[step as i32, k, 1])).or(last);
        }
        let done = play.step(now);
        if done.contains(&low) {
            assert!(step > 100, "it is not urgent");
            assert!(now <= 5 * LIMITS.patience, "{now} us");
            return;
        }
        assert_eq!(done.len(), 1);
    }
    panic!("it starved");
}

#[test]
fn what_cannot_be_done_is_refused() {
    let mut scheduler = Scheduler::new(LIMITS);
    let mut submit = |ids: Vec<i32>| scheduler.submit(0, Terms::default(), Arc::new(Text(ids, 0, 0))).map(|_| ());
    assert_eq!(submit(vec![]), Err(Refusal::Empty));
    assert_eq!(submit(vec![1; 13]), Err(Refusal::Long));
    assert_eq!(submit(vec![1; 12]), Ok(()));
}

#[test]
fn adapters_take_turns_and_share_nothing() {
    let mut play = Play::new(Limits { tokens: 4, keys: 12, rows: 100, ..LIMITS });
    let of = |adapter: usize, last: i32| Arc::new(Text(vec![1, 1, 1, last], 3, adapter));
    let mut submit =
        |client, adapter, last| play.submit(0, Terms { client, ..Terms::default() }, &of(adapter, last)).unwrap();
    let many: Vec<Waiter> = (0..20).map(|i| submit(0, 0, i)).collect();
    let other = submit(1, 1, 0);
    let mut turns = 0;
    while !play.step(0).contains(&other) {
        turns += 1;
    }
    assert!(turns <= 2, "{turns} turns before the other adapter's");
    play.finish(0);
    assert!(many.iter().all(|w| play.ends[w] == ["answered"]));
    let counts = play.scheduler.counts();
    assert_eq!((counts.computed, counts.cached), (4 + 19 + 4, 3 * 19));
}

#[test]
fn those_who_wait_hear_when_their_work_starts() {
    let mut play = Play::new(Limits { tokens: 2, ..LIMITS });
    let [first, second] = [1, 2].map(|id| play.submit(0, Terms::default(), &whole(&[id, id, id])).unwrap());
    let step = play.scheduler.step(0);
    assert_eq!(step.begun, [first]);
    assert!(play.scheduler.started(first) && !play.scheduler.started(second));
    play.scheduler.complete(&step);
    play.scheduler.restart();
    assert!(!play.scheduler.started(first), "it begins again");
}
