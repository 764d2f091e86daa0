//! Asking a model for the comparisons or rewards that a suite needs. How it answers is the caller's closure: one pass, a
//! rationale with votes, or a scalar head.

use super::best_of_n;
use super::comparison::{Answer, Comparison};
use super::item::Item;
use crate::error::Result;
use serde::{Deserialize, Serialize};

/// Two responses of an item, by index.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'i> {
    pub item: &'i Item,
    pub pair: (usize, usize),
}

/// One response of an item, by index.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'i> {
    pub item: &'i Item,
    pub response: usize,
}

/// A scalar reward and what it cost.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rated {
    pub reward: f64,
    pub tokens: u64,
    pub ms: f64,
}

/// Who answers. Both get a batch and answer in its order.
pub enum Respondent<'r> {
    /// Compares two responses.
    Judge(&'r mut dyn FnMut(&[Ask<'_>]) -> Result<Vec<Comparison>>),
    /// Gives one response of an item a reward.
    Scalar(&'r mut dyn FnMut(&[Candidate<'_>]) -> Result<Vec<Rated>>),
}

/// Questions in one batch, at most.
const BATCH: usize = 256;

/// Answers every item; with `best_of_n`, also what the scans over samples need.
///
/// # Errors
/// Whatever the respondent returns.
pub fn answers(items: &[Item], respondent: Respondent<'_>, best_of_n: bool) -> Result<Vec<Answer>> {
    let mut answers = vec![Answer::default(); items.len()];
    match respondent {
        Respondent::Judge(compare) => {
            let asks = items.iter().enumerate().flat_map(|(i, item)| item.pairs.iter().map(move |p| (i, *p)));
            let asks: Vec<(usize, (usize, usize))> = asks.collect();
            for batch in asks.chunks(BATCH) {
                let questions: Vec<Ask<'_>> =
                    batch.iter().map(|(i, pair)| Ask { item: &items[*i], pair: *pair }).collect();
                for ((i, _), comparison) in batch.iter().zip(compare(&questions)?) {
                    answers[*i].comparisons.push(comparison);
                }
            }
            if best_of_n {
                best_of_n::scan(items, &mut answers, |asks| {
                    let mut all = Vec::with_capacity(asks.len());
                    for batch in asks.chunks(BATCH) {
                        all.extend(compare(batch)?);
                    }
                    Ok(all)
                })?;
            }
            for answer in &mut answers {
                answer.tokens = answer.comparisons.iter().map(|c| c.tokens).sum();
                answer.ms = answer.comparisons.iter().map(|c| c.ms).sum();
            }
        }
        Respondent::Scalar(rate) => {
            let all = items.iter().enumerate().flat_map(|(i, item)| (0..item.responses.len()).map(move |r| (i, r)));
            let all: Vec<(usize, usize)> = all.collect();
            for batch in all.chunks(BATCH) {
                let candidate = |(i, r): &(usize, usize)| Candidate { item: &items[*i], response: *r };
                let questions: Vec<Candidate<'_>> = batch.iter().map(candidate).collect();
                for ((i, _), rated) in batch.iter().zip(rate(&questions)?) {
                    let answer = &mut answers[*i];
                    answer.rewards.get_or_insert_default().push(rated.reward);
                    answer.tokens += rated.tokens;
                    answer.ms += rated.ms;
                }
            }
        }
    }
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::super::comparison::Choice;
    use super::super::fixture;
    use super::*;

    #[test]
    fn every_pair_is_asked_once_and_costs_are_added_up() {
        let items: Vec<Item> = (0..200).map(|_| fixture::best_of_four()).collect();
        let (mut asked, mut largest) = (0, 0);
        let mut judge = |asks: &[Ask<'_>]| {
            asked += asks.len();
            largest = largest.max(asks.len());
            let answer = |a: &Ask<'_>| Comparison { tokens: 3, ..Comparison::of_verdict(a.pair, Choice::First, None) };
            Ok(asks.iter().map(answer).collect())
        };
        let got = answers(&items, Respondent::Judge(&mut judge), false).unwrap();
        assert_eq!((asked, largest), (1200, BATCH));
        assert!(got.iter().all(|a| a.comparisons.len() == 6 && a.tokens == 18));
        assert_eq!(got[7].comparisons.iter().map(|c| c.pair).collect::<Vec<_>>(), items[7].pairs);
    }

    #[test]
    fn rewards_come_in_the_order_of_the_responses() {
        let items = [fixture::best_of_four(), fixture::pair("s", true)];
        let mut next = 0.0;
        let mut rate = |all: &[Candidate<'_>]| {
            let rated = |_: &Candidate<'_>| {
                next += 1.0;
                Rated { reward: next, tokens: 2, ms: 0.0 }
            };
            Ok(all.iter().map(rated).collect())
        };
        let got = answers(&items, Respondent::Scalar(&mut rate), false).unwrap();
        assert_eq!(got[0].rewards, Some(vec![1.0, 2.0, 3.0, 4.0]));
        assert_eq!((got[1].rewards.clone(), got[1].tokens), (Some(vec![5.0, 6.0]), 4));
    }
}
