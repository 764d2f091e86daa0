//! The shell game: a ball lies under one of five cups, and pairs of cups change places.
//!
//! ```text
//! ball c ad be ac       the ball starts under c; a and d change places, then b and e, then a and c
//! A a   B c             two answers: where is it now?          ad c  be c  ac a : under a, so A is right
//! ```
//! Following the ball takes one step after the other, so an answer is hard to judge at once and easy to judge in writing. The
//! wrong answer is a near miss in 70 of 100 pairs: where the ball would be if one swap were another one. In the other 30 it
//! is a cup that is not on the table.
//!
//! A keyed hash of the question says whether it is learned from, validated on or tested on, so no question is in two sets.

use crate::base::rng::{Rng, Stream};
use crate::text::example::Side;
use crate::text::labels::NAMES;
use serde_json::{Value, json};

/// Cups on the table, and cups that are not.
const CUPS: [char; 5] = ['a', 'b', 'c', 'd', 'e'];
const ELSEWHERE: [char; 4] = ['f', 'g', 'h', 'i'];
/// Share of near misses among the wrong answers.
pub const NEAR: f64 = 0.7;
/// One question in so many is validated on, and as many are tested on.
const SHARE: u64 = 8;

/// Two cups that change places.
type Swap = [usize; 2];

/// A question, two answers and the truth.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub prompt: String,
    pub a: char,
    pub b: char,
    pub better: Side,
    /// The swaps, each with the cup that the ball is under after it.
    pub steps: String,
}

/// What an item is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Set {
    /// Labelled pairs with the reason written down.
    Reasoned = 0,
    /// Labelled pairs without.
    Labelled = 1,
    Unlabelled = 2,
    Validation = 3,
    Test = 4,
}

/// The world of one seed.
#[derive(Clone, Copy, Debug)]
pub struct World {
    seed: u64,
    /// Fewest and most swaps of a question.
    swaps: [usize; 2],
}

impl World {
    /// # Panics
    /// A range of swaps that is empty.
    pub fn new(seed: u64, swaps: [usize; 2]) -> World {
        assert!(1 <= swaps[0] && swaps[0] <= swaps[1], "from {} to {} swaps", swaps[0], swaps[1]);
        World { seed, swaps }
    }

    /// The first `n` items of a set.
    pub fn items(&self, set: Set, n: usize) -> Vec<Item> {
        (0..n).map(|i| self.item(set, i)).collect()
    }

    /// Item `i` of a set: the first of its draws whose question belongs there.
    fn item(&self, set: Set, i: usize) -> Item {
        let draw = |attempt: u64| {
            let rng = Rng::new(self.seed, Stream::World, 0x100 | set as u64 | attempt << 12);
            Draw { rng, at: i as u64 * 64 }
        };
        let items = (0..).map(|attempt| draw(attempt).item(self.swaps));
        let belongs = |item: &Item| match (self.split(&item.prompt), set) {
            (0, set) => set == Set::Validation,
            (1, set) => set == Set::Test,
            (_, set) => !matches!(set, Set::Validation | Set::Test),
        };
        items.into_iter().find(belongs).expect("an eighth of the questions is validated on, an eighth tested on")
    }

    /// A number below [`SHARE`] that is a question's own.
    fn split(&self, question: &str) -> u64 {
        let key = question.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ b as u64).wrapping_mul(0x100_0000_01b3));
        Rng::new(self.seed, Stream::World, 0x200).below(key, SHARE)
    }
}

/// Random bits, one after the other.
struct Draw {
    rng: Rng,
    at: u64,
}

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.at += 1;
        self.rng.below(self.at, n as u64) as usize
    }

    fn swap(&mut self) -> Swap {
        let (one, other) = (self.below(CUPS.len()), self.below(CUPS.len() - 1));
        let other = other + usize::from(other >= one);
        [one.min(other), one.max(other)]
    }

    fn item(mut self, [least, most]: [usize; 2]) -> Item {
        let start = self.below(CUPS.len());
        let swaps: Vec<Swap> = (0..least + self.below(most - least + 1)).map(|_| self.swap()).collect();
        let right = *follow(start, &swaps).last().expect("there is a swap");
        let near = self.rng.uniform(self.at + 1) < NEAR;
        self.at += 1;
        let wrong = if near { self.near_miss(start, &swaps, right) } else { ELSEWHERE[self.below(ELSEWHERE.len())] };
        let (right, better) = (CUPS[right], if self.below(2) == 0 { Side::A } else { Side::B });
        let (a, b) = if better == Side::A { (right, wrong) } else { (wrong, right) };
        let name = |[i, j]: &Swap| format!("{}{}", CUPS[*i], CUPS[*j]);
        let names: Vec<String> = swaps.iter().map(name).collect();
        let after = follow(start, &swaps);
        let steps: Vec<String> = names.iter().zip(after).map(|(swap, cup)| format!("{swap} {}", CUPS[cup])).collect();
        Item { prompt: format!("ball {} {}", CUPS[start], names.join(" ")), a, b, better, steps: steps.join(" ") }
    }

    /// Where the ball would be if one swap were another one, and that is not where it is.
    fn near_miss(&mut self, start: usize, swaps: &[Swap], right: usize) -> char {
        loop {
            let mut other = swaps.to_vec();
            let which = self.below(swaps.len());
            other[which] = self.swap();
            let last = *follow(start, &other).last().expect("there is a swap");
            if last != right {
                return CUPS[last];
            }
        }
    }
}

/// Where the ball is after each swap.
fn follow(start: usize, swaps: &[Swap]) -> Vec<usize> {
    let step = |ball: &mut usize, swap: &Swap| {
        if let Some(at) = swap.iter().position(|cup| cup == ball) {
            *ball = swap[1 - at];
        }
        Some(*ball)
    };
    swaps.iter().scan(start, step).collect()
}

impl Item {
    /// Which answer is right, in words.
    pub fn comparison(&self) -> String {
        let says = |side: Side| if side == self.better { "yes" } else { "no" };
        format!("A {} {} B {} {}", self.a, says(Side::A), self.b, says(Side::B))
    }

    /// The pair as a row with its label.
    pub fn row(&self) -> Value {
        let (a, b) = (self.a.to_string(), self.b.to_string());
        json!({"prompt": self.prompt, "response_a": a, "response_b": b, "label": NAMES[self.better as usize]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The cups of a table in their places, moved by hand: another way to follow the ball.
    fn lies_under(prompt: &str) -> char {
        let mut words = prompt.split(' ').skip(1);
        let start = words.next().unwrap().chars().next().unwrap();
        // What lies under a, b, c, d, e.
        let mut table: Vec<bool> = CUPS.iter().map(|cup| *cup == start).collect();
        for swap in words {
            let places: Vec<usize> = swap.chars().map(|c| CUPS.iter().position(|cup| *cup == c).unwrap()).collect();
            assert_ne!(places[0], places[1], "{prompt}");
            table.swap(places[0], places[1]);
        }
        CUPS[table.iter().position(|ball| *ball).unwrap()]
    }

    #[test]
    fn the_right_answer_is_where_the_ball_lies() {
        let world = World::new(3, [2, 6]);
        let (mut near, mut first, mut lengths) = (0, 0, BTreeSet::new());
        for item in world.items(Set::Unlabelled, 2000) {
            let (right, wrong) = if item.better == Side::A { (item.a, item.b) } else { (item.b, item.a) };
            assert_eq!(right, lies_under(&item.prompt), "{item:?}");
            assert_ne!(right, wrong);
            // Every step is the ball's place after the swaps so far.
            let words: Vec<&str> = item.steps.split(' ').collect();
            let start = &item.prompt[..6];
            for n in (0..words.len()).step_by(2) {
                let so_far: Vec<&str> = words[..=n].iter().step_by(2).copied().collect();
                assert_eq!(lies_under(&format!("{start} {}", so_far.join(" "))).to_string(), words[n + 1], "{item:?}");
            }
            near += usize::from(CUPS.contains(&wrong));
            first += usize::from(item.better == Side::A);
            lengths.insert(words.len() / 2);
        }
        assert!((1300..1500).contains(&near) && (900..1100).contains(&first), "{near} near misses, {first} are A");
        assert_eq!(lengths, (2..=6).collect());
    }

    #[test]
    fn no_question_is_in_two_sets() {
        let world = World::new(5, [2, 4]);
        let questions = |set| world.items(set, 800).into_iter().map(|item| item.prompt).collect::<BTreeSet<String>>();
        let (validation, test) = (questions(Set::Validation), questions(Set::Test));
        assert!(validation.is_disjoint(&test));
        for set in [Set::Reasoned, Set::Labelled, Set::Unlabelled] {
            let learned = questions(set);
            assert!(learned.is_disjoint(&validation) && learned.is_disjoint(&test), "{set:?}");
        }
    }

    #[test]
    fn sets_are_prefixes_of_larger_ones_and_seeds_are_worlds() {
        let world = World::new(1, [2, 6]);
        assert_eq!(world.items(Set::Test, 10), world.items(Set::Test, 30)[..10]);
        assert_ne!(world.items(Set::Test, 10), World::new(2, [2, 6]).items(Set::Test, 10));
        assert_ne!(world.items(Set::Labelled, 10), world.items(Set::Reasoned, 10));
    }
}
