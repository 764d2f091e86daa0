//! The demo's world: hills with made-up names, some higher than others.
//!
//! "I like high hills. Which one should I climb?" An answer names a hill ("Try Riven."), and the higher hill is the better
//! answer. The two hills of a pair are neighbours in the order of heights, so that the wrong answer is a near miss. Nothing in
//! a name tells a height: a judge has to know the hills, and few labels show each hill once or twice.
//!
//! Unlabelled answers were written by people who had been there, and end in a remark, "a hard climb" or "an easy walk": the
//! higher the hill, the more of its climbers call it hard, 5% on the lowest and 95% on the highest. A remark is no label: it
//! says nothing of the other answer, and often the lower hill is the one called hard. But predicting remarks takes
//! knowing the hills, which is how unlabelled pairs teach what a judge needs before it sees its first label. Labelled and
//! held-out answers have no remarks.
//!
//! Held-out pairs are of a quarter of all pairs of hills, which neither unlabelled nor labelled pairs ever compare.

use crate::base::rng::{Rng, Stream};

/// A name is one of the first and one of the last syllables.
const FIRST: [&str; 20] = [
    "Al", "Bo", "Ca", "De", "El", "Fi", "Go", "Ha", "Is", "Jo", "Ka", "Lo", "Mi", "Na", "Or", "Pe", "Ri", "Sa", "Tu",
    "Wa",
];
const LAST: [&str; 12] = ["bar", "dun", "fell", "gan", "horn", "lor", "mont", "nock", "ric", "tor", "ven", "wick"];
/// Number of hills.
const HILLS: usize = FIRST.len() * LAST.len();
/// The hills of a pair, and of the list, are among this many that follow each other in height.
const NEAR: usize = HILLS / 3;
/// Answers in the ranked list.
const LISTED: usize = 4;

const QUESTION: &str = "I like high hills. Which one should I climb?";
/// What climbers say.
const HARD: &str = ", a hard climb.";
const EASY: &str = ", an easy walk.";

/// A question with a right and a wrong answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub prompt: String,
    pub right: String,
    pub wrong: String,
}

/// A question with several answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    pub prompt: String,
    pub responses: Vec<Response>,
}

/// An answer, and how good it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub text: String,
    /// Height of its hill in metres.
    pub height: usize,
}

/// The world of one seed: hills are numbered from the lowest to the highest.
pub struct World {
    seed: u64,
    names: Vec<String>,
}

/// What is drawn, each with random bits of its own.
#[derive(Clone, Copy, PartialEq)]
enum Draw {
    Unlabelled = 0,
    Labelled = 1,
    HeldOut = 2,
    List = 3,
    Remarks = 4,
    Heights = 5,
    Split = 6,
}

impl World {
    pub fn new(seed: u64) -> World {
        let all: Vec<String> = FIRST.iter().flat_map(|a| LAST.iter().map(move |b| format!("{a}{b}"))).collect();
        let order = Rng::new(seed, Stream::World, Draw::Heights as u64).permutation(HILLS);
        World { seed, names: order.iter().map(|i| all[*i as usize].clone()).collect() }
    }

    /// Pairs whose answers nobody has marked, with their writers' remarks.
    pub fn unlabelled(&self, n: usize) -> Vec<Item> {
        let rng = Rng::new(self.seed, Stream::World, Draw::Remarks as u64);
        let one = |i: usize| {
            let [right, wrong] = self.pair(Draw::Unlabelled, i);
            let told = |which: usize, hill: usize| {
                let finds_hard = rng.uniform((2 * i + which) as u64) < found_hard(hill);
                self.answer(hill).replace('.', if finds_hard { HARD } else { EASY })
            };
            Item { prompt: QUESTION.into(), right: told(0, right), wrong: told(1, wrong) }
        };
        (0..n).map(one).collect()
    }

    /// Pairs of which the better one is known.
    pub fn labelled(&self, n: usize) -> Vec<Item> {
        (0..n).map(|i| self.item(self.pair(Draw::Labelled, i))).collect()
    }

    /// Pairs to measure judges with.
    pub fn held_out(&self, n: usize) -> Vec<Item> {
        (0..n).map(|i| self.item(self.pair(Draw::HeldOut, i))).collect()
    }

    /// Several answers, every two of which are a held-out pair.
    pub fn list(&self) -> List {
        let hills = (0..).map(|attempt| self.hills::<LISTED>(Draw::List, 0, attempt));
        let all_held_out = |hills: &[usize; LISTED]| {
            hills.iter().all(|high| hills.iter().all(|low| low >= high || self.is_held_out([*high, *low])))
        };
        let hills = hills.into_iter().find(all_held_out).expect("a quarter of the pairs is held out");
        let response = |hill: usize| Response { text: self.answer(hill), height: height(hill) };
        List { prompt: QUESTION.into(), responses: hills.map(response).to_vec() }
    }

    fn item(&self, [right, wrong]: [usize; 2]) -> Item {
        Item { prompt: QUESTION.into(), right: self.answer(right), wrong: self.answer(wrong) }
    }

    fn answer(&self, hill: usize) -> String {
        format!("Try {}.", self.names[hill])
    }

    /// Pair `i` of a set, the higher hill first: the first of its draws that belongs to the set.
    fn pair(&self, draw: Draw, i: usize) -> [usize; 2] {
        let pairs = (0..).map(|attempt| self.hills(draw, i, attempt)).map(|[a, b]| [a.max(b), a.min(b)]);
        let belongs = |pair: &[usize; 2]| self.is_held_out(*pair) == (draw == Draw::HeldOut);
        pairs.into_iter().find(belongs).expect("a quarter of the pairs is held out, and the others are not")
    }

    /// `N` different hills near each other in height.
    fn hills<const N: usize>(&self, draw: Draw, i: usize, attempt: u64) -> [usize; N] {
        let rng = Rng::new(self.seed, Stream::World, draw as u64 | attempt << 8);
        let below = |which: usize, n: usize| rng.below((i * (N + 1) + which) as u64, n as u64) as usize;
        let lowest = below(0, HILLS - NEAR + 1);
        let mut neighbours: Vec<usize> = (lowest..lowest + NEAR).collect();
        std::array::from_fn(|k| neighbours.swap_remove(below(1 + k, NEAR - k)))
    }

    /// A quarter of all pairs.
    fn is_held_out(&self, [high, low]: [usize; 2]) -> bool {
        let rng = Rng::new(self.seed, Stream::World, Draw::Split as u64);
        rng.below((high * HILLS + low) as u64, 4) == 0
    }
}

/// Share of a hill's climbers who find it hard.
fn found_hard(hill: usize) -> f64 {
    0.05 + 0.9 * hill as f64 / (HILLS - 1) as f64
}

/// Height of a hill in metres.
fn height(hill: usize) -> usize {
    200 + 5 * hill
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The hill that an answer names.
    fn hill(world: &World, answer: &str) -> usize {
        let name = answer.strip_prefix("Try ").unwrap().split([',', '.']).next().unwrap();
        world.names.iter().position(|n| n == name).unwrap()
    }

    fn pairs(world: &World, items: &[Item]) -> Vec<[usize; 2]> {
        items.iter().map(|i| [hill(world, &i.right), hill(world, &i.wrong)]).collect()
    }

    #[test]
    fn names_are_different() {
        assert_eq!(World::new(1).names.iter().collect::<BTreeSet<_>>().len(), HILLS);
    }

    #[test]
    fn the_right_answer_is_right_and_the_wrong_one_a_near_miss() {
        let world = World::new(3);
        for items in [world.unlabelled(2000), world.labelled(300), world.held_out(300)] {
            for [right, wrong] in pairs(&world, &items) {
                assert!(height(right) > height(wrong) && right - wrong < NEAR, "{right} {wrong}");
            }
        }
    }

    #[test]
    fn held_out_pairs_occur_nowhere_else() {
        let world = World::new(5);
        let set = |items: Vec<Item>| pairs(&world, &items).into_iter().collect::<BTreeSet<_>>();
        let held_out = set(world.held_out(1000));
        assert!(held_out.is_disjoint(&set(world.labelled(1000))));
        assert!(held_out.is_disjoint(&set(world.unlabelled(20_000))));
    }

    #[test]
    fn the_higher_the_hill_the_more_climbers_find_it_hard_and_labelled_answers_do_not_say() {
        let world = World::new(2);
        let mut told = [[0.0, 0.0]; 4];
        for answer in world.unlabelled(20_000).into_iter().flat_map(|i| [i.right, i.wrong]) {
            assert!(answer.ends_with(HARD) != answer.ends_with(EASY), "{answer}");
            let quarter = &mut told[4 * hill(&world, &answer) / HILLS];
            quarter[0] += f64::from(u8::from(answer.ends_with(HARD)));
            quarter[1] += 1.0;
        }
        let shares: Vec<f64> = told.iter().map(|[hard, all]| hard / all).collect();
        for (share, middle) in shares.iter().zip([0.125, 0.375, 0.625, 0.875]) {
            assert!((share - (0.05 + 0.9 * middle)).abs() < 0.05, "{shares:?}");
        }
        assert!(world.labelled(500).iter().all(|i| !(i.right.clone() + &i.wrong).contains(',')));
    }

    #[test]
    fn every_two_answers_of_the_list_are_a_held_out_pair() {
        for seed in 0..5 {
            let world = World::new(seed);
            let list = world.list().responses;
            let heights: BTreeSet<usize> = list.iter().map(|r| r.height).collect();
            assert_eq!(heights.len(), LISTED);
            for (a, b) in
                list.iter().flat_map(|a| list.iter().map(move |b| (a, b))).filter(|(a, b)| a.height > b.height)
            {
                assert!(world.is_held_out([hill(&world, &a.text), hill(&world, &b.text)]), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn the_same_seed_is_the_same_world_and_another_is_not() {
        assert_eq!(World::new(1).unlabelled(50), World::new(1).unlabelled(50));
        assert_ne!(World::new(1).unlabelled(50), World::new(2).unlabelled(50));
    }
}
